"""Rows of the quality table as files of a folder that several processes share: one makes a row, others skip it.

A row is a JSON file that is whole or absent. While it is made a claim lies next to it, which names the process; if
that process is gone, the next one takes the claim over. Should two do so at once, both make the row, and one
file remains.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from splax.files.atomic import write_whole

_LONGEST_NAME = 100


class Key(NamedTuple):
    """What tells rows apart.

    Attributes:
        data: as quality_data.DataSet writes it.
        options: of ``splax train``, or "gsplat".
        steps: length of the run.
        seed: of the order of photos and of densification.
    """

    data: str
    options: str
    steps: int
    seed: int

    @property
    def file_name(self) -> str:
        """Without suffix: readable characters that any file system takes, and a hash that tells names apart."""
        digest = hashlib.sha256(json.dumps(self).encode()).hexdigest()[:10]
        return f"{safe_name(' '.join(map(str, self)))}-{digest}"


def safe_name(text: str) -> str:
    """The text with anything but letters, digits, points and hyphens replaced; not longer than a name may be."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:_LONGEST_NAME]


class Rows:
    """The rows of a folder.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> list[dict[str, Any]]:
        """All rows, by data, steps, options and seed.

        Raises:
            ValueError: if a file is damaged.
        """
        rows = [_read(path) for path in self.folder.glob("*.json")]
        return sorted(rows, key=lambda row: (row["data"], row["steps"], row["options"], row["seed"]))

    def find(self, key: Key) -> dict[str, Any] | None:
        """The row, if it is there."""
        path = self._path(key, "json")
        return _read(path) if path.exists() else None

    def write(self, key: Key, values: dict[str, Any]) -> None:
        """Writes a row, or replaces it."""
        text = json.dumps({**key._asdict(), **values}, indent=1, default=_plain)
        write_whole(self._path(key, "json"), text.encode())

    @contextlib.contextmanager
    def claim(self, key: Key) -> Iterator[bool]:
        """Whether the row is this process's to make, until the block ends."""
        path = self._path(key, "claim")
        mine = _create(path) or (_is_left(path) and _create(path))
        try:
            yield mine
        finally:
            if mine:
                path.unlink(missing_ok=True)

    def _path(self, key: Key, suffix: str) -> pathlib.Path:
        return self.folder / f"{key.file_name}.{suffix}"


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        Key(*(row[name] for name in Key._fields))
        return row
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); expected a row of benchmarks/quality.py. Remove it to make it again."
        ) from error


def _create(path: pathlib.Path) -> bool:
    """Makes a claim of this process, unless there is one."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        return True
    except FileExistsError:
        return False


def _is_left(path: pathlib.Path) -> bool:
    """Whether a claim's process is gone; removes it then. Of processes of other machines nothing is known."""
    try:
        claim = json.loads(path.read_text(encoding="utf-8"))
        if claim["host"] != socket.gethostname() or _runs(claim["pid"]):
            return False
    except FileNotFoundError:
        return True
    except (ValueError, KeyError):  # it is being written
        return False
    path.unlink(missing_ok=True)
    return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy and JAX for JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
