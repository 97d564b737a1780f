"""The command line: commands, progress, events, and what a result looks like in a terminal."""
