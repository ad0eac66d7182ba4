"""Timing of methods that may fail: out of memory, not installed, or not made for such a picture."""

import functools
import gc
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from measure import median_ms, time_interleaved

T = TypeVar("T")
_LONGEST_REASON = 700
# Cores that slept, and caches full of what another method did, cost a call up to 0.3 ms (docs/performance.md).
_WARM_UPS = 2


class _FailedError(Exception):
    """Carries the name of the method that failed."""


def attempt(name: str, function: Callable[[], T]) -> T | None:
    """What the function returns; None if it fails, with the reason on stderr."""
    try:
        return function()
    except Exception as error:
        _tell(name, error)
        return None


def time_all(calls: dict[str, Callable[..., Any]], repeats: int, in_a_row: int = 1) -> dict[str, float]:
    """Medians in milliseconds of interleaved runs; a method that fails is left out, with the reason on stderr.

    Args:
        calls: by name, each takes how often to do it.
        repeats: measured runs.
        in_a_row: how often a run does it; its time is divided by that.
    """
    calls = {name: _with_name(name, functools.partial(call, in_a_row)) for name, call in calls.items()}
    while calls:
        try:
            times = time_interleaved(calls, repeats=repeats, warm_ups=_WARM_UPS)
            return {name: median_ms(seconds) / in_a_row for name, seconds in times.items()}
        except _FailedError as error:
            failed = str(error)
        # Only now nothing holds what the method had allocated when it failed.
        del calls[failed]
        free_memory()
    return {}


def free_memory() -> None:
    """Gives back what nobody holds any longer, torch's pool too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def differing_pixels(first: Any, second: Any) -> float:
    """Share of the pixels in which images, [C, H, W, channels], differ by more than 1e-3."""
    return float((np.abs(_to_numpy(first) - _to_numpy(second)).max(axis=-1) > 1e-3).mean())


def _with_name(name, call):
    def named():
        try:
            return call()
        except Exception as error:
            _tell(name, error)
            raise _FailedError(name) from None

    return named


def _tell(name, error):
    reason = " ".join(str(error).split())[:_LONGEST_REASON]
    print(f"without {name}: {type(error).__name__}: {reason}", file=sys.stderr, flush=True)


def _to_numpy(images):
    return images.cpu().numpy() if hasattr(images, "cpu") else np.asarray(images)
