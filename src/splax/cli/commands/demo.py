"""``splax demo``: trains on a small built-in scene."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from splax.cli.options import Running, Training


@dataclasses.dataclass(frozen=True)
class Demo(Running):
    """Train on a small built-in scene: a minute or two to a first splat, without any data."""

    out: Path = Path("runs/demo")
    """Folder to write the run to; an earlier demo in it is replaced."""
    steps: int = 1500
    """Length of the run."""
    num_gaussians: int | None = None
    """Random Gaussians to begin with. Default: 10,000, but no more than --max-gaussians."""
    max_gaussians: int | None = None
    """Densify to at most this many."""
    sh_degree: int = 3
    """Degree of view-dependent colour, 0 to 3."""
    seed: int = 0
    """Of the initial Gaussians, the order of views and densification."""
    tile_size: int | None = None
    """Pixels per tile side; does not change the image. Default: 8 on a CPU, 16 elsewhere."""

    def run(self) -> int:
        """Ray traces the scene, trains on its pictures and writes a run folder."""
        from splax.cli import training_run

        return training_run.demo(self.out, self.settings())

    def settings(self) -> Training:
        """The same settings as ``splax train`` has them: the guard is off, the rest as its defaults."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "out"}
        return Training(guard="off", **given)
