"""A schedule as stand-alone Python source that needs torch and nothing else."""

from textwrap import indent

from lrtune.errors import InputError
from lrtune.export.case import Case
from lrtune.export.formula import Code, defined, plain, rise
from lrtune.export.templates import CALLS, CLOSED, HEAD, LAMBDA, NATIVE, RISE_THEN_NATIVE
from lrtune.schedule.families import FAMILIES
from lrtune.schedule.family import Params
from lrtune.schedule.reactive import EPS, GREEDY_THRESHOLD, WORST, Mode
from lrtune.schedule.schedule import Schedule


def snippet(schedule: Schedule, total: int, mode: Mode = "min") -> str:
    """Source that defines `make_scheduler(optimizer)`: torch's class, else the formula.

    An open loop stepped past the total keeps the rate of the last update, and says so once. All
    parameter groups get the same rate; `Schedule.torch` keeps the ratios between them.

    Args:
        schedule: what to write out.
        total: the number of updates of the whole run, on which its counts depend.
        mode: for a closed loop: whether the metric is best at its `min` or its `max`.

    Raises:
        InputError: `total` or `mode` is not admissible.
    """
    if mode not in WORST:
        raise InputError(f"mode={mode!r}: expected 'min' (a loss) or 'max' (an accuracy)")
    case, row = Case(schedule, total), FAMILIES[schedule.family]
    params = {"mode": mode, **case.params} if row.closed_loop else case.params
    rising = case.warmup > 0
    values = {
        "peak": case.peak,
        "start": schedule.warmup_start,
        "warmup": case.warmup,
        "last": total - 1,
        "total": total,
        "beyond": total + 1,
        "arguments": _arguments(params),
    }
    calls, json = CALLS[case.stepped, row.closed_loop], schedule.to_json()
    head = HEAD.format(
        family=row.name, doc=row.doc, source=row.source, total=total, calls=calls, json=json
    )
    if row.closed_loop:
        own = {"worst": f"float('{WORST[mode]}')", "eps": EPS, "greedy_threshold": GREEDY_THRESHOLD}
        return head + CLOSED[row.name][rising].format(**values, **own, **params)
    if row.torch != "LambdaLR" and row.native(params):
        held = "SequentialLR" if rising else row.torch
        template = RISE_THEN_NATIVE if rising else NATIVE
        return head + template.format(name=row.torch, held=held, **values)
    ratio = indent(_ratio(case), "    ")
    math = "import math\n" if "math." in ratio else ""
    return head + LAMBDA.format(ratio=ratio, math=math, held="LambdaLR", **values)


def torch_code(case: Case) -> str:
    """The source without its docstring, for targets that have their own."""
    return snippet(case.schedule, case.total).partition('\n"""\n')[2]


def by_formula(case: Case) -> bool:
    """Whether a family that torch has no class of is written as its formula."""
    return case.family == "custom" or plain(case) is not None


def _ratio(case: Case) -> str:
    """The body of `ratio(t)`: the family's formula, else the table."""
    code = _custom(case) if case.family == "custom" else plain(case) or _table(case)
    *lines, ratio = defined(case, code, s="min({t}, {last})")
    if case.warmup:
        lines.insert(0, f"if t < {case.warmup}:\n    return {rise(case)}")
    return "\n".join([*lines, f"return {ratio}"])


def _custom(case: Case) -> Code:
    module, name = case.params["function"].split(":")
    return [f"from {module} import {name}\n"], f"{name}(s, {case.n}, **{case.params['knobs']})"


def _table(case: Case) -> Code:
    """A look-up of `s`: from where the ratio changes on, if it seldom does."""
    ratios = (case.schedule.rates(case.total)[case.warmup :] / case.peak).tolist()
    changes = {s: ratio for s, ratio in enumerate(ratios) if not s or ratio != ratios[s - 1]}
    if 2 * len(changes) > len(ratios):
        return [f"ratios = {ratios}"], "ratios[s]"
    return [f"ratios = {changes}  # from an update on"], "ratios[max(r for r in ratios if r <= s)]"


def _arguments(params: Params) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in params.items())
