"""What can be wrong with what is written in a script or a config: only what is sure unseen."""

from collections.abc import Mapping
from typing import Any

from lrtune.doctor.finding import Finding
from lrtune.doctor.script import ARGUMENTS, Call

# The argument that is the horizon, in steps of the scheduler.
HORIZON = {
    "CosineAnnealingLR": "T_max",
    "OneCycleLR": "total_steps",
    "PolynomialLR": "total_iters",
    "get_linear_schedule_with_warmup": "num_training_steps",
    "get_cosine_schedule_with_warmup": "num_training_steps",
}
EPOCHS = ("num_train_epochs", "epochs", "num_epochs")
WARMUPS = ("warmup_steps", "num_warmup_steps")
RATES = ("learning_rate", "lr")
NAMES = ("lr_scheduler_type", "lr_scheduler", "scheduler", "sched")


def in_call(call: Call) -> tuple[list[Finding], list[str]]:
    """What is wrong with a call, and the arguments that matter and cannot be worked out."""
    if call.name in ARGUMENTS:
        findings, _ = in_config({k: v for k, v in call.values.items() if v is not None})
        return findings, [name for name, value in call.values.items()
                          if value is None and name in (*WARMUPS, "max_steps")]  # fmt: skip
    found = [one for rule in (_never_stepped, _unit, _warmup) if (one := rule(call))]
    horizon = HORIZON.get(call.name)
    unread = [horizon] if horizon in call.values and call.values[horizon] is None else []
    return found, [] if found else unread


def _never_stepped(call: Call) -> Finding | None:
    if call.read or not call.targets or any("." in target for target in call.targets):
        return None
    name = call.targets[0]
    return Finding(
        "never-stepped",
        f"line {call.line}: {name} = {call.name}(...) is not used anywhere: the rate stays "
        "where it is",
        "scheduler.step() was forgotten",
        f"call {name}.step() after optimizer.step(), or hand it to the trainer",
    )


def _unit(call: Call) -> Finding | None:
    """A horizon against the loop that steps it."""
    loop, argument = call.loop, HORIZON.get(call.name, "")
    shown = call.shown.get(argument)
    batches = shown is not None and "len(" in shown
    if call.name == "OneCycleLR" and "steps_per_epoch" in call.shown:
        shown, batches = "epochs * steps_per_epoch", True
    if loop is None or shown is None:
        return None
    written = f"line {call.line}: {call.name} is for {shown} steps"
    if loop.batches and shown == loop.epochs:
        return Finding(
            "wrong-unit",
            f"{written}, the number of epochs, and is stepped after every batch",
            "a schedule made for epochs is stepped after every batch",
            f"move {loop.name}.step() to the end of the epoch, or multiply by len(loader)",
        )
    if not loop.batches and batches:
        return Finding(
            "wrong-unit",
            f"{written} and is stepped once an epoch",
            "a schedule made for updates is stepped once an epoch",
            f"move {loop.name}.step() into the loop over batches",
        )
    meant, made = call.values.get(argument), loop.count
    if not loop.batches and isinstance(meant, int) and made and meant != made:
        over = meant < made
        return Finding(
            "overshoot" if over else "never-annealed",
            f"{written}, and is stepped {made} times",
            f"the schedule was made for {'fewer' if over else 'more'} epochs than the run has",
            f"give {argument}={made}",
        )
    return None


def _warmup(call: Call) -> Finding | None:
    warmup = call.values.get("num_warmup_steps")
    return _too_long(warmup, call.values.get("num_training_steps"), f"line {call.line}: ", "steps")


def _too_long(warmup: Any, total: Any, where: str, unit: str) -> Finding | None:
    numbers = all(isinstance(v, int | float) and v > 0 for v in (warmup, total))
    if not numbers or warmup < total:
        return None
    return Finding(
        "warmup-unfinished",
        f"{where}the warmup is {warmup:,} {unit} and the run {total:,}: the peak is never left",
        "a warmup in another unit, or left from a longer run",
        "make the warmup a few percent of the run",
    )


def in_config(given: Mapping[str, Any]) -> tuple[list[Finding], list[str]]:
    """What is wrong with settings, and what they leave open."""
    found = []
    total = given.get("max_steps", -1)
    warmup = next((given[name] for name in WARMUPS if given.get(name)), None)
    epochs = next((given[name] for name in EPOCHS if name in given), None)
    for one in (
        _too_long(warmup, total, "", "updates"),
        _too_long(given.get("warmup_epochs"), epochs, "", "epochs"),
        _constant_with_warmup(given),
    ):
        if one:
            found.append(one)
    ratio = given.get("warmup_ratio")
    if isinstance(ratio, int | float) and ratio >= 1:
        found.append(
            Finding(
                "warmup-unfinished",
                f"warmup_ratio is {ratio:g}: the warmup takes the whole run",
                "a number of updates or a percentage given as a ratio",
                f"give {ratio / 100:g} for {ratio:g} percent, or warmup_steps",
            )
        )
    rate = next((given[name] for name in RATES if name in given), None)
    if isinstance(rate, int | float) and rate <= 0:
        found.append(
            Finding(
                "zero-rate",
                f"the learning rate is {rate:g}",
                "a typing error",
                "give a rate above zero",
            )
        )
    unknown = []
    if not (isinstance(total, int) and total > 0):
        unknown.append("how many updates an epoch has, and so the horizon: known only when it runs")
    return found, unknown


def _constant_with_warmup(given: Mapping[str, Any]) -> Finding | None:
    # Under another name it may be another library's constant, which has a warmup.
    if given.get("lr_scheduler_type") != "constant":
        return None
    if not any(given.get(name) for name in (*WARMUPS, "warmup_ratio")):
        return None
    return Finding(
        "warmup-ignored",
        "the schedule is constant and a warmup is given: transformers ignores it",
        "constant has no warmup there",
        "lr_scheduler_type: constant_with_warmup",
    )
