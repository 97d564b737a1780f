"""The families and their knobs, as tables."""

from rich.table import Table

from lrtune.cli.console import console_of, say
from lrtune.schedule import FAMILIES, Family, Knob


def print_families() -> None:
    """The table of families."""
    table = Table()
    for name in ("family", "shape", "knobs", "source"):
        table.add_column(name, overflow="fold", no_wrap=name == "family")
    for family in FAMILIES.values():
        knobs = ", ".join(knob.name for knob in family.knobs)
        table.add_row(family.name, family.doc, knobs, family.source)
    console_of().print(table)


def print_family(family: Family) -> None:
    """One family with its knobs and their ranges."""
    console = console_of()
    say(console, f"{family.name}: {family.doc}")
    loop = "closed loop: follows the validation metric" if family.closed_loop else "open loop"
    warmup = "takes a warmup" if family.takes_warmup else "takes no warmup"
    say(console, f"torch: {family.torch}   source: {family.source}   {loop}, {warmup}")
    shown = (*family.knobs, *family.optional)
    if shown:
        table = Table()
        for name in ("knob", "default", "searched", "admissible", "what"):
            table.add_column(name, overflow="fold", no_wrap=name == "knob")
        for knob in shown:
            default = "-" if knob.default is None else str(knob.default)
            table.add_row(knob.name, default, *_ranges(knob), knob.doc)
        console.print(table)
    if family.optional:
        together = " and ".join(knob.name for knob in family.optional)
        say(console, f"{together}: together or not at all; searched with --cycle-momentum")


def _ranges(knob: Knob) -> tuple[str, str]:
    if knob.scale == "choice":
        return ", ".join(knob.choices), ", ".join(knob.choices)
    if knob.scale in ("schedules", "function"):
        return "-", "-"
    many = f", {knob.length} numbers" if knob.length > 1 else ""
    low, high = knob.valid
    return f"{knob.low:g} to {knob.high:g}, {knob.scale}{many}", f"{low:g} to {high:g}"
