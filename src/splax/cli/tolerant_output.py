"""Keeps the work of a command going where its messages cannot be written.

A pipe may have lost its reader (``splax train ... | tee log`` and Ctrl-C), a terminal may be closed, a disk may be
full, and an ASCII terminal cannot show every path. A message is never worth the results of a run.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def tolerant_output() -> Iterator[None]:
    """A ``with`` block in which writing to standard output and standard error never raises.

    Characters that a stream's encoding lacks are written as escapes. A stream that fails is silent from then on;
    where standard output fails for another reason than a closed pipe, standard error says so.
    """
    stdout = None if sys.stdout is None else _TolerantStream(sys.stdout, says_loss=True)
    stderr = None if sys.stderr is None else _TolerantStream(sys.stderr, says_loss=False)
    # Python itself has no streams where a program has no console.
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        yield


class _TolerantStream:
    """A text stream whose failures do not reach the writer.

    Args:
        stream: the stream to write to.
        says_loss: whether a failure is reported on standard error, unless it is a closed pipe.
    """

    def __init__(self, stream: Any, *, says_loss: bool) -> None:
        self._stream, self._says_loss = stream, says_loss
        self._is_lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text, if the stream still works; returns the number of its characters."""
        if not self._is_lost:
            with self._failures_end_it():
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    encoding = self._stream.encoding or "ascii"
                    self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream, if it still works."""
        if not self._is_lost:
            with self._failures_end_it():
                self._stream.flush()

    @contextlib.contextmanager
    def _failures_end_it(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            pass  # the reader is slow; what is in the buffer goes out with the next flush
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self._is_lost = True
            _discard_buffer(self._stream)
            if self._says_loss and not isinstance(error, BrokenPipeError):
                reason = getattr(error, "strerror", None) or error
                print(
                    f"splax: warning: standard output cannot be written: {reason}; further messages are lost.",
                    file=sys.stderr,
                )


def _discard_buffer(stream: Any) -> None:
    """Lets the stream lead nowhere: Python flushes it at exit, and would report that failure too."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
