"""Chooses, by training views that are held back, how many Gaussians the photos bear and how long training helps.

Few photos can be reproduced by Gaussians that show nothing sensible from elsewhere. The guard keeps some training
views back for a while and looks at them now and then. Corrections learn from all views all the while, so that
views held back are looked at with poses and colours of their own; the Gaussians do not.

1. After the first steps it compares the score of the views held back with that of views trained on. Where the two
   are close, as they are for most photos, a short run goes on with all views; a long one is watched further.
2. Where they are far apart the photos do not determine so many Gaussians. A quarter and a sixteenth of them are
   tried too, each for as many steps, and the fewest that are as good as the best, within two standard errors, are
   taken. A short run then begins again with those and all views. A long one begins again and is watched.
3. A run that is watched ends where views held back stop getting better. It goes back to the best state and trains
   on all views for a little while; after trials it begins again, with all views, and ends at the step of that
   state. A run that still gets better halfway through goes on with all views to its end.

Bands of colour without which views held back score better are left out.

This module only decides; :mod:`splax.training.watcher` does what it says. Steps count those of the candidate at
hand.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, Literal

# Fewer views than this are all needed to train on.
MIN_VIEWS = 8
# A run shorter than this is over before anything can be seen.
MIN_STEPS = 1000
# Every how many-th view is held back, and how many at most.
_EVERY, _MOST = 4, 6
# Most steps of a candidate, a quarter of the run at most, after which views are first looked at. Fewer steps than
# _MIN_TRIAL do not show which candidate is better: views are then looked at after _SHORT_LOOK, and none is tried.
_TRIAL, _MIN_TRIAL, _SHORT_LOOK = 1500, 1000, 500
# How often views are looked at from then on: steps, or a share of the run if that is more.
_INTERVAL, _SHARE = 500, 0.05
# dB between views trained on and views held back, at the first look, that are too many: scenes that bear every
# Gaussian they get show 0 to 2.8, king 6 to 9 (docs/quality.md).
_GAP = 4.5
# Candidates, and the factor of Gaussians from one to the next.
_CANDIDATES, _SHRINK = 3, 4
# Growth that a thinned start is allowed.
_GROWTH = 1.25
# All steps together, in steps of the run that was asked for.
_BUDGET = 1.25
# A run longer than this is watched although it shows nothing wrong at first.
_LONG = 10_000
# dB that count as a difference.
_BETTER = 0.05
# Looks in a row without a better score that end a run.
_PATIENCE = 2
# Share of the steps so far that are made on all views at the end, from the best state.
_FINISH = 0.15

Phase = Literal["off", "first", "trials", "watch", "finish", "done"]
Action = Literal["go on", "try next", "begin again", "limit growth", "join", "finish"]


@dataclasses.dataclass
class Guard:
    """What the guard knows of a run.

    Attributes:
        steps: length of the run that was asked for.
        held: views held back, by their number.
        why: for people: why it does nothing, or what it chose.
        phase: what it is waiting for.
        trial: which candidate is trained; 0 is the start as it is, each further one a quarter of the one before.
        scores: of each candidate at the end of its trial, dB for each view held back.
        best: the best mean score since the run is watched, dB, and the step of it.
        looks: all looks: trial, step, mean PSNR of views held back and of as many trained on, and Gaussians.
        end: step at which the run ends.
        joined: step from which all views are trained on; None: not yet.
        limits: most Gaussians of each candidate; None: as many as the strategy makes.
        lost: steps made that the run has gone back from.
        sh_degree: highest band of colour, if it set one.
    """

    steps: int
    held: tuple[int, ...] = ()
    why: str = ""
    phase: Phase = "off"
    trial: int = 0
    scores: list[list[float]] = dataclasses.field(default_factory=list)
    best: tuple[float, int] = (-100.0, 0)
    looks: list[dict[str, float]] = dataclasses.field(default_factory=list)
    end: int = 0
    joined: int | None = None
    limits: list[int | None] = dataclasses.field(default_factory=lambda: [None])
    lost: int = 0
    sh_degree: int | None = None

    @classmethod
    def of_run(cls, wanted: bool, num_views: int, steps: int) -> Guard:
        """The guard of a run of so many views and steps, or one that does nothing and says why."""
        if not wanted:
            why = "off"
        elif num_views < MIN_VIEWS:
            why = f"off: {num_views} training views are too few to hold some back; it takes {MIN_VIEWS}"
        elif steps < MIN_STEPS:
            why = f"off: {steps} steps are too few; it takes {MIN_STEPS:,}"
        else:
            return cls(steps, held_views(num_views), phase="first", end=steps)
        return cls(steps, why=why, end=steps)

    @property
    def limit(self) -> int | None:
        """Most Gaussians of the candidate at hand; None: as many as the strategy makes."""
        return self.limits[self.trial]

    @property
    def may_start_over(self) -> bool:
        """Whether the state before the first step may be needed."""
        return self.phase in ("first", "trials") or (self.phase == "watch" and bool(self.scores))

    @property
    def may_go_back(self) -> bool:
        """Whether the best state so far may be needed."""
        return self.phase == "watch"

    @property
    def share(self) -> float:
        """Of the start's Gaussians, those that the candidate at hand begins with."""
        return float(_SHRINK) ** -self.trial

    def next_look(self, step: int) -> int | None:
        """The number of steps at which views are looked at next, ``step`` itself if that is due; None: no more."""
        if self.phase == "first":
            return self._first
        if self.phase == "trials":
            return self._trial
        if self.phase == "watch":
            looked = bool(self.looks) and self.looks[-1]["step"] == step
            return ((step - 1 + looked) // self._interval + 1) * self._interval if step else self._interval
        return None

    def look(self, step: int, held: Sequence[float], trained: float, num_gaussians: int) -> Action:
        """Takes in the scores at a step, and says what to do.

        Args:
            step: of the candidate at hand.
            held: PSNR of each view held back, dB.
            trained: mean PSNR of views trained on, dB.
            num_gaussians: alive.
        """
        mean = statistics.fmean(held)
        seen = {"trial": self.trial, "step": step, "held_back": mean, "trained": trained}
        self.looks.append({**seen, "gaussians": num_gaussians})
        if self.phase == "first":
            return self._after_first(trained - mean, held, num_gaussians)
        if self.phase == "trials":
            return self._after_trial(held)
        return self._after_watching(step, mean)

    def is_best(self, step: int) -> bool:
        """Whether the state just looked at is the best so far."""
        return self.phase == "watch" and self.best[1] == step

    def begin_trial(self, num_gaussians: int) -> None:
        """Goes on with the next candidate, from a start of so many Gaussians."""
        self.limits.append(int(_GROWTH * num_gaussians))

    def leave_out_bands(self, degree: int, gain: float) -> None:
        """Takes no more than some bands of colour, which score better by so many dB."""
        self.sh_degree = degree
        self.why += f"; colour of degree {degree} alone scores {gain:.2f} dB more"

    def report(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {**dataclasses.asdict(self), "held": [*self.held], "best": [*self.best]}

    @classmethod
    def from_report(cls, report: dict[str, Any]) -> Guard:
        """The inverse of :meth:`report`.

        Raises:
            ValueError: if it is damaged.
        """
        try:
            score, step = report["best"]
            held = tuple(int(view) for view in report["held"])
            return cls(**{**report, "held": held, "best": (float(score), int(step))})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the checkpoint is damaged: guard is {error}.") from error

    @property
    def _first(self) -> int:
        return self._trial if self._trial >= _MIN_TRIAL else _SHORT_LOOK

    @property
    def _interval(self) -> int:
        return max(_INTERVAL, round(_SHARE * self.steps / 100) * 100)

    @property
    def _trial(self) -> int:
        """Steps of a candidate."""
        return min(_TRIAL, self.steps // 4 // 100 * 100)

    def _after_first(self, gap: float, held: Sequence[float], num_gaussians: int) -> Action:
        if gap <= _GAP:
            self.why = f"views held back score within {gap:.1f} dB of those trained on"
            if self.steps > _LONG:
                self.phase = "watch"
                return "go on"
            self.why += ": nothing to change"
            return self._join(self._first)
        self.why = f"views held back score {gap:.1f} dB below those trained on"
        if self._trial < _MIN_TRIAL:
            self.limits[0], self.sh_degree = num_gaussians, 0
            self.why += (
                f", so the {num_gaussians:,} Gaussians do not grow in number, and look alike from all sides"
            )
            self._join(self._first)
            return "limit growth"
        self.phase = "trials"
        return self._after_trial(held)

    def _after_trial(self, held: Sequence[float]) -> Action:
        self.scores.append([*held])
        if len(self.scores) < _CANDIDATES:
            self.trial += 1
            return "try next"
        self.trial = fewest_as_good(self.scores)
        means = ", ".join(f"1/{_SHRINK**i}: {statistics.fmean(s):.2f}" for i, s in enumerate(self.scores))
        chosen = (
            "all" if self.trial == 0 else f"1/{_SHRINK**self.trial}, and growth to {self.limit:,} at most"
        )
        self.why += (
            f"; after {self._trial:,} steps shares of the Gaussians score {means} dB; chosen: {chosen}"
        )
        self.end = min(self.steps, int(_BUDGET * self.steps) - _CANDIDATES * self._trial)
        if self.steps > _LONG:
            self.phase = "watch"
        else:
            self._join(0)
        return "begin again"

    def _after_watching(self, step: int, held: float) -> Action:
        if held > self.best[0] + _BETTER:
            self.best = held, step
        if step - self.best[1] >= _PATIENCE * self._interval:
            return self._end_with_best(step)
        if step >= self.steps / 2:
            self.why += f"; they still get better at step {step:,}, so all views are trained on from there"
            return self._join(step)
        return "go on"

    def _end_with_best(self, present: int) -> Action:
        score, step = self.best
        self.why += f"; they score best at step {step:,} ({score:.2f} dB)"
        if self.scores:
            self._join(0)
            spent = _CANDIDATES * self._trial + present
            self.end = min(step, int(_BUDGET * self.steps) - spent)
            self.why += f", so the run begins again with all views and ends after {self.end:,} steps"
            return "begin again"
        self.phase, self.joined = "finish", step
        self.end = step + max(_INTERVAL, round(_FINISH * step / 100) * 100)
        self.why += f", so the run goes back to it and ends at step {self.end:,}"
        return "finish"

    def _join(self, step: int) -> Action:
        self.phase, self.joined = "done", step
        return "join"


def fewest_as_good(scores: Sequence[Sequence[float]]) -> int:
    """The last candidate that is as good as the best one, within two standard errors of the difference.

    The rule of one standard error (Breiman et al. 1984, *Classification and Regression Trees*, section 3.4.3), for
    scores of the same views. Two, since a run goes on for longer than its candidates, and the longer it trains the
    fewer Gaussians its photos bear.

    Args:
        scores: of each candidate, from the largest to the smallest, for each view.
    """
    best = max(range(len(scores)), key=lambda index: statistics.fmean(scores[index]))

    def as_good(index: int) -> bool:
        worse = [b - s for b, s in zip(scores[best], scores[index], strict=True)]
        error = statistics.stdev(worse) / len(worse) ** 0.5
        return statistics.fmean(worse) <= 2 * error

    return max(index for index in range(best, len(scores)) if index == best or as_good(index))


def held_views(num_views: int) -> tuple[int, ...]:
    """Which views are held back: evenly spread, none of them first or last."""
    num = min(max(num_views // _EVERY, 2), _MOST)
    return tuple(int((2 * index + 1) * num_views / (2 * num)) for index in range(num))


def matching_views(held: tuple[int, ...], num_views: int) -> tuple[int, ...]:
    """As many views that are trained on, each next to one held back."""
    return tuple((view + 1) % num_views for view in held)
