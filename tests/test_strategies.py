"""DefaultStrategy against adaptive density control written with lists that really grow and shrink."""

import dataclasses
import functools
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_gaussians
from scipy.special import expit, logit

from splax.strategies import DefaultStrategy, MCMCStrategy, StepObservation, Strategy, row_plans

KEY = jax.random.key(0)


def density_control(
    rows: list[dict[str, Any]], *, extent: float, too_big: bool, revised: bool = False, reset: bool = False
) -> list[dict[str, Any]]:
    """Kerbl et al. 2023, section 5, one Gaussian at a time; a split child's centre is left at its parent's."""
    grown = []
    for row in rows:
        if not row["grad"] > 2e-4:
            grown.append(row)
        else:
            child = dict(row)
            if row["scales"].max() > 0.01 * extent:
                child |= {"scales": row["scales"] / 1.6, "split": True}
            if revised:
                child["opacity"] = 1 - np.sqrt(1 - row["opacity"])
            grown += [child, child]
    kept = [row for row in grown if row["opacity"] >= 0.005]
    if too_big:
        kept = [row for row in kept if row["scales"].max() <= 0.1 * extent]
    return [{**row, "opacity": min(row["opacity"], 0.01)} for row in kept] if reset else kept


def make_problem(num: int = 600, *, alive_share: float = 0.4, extent: float = 1.0, seed: int = 0):
    """Params with an extra one that says which row each came from, a mask, and a state that makes all happen."""
    rng = np.random.default_rng(seed)
    params = make_gaussians(num, sh_degree=1, seed=seed)
    params["log_scales"] = np.log(extent * rng.choice([0.004, 0.05, 0.12, 0.3], size=(num, 1)))
    params["log_scales"] = params["log_scales"].astype(np.float32) - rng.random((num, 3), np.float32)
    params["logit_opacities"] = rng.choice([-7.0, -5.2, -5.0, 0.0, 2.0], size=num).astype(np.float32)
    params["features"] = np.repeat(np.arange(num, dtype=np.float32)[:, None], 8, axis=1)
    params = jax.tree.map(jnp.asarray, params)
    alive = jnp.asarray(rng.random(num) < alive_share)
    count = rng.integers(0, 4, size=num).astype(np.float32)
    grad2d = count * rng.choice([1e-4, 3e-4], size=num).astype(np.float32)
    return params, alive, {"grad2d": jnp.asarray(grad2d), "count": jnp.asarray(count)}


def as_list(params, alive, state) -> list[dict[str, Any]]:
    grads = np.asarray(state["grad2d"]) / np.maximum(np.asarray(state["count"]), 1)
    return [
        {
            "id": row,
            "grad": grads[row],
            "scales": np.exp(np.asarray(params["log_scales"][row], np.float64)),
            "opacity": expit(np.asarray(params["logit_opacities"][row], np.float64)),
            "split": False,
        }
        for row in np.flatnonzero(np.asarray(alive))
    ]


def rounded(identity, scales, opacity) -> tuple:
    return (int(identity), *(float(f"{x:.3g}") for x in (*scales, opacity)))


def refine_eagerly(strategy, params, alive, state, step, extent, key):
    row_plan, state = strategy.refine(params, alive, state, step, extent, key)
    return row_plan, row_plans.apply_row_plan(row_plan, params), state


refine_compiled = jax.jit(refine_eagerly, static_argnums=0)


def refine(strategy, params, alive, state, step, extent=1.0, key=KEY, jit=True):
    run = refine_compiled if jit else refine_eagerly
    return run(strategy, params, alive, state, jnp.asarray(step), jnp.float32(extent), key)


