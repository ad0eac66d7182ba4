"""The optimizer against optax and closed forms; row plans on the state of many optimizers."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import make_gaussians

from splax.strategies import RowPlan, row_plans
from splax.training.optimizers import LearningRates, grow_slots, make_optimizer, move_slots

NUM = 6


@dataclasses.dataclass
class Path:
    keys: Any


class Table(NamedTuple):
    rows: jax.Array


def with_table() -> optax.GradientTransformation:
    """Keeps a table that happens to have N rows, which is no Gaussian's."""

    def init(params: Any) -> Table:
        del params
        return Table(jnp.arange(2.0 * NUM).reshape(NUM, 2))

    return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


def label(params: Any) -> Any:
    def name(path: Any, _: Any) -> str:
        return "fast" if "means" in jax.tree_util.keystr(path) else "slow"

    return jax.tree_util.tree_map_with_path(name, params)


OPTIMIZERS = {
    "ours": make_optimizer(extent=2.0, steps=10),
    "adam": optax.adam(1e-2),
    "amsgrad": optax.amsgrad(1e-2),
    "multi_transform": optax.multi_transform({"fast": optax.adam(1e-2), "slow": optax.sgd(1e-2, 0.9)}, label),
    "clip and adam": optax.chain(optax.clip(0.5), optax.adam(1e-2), with_table()),
    "momentum": optax.sgd(1e-2, momentum=0.9, nesterov=True),
    "masked": optax.masked(optax.adam(1e-2), {"gaussians": True, "poses": False}),
    "hyperparameters": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "adagrad": optax.adagrad(1e-2),
    "multi steps": optax.MultiSteps(optax.adam(1e-2), 1).gradient_transformation(),
}
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def make_params(num: int = NUM) -> dict[str, Any]:
    """Params of a model: Gaussians with features of their own, and one pose for each of N views."""
    gaussians = make_gaussians(num, sh_degree=1) | {"features": np.ones((num, 8), np.float32)}
    return jax.tree.map(jnp.asarray, {"gaussians": gaussians, "poses": np.ones((NUM, 6), np.float32)})


def make_grads(params: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)


@functools.partial(jax.jit, static_argnums=0)
def step(optimizer: Any, params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def train(optimizer: Any, params: Any, state: Any, grads: Sequence[Any]) -> tuple[Any, Any]:
    for grad in grads:
        params, state = step(optimizer, params, state, grad)
    return params, state


def trained(optimizer: Any, params: Any, seeds: range = range(3)) -> tuple[Any, Any]:
    return train(
        optimizer, params, jax.jit(optimizer.init)(params), [make_grads(params, seed) for seed in seeds]
    )


def make_row_plan(source: Sequence[int], fresh: Sequence[int] = (), **reset: bool) -> RowPlan:
    alive = jnp.ones(len(source), bool)
    is_fresh = jnp.asarray([row in fresh for row in range(len(source))])
    flags = {name: jnp.asarray(flag) for name, flag in reset.items()}
    return RowPlan(jnp.asarray(source), alive, is_fresh, {}, flags, alive.sum())


@functools.partial(jax.jit, static_argnums=0)
def operate(optimizer: Any, params: Any, state: Any, row_plan: RowPlan) -> tuple[Any, Any]:
    params = {**params, "gaussians": row_plans.apply_row_plan(row_plan, params["gaussians"])}
    return params, move_slots(optimizer, state, params, row_plan)


def assert_trees_equal(actual: Any, expected: Any, **tolerance: float) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 0, **tolerance})


# The optimizer itself.


def test_every_param_gets_adam_at_its_own_rate():
    params = make_params()
    grads = [make_grads(params, seed) for seed in range(5)]
    optimizer = make_optimizer(extent=2.0, steps=10)
    actual, _ = train(optimizer, params, optimizer.init(params), grads)

    rates = {"means": lambda step: 2.0 * 1.6e-4 * 0.01 ** (step / 10), "quats": 1e-3, "log_scales": 5e-3}
    rates |= {"logit_opacities": 5e-2, "sh0": 2.5e-3, "shN": 1.25e-4, "features": 2.5e-3}
    for name, rate in rates.items():
        alone = optax.adam(rate, b1=0.9, b2=0.999, eps=1e-15)
        start = params["gaussians"][name]
        expected, _ = train(alone, start, alone.init(start), [grad["gaussians"][name] for grad in grads])
        np.testing.assert_allclose(actual["gaussians"][name], expected, rtol=1e-5, atol=1e-7, err_msg=name)
    alone = optax.adam(2.5e-3, eps=1e-15)
    expected, _ = train(
        alone, params["poses"], alone.init(params["poses"]), [grad["poses"] for grad in grads]
    )
    np.testing.assert_allclose(actual["poses"], expected, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 50, 100, 150])
