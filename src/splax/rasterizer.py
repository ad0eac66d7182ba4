"""From Gaussians and a camera to an image."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from splax.cameras import Camera
from splax.gaussians import Gaussians
from splax.ops import backends
from splax.ops.constants import FAR_PLANE, NEAR_PLANE
from splax.ops.ewa import EWA, Projection
from splax.ops.projection import ProjectedGaussians
from splax.ops.render import count_isects, project, render, round_capacity
from splax.ops.settings import RenderSettings
from splax.ops.shading import Shading, reads_stored_only
from splax.ops.tile_grid import TileGrid
from splax.ops.types import Parameters, RenderBuffers

TILE_SIZES = (4, 8, 16, 32)


class RenderOutput(NamedTuple):
    """What rendering one camera gives; a batch of cameras adds leading axes.

    Attributes:
        image: colours over the background, [H, W, C].
        alpha: 1 - transmittance, [H, W].
        accumulated_depth: sum of weight times camera-space z, world units, [H, W]; 0 where nothing is, or
            everywhere if the rasterizer does not render depth.
        means2d: centres in pixels, [N, 2].
        radii: half width and height in pixels, [N, 2]; 0 where culled.
        num_isects: (tile, Gaussian) pairs of this view.
        isect_capacity: pairs there was room for. If ``num_isects`` is larger, the image is incomplete.

    Example:
        >>> import numpy as np
        >>> import splax
        >>> gaussians = splax.Gaussians.from_points(np.array([[0.0, 0.0, 0.0], [0.0, -9.0, 0.0]]))
        >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.8, width=32, height=24)
        >>> output = splax.TileRasterizer()(gaussians, camera).check()
        >>> output.image.shape, output.alpha.shape
        ((24, 32, 3), (24, 32))
        >>> output.visible.tolist()  # the second Gaussian lies behind the camera
        [True, False]
        >>> output.means2d[0].round().tolist()
        [16.0, 12.0]
        >>> float(output.depth[12, 16].round())
        4.0
    """

    image: Float[Array, "*batch h w c"]
    alpha: Float[Array, "*batch h w"]
    accumulated_depth: Float[Array, "*batch h w"]
    means2d: Float[Array, "*batch n 2"]
    radii: Float[Array, "*batch n 2"]
    num_isects: Int[Array, "*batch"]
    isect_capacity: Int[Array, "*batch"]

    @property
    def depth(self) -> Float[Array, "*batch h w"]:
        """Expected camera-space z, world units, [H, W]; 0 where nothing is."""
        return self.accumulated_depth / jnp.maximum(self.alpha, 1e-10)

    @property
    def visible(self) -> Bool[Array, "*batch n"]:
        """Gaussians that were not culled, [N]."""
        return (self.radii > 0).all(axis=-1)

    @property
    def overflow(self) -> Bool[Array, "*batch"]:
        """Whether the buffer was too small, so that the image is incomplete."""
        return self.num_isects > self.isect_capacity

    def check(self) -> RenderOutput:
        """Returns itself; for use outside jit.

        Raises:
            ValueError: if the intersection buffer was too small.
        """
        if bool(self.overflow.any()):
            raise ValueError(
                f"the view has {int(self.num_isects.max())} intersections but isect_capacity is "
                f"{int(self.isect_capacity.min())}, so the image is incomplete; pass a larger isect_capacity, or "
                "none outside jit, where the rasterizer then sizes the buffer itself."
            )
        return self


class TileRasterizer(nnx.Module):
    """Tile-based rasterizer of 3D Gaussians (Kerbl et al. 2023); settings only, no Params.

    Called outside ``jax.jit`` it counts the (tile, Gaussian) pairs and sizes their buffer itself, unless it has a
    size. Inside ``jit`` or ``vmap`` shapes are static, so ``isect_capacity`` must be given: :meth:`sized_for`
    makes a rasterizer with room for some views, and ``RenderOutput.overflow`` says whether the buffer was too
    small.

    Args:
        tile_size: pixels per tile side; does not change the image.
        implementation: ``"xla"`` is plain JAX, for every derivative; ``"xla_vjp"`` the same with a faster
            reverse mode, first order; ``"triton"`` kernels for NVIDIA GPUs, first order too, float32; None the
            fastest one of the platform. :meth:`explain` says which one draws a view.
        isect_capacity: rows of the buffer of pairs; None counts them (outside ``jit`` only).
        projection: how Gaussians become 2D Gaussians: :class:`splax.EWA`, or an object of your own with its
            attributes; EWA by default.
        near_plane: least depth, world units.
        far_plane: largest depth, world units.
        antialiased: short for ``projection=EWA(antialiased=True)``.
        render_depth: False saves the time of one channel; ``accumulated_depth`` is then 0.
        absgrad: the gradient of ``means2d_offset`` adds up absolute values over the pixels, each coordinate by
            itself (Ye et al. 2024, AbsGS): a Gaussian that is pulled two ways at once does not look content.
        deterministic: promises the same bits in every run, of images and gradients. The CPU keeps that promise
            with or without it. On a GPU kernels add gradients up in any order; True makes them keep those of
            each pair, which takes more memory and time, and refuses to draw where plain XLA would add.

    Raises:
        ValueError: on a tile size, implementation or capacity that does not exist, or ``antialiased`` with a
            projection that is not.
        NotImplementedError: when called, if the implementation that was named does not run on this platform.
        TypeError: for a subclass that overrides ``project``, which drawing does not call.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import splax
        >>> gaussians = splax.Gaussians.from_points(np.zeros((1, 3)), opacity=0.5)
        >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.8, width=33, height=25)
        >>> output = splax.TileRasterizer()(gaussians, camera, background=jnp.ones(3))
        >>> print(np.asarray(output.image[12, 16]).round(2))  # half the Gaussian's grey, half white
        [0.75 0.75 0.75]
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "project" in vars(cls):
            raise TypeError(
                f"{cls.__name__}.project would not change what is drawn; write a projection, "
                "TileRasterizer(projection=...)."
            )

    def __init__(
        self,
        tile_size: int = 16,
        implementation: str | None = None,
        isect_capacity: int | None = None,
        *,
        projection: Projection | None = None,
        near_plane: float = NEAR_PLANE,
        far_plane: float = FAR_PLANE,
        antialiased: bool = False,
        render_depth: bool = True,
        absgrad: bool = False,
        deterministic: bool = False,
    ) -> None:
        if tile_size not in TILE_SIZES:
            raise ValueError(f"tile_size must be one of {TILE_SIZES} pixels, got {tile_size!r}.")
        if isect_capacity is not None and isect_capacity < 1:
            raise ValueError(f"isect_capacity must be None or at least 1, got {isect_capacity}.")
        if not 0 < near_plane < far_plane:
            raise ValueError(f"need 0 < near_plane < far_plane, got {near_plane} and {far_plane}.")
        if antialiased and projection is not None and not getattr(projection, "antialiased", False):
            raise ValueError(
                f"antialiased=True contradicts projection={projection!r}; leave antialiased out and pass "
                "projection=EWA(antialiased=True)."
            )
        backends.check_implementation(implementation)
        self.tile_size = tile_size
        self.implementation = implementation
        self.isect_capacity = isect_capacity
        self.projection = EWA(antialiased=antialiased) if projection is None else projection
        self.near_plane = near_plane
        self.far_plane = far_plane
        self.render_depth = render_depth
        self.absgrad = absgrad
        self.deterministic = deterministic

    @property
    def antialiased(self) -> bool:
        """Whether the projection scales opacity by what the low-pass filter adds."""
        return getattr(self.projection, "antialiased", False)

    def __call__(
        self,
        gaussians: Gaussians,
        camera: Camera,
        *,
        colors: Float[Array, "n c"] | None = None,
        shading: Shading | None = None,
        view: Int[Array, ""] | int | None = None,
        background: Float[Array, " c"] | None = None,
        means2d_offset: Float[Array, "n 2"] | None = None,
    ) -> RenderOutput:
        """Renders one camera; ``jax.vmap`` renders a batch.

        Args:
            gaussians: what to draw.
            camera: from where.
            colors: any number of channels for each Gaussian.
            shading: what makes the channels in place of ``colors``; ``gaussians.shading`` if None.
            view: number of the training view, for the shading; None for any other view.
            background: colour behind everything; black if None.
            means2d_offset: added to the projected centres, pixels; differentiate by it, at zero, for the
                screen-space gradients that densification uses.

        Raises:
            ValueError: on shapes that do not match, under ``jit`` without ``isect_capacity``, or where
                ``deterministic`` cannot be promised.
        """
        shading = gaussians.shading if shading is None else shading
        if colors is None and not reads_stored_only(shading):
            gaussians = gaussians.renderable_only()
            colors = shading(gaussians, camera, view=view)
        if colors is not None and (colors.ndim != 2 or colors.shape[0] != gaussians.capacity):
            raise ValueError(f"colors must be [{gaussians.capacity}, C], got shape {colors.shape}.")
        rendered, capacity = render(
            parameters_of(gaussians),
            camera,
            colors=colors,
            offset=means2d_offset,
            settings=self._settings(camera, shading if colors is None else None),
            implementation=self.implementation,
        )
        return _finish(rendered, background, capacity, self.render_depth)

    def project(self, gaussians: Gaussians, camera: Camera) -> ProjectedGaussians:
        """2D Gaussians in pixels of ``camera``."""
        return project(parameters_of(gaussians), camera, self._settings(camera, None))

    def count_isects(self, gaussians: Gaussians, camera: Camera) -> Int[Array, ""]:
        """(tile, Gaussian) pairs of a view: the least ``isect_capacity`` that shows all of it."""
        projected = self.project(gaussians, camera)
        return count_isects(projected, self._settings(camera, None), self.implementation)

    def sized_for(
        self, gaussians: Gaussians, cameras: Camera | Iterable[Camera], margin: float = 1.5
    ) -> TileRasterizer:
        """This rasterizer with a buffer that has room for some views, for use under ``jit``.

        Args:
            gaussians: what will be drawn.
            cameras: one camera, a batch of one size, or several cameras.
            margin: factor of the room that the fullest of these views needs, at least 1.

        Raises:
            ValueError: on a margin below 1, or no camera.

        Example:
            >>> import jax
            >>> import numpy as np
            >>> import splax
            >>> gaussians = splax.Gaussians.from_points(np.zeros((1, 3)))
            >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.8, width=32, height=24)
            >>> rasterizer = splax.TileRasterizer().sized_for(gaussians, camera)
            >>> jax.jit(lambda camera: rasterizer(gaussians, camera).image)(camera).shape
            (24, 32, 3)
        """
        if not margin >= 1:
            raise ValueError(f"sized_for margin must be at least 1, got {margin}.")
        singles = [single for camera in _each(cameras) for single in _each(camera)]
        if not singles:
            raise ValueError("sized_for needs at least one camera, got none.")
        most = max(int(self.count_isects(gaussians, camera)) for camera in singles)
        sized = copy.copy(self)
        sized.isect_capacity = round_capacity(int(margin * most))
        return sized

    def explain(self, model: Any, camera: Camera) -> str:
        """Which backend draws a model, and what keeps it from a faster one, as a sentence.

        Args:
            model: a :class:`splax.SplatModel`, or Gaussians.
            camera: the view; its size and types count.

        Example:
            >>> import numpy as np
            >>> import splax
            >>> gaussians = splax.Gaussians.from_points(np.zeros((1, 3)))
            >>> camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.8, width=32, height=24)
            >>> splax.TileRasterizer(implementation="xla").explain(gaussians, camera)
            'xla, in separate steps: xla was asked for.'
        """
        gaussians = getattr(model, "gaussians", model)
        shading = model.drawn_shading() if hasattr(model, "drawn_shading") else gaussians.shading
        return backends.explain(
            parameters_of(gaussians), camera, self._settings(camera, shading), self.implementation
        )

    def _settings(self, camera: Camera, shading: Any) -> RenderSettings:
        return RenderSettings(
            tile_grid=TileGrid(camera.width, camera.height, self.tile_size),
            projection=self.projection,
            shading=shading,
            near_plane=self.near_plane,
            far_plane=self.far_plane,
            render_depth=self.render_depth,
            absgrad=self.absgrad,
            deterministic=self.deterministic,
            isect_capacity=self.isect_capacity,
        )


