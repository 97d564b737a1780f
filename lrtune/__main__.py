"""``python -m lrtune``: the command line."""

from lrtune.cli.commands import main

main()
