"""What JAX would trace twice is traced once."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from splax.ops.jax_internals.traced_once import traced_once


def test_a_function_with_a_backward_pass_of_its_own_is_traced_once():
    traces = []

    @traced_once("times")
    def multiply(x: Any, times: int) -> Any:
        traces.append(times)
        return times * x

    @jax.custom_vjp
    def treble(x):
        return multiply(x, 3)

    treble.defvjp(lambda x: (multiply(x, 3), None), lambda _, v: (3 * v,))

    def branch(x):
        return jax.lax.platform_dependent(x, default=treble)

    gradient = jax.jit(jax.grad(lambda x: branch(x).sum()))(jnp.ones(4))
    assert gradient.tolist() == [3, 3, 3, 3] and traces == [3]
    # Other shapes and other static arguments are others.
    assert jax.jit(multiply, static_argnums=1)(jnp.ones(5), 4).sum() == 20 and traces == [3, 4]
    assert multiply.__name__ == "multiply"


def test_errors_come_through():
    @traced_once()
    def fail(x: Any) -> Any:
        raise ValueError(f"the argument has shape {x.shape}")

    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        fail(jnp.ones(2))
