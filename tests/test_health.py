"""What a run does when something breaks: NaN, memory that runs out, and memory that must not grow."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import set_device_policy
from test_trainer import make_dense_trainer, params_of

import splax
from splax.training.runtime import memory as memory_module
from splax.training.runtime.memory import MemoryNeed


@pytest.fixture(scope="module")
def scene():
    return splax.make_demo_scene(num_train=4, num_test=1, width=32, height=24)


def far(params, start=8 * 2.5e-3) -> jax.Array:
    """Whether colours have moved as far as eight full steps of Adam bring them."""
    return jnp.abs(params["sh0"]).max() > start + 1.77  # where the brightest begin: (1 - 0.5) / 0.2821


@dataclasses.dataclass(frozen=True)
class BadLoss(splax.Strategy):
    def penalty(self, params, alive):
        return jnp.where(far(params), jnp.nan, 0.0)


@dataclasses.dataclass(frozen=True)
class BadMove(splax.Strategy):
    def move(self, params, alive, rate, key):
        return params | {"means": jnp.where(far(params), jnp.inf, params["means"])}


@dataclasses.dataclass(frozen=True)
class BadRefinement(splax.Strategy):
    def refines_after(self, step):
        return step == 5

    def refine(self, params, alive, state, step, extent, key):
        plan = splax.RowPlan.nothing(alive)
        return plan._replace(values={"quats": params["quats"] / 0}), state


def run_away(scene, strategy, **config):
    """A trainer whose colours all move the same way, by the full learning rate at each step."""

    class Brighter(splax.Trainer):
        def loss(self, model, output, batch):
            return -model.gaussians.sh0[...].sum() + 0.0 * output.image.mean()

    trainer = make_dense_trainer(scene, cls=Brighter, strategy=strategy, **config)
    sh0 = trainer.model.gaussians.sh0
    sh0[...] = jnp.full_like(sh0[...], 1.77)
    return trainer


@pytest.mark.parametrize("at_once", [1, 3], ids=["checks each step", "checks every third step"])
@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (BadLoss(), r"step \d+, view '.*': loss nan, Params by its gradient: none"),
        (BadMove(), r"step \d+, view '.*': loss -.*, Params after the update: gaussians/means"),
    ],
)
def test_a_run_goes_back_once_and_goes_on_with_smaller_steps(scene, strategy, message, at_once, monkeypatch):
    set_device_policy(monkeypatch, steps_per_check=at_once)
    trainer = run_away(scene, strategy)
    with pytest.warns(UserWarning, match=f"{message}.*Going back to step 0"):
        trainer.fit(12)
    assert trainer.step == trainer.history[-1].step == 12
    assert all(np.isfinite(value).all() for value in params_of(trainer).values())
    moved = params_of(trainer)["sh0"] - 1.77
    np.testing.assert_allclose(moved, 12 * 2.5e-3 / 2, rtol=0.02)
    # It went back once; the next time it stops, with a state that is good.
    with pytest.raises(splax.NonFiniteError, match=message):
        trainer.fit(12)
    assert all(np.isfinite(value).all() for value in params_of(trainer).values())
    assert 12 <= trainer.step < 24


@dataclasses.dataclass(frozen=True)
class Drift(splax.Correction):
    """Goes down by its full rate at each step of Adam; an image is changed by none of it."""

    name = "drift"
    rate: float = 0.25

    def init(self, cameras):
        return jnp.zeros((len(cameras.viewmat), 2))

    def optimizer(self, steps, extent):
        return optax.adam(self.rate)

    def penalty(self, params):
        return params.sum()


def test_corrections_take_smaller_steps_as_well(scene):
    trainer = run_away(scene, BadLoss(), corrections=(Drift(),))
    trainer.fit(6)
    np.testing.assert_allclose(trainer.corrections["drift"], -6 * 0.25, rtol=1e-4)
    with pytest.warns(UserWarning, match="Going back to step 6"):
        trainer.fit(4)
    np.testing.assert_allclose(trainer.corrections["drift"], -6 * 0.25 - 4 * 0.25 / 2, rtol=1e-4)


def test_a_refinement_that_breaks_a_param_is_named(scene):
    trainer = make_dense_trainer(scene, strategy=BadRefinement())
    with (
        pytest.warns(UserWarning, match="refinement after step 5: Params gaussians/quats"),
        pytest.raises(splax.NonFiniteError, match="refinement after step 5: Params gaussians/quats"),
    ):
        trainer.fit(12)
    assert all(np.isfinite(value).all() for value in params_of(trainer).values())
    assert trainer.step == 6  # the second time too nothing but the refinement is lost


def starve_with(program):
    """The program, but that the device has no memory left at its end."""

    def fail(*args):
        program(*args)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    return fail


@pytest.mark.parametrize("where", ["refines", "grows"])
def test_memory_that_runs_out_in_a_refinement_loses_nothing_but_that(scene, monkeypatch, where):
    strategy = splax.DefaultStrategy(refine_start=2, refine_every=4, grow_grad2d=1e-9)
    trainer = make_dense_trainer(scene, strategy=strategy)
    trainer.fit(3)
    part = trainer._refine._refine if where == "refines" else trainer._refine._grow
    compile_part = part.compile
    with monkeypatch.context() as context:
        context.setattr(part, "compile", lambda *args, **static: starve_with(compile_part(*args, **static)))
        with pytest.raises(splax.OutOfMemoryError, match="holds the last good state"):
            trainer.fit(5)
    assert trainer.step == 5  # and not 3, where the call to fit began
    trainer.fit(3)
    assert trainer.step == 8 and all(np.isfinite(value).all() for value in params_of(trainer).values())


def test_memory_that_runs_out_in_a_compiled_call_loses_nothing(scene, monkeypatch):
    trainer = make_dense_trainer(scene)
    trainer.fit(5)
    before, program = params_of(trainer), trainer._program_to_call

    def starve(photos, downscale):
        def fail(state, *args):
            for leaf in jax.tree.leaves(state):
                leaf.delete()  # as XLA does with what it was given to overwrite
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

        return fail

    monkeypatch.setattr(trainer, "_program_to_call", starve)
    with pytest.raises(splax.OutOfMemoryError, match=r"max_gaussians=140 .*downscale=2"):
        trainer.fit(5)
    assert trainer.step == 5
    for name, value in params_of(trainer).items():
        np.testing.assert_array_equal(value, before[name])
    monkeypatch.setattr(trainer, "_program_to_call", program)
    trainer.fit(5)
    whole = make_dense_trainer(scene)
    whole.fit(10)
    for name, value in params_of(whole).items():
        np.testing.assert_array_equal(params_of(trainer)[name], value, err_msg=name)


def test_memory_that_runs_out_where_rows_are_set_aside_loses_nothing(scene, monkeypatch):
    set_device_policy(monkeypatch, spare_rows=100)
    strategy = splax.DefaultStrategy(refine_start=2, refine_every=4)
    trainer = make_dense_trainer(scene, strategy=strategy)
    before = params_of(trainer)

    def starve(state, **static):
        def fail(state):
            for leaf in jax.tree.leaves(state.opt_state):
                leaf.delete()  # given back, for what then did not fit
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

        return fail

    with monkeypatch.context() as context:
        context.setattr(trainer._refine._grow, "compile", starve)
        with pytest.raises(splax.OutOfMemoryError, match="max_gaussians=140"):
            trainer.fit(3)
    assert trainer.step == 0
    for name, value in params_of(trainer).items():
        np.testing.assert_array_equal(value, before[name])
    trainer.fit(3)
    assert trainer.step == 3 and trainer.model.gaussians.capacity == 300


def test_an_error_before_anything_was_given_back_leaves_a_run_where_it_was(scene, monkeypatch):
    trainer, whole = make_dense_trainer(scene), make_dense_trainer(scene)
    trainer.fit(5)

    def fail(state, steps):
        raise jax.errors.JaxRuntimeError("INTERNAL: the device was lost")

    with monkeypatch.context() as context:
        context.setattr(trainer._refine, "prepared", fail)
        with pytest.raises(jax.errors.JaxRuntimeError, match="device was lost"):
            trainer.fit(5)
    assert trainer.step == 5
    trainer.fit(5)
    whole.fit(5)
    whole.fit(5)
    for name, value in params_of(whole).items():
        np.testing.assert_array_equal(params_of(trainer)[name], value, err_msg=name)


@pytest.mark.parametrize("asked_before", [False, True])
def test_too_little_memory_is_an_error_before_the_first_step(scene, monkeypatch, asked_before):
    monkeypatch.setattr(memory_module, "free_memory", lambda: 1000)
    trainer = make_dense_trainer(scene)
    before = params_of(trainer)
    if asked_before:
        assert not trainer.memory().fits
    with pytest.raises(splax.OutOfMemoryError, match=r"200 Gaussians and the photos need about .* MB"):
        trainer.fit(5)
    assert trainer.step == 0
    for name, value in params_of(trainer).items():
        np.testing.assert_array_equal(value, before[name])


def test_where_nothing_is_free_an_estimate_says_so():
    need = MemoryNeed(photos=100 << 20, rows=900 << 20, num_rows=1000, available=0)
    assert not need.fits and need.most_rows == 0
    assert "max_gaussians= of the strategy, num= of the start" in need.cure()


def test_an_estimate_says_what_would_fit():
    need = MemoryNeed(photos=100 << 20, rows=900 << 20, num_rows=1000, available=500 << 20)
    assert not need.fits and need.most_rows == 444
    with pytest.raises(splax.OutOfMemoryError, match="max_gaussians=355"):
        need.check()
    with pytest.raises(splax.OutOfMemoryError, match="downscale 4 times"):
        need._replace(photos=4000 << 20).check()
    enough = need._replace(available=2 << 30)
    enough.check()
    assert "about 1.0 GB for 1,000 Gaussians of 2.1 GB" in enough.describe()
    unknown = need._replace(available=None)
    unknown.check()
    assert unknown.describe() == "Memory: about 1.0 GB for 1,000 Gaussians."


def test_the_estimate_bounds_what_xla_allocates(scene):
    trainer = make_dense_trainer(scene)
    need = trainer.memory()
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(trainer._state))
    images = sum(view.image.nbytes for view in scene.train)
    assert need.photos >= images and need.rows > 2 * state
    assert need.num_rows == 200 and need.fits
    assert trainer.step == 0


def test_memory_does_not_grow_from_step_to_step(scene):
    """Arrays alive, by number and bytes, at the end of every call."""
    held = []

    def count(trainer, progress):
        arrays = jax.live_arrays()
        held.append((len(arrays), sum(array.nbytes for array in arrays)))

    trainer = make_dense_trainer(scene, deterministic=True)
    trainer.fit(300, callbacks=[count])
    assert len(held) >= 30
    assert len(set(held[2:])) == 1


def test_the_profile_accounts_for_all_of_the_time(scene, capsys):
    trainer = make_dense_trainer(scene)
    trainer.fit(5, profile=True)
    trainer.evaluate()
    profile = trainer.profile
    assert set(profile) >= {"host", "photos", "compile", "steps", "callbacks", "evaluate"}
    inside_fit = sum(seconds for part, seconds in profile.items() if part != "evaluate")
    assert inside_fit == pytest.approx(trainer.seconds, rel=0.05, abs=0.2)
    printed = capsys.readouterr().out
    assert "compile" in printed and "%" in printed
