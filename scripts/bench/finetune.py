"""How many times as fast is a search with a frozen backbone whose features are computed once?

    python scripts/bench/finetune.py --images CIFAR_FOLDER

A folder of ``--samples`` of the images at ``--size`` pixels, torchvision's resnet18 with its
backbone frozen (its weights are random, in a file that this script makes), ``--trials`` trainings
without stopping. The same search with the features and without, in turns; every second counts, also
those of the features and of the engine's choice. Then three schedules are trained both ways.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torchvision.models import resnet18

import lrtune
from lrtune.engine import SerialPool
from lrtune.engine.features import with_features

RATES = (0.1, 0.01, 0.001)


def folder_of(images: Path, samples: int, here: Path) -> Path:
    """The first images of each class."""
    classes = sorted(path for path in images.iterdir() if path.is_dir())
    for source in classes:
        (here / source.name).mkdir(parents=True)
        for path in sorted(source.iterdir())[: samples // len(classes)]:
            (here / source.name / path.name).symlink_to(path)
    return here


def search(task: lrtune.Task, out: Path, trials: int) -> tuple[float, float]:
    """Updates per second of the whole call, and while trials trained."""
    began = time.perf_counter()
    run = lrtune.tune(
        task,
        budget=lrtune.Budget(trials=trials),
        peak_lr=(1e-4, 1e-1),
        stopping=lrtune.Stopping(pruner="none", patience=0),
        out=out,
        listener=lrtune.Listener(),
    )
    seconds = time.perf_counter() - began
    rows = run.trials()
    return rows["updates"].sum() / seconds, rows["updates"].sum() / rows["seconds"].sum()


def finals(task: lrtune.Task) -> np.ndarray:
    """Losses of all updates and validations of schedules that are trained alone."""
    pool, seen = SerialPool(task), []
    for seed, rate in enumerate(RATES):
        pool.start(0, np.linspace(rate, 0, task.horizon), seed)
        while True:
            (progress,) = pool.advance()
            seen += [*progress.losses, progress.loss]
            if progress.update == task.horizon:
                break
        pool.release(0)
    return np.array(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="class folders")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        folder = folder_of(args.images.resolve(), args.samples, here / "images")
        torch.manual_seed(0)
        torch.save(resnet18().state_dict(), here / "resnet18.pt")
        task = lrtune.load_task(
            str(folder),
            model="resnet18",
            weights=str(here / "resnet18.pt"),
            freeze=["backbone"],
            image_size=args.size,
            batch_size=64,
            epochs=args.epochs,
            optimizer="adamw",
        )
        print(f"{args.trials} trials of {task.horizon} updates, batch 64", flush=True)
        pairs = []
        for number in range(args.pairs):
            with patch("lrtune.engine.place.with_features", lambda task, *_: (task, "")):
                without = search(task, here / f"without-{number}", args.trials)
            kept = search(task, here / f"with-{number}", args.trials)
            pairs.append((without, kept))
            print(
                f"updates/s without {without[0]:.1f} (training {without[1]:.1f}), "
                f"with {kept[0]:.1f} (training {kept[1]:.1f})",
                flush=True,
            )
        for place, what in enumerate(("whole search", "training alone")):
            ratios = [kept[place] / without[place] for without, kept in pairs]
            print(
                f"{what}: {statistics.median(ratios):.1f} times as many updates per second "
                f"({min(ratios):.1f} to {max(ratios):.1f})"
            )
        expected, seen = finals(task), finals(with_features(task, "cpu", print)[0])
        apart = np.abs(seen / expected - 1).max()
        print(
            f"{len(seen)} losses of {len(RATES)} schedules: at most {apart:.1e} apart, relatively"
        )


if __name__ == "__main__":
    main()
