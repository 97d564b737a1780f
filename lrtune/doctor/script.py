"""A training script as a syntax tree: schedulers that it makes, and where it steps them."""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
class Call:
    """A scheduler, or the arguments of a Trainer, as the script makes it.

    Attributes:
        name: of the class or function.
        line: where.
        target: the name that it is given, or "".
        values: what the arguments are, where that can be worked out.
        shown: the arguments, as they are written after names are filled in.
    """

    name: str
    line: int
    target: str
    values: dict[str, Any]
    shown: dict[str, str]


@dataclass(frozen=True, slots=True)
class Script:
    """What is seen of a script.

    Attributes:
        calls: schedulers and arguments.
        epochs: of the loop around a `step()`, by the name stepped: as written, filled in.
        inner: whether that `step()` is in a loop over batches, by name.
        names: how often a name is read.
    """

    calls: tuple[Call, ...]
    epochs: dict[str, str]
    inner: dict[str, bool]
    names: dict[str, int]

    @classmethod
    def of(cls, tree: ast.Module) -> "Script":
        """Read a syntax tree; nothing is run."""
        once = _assigned_once(tree)
        fill = _Fill(once)
        calls, epochs, inner = [], {}, {}
        targets = {
            id(node.value): ast.unparse(node.targets[0])
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (call := _call(node, targets, fill)):
                calls.append(call)
        for name, loops in _stepped(tree, []):
            ranges = [loop for loop in loops if _range(loop)]
            inner[name] = len(loops) > 1 or (len(loops) == 1 and not ranges)
            if ranges and isinstance(ranges[0].iter, ast.Call):
                epochs[name] = ast.unparse(fill.visit(_copy(ranges[0].iter.args[-1])))
        names: dict[str, int] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
                names[ast.unparse(node)] = names.get(ast.unparse(node), 0) + 1
        return cls(tuple(sorted(calls, key=lambda c: c.line)), epochs, inner, names)


class _Fill(ast.NodeTransformer):
    """Puts what names were assigned once in their place."""

    def __init__(self, known: Mapping[str, ast.expr]) -> None:
        self.known = known

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.known.get(node.id, node)


def _copy(node: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(node), mode="eval").body


def _assigned_once(tree: ast.Module) -> dict[str, ast.expr]:
    """Names with one literal value in the whole script."""
    values: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            values.setdefault(ast.unparse(node.targets[0]), []).append(node.value)
        elif isinstance(node, ast.AugAssign | ast.For):
            values.setdefault(ast.unparse(node.target), []).extend([ast.Constant(0)] * 2)
        elif isinstance(node, ast.arg):
            values.setdefault(node.arg, []).extend([ast.Constant(0)] * 2)
    return {
        name: found[0]
        for name, found in values.items()
        if len(found) == 1 and worked_out(found[0]) is not None
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


def _call(node: ast.Call, targets: Mapping[int, str], fill: _Fill) -> Call | None:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    if name not in SCHEDULERS and name not in ARGUMENTS:
        return None
    positional = SCHEDULERS.get(name, ())
    given = dict(zip(positional, node.args[1:], strict=False))
    given |= {k.arg: k.value for k in node.keywords if k.arg and k.arg != "optimizer"}
    filled = {key: fill.visit(_copy(value)) for key, value in given.items()}
    return Call(
        name,
        node.lineno,
        targets.get(id(node), ""),
        {key: worked_out(value) for key, value in filled.items()},
        {key: ast.unparse(value)[:60] for key, value in filled.items()},
    )


def _range(loop: ast.For) -> bool:
    call = loop.iter
    return isinstance(call, ast.Call) and ast.unparse(call.func) in ("range", "trange")


def _stepped(node: ast.AST, loops: list[ast.For]) -> Iterator[tuple[str, list[ast.For]]]:
    """Every `name.step(...)` with the loops around it."""
    called = node.func if isinstance(node, ast.Call) else None
    if isinstance(called, ast.Attribute) and called.attr == "step":
        yield ast.unparse(called.value), loops
    inside = [*loops, node] if isinstance(node, ast.For) else loops
    inside = [] if isinstance(node, ast.FunctionDef) else inside
    for child in ast.iter_child_nodes(node):
        yield from _stepped(child, inside)
