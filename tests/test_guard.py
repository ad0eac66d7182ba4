"""The guard: it chooses by views held back, says why, stays within its budget, and resumes to the bit."""

import dataclasses
import json
import signal

import jax
import numpy as np
import pytest
from test_trainer import make_dense_trainer, make_gaussians, params_of

import splax
from splax.training import guard as guarding
from splax.training.guard import Guard, fewest_as_good, held_views, matching_views
from splax.training.recovery.checkpoints import Checkpoints
from splax.training.recovery.snapshot import to_arrays
from splax.training.watcher import thinned, with_degree, without_bands


def play(guard: Guard, score, trained=30.0, num=1000) -> int:
    """Shows the guard a run whose views held back score ``score(trial, step)`` dB; returns all its steps."""
    step = spent = 0
    for _ in range(200):
        look = guard.next_look(step)
        if look is None or look > guard.end:
            return spent + guard.end - step
        spent += look - step
        step = look
        match guard.look(step, [score(guard.trial, step)] * 3, trained, num):
            case "try next":
                guard.begin_trial(num // 4**guard.trial)
                step = 0
            case "begin again":
                step = 0
            case "finish":
                step = guard.best[1]
    raise AssertionError("the guard does not come to an end")


def after(guard: Guard, score, **others) -> Guard:
    play(guard, score, **others)
    return guard


# --- what it decides ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "views", "steps", "reason"),
    [(False, 40, 7000, "off"), (True, 7, 7000, "7 training views"), (True, 40, 999, "999 steps")],
)
def test_it_says_why_it_does_nothing(wanted, views, steps, reason):
    guard = Guard.of_run(wanted, views, steps)
    assert guard.next_look(0) is None and not guard.held and reason in guard.why
    assert guard.end == steps


@pytest.mark.parametrize("num", [8, 9, 20, 43, 56, 1000])
def test_views_held_back_are_spread_evenly(num):
    held = held_views(num)
    assert 2 <= len(held) <= 6 and len(held) <= num / 4
    assert len({*held, *matching_views(held, num)}) == 2 * len(held)
    assert all(0 < view < num - 1 for view in held)
    assert np.ptp(np.diff([-held[0] - 1, *held, 2 * num - 1 - held[-1]])) <= 2


def test_a_short_run_whose_views_held_back_do_well_goes_on_with_all():
    guard = after(Guard.of_run(True, 43, 7000), lambda trial, step: 28.9)
    assert guard.phase == "done" and guard.joined == 1500 and guard.end == 7000
    assert guard.limit is None and guard.lost == 0


def test_a_long_run_that_gets_better_goes_on_to_its_end():
    guard = after(Guard.of_run(True, 43, 30_000), lambda trial, step: 28 + step / 10_000)
    assert guard.phase == "done" and guard.joined == 15_000 and guard.end == 30_000


def test_a_long_run_that_gets_worse_goes_back_to_the_best_state():
    guard = after(Guard.of_run(True, 43, 30_000), lambda trial, step: 31 - abs(step - 6000) / 5000)
    assert guard.phase == "finish" and guard.joined == 6000
    assert 6000 < guard.end <= 7500
    assert "6,000" in guard.why


def test_one_bad_look_does_not_end_a_run():
    """Scores fall for a while after opacities were reset."""
    guard = after(Guard.of_run(True, 43, 30_000), lambda t, s: 28 + s / 10_000 - (s % 3000 > 0))
    assert guard.phase == "done" and guard.joined == 15_000


def test_of_candidates_the_fewest_gaussians_that_are_as_good_are_taken():
    best = {0: 19.5, 1: 21.3, 2: 21.3}
    guard = after(Guard.of_run(True, 20, 7000), lambda trial, step: best[trial])
    assert guard.scores == [[19.5] * 3, [21.3] * 3, [21.3] * 3] and guard.trial == 2
    assert guard.limit == int(1.25 * (1000 // 16))
    # It begins again with all views, and is as long as the budget allows.
    assert guard.phase == "done" and guard.joined == 0
    assert guard.end == 1.25 * 7000 - 3 * 1500


def test_as_many_as_asked_for_are_kept_where_fewer_are_worse():
    guard = after(Guard.of_run(True, 20, 30_000), lambda trial, step: 20 - trial + step / 1e4)
    assert guard.trial == 0 and guard.limit is None and guard.end == 30_000


def test_a_long_run_after_trials_ends_where_its_candidate_was_best():
    guard = after(
        Guard.of_run(True, 20, 30_000), lambda trial, step: 20 + (trial == 1) - abs(step - 4500) / 5000
    )
    assert guard.trial == 1 and guard.phase == "done" and guard.joined == 0 and guard.end == 4500


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([[20, 22, 24], [20, 22, 24], [20, 22, 24]], 2),  # no difference
        ([[20, 22, 24], [19, 21, 23], [18, 20, 22]], 0),  # worse by as much for every view: no doubt
        ([[20, 22, 24], [20, 22.5, 22.2], [10, 11, 12]], 1),  # worse by 0.43 on average, give or take 0.67
        ([[18, 18, 18], [20, 20, 20], [19, 19, 19]], 1),
        ([[20, 20, 20], [18, 18, 18], [20, 20, 20]], 2),
    ],
)
def test_the_rule_of_two_standard_errors(scores, chosen):
    assert fewest_as_good(scores) == chosen


