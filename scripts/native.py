"""Rewrite the table in the export guide of how each family is written for each framework.

    python scripts/native.py

The cells come from the exporters themselves, for the schedules that the golden test runs
(tests/export): what is native there is compared with the framework, update by update.
"""

import runpy
from collections.abc import Callable, Iterable
from pathlib import Path

from lrtune.export import huggingface, optax, timm, torch
from lrtune.export import source as formula
from lrtune.export.source import ExportContext
from lrtune.schedule import FAMILIES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "lrtune" / "guides" / "export.md"
SCHEDULES = runpy.run_path(str(ROOT / "tests" / "export" / "conftest.py"))["SCHEDULES"]
MARKS = "<!-- native: scripts/native.py -->", "<!-- end -->"
TOTAL = 40


def main() -> None:
    PAGE.write_text(rewritten(PAGE.read_text()))


def rewritten(text: str) -> str:
    """The guide with the table between its marks."""
    before, first, rest = text.partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    assert first and last, f"{PAGE.name} has not the marks {MARKS}"
    return f"{before}{first}\n{table()}\n{last}{after}"


def table() -> str:
    lines = [f"| family | {' | '.join(TARGETS)} |", "|---" * (1 + len(TARGETS)) + "|"]
    for family in [name for name, row in FAMILIES.items() if not row.schedule_free]:
        contexts = [
            ExportContext(s, TOTAL) for s in SCHEDULES if s.family == family and not s.warmup
        ]
        cells = [cell(dict.fromkeys(way(ctx) for ctx in contexts)) for way in TARGETS.values()]
        lines.append(f"| `{family}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(ways: Iterable[str]) -> str:
    """The frameworks' own names first, then what there is where their rates would not be ours."""
    own = [way for way in ways if way.startswith("`")]
    rest = [way for way in ways if way not in own]
    return " else ".join(filter(None, [", ".join(own), ", ".join(rest)]))


def by_torch(ctx: ExportContext) -> str:
    row = FAMILIES[ctx.family]
    if row.torch == "LRScheduler":
        return "a class"
    if row.closed_loop or torch.native(ctx):
        return f"`{row.torch}`"
    return "formula" if ctx.family == "custom" or formula.plain(ctx) else "table"


def by_huggingface(ctx: ExportContext) -> str:
    own = huggingface.native(ctx)
    return f"`{own[0]}`" if own else "as torch"


def by_timm(ctx: ExportContext) -> str:
    if ctx.schedule.closed_loop:
        return "as torch"
    own = timm.native(ctx)
    return f"`{own[0]}`" if own else by_formula(ctx)


def by_keras(ctx: ExportContext) -> str:
    if ctx.schedule.closed_loop:
        return "a callback"
    return by_formula(ctx)


def by_optax(ctx: ExportContext) -> str:
    if ctx.schedule.closed_loop:
        return "`reduce_on_plateau`" if ctx.family == "plateau" else "–"
    pieces = optax.native(ctx)
    if pieces is None:
        return by_formula(ctx)
    (name, *more) = [piece.removeprefix("optax.").partition("(")[0] for piece in pieces[0]]
    return "`join_schedules`" if more else f"`{name}`"


def by_formula(ctx: ExportContext) -> str:
    return "formula" if ctx.family in formula.FORMULAS else "table"


TARGETS: dict[str, Callable[[ExportContext], str]] = {
    "torch, Lightning": by_torch,
    "Hugging Face": by_huggingface,
    "timm": by_timm,
    "Keras": by_keras,
    "optax": by_optax,
}

if __name__ == "__main__":
    main()
