"""The Trainer: it learns, repeats bit for bit, loses nothing to full buffers, and stops cleanly."""

import dataclasses
import signal
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import set_device_policy

import splax
from splax.devices import device_policy
from splax.training.evaluator import Evaluator
from splax.training.photos.canvases import group_views, view_order
from splax.training.progress import StepMetrics
from splax.training.runtime import isect_buffer, steps_per_call
from splax.training.runtime.interrupt import deferred_interrupt
from splax.training.runtime.isect_buffer import IsectBuffer
from splax.training.step import TrainStep, used_sh_degree
from splax.training.view_scores import mean_scores

CAPACITY = 4096  # more than any view of these tests needs
ROOM = 2**20  # the same of DenseModel, which counts pixels
# Not Adam's usual epsilon: near zero gradients it would make steps out of rounding.
ADAM = optax.adam(1e-3, eps=1e-4)
GROWING = splax.DefaultStrategy(grow_grad2d=1e-7, refine_start=0, refine_every=4)


class DenseModel(splax.SplatModel):
    """Every Gaussian at every pixel, in no order: a picture good enough to train on, and quick to compile.

    Like the rasterizer it has a buffer, and it is harsher about it: on an overflow all of the picture is NaN.
    """

    # As models were before there was `view`, which they need not take.
    def __call__(self, camera, *, background=None, means2d_offset=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        gaussians = self.gaussians.renderable_only()
        projection = self.rasterizer.project(gaussians, camera)
        means2d = projection.means2d + (0 if means2d_offset is None else means2d_offset)
        visible = (projection.radii > 0).all(axis=1)
        y, x = jnp.mgrid[: camera.height, : camera.width][..., None] + 0.5
        dx, dy = means2d[:, 0] - x, means2d[:, 1] - y
        a, b, c = projection.conics.T
        alphas = gaussians.opacities * jnp.exp(-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy)
        alphas = jnp.where(visible, alphas, 0)
        alpha = alphas.sum(axis=-1) / (1 + alphas.sum(axis=-1))
        num_isects = (alphas > 1 / 255).sum()
        capacity = 2**30 if self.rasterizer.isect_capacity is None else self.rasterizer.isect_capacity
        image = alphas @ self.colors(gaussians, camera) / (1 + alphas.sum(axis=-1, keepdims=True))
        if background is not None:
            image = image + (1 - alpha)[..., None] * background
        return splax.RenderOutput(
            image=jnp.where(num_isects > capacity, jnp.nan, image),
            alpha=alpha,
            accumulated_depth=alphas @ projection.depths,
            means2d=means2d,
            radii=projection.radii,
            num_isects=num_isects,
            isect_capacity=jnp.asarray(capacity, jnp.int32),
        )


class FlatModel(splax.SplatModel):
    """One colour, and as many pairs as the view says: a step compiles in a fifth of the time of DenseModel's.

    On an overflow all of the picture is NaN.
    """

    def __call__(self, camera, *, background=None, means2d_offset=None, view=None):
        gaussians, capacity = self.gaussians, jnp.asarray(self.rasterizer.isect_capacity, jnp.int32)
        num_isects = (1000 * jnp.abs(camera.viewmat[2, 2])).astype(jnp.int32)
        weights = gaussians.opacities[:, None] * gaussians.means[...]
        color = jnp.tanh(weights * gaussians.sh0[...][:, 0]).mean(axis=0)
        image = jnp.broadcast_to(color, (camera.height, camera.width, 3))
        means2d = jnp.zeros((gaussians.capacity, 2))
        return splax.RenderOutput(
            image=jnp.where(num_isects > capacity, jnp.nan, image),
            alpha=image[..., 0],
            accumulated_depth=image[..., 0],
            means2d=means2d if means2d_offset is None else means2d + means2d_offset,
            radii=jnp.ones((gaussians.capacity, 2), jnp.int32),
            num_isects=num_isects,
            isect_capacity=capacity,
        )


@pytest.fixture(scope="module")
def scene():
    return splax.make_demo_scene(num_train=6, num_test=2, width=32, height=24)


def make_gaussians(scene, num=200, *, capacity=None, **options):
    gaussians = splax.Gaussians.random(
        num, extent=1.5, center=scene.center, rngs=nnx.Rngs(0), **{"sh_degree": 1, **options}
    )
    return gaussians if capacity is None else gaussians.with_capacity(capacity)


def make_trainer(
    scene,
    gaussians=None,
    *,
    isect_capacity=CAPACITY,
    cls=splax.Trainer,
    model_cls=splax.SplatModel,
    strategy=None,
    optimizer=None,
    **config,
):
    """Always the same sizes and ``steps``, so that compiled programs are found again."""
    gaussians = make_gaussians(scene) if gaussians is None else gaussians
    model = model_cls(gaussians, splax.TileRasterizer(8, isect_capacity=isect_capacity))
    config = splax.TrainConfig(**{"steps": 100, "progress": False, **config})
    return cls(model, scene, config, strategy=strategy or splax.Strategy(), optimizer=optimizer)


def params_of(trainer, rows: Any = slice(None)) -> dict[str, np.ndarray]:
    params = nnx.to_pure_dict(nnx.state(trainer.model.gaussians, nnx.Param))
    return {name: np.array(value)[rows] for name, value in params.items()}


def assert_same(actual: dict, expected: dict) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def assert_close(actual: dict, expected: dict, rtol=1e-3, atol=2e-4) -> None:
    """Equal but for rounding in the steps before: two programs may sum in different orders."""
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=rtol, atol=atol, err_msg=name)


