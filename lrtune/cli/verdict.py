"""``lrtune verdict``: what is known, of the horizon searched or of another."""

import shlex
from dataclasses import replace
from pathlib import Path

from lrtune.cli.console import console_of, copyable, say
from lrtune.cli.result import lead, print_verdict
from lrtune.errors import InputError
from lrtune.run.folder import Run
from lrtune.run.judge import judged
from lrtune.run.study_file import parse_goal
from lrtune.verdict.horizons import agreement, outlook
from lrtune.verdict.recommendation import described


def show_verdict(
    folder: Path, total: int | None, margin: float | None = None, goal: str | None = None
) -> None:
    """Print the verdict, judged anew if asked for; or what is expected of another horizon."""
    console, run = console_of(), Run(folder)
    horizon = run.settings["horizon"] if total is None else total
    told = {h: v for h in run.horizons if (v := run.verdict(h)) is not None}
    found = told.pop(horizon, None)
    others = [v for v in told.values() if v.decided]
    where = shlex.quote(str(folder))
    if found is None and not others:
        raise InputError(f"{folder}: has no verdict yet: lrtune confirm {where}")
    if found is None:
        say(console, outlook(others, horizon))
        copyable(console, f"to find out: lrtune confirm {where} --total {horizon}")
        best = run.best()
        assert best is not None
        say(console, f"the {lead(run.verdict(), run.trials())} so far, stretched to it:")
        say(console, f"  {described(best, horizon)}")
        return
    plan = found.plan
    if margin is not None:
        plan = replace(plan, margin=margin)
    if goal is not None:
        plan = replace(plan, target=parse_goal(goal, run.settings["objective"]["name"]))
    if plan != found.plan:
        found = judged(run, plan, horizon, found.finalists, over=True)
    print_verdict(found, console, len(run.trials()))
    if found.decided:
        for other in others:
            say(console, agreement(found, other))
