"""Child: a process that serves one device, as the parent sees it, and what runs in it."""

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch

from lrtune.engine.pool import Pool
from lrtune.engine.tally import is_out_of_memory
from lrtune.errors import InputError
from lrtune.tasks import Task

PROGRAM = "import sys; sys.path[:] = {}; from lrtune.engine import child; child.serve({})"
PATIENCE = 1.0  # seconds between looks whether a silent process still lives

Make = Callable[[Task, int, str], Pool]  # of a task, slots and a device
Place = tuple[str | None, list[str]]  # of a module: its file, or its folders if it has none


class Child:
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
        self._told: list[str] = []
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

    def told(self) -> list[str]:
        """Lines for a person that came with its answers since the last time."""
        lines, self._told = self._told, []
        return lines

    def kill(self) -> None:
        """End it, and the processes that it started: they are of its group."""
        self._ended = True
        self._requests.put(None)
        self._kill_group()

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait()

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
            how = _ending(self._process.wait())
            raise RuntimeError(f"{self.device}: its process has ended: {how}") from error
        if isinstance(answer, Exception):
            raise answer
        found, lines = answer
        self._told += lines
        return found


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
            found = getattr(does, name)(*arguments)
            lines = LINES.copy()
            LINES.clear()
            return pickle.dumps((found, lines))
        except InputError as error:
            return pickle.dumps(InputError(str(error)))
        except BaseException as error:  # sys.exit() in a user's model, too
            if isinstance(error, Exception) and is_out_of_memory(error):
                return pickle.dumps(MemoryError(f"{self.device}: {error}"))
            told = f"in the process of {self.device}:\n{traceback.format_exc()}"
            return pickle.dumps(RuntimeError(told))


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


def places() -> dict[str, Place]:
    """Where the modules lie that are loaded here, by name: those in Python, the outermost ones."""
    found: dict[str, Place] = {}
    for name, module in sys.modules.copy().items():
        spec: ModuleSpec | None = getattr(module, "__spec__", None)
        if spec is None or spec.name != name or "." in name:
            continue
        if spec.has_location and str(spec.origin).endswith(".py"):
            found[name] = (spec.origin, [])
        elif spec.origin is None and spec.submodule_search_locations is not None:
            found[name] = (None, list(spec.submodule_search_locations))
    return found


def _ending(code: int) -> str:
    return f"exit code {code}" + (f" ({signal.Signals(-code).name})" if code < 0 else "")
