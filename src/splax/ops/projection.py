"""EWA projection: 3D Gaussians to 2D Gaussians in pixels.

Zwicker et al. 2001 (EWA splatting), Kerbl et al. 2023 (3DGS), with gsplat's off-centre aware clamp of the
Jacobian. Every quantity is kept as separate [N] arrays (structure of arrays): XLA then fuses the whole stage
into a few passes over memory, where small matrices per Gaussian would be stored and reloaded.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Low-pass filter added to the 2D covariance, px^2 (3DGS; about one pixel wide).
EPS2D = 0.3
# A Gaussian fainter than this at a pixel does not touch it (3DGS: one step of an 8-bit image).
ALPHA_THRESHOLD = 1 / 255
# No Gaussian reaches beyond this many sigma: exp(-3.33^2 / 2) < 1/255 (gsplat).
MAX_SIGMAS = 3.33
NEAR_PLANE = 0.01
FAR_PLANE = 1e10
# Sigma in pixels beyond which squares of squares overflow float32; such rows are culled.
_MAX_SIGMA_PIXELS = 1e8


class Projection(NamedTuple):
    """2D Gaussians in pixels.

    Attributes:
        means2d: centres, [N, 2].
        conics: inverse 2D covariances as (a, b, c) of [[a, b], [b, c]], [N, 3].
        depths: camera-space z, [N].
        radii: half width and height of the box that holds every touched pixel centre, [N, 2]; 0 where culled.
        compensations: sqrt(det before / det after the low-pass filter), [N] (Yu et al. 2024, Mip-Splatting).
    """

    means2d: Float[Array, "n 2"]
    conics: Float[Array, "n 3"]
    depths: Float[Array, " n"]
    radii: Float[Array, "n 2"]
    compensations: Float[Array, " n"]


def finite_rows(*arrays: Float[Array, "n ..."]) -> Bool[Array, " n"]:
    """Rows that are finite in every array, [N]."""
    rows = [jnp.isfinite(a).all(axis=tuple(range(1, a.ndim))) for a in arrays]
    return jnp.stack(rows).all(axis=0)


def project_gaussians(
    means: Float[Array, "n 3"],
    quats: Float[Array, "n 4"],
    scales: Float[Array, "n 3"],
    opacities: Float[Array, " n"],
    viewmat: Float[Array, "4 4"],
    K: Float[Array, "3 3"],
    *,
    width: int,
    height: int,
    alive: Bool[Array, " n"] | None = None,
    eps2d: float = EPS2D,
    near_plane: float = NEAR_PLANE,
    far_plane: float = FAR_PLANE,
    radius_clip: float = 0.0,
) -> Projection:
    """Projects Gaussians into one camera.

    Rows that are dead, not finite, of zero quaternion, outside the clip planes, fainter than 1/255, smaller
    than ``radius_clip`` or outside the image are culled: radii 0, and no gradient flows to them.

    Args:
        means: centres in the world.
        quats: rotations wxyz, of any length but zero.
        scales: standard deviations in world units (activated).
        opacities: in (0, 1) (activated).
        viewmat: world-to-camera.
        K: intrinsics in pixels.
        width: image width in pixels.
        height: image height in pixels.
        alive: rows that exist; all if None.
        eps2d: low-pass filter, px^2.
        near_plane: least depth.
        far_plane: largest depth.
        radius_clip: cull Gaussians whose radius in pixels is not above this.
    """
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    depths = _transform_row(viewmat[2], means)
    valid = finite_rows(means, quats, scales, opacities) & (depths > near_plane) & (depths < far_plane)
    valid &= (quats != 0).any(axis=1) & (opacities >= ALPHA_THRESHOLD)
    sigma_pixels = scales.max(axis=1) * jnp.maximum(fx, fy) / jnp.where(depths > near_plane, depths, 1)
    valid &= sigma_pixels < _MAX_SIGMA_PIXELS
    if alive is not None:
        valid &= alive

    # Invalid rows are replaced before any arithmetic, so neither values nor gradients can be NaN.
    inside = jax.lax.stop_gradient(_point_on_axis(viewmat))
    means = jnp.where(valid[:, None], means, inside)
    quats = jnp.where(valid[:, None], quats, jnp.array([1, 0, 0, 0], quats.dtype))
    scales = jnp.where(valid[:, None], scales, 1)
    opacities = jnp.where(valid, opacities, 1)

    x, y, z = (_transform_row(row, means) for row in viewmat[:3])
    means2d = jnp.stack([fx * x / z + cx, fy * y / z + cy], axis=-1)
    rows = _projected_axes(x / z, y / z, z, quats, scales, viewmat, K, width, height)
    xx, xy, yy = _dot(rows[0], rows[0]), _dot(rows[0], rows[1]), _dot(rows[1], rows[1])
    # Lagrange's identity: no cancellation, so thin needles keep a positive determinant in float32.
    det_sharp = _squared_cross(rows[0], rows[1])
    det = det_sharp + eps2d * (xx + yy) + eps2d**2
    xx, yy = xx + eps2d, yy + eps2d
    conics = jnp.stack([yy / det, -xy / det, xx / det], axis=-1)

    reach = jnp.minimum(MAX_SIGMAS, jnp.sqrt(2 * jnp.log(jnp.maximum(opacities / ALPHA_THRESHOLD, 1))))
    radii = jax.lax.stop_gradient(reach[:, None] * jnp.sqrt(jnp.stack([xx, yy], axis=-1)))
    size = jnp.array([width, height], means.dtype)
    valid &= (radii.max(axis=1) > radius_clip) & ((means2d + radii > 0) & (means2d - radii < size)).all(
        axis=1
    )
    return Projection(
        means2d=means2d,
        conics=conics,
        depths=z,
        radii=jnp.where(valid[:, None], radii, 0),
        compensations=_safe_sqrt(det_sharp / det),
    )


def _transform_row(row: Float[Array, "4"], means: Float[Array, "n 3"]) -> Float[Array, " n"]:
    """One coordinate of the transformed centres; not a matrix product, whose precision may be low on a GPU."""
    return row[0] * means[:, 0] + row[1] * means[:, 1] + row[2] * means[:, 2] + row[3]


def _point_on_axis(viewmat: Float[Array, "4 4"]) -> Float[Array, "3"]:
    """A point one unit in front of the camera."""
    offset = jnp.array([0, 0, 1], viewmat.dtype) - viewmat[:3, 3]
    return (viewmat[:3, :3] * offset[:, None]).sum(axis=0)


def _projected_axes(u, v, z, quats, scales, viewmat, K, width, height):
    """The two rows, three [N] arrays each, of J W R S: covariance in pixels is their Gram matrix."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    # The linearisation is poor far off the image; gsplat's clamp, 0.3 of half the field of view beyond it.
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    u = jnp.clip(u, -(cx / fx + margin_x), (width - cx) / fx + margin_x)
    v = jnp.clip(v, -(cy / fy + margin_y), (height - cy) / fy + margin_y)
    jacobian_x = [fx / z * (viewmat[0, i] - u * viewmat[2, i]) for i in range(3)]
    jacobian_y = [fy / z * (viewmat[1, i] - v * viewmat[2, i]) for i in range(3)]
    rotation = _rotation_columns(quats)
    return [
        [scales[:, j] * _dot(jacobian, rotation[j]) for j in range(3)]
        for jacobian in (jacobian_x, jacobian_y)
    ]


def _rotation_columns(quats: Float[Array, "n 4"]) -> list[list[Float[Array, " n"]]]:
    """Columns of the rotation matrices; as :func:`quaternions.quat_to_rotmat`, one array an entry."""
    # Normalised before it is split: on a CPU the gradient is then eight times as fast.
    w, x, y, z = (quats * jax.lax.rsqrt((quats * quats).sum(axis=1, keepdims=True))).T
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
    """Square root whose gradient at 0 is 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
