"""A session that stood still, whatever it was doing, while another one went on: by the command."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from lrtune.cli import commands
from lrtune.run import confirm, folder
from lrtune.run.folder import Run
from lrtune.search import search
from lrtune.search.claim import HEAD

SEARCH = "search digits --epochs 1 --batch-size 32 --families cosine,constant --peak-lr 0.01,0.3"
SEARCH += " --engine serial --quiet --seed 3 --budget 10"
SAME = ["number", "state", "value", "schedule", "updates"]

# Where it stands still: what is called then, and which time.
MOMENTS = {
    "a trial's end": (search, "save_record", 2),
    "a training of the confirmation": (confirm, "append_final", 2),
    "the report": (folder, "write", 1),
}


def stand_still(module: object, name: str, count: int) -> None:
    """Before the n-th call of a function."""
    call: Callable[..., object] = getattr(module, name)
    left = iter(range(count - 1, -10_000, -1))

    def counted(*arguments: object, **named: object) -> object:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        return call(*arguments, **named)

    setattr(module, name, counted)


def earlier(words: list[str], moment: str, said: Path) -> None:
    stand_still(*MOMENTS[moment])
    sys.argv = ["lrtune", *words]
    with said.open("w") as sys.stderr:
        commands.main()


def files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    process = multiprocessing.get_context("fork").Process(target=whole, args=[out])
    process.start()
    process.join()
    return Run(out)


def whole(out: Path) -> None:
    sys.argv = ["lrtune", *SEARCH.split(), "--out", str(out)]
    commands.main()


@pytest.mark.parametrize(
    ("moment", "database"),
    [*((moment, False) for moment in MOMENTS), ("a training of the confirmation", True)],
)
def test_the_later_session_has_the_run(
    lrtune, unbroken, tmp_path: Path, request: pytest.FixtureRequest, moment: str, database: bool
) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    words = [*SEARCH.split(), "--out", str(run)]
    if database:
        words += ["--storage", request.getfixturevalue("postgres")[0]]
    process = multiprocessing.get_context("fork").Process(
        target=earlier, args=[words, moment, said]
    )
    process.start()
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    (run / "lock").unlink()  # as on another machine, which does not see it
    assert lrtune(" ".join(words))[0] == 0
    before, study = files(run), repr(Run(run).study().trials)
    os.kill(process.pid, signal.SIGCONT)
    process.join()
    (sentence,) = said.read_text().splitlines()
    assert sentence.startswith("lrtune: storage ") and "has taken over: this one " in sentence
    assert process.exitcode == 1
    assert (files(run), repr(Run(run).study().trials)) == (before, study)
    assert Run(run).study().user_attrs[HEAD]["generation"] == 2
    for name in ("trials", "finals"):
        found, expected = getattr(Run(run), name)(), getattr(unbroken, name)()
        same = SAME if name == "trials" else ["schedule", "seed", "final_cross_entropy"]
        pd.testing.assert_frame_equal(
            found[same].sort_values(same, ignore_index=True),
            expected[same].sort_values(same, ignore_index=True),
        )
    assert Run(run).best() == unbroken.best()
