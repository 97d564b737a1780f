"""Is the engine fast? Trial-steps a second of whole searches: as people write them, and ours.

    python scripts/bench/engine.py --images CIFAR_FOLDER --text tinyshakespeare.txt

Validation and Optuna are included. The ways take turns, each in a process of its own, so that none
sees another's memory settings or compiled code. ``steady`` runs from a search's first validation to
its last; ``whole`` has one-off costs too: calibration, compilation, the report. Speed does not
depend on what the data says: what is not given is random, of the same shape, and the row tells.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from functools import cache, partial
from itertools import chain, islice, repeat
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, PolynomialLR
from torch.utils.data import DataLoader, TensorDataset

from lrtune import Budget, Engine, Listener, Stopping, tune
from lrtune.engine import OPTIMIZERS, SerialPool
from lrtune.engine.optimizers import settings_of
from lrtune.search import Limits, Loop, Search, SearchState, Space, SurrogateSampler, open_study
from lrtune.tasks import Split, Task, load_task
from lrtune.tasks.images import normalize
from lrtune.tasks.load import decay_matrices
from lrtune.tasks.metrics import ACCURACY, CROSS_ENTROPY, CrossEntropy
from lrtune.tasks.models import model_maker

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
EVALUATION_BATCH = 1024
EPOCHS = 30  # of digits: the speed of a training that is worth searching for
FEWEST_VALIDATIONS = 5  # where a trial is shortened
RATES = (0.003, 0.03)  # given, lest a range test run; low, lest trials diverge
SHAKESPEARE = 1_115_394, "".join(map(chr, range(48, 113)))  # characters, distinct ones


class Size(NamedTuple):
    """How much of a row is run."""

    updates: int | None  # of a trial; the task's own where None
    trials: int  # where one is trained at a time
    auto: int  # trials where many may be trained at a time: the engine wants 4 for each slot


class Case(NamedTuple):
    """One row of the table."""

    data: str  # digits, images or text
    model: str
    batch_size: int
    cpu: Size
    cuda: Size
    peak_lr: tuple[float, float] = RATES


CASES = {
    "digits-mlp-16": Case("digits", "mlp", 16, Size(None, 8, 128), Size(None, 4, 512)),
    "digits-mlp-128": Case("digits", "mlp", 128, Size(None, 16, 512), Size(None, 16, 512)),
    "digits-cnn-16": Case("digits", "cnn", 16, Size(400, 2, 32), Size(None, 2, 512)),
    "digits-cnn-128": Case("digits", "cnn", 128, Size(100, 3, 16), Size(None, 8, 512)),
    "cifar-cnn": Case("images", "cnn", 128, Size(15, 1, 4), Size(500, 2, 128)),
    "cifar-resnet9": Case("images", "resnet9", 128, Size(6, 1, 2), Size(150, 2, 32)),
    "cifar-resnet18": Case("images", "resnet18", 128, Size(6, 1, 2), Size(100, 2, 16)),
    "cifar-vit-tiny": Case("images", "vit_tiny", 128, Size(10, 1, 2), Size(200, 2, 64)),
    "shakespeare": Case(
        "text", "transformer", 64, Size(20, 1, 4), Size(300, 2, 64), peak_lr=(3e-4, 3e-3)
    ),
}

Choice = dict[str, Any]  # of the engine, as run.json has it: name, slots, compiled, why, ...


class Work(NamedTuple):
    """What one way does in one repeat."""

    task: Task
    peak_lr: tuple[float, float]
    trials: int
    device: str
    choice: Choice  # the engine of the first repeat; empty in that one


class Clock(Listener):
    """Updates done, and when."""

    def __init__(self) -> None:
        self.marks = [(time.perf_counter(), 0)]
        self._busy = time.process_time()

    def mark(self, updates: int) -> None:
        self.marks.append((time.perf_counter(), updates))

    def search(self, state: SearchState) -> None:
        self.mark(state.updates + sum(trial.updates for trial in state.running.values()))

    def rates(self) -> dict[str, float]:
        """Updates a second, see above, and the cores that were had; the whole ends now."""
        (start, _), (first, before), *_, (last, updates) = self.marks
        seconds = time.perf_counter() - start
        steady = (updates - before) / (last - first)
        cores = (time.process_time() - self._busy) / seconds
        return {"steady": steady, "whole": updates / seconds, "cores": cores}


def main() -> None:
    args = arguments()
    out = args.table or args.out
    rows = json.loads(out.read_text()) if out.exists() else {}
    for name in [] if args.table else args.only:
        rows[name] = row(name, args)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", "--cifar", help="CIFAR-10 as a folder of images")
    parser.add_argument("--text", help="tiny Shakespeare")
    parser.add_argument("--only", help=f"of {','.join(CASES)}")
    parser.add_argument("--ways", help=f"of {','.join(WAYS)}; graphed is for cuda")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON; rows that are there and not run stay")
    parser.add_argument("--table", type=Path, help="run nothing: print the table of this JSON")
    args = parser.parse_args()
    ways = [way for way in WAYS if args.device == "cuda" or way != "graphed"]
    for option, known in ("only", list(CASES)), ("ways", ways):
        given = getattr(args, option)
        setattr(args, option, given.split(",") if given else known)
        if unknown := set(getattr(args, option)) - set(known):
            parser.error(f"--{option}: {', '.join(unknown)}: expected some of {', '.join(known)}")
    if "plain" not in args.ways:
        parser.error("--ways: without plain there is nothing to compare with")
    args.out = args.out or RESULTS / f"engine-{args.device}.json"
    return args


def row(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one row: the ways in turn, again and again."""
    case: Case = CASES[name]
    size: Size = getattr(case, args.device)
    full = task_of(case, args)
    task = full if size.updates is None else shortened(full, size.updates)
    load = os.getloadavg()
    print(f"{name}: load average {load[0]}: ratios mean little where others work", flush=True)
    trials = {way: size.auto if way == "auto" else size.trials for way in args.ways}
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in args.ways}
    with ExitStack() as stack:
        spawn = partial(ProcessPoolExecutor, 1, mp_context=get_context("spawn"))
        workers = {way: stack.enter_context(spawn()) for way in args.ways}
        for ready in [one.submit(precision, task, args.device) for one in workers.values()]:
            ready.result()  # imports are no part of what is measured
        for number, way in ((n, way) for n in range(args.repeats) for way in args.ways):
            choice = found[way][0]["choice"] if number else {}
            work = Work(task, case.peak_lr, trials[way], args.device, choice)
            found[way].append(workers[way].submit(measure, way, work).result())
            print(f"{name} {number} {way}: {found[way][-1]}", flush=True)
    return {
        "model": case.model,
        "batch_size": case.batch_size,
        "data": task.data,
        "updates a trial": task.horizon,
        "of": full.horizon,
        "validations": len(task.checkpoints),
        "validation samples": task.val.samples,
        "trials": trials,
        "precision": precision(task, args.device),
        "layout": {"plain": "torch's default", "lrtune": str(task.layout)},
        **conditions(args.device),
        "load": load,
        "repeats": found,
    }


