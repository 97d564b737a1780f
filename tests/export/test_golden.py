"""One truth: every family through every target, as the real framework uses it.

The rates that `frameworks` saw are compared with the schedule's table, or with the controller's for
a closed loop.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from torch.utils.data import DataLoader

from lrtune.errors import InputError
from lrtune.export import EXPORTERS, export, huggingface
from lrtune.export.source import ExportContext
from lrtune.schedule import Schedule
from tests.callbacks.trainings import Overflowing, data, lightning_module, lightning_trainer
from tests.export.conftest import SCHEDULES
from tests.export.frameworks import (
    HALF,
    SEGMENT,
    TOTAL,
    WARNINGS,
    as_csv,
    as_json,
    controller_rates,
    in_fit,
    run,
    with_huggingface,
    with_keras,
    with_lightning,
    with_optax,
    with_timm,
)

pytestmark = WARNINGS

# target -> what runs it, and the tolerance: of the rate, and of the peak, as optax's own pieces
# lose digits towards zero in float32. torch's are in test_torch.
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


def chosen():
    """All schedules; of torch's code in others' loops one of each class it is written as."""
    for target in TARGETS:
        for schedule in SCHEDULES:
            own = target != "lightning" and (
                target != "huggingface" or huggingface.native(ExportContext(schedule, TOTAL))
            )
            if own or default(schedule):
                name = f"{target}-{schedule.family}-{schedule.warmup}"
                yield pytest.param(target, schedule, id=name)


def default(schedule):
    """Of the knobs by default: an open loop with a warmup, a closed one also without."""
    alike = [s for s in SCHEDULES if s.family == schedule.family]
    if schedule.closed_loop:
        alike = [s for s in alike if s.warmup == schedule.warmup]
    return schedule == max(alike, key=lambda s: s.warmup)


def compare(target, schedule, used, rates):
    _, relative, of_peak = TARGETS[target]
    np.testing.assert_allclose(used, rates, rtol=relative, atol=of_peak * schedule.peak_lr)


@pytest.mark.parametrize(("target", "schedule"), [*chosen()])
def test_the_framework_uses_the_rates_of_the_schedule(target, schedule, metrics, tmp_path):
    if (target, schedule.family) in CANNOT:
        with pytest.raises(InputError, match=f"cannot hold {schedule.family}: .*--replay"):
            export(schedule, to=target, total=TOTAL)
        return
    used = TARGETS[target][0](schedule, metrics if schedule.closed_loop else {}, tmp_path)
    compare(target, schedule, used, controller_rates(schedule, metrics))


# One of a framework's own, one by formula, one fed with metrics.
DROPS = {"factor": 0.5, "patience": 0}
PLATEAU = Schedule("plateau", 0.5, 0.1, 0.3, DROPS)
RESUMED = [Schedule("cosine", 0.5), Schedule("rex", 0.5, 0.1, 0.3), PLATEAU]
LOOPS = {name: TARGETS[name][0] for name in ("lightning", "huggingface", "timm")}
LOOPS["keras"] = in_fit


@pytest.mark.parametrize("schedule", RESUMED, ids=lambda s: s.family)
@pytest.mark.parametrize("target", LOOPS)
def test_a_run_that_is_saved_goes_on_with_the_same_rates(target, schedule, metrics, tmp_path):
    """All but Keras save what a closed loop has counted."""
    if target == "keras" and schedule.closed_loop:
        metrics = {update: 1.0 for update in metrics}
    half = LOOPS[target](schedule, metrics, tmp_path, stop=HALF)
    assert len(half) == HALF
    used = LOOPS[target](schedule, metrics, tmp_path, used=half)
    rates = controller_rates(schedule, metrics)
    if target == "keras" and schedule.closed_loop:  # the first validation is the best again
        rates[HALF + SEGMENT :] = rates[HALF:-SEGMENT]
    compare(target, schedule, used, rates)


@pytest.mark.parametrize("family", ["linear", "rex"])
@pytest.mark.parametrize("target", ["lightning", "huggingface"])
def test_an_update_that_a_scaler_skips_does_not_count(target, family, tmp_path):
    """One of the Trainer's own, and torch's; with two batches per update."""
    schedule, scaler = Schedule(family, 0.5), Overflowing(0, 2, 11)
    used = LOOPS[target](schedule, {}, tmp_path, scaler=scaler)
    made = [rate for update, rate in enumerate(used) if update not in (0, 1, 5)]
    compare(target, schedule, made, schedule.rates(TOTAL)[:-3])


def test_nor_does_one_that_keras_or_optax_skips():
    import jax
    import keras
    import optax

    schedule, used = Schedule("rex", 0.5), []
    inner = keras.optimizers.SGD(run(schedule, "keras").Schedule())
    scaling, weight = keras.optimizers.LossScaleOptimizer(inner), keras.Variable([0.0])
    finite = optax.apply_if_finite(optax.sgd(run(schedule, "optax").schedule), 5)
    state, update = finite.init(0.0), jax.jit(finite.update)
    for gradient in (np.inf, -1.0, np.inf, np.nan, -1.0):
        before = weight.numpy()[0]
        scaling.apply([[float(scaling.scale_loss(gradient))]], [weight])
        step, state = update(gradient, state)
        used.append((weight.numpy()[0] - before, float(step)))
    expected = [0, schedule.rates(TOTAL)[0], 0, 0, schedule.rates(TOTAL)[1]]
    np.testing.assert_allclose(used, np.stack([expected] * 2, 1), rtol=1e-6)


@pytest.mark.parametrize("family", ["wsd", "rex"])
def test_accumulated_gradients_are_one_update(family, tmp_path):
    """Of Keras' own, and under optax.MultiSteps."""
    schedule = Schedule(family, 0.5, 0.1, 0.3)
    for target, loop in {"keras": in_fit, "optax": with_optax}.items():
        used = loop(schedule, {}, tmp_path, accumulate=2)
        compare(target, schedule, used, schedule.rates(TOTAL))


