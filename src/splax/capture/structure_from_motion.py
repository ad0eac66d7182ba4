"""Estimates cameras by structure from motion with COLMAP (Schönberger and Frahm 2016), on the CPU."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from splax.capture.progress import run_with_bar

# More features do not match better, and the time of matching grows with the square of their number.
_MAX_FEATURES = 4096
# Photos that are matched together, which decides how often the progress bar moves.
_BLOCK = 10
# Frames of a video with more frames than this are not compared with all others, only with those before and after.
_MAX_EXHAUSTIVE_FRAMES = 150
_OVERLAP = 20


class Reconstruction(NamedTuple):
    """Cameras and points that structure from motion found.

    Attributes:
        num_images: number of registered photos, that is of those with a camera.
        num_points: number of points in space.
        error: mean distance between a projected point and its observations, in pixels.
        num_models: number of models that the photos fell into; only the largest is kept.
    """

    num_images: int
    num_points: int
    error: float
    num_models: int


def require_pycolmap() -> Any:
    """Imports pycolmap.

    Returns:
        The module.

    Raises:
        ImportError: if pycolmap is not installed.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise ImportError(
            "Cameras are estimated with pycolmap: pip install pycolmap, or with splax: pip install -e '.[sfm]'."
        ) from error
    return pycolmap


def estimate_cameras(
    images: Path,
    names: Sequence[str],
    model: Path,
    scratch: Path,
    *,
    is_video: bool,
    one_camera: bool,
    max_size: int,
    progress: bool | None = None,
) -> Reconstruction | None:
    """Estimates cameras and points, and writes the largest model.

    Args:
        images: folder of the photos.
        names: file names of the photos to use.
        model: folder to which cameras, images and points3D are written as .bin; must exist.
        scratch: folder for COLMAP's database; must exist.
        is_video: whether the photos are frames of a video, in the order of time.
        one_camera: whether one camera took all photos at one zoom and one size.
        max_size: longer side, in pixels, to which photos are reduced before features are extracted.
        progress: whether to show progress bars; None shows them only on a terminal.

    Returns:
        The largest reconstruction; None if no two photos match.

    Raises:
        ImportError: if pycolmap is not installed.
    """
    pycolmap = require_pycolmap()
    database = scratch / "database.db"
    token = pycolmap.CancellationToken()
    shared = {"cancel": token.cancel, "show": progress}
    with _quiet(pycolmap):
        run_with_bar(
            "Features",
            len(names),
            lambda: _extract(pycolmap, database, images, names, one_camera, max_size, token),
            lambda: _count(database, "descriptors"),
            **shared,
        )
        sequential = is_video and len(names) > _MAX_EXHAUSTIVE_FRAMES
        run_with_bar(
            "Matches",
            None if sequential else len(names) * (len(names) - 1) // 2,
            lambda: _match(pycolmap, database, sequential, token),
            lambda: _count(database, "two_view_geometries"),
            **shared,
        )
        registered: list[int] = []
        models = run_with_bar(
            "Cameras",
            None,
            lambda: _map(pycolmap, database, images, scratch, registered, token),
            lambda: len(registered),
            **shared,
        )
    return _write_largest(models, model)


def _write_largest(models: Sequence[Any], folder: Path) -> Reconstruction | None:
    if not models:
        return None
    best = max(models, key=lambda found: (found.num_reg_images(), found.num_points3D()))
    best.write_binary(folder)
    return Reconstruction(
        best.num_reg_images(), best.num_points3D(), best.compute_mean_reprojection_error(), len(models)
    )


def _extract(
    pycolmap: Any,
    database: Path,
    images: Path,
    names: Sequence[str],
    one_camera: bool,
    max_size: int,
    token: Any,
) -> None:
    reader = pycolmap.ImageReaderOptions()
    # A single photo does not determine as many params of a lens as all photos of one camera do.
    reader.camera_model = "OPENCV" if one_camera else "SIMPLE_RADIAL"
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.max_image_size = max_size
    extraction.sift.max_num_features = _MAX_FEATURES
    extraction.use_gpu = False
    pycolmap.extract_features(
        database,
        images,
        image_names=list(names),
        camera_mode=pycolmap.CameraMode.SINGLE if one_camera else pycolmap.CameraMode.AUTO,
        reader_options=reader,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
        cancellation_token=token,
    )


def _match(pycolmap: Any, database: Path, sequential: bool, token: Any) -> None:
    device = pycolmap.Device.cpu
    if sequential:
        pairing = pycolmap.SequentialPairingOptions()
        pairing.overlap = _OVERLAP
        pairing.quadratic_overlap = True
        pycolmap.match_sequential(database, pairing_options=pairing, device=device, cancellation_token=token)
    else:
        pairing = pycolmap.ExhaustivePairingOptions()
        pairing.block_size = _BLOCK
        pycolmap.match_exhaustive(database, pairing_options=pairing, device=device, cancellation_token=token)


def _map(
    pycolmap: Any, database: Path, images: Path, scratch: Path, registered: list[int], token: Any
) -> list[Any]:
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 3
    options.random_seed = 0
    folder = scratch / "models"
    folder.mkdir()

    def one_more() -> None:
        registered.append(1)

    models = pycolmap.incremental_mapping(
        database,
        images,
        folder,
        options=options,
        initial_image_pair_callback=one_more,
        next_image_callback=one_more,
        cancellation_token=token,
    )
    return list(models.values())


def _count(database: Path, table: str) -> int:
    """Number of rows of a table that COLMAP may be writing to; 0 if it cannot be read now."""
    # Immutable means that no lock is taken: COLMAP does not wait for a lock but dies. The number may be nonsense.
    uri = f"{database.absolute().as_uri()}?immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as reader:
            return int(reader.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
    except sqlite3.Error:
        return 0


@contextmanager
def _quiet(pycolmap: Any) -> Iterator[None]:
    """Suppresses COLMAP's hundreds of lines on standard error."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before
