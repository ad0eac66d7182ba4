"""Rows in memory: sums of what each (tile, Gaussian) pair adds to its Gaussian, and rows written whole."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load, lowest_bit, store, zeros

# Rows that a lane sums by itself; those of a longer list are shared by the whole warp.
_ROWS_ALONE = 64


def sum_rows(rows: jax.Array, first: jax.Array, counts: jax.Array, warp: Warp) -> jax.Array:
    """Sums ``counts`` rows from ``first`` on for each Gaussian; rows beyond the end count as zero.

    Args:
        rows: [M, W].
        first: [N].
        counts: [N].
        warp: how kernels run.

    Returns:
        [W, N].
    """
    (num_rows, width), num = rows.shape, counts.shape[0]

    def kernel(rows, first, counts, out):
        gaussian = pl.program_id(0) * LANES + lanes()
        exists = gaussian < num
        begin, count = load(first, gaussian, exists), load(counts, gaussian, exists)
        for q, total in enumerate(total_rows(rows, begin, count, num_rows, width, warp)):
            store(out, full(q * num) + gaussian, total, exists)

    shape = jax.ShapeDtypeStruct((width * num,), jnp.float32)
    out = warp.launch("sum_rows", kernel, (-(-num // LANES),), shape, rows.reshape(-1), first, counts)
    return out.reshape(width, num)


def total_rows(rows, begin, count, num_rows: int, width: int, warp: Warp) -> list[jax.Array]:
    """Inside a kernel, where all lanes are at it: the sum of each lane's rows, a value a column.

    Args:
        rows: flat array of ``num_rows`` rows.
        begin: first row of each lane.
        count: rows of each lane.
        num_rows: rows beyond it count as zero.
        width: columns.
        warp: the lanes.
    """
    count = jnp.minimum(count, num_rows - begin)

    def add(place, mask, sums):
        return [total + load(rows, place * width + q, mask) for q, total in enumerate(sums)]

    def alone(i, sums):
        return add(begin + i, i < count, sums)

    most = jnp.max(jnp.minimum(count, _ROWS_ALONE))
    sums = lax.fori_loop(0, most, alone, [zeros()] * width)

    def share(carry):
        """The rest of one long list."""
        bits, sums = carry
        owner = lowest_bit(bits)
        begin_here, count_here = warp.from_lane(begin, owner), warp.from_lane(count, owner)

        def some(i, parts):
            nth = _ROWS_ALONE + i * LANES + lanes()
            return add(begin_here + nth, nth < count_here, parts)

        turns = (jnp.max(count_here) - _ROWS_ALONE + LANES - 1) // LANES
        parts = lax.fori_loop(0, turns, some, [zeros()] * width)
        mine = lanes() == owner
        sums = [total + jnp.where(mine, jnp.sum(part), 0) for total, part in zip(sums, parts, strict=True)]
        return bits & (bits - 1), sums

    long = warp.ballot(count > _ROWS_ALONE)
    return lax.while_loop(lambda carry: jnp.max(lax.population_count(carry[0])) > 0, share, (long, sums))[1]


def store_rows(out, base, values: list[jax.Array], wanted: jax.Array, warp: Warp) -> None:
    """Inside a kernel: writes one row a lane.

    A lane that wrote its row by itself would touch a memory sector for each number. So the rows of all lanes are
    written as the one stretch of memory that they are, 32 numbers at a time, each by the lane that is next.

    Args:
        out: flat array.
        base: row of lane 0.
        values: the columns.
        wanted: lanes whose row is written.
        warp: the lanes.
    """
    width, wanted = len(values), wanted.astype(jnp.int32)

    def some(nth, _):
        place = nth * LANES + lanes()
        owner = place // width
        column = place - owner * width
        written = warp.from_lane(values[0], owner)
        for q, value in enumerate(values[1:], 1):
            written = jnp.where(column == q, warp.from_lane(value, owner), written)
        store(out, base * width + place, written, warp.from_lane(wanted, owner) != 0)
        return 0

    lax.fori_loop(0, width, some, 0)


def clear_rows(out, base, width: int, num_rows: int) -> None:
    """Inside a kernel: writes zeros, one row a lane; arguments as :func:`store_rows`'s."""

    def some(nth, _):
        place = base * width + nth * LANES + lanes()
        store(out, place, zeros(), place < num_rows * width)
        return 0

    lax.fori_loop(0, width, some, 0)
