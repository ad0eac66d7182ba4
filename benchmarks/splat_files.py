"""Time to write and read a large .ply, against copying the same file.

    python benchmarks/splat_files.py --num 5000000

Files lie in a temporary folder (``TMPDIR`` says on which disk) and are in the page cache. Per repeat the file is
copied, written and read in turn; the fastest of each counts. Reading all bytes at once is told as well.
"""

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tyro
from flax import nnx
from measure import load

import splax
from splax.gaussians import Gaussians


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    num: int = 5_000_000
    """Gaussians."""
    sh_degrees: tuple[int, ...] = (0, 3)
    """One file for each. Degree 3 takes 1.24 GB on disk for 5 million, and four times that in memory."""
    repeats: int = 3
    """The fastest of as many runs counts."""


def main(options: Options) -> dict[int, dict[str, float]]:
    """Prints seconds and speeds; returns seconds by SH degree and what was done."""
    results = {degree: measure(options.num, degree, options.repeats) for degree in options.sh_degrees}
    print(
        "| SH degree | file, MB | copy, s | read all bytes, s | save, s | load, s | save / copy | load / copy |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for degree, s in results.items():
        times = " | ".join(f"{s[name]:.2f}" for name in ("copy", "bytes", "save", "load"))
        ratios = " | ".join(f"{s['copy'] / s[name]:.2f}x" for name in ("save", "load"))
        print(f"| {degree} | {s['size'] / 1e6:,.0f} | {times} | {ratios} |")
    print(f"Load of the machine: {load():.1f}.")
    return results


def measure(num: int, sh_degree: int, repeats: int) -> dict[str, float]:
    """Seconds of the fastest runs, and the file's size in bytes."""
    gaussians = make_gaussians(num, sh_degree)
    with tempfile.TemporaryDirectory() as folder:
        path, copy, saved = (Path(folder) / name for name in ("a.ply", "b.ply", "c.ply"))
        splax.save_ply(path, gaussians)
        calls: dict[str, Callable[[], object]] = {
            "copy": lambda: shutil.copyfile(path, copy),
            "bytes": path.read_bytes,
            "save": lambda: splax.save_ply(saved, gaussians),
            "load": lambda: jax.block_until_ready(nnx.state(splax.load_ply(path))),
        }
        times: dict[str, float] = dict.fromkeys(calls, float("inf"))
        for _ in range(repeats):
            for name, call in calls.items():
                copy.unlink(missing_ok=True)  # all make new files
                saved.unlink(missing_ok=True)
                times[name] = min(times[name], seconds(call))
        return times | {"size": float(os.path.getsize(path))}


def make_gaussians(num: int, sh_degree: int) -> Gaussians:
    """Random ones."""
    rng = np.random.default_rng(0)
    shapes = {"means": (3,), "quats": (4,), "log_scales": (3,), "logit_opacities": (), "sh0": (1, 3)}
    shapes |= {"shN": ((sh_degree + 1) ** 2 - 1, 3)}
    return Gaussians(
        **{name: jax.numpy.asarray(rng.random((num, *s), np.float32)) for name, s in shapes.items()}
    )


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes by the clock."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main(tyro.cli(Options))
