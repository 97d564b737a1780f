"""Engine: what trains, on which devices; SpreadPool: several devices as one Pool."""

import math
import os
import pickle
import re
import signal
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import spec_from_file_location
from itertools import accumulate, pairwise, starmap
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]  # unlike pickle, it sends lambdas
import torch

from lrtune.engine.choose import Choice, check_wishes, choose, hardware, make_pool
from lrtune.engine.device_task import is_out_of_memory
from lrtune.engine.pool import ForwardingPool, Pool, Progress
from lrtune.engine.serial import SerialPool
from lrtune.errors import InputError, MissingPackage, expect
from lrtune.tasks import Task

PROGRAM = "import sys; sys.path[:] = {}; from lrtune.engine import devices; devices.serve({})"
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
RAY = (2, 45)  # the oldest version that has all that is used of it; as in pyproject.toml
PATIENCE = 1.0  # seconds between looks whether a silent process still lives

Make = Callable[[Task, int, str], Pool]  # of a task, slots and a device
Place = tuple[str | None, list[str]]  # of a module: its file, or its folders if it has none


class SpreadPool(ForwardingPool):
    """A Pool over several devices, which train at the same time; each has a block of the slots.

    A process gets the task and ``make``, not what else was set in this one (torch's global
    settings, say). It has a group of the slots, and trains while the others' are looked at. They
    end with ``close``, with the ``with`` block, with the pool's last reference, or with this
    process, however that ends.
    """

    def __init__(
        self,
        task: Task,
        slots: int,
        devices: Sequence[str],
        make: Make = SerialPool,
        *,
        threads: int | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Start the processes and let each make its Pool.

        Args:
            task: what is trained; it and ``make`` go to the processes by cloudpickle.
            slots: K over all devices, at least one for each; the first ones get what is left over.
            devices: as torch names them: cuda:0, cuda:1.
            make: ``make(task, slots, device)`` -> the Pool of one device.
            threads: CPU threads of each process; as torch sets them where None.
            tell: called with each line that a process had to ``say``, after the segment.

        Raises:
            InputError: a task that cannot be sent; whatever ``make`` finds wrong with it.
        """
        if sys.platform == "win32":
            raise InputError(f"devices {', '.join(devices)}: on Windows, one alone")
        if not devices or slots < len(devices):
            raise InputError(f"slots={slots}: at least one for each of {len(devices)} devices")
        least, more = divmod(slots, len(devices))
        shares = [least + (index < more) for index in range(len(devices))]
        job = _packed_job(task, make)
        self.task = task
        self.slots = slots
        self._tell = tell
        self._groups = [*starmap(range, pairwise(accumulate(shares, initial=0)))]
        self._children: list[DeviceProcess] = []
        self._launched: dict[int, Future[list[Progress]]] = {}  # by group
        self._finalizer = weakref.finalize(self, _end, self._children)
        try:
            for device in devices:
                self._children.append(DeviceProcess(device))
            modules = _places()
            settled = [
                child.ask("settle", child.device, share, threads, modules)
                for child, share in zip(self._children, shares, strict=True)
            ]
            opened = [child.send(job) for child in self._children]  # at the same time
            for answer in settled:
                answer.result()
            places: list[dict[str, str]] = [answer.result() for answer in opened]
        except BaseException:
            self.close()
            raise
        self.placement = {
            split: "; ".join(dict.fromkeys(place[split] for place in places)) for split in places[0]
        }

    def __enter__(self) -> "SpreadPool":
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; more than once does no harm."""
        self._finalizer()

    @property
    def groups(self) -> Sequence[range]:
        """See Pool."""
        return self._groups

    def advance(self) -> list[Progress]:
        """See Pool."""
        every = range(len(self._groups))
        for group in every:
            self.launch(group)
        return [progress for group in every for progress in self.collect(group)]

    def launch(self, group: int) -> None:
        """See Pool."""
        self._launched[group] = self._children[group].ask("advance")

    def collect(self, group: int) -> list[Progress]:
        """See Pool."""
        child, first = self._children[group], self._groups[group].start
        reached = self._launched[group].result()
        for line in child.lines():
            self._tell(f"{child.device}: {line}")
        return [replace(progress, slot=first + progress.slot) for progress in reached]

    def _forward(self, slot: int, method: str, *arguments: object) -> Any:
        for slots, child in zip(self._groups, self._children, strict=True):
            if slot in slots:
                return child.ask(method, slot - slots.start, *arguments).result()
        raise IndexError(f"slot {slot}: there are 0 to {self.slots - 1}")


def _packed_job(task: Task, make: Make) -> bytes:
    try:
        packed: bytes = cloudpickle.dumps(("open", (task, make)))
    except Exception as error:  # whatever a user's object raises when it is pickled
        raise InputError(
            f"{task.name}: cannot be sent to the process of another device: "
            f"{type(error).__name__}: {error}: use one device, or mend what it names"
        ) from error
    return packed


class DeviceProcess:
    """A device's process, seen from here. It does one request after the other.

    A thread talks with it: Ctrl-C is raised in the main thread, which may give up waiting for an
    answer, and still no message is cut in two and no answer taken for that of a later request.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._requests: SimpleQueue[tuple[bytes, Future[Any]] | None] = SimpleQueue()
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format([*map(str, sys.path)], theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a user's model prints is no result of ours, nor an event
                process_group=0,  # Ctrl-C in the terminal is for us; and see kill
            )
        self._ended = False
        self._lines: list[str] = []
        Thread(target=self._talk, name=f"lrtune {device}", daemon=True).start()

    def ask(self, name: str, *arguments: object) -> Future[Any]:
        """Let it call a method."""
        return self.send(pickle.dumps((name, arguments)))

    def send(self, request: bytes) -> Future[Any]:
        """Hand over a packed request; the answer comes later."""
        if self._ended:
            raise RuntimeError(f"{self.device}: the pool is closed")
        answer: Future[Any] = Future()
        self._requests.put((request, answer))
        return answer

    def lines(self) -> list[str]:
        """Lines for a person that came with its answers since the last time."""
        lines, self._lines = self._lines, []
        return lines

    def kill(self) -> None:
        """End it, and the processes that it started: they are of its group."""
        self._ended = True
        self._requests.put(None)
        self._kill_group()

    def wait(self) -> int:
        """Until it has ended; its exit code."""
        return self._process.wait()

    def _talk(self) -> None:
        with self._pipe:
            while (job := self._requests.get()) is not None:
                request, answer = job
                try:
                    answer.set_result(self._exchange(request))
                except Exception as error:
                    answer.set_exception(error)
                del job, request, answer  # they may be large

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            if self._process.returncode is None:  # else its number may be somebody else's by now
                os.killpg(self._process.pid, signal.SIGKILL)

    def _exchange(self, request: bytes) -> Any:
        try:
            self._pipe.send_bytes(request)
            while not self._pipe.poll(PATIENCE):
                # Processes that it started may hold the pipe open when it is gone.
                if self._process.poll() is not None:
                    raise EOFError
            answer = pickle.loads(self._pipe.recv_bytes())
        except (OSError, EOFError, MemoryError) as error:
            self._kill_group()  # what it may have left, or itself: the pipe is of no use any more
            code = self.wait()
            how = f"exit code {code}" + (f" ({signal.Signals(-code).name})" if code < 0 else "")
            raise RuntimeError(f"{self.device}: its process has ended: {how}") from error
        if isinstance(answer, Exception):
            raise answer
        result, lines = answer
        self._lines += lines
        return result


def _end(children: list[DeviceProcess]) -> None:
    for child in children:
        child.kill()
    for child in children:
        child.wait()


LINES: list[str] = []  # in the process of a device: what the parent is to tell


def say(line: str) -> None:
    """Have a line told with the next answer: for pools made in the process of a device."""
    LINES.append(line)


def serve(handle: int) -> None:
    """Run in a device's process: do what is asked on the pipe, until the parent is gone."""
    # Whoever tells us to end tells the parent too, which decides; we end with it: see _listen.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    pipe = Connection(handle)
    requests: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(pipe, requests), daemon=True).start()
    worker = _Worker()
    while True:
        with suppress(OSError):  # the parent is gone, and so are we in a moment
            pipe.send_bytes(worker.do(requests.get()))


