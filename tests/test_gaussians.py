"""The Gaussians module: its rows, its copies, and the ways of NNX that it relies on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import GAUSSIAN_PARAMS, make_camera, make_gaussians
from jaxtyping import config

from splax.gaussians import Gaussians, neighbor_spacing


class FeatureGaussians(Gaussians):
    """What a researcher may write."""

    def __init__(self, *args, features, **kwargs):
        super().__init__(*args, **kwargs)
        self.features = nnx.Param(jnp.asarray(features))


def make_model(num=6, sh_degree=2, cls=Gaussians, **params) -> Any:
    values = make_gaussians(num, sh_degree=sh_degree)
    return cls(**{name: jnp.asarray(value) for name, value in values.items()}, **params)


def make_feature_model(num=6) -> FeatureGaussians:
    return make_model(num, cls=FeatureGaussians, features=jnp.arange(num * 8.0).reshape(num, 8))


def params_of(gaussians: Gaussians) -> dict[str, np.ndarray]:
    return {
        str(path[0]): np.asarray(p[...]) for path, p in nnx.to_flat_state(nnx.state(gaussians, nnx.Param))
    }


@pytest.fixture
def unchecked(monkeypatch):
    """As users run splax: without the type checks of the test run."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)


def test_exactly_these_params_are_trained():
    assert params_of(make_model()).keys() == set(GAUSSIAN_PARAMS)
    assert params_of(make_feature_model()).keys() == {*GAUSSIAN_PARAMS, "features"}


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.renderable_only(),
        lambda model: model.take(np.arange(3)),
        lambda model: model.compact(),
        lambda model: model.with_capacity(9),
        nnx.clone,
    ],
)
def test_copies_keep_the_class_and_share_nothing(change):
    model = make_feature_model()
    before, alive = params_of(model), np.array(model.alive[...])
    copy = change(model)
    assert type(copy) is FeatureGaussians
    assert params_of(copy).keys() == before.keys()
    for param in jax.tree.leaves(nnx.state(copy, nnx.Param), is_leaf=lambda x: isinstance(x, nnx.Variable)):
        assert isinstance(param, nnx.Param)
        param[...] = param[...] + 1
    copy.alive[...] = jnp.zeros_like(copy.alive[...])
    copy.active_sh_degree[...] = 0
    np.testing.assert_array_equal(model.alive[...], alive)
    assert model.active_sh_degree[...] == 2
    for name, value in params_of(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_take_moves_whole_rows():
    model = make_feature_model()
    model.alive[...] = jnp.array([1, 1, 0, 1, 0, 1], bool)
    taken = model.take([5, 2, 2])
    for name, value in params_of(model).items():
        np.testing.assert_array_equal(params_of(taken)[name], value[[5, 2, 2]], err_msg=name)
    np.testing.assert_array_equal(taken.alive[...], [True, False, False])
    assert taken.capacity == 3 and taken.num_alive == 1
    np.testing.assert_array_equal(model.take(np.arange(6) > 3).features[...], model.features[4:])


def test_capacity_and_compact():
    model = make_feature_model()
    larger = model.with_capacity(10)
    assert (larger.capacity, larger.num_alive) == (10, 6)
    assert all(not value[6:].any() for value in params_of(larger).values())
    compact = larger.compact()
    assert compact.capacity == 6 and compact.alive[...].all()
    for name, value in params_of(model).items():
        np.testing.assert_array_equal(params_of(compact)[name], value, err_msg=name)
    with pytest.raises(ValueError, match=r"can only grow: got 5, have 6"):
        model.with_capacity(5)


def test_what_cannot_be_drawn_becomes_dead_and_neutral():
    model = make_feature_model()
    model.means[...] = model.means[...].at[0, 1].set(jnp.nan)
    model.features[...] = model.features[...].at[1, 3].set(jnp.inf)
    model.quats[...] = model.quats[...].at[2].set(0)
    model.alive[...] = model.alive[...].at[3].set(False)
    model.log_scales[...] = model.log_scales[...].at[3].set(jnp.nan)
    np.testing.assert_array_equal(model.renderable, [False] * 4 + [True] * 2)
    drawn = model.renderable_only()
    np.testing.assert_array_equal(drawn.alive[...], [False] * 4 + [True] * 2)
    for name, value in params_of(drawn).items():
        assert np.isfinite(value).all(), name
        np.testing.assert_array_equal(value[4:], params_of(model)[name][4:])
    np.testing.assert_array_equal(drawn.quats[:4], np.tile([1, 0, 0, 0], (4, 1)))


def test_no_gradient_of_a_bad_row_is_nan():
    model = make_feature_model()
    model.log_scales[...] = model.log_scales[...].at[1, 0].set(jnp.inf)
    model.means[...] = model.means[...].at[2].set(jnp.nan)

    def total(model):
        drawn = model.renderable_only()
        return sum(jnp.sum(value) for value in (drawn.scales, drawn.opacities, drawn.colors(make_camera())))

    value, gradients = nnx.value_and_grad(total)(model)
    assert jnp.isfinite(value)
    for name, gradient in nnx.to_pure_dict(gradients).items():
        assert jnp.isfinite(gradient).all(), name
        assert not gradient[1:3].any(), name
    assert gradients["log_scales"][0].any() and gradients["logit_opacities"][5]


def test_gradients_come_for_params_only():
    gradients = nnx.grad(lambda model: model.opacities.sum() + (model.features[...] ** 2).sum())(
        make_feature_model()
    )
    assert set(gradients) == {*GAUSSIAN_PARAMS, "features"}
    assert gradients["features"][3].any()


def test_jit_sees_writes_and_keeps_the_trace():
    traces = []

    @nnx.jit
    def fade(model):
        traces.append(None)
        model.logit_opacities[...] = model.logit_opacities[...] - 1
        model.alive[...] = model.opacities > 0.01

    model = make_model()
    before = np.asarray(model.logit_opacities[...])
    for _ in range(2):
        fade(model)
    np.testing.assert_allclose(model.logit_opacities[...], before - 2, rtol=1e-6)
    assert len(traces) == 1
    model.active_sh_degree[...] = 0  # data, so no new trace
    fade(model)
    assert len(traces) == 1


def test_activated_values():
    model = make_model()
    np.testing.assert_allclose(model.scales, np.exp(model.log_scales[...]), rtol=1e-6)
    np.testing.assert_allclose(model.opacities, 1 / (1 + np.exp(-model.logit_opacities[...])), rtol=1e-5)
    assert model.sh_degree == 2 and model.active_sh_degree[...] == 2


def test_colors_depend_on_the_side_seen():
    model = make_model(1, sh_degree=1)
    model.means[...] = jnp.zeros((1, 3))
    model.sh0[...] = jnp.zeros((1, 1, 3))
    model.shN[...] = jnp.zeros((1, 3, 3)).at[0, 2, 0].set(1)  # red, along -x
    from_right, from_left = (model.colors(make_camera(position=(x, 0.0, 0.0))) for x in (3.0, -3.0))
    # Seen from +x, the direction from camera to Gaussian is -x.
    np.testing.assert_allclose(from_right[0], [0.5 + 0.4886025, 0.5, 0.5], atol=1e-5)
    np.testing.assert_allclose(from_left[0], [0.5 - 0.4886025, 0.5, 0.5], atol=1e-5)
    model.active_sh_degree[...] = 0
    np.testing.assert_allclose(model.colors(make_camera()), 0.5)


def test_a_gaussian_at_the_camera_has_a_finite_color():
    model = make_model(1)
    camera = make_camera()
    model.means[...] = camera.position[None]

    value, gradients = nnx.value_and_grad(lambda model: model.colors(camera).sum())(model)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradients["means"][...]).all()


