"""What goes wrong with real photos, done to good ones by a known amount: brightness, and poses of cameras."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from splax.cameras import Camera
from splax.scene import Scene, View

LOWEST_GAIN, HIGHEST_GAIN = 0.6, 1.4
TURN = np.radians(1.0)
# Of the scene's extent.
SHIFT = 0.02


def disturb_gains(scene: Scene, seed: int = 0) -> Scene:
    """Each photo multiplied by a gain of its own, drawn evenly from 0.6 to 1.4; what is too bright saturates.

    Photos held out too: a real one would be.
    """
    names = sorted(view.name for view in (*scene.train, *scene.test))
    drawn = np.random.default_rng(seed).uniform(LOWEST_GAIN, HIGHEST_GAIN, len(names))
    gains = dict(zip(names, drawn.tolist(), strict=True))

    def brighten(views: Sequence[View]) -> list[View]:
        return [_multiplied(view, gains[view.name]) for view in views]

    return dataclasses.replace(scene, train=brighten(scene.train), test=brighten(scene.test))


def disturb_poses(scene: Scene, seed: int = 0) -> Scene:
    """Each training camera turned by 1 degree and moved by 2 % of the scene's extent, in random directions.

    Cameras of views held out stay where they are.
    """
    rng = np.random.default_rng(seed)
    turns, shifts = (_directions(rng, len(scene.train)) for _ in range(2))
    train = [
        dataclasses.replace(view, camera=_moved(view.camera, TURN * turn, SHIFT * scene.extent * shift))
        for view, turn, shift in zip(scene.train, turns, shifts, strict=True)
    ]
    return dataclasses.replace(scene, train=train)


DISTURBANCES: dict[str, Callable[[Scene], Scene]] = {"gains": disturb_gains, "poses": disturb_poses}


def _multiplied(view: View, gain: float) -> View:
    return dataclasses.replace(view, image=np.rint(view.image * gain).clip(0, 255).astype(np.uint8))


def _moved(camera: Camera, turn: Float[np.ndarray, " 3"], shift: Float[np.ndarray, " 3"]) -> Camera:
    """The camera turned where it stands, by a rotation vector in radians, and then moved; both in the world."""
    pose = np.linalg.inv(np.asarray(camera.viewmat, np.float64))
    pose[:3, :3] = Rotation.from_rotvec(turn).as_matrix() @ pose[:3, :3]
    pose[:3, 3] += shift
    return dataclasses.replace(camera, viewmat=jnp.asarray(np.linalg.inv(pose), jnp.float32))


def _directions(rng: np.random.Generator, num: int) -> Float[np.ndarray, "n 3"]:
    """Unit vectors, even on the sphere."""
    vectors = rng.standard_normal((num, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
