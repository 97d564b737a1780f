"""The torch schedulers in real training loops: the rates of the table, saved and resumed."""

import copy
import io
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, SequentialLR

from lrtune.errors import InputError, ScheduleWarning
from lrtune.schedule import FAMILIES, Schedule
from lrtune.scheduler import scheduler
from tests.callbacks.trainings import Overflowing
from tests.export.conftest import SCHEDULES
from tests.export.frameworks import controller_rates, run

TOTAL = 40


def optimizer_with(*lrs, make=SGD, lr=1.0):
    """One parameter group for each lr; None has no lr of its own."""
    groups = [
        {"params": [nn.Parameter(torch.ones(1))]} | ({} if own is None else {"lr": own})
        for own in lrs
    ]
    return make(groups, lr=lr)


def train(follow, start=0, stop=TOTAL, metrics=None):
    """The rates used by updates start … stop-1: [updates, groups]."""
    optimizer, used = follow.optimizer, []
    for update in range(start, stop):
        optimizer.zero_grad()
        sum(group["params"][0] for group in optimizer.param_groups).backward()
        used.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        follow.step()
        if update + 1 in (metrics or {}):
            follow.step(metrics[update + 1])
    return np.array(used)


@pytest.fixture
def told(every, metrics):
    """What a closed loop is told, and an open one is not."""
    return metrics if every.closed_loop else {}


def stored(state):
    """The state after a trip through a file that holds data only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_rates(used, rates, ratios=(1.0,)):
    np.testing.assert_allclose(used, np.outer(rates, ratios), rtol=0, atol=1e-12)


RATIOS = [([0.5], [0.5]), ([None, 3.0, 0.5, 0.0], [1, 3, 0.5, 0])]


@pytest.mark.parametrize(("lrs", "ratios"), RATIOS)
def test_it_trains_at_the_schedules_rates(every, told, lrs, ratios):
    follow = scheduler(every, optimizer_with(*lrs), TOTAL)
    rates = controller_rates(every, told)
    assert_rates(train(follow, metrics=told), rates, ratios)
    if every.closed_loop:
        assert follow.get_last_lr() == [rates[-1] * ratio for ratio in ratios]


def test_it_is_torchs_own_class(every):
    row, follow = FAMILIES[every.family], scheduler(every, optimizer_with(None), TOTAL)
    native = every.closed_loop or (row.torch != "LambdaLR" and row.native(every.resolve(TOTAL)))
    expected = getattr(lr_scheduler, row.torch) if native else LambdaLR
    chained = native and every.warmup and not every.closed_loop
    assert isinstance(follow, SequentialLR if chained else expected)


STATES = [("os", 17), ("so", 17), ("s", 2), ("s", TOTAL)]


@pytest.mark.parametrize("state", [0, 1])
def test_it_resumes(every, told, state):
    """With the optimizer's state loaded before; and in one of the other ways."""
    order, stop = STATES[state and 1 + SCHEDULES.index(every) % 3]
    first = scheduler(every, optimizer_with(None, 2.0), TOTAL)
    used = train(first, 0, stop, told)
    again = scheduler(every, optimizer_with(None, 2.0), TOTAL)
    parts = {"o": (again.optimizer, first.optimizer), "s": (again, first)}
    for part, saved in (parts[letter] for letter in order):
        part.load_state_dict(stored(saved.state_dict()))
    assert again.get_last_lr() == pytest.approx(first.get_last_lr(), abs=1e-12)
    used = [*used, *train(again, stop, metrics=told)]
    assert_rates(used, controller_rates(every, told), (1, 2))


def test_it_retargets(every, told):
    """A closed loop keeps what it was told of the run of before."""
    stop = TOTAL if every.closed_loop else 17
    first = scheduler(every, optimizer_with(None), TOTAL)
    train(first, 0, stop, told)
    longer = scheduler(every, optimizer_with(None), 60, on_changed_total="retarget")
    longer.load_state_dict(stored(first.state_dict()))
    assert_rates(train(longer, stop, 60), controller_rates(every, told, 60)[stop:])


def test_a_scheduler_can_go_back():
    follow = scheduler(Schedule("step", 0.5, 0.1), optimizer_with(None), TOTAL)
    start = follow.state_dict()
    train(follow)
    follow.load_state_dict(start)
    assert_rates(train(follow), Schedule("step", 0.5, 0.1).rates(TOTAL))


def test_ratios_survive_a_second_schedule():
    optimizer = optimizer_with(None, 3.0, lr=0.1)
    train(scheduler(Schedule("one_cycle", 0.5), optimizer, TOTAL))
    second = Schedule("cyclic", 0.2)
    assert_rates(train(second.torch(optimizer, TOTAL)), second.rates(TOTAL), (1, 30))


def test_lr_tensors_are_filled_in_place(opened):
    lr = torch.tensor(1.0, dtype=torch.float64)
    follow = scheduler(opened, optimizer_with(None, make=AdamW, lr=lr), TOTAL)
    (group,) = follow.optimizer.param_groups
    held = group["lr"]
    assert_rates(train(follow), opened.rates(TOTAL))
    assert group["lr"] is held


