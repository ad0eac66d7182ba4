"""Training with a fixed number of Gaussians: those of the garden, disturbed, learn what they looked like."""

import pathlib

import jax.numpy as jnp
import numpy as np
from garden import Row, View, make_view
from training_start import Start

from splax import scene as scenes
from splax.cameras import Camera
from splax.rasterizer import TileRasterizer

# Standard deviations: of positions in scales, of log scales, and of the colour's first coefficient.
_MOVED, _RESIZED, _RECOLORED = 0.5, 0.1, 0.1


def garden_scene(row: str, garden: pathlib.Path) -> tuple[scenes.Scene, Start]:
    """Renderings as photos, the same for training and for the test, and what to start from.

    Args:
        row: scene, picture and cameras, see :class:`garden.Row`.
        garden: gsplat's test_garden.npz.

    Raises:
        ValueError: on a malformed row.
    """
    view = make_view(Row.parse(row), garden)
    start = Start(view.means, view.quats, view.scales, view.opacities, view.sh)
    photos = _render(view, start)
    test = [scenes.View(photo.image, photo.camera, f"test {photo.name}") for photo in photos]
    return scenes.Scene(photos, test, source=row), _disturbed(start)


def _render(view: View, start: Start) -> list[scenes.View]:
    gaussians = start.gaussians()
    photos = []
    for index, (viewmat, K) in enumerate(zip(view.viewmats, view.Ks, strict=True)):
        camera = Camera(viewmat=jnp.asarray(viewmat), K=jnp.asarray(K), width=view.width, height=view.height)
        image = np.asarray(TileRasterizer(render_depth=False)(gaussians, camera).image)
        photos.append(scenes.View((255 * image.clip(0, 1)).round().astype(np.uint8), camera, str(index)))
    return photos


def _disturbed(start: Start) -> Start:
    rng = np.random.default_rng(0)

    def noise(array: np.ndarray, deviation: float) -> np.ndarray:
        return deviation * rng.standard_normal(array.shape, dtype=np.float32)

    sh = start.sh.copy()
    sh[:, 0] += noise(sh[:, 0], _RECOLORED)
    return Start(
        means=start.means + start.scales * noise(start.means, _MOVED),
        quats=start.quats,
        scales=start.scales * np.exp(noise(start.scales, _RESIZED)),
        opacities=start.opacities,
        sh=sh,
    )
