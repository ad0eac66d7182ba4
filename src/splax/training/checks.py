"""Checks of a Trainer's arguments, made before anything is compiled."""

from __future__ import annotations

import optax

from splax.devices import device_policy
from splax.model import SplatModel
from splax.scene import Scene
from splax.training.config import TrainConfig


def check_settings(
    model: SplatModel, config: TrainConfig, optimizer: optax.GradientTransformation | None
) -> None:
    """Checks that the settings of a Trainer suit each other.

    Args:
        model: the model to train.
        config: the run's settings.
        optimizer: the user's own optimizer; None if the Trainer makes one.

    Raises:
        ValueError: if ``batch_size`` is above 1 with an optimizer of the user's own, if no Gaussian is alive, or
            if a deterministic run has a rasterizer that adds in any order.
    """
    if optimizer is not None and config.batch_size > 1:
        raise ValueError(
            f"batch_size {config.batch_size} is for the optimizer that the Trainer makes. Wrap your own, "
            f"optax.MultiSteps(optimizer, {config.batch_size}).gradient_transformation(), and leave batch_size"
            " at 1."
        )
    if int(model.gaussians.num_alive) == 0:
        raise ValueError("the model has no Gaussian alive, so there is nothing to train.")
    if config.deterministic and device_policy().sums_in_any_order and not model.rasterizer.deterministic:
        raise ValueError(
            "TrainConfig(deterministic=True) on a GPU needs a rasterizer that sums in a fixed order: "
            "SplatModel(gaussians, TileRasterizer(deterministic=True))."
        )


def uses_depth(model: SplatModel, scene: Scene, config: TrainConfig) -> bool:
    """Whether depth is part of the loss.

    Args:
        model: the model to train.
        scene: the scene to train on.
        config: the run's settings.

    Raises:
        ValueError: if depth has a weight, but no training view has a depth image or points, or the rasterizer
            renders no depth.
    """
    if not config.depth_weight:
        return False
    if not any(view.has_depth or view.points is not None for view in scene.train):
        raise ValueError(
            f"depth_weight is {config.depth_weight}, but no training view has a depth image or points that it "
            "shows (View.points, which COLMAP models have); set it to 0."
        )
    if not model.rasterizer.render_depth:
        raise ValueError(
            f"depth_weight is {config.depth_weight}, but the rasterizer renders no depth; make it with "
            "render_depth=True."
        )
    return True
