"""A run: its folder, its study file, the search and the confirmation in one call."""
