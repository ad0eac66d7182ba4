"""The rasterizer in plain XLA: the specification of the image, and the path of every platform but NVIDIA's.

Each tile's list is cut into buckets of :data:`BUCKET_SIZE` Gaussians, and groups of buckets are composited
side by side: arrays are [bucket entry, pixel of the tile, bucket], so that every operation is elementwise along
the last axis and runs in vector registers. What a bucket needs from those before it in its tile is one number a
pixel, the transmittance T, a product that a segmented scan gives. No loop has a dynamic count: JAX's own jvp,
vjp, vmap and their compositions all work, in float32 and float64.

Compositing is that of Kerbl et al. 2023: front to back, alpha = min(0.999, opacity exp(-sigma)), skipped below
1/255; the Gaussian that would take T to 1e-4 or below ends the pixel and is left out.

:func:`composite` is differentiated by JAX. :func:`composite_vjp` has the same forward and a hand-written
backward, about four times faster on a CPU, but first order reverse mode only.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from splax.ops.intersection import Intersections, tile_grid
from splax.ops.projection import ALPHA_THRESHOLD

# Alpha is clamped below 1, so that 1 / (1 - alpha) stays finite (gsplat 1.5.3).
MAX_ALPHA = 0.999
# A pixel is finished when its transmittance would fall to this or below (3DGS).
MIN_TRANSMITTANCE = 1e-4
# Gaussians per bucket. Longer buckets amortise per-bucket work, shorter ones pad less.
BUCKET_SIZE = 32
# Elements of one [BUCKET_SIZE, pixels, buckets] array: about what a core's second-level cache holds.
_GROUP_ELEMENTS = 2**18
# Rows of the packed attributes that come before the colours: x, y, conic a, b, c, opacity.
_GEOMETRY = 6


class TileLayout(NamedTuple):
    """Static sizes of one rasterization."""

    width: int
    height: int
    tile_size: int

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles per row and column."""
        return tile_grid(self.width, self.height, self.tile_size)

    @property
    def num_tiles(self) -> int:
        """Tiles of the image."""
        return self.grid[0] * self.grid[1]

    @property
    def num_pixels(self) -> int:
        """Pixels of a tile."""
        return self.tile_size**2


class Buckets(NamedTuple):
    """Groups of buckets, each a stretch of one tile's list; leading axis: groups."""

    ids: Int[Array, "groups bucket lanes"]
    valid: Bool[Array, "groups bucket lanes"]
    tile: Int[Array, "groups lanes"]
    first: Bool[Array, "groups lanes"]
    used: Bool[Array, " groups"]


def composite(
    attributes: Float[Array, "rows n"], isects: Intersections, layout: TileLayout
) -> Float[Array, "tiles channels pixels"]:
    """Composites every tile.

    Args:
        attributes: one column a Gaussian: mean x and y, conic a, b, c, opacity, then the channels.
        isects: lists of the tiles.
        layout: static sizes.

    Returns:
        Channels of each pixel, the last one the alpha, [tiles, C + 1, tile_size^2]; no background.
    """
    return _forward(attributes, isects, layout, save_transmittance=False)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def composite_vjp(
    attributes: Float[Array, "rows n"], isects: Intersections, layout: TileLayout
) -> Float[Array, "tiles channels pixels"]:
    """As :func:`composite`, with a faster reverse mode."""
    return composite(attributes, isects, layout)


def _composite_fwd(attributes, isects, layout):
    tiles, transmittance = _forward(attributes, isects, layout, save_transmittance=True)
    return tiles, (attributes, isects, tiles, transmittance)


def _composite_bwd(layout, residuals, v_tiles):
    attributes, isects, tiles, transmittance = residuals
    return _backward(attributes, isects, tiles, transmittance, v_tiles, layout), None


composite_vjp.defvjp(_composite_fwd, _composite_bwd)