@pytest.mark.parametrize("revised", [False, True])
@pytest.mark.parametrize(
    ("step", "too_big", "reset"), [(600, False, False), (3000, False, True), (3100, True, False)]
)
@pytest.mark.parametrize("extent", [1.0, 5.0])
def test_the_same_gaussians_as_lists_that_grow_and_shrink(step, too_big, reset, revised, extent):
    params, alive, state = make_problem(extent=extent)
    rows = as_list(params, alive, state)
    expected = density_control(rows, extent=extent, too_big=too_big, revised=revised, reset=reset)
    assert {row["split"] for row in expected} == {False, True}

    strategy = DefaultStrategy(revised_opacity=revised, prune_scale3d=0.1)
    row_plan, after, state = refine(strategy, params, alive, state, step, extent)

    assert row_plan.num_rows == len(expected) == row_plan.alive.sum()
    held = np.flatnonzero(np.asarray(row_plan.alive))
    scales = np.exp(np.asarray(after["log_scales"], np.float64))
    opacities = expit(np.asarray(after["logit_opacities"], np.float64))
    actual = Counter(rounded(after["features"][row, 0], scales[row], opacities[row]) for row in held)
    assert actual == Counter(rounded(row["id"], row["scales"], row["opacity"]) for row in expected)

    # What no rule speaks of comes from the parent, and so does the centre of all but the split.
    parent = np.asarray(after["features"][held, 0], int)
    was_split = {row["id"] for row in expected if row["split"]}
    same_place = np.array([p not in was_split for p in parent])
    for name in ("quats", "sh0", "shN", "features"):
        np.testing.assert_array_equal(after[name][held], params[name][parent])
    moved = (np.asarray(after["means"])[held] != np.asarray(params["means"])[parent]).any(axis=1)
    np.testing.assert_array_equal(moved, ~same_place)

    # Both halves of a split and the copy of a clone are new to the optimizer; the clone's original is not.
    fresh = Counter(parent[np.asarray(row_plan.fresh)[held]].tolist())
    births = Counter(parent.tolist())
    assert fresh == {p: 2 if p in was_split else 1 for p, n in births.items() if n == 2}
    assert bool(row_plan.reset["logit_opacities"]) == reset
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(state))


def test_split_children_lie_within_their_parent():
    params, alive, state = make_problem()
    _, after, _ = refine(DefaultStrategy(), params, alive, state, 600)
    parent = np.asarray(after["features"][:, 0], int)
    offset = np.asarray(after["means"]) - np.asarray(params["means"])[parent]
    size = np.exp(np.asarray(params["log_scales"])[parent]).max(axis=1)
    distance = np.linalg.norm(offset, axis=1) / size
    assert distance.max() < 6 and np.mean(distance[distance > 0]) > 0.5


def test_jit_changes_nothing_and_the_same_key_gives_the_same_plan():
    params, alive, state = make_problem()
    eager, compiled, again = (
        refine(DefaultStrategy(), params, alive, state, 3000, jit=jit)[0] for jit in (False, True, True)
    )
    for a, b in zip(jax.tree.leaves(compiled), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_another_key_moves_only_the_split():
    params, alive, state = make_problem()
    one, *_ = refine(DefaultStrategy(), params, alive, state, 600)
    two, *_ = refine(DefaultStrategy(), params, alive, state, 600, key=jax.random.key(1))
    assert (one.values["means"] != two.values["means"]).any()
    for plan in (one, two):
        plan.values.pop("means")
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_number_of_rows_does_not_matter():
    params, alive, state = make_problem()
    strategy = DefaultStrategy()
    wide = jax.tree.map(lambda x: np.pad(x, [(0, 37)] + [(0, 0)] * (x.ndim - 1)), params)
    small, small_params, _ = refine(strategy, params, alive, state, 600)
    large, large_params, _ = refine(
        strategy, wide, np.pad(alive, (0, 37)), strategy.grow_state(state, len(alive) + 37), 600
    )
    np.testing.assert_array_equal(large.alive[:-37], small.alive)
    assert not large.alive[-37:].any()
    # But for last bits: another number of rows is cut into vectors in another way.
    for name, value in small_params.items():
        np.testing.assert_allclose(large_params[name][:-37], value, rtol=1e-6, atol=1e-7, err_msg=name)


def test_too_few_rows_are_reported_and_growing_cures_it():
    params, alive, state = make_problem(alive_share=1.0)
    strategy = DefaultStrategy()
    row_plan, *_ = refine(strategy, params, alive, state, 600)
    needed = int(row_plan.num_rows)
    expected = len(density_control(as_list(params, alive, state), extent=1.0, too_big=False))
    assert needed == expected > len(alive)

    more = needed - len(alive)
    params = jax.tree.map(lambda x: np.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1)), params)
    row_plan, *_ = refine(strategy, params, np.pad(alive, (0, more)), strategy.grow_state(state, needed), 600)
    assert row_plan.num_rows == needed == row_plan.alive.sum()


def test_a_limit_lets_the_highest_gradients_grow():
    room = 40
    params, alive, state = make_problem(alive_share=0.4)
    rng = np.random.default_rng(1)
    params["logit_opacities"] = jnp.zeros(len(alive))
    state = {"grad2d": jnp.asarray(rng.random(len(alive)), jnp.float32), "count": jnp.ones(len(alive))}
    limit = int(alive.sum()) + room
    row_plan, after, _ = refine(DefaultStrategy(max_gaussians=limit), params, alive, state, 600)
    assert row_plan.num_rows == limit
    grown = {i for i, n in Counter(np.asarray(after["features"][row_plan.alive, 0], int)).items() if n == 2}
    order = np.argsort(-np.where(alive, state["grad2d"], -1))
    assert grown == set(order[:room].tolist())


