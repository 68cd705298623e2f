"""Settings of frozen dataclasses: refused by name where they are made, and kept as plain numbers."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from teamtr_jax.validation import InputError, real_number, whole_number

__all__ = ["SEEDS", "FLOAT32", "whole", "real", "flags", "texts", "places", "made"]

SEEDS = 2**32 - 1
"""Greatest seed: outside the x64 setting jax takes the lower 32 bits of a greater one, which are another seed's."""

FLOAT32: dict[str, Any] = {"low": float(np.finfo(np.float32).tiny), "high": float(np.finfo(np.float32).max)}
"""Positive numbers that networks and their optimisers can hold."""


def whole(settings: object, low: int, *names: str, high: int | None = None) -> None:
    """Refuse attributes that are no integers in ``[low, high]``.

    Raises:
      InputError: names the first.
    """
    for name in names:
        object.__setattr__(settings, name, whole_number(name, getattr(settings, name), low, high))


def real(settings: object, *names: str, **limits: Any) -> None:
    """Refuse attributes that are no numbers within the `limits` of `real_number`.

    Raises:
      InputError: names the first.
    """
    for name in names:
        object.__setattr__(settings, name, real_number(name, getattr(settings, name), **limits))


def flags(settings: object, *names: str) -> None:
    """Refuse attributes that are neither True nor False.

    Raises:
      InputError: names the first.
    """
    for name in names:
        if not isinstance(value := getattr(settings, name), bool | np.bool_):
            raise InputError(name, repr(value), "True or False")
        object.__setattr__(settings, name, bool(value))


def texts(settings: object, *names: str) -> None:
    """Refuse attributes that are no list of texts; they are kept as tuples. A single text is no list.

    Raises:
      InputError: names the first.
    """
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
            raise InputError(name, repr(value), "a tuple of texts")
        object.__setattr__(settings, name, tuple(value))


def places(settings: object, *names: str) -> None:
    """Refuse attributes that are no paths; they are kept as `Path`.

    Raises:
      InputError: names the first.
    """
    for name in names:
        if not isinstance(value := getattr(settings, name), str | PathLike):
            raise InputError(name, repr(value), "a path")
        object.__setattr__(settings, name, Path(value))


def made(settings: object, kind: type, *names: str) -> None:
    """Refuse attributes that are of another class than `kind`.

    Raises:
      InputError: names the first.
    """
    for name in names:
        if not isinstance(value := getattr(settings, name), kind):
            raise InputError(name, repr(value), "a text" if kind is str else f"a {kind.__name__}")
