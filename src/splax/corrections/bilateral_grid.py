"""Colour corrections of each photo that vary over the image and with brightness: tone mapping and vignetting."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from splax.cameras import Camera
from splax.corrections.base import Correction, ViewIndex
from splax.corrections.exposure import apply_affine
from splax.corrections.neighboring_views import Neighbors

# Brightness of a colour (ITU-R BT.601), in [0, 1] for colours in [0, 1].
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclasses.dataclass(frozen=True)
class BilateralGrid(Correction):
    """A bilateral grid of affine maps of colour for each photo (Wang et al. 2024).

    The method is that of *Bilateral Guided Radiance Field Processing*. The Params, [V, L, Y, X, 3, 4], are maps
    [A | b] on a grid over brightness (``levels``), rows and columns of the image. Each pixel gets the map that is
    interpolated at its place and its rendered brightness. The grid's total variation is part of the loss. The
    defaults are gsplat's.

    Attributes:
        width: number of cells over the image's width.
        height: number of cells over the image's height.
        levels: number of cells over brightness from 0 to 1.
        rate: learning rate of Adam; reached after 1,000 steps of warm-up, or a tenth of the run if that is less.
        rate_final: learning rate at the end, as a share of ``rate``; the decay is exponential.
        smoothness: weight of the total variation in the loss.

    Raises:
        ValueError: on fewer than two cells a side, or a rate that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> import splax
        >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.8, width=32, height=24)
        >>> grids = splax.BilateralGrid(width=4, height=4, levels=2)
        >>> params = grids.init(splax.Camera.stack([camera, camera]))  # two views
        >>> params.shape
        (2, 2, 4, 4, 3, 4)
        >>> params = params.at[1, ..., 3].add(0.25)  # the second photo is brighter everywhere
        >>> image = grids.image(params, jnp.array(1), jnp.full((24, 32, 3), 0.5))
        >>> round(float(image.mean()), 3)
        0.75
    """

    name: ClassVar[str] = "bilateral_grid"
    width: int = 16
    height: int = 16
    levels: int = 8
    rate: float = 2e-3
    rate_final: float = 0.01
    smoothness: float = 10.0

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.levels) < 2:
            raise ValueError(
                f"BilateralGrid needs at least 2 cells a side, got {self.width}, {self.height}, {self.levels}."
            )
        if not (self.rate > 0 and self.rate_final > 0):
            raise ValueError(f"BilateralGrid rates must be positive, got {self.rate} and {self.rate_final}.")

    def init(self, cameras: Camera) -> Float[Array, "views l y x 3 4"]:
        """The identity map in every cell, [V, L, Y, X, 3, 4]."""
        cells = (len(cameras.viewmat), self.levels, self.height, self.width, 1, 1)
        return jnp.tile(jnp.eye(3, 4), cells)

    def optimizer(self, steps: int, extent: float) -> optax.GradientTransformation:
        """Adam with warm-up and exponential decay."""
        del extent
        decay = optax.exponential_decay(self.rate, steps, self.rate_final)
        warmup = optax.linear_schedule(0.01, 1.0, min(1000, max(steps // 10, 1)))
        return optax.adam(lambda step: decay(step) * warmup(step), eps=1e-15)

    def image(
        self, params: Float[Array, "views l y x 3 4"], view: ViewIndex, image: Float[Array, "h w 3"]
    ) -> Float[Array, "h w 3"]:
        """The rendering under the maps of the view's grid (:func:`apply_grid`); unchanged if ``view`` is None."""
        return image if view is None else apply_grid(params[view], image)

    def interpolate(
        self, params: Float[Array | np.ndarray, "views l y x 3 4"], neighbors: Neighbors
    ) -> Float[np.ndarray, "1 l y x 3 4"]:
        """The weighted mean of the neighbours' maps."""
        return neighbors.average(params)

    def penalty(self, params: Float[Array, "views l y x 3 4"]) -> Float[Array, ""]:
        """Total variation of the grids, times its weight."""
        return self.smoothness * total_variation(params)

    def project(
        self, params: Float[Array, "views l y x 3 4"], cameras: Camera
    ) -> Float[Array, "views l y x 3 4"]:
        """The maps shifted so that their mean over the views is the identity, as for :class:`splax.Exposure`."""
        del cameras
        return params - params.mean(axis=0) + jnp.eye(3, 4)


def apply_grid(grid: Float[Array, "l y x 3 4"], image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """The image with each colour under the map that the grid has for its brightness and its place.

    Interpolation is trilinear; the centres of the outermost cells lie on the borders of the image, and at
    brightness 0 and 1. The computation is a sum over levels of brightness, and products with matrices of weights
    over rows and columns, so that its gradient needs no scatter.
    """
    levels, rows, columns = grid.shape[:3]
    height, width = image.shape[:2]
    over_rows = jnp.asarray(_interpolation(rows, height), image.dtype)
    over_columns = jnp.asarray(_interpolation(columns, width), image.dtype)
    brightness = jnp.clip((image * _LUMA).sum(axis=-1), 0, 1) * (levels - 1)

    def add(total: Array, level: tuple[Array, Array]) -> tuple[Array, None]:
        index, cells = level
        weight = jnp.maximum(1 - jnp.abs(brightness - index), 0)
        maps = jnp.einsum("hy,yxij->hxij", over_rows, cells, precision="highest")
        maps = jnp.einsum("wx,hxij->hwij", over_columns, maps, precision="highest")
        return total + weight[..., None] * apply_affine(maps, image), None

    # Levels one after the other, and computed again for the gradient: the maps of a level are 12 numbers for
    # each pixel.
    steps = (jnp.arange(levels, dtype=image.dtype), grid)
    return jax.lax.scan(jax.checkpoint(add), jnp.zeros_like(image), steps)[0]


def total_variation(grids: Float[Array, "views l y x 3 4"]) -> Float[Array, ""]:
    """Sum over the three axes of the mean squared difference of neighbouring cells."""
    return sum(((jnp.diff(grids, axis=axis) ** 2).mean() for axis in (1, 2, 3)), jnp.zeros((), grids.dtype))


def _interpolation(cells: int, pixels: int) -> Float[np.ndarray, "pixels cells"]:
    """Weights of the cells at each pixel's centre, for linear interpolation along one axis."""
    position = (np.arange(pixels) + 0.5) / pixels * (cells - 1)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(cells)), 0)
