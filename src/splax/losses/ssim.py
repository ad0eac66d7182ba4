"""SSIM for training: the value of :func:`splax.metrics.image.ssim` with a gradient that is written by hand.

The gradient is computed together with the value, so that no other array is kept for the backward pass. Each
backend has a function that computes both.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from splax.metrics.image import check_windows
from splax.ops import backends
from splax.ops.xla.ssim import Rows, mean_and_gradients


@jax.custom_jvp
def mean_ssim(
    image: Float[Array, "*batch h w c"], target: Float[Array, "*batch h w c"]
) -> Float[Array, "*batch"]:
    """:func:`splax.metrics.image.ssim` without a mask, with a gradient that is quick in reverse mode.

    Forward mode and higher derivatives work as well.

    Args:
        image: image in [0, 1], float, [..., H, W, C].
        target: image to compare with, float, [..., H, W, C].

    Raises:
        ValueError: on the same images as :func:`splax.metrics.image.ssim`.
    """
    return _value_and_gradients(*_rows_of(image, target), image.shape[-1], ())[0]


def _mean_ssim_jvp(primals, tangents):
    image, target = primals
    rows, change = _rows_of(image, target), jnp.zeros(image.shape[:-3], image.dtype)
    # The target is usually a photo, and then its gradient is not computed.
    differentiated = tuple(
        nth for nth, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)
    )
    value, gradients = _value_and_gradients(*rows, image.shape[-1], differentiated)
    for nth, gradient in zip(differentiated, gradients, strict=True):
        change += (gradient * tangents[nth].reshape(gradient.shape)).sum(axis=(-2, -1))
    return value, change


mean_ssim.defjvp(_mean_ssim_jvp, symbolic_zeros=True)


def _rows_of(image: Array, target: Array) -> tuple[Rows, Rows]:
    check_windows(image, target)
    shape = (*image.shape[:-2], -1)
    return image.reshape(shape), target.reshape(shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _value_and_gradients(
    x: Rows, y: Rows, channels: int, differentiated: tuple[int, ...]
) -> tuple[Float[Array, "*batch"], list[Rows]]:
    """Mean SSIM, and its gradients by the images whose numbers, 0 or 1, are in ``differentiated``."""
    return backends.mean_ssim(x, y, channels, differentiated)


@_value_and_gradients.defjvp
def _differentiate_again(channels, differentiated, primals, tangents):
    # Kernels have no derivative of their own; higher orders are those of the plain function.
    plain = functools.partial(mean_and_gradients, channels=channels, differentiated=differentiated)
    return jax.jvp(plain, primals, tangents)
