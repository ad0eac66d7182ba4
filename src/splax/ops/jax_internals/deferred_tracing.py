"""Functions that are traced where they are compiled, not where they are called.

``lax.platform_dependent`` traces every branch, and differentiates it. Where there is a GPU two fifths of all
that JAX traces before a first call would be the branch for other platforms, which is then thrown away.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


def deferred(function: Callable[..., Any], shapes: Any) -> Callable[..., Any]:
    """Returns the same function, which is traced when it is compiled.

    The function has first order reverse mode only. The backward pass computes the function again, so nothing is
    stored between the two passes.

    Args:
        function: function of positional arguments, which are trees of arrays.
        shapes: shapes and types of what the function returns, a tree of ``jax.ShapeDtypeStruct``.
    """

    @jax.custom_vjp
    def call(*args):
        return _bind(function, shapes, args)

    def backward(args, cotangents):
        # Integers have no gradients, so the cotangents of integer results are ignored.
        leaves, structure = jax.tree.flatten(args)
        places = [place for place, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        cotangents = [v for v in jax.tree.leaves(cotangents) if v.dtype != jax.dtypes.float0]

        def gradients(leaves, cotangents):
            def of_floats(*floats):
                everything = list(leaves)
                for place, value in zip(places, floats, strict=True):
                    everything[place] = value
                results = jax.tree.leaves(function(*structure.unflatten(everything)))
                return [x for x in results if jnp.issubdtype(x.dtype, jnp.inexact)]

            _, pull = jax.vjp(of_floats, *(leaves[place] for place in places))
            return pull(cotangents)

        floats = tuple(jax.ShapeDtypeStruct(leaves[place].shape, leaves[place].dtype) for place in places)
        found = dict(zip(places, _bind(gradients, floats, (leaves, cotangents)), strict=True))
        return structure.unflatten([found.get(place) for place in range(len(leaves))])

    call.defvjp(lambda *args: (call(*args), args), backward)
    return call


# --- the primitive: a function of flat arrays, and the shapes of its results
# --------------------------------------

_deferred = Primitive("deferred")
_deferred.multiple_results = True


def _bind(function: Callable[..., Any], shapes: Any, args: tuple[Any, ...]) -> Any:
    leaves, structure = jax.tree.flatten(args)

    def flat(*leaves):
        return jax.tree.leaves(function(*structure.unflatten(leaves)))

    returned, results = jax.tree.flatten(shapes)
    avals = tuple(ShapedArray(each.shape, each.dtype) for each in returned)
    return results.unflatten(_deferred.bind(*leaves, function=flat, avals=avals))


@_deferred.def_impl
def _evaluate(*leaves, function, avals):
    del avals
    return function(*leaves)


@_deferred.def_abstract_eval
def _shapes(*leaves, function, avals):
    del leaves, function
    return avals


def _batch(leaves, axes, *, function, avals):
    (size,) = {np.shape(leaf)[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None}
    mapped = jax.vmap(function, in_axes=tuple(axes), axis_size=size)
    avals = tuple(ShapedArray((size, *aval.shape), aval.dtype) for aval in avals)
    return _deferred.bind(*leaves, function=mapped, avals=avals), [0] * len(avals)


batching.primitive_batchers[_deferred] = _batch
mlir.register_lowering(_deferred, mlir.lower_fun(lambda *leaves, function, avals: function(*leaves)))
