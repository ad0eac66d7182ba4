"""Adaptive density control of the original 3D Gaussian splatting."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from splax.strategies import row_plans
from splax.strategies.base import Length, Params, RowPlan, Step, StepObservation, Strategy

State = dict[str, Float[Array, " n"]]


@dataclasses.dataclass(frozen=True)
class DefaultStrategy(Strategy):
    """Clones and splits Gaussians where the image pulls at them, and prunes Gaussians that add nothing.

    Kerbl et al. 2023, section 5 (https://arxiv.org/abs/2308.04079), with the constants and the order of work
    of gsplat (https://arxiv.org/abs/2409.06765). A Gaussian grows if its screen-space gradient, averaged over the
    steps that saw it, is high: a small Gaussian is cloned, a large one is replaced by two smaller ones drawn from
    it. Then transparent Gaussians are removed, and Gaussians that are too large, if a size is set for that. At
    regular intervals all opacities are lowered, so that floaters near the cameras must earn their opacity back.

    Steps count from 0; each setting in steps compares with the number of the step just made.

    Attributes:
        grow_grad2d: mean gradient norm from which a Gaussian grows, loss per half image (pixel gradients
            times half the image's width and height).
        grow_scale3d: largest scale of a Gaussian that is cloned when it grows; a larger Gaussian is split. Share
            of the extent, which is the distance that is photographed.
        prune_opacity: opacity below which a Gaussian is removed, in (0, 0.5).
        prune_scale3d: largest scale above which a Gaussian is removed, share of the extent; counts after step
            ``reset_every``. None removes no Gaussian for its size. Kerbl et al. and gsplat take 0.1, which removes
            the Gaussians that show walls and skies; those that replace them fit the training views alone
            (docs/quality.md).
        refine_start: last step without refinement.
        refine_stop: first step without refinement again, and without reset.
        refine_every: steps from one refinement to the next.
        reset_every: steps from one reset of the opacities to the next; a reset lowers them to at most
            ``2 * prune_opacity``.
        reset_stop: first step without reset, if that comes before ``refine_stop``; None for ``refine_stop``. A run
            that ends soon after a reset ends before opacities have recovered.
        grow_scale2d: radius on the image above which a Gaussian is split whatever its gradient, share of the
            image's longer side; counts before step ``refine_scale2d_stop`` only.
        prune_scale2d: radius on the image above which a Gaussian is removed, share of the image's longer side;
            counts after step ``reset_every`` and before step ``refine_scale2d_stop``.
        refine_scale2d_stop: first step at which sizes on the image do not count; at 0 they never count.
        revised_opacity: whether to make the two parts of a clone or a split together as opaque as the Gaussian was
            (Rota Bulò et al. 2024, https://arxiv.org/abs/2404.06109); else each part is as opaque as the Gaussian.
        max_gaussians: number of Gaussians beyond which none is added; the Gaussians of highest gradient grow
            first. None for no limit.
        absgrad: whether to use gradients in absolute values (Ye et al. 2024, AbsGS,
            https://arxiv.org/abs/2404.10484). They are larger, so ``grow_grad2d`` should be larger too: 8e-4 in
            gsplat.

    Raises:
        ValueError: on a setting out of range.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from flax import nnx
        >>> import splax
        >>> strategy = splax.DefaultStrategy(refine_start=500, refine_every=100)
        >>> [step for step in range(1000) if strategy.refines_after(step)]
        [600, 700, 800, 900]

        The image pulls at the first of two Gaussians, so a refinement clones it into the free row:

        >>> gaussians = splax.Gaussians.from_points(np.eye(3)[:2]).with_capacity(3)
        >>> grad2d = jnp.array([[1e-3, 0.0], [0.0, 0.0], [0.0, 0.0]])
        >>> observation = splax.StepObservation(grad2d, jnp.ones((3, 2)), width=100, height=100)
        >>> state = strategy.update(strategy.init(3), observation)
        >>> params = nnx.to_pure_dict(nnx.state(gaussians, nnx.Param))
        >>> row_plan, state = strategy.refine(
        ...     params, gaussians.alive[...], state, step=600, extent=1000.0, key=jax.random.key(0)
        ... )
        >>> row_plan.source.tolist(), int(row_plan.num_rows)
        ([0, 1, 0], 3)
    """

    grow_grad2d: float = 2e-4
    grow_scale3d: float = 0.01
    prune_opacity: float = 0.005
    prune_scale3d: float | None = None
    grow_scale2d: float = 0.05
    prune_scale2d: float = 0.15
    refine_scale2d_stop: int = 0
    refine_start: int = 500
    refine_stop: int = 15_000
    refine_every: int = 100
    reset_every: int = 3_000
    reset_stop: int | None = None
    revised_opacity: bool = False
    max_gaussians: int | None = None
    absgrad: bool = False

    def __post_init__(self) -> None:
        for name in ("grow_grad2d", "grow_scale3d", "prune_scale3d", "grow_scale2d", "prune_scale2d"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"DefaultStrategy {name} must be above 0, got {value}.")
        if not 0 < self.prune_opacity < 0.5:
            raise ValueError(f"DefaultStrategy prune_opacity must lie in (0, 0.5), got {self.prune_opacity}.")
        least = {"refine_start": 0, "refine_stop": 0, "refine_every": 1, "reset_every": 1, "max_gaussians": 1}
        least |= {"refine_scale2d_stop": 0, "reset_stop": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"DefaultStrategy {name} must be {low} or more, got {value}.")

    @property
    def limit(self) -> int | None:
        """``max_gaussians``."""
        return self.max_gaussians

    def limited_to(self, num: int) -> DefaultStrategy:
        """The same strategy with ``max_gaussians`` lowered to ``num``."""
        return dataclasses.replace(self, max_gaussians=min(num, self.max_gaussians or num))

    def init(self, capacity: int) -> State:
        """Zeros for each row, [capacity]: the sum of its gradient norms, and the number of steps that saw it.

        If ``refine_scale2d_stop`` is above 0, sizes on the image count, and the largest radius is remembered too.
        """
        names = ("grad2d", "count", "radius") if self.refine_scale2d_stop else ("grad2d", "count")
        return {name: jnp.zeros(capacity) for name in names}

    def update(self, state: State, observation: StepObservation) -> State:
        """The state with the step's gradient norms added, for the Gaussians that the step saw."""
        grad2d, width, height = observation.grad2d, observation.width, observation.height
        norms = jnp.hypot(grad2d[:, 0] * width / 2, grad2d[:, 1] * height / 2)
        new = {
            "grad2d": state["grad2d"] + jnp.where(observation.visible, norms, 0),
            "count": state["count"] + observation.visible,
        }
        if "radius" in state:
            radius = jnp.where(observation.visible, observation.radii.max(axis=1), 0) / max(width, height)
            new["radius"] = jnp.maximum(state["radius"], radius)
        return new

    def refines_after(self, step: int) -> bool:
        """True if growth and pruning, or a reset of the opacities, is due after this step."""
        return bool(self._grows_after(step) | self._resets_after(step))

    def refine(
        self,
        params: Params,
        alive: Bool[Array, " n"],
        state: State,
        step: Step,
        extent: Length,
        key: PRNGKeyArray,
    ) -> tuple[RowPlan, State]:
        """Plans growth, pruning and the reset of opacities, each if it is due after ``step``."""
        due = jnp.asarray(self._grows_after(step))
        grads = state["grad2d"] / jnp.maximum(state["count"], 1)
        wide = self._wider_on_image(state, self.grow_scale2d, step)
        grows = self._within_limit(alive & due & ((grads > self.grow_grad2d) | wide), grads, alive)
        split = grows & ((_largest_scale(params["log_scales"]) > self.grow_scale3d * extent) | wide)

        # Both halves of a split differ only in their place, so they can be judged in their parent's row.
        log_scales, logits = params["log_scales"], params["logit_opacities"]
        log_scales = jnp.where(split[:, None], row_plans.split_log_scales(log_scales), log_scales)
        if self.revised_opacity:
            logits = jnp.where(grows, row_plans.split_logit_opacities(logits), logits)
        removed = due & self._is_useless(state, log_scales, logits, step, extent)

        row_plan = row_plans.copy_and_remove(alive, copied=grows, removed=removed)
        halved = {"log_scales": log_scales, "logit_opacities": logits}
        halved = {name: row_plans.take_rows(value, row_plan.source) for name, value in halved.items()}
        row_plan = row_plans.scatter_split(row_plan._replace(values=halved), params, split, key)
        row_plan = row_plans.reset_opacities(
            row_plan, params, 2 * self.prune_opacity, self._resets_after(step)
        )
        return row_plan, jax.tree.map(lambda x: jnp.where(due, 0, x), state)

    # These two take a step that is an int or traced, hence & and not `and`.
    def _grows_after(self, step: Step) -> bool | Bool[Array, ""]:
        in_range = (step > self.refine_start) & (step < self.refine_stop)
        return in_range & (step % self.refine_every == 0)

    def _resets_after(self, step: Step) -> bool | Bool[Array, ""]:
        stop = self.refine_stop if self.reset_stop is None else min(self.reset_stop, self.refine_stop)
        return (step > 0) & (step < stop) & (step % self.reset_every == 0)

    def _within_limit(
        self, grows: Bool[Array, " n"], grads: Float[Array, " n"], alive: Bool[Array, " n"]
    ) -> Bool[Array, " n"]:
        """The Gaussians of highest gradient among those that would grow, as many as the limit allows."""
        if self.max_gaussians is None:
            return grows
        order = jnp.argsort(jnp.where(grows, -grads, jnp.inf))
        first = jnp.arange(order.shape[0]) < self.max_gaussians - alive.sum()
        return grows & jnp.zeros_like(grows).at[order].set(first, unique_indices=True)

    def _wider_on_image(self, state: State, limit: float, step: Step) -> Bool[Array, " n"]:
        """Gaussians whose largest radius was above ``limit``, a share of the image's longer side, [N] bool.

        False for all from ``refine_scale2d_stop`` on.
        """
        if "radius" not in state:
            return jnp.zeros_like(state["count"], bool)
        return (state["radius"] > limit) & (step < self.refine_scale2d_stop)

    def _is_useless(
        self,
        state: State,
        log_scales: Float[Array, "n 3"],
        logit_opacities: Float[Array, " n"],
        step: Step,
        extent: Length,
    ) -> Bool[Array, " n"]:
        """Gaussians to prune. One whose opacity or scale is NaN is useless too."""
        opaque = jax.nn.sigmoid(logit_opacities) >= self.prune_opacity
        most = jnp.inf if self.prune_scale3d is None else self.prune_scale3d * extent
        moderate = _largest_scale(log_scales) <= most
        moderate &= ~self._wider_on_image(state, self.prune_scale2d, step)
        return ~(opaque & (moderate | (step <= self.reset_every)))


def _largest_scale(log_scales: Float[Array, "n 3"]) -> Float[Array, " n"]:
    """Standard deviation along the longest axis, world units."""
    return jnp.exp(log_scales.max(axis=1))
