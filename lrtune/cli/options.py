"""Command-line options made from the fields of a model, so that both say the same."""

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lrtune.errors import InputError
from lrtune.tasks.options import REPEATED, flag, plain

Command = TypeVar("Command", bound=Callable[..., None])


def with_options(model: type[BaseModel], names: Iterable[str]) -> Callable[[Command], Command]:
    """Give a command an option for each of these fields, as ``**given``: those that were typed.

    Args:
        model: whose fields; a field of several values is typed with commas between, or once per
            value where it is ``REPEATED``.
        names: of the fields.
    """
    fields = {name: model.model_fields[name] for name in names}

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
                annotation=_option(name, field),
            )
            for name, field in fields.items()
        ]
        run.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return decorate


def _option(name: str, field: FieldInfo) -> Any:
    kind = plain(field.annotation)
    typed = kind if kind in (bool, int, float) else str
    if field.json_schema_extra == REPEATED:
        typed = list[str]
    return Annotated[typed | None, typer.Option(flag(name), help=field.description)]


def _values(name: str, value: Any, kind: Any) -> Any:
    if kind == list[str] and isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if kind == tuple[float, float]:
        try:
            low, high = (float(part) for part in value.split(","))
        except ValueError as error:
            must = "must be two numbers with a comma between, such as 0.001,0.3"
            raise InputError(f"{flag(name)} {must} (got {value!r})") from error
        return [low, high]
    return value
