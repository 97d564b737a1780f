"""The answer: what to use, what it gains, how sure that is; the same wherever it is shown."""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lrtune.format import count, duration, measured, number, plural, setting
from lrtune.schedule import Schedule
from lrtune.verdict.settings import OptimizerFacts, RunSettings
from lrtune.verdict.summary import curve_of, recommended
from lrtune.verdict.verdict import Gain, Verdict
from lrtune.verdict.wording import amount_of, listed, metric_of, range_of, words

FEW_UPDATES = 50  # of a training: fewer is hardly one
FEW_SEEDS = 5  # of each finalist: fewer say little
OVERFIT = 0.05  # of what the validation metric moved by on the way: what it is worse by at the end
LATE = 0.8  # share of the run: a best validation after this is about the end


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Six lines and what to be warned of.

    Attributes:
        use: the schedule, for a person.
        gain: over the baselines, with intervals.
        sure: whether it is better than they are, and who is as good.
        valid: for which training.
        cost: of the answer.
        use_it: the command that writes it as code.
        warnings: sentences, the gravest first.
    """

    use: str
    gain: str
    sure: str
    valid: str
    cost: str
    use_it: str
    warnings: tuple[str, ...]

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Labels and texts, in their order; the first line has no label."""
        return [
            ("", f"Use {self.use}"),
            ("Gain", self.gain),
            ("Sure", self.sure),
            ("Valid", self.valid),
            ("Cost", self.cost),
            ("Use it", self.use_it),
        ]


def recommendation(
    trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None
) -> Recommendation | None:
    """The answer of a run; None where no trial came to anything.

    Args:
        trials: the search's table.
        run: what was searched.
        verdict: on the horizon searched, if there is one.
    """
    sure = verdict if verdict is not None and verdict.decided else None
    best = recommended(trials, run.objective.direction)
    if sure is None and best is None:
        return None
    yours = False
    if sure is not None:
        schedule, yours = sure.recommended.schedule, sure.recommended.role == "yours"
    else:
        assert best is not None
        schedule = Schedule.from_json(best["schedule"])
    return Recommendation(
        use=("your " if yours else "") + described(schedule, run.horizon),
        gain=_gain(run, best) if sure is None else _gains(sure),
        sure=_unsure(verdict) if sure is None else _sure(sure),
        valid=_valid(run, sure, schedule),
        cost=_cost(trials, run, sure),
        use_it=f"lrtune export {shlex.quote(run.folder)} --to torch",
        warnings=tuple(_warnings(trials, run, verdict)),
    )


def of_verdict(verdict: Verdict) -> list[str]:
    """What a verdict alone says: use, gain, sure."""
    if verdict.answer.place == "unfinished":
        return ["The finals are not finished: lrtune confirm goes on with them."]
    if not verdict.decided:
        lost = [row.family for row in verdict.families if row.place == "lost"]
        said = f"{listed(lost)} diverged or failed" if lost else "no family came to the finals"
        return [f"No winner: {said}."]
    row = verdict.recommended
    yours = "your " if row.role == "yours" else ""
    use = f"Use {yours}{described(row.schedule, verdict.horizon)}"
    return [use, f"Gain: {_gains(verdict)}", f"Sure: {_sure(verdict)}"]


def short(verdict: Verdict) -> dict[str, Any]:
    """What best.json carries of a verdict: how sure the schedule is."""
    row = verdict.recommended if verdict.decided else verdict.families[0]
    answer = verdict.answer.to_json()
    figures = row.to_json()
    return {
        "lines": of_verdict(verdict),
        **{name: answer[name] for name in ("place", "families", "why")},
        "split": verdict.split,
        **{name: figures[name] for name in ("mean", "low", "high", "seeds")},
    }


def described(schedule: Schedule, horizon: int) -> str:
    """A schedule on a line.

    Example:
        >>> described(Schedule("cosine", peak_lr=0.0048, warmup=0.11), 1200)
        'cosine: peak 0.0048, 132 of 1,200 updates of warmup, T_max 1, eta_min 0'
    """
    parts = [f"peak {number(schedule.peak_lr, 3)}"]
    if warmup := round(schedule.warmup * horizon):
        parts.append(f"{count(warmup)} of {count(horizon)} updates of warmup")
    knobs = schedule.to_dict()["knobs"]
    parts += [f"{name} {setting(value, 3)}" for name, value in knobs.items()]
    return f"{schedule.family}: {', '.join(parts)}"


