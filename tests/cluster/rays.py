"""A Ray cluster on this machine, of `ray start` processes; networks that can be cut; what is left.

Every process that descends from one of these has TOKEN in its environment: none escapes `close`.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil

# Else tokens are asked for wherever a Ray of one process has left one in the home folder.
os.environ["RAY_AUTH_MODE"] = "disabled"
TOKEN = "LRTUNE_TEST_RAYS"
ROOT = Path(__file__).parents[2]
# A lost node is noticed after 10 s of silence, and no slow machine is taken for one.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "8000",
    "RAY_health_check_failure_threshold": "2",
    "RAY_raylet_start_wait_time_s": "180",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else hosts wait for all else that runs here
}


def until(what: Callable[[], Any], seconds: float = 120, describe: Callable[[], str] = str) -> Any:
    """The first true value of ``what``."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"not within {seconds} s: {describe()}"
        time.sleep(0.05)
    return value


def lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL, all of them before any is waited for."""
    killed = [*processes]
    for process in killed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(killed, 10)


class Node:
    """A `ray start --block`, with all that it has started."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command, env=environment, stdout=out, stderr=out, start_new_session=True
            )

    def wait(self) -> "Node":
        """Until it belongs to the cluster."""
        until(lambda: self._started or self.process.poll() is not None, 240, self.log.read_text)
        assert self._started, self.log.read_text()
        return self

    @property
    def _started(self) -> bool:
        return "Ray runtime started" in self.log.read_text()

    @property
    def processes(self) -> list[psutil.Process]:
        """All of it, the children first."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            return [*reversed(own.children(recursive=True)), own]
        return []

    @property
    def raylet(self) -> psutil.Process:
        return next(process for process in self.processes if process.name() == "raylet")

    @property
    def hosts(self) -> list[psutil.Process]:
        """Its processes that train."""
        return [process for process in self.processes if _title(process).startswith("ray::Host")]

    def kill(self) -> None:
        """As a machine ends whose power fails."""
        kill(self.processes)
        self.process.wait()


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


class Rays:
    """A cluster: a head, and nodes as they are added."""

    def __init__(self, ip: str | None = None, cpus: int = 0, **environment: str) -> None:
        """Start a head with so many CPUs, at an address of its own where it is to have one."""
        self.folder = Path(tempfile.mkdtemp(prefix="rays"))  # short: it has Ray's sockets
        self.environment = {**os.environ, **HEALTH, "PYTHONPATH": str(ROOT), **environment}
        self.environment[TOKEN] = str(self.folder)
        self.nodes: list[Node] = []
        self._count = count()
        self.ip, self.port = ip or _own_address(), _free_port()
        self.start_head(cpus)

    def start_head(self, cpus: int = 0) -> Node:
        """The head; again, where it was killed."""
        words = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        self.head = self._start([*words, f"--num-cpus={cpus}"], self.ip, (), {})
        return self.head

    @property
    def address(self) -> str:
        return f"{self.ip}:{self.port}"

    def add(
        self,
        cpus: int = 1,
        ip: str | None = None,
        inside: Sequence[str] = (),
        resources: dict[str, float] | None = None,
        **environment: str,
    ) -> Node:
        """One more node; ``inside`` is a command that runs commands, in a namespace say."""
        words = [f"--address={self.address}", f"--num-cpus={cpus}"]
        words.append(f"--resources={json.dumps(resources or {})}")
        return self._start(words, ip or self.ip, inside, environment)

    def _start(
        self, words: list[str], ip: str, inside: Sequence[str], environment: dict[str, str]
    ) -> Node:
        # Nodes of one machine and one folder meet at their sockets' names when they start together.
        folder = self.folder / str(next(self._count))
        folder.mkdir()
        ray = str(Path(sys.executable).with_name("ray"))
        words += [f"--node-ip-address={ip}", f"--temp-dir={folder}", "--include-log-monitor=false"]
        words += ["--object-store-memory=83886080", "--disable-usage-stats", "--block"]
        command = [*inside, ray, "start", *words]
        node = Node(command, {**self.environment, **environment}, folder / "log")
        self.nodes.append(node)
        return node

    @property
    def hosts(self) -> list[psutil.Process]:
        """The processes that train, over all nodes."""
        return [host for node in self.nodes for host in node.hosts]

    def left(self) -> list[psutil.Process]:
        """All that lives and descends from this cluster, or from commands in its environment."""
        return [*filter(lives, self._marked())]

    def _marked(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if self.environment[TOKEN].encode() in _environment(process):
                    yield process

    def kill(self) -> None:
        """All of it at once, and commands in its environment."""
        for _ in range(3):  # what was being started meanwhile
            kill(self.left())
        for node in self.nodes:
            node.process.wait()
        self.nodes.clear()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "Rays":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _environment(process: psutil.Process) -> bytes:
    """All of it: what psutil reads ends where Ray's processes have written their title over it."""
    with suppress(OSError):
        return Path(f"/proc/{process.pid}/environ").read_bytes()
    return repr(process.environ()).encode()


