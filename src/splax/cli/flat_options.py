"""Options without their groups: one name for each, as flags and config.json have it.

The commands group their options in nested dataclasses for the help. A name occurs once in all groups of a command.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def flatten(options: Any) -> dict[str, Any]:
    """The value of every option by its name.

    Args:
        options: a dataclass of options and of groups of them.
    """
    values = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        values |= flatten(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return values


def unflatten(cls: type[T], values: Mapping[str, Any]) -> T:
    """Options from values by name; an option that has no value gets its default.

    Args:
        cls: the dataclass to make.
        values: the values; names that are no option of ``cls`` are ignored.
    """
    arguments = {}
    for name, kind in _kinds(cls).items():
        if dataclasses.is_dataclass(kind):
            arguments[name] = unflatten(typing.cast(type, kind), values)
        elif name in values:
            arguments[name] = values[name]
    return cls(**arguments)


def replace(options: T, **values: Any) -> T:
    """The same options with other values for some, by name."""
    return unflatten(type(options), flatten(options) | values)


def types_of(cls: type) -> dict[str, Any]:
    """The type of every option of a dataclass by the option's name."""
    types = {}
    for name, kind in _kinds(cls).items():
        types |= types_of(typing.cast(type, kind)) if dataclasses.is_dataclass(kind) else {name: kind}
    return types


def flag(name: str) -> str:
    """The flag of an option on the command line, such as ``--max-gaussians``."""
    return f"--{name.replace('_', '-')}"


def _kinds(cls: type) -> dict[str, Any]:
    """The type of each field, a group's dataclass among them."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