def test_nothing_is_compiled_anew_at_every_update():
    """The hooks that count updates cost a compiled optimizer step no graph."""
    optimizer, graphs = optimizer_with(None), []
    follow = scheduler(Schedule("cosine", 0.1), optimizer, TOTAL)

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    step = torch.compile(optimizer.step, backend=backend)
    for _ in range(TOTAL):
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's compiler has its own to say
            step()
        follow.step()
    assert follow.watch.updates == TOTAL - 1  # since the first step
    assert len(graphs) <= 2


LINEAR = Schedule("linear", peak_lr=0.5)
SKIPPED = (0, 1, 9, 10, 11, 25)  # batches with gradients that are not finite


def scaled(follow, every=1, zero="after", start=0):
    """The rates of the updates that a GradScaler let be made; step() is called for each batch."""
    (weights,), used = follow.optimizer.param_groups[0]["params"], []
    scaler = Overflowing(*SKIPPED)
    for batch in range(start, TOTAL):
        before = weights.clone()
        scaler.scale(weights.sum()).backward()
        if (batch + 1) % every == 0:
            scaler.step(follow.optimizer)
            scaler.update()
            if not torch.equal(before, weights):
                used.append(follow.optimizer.param_groups[0]["lr"])
            if zero == "before":
                follow.optimizer.zero_grad()
        follow.step()
        if (batch + 1) % every == 0:
            follow.optimizer.zero_grad()
    return used


LOOPS = [  # batches per update, when gradients are zeroed, updates that are made
    (1, "after", TOTAL - len(SKIPPED)),
    (1, "before", TOTAL - len(SKIPPED)),
    (4, "before", 10 - 3),
]
CHOSEN = [Schedule(name, 0.5, 0.2) for name in ("cosine", "rex", "plateau", "greedy")]


@pytest.mark.parametrize(("batches", "zero", "updates"), LOOPS)
@pytest.mark.parametrize("schedule", CHOSEN, ids=lambda s: s.family)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "make",
    [scheduler, lambda schedule, *args: run(schedule, "torch").make_scheduler(args[0])],
    ids=["ours", "exported"],
)
def test_an_update_that_a_scaler_skips_does_not_count(
    make, fused, schedule, batches, zero, updates
):
    """Neither at the start, before any update was made, nor later."""
    follow = make(schedule, AdamW([nn.Parameter(torch.ones(2))], lr=1.0, fused=fused), TOTAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        used = scaled(follow, batches, zero)
    assert used == pytest.approx(controller_rates(schedule)[:updates], abs=1e-12)


def test_steps_to_where_a_run_was_left_count():
    """They come before the gradients; the update that is skipped after them does not."""
    follow = scheduler(LINEAR, SGD([nn.Parameter(torch.ones(2))], lr=1.0), TOTAL)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        for _ in range(9):
            follow.step()
    assert scaled(follow, start=9) == pytest.approx(LINEAR.rates(TOTAL)[9:-6], abs=1e-12)


class Unseen(SGD):
    """Sharpness-aware minimisation and others: never stepped by step()."""

    def second_step(self):
        SGD.step.__wrapped__(self)


def test_where_updates_are_not_seen_every_step_counts():
    follow = made(TOTAL, make=Unseen)
    follow.optimizer.step = follow.optimizer.second_step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_rates(train(follow), LINEAR.rates(TOTAL))


@pytest.mark.parametrize("family", ["cosine", "one_cycle"])
@pytest.mark.parametrize("prepared", [False, True])
def test_accelerate_accumulates_and_skips(family, prepared):
    """With its own wrapper of the optimizer, and of the scheduler or not."""
    from accelerate import Accelerator

    accelerator, schedule = (
        Accelerator(cpu=True, gradient_accumulation_steps=2),
        Schedule(family, 0.5),
    )
    accelerator.scaler = Overflowing(*SKIPPED)
    model = nn.Linear(2, 1)
    model, optimizer = accelerator.prepare(model, SGD(model.parameters(), lr=1.0))
    follow = scheduler(schedule, optimizer, 20)
    follow = accelerator.prepare(follow) if prepared else follow
    used = []
    for _ in range(TOTAL):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.ones(1, 2)).sum())
            optimizer.step()
            if accelerator.sync_gradients and not optimizer.step_was_skipped:
                used.append(optimizer.param_groups[0]["lr"])
            follow.step()
            optimizer.zero_grad()
    assert used == pytest.approx(schedule.rates(20)[:16], abs=1e-12)


def resume(saved, loading):
    state = saved.state_dict()
    loading.load_state_dict(state)


def steps(follow, count):
    for _ in range(count):
        follow.optimizer.step()
        follow.step()
    return follow


