"""Logs are made once a session, when a test first asks for one."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

Make = Callable[[Path], Path]


@pytest.fixture(scope="session")
def log_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Make], Path]:
    made: dict[Make, Path] = {}

    def of(make: Make) -> Path:
        if make not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the frameworks, about what is done on purpose
                made[make] = make(tmp_path_factory.mktemp("log"))
        return made[make]

    return of
