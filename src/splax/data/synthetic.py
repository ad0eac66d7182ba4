"""The demo scene: a ray traced still life on a round table, with known cameras.

All solids lie within 2 units of the origin, on a table top at z = 0, against a constant background
(``Scene.background``). Nothing is infinitely far away, and a renderer that uses that background needs no Gaussians
for it. The images are made by intersecting rays with surfaces (:mod:`splax.data.raytracer`), so fitting Gaussians
to them is a reconstruction, not a copy.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from splax.cameras import Camera
from splax.data.raytracer import GAMMA, Lighting, Solid, ray_trace
from splax.data.shapes import Box, Disc, Scalars, Sphere, Vectors
from splax.scene import Scene, View

_BACKGROUND = (0.0, 0.0, 0.0)
SAMPLES = 2  # subpixels per pixel and axis
TABLE_RADIUS = 2.0
LAMP = (2.2, -1.6, 4.2)
_LAMP_RADIUS = 0.45
_LOOK_AT = (0.0, 0.0, 0.2)
_FOV_X = np.radians(50)


def make_demo_scene(
    num_train: int = 48, num_test: int = 8, width: int = 200, height: int = 150, seed: int = 0
) -> Scene:
    """Ray traces the demo scene.

    The cameras stand on a hemisphere around the table and look at its middle. Test cameras stand between the
    training cameras, at other heights, so that training sees no test view.

    Args:
        num_train: number of training views, at least 1.
        num_test: number of test views, at least 0.
        width: width of the images in pixels.
        height: height of the images in pixels.
        seed: seed of the textures' noise and of the cameras' heights. The same seed gives the same bytes.

    Raises:
        ValueError: if there is no training view or a size is not positive.

    Example:
        >>> import splax
        >>> scene = splax.make_demo_scene(num_train=4, num_test=2, width=32, height=24)
        >>> len(scene.train), len(scene.test), scene.train[0].image.shape
        (4, 2, (24, 32, 3))
    """
    if num_train < 1 or num_test < 0:
        raise ValueError(f"The demo needs num_train >= 1 and num_test >= 0, got {num_train} and {num_test}.")
    rng = np.random.default_rng(seed)
    solids, lighting = demo_solids(rng), demo_lighting()

    def views(prefix: str, count: int, phase: float) -> list[View]:
        turns = (np.arange(count) + phase) / max(count, 1)
        # Heights in golden steps cover the range evenly for any number of views.
        heights = (np.arange(count) * 0.618 + rng.random()) % 1
        cameras = [demo_camera(t, h, width, height) for t, h in zip(turns, heights, strict=True)]
        return [
            View(ray_trace(solids, lighting, camera, samples=SAMPLES), camera, f"{prefix}_{i:03d}")
            for i, camera in enumerate(cameras)
        ]

    # If one count divides the other, each test view is half a step away from a training view.
    train, test = views("train", num_train, 0.0), views("test", num_test, 0.5 * max(num_test, 1) / num_train)
    return Scene(train, test, source=f"ray traced demo, seed {seed}", background=_BACKGROUND)


def demo_camera(turn: float, height: float, image_width: int, image_height: int) -> Camera:
    """A camera on the hemisphere.

    Args:
        turn: position around the table, in [0, 1).
        height: height above the table, from 0 (low) to 1 (high).
        image_width: width of the image in pixels.
        image_height: height of the image in pixels.
    """
    azimuth = 2 * np.pi * turn
    elevation = np.radians(18 + 40 * height)
    distance = 4.7 + 0.3 * np.sin(3 * azimuth)
    out = np.array(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
    )
    position = np.array(_LOOK_AT) + distance * out
    return Camera.look_at(position, _LOOK_AT, fov_x=_FOV_X, width=image_width, height=image_height)


def demo_lighting() -> Lighting:
    """One warm lamp above the table and a dim blue sky, with a sample for each subpixel."""
    count = SAMPLES**2
    order = np.arange(count) + 0.5
    angle = order * np.pi * (3 - np.sqrt(5))  # the sunflower pattern is even on a disc
    disc = np.sqrt(order / count)[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    lamp = np.array(LAMP) + _LAMP_RADIUS * np.concatenate([disc, np.zeros((count, 1))], -1)
    # An even disc that is lifted to the hemisphere has the density of the cosine.
    sky = np.concatenate([disc, np.sqrt(1 - (disc**2).sum(-1, keepdims=True))], -1)
    return Lighting(
        lamp=lamp.astype(np.float32),
        sky=sky.astype(np.float32),
        lamp_color=np.array([1.05, 0.98, 0.86], np.float32),
        sky_color=np.array([0.36, 0.42, 0.52], np.float32),
        background=np.array(_BACKGROUND, np.float32) ** GAMMA,
    )


def demo_solids(rng: np.random.Generator) -> list[Solid]:
    """A table, five spheres (one of them glossy) and three boxes."""
    noise = make_noise(rng)
    return [
        Solid(Disc(_vector(0, 0, 0), TABLE_RADIUS), _table(noise)),
        # A glossy sphere in the middle.
        Solid(_sphere(0.1, 0.2, 0.5, 0.5), _plain("#0f7f86"), gloss=0.16),
        # A striped ball, a planet, a marble.
        Solid(_sphere(-1.0, -0.4, 0.36, 0.36, tilt=0.5), _stripes("#d8432f", "#f4ead8", 0.24)),
        Solid(_sphere(0.8, -0.85, 0.28, 0.28, tilt=0.9), _mottled(noise, "#f2b632", "#b4531b", 4.0)),
        Solid(_sphere(1.4, 0.2, 0.2, 0.2), _plain("#7b3f9e")),
        # A toy block, a brick, and a pillar that carries a ball.
        Solid(_box((-0.75, 1.0, 0.32), (0.32, 0.32, 0.32), 0.5), _toy_block(0.32)),
        Solid(
            _box((-0.15, -1.2, 0.15), (0.42, 0.2, 0.15), -0.35), _mottled(noise, "#ad6244", "#7c432e", 5.0)
        ),
        Solid(_box((0.8, 1.15, 0.4), (0.2, 0.2, 0.4), 0.9), _mottled(noise, "#efe6cf", "#bfae8c", 3.0)),
        Solid(_sphere(0.8, 1.15, 1.0, 0.2, tilt=0.3), _stripes("#3d8f47", "#d9e8b8", 0.16)),
    ]


def make_noise(rng: np.random.Generator, size: int = 16) -> Callable[[Vectors], Scalars]:
    """Smooth value noise in [0, 1] of unit wavelength: random values on a lattice, blended smoothly."""
    lattice = rng.random((size, size, size)).astype(np.float32)

    def noise(points: Vectors) -> Scalars:
        floor = np.floor(points)
        t = (points - floor).astype(np.float32)
        t = (t * t * (3 - 2 * t)).T
        cell = floor.astype(np.int64).T
        total = np.zeros(len(points), np.float32)
        for corner in np.ndindex(2, 2, 2):
            wx, wy, wz = (u if far else 1 - u for u, far in zip(t, corner, strict=True))
            x, y, z = ((c + far) % size for c, far in zip(cell, corner, strict=True))
            total += wx * wy * wz * lattice[x, y, z]
        return total

    return noise


def _vector(*values: float) -> Float[np.ndarray, " 3"]:
    return np.array(values, np.float32)


def _linear(color: str) -> Float[np.ndarray, " 3"]:
    """A colour written as on the web, ``#rrggbb``, to linear RGB."""
    return (np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255) ** np.float32(GAMMA)


