"""Units: train.py of timm by the epoch or resumed, Lightning told of a wrong unit or length."""

import argparse

import numpy as np
import pytest
import torch

from lrtune.export import export
from lrtune.export.context import ExportContext
from lrtune.export.timm import timm_cli
from lrtune.schedule import Schedule
from tests.export.conftest import SCHEDULES
from tests.export.frameworks import TOTAL, WARNINGS, parameter, run

pytestmark = WARNINGS

EPOCHS = [s for s in SCHEDULES if not s.closed_loop and timm_cli(ExportContext(s, TOTAL))]


def test_train_py_has_the_families_that_timm_has():
    names = {"constant", "step", "multistep", "exponential", "linear", "polynomial", "cosine"}
    assert {schedule.family for schedule in EPOCHS} == {*names, "wsd"}


@pytest.mark.parametrize("schedule", EPOCHS, ids=lambda s: f"{s.family}-{s.warmup}")
def test_the_arguments_of_timms_train_py_give_the_rates_by_epoch(schedule):
    from timm.scheduler import create_scheduler

    parser = argparse.ArgumentParser()  # as train.py has them
    for name in ("lr", "warmup-lr", "min-lr", "decay-rate", "decay-epochs"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("epochs", "warmup-epochs"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--decay-milestones", type=int, nargs="+")
    parser.add_argument("--warmup-prefix", action="store_true")
    parser.add_argument("--sched")
    parser.add_argument("--lr-decay-fn")
    words = timm_cli(ExportContext(schedule, TOTAL)).split()
    assert " ".join(words) in " ".join(export(schedule, to="timm", total=TOTAL).split())
    given = {k: v for k, v in vars(parser.parse_args(words)).items() if v is not None}
    optimizer = torch.optim.SGD([parameter()], lr=given["lr"])
    scheduler, epochs = create_scheduler(argparse.Namespace(**given), optimizer)
    assert epochs == TOTAL
    used = []
    for epoch in range(epochs):
        used.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch + 1)
    np.testing.assert_allclose(used, schedule.rates(TOTAL), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("family", ["plateau", "greedy"])
def test_timm_goes_on_where_train_py_says_and_scales_each_group(family):
    made = run(Schedule(family, 0.5, 0.1, 0.3, {"factor": 0.5, "patience": 0}), "timm")

    def fresh():
        groups = [{"params": [parameter()], "lr_scale": scale} for scale in (1.0, 0.3)]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        return optimizer, made.make_scheduler(optimizer)

    def rates():
        return [group["lr"] for group in optimizer.param_groups]

    optimizer, scheduler = fresh()
    assert rates() == pytest.approx([0.15, 0.045])
    scheduler.step_update(17)
    assert rates() == pytest.approx([0.5, 0.15])
    for epoch in (1, 2):
        scheduler.step(epoch, 1.0)
    assert rates() == pytest.approx([0.25, 0.075])
    saved = optimizer.state_dict(), scheduler.state_dict()
    optimizer, scheduler = fresh()
    for part, state in zip((optimizer, scheduler), saved, strict=True):
        part.load_state_dict(state)
    assert rates() == pytest.approx([0.25, 0.075])


def fit_with_lightning(configure, callback, epochs):
    from lightning import pytorch as lightning

    class Module(lightning.LightningModule):
        configure_optimizers = configure

        def __init__(self):
            super().__init__()
            self.weight = parameter()

        def training_step(self, batch):
            return (self.weight * batch).sum()

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.ones(10), batch_size=1))


def test_lightning_is_told_of_another_length_and_of_the_wrong_unit():
    made = run(Schedule("cosine", 0.5), "lightning")

    def by_epoch(self):
        both = made.configure_optimizers(self)
        both["lr_scheduler"]["interval"] = "epoch"
        return both

    with pytest.warns(UserWarning, match="made for 40 updates, this run has 10: .* --total 10"):
        fit_with_lightning(made.configure_optimizers, made.CheckSchedule(), epochs=1)
    with pytest.warns(UserWarning, match="stepped every 1 epoch, but was made for every 1 step"):
        fit_with_lightning(by_epoch, made.CheckSchedule(), epochs=4)
