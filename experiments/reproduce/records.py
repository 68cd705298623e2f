"""JSON that this program writes and reads again: runs, and the data of questions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teamtr_jax.files import read_json, reason, replacing, seal
from teamtr_jax.records import dump
from teamtr_jax.validation import InputError

__all__ = ["write", "read"]


def write(path: Path, content: Mapping[str, Any]) -> Path:
    """Write strict JSON with its own SHA-256, whole or not at all; folders on the way are made.

    Raises:
      InputError: a place that cannot be written.
      ArithmeticError: a number is NaN.
    """
    text = json.dumps(json.loads(dump(content)), indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(path), reason(error), "a place that can be written") from error
    with replacing(path) as temporary:
        temporary.write_bytes(seal(text))
    return path


def read(path: Path, expected: str) -> dict[str, Any]:
    """What `write` wrote, without its digest.

    Raises:
      InputError: no such file, or one that was changed or cut since.
    """
    found = read_json(path, expected, sealed=True)
    del found["sha256"]
    return found
