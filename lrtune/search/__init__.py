"""The search: Optuna asks, a Pool trains, Optuna is told."""

from lrtune.search.budget import Budget, Clock, Limits
from lrtune.search.early_stopping import PRUNERS, SchedulePruner, Stopping, report
from lrtune.search.loop import Loop
from lrtune.search.sampler import SurrogateSampler
from lrtune.search.search import Search, SearchState
from lrtune.search.space import SEARCHABLE, Space, suggest
from lrtune.search.storage import Record, frame, records
from lrtune.search.study import load_study, open_study

__all__ = [
    "PRUNERS",
    "SEARCHABLE",
    "Budget",
    "Clock",
    "Limits",
    "Loop",
    "Record",
    "SchedulePruner",
    "Search",
    "SearchState",
    "Space",
    "Stopping",
    "SurrogateSampler",
    "frame",
    "load_study",
    "open_study",
    "records",
    "report",
    "suggest",
]
