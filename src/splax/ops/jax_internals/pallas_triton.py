"""Pallas' Triton backend, which JAX will remove: modules with kernels can be imported without it."""

from typing import Any, NoReturn, cast

import jax

try:
    from jax.experimental.pallas import triton as plgpu
except ImportError as _error:
    _reason = _error

    class _Missing:
        """Replaces the backend; as soon as a kernel uses it, an error says what to do."""

        def __getattr__(self, name: str) -> NoReturn:
            raise NotImplementedError(
                f"the kernels of splax are written for Pallas Triton, which jax {jax.__version__} lacks here; "
                "install one that has it (pip install 'jax>=0.10,<0.13'), or draw with "
                "implementation='xla_vjp'."
            ) from _reason

    plgpu = cast(Any, _Missing())

__all__ = ["plgpu"]
