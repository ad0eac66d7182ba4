"""EWA, the projection of 3DGS as an object, and the protocol that every projection follows."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from splax.lenses import Pinhole
from splax.ops.constants import EPS2D
from splax.ops.projection import ActivatedGaussians, ProjectedGaussians, project_gaussians
from splax.ops.types import Parameters


@runtime_checkable
class Projection(Protocol):
    """Callable that projects Gaussians into a camera; hashable, because compiled programs depend on it.

    Attributes:
        params: names of the Params that the projection reads, an attribute of the class.
    """

    params: ClassVar[tuple[str, ...]]

    def __call__(
        self, gaussians: Parameters, camera: Any, *, near_plane: float, far_plane: float
    ) -> ProjectedGaussians:
        """Projects Gaussians into one camera, in plain JAX.

        Args:
            gaussians: stored Gaussians, N rows; rows that are not alive must get radii of 0, and no gradient.
            camera: the :class:`splax.Camera` to project into.
            near_plane: smallest camera-space z that is drawn, world units.
            far_plane: largest camera-space z that is drawn, world units.
        """
        ...


@dataclasses.dataclass(frozen=True)
class EWA:
    """Elliptical weighted average (Zwicker et al. 2001), as in 3DGS: the camera is linearised at each centre.

    Attributes:
        eps2d: variance of the low-pass filter, which is added to the projected covariance, px^2.
        radius_clip: radius in pixels up to which Gaussians are culled.
        antialiased: whether opacities are lowered to make up for the low-pass filter (Yu et al. 2024,
            Mip-Splatting).

    Raises:
        ValueError: if ``eps2d`` or ``radius_clip`` is below 0, or if a camera's lens is not a pinhole.

    Example:
        >>> import numpy as np
        >>> import splax
        >>> gaussians = splax.Gaussians.from_points(np.zeros((1, 3)))
        >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.8, width=32, height=24)
        >>> rasterizer = splax.TileRasterizer(projection=splax.EWA(antialiased=True))
        >>> rasterizer.project(gaussians, camera).means2d.round().tolist()
        [[16.0, 12.0]]
    """

    params: ClassVar[tuple[str, ...]] = ("means", "quats", "log_scales", "logit_opacities")
    eps2d: float = EPS2D
    radius_clip: float = 0.0
    antialiased: bool = False

    def __post_init__(self) -> None:
        for name in ("eps2d", "radius_clip"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"EWA {name} must be at least 0, got {getattr(self, name)!r}.")

    def __call__(
        self, gaussians: Parameters, camera: Any, *, near_plane: float, far_plane: float
    ) -> ProjectedGaussians:
        """Returns the projected Gaussians, in pixels of the camera; see :class:`Projection`."""
        if not isinstance(camera.lens, Pinhole):
            raise ValueError(
                f"EWA projects through a Pinhole, got a camera with {type(camera.lens).__name__}; give "
                "TileRasterizer a projection that uses the lens, or undistort the photos."
            )
        activated = ActivatedGaussians(
            gaussians.means,
            gaussians.quats,
            jnp.exp(gaussians.log_scales),
            jax.nn.sigmoid(gaussians.logit_opacities),
            gaussians.alive,
        )
        settings = dataclasses.asdict(self)
        return project_gaussians(activated, camera, near_plane=near_plane, far_plane=far_plane, **settings)
