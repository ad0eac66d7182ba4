"""The data of the quality table: ``PATH[@DOWNSCALE][+DISTURBANCE...]``, and where training on it starts."""

import contextlib
import hashlib
import io
import os
import pathlib
import re
import secrets
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from disturbances import DISTURBANCES
from flax import nnx
from forward_facing import make_forward_scene
from quality_rows import safe_name

from splax.cameras import Camera
from splax.cli.commands.train import Train
from splax.cli.flat_options import flatten, replace
from splax.cli.setup import start_of
from splax.data.formats import load_dataset
from splax.gaussians import Gaussians
from splax.scene import Scene, View
from splax.training.start import Start

# Stands for the synthetic set in place of a path.
FORWARD = "forward"
FORWARD_SIZE = (480, 360)
# Options that decide where training starts, besides the data itself.
_START = ("init", "depth_model", "num_gaussians", "max_gaussians", "sh_degree")
# And those that decide how photos are read.
_READING = ("dataset_type", "test_every", "white_background")
_START_SEED = 0


class DataSet(NamedTuple):
    """What is trained on.

    Attributes:
        path: folder of a dataset, or "forward".
        downscale: photos are smaller by this factor.
        disturbances: what is done to it, names of :data:`disturbances.DISTURBANCES`.
    """

    path: str
    downscale: float = 1.0
    disturbances: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "DataSet":
        """Reads ``PATH[@DOWNSCALE][+DISTURBANCE...]``.

        Raises:
            ValueError: on anything else.
        """
        match = re.fullmatch(r"(?P<path>[^@+]+)(@(?P<downscale>[0-9.]+))?(?P<rest>(\+[a-z]+)*)", text)
        names = tuple(match["rest"].split("+")[1:]) if match else ()
        if match is None or not set(names) <= DISTURBANCES.keys() or len(set(names)) < len(names):
            raise ValueError(
                f"--data must be PATH[@DOWNSCALE][+DISTURBANCE...], such as data/fox@2+gains, with disturbances "
                f"from {', '.join(DISTURBANCES)}, each once; got {text!r}."
            )
        path = pathlib.PurePath(match["path"]).as_posix()
        return cls(path, float(match["downscale"] or 1), tuple(sorted(names)))

    def __str__(self) -> str:
        """The same text for the same data."""
        scale = f"@{self.downscale:g}" if self.downscale != 1 else ""
        return f"{self.path}{scale}" + "".join(f"+{name}" for name in self.disturbances)


class Photos(NamedTuple):
    """What a run sees, and what is true.

    Attributes:
        scene: to train on.
        truth: the same before anything was disturbed.
    """

    scene: Scene
    truth: Scene


def load_photos(data: DataSet, options: Train, cache: pathlib.Path) -> Photos:
    """Reads the data and disturbs it.

    Args:
        data: which.
        options: how photos are read.
        cache: folder to keep ray traced photos in.

    Raises:
        ValueError: if it cannot be read.
    """
    truth = (
        _forward(data.downscale, options.photos.test_every, cache)
        if data.path == FORWARD
        else _load(data, options)
    )
    scene = truth
    for name in data.disturbances:
        scene = DISTURBANCES[name](scene)
    return Photos(scene, truth)


def find_start(data: DataSet, scene: Scene, options: Train, cache: pathlib.Path) -> Start:
    """Where all runs on this data start, whatever their seed: found once, then kept in a file.

    Raises:
        ValueError: if the scene does not allow what was asked for.
    """
    deciding = {name: flatten(options)[name] for name in _START + _READING}
    path = cache / f"{_kept_name(str(data), deciding)}.npz"
    if not path.exists():
        _write_start(path, start_of(scene, replace(options, seed=_START_SEED)))
    return _read_start(path)


def reading_of(options: Train) -> dict[str, Any]:
    """Of the options, those that say how photos are read."""
    return {name: flatten(options)[name] for name in _READING}


def _load(data: DataSet, options: Train) -> Scene:
    return load_dataset(data.path, downscale=data.downscale, **reading_of(options))


def _forward(downscale: float, test_every: int, cache: pathlib.Path) -> Scene:
    """The synthetic set, kept since it takes a minute to make."""
    width, height = (round(size / downscale) for size in FORWARD_SIZE)
    path = cache / f"{FORWARD}-{width}x{height}-{test_every}.npz"
    if not path.exists():
        _write_scene(path, make_forward_scene(width=width, height=height, test_every=test_every))
    return _read_scene(path)


def _write_scene(path: pathlib.Path, scene: Scene) -> None:
    views = [*scene.train, *scene.test]
    arrays: dict[str, Any] = {
        name: [getattr(view.camera, name) for view in views] for name in ("viewmat", "K")
    }
    arrays |= {name: [getattr(view, name) for view in views] for name in ("image", "name")}
    _write_first(path, {**arrays, "num_train": len(scene.train), "source": scene.source})


def _read_scene(path: pathlib.Path) -> Scene:
    with np.load(path) as file:
        arrays = dict(file)
    height, width = arrays["image"].shape[1:3]
    views = [
        View(
            image,
            Camera(viewmat=jnp.asarray(viewmat), K=jnp.asarray(K), width=width, height=height),
            str(name),
        )
        for image, viewmat, K, name in zip(
            *(arrays[n] for n in ("image", "viewmat", "K", "name")), strict=True
        )
    ]
    num_train = int(arrays["num_train"])
    return Scene(views[:num_train], views[num_train:], source=str(arrays["source"]))


def _write_start(path: pathlib.Path, start: Start) -> None:
    params = nnx.state(start.gaussians.compact(), nnx.Param)
    arrays = {str(name): np.asarray(param[...]) for name, param in params.items()}
    facts = {f"start_{name}": getattr(start, name) for name in ("kind", "reason", "trained")}
    _write_first(path, arrays | facts)


def _read_start(path: pathlib.Path) -> Start:
    with np.load(path) as file:
        arrays = dict(file)
    kind, reason, trained = (arrays.pop(f"start_{name}").item() for name in ("kind", "reason", "trained"))
    return Start(Gaussians(**jax.device_put(arrays)), kind, reason, trained)


def _write_first(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    """Writes a file unless another process was quicker: what is read from then on is the first one's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    temporary = path.with_name(f".{secrets.token_hex(6)}")
    temporary.write_bytes(buffer.getvalue())
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()


def _kept_name(data: str, deciding: dict[str, Any]) -> str:
    """Readable, and different for what differs."""
    digest = hashlib.sha256(repr((data, sorted(deciding.items()))).encode()).hexdigest()[:10]
    return f"{safe_name(data)}-{digest}"
