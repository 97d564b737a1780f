"""Cluster: hosts of a Ray cluster as workers; one host is one process with resources of its own."""

import logging
import os
import pickle
import re
import site
import socket
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import ray
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError

from lrtune.engine.choose import hardware
from lrtune.engine.spread import TIRED, Lost, Refused
from lrtune.engine.worker import Worker, packed
from lrtune.errors import InputError, Stopped
from lrtune.tasks import Task

LOOK = 1.0  # seconds between looks at the cluster
ANSWER = 5.0  # seconds in which its head is to answer
GONE = 20.0  # seconds of silence after which it is gone
SOON = 5.0  # seconds until a person is told what is waited for
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # in Ray's messages
NO_TOKEN = "it asks for a token: export RAY_AUTH_MODE=token, with its ~/.ray/auth_token here too"
NO_CLUSTER = (
    "start one with `ray start --head` here and `ray start --address=THIS:6379` on the others"
)


def versions() -> dict[str, str]:
    """What must be alike on all hosts."""
    python, torch_ = ".".join(map(str, sys.version_info[:2])), torch.__version__.partition("+")[0]
    own = {"lrtune": version("lrtune"), "Python": python}
    return {**own, "torch": torch_, "numpy": np.__version__}


class Host:
    """In a process of the cluster: a Worker, once it is known to be one that may be used."""

    def __init__(
        self, number: int, device: str, head: dict[str, str], shared: tuple[str, str, str]
    ) -> None:
        """Compare with the head, and look whether a file with some content is here too.

        The third of ``shared`` is then the folder for the states of trials.
        """
        self.name = f"{socket.gethostname()}/{number}"
        self.kind = hardware(device)
        self._why = next(
            (
                f"has {name} {own}, and the search {head[name]}: install the same on all hosts"
                for name, own in versions().items()
                if own != head[name]
            ),
            "",
        )
        self._worker = Worker(device, self.name)
        file, content, states = shared
        with suppress(OSError):
            if file and Path(file).read_text() == content:
                self._worker.states = Path(states)

    def meet(self) -> tuple[str, str, bool, str, str]:
        """Name, node, whether it sees the folder for states, kind, and why it may not be used."""
        node, sees = ray.get_runtime_context().get_node_id(), self._worker.states is not None
        return self.name, node, sees, self.kind, self._why

    def do(self, request: bytes) -> bytes:
        """See Worker."""
        return self._worker.do(request)


class RemoteHost:
    """A Host, seen from the head.

    Attributes:
        name: of its machine, with its number.
        node: of Ray, where it runs; empty before it does.
        sees: see Remote; False before it runs.
    """

    def __init__(
        self,
        number: int,
        actor: Any,
        met: Callable[["RemoteHost", str, str], Exception | None],
        leaving: Callable[[str], bool],
    ) -> None:
        """See ``leaving``, which is asked with its node.

        ``met`` is told its kind and what is wrong with it: the error of all that it is asked.
        """
        self.name, self.node, self.sees = f"host {number}", "", False
        self._actor, self._met, self._leaving = actor, met, leaving
        self._why: Exception | None = None  # it may not be used
        self._lines: list[str] = []
        self._ended = False
        actor.meet.remote().future().add_done_callback(self._meet)

    @property
    def leaving(self) -> bool:
        """Whether its machine is about to end."""
        return self._leaving(self.node)

    def ask(self, number: int | None, method: str, *arguments: object) -> Future[Any]:
        """See Remote."""
        return self.send(cloudpickle.dumps((number, method, arguments)))

    def send(self, request: Any) -> Future[Any]:
        """Hand over a packed request, or Ray's reference to one; the answer comes later."""
        if self._ended:
            raise RuntimeError(f"{self.name}: the pool is closed")
        answer: Future[Any] = Future()
        self._actor.do.remote(request).future().add_done_callback(partial(self._answer, answer))
        return answer

    @property
    def serves(self) -> bool:
        """Whether it was not ended, and may be used as far as is known."""
        return not self._ended and self._why is None

    def lines(self) -> list[str]:
        """See Remote."""
        lines, self._lines = self._lines, []
        return lines

    def kill(self) -> None:
        """End it; more than once does no harm."""
        if self._ended:
            return
        self._ended = True
        with suppress(RayError, ValueError):
            ray.kill(self._actor)

    def refuse(self, why: Exception) -> None:
        """Have it be the error of all that it is asked from now on."""
        self._why = why

    def _meet(self, found: Future[tuple[str, str, bool, str, str]]) -> None:
        try:
            self.name, self.node, self.sees, kind, why = found.result()
        except RayError as error:
            if "No module named 'lrtune" not in str(error):
                return  # all that it was asked says so too
            kind, why = "", "has no such lrtune: install it on all hosts, with the same Python"
        self._why = self._met(self, kind, why)

    def _answer(self, answer: Future[Any], packed: Future[bytes]) -> None:
        try:
            if self._why is not None:
                raise self._why
            found = pickle.loads(packed.result())
            if isinstance(found, Exception):
                raise found
            result, lines = found
            self._lines.extend(lines)
            answer.set_result(result)
        except RayError as error:
            answer.set_exception(self._why or Lost(_reason(error)))
        except Exception as error:
            answer.set_exception(error)


