"""Reads .npy files that are not trusted: nothing is unpickled, and an array is no larger than its file.

Layout: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. numpy's own reader raises errors of
many kinds for damaged headers.
"""

import ast
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000
_NUMBERS = re.compile(r"[<>=|]?[fiu][1248]")


def read_npy(path: Path) -> np.ndarray:
    """Reads the array of real numbers of a .npy file.

    Raises:
        ValueError: if the file cannot be read, is not a .npy file, is shorter than it claims, or does not hold
            real numbers. The message does not name the file.
    """
    try:
        with open(path, "rb") as file:
            start, header = _read_header(file.read(12 + _MAX_HEADER))
            dtype, shape = _dtype(header), _shape(header)
            count = math.prod(shape)
            size = path.stat().st_size
            if start + count * dtype.itemsize > size:
                raise ValueError(f"is truncated: it claims {count} numbers, but has {size} bytes")
            file.seek(start)
            values = np.fromfile(file, dtype, count)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    return values.reshape(shape, order="F" if header.get("fortran_order") else "C")


def _read_header(data: bytes) -> tuple[int, dict[str, Any]]:
    """The position of the first number in bytes, and the dictionary that precedes it."""
    try:
        if not data.startswith(_MAGIC):
            raise ValueError
        layout = "<H" if data[6] == 1 else "<I"
        (length,) = struct.unpack_from(layout, data, 8)
        begin = 8 + struct.calcsize(layout)
        if begin + length > len(data):
            raise ValueError
        header = ast.literal_eval(data[begin : begin + length].decode("latin1").strip())
        if not isinstance(header, dict):
            raise ValueError
    except (
        ValueError,
        SyntaxError,
        TypeError,
        struct.error,
        IndexError,
        MemoryError,
        RecursionError,
    ) as error:
        raise ValueError("is no whole .npy file: it is damaged or truncated") from error
    return begin + length, header


def _dtype(header: dict[str, Any]) -> np.dtype:
    kind = header.get("descr")
    if not isinstance(kind, str) or not _NUMBERS.fullmatch(kind) or kind.endswith("f1"):
        raise ValueError("must hold real numbers")
    return np.dtype(kind)


def _shape(header: dict[str, Any]) -> tuple[int, ...]:
    shape = header.get("shape")
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("is damaged: its header states no valid shape")
    return shape
