"""A scene and what training starts from in one .npz file, for machines on which splax's readers cannot run.

Photos, and how opaque they are, are stored as PNG, which takes Pillow; masks are not stored.
"""

import io
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from training_start import Start

from splax.cameras import Camera
from splax.scene import Scene, View

_START = ("means", "quats", "scales", "opacities", "sh")


def save_arrays(path: pathlib.Path, scene: Scene, start: Start) -> None:
    """Writes both.

    Raises:
        ValueError: if views have masks.
    """
    views = [*scene.train, *scene.test]
    if any(view.has_mask for view in views):
        raise ValueError("views with masks cannot be saved; train on the data itself.")
    arrays: dict[str, Any] = {f"photo{index}": _encode(view.image) for index, view in enumerate(views)}
    arrays |= {
        f"alpha{index}": _encode(view.alpha) for index, view in enumerate(views) if view.alpha is not None
    }
    arrays |= {f"start_{name}": getattr(start, name) for name in _START}
    arrays |= {
        "names": np.array([view.name for view in views]),
        "num_train": len(scene.train),
        "viewmats": np.stack([view.camera.viewmat for view in views]),
        "Ks": np.stack([view.camera.K for view in views]),
        "background": np.array(scene.background),
    }
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, path)


def load_arrays(path: pathlib.Path) -> tuple[Scene, Start]:
    """Reads both."""
    with np.load(path) as data:
        views = []
        for index, name in enumerate(data["names"].tolist()):
            image = _decode(data[f"photo{index}"])
            alpha = _decode(data[f"alpha{index}"]) if f"alpha{index}" in data else None
            height, width = image.shape[:2]
            viewmat, K = (jnp.asarray(data[key][index]) for key in ("viewmats", "Ks"))
            camera = Camera(viewmat=viewmat, K=K, width=width, height=height)
            views.append(View(image, camera, name, alpha=alpha))
        num_train, background = int(data["num_train"]), tuple(data["background"].tolist())
        start = Start(**{name: data[f"start_{name}"] for name in _START})
    scene = Scene(views[:num_train], views[num_train:], background=background, source=str(path))
    return scene, start


def _encode(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return np.frombuffer(file.getvalue(), np.uint8)


def _decode(png: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.array(Image.open(io.BytesIO(png.tobytes())))
