"""Exposure of each photo: many cameras choose brightness and white balance for every photo separately."""

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

    A colour c of the rendering becomes A c + b, with [A | b] the Params, [V, 3, 4]. If one map is applied to all
    photos and its inverse to the scene, nothing changes. The mean map is therefore kept at the identity, unlike in
    3DGS: the scene then has the mean look of the photos, and so do views without a map of their own.

    Attributes:
        rate: learning rate of Adam at the start (3DGS).
        rate_final: learning rate at the end; the decay is exponential.

    Raises:
        ValueError: on a rate that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> import splax
        >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.8, width=32, height=24)
        >>> exposure = splax.Exposure()
        >>> params = exposure.init(splax.Camera.stack([camera, camera]))  # two views
        >>> params = params.at[1, :, :3].multiply(0.5)  # the second photo is half as bright
        >>> image = exposure.image(params, jnp.array(1), jnp.ones((24, 32, 3)))
        >>> float(image.mean())
        0.5
        >>> config = splax.TrainConfig(corrections=(exposure,))  # a Trainer with it learns the maps
    """

    name: ClassVar[str] = "exposure"
    rate: float = 0.01
    rate_final: float = 0.001

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.rate_final > 0):
            raise ValueError(f"Exposure rates must be positive, got {self.rate} and {self.rate_final}.")

    def init(self, cameras: Camera) -> Float[Array, "views 3 4"]:
        """The identity map for each view, [V, 3, 4]."""
        return jnp.tile(jnp.eye(3, 4), (len(cameras.viewmat), 1, 1))

    def optimizer(self, steps: int, extent: float) -> optax.GradientTransformation:
        """Adam with exponential decay."""
        del extent
        decay = self.rate_final / self.rate
        return optax.adam(optax.exponential_decay(self.rate, steps, decay))

    def image(
        self, params: Float[Array, "views 3 4"], view: ViewIndex, image: Float[Array, "h w 3"]
    ) -> Float[Array, "h w 3"]:
        """The rendering with the exposure of the view's photo; unchanged if ``view`` is None."""
        return image if view is None else apply_affine(params[view], image)

    def interpolate(
        self, params: Float[Array | np.ndarray, "views 3 4"], neighbors: Neighbors
    ) -> Float[np.ndarray, "1 3 4"]:
        """The weighted mean of the neighbours' maps."""
        return neighbors.average(params)

    def project(self, params: Float[Array, "views 3 4"], cameras: Camera) -> Float[Array, "views 3 4"]:
        """The maps shifted so that their mean over the views is the identity."""
        del cameras
        return params - params.mean(axis=0) + jnp.eye(3, 4)


def apply_affine(maps: Float[Array, "*#hw 3 4"], colors: Float[Array, "*hw 3"]) -> Float[Array, "*hw 3"]:
    """Colours A c + b for colours c and maps [A | b]."""
    # Sums of products, not a matrix product, whose precision may be low on a GPU.
    return (maps[..., :3] * colors[..., None, :]).sum(axis=-1) + maps[..., 3]
