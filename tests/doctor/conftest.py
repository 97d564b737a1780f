"""Logs are made once a session, when a test first asks for one."""

import warnings

import pytest


@pytest.fixture(scope="session")
def log_of(tmp_path_factory):
    paths = {}

    def of(run):
        if run not in paths:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the frameworks, about what is done on purpose
                paths[run] = run(tmp_path_factory.mktemp("log"))
        return paths[run]

    return of
