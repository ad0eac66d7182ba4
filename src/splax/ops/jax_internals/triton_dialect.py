"""Spares the lowering of kernels thousands of imports that fail.

For every operation that MLIR makes from Python it asks for a module named like the operation's dialect, again and
again where there is none. Triton's operations, "tt", are in a module of another name: three searches of the whole
path for each of four thousand operations, a third of the time to lower an image and its gradients.
"""

import importlib.util
import sys

try:
    from jaxlib.triton import dialect
except ImportError:  # see pallas_triton.py
    dialect = None

_NAME = "jaxlib.mlir.dialects.tt"


def register() -> None:
    """Has Triton's dialect found under the name that is asked for, where nothing else is."""
    if dialect is not None and _NAME not in sys.modules and importlib.util.find_spec(_NAME) is None:
        sys.modules[_NAME] = dialect
