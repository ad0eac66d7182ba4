"""The methods that are compared, each as two compiled functions of the same arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from dense_topk import DenseOutput, Thresholds, render_dense
from jaxtyping import Array
from workloads import Params, Workload

from splax.cameras import Camera
from splax.gaussians import Gaussians
from splax.rasterizer import TileRasterizer, round_capacity


class SkippedError(Exception):
    """A method that is not run, and why."""


class Method(NamedTuple):
    """A renderer, ready to be called.

    Attributes:
        forward: gives the image, [H, W, 3].
        backward: of ``v_image``, [H, W, 3]; gives the image's product with it and the gradient of every Param.
        memory_bytes: scratch memory of ``backward``; 0 where unknown.
    """

    forward: Callable[[], Any]
    backward: Callable[..., Any]
    memory_bytes: int = 0


def splax_method(workload: Workload, implementation: str, tile_size: int, memory_bytes: float) -> Method:
    """The XLA path as a training step uses it: under jit, with a buffer of fixed size."""
    camera = workload.camera
    gaussians = Gaussians(**_on_device(workload.params))
    needed = int(TileRasterizer(tile_size).count_isects(gaussians, camera))
    rasterizer = TileRasterizer(tile_size, implementation, isect_capacity=round_capacity(needed))

    def render(params: Params, camera: Camera, background: Array) -> Array:
        return rasterizer(Gaussians(**params), camera, background=background).image

    return _compile(render, workload, memory_bytes)


def dense_method(workload: Workload, memory_bytes: float) -> Method:
    """The seed's method, with splax's projection and colours."""

    def render(params: Params, camera: Camera, background: Array) -> Array:
        return _render_dense(params, camera, background, Thresholds()).image

    return _compile(render, workload, memory_bytes)


def dense_output(workload: Workload, thresholds: Thresholds) -> DenseOutput:
    """Image and list lengths of the dense method, with other thresholds."""
    return _render_dense_jit(
        _on_device(workload.params), workload.camera, jnp.asarray(workload.background), thresholds
    )


def _render_dense(params: Params, camera: Camera, background: Array, thresholds: Thresholds) -> DenseOutput:
    gaussians = Gaussians(**params).renderable_only()
    return render_dense(
        TileRasterizer().project(gaussians, camera),
        gaussians.colors(camera),
        gaussians.opacities,
        background,
        thresholds,
        width=camera.width,
        height=camera.height,
    )


_render_dense_jit = jax.jit(_render_dense)


def _compile(render: Callable[..., Array], workload: Workload, memory_bytes: float) -> Method:
    """Compiles both passes.

    Raises:
        SkippedError: if one of them would need more than ``memory_bytes`` of scratch memory.
    """
    params, v_image = _on_device(workload.params), jnp.asarray(workload.v_image)
    inputs = (params, workload.camera, jnp.asarray(workload.background))

    def objective(params: Params, camera: Camera, background: Array, v_image: Array) -> Array:
        return (render(params, camera, background) * v_image).sum()

    forward = jax.jit(render).lower(*inputs).compile()
    backward = jax.jit(jax.value_and_grad(objective)).lower(*inputs, v_image).compile()
    needed = max(_scratch_bytes(forward), _scratch_bytes(backward))
    if needed > memory_bytes:
        raise SkippedError(f"needs {needed / 2**30:.1f} GiB of scratch memory")
    return Method(
        forward=lambda: forward(*inputs),
        backward=lambda v_image=v_image: backward(*inputs, v_image),
        memory_bytes=needed,
    )


def _scratch_bytes(compiled: Any) -> int:
    analysis = compiled.memory_analysis()
    return 0 if analysis is None else int(analysis.temp_size_in_bytes)


def _on_device(params: Params) -> Params:
    return {name: jnp.asarray(value) for name, value in params.items()}
