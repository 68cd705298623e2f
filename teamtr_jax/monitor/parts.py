"""A token log as a folder of parts: what their names say (docs/token-log.md)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from teamtr_jax.files import reason
from teamtr_jax.validation import InputError

__all__ = ["SUFFIXES", "Part", "parts_of"]

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
NAME = re.compile(r"(\d{8,18})-(\d{4,18})-(\d{4,18})-(\d{4,18})\.parquet", re.ASCII)


class Part(NamedTuple):
    """One file of a folder: rows of one stage and one update that one process wrote. Parts sort as they were written.

    Example:
      >>> Part(3, 0, 1, 12).name
      '00000003-0000-0001-0012.parquet'
    """

    stage: int
    update: int
    process: int
    serial: int  #: of the parts with the same three numbers

    @property
    def name(self) -> str:
        """Of the file."""
        return f"{self.stage:08d}-{self.update:04d}-{self.process:04d}-{self.serial:04d}.parquet"


def parts_of(folder: Path | str) -> list[Part]:
    """The parts in a folder, sorted; temporary files, folders and files of other kinds are none.

    A link to nothing is one: rows are missing, and its reader says so.

    Raises:
      InputError: no folder; or a file that ends as a log does and is not named as a part is.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and not entry.is_dir()]
    except (OSError, ValueError) as error:
        raise InputError(str(folder), reason(error), "a folder of parts") from error
    found = []
    for name in sorted(names):
        match = NAME.fullmatch(name)
        part = Part(*map(int, match.groups())) if match else None
        if part is not None and part.name == name:
            found.append(part)
        elif Path(name).suffix in SUFFIXES:
            raise InputError(
                str(Path(folder) / name),
                "another name",
                "STAGE-UPDATE-PROCESS-SERIAL.parquet, as 00000003-0000-0001-0012.parquet",
            )
    return sorted(found)
