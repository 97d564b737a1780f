"""The answer: what to use, what it gains, how sure that is; the same wherever it is shown."""

import math
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrtune.format import count, duration, listed, measured, number, plural, setting, words
from lrtune.schedule import Schedule
from lrtune.verdict.settings import Document, Objective, OptimizerFacts, RunSettings
from lrtune.verdict.summary import curve_of, recommended
from lrtune.verdict.verdict import Gain, Verdict

FEW_UPDATES = 50  # of a training: fewer is hardly one
FEW_SEEDS = 5  # of each finalist: fewer say little
OVERFIT = 0.05  # of what the validation metric moved by on the way: what it is worse by at the end
LATE = 0.8  # share of the run: a best validation after this is about the end

WHY = {
    "samples": "the doubt that is left lies in the {samples} samples that {split} has, which no "
    "number of seeds removes",
    "equivalent": "the difference is smaller than {margin}, which does not matter",
    "futile": "the trainings left would hardly have told them apart",
    "budget": "the trainings are used up: lrtune confirm adds more",
}


class Recommendation(Document):
    """Six lines and what to be warned of."""

    use: str  # the schedule, for a person
    gain: str  # over the baselines, with intervals
    sure: str  # whether it is better than they are, and who is as good
    valid: str  # for which training
    cost: str  # of the answer
    use_it: str  # the command that writes it as code
    warnings: list[str]  # sentences, the gravest first

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
    """The answer of a run; None where no trial came to anything."""
    sure = verdict if verdict is not None and verdict.decided else None
    best = recommended(trials, run.objective.direction)
    if sure is not None:
        schedule, gain = sure.recommended.schedule, _gains(sure)
        mine = sure.recommended.role == "yours"
    elif best is not None:
        schedule, gain, mine = Schedule.from_json(best["schedule"]), _not_measured(run, best), False
    else:
        return None
    return Recommendation(
        use=("your " if mine else "") + described(schedule, run.horizon),
        gain=gain,
        sure=_unsure(verdict) if sure is None else _sure(sure),
        valid=_valid(run, sure, schedule),
        cost=_cost(trials, run, sure),
        use_it=f"lrtune export {shlex.quote(run.folder)} --to torch",
        warnings=_warnings(trials, run, verdict),
    )


def of_verdict(verdict: Verdict) -> list[str]:
    """What a verdict alone says: use, gain, sure."""
    if verdict.answer.place == "unfinished":
        return ["The finals are not finished: lrtune confirm goes on with them."]
    if not verdict.decided:
        lost = [row.family for row in verdict.families if row.place == "lost"]
        why = f"{listed(lost)} diverged or failed" if lost else "no family came to the finals"
        return [f"No winner: {why}."]
    row = verdict.recommended
    mine = "your " if row.role == "yours" else ""
    use = f"Use {mine}{described(row.schedule, verdict.horizon)}"
    return [use, f"Gain: {_gains(verdict)}", f"Sure: {_sure(verdict)}"]


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
    parts += [f"{name} {number(value, 3)}" for name, value in schedule.settings.items()]
    return f"{schedule.family}: {', '.join(parts)}"


def described_training(
    optimizer: OptimizerFacts,
    batch_size: int,
    horizon: int,
    rates: Sequence[tuple[str, str, str]] = (),
) -> str:
    """What a peak rate belongs to; ``rates`` are of ``TaskFacts``.

    Example:
        >>> adamw = OptimizerFacts(name="adamw", betas=[0.9, 0.95], weight_decay=0)
        >>> described_training(adamw, 32, 1200)
        'adamw, betas 0.9/0.95, weight decay 0, batch 32, 1,200 updates'
    """
    settings = optimizer.settings
    parts = [f"{optimizer.name} ({settings['class']})" if "class" in settings else optimizer.name]
    parts += [f"momentum {setting(settings['momentum'], 3)}"] if settings.get("momentum") else []
    parts += ["nesterov"] if settings.get("nesterov") and optimizer.name == "sgd" else []
    if "betas" in settings:
        parts.append(f"betas {'/'.join(number(beta, 4) for beta in settings['betas'])}")
    if "weight_decay" in settings:
        by = settings.get("weight_decay_by")
        by = f" by the {by}" if by else ""
        parts.append(f"weight decay {setting(settings['weight_decay'], 3)}{by}")
    parts += [f"{label} {ratio}" for label, ratio, _ in rates]
    return ", ".join([*parts, f"batch {count(batch_size)}", f"{count(horizon)} updates"])


