"""What the subcommands do; :mod:`splax.cli.main` only parses. Each function is glue over the library."""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from splax.capture.dataset import make_dataset
from splax.cli.compilation_cache import keep_programs
from splax.cli.describe import describe_scene
from splax.cli.options import Convert, Demo, Eval, Info, Process, Render, Running, Scores, Train
from splax.cli.run_config import DEMO, check_unchanged, read_options, read_sh_degree, save_options
from splax.cli.run_folder import CHECKPOINTS, CONFIG, EVAL, POINT_CLOUD, RunFolder, device_name, picture_name
from splax.cli.setup import (
    check_networks,
    check_options,
    default_tile_size,
    make_trainer,
    start_of,
    start_of_demo,
    strategy_of,
)
from splax.corrections.held_out import Appearance
from splax.data.formats import load_dataset
from splax.data.synthetic import make_demo_scene
from splax.files.json import shorten
from splax.gaussians import Gaussians
from splax.io import formats
from splax.model import SplatModel
from splax.rasterizer import TileRasterizer
from splax.reports.events import EventLog
from splax.reports.images import save_png, save_video
from splax.scene import Scene
from splax.strategies.mcmc import prepare
from splax.training.color_renderer import ColorRenderer, color_of
from splax.training.config import TrainConfig
from splax.training.errors import NoGaussianError, NonFiniteError, OutOfMemoryError
from splax.training.evaluation import scores_line
from splax.training.progress import Progress
from splax.training.recovery.checkpoints import Checkpoints, can_save
from splax.training.start import Start
from splax.training.trainer import Trainer
from splax.trajectories import orbit

# What of a run's config names its scene, and the types that json gives it.
_SCENE_OPTIONS = {
    "data": str,
    "dataset_type": str | None,
    "downscale": int | float,
    "test_every": int,
    "white_background": bool,
}
# Options with which photos may look as no view held out can: its exposure, or its exact camera, is not known.
_LEARN_COLORS = ("exposure", "bilateral_grid")
_LEARN_POSES = ("refine_poses",)


def train(options: Train) -> int:
    """Trains on posed photos and writes a run folder, or goes on with one."""
    if options.resume is not None:
        return _resume(options, options.resume)
    if options.data is None or options.out is None:
        raise ValueError("splax train needs DATA and --out FOLDER, or --resume FOLDER alone; see --help.")
    folder = RunFolder.create(options.out, overwrite=options.overwrite)
    _use_fixed_order(options.deterministic)
    keep_programs()
    scene = load_scene(dataclasses.asdict(options))
    _say(describe_scene(scene))
    return _train_anew(scene, folder, options, lambda: start_of(scene, options))


def _resume(options: Train, path: Path) -> int:
    folder = RunFolder.reopen(path)
    config = folder.read_config()
    began = read_options(config, path / CONFIG)
    check_unchanged(options, began)
    running = {field.name: getattr(options, field.name) for field in dataclasses.fields(Running)}
    began = dataclasses.replace(began, **running)
    _use_fixed_order(isinstance(began, Train) and began.deterministic)
    keep_programs()
    # Of any number and in any place: the checkpoint says where all of them are.
    stand_in = Gaussians.random(1, sh_degree=read_sh_degree(config, path / CONFIG), rngs=nnx.Rngs(0))
    trainer = make_trainer(load_scene(save_options(began)), began, stand_in)
    trainer.resume(Checkpoints(folder.path / CHECKPOINTS))
    _say(f"Going on after {trainer.step:,} steps.")
    folder.forget_scores_from(trainer.step)
    return _train(trainer, folder, began)


def demo(options: Demo) -> int:
    """Ray traces a small scene, trains on its pictures and writes a run folder."""
    folder = RunFolder.create(options.out, overwrite=_holds_demo(options.out))
    keep_programs()
    _say("Ray tracing 48 pictures to train on, and 8 to compare with ...")
    scene = make_demo_scene()
    return _train_anew(scene, folder, options, lambda: start_of_demo(scene, options))


