"""A state that is made anew a part at a time is the same, and the old one does not stay in memory."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import splax
from splax.corrections.base import CorrectionsState
from splax.training.runtime.leafwise import LeafwiseFunction, leaf_groups, replace_leafwise
from splax.training.state import TrainState, carry_out, grow, plan_refinement

CAPACITY = 96


def a_state(optimizer, rows=64) -> TrainState:
    """A state with slots that are not zero, and one large Param beside the Gaussians."""
    keys = iter(jax.random.split(jax.random.key(0), 20))
    shapes = {
        "means": (3,),
        "quats": (4,),
        "log_scales": (3,),
        "logit_opacities": (),
        "sh0": (1, 3),
        "shN": (15, 3),
    }
    gaussians = {name: jax.random.normal(next(keys), (rows, *shape)) for name, shape in shapes.items()}
    params = {"gaussians": gaussians, "network": jax.random.normal(next(keys), (40, 80))}
    opt_state = optimizer.init(params)
    _, opt_state = optimizer.update(jax.tree.map(jnp.cos, params), opt_state, params)
    return TrainState(
        params=params,
        rest={"gaussians": {"alive": jnp.arange(rows) < rows - 20}},
        opt_state=opt_state,
        strategy_state={"grad2d": jnp.linspace(0, 1e-3, rows), "count": jnp.ones(rows)},
        corrections=CorrectionsState({}, {}),
        step=jnp.asarray(601, jnp.int32),
        key=jax.random.key(1),
        step_scale=jnp.ones(()),
    )


def to_numpy(state):
    return [
        np.array(jax.random.key_data(x) if x.dtype == jax.random.key(0).dtype else x)
        for x in jax.tree.leaves(state)
    ]


def in_one_program(change, state, planned):
    """The function under jax.jit, where all but the planned of what comes in may be overwritten."""

    def run(state, planned):
        return replace_leafwise(lambda planned: change(state, planned), state, planned)

    return jax.jit(run, donate_argnums=0)(state, planned)


@pytest.mark.parametrize(
    "optimizer",
    [optax.adam(1e-3), optax.contrib.schedule_free_adamw(1e-3)],
    ids=["adam", "begins with Params"],
)
def test_refinement_and_growth_in_parts_are_those_in_one(optimizer):
    strategy, extent = splax.DefaultStrategy(), 1.0
    whole, parts = a_state(optimizer), a_state(optimizer)
    grown = LeafwiseFunction(grow, static_argnames=("capacity", "strategy", "optimizer"))

    whole = grow(whole, CAPACITY, strategy, optimizer)
    parts = grown.compile(parts, capacity=CAPACITY, strategy=strategy, optimizer=optimizer)(parts)
    for one, other in zip(to_numpy(whole), to_numpy(parts), strict=True):
        np.testing.assert_array_equal(one, other)

    planned = plan_refinement(whole, extent, strategy)
    assert 64 - 20 < int(planned.num_rows) <= CAPACITY
    whole = carry_out(whole, planned, optimizer)
    parts = in_one_program(lambda state, planned: carry_out(state, planned, optimizer), parts, planned)
    for one, other in zip(to_numpy(whole), to_numpy(parts), strict=True):
        np.testing.assert_array_equal(one, other)


def test_parts_are_changed_one_after_the_other():
    """Seen in what XLA is given: a barrier after each part, from which the next one takes the plan."""
    optimizer = optax.adam(1e-3)
    state = a_state(optimizer)
    planned = plan_refinement(state, 1.0, splax.DefaultStrategy())
    jaxpr = jax.make_jaxpr(lambda s, p: replace_leafwise(lambda p: carry_out(s, p, optimizer), s, p))(
        state, planned
    )
    barriers = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "optimization_barrier"]
    assert len(barriers) == len(leaf_groups(state)) > 3
    for one, following in itertools.pairwise(barriers):
        assert {id(var) for var in one.outvars} & {id(var) for var in following.invars}


@pytest.mark.parametrize("void", ["too few rows", "none left", "breaks Params"])
def test_a_plan_that_cannot_be_carried_out_changes_nothing(void):
    optimizer, strategy = optax.contrib.schedule_free_adamw(1e-3), splax.DefaultStrategy()
    state = grow(a_state(optimizer), CAPACITY, strategy, optimizer)
    planned = plan_refinement(state, 1.0, strategy)
    wrong = {
        "too few rows": {"num_rows": jnp.asarray(CAPACITY + 1, jnp.int32)},
        "none left": {"leaves_one": jnp.asarray(False)},
        "breaks Params": {"broken": planned.broken.at[2].set(True)},
    }[void]
    after = carry_out(state, planned._replace(**wrong).unless_void(state), optimizer)
    for one, other in zip(to_numpy(state), to_numpy(after), strict=True):
        np.testing.assert_array_equal(one, other)
    changed = carry_out(state, planned.unless_void(state), optimizer)
    assert not np.array_equal(changed.params["gaussians"]["means"], state.params["gaussians"]["means"])


def test_no_more_than_a_part_of_two_states_is_in_memory():
    optimizer, strategy = optax.adam(1e-3), splax.DefaultStrategy()
    state = a_state(optimizer)
    large = {index for part in leaf_groups(state) if len(part) == 1 for index in part}
    old = jax.tree.leaves(state)
    assert {old[index].shape for index in large} == {(64, 15, 3), (40, 80)}
    grown = LeafwiseFunction(grow, static_argnames=("capacity", "strategy", "optimizer"))
    new = grown.compile(state, capacity=CAPACITY, strategy=strategy, optimizer=optimizer)(state)
    assert all(leaf.is_deleted() for leaf in old if leaf.shape[:1] == (64,))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


def test_an_array_that_nothing_changed_outlives_the_old_state():
    optimizer, strategy = optax.sgd(1e-3), splax.DefaultStrategy()
    state = a_state(optimizer)
    network = np.array(state.params["network"])
    grown = LeafwiseFunction(grow, static_argnames=("capacity", "strategy", "optimizer"))
    after = grown.compile(state, capacity=CAPACITY, strategy=strategy, optimizer=optimizer)(state)
    np.testing.assert_array_equal(after.params["network"], network)
