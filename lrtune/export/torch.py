"""A schedule as stand-alone Python source that needs torch and nothing else."""

from textwrap import indent

from lrtune.errors import InputError
from lrtune.export.context import ExportContext, FoundOptimizer, call
from lrtune.export.formula import Code, defined, plain, rise
from lrtune.schedule.families import FAMILIES
from lrtune.schedule.family import Params
from lrtune.schedule.reactive import EPS, GREEDY_THRESHOLD, WORST, Mode

# Of lrtune.engine.OPTIMIZERS the classes of torch.optim.
OPTIMIZERS = {
    "sgd": "SGD",
    "nesterov": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
    "adagrad": "Adagrad",
}
# Settings that are 0 unless they are given.
ZERO = ("momentum", "dampening", "lr_decay", "initial_accumulator_value")


def torch(ctx: ExportContext, mode: Mode = "min") -> str:
    """Source that defines `make_scheduler(optimizer)`: torch's class, else the formula.

    An open loop stepped past the total keeps the rate of the last update, and says so once. All
    parameter groups get the same rate; `Schedule.torch` keeps the ratios between them.

    Args:
        ctx: what to write out.
        mode: for a closed loop: whether the metric is best at its `min` or its `max`.

    Raises:
        InputError: `mode` is not admissible.
    """
    if mode not in WORST:
        raise InputError(f"mode={mode!r}: expected 'min' (a loss) or 'max' (an accuracy)")
    schedule, total, row = ctx.schedule, ctx.total, FAMILIES[ctx.family]
    params = {"mode": mode, **ctx.params} if row.closed_loop else ctx.params
    rising = ctx.warmup > 0
    values = {
        "peak": ctx.peak,
        "start": schedule.warmup_start,
        "warmup": ctx.warmup,
        "last": total - 1,
        "total": total,
        "beyond": total + 1,
        "arguments": _arguments(params),
    }
    calls, json = CALLS[ctx.stepped, row.closed_loop], schedule.to_json()
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
    ratio = indent(_ratio(ctx), "    ")
    math = "import math\n" if "math." in ratio else ""
    return head + LAMBDA.format(ratio=ratio, math=math, held="LambdaLR", **values)


def torch_code(ctx: ExportContext) -> str:
    """The source without its docstring, for targets that have their own."""
    return torch(ctx).partition('\n"""\n')[2]


def torch_optimizer(found: FoundOptimizer, parameters: str) -> str:
    """The call that makes the optimizer of these parameters; the rate is the scheduler's."""
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in found.settings.items()
        if value or name not in ZERO
    }
    return call(f"torch.optim.{OPTIMIZERS[found.name]}", parameters, **settings)


def by_formula(ctx: ExportContext) -> bool:
    """Whether a family that torch has no class of is written as its formula."""
    return ctx.family == "custom" or plain(ctx) is not None


def _ratio(ctx: ExportContext) -> str:
    """The body of `ratio(t)`: the family's formula, else the table."""
    code = _custom(ctx) if ctx.family == "custom" else plain(ctx) or _table(ctx)
    *lines, ratio = defined(ctx, code, s="min({t}, {last})")
    if ctx.warmup:
        lines.insert(0, f"if t < {ctx.warmup}:\n    return {rise(ctx)}")
    return "\n".join([*lines, f"return {ratio}"])


def _custom(ctx: ExportContext) -> Code:
    module, name = ctx.params["function"].split(":")
    return [f"from {module} import {name}\n"], f"{name}(s, {ctx.n}, **{ctx.params['knobs']})"


def _table(ctx: ExportContext) -> Code:
    """A look-up of `s`: from where the ratio changes on, if it seldom does."""
    ratios = (ctx.schedule.rates(ctx.total)[ctx.warmup :] / ctx.peak).tolist()
    changes = {s: ratio for s, ratio in enumerate(ratios) if not s or ratio != ratios[s - 1]}
    if 2 * len(changes) > len(ratios):
        return [f"ratios = {ratios}"], "ratios[s]"
    return [f"ratios = {changes}  # from an update on"], "ratios[max(r for r in ratios if r <= s)]"


def _arguments(params: Params) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in params.items())


HEAD = '''\
"""{family}: {doc} ({source}).

For {total} updates of the optimizer; all parameter groups get the same rate:
    scheduler = make_scheduler(optimizer)
{calls}
Written by lrtune from
{json}
"""
'''

