"""Reads json files that are not trusted: their size is bounded, and errors say where the fault is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splax.files.limits import shorten

_MAX_BYTES = 256 << 20


def read_json(path: Path) -> dict[str, Any]:
    """Reads the top-level object of a json file.

    Raises:
        ValueError: if the file cannot be read, is larger than 256 MiB, is not json or does not hold an object.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _MAX_BYTES else b""
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    if size > _MAX_BYTES:
        raise ValueError(
            f"{path} is {size / 2**20:.0f} MiB; at most {_MAX_BYTES >> 20} MiB are read. "
            f"A transforms.json of thousands of photos takes a few: is it the right file?"
        )
    try:
        meta = json.loads(data)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid json: {error.msg} at line {error.lineno}, column {error.colno}. "
            f"Correct it there, or write the file again."
        ) from error
    except RecursionError as error:
        raise ValueError(f"{path} is not a transforms.json: it is nested too deeply.") from error
    except ValueError as error:  # text that is not UTF-8, or an integer of thousands of digits
        raise ValueError(f"{path} is not valid json: {error}. Write the file again.") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{path} must hold a json object with 'frames', got {shorten(meta)}.")
    return meta


def read_number(source: Mapping[str, Any], key: str, label: str, *, default: float, cure: str = "") -> float:
    """Reads a finite number of a json object; ``default`` if the key is absent or null.

    Args:
        source: object that may hold the number.
        key: name of the number in the object.
        label: text for errors that names the file and the entry.
        default: number to return if the object has none.
        cure: sentence for the error that says what to do.

    Raises:
        ValueError: if the value is not a finite number.
    """
    value = source.get(key)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e30:
        raise ValueError(f"{label}: {key} must be a finite number, got {shorten(value)}. {cure}".rstrip())
    return float(value)
