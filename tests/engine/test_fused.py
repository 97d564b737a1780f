"""FusedPool: fused is serial is plain PyTorch, wherever a trial goes; misuse; compiled programs."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from transformers import GPT2Config, GPT2LMHeadModel

from lrtune.engine import OPTIMIZERS, FusedPool, SerialPool
from lrtune.engine.checkpoint import load, save
from lrtune.engine.device_task import compile_alone
from lrtune.engine.fused import CompiledSizes
from lrtune.engine.optimizers import settings_of
from lrtune.errors import InputError
from lrtune.schedule import FAMILIES, Schedule
from lrtune.tasks import Metric, Split, Task
from lrtune.tasks.groups import tuned_groups
from lrtune.tasks.metrics import CROSS_ENTROPY, CrossEntropy, model_loss
from lrtune.tasks.models import model_maker, transformer
from lrtune.tasks.tokens import Tokenizer
from tests.engine.trials import (
    BATCH,
    PLAIN,
    RATE,
    Pairs,
    TwoHeads,
    all_curves,
    alone,
    cnn,
    crowded,
    decays,
    falling,
    mlp,
    numbers,
    plainly,
    same,
    train,
    width,
)


def three_ways(task, slots=2, slot=1, seed=5, rtol=1e-9):
    rates = falling(task)
    torch.manual_seed(0)
    pool = FusedPool(task, slots)
    curves = alone(task, rates, seed), crowded(pool, slot, rates, seed)
    same(plainly(task, rates, seed), *curves, rtol=rtol)
    assert width(pool) == slots


@pytest.mark.parametrize("model", [mlp, cnn])
@pytest.mark.parametrize("optimizer", PLAIN)
def test_fused_is_serial_is_plain_pytorch(optimizer, model, fifty):
    three_ways(replace(fifty, optimizer=optimizer, model=lambda: model().double()))


def test_muon_is_nearly_serial(fifty):
    """It makes matrices orthogonal in bfloat16, whose sums depend on how many there are."""
    task = replace(fifty, optimizer="muon", model=lambda: mlp().double())
    pool, rates = FusedPool(task, 2), falling(task)
    np.testing.assert_allclose(train(pool, 1, rates, 5), alone(task, rates, 5), rtol=0.02)


@pytest.mark.parametrize(
    ("optimizer", "labelled"), [("sgd", False), ("adamw", False), ("adamw", True)]
)
def test_a_transformer(optimizer, labelled, fifty, monkeypatch):
    """Rows of pixels as characters, each to tell the next or, padded, all the digit; one layer."""
    for name, value in (("LAYERS", 1), ("WIDTH", 16), ("HEADS", 2)):
        monkeypatch.setattr(f"lrtune.tasks.models.{name}", value)
    tokenizer = Tokenizer("pixels", np.array, 17, padding=17)

    def text(split):
        rows = split.inputs.flatten(1)
        inputs, following = rows[:, 20:28].clone(), rows[:, 21:29].clone()
        if not labelled:
            return Split(inputs, following)
        inputs[::2, 5:] = tokenizer.padding
        return Split(inputs, split.targets)

    make = partial(transformer, (8,), 17)
    given = {
        "loss": CrossEntropy(),
        "metrics": (Metric("cross_entropy", CrossEntropy(), "minimize"),),
        "classes": None,
    }
    if labelled:
        make = model_maker("transformer", (8,), fifty.classes, tokenizer=tokenizer)
        given = {}
    task = replace(
        fifty,
        train=text(fifty.train),
        val=text(fifty.val),
        prepare=nn.Identity(),
        model=lambda: make().double(),
        optimizer=optimizer,
        batch_size=8,
        epochs=50 * 8 / 240,
        **given,
    )
    three_ways(task)


def test_a_model_that_computes_its_loss(fifty):
    """A GPT-2, called with keywords: of its outputs the user's own metric has the names too."""
    off = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    config = GPT2Config(vocab_size=17, n_positions=8, n_embd=8, n_layer=1, n_head=2, **off)

    def text(split):
        rows = split.inputs.flatten(1)[:, 20:28].long()
        return {"input_ids": rows, "labels": rows}

    def surest(outputs, targets):
        return outputs.logits.max()

    task = Task(
        name="gpt2",
        train=text(fifty.train),
        val=text(fifty.val),
        model=lambda: GPT2LMHeadModel(config).double(),
        metrics=(
            Metric("loss", model_loss, "minimize", over="batch"),
            Metric("surest", surest, "minimize"),
        ),
        optimizer="adamw",
        batch_size=8,
        epochs=20 * 8 / 240,
        validations=2,
    )
    three_ways(task, rtol=1e-5)  # transformers computes the loss in float32
    for pool in SerialPool(task), FusedPool(task, 2):
        pool.device_task.val.part = 25  # of 60: the loss is of each batch
        pool.start(0, falling(task), 0)
        judged = pool.evaluate(0)
        assert sum(judged.blocks) / len(judged.blocks) == pytest.approx(judged.loss, rel=1e-6)
        assert len({*judged.blocks}) == len(judged.blocks) == 12


