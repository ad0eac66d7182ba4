"""Writes event files of TensorBoard with the package tensorboardX (extra ``tensorboard``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class EventLog:
    """Writes numbers that TensorBoard shows over the steps.

    Args:
        folder: folder of the event files; made if it does not exist.

    Raises:
        ImportError: if tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard files need tensorboardX: pip install tensorboardX") from error
        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds numbers, and makes sure that they are on disk.

        Args:
            step: training step that the numbers belong to.
            scalars: numbers by name; a name may be ``"group/name"``.
        """
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
