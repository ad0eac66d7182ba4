"""Refinement, in training, of focal lengths and principal points that are a little wrong."""

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
    """Corrects fx and fy by the factors exp(p0) and exp(p1), and shifts cx and cy by p2 fx and p3 fy pixels.

    The Params, [1, 4] or [V, 4], are these four numbers. A shared correction holds for held-out views as well;
    else a held-out view is drawn with the mean correction of its neighbours.

    Attributes:
        rate: learning rate of Adam at the start.
        rate_final: learning rate at the end, as a share of the rate at the start; the decay is exponential.
        shared: whether to learn one correction for all views, as for photos of one camera; else one for each view.
        start: four numbers p0 to p3 to begin with, such as those that an earlier run has learned.

    Raises:
        ValueError: on a rate that is not positive.

    Example:
        >>> import math
        >>> import jax.numpy as jnp
        >>> import splax
        >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=math.pi / 2, width=200, height=100)
        >>> correction = splax.IntrinsicsRefinement(start=(math.log(1.1), 0.0, 0.02, 0.0))
        >>> params = correction.init(splax.Camera.stack([camera]))
        >>> corrected = correction.camera(params, jnp.array(0), camera)
        >>> camera.K[0].round(2).tolist(), corrected.K[0].round(2).tolist()
        ([100.0, 0.0, 100.0], [110.0, 0.0, 102.0])
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
        """``start`` in each row: one row, or one for each view."""
        return jnp.tile(jnp.asarray(self.start, jnp.float32), (1 if self.shared else len(cameras.viewmat), 1))

    def optimizer(self, steps: int, extent: float) -> optax.GradientTransformation:
        """Adam with exponential decay."""
        del extent
        return optax.adam(optax.exponential_decay(self.rate, steps, self.rate_final), eps=1e-15)

    def camera(self, params: Float[Array, "views 4"], view: ViewIndex, camera: Camera) -> Camera:
        """The camera with corrected intrinsics; unchanged if ``view`` is None and no correction is shared."""
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
        """The shared correction, or the weighted mean of the neighbours' corrections."""
        return np.asarray(params) if self.shared else neighbors.average(params)
