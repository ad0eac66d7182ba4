"""Binning and compositing in kernels, with their own backward pass."""

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
        inputs: numbers of the projected Gaussians, N rows.
        radii: half width and half height in pixels, [N, 2]; 0 where culled.
        depths: camera-space z, [N]; only their order counts.
        probe: array whose gradient is that of the centres, summed over the pixels in absolute values, [N, 2]; None
            if it is not needed. The image does not depend on it.
        tile_grid: the tiles of the image.
        capacity: number of pairs that the buffer has room for.
        warp: warp that runs the kernels.
        deterministic: whether gradients are summed in a fixed order.

    Returns:
        Channels without a background, [H, W, C], alpha, [H, W], and the number of pairs. If that number is above
        ``capacity``, the image is incomplete.
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
    """Lists and composites, and keeps what :func:`sum_gradients` needs.

    The arguments are those of :func:`make_tile_lists`, with ``deterministic`` for ``with_pair_offsets``.
    """
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
    """Returns moments and channels of each Gaussian, summed over pixels, [6 + C, N]; see :func:`pair_gradients`.

    If ``absolute`` is True, two rows follow: the gradients of the centres, summed in absolute values.

    Raises:
        ValueError: if ``absolute`` is True, and there are more channels than one pass differentiates.
    """
    num_channels = drawn.image.shape[-1]
    if absolute and num_channels > CHANNELS_PER_PASS:
        raise ValueError(
            f"absgrad=True is for up to {CHANNELS_PER_PASS} channels on a GPU, depth included, got "
            f"{num_channels}; render the others separately, or pass implementation='xla_vjp'."
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
    """Returns the sums of the rows of :func:`pair_gradients` for each Gaussian, [6 + channels, N]."""
    if lists.first is None:
        return jnp.concatenate(rows, axis=1).T
    return sum_rows(
        rows[0], lists.first * num_tile_blocks(tile_grid), lists.counts * num_tile_blocks(tile_grid), warp
    )
