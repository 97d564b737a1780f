"""What the commands print: the terminal while they work, their result, lines for a script."""