def evaluate(options: Eval) -> int:
    """Scores a run on its held-out views and writes the pictures anew."""
    folder = RunFolder.open(options.run)
    check_networks(options.lpips)
    trainer = _reload(folder, options.data)
    asked = _fitted_scores(options, folder.read_config())
    metrics = folder.write_evaluation(trainer, folder.read_metrics(), options.lpips, **asked)
    for view in metrics["per_view"]:
        _say(f"{view['name']}: PSNR {view['psnr']:.2f} dB, SSIM {view['ssim']:.4f}")
    _say(scores_line(metrics))
    _say(f"Truth, rendering and error side by side: {folder.path / EVAL}")
    return 0


def render(options: Render) -> int:
    """Renders a run's held-out views and a circle round the scene."""
    folder = RunFolder.open(options.run)
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file; give the path of a folder for the pictures.")
    if options.fps < 1:
        raise ValueError(f"--fps must be at least 1, got {options.fps}.")
    trainer = _reload(folder, options.data)
    scene, held_out = trainer.scene, trainer.held_out()
    cameras = orbit(scene, options.frames)
    renderer = ColorRenderer.of(trainer.model, scene.train[0].camera)

    def draw(appearance: Appearance) -> Any:
        background = jax.numpy.asarray(scene.background)
        image = color_of(renderer(trainer.model, appearance.camera, background))
        return jax.numpy.clip(held_out.image(appearance.params, image), 0, 1)

    for view in scene.test:
        image = draw(held_out.of(view.name, view.camera))
        save_png(options.out / "test" / picture_name(view.name), image)
    frames = []
    for index, camera in enumerate(cameras):
        frames.append(draw(held_out.mean(held_out.motion.move(camera))))
        save_png(options.out / "orbit" / f"{index:04d}.png", frames[-1])
    _say(f"Wrote {len(scene.test)} test views and {len(frames)} frames of an orbit to {options.out}")
    try:
        save_video(options.out / "orbit.mp4", frames, fps=options.fps)
        _say(f"Film: {options.out / 'orbit.mp4'}")
    except ImportError as error:
        _say(f"No film: {error}")
    return 0


def convert(options: Convert) -> int:
    """Writes a splat file in another format."""
    if options.out.exists() and not options.overwrite:
        raise ValueError(
            f"{options.out} is there already; replace it with --overwrite, or give another name."
        )
    try:
        arrays = formats.convert(options.source, options.out, spz_version=options.spz_version)
    except ImportError as error:
        raise ValueError(str(error)) from error
    kind = "antialiased Gaussians" if arrays.antialiased else "Gaussians"
    size = options.out.stat().st_size / 1e6
    _say(f"{arrays.num:,} {kind} of SH degree {arrays.sh_degree} in {options.source}")
    _say(f"Wrote {options.out}, {size:.2f} MB")
    return 0


def process(options: Process) -> int:
    """Makes a dataset of photos without cameras, or of a video."""
    _say("Estimating cameras on the CPU: minutes for tens of photos, hours for hundreds.")
    try:
        report = make_dataset(
            options.source,
            options.out,
            num_frames=options.num_frames,
            min_registered=options.min_registered,
            one_camera=options.one_camera,
            max_size=options.max_size,
        )
    except ImportError as error:
        raise ValueError(str(error)) from error
    model = report.model
    _say(f"Cameras found for {model.num_images} of {report.num_photos} photos; {model.num_points:,} points,")
    _say(f"seen {model.error:.2f} pixels off on average.")
    if model.num_models > 1:
        _say(f"The photos fell into {model.num_models} parts that do not go together; this is the largest.")
    _say(f"Dataset: {report.out}. Next: splax train {report.out} --out RUN")
    return 0