def test_the_rate_of_the_means_decays_to_a_hundredth(count):
    # Under a constant gradient every step of Adam is as long as its rate.
    params = {"gaussians": {"means": jnp.zeros((1, 3)), "quats": jnp.zeros((1, 4))}}
    grads = jax.tree.map(jnp.ones_like, params)
    optimizer: Any = make_optimizer(extent=3.0, steps=100)
    state = jax.lax.fori_loop(
        0, count, lambda _, state: optimizer.update(grads, state)[1], optimizer.init(params)
    )
    updates, _ = optimizer.update(grads, state)
    decay = {0: 1.0, 50: 0.1, 100: 0.01, 150: 0.01}[count]
    np.testing.assert_allclose(updates["gaussians"]["means"], np.full((1, 3), -4.8e-4 * decay), rtol=1e-4)
    np.testing.assert_allclose(updates["gaussians"]["quats"], np.full((1, 4), -1e-3), rtol=1e-4)


def test_a_subclass_sets_the_rate_of_its_own_param():
    @dataclasses.dataclass(frozen=True)
    class Rates(LearningRates):
        features: float = 0.5

    params = make_params()
    optimizer: Any = make_optimizer(extent=1.0, steps=1, rates=Rates(others=0.0))
    after, _ = train(optimizer, params, optimizer.init(params), [jax.tree.map(jnp.ones_like, params)])
    np.testing.assert_allclose(after["gaussians"]["features"], np.full((NUM, 8), 0.5), rtol=1e-5)
    np.testing.assert_array_equal(after["poses"], params["poses"])


def test_gradients_that_are_zero_or_tiny_give_no_nan():
    params = make_params()
    optimizer = make_optimizer(extent=1.0, steps=10)
    for size in (0.0, 1e-38, 1e-30, 1e-20, 1e-12):
        grads = jax.tree.map(lambda p, size=size: jnp.full_like(p, size), params)
        after, state = train(optimizer, params, optimizer.init(params), [grads] * 3)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, state)))
        moved = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (after, params)), strict=True))
        assert moved <= 3 * 5e-2 * 1.01
        assert size > 0 or moved == 0


