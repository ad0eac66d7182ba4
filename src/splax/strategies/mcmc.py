"""3D Gaussian splatting as Markov chain Monte Carlo."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from splax.gaussians import Gaussians
from splax.ops.quaternions import quat_to_rotmat
from splax.strategies import row_plans
from splax.strategies.base import Length, Params, RowPlan, Step, Strategy

# Noise fades where an opacity exceeds 1 - 0.995, over a range of about 1/100 (Kheradmand et al. 2024).
_NOISE_STEEPNESS, _NOISE_CENTER = 100.0, 0.995


@dataclasses.dataclass(frozen=True)
class MCMCStrategy(Strategy):
    """Moves Gaussians to where they are needed, as samples of a distribution that favours good images.

    Kheradmand et al. 2024 (https://arxiv.org/abs/2404.09591), with the constants of gsplat. Every step adds
    noise to the centres, shaped like the Gaussian and fading as it becomes opaque (stochastic gradient Langevin
    dynamics). At a refinement the Gaussians that became transparent are put on top of others, drawn in proportion
    to opacity, and the number of Gaussians grows by a share, up to a limit. Where several Gaussians then lie in
    one place, their opacities and scales are set so that together they render as the one Gaussian did
    (:func:`splax.strategies.row_plans.share_among_copies`). Regularizers on opacities and scales make Gaussians
    that are not needed transparent.

    The authors start from Gaussians of opacity 0.5 and a tenth of the usual scale: :meth:`adapt_start`. Steps
    count from 0; each setting in steps compares with the number of the step just made. Unlike in gsplat, the
    moves and the growth of one refinement are drawn at once, and the optimizer slots of all Gaussians that then
    lie in one place are reset.

    Attributes:
        max_gaussians: number of Gaussians beyond which none is added.
        growth: factor of the number of Gaussians from one refinement to the next, at least 1.
        min_opacity: opacity up to which a Gaussian is moved elsewhere, in (0, 0.5).
        noise: learning rate of the noise, as a multiple of the present learning rate of the means.
        opacity_weight: weight of the mean opacity in the loss.
        scale_weight: weight of the mean scale in the loss, per world unit.
        refine_start: last step without refinement.
        refine_stop: first step without refinement again.
        refine_every: steps from one refinement to the next.

    Raises:
        ValueError: on a setting out of range.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from flax import nnx
        >>> import splax
        >>> strategy = splax.MCMCStrategy(max_gaussians=3, growth=1.5)
        >>> strategy.expected_count(2, steps=700)  # one refinement, after step 600
        3

        The second of two Gaussians is transparent; a refinement moves it onto the first, and adds a third there:

        >>> gaussians = splax.Gaussians.from_points(np.eye(3)[:2]).with_capacity(3)
        >>> gaussians.logit_opacities[...] = gaussians.logit_opacities[...].at[1].set(-9.0)
        >>> params, alive = nnx.to_pure_dict(nnx.state(gaussians, nnx.Param)), gaussians.alive[...]
        >>> row_plan, state = strategy.refine(
        ...     params, alive, strategy.init(3), step=600, extent=1.0, key=jax.random.key(0)
        ... )
        >>> row_plan.source.tolist(), int(row_plan.num_rows)
        ([0, 0, 0], 3)
    """

    max_gaussians: int = 1_000_000
    growth: float = 1.05
    min_opacity: float = 0.005
    noise: float = 5e5
    opacity_weight: float = 0.01
    scale_weight: float = 0.01
    refine_start: int = 500
    refine_stop: int = 25_000
    refine_every: int = 100

    def __post_init__(self) -> None:
        least = {"max_gaussians": 1, "growth": 1, "refine_start": 0, "refine_stop": 0, "refine_every": 1}
        least |= {"noise": 0, "opacity_weight": 0, "scale_weight": 0}
        for name, low in least.items():
            if not low <= getattr(self, name) < math.inf:
                raise ValueError(f"MCMCStrategy {name} must be {low} or more, got {getattr(self, name)}.")
        if not 0 < self.min_opacity < 0.5:
            raise ValueError(f"MCMCStrategy min_opacity must lie in (0, 0.5), got {self.min_opacity}.")

    @property
    def limit(self) -> int | None:
        """``max_gaussians``."""
        return self.max_gaussians

    def limited_to(self, num: int) -> MCMCStrategy:
        """The same strategy with ``max_gaussians`` lowered to ``num``."""
        return dataclasses.replace(self, max_gaussians=min(num, self.max_gaussians))

    def adapt_start(self, gaussians: Gaussians) -> None:
        """Gives new Gaussians, in place, an opacity of 0.5 and a tenth of their scale, as the authors do."""
        gaussians.logit_opacities[...] = jnp.zeros_like(gaussians.logit_opacities[...])
        gaussians.log_scales[...] = gaussians.log_scales[...] - math.log(10)

    def expected_count(self, num: int, steps: int) -> int:
        """The number that refinements lead to, each by the factor ``growth``, up to ``max_gaussians``."""
        for _ in filter(self.refines_after, range(steps)):
            num = max(num, min(self.max_gaussians, round(num * self.growth)))
        return num

    def penalty(self, params: Params, alive: Bool[Array, " n"]) -> Float[Array, ""]:
        """Mean opacity and mean scale of the Gaussians that are alive, times their weights."""
        opacities = jax.nn.sigmoid(_finite(params["logit_opacities"]))
        scales = jnp.exp(_finite(params["log_scales"])).mean(axis=1)
        costs = self.opacity_weight * opacities + self.scale_weight * scales
        return jnp.where(alive, costs, 0).sum() / jnp.maximum(alive.sum(), 1)

    def move(
        self, params: Params, alive: Bool[Array, " n"], rate: Float[Array, ""], key: PRNGKeyArray
    ) -> Params:
        """The Params with noise added to the centres: covariance times normal noise, more if transparent."""
        transparent = 1 - jax.nn.sigmoid(params["logit_opacities"])
        amount = self.noise * rate * jax.nn.sigmoid(_NOISE_STEEPNESS * (transparent - _NOISE_CENTER))
        rotations = quat_to_rotmat(jnp.where(alive[:, None], params["quats"], 1))
        normal = jax.random.normal(key, params["means"].shape, params["means"].dtype)
        along_axes = (rotations * normal[:, :, None]).sum(axis=1) * jnp.exp(2 * params["log_scales"])
        noise = (rotations * along_axes[:, None, :]).sum(axis=2) * amount[:, None]
        return params | {"means": params["means"] + jnp.where(alive[:, None], noise, 0)}

    def refines_after(self, step: int) -> bool:
        """True if transparent Gaussians are moved, and new ones added, after this step."""
        return self.refine_start < step < self.refine_stop and step % self.refine_every == 0

    def refine(
        self,
        params: Params,
        alive: Bool[Array, " n"],
        state: dict[str, Array],
        step: Step,
        extent: Length,
        key: PRNGKeyArray,
    ) -> tuple[RowPlan, dict[str, Array]]:
        """Plans onto which Gaussians the transparent ones are moved, and where new Gaussians are added."""
        del step, extent
        opacities = jax.nn.sigmoid(params["logit_opacities"])
        kept = alive & (opacities > self.min_opacity)  # false where the opacity is NaN
        num = alive.sum()
        target = jnp.minimum(self.max_gaussians, jnp.round(num * self.growth).astype(num.dtype))
        births = jnp.maximum(target - num, 0) + num - kept.sum()
        births = jnp.where(kept.any(), births, 0)  # no Gaussian is left to copy

        row_plan, copies = row_plans.copy_at_random(kept, jnp.where(kept, opacities, 0), births, key)
        logits, log_scales = row_plans.share_among_copies(
            params["logit_opacities"], params["log_scales"], copies
        )
        logits = jnp.maximum(logits, math.log(self.min_opacity / (1 - self.min_opacity)))
        shared = copies > 1
        values = {
            "logit_opacities": jnp.where(shared, logits, params["logit_opacities"]),
            "log_scales": jnp.where(shared[:, None], log_scales, params["log_scales"]),
        }
        values = {name: row_plans.take_rows(value, row_plan.source) for name, value in values.items()}
        fresh = row_plan.fresh | row_plans.take_rows(shared, row_plan.source)
        return row_plan._replace(values=values, fresh=fresh), state


def _finite(values: Array) -> Array:
    """``values`` with 0 where they are not finite, so that a row that is never drawn does not spoil a mean."""
    return jnp.where(jnp.isfinite(values), values, 0)