def _gain(run: RunSettings, best: "pd.Series[Any] | None") -> str:
    """Before anything was confirmed."""
    assert best is not None
    objective = run.objective
    value = measured(best["value"], objective)
    if best["state"] != "complete":
        return f"not measured; forecast of validation {words(objective.name)}: {value}"
    return f"not measured; validation {words(objective.name)} {value}"


def _unsure(verdict: Verdict | None) -> str:
    """Without a decision."""
    alone = "no: each trial ran once, on one seed"
    return alone if verdict is None else f"{alone}. {of_verdict(verdict)[0]}"


def _gains(verdict: Verdict) -> str:
    """Over each baseline."""
    metric = metric_of(verdict)
    parts = []
    for gain in verdict.answer.gains:
        way = "better" if gain.gain >= 0 else "worse"
        reach = range_of(verdict, gain.low, gain.high)
        amount = amount_of(verdict, abs(gain.gain))
        parts.append(f"{amount} {way} than {gain.what} (95 %: {reach})")
    if not parts:
        return f"not measured: there is no baseline beside it; {metric} {_score(verdict)}"
    return f"{metric} {'; '.join(parts)}"


def _score(verdict: Verdict) -> str:
    return amount_of(verdict, verdict.recommended.mean)


def _sure(verdict: Verdict) -> str:
    """Of each baseline whether it is beaten; then who is as good, and who is behind."""
    row, gains = verdict.recommended, verdict.answer.gains
    said = [_beaten(gain) for gain in gains]
    compared = {row.family, *(gain.over for gain in gains)}
    others = [r for r in verdict.families if r.family not in compared]
    for place, words_ in (("tied", "as good"), ("behind", "behind")):
        if names := [r.family for r in others if r.place == place]:
            said.append(f"{listed(names)} {_are(names)} {words_}")
    if lost := [r.family for r in others if r.place == "lost"]:
        said.append(f"{listed(lost)} diverged or failed")
    seeds = plural(row.seeds, "fresh seed", "fresh seeds")
    said = [f"{'; '.join(said) or 'nothing to compare with'} ({seeds}, {verdict.split})"]
    for why, words_ in (("close", "as good"), ("behind", "behind")):
        if names := [gone.family for gone in verdict.absent if gone.why == why]:
            said.append(f"{listed(names)} {_are(names)} {words_}")
    first, *rest = said
    return first if not rest else f"{first}. Expected by the search: {'; '.join(rest)}"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _beaten(gain: Gain) -> str:
    if math.isnan(gain.p):
        return f"better than {gain.what}: not known"
    p = "p < 0.001" if gain.p < 0.001 else f"p {gain.p:.2g}"
    return f"better than {gain.what}: {'yes' if gain.sure else 'not shown'} ({p})"


def _valid(run: RunSettings, verdict: Verdict | None, schedule: Schedule) -> str:
    """For which training."""
    training = described_training(run.optimizer, run.task.batch_size, run.horizon)
    factor = _peak_factor(verdict, schedule.family)
    peak = f"; the peak may be off by a factor {number(factor, 2)}" if factor else ""
    return training + peak


def described_training(optimizer: OptimizerFacts, batch_size: int, horizon: int) -> str:
    """What a peak rate belongs to.

    Example:
        >>> adamw = OptimizerFacts(name="adamw", betas=[0.9, 0.95], weight_decay=0)
        >>> described_training(adamw, 32, 1200)
        'adamw, betas 0.9/0.95, weight decay 0, batch 32, 1,200 updates'
    """
    parts, settings = [optimizer.name], optimizer.settings
    parts += [f"momentum {setting(settings['momentum'], 3)}"] if settings.get("momentum") else []
    parts += ["nesterov"] if settings.get("nesterov") and optimizer.name == "sgd" else []
    if "betas" in settings:
        parts.append(f"betas {'/'.join(f'{beta:g}' for beta in settings['betas'])}")
    parts.append(f"weight decay {setting(settings['weight_decay'], 3)}")
    return ", ".join([*parts, f"batch {count(batch_size)}", f"{count(horizon)} updates"])


def _peak_factor(verdict: Verdict | None, family: str) -> float | None:
    """By which the peak may be off at least, as far as the trials tell."""
    rows = [] if verdict is None else [r for r in verdict.lr_sensitivity if r.family == family]
    return rows[0].factor_low if rows and math.isfinite(rows[0].factor_low) else None


