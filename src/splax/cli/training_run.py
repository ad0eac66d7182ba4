"""Carries out the run of ``splax train`` or ``splax demo``, from its start to its results."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from flax import nnx

from splax.cli.argument_names import with_flags
from splax.cli.compilation_cache import keep_programs
from splax.cli.console import failed_write_is_a_warning, missing_package_is_an_error, say, say_error
from splax.cli.describe import describe_scene
from splax.cli.flat_options import flatten
from splax.cli.options import Running, Training
from splax.cli.provenance import device_name
from splax.cli.run_config import check_unchanged, read_data, read_options, read_sh_degree, save_options
from splax.cli.run_folder import CHECKPOINTS, CONFIG, EVAL, METRICS, POINT_CLOUD, RunFolder, default_folder
from splax.cli.run_results import fitted_scores, write_results
from splax.cli.scenes import DEMO, load_scene
from splax.cli.setup import check_options, make_trainer, start_of, start_of_demo
from splax.cli.strategy import strategy_of
from splax.gaussians import Gaussians
from splax.reports.events import EventLog
from splax.scene import Scene
from splax.training.errors import NoGaussianError, NonFiniteError, OutOfMemoryError
from splax.training.progress import Progress
from splax.training.recovery.checkpoints import Checkpoints, can_save
from splax.training.start import Start
from splax.training.trainer import Trainer
from splax.training.view_scores import scores_line


def train(data: Path, out: Path | None, options: Training, *, overwrite: bool) -> int:
    """Trains on a dataset and writes a run folder; returns the exit status.

    Args:
        data: folder of the dataset.
        out: folder of the run; None: the default one.
        options: settings of the run.
        overwrite: whether to replace a run that the folder holds.

    Raises:
        ValueError: on an option out of range, or data or a folder that cannot be used.
    """
    path = default_folder(data, overwrite) if out is None else out
    with RunFolder.create(path, overwrite=overwrite) as folder:
        say(f"Run folder: {folder.path}")
        _use_fixed_order(options.computation.deterministic)
        keep_programs()
        scene = load_scene(data, options.downscale, options.photos)
        say(describe_scene(scene))
        return _begin(scene, str(data), folder, options, lambda: start_of(scene, options))


def demo(out: Path, options: Training) -> int:
    """Ray traces the built-in scene, trains on its images and writes a run folder; returns the exit status.

    Args:
        out: folder of the run; an earlier demo in it is replaced.
        options: settings of the run.

    Raises:
        ValueError: on an option out of range, or a folder that cannot be used.
    """
    with RunFolder.create(out, overwrite=_holds_demo(out)) as folder:
        say(f"Run folder: {folder.path}")
        keep_programs()
        say("Ray tracing 48 images for training and 8 held-out ones ...")
        scene = load_scene(DEMO, options.downscale, options.photos)
        return _begin(scene, DEMO, folder, options, lambda: start_of_demo(scene, options))


def resume(path: Path, given: Training, *, data: Path | None, out: Path | None) -> int:
    """Resumes a run from its last checkpoint, with the settings that it began with; returns the exit status.

    Args:
        path: folder of the run.
        given: options of the command line; those of :class:`~splax.cli.options.Running` hold from now on.
        data: the dataset that the command line names, if it names one.
        out: the folder that the command line names for the run, if it names one.

    Raises:
        ValueError: if there is no run to resume, it is damaged, or the command line asks for another run.
    """
    with RunFolder.reopen(path) as folder:
        config = folder.read_config()
        began_with = read_data(config, path / CONFIG)
        options = read_options(config, path / CONFIG)
        if out is not None and out != path:
            raise ValueError(f"--resume {path} writes to that folder; leave --out {out} out.")
        check_unchanged(given, options, data=data, began_with=began_with)
        options = dataclasses.replace(options, running=given.running)
        _use_fixed_order(options.computation.deterministic)
        keep_programs()
        # One Gaussian anywhere is enough: the checkpoint has the number and the Params of all.
        stand_in = Gaussians.random(1, sh_degree=read_sh_degree(config, path / CONFIG), rngs=nnx.Rngs(0))
        scene = load_scene(began_with, options.downscale, options.photos)
        trainer = make_trainer(scene, options, stand_in)
        trainer.resume(Checkpoints(folder.path / CHECKPOINTS))
        say(f"Resuming after {trainer.step:,} steps.")
        folder.forget_scores_from(trainer.step)
        return _train(trainer, folder, options)


def _begin(
    scene: Scene, data: str, folder: RunFolder, options: Training, make_start: Callable[[], Start]
) -> int:
    check_options(options)
    say("Looking for a start ...")
    start = make_start()
    say(f"Start: {start.kind}, as {start.reason}.")
    strategy = strategy_of(options)
    _warn_above_limit(int(start.gaussians.num_alive), strategy.limit)
    if not start.trained:
        strategy.adapt_start(start.gaussians)
    trainer = make_trainer(scene, options, start.gaussians)
    begun = {"start": start.describe(), "stored_sh_degree": start.gaussians.sh_degree}
    folder.begin(save_options(options, data) | begun)
    return _train(trainer, folder, options)


def _train(trainer: Trainer, folder: RunFolder, options: Training) -> int:
    checkpoints = _checkpoints(folder, options.running)
    events = _event_log(folder) if options.logging.tensorboard else None
    _say_plan(trainer, options)
    status, interrupted = 0, False
    try:
        _fit(trainer, folder, options.logging.eval_every, events, checkpoints)
    except KeyboardInterrupt:
        status, interrupted = 130, True
        say(f"Interrupted after {trainer.step:,} steps; writing what is trained so far.")
    except (NonFiniteError, NoGaussianError, OutOfMemoryError) as error:
        status, interrupted = 1, True
        say_error(f"{with_flags(str(error), Training)} Writing what is trained so far.")
    if trainer.guard_report["held"] and trainer.guard_report["why"]:
        say(f"Guard: {trainer.guard_report['why']}.")
    asked = fitted_scores(options.scores, flatten(options))
    metrics = write_results(folder, trainer, interrupted=interrupted, networks=options.scores.lpips, **asked)
    if events is not None:
        events.close()
    say(scores_line(metrics))
    say(f"Splat: {folder.path / POINT_CLOUD}")
    say(f"Scores: {folder.path / METRICS}")
    say(f"Truth, rendering and error side by side: {folder.path / EVAL}")
    say(f"Images around the scene, and a film: splax render {folder.path}")
    if interrupted and checkpoints is not None and checkpoints.steps():
        say(f"Resume the run: splax train --resume {folder.path}")
    if options.running.profile:
        say(trainer.describe_profile())
    return status


def _say_plan(trainer: Trainer, options: Training) -> None:
    """Prints what is about to be trained, on what, and whether it fits into memory."""
    num = int(trainer.model.gaussians.num_alive)
    say(f"Training {num:,} Gaussians for {options.steps:,} steps on {device_name()}.")
    say(f"Drawn by {trainer.explain()}")
    _say_memory(trainer)
    if not trainer.guard_report["held"]:
        say(f"Guard {trainer.guard_report['why']}.")


def _say_memory(trainer: Trainer) -> None:
    try:
        need = trainer.memory()
        need.check()
    except OutOfMemoryError as error:
        raise ValueError(str(error)) from error
    say(need.describe())
    limit, most = trainer.strategy.limit, need.most_rows
    if limit is not None and most is not None and limit > most:
        say(
            f"It may run out of memory before it reaches {limit:,}; --max-gaussians {int(0.8 * most)} would fit."
        )


def _fit(
    trainer: Trainer,
    folder: RunFolder,
    every: int,
    events: EventLog | None,
    checkpoints: Checkpoints | None,
) -> None:
    """Trains to the end, and scores the held-out views after every ``every`` steps, if that is not 0."""

    def log(trainer: Trainer, progress: Progress) -> None:
        if math.isnan(progress.loss):  # the call before the first step; a loss that is not finite raises
            return
        with failed_write_is_a_warning():
            folder.write_log(trainer.history)
        if events is not None:
            numbers = {f"train/{k}": v for k, v in progress._asdict().items() if k != "step"}
            with failed_write_is_a_warning():
                events.write(progress.step, numbers)

    def score() -> None:
        if not every or not trainer.scene.test or (trainer.step % every and trainer.step != end):
            return
        scores = trainer.evaluate()
        with failed_write_is_a_warning():
            folder.write_scores(trainer.step, scores)
        say(f"Step {trainer.step:,}. {scores_line(scores)}")
        if events is not None:
            with failed_write_is_a_warning():
                events.write(trainer.step, {f"test/{name}": scores[name] for name in ("psnr", "ssim")})

    end = trainer.config.steps
    if trainer.step:
        score()  # the run may have been stopped after a checkpoint, but before the scores of its step
    while trainer.step < min(end, trainer.end):
        stop = min(end, (trainer.step // every + 1) * every) if every else end
        trainer.fit(stop - trainer.step, [log], checkpoints=checkpoints)
        score()


def _warn_above_limit(num: int, limit: int | None) -> None:
    if limit is not None and num > limit:
        warnings.warn(
            f"the start has {num:,} Gaussians, and --max-gaussians is {limit:,}: none will be added while there "
            "are more than that.",
            stacklevel=2,
        )


def _use_fixed_order(wanted: bool) -> None:
    """Makes XLA sum in a fixed order on GPUs too. This has an effect only before the first use of a device."""
    if wanted:
        flags = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def _checkpoints(folder: RunFolder, options: Running) -> Checkpoints | None:
    if options.checkpoint_every == 0:
        return None
    if not can_save():
        say("No checkpoints: orbax-checkpoint is not installed.")
        return None
    path = folder.path / CHECKPOINTS
    return Checkpoints(path, keep=options.keep_checkpoints, every=options.checkpoint_every)


def _holds_demo(path: Path) -> bool:
    """Whether the run in the folder, if there is one, is an earlier demo."""
    return (path / CONFIG).is_file() and RunFolder(path).read_config().get("data") == DEMO


def _event_log(folder: RunFolder) -> EventLog:
    with missing_package_is_an_error():
        return EventLog(folder.path / "events")
