"""The folder of one run: what was asked, what came out, and pictures of it. Every file is whole or absent."""

from __future__ import annotations

import io
import json
import math
import platform
import re
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

import splax
from splax.cli.saved_corrections import read_corrections
from splax.corrections.base import Correction
from splax.corrections.held_out import HeldOutViews
from splax.files.atomic import write_whole
from splax.files.json import read_json
from splax.files.ply import is_antialiased, read_ply_header
from splax.gaussians import Gaussians
from splax.io.ply import load_ply, save_ply
from splax.metrics.lpips import Network
from splax.reports.images import contact_sheet, save_curve, save_png, side_by_side
from splax.scene import Scene
from splax.training.evaluation import mean_scores, protocol
from splax.training.progress import Progress
from splax.training.trainer import Trainer

POINT_CLOUD = "point_cloud.ply"
CONFIG = "config.json"
METRICS = "metrics.json"
LOG = "train.log.jsonl"
LOSS_CURVE = "loss.png"
SCORES = "scores.jsonl"
EVAL = "eval"
CONTACT_SHEET = "contact_sheet.png"
CORRECTIONS = "corrections"
CAMERAS = f"{CORRECTIONS}/cameras.json"
MAX_SHEET_ROWS = 12
CHECKPOINTS = "checkpoints"
# Names of scores in the metrics; older versions wrote cc_*.
_SCORE = re.compile(r"(psnr|ssim|lpips|cc)(_|$)")