def _own_address() -> str:
    """As Ray finds it: it takes no loopback address for a cluster of several nodes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 1))  # sends nothing
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


class Network:
    """A bridge here, and machines behind it: network namespaces, each at the end of a link."""

    _numbers = count()

    def __init__(self, machines: int, delay: float = 0.0) -> None:
        """``delay`` of the last machine's link, seconds each way."""
        number = next(self._numbers)
        self._tag = f"lr{os.getpid() % 10**5}n{number}"  # a card's name has 15 letters at most
        self._net = f"10.{230 + number}.{os.getpid() % 250}"
        self.ip = f"{self._net}.250"  # of the bridge: here
        self._machines = range(machines)
        self._relay: subprocess.Popen[str] | None = None
        _ip(f"link add {self._tag} type bridge")
        _ip(f"addr add {self.ip}/24 dev {self._tag}")
        _ip(f"link set {self._tag} up")
        for machine in self._machines:
            name = self._name(machine)
            _ip(f"netns add {name}")
            if delay and machine == machines - 1:
                self._link_with(delay, name)
            else:
                _ip(f"link add {name} type veth peer name eth0 netns {name}")
            _ip(f"link set {name} master {self._tag} up")
            _ip(f"-n {name} addr add {self.ip_of(machine)}/24 dev eth0")
            _ip(f"-n {name} link set eth0 up")
            _ip(f"-n {name} link set lo up")

    def _link_with(self, delay: float, name: str) -> None:
        script, far = Path(__file__).with_name("slow_link.py"), f"{name}x"
        self._relay = subprocess.Popen(
            [sys.executable, str(script), name, far, str(delay)], stdout=subprocess.PIPE, text=True
        )
        assert self._relay.stdout is not None
        assert self._relay.stdout.readline() == "ready\n"
        _ip(f"link set {far} netns {name} name eth0")

    def _name(self, machine: int) -> str:
        return f"{self._tag}m{machine}"

    def ip_of(self, machine: int) -> str:
        return f"{self._net}.{machine + 1}"

    def inside(self, machine: int) -> list[str]:
        """Runs a command on that machine."""
        return ["ip", "netns", "exec", self._name(machine)]

    def cut(self, machine: int) -> None:
        _ip(f"link set {self._name(machine)} down")

    def mend(self, machine: int) -> None:
        """After ``cut`` or ``gag``."""
        _ip(f"link set {self._name(machine)} up")
        _ip(f"-n {self._name(machine)} neigh flush dev eth0 nud permanent")

    def gag(self, machine: int) -> None:
        """All that it sends is lost, as it sends it to a card that is not there."""
        nobody = "lladdr 02:00:00:00:00:99 dev eth0 nud permanent"
        for other in [self.ip, *(self.ip_of(one) for one in self._machines if one != machine)]:
            _ip(f"-n {self._name(machine)} neigh replace {other} {nobody}")

    def close(self) -> None:
        if self._relay is not None:
            self._relay.kill()  # and its cards are gone
            self._relay.communicate()
            self._machines = self._machines[:-1]
            _ip(f"netns del {self._name(len(self._machines))}")
        for machine in self._machines:
            _ip(f"link del {self._name(machine)}")
            _ip(f"netns del {self._name(machine)}")
        _ip(f"link del {self._tag}")

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


def can_make_networks() -> bool:
    """Whether this is root, with namespaces."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    tried = subprocess.run(["unshare", "-nm", "true"], capture_output=True, check=False)
    return tried.returncode == 0
