"""From Gaussians and a camera to an image."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from splax.cameras import Camera
from splax.gaussians import Gaussians, has_own_parts_only, parameters_of
from splax.ops.intersection import TileLayout
from splax.ops.parameters import DrawSettings, Rendered, Splats
from splax.ops.projection import (
    EPS2D,
    FAR_PLANE,
    NEAR_PLANE,
    Projection,
    project_gaussians,
)
from splax.ops.rasterization import (
    Implementation,
    can_render,
    check_deterministic,
    check_implementation,
    count_pairs,
    rasterize,
    render,
)

TILE_SIZES = (4, 8, 16, 32)
# Methods that a subclass may override to draw in another way.
_DRAWN_BY = ("__call__", "project", "_drawn_opacities")


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
    size. Inside ``jit`` or ``vmap`` shapes are static, so ``isect_capacity`` must be given; :meth:`count_isects`
    tells how many a view needs, and ``RenderOutput.overflow`` whether the buffer was too small.

    Args:
        tile_size: pixels per tile side; does not change the image.
        implementation: ``"xla"`` is plain JAX, for every derivative; ``"xla_vjp"`` the same with a faster
            reverse mode, first order; ``"triton"`` kernels for NVIDIA GPUs, first order too, float32; None the
            fastest one of the platform.
        isect_capacity: rows of the buffer of pairs; None counts them (outside ``jit`` only).
        eps2d: low-pass filter added to the projected covariance, px^2.
        near_plane: least depth, world units.
        far_plane: largest depth, world units.
        radius_clip: cull Gaussians whose radius is not above this, px.
        antialiased: scale opacity by what the low-pass filter adds (Yu et al. 2024, Mip-Splatting).
        render_depth: False saves the time of one channel; ``accumulated_depth`` is then 0.
        absgrad: the gradient of ``means2d_offset`` adds up absolute values over the pixels, each coordinate by
            itself (Ye et al. 2024, AbsGS): a Gaussian that is pulled two ways at once does not look content.
        deterministic: promises the same bits in every run, of images and gradients. The CPU keeps that promise
            with or without it. On a GPU kernels add gradients up in any order; True makes them keep those of
            each pair, which takes more memory and time, and refuses to draw where plain XLA would add.

    Raises:
        ValueError: on a tile size, implementation or capacity that does not exist.
        NotImplementedError: when called, if the implementation that was named does not run on this platform.
    """

    def __init__(
        self,
        tile_size: int = 16,
        implementation: Implementation | None = None,
        isect_capacity: int | None = None,
        *,
        eps2d: float = EPS2D,
        near_plane: float = NEAR_PLANE,
        far_plane: float = FAR_PLANE,
        radius_clip: float = 0.0,
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
        check_implementation(implementation)
        self.tile_size = tile_size
        self.implementation = implementation
        self.isect_capacity = isect_capacity
        self.eps2d = eps2d
        self.near_plane = near_plane
        self.far_plane = far_plane
        self.radius_clip = radius_clip
        self.antialiased = antialiased
        self.render_depth = render_depth
        self.absgrad = absgrad
        self.deterministic = deterministic

    def __call__(
        self,
        gaussians: Gaussians,
        camera: Camera,
        *,
        colors: Float[Array, "n c"] | None = None,
        background: Float[Array, " c"] | None = None,
        means2d_offset: Float[Array, "n 2"] | None = None,
    ) -> RenderOutput:
        """Renders one camera; ``jax.vmap`` renders a batch.

        Args:
            gaussians: what to draw.
            camera: from where.
            colors: any number of channels for each Gaussian; its own RGB if None.
            background: colour behind everything; black if None.
            means2d_offset: added to the projected centres, pixels; differentiate by it, at zero, for the
                screen-space gradients that densification uses.

        Raises:
            ValueError: on shapes that do not match, under ``jit`` without ``isect_capacity``, or where
                ``deterministic`` cannot be promised.
        """
        if colors is None:
            if has_kernels_for(self, gaussians, camera):
                _check_background(background, 3)
                return self._render_fused(gaussians, camera, background, means2d_offset)
            gaussians = gaussians.drawable()
            colors = gaussians.colors(camera)
        if colors.ndim != 2 or colors.shape[0] != gaussians.capacity:
            raise ValueError(f"colors must be [{gaussians.capacity}, C], got shape {colors.shape}.")
        _check_background(background, colors.shape[1])
        projection = self.project(gaussians, camera)
        size = TileLayout(camera.width, camera.height, self.tile_size)
        if self.deterministic:
            check_deterministic(self.implementation, size, projection.means2d)
        opacities = self._drawn_opacities(gaussians, projection)
        probe = None
        if means2d_offset is not None:
            if self.absgrad:
                probe, means2d_offset = means2d_offset, jax.lax.stop_gradient(means2d_offset)
            projection = projection._replace(means2d=projection.means2d + means2d_offset)
        return _rasterize(
            projection,
            opacities,
            colors,
            background,
            probe,
            size=size,
            isect_capacity=self.isect_capacity or self._fit_capacity(projection, opacities, size),
            implementation=self.implementation,
            render_depth=self.render_depth,
            deterministic=self.deterministic,
        )

    def _render_fused(
        self,
        gaussians: Gaussians,
        camera: Camera,
        background: Float[Array, " c"] | None,
        means2d_offset: Float[Array, "n 2"] | None,
    ) -> RenderOutput:
        assert self.isect_capacity is not None
        settings = DrawSettings(**{name: getattr(self, name) for name in DrawSettings._fields})
        return _render_fused(
            parameters_of(gaussians),
            camera.viewmat,
            camera.K,
            means2d_offset,
            background,
            size=TileLayout(camera.width, camera.height, self.tile_size),
            settings=settings,
            isect_capacity=self.isect_capacity,
            implementation=self.implementation,
        )

    def project(self, gaussians: Gaussians, camera: Camera) -> Projection:
        """2D Gaussians in pixels of ``camera``."""
        return _project(
            gaussians.means[...],
            gaussians.quats[...],
            gaussians.scales,
            gaussians.opacities,
            camera.viewmat,
            camera.K,
            alive=gaussians.alive[...],
            width=camera.width,
            height=camera.height,
            eps2d=self.eps2d,
            near_plane=self.near_plane,
            far_plane=self.far_plane,
            radius_clip=self.radius_clip,
        )

    def count_isects(self, gaussians: Gaussians, camera: Camera) -> Int[Array, ""]:
        """(tile, Gaussian) pairs of a view: the least ``isect_capacity`` that shows all of it."""
        projection = self.project(gaussians, camera)
        size = TileLayout(camera.width, camera.height, self.tile_size)
        return self._count(projection, self._drawn_opacities(gaussians, projection), size)

    def _drawn_opacities(self, gaussians: Gaussians, projection: Projection) -> Float[Array, " n"]:
        opacities = gaussians.opacities
        return opacities * projection.compensations if self.antialiased else opacities

    def _count(
        self, projection: Projection, opacities: Float[Array, " n"], size: TileLayout
    ) -> Int[Array, ""]:
        projection, opacities = jax.lax.stop_gradient((projection, opacities))
        return _count(projection, opacities, size=size, implementation=self.implementation)

    def _fit_capacity(self, projection: Projection, opacities: Float[Array, " n"], size: TileLayout) -> int:
        count = self._count(projection, opacities, size)
        try:
            needed = int(count)
        except jax.errors.ConcretizationTypeError as error:
            raise ValueError(
                "under jax.jit or jax.vmap shapes are static: give TileRasterizer an isect_capacity, e.g. 1.5 "
                "times rasterizer.count_isects(gaussians, camera) of a typical view, and look at "
                "RenderOutput.overflow."
            ) from error
        return round_capacity(needed)


def has_kernels_for(rasterizer: TileRasterizer, gaussians: Gaussians, camera: Camera) -> bool:
    """Whether Gaussians in their own colours are drawn by kernels alone, from parameters to pixels.

    The kernels know what our classes do, not what a subclass makes of it; and to size a buffer, projections must
    be counted first.
    """
    own = all(getattr(type(rasterizer), name, None) is getattr(TileRasterizer, name) for name in _DRAWN_BY)
    if not own or rasterizer.isect_capacity is None or not has_own_parts_only(gaussians):
        return False
    size = TileLayout(camera.width, camera.height, rasterizer.tile_size)
    dtype = jnp.promote_types(camera.viewmat.dtype, camera.K.dtype)
    return can_render(parameters_of(gaussians), dtype, size, rasterizer.implementation)


def round_capacity(needed: int) -> int:
    """The next size of a coarse grid (four per doubling), so that similar views share a compiled program.

    Raises:
        ValueError: if no buffer can be that large.
    """
    if needed >= 2**31 - 2**24:
        raise ValueError(
            f"the view has {needed} or more (tile, Gaussian) pairs, beyond what 32-bit indices can hold; use a "
            "larger tile_size, a smaller image, or smaller Gaussians."
        )
    step = max(256, 1 << max(needed.bit_length() - 3, 0))
    return max(1024, -(-needed // step) * step)


_project = jax.jit(
    project_gaussians,
    static_argnames=("width", "height", "eps2d", "near_plane", "far_plane", "radius_clip"),
)


@functools.partial(jax.jit, static_argnames=("size", "implementation"))
def _count(projection, opacities, *, size, implementation):
    opacities = _where_visible(projection, opacities)
    return count_pairs(projection, opacities, size, implementation=implementation)


@functools.partial(
    jax.jit, static_argnames=("size", "isect_capacity", "implementation", "render_depth", "deterministic")
)
def _rasterize(
    projection,
    opacities,
    colors,
    background,
    probe,
    *,
    size,
    isect_capacity,
    implementation,
    render_depth,
    deterministic,
):
    """Bins and composites; colours and opacities of culled rows are never read."""
    channels = colors
    if render_depth:
        channels = jnp.concatenate([colors, projection.depths[:, None]], axis=1)
    image, alpha, num_isects = rasterize(
        projection,
        _where_visible(projection, channels),
        _where_visible(projection, opacities),
        size,
        isect_capacity=isect_capacity,
        implementation=implementation,
        probe=probe,
        deterministic=deterministic,
    )
    return _output(
        Rendered(image, alpha, projection.means2d, projection.radii, num_isects),
        background,
        isect_capacity=isect_capacity,
        render_depth=render_depth,
    )


@functools.partial(jax.jit, static_argnames=("size", "settings", "isect_capacity", "implementation"))
def _render_fused(
    params, viewmat, K, means2d_offset, background, *, size, settings, isect_capacity, implementation
):
    """From stored parameters to pixels in kernels alone."""
    unfused = functools.partial(render_unfused, size=size, settings=settings, isect_capacity=isect_capacity)
    rendered = render(
        params,
        viewmat,
        K,
        means2d_offset,
        size,
        settings,
        isect_capacity=isect_capacity,
        implementation=implementation,
        unfused=unfused,
        splat=_splat_for(size, settings),
    )
    return _output(rendered, background, isect_capacity=isect_capacity, render_depth=settings.render_depth)


def render_unfused(params, viewmat, K, means2d_offset, *, size, settings, isect_capacity):
    """What :func:`_render_fused` computes, in separate steps of plain XLA, for platforms without the kernels."""
    gaussians = _gaussians_of(params)
    camera = Camera(viewmat=viewmat, K=K, width=size.width, height=size.height)
    # Named, so that the kernels are not traced once more; only a GPU's sums differ from run to run.
    settings = settings._replace(deterministic=False)
    rasterizer = TileRasterizer(size.tile_size, "xla_vjp", isect_capacity, **settings._asdict())
    output = rasterizer(gaussians, camera, colors=gaussians.colors(camera), means2d_offset=means2d_offset)
    channels = output.image
    if settings.render_depth:
        channels = jnp.concatenate([channels, output.accumulated_depth[..., None]], axis=-1)
    return Rendered(channels, output.alpha, output.means2d, output.radii, output.num_isects)


@functools.cache
def _splat_for(size, settings):
    """One and the same function for the same arguments, so that what jit traced of it serves again."""
    return functools.partial(splat, size=size, settings=settings)


def splat(params, viewmat, K, *, size, settings):
    """Projected Gaussians with their colours, in separate steps."""
    gaussians = _gaussians_of(params)
    camera = Camera(viewmat=viewmat, K=K, width=size.width, height=size.height)
    rasterizer = TileRasterizer(size.tile_size, **settings._asdict())
    projection = rasterizer.project(gaussians, camera)
    channels = gaussians.colors(camera)
    if settings.render_depth:
        channels = jnp.concatenate([channels, projection.depths[:, None]], axis=1)
    opacities = rasterizer._drawn_opacities(gaussians, projection)
    return Splats(projection.means2d, projection.conics, opacities, channels)


def _gaussians_of(params):
    gaussians = Gaussians(*params[:6], alive=params.alive)
    gaussians.active_sh_degree[...] = params.active_sh_degree
    return gaussians.drawable()


def _output(rendered: Rendered, background, *, isect_capacity, render_depth) -> RenderOutput:
    """The parts of a view as users get them; depth, if there, is the last channel."""
    image, alpha, means2d, radii, num_isects = rendered
    image, depth = (image[..., :-1], image[..., -1]) if render_depth else (image, jnp.zeros_like(alpha))
    if background is not None:
        image = image + (1 - alpha)[..., None] * background
    return RenderOutput(
        image=image,
        alpha=alpha,
        accumulated_depth=depth,
        means2d=means2d,
        radii=radii,
        num_isects=num_isects,
        isect_capacity=jnp.asarray(isect_capacity, jnp.int32),
    )


def _check_background(background, num_channels):
    if background is not None and jnp.shape(background) != (num_channels,):
        raise ValueError(
            f"background must be [{num_channels}], one value per channel, got {jnp.shape(background)}."
        )


def _where_visible(projection, values):
    """Values with 0 in culled rows."""
    visible = (projection.radii > 0).all(axis=1)
    return jnp.where(visible.reshape(-1, *[1] * (values.ndim - 1)), values, 0)
