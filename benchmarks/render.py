"""splax's kernels on an NVIDIA GPU against gsplat's, in one process on the same arrays.

    python benchmarks/render.py --garden test_garden.npz
    python benchmarks/render.py --garden test_garden.npz --rows garden1@1920x1080 --repeats 50 --profile
    python benchmarks/render.py --garden test_garden.npz --rival FOLDER

Prints a table in Markdown: medians in milliseconds, memory above the inputs, the peers' figures over splax's, and
what bytes and operations take at the device's published rates (gpu_floor.py says what is counted). A method that
fails leaves a dash in its cells and says why on stderr. ``--rival`` adds the other JAX project of the name splax,
whose package lies in FOLDER, in a process of its own, and splax timed as that is: without taking turns.
"""

import dataclasses
import functools
import os
import pathlib
import sys
from typing import Any

import jax
import tyro
from garden import ROWS, Row, View, make_view
from gpu_floor import Device
from gpu_methods import METHODS, GpuMethod
from gpu_profile import profile, table
from gpu_table import ALONE, PASSES, Table
from gpu_timing import attempt, differing_pixels, free_memory, time_all
from rival import time_rival


@dataclasses.dataclass(frozen=True)
class Options:
    """Benchmarks splax on a GPU."""

    garden: pathlib.Path
    """test_garden.npz of gsplat's repository."""
    rows: tuple[str, ...] = ROWS
    """SCENE@WIDTHxHEIGHT of each row, xCAMERAS behind it for a batch, cCHANNELS behind that for given colours."""
    repeats: int = 20
    """Measured runs; the median counts."""
    in_a_row: int = 1
    """Calls before the host waits for the device, as in training; the time of one is shown."""
    deterministic: bool = False
    """Whether splax sums in a fixed order."""
    smallest_graph: int | None = None
    """Kernels in a row that XLA launches as one CUDA graph, at least. 1: the host has the least to launch."""
    profile: bool = False
    """After each row, time per kernel of splax's passes."""
    rival: pathlib.Path | None = None
    """A folder that holds the package ``splax`` of the other project of that name."""
    rival_import: str = ""
    """A module that its process imports first."""
    rival_timeout: float = 240.0
    """Seconds that its process may take for a row."""
    device: Device = dataclasses.field(default_factory=Device)
    """The rates that floors are computed from."""


def main(options: Options) -> None:
    """Prints the table."""
    if options.rival:
        # JAX would take three quarters of the memory, for the whole run.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if jax.default_backend() != "gpu":
        sys.exit(f"this benchmark needs an NVIDIA GPU, JAX sees only {jax.devices()}; see benchmarks/cpu.py.")
    repeats = f"{options.repeats} repeats of {options.in_a_row} in a row"
    if options.rival and options.in_a_row > 1:
        sys.exit("benchmark: the rival is timed one call at a time: leave out --rival or --in-a-row.")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {repeats}")
    measure(options)


def measure(options: Options) -> None:
    """Measures and prints all rows."""
    rows = [Row.parse(text) for text in options.rows]
    peers = ("gsplat", "rival") if options.rival else ("gsplat",)
    output = Table(peers, options.device)
    for nth, row in enumerate(rows):
        if nth == 0 or options.profile:
            output.print_header()
        attempt(
            f"{row.scene}, {row.picture}",
            lambda row=row: _measure(row, make_view(row, options.garden), output, options),
        )
        free_memory()


def _measure(row: Row, view: View, output: Table, options: Options) -> None:
    settings = {"splax": _splax_settings(options)}
    makers = {name: functools.partial(make, view, **settings.get(name, {})) for name, make in METHODS.items()}
    made = {name: attempt(name, make) for name, make in makers.items()}
    methods = {name: method for name, method in made.items() if method is not None}
    figures = {
        name: time_all(
            {key: getattr(method, name) for key, method in methods.items()}, options.repeats, options.in_a_row
        )
        for name in PASSES
    }
    if options.rival and "splax" in methods:
        for name in PASSES:
            figures[name] |= time_all({ALONE: getattr(methods["splax"], name)}, options.repeats)
    peaks = {name: attempt(f"peak of {name}", method.peak_mb) for name, method in methods.items()}
    if len(methods) > 1:
        attempt("comparison of images", lambda: _compare(row, methods))
    work = methods["splax"].work if "splax" in methods else ()
    profiles = _profiles(row, methods["splax"]) if options.profile and "splax" in methods else []
    # The rival's process needs the memory.
    methods.clear()
    made.clear()
    free_memory()
    rival = _rival_times(view, options)
    for name in PASSES:
        times = figures[name] | ({} if rival is None else {"rival": rival[name]})
        output.print_pass(row, view, name, times, work)
    output.print_peaks(row, view, peaks, work)
    for text in profiles:
        print("\n" + text, flush=True)
    if profiles:
        print()


def _splax_settings(options: Options) -> dict[str, Any]:
    """What is not as `splax_method` has it by itself."""
    settings = {"deterministic": options.deterministic, "smallest_graph": options.smallest_graph}
    return {name: value for name, value in settings.items() if value}


def _profiles(row: Row, method: GpuMethod) -> list[str]:
    tables = []
    for name, title in PASSES.items():
        stages = attempt(f"profile of {title}", lambda name=name: profile(getattr(method, name)))
        if stages is not None:
            tables.append(table(stages, f"{row.scene}, {row.picture}, {title}"))
    return tables


def _rival_times(view: View, options: Options) -> dict[str, float] | None:
    folder = options.rival
    if folder is None:
        return None
    settings = {"timeout_s": options.rival_timeout, "import_first": options.rival_import}
    return attempt("rival", lambda: time_rival(view, folder, repeats=options.repeats, **settings))


def _compare(row: Row, methods: dict[str, GpuMethod]) -> None:
    apart = differing_pixels(*(method.forward() for method in methods.values()))
    print(
        f"images of {row.scene}, {row.picture}, differ by more than 1e-3 in {100 * apart:.4f} % of the pixels",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
