"""The optimizer of 3D Gaussian splatting, and the change that densification makes to any optimizer's state.

The Params are those of a whole model: a nested dict that holds the Gaussians' Params under ``"gaussians"``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath, keystr, tree_map_with_path
from jaxtyping import Array, PyTree

from splax.strategies.base import RowPlan
from splax.strategies.row_plans import spread_rows, take_rows

GAUSSIANS = "gaussians"


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """Learning rate of each Param, by its name (Kerbl et al. 2023 and gsplat).

    A subclass with a further field, say ``features``, sets the rate of the Params of that name.

    Attributes:
        means: rate of the means at the start, per unit of the distance from which the scene is photographed; Kerbl
            et al. use the spread of the cameras as the unit.
        means_final: rate of the means at the end of the run, as a share of the rate at the start, above 0; the
            decay is exponential.
        log_scales: rate of the log scales.
        quats: rate of the rotations.
        logit_opacities: rate of the logit opacities.
        sh0: rate of the colour's coefficients of degree 0.
        shN: rate of the other colour coefficients.
        others: rate of every Param with another name, in the Gaussians or elsewhere in the model.

    Raises:
        ValueError: if a rate is negative or not finite, or ``means_final`` is 0.

    Example:
        >>> import dataclasses
        >>> import splax
        >>> splax.LearningRates(quats=2e-3).of("quats")
        0.002
        >>> @dataclasses.dataclass(frozen=True)
        ... class WithFeatures(splax.LearningRates):
        ...     features: float = 0.01
        >>> rates = WithFeatures()
        >>> rates.of("features"), rates.of("another Param")
        (0.01, 0.0025)
    """

    means: float = 1.6e-4
    means_final: float = 0.01
    log_scales: float = 5e-3
    quats: float = 1e-3
    logit_opacities: float = 5e-2
    sh0: float = 2.5e-3
    shN: float = 2.5e-3 / 20
    others: float = 2.5e-3

    def __post_init__(self) -> None:
        for name, rate in dataclasses.asdict(self).items():
            if not 0 <= rate < math.inf:
                raise ValueError(f"LearningRates {name} must be 0 or more and finite, got {rate}.")
        if self.means_final == 0:
            raise ValueError("LearningRates means_final must be above 0: the decay is exponential.")

    def of(self, name: str) -> float:
        """The learning rate at the start of the Params with this name."""
        named = {field.name for field in dataclasses.fields(self)} - {"means_final", "others"}
        return getattr(self, name) if name in named else self.others


def make_optimizer(
    *,
    extent: float,
    steps: int,
    rates: LearningRates | None = None,
    batch_size: int = 1,
    decay_after: int | None = None,
) -> optax.GradientTransformation:
    """Adam with a learning rate for each Param name.

    Args:
        extent: size of the scene, world units; the means' rate is in proportion to it.
        steps: length of the run in steps; the means' rate decays over it.
        rates: learning rates; the defaults if None.
        batch_size: number of steps whose gradients are averaged for one update. Rates are multiplied by its square
            root, and Adam's averages span as many views as without batches (Malladi et al. 2022; gsplat).
        decay_after: steps after which all rates but the means' halve every ``decay_after / 3`` steps; None keeps
            them constant.

    Raises:
        ValueError: if the extent, the number of steps or the batch size is not positive.
    """
    if not 0 < extent < math.inf or steps < 1 or batch_size < 1:
        raise ValueError(
            "make_optimizer needs extent > 0, steps >= 1 and batch_size >= 1, "
            f"got {extent}, {steps} and {batch_size}."
        )
    scale = math.sqrt(batch_size)
    # Epsilon is that of 3DGS: gradients of a mean over pixels are far below Adam's usual epsilon of 1e-8.
    b1, b2 = (max(1 - batch_size * (1 - beta), 0.0) for beta in (0.9, 0.999))
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=1e-15 / scale)
    by_name = _scale_by_name(
        rates or LearningRates(), extent, max(steps // batch_size, 1), _decay(decay_after, batch_size)
    )
    if batch_size == 1:
        return optax.chain(adam, by_name)
    chain = optax.chain(adam, by_name, optax.scale(scale))
    return optax.MultiSteps(chain, batch_size).gradient_transformation()


def _decay(after: int | None, batch_size: int) -> optax.Schedule:
    """The factor of all learning rates but the means', at each update."""
    if after is None:
        return lambda count: 1.0
    halving = max(after / 3 / batch_size, 1)
    return lambda count: 0.5 ** (jnp.maximum(count - after / batch_size, 0) / halving)


