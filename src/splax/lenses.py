"""Lenses: the pixel at which a camera shows a point in front of it.

Readers of files give every camera a :class:`Pinhole`. To add another lens, write a file with a subclass of
:class:`Lens`, and add a line to ``splax/__init__.py``.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Lens(abc.ABC):
    """Base of all lenses: a frozen dataclass, whose fields are the leaves of a pytree.

    A subclass adds its numbers as fields, [..., n], with the batch shape of its camera in front, and the two
    methods. All fields can be differentiated, stacked and mapped over, except for those with
    ``dataclasses.field(metadata={"static": True})``. Static fields must be hashable; compiled functions depend
    on their values.

    Cameras share a compiled function if their lenses are of one class with equal static fields.

    Example:
        >>> import dataclasses
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import splax
        >>> @dataclasses.dataclass(frozen=True, eq=False)
        ... class Orthographic(splax.Lens):
        ...     pixels_per_unit: jax.Array  # along x and y, [..., 2]
        ...     center: jax.Array  # pixels, [..., 2]
        ...
        ...     def project(self, points):
        ...         return self.pixels_per_unit * points[..., :2] + self.center
        ...
        ...     def resize(self, scale_x, scale_y):
        ...         scale = jnp.array([scale_x, scale_y])
        ...         return Orthographic(self.pixels_per_unit * scale, self.center * scale)
        >>> lens = Orthographic(jnp.array([10.0, 10.0]), jnp.array([16.0, 12.0]))
        >>> camera = splax.Camera(viewmat=jnp.eye(4), lens=lens, width=32, height=24)
        >>> camera.project(jnp.array([1.0, 0.5, 4.0])).tolist()
        [26.0, 17.0]
        >>> camera.resize(64, 48).lens.center.tolist()
        [32.0, 24.0]
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Registers each subclass as a pytree."""
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_with_keys_class(cls)

    @abc.abstractmethod
    def project(
        self, points: Float[Array | np.ndarray, "*points 3"]
    ) -> Float[Array | np.ndarray, "*points 2"]:
        """Returns the pixels that show points.

        This method runs inside ``jit`` and is differentiated, sometimes twice. It should have no matrix product,
        whose precision may be low on a GPU. If it uses operators alone, it also computes in float64 with numpy;
        see :meth:`splax.Camera.to_numpy`.

        Args:
            points: positions in camera space, [..., 3]: x right, y down, z forward, world units. If the lens
                does not see a point, such as one behind it, the pixel of that point has no meaning, and may be
                NaN.

        Returns:
            x and y in pixels, [..., 2]; the centre of the top left pixel is at (0.5, 0.5).
        """

    @abc.abstractmethod
    def resize(self, scale_x: float, scale_y: float) -> Lens:
        """Returns the same lens for another image size.

        Args:
            scale_x: new image width divided by the old one.
            scale_y: new image height divided by the old one.
        """

    def tree_flatten_with_keys(self):  # noqa: D102
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        static = tuple(
            (field.name, getattr(self, field.name)) for field in fields if field.metadata.get("static", False)
        )
        names = tuple(field.name for field in fields if not field.metadata.get("static", False))
        children = tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names)
        return children, (names, static)

    @classmethod
    def tree_unflatten(cls, aux, children) -> Lens:  # noqa: D102
        # Without __post_init__: transforms rebuild lenses from tracers, specs and None.
        lens = object.__new__(cls)
        names, static = aux
        for name, value in (*zip(names, children, strict=True), *static):
            object.__setattr__(lens, name, value)
        return lens


@dataclasses.dataclass(frozen=True, eq=False)
class Pinhole(Lens):
    """A lens without distortion: straight lines of the world are straight in the image.

    Attributes:
        K: intrinsics in pixels, [..., 3, 3]: ``[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]``.

    Raises:
        ValueError: if ``K`` has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import splax
        >>> lens = splax.Pinhole(jnp.array([[100.0, 0.0, 50.0], [0.0, 100.0, 40.0], [0.0, 0.0, 1.0]]))
        >>> lens.project(jnp.array([1.0, 0.0, 2.0])).tolist()
        [100.0, 40.0]
        >>> lens.resize(0.5, 0.5).K.tolist()
        [[50.0, 0.0, 25.0], [0.0, 50.0, 20.0], [0.0, 0.0, 1.0]]
    """

    K: Float[Array, "*batch 3 3"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "K", matrix_of("Pinhole K", self.K, 3))

    def project(
        self, points: Float[Array | np.ndarray, "*points 3"]
    ) -> Float[Array | np.ndarray, "*points 2"]:
        """Returns the pixels of points in camera space, [..., 2]; points behind the camera appear mirrored."""
        rays = points / points[..., 2:]
        return (self.K[..., :2, :] * rays[..., None, :]).sum(axis=-1)

    def resize(self, scale_x: float, scale_y: float) -> Pinhole:
        """Returns the lens for another image size: focal lengths and principal point are scaled."""
        scale = jnp.array([scale_x, scale_y, 1.0], self.K.dtype)
        return dataclasses.replace(self, K=self.K * scale[:, None])


def matrix_of(name: str, value: Any, size: int) -> Float[Array, "*batch n n"]:
    """Returns a user's value as a float array, [..., size, size].

    Args:
        name: name of the array in error messages.
        value: array or nested sequence; numbers that are not floating become float32.
        size: number of rows and columns.

    Raises:
        ValueError: if the array has another shape.
    """
    if not isinstance(value, jax.Array):
        value = jnp.asarray(value)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            value = value.astype(jnp.float32)
    if value.shape[-2:] != (size, size):
        raise ValueError(f"{name} must be [..., {size}, {size}], got shape {value.shape}.")
    return value
