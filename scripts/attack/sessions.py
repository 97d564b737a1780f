"""Whole commands that die on the way, have too little memory, or clocks that jump."""

import datetime
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from forks import TASK, forked, warm

from lrtune.run.folder import Run
from lrtune.search import loop
from lrtune.search.storage import index_of, was_cut_short

CPU_SECONDS = 2.5  # of a whole search, about
HEAVY = f"{Path(__file__).with_name('heavy.py')}:make"
MOST = 8  # deaths of one search
ROUNDING = 1e-4  # of what trains many at once, and is resumed in other groups
LOOKS = ("show", "show --json", "report", "export")
# Of how the search trains and where it stores; seeds that are small enough to be known in advance.
KINDS = tuple(
    f"--engine {engine} --storage {storage} --seed {seed}"
    for engine in ("serial --slots 1", "serial --slots 2", "fused --slots 3")
    for storage in ("journal://{}/journal.log", "sqlite:///{}/study.db")
    for seed in (0, 1)
)
SAME = ("number", "family", "state", "reason", "value", "schedule", "updates", "seed", "evidence")


def search(kind: str, folder: Path) -> list[str]:
    """The words of a search."""
    # A journal in the run's own folder is what nobody asks for.
    own = kind.replace(" --storage journal://{}/journal.log", "").format(folder.parent)
    task = TASK.split()
    if own.startswith(HEAVY):  # which has its own options
        task, own = [*task[:1], HEAVY, *task[6:]], own.removeprefix(HEAVY)
    return [*task, "--budget", "10", *own.split(), "--out", str(folder)]


def answer(folder: Path) -> dict[str, Any]:
    """All that a run says, but for what it cost on the clock."""
    run = Run(folder)
    told: dict[int, int] = {}
    for trial in run.study().get_trials(deepcopy=False):
        if trial.state.is_finished() and not was_cut_short(trial):
            told[index_of(trial)] = told.get(index_of(trial), 0) + 1
    trials = run.trials()
    finals = [json.loads(line) for line in (folder / "finals.jsonl").read_text().splitlines()]
    verdict = json.loads((folder / "verdict.json").read_text())
    best = json.loads((folder / "best.json").read_text())
    return {
        "trials told twice": [number for number, times in told.items() if times > 1],
        "trials": read(json.loads(trials[[*SAME]].to_json(orient="records", double_precision=15))),
        "finals": without(
            sorted(finals, key=lambda final: json.dumps(final["schedule"]) + str(final["seed"])),
            ("seconds",),
        ),
        "verdict": without(verdict, ("cost", "seconds", "elapsed")),
        "best": best["schedule"],
    }


def read(document: Any) -> Any:
    """A document with what is JSON in its texts."""
    if isinstance(document, str) and document.startswith("{"):
        return json.loads(document)
    if isinstance(document, dict):
        return {name: read(value) for name, value in document.items()}
    return [*map(read, document)] if isinstance(document, list) else document


def without(document: Any, names: tuple[str, ...]) -> Any:
    """A document without some of its keys."""
    if isinstance(document, dict):
        return {k: without(v, names) for k, v in document.items() if k not in names}
    return [without(v, names) for v in document] if isinstance(document, list) else document


@cache
def expected(kind: str) -> dict[str, Any]:
    """The answer of an unbroken search."""
    warm()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "run")
        said = forked(search(kind, folder))
        assert said.endswith("exit code 0"), said
        return answer(folder)


def stage(folder: Path) -> str:
    """What a run was at when it died."""
    if not (folder / "run.json").exists():
        return "in the range test"
    if (folder / "verdict.json").exists():
        return "as it wrote"
    return "as it confirmed" if (folder / "finals.jsonl").exists() else "as it searched"


def wrong(said: str, *ends: str) -> str:
    """What is wrong with how a command ended."""
    if "Traceback" in said or "Fatal Python error" in said or "hang" in said[-5:]:
        return said[-2000:]
    end = said.rpartition("\n")[2]
    return "" if end in ends else f"{end}: {said[-300:]}"


