"""Arrays of .npy files that are not trusted: no pickles, and no larger than the file."""

from pathlib import Path

import numpy as np


def read_npy(path: Path) -> np.ndarray:
    """The array of real numbers that a .npy file holds.

    Raises:
        ValueError: if it cannot be read, is no such file, is shorter than it claims or holds something
            else; the message lacks the file's name.
    """
    try:
        with open(path, "rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise ValueError("not a .npy file")
        # Mapped first: the size that the header claims is checked against the file's before memory is taken.
        with np.errstate(over="raise"):
            array = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    except (ValueError, ArithmeticError, EOFError, TypeError, SyntaxError, MemoryError, KeyError) as error:
        raise ValueError("is damaged or truncated: numpy cannot read it as an array of numbers") from error
    if array.dtype.kind not in "fiu":
        raise ValueError("must hold real numbers")
    return array
