"""How cameras moved as a whole: the similarity between given and refined ones that fits best in the image.

Photos do not change if all cameras and the scene are turned, shifted and scaled together, so refined cameras may
drift that way. A camera that was not refined fits the scene again once it is moved alike. What is left over is the
motion of each camera by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from splax.lenses import Lens

# Points that one view contributes, and of how many Gaussians they are sought: the most opaque ones.
MAX_POINTS = 64
_MAX_CANDIDATES = 1 << 16
# As rasterizers have it, world units; and as a share of a view's median depth: a speck before the lens would
# outweigh all other points.
_NEAR = 0.01
_NEAR_SHARE = 0.2
# Fewer views or points do not determine a similarity well.
MIN_VIEWS = 3
_MIN_POINTS = 4

Viewmats = Float[np.ndarray, "views 4 4"]


class Similarity(NamedTuple):
    """Takes a point x to ``scale * rotation @ x + translation``.

    Attributes:
        rotation: [3, 3].
        translation: [3], world units.
        scale: positive.
    """

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]
    scale: float

    @classmethod
    def identity(cls) -> Similarity:
        """Moves nothing."""
        return cls(np.eye(3), np.zeros(3), 1.0)

    @property
    def matrix(self) -> Float[np.ndarray, "4 4"]:
        """As a homogeneous transform, [4, 4]."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix

    def inverse(self) -> Similarity:
        """The way back."""
        rotation, scale = self.rotation.T, 1 / self.scale
        return Similarity(rotation, -scale * rotation @ self.translation, scale)

    def move(self, viewmats: Float[np.ndarray, "*views 4 4"]) -> Float[np.ndarray, "*views 4 4"]:
        """Cameras (world to camera) that see the moved world as these see it unmoved, but for its scale."""
        turned = viewmats[..., :3, :3] @ self.rotation.T
        centres = self.scale * camera_centres(viewmats) @ self.rotation.T + self.translation
        return _from_parts(turned, centres)


def camera_centres(viewmats: Float[np.ndarray, "*views 4 4"]) -> Float[np.ndarray, "*views 3"]:
    """Where cameras stand, world units."""
    return -np.einsum("...ji,...j->...i", viewmats[..., :3, :3], viewmats[..., :3, 3])


def visible_points(
    means: Float[np.ndarray, "n 3"],
    opacities: Float[np.ndarray, " n"],
    viewmats: Viewmats,
    lenses: Lens,
    sizes: Sequence[tuple[int, int]],
) -> list[Float[np.ndarray, "_ 3"]]:
    """Points that each camera sees: in its picture and before it, the most opaque ones first.

    Args:
        means: of Gaussians, world units.
        opacities: of the same.
        viewmats: world to camera.
        lenses: those of the cameras as a batch [V], with numpy arrays.
        sizes: width and height of each picture.

    Returns:
        At most :data:`MAX_POINTS` for each camera.
    """
    usable = np.flatnonzero(np.isfinite(means).all(axis=1) & np.isfinite(opacities))
    order = usable[np.argsort(-opacities[usable], kind="stable")[:_MAX_CANDIDATES]]
    candidates = means[order].astype(np.float64)
    found = []
    for index, (viewmat, size) in enumerate(zip(viewmats, sizes, strict=True)):
        depth = candidates @ viewmat[2, :3] + viewmat[2, 3]
        pixels = project(viewmat, lens_of(lenses, index), candidates)
        seen = (depth > _NEAR) & (pixels >= 0).all(axis=1) & (pixels < size).all(axis=1)
        if seen.any():
            seen &= depth > _NEAR_SHARE * np.median(depth[seen])
        found.append(candidates[np.flatnonzero(seen)[:MAX_POINTS]])
    return found


