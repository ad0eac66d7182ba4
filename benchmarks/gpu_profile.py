"""Time per kernel of calls on a GPU, from the trace that JAX's profiler writes."""

import gzip
import json
import pathlib
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# Groups for people, by what kernels are called; the first that fits.
_GROUPS = (
    (r"radixsort|radix_sort", "sorts (CUB)"),
    (r"\bcub\b|devicescan", "sums and others (CUB)"),
    (r"memset", "memsets"),
    (r"memcpy", "copies"),
    (r"fusion|^wrapped_|^(copy|transpose|broadcast|concatenate|slice|reduce)([._]\d+)?$", "fusions of XLA"),
)
_LONGEST_NAME = 60


class Stage(NamedTuple):
    """Kernels of one name or group.

    Attributes:
        name: of the kernel, or of what it was grouped under.
        launches: of it in one call.
        microseconds: of all of them, in one call.
    """

    name: str
    launches: float
    microseconds: float


def profile(call: Callable[[], Any], *, calls: int = 5) -> list[Stage]:
    """Stages of a call that ends with the device idle; compiled and warmed up by one call before.

    Raises:
        ValueError: if the profiler saw no kernels.
    """
    call()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                call()
        return sum_kernels(read_trace(pathlib.Path(folder)), calls=calls)


def read_trace(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The events of what ``jax.profiler.trace`` wrote to a folder.

    Raises:
        ValueError: if it wrote nothing.
    """
    events = []
    for file in sorted(folder.glob("plugins/profile/*/*.trace.json.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            events += json.load(stream).get("traceEvents", [])
    if not events:
        raise ValueError(f"there is no trace of JAX's profiler in {folder}.")
    return events


def sum_kernels(events: list[dict[str, Any]], *, calls: int) -> list[Stage]:
    """Stages of one of ``calls`` equal calls, the longest first.

    Raises:
        ValueError: if no event is on a stream of a GPU.
    """
    processes = {event["pid"] for event in events if "GPU" in _named(event, "process_name")}
    streams = {
        (event["pid"], event["tid"])
        for event in events
        if event.get("pid") in processes and "Stream" in _named(event, "thread_name")
    }
    launches, spent = defaultdict(int), defaultdict(float)
    for event in events:
        if event.get("ph") == "X" and (event.get("pid"), event.get("tid")) in streams:
            name = stage_name(event["name"])
            launches[name] += 1
            spent[name] += event["dur"]
    if not spent:
        raise ValueError("the profiler saw no kernels; it needs a GPU and the right to its counters.")
    stages = [Stage(name, launches[name] / calls, spent[name] / calls) for name in spent]
    return sorted(stages, key=lambda stage: -stage.microseconds)


def stage_name(kernel: str) -> str:
    """The group that a kernel belongs to, or its own name without the number that XLA put behind it."""
    for pattern, group in _GROUPS:
        if re.search(pattern, kernel, re.IGNORECASE):
            return group
    return re.sub(r"[._]\d+$", "", kernel)[:_LONGEST_NAME].replace("|", "/")


def table(stages: list[Stage], title: str) -> str:
    """Stages in Markdown, and their sum."""
    total = sum(stage.microseconds for stage in stages)
    lines = [f"| {title} | launches | us | share |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {launches:g} | {spent:.1f} | {100 * spent / total:.1f} % |"
        for name, launches, spent in [*stages, Stage("all", sum(stage.launches for stage in stages), total)]
    ]
    return "\n".join(lines)


def _named(event, what):
    """The name that an event gives to its process or thread; empty if it does not."""
    is_name = event.get("ph") == "M" and event.get("name") == what
    return event["args"]["name"] if is_name else ""
