"""The only door to the kernels: 2D Gaussians and tile lists to pixels."""

from typing import Literal, cast, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from splax.ops._rasterize_lanes import composite_vjp
from splax.ops._rasterize_xla import composite
from splax.ops.intersection import Intersections, TileLayout

# "xla": plain JAX, differentiable in every mode and order. "xla_vjp": the same image, faster reverse mode.
Implementation = Literal["xla", "xla_vjp"]


def rasterize_to_pixels(
    means2d: Float[Array, "n 2"],
    conics: Float[Array, "n 3"],
    colors: Float[Array, "n c"],
    opacities: Float[Array, " n"],
    isects: Intersections,
    *,
    width: int,
    height: int,
    tile_size: int,
    implementation: Implementation | None = None,
) -> tuple[Float[Array, "h w c"], Float[Array, "h w"]]:
    """Composites Gaussians front to back.

    Args:
        means2d: centres in pixels.
        conics: inverse 2D covariances as (a, b, c) of [[a, b], [b, c]].
        colors: any number of channels.
        opacities: in [0, 1].
        isects: which Gaussians touch which tile.
        width: image width in pixels.
        height: image height in pixels.
        tile_size: pixels per tile side, the one ``isects`` was made for.
        implementation: a name forces that path; None takes the fastest one of the platform.

    Returns:
        The channels without a background, and alpha = 1 - transmittance.

    Raises:
        ValueError: on an unknown implementation.
    """
    check_implementation(implementation)
    if means2d.shape[0] == 0:
        return jnp.zeros((height, width, colors.shape[1]), colors.dtype), jnp.zeros(
            (height, width), colors.dtype
        )
    layout = TileLayout(width, height, tile_size)
    attributes = jnp.concatenate([means2d, conics, opacities[:, None], colors], axis=1).T
    if implementation == "xla":
        tiles = composite(attributes, isects, layout)
    else:
        tiles = cast(Array, composite_vjp(attributes, isects, layout))
    columns, rows = layout.grid
    image = tiles.reshape(rows, columns, colors.shape[1] + 1, tile_size, tile_size)
    image = jnp.transpose(image, (0, 3, 1, 4, 2)).reshape(rows * tile_size, columns * tile_size, -1)
    image = jax.lax.slice(image, (0, 0, 0), (height, width, image.shape[2]))
    return image[..., :-1], image[..., -1]


def check_implementation(implementation: str | None) -> None:
    """Raises a ValueError if there is no implementation of that name."""
    if implementation is not None and implementation not in get_args(Implementation):
        names = ", ".join(repr(name) for name in get_args(Implementation))
        raise ValueError(f"implementation must be one of {names} or None, got {implementation!r}.")
