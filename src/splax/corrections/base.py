"""What a correction is, and all those of a run together.

A correction has Params of its own, apart from the model: often a row for each training view. It may change the
camera that a view is rendered with, or the rendering before it is compared with the photo. The splat that is
saved holds none of it.
"""

from __future__ import annotations

import dataclasses
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
    """Base of all corrections; by itself it changes nothing.

    A frozen dataclass of settings, like a strategy; its Params are a pytree that the methods are given. All
    methods run inside jit. ``view`` is the number of a training view, or None for a view that training does not
    see; what is learned for one view only cannot be applied there.

    Attributes:
        name: key of its Params in the state of the run.
    """

    name: ClassVar[str] = "none"

    @property
    def uses_tracks(self) -> bool:
        """Whether :meth:`track_penalty` looks at points that photos show and where; they are loaded then."""
        return False

    def without_tracks(self) -> Correction:
        """The same for views of which nobody knows such points."""
        return self

    def init(self, cameras: Camera) -> PyTree[Array]:
        """The Params at the start of a run, which change nothing.

        Args:
            cameras: of all training views, [V].
        """
        del cameras
        return {}

    def optimizer(self, steps: int, extent: float) -> optax.GradientTransformation:
        """What trains the Params in a run of this length, in a scene of this extent (world units)."""
        del steps, extent
        return optax.identity()

    def optimizer_of(self, cameras: Camera, steps: int, extent: float) -> optax.GradientTransformation:
        """The same where it depends on the cameras of all training views, [V]; by default :meth:`optimizer`."""
        del cameras
        return self.optimizer(steps, extent)

    def camera(self, params: PyTree[Array], view: ViewIndex, camera: Camera) -> Camera:
        """The camera to render a view with."""
        del params, view
        return camera

    def image(
        self, params: PyTree[Array], view: ViewIndex, image: Float[Array, "h w 3"]
    ) -> Float[Array, "h w 3"]:
        """The rendering as the photo of this view would show it."""
        del params, view
        return image

    def interpolate(
        self, params: PyTree[Array | np.ndarray], neighbors: Neighbors
    ) -> PyTree[np.ndarray] | None:
        """What is to be expected of a view that training did not see; outside of jit, with numpy.

        Args:
            params: of all training views.
            neighbors: the training views that are next to it, and their weights.

        Returns:
            Params of one row, with which ``camera`` and ``image`` of view 0 then draw it, linear in the weights.
            None: it is drawn with ``view`` None.
        """
        del params, neighbors
        return None

    def penalty(self, params: PyTree[Array]) -> Float[Array, ""]:
        """Added to the loss."""
        del params
        return jnp.zeros(())

    def track_penalty(
        self, camera: Camera, points: Float[Array, "points 3"], pixels: Float[Array, "points 2"]
    ) -> Float[Array, ""]:
        """Added to the loss of a view, if the correction :attr:`uses_tracks`.

        Args:
            camera: of the view, as all corrections leave it.
            points: that its photo shows, world coordinates; NaN where there are fewer than rows.
            pixels: where it shows them; NaN where that is not known.
        """
        del camera, points, pixels
        return jnp.zeros(())

    def project(self, params: PyTree[Array], cameras: Camera) -> PyTree[Array]:
        """The nearest Params that are allowed; applied after every step.

        Args:
            params: as a step left them.
            cameras: of all training views as they were given, [V]; concrete, so numpy can compute with them.
        """
        del cameras
        return params


class CorrectionsState(NamedTuple):
    """Of all corrections of a run, by their names.

    Attributes:
        params: what is learned.
        opt_state: of each one's optimizer.
    """

    params: dict[str, PyTree[Array]]
    opt_state: dict[str, optax.OptState]


class Corrections:
    """The corrections of a run, applied one after the other.

    Args:
        corrections: in this order.
        cameras: of all training views, [V].
        steps: length of the run.
        extent: of the scene, world units.

    Attributes:
        parts: the corrections by name.

    Raises:
        ValueError: if two have one name: their Params would be the same.
    """

    def __init__(
        self, corrections: Sequence[Correction], cameras: Camera, *, steps: int, extent: float
    ) -> None:
        self.parts = {correction.name: correction for correction in corrections}
        if len(self.parts) != len(corrections):
            raise ValueError(
                f"corrections must be of different names, got {[c.name for c in corrections]}; leave one out."
            )
        self._optimizers = {
            name: part.optimizer_of(cameras, steps, extent) for name, part in self.parts.items()
        }
        self._cameras = cameras

    def init(self) -> CorrectionsState:
        """The state at the start of a run."""
        params = {name: part.init(self._cameras) for name, part in self.parts.items()}
        return CorrectionsState(
            params, {name: optimizer.init(params[name]) for name, optimizer in self._optimizers.items()}
        )

    def camera(self, params: dict[str, Any], view: ViewIndex, camera: Camera) -> Camera:
        """The camera to render a view with."""
        for name, part in self.parts.items():
            camera = part.camera(params[name], view, camera)
        return camera

    def image(
        self, params: dict[str, Any], view: ViewIndex, image: Float[Array, "h w 3"]
    ) -> Float[Array, "h w 3"]:
        """The rendering as the photo of this view would show it."""
        for name, part in self.parts.items():
            image = part.image(params[name], view, image)
        return image

    def penalty(self, params: dict[str, Any]) -> Float[Array, ""]:
        """Sum of what they add to the loss."""
        return sum((part.penalty(params[name]) for name, part in self.parts.items()), jnp.zeros(()))

    def track_penalty(
        self, camera: Camera, points: Float[Array, "points 3"], pixels: Float[Array, "points 2"]
    ) -> Float[Array, ""]:
        """Sum of what they add to the loss of a view for points that its photo shows."""
        using = [part for part in self.parts.values() if part.uses_tracks]
        return sum((part.track_penalty(camera, points, pixels) for part in using), jnp.zeros(()))

    def update(
        self, state: CorrectionsState, grads: dict[str, Any], step_scale: Float[Array, ""]
    ) -> CorrectionsState:
        """The state after a step.

        Args:
            state: before it.
            grads: of ``params``.
            step_scale: factor of the updates.
        """
        params, opt_state = {}, {}
        for name, part in self.parts.items():
            old = state.params[name]
            updates, opt_state[name] = self._optimizers[name].update(grads[name], state.opt_state[name], old)
            updates = scaled(updates, step_scale)
            params[name] = part.project(optax.apply_updates(old, updates), self._cameras)
        return CorrectionsState(params, opt_state)


def scaled(updates: PyTree[Array], factor: Float[Array, ""]) -> PyTree[Array]:
    """All of the updates times a factor, in their own types."""
    return jax.tree.map(lambda update: update * factor.astype(update.dtype), updates)
