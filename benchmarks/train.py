"""Trains splax and gsplat one after the other, in one process, on the same photos from the same start.

    python benchmarks/train.py --data data/fox --downscale 2 --steps 7000 --seeds 0 1 2
    python benchmarks/train.py --data data/lego --white-background --strategies mcmc --cap 100000
    python benchmarks/train.py --data data/fox --downscale 2 --save fox.npz   # here, then where there is a GPU:
    python benchmarks/train.py --data fox.npz --steps 7000
    python benchmarks/train.py --fixed-gaussians test_garden.npz --steps 500

Prints a table in Markdown, a line after each run. Both methods have the settings of gsplat's examples, which are
splax's defaults but for pruning by size and the unit of sizes and rates (docs/training.md), without the guard;
both are scored by splax's PSNR and SSIM on the views held out. Clocks run while nothing is compiled or evaluated,
and are read with the device idle. Peak memory is above what was in use before the run. JAX keeps it for the whole
process only, so runs that need less than an earlier one get a bound. Every run of splax compiles anew; with
JAX_COMPILATION_CACHE_DIR set only the first seed does.
"""

import os

# Two frameworks share the GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import dataclasses
import functools
import importlib
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import tyro
from arrays_file import load_arrays, save_arrays
from garden_training import garden_scene
from measure import describe_machine
from splax_training import train_splax
from training_result import Peak, Strategy, TrainingResult, score
from training_start import Start, auto_start, random_start

from splax.scene import Scene

HEADER = (
    *("data", "method", "strategy", "steps", "seed", "steps/s", "ms per step", "run, s"),
    *("with compiling, s", "Gaussians", "test PSNR", "SSIM", "peak, MB"),
)
Method = Literal["splax", "gsplat"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Benchmarks training."""

    data: pathlib.Path | None = None
    """Folder of a dataset, or a file that --save wrote."""
    downscale: float = 1.0
    """Make images smaller by this factor."""
    white_background: bool = False
    """Composite transparent images on white instead of black."""
    random_background: bool = False
    """Show splax transparent images on a new background at each step, as `splax train` does."""
    steps: int = 7000
    """Length of each run."""
    strategies: tuple[Strategy, ...] = ("default", "mcmc")
    """Densification, one run each."""
    cap: int = 300_000
    """Most Gaussians of mcmc."""
    seeds: tuple[int, ...] = (0,)
    """One run each: the order of photos and densification. The start is the same."""
    methods: tuple[Method, ...] = ("splax", "gsplat")
    """What to train."""
    init: Literal["random", "auto"] = "random"
    """Start from random points, as gsplat's examples do, or from what splax finds in the photos."""
    num_points: int = 50_000
    """Random points to start from."""
    fixed_gaussians: pathlib.Path | None = None
    """Instead of data, test_garden.npz of gsplat's repository: its Gaussians, disturbed, learn what they looked
    like, and their number stays the same."""
    save: pathlib.Path | None = None
    """Train nothing, but write photos and start to this .npz file, to be read where OpenCV and scipy are not."""
    row: str = "garden3@1920x1080x3"
    """With that, which of them: see benchmarks/render.py. garden3 has about a million."""
    json: pathlib.Path | None = None
    """File to write all figures to."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One line of the table; see :class:`training_result.TrainingResult`."""

    data: str
    method: Method
    strategy: Strategy
    steps: int
    seed: int | None
    steps_per_second: float
    seconds: float
    total_seconds: float
    num_gaussians: float
    psnr: float
    ssim: float
    peak: Peak | None

    def cells(self) -> tuple[str, ...]:
        """As the table has it."""
        return (
            self.data,
            self.method,
            self.strategy,
            f"{self.steps:,}",
            "mean" if self.seed is None else str(self.seed),
            f"{self.steps_per_second:.1f}",
            f"{1e3 / self.steps_per_second:.2f}",
            f"{self.seconds:.1f}",
            f"{self.total_seconds:.1f}",
            f"{self.num_gaussians:,.0f}",
            f"{self.psnr:.2f}",
            f"{self.ssim:.4f}",
            _describe_peak(self.peak),
        )


def main(options: Options) -> list[Run]:
    """Prints the table and returns its lines.

    Raises:
        ValueError: if there is nothing to train on.
    """
    if options.fixed_gaussians is not None:
        scene, start = garden_scene(options.row, options.fixed_gaussians)
        options = dataclasses.replace(options, strategies=("none",))
        return compare(options.row, scene, start, options)
    if options.data is None:
        raise ValueError("there is nothing to train on: give --data DIR or --fixed-gaussians FILE.")
    scene, start = _read(options.data, options)
    if options.save is not None:
        save_arrays(options.save, scene, start)
        return []
    return compare(options.data.stem, scene, start, options)


def _read(data: pathlib.Path, options: Options) -> tuple[Scene, Start]:
    if data.suffix == ".npz":
        return load_arrays(data)
    from splax.data.formats import load_dataset

    scene = load_dataset(data, downscale=options.downscale, white_background=options.white_background)
    return scene, auto_start(scene) if options.init == "auto" else random_start(scene, options.num_points)


def compare(data: str, scene: Scene, start: Start, options: Options) -> list[Run]:
    """Trains every method with every strategy and seed, and prints a line for each.

    Args:
        data: what the lines call it.
        scene: photos to train on and to score.
        start: what all runs start from.
        options: of these, what is trained and how long.
    """
    trainers = _trainers(options)
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()) + "\n")
    _print_line(HEADER)
    _print_line(("---",) * len(HEADER))
    lines = []
    for strategy in options.strategies:
        for method, train in trainers.items():
            runs = []
            for seed in options.seeds:
                result = train(scene, start, options.steps, strategy, seed, options.cap)
                runs.append(_describe(data, method, strategy, options.steps, seed, scene, result))
                _print_line(runs[-1].cells())
            lines += runs
            if len(runs) > 1:
                lines.append(_mean(runs))
                _print_line(lines[-1].cells())
            if options.json is not None:
                _write_json(options.json, lines)
    return lines


