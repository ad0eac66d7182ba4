"""Timing: medians of interleaved runs, after a warm-up."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def time_interleaved(
    calls: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    budget_s: float = float("inf"),
    warm_ups: int = 0,
) -> dict[str, list[float]]:
    """Seconds of each call, run in turns so that a slow moment of the machine hits all of them alike.

    Args:
        calls: by name; each is run once before, unmeasured.
        repeats: measured runs of each.
        budget_s: a call that has taken this long in all is not repeated further; it is measured at least once.
        warm_ups: unmeasured calls before each measured one, so that none pays for what another one left behind.
    """
    spent = {name: _seconds(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            if turn == 0 or spent[name] < budget_s:
                for _ in range(warm_ups):
                    call()
                times[name].append(_seconds(call))
                spent[name] += times[name][-1]
    return times


def median_ms(seconds: list[float]) -> float:
    """Median in milliseconds."""
    return 1e3 * statistics.median(seconds)


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "load": load(),
    }


def load() -> float:
    """Mean number of runnable processes over the last minute; NaN where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - started


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
            return next(names, platform.processor())
    except OSError:
        return platform.processor()
