"""A state that is made anew a part at a time is the same, and the old one does not stay in memory."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import splax
from splax.corrections.base import CorrectionsState
from splax.training.runtime.leafwise import InParts, in_turn, parts_of
from splax.training.state import TrainState, grow, plan, refine

CAPACITY = 96


def a_state(tx, rows=64) -> TrainState:
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
    opt_state = tx.init(params)
    _, opt_state = tx.update(jax.tree.map(jnp.cos, params), opt_state, params)
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
        return in_turn(lambda planned: change(state, planned), state, planned)

    return jax.jit(run, donate_argnums=0)(state, planned)


@pytest.mark.parametrize(
    "tx", [optax.adam(1e-3), optax.contrib.schedule_free_adamw(1e-3)], ids=["adam", "begins with Params"]
)
def test_refinement_and_growth_in_parts_are_those_in_one(tx):
    strategy, extent = splax.DefaultStrategy(), 1.0
    whole, parts = a_state(tx), a_state(tx)
    grown = InParts(grow, static_argnames=("capacity", "strategy", "tx"))

    whole = grow(whole, CAPACITY, strategy, tx)
    parts = grown.compile(parts, capacity=CAPACITY, strategy=strategy, tx=tx)(parts)
    for one, other in zip(to_numpy(whole), to_numpy(parts), strict=True):
        np.testing.assert_array_equal(one, other)

    planned = plan(whole, extent, strategy)
    assert 64 - 20 < int(planned.num_rows) <= CAPACITY
    whole = refine(whole, planned, tx)
    parts = in_one_program(lambda state, planned: refine(state, planned, tx), parts, planned)
    for one, other in zip(to_numpy(whole), to_numpy(parts), strict=True):
        np.testing.assert_array_equal(one, other)


def test_parts_are_changed_one_after_the_other():
    """Seen in what XLA is given: a barrier after each part, from which the next one takes the plan."""
    tx = optax.adam(1e-3)
    state = a_state(tx)
    planned = plan(state, 1.0, splax.DefaultStrategy())
    jaxpr = jax.make_jaxpr(lambda s, p: in_turn(lambda p: refine(s, p, tx), s, p))(state, planned)
    barriers = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "optimization_barrier"]
    assert len(barriers) == len(parts_of(state)) > 3
    for one, following in itertools.pairwise(barriers):
        assert {id(var) for var in one.outvars} & {id(var) for var in following.invars}


@pytest.mark.parametrize("void", ["too few rows", "none left", "breaks Params"])
def test_a_plan_that_cannot_be_carried_out_changes_nothing(void):
    tx, strategy = optax.contrib.schedule_free_adamw(1e-3), splax.DefaultStrategy()
    state = grow(a_state(tx), CAPACITY, strategy, tx)
    planned = plan(state, 1.0, strategy)
    wrong = {
        "too few rows": {"num_rows": jnp.asarray(CAPACITY + 1, jnp.int32)},
        "none left": {"leaves_one": jnp.asarray(False)},
        "breaks Params": {"broken": planned.broken.at[2].set(True)},
    }[void]
    after = refine(state, planned._replace(**wrong).unless_void(state), tx)
    for one, other in zip(to_numpy(state), to_numpy(after), strict=True):
        np.testing.assert_array_equal(one, other)
    changed = refine(state, planned.unless_void(state), tx)
    assert not np.array_equal(changed.params["gaussians"]["means"], state.params["gaussians"]["means"])


def test_no_more_than_a_part_of_two_states_is_in_memory():
    tx, strategy = optax.adam(1e-3), splax.DefaultStrategy()
    state = a_state(tx)
    large = {index for part in parts_of(state) if len(part) == 1 for index in part}
    old = jax.tree.leaves(state)
    assert {old[index].shape for index in large} == {(64, 15, 3), (40, 80)}
    grown = InParts(grow, static_argnames=("capacity", "strategy", "tx"))
    new = grown.compile(state, capacity=CAPACITY, strategy=strategy, tx=tx)(state)
    assert all(leaf.is_deleted() for leaf in old if leaf.shape[:1] == (64,))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


def test_an_array_that_nothing_changed_outlives_the_old_state():
    tx, strategy = optax.sgd(1e-3), splax.DefaultStrategy()
    state = a_state(tx)
    network = np.array(state.params["network"])
    grown = InParts(grow, static_argnames=("capacity", "strategy", "tx"))
    after = grown.compile(state, capacity=CAPACITY, strategy=strategy, tx=tx)(state)
    np.testing.assert_array_equal(after.params["network"], network)
