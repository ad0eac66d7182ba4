"""The scene that a command works on: a dataset on disk, or the built-in one."""

from __future__ import annotations

from pathlib import Path

from splax.cli.options import PhotoOptions
from splax.data.formats import load_dataset
from splax.data.synthetic import make_demo_scene
from splax.scene import Scene

# The name of the built-in scene, where others have the path of their dataset.
DEMO = "demo"


def load_scene(data: str | Path, downscale: float, photos: PhotoOptions) -> Scene:
    """Reads a dataset, or makes the built-in scene.

    Args:
        data: path of the dataset, or ``DEMO``.
        downscale: factor by which to make the photos smaller.
        photos: options that say how photos are read.

    Raises:
        ValueError: if the dataset cannot be read.
    """
    if data == DEMO:
        return make_demo_scene()
    return load_dataset(
        data,
        photos.dataset_type,
        downscale=downscale,
        test_every=photos.test_every,
        white_background=photos.white_background,
    )
