"""``splax process``: makes a dataset from photos without cameras, or from a video."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from splax.cli.options import unset


@dataclasses.dataclass(frozen=True)
class Process:
    """Estimate the cameras of photos or of a video, and write a dataset to train on; needs pycolmap."""

    source: tyro.conf.Positional[Path]
    """Folder of PNG or JPEG files, or a video."""
    out: Path = dataclasses.field(kw_only=True)
    """Folder to write the dataset to; it appears when the dataset is complete."""
    num_frames: int = 150
    """For a video: number of equal parts, of each of which the sharpest frame is taken."""
    min_registered: float = 0.3
    """Share of the photos whose cameras must be found; fewer are an error."""
    one_camera: Annotated[bool | None, unset("True if all have one size", "{True,False}")] = None
    """Whether all photos were taken by one camera at one zoom."""
    max_size: int = 1600
    """Longer side, in pixels, to which photos are reduced for the search; the dataset keeps their full size."""

    def run(self) -> int:
        """Writes the dataset and says how many cameras were found."""
        from splax.capture.dataset import make_dataset
        from splax.cli.console import missing_package_is_an_error, say

        say("Estimating cameras on the CPU: minutes for tens of photos, hours for hundreds.")
        with missing_package_is_an_error():
            report = make_dataset(
                self.source,
                self.out,
                num_frames=self.num_frames,
                min_registered=self.min_registered,
                one_camera=self.one_camera,
                max_size=self.max_size,
            )
        model = report.model
        say(
            f"Cameras found for {model.num_images} of {report.num_photos} photos; {model.num_points:,} points,"
        )
        say(f"seen {model.error:.2f} pixels off on average.")
        if model.num_models > 1:
            say(
                f"The photos fell into {model.num_models} parts that do not go together; this is the largest."
            )
        say(f"Dataset: {report.out}. Next: splax train {report.out}")
        return 0
