"""``splax info``: describes a dataset, a run or a splat file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro
from tyro.conf import OmitArgPrefixes

from splax.cli.flat_options import flag, flatten
from splax.cli.options import PhotoOptions


@dataclasses.dataclass(frozen=True)
class Info:
    """Describe a dataset, a run or a splat file."""

    path: tyro.conf.Positional[Path]
    """Folder of a dataset or of a run, or a splat file: .ply, .compressed.ply, .splat, .spz or .sog."""
    downscale: float = 1.0
    """For a dataset: factor by which to make the photos smaller."""
    photos: OmitArgPrefixes[PhotoOptions] = dataclasses.field(default_factory=PhotoOptions)

    def run(self) -> int:
        """Prints the description."""
        from splax.cli.console import missing_package_is_an_error, say
        from splax.cli.describe_run import describe_run
        from splax.cli.describe_splats import describe_splats, is_splat_file
        from splax.cli.run_folder import RunFolder

        if is_splat_file(self.path):
            self._check_unused("a splat file")
            with missing_package_is_an_error():
                say(describe_splats(self.path))
        elif RunFolder.is_run(self.path):
            self._check_unused("a run")
            say(describe_run(self.path))
        else:
            self._describe_dataset()
        return 0

    def _check_unused(self, kind: str) -> None:
        """Raises ValueError if an option was given that says how photos are read."""
        defaults = flatten(Info(self.path))
        for name, value in flatten(self).items():
            if value != defaults[name]:
                raise ValueError(f"{flag(name)} is for datasets, and {self.path} is {kind}; leave it out.")

    def _describe_dataset(self) -> None:
        """Prints the description of the dataset, and which backend would draw its views."""
        import numpy as np

        from splax.cli.console import say
        from splax.cli.describe import describe_scene
        from splax.cli.scenes import load_scene
        from splax.cli.setup import default_tile_size
        from splax.gaussians import Gaussians
        from splax.rasterizer import TileRasterizer

        scene = load_scene(self.path, self.downscale, self.photos)
        say(describe_scene(scene))
        # The backend depends on types and on the view's size; one Gaussian is enough to find it.
        gaussian = Gaussians.from_points(np.zeros((1, 3)))
        camera = next(view.camera for view in (*scene.train, *scene.test))
        rasterizer = TileRasterizer(default_tile_size(), isect_capacity=1)
        say(f"drawn by  {rasterizer.explain(gaussian, camera)}")
