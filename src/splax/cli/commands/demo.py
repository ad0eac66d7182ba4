"""``splax demo``: trains on a small built-in scene."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes

from splax.cli.flat_options import flatten, unflatten
from splax.cli.options import Running, Training, unset


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train on a small built-in scene, without any data; the first splat takes a minute or two."""

    out: Path = Path("runs/demo")
    """Folder to write the run to; an earlier demo in it is replaced."""
    steps: int = 1500
    """Length of the run."""
    num_gaussians: Annotated[int | None, unset("10,000, at most --max-gaussians", "INT")] = None
    """Number of random Gaussians at the start."""
    max_gaussians: Annotated[int | None, unset("no limit", "INT")] = None
    """Number of Gaussians above which none are added."""
    sh_degree: int = 3
    """Degree of the spherical harmonics of colour, from 0 (the same from every side) to 3."""
    seed: int = 0
    """Seed of the initial Gaussians, the order of views and densification."""
    tile_size: Annotated[int | None, unset("8 on a CPU, 16 elsewhere", "INT")] = None
    """Pixels per tile side; it does not change the image."""
    running: Annotated[Running, OmitArgPrefixes, tyro.conf.arg(name="checkpoint")] = dataclasses.field(
        default_factory=Running
    )

    def run(self) -> int:
        """Ray traces the scene, trains on its images and writes a run folder."""
        from splax.cli import training_run

        return training_run.demo(self.out, self.settings())

    def settings(self) -> Training:
        """The same settings as ``splax train`` has them: the guard is off, the others are at their defaults."""
        return unflatten(Training, flatten(self) | {"guard": "off"})
