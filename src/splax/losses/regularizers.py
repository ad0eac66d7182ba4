"""Terms of the loss that depend on the Gaussians alone, and keep their opacities and shapes in bounds."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splax.strategies.base import Params

_USED = ("logit_opacities", "log_scales")


@dataclasses.dataclass(frozen=True)
class Regularizers:
    """Weights of terms that are added to the loss, each a mean over the Gaussians that exist; 0 leaves a term out.

    :class:`splax.MCMCStrategy` has weights of its own for the first two terms.

    Attributes:
        opacity: weight of the opacity (Kheradmand et al. 2024, who take 0.01).
        scale: weight of the scale, per world unit; the mean of the three axes (Kheradmand et al. 2024, who take
            0.01).
        stretch: weight of the amount by which the ratio of the longest to the shortest axis exceeds ``max_ratio``
            (Xie et al. 2024, PhysGaussian; splatfacto takes 0.1). It prevents needles.
        max_ratio: largest ratio of axes that costs nothing, at least 1.

    Raises:
        ValueError: on a weight that is negative or not finite, or a ratio below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import splax
        >>> params = {"logit_opacities": jnp.zeros(2), "log_scales": jnp.log(jnp.array([[1.0] * 3, [20, 1, 1]]))}
        >>> alive = jnp.array([True, True])
        >>> round(float(splax.Regularizers(opacity=0.01)(params, alive)), 4)  # both have an opacity of 0.5
        0.005
        >>> round(float(splax.Regularizers(stretch=0.1)(params, alive)), 3)  # the second: 20 : 1 exceeds 10 : 1
        0.5
        >>> config = splax.TrainConfig(regularizers=splax.Regularizers(opacity=0.01))
    """

    opacity: float = 0.0
    scale: float = 0.0
    stretch: float = 0.0
    max_ratio: float = 10.0

    def __post_init__(self) -> None:
        for name, weight in dataclasses.asdict(self).items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"Regularizers {name} must be 0 or more and finite, got {weight}.")
        if self.max_ratio < 1:
            raise ValueError(f"Regularizers max_ratio must be at least 1, got {self.max_ratio}.")

    def __call__(self, params: Params, alive: Bool[Array, " n"]) -> Float[Array, ""]:
        """The sum of the terms, each times its weight.

        Args:
            params: Params of the Gaussians, by name, one row each.
            alive: rows that exist, [N] bool.
        """
        # A row that cannot be drawn may hold any numbers, and its derivative must not become NaN.
        params = {name: _living(params[name], alive) for name in _USED}
        total = jnp.zeros(())
        if self.opacity:
            total += self.opacity * _mean(jax.nn.sigmoid(params["logit_opacities"]), alive)
        if self.scale:
            total += self.scale * _mean(jnp.exp(params["log_scales"]).mean(axis=1), alive)
        if self.stretch:
            log_ratio = params["log_scales"].max(axis=1) - params["log_scales"].min(axis=1)
            total += self.stretch * _mean(
                jnp.maximum(jnp.exp(log_ratio), self.max_ratio) - self.max_ratio, alive
            )
        return total


def _living(values: Float[Array, "n ..."], alive: Bool[Array, " n"]) -> Float[Array, "n ..."]:
    rows = alive.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(rows & jnp.isfinite(values), values, 0)


def _mean(values: Float[Array, " n"], alive: Bool[Array, " n"]) -> Float[Array, ""]:
    return jnp.where(alive, values, 0).sum() / jnp.maximum(alive.sum(), 1)