class RunFolder:
    """Files of a run, by name. See the module's constants.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, *, overwrite: bool) -> RunFolder:
        """A folder to write a new run into; nothing is written yet.

        Args:
            path: the folder, which need not exist.
            overwrite: whether the run that it may hold can be replaced.

        Raises:
            ValueError: if the path is a file, or holds a run that is not to be replaced.
        """
        if path.exists() and not path.is_dir():
            raise ValueError(f"--out {path} is a file; give the path of a folder for the run.")
        if not overwrite and (path / CHECKPOINTS).exists() and not (path / METRICS).exists():
            raise ValueError(
                f"--out {path} holds a run that was stopped; go on with it by `splax train --resume {path}`, "
                "choose another folder, or add --overwrite."
            )
        if not overwrite and any((path / name).exists() for name in (POINT_CLOUD, METRICS)):
            raise ValueError(
                f"--out {path} already holds a run, which is not replaced unasked; choose another folder, or add "
                "--overwrite to `splax train`."
            )
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a finished run.

        Raises:
            ValueError: if it is none.
        """
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder; expected a run written by `splax train --out {path}`.")
        for name in (CONFIG, POINT_CLOUD):
            if not (path / name).is_file():
                raise ValueError(
                    f"{path} is no finished run: it has no {name}; expected a folder of `splax train`."
                )
        return cls(path)

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """The folder of a run that was begun, and may be finished.

        Raises:
            ValueError: if it is none.
        """
        if not (path / CONFIG).is_file():
            raise ValueError(f"--resume {path}: no run was begun there; it has no {CONFIG}.")
        return cls(path)

    def begin(self, config: dict[str, Any]) -> None:
        """Makes the folder, clears what an earlier run left, and writes what was asked for, by which versions.

        Raises:
            ValueError: if it cannot be written to.
        """
        old = [self.path / name for name in (POINT_CLOUD, METRICS, LOG, LOSS_CURVE, SCORES, CONTACT_SHEET)]
        old += [
            *(self.path / EVAL).glob("*.png"),
            *(self.path / CORRECTIONS).glob("*.npy"),
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

    def read_config(self) -> dict[str, Any]:
        """What was asked for.

        Raises:
            ValueError: if the file is damaged.
        """
        return self._read_json(CONFIG)

    def write_log(self, history: Sequence[Progress]) -> None:
        """One line for each stretch of steps."""
        lines = [json.dumps(_plain(progress._asdict())) for progress in history]
        write_whole(self.path / LOG, ("\n".join(lines) + "\n").encode())

    def write_scores(self, step: int, scores: dict[str, Any]) -> None:
        """Adds a line with mean scores at a step of the run, in place of those of this step and later ones."""
        self.forget_scores_from(step)
        path = self.path / SCORES
        lines = path.read_bytes() if path.is_file() else b""
        write_whole(path, lines + (json.dumps(_plain({"step": step, **scores})) + "\n").encode())

    def forget_scores_from(self, step: int) -> None:
        """Removes the lines of a step and of later ones, which a run that goes on from there makes again."""
        path = self.path / SCORES
        if path.is_file():
            try:
                lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] < step]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{path} is damaged: expected a json object with 'step' in each line."
                ) from error
            write_whole(path, "".join(line + "\n" for line in lines).encode())

    def write_results(
        self,
        trainer: Trainer,
        *,
        interrupted: bool,
        networks: Sequence[Network] = (),
        color_correct: bool = False,
        pose_align: bool = False,
    ) -> dict[str, Any]:
        """The point cloud first, then the scores and pictures of the held-out views. Returns the metrics."""
        antialiased = trainer.model.rasterizer.antialiased
        save_ply(self.path / POINT_CLOUD, trainer.model.gaussians, antialiased=antialiased)
        # Times differ from run to run.
        seconds = None if trainer.config.deterministic else trainer.seconds
        for name, params in trainer.corrections.items():
            self._write_array(f"{CORRECTIONS}/{name}.npy", np.asarray(params))
        facts = {
            "num_gaussians": int(trainer.model.gaussians.num_alive),
            "steps": trainer.step,
            "interrupted": interrupted,
            "guard": trainer.guard_report,
            "train_seconds": seconds,
            "steps_per_second": trainer.step / seconds if seconds else None,
            "device": device_name(),
            "versions": versions(),
        }
        if trainer.history:
            steps = np.array([entry.step for entry in trainer.history])
            losses = np.array([entry.loss for entry in trainer.history])
            save_curve(self.path / LOSS_CURVE, steps, losses, title="training loss", xlabel="step")
        asked: dict[str, Any] = {"color_correct": color_correct, "pose_align": pose_align}
        return self.write_evaluation(trainer, facts, networks, **asked)

    def write_evaluation(
        self,
        trainer: Trainer,
        facts: dict[str, Any],
        networks: Sequence[Network] = (),
        *,
        color_correct: bool = False,
        pose_align: bool = False,
    ) -> dict[str, Any]:
        """Scores and pictures of the held-out views, added to ``facts``. Returns the metrics.

        Also where the training cameras are, if they were refined.

        Args:
            trainer: whose model and views.
            facts: what else the metrics say.
            networks: of LPIPS.
            color_correct: whether to score once more with colours fitted to the photos'.
            pose_align: whether to score once more with cameras fitted to the photos.

        Raises:
            ImportError: if the weights of a network are not installed.
        """
        asked: dict[str, Any] = {"color_correct": color_correct, "pose_align": pose_align}
        held_out = trainer.held_out()
        self._write_cameras(held_out)
        per_view, pictures = [], []
        for scores in trainer.evaluate_views(networks=networks, held_out=held_out, **asked):
            per_view.append({"name": scores.view.name, **scores.numbers()})
            picture = side_by_side(scores.view.image, scores.image)
            save_png(self.path / EVAL / picture_name(scores.view.name), picture)
            if len(pictures) < MAX_SHEET_ROWS:
                pictures.append(picture)
        if pictures:
            save_png(self.path / CONTACT_SHEET, contact_sheet(pictures))
        metrics = {
            # Of an earlier evaluation, which may have been asked for others.
            **{name: fact for name, fact in facts.items() if not _SCORE.match(name)},
            "world": describe_world(trainer.scene, held_out),
            **mean_scores(per_view, networks, **asked),
            "per_view": per_view,
            "protocol": protocol(held_out, networks, **asked),
        }
        self._write_json(METRICS, metrics)
        return metrics

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
        """Whether they were trained with ``TileRasterizer(antialiased=True)``, as their file says.

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
        """What training learned that views held out are drawn with: corrections and their Params, by name.

        Args:
            num_views: training views that the data has.

        Raises:
            ValueError: if a file is damaged, or is of another number of training views.
        """
        return read_corrections(self.path / CORRECTIONS, num_views)

    def _write_cameras(self, held_out: HeldOutViews) -> None:
        """Refined training cameras, if there are any."""
        cameras = held_out.refined_cameras()
        if not cameras:
            return
        known = held_out.motion.similarity is not None
        frame = "the dataset's" if known else "the splat's: how it lies to the dataset's is not known"
        content = {
            "frame": f"{frame}; metrics.json's world.splat_to_input takes the splat there",
            "axes": "OpenCV: +x right, +y down, +z forward",
            "views": [{"name": name, "camera_to_world": matrix.tolist()} for name, matrix in cameras.items()],
        }
        self._write_json(CAMERAS, content)

    def _write_array(self, name: str, array: np.ndarray) -> None:
        data = io.BytesIO()
        np.save(data, array, allow_pickle=False)
        write_whole(self.path / name, data.getvalue())

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_whole(self.path / name, (json.dumps(_plain(content), indent=2) + "\n").encode())

    def _read_json(self, name: str) -> dict[str, Any]:
        return read_json(self.path / name)


def picture_name(view_name: str) -> str:
    """A flat file name for a view's picture, whatever the view is called."""
    stem = re.sub(r"\.(png|jpe?g)$", "", view_name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip(".") + ".png"


def describe_world(scene: Scene, held_out: HeldOutViews) -> dict[str, Any]:
    """The frame of the splat, as homogeneous transforms, [4, 4].

    Returns:
        ``splat_to_input`` takes the splat to the frame of the dataset's file: the identity, unless refined cameras
        moved as a whole, and the splat with them; ``applied_transform`` is what that file says was done to the
        world it was made from, or None.
    """
    applied, similarity = scene.applied_transform, held_out.motion.similarity
    return {
        "splat_to_input": (np.eye(4) if similarity is None else similarity.inverse().matrix).tolist(),
        "applied_transform": None if applied is None else applied.tolist(),
    }


def device_name() -> str:
    """The device that jax computes on, for people: ``"cpu (AMD EPYC)"``, ``"gpu (NVIDIA H100)"``."""
    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else platform.processor() or platform.machine()
    return f"{device.platform} ({kind})"


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers."""
    packages = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    return {"splax": splax.__version__, "python": platform.python_version(), **packages}


def _plain(value: Any) -> Any:
    """``value`` as strict JSON: paths as strings, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
