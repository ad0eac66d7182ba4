"""``splax eval``: scores a run again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes

from splax.cli.options import Scores, unset


@dataclasses.dataclass(frozen=True)
class Eval:
    """Score a run on the views that it did not see."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    data: Annotated[Path | None, unset("where it was in training", "PATH")] = None
    """Folder of the run's dataset, if it has moved."""
    scores: Annotated[Scores, OmitArgPrefixes, tyro.conf.arg(name="score")] = dataclasses.field(
        default_factory=Scores
    )

    def run(self) -> int:
        """Writes scores and images of the held-out views again."""
        from splax.cli.console import say
        from splax.cli.finished_run import load_evaluator
        from splax.cli.run_folder import EVAL, RunFolder
        from splax.cli.run_results import fitted_scores, write_evaluation
        from splax.cli.setup import check_networks
        from splax.training.view_scores import scores_line

        folder = RunFolder.open(self.folder)
        check_networks(self.scores.lpips)
        evaluator = load_evaluator(folder, self.data)
        asked = fitted_scores(self.scores, folder.read_config())
        metrics = write_evaluation(folder, evaluator, folder.read_metrics(), self.scores.lpips, **asked)
        for view in metrics["per_view"]:
            say(f"{view['name']}: PSNR {view['psnr']:.2f} dB, SSIM {view['ssim']:.4f}")
        say(scores_line(metrics))
        say(f"Truth, rendering and error side by side: {folder.path / EVAL}")
        return 0