def make_dense_trainer(scene, gaussians=None, **options):
    """Of all tests but one: what they look into is not the rasterizer's, whose step takes long to compile."""
    return make_trainer(scene, gaussians, **{"model_cls": DenseModel, "isect_capacity": ROOM, **options})


@pytest.fixture(scope="module")
def reference(scene):
    """The Params after 20 steps made in one go."""
    trainer = make_dense_trainer(scene)
    trainer.fit(20)
    return SimpleNamespace(params=params_of(trainer))


# --- learning ------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_raises_the_psnr_of_unseen_views(scene):
    trainer = make_trainer(scene)
    before = trainer.evaluate()
    model = trainer.fit()
    assert model is trainer.model
    assert trainer.step == 100
    assert trainer.history[-1].loss < 0.9 * trainer.history[0].loss
    after = trainer.evaluate()
    assert after["psnr"] > before["psnr"] + 2
    assert after["ssim"] > before["ssim"]
    # Strategy() neither adds nor removes.
    assert int(model.gaussians.num_alive) == model.gaussians.capacity == 200


def test_callbacks_come_once_before_the_first_compile_and_after_every_call(scene):
    reports = []
    trainer = make_dense_trainer(scene)

    def report(trainer, progress):
        reports.append((trainer.step, progress, "compile" in trainer.profile))

    trainer.fit(12, callbacks=[report])
    (step, first, compiled), *later = reports
    assert (step, first.step, first.num_gaussians, first.num_isects, compiled) == (0, 0, 200, 0, False)
    assert np.isnan([first.loss, first.psnr]).all()
    assert [progress for _, progress, _ in later] == trainer.history
    steps = [progress.step for progress in trainer.history]
    assert steps == sorted(set(steps)) == [step for step, _, _ in later]
    assert steps[-1] == 12
    seconds = [progress.seconds for progress in trainer.history]
    assert seconds == sorted(seconds)
    assert trainer.seconds == seconds[-1] > 0
    for progress in trainer.history:
        assert np.isfinite([progress.loss, progress.psnr]).all()
        assert progress.num_gaussians == 200
        assert 0 < progress.num_isects <= ROOM
        assert progress.steps_per_second > 0


def test_the_callback_sees_the_state_of_its_step(scene, reference):
    seen = {}

    def keep(trainer, progress):
        seen[progress.step] = params_of(trainer)

    make_dense_trainer(scene).fit(20, callbacks=[keep])
    assert_same(seen[20], reference.params)


def test_the_model_is_copied_only_when_it_is_read(scene, reference):
    trainer = make_dense_trainer(scene)
    model = trainer.model
    start, unread, read = params_of(trainer), [], []

    def look(trainer, progress):
        unread.append(params_of(SimpleNamespace(model=model)))
        if progress.step == 20:
            read.append(params_of(trainer))
            assert trainer.model is model

    trainer.fit(20, callbacks=[look])
    for params in unread:
        assert_same(params, start)
    assert_same(read[0], reference.params)
    assert_same(params_of(trainer), reference.params)


@pytest.mark.parametrize("by", ["callback", "first callback", "thread"])
def test_a_run_can_be_stopped_in_order_and_goes_on(scene, reference, tmp_path, by):
    trainer, checkpoints = make_dense_trainer(scene), splax.Checkpoints(tmp_path)

    def stop(trainer, progress):
        if by == "thread":
            thread = threading.Thread(target=trainer.stop)
            thread.start()
            thread.join()
        elif by == "first callback" or progress.step:
            trainer.stop()

    assert trainer.fit(20, callbacks=[stop], checkpoints=checkpoints) is trainer.model
    assert trainer.stopped and trainer.step < 20
    assert checkpoints.steps() == [trainer.step]
    assert [entry.step for entry in trainer.history][-1:] == ([trainer.step] if trainer.step else [])
    resumed = make_dense_trainer(scene)
    resumed.resume(checkpoints)
    for one in (trainer, resumed):
        one.fit(20 - one.step)
        assert not one.stopped
        assert_same(params_of(one), reference.params)