@pytest.mark.parametrize(
    "setting",
    [{"means": -1.0}, {"quats": float("nan")}, {"others": float("inf")}, {"means_final": 0.0}],
)
def test_a_rate_out_of_range_is_refused_by_name(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        LearningRates(**setting)


@pytest.mark.parametrize(("extent", "steps"), [(0.0, 10), (float("nan"), 10), (float("inf"), 10), (1.0, 0)])
def test_an_extent_or_a_length_out_of_range_is_refused(extent, steps):
    with pytest.raises(ValueError, match="extent > 0, steps >= 1 and batch_size >= 1"):
        make_optimizer(extent=extent, steps=steps)


# What a row plan does to the state of any optimizer.


@each_optimizer
def test_slots_move_with_their_rows_and_start_anew_where_fresh(optimizer):
    params, state = trained(optimizer, make_params())
    row_plan = make_row_plan([0, 3, 3, 2, 5, 5], fresh=[2, 4], logit_opacities=True, sh0=False)
    _, moved = operate(optimizer, params, state, row_plan)
    initial = np.float32(
        0.1 if optimizer is OPTIMIZERS["adagrad"] else 0
    )  # in every slot of these optimizers

    def expected_slot(slot: Any, place: Path) -> Any:
        if isinstance(slot, optax.MaskedNode) or place.keys[0].key != "gaussians":
            return slot
        expected = np.array(slot)[[0, 3, 3, 2, 5, 5]]
        expected[[2, 4]] = initial
        return np.full_like(expected, initial) if place.keys[1].key == "logit_opacities" else expected

    # optax's own way to find the slots, which is not how move_slots does it.
    expected = optax.tree_utils.tree_map_params(
        optimizer,
        expected_slot,
        state,
        jax.tree_util.tree_map_with_path(lambda path, _: Path(path), params),
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )
    assert_trees_equal(moved, expected)


@each_optimizer
def test_the_order_of_the_rows_does_not_matter(optimizer):
    order = [3, 1, 5, 0, 2, 4]
    params, state = trained(optimizer, make_params())
    shuffled, moved = operate(optimizer, params, state, make_row_plan(order))
    grads = make_grads(params, 9)
    shuffled_grads = {**grads, "gaussians": jax.tree.map(lambda g: g[jnp.asarray(order)], grads["gaussians"])}
    expected, _ = train(optimizer, params, state, [grads])
    actual, _ = train(optimizer, shuffled, moved, [shuffled_grads])
    for name, value in expected["gaussians"].items():
        np.testing.assert_allclose(
            actual["gaussians"][name], value[np.asarray(order)], rtol=1e-6, err_msg=name
        )
    np.testing.assert_allclose(actual["poses"], expected["poses"], rtol=1e-6)


@each_optimizer
@pytest.mark.parametrize("num", [1, NUM])
def test_grown_slots_equal_those_of_rows_there_from_the_start(optimizer, num):
    small = make_params(num)

    def grow(tree: Any) -> Any:
        def pad(x: Any) -> Any:
            return np.pad(x, [(0, 3)] + [(0, 0)] * (x.ndim - 1))

        return {**tree, "gaussians": jax.tree.map(pad, tree["gaussians"])}

    grads = [make_grads(small, seed) for seed in range(3)]
    params, state = train(optimizer, small, optimizer.init(small), grads)
    _, expected = train(optimizer, grow(small), optimizer.init(grow(small)), [grow(grad) for grad in grads])
    grown = jax.jit(grow_slots, static_argnums=(0, 3))
    assert_trees_equal(grown(optimizer, state, params, num + 3), expected, rtol=1e-6)
    assert_trees_equal(grown(optimizer, state, grow(params), num + 3), expected, rtol=1e-6)


def test_jit_changes_nothing():
    optimizer = OPTIMIZERS["ours"]
    params, state = trained(optimizer, make_params())
    row_plan = make_row_plan([0, 3, 3, 2, 5, 5], fresh=[2, 4], logit_opacities=True)
    after, moved = operate(optimizer, params, state, row_plan)
    assert_trees_equal(move_slots(optimizer, state, after, row_plan), moved)


def test_capacity_cannot_shrink():
    params, state = trained(OPTIMIZERS["adam"], make_params())
    with pytest.raises(ValueError, match="only grow: got 5, have 6"):
        grow_slots(OPTIMIZERS["adam"], state, params, 5)


def test_dead_rows_do_not_move():
    optimizer = OPTIMIZERS["ours"]
    params, state = trained(optimizer, make_params())
    row_plan = row_plans.copy_and_remove(
        jnp.ones(NUM, bool), copied=jnp.zeros(NUM, bool), removed=jnp.arange(NUM) == 2
    )
    after, moved = operate(optimizer, params, state, row_plan)
    zero = jax.tree.map(jnp.zeros_like, after)
    later, _ = train(optimizer, after, moved, [zero] * 3)
    for name, value in after["gaussians"].items():
        np.testing.assert_array_equal(later["gaussians"][name][2], value[2])
        assert (later["gaussians"][name][0] != value[0]).any()  # while the living have momentum


def test_a_new_row_of_an_optimizer_that_remembers_params_starts_from_the_new_ones():
    optimizer = optax.contrib.schedule_free(optax.sgd(0.1), learning_rate=0.1)
    params, state = trained(optimizer, make_params())
    row_plan = make_row_plan([0, 1, 2, 3, 4, 0], fresh=[5])
    row_plan = row_plan._replace(values={"means": params["gaussians"]["means"].at[5].set(7.0)})
    after, moved = operate(optimizer, params, state, row_plan)
    np.testing.assert_array_equal(moved.z["gaussians"]["means"][5], np.full(3, 7.0))
    np.testing.assert_array_equal(moved.z["gaussians"]["means"][:5], state.z["gaussians"]["means"][:5])
    np.testing.assert_array_equal(moved.z["gaussians"]["quats"][5], after["gaussians"]["quats"][5])


def test_factored_slots_have_rows_or_stay():
    optimizer = optax.adafactor(1e-2, min_dim_size_to_factor=4)
    params, state = trained(optimizer, make_params())
    order = [3, 1, 5, 0, 2, 4]
    _, moved = operate(optimizer, params, state, make_row_plan(order))
    before, after = (optax.tree_utils.tree_get(s, "v_row")["gaussians"]["features"] for s in (state, moved))
    columns = [optax.tree_utils.tree_get(s, "v_col")["gaussians"]["features"] for s in (state, moved)]
    assert before.shape != columns[0].shape
    rows, other = (before, after), columns
    if before.shape[0] != NUM:
        rows, other = columns, (before, after)
    np.testing.assert_array_equal(rows[1], rows[0][np.asarray(order)])
    np.testing.assert_array_equal(other[1], other[0])
