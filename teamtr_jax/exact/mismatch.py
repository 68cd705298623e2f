"""S12 once more: three hybrids of a stage, both compared with the sampler, KLs of joint rows."""

from __future__ import annotations

from typing import NamedTuple

from flint import fmpq

from teamtr_jax.exact.numbers import ZERO, Number, Pair, times, total
from teamtr_jax.exact.solved import Solved, row_kl_terms

__all__ = ["three_policies"]


class _Seen(NamedTuple):
    """Hybrid j seen from hybrid i."""

    gap: fmpq
    kl: Number  #: of the path
    floor: Number
    ceiling: Number


def _seen(x: Solved, i: int, j: int) -> _Seen:
    mu, pi, m = x.stage.policies[i], x.stage.policies[j], x.m[i]
    least, greatest = x.return_bounds
    gap, kl, floor, ceiling = ZERO, [], [], []
    for s in x.states:
        if mu[s] == pi[s]:
            continue
        advantage, v = x.advantage(i, s), x.v(i)[s]
        gap += (x.m[j][s] - m[s]) * sum(((q - p) * a for p, q, a in zip(mu[s], pi[s], advantage, strict=True)), ZERO)
        if not m[s]:
            continue
        terms = row_kl_terms((mu[s], pi[s]))
        kl.append(times(m[s], total(terms)))
        for k, a in zip(terms, advantage, strict=True):
            floor.append(times(m[s], max(a + v - least[s], ZERO), k))
            ceiling.append(times(m[s], max(greatest[s] - v - a, ZERO), k))
    return _Seen(gap, total(kl), total(floor), total(ceiling))


def three_policies(x: Solved) -> dict[str, list[Pair]]:
    """For every update rollouts of `π̂⁰`, and of `π̂ⁱ` for the step from `π̂ⁱ⁻¹` to `π̂ⁱ⁺¹`, of the last one to itself."""
    n = x.agents
    chosen: list[tuple[int, int, int]] = []
    for i in range(n):
        chosen += [(0, i, i + 1), (i + 1, i, i + 2 if i + 2 <= n else n)]
    out: dict[str, list[Pair]] = {"": [], "floor": [], "ceiling": []}
    for mu, current, new in chosen:
        old, now = _seen(x, mu, current), _seen(x, mu, new)
        gap = now.gap - old.gap
        out[""].append((abs(gap), times(x.return_range, total((old.kl, now.kl)))))
        out["floor"].append((-gap, total((now.floor, old.ceiling))))
        out["ceiling"].append((gap, total((now.ceiling, old.floor))))
    return out
