"""Progress bars for work that takes minutes and reports its progress only when asked."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

_POLL_SECONDS = 0.5

T = TypeVar("T")


def progress_bar(what: str, total: int | None, show: bool | None) -> tqdm:
    """A progress bar on standard error.

    Args:
        what: name of the work, for people to read.
        total: value at the end; None if unknown.
        show: whether to show the bar; None shows it only on a terminal.
    """
    return tqdm(desc=what, total=total, disable=None if show is None else not show, dynamic_ncols=True)


def run_with_bar(
    what: str,
    total: int | None,
    work: Callable[[], T],
    done: Callable[[], int],
    *,
    cancel: Callable[[], None],
    show: bool | None,
) -> T:
    """Runs ``work`` in a thread, and shows its progress.

    Args:
        what: name of the work, for people to read.
        total: value of ``done`` at the end; None if unknown.
        work: function to run; it must release the interpreter lock.
        done: function that returns the progress so far.
        cancel: function that makes ``work`` return soon; called if the wait is interrupted.
        show: whether to show the bar; None shows it only on a terminal.

    Returns:
        The result of ``work``.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    with progress_bar(what, total, show) as bar:
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_POLL_SECONDS)
                bar.update(max(0, min(done(), total or sys.maxsize) - bar.n))
        except KeyboardInterrupt:
            cancel()
            thread.join()
            raise
        if not errors and total is not None:
            bar.update(total - bar.n)
    if errors:
        raise errors[0]
    return results[0]