def goes_on(kind: str, folder: Path) -> str:
    """What is wrong with the answer once the search is left alone."""
    said = forked(search(kind, folder), often_kept)
    defect = wrong(said, "exit code 0")
    if defect:
        return f"the search does not go on: {defect}"
    rounding = ROUNDING if "fused" in kind else 0.0
    return different(answer(folder), expected(kind), rounding)


def different(found: Any, unbroken: Any, rounding: float, where: str = "") -> str:
    """Where two answers first differ by more than rounding, as a share of a number."""
    if isinstance(found, float) and isinstance(unbroken, float | int):
        close = math.isclose(found, unbroken, rel_tol=rounding, abs_tol=rounding)
        return "" if close else f"{where}: {found}, unbroken {unbroken}"
    if type(found) is not type(unbroken) or (
        isinstance(found, dict | list) and len(found) != len(unbroken)
    ):
        return f"{where}: {str(found)[:200]}, unbroken {str(unbroken)[:200]}"
    if isinstance(found, dict):
        parts = [(name, found.get(name), one) for name, one in unbroken.items()]
    elif isinstance(found, list):
        parts = [(str(n), *pair) for n, pair in enumerate(zip(found, unbroken, strict=True))]
    else:
        return "" if found == unbroken else f"{where}: {found}, unbroken {unbroken}"
    differences = (different(a, b, rounding, f"{where}/{name}") for name, a, b in parts)
    return next(filter(None, differences), "")


def often_kept() -> None:
    """A checkpoint after each segment."""
    loop.due = lambda since, cost: True


def dies(rng: random.Random, by: str, kept: bool) -> Callable[[], None]:
    """Die after some CPU time, which does not depend on what else the machine does."""
    seconds = 0.02 + CPU_SECONDS * rng.random() ** 2

    def before() -> None:
        if kept:
            often_kept()
        if by != "SIGKILL":  # else by SIGPROF itself, which no code of ours sees either
            signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), getattr(signal, by)))
        signal.setitimer(signal.ITIMER_PROF, seconds)

    return before


def killed(rng: random.Random) -> tuple[list[str], str]:
    """A search and its confirmation, killed and interrupted at any moment, again and again."""
    kind, ends, defects = rng.choice(KINDS), list[str](), list[str]()
    expected(kind)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "run")
        for _ in range(MOST):
            by = rng.choice(["SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", "SIGINT"])
            said = forked(search(kind, folder), dies(rng, by, rng.random() < 0.5))
            ok = {"SIGKILL": ["SIGPROF"], "SIGTERM": ["exit code 130", "SIGTERM"]}
            defects.append(wrong(said, "exit code 0", *ok.get(by, ["exit code 130"])))
            if said.endswith("exit code 0"):
                break
            ends.append(f"killed {stage(folder)}")
            if rng.random() < 0.2:
                line = rng.choice(LOOKS).split()
                defects.append(wrong(forked([*line, str(folder)]), "exit code 0", "exit code 2"))
        defects.append(goes_on(kind, folder))
    return ends, "; ".join(f"{kind}: {defect}" for defect in defects if defect)


