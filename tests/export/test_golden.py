"""One truth: every family through every target, as the real framework uses it.

Each target's `used` runs the source in the framework's own loop and returns the rate of every
update; that is compared with the schedule's table, or with the controller's for a closed loop.
"""

import gc
import json
import os
import runpy
import types
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
import pytest
import torch

from lrtune.errors import InputError
from lrtune.export import EXPORTERS, export, huggingface
from lrtune.export.case import Case
from lrtune.schedule import Schedule

SCHEDULES = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["SCHEDULES"]
TOTAL = 40
SEGMENT = 3  # updates between the validations of the fixture `metrics`

# What the frameworks themselves warn of, by name.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "The '\\w+_dataloader' does not have many workers",
        "The number of training batches",
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        "'pin_memory' argument is set as true",
        "__array__ implementation doesn't accept a copy keyword",  # Keras' torch backend, NumPy 2
    )
]


def run(schedule, target, total=TOTAL):
    names = {"__name__": "exported"}
    exec(export(schedule, to=target, total=total), names)
    return types.SimpleNamespace(**names)


def parameter():
    return torch.nn.Parameter(torch.zeros(1))


def with_lightning(schedule, metrics):
    from lightning import pytorch as lightning

    made = run(schedule, "lightning")

    class Module(lightning.LightningModule):
        configure_optimizers = made.configure_optimizers
        if hasattr(made, "lr_scheduler_step"):
            lr_scheduler_step = made.lr_scheduler_step

        def __init__(self):
            super().__init__()
            self.weight, self.used = parameter(), []

        def training_step(self, batch):
            return (self.weight * batch).sum()

        def validation_step(self, batch):
            if not self.trainer.sanity_checking:
                self.log("val_loss", torch.tensor(metrics.get(len(self.used), 9.0)))

        def on_before_optimizer_step(self, optimizer):
            self.used.append(optimizer.param_groups[0]["lr"])

    checks = [made.CheckSchedule(), *([made.FeedSchedule()] if "FeedSchedule" in dir(made) else [])]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=TOTAL,
        limit_val_batches=int(schedule.closed_loop),
        accumulate_grad_batches=2,
        callbacks=checks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module()
    updates = SEGMENT if schedule.closed_loop else TOTAL // 2
    batches = torch.utils.data.DataLoader(torch.ones(2 * updates), batch_size=1)
    trainer.fit(module, batches, torch.utils.data.DataLoader(torch.ones(1)))
    return module.used


