"""What splax decides by the kind of device that JAX computes on, and how much memory that device has left.

A new kind of device is one entry of :data:`POLICIES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import jax


@dataclasses.dataclass(frozen=True)
class DevicePolicy:
    """What suits one kind of device. The image and the result of training do not depend on it, up to rounding.

    Attributes:
        tile_size: edge of a tile in pixels, where the user asks for none.
        sums_in_any_order: whether plain XLA adds numbers of one row in an order that differs from run to run.
        keeps_programs: whether compiled programs are worth keeping on disk for the next run.
        compiler_options: options that XLA gets for every training program.
        steps_per_check: steps that are made before the device asks whether to go on.
        snapshot_steps: steps from one copy of the state on the host to the next.
        spare_rows: dead rows that a run which refines begins with, and grows by at least.
        isect_margin: factor between the intersections that were counted and the rows of their buffer.
        isect_waste: factor by which that buffer may be too large before it shrinks.
        min_isects: rows that the buffer of intersections has in any case.
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
    keeps_programs=False,  # XLA's programs for a CPU are tied to the processor that they were made on
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
    # The autotuner runs each fusion as either of two emitters compiles it, and keeps the faster one. It does so on
    # arrays made for that next to the state, as large as all Params and the moments of Adam, and from run to run
    # another emitter may be the faster one, which gives other last bits.
    compiler_options=MappingProxyType({"xla_gpu_experimental_enable_fusion_autotuner": False}),
    # To read a condition the host waits until the device is idle; a loop of known length has no condition.
    steps_per_check=5,
    # The device waits for the copy as long as dozens of steps take, and makes lost steps again in seconds.
    snapshot_steps=2_000,
    # A growth compiles the step again, which takes as long as thousands of steps (docs/performance.md). What dead
    # rows and free slots add to a step was not measured: Adam and the sort read and write them all.
    spare_rows=100_000,
    isect_margin=1.5,
    isect_waste=4,
    # A million pairs take some 30 MB and are sorted in some 40 us. A run from random points needs a thirtieth of
    # that once the worst Gaussians are pruned, and would outgrow what fits then several times.
    min_isects=1 << 20,
    photo_share=0.4,
)

POLICIES: Mapping[str, DevicePolicy] = MappingProxyType({"cpu": _CPU, "gpu": _GPU})
"""The policy of each platform of ``jax.default_backend()``."""

# Platforms without an entry: as careful as a CPU, with the tiles of accelerators.
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
