"""The only door to the kernels: 2D Gaussians to pixels, by the implementation that was named or that fits."""

import functools
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from splax.ops._rasterize_lanes import composite_vjp
from splax.ops._rasterize_xla import composite
from splax.ops.deferred import deferred
from splax.ops.intersection import Intersections, TileLayout, count_isects, intersect_tiles, saturating_sum
from splax.ops.parameters import DrawSettings, Parameters, Rendered, Splats
from splax.ops.platform import has_cuda
from splax.ops.projection import Projection

# "xla": plain JAX, differentiable in every mode and order. "xla_vjp": the same image, faster reverse mode.
# "triton": kernels for NVIDIA GPUs, first order reverse mode.
Implementation = Literal["xla", "xla_vjp", "triton"]
TRITON_TILE_SIZES = (8, 16, 32)
# Gaussians that a kernel can number.
_TRITON_GAUSSIANS = 2**28
# Elements of an array that a kernel can number.
_TRITON_ELEMENTS = 2**31
# A number of pairs.
_COUNT = jax.ShapeDtypeStruct((), jnp.int32)


def rasterize(
    projection: Projection,
    colors: Float[Array, "n c"],
    opacities: Float[Array, " n"],
    size: TileLayout,
    *,
    isect_capacity: int,
    implementation: Implementation | None = None,
    probe: Float[Array, "n 2"] | None = None,
    deterministic: bool = False,
) -> tuple[Float[Array, "h w c"], Float[Array, "h w"], Int[Array, ""]]:
    """Lists the Gaussians of every tile and composites them front to back.

    Args:
        projection: 2D Gaussians; rows of radius 0 are left out.
        colors: any number of channels.
        opacities: in [0, 1]; finite in every row.
        size: image and tiles, pixels.
        isect_capacity: room for (tile, Gaussian) pairs.
        implementation: a name forces that path; None takes the fastest one of the platform.
        probe: has no value of its own; its gradient is that of the centres, with absolute values of what each
            pixel adds.
        deterministic: whether the kernels sum gradients in a fixed order; see :func:`check_deterministic`.

    Returns:
        The channels without a background, alpha = 1 - transmittance, and the number of pairs; where that is
        above ``isect_capacity`` the image is incomplete.

    Raises:
        ValueError: on an unknown implementation, or sizes that the named one cannot handle.
        NotImplementedError: if the named one does not run here.
    """
    plain = functools.partial(
        _rasterize_xla, size=size, capacity=isect_capacity, differentiable=implementation == "xla"
    )
    kernels = functools.partial(
        _rasterize_triton, size=size, capacity=isect_capacity, deterministic=deterministic
    )
    dtype = jnp.result_type(projection.means2d, colors, opacities)
    image = jax.ShapeDtypeStruct((size.height, size.width, colors.shape[1]), dtype)
    shapes = image, jax.ShapeDtypeStruct(image.shape[:2], dtype), _COUNT
    return _dispatch(implementation, kernels, plain, shapes, size, projection, colors, opacities, probe)


def count_pairs(
    projection: Projection,
    opacities: Float[Array, " n"],
    size: TileLayout,
    *,
    implementation: Implementation | None = None,
) -> Int[Array, ""]:
    """(tile, Gaussian) pairs that :func:`rasterize` needs room for; arguments as there."""
    plain = functools.partial(_count_xla, size=size)
    kernels = functools.partial(_count_triton, size=size)
    return _dispatch(implementation, kernels, plain, _COUNT, size, projection, opacities)


def can_render(params: Parameters, camera_dtype: Any, size: TileLayout, implementation: str | None) -> bool:
    """Whether :func:`render` has kernels for this, here."""
    if implementation not in (None, "triton") or not has_cuda():
        return False
    arrays = params[:6]
    fits = all(x.dtype == jnp.float32 for x in arrays) and max(x.size for x in arrays) < _TRITON_ELEMENTS
    return fits and camera_dtype == jnp.float32 and _triton_obstacle(size, params.means) is None


