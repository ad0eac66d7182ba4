"""Computations of a lane on its Gaussian, from stored parameters to a quadratic form and a direction."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from splax.ops.projection import (
    PinholeComponents,
    is_projectable,
    may_reach_image,
    point_on_axis,
    project_components,
    transform_row,
)
from splax.ops.tile_grid import TileGrid
from splax.ops.triton.binning.pack import quadratic_form
from splax.ops.triton.lanes.warp import load
from splax.ops.triton.projection.harmonics import basis_table
from splax.ops.types import KernelSettings, Parameters


class Geometry(NamedTuple):
    """The stored parameters of the lanes' Gaussians but their colours, [32] for each component."""

    mean: list[jax.Array]
    quat: list[jax.Array]
    log_scale: list[jax.Array]
    logit_opacity: jax.Array


class KernelCamera(NamedTuple):
    """A camera as the kernels hold it: its numbers, its centre and a point in front of it."""

    pinhole: PinholeComponents
    position: list[jax.Array]
    inside: list[jax.Array]


class StoredArrays(NamedTuple):
    """Flat arrays that both kernels read; inside a kernel, references to them.

    Attributes:
        means: centres in the world, [N * 3].
        quats: rotations as quaternions wxyz, [N * 4].
        log_scales: logarithms of the standard deviations in world units, [N * 3].
        logits: logits of the opacities, [N].
        sh0: colour coefficients of degree 0, [N * 3].
        shN: colour coefficients of the higher degrees, [N * K * 3]; another array, which is not read, if K is 0.
        alive: mask of the rows that exist, [N].
        active_degree: highest degree that counts in the colour, [1].
        camera: numbers of the camera as :func:`read_camera` reads them, [22].
        table: coefficients of the basis functions; see :func:`basis_table`.
    """

    means: Any
    quats: Any
    log_scales: Any
    logits: Any
    sh0: Any
    shN: Any
    alive: Any
    active_degree: Any
    camera: Any
    table: Any


def stored_arrays(params: Parameters, camera: Any) -> StoredArrays:
    """Returns the arrays that both kernels read, from stored Gaussians and a pinhole camera."""
    viewmat, intrinsics = camera.viewmat, camera.lens.K
    position = -(viewmat[:3, :3] * viewmat[:3, 3:]).sum(axis=0)
    pinhole = jnp.stack([intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]])
    numbers = jnp.concatenate([viewmat[:3].reshape(-1), pinhole, position, point_on_axis(viewmat)])
    # Kernels take no empty arrays; another array, which is not read, replaces an empty one.
    shN = params.shN if params.shN.size else params.sh0
    floats = (*params[:5], shN)
    degree = params.active_sh_degree.astype(jnp.int32).reshape(1)
    flat = [x.reshape(-1) for x in floats]
    return StoredArrays(*flat, params.alive, degree, numbers, basis_table())  # pyright: ignore[reportCallIssue]


def read_camera(camera, tile_grid: TileGrid) -> KernelCamera:
    """Reads the camera from ``StoredArrays.camera``."""
    numbers = [camera[i] for i in range(22)]
    rows = [numbers[4 * i : 4 * i + 4] for i in range(3)]
    fx, fy, cx, cy = numbers[12:16]
    pinhole = PinholeComponents(rows, fx, fy, cx, cy, tile_grid.width, tile_grid.height)
    return KernelCamera(pinhole, numbers[16:19], numbers[19:])


def read_geometry(stored: StoredArrays, gaussian, mask) -> Geometry:
    """Reads the geometry of the lanes' Gaussians."""
    return Geometry(
        read_columns(stored.means, gaussian, 3, mask),
        read_columns(stored.quats, gaussian, 4, mask),
        read_columns(stored.log_scales, gaussian, 3, mask),
        load(stored.logits, gaussian, mask),
    )


def read_columns(ref, gaussian, count: int, mask) -> list[jax.Array]:
    """Reads the row of each lane's Gaussian, [32] for each column."""
    return [load(ref, gaussian * count + q, mask) for q in range(count)]


