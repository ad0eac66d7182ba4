"""A small ray tracer: textures, soft shadows, and one bounce of reflection.

It makes images whose geometry is known exactly, for the demo and for tests; nothing here knows about Gaussians.
All functions are vectorised over rays.

The lights are a small area light, sampled at one point per subpixel, and a dull sky, sampled in one direction per
subpixel. A pixel averages its subpixels, which makes edges and shadows soft. Colours are linear until the last
step, which encodes them with a gamma of 2.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from splax.cameras import Camera
from splax.data.shapes import Scalars, Shape, Vectors

GAMMA = 2.2
# Distance from a surface, in world units, at which rays that leave it start.
_OFFSET = 1e-3
_HIGHLIGHT_SHARPNESS = 60
_HIGHLIGHT_STRENGTH = 4.0
_SKY_BRIGHTNESS = 1.6


@dataclasses.dataclass(frozen=True)
class Solid:
    """A shape and its material.

    Attributes:
        shape: surface of the solid.
        albedo: function from points in the shape's own frame, [n, 3], to linear RGB in [0, 1], [n, 3].
        gloss: share of light that a white coat reflects at a right angle, in [0, 1]; 0 is matte.
    """

    shape: Shape
    albedo: Callable[[Vectors], Vectors]
    gloss: float = 0.0


@dataclasses.dataclass(frozen=True)
class Lighting:
    """The lights of a scene.

    Attributes:
        lamp: points on the area light, one per subpixel, [samples, 3].
        sky: unit directions to the sky, one per subpixel, [samples, 3].
        lamp_color: light of the lamp on a surface that faces it, linear RGB; it does not fade with distance.
        sky_color: light of the unobstructed sky on a surface that faces up, linear RGB.
        background: colour that a camera sees behind the solids, linear RGB.
    """

    lamp: Vectors
    sky: Vectors
    lamp_color: Float[np.ndarray, " 3"]
    sky_color: Float[np.ndarray, " 3"]
    background: Float[np.ndarray, " 3"]


def trace(
    solids: Sequence[Solid], origins: Vectors, directions: Vectors
) -> tuple[Scalars, Int[np.ndarray, " n"]]:
    """Distance to the nearest solid along each ray, and the solid's index; inf and -1 where there is none.

    Args:
        solids: solids that rays can meet.
        origins: start of each ray, [n, 3].
        directions: unit direction of each ray, [n, 3].
    """
    distance = np.full(len(origins), np.inf, np.float32)
    index = np.full(len(origins), -1)
    for i, solid in enumerate(solids):
        candidate = solid.shape.intersect(origins, directions)
        nearer = candidate < distance
        distance[nearer] = candidate[nearer]
        index[nearer] = i
    return distance, index


def occluded(
    solids: Sequence[Solid], origins: Vectors, directions: Vectors, distance: Scalars
) -> Bool[np.ndarray, " n"]:
    """Whether a solid lies on each ray before a distance.

    Args:
        solids: solids that rays can meet.
        origins: start of each ray, [n, 3].
        directions: unit direction of each ray, [n, 3].
        distance: distance along each ray, [n].
    """
    blocked = np.zeros(len(origins), bool)
    for solid in solids:
        blocked |= solid.shape.intersect(origins, directions) < distance
    return blocked


def _radiance(
    solids: Sequence[Solid],
    lighting: Lighting,
    sample: int,
    origins: Vectors,
    directions: Vectors,
    bounces: int = 1,
) -> tuple[Vectors, Bool[np.ndarray, " n"]]:
    """Linear colour that arrives along each ray, and whether the ray meets a solid.

    Args:
        solids: solids of the scene.
        lighting: lights of the scene.
        sample: index of the lamp's point and of the sky's direction to use.
        origins: start of each ray, [n, 3].
        directions: unit direction of each ray, [n, 3].
        bounces: number of mirror reflections to follow.

    Returns:
        Colours, [n, 3], zero where a ray meets no solid, and whether each ray meets one, [n].
    """
    color = np.zeros_like(origins)
    distance, index = trace(solids, origins, directions)
    hit = index >= 0
    if not hit.any():
        return color, hit
    origins, directions, index = origins[hit], directions[hit], index[hit]
    points = origins + distance[hit][:, None] * directions
    normals, albedo, gloss = np.empty_like(points), np.empty_like(points), np.zeros_like(points[:, 0])
    for i, solid in enumerate(solids):
        mine = index == i
        if mine.any():
            normals[mine] = solid.shape.normals(points[mine])
            albedo[mine] = solid.albedo(solid.shape.local(points[mine]))
            gloss[mine] = solid.gloss
    points = points + _OFFSET * normals
    lamp, highlight = _lamp_light(solids, lighting, sample, points, normals, directions)
    surface = albedo * (
        lamp[:, None] * lighting.lamp_color + _sky_light(solids, lighting, sample, points, normals)
    )
    glossy = gloss > 0
    if glossy.any():
        coat = _reflection(
            solids, lighting, sample, points[glossy], normals[glossy], directions[glossy], bounces
        )
        facing = np.abs(np.einsum("ni,ni->n", normals[glossy], directions[glossy]))
        reflected = (gloss[glossy] + (1 - gloss[glossy]) * (1 - facing) ** 5)[:, None]  # Schlick
        coat = coat + highlight[glossy, None] * lighting.lamp_color
        surface[glossy] = (1 - reflected) * surface[glossy] + reflected * coat
    color[hit] = surface
    return color, hit


def _lamp_light(
    solids: Sequence[Solid],
    lighting: Lighting,
    sample: int,
    points: Vectors,
    normals: Vectors,
    directions: Vectors,
) -> tuple[Scalars, Scalars]:
    """Cosine of the lamp at points, and its highlight on a glossy coat (Blinn-Phong), [n] each; 0 in shadow."""
    to_lamp = lighting.lamp[sample] - points
    lamp_distance = np.linalg.norm(to_lamp, axis=-1)
    to_lamp = to_lamp / lamp_distance[:, None]
    cosine = np.maximum(np.einsum("ni,ni->n", normals, to_lamp), 0)
    lit = cosine > 0
    lit[lit] = ~occluded(solids, points[lit], to_lamp[lit], lamp_distance[lit])
    middle = to_lamp - directions
    middle /= np.linalg.norm(middle, axis=-1, keepdims=True)
    highlight = np.maximum(np.einsum("ni,ni->n", normals, middle), 0) ** _HIGHLIGHT_SHARPNESS
    return cosine * lit, _HIGHLIGHT_STRENGTH * highlight * lit


def _sky_light(
    solids: Sequence[Solid], lighting: Lighting, sample: int, points: Vectors, normals: Vectors
) -> Vectors:
    """Light of the sky at points: half of it by the surface's slope, half by one ray that may be obstructed."""
    direction = np.broadcast_to(lighting.sky[sample], points.shape)
    far = np.full(len(points), np.inf, np.float32)
    facing = np.maximum(np.einsum("ni,ni->n", normals, direction), 0)
    open_sky = facing * ~occluded(solids, points, direction, far)
    slope = 0.5 + 0.5 * normals[:, 2]
    return (0.5 * slope + 0.5 * open_sky)[:, None] * lighting.sky_color


