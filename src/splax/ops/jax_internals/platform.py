"""The devices and the JAX of this machine."""

import functools
import importlib

import jax


@functools.cache
def has_cuda() -> bool:
    """Returns whether JAX's default device is an NVIDIA GPU."""
    return jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version.lower()


@functools.cache
def has_pallas_triton() -> bool:
    """Returns whether JAX still has the Pallas backend that the kernels are written for."""
    try:
        importlib.import_module("jax.experimental.pallas.triton")
    except ImportError:
        return False
    return True