def _listen(pipe: Connection, requests: SimpleQueue[bytes]) -> None:
    """Take requests, so that the parent's end is noticed at once and not after a segment."""
    try:
        while True:
            requests.put(pipe.recv_bytes())
    finally:
        os.killpg(0, signal.SIGKILL)  # with the processes that read our data


class _Worker:
    """What the process of a device does when it is asked."""

    pool: Pool

    def settle(
        self, device: str, slots: int, threads: int | None, modules: dict[str, Place]
    ) -> None:
        """Before the task arrives."""
        sys.meta_path.insert(0, _SameModules(modules))
        self.device, self.slots = device, slots
        if threads is not None:
            torch.set_num_threads(threads)
        if torch.device(device).type == "cuda":
            torch.cuda.set_device(device)  # lest something be put on the first one

    def open(self, task: Task, make: Make) -> dict[str, str]:
        """Make the Pool; where its data is."""
        self.pool = make(task, self.slots, self.device)
        return self.pool.placement

    def do(self, request: bytes) -> bytes:
        """The packed answer, or error."""
        try:
            name, arguments = pickle.loads(request)
            does = self if name in ("settle", "open") else self.pool
            result = getattr(does, name)(*arguments)
            lines = LINES.copy()
            LINES.clear()
            return pickle.dumps((result, lines))
        except InputError as error:
            return pickle.dumps(InputError(str(error)))
        except BaseException as error:  # sys.exit() in a user's model, too
            if isinstance(error, Exception) and is_out_of_memory(error):
                return pickle.dumps(MemoryError(f"{self.device}: {error}"))
            report = f"in the process of {self.device}:\n{traceback.format_exc()}"
            return pickle.dumps(RuntimeError(report))


