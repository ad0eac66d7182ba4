"""The trainable model: Gaussians and the rasterizer that draws them."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from splax.cameras import Camera
from splax.gaussians import Gaussians
from splax.rasterizer import RenderOutput, TileRasterizer, has_kernels_for


class SplatModel(nnx.Module):
    """Calls as ``model(camera)``. Subclass it to change how colours are computed, or to add Params.

    Attributes:
        gaussians: the scene.
        rasterizer: how it is drawn.

    Raises:
        ValueError: if a Param of the Gaussians has not one row per Gaussian.
    """

    def __init__(self, gaussians: Gaussians, rasterizer: TileRasterizer | None = None) -> None:
        _check_rows(gaussians)
        self.gaussians = gaussians
        self.rasterizer = TileRasterizer() if rasterizer is None else rasterizer

    def colors(self, gaussians: Gaussians, camera: Camera) -> Float[Array, "n c"]:
        """Channels of each Gaussian as ``camera`` sees it, [N, C]. Override this.

        Args:
            gaussians: ``self.gaussians`` without rows that cannot be drawn: read Params from here.
            camera: the view.
        """
        return gaussians.colors(camera)

    def color(self, output: RenderOutput) -> Float[Array, "h w 3"]:
        """The colour of what was rendered: RGB, weighted with alpha as channels are, so black where nothing is.

        By default the first three channels. Override it to decode features; training and scores then add
        ``(1 - alpha) * background`` to what it returns, and apply corrections.

        Args:
            output: of this model, over no background.
        """
        return output.image[..., :3]

    def __call__(
        self,
        camera: Camera,
        *,
        background: Float[Array, " c"] | None = None,
        means2d_offset: Float[Array, "n 2"] | None = None,
        view: Int[Array, ""] | int | None = None,
    ) -> RenderOutput:
        """Renders ``camera``; see :meth:`TileRasterizer.__call__`.

        Args:
            camera: from where.
            background: values behind everything, one for each channel; zeros if None.
            means2d_offset: added to the projected centres, pixels.
            view: number of the training view, for subclasses that learn something of each view; None for a view
                that training does not see.
        """
        del view
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


def _check_rows(gaussians: Gaussians) -> None:
    """Names a Param that has not one row per Gaussian.

    Raises:
        ValueError: if there is one.
    """
    num = gaussians.capacity
    for path, param in nnx.to_flat_state(nnx.state(gaussians, nnx.Param)):
        shape = jnp.shape(param[...])
        if shape[:1] != (num,):
            raise ValueError(
                f"Param {'.'.join(map(str, path))} of {type(gaussians).__name__} has shape {shape}, expected "
                f"({num}, ...): one row for each of the {num} Gaussians, dead ones too. A Param without rows, "
                "such as a network's, belongs into the SplatModel."
            )