@pytest.mark.slow
@pytest.mark.parametrize("updates", [2, 50])
def test_resnet18(fifty, updates):
    def three_channels(split):
        return Split(split.inputs.double().expand(-1, 3, -1, -1) / 16, split.targets)

    make = model_maker("resnet18", (3, 8, 8), 10)
    task = replace(
        fifty,
        train=three_channels(fifty.train),
        val=three_channels(fifty.val).part(0, 8),
        prepare=nn.Identity(),
        model=lambda: make().double(),
        batch_size=8,
        epochs=updates * 8 / 240,
        validations=1,
        clip_norm=5.0,
        ema=0.5,
    )
    rates = falling(task) / 10
    pool = FusedPool(task, 2)
    pool.start(0, rates, 3)
    same(plainly(task, rates, 5), train(pool, 1, rates, 5))


def in_parts(model):
    """Several settings, and parameters that are in no group."""
    first, *_, last = [m for m in model.modules() if list(m.parameters(recurse=False))]
    return [
        {"params": list(first.parameters()), "lr_ratio": 0.3},
        {"params": list(last.parameters())[:1], "weight_decay": 0.1, "lr_ratio": 2},
    ]


WEIGHTED = CrossEntropy(0.1, torch.linspace(0.5, 2, 10).double())
VARIANTS = {
    "clipping": {"clip_norm": 0.5},
    "average": {"ema": 0.3},
    "smoothing and weights of classes": {"loss": WEIGHTED},
    "flip": {"augment": ("flip",)},
    "mixup": {"augment": ("crop", "mixup")},
    "some parameters": {"groups": in_parts},
    "by name": {"groups": "head=10x,0=0.1x", "layer_decay": 0.7, "freeze": ("4", "5"), "ema": 0.3},
    "momentum of none": {"settings": {"momentum": 0.0}},
    "L2": {"settings": {"weight_decay": 0.1}},
    **{
        f"decay by the {by}": {
            "groups": decays,
            "optimizer": "adamw",
            "settings": {"weight_decay_by": by},
        }
        for by in ("peak", "schedule")
    },
    "all": {
        "clip_norm": 0.5,
        "ema": 0.3,
        "loss": WEIGHTED,
        "augment": ("flip", "crop", "cutout", "mixup"),
        "groups": decays,
        "optimizer": "adamw",
        "settings": {"amsgrad": True},
    },
    **{f"groups of {name}": {"groups": decays, "optimizer": name} for name in PLAIN},
}


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_every_setting(change, fifty):
    task = replace(fifty, model=lambda: cnn().double(), epochs=14 * BATCH / 240)
    three_ways(replace(task, **change))


@pytest.mark.parametrize("augmentation", [(), ("flip",)])
def test_streamed_data(augmentation, fifty, no_workers):
    task = replace(fifty, augment=augmentation)
    streamed = replace(task, train=Pairs(fifty.train), val=Pairs(fifty.val), memory=1000)
    rates = falling(task)
    pool = FusedPool(streamed, 3)
    same(alone(task, rates, 5), crowded(pool, 1, rates, 5))
    for slot in range(3):
        pool.release(slot)
    assert not pool.device_task.train._live