class _SameModules(MetaPathFinder):
    """Imports what the parent has imported from the same files: a user's are not on the path."""

    def __init__(self, places: dict[str, Place]) -> None:
        self._places = places

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: object = None
    ) -> ModuleSpec | None:
        """See MetaPathFinder."""
        file, folders = self._places.get(name, (None, []))
        if file is not None:
            return spec_from_file_location(name, file)
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = folders
        return spec if folders else None


def _places() -> dict[str, Place]:
    """Where the modules lie that are loaded here, by name: those in Python, the outermost ones."""
    places: dict[str, Place] = {}
    for name, module in sys.modules.copy().items():
        spec: ModuleSpec | None = getattr(module, "__spec__", None)
        if spec is None or spec.name != name or "." in name:
            continue
        if spec.has_location and str(spec.origin).endswith(".py"):
            places[name] = (spec.origin, [])
        elif spec.origin is None and spec.submodule_search_locations is not None:
            places[name] = (None, list(spec.submodule_search_locations))
    return places


@dataclass(frozen=True, slots=True)
class Engine:
    """What trains.

    Attributes:
        kind: auto, serial or fused; auto takes what is measured to be the fastest here.
        slots: trials side by side, over all devices; measured too where None.
        device: as torch names it, several with commas between, the same one twice where two
            processes are to share it; CUDA where there is one, else the CPU, where None.
        deterministic: on CUDA, train by algorithms that give the same bits each time, as the CPU's
            do; what has none raises. cuBLAS takes this up only before its first use in a process.
        cluster: address of a Ray cluster, whose hosts train in place of this machine's devices:
            ``auto`` for the one that this machine is part of, or HOST:PORT.
        hosts: processes of the cluster that train, each with an equal share of the slots; as many
            as there is room for where None.
        num_gpus: GPUs of a host, as Ray counts them: 0 (the CPU) to 1; 0 where None.
        num_cpus: CPUs of a host, as Ray counts them; 1 where None.
        lockstep: all hosts wait for each other after each segment, so that a search takes the same
            course each time; else each goes on as soon as it is ready.

    Raises:
        InputError: an unknown kind, no slots, a device that is not there; a cluster beside a
            device, its options without it, Ray not installed or too old.
    """

    kind: str = "auto"
    slots: int | None = None
    device: str | None = None
    deterministic: bool = False
    cluster: str | None = None
    hosts: int | None = None
    num_gpus: float | None = None
    num_cpus: float | None = None
    lockstep: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        expect("slots", self.slots, int | None, "a number of trials")
        check_wishes(self.kind, self.slots)
        self._check_cluster()
        count = len(self.devices)
        if self.slots is not None and self.slots < count:
            raise InputError(f"slots={self.slots}: at least one for each of {count} devices")

    @property
    def devices(self) -> tuple[str, ...]:
        """Each with its number: ``cuda:0``; of a cluster what a host trains on: ``cuda``."""
        if self.cluster is not None:
            return ("cuda" if self.num_gpus else "cpu",)
        return devices_of(self.device)

    def _check_cluster(self) -> None:
        expect("cluster", self.cluster, str | None, "an address: auto or HOST:PORT")
        expect("hosts", self.hosts, int | None, "a number of processes")
        expect("num_gpus", self.num_gpus, int | float | None, "a number of GPUs")
        expect("num_cpus", self.num_cpus, int | float | None, "a number of CPUs")
        expect("lockstep", self.lockstep, bool, "True or False")
        if self.cluster is None:
            for name in ("hosts", "num_gpus", "num_cpus", "lockstep"):
                value = getattr(self, name)
                if value is not None and value is not False:
                    raise InputError(f"{name}={value!r}: is of a cluster: give cluster too: auto")
            return
        if self.cluster.startswith("ray://"):
            raise InputError(
                f"cluster {self.cluster!r}: a search would end with the connection: submit it to "
                "the cluster: ray job submit -- lrtune search ... --cluster auto"
            )
        if not re.fullmatch(r"auto|[^\s/]+:\d+", self.cluster):
            raise InputError(f"cluster {self.cluster!r}: expected auto, or HOST:PORT of its head")
        if self.device is not None:
            raise InputError(
                f"device {self.device!r} and cluster: one of the two: num_gpus=1 has each host of "
                "the cluster train on a GPU"
            )
        if self.hosts is not None and self.hosts < 1:
            raise InputError(f"hosts={self.hosts}: at least 1")
        if self.hosts is not None and self.slots is not None and self.slots < self.hosts:
            raise InputError(f"slots={self.slots}: at least one for each of {self.hosts} hosts")
        if self.num_gpus is not None and not 0 <= self.num_gpus <= 1:
            raise InputError(f"num_gpus={self.num_gpus:g}: 0 to 1: a host trains on one GPU")
        if self.num_cpus is not None and not 0 < self.num_cpus < math.inf:
            raise InputError(f"num_cpus={self.num_cpus:g}: positive")
        check_ray()


