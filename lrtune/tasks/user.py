"""A task of the user's own: a function in a module or a file of theirs."""

import ast
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from lrtune.errors import InputError, nearest
from lrtune.tasks.task import Task


def users_task(what: str) -> Task:
    """The Task that ``module:function`` or ``path.py:function`` returns.

    Raises:
        InputError: no such function, one that returns something else, whatever it raises.
    """
    where, _, name = what.rpartition(":")
    path = Path(where) if where.endswith(".py") else None
    with _first_on_path(path.parent if path else Path.cwd()), _errors_of(what):
        module = _import_file(path) if path else _import_module(where)
        function = getattr(module, name, None)
        if not callable(function):
            names = [n for n, value in vars(module).items() if inspect.isfunction(value)]
            raise InputError(f"{what}: {where} has no function {name!r}{nearest(name, names)}")
        task = function()
    if not isinstance(task, Task):
        raise InputError(f"{what}: returned {type(task).__name__}, expected lrtune.Task")
    return task


def likely_maker(path: Path) -> str:
    """The function of a file that probably makes its Task; the file is read, not run."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError, RecursionError):
        body = []
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    names = [node.name for node in functions if "Task(" in ast.unparse(node)]
    return names[0] if names else "make"


@contextmanager
def _errors_of(what: str) -> Iterator[None]:
    """Whatever the user's code raises, in one line that says where."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a file that calls sys.exit() is no task either
        *_, last = traceback.extract_tb(error.__traceback__)
        where = f"{Path(last.filename).name}, line {last.lineno}"
        said = " ".join(str(error).split())
        raise InputError(f"{what}: {type(error).__name__}: {said} ({where})") from error


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    """Import from the user's folder first, as ``python file.py`` and ``python -m`` do."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    name = f"lrtune_user_{path.stem}"  # a user's json.py must not become everyone's json
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up there
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    missing = f"{name}: no such module here or among the installed ones"
    if not all(part.isidentifier() for part in name.split(".")):
        raise InputError(missing)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name and not name.startswith(f"{error.name}."):
            raise  # the module is there; what it imports is not
        raise InputError(missing) from error
