"""One warp as a vector of 32 lanes.

A kernel whose programs are single warps and whose arrays all have shape [32] holds one element per thread: it is
written as CUDA would be, one register a variable. Moving values between lanes, for which Pallas has no name, is
one PTX instruction each. Interpreted, the same functions are plain JAX, so that kernels run on a CPU in the
tests.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.jax_internals import triton_dialect as dialect
from splax.ops.jax_internals.pallas_triton import plgpu

LANES = 32
_ALL = "0xffffffff"
_MOST_ELEMENTS = 2**31


def lanes() -> jax.Array:
    """Returns the index of each lane, [32]."""
    return lax.iota(jnp.int32, LANES)


def full(value) -> jax.Array:
    """Returns the same integer in every lane, [32]."""
    return jnp.full(LANES, value, jnp.int32)


def zeros(rows: int | None = None) -> jax.Array:
    """Returns the float 0 in every lane, [32], or in rows of lanes, [rows, 32]."""
    return jnp.zeros(LANES if rows is None else (rows, LANES), jnp.float32)


def stack(rows: Sequence[jax.Array]) -> jax.Array:
    """Inside a kernel: joins rows of lanes, [32] each, into one array, [rows, 32]; each lane has its column.

    An operation on the array is traced and compiled once, not once for each row. But memory is loaded and
    stored by single rows: for an array, Triton would assign elements to lanes in another order.
    """
    shape = (len(rows), LANES)
    which, stacked = lax.broadcasted_iota(jnp.int32, shape, 0), jnp.broadcast_to(rows[0], shape)
    for nth, row in enumerate(rows[1:], 1):
        stacked = jnp.where(which == nth, row, stacked)
    return stacked


def load(ref, index, mask=None) -> jax.Array:
    """Loads elements of a flat array; returns 0 where the mask is off."""
    return plgpu.load(ref.at[index], mask=mask, other=None if mask is None else jnp.zeros((), ref.dtype))


def store(ref, index, value, mask=None) -> None:
    """Stores elements of a flat array where the mask is on."""
    plgpu.store(ref.at[index], value, mask=mask)


def lowest_bit(bits: jax.Array) -> jax.Array:
    """Returns the index of the lowest bit that is set; 32 if no bit is set."""
    return lax.population_count((bits & -bits) - 1)


def nth_bits(bits: jax.Array) -> jax.Array:
    """Returns in lane n the index of the set bit that has n set bits below it; 31 or more if there is none."""
    place, before = full(0), lanes()
    for size in (16, 8, 4, 2, 1):
        num = lax.population_count((bits >> place) & ((1 << size) - 1))
        behind = before >= num
        place, before = jnp.where(behind, place + size, place), jnp.where(behind, before - num, before)
    return place


def lanes_of_sums(num: int) -> tuple[jax.Array, jax.Array]:
    """Returns the index of each lane's sum of :meth:`Warp.sum_each`, and a mask with one lane per sum."""
    first = _power_of_two(num)
    together = LANES // first
    which, once = lanes() // together, lanes() % together == 0
    if first == num:
        return which, once
    together, later_sums = LANES // _power_of_two_above(num - first), _hold_later_sums()
    which = jnp.where(later_sums, first + lanes() // together, which)
    return which, jnp.where(later_sums, lanes() % together == 1, once) & (which < num)


def _power_of_two(num):
    """Returns the largest power of two that is not above a number."""
    return 1 << (num.bit_length() - 1)


def _power_of_two_above(num):
    """Returns the smallest power of two that is not below a number."""
    return 1 << (num - 1).bit_length()


def _hold_later_sums():
    """Returns the mask of the lanes that hold the sums behind the first 1, 2, 4, 8 or 16 sums.

    Each of the first sums has two lanes or more, so that one of them is free.
    """
    return lanes() % 2 == 1


class Warp(NamedTuple):
    """Operations between the lanes of one warp, and the launch of kernels that use them.

    Attributes:
        interpret: whether kernels are interpreted as plain JAX, on any device, instead of compiled for a GPU.
    """

    interpret: bool

    def from_lane(self, x: jax.Array, lane: jax.Array) -> jax.Array:
        """Returns the value of ``x`` in another lane, for one or several rows of lanes."""
        if self.interpret and x.ndim == 1:
            return x[lane]
        shape = jnp.broadcast_shapes(x.shape, lane.shape)
        x, lane = jnp.broadcast_to(x, shape), jnp.broadcast_to(lane, shape)
        if self.interpret:
            return jnp.take_along_axis(x, lane, axis=-1)
        kind = _register(x)
        return inline_asm(f"shfl.sync.idx.b32 $0, $1, $2, 31, {_ALL};", f"={kind},{kind},r", x.dtype, x, lane)

    def across(self, x: jax.Array, distance: int) -> jax.Array:
        """Returns the value of ``x`` in the lane whose index differs in the bit ``distance``."""
        if self.interpret:
            return x[..., lanes() ^ distance]
        kind = _register(x)
        return inline_asm(
            f"shfl.sync.bfly.b32 $0, $1, {distance}, 31, {_ALL};", f"={kind},{kind}", x.dtype, x
        )

    def ballot(self, flag: jax.Array) -> jax.Array:
        """Returns, in all lanes, a bit for each lane where ``flag`` is true, for one or several rows of lanes."""
        flag = flag.astype(jnp.int32)
        if self.interpret:
            bits = (flag << lanes()).sum(axis=-1, keepdims=True, dtype=jnp.int32)
            return jnp.broadcast_to(bits, flag.shape)
        ask = f"{{ .reg .pred p; setp.ne.s32 p, $1, 0; vote.sync.ballot.b32 $0, p, {_ALL}; }}"
        return inline_asm(ask, "=r,r", jnp.int32, flag)

    def running_sum(self, x: jax.Array) -> jax.Array:
        """Returns the sum of each lane's value and those of the lanes before it, for one or several rows."""
        distance = 1
        while distance < LANES:
            x = x + jnp.where(lanes() >= distance, self.from_lane(x, jnp.maximum(lanes() - distance, 0)), 0)
            distance *= 2
        return x

    def fma(self, a: jax.Array, b: jax.Array | float, c: jax.Array) -> jax.Array:
        """Returns a b + c, rounded once; XLA does not let the compiler fuse a product and a sum in kernels."""
        if self.interpret:
            return a * b + c
        shape = jnp.broadcast_shapes(*(jnp.shape(x) for x in (a, b, c)))
        args = (jnp.broadcast_to(jnp.asarray(x, jnp.float32), shape) for x in (a, b, c))
        return inline_asm("fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", jnp.float32, *args)

    def cover(
        self, power: jax.Array, transmittance: jax.Array, *, threshold: float, most: float, least: float
    ) -> jax.Array:
        """Returns the transmittance of pixels after one more Gaussian; negative where a pixel is finished.

        The absolute value decreases by the Gaussian's weight.

        Args:
            power: log2 of the Gaussian's alpha, before it is clamped.
            transmittance: transmittance before the Gaussian, negative where a pixel is finished.
            threshold: power below which a pixel stays unchanged.
            most: largest alpha.
            least: smallest transmittance. A pixel that would fall to this or below is finished, and keeps its
                transmittance.
        """
        if self.interpret:
            left, touched = (
                transmittance - jnp.minimum(jnp.exp2(power), most) * transmittance,
                power >= threshold,
            )
            finished = jnp.where(touched, -jnp.abs(transmittance), transmittance)
            return jnp.where(touched & (left > least), left, finished)
        code = f"""setp.ge.f32 p, $1, {_hex(threshold)};
            ex2.approx.ftz.f32 a, $1; min.f32 a, a, {_hex(most)}; selp.f32 a, a, 0f00000000, p;
            neg.f32 a, a; fma.rn.f32 l, a, $2, $2;
            setp.gt.f32 p, l, {_hex(least)}; abs.f32 a, $2; neg.f32 a, a; selp.f32 $0, l, a, p;"""
        code = f"{{ .reg .pred p; .reg .f32 a, l; {' '.join(code.split())} }}"
        return inline_asm(code, "=&f,f,f", jnp.float32, power, transmittance)

    def difference_of_sizes(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns |x| - |y| with one instruction; the compiler would use two."""
        if self.interpret:
            return jnp.abs(x) - jnp.abs(y)
        code = "{ .reg .f32 a, b; abs.f32 a, $1; abs.f32 b, $2; sub.f32 $0, a, b; }"
        return inline_asm(code, "=f,f,f", jnp.float32, x, y)

    def reciprocal(self, x: jax.Array) -> jax.Array:
        """Returns 1 / x, accurate to one unit in the last place."""
        return 1 / x if self.interpret else inline_asm("rcp.approx.ftz.f32 $0, $1;", "=f,f", jnp.float32, x)

    def sqrt(self, x: jax.Array) -> jax.Array:
        """Returns the square root, accurate to a few units in the last place; denormal numbers count as 0."""
        return (
            jnp.sqrt(x)
            if self.interpret
            else inline_asm("sqrt.approx.ftz.f32 $0, $1;", "=f,f", jnp.float32, x)
        )

    def floor(self, x: jax.Array) -> jax.Array:
        """Returns the largest int32 that is not above ``x``; 0 for NaN."""
        return self._to_integer(x, jnp.floor, "rmi")

    def ceil(self, x: jax.Array) -> jax.Array:
        """Returns the smallest int32 that is not below ``x``; 0 for NaN."""
        return self._to_integer(x, jnp.ceil, "rpi")

    def _to_integer(self, x, rounded, mode):
        if self.interpret:
            return rounded(x).astype(jnp.int32)
        return inline_asm(f"cvt.{mode}.s32.f32 $0, $1;", "=r,f", jnp.int32, x)

    def union(self, bits: jax.Array) -> jax.Array:
        """Returns, in all lanes, the bits that are set in any lane."""
        if self.interpret:
            return full(lax.reduce(bits, jnp.int32(0), lax.bitwise_or, (0,)))
        return inline_asm(f"redux.sync.or.b32 $0, $1, {_ALL};", "=r,r", jnp.int32, bits)

    def sum_each(self, values: list[jax.Array]) -> jax.Array:
        """Sums each of up to 32 values over the lanes, all at once.

        At each step half of the lanes exchange half of the values: n sums take about n shuffles instead of 5 n.
        Each sum ends in lanes of its own, see :func:`lanes_of_sums`, so that one store writes all sums.
        """
        first = _power_of_two(len(values))
        total = self._sum_power_of_two(values[:first])
        if first == len(values):
            return total
        return jnp.where(_hold_later_sums(), self._sum_power_of_two(values[first:]), total)

    def _sum_power_of_two(self, values):
        """Sums up to 32 values; with n values rounded up to a power of two, each sum ends in 32 / n neighbours."""
        kept: list[jax.Array | None] = [*values, *([None] * (_power_of_two_above(len(values)) - len(values)))]
        distance = LANES // 2
        while len(kept) > 1:
            half = len(kept) // 2
            kept = [self._join(a, b, distance) for a, b in zip(kept[:half], kept[half:], strict=True)]
            distance //= 2
        (total,) = kept
        assert total is not None
        while distance:
            total = total + self.across(total, distance)
            distance //= 2
        return total

    def _join(self, a, b, distance):
        """Does :meth:`exchange` for values of which one or both may be None."""
        if a is None:
            return None
        return a + self.across(a, distance) if b is None else self.exchange(a, b, distance)

    def exchange(self, a: jax.Array, b: jax.Array, distance: int) -> jax.Array:
        """Sums over lanes that differ in the bit ``distance``: ``a`` in the lower, ``b`` in the upper lane."""
        upper = (lanes() & distance) != 0
        sent, kept = jnp.where(upper, a, b), jnp.where(upper, b, a)
        return kept + self.across(sent, distance)

    def launch(
        self,
        name: str,
        kernel,
        grid: tuple[int, ...],
        out_shape,
        *args,
        in_place: Mapping[int, int] = MappingProxyType({}),
        out_block: int | None = None,
    ):
        """Runs programs of one warp each over flat arrays.

        Args:
            name: name of the kernel that profilers show.
            kernel: function of the references to the arguments and to the outputs.
            grid: numbers of programs along each axis.
            out_shape: shapes and types of the outputs, a tree of ``jax.ShapeDtypeStruct``.
            *args: flat arrays.
            in_place: indices of arguments whose memory becomes an output, with the index of that output.
            out_block: number of elements that an output has in the kernel; None for all of them.

        Raises:
            ValueError: if an array has more elements than the 32-bit integers of a kernel can number.
        """
        sizes = [math.prod(x.shape) for x in jax.tree.leaves((args, out_shape))]
        if max(sizes) >= _MOST_ELEMENTS:
            raise ValueError(
                f"a kernel would need an array of {max(sizes):,} elements, but its integers can number only "
                f"{_MOST_ELEMENTS - 1:,}; render fewer channels or Gaussians, a smaller image, a smaller "
                "isect_capacity, or use implementation='xla_vjp'."
            )
        dialect.register()
        anywhere = pl.BlockSpec(memory_space=pl.ANY)
        out = anywhere if out_block is None else pl.BlockSpec((out_block,), lambda *_: (0,))
        return pl.pallas_call(
            kernel,
            grid=grid,
            out_shape=out_shape,
            in_specs=[anywhere] * len(args),
            out_specs=jax.tree.map(lambda _: out, out_shape),
            compiler_params=plgpu.CompilerParams(num_warps=1, num_stages=1),
            input_output_aliases=in_place,
            interpret=self.interpret,
            name=name,
        )(*args)


def _hex(value: float) -> str:
    """Returns a float as a constant of PTX."""
    (bits,) = struct.unpack("I", struct.pack("f", value))
    return f"0f{bits:08X}"


def _register(x: jax.Array) -> str:
    return "f" if x.dtype == jnp.float32 else "r"


def inline_asm(instruction: str, constraints: str, dtype, *args: Any) -> jax.Array:
    """Runs instructions of PTX in every lane.

    Args:
        instruction: text of the instructions, with $0 for the result and $1, $2, ... for the arguments.
        constraints: register constraints of the result and the arguments, as in LLVM.
        dtype: type of the result.
        *args: arrays of lanes, or references, which become addresses.
    """
    result = jax.ShapeDtypeStruct(args[-1].shape, dtype)
    return plgpu.elementwise_inline_asm(
        instruction, args=args, constraints=constraints, pack=1, result_shape_dtypes=[result]
    )[0]
