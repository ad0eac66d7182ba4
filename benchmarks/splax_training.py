"""Trains splax from given arrays, for benchmarks/train.py."""

import gc
import time

import jax
from training_result import Mark, Peak, Strategy, TrainingResult
from training_start import Start

from splax.devices import device_policy
from splax.model import SplatModel
from splax.rasterizer import TileRasterizer
from splax.scene import Scene
from splax.strategies import base
from splax.strategies.default import DefaultStrategy
from splax.strategies.mcmc import MCMCStrategy
from splax.training.config import TrainConfig
from splax.training.progress import Progress
from splax.training.trainer import Trainer


def train_splax(
    scene: Scene,
    start: Start,
    steps: int,
    strategy: Strategy,
    seed: int = 0,
    cap: int = 300_000,
    *,
    random_background: bool = False,
) -> TrainingResult:
    """Trains with the settings of a Trainer as it is; colour only, as gsplat does.

    Args:
        scene: photos to train on and to render.
        start: the Gaussians, for any strategy.
        steps: length of the run.
        strategy: "default", "mcmc" or "none".
        seed: of the order of photos and of densification.
        cap: most Gaussians of "mcmc".
        random_background: train on a new one at each step.
    """
    gc.collect()
    device = jax.devices()[0]
    before = device.memory_stats()
    started = time.perf_counter()
    trainer = Trainer(
        _model(start.prepared_for(strategy)),
        scene,
        TrainConfig(
            steps=steps,
            seed=seed,
            progress=False,
            background="random" if random_background else None,
            guard=False,  # all of the steps, with all views, as the others make them
        ),
        strategy=_strategy(strategy, cap),
    )
    trainer.memory()  # sends the photos and compiles
    compiled = trainer.profile["compile"]
    marks = []

    def mark(trainer: Trainer, progress: Progress) -> None:
        if progress.num_isects:  # not before the first step
            marks.append(Mark(progress.step, trainer.seconds - (trainer.profile["compile"] - compiled)))

    trainer.fit(callbacks=[mark])
    total = time.perf_counter() - started
    peak = _peak(before, device.memory_stats())
    return TrainingResult(
        marks=tuple(marks),
        total_seconds=total,
        num_gaussians=int(trainer.model.gaussians.num_alive),
        peak=peak,
        images=[scores.image for scores in trainer.evaluate_views()],
    )


def _model(start: Start) -> SplatModel:
    tile_size = device_policy().tile_size
    return SplatModel(start.gaussians(), TileRasterizer(tile_size, render_depth=False))


def _strategy(name: Strategy, cap: int) -> base.Strategy:
    if name == "none":
        return base.Strategy()
    return MCMCStrategy(max_gaussians=cap) if name == "mcmc" else DefaultStrategy()


def _peak(before: dict[str, int] | None, after: dict[str, int] | None) -> Peak | None:
    """JAX keeps the largest use of the whole process."""
    if not before or not after:
        return None
    peak = after["peak_bytes_in_use"]
    return Peak((peak - before["bytes_in_use"]) / 2**20, is_bound=peak == before["peak_bytes_in_use"])
