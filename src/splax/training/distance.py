"""How far away what is photographed lies: the unit of sizes and rates in training.

The spread of the cameras (:attr:`splax.Scene.extent`) is about that distance where cameras go round an object, and
far less where they stand together and look at a room: rates are then too low, and every Gaussian counts as large.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from splax.cameras import Camera
from splax.gaussians import Gaussians
from splax.scene import View

# Views and Gaussians that are looked at; more do not change a median.
_MAX_VIEWS = 32
_MAX_GAUSSIANS = 20_000


def photographed_distance(gaussians: Gaussians, views: Sequence[View], *, fallback: float) -> float:
    """Median over the views of the median depth of what they show, world units.

    In a view's median a Gaussian counts by its area in the picture: points that are dense somewhere weigh no more
    than what they cover.

    Args:
        gaussians: where training starts.
        views: training views.
        fallback: the distance where no view shows a Gaussian.
    """
    alive = np.flatnonzero(np.asarray(gaussians.alive[...]))
    rows = alive[:: max(1, len(alive) // _MAX_GAUSSIANS)]
    means = np.asarray(gaussians.means[...], np.float64)[rows]
    log_areas = 2 * np.asarray(gaussians.log_scales[...], np.float64)[rows].mean(axis=1)
    known = np.isfinite(means).all(axis=1) & np.isfinite(log_areas)
    sample = views[:: max(1, len(views) // _MAX_VIEWS)]
    medians = [_median_depth(means[known], log_areas[known], view.camera) for view in sample]
    seen = [depth for depth in medians if depth is not None]
    return float(np.median(seen)) if seen else fallback


def _median_depth(
    means: Float[np.ndarray, "n 3"], log_areas: Float[np.ndarray, " n"], camera: Camera
) -> float | None:
    """Median camera-space z of what lies in the picture, by area there; None if nothing does."""
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