def choose_pool(
    task: Task,
    engine: Engine,
    before: Choice | None,
    tell: Callable[[str], None],
    *,
    updates: float,
    seconds: float = math.inf,
) -> tuple[Pool, Choice]:
    """What trains fastest on these devices, and why; torch's threads are set for it.

    What was chosen ``before`` serves again where it is what is asked for. ``updates`` and
    ``seconds`` are about what will be trained, on all devices together; see ``choose``.

    Raises:
        InputError: what ``choose`` refuses.
    """
    devices = engine.devices
    names, count = tuple(map(hardware, devices)), len(devices)
    alike = before is not None and before.deterministic == engine.deterministic
    if before is not None and alike and before.grants(engine.kind, engine.slots, names):
        pool, choice = spread(task, before, devices, tell), before
    else:
        tell("engine: which one trains fastest here")
        choice, pool = choose(
            task,
            devices[0],
            engine=engine.kind,
            slots=None if engine.slots is None else engine.slots // count,
            updates=updates / count,
            seconds=seconds / count,
        )
        choice = replace(choice, devices=names, deterministic=engine.deterministic)
        if count > 1:
            del pool  # it has its device's memory
            torch.cuda.empty_cache()
            threads = None if choice.threads is None else max(1, choice.threads // count)
            slots = engine.slots or count * choice.slots
            choice = replace(choice, slots=slots, threads=threads)
            pool = spread(task, choice, devices, tell)
        tell(f"engine: {choice}")
    if choice.threads is not None:
        torch.set_num_threads(choice.threads)
    return pool, choice


def spread(
    task: Task, choice: Choice, devices: tuple[str, ...], tell: Callable[[str], None]
) -> Pool:
    """The pool that was chosen, over all devices."""
    if len(devices) == 1:
        return make_pool(task, choice, devices[0], tell)
    make = maker(choice, say)
    return SpreadPool(task, choice.slots, devices, make, threads=choice.threads, tell=tell)


def maker(choice: Choice, tell: Callable[[str], None]) -> Make:
    """Makes such pools, with any number of slots, for any device."""

    def make(task: Task, slots: int, device: str) -> Pool:
        if choice.deterministic:
            be_deterministic()  # in this process too
        return make_pool(task, replace(choice, slots=slots), device, tell)

    return make  # a closure: sent by value, so that no process has to import Optuna


def be_deterministic() -> None:
    """See Engine, and torch's notes on reproducibility."""
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it would choose among them by the clock


@contextmanager
def own_settings(deterministic: bool) -> Iterator[None]:
    """Torch's number of threads and its determinism are the caller's again at the end."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    benchmark, workspace = torch.backends.cudnn.benchmark, os.environ.get(WORKSPACE)
    if deterministic:
        be_deterministic()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark
        os.environ.pop(WORKSPACE, None)
        os.environ.update({} if workspace is None else {WORKSPACE: workspace})


def check_ray() -> None:
    """Refuse to use a Ray that is not there, or too old.

    Raises:
        MissingPackage: it has to be installed.
    """
    try:
        found = version("ray")
    except PackageNotFoundError as error:
        raise MissingPackage(
            "cluster: Ray is not installed: pip install 'lrtune[cluster]'"
        ) from error
    if tuple(map(int, found.split(".")[:2])) < RAY:
        oldest = ".".join(map(str, RAY))
        raise MissingPackage(
            f"cluster: Ray {found} is too old: pip install 'ray>={oldest}', the same version on "
            "each machine of the cluster"
        )


def devices_of(names: str | None) -> tuple[str, ...]:
    """The devices of these names, with commas between; see device_of."""
    if names is None:
        return (device_of(None),)
    expect("device", names, str, "a name, such as cpu or cuda:0")
    devices = tuple(device_of(name.strip()) for name in names.split(","))
    if len({name.partition(":")[0] for name in devices}) > 1:
        raise InputError(f"device {names!r}: of one kind: rates may rank otherwise on the other")
    return devices


def device_of(name: str | None) -> str:
    """The device of this name; CUDA where there is one, else the CPU, where None.

    Raises:
        InputError: torch has no such device here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device {name!r}: cpu, cuda, or cuda:1 and so on")
    if kind == "cuda" and not torch.cuda.is_available():
        built = torch.backends.cuda.is_built()
        why = "" if built else f", and PyTorch {torch.__version__} is built without CUDA"
        raise InputError(f"device {name!r}: No CUDA device found{why}: use --device cpu")
    try:
        device = torch.empty(0, device=name).device  # cuda is one of them: cuda:0, say
    except (RuntimeError, AssertionError) as error:
        last = torch.cuda.device_count() - 1
        raise InputError(f"device {name!r}: there are cuda:0 to cuda:{last}") from error
    return "cpu" if kind == "cpu" else str(device)