def test_a_model_is_scored_without_a_trainer(scene):
    trainer = make_dense_trainer(scene)
    trainer.fit(5)
    scores = [one.numbers() for one in Evaluator.of(trainer.model, scene).evaluate_views()]
    assert mean_scores(scores) == trainer.evaluate()


def test_an_evaluator_holds_no_second_copy_of_the_model(scene):
    gaussians = make_gaussians(scene, 50_000, sh_degree=3)
    model = splax.SplatModel(gaussians, splax.TileRasterizer(tile_size=8))
    before = sum(array.nbytes for array in jax.live_arrays())
    evaluator = Evaluator.of(model, scene)
    after = sum(array.nbytes for array in jax.live_arrays())
    assert evaluator.model is model
    assert after - before < 0.01 * sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(gaussians)))


def test_views_are_scored_whole_whatever_buffer_the_rasterizer_has(scene):
    trainer = make_dense_trainer(scene, isect_capacity=None)
    expected = trainer.evaluate()
    trainer.model.rasterizer.isect_capacity = 16
    assert bool(trainer.model(scene.test[0].camera).overflow)
    assert trainer.evaluate() == expected
    assert trainer.model.rasterizer.isect_capacity == 16


def test_evaluate_agrees_with_numpy(scene):
    trainer = make_dense_trainer(scene)
    result = trainer.evaluate()
    assert set(result) == {"psnr", "ssim", "psnr_identity", "views"}
    assert result["views"] == 2
    expected = []
    for view, view_psnr, _, image, *_ in trainer.evaluate_views():
        rendered = np.asarray(trainer.model(view.camera).image, np.float64).clip(0, 1)
        np.testing.assert_allclose(image, rendered, atol=1e-6)
        mse = ((rendered - view.image / 255) ** 2).mean()
        expected.append(10 * np.log10(1 / mse))
        assert view_psnr == pytest.approx(expected[-1], abs=1e-3)
    assert result["psnr"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert trainer.evaluate(scene.train[:1])["views"] == 1
    assert trainer.evaluate([]) == {"psnr": None, "ssim": None, "psnr_identity": None, "views": 0}


def test_bands_of_spherical_harmonics_come_into_use_one_by_one(scene):
    class DegreeTrainer(splax.Trainer):
        def loss(self, model, output, batch):
            return model.gaussians.active_sh_degree[...] + 0.0 * output.image.mean()

    gaussians = make_gaussians(scene, sh_degree=2)
    trainer = make_dense_trainer(scene, gaussians, cls=DegreeTrainer, sh_degree_every=2)
    for _ in range(7):
        trainer.fit(1)
    assert [progress.loss for progress in trainer.history] == [0, 0, 1, 1, 2, 2, 2]


def test_a_band_out_of_use_does_not_train(scene):
    trainer = make_dense_trainer(scene, sh_degree_every=6)
    trainer.fit(6)
    assert not params_of(trainer)["shN"].any()
    trainer.fit(2)
    assert params_of(trainer)["shN"].any()


# --- repeatability -------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits(scene, reference):
    trainer = make_dense_trainer(scene)
    trainer.fit(20)
    assert_same(params_of(trainer), reference.params)


def test_another_seed_gives_another_run(scene, reference):
    trainer = make_dense_trainer(scene, seed=1)
    trainer.fit(20)
    assert (params_of(trainer)["means"] != reference.params["means"]).any()


def test_the_result_does_not_depend_on_how_fit_is_cut(scene, reference, monkeypatch):
    trainer = make_dense_trainer(scene)
    trainer.fit(10)
    monkeypatch.setattr(steps_per_call, "_SECONDS", 1e-9)  # one step a call
    trainer.fit(10)
    assert [progress.step for progress in trainer.history[-10:]] == list(range(11, 21))
    assert_same(params_of(trainer), reference.params)


def test_fit_does_what_config_leaves_and_can_go_on(scene):
    trainer = make_dense_trainer(scene)
    trainer.fit(98)
    trainer.fit()
    assert trainer.step == 100
    stretches = len(trainer.history)
    trainer.fit()
    trainer.fit(0)
    assert (trainer.step, len(trainer.history)) == (100, stretches)
    trainer.fit(3)
    assert trainer.step == 103


def test_arrays_held_by_the_user_stay_valid(scene):
    trainer = make_dense_trainer(scene)
    held = [trainer.model.gaussians.means[...]]

    def keep(trainer, progress):
        held.append(trainer.model.gaussians.means[...])

    for _ in range(2):
        trainer.fit(3, callbacks=[keep])
        held.append(trainer.model.gaussians.means[...])
    values = [np.asarray(array) for array in held]
    assert (values[0] != values[-1]).any()


def test_changes_made_by_hand_between_fits_are_taken_up(scene):
    trainer = make_dense_trainer(scene)
    trainer.fit(1)
    trainer.model.gaussians.alive[...] = jnp.arange(200) < 120
    trainer.fit(1)
    assert trainer.history[-1].num_gaussians == 120
    trainer.model.gaussians = trainer.model.gaussians.compact()
    with pytest.raises(ValueError, match=r"changed shape.*new Trainer"):
        trainer.fit(1)


# --- full buffers --------------------------------------------------------------------------------------


def make_flat_trainer(scene, **options):
    """Whose step is the quickest to compile, which each size of the buffer asks for anew."""
    options = {"model_cls": FlatModel, "optimizer": optax.sgd(0.1), "ssim_weight": 0.0, **options}
    return make_trainer(scene, **options)


def test_an_overflow_discards_nothing(scene):
    small = make_flat_trainer(scene, isect_capacity=64)
    start = params_of(small)
    small.fit(20)
    assert small.step == 20
    assert small.model.rasterizer.isect_capacity == 64  # the user's setting is left alone
    # As if the buffer had been as large as it became from the start.
    ample = make_flat_trainer(scene, isect_capacity=small._isects.capacity)
    ample.fit(20)
    assert_same(params_of(small), params_of(ample))
    assert np.abs(params_of(small)["sh0"] - start["sh0"]).max() > 1e-5


@pytest.mark.parametrize("at_once", [1, 3], ids=["checks each step", "checks every third step"])
def test_overflows_in_mid_stretch_discard_nothing(scene, monkeypatch, at_once):
    """A buffer that grows by no more than the view at hand needs, so that a later view overflows again."""
    monkeypatch.setattr(isect_buffer, "round_capacity", int)
    set_device_policy(monkeypatch, isect_margin=1, isect_waste=2, steps_per_check=at_once)
    monkeypatch.setattr(steps_per_call, "_SECONDS", 1e9)
    ample, tight = (make_flat_trainer(scene, isect_capacity=room) for room in (CAPACITY, 10))
    overflows, call = [], tight._call

    def watch(*args: Any, **kwargs: Any) -> tuple[int, StepMetrics, float]:
        done, metrics, seconds = call(*args, **kwargs)
        if done < len(metrics.num_isects) and metrics.num_isects[done] > tight._isects.capacity:
            overflows.append(done)
        return done, metrics, seconds

    tight._call = watch
    with monkeypatch.context() as context:
        set_device_policy(context, steps_per_check=1)
        ample.fit(20)
    tight.fit(20)
    assert ample.step == tight.step == 20
    assert overflows[0] == 0 and max(overflows) > 0  # at once, and after some steps of a stretch
    assert_close(params_of(tight), params_of(ample), atol=1e-5)


def test_a_buffer_that_the_trainer_chose_is_large_enough(scene, reference):
    trainer = make_dense_trainer(scene, isect_capacity=None)
    trainer.fit(20)
    assert_close(params_of(trainer), reference.params, atol=1e-5)


def test_rows_that_grew_are_let_go_of_before_the_refinement_is_tried_again(scene):
    """The moment of the most memory: the state in more rows, and what the refinement makes of it."""
    trainer: Any = make_dense_trainer(scene, strategy=GROWING, steps=8)
    refine, seen, capacities = trainer._refine, [], []

    class Watching:
        def __call__(self, state):
            smaller = [ref for capacity, ref in seen if capacity < state.capacity]
            assert not any(ref() is not None for ref in smaller)
            capacities.append(state.capacity)
            seen.append((state.capacity, weakref.ref(state.params["gaussians"]["means"])))
            return refine(state)

        def __getattr__(self, name):
            return getattr(refine, name)

    trainer._refine = Watching()
    trainer.fit(5)
    assert len(set(capacities)) > 1


def test_rows_grow_when_they_are_full(scene):
    options = {"strategy": GROWING, "optimizer": ADAM}
    small = make_dense_trainer(scene, make_gaussians(scene, 60), **options)
    large = make_dense_trainer(scene, make_gaussians(scene, 60, capacity=400), **options)
    for trainer in (small, large):
        trainer.fit(7)
    alive = np.asarray(large.model.gaussians.alive[...])
    assert 60 < alive.sum() < 400
    capacity = small.model.gaussians.capacity
    assert alive.sum() <= capacity < 400
    assert small.history[-1].num_gaussians == large.history[-1].num_gaussians == alive.sum()

    # The same Gaussians in the same rows, with the same moments of Adam.
    np.testing.assert_array_equal(small.model.gaussians.alive[...], alive[:capacity])
    assert not alive[capacity:].any()
    rows = np.flatnonzero(alive)
    assert_close(params_of(small, rows), params_of(large, rows))
    for moment in ("mu", "nu"):
        slots = [optax.tree.get(trainer._state.opt_state, moment)["gaussians"] for trainer in (small, large)]
        for name, value in slots[0].items():
            assert len(value) == capacity
            np.testing.assert_allclose(value[rows], slots[1][name][rows], rtol=0.01, atol=1e-6, err_msg=name)


def test_max_gaussians_is_a_limit(scene):
    strategy = splax.DefaultStrategy(grow_grad2d=1e-7, refine_start=0, refine_every=4, max_gaussians=70)
    trainer = make_dense_trainer(scene, make_gaussians(scene, 60, capacity=400), strategy=strategy)
    trainer.fit(9)
    assert 60 < trainer.history[-1].num_gaussians <= 70


@pytest.mark.parametrize(
    "optimizer",
    [
        ADAM,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
        optax.sgd(1e-3, momentum=0.9),
    ],
    ids=["adam", "clipped adamw", "momentum"],
)
def test_any_optax_optimizer_trains_and_densifies(scene, optimizer):
    gaussians = make_gaussians(scene, 60)
    trainer = make_dense_trainer(scene, gaussians, strategy=GROWING, optimizer=optimizer)
    before = params_of(trainer, slice(60))
    trainer.fit(7)
    assert trainer.history[-1].num_gaussians > 60
    assert (params_of(trainer, slice(60))["sh0"] != before["sh0"]).any()


# --- stopping ------------------------------------------------------------------------------------------


def spoil(kind: str, view) -> type[splax.Trainer]:
    """A Trainer that cannot make a step with this view."""
    spoiled = float((view.image / 255).mean())

    class Spoiled(splax.Trainer):
        def loss(self, model, output, batch):
            loss = super().loss(model, output, batch)
            here = jnp.abs(batch.image.mean() - spoiled) < 1e-5
            if kind == "loss":
                return jnp.where(here, jnp.nan, loss)
            # Finite, but its derivative at 0 is infinite.
            return loss + jnp.sqrt(jnp.where(here, 0, 1) * output.alpha.sum())

    return Spoiled


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_nan_stops_before_it_spreads(scene, kind):
    order = view_order(group_views([(WIDTH, HEIGHT)] * 6), 6, seed=0)
    step = 3
    view = scene.train[order[step]]
    trainer = make_dense_trainer(scene, cls=spoil(kind, view))
    message = f"step {step}, view '{view.name}'"
    with (
        pytest.warns(UserWarning, match=f"{message}.*Going back to step 0"),
        pytest.raises(splax.NonFiniteError, match=message),
    ):
        trainer.fit(20)
    assert trainer.step == step
    if kind == "loss":
        clean = make_dense_trainer(scene)
        clean._state = clean._state._replace(step_scale=jnp.float32(0.5))  # as after going back
        clean.fit(step)
        assert_close(params_of(trainer), params_of(clean), atol=1e-5)
    assert all(np.isfinite(value).all() for value in params_of(trainer).values())
    with pytest.raises(splax.NonFiniteError, match=f"step {step}"):  # it is the same step again
        trainer.fit()


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_stops_between_steps_and_training_can_go_on(scene, reference, number, step):
    handler = signal.getsignal(number)

    def interrupt(trainer, progress):
        if progress.step == step:
            signal.raise_signal(number)

    trainer = make_dense_trainer(scene)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(20, callbacks=[interrupt])
    assert signal.getsignal(number) is handler
    assert trainer.step == step and [entry.step for entry in trainer.history] == [1] * step
    assert ("compile" in trainer.profile) == (step > 0)
    assert np.isfinite(params_of(trainer)["means"]).all()
    trainer.fit(20 - step)
    assert_same(params_of(trainer), reference.params)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_sigterm_that_somebody_handles_is_theirs(number):
    seen = []
    before = signal.signal(number, lambda number, frame: seen.append(number))
    try:
        with deferred_interrupt() as interrupted:
            signal.raise_signal(number)
        assert seen == [number] and not interrupted.is_set()
    finally:
        signal.signal(number, before)


def test_nohup_keeps_a_run_going_without_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with deferred_interrupt() as interrupted:
            signal.raise_signal(signal.SIGHUP)
        assert not interrupted.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_pruning_everything_is_an_error(scene):
    strategy = splax.DefaultStrategy(prune_opacity=0.4, refine_start=0, refine_every=2)
    trainer = make_dense_trainer(scene, strategy=strategy)
    with pytest.raises(splax.NoGaussianError, match=r"left no Gaussian alive.*prune_opacity"):
        trainer.fit(10)
    assert int(trainer.model.gaussians.num_alive) == 200


def test_a_run_that_cannot_be_deterministic_is_refused(scene, monkeypatch):
    config, gaussians = splax.TrainConfig(deterministic=True), make_gaussians(scene, 5)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match=r"TileRasterizer\(deterministic=True\)"):
        splax.Trainer(splax.SplatModel(gaussians, splax.TileRasterizer()), scene, config)


