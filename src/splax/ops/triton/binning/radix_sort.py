"""A stable radix sort of items whose number only the device knows.

A pass moves the items to the places that one digit of their keys demands; items of the same digit stay in
order. The kernels use neither atomics nor shared memory: a warp holds a counter for each value of the digit in
its registers, and finds equal digits by ballots.
"""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load, stack, store
from splax.ops.triton.lanes.work_partition import WorkPartition, steps_from, unstack

_DIGIT_BITS = 8
_VALUES = 1 << _DIGIT_BITS
# The lower bits of a digit number the register, and the upper five the lane, that hold the counter of a value.
# So a lane's counters belong to consecutive values, and one running sum over the lanes adds up all of them.
_REGISTER_BITS = 3
_REGISTERS = 1 << _REGISTER_BITS
# Sixteen warps for each multiprocessor of an H100 or H200. With more, each would have less work, and tables
# longer.
MOST_PROGRAMS = 2048
# Number of steps of 32 items that are loaded at once. Triton's compile time grows with the square of it.
_STEPS = 4
# Number of entries of a table that a lane loads before it uses the first.
_ENTRIES = 8


class Source(Protocol):
    """Items that a pass reads: a tuple of arrays; inside kernels, a tuple of references to them."""

    @property
    def num(self) -> Any:
        """Number of items, [1]; None if it is not known yet, and :meth:`size` is an upper bound."""

    def size(self) -> Any:
        """Inside a kernel: returns the number of places to look at."""

    def exist(self, places: list[jax.Array]) -> list[jax.Array]:
        """Inside a kernel: returns masks of the places, a list of steps, that hold items."""
        ...

    def keys_at(self, places: list[jax.Array], exist: list[jax.Array]) -> list[jax.Array]:
        """Inside a kernel: returns the keys at some places, int32; arbitrary where there is no item."""
        ...

    def values_at(self, places: list[jax.Array], exist: list[jax.Array]) -> list[jax.Array]:
        """Inside a kernel: returns the values at some places."""
        ...


class Items(NamedTuple):
    """Items side by side.

    Attributes:
        keys: keys, sorted as unsigned integers, [R] int32; arbitrary behind the first ``num``.
        values: values that go with the keys, [R] int32.
        num: number of items, [1].
    """

    keys: jax.Array
    values: jax.Array
    num: jax.Array

    def size(self):
        """Inside a kernel: returns the number of items."""
        return self.num[0]

    def exist(self, places):
        """Inside a kernel: returns masks of the places that hold items."""
        return [place < self.size() for place in places]

    def keys_at(self, places, exist):
        """Inside a kernel: returns the keys at some places."""
        return [load(self.keys, place, on) for place, on in zip(places, exist, strict=True)]

    def values_at(self, places, exist):
        """Inside a kernel: returns the values at some places."""
        return [load(self.values, place, on) for place, on in zip(places, exist, strict=True)]


def radix_sort(source: Any, key_bits: int, room: int, warp: Warp) -> Items:
    """Sorts by the lowest bits of the keys; items with equal bits stay in order.

    Args:
        source: items to sort, a :class:`Source`.
        key_bits: number of bits that count; a pass takes eight of them.
        room: largest number of items.
        warp: warp that runs the kernels.
    """
    for shift in range(0, key_bits, _DIGIT_BITS):
        source = sort_by_digit(source, jnp.array([shift], jnp.int32), room, warp)
    return source


# All passes but the first are one program, traced and compiled once.
@functools.partial(jax.jit, static_argnames=("room", "warp"))
def sort_by_digit(source: Any, shift: jax.Array, room: int, warp: Warp) -> Items:
    """Does one pass, by the digit that begins at bit ``shift``, [1]; see :func:`radix_sort`."""
    partition, num = WorkPartition(room, MOST_PROGRAMS, _STEPS), source.num
    begins, totals = add_up(_count_digits(source, shift, partition, warp), num, partition, warp)

    def kernel(*refs):
        source_refs, (shift, begins, totals, *outs) = refs[: len(source)], refs[len(source) :]
        keys_out, values_out, *num_out = outs
        here = type(source)(*source_refs)
        program, share = pl.program_id(0), partition.share_of_program(here.size())

        def move(places, begins):
            exist = here.exist(places)
            keys, values = here.keys_at(places, exist), here.values_at(places, exist)
            digits, alike = _alike(keys, exist, shift[0], warp)
            counted = [count_up(same) for same in alike.of_counters()]
            befores = [begin + before for begin, (before, _) in zip(begins, counted, strict=True)]
            in_step = lax.population_count(alike.of_mine(digits) & lanes_before())
            targets = unstack(_fetch(befores, digits, warp) + in_step)
            for key, value, target, on in zip(keys, values, targets, exist, strict=True):
                # Interpreted kernels write all lanes; behind the end nothing is written.
                target = jnp.where(on, target, room)
                store(keys_out, target, key, on)
                store(values_out, target, value, on)
            return [begin + added for begin, (_, added) in zip(begins, counted, strict=True)]

        @pl.when(share.groups > 0)
        def _():
            starts, _ = _starts_of_values(totals, warp)
            befores = [load(begins, value * partition.programs + program) for value in _counted_values()]
            share.walk(move, [start + before for start, before in zip(starts, befores, strict=True)])

        for ref in num_out:

            @pl.when(program == 0)
            def _(ref=ref):
                ref[0] = _starts_of_values(totals, warp)[1]

    sizes = [room, room] + [1] * (num is None)
    shapes = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in sizes]
    keys, values, *counted = warp.launch(
        "move_by_digit", kernel, (partition.programs,), shapes, *source, shift, begins, totals
    )
    return Items(keys, values, counted[0] if num is None else num)


