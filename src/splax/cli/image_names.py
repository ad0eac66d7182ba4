"""Names files after views, whatever the views are called."""

from __future__ import annotations

import os
import re
import unicodedata

# Bytes of a file's name that file systems take.
_MAX_BYTES = 255
_SUFFIX = ".png"
# The characters that "-2", "-3" and so on may need.
_ROOM_FOR_NUMBER = 8


class ImageNames:
    """Gives each view of a run a file name of its own.

    Names that differ only in characters that a file's name cannot have, in case or in Unicode form get a number,
    because not every file system tells them apart.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, view_name: str) -> str:
        """The name of the file for a view's image, without folders; each call returns another name.

        Args:
            view_name: name of the view, often the path of its photo in the dataset.
        """
        stem = _stem(view_name)
        name, number = stem + _SUFFIX, 2
        while name.casefold() in self._taken:
            name = f"{stem}-{number}{_SUFFIX}"
            number += 1
        self._taken.add(name.casefold())
        return name


def _stem(view_name: str) -> str:
    """The name without its ending, of letters, digits, dots, dashes and underscores, short enough for a file."""
    stem = re.sub(r"\.(png|jpe?g)$", "", unicodedata.normalize("NFC", view_name), flags=re.IGNORECASE)
    stem = re.sub(r"[^\w.-]+", "_", stem).lstrip(".")
    try:
        os.fsencode(stem)
    except UnicodeEncodeError:  # the names of files are ASCII on this machine, or the like
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)
    room = _MAX_BYTES - len(_SUFFIX) - _ROOM_FOR_NUMBER
    return stem.encode()[:room].decode(errors="ignore") or "_"
