"""The backends that draw, in order of preference. To add one, write a folder and a line in the table below."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from splax.devices import device_policy
from splax.ops.backend import Backend
from splax.ops.jax_internals.deferred_tracing import deferred
from splax.ops.projection import ProjectedGaussians
from splax.ops.settings import RenderSettings
from splax.ops.triton.backend import TRITON
from splax.ops.types import Parameters
from splax.ops.xla.backend import XLA, XLA_VJP

BACKENDS: dict[str, Backend] = {"triton": TRITON, "xla_vjp": XLA_VJP, "xla": XLA}


def check_implementation(implementation: str | None) -> None:
    """Raises a ValueError if there is no backend of that name."""
    if implementation is not None and implementation not in BACKENDS:
        names = ", ".join(repr(name) for name in BACKENDS)
        raise ValueError(f"implementation must be one of {names} or None, got {implementation!r}.")


def rasterize(
    projected: ProjectedGaussians,
    channels: Float[Array, "n c"],
    probe: Float[Array, "n 2"] | None,
    settings: RenderSettings,
    implementation: str | None = None,
) -> tuple[Float[Array, "h w c"], Float[Array, "h w"], Int[Array, ""]]:
    """Draws projected Gaussians; see :class:`splax.ops.backend.Backend`.

    Args:
        projected: the projected Gaussians, N rows; rows of radius 0 are left out, but must be finite.
        channels: channels of each Gaussian, [N, C].
        probe: array whose gradient is that of the centres in absolute values, [N, 2]; None if it is not needed.
        settings: the rasterizer's static settings.
        implementation: name of the backend; None takes the fastest one that can draw on this platform.

    Raises:
        ValueError: if there is no backend of that name, or if it cannot draw these Gaussians.
        NotImplementedError: if the named backend does not run on this machine.
    """
    height, width = settings.tile_grid.height, settings.tile_grid.width
    dtype = jnp.result_type(projected.means2d, channels, projected.opacities)
    shapes = (
        jax.ShapeDtypeStruct((height, width, channels.shape[1]), dtype),
        jax.ShapeDtypeStruct((height, width), dtype),
        _COUNT,
    )
    arrays = _arrays_of(projected, channels, probe)
    return _call(
        implementation,
        lambda backend: functools.partial(backend.rasterize, settings),
        lambda backend: backend.obstacle(settings, arrays),
        shapes,
        (projected, channels, probe),
    )


def count_isects(
    projected: ProjectedGaussians, settings: RenderSettings, implementation: str | None = None
) -> Int[Array, ""]:
    """Counts the pairs that :func:`rasterize` needs room for; its arguments and errors are the same."""
    arrays = _arrays_of(projected)
    return _call(
        implementation,
        lambda backend: functools.partial(backend.count, settings),
        lambda backend: backend.obstacle(settings, arrays),
        _COUNT,
        (projected,),
    )


def obstacle_to_whole(
    params: Parameters, camera: Any, settings: RenderSettings, implementation: str | None
) -> tuple[str, str | None]:
    """Returns the backend that draws stored Gaussians in one go, and why it cannot or None."""
    names = [implementation] if implementation is not None else list(BACKENDS)
    reasons = {name: _obstacle_to_whole(name, params, camera, settings) for name in names}
    return next(((name, None) for name in names if reasons[name] is None), (names[0], reasons[names[0]]))


def explain(params: Parameters, camera: Any, settings: RenderSettings, implementation: str | None) -> str:
    """Returns a sentence that says which backend draws stored Gaussians, and why a faster one does not."""
    whole, reason = obstacle_to_whole(params, camera, settings, implementation)
    if reason is None:
        return f"{whole}, from parameters to pixels."
    arrays = (params.means, params.logit_opacities)
    reasons = {name: b.missing() or b.obstacle(settings, arrays) for name, b in BACKENDS.items()}
    if implementation is not None:
        name, why_not = implementation, reasons[implementation]
        if why_not is not None:
            return f"{name} cannot: it {why_not}."
    else:
        name = next(name for name in BACKENDS if reasons[name] is None)
    if BACKENDS[name].render is not None:
        return f"{name}, after projection and colours in plain JAX: from parameters to pixels it {reason}."
    if implementation is not None:
        return f"{name}, in separate steps: {name} was asked for."
    faster = next(
        (f"{other} {reasons[other]}" for other in BACKENDS if reasons[other] is not None), "it is the fastest"
    )
    return f"{name}, in separate steps: {faster}."


def by_platform(
    backend: Backend,
    function: Callable[..., Any],
    elsewhere: Callable[..., Any],
    shapes: Any,
    args: tuple[Any, ...],
) -> Any:
    """Calls a function of a backend on the backend's platform, and a function in plain JAX on any other platform.

    The platform is that of the arrays, which is known when the program is compiled.

    Args:
        backend: the backend.
        function: function of the backend.
        elsewhere: function in plain JAX that computes the same.
        shapes: shapes and types of what both functions return, a tree of ``jax.ShapeDtypeStruct``.
        args: arguments of both functions.
    """
    if backend.platform is None:
        return function(*args)
    branches = {backend.platform: function}
    return lax.platform_dependent(*args, **branches, default=deferred(elsewhere, shapes))


def mean_ssim(
    x: Float[Array, "*batch h wc"],
    y: Float[Array, "*batch h wc"],
    channels: int,
    differentiated: tuple[int, ...],
) -> tuple[Float[Array, "*batch"], list[Float[Array, "*batch h wc"]]]:
    """Returns the mean SSIM of two images, and its gradients; see :class:`splax.ops.backend.Backend`.

    Args:
        x: first image, [..., H, W * C].
        y: second image, [..., H, W * C].
        channels: number of channels, C.
        differentiated: indices, 0 or 1, of the images whose gradients are returned.
    """
    usable = [b for b in BACKENDS.values() if b.ssim is not None and b.missing() is None]
    plain = next(b.ssim for b in usable if b.platform is None)
    best = usable[0]
    assert plain is not None and best.ssim is not None

    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, y: function(x, y, channels, differentiated)

    # The kernels are worth their launch for gradients only, and compute in float32.
    if best.platform is None or not differentiated or not x.dtype == y.dtype == jnp.float32:
        return of(plain)(x, y)
    return lax.platform_dependent(x, y, **{best.platform: of(best.ssim)}, default=of(plain))


def check_deterministic(
    settings: RenderSettings, implementation: str | None, means2d: Float[Array, "n 2"]
) -> None:
    """Checks that results are the same in every run: XLA's scatters on a GPU are not.

    Args:
        settings: the rasterizer's static settings.
        implementation: name of the backend; None for any.
        means2d: projected centres in pixels, [N, 2].

    Raises:
        ValueError: if results could differ from run to run.
    """
    if not device_policy().sums_in_any_order:
        return
    keeping = [name for name, backend in BACKENDS.items() if backend.keeps_order]
    named = keeping if implementation is None else [name for name in keeping if name == implementation]
    runs = [name for name in named if BACKENDS[name].missing() is None]
    if not runs:
        obstacle = f"is for the kernels of NVIDIA GPUs, not for implementation={implementation!r} here"
    elif any(BACKENDS[name].obstacle(settings, (means2d,)) is None for name in runs):
        return
    else:
        obstacle = BACKENDS[runs[0]].obstacle(settings, (means2d,))
    raise ValueError(f"deterministic=True {obstacle}; or set it to False.")


# Shape and type of a number of pairs.
_COUNT = jax.ShapeDtypeStruct((), jnp.int32)


def _arrays_of(projected: ProjectedGaussians, *others: Array | None) -> Sequence[Array]:
    return [projected.means2d, projected.opacities, *(x for x in others if x is not None)]


def _obstacle_to_whole(name: str, params: Parameters, camera: Any, settings: RenderSettings) -> str | None:
    backend = BACKENDS[name]
    if (missing := backend.missing()) is not None:
        return missing
    if backend.render is None:
        return "draws in separate steps: projection, colours, lists, compositing"
    return backend.obstacle(settings, params[:6], camera)


def _call(
    implementation: str | None,
    function: Callable[[Backend], Callable[..., Any]],
    obstacle: Callable[[Backend], str | None],
    shapes: Any,
    args: tuple[Any, ...],
) -> Any:
    """Calls a function of the named backend, or of the first one in the table that can, on its platform.

    Args:
        implementation: name of the backend, or None.
        function: function that takes a backend and returns the function to call.
        obstacle: function that says why a backend cannot draw.
        shapes: shapes and types of what the called function returns.
        args: arguments of the called function.
    """
    check_implementation(implementation)
    if implementation is not None:
        return function(_named(implementation, obstacle))(*args)
    usable = [b for b in BACKENDS.values() if b.missing() is None and obstacle(b) is None]
    plain = next(b for b in usable if b.platform is None)
    return by_platform(usable[0], function(usable[0]), function(plain), shapes, args)


def _named(name: str, obstacle: Callable[[Backend], str | None]) -> Backend:
    backend = BACKENDS[name]
    if (reason := obstacle(backend)) is not None:
        raise ValueError(f"implementation={name!r} {reason}; or use implementation=None.")
    if (missing := backend.missing()) is not None:
        raise NotImplementedError(
            f"implementation={name!r} {missing}; use implementation=None, which fits the platform."
        )
    return backend
