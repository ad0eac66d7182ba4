"""Rows in memory: sums of the rows of each Gaussian's pairs, and stores of whole rows."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load, lowest_bit, store, zeros

# Rows that a lane sums by itself; those of a longer list are shared by the whole warp.
_ROWS_ALONE = 64


def sum_rows(rows: jax.Array, first: jax.Array, counts: jax.Array, warp: Warp) -> jax.Array:
    """Sums consecutive rows for each Gaussian; rows beyond the end count as zero.

    Args:
        rows: rows to sum, [M, W].
        first: index of the first row of each Gaussian, [N].
        counts: number of rows of each Gaussian, [N].
        warp: warp that runs the kernels.

    Returns:
        Sums of the Gaussians, [W, N].
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
    """Inside a kernel: returns the sum of each lane's rows, one value for each column. All lanes must take part.

    Args:
        rows: flat array of ``num_rows`` rows.
        begin: index of each lane's first row, [32].
        count: number of each lane's rows, [32].
        num_rows: number of rows in the array; rows beyond them count as zero.
        width: number of columns.
        warp: warp that the lanes belong to.
    """
    count = jnp.minimum(count, num_rows - begin)

    def add(place, mask, sums):
        return [total + load(rows, place * width + q, mask) for q, total in enumerate(sums)]

    def alone(i, sums):
        return add(begin + i, i < count, sums)

    most = jnp.max(jnp.minimum(count, _ROWS_ALONE))
    sums = lax.fori_loop(0, most, alone, [zeros()] * width)

    def share(carry):
        """Sums the rest of one long list with all lanes."""
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
    """Inside a kernel: writes one row for each lane.

    If each lane wrote its own row, it would touch a memory sector for each number. The rows of all lanes lie
    side by side, so the lanes write them together, 32 consecutive numbers at a time.

    Args:
        out: reference to a flat array.
        base: index of the row of lane 0.
        values: columns of the rows, arrays [32].
        wanted: mask of the lanes whose row is written, [32].
        warp: warp that the lanes belong to.
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
    """Inside a kernel: writes zeros, one row for each lane; the arguments are those of :func:`store_rows`."""

    def some(nth, _):
        place = base * width + nth * LANES + lanes()
        store(out, place, zeros(), place < num_rows * width)
        return 0

    lax.fori_loop(0, width, some, 0)
