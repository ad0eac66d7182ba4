"""The partition of rows among programs when only the device knows the number of rows.

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
    """The partition of rows into shares, one for each program; a share is whole groups of rows. All is static.

    Attributes:
        most_rows: largest number of rows.
        most_programs: largest number of programs.
        steps: number of steps of 32 rows in a group; all steps are loaded before the first is used.
    """

    most_rows: int
    most_programs: int
    steps: int

    @property
    def group(self) -> int:
        """Number of rows in a group."""
        return self.steps * LANES

    @property
    def programs(self) -> int:
        """Number of programs to launch, at least one."""
        return max(1, min(self.most_programs, -(-self.most_rows // self.group)))

    def used(self, num: Any) -> Any:
        """Returns the number of programs that have rows, if there are ``num`` rows; they are the first ones."""
        length = jnp.maximum(self._groups(num), 1) * self.group
        return lax.div(num + length - 1, length)

    def share_of_program(self, num: Any) -> "WorkShare":
        """Inside a kernel: returns the program's share of ``num`` rows."""
        groups = self._groups(num)
        first = pl.program_id(0) * (groups * self.group)
        there = -(-(num - first) // self.group)
        return WorkShare(first, jnp.minimum(there, groups), self.steps)

    def _groups(self, num):
        """Returns the number of groups of each program."""
        return -(-num // (self.most_programs * self.group))


class WorkShare(NamedTuple):
    """The rows of one program.

    Attributes:
        first: index of the first row.
        groups: number of groups; there are none if it is not above 0.
        steps: number of steps of 32 rows in a group.
    """

    first: jax.Array
    groups: jax.Array
    steps: int

    def walk(self, visit: Callable, state: Any) -> Any:
        """Calls ``visit(rows, state)`` for each group and returns the last state.

        ``rows`` is a list of row indices, [32] for each step; the last rows may not exist.
        """

        def turn(nth, state):
            return visit(steps_from(self.first + nth * self.steps * LANES, self.steps), state)

        return lax.fori_loop(0, self.groups, turn, state)


def steps_from(begin: Any, steps: int) -> list[jax.Array]:
    """Inside a kernel: returns consecutive indices from ``begin`` on, [32] for each step."""
    return [begin + step * LANES + lanes() for step in range(steps)]


def unstack(stacked: jax.Array) -> list[jax.Array]:
    """Inside a kernel: returns the rows of an int32 array, [steps, 32], as a list."""
    step_of = _step_of(stacked.shape[0])
    return [
        jnp.where(step_of == step, stacked, 0).sum(axis=0, dtype=jnp.int32)
        for step in range(stacked.shape[0])
    ]


def _step_of(steps):
    return lax.broadcasted_iota(jnp.int32, (steps, LANES), 0)
