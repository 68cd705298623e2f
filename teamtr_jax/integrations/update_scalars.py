"""What a trainer's own logger is told of an update: KL per message, its floor and the effective sample size. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["UpdateSums", "update_sums", "update_scalars"]

LARGEST = 300.0
"""Nats of a rollout's weight above which its square overflows: such a weight is the whole sum anyway."""


class UpdateSums(NamedTuple):
    """Sums over the rollouts of one process; those of all processes add up."""

    messages: float
    k1: float  #: Σ log(current/new), nats
    k3: float  #: Σ (r − 1 − log r), r = new/current
    again_messages: float  #: of them, those that were scored twice
    again_k3: float  #: Σ (r − 1 − log r), r = again/current: what rounding makes of a policy and itself
    rollouts: float
    weight: float  #: Σ Λ, Λ the product of r over a rollout
    weight_squared: float


def update_sums(rows: Mapping[str, NDArray[Any]]) -> UpdateSums:
    """The sums of the rows of one update; rows of a rollout stand together, as `token_rows` makes them.

    A message without a second scoring counts in nothing of `again`: missing is not 0.

    Example:
      >>> zero = np.zeros(2, int)
      >>> half = np.log(np.array([0.5, 0.5]))
      >>> rows = dict(prompt=zero, rollout=zero, turn=zero, t=np.arange(2), logp_current=half, logp_new=half - 0.1)
      >>> sums = update_sums(rows | dict(logp_again=np.full(2, np.nan)))
      >>> print(f"{sums.messages:.0f} {sums.k1:.3f} {sums.k3:.5f} {sums.weight:.4f} {sums.again_messages:.0f}")
      1 0.200 0.00967 0.8187 0
    """
    if not rows["t"].size:
        return UpdateSums(*(8 * [0.0]))
    rollout = _begins(rows, "prompt", "rollout")
    written = rows["t"] >= 0
    d = np.where(written, rows["logp_new"] - rows["logp_current"], 0.0)
    weight = np.exp(np.minimum(np.add.reduceat(d, np.flatnonzero(rollout)), LARGEST))
    message = _begins(rows, "prompt", "rollout", "turn")
    places = np.flatnonzero(message)
    real = written[places]
    again = np.add.reduceat(np.where(written, rows["logp_again"] - rows["logp_current"], 0.0), places)
    twice = real & ~np.isnan(again)
    again_k3 = np.add.reduceat(_k3(rows["logp_again"] - rows["logp_current"]), places)
    return UpdateSums(
        messages=float(real.sum()), k1=float(-d.sum()), k3=float(_k3(d).sum()), again_messages=float(twice.sum()),
        again_k3=float(again_k3[twice].sum()), rollouts=float(weight.size), weight=float(weight.sum()),
        weight_squared=float((weight**2).sum()),
    )  # fmt: skip


def update_scalars(sums: UpdateSums) -> dict[str, float]:
    """Per message `kl_k1`, `kl_k3`, `floor_k3` (if rollouts were scored twice); `ess = (ΣΛ)²/(NΣΛ²)`. Without rollouts: nothing.

    Example:
      >>> update_scalars(UpdateSums(2, 0.2, 0.02, 0, 0, 2, 2, 2.5))
      {'teamtr/kl_k1': 0.1, 'teamtr/kl_k3': 0.01, 'teamtr/ess': 0.8}
    """
    if not sums.messages:
        return {}
    out = {"teamtr/kl_k1": sums.k1 / sums.messages, "teamtr/kl_k3": sums.k3 / sums.messages}
    if sums.again_messages:
        out["teamtr/floor_k3"] = sums.again_k3 / sums.again_messages
    return out | {"teamtr/ess": sums.weight**2 / (sums.rollouts * sums.weight_squared)}


def _begins(rows: Mapping[str, NDArray[Any]], *keys: str) -> NDArray[np.bool_]:
    """Where one of these columns changes, and the first row."""
    return np.r_[True, np.logical_or.reduce([rows[key][1:] != rows[key][:-1] for key in keys])]


def _k3(d: NDArray[np.floating]) -> NDArray[np.floating]:
    """`r − 1 − log r` of `d = log r`; never negative."""
    return np.expm1(np.minimum(d, LARGEST)) - d
