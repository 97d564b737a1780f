"""Run by test_processes, once for each of two ranks: what each way of training really did, as JSON.

`python two_processes.py FOLDER RANK`
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from lrtune import Schedule
from lrtune.scheduler import scheduler

UPDATES, ACCUMULATE, STOP, FAMILIES = 60, 2, 25, ("one_cycle", "wsd", "plateau")
METRICS = {update: 1.0 for update in range(5, UPDATES, 5)}


def schedule_of(family):
    return Schedule(family, 0.5, 0.0 if family == "one_cycle" else 0.1)


def network():
    model = nn.Linear(3, 1)
    return model, SGD(model.parameters(), lr=1.0)


def loss_of(model):
    return model(torch.ones(4, 3)).square().mean()


def rate(follow):
    return follow.optimizer.param_groups[0]["lr"]


def with_ddp(family):
    """torch's own: gradients are exchanged once for the micro-batches of an update."""
    model, optimizer = network()
    model, follow = (
        DistributedDataParallel(model),
        scheduler(schedule_of(family), optimizer, UPDATES),
    )
    used = []
    for update in range(1, UPDATES + 1):
        optimizer.zero_grad()
        with model.no_sync():
            loss_of(model).backward()
        loss_of(model).backward()
        used.append(rate(follow))
        optimizer.step()
        follow.step()
        if family == "plateau" and update in METRICS:
            follow.step(METRICS[update])
    return used


def with_accelerate(family, folder):
    """As the README says: the scheduler is not prepared, and is stepped with each update."""
    accelerator, model, optimizer, follow = accelerated(family)
    used = []
    for batch in range(UPDATES * ACCUMULATE):
        if batch == STOP * ACCUMULATE:
            accelerator.save_state(folder / family)
            accelerator, model, optimizer, follow = accelerated(family)
            accelerator.load_state(folder / family)
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model))
            if accelerator.sync_gradients:
                used.append(rate(follow))
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            follow.step()
            if family == "plateau" and len(used) in METRICS:
                follow.step(METRICS[len(used)])
    return used


def accelerated(family):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)
    model, optimizer = network()
    follow = scheduler(schedule_of(family), optimizer, UPDATES)
    accelerator.register_for_checkpointing(follow)
    return accelerator, *accelerator.prepare(model, optimizer), follow


def prepared():
    """What Accelerate does with a scheduler that it has prepared, and what is said of that."""
    accelerator = Accelerator(cpu=True)
    model, optimizer = network()
    follow = scheduler(schedule_of("cosine"), optimizer, 600)
    model, optimizer, stepped = accelerator.prepare(model, optimizer, follow)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2 * UPDATES):
            accelerator.backward(loss_of(model))
            optimizer.step()
            stepped.step()
    return {"steps": follow.last_epoch, "said": [str(w.message) for w in said]}


def main(folder, rank):
    """All ways in one process, for what starting one takes."""
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}  # asked for, not used
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=int(rank), world_size=2
    )
    warnings.simplefilter("error", UserWarning)
    done = {
        "ddp": {family: with_ddp(family) for family in FAMILIES},
        "accelerate": {family: with_accelerate(family, folder) for family in FAMILIES},
        "prepared": prepared(),
        "processes": Accelerator(cpu=True).num_processes,
    }
    (folder / f"{rank}.json").write_text(json.dumps(done), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
