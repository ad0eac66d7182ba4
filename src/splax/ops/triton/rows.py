"""Sums of consecutive rows: what each (tile, Gaussian) pair adds to the gradient of its Gaussian."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.triton.warp import LANES, Warp, full, lanes, load, lowest_bit, store, zeros

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
        begin = load(first, gaussian, exists)
        count = jnp.minimum(load(counts, gaussian, exists), num_rows - begin)

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
            sums = [
                total + jnp.where(mine, jnp.sum(part), 0) for total, part in zip(sums, parts, strict=True)
            ]
            return bits & (bits - 1), sums

        long = warp.ballot(count > _ROWS_ALONE)
        _, sums = lax.while_loop(
            lambda carry: jnp.max(lax.population_count(carry[0])) > 0, share, (long, sums)
        )
        for q, total in enumerate(sums):
            store(out, full(q * num) + gaussian, total, exists)

    shape = jax.ShapeDtypeStruct((width * num,), jnp.float32)
    out = warp.launch(kernel, (-(-num // LANES),), shape, rows.reshape(-1), first, counts)
    return out.reshape(width, num)
