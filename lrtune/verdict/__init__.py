"""The verdict: pure statistics over trials and final trainings."""
