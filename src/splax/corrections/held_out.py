"""Drawing of held-out views, which training did not see, by what was learned for the training views next to them.

Nothing that the photo of a held-out view shows may be used to draw it. Its colour maps are therefore made from
those of its neighbours, and its camera is moved as the refined training cameras moved. The training views decide
whether neighbours say anything about a view: each of them is predicted from the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from splax.cameras import Camera
from splax.corrections.base import Corrections
from splax.corrections.camera_alignment import Similarity, camera_centres
from splax.corrections.camera_motion import CameraMotion, TrainingCameras
from splax.corrections.neighboring_views import (
    Neighborhood,
    Neighbors,
    describe_choice,
    errors_of_prediction,
    everyone,
)

# Least number of training views that can be predicted from one another.
_MIN_VIEWS = 3


class Appearance(NamedTuple):
    """Camera and correction Params with which a view is drawn; a pytree.

    Attributes:
        camera: camera to render the view with.
        params: Params of each correction, by its name: one row, or all Params of a correction that has none for
            held-out views.
    """

    camera: Camera
    params: dict[str, PyTree[Array]]


class HeldOutViews:
    """Draws held-out views, which training did not see.

    Attributes:
        cameras: cameras of the training views.
        motion: motion of the training cameras.
        description: words for how views are drawn, under the key ``"camera"`` and the name of each correction that
            has Params for held-out views.
    """

    def __init__(
        self,
        corrections: Corrections,
        params: dict[str, Any],
        *,
        training: Mapping[str, Camera],
        names: Sequence[str],
        means: Float[np.ndarray, "n 3"],
        opacities: Float[np.ndarray, " n"],
    ) -> None:
        """Finds the motion of the training cameras, and the corrections for which neighbours predict well.

        Args:
            corrections: corrections of the run.
            params: Params that the corrections learned, by their names.
            training: cameras of the training views by name, in the order of the rows of ``params``.
            names: names of the views to be drawn.
            means: centres of the Gaussians, world units, [N, 3].
            opacities: opacities of the Gaussians, [N].
        """
        self._corrections = corrections
        self._params = {name: jax.tree.map(np.asarray, params[name]) for name in corrections.parts}
        self.cameras = TrainingCameras.of(corrections, params, training)
        places = dict(zip(training, camera_centres(self.cameras.given), strict=True))
        self._neighborhood = Neighborhood.of(places, names)
        self._mean = everyone(len(training))
        self._of_rows = {name for name in self._params if self._row(name, self._mean) is not None}
        if any(part.uses_tracks for part in corrections.parts.values()):
            self.motion = CameraMotion.held_by_points()
        else:
            self.motion = CameraMotion.of(self.cameras, self._neighborhood, means, opacities)
        self.description = {"camera": self.motion.description}
        self._by_neighbors = {name for name in self._params if name in self._of_rows and self._predicts(name)}

    @property
    def is_mean(self) -> bool:
        """True if :meth:`of` and :meth:`mean` are the same for all views."""
        return self.motion.similarity is None and not self._by_neighbors

    def of(self, name: str, camera: Camera) -> Appearance:
        """Camera and correction Params with which a view is drawn.

        Args:
            name: name of the view, one of those that this object was made with.
            camera: camera of the view as the dataset has it.
        """
        place = camera_centres(np.asarray(camera.viewmat, np.float64))
        neighbors = self._neighborhood.around(name, place)
        return self._appearance(self.motion.move(camera, neighbors), neighbors)

    def mean(self, camera: Camera) -> Appearance:
        """Camera and Params that use no neighbours: the camera as given, and the mean over all training views."""
        return self._appearance(camera, self._mean)

    def image(self, params: dict[str, Any], image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
        """The rendering with the colours that the photo of the view would have.

        Args:
            params: Params of the view's :class:`Appearance`.
            image: rendering of the view, RGB, [H, W, 3].
        """
        for name, part in self._corrections.parts.items():
            image = part.image(params[name], self._view(name), image)
        return image

    def refined_cameras(self) -> dict[str, Float[np.ndarray, "4 4"]]:
        """Refined training cameras in the dataset's frame, camera to world [4, 4], by name; none if none moved."""
        if (self.cameras.given == self.cameras.refined).all():
            return {}
        back = (self.motion.similarity or Similarity.identity()).inverse()
        return dict(zip(self.cameras.names, np.linalg.inv(back.move(self.cameras.refined)), strict=True))

    def _appearance(self, camera: Camera, neighbors: Neighbors) -> Appearance:
        params = {}
        for name, part in self._corrections.parts.items():
            row = self._row(name, neighbors if name in self._by_neighbors else self._mean)
            params[name] = jax.tree.map(jnp.asarray, self._params[name] if row is None else row)
            camera = part.camera(params[name], self._view(name), camera)
        return Appearance(camera, params)

    def _row(self, name: str, neighbors: Neighbors) -> PyTree[np.ndarray] | None:
        return self._corrections.parts[name].interpolate(self._params[name], neighbors)

    def _view(self, name: str) -> Int[Array, ""] | None:
        return jnp.zeros((), jnp.int32) if name in self._of_rows else None

    def _predicts(self, name: str) -> bool:
        """True if neighbours predict a view's Params better than the mean does; fills :attr:`description`."""
        if len(self.cameras.names) < _MIN_VIEWS:
            self.description[name] = f"the mean: there are fewer than {_MIN_VIEWS} training views"
            return False

        def average(neighbors: Neighbors) -> Float[np.ndarray, " n"]:
            leaves = jax.tree.leaves(self._row(name, neighbors))
            return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in leaves])

        by_neighbors, by_mean = errors_of_prediction(self._neighborhood, average)
        kind = self._neighborhood.kind
        self.description[name] = describe_choice(kind, by_neighbors, by_mean, "the mean")
        return by_neighbors < by_mean
