"""The search: Optuna asks, a Pool trains, Optuna is told."""

from lrtune.search.board import Board
from lrtune.search.budget import Budget, Clock
from lrtune.search.loop import Loop
from lrtune.search.pruner import PRUNERS, SchedulePruner, make_pruner, report
from lrtune.search.record import Record
from lrtune.search.referee import Rules
from lrtune.search.sampler import SurrogateSampler
from lrtune.search.search import Search
from lrtune.search.space import SEARCHABLE, Space, suggest
from lrtune.search.store import frame, load_study, open_study, records

__all__ = [
    "PRUNERS",
    "SEARCHABLE",
    "Board",
    "Budget",
    "Clock",
    "Loop",
    "Record",
    "Rules",
    "SchedulePruner",
    "Search",
    "Space",
    "SurrogateSampler",
    "frame",
    "load_study",
    "make_pruner",
    "open_study",
    "records",
    "report",
    "suggest",
]
