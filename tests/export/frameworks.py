"""Each framework's own loop around what is written for it: the rate that every update used.

`loop(schedule, metrics, folder)` trains for `TOTAL` updates. With `stop` it ends there and saves in
the folder what that framework saves; with `used`, the rates of those updates, it goes on from that.
"""

import gc
import json
import os
import types

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lrtune.export import export
from lrtune.schedule import Schedule
from tests.callbacks.trainings import data, huggingface_trainer, lightning_module, lightning_trainer

TOTAL = 40
SEGMENT = 3  # updates between the validations of the fixture `metrics`
HALF = 6 * SEGMENT

# What the frameworks themselves warn of, by name.
WARNINGS = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "The '\\w+_dataloader' does not have many workers",
        "The number of training batches",
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        "'pin_memory' argument is set as true",
        "__array__ implementation doesn't accept a copy keyword",  # Keras' torch backend, NumPy 2
    )
]


def run(schedule, target, total=TOTAL, optimizer=None):
    names = {"__name__": "exported"}
    exec(export(schedule, to=target, total=total, optimizer=optimizer), names)
    return types.SimpleNamespace(**names)


def controller_rates(schedule, metrics=None, total=TOTAL):
    """The rates of the table, or of the controller that was told these metrics."""
    if not schedule.closed_loop:
        return schedule.rates(total)
    controller = schedule.controller(total)
    for update, metric in (metrics or {}).items():
        controller.observe(update, metric)
    return controller.rates


def parameter():
    return torch.nn.Parameter(torch.zeros(1))


def with_lightning(schedule, metrics, folder, stop=TOTAL, used=(), scaler=None):
    from lightning.pytorch import Callback

    made, closed = run(schedule, "lightning"), schedule.closed_loop
    module = lightning_module(
        made.configure_optimizers, lambda module: metrics.get(len(module.rates), 9.0)
    )
    module.rates = [*used]
    if hasattr(made, "lr_scheduler_step"):
        module.lr_scheduler_step = types.MethodType(made.lr_scheduler_step, module)

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop |= len(pl_module.rates) == stop

    checks = [made.CheckSchedule(), Stop(), *([made.FeedSchedule()] if fed(made) else [])]
    length = {"max_steps": TOTAL, "max_epochs": -1, "limit_val_batches": int(closed)}
    trainer, saved = lightning_trainer(scaler, callbacks=checks, **length), folder / "half.ckpt"
    batches, validation = (DataLoader(data(n)) for n in (2 * (SEGMENT if closed else HALF), 1))
    if closed:  # nobody's business before there is a scheduler
        trainer.validate(module, validation, verbose=False)
    trainer.fit(module, batches, validation, ckpt_path=saved if used else None)
    if stop < TOTAL:
        trainer.save_checkpoint(saved)
    return module.rates


def with_huggingface(schedule, metrics, folder, stop=TOTAL, used=(), scaler=None):
    made = run(schedule, "huggingface")
    checkpoint = str(folder / f"checkpoint-{HALF}") if used else None
    native, used = hasattr(made, "ARGUMENTS"), [*used]

    def optimizers(net):
        optimizer = None if native else torch.optim.SGD(net.parameters(), lr=1.0)
        return optimizer, None if native else made.make_scheduler(optimizer)

    validated = {"metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": SEGMENT}
    length = {
        "save_strategy": "no" if stop == TOTAL else "steps",
        "save_steps": HALF,
        "logging_strategy": "no",
        "optim": "sgd",
        "eval_strategy": "no",
        "max_grad_norm": 0.0,
        **(made.ARGUMENTS if native else {"max_steps": TOTAL}),
        **(validated if schedule.closed_loop else {}),
    }
    trainer = huggingface_trainer(
        folder,
        rates=used,
        stop=stop,
        validate=lambda: metrics.get(len(used), 9.0),
        optimizers=optimizers,
        callbacks=[made.FeedSchedule()] if fed(made) else [],
        scaler=scaler,
        **length,
    )
    gc.freeze()  # at every end accelerate collects garbage: of the training alone
    trainer.train(resume_from_checkpoint=checkpoint)
    gc.unfreeze()
    return used


