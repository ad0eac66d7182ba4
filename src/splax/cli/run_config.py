"""Options of a run as its config.json holds them, to go on with it."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

from splax.cli.options import Demo, Running, Train
from splax.files.json import shorten

# Data of a run that trained on the built-in scene.
DEMO = "demo"
# Options that are not a matter of what is trained.
_FREE = {field.name for field in dataclasses.fields(Running)} | {"out", "resume", "overwrite"}


def save_options(options: Train | Demo) -> dict[str, Any]:
    """Options as JSON; those of the demo name its scene as those of ``splax train`` do."""
    config = {"data": DEMO, "dataset_type": None, "downscale": 1, "test_every": 8, "white_background": False}
    config |= dataclasses.asdict(options)
    if config["data"] != DEMO:
        config["data"] = str(Path(config["data"]).expanduser().resolve())
    return config


def read_options(config: dict[str, Any], path: Path) -> Train | Demo:
    """The options that a run began with.

    Args:
        config: what its config.json holds.
        path: of that file, for errors.

    Raises:
        ValueError: if it is damaged.
    """
    kind = Demo if config.get("data") == DEMO else Train
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        if field.name in _FREE or field.name not in config:
            continue
        value = config[field.name]
        if not _is_one_of(value, hints[field.name]):
            raise ValueError(
                f"{path} is damaged: {field.name!r} is {shorten(value)}; expected a file of `splax train`."
            )
        values[field.name] = tuple(value) if isinstance(value, list) else value
    if kind is Train:
        values["data"] = Path(values.get("data") or "")
        if "recipe" not in config:
            values |= {"recipe": 1, "guard": "off"}
    return kind(**values)


def read_sh_degree(config: dict[str, Any], path: Path) -> int:
    """The degree of colour that a run stores, from 0 to 3.

    Raises:
        ValueError: if the config is damaged.
    """
    degree = config.get("stored_sh_degree")
    if degree not in (0, 1, 2, 3):
        raise ValueError(
            f"{path} is damaged: 'stored_sh_degree' is {shorten(degree)}; expected a file of `splax train`."
        )
    return degree


def check_unchanged(given: Train, began: Train | Demo) -> None:
    """Does nothing if ``splax train --resume`` was given no option that differs from those of the run.

    Raises:
        ValueError: if it was; names them.
    """
    if given.out is not None and given.out != given.resume:
        raise ValueError(f"--resume {given.resume} writes to that folder; leave --out {given.out} out.")
    differing = []
    for field in dataclasses.fields(Train):
        now, then = getattr(given, field.name), getattr(began, field.name, None)
        if field.name == "data" and now is not None:
            now = now.expanduser().resolve()
        if field.name not in _FREE and now != field.default and now != then:
            differing.append(f"--{field.name.replace('_', '-')} {now} (it began with {then})")
    if differing:
        raise ValueError(
            f"--resume goes on with the options that the run began with; leave out {', '.join(differing)}, or "
            "start a new run."
        )


def _is_one_of(value: Any, hint: Any) -> bool:
    """Whether a value of a JSON file is of the type that an option has."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return value in parts
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list) and all(any(_is_one_of(v, part) for part in parts) for v in value)
    if parts:
        return any(_is_one_of(value, part) for part in parts)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str)
    return type(value) is hint
