"""Fits a model to the views of a scene.

Between two refinements nothing changes shape, so a whole stretch of steps is one compiled loop: images lie on
the device, the order of views is known ahead, schedules are functions of the step, and Python only looks at
what comes back; see :mod:`splax.training.loop`.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from splax.corrections.base import Correction, Corrections
from splax.corrections.held_out import HeldOutViews
from splax.losses.photometric import photometric_loss
from splax.metrics.lpips import Network
from splax.model import SplatModel
from splax.rasterizer import RenderOutput
from splax.scene import Scene, View
from splax.strategies.base import Strategy
from splax.strategies.default import DefaultStrategy
from splax.training.batch import Batch
from splax.training.checks import check_settings, uses_depth
from splax.training.color_renderer import ColorRenderer, color_of
from splax.training.config import TrainConfig
from splax.training.distance import photographed_distance
from splax.training.evaluation import ViewScores, mean_scores
from splax.training.evaluator import Evaluator, without_missing_tracks
from splax.training.guard import Guard
from splax.training.loop import TrainingLoop
from splax.training.photos.loader import PhotoLoader
from splax.training.progress import Progress, ProgressBar
from splax.training.recovery.checkpoints import Checkpoints
from splax.training.recovery.resume import Position, load_run, with_kept
from splax.training.recovery.rollback import Rollback
from splax.training.recovery.snapshot import to_arrays
from splax.training.runtime.interrupt import deferred_interrupt
from splax.training.runtime.isect_buffer import IsectBuffer
from splax.training.runtime.memory import raise_if_out_of_memory
from splax.training.runtime.stopwatch import Stopwatch
from splax.training.state import TrainState
from splax.training.watcher import Watcher


class Trainer(TrainingLoop):
    """Owns optimizer, densification and schedules, and fits a model to a scene.

    Subclass it and override :meth:`loss` to train for something else. The model given is trained in place: its
    Variables hold the latest state when :meth:`fit` returns or raises, and whenever ``trainer.model`` is read. A
    callback must read ``trainer.model``: the model that was given to the Trainer is not brought up to date before.

    Attributes:
        scene: the scene whose views the model is fitted to.
        config: the run's settings.
        strategy: the strategy that decides when Gaussians are born and die.
        optimizer: the optax transformation of the model's Params.
        history: one :class:`Progress` for each compiled call.
    """

    def __init__(
        self,
        model: SplatModel,
        scene: Scene,
        config: TrainConfig | None = None,
        *,
        strategy: Strategy | None = None,
        optimizer: optax.GradientTransformation | None = None,
    ) -> None:
        """Prepares a run.

        Args:
            model: trained in place.
            scene: its views may differ in size, and have masks: pixels that are masked count nowhere.
            config: settings; defaults if None.
            strategy: densification; ``DefaultStrategy()`` if None, ``Strategy()`` for none at all.
            optimizer: any optax transformation; Adam with a rate per Param if None.

        Raises:
            ValueError: on a model of no Gaussian alive or of too few channels, depth that is to be used but that
                there is none of, a batch size beside an optimizer of your own, or a model that cannot keep what
                ``config.deterministic`` promises.
        """
        self._model = model
        self._stop = threading.Event()
        self.scene = scene
        self.config = config = config or TrainConfig()
        self.strategy = DefaultStrategy() if strategy is None else strategy
        self._own_optimizer = optimizer
        self.history: list[Progress] = []
        check_settings(model, config, optimizer)
        self._render = ColorRenderer.of(model, scene.train[0].camera)
        corrections = self._load_photos()
        self._corrections = Corrections(
            corrections, self._loader.cameras, steps=config.steps, extent=scene.extent
        )
        self._isects = IsectBuffer(model.rasterizer.isect_capacity or 0)
        self._seconds = 0.0
        self._stopwatch = Stopwatch()
        self._measure_by(photographed_distance(model.gaussians, scene.train, fallback=scene.extent))
        self._state = self._start()
        self._rollback = Rollback()
        guard = Guard.of_run(config.guard, len(scene.train), config.steps)
        self._watcher = Watcher(guard, self._loader, len(scene.train), config.seed)

    def _load_photos(self) -> tuple[Correction, ...]:
        """Prepares photos, with depth and tracks if the run looks at them; returns the corrections to learn."""
        scene, config = self.scene, self.config
        own_loss = type(self).loss is not Trainer.loss  # which may look at depth
        depths = uses_depth(self._model, scene, config) or (
            own_loss and any(view.has_depth for view in scene.train)
        )
        corrections = without_missing_tracks(config.corrections, scene.train)
        tracks = any(correction.uses_tracks for correction in corrections)
        self._loader = PhotoLoader(
            scene.train,
            seed=config.seed,
            limit=config.photo_bytes,
            depths=depths,
            tracks=tracks,
            shows_held=bool(corrections),
        )
        return corrections

    def explain(self) -> str:
        """Which backend draws the steps of training, and what keeps it from a faster one, as a sentence."""
        rasterizer = copy.copy(self._model.rasterizer)
        rasterizer.isect_capacity = self._isects.capacity or 1  # steps are compiled with some room for pairs
        return rasterizer.explain(self._model, self.scene.train[0].camera)

    @property
    def guard_report(self) -> dict[str, Any]:
        """What the guard saw and chose, as JSON: its ``why`` is for people; see :mod:`splax.training.guard`."""
        return self._watcher.guard.report()

    @property
    def corrections(self) -> dict[str, Any]:
        """What the corrections have learned so far, by their names; copied."""
        return jax.tree.map(jnp.copy, self._state.corrections.params)

    def load_corrections(self, params: dict[str, Any]) -> None:
        """Puts what the corrections of an earlier run learned in the place of what these have.

        Args:
            params: of all corrections, by their names.

        Raises:
            ValueError: if they are of other corrections, or of another number of training views.
        """
        corrections = self._state.corrections
        now, then = jax.tree.map(jnp.shape, (corrections.params, params))
        if now != then:
            raise ValueError(
                f"corrections of shapes {then} were given, expected {now}: one row for each training view. Load "
                "them with the photos and the corrections of the run that learned them."
            )
        params = jax.tree.map(lambda x: jnp.array(x, jnp.float32), params)
        self._state = self._state._replace(corrections=corrections._replace(params=params))

    @property
    def profile(self) -> dict[str, float]:
        """Seconds spent so far on each part of the work: compiling, steps, refinements and so on."""
        return dict(self._stopwatch.seconds)

    def describe_profile(self) -> str:
        """The same as a table, with shares."""
        return self._stopwatch.table()

    @property
    def seconds(self) -> float:
        """Time spent in :meth:`fit` so far, compilation included."""
        return self._seconds

    def loss(self, model: SplatModel, output: RenderOutput, batch: Batch) -> Float[Array, ""]:
        """What is minimised. Override this; runs inside jit.

        Args:
            model: as it is at this step, for regularizers and more renderings.
            output: the rendered view. The first three channels of its ``image`` are the colour, over the
                background and as the corrections leave it; features follow, untouched: the channels from the
                fourth on, or all of the model's if it overrides ``color``. Where the photo is masked all are 0.
            batch: the photo, ``batch.image``, and what is known of its view.
        """
        del model
        return photometric_loss(color_of(output), batch.image, ssim_weight=self.config.ssim_weight)

    def fit(
        self,
        steps: int | None = None,
        callbacks: Sequence[Callable[[Trainer, Progress], None]] = (),
        *,
        checkpoints: Checkpoints | None = None,
        profile: bool = False,
    ) -> SplatModel:
        """Trains.

        Args:
            steps: number of steps to make; up to :attr:`end` if None.
            callbacks: functions that are called as ``callback(trainer, progress)``, once before anything is
                compiled and after every compiled call. One that reads ``trainer.model`` gets the latest Params,
                which are copied for it; one that does not costs no copy. ``trainer.stop()`` ends the run.
            checkpoints: where to save the run: every so often, and when it is stopped or interrupted or fails.
            profile: whether to print where the time went; see :attr:`profile`.

        Returns:
            The model, trained in place.

        Raises:
            NonFiniteError: if the loss, a gradient or a Param is NaN or infinite, again after the run went back
                to an earlier state once and took smaller steps; names step, view and Param.
            OutOfMemoryError: if the device has too little memory; says what would help.
            NoGaussianError: if pruning would leave no Gaussian alive.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, once the steps under way are done.
            ValueError: if the model's arrays changed shape since the Trainer was made.
        """
        self._stop.clear()
        end = self._begin(steps)
        started, before = time.perf_counter(), self._seconds
        bar = ProgressBar(self.step, end, self.config.progress)
        with self._stopwatch.part("host"), deferred_interrupt() as interrupted, bar:
            self._is_running = True
            try:
                self._report(Progress.at_start(self.step, self._state.num_alive, before), callbacks)
                if interrupted.is_set():
                    raise KeyboardInterrupt
                for progress in () if self._stop.is_set() else self._stretches(end):
                    self._seconds = before + time.perf_counter() - started
                    progress = progress._replace(seconds=self._seconds)
                    self.history.append(progress)
                    bar.show(progress)
                    self._report(progress, callbacks)
                    if interrupted.is_set():
                        raise KeyboardInterrupt
                    if self._stop.is_set():
                        break
                    if checkpoints is not None and checkpoints.due:
                        self.save(checkpoints)
                if self._stop.is_set() and checkpoints is not None:
                    self._save_if_possible(checkpoints)
            except BaseException as error:
                self._state = self._rollback.recover(self._state)
                self._forget_later_records()
                if checkpoints is not None:
                    self._save_if_possible(checkpoints)
                raise_if_out_of_memory(error, self._state.capacity)
                raise
            finally:
                self._is_running = False
                self._state.give_to(self._model)
        if profile:
            print(self.describe_profile())
        return self._model

    def stop(self) -> None:
        """Ends :meth:`fit` once the steps under way are done; it saves the run as after Ctrl-C, and returns.

        May be called by a callback or from another thread; does nothing while :meth:`fit` does not run. Another
        call of :meth:`fit` goes on.
        """
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` ended the last :meth:`fit`."""
        return self._stop.is_set()

    def _report(self, progress: Progress, callbacks: Sequence[Callable[[Trainer, Progress], None]]) -> None:
        with self._stopwatch.part("callbacks"):
            for callback in callbacks:
                callback(self, progress)

    def save(self, checkpoints: Checkpoints) -> None:
        """Saves the run as it is, unless that was done at this step or a later one.

        Raises:
            ValueError: if it cannot be written, or orbax is not installed.
        """
        sizes = self._state.capacity, self._isects.capacity, self._isects.peak
        guard = self._watcher.guard
        position = Position(
            *sizes, self._train_step.first_sh_degree, self.history, self._distance, guard.report()
        )
        with self._stopwatch.part("checkpoint"):
            arrays = with_kept(to_arrays(self._state), self._watcher.kept())
            checkpoints.save(self.step + guard.lost, arrays, position.facts(self._settings()))

    def _save_if_possible(self, checkpoints: Checkpoints) -> None:
        try:
            self.save(checkpoints)
        except ValueError as error:  # another one is on its way already
            warnings.warn(str(error), stacklevel=3)

    def resume(self, checkpoints: Checkpoints) -> None:
        """Goes back to the last state that was saved, by this Trainer or another one of the same settings.

        What follows is to the bit what would have followed there, on the same machine and versions; on a GPU if
        ``config.deterministic``. What the photos show, their cameras, an optimizer of your own and an overridden
        :meth:`loss` must be the same; they are not compared.

        Raises:
            ValueError: if there is no checkpoint, it is damaged, or it is of other settings or data.
        """

        def shapes(capacity: int) -> TrainState:
            return self._refine.shapes(self._state, max(capacity, self._state.capacity))

        self._state, position, kept = load_run(checkpoints, self._settings(), shapes)
        # A run of an older version has the cameras' spread as its unit, and no guard.
        self._measure_by(self.scene.extent if position.distance is None else position.distance)
        guard = (
            Guard.from_report(position.guard) if position.guard else Guard.of_run(False, 0, self.config.steps)
        )
        self._watcher.restore(guard, kept)
        self._refine_with(self._limited_strategy())
        self._isects.capacity, self._isects.peak = position.isect_capacity, position.isect_peak
        self._compile_with(dataclasses.replace(self._train_step, first_sh_degree=position.first_sh_degree))
        self.history = position.history
        self._seconds = self.history[-1].seconds if self.history else 0.0
        self._state.give_to(self._model)

    @property
    def evaluator(self) -> Evaluator:
        """What renders and scores views by the model as it is now; it also works without a Trainer."""
        return Evaluator(
            self.model,
            self.scene,
            self._corrections,
            self._state.corrections.params,
            self._render,
            self.loss,
            self._train_step.background,
            self.step,
        )

    def held_out(self, views: Sequence[View] | None = None) -> HeldOutViews:
        """How views that training did not see are drawn.

        Colour maps are those of the neighbours among the training views where these predict each other, else the
        mean; cameras are moved as the refined training cameras moved; see :mod:`splax.corrections.held_out`.

        Args:
            views: the views; those held out if None.
        """
        return self.evaluator.held_out(views)

    def evaluate(
        self,
        views: Sequence[View] | None = None,
        *,
        networks: Sequence[Network] = (),
        color_correct: bool = False,
        pose_align: bool = False,
    ) -> dict[str, Any]:
        """Mean scores over views.

        Args:
            views: the views; those held out if None.
            networks: networks of LPIPS, ``"alex"`` or ``"vgg"``; see :func:`splax.lpips`.
            color_correct: whether to score once more with colours fitted to the photo's; see
                :func:`splax.color_correct`.
            pose_align: whether to score once more with the camera fitted to the photo.

        Returns:
            ``{"psnr": dB, "ssim": in [-1, 1], "psnr_identity": dB, "views": number of views}``, and
            ``"lpips_alex"`` or ``"lpips_vgg"``, ``"psnr_color_corrected"`` and ``"ssim_color_corrected"``,
            ``"psnr_pose_aligned"``; see :meth:`evaluate_views`. Without any view the means are None.
        """
        asked: dict[str, Any] = {"color_correct": color_correct, "pose_align": pose_align}
        scored = self.evaluate_views(views, networks=networks, **asked)
        return mean_scores([one.numbers() for one in scored], networks, **asked)

    def evaluate_views(
        self,
        views: Sequence[View] | None = None,
        *,
        networks: Sequence[Network] = (),
        color_correct: bool = False,
        pose_align: bool = False,
        held_out: HeldOutViews | None = None,
    ) -> Iterator[ViewScores]:
        """Renders views and compares them with their photos, view by view; arguments as of :meth:`evaluate`.

        Protocol: the rendering clamped to [0, 1] against the 8-bit photo / 255, all pixels but masked ones; SSIM
        with an 11x11 Gaussian window, sigma 1.5, no padding, over windows without masked pixels; LPIPS with
        masked pixels black. Views are drawn as ``held_out`` says, :meth:`held_out` if None, which does not look at
        their photos; ``psnr_identity`` is of their cameras as given and the mean of all colour maps.
        """
        asked: dict[str, Any] = {"color_correct": color_correct, "pose_align": pose_align}
        scored = self.evaluator.evaluate_views(views, networks=networks, held_out=held_out, **asked)
        return self._stopwatch.each("evaluate", scored)
