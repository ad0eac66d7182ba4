"""Camera paths for videos."""

from __future__ import annotations

import dataclasses

import numpy as np

from splax.cameras import Camera
from splax.scene import Scene


def orbit(scene: Scene, num: int = 120) -> list[Camera]:
    """Cameras on a circle around the point at which the training cameras look.

    The circle has the mean height and the median distance of the training cameras, and begins near the first one.

    Args:
        scene: scene whose training cameras give the centre, the upward direction and the distance. The first one
            also gives the image size, the lens and the time.
        num: number of cameras on the circle, evenly spaced.

    Returns:
        The cameras, in order along the circle.

    Raises:
        ValueError: if ``num`` is below 1.

    Example:
        >>> import splax
        >>> scene = splax.make_demo_scene(num_train=4, num_test=0, width=16, height=12)
        >>> cameras = splax.orbit(scene, num=8)
        >>> len(cameras), cameras[0].width, cameras[0].height
        (8, 16, 12)
    """
    if num < 1:
        raise ValueError(f"orbit needs at least 1 camera, got num={num}; pass num=1 or more.")
    first = scene.train[0].camera
    poses = np.stack([np.asarray(view.camera.camera_to_world, np.float64) for view in scene.train])
    offsets = poses[:, :3, 3] - scene.center
    up = -poses[:, :3, 1].mean(axis=0)  # the cameras' y axes point down
    up = up / np.linalg.norm(up) if np.linalg.norm(up) > 1e-6 else np.array([0.0, 0.0, 1.0])
    heights = offsets @ up
    radii = np.linalg.norm(offsets - heights[:, None] * up, axis=1)
    # The circle begins on the side of the first camera.
    start = offsets[0] - heights[0] * up
    if np.linalg.norm(start) < 1e-6:
        start = np.cross(up, [1.0, 0.0, 0.0] if abs(up[0]) < 0.9 else [0.0, 1.0, 0.0])
    start /= np.linalg.norm(start)
    side = np.cross(up, start)
    cameras = []
    for angle in np.linspace(0, 2 * np.pi, num, endpoint=False):
        direction = np.cos(angle) * start + np.sin(angle) * side
        position = scene.center + heights.mean() * up + max(np.median(radii), 1e-3) * direction
        camera = Camera.look_at(
            position, scene.center, up=up, fov_x=1.0, width=first.width, height=first.height
        )
        cameras.append(dataclasses.replace(first, viewmat=camera.viewmat))
    return cameras