def fed(made):
    return hasattr(made, "FeedSchedule")


def with_timm(schedule, metrics, folder, stop=TOTAL, used=()):
    optimizer = torch.optim.SGD([parameter()], lr=1.0)
    scheduler, used, saved = run(schedule, "timm").make_scheduler(optimizer), [*used], folder / "pt"
    if used:  # as train.py, but for the state of a closed loop
        state = torch.load(saved, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        if schedule.closed_loop:
            scheduler.load_state_dict(state["scheduler"])
        scheduler.step_update(len(used))
    for update in range(len(used) + 1, stop + 1):
        used.append(optimizer.param_groups[0]["lr"])
        scheduler.step_update(num_updates=update, metric=0.0)  # timm's train.py: a running loss
        if update in metrics:
            scheduler.step(update // SEGMENT, metrics[update])
    if stop < TOTAL:
        parts = {"optimizer": optimizer, "scheduler": scheduler}
        torch.save({name: part.state_dict() for name, part in parts.items()}, saved)
    return used


def with_keras(schedule, metrics, folder):
    return in_fit(schedule, metrics, folder) if schedule.closed_loop else in_optimizer(schedule)


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


def in_fit(schedule, metrics, folder, stop=TOTAL, used=(), accumulate=1):
    import keras

    class Validation(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            update = (epoch + 1) * SEGMENT
            if update in metrics or update > TOTAL:
                logs["val_loss"] = metrics.get(update, 9.0)

    done, used, made = len(used), [*used], run(schedule, "keras")
    closed, saved, kind = schedule.closed_loop, folder / "half.keras", spy(keras, used)
    if done:
        model = keras.saving.load_model(saved, custom_objects={"Spy": kind})
    else:
        rate = schedule.peak_lr if closed else made.Schedule(every=accumulate)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        every = accumulate if accumulate > 1 else None
        model.compile(kind(rate, gradient_accumulation_steps=every), "mse")
    model.fit(
        *[np.ones((SEGMENT * accumulate, 1), "float32")] * 2,
        batch_size=1,
        initial_epoch=done // SEGMENT,
        epochs=-(-stop // SEGMENT),
        verbose=0,
        callbacks=[Validation(), *([made.callback] if closed else [])],
    )
    if stop < TOTAL:
        model.save(saved)
    return used[:TOTAL]


def with_optax(schedule, metrics, folder, accumulate=1):
    import jax
    import optax

    made = run(schedule, "optax")
    optimizer = optax.sgd(learning_rate=made.schedule)
    if accumulate > 1:
        optimizer = optax.MultiSteps(optimizer, every_k_schedule=accumulate)

    @jax.jit
    def update(state, scale):
        updates, state = optimizer.update(np.float32(-1), state, np.float32(0))
        return state, optax.tree.scale(scale, updates)

    state, used, scale = optimizer.init(np.float32(0)), [], np.float32(1)
    plateau = made.plateau.init(np.float32(0)) if schedule.closed_loop else None
    validate = jax.jit(made.plateau.update) if schedule.closed_loop else None
    for t in range(1, TOTAL + 1):
        used.append(0.0)
        for _ in range(accumulate):  # all but the last of them change nothing
            state, step = update(state, scale)
            used[-1] += float(step)
        if plateau is not None and t in metrics and t >= schedule.resolve(TOTAL)["warmup_steps"]:
            _, plateau = validate(np.float32(0), plateau, value=metrics[t])
            scale = plateau.scale
    return used


def as_csv(schedule, metrics, folder):
    lines = export(schedule, to="csv", total=TOTAL).splitlines()
    assert lines[0] == "update,rate"
    rows = [line.split(",") for line in lines[1:]]
    assert [int(update) for update, _ in rows] == list(range(TOTAL))
    return [float(rate) for _, rate in rows]


def as_json(schedule, metrics, folder):
    read = json.loads(export(schedule, to="json", total=TOTAL))
    assert Schedule.from_dict(read["schedule"]) == schedule and read["total"] == TOTAL
    return read["rates"]
