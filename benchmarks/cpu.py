"""splax's XLA path on a CPU against two others, in one run on the same arrays.

    python benchmarks/cpu.py                  # the table of docs/performance.md, some ten minutes
    python benchmarks/cpu.py --quick          # a tiny row, to see that it works
    python benchmarks/cpu.py --profile        # and where the time of a frame goes
    python benchmarks/cpu.py --train          # and steps per second of the Trainer on the demo scene

The others: the dense [tiles, Gaussians] overlap with ``top_k`` (:mod:`dense_topk`), and the torch oracle of
``tests/oracle`` where torch and gsplat are installed. What is rendered: :mod:`workloads`.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import tyro
from agreement import Agreement, comparable_pixels, compare
from flax import nnx
from measure import describe_machine, load, median_ms, time_interleaved
from methods import Method, SkippedError, dense_method, splax_method
from stages import time_stages
from torch_oracle import oracle_band, oracle_method
from workloads import Row, Workload, make_workload

from splax.data.synthetic import make_demo_scene
from splax.gaussians import Gaussians
from splax.model import SplatModel
from splax.rasterizer import TileRasterizer
from splax.strategies.base import Strategy
from splax.training.config import TrainConfig
from splax.training.trainer import Trainer

ROWS = ("3000@135x240", "20000@135x240", "50000@135x240", "50000@270x480", "50000@540x960")
QUICK_ROWS = ("300@40x32",)
METHODS = SPLAX, PLAIN, DENSE, ORACLE = "splax", "plain xla", "dense top_k", "torch oracle"
PASSES = ("forward", "forward+backward")
# Images further apart than this are not the same picture; colours are about 1.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Options:
    """Benchmarks splax on a CPU."""

    rows: tuple[str, ...] = ROWS
    """Gaussians@WIDTHxHEIGHT of each row."""
    methods: tuple[str, ...] = METHODS
    """What to time; splax itself always is."""
    quick: bool = False
    """One tiny row only."""
    repeats: int = 5
    """Measured runs; the median counts."""
    tile_size: int = 8
    """Of splax, pixels; the dense method uses 16, as the seed did."""
    budget: float = 60.0
    """Seconds: a method is repeated no further when its runs of a pass took this long in all, and the oracle is
    skipped if one run would."""
    memory: float = 12.0
    """GiB of scratch memory: a method that needs more is skipped."""
    profile: bool = False
    """Time the stages of a frame."""
    train: bool = False
    """Time the Trainer on the demo scene."""
    train_steps: int = 60
    """Steps of that run."""
    json: pathlib.Path | None = None
    """File to write all figures to."""


def main(options: Options) -> dict[str, Any]:
    """Runs what is asked for, prints it as Markdown and returns every figure.

    Raises:
        ValueError: on a malformed row, a method that does not exist, or fewer than one repeat.
        RuntimeError: if two methods draw different images.
    """
    if options.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, got {options.repeats}.")
    if unknown := set(options.methods) - set(METHODS):
        raise ValueError(f"--methods must be among {METHODS}, got {sorted(unknown)}.")
    rows = [Row.parse(text) for text in (QUICK_ROWS if options.quick else options.rows)]
    results: dict[str, Any] = {"machine": describe_machine(), "options": _plain(options)}
    _say(", ".join(f"{name}: {value}" for name, value in results["machine"].items()) + "\n")
    results["rows"] = [_measure_row(row, options) for row in rows]
    _say("\n" + format_table(results["rows"]) + "\n")
    if options.profile:
        results["stages"] = {str(row): _profile(row, options) for row in rows}
        _say(_format_stages(results["stages"]) + "\n")
    if options.train:
        results["training"] = _train(options)
        _say(
            "Trainer, demo scene, 10,000 Gaussians: {steps_per_second:.2f} steps/s".format(
                **results["training"]
            )
        )
    if options.json is not None:
        _write_json(options.json, results)
    return results


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds, and how many times longer than splax, one line a row and pass."""
    others = METHODS[1:]
    header = ["Gaussians", "picture", "list (mean, longest)", "pass", *(f"{name}, ms" for name in METHODS)]
    lines = [header + [f"{name} / splax" for name in others]]
    for row in rows:
        for kind in PASSES:
            times = {name: row["ms"].get(name, {}).get(kind) for name in METHODS}
            ratios = [times[name] and times[name] / times[SPLAX] for name in others]
            lines.append(
                [
                    f"{row['num_gaussians']:,}",
                    f"{row['width']}x{row['height']}",
                    f"{row['mean_list']:.0f}, {row['longest_list']:,}",
                    kind,
                    *(_number(time, "") for time in times.values()),
                    *(_number(ratio, "x") for ratio in ratios),
                ]
            )
    return _markdown(lines)