def _forward(attributes, isects, layout, *, save_transmittance):
    buckets = _make_buckets(isects, layout)
    dtype, num_pixels = attributes.dtype, layout.num_pixels
    channels = attributes.shape[0] - _GEOMETRY + 1

    def composite_group(carry, group):
        local = _local_attributes(attributes, group, layout)
        alphas = _alphas(local, group.valid, layout)
        before = _exclusive_scan(jnp.multiply, 1, jnp.prod(1 - alphas, axis=0), group.first, carry)

        def blend(state, entry):
            transmittance, color = state
            alpha, channel = entry
            after = transmittance * (1 - alpha)
            weight = jnp.where(after > MIN_TRANSMITTANCE, alpha * transmittance, 0)
            return (after, color + weight * channel[:, None]), None

        colors = jnp.moveaxis(jnp.concatenate([local[_GEOMETRY:], jnp.ones_like(local[:1])]), 1, 0)
        start = (before, jnp.zeros((channels, *before.shape), dtype))
        (after, color), _ = jax.lax.scan(blend, start, (alphas, colors))
        return after[:, -1], (color, before)

    def skip_group(carry, group):
        before = jnp.ones((num_pixels, group.tile.shape[0]), dtype)
        return carry, (jnp.zeros((channels, *before.shape), dtype), before)

    @jax.checkpoint  # differentiating the plain path recomputes a group instead of storing all of them
    def step(carry, group):
        carry, (color, before) = jax.lax.cond(group.used, composite_group, skip_group, carry, group)
        return carry, (color, before if save_transmittance else None)

    _, (colors, transmittance) = jax.lax.scan(step, jnp.ones(num_pixels, dtype), buckets)
    colors = jnp.moveaxis(colors, -1, 1).reshape(-1, channels * num_pixels)
    tiles = jax.ops.segment_sum(
        colors, buckets.tile.reshape(-1), num_segments=layout.num_tiles, indices_are_sorted=True
    )
    return tiles.reshape(layout.num_tiles, channels, num_pixels), transmittance


def _backward(attributes, isects, tiles, transmittance, v_tiles, layout):
    """Gradient of the attributes, front to back.

    With g = sum of channel times cotangent, the loss is sum of w g over a pixel's Gaussians, and its derivative
    by alpha is T g - (what comes behind) / (1 - alpha). What comes behind is the pixel's total less the running
    sum, so the buckets are walked in the same order as in the forward pass.
    """
    buckets = _make_buckets(isects, layout)
    channels = v_tiles.shape[1] - 1
    totals = (tiles * v_tiles).sum(axis=1)

    def differentiate_group(carry, group, before):
        local = _local_attributes(attributes, group, layout)
        alphas = _alphas(local, group.valid, layout)
        v_pixels = jnp.transpose(v_tiles[group.tile], (1, 2, 0))  # [channels + 1, pixels, lanes]

        def blend(state, entry):
            transmittance, running = state
            alpha, channel = entry
            after = transmittance * (1 - alpha)
            weight = jnp.where(after > MIN_TRANSMITTANCE, alpha * transmittance, 0)
            # Summed by hand: XLA for CPU (jax 0.10.2) gets a fused reduction over this axis wrong.
            g = v_pixels[channels]
            for c in range(channels):
                g = g + v_pixels[c] * channel[c]
            contribution = weight * g
            running = running + contribution
            return (after, running), (weight, contribution, running)

        colors = jnp.moveaxis(local[_GEOMETRY:], 1, 0)
        start = (before, jnp.zeros_like(before))
        (_, summed), (weights, contributions, running) = jax.lax.scan(blend, start, (alphas, colors))
        in_front = _exclusive_scan(jnp.add, 0, summed, group.first, carry)
        behind = totals[group.tile].T - in_front - running
        # alpha * d loss / d alpha, which is -(d loss / d sigma) where alpha is not clamped.
        smooth = (weights > 0) & (alphas < MAX_ALPHA)
        v = jnp.where(smooth, contributions - behind * (alphas / (1 - alphas)), 0)
        v_colors = [(weights * v_pixels[c]).sum(axis=1) for c in range(channels)]
        rows = jnp.stack(_geometry_gradients(v, local, layout) + v_colors)
        return (in_front + summed)[:, -1], rows

    def skip_group(carry, group, before):
        return carry, jnp.zeros((attributes.shape[0], *group.ids.shape), attributes.dtype)

    def step(carry, xs):
        group, before = xs
        return jax.lax.cond(group.used, differentiate_group, skip_group, carry, group, before)

    start = jnp.zeros(layout.num_pixels, attributes.dtype)
    _, rows = jax.lax.scan(step, start, (buckets, transmittance))
    rows = jnp.moveaxis(rows, 1, -1).reshape(-1, attributes.shape[0])
    summed = jnp.zeros(attributes.shape[::-1], attributes.dtype).at[buckets.ids.reshape(-1)].add(rows)
    return summed.T


