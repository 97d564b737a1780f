"""One truth: every family through every target, as the real framework uses it.

Each target's `used` runs the source in the framework's own loop and returns the rate of every
update; that is compared with the schedule's table, or with the controller's for a closed loop.
"""

import json
import os
import types

os.environ["KERAS_BACKEND"] = "torch"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
import pytest
import torch

from lrtune.errors import InputError
from lrtune.export import EXPORTERS, export
from lrtune.schedule import Schedule

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
    trainer.train()
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


def with_keras(schedule, metrics, accumulate=1):
    import keras

    made = run(schedule, "keras")
    used = []

    class Spy(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            used.append(float(learning_rate))
            super().update_step(gradient, variable, learning_rate)

    class Validation(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = metrics.get((epoch + 1) * SEGMENT, 9.0)

    callbacks = [Validation(), *([made.callback] if hasattr(made, "callback") else [])]
    if schedule.closed_loop:
        rate = schedule.peak_lr
    else:
        rate = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(made.Schedule(every=accumulate))
        )
    optimizer = Spy(rate, gradient_accumulation_steps=accumulate if accumulate > 1 else None)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer, "mse")
    epochs, updates = (14, SEGMENT) if schedule.closed_loop else (2, TOTAL // 2)
    ones = np.ones((updates * accumulate, 1), "float32")
    model.fit(ones, ones, batch_size=1, epochs=epochs, verbose=0, callbacks=callbacks)
    return used[accumulate - 1 :: accumulate][:TOTAL]


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
    for t in range(1, TOTAL + 1):
        state, step = update(state, scale)
        used.append(float(step))
        if plateau is not None and t in metrics and t >= schedule.resolve(TOTAL)["warmup_steps"]:
            _, plateau = made.plateau.update(np.float32(0), plateau, value=metrics[t])
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


def compare(target, schedule, metrics, wanted, tmp_path):
    used_by, relative, of_peak = TARGETS[target]
    more = [tmp_path] if target == "huggingface" else []
    used = used_by(schedule, metrics, *more)
    np.testing.assert_allclose(used, wanted, rtol=relative, atol=of_peak * schedule.peak_lr)


@pytest.mark.parametrize("target", TARGETS)
def test_the_framework_uses_the_rates_of_the_table(target, opened, tmp_path):
    compare(target, opened, {}, opened.rates(TOTAL), tmp_path)


@pytest.mark.parametrize("target", TARGETS)
def test_the_framework_uses_the_rates_of_the_controller(target, closed, metrics, tmp_path):
    if (target, closed.family) in CANNOT:
        with pytest.raises(InputError, match=f"cannot hold {closed.family}: .*--replay"):
            export(closed, to=target, total=TOTAL)
        return
    controller = closed.controller(TOTAL)
    for update, metric in metrics.items():
        controller.observe(update, metric)
    compare(target, closed, metrics, controller.rates, tmp_path)