def parameters_of(gaussians: Gaussians) -> Parameters:
    """The stored arrays, as they are."""
    return Parameters(**{name: getattr(gaussians, name)[...] for name in Parameters._fields})


def _each(cameras: Camera | Iterable[Camera]) -> list[Camera]:
    """Single cameras: those of a batch, or the given ones."""
    if not isinstance(cameras, Camera):
        return list(cameras)
    if cameras.viewmat.ndim == 2:
        return [cameras]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[cameras.viewmat.ndim - 2 :]), cameras)
    return [jax.tree.map(lambda x, i=i: x[i], flat) for i in range(flat.viewmat.shape[0])]


def _finish(
    rendered: RenderBuffers, background: Float[Array, " c"] | None, capacity: int, render_depth: bool
) -> RenderOutput:
    """The parts of a view as users get them; depth, if there, is the last channel."""
    image, alpha, means2d, radii, num_isects = rendered
    image, depth = (image[..., :-1], image[..., -1]) if render_depth else (image, jnp.zeros_like(alpha))
    if background is not None:
        if jnp.shape(background) != image.shape[-1:]:
            raise ValueError(
                f"background must be [{image.shape[-1]}], one value per channel, got {jnp.shape(background)}."
            )
        image = image + (1 - alpha)[..., None] * background
    return RenderOutput(
        image=image,
        alpha=alpha,
        accumulated_depth=depth,
        means2d=means2d,
        radii=radii,
        num_isects=num_isects,
        isect_capacity=jnp.asarray(capacity, jnp.int32),
    )
