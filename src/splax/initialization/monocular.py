"""Depth from a network that sees one photo at a time, brought to scale by what is known of the scene."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, UInt8

from splax.initialization.depth_source import DepthError
from splax.initialization.plane_sweep import PlaneSweep
from splax.initialization.scale_shift import fit_scale_shift
from splax.scene import Scene, View

DEFAULT_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"
# Models of transformers that say depth, not inverse depth.
_METRIC_MODELS = frozenset({"depth_pro", "glpn", "zoedepth"})
# Depth beyond this many times the farthest known one is a guess.
_MAX_BEYOND = 3.0


# Anything that tells near from far in a photo: relative inverse depth, larger is nearer, of any size.
DepthPredictor: TypeAlias = Callable[[UInt8[np.ndarray, "h w 3"]], Float32[np.ndarray, "height width"]]


@dataclasses.dataclass(frozen=True)
class MonocularDepth:
    """Depth from a network, as a source of depth for ``Gaussians.from_depth``.

    What the network says of each photo is fitted, by a scale and a shift of inverse depth, to the scene's points
    or, where it has none, to what a plane sweep finds. Photos for which that fails are left out.

    Attributes:
        model: an id on the Hugging Face hub or a local folder, of any depth model of transformers; its weights
            must be in safetensors. Or a predictor of your own.
    """

    model: str | Path | DepthPredictor = DEFAULT_MODEL

    def __call__(self, scene: Scene) -> Iterator[Float32[np.ndarray, "h w"] | None]:
        """Depth maps of the training views, one by one.

        Raises:
            ImportError: if transformers is not installed.
            ValueError: if the model cannot be loaded.
            DepthError: if nothing is known to bring depth to scale.
        """
        known = _known_depth(scene)  # first, as it may fail
        predict = load_predictor(self.model) if isinstance(self.model, str | Path) else self.model
        return (
            _to_world_units(predict(view.image), pixels, depths)
            for view, (pixels, depths) in zip(scene.train, known, strict=True)
        )

    def __str__(self) -> str:
        return f"the network {self.model}"


_Known = tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]


def _known_depth(scene: Scene) -> list[_Known]:
    """For each training view some pixels, as shares of width and height, and the depth there."""
    if scene.points is not None:
        return [_project(view, np.asarray(scene.points, np.float64)) for view in scene.train]
    try:
        return [_pixels_of(depth) for depth in PlaneSweep()(scene)]
    except DepthError as error:
        raise DepthError(f"depth of a network has no scale: the scene has no points, and {error}") from error


def _project(view: View, points: Float[np.ndarray, "n 3"]) -> _Known:
    """Points in the frame; hidden ones are among them, which the fit must bear."""
    host = view.camera.to_numpy()
    local = np.asarray(host.to_camera_space(points))
    local = local[local[:, 2] > 0]
    pixels = np.asarray(host.lens.project(local)) / (host.width, host.height)
    inside = ((pixels >= 0) & (pixels < 1)).all(axis=1)
    return pixels[inside], local[inside, 2]


def _pixels_of(depth: Float32[np.ndarray, "h w"] | None) -> _Known:
    if depth is None:
        return np.empty((0, 2)), np.empty(0)
    rows, columns = np.nonzero(depth)
    height, width = depth.shape
    pixels = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=-1)
    return pixels, depth[rows, columns].astype(np.float64)


def _to_world_units(
    inverse: Float32[np.ndarray, "h w"], pixels: Float[np.ndarray, "n 2"], depths: Float[np.ndarray, " n"]
) -> Float32[np.ndarray, "h w"] | None:
    """Relative inverse depth as depth in world units; None if it does not fit what is known."""
    height, width = inverse.shape
    columns, rows = (pixels * (width, height)).astype(np.intp).T
    fit = fit_scale_shift(inverse[rows, columns], 1 / depths)
    if fit is None:
        return None
    scaled = fit.scale * inverse.astype(np.float64) + fit.shift
    known = scaled > 1 / (_MAX_BEYOND * depths.max())
    return np.where(known, 1 / np.where(known, scaled, 1), 0).astype(np.float32)


@lru_cache(maxsize=1)
def load_predictor(model: str | Path) -> DepthPredictor:
    """A depth model of transformers.

    Args:
        model: an id on the Hugging Face hub, or a local folder as ``save_pretrained`` writes it.

    Raises:
        ImportError: if transformers or torch is not installed.
        ValueError: if there is no such model, or its weights are not in safetensors.
    """
    try:
        import torch
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError as error:
        raise ImportError(
            'depth from a network needs transformers and torch: pip install "splax[depth]", or, in a clone, '
            'pip install -e ".[depth]".'
        ) from error
    local = Path(model).expanduser().is_dir()
    where = str(Path(model).expanduser()) if local else str(model)
    try:
        processor: Any = AutoImageProcessor.from_pretrained(where, local_files_only=local)
        # Never pickle: other formats of weights can run code.
        network: Any = AutoModelForDepthEstimation.from_pretrained(
            where, local_files_only=local, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"depth model {str(model)!r} cannot be loaded; expected the id of a model on the Hugging Face hub, or "
            f"a folder with config.json, preprocessor_config.json and model.safetensors. ({error})"
        ) from error
    network.eval()
    config = network.config
    metric = config.model_type in _METRIC_MODELS or getattr(config, "depth_estimation_type", "") == "metric"

    def predict(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "height width"]:
        with torch.no_grad():
            predicted = network(**processor(images=image, return_tensors="pt")).predicted_depth
        values = predicted[0].float().numpy()
        return 1 / np.maximum(values, 1e-6) if metric else values

    return predict
