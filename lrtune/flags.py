"""Command-line options made from the fields of a model, so that both say the same."""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from lrtune.errors import InputError
from lrtune.options import plain

Command = TypeVar("Command", bound=Callable[..., None])


def with_options(model: type[BaseModel], but: Sequence[str] = ()) -> Callable[[Command], Command]:
    """Give a command an option for every field of a model, as ``**given``: those that were typed.

    Args:
        model: whose fields; a field of several values is typed with commas between.
        but: fields that are no options here.
    """
    fields = {name: field for name, field in model.model_fields.items() if name not in but}

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**typed: Any) -> None:
            given = {name: typed.pop(name) for name in fields}
            command(
                **typed,
                **{
                    name: _values(name, value, plain(fields[name].annotation))
                    for name, value in given.items()
                    if value is not None
                },
            )

        own = [p for p in inspect.signature(command).parameters.values() if p.kind != p.VAR_KEYWORD]
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=_option(name, plain(field.annotation), field.description),
            )
            for name, field in fields.items()
        ]
        run.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return decorate


def _option(name: str, kind: Any, help_text: str | None) -> Any:
    flag = f"--{name.replace('_', '-')}"
    typed = kind if kind in (bool, int, float) else str
    return Annotated[typed | None, typer.Option(flag, help=help_text)]


def _values(name: str, value: Any, kind: Any) -> Any:
    if kind == list[str]:
        return [part.strip() for part in value.split(",")]
    if kind == tuple[float, float]:
        try:
            low, high = (float(part) for part in value.split(","))
        except ValueError as error:
            flag = name.replace("_", "-")
            raise InputError(f"{flag}={value!r}: two numbers with a comma: 0.001,0.3") from error
        return [low, high]
    return value
