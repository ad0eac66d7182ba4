"""Runs inside the process of the rival: imports its package ``splax``, nothing of this project.

    python -P rival_child.py FOLDER SCRATCH REPEATS [MODULE]

Reads SCRATCH/view.npz, writes SCRATCH/times.json. FOLDER, first on PYTHONPATH, holds the package; MODULE is
imported before it.
"""

import importlib
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

_WARM_UPS = 3


def main(folder: str, scratch: str, repeats: str, import_first: str = "") -> None:
    if import_first:
        importlib.import_module(import_first)
    rival = importlib.import_module("splax")  # before jax: it may want to set things up
    found = pathlib.Path(str(rival.__file__)).resolve()
    if not found.is_relative_to(pathlib.Path(folder).resolve()):
        sys.exit(f"splax was imported from {found}, not from {folder}")
    with np.load(pathlib.Path(scratch) / "view.npz") as data:
        calls = make_calls(rival, dict(data))
    times = {name: median_ms(call, int(repeats)) for name, call in calls.items()}
    result = pathlib.Path(scratch) / "times.json"
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps({"version": getattr(rival, "__version__", "?"), **times}))
    os.replace(partial, result)
    sys.stdout.flush()
    # What a library does when its process ends is not measured, and Warp's shutdown can crash.
    os._exit(0)


def make_calls(rival: Any, view: dict[str, np.ndarray]) -> dict[str, Callable[[], Any]]:
    """Forward, and forward with gradients of all parameters, each under jit."""
    import jax
    import jax.numpy as jnp

    K, num_cameras = view["Ks"][0], len(view["viewmats"])
    if (view["Ks"] != K).any():
        sys.exit("its focal lengths are static: all cameras of a batch must have the same K")
    names = ("means", "log_scales", "quats", "sh", "logit_opacities")
    params = tuple(jax.device_put(view[name]) for name in names)
    viewmats, v_images = jax.device_put(view["viewmats"]), jax.device_put(view["cotangent"])
    settings = {
        "background": jnp.zeros(3),
        "img_shape": tuple(view["cotangent"].shape[1:3]),
        "f": (float(K[0, 0]), float(K[1, 1])),
        "c": (float(K[0, 2]), float(K[1, 2])),
        "clip_thresh": float(view["near_plane"]),
    }

    def draw(params: Any, viewmat: Any) -> Any:
        return rival.render(*params, viewmat=viewmat, **settings)[0]

    def render(params: Any, viewmats: Any) -> Any:
        if num_cameras == 1:
            return draw(params, viewmats[0])[None]
        return jax.vmap(lambda viewmat: draw(params, viewmat))(viewmats)

    def objective(params: Any, viewmats: Any, v_images: Any) -> Any:
        images = render(params, viewmats)
        return (images * v_images).sum(), images

    forward = jax.jit(render)
    backward = jax.jit(jax.value_and_grad(objective, has_aux=True))
    return {
        "forward": lambda: _finish(forward(params, viewmats)),
        "backward": lambda: _finish(backward(params, viewmats, v_images)),
    }


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    """Median in milliseconds, after a warm-up."""
    for _ in range(_WARM_UPS):
        call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def _finish(results: Any) -> Any:
    """Waits for the device, and for Warp's streams where it has any of its own."""
    import jax

    jax.block_until_ready(results)
    if "warp" in sys.modules:
        sys.modules["warp"].synchronize()
    return results


if __name__ == "__main__":
    main(*sys.argv[1:])
