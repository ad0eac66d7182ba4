"""How much memory a run needs, and whether the device has it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from splax.devices import free_memory
from splax.training.errors import OutOfMemoryError

# Of what is free, how much a run may plan with: allocators cannot use every gap.
_USABLE = 0.95


class MemoryNeed(NamedTuple):
    """Bytes on the device that a run needs for its next steps.

    Attributes:
        photos: that lie there.
        rows: what grows with the number of rows: the state, copies of it, gradients, what a step computes.
        num_rows: how many those are.
        available: that the device has for all of it; None: not known.
    """

    photos: int
    rows: int
    num_rows: int
    available: int | None

    @property
    def total(self) -> int:
        """All of it."""
        return self.photos + self.rows

    @property
    def fits(self) -> bool:
        """Whether the device has as much; true if that is not known."""
        return self.available is None or self.total <= self.available

    @property
    def most_rows(self) -> int | None:
        """Gaussians that would fit, if what a step computes grew in proportion to them."""
        if self.available is None:
            return None
        return max(0, int((self.available - self.photos) / (self.rows / self.num_rows)))

    def describe(self) -> str:
        """One line for people."""
        text = f"Memory: about {_size(self.total)} for {self.num_rows:,} Gaussians"
        if self.available is None:
            return text + "."
        return f"{text} of {_size(self.available)}; there is room for about {self.most_rows:,}."

    def check(self) -> None:
        """Does nothing if the device has as much.

        Raises:
            OutOfMemoryError: if not; says what would help.
        """
        if not self.fits:
            raise OutOfMemoryError(
                f"{self.num_rows:,} Gaussians and the photos need about {_size(self.total)} of memory, and the "
                f"device has {_size(self.available or 0)}. {self.cure()}"
            )

    def cure(self) -> str:
        """The change of the run that would make it fit, as a sentence that names the arguments."""
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
    """Turns what jax says when the device has no memory left into an error with a cure.

    Raises:
        OutOfMemoryError: if it is that.
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
    """What a compiled stretch of steps needs, and the refinement and the copies between two of them.

    Args:
        compiled: the stretch.
        state: its state, or the shapes of it.
        photos: that it reads, on the device.
        num_rows: of the state.
        present: the state that is on the device now, whose place it takes; ``state`` itself if None.
    """
    held, shown = _num_bytes(state), _num_bytes(photos)
    analysis = compiled.memory_analysis()  # None where the platform has none
    computed = 0 if analysis is None else analysis.temp_size_in_bytes
    # Beside the state lies a copy of a part of it, the model's. Refinements, which on a GPU write the state anew
    # a part at a time, need less than what a step computes.
    rows = held + held // 2 + computed
    free = free_memory()
    now = held if present is None else _num_bytes(present)
    available = None if free is None else max(0, int(_USABLE * (free + now + shown)))
    return MemoryNeed(shown, rows, num_rows, available)


def _num_bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