def means_rate(rates: LearningRates, extent: float, steps: int) -> optax.Schedule:
    """The means' learning rate at each step of a run, world units."""
    return optax.exponential_decay(
        rates.means * extent, steps, rates.means_final, end_value=rates.means * extent * rates.means_final
    )


def move_slots(
    optimizer: optax.GradientTransformation,
    opt_state: optax.OptState,
    params: PyTree[Array],
    row_plan: RowPlan,
) -> optax.OptState:
    """The optimizer's state after a refinement: every Gaussian's slots move along with its row.

    This works for any optax transformation. Its ``init`` shows which leaves of its state belong to which Param,
    and gives the values of slots that are reset. Counters, slots of other Params, and tables that happen to have N
    rows do not change.

    Args:
        optimizer: the optimizer.
        opt_state: the optimizer's state before the refinement.
        params: the model's Params after the plan was carried out.
        row_plan: the plan of the refinement.
    """
    has_rows = _depends_on_rows(optimizer, params, lambda name: True)
    resets = [_depends_on_rows(optimizer, params, lambda n, name=name: n == name) for name in row_plan.reset]

    def move(slot: Array, initial: Array, has_rows: bool, *is_reset: bool) -> Array:
        if not has_rows:
            return slot
        fresh = row_plan.fresh
        for flag, concerned in zip(row_plan.reset.values(), is_reset, strict=True):
            fresh = fresh | flag if concerned else fresh
        return jnp.where(spread_rows(fresh, slot), initial, take_rows(slot, row_plan.source))

    return jax.tree.map(move, opt_state, optimizer.init(params), has_rows, *resets)


def grow_slots(
    optimizer: optax.GradientTransformation, opt_state: optax.OptState, params: PyTree[Array], capacity: int
) -> optax.OptState:
    """The optimizer's state for more rows; the optimizer's ``init`` gives the slots of the new rows.

    Args:
        optimizer: the optimizer.
        opt_state: the optimizer's state for the present rows.
        params: the model's Params, before or after they have grown.
        capacity: number of rows that the Gaussians' Params will have.

    Raises:
        ValueError: if ``capacity`` is below the present number of rows.
    """

    def pad(path: KeyPath, param: Array) -> Array:
        if _gaussian_param(path) is None:
            return param
        if capacity < param.shape[0]:
            raise ValueError(f"capacity can only grow: got {capacity}, have {param.shape[0]} rows.")
        return jnp.pad(param, [(0, capacity - param.shape[0])] + [(0, 0)] * (param.ndim - 1))

    def extend(slot: Array, initial: Array) -> Array:
        return slot if slot.shape == initial.shape else jnp.concatenate([slot, initial[slot.shape[0] :]])

    return jax.tree.map(extend, opt_state, optimizer.init(tree_map_with_path(pad, params)))


def _scale_by_name(
    rates: LearningRates, extent: float, steps: int, decay: optax.Schedule
) -> optax.GradientTransformation:
    """A transformation that multiplies directions by minus the learning rate of the Param's name at this step."""
    schedule = means_rate(rates, extent, steps)

    def init(params: PyTree) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates: PyTree[Array], state: Any, params: Any = None) -> tuple[PyTree[Array], Any]:
        del params
        at_present, factor = jnp.asarray(schedule(state.count)), decay(state.count)

        def scale(path: KeyPath, direction: Array) -> Array:
            name = keystr(path[-1:], simple=True)
            rate = at_present if name == "means" else rates.of(name) * factor
            return jnp.asarray(-rate, direction.dtype) * direction

        return tree_map_with_path(scale, updates), state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _gaussian_param(path: KeyPath) -> str | None:
    """Name of the Gaussians' Param that ``path`` leads to or into; None if it leads elsewhere."""
    if len(path) < 2 or keystr(path[:1], simple=True) != GAUSSIANS:
        return None
    return keystr(path[1:2], simple=True)


def _depends_on_rows(
    optimizer: optax.GradientTransformation, params: PyTree[Array], chosen: Callable[[str], bool]
) -> PyTree[bool]:
    """Whether each leaf of the optimizer's state has a row for each Gaussian, for the Params ``chosen``.

    A leaf has one if its shape changes when these Params of the Gaussians get one more row.
    """

    def shape(path: KeyPath, param: Array, more: int) -> jax.ShapeDtypeStruct:
        name = _gaussian_param(path)
        rows = param.shape[0] + more if name is not None and chosen(name) else param.shape[0]
        return jax.ShapeDtypeStruct((rows, *param.shape[1:]), param.dtype)

    def slots(more: int) -> optax.OptState:
        return jax.eval_shape(
            optimizer.init, tree_map_with_path(lambda path, p: shape(path, p, more), params)
        )

    return jax.tree.map(lambda now, longer: now.shape != longer.shape, slots(0), slots(1))