def test_nothing_alive_is_an_error(scene):
    gaussians = make_gaussians(scene, 5)
    gaussians.alive[...] = jnp.zeros(5, bool)
    with pytest.raises(ValueError, match="no Gaussian alive"):
        make_dense_trainer(scene, gaussians)


# --- masks and sizes -----------------------------------------------------------------------------------

HEIGHT, WIDTH = 20, 26  # of the part that is kept


def with_masks(scene, fill=None, width=WIDTH, height=HEIGHT):
    """The scene with all but the top left of its first views masked, and painted over with ``fill``."""

    def masked(view):
        mask = np.zeros(view.image.shape[:2], bool)
        mask[:height, :width] = True
        image = view.image if fill is None else np.where(mask[..., None], view.image, np.uint8(fill))
        return dataclasses.replace(view, image=image, mask=mask)

    train = [masked(view) if index < 3 else view for index, view in enumerate(scene.train)]
    return dataclasses.replace(scene, train=train, test=[masked(view) for view in scene.test])


def cropped(scene, width=WIDTH, height=HEIGHT):
    """The same, cut off instead of masked."""

    def crop(view):
        camera = dataclasses.replace(view.camera, width=width, height=height)
        return splax.View(np.ascontiguousarray(view.image[:height, :width]), camera, view.name)

    train = [crop(view) if index < 3 else view for index, view in enumerate(scene.train)]
    return dataclasses.replace(scene, train=train, test=[crop(view) for view in scene.test])