def _cost(trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None) -> str:
    """Trainings and time."""
    horizon = run.horizon
    swept = 0 if run.range_test is None else run.range_test.updates
    searched = (swept + float(trials["updates"].sum())) / horizon
    confirmed = 0.0 if verdict is None else verdict.trained / horizon
    parts = [plural(math.ceil(searched + confirmed), "training", "trainings")]
    if run.elapsed:
        parts.append(duration(run.elapsed))
    return f"{', '.join(parts)} (search {searched:.0f}, confirmation {confirmed:.0f})"


def _warnings(trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None) -> Sequence[str]:
    """What a person has to know before he trusts it."""
    found = [
        _ignorant(trials, run, verdict),
        _hardly_trained(run),
        _overfitting(trials, run),
        _few_seeds(verdict),
        _unsure_range(run),
        _ended_early(run, verdict),
    ]
    return [sentence for sentence in found if sentence]


def _ignorant(trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None) -> str:
    """No better than a predictor that ignores its inputs."""
    objective, split = run.objective, "val"
    best = recommended(trials, objective.direction)
    value = math.nan if best is None else float(best["value"])
    if verdict is not None and verdict.decided:
        value, split = verdict.recommended.mean, verdict.split
    known = run.dummy_scores.get(split, {}).get(objective.name, math.nan)
    if not math.isfinite(known + value):
        return ""
    better = value < known if objective.minimize else value > known
    if better:
        return ""
    return (
        f"No better than a predictor that ignores its inputs: {words(objective.name)} "
        f"{measured(value, objective, 3)}, its {measured(known, objective, 3)}: check data, model "
        "and loss before the schedule."
    )


def _hardly_trained(run: RunSettings) -> str:
    if run.horizon >= FEW_UPDATES:
        return ""
    updates = plural(run.horizon, "update", "updates")
    return (
        f"Hardly trained: {updates} a training: at a real length the ranking may be another one: "
        "more --epochs."
    )


def _overfitting(trials: pd.DataFrame, run: RunSettings) -> str:
    """The validation of the best trial was better half-way."""
    objective = run.objective
    best = recommended(trials, objective.direction)
    if best is None or best["state"] != "complete" or run.judge == "best":
        return ""
    curve, steps = curve_of(best, f"val_{objective.name}"), curve_of(best, "step")
    if len(curve) < 3 or not np.isfinite(curve).all():
        return ""
    sign = 1 if objective.minimize else -1
    at = int((sign * curve).argmin())
    worse = sign * float(curve[-1] - curve[at])
    moved = sign * float(curve[0] - curve[at])
    if steps[at] > LATE * run.horizon or worse <= OVERFIT * max(moved, 1e-12):
        return ""
    return (
        f"Overfitting: validation {words(objective.name)} was best after {count(steps[at])} of "
        f"{count(run.horizon)} updates, {measured(float(curve[at]), objective, 3)} against "
        f"{measured(float(curve[-1]), objective, 3)} at the end: try --judge best, or fewer "
        "--epochs."
    )


def _few_seeds(verdict: Verdict | None) -> str:
    """A tie for want of seeds; one that more seeds would not change needs none."""
    if verdict is None or verdict.answer.why not in ("budget", "futile"):
        return ""
    seeds = verdict.recommended.seeds
    if seeds >= FEW_SEEDS:
        return ""
    return (
        f"Few trainings: {plural(seeds, 'fresh seed', 'fresh seeds')} each show large differences "
        "alone: a larger --budget, or lrtune confirm."
    )


def _unsure_range(run: RunSettings) -> str:
    test = run.range_test
    return f"The range test was unsure: {test.message}." if test and test.message else ""


def _ended_early(run: RunSettings, verdict: Verdict | None) -> str:
    if not run.cut:
        return ""
    what = "the search was over" if verdict is None else "all was settled"
    return f"The budget ended before {what}: the same command with a larger one goes on."


def as_json(found: Recommendation | None) -> dict[str, Any] | None:
    """For scripts."""
    if found is None:
        return None
    names = ("use", "gain", "sure", "valid", "cost", "use_it")
    content = {name: getattr(found, name) for name in names} | {"warnings": list(found.warnings)}
    return dict(json.loads(json.dumps(content)))
