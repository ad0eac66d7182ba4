"""Camera paths for films."""

from __future__ import annotations

import dataclasses

import numpy as np

from splax.cameras import Camera
from splax.scene import Scene


def orbit(scene: Scene, num: int = 120) -> list[Camera]:
    """A circle round what the training cameras look at, at their mean height and median distance.

    Args:
        scene: its training cameras give centre, upward direction and distance; the first gives size, lens, time.
        num: cameras on the circle, evenly spaced.

    Raises:
        ValueError: if ``num`` is below 1.
    """
    if num < 1:
        raise ValueError(f"orbit needs at least 1 camera, got num={num}.")
    first = scene.train[0].camera
    poses = np.stack([np.asarray(view.camera.camera_to_world, np.float64) for view in scene.train])
    offsets = poses[:, :3, 3] - scene.center
    up = -poses[:, :3, 1].mean(axis=0)  # the cameras' y axes point down
    up = up / np.linalg.norm(up) if np.linalg.norm(up) > 1e-6 else np.array([0.0, 0.0, 1.0])
    heights = offsets @ up
    radii = np.linalg.norm(offsets - heights[:, None] * up, axis=1)
    # Begins at the first camera's side.
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