@pytest.mark.parametrize("steps", range(1000, 40_000, 777))
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("trained", [21.0, 30.0])
def test_it_always_ends_and_keeps_to_its_budget(steps, seed, trained):
    rng = np.random.default_rng(seed)
    guard = Guard.of_run(True, 20, steps)
    spent = play(guard, lambda trial, step: 20 + 0.3 * trial + rng.normal(), trained)
    assert spent <= 1.25 * steps and 0 < guard.end <= steps


def test_a_short_run_that_cannot_try_does_not_grow():
    guard = after(Guard.of_run(True, 20, 1500), lambda trial, step: 19.0)
    assert guard.limit == 1000 and guard.sh_degree == 0 and guard.phase == "done"


def test_its_report_is_json_and_the_guard_again():
    guard = after(Guard.of_run(True, 20, 7000), lambda trial, step: 20.0 + trial)
    assert Guard.from_report(json.loads(json.dumps(guard.report(), allow_nan=False))) == guard
    with pytest.raises(ValueError, match="damaged"):
        Guard.from_report({**guard.report(), "height": 3})
    with pytest.raises(ValueError, match="damaged"):
        Guard.from_report({})


# --- what is done with states -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene():
    return splax.make_demo_scene(num_train=10, num_test=1, width=32, height=24)


@pytest.fixture
def state(scene):
    return make_dense_trainer(scene, make_gaussians(scene, 400))._state


def test_a_thinned_start_covers_as_much(state):
    """A quarter of evenly spread points are apart by the cube root of four times as much."""
    quarter = thinned(state, 0.25, seed=0)
    alive = np.asarray(quarter.alive)
    assert alive.sum() == 100 and not (alive & ~np.asarray(state.alive)).any()
    before, after = (np.asarray(s.params["gaussians"]["log_scales"])[alive] for s in (state, quarter))
    assert np.mean(after - before) == pytest.approx(np.log(4) / 3, abs=0.15)
    assert (np.asarray(thinned(state, 0.25, seed=0).alive) == alive).all()
    assert np.asarray(thinned(state, 1e-9, seed=0).alive).sum() == 1


def test_bands_that_are_left_out_stay_zero(state):
    filled = jax.tree.map(lambda leaf: leaf + 1 if leaf.dtype == np.float32 else leaf, state)
    limited = without_bands(filled, 0)
    assert not np.asarray(limited.params["gaussians"]["shN"]).any()
    assert int(limited.rest["gaussians"]["active_sh_degree"]) == 0
    slots = [
        leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(limited.opt_state)[0]
        if "shN" in jax.tree_util.keystr(path)
    ]
    assert len(slots) == 2 and not any(np.asarray(slot).any() for slot in slots)
    assert np.asarray(limited.params["gaussians"]["sh0"]).any()
    assert int(with_degree(state, 1).rest["gaussians"]["active_sh_degree"]) == 1


# --- a run ----------------------------------------------------------------------------------------------


@pytest.fixture(params=[100, 20], ids=["short", "long"])
def quick(monkeypatch, request):
    """A guard for runs of forty steps, which count as short ones or as long ones."""
    monkeypatch.setattr(guarding, "MIN_STEPS", 10)
    for name, value in {"_MIN_TRIAL": 8, "_INTERVAL": 4, "_LONG": request.param, "_GAP": -100.0}.items():
        monkeypatch.setattr(guarding, name, value)
    monkeypatch.setattr(Guard, "_trial", property(lambda self: 8))
    monkeypatch.setattr(Guard, "_interval", property(lambda self: 4))
    return request.param


