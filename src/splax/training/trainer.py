"""Fits a model to the views of a scene.

Between two refinements nothing changes shape, so a whole stretch of steps is one compiled loop: images lie on
the device, the order of views is known ahead, schedules are functions of the step, and Python only looks at
what comes back. Where a step cannot be made the loop ends early; the host then mends the cause and goes on with
the same step.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from tqdm import tqdm

from splax.corrections.base import Corrections
from splax.data.scene import Scene, View
from splax.losses import photometric_loss
from splax.model import SplatModel
from splax.perceptual import Network
from splax.rasterizer import RenderOutput
from splax.strategies.base import Strategy
from splax.strategies.default import DefaultStrategy
from splax.training.config import TrainConfig
from splax.training.errors import NoGaussianError, NonFiniteError
from splax.training.evaluation import ViewScores, evaluate_views, mean_scores
from splax.training.feed import PhotoFeed
from splax.training.interrupt import deferred_interrupt
from splax.training.isect_buffer import IsectBuffer
from splax.training.optimizers import make_optimizer, means_rate
from splax.training.progress import Progress, StepMetrics
from splax.training.schedules import used_sh_degree
from splax.training.state import grow, init_state, refine
from splax.training.step import TrainStep
from splax.training.targets import Photos

# Most steps of one compiled call; the progress bar and Ctrl-C wait for its end.
_MAX_STEPS_PER_CALL = 100
# A call is made to last about this long, so that progress shows and Ctrl-C is obeyed.
_SECONDS_PER_CALL = 2.0


class Trainer:
    """Owns optimizer, densification and schedules, and fits a model to a scene.

    Subclass it and override :meth:`loss` to train for something else. The model given is trained in place: its
    Variables hold the latest state whenever :meth:`fit` returns or raises, and when callbacks run.

    Attributes:
        model: the model.
        scene: its views.
        config: settings.
        strategy: when Gaussians are born and die.
        optimizer: an optax transformation of the model's Params.
        history: one :class:`Progress` per stretch of steps.
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
            ValueError: on a model of no Gaussian alive, or depth that is to be used but that there is none of.
        """
        self.model = model
        self.scene = scene
        self.config = config or TrainConfig()
        self.strategy = DefaultStrategy() if strategy is None else strategy
        self.optimizer = optimizer or make_optimizer(
            extent=scene.extent,
            steps=self.config.steps,
            rates=self.config.learning_rates,
            batch_size=self.config.batch_size,
        )
        self.history: list[Progress] = []
        if int(model.gaussians.num_alive) == 0:
            raise ValueError("the model has no Gaussian alive, so there is nothing to train.")
        self._feed = PhotoFeed(
            scene.train,
            seed=self.config.seed,
            limit=self.config.photo_bytes,
            depths=_uses_depth(model, scene, self.config),
        )
        self._num_unreadable = 0
        self._corrections = Corrections(
            self.config.corrections, self._feed.cameras, steps=self.config.steps, extent=scene.extent
        )
        corrections = self._corrections.init()
        self._state = init_state(model, self.optimizer, self.strategy, corrections, self.config.seed)
        self._scene_background = jnp.asarray(scene.background, jnp.float32)
        fixed = isinstance(self.config.background, tuple)
        self._background = jnp.asarray(self.config.background) if fixed else self._scene_background
        self._isects = IsectBuffer(model.rasterizer.isect_capacity or 0)
        self._seconds = 0.0
        self._train_step = TrainStep(
            model=model,
            loss=self.loss,
            optimizer=self.optimizer,
            strategy=self.strategy,
            corrections=self._corrections,
            config=self.config,
            scene_background=self._scene_background,
            background=self._background,
            first_sh_degree=used_sh_degree(model.gaussians),
            extent=scene.extent,
            means_rate=means_rate(self.config.learning_rates, scene.extent, self.config.steps),
        )
        self._run = jax.jit(
            self._train_step.run, static_argnames=("isect_capacity", "downscale"), donate_argnames="state"
        )
        self._refine = jax.jit(refine, static_argnames=("strategy", "tx"))

    @property
    def step(self) -> int:
        """Steps made so far."""
        return int(self._state.step)

    @property
    def corrections(self) -> dict[str, Any]:
        """What the corrections have learned so far, by their names; copied."""
        return jax.tree.map(jnp.copy, self._state.corrections.params)

    @property
    def seconds(self) -> float:
        """Time spent in :meth:`fit` so far, compilation included."""
        return self._seconds

    def loss(
        self, model: SplatModel, output: RenderOutput, target: Float[Array, "h w 3"]
    ) -> Float[Array, ""]:
        """What is minimised. Override this; runs inside jit.

        Args:
            model: as it is at this step, for regularizers.
            output: the rendered view. Where the photo is masked its ``image`` is 0.
            target: the photo in [0, 1], and 0 where it is masked.
        """
        del model
        return photometric_loss(output.image, target, ssim_weight=self.config.ssim_weight)

    def fit(
        self,
        steps: int | None = None,
        callbacks: Sequence[Callable[[Trainer, Progress], None]] = (),
    ) -> SplatModel:
        """Trains.

        Args:
            steps: how many more; what ``config.steps`` leaves to do if None.
            callbacks: each called as ``callback(trainer, progress)`` after every stretch of steps.

        Returns:
            The model, trained in place.

        Raises:
            NonFiniteError: if the loss or a gradient is NaN or infinite; names the step and the view.
            NoGaussianError: if pruning would leave no Gaussian alive.
            KeyboardInterrupt: after Ctrl-C, once the steps under way are done.
            ValueError: if the model's arrays changed shape since the Trainer was made.
        """
        end = self.config.steps if steps is None else self.step + steps
        self._take_model()
        self._feed.plan(end)
        started, before = time.perf_counter(), self._seconds
        with deferred_interrupt() as interrupted, self._bar(end) as bar:
            try:
                for progress in self._stretches(end):
                    self._seconds = before + time.perf_counter() - started
                    progress = progress._replace(seconds=self._seconds)
                    self.history.append(progress)
                    self._show(bar, progress)
                    self._give_model()
                    for callback in callbacks:
                        callback(self, progress)
                    if interrupted.is_set():
                        raise KeyboardInterrupt
            finally:
                self._give_model()
        return self.model

    def evaluate(
        self, views: Sequence[View] | None = None, *, networks: Sequence[Network] = ()
    ) -> dict[str, Any]:
        """Mean quality over views, by default those held out.

        Args:
            views: which.
            networks: of LPIPS, ``"alex"`` or ``"vgg"``; see :func:`splax.lpips`.

        Returns:
            ``{"psnr": dB, "ssim": in [-1, 1], "views": how many}``, and ``"lpips_alex"`` or ``"lpips_vgg"``; see
            :meth:`evaluate_views`. Without any view the means are None.
        """
        scores = [one.numbers() for one in self.evaluate_views(views, networks=networks)]
        return mean_scores(scores, networks)

    def evaluate_views(
        self, views: Sequence[View] | None = None, *, networks: Sequence[Network] = ()
    ) -> Iterator[ViewScores]:
        """Renders views, by default those held out, and compares them with their photos.

        Protocol: the rendering clamped to [0, 1] against the 8-bit photo / 255, all pixels but masked ones; SSIM
        with an 11x11 Gaussian window, sigma 1.5, no padding, over windows without masked pixels; LPIPS with
        masked pixels black.

        Returns:
            An iterator of the scores of each view, and its rendering.
        """
        views = self.scene.test if views is None else views
        learned = self._state.corrections.params
        return evaluate_views(
            self.model,
            views,
            old=self._scene_background,
            background=self._background,
            correct=lambda camera: self._corrections.camera(learned, None, camera),
            networks=networks,
        )

    # --- the host's side -----------------------------------------------------------------------------------

    def _stretches(self, end: int) -> Iterator[Progress]:
        """Trains up to step ``end``, refining where it is due; yields after every compiled call."""
        self._isects.fit(self.model, self.scene.train)
        length, step = 1, self.step
        while step < end:
            until = next(
                s for s in range(step + 1, end + 1) if s == end or self.strategy.refines_after(s - 1)
            )
            change = self.config.resolution.next_change(step)
            until = until if change is None else min(until, change)
            photos, rows = self._feed.take(step, min(until - step, length))
            self._tell_unreadable()
            done, metrics, seconds = self._call(photos, rows, self.config.resolution.factor(step))
            self._mend(step + done, metrics, done)
            if done == 0:
                continue
            step += done
            self._isects.peak = max(self._isects.peak, int(metrics.num_isects[:done].max()))
            rate = done / seconds
            length = int(np.clip(_SECONDS_PER_CALL * rate, 1, _MAX_STEPS_PER_CALL))
            if self.strategy.refines_after(step - 1):
                self._refine_state()
                self._isects.shrink()
            yield Progress(
                step=step,
                loss=float(metrics.loss[:done].mean()),
                psnr=float(metrics.psnr[:done].mean()),
                num_gaussians=int(self._state.alive.sum()),
                num_isects=int(metrics.num_isects[:done].max()),
                seconds=self._seconds,
                steps_per_second=rate,
            )

    def _call(self, photos: Photos, rows: np.ndarray, downscale: int) -> tuple[int, StepMetrics, float]:
        """One compiled call: steps made, metrics of those and of one that could not be made, seconds."""
        padded = np.zeros(_MAX_STEPS_PER_CALL, np.int32)
        padded[: len(rows)] = rows
        started = time.perf_counter()
        self._state, done, metrics = self._run(
            self._state,
            photos,
            jnp.asarray(padded),
            jnp.asarray(len(rows), jnp.int32),
            isect_capacity=self._isects.capacity,
            downscale=downscale,
        )
        made = int(done)
        return made, jax.tree.map(np.asarray, metrics), time.perf_counter() - started

    def _mend(self, step: int, metrics: StepMetrics, done: int) -> None:
        """Deals with the step that could not be made, if there is one: it lies just behind those that were."""
        if done == _MAX_STEPS_PER_CALL:
            return
        needed = int(metrics.num_isects[done])
        if needed > self._isects.capacity:
            self._isects.grow(needed)
        elif not metrics.finite[done]:
            name = self._feed.view_at(step).name
            raise NonFiniteError(
                f"loss or gradient not finite at step {step}, view {name!r} (loss {metrics.loss[done]}). The "
                "model holds the state before this step. Smaller learning rates, or a look at that view, may help."
            )

    def _tell_unreadable(self) -> None:
        """Warns of photos that turned out to be damaged since the last call."""
        known = list(self._feed.unreadable.items())
        for name, problem in known[self._num_unreadable :]:
            warnings.warn(f"view {name!r} is left out of training: {problem}", stacklevel=4)
        self._num_unreadable = len(known)

    def _refine_state(self) -> None:
        """Densifies and prunes; grows the rows first where there are too few."""
        while True:
            refined, num_rows = self._refine(
                self._state, self.scene.extent, strategy=self.strategy, tx=self.optimizer
            )
            needed = int(num_rows)
            if needed <= self._state.capacity:
                break
            capacity = int(self._state.capacity * self.config.growth)
            capacity = max(needed, min(capacity, self.strategy.limit or capacity))
            self._state = grow(self._state, capacity, self.strategy, self.optimizer)
        if not refined.alive.any():
            raise NoGaussianError(
                f"pruning after step {self.step - 1} left no Gaussian alive. The model holds the state before it. "
                "More or smaller initial Gaussians, or a lower prune_opacity, may help."
            )
        self._state = refined

    def _take_model(self) -> None:
        """Reads the model, which may have been changed by hand; copied, since the loop reuses its buffers."""
        shapes = jax.tree.map(jnp.shape, (self._state.params, self._state.rest))
        state = self._state.replace_model(self.model)
        if jax.tree.map(jnp.shape, (state.params, state.rest)) != shapes:
            raise ValueError(
                "the model's arrays changed shape since this Trainer was made; make a new Trainer."
            )
        self._state = jax.tree.map(jnp.copy, state)

    def _give_model(self) -> None:
        """Writes the state into the model; copied, so that arrays that users hold outlive the next stretch."""
        if any(x.is_deleted() for x in jax.tree.leaves(self._state)):
            return  # a compiled call failed half way: the model keeps what the stretch before it gave
        nnx.update(self.model, *jax.tree.map(jnp.copy, (self._state.params, self._state.rest)))

    def _bar(self, end: int) -> tqdm:
        disable = None if self.config.progress is None else not self.config.progress
        return tqdm(total=end, initial=self.step, unit="step", disable=disable, dynamic_ncols=True)

    def _show(self, bar: tqdm, progress: Progress) -> None:
        bar.set_postfix(
            loss=f"{progress.loss:.4f}",
            psnr=f"{progress.psnr:.2f}",
            gaussians=progress.num_gaussians,
            refresh=False,
        )
        bar.update(progress.step - bar.n)


def _uses_depth(model: SplatModel, scene: Scene, config: TrainConfig) -> bool:
    """Whether depth is part of the loss; refuses it where it cannot be."""
    if not config.depth_weight:
        return False
    if not any(view.has_depth for view in scene.train):
        raise ValueError(
            f"depth_weight is {config.depth_weight}, but no training view has a depth image; set it to 0."
        )
    if not model.rasterizer.render_depth:
        raise ValueError(
            f"depth_weight is {config.depth_weight}, but the rasterizer renders no depth; make it with "
            "render_depth=True."
        )
    return True