@pytest.fixture(scope="module")
def masked_reference(scene):
    trainer = make_dense_trainer(with_masks(scene))
    trainer.fit(20)
    return SimpleNamespace(params=params_of(trainer), scores=trainer.evaluate())


def test_what_lies_under_a_mask_changes_nothing(scene, reference, masked_reference):
    for fill in (0, 255):
        trainer = make_dense_trainer(with_masks(scene, fill))
        trainer.fit(20)
        assert_same(params_of(trainer), masked_reference.params)
        assert trainer.evaluate() == masked_reference.scores
    # But what is not masked does.
    assert np.abs(masked_reference.params["means"] - reference.params["means"]).max() > 1e-4


def test_views_of_similar_sizes_train_as_if_masked(scene):
    size = {"width": 28, "height": 24}  # 7 / 8 of the other photos: one canvas does for both
    trainers = (make_dense_trainer(make(scene, **size), optimizer=ADAM) for make in (with_masks, cropped))
    masked, crops = trainers
    for trainer in (masked, crops):
        trainer.fit(20)
    assert_same(params_of(crops), params_of(masked))
    # Scores are of the photos alone, of whatever size. How Gaussians far to the side are projected depends on the
    # image's width and height, a little.
    expected, scores = masked.evaluate(), crops.evaluate()
    assert scores["psnr"] == pytest.approx(expected["psnr"], abs=0.01)
    assert scores["ssim"] == pytest.approx(expected["ssim"], abs=1e-3)