def amount_of(objective: Objective, value: float) -> str:
    """A value of the metric with its unit; a dash for NaN."""
    unit = f" {objective.unit}" if objective.unit and math.isfinite(value) else ""
    return f"{number(value, 3)}{unit}"


def range_of(objective: Objective, low: float, high: float) -> str:
    """Two values, their unit once."""
    unit = f" {objective.unit}" if objective.unit else ""
    return f"{number(low, 3)} to {number(high, 3)}{unit}"


def since(verdict: Verdict, trials: int) -> str:
    """That the search has gone on since the verdict, if it has; it has ``trials`` by now."""
    newer = trials - verdict.trials
    if newer <= 0:
        return ""
    return (
        f"The search has gone on since, by {plural(newer, 'trial', 'trials')}: lrtune confirm "
        "takes in what is better."
    )


def notes(verdict: Verdict) -> list[str]:
    """Why what is tied got no more seeds; that it was judged before, and what that costs."""
    if not verdict.decided:
        return []
    sentences = []
    if verdict.answer.place == "tie":
        test, val = verdict.task.test, verdict.task.val
        margin = amount_of(verdict.objective, verdict.answer.margin)
        why = WHY[verdict.answer.why].format(
            margin=f"{margin} of {words(verdict.objective.name)}",
            samples=count(test or val),
            split="the test split" if test else "validation",
        )
        sentences.append(f"Why no more seeds: {why}.")
    if verdict.earlier:
        tests = len(verdict.earlier) + 1
        sentences.append(
            f"It was judged before with {listed(list(map(count, verdict.earlier)))} trainings: "
            f"each of these {tests} tests errs in up to 5 %, together in up to {5 * tests} %."
        )
    return sentences


def _not_measured(run: RunSettings, best: "pd.Series[Any]") -> str:
    """The gain before anything was confirmed."""
    name, value = words(run.objective.name), measured(best["value"], run.objective)
    if best["state"] != "complete":
        return f"not measured; forecast of validation {name}: {value}"
    return f"not measured; validation {name} {value}"


def _unsure(verdict: Verdict | None) -> str:
    """Without a decision."""
    alone = "no: each trial ran once, on one seed"
    return alone if verdict is None else f"{alone}. {of_verdict(verdict)[0]}"


def _gains(verdict: Verdict) -> str:
    """Over each baseline."""
    objective, parts = verdict.objective, []
    for gain in verdict.answer.gains:
        way = "better" if gain.gain >= 0 else "worse"
        reach = range_of(objective, gain.low, gain.high)
        parts.append(
            f"{amount_of(objective, abs(gain.gain))} {way} than {gain.what} (95 %: {reach})"
        )
    metric = words(objective.name)
    if not parts:
        score = amount_of(objective, verdict.recommended.mean)
        return f"not measured: there is no baseline beside it; {metric} {score}"
    return f"{metric} {'; '.join(parts)}"


def _sure(verdict: Verdict) -> str:
    """Of each baseline whether it is beaten; then who is as good, and who is behind."""
    row, gains = verdict.recommended, verdict.answer.gains
    compared = {row.family, *(gain.over for gain in gains)}
    others = [(r.place, r.family) for r in verdict.families if r.family not in compared]
    absent = [(gone.why, gone.family) for gone in verdict.absent]
    parts = [*map(_beaten, gains), *_grouped(others, {"tied": "as good", "behind": "behind"})]
    if lost := [family for place, family in others if place == "lost"]:
        parts.append(f"{listed(lost)} diverged or failed")
    seeds = plural(row.seeds, "fresh seed", "fresh seeds")
    known = f"{'; '.join(parts) or 'nothing to compare with'} ({seeds}, {verdict.split})"
    expected = _grouped(absent, {"close": "as good", "behind": "behind"})
    return f"{known}. Expected by the search: {'; '.join(expected)}" if expected else known


