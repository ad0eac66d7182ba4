"""Memory and time of a dataset that does not fit: headers, decoding, and photos on their way to the device.

    python benchmarks/many_photos.py --num-photos 300

Writes large JPEG files, with detail at every scale as photos have, to a temporary folder; shows each once to a
Trainer's loader, at full size; and prints the peak of the process's memory.
"""

import dataclasses
import json
import resource
import tempfile
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import tyro

from splax.data.formats import load_dataset
from splax.training.photos.loader import PhotoLoader


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    num_photos: int = 300
    """How many."""
    width: int = 4000
    """Of a photo, in pixels."""
    height: int = 3000
    """Likewise."""
    cache_bytes: int = 1 << 28
    """Decoded photos that are kept."""
    photo_bytes: int = 1 << 29
    """Of the device's memory."""


def main(options: Options) -> dict[str, float]:
    """Prints what was measured, and returns it: seconds, and peaks of memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        file_bytes = write_photos(Path(folder), options)
        results = {"before_mb": peak_mb()}
        started = time.perf_counter()
        scene = load_dataset(folder, test_every=0, cache_bytes=options.cache_bytes)
        results["open_seconds"] = time.perf_counter() - started
        loader = PhotoLoader(scene.train, seed=0, limit=options.photo_bytes)
        loader.plan(options.num_photos)
        started, step = time.perf_counter(), 0
        while step < options.num_photos:
            photos, rows = loader.take(step, options.num_photos)
            jax.block_until_ready(photos)
            step += len(rows)
        results["decode_seconds"] = time.perf_counter() - started
        results["peak_mb"] = peak_mb()
    decoded = options.num_photos * options.width * options.height * 3 / 1e6
    print(
        f"{options.num_photos} photos of {options.width} x {options.height}: {file_bytes / 1e6:.0f} MB of files, "
    )
    print(
        f"  {decoded:.0f} MB decoded; limits {options.cache_bytes >> 20} and {options.photo_bytes >> 20} MiB"
    )
    print(f"  opened in {results['open_seconds']:.2f} s")
    print(
        f"  decoded and sent in {results['decode_seconds']:.1f} s, "
        f"{options.num_photos / results['decode_seconds']:.1f} a second"
    )
    print(f"  peak memory {results['peak_mb']:.0f} MB, of which {results['before_mb']:.0f} MB before")
    return results


def peak_mb() -> float:
    """The most memory that the process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def write_photos(folder: Path, options: Options) -> int:
    """Writes a dataset with a transforms.json; returns the size of its photos in bytes."""
    rng = np.random.default_rng(0)
    image = np.zeros((options.height, options.width, 3), np.float32)
    for octave in range(1, 10):
        coarse = rng.normal(size=(3 << octave, 4 << octave, 3)).astype(np.float32)
        image += cv2.resize(coarse, (options.width, options.height)) * 80 / octave**2
    image += rng.normal(scale=6, size=image.shape).astype(np.float32)
    image = (image + 128).clip(0, 255).astype(np.uint8)
    (folder / "images").mkdir()
    frames, total = [], 0
    for index in range(options.num_photos):
        moved = np.roll(image, 37 * index, axis=1)
        data = cv2.imencode(".jpg", moved, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        (folder / "images" / f"{index:04d}.jpg").write_bytes(data)
        total += len(data)
        pose = np.eye(4)
        pose[0, 3] = index
        frames.append({"file_path": f"images/{index:04d}.jpg", "transform_matrix": pose.tolist()})
    meta = {"w": options.width, "h": options.height, "fl_x": float(options.width), "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(meta))
    return total


if __name__ == "__main__":
    main(tyro.cli(Options))
