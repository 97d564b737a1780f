"""FAMILIES: every learning-rate schedule that lrtune knows, one row each.

A body gives the rates of its n updates, s = 0 … n-1; its other arguments are what the row's
`resolve` gives: exactly those of torch's class where torch has the family. So the counts that are
printed and the rates that are used cannot disagree. Longer bodies are in `shapes`, the closed
loops in `reactive`. Search ranges hold what the row's source, torch's defaults and published
recipes use; `valid` is what keeps every rate above zero.
"""

from collections.abc import Iterable

import numpy as np

from lrtune.errors import InputError
from lrtune.schedule import reactive, shapes
from lrtune.schedule.family import Family, Knob, Knobs, Params, count

# Torch's arguments that are absolute rates, and may differ between parameter groups.
PER_GROUP = ("base_lr", "max_lr", "min_lr")


def _floor(name: str) -> Knob:
    # Zero (Bergsma 2025) to the tenth of Hoffmann 2022.
    return Knob(name, 0.0, 0.1, "linear", 0.0, (0, 1), doc="floor, ratio of the peak")


def _choice(name: str, choices: Iterable[str], default: str, doc: str) -> Knob:
    return Knob(name, 0, 0, "choice", default, (0, 0), choices=tuple(choices), doc=doc)


GAMMA = Knob("gamma", 0.05, 0.7, "log", 0.1, (0.01, 1), doc="factor of each drop")
END = _floor("end_factor")
ETA_MIN = _floor("eta_min")
MIN_LR = _floor("min_lr")

# torch's inverse momentum cycle: momentum, or Adam's beta1, is low where the rate is high.
# Smith 2018 (arXiv 1803.09820) tries 0.8 to 0.9 and 0.95 to 0.99; torch's own are 0.8 and 0.9 of
# cyclic, 0.85 and 0.95 of one_cycle. Above zero: torch's SGD leaves its buffer as it is at none.
INSIDE = (1e-6, 1 - 1e-6)
MOMENTUM = (
    Knob("base_momentum", 0.75, 0.9, "linear", None, INSIDE, doc="momentum, or beta1, at the peak"),
    Knob("max_momentum", 0.9, 0.99, "linear", None, INSIDE, doc="the same at the lowest rate"),
)


def _check_momentum(knobs: Knobs, peak: float) -> None:
    base, highest = (knobs.get(knob.name) for knob in MOMENTUM)
    if base is not None and highest is not None and base > highest:
        raise InputError(f"base_momentum={base!r}, max_momentum={highest!r}: the lower first")


def _momentum(knobs: Knobs) -> Params:
    """What torch's class is told of it."""
    given = {knob.name: knobs[knob.name] for knob in MOMENTUM if knob.name in knobs}
    return {"cycle_momentum": bool(given), **given}


def _one_cycle(k: Knobs, n: int, peak: float) -> Params:
    params = {"max_lr": peak, "total_steps": n, **k, **_momentum(k)}
    if params["cycle_momentum"] and k["pct_start"] * n == 1:
        raise InputError(
            f"one_cycle: pct_start={k['pct_start']!r} of total={n}: torch's OneCycleLR divides "
            "by zero there, and only it cycles momentum; give another pct_start"
        )
    return params


def _polynomial(k: Knobs, n: int, peak: float) -> Params:
    floor = {"end_factor": k["end_factor"]} if k["end_factor"] else {}
    return {"total_iters": n, "power": k["power"]} | floor


def _check_cosine(k: Knobs, peak: float) -> None:
    if k["T_max"] < 1 and k["eta_min"] == 0:
        raise InputError(
            f"cosine: T_max={k['T_max']!r} with eta_min=0.0: the rate is zero at T_max, before "
            "the end; give T_max >= 1 or eta_min > 0"
        )


