"""What the benchmarks render: Gaussians as a trained scene has them, from a fixed seed.

Trained Gaussians lie on surfaces, about as wide as the distance to their neighbours. So: points uniform on
the surfaces of random spheres that fill the picture, Gaussians as wide as the root mean square distance to
their 3 nearest neighbours, each axis longer or shorter by a log-normal factor, turned at random; opacities
from nearly transparent to nearly opaque; colours of SH degree 3.
"""

import dataclasses
import re
from typing import Any

import numpy as np
from jaxtyping import Float

from splax.cameras import Camera
from splax.gaussians import neighbor_spacing

# numpy arrays, or JAX arrays on their way into a compiled function, by Param name.
Params = dict[str, Any]

NUM_SPHERES = 24
SH_BASES = 16
BACKGROUND = (0.2, 0.3, 0.4)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        num_gaussians: how many.
        width: of the picture, pixels.
        height: of the picture, pixels.
    """

    num_gaussians: int
    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> "Row":
        """Reads ``"50000@540x960"``: Gaussians, width, height.

        Raises:
            ValueError: on any other form.
        """
        match = re.fullmatch(r"(\d+)@(\d+)x(\d+)", text)
        if match is None or "0" in match.groups():
            raise ValueError(f"a row must read like 50000@540x960 (Gaussians@WIDTHxHEIGHT), got {text!r}.")
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return f"{self.num_gaussians:,} at {self.width}x{self.height}"


@dataclasses.dataclass(frozen=True)
class Workload:
    """One scene, as numpy arrays that every method gets.

    Attributes:
        params: stored parameters by Param name, float32.
        camera: the view.
        background: colour behind everything, [3].
        v_image: what the image is multiplied with to give the scalar that is differentiated, [H, W, 3].
    """

    params: Params
    camera: Camera
    background: Float[np.ndarray, "3"]
    v_image: Float[np.ndarray, "h w 3"]


def make_workload(row: Row, seed: int = 0) -> Workload:
    """The scene of a row; the same seed gives the same arrays."""
    rng = np.random.default_rng(seed)
    camera = Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.7, width=row.width, height=row.height)
    means = _points_on_spheres(rng, row.num_gaussians, aspect=row.height / row.width)
    stretch = rng.normal(scale=0.4, size=means.shape)
    params = {
        "means": means,
        "quats": rng.normal(size=(row.num_gaussians, 4)),
        "log_scales": np.log(neighbor_spacing(means))[:, None] + stretch,
        "logit_opacities": rng.normal(scale=1.5, size=row.num_gaussians),
        "sh0": rng.normal(scale=0.8, size=(row.num_gaussians, 1, 3)),
        "shN": rng.normal(scale=0.1, size=(row.num_gaussians, SH_BASES - 1, 3)),
    }
    return Workload(
        params={name: value.astype(np.float32) for name, value in params.items()},
        camera=camera,
        background=np.asarray(BACKGROUND, np.float32),
        v_image=rng.normal(size=(row.height, row.width, 3)).astype(np.float32),
    )


def _points_on_spheres(rng: np.random.Generator, num: int, *, aspect: float) -> Float[np.ndarray, "n 3"]:
    """Points on spheres inside the box that the camera sees, about as dense on each."""
    half = np.array([1.0, 1.0, aspect])
    centers = rng.uniform(-half, half, size=(NUM_SPHERES, 3))
    radii = rng.uniform(0.15, 0.6, size=NUM_SPHERES)
    sphere = rng.choice(NUM_SPHERES, size=num, p=radii**2 / (radii**2).sum())
    directions = rng.normal(size=(num, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return centers[sphere] + radii[sphere, None] * directions
