"""The strategy of docs/training.md that a user wrote in about 30 lines, in a run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_trainer import make_dense_trainer, make_gaussians, params_of

import splax
from splax.strategies import row_plans


@dataclasses.dataclass(frozen=True)
class GrowMostPulled(splax.Strategy):
    every: int = 50
    share: float = 0.1

    def init(self, capacity):
        return {"pull": jnp.zeros(capacity)}

    def update(self, state, observation):
        pull = jnp.linalg.norm(observation.grad2d, axis=1)
        return {"pull": state["pull"] + jnp.where(observation.visible, pull, 0)}

    def refines_after(self, step):
        return step % self.every == self.every - 1

    def refine(self, params, alive, state, step, extent, key):
        pull = jnp.where(alive, state["pull"], -1)
        most = pull > jnp.sort(pull)[-(alive.sum() * self.share).astype(int) - 1]
        transparent = jax.nn.sigmoid(params["logit_opacities"]) < 0.005
        plan = row_plans.copy_and_remove(alive, copied=most, removed=transparent)
        return plan, {"pull": jnp.zeros_like(pull)}


@dataclasses.dataclass(frozen=True)
class Pushed(splax.Strategy):
    """Moves every Gaussian by one learning rate at each step, and wants nothing but opacities of one half."""

    def penalty(self, params, alive):
        return 1e4 * jnp.square(jax.nn.sigmoid(params["logit_opacities"]) - 0.5).mean()

    def move(self, params, alive, rate, key):
        return params | {"means": params["means"] + rate}


@pytest.fixture(scope="module")
def scene():
    return splax.make_demo_scene(num_train=3, num_test=1, width=32, height=24)


def test_the_tenth_that_is_pulled_at_most_is_copied_after_every_refinement(scene):
    trainer = make_dense_trainer(scene, make_gaussians(scene, 100), strategy=GrowMostPulled(every=4))
    trainer.fit(3)
    assert trainer.history[-1].num_gaussians == 100
    pull = np.asarray(trainer._state.strategy_state["pull"])
    assert (pull >= 0).all() and pull.any()
    trainer.fit(1)
    assert trainer.history[-1].num_gaussians == 110
    assert not np.asarray(trainer._state.strategy_state["pull"]).any()
    trainer.fit(4)
    assert trainer.history[-1].num_gaussians == 121


@dataclasses.dataclass(frozen=True)
class OneZeroForTwo(splax.Strategy):
    """Remembers two things, which begin as the same array."""

    def init(self, capacity):
        zeros = jnp.zeros(capacity)
        return {"first": zeros, "second": zeros}


def test_a_state_may_begin_with_one_array_twice(scene):
    trainer = make_dense_trainer(scene, strategy=OneZeroForTwo())
    trainer.fit(2)
    assert trainer.step == 2


def test_penalty_and_move_act_at_every_step(scene):
    still, pushed = (make_dense_trainer(scene, strategy=s) for s in (splax.Strategy(), Pushed()))
    for trainer in (still, pushed):
        trainer.fit(1)
    moved = params_of(pushed)["means"] - params_of(still)["means"]
    expected = splax.LearningRates().means * scene.extent
    # All alike but for the optimizer's own step, whose size the rate bounds.
    assert np.median(moved) == pytest.approx(expected, rel=0.2)
    pushed.fit(30)
    assert params_of(pushed)["logit_opacities"].min() > params_of(still)["logit_opacities"].max()
