"""Carries out the guard's decisions: makes candidates, keeps states to go back to, and holds views back."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from splax.gaussians import neighbor_spacing
from splax.ops.spherical_harmonics import num_sh_bases
from splax.training.guard import Guard, matching_views
from splax.training.optimizers import GAUSSIANS
from splax.training.photos.loader import PhotoLoader
from splax.training.recovery.snapshot import Snapshot
from splax.training.state import TrainState

Score = Callable[[TrainState, Sequence[int]], list[float]]
"""Function that returns the PSNR of training views rendered from a state, dB."""

# Names of the states that a checkpoint holds in addition to the present one.
START, BEST = "start", "best"
# Least gain in dB for which bands of colour are left out.
_BETTER = 0.05


class Watcher:
    """Scores the views held back when the guard asks for it, and makes the state to continue with.

    Args:
        guard: the guard that decides.
        loader: the loader of the run's photos, which holds views back.
        num_views: number of training views.
        seed: seed of the random choice of Gaussians for a thinned start.
    """

    def __init__(self, guard: Guard, loader: PhotoLoader, num_views: int, seed: int) -> None:
        self.guard = guard
        self._loader, self._num_views, self._seed = loader, num_views, seed
        self._start: Snapshot | None = None
        self._best: Snapshot | None = None
        self._hold_back()

    def begin(self, state: TrainState) -> None:
        """Keeps the state if it is the one before the first step, from which candidates begin."""
        if self.guard.phase == "first" and int(state.step) == 0:
            self._start = Snapshot.take(state)

    def look(self, state: TrainState, score: Score) -> TrainState:
        """Lets the guard look at a state.

        Args:
            state: the present state.
            score: the function that scores training views.

        Returns:
            The state to continue with: the one given, or another one.
        """
        guard, step = self.guard, int(state.step)
        held_scores = score(state, guard.held)
        trained_scores = score(state, matching_views(guard.held, self._num_views))
        action = guard.look(step, held_scores, statistics.fmean(trained_scores), state.num_alive)
        if guard.is_best(step):
            self._best = Snapshot.take(state)
        if action == "limit growth":
            state = without_bands(state, 0)
        elif action == "try next":
            state = self._thinned_start()
            guard.begin_trial(state.num_alive)
        elif action == "begin again":
            self._leave_out_bands(state if self._best is None else self._best.state(), score)
            state = self._thinned_start()
        elif action == "finish":
            assert self._best is not None
            state = self._best.state()
            self._leave_out_bands(state, score)
        if guard.sh_degree is not None and guard.sh_degree < _degree_of(state):
            state = without_bands(state, guard.sh_degree)
        guard.lost += max(step - int(state.step), 0)
        if not guard.may_start_over:
            self._start = None
        self._hold_back()
        return state

    def kept(self) -> dict[str, Snapshot]:
        """Snapshots of the states that may be needed again, by name, for a checkpoint."""
        needed = {START: self.guard.may_start_over, BEST: self.guard.may_go_back}
        states = {START: self._start, BEST: self._best}
        return {name: state for name, state in states.items() if needed[name] and state is not None}

    def restore(self, guard: Guard, kept: dict[str, Snapshot]) -> None:
        """Takes over the guard and the states of a checkpoint.

        Args:
            guard: the guard that was saved.
            kept: the states that were saved for it, by name; see :meth:`kept`.
        """
        self.guard = guard
        self._start, self._best = kept.get(START), kept.get(BEST)
        self._hold_back()

    def _hold_back(self) -> None:
        self._loader.hold_back(self.guard.held, self.guard.joined)

    def _thinned_start(self) -> TrainState:
        assert self._start is not None
        state, share = self._start.state(), self.guard.share
        return state if share == 1 else thinned(state, share, self._seed)

    def _leave_out_bands(self, state: TrainState, score: Score) -> None:
        """Reports to the guard the bands of colour without which views held back score better."""
        degree = _degree_of(state)
        scores = [statistics.fmean(score(with_degree(state, d), self.guard.held)) for d in range(degree + 1)]
        best = max(range(degree + 1), key=lambda d: scores[d])
        if (gain := scores[best] - scores[degree]) > _BETTER:
            self.guard.leave_out_bands(best, gain)


def _degree_of(state: TrainState) -> int:
    """The highest band of colour that may come into use."""
    return int(state.rest[GAUSSIANS]["active_sh_degree"])


def thinned(state: TrainState, share: float, seed: int) -> TrainState:
    """A state before the first step with a share of its Gaussians, drawn at random.

    Each Gaussian grows by the factor by which the distance to its neighbours grew.

    Args:
        state: the state before the first step.
        share: share of the Gaussians to keep, in (0, 1].
        seed: seed of the random choice.
    """
    params = state.params[GAUSSIANS]
    alive = np.asarray(state.alive)
    rows = np.flatnonzero(alive)
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[: max(1, round(share * len(rows)))])
    means = np.asarray(params["means"], np.float64)
    old_spacing = np.ones(len(alive))
    old_spacing[rows] = neighbor_spacing(means[rows])
    log_scales = np.array(params["log_scales"])
    log_scales[chosen] += np.log(neighbor_spacing(means[chosen]) / old_spacing[chosen])[:, None]
    new_alive = np.zeros_like(alive)
    new_alive[chosen] = True
    gaussians = params | {"log_scales": jnp.asarray(log_scales)}
    rest = state.rest[GAUSSIANS] | {"alive": jnp.asarray(new_alive)}
    return state._replace(params=state.params | {GAUSSIANS: gaussians}, rest=state.rest | {GAUSSIANS: rest})


def with_degree(state: TrainState, degree: int) -> TrainState:
    """The state with the bands of colour up to ``degree`` in use."""
    active = jnp.full_like(state.rest[GAUSSIANS]["active_sh_degree"], degree)
    rest = state.rest[GAUSSIANS] | {"active_sh_degree": active}
    return state._replace(rest=state.rest | {GAUSSIANS: rest})


def without_bands(state: TrainState, degree: int) -> TrainState:
    """The state without the bands of colour above ``degree``: their coefficients and optimizer slots are 0."""
    shape, first = state.params[GAUSSIANS]["shN"].shape, num_sh_bases(degree) - 1

    def clear(path: Any, leaf: Any) -> Any:
        of_bands = "shN" in jax.tree_util.keystr(path) and getattr(leaf, "shape", None) == shape
        return leaf.at[:, first:].set(0) if of_bands else leaf

    params, opt_state = jax.tree_util.tree_map_with_path(clear, (state.params, state.opt_state))
    return with_degree(state._replace(params=params, opt_state=opt_state), degree)
