"""Kernels whose programs add to sums that they share, by atomics that are not ordered.

The order of additions is another one in every run, and so is the last bit of the sums.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from splax.ops.triton.warp import LANES, Warp


def launch_sums(
    name: str, kernel: Callable[..., None], grid: tuple[int, ...], num: int, warp: Warp, *args: jax.Array
) -> jax.Array:
    """Runs one-warp programs that add to sums which start as zeros.

    Inline assembly gets the address where an array begins, whatever part of it is the batch's element that the
    kernel is run for; so under ``vmap`` the kernel is told which element that is.

    Args:
        name: that profilers show.
        kernel: gets the arguments, then two references for :meth:`Warp.add`: a number as ``base[0]``, and sums.
        grid: programs.
        num: of sums.
        warp: how kernels run.
        args: arrays.

    Returns:
        The sums, [num].
    """
    size = -(-max(num, 1) // LANES) * LANES
    # Shapes as an inline assembly wants them: those of the other arguments.
    block = None if warp.interpret else LANES

    def launch(view: jax.Array, zeros: jax.Array, *args: jax.Array) -> jax.Array:
        def inner(*refs):
            *args, base, _, sums = refs
            kernel(*args, base, sums)

        shape = jax.ShapeDtypeStruct((size,), jnp.float32)
        bases = (view * (size // LANES)).reshape(1)
        in_place = {len(args) + 1: 0}
        return warp.launch(name, inner, grid, shape, *args, bases, zeros, in_place=in_place, out_block=block)

    @jax.custom_batching.custom_vmap
    def batch(*args: jax.Array) -> jax.Array:
        views, zeros = jnp.arange(len(args[0]), dtype=jnp.int32), jnp.zeros((len(args[0]), size))
        if len(args[0]) == 1:
            return launch(views[0], zeros[0], *(x[0] for x in args))[None]
        return jax.vmap(launch)(views, zeros, *args)

    @batch.def_vmap
    def _(num_batches: int, is_batched: Any, *args: jax.Array) -> tuple[jax.Array, bool]:
        args = tuple(
            x if batched else jnp.broadcast_to(x, (num_batches, *x.shape))
            for x, batched in zip(args, is_batched, strict=True)
        )
        sums = batch(*(x.reshape(-1, *x.shape[2:]) for x in args))
        return sums.reshape(num_batches, -1, size), True

    return batch(*(x[None] for x in args))[0, :num]