def _grouped(families: Sequence[tuple[str, str]], meanings: dict[str, str]) -> list[str]:
    groups = {key: [name for of, name in families if of == key] for key in meanings}
    return [f"{listed(g)} {_are(g)} {meanings[key]}" for key, g in groups.items() if g]


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _beaten(gain: Gain) -> str:
    if math.isnan(gain.p):
        return f"better than {gain.what}: not known"
    p = "p < 0.001" if gain.p < 0.001 else f"p {gain.p:.2g}"
    return f"better than {gain.what}: {'yes' if gain.sure else 'not shown'} ({p})"


def _valid(run: RunSettings, verdict: Verdict | None, schedule: Schedule) -> str:
    """For which training, and by how much the peak may be off, as far as the trials tell."""
    task, optimizer = run.task.tuned(schedule, run.tune), run.optimizer.tuned(schedule)
    training = described_training(optimizer, task.batch_size, run.horizon, task.rates)
    rows = [] if verdict is None else verdict.lr_sensitivity
    factor = next((row.factor_low for row in rows if row.family == schedule.family), math.nan)
    if math.isnan(factor):
        return training
    return f"{training}; the peak may be off by a factor {number(factor, 2)}"


def _cost(trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None) -> str:
    """Trainings and time."""
    swept = 0 if run.range_test is None else run.range_test.updates
    searched = (swept + float(trials["updates"].sum())) / run.horizon
    confirmed = 0.0 if verdict is None else verdict.trained / run.horizon
    total, others = math.ceil(searched + confirmed), round(confirmed)
    parts = [plural(total, "training", "trainings")]
    parts += [duration(run.elapsed)] if run.elapsed else []
    return f"{', '.join(parts)} (search {total - others}, confirmation {others})"


def _warnings(trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None) -> list[str]:
    """What a person has to know before he trusts it."""
    best, test = recommended(trials, run.objective.direction), run.range_test
    sentences = [_no_better_than_dummy(best, run, verdict)]
    if run.horizon < FEW_UPDATES:
        sentences.append(
            f"Hardly trained: {plural(run.horizon, 'update', 'updates')} a training: at a real "
            "length the ranking may be another one: more --epochs."
        )
    sentences += [_overfitting(best, run), _few_seeds(verdict)]
    if test is not None and test.message:
        sentences.append(f"The range test was unsure: {test.message}.")
    if run.cut:
        what = "the search was over" if verdict is None else "all was settled"
        sentences.append(
            f"The budget ended before {what}: the same command with a larger one goes on."
        )
    return [sentence for sentence in sentences if sentence]


def _no_better_than_dummy(
    best: "pd.Series[Any] | None", run: RunSettings, verdict: Verdict | None
) -> str:
    """No better than a predictor that ignores its inputs."""
    objective, split = run.objective, "val"
    value = math.nan if best is None else float(best["value"])
    if verdict is not None and verdict.decided:
        value, split = verdict.recommended.mean, verdict.split
    dummy = run.dummy_scores.get(split, {}).get(objective.name, math.nan)
    better = value < dummy if objective.minimize else value > dummy
    if better or not math.isfinite(value + dummy):
        return ""
    return (
        f"No better than a predictor that ignores its inputs: {words(objective.name)} "
        f"{measured(value, objective, 3)}, its {measured(dummy, objective, 3)}: check data, model "
        "and loss before the schedule."
    )


def _overfitting(best: "pd.Series[Any] | None", run: RunSettings) -> str:
    """The validation of the best trial was better half-way."""
    objective = run.objective
    if best is None or best["state"] != "complete" or run.judge == "best":
        return ""
    curve, steps = curve_of(best, f"val_{objective.name}"), curve_of(best, "step")
    if len(curve) < 3 or not np.isfinite(curve).all():
        return ""
    sign = 1 if objective.minimize else -1
    at = int((sign * curve).argmin())
    worse, moved = (sign * float(curve[end] - curve[at]) for end in (-1, 0))
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