def task_of(case: Case, args: argparse.Namespace) -> Task:
    if case.data == "digits":
        return load_task("digits", model=case.model, batch_size=case.batch_size, epochs=EPOCHS)
    if case.data == "text":  # its own metrics cannot be sent to another process
        return replace(text(args.text), metrics=(CROSS_ENTROPY, ACCURACY))
    task = images(args.images)
    model = model_maker(case.model, task.sample_shape, 10)
    return replace(task, model=model, model_name=case.model, batch_size=case.batch_size)


def text(path: str | None) -> Task:
    if path is not None:
        return load_task(path)
    characters, distinct = SHAKESPEARE
    letters = torch.randint(len(distinct), (characters,)).tolist()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(distinct[letter] for letter in letters))
        file.flush()
        return replace(load_task(file.name), data="random characters")


@cache
def images(path: str | None) -> Task:
    """CIFAR-10 without augmentation, its model to be replaced."""
    if path is not None:
        return load_task(path, augment=[""])
    pixels = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8)
    whole = Split(pixels, torch.arange(50_000) % 10)
    train, val = whole.part(0, 45_000), whole.part(45_000, 50_000)
    return Task(
        name="random",
        data="random images",
        train=train,
        val=val,
        model=nn.Identity,
        loss=CrossEntropy(),
        epochs=10.0,
        prepare=normalize(train),
        groups=decay_matrices,
        layout=torch.channels_last,
        classes=10,
    )


