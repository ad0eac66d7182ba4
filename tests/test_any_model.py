"""The Trainer takes models of more channels than colour, of colours of their own, and losses that ask for more."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_trainer import ADAM, DenseModel, make_dense_trainer, make_gaussians, params_of

import splax
from splax.training.batch import NotAnArrayError
from splax.training.color_renderer import ColorRenderer
from splax.training.photos.canvases import group_views, view_order

NUM, FEATURES = 60, 16
WIDTH, HEIGHT = 32, 24


class FeatureGaussians(splax.Gaussians):
    """Gaussians that carry features."""

    def __init__(self, *args, features=None, **kwargs):
        super().__init__(*args, **kwargs)
        shape = self.means.shape[0], FEATURES
        self.features = nnx.Param(jnp.zeros(shape) if features is None else jnp.asarray(features))


def colors_and_features(self: Any, gaussians: Any, camera: splax.Camera) -> jax.Array:
    return jnp.concatenate([gaussians.colors(camera), gaussians.features[...]], axis=1)


class DenseFeatures(DenseModel):
    """RGB and 16 features."""

    colors = colors_and_features


class Features(splax.SplatModel):
    """The same, rasterized."""

    colors = colors_and_features


class Decoded(DenseModel):
    """Features alone, of which a layer makes the colour."""

    def __init__(self, gaussians, rasterizer=None):
        super().__init__(gaussians, rasterizer)
        self.decoder = nnx.Linear(FEATURES, 3, rngs=nnx.Rngs(1))

    def colors(self, gaussians: Any, camera):
        return gaussians.features[...]

    def color(self, output):
        return jax.nn.sigmoid(self.decoder(output.image)) * output.alpha[..., None]


@pytest.fixture(scope="module")
def scene():
    return splax.make_demo_scene(num_train=3, num_test=1, width=WIDTH, height=HEIGHT)


def make_features(scene, seed=0) -> FeatureGaussians:
    features = np.random.default_rng(seed).normal(size=(NUM, FEATURES)).astype(np.float32)
    return FeatureGaussians.random(
        NUM, extent=1.5, center=scene.center, sh_degree=1, rngs=nnx.Rngs(0), features=features
    )


def first_views(scene, steps) -> list[int]:
    """The training views of the first steps."""
    return view_order(group_views([(WIDTH, HEIGHT)] * len(scene.train)), steps, seed=0).tolist()


def losses(trainer, steps) -> list[float]:
    """Those of the next steps, one by one."""
    for _ in range(steps):
        trainer.fit(1)
    return [entry.loss for entry in trainer.history[-steps:]]


# --- channels ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense_features(scene):
    """A model of 19 channels whose features are to become 0.5, trained."""

    class FeatureTrainer(splax.Trainer):
        def loss(self, model, output, batch):
            assert output.image.shape == (HEIGHT, WIDTH, 3 + FEATURES)
            alpha = jax.lax.stop_gradient(output.alpha)[..., None]
            error = jnp.square(output.image[..., 3:] - 0.5 * alpha).mean()
            return super().loss(model, output, batch) + error

    gaussians = make_features(scene)
    trainer = make_dense_trainer(scene, gaussians, cls=FeatureTrainer, model_cls=DenseFeatures)
    trainer.fit(60)
    return trainer


def test_a_model_of_19_channels_trains_its_features_too(scene, dense_features):
    history = dense_features.history
    assert history[-1].loss < 0.9 * history[0].loss
    trained: Any = dense_features.model.gaussians
    before, after = make_features(scene).features[...], trained.features[...]
    assert np.abs(np.asarray(after) - 0.5).mean() < np.abs(np.asarray(before) - 0.5).mean()


def test_features_change_neither_colours_nor_scores(scene):
    # Adam's steps hardly depend on the size of a gradient; with a larger epsilon rounding does not decide on them.
    plain = make_dense_trainer(scene, make_gaussians(scene, NUM), optimizer=ADAM)
    trainer = make_dense_trainer(scene, make_features(scene), model_cls=DenseFeatures, optimizer=ADAM)
    gaussians: Any = trainer.model.gaussians
    before = np.asarray(gaussians.features[...])
    for each in (plain, trainer):
        each.fit(5)
    np.testing.assert_array_equal(gaussians.features[...], before)
    for name, value in params_of(plain).items():
        np.testing.assert_allclose(params_of(trainer)[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert trainer.history[-1].psnr == pytest.approx(plain.history[-1].psnr, abs=1e-3)
    assert trainer.evaluate() == pytest.approx(plain.evaluate(), abs=1e-3)


def test_a_model_of_19_channels_is_scored_by_its_colour(scene, dense_features):
    scores = dense_features.evaluate(color_correct=True, pose_align=True)
    assert all(np.isfinite(value) for value in scores.values())
    (view,) = dense_features.evaluate_views()
    image = dense_features.model(view.view.camera).image
    assert image.shape == (HEIGHT, WIDTH, 3 + FEATURES)
    np.testing.assert_allclose(view.image, np.clip(image[..., :3], 0, 1), atol=1e-6)


def test_corrections_change_the_colour_alone(scene):
    seen = []

    class Watching(splax.Trainer):
        def loss(self, model, output, batch):
            raw = model(batch.camera).image
            seen.append(output.image.shape)
            return jnp.abs(output.image - raw)[..., 3:].max() + 0 * jnp.abs(output.image - raw).sum()

    class Red(splax.Correction):
        name = "red"

        def image(self, params, view, image):
            return image * jnp.array([1, 0, 0])

    trainer = make_dense_trainer(
        scene, make_features(scene), cls=Watching, model_cls=DenseFeatures, corrections=(Red(),)
    )
    assert losses(trainer, 2) == pytest.approx([0, 0], abs=1e-6)
    assert seen
    (view,) = trainer.evaluate_views()
    assert view.image[..., 0].any()
    assert not view.image[..., 1:].any()


def test_rasterized_features_lie_over_nothing_and_colour_over_the_background(scene):
    gaussians, camera = make_features(scene), scene.test[0].camera
    background = jnp.array([1.0, 0.5, 0.25])
    model = Features(gaussians, splax.TileRasterizer(8))
    renderer = ColorRenderer.of(model, camera)
    assert renderer == ColorRenderer(num_channels=19, has_own_color=False, takes_view=True)
    image = renderer(model, camera, background).image
    plain = splax.SplatModel(gaussians, splax.TileRasterizer(8))(camera, background=background).image
    np.testing.assert_allclose(image[..., :3], plain, atol=1e-6)
    np.testing.assert_allclose(image[..., 3:], model(camera).image[..., 3:], atol=1e-6)
    scores = splax.Trainer(model, scene, splax.TrainConfig(background=(1.0, 0.5, 0.25))).evaluate()
    assert np.isfinite(scores["psnr"])


def test_a_random_background_is_that_of_the_photo(scene):
    clear = [
        dataclasses.replace(view, alpha=np.zeros((HEIGHT, WIDTH), np.uint8), image=np.zeros_like(view.image))
        for view in scene.train
    ]
    empty = dataclasses.replace(scene, train=clear, background=(0.0, 0.0, 0.0))
    gaussians = make_features(scene)
    gaussians.logit_opacities[...] = jnp.full(NUM, -20.0)
    trainer = make_dense_trainer(empty, gaussians, model_cls=Decoded, background="random", ssim_weight=0.0)
    assert max(losses(trainer, 3)) < 1e-4


def test_a_model_decodes_its_colour_from_features(scene):
    gaussians = make_features(scene)
    trainer = make_dense_trainer(scene, gaussians, model_cls=Decoded)
    model: Any = trainer.model
    before = np.asarray(gaussians.features[...]), np.asarray(model.decoder.kernel[...])
    trainer.fit(60)
    assert trainer.history[-1].loss < 0.9 * trainer.history[0].loss
    assert (np.asarray(gaussians.features[...]) != before[0]).any()
    assert (np.asarray(model.decoder.kernel[...]) != before[1]).all()
    assert np.isfinite(trainer.evaluate(pose_align=True)["psnr_pose_aligned"])
    (view,) = trainer.evaluate_views()
    output = trainer.model(view.view.camera)
    color = trainer.model.color(output) + (1 - output.alpha)[..., None] * jnp.asarray(scene.background)
    np.testing.assert_allclose(view.image, np.clip(color, 0, 1), atol=1e-6)


def test_an_own_loss_sees_the_decoded_colour_then_all_features(scene):
    class Watching(splax.Trainer):
        def loss(self, model, output, batch):
            assert output.image.shape == (HEIGHT, WIDTH, 3 + FEATURES)
            raw = model(batch.camera)
            return jnp.abs(output.image[..., 3:] - raw.image).max()

    trainer = make_dense_trainer(scene, make_features(scene), cls=Watching, model_cls=Decoded)
    assert losses(trainer, 1) == pytest.approx([0], abs=1e-6)


def test_too_few_channels_for_a_colour_are_named_at_once(scene):
    class Grey(DenseModel):
        def colors(self, gaussians, camera):
            return gaussians.colors(camera)[:, :1]

    class GreyAsColor(Grey):
        def color(self, output):
            return jnp.repeat(output.image, 3, axis=-1)

    class Wrong(DenseModel):
        def color(self, output):
            return output.image[..., 0]

    with pytest.raises(
        ValueError, match=r"renders 1 channels.*SplatModel.colors, or override SplatModel.color"
    ):
        make_dense_trainer(scene, model_cls=Grey)
    with pytest.raises(ValueError, match=r"Wrong.color returned shape \(24, 32\).*expected \(24, 32, 3\)"):
        make_dense_trainer(scene, model_cls=Wrong)
    assert np.isfinite(losses(make_dense_trainer(scene, model_cls=GreyAsColor), 1)).all()


# --- what a loss is told -------------------------------------------------------------------------------


def test_a_loss_is_told_view_step_and_camera(scene):
    class Watching(splax.Trainer):
        def loss(self, model, output, batch):
            assert (batch.mask, batch.depth) == (None, None)
            assert batch.view is not None
            assert (batch.camera.width, batch.camera.height) == (WIDTH, HEIGHT)
            return 100.0 * batch.step + 10.0 * batch.view + batch.image.mean() + 0 * output.image.mean()

    views = first_views(scene, 4)
    expected = [100 * i + 10 * v + (scene.train[v].image / 255).mean() for i, v in enumerate(views)]
    trainer = make_dense_trainer(scene, cls=Watching)
    assert losses(trainer, 4) == pytest.approx(expected, rel=1e-5)


def test_a_loss_renders_once_more(scene):
    """Which two renderings of one camera agree on, and a schedule and a row for each view have a say in."""

    class Twice(splax.Trainer):
        def loss(self, model, output, batch):
            moved = dataclasses.replace(batch.camera, viewmat=batch.camera.viewmat.at[0, 3].add(0.05))
            second = model(moved)
            weight = jnp.where(batch.step < 2, 0.0, 1.0) * jnp.array([1.0, 2.0, 4.0])[batch.view]
            again = jax.lax.stop_gradient(jnp.abs(model(batch.camera).image - output.image).max())
            return weight * jnp.square(second.image).mean() + again

    trainer = make_dense_trainer(scene, cls=Twice)
    before = params_of(trainer)["sh0"]
    assert losses(trainer, 2) == pytest.approx([0, 0], abs=1e-6)
    np.testing.assert_array_equal(params_of(trainer)["sh0"], before)
    assert min(losses(trainer, 2)) > 1e-3
    assert (params_of(trainer)["sh0"] != before).any()


def test_a_loss_is_told_mask_and_depth(scene):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:10] = True
    depths = [np.full((HEIGHT, WIDTH), 1 + index, np.float32) for index in range(3)]
    views = [
        dataclasses.replace(view, mask=mask, depth=depth)
        for view, depth in zip(scene.train, depths, strict=True)
    ]

    class Watching(splax.Trainer):
        def loss(self, model, output, batch):
            assert batch.mask is not None and batch.depth is not None
            return 10.0 * batch.depth.mean() + batch.mask.mean() + batch.image[10:].sum()

    trainer = make_dense_trainer(dataclasses.replace(scene, train=views), cls=Watching)
    expected = [10 * (1 + view) + 10 / HEIGHT for view in first_views(scene, 3)]
    assert losses(trainer, 3) == pytest.approx(expected)


def test_depth_costs_nothing_where_nobody_asks_for_it(scene):
    views = [dataclasses.replace(view, depth=np.ones((HEIGHT, WIDTH), np.float32)) for view in scene.train]
    trainer = make_dense_trainer(dataclasses.replace(scene, train=views))
    trainer._loader.plan(1)
    assert trainer._loader.take(0, 1)[0].targets.depths is None


@pytest.mark.parametrize(
    "use",
    [
        lambda output, batch: jnp.abs(output.image - batch).mean(),
        lambda output, batch: jnp.abs(batch - output.image).mean(),
        lambda output, batch: jnp.square(batch / 2).mean(),
        lambda output, batch: (2 * batch).mean(),
        lambda output, batch: jnp.mean(batch),
        lambda output, batch: batch[..., 0].mean(),
        lambda output, batch: batch.mean(),
        lambda output, batch: jnp.zeros(batch.shape).mean(),
    ],
)
def test_a_loss_of_an_older_version_is_told_what_changed(scene, use):
    class Old(splax.Trainer):
        def loss(self, model, output, batch):
            return use(output, batch)

    trainer = make_dense_trainer(scene, cls=Old)
    with pytest.raises(
        TypeError, match=r"third argument of Trainer.loss is a splax.Batch.*batch.image"
    ) as error:
        trainer.fit(1)
    assert error.type is NotAnArrayError
    assert trainer.step == 0


def test_a_batch_is_a_pytree(scene):
    view = scene.train[0]
    batch = splax.Batch(jnp.asarray(view.image) / 255, None, None, view.camera, None, jnp.int32(3))
    same = jax.jit(lambda batch: batch._replace(step=batch.step + 1))(batch)
    assert int(same.step) == 4
    assert same.view is None
    np.testing.assert_array_equal(same.image, batch.image)
    assert not hasattr(batch, "target")


# --- views ---------------------------------------------------------------------------------------------


class Tinted(DenseModel):
    """A colour for each training view, added before anything is drawn."""

    def __init__(self, gaussians, rasterizer=None):
        super().__init__(gaussians, rasterizer)
        self.tints = nnx.Param(jnp.zeros((3, 3)))
        self.tint = 0.0

    def __call__(self, camera, *, view=None, **options):
        self.tint = 0.0 if view is None else self.tints[...][view]
        output = super().__call__(camera, **options)
        self.tint = 0.0
        return output

    def colors(self, gaussians, camera):
        return gaussians.colors(camera) + self.tint


def test_a_model_is_told_the_training_view(scene):
    trainer = make_dense_trainer(scene, model_cls=Tinted)
    model: Any = trainer.fit(1)
    (view,) = first_views(scene, 1)
    rows = np.asarray(model.tints[...])
    assert rows[view].any()
    assert not np.delete(rows, view, axis=0).any()
    # Views held out have none.
    image = np.asarray([scores.image for scores in trainer.evaluate_views()])
    model.tints[...] = jnp.full((3, 3), 7.0)
    np.testing.assert_array_equal([scores.image for scores in trainer.evaluate_views()], image)


def test_views_are_told_only_to_models_that_take_them(scene):
    camera = scene.train[0].camera

    def takes_view(cls):
        return ColorRenderer.of(cls(make_gaussians(scene, 5)), camera).takes_view

    assert takes_view(splax.SplatModel)
    assert takes_view(Tinted)
    assert not takes_view(DenseModel)


# --- rows ----------------------------------------------------------------------------------------------


def test_a_param_without_a_row_for_each_gaussian_is_named(scene):
    gaussians = FeatureGaussians.random(NUM, rngs=nnx.Rngs(0), features=np.zeros((7, 2)))
    with pytest.raises(
        ValueError, match=r"Param features of FeatureGaussians has shape \(7, 2\).*60 Gaussians"
    ):
        splax.SplatModel(gaussians)
    scalar = make_gaussians(scene, 5)
    scalar.scale = nnx.Param(jnp.ones(()))  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=r"Param scale of Gaussians has shape \(\).*into the SplatModel"):
        splax.SplatModel(scalar)
