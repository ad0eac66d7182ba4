"""Time to load datasets, against plain Python with PIL, and against pycolmap's reader of COLMAP models.

    python benchmarks/loading.py --data DATA

DATA holds fox/ and king/. All is measured in one run, warm: files are in the page cache. Seconds of the process on
all cores are given beside those of the clock: a machine that does other things spoils the latter. splax also makes
views of what it reads, with cameras; it undistorts the photos of fox, which the others do not.
"""

import dataclasses
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from many_photos import Options as PhotoOptions
from many_photos import write_photos
from PIL import Image

from splax.data.colmap_model import read_cameras, read_images, read_points
from splax.data.formats import load_dataset


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    data: Path
    """Folder that holds fox/ and king/."""
    num_photos: int = 1000
    """Of the set that is made for this."""
    repeats: int = 3
    """The fastest of as many runs counts."""


class Seconds(NamedTuple):
    """How long something took.

    Attributes:
        clock: seconds that went by.
        process: seconds that the process computed, on all cores.
    """

    clock: float
    process: float


def main(options: Options) -> dict[str, dict[str, Seconds]]:
    """Prints seconds of the clock and of the process, and returns them by dataset and method."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), PhotoOptions(options.num_photos, width=640, height=480))
        sets = {"fox": options.data / "fox", "king": options.data / "king", "made": Path(folder)}
        results = {name: load_times(path, options.repeats) for name, path in sets.items()}
    results["king's model"] = model_times(options.data / "king" / "sparse" / "0", options.repeats)
    print("| dataset | method | clock | process |")
    print("|---|---|---|---|")
    for name, times in results.items():
        for method, seconds in times.items():
            print(f"| {name} | {method} | {seconds.clock:.3f} s | {seconds.process:.3f} s |")
    return results


def load_times(folder: Path, repeats: int) -> dict[str, Seconds]:
    """Seconds to load a dataset with its photos; with headers alone; and of plain Python with PIL."""
    return {
        "splax": fastest(lambda: load_dataset(folder), repeats),
        "splax, headers only": fastest(lambda: load_dataset(folder, cache_bytes=0), repeats),
        "plain Python, PIL": fastest(lambda: load_plainly(folder), repeats),
    }


def load_plainly(folder: Path) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Photos and poses as a script would read them, without any check."""
    path = folder / "transforms.json"
    frames = json.loads(path.read_text())["frames"] if path.is_file() else []
    poses = {Path(frame["file_path"]).name: np.array(frame["transform_matrix"]) for frame in frames}
    return [
        (np.asarray(Image.open(image).convert("RGB")), poses.get(image.name))
        for image in sorted((folder / "images").iterdir())
    ]


def model_times(model: Path, repeats: int) -> dict[str, Seconds]:
    """Seconds to read a COLMAP model."""
    import pycolmap

    return {
        "splax": fastest(lambda: (read_cameras(model), read_images(model), read_points(model)), repeats),
        "pycolmap": fastest(lambda: pycolmap.Reconstruction(model), repeats),
    }


def fastest(work: Callable[[], object], repeats: int) -> Seconds:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(repeats):
        clock, process = time.perf_counter(), time.process_time()
        work()
        times.append(Seconds(time.perf_counter() - clock, time.process_time() - process))
    return min(times)


if __name__ == "__main__":
    main(tyro.cli(Options))
