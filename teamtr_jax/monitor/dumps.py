"""What other trainers write of their rollouts is text and scores: it is recognised, and refused with what is missing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from teamtr_jax.formats import TOKEN_LOG_COLUMNS
from teamtr_jax.validation import InputError

__all__ = ["missing_columns", "refuse_dump"]

LONGEST = 2**24
"""Bytes of a first line that is looked at."""


class Dump(NamedTuple):
    """A format of text and scores."""

    whose: str
    columns: tuple[str, ...]  #: always there
    text: tuple[str, ...]  #: that a token log has under the same name, as numbers
    instead: str  #: what writes a log


DUMPS = (
    Dump(
        "a dump of verl's (trainer.rollout_data_dir or validation_data_dir)",
        ("input", "output", "score", "step"),
        (),
        "from teamtr_jax.integrations.verl import watch; watch(trainer, 'run')  # before trainer.fit()",
    ),
    Dump(
        "completions of TRL's (log_completions)",
        ("step", "prompt", "completion"),
        ("prompt",),
        "from teamtr_jax.integrations.trl import watch; watch(trainer, 'run')  # before trainer.train()",
    ),
)
"""As verl 0.7.1 … 0.9.1 and TRL 1.16 write them."""


def missing_columns(name: str, columns: Collection[str]) -> InputError:
    """Names the columns that a token log must have and these are not; of a known dump, what it is and what writes a log instead.

    Example:
      >>> print(missing_columns("5.jsonl", ["input", "output", "gts", "score", "step"]).found)
      a dump of verl's (trainer.rollout_data_dir or validation_data_dir): input, output, gts, score, step
    """
    found = next((dump for dump in DUMPS if set(dump.columns) <= set(columns)), None)
    missing = [key for key in TOKEN_LOG_COLUMNS if key not in columns or (found is not None and key in found.text)]
    if found is None:
        return InputError(f"{name}: columns", f"no {', '.join(missing)}", ", ".join(TOKEN_LOG_COLUMNS))
    expected = (
        f"a token log. It has no {', '.join(missing)}, and text gives no log-probabilities. Two lines write one: "
    )
    return InputError(f"{name}: columns", f"{found.whose}: {', '.join(columns)}", expected + found.instead)


def refuse_dump(path: Path) -> None:
    """Refuse a file, or a folder of files, that is a dump of another trainer; whatever else it is passes.

    Raises:
      InputError: see `missing_columns`.
    """
    with suppress(OSError):  # what cannot be read: the reader says so
        if path.is_dir():
            files = sorted((file for file in path.iterdir() if file.is_file()), key=lambda file: file.name)
            path = next((file for file in files if file.suffix in (".jsonl", ".parquet")), path)
    columns = _columns(path)
    if any(set(dump.columns) <= set(columns) for dump in DUMPS) and not set(TOKEN_LOG_COLUMNS) <= set(columns):
        raise missing_columns(str(path), columns)


def _columns(path: Path) -> list[str]:
    """The names of the columns of a file, none where there are none to be found."""
    with suppress(Exception):  # whatever is wrong with it, the reader of logs says what
        if path.is_file() and path.suffix in (".jsonl", ".ndjson"):
            with path.open("rb") as file:
                return list(json.loads(file.readline(LONGEST)).keys())
        if path.is_file() and path.suffix in (".parquet", ".pq"):
            return importlib.import_module("pyarrow.parquet").read_schema(path).names
    return []