def test_trees(fifty):
    def part(split):
        images = split.inputs.double() / 16
        ink = images.mean((1, 2, 3))
        return Split({"pixels": images, "unused": ink}, {"digit": split.targets, "ink": [ink]})

    def loss(outputs, targets):
        error = F.mse_loss(outputs["ink"][0], targets["ink"][0])
        return F.cross_entropy(outputs["digit"], targets["digit"]) + error

    task = replace(
        fifty,
        train=part(fifty.train),
        val=part(fifty.val),
        prepare=nn.Identity(),
        model=lambda: TwoHeads().double(),
        loss=loss,
        metrics=(
            Metric("split", loss, "minimize"),
            Metric("batch", loss, "minimize", over="batch"),
        ),
        classes=None,
    )
    three_ways(task, slots=3)


# A momentum cycle.
KNOBS = {"base_momentum": 0.6, "max_momentum": 0.97}
CYCLES = {
    "one_cycle": {**KNOBS, "pct_start": 0.4},
    "cyclic": {**KNOBS, "step_size_up": 0.2, "mode": "triangular2"},
}
CYCLED = {
    **{name: {"optimizer": name} for name in PLAIN if OPTIMIZERS[name].cycled},
    "sgd without": {"settings": {"momentum": 0.0}},
    "nesterov with L2": {"optimizer": "nesterov", "settings": {"weight_decay": 0.1}},
    "amsgrad": {"optimizer": "adam", "settings": {"amsgrad": True, "weight_decay": 0.1}},
    "adam without": {"optimizer": "adam", "settings": {"betas": (0.0, 0.99)}},
    "centered": {"optimizer": "rmsprop", "settings": {"centered": True, "momentum": 0.9}},
    "clipped, averaged, in groups": {"clip_norm": 0.5, "ema": 0.3, "groups": decays},
}


def cycle(task, family="one_cycle"):
    """A schedule, its rates and its momenta."""
    schedule = Schedule(family, RATE.get(task.optimizer, 5e-3), knobs=CYCLES[family])
    return schedule, schedule.rates(task.horizon), schedule.momenta(task.horizon)


@pytest.mark.parametrize("family", CYCLES)
@pytest.mark.parametrize("change", CYCLED.values(), ids=CYCLED)
def test_a_momentum_cycle_is_torchs_scheduler(change, family, fifty):
    """Beside neighbours whose momentum is the optimizer's own."""
    task = replace(fifty, **change)
    schedule, rates, momenta = cycle(task, family)
    params = schedule.resolve(task.horizon)
    del params["peak_lr"], params["warmup_steps"]
    torchs = partial(getattr(lr_scheduler, FAMILIES[family].torch), **params)
    pool = FusedPool(task, 3)
    curve = alone(task, rates, 5, momenta)
    if task.groups is None:  # torch's sets the rate of all groups alike
        same(plainly(task, rates, 5, torchs), curve)
    same(curve, crowded(pool, 1, rates, 5, momenta))
    assert width(pool) == 3
    for slot in range(3):
        pool.release(slot)
    same(alone(task, rates, 5), crowded(pool, 1, rates, 5))  # it has left nothing behind


# Numbers that a row may have for itself, where its optimizer has them.
OTHERS = {
    **{"weight_decay": 0.3, "momentum": 0.6, "betas": (0.7, 0.9), "eps": 1e-3, "alpha": 0.7},
    **{"lr_decay": 0.1, "rho": 0.5, "momentum_decay": 0.1},
}


def others(name):
    return {setting: OTHERS[setting] for setting in settings_of(name, {}) if setting in OTHERS}


