"""The host's side of a run: compiled calls of many steps, the refinements between them, and the guard's looks.

Where a step cannot be made, the compiled loop ends early. The host then removes the cause and continues with the
same step.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from splax.corrections.base import Corrections
from splax.model import SplatModel
from splax.scene import Scene
from splax.strategies.base import Strategy
from splax.training.batch import Loss
from splax.training.color_renderer import ColorRenderer
from splax.training.config import TrainConfig
from splax.training.errors import NonFiniteError
from splax.training.optimizers import make_optimizer
from splax.training.photos.loader import PhotoLoader
from splax.training.photos.targets import Photos
from splax.training.progress import Progress, StepMetrics
from splax.training.recovery.nonfinite import find_nonfinite_step, name_params
from splax.training.recovery.resume import settings_of
from splax.training.recovery.rollback import Rollback
from splax.training.recovery.snapshot import Snapshot
from splax.training.refiner import Refiner
from splax.training.runtime.compiled import CompiledFunction
from splax.training.runtime.isect_buffer import IsectBuffer
from splax.training.runtime.memory import MemoryNeed, raise_if_out_of_memory, step_need
from splax.training.runtime.steps_per_call import MAX_STEPS, StepsPerCall
from splax.training.runtime.stopwatch import Stopwatch
from splax.training.state import TrainState, copied, init_state
from splax.training.step import TrainStep
from splax.training.watcher import Watcher


class TrainingLoop:
    """The part of a :class:`splax.Trainer` that changes its state, step by step.

    The Trainer's ``__init__`` sets the attributes that are declared here.
    """

    _model: SplatModel
    scene: Scene
    config: TrainConfig
    strategy: Strategy
    optimizer: optax.GradientTransformation
    history: list[Progress]
    _loader: PhotoLoader
    _corrections: Corrections
    _isects: IsectBuffer
    _stopwatch: Stopwatch
    _rollback: Rollback
    _watcher: Watcher
    _current: TrainState
    _distance: float
    _own_optimizer: optax.GradientTransformation | None
    _render: ColorRenderer
    loss: Loss
    _seconds: float
    _may_end_early = True
    _is_running = False
    _model_is_current = True

    @property
    def model(self) -> SplatModel:
        """The model. Reading it while :meth:`splax.Trainer.fit` runs copies the latest Params into it."""
        if self._is_running and not self._model_is_current:
            self._state.give_to(self._model)
            self._model_is_current = True
        return self._model

    @property
    def _state(self) -> TrainState:
        return self._current

    @_state.setter
    def _state(self, state: TrainState) -> None:
        self._current, self._model_is_current = state, False

    @property
    def step(self) -> int:
        """Number of steps made so far."""
        return int(self._state.step)

    @property
    def end(self) -> int:
        """The step at which the run ends: ``config.steps``, or an earlier step that the guard chose."""
        return self._watcher.guard.end

    @property
    def guard_report(self) -> dict[str, Any]:
        """The guard's scores and choices as JSON; ``why`` explains them. See :mod:`splax.training.guard`."""
        return self._watcher.guard.report()

    @property
    def corrections(self) -> dict[str, Any]:
        """Copies of the Params that the corrections have learned so far, by the names of the corrections."""
        return jax.tree.map(jnp.copy, self._state.corrections.params)

    @property
    def seconds(self) -> float:
        """Time spent in :meth:`splax.Trainer.fit` so far in seconds, compilation included."""
        return self._seconds

    @property
    def profile(self) -> dict[str, float]:
        """Seconds spent so far on each part of the work, by name: compiling, steps, refinements and so on."""
        return dict(self._stopwatch.seconds)

    def describe_profile(self) -> str:
        """The :attr:`profile` as a table of seconds and shares, one line for each part."""
        return self._stopwatch.table()

    def _start(self) -> TrainState:
        """The state before the first step."""
        corrections = self._corrections.init()
        return init_state(self._model, self.optimizer, self.strategy, corrections, self.config.seed)

    def _measure_by(self, distance: float) -> None:
        """Makes optimizer, step and refinement for a scene photographed from ``distance`` (world units)."""
        config = self.config
        self._distance = distance
        self.optimizer = self._own_optimizer or make_optimizer(
            extent=distance,
            steps=config.steps,
            rates=config.learning_rates,
            batch_size=config.batch_size,
            decay_after=config.decay_after,
        )
        step = TrainStep.in_scene(
            self.scene,
            config,
            distance,
            model=self._model,
            render=self._render,
            loss=self.loss,
            optimizer=self.optimizer,
            strategy=self.strategy,
            corrections=self._corrections,
        )
        self._compile_with(step)
        self._refine_with(self.strategy)

    def _compile_with(self, step: TrainStep) -> None:
        self._train_step = step
        self._run = CompiledFunction(
            step.run, static_argnames=("isect_capacity", "downscale"), donate_argnames="state"
        )
        self._called: set[int] = set()  # ids of the programs that were called at least once

    def _refine_with(self, strategy: Strategy) -> None:
        self._refine = Refiner(
            strategy,
            self.optimizer,
            extent=self._distance,
            growth=self.config.growth,
            stopwatch=self._stopwatch,
        )
        self._refined: set[int] = set()  # numbers of rows for which a refinement was called at least once

    def _begin(self, steps: int | None) -> int:
        """Prepares for ``steps`` more steps, or for all that are left if None; returns the step to train up to."""
        end = self.end if steps is None else self.step + steps
        # A user who asks for more steps after the guard has ended the run gets them.
        self._may_end_early = self.step < self.end
        self._state = self._prepared_for(end)
        self._watcher.begin(self._state)
        self._loader.plan(end)
        return end

    def _prepared_for(self, end: int) -> TrainState:
        """The state with the model's Variables and, at the start of a run, rows for the Gaussians it will add."""
        state = self._state.taken_from(self._model)
        try:
            return self._refine.prepared(state, max(end, self.config.steps))
        except BaseException as error:
            if self._state.is_broken:
                # Rows are set aside only before the first step, so nothing that was learned is lost.
                self._state = self._start()
            raise_if_out_of_memory(error, state.capacity)
            raise

    def memory(self) -> MemoryNeed:
        """The device memory that the run needs for its next steps; compiles them if they are not compiled yet."""
        rows = self._refine.rows_prepared(self._state, self.config.steps)
        # Shapes suffice for compiling: arrays would hold the state on the device a second time.
        shapes = self._refine.shapes(self._state, rows)
        self._isects.fit(self._model, self.scene.train)
        self._loader.plan(self.step + 1)
        photos, _ = self._take_photos(self.step, 1)
        program = self._program(shapes, photos, self.config.resolution.factor(self.step))
        return step_need(program, shapes, photos, rows, present=self._state)

    # --- the guard --------------------------------------------------------------------------------------------

    def _look(self, end: int) -> None:
        """Lets the guard score the views held back, and continues with the state that it chose."""
        with self._stopwatch.part("guard"):
            limit = self._watcher.guard.limit
            state = self._watcher.look(self._state, self._score)
        if state is not self._state:
            self._state = state
            self._rollback.forget()
            self._forget_later_records()
        if self._watcher.guard.limit != limit:
            self._refine_with(self._limited_strategy())
        self._loader.plan(end)

    def _limited_strategy(self) -> Strategy:
        limit = self._watcher.guard.limit
        return self.strategy if limit is None else self.strategy.limited_to(limit)

    def _score(self, state: TrainState, views: Sequence[int]) -> list[float]:
        """PSNR in dB of training views rendered from a state.

        The program that trains computes the scores, so that no other program is compiled.
        """
        scores = []
        while len(scores) < len(views):
            photos, row = self._loader.take_view(views[len(scores)])
            rows = np.full(MAX_STEPS, row, np.int32)
            program = self._program(state, photos, self.config.resolution.factor(int(state.step)))
            _, _, metrics = program(copied(state), photos, rows, np.int32(1), self._loader.held)
            if (needed := int(metrics.num_isects[0])) > self._isects.capacity:
                self._isects.grow(needed)
            else:
                scores.append(float(metrics.psnr[0]))
        return scores

    # --- the host's side -----------------------------------------------------------------------------------

    def _compiled_calls(self, end: int) -> Iterator[Progress]:
        """Trains up to step ``end`` and refines where it is due; yields after every compiled call."""
        steps_per_call = StepsPerCall(self.config, self.strategy)
        self._rollback.forget()
        with self._stopwatch.part("compile"):  # most of this time is spent on compiling
            self._isects.fit(self._model, self.scene.train)
        while (step := self.step) < self._last_step(end):
            next_look = self._watcher.guard.next_look(step)
            if next_look == step:
                self._look(end)
                continue
            with self._stopwatch.part("snapshots"):
                self._rollback.keep_if_due(self._state)
            photos, rows = self._take_photos(
                step, steps_per_call.next_call(step, min(self._last_step(end), next_look or end))
            )
            done, metrics, seconds = self._call(photos, rows, self.config.resolution.factor(step))
            problem = find_nonfinite_step(metrics, done, self._isects.capacity, self._state.params)
            if problem is not None:
                at = step + problem.place
                name = self._loader.view_at(at).name
                self._go_back(f"at step {at}, view {name!r}: {problem.text}", spoiled=problem.spoiled)
                continue
            if done < MAX_STEPS and metrics.num_isects[done] > self._isects.capacity:
                self._isects.grow(int(metrics.num_isects[done]))
            if done == 0:
                continue
            step += done
            self._isects.peak = max(self._isects.peak, int(metrics.num_isects[:done].max()))
            rate = done / seconds
            steps_per_call.learn(rate)
            if self.strategy.refines_after(step - 1) and self._watcher.guard.phase != "finish":
                capacity = self._state.capacity
                broken = self._refine_state()
                if broken.any():
                    params = name_params(broken, self._state.params)
                    self._go_back(f"in the refinement after step {step - 1}: Params {params}", spoiled=False)
                    continue
                self._isects.follow(compiles=self._state.capacity > capacity)
            yield Progress.of(metrics, step, done, self._state.num_alive, self._seconds, rate)

    def _last_step(self, end: int) -> int:
        """The step to stop at on the way to step ``end``: the guard may end the run before."""
        return min(end, self.end) if self._may_end_early and end <= self.config.steps else end

    def _refine_state(self) -> np.ndarray:
        """Refines the state, with more rows if there are too few.

        Returns:
            The Params in which the refinement would put a NaN or an infinity, bool; if there is one, the
            refinement is not carried out.
        """
        while True:
            has_run = self._state.capacity in self._refined
            # Where memory runs out, it runs out at the first call of a program.
            with contextlib.nullcontext() if has_run else self._not_lost():
                self._state, outcome = self._refine(self._state)
            self._refined.add(self._state.capacity)
            if outcome.num_rows <= self._state.capacity:
                outcome.check(self.step - 1)
                return outcome.broken
            # No other name refers to the state of fewer rows: a growth needs more memory than all else in a run.
            with self._not_lost():
                self._state = self._refine.with_rows(self._state, outcome.num_rows)

    @contextlib.contextmanager
    def _not_lost(self) -> Iterator[None]:
        """Restores the state if the body of the ``with`` block fails after it has used up the state's buffers."""
        with self._stopwatch.part("snapshots"):
            snapshot = Snapshot.take(self._state)
        try:
            yield
        except BaseException:
            if self._state.is_broken:
                self._state = snapshot.state()
            raise

    def _take_photos(self, step: int, num_steps: int) -> tuple[Photos, np.ndarray]:
        """Photos for some of the next steps, and the row of each step; warns of photos that are damaged."""
        with self._stopwatch.part("photos"):
            photos, rows = self._loader.take(step, num_steps)
        for name, problem in self._loader.newly_unreadable().items():
            warnings.warn(f"view {name!r} is left out of training: {problem}", stacklevel=4)
        return photos, rows

    def _program(self, state: TrainState, photos: Photos, downscale: int) -> Any:
        """The compiled loop for these shapes and the present size of the intersection buffer."""
        args = state, photos, np.zeros(MAX_STEPS, np.int32), np.int32(0), self._loader.held
        with self._stopwatch.part("compile"):
            return self._run.compile(*args, isect_capacity=self._isects.capacity, downscale=downscale)

    def _program_to_call(self, photos: Photos, downscale: int) -> Any:
        """The compiled loop for the present state; copies the state to the host before the program's first call.

        Raises:
            OutOfMemoryError: before the program's first call, if there is not enough memory for it.
        """
        program = self._program(self._state, photos, downscale)
        if id(program) not in self._called:
            step_need(program, self._state, photos, self._state.capacity).check()
            # If memory runs out all the same, it does so at the first call, which uses up the state's buffers.
            with self._stopwatch.part("snapshots"):
                self._rollback.keep(self._state)
            self._called.add(id(program))
        return program

    def _call(self, photos: Photos, rows: np.ndarray, downscale: int) -> tuple[int, StepMetrics, float]:
        """Makes one compiled call.

        Returns:
            The number of steps made, the metrics of these steps and of one step that could not be made, and the
            time of the call in seconds.
        """
        program = self._program_to_call(photos, downscale)
        padded = np.zeros(MAX_STEPS, np.int32)
        padded[: len(rows)] = rows
        started = time.perf_counter()
        with self._stopwatch.part("steps"):
            self._state, *results = program(
                self._state, photos, padded, np.int32(len(rows)), self._loader.held
            )
            done, metrics = jax.device_get(results)  # starts all copies before it waits for the first
        return int(done), metrics, time.perf_counter() - started

    def _go_back(self, problem: str, *, spoiled: bool) -> None:
        """Returns to the last snapshot, to continue with smaller updates; a run can do so once.

        Args:
            problem: place and kind of the value that is not finite, for people.
            spoiled: whether the present state holds a value that is not finite.

        Raises:
            NonFiniteError: if the run went back before.
        """
        self._state, goes_on = self._rollback.go_back(self._state, spoiled=spoiled)
        self._forget_later_records()
        if not goes_on:
            raise NonFiniteError(
                f"not finite {problem}. The model holds the state of step {self.step}. Smaller learning rates, "
                "or a look at that view, may help."
            )
        warnings.warn(
            f"not finite {problem}. Going back to step {self.step}, with updates half as large from there on.",
            stacklevel=5,
        )

    def _forget_later_records(self) -> None:
        self.history = [entry for entry in self.history if entry.step <= self.step]

    def _settings(self) -> dict[str, str]:
        order = self._loader.order_of_all(self.config.steps)
        return settings_of(self.config, self.strategy, self._model, self.scene.train, order)
