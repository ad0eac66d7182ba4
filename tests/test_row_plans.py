"""Plans for rows: pairing births with free rows, splitting, resetting, carrying out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_gaussians
from scipy.spatial.transform import Rotation
from scipy.special import expit

from splax.strategies import RowPlan, row_plans


def masks(text: str) -> jax.Array:
    return jnp.array([letter == "1" for letter in text])


@pytest.mark.parametrize(
    ("parents", "free", "source", "born"),
    [
        ("110000", "001010", [0, 1, 0, 3, 1, 5], "001010"),
        ("000000", "111111", [0, 1, 2, 3, 4, 5], "000000"),
        ("111111", "000000", [0, 1, 2, 3, 4, 5], "000000"),
        ("000111", "100000", [3, 1, 2, 3, 4, 5], "100000"),  # the last two find no room
        ("000001", "111110", [5, 1, 2, 3, 4, 5], "100000"),
        ("1", "0", [0], "0"),
        ("0", "1", [0], "0"),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_the_kth_parent_gets_the_kth_free_row(parents, free, source, born, jit):
    pair = jax.jit(row_plans.pair_rows) if jit else row_plans.pair_rows
    actual_source, actual_born = pair(masks(parents), masks(free))
    np.testing.assert_array_equal(actual_source, source)
    np.testing.assert_array_equal(actual_born, masks(born))


def test_copies_and_removals_equal_growing_and_shrinking_lists():
    rng = np.random.default_rng(0)
    plan = jax.jit(row_plans.copy_and_remove)
    for num in (1, 2, 7, 40) * 12:
        alive, copied, removed = (rng.random(num) < p for p in (0.6, 0.3, 0.3))
        names = np.arange(num)
        expected = [n for n in names if alive[n] and not removed[n]]
        expected += [n for n in expected if copied[n]]

        row_plan = plan(*map(jnp.asarray, (alive, copied, removed)))

        assert row_plan.num_rows == len(expected)
        if len(expected) <= num:
            held = names[np.asarray(row_plan.source)][np.asarray(row_plan.alive)]
            assert sorted(held) == sorted(expected)
            kept = np.asarray(row_plan.alive) & ~np.asarray(row_plan.fresh)
            np.testing.assert_array_equal(kept, alive & ~removed)
            np.testing.assert_array_equal(np.asarray(row_plan.source)[kept], names[kept])


def test_a_birth_may_take_the_row_of_a_removed_gaussian():
    row_plan = row_plans.copy_and_remove(masks("111"), copied=masks("100"), removed=masks("010"))
    np.testing.assert_array_equal(row_plan.source, [0, 0, 2])
    np.testing.assert_array_equal(row_plan.fresh, [False, True, False])
    assert row_plan.num_rows == 3


def test_too_many_births_are_reported():
    row_plan = row_plans.copy_and_remove(masks("1111"), copied=masks("1110"), removed=masks("0001"))
    assert row_plan.num_rows == 6


def test_dead_rows_are_fresh_so_that_no_momentum_moves_them():
    row_plan = row_plans.copy_and_remove(masks("110"), copied=masks("000"), removed=masks("010"))
    np.testing.assert_array_equal(row_plan.fresh, [False, True, True])
    np.testing.assert_array_equal(RowPlan.nothing(masks("10")).fresh, [False, True])


def test_split_scales_and_opacities_equal_the_closed_forms():
    scales = np.array([[1e-4, 0.3, 20.0]])
    np.testing.assert_allclose(np.exp(row_plans.split_log_scales(jnp.log(scales))), scales / 1.6, rtol=1e-5)
    logits = np.linspace(-12, 12, 49)
    opacities = expit(logits)
    halves = expit(np.asarray(row_plans.split_logit_opacities(jnp.asarray(logits, jnp.float32)), np.float64))
    np.testing.assert_allclose(halves, 1 - np.sqrt(1 - opacities), rtol=1e-4)
    # Seen one behind the other, the halves are as opaque as the whole.
    np.testing.assert_allclose(1 - (1 - halves) ** 2, opacities, rtol=1e-4)


def test_split_opacities_stay_finite_where_the_sigmoid_saturates():
    assert np.isfinite(row_plans.split_logit_opacities(jnp.array([-40.0, 40.0, 300.0, 1e4]))).all()


def test_split_centres_are_drawn_from_the_parent_independently_for_each_child():
    num = 20_000
    quat, scales, mean = np.array([0.3, -1.2, 0.4, 2.0]), np.array([0.1, 1.0, 5.0]), np.array([1.0, 2.0, 3.0])
    params = {
        "means": jnp.tile(jnp.asarray(mean, jnp.float32), (2 * num, 1)),
        "quats": jnp.tile(jnp.asarray(quat, jnp.float32), (2 * num, 1)),
        "log_scales": jnp.tile(jnp.log(jnp.asarray(scales, jnp.float32)), (2 * num, 1)),
    }
    first = jnp.arange(2 * num) < num
    row_plan = row_plans.copy_and_remove(first, copied=first, removed=~first)
    row_plan = row_plans.scatter_split(row_plan, params, first, jax.random.key(3))
    assert np.asarray(row_plan.fresh).all()

    rotation = Rotation.from_quat(quat, scalar_first=True).as_matrix()
    noise = (np.asarray(row_plan.values["means"]) - mean) @ rotation / scales  # in the parent's frame
    siblings = np.concatenate([noise[:num], noise[num:]], axis=1)
    error = 5 / np.sqrt(num)
    np.testing.assert_allclose(siblings.mean(axis=0), np.zeros(6), atol=error)
    np.testing.assert_allclose(np.cov(siblings.T), np.eye(6), atol=2 * error)


def test_scatter_split_leaves_the_others_alone_whatever_they_hold():
    params = {name: jnp.asarray(value) for name, value in make_gaussians(4).items()}
    params["quats"] = params["quats"].at[1].set(0).at[3].set(jnp.nan)
    row_plan = row_plans.copy_and_remove(masks("1110"), copied=masks("1000"), removed=masks("0000"))
    with jax.debug_nans(True):
        means = row_plans.scatter_split(row_plan, params, masks("1000"), jax.random.key(0)).values["means"]
    np.testing.assert_array_equal(means[1:3], params["means"][1:3])
    assert (means[0] != params["means"][0]).all() and (means[3] != means[0]).all()


def test_resetting_opacities_lowers_them_and_never_raises_one():
    logits = jnp.array([-9.0, 0.0, 3.0])
    row_plan = row_plans.reset_opacities(
        RowPlan.nothing(masks("111")), {"logit_opacities": logits}, 0.01, True
    )
    after = expit(np.asarray(row_plan.values["logit_opacities"]))
    np.testing.assert_allclose(after, [expit(-9.0), 0.01, 0.01], rtol=1e-5)
    assert row_plan.reset["logit_opacities"]

    row_plan = row_plans.reset_opacities(
        RowPlan.nothing(masks("111")), {"logit_opacities": logits}, 0.01, False
    )
    np.testing.assert_array_equal(row_plan.values["logit_opacities"], logits)
    assert not row_plan.reset["logit_opacities"]


def test_every_param_moves_without_being_named():
    params = {
        "means": jnp.arange(9.0).reshape(3, 3),
        "features": jnp.arange(24.0).reshape(3, 8),
        "labels": jnp.arange(3),
        "head": {"weights": jnp.arange(12.0, dtype=jnp.bfloat16).reshape(3, 2, 2)},
    }
    row_plan = row_plans.copy_and_remove(masks("110"), copied=masks("010"), removed=masks("000"))
    row_plan = row_plan._replace(values={"means": jnp.full((3, 3), 7.0)})
    moved = row_plans.apply_row_plan(row_plan, params)
    assert list(moved) == list(params)
    np.testing.assert_array_equal(moved["means"], np.full((3, 3), 7.0))
    np.testing.assert_array_equal(moved["features"], np.arange(24.0).reshape(3, 8)[[0, 1, 1]])
    np.testing.assert_array_equal(moved["labels"], [0, 1, 1])
    assert moved["labels"].dtype == params["labels"].dtype
    assert moved["head"]["weights"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(moved["head"]["weights"][2], params["head"]["weights"][1])


def test_doing_nothing_keeps_every_row():
    params = {name: jnp.asarray(value) for name, value in make_gaussians(5).items()}
    moved = row_plans.apply_row_plan(RowPlan.nothing(masks("10110")), params)
    for name, value in params.items():
        np.testing.assert_array_equal(moved[name], value)
