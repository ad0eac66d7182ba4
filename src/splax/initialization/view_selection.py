"""Selects the photos to compare with each photo: they show the same, from another side but not too far away."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from splax.initialization.small_photos import SmallPhotos
from splax.scene import Scene

# Best angle between the directions from which two cameras see a point, and the standard deviations of the weights
# below and above it, in degrees. MVSNet (Yao et al. 2018, section 4.1) has 5, 1 and 10.
_BEST_ANGLE, _BELOW, _ABOVE = 7.0, 2.0, 10.0
_SMALLEST_ANGLE, _LARGEST_ANGLE = 0.2, 40.0
# Least depth at which a camera looks, as a share of the distance from which the scene was photographed.
_NEAREST_FOCUS = 0.2


def focus_depths(photos: SmallPhotos, scene: Scene) -> Float[np.ndarray, " v"]:
    """Depth at which each camera looks, estimated from the cameras alone, in world units; positive, [V]."""
    depth = photos.viewmats[:, 2, :3] @ scene.center + photos.viewmats[:, 2, 3]
    return np.where(depth > _NEAREST_FOCUS * scene.radius, depth, scene.radius)


def select_views(
    photos: SmallPhotos, focus: Float[np.ndarray, " v"], num: int
) -> tuple[Int[np.ndarray, "v n"], Float[np.ndarray, "v n"]]:
    """Selects, for each photo, the other photos to compare it with.

    Two photos are compared if both show the point on the first one's axis at depth ``focus``. Their weight, from 0
    (useless) to 1 (best), depends on the angle between their lines of sight.

    Args:
        photos: photos with their cameras, at least two.
        focus: depth at which each camera looks, world units, [V].
        num: most photos to select for each photo.

    Returns:
        Indices of the selected photos, best first, [V, N], and their weights, [V, N].
    """
    camera_to_world = np.linalg.inv(photos.viewmats)
    positions, forward = camera_to_world[:, :3, 3], camera_to_world[:, :3, 2]
    points = positions + focus[:, None] * forward
    angles = _angles(positions - points, positions[None] - points[:, None])
    sigma = np.where(angles < _BEST_ANGLE, _BELOW, _ABOVE)
    weights = np.exp(-0.5 * ((angles - _BEST_ANGLE) / sigma) ** 2)
    weights *= _sees(photos, points) & (angles > _SMALLEST_ANGLE) & (angles < _LARGEST_ANGLE)
    np.fill_diagonal(weights, 0)
    order = np.argsort(-weights, axis=1, kind="stable")[:, : min(num, len(positions) - 1)]
    return order, np.take_along_axis(weights, order, axis=1)


def _angles(first: Float[np.ndarray, "v 3"], second: Float[np.ndarray, "v v 3"]) -> Float[np.ndarray, "v v"]:
    """Angles between vectors in degrees, [V, V]; 90 if one of them has no length."""
    product = np.einsum("ic,ijc->ij", first, second)
    lengths = np.linalg.norm(first, axis=-1)[:, None] * np.linalg.norm(second, axis=-1)
    return np.degrees(np.arccos(np.clip(product / np.maximum(lengths, 1e-12), -1, 1)))


def _sees(photos: SmallPhotos, points: Float[np.ndarray, "v 3"]) -> np.ndarray:
    """Whether photo j shows point i, [V, V]."""
    local = np.einsum("jrc,ic->ijr", photos.viewmats[:, :3, :3], points) + photos.viewmats[:, :3, 3]
    pixels = np.einsum("jrc,ijc->ijr", photos.Ks, local)
    depth = np.where(local[..., 2:] > 0, local[..., 2:], np.inf)
    pixels = pixels[..., :2] / depth
    return (local[..., 2] > 0) & ((pixels > 0) & (pixels < photos.sizes)).all(axis=-1)
