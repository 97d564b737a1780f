"""guess: the schedule to use before any search, from a range test and what other tasks teach."""

import json
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lrtune.errors import InputError
from lrtune.model.decide import recommend
from lrtune.model.surrogate import Observations, PeakGuess, Surrogate
from lrtune.model.transfer import published
from lrtune.run.best_json import SAME
from lrtune.run.devices import devices_of
from lrtune.run.identity import settings_for
from lrtune.run.lock import locked
from lrtune.run.run_json import FORMAT, write_json
from lrtune.run.tune import peak_settings
from lrtune.schedule import FAMILIES
from lrtune.search import SEARCHABLE, Space
from lrtune.search.sampler import Candidates, guess_in
from lrtune.search.space import SPLINE
from lrtune.tasks import Task


def guess(
    task: Task,
    *,
    families: Iterable[str] = SEARCHABLE,
    peak_lr: tuple[float, float] | None = None,
    warmup: tuple[float, float] = (0.0, 0.2),
    seed: int = 0,
    out: str | Path | None = None,
    device: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Guess the schedule that is best on a task; ``tune`` on the same folder tries it first.

    Args:
        task: what is to be trained.
        families: names of FAMILIES; closed loops and the spline are left out.
        peak_lr: lowest and highest peak rate; from a range test where None.
        warmup: shortest and longest warmup, fractions of the horizon.
        seed: of the schedules among which the best is taken.
        out: the folder; ``runs/<study>`` where None, as ``tune`` has it.
        device: as torch names it; CUDA where there is one, else the CPU, where None.
        tell: called with a line on what is being done.

    Returns:
        The ``best.json`` that was written.

    Raises:
        InputError: for any mistake in the above, or a search in the folder.
    """
    first, *_ = devices_of(device)
    settings = settings_for(task, families, warmup, False, seed, None, first)
    names = settings["families"]
    # The free form has shapes that hardly a recorded task has tried.
    named = tuple(name for name in names if not FAMILIES[name].closed_loop and name != SPLINE)
    if not named:
        raise InputError(
            f"families={','.join(names)}: the rates of a closed loop depend on the training, and "
            "a spline may have any shape: name another family too, cosine say"
        )
    if peak_lr is not None:
        Space(peak_lr=peak_lr)  # looks at it before anything is made
    folder = Path(out) if out is not None else Path("runs") / settings["study"]
    with locked(folder, tell):
        if (folder / "run.json").exists():
            raise InputError(
                f"{folder}: holds a search, which knows more than a guess: lrtune show {folder}, "
                "or give another --out"
            )
        peaks = peak_settings(task, peak_lr, tell, device=first)
        space = Space(named, tuple(peaks["peak_lr"]), warmup)
        test = peaks["range_test"]
        params = _lowest(space, seed, guess_in(space, test))
        schedule = space.schedule(params)
        kept = ("peak_lr", "doubt", "message")
        content = {
            "format": FORMAT,
            "schedule": schedule.to_dict(),
            "resolved": schedule.resolve(task.horizon),
            "found": None,
            "verdict": None,
            **{name: settings[name] for name in (*SAME, "unit", "epochs", "versions")},
            "guess": {
                "params": params,
                "range_test": test and {name: test[name] for name in kept},
                "transfer": published().fingerprint,
                "cost": cost(),
            },
        }
        write_json(folder / "best.json", content)
    return folder / "best.json"


def _lowest(space: Space, seed: int, peak: PeakGuess) -> dict[str, Any]:
    """The parameters of the schedule of which most is expected."""
    params, x = Candidates(space, seed).draw(0, [], None)
    known = Observations(x[:0], np.empty(0), np.empty(0))
    posterior = Surrogate(published(), peak).posterior(known)
    return params[recommend(posterior, x)]


def cost() -> dict[str, float]:
    """What such guesses cost on recorded tasks left out; ``scripts/bench/replay.py --guess``.

    Percent by which the final loss is above that of the best recorded schedule: at most ``half`` on
    half of the ``tasks``, ``nine_of_ten`` on nine of ten.
    """
    text = resources.files("lrtune.model").joinpath("guess.json").read_text(encoding="utf-8")
    found: dict[str, float] = json.loads(text)
    return found
