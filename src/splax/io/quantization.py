"""Numbers in few bits, for several compressed splat formats: bytes, logits, quaternions."""

import numpy as np
from jaxtyping import Float, Int, UInt8

_SQRT2 = 2**0.5


def to_bytes(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Rounds numbers to whole numbers of 0 to 255; numbers outside of this range are clipped."""
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def sigmoid(logits: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The opacities that have these logits."""
    return 1 / (1 + np.exp(-np.clip(logits, -80, 80)))


def logit(opacities: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The logits of opacities in [0, 1]; infinite for exactly 0 and 1."""
    return np.log(opacities) - np.log1p(-opacities)


def unit_quats(quats: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """The quaternions scaled to length 1; none may be zero."""
    # They are divided by their largest component first, as squares of very small or large numbers leave float32.
    quats = quats / np.abs(quats).max(axis=1, keepdims=True)
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def smallest_three(
    quats: Float[np.ndarray, "n 4"],
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """The three smallest components of unit quaternions, which determine them, in any order of components.

    The sign of a quaternion is chosen so that its largest component is positive: it follows from the others.

    Returns:
        Index of the largest component, [n], and the others in their order times sqrt(2), in [-1, 1], [n, 3].
    """
    largest = np.abs(quats).argmax(axis=1)
    sign = np.sign(np.take_along_axis(quats, largest[:, None], axis=1))
    others = (quats * sign)[np.arange(4) != largest[:, None]].reshape(-1, 3)
    return largest, others * np.float32(_SQRT2)


def from_smallest_three(
    largest: Int[np.ndarray, " n"], others: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 4"]:
    """Inverse of :func:`smallest_three`."""
    others = others / np.float32(_SQRT2)
    quats = np.empty((len(others), 4), others.dtype)
    stored = np.arange(4) != largest[:, None]
    quats[stored] = others.ravel()
    quats[~stored] = np.sqrt(np.maximum(0, 1 - (others**2).sum(axis=1)))
    return quats