def test_views_of_very_different_sizes_have_a_program_each(scene, monkeypatch):
    monkeypatch.setattr(steps_per_call, "_SECONDS", 1e9)
    trainer = make_dense_trainer(cropped(scene))
    assert [(group.width, group.height) for group in trainer._loader.groups] == [(32, 24), (WIDTH, HEIGHT)]
    trainer.fit(40)
    assert len(trainer._run) == 2
    # A step on a small photo is what it would be if there were no others.
    seed = next(seed for seed in range(9) if view_order(trainer._loader.groups, 1, seed)[0] < 3)
    first = view_order(trainer._loader.groups, 1, seed)[0]
    alone = dataclasses.replace(cropped(scene), train=[cropped(scene).train[first]])
    both = [
        make_dense_trainer(each, make_gaussians(scene), optimizer=ADAM, seed=seed)
        for each in (cropped(scene), alone)
    ]
    for trainer in both:
        trainer.fit(1)
    # Two programs: on some processors a last bit differs.
    assert_close(*map(params_of, both), rtol=1e-6, atol=1e-6)


def test_the_loss_of_a_subclass_sees_black_where_the_photo_is_masked(scene):
    class Watching(splax.Trainer):
        def loss(self, model, output, batch):
            outside = output.image[HEIGHT:].sum() + output.image[:, WIDTH:].sum() + batch.image[HEIGHT:].sum()
            return jnp.abs(output.image - batch.image).mean() + 1e6 * outside

    scene = dataclasses.replace(with_masks(scene, 255), train=with_masks(scene, 255).train[:3])
    trainer = make_dense_trainer(scene, cls=Watching)
    trainer.fit(2)
    assert trainer.history[-1].loss < 1


# --- backgrounds ---------------------------------------------------------------------------------------


