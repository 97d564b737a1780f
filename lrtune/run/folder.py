"""A run: a folder that holds a search and what it found, and its lock."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
import pandas as pd
import plotly.graph_objects as go
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from lrtune.engine import Choice
from lrtune.errors import InputError, described
from lrtune.files import remove_left, replace, shown
from lrtune.model.surrogate import PeakGuess
from lrtune.model.transfer import Transfer, published, read
from lrtune.reports.figures import of_run
from lrtune.reports.page import Verdict, summary, write
from lrtune.run.run_json import read_settings
from lrtune.schedule import Schedule, Setting
from lrtune.search import Space, frame, load_study, records
from lrtune.search.confirmation import final_seeds, read_finals
from lrtune.search.journal import mend, unlock
from lrtune.search.loop import Interrupts
from lrtune.search.sampler import Tuner, guess_in
from lrtune.search.study_model import beliefs
from lrtune.verdict.best import BestSchedule
from lrtune.verdict.settings import RunSettings
from lrtune.verdict.summary import ALWAYS, BASELINES, Finalist, finalists, simplest_first
from lrtune.verdict.tie_break import NEAR
from lrtune.verdict.verdict import Plan, verdict

VERDICT, FINALS = "verdict.json", "finals.jsonl"
CHECKPOINT = "checkpoint.safetensors"  # while trainings are under way
TRANSFER = "transfer.safetensors"  # where it is not what comes with lrtune
LEAST_FREE = 64 << 20  # bytes on the disk


class Run:
    """A folder with ``run.json``, the journal, and the results; ``lrtune.open`` gives one.

    Every method reads what is there now, so a run may be looked at while it is searched.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()  # the task's code may change the working folder
        check_readable(self.folder)
        self.settings = read_settings(self.folder / "run.json")

    def __repr__(self) -> str:
        return f"lrtune.open({shown(self.folder)!r})"

    def _repr_html_(self) -> str:
        return summary(self.trials(), self.public_settings, self.verdict())

    @property
    def public_settings(self) -> RunSettings:
        """The settings as results tell them: with the folder."""
        return self.settings.model_copy(update={"folder": shown(self.folder)})

    @property
    def journal(self) -> Path:
        """Optuna's journal; optuna-dashboard opens it."""
        return self.folder / "journal.log"

    @property
    def storage(self) -> str | Path:
        """Where the study is kept: the journal, or the URL that was given."""
        return self.settings.storage or self.journal

    @property
    def choice(self) -> Choice:
        """The pool that trained it."""
        facts = self.settings.engine.to_json()
        return Choice(**facts | {"devices": tuple(facts["devices"])})

    @property
    def space(self) -> Space:
        """What was searched."""
        searched = self.settings
        families, momentum = tuple(searched.families), searched.cycle_momentum
        tune = tuple(Setting(name, **dict(facts)) for name, facts in searched.tune.items())
        return Space(families, searched.peak_lr, searched.warmup, momentum, tune)

    @property
    def peak_guess(self) -> PeakGuess:
        """Where a good peak rate should be: as the range test says, or as the user does."""
        test = self.settings.range_test
        return (
            guess_in(self.space) if test is None else guess_in(self.space, test.peak_lr, test.doubt)
        )

    @property
    def transfer(self) -> Transfer:
        """What other tasks taught the search."""
        path = self.folder / TRANSFER
        return read(path.read_bytes()) if path.exists() else published()

    def study(self) -> optuna.Study:
        """The Optuna study, to read."""
        return load_study(self.storage, self.settings.study)

    def trials(self) -> pd.DataFrame:
        """One row a trial that is over, in the order in which they started."""
        return self._table(self.study())

    def _table(self, study: optuna.Study) -> pd.DataFrame:
        try:
            known = beliefs(study, self.settings.horizon, self.peak_guess, self.transfer)
            return frame(records(study), known)
        except InputError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError) as error:  # of another kind
            raise InputError(
                f"{self.folder}: its study is damaged ({described(error)}): bring the storage back "
                "from a copy"
            ) from error

    def cut_short(self) -> int:
        """Trials that were under way when the process that trained them died."""
        with locked_if_free(self.folder) as alone:
            running = self.study().get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            return len(running) if alone else 0

    def finals(self) -> pd.DataFrame:
        """One row a final that is over, see ``lrtune.search.confirmation.read_finals``."""
        return read_finals(self.folder / FINALS)

    def verdict(self, total: int | None = None) -> Verdict | None:
        """The verdict on a horizon, the search's own where None; None before there is one."""
        path = self.verdict_path(self.settings.horizon if total is None else total)
        return Verdict.read(path) if path.exists() else None

    def verdict_path(self, horizon: int) -> Path:
        """Where the verdict on a horizon is, or will be."""
        searched = horizon == self.settings.horizon
        return self.folder / (VERDICT if searched else f"verdict-{horizon}.json")

    @property
    def horizons(self) -> list[int]:
        """The horizons on which there is a verdict."""
        names = [path.stem.rpartition("-")[2] for path in self.folder.glob("verdict-*.json")]
        others = [int(name) for name in names if name.isdecimal()]
        searched = [self.settings.horizon] if (self.folder / VERDICT).exists() else []
        return sorted(searched + others)

    def finalists(self) -> list[Finalist]:
        """Who may be confirmed as the search stands, in the order in which it matters.

        What the search recommends, the user's own, tuned baselines, and who else may be the best.
        """
        leaders = finalists(self.trials(), self.settings.objective)
        if not leaders:
            return []
        settings = self.settings
        tuner = Tuner(self.study(), self.space, settings.horizon, self.peak_guess, self.transfer)
        everyone = [one.trained_as(tuner.plain(one.schedule, NEAR)) for one in leaders]
        known = {finalist.family: finalist.compared_as for finalist in everyone}
        everyone += [
            # What is tuned with a schedule is no part of a baseline.
            Finalist(
                family=f"plain {name}" if name in known else name,
                schedule=tuner.tuned(name),
                role="baseline",
            )
            for name in BASELINES
            if name in self.space.families and known.get(name) != "baseline"
        ]
        pick, *others = simplest_first(everyone, tuner.expected([o.schedule for o in everyone]))
        yours = [
            Finalist(
                family="yours" if number == 1 else f"yours {number}",
                schedule=schedule,
                role="yours",
            )
            for number, schedule in enumerate(self.settings.baselines, 1)
        ]
        first = [
            one for one in others if one.compared_as == "baseline" and one.schedule.family in ALWAYS
        ]
        return [pick, *yours, *first, *(one for one in others if one not in first)]

    def judged(self, plan: Plan, horizon: int, who: list[Finalist], over: bool = False) -> Verdict:
        """The verdict on the trainings that there are; ``over``: whether no more are to come."""
        finals = self.finals()
        seeds = final_seeds(self.settings.seed, plan.trainings or 0)
        of_horizon = finals[finals["horizon"] == horizon]
        judged = verdict(self.trials(), of_horizon, who, self.settings, seeds, plan, over)
        before, earlier = self.verdict(horizon), set[int]()
        if before is not None:  # each number of trainings judged by had 5 % to err
            earlier.update(before.earlier)
            if before.decided and before.plan.trainings is not None:
                earlier.add(before.plan.trainings)
        return Verdict(**{**dict(judged), "earlier": sorted(earlier - {plan.trainings})})

    def figures(self, total: int | None = None) -> dict[str, go.Figure]:
        """The figures of the report by their names; of another horizon's finals with total."""
        return of_run(self.trials(), self.settings, self.verdict(total), self.finals())

    def best(self) -> Schedule | None:
        """The verdict's winner, or before one the schedule of the best trial, if there is any."""
        best = BestSchedule.of(self.trials(), self.settings, self.verdict())
        return None if best is None else best.schedule

    def write(self) -> None:
        """Write ``trials.parquet``, ``best.json`` and ``report.html``, each whole or not at all.

        Raises:
            InputError: the study has fewer trials than were written before.
            KeyboardInterrupt: after Ctrl-C, once all is written: inside of a destructor, of which
                there are many here, Python would lose it.
        """
        with Interrupts():
            self._write()

    def _write(self) -> None:
        from lrtune.reports.dashboard import publish

        study = self.study()
        trials, verdict, finals = self._table(study), self.verdict(), self.finals()
        table = self.folder / "trials.parquet"
        if len(trials) < (before := _rows(table)):
            raise InputError(
                f"{table}: has {before} trials, and the study has {len(trials)}: nothing was "
                "written: bring the study's storage back, or remove the table"
            )
        # Bytes, because pyarrow wants names in UTF-8.
        replace(table, trials.to_parquet(index=False))
        best = BestSchedule.of(trials, self.settings, verdict)
        if best is not None:
            best.write(self.folder / "best.json")
        settings = self.public_settings
        report = write(self.folder / "report.html", trials, settings, verdict, finals)
        publish(study, trials, settings, verdict, report)

    def write_verdict(self, verdict: Verdict) -> None:
        """Keep a verdict, and what follows from it."""
        verdict.write(self.verdict_path(verdict.horizon))
        self.write()

    def write_tensorboard(self) -> Path | None:
        """Write ``tensorboard/`` anew, see ``lrtune.run.tensorboard.write``."""
        from lrtune.run import tensorboard

        folder = self.folder / "tensorboard"
        trials, verdict, finals = self.trials(), self.verdict(), self.finals()
        return tensorboard.write(folder, trials, self.settings, verdict, finals)


