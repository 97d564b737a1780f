"""Rates in TensorBoard's event files."""

from importlib.util import find_spec
from pathlib import Path

from lrtune.doctor.columns import is_rate
from lrtune.doctor.log import Log, NoRates, in_order, several
from lrtune.errors import InputError

PATTERN = "*tfevents*"


def read_events(path: Path) -> list[Log]:
    """The scalars of one run whose tags name rates; a folder is read with all below it."""
    if find_spec("tensorboard") is None:
        raise InputError("tensorboard: is not installed: pip install 'lrtune[tensorboard]'")
    files = [path] if path.is_file() else sorted(path.rglob(PATTERN))
    runs: dict[Path, dict[str, list[tuple[float, float]]]] = {}
    seen: dict[str, None] = {}
    for file in sorted(files, key=lambda f: (f.stat().st_mtime_ns, f.name)):
        for tag, points in _scalars(file).items():
            seen[tag] = None
            if is_rate(tag):
                runs.setdefault(file.parent, {}).setdefault(tag, []).extend(points)
    if not runs:
        shown = ", ".join(list(seen)[:8]) or "none"
        raise NoRates(f"{path}: no tag of learning rates (lr, learning_rate, ...): {shown}")
    if len(runs) > 1:
        names = ", ".join(str(run.relative_to(path)) for run in list(runs)[:4])
        raise InputError(f"{path}: holds {len(runs)} runs with rates: give one of {names}")
    (found,) = runs.values()
    logs = []
    for tag, points in found.items():
        at, rates, notes = in_order(str(path), tag, *zip(*points, strict=True))
        logs.append(Log(tag, at - (1 if at[0] == 1 else 0), rates, notes=notes))
    return several(logs)


def _scalars(file: Path) -> dict[str, list[tuple[float, float]]]:
    """Steps and values by tag, whichever way they were written; what was cut short ends there."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[str, list[tuple[float, float]]] = {}
    try:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.HasField("tensor"):  # the loader makes tensors of old scalars
                    array = make_ndarray(value.tensor)
                    if array.size == 1 and array.dtype.kind in "fiu":
                        point = (float(event.step), float(array.reshape(())))
                        found.setdefault(value.tag, []).append(point)
    except Exception as error:  # tensorboard raises what its protocol buffers raise
        raise InputError(f"{file}: not an event file that TensorBoard reads: {error}") from error
    return found