def workers_of(process: int) -> list[int]:
    """The processes that it has started."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    fields = [(stat.partition(" ")[0], stat.rpartition(") ")[2].split()[1]) for stat in stats]
    return [int(number) for number, parent in fields if int(parent) == process]


def strikes(rng: random.Random, seconds: float, struck: Path) -> Callable[[], None]:
    """After some time kill a worker, or the process that has them."""
    at, head, draw = rng.uniform(0, seconds), rng.random() < 0.4, rng.random()

    def strike() -> None:
        workers = workers_of(os.getpid())
        struck.write_text(" ".join(map(str, workers)))
        if head or not workers:
            os.kill(os.getpid(), signal.SIGKILL)
        os.kill(workers[int(draw * len(workers))], signal.SIGKILL)

    def before() -> None:
        often_kept()
        timer = threading.Timer(at, strike)
        timer.daemon = True
        timer.start()

    return before


def killed_workers(rng: random.Random) -> tuple[list[str], str]:
    """A search with two workers: they are killed, or the process that has them is."""
    kind, ends = "--engine serial --device cpu,cpu --slots 3 --seed 0", list[str]()
    began = time.monotonic()
    expected(kind)
    seconds = min(60.0, time.monotonic() - began) if not TIMES else TIMES[0]
    TIMES[:] = [max(10.0, seconds)]
    with tempfile.TemporaryDirectory() as place:
        folder, struck = Path(place, "run"), Path(place, "workers")
        for _ in range(3):
            said = forked(search(kind, folder), strikes(rng, TIMES[0], struck))
            end = said.rpartition("\n")[2]
            if defect := wrong(said, "exit code 0", "SIGKILL"):
                return ends, f"{kind}: {defect}"
            if not struck.exists():
                break
            ends.append(f"{'head' if end == 'SIGKILL' else 'worker'} killed")
            if left := still_there(struck.read_text().split()):
                return ends, f"{kind}: workers outlive their head: {left}"
            struck.unlink()
        defect = goes_on(kind, folder)
    return ends or ["not killed"], defect and f"{kind}: {defect}"


TIMES: list[float] = []  # seconds that an unbroken search with workers takes here, now


def still_there(workers: list[str], seconds: float = 120.0) -> list[str]:
    """Which of these go on for longer than they may."""
    until = time.monotonic() + seconds
    while workers and time.monotonic() < until:
        time.sleep(0.1)
        workers = [number for number in workers if Path("/proc", number).exists()]
    return workers


def low_memory(rng: random.Random) -> tuple[str, str]:
    """A search that gets little more memory than it has at its begin."""
    kind = f"{HEAVY} --seed 0 --engine {rng.choice(['serial --slots 1', 'fused --slots 2'])}"
    more = rng.randrange(150 << 20)
    expected(kind)

    def limited() -> None:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "run")
        said = forked(search(kind, folder), limited)
        end = said.rpartition("\n")[2]
        clean = ("exit code 0", "exit code 1", "SIGKILL", "SIGABRT", "SIGSEGV", "SIGBUS")
        defect = wrong(said, *clean) or goes_on(kind, folder)
    return end, defect and f"{more:,} bytes more, {kind}: {defect}"


def jumping(rng: random.Random) -> Callable[[], None]:
    """A clock that jumps by up to a year, back and forth, and a time zone that changes."""
    zones = ("UTC", "Pacific/Kiritimati", "America/St_Johns", "Europe/Berlin")
    seconds, real = random.Random(rng.random()), time.time

    def shift() -> float:
        if seconds.random() < 0.02:
            os.environ["TZ"] = seconds.choice(zones)
            time.tzset()
        return seconds.choice([0, 0, 3600, -3600, 1, -1, 60, -60, 86400 * 365, -86400 * 365])

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> datetime.datetime:
            return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    def before() -> None:
        often_kept()
        time.time = lambda: real() + shift()
        for module in [*sys.modules.values()]:
            for name, value in [*vars(module).items()]:
                if value is datetime.datetime and module is not sys.modules[__name__]:
                    setattr(module, name, Clock)

    return before


def clocks(rng: random.Random) -> tuple[str, str]:
    """A search that is killed and goes on while the machine's clock jumps."""
    kind = rng.choice(KINDS)
    expected(kind)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "run")
        for _ in range(2):
            jump, death = jumping(rng), dies(rng, "SIGKILL", kept=True)
            said = forked(search(kind, folder), lambda jump=jump, death=death: (jump(), death()))
            if defect := wrong(said, "exit code 0", "SIGPROF"):
                return "ended", f"{kind}: {defect}"
        said = forked(search(kind, folder), jumping(rng))
        defect = wrong(said, "exit code 0") or goes_on(kind, folder)
    return "clock jumped, killed twice", defect and f"{kind}: {defect}"


ATTACKS: dict[str, Callable[[random.Random], tuple[str | list[str], str]]] = {
    "killed commands": killed,
    "killed workers": killed_workers,
    "little memory": low_memory,
    "clocks that jump": clocks,
}
