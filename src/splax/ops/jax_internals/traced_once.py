"""Functions that are traced once where JAX asks for them twice."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax

F = TypeVar("F", bound=Callable[..., Any])


def traced_once(*static: str) -> Callable[[F], F]:
    """Makes ``jax.jit`` keep the trace of a function for each set of shapes; nothing changes for the caller.

    JAX traces a function that has its own backward pass twice: with that pass and without it. In jax 0.10 one
    trace has a mesh without axes and the other has no mesh, which JAX takes for different. If the mesh is
    named, both are the same.

    Args:
        static: names of the arguments that are not arrays.
    """

    def decorate(function: F) -> F:
        traced = jax.jit(function, static_argnames=static, inline=True)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
                return traced(*args, **kwargs)

        return call  # pyright: ignore[reportReturnType]: of the same signature

    return decorate
