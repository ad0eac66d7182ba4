"""Row plans: how Gaussians are copied, split and removed in a fixed number of rows.

A strategy decides which rows; these functions build its :class:`RowPlan` and carry it out. Every plan reads
the rows of before and writes each row once, so a birth may take the row of a Gaussian removed by the same plan.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from splax.ops.quaternions import quat_to_rotmat
from splax.strategies.base import Params, RowPlan

# A split Gaussian's children are smaller by this factor (Kerbl et al. 2023, section 5.2).
SPLIT_SHRINK = 1.6
# Rows that are drawn from as one block; a power of two.
_BLOCK = 256
# The trapezoid rule of `share_among_copies` samples its integrand from 0 up to _REACH, at _NODES places. The
# integrand is even, and vanishes beyond.
_REACH, _NODES = 5.0, 32
# Opacity above which an opacity counts as this one, 1 - 6e-8: a Gaussian fully opaque has no finite share.
_MAX_LOGIT = 16.6


def take_rows(array: Array, source: Int[Array, " n"]) -> Array:
    """``array[source]``; ``source`` is trusted to be in range."""
    return array.at[source].get(mode="promise_in_bounds")


def spread_rows(mask: Array, like: Array) -> Array:
    """A mask over rows, [N], with axes of length one added so that it broadcasts against ``like``."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def pair_rows(
    parents: Bool[Array, " n"], free: Bool[Array, " n"]
) -> tuple[Int[Array, " n"], Bool[Array, " n"]]:
    """Gives the k-th parent the k-th free row.

    Returns:
        The parent of each row, [N], or the row itself where none was born; and the rows of the newborn, [N].
        If free rows run out, the last parents go without.
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
        alive: rows that exist, [N].
        copied: Gaussians to copy, [N]; dead and removed ones are passed over.
        removed: Gaussians to remove, [N].
    """
    kept = alive & ~removed
    copied = copied & kept
    source, born = pair_rows(copied, ~kept)
    alive = kept | born
    return RowPlan(source, alive, born | ~alive, {}, {}, kept.sum() + copied.sum())


def split_log_scales(log_scales: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    """Log scales of a split Gaussian's children."""
    return log_scales - math.log(SPLIT_SHRINK)


def split_logit_opacities(logit_opacities: Float[Array, " n"]) -> Float[Array, " n"]:
    """Logit opacities of children that together are as opaque as their parent, [N].

    The child's opacity is 1 - sqrt(1 - opacity) (Rota Bulò et al. 2024, https://arxiv.org/abs/2404.06109,
    section 4.2). In logits that is log(exp(y) - 1) with y = softplus(logit) / 2, here without overflow.
    """
    half = jax.nn.softplus(logit_opacities) / 2
    return half + jnp.log(-jnp.expm1(-half))


def sample_offsets(
    quats: Float[Array, "n 4"], log_scales: Float[Array, "n 3"], key: PRNGKeyArray
) -> Float[Array, "n 3"]:
    """One draw from each Gaussian about its centre, world units, [N, 3]."""
    # Drawn in the order of rows: more rows behind them do not change the draws of the first.
    noise = jax.random.normal(key, log_scales.shape, log_scales.dtype)
    return (quat_to_rotmat(quats) * (jnp.exp(log_scales) * noise)[:, None, :]).sum(axis=-1)


def scatter_split(row_plan: RowPlan, params: Params, split: Bool[Array, " n"], key: PRNGKeyArray) -> RowPlan:
    """The plan with the centres of split Gaussians drawn from their parents, independently for each child.

    Args:
        row_plan: a plan that copies the Gaussians to split, so that there are two of each.
        params: of before the plan.
        split: Gaussians to split, [N].
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
    """The plan that also brings every opacity down to ``maximum`` at most, where ``when`` is true.

    Args:
        row_plan: the plan so far.
        params: of before the plan.
        maximum: opacity in (0, 1).
        when: scalar bool, may be traced.
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
    """The Params after the plan. Those it does not name move along with the rows."""
    moved = {name: value for name, value in params.items() if name not in row_plan.values}
    return {**params, **jax.tree.map(lambda x: take_rows(x, row_plan.source), moved), **row_plan.values}


def sample_rows(weights: Float[Array, " n"], key: PRNGKeyArray) -> Int[Array, " n"]:
    """As many rows as there are, drawn independently in proportion to their weights, which are 0 or more, [N].

    Inverts the cumulative weights in two levels, blocks and rows within a block: in one, float32 would be too
    coarse for the weights of a million rows. The first draws do not depend on how many rows of weight 0 follow.
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
    """The plan that keeps some Gaussians and puts copies of them, drawn by weight, into the other rows.

    Args:
        kept: Gaussians that stay, [N].
        weights: how likely each is to be copied, 0 in the other rows, [N].
        births: how many copies, scalar; 0 if none is kept.
        key: source of randomness.

    Returns:
        The plan, and how often each Gaussian is there after it, [N].
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
    b = 1 - (1 - a)^(1/n) and a scale times a / D, are as opaque at the centre, and integrated along a line through
    it, as one of opacity a. The paper's D is an alternating sum of binomials, sum_i sum_k C(i-1, k) (-1)^k
    b^(k+1) / sqrt(k+1). With 1 / sqrt(k) = integral of exp(-k x^2) / sqrt(pi) it is the integral of
    1 - (1 - b exp(-x^2))^n, which the trapezoid rule gives to rounding, for any n and in float32.

    Args:
        logit_opacities: of before, [N].
        log_scales: of before, [N, 3].
        copies: how many take its place, the one included, [N].
    """
    num = jnp.maximum(copies, 1).astype(logit_opacities.dtype)
    # log(1 - opacity) of one and of each copy: no 1 - x, which for an opaque one is all rounding.
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
    """A share of ``total`` that rounding does not bring up to it."""
    return jnp.minimum(fraction * total, jnp.nextafter(total, jnp.zeros_like(total)))