def test_a_limit_already_passed_grows_nothing():
    params, alive, state = make_problem()
    row_plan, *_ = refine(DefaultStrategy(max_gaussians=3), params, alive, state, 600)
    assert (np.asarray(row_plan.source) == np.arange(len(alive))).all()


def test_when_everything_dies_the_plan_says_so():
    params, alive, state = make_problem()
    params["logit_opacities"] = jnp.full(len(alive), -20.0)
    row_plan, after, _ = refine(DefaultStrategy(), params, alive, state, 600)
    assert row_plan.num_rows == 0 and not row_plan.alive.any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize(("grad", "num_rows"), [(0.0, 1), (1.0, 2)])
def test_a_single_row(grad, num_rows):
    params = {name: jnp.asarray(value) for name, value in make_gaussians(1).items()}
    state = {"grad2d": jnp.full(1, grad), "count": jnp.ones(1)}
    params["logit_opacities"] = jnp.zeros(1)
    row_plan, _, _ = refine(DefaultStrategy(), params, jnp.ones(1, bool), state, 600)
    assert row_plan.num_rows == num_rows


def test_a_gaussian_that_is_nan_is_removed_and_dead_rows_stay_finite():
    params, alive, state = make_problem()
    victims = np.flatnonzero(np.asarray(alive))[:2]
    params["logit_opacities"] = params["logit_opacities"].at[victims[0]].set(jnp.nan)
    params["quats"] = jnp.where(alive[:, None], params["quats"], 0)
    state["grad2d"] = state["grad2d"].at[victims[1]].set(jnp.nan)
    row_plan, after, state = refine(DefaultStrategy(), params, alive, state, 600)
    assert all(np.isfinite(leaf[row_plan.alive]).all() for leaf in jax.tree.leaves(after))
    assert (state["grad2d"] == 0).all()


@functools.partial(jax.jit, static_argnums=0)
def see(strategy, state, grad2d, radii):
    return strategy.update(state, StepObservation(grad2d, radii, 640, 360))


def test_what_is_too_wide_on_the_image_is_split_or_removed():
    strategy = DefaultStrategy(refine_scale2d_stop=5000)
    params = jax.tree.map(jnp.asarray, make_gaussians(4, scale=1e-3))
    params["logit_opacities"] = jnp.zeros(4)
    radii = np.array([[10, 31], [33, 5], [97, 5], [500, 500]]) * 1.0
    state = strategy.init(4)
    state = see(strategy, state, jnp.zeros((4, 2)), jnp.asarray(radii, jnp.float32))
    state = see(strategy, state, jnp.zeros((4, 2)), jnp.zeros((4, 2)))  # the widest so far counts
    np.testing.assert_allclose(state["radius"], radii.max(axis=1) / 640, rtol=1e-6)

    wide = jax.tree.map(lambda x: jnp.pad(x, [(0, 8)] + [(0, 0)] * (x.ndim - 1)), params)
    for step, copies in ((600, [1, 2, 2, 2]), (3100, [1, 2, 0, 0]), (5000, [1, 1, 1, 1])):
        row_plan, after, reset = refine(
            strategy, wide, jnp.arange(12) < 4, strategy.grow_state(state, 12), step, extent=10.0
        )
        held = np.asarray(row_plan.source)[np.asarray(row_plan.alive)]
        assert np.bincount(held, minlength=4).tolist() == copies
        assert not reset["radius"].any()
        split = np.asarray(after["log_scales"])[np.asarray(row_plan.alive)][held == 1]
        shrink = np.log(1.6) if step < 5000 else 0
        np.testing.assert_allclose(
            split, np.tile(params["log_scales"][1] - shrink, (copies[1], 1)), rtol=1e-5
        )