@pytest.mark.parametrize("groups", [None, decays], ids=["one group", "groups"])
@pytest.mark.parametrize("name", [*PLAIN, "muon"])
def test_a_row_of_its_own_settings_is_trained_as_a_task_of_these(name, groups, fifty):
    """Beside rows of the task's own settings; groups with a value of their own keep it."""
    task, own = replace(fifty, optimizer=name, groups=groups), others(name)
    rates, pool = falling(task), FusedPool(task, 3)
    same(
        alone(replace(task, settings=own), rates, 5),
        alone(task, rates, 5, None, own),
        crowded(pool, 1, rates, 5, None, own),
    )
    assert width(pool) == 3
    for slot in range(3):
        pool.release(slot)
    smoothed = {"label_smoothing": 0.2, **own}
    same(alone(task, rates, 5, None, smoothed), crowded(pool, 1, rates, 5, None, smoothed))
    for slot in range(3):
        pool.release(slot)
    same(alone(task, rates, 5), crowded(pool, 1, rates, 5))  # it has left nothing behind


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_row_has_its_own_ratios_and_cooldowns_by_name(name, fifty):
    named = {"groups": "head=2x,1=0.5x", "layer_decay": 0.7, "optimizer": name}
    task, rates = replace(fifty, **named), falling(fifty) / 5
    own = {"head.lr_ratio": 5.0, "head.cooldown": 0.3, "1.cooldown": 1.0}
    changed = replace(task, groups=tuned_groups(task.groups, own))

    def cooling(optimizer):
        factors = [
            lambda t, g=g: (
                rates[min(t, 49)] * g["lr_ratio"] * min(1, (50 - t) / 50 / (g["cooldown"] or 1e-9))
            )
            for g in changed.groups(task.model())
        ]
        return lr_scheduler.LambdaLR(optimizer, factors)

    pool = FusedPool(task, 3)
    same(
        plainly(changed, rates, 5, cooling),
        alone(task, rates, 5, None, own),
        crowded(pool, 1, rates, 5, None, own),
    )
    assert width(pool) == 3
    for slot in range(3):
        pool.release(slot)
    same(alone(task, rates, 5), crowded(pool, 1, rates, 5))  # it has left nothing behind


@pytest.mark.parametrize("kind", [SerialPool, FusedPool])
@pytest.mark.parametrize("loss", [F.cross_entropy, CrossEntropy(0.1), WEIGHTED])
def test_label_smoothing_is_of_training_alone(loss, kind, fifty):
    weight = loss.weight if isinstance(loss, CrossEntropy) else None
    losses, curves = [], []
    for own, settings in (
        (loss, {}),
        (loss, {"label_smoothing": 0.3}),
        (CrossEntropy(0.3, weight), {}),
    ):
        pool = kind(replace(fifty, loss=own, metrics=(CROSS_ENTROPY,)), 1)
        losses.append(pool.start(0, falling(fifty), 5, None, settings).loss)
        reached = pool.advance()[0]
        curves.append([reached.metrics["cross_entropy"], *reached.losses])
    same(*curves[1:])
    assert losses[0] == losses[1] != losses[2]


MOVED = [
    *({"optimizer": name, "ema": 0.3, "clip_norm": 0.5} for name in PLAIN),
    {"settings": {"momentum": 0.0}},
]


@pytest.mark.parametrize("cycled", [False, True])
@pytest.mark.parametrize("change", MOVED, ids=str)
def test_a_trial_goes_on_in_any_pool(change, cycled, fifty, tmp_path):
    """Also from a file, with its momentum cycle and settings of its own."""
    task = replace(fifty, model=lambda: cnn().double(), **change)
    if cycled and not OPTIMIZERS[task.optimizer].cycled:
        pytest.skip("no momentum")
    _, rates, momenta = cycle(task) if cycled else (None, falling(task), None)
    curve: list[float] = []
    own = {"label_smoothing": 0.2, **others(task.optimizer)}
    snapshot = None
    pools = [SerialPool(task, 2), FusedPool(task, 3), FusedPool(task, 4), SerialPool(task, 2)]
    for number, pool in enumerate(pools):
        pool.start(0, falling(task), 1)
        if snapshot is None:
            curve += numbers(pool.start(1, rates, 5, momenta, own))
        else:
            pool.restore(1, snapshot)
        curve += numbers(pool.advance()[1])
        save(tmp_path / "c", {"0": pool.snapshot(0), "1": pool.snapshot(1)}, {"0": {}, "1": {}})
        kept = load(tmp_path / "c")
        assert kept["0"][0].momenta is None and not kept["0"][0].settings
        snapshot = kept["1"][0]
        assert snapshot.update == task.checkpoints[number]
    same(alone(task, rates, 5, momenta, own), curve)