def _trainers(options: Options) -> dict[Method, Callable[..., TrainingResult]]:
    """The functions that train, of the methods that are installed."""
    trainers: dict[Method, Callable[..., TrainingResult]] = {}
    if "splax" in options.methods:
        trainers["splax"] = functools.partial(train_splax, random_background=options.random_background)
    if "gsplat" in options.methods:
        try:
            trainers["gsplat"] = importlib.import_module("gsplat_training").train_gsplat
        except ImportError as error:
            print(
                f"without gsplat: {error}; it needs torch, and gsplat==1.5.3 built for CUDA", file=sys.stderr
            )
    return trainers


def _describe(
    data: str,
    method: Method,
    strategy: Strategy,
    steps: int,
    seed: int,
    scene: Scene,
    result: TrainingResult,
) -> Run:
    scores = score(result.images, scene.test)
    return Run(
        data=data,
        method=method,
        strategy=strategy,
        steps=steps,
        seed=seed,
        steps_per_second=result.steps_per_second,
        seconds=result.seconds,
        total_seconds=result.total_seconds,
        num_gaussians=result.num_gaussians,
        psnr=scores.psnr,
        ssim=scores.ssim,
        peak=result.peak,
    )


def _mean(runs: Sequence[Run]) -> Run:
    """Of the seeds; memory is the largest that was measured, else the least bound."""
    names = ("steps_per_second", "seconds", "total_seconds", "num_gaussians", "psnr", "ssim")
    means: dict[str, Any] = {name: statistics.fmean(getattr(run, name) for run in runs) for name in names}
    peaks = [run.peak for run in runs if run.peak is not None]
    measured = [peak for peak in peaks if not peak.is_bound]
    peak = max(measured) if measured else min(peaks, default=None)
    return dataclasses.replace(runs[0], seed=None, peak=peak, **means)


def _describe_peak(peak: Peak | None) -> str:
    if peak is None:
        return "-"
    return f"{'at most ' if peak.is_bound else ''}{peak.megabytes:,.0f}"


def _write_json(path: pathlib.Path, lines: Sequence[Run]) -> None:
    report = {"machine": describe_machine(), "runs": [dataclasses.asdict(line) for line in lines]}
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(report, indent=1), encoding="utf-8")
    os.replace(partial, path)


def _print_line(cells: Sequence[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except ValueError as error:
        sys.exit(f"benchmark: {error}")
