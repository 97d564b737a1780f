"""The search: Optuna asks, a Pool trains, Optuna is told."""

from lrtune.search.board import Board, Budget
from lrtune.search.record import Record
from lrtune.search.sampler import FamilySampler
from lrtune.search.search import Search
from lrtune.search.space import SEARCHABLE, Space, suggest
from lrtune.search.store import frame, load_study, open_study, records

__all__ = [
    "SEARCHABLE",
    "Board",
    "Budget",
    "FamilySampler",
    "Record",
    "Search",
    "Space",
    "frame",
    "load_study",
    "open_study",
    "records",
    "suggest",
]
