"""Alignment of given cameras with refined ones: the similarity between the two that fits best in the image.

Photos do not change if all cameras and the scene are turned, shifted and scaled together, so refined cameras may
drift that way. A camera that was not refined fits the scene again once it is moved by the same similarity. The
rest of the motion is that of each camera separately.
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

# Largest number of points that one view contributes.
MAX_POINTS = 64
# Number of Gaussians, the most opaque ones, among which points are looked for.
_MAX_CANDIDATES = 1 << 16
# Least depth of a point, world units: the near plane of rasterizers.
_NEAR = 0.01
# Least depth of a point as a share of the view's median depth: a speck in front of the lens would outweigh all
# others.
_NEAR_SHARE = 0.2
# Least numbers of views, and of points in a view, that determine a similarity well.
MIN_VIEWS = 3
_MIN_POINTS = 4

Viewmats = Float[np.ndarray, "views 4 4"]


class Similarity(NamedTuple):
    """A similarity transform: it takes a point x to ``scale * rotation @ x + translation``.

    Attributes:
        rotation: rotation matrix, [3, 3].
        translation: translation in world units, [3].
        scale: factor of lengths, above 0.
    """

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]
    scale: float

    @classmethod
    def identity(cls) -> Similarity:
        """The similarity that leaves every point where it is."""
        return cls(np.eye(3), np.zeros(3), 1.0)

    @property
    def matrix(self) -> Float[np.ndarray, "4 4"]:
        """The similarity as a homogeneous transform, [4, 4]."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix

    def inverse(self) -> Similarity:
        """The similarity that undoes this one."""
        rotation, scale = self.rotation.T, 1 / self.scale
        return Similarity(rotation, -scale * rotation @ self.translation, scale)

    def move(self, viewmats: Float[np.ndarray, "*views 4 4"]) -> Float[np.ndarray, "*views 4 4"]:
        """Cameras that see the moved world, except for its scale, as the given cameras see the unmoved one.

        Args:
            viewmats: world-to-camera transforms, [..., 4, 4].
        """
        turned = viewmats[..., :3, :3] @ self.rotation.T
        centres = self.scale * camera_centres(viewmats) @ self.rotation.T + self.translation
        return _from_parts(turned, centres)


def camera_centres(viewmats: Float[np.ndarray, "*views 4 4"]) -> Float[np.ndarray, "*views 3"]:
    """Centres of cameras, world units, [..., 3]; ``viewmats`` are world-to-camera transforms."""
    return -np.einsum("...ji,...j->...i", viewmats[..., :3, :3], viewmats[..., :3, 3])


def visible_points(
    means: Float[np.ndarray, "n 3"],
    opacities: Float[np.ndarray, " n"],
    viewmats: Viewmats,
    lenses: Lens,
    sizes: Sequence[tuple[int, int]],
) -> list[Float[np.ndarray, "_ 3"]]:
    """Centres of Gaussians that each camera sees, in its image and in front of it; the most opaque ones first.

    Args:
        means: centres of the Gaussians, world units, [N, 3].
        opacities: opacities of the Gaussians, [N].
        viewmats: world-to-camera transforms, [V, 4, 4].
        lenses: lenses of the cameras, a batch [V] of numpy arrays.
        sizes: width and height of each camera's image, pixels.

    Returns:
        At most :data:`MAX_POINTS` points for each camera, world units.
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
    """Pixels of points; a point that is not in front of its camera gets pixels far outside the image.

    Args:
        viewmats: world-to-camera transform of each point's camera, [..., 4, 4].
        lens: lens of each point's camera.
        points: points in world units, [..., 3].
    """
    local = np.einsum("...ij,...j->...i", viewmats[..., :3, :3], points) + viewmats[..., :3, 3]
    ahead = np.concatenate([local[..., :2], np.maximum(local[..., 2:], 1e-9)], axis=-1)
    # Fits take differences of these pixels, for which float32 is too coarse where a lens computes with jax.
    with jax.enable_x64(True):
        return np.asarray(lens.project(ahead))


def lens_of(lenses: Lens, index: int | Int[np.ndarray, " n"]) -> Lens:
    """One lens of a batch, or, for an array of indices, a batch of several; indices may repeat."""
    return jax.tree.map(lambda leaf: leaf[index], lenses)


def fit_similarity(
    given: Viewmats,
    refined: Viewmats,
    lenses: Lens,
    points: Sequence[Float[np.ndarray, "_ 3"]],
) -> Similarity | None:
    """The similarity, of seven numbers, that takes given cameras to refined ones best.

    It minimises the sum, over the points that each view sees, of the squared distance between the pixel of the
    refined camera and that of the given camera once it is moved (Levenberg-Marquardt).

    Args:
        given: world-to-camera transforms as the dataset has them, [V, 4, 4].
        refined: world-to-camera transforms after refinement, [V, 4, 4].
        lenses: lenses of the cameras, a batch [V] of numpy arrays.
        points: points that each view sees, in the world of the refined cameras, world units.

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
        """The similarity about the cameras' middle, in units of their spread, so that numbers have one size."""
        turn, shift, scale = numbers[:3], numbers[3:6] * length, float(np.exp(numbers[6]))
        rotation = Rotation.from_rotvec(turn).as_matrix()
        return Similarity(rotation, middle + shift - scale * rotation @ middle, scale)

    def errors(numbers: Float[np.ndarray, " 7"]) -> Float[np.ndarray, " n"]:
        return (project(similarity(numbers).move(given)[views], lens, seen) - target).ravel()

    return similarity(least_squares(errors, np.zeros(7), method="lm", xtol=1e-12, ftol=1e-12).x)


def motions_between(start: Viewmats, end: Viewmats) -> Float[np.ndarray, "views 6"]:
    """The motion from each start camera to its end camera.

    Args:
        start: world-to-camera transforms, [V, 4, 4].
        end: world-to-camera transforms, [V, 4, 4].

    Returns:
        Six numbers for each camera, [V, 6], as :func:`splax.corrections.rigid.move_camera` takes them.
    """
    turns = np.einsum("vji,vjk->vik", end[:, :3, :3], start[:, :3, :3])
    vectors = Rotation.from_matrix(turns).as_rotvec()
    return np.concatenate([vectors, camera_centres(end) - camera_centres(start)], axis=1)


def move_viewmat(
    viewmat: Float[np.ndarray, "4 4"], motion: Float[np.ndarray, " 6"]
) -> Float[np.ndarray, "4 4"]:
    """The view matrix of :func:`splax.corrections.rigid.move_camera`, computed by numpy in float64."""
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
