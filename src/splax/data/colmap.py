"""Reads datasets of COLMAP: a sparse model and the images that it was made from."""

from pathlib import Path, PurePosixPath

from splax.data.colmap_lens import ColmapLens
from splax.data.colmap_model import ModelImage, find_model, is_model, read_cameras, read_images, read_points
from splax.data.layout import downscaled_hint, find_downscaled, find_mask, first_file, relative_path
from splax.data.photo_reader import Photo
from splax.data.scene_builder import LeftOut, ReadOptions, build_scene, fixed_lens
from splax.data.tracks import points_of_photos
from splax.files.image_header import ImageError
from splax.files.limits import shorten
from splax.scene import Scene

_TRIED = 20  # images of the model that are searched for, in order to find the dataset's folder


def find_colmap(path: Path) -> Path | None:
    """The folder of the model for ``path``: a dataset's folder, its ``images``, or the model; None if none."""
    model = find_model(path)
    if model is None and path.name.startswith("images"):
        model = find_model(path.absolute().parent)
    return model


def load_colmap(model: Path, options: ReadOptions) -> Scene:
    """Reads a COLMAP model, as .bin or .txt, and its images.

    The dataset's folder is the nearest one, from the model's folder upwards, that holds the images, either in
    ``images`` or directly. Masks are read from ``masks`` there. For a whole ``downscale``, say 4, the copies in
    ``images_4`` are used if they are smaller than the model's cameras by exactly that factor. Cameras may differ
    in camera model and size. They are scaled if the images have another size.

    Args:
        model: folder with cameras, images and points3D.
        options: options for reading the images.

    Raises:
        ValueError: if the model is damaged or no image is usable.
    """
    cameras, images, points = read_cameras(model), read_images(model), read_points(model)
    root = _find_root(model, images, options)
    left_out: LeftOut = []
    photos: dict[str, Photo] = {}
    tracks = points_of_photos(points, ((image.point_ids, image.point_pixels) for image in images))
    for image, shown in zip(images, tracks, strict=True):
        label = f"{model}: image {shorten(image.name)}"
        if image.camera_id not in cameras:
            raise ValueError(
                f"{label} has camera {image.camera_id}, which the model lacks. Export the model again."
            )
        try:
            photo = _make_photo(image, cameras[image.camera_id], root, label, options)._replace(points=shown)
        except ImageError as error:
            left_out.append((image.name, str(error)))
            continue
        if photo.name in photos:
            left_out.append((image.name, "listed more than once"))
        else:
            photos[photo.name] = photo
    if not photos:
        raise ValueError(_no_images(root, model, images))
    return build_scene(
        list(photos.values()),
        options,
        source=model,
        dataset_type="colmap",
        left_out=left_out,
        points=points,
        notes=_notes(model),
    )


def _find_root(model: Path, images: list[ModelImage], options: ReadOptions) -> Path:
    """The folder that the names of images are relative to; the one above ``sparse`` if no image is found."""
    folders = [model, *model.absolute().parents[:3]]
    for root in folders:
        for image in images[:_TRIED]:
            try:
                if any(_find_image(root, relative_path(image.name), options)):
                    return root
            except ImageError:
                continue
    above = {"0": model.absolute().parent.parent, "sparse": model.absolute().parent}
    return above.get(model.name, model)


def _find_image(root: Path, name: PurePosixPath, options: ReadOptions) -> tuple[Path | None, Path | None]:
    """The image and its smaller copy; None for each that does not exist."""
    return first_file([root / "images" / name, root / name]), find_downscaled(root, name, options.downscale)


def _make_photo(image: ModelImage, camera: ColmapLens, root: Path, label: str, options: ReadOptions) -> Photo:
    name = relative_path(image.name)
    path, downscaled = _find_image(root, name, options)
    path = path or downscaled
    if path is None:
        raise ImageError("no such file")
    return Photo(
        name=name.as_posix(),
        path=path,
        viewmat=image.viewmat,
        lens=fixed_lens(camera, label),
        label=label,
        size=(camera.width, camera.height),
        downscaled=downscaled,
        mask=find_mask(root, name),
    )


def _notes(model: Path) -> list[str]:
    """A warning if the reconstruction fell into several models, which names those that are not read."""
    folder = model.absolute().parent
    if folder.name != "sparse":
        return []
    others = sorted(other.name for other in folder.iterdir() if other.name != model.name and is_model(other))
    if not others:
        return []
    listed = ", ".join(others[:5])
    return [
        f"the reconstruction has {len(others)} more models next to this one, which are not read: {listed}."
    ]


def _no_images(root: Path, model: Path, images: list[ModelImage]) -> str:
    if not images:
        return f"{model} holds no image: the reconstruction is empty. Export another model."
    folders = (root, model, *model.absolute().parents[:3])  # without images, the dataset's folder is a guess
    hint = next(filter(None, map(downscaled_hint, folders)), "")
    return (
        f"{model}: none of its {len(images)} images is there, such as {shorten(images[0].name)}. Expected them "
        f"in {root / 'images'}, or in {root}.{hint}"
    )
