"""Back-projects depth maps to coloured surface points in the world."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import zip_longest

import numpy as np
from jaxtyping import Float, Float32, UInt8

from splax.data.colmap_lens import same_aspect_ratio
from splax.data.decode import downscale_image, resize_nearest
from splax.data.points import PointCloud
from splax.initialization.depth_source import DepthError, DepthSource
from splax.initialization.small_photos import resized_K, usable_pixels
from splax.initialization.voxels import merge_points
from splax.scene import Scene, View

# Most pixels of all depth maps together, that is points before they are merged.
_MAX_PIXELS = 2_000_000


def points_from_depth(
    scene: Scene, depth: DepthSource | Iterable[Float32[np.ndarray, "h w"] | None], num: int
) -> PointCloud:
    """Surface points of a scene: the back-projected depth maps, merged to at most ``num`` points.

    Args:
        scene: scene whose training views are used.
        depth: source of depth, or one depth map (or None) for each training view, in their order.
        num: most points to return, at least 1.

    Raises:
        DepthError: if no pixel has a depth.
        ValueError: if the depth maps do not fit the views, or ``num`` is below 1.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}.")
    depths = depth(scene) if callable(depth) else depth
    parts = []
    share = _MAX_PIXELS // len(scene.train)
    for view, values in zip(scene.train, _as_many(depths, len(scene.train)), strict=True):
        if values is not None:
            parts.append(back_project(view, _fitted(values, view, max(share, 1))))
    positions = np.concatenate([part[0] for part in parts]) if parts else np.empty((0, 3))
    if not len(positions):
        raise DepthError("no pixel of the training views has a depth that can be used")
    colors = np.concatenate([part[1] for part in parts])
    return merge_points(positions, colors, num, center=scene.center, radius=scene.radius)


def back_project(
    view: View, depth: Float32[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    """World points that the pixels of a depth map show, and the photo's colours there.

    Pixels are left out if their depth is unknown, they are masked, or they are not opaque.

    Args:
        view: photo with its camera.
        depth: camera-space z in world units, [H, W], of any size; 0, NaN or infinite where unknown.

    Returns:
        Points in world coordinates, [n, 3], and their RGB colours, [n, 3].
    """
    height, width = depth.shape
    known = np.isfinite(depth) & (depth > 0) & usable_pixels(view, width, height)
    rows, columns = np.nonzero(known)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], axis=-1)
    local = pixels @ np.linalg.inv(resized_K(view, width, height)).T * depth[known][:, None]
    camera_to_world = np.linalg.inv(np.asarray(view.camera.viewmat, np.float64))
    points = local @ camera_to_world[:3, :3].T + camera_to_world[:3, 3]
    return points, downscale_image(view.image, width, height)[known]


def _as_many(
    depths: Iterable[Float32[np.ndarray, "h w"] | None], num: int
) -> Iterator[Float32[np.ndarray, "h w"] | None]:
    """Yields the depth maps one by one.

    Raises:
        ValueError: if there are more or fewer depth maps than ``num``.
    """
    missing = object()
    for values, index in zip_longest(depths, range(num), fillvalue=missing):
        if values is missing or index is missing:
            raise ValueError(
                f"depth must hold one map, or None, for each of the {num} training views, in their order; got "
                f"{'fewer' if values is missing else 'more'}."
            )
        yield values  # pyright: ignore[reportReturnType]


def _fitted(
    depth: Float32[np.ndarray, "h w"], view: View, max_pixels: int
) -> Float32[np.ndarray, "height width"]:
    """The depth map, resized so that it has at most ``max_pixels`` pixels.

    Raises:
        ValueError: if it is no depth map of the view.
    """
    depth = np.asarray(depth, np.float32)
    camera = view.camera
    if depth.ndim != 2 or not same_aspect_ratio(depth.shape[::-1], (camera.width, camera.height)):
        raise ValueError(
            f"View {view.name!r}: its depth map must be [height, width] with the photo's aspect ratio, that of "
            f"{camera.height} x {camera.width}; got {list(depth.shape)}."
        )
    factor = math.sqrt(max_pixels / depth.size)
    if factor >= 1:
        return depth
    height, width = (max(1, int(length * factor)) for length in depth.shape)
    return resize_nearest(depth, width, height)
