"""Arrays as a file that `safetensors` reads."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.files import WRITABLE, reason
from teamtr_jax.validation import InputError

__all__ = ["library", "write_tensors"]


def library() -> Any:
    """`safetensors.numpy`.

    Raises:
      InputError: it is not installed.
    """
    try:
        import safetensors.numpy
    except ImportError as error:
        raise InputError("safetensors", "not installed", "pip install 'teamtr-jax[models]'") from error
    return safetensors.numpy


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays that may lie in memory in any order; the file may be read by whoever may read others made here.

    The library writes the memory of an array as if it were in row-major order, and gives the file to its owner alone.

    Raises:
      InputError: the place cannot be written, or its disk is full.
    """
    save = library()
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    rows = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    try:
        save.save_file(rows, path, metadata={"format": "pt"})
    except Exception as error:  # SafetensorError, which is no OSError
        raise InputError(str(path), reason(error), WRITABLE) from error
    path.chmod(mode)
