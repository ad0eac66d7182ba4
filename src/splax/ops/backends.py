"""The backends that draw, in order of preference. A new one is a folder, and a line in the table below."""

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
    """2D Gaussians to pixels; see :class:`splax.ops.backend.Backend`.

    Args:
        projected: 2D Gaussians; rows of radius 0 are left out, and must be finite all the same.
        channels: any number of them.
        probe: None, or what gets the gradients in absolute values.
        settings: the rasterizer's static settings.
        implementation: name of the backend; None: the fastest one of the platform that can.

    Raises:
        ValueError: on an unknown name, or what the named backend cannot draw.
        NotImplementedError: if the named one does not run here.
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


def count_pairs(
    projected: ProjectedGaussians, settings: RenderSettings, implementation: str | None = None
) -> Int[Array, ""]:
    """(tile, Gaussian) pairs that :func:`rasterize` needs room for; arguments and errors as there."""
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
    """Name of the backend that is to draw stored Gaussians in one go, and what keeps it from that."""
    names = [implementation] if implementation is not None else list(BACKENDS)
    reasons = {name: _obstacle_to_whole(name, params, camera, settings) for name in names}
    return next(((name, None) for name in names if reasons[name] is None), (names[0], reasons[names[0]]))


def explain(params: Parameters, camera: Any, settings: RenderSettings, implementation: str | None) -> str:
    """Which backend draws stored Gaussians, and what keeps it from a faster one, as a sentence."""
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
    """Calls a function of a backend on its platform, and the same in plain JAX on any other.

    The platform is that of the arrays, which is known when the program is compiled.

    Args:
        backend: whose platform counts.
        function: of the backend.
        elsewhere: the other function.
        shapes: what both return.
        args: of both.
    """
    if backend.platform is None:
        return function(*args)
    branches = {backend.platform: function}
    return lax.platform_dependent(*args, **branches, default=deferred(elsewhere, shapes))


def mean_ssim(
    x: Float[Array, "*batch h wc"], y: Float[Array, "*batch h wc"], channels: int, moving: tuple[int, ...]
) -> tuple[Float[Array, "*batch"], list[Float[Array, "*batch h wc"]]]:
    """Mean SSIM of two images, and its gradients; see :class:`splax.ops.backend.Backend`.

    Args:
        x: one image, width and channels as one axis.
        y: the other one.
        channels: numbers of a pixel.
        moving: which of the two are differentiated, 0 and 1.
    """
    usable = [b for b in BACKENDS.values() if b.ssim is not None and b.missing() is None]
    plain = next(b.ssim for b in usable if b.platform is None)
    best = usable[0]
    assert plain is not None and best.ssim is not None

    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, y: function(x, y, channels, moving)

    # Kernels are for gradients, in float32.
    if best.platform is None or not moving or not x.dtype == y.dtype == jnp.float32:
        return of(plain)(x, y)
    return lax.platform_dependent(x, y, **{best.platform: of(best.ssim)}, default=of(plain))


def check_deterministic(
    settings: RenderSettings, implementation: str | None, means2d: Float[Array, "n 2"]
) -> None:
    """Raises a ValueError where results could differ from run to run: plain XLA's scatters on a GPU."""
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


# A number of pairs.
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
        implementation: the name.
        function: of a backend.
        obstacle: why a backend cannot.
        shapes: what the function returns.
        args: of the function.
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