def render(
    params: Parameters,
    viewmat: Float[Array, "4 4"],
    K: Float[Array, "3 3"],
    means2d_offset: Float[Array, "n 2"] | None,
    size: TileLayout,
    settings: DrawSettings,
    *,
    isect_capacity: int,
    implementation: Implementation | None,
    unfused: Callable[..., Rendered],
    splat: Callable[..., Splats],
) -> Rendered:
    """Renders stored Gaussians in their own colours in kernels alone; only where :func:`can_render`.

    Args:
        params: the Gaussians.
        viewmat: world-to-camera.
        K: intrinsics in pixels.
        means2d_offset: added to the projected centres, pixels.
        size: of the image and its tiles.
        settings: of the rasterizer.
        isect_capacity: room for (tile, Gaussian) pairs.
        implementation: None lets the platform that the arrays are on decide.
        unfused: the same function of the first four arguments in separate steps, for other platforms.
        splat: projected Gaussians as a function of the first three, in separate steps, for the camera's
            gradients.
    """
    from splax.ops.triton import render as triton

    job = triton.Job(
        settings,
        triton.Tiling(*size),
        isect_capacity,
        triton.Warp(interpret=False),
        splat,
    )

    def kernels(*args):
        return cast(Rendered, triton.render(*args, job))

    args = (params, viewmat, K, means2d_offset)
    if implementation == "triton":
        return kernels(*args)
    shapes = Rendered.shapes(params.means.shape[0], size.height, size.width, settings)
    return lax.platform_dependent(*args, cuda=kernels, default=deferred(unfused, shapes))


def check_deterministic(implementation: str | None, size: TileLayout, means2d: Array) -> None:
    """Raises a ValueError where results could differ from run to run: plain XLA's scatters on a GPU."""
    if jax.default_backend() != "gpu":
        return
    obstacle = _triton_obstacle(size, means2d)
    if implementation in ("xla", "xla_vjp") or not has_cuda():
        obstacle = f"is for the kernels of NVIDIA GPUs, not for implementation={implementation!r} here"
    if obstacle is not None:
        raise ValueError(f"deterministic=True {obstacle}; or set it to False.")


def check_implementation(implementation: str | None) -> None:
    """Raises a ValueError if there is no implementation of that name."""
    if implementation is not None and implementation not in get_args(Implementation):
        names = ", ".join(repr(name) for name in get_args(Implementation))
        raise ValueError(f"implementation must be one of {names} or None, got {implementation!r}.")


def rasterize_to_pixels(
    means2d: Float[Array, "n 2"],
    conics: Float[Array, "n 3"],
    colors: Float[Array, "n c"],
    opacities: Float[Array, " n"],
    isects: Intersections,
    size: TileLayout,
    *,
    probe: Float[Array, "n 2"] | None = None,
    differentiable: bool = False,
) -> tuple[Float[Array, "h w c"], Float[Array, "h w"]]:
    """Composites Gaussians front to back, in plain XLA.

    Args:
        means2d: centres in pixels.
        conics: inverse 2D covariances as (a, b, c) of [[a, b], [b, c]].
        colors: any number of channels.
        opacities: in [0, 1].
        isects: which Gaussians touch which tile.
        size: image, and tiles that ``isects`` was made for, pixels.
        probe: see :func:`rasterize`.
        differentiable: whether JAX differentiates it, in every mode and order, instead of the faster reverse
            mode that is written by hand.

    Returns:
        The channels without a background, and alpha.
    """
    if means2d.shape[0] == 0:
        shape = (size.height, size.width)
        return jnp.zeros((*shape, colors.shape[1]), colors.dtype), jnp.zeros(shape, colors.dtype)
    attributes = jnp.concatenate([means2d, conics, opacities[:, None], colors], axis=1).T
    draw = composite if differentiable else composite_vjp
    tiles = cast(Array, draw(attributes, None if probe is None else probe.T, isects, size))
    columns, rows = size.grid
    tile = size.tile_size
    image = tiles.reshape(rows, columns, colors.shape[1] + 1, tile, tile)
    image = jnp.transpose(image, (0, 3, 1, 4, 2)).reshape(rows * tile, columns * tile, -1)
    image = lax.slice(image, (0, 0, 0), (size.height, size.width, image.shape[2]))
    return image[..., :-1], image[..., -1]


