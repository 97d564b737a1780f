"""Learning-rate schedules: what they are, their table, how they are written and read."""

from lrtune.schedule.families import FAMILIES
from lrtune.schedule.family import Family, Knob
from lrtune.schedule.reactive import Controller
from lrtune.schedule.schedule import Schedule, load, parse
from lrtune.schedule.setting import Setting
from lrtune.schedule.shapes import register

__all__ = [
    "FAMILIES",
    "Controller",
    "Family",
    "Knob",
    "Schedule",
    "Setting",
    "load",
    "parse",
    "register",
]
