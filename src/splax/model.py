"""SplatModel, which is trained: Gaussians, the shading that colours them, and the rasterizer that draws them."""

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
    """A scene as Gaussians, a shading and a rasterizer; ``model(camera)`` renders it.

    To compute colours in another way, pass a shading of your own, or override :meth:`colors` in a subclass.

    Attributes:
        gaussians: the Gaussians of the scene.
        rasterizer: the rasterizer that draws them.
        shading: object that makes the channels of each Gaussian: :class:`splax.SphericalHarmonics`, or one that is
            called as ``shading(gaussians, camera, view=view)`` and returns [N, C]. If it is an ``nnx.Module``, its
            Params are trained and saved in checkpoints.

    Raises:
        ValueError: if a Param of the Gaussians does not have one row per Gaussian.

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
        """Returns the channels of each Gaussian as ``camera`` sees it, [N, C]; a subclass may override this.

        Args:
            gaussians: ``self.gaussians.renderable_only()``, N rows; an override must read Params from this copy.
            camera: the camera that looks at them.
        """
        return self.shading(gaussians, camera)

    def drawn_shading(self) -> Shading:
        """Returns the shading that draws the model: ``self.shading``, or the ``colors`` of a subclass with one."""
        return self.shading

    def color(self, output: RenderOutput) -> Float[Array, "h w 3"]:
        """Returns the RGB image of a rendering, [H, W, 3], weighted with alpha: black where nothing is drawn.

        By default it consists of the first three channels. Override this method to decode features; training and
        evaluation then add ``(1 - alpha) * background`` to the returned image, and apply corrections.

        Args:
            output: output of this model, rendered without a background.
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
        """Renders one camera; see :meth:`TileRasterizer.__call__`.

        Args:
            camera: the camera to draw the scene for.
            background: values behind the Gaussians, one for each channel, [C]; zeros if None.
            means2d_offset: offset of the projected centres in pixels, [N, 2]; None is zero.
            view: number of the training view, for shadings and subclasses that learn something about each view;
                None for a view that training does not see.
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
    """The method ``colors`` of a subclass of SplatModel, as a shading."""

    model: SplatModel

    def __call__(
        self, gaussians: Gaussians, camera: Camera, *, view: Int[Array, ""] | int | None = None
    ) -> Float[Array, "n c"]:
        """Returns ``model.colors(gaussians, camera)``."""
        del view
        return self.model.colors(gaussians, camera)


def _colors_of_model(model: SplatModel) -> Shading:
    return ColorsOfModel(model)


def _check_rows(gaussians: Gaussians) -> None:
    """Checks that every Param has one row per Gaussian.

    Raises:
        ValueError: if a Param does not; the message names it.
    """
    num = gaussians.capacity
    for path, param in nnx.to_flat_state(nnx.state(gaussians, nnx.Param)):
        shape = jnp.shape(param[...])
        if shape[:1] != (num,):
            raise ValueError(
                f"Param {'.'.join(map(str, path))} of {type(gaussians).__name__} has shape {shape}, expected "
                f"({num}, ...): one row for each of the {num} Gaussians, including dead ones. Put a Param "
                "without rows, such as a network's, into the SplatModel or its shading."
            )
