"""The view that a loss compares a rendering with, and the type of a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from jaxtyping import Array, Bool, Float, Int

from splax.cameras import Camera
from splax.model import SplatModel
from splax.rasterizer import RenderOutput


class NotAnArrayError(TypeError, AttributeError):
    """A :class:`Batch` was used as the array that ``Trainer.loss`` was given in older versions."""


def _refuse(*_: Any) -> NoReturn:
    raise NotAnArrayError(
        "the third argument of Trainer.loss is a splax.Batch, no longer the photo as an array. Use "
        "batch.image; splax.Batch says what else it holds."
    )


class Batch(NamedTuple):
    """The view that one step renders: the third argument of :meth:`splax.Trainer.loss`. It is a pytree.

    Attributes:
        image: the photo in [0, 1] on the background of the step, [H, W, 3]; 0 where the photo is masked.
        mask: the pixels that count, [H, W] bool; None if all pixels count.
        depth: camera-space z in world units, [H, W]; 0 where it is unknown. None if no photo of this size has
            depth, or if training does not see the view.
        camera: the camera that the view was rendered with; it is corrected, and has the image's size.
        view: number of the training view, int32 scalar; None for a view that training does not see.
        step: number of steps made before this one, int32 scalar.

    Example:
        A loss that compares colours where pixels count. Training calls it as a method of a Trainer's subclass.

        >>> import jax.numpy as jnp
        >>> import splax
        >>> def absolute_error(image, batch):
        ...     error = abs(image - batch.image)
        ...     return error.mean() if batch.mask is None else error.mean(where=batch.mask[..., None])
        >>> camera = splax.Camera.look_at((0, -2, 0), (0, 0, 0), fov_x=1.0, width=4, height=3)
        >>> photo, mask = jnp.ones((3, 4, 3)), jnp.ones((3, 4), bool)
        >>> batch = splax.Batch(photo, mask, depth=None, camera=camera, view=jnp.asarray(0), step=jnp.asarray(0))
        >>> float(absolute_error(jnp.full((3, 4, 3), 0.75), batch))
        0.25
    """

    image: Float[Array, "h w 3"]
    mask: Bool[Array, "h w"] | None
    depth: Float[Array, "h w"] | None
    camera: Camera
    view: Int[Array, ""] | None
    step: Int[Array, ""]

    # Every way to compute with an array is refused. jax asks for the first one where an operand is no jax array.
    __jax_array__ = __array__ = __getitem__ = _refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __pow__ = __neg__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rpow__ = __abs__ = _refuse

    def __getattr__(self, name: str) -> NoReturn:
        _refuse()


Loss = Callable[[SplatModel, RenderOutput, Batch], Float[Array, ""]]