def test_a_fresh_trial_can_be_moved(fifty):
    rates = falling(fifty)
    for one, other in ((FusedPool, SerialPool), (SerialPool, FusedPool)):
        source, target = one(fifty, 2), other(fifty, 2)
        curve = numbers(source.start(1, rates, 5))
        target.restore(0, source.snapshot(1))
        for _ in range(4):
            curve += numbers(target.advance()[0])
        same(alone(fifty, rates, 5), curve)


def test_rates_may_be_revised(fifty):
    rates = falling(fifty)
    given = rates.copy()
    pool = FusedPool(fifty, 2)
    pool.start(1, rates, 2)
    curve = numbers(pool.start(0, given, 5))
    given[:] = 7.0  # the caller's own again
    for _ in range(4):
        curve += numbers(pool.advance()[0])
        pool.revise(0, np.append(rates[:25], rates[25:] / 3))
    same(alone(fifty, np.append(rates[:25], rates[25:] / 3), 5), curve)


@pytest.mark.parametrize("make", [FusedPool, SerialPool])
def test_trying_out_leaves_nothing_behind(make, fifty, no_workers):
    mixed = replace(fifty, augment=("mixup",), ema=0.3)
    for task in (mixed, replace(mixed, train=Pairs(fifty.train), memory=1000)):
        before = torch.get_rng_state()
        pool = make(task, 2)
        for count in (1, 3):
            pool.try_updates(count)
        assert not getattr(pool.device_task.train, "_live", None)  # no workers that read ahead
        same(alone(mixed, falling(fifty), 5), crowded(pool, 1, falling(fifty), 5))
        pool.restore(pool.release(1) or 1, pool.snapshot(0))
        assert torch.equal(torch.get_rng_state(), before)  # the caller's


MISUSE = [
    (lambda pool: pool.start(1, np.ones(49), 0), ValueError, r"rates .*\(49,\), expected \(50,\)"),
    (lambda pool: pool.start(1, np.ones((1, 50)), 0), ValueError, r"\(1, 50\), expected \(50,\)"),
    (lambda pool: pool.revise(0, np.ones(51)), ValueError, r"\(51,\), expected \(50,\)"),
    (lambda pool: pool.start(1, np.ones(50), 0, np.ones(49)), ValueError, r"momenta has .*\(49,"),
    (lambda pool: pool.start(0, np.ones(50), 0), RuntimeError, "slot 0 is occupied: release"),
    (lambda pool: pool.restore(0, pool.snapshot(0)), RuntimeError, "slot 0 is occupied"),
    (lambda pool: pool.revise(1, np.ones(50)), RuntimeError, "slot 1 is free"),
    (lambda pool: pool.snapshot(1), RuntimeError, "slot 1 is free"),
    (lambda pool: type(pool)(pool.task, 0), InputError, "slots=0: at least 1"),
    (
        lambda pool: type(pool)(replace(pool.task, optimizer="sdg")),
        InputError,
        "did you mean 'sgd'",
    ),
]
FUSED_MISUSE = [
    (lambda pool: pool.start(2, np.ones(50), 0), IndexError, "slot 2: there are 0 to 1"),
    (lambda pool: pool.start(-1, np.ones(50), 0), IndexError, "slot -1: there are 0 to 1"),
    (lambda pool: pool.try_updates(1), RuntimeError, "there are trials in the pool"),
]


@pytest.mark.parametrize("make", [FusedPool, SerialPool])
def test_misuse_is_refused(make, fifty):
    pool = make(fifty, 2)
    pool.start(0, falling(fifty), seed=0)
    for call, error, message in MISUSE + (FUSED_MISUSE if make is FusedPool else []):
        with pytest.raises(error, match=message):
            call(pool)
    pool.release(1)  # nothing to release is no misuse
    assert [progress.slot for progress in pool.advance()] == [0]
    with pytest.raises(InputError, match="optimizer adagrad has no momentum to cycle: take one of"):
        make(replace(fifty, optimizer="adagrad"), 2).start(0, np.ones(50), 0, np.ones(50))


def test_a_trial_that_is_over(fifty):
    pool = FusedPool(fifty, 1)
    assert pool.advance() == []
    train(pool, 0, falling(fifty), 0)
    with pytest.raises(RuntimeError, match="the trial is over"):
        pool.advance()
    assert width(pool) == 1


