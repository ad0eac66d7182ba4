"""What goes into one rendering and comes out of it as plain arrays and numbers, for code below the classes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Parameters(NamedTuple):
    """Gaussians as they are stored; see :class:`splax.Gaussians`.

    Attributes:
        means: centres in the world, [N, 3].
        quats: rotations wxyz, unnormalised, [N, 4].
        log_scales: [N, 3].
        logit_opacities: [N].
        sh0: degree 0 colour coefficients, [N, 1, 3].
        shN: the other coefficients, [N, K, 3].
        alive: rows that exist, [N].
        active_sh_degree: bands above it are left out.
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
    """Settings of :class:`splax.TileRasterizer` and :class:`splax.EWA`, by those names, as kernels read them."""

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
        radii: half extents in pixels, [N, 2]; 0 where culled.
        num_isects: number of pairs; above the capacity the image is incomplete.
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