def _rows(table: Path) -> int:
    """Of a table; none of one that is not there, or is damaged, which may be made anew."""
    try:
        return len(pd.read_parquet(table, columns=["number"]))
    except (OSError, ValueError):
        return 0


def check_readable(folder: Path) -> None:
    """Refuse a folder with a pipe or a device in it: reading one may never end."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{path}: a pipe or a device, not a file: remove it")


@contextmanager
def locked(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """The folder, made if need be and ours until the end; the lock goes with the process."""
    if folder.resolve() == Path(folder.resolve().anchor):
        raise InputError(f"out={str(folder)!r}: name a folder for the run alone")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{shown(folder)}: another lrtune is at work here; wait for it") from error
    except (OSError, ValueError) as error:
        why = "it is a file" if folder.is_file() else getattr(error, "strerror", error)
        raise InputError(f"out={str(folder)!r}: cannot be a run's folder: {why}") from error
    try:
        if shutil.disk_usage(folder).free < LEAST_FREE:
            raise InputError(f"{folder}: less than {LEAST_FREE >> 20} MiB free on its disk")
        check_readable(folder)
        remove_left(folder)
        if (warning := mend(folder / "journal.log")) is not None:
            tell(warning)
        yield
    finally:
        lock.release()


@contextmanager
def locked_if_free(folder: Path) -> Iterator[bool]:
    """The run's folder, which is looked at, and ours until the end where no other lrtune is there.

    Nothing is mended; but what a killed one has locked would hold up whoever writes a note.
    Gives whether it is ours.
    """
    lock = FileLock(folder / "lock", timeout=0)
    with suppress(OSError):  # a Timeout is one too
        lock.acquire()
    try:
        if lock.is_locked:
            unlock(folder / "journal.log")
        yield lock.is_locked
    finally:
        lock.release()


def open(folder: str | Path) -> Run:
    """Open the folder of a search, to look at what it found.

    Example: in a notebook, where the run, the verdict and the figures show themselves::

        import lrtune

        run = lrtune.open("runs/digits-mlp-sgd-862")
        run.verdict().lines[0]  # what to use
        run.best().rates(1000)  # the winner, over as many updates as you like
        trials = run.trials()  # a DataFrame, one row a trial
        trials.groupby("family")["value"].min()
        run.figures()["curves"]  # and rates, against_peak, ...: a dictionary of them

    Args:
        folder: what ``lrtune search`` or ``lrtune.tune`` wrote.

    Raises:
        InputError: it is not a run, or a newer lrtune made it.
    """
    return Run(folder)
