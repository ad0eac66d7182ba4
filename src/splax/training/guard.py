"""Chooses, by training views that are held back, how many Gaussians the photos bear and how long training helps.

Few photos can be reproduced by Gaussians that show nothing sensible from elsewhere. The guard keeps some training
views back for a while and looks at them now and then:

1. After the first steps it compares the score of the views held back with that of views trained on. Where the
   two are close, as they are for most photos, a short run goes on with all views; a long one is watched further.
2. Where they are far apart the photos do not determine so many Gaussians. The start is thinned to a quarter, a
   sixteenth and so on, each is trained for as many steps, and the one whose views held back score best goes on.
3. A run that is watched ends where views held back stop getting better: it goes back to the best state, with the
   bands of colour that score best, and trains on all views for a little while. One that still gets better halfway
   through goes on with all views to its end.

This module only decides; the :class:`splax.Trainer` does what it says. Steps count those of the candidate at hand.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

# Fewer views than this are all needed to train on.
MIN_VIEWS = 8
# A run shorter than this is over before anything can be seen.
MIN_STEPS = 1000
# Every how many-th view is held back, and how many at most.
_EVERY, _MOST = 6, 6
# When views are looked at first, and from then on: steps, or a share of the run if that is more.
_FIRST, _INTERVAL, _SHARE = 500, 500, 0.05
# dB between views trained on and views held back, at the first look, that are too many. Measured at step 500: 1.1
# for a scene that bears every Gaussian it gets, 3.4 to 4.1 for one that does not (docs/quality.md).
_GAP = 2.75
# Steps of a candidate, and the factor from one to the next.
_TRIAL, _SHRINK = 1500, 4
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
Action = Literal["go on", "next trial", "take trial", "limit growth", "join", "finish"]


@dataclasses.dataclass
class Guard:
    """What the guard knows of a run.

    Attributes:
        steps: length of the run that was asked for.
        held: views held back, by their number.
        why: for people: why it does nothing, or what it chose.
        phase: what it is waiting for.
        trial: which candidate is trained; 0 is the start as it is, each further one a quarter of the one before.
        scores: of each candidate at the end of its trial, dB.
        best: the best score since the candidate was taken, and the step of it.
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
    scores: list[float] = dataclasses.field(default_factory=list)
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
        return self.phase in ("first", "trials")

    @property
    def may_go_back(self) -> bool:
        """Whether the best state so far may be needed."""
        return self.phase in ("trials", "watch")

    def next_look(self, step: int) -> int | None:
        """The number of steps at which views are looked at next, ``step`` itself if that is due; None: no more."""
        if self.phase == "first":
            return _FIRST
        if self.phase == "trials":
            return self._trial
        if self.phase == "watch":
            looked = bool(self.looks) and self.looks[-1]["step"] == step
            return ((step - 1 + looked) // self._interval + 1) * self._interval
        return None

    def look(self, step: int, held: float, trained: float, num_gaussians: int) -> Action:
        """Takes in the scores at a step, and says what to do.

        Args:
            step: of the candidate at hand.
            held: mean PSNR of views held back, dB.
            trained: mean PSNR of views trained on, dB.
            num_gaussians: alive.
        """
        seen = {"trial": self.trial, "step": step, "held_back": held, "trained": trained}
        self.looks.append({**seen, "gaussians": num_gaussians})
        if self.phase == "first":
            return self._after_first(trained - held, num_gaussians)
        if self.phase == "trials":
            return self._after_trial(held)
        return self._after_watching(step, held)

    def is_best(self, step: int, held: float) -> bool:
        """Whether the state just looked at, of this score, is the best so far."""
        if self.phase == "trials":
            return bool(self.scores) and held >= max(self.scores)
        return self.phase == "watch" and self.best == (held, step)

    def begin_trial(self, num_gaussians: int) -> None:
        """Goes on with the next candidate, from a start of so many Gaussians."""
        self.trial += 1
        self.limits.append(int(_GROWTH * num_gaussians))

    def take_trial(self, trial: int) -> None:
        """Goes on with a candidate, at the end of its trial."""
        lost = self._trial * (len(self.scores) - 1)
        self.trial, self.phase = trial, "watch"
        chosen = "all" if trial == 0 else f"1/{_SHRINK**trial}, and growth to {self.limit:,} at most"
        listed = ", ".join(f"1/{_SHRINK**i}: {score:.2f}" for i, score in enumerate(self.scores))
        self.why += (
            f"; after {self._trial:,} steps shares of the Gaussians score {listed} dB; chosen: {chosen}"
        )
        self.best = (self.scores[trial], self._trial)
        self.end = min(self.steps, int(_BUDGET * self.steps) - lost)

    def report(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {**dataclasses.asdict(self), "best": [*self.best]} | {"scores": [*self.scores]}

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
    def next_share(self) -> float:
        """Of the start's Gaussians, those that the next candidate begins with."""
        return _SHRINK ** -(self.trial + 1)

    @property
    def _interval(self) -> int:
        return max(_INTERVAL, round(_SHARE * self.steps / 100) * 100)

    @property
    def _trial(self) -> int:
        """Steps of a candidate; too few to tell anything in a short run, which then has none."""
        return min(_TRIAL, self.steps // 4 // 100 * 100)

    def _after_first(self, gap: float, num_gaussians: int) -> Action:
        if gap <= _GAP:
            if self.steps > _LONG:
                self.phase = "watch"
                self.why = (
                    f"views held back score within {gap:.1f} dB of those trained on; it goes on watching"
                )
                return "go on"
            self.why = f"views held back score within {gap:.1f} dB of those trained on: nothing to change"
            return self._join(_FIRST)
        self.why = f"views held back score {gap:.1f} dB below those trained on"
        if self._trial < 2 * _FIRST:
            self.limits[0], self.sh_degree = num_gaussians, 0
            self.why += (
                f", so the {num_gaussians:,} Gaussians do not grow in number, and look alike from all sides"
            )
            self._join(_FIRST)
            return "limit growth"
        self.phase = "trials"
        return "go on"

    def _after_trial(self, held: float) -> Action:
        self.scores.append(held)
        # The best candidate goes on; the steps of all others are lost.
        affordable = (len(self.scores) + 1) * self._trial <= _BUDGET * self.steps - self.steps / 2
        improved = len(self.scores) == 1 or held > max(self.scores[:-1]) + _BETTER
        if improved and affordable:
            return "next trial"
        return "take trial"

    def _after_watching(self, step: int, held: float) -> Action:
        if held > self.best[0] + _BETTER:
            self.best = held, step
        fell = step - self.best[1] >= _PATIENCE * self._interval
        if fell or (self.trial > 0 and step + self._interval + self._finish(step) > self.end):
            return self._end_with_best()
        if self.trial == 0 and step >= self.steps / 2:
            self.why += f"; they still get better at step {step:,}, so all views are trained on from there"
            return self._join(step)
        return "go on"

    def _end_with_best(self) -> Action:
        score, step = self.best
        self.phase, self.joined, self.end = "finish", step, step + self._finish(step)
        self.why += (
            f"; they score best at step {step:,} ({score:.2f} dB), so the run goes back to it and ends at step "
            f"{self.end:,}"
        )
        return "finish"

    def _finish(self, step: int) -> int:
        return max(_FIRST, round(_FINISH * step / 100) * 100)

    def _join(self, step: int) -> Action:
        self.phase, self.joined = "done", step
        return "join"


def held_views(num_views: int) -> tuple[int, ...]:
    """Which views are held back: evenly spread, none of them first or last."""
    num = min(max(num_views // _EVERY, 2), _MOST)
    return tuple(int((2 * index + 1) * num_views / (2 * num)) for index in range(num))


def matching_views(held: tuple[int, ...], num_views: int) -> tuple[int, ...]:
    """As many views that are trained on, each next to one held back."""
    return tuple((view + 1) % num_views for view in held)
