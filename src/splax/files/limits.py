"""Files that nobody vouches for: regular files only, and nothing that expands beyond reason."""

import os
import stat
from pathlib import Path

# What a file may unpack to: small files anything up to the floor, others this many times their own size.
# Packed splats that were trained expand less than threefold; compressors reach over a thousandfold.
_MAX_EXPANSION = 128
_FLOOR = 64 << 20  # bytes


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file; never waits for a pipe or reads a device.

    Raises:
        ValueError: if ``path`` is no regular file.
        OSError: if it cannot be read.
    """
    check_regular(path)
    return Path(path).read_bytes()


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises ValueError for a pipe, a device or a socket, of which reading may never end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder fails by itself, and says why
        raise ValueError("is no regular file")


def check_expansion(what: str, expanded: int, stored: int) -> None:
    """Called with sizes in bytes before anything is unpacked.

    Raises:
        ValueError: if ``expanded`` is more than a splat file of ``stored`` bytes can hold.
    """
    allowed = max(_FLOOR, _MAX_EXPANSION * stored)
    if expanded > allowed:
        raise ValueError(
            f"is damaged or hostile: {what} declares {expanded:,} bytes, but what is stored of it, {stored:,} "
            f"bytes, may unpack to {allowed:,} at most"
        )


def shorten(value: object) -> str:
    """What an untrusted file holds, safe to print: escaped and at most 80 characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
