"""Low-rank adapters beside linear maps: `x W + s · x A B`, of which A and B alone are trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from teamtr_jax.llm.checked import flags, real, texts, whole
from teamtr_jax.validation import InputError, real_number, whole_number

__all__ = ["LINEARS", "Lora"]

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
"""The linear maps of a layer, by the names that parameters have."""


@dataclass(frozen=True)
class Lora:
    """Which linear maps have adapters, of which rank r and scale `alpha / r` (`alpha / √r` if `rslora`).

    Exceptions are triples `(module, layer, value)`; a layer of None means all of them, and a later one counts more. Rank 0 means
    that a layer has no adapter there. Adapters of one module are stacked over layers at the greatest of its ranks, and beyond a
    layer's own rank A and B are zero: their gradients there are zero too, so they stay so.

    Example:
      >>> lora = Lora(rank=4, alpha=8.0, targets=("q", "v"), ranks=(("q", 1, 2),))
      >>> lora.scale_of("q", 0), lora.scale_of("q", 1), lora.scale_of("k", 0)
      (2.0, 4.0, 0.0)
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = LINEARS
    rslora: bool = False
    ranks: tuple[tuple[str, int | None, int], ...] = ()
    alphas: tuple[tuple[str, int | None, float], ...] = ()

    def __post_init__(self) -> None:
        whole(self, 1, "rank")
        real(self, "alpha", above=0.0)
        flags(self, "rslora")
        texts(self, "targets")
        if not self.targets or len(set(self.targets)) < len(self.targets) or not set(self.targets) <= set(LINEARS):
            raise InputError("targets", repr(self.targets), "different ones of " + ", ".join(LINEARS))
        for name in ("ranks", "alphas"):
            object.__setattr__(self, name, tuple(self._exception(name, item) for item in getattr(self, name)))

    def _exception(self, name: str, item: Sequence[object]) -> tuple[str, int | None, float]:
        if not isinstance(item, tuple | list) or len(item) != 3 or item[0] not in self.targets:
            raise InputError(name, repr(item), "(module, layer or None, value) of a module among the targets")
        module, layer, value = item
        layer = None if layer is None else whole_number(f"{name}: layer", layer, 0)
        if name == "ranks":
            return str(module), layer, whole_number(f"{name}: rank", value, 0)
        return str(module), layer, real_number(f"{name}: alpha", value, above=0.0)

    def rank_of(self, module: str, layer: int) -> int:
        """Of the adapter at one layer; 0: there is none."""
        if module not in self.targets:
            return 0
        return next((r for m, at, r in reversed(self.ranks) if m == module and at in (None, layer)), self.rank)

    def alpha_of(self, module: str, layer: int) -> float:
        """The numerator of the scale at one layer."""
        return next((a for m, at, a in reversed(self.alphas) if m == module and at in (None, layer)), self.alpha)

    def scale_of(self, module: str, layer: int) -> float:
        """`alpha / r` or `alpha / √r` of the adapter at one layer; 0 where there is none."""
        rank = self.rank_of(module, layer)
        return 0.0 if not rank else self.alpha_of(module, layer) / (math.sqrt(rank) if self.rslora else rank)

    def greatest(self, module: str, layers: int) -> int:
        """The rank at which the adapters of a module are stacked."""
        return max(self.rank_of(module, layer) for layer in range(layers))

    def scales(self, module: str, layers: int) -> Float[np.ndarray, " n"]:
        """`scale_of` of all layers, in float32."""
        return np.array([self.scale_of(module, layer) for layer in range(layers)], np.float32)
