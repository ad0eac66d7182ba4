"""The trainable model: Gaussians, what colours them, and the rasterizer that draws them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
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

    Raises:
        ValueError: if a Param of the Gaussians has not one row per Gaussian.

    Example:
        >>> import numpy as np
        >>> import splax
        >>> from flax import nnx
        >>> model = splax.SplatModel(splax.Gaussians.from_points(np.zeros((1, 3)), opacity=0.5))
        >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.8, width=33, height=25)
        >>> print(f"{model(camera).alpha[12, 16]:.2f}")
        0.50
        >>> gradients = nnx.grad(lambda model: model(camera).alpha[12, 16])(model)
        >>> print(f"{gradients.gaussians.logit_opacities[...][0]:.2f}")
        0.25
    """

    def __init__(
        self,
        gaussians: Gaussians,
        rasterizer: TileRasterizer | None = None,
        shading: Shading | None = None,
    ) -> None:
        _check_rows(gaussians)
        self.gaussians = gaussians
        self.rasterizer = TileRasterizer() if rasterizer is None else rasterizer
        self.shading = gaussians.shading if shading is None else shading

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "colors" in vars(cls):
            cls.drawn_shading = _colors_of_model  # pyright: ignore[reportAttributeAccessIssue]

    def colors(self, gaussians: Gaussians, camera: Camera) -> Float[Array, "n c"]:
        """Channels of each Gaussian as ``camera`` sees it, [N, C]; a subclass may override this.

        Args:
            gaussians: ``self.gaussians`` without rows that cannot be drawn: read Params from here.
            camera: the view.
        """
        return self.shading(gaussians, camera)

    def drawn_shading(self) -> Shading:
        """What the rasterizer is given: the shading, or the method ``colors`` of a subclass that has one."""
        return self.shading

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
            view: number of the training view, for shadings and subclasses that learn something of each view; None
                for a view that training does not see.
        """
        return self.rasterizer(
            self.gaussians,
            camera,
            shading=self.drawn_shading(),
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
