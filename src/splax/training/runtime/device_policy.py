"""How much more than is needed is set aside: every growth compiles the step again."""

from typing import NamedTuple

import jax


class Room(NamedTuple):
    """What a kind of device sets aside.

    Attributes:
        rows: dead rows that a run which refines begins with, and grows by at least.
        isects: factor of the intersections counted.
        waste: how many times too large a buffer may be.
        least: intersections that there is room for in any case.
    """

    rows: int
    isects: float
    waste: float
    least: int = 0


_ON_CPU = Room(rows=0, isects=1.25, waste=2)
# There it takes as long to compile as to make thousands of steps (docs/performance.md). What dead rows and slots
# add to a step was not measured: Adam and the sort read and write them all.
# A million pairs take some 30 MB and are sorted in some 40 us; a run from random points needs a thirtieth of that
# once the worst are pruned, and would outgrow what fits then several times.
_ON_GPU = Room(rows=100_000, isects=1.5, waste=4, least=1 << 20)


def room_of_device() -> Room:
    """What the default device sets aside."""
    return _ON_GPU if jax.default_backend() == "gpu" else _ON_CPU
