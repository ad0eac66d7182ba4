"""The pose of one view, found by its photo: what a score would be if the view's camera were known exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from splax.corrections.held_out import Appearance, HeldOutViews
from splax.corrections.rigid import move_camera
from splax.model import SplatModel
from splax.rasterizer import RenderOutput

Loss = Callable[[SplatModel, RenderOutput, Float[Array, "h w 3"]], Float[Array, ""]]

STEPS = 100
# Of Adam, radians a step and shares of the scene's extent, at the start; at the end this share of it. All steps
# together reach about a degree.
_RATE = 1e-3
_RATE_FINAL = 0.01


class PoseAligner:
    """Moves the cameras of views to where their photos fit a splat best, and the splat not at all.

    Compiles once for each size of images, and again where a view lists many more intersections.
    """

    def __init__(
        self,
        model: SplatModel,
        held_out: HeldOutViews,
        loss: Loss,
        background: Float[Array, " 3"],
        extent: float,
    ) -> None:
        """Prepares.

        Args:
            model: what is drawn.
            held_out: how.
            loss: of the model, what it rendered, and the photo; what is made small.
            background: behind everything, RGB.
            extent: of the scene, world units.
        """
        self._model, self._held_out, self._loss = model, held_out, loss
        self._background = background
        self._units = np.array([1, 1, 1, extent, extent, extent], np.float32)
        self._capacity = 0
        self._run = jax.jit(self._descend, static_argnames="capacity")

    def image(
        self,
        appearance: Appearance,
        target: Float[Array, "h w 3"],
        mask: Bool[Array, "h w"] | None,
    ) -> Float[Array, "h w 3"]:
        """The view drawn with the best camera that was found, clamped to [0, 1].

        Args:
            appearance: what it is drawn with before.
            target: its photo in [0, 1].
            mask: true where pixels count; everywhere if None.
        """
        num = int(self._model(appearance.camera, background=self._background).num_isects)
        if self._capacity < 1.5 * num:  # the camera may come to see more
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
        """Adam on the six numbers of the camera's motion; inside jit."""
        model = nnx.merge(nnx.graphdef(self._model), variables)
        model.rasterizer.isect_capacity = capacity
        target = target if mask is None else jnp.where(mask[..., None], target, 0)

        def drawn(motion: Float[Array, " 6"]) -> RenderOutput:
            viewmat = move_camera(appearance.camera.viewmat, motion * self._units)
            camera = dataclasses.replace(appearance.camera, viewmat=viewmat)
            output = model(camera, background=self._background)
            return output._replace(image=self._held_out.image(appearance.params, output.image))

        def loss(motion: Float[Array, " 6"]) -> Float[Array, ""]:
            output = drawn(motion)
            if mask is not None:
                output = output._replace(image=jnp.where(mask[..., None], output.image, 0))
            # One that does not fit into the buffer is no candidate.
            return jnp.where(output.overflow, jnp.inf, self._loss(model, output, target))

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
        return jnp.clip(drawn(best).image, 0, 1)
