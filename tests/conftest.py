import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # hostile.py, for all
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small models, and tests side by side

# A job in a shell's background ignores Ctrl-C, one under nohup SIGHUP; its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("lrtune", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("lrtune")


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


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run on digits: eight trials of two families. Read it, never write in it."""
    import optuna

    import lrtune

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = tmp_path_factory.mktemp("run") / "digits"
    task = lrtune.load_task("digits", batch_size=32, epochs=2)
    # One after the other: what is chosen depends on how busy the machine is, and so do digits.
    families = ["cosine", "constant"]
    lrtune.tune(
        task, budget=lrtune.Budget(trials=8), families=families, engine="serial", out=folder
    )
    yield folder
