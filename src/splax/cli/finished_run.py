"""Reads a finished run with everything that it learned, to score or to render it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splax.cli.compilation_cache import keep_programs
from splax.cli.flat_options import unflatten
from splax.cli.options import PhotoOptions
from splax.cli.run_folder import CONFIG, RunFolder
from splax.cli.scenes import DEMO, load_scene
from splax.cli.setup import default_tile_size
from splax.files.limits import shorten
from splax.model import SplatModel
from splax.rasterizer import TileRasterizer
from splax.training.evaluator import Evaluator

# The entries of a run's config that name its scene, and the types that JSON gives them.
_SCENE_OPTIONS = {
    "data": str,
    "dataset_type": str | None,
    "downscale": int | float,
    "test_every": int,
    "white_background": bool,
}


def load_evaluator(folder: RunFolder, data: Path | None) -> Evaluator:
    """What draws and scores a finished run by the model and the corrections as training left them.

    Args:
        folder: the run.
        data: path of the photos; None: where they were in training.

    Raises:
        ValueError: if a file of the run is damaged, or the photos are not there.
    """
    config = folder.read_config()
    _check_scene_options(config, folder.path / CONFIG)
    if data is not None:
        config["data"] = str(data)
    elif config["data"] != DEMO and not Path(config["data"]).exists():
        raise ValueError(
            f"the photos of {folder.path} were in {config['data']}, which is not there any more; give their "
            "folder with --data."
        )
    keep_programs()
    rasterizer = TileRasterizer(default_tile_size(), antialiased=folder.is_antialiased(), render_depth=False)
    model = SplatModel(folder.load_gaussians(), rasterizer)
    scene = load_scene(config["data"], config["downscale"], unflatten(PhotoOptions, config))
    corrections = folder.load_corrections(len(scene.train))
    params = {name: params for name, (_, params) in corrections.items()}
    return Evaluator.of(model, scene, [correction for correction, _ in corrections.values()], params)


def _check_scene_options(config: dict[str, Any], path: Path) -> None:
    for key, kind in _SCENE_OPTIONS.items():
        value = config.get(key)  # runs of older versions have no dataset_type
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(
                f"{path} is damaged: {key!r} is {shorten(value)}; expected a file written by `splax train`."
            )
