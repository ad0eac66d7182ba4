"""Delays Ctrl-C, and the signal with which clusters end jobs, until no state can be lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """A ``with`` block in which the first Ctrl-C or SIGTERM only sets the event; a second one acts as usual.

    A SIGTERM that already has a handler is left to that handler.
    """
    event = threading.Event()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in _SIGNALS}
        if previous[signal.SIGTERM] is not signal.SIG_DFL:
            del previous[signal.SIGTERM]

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def remember(signum, frame) -> None:
        event.set()
        restore()

    for number in previous:
        signal.signal(number, remember)
    try:
        yield event
    finally:
        restore()
