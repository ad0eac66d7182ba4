"""Camera poses that are a little wrong, made better while training."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from splax.cameras import Camera
from splax.corrections.base import Correction, ViewIndex
from splax.corrections.rigid import move_camera
from splax.corrections.tracks import reprojection_error


@dataclasses.dataclass(frozen=True)
class PoseRefinement(Correction):
    """A small rigid motion of each training camera, SE(3) (as gsplat's camera optimisation).

    The Params, [V, 6], are a rotation vector (radians) and a translation (world units) for each view; see
    :func:`splax.corrections.rigid.move_camera`. If all cameras move together, or come nearer to each other, and
    the scene with them, no photo changes. Where views know which surface points their photos show and where
    (``View.points``, ``View.point_pixels``: COLMAP's tracks), those hold the poses; else such motions are taken
    out after every step.

    Attributes:
        rate: of Adam, radians a step and shares of the scene's extent; at the start.
        rate_final: at the end, as a share of the one at the start; exponential in between (gsplat).
        weight_decay: pull towards the poses as given, added to the gradient (gsplat).
        track_weight: of the reprojection error of these points in the loss, see
            :func:`splax.corrections.tracks.reprojection_error`; 0: they are not used.

    Raises:
        ValueError: on a rate that is not positive, or a weight that is negative or not finite.
    """

    name: ClassVar[str] = "poses"
    rate: float = 5e-4
    rate_final: float = 0.01
    weight_decay: float = 1e-6
    track_weight: float = 100.0

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.rate_final > 0):
            raise ValueError(f"PoseRefinement rates must be positive, got {self.rate} and {self.rate_final}.")
        if not 0 <= self.track_weight < math.inf:
            raise ValueError(
                f"PoseRefinement track_weight must be 0 or more and finite, got {self.track_weight}; 0 leaves "
                "tracks out."
            )

    @property
    def uses_tracks(self) -> bool:
        """Whether tracks have a weight."""
        return self.track_weight > 0

    def without_tracks(self) -> PoseRefinement:
        """The same with a ``track_weight`` of 0."""
        return dataclasses.replace(self, track_weight=0.0)

    def init(self, cameras: Camera) -> Float[Array, "views 6"]:
        """No motion."""
        return jnp.zeros((len(cameras.viewmat), 6))

    def optimizer(self, steps: int, extent: float) -> optax.GradientTransformation:
        """Adam."""
        units = _units(extent)
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_adam(eps=1e-15),
            optax.scale_by_learning_rate(optax.exponential_decay(self.rate, steps, self.rate_final)),
            optax.stateless(lambda updates, _: jax.tree.map(lambda update: update * units, updates)),
        )

    def optimizer_of(self, cameras: Camera, steps: int, extent: float) -> optax.GradientTransformation:
        """Adam; with tracks on turns about what cameras look at instead of where they stand.

        In a photo a camera that turns looks nearly like one that moves sideways, and Adam, which scales each
        number by itself, takes long to tell them apart. A turn about a point ahead leaves that point where it is.
        Without tracks that would let noise of the photos turn cameras.
        """
        adam = self.optimizer(steps, extent)
        if not self.uses_tracks:
            return adam
        arms = _arms(cameras, extent)  # from that point to the camera

        def to_turns_ahead(gradient: Any, _: Any) -> Array:
            return gradient.at[:, :3].add(jnp.cross(arms, gradient[:, 3:]))

        def to_motions(updates: Any, _: Any) -> Array:
            return updates.at[:, 3:].add(jnp.cross(updates[:, :3], arms))

        return optax.chain(optax.stateless(to_turns_ahead), adam, optax.stateless(to_motions))

    def camera(self, params: Float[Array, "views 6"], view: ViewIndex, camera: Camera) -> Camera:
        """The camera where training has moved it."""
        if view is None:
            return camera
        return dataclasses.replace(camera, viewmat=move_camera(camera.viewmat, params[view]))

    def track_penalty(
        self, camera: Camera, points: Float[Array, "points 3"], pixels: Float[Array, "points 2"]
    ) -> Float[Array, ""]:
        """The reprojection error, weighted."""
        return self.track_weight * reprojection_error(camera, points, pixels)

    def project(self, params: Float[Array, "views 6"], cameras: Camera) -> Float[Array, "views 6"]:
        """Without what moves all cameras as one, or all away from their middle; as it is where tracks hold it."""
        if self.uses_tracks:
            return params
        viewmats = np.asarray(cameras.viewmat, np.float64)
        around = -np.einsum("vij,vi->vj", viewmats[:, :3, :3], viewmats[:, :3, 3])
        around -= around.mean(axis=0)
        units = _units(np.sqrt((around**2).sum(axis=1).mean()) or 1.0)
        basis = joint_motions(around / units[3:])
        flat = (params / units).ravel()
        # Sums, not matrix products, whose precision may be low on a GPU.
        shares = (basis * flat[:, None]).sum(axis=0)
        return (flat - (basis * shares).sum(axis=1)).reshape(params.shape) * units


def joint_motions(around: Float[np.ndarray, "views 3"]) -> Float[np.ndarray, "views*6 k"]:
    """An orthonormal basis of what no photo shows: to first order, how cameras turn, shift and spread together.

    Args:
        around: positions of the cameras about their mean; their size should be about 1.

    Returns:
        At most 7 columns, each the motions of all cameras one after the other.
    """
    columns = []
    for axis in np.eye(3):
        turn = np.concatenate([np.tile(axis, (len(around), 1)), np.cross(axis, around)], axis=1)
        shift = np.concatenate([np.zeros_like(around), np.tile(axis, (len(around), 1))], axis=1)
        columns += [turn.ravel(), shift.ravel()]
    columns.append(np.concatenate([np.zeros_like(around), around], axis=1).ravel())
    basis, values, _ = np.linalg.svd(np.stack(columns, axis=1), full_matrices=False)
    return basis[:, values > 1e-6 * values[0]].astype(np.float32)


def _arms(cameras: Camera, extent: float) -> Float[np.ndarray, "views 3"]:
    """From the point nearest to the axes of all cameras, at its depth on each one's axis, to that camera."""
    viewmats = np.asarray(cameras.viewmat, np.float64)
    axes = viewmats[:, 2, :3]
    centres = -np.einsum("vji,vj->vi", viewmats[:, :3, :3], viewmats[:, :3, 3])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    middle = np.linalg.lstsq(across.sum(axis=0), np.einsum("vij,vj->i", across, centres), rcond=1e-3)[0]
    depths = ((middle - centres) * axes).sum(axis=1)
    # Axes that meet nowhere ahead: about as far as the cameras are apart.
    depths = np.where((depths > 0.1 * extent) & (depths < 10 * extent), depths, extent)
    return (-depths[:, None] * axes).astype(np.float32)


def _units(length: float) -> Float[np.ndarray, " 6"]:
    """Radians, and lengths of this many world units."""
    return np.array([1, 1, 1, length, length, length], np.float32)
