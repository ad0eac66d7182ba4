"""``splax convert``: writes a splat file in another format."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert a splat file to .ply, .compressed.ply, .splat or .spz; .sog can be read too."""

    source: tyro.conf.Positional[Path]
    """File to read, or the folder of an unpacked SOG."""
    out: tyro.conf.Positional[Path]
    """File to write, in the format of its name."""
    spz_version: int = 3
    """Version of .spz to write: 2, 3 or 4; version 4 needs zstandard."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def run(self) -> int:
        """Writes the file in the format of its name."""
        from splax.cli.console import missing_package_is_an_error, say
        from splax.io import formats

        if self.out.exists() and not self.overwrite:
            raise ValueError(f"{self.out} exists already; replace it with --overwrite, or give another name.")
        with missing_package_is_an_error():
            arrays = formats.convert(self.source, self.out, spz_version=self.spz_version)
        kind = "antialiased Gaussians" if arrays.antialiased else "Gaussians"
        size = self.out.stat().st_size / 1e6
        say(f"{arrays.num:,} {kind} of SH degree {arrays.sh_degree} in {self.source}")
        say(f"Wrote {self.out}, {size:.2f} MB")
        return 0
