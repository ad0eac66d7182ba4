"""What the command line prints, and how it words what went wrong."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator


def say(text: str) -> None:
    """Prints to standard output at once."""
    print(text, flush=True)


def say_error(text: str) -> None:
    """Prints an error to standard error."""
    print(f"splax: error: {text}", file=sys.stderr)


def show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Prints a warning in one line, without the place in the source of splax; for ``warnings.showwarning``."""
    del category, filename, lineno, file, line
    print(f"splax: warning: {message}", file=sys.stderr)


@contextlib.contextmanager
def failed_write_is_a_warning() -> Iterator[None]:
    """A ``with`` block that writes a file without which the command can continue; a failure becomes a warning."""
    try:
        yield
    except (ValueError, OSError) as error:
        warnings.warn(f"{error} The run continues without it.", stacklevel=3)


@contextlib.contextmanager
def missing_package_is_an_error() -> Iterator[None]:
    """Reports a package that is not installed as the user's matter, by the sentence that names the package.

    Raises:
        ValueError: if the block raises an ImportError; has its message.
    """
    try:
        yield
    except ImportError as error:
        raise ValueError(str(error)) from error
