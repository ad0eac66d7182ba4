"""Draws tiles: one warp a subtile, two pixels a lane.

A warp reads its tile's list 32 pairs at a time. Lanes vote which of them reach its subtile, and load those, one
each; then the warp blends them, passing the values from their lane to all others. (Loading them one after the
other takes 1.4 to 1.7 times as long.) Every :data:`BUCKET_SIZE` pairs it can store the state of its pixels, for
the backward pass to start from.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops._rasterize_xla import MAX_ALPHA, MIN_TRANSMITTANCE
from splax.ops.triton.intersection import TileLists
from splax.ops.triton.tile_ranges import BUCKET_SIZE
from splax.ops.triton.tiling import FORM, ID_BITS, ID_MASK, LOG2_THRESHOLD, Form, Tiling, columns_of
from splax.ops.triton.warp import LANES, Warp, full, lanes, load, lowest_bit, store, zeros

# Gaussians blended per turn of the loop, so that the latency of one hides behind the arithmetic of another.
_UNROLL = 4
# log2 of an alpha that is below the threshold at every pixel.
_NOWHERE = -1e30
# Numbers that a lane keeps of its pixels' channels, a multiple of 64; more channels than fit are drawn in several
# passes, since kernels whose registers spill are slow, to compile most of all.
_CHANNELS_PER_LANE = 64


class Checkpoints(NamedTuple):
    """States of pixels between buckets; the first bucket of a tile starts from nothing and has none.

    Attributes:
        states: for each pass its channels' states: transmittance (0 where finished) and channels, [checkpoints,
            1 + C, pixels of a tile], flat.
        tile: tile of each checkpoint, [checkpoints].
        starts: first checkpoint of each tile, [T + 1].
        walked: pairs that each subtile went through before all its pixels were finished, [T * subtiles].
    """

    states: list[jax.Array]
    tile: jax.Array
    starts: jax.Array
    walked: jax.Array


def num_checkpoints(capacity: int) -> int:
    """Checkpoints that ``capacity`` pairs can need."""
    return max(1, capacity // BUCKET_SIZE)


def channels_per_draw(tiling: Tiling) -> int:
    """Channels of one pass of :func:`draw`."""
    return _CHANNELS_PER_LANE * LANES // tiling.subtile**2


def draw(lists: TileLists, attributes: jax.Array, tiling: Tiling, warp: Warp, *, save: bool):
    """Composites all tiles.

    Args:
        lists: pairs of each tile.
        attributes: :class:`Form` and channels of each Gaussian, [N, 6 + C].
        tiling: static sizes.
        warp: how kernels run.
        save: whether to store checkpoints.

    Returns:
        Channels [H, W, C], alpha [H, W], and the checkpoints or None.
    """
    num_channels, most = attributes.shape[1] - FORM, channels_per_draw(tiling)
    passes = [
        _draw(lists, attributes, range(first, min(first + most, num_channels)), tiling, warp, save)
        # An image without channels still has an alpha.
        for first in range(0, max(num_channels, 1), most)
    ]
    images, alphas, saved = zip(*passes, strict=True)
    image = images[0] if len(images) == 1 else jnp.concatenate(images, axis=2)
    if not save:
        return image, alphas[0], None
    states, (owner, *_), (walked, *_) = zip(*saved, strict=True)
    return image, alphas[0], Checkpoints(list(states), owner, lists.checkpoint_starts, walked)


def _draw(lists, attributes, channels, tiling, warp, save):
    """One pass: its channels, alpha, and its states, their tiles and how far subtiles were walked."""
    stride, num_channels = attributes.shape[1], len(channels)
    columns = (*range(FORM), *(FORM + q for q in channels))
    state_size = (1 + num_channels) * tiling.num_pixels

    def kernel(ids, offsets, starts, order, attributes, image, alpha_out, *saved):
        subtile, tile = pl.program_id(0), order[pl.program_id(1)]
        begin, end = offsets[tile], offsets[tile + 1]
        pixels = columns_of(tile, subtile, tiling)

        def blend(values, valid, state):
            form, channels = Form(*values[:FORM]), values[FORM:]
            form = form._replace(top=jnp.where(valid, form.top, _NOWHERE))
            after = []
            for column, (transmittance, alpha_sum, *color) in zip(pixels, state, strict=True):
                dx, dy = column.x - form.mean_x, column.y - form.mean_y
                in_x, cross = form.a * dx * dx + form.top, form.b * dx
                power = (form.c * dy + cross) * dy + in_x
                alpha = jnp.minimum(warp.exp2_between(power, LOG2_THRESHOLD, form.top), MAX_ALPHA)
                weight = alpha * transmittance
                left = transmittance - weight
                goes_on = left > MIN_TRANSMITTANCE
                weight = jnp.where(goes_on, weight, 0)
                color = [value + weight * channel for value, channel in zip(color, channels, strict=True)]
                after.append((jnp.where(goes_on, left, 0), alpha_sum + weight, *color))
            return after

        def walk(carry):
            first, state = carry
            if save:
                _store_state(saved[0], state, pixels, first - begin, starts[tile], state_size, tiling)
            pair = first + lanes()
            packed = load(ids, pair, pair < end)
            mine = ((packed >> (ID_BITS + subtile)) & 1) != 0
            bits = warp.ballot(mine)
            held = [load(attributes, (packed & ID_MASK) * stride + q, mine) for q in columns]

            def blend_some(_, carry):
                bits, state = carry
                chosen = []
                for _ in range(_UNROLL):
                    lane = lowest_bit(bits) & (LANES - 1)
                    chosen.append(([warp.from_lane(value, lane) for value in held], bits != 0))
                    bits = bits & (bits - 1)
                for gaussian, valid in chosen:
                    state = blend(gaussian, valid, state)
                return bits, state

            turns = (jnp.max(lax.population_count(bits)) + _UNROLL - 1) // _UNROLL
            _, state = lax.fori_loop(0, turns, blend_some, (bits, state))
            return first + LANES, state

        def unfinished(carry):
            first, state = carry
            open_ = functools.reduce(jnp.maximum, [transmittance for transmittance, *_ in state])
            return (first < end) & (jnp.max(open_.max(axis=0)) > 0)

        start = [
            (jnp.where(column.inside, 1.0, 0.0), *([zeros(tiling.lines)] * (1 + num_channels)))
            for column in pixels
        ]
        first, state = lax.while_loop(unfinished, walk, (begin, start))
        for (_, alpha_sum, *color), column in zip(state, pixels, strict=True):
            store(alpha_out, column.image, alpha_sum, column.inside)
            for q, value in enumerate(color):
                store(image, column.image * num_channels + q, value, column.inside)
        if save:
            _, owner, walked = saved
            walked[tile * tiling.subtiles + subtile] = first - begin
            pl.when(subtile == 0)(lambda: _name_checkpoints(owner, tile, starts))

    num_pixels, capacity = tiling.width * tiling.height, lists.ids.shape[0]
    shapes = [((num_pixels * num_channels,), jnp.float32), ((num_pixels,), jnp.float32)]
    if save:
        room = num_checkpoints(capacity)
        shapes += [((room * state_size,), jnp.float32), ((room,), jnp.int32)]
        shapes += [((tiling.num_tiles * tiling.subtiles,), jnp.int32)]
    image, alpha, *saved = warp.launch(
        "draw",
        kernel,
        (tiling.subtiles, tiling.num_tiles),
        [jax.ShapeDtypeStruct(*shape) for shape in shapes],
        lists.ids,
        lists.offsets,
        lists.checkpoint_starts,
        lists.order,
        attributes.reshape(-1),
    )
    shape = (tiling.height, tiling.width)
    return image.reshape(*shape, num_channels), alpha.reshape(shape), saved


def _store_state(states, state, pixels, walked, start, state_size, tiling):
    """Stores the pixels where a bucket begins, other than the tile's first."""

    @pl.when((walked > 0) & (walked % BUCKET_SIZE == 0))
    def _():
        base = (start + walked // BUCKET_SIZE - 1) * state_size
        for (transmittance, _, *color), column in zip(state, pixels, strict=True):
            for q, value in enumerate((transmittance, *color)):
                store(states, base + q * tiling.num_pixels + column.tile, value)


def _name_checkpoints(owner, tile, starts):
    """Writes the tile's number to its checkpoints."""

    def some(place):
        store(owner, place + lanes(), full(tile), place + lanes() < starts[tile + 1])
        return place + LANES

    lax.while_loop(lambda place: place < starts[tile + 1], some, starts[tile])
