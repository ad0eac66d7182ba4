"""``splax train``: trains on posed photos, or resumes a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from splax.cli.options import Training


@dataclasses.dataclass(frozen=True)
class Train(Training):
    """Train a splat on posed photos, or go on with a run that was stopped."""

    data: tyro.conf.Positional[Path | None] = None
    """Folder of a dataset: transforms.json, Blender, COLMAP, LLFF or RGB-D."""
    out: Path | None = None
    """Folder to write the run to."""
    resume: Path | None = None
    """Folder of a run to go on with from its last checkpoint, with the options it began with."""
    overwrite: bool = False
    """Replace the run that the folder holds."""

    def run(self) -> int:
        """Trains and writes a run folder, or resumes a run."""
        from splax.cli import training_run

        if self.resume is not None:
            return training_run.resume(self.resume, self, data=self.data, out=self.out)
        if self.data is None or self.out is None:
            raise ValueError("splax train needs DATA and --out FOLDER, or --resume FOLDER alone; see --help.")
        return training_run.train(self.data, self.out, self, overwrite=self.overwrite)
