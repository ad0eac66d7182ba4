"""Gradients of the Gaussians' rows: one warp a bucket of a tile, eight pixels a lane.

A warp starts from the stored state of its bucket and walks it in the order of the forward pass: what comes
behind a Gaussian is the pixel's total less the running sum (no divisions by small numbers, no second order of
walking). It leaves a subtile where the forward pass left it.

The pixels' contributions to a Gaussian are summed within the warp and added to the Gaussian's row by atomics.
Where lists have pair offsets, sums are to have a fixed order: each pair then writes a row of its own, the rows
of one Gaussian lie side by side, and they are summed last.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.constants import MAX_ALPHA, MIN_TRANSMITTANCE
from splax.ops.tile_grid import TileGrid
from splax.ops.triton.binning.tile_lists import TileLists
from splax.ops.triton.blending.forward import PAIRS_PER_BUCKET, BucketStates, channels_per_draw
from splax.ops.triton.lanes.atomic_sums import launch_atomic_sums
from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, lanes_of_sums, load, stack, store, zeros
from splax.ops.triton.pixel_regions import (
    FORM_SIZE,
    ID_BITS,
    ID_MASK,
    LOG2_THRESHOLD,
    PixelRegion,
    QuadraticForm,
    num_lines,
    num_subtiles,
    num_tile_blocks,
    pixel_columns,
    pixel_lines,
)

_LN2 = math.log(2)
_LOG2_MAX_ALPHA = math.log2(MAX_ALPHA)
# Channels that one pass differentiates; more take several passes.
CHANNELS_PER_PASS = 8


class DrawnImage(NamedTuple):
    """An image, and the arrays that its backward pass needs.

    Attributes:
        attributes: rows of the Gaussians, :class:`QuadraticForm` and channels, [N, 6 + C].
        lists: pairs of each tile, with pair offsets if sums are to have a fixed order.
        bucket_states: states of the pixels where buckets begin.
        image: channels, [H, W, C].
        alpha: 1 - transmittance, [H, W].
    """

    attributes: jax.Array
    lists: TileLists
    bucket_states: BucketStates
    image: jax.Array
    alpha: jax.Array


class _BackwardRefs(NamedTuple):
    """References to the flat arrays that the kernel reads and writes.

    Attributes:
        ids: Gaussian and subtile bits of each pair; see :class:`TileLists`.
        offsets: first pair of each tile; see :class:`TileLists`.
        order: tiles, those of long lists first; see :class:`TileLists`.
        attributes: rows of the Gaussians; see :class:`DrawnImage`.
        states: states of the pixels where buckets begin; see :class:`BucketStates`.
        owner: tile of each bucket state; see :class:`BucketStates`.
        starts: first bucket state of each tile; see :class:`BucketStates`.
        walked: number of pairs that the forward pass reached; see :class:`BucketStates`.
        image: channels of the image.
        v_image: cotangent of the image.
        alpha: alpha of the image; None if its cotangent is zero.
        v_alpha: cotangent of alpha; None if it is zero.
        pair_offsets: offset of each pair; None if sums are not in a fixed order.
        out: sums of the Gaussians, or rows of the pairs.
    """

    ids: Any
    offsets: Any
    order: Any
    attributes: Any
    states: Any
    owner: Any
    starts: Any
    walked: Any
    image: Any
    v_image: Any
    alpha: Any
    v_alpha: Any
    pair_offsets: Any
    out: Any

    @classmethod
    def of(cls, refs: Sequence[Any], *, with_alpha: bool, with_pair_offsets: bool) -> _BackwardRefs:
        """Returns the references by name, with None for those that are missing."""
        *inputs, out = refs
        required, optional = inputs[:10], list(inputs[10:])
        alphas = (optional.pop(0), optional.pop(0)) if with_alpha else (None, None)
        numbers = *required, *alphas, optional.pop(0) if with_pair_offsets else None, out
        return cls(*numbers)  # pyright: ignore[reportCallIssue]: as many as there are fields


def pair_gradients(
    drawn: DrawnImage,
    v_image: jax.Array,
    v_alpha: jax.Array | None,
    channels: range,
    tile_grid: TileGrid,
    warp: Warp,
    *,
    start: Sequence[jax.Array] | None = None,
    absolute: bool = False,
) -> tuple[jax.Array, ...]:
    """Sums what the pixels contribute to each Gaussian, or to each pair if the lists have pair offsets.

    A row holds six moments, sums of v, v dx, v dy, v dx^2, v dx dy and v dy^2 with v = alpha * d loss / d
    alpha, then weight times cotangent for each channel. Rows of several calls with different channels add up.

    Args:
        drawn: image and lists of the forward pass.
        v_image: cotangent of the image, [H, W, C].
        v_alpha: cotangent of alpha, [H, W]; None counts as zero.
        channels: indices of the channels to differentiate.
        tile_grid: the tiles of the image.
        warp: warp that runs the kernels.
        start: arrays that the sums are added to, with zeros in the rows that are drawn; their columns, taken
            together, are those of the sums, and perhaps more. None makes one array.
        absolute: whether to add two columns, the gradients of the centre's x and y, summed over the pixels in
            absolute values.

    Returns:
        Sums of the Gaussians, [N, 6 + channels], in as many arrays as ``start`` has. If the lists have pair
        offsets, one array with a row for each pair offset and block of a tile, [M * blocks, 6 + channels]; rows
        of offsets without a pair hold arbitrary values.
    """
    attributes, lists, bucket_states, image, alpha = drawn
    stride, total_channels = attributes.shape[1], image.shape[-1]
    parts = num_subtiles(tile_grid) // num_tile_blocks(tile_grid)
    drawn_with = channels.start // channels_per_draw(tile_grid)  # the pass that drew these channels
    first_drawn = drawn_with * channels_per_draw(tile_grid)
    num_drawn = min(channels_per_draw(tile_grid), total_channels - first_drawn)
    state_size = (1 + num_drawn) * tile_grid.num_pixels
    num_bucket_states = bucket_states.tile.shape[0]
    width = FORM_SIZE + len(channels) + 2 * absolute
    if start is None:
        start = (jnp.zeros((attributes.shape[0], width)),)

    def everywhere(flag):
        return full(flag.astype(jnp.int32)) != 0

    def kernel(*refs):
        ref = _BackwardRefs.of(
            refs, with_alpha=v_alpha is not None, with_pair_offsets=lists.pair_offsets is not None
        )
        block, program = pl.program_id(0), pl.program_id(1)
        # Full buckets come first, then long ones, so that none of them begins last, when nothing else runs.
        bucket_state = jnp.minimum(program, num_bucket_states - 1)
        resumes = program < num_bucket_states

        @pl.when(~resumes | (bucket_state < ref.starts[tile_grid.num_tiles]))
        def _():
            tile = jnp.where(
                resumes, ref.owner[bucket_state], ref.order[jnp.maximum(program - num_bucket_states, 0)]
            )
            nth = jnp.where(resumes, bucket_state - ref.starts[tile] + 1, 0)
            begin = ref.offsets[tile] + nth * PAIRS_PER_BUCKET
            end = jnp.minimum(begin + PAIRS_PER_BUCKET, ref.offsets[tile + 1])

            def read(part):
                subtile = block * parts + part
                nth = 2 * (tile * num_subtiles(tile_grid) + subtile)
                closes = [ref.offsets[tile] + ref.walked[nth + half] for half in range(2)]
                region = PixelRegion(tile, subtile)
                read_columns = [read_column(lines, closes) for lines in pixel_lines(region, tile_grid)]
                return (
                    jnp.maximum(*closes),
                    pixel_columns(region, tile_grid),
                    *map(list, zip(*read_columns, strict=True)),
                )

            def read_column(lines, closes):
                """Returns cotangents of alpha and channels, and the state: transmittance, and what is behind.

                What is behind is the sum of the channels of the Gaussians further back times their cotangents.
                """
                closes = [closes[nth // (num_lines(tile_grid) // 2)] for nth in range(num_lines(tile_grid))]
                numbers = zip(*map(read_line, lines, closes), strict=True)
                v_alpha, *v_channels, transmittance, behind = map(stack, numbers)
                return (v_alpha, v_channels), (transmittance, behind)

            def read_line(line, closes):
                # Behind the last pair that was reached nothing is read.
                reached = everywhere(begin < closes)
                inside, stored = line.inside & reached, everywhere(resumes) & reached

                def at_pixel(array, q):
                    return load(array, line.image * total_channels + q, inside)

                v, image_values = (
                    [at_pixel(array, q) for q in channels] for array in (ref.v_image, ref.image)
                )
                v_a = zeros() if ref.v_alpha is None else load(ref.v_alpha, line.image, inside)
                behind = zeros() if ref.alpha is None else v_a * load(ref.alpha, line.image, inside)
                state = bucket_state * state_size + line.tile
                at_start = load(ref.states, state, stored)
                transmittance = jnp.where(everywhere(resumes), at_start, jnp.where(inside, 1.0, 0.0))
                # The pixel's values times their cotangents, less those of the Gaussians in front.
                behind -= v_a * (1 - transmittance)
                for q, v_q, value in zip(channels, v, image_values, strict=True):
                    in_front = load(ref.states, state + (1 + q - first_drawn) * tile_grid.num_pixels, stored)
                    behind += v_q * (value - in_front)
                # A negative sign marks finished pixels. They must not be 0, since all pixels are divisors.
                return v_a, *v, jnp.where(transmittance > 0, transmittance, -1.0), behind

            which, once = lanes_of_sums(width)
            sum_columns = ref.out.columns(which) if lists.pair_offsets is None else None
            read_parts = [read(part) for part in range(parts)]
            columns_and_cotangents = [(columns, cotangents) for _, columns, cotangents, _ in read_parts]

            def differentiate(part, form, values, carry):
                """Walks the pixels of a subtile past one Gaussian, adding to its sums."""
                (columns, cotangents), (state, sums) = columns_and_cotangents[part], carry
                after = []
                for column, v, pixels in zip(columns, cotangents, state, strict=True):
                    pixels, sums = _pass_column(column, v, pixels, (form, values), sums, absolute, warp)
                    after.append(pixels)
                return after, sums

            def put(pair_offset, packed, values):
                """Writes the row of a pair, or adds it to its Gaussian's."""
                total = warp.sum_each(values)
                if lists.pair_offsets is None:
                    return ref.out.add(packed & ID_MASK, sum_columns, total, once)
                store(
                    ref.out,
                    (pair_offset * num_tile_blocks(tile_grid) + block) * width + which,
                    total,
                    which < width,
                )
                return full(0)

            closes = [read_part[0] for read_part in read_parts]

            def open_parts(first):
                """Returns bits of the parts with pixels that the forward pass had not finished at a pair."""
                bits = [(first < place).astype(jnp.int32) << part for part, place in enumerate(closes)]
                return functools.reduce(jnp.bitwise_or, bits)

            def step(packed, reached, pair_offset, values, carry):
                states, done = carry
                form, values = QuadraticForm(*values[:FORM_SIZE]), values[FORM_SIZE:]
                # The last ones are not summed over the rows of a column before the end.
                sums = [zeros()] * (FORM_SIZE - 1), [zeros(num_lines(tile_grid))] * (width - FORM_SIZE + 1)
                after = []
                for part in range(parts):
                    change = functools.partial(differentiate, part, form, values)
                    reaches = (reached >> part) & 1 != 0
                    state, sums = lax.cond(reaches, change, lambda carry: carry, (states[part], sums))
                    after.append(state)
                of_lanes, of_pixels = sums
                put_here = put(pair_offset, packed, [*of_lanes, *(value.sum(axis=0) for value in of_pixels)])
                return after, done | put_here

            def walk(carry):
                first, *carry = carry
                pair, still_open = first + lanes(), open_parts(first)
                exists = pair < end
                pair_offset = full(0) if lists.pair_offsets is None else load(ref.pair_offsets, pair, exists)
                place = (load(ref.ids, pair, exists) & ID_MASK) * stride
                columns = (*range(FORM_SIZE), *(FORM_SIZE + q for q in channels))
                lane_values = [load(ref.attributes, place + q, exists) for q in columns]

                def one(k, carry):
                    # Loaded again, as a scalar: what a branch depends on cannot come from a lane.
                    packed = ref.ids[first + k]
                    reached = (packed >> (ID_BITS + block * parts)) & still_open

                    def take(carry):
                        values = [warp.from_lane(value, full(k)) for value in lane_values]
                        return step(packed, reached, warp.from_lane(pair_offset, full(k)), values, carry)

                    if lists.pair_offsets is not None:
                        return take(carry)  # every pair writes a row
                    return lax.cond(reached != 0, take, lambda carry: carry, carry)

                return first + LANES, *lax.fori_loop(0, jnp.minimum(end - first, LANES), one, tuple(carry))

            last = jnp.minimum(end, functools.reduce(jnp.maximum, closes))
            start = begin, [state for *_, state in read_parts], full(0)
            first, _, done = lax.while_loop(lambda carry: carry[0] < last, walk, start)

            def clear(first):
                """Writes zeros for pairs behind finished pixels, which add nothing."""
                pair = first + lanes()
                row = (load(ref.pair_offsets, pair, pair < end) * num_tile_blocks(tile_grid) + block) * width
                for q in range(width):
                    store(ref.out, row + q, zeros(), pair < end)
                return first + LANES

            if lists.pair_offsets is None:
                ref.out.finish(done)
            else:
                lax.while_loop(lambda first: first < end, clear, first)

    args = (lists.ids, lists.offsets, lists.order, attributes.reshape(-1), bucket_states.states[drawn_with])
    args += bucket_states[1:]
    args += (*(x.reshape(-1) for x in (image, v_image)),)
    args += () if v_alpha is None else (alpha.reshape(-1), v_alpha.reshape(-1))
    grid = (num_tile_blocks(tile_grid), tile_grid.num_tiles + num_bucket_states)
    if lists.pair_offsets is None:
        return launch_atomic_sums("pair_gradients", kernel, grid, start, warp, *args)
    shape = jax.ShapeDtypeStruct((lists.ids.shape[0] * num_tile_blocks(tile_grid) * width,), jnp.float32)
    out = warp.launch("pair_gradients", kernel, grid, shape, *args, lists.pair_offsets)
    return (out.reshape(-1, width),)


