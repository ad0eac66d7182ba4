"""Functions that are compiled ahead of their first call, so that the memory they need is known before they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from splax.devices import device_policy


class CompiledFunction:
    """A function under ``jax.jit``, compiled once for each set of shapes; compiling and running are two calls.

    Args:
        function: function to compile.
        **options: options of ``jax.jit``; static arguments must be passed by keyword.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self._jitted = jax.jit(function, **options)
        self._compiled: dict[Any, Any] = {}

    def __len__(self) -> int:
        """Number of programs compiled so far."""
        return len(self._compiled)

    def compile(self, *args: Any, **static: Any) -> Any:
        """The compiled program for these arguments; compiles it at the first call. Call it with ``args`` alone.

        Args:
            *args: arguments of the function, or their shapes.
            **static: static arguments of the function.
        """
        key = program_key(args, static)
        if key not in self._compiled:
            self._compiled[key] = compile_lowered(self._jitted.lower(*args, **static))
        return self._compiled[key]


def compile_lowered(lowered: Any) -> Any:
    """Compiles a lowered program with the compiler options of the device."""
    options = dict(device_policy().compiler_options)
    if not options:
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()  # a version of XLA that does not know the option


def program_key(args: Any, static: dict[str, Any]) -> Any:
    """Key of the program that a call needs: shapes and dtypes of its arguments, and its static arguments."""
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), tuple(static.items())
