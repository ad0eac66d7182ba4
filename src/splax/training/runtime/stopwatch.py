"""Measures the time that each part of a run takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Stopwatch:
    """Measures the time of each part of a run; the time of a part within another one counts only for the inner.

    Attributes:
        seconds: seconds by the name of the part, in the order in which the parts were first entered.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time of a ``with`` block."""
        self._book()
        self._open.append(name)
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def each(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """Yields the items, and counts the time that it takes to make them for the part ``name``."""
        while True:
            with self.part(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def table(self) -> str:
        """A table of seconds and shares, one line for each part."""
        total = sum(self.seconds.values()) or 1.0
        return "\n".join(
            f"{name:<12} {seconds:9.2f} s {seconds / total:6.1%}" for name, seconds in self.seconds.items()
        )

    def _book(self) -> None:
        """Adds the time since the last call of this method to the innermost part."""
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
