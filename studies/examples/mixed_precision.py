"""A schedule in a plain loop: float16 with a GradScaler, and gradients of four batches per update.

    python studies/examples/mixed_precision.py [best.json]

The scaler skips an update whose gradients are not finite, and float16 begins with some. So
``scheduler.step()`` moves the schedule only if the optimizer has made an update since the last
call, and ``total`` counts updates. Code from ``lrtune export`` does the same. ``best.json`` is the
answer of a search.
"""

import sys

import torch
from plain_optuna import digits, judge
from torch import nn
from torch.nn.functional import cross_entropy

import lrtune

UPDATES, BATCHES, BATCH = 100, 4, 16  # of the run, per update, samples per batch


def train(schedule: lrtune.Schedule) -> tuple[float, int]:
    """The loss at the end, and how many updates were skipped."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs, labels, *held_out = (part.to(device) for part in digits())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = schedule.torch(optimizer, total=UPDATES)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**22)  # too large, as its default may be
    skipped = 0
    for batch in range(1, UPDATES * BATCHES + 1):
        rows = torch.randint(len(labels), (BATCH,), device=device)
        with torch.autocast(device, dtype=torch.float16):
            loss = cross_entropy(model(inputs[rows]), labels[rows]) / BATCHES
        scaler.scale(loss).backward()
        if batch % BATCHES == 0:
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            skipped += scaler.get_scale() < scale
            scheduler.step()
            optimizer.zero_grad()
    assert scheduler.last_epoch == UPDATES - skipped
    return judge(model, *held_out), skipped


def main(best: str | None = None) -> tuple[float, int]:
    schedule = lrtune.load(best) if best else lrtune.Schedule("one_cycle", peak_lr=0.02)
    loss, skipped = train(schedule)
    print(f"loss {loss:.4f} with {schedule}; {skipped} of {UPDATES} updates were skipped")
    return loss, skipped


if __name__ == "__main__":
    main(*sys.argv[1:])