def test_spacing_as_brute_force():
    points = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    distances = np.linalg.norm(points[:, None].astype(np.float64) - points[None], axis=-1)
    nearest = np.sort(distances, axis=1)[:, 1:4]
    np.testing.assert_allclose(neighbor_spacing(points), np.sqrt((nearest**2).mean(axis=1)), rtol=1e-5)


def test_spacing_of_few_and_equal_points():
    assert neighbor_spacing(np.zeros((1, 3), np.float32)) == 1
    np.testing.assert_allclose(neighbor_spacing(np.array([[0, 0, 0], [0, 0, 2.0]])), 2)
    spacing = neighbor_spacing(np.ones((5, 3)))
    assert (spacing > 0).all() and np.isfinite(np.log(spacing)).all()


@pytest.mark.parametrize("as_bytes", [False, True])
def test_from_points(as_bytes):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 3)).astype(np.float32)
    colors = rng.integers(0, 256, size=(30, 3)).astype(np.uint8)
    model = Gaussians.from_points(points, colors if as_bytes else colors / 255, sh_degree=1, opacity=0.3)
    np.testing.assert_array_equal(model.means[...], points)
    np.testing.assert_allclose(model.scales, np.repeat(neighbor_spacing(points)[:, None], 3, 1), rtol=1e-5)
    np.testing.assert_allclose(model.opacities, 0.3, rtol=1e-5)
    np.testing.assert_array_equal(model.quats[...], np.tile([1, 0, 0, 0], (30, 1)))
    np.testing.assert_allclose(model.colors(make_camera()), colors / 255, atol=1e-6)
    assert model.shN.shape == (30, 3, 3) and model.alive[...].all()
    assert all(value.dtype == np.float32 for value in params_of(model).values())


