"""How long does SchedulePruner take to decide, with a thousand finished trials in a journal?

    python scripts/bench/decision.py

Milliseconds of ``should_prune`` at each of a trial's validations, Optuna's reading included, and of
Optuna's median pruner on the same study. A process's first trial, for which all is read, is apart.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import optuna
from optuna.pruners import BasePruner, MedianPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

import lrtune
from lrtune.search.space import SCHEDULE
from lrtune.search.storage import AVERAGED

TOTAL, REPORTS = 3000, 30
FAMILIES = ("constant", "cosine", "linear", "wsd", "one_cycle", "exponential")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.log"
        fill(path, args.trials)
        for pruner in lrtune.SchedulePruner(TOTAL), MedianPruner():
            first, second = decide(path, pruner)
            said = f"median {median(second):.2f} ms, longest {max(second):.2f}"
            print(
                f"{type(pruner).__name__}: {said}; a process's first trial: {sum(first):.0f} in all"
            )


def opened(path: Path, pruner: BasePruner) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(
        storage=storage, study_name="decision", pruner=pruner, load_if_exists=True
    )


def schedule(number: int) -> lrtune.Schedule:
    return lrtune.Schedule(FAMILIES[number % len(FAMILIES)], peak_lr=0.1 * (1 + number % 97) / 97)


def fill(path: Path, trials: int) -> None:
    """Whole trials, each a little different."""
    study = opened(path, MedianPruner())
    for number in range(trials):
        level = 1 + (number * 37 % 101) / 100
        values = {
            TOTAL * n // REPORTS: level * (1 + 2 / n) + number % 7 / 100
            for n in range(1, REPORTS + 1)
        }
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=values[TOTAL],
                intermediate_values=values,
                user_attrs={SCHEDULE: schedule(number).to_json(), AVERAGED: True},
            )
        )


def decide(path: Path, pruner: BasePruner) -> list[list[float]]:
    """Milliseconds of each decision for one trial, and then for another."""
    study = opened(path, pruner)
    found = []
    for number in range(2):
        trial, own = study.ask(), []
        trial.set_user_attr(SCHEDULE, schedule(number).to_json())
        trial.set_user_attr(AVERAGED, True)
        for n in range(1, REPORTS):
            trial.report(1.5, TOTAL * n // REPORTS)
            began = time.perf_counter()
            trial.should_prune()
            own.append(1000 * (time.perf_counter() - began))
        study.tell(trial, 9.0)
        found.append(own)
    return found


if __name__ == "__main__":
    main()
