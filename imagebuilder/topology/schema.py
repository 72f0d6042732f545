"""The topology's own documentation: every table and key with type, default and meaning, from the model. Pure."""

import ast
import inspect
import json
import re
import textwrap
from dataclasses import asdict, dataclass
from enum import Enum
from itertools import pairwise
from types import NoneType
from typing import Any, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from imagebuilder.topology import names
from imagebuilder.topology.explain import inner_model, is_list, tables
from imagebuilder.topology.keys import SshKey
from imagebuilder.topology.model import Topology

WIDTH = 100
TYPES = (
    (names.HostName, "host name"),
    (names.MailAddress, "mail address"),
    (names.Selector, "label"),
    (names.Provider, "name of a provider"),
    (names.Text, "text"),
    (names.HttpsUrl, "https URL"),
    (names.HostV4, "IPv4 address/prefix"),
    (names.HostV6, "IPv6 address/prefix"),
    (names.RouterV4, "IPv4 address"),
    (names.RouterV6, "IPv6 address"),
    (names.NetworkV4, "IPv4 network"),
    (names.NetworkV6, "IPv6 network"),
    (names.Network, "network"),
    (names.Disk, "path of a disk"),
    (names.Pem, "path of a file"),
    (SshKey, "public SSH key"),
)
"""What the annotated types of the model are called."""


@dataclass(frozen=True)
class Key:
    """One key of a table."""

    name: str
    type: str
    """In words: ``whole number from 1 to 65535``."""
    required: bool
    default: str | None
    """As it would be written in TOML; None when the key is required or may be absent."""
    meaning: str


@dataclass(frozen=True)
class Table:
    """One table."""

    header: str
    """As in TOML: ``[proxy]``, or ``[[mail.domains]]`` for one that may be repeated."""
    meaning: str
    keys: tuple[Key, ...]


def schema(model: type[BaseModel] = Topology) -> tuple[Table, ...]:
    """Return every table of *model* that has keys of its own."""
    found = tuple(
        Table(header, inspect.cleandoc(table.__doc__ or ""), _keys(table)) for header, table in tables(model)
    )  # fmt: skip
    return tuple(table for table in found if table.keys)


def schema_text() -> str:
    """Return the schema for reading in a terminal, ending in a line feed."""
    blocks = [
        "A topology is one TOML file. Keys without a default are required; those marked optional may be left out."
    ]
    for table in schema():
        lines = [table.header, *textwrap.wrap(table.meaning, WIDTH - 2, initial_indent="  ", subsequent_indent="  ")]
        for key in table.keys:
            lines.append(f"  {key.name}: {key.type}; {_necessity(key)}")
            lines += textwrap.wrap(
                key.meaning, WIDTH - 6, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def schema_json() -> str:
    """Return the schema as JSON text: a list of tables, each with its keys."""
    return json.dumps([asdict(table) for table in schema()], indent=2, ensure_ascii=False)


def _necessity(key: Key) -> str:
    """Return whether *key* must be there, and what stands in for it."""
    if key.required:
        return "required"
    return "optional" if key.default is None else f"default {key.default}"


def _keys(table: type[BaseModel]) -> tuple[Key, ...]:
    """Return the keys of *table* that are no tables themselves."""
    meanings = _meanings(table)
    return tuple(
        Key(
            name=name,
            type=_type(field),
            required=field.is_required(),
            default=None if field.is_required() or field.default is None else written(field.default),
            meaning=" ".join(meanings.get(name, "").split()),
        )
        for name, field in table.model_fields.items()
        if inner_model(field.annotation) is None
    )


def _meanings(table: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of each key of *table* that has one.

    pydantic would read them for every command, which takes longer than all else that a model needs.
    """
    (definition,) = ast.parse(inspect.getsource(table)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for key, text in pairwise(definition.body):
        match key, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                found[name] = meaning
    return found


def written(value: object) -> str:
    """Return *value* as it would be written in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(written, value))}]"
    return str(value) if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False)


def _type(field: FieldInfo) -> str:
    """Return the type of *field* in words."""
    if is_list(field.annotation):
        return f"list of {_plural(_named(get_args(field.annotation)[0], ()))}"
    return _named(field.annotation, tuple(field.metadata))


def _named(annotation: Any, metadata: tuple[object, ...]) -> str:  # noqa: ANN401 (annotations have no type)
    """Return *annotation* in words; pydantic has moved its outer *metadata* beside it."""
    if not metadata and NoneType in get_args(annotation):
        (annotation,) = (argument for argument in get_args(annotation) if argument is not NoneType)
    for known, name in TYPES:
        base, *marks = get_args(known)
        if annotation == known or (annotation == base and metadata and tuple(marks) == metadata):
            return name
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(written(str(choice.value)) for choice in annotation)
    if annotation is bool:
        return "true or false"
    if annotation is int:
        least = next((mark.ge for mark in metadata if isinstance(mark, Ge)), None)
        most = next((mark.le for mark in metadata if isinstance(mark, Le)), None)
        return "whole number" + (f" from {least}" if least is not None else "") + (f" to {most}" if most else "")
    if get_origin(annotation) is None and annotation is str:
        return "text"
    raise TypeError(f"the schema has no word for {annotation}")


def _plural(words: str) -> str:
    """Return the English plural of *words*."""
    return re.sub(r"s$", "se", words) + "s"
