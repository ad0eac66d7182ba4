"""Draws tiles: one warp a subtile, two pixels a lane; where lists are long, two warps a subtile.

A warp reads its tile's list 32 pairs at a time. Lanes vote which of them reach its pixels, and load those, one
each; then the warp blends them, passing the values from their lane to all others. (Loading them one after the
other takes 1.4 to 1.7 times as long.) A list cannot be cut, since what lies in front decides what is seen of the
rest, so that the longest lists would end last, when nothing else runs: warps that draw half a subtile each
are through with theirs sooner. Every :data:`PAIRS_PER_BUCKET` pairs it can store the state of its pixels, for
the backward pass to start from.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.constants import MAX_ALPHA, MIN_TRANSMITTANCE
from splax.ops.tile_grid import TileGrid
from splax.ops.triton.binning.tile_lists import TileLists
from splax.ops.triton.binning.tile_ranges import LONGER_THAN, PAIRS_PER_BUCKET
from splax.ops.triton.binning.tile_tests import reaches_box
from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load, nth_bits, store, zeros
from splax.ops.triton.pixel_regions import (
    FORM_SIZE,
    ID_BITS,
    ID_MASK,
    LOG2_THRESHOLD,
    PixelColumn,
    PixelRegion,
    QuadraticForm,
    num_subtiles,
    pixel_columns,
    polynomial_around,
    subtile_size,
)

# Gaussians blended per turn of the loop, so that the latency of one hides behind the arithmetic of another.
_UNROLL = 4
# A log2 of alpha that is below the threshold at every pixel.
_NOWHERE = -1e30
# Numbers that a lane keeps of its pixels' channels, a multiple of 64; more channels than fit are drawn in
# several passes, since kernels whose registers spill are slow, to compile most of all.
_CHANNELS_PER_LANE = 64


class BucketStates(NamedTuple):
    """States of pixels between buckets; the first bucket of a tile starts from nothing and has none.

    Attributes:
        states: one array for each pass: transmittance, 0 where a pixel is finished, and channels, [bucket states,
            1 + C, pixels of a tile], flat.
        tile: tile of each bucket state, [bucket states].
        starts: first bucket state of each tile, [T + 1].
        walked: number of pairs that the upper and the lower half of each subtile went through before all pixels
            that a warp drew were finished, [T * subtiles * 2].
    """

    states: list[jax.Array]
    tile: jax.Array
    starts: jax.Array
    walked: jax.Array


def num_bucket_states(capacity: int) -> int:
    """Returns the number of bucket states that ``capacity`` pairs can need."""
    return max(1, capacity // PAIRS_PER_BUCKET)


def most_long_lists(lists: TileLists, tile_grid: TileGrid) -> int:
    """Returns the largest value that :attr:`TileLists.num_long` can have."""
    return min(tile_grid.num_tiles, lists.ids.shape[0] // (LONGER_THAN[0] + 1))


def channels_per_draw(tile_grid: TileGrid) -> int:
    """Returns the number of channels of one pass of :func:`draw`."""
    return _CHANNELS_PER_LANE * LANES // subtile_size(tile_grid) ** 2


def draw(lists: TileLists, attributes: jax.Array, tile_grid: TileGrid, warp: Warp, *, save: bool):
    """Composites all tiles.

    Args:
        lists: pairs of each tile.
        attributes: rows of the Gaussians, :class:`QuadraticForm` and channels, [N, 6 + C].
        tile_grid: the tiles of the image.
        warp: warp that runs the kernels.
        save: whether to store bucket states.

    Returns:
        Channels, [H, W, C], alpha, [H, W], and the bucket states, or None.
    """
    num_channels, most = attributes.shape[1] - FORM_SIZE, channels_per_draw(tile_grid)
    passes = [
        _draw(lists, attributes, range(first, min(first + most, num_channels)), tile_grid, warp, save)
        # An image without channels still has an alpha.
        for first in range(0, max(num_channels, 1), most)
    ]
    images, alphas, saved = zip(*passes, strict=True)
    image = images[0] if len(images) == 1 else jnp.concatenate(images, axis=2)
    if not save:
        return image, alphas[0], None
    states, (owner, *_), (walked, *_) = zip(*saved, strict=True)
    return image, alphas[0], BucketStates(list(states), owner, lists.bucket_state_starts, walked)


class _InputRefs(NamedTuple):
    """References to the flat arrays that the kernel reads: those of :class:`TileLists`, and the attributes."""

    ids: Any
    offsets: Any
    starts: Any
    order: Any
    num_long: Any
    attributes: Any


_NUM_INPUTS = len(_InputRefs._fields)


class _OutputRefs(NamedTuple):
    """References to the flat arrays that the kernel writes; the last three are None if it saves no states."""

    image: Any
    alpha: Any
    states: Any = None
    owner: Any = None
    walked: Any = None


def _draw(lists, attributes, channels, tile_grid, warp, save):
    """Draws some of the channels; returns them, alpha, and the arrays of the bucket states if they are saved."""
    stride, num_channels = attributes.shape[1], len(channels)
    columns = (*range(FORM_SIZE), *(FORM_SIZE + q for q in channels))
    state_size, most_long = (1 + num_channels) * tile_grid.num_pixels, most_long_lists(lists, tile_grid)

    def kernel(*refs):
        inputs, out = _InputRefs(*refs[:_NUM_INPUTS]), _OutputRefs(*refs[_NUM_INPUTS:])
        draw_region = functools.partial(draw_pixels, inputs, out)
        _find_region(draw_region, inputs.order, inputs.num_long if most_long else None, tile_grid)

    def draw_pixels(inputs, out, region):
        tile, subtile, half = region
        begin, end = inputs.offsets[tile], inputs.offsets[tile + 1]
        pixels = _Pixels.of(region, tile_grid)
        # Where little else runs, a warp would wait for memory most of the time: what comes next is loaded
        # before the present values are used. Warps of whole subtiles have no registers left for that.
        reads_ahead = half is not None

        def ids_at(first):
            return load(inputs.ids, first + lanes(), first + lanes() < end)

        def reaches_subtile(packed):
            return ((packed >> (ID_BITS + subtile)) & 1) != 0

        def attributes_of(packed):
            place = (packed & ID_MASK) * stride
            return [load(inputs.attributes, place + q, reaches_subtile(packed)) for q in columns]

        def walk(carry):
            first, packed, after, values, state = carry
            if save:
                _store_state(
                    out.states, state, pixels, first - begin, inputs.starts[tile], state_size, tile_grid
                )
            values_after = attributes_of(after) if reads_ahead else []
            values = values if reads_ahead else attributes_of(packed)
            then = ids_at(first + 2 * LANES)
            form, reaches = QuadraticForm(*values[:FORM_SIZE]), reaches_subtile(packed)
            if half is not None:
                reaches &= reaches_box(form, *region.corner(tile_grid), *region.size(tile_grid), warp=warp)
            lane_values = [*polynomial_around(form, *pixels.center, warp=warp), *values[FORM_SIZE:]]
            state = _blend_all(pixels, *_move_to_front(lane_values, reaches, warp), state, warp)
            return first + LANES, after, then, values_after, state

        def unfinished(carry):
            first, *_, state = carry
            open_ = functools.reduce(jnp.maximum, [transmittance for transmittance, *_ in state])
            return (first < end) & (jnp.max(open_.max(axis=0)) > 0)

        packed, after = ids_at(begin), ids_at(begin + LANES)
        values = attributes_of(packed) if reads_ahead else []
        start = begin, packed, after, values, pixels.empty(num_channels)
        first, *_, state = lax.while_loop(unfinished, walk, start)
        for (transmittance, *color), column in zip(state, pixels.columns, strict=True):
            store(out.alpha, column.image, 1 - jnp.abs(transmittance), column.inside)
            for q, value in enumerate(color):
                store(out.image, column.image * num_channels + q, value, column.inside)
        if save:
            nth = 2 * (tile * num_subtiles(tile_grid) + subtile)
            for place in (nth, nth + 1) if half is None else (nth + half,):
                out.walked[place] = first - begin
            is_first = (subtile == 0) if half is None else (subtile == 0) & (half == 0)
            pl.when(is_first)(lambda: _name_bucket_states(out.owner, tile, inputs.starts))

    num_pixels, capacity = tile_grid.width * tile_grid.height, lists.ids.shape[0]
    shapes = [((num_pixels * num_channels,), jnp.float32), ((num_pixels,), jnp.float32)]
    if save:
        room = num_bucket_states(capacity)
        shapes += [((room * state_size,), jnp.float32), ((room,), jnp.int32)]
        shapes += [((tile_grid.num_tiles * num_subtiles(tile_grid) * 2,), jnp.int32)]
    image, alpha, *saved = warp.launch(
        "draw",
        kernel,
        (tile_grid.num_tiles * num_subtiles(tile_grid) + most_long * num_subtiles(tile_grid),),
        [jax.ShapeDtypeStruct(*shape) for shape in shapes],
        *_InputRefs(
            lists.ids,
            lists.offsets,
            lists.bucket_state_starts,
            lists.order,
            lists.num_long,
            attributes.reshape(-1),
        ),
    )
    shape = (tile_grid.height, tile_grid.width)
    return image.reshape(*shape, num_channels), alpha.reshape(shape), saved


def _find_region(draw_region, order, num_long, tile_grid):
    """Draws the region of this program; the halves of ``num_long`` tiles come first, if it is not None."""
    program = pl.program_id(0)
    long_tiles = 0 if num_long is None else num_long[0]
    whole_index = program - 2 * num_subtiles(tile_grid) * long_tiles

    def draw_half():
        nth = lax.div(program, 2 * num_subtiles(tile_grid))
        part = program - nth * 2 * num_subtiles(tile_grid)
        draw_region(PixelRegion(order[nth], part // 2, part % 2))

    def draw_whole():
        nth = whole_index // num_subtiles(tile_grid) + long_tiles
        pl.when(nth < tile_grid.num_tiles)(
            lambda: draw_region(PixelRegion(order[nth], whole_index % num_subtiles(tile_grid)))
        )

    if num_long is None:
        draw_whole()
    else:
        # One condition: as two, one after the other, they take a quarter more registers.
        lax.cond(whole_index < 0, draw_half, draw_whole)


class _Pixels(NamedTuple):
    """Pixels of a region, in columns, and their offsets from the centre of the region.

    The state of a column of pixels is the transmittance, negative where a pixel is finished, and the channels.
    """

    columns: list[PixelColumn]
    center: tuple[jax.Array, jax.Array]
    offsets_x: list[jax.Array]
    offset_y: jax.Array

    @classmethod
    def of(cls, region, tile_grid):
        """Returns the pixels of a region."""
        columns, center = pixel_columns(region, tile_grid), region.center(tile_grid)
        return cls(columns, center, [column.x - center[0] for column in columns], columns[0].y - center[1])

    def empty(self, num_channels):
        """Returns the state of pixels before the first Gaussian; pixels outside the image are finished."""
        nothing = [zeros(self.offset_y.shape[0])] * num_channels
        return [(jnp.where(column.inside, 1.0, 0.0), *nothing) for column in self.columns]


def _move_to_front(values, reaches, warp):
    """Moves the values of the lanes whose Gaussians reach the region to the first lanes.

    Returns:
        The moved values, and the number of those lanes.
    """
    bits = warp.ballot(reaches)
    num, source = lax.population_count(bits), nth_bits(bits) & (LANES - 1)
    lane_values = [warp.from_lane(value, source) for value in values]
    lane_values[FORM_SIZE - 1] = jnp.where(lanes() < num, lane_values[FORM_SIZE - 1], _NOWHERE)
    return lane_values, num


def _blend_all(pixels, lane_values, num, state, warp):
    """Returns the state after the Gaussians of the first lanes, one after the other."""

    def blend_some(turn, state):
        # The values of all four are passed to the other lanes before the first is blended.
        some = [
            [warp.from_lane(value, full(turn * _UNROLL + k)) for value in lane_values] for k in range(_UNROLL)
        ]
        return functools.reduce(lambda state, values: _blend(pixels, values, state, warp), some, state)

    return lax.fori_loop(0, (jnp.max(num) + _UNROLL - 1) // _UNROLL, blend_some, state)


def _blend(pixels, values, state, warp):
    """Returns the state after one Gaussian, which is given as the polynomial of its form and its channels."""
    (xx, xy, yy, x, y, one), channels, fma = values[:FORM_SIZE], values[FORM_SIZE:], warp.fma
    after = []
    for offset, (transmittance, *color) in zip(pixels.offsets_x, state, strict=True):
        constant, slope = fma(fma(xx, offset, x), offset, one), fma(xy, offset, y)
        power = fma(fma(yy, pixels.offset_y, slope), pixels.offset_y, constant)
        left = warp.cover(
            power, transmittance, threshold=LOG2_THRESHOLD, most=MAX_ALPHA, least=MIN_TRANSMITTANCE
        )
        weight = warp.difference_of_sizes(transmittance, left)
        color = [fma(weight, channel, value) for value, channel in zip(color, channels, strict=True)]
        after.append((left, *color))
    return after


def _store_state(states, state, pixels, walked, start, state_size, tile_grid):
    """Stores the state of the pixels where a bucket begins, except for the tile's first bucket."""

    @pl.when((walked > 0) & (walked % PAIRS_PER_BUCKET == 0))
    def _():
        base = (start + walked // PAIRS_PER_BUCKET - 1) * state_size
        for (transmittance, *color), column in zip(state, pixels.columns, strict=True):
            for q, value in enumerate((jnp.maximum(transmittance, 0), *color)):
                store(states, base + q * tile_grid.num_pixels + column.tile, value)


def _name_bucket_states(owner, tile, starts):
    """Writes the tile's number to its bucket states."""

    def some(place):
        store(owner, place + lanes(), full(tile), place + lanes() < starts[tile + 1])
        return place + LANES

    lax.while_loop(lambda place: place < starts[tile + 1], some, starts[tile])
