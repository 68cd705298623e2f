"""Where the numbers of a benchmark go."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from teamtr_jax.files import output_file, output_folder, replacing
from teamtr_jax.validation import InputError

__all__ = ["writer"]


def writer(place: str | None) -> Callable[[Mapping[str, Any]], None]:
    """What writes results as JSON to the place that `--json` names, whole or not at all. Without a place it does nothing.

    The place is tried now, before the work; its folder is made when there is something to write.

    Raises:
      SystemExit: a place that cannot be written; says which on one line.
    """
    if place is None:
        return lambda result: None
    path = Path(place)
    try:
        if output_folder("--json", path.parent).is_dir():
            output_file("--json", path)
    except InputError as error:
        raise SystemExit(str(error)) from None

    def write(result: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {path}", flush=True)

    return write
