"""The search and the finals as they stand: rows of a table, made from a Board or a Tally."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from math import isfinite, nan
from statistics import fmean
from typing import Any

from lrtune.schedule import Schedule
from lrtune.search import Board, Record
from lrtune.search.training import ActiveTrial
from lrtune.tally import Contender, Tally

SHOWN = 3  # trials under way that a row names


@dataclass(frozen=True, slots=True)
class Row:
    """A family in the search, or in the finals.

    Attributes:
        family: its name.
        value: its best, or its mean so far; NaN where there is none.
        gap: to the first, positive where it is worse; NaN where there is none.
        peak_lr: of what gave the value; NaN where there is none.
        count: trials or trainings that are over.
        now: what it is doing.
        out: whether it gets no more.
        more: figures for a wide terminal, by column.
    """

    family: str
    value: float
    gap: float
    peak_lr: float
    count: int
    now: str = ""
    out: bool = False
    more: dict[str, str] = field(default_factory=dict)


def families(board: Board, objective: str) -> list[Row]:
    """The families that were tried: the best first, then those without a value."""
    under_way: dict[str, list[ActiveTrial]] = {family: [] for family in board.by_family}
    for trial in board.running.values():
        under_way.setdefault(trial.schedule.family, []).append(trial)
    best = board.best
    rows = []
    for family, trials in under_way.items():
        own, ended = board.bests.get(family), board.by_family.get(family, Counter[str]())
        now = _progress(trials)
        more = {name: str(ended[name] or "–") for name in ("plateaued", "pruned", "diverged")}
        count = sum(ended.values())
        if own is None or best is None:
            rows.append(Row(family, nan, nan, nan, count, now, more=more))
            continue
        assert own.value is not None
        more |= _others(own, objective) | {"settings": settings(own.schedule)}
        gap = board.loss_of(own) - board.loss_of(best)
        peak = own.schedule.peak_lr
        rows.append(Row(family, own.value, gap, peak, count, now, more=more))
    first = best and best.schedule.family
    return sorted(rows, key=lambda r: (r.family != first, not isfinite(r.gap), r.gap))


def finals(tally: Tally, minimize: bool) -> list[Row]:
    """The configurations, the best mean first, on seeds that all who go on have been trained on."""
    going = [one.scores.keys() for one in tally.contenders if one.wanted and one.scores]
    seeds = set(going[0]).intersection(*going[1:]) if going else set()
    rank = partial(_rank, seeds=seeds, minimize=minimize)
    contenders = sorted(tally.contenders, key=rank)
    rows = []
    for one in contenders:
        lost = sum(not isfinite(score) for score in one.scores.values())
        rows.append(
            Row(
                one.schedule.family,
                _mean(one, seeds),
                _behind(one, contenders[0], seeds, minimize),
                one.schedule.peak_lr,
                len(one.scores),
                f"{lost} lost" if lost else "" if one.wanted else "no more seeds",
                out=bool(lost) or not one.wanted,
                more={"settings": settings(one.schedule)},
            )
        )
    return rows


def settings(schedule: Schedule) -> str:
    """Warmup and knobs, shortly."""
    shown: dict[str, Any] = {"warmup": schedule.warmup, **schedule.knobs}
    return ", ".join(f"{name} {_short(value)}" for name, value in shown.items())


def _short(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "/".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _progress(trials: list[ActiveTrial]) -> str:
    """How far its trials under way are, the furthest first."""
    shares = sorted((trial.updates / len(trial.rates) for trial in trials), reverse=True)
    shown = [f"{share:.0%}" for share in shares[:SHOWN]]
    return ", ".join([*shown, f"+{len(shares) - SHOWN}"] if len(shares) > SHOWN else shown)


def _others(record: Record, objective: str) -> dict[str, str]:
    assert record.judged_at is not None
    seen = record.curves.at(record.judged_at)
    return {name: f"{value:.3g}" for name, value in seen.items() if name != objective}


def _mean(one: Contender, seeds: Set[int]) -> float:
    """Of its scores on these seeds; NaN where it has none of them."""
    own = one.scores
    scores = [own[seed] for seed in seeds if isfinite(own.get(seed, nan))]
    return fmean(scores) if scores else nan


def _rank(one: Contender, seeds: Set[int], minimize: bool) -> tuple[bool, bool, float]:
    mean = _mean(one, seeds)
    lost = any(not isfinite(score) for score in one.scores.values())
    return not isfinite(mean), lost, (mean if minimize else -mean)


def _behind(one: Contender, first: Contender, seeds: Set[int], minimize: bool) -> float:
    """On the seeds that both were trained on."""
    both = {s for s in seeds if isfinite(one.scores.get(s, nan) + first.scores.get(s, nan))}
    gap = _mean(one, both) - _mean(first, both)
    return gap if minimize else -gap
