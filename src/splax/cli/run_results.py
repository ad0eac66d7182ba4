"""Writes the results of a run: the splat, the corrections, and scores and images of the held-out views."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from splax.cli.console import failed_write_is_a_warning
from splax.cli.held_out_images import HeldOutImages
from splax.cli.options import Scores
from splax.cli.provenance import device_name, versions
from splax.cli.run_folder import RunFolder
from splax.corrections.held_out import HeldOutViews
from splax.metrics.lpips import Network
from splax.scene import Scene
from splax.training.evaluator import Evaluator
from splax.training.trainer import Trainer
from splax.training.view_scores import mean_scores, protocol, scores_line

# Names of scores in the metrics; older versions wrote cc_*.
SCORE = re.compile(r"(psnr|ssim|lpips|cc)(_|$)")
# Corrections with which photos look as no held-out view can: its exposure, or its exact camera, is not known.
_LEARN_COLORS = ("exposure", "bilateral_grid")
_LEARN_POSES = ("refine_poses",)


def fitted_scores(asked: Scores, learned: dict[str, Any]) -> dict[str, bool]:
    """Decides on the scores for which colours or cameras are fitted to the photos of held-out views.

    Args:
        asked: scores that the command line asks for.
        learned: options of the run; corrections of colours or poses among them ask for a score as well.

    Returns:
        Arguments of :func:`write_results` and :func:`write_evaluation`.
    """
    return {
        "color_correct": asked.color_correct or any(learned.get(name) is True for name in _LEARN_COLORS),
        "pose_align": asked.pose_align or any(learned.get(name) is True for name in _LEARN_POSES),
    }


def write_results(
    folder: RunFolder,
    trainer: Trainer,
    *,
    interrupted: bool,
    networks: Sequence[Network] = (),
    color_correct: bool = False,
    pose_align: bool = False,
) -> dict[str, Any]:
    """Writes the splat first, then the scores of the held-out views, then images; returns the metrics.

    A correction or an image that cannot be written is a warning: it must not cost the scores.

    Args:
        folder: the run's folder.
        trainer: the Trainer after its last step.
        interrupted: whether training stopped before its end.
        networks: networks of LPIPS.
        color_correct: whether to score once more with colours fitted to the photos'.
        pose_align: whether to score once more with cameras fitted to the photos.

    Raises:
        ValueError: if the splat or the scores cannot be written.
        ImportError: if the weights of a network are not installed.
    """
    folder.write_gaussians(trainer.model.gaussians, antialiased=trainer.model.rasterizer.antialiased)
    for name, params in trainer.corrections.items():
        with failed_write_is_a_warning():
            folder.write_correction(name, np.asarray(params))
    # Times differ from run to run.
    seconds = None if trainer.config.deterministic else trainer.seconds
    facts = {
        "num_gaussians": int(trainer.model.gaussians.num_alive),
        "steps": trainer.step,
        "interrupted": interrupted,
        "guard": trainer.guard_report,
        "train_seconds": seconds,
        "steps_per_second": trainer.step / seconds if seconds else None,
        "device": device_name(),
        "versions": versions(),
    }
    asked: dict[str, Any] = {"color_correct": color_correct, "pose_align": pose_align}
    metrics = write_evaluation(folder, trainer, facts, networks, **asked)
    with failed_write_is_a_warning():
        folder.write_loss_curve(trainer.history)
    return metrics


def write_evaluation(
    folder: RunFolder,
    evaluator: Trainer | Evaluator,
    facts: dict[str, Any],
    networks: Sequence[Network] = (),
    *,
    color_correct: bool = False,
    pose_align: bool = False,
) -> dict[str, Any]:
    """Writes the training cameras if they were refined, the scores of the held-out views, and then their images.

    Args:
        folder: the run's folder.
        evaluator: the Trainer or the Evaluator that renders and scores the held-out views.
        facts: further entries of the metrics; scores among them are those of an earlier evaluation, and
            are left out.
        networks: networks of LPIPS.
        color_correct: whether to score once more with colours fitted to the photos'.
        pose_align: whether to score once more with cameras fitted to the photos.

    Returns:
        The metrics: ``facts``, the scores, and how they were computed.

    Raises:
        ValueError: if the scores cannot be written; the message has their means.
        ImportError: if the weights of a network are not installed.
    """
    asked: dict[str, Any] = {"color_correct": color_correct, "pose_align": pose_align}
    held_out = evaluator.held_out()
    with failed_write_is_a_warning():
        _write_cameras(folder, held_out)
    per_view, images = [], HeldOutImages(folder)
    for scores in evaluator.evaluate_views(networks=networks, held_out=held_out, **asked):
        per_view.append({"name": scores.view.name, "image": images.add(scores), **scores.numbers()})
    metrics = {
        **{name: fact for name, fact in facts.items() if not SCORE.match(name)},
        "world": describe_world(evaluator.scene, held_out),
        **mean_scores(per_view, networks, **asked),
        "per_view": per_view,
        "protocol": protocol(held_out, networks, **asked),
    }
    try:
        folder.write_metrics(metrics)
    except ValueError as error:
        raise ValueError(f"{error} The scores were: {scores_line(metrics)}") from error
    images.write()
    return metrics


def describe_world(scene: Scene, held_out: HeldOutViews) -> dict[str, Any]:
    """The frame of the splat, as homogeneous transforms, [4, 4].

    Returns:
        ``splat_to_input`` takes the splat to the frame of the dataset's file: the identity, unless refined cameras
        moved as a whole, and the splat with them; ``applied_transform`` is what that file says was done to the
        world it was made from, or None.
    """
    applied, similarity = scene.applied_transform, held_out.motion.similarity
    return {
        "splat_to_input": (np.eye(4) if similarity is None else similarity.inverse().matrix).tolist(),
        "applied_transform": None if applied is None else applied.tolist(),
    }


def _write_cameras(folder: RunFolder, held_out: HeldOutViews) -> None:
    """Writes the refined training cameras, if there are any."""
    cameras = held_out.refined_cameras()
    if not cameras:
        return
    known = held_out.motion.similarity is not None
    frame = "the dataset's" if known else "the splat's: how it lies to the dataset's is not known"
    folder.write_cameras(
        {
            "frame": f"{frame}; metrics.json's world.splat_to_input takes the splat there",
            "axes": "OpenCV: +x right, +y down, +z forward",
            "views": [{"name": name, "camera_to_world": matrix.tolist()} for name, matrix in cameras.items()],
        }
    )
