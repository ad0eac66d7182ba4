"""One step of training, and a compiled loop of many steps.

The loop ends early, without making the step, where the intersection buffer is too small or where the loss or a
gradient is not finite.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from splax.cameras import Camera
from splax.corrections.base import Corrections, scaled
from splax.devices import device_policy
from splax.gaussians import Gaussians
from splax.losses.depth import disparity_loss, shrink_depth
from splax.losses.point_depth import point_disparity_loss
from splax.metrics.image import psnr
from splax.model import SplatModel
from splax.rasterizer import RenderOutput
from splax.scene import Scene
from splax.strategies.base import StepObservation, Strategy
from splax.training.batch import Batch, Loss
from splax.training.color_renderer import ColorRenderer, color_of, with_color
from splax.training.config import TrainConfig
from splax.training.optimizers import GAUSSIANS, means_rate
from splax.training.photos.resolution import shrink_camera, shrink_image, shrink_mask
from splax.training.photos.targets import Photos, on_background
from splax.training.progress import StepMetrics
from splax.training.state import TrainState, newly_broken

# Keeps the random numbers of backgrounds apart from others of the same seed.
_BACKGROUND_STREAM = 0xBAC6
# Keeps the random numbers that a strategy draws at every step apart from those that it draws at refinements.
_MOVE_STREAM = 0x307E
# Fields of the state that change even at a step from which the model does not learn.
_OF_EVERY_STEP = ("corrections", "step")


class Shown(NamedTuple):
    """One photo in the size of a step; see :class:`splax.training.photos.targets.Targets`.

    Attributes:
        view: number of the training view, int32 scalar.
        camera: the camera that took the photo, resized to the step's size.
        background: colour behind everything, RGB in [0, 1].
        target: the photo on that background, [H, W, 3] in [0, 1]; 0 where it is masked.
        mask: the pixels that count, [H, W] bool; None if all count.
        depth: camera-space z in world units, [H, W], 0 where unknown; None if it is not used.
        points: surface points that the photo shows, [P, 3], world coordinates; None if they are not used.
        pixels: position of each point in the photo, [P, 2], in pixels of the step's size; None if not used.
    """

    view: Int[Array, ""]
    camera: Camera
    background: Float[Array, " 3"]
    target: Float[Array, "h w 3"]
    mask: Bool[Array, "h w"] | None
    depth: Float[Array, "h w"] | None
    points: Float[Array, "points 3"] | None
    pixels: Float[Array, "points 2"] | None


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """A training step: a function from a state and a photo to the next state.

    Attributes:
        model: the model that gives structure and settings; the values of its Params come from the state.
        render: the renderer that calls the model.
        loss: function of the model, its rendering and the view.
        optimizer: the optimizer of the model's Params.
        strategy: the strategy, which observes every step.
        corrections: the corrections of cameras and renderings.
        config: the run's settings.
        scene_background: colour that the photos were composited on, RGB in [0, 1].
        background: colour that they are composited on in training, RGB in [0, 1]; not used if it is random.
        first_sh_degree: highest band of colour in use at the start.
        extent: extent of the scene, world units.
        means_rate: learning rate of the means at each step, world units.
    """

    model: SplatModel
    render: ColorRenderer
    loss: Loss
    optimizer: optax.GradientTransformation
    strategy: Strategy
    corrections: Corrections
    config: TrainConfig
    scene_background: Float[Array, " 3"]
    background: Float[Array, " 3"]
    first_sh_degree: int
    extent: float
    means_rate: optax.Schedule

    @classmethod
    def in_scene(
        cls, scene: Scene, config: TrainConfig, distance: float, *, model: SplatModel, **parts: Any
    ) -> TrainStep:
        """The step of a run in a scene.

        Args:
            scene: the scene to train on.
            config: the run's settings.
            distance: distance from which the scene is photographed, world units.
            model: the model at the start of the run.
            **parts: ``render``, ``loss``, ``optimizer``, ``strategy`` and ``corrections``; see the attributes.
        """
        scene_background = jnp.asarray(scene.background, jnp.float32)
        fixed = isinstance(config.background, tuple)
        return cls(
            model=model,
            config=config,
            scene_background=scene_background,
            background=jnp.asarray(config.background) if fixed else scene_background,
            first_sh_degree=used_sh_degree(model.gaussians),
            extent=scene.extent,
            means_rate=means_rate(config.learning_rates, distance, config.steps),
            **parts,
        )

    def run(
        self,
        state: TrainState,
        photos: Photos,
        rows: Int[Array, " steps"],
        num_steps: Int[Array, ""],
        held: Bool[Array, " views"],
        *,
        isect_capacity: int,
        downscale: int = 1,
    ) -> tuple[TrainState, Int[Array, ""], StepMetrics]:
        """Makes ``num_steps`` steps; fewer if a step cannot be made or breaks a Param.

        Args:
            state: the state before the first step.
            photos: the photos to compare with, all of one size.
            rows: row of each step's photo in ``photos``.
            num_steps: number of steps to make, at most the length of ``rows``, int32 scalar.
            held: whether each training view is held back: its photo teaches the corrections, but not the model.
            isect_capacity: number of rows of the intersection buffer.
            downscale: factor by which width and height of the photos are reduced.

        Returns:
            The state after the last step, the number of steps made, and their metrics.
        """
        metrics = StepMetrics.empty(len(rows), len(jax.tree.leaves(state.params)))

        def goes_on(carry):
            _, done, well, _ = carry
            return well & (done < num_steps)

        def advance(_, carry):
            state, done, well, metrics = carry
            wanted = goes_on(carry)
            row = rows[done]
            photo = jax.tree.map(lambda x: x[row], photos)
            state, made, now = self(state, photo, isect_capacity, downscale, wanted, held[photo.views])
            place = jnp.where(wanted, done, len(rows))
            metrics = jax.tree.map(lambda all_, one: all_.at[place].set(one, mode="drop"), metrics, now)
            return state, done + made, jnp.where(wanted, made & now.finite, well), metrics

        block = device_policy().steps_per_check  # steps of a block that should not be made change nothing
        start = (state, jnp.zeros((), jnp.int32), num_steps > 0, metrics)
        state, done, _, metrics = jax.lax.while_loop(
            goes_on, lambda carry: jax.lax.fori_loop(0, block, advance, carry), start
        )
        return state, done, metrics

    def __call__(
        self,
        state: TrainState,
        photos: Photos,
        isect_capacity: int,
        downscale: int = 1,
        wanted: Bool[Array, ""] | bool = True,
        held: Bool[Array, ""] | bool = False,
    ) -> tuple[TrainState, Bool[Array, ""], StepMetrics]:
        """Makes one step.

        Args:
            state: the state before the step.
            photos: one photo, without a leading axis.
            isect_capacity: number of rows of the intersection buffer.
            downscale: factor by which width and height of the photo are reduced.
            wanted: whether to make the step at all.
            held: whether only the corrections learn, and not the model.

        Returns:
            The state after the step, whether the step was made, and its metrics. If the step cannot be made or is
            not wanted, the state is the one given.
        """
        shown = self._show(photos, state.step, downscale)

        def objective(params, offset, corrections):
            learning = state._replace(params=params)
            return self._loss(learning, offset, corrections, shown, isect_capacity)

        offset = jnp.zeros((state.capacity, 2), shown.target.dtype)
        with_grads = jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)
        (loss, output), grads = with_grads(state.params, offset, state.corrections.params)
        # Adam squares gradients, so their squares must be finite.
        broken = jnp.array([~jnp.isfinite(jnp.square(g).sum()) for g in jax.tree.leaves(grads[0])], bool)
        finite = jnp.isfinite(loss) & ~broken.any()
        finite &= jnp.isfinite(optax.tree.norm(grads[2], squared=True))
        made = finite & ~output.overflow & wanted
        learns = made & ~jnp.asarray(held)
        updated = self._update(state, grads, output.radii, shown.camera)
        broken_after = newly_broken(state.params, updated.params)
        state = _accept(state, updated, made, learns)
        # A step that breaks a Param is not undone here, which would take another pass over the state: the Trainer
        # goes back to an earlier state instead.
        finite &= ~(learns & broken_after.any())
        broken = jnp.where(learns, broken_after, broken)
        score = psnr(jnp.clip(color_of(output), 0, 1), shown.target, shown.mask)
        return state, made, StepMetrics(loss, score, output.num_isects, finite, broken)

    def _show(self, photos: Photos, step: Int[Array, ""], downscale: int) -> Shown:
        """The photo that a step compares with, in the step's size and on its background."""
        view, camera, (photo, mask, alpha, depth, points, pixels) = photos  # of one view
        background = self.background_at(step)
        target = photo.astype(jnp.float32) / 255
        target = on_background(target, alpha, self.scene_background, background)
        target, camera = shrink_image(target, downscale), shrink_camera(camera, downscale)
        if mask is not None:
            mask = shrink_mask(mask, downscale)
            target = jnp.where(mask[..., None], target, 0)
        if depth is not None:
            depth = shrink_depth(depth, downscale)
        if pixels is not None:
            pixels = pixels / downscale
        return Shown(view, camera, background, target, mask, depth, points, pixels)

    def _loss(
        self, state: TrainState, offset: Array, corrections: dict[str, Any], shown: Shown, isect_capacity: int
    ) -> tuple[Float[Array, ""], RenderOutput]:
        """The loss of a state with all penalties, and the rendering."""
        model = self._model_at(state, isect_capacity)
        camera, mask = self.corrections.camera(corrections, shown.view, shown.camera), shown.mask
        output = self.render(model, camera, shown.background, view=shown.view, means2d_offset=offset)
        output = with_color(output, lambda color: self.corrections.image(corrections, shown.view, color))
        if mask is not None:
            output = output._replace(image=jnp.where(mask[..., None], output.image, 0))
        batch = Batch(shown.target, mask, shown.depth, camera, shown.view, state.step)
        return self.loss(model, output, batch) + self._penalty(
            state, output, corrections, batch, shown
        ), output

    def _penalty(
        self, state: TrainState, output: RenderOutput, corrections: dict[str, Any], batch: Batch, shown: Shown
    ) -> Float[Array, ""]:
        """The sum of the terms that strategy, corrections, regularizers, depth and tracks add to the loss."""
        gaussians, weight, points = state.params[GAUSSIANS], self.config.depth_weight, shown.points
        penalty = self.strategy.penalty(gaussians, state.alive)
        penalty += self.corrections.penalty(corrections)
        penalty += self.config.regularizers(gaussians, state.alive)
        if batch.depth is not None and weight:
            penalty += weight * disparity_loss(output, batch.depth, self.extent, batch.mask)
        if points is not None and shown.pixels is not None:
            penalty += self.corrections.track_penalty(batch.camera, points, shown.pixels)
        if points is not None and weight:
            error = point_disparity_loss(output, points, batch.camera, self.extent, batch.mask)
            penalty += weight * error
        return penalty

    def _update(self, state: TrainState, grads: Any, radii: Array, camera: Camera) -> TrainState:
        """The state after a step.

        Args:
            state: the state before the step.
            grads: gradients of the model's Params, of the projected centres in pixels [N, 2], and of the
                corrections' Params.
            radii: radii of the projected Gaussians in pixels, [N, 2].
            camera: the camera of the step's view.
        """
        of_params, grad2d, of_corrections = grads
        updates, opt_state = self.optimizer.update(of_params, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, scaled(updates, state.step_scale))
        key = jax.random.fold_in(jax.random.fold_in(state.key, _MOVE_STREAM), state.step)
        rate = jnp.asarray(self.means_rate(state.step))
        moved = self.strategy.move(params[GAUSSIANS], state.alive, rate, key)
        observation = StepObservation(grad2d, radii, camera.width, camera.height)
        return state._replace(
            params=params | {GAUSSIANS: moved},
            opt_state=opt_state,
            strategy_state=self.strategy.update(state.strategy_state, observation),
            corrections=self.corrections.update(state.corrections, of_corrections, state.step_scale),
            step=state.step + 1,
        )

    def background_at(self, step: Int[Array, ""]) -> Float[Array, " 3"]:
        """The colour behind everything at a step of training, RGB in [0, 1]."""
        if self.config.background != "random":
            return self.background
        key = jax.random.fold_in(jax.random.key(self.config.seed), _BACKGROUND_STREAM)
        return jax.random.uniform(jax.random.fold_in(key, step), (3,))

    def _model_at(self, state: TrainState, isect_capacity: int) -> SplatModel:
        """The model with the Variables of this state and the bands of colour of its step; runs inside jit."""
        model = nnx.merge(nnx.graphdef(self.model), state.params, state.rest)
        model.rasterizer.isect_capacity = isect_capacity
        model.rasterizer.absgrad |= self.strategy.absgrad
        if self.config.sh_degree_every:
            bands = self.first_sh_degree + state.step // self.config.sh_degree_every
            degree = jnp.minimum(bands, model.gaussians.active_sh_degree[...])
            model.gaussians.active_sh_degree[...] = degree.astype(jnp.int32)
        return model


def _accept(
    state: TrainState, updated: TrainState, made: Bool[Array, ""], learns: Bool[Array, ""]
) -> TrainState:
    """The updated state where the step was made and the model learns from it; the old state elsewhere."""

    # A branch would wait for the host to read the condition, and would copy the state. A selection is only one
    # more operand of the arithmetic.
    def choose(name: str) -> Any:
        accept = made if name in _OF_EVERY_STEP else learns
        fields = getattr(updated, name), getattr(state, name)
        return jax.tree.map(lambda new, old: old if new is old else jnp.where(accept, new, old), *fields)

    return TrainState(**{name: choose(name) for name in TrainState._fields})


def used_sh_degree(gaussians: Gaussians) -> int:
    """Highest degree with a coefficient that is not zero: 0 for new Gaussians, more for a splat from a file."""
    used = np.flatnonzero(np.asarray((gaussians.shN[...] != 0).any(axis=(0, 2))))
    return int((used[-1] + 1) ** 0.5) if used.size else 0
