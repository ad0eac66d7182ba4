"""``splax info``: says what a dataset holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro
from tyro.conf import OmitArgPrefixes

from splax.cli.options import Photos


@dataclasses.dataclass(frozen=True)
class Info:
    """Say what a dataset holds."""

    data: tyro.conf.Positional[Path]
    """Folder of a dataset: transforms.json, Blender, COLMAP, LLFF or RGB-D."""
    downscale: float = 1.0
    """Factor by which to make the photos smaller."""
    photos: OmitArgPrefixes[Photos] = dataclasses.field(default_factory=Photos)

    def run(self) -> int:
        """Prints what the dataset holds, and which backend would draw its views."""
        import numpy as np

        from splax.cli.console import say
        from splax.cli.describe import describe_scene
        from splax.cli.scenes import load_scene
        from splax.cli.setup import default_tile_size
        from splax.gaussians import Gaussians
        from splax.rasterizer import TileRasterizer

        scene = load_scene(self.data, self.downscale, self.photos)
        say(describe_scene(scene))
        # One Gaussian stands for those of a start: types and the view's size count.
        gaussian = Gaussians.from_points(np.zeros((1, 3)))
        camera = next(view.camera for view in (*scene.train, *scene.test))
        rasterizer = TileRasterizer(default_tile_size(), isect_capacity=1)
        say(f"drawn by  {rasterizer.explain(gaussian, camera)}")
        return 0
