"""The schedules and validation metrics of the exports' tests."""

from tests.export.conftest import metrics, pytest_generate_tests

__all__ = ["metrics", "pytest_generate_tests"]
