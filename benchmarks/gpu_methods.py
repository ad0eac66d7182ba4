"""The renderers that are compared on a GPU, each as two functions of the same numpy arrays."""

import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from garden import View

from splax.cameras import Camera
from splax.gaussians import Gaussians
from splax.rasterizer import TileRasterizer, round_capacity


@dataclasses.dataclass(frozen=True)
class GpuMethod:
    """A renderer, ready to be called; both functions end with the device idle.

    Attributes:
        forward: gives the images, [C, H, W, 3].
        backward: gives the images and the gradient of their product with the cotangent to all parameters.
        peak_mb: memory above the inputs that ``backward`` needs, gradients included; calls it.
    """

    forward: Callable[[], Any]
    backward: Callable[[], Any]
    peak_mb: Callable[[], float]


def cotangent(view: View) -> np.ndarray:
    """What images are multiplied with, [C, H, W, 3]."""
    shape = (len(view.viewmats), view.height, view.width, 3)
    return np.random.default_rng(7).standard_normal(shape, dtype=np.float32)


def splax_method(view: View, tile_size: int = 16) -> GpuMethod:
    """Splax as a training step uses it: under jit, with a buffer of fixed size."""
    logits = np.log(view.opacities.astype(np.float64) / (1 - view.opacities.astype(np.float64)))
    params = {
        "means": view.means,
        "quats": view.quats,
        "log_scales": np.log(view.scales),
        "logit_opacities": logits.astype(np.float32),
        "sh0": view.sh[:, :1],
        "shN": view.sh[:, 1:],
    }
    params, v_images = jax.device_put((params, cotangent(view)))
    cameras = [
        Camera(viewmat=jnp.asarray(viewmat), K=jnp.asarray(K), width=view.width, height=view.height)
        for viewmat, K in zip(view.viewmats, view.Ks, strict=True)
    ]
    gaussians = Gaussians(**params)
    needed = max(int(TileRasterizer(tile_size).count_isects(gaussians, camera)) for camera in cameras)
    rasterizer = TileRasterizer(tile_size, isect_capacity=round_capacity(needed), render_depth=False)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cameras)

    def render(params: Any) -> jax.Array:
        gaussians = Gaussians(**params)
        if len(cameras) == 1:
            return rasterizer(gaussians, cameras[0]).image[None]
        return jax.vmap(lambda camera: rasterizer(gaussians, camera).image)(batch)

    def objective(params: Any, v_images: jax.Array) -> tuple[jax.Array, jax.Array]:
        images = render(params)
        return (images * v_images).sum(), images

    forward = jax.jit(render).lower(params).compile()
    backward = jax.jit(jax.value_and_grad(objective, has_aux=True)).lower(params, v_images).compile()
    analysis: Any = backward.memory_analysis()
    return GpuMethod(
        forward=lambda: jax.block_until_ready(forward(params)),
        backward=lambda: jax.block_until_ready(backward(params, v_images)),
        peak_mb=lambda: (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / 2**20,
    )


def gsplat_method(view: View, tile_size: int = 16) -> GpuMethod:
    """Gsplat's CUDA kernels.

    Raises:
        ImportError: if torch or gsplat is not installed.
    """
    import gsplat  # pyright: ignore[reportMissingImports]: a peer, not a dependency
    import torch  # pyright: ignore[reportMissingImports]

    names = ("means", "quats", "scales", "opacities", "sh")
    params = [torch.from_numpy(getattr(view, name)).cuda().requires_grad_(True) for name in names]
    viewmats, Ks = torch.from_numpy(view.viewmats).cuda(), torch.from_numpy(view.Ks).cuda()
    v_images = torch.from_numpy(cotangent(view)).cuda()

    def render() -> Any:
        size = {"width": view.width, "height": view.height, "tile_size": tile_size}
        return gsplat.rasterization(*params, viewmats, Ks, **size, sh_degree=3, packed=False)[0]

    def forward() -> Any:
        with torch.no_grad():
            images = render()
        torch.cuda.synchronize()
        return images

    def backward() -> Any:
        for param in params:
            param.grad = None
        images = render()
        (images * v_images).sum().backward()
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
