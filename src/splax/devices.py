"""Settings that depend on the kind of device that JAX computes on, and the free memory of that device.

A new kind of device needs one more entry in :data:`POLICIES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import jax


@dataclasses.dataclass(frozen=True)
class DevicePolicy:
    """Settings that suit one kind of device.

    Images and the results of training do not depend on them, up to rounding.

    Attributes:
        tile_size: edge of a tile in pixels, unless the user sets one.
        sums_in_any_order: whether plain XLA adds numbers of one row in an order that differs from run to run.
        keeps_programs: whether to keep compiled programs on disk for the next run.
        compiler_options: options that XLA gets for every training program.
        steps_per_check: number of steps that the device makes before it checks whether to continue.
        snapshot_steps: number of steps from one copy of the state on the host to the next.
        spare_rows: number of dead rows that a run with refinements begins with, and least number of rows by which
            it grows.
        isect_margin: ratio of the rows of the intersection buffer to the number of intersections counted.
        isect_waste: ratio of the rows of that buffer to the rows it needs, from which on it shrinks.
        min_isects: least number of rows of the intersection buffer.
        photo_share: share of the free memory that photos may take.
    """

    tile_size: int
    sums_in_any_order: bool
    keeps_programs: bool
    compiler_options: Mapping[str, bool]
    steps_per_check: int
    snapshot_steps: int
    spare_rows: int
    isect_margin: float
    isect_waste: float
    min_isects: int
    photo_share: float


_CPU = DevicePolicy(
    tile_size=8,  # fewer pixels are computed that a Gaussian does not reach
    sums_in_any_order=False,
    keeps_programs=False,  # XLA's programs for a CPU run only on the kind of processor that compiled them
    compiler_options=MappingProxyType({}),
    steps_per_check=1,
    snapshot_steps=500,
    spare_rows=0,
    isect_margin=1.25,
    isect_waste=2,
    min_isects=0,
    photo_share=0.25,
)
_GPU = DevicePolicy(
    tile_size=16,
    sums_in_any_order=True,
    keeps_programs=True,  # compiling a training step takes seconds there
    # The autotuner runs each fusion as compiled by either of two emitters, and keeps the faster one. For that it
    # allocates arrays in addition to the state, as large as all Params and the moments of Adam. And from run to
    # run another emitter may be the faster one, which changes the last bits of the results.
    compiler_options=MappingProxyType({"xla_gpu_experimental_enable_fusion_autotuner": False}),
    # To read a condition, the host waits until the device is idle; a loop of fixed length has no condition.
    steps_per_check=5,
    # The device waits for the copy as long as dozens of steps take, and repeats lost steps in seconds.
    snapshot_steps=2_000,
    # A growth compiles the step again, which takes as long as thousands of steps (docs/performance.md). The time
    # that dead rows and unused rows of the intersection buffer add to a step was not measured: Adam and the sort
    # read and write them all.
    spare_rows=100_000,
    isect_margin=1.5,
    isect_waste=4,
    # A million pairs take some 30 MB and are sorted in some 40 us. A run from random points needs a thirtieth of
    # that after its worst Gaussians are pruned; a buffer of that size would be too small several times later.
    min_isects=1 << 20,
    photo_share=0.4,
)

POLICIES: Mapping[str, DevicePolicy] = MappingProxyType({"cpu": _CPU, "gpu": _GPU})
"""The policy of each platform of ``jax.default_backend()``."""

# Policy of platforms without an entry: as cautious as a CPU's, with the tile size of accelerators.
_OTHER = dataclasses.replace(_CPU, tile_size=16)


def device_policy() -> DevicePolicy:
    """The policy of the device that JAX computes on."""
    return POLICIES.get(jax.default_backend(), _OTHER)


def free_memory() -> int | None:
    """Bytes that can still be allocated on the device; None if neither JAX nor the system knows.

    A device without memory of its own uses that of the machine.
    """
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):  # not on Linux
        return None
