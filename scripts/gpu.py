"""The steps of gpu.sh: each writes one JSON, what it skipped and why in it.

    python scripts/gpu.py precision --out FOLDER
    python scripts/gpu.py readme        # the results in studies/results/gpu, into bench/README.md

A file is written anew after each result, so that a step which is ended has left what it knows.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "studies" / "results" / "gpu"
README = ROOT / "scripts" / "bench" / "README.md"
BEGIN, END = "<!-- gpu.py readme -->\n", "<!-- end -->\n"
# Of what lrtune needs, what an image made for PyTorch has. The rest is 20 MB.
THERE = set(
    """annotated-doc cloudpickle filelock jinja2 joblib markdown-it-py markupsafe mdurl narwhals
numpy packaging pandas pillow psutil pyarrow pygments python-dateutil pyyaml rich safetensors
scikit-learn scipy shellingham threadpoolctl tqdm typer typing-extensions""".split()  # noqa: SIM905
)
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
LARGEST = 64 << 20  # bytes that can be carried
PRECISIONS = ("float32", "bfloat16")
MODELS = ("mlp", "cnn", "transformer", "vit_tiny", "resnet9", "resnet18")  # quick ones first
# Of bench/engine.py: updates of a trial, all where None; trials one by one; trials side by side.
ROWS = {
    "digits-mlp-16": (1000, 1, 640),
    "digits-mlp-128": (None, 2, 640),
    "cifar-cnn": (200, 1, 128),
    "shakespeare": (100, 1, 64),
    "cifar-vit-tiny": (60, 1, 64),
}
QUICK_ROWS = {"digits-mlp-128": (40, 1, 8)}


class Record:
    """The JSON of one step."""

    def __init__(self, step: str, folder: Path) -> None:
        import torch

        self.device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self.is_quick = self.device == "cpu"
        self._path = folder / f"{step}.json"
        self._began = time.perf_counter()
        self._content: dict[str, Any] = {
            "step": step,
            "device": torch.cuda.get_device_name() if self.device != "cpu" else "CPU",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "finished": False,
            "seconds": 0.0,
            "skipped": {},
            "results": {},
        }
        self._write()

    def add(self, name: str, result: Any) -> None:
        """Keep a result."""
        self._content["results"][name] = result
        self._write()
        print(f"{self._content['step']}: {name}: {json.dumps(result)[:300]}", flush=True)

    def skip(self, name: str, reason: str) -> None:
        """Say what was not done."""
        self._content["skipped"][name] = reason
        self._write()
        print(f"{self._content['step']}: {name}: skipped: {reason}", flush=True)

    def attempt(self, name: str, function: Callable[..., Any], *given: Any) -> None:
        """Keep what a function comes to, or its error."""
        try:
            result = function(*given)
        except Exception as error:
            result = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
        self.add(name, result)

    def finish(self) -> None:
        """Nothing is missing."""
        self._content["finished"] = True
        self._write()

    def _write(self) -> None:
        self._content["seconds"] = round(time.perf_counter() - self._began, 1)
        self._path.write_text(json.dumps(self._content, indent=1) + "\n")


def tests(record: Record) -> None:
    """Those that need a GPU; where there is none they skip by themselves."""
    import pytest

    class Reports:
        """What each test came to, as it ends."""

        def __init__(self) -> None:
            self.counts: Counter[str] = Counter()
            self.told: dict[str, str] = {}

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when != "call" and report.outcome == "passed":
                return
            self.counts[report.outcome] += 1
            if report.failed:
                self.told[report.nodeid] = str(report.longrepr)[-1500:]
                record.add("failures", self.told)
            if report.skipped and isinstance(report.longrepr, tuple):
                self.told.setdefault(report.longrepr[2], report.nodeid)
            if sum(self.counts.values()) % 20 == 0:
                record.add("tests", self.counts)

    os.environ["LRTUNE_TEST_DEVICE"] = "cuda"
    os.chdir(ROOT)
    workers = str(min(8, (os.cpu_count() or 1) // 2))
    reports = Reports()
    options = ["-q", "-m", "gpu and not slow", "-n", workers, "--tb=short"]
    options += ["-p", "no:cacheprovider", "-p", "no:benchmark"]
    pytest.main([*options, "tests/engine", "tests/tasks/test_augment.py"], [reports])
    record.add("tests", reports.counts)
    if reports.counts["skipped"]:
        reasons = [reason for reason in reports.told if reason.startswith("Skipped")]
        record.skip(f"{reports.counts['skipped']} tests", "; ".join(reasons))


def made_up(name: str, updates: int, quick: bool, batch: int = 32) -> Any:
    """A task of random data for a model, that is as good as another for its arithmetic."""
    import torch

    from lrtune.tasks import Split, Task
    from lrtune.tasks.images import normalize
    from lrtune.tasks.metrics import CROSS_ENTROPY, CrossEntropy
    from lrtune.tasks.models import model_maker

    draw = torch.Generator().manual_seed(0)
    side, samples, batch = (8, 64, 8) if quick else (32, 512, batch)
    task: dict[str, Any] = {"classes": 10}
    if name == "transformer":
        tokens = torch.randint(65, (samples, 4 * side + 1), generator=draw)
        shape, whole = (4 * side,), Split(tokens[:, :-1].clone(), tokens[:, 1:].clone())
        task = {"metrics": (CROSS_ENTROPY,)}
    else:
        shape = (3, side, side)
        pixels = torch.randint(256, (samples, *shape), dtype=torch.uint8, generator=draw)
        whole = Split(pixels, torch.arange(samples) % 10)
        task |= {"prepare": normalize(whole), "layout": torch.channels_last}
    train = whole.part(batch, samples)
    kind = "text" if name == "transformer" else "classification"
    return Task(
        name=name,
        train=train,
        val=whole.part(0, batch),
        model=model_maker(name, shape, 65 if name == "transformer" else 10, kind=kind),
        loss=CrossEntropy(),
        settings={"momentum": 0.9},
        batch_size=batch,
        epochs=updates * batch / train.samples,
        validations=2,
        **task,
    )


def pool_of(kind: str, task: Any, slots: int, device: str) -> Any:
    """Of "serial", "fused compiled" and so on."""
    from lrtune.engine import FusedPool, SerialPool

    make = SerialPool if kind.startswith("serial") else FusedPool
    return make(task, slots, device, compiled=kind.endswith("compiled"))


def trained(pool: Any, half: Any = None) -> tuple[Any, Any]:
    """Losses and validations of all slots, and all weights; ``half`` makes a pool to go on in."""
    import numpy as np
    import torch

    rates = np.full(pool.task.horizon, 0.02)
    curves = [[pool.start(slot, rates / (1 + slot), seed=slot).loss] for slot in range(pool.slots)]
    while any(len(curve) <= pool.task.horizon for curve in curves):
        for progress in pool.advance():
            if progress.error:
                raise RuntimeError(progress.error)
            curves[progress.slot] += [*progress.losses, progress.loss]
        if half is not None:
            other, half = half(), None
            for slot in range(pool.slots):
                other.restore(slot, pool.snapshot(slot))
            pool = other
    snapshots = [pool.snapshot(slot).tensors for slot in range(pool.slots)]
    kept = [tensor for one in snapshots for name, tensor in sorted(one.items()) if "weig" in name]
    return np.array(curves), torch.cat([tensor.double().flatten() for tensor in kept])


def precision(record: Record) -> None:
    """Fused and serial against float64 on the CPU: relative errors of losses and of weights."""
    import numpy as np

    def error(found: Any, expected: Any) -> dict[str, float]:
        return {
            name: float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
            for name, ours, theirs in zip(("losses", "weights"), found, expected, strict=True)
        }

    def compared(task: Any, reference: Any) -> dict[str, Any]:
        found = {}
        for kind in ("serial", "fused"):
            numbers = trained(pool_of(kind, task, 2, record.device))
            found[kind] = error([np.asarray(one) for one in numbers], reference)
        serial, fused = found["serial"], found["fused"]
        near = all(fused[name] <= 3 * serial[name] + 1e-5 for name in serial)
        return found | {"fused is as near as serial": near}

    for name in MODELS[: 4 if record.is_quick else None]:
        task = made_up(name, 4, record.is_quick, batch=8)  # float64 takes long
        exact = replace(
            task,
            model=lambda task=task: task.model().double(),
            prepare=deepcopy(task.prepare).double(),
            precision="float32",
        )
        reference = [np.asarray(one) for one in trained(pool_of("serial", exact, 2, "cpu"))]
        for kind in PRECISIONS:
            record.attempt(f"{name} {kind}", compared, replace(task, precision=kind), reference)
    for name in MODELS[4:] if record.is_quick else ():
        record.skip(name, "no CUDA device: slow on a CPU")


def repeat(record: Record) -> None:
    """Is the second time the same to the bit, and a trial that goes on in another pool?"""
    import torch

    def repeated(kind: str, task: Any) -> dict[str, Any]:
        def make() -> Any:
            return pool_of(kind, task, 2, record.device)

        (_, first), (_, again), (_, resumed) = (
            trained(make(), half) for half in (None, None, make)
        )
        largest = max(float((first - other).abs().max()) for other in (again, resumed))
        same = {"repeats": torch.equal(first, again), "resumes": torch.equal(first, resumed)}
        return same | {"largest difference": largest}

    for kind, name in product(("serial", "fused"), MODELS[:4]):
        task = made_up(name, 6, record.is_quick)
        record.attempt(f"{kind} {name}", repeated, kind, task)
    for kind in ("fused compiled", "serial compiled"):
        if record.is_quick:
            record.skip(kind, "no CUDA device: compiling for a CPU is tested by tests/engine")
        else:
            record.attempt(f"{kind} mlp", repeated, kind, made_up("mlp", 6, False))


def engine(record: Record) -> None:
    """The table of scripts/bench/engine.py, its searches shortened."""
    sys.path.insert(0, str(ROOT / "scripts" / "bench"))
    import engine as bench

    device = record.device.partition(":")[0]
    ways = [way for way in bench.WAYS if way != "serial" and (device == "cuda" or way != "graphed")]
    args = argparse.Namespace(device=device, images=None, text=None, ways=ways, repeats=1)
    for name, size in (QUICK_ROWS if record.is_quick else ROWS).items():
        case = bench.CASES[name]
        bench.CASES[name] = case._replace(**{device: bench.Size(*size)})
        record.attempt(name, bench.row, name, args)
    if record.is_quick:
        record.skip("graphed", "no CUDA device")
        record.skip(", ".join(ROWS.keys() - QUICK_ROWS), "no CUDA device: see engine-cpu.json")


def profile(record: Record) -> None:
    """Kernels of an update, and the share of the time in which the GPU works."""
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity

    def segment(kind: str, slots: int, name: str) -> dict[str, Any]:
        import numpy as np

        task = made_up(name, 12 if record.is_quick else 90, record.is_quick)
        task = replace(task, validations=3)
        pool = pool_of(kind, task, slots, record.device)
        for slot in range(slots):
            pool.start(slot, np.full(task.horizon, 0.01), seed=slot)
        pool.advance()  # sets up, captures, compiles
        activities = [ProfilerActivity.CPU]
        activities += [] if record.is_quick else [ProfilerActivity.CUDA]
        wait = (lambda: None) if record.is_quick else torch.cuda.synchronize
        wait()
        began = time.perf_counter()
        pool.advance()  # without the profiler, which slows
        wait()
        seconds = time.perf_counter() - began
        updates = int(task.checkpoints[2] - task.checkpoints[1])
        with torch.profiler.profile(activities=activities) as profiler:
            pool.advance()
            wait()
        events = profiler.events() or []
        there = [e for e in events if e.device_type == DeviceType.CUDA]
        kernels = [e for e in there if not e.is_user_annotation]
        calls = Counter(e.name for e in events if re.match(r"cu[A-Z]|cuda[A-Z]", e.name))
        copies = sum(e.name.startswith(("Memcpy", "Memset")) for e in kernels)
        spent: Counter[str] = Counter()
        for event in kernels:
            spent[event.name[:80]] += round(event.time_range.elapsed_us())
        busy, until = 0.0, 0.0
        for start, end in sorted((e.time_range.start, e.time_range.end) for e in kernels):
            busy += max(0.0, end - max(start, until))
            until = max(until, end)
        return {
            "updates": updates,
            "µs an update, with its validation": 1e6 * seconds / updates,
            "operations an update": sum(e.name.startswith("aten::") for e in events) / updates,
            "kernels an update": (len(kernels) - copies) / updates,
            "copies of memory": copies,
            "calls of CUDA": dict(calls.most_common(12)),
            "µs busy an update": busy / updates,
            "busy": busy / (1e6 * seconds),
            "µs by kernel": dict(spent.most_common(10)),
        }

    if record.is_quick:
        record.skip("kernels", "no CUDA device: operations alone are counted")
    cases = [("fused", 32, "mlp"), ("fused", 128, "mlp"), ("fused", 16, "cnn")]
    cases += [("fused", 8, "transformer"), ("serial", 1, "cnn")]
    for kind, slots, name in [("fused", 4, "mlp")] if record.is_quick else cases:
        record.attempt(f"{kind} {slots} {name}", segment, kind, slots, name)


def memory(record: Record) -> None:
    """Bytes by trials at once; halving where they do not fit; a stream gives what memory gives."""
    import numpy as np
    import torch
    from torch.utils.data import TensorDataset

    from lrtune.engine import FusedPool
    from lrtune.tasks import Stream

    task = made_up("cnn", 12, record.is_quick)

    def peak(slots: int) -> dict[str, int]:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trained(pool_of("fused", task, slots, record.device))
        most = torch.cuda.max_memory_allocated() - before
        torch.cuda.empty_cache()
        return {"bytes": most, "bytes a trial": most // slots}

    def halved(slots: int) -> dict[str, Any]:
        """With room for about half of them."""
        lines: list[str] = []
        torch.cuda.reset_peak_memory_stats()
        whole = trained(FusedPool(task, slots, record.device))
        _, total = torch.cuda.mem_get_info()
        room = torch.cuda.max_memory_reserved() * 0.6
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(room / total)
        try:
            parts = trained(FusedPool(task, slots, record.device, tell=lines.append))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        away = float(np.abs(parts[0] - whole[0]).max())
        return {"told": lines, "largest difference of a loss": away}

    def streamed() -> dict[str, Any]:
        data = TensorDataset(task.train.inputs, task.train.targets)
        flow = replace(task, train=data, memory=1000)
        assert isinstance(flow.train, Stream)
        seconds, found = [], []
        for one in (task, flow):
            pool = pool_of("serial", one, 2, record.device)
            began = time.perf_counter()
            found.append(trained(pool)[0])
            seconds.append(time.perf_counter() - began)
        away = float(np.abs(found[0] - found[1]).max())
        return {"largest difference of a loss": away, "seconds": seconds}

    for slots in (4, 32) if not record.is_quick else ():
        record.attempt(f"{slots} at once", peak, slots)
    if record.is_quick:
        record.skip("bytes by trials at once", "no CUDA device")
        record.skip("halving", "no CUDA device: tests/engine/test_failures.py has it by hand")
    else:
        record.attempt("halving", halved, 32)
    record.attempt("streaming", streamed)


def search(record: Record) -> None:
    """One whole search by the command: seconds, Python's start and all one-off costs counted."""
    budget = ["--budget", "4", "--no-confirm", "--engine", "serial"] if record.is_quick else []

    def searched(*words: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            command = [sys.executable, "-m", "lrtune", "search", *words, *budget, "--out", str(out)]
            began = time.perf_counter()
            told = subprocess.run(command, capture_output=True, text=True)
            seconds = time.perf_counter() - began
            lines = (told.stdout + told.stderr).splitlines()
            run = out / "run.json"
            engine = json.loads(run.read_text()).get("engine") if run.exists() else None
        return {
            "command": " ".join(["lrtune search", *words, *budget]),
            "seconds": seconds,
            "exit code": told.returncode,
            "engine": engine,
            "told": lines[-25:],
        }

    record.attempt("digits", searched, "digits")
    if record.is_quick:
        record.skip("digits, the default budget", "no CUDA device: 4 trainings, serial")
    else:
        record.attempt("digits, cnn", searched, "digits", "--model", "cnn", "--batch-size", "128")


STEPS: dict[str, tuple[Callable[[Record], None], int]] = {  # and seconds: 9 minutes in all
    "precision": (precision, 60),
    "tests": (tests, 105),
    "engine": (engine, 150),
    "profile": (profile, 40),
    "repeat": (repeat, 50),
    "memory": (memory, 30),
    "search": (search, 70),
}


def summary(folder: Path, codes: list[str]) -> None:
    """Put into ``summary.json`` how the steps ended and with what they ran; print it."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found = {}
    for name in (re.split(r"[>=<]", need)[0] for need in asked):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    steps = {}
    for code in codes:
        step, status, seconds = code.split(":")
        path = folder / f"{step}.json"
        told = json.loads(path.read_text()) if path.exists() else {}
        steps[step] = {
            "exit code": int(status),
            "seconds": int(seconds),
            "finished": told.get("finished", False),
            "skipped": told.get("skipped", {}),
            "errors": [
                name
                for name, result in told.get("results", {}).items()
                if isinstance(result, dict) and "error" in result
            ],
        }
    run = {"steps": steps, "needs": asked, "packages": found}
    (folder / "summary.json").write_text(json.dumps(run, indent=1) + "\n")
    print(json.dumps(steps, indent=1))


def wheels(extra: list[str]) -> None:
    """Download what is to be carried, and lrtune itself, into ``wheels/``."""
    folder = ROOT / "wheels"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [need for need in project["dependencies"] if not need.startswith("torch")]
    pip = [sys.executable, "-m", "pip", "-q"]
    there = ["--only-binary=:all:", "--python-version=3.12", "--implementation=cp"]
    there += [f"--platform={platform}_x86_64" for platform in PLATFORMS]
    report = folder / "report.json"
    resolve = ["install", "--dry-run", "--ignore-installed", f"--target={folder}"]
    subprocess.run([*pip, *resolve, *there, f"--report={report}", *needs, *extra], check=True)
    found = [one["metadata"] for one in json.loads(report.read_text())["install"]]
    report.unlink()
    left = THERE - {re.split(r"[>=<]", name)[0].lower() for name in extra}
    names = {one["name"].lower().replace("_", "-"): one["version"] for one in found}
    carried = [f"{name}=={number}" for name, number in names.items() if name not in left]
    download = ["download", "--no-deps", f"--dest={folder}"]
    subprocess.run([*pip, *download, *there, *carried], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", str(ROOT)], check=True)
    size = sum(path.stat().st_size for path in folder.glob("*.whl"))
    print(f"{folder}: {len(carried)} packages and lrtune, {size / 2**20:.1f} MiB")
    print(f"left out, as the machine has them: {', '.join(sorted(left))}, torch, torchvision")
    if size > LARGEST:
        raise SystemExit(f"more than {LARGEST >> 20} MiB: too much to be carried")


def readme(folder: Path = RESULTS) -> str:
    """What bench/README.md says of the GPU, from the results."""
    told = {
        step: json.loads(path.read_text())["results"]
        for step in STEPS
        if (path := folder / f"{step}.json").exists()
    }
    if not told.get("engine"):
        return (
            "Not measured. `scripts/gpu.sh` does it in nine minutes wherever there is a GPU, and\n"
            "`python scripts/gpu.py readme` puts its table here.\n"
        )
    sys.path.insert(0, str(ROOT / "scripts" / "bench"))
    import engine as bench

    whole = {step: {k: v for k, v in of.items() if "error" not in v} for step, of in told.items()}
    row = next(iter(whole["engine"].values()))
    lines = [f"`scripts/gpu.sh` on {row['device']}, torch {row['torch']}, one repeat:", ""]
    lines += [bench.table(whole["engine"]), ""]
    for name, one in whole.get("search", {}).items():
        lines.append(f"- {name}: `{one['command']}` takes {one['seconds']:.0f} s, all in.")
    for name, one in whole.get("profile", {}).items():
        kernels, busy = one["kernels an update"], one["busy"]
        lines.append(f"- {name}: {kernels:.0f} kernels an update, the GPU works {busy:.0%} of it.")
    near = [one["fused is as near as serial"] for one in whole.get("precision", {}).values()]
    lines.append(f"- Fused is as near to float64 as serial in {sum(near)} of {len(near)} cases.")
    return "\n".join(lines) + "\n"


def put_readme() -> None:
    """Write it there."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + readme() + END + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=[*STEPS, "limits", "summary", "wheels", "readme"])
    parser.add_argument("words", nargs="*", help="of summary and wheels, see gpu.sh")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.step == "limits":
        import torch

        # Where there is no GPU nobody waits for a lease to end, and others may be at work.
        patience = 1 if torch.cuda.is_available() else 20
        print(" ".join(f"{name}:{patience * seconds}" for name, (_, seconds) in STEPS.items()))
    elif args.step == "summary":
        summary(args.out, args.words)
    elif args.step == "wheels":
        wheels(args.words)
    elif args.step == "readme":
        put_readme()
    else:
        record = Record(args.step, args.out)
        STEPS[args.step][0](record)
        record.finish()


if __name__ == "__main__":
    main()
