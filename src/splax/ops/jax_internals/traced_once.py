"""Functions that are traced once where JAX asks for them twice."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax

F = TypeVar("F", bound=Callable[..., Any])


def traced_once(*static: str) -> Callable[[F], F]:
    """Has ``jax.jit`` keep what it traced of a function, for each set of shapes; to its caller nothing changes.

    JAX traces what has a backward pass of its own with that and without it. In jax 0.10 the one has a mesh of no
    axes and the other none, which it takes for different: with the mesh named they are the same.

    Args:
        static: names of arguments that are not arrays.
    """

    def decorate(function: F) -> F:
        traced = jax.jit(function, static_argnames=static, inline=True)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
                return traced(*args, **kwargs)

        return call  # pyright: ignore[reportReturnType]: of the same signature

    return decorate
