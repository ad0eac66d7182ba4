"""What the machine has."""

import functools

import jax


@functools.cache
def has_cuda() -> bool:
    """Whether JAX's default device is an NVIDIA GPU."""
    return jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version.lower()
