"""Fixtures for all, and the device of the run.

Tests run on the CPU, and see no GPU. ``LRTUNE_TEST_DEVICE=cuda pytest -m gpu tests`` runs those of
the engine on one, fused, compiled, streamed and spread, and what is marked ``gpu`` elsewhere.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # hostile.py, for all
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "bench"))  # postgres.py
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small models, and tests side by side
os.environ["JAX_PLATFORMS"] = "cpu"  # it would take three quarters of a GPU's memory
ON_GPU = os.environ.get("LRTUNE_TEST_DEVICE", "cpu") == "cuda"
if ON_GPU:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the same sums each time
else:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else trainings that name no device were on a GPU

# A job in a shell's background ignores Ctrl-C, one under nohup SIGHUP; its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("lrtune", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("lrtune")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a GPU the engine's tests are GPU tests, but for those marked ``cpu``."""
    engine = Path(__file__).parent / "engine"
    for item in items:
        if ON_GPU and engine in item.path.parents and item.get_closest_marker("cpu") is None:
            item.add_marker("gpu")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not ON_GPU:
            pytest.skip("on the CPU: LRTUNE_TEST_DEVICE=cuda runs it")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture
def lrtune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command, words with spaces between and words as they are: (code, stdout, stderr)."""
    from lrtune.cli import commands as cli

    def command(line: str = "", *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lrtune", *line.split(), *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            sys.exit(0)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return command


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """A folder that one of the workers of a test run makes; the others wait for it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / name / "run", root / name / "done"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on digits: eight trials of two families. Read it, never write in it."""
    import lrtune

    def make(folder: Path) -> None:
        task = lrtune.load_task("digits", batch_size=32, epochs=2)
        # One after the other: what is chosen depends on how busy the machine is, and so do digits.
        families, budget = ["cosine", "constant"], lrtune.Budget(trials=8)
        lrtune.tune(task, budget=budget, families=families, engine="serial", out=folder)

    return made_once(tmp_path_factory, "searched", make)


@pytest.fixture(scope="session")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command with its verdict, of 14 short trainings. Read it, never write in it."""
    import lrtune

    def make(folder: Path) -> None:
        options = {"families": ["cosine", "constant"], "engine": "serial"}
        lrtune.tune("digits", batch_size=32, epochs=1, budget=14, out=folder, **options)

    return made_once(tmp_path_factory, "answered", make)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """A server of our own: its URL, and the command that controls it."""
    pytest.importorskip("psycopg2")
    from postgres import BIN, server

    if not BIN.exists():
        pytest.skip("no PostgreSQL 15")
    with server(tmp_path_factory.mktemp("postgres") / "server") as served:
        yield served


@pytest.fixture
def postgres(postgres_server: tuple[str, list[str]]) -> tuple[str, list[str]]:
    """A database of its own on that server."""
    import psycopg2

    url, control = postgres_server
    with closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        name = f"a{os.urandom(8).hex()}"
        connection.cursor().execute(f"CREATE DATABASE {name}")
    return url.removesuffix("postgres") + name, control