ROWS = (
    Family(
        "constant",
        "the peak throughout",
        knobs=(),
        resolve=lambda k, n, peak: {"factor": 1.0, "total_iters": n},
        body=lambda s, n, peak, factor, total_iters: np.full(n, peak * factor),
        torch="ConstantLR",
    ),
    Family(
        "step",
        "a drop every step_size",
        knobs=(
            GAMMA,
            Knob("step_size", 0.1, 0.5, "linear", 0.3, (0.02, 1), doc="fraction of the body"),
        ),
        resolve=lambda k, n, peak: {"step_size": count(k["step_size"], n), "gamma": k["gamma"]},
        body=lambda s, n, peak, step_size, gamma: peak * gamma ** (s // step_size),
        torch="StepLR",
    ),
    Family(
        "multistep",
        "a drop at each milestone",
        knobs=(
            GAMMA,
            Knob(
                "milestones",
                *(0.2, 0.95, "linear", (0.5, 0.75), (0.001, 0.999)),
                length=2,
                ordered=True,
                doc="fractions of the body",
            ),
        ),
        resolve=lambda k, n, peak: {
            "milestones": [count(m, n) for m in k["milestones"]],
            "gamma": k["gamma"],
        },
        # Twice at a milestone that is there twice, as in torch.
        body=lambda s, n, peak, milestones, gamma: (
            peak * np.power(gamma, np.searchsorted(milestones, s, side="right"))
        ),
        torch="MultiStepLR",
    ),
    Family(
        "exponential",
        "the same factor every update",
        knobs=(Knob("final_ratio", 1e-4, 0.5, "log", 0.01, (1e-12, 1), doc="end over peak"),),
        resolve=lambda k, n, peak: {"gamma": k["final_ratio"] ** (1 / n)},
        body=lambda s, n, peak, gamma: peak * gamma**s,
        torch="ExponentialLR",
    ),
    Family(
        "inverse_time",
        "1/(1 + decay_rate·u)",
        knobs=(Knob("decay_rate", 0.5, 100, "log", 10.0, (0, 1e6), doc="per body"),),
        resolve=lambda k, n, peak: {"decay_rate": k["decay_rate"], "decay_steps": n},
        body=lambda s, n, peak, decay_rate, decay_steps: peak / (1 + decay_rate * s / decay_steps),
        source="Robbins & Monro 1951",
    ),
    Family(
        "inverse_sqrt",
        "falls as 1/√(update)",
        # A timescale of its own, not the warmup's length.
        knobs=(Knob("timescale", 0.003, 1, "log", 0.05, (1e-6, 1e3), doc="fraction of the body"),),
        resolve=lambda k, n, peak: {"timescale": k["timescale"] * n},
        body=lambda s, n, peak, timescale: peak * np.sqrt(timescale / (s + timescale)),
        source="Vaswani 2017",
    ),
    Family(
        "linear",
        "a straight line",
        knobs=(END,),
        resolve=lambda k, n, peak: {"start_factor": 1.0, **k, "total_iters": n},
        body=lambda s, n, peak, start_factor, end_factor, total_iters: (
            peak * (start_factor + (end_factor - start_factor) * s / total_iters)
        ),
        torch="LinearLR",
    ),
    Family(
        "polynomial",
        "a power of the updates that are left",
        knobs=(Knob("power", 0.5, 4, "log", 2.0, (0.01, 10), doc="exponent of (1 - u)"), END),
        resolve=_polynomial,
        body=lambda s, n, peak, power, total_iters, end_factor=0.0: (
            peak * (end_factor + (1 - end_factor) * (1 - s / total_iters) ** power)
        ),
        torch="PolynomialLR",
        native=lambda p: "end_factor" not in p,
    ),
    Family(
        "cosine",
        "half a cosine wave",
        knobs=(
            Knob("T_max", 1, 1.5, "linear", 1.0, (0.05, 10), doc="fraction of the body"),
            ETA_MIN,
        ),
        resolve=lambda k, n, peak: {"T_max": count(k["T_max"], n), "eta_min": k["eta_min"] * peak},
        body=lambda s, n, peak, T_max, eta_min: (
            eta_min + (peak - eta_min) * shapes.half_cosine(s / T_max)
        ),
        torch="CosineAnnealingLR",
        source="Loshchilov & Hutter 2016",
        check=_check_cosine,
    ),
    Family(
        "cosine_restarts",
        "cosine in cycles",
        knobs=(
            # 0.15·(1 + 2 + 4) = 1.05: three cycles, and no restart in the last updates.
            Knob("T_0", 0.05, 0.5, "linear", 0.15, (0.01, 1), doc="fraction of the body"),
            Knob("T_mult", 1, 3, "int", 2, (1, 10), doc="length of a cycle over the one before"),
            ETA_MIN,
        ),
        resolve=lambda k, n, peak: {**k, "T_0": count(k["T_0"], n), "eta_min": k["eta_min"] * peak},
        body=shapes.cosine_restarts,
        torch="CosineAnnealingWarmRestarts",
        source="Loshchilov & Hutter 2016",
    ),
    Family(
        "cyclic",
        "triangles between base_lr and the peak",
        knobs=(
            # Smith 2015: a third or a quarter of the peak.
            Knob("base_lr", 0.01, 0.5, "log", 0.25, (1e-9, 1), doc="floor, ratio of the peak"),
            Knob("step_size_up", 0.05, 0.5, "linear", 0.125, (0.005, 1), doc="fraction of body"),
            _choice("mode", shapes.CYCLE_SCALE, "triangular", "how the height goes"),
            Knob(
                "gamma",
                *(1e-3, 1, "log", 0.1, (1e-12, 1)),
                only=("mode", "exp_range"),
                doc="of exp_range: factor over the body",
            ),
        ),
        resolve=lambda k, n, peak: {
            "base_lr": k["base_lr"] * peak,
            "max_lr": peak,
            "step_size_up": count(k["step_size_up"], n),
            "mode": k["mode"],
            "gamma": k.get("gamma", 1.0) ** (1 / n),
            **_momentum(k),
        },
        body=lambda s, n, peak, base_lr, max_lr, step_size_up, mode, gamma, **momentum: (
            shapes.triangles(s, base_lr, max_lr, step_size_up, mode, gamma)
        ),
        torch="CyclicLR",
        source="Smith 2015",
        optional=MOMENTUM,
        momentum=lambda s, base_momentum, max_momentum, step_size_up, mode, gamma, **rates: (
            shapes.triangles(s, max_momentum, base_momentum, step_size_up, mode, gamma)
        ),
        check=_check_momentum,
    ),
    Family(
        "one_cycle",
        "one rise and one fall",
        knobs=(
            # At pct_start = 1 torch divides by zero at its last step.
            Knob("pct_start", 0.05, 0.5, "linear", 0.3, (0, 0.99), doc="fraction that rises"),
            Knob("div_factor", 5, 100, "log", 25.0, (1, 1e4), doc="peak over the initial rate"),
            Knob("final_div_factor", 10, 1e5, "log", 1e4, (1, 1e8), doc="initial over last rate"),
            _choice("anneal_strategy", shapes.ANNEAL, "cos", "form of both"),
        ),
        resolve=_one_cycle,
        body=lambda s, n, peak, *, max_lr, div_factor, final_div_factor, **rest: shapes.one_cycle(
            s, (max_lr / div_factor, max_lr, max_lr / div_factor / final_div_factor), **rest
        ),
        torch="OneCycleLR",
        # torch divides 0 by 0 where the rise ends at step 0 exactly.
        native=lambda p: p["pct_start"] * p["total_steps"] != 1,
        source="Smith & Topin 2017",
        takes_warmup=False,
        optional=MOMENTUM,
        momentum=lambda s, base_momentum, max_momentum, **rest: shapes.one_cycle(
            s, (max_momentum, base_momentum, max_momentum), **rest
        ),
        check=_check_momentum,
    ),
    Family(
        "wsd",
        "stable, then a decay",
        knobs=(
            # To the whole body, where it is linear to zero (Bergsma 2025).
            Knob("decay", 0.05, 1, "linear", 0.2, (0.001, 1), doc="fraction of the body"),
            _choice("decay_shape", shapes.DECAY, "power", "form of the decay"),
            Knob(
                "decay_power",
                *(0.25, 2, "log", 0.5, (0.01, 10)),
                only=("decay_shape", "power"),
                doc="of power: p of 1 - v^p; 0.5 is 1-sqrt, 1 linear",
            ),
            END,
        ),
        resolve=lambda k, n, peak: {
            "total_iters": n,
            "decay_steps": count(k["decay"], n),
            **{name: value for name, value in k.items() if name != "decay"},
        },
        body=shapes.wsd,
        source="Hu 2024, Hägele 2024",
    ),
    Family(
        "rex",
        "reflected exponential",
        knobs=(Knob("beta", 0.1, 1, "log", 0.5, (1e-3, 1e3), doc="1: linear; less: later"),),
        resolve=lambda k, n, peak: {"total_iters": n, "beta": k["beta"]},
        body=lambda s, n, peak, beta, total_iters: (
            peak * (1 - s / total_iters) / (1 - (1 - beta) * (s / total_iters))
        ),
        source="Chen 2021",
    ),
    Family(
        "tanh",
        "hyperbolic-tangent decay",
        knobs=(
            Knob("lb", -8, -2, "linear", -6.0, (-20, 0), doc="argument at the start"),
            Knob("ub", 1, 5, "linear", 3.0, (0, 20), doc="argument at the end"),
            END,
        ),
        resolve=lambda k, n, peak: {"total_iters": n, **k},
        # ½(1 - tanh x) without the cancellation that makes it 0 from x = 19 on.
        body=lambda s, n, peak, lb, ub, end_factor, total_iters: (
            peak
            * (end_factor + (1 - end_factor) / (1 + np.exp(2 * (lb + (ub - lb) * s / total_iters))))
        ),
        source="Hsueh 2018",
    ),
    Family(
        "spline",
        "free form: monotone cubic in log rate",
        knobs=(
            Knob(
                "ordinates",
                # The default is a cosine, nearly.
                *(1e-3, 1, "log", (1.0, 0.85, 0.5, 0.15, 0.01), (1e-12, 1)),
                length=5,
                doc="ratios of the peak, evenly spaced over the body",
            ),
        ),
        resolve=lambda k, n, peak: {"total_iters": n, "ordinates": [*k["ordinates"]]},
        body=shapes.spline,
        source="Fritsch & Carlson 1980",
    ),
    shapes.SEQUENCE,
    shapes.CUSTOM,
    Family(
        "plateau",
        "a drop when the metric stops improving",
        knobs=(
            Knob("factor", 0.1, 0.8, "log", 0.1, (0.01, 0.99), doc="factor of each drop"),
            Knob("patience", 1, 10, "int", 5, (0, 1e6), doc="validations"),
            Knob("threshold", 1e-5, 1e-2, "log", 1e-4, (0, 1), doc="relative improvement"),
            Knob("cooldown", 0, 5, "int", 0, (0, 1e6), doc="validations"),
            MIN_LR,
        ),
        resolve=lambda k, n, peak: {**k, "min_lr": k["min_lr"] * peak},
        machine=reactive.PLATEAU,
        torch="ReduceLROnPlateau",
    ),
    Family(
        "greedy",
        "down when the metric stalls, up again when it improves",
        knobs=(
            Knob("factor", 0.5, 0.95, "linear", 0.9, (0.01, 0.99), doc="factor of a fall"),
            Knob("patience", 0, 10, "int", 2, (0, 1e6), doc="validations"),
            Knob("smooth", 1, 10, "int", 1, (1, 1e6), doc="validations averaged"),
            Knob("max_lr", 0.3, 1, "linear", 1.0, (1e-9, 1), doc="bound of a rise, ratio of peak"),
            MIN_LR,
        ),
        resolve=lambda k, n, peak: {
            **k,
            "max_lr": k["max_lr"] * peak,
            "min_lr": k["min_lr"] * peak,
        },
        machine=reactive.GREEDY,
        torch="LRScheduler",
        source="Subramanian et al. 2025, arXiv 2512.14527",
    ),
    Family(
        "schedule_free",
        "the peak throughout, weights averaged by a schedule-free optimizer",
        knobs=(),
        resolve=lambda k, n, peak: {},
        body=lambda s, n, peak: np.full(n, peak),
        source="Defazio et al. 2024, arXiv 2405.15682",
        schedule_free=True,
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in ROWS}
