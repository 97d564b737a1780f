"""FAMILIES: every learning-rate schedule that lrtune knows, one row each.

The bodies are in `shapes`, the closed loops in `reactive`. A row's `resolve` gives exactly the
arguments of torch's class where torch has the family. Search ranges hold what the row's source,
torch's defaults and published recipes use; `valid` is what keeps every rate above zero.
"""

from collections.abc import Callable, Iterable

from lrtune.errors import InputError
from lrtune.schedule import compose, momentum, reactive, shapes
from lrtune.schedule.family import Family, Knob, Knobs, Params, count

TORCH = "torch"


def _floor(name: str) -> Knob:
    # Zero (Bergsma 2025) to the tenth of Hoffmann 2022.
    return Knob(name, 0.0, 0.1, "linear", 0.0, (0, 1), doc="floor, ratio of the peak")


def _choice(name: str, choices: Iterable[str], default: str, doc: str) -> Knob:
    return Knob(name, 0, 0, "choice", default, (0, 0), choices=tuple(choices), doc=doc)


GAMMA = Knob("gamma", 0.05, 0.7, "log", 0.1, (0.01, 1), doc="factor of each drop")
END = _floor("end_factor")
ETA_MIN = _floor("eta_min")
MIN_LR = _floor("min_lr")


def _plain(*names: str) -> Callable[[Knobs, int, float], Params]:
    """The resolve of knobs that mean the same at every horizon, plus that horizon."""
    return lambda k, n, peak: {"total_iters": n} | {name: k[name] for name in names}


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
        body=shapes.constant,
        torch="ConstantLR",
        source=TORCH,
    ),
    Family(
        "step",
        "a drop every step_size",
        knobs=(
            GAMMA,
            Knob("step_size", 0.1, 0.5, "linear", 0.3, (0.02, 1), doc="fraction of the body"),
        ),
        resolve=lambda k, n, peak: {"step_size": count(k["step_size"], n), "gamma": k["gamma"]},
        body=shapes.step,
        torch="StepLR",
        source=TORCH,
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
        body=shapes.multistep,
        torch="MultiStepLR",
        source=TORCH,
    ),
    Family(
        "exponential",
        "the same factor every update",
        knobs=(
            Knob("final_ratio", 1e-4, 0.5, "log", 0.01, (1e-12, 1), doc="end, ratio of the peak"),
        ),
        resolve=lambda k, n, peak: {"gamma": k["final_ratio"] ** (1 / n)},
        body=shapes.exponential,
        torch="ExponentialLR",
        source=TORCH,
    ),
    Family(
        "inverse_time",
        "1/(1 + decay_rate·u)",
        knobs=(Knob("decay_rate", 0.5, 100, "log", 10.0, (0, 1e6), doc="per body"),),
        resolve=lambda k, n, peak: {"decay_rate": k["decay_rate"], "decay_steps": n},
        body=shapes.inverse_time,
        torch="LambdaLR",
        source="Robbins & Monro 1951",
    ),
    Family(
        "inverse_sqrt",
        "falls as 1/√(update)",
        knobs=(Knob("timescale", 0.003, 1, "log", 0.05, (1e-6, 1e3), doc="fraction of the body"),),
        resolve=lambda k, n, peak: {"timescale": k["timescale"] * n},
        body=shapes.inverse_sqrt,
        torch="LambdaLR",
        source="Vaswani 2017",
    ),
    Family(
        "linear",
        "a straight line",
        knobs=(END,),
        resolve=lambda k, n, peak: {
            "start_factor": 1.0,
            "end_factor": k["end_factor"],
            "total_iters": n,
        },
        body=shapes.linear,
        torch="LinearLR",
        source=TORCH,
    ),
    Family(
        "polynomial",
        "a power of the updates that are left",
        knobs=(Knob("power", 0.5, 4, "log", 2.0, (0.01, 10), doc="exponent of (1 - u)"), END),
        resolve=_polynomial,
        body=shapes.polynomial,
        torch="PolynomialLR",
        native=lambda p: "end_factor" not in p,
        source=TORCH,
    ),
    Family(
        "cosine",
        "half a cosine wave",
        knobs=(
            Knob("T_max", 1, 1.5, "linear", 1.0, (0.05, 10), doc="fraction of the body"),
            ETA_MIN,
        ),
        resolve=lambda k, n, peak: {
            "T_max": count(k["T_max"], n),
            "eta_min": k["eta_min"] * peak,
        },
        body=shapes.cosine,
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
        resolve=lambda k, n, peak: {
            "T_0": count(k["T_0"], n),
            "T_mult": k["T_mult"],
            "eta_min": k["eta_min"] * peak,
        },
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
            Knob("gamma", 1e-3, 1, "log", 0.1, (1e-12, 1), doc="exp_range: factor over the body"),
        ),
        resolve=lambda k, n, peak: {
            "base_lr": k["base_lr"] * peak,
            "max_lr": peak,
            "step_size_up": count(k["step_size_up"], n),
            "mode": k["mode"],
            "gamma": k["gamma"] ** (1 / n),
            **momentum.arguments(k),
        },
        body=shapes.cyclic,
        optional=momentum.MOMENTUM,
        momentum=momentum.cyclic,
        check=momentum.check,
        torch="CyclicLR",
        source="Smith 2015",
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
        resolve=lambda k, n, peak: {
            **{"max_lr": peak, "total_steps": n, **k},
            **momentum.one_cycle_arguments(k, n),
        },
        body=shapes.one_cycle,
        optional=momentum.MOMENTUM,
        momentum=momentum.one_cycle,
        check=momentum.check,
        torch="OneCycleLR",
        # torch divides 0 by 0 where the rise ends at step 0 exactly.
        native=lambda p: p["pct_start"] * p["total_steps"] != 1,
        source="Smith & Topin 2017",
        takes_warmup=False,
    ),
    Family(
        "wsd",
        "stable, then a decay",
        knobs=(
            Knob("decay", 0.05, 1, "linear", 0.2, (0.001, 1), doc="fraction of the body"),
            _choice("decay_shape", shapes.DECAY, "sqrt", "form of the decay"),
            END,
        ),
        resolve=lambda k, n, peak: {
            "total_iters": n,
            "decay_steps": count(k["decay"], n),
            "decay_shape": k["decay_shape"],
            "end_factor": k["end_factor"],
        },
        body=shapes.wsd,
        torch="LambdaLR",
        source="Hu 2024, Hägele 2024",
    ),
    Family(
        "rex",
        "reflected exponential",
        knobs=(Knob("beta", 0.1, 1, "log", 0.5, (1e-3, 1e3), doc="1: linear; less: later"),),
        resolve=_plain("beta"),
        body=shapes.rex,
        torch="LambdaLR",
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
        resolve=_plain("lb", "ub", "end_factor"),
        body=shapes.tanh,
        torch="LambdaLR",
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
        torch="LambdaLR",
        source="Fritsch & Carlson 1980",
    ),
    compose.SEQUENCE,
    compose.CUSTOM,
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
        body=None,
        machine=reactive.PLATEAU,
        torch="ReduceLROnPlateau",
        source=TORCH,
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
        body=None,
        machine=reactive.GREEDY,
        torch="LRScheduler",
        source="Subramanian et al. 2025, arXiv 2512.14527",
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in ROWS}
