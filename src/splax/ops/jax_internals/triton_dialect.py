"""Saves thousands of failing imports when kernels are lowered.

For every operation that MLIR makes from Python, it imports a module named after the operation's dialect; if
there is no such module, it tries again each time. Triton's operations, "tt", are in a module of another name.
That costs three searches of the whole path for each of four thousand operations: a third of the time to lower
an image and its gradients.
"""

import importlib.util
import sys

try:
    from jaxlib.triton import dialect
except ImportError:  # see pallas_triton.py
    dialect = None

_NAME = "jaxlib.mlir.dialects.tt"


def register() -> None:
    """Makes Triton's dialect available under the name that MLIR imports, unless a module of that name exists."""
    if dialect is not None and _NAME not in sys.modules and importlib.util.find_spec(_NAME) is None:
        sys.modules[_NAME] = dialect