class EarlyCull(NamedTuple):
    """Result of the first test, which reads means and scales alone.

    Attributes:
        may_be_seen: mask of the Gaussians that can be in the image, [32]; false where a mean or a scale is NaN.
        center: x and y of the centres in pixels; the principal point where a mean is not finite or not between
            the clip planes.
    """

    may_be_seen: jax.Array
    center: list[jax.Array]


def early_cull(mean, log_scale, lives, kernel_camera: KernelCamera, settings: KernelSettings) -> EarlyCull:
    """Culls living Gaussians by where they are and how large they are."""
    depth = transform_row(kernel_camera.pinhole.rows[2], mean)
    between = lives & (depth > settings.near_plane) & (depth < settings.far_plane)
    between &= is_finite([*mean, *log_scale])
    mean = [
        jnp.where(between, value, inside) for value, inside in zip(mean, kernel_camera.inside, strict=True)
    ]
    largest = jnp.exp(functools.reduce(jnp.maximum, log_scale))
    reaches, center = may_reach_image(mean, largest, kernel_camera.pinhole, settings.eps2d)
    return EarlyCull(between & reaches, center)


def is_valid(geometry: Geometry, kernel_camera: KernelCamera, settings: KernelSettings):
    """Returns the mask of rows that are finite, have a quaternion that is not zero, and can be projected."""
    mean, quat, log_scale, logit = geometry
    scale = [jnp.exp(value) for value in log_scale]
    depth = transform_row(kernel_camera.pinhole.rows[2], mean)
    largest = jnp.maximum(jnp.maximum(scale[0], scale[1]), scale[2])
    opacity = jax.nn.sigmoid(logit)
    turned = (quat[0] != 0) | (quat[1] != 0) | (quat[2] != 0) | (quat[3] != 0)
    valid = turned & is_finite([*mean, *quat, *log_scale, *scale, logit])
    return valid & is_projectable(
        depth, largest, opacity, kernel_camera.pinhole, settings.near_plane, settings.far_plane
    )


def neutral_where_not(geometry: Geometry, valid, kernel_camera: KernelCamera) -> Geometry:
    """Returns the geometry with harmless values where it is not valid."""
    neutral = Geometry(kernel_camera.inside, [1.0, 0.0, 0.0, 0.0], [0.0] * 3, 0.0)  # pyright: ignore[reportArgumentType]
    return jax.tree.map(lambda value, other: jnp.where(valid, value, other), geometry, neutral)


def project_geometry(geometry: Geometry, kernel_camera: KernelCamera, settings: KernelSettings):
    """Returns the quadratic form, the depth, the projected components, and the opacity before antialiasing."""
    mean, quat, log_scale, logit = geometry
    opacity = jax.nn.sigmoid(logit)
    length = lax.rsqrt(dot(quat, quat))
    unit_quat = [value * length for value in quat]
    scale = [jnp.exp(value) for value in log_scale]
    projected = project_components(mean, unit_quat, scale, kernel_camera.pinhole, settings.eps2d)
    drawn = opacity * projected.compensation if settings.antialiased else opacity
    return (
        quadratic_form(projected.x, projected.y, projected.conic, drawn),
        projected.depth,
        projected,
        opacity,
    )


def direction_to(mean, kernel_camera: KernelCamera):
    """Returns the unit vector from the camera to a mean, which must not be at the camera's centre."""
    offset = [a - b for a, b in zip(mean, kernel_camera.position, strict=True)]
    length = lax.rsqrt(dot(offset, offset))
    return [value * length for value in offset]


def is_finite(values):
    """Returns whether all of several numbers are finite."""
    finite = jnp.abs(values[0]) < jnp.inf
    for value in values[1:]:
        finite &= jnp.abs(value) < jnp.inf
    return finite


def dot(a, b):
    """Returns the dot product of two lists of components."""
    return sum((x * y for x, y in zip(a[1:], b[1:], strict=True)), a[0] * b[0])
