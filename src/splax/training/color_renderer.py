"""Calls a model for training and for scores, which need its colour, whatever else it renders."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from splax.cameras import Camera
from splax.model import SplatModel
from splax.rasterizer import RenderOutput

_RGB = 3


@dataclasses.dataclass(frozen=True)
class ColorRenderer:
    """Calls a model so that its image begins with the colour over a background, and its features follow.

    The features are the channels that are not the colour; they have no background. They are the channels from the
    fourth on, or all channels of the model if it overrides the method ``color``.

    Attributes:
        num_channels: number of channels that the model renders.
        has_own_color: whether the model overrides ``color``, which makes RGB of its channels.
        takes_view: whether the model takes the argument ``view``, the number of the training view.
    """

    num_channels: int
    has_own_color: bool
    takes_view: bool

    @classmethod
    def of(cls, model: SplatModel, camera: Camera) -> ColorRenderer:
        """The renderer of a model. A rendering is traced to find its shape; nothing is computed.

        Args:
            model: a model that is called as a :class:`SplatModel` is; it may lack ``color`` and ``view``.
            camera: the camera of any view.

        Raises:
            ValueError: if the model's channels hold no colour.
        """
        parameters = inspect.signature(type(model).__call__).parameters.values()
        takes_view = any(p.name == "view" or p.kind is p.VAR_KEYWORD for p in parameters)
        has_own_color = getattr(type(model), "color", SplatModel.color) is not SplatModel.color
        graphdef, state = nnx.split(model)

        def shapes(state: Any, camera: Camera) -> tuple[Array, Array]:
            model = nnx.merge(graphdef, state)
            model.rasterizer.isect_capacity = model.rasterizer.isect_capacity or 1
            renderer = cls(_RGB, has_own_color, takes_view)
            output = renderer._call(model, camera, None)
            return output.image, model.color(output) if has_own_color else output.image

        image, color = jax.eval_shape(shapes, state, camera)
        num_channels = image.shape[-1]
        if has_own_color and color.shape != (*image.shape[:2], _RGB):
            raise ValueError(
                f"{type(model).__name__}.color returned shape {color.shape} for an image of shape {image.shape}, "
                f"expected {(*image.shape[:2], _RGB)}: RGB for each pixel."
            )
        if not has_own_color and num_channels < _RGB:
            raise ValueError(
                f"the model renders {num_channels} channels, and photos are compared with the first three. Return "
                "3 or more from SplatModel.colors, or override SplatModel.color to make RGB of what is rendered."
            )
        return cls(num_channels, has_own_color, takes_view)

    def __call__(
        self,
        model: SplatModel,
        camera: Camera,
        background: Float[Array, " 3"],
        *,
        view: Int[Array, ""] | None = None,
        means2d_offset: Float[Array, "n 2"] | None = None,
    ) -> RenderOutput:
        """A rendering whose image holds the colour, then the features, [H, W, 3 + F].

        Args:
            model: the model that this renderer was made for, with any values of its Params.
            camera: the camera of the view.
            background: colour behind everything, RGB in [0, 1].
            view: number of the training view, int32 scalar; None for a view that training does not see.
            means2d_offset: offset of the projected centres in pixels, [N, 2]; see :meth:`SplatModel.__call__`.
        """
        if not self.has_own_color:
            if self.num_channels > _RGB:
                background = jnp.pad(background, (0, self.num_channels - _RGB))
            return self._call(model, camera, background, view, means2d_offset)
        output = self._call(model, camera, None, view, means2d_offset)
        color = model.color(output) + (1 - output.alpha)[..., None] * background
        return output._replace(image=jnp.concatenate([color, output.image], axis=-1))

    def _call(
        self,
        model: SplatModel,
        camera: Camera,
        background: Float[Array, " c"] | None,
        view: Int[Array, ""] | None = None,
        means2d_offset: Float[Array, "n 2"] | None = None,
    ) -> RenderOutput:
        options = {"view": view} if self.takes_view else {}
        return model(camera, background=background, means2d_offset=means2d_offset, **options)


def color_of(output: RenderOutput) -> Float[Array, "h w 3"]:
    """The colour that a :class:`ColorRenderer` rendered."""
    return output.image[..., :_RGB]


def with_color(
    output: RenderOutput, change: Callable[[Float[Array, "h w 3"]], Float[Array, "h w 3"]]
) -> RenderOutput:
    """The same rendering with its colour changed; its features stay as they are.

    Args:
        output: a rendering by a :class:`ColorRenderer`.
        change: function from the colour, [H, W, 3], to the new colour of the same shape.
    """
    features = output.image[..., _RGB:]
    return output._replace(image=jnp.concatenate([change(color_of(output)), features], axis=-1))
