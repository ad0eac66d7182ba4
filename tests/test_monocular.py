"""Depth from a network: putting it to scale, and loading models of transformers."""

import dataclasses
import importlib.util
import sys

import numpy as np
import pytest
from helpers import make_camera
from test_plane_sweep import photograph, true_depth

import splax
from splax.data.synthetic import demo_camera
from splax.initialization.depth_source import DepthError
from splax.initialization.monocular import MonocularDepth, load_predictor
from splax.initialization.scale_shift import fit_scale_shift
from splax.scene import Scene, View

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None or importlib.util.find_spec("torch") is None,
    reason="needs transformers and torch (the `depth` extra)",
)


def relative(image: np.ndarray) -> np.ndarray:
    """A network for :func:`ramp`: knows its inverse depth up to a scale and a shift."""
    height, width = image.shape[:2]
    return (3 * np.linspace(0.2, 0.5, width, dtype=np.float32) - 0.4) * np.ones((height, 1), np.float32)


@pytest.fixture
def ramp() -> Scene:
    """A view of a surface whose inverse depth rises from 0.2 to 0.5 across it; 60 of its 200 points are wrong."""
    camera = make_camera(40, 32)
    rng = np.random.default_rng(0)
    pixels = rng.uniform((0, 0), (40, 32), (200, 2))
    depth = 1 / np.interp(pixels[:, 0], np.arange(40) + 0.5, np.linspace(0.2, 0.5, 40))
    depth[:60] = rng.uniform(0.5, 20, 60)
    local = (
        np.concatenate([pixels, np.ones((200, 1))], 1)
        @ np.linalg.inv(np.asarray(camera.K)).T
        * depth[:, None]
    )
    pose = np.asarray(camera.camera_to_world, np.float64)
    points = (local @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32)
    view = View(np.zeros((32, 40, 3), np.uint8), camera, "view")
    return Scene([view], [], points=points)


@pytest.mark.parametrize("wrong", [0, 0.2, 0.4])
def test_the_fit_bears_what_is_wrong(wrong):
    rng = np.random.default_rng(0)
    values = rng.uniform(-2, 7, 1000)
    inverse_depths = 0.03 * values + 0.4 + rng.normal(scale=1e-4, size=1000)
    bad = rng.random(1000) < wrong
    inverse_depths[bad] = rng.uniform(0.01, 3, bad.sum())
    fit = fit_scale_shift(values, inverse_depths)
    assert fit is not None
    assert fit.scale == pytest.approx(0.03, rel=1e-2) and fit.shift == pytest.approx(0.4, rel=1e-2)


def test_without_errors_the_fit_is_exact():
    values = np.linspace(0, 1, 30)
    fit = fit_scale_shift(values, 2 * values + 1)
    assert fit == pytest.approx((2, 1), abs=1e-12)


def test_what_cannot_be_fitted():
    values = np.linspace(0, 1, 100)
    assert fit_scale_shift(values[:10], values[:10]) is None  # too few
    assert fit_scale_shift(np.ones(100), values) is None  # flat
    assert fit_scale_shift(values, 1 - values) is None  # the wrong way round
    assert fit_scale_shift(np.full(100, np.nan), values) is None


def test_a_network_is_put_to_scale_by_points(ramp):
    (depth,) = MonocularDepth(relative)(ramp)
    assert depth is not None and depth.shape == (32, 40) and depth.dtype == np.float32
    np.testing.assert_allclose(depth, np.broadcast_to(1 / np.linspace(0.2, 0.5, 40), (32, 40)), rtol=0.02)
    gaussians = splax.Gaussians.from_depth(ramp, MonocularDepth(relative), 500)
    assert 300 < gaussians.capacity <= 500


def test_without_points_a_plane_sweep_gives_the_scale():
    views = photograph([demo_camera(turn, 0.5, 96, 72) for turn in np.linspace(0, 0.1, 6)])
    truth = {view.image.tobytes(): true_depth(view.camera) for view in views}

    def network(image: np.ndarray) -> np.ndarray:
        return (7 / truth[image.tobytes()] - 0.3).astype(np.float32)

    for view, depth in zip(views, MonocularDepth(network)(Scene(views, [])), strict=True):
        surface = np.isfinite(true_depth(view.camera))
        assert depth is not None
        assert np.median(np.abs(depth / true_depth(view.camera) - 1)[surface]) < 0.02


def test_no_scale_is_an_error(ramp):
    with pytest.raises(DepthError, match="no scale: the scene has no points, and a plane sweep needs"):
        MonocularDepth(relative)(dataclasses.replace(ramp, points=None))


def test_a_view_that_does_not_fit_is_left_out(ramp):
    assert list(MonocularDepth(lambda image: -relative(image))(ramp)) == [None]


def test_missing_transformers_name_the_cure(ramp, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    load_predictor.cache_clear()
    with pytest.raises(ImportError, match=r'pip install "splax\[depth\]"'):
        MonocularDepth("some/model")(ramp)


@pytest.mark.depth
@needs_transformers
@pytest.mark.filterwarnings("ignore")  # of torch and transformers, which are not ours
def test_a_model_in_a_folder(ramp, tmp_path):
    """A network of random weights, saved by transformers itself."""
    write_tiny_model(tmp_path)
    predict = load_predictor(str(tmp_path))
    values = predict(np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8))
    assert values.ndim == 2 and np.isfinite(values).all()
    list(MonocularDepth(tmp_path)(ramp))  # its random depth may fit or not


@pytest.mark.depth
@needs_transformers
@pytest.mark.filterwarnings("ignore")
def test_pickled_weights_are_refused(tmp_path):
    import torch

    write_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot be loaded.*safetensors"):
        load_predictor(str(tmp_path))


@pytest.mark.depth
@needs_transformers
@pytest.mark.filterwarnings("ignore")
def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded; expected the id"):
        load_predictor(str(tmp_path))


def write_tiny_model(folder) -> None:
    import torch
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
        DPTImageProcessor,
    )

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(size={"height": 28, "width": 28}, ensure_multiple_of=14).save_pretrained(folder)
