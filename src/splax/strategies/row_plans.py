"""Row plans copy, split and remove Gaussians in a fixed number of rows.

A strategy decides which Gaussians to copy, split and remove; these functions build its :class:`RowPlan` and carry
it out. A plan reads the old rows and writes each new row once, so a newborn Gaussian may take the row of a
Gaussian that the same plan removes.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from splax.ops.quaternions import quat_to_rotmat
from splax.strategies.base import Params, RowPlan

# A split Gaussian's children are smaller by this factor (Kerbl et al. 2023, section 5.2).
SPLIT_SHRINK = 1.6
# Rows in a block of `sample_rows`; a power of two.
_BLOCK = 256
# The trapezoid rule of `share_among_copies` samples its integrand from 0 up to _REACH, at _NODES places. The
# integrand is even, and vanishes beyond.
_REACH, _NODES = 5.0, 32
# Larger logits count as this one, an opacity of 1 - 6e-8: a fully opaque Gaussian has no finite share.
_MAX_LOGIT = 16.6


def take_rows(array: Array, source: Int[Array, " n"]) -> Array:
    """``array[source]``, without a check that ``source`` is in range."""
    return array.at[source].get(mode="promise_in_bounds")


def spread_rows(mask: Array, like: Array) -> Array:
    """A mask over rows, [N], with axes of length 1 added so that it broadcasts against ``like``, [N, ...]."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def pair_rows(
    parents: Bool[Array, " n"], free: Bool[Array, " n"]
) -> tuple[Int[Array, " n"], Bool[Array, " n"]]:
    """Gives the k-th parent the k-th free row.

    Args:
        parents: Gaussians that get a copy, [N] bool.
        free: rows that a copy may take, [N] bool.

    Returns:
        The parent of each row, [N], or the row itself if no copy takes it; and the rows that copies take, [N]
        bool. If there are fewer free rows than parents, the last parents get no copy.
    """
    num = parents.shape[0]
    rows = jnp.arange(num)
    (ordered,) = jnp.nonzero(parents, size=num, fill_value=0)
    rank = jnp.cumsum(free) - 1
    born = free & (rank < parents.sum())
    return jnp.where(born, take_rows(ordered, jnp.where(born, rank, 0)), rows), born


def copy_and_remove(
    alive: Bool[Array, " n"], copied: Bool[Array, " n"], removed: Bool[Array, " n"]
) -> RowPlan:
    """The plan that copies some Gaussians into free rows and removes others.

    Args:
        alive: rows that exist, [N] bool.
        copied: Gaussians to copy, [N] bool; dead and removed ones are not copied.
        removed: Gaussians to remove, [N] bool.
    """
    kept = alive & ~removed
    copied = copied & kept
    source, born = pair_rows(copied, ~kept)
    alive = kept | born
    return RowPlan(source, alive, born | ~alive, {}, {}, kept.sum() + copied.sum())


