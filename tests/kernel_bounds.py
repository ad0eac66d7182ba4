"""Tells where interpreted kernels leave their arrays: on a GPU those accesses would reach other ones."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu


class Accesses:
    """What was found.

    Attributes:
        places: lines of kernels whose accesses were looked at.
        outside: of those the ones that left their array, with the lowest and highest index, and the array's size.
    """

    def __init__(self) -> None:
        self.places: set[str] = set()
        self.outside: set[str] = set()

    def watch(self, ref, mask) -> None:
        """Looks at one access of a kernel that is being traced: of a flat array, where the mask is on."""
        (indexer,) = ref.transforms
        (index,) = indexer.indices
        (size,) = ref.ref.shape
        place = _caller()
        self.places.add(place)
        index = jnp.asarray(index)
        inside = (index >= 0) & (index < size)
        if mask is not None:
            inside |= ~jnp.broadcast_to(mask, inside.shape)

        def told(inside, low, high) -> None:
            if not inside:
                self.outside.add(f"{place}: {int(low)} to {int(high)} of {size}")

        jax.lax.cond(
            inside.all(),
            lambda: None,
            lambda: jax.debug.callback(told, inside.all(), index.min(), index.max()),
        )


@contextmanager
def watched() -> Iterator[Accesses]:
    """Looks at all kernels that are traced inside to be interpreted."""
    accesses, load, store, pallas_call = Accesses(), plgpu.load, plgpu.store, pl.pallas_call

    def watched_call(kernel, *, interpret=False, **options):
        def watched_kernel(*refs):
            with pytest.MonkeyPatch.context() as patch:
                if interpret:
                    patch.setattr(plgpu, "load", watched_load)
                    patch.setattr(plgpu, "store", watched_store)
                kernel(*refs)

        return pallas_call(watched_kernel, interpret=interpret, **options)

    def watched_load(ref, *, mask=None, **options):
        accesses.watch(ref, mask)
        return load(ref, mask=mask, **options)

    def watched_store(ref, value, *, mask=None, **options):
        accesses.watch(ref, mask)
        return store(ref, value, mask=mask, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl, "pallas_call", watched_call)
        yield accesses
        jax.effects_barrier()


def _caller() -> str:
    """The line of splax's kernels that loads or stores, outside of warp.py."""
    for frame in inspect.stack()[2:]:
        path = Path(frame.filename)
        if "triton" in path.parts and path.name != "warp.py":
            return f"{path.name}:{frame.lineno} ({frame.function})"
    return "a test"
