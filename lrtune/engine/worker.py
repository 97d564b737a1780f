"""Worker: the side of a SpreadPool that trains, in a process on this machine or on another one."""

import copyreg
import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]  # unlike pickle, it sends lambdas
import torch

from lrtune.engine.checkpoint import write_state
from lrtune.engine.device_task import is_out_of_memory
from lrtune.engine.pool import Pool, Snapshot
from lrtune.errors import InputError, described
from lrtune.tasks import Split, Stream, Task
from lrtune.tasks.splits import Hashes, row_hashes, spread
from lrtune.tasks.stream import OtherData, take

Make = Callable[[Task, int, str], Pool]  # of a task, slots and a device
Place = tuple[str | None, list[str]]  # of a module: its file, or its folders if it has none
LOOKED_AT = 16  # samples of data that stay where they are
LARGEST = 256 * 2**20  # bytes of a trial's state that may travel to whoever asks for it
LINES: list[str] = []  # what whoever asks is to tell


def _constant(name: str) -> Any:
    return getattr(torch, name)


def _by_name(constant: object) -> tuple[Callable[..., Any], tuple[str]]:
    return _constant, (str(constant).removeprefix("torch."),)


# Pickle looks in all modules for one that has ``torch.channels_last``, and may find the user's own
# main module, which no other process has.
for _kind in (torch.memory_format, torch.dtype, torch.layout):
    copyreg.pickle(_kind, _by_name)


def _look(split: Stream) -> Split:
    return take(split, spread(split.samples, LOOKED_AT).tolist())


def say(line: str) -> None:
    """Have a line told with the next answer: for what runs in a worker."""
    LINES.append(line)


def packed(task: Task) -> bytes:
    """The request to hold a task, which goes by value.

    Raises:
        InputError: it cannot.
    """
    streams = {name: split for name, split in task.splits.items() if isinstance(split, Stream)}
    drawn = {name: row_hashes(_look(split)) for name, split in streams.items() if split.draws}
    try:
        request: bytes = cloudpickle.dumps((None, "hold", (task, drawn)))
    except Exception as error:  # whatever a user's object raises when it is pickled
        raise InputError(
            f"{task.name}: cannot be sent to the process of another device: "
            f"{type(error).__name__}: {error}: use one device, or mend what it names"
        ) from error
    return request


class Worker:
    """Has Pools of one task, each under a number; does what is asked, one thing after the other.

    Attributes:
        device: as torch names it.
        states: a folder that whoever asks sees too, for the states of trials; None: they travel.
    """

    def __init__(self, device: str, where: str) -> None:
        """Have no task yet; ``where`` this is, for a person."""
        self.device, self._where = device, where
        self.states: Path | None = None
        self._task: Task | None = None
        self._failed = b""  # why it has none, packed: the answer to everything
        self._pools: dict[int, Pool] = {}

    def settle(self, threads: int | None) -> None:
        """Before anything is trained."""
        if threads is not None:
            torch.set_num_threads(threads)
        if torch.device(self.device).type == "cuda":
            torch.cuda.set_device(self.device)  # lest something be put on the first one

    def hold(self, task: Task, drawn: Mapping[str, Hashes]) -> None:
        """Take what is trained from now on.

        Args:
            task: what is trained.
            drawn: of each split whose samples are drawn at random, the hashes of those looked at.

        Raises:
            OtherData: data that stay where they are cannot be read from here, or are others.
        """
        self._pools.clear()
        for name, split in task.splits.items():
            if isinstance(split, Stream):
                try:
                    found = row_hashes(_look(split))
                    if name in drawn and (found != drawn[name]).any():
                        raise OtherData(
                            "the data has changed: samples are others than at the start"
                        )
                except OtherData as error:
                    raise OtherData(f"{task.name}, {name}: {error}") from error
        self._task = task

    def run(self, function: Callable[..., Any], how: dict[str, Any]) -> Any:
        """Call a function with the task and the device."""
        return function(self._task, device=self.device, **how)

    def open(self, number: int, make: Make, slots: int) -> dict[str, str]:
        """Make a Pool, in place of one with this number; where its data is."""
        assert self._task is not None
        self._pools.pop(number, None)
        self._pools[number] = make(self._task, slots, self.device)
        return self._pools[number].placement

    def close(self, number: int) -> None:
        """Give up a Pool."""
        self._pools.pop(number, None)

    def order(self, number: int) -> list[int]:
        """The slots of a Pool with a trial, in an order in which ``restore`` makes it the same."""
        return list(getattr(self._pools[number], "order", ()))

    def do(self, request: bytes) -> bytes:
        """The packed answer, or error, to a method of a Pool, or of this where it has no number."""
        answer = self._failed or self._answer(request)
        if self._task is None and isinstance(pickle.loads(answer), Exception):
            self._failed = answer
        return answer

    def _answer(self, request: bytes) -> bytes:
        try:
            number, name, arguments = self._unpacked(request)
            does = self if number is None else self._pools[number]
            result = getattr(does, name)(*arguments)
            if isinstance(result, Snapshot):
                try:
                    result = self._kept(result)
                except OSError as error:  # a full disk
                    return pickle.dumps(OSError(f"{self._where}: {error}"))
            lines = LINES.copy()
            LINES.clear()
            answer: bytes = cloudpickle.dumps((result, lines))
            return answer
        except OtherData as error:
            return pickle.dumps(InputError(f"{self._where}: {error}: have the same data there"))
        except InputError as error:
            return pickle.dumps(InputError(str(error)))
        except BaseException as error:  # sys.exit() in a user's model, too
            if isinstance(error, Exception) and is_out_of_memory(error):
                return pickle.dumps(MemoryError(f"{self._where}: {error}"))
            report = f"in the process of {self._where}:\n{traceback.format_exc()}"
            return pickle.dumps(RuntimeError(report))

    def _unpacked(self, request: bytes) -> Any:
        try:
            return pickle.loads(request)
        except (ImportError, OSError) as error:
            why = f"cannot take the task: {described(error)}: have what it needs there too"
            raise InputError(f"{self._where}: {why}") from error

    def _kept(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot whose state is in the folder, where there is one."""
        if self.states is not None:
            return write_state(self.states, snapshot)
        size = sum(tensor.nbytes for tensor in snapshot.tensors.values())
        if size > LARGEST:
            raise OSError(
                f"the state of a trial has {size / 2**20:,.0f} MB, too many to send: put the run "
                "where all hosts see it (--out), on a shared folder"
            )
        return snapshot


class SameModules(MetaPathFinder):
    """Imports what another process of this machine has imported, from the same files."""

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
