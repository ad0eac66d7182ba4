"""Depth from a network that sees one photo at a time, put into world units by what is known of the scene."""

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
# Models of transformers that predict depth, not inverse depth.
_METRIC_MODELS = frozenset({"depth_pro", "glpn", "zoedepth"})
# Depth beyond this many times the farthest known depth is a guess, and counts as unknown.
_MAX_BEYOND = 3.0


# A function from a photo to its relative inverse depth: larger is nearer, of any image size.
DepthPredictor: TypeAlias = Callable[[UInt8[np.ndarray, "h w 3"]], Float32[np.ndarray, "height width"]]


@dataclasses.dataclass(frozen=True)
class MonocularDepth:
    """Depth from a network, as a source of depth for ``Gaussians.from_depth``.

    The network predicts relative inverse depth for each photo. A scale and a shift fit it to the scene's points,
    or, if the scene has none, to the depth that a plane sweep finds. Photos for which the fit fails get no depth.

    Attributes:
        model: id on the Hugging Face hub, or local folder, of any depth model of transformers whose weights are in
            safetensors; or a function of your own, from an image, uint8 [H, W, 3], to relative inverse depth,
            float32 of any size, larger is nearer.

    Example:
        A function of your own needs no network. This one takes the lower rows of a photo for the nearer ones.

        >>> import numpy as np
        >>> import splax
        >>> scene = splax.make_demo_scene(num_train=3, num_test=0, width=32, height=24)
        >>> x, y = np.meshgrid(np.linspace(-1, 1, 6), np.linspace(-1, 1, 6))
        >>> points = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)
        >>> scene = splax.Scene(train=scene.train, test=[], points=points)
        >>> def rows(image):
        ...     return np.repeat(np.arange(24, dtype=np.float32)[:, None], 32, axis=1)
        >>> depths = list(splax.MonocularDepth(rows)(scene))
        >>> len(depths), depths[0].shape, bool(depths[0][20, 16] < depths[0][4, 16])
        (3, (24, 32), True)
    """

    model: str | Path | DepthPredictor = DEFAULT_MODEL

    def __call__(self, scene: Scene) -> Iterator[Float32[np.ndarray, "h w"] | None]:
        """Returns the depth maps of the training views, one by one.

        Raises:
            ImportError: if transformers is not installed.
            ValueError: if the model cannot be loaded.
            DepthError: if no depth is known that could put the network's depth into world units.
        """
        known = _known_depth(scene)  # before the model is loaded, as it may fail
        predict = load_predictor(self.model) if isinstance(self.model, str | Path) else self.model
        return (
            _to_world_units(predict(view.image), pixels, depths)
            for view, (pixels, depths) in zip(scene.train, known, strict=True)
        )

    def __str__(self) -> str:
        return f"the network {self.model}"


_Known = tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]


def _known_depth(scene: Scene) -> list[_Known]:
    """Pixels of known depth of each training view, in shares of width and height, [n, 2], and the depths, [n]."""
    if scene.points is not None:
        return [_project(view, np.asarray(scene.points, np.float64)) for view in scene.train]
    try:
        return [_pixels_of(depth) for depth in PlaneSweep()(scene)]
    except DepthError as error:
        raise DepthError(f"depth of a network has no scale: the scene has no points, and {error}") from error


def _project(view: View, points: Float[np.ndarray, "n 3"]) -> _Known:
    """The points that lie in the image, hidden ones too: their pixels in shares of the size, and their depths."""
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
    """Puts relative inverse depth into world units.

    Args:
        inverse: relative inverse depth of a photo, [H, W].
        pixels: pixels of known depth, in shares of width and height, [n, 2].
        depths: depths of these pixels in world units, [n].

    Returns:
        The depth map, [H, W], 0 where unknown; None if no scale and shift fit the known depths.
    """
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
    """Loads a depth model of transformers.

    Args:
        model: id on the Hugging Face hub, or local folder as ``save_pretrained`` writes it.

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
        # Only safetensors: weights in other formats are pickled, and can run code.
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
