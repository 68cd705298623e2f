"""Rotary positions: how fast each pair of features turns, plain and scaled for longer contexts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from teamtr_jax.llm.checked import flags, real, whole
from teamtr_jax.validation import InputError, one_of, real_number

__all__ = ["KINDS", "Rope", "rope_of"]

KINDS = ("default", "linear", "llama3", "yarn", "dynamic")
"""Of scaling, by the names that configs use."""

DEFAULT_THETA = 10_000.0
"""Of every family here where a config names none."""

_KNOWN = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor",
          "high_freq_factor", "beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim",
          "partial_rotary_factor"}  # fmt: skip


@dataclass(frozen=True)
class Rope:
    """Pair i of d/2 turns by `position · f_i`; unscaled `f_i = theta^(−2i/d)`. Sines and cosines are multiplied by `attention`.

    Kinds, with wavelengths `λ_i = 2π / f_i`:

    * ``linear``: `f_i / factor`.
    * ``llama3``: `f_i` where `λ_i < original/high`, `f_i / factor` where `λ_i > original/low`, between them mixed linearly in
      `original / λ_i`.
    * ``yarn``: from `f_i` to `f_i / factor` along a ramp in i between the pairs that turn `fast` and `slow` times in `original`
      positions, their indices rounded outwards if `truncate`.
    * ``dynamic``: unscaled up to `original` positions. Beyond them transformers lets the speed depend on the longest row of a
      batch, so that what a cache holds and what is scored later differ: refused there (`LlamaConfig.features`).

    Example:
      >>> Rope(theta=100.0).frequencies(4)
      array([1. , 0.1])
      >>> Rope(theta=100.0, kind="linear", factor=2.0).frequencies(4)
      array([0.5 , 0.05])
    """

    theta: float = DEFAULT_THETA
    kind: str = "default"
    factor: float = 1.0
    original: int = 0  #: positions that the network was first trained with; 0 where the kind does not ask
    low: float = 1.0
    high: float = 4.0
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True
    attention: float = 1.0

    def __post_init__(self) -> None:
        one_of("rope kind", self.kind, KINDS)
        real(self, "theta", above=1.0)
        real(self, "factor", "low", "high", "fast", "slow", "attention", above=0.0)
        whole(self, 1 if self.kind in ("llama3", "yarn", "dynamic") else 0, "original")
        flags(self, "truncate")
        if self.kind == "llama3" and self.high <= self.low:
            raise InputError("low_freq_factor, high_freq_factor", f"{self.low}, {self.high}", "a greater second one")

    def frequencies(self, size: int) -> Float[np.ndarray, " half"]:
        """Radians a position of each of the `size / 2` pairs, in float64."""
        half = size // 2
        plain = self.theta ** (-np.arange(half) / half)
        if self.kind == "linear":
            return plain / self.factor
        if self.kind == "llama3":
            turns = self.original * plain / (2 * math.pi)
            kept = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        elif self.kind == "yarn":
            first, last = self._turning(self.fast, size), self._turning(self.slow, size)
            if self.truncate:
                first, last = math.floor(first), math.ceil(last)
            first, last = max(first, 0), min(last, size - 1)
            kept = 1 - np.clip((np.arange(half) - first) / (last - first or 0.001), 0.0, 1.0)
        else:
            return plain
        return plain * (kept + (1 - kept) / self.factor)

    def _turning(self, times: float, size: int) -> float:
        """Index of the pair that turns so many times in `original` positions."""
        return size * math.log(self.original / (times * 2 * math.pi)) / (2 * math.log(self.theta))


def rope_of(json: Mapping[str, Any], longest: int) -> Rope:
    """What a ``config.json`` says of rotation: in `rope_parameters` (transformers 5) or in `rope_theta` and `rope_scaling`.

    transformers lets `rope_scaling` replace `rope_parameters` and with them theta, which falls back to 10,000 where the top does
    not name it; of two thetas the inner one counts. A config that says two things is refused.

    Args:
      json: the entries of the file.
      longest: its `max_position_embeddings`.

    Raises:
      InputError: names the entry: another kind of scaling, numbers that are missing, or two places that disagree.
    """
    found = {name: json[name] for name in ("rope_parameters", "rope_scaling") if json.get(name)}
    for name, entries in found.items():
        if not isinstance(entries, Mapping):
            raise InputError(name, repr(entries), "an object")
    each = {name: _read(json, entries, name, longest) for name, entries in found.items()}
    if len(set(each.values())) > 1:
        raise InputError(
            "rope_scaling", f"{dict(found['rope_scaling'])} beside rope_parameters {dict(found['rope_parameters'])}",
            "one of the two: transformers would take rope_scaling and forget the theta of the other",
        )  # fmt: skip
    return next(iter(each.values())) if each else _read(json, {}, "rope_parameters", longest)


def _read(json: Mapping[str, Any], entries: Mapping[str, Any], name: str, longest: int) -> Rope:
    """The rotation that one of the two places describes."""
    if unknown := sorted(set(entries) - _KNOWN):
        raise InputError(
            f"{name}.{unknown[0]}", repr(entries[unknown[0]]), f"entries out of {', '.join(sorted(_KNOWN))}"
        )
    kind = _agreed(f"{name}.rope_type", entries.get("rope_type"), entries.get("type"), "default")
    if kind not in KINDS:
        raise InputError(f"{name}.rope_type", repr(kind), "one of " + ", ".join(KINDS))
    for place in (json, entries):
        if (share := place.get("partial_rotary_factor")) not in (None, 1, 1.0):
            raise InputError("partial_rotary_factor", repr(share), "1: heads that are rotated whole")
    theta = _agreed(f"{name}.rope_theta", entries.get("rope_theta"), json.get("rope_theta"), DEFAULT_THETA)
    if kind == "default":
        return Rope(theta)
    top, inner = json.get("original_max_position_embeddings"), entries.get("original_max_position_embeddings")
    original = _agreed(f"{name}.original_max_position_embeddings", inner, top, longest)
    factor = entries.get("factor")
    if factor is None:
        raise InputError(f"{name}.factor", "none", f"the factor of {kind} scaling")
    factor = real_number(f"{name}.factor", factor, above=0.0)
    if kind == "linear":
        return Rope(theta, kind, factor)
    if kind == "dynamic":
        return Rope(theta, kind, factor, longest)
    if kind == "llama3":
        for asked in ("low_freq_factor", "high_freq_factor"):
            if entries.get(asked) is None:
                raise InputError(f"{name}.{asked}", "none", "a number: llama3 scaling needs it")
        return Rope(theta, kind, factor, original, entries["low_freq_factor"], entries["high_freq_factor"])
    return Rope(
        theta,
        kind,
        factor,
        original,
        fast=entries.get("beta_fast") or 32.0,
        slow=entries.get("beta_slow") or 1.0,
        truncate=entries.get("truncate", True),
        attention=_attention_factor(entries, factor),
    )


def _agreed(name: str, first: Any, second: Any, default: Any) -> Any:
    """The value that two places give, one of which may be silent."""
    if first is not None and second is not None and first != second:
        raise InputError(name, f"{first!r} and {second!r}", "one value")
    return default if first is second is None else second if first is None else first


def _attention_factor(entries: Mapping[str, Any], factor: float) -> float:
    """yarn's: given, or `m(factor, mscale) / m(factor, mscale_all_dim)` with `m(s, c) = .1·c·ln s + 1`, or `m(factor, 1)`."""
    if (given := entries.get("attention_factor")) is not None:
        return given

    def m(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    given = {name: entries.get(name) for name in ("mscale", "mscale_all_dim")}
    above, below = (real_number(name, value) if value else None for name, value in given.items())
    return m(above) / m(below) if above and below else m(1.0)
