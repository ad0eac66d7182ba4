"""What decides the numbers of a run apart from its options: versions and the device."""

from __future__ import annotations

import platform
from importlib import metadata

import jax

import splax


def device_name() -> str:
    """The device that jax computes on, for people: ``"cpu (AMD EPYC)"``, ``"gpu (NVIDIA H100)"``."""
    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else platform.processor() or platform.machine()
    return f"{device.platform} ({kind})"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute, by name."""
    packages = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    return {"splax": splax.__version__, "python": platform.python_version(), **packages}
