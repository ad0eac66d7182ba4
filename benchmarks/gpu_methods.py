"""The renderers that are compared on a GPU, each as two functions of the same numpy arrays."""

import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from garden import View
from gpu_floor import Work

from splax.cameras import Camera
from splax.gaussians import Gaussians
from splax.rasterizer import TileRasterizer, round_capacity


@dataclasses.dataclass(frozen=True)
class GpuMethod:
    """A renderer, ready to be called, once or several times in a row; both functions end with the device idle.

    Attributes:
        forward: gives the images, [C, H, W, channels].
        backward: gives the images and the gradient of their product with the cotangent to all parameters.
        peak_mb: memory above the inputs that ``backward`` needs, gradients included; calls it.
        work: what there is to do in each view, from the method that counts it.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    peak_mb: Callable[[], float]
    work: tuple[Work, ...] = ()


def cotangent(view: View) -> np.ndarray:
    """What images are multiplied with, [C, H, W, channels]."""
    shape = (len(view.viewmats), view.height, view.width, view.num_channels)
    return np.random.default_rng(7).standard_normal(shape, dtype=np.float32)


def splax_method(
    view: View, tile_size: int = 16, *, deterministic: bool = False, smallest_graph: int | None = None
) -> GpuMethod:
    """Splax as a training step uses it: under jit, with a buffer of fixed size.

    Args:
        view: what to draw.
        tile_size: edge of a tile in pixels.
        deterministic: sum in a fixed order.
        smallest_graph: kernels in a row that XLA launches as one CUDA graph, at least; None for XLA's own, 5.
    """
    params, v_images = jax.device_put((_splax_params(view), cotangent(view)))
    # In training too it is an array that exists.
    alive = jnp.ones(len(view.means), bool)
    cameras = [
        Camera(viewmat=jnp.asarray(viewmat), K=jnp.asarray(K), width=view.width, height=view.height)
        for viewmat, K in zip(view.viewmats, view.Ks, strict=True)
    ]
    gaussians, _ = _gaussians_of(params, alive)
    work = tuple(_count_work(view, gaussians, camera, tile_size) for camera in cameras)
    capacity = round_capacity(max(counted.pairs for counted in work))
    rasterizer = TileRasterizer(
        tile_size, isect_capacity=capacity, render_depth=False, deterministic=deterministic
    )
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cameras)

    def render(params: Any, alive: jax.Array) -> jax.Array:
        gaussians, colors = _gaussians_of(params, alive)
        if len(cameras) == 1:
            return rasterizer(gaussians, cameras[0], colors=colors).image[None]
        return jax.vmap(lambda camera: rasterizer(gaussians, camera, colors=colors).image)(batch)

    def objective(params: Any, alive: jax.Array, v_images: jax.Array) -> tuple[jax.Array, jax.Array]:
        images = render(params, alive)
        return (images * v_images).sum(), images

    options = {} if smallest_graph is None else {"xla_gpu_graph_min_graph_size": smallest_graph}
    forward = jax.jit(render, compiler_options=options).lower(params, alive).compile()
    differentiate = jax.jit(jax.value_and_grad(objective, has_aux=True), compiler_options=options)
    backward = differentiate.lower(params, alive, v_images).compile()
    analysis: Any = backward.memory_analysis()
    return GpuMethod(
        forward=lambda times=1: jax.block_until_ready(_in_a_row(times, lambda: forward(params, alive))),
        backward=lambda times=1: jax.block_until_ready(
            _in_a_row(times, lambda: backward(params, alive, v_images))
        ),
        peak_mb=lambda: (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / 2**20,
        work=work,
    )


def _splax_params(view: View) -> dict[str, np.ndarray]:
    """What is differentiated: Gaussians as they are stored, with colours in the place of harmonics if given."""
    opacities = view.opacities.astype(np.float64)
    params = {
        "means": view.means,
        "quats": view.quats,
        "log_scales": np.log(view.scales),
        "logit_opacities": np.log(opacities / (1 - opacities)).astype(np.float32),
    }
    if view.colors is not None:
        return params | {"colors": view.colors}
    return params | {"sh0": view.sh[:, :1], "shN": view.sh[:, 1:]}


def _gaussians_of(params: dict[str, Any], alive: jax.Array) -> tuple[Gaussians, jax.Array | None]:
    """The Gaussians, and the colours to draw them in; None for their own."""
    if "colors" not in params:
        return Gaussians(**params, alive=alive), None
    rest = {name: value for name, value in params.items() if name != "colors"}
    num = len(rest["means"])
    sh = {"sh0": jnp.zeros((num, 1, 3)), "shN": jnp.zeros((num, 0, 3))}
    return Gaussians(**rest, **sh, alive=alive), params["colors"]


def _count_work(view: View, gaussians: Gaussians, camera: Camera, tile_size: int) -> Work:
    rasterizer = TileRasterizer(tile_size)
    visible = (rasterizer.project(gaussians, camera).radii > 0).all(axis=1)
    return Work(
        gaussians=gaussians.capacity,
        visible=int(visible.sum()),
        pairs=int(rasterizer.count_isects(gaussians, camera)),
        width=view.width,
        height=view.height,
        channels=view.num_channels,
        color_floats=view.num_channels if view.colors is not None else view.sh[0].size,
        tile_size=tile_size,
    )


def gsplat_method(view: View, tile_size: int = 16) -> GpuMethod:
    """Gsplat's CUDA kernels.

    Raises:
        ImportError: if torch or gsplat is not installed.
    """
    import gsplat  # pyright: ignore[reportMissingImports]: a peer, not a dependency
    import torch  # pyright: ignore[reportMissingImports]

    names = ("means", "quats", "scales", "opacities", "sh" if view.colors is None else "colors")
    sh_degree = 3 if view.colors is None else None
    params = [torch.from_numpy(getattr(view, name)).cuda().requires_grad_(True) for name in names]
    viewmats, Ks = torch.from_numpy(view.viewmats).cuda(), torch.from_numpy(view.Ks).cuda()
    v_images = torch.from_numpy(cotangent(view)).cuda()

    def render() -> Any:
        size = {"width": view.width, "height": view.height, "tile_size": tile_size}
        return gsplat.rasterization(*params, viewmats, Ks, **size, sh_degree=sh_degree, packed=False)[0]

    def render_and_differentiate() -> Any:
        for param in params:
            param.grad = None
        images = render()
        (images * v_images).sum().backward()
        return images

    def forward(times: int = 1) -> Any:
        with torch.no_grad():
            images = _in_a_row(times, render)
        torch.cuda.synchronize()
        return images

    def backward(times: int = 1) -> Any:
        images = _in_a_row(times, render_and_differentiate)
        torch.cuda.synchronize()
        return images

    def peak_mb() -> float:
        for param in params:
            param.grad = None
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        backward()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    return GpuMethod(forward=forward, backward=backward, peak_mb=peak_mb)


def _in_a_row(times: int, call: Callable[[], Any]) -> Any:
    """What the last of some calls gives; nothing waits for the device in between."""
    for _ in range(times - 1):
        call()
    return call()


METHODS: dict[str, Callable[[View], GpuMethod]] = {"splax": splax_method, "gsplat": gsplat_method}
