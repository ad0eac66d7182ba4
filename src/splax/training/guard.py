"""Chooses, with training views held back, how many Gaussians the photos determine and how long training helps.

When photos are few, Gaussians can reproduce them and still show nothing sensible from other viewpoints. The guard
holds some training views back for a while and scores them now and then. The Gaussians do not learn from the views
held back. Corrections learn from all views all the time, so that each view held back is scored with a pose and
colours of its own.

1. After the first steps the guard compares the score of the views held back with that of views trained on. Where
   the two scores are close, as they are for most photos, a short run continues with all views; a long run is
   watched further.
2. Where the two scores are far apart, the photos do not determine so many Gaussians. Trials with a quarter and a
   sixteenth of the Gaussians follow, each of the same number of steps. The guard chooses the fewest Gaussians that
   score as well as the best candidate, within two standard errors. A short run then starts again with those
   Gaussians and all views. A long run starts again with them and is watched.
3. A watched run ends where the views held back stop getting better. It goes back to the best state and trains on
   all views for a little while; if there were trials, it starts again with all views instead, and ends at the step
   of the best state. A run that still gets better halfway through continues with all views to its end.

Bands of colour without which the views held back score better are left out.

This module only decides; :mod:`splax.training.watcher` carries the decisions out. Steps are counted from the start
of the present candidate.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, Literal

# Fewer views than this are all needed for training.
MIN_VIEWS = 8
# A shorter run is over before scores tell anything.
MIN_STEPS = 1000
# One view in so many is held back, and so many views at most.
_EVERY, _MOST = 4, 6
# A candidate is trained for _TRIAL steps, but for a quarter of the run at most; then views are first scored. Fewer
# steps than _MIN_TRIAL do not show which candidate is better: views are then scored after _SHORT_LOOK steps, and
# there are no trials.
_TRIAL, _MIN_TRIAL, _SHORT_LOOK = 1500, 1000, 500
# Steps from one look at the views to the next, from then on; or this share of the run, if that is more.
_INTERVAL, _SHARE = 500, 0.05
# Largest difference in dB between views trained on and views held back, at the first look, that is no cause for
# trials. Scenes whose photos determine every Gaussian have 0 to 2.8, king has 6 to 9 (docs/quality.md).
_GAP = 4.5
# Number of candidates, and the factor by which each has fewer Gaussians than the one before.
_CANDIDATES, _SHRINK = 3, 4
# Factor by which the Gaussians of a thinned start may grow in number.
_GROWTH = 1.25
# Most steps that are made in all, as a multiple of the requested steps.
_BUDGET = 1.25
# A run longer than this is watched even if the first look finds nothing wrong.
_LONG = 10_000
# Smallest difference in dB that counts as better.
_BETTER = 0.05
# A run ends after this many looks in a row without a better score.
_PATIENCE = 2
# Steps on all views at the end, from the best state, as a share of the steps made up to that state.
_FINISH = 0.15

Phase = Literal["off", "first", "trials", "watch", "finish", "done"]
Action = Literal["go on", "try next", "begin again", "limit growth", "join", "finish"]


@dataclasses.dataclass
class Guard:
    """The guard's knowledge of a run, and its decisions.

    Attributes:
        steps: requested length of the run in steps.
        held: numbers of the training views that are held back.
        why: explanation for people: the reason why the guard does nothing, or the choices that it made.
        phase: the part of the procedure that the run is in.
        trial: index of the candidate in training; 0 is the start as given, and each further candidate has a
            quarter of the Gaussians of the one before.
        scores: scores of each candidate at the end of its trial, dB for each view held back.
        best: the best mean score in dB since the run is watched, and the step of that score.
        looks: a record of each look: trial, step, mean PSNR of the views held back and of as many views trained
            on, and number of Gaussians.
        end: step at which the run ends.
        joined: step from which all views are trained on; None until that is decided.
        limits: largest number of Gaussians of each candidate; None leaves the number to the strategy.
        lost: number of steps that were made and then given up by going back.
        sh_degree: highest band of colour in use, if the guard set it; None if not.
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
        """The guard of a run, or a guard that does nothing and says why.

        Args:
            wanted: whether the user wants a guard.
            num_views: number of training views.
            steps: length of the run in steps.
        """
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
        """Largest number of Gaussians of the present candidate; None leaves the number to the strategy."""
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
        """Share of the start's Gaussians that the present candidate begins with, in (0, 1]."""
        return float(_SHRINK) ** -self.trial

    def next_look(self, step: int) -> int | None:
        """The step of the next look, which is ``step`` itself if a look is due; None if no look follows."""
        if self.phase == "first":
            return self._first
        if self.phase == "trials":
            return self._trial
        if self.phase == "watch":
            looked = bool(self.looks) and self.looks[-1]["step"] == step
            return ((step - 1 + looked) // self._interval + 1) * self._interval if step else self._interval
        return None

    def look(self, step: int, held: Sequence[float], trained: float, num_gaussians: int) -> Action:
        """Records the scores at a step, and returns the action to take.

        Args:
            step: number of steps that the present candidate has made.
            held: PSNR of each view held back, dB.
            trained: mean PSNR of views trained on, dB.
            num_gaussians: number of Gaussians alive.
        """
        mean = statistics.fmean(held)
        record = {"trial": self.trial, "step": step, "held_back": mean, "trained": trained}
        self.looks.append({**record, "gaussians": num_gaussians})
        if self.phase == "first":
            return self._after_first(trained - mean, held, num_gaussians)
        if self.phase == "trials":
            return self._after_trial(held)
        return self._after_watching(step, mean)

    def is_best(self, step: int) -> bool:
        """Whether the state of this step, at which :meth:`look` was just called, is the best so far."""
        return self.phase == "watch" and self.best[1] == step

    def begin_trial(self, num_gaussians: int) -> None:
        """Begins the trial of the next candidate, which starts with ``num_gaussians`` Gaussians."""
        self.limits.append(int(_GROWTH * num_gaussians))

    def leave_out_bands(self, degree: int, gain: float) -> None:
        """Limits the bands of colour to those up to ``degree``, which score better by ``gain`` dB."""
        self.sh_degree = degree
        self.why += f"; colour of degree {degree} alone scores {gain:.2f} dB more"

    def report(self) -> dict[str, Any]:
        """The attributes as values that JSON can hold."""
        return {**dataclasses.asdict(self), "held": [*self.held], "best": [*self.best]}

    @classmethod
    def from_report(cls, report: dict[str, Any]) -> Guard:
        """The inverse of :meth:`report`.

        Raises:
            ValueError: if the report is damaged.
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
        """Number of steps that each candidate is trained for."""
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
    """Index of the smallest candidate that is as good as the best, within two standard errors of the difference.

    This is the rule of one standard error (Breiman et al. 1984, *Classification and Regression Trees*, section
    3.4.3) for scores of the same views. It allows two standard errors, since a run is longer than its candidates'
    trials, and the longer it trains the fewer Gaussians its photos determine.

    Args:
        scores: scores in dB of each candidate, from the largest to the smallest candidate, for each view.
    """
    best = max(range(len(scores)), key=lambda index: statistics.fmean(scores[index]))

    def as_good(index: int) -> bool:
        worse = [b - s for b, s in zip(scores[best], scores[index], strict=True)]
        error = statistics.stdev(worse) / len(worse) ** 0.5
        return statistics.fmean(worse) <= 2 * error

    return max(index for index in range(best, len(scores)) if index == best or as_good(index))


def held_views(num_views: int) -> tuple[int, ...]:
    """Numbers of the views to hold back: evenly spread, without the first and the last view."""
    num = min(max(num_views // _EVERY, 2), _MOST)
    return tuple(int((2 * index + 1) * num_views / (2 * num)) for index in range(num))


def matching_views(held: tuple[int, ...], num_views: int) -> tuple[int, ...]:
    """As many views that are trained on, each of them next to a view that is held back."""
    return tuple((view + 1) % num_views for view in held)
