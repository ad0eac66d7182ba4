"""The distance from which a scene is photographed: the unit of sizes and learning rates in training.

The spread of the cameras (:attr:`splax.Scene.extent`) is about that distance where cameras surround an object. It
is far less where cameras stand together and look at a room: measured by their spread, learning rates would be too
low there, and every Gaussian would count as large.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from splax.cameras import Camera
from splax.gaussians import Gaussians
from splax.scene import View

# Most views and Gaussians that are measured; more of them do not change a median.
_MAX_VIEWS = 32
_MAX_GAUSSIANS = 20_000


def photographed_distance(gaussians: Gaussians, views: Sequence[View], *, fallback: float) -> float:
    """Median over the views of the median depth of the Gaussians that they show, world units.

    In a view's median a Gaussian counts by its area in the image, so that many points close together weigh no more
    than the area that they cover.

    Args:
        gaussians: the Gaussians that training starts from.
        views: the training views.
        fallback: the distance to return if no view shows a Gaussian, world units.
    """
    alive = np.flatnonzero(np.asarray(gaussians.alive[...]))
    rows = alive[:: max(1, len(alive) // _MAX_GAUSSIANS)]
    means = np.asarray(gaussians.means[...], np.float64)[rows]
    log_areas = 2 * np.asarray(gaussians.log_scales[...], np.float64)[rows].mean(axis=1)
    finite = np.isfinite(means).all(axis=1) & np.isfinite(log_areas)
    sample = views[:: max(1, len(views) // _MAX_VIEWS)]
    medians = [_median_depth(means[finite], log_areas[finite], view.camera) for view in sample]
    depths = [depth for depth in medians if depth is not None]
    return float(np.median(depths)) if depths else fallback


def _median_depth(
    means: Float[np.ndarray, "n 3"], log_areas: Float[np.ndarray, " n"], camera: Camera
) -> float | None:
    """Median camera-space z of the Gaussians in the image, weighted by their area; None if none lies in it."""
    host = camera.to_numpy()
    local = np.asarray(host.to_camera_space(means))
    depths, ahead = local[:, 2], local[:, 2] > 0
    pixels = np.asarray(host.lens.project(np.where(ahead[:, None], local, 1)))
    inside = ahead & ((pixels >= 0) & (pixels < (camera.width, camera.height))).all(axis=1)
    if not inside.any():
        return None
    order = np.argsort(depths[inside])
    logs = (log_areas[inside] - 2 * np.log(depths[inside]))[order]
    total = np.cumsum(np.exp(logs - logs.max()))
    return float(depths[inside][order][np.searchsorted(total, total[-1] / 2)])