def with_huggingface(schedule, metrics, tmp_path):
    import transformers

    made = run(schedule, "huggingface")
    used = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = parameter()

        def forward(self, x, labels):
            evaluated = metrics.get(len(used), 9.0)
            loss = (self.weight * x).mean() if self.training else torch.tensor(evaluated)
            return {"loss": loss, "logits": x}

    class Spy(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer, **rest):
            used.append(optimizer.param_groups[0]["lr"])

    native = hasattr(made, "ARGUMENTS")
    validated = {"metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": SEGMENT}
    validated = validated if schedule.closed_loop else {}
    model = Model()
    optimizer = None if native else torch.optim.SGD(model.parameters(), lr=1.0)
    args = transformers.TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        optim="sgd",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        **(made.ARGUMENTS if native else {"max_steps": TOTAL}) | validated,
    )
    data = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 2 * TOTAL
    trainer = transformers.Trainer(
        model,
        args,
        train_dataset=data,
        eval_dataset=data[:1],
        callbacks=[Spy(), *([made.FeedSchedule()] if hasattr(made, "FeedSchedule") else [])],
        optimizers=(optimizer, None if native else made.make_scheduler(optimizer)),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    gc.freeze()  # at every end accelerate collects garbage: of the training alone
    trainer.train()
    gc.unfreeze()
    return used


def with_timm(schedule, metrics):
    optimizer = torch.optim.SGD([parameter()], lr=1.0)
    scheduler = run(schedule, "timm").make_scheduler(optimizer)
    used = []
    for update in range(1, TOTAL + 1):
        used.append(optimizer.param_groups[0]["lr"])
        scheduler.step_update(num_updates=update, metric=0.0)  # timm's train.py: a running loss
        if update in metrics:
            scheduler.step(update // SEGMENT, metrics[update])
    return used


def with_keras(schedule, metrics):
    return in_fit(schedule, metrics) if schedule.closed_loop else in_optimizer(schedule)


def spy(keras, used):
    class Spy(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            used.append(float(learning_rate))
            super().update_step(gradient, variable, learning_rate)

    return Spy


def in_optimizer(schedule):
    import keras

    used, made = [], run(schedule, "keras").Schedule()
    saved = keras.saving.serialize_keras_object(made)  # as a model's file has it
    optimizer = spy(keras, used)(keras.saving.deserialize_keras_object(saved))
    weight = keras.Variable(np.zeros(1, "float32"))
    for _ in range(TOTAL):
        optimizer.apply([np.ones(1, "float32")], [weight])
    return used


def in_fit(schedule, metrics, accumulate=1):
    import keras

    class Validation(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = metrics.get((epoch + 1) * SEGMENT, 9.0)

    used, made = [], run(schedule, "keras")
    closed = schedule.closed_loop
    rate = schedule.peak_lr if closed else made.Schedule(every=accumulate)
    optimizer = spy(keras, used)(
        rate, gradient_accumulation_steps=accumulate if accumulate > 1 else None
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer, "mse")
    ones = np.ones((SEGMENT * accumulate, 1), "float32")
    callbacks = [Validation(), *([made.callback] if closed else [])]
    model.fit(ones, ones, batch_size=1, epochs=14, verbose=0, callbacks=callbacks)
    return used[:TOTAL]


def with_optax(schedule, metrics):
    import jax
    import optax

    made = run(schedule, "optax")
    optimizer = optax.sgd(learning_rate=made.schedule)

    @jax.jit
    def update(state, scale):
        updates, state = optimizer.update(np.float32(-1), state)
        return state, optax.tree.scale(scale, updates)

    state, used, scale = optimizer.init(np.float32(0)), [], np.float32(1)
    plateau = made.plateau.init(np.float32(0)) if schedule.closed_loop else None
    validate = jax.jit(made.plateau.update) if schedule.closed_loop else None
    for t in range(1, TOTAL + 1):
        state, step = update(state, scale)
        used.append(float(step))
        if plateau is not None and t in metrics and t >= schedule.resolve(TOTAL)["warmup_steps"]:
            _, plateau = validate(np.float32(0), plateau, value=metrics[t])
            scale = plateau.scale
    return used


def as_csv(schedule, metrics):
    lines = export(schedule, to="csv", total=TOTAL).splitlines()
    assert lines[0] == "update,rate"
    rows = [line.split(",") for line in lines[1:]]
    assert [int(update) for update, _ in rows] == list(range(TOTAL))
    return [float(rate) for _, rate in rows]


def as_json(schedule, metrics):
    read = json.loads(export(schedule, to="json", total=TOTAL))
    assert Schedule.from_dict(read["schedule"]) == schedule and read["total"] == TOTAL
    return read["rates"]


# target -> what runs it, and the tolerance: of the rate, and of the peak, as optax's own pieces
# lose digits towards zero in float32. torch's are in test_torch and test_snippet.
TARGETS = {
    "lightning": (with_lightning, 1e-12, 1e-15),
    "huggingface": (with_huggingface, 1e-12, 1e-15),
    "timm": (with_timm, 1e-12, 1e-15),
    "keras": (with_keras, 1e-6, 0),
    "optax": (with_optax, 1e-6, 1e-6),
    "csv": (as_csv, 0, 0),
    "json": (as_json, 0, 0),
}
CANNOT = {("optax", "greedy"), *((to, f) for to in ("csv", "json") for f in ("plateau", "greedy"))}


def test_every_target_is_tested():
    assert {*TARGETS, "torch"} == {*EXPORTERS}


def chosen(closed):
    """All schedules; of torch's code in others' loops one of each class it is written as."""
    for target in TARGETS:
        for schedule in SCHEDULES:
            own = target != "lightning" and (
                target != "huggingface" or huggingface.native(Case(schedule, TOTAL))
            )
            if schedule.closed_loop == closed and (own or default(schedule)):
                yield pytest.param(
                    target, schedule, id=f"{target}-{schedule.family}-{schedule.warmup}"
                )


def default(schedule):
    """Of the knobs by default: an open loop with a warmup, a closed one also without."""
    alike = [
        s
        for s in SCHEDULES
        if s.family == schedule.family and (s.warmup == schedule.warmup or not s.closed_loop)
    ]
    return schedule == max(alike, key=lambda s: s.warmup)


def compare(target, schedule, metrics, wanted, tmp_path):
    used_by, relative, of_peak = TARGETS[target]
    more = [tmp_path] if target == "huggingface" else []
    used = used_by(schedule, metrics, *more)
    np.testing.assert_allclose(used, wanted, rtol=relative, atol=of_peak * schedule.peak_lr)


@pytest.mark.parametrize(("target", "schedule"), [*chosen(closed=False)])
def test_the_framework_uses_the_rates_of_the_table(target, schedule, tmp_path):
    compare(target, schedule, {}, schedule.rates(TOTAL), tmp_path)


@pytest.mark.parametrize(("target", "schedule"), [*chosen(closed=True)])
def test_the_framework_uses_the_rates_of_the_controller(target, schedule, metrics, tmp_path):
    if (target, schedule.family) in CANNOT:
        with pytest.raises(InputError, match=f"cannot hold {schedule.family}: .*--replay"):
            export(schedule, to=target, total=TOTAL)
        return
    controller = schedule.controller(TOTAL)
    for update, metric in metrics.items():
        controller.observe(update, metric)
    compare(target, schedule, metrics, controller.rates, tmp_path)


def test_keras_counts_updates_and_not_the_batches_of_an_accumulation():
    schedule = Schedule("wsd", 0.5, 0.1)
    used = in_fit(schedule, {}, accumulate=2)
    np.testing.assert_allclose(used, schedule.rates(TOTAL), rtol=1e-6)
