"""Sums that many programs of a kernel add to, by unordered atomics.

The order of additions changes from run to run, and so do the last bits of the sums. Pallas's own atomics order
all memory accesses around each of them, and take many times as long.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.triton.lanes.warp import LANES, Warp, full, inline_asm, lanes, load, store, zeros

# Number of groups of 32 rows that a warp clears if there are many rows, and the number of rows from which on it
# does: the warp then waits for the counts of all groups at once.
_ROWS_AT_ONCE, _MANY_ROWS = 8, 2**19


class SumColumns(NamedTuple):
    """One column of the sums for each lane.

    Attributes:
        array: index of the array that holds the column, [32].
        width: number of columns of that array, [32].
        column: index of the column in that array, [32].
        address: lower and upper half of the address of the column's element in row 0, [32] each; None where
            kernels are interpreted.
    """

    array: jax.Array
    width: jax.Array
    column: jax.Array
    address: tuple[jax.Array, jax.Array] | None


class AtomicSums(NamedTuple):
    """Rows of sums that a kernel adds to; each of several arrays holds some of the columns.

    Attributes:
        refs: references to the arrays.
        widths: number of columns of each array.
        sizes: number of elements of each array.
        view: index of the view in the batch that these sums belong to.
        warp: warp that runs the kernels.
    """

    refs: Sequence[Any]
    widths: Sequence[int]
    sizes: Sequence[int]
    view: Any
    warp: Warp

    def columns(self, nth: jax.Array) -> SumColumns:
        """Finds the columns with the indices ``nth``, [32], counted over all arrays."""
        array, width, first, begin = full(0), full(self.widths[0]), full(0), 0
        for number, columns in enumerate(self.widths[:-1], 1):
            begin += columns
            behind = nth >= begin
            array, first = jnp.where(behind, number, array), jnp.where(behind, begin, first)
            width = jnp.where(behind, self.widths[number], width)
        column = nth - first
        return SumColumns(array, width, column, None if self.warp.interpret else self._address(array, column))

    def _address(self, array, column):
        low, high = full(0), full(0)
        for number, (ref, size) in enumerate(zip(self.refs, self.sizes, strict=True)):
            # Assembly gets the address at which the whole batch begins.
            where = f"cvt.s64.s32 at, $2; mad.lo.s64 at, at, {4 * size}, $1; mad.wide.s32 at, $3, 4, at;"
            halves = (
                inline_asm(
                    f"{{ .reg .b64 at; .reg .b32 other; {where} mov.b64 {{{names}}}, at; }}",
                    "=r,l,r,r",
                    jnp.int32,
                    ref,
                    full(self.view),
                    column,
                )
                for names in ("$0, other", "other, $0")
            )
            low, high = (
                jnp.where(array == number, x, kept) for x, kept in zip(halves, (low, high), strict=True)
            )
        return low, high

    def add(self, row: jax.Array, columns: SumColumns, values: jax.Array, mask: jax.Array) -> jax.Array:
        """Adds to a row.

        Args:
            row: index of the row.
            columns: column of each lane; lanes whose mask is on have different ones.
            values: number that each lane adds, [32].
            mask: mask of the lanes that add, [32].

        Returns:
            Zeros, which the kernel must pass to :meth:`finish`; otherwise the compiler removes the addition.
        """
        before = row * columns.width
        if columns.address is not None:
            where = "mov.b64 at, {$1, $2}; mad.wide.s32 at, $3, 4, at;"
            add = "setp.ne.s32 p, $5, 0; @p red.relaxed.gpu.global.add.f32 [at], $4; mov.b32 $0, 0;"
            args = *columns.address, before, values, mask.astype(jnp.int32)
            return inline_asm(
                f"{{ .reg .pred p; .reg .b64 at; {where} {add} }}", "=r,r,r,r,f,r", jnp.int32, *args
            )
        for number, ref in enumerate(self.refs):
            _add_interpreted(ref, before + columns.column, values, mask & (columns.array == number))
        return full(0)

    def finish(self, done: jax.Array) -> None:
        """Takes the results of all calls of :meth:`add`, joined with ``|``."""
        store(self.refs[0], lanes(), zeros(), done != 0)


def _add_interpreted(ref, index, values, mask):
    # An interpreted store writes all lanes: lanes whose mask is off repeat the store of one whose mask is on.
    leader = full(jnp.argmax(mask))
    index, values = (jnp.where(mask, x, x[leader]) for x in (index, jnp.where(mask, values, 0)))
    index = jnp.where(mask.any(), index, 0)
    store(ref, index, load(ref, index) + values)


def launch_atomic_sums(
    name: str,
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    starts: Sequence[jax.Array],
    warp: Warp,
    *args: jax.Array,
) -> tuple[jax.Array, ...]:
    """Runs programs of one warp each that add to sums.

    Args:
        name: name of the kernel that profilers show.
        kernel: function of references to the arguments, and of the :class:`AtomicSums`.
        grid: numbers of programs along each axis.
        starts: initial values of the sums; each array holds some columns of the rows, [N, ...].
        warp: warp that runs the kernels.
        args: arrays that the kernel reads.

    Returns:
        The sums, in arrays like those of ``starts``.
    """
    num, num_arrays = len(starts[0]), len(starts)
    widths = [math.prod(start.shape[1:]) for start in starts]
    # Assembly needs arguments of one shape, so an array has at least 32 elements.
    flat = [jnp.pad(start.reshape(-1), (0, max(LANES - start.size, 0))) for start in starts]
    sizes, block = [len(start) for start in flat], None if warp.interpret else LANES

    def launch(view: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        given = (*arrays[:-num_arrays], view.reshape(1))

        def inner(*refs):
            *args, view = refs[: len(given)]
            kernel(*args, AtomicSums(refs[-num_arrays:], widths, sizes, view[0], warp))

        shapes = [jax.ShapeDtypeStruct((size,), jnp.float32) for size in sizes]
        in_place = {len(given) + nth: nth for nth in range(num_arrays)}
        args = (*given, *arrays[-num_arrays:])
        return tuple(warp.launch(name, inner, grid, shapes, *args, in_place=in_place, out_block=block))

    @jax.custom_batching.custom_vmap
    def of_views(*arrays: jax.Array) -> Any:
        views = jnp.arange(len(arrays[0]), dtype=jnp.int32)
        if len(views) == 1:
            return tuple(x[None] for x in launch(views[0], *(x[0] for x in arrays)))
        return jax.vmap(launch)(views, *arrays)

    @of_views.def_vmap
    def _(batch: int, is_batched: Any, *arrays: jax.Array) -> Any:
        arrays = tuple(
            x if batched else jnp.broadcast_to(x, (batch, *x.shape))
            for x, batched in zip(arrays, is_batched, strict=True)
        )
        # In a batch of batches, too, all views are numbered.
        sums = of_views(*(x.reshape(-1, *x.shape[2:]) for x in arrays))
        return tuple(x.reshape(batch, -1, x.shape[-1]) for x in sums), (True,) * num_arrays

    sums = of_views(*(x[None] for x in (*args, *flat)))
    return tuple(
        x[0, : num * width].reshape(start.shape) for x, width, start in zip(sums, widths, starts, strict=True)
    )


def zeros_where(counts: jax.Array, widths: Sequence[int], warp: Warp) -> tuple[jax.Array, ...]:
    """Makes arrays with zeros in the rows whose counts are above 0; other rows are not written.

    Args:
        counts: counts of the rows, [N].
        widths: number of columns of each array.
        warp: warp that runs the kernels.

    Returns:
        One array for each width, [N, width].
    """
    num = counts.shape[0]
    at_once = _ROWS_AT_ONCE if num > _MANY_ROWS else 1

    def kernel(counts, *outs):
        begins = [(pl.program_id(0) * at_once + nth) * LANES for nth in range(at_once)]
        rows = [begin + lanes() for begin in begins]
        drawn = [load(counts, row, row < num) > 0 for row in rows]
        for begin, wanted in zip(begins, map(warp.ballot, drawn), strict=True):
            for out, width in zip(outs, widths, strict=True):
                for step in range(width):
                    # Lanes write side by side, whatever the width.
                    element = step * LANES + lanes()
                    store(out, begin * width + element, zeros(), (wanted >> lax.div(element, width)) & 1 != 0)

    shapes = [jax.ShapeDtypeStruct((num * width,), jnp.float32) for width in widths]
    outs = warp.launch("clear_sums", kernel, (-(-num // (LANES * at_once)),), shapes, counts)
    return tuple(out.reshape(num, width) for out, width in zip(outs, widths, strict=True))
