"""The model of all schedules: what curves of rates end with, and what to do about it."""