def _sphere(x: float, y: float, z: float, radius: float, tilt: float = 0.0) -> Sphere:
    c, s = np.cos(tilt), np.sin(tilt)
    rotation = np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)
    return Sphere(_vector(x, y, z), radius, rotation)


def _box(center: tuple[float, float, float], half: tuple[float, float, float], turn: float) -> Box:
    c, s = np.cos(turn), np.sin(turn)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)
    return Box(_vector(*center), _vector(*half), rotation)


Texture = Callable[[Vectors], Vectors]


def _plain(color: str) -> Texture:
    value = _linear(color)
    return lambda points: np.broadcast_to(value, points.shape)


def _blend(weight: Scalars, first: str, second: str) -> Vectors:
    weight = weight[:, None].astype(np.float32)
    return (1 - weight) * _linear(first) + weight * _linear(second)


def _soft_step(value: Scalars, width: float) -> Scalars:
    """Zero for negative values and one for positive ones, with an edge that is soft enough not to alias."""
    t = (0.5 + 0.5 * value / width).clip(0, 1)
    return t * t * (3 - 2 * t)


def _stripes(first: str, second: str, period: float) -> Texture:
    return lambda points: _blend(_soft_step(np.sin(2 * np.pi * points[:, 2] / period), 0.25), first, second)


def _toy_block(half: float) -> Texture:
    """A texture for a cube: cream faces with a blue frame and a red dot."""

    def texture(points: Vectors) -> Vectors:
        # On a cube's surface the largest of |x|, |y|, |z| is ``half``; the other two lie in the face.
        inner, outer, _ = np.sort(np.abs(points) / half, axis=-1).T
        frame = _soft_step(outer - 0.76, 0.05)[:, None]
        dot = _soft_step(0.42 - np.hypot(inner, outer), 0.05)[:, None]
        color = _linear("#efe6d2") * (1 - dot) + _linear("#cf3a2c") * dot
        return color * (1 - frame) + _linear("#2a57a8") * frame

    return texture


def _mottled(noise: Callable, first: str, second: str, frequency: float) -> Texture:
    return lambda points: _blend(noise(points * frequency), first, second)


def _table(noise: Callable) -> Texture:
    """A texture for the table: soft checks of two kinds of wood with a grain, and a dark rim."""

    def texture(points: Vectors) -> Vectors:
        x, y = points[:, 0], points[:, 1]
        waves = np.sin(np.pi * x / 0.5) * np.sin(np.pi * y / 0.5)
        wood = _blend(_soft_step(waves, 0.12), "#c9b594", "#8f7350")
        grain = 0.75 + 0.5 * (0.6 * noise(points * [2.5, 6.0, 1.0]) + 0.4 * noise(points * 1.3 + 7))
        rim = _soft_step(np.hypot(x, y) - (TABLE_RADIUS - 0.12), 0.03)
        color = wood * grain[:, None]
        return (color * (1 - rim[:, None]) + rim[:, None] * _linear("#4a3526")).astype(np.float32)

    return texture
