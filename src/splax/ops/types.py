"""Inputs and outputs of one rendering as plain arrays and numbers, for the code below the public classes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Parameters(NamedTuple):
    """Gaussians as they are stored; see :class:`splax.Gaussians`.

    Attributes:
        means: centres in the world, [N, 3].
        quats: rotations as quaternions wxyz, unnormalised, [N, 4].
        log_scales: logarithms of the standard deviations in world units, [N, 3].
        logit_opacities: logits of the opacities, [N].
        sh0: colour coefficients of degree 0, [N, 1, 3].
        shN: colour coefficients of the higher degrees, [N, K, 3].
        alive: mask of the rows that exist, [N].
        active_sh_degree: highest degree that counts in the colour, int32.
    """

    means: Float[Array, "n 3"]
    quats: Float[Array, "n 4"]
    log_scales: Float[Array, "n 3"]
    logit_opacities: Float[Array, " n"]
    sh0: Float[Array, "n 1 3"]
    shN: Float[Array, "n k 3"]
    alive: Bool[Array, " n"]
    active_sh_degree: Int[Array, ""]


class KernelSettings(NamedTuple):
    """Settings that kernels read, named as in :class:`splax.TileRasterizer` and :class:`splax.EWA`."""

    eps2d: float
    near_plane: float
    far_plane: float
    radius_clip: float
    antialiased: bool
    render_depth: bool
    absgrad: bool
    deterministic: bool


class CompositingInputs(NamedTuple):
    """Numbers of projected Gaussians that pixels depend on, or their gradients.

    Attributes:
        means2d: centres in pixels, [N, 2].
        conics: inverse 2D covariances (a, b, c) of [[a, b], [b, c]], [N, 3].
        opacities: opacities in [0, 1], [N].
        channels: colours, and depth last if it is rendered, [N, C].
    """

    means2d: Float[Array, "n 2"]
    conics: Float[Array, "n 3"]
    opacities: Float[Array, " n"]
    channels: Float[Array, "n c"]


class RenderBuffers(NamedTuple):
    """Arrays of one rendered view, before the background is added and depth becomes a field of its own.

    Attributes:
        channels: composited channels, depth last if it is rendered, [H, W, C].
        alpha: 1 - transmittance, [H, W].
        means2d: centres in pixels, [N, 2].
        radii: half width and half height in pixels, [N, 2]; 0 where culled.
        num_isects: number of pairs, int32; if it is above the capacity, the image is incomplete.
    """

    channels: Float[Array, "h w c"]
    alpha: Float[Array, "h w"]
    means2d: Float[Array, "n 2"]
    radii: Float[Array, "n 2"]
    num_isects: Int[Array, ""]

    @classmethod
    def shapes(cls, num: int, height: int, width: int, *, render_depth: bool) -> "RenderBuffers":
        """Returns the shapes and types of a view of ``num`` Gaussians in RGB, as ``jax.ShapeDtypeStruct``."""
        channels = 3 + render_depth

        def floats(*shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, jnp.float32)

        count: Any = jax.ShapeDtypeStruct((), jnp.int32)
        return cls(
            floats(height, width, channels), floats(height, width), floats(num, 2), floats(num, 2), count
        )