def _pass_column(column, cotangents, state, gaussian, sums, absolute, warp):
    """Walks a column of pixels past one Gaussian.

    Args:
        column: the pixels.
        cotangents: cotangents of alpha and of the channels.
        state: transmittance, negative where a pixel is finished, and the sum of what is behind times its
            cotangent.
        gaussian: quadratic form and channels of the Gaussian.
        sums: two lists. Sums of each lane: s, sx, sy, sxx and sxy. Sums of each pixel: syy, those of the
            channels and, if ``absolute`` is True, two of the pulls on the centre.
        absolute: whether to sum the absolute pulls on the centre.
        warp: warp that runs the kernels.

    Returns:
        State and sums after the Gaussian.
    """
    (v_alpha, v), (transmittance, behind), (form, values), fma = cotangents, state, gaussian, warp.fma
    (s, sx, sy, sxx, sxy), (syy, *others) = sums
    v_values, pulls = others[: len(v)], others[len(v) :]
    dx, dy = column.x - form.mean_x, column.y - form.mean_y
    slope_x, cross = form.a * dx, form.b * dx
    power = fma(fma(form.c, dy, cross), dy, fma(slope_x, dx, form.top))
    left = warp.cover(power, transmittance, threshold=LOG2_THRESHOLD, most=MAX_ALPHA, least=MIN_TRANSMITTANCE)
    weight = warp.difference_of_sizes(transmittance, left)
    g = functools.reduce(lambda g, pair: fma(*pair, g), zip(v, values, strict=True), v_alpha)
    behind = fma(-weight, g, behind)
    # alpha d loss / d alpha: what it adds by itself less what it takes from all behind it.
    v_power = weight * fma(-behind, warp.reciprocal(jnp.abs(left)), g)
    v_power = jnp.where(power < _LOG2_MAX_ALPHA, v_power, 0)
    v_y = v_power * dy
    line, line_y, syy = v_power.sum(axis=0), v_y.sum(axis=0), fma(v_y, dy, syy)
    v_values = [fma(weight, v_q, u) for u, v_q in zip(v_values, v, strict=True)]
    if absolute:
        slopes = (2 * slope_x + form.b * dy, cross + 2 * form.c * dy)
        pulls = [pull + jnp.abs(_LN2 * v_power * slope) for pull, slope in zip(pulls, slopes, strict=True)]
    v_x = line * dx
    of_lanes = [s + line, sx + v_x, sy + line_y, fma(v_x, dx, sxx), fma(line_y, dx, sxy)]
    return (left, behind), (of_lanes, [syy, *v_values, *pulls])
