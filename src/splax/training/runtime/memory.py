"""Estimates the memory that a run needs, and checks that the device has it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from splax.devices import free_memory
from splax.training.errors import OutOfMemoryError

# Share of the free memory that a run may plan with: allocators cannot use every gap.
_USABLE = 0.95


class MemoryNeed(NamedTuple):
    """Device memory that a run needs for its next steps.

    Attributes:
        photos: bytes of the photos.
        rows: bytes of all that grows with the number of rows: the state, copies of it, gradients and the other
            arrays that a step computes.
        num_rows: number of rows.
        available: bytes that the device has for the run; None if that is not known.
    """

    photos: int
    rows: int
    num_rows: int
    available: int | None

    @property
    def total(self) -> int:
        """Bytes of the photos and the rows."""
        return self.photos + self.rows

    @property
    def fits(self) -> bool:
        """Whether the device has as many bytes; true if that is not known."""
        return self.available is None or self.total <= self.available

    @property
    def most_rows(self) -> int | None:
        """Largest number of Gaussians that fits, if all but the photos grows in proportion to the Gaussians.

        None if the available memory is not known.
        """
        if self.available is None:
            return None
        return max(0, int((self.available - self.photos) / (self.rows / self.num_rows)))

    def describe(self) -> str:
        """The needed and the available memory as one line of text for people."""
        text = f"Memory: about {_size(self.total)} for {self.num_rows:,} Gaussians"
        if self.available is None:
            return text + "."
        return f"{text} of {_size(self.available)}; there is room for about {self.most_rows:,}."

    def check(self) -> None:
        """Checks that the device has enough memory.

        Raises:
            OutOfMemoryError: if it has not; the message says what would help.
        """
        if not self.fits:
            raise OutOfMemoryError(
                f"{self.num_rows:,} Gaussians and the photos need about {_size(self.total)} of memory, and the "
                f"device has {_size(self.available or 0)}. {self.cure()}"
            )

    def cure(self) -> str:
        """A sentence that names the arguments with which the run would fit."""
        if self.available and self.photos > self.available / 2:
            factor = 2
            while self.photos / factor**2 > self.available / 2:
                factor *= 2
            return f"Smaller photos would fit: load them with a downscale {factor} times what it is now."
        rows = None if self.most_rows is None else int(0.8 * self.most_rows)
        limit = "fewer Gaussians (max_gaussians= of the strategy, num= of the start)"
        if rows:
            limit = f"at most {rows:,} Gaussians (max_gaussians={rows} of the strategy)"
        return f"With {limit} it would fit, or with smaller photos (downscale=2)."


def raise_if_out_of_memory(error: BaseException, num_rows: int) -> None:
    """Turns jax's error for a device without memory left into an error that says what would help.

    Args:
        error: the error that was raised; any other kind of error is ignored.
        num_rows: number of rows of the state.

    Raises:
        OutOfMemoryError: if ``error`` says that the device has no memory left.
    """
    fewer = int(0.7 * num_rows)
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        raise OutOfMemoryError(
            f"the device ran out of memory with room for {num_rows:,} Gaussians; the model holds the last good "
            f"state. At most {fewer:,} Gaussians (max_gaussians={fewer} of the strategy) or smaller photos "
            "(downscale=2) need less."
        ) from error


def step_need(
    compiled: Any, state: PyTree, photos: PyTree, num_rows: int, *, present: PyTree | None = None
) -> MemoryNeed:
    """The memory that a compiled call needs, with the refinement and the copies between two calls.

    Args:
        compiled: the compiled program of many steps.
        state: the program's state, or the shapes of it.
        photos: the photos on the device that the program reads.
        num_rows: number of rows of the state.
        present: the state that is on the device now, which ``state`` will replace; ``state`` itself if None.
    """
    state_bytes, photo_bytes = _num_bytes(state), _num_bytes(photos)
    analysis = compiled.memory_analysis()  # None where the platform has no analysis
    temporary = 0 if analysis is None else analysis.temp_size_in_bytes
    # The device also holds a copy of a part of the state, the model's. Refinements, which on a GPU replace the
    # state a group of leaves at a time, need less than the temporary arrays of a step.
    rows = state_bytes + state_bytes // 2 + temporary
    free = free_memory()
    present_bytes = state_bytes if present is None else _num_bytes(present)
    available = None if free is None else max(0, int(_USABLE * (free + present_bytes + photo_bytes)))
    return MemoryNeed(photo_bytes, rows, num_rows, available)


def _num_bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
