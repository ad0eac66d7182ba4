"""Cameras: a pose, a lens, an image size, and a time where there is one.

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

from splax.lenses import Lens, Pinhole, matrix_of


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False, eq=False)
class Camera:
    """A camera, or a batch of cameras of one size.

    A camera is a pytree whose leaves are ``viewmat``, the numbers of the lens and ``time``. All leaves can be
    differentiated, stacked and mapped over. ``width`` and ``height`` are static. Cameras share a compiled
    function if they have the same size, the same kind of lens, and either all or none of them have a time.

    Attributes:
        viewmat: world-to-camera transform, [..., 4, 4], last row (0, 0, 0, 1).
        lens: map from points in front of the camera to pixels; see :class:`splax.Lens`.
        width: image width in pixels.
        height: image height in pixels.
        time: time of the image, [...], in the unit of the dataset, such as seconds or a share of the film; None
            if nothing moves, or if the time is not known.

    Example:
        >>> import numpy as np
        >>> import splax
        >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=np.pi / 2, width=32, height=24)
        >>> camera.K.round().tolist()
        [[16.0, 0.0, 16.0], [0.0, 16.0, 12.0], [0.0, 0.0, 1.0]]
        >>> camera.project(np.array([0.0, 0.0, 1.0])).round().tolist()  # one unit up is four pixels
        [16.0, 8.0]
        >>> splax.Camera.stack([camera, camera]).viewmat.shape
        (2, 4, 4)
    """

    viewmat: Float[Array, "*batch 4 4"]
    lens: Lens
    width: int
    height: int
    time: Float[Array, "*batch"] | None

    def __init__(
        self,
        *,
        viewmat: Float[Array, "*batch 4 4"],
        K: Float[Array, "*batch 3 3"] | None = None,
        width: int,
        height: int,
        lens: Lens | None = None,
        time: Float[Array, "*batch"] | float | None = None,
    ) -> None:
        """Makes a camera from a lens, or from the ``K`` of a pinhole.

        Args:
            viewmat: world-to-camera transform, [..., 4, 4], last row (0, 0, 0, 1).
            K: intrinsics in pixels, [..., 3, 3]: ``[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]``. If a lens is given
                too, ``K`` replaces the lens's own, so that ``dataclasses.replace(camera, K=K)`` changes ``K``.
            width: image width in pixels.
            height: image height in pixels.
            lens: lens of the camera; None for the pinhole of ``K``.
            time: time of the image, [...], in any unit that all cameras share; None if nothing moves, or if the
                time is not known.

        Raises:
            ValueError: if an array has another shape, if a size is not positive, or if neither a lens nor ``K``
                is given.
        """
        viewmat = matrix_of("Camera viewmat", viewmat, 4)
        values = {"viewmat": viewmat, "lens": _lens_of(lens, K), "width": width, "height": height}
        values["time"] = None if time is None else _time_of(time, viewmat)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        batch = self.viewmat.shape[:-2]
        if isinstance(self.lens, Pinhole) and self.lens.K.shape[:-2] != batch:
            raise ValueError(
                f"Camera viewmat and K must be of one batch shape, got {batch} and {self.lens.K.shape[:-2]}."
            )
        if self.time is not None and self.time.shape != batch:
            raise ValueError(
                f"Camera time must be of the batch shape of viewmat, {batch}, got {self.time.shape}; "
                "give each camera one time, or leave it None."
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
        """Makes a pinhole camera at ``position`` that looks at ``target``.

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

        Args:
            cameras: the cameras to join, in order.

        Raises:
            ValueError: if there is no camera, if image sizes or kinds of lenses differ, or if only some cameras
                have a time.
        """
        check_alike(cameras)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *cameras)

    def resize(self, width: int, height: int) -> Camera:
        """Returns the same view at another image size; the lens is scaled to match.

        Args:
            width: new image width in pixels.
            height: new image height in pixels.
        """
        lens = self.lens.resize(width / self.width, height / self.height)
        return dataclasses.replace(self, lens=lens, width=width, height=height)

    def to_numpy(self) -> Camera:
        """Returns the camera with numpy arrays in float64: :meth:`project` is then exact, and compiles nothing."""
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self)

    def to_camera_space(
        self, points: Float[Array | np.ndarray, "*points 3"]
    ) -> Float[Array | np.ndarray, "*points 3"]:
        """Returns points in camera space, [..., 3]: x right, y down, z forward, world units.

        Args:
            points: world coordinates, [..., 3]; for a batch of cameras one point for each camera.
        """
        rotation, translation = self.viewmat[..., :3, :3], self.viewmat[..., :3, 3]
        # Not a matrix product, whose precision may be low on a GPU.
        return (rotation * points[..., None, :]).sum(axis=-1) + translation

    def project(
        self, points: Float[Array | np.ndarray, "*points 3"]
    ) -> Float[Array | np.ndarray, "*points 2"]:
        """Returns the pixels that show points of the world, x and y, [..., 2].

        Args:
            points: world coordinates, [..., 3]; for a batch of cameras one point for each camera. If the lens
                does not see a point, such as one behind it, the pixel of that point has no meaning.
        """
        return self.lens.project(self.to_camera_space(points))

    @property
    def K(self) -> Float[Array, "*batch 3 3"]:
        """Intrinsics in pixels, [..., 3, 3], of a camera whose lens is a :class:`splax.Pinhole`.

        Raises:
            ValueError: if the camera has another lens, which no ``K`` describes.
        """
        if not isinstance(self.lens, Pinhole):
            raise ValueError(
                f"Camera.K is the K of a Pinhole, but the lens of this camera is a {type(self.lens).__name__}. "
                "Use camera.project for pixels, camera.resize for another size, camera.lens for its numbers."
            )
        return self.lens.K

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
        names = ("viewmat", "lens", "time")
        children = tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names)
        return children, (self.width, self.height)

    @classmethod
    def tree_unflatten(cls, aux, children) -> Camera:  # noqa: D102
        # Without __init__: transforms rebuild cameras from tracers, specs and None.
        camera = object.__new__(cls)
        names = ("viewmat", "lens", "time", "width", "height")
        for name, value in zip(names, (*children, *aux), strict=True):
            object.__setattr__(camera, name, value)
        return camera


def check_alike(cameras: Sequence[Camera]) -> None:
    """Checks that cameras can be joined into a batch.

    Args:
        cameras: the cameras to check.

    Raises:
        ValueError: if there is no camera, if image sizes or kinds of lenses differ, or if only some cameras
            have a time.
    """
    sizes = {(camera.width, camera.height) for camera in cameras}
    if len(sizes) != 1:
        raise ValueError(f"Camera.stack needs cameras of one size, got sizes {sorted(sizes)}.")
    if len({jax.tree.structure(camera.lens) for camera in cameras}) != 1:
        kinds = sorted({type(camera.lens).__name__ for camera in cameras})
        raise ValueError(
            f"Camera.stack needs lenses of one kind, with equal static fields, got {', '.join(kinds)}; "
            "stack the cameras of each kind separately."
        )
    timed = sum(camera.time is not None for camera in cameras)
    if timed not in (0, len(cameras)):
        raise ValueError(
            f"Camera.stack needs a time in all cameras or in none, got {timed} of {len(cameras)} with one; "
            "dataclasses.replace(camera, time=None) removes it."
        )


def _lens_of(lens: Lens | None, K: Float[Array, "*batch 3 3"] | None) -> Lens:
    """Returns the lens that the arguments of :class:`Camera` describe."""
    if lens is None:
        if K is None:
            raise ValueError("Camera needs a lens=splax.Pinhole(K), or K=; got neither.")
        return Pinhole(K)
    if not isinstance(lens, Lens):
        raise ValueError(f"Camera lens must be a splax.Lens, such as Pinhole(K), got {type(lens).__name__}.")
    if K is None:
        return lens
    if not hasattr(lens, "K"):
        raise ValueError(
            f"Camera K replaces the K of a lens, but {type(lens).__name__} has none; give lens= alone."
        )
    return dataclasses.replace(lens, K=K)  # pyright: ignore[reportArgumentType]


def _time_of(
    time: Float[Array, "*batch"] | float, viewmat: Float[Array, "*batch 4 4"]
) -> Float[Array, "*batch"]:
    """Returns the time as a float array; a time that is no float array gets the type of ``viewmat``."""
    if isinstance(time, jax.Array) and jnp.issubdtype(time.dtype, jnp.floating):
        return time
    return jnp.asarray(time, viewmat.dtype)
