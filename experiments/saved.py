"""What the programs write beside their records: whole or not at all, JSON with its own SHA-256."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from teamtr_jax.files import output_file, output_folder, read_json, reason, replacing, seal
from teamtr_jax.records import dump
from teamtr_jax.validation import InputError

__all__ = ["write_json", "read", "write_bytes", "places"]


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write strict JSON, whole or not at all, with its own SHA-256 (`files.seal`); folders on the way are made.

    Raises:
      InputError: a place that cannot be written.
      ArithmeticError: a number is NaN.
    """
    text = json.dumps(json.loads(dump(content)), indent=1)
    return write_bytes(path, seal(text))


def read(path: Path, expected: str) -> dict[str, Any]:
    """What `write_json` wrote, without its digest.

    Args:
      expected: what should be there, for the message.

    Raises:
      InputError: no such file, or one that was changed or cut since.
    """
    found = read_json(path, expected, sealed=True)
    del found["sha256"]
    return found


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file, whole or not at all.

    Raises:
      InputError: a place that cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(path), reason(error), "a place that can be written") from error
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def places(home: Path, folders: Iterable[str] = (), files: Iterable[str] = ()) -> None:
    """Refuse a folder in which something cannot be written, or has something else in its place.

    Raises:
      InputError: names `out` and the place.
    """
    output_folder("out", home)
    if home.is_dir():
        for name in folders:
            output_folder("out", home / name)
        for name in files:
            output_file("out", home / name)
