"""Rows shared out among programs when only the device knows how many there are.

A grid is as large as the most rows need. With blocks of a fixed size most of its programs, and most entries of a
table that has one for each, would be for rows that are not there. So there is a limit to the programs, and each
takes as many groups of rows as it must.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.triton.lanes.warp import LANES, lanes


class WorkPartition(NamedTuple):
    """Spans of whole groups, one a program, side by side; all static.

    Attributes:
        most_rows: there are never more rows than this.
        most_programs: nor more programs than this.
        steps: of 32 rows in a group; all of these are loaded before the first is used.
    """

    most_rows: int
    most_programs: int
    steps: int

    @property
    def group(self) -> int:
        """Rows of a group."""
        return self.steps * LANES

    @property
    def programs(self) -> int:
        """Programs to launch, one at least."""
        return max(1, min(self.most_programs, -(-self.most_rows // self.group)))

    def used(self, num: Any) -> Any:
        """Programs that have rows, of so many in all: the first ones."""
        length = jnp.maximum(self._groups(num), 1) * self.group
        return lax.div(num + length - 1, length)

    def share_of_program(self, num: Any) -> "WorkShare":
        """Inside a kernel: the program's share of so many rows."""
        groups = self._groups(num)
        first = pl.program_id(0) * (groups * self.group)
        there = -(-(num - first) // self.group)
        return WorkShare(first, jnp.minimum(there, groups), self.steps)

    def _groups(self, num):
        """Groups of each program."""
        return -(-num // (self.most_programs * self.group))


class WorkShare(NamedTuple):
    """The rows of one program.

    Attributes:
        first: where they begin.
        groups: there are so many; none if not above 0.
        steps: of 32 rows in a group.
    """

    first: jax.Array
    groups: jax.Array
    steps: int

    def walk(self, visit: Callable, state: Any) -> Any:
        """``visit(rows, state)`` for each group; ``rows`` of each step, the last of which may not exist."""

        def turn(nth, state):
            return visit(steps_from(self.first + nth * self.steps * LANES, self.steps), state)

        return lax.fori_loop(0, self.groups, turn, state)


def steps_from(begin: Any, steps: int) -> list[jax.Array]:
    """Inside a kernel: indices from ``begin`` on, 32 a step."""
    return [begin + step * LANES + lanes() for step in range(steps)]


def unstack(stacked: jax.Array) -> list[jax.Array]:
    """Inside a kernel: the values of each step of an int32 array, [steps, 32]."""
    step_of = _step_of(stacked.shape[0])
    return [
        jnp.where(step_of == step, stacked, 0).sum(axis=0, dtype=jnp.int32)
        for step in range(stacked.shape[0])
    ]


def _step_of(steps):
    return lax.broadcasted_iota(jnp.int32, (steps, LANES), 0)
