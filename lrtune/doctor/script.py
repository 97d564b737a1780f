"""A training script as a syntax tree: schedulers that it makes, and where it steps them."""

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any, TypeAlias

# Positional arguments after the optimizer, of those whose settings doctor looks at.
SCHEDULERS: Mapping[str, Sequence[str]] = {
    "CosineAnnealingLR": ("T_max", "eta_min"),
    "CosineAnnealingWarmRestarts": ("T_0", "T_mult", "eta_min"),
    "OneCycleLR": ("max_lr", "total_steps", "epochs", "steps_per_epoch"),
    "LinearLR": ("start_factor", "end_factor", "total_iters"),
    "PolynomialLR": ("total_iters", "power"),
    "StepLR": ("step_size", "gamma"),
    "MultiStepLR": ("milestones", "gamma"),
    "ExponentialLR": ("gamma",),
    "CyclicLR": ("base_lr", "max_lr", "step_size_up"),
    "get_linear_schedule_with_warmup": ("num_warmup_steps", "num_training_steps"),
    "get_cosine_schedule_with_warmup": ("num_warmup_steps", "num_training_steps"),
}
ARGUMENTS = ("TrainingArguments", "Seq2SeqTrainingArguments", "SFTConfig")


@dataclass(frozen=True, slots=True)
class Loop:
    """The loop over epochs that steps a scheduler, where it certainly does so every time.

    Attributes:
        name: that is stepped.
        epochs: how many, as it is written after names are filled in.
        count: how many, where that is certain.
        batches: whether the step is in a loop over batches within it.
    """

    name: str
    epochs: str
    count: int | None
    batches: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A scheduler, or the arguments of a Trainer, as the script makes it.

    Attributes:
        name: of the class or function.
        line: where.
        targets: the names that it is given.
        values: what the arguments are, where that can be worked out.
        shown: the arguments, as they are written after names are filled in.
        read: whether any of its names is read.
        loop: that steps it; None: not known for certain.
    """

    name: str
    line: int
    targets: tuple[str, ...]
    values: dict[str, Any]
    shown: dict[str, str]
    read: bool
    loop: Loop | None


Path: TypeAlias = tuple[ast.AST, ...]  # a node with those around it, the module first


def calls(tree: ast.Module) -> tuple[Call, ...]:
    """What a script makes, from its syntax tree; nothing is run."""
    stored = _stored(tree)
    fill = _Fill(_assigned_once(tree, stored))
    read: set[str] = set()
    steps: dict[str, list[Path]] = {}
    made: list[Path] = []
    for path in _paths(tree):
        node = path[-1]
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            read.add(ast.unparse(node))
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr == "step":
                steps.setdefault(ast.unparse(node.func.value), []).append(path)
            if _name(node) in SCHEDULERS or _name(node) in ARGUMENTS:
                made.append(path)
    # A name that is stepped at two places, or stands for two things, tells nothing for certain.
    sure = {name: at[0] for name, at in steps.items() if len(at) == 1 and stored[name] == 1}
    found = [_call(path, fill, read, sure) for path in made]
    return tuple(sorted(found, key=lambda call: call.line))


class _Fill(ast.NodeTransformer):
    """Puts what names were assigned once in their place."""

    def __init__(self, known: Mapping[str, ast.expr]) -> None:
        self.known = known

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.known.get(node.id, node)


def _copy(node: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(node), mode="eval").body


def _paths(node: ast.AST, around: Path = ()) -> Iterator[Path]:
    path = (*around, node)
    yield path
    for child in ast.iter_child_nodes(node):
        yield from _paths(child, path)


def _stored(tree: ast.Module) -> Counter[str]:
    """How often each name is given something."""
    return Counter(
        name
        for node in ast.walk(tree)
        for name in (
            [node.id] if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
            else [node.arg] if isinstance(node, ast.arg)
            else [node.asname or node.name] if isinstance(node, ast.alias)
            else []
        )
    )  # fmt: skip


def _assigned_once(tree: ast.Module, stored: Counter[str]) -> dict[str, ast.expr]:
    """Names with one literal value in the whole script."""
    return {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and worked_out(node.value) is not None
        for target in node.targets
        if isinstance(target, ast.Name) and stored[target.id] == 1
    }


OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
}


def worked_out(node: ast.expr) -> Any:
    """The value of a literal or of plain arithmetic of numbers; None for all else."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        a, b = worked_out(node.left), worked_out(node.right)
        if isinstance(a, int | float) and isinstance(b, int | float):
            try:
                return OPERATORS[type(node.op)](a, b)
            except (ZeroDivisionError, OverflowError):
                return None
        return None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


def _call(path: Path, fill: _Fill, read: set[str], steps: Mapping[str, Path]) -> Call:
    node, parent = path[-1], path[-2]
    assert isinstance(node, ast.Call)
    name = _name(node)
    given = dict(zip(SCHEDULERS.get(name, ()), node.args[1:], strict=False))
    given |= {k.arg: k.value for k in node.keywords if k.arg and k.arg != "optimizer"}
    filled = {key: fill.visit(_copy(value)) for key, value in given.items()}
    targets = tuple(map(ast.unparse, parent.targets)) if isinstance(parent, ast.Assign) else ()
    stepped = [target for target in targets if target in steps]
    return Call(
        name,
        node.lineno,
        targets,
        {key: worked_out(value) for key, value in filled.items()},
        {key: ast.unparse(value)[:60] for key, value in filled.items()},
        not read.isdisjoint(targets),
        _loop(stepped[0], path, steps[stepped[0]], fill) if len(stepped) == 1 else None,
    )


# Loops around a step, and whether each is over a range: epochs, or epochs and their batches.
EPOCHS = ([True], [True, False])
BRANCHES = (ast.If, ast.Try, ast.With)


def _loop(name: str, made: Path, step: Path, fill: _Fill) -> Loop | None:
    """The loop over epochs around a step, from where the scheduler is made."""
    shared = sum(a is b for a, b in zip(made, step, strict=False))
    around = list(dropwhile(lambda node: isinstance(node, BRANCHES), step[shared:-1]))
    loops = [node for node in around if isinstance(node, ast.For)]
    plain = all(isinstance(node, ast.For | ast.With | ast.Expr) for node in around)
    once = all(isinstance(node, (ast.Assign, *BRANCHES)) for node in made[shared:-1])
    inside = all(step[step.index(loop) + 1] in loop.body for loop in loops)
    over = [_range(loop) for loop in loops]
    if not (plain and once and inside) or [one is not None for one in over] not in EPOCHS:
        return None
    given = [fill.visit(_copy(value)) for value in over[0] or ()]
    leaves = any(isinstance(n, ast.Break | ast.Continue | ast.Return) for n in ast.walk(loops[0]))
    count = _count([worked_out(value) for value in given])
    written = ast.unparse(given[0]) if len(given) == 1 else str(count or "")
    return Loop(name, written, None if leaves else count, len(loops) == 2)


def _range(loop: ast.For) -> Sequence[ast.expr] | None:
    call = loop.iter
    over = isinstance(call, ast.Call) and ast.unparse(call.func) in ("range", "trange")
    return call.args if over and isinstance(call, ast.Call) else None


def _count(given: Sequence[Any]) -> int | None:
    try:
        return len(range(*given))
    except (TypeError, ValueError, OverflowError):
        return None
