"""``splax render``: images and a film of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from splax.cli.options import unset


@dataclasses.dataclass(frozen=True)
class Render:
    """Render the held-out views of a run, and an orbit around the scene."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    data: Annotated[Path | None, unset("where it was in training", "PATH")] = None
    """Folder of the run's dataset, if it has moved."""
    out: Annotated[Path | None, unset("render/ in the folder of the run", "PATH")] = None
    """Folder to write images to, and a film where imageio-ffmpeg is installed."""
    frames: int = 120
    """Number of images of the orbit."""
    fps: int = 30
    """Frames per second of the film."""

    def run(self) -> int:
        """Writes the held-out views and an orbit around the scene, and a film of the orbit."""
        from splax.cli.console import say
        from splax.cli.finished_run import load_evaluator
        from splax.cli.image_names import ImageNames
        from splax.cli.run_folder import RENDER, RunFolder
        from splax.reports.images import save_png
        from splax.trajectories import orbit

        folder = RunFolder.open(self.folder)
        out = folder.path / RENDER if self.out is None else self.out
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is a file; give the path of a folder for the images.")
        if self.fps < 1:
            raise ValueError(f"--fps must be at least 1, got {self.fps}.")
        evaluator = load_evaluator(folder, self.data)
        scene, held_out = evaluator.scene, evaluator.held_out()
        cameras = orbit(scene, self.frames)
        names = ImageNames()
        for view in scene.test:
            save_png(
                out / "test" / names.take(view.name),
                evaluator.draw(held_out, held_out.of(view.name, view.camera)),
            )
        frames = []
        for index, camera in enumerate(cameras):
            frames.append(evaluator.draw(held_out, held_out.mean(held_out.motion.move(camera))))
            save_png(out / "orbit" / f"{index:04d}.png", frames[-1])
        say(f"Wrote {len(scene.test)} test views and {len(frames)} frames of an orbit to {out}")
        _write_film(out / "orbit.mp4", frames, self.fps)
        return 0


def _write_film(path: Path, frames: list[Any], fps: int) -> None:
    from splax.cli.console import say
    from splax.reports.images import save_video

    try:
        save_video(path, frames, fps=fps)
        say(f"Film: {path}")
    except ImportError as error:
        say(f"No film: {error}")
