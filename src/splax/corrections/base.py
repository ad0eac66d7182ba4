"""The base class of all corrections, and the corrections of a run together.

A correction has Params of its own, apart from the model: often a row for each training view. It may change the
camera that a view is rendered with, or the rendering before the loss compares it with the photo. The splat that is
saved holds nothing of a correction.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from splax.cameras import Camera
from splax.corrections.neighboring_views import Neighbors

ViewIndex = Int[Array, ""] | None
"""Number of a training view; None for a view that training does not see."""


@dataclasses.dataclass(frozen=True)
class Correction:
    """Base of all corrections; used itself, it changes nothing.

    A correction is a frozen dataclass of settings, like a strategy; its Params are a pytree that its methods are
    given. A run learns the corrections in ``TrainConfig(corrections=...)``. The methods of every step,
    :meth:`camera`, :meth:`image`, :meth:`penalty`, :meth:`track_penalty` and :meth:`project`, run inside jit.
    ``view`` is the number of a training view, scalar int, or None for a view that training does not see; Params
    that belong to one view cannot be applied there.

    Attributes:
        name: key of the correction's Params in the state of the run.

    Example:
        A correction of your own that learns how bright each photo is:

        >>> import dataclasses
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import splax
        >>> @dataclasses.dataclass(frozen=True)
        ... class Brightness(splax.Correction):
        ...     name = "brightness"
        ...
        ...     def init(self, cameras):
        ...         return jnp.ones(len(cameras.viewmat))  # one factor for each training view
        ...
        ...     def optimizer(self, steps, extent):
        ...         return optax.adam(1e-3)
        ...
        ...     def image(self, params, view, image):
        ...         return image if view is None else params[view] * image
        >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.8, width=32, height=24)
        >>> correction = Brightness()
        >>> params = correction.init(splax.Camera.stack([camera, camera])).at[1].set(0.5)
        >>> float(correction.image(params, jnp.array(1), jnp.ones((24, 32, 3))).mean())
        0.5
    """

    name: ClassVar[str] = "none"

    @property
    def uses_tracks(self) -> bool:
        """True if :meth:`track_penalty` uses points that photos show; the run then loads points and pixels."""
        return False

    def without_tracks(self) -> Correction:
        """This correction as it is used where the dataset knows no points of its photos; by default unchanged."""
        return self

    def init(self, cameras: Camera) -> PyTree[Array]:
        """The Params at the start of a run; they change nothing.

        Args:
            cameras: cameras of all training views, a batch [V].
        """
        del cameras
        return {}

    def optimizer(self, steps: int, extent: float) -> optax.GradientTransformation:
        """The optimizer of the Params; by default one that leaves them as they are, of which a run warns.

        Args:
            steps: number of steps of the run.
            extent: extent of the scene, world units.
        """
        del steps, extent
        return optax.set_to_zero()  # not optax.identity(), which would add the gradients to the Params

    def optimizer_of(self, cameras: Camera, steps: int, extent: float) -> optax.GradientTransformation:
        """The optimizer of the Params where it depends on the cameras; by default that of :meth:`optimizer`.

        Args:
            cameras: cameras of all training views, a batch [V].
            steps: number of steps of the run.
            extent: extent of the scene, world units.
        """
        del cameras
        return self.optimizer(steps, extent)

    def camera(self, params: PyTree[Array], view: ViewIndex, camera: Camera) -> Camera:
        """The corrected camera, with which a view is rendered.

        Args:
            params: Params of this correction.
            view: number of a training view, scalar int; None for another view.
            camera: camera of the view.
        """
        del params, view
        return camera

    def image(
        self, params: PyTree[Array], view: ViewIndex, image: Float[Array, "h w 3"]
    ) -> Float[Array, "h w 3"]:
        """The rendering with the colours that the photo of the view would have.

        Args:
            params: Params of this correction.
            view: number of a training view, scalar int; None for another view.
            image: rendering of the view, RGB, [H, W, 3].
        """
        del params, view
        return image

    def interpolate(
        self, params: PyTree[Array | np.ndarray], neighbors: Neighbors
    ) -> PyTree[np.ndarray] | None:
        """Params for a view that training did not see, from those of training views. Runs outside jit, in numpy.

        Args:
            params: Params of all training views.
            neighbors: training views that are next to the view, and their weights.

        Returns:
            Params of one row, linear in the weights: :meth:`camera` and :meth:`image` are then called with them
            for view 0. None if they are to be called with ``view`` None instead.
        """
        del params, neighbors
        return None

    def penalty(self, params: PyTree[Array]) -> Float[Array, ""]:
        """A term that is added to the loss of every step.

        Args:
            params: Params of this correction.
        """
        del params
        return jnp.zeros(())

    def track_penalty(
        self, camera: Camera, points: Float[Array, "points 3"], pixels: Float[Array, "points 2"]
    ) -> Float[Array, ""]:
        """A term that is added to the loss of a view, if :attr:`uses_tracks` is true.

        Args:
            camera: camera of the view, with all corrections applied.
            points: surface points that its photo shows, world coordinates, [P, 3]; NaN in rows without a point.
            pixels: pixels at which the photo shows the points, [P, 2]; NaN where they are not known.
        """
        del camera, points, pixels
        return jnp.zeros(())

    def project(self, params: PyTree[Array], cameras: Camera) -> PyTree[Array]:
        """The nearest Params that are allowed; applied after every step.

        Args:
            params: Params after a step of the optimizer.
            cameras: cameras of all training views without corrections, a batch [V]; not traced, so that numpy can
                compute with them.
        """
        del cameras
        return params


class CorrectionsState(NamedTuple):
    """State of all corrections of a run, by their names.

    Attributes:
        params: Params that each correction learns.
        opt_state: state of each correction's optimizer.
    """

    params: dict[str, PyTree[Array]]
    opt_state: dict[str, optax.OptState]


class Corrections:
    """The corrections of a run, applied one after the other.

    Args:
        corrections: corrections in the order in which they are applied.
        cameras: cameras of all training views, a batch [V].
        steps: number of steps of the run.
        extent: extent of the scene, world units.

    Attributes:
        parts: corrections by name, in their order.

    Raises:
        ValueError: if two corrections have the same name, because their Params would be the same.
    """

    def __init__(
        self, corrections: Sequence[Correction], cameras: Camera, *, steps: int, extent: float
    ) -> None:
        self.parts = {correction.name: correction for correction in corrections}
        if len(self.parts) != len(corrections):
            raise ValueError(
                f"corrections must have different names, got {[c.name for c in corrections]}; leave one out."
            )
        self._optimizers = {
            name: part.optimizer_of(cameras, steps, extent) for name, part in self.parts.items()
        }
        self._cameras = cameras

    def init(self) -> CorrectionsState:
        """The state at the start of a run."""
        params = {name: part.init(self._cameras) for name, part in self.parts.items()}
        for name, part in self.parts.items():
            if jax.tree.leaves(params[name]) and _has_no_optimizer(part):
                warnings.warn(
                    f"correction {name!r} has Params and no optimizer, so training leaves them as they are. "
                    f"Define {type(part).__name__}.optimizer(self, steps, extent), which returns for example "
                    "optax.adam(1e-3), or optax.set_to_zero() if that is what you want.",
                    stacklevel=2,
                )
        return CorrectionsState(
            params, {name: optimizer.init(params[name]) for name, optimizer in self._optimizers.items()}
        )

    def camera(self, params: dict[str, Any], view: ViewIndex, camera: Camera) -> Camera:
        """The camera with all corrections, with which a view is rendered; see :meth:`Correction.camera`."""
        for name, part in self.parts.items():
            camera = part.camera(params[name], view, camera)
        return camera

    def image(
        self, params: dict[str, Any], view: ViewIndex, image: Float[Array, "h w 3"]
    ) -> Float[Array, "h w 3"]:
        """The rendering with the colours that the photo of the view would have; see :meth:`Correction.image`."""
        for name, part in self.parts.items():
            image = part.image(params[name], view, image)
        return image

    def penalty(self, params: dict[str, Any]) -> Float[Array, ""]:
        """The sum of all terms that the corrections add to the loss of every step."""
        return sum((part.penalty(params[name]) for name, part in self.parts.items()), jnp.zeros(()))

    def track_penalty(
        self, camera: Camera, points: Float[Array, "points 3"], pixels: Float[Array, "points 2"]
    ) -> Float[Array, ""]:
        """The sum of all terms for the points that a photo shows; see :meth:`Correction.track_penalty`."""
        using = [part for part in self.parts.values() if part.uses_tracks]
        return sum((part.track_penalty(camera, points, pixels) for part in using), jnp.zeros(()))

    def update(
        self, state: CorrectionsState, grads: dict[str, Any], step_scale: Float[Array, ""]
    ) -> CorrectionsState:
        """The state after one training step.

        Args:
            state: state before the step.
            grads: gradients of the loss by ``state.params``, by the names of the corrections.
            step_scale: factor of the updates, scalar.
        """
        params, opt_state = {}, {}
        for name, part in self.parts.items():
            old = state.params[name]
            updates, opt_state[name] = self._optimizers[name].update(grads[name], state.opt_state[name], old)
            updates = scaled(updates, step_scale)
            params[name] = part.project(optax.apply_updates(old, updates), self._cameras)
        return CorrectionsState(params, opt_state)


def _has_no_optimizer(correction: Correction) -> bool:
    """Whether the class of a correction overrides neither of the methods that return its optimizer."""
    kind = type(correction)
    return kind.optimizer is Correction.optimizer and kind.optimizer_of is Correction.optimizer_of


def scaled(updates: PyTree[Array], factor: Float[Array, ""]) -> PyTree[Array]:
    """All updates multiplied by a scalar; each keeps its dtype."""
    return jax.tree.map(lambda update: update * factor.astype(update.dtype), updates)
