"""What a reader may do with a hostile file, and what it may not.

It may return something usable or raise a ValueError of splax that names the file. It may not raise anything else,
hang, take memory that the file does not account for, look outside the folder, write, unpickle or start anything.
"""

import os
import signal
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from splax.files.image_header import ImageError

SECONDS = 30  # on a machine that may be busy; the slowest are told
# A file may unpack to 64 MiB (photos: 128 MiB) or 128 times its size; floats and copies of that take more.
MEMORY_FLOOR, MEMORY_FACTOR = 1 << 30, 512
MAX_MESSAGE = 8000

_CHANGES = {
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod",
    "os.chown", "os.utime", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
    "socket.connect", "pickle.find_class", "tempfile.mkstemp", "tempfile.mkdtemp", "shutil.rmtree", "shutil.move",
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Verdict(NamedTuple):
    """What happened.

    Attributes:
        outcome: "read" or "refused".
        seconds: that it took.
        peak: of the memory that Python and numpy took, bytes; 0 if it was not measured.
    """

    outcome: str
    seconds: float
    peak: int


class _Watch:
    """Notes what is opened outside a folder, and everything that changes something, while a reader runs."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []
        self.installed = False

    def install(self) -> None:
        if not self.installed:  # such a hook stays
            sys.addaudithook(self._hook)
            self.installed = True

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        folder = self.folder
        if folder is None:
            return
        if event == "open":
            path, _, flags = args
            if isinstance(path, int):
                return
            path = os.path.abspath(os.fsdecode(path))
            code = path.endswith((".py", ".pyc", ".so"))  # imported when first needed
            if flags & _WRITES or not (path == folder or path.startswith(folder + os.sep) or code):
                self.seen.append(f"opened {path}, flags {flags:#x}")
        elif event in _CHANGES:
            self.seen.append(f"{event} {args!r}"[:300])


_watch = _Watch()


def judge(read: Callable[[Path], Any], path: Path, folder: Path, *, measure: bool = False) -> Verdict:
    """Reads a file and fails if the reader does what it may not.

    Args:
        read: the reader; returns None, or raises an AssertionError if what it made of the file is not usable.
        path: what it is given.
        folder: outside which nothing may be opened.
        measure: the memory too, which takes time.

    Raises:
        AssertionError: says what the reader did.
    """
    _watch.install()
    size = sum(file.lstat().st_size for file in folder.rglob("*")) if measure else 0
    if measure:
        tracemalloc.start()
    begun = time.perf_counter()
    try:
        outcome = _run(read, path, folder)
    finally:
        seconds = time.perf_counter() - begun
        peak = tracemalloc.get_traced_memory()[1] if measure else 0
        tracemalloc.stop()
    assert not _watch.seen, f"it {'; '.join(_watch.seen)}"
    assert peak <= MEMORY_FLOOR + MEMORY_FACTOR * size, f"it took {peak:,} bytes for files of {size:,}"
    return Verdict(outcome, seconds, peak)


def _run(read: Callable[[Path], Any], path: Path, folder: Path) -> str:
    def too_long(*_: Any) -> None:
        raise AssertionError(f"it takes longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _watch.seen, _watch.folder = [], str(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", UserWarning)  # splax's own
            read(path)
    except (AssertionError, KeyboardInterrupt):
        raise
    except BaseException as error:
        _watch.folder = None
        _check_error(error, folder)
        return "refused"
    finally:
        _watch.folder = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return "read"


def _check_error(error: BaseException, folder: Path) -> None:
    """Fails unless it is a ValueError of ours that can be shown."""
    if type(error) not in (ValueError, ImageError):
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    text = str(error)
    if type(error) is ValueError and str(folder) not in text:
        raise AssertionError(f"no file is named: {text}") from error
    if len(text) > MAX_MESSAGE:
        raise AssertionError(f"a message of {len(text):,} characters: {text[:100]}") from error
    if not text.isprintable():
        raise AssertionError(f"a message with control characters: {text!r}") from error
