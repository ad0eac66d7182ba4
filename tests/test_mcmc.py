"""MCMCStrategy against closed forms: what copies render as, how noise is shaped, who is drawn."""

import math
from decimal import Decimal, getcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_gaussians
from scipy import stats
from scipy.integrate import quad
from scipy.spatial.transform import Rotation
from scipy.special import expit, logit
from test_trainer import make_dense_trainer
from test_trainer import make_gaussians as make_gaussians_of

import splax
from splax.strategies import MCMCStrategy, row_plans

KEY = jax.random.key(0)
OPACITIES = [0.006, 0.1, 0.5, 0.9, 0.99, 0.9999]
COPIES = [1, 2, 3, 7, 51, 200]

refine = jax.jit(
    lambda strategy, params, alive, key: strategy.refine(params, alive, {}, 600, 1.0, key),
    static_argnums=0,
)


def make_problem(num: int = 600, seed: int = 0):
    """Params in which a third of the Gaussians alive are transparent, and rows that are dead."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(jnp.asarray, make_gaussians(num, sh_degree=1, seed=seed))
    transparent = rng.random(num) < 1 / 3
    logits = np.where(transparent, -6.0, rng.uniform(-4, 4, num))
    params["logit_opacities"] = jnp.asarray(logits, jnp.float32)
    params["features"] = jnp.arange(num, dtype=jnp.float32)
    return params, jnp.asarray(rng.random(num) < 0.6)


# --- what lies in one place -----------------------------------------------------------------------------


def shared(opacity: float, num: int) -> tuple[float, float]:
    """Opacity of each copy, and its scale in scales of the one, by ``share_among_copies``, at float32."""
    logits, log_scales = jax.jit(row_plans.share_among_copies)(
        jnp.float32([logit(opacity)]), jnp.zeros((1, 3)), jnp.asarray([num])
    )
    assert (log_scales == log_scales[0, 0]).all()
    return float(expit(np.float64(logits[0]))), math.exp(float(log_scales[0, 0]))


@pytest.mark.parametrize("num", COPIES)
@pytest.mark.parametrize("opacity", OPACITIES)
def test_copies_render_as_the_one_did(opacity, num):
    """At the centre, and integrated along a line through it: 1 - prod(1 - alpha), in float64."""
    each, scale = shared(opacity, num)
    assert 1 - (1 - each) ** num == pytest.approx(opacity, rel=2e-6)

    def together(x):
        return 1 - (1 - each * np.exp(-0.5 * (x / scale) ** 2)) ** num

    integral, _ = quad(together, 0, 8 * scale, epsabs=0, epsrel=1e-11, limit=200)
    assert 2 * integral == pytest.approx(math.sqrt(2 * math.pi) * opacity, rel=2e-6)


@pytest.mark.parametrize("num", COPIES[:-1])
@pytest.mark.parametrize("opacity", OPACITIES)
def test_shares_are_those_of_the_papers_binomials(opacity, num):
    getcontext().prec = 60
    exact = Decimal(opacity)
    each = 1 - (1 - exact) ** (Decimal(1) / num)
    divisor = sum(
        math.comb(i - 1, k) * (-1) ** k * each ** (k + 1) / Decimal(k + 1).sqrt()
        for i in range(1, num + 1)
        for k in range(i)
    )
    np.testing.assert_allclose(shared(opacity, num), (float(each), float(exact / divisor)), rtol=5e-6)


def test_shares_stay_finite_at_the_ends():
    logits, log_scales = row_plans.share_among_copies(
        jnp.float32([-80.0, -20.0, 20.0, 200.0]), jnp.zeros((4, 3)), jnp.full(4, 50)
    )
    assert jnp.isfinite(logits).all() and jnp.isfinite(log_scales).all()
    assert (jnp.diff(logits) >= 0).all()


# --- who is drawn ---------------------------------------------------------------------------------------


def test_rows_are_drawn_in_proportion_to_their_weights():
    rng = np.random.default_rng(0)
    weights = rng.uniform(0, 1, 1000) * (rng.random(1000) < 0.7)
    draws = jax.vmap(row_plans.sample_rows, (None, 0))(jnp.float32(weights), jax.random.split(KEY, 200))
    counts = np.bincount(np.asarray(draws).ravel(), minlength=1000)
    assert not counts[weights == 0].any()
    drawn = weights > 0
    expected = draws.size * weights[drawn] / weights.sum()
    assert stats.chisquare(counts[drawn], expected).pvalue > 1e-3


def test_small_weights_among_a_million_are_drawn_as_often_as_they_should():
    """The cumulative weight of a million rows near 1 is so large that float32 would swallow 0.01."""
    num = 1_000_000
    small = np.arange(num) % 2 == 1
    weights = np.where(small, 0.01, 1.0)
    draws = np.asarray(jax.jit(row_plans.sample_rows)(jnp.float32(weights), KEY))
    late = np.arange(num) >= num // 2
    for part in (late, ~late):
        share = weights[small & part].sum() / weights.sum()
        count = (small & part)[draws].sum()
        assert abs(count - num * share) < 5 * math.sqrt(num * share)


def test_rows_without_weight_behind_the_others_change_nothing():
    weights = jnp.float32(np.random.default_rng(0).random(300))
    np.testing.assert_array_equal(
        row_plans.sample_rows(weights, KEY), row_plans.sample_rows(jnp.pad(weights, (0, 500)), KEY)[:300]
    )


# --- a refinement ---------------------------------------------------------------------------------------


def test_the_transparent_move_onto_others_and_the_number_grows_by_a_share():
    params, alive = make_problem()
    row_plan, _ = refine(MCMCStrategy(), params, alive, KEY)
    after = row_plans.apply_row_plan(row_plan, params)
    num = int(alive.sum())
    assert row_plan.num_rows == row_plan.alive.sum() == round(num * 1.05)

    before = expit(np.asarray(params["logit_opacities"], np.float64))
    kept = np.asarray(alive) & (before > 0.005)
    held = np.flatnonzero(np.asarray(row_plan.alive))
    parent = np.asarray(after["features"])[held].astype(int)
    copies = np.bincount(parent, minlength=600)
    np.testing.assert_array_equal(copies > 0, kept)  # all that can be seen stay, and only they have copies
    np.testing.assert_array_equal(np.asarray(row_plan.source)[kept], np.flatnonzero(kept))
    for name in ("means", "quats", "sh0", "shN"):
        np.testing.assert_array_equal(after[name][held], params[name][parent])

    # Each group together is as opaque as the one was, but for the clamp from below.
    opacities = expit(np.asarray(after["logit_opacities"], np.float64))
    each = 1 - (1 - before[parent]) ** (1 / copies[parent])
    np.testing.assert_allclose(opacities[held], np.maximum(each, 0.005), rtol=1e-5)
    assert (opacities[held] >= 0.005 - 1e-8).all()
    alone = copies[parent] == 1
    np.testing.assert_array_equal(after["log_scales"][held][alone], params["log_scales"][parent][alone])
    # All of a group, and only they, start their optimizer slots anew.
    np.testing.assert_array_equal(np.asarray(row_plan.fresh)[held], ~alone)


def test_growth_stops_at_the_limit():
    params, alive = make_problem()
    num = int(alive.sum())
    for limit, expected in ((num + 3, num + 3), (num - 10, num)):
        row_plan, _ = refine(MCMCStrategy(max_gaussians=limit), params, alive, KEY)
        assert row_plan.num_rows == row_plan.alive.sum() == expected


@pytest.mark.parametrize(("num", "expected"), [(1000, 1158), (1900, 2000), (5, 5), (3000, 3000)])
def test_it_expects_the_number_that_its_refinements_grow_to(num, expected):
    """By hand: after steps 600, 700 and 800, 1000 become 1050, 1102 and 1157 or 1158."""
    strategy = MCMCStrategy(max_gaussians=2000, refine_start=500, refine_every=100)
    assert abs(strategy.expected_count(num, 801) - expected) <= (1 if num == 1000 else 0)
    assert strategy.expected_count(num, 600) == num


def test_too_few_rows_are_reported_and_growing_cures_it():
    params, alive = make_problem(60)
    alive = jnp.ones_like(alive)
    row_plan, _ = refine(MCMCStrategy(), params, alive, KEY)
    assert row_plan.num_rows == 63
    wide = jax.tree.map(lambda x: jnp.pad(x, [(0, 30)] + [(0, 0)] * (x.ndim - 1)), params)
    row_plan, _ = refine(MCMCStrategy(), wide, jnp.arange(90) < 60, KEY)
    assert row_plan.num_rows == row_plan.alive.sum() == 63
    wider = jax.tree.map(lambda x: jnp.pad(x, [(0, 300)] + [(0, 0)] * (x.ndim - 1)), wide)
    again, _ = refine(MCMCStrategy(), wider, jnp.arange(390) < 60, KEY)
    np.testing.assert_array_equal(again.source[:90], row_plan.source)


def test_when_nothing_can_be_seen_the_plan_says_so():
    params, alive = make_problem()
    params["logit_opacities"] = jnp.full(600, -20.0).at[3].set(jnp.nan)
    row_plan, _ = refine(MCMCStrategy(), params, alive, KEY)
    assert row_plan.num_rows == 0 and not row_plan.alive.any()


def test_the_schedule_is_that_of_gsplat():
    strategy = MCMCStrategy()
    assert [s for s in range(30_000) if strategy.refines_after(s)] == list(range(600, 25_000, 100))


# --- every step -----------------------------------------------------------------------------------------


def test_noise_has_the_covariance_of_the_gaussian_squared():
    """mu += rate * noise * f(opacity) * Sigma @ normal has covariance (rate noise f)^2 Sigma Sigma^T."""
    num, rate = 40_000, 1.6e-4
    one = make_gaussians(1, scale=0.3, seed=3)
    one["logit_opacities"] = np.array([logit(0.008)], np.float32)
    params = {name: jnp.asarray(np.repeat(value, num, axis=0)) for name, value in one.items()}
    alive = jnp.arange(num) % 4 != 0
    moved = MCMCStrategy().move(params, alive, jnp.float32(rate), KEY)
    assert all(moved[name] is params[name] for name in params if name != "means")
    offsets = np.asarray(moved["means"] - params["means"], np.float64)
    assert not offsets[~np.asarray(alive)].any()
    offsets = offsets[np.asarray(alive)]

    rotation = Rotation.from_quat(one["quats"][0], scalar_first=True).as_matrix()
    covariance = rotation @ np.diag(np.exp(2.0 * one["log_scales"][0])) @ rotation.T
    factor = 5e5 * rate / (1 + math.exp(-100 * ((1 - 0.008) - 0.995)))
    expected = factor**2 * covariance @ covariance
    np.testing.assert_allclose(np.cov(offsets.T), expected, atol=0.03 * np.abs(expected).max())
    np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=0.03 * np.sqrt(np.trace(expected)))


def test_noise_leaves_the_opaque_where_they_are():
    params = jax.tree.map(jnp.asarray, make_gaussians(50))
    params["logit_opacities"] = jnp.full(50, logit(0.3))
    moved = MCMCStrategy().move(params, jnp.ones(50, bool), jnp.float32(1e-4), KEY)
    np.testing.assert_allclose(moved["means"], params["means"], atol=1e-9)


def test_the_penalty_is_mean_opacity_and_mean_scale_of_those_alive():
    params, alive = make_problem()
    rows = np.asarray(alive)
    expected = 0.02 * expit(np.asarray(params["logit_opacities"], np.float64))[rows].mean()
    expected += 0.03 * np.exp(np.asarray(params["log_scales"], np.float64))[rows].mean()
    strategy = MCMCStrategy(opacity_weight=0.02, scale_weight=0.03)
    assert float(strategy.penalty(params, alive)) == pytest.approx(expected, rel=1e-5)
    params["log_scales"] = params["log_scales"].at[0].set(jnp.nan)
    assert jnp.isfinite(strategy.penalty(params, alive))
    grads = jax.grad(lambda p: strategy.penalty(p, alive))(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_new_gaussians_start_as_those_of_the_authors():
    gaussians = splax.Gaussians.from_points(np.random.default_rng(0).normal(size=(20, 3)))
    scales = np.asarray(gaussians.scales)
    MCMCStrategy().adapt_start(gaussians)
    np.testing.assert_allclose(gaussians.opacities, 0.5)
    np.testing.assert_allclose(gaussians.scales, scales / 10, rtol=1e-5)


@pytest.mark.parametrize(
    "setting",
    [
        {"max_gaussians": 0},
        {"growth": 0.9},
        {"growth": float("nan")},
        {"min_opacity": 0.0},
        {"noise": -1.0},
        {"opacity_weight": -1.0},
        {"scale_weight": float("inf")},
        {"refine_every": 0},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=name):
        MCMCStrategy(**setting)


# --- in a run -------------------------------------------------------------------------------------------


def test_it_trains_grows_to_its_limit_and_repeats_to_the_bit():
    scene = splax.make_demo_scene(num_train=6, num_test=2, width=32, height=24)
    strategy = MCMCStrategy(max_gaussians=140, growth=1.2, refine_start=0, refine_every=10)
    results = []
    for _ in range(2):
        trainer = make_dense_trainer(scene, make_gaussians_of(scene, 100), strategy=strategy)
        trainer.fit()
        gaussians = trainer.model.gaussians
        assert int(gaussians.num_alive) == 140 == gaussians.capacity
        assert trainer.history[-1].psnr > trainer.history[0].psnr + 1
        results.append(np.asarray(gaussians.means[...]))
    np.testing.assert_array_equal(*results)
