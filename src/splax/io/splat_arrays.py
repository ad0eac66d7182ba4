"""Gaussians as numpy arrays, into which every splat format is read and from which it is written."""

import dataclasses
import inspect
import math
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float32

from splax.gaussians import Gaussians
from splax.ops.spherical_harmonics import sh_degree_of

G = TypeVar("G", bound=Gaussians)

_ALIGNMENT = 64  # alignment in bytes of arrays that JAX uses without a copy


@dataclasses.dataclass(frozen=True)
class SplatArrays:
    """The contents of a splat file, in the conventions of :class:`~splax.gaussians.Gaussians`.

    Attributes:
        means: centres in the world, [n, 3].
        quats: rotations wxyz, of any length, [n, 4].
        log_scales: logarithms of the standard deviations, world units, [n, 3].
        logit_opacities: logits of the opacities, [n].
        sh0: colour coefficients of degree 0, [n, 1, 3].
        shN: colour coefficients of the higher degrees, [n, (degree + 1)^2 - 1, 3].
        extras: Params that a subclass added, by name, [n, ...]; only PLY keeps them.
        antialiased: whether they were trained with opacities that compensate for the low-pass filter
            (Mip-Splatting), and are to be drawn with ``TileRasterizer(antialiased=True)``.
    """

    means: Float32[np.ndarray, "n 3"]
    quats: Float32[np.ndarray, "n 4"]
    log_scales: Float32[np.ndarray, "n 3"]
    logit_opacities: Float32[np.ndarray, " n"]
    sh0: Float32[np.ndarray, "n 1 3"]
    shN: Float32[np.ndarray, "n k 3"]
    extras: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    antialiased: bool = False

    @property
    def num(self) -> int:
        """Number of Gaussians."""
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the colour's spherical harmonics."""
        return sh_degree_of(self.shN.shape[1] + 1)

    @property
    def params(self) -> dict[str, np.ndarray]:
        """Every array by the name of its Param."""
        standard = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del standard["extras"], standard["antialiased"]
        return standard | self.extras

    def take(self, rows: Any) -> "SplatArrays":
        """The Gaussians of some rows, given as a mask, as indices or as a slice."""
        return self.replace(**{name: value[rows] for name, value in self.params.items()})

    def replace(self, **params: np.ndarray) -> "SplatArrays":
        """A copy in which the values of some Params are replaced, by name."""
        extras = self.extras | {name: params.pop(name) for name in [*params] if name in self.extras}
        return dataclasses.replace(self, extras=extras, **params)


def from_gaussians(gaussians: Gaussians, *, antialiased: bool = False) -> SplatArrays:
    """The rows of Gaussians that are alive, of every Param, as float32.

    Args:
        gaussians: Gaussians to convert.
        antialiased: whether they were trained with ``TileRasterizer(antialiased=True)``.

    Raises:
        ValueError: if a Param does not have one row per Gaussian.
    """
    params = {}
    alive = np.asarray(gaussians.alive[...])
    for path, param in nnx.to_flat_state(nnx.state(gaussians, nnx.Param)):
        name, value = ".".join(map(str, path)), np.asarray(param[...])
        if len(path) != 1 or value.shape[:1] != alive.shape:
            raise ValueError(
                f"Param {name} of shape {value.shape} has no row per Gaussian, so a splat file cannot hold it; "
                "keep it outside Gaussians, e.g. in the SplatModel."
            )
        with np.errstate(over="ignore"):  # numbers too large for float32 become infinite, and are left out
            params[name] = value.astype(np.float32, copy=False)
    standard = {field.name: params.pop(field.name) for field in dataclasses.fields(SplatArrays)[:6]}
    arrays = SplatArrays(**standard, extras=params, antialiased=antialiased)
    return arrays if alive.all() else arrays.take(alive)


def to_gaussians(arrays: SplatArrays, cls: type[G]) -> G:
    """An object of ``cls`` with the arrays as its Params; extras that its constructor does not name are left out.

    Raises:
        ValueError: if the constructor needs a Param that the arrays lack.
    """
    unused = arrays.extras.keys() - accepted_params(cls, arrays.extras)
    # On a CPU, device_put uses aligned arrays without a copy, unlike jnp.asarray; they must not change afterwards.
    return cls(**{name: jax.device_put(value) for name, value in arrays.params.items() if name not in unused})


def empty_array(shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """An uninitialised float32 array, aligned so that JAX can use it without a copy."""
    size = math.prod(shape)
    room = np.empty(size + _ALIGNMENT // 4, np.float32)
    start = -room.ctypes.data % _ALIGNMENT // 4
    return room[start : start + size].reshape(shape)


def accepted_params(cls: type[Gaussians], extras: Iterable[str]) -> set[str]:
    """Names of the Params that the constructor of ``cls`` takes in addition to those of Gaussians.

    Args:
        cls: class to make.
        extras: names of the Params that a file holds in addition to those of Gaussians.

    Raises:
        ValueError: if the constructor needs a Param that is not among ``extras``.
    """
    required, accepted = _own_arguments(cls)
    if missing := sorted(required - set(extras)):
        raise ValueError(f"holds no Param '{missing[0]}', which {cls.__name__} needs; load it as Gaussians")
    return accepted


def _own_arguments(cls: type[Gaussians]) -> tuple[set[str], set[str]]:
    """Names that the constructors of subclasses of Gaussians require, and all names that they take."""
    base = inspect.signature(Gaussians.__init__).parameters
    required, accepted = set(), set()
    for ancestor in cls.__mro__:
        if ancestor is Gaussians:
            break
        if "__init__" not in vars(ancestor):
            continue
        for name, argument in inspect.signature(ancestor.__init__).parameters.items():
            if name in base or argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
                continue
            accepted.add(name)
            if ancestor is cls and argument.default is argument.empty:
                required.add(name)
    return required, accepted


def extras_left_out(arrays: SplatArrays) -> list[str]:
    """The note of a format that cannot hold Params of a subclass; none if there are no such Params."""
    if not arrays.extras:
        return []
    return [f"Params {', '.join(sorted(arrays.extras))} were left out: only .ply keeps them"]
