"""``lrtune guess`` in the terminal."""

import shlex

from lrtune.cli.console import console_of, copyable, named, say
from lrtune.export import export
from lrtune.run.best_json import training_of
from lrtune.run.guess import cost, guess
from lrtune.run.study_file import StudyFile, load
from lrtune.schedule import load as load_schedule
from lrtune.search import SEARCHABLE
from lrtune.verdict.recommendation import described


def print_guess(study: StudyFile) -> None:
    """Guess, and print the schedule, how good such guesses are, and its torch code."""
    console, task = console_of(), load(study)
    say(console, f"{named(task.name)}: {named(task.model_name)}, {task.optimizer}")
    for note in task.notes:
        say(console, f"  {note}")
    path = guess(
        task,
        families=SEARCHABLE if study.families is None else study.families,
        peak_lr=study.peak_lr,
        warmup=study.warmup,
        seed=study.seed,
        out=study.out,
        device=study.device,
        tell=lambda line: say(console, line),
    )
    schedule, costs = load_schedule(path), cost()
    say(console, f"guess: {described(schedule, task.horizon)}")
    say(
        console,
        f"such guesses end within {costs['half']:g} % of the best of 160 schedules on half of "
        f"{costs['tasks']} recorded tasks, within {costs['nine_of_ten']:g} % on nine of ten",
    )
    print("\n" + training_of(path) + export(schedule, to="torch", total=task.horizon))
    copyable(console, f"wrote {shlex.quote(str(path))}; lrtune search tries it first")