def on(scene, background):
    """The scene with a disc of each photo opaque, faded out to a background."""

    def faded(view):
        y, x = np.mgrid[: view.camera.height, : view.camera.width]
        alpha = (255 * np.clip(2 - np.hypot(x - 16, y - 12) / 6, 0, 1)).astype(np.uint8)
        share = alpha[..., None] / 255
        image = np.rint(view.image * share + 255 * np.array(background) * (1 - share)).astype(np.uint8)
        return dataclasses.replace(view, image=image, alpha=alpha)

    train, test = ([faded(view) for view in views] for views in (scene.train, scene.test))
    return dataclasses.replace(scene, train=train, test=test, background=background)


def test_a_background_of_the_run_replaces_that_of_the_photos(scene):
    red = (1.0, 0.25, 0.0)
    expected = make_dense_trainer(on(scene, red)).evaluate()
    replaced = make_dense_trainer(on(scene, (0.0, 0.0, 0.0)), background=red)
    assert replaced.evaluate()["psnr"] == pytest.approx(expected["psnr"], abs=0.01)
    assert replaced.evaluate()["ssim"] == pytest.approx(expected["ssim"], abs=1e-3)
    # And in training: the photos differ by rounding to 8 bits.
    trainers = [
        make_dense_trainer(on(scene, red)),
        make_dense_trainer(on(scene, (0.0, 0.0, 0.0)), background=red),
    ]
    for trainer in trainers:
        trainer.fit(1)
    assert trainers[0].history[0].loss == pytest.approx(trainers[1].history[0].loss, rel=5e-3)


def test_random_backgrounds_are_those_of_rendering_and_photo(scene):
    # All transparent, and next to nothing in front: whatever the background, there is no difference.
    gaussians = make_gaussians(scene)
    gaussians.logit_opacities[...] = jnp.full(200, -12.0)
    clear = [
        dataclasses.replace(v, image=np.zeros_like(v.image), alpha=np.zeros(v.image.shape[:2], np.uint8))
        for v in scene.train
    ]
    trainer = make_dense_trainer(dataclasses.replace(scene, train=clear), gaussians, background="random")
    trainer.fit(20)
    assert trainer.history[-1].loss < 1e-3
    assert trainer.history[-1].psnr > 50


