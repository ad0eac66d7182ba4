"""How long the first call for a new shape takes: tracing, compiling, or reading what was compiled before.

    python benchmarks/first_call.py --what forward
    JAX_COMPILATION_CACHE_DIR=cache python benchmarks/first_call.py     # twice: the second one reads the cache
    compute-sanitizer --tool memcheck python benchmarks/first_call.py --num 20000 --tile-size 8

Draws random Gaussians under ``jax.jit``, with a buffer that holds all pairs. Under compute-sanitizer it is a frame
and its gradients that are looked at: the last line says that it came to its end.
"""

import dataclasses
import time
from typing import Literal

import jax
import tyro
from flax import nnx
from measure import describe_machine

import splax


@dataclasses.dataclass(frozen=True)
class Options:
    """Times the first call."""

    what: Literal["forward", "forward+backward"] = "forward+backward"
    """What is compiled: an image, or an image and the gradients of all Params."""
    num: int = 50_000
    """Gaussians."""
    width: int = 960
    """Pixels."""
    height: int = 540
    """Pixels."""
    tile_size: int = 16
    """Pixels per tile side."""
    implementation: Literal["xla", "xla_vjp", "triton"] | None = None
    """Of the rasterizer; by default the fastest that fits."""


def main(options: Options) -> None:
    """Prints the machine and the time."""
    gaussians = splax.Gaussians.random(options.num, extent=1.5, rngs=nnx.Rngs(0))
    camera = splax.Camera.look_at(
        (0, -4, 1), (0, 0, 0), fov_x=0.8, width=options.width, height=options.height
    )
    settings = (options.tile_size, options.implementation)
    # Kernels list a few pairs more than are counted.
    room = int(1.1 * splax.TileRasterizer(*settings).count_isects(gaussians, camera)) + 1_000
    model = splax.SplatModel(gaussians, splax.TileRasterizer(*settings, isect_capacity=room))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def total(params):
        output = nnx.merge(graphdef, params, rest)(camera)
        return (output.image**2).sum(), output.overflow

    draw = total if options.what == "forward" else jax.value_and_grad(total, has_aux=True)
    jax.block_until_ready(params)
    started = time.perf_counter()
    result = jax.block_until_ready(jax.jit(draw)(params))
    seconds = time.perf_counter() - started
    overflow = result[1] if options.what == "forward" else result[0][1]
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    print(f"{options.what}: first call {seconds:.2f} s, overflow: {bool(overflow)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
