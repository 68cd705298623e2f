"""What the questions look at in single updates: monitors on a part of the tokens, and by how much logits move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from numpy.typing import NDArray

from teamtr_jax.types import Team
from teamtr_jax.values import evaluate_policy

__all__ = ["PARTS", "MONITORS", "DRAWS", "MonitorWatch", "rank_shifts"]

PARTS = (0.25, 0.5)
"""Shares of the tokens that a monitor looks at."""

MONITORS = ("k1", "k3")

DRAWS = 400
"""Random parts of the tokens of one update."""


class MonitorWatch:
    """The `write` of a token log: how monitors of each update decide on all tokens of the agent, and on a random part.

    ``k1`` is the paper's, `mean_m Σ_u log π_cur/π_new`, ``k3`` has `r − 1 − log r` for it, `r = π_new/π_cur`; both are unbiased
    for KL(current‖new) on tokens that the step was not fitted to. On a part of the tokens sums are scaled up. A monitor
    decides whether it is above δ.
    """

    def __init__(self, delta: float, seed: int):
        self.delta, self.rng = delta, np.random.default_rng([seed, 77])
        self.found: list[dict[str, float]] = []

    def __call__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        moved = np.asarray(columns["logp_new"] != columns["logp_current"])
        agents = np.unique(columns["agent"][moved])
        if len(agents) == 0:  # nobody moved
            nothing = dict.fromkeys(MONITORS, 0.0)
            self.found.append(nothing | {f"{kind}_flips_{part:g}": 0.0 for kind in MONITORS for part in PARTS})
            return
        mine = columns["agent"] == agents[0]
        k1 = (columns["logp_current"] - columns["logp_new"])[mine]
        messages = len({*zip(columns["rollout"][mine].tolist(), columns["turn"][mine].tolist(), strict=True)})
        terms = {"k1": k1, "k3": np.expm1(-k1) + k1}
        full = {kind: float(terms[kind].sum() / messages) for kind in MONITORS}
        one = dict(full)
        for part in PARTS:
            size = max(1, round(part * k1.size))
            chosen = self.rng.random((DRAWS, k1.size)).argpartition(size - 1, axis=1)[:, :size]
            for kind in MONITORS:
                seen = terms[kind][chosen].sum(1) * (k1.size / size) / messages
                one[f"{kind}_flips_{part:g}"] = float(((seen > self.delta) != (full[kind] > self.delta)).mean())
        self.found.append(one)

    def collected(self) -> dict[str, list[float]]:
        """By name, an entry for each update since the last call."""
        found, self.found = self.found, []
        return {name: [x[name] for x in found] for name in found[0]}


@jax.jit
def _shifts(team: Team, before: Array, after: Array, agent: Array) -> Array:
    _, _, m = evaluate_policy(team, before)
    own = (team.active == agent) & (m > 0)
    weight = jnp.where(own, m, 0.0)
    safe = jnp.where(own[:, None], before, 1.0)
    change = jnp.log(jnp.where(own[:, None], after, 1.0)) - jnp.log(safe)
    centred = change - change.mean(-1, keepdims=True)
    ranked = jnp.take_along_axis(jnp.abs(centred), jnp.argsort(-safe, axis=-1), -1)
    return (weight[:, None] * ranked).sum(0) / weight.sum()


def rank_shifts(team: Team, chain: Float[Array, "m S V"], agents: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """`E_{s~d, agent speaks} |Δz_(r)|` of each update: by how much the logit of the r-th likeliest token moves, exactly.

    Logits are those of the softmax, less their mean over the vocabulary; ranks are those before the update.
    """
    found = np.array([_shifts(team, chain[i], chain[i + 1], jnp.asarray(agent)) for i, agent in enumerate(agents)])
    return {f"rank_{r + 1}": found[:, r] for r in range(found.shape[1])}
