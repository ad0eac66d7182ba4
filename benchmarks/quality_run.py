"""One run of the quality table: trains as ``splax train`` does from a given start, and measures what comes out."""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from measure import describe_machine
from pose_error import pose_error
from quality_data import Photos

from splax.cameras import Camera
from splax.cli.commands.train import Train
from splax.cli.setup import make_trainer
from splax.cli.strategy import strategy_of
from splax.metrics.color_correction import color_correct
from splax.metrics.image import psnr
from splax.scene import View
from splax.training.start import Start
from splax.training.trainer import Trainer

# Training views that are scored.
MOST_SEEN = 8
# What Trainer.evaluate measures when it is asked to, and that costs little.
MEASURES: dict[str, Any] = {"color_correct": True, "pose_align": True}


def run_splax(photos: Photos, start: Start, options: Train, curve_every: int = 0) -> dict[str, Any]:
    """Trains and measures.

    Args:
        photos: to train on.
        start: the Gaussians; trained in place.
        options: of the run.
        curve_every: score after every so many steps as well; 0: only at the end.

    Returns:
        The row: what ``Trainer.evaluate`` says, and ``train_psnr``, ``num_gaussians``, ``seconds`` of training,
        ``compile_seconds``, ``start``, ``machine``, and where there is any ``curve``, ``guard_report``,
        ``pose_degrees`` and ``pose_extents``.

    Raises:
        ValueError: on options that do not fit the photos.
    """
    facts = start.describe()
    if not start.trained:
        strategy_of(options).adapt_start(start.gaussians)
    trainer = make_trainer(photos.scene, options, start.gaussians)
    curve = _train(trainer, curve_every)
    compiling = trainer.profile.get("compile", 0.0)
    row = {
        **trainer.evaluate(networks=options.scores.lpips, **MEASURES),
        **_state(trainer),
        **_pose_errors(trainer, photos),
        "seconds": trainer.seconds - compiling,
        "compile_seconds": compiling,
        "start": facts,
        "machine": describe_machine(),
    }
    row |= {"curve": curve} if curve else {}
    report = getattr(trainer, "guard_report", None)
    return row | ({"guard_report": report} if isinstance(report, dict) else {})


def run_gsplat(photos: Photos, start: Start, options: Train) -> dict[str, Any]:
    """The same for gsplat with its default densification, of which less is known.

    Raises:
        ImportError: without torch and gsplat.
    """
    from gsplat_training import train_gsplat
    from training_result import score
    from training_start import Start as Arrays

    scene, facts = photos.scene, start.describe()
    num_test = len(scene.test)
    seen = [dataclasses.replace(scene.train[i], name=f"seen {i}") for i in _spread(len(scene.train))]
    drawn = dataclasses.replace(scene, test=[*scene.test, *seen])
    began = time.perf_counter()
    result = train_gsplat(
        drawn, Arrays.of(start.gaussians), options.steps, "default", options.computation.seed
    )
    scores = score(result.images[:num_test], scene.test)
    corrected = [
        _corrected_psnr(image, view) for image, view in zip(result.images[:num_test], scene.test, strict=True)
    ]
    return {
        "psnr": scores.psnr if num_test else None,
        "ssim": scores.ssim if num_test else None,
        "views": num_test,
        "psnr_color_corrected": statistics.fmean(corrected) if corrected else None,
        "train_psnr": score(result.images[num_test:], seen).psnr,
        "num_gaussians": result.num_gaussians,
        "seconds": result.seconds,
        "compile_seconds": time.perf_counter() - began - result.seconds,
        "start": facts,
        "machine": describe_machine(),
    }


def _train(trainer: Trainer, every: int) -> list[dict[str, Any]]:
    """Trains to the end; returns scores after every so many steps."""
    curve, end = [], trainer.config.steps
    while trainer.step < end:
        stop = min(end, (trainer.step // every + 1) * every) if every else end
        trainer.fit(stop - trainer.step)
        if every:
            scores = trainer.evaluate()
            curve.append({"step": trainer.step, "psnr": scores["psnr"], **_state(trainer)})
    return curve


def _state(trainer: Trainer) -> dict[str, Any]:
    return {"train_psnr": _seen_psnr(trainer), "num_gaussians": int(trainer.model.gaussians.num_alive)}


def _seen_psnr(trainer: Trainer) -> float:
    """Mean over some training views, as training sees them: with what was learned about each of them."""
    views = trainer.scene.train
    learned = trainer.corrections
    return statistics.fmean(_seen_view_psnr(trainer, learned, i, views[i]) for i in _spread(len(views)))


def _seen_view_psnr(trainer: Trainer, learned: dict[str, Any], index: int, view: View) -> float:
    camera = _learned_camera(trainer, learned, index, view.camera)
    image = trainer.model(camera, background=jnp.asarray(trainer.scene.background)).image
    for correction in trainer.config.corrections:
        image = correction.image(learned[correction.name], jnp.asarray(index), image)
    return _psnr(jnp.clip(image, 0, 1), view)


def _learned_camera(trainer: Trainer, learned: dict[str, Any], index: int, camera: Camera) -> Camera:
    for correction in trainer.config.corrections:
        camera = correction.camera(learned[correction.name], jnp.asarray(index), camera)
    return camera


def _pose_errors(trainer: Trainer, photos: Photos) -> dict[str, float]:
    """What is left of an error of the training cameras, where they had one."""
    given, true = ([view.camera for view in scene.train] for scene in photos)
    if all(np.array_equal(a.viewmat, b.viewmat) for a, b in zip(given, true, strict=True)):
        return {}
    learned = trainer.corrections
    error = pose_error([_learned_camera(trainer, learned, i, camera) for i, camera in enumerate(given)], true)
    return {"pose_degrees": error.degrees, "pose_extents": error.distance / photos.truth.extent}


def _corrected_psnr(image: Float[np.ndarray, "h w 3"], view: View) -> float:
    target, mask = (
        jnp.asarray(view.image, jnp.float32) / 255,
        jnp.asarray(view.mask) if view.has_mask else None,
    )
    return _psnr(color_correct(jnp.asarray(image), target, mask), view)


def _psnr(image: Float[Array, "h w 3"], view: View) -> float:
    mask = jnp.asarray(view.mask) if view.has_mask else None
    return float(psnr(image, jnp.asarray(view.image, image.dtype) / 255, mask))


def _spread(num: int) -> Sequence[int]:
    """Numbers of views, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, num - 1, min(num, MOST_SEEN)).round().astype(int)).tolist()
