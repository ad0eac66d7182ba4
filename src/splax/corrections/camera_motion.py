"""The motion of refined training cameras, and what it says about cameras that were not refined."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from splax.cameras import Camera
from splax.corrections.base import Corrections
from splax.corrections.camera_alignment import (
    MIN_VIEWS,
    Similarity,
    fit_similarity,
    lens_of,
    motions_between,
    move_viewmat,
    project,
    visible_points,
)
from splax.corrections.neighboring_views import Neighborhood, Neighbors, describe_choice
from splax.lenses import Lens


class TrainingCameras(NamedTuple):
    """Cameras of the training views, world to camera, in float64.

    Attributes:
        names: names of the views.
        given: world-to-camera transforms as the dataset has them, [V, 4, 4].
        refined: world-to-camera transforms as corrections move them, [V, 4, 4].
        lenses: corrected lenses, a batch [V] of numpy arrays.
        sizes: width and height of each view's image, pixels.
    """

    names: list[str]
    given: Float[np.ndarray, "views 4 4"]
    refined: Float[np.ndarray, "views 4 4"]
    lenses: Lens
    sizes: list[tuple[int, int]]

    @classmethod
    def of(
        cls, corrections: Corrections, params: dict[str, Any], cameras: Mapping[str, Camera]
    ) -> TrainingCameras:
        """Applies corrections to cameras.

        Args:
            corrections: corrections of the run.
            params: Params that the corrections learned, by their names.
            cameras: cameras of the training views by name, in the order of the rows of ``params``.
        """
        each = [*cameras.values()]
        moved = [
            corrections.camera(params, jnp.asarray(index, jnp.int32), camera)
            for index, camera in enumerate(each)
        ]
        return cls(
            [*cameras],
            np.stack([np.asarray(camera.viewmat, np.float64) for camera in each]),
            np.stack([np.asarray(camera.viewmat, np.float64) for camera in moved]),
            jax.tree.map(lambda *leaves: np.stack(leaves), *[camera.to_numpy().lens for camera in moved]),
            [(camera.width, camera.height) for camera in each],
        )


class CameraMotion(NamedTuple):
    """The motion of all training cameras together, and of each one separately.

    Attributes:
        similarity: similarity that takes the dataset's frame to the splat's; None if no camera moved, or if it is
            not known.
        residuals: rest of each training camera's motion, [V, 6], as :func:`splax.corrections.rigid.move_camera`
            takes it; None if the rest says nothing about other cameras.
        description: words for what is done to a camera that was not refined.
    """

    similarity: Similarity | None
    residuals: Float[np.ndarray, "views 6"] | None
    description: str

    @classmethod
    def of(
        cls,
        cameras: TrainingCameras,
        neighborhood: Neighborhood,
        means: Float[np.ndarray, "n 3"],
        opacities: Float[np.ndarray, " n"],
    ) -> CameraMotion:
        """Finds the motion from the Gaussians that the training cameras see.

        Args:
            cameras: cameras of the training views.
            neighborhood: times or places of the training views.
            means: centres of the Gaussians, in the splat's world units, [N, 3].
            opacities: opacities of the Gaussians, [N].
        """
        if (cameras.given == cameras.refined).all():
            return cls(None, None, "as given")
        points = visible_points(means, opacities, cameras.refined, cameras.lenses, cameras.sizes)
        similarity = fit_similarity(cameras.given, cameras.refined, cameras.lenses, points)
        if similarity is None:
            return cls(
                None, None, f"as given, though cameras moved: fewer than {MIN_VIEWS} of them see Gaussians"
            )
        moved = similarity.move(cameras.given)
        residuals = motions_between(moved, cameras.refined)

        def error(index: int, motion: Float[np.ndarray, " 6"]) -> float:
            """Sum of squared errors, pixels^2, of the points that a view sees, if its camera has this motion."""
            lens, seen = lens_of(cameras.lenses, index), points[index]
            shown = project(move_viewmat(moved[index], motion), lens, seen)
            return float(((shown - project(cameras.refined[index], lens, seen)) ** 2).sum())

        views = range(len(points))
        by_neighbors = sum(error(v, neighborhood.without(v).average(residuals)[0]) for v in views)
        by_similarity = sum(error(v, np.zeros(6)) for v in views)
        choice = describe_choice(neighborhood.kind, by_neighbors, by_similarity, "nothing more")
        return cls(
            similarity,
            residuals if by_neighbors < by_similarity else None,
            f"moved by the similarity from given to refined training cameras, and by {choice}",
        )

    @classmethod
    def held_by_points(cls) -> CameraMotion:
        """No motion of all cameras together: poses that are held by known points stay in the frame of the points.

        If each camera was a little wrong independently, a fitted similarity would be the mean of their errors.
        """
        return cls(None, None, "as given: the points that photos show hold the frame")

    def move(self, camera: Camera, neighbors: Neighbors | None = None) -> Camera:
        """A camera of the dataset's frame, moved to the splat's frame.

        Args:
            camera: camera as the dataset has it.
            neighbors: training views in whose residual motion the camera takes part; None for no residual motion.
        """
        if self.similarity is None:
            return camera
        viewmat = self.similarity.move(np.asarray(camera.viewmat, np.float64))
        if self.residuals is not None and neighbors is not None:
            viewmat = move_viewmat(viewmat, neighbors.average(self.residuals)[0])
        return dataclasses.replace(camera, viewmat=jnp.asarray(viewmat, camera.viewmat.dtype))
