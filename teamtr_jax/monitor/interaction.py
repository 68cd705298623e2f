"""R5 from samples: whose update spoiled whose context (docs/monitor.md has the derivation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.intervals import Interval, interval, mean
from teamtr_jax.monitor.estimates import Floats, grow, growth
from teamtr_jax.monitor.scored import Scored, per_prompt
from teamtr_jax.sharing import set_of

__all__ = ["Interaction", "Values", "interaction_values", "estimate_interaction", "gap_values", "Pooled", "pool"]


class Interaction(NamedTuple):
    """`M[k,i]` of one stage. Rows and columns are updates; entries that the log does not show are `None`."""

    stage: int
    updates: list[int]
    agents: list[list[int]]  #: who was updated
    entries: list[list[Interval | None]]  #: `M[k,i]`
    drift: list[Interval | None]  #: `L_i^seq − L_i^stale`, exactly
    clear: list[list[bool]]  #: whether the interval excludes 0 at `alpha` divided by the number of entries


def _earlier(s: Scored, x: Floats | NDArray[np.bool_]) -> Floats:
    """[M] the sum of `x` over the earlier messages of the rollout; exact for booleans."""
    before = np.cumsum(x, dtype=np.float64) - x
    return before - before[s.first][s.rollout]


def _before(s: Scored, log_ratio: Floats) -> Floats:
    """`log Λ(<m)`: the sum over the earlier messages of the rollout, exactly 0 where none of them moved."""
    return np.where(_earlier(s, log_ratio != 0) > 0, _earlier(s, log_ratio), 0.0)


def _after(s: Scored, log_ratio: Floats) -> Floats:
    """`log Λ(>m)`: the sum over the later messages, exactly 0 where none of them moved."""
    moved = log_ratio != 0
    left = s.sums(moved.astype(float))[s.rollout] - moved - _earlier(s, moved)
    return np.where(left > 0, s.sums(log_ratio)[s.rollout] - log_ratio - _before(s, log_ratio), 0.0)


def _column(s: Scored) -> Floats:
    """[M] `λ(m)·(ρ_i(m) − 1)·Λ(>m)·(R − R̄_{−g})`: λ and Λ are those of current against behaviour."""
    return grow(s.current + _after(s, s.current)) * growth(s.new) * s.advantage[s.rollout]


def _weighed(s: Scored, log_ratio: Floats, column: Floats) -> Floats:
    """[B] `Σ_m (Λ(<m) − 1)·column(m)`, Λ that of `log_ratio`."""
    return per_prompt(s, s.sums(growth(_before(s, log_ratio)) * column))


def gap_values(s: Scored) -> Floats:
    """[B], one number per prompt whose mean is the fresh gap `J(π̂ⁱ) − J(π̂ⁱ⁻¹) − L_i^seq`, on rollouts of `π̂ⁱ⁻¹`.

    `E Σ_m (Λ_i(<m) − 1)(ρ_i(m) − 1)(R − R̄_{−g})`.
    """
    return _weighed(s, s.new, _column(s))


class Values(NamedTuple):
    """One number per prompt for every entry that the log shows."""

    entries: dict[tuple[int, int], Floats]  #: (k, i) ↦ [B], mean `M[k,i]`
    drift: dict[int, Floats]  #: i ↦ [B], mean `L_i^seq − L_i^stale`


def _step(scored: Mapping[int, Scored], agents: Mapping[int, list[int]], k: int, i: int) -> Floats | None:
    """`log ρ_k` of every message: from the rows of update k, or of update i where these agents had moved at k alone."""
    if k in scored:
        return scored[k].new
    others = [set(agents[j]) for j in agents if j <= i and j != k]
    if k < i and agents[k] and not any(set(agents[k]) & other for other in others):
        return np.where(np.isin(scored[i].agent, agents[k]), scored[i].current, 0.0)
    return None


def interaction_values(scored: Mapping[int, Scored], agents: Mapping[int, list[int]]) -> Values:
    """`M[k,i] = E_b Σ_m (Λ_⟨k⟩(<m) − 1)·λ_{i−1}(m)(ρ_i(m) − 1)·Λ_{i−1}(>m)·(R − R̄_{−g})`, b the first team of the stage.

    The drift has `Λ_{i−1}(<m)`, of all updates before i, in the place of `Λ_⟨k⟩(<m)`.

    Args:
      scored: by update, the same rollouts of the stage's first team, scored at that update.
      agents: by update, who was updated; also of updates without such rows.
    """
    entries: dict[tuple[int, int], Floats] = {}
    drift: dict[int, Floats] = {}
    for i, s in scored.items():
        column = _column(s)
        drift[i] = _weighed(s, s.current, column)
        for k in agents:
            if (log_ratio := _step(scored, agents, k, i)) is not None:
                entries[k, i] = _weighed(s, log_ratio, column)
    return Values(entries, drift)


def estimate_interaction(
    stage: int, scored: Mapping[int, Scored], agents: Mapping[int, list[int]], alpha: float
) -> Interaction:
    """The matrix of a stage with intervals; arguments as `interaction_values`."""
    updates = sorted(agents)
    values = interaction_values(scored, agents)
    found, strict = ({key: mean(x, level) for key, x in values.entries.items()}
                     for level in (alpha, alpha / max(len(values.entries), 1)))  # fmt: skip
    clear = {key for key, x in strict.items() if not x.low <= 0 <= x.high}
    return Interaction(
        stage,
        updates,
        [agents[u] for u in updates],
        [[found.get((k, i)) for i in updates] for k in updates],
        [mean(values.drift[i], alpha) if i in values.drift else None for i in updates],
        [[(k, i) in clear for i in updates] for k in updates],
    )


class Pooled(NamedTuple):
    """The mean of `M[k,i]` over the stages, agent by agent; of sharers one for all, under the first of them."""

    agents: list[int]
    stages: int  #: stages with a matrix
    entries: list[list[Interval | None]]  #: row: whose update, column: whose surrogate


def pool(matrices: Sequence[Interaction], alpha: float, sharers: Sequence[int] | None = None) -> Pooled:
    """Means over stages, whose rollouts are independent; t with the fewest prompts. Joint updates are left out.

    The error of N entries is `√Σ_stages (Σ SE)²/N`: those of one stage, of an agent that it updates twice, share their rollouts.
    """
    found: dict[tuple[int, int], list[list[Interval]]] = {}
    for matrix in matrices:
        here: dict[tuple[int, int], list[Interval]] = {}
        for k, row in zip(matrix.agents, matrix.entries, strict=True):
            for i, entry in zip(matrix.agents, row, strict=True):
                first, second = set_of(sharers, k), set_of(sharers, i)
                if entry is not None and first is not None and second is not None:
                    here.setdefault((first, second), []).append(entry)
        for pair, entries in here.items():
            found.setdefault(pair, []).append(entries)
    agents = sorted({agent for pair in found for agent in pair})

    def mean_of(k: int, i: int) -> Interval | None:
        if (k, i) not in found:
            return None
        parts = [x for stage in found[k, i] for x in stage]
        error = sum(sum(x.error for x in stage) ** 2 for stage in found[k, i]) ** 0.5 / len(parts)
        return interval(sum(x.value for x in parts) / len(parts), error, min(x.n for x in parts), alpha)

    return Pooled(agents, len(matrices), [[mean_of(k, i) for i in agents] for k in agents])
