"""Colour correction against maps that are known, and against numpy's least squares."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import config

import splax
from splax import color_correct, psnr
from splax.cli.run_folder import RunFolder
from splax.cli.run_results import write_evaluation

AFFINE = np.array([[0.7, 0.1, 0.05, 0.02], [0.02, 0.6, 0.1, 0.1], [-0.1, 0.05, 0.8, 0.12]])


def make_image(low=0.05, high=0.95, seed=0, shape=(30, 40)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (*shape, 3)).astype(np.float32)


def map_affine(image: np.ndarray) -> np.ndarray:
    return (image @ AFFINE[:, :3].T + AFFINE[:, 3]).astype(np.float32)


@pytest.mark.parametrize("method", ["affine", "quadratic"])
def test_an_affine_map_is_found(method):
    image = make_image()
    target = jnp.asarray(map_affine(image))
    assert psnr(jnp.asarray(image), target) < 25
    assert psnr(color_correct(jnp.asarray(image), target, method=method), target) > 80


def test_a_quadratic_map_is_found_by_the_quadratic_method_only():
    image = make_image()
    target = jnp.asarray(0.1 + 0.5 * image**2 + 0.3 * image * image[..., [1, 2, 0]])
    assert psnr(color_correct(jnp.asarray(image), target, method="quadratic"), target) > 80
    assert psnr(color_correct(jnp.asarray(image), target), target) < 45


def test_saturated_pixels_do_not_count():
    image = make_image()
    bright = (1.6 * image - 0.1).clip(0, 1)
    corrected = color_correct(jnp.asarray(image), jnp.asarray(bright))
    assert (bright == 1).mean() > 0.2 and (bright == 0).mean() > 0.005
    np.testing.assert_allclose(corrected, bright, atol=1e-4)


def test_a_rendering_that_saturates_is_left_out_too():
    truth = make_image()
    image = (1.5 * truth).clip(0, 1)
    corrected = np.asarray(color_correct(jnp.asarray(image), jnp.asarray(truth)))
    clear = (image < 1).all(axis=-1)
    np.testing.assert_allclose(corrected[clear], truth[clear], atol=1e-4)


def test_of_noisy_images_it_is_the_least_squares_fit():
    image = make_image(0.2, 0.8)
    rng = np.random.default_rng(1)
    target = (map_affine(image) + rng.normal(scale=0.02, size=image.shape)).astype(np.float32)
    pixels = image.reshape(-1, 3).astype(np.float64)
    terms = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    expected = terms @ np.linalg.lstsq(terms, target.reshape(-1, 3), rcond=None)[0]
    corrected = np.asarray(color_correct(jnp.asarray(image), jnp.asarray(target)))
    np.testing.assert_allclose(corrected.reshape(-1, 3), expected, atol=1e-4)


def test_masked_pixels_do_not_count():
    image = make_image()
    target = map_affine(image)
    mask = np.zeros(image.shape[:2], bool)
    mask[:, :25] = True
    spoiled = np.where(mask[..., None], target, make_image(seed=2))
    corrected = color_correct(jnp.asarray(image), jnp.asarray(spoiled), jnp.asarray(mask))
    np.testing.assert_allclose(corrected, target, atol=1e-4)


def test_what_determines_no_map_leaves_colours_near_what_they_are():
    image, black = jnp.asarray(make_image()), jnp.zeros((30, 40, 3))
    np.testing.assert_array_equal(color_correct(image, black), image)
    np.testing.assert_array_equal(color_correct(image, image, jnp.zeros((30, 40), bool)), image)
    grey = jnp.asarray(make_image()[..., :1].repeat(3, axis=-1))
    corrected = color_correct(grey, 0.5 * grey + 0.1, method="quadratic")
    np.testing.assert_allclose(corrected, 0.5 * grey + 0.1, atol=1e-4)
    single = jnp.full((1, 1, 3), 0.4)
    np.testing.assert_allclose(color_correct(single, single + 0.1), single + 0.1, atol=1e-5)


def test_mistakes_are_refused(monkeypatch):
    image = jnp.asarray(make_image())
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # as users run splax
    with pytest.raises(ValueError, match="'quadratic', got 'cubic'"):
        color_correct(image, image, method="cubic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="one shape"):
        color_correct(image, image[:-1])


# --- scores of a run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainer() -> splax.Trainer:
    """Of a model whose test photos are affine maps of its renderings; one is masked."""
    scene = splax.make_demo_scene(num_train=2, num_test=2, width=48, height=36)
    gaussians = splax.Gaussians.random(300, extent=2, center=scene.center, sh_degree=0, rngs=nnx.Rngs(0))
    model = splax.SplatModel(gaussians, splax.TileRasterizer(8))
    test = []
    for view in scene.test:
        image = np.asarray(model(view.camera).image).clip(0, 1)
        test.append(dataclasses.replace(view, image=(255 * map_affine(image)).round().astype(np.uint8)))
    mask = np.ones((36, 48), bool)
    mask[:, 24:] = False
    test[1] = dataclasses.replace(test[1], mask=mask)
    return splax.Trainer(model, dataclasses.replace(scene, test=test), splax.TrainConfig(progress=False))


def test_views_are_scored_after_correction_where_it_is_asked_for(trainer):
    scores = trainer.evaluate(color_correct=True)
    assert scores["psnr_color_corrected"] > max(50, scores["psnr"] + 15)  # the photos are of 8 bits
    assert scores["ssim_color_corrected"] > 0.99 > scores["ssim"]
    assert set(trainer.evaluate()) == {"psnr", "ssim", "psnr_identity", "views"}
    assert trainer.evaluate([], color_correct=True)["psnr_color_corrected"] is None


def test_metrics_say_what_the_correction_is(trainer, tmp_path):
    folder = RunFolder.create(tmp_path / "run", overwrite=False)
    metrics = write_evaluation(folder, trainer, {}, color_correct=True)
    assert json.loads((folder.path / "metrics.json").read_text()) == metrics
    assert metrics["per_view"][0].keys() == {
        "name",
        "image",
        "psnr",
        "ssim",
        "psnr_identity",
        "psnr_color_corrected",
        "ssim_color_corrected",
    }
    assert "affine" in metrics["protocol"]["color_corrected"]
    plain = write_evaluation(folder, trainer, {})
    assert "psnr_color_corrected" not in plain and "color_corrected" not in plain["protocol"]