def shortened(task: Task, updates: int) -> Task:
    """So many updates; validation keeps its share of the work, if need be on fewer samples."""
    samples = round(updates * len(task.checkpoints) * task.val.samples / task.horizon)
    validations = min(updates, max(FEWEST_VALIDATIONS, samples // task.val.samples))
    return replace(
        task,
        epochs=updates * task.batch_size / task.train.samples,
        validations=validations,
        val=task.val.part(0, max(1, samples // validations)),
    )


def conditions(device: str) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def measure(way: str, work: Work) -> dict[str, Any]:
    """Rates and choice of one repeat."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.compiler.reset()  # else a few repeats would exceed torch's limit of recompilations
    with tempfile.TemporaryDirectory() as folder:
        clock, choice = WAYS[way](work, Path(folder))
        return clock.rates() | {"choice": choice}


SCHEDULERS: dict[str, Callable[[Optimizer, float, int], LRScheduler]] = {
    "cosine": lambda optimizer, peak, total: CosineAnnealingLR(optimizer, total),
    "linear": lambda optimizer, peak, total: PolynomialLR(optimizer, total),
    "one_cycle": partial(OneCycleLR, cycle_momentum=False),
}


def plain(work: Work, folder: Path) -> tuple[Clock, Choice]:
    """As people write it: DataLoader, a scheduler of torch, an objective of Optuna."""
    task, device, horizon = work.task, work.device, work.task.horizon
    validations = set(task.checkpoints.tolist())
    loader = DataLoader(prepared(task, task.train), task.batch_size, shuffle=True)
    val_loader = DataLoader(prepared(task, task.val), EVALUATION_BATCH)

    def objective(trial: optuna.Trial) -> float:
        peak = trial.suggest_float("peak_lr", *work.peak_lr, log=True)
        schedule = trial.suggest_categorical("schedule", list(SCHEDULERS))
        torch.manual_seed(0)
        model = task.model().to(device)
        settings = settings_of(task.optimizer, task.settings)
        groups = decay_matrices(model) if "weight_decay" in settings else model.parameters()
        optimizer = OPTIMIZERS[task.optimizer].make(groups, lr=peak, **settings)
        scheduler = SCHEDULERS[schedule](optimizer, peak, horizon)
        value = float("nan")
        epochs = chain.from_iterable(repeat(loader))
        for update, (inputs, targets) in enumerate(islice(epochs, horizon), 1):
            inputs, targets = inputs.to(device), targets.to(device)
            optimizer.zero_grad()
            with autocast(task, device):
                loss = task.loss(model(inputs), targets)
            loss.backward()
            if task.clip_norm is not None:
                clip_grad_norm_(model.parameters(), task.clip_norm)
            optimizer.step()
            scheduler.step()
            if update in validations:
                value = evaluate(task, model, val_loader, device)
                trial.report(value, update)
                clock.mark(trial.number * horizon + update)
        return value

    clock = Clock()
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=work.trials)
    return clock, {}


def prepared(task: Task, split: Split) -> TensorDataset:
    """As the model takes it: normalised float32, or tokens."""
    inputs = task.prepare(split.inputs)
    inputs = inputs if inputs.is_floating_point() else inputs.long()
    return TensorDataset(inputs, split.targets.long())


def precision(task: Task, device: str) -> str:
    return task.precision or ("bfloat16" if device == "cuda" else "float32")


def autocast(task: Task, device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=precision(task, device) == "bfloat16")


@torch.no_grad()
def evaluate(task: Task, model: nn.Module, loader: DataLoader[Any], device: str) -> float:
    """The mean loss; accuracy is computed too."""
    model.eval()
    loss = correct = samples = 0.0
    for inputs, targets in loader:
        inputs, targets = inputs.to(device), targets.to(device)
        with autocast(task, device):
            outputs = model(inputs)
        loss += len(inputs) * task.loss(outputs.float(), targets).item()
        correct += (outputs.argmax(-1) == targets).double().mean().item() * len(inputs)
        samples += len(inputs)
    model.train()
    return loss / samples


def tuned(work: Work, folder: Path, engine: str, slots: int | None) -> tuple[Clock, Choice]:
    """A search of ours."""
    clock = Clock()
    run = tune(
        work.task,
        budget=Budget(trials=work.trials),
        peak_lr=work.peak_lr,
        out=folder,
        engine=Engine(engine, slots, work.device),
        stopping=Stopping(pruner="none", patience=0),
        listener=clock,
    )
    return clock, run.settings.engine.to_json()


def serial(work: Work, folder: Path) -> tuple[Clock, Choice]:
    return tuned(work, folder, "serial", 1)


def auto(work: Work, folder: Path) -> tuple[Clock, Choice]:
    return tuned(work, folder, work.choice.get("name", "auto"), work.choice.get("slots"))


def graphed(work: Work, folder: Path) -> tuple[Clock, Choice]:
    """One trial at a time, data resident, compiled, CUDA graphs: the strong baseline."""
    clock, space = Clock(), Space(peak_lr=work.peak_lr)
    direction = work.task.objective.direction
    sampler = SurrogateSampler(space, work.task.horizon)
    pruner = optuna.pruners.NopPruner()
    study = open_study(folder / "journal.log", "graphed", direction, sampler=sampler, pruner=pruner)
    pool = SerialPool(work.task, 1, work.device, compiled=True)
    search = Search(study, space, pool, SearchState(Limits(trials=work.trials)), watch=clock.watch)
    Loop(pool, [search]).run()
    return clock, {"name": "serial", "slots": 1, "compiled": True}


WAYS = {"plain": plain, "serial": serial, "auto": auto, "graphed": graphed}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """In Markdown: medians (and ranges) of the repeats' ratios to the plain loop beside them."""
    ways = [way for way in WAYS if any(way in row["repeats"] for row in rows.values())][1:]
    heads = ["task", "model", "batch", "plain, steps/s", *(f"{way} ×" for way in ways)]
    heads += ["auto ×, one-off costs in", "choice"] if "auto" in ways else []
    lines = [heads, ["---"] * len(heads)]
    for name, row in rows.items():
        repeats = row["repeats"]
        cells = [name, row["model"], row["batch_size"]]
        cells += [f"{median(one['steady'] for one in repeats['plain']):,.3g}"]
        cells += [ratio(repeats, way, "steady") for way in ways]
        if "auto" in repeats:  # only a first repeat calibrates
            whole = repeats["auto"][0]["whole"] / median(one["whole"] for one in repeats["plain"])
            cells += [f"{whole:.2f}", chosen(repeats["auto"])]
        lines.append([str(cell) for cell in cells] + [""] * (len(heads) - len(cells)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def ratio(repeats: dict[str, list[dict[str, Any]]], way: str, rate: str) -> str:
    if way not in repeats:
        return ""
    pairs = zip(repeats[way], repeats["plain"], strict=True)
    found = [ours[rate] / theirs[rate] for ours, theirs in pairs]
    spread = f" ({min(found):.2f}–{max(found):.2f})" if len(found) > 1 else ""
    return f"{median(found):.2f}{spread}"


def chosen(repeats: list[dict[str, Any]]) -> str:
    """What the engine chose, each choice once."""
    texts = []
    for choice in (one["choice"] for one in repeats):
        slots = f"{choice['slots']} slots" if "slots" in choice else ""
        compiled = "compiled" if choice.get("compiled") else ""
        texts.append(", ".join(filter(None, (choice.get("name"), slots, compiled))))
    return " / ".join(dict.fromkeys(texts))


if __name__ == "__main__":
    main()
