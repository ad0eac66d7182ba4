"""Refinement, in training, of camera poses that are a little wrong."""

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
from splax.corrections.track_penalty import reprojection_error


@dataclasses.dataclass(frozen=True)
class PoseRefinement(Correction):
    """A small rigid motion of each training camera, SE(3), as in gsplat's camera optimisation.

    The Params, [V, 6], are a rotation vector (radians) and a translation (world units) for each view; see
    :func:`splax.corrections.rigid.move_camera`. If all cameras move together, or come nearer to each other, and
    the scene moves with them, no photo changes. Two things keep poses from drifting that way. Where views know
    surface points and the pixels at which their photos show them (``View.points``, ``View.point_pixels``: COLMAP's
    tracks), those points hold the poses. Else such joint motions are removed after every step.

    Attributes:
        rate: learning rate of Adam at the start, in radians and in shares of the scene's extent.
        rate_final: learning rate at the end, as a share of the rate at the start; the decay is exponential
            (gsplat).
        weight_decay: pull towards the poses as given, added to the gradient (gsplat).
        track_weight: weight of the reprojection error of the tracks in the loss, see
            :func:`splax.corrections.track_penalty.reprojection_error`; at 0 tracks are not used.

    Raises:
        ValueError: on a rate that is not positive, or a weight that is negative or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> import splax
        >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.8, width=32, height=24)
        >>> poses = splax.PoseRefinement()
        >>> params = poses.init(splax.Camera.stack([camera, camera]))  # no motion, for two views
        >>> params.shape
        (2, 6)
        >>> params = params.at[1].set(jnp.array([0.0, 0.0, 0.0, 0.0, 0.5, 0.0]))  # half a unit along +y
        >>> round(float(poses.camera(params, jnp.array(1), camera).position[1]), 3)
        -3.5
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
        """True if tracks have a weight above 0."""
        return self.track_weight > 0

    def without_tracks(self) -> PoseRefinement:
        """The same refinement with a ``track_weight`` of 0."""
        return dataclasses.replace(self, track_weight=0.0)

    def init(self, cameras: Camera) -> Float[Array, "views 6"]:
        """No motion: zeros, [V, 6]."""
        return jnp.zeros((len(cameras.viewmat), 6))

    def optimizer(self, steps: int, extent: float) -> optax.GradientTransformation:
        """Adam with weight decay and exponential decay of its rate; translations are in shares of ``extent``."""
        units = _units(extent)
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_adam(eps=1e-15),
            optax.scale_by_learning_rate(optax.exponential_decay(self.rate, steps, self.rate_final)),
            optax.stateless(lambda updates, _: jax.tree.map(lambda update: update * units, updates)),
        )

    def optimizer_of(self, cameras: Camera, steps: int, extent: float) -> optax.GradientTransformation:
        """Adam; with tracks, each camera turns about the point that it looks at instead of about its own centre.

        In a photo a camera that turns looks nearly like a camera that moves sideways, and Adam, which scales each
        number separately, takes long to tell the two apart. A turn about a point ahead leaves that point where it
        is. Without tracks, such turns would let noise in the photos turn cameras.
        """
        adam = self.optimizer(steps, extent)
        if not self.uses_tracks:
            return adam
        arms = _arms(cameras, extent)  # from the point to the camera

        def to_turns_ahead(gradient: Any, _: Any) -> Array:
            return gradient.at[:, :3].add(jnp.cross(arms, gradient[:, 3:]))

        def to_motions(updates: Any, _: Any) -> Array:
            return updates.at[:, 3:].add(jnp.cross(updates[:, :3], arms))

        return optax.chain(optax.stateless(to_turns_ahead), adam, optax.stateless(to_motions))

    def camera(self, params: Float[Array, "views 6"], view: ViewIndex, camera: Camera) -> Camera:
        """The camera, moved by what training has learned; unchanged if ``view`` is None."""
        if view is None:
            return camera
        return dataclasses.replace(camera, viewmat=move_camera(camera.viewmat, params[view]))

    def track_penalty(
        self, camera: Camera, points: Float[Array, "points 3"], pixels: Float[Array, "points 2"]
    ) -> Float[Array, ""]:
        """The reprojection error, times its weight."""
        return self.track_weight * reprojection_error(camera, points, pixels)

    def project(self, params: Float[Array, "views 6"], cameras: Camera) -> Float[Array, "views 6"]:
        """The motions without what all cameras share: turning, shifting, and moving away from their middle.

        Unchanged if tracks are used, which hold the cameras.
        """
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
    """An orthonormal basis of the joint motions that no photo shows: to first order, turns, shifts and spreading.

    Args:
        around: positions of the cameras relative to their mean, [V, 3], in units in which they are about 1.

    Returns:
        At most 7 columns, [6 V, k]; a column holds the motions of all cameras, one camera after the other.
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
    """For each camera, the vector from the point that it looks at to its centre, world units, [V, 3].

    The point lies on the camera's axis, at the depth of the point that is nearest to the axes of all cameras.
    """
    viewmats = np.asarray(cameras.viewmat, np.float64)
    axes = viewmats[:, 2, :3]
    centres = -np.einsum("vji,vj->vi", viewmats[:, :3, :3], viewmats[:, :3, 3])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    middle = np.linalg.lstsq(across.sum(axis=0), np.einsum("vij,vj->i", across, centres), rcond=1e-3)[0]
    depths = ((middle - centres) * axes).sum(axis=1)
    # If the axes meet nowhere ahead, take a depth of about the distance between the cameras.
    depths = np.where((depths > 0.1 * extent) & (depths < 10 * extent), depths, extent)
    return (-depths[:, None] * axes).astype(np.float32)


def _units(length: float) -> Float[np.ndarray, " 6"]:
    """Units of the six numbers of a motion: 1 radian three times, and ``length`` world units three times."""
    return np.array([1, 1, 1, length, length, length], np.float32)
