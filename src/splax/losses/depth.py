"""A term of the loss that compares rendered depth with depth that is known at some pixels."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splax.rasterizer import RenderOutput

# Alpha below which a pixel shows too little to have a depth.
_MIN_ALPHA = 1e-3


def disparity_loss(
    output: RenderOutput,
    depth: Float[Array, "h w"],
    extent: float,
    mask: Bool[Array, "h w"] | None = None,
) -> Float[Array, ""]:
    """Mean absolute error of inverse depth over the pixels of known depth, in 1 / scene extents (gsplat).

    Inverse depth is compared because distant things matter less and their depth is less certain. The rendered
    inverse depth is 0 where nothing is drawn.

    Args:
        output: rendering of the view, with depth.
        depth: known camera-space z, world units, [H, W]; 0 where unknown.
        extent: extent of the scene, world units.
        mask: true where pixels count, [H, W]; None for all pixels.
    """
    known = depth > 0 if mask is None else (depth > 0) & mask
    truth = jnp.where(known, 1 / jnp.where(known, depth, 1), 0)
    error = jnp.where(known, jnp.abs(rendered_disparity(output) - truth), 0)
    return extent * error.sum() / jnp.maximum(known.sum(), 1)


def rendered_disparity(output: RenderOutput) -> Float[Array, "h w"]:
    """Inverse of the rendered depth, 1 / world units, [H, W]; 0 where nothing is drawn."""
    drawn = (output.alpha > _MIN_ALPHA) & (output.accumulated_depth > 0)
    # alpha / accumulated depth = 1 / expected depth. Pixels that are not drawn get neutral numbers: NaN would
    # spread to the gradient.
    return jnp.where(drawn, output.alpha, 0) / jnp.where(drawn, output.accumulated_depth, 1)


def shrink_depth(depth: Float[Array, "h w"], factor: int) -> Float[Array, "h2 w2"]:
    """A depth image made smaller, by one pixel of each block: a mean would mix the depths of two things.

    Args:
        depth: camera-space z, world units, [H, W].
        factor: side of a block, pixels.
    """
    height, width = depth.shape[0] // factor, depth.shape[1] // factor
    return depth[factor // 2 :: factor, factor // 2 :: factor][:height, :width]