class Cluster:
    """Starts hosts, which hold a task.

    Attributes:
        device: what each host trains on, as torch names it there.
        kind: what that is, see ``hardware``; empty before the first host has said so.
        strict: whether a host that may not be used is the user's mistake; else it is left out.
    """

    def __init__(
        self,
        address: str,
        num_gpus: float,
        num_cpus: float,
        states: Path | None,
        tell: Callable[[str], None],
    ) -> None:
        """Connect.

        Args:
            address: auto, or HOST:PORT of its head.
            num_gpus: of each host, as Ray counts.
            num_cpus: likewise.
            states: a folder for the states of trials; hosts that see it write them there.
            tell: called with lines for a person.

        Raises:
            InputError: there is no such cluster.
        """
        self._connected = _connect(address)
        # On each death Ray prints a paragraph to stdout, where results are; losses are told here.
        self._print = ray._private.worker.print_to_stdstream
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        self._head: str = ray.get_runtime_context().gcs_address
        self._looked = 0.0
        self._silent: float | None = None  # since when its head does not answer
        self._draining: set[str] = set()
        self._needs = {"CPU": num_cpus, "GPU": num_gpus}
        self._tell = tell
        self.device, self.kind, self.strict = "cuda:0" if num_gpus else "cpu", "", True
        self._shared = "", "", ""
        if states is not None:
            # Called as ``remove_left`` looks for it, in the session after one that was killed.
            file = states.resolve().parent / f".head.{os.urandom(8).hex()}"
            file.write_text(file.name)
            self._shared = str(file), file.name, str(states.resolve())
        self._task: Task | None = None
        self._request: Any = None  # Ray's reference to the one that ships the task
        self._ready: dict[int, RemoteHost] = {}  # started, and not given to anyone
        self._hosts: list[RemoteHost] = []
        self._avoided: set[str] = set()  # nodes whose hosts may not be used
        if not num_gpus and ray.cluster_resources().get("GPU"):
            tell("cluster: its GPUs are not used: --num-gpus 1 has each host train on one")

    @property
    def room(self) -> int:
        """Hosts that its machines have room for, whoever else uses them."""
        needs = {name: need for name, need in self._needs.items() if need}
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(
            int(min(machine.get(name, 0) / need for name, need in needs.items()))
            for machine in machines
        )

    def ship(self, task: Task, threads: int | None = None) -> None:
        """Send a task, by value, to all hosts from now on."""
        with _by_value():
            self._request = ray.put(packed(task))
        self._task, self._threads = task, threads
        for host in self._ready.values():
            self._hand(host)

    def _hand(self, host: RemoteHost) -> None:
        host.ask(None, "settle", self._threads)
        host.send(self._request).add_done_callback(partial(self._held, host))

    def _held(self, host: RemoteHost, answer: Future[Any]) -> None:
        """A host that cannot hold the task, for want of its data say: once others can, no fault."""
        error = answer.exception()
        if error is not None and not isinstance(error, Lost) and not self.strict:
            self._avoided.add(host.node)
            host.refuse(Refused((str(error).strip().splitlines() or [type(error).__name__])[-1]))

    def start(self, number: int) -> RemoteHost:
        """A host, without waiting for it."""
        if number in self._ready:
            return self._ready.pop(number)
        while not self._answers():  # else Ray would wait for its head, and end this process
            time.sleep(LOOK)
        options: dict[str, Any] = {"num_cpus": self._needs["CPU"], "num_gpus": self._needs["GPU"]}
        if self._avoided:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._avoided)})"}
        actor = (
            ray.remote(Host)
            .options(max_restarts=0, scheduling_strategy="SPREAD", **options)
            .remote(number, self.device, versions(), self._shared)
        )
        host = RemoteHost(number, actor, self._met, self._leaves)
        self._hosts.append(host)
        self._hand(host)
        return host

    def run(self, function: Callable[..., Any], task: Task, **how: Any) -> Any:
        """Call a function with a task and a device on one of the hosts."""
        if task is not self._task:
            self.ship(task)
        lost: list[RemoteHost] = []
        while len(lost) < TIRED:
            # One of the pool, where there is one: there may be no room for another.
            there = [host for host in self._hosts if host.node and host.serves and host not in lost]
            host = there[0] if there else self._ready.get(0) or self.start(0)
            if not there:
                self._ready[0] = host
            answer = host.ask(None, "run", function, how)
            with suppress(TimeoutError):
                answer.exception(SOON)
            if not host.node:
                self._tell(f"waiting for a host with {self._wanted}")
            try:
                result = answer.result()
            except Lost as error:
                lost.append(host)
                if self._ready.get(0) is host:  # else the pool sees to it
                    host.kill()
                    del self._ready[0]
                self._tell(f"{host.name} lost: {error}")
                continue
            for line in host.lines():
                self._tell(line)
            return result
        raise RuntimeError(f"{TIRED} hosts were lost in {function.__name__}")

    @property
    def _wanted(self) -> str:
        needs = [f"{need:g} {name}" for name, need in self._needs.items() if need]
        return " and ".join(needs)

    def close(self) -> None:
        """End all hosts."""
        for host in self._hosts:
            host.kill()
        if self._shared[0]:
            Path(self._shared[0]).unlink(missing_ok=True)
        ray._private.worker.print_to_stdstream = self._print
        if self._connected:
            ray.shutdown()

    def _leaves(self, node: str) -> bool:
        """Whether a machine drains; looked up once a second.

        Raises:
            Stopped: the head of the cluster is gone.
        """
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            if self._answers():
                self._draining = _draining()
        return node in self._draining

    def _answers(self) -> bool:
        """Whether the head of the cluster does.

        Raises:
            Stopped: it has not for long.
        """
        now = time.monotonic()
        if _reached(self._head):
            self._silent = None
        elif self._silent is None:  # nobody may have looked for long
            self._silent = now
        elif now - self._silent > GONE:  # in a minute Ray itself would end this process
            raise Stopped(
                f"cluster {self._head}: its head does not answer any more: nothing that was "
                "stored is lost, and the same command goes on once there is a cluster again"
            )
        return self._silent is None

    def _met(self, host: RemoteHost, kind: str, why: str) -> Exception | None:
        """A host is there; why it may not be used, if so."""
        if not why and self.kind not in ("", kind):
            why = f"has {kind}, and the search is on {self.kind}"
        if not why:
            self.kind = kind
            return None
        if self.strict:
            return InputError(f"{host.name} {why}")
        self._avoided.add(host.node)
        return Refused(why)


