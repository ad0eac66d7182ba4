"""Per-image exposure: cameras that choose brightness and white balance anew for each photo."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from splax.cameras import Camera
from splax.corrections.base import Correction, ViewIndex
from splax.corrections.neighboring_views import Neighbors


@dataclasses.dataclass(frozen=True)
class Exposure(Correction):
    """An affine map of colour for each photo, 3x4 (Kerbl et al., exposure compensation of October 2024).

    A colour c of the rendering becomes A c + b, with [A | b] the Params, [V, 3, 4]. One map applied to all photos
    and its inverse to the scene would change nothing, so the mean map is kept at the identity, which 3DGS
    does not: the scene then has the mean look of the photos, and so have views without a map of their own.

    Attributes:
        rate: of Adam, at the start (3DGS).
        rate_final: at the end; exponential in between.

    Raises:
        ValueError: on a rate that is not positive.
    """

    name: ClassVar[str] = "exposure"
    rate: float = 0.01
    rate_final: float = 0.001

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.rate_final > 0):
            raise ValueError(f"Exposure rates must be positive, got {self.rate} and {self.rate_final}.")

    def init(self, cameras: Camera) -> Float[Array, "views 3 4"]:
        """The identity for each view."""
        return jnp.tile(jnp.eye(3, 4), (len(cameras.viewmat), 1, 1))

    def optimizer(self, steps: int, extent: float) -> optax.GradientTransformation:
        """Adam."""
        del extent
        decay = self.rate_final / self.rate
        return optax.adam(optax.exponential_decay(self.rate, steps, decay))

    def image(
        self, params: Float[Array, "views 3 4"], view: ViewIndex, image: Float[Array, "h w 3"]
    ) -> Float[Array, "h w 3"]:
        """The rendering with a photo's exposure."""
        return image if view is None else apply_affine(params[view], image)

    def interpolate(
        self, params: Float[Array | np.ndarray, "views 3 4"], neighbors: Neighbors
    ) -> Float[np.ndarray, "1 3 4"]:
        """The mean of the neighbours' maps."""
        return neighbors.average(params)

    def project(self, params: Float[Array, "views 3 4"], cameras: Camera) -> Float[Array, "views 3 4"]:
        """With the identity as mean."""
        del cameras
        return params - params.mean(axis=0) + jnp.eye(3, 4)


def apply_affine(maps: Float[Array, "*#hw 3 4"], colors: Float[Array, "*hw 3"]) -> Float[Array, "*hw 3"]:
    """A c + b of colours c, with maps [A | b]."""
    # Sums of products, not a matrix product, whose precision may be low on a GPU.
    return (maps[..., :3] * colors[..., None, :]).sum(axis=-1) + maps[..., 3]
