"""Depth that is known of some pixels, as a term of the loss."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splax.rasterizer import RenderOutput

# Where less than this is drawn there is no depth to compare.
_MIN_ALPHA = 1e-3


def disparity_loss(
    output: RenderOutput,
    depth: Float[Array, "h w"],
    extent: float,
    mask: Bool[Array, "h w"] | None = None,
) -> Float[Array, ""]:
    """Mean absolute error of inverse depth over the pixels whose depth is known, in 1 / scene extents (gsplat).

    Inverse depth, since what is far away matters less and is known less well. Where nothing is drawn it is 0.

    Args:
        output: a rendering, with depth.
        depth: camera-space z in world units, 0 where unknown.
        extent: of the scene, world units.
        mask: true where pixels count; everywhere if None.
    """
    known = depth > 0 if mask is None else (depth > 0) & mask
    truth = jnp.where(known, 1 / jnp.where(known, depth, 1), 0)
    error = jnp.where(known, jnp.abs(rendered_disparity(output) - truth), 0)
    return extent * error.sum() / jnp.maximum(known.sum(), 1)


def rendered_disparity(output: RenderOutput) -> Float[Array, "h w"]:
    """Inverse of the depth that a rendering shows; 0 where nothing is drawn."""
    drawn = (output.alpha > _MIN_ALPHA) & (output.accumulated_depth > 0)
    # alpha / accumulated depth = 1 / expected depth; neutral numbers where it is not used, or NaN would spread.
    return jnp.where(drawn, output.alpha, 0) / jnp.where(drawn, output.accumulated_depth, 1)


def shrink_depth(depth: Float[Array, "h w"], factor: int) -> Float[Array, "h2 w2"]:
    """One pixel out of each block of ``factor`` x ``factor``: depths of two things do not mix."""
    height, width = depth.shape[0] // factor, depth.shape[1] // factor
    return depth[factor // 2 :: factor, factor // 2 :: factor][:height, :width]
