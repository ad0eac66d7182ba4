"""3D Gaussians to projected Gaussians: the arrays that every projection returns, and the formulas of EWA.

Zwicker et al. 2001 (EWA splatting), Kerbl et al. 2023 (3DGS), with gsplat's off-centre aware clamp of the
Jacobian. Every quantity is kept as separate [N] arrays (structure of arrays): XLA then fuses the whole stage
into a few passes over memory, where small matrices per Gaussian would be stored and reloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splax.ops.constants import ALPHA_THRESHOLD, EPS2D, FAR_PLANE, MAX_SIGMAS, NEAR_PLANE

# Above this standard deviation, in pixels, fourth powers overflow float32; such rows are culled.
_MAX_SIGMA_PIXELS = 1e8


class ProjectedGaussians(NamedTuple):
    """Projected Gaussians: 2D Gaussians in pixels.

    Attributes:
        means2d: centres, [N, 2].
        conics: inverse 2D covariances as (a, b, c) of [[a, b], [b, c]], [N, 3].
        depths: camera-space z, [N].
        radii: half width and height of the box that holds every touched pixel centre, [N, 2]; 0 where culled.
        opacities: opacities in [0, 1], after antialiasing, [N]; arbitrary where culled.
    """

    means2d: Float[Array, "n 2"]
    conics: Float[Array, "n 3"]
    depths: Float[Array, " n"]
    radii: Float[Array, "n 2"]
    opacities: Float[Array, " n"]

    @property
    def visible(self) -> Bool[Array, " n"]:
        """Mask of the rows that were not culled, [N]."""
        return (self.radii > 0).all(axis=1)


def finite_rows(*arrays: Float[Array, "n ..."]) -> Bool[Array, " n"]:
    """Returns the mask of the rows that are finite in every array, [N]."""
    rows = [jnp.isfinite(a).all(axis=tuple(range(1, a.ndim))) for a in arrays]
    return jnp.stack(rows).all(axis=0)


class ActivatedGaussians(NamedTuple):
    """3D Gaussians after the activations, as the formulas of a projection take them.

    Attributes:
        means: centres in the world, [N, 3].
        quats: rotations wxyz, of any length but zero, [N, 4].
        scales: standard deviations in world units, [N, 3].
        opacities: opacities in (0, 1), [N].
        alive: mask of the rows that exist, [N]; None if all do.
    """

    means: Float[Array, "n 3"]
    quats: Float[Array, "n 4"]
    scales: Float[Array, "n 3"]
    opacities: Float[Array, " n"]
    alive: Bool[Array, " n"] | None = None


def project_gaussians(
    gaussians: ActivatedGaussians,
    camera: Any,
    *,
    eps2d: float = EPS2D,
    near_plane: float = NEAR_PLANE,
    far_plane: float = FAR_PLANE,
    radius_clip: float = 0.0,
    antialiased: bool = False,
) -> ProjectedGaussians:
    """Projects Gaussians into one pinhole camera.

    A row is culled if it is dead or not finite, if its quaternion is zero, if it lies outside the clip planes
    or the image, if its opacity is below 1/255, or if its radius is not above ``radius_clip``. The radii of a
    culled row are 0, and no gradient flows to it.

    Args:
        gaussians: the Gaussians to project, N rows.
        camera: the :class:`splax.Camera` to project into; its lens is a pinhole.
        eps2d: variance of the low-pass filter, px^2.
        near_plane: smallest camera-space z that is drawn, world units.
        far_plane: largest camera-space z that is drawn, world units.
        radius_clip: radius in pixels up to which Gaussians are culled.
        antialiased: whether opacities are lowered to make up for the low-pass filter.
    """
    pinhole = pinhole_components(camera)
    means, quats, scales, opacities, alive = gaussians
    valid = finite_rows(means, quats, scales, opacities) & (quats != 0).any(axis=1)
    depths = transform_row(pinhole.rows[2], _components(means))
    valid &= is_projectable(depths, scales.max(axis=1), opacities, pinhole, near_plane, far_plane)
    if alive is not None:
        valid &= alive
    means, quats, scales, opacities = _neutral_where_not(valid, gaussians, camera.viewmat)
    # Normalised before they are split: on a CPU the gradient is then eight times as fast.
    quats = quats * jax.lax.rsqrt((quats * quats).sum(axis=1, keepdims=True))
    projected = project_components(_components(means), list(quats.T), _components(scales), pinhole, eps2d)
    radii = jax.lax.stop_gradient(half_extents(projected, opacities))
    valid &= is_in_image(projected, radii, pinhole, radius_clip)
    return ProjectedGaussians(
        means2d=jnp.stack([projected.x, projected.y], axis=-1),
        conics=jnp.stack(projected.conic, axis=-1),
        depths=projected.depth,
        radii=jnp.where(valid[:, None], jnp.stack(radii, axis=-1), 0),
        opacities=opacities * projected.compensation if antialiased else opacities,
    )


def _neutral_where_not(valid: Bool[Array, " n"], gaussians: ActivatedGaussians, viewmat: Float[Array, "4 4"]):
    """Invalid rows are replaced before any arithmetic, so neither values nor gradients can be NaN."""
    means, quats, scales, opacities, _ = gaussians
    inside = jax.lax.stop_gradient(point_on_axis(viewmat))
    return (
        jnp.where(valid[:, None], means, inside),
        jnp.where(valid[:, None], quats, jnp.array([1, 0, 0, 0], quats.dtype)),
        jnp.where(valid[:, None], scales, 1),
        jnp.where(valid, opacities, 1),
    )


def pinhole_components(camera: Any) -> PinholeComponents:
    """Returns the numbers of a :class:`splax.Camera` whose lens is a pinhole."""
    K = camera.lens.K
    return PinholeComponents(
        list(camera.viewmat[:3]), K[0, 0], K[1, 1], K[0, 2], K[1, 2], camera.width, camera.height
    )


class PinholeComponents(NamedTuple):
    """A pinhole camera as separate numbers.

    The formulas below take and return components: lists of numbers or of arrays of one shape. So kernels, whose
    variables are single registers, use the same formulas as plain JAX.

    Attributes:
        rows: the upper three rows of ``viewmat``, four numbers each.
        fx: focal length along x in pixels.
        fy: focal length along y in pixels.
        cx: x of the principal point in pixels.
        cy: y of the principal point in pixels.
        width: image width in pixels.
        height: image height in pixels.
    """

    rows: Sequence[Any]
    fx: Any
    fy: Any
    cx: Any
    cy: Any
    width: int
    height: int


class ProjectedComponents(NamedTuple):
    """Projected Gaussians by component: one number or [N] array for each.

    Attributes:
        x: x of the centre in pixels.
        y: y of the centre in pixels.
        depth: camera-space z, world units.
        conic: inverse covariance (a, b, c) of [[a, b], [b, c]], px^-2.
        variances: variances of x and y after the low-pass filter, px^2.
        compensation: factor of the opacity, the square root of the covariance's determinant before the low-pass
            filter divided by that after it (Yu et al. 2024, Mip-Splatting).
    """

    x: jax.Array
    y: jax.Array
    depth: jax.Array
    conic: tuple[jax.Array, jax.Array, jax.Array]
    variances: tuple[jax.Array, jax.Array]
    compensation: jax.Array


def is_projectable(
    depth, largest_scale, opacity, pinhole: PinholeComponents, near_plane: float, far_plane: float
):
    """Returns whether finite Gaussians can be projected without overflow and are bright enough to be seen.

    Args:
        depth: camera-space z, world units.
        largest_scale: largest of the three standard deviations, world units.
        opacity: opacity in (0, 1).
        pinhole: numbers of the camera.
        near_plane: smallest camera-space z that is drawn, world units.
        far_plane: largest camera-space z that is drawn, world units.
    """
    in_front = depth > near_plane
    sigma_pixels = largest_scale * jnp.maximum(pinhole.fx, pinhole.fy) / jnp.where(in_front, depth, 1)
    drawn = (opacity >= ALPHA_THRESHOLD) & (sigma_pixels < _MAX_SIGMA_PIXELS)
    return in_front & (depth < far_plane) & drawn


def project_components(
    means, unit_quats, scales, pinhole: PinholeComponents, eps2d: float
) -> ProjectedComponents:
    """Projects Gaussians for which :func:`is_projectable` is true.

    Args:
        means: x, y and z of the centres in the world.
        unit_quats: w, x, y and z of unit quaternions.
        scales: three standard deviations, world units.
        pinhole: numbers of the camera.
        eps2d: variance of the low-pass filter, px^2.
    """
    x, y, z = (transform_row(row, means) for row in pinhole.rows)
    rows = _projected_axes(x / z, y / z, z, unit_quats, scales, pinhole)
    xx, xy, yy = _dot(rows[0], rows[0]), _dot(rows[0], rows[1]), _dot(rows[1], rows[1])
    # Lagrange's identity: no cancellation, so thin needles keep a positive determinant in float32.
    det_sharp = _squared_cross(rows[0], rows[1])
    det = det_sharp + eps2d * (xx + yy) + eps2d**2
    xx, yy = xx + eps2d, yy + eps2d
    return ProjectedComponents(
        x=pinhole.fx * x / z + pinhole.cx,
        y=pinhole.fy * y / z + pinhole.cy,
        depth=z,
        conic=(yy / det, -xy / det, xx / det),
        variances=(xx, yy),
        compensation=_safe_sqrt(det_sharp / det),
    )


def half_extents(projected: ProjectedComponents, opacity) -> tuple[jax.Array, jax.Array]:
    """Returns half width and half height, pixels, of the box of all pixel centres with alpha of at least 1/255."""
    reach = jnp.minimum(MAX_SIGMAS, jnp.sqrt(2 * jnp.log(jnp.maximum(opacity / ALPHA_THRESHOLD, 1))))
    xx, yy = projected.variances
    return reach * jnp.sqrt(xx), reach * jnp.sqrt(yy)


def is_in_image(projected: ProjectedComponents, radii, pinhole: PinholeComponents, radius_clip: float):
    """Returns whether boxes of these half extents, in pixels, are above ``radius_clip`` and overlap the image."""
    radius_x, radius_y = radii
    in_x = (projected.x + radius_x > 0) & (projected.x - radius_x < pinhole.width)
    in_y = (projected.y + radius_y > 0) & (projected.y - radius_y < pinhole.height)
    return (jnp.maximum(radius_x, radius_y) > radius_clip) & in_x & in_y


def may_reach_image(means, largest_scale, pinhole: PinholeComponents, eps2d: float):
    """Returns whether Gaussians in front of the camera can reach the image at any rotation and opacity.

    No half extent of a box is larger than that of a sphere with the largest scale, along the row of the
    Jacobian.

    Args:
        means: x, y and z of the centres in the world.
        largest_scale: largest of the three standard deviations, world units.
        pinhole: numbers of the camera.
        eps2d: variance of the low-pass filter, px^2.

    Returns:
        The mask, and x and y of the centres in pixels.
    """
    x, y, z = (transform_row(row, means) for row in pinhole.rows)
    variances = [
        _dot(row, row) * largest_scale * largest_scale + eps2d for row in _jacobian(x / z, y / z, z, pinhole)
    ]
    # A little larger, to allow for rounding.
    radius_x, radius_y = (1.01 * MAX_SIGMAS * jnp.sqrt(variance) for variance in variances)
    center = [pinhole.fx * x / z + pinhole.cx, pinhole.fy * y / z + pinhole.cy]
    in_x = (center[0] + radius_x > 0) & (center[0] - radius_x < pinhole.width)
    in_y = (center[1] + radius_y > 0) & (center[1] - radius_y < pinhole.height)
    return in_x & in_y, center


def point_on_axis(viewmat: Float[Array, "4 4"]) -> Float[Array, 3]:
    """Returns a point one unit in front of the camera, in the world, [3]."""
    offset = jnp.array([0, 0, 1], viewmat.dtype) - viewmat[:3, 3]
    return (viewmat[:3, :3] * offset[:, None]).sum(axis=0)


def _components(x: Float[Array, "n d"]) -> list[Float[Array, " n"]]:
    return [x[:, i] for i in range(x.shape[1])]


def transform_row(row, means):
    """Returns one coordinate of transformed points; without a matrix product, which may be imprecise on a GPU."""
    return row[0] * means[0] + row[1] * means[1] + row[2] * means[2] + row[3]


def _projected_axes(u, v, z, unit_quats, scales, pinhole: PinholeComponents):
    """Returns the two rows, three arrays each, of J W R S: the covariance in pixels is their Gram matrix."""
    rotation = _rotation_columns(unit_quats)
    return [[scales[j] * _dot(row, rotation[j]) for j in range(3)] for row in _jacobian(u, v, z, pinhole)]


def _jacobian(u, v, z, pinhole: PinholeComponents):
    """Returns the two rows, three arrays each, of J W: a centre's derivative, pixels by world units."""
    fx, fy, cx, cy = pinhole.fx, pinhole.fy, pinhole.cx, pinhole.cy
    # The linearisation is poor far off the image; gsplat's clamp, 0.3 of half the field of view beyond it.
    margin_x, margin_y = 0.15 * pinhole.width / fx, 0.15 * pinhole.height / fy
    u = jnp.clip(u, -(cx / fx + margin_x), (pinhole.width - cx) / fx + margin_x)
    v = jnp.clip(v, -(cy / fy + margin_y), (pinhole.height - cy) / fy + margin_y)
    return [
        [fx / z * (pinhole.rows[0][i] - u * pinhole.rows[2][i]) for i in range(3)],
        [fy / z * (pinhole.rows[1][i] - v * pinhole.rows[2][i]) for i in range(3)],
    ]


def _rotation_columns(unit_quats):
    """Returns the columns of :func:`quaternions.quat_to_rotmat`, with one array for each entry."""
    w, x, y, z = unit_quats
    return [
        [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
        [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
        [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
    ]


def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _squared_cross(a, b):
    cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    return _dot(cross, cross)


def _safe_sqrt(x):
    """Returns the square root; its gradient at 0 is 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
