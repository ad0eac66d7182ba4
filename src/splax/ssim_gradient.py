"""SSIM for training: the value of :func:`splax.metrics.ssim` and its gradient, written out.

JAX's own gradient filters the cotangents of five maps of window means. Here it is three maps (those by which SSIM
depends on an image: its window mean, the mean of squares and the mean of products), as in fused-ssim (Mallick et
al. 2024, Taming 3DGS). It is computed together with the value, so nothing but the gradient itself is kept. NVIDIA
GPUs have kernels for it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from splax.metrics import SSIM_C1, SSIM_C2, SSIM_TAPS, SSIM_WINDOW, check_windows, filter_windows
from splax.ops.platform import has_cuda, has_pallas_triton
from splax.ops.ssim import Ssim, WindowMeans, compare

_MARGIN = SSIM_WINDOW - 1

# Of an image, width and channels as one axis: the innermost loop is long. And of its windows.
Rows = Float[Array, "*batch h wc"]
WindowRows = Float[Array, "*batch h2 wc2"]


@jax.custom_jvp
def mean_ssim(
    image: Float[Array, "*batch h w c"], target: Float[Array, "*batch h w c"]
) -> Float[Array, "*batch"]:
    """:func:`splax.metrics.ssim` without a mask, with a gradient that is quick in reverse mode.

    Forward mode and higher derivatives work as well.

    Raises:
        ValueError: as :func:`splax.metrics.ssim`.
    """
    return _value_and_gradients(*_rows_of(image, target), image.shape[-1], ())[0]


def _mean_ssim_jvp(primals, tangents):
    image, target = primals
    rows, change = _rows_of(image, target), jnp.zeros(image.shape[:-3], image.dtype)
    # The target is a photo as a rule, and then the second gradient is not computed.
    moving = tuple(nth for nth, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero))
    value, gradients = _value_and_gradients(*rows, image.shape[-1], moving)
    for nth, gradient in zip(moving, gradients, strict=True):
        change += (gradient * tangents[nth].reshape(gradient.shape)).sum(axis=(-2, -1))
    return value, change


mean_ssim.defjvp(_mean_ssim_jvp, symbolic_zeros=True)


def _rows_of(image: Array, target: Array) -> tuple[Rows, Rows]:
    check_windows(image, target)
    shape = (*image.shape[:-2], -1)
    return image.reshape(shape), target.reshape(shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _value_and_gradients(
    x: Rows, y: Rows, channels: int, moving: tuple[int, ...]
) -> tuple[Float[Array, "*batch"], list[Rows]]:
    """Mean SSIM, and its gradients to those of the two images that are named by number."""
    plain = functools.partial(_in_plain_jax, channels=channels, moving=moving)
    kernels_fit = moving and x.dtype == y.dtype == jnp.float32
    if not (kernels_fit and has_cuda() and has_pallas_triton()):
        return plain(x, y)
    kernels = functools.partial(_in_kernels, channels=channels, moving=moving)
    return jax.lax.platform_dependent(x, y, cuda=kernels, default=plain)


@_value_and_gradients.defjvp
def _differentiate_again(channels, moving, primals, tangents):
    # Kernels are for the first order.
    return jax.jvp(functools.partial(_in_plain_jax, channels=channels, moving=moving), primals, tangents)


def _in_plain_jax(
    x: Rows, y: Rows, *, channels: int, moving: tuple[int, ...]
) -> tuple[Float[Array, "*batch"], list[Rows]]:
    ssim = Ssim(SSIM_TAPS, SSIM_C1, SSIM_C2, channels)
    means = WindowMeans(*_blur(jnp.stack([x, y, x * x + y * y, x * y]), channels))
    value, maps = compare(means, ssim)
    count = value.shape[-2] * value.shape[-1]
    gradients = []
    for nth in moving:
        one, other = ((x, y), (y, x))[nth]
        by_means = jnp.stack([maps[nth], maps.by_squares, maps.by_products])
        mean, squares, products = _spread(by_means, channels)
        gradients.append((mean + 2 * one * squares + other * products) / count)
    return value.mean(axis=(-2, -1)), gradients


def _in_kernels(x, y, *, channels, moving, interpret=False):
    from splax.ops.triton import ssim as triton

    ssim, warp = Ssim(SSIM_TAPS, SSIM_C1, SSIM_C2, channels), triton.Warp(interpret)

    def of_one(x, y):
        value, maps = triton.similarity(x, y, ssim, warp)
        gradients = []
        for nth in moving:
            one, other = (y, x) if nth else (x, y)
            gradients.append(triton.gradient(one, other, maps[nth], maps, ssim, warp))
        return value, gradients

    mapped = of_one
    for _ in x.shape[:-2]:
        mapped = jax.vmap(mapped)
    return mapped(x, y)


def _blur(maps: Rows, channels: int) -> WindowRows:
    """Gaussian-weighted mean of every window that lies within the image."""
    height = maps.shape[-2]
    rows = filter_windows(maps, -1, channels)
    # Padded and cropped again for XLA: fused with the second pass, the first is computed for each of its taps.
    rows = filter_windows(_pad(rows, -2, _MARGIN), -2, 1)
    return jax.lax.slice_in_dim(rows, _MARGIN, height, axis=rows.ndim - 2)


def _spread(maps: WindowRows, channels: int) -> Rows:
    """The transpose of :func:`_blur`: to every pixel, the weighted sum over the windows that hold it."""
    rows = filter_windows(_pad(maps, -1, _MARGIN * channels), -1, channels)
    return filter_windows(_pad(rows, -2, _MARGIN), -2, 1)


def _pad(x: Array, axis: int, width: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (width, width)
    # Barriers keep XLA's GPU compiler, too, from computing the pass before it for each tap of the one after.
    return jnp.pad(jax.lax.optimization_barrier(x), widths)
