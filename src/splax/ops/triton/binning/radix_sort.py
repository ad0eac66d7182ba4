"""A stable radix sort of as many items as the device finds there to be.

A pass moves the items to where one digit of their keys puts them; those of the same digit stay in order. Neither
atomics nor shared memory: a warp holds a counter for each value of the digit in its registers, and finds out by
ballots whose digits are alike.
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
# Of the bits of a digit, the lower ones tell the register and the other five the lane that has the counter of a
# value. So each lane's counters are of values side by side, and one running sum over the lanes adds up all.
_REGISTER_BITS = 3
_REGISTERS = 1 << _REGISTER_BITS
# 16 warps for each multiprocessor of an H100 or H200. More would find less to do each and make longer tables.
MOST_PROGRAMS = 2048
# Steps of 32 items that are loaded at once. The time that Triton takes to compile grows with their square.
_STEPS = 4
# Entries of a table that a lane loads before it uses the first.
_ENTRIES = 8


class Source(Protocol):
    """What a pass reads: a tuple of arrays, of which kernels get references."""

    @property
    def num(self) -> Any:
        """Items there are, [1]; None: as many as :meth:`size` says, of which some may not exist."""

    def size(self) -> Any:
        """Inside a kernel: items to look at."""

    def exist(self, places: list[jax.Array]) -> list[jax.Array]:
        """Inside a kernel: which of some places, a list of steps, hold items."""
        ...

    def keys_at(self, places: list[jax.Array], exist: list[jax.Array]) -> list[jax.Array]:
        """Inside a kernel: their keys, int32; anything where there is no item."""
        ...

    def values_at(self, places: list[jax.Array], exist: list[jax.Array]) -> list[jax.Array]:
        """Inside a kernel: what goes with the keys."""
        ...


class Items(NamedTuple):
    """Items side by side.

    Attributes:
        keys: in the order of their bits, [R] int32; behind the first ``num`` anything.
        values: what goes with them, [R] int32.
        num: how many there are, [1].
    """

    keys: jax.Array
    values: jax.Array
    num: jax.Array

    def size(self):
        """Inside a kernel: items there are."""
        return self.num[0]

    def exist(self, places):
        """Inside a kernel: which of some places hold items."""
        return [place < self.size() for place in places]

    def keys_at(self, places, exist):
        """Inside a kernel: their keys."""
        return [load(self.keys, place, on) for place, on in zip(places, exist, strict=True)]

    def values_at(self, places, exist):
        """Inside a kernel: what goes with the keys."""
        return [load(self.values, place, on) for place, on in zip(places, exist, strict=True)]


def radix_sort(source: Any, key_bits: int, room: int, warp: Warp) -> Items:
    """Sorts by the lowest bits of the keys; equal ones stay in order.

    Args:
        source: a :class:`Source`.
        key_bits: how many bits count; taken eight at a time.
        room: there are never more items.
        warp: how kernels run.
    """
    for shift in range(0, key_bits, _DIGIT_BITS):
        source = sort_by_digit(source, jnp.array([shift], jnp.int32), room, warp)
    return source


# All passes but the first are one program, traced and compiled once.
@functools.partial(jax.jit, static_argnames=("room", "warp"))
def sort_by_digit(source: Any, shift: jax.Array, room: int, warp: Warp) -> Items:
    """One pass, by the digit that begins at a bit, [1]; other arguments as for :func:`radix_sort`."""
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
    """Items of each value in each span, [values * programs]; anything in those behind the last item."""

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
    """For each row of a table, with a column for each span: sums of the entries before each, and the sum of all.

    Args:
        table: [rows * programs].
        num: only the spans of so many items are looked at, [1]; those of all that there can be if None.
        partition: the columns.
        warp: how kernels run.
    """
    num_rows, columns = table.shape[0] // partition.programs, partition.programs

    def kernel(table, *refs):
        *counted, begins, totals = refs
        row = pl.program_id(0)
        # What is behind was not written.
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
    """Who of 32 lanes has which digit: lanes that have one at all, and those where each of its bits is set."""

    exist: jax.Array
    ballots: list[jax.Array]

    def of_mine(self, digit):
        """Lanes with the same digit as each."""
        same = self.exist
        for bit, ballot in enumerate(self.ballots):
            same = same & (ballot ^ _inverted(digit, bit))
        return same

    def of_counters(self):
        """Lanes with the digit of each counter."""
        same = self.exist
        for bit, ballot in enumerate(self.ballots[_REGISTER_BITS:]):
            same = same & (ballot ^ _inverted(lanes(), bit))
        sames = [same]
        for ballot in reversed(self.ballots[:_REGISTER_BITS]):
            sames = [half for same in sames for half in (same & ~ballot, same & ballot)]
        return sames


def _alike(keys, exist, shift, warp):
    """The digit of each lane, and who has which, of each step."""
    digits = (stack(keys) >> shift) & (_VALUES - 1)
    ballots = [warp.ballot((digits >> bit) & 1) for bit in range(_DIGIT_BITS)]
    return digits, _Alike(warp.ballot(stack(exist)), ballots)


def _inverted(number, bit):
    """0 where the bit is set and -1 where it is not: what turns a ballot into one for the same bit."""
    return ((number >> bit) & 1) - 1


def count_up(ballots: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many lanes are in the ballots of the steps before each, and in all of them."""
    counts = lax.population_count(ballots)
    return jnp.cumsum(counts, axis=0) - counts, counts.sum(axis=0, dtype=jnp.int32)


def _fetch(counters, digits, warp):
    """The counter of each lane's digit."""
    owner = digits >> _REGISTER_BITS
    values = [warp.from_lane(counter, owner) for counter in counters]
    for bit in range(_REGISTER_BITS):
        is_set = ((digits >> bit) & 1) > 0
        values = [jnp.where(is_set, b, a) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def _starts_of_values(totals, warp):
    """Where the items of each counter's value begin; and how many items there are."""
    counts = [load(totals, value) for value in _counted_values()]
    mine = sum(counts)
    start, starts = warp.running_sum(mine) - mine, []
    for count in counts:
        starts.append(start)
        start = start + count
    return starts, jnp.sum(mine)


def _counted_values():
    """The values of each lane's counters."""
    return [lanes() * _REGISTERS + register for register in range(_REGISTERS)]


def lanes_before() -> jax.Array:
    """Of each lane, those before it, as bits."""
    return (1 << lanes()) - 1
