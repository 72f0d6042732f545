"""What pydantic found wrong, as sentences of ours at the place that the user wrote. Pure."""

import re
import types
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from imagebuilder.errors import Problem
from imagebuilder.topology.names import REFUSED, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_CANDIDATES = 500

Loc = tuple[int | str, ...]

WANTED = {
    "string_type": "a string is wanted",
    "int_type": "a whole number is wanted",
    "bool_type": "true or false is wanted",
    "tuple_type": "a list is wanted",
    "dict_type": "a table is wanted",
    "model_type": "a table is wanted",
    "model_attributes_type": "a table is wanted",
}
"""What a value of the wrong type should have been, by pydantic's type of error."""


def place(loc: Sequence[int | str]) -> str:
    """Return *loc* as the user would write it: ``mail.mailboxes[2].address``, counted from 0."""
    written = ""
    for step in loc:
        if isinstance(step, int):
            written += f"[{step}]"
        elif step != "[key]":
            key = step if re.fullmatch(r"[A-Za-z0-9_-]+", step) else shown(step)
            written += f".{key}" if written else key
    return written


def suggestion(word: str, candidates: Sequence[str], *, likeness: float = 0.7) -> str:
    """Return ``; did you mean 'x'?`` when one of *candidates* is much like *word*, and nothing otherwise.

    Among very many none is looked for, as that would take minutes.
    """
    if len(candidates) > MAX_CANDIDATES:
        return ""
    close = get_close_matches(word.lower(), candidates, n=1, cutoff=likeness)
    return f"; did you mean {close[0]!r}?" if close else ""


def problems_of(error: ValidationError, model: type[BaseModel], *, secret: bool = False) -> tuple[Problem, ...]:
    """Return each thing that *model* refused, in the order of the file; with *secret*, without any value."""
    return tuple(
        Problem(place(found["loc"]), _sentence(found, model, secret=secret))
        for found in error.errors(include_url=False, include_context=True)
        if not _follows(found)
    )


def _follows(found: "ErrorDetails") -> bool:
    """Return whether *found* only follows from another: pydantic counts the sound items of a list, not all."""
    value = found["input"]
    return found["type"] == "too_short" and isinstance(value, list | tuple) and len(value) > 0


def _sentence(found: "ErrorDetails", model: type[BaseModel], *, secret: bool) -> str:
    """Return what is wrong, with the value found unless that is *secret*."""
    kind, loc, limits = found["type"], found["loc"], found.get("ctx", {})
    value = "a value" if secret else shown(found["input"])
    if kind == REFUSED:
        return str(limits["sentence"])
    if kind == "missing":
        return "is missing; it is required"
    if kind == "extra_forbidden":
        return _unknown_key(loc, model)
    if kind in WANTED:
        return f"{value}: {WANTED[kind]}"
    if kind == "enum":
        choices = _choices(model, loc)
        close = "" if secret else suggestion(str(found["input"]), choices)
        return f"{value}: {limits['expected']} is wanted{close}"
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {limits['ge']}" if "ge" in limits else f"at most {limits['le']}"
        return f"{value}: {bound} is wanted"
    if kind == "too_short":
        return "is empty; at least one is wanted"
    if kind == "string_pattern_mismatch":
        return f"{value}: lower-case letters, digits and hyphens are wanted, at most 63"
    return f"{value}: {found['msg'][:1].lower()}{found['msg'][1:]}"


def _unknown_key(loc: Loc, model: type[BaseModel]) -> str:
    """Return what to say about a key that its table has not."""
    key = str(loc[-1])
    table = model_at(model, loc[:-1])
    names = [*table.model_fields] if table else []
    close = suggestion(key, names)
    if not close:
        elsewhere = [name for name, other in tables(model) if key in other.model_fields and other is not table]
        close = f"; it belongs in {elsewhere[0]}" if elsewhere else f"; there are {', '.join(names)}" if names else ""
    return f"there is no such key{close}"


def _choices(model: type[BaseModel], loc: Loc) -> list[str]:
    """Return the values that the field at *loc* may have."""
    table = model_at(model, loc[:-1])
    field = table.model_fields.get(str(loc[-1])) if table else None
    return [str(choice) for choice in field.annotation] if field and isinstance(field.annotation, type) else []


def model_at(model: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """Return the table that *loc* leads to from *model*, or None when a plain value stands there."""
    for step in loc:
        if isinstance(step, int):
            continue
        field = model.model_fields.get(step)
        inner = inner_model(field.annotation) if field else None
        if inner is None:
            return None
        model = inner
    return model


def inner_model(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 (annotations have no type)
    """Return the table inside *annotation*: itself, or what a list or ``| None`` of it holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, Union, types.UnionType):
        for argument in get_args(annotation):
            if found := inner_model(argument):
                return found
    return None


def is_list(annotation: Any) -> bool:  # noqa: ANN401
    """Return whether a field of this *annotation* holds several values."""
    return get_origin(annotation) is tuple


def tables(model: type[BaseModel], prefix: str = "") -> list[tuple[str, type[BaseModel]]]:
    """Return every table below *model* with its header as in TOML, in the model's order."""
    found = []
    for name, field in model.model_fields.items():
        if inner := inner_model(field.annotation):
            header = f"[[{prefix}{name}]]" if is_list(field.annotation) else f"[{prefix}{name}]"
            found += [(header, inner), *tables(inner, f"{prefix}{name}.")]
    return found
