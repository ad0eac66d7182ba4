"""A forward-facing set, ray traced: cameras close together, a room far behind, an exposure that changes.

What photos of one side of a place are like, with cameras that are known exactly. Most of the room is seen under a
small parallax. Exposure and white balance change along the sequence as an automatic camera's do, for photos held
out too.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from splax.cameras import Camera
from splax.data.raytracer import GAMMA, Lighting, Solid, ray_trace
from splax.data.shapes import Box, Sphere, Vectors
from splax.data.synthetic import LAMP, SAMPLES, demo_lighting, make_noise
from splax.scene import Scene, View, split_views

FOV_X = np.radians(60)
LAMP_AT = (-2.0, 6.0, 8.6)
# Exposure over the sequence: how much it goes up and down, how often, and how far red and blue part.
GAIN, GAIN_TURNS, WHITE_BALANCE = 0.25, 1.5, 0.05

Texture = Callable[[Vectors], Vectors]


def make_forward_scene(
    num_views: int = 40, width: int = 480, height: int = 360, *, test_every: int = 8, seed: int = 0
) -> Scene:
    """Ray traces the set.

    Args:
        num_views: of the sequence, at least 2; their names are "0000", "0001" and so on.
        width: of the pictures, in pixels.
        height: of the pictures, in pixels.
        test_every: every how many-th view is held out, from the first.
        seed: of the textures. The same seed gives the same bytes.

    Raises:
        ValueError: on fewer views.
    """
    if num_views < 2:
        raise ValueError(
            f"num_views must be at least 2, got {num_views}: cameras stand along a closed curve."
        )
    solids, lighting = _room(np.random.default_rng(seed)), _lighting()
    views = []
    # Without the end, where the camera would stand as for the first view, which is held out.
    for index, turn in enumerate(np.linspace(0, 1, num_views, endpoint=False)):
        camera = _camera(turn, width, height)
        photo = expose(ray_trace(solids, lighting, camera, samples=SAMPLES), exposure(turn))
        views.append(View(photo, camera, f"{index:04d}"))
    train, test = split_views(views, test_every)
    return Scene(train, test, source=f"ray traced forward-facing set, seed {seed}")


def exposure(turn: float) -> Float[np.ndarray, " 3"]:
    """Factors of linear RGB at a moment of the sequence, from 0 (first view) to 1 (after the last)."""
    gain = 1 + GAIN * np.sin(2 * np.pi * GAIN_TURNS * turn)
    shift = WHITE_BALANCE * np.sin(2 * np.pi * turn)
    return gain * np.array([1 + shift, 1, 1 - shift])


def expose(photo: UInt8[np.ndarray, "h w 3"], factors: Float[np.ndarray, " 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with its linear light multiplied; what is too bright saturates."""
    light = (photo / 255.0) ** GAMMA * factors
    return np.rint(255 * light.clip(0, 1) ** (1 / GAMMA)).astype(np.uint8)


def _camera(turn: float, width: int, height: int) -> Camera:
    """On a curve about 3 units wide, 16 from the things it looks at."""
    angle = 2 * np.pi * turn
    position = (1.6 * np.sin(angle), 0.5 * np.sin(2 * angle), 1 + 0.8 * np.cos(angle))
    target = (np.cos(angle + 1), 16, 1.5 + 0.6 * np.sin(angle))
    return Camera.look_at(position, target, fov_x=FOV_X, width=width, height=height)


def _lighting() -> Lighting:
    """The demo's lamp below the ceiling, with a sky that lights the whole room."""
    lighting = demo_lighting()
    return dataclasses.replace(
        lighting,
        lamp=(lighting.lamp + np.subtract(LAMP_AT, LAMP)).astype(np.float32),
        lamp_color=_vector(0.75, 0.72, 0.66),
        sky_color=_vector(0.5, 0.52, 0.56),
    )


