"""Shadings, which give Gaussians their colour: spherical harmonics, or an object of the user's own."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol, TypeGuard, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from splax.ops.spherical_harmonics import eval_sh
from splax.ops.types import Parameters


@runtime_checkable
class Shading(Protocol):
    """Callable that makes channels from Gaussians and a camera: a hashable object, or an ``nnx.Module``."""

    def __call__(
        self, gaussians: Any, camera: Any, *, view: Int[Array, ""] | int | None = None
    ) -> Float[Array, "n c"]:
        """Returns the channels of each Gaussian, [N, C].

        Args:
            gaussians: the :class:`splax.Gaussians` to colour; rows that cannot be drawn are dead and harmless.
            camera: the :class:`splax.Camera` that looks at them.
            view: number of the training view; None for any other view.
        """
        ...


class StoredShading(Shading, Protocol):
    """Shading that reads no Params but those of :class:`Parameters` that it names, so backends may have kernels.

    Attributes:
        params: names of the Params that the shading reads, an attribute of the class.
    """

    params: ClassVar[tuple[str, ...]]


def reads_stored_only(shading: Any) -> TypeGuard[StoredShading]:
    """Returns whether the class of a shading names Params, and only those of :class:`Parameters`."""
    names = getattr(type(shading), "params", None)
    return isinstance(names, tuple) and set(names) <= set(Parameters._fields)


@dataclasses.dataclass(frozen=True)
class SphericalHarmonics:
    """Colours that depend on the direction of view: spherical harmonics, clamped at 0 (Kerbl et al. 2023).

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
        """Returns the RGB of each Gaussian as the camera sees it, [N, 3]; see :class:`Shading`."""
        del view
        means, sh0, shN = (getattr(gaussians, name)[...] for name in self.params)
        directions = means - camera.position
        # A Gaussian at the camera's centre has no direction; it lies before the near plane and is not drawn.
        directions = jnp.where((directions != 0).any(axis=1, keepdims=True), directions, 1)
        return eval_sh(sh0, shN, directions, gaussians.active_sh_degree[...])
