"""Reads datasets of LLFF: ``poses_bounds.npy`` next to a folder of images.

Each row of the array holds a 3 x 5 matrix, row by row, and the nearest and farthest depth. The matrix maps camera
to world with axes (down, right, backward); its fifth column is (height, width, focal length). Rows are in the
order of the images' names (Mildenhall et al. 2019, "Local Light Field Fusion").
"""

from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from splax.data.colmap_lens import ColmapLens
from splax.data.layout import downscaled_hint, find_downscaled, find_mask, list_images
from splax.data.photo_reader import Photo
from splax.data.poses import LLFF, to_viewmat
from splax.data.scene_builder import ReadOptions, build_scene, fixed_lens
from splax.files.npy import read_npy
from splax.scene import Scene

_NAME = "poses_bounds.npy"


def find_llff(path: Path) -> Path | None:
    """The file of poses for ``path``: the file itself, or in the folder, or above a folder of images; or None."""
    if path.is_file():
        return path if path.name == _NAME else None
    folders = [path, path.absolute().parent] if path.name.startswith("images") else [path]
    return next((folder / _NAME for folder in folders if (folder / _NAME).is_file()), None)


def load_llff(poses_path: Path, options: ReadOptions) -> Scene:
    """Reads the poses and the images in ``images``.

    For a whole ``downscale``, say 8, the copies in ``images_8`` are used if they are smaller by exactly that
    factor. Without ``images`` they are all that is read.

    Args:
        poses_path: path of the file ``poses_bounds.npy``.
        options: options for reading the images.

    Raises:
        ValueError: if the file is damaged, or does not hold a pose for each image.
    """
    try:
        rows = read_npy(poses_path)
    except ValueError as error:
        raise ValueError(f"{poses_path} {error}.") from error
    if rows.ndim != 2 or rows.shape[1] not in (15, 17):
        raise ValueError(f"{poses_path} must hold 17 numbers for each image, got shape {list(rows.shape)}.")
    root = poses_path.parent
    folder = _image_folder(root, options.downscale)
    paths = list_images(folder)
    if len(paths) != len(rows):
        raise ValueError(
            f"{poses_path} holds {len(rows)} poses, but there are {len(paths)} images in {folder}; only "
            f"the order of names joins them. Remove the images without a pose, or estimate the poses again."
        )
    photos = []
    for path, row in zip(paths, rows.astype(np.float64), strict=True):
        label = f"{poses_path}: image {path.name}"
        name = PurePosixPath(path.name)
        lens = _lens(row, label)
        photos.append(
            Photo(
                name=path.name,
                path=path,
                viewmat=to_viewmat(row[:15].reshape(3, 5)[:, :4], LLFF, f"{label}: its pose"),
                lens=fixed_lens(lens, label),
                label=label,
                size=(lens.width, lens.height),
                downscaled=find_downscaled(root, name, options.downscale),
                mask=find_mask(root, name),
            )
        )
    return build_scene(photos, options, source=poses_path, dataset_type="llff", left_out=[])


def _image_folder(root: Path, downscale: float) -> Path:
    """The folder of images whose order is that of the poses: ``images``, or the copies if there is none.

    Raises:
        ValueError: if there are no images; the message names the folders of smaller copies.
    """
    copies = root / f"images_{downscale:g}"
    for folder in (root / "images", copies):
        if folder.is_dir() and list_images(folder):
            return folder
    raise ValueError(f"{root / 'images'} holds no images, or is no folder.{downscaled_hint(root)}")


def _lens(row: Float[np.ndarray, " numbers"], label: str) -> ColmapLens:
    height, width, focal = row[4:15:5].tolist()
    try:
        return ColmapLens("SIMPLE_PINHOLE", (focal, width / 2, height / 2), width, height)
    except ValueError as error:
        raise ValueError(f"{label}: {error}.") from error