def test_compiled_is_eager(fifty, digits):
    """In float32."""
    task = replace(fifty, model=mlp, prepare=digits.prepare, clip_norm=1.0, ema=0.3, groups=decays)
    task = replace(task, epochs=4 * BATCH / 240)
    rates = falling(task)
    eager, compiled = (all_curves(FusedPool(task, 2, compiled=c), rates) for c in (False, True))
    np.testing.assert_allclose(compiled, eager, rtol=1e-6)


@pytest.fixture
def quick_compiler(monkeypatch):
    """Without the compiler's last part, which takes long."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.parametrize("optimizer", ["nesterov", "adamw", "rmsprop"])
def test_a_compiled_program_has_the_momentum_cycle(optimizer, fifty, quick_compiler):
    task = replace(fifty, optimizer=optimizer, epochs=8 * BATCH / 240)
    _, rates, momenta = cycle(task)
    pool = FusedPool(task, 2, compiled=True)
    same(alone(task, rates, 5, momenta), crowded(pool, 1, rates, 5, momenta))
    assert width(pool) == 2


def test_a_compiled_program_shrinks_at_the_tail(fifty, monkeypatch, quick_compiler):
    """The sizes, and what changes in place."""
    monkeypatch.setattr("lrtune.engine.fused.WORTH_COMPILING", 0.0)
    sizes: list[int] = []
    task = replace(fifty, ema=0.3, clip_norm=0.5, epochs=8 * BATCH / 240)
    rates = falling(task)
    pool = FusedPool(task, 4, compiled=True)
    update = pool._pool._update
    pool._pool._update = lambda size: sizes.append(size) or update(size)
    curves = [numbers(pool.start(slot, rates / (1 + slot), slot)) for slot in range(4)]
    for gone in (1, 3, 0, None):
        for progress in pool.advance():
            curves[progress.slot] += numbers(progress)
        if gone is not None:
            pool.release(gone)
    assert sizes == [4, 4, 2, 2]  # never one alone
    for slot, curve in enumerate(curves):
        same(alone(task, rates / (1 + slot), slot)[: len(curve)], curve)


@pytest.mark.skipif(torch.__version__ < "2.14", reason="all programs count together")
def test_no_program_uses_up_what_another_may_compile(monkeypatch):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    def add_one(tensor):
        return tensor + 1

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for size in range(2, 14):
        compile_alone(add_one)(torch.zeros(size))
        assert len(graphs) == size - 1


@pytest.mark.parametrize(
    ("ready", "needed", "updates", "expected"),
    [
        ({}, 5, 1000, 16),  # nothing is compiled: what may have been, in another pool
        ({4: 1.0}, 5, 1000, 16),
        ({16: 1.0}, 16, 1000, 16),
        ({16: 1.0}, 9, 1000, 16),
        ({16: 1.0}, 3, 200, 4),  # saves 3/4 of 200 s: more than twice what compiling may take
        ({16: 1.0}, 3, 150, 16),  # which is more than what the first took
        ({16: 1.0, 8: 0.5}, 3, 150, 8),
        ({16: 1.0, 2: 0.1}, 3, 10, 16),
    ],
)
def test_sizes(ready, needed, updates, expected):
    sizes = CompiledSizes()
    for size, pace in ready.items():
        sizes.took(size, 10.0, pace)
    assert sizes.fit(needed, 16, updates) == expected


def test_patterns_of_one_ratio_keep_numbers_of_their_own(fifty):
    """Their parameters have the same settings until a row tunes one of them."""
    own = {"1.lr_ratio": 2.0, "3.lr_ratio": 0.5}
    task = replace(fifty, groups="1=10x,3=10x", tuned=tuple(own), model=lambda: mlp().double())
    curves = []
    for kind in (SerialPool, FusedPool):
        pool = kind(task, 2)
        pool.start(0, falling(task), 5, settings=own)
        pool.start(1, falling(task), 5)
        curves.append(np.concatenate([pool.advance()[0].losses for _ in task.checkpoints]))
    same(*curves, rtol=1e-9)
