"""DeviceProcess: a worker in another process of this machine, which ends with this one."""

import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import Future
from contextlib import suppress
from importlib.machinery import ModuleSpec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from lrtune.engine.spread import Lost
from lrtune.engine.worker import Place, SameModules, Worker

PROGRAM = "import sys; sys.path[:] = {}; from lrtune.engine import process; process.serve({}, {!r})"
PATIENCE = 1.0  # seconds between looks whether a silent process still lives


class DeviceProcess:
    """A device's process, seen from here. It does one request after the other.

    A thread talks with it: Ctrl-C is raised in the main thread, which may give up waiting for an
    answer, and still no message is cut in two and no answer taken for that of a later request.

    Attributes:
        name: of its device.
    """

    leaving = False  # see Remote: nobody says so before
    sees = True

    def __init__(self, device: str) -> None:
        self.name = device
        self._requests: SimpleQueue[tuple[bytes, Future[Any]] | None] = SimpleQueue()
        self._pipe, theirs = Pipe()
        program = PROGRAM.format([*map(str, sys.path)], theirs.fileno(), device)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a user's model prints is no result of ours, nor an event
                process_group=0,  # Ctrl-C in the terminal is for us; and see kill
            )
        self._ended = False
        self._lines: list[str] = []
        Thread(target=self._talk, name=f"lrtune {device}", daemon=True).start()
        self.send(pickle.dumps(_places()))

    def ask(self, number: int | None, method: str, *arguments: object) -> Future[Any]:
        """See Remote."""
        return self.send(cloudpickle.dumps((number, method, arguments)))

    def send(self, request: bytes) -> Future[Any]:
        """Hand over a packed request; the answer comes later."""
        if self._ended:
            raise RuntimeError(f"{self.name}: the pool is closed")
        answer: Future[Any] = Future()
        self._requests.put((request, answer))
        return answer

    def lines(self) -> list[str]:
        """See Remote."""
        lines, self._lines = self._lines, []
        return lines

    def kill(self) -> None:
        """End it, and the processes that it started: they are of its group."""
        self._ended = True
        self._requests.put(None)
        self._kill_group()
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
            code = self._process.wait()
            how = f"exit code {code}" + (f" ({signal.Signals(-code).name})" if code < 0 else "")
            raise Lost(f"its process has ended: {how}") from error
        if isinstance(answer, Exception):
            raise answer
        result, lines = answer
        self._lines.extend(lines)
        return result


def serve(handle: int, device: str) -> None:
    """Run in a device's process: do what is asked on the pipe, until the parent is gone."""
    # Whoever tells us to end tells the parent too, which decides; we end with it: see _listen.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    pipe = Connection(handle)
    requests: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(pipe, requests), daemon=True).start()
    sys.meta_path.insert(0, SameModules(pickle.loads(requests.get())))  # a user's: not on the path
    pipe.send_bytes(pickle.dumps((None, [])))
    worker = Worker(device, device)
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