def split_log_scales(log_scales: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    """Log scales of the children of split Gaussians, [N, 3]."""
    return log_scales - math.log(SPLIT_SHRINK)


def split_logit_opacities(logit_opacities: Float[Array, " n"]) -> Float[Array, " n"]:
    """Logit opacities of children that together are as opaque as their parent, [N].

    The child's opacity is 1 - sqrt(1 - opacity) (Rota Bulò et al. 2024, https://arxiv.org/abs/2404.06109,
    section 4.2). As a logit that is log(exp(y) - 1) with y = softplus(logit) / 2, computed so that it does not
    overflow.
    """
    half = jax.nn.softplus(logit_opacities) / 2
    return half + jnp.log(-jnp.expm1(-half))


def sample_offsets(
    quats: Float[Array, "n 4"], log_scales: Float[Array, "n 3"], key: PRNGKeyArray
) -> Float[Array, "n 3"]:
    """One draw from each Gaussian, as an offset from its centre, world units, [N, 3]."""
    # Drawn in the order of rows, so that rows added at the end do not change the draws of the first rows.
    noise = jax.random.normal(key, log_scales.shape, log_scales.dtype)
    return (quat_to_rotmat(quats) * (jnp.exp(log_scales) * noise)[:, None, :]).sum(axis=-1)


def scatter_split(row_plan: RowPlan, params: Params, split: Bool[Array, " n"], key: PRNGKeyArray) -> RowPlan:
    """The plan, with the centres of split Gaussians drawn from their parents, independently for each child.

    Args:
        row_plan: plan that copies the Gaussians to split, so that there are two of each.
        params: Params before the plan is carried out, by name, one row per Gaussian.
        split: Gaussians to split, [N] bool.
        key: source of randomness.
    """
    source = row_plan.source
    child = take_rows(split, source) & row_plan.alive
    # Rows that are not split may hold anything, a zero quaternion too: compute with neutral ones instead.
    quats = jnp.where(child[:, None], take_rows(params["quats"], source), 1)
    log_scales = jnp.where(child[:, None], take_rows(params["log_scales"], source), 0)
    offsets = jnp.where(child[:, None], sample_offsets(quats, log_scales, key), 0)
    means = take_rows(params["means"], source) + offsets
    return row_plan._replace(fresh=row_plan.fresh | child, values=row_plan.values | {"means": means})


def reset_opacities(
    row_plan: RowPlan, params: Params, maximum: float, when: bool | Bool[Array, ""]
) -> RowPlan:
    """The plan, with every opacity lowered to ``maximum`` at most if ``when`` is true.

    Args:
        row_plan: plan so far.
        params: Params before the plan is carried out, by name, one row per Gaussian.
        maximum: opacity in (0, 1).
        when: whether to lower opacities, scalar bool; may be traced.
    """
    now = row_plan.values.get("logit_opacities")
    if now is None:
        now = take_rows(params["logit_opacities"], row_plan.source)
    when = jnp.asarray(when)
    lowered = jnp.where(when, jnp.minimum(now, math.log(maximum / (1 - maximum))), now)
    return row_plan._replace(
        values=row_plan.values | {"logit_opacities": lowered},
        reset=row_plan.reset | {"logit_opacities": when},
    )


def apply_row_plan(row_plan: RowPlan, params: Params) -> Params:
    """The Params after the plan; those for which it has no values move along with their rows."""
    moved = {name: value for name, value in params.items() if name not in row_plan.values}
    return {**params, **jax.tree.map(lambda x: take_rows(x, row_plan.source), moved), **row_plan.values}


def sample_rows(weights: Float[Array, " n"], key: PRNGKeyArray) -> Int[Array, " n"]:
    """N rows drawn independently, in proportion to their weights, [N] int.

    The cumulative weights are inverted in two levels, blocks and rows within a block: in a single level, float32
    would be too coarse for the weights of a million rows. The first draws do not depend on how many rows of weight
    0 follow.

    Args:
        weights: weight of each row, 0 or more, [N].
        key: source of randomness.
    """
    num = weights.shape[0]
    padded = jnp.pad(weights, (0, -num % _BLOCK))
    within = jnp.cumsum(padded.reshape(-1, _BLOCK), axis=1)
    keys = jax.random.split(key)
    blocks = jnp.cumsum(within[:, -1])
    place = _below(jax.random.uniform(keys[0], (num,), blocks.dtype), blocks[-1])
    block = jnp.searchsorted(blocks, place, side="right")
    place = _below(jax.random.uniform(keys[1], (num,), blocks.dtype), within[block, -1])
    low, within = block * _BLOCK, within.reshape(-1)
    # The first row of the block whose cumulative weight is above the place, by bisection.
    for step in (_BLOCK >> bit for bit in range(1, _BLOCK.bit_length())):
        low = jnp.where(take_rows(within, low + step - 1) <= place, low + step, low)
    return low


def copy_at_random(
    kept: Bool[Array, " n"], weights: Float[Array, " n"], births: Int[Array, ""], key: PRNGKeyArray
) -> tuple[RowPlan, Int[Array, " n"]]:
    """The plan that keeps some Gaussians and puts copies of them, drawn by weight, into other rows.

    Args:
        kept: Gaussians that stay, [N] bool.
        weights: weights in proportion to which each Gaussian is copied, [N]; 0 in the rows that are not kept.
        births: number of copies, scalar int; 0 if no Gaussian is kept.
        key: source of randomness.

    Returns:
        The plan, and the number of times that each Gaussian is there after it, [N] int.
    """
    free = ~kept
    rank = jnp.cumsum(free) - 1
    born = free & (rank < births)
    drawn = take_rows(sample_rows(weights, key), jnp.where(born, rank, 0))
    source = jnp.where(born, drawn, jnp.arange(kept.shape[0]))
    copies = kept.astype(jnp.int32).at[source].add(born)
    alive = kept | born
    return RowPlan(source, alive, born | ~alive, {}, {}, kept.sum() + births), copies


def share_among_copies(
    logit_opacities: Float[Array, " n"], log_scales: Float[Array, "n 3"], copies: Int[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, "n 3"]]:
    """Logit opacities and log scales of copies that together render as the one Gaussian did.

    Kheradmand et al. 2024 (https://arxiv.org/abs/2404.09591): n copies in one place, of opacity
    b = 1 - (1 - a)^(1/n) and of a scale that is multiplied by a / D, are as opaque as one Gaussian of opacity a,
    both at the centre and integrated along a line through it. The paper's D is an alternating sum of binomials,
    sum_i sum_k C(i-1, k) (-1)^k b^(k+1) / sqrt(k+1). With 1 / sqrt(k) = integral of exp(-k x^2) / sqrt(pi) it is
    the integral of 1 - (1 - b exp(-x^2))^n, which the trapezoid rule gives to rounding, for any n and in float32.

    Args:
        logit_opacities: logit opacity of each Gaussian before it is copied, [N].
        log_scales: log scales of each Gaussian before it is copied, [N, 3].
        copies: number of Gaussians that take the place of each one, itself included, [N] int.
    """
    num = jnp.maximum(copies, 1).astype(logit_opacities.dtype)
    # log(1 - opacity) of each copy, without computing 1 - opacity, which for an opaque Gaussian is all rounding.
    log_clear = -jax.nn.softplus(jnp.minimum(logit_opacities, _MAX_LOGIT)) / num
    opacity = -jnp.expm1(log_clear)
    logits = jnp.log(opacity) - log_clear
    spacing = _REACH / _NODES

    def add(node: Int[Array, ""], width: Float[Array, " n"]) -> Float[Array, " n"]:
        x = node * spacing
        weight = spacing / math.sqrt(math.pi) * jnp.where(node == 0, 1, 2)
        return width - weight * jnp.expm1(num * jnp.log1p(-opacity * jnp.exp(-(x**2))))

    width = jax.lax.fori_loop(0, _NODES, add, jnp.zeros_like(opacity))
    change = jnp.log(-jnp.expm1(num * log_clear)) - jnp.log(width)
    return logits, log_scales + change[:, None]


def _below(fraction: Float[Array, " n"], total: Float[Array, "*n"]) -> Float[Array, " n"]:
    """``fraction * total``, kept below ``total`` where rounding would make the two equal."""
    return jnp.minimum(fraction * total, jnp.nextafter(total, jnp.zeros_like(total)))
