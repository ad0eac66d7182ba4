"""``splax eval``: scores a run again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from splax.cli.options import Scores


@dataclasses.dataclass(frozen=True)
class Eval(Scores):
    """Score a run on the views it did not see."""

    folder: tyro.conf.Positional[Path] = dataclasses.field(kw_only=True)
    """Folder of the run."""
    data: Path | None = None
    """Where its photos are, if not where they were in training."""

    def run(self) -> int:
        """Writes scores and pictures of the held-out views again."""
        from splax.cli.console import say
        from splax.cli.finished_run import reload_trainer
        from splax.cli.run_folder import EVAL, RunFolder
        from splax.cli.run_results import fitted_scores, write_evaluation
        from splax.cli.setup import check_networks
        from splax.training.evaluation import scores_line

        folder = RunFolder.open(self.folder)
        check_networks(self.lpips)
        trainer = reload_trainer(folder, self.data)
        asked = fitted_scores(self, folder.read_config())
        metrics = write_evaluation(folder, trainer, folder.read_metrics(), self.lpips, **asked)
        for view in metrics["per_view"]:
            say(f"{view['name']}: PSNR {view['psnr']:.2f} dB, SSIM {view['ssim']:.4f}")
        say(scores_line(metrics))
        say(f"Truth, rendering and error side by side: {folder.path / EVAL}")
        return 0
