"""Scenes for a GPU: the garden crop that gsplat's own benchmarks use, repeated on a grid, and a dense cloud.

The file is ``test_garden.npz`` of gsplat's repository (assets/test_garden.npz), which is not part of this project.
"""

import dataclasses
import pathlib
import re

import numpy as np
from jaxtyping import Float

from splax.ops.spherical_harmonics import SH_C0

SH_BASES = 16
ROWS = (
    "garden1@648x420",
    "garden1@1920x1080",
    "garden1@3840x2160",
    "garden5@1920x1080",
    "garden5@3840x2160",
    "dense@960x544",
    "garden1@1920x1080x3",
    "garden1@1920x1080c32",
    "garden9@1920x1080",
    "garden11@1920x1080",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        scene: "garden1", "garden5", ... (a grid of that many crops a side) or "dense".
        width: of the picture, pixels.
        height: of the picture, pixels.
        num_cameras: views rendered at once.
        num_channels: of colours that are given instead of spherical harmonics; None without.
    """

    scene: str
    width: int
    height: int
    num_cameras: int = 1
    num_channels: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Row":
        """Reads ``"garden5@1920x1080"``: scene, width, height.

        ``"x3"`` behind it asks for three cameras, and ``"c32"`` behind that for colours of 32 channels.

        Raises:
            ValueError: on any other form.
        """
        match = re.fullmatch(r"(garden\d+|dense)@(\d+)x(\d+)(?:x([123]))?(?:c([1-9]\d*))?", text)
        if match is None:
            raise ValueError(
                "a row must read like garden5@1920x1080, garden1@1920x1080x3 or garden1@1920x1080c32, "
                f"got {text!r}."
            )
        scene, width, height, cameras, channels = match.groups()
        return cls(scene, int(width), int(height), int(cameras or 1), int(channels) if channels else None)

    @property
    def picture(self) -> str:
        """Its size, and what is unusual about it."""
        text = f"{self.width}x{self.height}" + (
            f", {self.num_cameras} cameras" if self.num_cameras > 1 else ""
        )
        return text + (f", {self.num_channels} channels" if self.num_channels else "")


@dataclasses.dataclass(frozen=True)
class View:
    """Gaussians and cameras as numpy arrays that every method gets; activated scales and opacities.

    ``colors``, where there are any, are drawn instead of ``sh``.
    """

    means: Float[np.ndarray, "n 3"]
    quats: Float[np.ndarray, "n 4"]
    scales: Float[np.ndarray, "n 3"]
    opacities: Float[np.ndarray, " n"]
    sh: Float[np.ndarray, "n 16 3"]
    viewmats: Float[np.ndarray, "c 4 4"]
    Ks: Float[np.ndarray, "c 3 3"]
    width: int
    height: int
    colors: Float[np.ndarray, "n c"] | None = None

    @property
    def num_channels(self) -> int:
        """Of an image."""
        return self.sh.shape[2] if self.colors is None else self.colors.shape[1]


def make_view(row: Row, garden: pathlib.Path) -> View:
    """Builds a scene, the same for the same row."""
    rng = np.random.default_rng(42)
    with np.load(garden) as data:
        means, colors = data["means3d"].astype(np.float32), data["colors"].astype(np.float32) / 255
        viewmats, Ks = data["viewmats"].astype(np.float32), data["Ks"].astype(np.float32)
        Ks[:, 0] *= row.width / int(data["width"])
        Ks[:, 1] *= row.height / int(data["height"])
    if row.scene == "dense":
        chosen = rng.choice(np.flatnonzero(np.abs(means).max(axis=1) < 4), 300_000)
        means = means[chosen] + 0.02 * rng.standard_normal((len(chosen), 3), dtype=np.float32)
        colors, scales = colors[chosen], 0.006 * rng.uniform(0.5, 2, (len(chosen), 3)).astype(np.float32)
    else:
        inside = (np.abs(means) <= 2).all(axis=1)
        means, colors = _repeat(means[inside], colors[inside], int(row.scene.removeprefix("garden")))
        # gsplat's profiling draws sizes, turns and opacities like this.
        scales = 0.02 * rng.random((len(means), 3), dtype=np.float32)
    quats = rng.standard_normal((len(means), 4), dtype=np.float32)
    sh = 0.1 * rng.standard_normal((len(means), SH_BASES, 3), dtype=np.float32)
    sh[:, 0] = (colors - 0.5) / SH_C0
    return View(
        means=means,
        quats=quats / np.linalg.norm(quats, axis=1, keepdims=True),
        scales=np.maximum(scales, 1e-12),
        opacities=np.clip(rng.random(len(means), dtype=np.float32), 1e-6, 1 - 1e-6),
        sh=sh,
        viewmats=viewmats[: row.num_cameras],
        Ks=Ks[: row.num_cameras],
        width=row.width,
        height=row.height,
        colors=_make_colors(len(means), row.num_channels),
    )


def _make_colors(num, num_channels):
    if num_channels is None:
        return None
    return np.random.default_rng(43).random((num, num_channels), dtype=np.float32)


def _repeat(means, colors, grid):
    """Copies of a crop of side 4 on a grid in x and y."""
    shifts = 4.0 * (np.arange(grid) - grid // 2)
    offsets = np.stack([*np.meshgrid(shifts, shifts, [0.0], indexing="ij")], axis=-1).reshape(-1, 1, 3)
    return (means + offsets).reshape(-1, 3).astype(np.float32), np.tile(colors, (grid**2, 1))
