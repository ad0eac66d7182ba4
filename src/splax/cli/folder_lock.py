"""Keeps two processes from writing a run to one folder."""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


class FolderLock:
    """A lock on a folder, which ends with :meth:`release` or with the process, however that ends.

    The folder itself is locked, so that there is no file to leave behind. Where the file system has no locks, this
    one does nothing.

    Args:
        path: path of a folder that exists.

    Raises:
        ValueError: if another process, or another FolderLock of this one, holds the lock.
    """

    def __init__(self, path: Path) -> None:
        self._release = None
        if fcntl is None:
            return
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            self._release = weakref.finalize(self, os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self.release()
                raise ValueError(
                    f"another process is writing a run to {path}; wait for its end, stop it, or give another "
                    "folder with --out."
                ) from error

    def release(self) -> None:
        """Gives the lock back, if it is still held."""
        if self._release is not None:
            self._release()
