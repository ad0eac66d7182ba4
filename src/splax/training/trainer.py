"""Fits a model to the views of a scene.

Between two refinements no array changes its shape, so many steps run as one compiled call: images lie on the
device, the order of the views is fixed beforehand, schedules are functions of the step, and Python only reads the
results; see :mod:`splax.training.loop`.
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
from splax.training.evaluator import Evaluator, without_missing_tracks
from splax.training.guard import Guard
from splax.training.loop import TrainingLoop
from splax.training.photographed_distance import photographed_distance
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
from splax.training.view_scores import ViewScores, mean_scores
from splax.training.watcher import Watcher


class Trainer(TrainingLoop):
    """Owns optimizer, densification and schedules, and fits a model to a scene.

    Subclass it and override :meth:`loss` to train with another loss. The model is trained in place: its Variables
    hold the latest state when :meth:`fit` returns or raises, and whenever ``trainer.model`` is read. A callback
    must read ``trainer.model``: while :meth:`fit` runs, only that brings the model up to date.

    Attributes:
        scene: the scene whose views the model is fitted to.
        config: the run's settings.
        strategy: the strategy that decides when Gaussians are born and die.
        optimizer: the optax transformation of the model's Params.
        history: one :class:`Progress` for each compiled call.

    Example:
        >>> import splax
        >>> from flax import nnx
        >>> scene = splax.make_demo_scene(num_train=2, num_test=1, width=16, height=12)
        >>> gaussians = splax.Gaussians.random(20, extent=scene.extent, center=scene.center, rngs=nnx.Rngs(0))
        >>> config = splax.TrainConfig(steps=2, progress=False, guard=False)
        >>> trainer = splax.Trainer(splax.SplatModel(gaussians), scene, config)
        >>> model = trainer.fit()
        >>> trainer.step, model is trainer.model, trainer.history[-1].num_gaussians
        (2, True, 20)
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
            model: the model to train; it is trained in place.
            scene: the scene to train on. Its views may differ in size and have masks; masked pixels do not count.
            config: the run's settings; the defaults if None.
            strategy: the strategy of densification; ``DefaultStrategy()`` if None. ``Strategy()`` keeps all
                Gaussians.
            optimizer: any optax transformation; Adam with a learning rate for each Param if None.

        Raises:
            ValueError: if the model has no Gaussian alive or too few channels; if depth has a weight, but no view
                has depth or the model renders none; if ``config.batch_size`` is above 1 with an optimizer of your
                own; or if the model cannot keep what ``config.deterministic`` promises.
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
        """Prepares photos, with depth and tracks if the run uses them; returns the corrections to learn."""
        scene, config = self.scene, self.config
        own_loss = type(self).loss is not Trainer.loss  # an overridden loss may use depth
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
        """A sentence that names the backend that renders in training, and the reason why no faster one can."""
        rasterizer = copy.copy(self._model.rasterizer)
        rasterizer.isect_capacity = self._isects.capacity or 1  # a step is compiled with a capacity
        return rasterizer.explain(self._model, self.scene.train[0].camera)

    def load_corrections(self, params: dict[str, Any]) -> None:
        """Replaces the Params of the corrections by those that an earlier run learned.

        Args:
            params: Params of all corrections, by the names of the corrections.

        Raises:
            ValueError: if they belong to other corrections, or to another number of training views.
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

    def loss(self, model: SplatModel, output: RenderOutput, batch: Batch) -> Float[Array, ""]:
        """The loss that training minimises. Override it to train with another; it runs inside jit.

        Args:
            model: the model at this step, for regularizers and more renderings.
            output: the rendered view. The first three channels of its ``image`` are the colour, over the
                background and after the corrections. The features follow, without corrections: the channels from
                the fourth on, or all channels of the model if it overrides ``color``. Masked pixels are 0.
            batch: the photo, ``batch.image``, with its mask, depth, camera, number and step.
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
        """Trains the model.

        Args:
            steps: number of steps to make; all steps up to :attr:`end` if None.
            callbacks: functions that are called as ``callback(trainer, progress)``, once before anything is
                compiled and then after every compiled call. A callback that reads ``trainer.model`` gets the
                latest Params, which are copied for it; others cost no copy. ``trainer.stop()`` ends the run.
            checkpoints: checkpoints to save the run to, as often as they ask for it, and when the run is stopped
                or interrupted or fails; one that cannot be written is a warning, and training goes on.
            profile: whether to print the time spent on each part of the work; see :attr:`profile`.

        Returns:
            The model, trained in place.

        Raises:
            NonFiniteError: if the loss, a gradient or a Param is NaN or infinite once more after the run went back
                to an earlier state with smaller updates; the message names the step, the view and the Param.
            OutOfMemoryError: if the device has too little memory; the message says what would help.
            NoGaussianError: if pruning would leave no Gaussian alive.
            KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP, when the compiled call under way has ended.
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
                for progress in () if self._stop.is_set() else self._compiled_calls(end):
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
                        self._save_if_possible(checkpoints)
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
        """Makes :meth:`fit` save the run, as after Ctrl-C, and return when the compiled call under way has ended.

        A callback or another thread may call it; it does nothing while :meth:`fit` does not run. Another call of
        :meth:`fit` continues the run.
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
        """Saves the run in its present state, unless there is a checkpoint of this step or a later one.

        Args:
            checkpoints: the checkpoints to add this one to.

        Raises:
            ValueError: if the checkpoint cannot be written, or orbax is not installed.
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
        except ValueError as error:  # e.g. the disk is full: training is worth more than its checkpoints
            warnings.warn(str(error), stacklevel=3)

    def resume(self, checkpoints: Checkpoints) -> None:
        """Loads the last state that was saved, by this Trainer or another one with the same settings.

        The run then continues to the bit as it would have continued there, on the same machine with the same
        versions; on a GPU this needs ``config.deterministic``. The pixels of the photos, their cameras, an
        optimizer of your own and an overridden :meth:`loss` must be the same; they are not compared.

        Args:
            checkpoints: the checkpoints of the run to continue.

        Raises:
            ValueError: if there is no checkpoint, it is damaged, or it has other settings or data.
        """

        def shapes(capacity: int) -> TrainState:
            return self._refine.shapes(self._state, max(capacity, self._state.capacity))

        self._state, position, kept = load_run(checkpoints, self._settings(), shapes)
        # A run of an older version used the spread of the cameras as its unit, and had no guard.
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
        """An evaluator of the present model, which renders and scores views; it also works without a Trainer."""
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
        """The appearance of views that training did not see.

        A view gets the colour maps of its neighbours among the training views if neighbours predict each other,
        else the mean of all maps. Cameras are moved as the refined training cameras moved. See
        :mod:`splax.corrections.held_out`.

        Args:
            views: the views to draw; the scene's test views if None.
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
            views: the views to score; the scene's test views if None.
            networks: networks of LPIPS, ``"alex"`` or ``"vgg"``; see :func:`splax.lpips`.
            color_correct: whether to score once more with colours fitted to the photo's; see
                :func:`splax.color_correct`.
            pose_align: whether to score once more with the camera fitted to the photo.

        Returns:
            ``{"psnr": dB, "ssim": in [-1, 1], "psnr_identity": dB, "views": number of views}``; if requested, also
            ``"lpips_alex"``, ``"lpips_vgg"``, ``"psnr_color_corrected"``, ``"ssim_color_corrected"`` and
            ``"psnr_pose_aligned"``; see :meth:`evaluate_views`. Without a view the means are None.
        """
        options: dict[str, Any] = {"color_correct": color_correct, "pose_align": pose_align}
        scores = self.evaluate_views(views, networks=networks, **options)
        return mean_scores([score.numbers() for score in scores], networks, **options)

    def evaluate_views(
        self,
        views: Sequence[View] | None = None,
        *,
        networks: Sequence[Network] = (),
        color_correct: bool = False,
        pose_align: bool = False,
        held_out: HeldOutViews | None = None,
    ) -> Iterator[ViewScores]:
        """Renders views and compares them with their photos, view by view; arguments as for :meth:`evaluate`.

        Protocol: the rendering, clamped to [0, 1], is compared with the 8-bit photo / 255 over all pixels that are
        not masked. SSIM has an 11x11 Gaussian window, sigma 1.5, no padding, and skips windows with masked pixels;
        LPIPS sees masked pixels black. ``held_out`` is the appearance of the views, :meth:`held_out` if None, for
        which their photos are not read. ``psnr_identity`` is the PSNR with their cameras as given and the mean of
        all colour maps.
        """
        options: dict[str, Any] = {"color_correct": color_correct, "pose_align": pose_align}
        scores = self.evaluator.evaluate_views(views, networks=networks, held_out=held_out, **options)
        return self._stopwatch.each("evaluate", scores)
