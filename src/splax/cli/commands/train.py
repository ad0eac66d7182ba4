"""``splax train``: trains on posed photos, or resumes a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from splax.cli.options import Training, unset


@dataclasses.dataclass(frozen=True)
class Places:
    """Folders that training reads and writes; the help shows them first."""

    data: Annotated[Path | None, tyro.conf.Positional, unset("that of the run to resume", "DATA")] = None
    """Folder of a dataset: transforms.json, Blender, COLMAP, LLFF or RGB-D."""
    out: Annotated[Path | None, unset("runs/ and the name of the dataset", "PATH")] = None
    """Folder to write the run to; where the default holds a finished run, -2, -3 and so on is added to it."""
    resume: Annotated[Path | None, unset("begin a new run", "PATH")] = None
    """Folder of a run to resume from its last checkpoint, with the options that it began with."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


@dataclasses.dataclass(frozen=True)
class Train(Training, Places):
    """Train a splat on posed photos, or resume a run that was stopped."""

    def run(self) -> int:
        """Trains and writes a run folder, or resumes a run."""
        from splax.cli import training_run

        if self.resume is not None:
            return training_run.resume(self.resume, self, data=self.data, out=self.out)
        if self.data is None:
            raise ValueError("splax train needs DATA, or --resume FOLDER alone; see splax train --help.")
        return training_run.train(self.data, self.out, self, overwrite=self.overwrite)