MISUSE = {
    "total=40; this scheduler has total=50": lambda make: resume(make(), make(total=50)),
    "saved at update 9; this scheduler has total=5": lambda make: resume(
        steps(make(), 9), make(total=5, on_changed_total="retarget")
    ),
    "saved with schedule=.*linear.* has schedule=.*rex": lambda make: resume(
        make(), make(schedule=Schedule("rex", 0.5))
    ),
    "mode='min'; this scheduler has mode='max'": lambda make: resume(make(), make(mode="max")),
    "unit='epoch'; this scheduler has unit='up": lambda make: resume(make(unit="epoch"), make()),
    "'schedule' is missing": lambda make: make().load_state_dict({"last_epoch": 3}),
    "unit 'step' is unknown": lambda make: make(unit="step"),
    "on_changed_total 'rase' is unknown": lambda make: make(on_changed_total="rase"),
    "optimizer=None: expected a torch.optim": lambda make: make(optimizer=None),
    "SGD is not schedule-free": lambda make: make(schedule=Schedule("schedule_free", 0.1)),
    "lr=0.0: expected": lambda make: make(optimizer=optimizer_with(None, lr=0.0)),
    "total=0: expected": lambda make: make(total=0),
    "mode='low': expected": lambda make: make(schedule=Schedule("greedy", 0.1), mode="low"),
}


@pytest.mark.parametrize(("message", "call"), MISUSE.items(), ids=range(len(MISUSE)))
def test_misuse_is_refused(message, call):
    def make(schedule=LINEAR, total=TOTAL, **options):
        optimizer = options.pop("optimizer", optimizer_with(None))
        return scheduler(schedule, optimizer, total, **options)

    with pytest.raises(InputError, match=message):
        call(make)


def loop(follow, updates, every=1, times=1):
    """What is said while step() is called so many times after every so many updates."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for update in range(1, updates + 1):
            follow.optimizer.step()
            for _ in range(times if update % every == 0 else 0):
                follow.step()
    assert {(w.category, w.filename) for w in caught} <= {(ScheduleWarning, __file__)}
    return [str(w.message) for w in caught]


def made(total, schedule=LINEAR, make=SGD, **options):
    return scheduler(schedule, optimizer_with(None, make=make), total, **options)


OTHERWISE = [  # scheduler; updates, every, times; what is said
    (lambda: made(40), (45,), r"total=40 updates, .* more often.*calls of optimizer.step\(\)"),
    (lambda: made(400), (60, 1, 2), "total=400 updates, .* 2 times for every.*not batches"),
    (lambda: made(30, unit="epoch"), (400,), "total=30 epochs, .* more often.*unit='update'"),
    (lambda: made(7180), (400, 90), "total=7,180 updates, .* every 90 updates.*unit='epoch'"),
    (lambda: made(5, Schedule("plateau", 0.5)), (10,), "total=5 updates, .* more often"),
]


@pytest.mark.parametrize(("make", "arguments", "sentence"), OTHERWISE)
def test_a_loop_that_steps_it_otherwise_is_warned_once(make, arguments, sentence):
    (said,) = loop(make(), *arguments)
    assert re.search(sentence, said)


class Doubled(SGD):
    """torch runs the hooks once for each class in the chain whose step it has wrapped."""

    def step(self, closure=None):
        return super().step(closure)


def with_updates_before():
    follow = made(400)
    for _ in range(300):
        follow.optimizer.step()
    return follow


def copied():
    """Hooks are not copied."""
    follow = made(400)
    loop(follow, 3)
    return copy.deepcopy((follow.optimizer, follow))[1]


SOUND = {
    "every update": (lambda: made(400), 400),
    "every epoch": (lambda: made(10, unit="epoch"), 400, 40),
    "a subclass": (lambda: made(100, make=Doubled), 100),
    "after updates of another scheduler": (with_updates_before, 400),
    "a copy": (copied, 390),
}


@pytest.mark.parametrize("case", SOUND)
def test_nothing_is_said_of_a_sound_loop(case):
    make, *arguments = SOUND[case]
    assert loop(make(), *arguments) == []


def test_past_the_end_every_family_holds_its_last_rate(opened):
    follow = made(TOTAL, opened)
    loop(follow, TOTAL - 1)
    for _ in range(3):
        loop(follow, 1)
        assert follow.get_last_lr() == pytest.approx([opened.rates(TOTAL)[-1]], abs=1e-12)
        assert follow.optimizer.param_groups[0]["lr"] == follow.get_last_lr()[0]
    assert follow.state_dict()["update"] == TOTAL


def test_past_the_end_a_closed_loop_holds_its_last_rate(closed):
    follow = made(TOTAL, closed)
    loop(follow, TOTAL + 5)
    for _ in range(20):
        follow.step(2.0)
    assert follow.get_last_lr() == [0.5]
    assert follow.state_dict()["update"] == TOTAL


def test_a_warning_can_be_an_error_and_the_loop_goes_on():
    follow = made(3)
    loop(follow, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScheduleWarning)
        with pytest.raises(ScheduleWarning, match="made for total=3 updates"):
            steps(follow, 1)
        steps(follow, 1)
