"""Limits for files that are not trusted: regular files only, bounds on unpacked data, and short text in errors."""

import os
import stat
from pathlib import Path

# Most bytes that a file may unpack to: small files up to the floor, others up to this many times their size.
# Packed splats that were trained expand less than threefold; compressors reach more than a thousandfold.
_MAX_EXPANSION = 128
_FLOOR = 64 << 20  # bytes


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Reads all bytes of a file; never waits for a pipe, and never reads a device.

    Raises:
        ValueError: if ``path`` is not a regular file.
        OSError: if the file cannot be read.
    """
    check_regular(path)
    return Path(path).read_bytes()


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises ValueError if a path is a pipe, a device or a socket: reading one of these may never end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder raises an error that says why
        raise ValueError("is no regular file")


def check_expansion(what: str, expanded: int, stored: int) -> None:
    """Checks the size that data unpacks to, before it is unpacked.

    Args:
        what: name of the data for the error.
        expanded: bytes that the data is declared to unpack to.
        stored: bytes that the packed data takes.

    Raises:
        ValueError: if ``expanded`` is more than a splat file of ``stored`` bytes can hold.
    """
    allowed = max(_FLOOR, _MAX_EXPANSION * stored)
    if expanded > allowed:
        raise ValueError(
            f"is damaged or hostile: {what} declares {expanded:,} bytes, but the {stored:,} bytes that are stored "
            f"of it may unpack to {allowed:,} at most"
        )


def shorten(value: object) -> str:
    """Text for an error that shows a value of an untrusted file: escaped, and at most 80 characters long."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