def _dispatch(
    implementation: Implementation | None,
    kernels: Callable[..., Any],
    plain: Callable[..., Any],
    shapes: Any,
    size: TileLayout,
    projection: Projection,
    *arrays: Array | None,
) -> Any:
    """Calls the kernels where they are named or the platform has them, the plain form elsewhere.

    Either returns arrays of ``shapes``.
    """
    check_implementation(implementation)
    obstacle = _triton_obstacle(size, projection.means2d, *(x for x in arrays if x is not None))
    if implementation == "triton":
        if obstacle is not None:
            raise ValueError(f"implementation='triton' {obstacle}; or use implementation=None.")
        if not has_cuda():
            raise NotImplementedError(
                "implementation='triton' needs an NVIDIA GPU and a JAX installed for it (pip install "
                f"'jax[cuda13]'), but JAX sees only {jax.devices()}; use implementation=None, which fits the "
                "platform."
            )
        return kernels(projection, *arrays)
    if implementation is None and obstacle is None and has_cuda():
        return lax.platform_dependent(projection, *arrays, cuda=kernels, default=deferred(plain, shapes))
    return plain(projection, *arrays)


def _triton_obstacle(size: TileLayout, means2d: Array, *others: Array) -> str | None:
    """What the kernels cannot do, with its cure; None if they can do all.

    Others, such as colours, may be of any type that float32 can hold.
    """
    if size.tile_size not in TRITON_TILE_SIZES:
        return f"draws tiles of {TRITON_TILE_SIZES} pixels, not {size.tile_size}: pass one of these"
    dtype = jnp.result_type(means2d, *others) if means2d.dtype == jnp.float32 else means2d.dtype
    if dtype != jnp.float32:
        return f"computes in float32, but the Gaussians are {dtype}: cast them"
    if not 0 < means2d.shape[0] < _TRITON_GAUSSIANS:
        return f"draws 1 to {_TRITON_GAUSSIANS - 1} Gaussians, got {means2d.shape[0]}"
    return None


def _rasterize_xla(projection, colors, opacities, probe, *, size, capacity, differentiable):
    isects = intersect_tiles(projection, isect_capacity=capacity, **size._asdict())
    image, alpha = rasterize_to_pixels(
        projection.means2d,
        projection.conics,
        colors,
        opacities,
        isects,
        size,
        probe=probe,
        differentiable=differentiable,
    )
    return image, alpha, isects.num_isects


def _count_xla(projection, opacities, *, size):
    del opacities
    return count_isects(projection, **size._asdict())


def _rasterize_triton(projection, colors, opacities, probe, *, size, capacity, deterministic):
    from splax.ops.triton import rasterize as triton

    radii, depths = lax.stop_gradient((projection.radii, projection.depths))
    colors, opacities = colors.astype(jnp.float32), opacities.astype(jnp.float32)
    splats = Splats(projection.means2d, projection.conics, opacities, colors)
    tiling, warp = triton.Tiling(*size), triton.Warp(interpret=False)
    return triton.rasterize(splats, radii, depths, probe, tiling, capacity, warp, deterministic)


def _count_triton(projection, opacities, *, size):
    from splax.ops.triton import prepare

    projection, opacities = lax.stop_gradient((projection, opacities))
    splats = Splats(projection.means2d, projection.conics, opacities, projection.means2d[:, :0])
    tiling, warp = prepare.Tiling(*size), prepare.Warp(interpret=False)
    return saturating_sum(prepare.prepare(splats, projection.radii, tiling, warp).counts)
