"""``splax process``: makes a dataset of photos without cameras, or of a video."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Process:
    """Estimate the cameras of photos or of a video, and write a dataset to train on. Needs pycolmap."""

    source: tyro.conf.Positional[Path]
    """Folder of PNG or JPEG files, or a video."""
    out: Path = dataclasses.field(kw_only=True)
    """Folder to write the dataset to; it appears when all is done."""
    num_frames: int = 150
    """Of a video: take the sharpest frame of as many equal parts."""
    min_registered: float = 0.3
    """Share of the photos whose cameras must be found, for this not to be an error."""
    one_camera: bool | None = None
    """All photos were taken by one camera at one zoom. Default: if they have one size."""
    max_size: int = 1600
    """Longer side, in pixels, at which photos are looked at; those of the dataset are not made smaller."""

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
        say(f"Dataset: {report.out}. Next: splax train {report.out} --out RUN")
        return 0
