"""Writes the images of held-out views, after the scores: no image is worth the scores or another image."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np

from splax.cli.image_names import ImageNames
from splax.cli.run_folder import CONTACT_SHEET, EVAL, RunFolder
from splax.reports.images import side_by_side
from splax.training.view_scores import ViewScores

MAX_SHEET_ROWS = 12
# Images that wait for the scores are in memory. Beyond this size, the first are written before the scores.
_MAX_WAITING_BYTES = 1 << 30


class HeldOutImages:
    """Images of held-out views that wait until the scores are written.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._names = folder, ImageNames()
        self._waiting: list[tuple[str, np.ndarray]] = []
        self._sheet: list[np.ndarray] = []
        self._failures: list[str] = []

    def add(self, scores: ViewScores) -> str:
        """Makes the image of a view: truth, rendering and error side by side.

        Returns:
            The path of the image in the run's folder.
        """
        name = self._names.take(scores.view.name)
        with self._failure_is_noted(f"{EVAL}/{name}"):
            image = side_by_side(scores.view.image, scores.image)
            self._waiting.append((name, image))
            if len(self._sheet) < MAX_SHEET_ROWS:
                self._sheet.append(image)
        if sum(image.nbytes for _, image in self._waiting) > _MAX_WAITING_BYTES:
            self._write_waiting()
        return f"{EVAL}/{name}"

    def write(self) -> None:
        """Writes all images and the contact sheet; one warning says which could not be written, and why."""
        self._write_waiting()
        with self._failure_is_noted(CONTACT_SHEET):
            self._folder.write_contact_sheet(self._sheet)
        if self._failures:
            warnings.warn(
                f"images of held-out views that could not be written: {len(self._failures)}; scores do not need "
                f"them. The first: {self._failures[0]}",
                stacklevel=2,
            )

    def _write_waiting(self) -> None:
        for name, image in self._waiting:
            with self._failure_is_noted(f"{EVAL}/{name}"):
                self._folder.write_image(name, image)
        self._waiting = []

    @contextlib.contextmanager
    def _failure_is_noted(self, name: str) -> Iterator[None]:
        try:
            yield
        # Whatever keeps an image from being made: a full disk, a name, an error of OpenCV's, memory.
        except Exception as error:
            self._failures.append(f"{name}: {error}")