def test_gradients_are_averaged_over_the_steps_that_saw_them_per_half_image():
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(5, 7, 2))
    visible = rng.random((5, 7)) < 0.5
    visible[:, 0] = False
    grads[~visible] = np.nan  # what no step saw counts for nothing
    strategy = DefaultStrategy()
    state = strategy.init(7)
    for grad, seen in zip(grads, visible, strict=True):
        radii = jnp.asarray(3.0 * seen)[:, None].repeat(2, axis=1)
        state = see(strategy, state, jnp.asarray(grad, jnp.float32), radii)
    norms = np.linalg.norm(grads * [320, 180], axis=-1)
    np.testing.assert_allclose(state["grad2d"], np.where(visible, norms, 0).sum(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(state["count"], visible.sum(axis=0))


def test_the_schedule_is_that_of_gsplat():
    strategy = DefaultStrategy()
    due = [step for step in range(20_000) if strategy.refines_after(step)]
    assert due == list(range(600, 15_000, 100))

    strategy = DefaultStrategy(refine_start=10, refine_stop=60, refine_every=20, reset_every=15)
    due = [step for step in range(100) if strategy.refines_after(step)]
    assert due == [15, 20, 30, 40, 45]


@pytest.mark.parametrize(
    ("stop", "due"), [(None, [3000, 6000]), (6000, [3000]), (9000, [3000, 6000]), (0, [])]
)
def test_resets_end_before_the_run_or_with_the_refinements(stop, due):
    strategy = DefaultStrategy(refine_stop=8000, reset_stop=stop)
    params, alive, state = make_problem()
    steps = (1, 3000, 6000, 9000)
    lowered = [
        step
        for step in steps
        if bool(refine(strategy, params, alive, state, step)[0].reset["logit_opacities"])
    ]
    assert lowered == due


def test_a_reset_between_refinements_only_resets():
    params, alive, state = make_problem()
    strategy = DefaultStrategy(refine_start=0, refine_every=20, reset_every=15)
    row_plan, after, new_state = refine(strategy, params, alive, state, 15)
    np.testing.assert_array_equal(row_plan.source, np.arange(len(alive)))
    np.testing.assert_array_equal(row_plan.alive, alive)
    np.testing.assert_allclose(
        after["logit_opacities"], np.minimum(params["logit_opacities"], logit(0.01)), rtol=1e-5
    )
    for name in state:
        np.testing.assert_array_equal(new_state[name], state[name])


def test_before_it_is_due_nothing_happens():
    params, alive, state = make_problem()
    row_plan, after, new_state = refine(DefaultStrategy(), params, alive, state, 500)
    for a, b in zip(jax.tree.leaves((after, new_state)), jax.tree.leaves((params, state)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(row_plan.alive, alive)
    assert not row_plan.reset["logit_opacities"]


def test_the_base_strategy_keeps_the_gaussians_there_are():
    params, alive, _ = make_problem()
    strategy = Strategy()
    state = strategy.update(strategy.init(600), StepObservation(jnp.ones((600, 2)), jnp.ones((600, 2)), 8, 8))
    assert strategy.penalty(params, alive) == 0 and strategy.limit is None
    assert strategy.move(params, alive, jnp.float32(1), KEY) is params
    row_plan, after, _ = refine(strategy, params, alive, state, 600)
    assert not any(strategy.refines_after(step) for step in range(10_000))
    np.testing.assert_array_equal(row_plan.alive, alive)
    for name, value in params.items():
        np.testing.assert_array_equal(after[name], value)
    assert jax.tree.leaves(strategy.grow_state(state, 700)) == []


def test_a_grown_state_is_padded_with_zeros():
    strategy = DefaultStrategy()
    state = strategy.grow_state({"grad2d": jnp.ones(3), "count": jnp.full(3, 2.0)}, 5)
    np.testing.assert_array_equal(state["grad2d"], [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(state["count"], [2, 2, 2, 0, 0])


@pytest.mark.parametrize(
    "setting",
    [
        {"grow_grad2d": 0.0},
        {"grow_grad2d": float("nan")},
        {"grow_scale3d": -1.0},
        {"prune_scale3d": 0.0},
        {"grow_scale2d": 0.0},
        {"prune_scale2d": 0.0},
        {"refine_scale2d_stop": -1},
        {"prune_opacity": 0.0},
        {"prune_opacity": 0.5},
        {"refine_start": -1},
        {"refine_stop": -1},
        {"refine_every": 0},
        {"reset_every": 0},
        {"reset_stop": -1},
        {"max_gaussians": 0},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=name):
        DefaultStrategy(**setting)


def test_strategies_are_frozen_and_compare_by_their_settings():
    assert DefaultStrategy() == DefaultStrategy() and hash(DefaultStrategy()) == hash(DefaultStrategy())
    with pytest.raises(dataclasses.FrozenInstanceError):
        DefaultStrategy().refine_every = 1  # type: ignore[misc]


def test_by_default_none_is_too_large():
    """Walls and skies want Gaussians that are; the same plan as before sizes count."""
    params, alive, state = make_problem()
    expected = density_control(as_list(params, alive, state), extent=1.0, too_big=False)
    row_plan, _, _ = refine(DefaultStrategy(), params, alive, state, 3100)
    assert row_plan.num_rows == len(expected)


@pytest.mark.parametrize(("own", "limit", "expected"), [(None, 50, 50), (20, 50, 20), (80, 50, 50)])
def test_a_limit_from_outside_only_lowers_a_strategys_own(own, limit, expected):
    assert DefaultStrategy(max_gaussians=own).limited_to(limit).limit == expected
    assert MCMCStrategy(max_gaussians=own or 1000).limited_to(limit).limit == min(expected, own or 1000)
    assert Strategy().limited_to(limit) == Strategy()
