"""The options of timm's train.py that give a schedule's rates, epoch by epoch."""

from collections.abc import Callable

from lrtune.export.case import DECAY, Case


def arguments(case: Case) -> str:
    """The options of timm's train.py, in epochs; empty where they cannot say it."""
    words = SCHED[case.family](case) if case.family in SCHED else ""
    if not words:
        return ""
    rise = f"--warmup-epochs {case.warmup}"
    if case.warmup:
        rise += f" --warmup-lr {case.start} --warmup-prefix"
    return f"--lr {case.peak} --epochs {case.n} {rise} --sched {words}"


def _sched_cosine(case: Case) -> str:
    return f"cosine --min-lr {case.floor}" if case.params["T_max"] == case.n else ""


# The rest of the command line, from --sched on.
SCHED: dict[str, Callable[[Case], str]] = {
    "constant": lambda case: "constant",
    "step": lambda case: "step --decay-epochs {step_size} --decay-rate {gamma}".format(
        **case.params
    ),
    "multistep": lambda case: (
        "multistep --decay-milestones "
        f"{' '.join(str(m + 1) for m in case.params['milestones'])} "
        f"--decay-rate {case.params['gamma']}"
    ),
    "exponential": lambda case: f"step --decay-epochs 1 --decay-rate {case.params['gamma']}",
    "linear": lambda case: f"poly --decay-rate 1.0 --min-lr {case.floor}",
    "polynomial": lambda case: f"poly --decay-rate {case.knobs['power']} --min-lr {case.floor}",
    "cosine": _sched_cosine,
    "wsd": lambda case: (
        f"wsd --decay-epochs {case.params['decay_steps']} "
        f"--lr-decay-fn {DECAY[case.params['decay_shape']]} --min-lr {case.floor}"
    ),
}