def _reason(error: RayError) -> str:
    """The sentence of Ray's paragraph that says why a host was lost."""
    if isinstance(error, ActorUnavailableError):
        return "it cannot be reached"
    lines = [line for line in COLOUR.sub("", str(error)).splitlines() if line[:1].strip()]
    if len(lines) > 1 and lines[0] == ActorDiedError.BASE_ERROR_MSG:  # then comes what it was
        del lines[0]
    return (lines or [type(error).__name__])[0].split(". ")[0].rstrip(".")


def _connect(address: str) -> bool:
    """Whether nobody had connected before."""
    if ray.is_initialized():
        return False
    try:
        if address != "auto" and not _reached(address):  # Ray would try for minutes
            raise ConnectionError("nobody answers there")
        ray.init(
            address=address, namespace="lrtune", log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        way_out = NO_TOKEN if "AuthToken" in f"{error} {error.__cause__}" else NO_CLUSTER
        raise InputError(f"cluster {address}: {reason}: {way_out}") from error
    return True


def _reached(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=ANSWER):
        return True
    return False


def _draining() -> set[str]:
    """Nodes that are told to end: of this there is nothing public; Ray's own Train asks so too."""
    return set(ray._private.state.state.get_draining_nodes())


@contextmanager
def _by_value() -> Iterator[None]:
    """A user's own modules travel with what is pickled: other machines may not have their files."""
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib")]
    installed += [*site.getsitepackages(), site.getusersitepackages()]
    installed.append(str(Path(__file__).parents[1]))
    own: list[ModuleType] = []
    for name, module in sys.modules.copy().items():
        file = getattr(module, "__file__", None) or ""
        if name == "__main__" or not file.endswith(".py"):
            continue
        if not any(Path(file).is_relative_to(folder) for folder in installed):
            own.append(module)
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)