STRATEGY = splax.DefaultStrategy(
    grow_grad2d=1e-7, refine_start=0, refine_every=3, reset_every=1000, max_gaussians=150
)


def make_guarded(scene, **config):
    config = {"strategy": STRATEGY, "deterministic": True, "steps": 40, "guard": True, **config}
    return make_dense_trainer(scene, make_gaussians(scene, 64), **config)


def prefer_few(trainer, state, views):
    """Scores that are best for sixteen Gaussians after twelve steps."""
    return [30.0 - 0.1 * abs(state.num_alive - 16) - 0.2 * abs(int(state.step) - 12)] * len(views)


def test_a_run_tries_fewer_gaussians_and_begins_again(scene, quick, monkeypatch):
    monkeypatch.setattr(splax.Trainer, "_score", prefer_few)
    trainer = make_guarded(scene)
    trainer.fit()
    report = trainer.guard_report
    assert report["phase"] == "done" and report["trial"] == 1 and len(report["scores"]) == 3
    assert report["limits"] == [None, 20, 5] and trainer.model.gaussians.num_alive <= 20
    # A long run would end at its best step, 12, but finds that out after 20 more steps: 50 are all it may make.
    expected = 50 - 3 * 8 - (20 if quick == 20 else 0)
    assert trainer.step == trainer.end == report["end"] == expected
    assert [entry.step for entry in trainer.history] == sorted({entry.step for entry in trainer.history})
    trainer.fit(3)  # who asks for more gets it
    assert trainer.step == expected + 3


def test_views_held_back_are_not_trained_on_until_they_join(scene, quick, monkeypatch):
    trainer = make_guarded(scene)
    held = set(trainer.guard_report["held"])
    shown = []
    take = trainer._loader.take

    def watch(step, num_steps):
        photos, rows = take(step, num_steps)
        shown.append((trainer._watcher.guard.joined, [int(photos.views[row]) for row in rows]))
        return photos, rows

    monkeypatch.setattr(trainer._loader, "take", watch)
    trainer.fit()
    before = {view for joined, views in shown if joined is None for view in views}
    after = {view for joined, views in shown if joined is not None for view in views}
    assert before and not before & held
    assert not after or after & held


def test_corrections_learn_from_views_held_back_and_gaussians_do_not(scene, quick, monkeypatch):
    trainer = make_guarded(scene, corrections=(splax.Exposure(),))
    held = trainer.guard_report["held"][0]
    monkeypatch.setattr(trainer._loader, "order", lambda end: np.full(end, held))
    before = jax.tree.map(
        np.array, (trainer._state.params, trainer._state.opt_state, trainer._state.strategy_state)
    )
    assert (exposures_of(trainer) == np.eye(3, 4)).all()
    trainer.fit(5)
    after = trainer._state.params, trainer._state.opt_state, trainer._state.strategy_state
    jax.tree.map(np.testing.assert_array_equal, after, before)
    moved = np.abs(exposures_of(trainer) - exposures_of(trainer)[0]).max(axis=(1, 2)) > 1e-4
    assert trainer.step == 5 and moved.nonzero()[0].tolist() == [held]


def exposures_of(trainer):
    return np.array(trainer._state.corrections.params["exposure"])


@pytest.mark.parametrize("stop", [3, 8, 13, 19])
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not_been(scene, quick, tmp_path, stop):
    """In the first look, in the middle of candidates, while it is watched and at its end."""
    pytest.importorskip("orbax.checkpoint", reason="checkpoints need orbax-checkpoint")
    whole = make_guarded(scene)
    whole.fit()
    calls = []

    def interrupt(trainer, progress):
        calls.append(progress.step)
        if len(calls) == stop:
            signal.raise_signal(signal.SIGINT)

    first = make_guarded(scene)
    try:
        first.fit(callbacks=[interrupt], checkpoints=Checkpoints(tmp_path))
    except KeyboardInterrupt:
        second = make_guarded(scene)
        second.resume(Checkpoints(tmp_path))
        second.fit()
        assert second.guard_report == whole.guard_report
        expected = to_arrays(whole._state)
        for name, array in to_arrays(second._state).items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_test_views_are_never_looked_at(scene, quick):
    blind = dataclasses.replace(scene, test=())
    with_test, without = make_guarded(scene), make_guarded(blind)
    with_test.fit()
    without.fit()
    for name, value in params_of(with_test).items():
        np.testing.assert_array_equal(value, params_of(without)[name])
