"""The source that `snippet` fills in: what it writes for each way to make a scheduler."""

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
