"""Colours of a rendering fitted to those of its photo, so that a score does not count how bright the photo was.

Photos differ in exposure and white balance. Of a view held out nothing tells them, so methods that learn them are
also scored after a map of colour has been fitted to the photo itself (Mildenhall et al. 2022, RawNeRF: affine;
Wang et al. 2024, Bilateral Guided Radiance Field Processing). gsplat calls such scores cc_psnr and cc_ssim.
"""

from functools import partial
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splax.metrics.image import check_images

ColorMap: TypeAlias = Literal["affine", "quadratic"]

# Half a step of 8 bits: nearer to 0 or 1 than this a value is the end of the range, whatever the light was.
_SATURATED = 0.5 / 255
# A better fit shows which pixels saturate, and that a better fit.
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

    The map is the same for all pixels and minimises the sum of squared differences, for each channel over the
    pixels where the rendering, the photo and the result lie within the range of values. Where these do not
    determine it, it is the one nearest to none at all; without any such pixel nothing changes.

    Args:
        image: the rendering in [0, 1].
        target: the photo in [0, 1].
        mask: true where pixels count; they are mapped everywhere.
        method: "affine" in the channels, or "quadratic" with all their products too.

    Raises:
        ValueError: on another method, or if the shapes differ or the images are not float.
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
    """Whether values lie between the ends of the range."""
    return (values > _SATURATED) & (values < 1 - _SATURATED)


def _terms(pixels: Float[Array, "n c"], method: ColorMap) -> Float[Array, "n k"]:
    """What is multiplied with the map's coefficients: 1, the channels, and their products two by two."""
    terms = [jnp.ones_like(pixels[:, :1]), pixels]
    if method == "quadratic":
        first, second = jnp.triu_indices(pixels.shape[1])
        terms.append(pixels[:, first] * pixels[:, second])
    return jnp.concatenate(terms, axis=1)


def _least_squares(
    terms: Float[Array, "n k"], values: Float[Array, " n"], used: Bool[Array, " n"]
) -> Float[Array, " k"]:
    """Coefficients with which the terms come closest to the values; the smallest ones if several do."""
    # The triangular factor of both side by side poses the same problem in a few rows.
    both = jnp.where(used[:, None], jnp.concatenate([terms, values[:, None]], axis=1), 0)
    small = jnp.linalg.qr(both, mode="r")
    return jnp.linalg.lstsq(small[:, :-1], small[:, -1], rcond=_RCOND)[0]