ON_UPDATE = "    scheduler.step()  # after every update of the optimizer\n"
ON_VALIDATION = "    scheduler.step(metric)  # after every validation"
CALLS = {  # whether updates step it, whether the loop is closed
    (True, False): ON_UPDATE,
    (True, True): f"{ON_UPDATE}{ON_VALIDATION}\n",
    (False, True): f"{ON_VALIDATION}, and only then\n",
}

HELD = '''

class Held{held}({held}):
    """Keeps the rate of update {last}, the last one, if it is stepped on past it."""

    def step(self):
        if self.last_epoch < {last}:
            super().step()
            return
        self.last_epoch += 1
        if self.last_epoch == {beyond}:  # once
            warnings.warn(
                "stepped more than {total} times: the rate stays; lrtune export --total N for more",
                stacklevel=2,
            )


def make_scheduler(optimizer):
    for group in optimizer.param_groups:
        group["lr"] = {peak}
'''

NATIVE = f"""
import warnings

from torch.optim.lr_scheduler import {{name}}
{HELD}    return Held{{name}}(optimizer, {{arguments}})
"""

RISE_THEN_NATIVE = f"""
import warnings

from torch.optim.lr_scheduler import {{name}}, LinearLR, SequentialLR
{HELD}    warmup = LinearLR(optimizer, start_factor={{start}}, total_iters={{warmup}})
    body = {{name}}(optimizer, {{arguments}})
    return HeldSequentialLR(optimizer, [warmup, body], milestones=[{{warmup}}])
"""

LAMBDA = f'''
{{math}}import warnings

from torch.optim.lr_scheduler import LambdaLR


def ratio(t):
    """The rate of update t over the peak."""
{{ratio}}
{HELD}    return HeldLambdaLR(optimizer, ratio)
'''

PLATEAU = """
from torch.optim.lr_scheduler import ReduceLROnPlateau


def make_scheduler(optimizer):
    for group in optimizer.param_groups:
        group["lr"] = {peak}
    return ReduceLROnPlateau(optimizer, {arguments})
"""

RISE_THEN_PLATEAU = '''
from torch.optim.lr_scheduler import ReduceLROnPlateau


class WarmupThenPlateau(ReduceLROnPlateau):
    """Call step() after every update and step(metric) after every validation."""

    def __init__(self, optimizer):
        super().__init__(optimizer, {arguments})
        self.update = 0
        self.rise()

    def step(self, metrics=None):
        if metrics is None:
            self.update += 1
            if self.update <= {warmup}:
                self.rise()
        elif self.update >= {warmup}:
            super().step(metrics)

    def rise(self):
        for group in self.optimizer.param_groups:
            group["lr"] = {peak} * ({start} + (1 - {start}) * self.update / {warmup})


make_scheduler = WarmupThenPlateau
'''

# What greedy does after a validation; Keras' callback does the same.
GREEDY_STEP = """\
        if better:
            self.best, self.good, self.bad = average, self.good + 1, 0
        else:
            self.good, self.bad = 0, self.bad + 1
        if self.good > {patience}:
            self.good = 0
            self.change(max(self.rate, min(self.rate / {factor}, {max_lr})))
        elif self.bad > {patience}:
            self.bad = 0
            self.change(min(self.rate, max(self.rate * {factor}, {min_lr})))

    def change(self, rate):
        if abs(rate - self.rate) > {eps}:
            self.rate = rate
"""

GREEDY = (
    '''

class Greedy:
    """Call step() after every update and step(metric) after every validation."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.update, self.rate, self.best = 0, {peak}, {worst}
        self.good, self.bad, self.window = 0, 0, []
        self.apply()

    def step(self, metric=None):
        if metric is None:
            self.update += 1
        elif self.update >= {warmup}:
            self.validate(float(metric))
        self.apply()

    def validate(self, metric):
        self.window = [*self.window, metric][-{smooth}:]
        average = sum(self.window) / len(self.window)
        if "{mode}" == "min":
            better = average < self.best - {greedy_threshold}
        else:
            better = average > self.best + {greedy_threshold}
'''
    + GREEDY_STEP
    + """
    def apply(self):
        rising = self.update < {warmup}
        rise = {start} + (1 - {start}) * self.update / {warmup} if rising else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rise

    def get_last_lr(self):
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self):
        return {{key: value for key, value in vars(self).items() if key != "optimizer"}}

    def load_state_dict(self, state):
        vars(self).update(state)
        self.apply()


make_scheduler = Greedy
"""
)

# family -> without a warmup, with one
CLOSED = {"plateau": (PLATEAU, RISE_THEN_PLATEAU), "greedy": (GREEDY, GREEDY)}
