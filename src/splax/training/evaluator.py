"""Scores a model on views that training did not see. It needs no optimizer and no state of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from splax.corrections.base import Correction, Corrections
from splax.corrections.held_out import Appearance, HeldOutViews
from splax.losses.photometric import photometric_loss
from splax.metrics.lpips import Network
from splax.model import SplatModel
from splax.rasterizer import RenderOutput
from splax.scene import Scene, View
from splax.training.batch import Batch, Loss
from splax.training.color_renderer import ColorRenderer, color_of
from splax.training.photos.canvases import stack_cameras
from splax.training.pose_alignment import PoseAligner
from splax.training.view_scores import ViewScores, draw_whole, evaluate_views


def _photometric(model: SplatModel, output: RenderOutput, batch: Batch) -> Float[Array, ""]:
    del model
    return photometric_loss(color_of(output), batch.image)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """Renders and scores views of a scene by a trained model.

    Attributes:
        model: the trained model.
        scene: the scene that it was trained on.
        corrections: the corrections that were learned with it.
        params: Params of the corrections, by name.
        render: the renderer that calls the model.
        loss: the loss that the alignment of poses minimises.
        background: colour that photos are compared on, RGB in [0, 1].
        step: number of steps that the model was trained for.
    """

    model: SplatModel
    scene: Scene
    corrections: Corrections
    params: Mapping[str, Any]
    render: ColorRenderer
    loss: Loss
    background: Float[Array, " 3"]
    step: int = 0

    @classmethod
    def of(
        cls,
        model: SplatModel,
        scene: Scene,
        corrections: Sequence[Correction] = (),
        params: Mapping[str, Any] | None = None,
    ) -> Evaluator:
        """The evaluator of a model that was trained with the photometric loss, on the scene's background.

        Args:
            model: the trained model.
            scene: the scene that it was trained on.
            corrections: the corrections that were learned with it.
            params: Params of the corrections, by name; one row for each training view.

        Raises:
            ValueError: if the model's channels hold no colour.
        """
        views = scene.train
        cameras = stack_cameras([view.camera for view in views])
        parts = without_missing_tracks(corrections, views)
        return cls(
            model,
            scene,
            Corrections(parts, cameras, steps=1, extent=scene.extent),
            jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), dict(params or {})),
            ColorRenderer.of(model, views[0].camera),
            _photometric,
            jnp.asarray(scene.background, jnp.float32),
        )

    def held_out(self, views: Sequence[View] | None = None) -> HeldOutViews:
        """The appearance of views that training did not see; see :meth:`splax.Trainer.held_out`.

        Args:
            views: the views to draw; the scene's test views if None.
        """
        gaussians = self.model.gaussians
        alive = np.asarray(gaussians.alive[...])
        return HeldOutViews(
            self.corrections,
            dict(self.params),
            training={view.name: view.camera for view in self.scene.train},
            names=[view.name for view in (self.scene.test if views is None else views)],
            means=np.asarray(gaussians.means[...])[alive],
            opacities=np.asarray(gaussians.opacities)[alive],
        )

    def draw(self, held_out: HeldOutViews, appearance: Appearance) -> Float[Array, "h w 3"]:
        """A view as its photo would show it, [H, W, 3] in [0, 1].

        Args:
            held_out: the appearance of all views, from :meth:`held_out`.
            appearance: the appearance of this view, from ``held_out.of`` or ``held_out.mean``.
        """
        output = draw_whole(self.model, self.render, appearance.camera, self.background)
        return jnp.clip(held_out.image(appearance.params, color_of(output)), 0, 1)

    def evaluate_views(
        self,
        views: Sequence[View] | None = None,
        *,
        networks: Sequence[Network] = (),
        color_correct: bool = False,
        pose_align: bool = False,
        held_out: HeldOutViews | None = None,
    ) -> Iterator[ViewScores]:
        """Scores and renderings, view by view; see :meth:`splax.Trainer.evaluate_views`."""
        views = self.scene.test if views is None else views
        held_out = self.held_out(views) if held_out is None else held_out
        aligner = None
        if pose_align:
            settings = held_out, self.loss, self.background, self.scene.extent, self.step
            aligner = PoseAligner(self.model, self.render, *settings)
        return evaluate_views(
            self.model,
            self.render,
            views,
            held_out,
            old=jnp.asarray(self.scene.background, jnp.float32),
            background=self.background,
            networks=networks,
            color_correct=color_correct,
            aligner=aligner,
        )


def without_missing_tracks(
    corrections: Sequence[Correction], views: Sequence[View]
) -> tuple[Correction, ...]:
    """The corrections, without their use of tracks if no view says at which pixel it shows a point.

    Args:
        corrections: the corrections that a run learns.
        views: the training views.
    """
    if any(view.point_pixels is not None for view in views):
        return tuple(corrections)
    return tuple(correction.without_tracks() for correction in corrections)