def _reflection(
    solids: Sequence[Solid],
    lighting: Lighting,
    sample: int,
    points: Vectors,
    normals: Vectors,
    directions: Vectors,
    bounces: int,
) -> Vectors:
    """Colour that a mirror would show: the solids, or a bright sky that fades towards the ground."""
    mirrored = directions - 2 * np.einsum("ni,ni->n", normals, directions)[:, None] * normals
    color = (0.5 + 0.5 * mirrored[:, 2:]) ** 2 * lighting.sky_color * _SKY_BRIGHTNESS
    if bounces > 0:
        seen, hit = _radiance(solids, lighting, sample, points, mirrored, bounces - 1)
        color = np.where(hit[:, None], seen, color)
    return color.astype(np.float32)


def ray_trace(
    solids: Sequence[Solid], lighting: Lighting, camera: Camera, *, samples: int
) -> UInt8[np.ndarray, "h w 3"]:
    """An image of the solids, uint8 [H, W, 3].

    Args:
        solids: solids of the scene.
        lighting: lights of the scene, with ``samples**2`` points and directions.
        camera: one camera.
        samples: number of subpixels per pixel along each axis.
    """
    view = np.asarray(camera.camera_to_world, np.float64)
    inverse_K = np.linalg.inv(np.asarray(camera.K, np.float64))
    total = np.zeros((camera.height * camera.width, 3), np.float32)
    for sample in range(samples**2):
        row, column = divmod(sample, samples)
        v, u = np.mgrid[: camera.height, : camera.width]
        u, v = u + (column + 0.5) / samples, v + (row + 0.5) / samples
        pixels = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3)
        directions = pixels @ (view[:3, :3] @ inverse_K).T
        directions = (directions / np.linalg.norm(directions, axis=-1, keepdims=True)).astype(np.float32)
        origins = np.broadcast_to(view[:3, 3].astype(np.float32), directions.shape)
        color, hit = _radiance(solids, lighting, sample, origins, directions)
        total += np.where(hit[:, None], color, lighting.background)
    image = (total / samples**2).clip(0, 1) ** (1 / GAMMA)
    return np.rint(image * 255).astype(np.uint8).reshape(camera.height, camera.width, 3)
