"""splax's kernels on an NVIDIA GPU against gsplat's, in one process on the same arrays.

    python benchmarks/render.py --garden test_garden.npz
    python benchmarks/render.py --garden test_garden.npz --rows garden1@1920x1080 --repeats 50

Prints a table in Markdown: medians in milliseconds, memory above the inputs, and gsplat's figure over splax's.
"""

import dataclasses
import gc
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np
import tyro
from garden import Row, View, make_view
from gpu_methods import GpuMethod, gsplat_method, splax_method
from measure import median_ms, time_interleaved

ROWS = (
    "garden1@648x420",
    "garden1@1920x1080",
    "garden1@3840x2160",
    "garden5@1920x1080",
    "garden5@3840x2160",
    "dense@960x544",
    "garden1@1920x1080x3",
    "garden9@1920x1080",
    "garden11@1920x1080",
)
METHODS: dict[str, Callable[[View], GpuMethod]] = {"splax": splax_method, "gsplat": gsplat_method}
HEADER = ("scene", "picture", "Gaussians", "pass", "splax, ms", "gsplat, ms", "gsplat / splax")


@dataclasses.dataclass(frozen=True)
class Options:
    """Benchmarks splax on a GPU."""

    garden: pathlib.Path
    """test_garden.npz of gsplat's repository."""
    rows: tuple[str, ...] = ROWS
    """SCENE@WIDTHxHEIGHT of each row, xCAMERAS behind it for a batch."""
    repeats: int = 20
    """Measured runs; the median counts."""


def main(options: Options) -> None:
    """Prints the table."""
    if jax.default_backend() != "gpu":
        sys.exit(f"this benchmark needs an NVIDIA GPU, JAX sees only {jax.devices()}; see benchmarks/cpu.py.")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {options.repeats} repeats")
    _print_row(HEADER)
    _print_row(("---",) * len(HEADER))
    for row in map(Row.parse, options.rows):
        _measure(row, make_view(row, options.garden), options.repeats)
        gc.collect()


def _measure(row: Row, view: View, repeats: int) -> None:
    methods = _available(view)
    for name in ("forward", "backward"):
        calls = {method: getattr(made, name) for method, made in methods.items()}
        times = {key: median_ms(value) for key, value in time_interleaved(calls, repeats=repeats).items()}
        _print_figures(row, view, {"forward": "forward", "backward": "forward+backward"}[name], times)
    _print_figures(row, view, "peak, MB", {name: method.peak_mb() for name, method in methods.items()})
    if len(methods) > 1:
        images = [np.asarray(_to_numpy(method.forward())) for method in methods.values()]
        apart = (np.abs(images[0] - images[1]).max(axis=-1) > 1e-3).mean()
        print(
            f"images of {row.scene} differ by more than 1e-3 in {100 * apart:.4f} % of the pixels",
            file=sys.stderr,
        )


def _available(view: View) -> dict[str, GpuMethod]:
    methods = {}
    for name, make in METHODS.items():
        try:
            methods[name] = make(view)
        except ImportError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return methods


def _print_figures(row: Row, view: View, what: str, figures: dict[str, float]) -> None:
    splax, gsplat = figures["splax"], figures.get("gsplat")
    peer = ("-", "-") if gsplat is None else (f"{gsplat:.2f}", f"{gsplat / splax:.2f}x")
    picture = f"{row.width}x{row.height}" + (f", {row.num_cameras} cameras" if row.num_cameras > 1 else "")
    _print_row((row.scene, picture, f"{len(view.means):,}", what, f"{splax:.2f}", *peer))


def _print_row(cells: tuple[str, ...]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def _to_numpy(images) -> np.ndarray:
    return images.cpu().numpy() if hasattr(images, "cpu") else np.asarray(images)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