def project(
    viewmats: Float[np.ndarray, "*#n 4 4"],
    lens: Lens,
    points: Float[np.ndarray, "*n 3"],
) -> Float[np.ndarray, "*n 2"]:
    """Pixels of points; those of points that are not before the camera are somewhere far off."""
    local = np.einsum("...ij,...j->...i", viewmats[..., :3, :3], points) + viewmats[..., :3, 3]
    ahead = np.concatenate([local[..., :2], np.maximum(local[..., 2:], 1e-9)], axis=-1)
    # Fits take differences of these pixels, for which float32 is too coarse where a lens computes with jax.
    with jax.enable_x64(True):
        return np.asarray(lens.project(ahead))


def lens_of(lenses: Lens, index: int | Int[np.ndarray, " n"]) -> Lens:
    """One lens of a batch, or a batch of some, which may repeat."""
    return jax.tree.map(lambda leaf: leaf[index], lenses)


def fit_similarity(
    given: Viewmats,
    refined: Viewmats,
    lenses: Lens,
    points: Sequence[Float[np.ndarray, "_ 3"]],
) -> Similarity | None:
    """The similarity that takes given cameras to refined ones best, seven numbers.

    Minimises, over the points that each view sees, the squared distance in pixels between where the refined
    camera and the moved given camera show them (Levenberg-Marquardt).

    Args:
        given: world to camera, as the dataset has them.
        refined: the same after refinement.
        lenses: those of the cameras as a batch [V], with numpy arrays.
        points: that each view sees, in the world of the refined cameras.

    Returns:
        The similarity; None if fewer than :data:`MIN_VIEWS` views see enough points.
    """
    if sum(len(seen) >= _MIN_POINTS for seen in points) < MIN_VIEWS:
        return None
    views = np.repeat(np.arange(len(points)), [len(seen) for seen in points])
    seen = np.concatenate([*points])
    lens = lens_of(lenses, views)
    target = project(refined[views], lens, seen)
    centres = camera_centres(given)
    middle = centres.mean(axis=0)
    length = float(np.sqrt(((centres - middle) ** 2).sum(axis=1).mean())) or 1.0

    def similarity(numbers: Float[np.ndarray, " 7"]) -> Similarity:
        """About the middle of the cameras and in units of their spread, so that the numbers are alike."""
        turn, shift, scale = numbers[:3], numbers[3:6] * length, float(np.exp(numbers[6]))
        rotation = Rotation.from_rotvec(turn).as_matrix()
        return Similarity(rotation, middle + shift - scale * rotation @ middle, scale)

    def errors(numbers: Float[np.ndarray, " 7"]) -> Float[np.ndarray, " n"]:
        return (project(similarity(numbers).move(given)[views], lens, seen) - target).ravel()

    return similarity(least_squares(errors, np.zeros(7), method="lm", xtol=1e-12, ftol=1e-12).x)


def motions_between(start: Viewmats, end: Viewmats) -> Float[np.ndarray, "views 6"]:
    """What takes each camera to the other: six numbers as of :func:`splax.corrections.rigid.move_camera`."""
    turns = np.einsum("vji,vjk->vik", end[:, :3, :3], start[:, :3, :3])
    vectors = Rotation.from_matrix(turns).as_rotvec()
    return np.concatenate([vectors, camera_centres(end) - camera_centres(start)], axis=1)


def move_viewmat(
    viewmat: Float[np.ndarray, "4 4"], motion: Float[np.ndarray, " 6"]
) -> Float[np.ndarray, "4 4"]:
    """:func:`splax.corrections.rigid.move_camera` in float64, without jax."""
    turned = viewmat[:3, :3] @ Rotation.from_rotvec(-motion[:3]).as_matrix()
    return _from_parts(turned, camera_centres(viewmat) + motion[3:])


def _from_parts(
    rotations: Float[np.ndarray, "*views 3 3"], centres: Float[np.ndarray, "*views 3"]
) -> Float[np.ndarray, "*views 4 4"]:
    viewmats = np.zeros((*centres.shape[:-1], 4, 4))
    viewmats[..., :3, :3] = rotations
    viewmats[..., :3, 3] = -np.einsum("...ij,...j->...i", rotations, centres)
    viewmats[..., 3, 3] = 1
    return viewmats