def _count_digits(source, shift, partition, warp):
    """Counts items of each value in each share, [values * programs]; arbitrary in shares behind the last item."""

    def kernel(*refs):
        *source_refs, shift, table = refs
        here = type(source)(*source_refs)
        program, share = pl.program_id(0), partition.share_of_program(here.size())

        def count(places, counters):
            exist = here.exist(places)
            alike = _alike(here.keys_at(places, exist), exist, shift[0], warp)[1]
            return [
                counter + count_up(same)[1]
                for counter, same in zip(counters, alike.of_counters(), strict=True)
            ]

        @pl.when(share.groups > 0)
        def _():
            counters = share.walk(count, [full(0)] * _REGISTERS)
            for value, counter in zip(_counted_values(), counters, strict=True):
                store(table, value * partition.programs + program, counter)

    # The entries of a value lie side by side, so that they are added up as they are loaded.
    shape = jax.ShapeDtypeStruct((_VALUES * partition.programs,), jnp.int32)
    return warp.launch("count_digits", kernel, (partition.programs,), shape, *source, shift)


def add_up(
    table: jax.Array, num: jax.Array | None, partition: WorkPartition, warp: Warp
) -> tuple[jax.Array, jax.Array]:
    """Returns, for each row of a table, the sums of the entries before each entry, and the sum of all.

    Args:
        table: table with a column for each share, [rows * programs].
        num: number of items, [1]; columns of shares behind them are not read. None for the largest number.
        partition: partition of the items; it has a share for each column.
        warp: warp that runs the kernels.
    """
    num_rows, columns = table.shape[0] // partition.programs, partition.programs

    def kernel(table, *refs):
        *counted, begins, totals = refs
        row = pl.program_id(0)
        # Entries behind the used ones were not written.
        used = partition.used(counted[0][0] if counted else partition.most_rows)

        def turn(nth, total):
            places = steps_from(nth * _ENTRIES * LANES, _ENTRIES)
            entries = stack([load(table, row * columns + place, place < used) for place in places])
            ends = warp.running_sum(entries)
            sums = warp.from_lane(ends, full(LANES - 1))
            befores = total + jnp.cumsum(sums, axis=0) - sums + ends - entries
            for place, before in zip(places, unstack(befores), strict=True):
                # Interpreted kernels write all lanes; behind the end nothing is written.
                inside = jnp.where(place < used, row * columns + place, num_rows * columns)
                store(begins, inside, before, place < used)
            return total + sums.sum(axis=0, dtype=jnp.int32)

        total = lax.fori_loop(0, -(-used // (_ENTRIES * LANES)), turn, full(0))
        store(totals, row + lanes(), total, lanes() == 0)

    shapes = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in (num_rows * columns, num_rows)]
    counted = [] if num is None else [num]
    begins, totals = warp.launch("add_up_digits", kernel, (num_rows,), shapes, table, *counted)
    return begins, totals


class _Alike(NamedTuple):
    """Ballots about the digits of 32 lanes: lanes that have a digit, and lanes where each of its bits is set."""

    exist: jax.Array
    ballots: list[jax.Array]

    def of_mine(self, digit):
        """Returns bits of the lanes with the same digit as each lane."""
        same = self.exist
        for bit, ballot in enumerate(self.ballots):
            same = same & (ballot ^ _inverted(digit, bit))
        return same

    def of_counters(self):
        """Returns bits of the lanes with the digit of each counter."""
        same = self.exist
        for bit, ballot in enumerate(self.ballots[_REGISTER_BITS:]):
            same = same & (ballot ^ _inverted(lanes(), bit))
        sames = [same]
        for ballot in reversed(self.ballots[:_REGISTER_BITS]):
            sames = [half for same in sames for half in (same & ~ballot, same & ballot)]
        return sames


def _alike(keys, exist, shift, warp):
    """Returns the digit of each lane and step, and the ballots about the digits."""
    digits = (stack(keys) >> shift) & (_VALUES - 1)
    ballots = [warp.ballot((digits >> bit) & 1) for bit in range(_DIGIT_BITS)]
    return digits, _Alike(warp.ballot(stack(exist)), ballots)


def _inverted(number, bit):
    """Returns 0 where the bit is set and -1 elsewhere; xor turns a ballot into one for the same bit."""
    return ((number >> bit) & 1) - 1


def count_up(ballots: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the number of lanes in the ballots of the steps before each step, and that in all steps."""
    counts = lax.population_count(ballots)
    return jnp.cumsum(counts, axis=0) - counts, counts.sum(axis=0, dtype=jnp.int32)


def _fetch(counters, digits, warp):
    """Returns the counter of each lane's digit."""
    owner = digits >> _REGISTER_BITS
    values = [warp.from_lane(counter, owner) for counter in counters]
    for bit in range(_REGISTER_BITS):
        is_set = ((digits >> bit) & 1) > 0
        values = [jnp.where(is_set, b, a) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def _starts_of_values(totals, warp):
    """Returns the place at which the items of each counter's value begin, and the number of items."""
    counts = [load(totals, value) for value in _counted_values()]
    mine = sum(counts)
    start, starts = warp.running_sum(mine) - mine, []
    for count in counts:
        starts.append(start)
        start = start + count
    return starts, jnp.sum(mine)


def _counted_values():
    """Returns the values of each lane's counters."""
    return [lanes() * _REGISTERS + register for register in range(_REGISTERS)]


def lanes_before() -> jax.Array:
    """Returns for each lane the bits of the lanes before it."""
    return (1 << lanes()) - 1