def info(options: Info) -> int:
    """Prints what a dataset holds."""
    scene = load_scene(dataclasses.asdict(options))
    _say(describe_scene(scene))
    # One Gaussian stands for those of a start: types and the view's size count.
    gaussian = Gaussians.from_points(np.zeros((1, 3)))
    camera = next(view.camera for view in (*scene.train, *scene.test))
    rasterizer = TileRasterizer(default_tile_size(), isect_capacity=1)
    _say(f"drawn by  {rasterizer.explain(gaussian, camera)}")
    return 0


def load_scene(options: dict[str, Any]) -> Scene:
    """The scene that options (or a run's config) name.

    Raises:
        ValueError: if it cannot be read.
    """
    if options["data"] == DEMO:
        return make_demo_scene()
    return load_dataset(
        options["data"],
        options.get("dataset_type"),  # runs of older versions have none
        downscale=options["downscale"],
        test_every=options["test_every"],
        white_background=options["white_background"],
    )


def _train_anew(
    scene: Scene, folder: RunFolder, options: Train | Demo, make_start: Callable[[], Start]
) -> int:
    check_options(options)
    _say("Looking for where to start ...")
    start = make_start()
    _say(f"Start: {start.kind}, as {start.reason}.")
    _warn_above_limit(int(start.gaussians.num_alive), strategy_of(options).limit)
    if isinstance(options, Train) and options.strategy == "mcmc" and not start.trained:
        prepare(start.gaussians)
    trainer = make_trainer(scene, options, start.gaussians)
    begun = {"start": start.describe(), "stored_sh_degree": start.gaussians.sh_degree}
    folder.begin(save_options(options) | begun)
    return _train(trainer, folder, options)


def _train(trainer: Trainer, folder: RunFolder, options: Train | Demo) -> int:
    checkpoints = _checkpoints(folder, options)
    scored = options if isinstance(options, Train) else None
    networks = scored.lpips if scored else ()
    events = _event_log(folder) if scored and scored.tensorboard else None
    _say(
        f"Training {int(trainer.model.gaussians.num_alive):,} Gaussians for {options.steps:,} steps on "
        f"{device_name()}."
    )
    _say(f"Drawn by {trainer.explain()}")
    _say_memory(trainer)
    if not trainer.guard_report["held"]:
        _say(f"Guard {trainer.guard_report['why']}.")
    status, interrupted = 0, False
    try:
        _fit(trainer, folder, scored.eval_every if scored else 0, events, checkpoints)
    except KeyboardInterrupt:
        status, interrupted = 130, True
        _say(f"Interrupted after {trainer.step:,} steps; writing what is trained so far.")
    except (NonFiniteError, NoGaussianError, OutOfMemoryError) as error:
        status, interrupted = 1, True
        print(f"splax: error: {error} Writing what is trained so far.", file=sys.stderr)
    if trainer.guard_report["held"] and trainer.guard_report["why"]:
        _say(f"Guard: {trainer.guard_report['why']}.")
    asked = _fitted_scores(scored, dataclasses.asdict(scored)) if scored else {}
    metrics = folder.write_results(trainer, interrupted=interrupted, networks=networks, **asked)
    if events is not None:
        events.close()
    _say(scores_line(metrics))
    _say(f"Splat: {folder.path / POINT_CLOUD}")
    _say(f"Truth, rendering and error side by side: {folder.path / EVAL}")
    if options.profile:
        _say(trainer.describe_profile())
    return status


def _warn_above_limit(num: int, limit: int | None) -> None:
    if limit is not None and num > limit:
        warnings.warn(
            f"the start has {num:,} Gaussians, and --max-gaussians is {limit:,}: none will be added while there "
            "are more than that.",
            stacklevel=2,
        )


def _use_fixed_order(wanted: bool) -> None:
    """Tells XLA to sum in a fixed order on GPUs too; heard if no device was used before."""
    if wanted:
        flags = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def _checkpoints(folder: RunFolder, options: Train | Demo) -> Checkpoints | None:
    if options.checkpoint_every == 0:
        return None
    if not can_save():
        _say("No checkpoints: orbax-checkpoint is not installed.")
        return None
    path = folder.path / CHECKPOINTS
    return Checkpoints(path, keep=options.keep_checkpoints, every=options.checkpoint_every)


