"""The settings of a run as its config.json keeps them."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

from splax.cli.flat_options import flag, flatten, types_of, unflatten
from splax.cli.options import Running, Training
from splax.cli.scenes import DEMO
from splax.files.limits import shorten

# Options that do not change what is trained.
_FREE = types_of(Running).keys()
# The recipe of runs that were begun before there was a guard; their config does not name it.
_OLD_RECIPE = {"recipe": 1, "guard": "off"}


def save_options(options: Training, data: str) -> dict[str, Any]:
    """The settings as JSON.

    Args:
        options: settings of the run.
        data: path of the dataset, or ``DEMO``.
    """
    path = data if data == DEMO else str(Path(data).expanduser().resolve())
    return {"data": path, **flatten(options)}


def read_data(config: dict[str, Any], path: Path) -> str:
    """The path of the dataset that a run was trained on, or ``DEMO``.

    Args:
        config: content of the run's config.json.
        path: path of that file, for errors.

    Raises:
        ValueError: if the file is damaged.
    """
    data = config.get("data") or ""
    if not isinstance(data, str):
        raise ValueError(f"{path} is damaged: 'data' is {shorten(data)}; expected a file of `splax train`.")
    return data


def read_options(config: dict[str, Any], path: Path) -> Training:
    """The settings that a run began with.

    Args:
        config: content of the run's config.json, of this version or an earlier one.
        path: path of that file, for errors.

    Raises:
        ValueError: if the file is damaged.
    """
    values = {}
    for name, kind in types_of(Training).items():
        if name in _FREE or name not in config:
            continue
        value = config[name]
        if not _is_one_of(value, kind):
            raise ValueError(
                f"{path} is damaged: {name!r} is {shorten(value)}; expected a file of `splax train`."
            )
        values[name] = tuple(value) if isinstance(value, list) else value
    if config.get("data") == DEMO:
        values["guard"] = "off"
    elif "recipe" not in config:
        values |= _OLD_RECIPE
    return unflatten(Training, values)


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


def check_unchanged(given: Training, began: Training, *, data: Path | None, began_with: str) -> None:
    """Checks that the options given to resume a run are defaults or those that the run began with.

    Args:
        given: options of the command line.
        began: settings that the run began with.
        data: the dataset that the command line names, if it names one.
        began_with: the dataset of the run.

    Raises:
        ValueError: if some differ; the message names them.
    """
    differing = []
    if data is not None and str(data.expanduser().resolve()) != began_with:
        differing.append(f"DATA {data} (it began with {began_with})")
    defaults, before = flatten(Training()), flatten(began)
    for name, now in flatten(unflatten(Training, flatten(given))).items():
        if name not in _FREE and now not in (defaults[name], before[name]):
            differing.append(f"{flag(name)} {now} (it began with {before[name]})")
    if differing:
        raise ValueError(
            f"--resume takes the options that the run began with; leave out {', '.join(differing)}, or start "
            "a new run."
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
