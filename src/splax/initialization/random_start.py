"""Random points in a cube around the scene, for a start without known surfaces."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from splax.cameras import Camera
from splax.data.decode import downscale_image
from splax.initialization.small_photos import small_size
from splax.scene import Scene, View

# Half the side of the cube for scenes with a background, in units of the cameras' distance from the point at which
# they look. The surroundings of photos are about as far away as that point.
_LOOKING_IN = 1.5
# Half the side of the cube for cameras that look away from each other, in units of the extent (gsplat's choice).
_LOOKING_OUT = 3.0
# Most views whose silhouettes are used, most pixels of each silhouette, and most rounds of drawing points.
_MAX_CARVERS, _CARVER_PIXELS, _MAX_TRIES = 64, 250_000, 200
# Most views whose alpha is read to find out whether the photos show an object.
_MAX_LOOKED_INTO = 16


class Cube(NamedTuple):
    """A cube.

    Attributes:
        center: centre of the cube in the world, [3].
        half_side: half the length of a side, world units.
    """

    center: Float[np.ndarray, " 3"]
    half_side: float


class _Silhouette(NamedTuple):
    """A silhouette of the scene.

    Attributes:
        camera: camera with numpy arrays.
        opaque: whether the photo shows something at each pixel, [H, W].
    """

    camera: Camera
    opaque: Bool[np.ndarray, "h w"]


def random_cube(scene: Scene) -> Cube:
    """The cube to fill with random Gaussians, by the kind of scene.

    - Photos with a transparent background show one whole object. Half a side is what every camera sees at the
      distance of the point at which the cameras look: 1.45 for NeRF-synthetic, where 3DGS takes 1.3.
    - Photos from around a place, looking in: half a side is 1.5 times the distance from which they were taken.
    - Photos from within a place, looking out: half a side is 3 times the extent, as in gsplat.
    """
    if _shows_object(scene):
        return Cube(scene.center, scene.radius * min(_half_width(view) for view in scene.train))
    viewmats = np.stack([np.asarray(view.camera.viewmat, np.float64) for view in scene.train])
    depths = viewmats[:, 2, :3] @ scene.center + viewmats[:, 2, 3]
    if np.mean(depths > 0) > 0.5:
        return Cube(scene.center, _LOOKING_IN * scene.radius)
    positions = np.linalg.inv(viewmats)[:, :3, 3]
    return Cube(positions.mean(axis=0), _LOOKING_OUT * scene.extent)


def _shows_object(scene: Scene) -> bool:
    """Whether most photos of a sample have a transparent background."""
    views = scene.train[:: -(-len(scene.train) // _MAX_LOOKED_INTO)]
    return 2 * sum(view.has_alpha and view.alpha is not None for view in views) > len(views)


def random_points(scene: Scene, num: int, rng: np.random.Generator) -> Float[np.ndarray, "n 3"]:
    """Points uniform in :func:`random_cube`, without those at which a photo is transparent.

    Args:
        scene: scene whose training views, with their alpha, are used.
        num: number of points.
        rng: source of randomness.

    Returns:
        The points, [n, 3]. They are fewer than ``num`` if nearly all of the cube is empty. If it is all empty, as
        photos contradict each other, transparency is ignored.
    """
    cube = random_cube(scene)
    silhouettes = _silhouettes(scene)
    kept, found = [], 0
    for _ in range(_MAX_TRIES):
        points = cube.center + rng.uniform(-cube.half_side, cube.half_side, (num, 3))
        for silhouette in silhouettes:
            points = points[_is_opaque_or_unseen(silhouette, points)]
        kept.append(points)
        found += len(points)
        if found >= num:
            break
    if not found:  # photos that contradict each other
        return cube.center + rng.uniform(-cube.half_side, cube.half_side, (num, 3))
    return np.concatenate(kept)[:num]


def _half_width(view: View) -> float:
    """Tangent of half the narrower field of view."""
    K = np.asarray(view.camera.K)
    return float(min(0.5 * view.camera.width / K[0, 0], 0.5 * view.camera.height / K[1, 1]))


def _silhouettes(scene: Scene) -> list[_Silhouette]:
    views = [view for view in scene.train if view.has_alpha]
    found = []
    for view in views[:: max(1, -(-len(views) // _MAX_CARVERS))]:
        alpha = view.alpha
        if alpha is not None:
            size = small_size(view, _CARVER_PIXELS)
            camera = view.camera.resize(*size).to_numpy()
            found.append(_Silhouette(camera, downscale_image(alpha, *size) > 0))
    return found


def _is_opaque_or_unseen(silhouette: _Silhouette, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
    """Whether points are not seen by a camera, or its photo is opaque where it sees them, [n]."""
    camera, opaque = silhouette
    local = np.asarray(camera.to_camera_space(points))
    in_front = local[:, 2] > 0
    column, row = np.asarray(camera.lens.project(np.where(in_front[:, None], local, (0, 0, 1)))).T
    height, width = opaque.shape
    seen = in_front & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = np.where(seen, row, 0).astype(np.intp), np.where(seen, column, 0).astype(np.intp)
    return ~seen | opaque[index]
