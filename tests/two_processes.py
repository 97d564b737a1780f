"""What each way of training really does in two processes under torch.distributed (gloo), as JSON.

`python -m tests.two_processes FOLDER` writes FOLDER/0.json and FOLDER/1.json: all ways in one pair
of processes, for what starting it takes.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from lrtune import Schedule
from lrtune.scheduler import scheduler
from tests.callbacks.trainings import FRAMEWORKS, TOTAL, After, asked, schedule_of, stored

UPDATES, ACCUMULATE, STOP, FAMILIES = 60, 2, 25, ("one_cycle", "wsd", "plateau")
METRICS = {update: 1.0 for update in range(5, UPDATES, 5)}
TWO: dict[str, dict[str, Any]] = {"lightning": {"arguments": {"devices": 2}}, "huggingface": {}}


def schedule(family: str) -> Schedule:
    return Schedule(family, 0.5, 0.0 if family == "one_cycle" else 0.1)


def network() -> tuple[Any, Any]:
    model = nn.Linear(3, 1)
    return model, SGD(model.parameters(), lr=1.0)


def loss_of(model: Any) -> Any:
    return model(torch.ones(4, 3)).square().mean()


def with_ddp(family: str, folder: Path) -> list[float]:
    """torch's own: gradients are exchanged once for the micro-batches of an update."""
    module, optimizer = network()
    model, follow = DistributedDataParallel(module), scheduler(schedule(family), optimizer, UPDATES)
    used: list[float] = []
    for update in range(1, UPDATES + 1):
        optimizer.zero_grad()
        with model.no_sync():
            loss_of(model).backward()
        loss_of(model).backward()
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        follow.step()
        if family == "plateau" and update in METRICS:
            follow.step(METRICS[update])
    return used


def with_accelerate(family: str, folder: Path) -> list[float]:
    """As the README says: the scheduler is not prepared, and is stepped with each update."""
    accelerator, model, optimizer, follow = accelerated(family)
    used: list[float] = []
    for batch in range(UPDATES * ACCUMULATE):
        if batch == STOP * ACCUMULATE:
            accelerator.save_state(folder / family)
            accelerator, model, optimizer, follow = accelerated(family)
            accelerator.load_state(folder / family)
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model))
            if accelerator.sync_gradients:
                used.append(follow.optimizer.param_groups[0]["lr"])
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            follow.step()
            if family == "plateau" and len(used) in METRICS:
                follow.step(METRICS[len(used)])
    return used


def accelerated(family: str) -> tuple[Any, ...]:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)
    model, optimizer = network()
    follow = scheduler(schedule(family), optimizer, UPDATES)
    accelerator.register_for_checkpointing(follow)
    return accelerator, *accelerator.prepare(model, optimizer), follow


def prepared() -> dict[str, Any]:
    """What Accelerate does with a scheduler that it has prepared, and what is said of that."""
    accelerator = Accelerator(cpu=True)
    model, optimizer = network()
    follow = scheduler(schedule("wsd"), optimizer, 2 * UPDATES)
    model, optimizer, stepped = accelerator.prepare(model, optimizer, follow)
    steps = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2 * UPDATES):
            accelerator.backward(loss_of(model))
            optimizer.step()
            stepped.step()
            steps.append(follow.last_epoch)
    return {"steps": steps, "sentences": [str(w.message) for w in caught]}


def with_callback(framework: str, rank: int, folder: Path) -> dict[str, Any]:
    """A trial that is pruned at update 4: rank 0 alone has it."""
    trial = asked("one_cycle", After(4)) if rank == 0 else None
    training = FRAMEWORKS[framework](trial, folder, **TWO[framework])
    try:
        training.train()
        end = "complete"
    except optuna.TrialPruned:
        end = "pruned"
    done: dict[str, Any] = {"end": end, "used": training.rates}
    if trial:
        done["rates"] = schedule_of(trial).rates(TOTAL // 2).tolist()
        done["reported"] = list(stored(trial).intermediate_values)
    return done


def one_of_two(rank: int, folder: Path) -> None:
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}  # asked for, not used
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2", **address}
    distributed.init_process_group(
        "gloo", f"file://{folder / 'store'}", timedelta(minutes=2), world_size=2, rank=rank
    )
    done: dict[str, Any] = {}
    ways: dict[str, Callable[[str, Path], list[float]]] = {
        "ddp": with_ddp,
        "accelerate": with_accelerate,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for way, train in ways.items():
            done[way] = {family: train(family, folder) for family in FAMILIES}
        done["prepared"] = prepared()
    for state in (AcceleratorState, GradientState):
        state._reset_state()  # the Trainer makes its own
    for framework in TWO:
        os.environ["WORLD_SIZE"] = "2"  # Lightning takes it away again
        done[framework] = with_callback(framework, rank, folder)
    (folder / f"{rank}.json").write_text(json.dumps(done))
    distributed.destroy_process_group()


def main(folder: Path) -> int:
    """Start both; 1 if either fails."""
    for name in ("huggingface", "lightning"):
        import_module(f"lrtune.callbacks.{name}")  # before the fork: it is most of the time
    fork = get_context("fork")
    ranks = [fork.Process(target=one_of_two, args=(rank, folder)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return int(any(process.exitcode for process in ranks))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
