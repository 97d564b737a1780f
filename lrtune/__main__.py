"""``python -m lrtune``: the command line."""

from lrtune.cli import main

main()
