"""Finds the pose of one view by its photo, for the score that it would have if its camera were known exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from splax.cameras import Camera
from splax.corrections.held_out import Appearance, HeldOutViews
from splax.corrections.rigid import move_camera
from splax.model import SplatModel
from splax.rasterizer import RenderOutput
from splax.training.batch import Batch, Loss
from splax.training.color_renderer import ColorRenderer, color_of, with_color

STEPS = 100
# Adam's learning rate at the start, in radians and in shares of the scene's extent for each step, and the share of
# it at the end. All steps together can turn a camera by about a degree.
_RATE = 1e-3
_RATE_FINAL = 0.01


class PoseAligner:
    """Moves the camera of a view to where its photo fits a model best; the model does not change.

    The descent is compiled once for each size of images, and again where a view has many more intersections.
    """

    def __init__(
        self,
        model: SplatModel,
        render: ColorRenderer,
        held_out: HeldOutViews,
        loss: Loss,
        background: Float[Array, " 3"],
        extent: float,
        step: int,
    ) -> None:
        """Prepares the descent; nothing is compiled yet.

        Args:
            model: the model to render.
            render: the renderer that calls the model.
            held_out: the appearance of the views.
            loss: function of the model, its rendering and the view, which the aligner minimises.
            background: colour behind everything, RGB in [0, 1].
            extent: extent of the scene, world units.
            step: number of steps that the model was trained for.
        """
        self._model, self._render, self._held_out, self._loss = model, render, held_out, loss
        self._background, self._step = background, step
        self._units = np.array([1, 1, 1, extent, extent, extent], np.float32)
        self._capacity = 0
        self._run = jax.jit(self._descend, static_argnames="capacity")

    def image(
        self,
        appearance: Appearance,
        target: Float[Array, "h w 3"],
        mask: Bool[Array, "h w"] | None,
    ) -> Float[Array, "h w 3"]:
        """The view rendered with the best camera that was found, [H, W, 3] in [0, 1].

        Args:
            appearance: the view's appearance with the camera to start from.
            target: the view's photo, [H, W, 3] in [0, 1].
            mask: the pixels that count, [H, W] bool; None if all count.
        """
        num = int(self._render(self._model, appearance.camera, self._background).num_isects)
        if self._capacity < 1.5 * num:  # a moved camera may see more Gaussians
            self._capacity = 1 << int(np.ceil(np.log2(2 * num + 1)))
        _, variables = nnx.split(self._model)
        return self._run(variables, appearance, target, mask, capacity=self._capacity)

    def _descend(
        self,
        variables: Any,  # nnx.State, whose hints beartype warns of
        appearance: Appearance,
        target: Float[Array, "h w 3"],
        mask: Bool[Array, "h w"] | None,
        *,
        capacity: int,
    ) -> Float[Array, "h w 3"]:
        """The image after Adam has fitted the six numbers of the camera's motion; runs inside jit."""
        model = nnx.merge(nnx.graphdef(self._model), variables)
        model.rasterizer.isect_capacity = capacity
        target = target if mask is None else jnp.where(mask[..., None], target, 0)

        def moved(motion: Float[Array, " 6"]) -> Camera:
            viewmat = move_camera(appearance.camera.viewmat, motion * self._units)
            return dataclasses.replace(appearance.camera, viewmat=viewmat)

        def drawn(camera: Camera) -> RenderOutput:
            output = self._render(model, camera, self._background)
            return with_color(output, lambda color: self._held_out.image(appearance.params, color))

        def loss(motion: Float[Array, " 6"]) -> Float[Array, ""]:
            camera = moved(motion)
            output = drawn(camera)
            if mask is not None:
                output = output._replace(image=jnp.where(mask[..., None], output.image, 0))
            # A camera whose intersections do not fit into the buffer cannot be the best one.
            batch = Batch(target, mask, None, camera, None, jnp.asarray(self._step, jnp.int32))
            return jnp.where(output.overflow, jnp.inf, self._loss(model, output, batch))

        optimizer = optax.adam(optax.exponential_decay(_RATE, STEPS, _RATE_FINAL))

        def step(carry: Mapping[str, Any], _: None) -> tuple[dict[str, Any], None]:
            motion, best = carry["motion"], carry["best"]
            value, gradient = jax.value_and_grad(loss)(motion)
            better = value < carry["loss"]
            updates, state = optimizer.update(jnp.nan_to_num(gradient), carry["state"])
            return {
                "motion": optax.apply_updates(motion, updates),
                "state": state,
                "best": jnp.where(better, motion, best),
                "loss": jnp.where(better, value, carry["loss"]),
            }, None

        start = jnp.zeros(6, jnp.float32)
        carry = {"motion": start, "state": optimizer.init(start), "best": start, "loss": jnp.asarray(jnp.inf)}
        best = jax.lax.scan(step, carry, length=STEPS)[0]["best"]
        return jnp.clip(color_of(drawn(moved(best))), 0, 1)