def _say_memory(trainer: Trainer) -> None:
    try:
        need = trainer.memory()
        need.check()
    except OutOfMemoryError as error:
        raise ValueError(str(error)) from error
    _say(need.describe())
    limit, most = trainer.strategy.limit, need.most_rows
    if limit is not None and most is not None and limit > most:
        _say(
            f"It may run out of memory before it reaches {limit:,}; --max-gaussians {int(0.8 * most)} would fit."
        )


def _holds_demo(path: Path) -> bool:
    """Whether the run in the folder, if there is one, is an earlier demo."""
    return (path / CONFIG).is_file() and RunFolder(path).read_config().get("data") == DEMO


def _fitted_scores(asked: Scores, learned: dict[str, Any]) -> dict[str, bool]:
    """What is fitted to the photos of views held out for further scores: what was asked for or is not known."""
    return {
        "color_correct": asked.color_correct or any(learned.get(name) is True for name in _LEARN_COLORS),
        "pose_align": asked.pose_align or any(learned.get(name) is True for name in _LEARN_POSES),
    }


def _reload(folder: RunFolder, data: Path | None) -> Trainer:
    """The Trainer of a finished run with what it learned; its photos may have moved."""
    config = folder.read_config()
    for key, kind in _SCENE_OPTIONS.items():
        value = config.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(
                f"{folder.path / CONFIG} is damaged: {key!r} is {shorten(value)}; expected a file written by "
                "`splax train`."
            )
    if data is not None:
        config["data"] = str(data)
    elif config["data"] != DEMO and not Path(config["data"]).exists():
        raise ValueError(
            f"the photos of {folder.path} were in {config['data']}, where nothing is any more; say where they are "
            "by --data."
        )
    keep_programs()
    rasterizer = TileRasterizer(default_tile_size(), antialiased=folder.is_antialiased(), render_depth=False)
    model = SplatModel(folder.load_gaussians(), rasterizer)
    scene = load_scene(config)
    corrections = folder.load_corrections(len(scene.train))
    made = tuple(correction for correction, _ in corrections.values())
    trainer = Trainer(model, scene, TrainConfig(progress=False, corrections=made))
    trainer.load_corrections({name: params for name, (_, params) in corrections.items()})
    return trainer


def _fit(
    trainer: Trainer,
    folder: RunFolder,
    every: int,
    events: EventLog | None,
    checkpoints: Checkpoints | None,
) -> None:
    """Trains to the end, with scores of the held-out views after every so many steps, if any."""

    def log(trainer: Trainer, progress: Progress) -> None:
        folder.write_log(trainer.history)
        if events is not None:
            events.write(
                progress.step, {f"train/{k}": v for k, v in progress._asdict().items() if k != "step"}
            )

    def score() -> None:
        if not every or not trainer.scene.test or (trainer.step % every and trainer.step != end):
            return
        scores = trainer.evaluate()
        folder.write_scores(trainer.step, scores)
        _say(f"Step {trainer.step:,}. {scores_line(scores)}")
        if events is not None:
            events.write(trainer.step, {f"test/{name}": scores[name] for name in ("psnr", "ssim")})

    end = trainer.config.steps
    if trainer.step:
        score()  # it may have been stopped between the last step before a checkpoint and its scores
    while trainer.step < min(end, trainer.end):
        stop = min(end, (trainer.step // every + 1) * every) if every else end
        trainer.fit(stop - trainer.step, [log], checkpoints=checkpoints)
        score()


def _event_log(folder: RunFolder) -> EventLog:
    try:
        return EventLog(folder.path / "events")
    except ImportError as error:
        raise ValueError(str(error)) from error


def _say(text: str) -> None:
    print(text, flush=True)
