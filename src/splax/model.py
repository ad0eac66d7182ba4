"""The trainable model: Gaussians and the rasterizer that draws them."""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from splax.cameras import Camera
from splax.gaussians import Gaussians
from splax.rasterizer import RenderOutput, TileRasterizer, has_kernels_for


class SplatModel(nnx.Module):
    """Calls as ``model(camera)``. Subclass it to change how colours are computed, or to add Params.

    Attributes:
        gaussians: the scene.
        rasterizer: how it is drawn.
    """

    def __init__(self, gaussians: Gaussians, rasterizer: TileRasterizer | None = None) -> None:
        self.gaussians = gaussians
        self.rasterizer = TileRasterizer() if rasterizer is None else rasterizer

    def colors(self, gaussians: Gaussians, camera: Camera) -> Float[Array, "n c"]:
        """Channels of each Gaussian as ``camera`` sees it, [N, C]. Override this.

        Args:
            gaussians: ``self.gaussians`` without rows that cannot be drawn: read Params from here.
            camera: the view.
        """
        return gaussians.colors(camera)

    def __call__(
        self,
        camera: Camera,
        *,
        background: Float[Array, " c"] | None = None,
        means2d_offset: Float[Array, "n 2"] | None = None,
    ) -> RenderOutput:
        """Renders ``camera``; see :meth:`TileRasterizer.__call__`."""
        if self._has_kernels_for(camera):
            gaussians, colors = self.gaussians, None
        else:
            gaussians = self.gaussians.drawable()
            colors = self.colors(gaussians, camera)
        return self.rasterizer(
            gaussians, camera, colors=colors, background=background, means2d_offset=means2d_offset
        )

    def _has_kernels_for(self, camera: Camera) -> bool:
        """Whether the rasterizer is faster if it computes the colours by itself, with the same result."""
        return type(self).colors is SplatModel.colors and has_kernels_for(
            self.rasterizer, self.gaussians, camera
        )
