"""Subclasses of the three classes that are made for it; splax never names what they add."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import splax

NUM, ROWS = 60, 200
GROWING = splax.DefaultStrategy(grow_grad2d=1e-7, refine_start=0, refine_every=4)


class FeatureGaussians(splax.Gaussians):
    """Gaussians that carry eight numbers more."""

    def __init__(self, *args, features, **kwargs):
        super().__init__(*args, **kwargs)
        self.features = nnx.Param(jnp.asarray(features))


class FeatureModel(splax.SplatModel):
    """Colours decoded from the features by a layer of its own."""

    def __init__(self, gaussians, rasterizer, *, rngs):
        super().__init__(gaussians, rasterizer)
        self.decoder = nnx.Linear(8, 3, rngs=rngs)

    def colors(self, gaussians, camera):
        return jax.nn.sigmoid(self.decoder(gaussians.features[...]))  # pyright: ignore[reportAttributeAccessIssue]


class OpacityTrainer(splax.Trainer):
    """Trains for a mean opacity instead of the photos."""

    wanted = 0.6

    def loss(self, model, output, batch):
        alive = model.gaussians.alive[...]
        mean = jnp.where(alive, model.gaussians.opacities, 0).sum() / alive.sum()
        return (mean - self.wanted) ** 2 + 0.0 * output.image.mean()


@pytest.fixture(scope="module")
def scene():
    return splax.make_demo_scene(num_train=3, num_test=1, width=32, height=24)


def make_gaussians(scene) -> FeatureGaussians:
    features = np.random.default_rng(0).normal(size=(NUM, 8)).astype(np.float32)
    return FeatureGaussians.random(
        NUM, extent=1.5, center=scene.center, sh_degree=1, rngs=nnx.Rngs(0), features=features
    )


@pytest.fixture(scope="module")
def trained(scene):
    """A model of both subclasses, trained past one refinement in which rows grow; and its Trainer."""
    rasterizer = splax.TileRasterizer(8, isect_capacity=4096)
    model = FeatureModel(make_gaussians(scene), rasterizer, rngs=nnx.Rngs(1))
    config = splax.TrainConfig(steps=50, progress=False)
    trainer = splax.Trainer(model, scene, config, strategy=GROWING)
    trainer.fit(7)
    return trainer


def test_every_param_trains(scene, trained):
    assert isinstance(trained.model.gaussians, FeatureGaussians)
    before = make_gaussians(scene)
    assert (np.asarray(trained.model.gaussians.features[:NUM]) != np.asarray(before.features[...])).any()
    untrained = nnx.Linear(8, 3, rngs=nnx.Rngs(1))
    assert (np.asarray(trained.model.decoder.kernel[...]) != np.asarray(untrained.kernel[...])).all()
    assert trained.history[-1].loss < trained.history[0].loss


def test_rows_of_an_own_param_densify_with_the_others(trained):
    gaussians = trained.model.gaussians
    assert gaussians.capacity > NUM
    assert int(gaussians.num_alive) > NUM
    assert gaussians.features.shape == (gaussians.capacity, 8)
    alive = np.asarray(gaussians.alive[...])
    assert np.asarray(gaussians.features[...])[alive].any(axis=1).all()
    for moment in ("mu", "nu"):
        moments = optax.tree.get(trained._state.opt_state, moment)
        assert moments["gaussians"]["features"].shape == (gaussians.capacity, 8)
        assert moments["decoder"]["kernel"].shape == (8, 3)


def test_newborns_carry_their_parents_features(scene):
    rasterizer = splax.TileRasterizer(8, isect_capacity=4096)
    model = FeatureModel(make_gaussians(scene), rasterizer, rngs=nnx.Rngs(1))
    # Features that nothing pulls at show where the rows came from.
    rates = splax.LearningRates(others=0.0)
    config = splax.TrainConfig(steps=50, progress=False, learning_rates=rates)
    splax.Trainer(model, scene, config, strategy=GROWING).fit(5)
    known = {tuple(row) for row in np.asarray(make_gaussians(scene).features[...])}
    rows = np.asarray(model.gaussians.compact().features[...])  # pyright: ignore[reportAttributeAccessIssue]
    assert len(rows) > NUM
    assert {tuple(row) for row in rows} <= known


def test_an_own_param_is_saved_and_loaded(trained, tmp_path):
    splax.save_ply(tmp_path / "features.ply", trained.model.gaussians)
    expected = trained.model.gaussians.compact()
    loaded = splax.load_ply(tmp_path / "features.ply", cls=FeatureGaussians)
    assert isinstance(loaded, FeatureGaussians)
    for name, value in nnx.to_pure_dict(nnx.state(expected, nnx.Param)).items():
        np.testing.assert_array_equal(getattr(loaded, name)[...], value, err_msg=name)
    plain = splax.load_ply(tmp_path / "features.ply")
    np.testing.assert_array_equal(plain.means[...], expected.means[...])


def test_copies_keep_class_and_params(scene):
    gaussians = make_gaussians(scene)
    for copy in (gaussians.with_capacity(70), gaussians.take([0, 3]), gaussians.renderable_only()):
        assert isinstance(copy, FeatureGaussians)
        assert copy.features.shape == (copy.capacity, 8)
    features = np.asarray(gaussians.features[...])
    np.testing.assert_array_equal(gaussians.take([0, 3]).features[...], features[[0, 3]])


def test_a_row_that_is_nan_in_an_own_param_is_not_drawn(scene):
    gaussians = make_gaussians(scene)
    camera = scene.train[0].camera
    model = FeatureModel(gaussians, splax.TileRasterizer(8), rngs=nnx.Rngs(1))
    without = FeatureModel(gaussians.take(np.arange(1, NUM)), splax.TileRasterizer(8), rngs=nnx.Rngs(1))
    gaussians.features[...] = gaussians.features[...].at[0, 3].set(jnp.nan)
    np.testing.assert_allclose(model(camera).image, without(camera).image, atol=1e-6)


def test_a_trainer_subclass_overrides_the_loss(scene):
    rasterizer = splax.TileRasterizer(8, isect_capacity=4096)
    model = splax.SplatModel(make_gaussians(scene), rasterizer)
    config = splax.TrainConfig(steps=50, progress=False)
    trainer = OpacityTrainer(model, scene, config, strategy=splax.Strategy())
    trainer.fit()
    assert abs(float(model.gaussians.opacities.mean()) - 0.6) < 0.1
    assert trainer.history[0].loss == pytest.approx((0.6 - 0.1) ** 2, rel=1e-4)