def _measure_row(row: Row, options: Options) -> dict[str, Any]:
    """Checks and times every method on one row."""
    _say(f"{row}:")
    workload = make_workload(row)
    methods, skipped = _build_methods(workload, options)
    comparable = comparable_pixels(workload)
    agreements = {
        name: _check(name, methods[SPLAX], method, _mask(name, comparable.mask, workload), workload)
        for name, method in methods.items()
        if name != SPLAX
    }
    times: dict[str, dict[str, list[float]]] = {name: {} for name in methods}
    for kind in PASSES:
        calls = {
            name: method.forward if kind == "forward" else method.backward for name, method in methods.items()
        }
        for name, seconds in time_interleaved(
            calls, repeats=options.repeats, budget_s=options.budget
        ).items():
            times[name][kind] = seconds
    result = {
        **dataclasses.asdict(row),
        "mean_list": comparable.mean_list,
        "longest_list": comparable.longest_list,
        "ms": {
            name: {kind: median_ms(seconds) for kind, seconds in passes.items()}
            for name, passes in times.items()
        },
        "seconds": times,
        "memory_bytes": {name: method.memory_bytes for name, method in methods.items()},
        "agreement": {name: agreement._asdict() for name, agreement in agreements.items()},
        "skipped": skipped,
        "load": load(),
    }
    # A run that is cut short still shows what it measured.
    for name, passes in result["ms"].items():
        _say(f"  {name}: " + ", ".join(f"{kind} {_number(ms, ' ms')}" for kind, ms in passes.items()))
    return result


def _build_methods(workload: Workload, options: Options) -> tuple[dict[str, Method], dict[str, str]]:
    """The methods that can run, and why the others cannot."""
    memory = options.memory * 2**30
    makers = {
        SPLAX: lambda: splax_method(workload, "xla_vjp", options.tile_size, memory),
        PLAIN: lambda: splax_method(workload, "xla", options.tile_size, memory),
        DENSE: lambda: dense_method(workload, memory),
        ORACLE: lambda: oracle_method(workload, options.budget),
    }
    methods, skipped = {}, {}
    for name, make in makers.items():
        if name != SPLAX and name not in options.methods:
            continue
        try:
            methods[name] = make()
        except SkippedError as reason:
            if name == SPLAX:
                raise ValueError(
                    f"splax itself {reason}; raise --memory or ask for smaller rows."
                ) from reason
            skipped[name] = str(reason)
            _say(f"  {name} skipped: {reason}")
    return methods, skipped


def _mask(name: str, comparable: Any, workload: Workload) -> Any:
    """Pixels to compare: the oracle composites whole lists, so it is compared outside its own band only."""
    return ~oracle_band(workload) if name == ORACLE else comparable


def _check(name: str, ours: Method, other: Method, mask: Any, workload: Workload) -> Agreement:
    agreement = compare(ours, other, mask, workload)
    _say(
        f"  {name} agrees with splax within {agreement.image:.1e} over {agreement.share:.1%} of the pixels, "
        f"gradients within {agreement.gradient:.1e} of their length"
    )
    if not agreement.image <= TOLERANCE:
        raise RuntimeError(f"{name} and splax draw different images: they differ by {agreement.image:g}.")
    return agreement


def _profile(row: Row, options: Options) -> dict[str, float]:
    return time_stages(make_workload(row), tile_size=options.tile_size, repeats=options.repeats)


def _train(options: Options) -> dict[str, float]:
    """Steps per second without densification, once everything is compiled."""
    scene = make_demo_scene()
    gaussians = Gaussians.random(10_000, extent=0.5 * scene.radius, center=scene.center, rngs=nnx.Rngs(0))
    model = SplatModel(gaussians, TileRasterizer(options.tile_size))
    config = TrainConfig(steps=options.train_steps, progress=False)
    trainer = Trainer(model, scene, config, strategy=Strategy())
    trainer.fit()
    # The first stretch compiles.
    rates = [progress.steps_per_second for progress in trainer.history[1:]] or [float("nan")]
    return {"steps_per_second": statistics.median(rates), "steps": trainer.step, "load": load()}


def _format_stages(stages: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(stages.values())))
    lines = [["stage, ms", *stages]]
    return _markdown(lines + [[name, *(_number(stages[row][name], "") for row in stages)] for name in names])


def _markdown(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None, unit: str) -> str:
    """Three digits; a dash where there is none."""
    if value is None:
        return "-"
    return (f"{value:,.0f}" if value >= 100 else f"{value:.3g}") + unit


def _plain(options: Options) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, pathlib.Path) else v for name, v in vars(options).items()}


def _write_json(path: pathlib.Path, results: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
    os.replace(partial, path)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except ValueError as error:
        sys.exit(f"benchmark: {error}")
