"""Delays Ctrl-C, and the signals of clusters and closed connections that end jobs, until no state can be lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# SIGTERM: a cluster ends a job. SIGHUP: a terminal or a connection was closed; Windows has no such signal.
_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """A ``with`` block in which the first Ctrl-C, SIGTERM or SIGHUP only sets the event; a second acts as usual.

    A SIGTERM or SIGHUP that already has a handler, or is ignored (``nohup``), is left as it is.
    """
    event = threading.Event()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
        for number in _ENDING:
            if previous[number] is not signal.SIG_DFL:
                del previous[number]

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
