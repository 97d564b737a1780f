"""FusedPool: the numbers of the serial pool and of plain PyTorch, whatever happens meanwhile."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from lrtune.engine import OPTIMIZERS, FusedPool, SerialPool
from lrtune.engine.compiling import compiled_apart
from lrtune.engine.order import INITIAL_WEIGHTS, UPDATE_NOISE, BatchOrder, derive
from lrtune.engine.pool import fork
from lrtune.engine.program import Program
from lrtune.engine.sizes import Sizes
from lrtune.errors import InputError
from lrtune.tasks import Metric, Split, transformer
from lrtune.tasks.augment import augment
from lrtune.tasks.metrics import ACCURACY, CrossEntropy
from lrtune.tasks.models import model_maker

BATCH = 16
PLAIN = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def reader(monkeypatch):
    """A transformer of one layer, made small enough to be quick."""
    for name, value in (("LAYERS", 1), ("WIDTH", 16), ("HEADS", 2)):
        monkeypatch.setattr(f"{transformer.__name__}.{name}", value)
    return lambda: transformer.transformer((8,), 17)


@pytest.fixture(scope="module")
def base(digits):
    """Float64, 50 updates in four segments of unequal length."""
    small = digits.train.part(0, 240)
    return replace(
        digits,
        train=small,
        val=digits.val.part(0, 60),
        test=None,
        prepare=deepcopy(digits.prepare).double(),
        model=lambda: mlp().double(),
        groups=None,
        batch_size=BATCH,
        epochs=50 * BATCH / 240,
        validations=4,
    )


def texts(task, make):
    """Rows of pixels as characters, each to tell the next."""

    def part(split):
        rows = split.inputs.flatten(1)
        return Split(rows[:, 20:28].clone(), rows[:, 21:29].clone())

    return replace(
        task,
        train=part(task.train),
        val=part(task.val),
        prepare=nn.Identity(),
        model=lambda: make().double(),
        loss=CrossEntropy(),
        metrics=(Metric("cross_entropy", CrossEntropy(), "minimize"),),
        classes=None,
    )


def numbers(progress):
    assert progress.error is None
    averaged = [] if np.isnan(progress.averaged) else [progress.averaged]
    figures = [progress.loss, *progress.metrics.values(), *averaged]
    return [progress.update, *figures, *progress.losses]


def train(pool, slot, rates, seed):
    """A trial from its admission to its end, in numbers; the other slots go round and round."""
    curve = numbers(pool.admit(slot, rates, seed))
    while True:
        for progress in pool.advance():
            if progress.slot == slot:
                curve += numbers(progress)
                if progress.update == pool.task.horizon:
                    return np.array(curve)
            elif progress.update == pool.task.horizon:
                pool.release(progress.slot)
                pool.admit(progress.slot, rates * 0.7, seed + progress.slot + 1)


def crowded(pool, slot, rates, seed):
    """The same in a slot used before, out of step with its neighbours, which have other seeds."""
    for other in range(pool.slots):
        pool.admit(other, rates * 0.5, other)
    pool.advance()
    pool.release(slot)
    return train(pool, slot, rates, seed)


def alone(task, rates, seed):
    return train(SerialPool(task), 0, rates, seed)


def plainly(task, rates, seed):
    """The same by a loop as people write it."""
    torch.manual_seed(derive(seed, INITIAL_WEIGHTS))
    model = task.model()
    mean = deepcopy(model)
    groups = [{"params": list(model.parameters())}] if task.groups is None else task.groups(model)
    ratios = [group.pop("lr_ratio", 1.0) for group in groups]
    optimizer = PLAIN[task.optimizer](groups, lr=1.0, foreach=False, **task.settings)
    order = BatchOrder(task.train.samples, task.batch_size, torch.device("cpu"))

    def validation(update):
        judged = (model if task.ema is None else mean).eval()
        inputs, targets = task.val
        with torch.no_grad():
            outputs = judged(task.prepare(inputs))
            metrics = [float(metric.function(outputs, targets)) for metric in task.metrics]
            beside = []
            if task.ema is None and task.average is not None:
                outputs_of_mean = mean.eval()(task.prepare(inputs))
                beside = [float(task.objective.function(outputs_of_mean, targets))]
            return [update, float(task.loss(outputs, targets)), *metrics, *beside]

    curve, losses, looks = validation(0), [], 0
    for update, rate in enumerate(rates):
        inputs, targets = task.train.take(order.batch(seed, update))
        torch.manual_seed(derive(seed, UPDATE_NOISE, update))
        inputs, parts = augment(task.augment, task.prepare(inputs), targets)
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = rate * ratio
        optimizer.zero_grad()
        outputs = model.train()(inputs)
        loss = sum(weight * task.loss(outputs, part) for weight, part in parts)
        loss.backward()
        if task.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), task.clip_norm)
        optimizer.step()
        length = max(1.0, (task.ema or task.average or 0) * task.horizon)
        segments = np.diff(task.checkpoints, prepend=0)
        stride = 1 if task.ema else int(np.clip(length / 4, 1, segments.min()))
        begun = max([0, *(c for c in task.checkpoints if c <= update)])
        if (task.ema or task.average) and (update + 1 - begun) % stride == 0:
            looks += 1
            decay = (1 - 1 / length) ** stride
            newest = (1 - decay) / (1 - decay**looks)
            current = model.state_dict()
            for name, tensor in mean.state_dict().items():
                if tensor.is_floating_point():
                    tensor += newest * (current[name] - tensor)
        losses.append(loss.item())
        if update + 1 in task.checkpoints:
            curve += [*validation(update + 1), *losses]
            losses = []
    return np.array(curve)


def same(*curves):
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-9)


RATE = {"sgd": 0.05, "nesterov": 0.05}


def falling(task):
    return np.geomspace(1, 0.1, task.horizon) * RATE.get(task.optimizer, 5e-3)


def three_ways(task, slots=3, slot=1, seed=5):
    rates = falling(task)
    torch.manual_seed(0)
    pool = FusedPool(task, slots)
    same(
        plainly(task, rates, seed),
        alone(task, rates, seed),
        crowded(pool, slot, rates, seed),
    )
    assert pool.width == slots


@pytest.mark.parametrize("model", ["mlp", "cnn", "transformer"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fused_is_serial_is_plain_pytorch(optimizer, model, base, monkeypatch):
    task = replace(base, optimizer=optimizer)
    if model == "transformer":
        task = replace(texts(task, reader(monkeypatch)), batch_size=8, epochs=50 * 8 / 240)
    elif model == "cnn":
        task = replace(task, model=lambda: cnn().double())
    three_ways(task, slots=2)


def three_channels(task, batch):
    def part(split):
        return Split(split.inputs.double().expand(-1, 3, -1, -1) / 16, split.targets)

    make = model_maker("resnet18", (3, 8, 8), 10)
    return replace(
        task,
        train=part(task.train),
        val=part(task.val).part(0, 8),
        prepare=nn.Identity(),
        model=lambda: make().double(),
        batch_size=batch,
    )


@pytest.mark.parametrize("updates", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_resnet18(base, updates):
    task = three_channels(base, batch=8)
    task = replace(task, epochs=updates * 8 / 240, validations=1, clip_norm=5.0, ema=0.5)
    rates = falling(task) / 10
    pool = FusedPool(task, 2)
    pool.admit(0, rates, 3)
    same(plainly(task, rates, 5), train(pool, 1, rates, 5))


def in_parts(model):
    """Several settings, and parameters that are in no group."""
    first, *_, last = [m for m in model.modules() if list(m.parameters(recurse=False))]
    return [
        {"params": list(first.parameters()), "lr_ratio": 0.3},
        {"params": list(last.parameters())[:1], "weight_decay": 0.1, "lr_ratio": 2},
    ]


def decays(model):
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "lr_ratio": 0.5},
    ]


VARIANTS = {
    "clipping": {"clip_norm": 0.5},
    "average": {"ema": 0.3},
    "smoothing": {"loss": CrossEntropy(0.1)},
    "weights of classes": {"loss": CrossEntropy(0.0, torch.linspace(0.5, 2, 10).double())},
    "flip": {"augment": ("flip",)},
    "mixup": {"augment": ("crop", "mixup")},
    "some parameters": {"groups": in_parts},
    "momentum of none": {"settings": {"momentum": 0.0}},
    "L2": {"settings": {"weight_decay": 0.1}},
    "all": {
        "clip_norm": 0.5,
        "ema": 0.3,
        "loss": CrossEntropy(0.1, torch.linspace(0.5, 2, 10).double()),
        "augment": ("flip", "crop", "cutout", "mixup"),
        "groups": decays,
        "optimizer": "adamw",
        "settings": {"amsgrad": True},
    },
    **{f"groups of {name}": {"groups": decays, "optimizer": name} for name in OPTIMIZERS},
    "nesterov with L2": {"optimizer": "nesterov", "settings": {"weight_decay": 0.1}},
    "amsgrad": {"optimizer": "adam", "settings": {"amsgrad": True, "weight_decay": 0.1}},
    "betas": {"optimizer": "adamw", "settings": {"betas": (0.8, 0.9), "eps": 1e-3}},
    "centered": {
        "optimizer": "rmsprop",
        "settings": {"centered": True, "momentum": 0.9, "weight_decay": 0.1},
    },
    "rate that falls": {
        "optimizer": "adagrad",
        "settings": {"lr_decay": 0.1, "initial_accumulator_value": 0.2, "weight_decay": 0.1},
    },
}


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_every_setting(change, base):
    task = replace(base, model=lambda: cnn().double(), epochs=14 * BATCH / 240)
    three_ways(replace(task, **change), slots=2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_trial_goes_on_in_any_pool(optimizer, base):
    task = replace(base, optimizer=optimizer, model=lambda: cnn().double(), ema=0.3, clip_norm=0.5)
    rates = falling(task)
    curve: list[float] = []
    pools = [SerialPool(task, 2), FusedPool(task, 3), FusedPool(task, 4), SerialPool(task, 2)]
    snapshot = None
    for number, pool in enumerate(pools):
        pool.admit(0, rates, 1)
        if snapshot is None:
            curve += numbers(pool.admit(1, rates, 5))
        else:
            pool.restore(1, snapshot)
        told = pool.advance()
        curve += numbers(told[1])
        snapshot = pool.snapshot(1)
        assert snapshot.update == task.checkpoints[number]
    same(alone(task, rates, 5), curve)


def test_a_fresh_trial_can_be_moved(base):
    rates = falling(base)
    for one, other in ((FusedPool, SerialPool), (SerialPool, FusedPool)):
        source, target = one(base, 2), other(base, 2)
        curve = numbers(source.admit(1, rates, 5))
        target.restore(0, source.snapshot(1))
        while target.snapshot(0).update < base.horizon:
            curve += numbers(target.advance()[0])
        same(alone(base, rates, 5), curve)


def test_a_fork_is_as_if_it_had_always_been(base):
    task = replace(base, model=lambda: cnn().double(), optimizer="adamw", ema=0.2)
    rates = falling(task)
    other = np.append(rates[:25], rates[25:] / 3)
    pool = FusedPool(task, 3)
    curves = {0: numbers(pool.admit(0, rates, 5))}
    for segment in range(4):
        if segment == 2:
            fork(pool, 0, 2, other)
            curves[2] = list(curves[0])
        for progress in pool.advance():
            curves[progress.slot] += numbers(progress)
    same(alone(task, rates, 5), curves[0])
    same(alone(task, other, 5), curves[2])


def test_rates_may_be_revised(base):
    rates = falling(base)
    given = rates.copy()
    pool = FusedPool(base, 2)
    pool.admit(1, rates, 2)
    curve = numbers(pool.admit(0, given, 5))
    given[:] = 7.0  # the caller's own again
    for _ in range(4):
        curve += numbers(pool.advance()[0])
        pool.revise(0, np.append(rates[:25], rates[25:] / 3))
    same(alone(base, np.append(rates[:25], rates[25:] / 3), 5), curve)


class Pairs(Dataset):
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return self.split.samples

    def __getitem__(self, row):
        return self.split.inputs[row], self.split.targets[row]


@pytest.mark.parametrize("augmentation", [(), ("flip",)])
def test_streamed_data(augmentation, base, monkeypatch):
    monkeypatch.setattr("lrtune.engine.feed.worker_count", lambda batch_bytes: 0)
    task = replace(base, augment=augmentation)
    streamed = replace(task, train=Pairs(base.train), val=Pairs(base.val), memory=1000)
    rates = falling(task)
    pool = FusedPool(streamed, 3)
    same(alone(task, rates, 5), crowded(pool, 1, rates, 5))
    for slot in range(3):
        pool.release(slot)
    assert not pool.setup.train._live


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 11)

    def forward(self, inputs):
        outputs = self.layer(inputs["pixels"].flatten(1))
        return {"digit": outputs[:, :10], "ink": (outputs[:, 10],)}


def test_trees(base):
    def part(split):
        images = split.inputs.double() / 16
        ink = images.mean((1, 2, 3))
        return Split({"pixels": images, "unused": ink}, {"digit": split.targets, "ink": [ink]})

    def loss(outputs, targets):
        error = F.mse_loss(outputs["ink"][0], targets["ink"][0])
        return F.cross_entropy(outputs["digit"], targets["digit"]) + error

    task = replace(
        base,
        train=part(base.train),
        val=part(base.val),
        prepare=nn.Identity(),
        model=lambda: TwoHeads().double(),
        loss=loss,
        metrics=(
            Metric("split", loss, "minimize"),
            Metric("batch", loss, "minimize", over="batch"),
        ),
        classes=None,
    )
    three_ways(task)


class Fails:
    """Stands in for ``Program.update`` and fails where it is told to."""

    def __init__(self, monkeypatch, when, error):
        self.real, self.calls, self.sizes = Program.update, 0, []
        self.when, self.error = when, error
        monkeypatch.setattr(Program, "update", lambda *given: self(*given))

    def __call__(self, program, rows, *given):
        self.calls += 1
        size = len(next(iter(rows.weights.values())))
        self.sizes.append(size)
        losses = self.real(program, rows, *given)  # the rows are changed by then
        if self.when(size, self.calls):
            raise self.error
        return losses


def all_curves(pool, rates):
    curves = [numbers(pool.admit(slot, rates / (1 + slot), slot)) for slot in range(pool.slots)]
    for _ in range(4):
        for progress in pool.advance():
            curves[progress.slot] += numbers(progress)
    return np.array(curves)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize(
    ("fits", "width", "error"),
    [(4, 3, OUT_OF_MEMORY[0]), (2, 2, OUT_OF_MEMORY[1]), (1, 1, OUT_OF_MEMORY[0])],
    ids=str,
)
def test_less_at_once_where_memory_runs_out(fits, width, error, base, monkeypatch):
    task = replace(base, model=lambda: cnn().double(), ema=0.3, epochs=24 * BATCH / 240)
    rates = falling(task)
    expected = all_curves(FusedPool(task, 5), rates)
    told = []
    pool = FusedPool(task, 5, tell=told.append)
    fails = Fails(monkeypatch, lambda size, calls: size > fits and calls > 8, error)
    same(expected, all_curves(pool, rates))
    assert pool.width == width == max(fails.sizes[-12:])
    assert told[-1] == f"out of memory: from here on {width} trials at once, of 5"
    assert len(told) == {3: 1, 2: 2, 1: 3}[width]


def test_not_even_one_fits(base, monkeypatch):
    pool = FusedPool(base, 2)
    for slot in range(2):
        pool.admit(slot, falling(base), slot)
    before = pool.snapshot(0).tensors
    Fails(monkeypatch, lambda size, calls: True, OUT_OF_MEMORY[0])
    with pytest.raises(torch.OutOfMemoryError):
        pool.advance()
    for name, tensor in pool.snapshot(0).tensors.items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("at", [1, 5, 30])
def test_whatever_else_goes_wrong_the_trials_go_on_serially(at, base, monkeypatch):
    task = replace(base, ema=0.3, augment=("mixup",))
    rates = falling(task)
    told = []
    pool = FusedPool(task, 3, tell=told.append)
    expected = all_curves(SerialPool(task, 3), rates)
    Fails(monkeypatch, lambda size, calls: calls == at, KeyError("what\nnow"))
    same(expected, all_curves(pool, rates))
    assert told == [
        "trials are trained one after the other from here on: together, KeyError: 'what\\nnow'"
    ]
    assert pool.width == 1
    for slot in range(3):
        pool.release(slot)
    same(alone(task, rates, 5), train(pool, 1, rates, 5))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("the data has changed")])
def test_an_interrupted_segment_is_undone(error, base, monkeypatch):
    rates = falling(base)
    pool = FusedPool(base, 2)
    curve = numbers(pool.admit(1, rates, 5)) + numbers(pool.advance()[0])
    with monkeypatch.context() as patch:
        Fails(patch, lambda size, calls: calls == 7, error)
        with pytest.raises(type(error)):
            pool.advance()
    pool.restore(0, pool.snapshot(1))
    for _ in range(3):
        one, other = pool.advance()
        assert numbers(one) == numbers(other)
        curve += numbers(other)
    same(alone(base, rates, 5), curve)


def test_a_diverged_row_disturbs_no_other(base):
    task = replace(base, model=lambda: cnn().double(), clip_norm=1.0, ema=0.3)
    rates = falling(task)
    pool = FusedPool(task, 3)
    for slot in (0, 2):
        pool.admit(slot, np.full(task.horizon, 1e300), slot)
    curve = numbers(pool.admit(1, rates, 5))
    for _ in range(4):
        first, second, third = pool.advance()
        curve += numbers(second)
        assert first.error is None and not np.isfinite([first.loss, third.loss]).any()
    same(alone(task, rates, 5), curve)
    for slot in range(3):
        pool.release(slot)
    same(alone(task, rates, 7), train(pool, 0, rates, 7))  # nothing of it is left in the row


@pytest.mark.parametrize("over", ["split", "batch"])
@pytest.mark.parametrize("pool", [SerialPool, FusedPool])
def test_a_metric_that_raises_fails_its_own_slot(pool, over, base, monkeypatch):
    monkeypatch.setattr("lrtune.engine.feed.EVALUATION_BATCH", 25)

    def fragile(outputs, targets):
        if not bool(torch.isfinite(outputs).all()):
            raise ArithmeticError("no\nnumber")
        return outputs.mean()

    metric = Metric("fragile", fragile, "minimize", over=over)
    task = replace(base, metrics=(ACCURACY, metric))
    rates = falling(task)
    expected = alone(task, rates, 5)
    trials = pool(task, 3)
    curve = numbers(trials.admit(1, rates, 5))
    trials.admit(0, np.full(50, 1e300), 1)
    for _ in range(4):
        broken, fine = trials.advance()
        curve += numbers(fine)
        assert broken.error == "ArithmeticError: no\nnumber"
        assert "in fragile" in broken.traceback
        assert (broken.metrics, len(broken.losses)) == ({}, 0)
        assert np.isnan(broken.loss)
    same(expected, curve)


def test_a_metric_that_always_raises(base):
    def broken(outputs, targets):
        raise ArithmeticError("no number")

    pool = FusedPool(replace(base, metrics=(Metric("broken", broken, "minimize"),)), 2)
    assert pool.admit(1, falling(base), 0).error == "ArithmeticError: no number"
    pool.release(1)
    assert pool.admit(1, falling(base), 0).update == 0


def test_the_callers_generators_are_untouched(base):
    task = replace(base, augment=("mixup",), ema=0.3)
    before = torch.get_rng_state()
    pool = FusedPool(task, 3)
    pool.try_updates(3)
    crowded(pool, 1, falling(task), 0)
    pool.restore(pool.release(1) or 1, pool.snapshot(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_trying_out_leaves_nothing_behind(base, monkeypatch):
    monkeypatch.setattr("lrtune.engine.feed.worker_count", lambda batch_bytes: 0)
    streamed = replace(base, train=Pairs(base.train), memory=1000)
    for task in (base, streamed):
        pool = FusedPool(task, 2)
        for count in (1, 3):
            pool.try_updates(count)
        same(alone(base, falling(base), 5), train(pool, 1, falling(base), 5))
        pool.release(1)
    assert not pool.setup.train._live


def test_validation_takes_no_more_memory_than_training(base, monkeypatch):
    """Models at once times samples: twice those of an update, and no more rows than its."""
    seen = []
    real = Program.outputs

    def outputs(self, models, inputs, at_once):
        seen.append((len(next(iter(models.values()))), at_once, len(inputs)))
        return real(self, models, inputs, at_once)

    task = replace(base, val=base.train)
    pool = FusedPool(task, 6)
    Fails(monkeypatch, lambda size, calls: size > 3, OUT_OF_MEMORY[0])
    monkeypatch.setattr(Program, "outputs", outputs)
    all_curves(pool, falling(task))
    segments = [one for one in seen if one[0] > 1]
    assert segments == [(3, 1, 240)] * 16  # the weights, and their averages
    assert all(at_once == 1 or at_once * n <= 2 * 6 * BATCH for _, at_once, n in seen)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda pool: pool.admit(1, np.ones(49), 0), ValueError, r"\(49,\), expected \(50,\)"),
        (lambda pool: pool.revise(0, np.ones(51)), ValueError, r"\(51,\), expected \(50,\)"),
        (lambda pool: pool.admit(0, np.ones(50), 0), RuntimeError, "slot 0 is occupied: release"),
        (lambda pool: pool.restore(0, pool.snapshot(0)), RuntimeError, "slot 0 is occupied"),
        (lambda pool: pool.admit(2, np.ones(50), 0), IndexError, "slot 2: there are 0 to 1"),
        (lambda pool: pool.admit(-1, np.ones(50), 0), IndexError, "slot -1: there are 0 to 1"),
        (lambda pool: pool.revise(1, np.ones(50)), RuntimeError, "slot 1 is free"),
        (lambda pool: pool.snapshot(1), RuntimeError, "slot 1 is free"),
        (lambda pool: pool.try_updates(1), RuntimeError, "there are trials in the pool"),
        (lambda pool: FusedPool(pool.task, 0), InputError, "slots=0: at least 1"),
    ],
)
def test_misuse_is_refused(call, error, message, base):
    pool = FusedPool(base, 2)
    pool.admit(0, falling(base), seed=0)
    with pytest.raises(error, match=message):
        call(pool)
    pool.release(1)  # nothing to release is no misuse
    assert [progress.slot for progress in pool.advance()] == [0]


def test_a_trial_that_is_over(base):
    pool = FusedPool(base, 1)
    assert pool.advance() == []
    train(pool, 0, falling(base), 0)
    with pytest.raises(RuntimeError, match="the trial is over"):
        pool.advance()
    assert pool.width == 1


def test_compiled_is_eager(base, digits):
    """In float32."""
    task = replace(base, model=mlp, prepare=digits.prepare, clip_norm=1.0, ema=0.3, groups=decays)
    task = replace(task, epochs=4 * BATCH / 240)
    rates = falling(task)
    eager, compiled = (all_curves(FusedPool(task, 2, compiled=c), rates) for c in (False, True))
    np.testing.assert_allclose(compiled, eager, rtol=1e-6)


def test_a_compiled_program_shrinks_at_the_tail(base, monkeypatch):
    """Without the compiler's last part, which takes long: the sizes, and what changes in place."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr("lrtune.engine.sizes.WORTH_COMPILING", 0.0)
    sizes: list[int] = []
    task = replace(base, ema=0.3, clip_norm=0.5, epochs=8 * BATCH / 240)
    rates = falling(task)
    pool = FusedPool(task, 4, compiled=True)
    matrix = pool._pool
    update = matrix._update
    matrix._update = lambda size: sizes.append(size) or update(size)
    curves = [numbers(pool.admit(slot, rates / (1 + slot), slot)) for slot in range(4)]
    for gone in (1, 3, 0, None):
        for progress in pool.advance():
            curves[progress.slot] += numbers(progress)
        if gone is not None:
            pool.release(gone)
    assert sizes == [4, 4, 2, 1]
    for slot, curve in enumerate(curves):
        expected = alone(task, rates / (1 + slot), slot)
        np.testing.assert_allclose(curve, expected[: len(curve)], rtol=1e-9)


def test_no_program_uses_up_what_another_may_compile(monkeypatch):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for size in range(2, 14):
        compiled_apart(lambda tensor: tensor + 1)(torch.zeros(size))
        assert len(graphs) == size - 1


@pytest.mark.parametrize(
    ("ready", "needed", "updates", "expected"),
    [
        ({}, 5, 100, 8),  # nothing is compiled: the smallest of 16, 8, 4, 2, 1 that holds them
        ({16: 1.0}, 16, 100, 16),
        ({16: 1.0}, 9, 100, 16),
        ({16: 1.0}, 3, 100, 4),  # saves 3/4 of 100 s: more than twice the 10 s of compiling
        ({16: 1.0}, 3, 20, 16),
        ({16: 1.0, 8: 0.5}, 3, 20, 8),
        ({16: 1.0, 2: 0.1}, 3, 10, 16),
    ],
)
def test_sizes(ready, needed, updates, expected):
    sizes = Sizes()
    for size, pace in ready.items():
        sizes.took(size, 10.0, pace)
    assert sizes.fit(needed, 16, updates) == expected