def test_keras_waits_for_a_validation_that_is_not_of_every_epoch(metrics, tmp_path):
    schedule = Schedule("greedy", 0.5, 0.1, 0.3, DROPS)
    seldom = {update: metric for update, metric in metrics.items() if update % 2}
    used = in_fit(schedule, seldom, tmp_path)
    compare("keras", schedule, used, controller_rates(schedule, seldom))


ON_JAX = """
import json, sys
import keras, numpy
source, metrics = json.load(sys.stdin)
names, weights = {}, [0.0]
exec(source, names)

class Validation(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        weights.append(float(self.model.get_weights()[0][0, 0]))
        logs["val_loss"] = metrics[epoch]

layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
model = keras.Sequential([keras.Input((1,)), layer])
model.compile(keras.optimizers.SGD(1.0), lambda true, out: out)  # its gradient is 1
ones = numpy.ones((3, 1), "float32")
callbacks = [Validation(), names["callback"]]
model.fit(ones, ones, batch_size=1, epochs=len(metrics), verbose=0, callbacks=callbacks)
print(json.dumps(weights))
"""


def test_the_callback_for_keras_on_jax(metrics):
    """Its trainer holds the variables between batches; Keras fetches them for a callback."""
    schedule = Schedule("plateau", 0.5, 0.2, 0.3, DROPS)
    done = subprocess.run(
        [sys.executable, "-c", ON_JAX],
        input=json.dumps([export(schedule, to="keras", total=TOTAL), [*metrics.values()]]),
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    used = -np.diff(json.loads(done.stdout))  # of the updates between two validations, in sum
    rates = controller_rates(schedule, metrics)[: SEGMENT * len(used)]
    np.testing.assert_allclose(used, rates.reshape(-1, SEGMENT).sum(1), rtol=1e-5)


def test_hugging_faces_feeder_leaves_out_what_is_not_its_loss():
    """With several sets there is an evaluation of each, under its own name."""
    made, given = run(Schedule("greedy", 0.5, 0.1, 0.3, DROPS), "huggingface"), []

    class Scheduler:
        step = given.append

    for metrics in ({"eval_first_loss": 1.0}, {"eval_loss": 2.0}):
        made.FeedSchedule().on_evaluate(None, None, None, metrics, Scheduler)
    assert given == [2.0]


def test_lightning_is_told_of_another_length_and_of_the_wrong_unit():
    made = run(Schedule("cosine", 0.5), "lightning")

    def by_epoch(module):
        both = made.configure_optimizers(module)
        both["lr_scheduler"]["interval"] = "epoch"
        return both

    for configure, epochs, message in (
        (made.configure_optimizers, 1, "made for 40 updates, this run has 10: .* --total 10"),
        (by_epoch, 4, "stepped every 1 epoch, but was made for every 1 step"),
    ):
        trainer = lightning_trainer(max_epochs=epochs, callbacks=[made.CheckSchedule()])
        with pytest.warns(UserWarning, match=message):
            trainer.fit(lightning_module(configure), DataLoader(data(20)), DataLoader(data(1)))
