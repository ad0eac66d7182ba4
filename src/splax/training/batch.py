"""What a loss is given of a step, apart from the model and its rendering."""

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
    """The view that a step shows, as :meth:`splax.Trainer.loss` is given it; a pytree.

    Attributes:
        image: the photo in [0, 1] on the background of the step, 0 where it is masked, [H, W, 3].
        mask: true where pixels count, [H, W]; None if all do.
        depth: camera-space z in world units, 0 where unknown, [H, W]; None if the photos of this size have none,
            or the view is one that training does not see.
        camera: what the view was rendered with: corrected, and of the image's size.
        view: number of the training view, int32 scalar; None for a view that training does not see.
        step: steps made before, int32 scalar.
    """

    image: Float[Array, "h w 3"]
    mask: Bool[Array, "h w"] | None
    depth: Float[Array, "h w"] | None
    camera: Camera
    view: Int[Array, ""] | None
    step: Int[Array, ""]

    # All by which an array could be computed with. jax asks for the first where an operand is none of its own.
    __jax_array__ = __array__ = __getitem__ = _refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __pow__ = __neg__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rpow__ = __abs__ = _refuse

    def __getattr__(self, name: str) -> NoReturn:
        _refuse()


Loss = Callable[[SplatModel, RenderOutput, Batch], Float[Array, ""]]
