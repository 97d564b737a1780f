"""Who may import whom (design.md), read off the syntax trees."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lrtune"
FILES = sorted(PACKAGE.rglob("*.py"))
# The rooms of the house, in the order of design.md; a room imports from those below it alone.
HOUSE = (
    *("cli", "run", "callbacks", "doctor", "reports", "verdict", "search", "model"),
    *("engine", "tasks", "scheduler", "export", "schedule"),
)
EVERYONES = {"errors", "files", "format"}
# What tune shows is what the command shows; imported where nobody else watches.
SHOWN = {("run/tune.py", "cli")}

# What a room must not import besides: rooms below it, and packages of others.
FORBIDDEN = {
    "schedule": {"torch", "optuna", "pandas", "scipy", "plotly"},
    "export": {"torch", "optuna"},
    "scheduler": {"export", "optuna"},
    "tasks": {"schedule", "scheduler", "export", "optuna"},
    "engine": {"schedule", "scheduler", "export", "optuna"},
    "search": {"export"},
    "verdict": {"search", "tasks", "engine", "scheduler", "torch", "optuna"},
    "reports": {"tasks", "engine", "scheduler", "torch"},
    "callbacks": {"tasks", "engine", "reports", "verdict"},
}


def test_every_folder_is_a_room() -> None:
    """And nothing lies at the top but what every room may import."""
    folders = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders == {*HOUSE}
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__", "__main__", *EVERYONES}


def for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so when it is loaded itself."""
    tree = ast.parse(path.read_text())
    late, never = (
        {id(node) for block in ast.walk(tree) if is_one(block) for node in ast.walk(block)}
        for is_one in (lambda node: isinstance(node, ast.FunctionDef), for_types_alone)
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        else:
            continue
        if id(node) in never:
            continue
        yield from ((name, id(node) not in late) for name in names)


def part(module: str) -> str:
    """``lrtune.schedule.family`` -> ``schedule``; others by their own first name."""
    names = module.split(".")
    return names[1] if names[0] == "lrtune" and len(names) > 1 else names[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    layer = name.split("/")[0]
    for module, at_top in imports(path):
        target = part(module)
        assert target not in FORBIDDEN.get(layer, ()), f"{name} imports {module}"
        if layer in HOUSE and module.startswith("lrtune."):
            below = {*HOUSE[HOUSE.index(layer) :], *EVERYONES}
            assert target in below or (name, target) in SHOWN, (
                f"{name} imports {module}, which is not below it"
            )
        if layer == "model":
            ours = {"model", "schedule", "errors", *sys.stdlib_module_names}
            allowed = {"numpy", "scipy", "sklearn", "safetensors", *ours}
            assert target in allowed, f"{name} imports {module}"
        if layer == "schedule" and at_top:
            allowed = {"numpy", "errors", "schedule", *sys.stdlib_module_names}
            assert target in allowed, f"{name} imports {module}"


# A schedule may be made of schedules: two rows of the table need what holds the table.
RECURSIVE = {
    ("lrtune.schedule.family", "lrtune.schedule.schedule"),
    ("lrtune.schedule.shapes", "lrtune.schedule.schedule"),
}


def ours(path: Path) -> set[str]:
    """The modules of ours that a file imports anywhere, for types alone too, but not RECURSIVE."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [full if full in MODULES else node.module for full in names]
        else:
            continue
        found |= {name for name in names if (dotted(path), name) not in RECURSIVE}
    return found & MODULES.keys()


def dotted(path: Path) -> str:
    """``lrtune.tasks.task`` of ``lrtune/tasks/task.py``."""
    names = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(names).removesuffix(".__init__")


MODULES = {dotted(path): path for path in FILES}


def test_no_modules_import_each_other() -> None:
    """Neither two, nor several in a circle, wherever in them the import is written."""
    sorter = TopologicalSorter({name: ours(path) - {name} for name, path in MODULES.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_constant_has_one_value_and_others_are_used_by_public_names(path: Path) -> None:
    """Files that were put together may bring the same name twice."""
    tree = ast.parse(path.read_text())
    body = [node for node in tree.body if isinstance(node, ast.Assign)]
    names = [target.id for node in body for target in node.targets if isinstance(target, ast.Name)]
    assert sorted(names) == sorted({*names})
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not str(node.module).startswith("lrtune"):
            used = (*str(node.module).split("."), *(alias.name for alias in node.names))
            assert not [n for n in used if n.startswith("_") and not n.startswith("__")], used


@pytest.mark.parametrize(
    "code",
    [
        "import lrtune",
        "import lrtune.cli.commands",
        "import lrtune; lrtune.load; lrtune.Schedule('cosine', peak_lr=0.1).rates(10)",
    ],
)
def test_light_imports(code: str) -> None:
    check = (
        f"import sys; {code}; print(*{{'torch', 'optuna', 'pandas', 'plotly'}} & {{*sys.modules}})"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_no_public_name_is_a_module_of_the_same_name():
    """Else importing the module anywhere would put it in the place of what it is named after."""
    import lrtune

    modules = {path.stem for path in PACKAGE.iterdir()}
    assert not modules & {*lrtune.__all__, "open"}
