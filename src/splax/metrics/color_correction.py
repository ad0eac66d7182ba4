"""Fits the colours of a rendering to those of its photo, so that a score does not depend on the photo's exposure.

Photos differ in exposure and white balance. Those of a held-out photo are not known, so methods that learn
exposures are also scored after a map of colour has been fitted to the photo itself (Mildenhall et al. 2022,
RawNeRF: affine; Wang et al. 2024, Bilateral Guided Radiance Field Processing). gsplat calls such scores cc_psnr
and cc_ssim.
"""

from functools import partial
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splax.metrics.image import check_images

ColorMap: TypeAlias = Literal["affine", "quadratic"]

# Half a step of 8 bits: a value nearer to 0 or 1 than this is saturated, and says little about the light.
_SATURATED = 0.5 / 255
# Number of fits: each shows better which pixels saturate, and so improves the next one.
_ROUNDS = 5
# Singular values below this share of the largest are noise of float32.
_RCOND = 1e-5


@partial(jax.jit, static_argnames="method")
def color_correct(
    image: Float[Array, "h w c"],
    target: Float[Array, "h w c"],
    mask: Bool[Array, "h w"] | None = None,
    *,
    method: ColorMap = "affine",
) -> Float[Array, "h w c"]:
    """The rendering with its colours mapped to come closest to the photo's, clamped to [0, 1].

    The map is the same for all pixels. For each channel it minimises the sum of squared differences over the
    pixels where the rendering, the photo and the result lie strictly within the range of values. Where these
    pixels do not determine the map, it is the one nearest to the identity; without any such pixel nothing changes.

    Args:
        image: rendering in [0, 1], float, [H, W, C].
        target: photo in [0, 1], float, [H, W, C].
        mask: true where pixels count for the fit, [H, W]; None for all pixels. The map is applied to all pixels.
        method: ``"affine"`` for a map that is affine in the channels; ``"quadratic"`` adds all their products.

    Raises:
        ValueError: on another method, or if the shapes differ or the images are not float.

    Example:
        >>> import jax
        >>> import splax
        >>> photo = jax.random.uniform(jax.random.key(0), (32, 32, 3), minval=0.2, maxval=0.8)
        >>> darker = 0.5 * photo + 0.1
        >>> bool(splax.psnr(darker, photo) < 20)
        True
        >>> bool(splax.psnr(splax.color_correct(darker, photo), photo) > 60)
        True
    """
    check_images(image, target)
    if method not in ("affine", "quadratic"):
        raise ValueError(f"method must be 'affine' or 'quadratic', got {method!r}.")
    pixels, wanted = (x.reshape(-1, image.shape[-1]) for x in (image, target))
    usable = _is_within(pixels) & _is_within(wanted)
    if mask is not None:
        usable &= mask.reshape(-1, 1)
    terms = _terms(pixels, method)

    def improve(_, corrected):
        used = usable & _is_within(corrected)
        change = jax.vmap(partial(_least_squares, terms), in_axes=1, out_axes=1)(wanted - pixels, used)
        # Not a matrix product, whose precision may be low on a GPU.
        return pixels + (terms[:, :, None] * change).sum(axis=1)

    corrected = jax.lax.fori_loop(0, _ROUNDS, improve, pixels)
    return jnp.clip(corrected, 0, 1).reshape(image.shape)


def _is_within(values: Float[Array, "n c"]) -> Bool[Array, "n c"]:
    """True where values lie between the ends of the range, [N, C] bool."""
    return (values > _SATURATED) & (values < 1 - _SATURATED)


def _terms(pixels: Float[Array, "n c"], method: ColorMap) -> Float[Array, "n k"]:
    """Factors of the map's coefficients, [N, K]: 1, the channels, and if quadratic the products of two of them."""
    terms = [jnp.ones_like(pixels[:, :1]), pixels]
    if method == "quadratic":
        first, second = jnp.triu_indices(pixels.shape[1])
        terms.append(pixels[:, first] * pixels[:, second])
    return jnp.concatenate(terms, axis=1)


def _least_squares(
    terms: Float[Array, "n k"], values: Float[Array, " n"], used: Bool[Array, " n"]
) -> Float[Array, " k"]:
    """Coefficients with which the terms come closest to the values, [K]; the smallest ones if several do."""
    # The triangular factor of terms and values together poses the same problem in a few rows.
    both = jnp.where(used[:, None], jnp.concatenate([terms, values[:, None]], axis=1), 0)
    small = jnp.linalg.qr(both, mode="r")
    return jnp.linalg.lstsq(small[:, :-1], small[:, -1], rcond=_RCOND)[0]
