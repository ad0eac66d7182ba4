"""TileRasterizer: from Gaussians and a camera to an image."""

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
    """The images and numbers that rendering one camera returns; a batch of cameras adds leading axes.

    Attributes:
        image: colours over the background, [H, W, C].
        alpha: 1 - transmittance, [H, W].
        accumulated_depth: sum of weight times camera-space z, world units, [H, W]; 0 where no Gaussian is drawn,
            and everywhere if the rasterizer does not render depth.
        means2d: centres of the Gaussians in pixels, [N, 2].
        radii: half width and half height of the Gaussians in pixels, [N, 2]; 0 where culled.
        num_isects: number of (tile, Gaussian) pairs in this view, int32.
        isect_capacity: number of pairs that the buffer had room for, int32. If ``num_isects`` is larger, the
            image is incomplete.

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
        """Expected camera-space z, world units, [H, W]; 0 where no Gaussian is drawn."""
        return self.accumulated_depth / jnp.maximum(self.alpha, 1e-10)

    @property
    def visible(self) -> Bool[Array, "*batch n"]:
        """Mask of the Gaussians that were not culled, [N]."""
        return (self.radii > 0).all(axis=-1)

    @property
    def overflow(self) -> Bool[Array, "*batch"]:
        """Whether the buffer of pairs was too small, so that the image is incomplete."""
        return self.num_isects > self.isect_capacity

    def check(self) -> RenderOutput:
        """Returns this output if the image is complete; for use outside ``jax.jit``.

        Raises:
            ValueError: if the buffer of pairs was too small.
        """
        if bool(self.overflow.any()):
            raise ValueError(
                f"the view has {int(self.num_isects.max())} intersections but isect_capacity is "
                f"{int(self.isect_capacity.min())}, so the image is incomplete; pass a larger isect_capacity, or "
                "leave it out: outside jit the rasterizer then sizes the buffer itself."
            )
        return self


class TileRasterizer(nnx.Module):
    """Tile-based rasterizer of 3D Gaussians (Kerbl et al. 2023). It holds settings only, no Params.

    The rasterizer lists the (tile, Gaussian) pairs of a view in a buffer. Outside ``jax.jit`` it counts the
    pairs and sizes the buffer itself, unless ``isect_capacity`` is given. Inside ``jit`` or ``vmap`` shapes are
    static, so ``isect_capacity`` must be given: :meth:`sized_for` makes a rasterizer with room for some views,
    and ``RenderOutput.overflow`` says whether the buffer was too small.

    Args:
        tile_size: pixels per tile side: 4, 8, 16 or 32; the image does not depend on it.
        implementation: name of the backend. ``"xla"`` is plain JAX and has every derivative. ``"xla_vjp"`` is
            plain JAX with a faster reverse mode, first order only. ``"triton"`` runs kernels on NVIDIA GPUs in
            float32, first order only. None takes the fastest one of the platform; :meth:`explain` says which
            one draws a view.
        isect_capacity: number of pairs that the buffer has room for. None counts the pairs first, which works
            outside ``jit`` only.
        projection: object that projects the Gaussians: :class:`splax.EWA`, which is the default, or one of your
            own with the same attributes.
        near_plane: smallest camera-space z that is drawn, world units.
        far_plane: largest camera-space z that is drawn, world units.
        antialiased: whether the projection is ``EWA(antialiased=True)``; a short form of that argument.
        render_depth: whether to render depth. Without it one channel less is composited, and
            ``accumulated_depth`` is 0.
        absgrad: whether the gradient of ``means2d_offset`` sums absolute values over the pixels, for x and y
            separately (Ye et al. 2024, AbsGS). Pulls in opposite directions then do not cancel.
        deterministic: whether to promise the same bits, of images and gradients, in every run. A CPU gives the
            same bits anyway. On a GPU kernels add gradients up in any order; if this is True, they store the
            gradients of each pair first, which takes more memory and time, and plain JAX refuses to draw.

    Raises:
        ValueError: if the tile size, the implementation or the capacity does not exist, or if ``antialiased``
            is True and the projection is not antialiased.
        NotImplementedError: when the rasterizer is called, if the named implementation does not run on this
            platform.
        TypeError: if a subclass overrides ``project``, which drawing does not call.

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
        """Whether the projection lowers opacities to make up for the low-pass filter."""
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
            gaussians: the Gaussians to draw, N rows.
            camera: the camera to draw them for.
            colors: channels of each Gaussian, [N, C], any number of them; None takes those of the shading.
            shading: object that makes the channels if ``colors`` is None; ``gaussians.shading`` by default.
            view: number of the training view, which the shading gets; None for any other view.
            background: colour behind the Gaussians, [C]; black if None.
            means2d_offset: offset of the projected centres in pixels, [N, 2]. Its gradient, taken at zero, is
                the screen-space gradient that densification uses.

        Raises:
            ValueError: if shapes do not match, if ``isect_capacity`` is missing under ``jit``, or if
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
        """Returns the projected Gaussians, in pixels of ``camera``."""
        return project(parameters_of(gaussians), camera, self._settings(camera, None))

    def count_isects(self, gaussians: Gaussians, camera: Camera) -> Int[Array, ""]:
        """Counts the (tile, Gaussian) pairs of a view: the smallest sufficient ``isect_capacity``."""
        projected = self.project(gaussians, camera)
        return count_isects(projected, self._settings(camera, None), self.implementation)

    def sized_for(
        self, gaussians: Gaussians, cameras: Camera | Iterable[Camera], margin: float = 1.5
    ) -> TileRasterizer:
        """Returns a copy of this rasterizer whose buffer has room for some views, for use under ``jit``.

        Args:
            gaussians: the Gaussians that will be drawn.
            cameras: cameras of the views: one, a batch of one size, or several.
            margin: capacity of the buffer as a multiple of what the fullest of these views needs, at least 1.

        Raises:
            ValueError: if the margin is below 1, or if there is no camera.

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
        """Returns a sentence that says which backend draws a model, and why a faster one does not.

        Args:
            model: the :class:`splax.SplatModel`, or the :class:`splax.Gaussians`, to draw.
            camera: the camera to draw it for; its image size, lens and types matter.

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
    """Returns the stored arrays of the Gaussians, unchanged."""
    return Parameters(**{name: getattr(gaussians, name)[...] for name in Parameters._fields})


def _each(cameras: Camera | Iterable[Camera]) -> list[Camera]:
    """Returns single cameras: those of a batch, or those of an iterable."""
    if not isinstance(cameras, Camera):
        return list(cameras)
    if cameras.viewmat.ndim == 2:
        return [cameras]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[cameras.viewmat.ndim - 2 :]), cameras)
    return [jax.tree.map(lambda x, i=i: x[i], flat) for i in range(flat.viewmat.shape[0])]


def _finish(
    rendered: RenderBuffers, background: Float[Array, " c"] | None, capacity: int, render_depth: bool
) -> RenderOutput:
    """Adds the background and separates depth, which is the last channel if it was rendered."""
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
