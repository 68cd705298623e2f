"""Scalars of updates as events for TensorBoard, where no trainer's own logger takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from teamtr_jax.files import output_folder
from teamtr_jax.monitor.columns import Record, who
from teamtr_jax.monitor.scalars import scalars
from teamtr_jax.validation import InputError

__all__ = ["Events"]


class Events:
    """Writes each record at the number of its update, counted from 0, under its agents.

    Raises:
      InputError: tensorboardX is not installed (the extra `tensorboard`), or the place cannot be written.
    """

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InputError("tensorboardX", "not installed", "pip install 'teamtr-jax[tensorboard]'") from error
        self._writer: Any = SummaryWriter(str(output_folder("--tensorboard", folder)))
        self._steps: dict[tuple[int, int], int] = {}  # by stage and update

    def write(self, record: Record) -> None:
        """One update; told again it has the number that it had."""
        step = self._steps.setdefault((record["stage"], record["update"]), len(self._steps))
        for key, value in scalars(record, f"teamtr/agent {who(record['agents'])}/").items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Everything is on the disk."""
        self._writer.close()
