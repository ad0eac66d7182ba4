"""The projection of 3DGS as an object, and what every other projection must be able to do."""

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
    """How Gaussians become 2D Gaussians in pixels; hashable, since compiled programs depend on it.

    Attributes:
        params: names of the Params that it reads.
    """

    params: ClassVar[tuple[str, ...]]

    def __call__(
        self, gaussians: Parameters, camera: Any, *, near_plane: float, far_plane: float
    ) -> ProjectedGaussians:
        """Projects Gaussians into one camera, in plain JAX.

        Args:
            gaussians: stored arrays; rows that are not alive must get radii of 0, and no gradient.
            camera: a :class:`splax.Camera`.
            near_plane: least camera-space z that is drawn, world units.
            far_plane: largest one.
        """
        ...


@dataclasses.dataclass(frozen=True)
class EWA:
    """Elliptical weighted average (Zwicker et al. 2001), as in 3DGS: the camera is linearised at each centre.

    Attributes:
        eps2d: low-pass filter added to the projected covariance, px^2.
        radius_clip: Gaussians whose radius is not above this are culled, px.
        antialiased: scales opacity by what the low-pass filter adds (Yu et al. 2024, Mip-Splatting).

    Raises:
        ValueError: on a filter or radius below 0; when called, on a camera whose lens is no pinhole.

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
        """2D Gaussians in pixels of the camera; see :class:`Projection`."""
        if not isinstance(camera.lens, Pinhole):
            raise ValueError(
                f"EWA projects through a Pinhole, got a camera with {type(camera.lens).__name__}; give "
                "TileRasterizer a projection that asks the lens, or undistort the photos."
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
