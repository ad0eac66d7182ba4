"""How Gaussians get their colour: spherical harmonics, or an object of the user's own."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol, TypeGuard, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from splax.ops.spherical_harmonics import eval_sh
from splax.ops.types import Parameters


@runtime_checkable
class Shading(Protocol):
    """Turns Gaussians and a camera into channels: a plain object that is hashable, or an ``nnx.Module``."""

    def __call__(
        self, gaussians: Any, camera: Any, *, view: Int[Array, ""] | int | None = None
    ) -> Float[Array, "n c"]:
        """Channels of each Gaussian, [N, C].

        Args:
            gaussians: the :class:`splax.Gaussians`, without rows that cannot be drawn; its Params are read here.
            camera: the :class:`splax.Camera` that looks at them.
            view: number of the training view; None for any other view.
        """
        ...


class StoredShading(Shading, Protocol):
    """Shading that reads nothing but the Params of :class:`Parameters` that it names: backends may have kernels.

    Attributes:
        params: names of the Params that it reads, on the class.
    """

    params: ClassVar[tuple[str, ...]]


def reads_stored_only(shading: Any) -> TypeGuard[StoredShading]:
    """Whether an object is a :class:`StoredShading`: its class names Params, all of them our own."""
    names = getattr(type(shading), "params", None)
    return isinstance(names, tuple) and set(names) <= set(Parameters._fields)


@dataclasses.dataclass(frozen=True)
class SphericalHarmonics:
    """RGB that depends on the direction, not below 0 (Kerbl et al. 2023).

    Example:
        >>> import numpy as np
        >>> import splax
        >>> gaussians = splax.Gaussians.from_points(np.zeros((1, 3)), np.array([[255, 0, 0]]))
        >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.8, width=32, height=24)
        >>> splax.SphericalHarmonics()(gaussians, camera).round().tolist()
        [[1.0, 0.0, 0.0]]
    """

    params: ClassVar[tuple[str, ...]] = ("means", "sh0", "shN")

    def __call__(
        self, gaussians: Any, camera: Any, *, view: Int[Array, ""] | int | None = None
    ) -> Float[Array, "n 3"]:
        """RGB of each Gaussian as the camera sees it, [N, 3]; see :class:`Shading`."""
        del view
        means, sh0, shN = (getattr(gaussians, name)[...] for name in self.params)
        directions = means - camera.position
        # A Gaussian at the camera's very centre has no direction (and is behind the near plane).
        directions = jnp.where((directions != 0).any(axis=1, keepdims=True), directions, 1)
        return eval_sh(sh0, shN, directions, gaussians.active_sh_degree[...])
