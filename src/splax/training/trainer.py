"""Fits a model to the views of a scene.

Between two refinements nothing changes shape, so a whole stretch of steps is one compiled loop: images stay on
the device, the order of views is known ahead, schedules are functions of the step, and Python only looks at
what comes back. The loop ends early, without making the step, where the intersection buffer is too small or
where the loss or a gradient is not finite; the host then mends the cause and goes on with the same step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm

from splax.cameras import Camera
from splax.data.scene import Scene, View
from splax.losses import photometric_loss
from splax.metrics import psnr, ssim
from splax.model import SplatModel
from splax.rasterizer import RenderOutput, round_capacity
from splax.strategies.base import Strategy
from splax.strategies.default import DefaultStrategy
from splax.training.config import TrainConfig
from splax.training.interrupt import deferred_interrupt
from splax.training.optimizers import make_optimizer
from splax.training.progress import Progress, StepMetrics
from splax.training.schedules import used_sh_degree, view_order
from splax.training.state import TrainState, grow, init_state, refine
from splax.training.targets import Targets, canvas_cameras, make_targets, on_background

# Most steps of one compiled call; the progress bar and Ctrl-C wait for its end.
_MAX_STEPS_PER_CALL = 100
# A call is made to last about this long, so that progress shows and Ctrl-C is obeyed.
_SECONDS_PER_CALL = 2.0
# Sets the random backgrounds apart from other uses of the seed.
_BACKGROUND_STREAM = 0xBAC6
# Room in the intersection buffer beyond what was counted.
_ISECT_MARGIN = 1.25


class NonFiniteError(FloatingPointError):
    """The loss or a gradient became NaN or infinite; the model holds the state before that step."""


class NoGaussianError(RuntimeError):
    """Pruning would leave no Gaussian alive; the model holds the state before it."""


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
            ValueError: on a model of no Gaussian alive.
        """
        self.model = model
        self.scene = scene
        self.config = config or TrainConfig()
        self.strategy = DefaultStrategy() if strategy is None else strategy
        self.optimizer = optimizer or make_optimizer(
            extent=scene.extent, steps=self.config.steps, rates=self.config.learning_rates
        )
        self.history: list[Progress] = []
        if int(model.gaussians.num_alive) == 0:
            raise ValueError("the model has no Gaussian alive, so there is nothing to train.")
        self._state = init_state(model, self.optimizer, self.strategy, self.config.seed)
        self._scene_background = jnp.asarray(scene.background, jnp.float32)
        fixed = isinstance(self.config.background, tuple)
        self._background = jnp.asarray(self.config.background) if fixed else self._scene_background
        self._cameras = canvas_cameras(scene.train)
        self._first_sh_degree = used_sh_degree(model.gaussians)
        self._targets: Targets | None = None
        self._isect_capacity = model.rasterizer.isect_capacity or 0  # 0: not counted yet
        self._seconds = 0.0
        self._run = jax.jit(self._run_steps, static_argnames="isect_capacity", donate_argnames="state")
        self._refine = jax.jit(refine, static_argnames=("strategy", "tx"))

    @property
    def step(self) -> int:
        """Steps made so far."""
        return int(self._state.step)

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
        order = view_order(len(self.scene.train), end, self.config.seed)
        started, before = time.perf_counter(), self._seconds
        with deferred_interrupt() as interrupted, self._bar(end) as bar:
            try:
                for progress in self._stretches(order, end):
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

    def evaluate(self, views: Sequence[View] | None = None) -> dict[str, Any]:
        """Mean quality over views, by default those held out.

        Returns:
            ``{"psnr": dB, "ssim": in [-1, 1], "views": how many}``; see :meth:`evaluate_views`. Without any
            view both means are None.
        """
        scores = [(view_psnr, view_ssim) for _, view_psnr, view_ssim, _ in self.evaluate_views(views)]
        if not scores:
            return {"psnr": None, "ssim": None, "views": 0}
        mean_psnr, mean_ssim = np.mean(scores, axis=0)
        return {"psnr": float(mean_psnr), "ssim": float(mean_ssim), "views": len(scores)}

    def evaluate_views(
        self, views: Sequence[View] | None = None
    ) -> Iterator[tuple[View, float, float, Float[np.ndarray, "h w 3"]]]:
        """Renders views, by default those held out, and compares them with their photos.

        Protocol: the rendering clamped to [0, 1] against the 8-bit photo / 255, all pixels but masked ones; SSIM
        with an 11x11 Gaussian window, sigma 1.5, no padding, over windows without masked pixels.

        Yields:
            The view, its PSNR in dB, its SSIM, and the rendering, [H, W, 3] in [0, 1].
        """
        for view in self.scene.test if views is None else views:
            image = jnp.clip(self.model(view.camera, background=self._background).image, 0, 1)
            target = jnp.asarray(view.image, image.dtype) / 255
            alpha = None if view.alpha is None else jnp.asarray(view.alpha)
            target = on_background(target, alpha, self._scene_background, self._background)
            mask = None if view.mask is None else jnp.asarray(view.mask)
            yield view, float(psnr(image, target, mask)), float(ssim(image, target, mask)), np.asarray(image)

    # --- the compiled loop ---------------------------------------------------------------------------------

    def _run_steps(
        self,
        state: TrainState,
        targets: Targets,
        cameras: Camera,
        order: Int[Array, " steps"],
        num_steps: Int[Array, ""],
        *,
        isect_capacity: int,
    ) -> tuple[TrainState, Int[Array, ""], StepMetrics]:
        """Makes ``num_steps`` steps, fewer if one cannot be made. Returns how many, and their metrics."""
        size = order.shape
        metrics = StepMetrics(
            jnp.zeros(size), jnp.zeros(size), jnp.zeros(size, jnp.int32), jnp.ones(size, bool)
        )

        def advance(carry):
            state, done, _, metrics = carry
            view = order[done]
            camera = jax.tree.map(lambda x: x[view], cameras)
            target = jax.tree.map(lambda x: x[view], targets)
            state, made, now = self._train_step(state, camera, target, isect_capacity)
            metrics = jax.tree.map(lambda all_, one: all_.at[done].set(one), metrics, now)
            return state, done + made, made, metrics

        def goes_on(carry):
            _, done, made, _ = carry
            return made & (done < num_steps)

        start = (state, jnp.zeros((), jnp.int32), num_steps > 0, metrics)
        state, done, _, metrics = jax.lax.while_loop(goes_on, advance, start)
        return state, done, metrics

    def _train_step(
        self,
        state: TrainState,
        camera: Camera,
        targets: Targets,
        isect_capacity: int,
    ) -> tuple[TrainState, Bool[Array, ""], StepMetrics]:
        """One step; the state is returned as it was, and False, if the step cannot be made."""
        photo, mask, alpha = targets  # of one view
        background = self._background_at(state.step)
        target = photo.astype(jnp.float32) / 255
        target = on_background(target, alpha, self._scene_background, background)
        if mask is not None:
            target = jnp.where(mask[..., None], target, 0)

        def objective(params, offset):
            model = self._model_at(state._replace(params=params), isect_capacity)
            output = model(camera, background=background, means2d_offset=offset)
            if mask is not None:
                output = output._replace(image=jnp.where(mask[..., None], output.image, 0))
            return self.loss(model, output, target), output

        offset = jnp.zeros((state.capacity, 2), target.dtype)
        with_grads = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (loss, output), (grads, grad2d) = with_grads(state.params, offset)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads, squared=True))
        made = finite & ~output.overflow

        def update() -> TrainState:
            updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
            return state._replace(
                params=optax.apply_updates(state.params, updates),
                opt_state=opt_state,
                strategy_state=self.strategy.update(
                    state.strategy_state, grad2d, output.visible, camera.width, camera.height
                ),
                step=state.step + 1,
            )

        state = jax.lax.cond(made, update, lambda: state)
        image = jnp.clip(output.image, 0, 1)
        return state, made, StepMetrics(loss, psnr(image, target, mask), output.num_isects, finite)

    def _background_at(self, step: Int[Array, ""]) -> Float[Array, " 3"]:
        """What lies behind everything at a step of training."""
        if self.config.background != "random":
            return self._background
        key = jax.random.fold_in(jax.random.key(self.config.seed), _BACKGROUND_STREAM)
        return jax.random.uniform(jax.random.fold_in(key, step), (3,))

    def _model_at(self, state: TrainState, isect_capacity: int) -> SplatModel:
        """The model of this state, inside jit."""
        model = nnx.merge(nnx.graphdef(self.model), state.params, state.rest)
        model.rasterizer.isect_capacity = isect_capacity
        if self.config.sh_degree_every:
            bands = self._first_sh_degree + state.step // self.config.sh_degree_every
            degree = jnp.minimum(bands, model.gaussians.sh_degree)
            model.gaussians.active_sh_degree[...] = degree.astype(jnp.int32)
        return model

    # --- the host's side -----------------------------------------------------------------------------------

    def _stretches(self, order: np.ndarray, end: int) -> Iterator[Progress]:
        """Trains up to step ``end``, refining where it is due; yields after every compiled call."""
        if self._targets is None:
            self._targets = make_targets(self.scene.train)
        if not self._isect_capacity:
            self._isect_capacity = self._count_isects()
        length, step, peak = 1, self.step, 0
        while step < end:
            until = next(
                s for s in range(step + 1, end + 1) if s == end or self.strategy.refines_after(s - 1)
            )
            done, metrics, seconds = self._call(order, min(until - step, length))
            self._mend(step + done, order, metrics, done)
            if done == 0:
                continue
            step += done
            peak = max(peak, int(metrics.num_isects[:done].max()))
            rate = done / seconds
            length = int(np.clip(_SECONDS_PER_CALL * rate, 1, _MAX_STEPS_PER_CALL))
            if self.strategy.refines_after(step - 1):
                self._refine_state()
                self._shrink_isects(peak)
                peak = 0
            yield Progress(
                step=step,
                loss=float(metrics.loss[:done].mean()),
                psnr=float(metrics.psnr[:done].mean()),
                num_gaussians=int(self._state.alive.sum()),
                num_isects=int(metrics.num_isects[:done].max()),
                seconds=self._seconds,
                steps_per_second=rate,
            )

    def _call(self, order: np.ndarray, num_steps: int) -> tuple[int, StepMetrics, float]:
        """One compiled call: steps made, metrics of those and of one that could not be made, seconds."""
        step = self.step
        views = np.zeros(_MAX_STEPS_PER_CALL, np.int32)
        views[:num_steps] = order[step : step + num_steps]
        started = time.perf_counter()
        self._state, done, metrics = self._run(
            self._state,
            self._targets,
            self._cameras,
            jnp.asarray(views),
            jnp.asarray(num_steps, jnp.int32),
            isect_capacity=self._isect_capacity,
        )
        made = int(done)
        return made, jax.tree.map(np.asarray, metrics), time.perf_counter() - started

    def _mend(self, step: int, order: np.ndarray, metrics: StepMetrics, done: int) -> None:
        """Deals with the step that could not be made, if there is one: it lies just behind those that were."""
        if done == _MAX_STEPS_PER_CALL:
            return
        needed = int(metrics.num_isects[done])
        if needed > self._isect_capacity:
            self._isect_capacity = round_capacity(int(needed * _ISECT_MARGIN))
        elif not metrics.finite[done]:
            name = self.scene.train[order[step]].name
            raise NonFiniteError(
                f"loss or gradient not finite at step {step}, view {name!r} (loss {metrics.loss[done]}). The "
                "model holds the state before this step. Smaller learning rates, or a look at that view, may help."
            )

    def _refine_state(self) -> None:
        """Densifies and prunes; grows the rows first where there are too few."""
        while True:
            refined, num_rows = self._refine(
                self._state, self.scene.extent, strategy=self.strategy, tx=self.optimizer
            )
            needed = int(num_rows)
            if needed <= self._state.capacity:
                break
            capacity = max(needed, int(self._state.capacity * self.config.growth))
            self._state = grow(self._state, capacity, self.strategy, self.optimizer)
        if not refined.alive.any():
            raise NoGaussianError(
                f"pruning after step {self.step - 1} left no Gaussian alive. The model holds the state before it. "
                "More or smaller initial Gaussians, or a lower prune_opacity, may help."
            )
        self._state = refined

    def _count_isects(self) -> int:
        """Capacity for what a sample of the training views needs now."""
        views = self.scene.train[:: max(1, len(self.scene.train) // 8)]
        gaussians = self.model.gaussians.drawable()
        counts = [int(self.model.rasterizer.count_isects(gaussians, view.camera)) for view in views]
        return round_capacity(int(max(counts) * _ISECT_MARGIN))

    def _shrink_isects(self, peak: int) -> None:
        """Gives back a buffer far larger than the most that was needed since the last refinement."""
        fitting = round_capacity(int(peak * _ISECT_MARGIN))
        if 2 * fitting <= self._isect_capacity:
            self._isect_capacity = fitting

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
