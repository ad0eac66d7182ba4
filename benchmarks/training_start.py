"""What trainings that are compared start from, as numpy arrays that every method gets."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from splax.gaussians import Gaussians, neighbor_spacing
from splax.ops.spherical_harmonics import SH_C0
from splax.scene import Scene

SH_BASES = 16
INITIAL_OPACITY = 0.1
# Side of the cube of random points, in median distances of the cameras from what they look at.
_CUBE_SIDE = 3.0
# Kheradmand et al. 2024 start MCMC from narrower and more opaque Gaussians.
_MCMC_OPACITY, _MCMC_WIDTH = 0.5, 0.1


@dataclasses.dataclass(frozen=True)
class Start:
    """Gaussians before the first step; scales and opacities are activated, rotations wxyz."""

    means: Float[np.ndarray, "n 3"]
    quats: Float[np.ndarray, "n 4"]
    scales: Float[np.ndarray, "n 3"]
    opacities: Float[np.ndarray, " n"]
    sh: Float[np.ndarray, "n 16 3"]

    @classmethod
    def of(cls, gaussians: Gaussians) -> "Start":
        """The same Gaussians, of SH degree 3, as arrays."""
        gaussians = gaussians.compact()
        sh = np.concatenate([gaussians.sh0[...], gaussians.shN[...]], axis=1)
        stored = (gaussians.means, gaussians.quats)
        activated = (gaussians.scales, gaussians.opacities)
        return cls(*(np.asarray(x[...]) for x in stored), *(np.asarray(x) for x in activated), sh=sh)

    @property
    def sh_degree(self) -> int:
        """Highest degree of colour with a coefficient that is not zero."""
        used = np.flatnonzero((self.sh != 0).any(axis=(0, 2)))
        return int(used[-1] ** 0.5) if used.size else 0

    @property
    def logit_opacities(self) -> Float[np.ndarray, " n"]:
        """As they are stored."""
        opacities = self.opacities.astype(np.float64)
        return np.log(opacities / (1 - opacities)).astype(np.float32)

    def gaussians(self) -> Gaussians:
        """The same for splax."""
        arrays = {
            "means": self.means,
            "quats": self.quats,
            "log_scales": np.log(self.scales),
            "logit_opacities": self.logit_opacities,
            "sh0": self.sh[:, :1],
            "shN": self.sh[:, 1:],
        }
        return Gaussians(**jax.device_put(arrays))

    def prepared_for(self, strategy: str) -> "Start":
        """The same Gaussians as the authors of a strategy start it."""
        if strategy != "mcmc":
            return self
        opacities = np.full_like(self.opacities, _MCMC_OPACITY)
        return dataclasses.replace(self, scales=_MCMC_WIDTH * self.scales, opacities=opacities)


def random_start(scene: Scene, num: int, seed: int = 0) -> Start:
    """Points of random colour, uniform in a cube round what the cameras look at; needs scipy."""
    rng = np.random.default_rng(seed)
    half = 0.5 * _CUBE_SIDE * scene.radius
    means = (scene.center + rng.uniform(-half, half, (num, 3))).astype(np.float32)
    return _on_points(means, rng.random((num, 3)), neighbor_spacing(means), rng)


def auto_start(scene: Scene, seed: int = 0) -> Start:
    """What ``splax train`` starts from by default; needs OpenCV and scipy."""
    from splax.training.start import choose_start

    return Start.of(choose_start(scene, seed=seed).gaussians)


def _on_points(means, colors, spacing, rng) -> Start:
    """Round Gaussians as wide as the points are apart, turned at random as gsplat's examples have it."""
    num = len(means)
    sh = np.zeros((num, SH_BASES, 3), np.float32)
    sh[:, 0] = (colors - 0.5) / SH_C0
    return Start(
        means=means,
        quats=rng.standard_normal((num, 4), dtype=np.float32),
        scales=np.repeat(spacing.astype(np.float32)[:, None], 3, axis=1),
        opacities=np.full(num, INITIAL_OPACITY, np.float32),
        sh=sh,
    )
