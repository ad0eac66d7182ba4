"""The folder of a run: names, reads and writes its files. Every file is whole or absent."""

from __future__ import annotations

import io
import json
import math
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from splax.cli.folder_lock import FolderLock
from splax.cli.provenance import versions
from splax.cli.saved_corrections import read_corrections
from splax.corrections.base import Correction
from splax.files.atomic import write_whole
from splax.files.json import read_json
from splax.files.ply import is_antialiased, read_ply_header
from splax.gaussians import Gaussians
from splax.io.ply import load_ply, save_ply
from splax.reports.images import contact_sheet, save_curve, save_png
from splax.training.progress import Progress

POINT_CLOUD = "point_cloud.ply"
CONFIG = "config.json"
METRICS = "metrics.json"
LOG = "train.log.jsonl"
LOSS_CURVE = "loss.png"
SCORES = "scores.jsonl"
EVAL = "eval"
CONTACT_SHEET = "contact_sheet.png"
# Written by `splax render`, unless it is given another folder.
RENDER = "render"
CORRECTIONS = "corrections"
CAMERAS = f"{CORRECTIONS}/cameras.json"
CHECKPOINTS = "checkpoints"


class RunFolder:
    """The files of a run. Their names are the constants of this module.

    A run that writes to the folder locks it, until the end of the ``with`` block of the RunFolder.

    Attributes:
        path: path of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FolderLock | None = None
        self._overwrite = True
        # The settings of the run that is written, for a folder that is deleted meanwhile.
        self._config: bytes | None = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @classmethod
    def create(cls, path: Path, *, overwrite: bool) -> RunFolder:
        """The folder of a new run; this method writes nothing yet.

        Args:
            path: path of the folder, which need not exist.
            overwrite: whether to replace a run that the folder holds.

        Raises:
            ValueError: if the path is that of a file, the folder holds a run that must not be replaced, or another
                process is writing a run to it.
        """
        if path.exists() and not path.is_dir():
            raise ValueError(f"--out {path} is a file; give the path of a folder for the run.")
        folder = cls(path)
        folder._overwrite = overwrite
        if path.is_dir():
            folder._lock = FolderLock(path)
        try:
            folder._check_replaceable()
        except ValueError:
            folder.__exit__()
            raise
        return folder

    def _check_replaceable(self) -> None:
        """Raises ValueError if the folder holds a run that must not be replaced."""
        path, overwrite = self.path, self._overwrite
        if not overwrite and (path / CHECKPOINTS).exists() and not (path / METRICS).exists():
            raise ValueError(
                f"--out {path} holds a run that was stopped; resume it with `splax train --resume {path}`, "
                "choose another folder, or replace it with --overwrite."
            )
        if not overwrite and _is_finished(path):
            raise ValueError(
                f"--out {path} already holds a run; choose another folder, or replace the run with `splax train "
                "--overwrite`."
            )

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a finished run.

        Args:
            path: path of the folder.

        Raises:
            ValueError: if the folder does not exist, or holds no finished run.
        """
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder; expected a run written by `splax train --out {path}`.")
        for name in (CONFIG, POINT_CLOUD):
            if not (path / name).is_file():
                raise ValueError(
                    f"{path} is not a finished run: it has no {name}; expected a folder of `splax train`."
                )
        return cls(path)

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """The folder of a run that was begun, and may be finished.

        Args:
            path: path of the folder.

        Raises:
            ValueError: if no run was begun there, or another process is writing to it.
        """
        if not (path / CONFIG).is_file():
            raise ValueError(f"--resume {path}: no run was begun there; it has no {CONFIG}.")
        folder = cls(path)
        folder._lock = FolderLock(path)
        folder._config = (path / CONFIG).read_bytes()
        return folder

    @staticmethod
    def is_run(path: Path) -> bool:
        """Whether a folder is that of a run, finished or not; datasets may have a config.json, too."""
        if not (path / CONFIG).is_file():
            return False
        try:
            return read_json(path / CONFIG).keys() >= {"data", "steps"}
        except ValueError:
            return (path / POINT_CLOUD).is_file()

    def begin(self, config: dict[str, Any]) -> None:
        """Makes the folder, removes the files of an earlier run, and writes the settings of this one.

        Args:
            config: settings of the run; versions are added to them.

        Raises:
            ValueError: if the folder cannot be written to, or another run was begun there in the meantime.
        """
        if self._lock is None:
            self._make_folder()
            self._lock = FolderLock(self.path)
            self._check_replaceable()
        old = [self.path / name for name in (POINT_CLOUD, METRICS, LOG, LOSS_CURVE, SCORES, CONTACT_SHEET)]
        old += [
            *(self.path / EVAL).glob("*.png"),
            *(self.path / CORRECTIONS).glob("*.npy"),
            *(self.path / RENDER).glob("*/*.png"),
            *(self.path / RENDER).glob("*.mp4"),
            self.path / CAMERAS,
        ]
        for file in filter(Path.is_file, old):
            try:
                file.unlink()
            except OSError as error:
                raise ValueError(f"{file} cannot be removed: {error.strerror or error}.") from error
        if (self.path / CHECKPOINTS).is_dir():
            shutil.rmtree(self.path / CHECKPOINTS)
        self._write_json(CONFIG, {**config, "versions": versions()})
        self._config = (self.path / CONFIG).read_bytes()

    def _make_folder(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error.strerror or error}.") from error

    def read_config(self) -> dict[str, Any]:
        """The settings of the run, as :meth:`begin` wrote them.

        Raises:
            ValueError: if the file is damaged.
        """
        return self._read_json(CONFIG)

    def write_log(self, history: Sequence[Progress]) -> None:
        """Writes one line for each compiled call."""
        self._write_config_again()
        lines = [json.dumps(_plain(progress._asdict())) for progress in history]
        write_whole(self.path / LOG, ("\n".join(lines) + "\n").encode())

    def write_scores(self, step: int, scores: dict[str, Any]) -> None:
        """Adds a line of mean scores, and removes the lines of this step and of later ones.

        Args:
            step: the step of the run at which the scores were measured.
            scores: the scores by name.

        Raises:
            ValueError: if the file is damaged, or cannot be written.
        """
        self.forget_scores_from(step)
        path = self.path / SCORES
        lines = path.read_bytes() if path.is_file() else b""
        write_whole(path, lines + (json.dumps(_plain({"step": step, **scores})) + "\n").encode())

    def forget_scores_from(self, step: int) -> None:
        """Removes the lines of a step and of later steps; a run that is resumed there writes them again.

        Args:
            step: the first step whose line is removed.

        Raises:
            ValueError: if the file is damaged, or cannot be written.
        """
        path = self.path / SCORES
        if path.is_file():
            try:
                lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] < step]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{path} is damaged: expected a json object with 'step' in each line."
                ) from error
            write_whole(path, "".join(line + "\n" for line in lines).encode())

    def write_gaussians(self, gaussians: Gaussians, *, antialiased: bool) -> None:
        """Writes the splat file.

        Args:
            gaussians: the Gaussians to write, those alive.
            antialiased: whether the Gaussians were trained with ``TileRasterizer(antialiased=True)``.
        """
        self._write_config_again()
        save_ply(self.path / POINT_CLOUD, gaussians, antialiased=antialiased)

    def write_correction(self, name: str, params: np.ndarray) -> None:
        """Writes the Params of a correction, one row for each training view, [V, ...]."""
        data = io.BytesIO()
        np.save(data, params, allow_pickle=False)
        write_whole(self.path / CORRECTIONS / f"{name}.npy", data.getvalue())

    def write_cameras(self, cameras: dict[str, Any]) -> None:
        """Writes the refined training cameras."""
        self._write_json(CAMERAS, cameras)

    def write_loss_curve(self, history: Sequence[Progress]) -> None:
        """Draws the training loss over the steps, if there is any."""
        if history:
            steps = np.array([entry.step for entry in history])
            losses = np.array([entry.loss for entry in history])
            save_curve(self.path / LOSS_CURVE, steps, losses, title="training loss", xlabel="step")

    def write_image(self, name: str, image: np.ndarray) -> None:
        """Writes the image of a held-out view.

        Args:
            name: name of the file, from :class:`splax.cli.image_names.ImageNames`.
            image: the image, [H, W, 3].
        """
        save_png(self.path / EVAL / name, image)

    def write_contact_sheet(self, images: Sequence[np.ndarray]) -> None:
        """Writes images of held-out views on one sheet, if there are any."""
        if images:
            save_png(self.path / CONTACT_SHEET, contact_sheet(images))

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Writes scores and facts of the run."""
        self._write_json(METRICS, metrics)

    def read_metrics(self) -> dict[str, Any]:
        """The metrics as last written; empty if there are none.

        Raises:
            ValueError: if the file is damaged.
        """
        return self._read_json(METRICS) if (self.path / METRICS).is_file() else {}

    def load_gaussians(self) -> Gaussians:
        """The Gaussians of the run.

        Raises:
            ValueError: if the file is damaged.
        """
        return load_ply(self.path / POINT_CLOUD)

    def is_antialiased(self) -> bool:
        """Whether the Gaussians were trained with ``TileRasterizer(antialiased=True)``, as their file says.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.path / POINT_CLOUD
        try:
            with path.open("rb") as file:
                return is_antialiased(read_ply_header(file).comments)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise ValueError(f"{path} {error}.") from error

    def load_corrections(self, num_views: int) -> dict[str, tuple[Correction, np.ndarray]]:
        """Reads the corrections that training learned; held-out views are drawn with them.

        Args:
            num_views: number of training views that the dataset has.

        Returns:
            Each correction and its Params, [V, ...], by the correction's name.

        Raises:
            ValueError: if a file is damaged, or belongs to another number of training views.
        """
        return read_corrections(self.path / CORRECTIONS, num_views)

    def _write_config_again(self) -> None:
        """Writes the settings of the run once more if its folder was deleted: other files need them."""
        if self._config is not None and not (self.path / CONFIG).exists():
            warnings.warn(
                f"{self.path} was deleted while the run was writing to it; it is made again.", stacklevel=2
            )
            write_whole(self.path / CONFIG, self._config)

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_whole(self.path / name, (json.dumps(_plain(content), indent=2) + "\n").encode())

    def _read_json(self, name: str) -> dict[str, Any]:
        return read_json(self.path / name)


def default_folder(data: Path, overwrite: bool) -> Path:
    """The folder of a run whose user names none: ``runs`` and the name of the dataset.

    Args:
        data: path of the dataset.
        overwrite: whether a run that is there can be replaced. If not, a number is added to the name.
    """
    place = data.expanduser().resolve()
    if place.is_file() or place.name == "images":
        place = place.parent
    path = first = Path("runs") / (place.name or "run")
    number = 2
    while not overwrite and _is_finished(path):
        path = first.with_name(f"{first.name}-{number}")
        number += 1
    return path


def _is_finished(path: Path) -> bool:
    return any((path / name).exists() for name in (POINT_CLOUD, METRICS))


def _plain(value: Any) -> Any:
    """A value as strict JSON has it: paths are strings, and numbers that are not finite are null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
