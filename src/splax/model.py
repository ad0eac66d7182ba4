"""The trainable model: Gaussians, what colours them, and the rasterizer that draws them."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Int

from splax.cameras import Camera
from splax.gaussians import Gaussians
from splax.ops.shading import Shading
from splax.rasterizer import RenderOutput, TileRasterizer


class SplatModel(nnx.Module):
    """Calls as ``model(camera)``. To change how colours are computed, give it a shading or subclass it.

    Attributes:
        gaussians: the scene.
        rasterizer: how it is drawn.
        shading: what makes the channels of each Gaussian: :class:`splax.SphericalHarmonics`, or an object called
            as ``shading(gaussians, camera, view=view)`` that returns [N, C]; the Params of an ``nnx.Module`` are
            trained and kept in checkpoints.
    """

    def __init__(
        self,
        gaussians: Gaussians,
        rasterizer: TileRasterizer | None = None,
        shading: Shading | None = None,
    ) -> None:
        self.gaussians = gaussians
        self.rasterizer = TileRasterizer() if rasterizer is None else rasterizer
        self.shading = gaussians.shading if shading is None else shading

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "colors" in vars(cls):
            cls.shading_of_all = _colors_of_model  # pyright: ignore[reportAttributeAccessIssue]

    def colors(self, gaussians: Gaussians, camera: Camera) -> Float[Array, "n c"]:
        """Channels of each Gaussian as ``camera`` sees it, [N, C]; a subclass may override this.

        Args:
            gaussians: ``self.gaussians`` without rows that cannot be drawn: read Params from here.
            camera: the view.
        """
        return self.shading(gaussians, camera)

    def shading_of_all(self) -> Shading:
        """What the rasterizer is given: the shading, or the method ``colors`` of a subclass that has one."""
        return self.shading

    def __call__(
        self,
        camera: Camera,
        *,
        background: Float[Array, " c"] | None = None,
        means2d_offset: Float[Array, "n 2"] | None = None,
        view: Int[Array, ""] | int | None = None,
    ) -> RenderOutput:
        """Renders ``camera``; see :meth:`TileRasterizer.__call__`."""
        return self.rasterizer(
            self.gaussians,
            camera,
            shading=self.shading_of_all(),
            view=view,
            background=background,
            means2d_offset=means2d_offset,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ColorsOfModel:
    """The channels that a subclass of SplatModel gives by its method ``colors``, as a shading."""

    model: SplatModel

    def __call__(
        self, gaussians: Gaussians, camera: Camera, *, view: Int[Array, ""] | int | None = None
    ) -> Float[Array, "n c"]:
        """``model.colors(gaussians, camera)``."""
        del view
        return self.model.colors(gaussians, camera)


def _colors_of_model(model: SplatModel) -> Shading:
    return ColorsOfModel(model)
