"""Row surgery: how Gaussians are copied, split and removed in a fixed number of rows.

A strategy decides which rows; these functions build its :class:`Surgery` and carry it out. Every plan reads
the rows of before and writes each row once, so a birth may take the row of a Gaussian removed by the same plan.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from splax.ops.quaternions import quat_to_rotmat
from splax.strategies.base import Params, Surgery

# A split Gaussian's children are smaller by this factor (Kerbl et al. 2023, section 5.2).
SPLIT_SHRINK = 1.6


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
) -> Surgery:
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
    return Surgery(source, alive, born | ~alive, {}, {}, kept.sum() + copied.sum())


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


def scatter_split(surgery: Surgery, params: Params, split: Bool[Array, " n"], key: PRNGKeyArray) -> Surgery:
    """The plan with the centres of split Gaussians drawn from their parents, independently for each child.

    Args:
        surgery: a plan that copies the Gaussians to split, so that there are two of each.
        params: of before the plan.
        split: Gaussians to split, [N].
        key: source of randomness.
    """
    source = surgery.source
    child = take_rows(split, source) & surgery.alive
    # Rows that are not split may hold anything, a zero quaternion too: compute with neutral ones instead.
    quats = jnp.where(child[:, None], take_rows(params["quats"], source), 1)
    log_scales = jnp.where(child[:, None], take_rows(params["log_scales"], source), 0)
    offsets = jnp.where(child[:, None], sample_offsets(quats, log_scales, key), 0)
    means = take_rows(params["means"], source) + offsets
    return surgery._replace(fresh=surgery.fresh | child, values=surgery.values | {"means": means})


def reset_opacities(
    surgery: Surgery, params: Params, maximum: float, when: bool | Bool[Array, ""]
) -> Surgery:
    """The plan that also brings every opacity down to ``maximum`` at most, where ``when`` is true.

    Args:
        surgery: the plan so far.
        params: of before the plan.
        maximum: opacity in (0, 1).
        when: scalar bool, may be traced.
    """
    now = surgery.values.get("logit_opacities")
    if now is None:
        now = take_rows(params["logit_opacities"], surgery.source)
    when = jnp.asarray(when)
    lowered = jnp.where(when, jnp.minimum(now, math.log(maximum / (1 - maximum))), now)
    return surgery._replace(
        values=surgery.values | {"logit_opacities": lowered},
        reset=surgery.reset | {"logit_opacities": when},
    )


def apply_surgery(surgery: Surgery, params: Params) -> Params:
    """The Params after the plan. Those it does not name move along with the rows."""
    moved = {name: value for name, value in params.items() if name not in surgery.values}
    return {**params, **jax.tree.map(lambda x: take_rows(x, surgery.source), moved), **surgery.values}