def test_from_points_without_colors_is_grey():
    model = Gaussians.from_points(np.eye(3, dtype=np.float32), sh_degree=0)
    np.testing.assert_allclose(model.colors(make_camera()), 0.5)
    assert model.shN.shape == (3, 0, 3)


def test_from_points_passes_on_what_a_subclass_takes():
    features = np.ones((3, 2), np.float32)
    model = FeatureGaussians.from_points(np.eye(3, dtype=np.float32), features=features)
    assert type(model) is FeatureGaussians and model.features.shape == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"points": np.zeros((0, 3))}, r"N >= 1; got shape \(0, 3\)"),
        ({"points": np.zeros((4, 2))}, r"got shape \(4, 2\)"),
        ({"points": np.full((4, 3), np.nan)}, "finite"),
        ({"colors": np.zeros((3, 3))}, r"\[4, 3\] to match points, got shape \(3, 3\)"),
        ({"colors": np.zeros((4, 4))}, r"got shape \(4, 4\)"),
        ({"sh_degree": 4}, "0 to 3, got 4"),
        ({"sh_degree": -1}, "0 to 3, got -1"),
        ({"opacity": 1.0}, r"\(0, 1\), got 1.0"),
        ({"opacity": 0.0}, r"\(0, 1\), got 0.0"),
    ],
)
def test_impossible_points(unchecked, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        Gaussians.from_points(**({"points": np.ones((4, 3))} | arguments))


def test_random_is_determined_by_the_seed():
    models = [Gaussians.random(50, rngs=nnx.Rngs(seed)) for seed in (0, 0, 1)]
    first, same, other = map(params_of, models)
    for name in first:
        np.testing.assert_array_equal(first[name], same[name])
    assert (first["means"] != other["means"]).all() and (first["sh0"] != other["sh0"]).all()


def test_random_fills_the_cube_and_the_colors_independently():
    model = Gaussians.random(20_000, extent=2.0, center=(1, -1, 3), sh_degree=1, rngs=nnx.Rngs(0))
    offsets = np.asarray(model.means[...]) - [1, -1, 3]
    assert np.abs(offsets).max() <= 2 and np.abs(offsets).max() > 1.99
    np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(offsets.std(axis=0), 2 / np.sqrt(3), atol=0.02)
    colors = np.asarray(model.colors(make_camera()))
    np.testing.assert_allclose(colors.mean(axis=0), 0.5, atol=0.01)
    correlation = np.corrcoef(np.concatenate([offsets, colors], axis=1).T) - np.eye(6)
    assert np.abs(correlation).max() < 0.04  # 1 if one key made both


@pytest.mark.parametrize("arguments", [{"num": 0}, {"extent": 0.0}, {"extent": -1.0}, {"extent": np.nan}])
def test_impossible_random(arguments):
    with pytest.raises(ValueError, match="num >= 1 and extent > 0"):
        Gaussians.random(**({"num": 4, "rngs": nnx.Rngs(0)} | arguments))


@pytest.mark.parametrize("name", GAUSSIAN_PARAMS)
def test_impossible_shapes(unchecked, name):
    values = {key: jnp.asarray(value) for key, value in make_gaussians(5, sh_degree=1).items()}
    values[name] = values[name][:, :-1] if values[name].ndim > 1 else values[name][:-1]
    with pytest.raises(
        ValueError, match="spherical harmonics" if name == "shN" else f"{name} must have shape"
    ):
        Gaussians(**values)
