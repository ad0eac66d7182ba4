"""Compiled functions that say what they need before they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

_WITHOUT_AUTOTUNER = {"xla_gpu_experimental_enable_fusion_autotuner": False}


class Programs:
    """A function under ``jax.jit``, compiled once for each set of shapes; compiling and running are two calls.

    Args:
        function: to be compiled.
        **options: of ``jax.jit``; static arguments must be given by keyword.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self._jitted = jax.jit(function, **options)
        self._compiled: dict[Any, Any] = {}

    def __len__(self) -> int:
        """How many were compiled so far."""
        return len(self._compiled)

    def compile(self, *args: Any, **static: Any) -> Any:
        """The same, compiled now if there is none. Call it with ``args`` alone."""
        key = call_key(args, static)
        if key not in self._compiled:
            self._compiled[key] = compile_program(self._jitted.lower(*args, **static))
        return self._compiled[key]


def compile_program(lowered: Any) -> Any:
    """Compiles what was lowered, on a GPU without XLA's fusion autotuner.

    That runs each fusion as either of two emitters has it, and keeps the faster: on arrays made for that, beside
    the state, though they be as large as all Params and the moments of Adam; and from run to run another one may
    be the faster, which gives other last bits.
    """
    if jax.default_backend() != "gpu":
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=_WITHOUT_AUTOTUNER)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()  # a version of XLA that does not know the option


def call_key(args: Any, static: dict[str, Any]) -> Any:
    """What decides which program a call takes: shapes and dtypes of its arguments, and the static ones."""
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), tuple(static.items())