def test_an_optimizer_may_begin_with_the_params_themselves(scene):
    """Each array of a state is written over; one that is shared would be gone for the other."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return params, zeros, zeros

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda grad: -1e-3 * grad, updates), state

    trainer = make_dense_trainer(scene, optimizer=optax.GradientTransformation(init, update))
    before = params_of(trainer)
    trainer.memory()
    trainer.fit(2)
    trainer.fit(2)
    opt_state: Any = trainer._state.opt_state
    slots = [jax.tree.leaves(slot) for slot in opt_state]
    assert all(np.isfinite(leaf).all() for leaf in [*slots[0], *slots[1], *slots[2]])
    begun = jax.tree.leaves(nnx.to_pure_dict(nnx.split(make_dense_trainer(scene).model, nnx.Param, ...)[1]))
    for leaf, expected in zip(slots[0], begun, strict=True):
        np.testing.assert_array_equal(leaf, expected)
    assert any((params_of(trainer)[name] != before[name]).any() for name in before)


def test_random_backgrounds_come_from_the_seed_and_the_step(scene):
    trainers = [make_dense_trainer(scene, background="random") for _ in range(2)]
    colors = [np.array(trainers[0]._train_step.background_at(jnp.asarray(step))) for step in range(100)]
    assert np.ptp(colors, axis=0).min() > 0.9 and np.mean(colors) == pytest.approx(0.5, abs=0.1)
    trainers[0].fit(6)
    trainers[1].fit(2)
    trainers[1].fit(4)
    assert_same(params_of(trainers[0]), params_of(trainers[1]))
    # Scores are on the scene's background.
    assert trainers[0].evaluate() == make_dense_trainer(scene, trainers[0].model.gaussians).evaluate()


def test_the_buffer_of_intersections_follows_what_is_needed():
    policy = dataclasses.replace(device_policy(), isect_margin=1.5, isect_waste=4, min_isects=0)
    for peak, compiles, expected in (
        (1_000, False, 1_536),
        (2_000, False, 8_192),  # 3,072 would do: not four times less
        (7_000, False, 8_192),
        (7_000, True, 12_288),
        (2_000, True, 8_192),
    ):
        buffer = IsectBuffer(8_192, policy)
        buffer.peak = peak
        buffer.follow(compiles=compiles)
        assert buffer.capacity == expected
        assert buffer.peak == 0

    # Where compiling takes long no run begins with less than this, nor goes back to it.
    buffer = IsectBuffer(16_384, dataclasses.replace(policy, min_isects=2_048))
    buffer.peak = 10
    buffer.follow(compiles=False)
    assert buffer.capacity == 2_048
    buffer.grow(2_000)
    assert buffer.capacity == 3_072


def test_a_run_on_a_gpu_starts_with_rows_to_spare(scene, monkeypatch):
    """The policy alone: what it does is to grow, as tested above."""
    set_device_policy(monkeypatch, spare_rows=1_000)
    for limit, expected in ((None, 1_200), (700, 700), (150, 200)):
        strategy = splax.DefaultStrategy(refine_start=2, refine_every=4, max_gaussians=limit)
        trainer = make_dense_trainer(scene, make_gaussians(scene, 200), strategy=strategy)
        assert trainer.memory().num_rows == expected
        assert trainer.model.gaussians.capacity == int(trainer.model.gaussians.num_alive) == 200
        trainer.fit(4)
        assert trainer.model.gaussians.capacity == expected
    unchanging = make_dense_trainer(scene, make_gaussians(scene, 200))
    unchanging.fit(1)
    assert unchanging.model.gaussians.capacity == 200


@pytest.mark.parametrize(("rows", "expected"), [(0, 200), (50, 450)])
def test_rows_that_the_strategy_expects_are_set_aside_on_a_gpu(scene, monkeypatch, rows, expected):
    """So that a run of MCMC, whose growth is known beforehand, does not compile its step for each growth."""
    set_device_policy(monkeypatch, spare_rows=rows)
    strategy = splax.MCMCStrategy(
        max_gaussians=900, growth=1.5, refine_start=2, refine_every=2, refine_stop=8
    )
    trainer = make_dense_trainer(scene, make_gaussians(scene, 200), strategy=strategy, steps=7)
    assert trainer.memory().num_rows == expected  # grows after steps 4 and 6: to 300 and 450
    if rows:
        trainer.fit(7)
        assert trainer.model.gaussians.capacity == int(trainer.model.gaussians.num_alive) == expected


def test_masked_scores_agree_with_numpy(scene):
    trainer = make_dense_trainer(with_masks(scene, 255))
    for view, view_psnr, _, image, *_ in trainer.evaluate_views():
        error = (image - view.image / 255)[:HEIGHT, :WIDTH]
        assert view_psnr == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("ssim_weight", 1.1), ("sh_degree_every", -1), ("growth", 1.0), ("seed", -1)],
)
def test_config_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"{field} must .*{value}"):
        splax.TrainConfig(**{field: value})


def test_background_out_of_range():
    with pytest.raises(ValueError, match="background must be RGB"):
        splax.TrainConfig(background=(0.0, 0.0, 2.0))


# --- the progress bar ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("progress", "shows"), [(None, False), (False, False), (True, True)])
def test_progress_bar_is_quiet_where_nobody_looks(scene, capfd, progress, shows):
    make_dense_trainer(scene, progress=progress).fit(2)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert (
        ("loss=" in captured.err) and ("psnr=" in captured.err) and ("gaussians=" in captured.err)
    ) is shows
    assert bool(captured.err) is shows


def test_training_in_a_thread(scene):
    """Signals belong to the main thread; elsewhere Ctrl-C is simply not handled."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        trainer = make_dense_trainer(scene)
        pool.submit(trainer.fit, 1).result()
    assert trainer.step == 1


def test_the_step_compiles_once(scene, monkeypatch):
    trainer = make_dense_trainer(scene)
    traces = []
    step = TrainStep.__call__
    monkeypatch.setattr(TrainStep, "__call__", lambda *args: traces.append(1) or step(*args))
    trainer.fit(5)
    trainer.fit(5)
    assert len(traces) == 1


def test_colour_starts_at_the_degree_that_a_splat_already_uses():
    gaussians = splax.Gaussians.random(4, sh_degree=3, rngs=nnx.Rngs(0))
    assert used_sh_degree(gaussians) == 0
    # Coefficients 0 to 2 of shN are of degree 1, 3 to 7 of degree 2, 8 to 14 of degree 3.
    for coefficient, degree in ((0, 1), (2, 1), (3, 2), (7, 2), (8, 3), (14, 3)):
        gaussians.shN[...] = jnp.zeros((4, 15, 3)).at[1, coefficient, 2].set(-0.1)
        assert used_sh_degree(gaussians) == degree
    assert used_sh_degree(splax.Gaussians.random(4, sh_degree=0, rngs=nnx.Rngs(0))) == 0


def test_a_strategy_asks_for_absolute_gradients(scene):
    asked = []

    class AskedModel(DenseModel):
        def __call__(self, camera, *, background=None, means2d_offset=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            asked.append(self.rasterizer.absgrad)
            return super().__call__(camera, background=background, means2d_offset=means2d_offset)

    rasterizer = splax.TileRasterizer(isect_capacity=ROOM)
    for absgrad in (False, True):
        strategy = splax.DefaultStrategy(absgrad=absgrad)
        config = splax.TrainConfig(steps=1, progress=False)
        trainer = splax.Trainer(
            AskedModel(make_gaussians(scene), rasterizer), scene, config, strategy=strategy
        )
        asked.clear()  # the Trainer looks at how many channels the model has
        trainer.fit()
        assert set(asked) == {absgrad}