def _room(rng: np.random.Generator) -> list[Solid]:
    """Walls, floor and ceiling, the back wall at y = 20, and things before it."""
    noise = make_noise(rng)

    def mottled(first: str, second: str, frequency: float) -> Texture:
        return lambda points: _blend(noise(points * frequency), first, second)

    walls = [
        _box((0, 20.2, 3), (14, 0.2, 6), _bricks(noise)),
        _box((-10.2, 10, 3), (0.2, 12, 6), mottled("#d9d3c3", "#b9b6ad", 0.3)),
        _box((10.2, 10, 3), (0.2, 12, 6), mottled("#c9d3d8", "#a4b4be", 0.3)),
        _box((0, 10, -3.2), (14, 14, 0.2), _boards(noise)),
        _box((0, 10, 9.2), (14, 14, 0.2), mottled("#f3f0ea", "#e7e3da", 0.15)),
    ]
    things = [
        _box((-4.5, 15, -1.7), (2, 1, 1.3), mottled("#7c3b2e", "#a8553d", 2.0)),
        _box((3.5, 17, 0), (1.6, 0.6, 3), mottled("#3f5a4a", "#5f8069", 1.5)),
        _ball((0.3, 13, -2), 1.0, 0.4, _stripes("#d8432f", "#f4ead8", 0.5)),
        _ball((-1.6, 18, 3.4), 0.9, 0.0, mottled("#f2e2a2", "#e9b94f", 3.0)),
        _ball((6.5, 12, -2.2), 0.8, 0.9, _stripes("#2a57a8", "#e7e7f2", 0.4)),
        _box((5.5, 19.8, 4), (1.8, 0.1, 1.2), _stripes("#20304a", "#d9b36b", 0.45)),
    ]
    return walls + things


def _box(center: tuple[float, ...], half: tuple[float, ...], texture: Texture) -> Solid:
    return Solid(Box(_vector(*center), _vector(*half)), texture)


def _ball(center: tuple[float, ...], radius: float, tilt: float, texture: Texture) -> Solid:
    """A sphere whose texture is turned about x, by radians."""
    c, s = np.cos(tilt), np.sin(tilt)
    rotation = np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)
    return Solid(Sphere(_vector(*center), radius, rotation), texture)


def _bricks(noise: Callable) -> Texture:
    """Rows half a unit high, every second one shifted, with light joints."""

    def texture(points: Vectors) -> Vectors:
        along, row = points[:, 0] + points[:, 1], points[:, 2] / 0.5
        place = (along + 0.5 * (np.floor(row) % 2)) % 1
        to_middle = np.maximum(np.abs(place - 0.5), np.abs(row % 1 - 0.5))
        joint = _soft_step(to_middle - 0.47, 0.02)[:, None]
        brick = _blend(noise(points * 1.7), "#b08a6a", "#8d5f48")
        return (brick * (1 - joint) + _linear("#ddd6c8") * joint).astype(np.float32)

    return texture


def _boards(noise: Callable) -> Texture:
    """Boards along y, each of a tone of its own, with a grain and dark gaps."""

    def texture(points: Vectors) -> Vectors:
        across = points[:, 0] / 0.8
        tone = (np.sin(12.9898 * np.floor(across)) * 43758.5453) % 1
        grain = noise(points * np.array([3, 0.6, 1]))
        gap = _soft_step(np.abs(across % 1 - 0.5) - 0.48, 0.02)[:, None]
        wood = _blend(0.5 * tone + 0.5 * grain, "#a9825a", "#6f4e33")
        return (wood * (1 - 0.6 * gap)).astype(np.float32)

    return texture


def _stripes(first: str, second: str, period: float) -> Texture:
    return lambda points: _blend(_soft_step(np.sin(2 * np.pi * points[:, 2] / period), 0.25), first, second)


def _blend(weight: np.ndarray, first: str, second: str) -> Vectors:
    weight = weight[:, None].astype(np.float32)
    return (1 - weight) * _linear(first) + weight * _linear(second)


def _soft_step(value: np.ndarray, width: float) -> np.ndarray:
    """0 below, 1 above zero, with an edge soft enough not to alias."""
    share = (0.5 + 0.5 * value / width).clip(0, 1)
    return share * share * (3 - 2 * share)


def _linear(color: str) -> Float[np.ndarray, " 3"]:
    """A colour written as on the web, ``#rrggbb``, to linear RGB."""
    return (np.frombuffer(bytes.fromhex(color[1:]), np.uint8) / np.float32(255)) ** np.float32(GAMMA)


def _vector(*values: float) -> Float[np.ndarray, " 3"]:
    return np.array(values, np.float32)
