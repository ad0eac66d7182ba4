"""Whether two methods draw the same image: a benchmark of different pictures would mean nothing."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dense_topk import MAX_GAUSSIANS_PER_TILE, TILE_SIZE, Thresholds
from jaxtyping import Bool
from methods import Method, dense_output
from workloads import Workload

# Relative distance to a threshold within which rounding decides on which side a Gaussian falls.
BAND = 1e-3


class Agreement(NamedTuple):
    """How far two methods are apart.

    Attributes:
        image: largest difference over the pixels compared; colours are about 1.
        gradient: length of the difference of the gradients, relative to their length.
        share: of the pixels that could be compared.
    """

    image: float
    gradient: float
    share: float


class Comparable(NamedTuple):
    """Pixels at which the dense method should draw what splax draws, and the lists of its tiles.

    Attributes:
        mask: neither in the threshold band nor in a tile whose list the dense method cuts, [H, W].
        mean_list: mean number of Gaussians touching a tile.
        longest_list: the largest.
    """

    mask: Bool[np.ndarray, "h w"]
    mean_list: float
    longest_list: int


def comparable_pixels(workload: Workload) -> Comparable:
    """The band is where moving both thresholds by a little changes the dense method's image."""
    outputs = [
        dense_output(workload, jax.tree.map(lambda x, factor=factor: jnp.float32(x * factor), Thresholds()))
        for factor in (1 - BAND, 1, 1 + BAND)
    ]
    images = np.stack([output.image for output in outputs])
    in_band = (images != images[1]).any(axis=(0, -1))
    lengths = np.asarray(outputs[1].list_lengths)
    height, width = in_band.shape
    cut = np.kron(lengths > MAX_GAUSSIANS_PER_TILE, np.ones((TILE_SIZE, TILE_SIZE), bool))[:height, :width]
    return Comparable(~in_band & ~cut, float(lengths.mean()), int(lengths.max()))


def compare(ours: Method, other: Method, mask: Bool[np.ndarray, "h w"], workload: Workload) -> Agreement:
    """Compares image and gradients over the pixels of ``mask``."""
    difference = np.abs(np.asarray(ours.forward()) - np.asarray(other.forward()))[mask]
    v_image = np.where(mask[..., None], workload.v_image, np.float32(0))
    a, b = (_flat_gradient(method.backward(v_image)) for method in (ours, other))
    return Agreement(
        image=float(difference.max(initial=0)),
        gradient=float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)),
        share=float(mask.mean()),
    )


def _flat_gradient(result: Any) -> np.ndarray:
    """All gradients in one vector; JAX methods give the value beside them."""
    gradients = result[1] if isinstance(result, tuple) else result
    return np.concatenate([np.asarray(gradients[name]).ravel() for name in sorted(gradients)])
