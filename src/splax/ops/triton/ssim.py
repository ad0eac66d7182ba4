"""SSIM and its gradient in two kernels, which filter along rows and columns at once.

A lane goes down one column of numbers of the image. At each row it takes the window's mean along the row, from
neighbouring numbers that lie in the cache, and adds it to the means of the eleven windows below each other that
hold the row: ten sums that move on by one place a row, in registers. XLA makes a dozen passes over memory of it.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.ssim import SSIM_C1, SSIM_C2, SSIM_TAPS, Ssim, SsimMaps, WindowMeans, compare
from splax.ops.triton.lanes.warp import LANES, Warp, lanes, load, store, zeros

# Number of rows that a program writes; it reads ten more. A smaller number gives more programs.
_STRIP = 24


def mean_and_gradients(
    x: jax.Array, y: jax.Array, channels: int, differentiated: tuple[int, ...], warp: Warp
) -> tuple[jax.Array, list[jax.Array]]:
    """Returns the mean SSIM of two images, and its gradients.

    Args:
        x: first image, [..., H, W * C].
        y: second image, [..., H, W * C].
        channels: number of channels, C.
        differentiated: indices, 0 or 1, of the images whose gradients are returned.
        warp: warp that runs the kernels.
    """
    ssim = Ssim(SSIM_TAPS, SSIM_C1, SSIM_C2, channels)

    def of_one(x: jax.Array, y: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        value, maps = similarity(x, y, ssim, warp)
        gradients = []
        for nth in differentiated:
            one, other = (y, x) if nth else (x, y)
            gradients.append(gradient(one, other, maps[nth], maps, ssim, warp))
        return value, gradients

    mapped = of_one
    for _ in x.shape[:-2]:
        mapped = jax.vmap(mapped)
    return mapped(x, y)


def similarity(x: jax.Array, y: jax.Array, ssim: Ssim, warp: Warp) -> tuple[jax.Array, SsimMaps]:
    """Returns the mean SSIM of two images, [H, W * C], over all windows within them, and its derivatives."""
    (height, width), margin = x.shape, ssim.margin
    rows, columns = height - margin, width - margin * ssim.channels
    grid = (-(-columns // LANES), -(-rows // _STRIP))

    def kernel(x, y, by_mean_x, by_mean_y, by_squares, by_products, totals):
        column, top = pl.program_id(0) * LANES + lanes(), pl.program_id(1) * _STRIP

        def down(i, carry):
            sums, total = carry
            inside = (column < columns) & (top + i < height)
            means = [zeros()] * 4
            for nth, tap in enumerate(ssim.taps):
                place = (top + i) * width + column + nth * ssim.channels
                a, b = load(x, place, inside), load(y, place, inside)
                terms = (a, b, warp.fma(a, a, b * b), a * b)
                means = [warp.fma(term, tap, mean) for mean, term in zip(means, terms, strict=True)]
            ended, sums = _move_on(sums, means, ssim, warp)
            value, maps = compare(WindowMeans(*ended), ssim)
            whole = inside & (i >= margin)
            place = (top + i - margin) * columns + column
            for ref, one in zip((by_mean_x, by_mean_y, by_squares, by_products), maps, strict=True):
                store(ref, place, one, whole)
            return sums, total + jnp.where(whole, value, 0)

        start = [[zeros()] * margin for _ in range(4)], zeros()
        _, total = lax.fori_loop(0, _STRIP + margin, down, start)
        program = pl.program_id(1) * grid[0] + pl.program_id(0)
        store(totals, program * LANES + lanes(), total)

    shapes = [jax.ShapeDtypeStruct((rows * columns,), jnp.float32)] * 4
    shapes += [jax.ShapeDtypeStruct((grid[0] * grid[1] * LANES,), jnp.float32)]
    *maps, totals = warp.launch("ssim", kernel, grid, shapes, x.reshape(-1), y.reshape(-1))
    mean = totals.sum() / (rows * columns)
    return mean, SsimMaps(*(one.reshape(rows, columns) for one in maps))


def gradient(
    one: jax.Array, other: jax.Array, by_mean: jax.Array, maps: SsimMaps, ssim: Ssim, warp: Warp
) -> jax.Array:
    """Returns the gradient of the mean SSIM by one of the two images, [H, W * C]."""
    (height, width), (rows, columns), margin = one.shape, by_mean.shape, ssim.margin

    def kernel(one, other, by_mean, by_squares, by_products, out):
        column, top = pl.program_id(0) * LANES + lanes(), pl.program_id(1) * _STRIP

        def down(i, sums):
            row = top + i - margin  # of windows
            means = [zeros()] * 3
            for nth, tap in enumerate(ssim.taps):
                begin = column - (margin - nth) * ssim.channels
                exists = (begin >= 0) & (begin < columns) & (row >= 0) & (row < rows)
                refs = (by_mean, by_squares, by_products)
                means = [
                    warp.fma(load(ref, row * columns + begin, exists), tap, mean)
                    for mean, ref in zip(means, refs, strict=True)
                ]
            (mean, squares, products), sums = _move_on(sums, means, ssim, warp)
            # The row of windows that begins here is the last one that holds this row of pixels.
            inside = (i >= margin) & (column < width) & (row < height)
            place = row * width + column
            a, b = load(one, place, inside), load(other, place, inside)
            store(out, place, (mean + 2 * a * squares + b * products) / (rows * columns), inside)
            return sums

        lax.fori_loop(0, _STRIP + margin, down, [[zeros()] * margin for _ in range(3)])

    return warp.launch(
        "ssim_gradient",
        kernel,
        (-(-width // LANES), -(-height // _STRIP)),
        jax.ShapeDtypeStruct((height * width,), jnp.float32),
        *(array.reshape(-1) for array in (one, other, by_mean, maps.by_squares, maps.by_products)),
    ).reshape(height, width)


def _move_on(sums, values, ssim: Ssim, warp: Warp):
    """Adds a row to the sums of the windows that hold it.

    The nth sum is that of the window whose last row is n + 1 rows ahead.

    Returns:
        The means of the windows that end with this row, and the sums of the others.
    """
    ended, moved = [], []
    for places, value in zip(sums, values, strict=True):
        after = [*places[1:], zeros()]
        ended.append(warp.fma(value, ssim.taps[-1], places[0]))
        taps = ssim.taps[-2::-1]
        moved.append([warp.fma(value, tap, place) for place, tap in zip(after, taps, strict=True)])
    return ended, moved
