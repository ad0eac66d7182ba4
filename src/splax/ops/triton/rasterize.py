"""Binning and compositing with a backward pass of their own: the door to the kernels of this folder."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from splax.ops.tile_grid import TileGrid
from splax.ops.triton.binning.pack import PackedGaussians, compositing_gradients, pack
from splax.ops.triton.binning.tile_lists import TileLists, make_tile_lists
from splax.ops.triton.blending.backward import CHANNELS_PER_PASS, DrawnImage, pair_gradients
from splax.ops.triton.blending.forward import draw
from splax.ops.triton.lanes.row_io import sum_rows
from splax.ops.triton.lanes.warp import Warp
from splax.ops.triton.pixel_regions import FORM_SIZE, num_tile_blocks
from splax.ops.types import CompositingInputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def rasterize(
    inputs: CompositingInputs,
    radii: jax.Array,
    depths: jax.Array,
    probe: jax.Array | None,
    tile_grid: TileGrid,
    capacity: int,
    warp: Warp,
    deterministic: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lists the pairs of each tile and composites them.

    Args:
        inputs: projected Gaussians.
        radii: half extents in pixels, [N, 2]; 0 where culled.
        depths: camera-space z, [N]; only their order counts.
        probe: has no value of its own, [N, 2]; its gradient is that of the centres, with absolute values of what
            each pixel adds.
        tile_grid: the tiles of the image.
        capacity: room for pairs.
        warp: how kernels run.
        deterministic: whether gradients are summed in a fixed order.

    Returns:
        Channels without background [H, W, C], alpha [H, W], and the number of pairs; above ``capacity`` the
        image is incomplete.
    """
    packed = pack(inputs, radii, tile_grid, warp)
    lists = make_tile_lists(packed, depths, tile_grid, capacity, warp, with_pair_offsets=False)
    image, alpha, _ = draw(lists, packed.attributes, tile_grid, warp, save=False)
    return image, alpha, lists.num_isects


def draw_and_save(
    packed: PackedGaussians,
    depths: jax.Array,
    tile_grid: TileGrid,
    capacity: int,
    warp: Warp,
    *,
    deterministic: bool,
) -> DrawnImage:
    """Lists and composites, keeping what :func:`sum_gradients` needs; arguments as :func:`make_tile_lists`'s."""
    lists = make_tile_lists(packed, depths, tile_grid, capacity, warp, with_pair_offsets=deterministic)
    image, alpha, bucket_states = draw(lists, packed.attributes, tile_grid, warp, save=True)
    assert bucket_states is not None
    return DrawnImage(packed.attributes, lists, bucket_states, image, alpha)


def _rasterize_fwd(inputs, radii, depths, probe, tile_grid, capacity, warp, deterministic):
    packed = pack(inputs, radii, tile_grid, warp)
    drawn = draw_and_save(packed, depths, tile_grid, capacity, warp, deterministic=deterministic)
    has_probe = None if probe is None else ()  # not a bool: what is saved may hold arrays and structure only
    return (drawn.image, drawn.alpha, drawn.lists.num_isects), (drawn, has_probe)


def _rasterize_bwd(tile_grid, capacity, warp, deterministic, residuals, cotangents):
    drawn, has_probe = residuals
    v_image, v_alpha, _ = cotangents
    sums = sum_gradients(drawn, v_image, v_alpha, tile_grid, warp, absolute=has_probe is not None)
    v_probe = None
    if has_probe is not None:
        sums, v_probe = sums[:-2], sums[-2:].T
    return compositing_gradients(sums, drawn.attributes, warp), None, None, v_probe


rasterize.defvjp(_rasterize_fwd, _rasterize_bwd)


def sum_gradients(
    drawn: DrawnImage,
    v_image: jax.Array,
    v_alpha: jax.Array | None,
    tile_grid: TileGrid,
    warp: Warp,
    *,
    absolute: bool = False,
) -> jax.Array:
    """Moments and channels of each Gaussian, [6 + C, N], summed over pixels; see :func:`pair_gradients`.

    Two more rows with ``absolute``: gradients of the centres in absolute values.

    Raises:
        ValueError: if these are asked for of more channels than one pass differentiates.
    """
    num_channels = drawn.image.shape[-1]
    if absolute and num_channels > CHANNELS_PER_PASS:
        raise ValueError(
            f"absgrad=True is for up to {CHANNELS_PER_PASS} channels on a GPU, depth included, got "
            f"{num_channels}; render the others apart, or pass implementation='xla_vjp'."
        )
    passes = []
    # An image without channels still has an alpha.
    for begin in range(0, max(num_channels, 1), CHANNELS_PER_PASS):
        channels = range(begin, min(begin + CHANNELS_PER_PASS, num_channels))
        rows = pair_gradients(
            drawn, v_image, v_alpha if begin == 0 else None, channels, tile_grid, warp, absolute=absolute
        )
        passes.append(sum_pairs(rows, drawn.lists, tile_grid, warp))
    if len(passes) == 1:
        return passes[0]
    # Every pass adds to the six moments and has channels of its own.
    moments = functools.reduce(jnp.add, [sums[:FORM_SIZE] for sums in passes])
    return jnp.concatenate([moments, *(sums[FORM_SIZE:] for sums in passes)])


def sum_pairs(rows: Sequence[jax.Array], lists: TileLists, tile_grid: TileGrid, warp: Warp) -> jax.Array:
    """Sums of the rows of :func:`pair_gradients` for each Gaussian, [6 + channels, N]."""
    if lists.first is None:
        return jnp.concatenate(rows, axis=1).T
    return sum_rows(
        rows[0], lists.first * num_tile_blocks(tile_grid), lists.counts * num_tile_blocks(tile_grid), warp
    )