def _geometry_gradients(v, local, layout):
    """Gradients of x, y, conic and opacity, [BUCKET_SIZE, lanes] each: moments of ``v`` about the mean."""
    dx, dy = _offsets(local, layout)
    x, y = (v * dx).sum(axis=1), (v * dy).sum(axis=1)
    xx, xy, yy = (v * dx * dx).sum(axis=1), (v * dx * dy).sum(axis=1), (v * dy * dy).sum(axis=1)
    a, b, c, opacity = local[2:_GEOMETRY]
    v_opacity = v.sum(axis=1) / jnp.where(opacity > 0, opacity, 1)
    return [-(a * x + b * y), -(b * x + c * y), -0.5 * xx, -xy, -0.5 * yy, v_opacity]


def _make_buckets(isects: Intersections, layout: TileLayout) -> Buckets:
    offsets, capacity = isects.tile_offsets, isects.flatten_ids.shape[0]
    lanes = max(8, _GROUP_ELEMENTS // (BUCKET_SIZE * layout.num_pixels))
    # No more buckets than this can be needed: full ones, and one that is not full in each tile.
    most = capacity // BUCKET_SIZE + min(layout.num_tiles, capacity)
    groups = max(1, -(-most // lanes))

    counts = -(-(offsets[1:] - offsets[:-1]) // BUCKET_SIZE)
    ends = jnp.cumsum(counts)
    index = jnp.arange(groups * lanes, dtype=jnp.int32)
    tiles = jnp.arange(layout.num_tiles, dtype=jnp.int32)
    tile = jnp.repeat(tiles, counts, total_repeat_length=index.size)
    nth = index - (ends - counts)[tile]
    pairs = offsets[tile] + nth * BUCKET_SIZE + jnp.arange(BUCKET_SIZE, dtype=jnp.int32)[:, None]
    used = index < ends[-1]
    valid = used & (pairs < offsets[tile + 1])
    ids = jnp.where(valid, isects.flatten_ids[jnp.where(valid, pairs, 0)], 0)

    def grouped(x: Any) -> Any:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], groups, lanes), -2, 0)

    return Buckets(
        ids=grouped(ids),
        valid=grouped(valid),
        tile=grouped(tile),
        first=grouped(nth == 0),
        used=grouped(used).any(axis=1),
    )


def _local_attributes(attributes, group, layout):
    """Attributes of a group's Gaussians, means relative to their tile, [rows, BUCKET_SIZE, lanes]."""
    local = attributes[:, group.ids]
    row, column = jnp.divmod(group.tile, layout.grid[0])
    corner = (jnp.stack([column, row]) * layout.tile_size).astype(attributes.dtype)
    return jnp.concatenate([local[:2] - corner[:, None], local[2:]])


def _offsets(local, layout):
    """Mean less pixel centre in x and y, [BUCKET_SIZE, pixels, lanes]."""
    row, column = jnp.divmod(jnp.arange(layout.num_pixels), layout.tile_size)
    x, y = (column + 0.5).astype(local.dtype), (row + 0.5).astype(local.dtype)
    return local[0][:, None] - x[:, None], local[1][:, None] - y[:, None]


def _alphas(local, valid, layout):
    """Alpha of each Gaussian at each pixel, 0 where it does not touch it, [BUCKET_SIZE, pixels, lanes]."""
    dx, dy = _offsets(local, layout)
    a, b, c, opacity = (x[:, None] for x in local[2:_GEOMETRY])
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = jnp.minimum(MAX_ALPHA, opacity * jnp.exp(-sigma))
    return jnp.where(valid[:, None] & (sigma >= 0) & (alpha >= ALPHA_THRESHOLD), alpha, 0)


def _exclusive_scan(op, identity, values, first, carry):
    """Combines the values of the buckets before each one in its tile.

    Args:
        op: associative, elementwise.
        identity: of ``op``.
        values: one per pixel and bucket, [pixels, lanes].
        first: buckets that begin a tile, [lanes].
        carry: the combination over the tile that the group begins in, before the group, [pixels].
    """

    def combine(left, right):
        return left[0] | right[0], jnp.where(right[0], right[1], op(left[1], right[1]))

    begun = jnp.broadcast_to(first, values.shape)
    seen_first, inclusive = jax.lax.associative_scan(combine, (begun, values), axis=1)
    inclusive = jnp.where(seen_first, inclusive, op(carry[:, None], inclusive))
    return jnp.where(begun, identity, jnp.concatenate([carry[:, None], inclusive[:, :-1]], axis=1))
