"""Sums that many programs of a kernel add to, by atomics that are not ordered.

The order of additions is another one in every run, and so is the last bit of the sums. Pallas's own atomics order
all memory around each, and take many times as long.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from splax.ops.triton.warp import LANES, Warp, full, inline_asm, lanes, load, store, zeros


class Sums(NamedTuple):
    """What a kernel adds to.

    Attributes:
        ref: where they lie.
        view: which of the views of a batch these are the sums of.
        size: how many there are.
        warp: how kernels run.
    """

    ref: Any
    view: Any
    size: int
    warp: Warp

    def add(self, index: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
        """Adds to some of them.

        Args:
            index: different ones, where the mask is on.
            value: what to add.
            mask: lanes that add.

        Returns:
            Zeros, which the kernel must hand to :meth:`finish`: the compiler knows of no other reason to add.
        """
        if not self.warp.interpret:
            # Assembly gets the address where the whole batch begins.
            where = f"cvt.s64.s32 at, $5; mad.lo.s64 at, at, {4 * self.size}, $1; mad.wide.s32 at, $2, 4, at;"
            add = "setp.ne.s32 p, $4, 0; @p red.relaxed.gpu.global.add.f32 [at], $3; mov.b32 $0, 0;"
            args = self.ref, index, value, mask.astype(jnp.int32), full(self.view)
            return inline_asm(
                f"{{ .reg .pred p; .reg .b64 at; {where} {add} }}", "=r,l,r,f,r,r", jnp.int32, *args
            )
        # An interpreted store writes all lanes: those that are off do what one that is on does.
        leader = full(jnp.argmax(mask))
        index, value = (jnp.where(mask, x, x[leader]) for x in (index, jnp.where(mask, value, 0)))
        store(self.ref, index, load(self.ref, index) + value)
        return full(0)

    def finish(self, done: jax.Array) -> None:
        """Takes what all :meth:`add` returned, joined with ``|``."""
        store(self.ref, lanes(), zeros(), done != 0)


def launch_sums(
    name: str,
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    start: jax.Array,
    warp: Warp,
    *args: jax.Array,
) -> jax.Array:
    """Runs one-warp programs that add to sums.

    Args:
        name: that profilers show.
        kernel: gets the arguments, then :class:`Sums`.
        grid: programs.
        start: what the sums are before, [S].
        warp: how kernels run.
        args: arrays.

    Returns:
        The sums, [S].
    """
    num = start.shape[0]
    # In a kernel they have the shape of what assembly gets along with them, and are not fewer.
    start = jnp.pad(start, (0, max(LANES - num, 0)))
    size, block = start.shape[0], None if warp.interpret else LANES

    def launch(view: jax.Array, start: jax.Array, *args: jax.Array) -> jax.Array:
        def inner(*refs):
            *args, view, _, sums = refs
            kernel(*args, Sums(sums, view[0], size, warp))

        shape, last = jax.ShapeDtypeStruct((size,), jnp.float32), len(args) + 1
        return warp.launch(
            name, inner, grid, shape, *args, view.reshape(1), start, in_place={last: 0}, out_block=block
        )

    @jax.custom_batching.custom_vmap
    def of_views(*args: jax.Array) -> jax.Array:
        views = jnp.arange(len(args[0]), dtype=jnp.int32)
        if len(views) == 1:
            return launch(views[0], *(x[0] for x in args))[None]
        return jax.vmap(launch)(views, *args)

    @of_views.def_vmap
    def _(batch: int, is_batched: Any, *args: jax.Array) -> tuple[jax.Array, bool]:
        args = tuple(
            x if batched else jnp.broadcast_to(x, (batch, *x.shape))
            for x, batched in zip(args, is_batched, strict=True)
        )
        # Of a batch of batches too, all views are numbered.
        return of_views(*(x.reshape(-1, *x.shape[2:]) for x in args)).reshape(batch, -1, size), True

    return of_views(start[None], *(x[None] for x in args))[0, :num]


def zeros_where(counts: jax.Array, columns: int, stride: int, warp: Warp) -> jax.Array:
    """Rows that begin with zeros where counts are above 0; nothing else of them is written.

    Args:
        counts: [N].
        columns: zeros.
        stride: numbers in a row.
        warp: how kernels run.

    Returns:
        [N, stride].
    """
    num = counts.shape[0]

    def kernel(counts, out):
        row = pl.program_id(0) * LANES + lanes()
        wanted = load(counts, row, row < num) > 0
        for q in range(columns):
            store(out, row * stride + q, zeros(), wanted)

    shape = jax.ShapeDtypeStruct((num * stride,), jnp.float32)
    out = warp.launch("clear_sums", kernel, (-(-num // LANES),), shape, counts)
    return out.reshape(num, stride)
