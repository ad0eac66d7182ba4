"""Focal lengths and principal points that are a little wrong, made better while training."""

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
class IntrinsicsRefinement(Correction):
    """Corrects fx, fy, cx and cy: by factors exp(p0), exp(p1) and by shifts of p2 fx, p3 fy pixels.

    The Params, [1, 4] or [V, 4], are these four numbers. Shared ones hold for views held out as well;
    else those are drawn with the mean of their neighbours'.

    Attributes:
        rate: of Adam, at the start.
        rate_final: at the end, as a share of the one at the start; exponential in between.
        shared: one correction for all views, as for photos of one camera; else one for each view.
        start: the four numbers to begin with, such as an earlier run has learned.

    Raises:
        ValueError: on a rate that is not positive.
    """

    name: ClassVar[str] = "intrinsics"
    rate: float = 1e-4
    rate_final: float = 0.01
    shared: bool = True
    start: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.rate_final > 0):
            raise ValueError(
                f"IntrinsicsRefinement rates must be positive, got {self.rate} and {self.rate_final}."
            )

    def init(self, cameras: Camera) -> Float[Array, "views 4"]:
        """``start`` for each."""
        return jnp.tile(jnp.asarray(self.start, jnp.float32), (1 if self.shared else len(cameras.viewmat), 1))

    def optimizer(self, steps: int, extent: float) -> optax.GradientTransformation:
        """Adam."""
        del extent
        return optax.adam(optax.exponential_decay(self.rate, steps, self.rate_final), eps=1e-15)

    def camera(self, params: Float[Array, "views 4"], view: ViewIndex, camera: Camera) -> Camera:
        """The camera with corrected intrinsics."""
        if view is None and not self.shared:
            return camera
        values = params[0 if self.shared else view]
        focal = jnp.stack([camera.K[0, 0], camera.K[1, 1]])
        centre = camera.K[:2, 2] + values[2:] * focal
        focal = focal * jnp.exp(values[:2])
        K = camera.K.at[0, 0].set(focal[0]).at[1, 1].set(focal[1]).at[:2, 2].set(centre)
        return dataclasses.replace(camera, K=K)

    def interpolate(
        self, params: Float[Array | np.ndarray, "views 4"], neighbors: Neighbors
    ) -> Float[np.ndarray, "1 4"]:
        """The shared correction, or the mean of the neighbours'."""
        return np.asarray(params) if self.shared else neighbors.average(params)
