"""Pinhole cameras.

Convention, everywhere in splax: OpenCV axes (+x right, +y down, +z forward); ``viewmat`` maps world to
camera; ``K`` is in pixels; the centre of the top left pixel is at (0.5, 0.5). Files in other conventions
are converted once, by the readers in :mod:`splax.data`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Camera:
    """A pinhole camera, or a batch of cameras of one size.

    A pytree whose leaves are ``viewmat`` and ``K``: both can be differentiated, stacked and mapped over.
    ``width`` and ``height`` are static, so cameras of one size share a compiled function.

    Attributes:
        viewmat: world-to-camera transform, [..., 4, 4], last row (0, 0, 0, 1).
        K: intrinsics in pixels, [..., 3, 3]: ``[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]``.
        width: image width in pixels.
        height: image height in pixels.

    Raises:
        ValueError: on shapes other than these, or a size that is not positive.
    """

    viewmat: Float[Array, "*batch 4 4"]
    K: Float[Array, "*batch 3 3"]
    width: int
    height: int

    def __post_init__(self) -> None:
        for name, size in (("viewmat", 4), ("K", 3)):
            value = getattr(self, name)
            if not isinstance(value, jax.Array):
                value = jnp.asarray(value)
                if not jnp.issubdtype(value.dtype, jnp.floating):
                    value = value.astype(jnp.float32)
                object.__setattr__(self, name, value)
            if value.shape[-2:] != (size, size):
                raise ValueError(f"Camera {name} must be [..., {size}, {size}], got shape {value.shape}.")
        if self.viewmat.shape[:-2] != self.K.shape[:-2]:
            raise ValueError(
                "Camera viewmat and K must be of one batch shape, got "
                f"{self.viewmat.shape[:-2]} and {self.K.shape[:-2]}."
            )
        for name in ("width", "height"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value <= 0:
                raise ValueError(f"Camera {name} must be a positive int (pixels), got {value!r}.")
            object.__setattr__(self, name, int(value))

    @classmethod
    def look_at(
        cls,
        position: Sequence[float] | np.ndarray,
        target: Sequence[float] | np.ndarray,
        *,
        up: Sequence[float] | np.ndarray = (0.0, 0.0, 1.0),
        fov_x: float,
        width: int,
        height: int,
    ) -> Camera:
        """A camera at ``position`` that looks at ``target``.

        Args:
            position: camera centre in the world, [3].
            target: the point seen at the centre of the image, [3].
            up: the world's upward direction, [3]; not parallel to the view direction.
            fov_x: horizontal field of view in radians, in (0, pi).
            width: image width in pixels.
            height: image height in pixels.

        Raises:
            ValueError: if the view direction is undefined or parallel to ``up``.
        """
        eye = np.asarray(position, np.float64)
        forward = np.asarray(target, np.float64) - eye
        right = np.cross(forward, np.asarray(up, np.float64))
        if not np.linalg.norm(forward) > 0 or not np.linalg.norm(right) > 1e-9 * np.linalg.norm(forward):
            raise ValueError(
                f"look_at needs position != target and a view direction not parallel to up; "
                f"got position={position}, target={target}, up={up}."
            )
        if not 0 < fov_x < np.pi:
            raise ValueError(f"fov_x must lie in (0, pi) radians, got {fov_x}.")
        forward /= np.linalg.norm(forward)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        viewmat = np.eye(4)
        viewmat[:3, :3] = rotation
        viewmat[:3, 3] = -rotation @ eye
        focal = 0.5 * width / np.tan(0.5 * fov_x)
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return cls(
            viewmat=jnp.asarray(viewmat, jnp.float32),
            K=jnp.asarray(K, jnp.float32),
            width=width,
            height=height,
        )

    @classmethod
    def stack(cls, cameras: Sequence[Camera]) -> Camera:
        """Joins cameras of one size into a batch, for ``jax.vmap`` or indexing.

        Raises:
            ValueError: on no camera at all or on different image sizes.
        """
        sizes = {(c.width, c.height) for c in cameras}
        if len(sizes) != 1:
            raise ValueError(f"Camera.stack needs cameras of one size, got sizes {sorted(sizes)}.")
        (width, height) = sizes.pop()
        viewmat = jnp.stack([c.viewmat for c in cameras])
        return cls(viewmat=viewmat, K=jnp.stack([c.K for c in cameras]), width=width, height=height)

    def resize(self, width: int, height: int) -> Camera:
        """The same view on another pixel grid; ``K`` is scaled to match."""
        scale = jnp.array([width / self.width, height / self.height, 1.0], self.K.dtype)
        return dataclasses.replace(self, K=self.K * scale[:, None], width=width, height=height)

    @property
    def position(self) -> Float[Array, "*batch 3"]:
        """Camera centre in the world, [..., 3]."""
        rotation, translation = self.viewmat[..., :3, :3], self.viewmat[..., :3, 3]
        # Not a matrix product, whose precision may be low on a GPU.
        return -(rotation * translation[..., :, None]).sum(axis=-2)

    @property
    def camera_to_world(self) -> Float[Array, "*batch 4 4"]:
        """Inverse of ``viewmat``, [..., 4, 4], for a rigid ``viewmat``."""
        rotation = jnp.swapaxes(self.viewmat[..., :3, :3], -1, -2)
        upper = jnp.concatenate([rotation, self.position[..., None]], axis=-1)
        return jnp.concatenate([upper, self.viewmat[..., 3:, :]], axis=-2)

    def tree_flatten_with_keys(self):  # noqa: D102
        key = jax.tree_util.GetAttrKey
        children = ((key("viewmat"), self.viewmat), (key("K"), self.K))
        return children, (self.width, self.height)

    @classmethod
    def tree_unflatten(cls, aux, children) -> Camera:  # noqa: D102
        # Past __post_init__: transforms rebuild cameras around tracers, specs and None.
        camera = object.__new__(cls)
        for name, value in zip(("viewmat", "K", "width", "height"), (*children, *aux), strict=True):
            object.__setattr__(camera, name, value)
        return camera
