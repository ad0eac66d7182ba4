"""The torch oracle of ``tests/oracle`` as a method: every pixel against every Gaussian, in float32."""

import importlib.util
import pathlib
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Bool
from methods import Method, SkippedError
from workloads import Params, Workload

from splax.cameras import Camera

PATH = pathlib.Path(__file__).resolve().parents[1] / "tests" / "oracle" / "render.py"
# A picture so small that it has this many pairs of pixel and Gaussian tells how long the whole one would take.
PROBE_PAIRS = 2e7
_MODULE = "splax_oracle"


def oracle_method(workload: Workload, budget_s: float) -> Method:
    """The oracle.

    Raises:
        SkippedError: without torch or gsplat, or if one call would take longer than ``budget_s``.
    """
    oracle = _import_oracle()
    method = _make_method(oracle, workload.params, workload.camera, workload)
    camera = workload.camera
    pairs = camera.width * camera.height * len(workload.params["means"])
    scale = min(1.0, (PROBE_PAIRS / pairs) ** 0.5)
    small = camera.resize(max(1, int(camera.width * scale)), max(1, int(camera.height * scale)))
    probe = _make_method(oracle, workload.params, small, workload)
    seconds = _seconds(probe.backward) * camera.width * camera.height / (small.width * small.height)
    if seconds > budget_s:
        raise SkippedError(
            f"forward+backward would take about {seconds:.0f} s, the budget is {budget_s:.0f} s"
        )
    return method


def oracle_band(workload: Workload) -> Bool[np.ndarray, "h w"]:
    """Pixels where a threshold is too close to compare float32 renderers, [H, W] bool."""
    oracle = _import_oracle()
    camera = workload.camera
    inputs = oracle.to_tensors(_arrays(workload.params, camera, workload.background), oracle.torch.float32)
    with oracle.torch.no_grad():
        return oracle.render(inputs, 0, camera.width, camera.height).band.numpy()


def _import_oracle() -> ModuleType:
    missing = [name for name in ("torch", "gsplat") if importlib.util.find_spec(name) is None]
    if missing:
        raise SkippedError(f"not importable here: {', '.join(missing)} (the `oracle` extra)")
    if _MODULE not in sys.modules:
        spec = importlib.util.spec_from_file_location(_MODULE, PATH)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[_MODULE] = module  # before it runs: its dataclasses look themselves up there
        spec.loader.exec_module(module)
    return sys.modules[_MODULE]


def _make_method(oracle: Any, params: Params, camera: Camera, workload: Workload) -> Method:
    torch, width, height = oracle.torch, camera.width, camera.height
    inputs = oracle.to_tensors(_arrays(params, camera, workload.background), torch.float32)
    nothing = torch.zeros(height, width)

    def forward() -> np.ndarray:
        with torch.no_grad():
            return oracle.render(inputs, 0, width, height).image.numpy()

    def backward(v_image: np.ndarray = workload.v_image[:height, :width]) -> dict[str, np.ndarray]:
        for value in inputs.values():
            value.grad = None
        cotangents = {"v_image": torch.tensor(v_image), "v_alpha": nothing, "v_depth": nothing}
        oracle.add_gradients(inputs, 0, width, height, cotangents)
        return {name: inputs[name].grad.numpy() for name in params}

    return Method(forward, backward)


def _arrays(params: Params, camera: Camera, background: np.ndarray) -> dict[str, np.ndarray]:
    view = {"viewmats": np.asarray(camera.viewmat)[None], "Ks": np.asarray(camera.K)[None]}
    return {**params, **view, "background": background}


def _seconds(call: Callable[..., Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
