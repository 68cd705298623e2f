"""What follows from a stage, in rationals and balls: visits, values, advantages, gaps, divergences.

An independent implementation (python-flint, no array code of the package) that decides what float64 could not, and that the
tests hold against the float core. Every number is computed when it is first asked for, so that one claim costs no more than it
needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

from flint import arb, fmpq, fmpq_mat

from teamtr_jax.exact.numbers import ZERO, Number, Row, distance, dot, precisely, running, spread, times, total
from teamtr_jax.exact.stage import ExactStage

__all__ = ["Solved", "exact_numbers", "row_kl_terms"]

Flow = tuple[list[tuple[int, fmpq]], fmpq]  # successors with their probability, and the mean reward


def row_kl_terms(pair: tuple[Row, Row]) -> list[Number]:
    """`k(a)` with `Σ_a k = KL(first ‖ second)`: `q − p + p log(p/q)`, `q` where `p = 0`, ∞ where `q` drops an action."""
    out: list[Number] = []
    for p, q in zip(*pair, strict=True):
        if p == q:
            out.append(ZERO)
        elif p and q:
            out.append(q - p + p * arb(p / q).log())
        else:
            out.append(None if p else q)
    return out


class Solved:
    """A stage and what follows from it (teamtr_jax/types.py names the same numbers), each computed when first asked for.

    Lists have one entry for each update; `None` is ∞.
    """

    def __init__(self, stage: ExactStage):
        self.stage = stage
        self.gamma, self.horizon, self.agents = stage.gamma, stage.horizon, len(stage.moved)
        self.states = range(len(stage.initial))
        self.arrows = [[[(t, p) for t, p in enumerate(row) if p] for row in table] for table in stage.transition]
        self._rows: dict[tuple[int, int], Flow] = {}
        self._known: dict[int, list[Flow]] = {}
        self._v: dict[int, Row] = {}
        self._q: dict[tuple[int, int], Row] = {}
        self._next: dict[int, tuple[list[int], fmpq_mat]] = {}

    # --- one policy ---

    def _flow(self, policy: list[Row], s: int) -> Flow:
        out: dict[int, fmpq] = {}
        for p, arrows in zip(policy[s], self.arrows[s], strict=True):
            for t, x in arrows if p else ():
                out[t] = out[t] + p * x if t in out else p * x
        return list(out.items()), dot(policy[s], self.stage.reward[s])

    def _flows(self, policy: list[Row]) -> list[Flow]:
        """Rows of `P_π`, sparse, and `r_π`. Rows that hybrids share are one object and are summed once."""
        if id(policy) not in self._known:
            rows = []
            for s, row in enumerate(policy):
                key = s, id(row)
                if key not in self._rows:
                    self._rows[key] = self._flow(policy, s)
                rows.append(self._rows[key])
            self._known[id(policy)] = rows
        return self._known[id(policy)]

    def _expected(self, s: int, v: Row) -> Row:
        """`Σ_t P(t|s,a) v(t)` of every action: a product of matrices, which FLINT forms over one denominator."""
        if s not in self._next:
            met = sorted({t for arrows in self.arrows[s] for t, _ in arrows})
            rows = self.stage.transition[s]
            self._next[s] = met, fmpq_mat(len(rows), len(met), [row[t] for row in rows for t in met])
        met, rows = self._next[s]
        return (rows * fmpq_mat(len(met), 1, [v[t] for t in met])).entries() if met else [ZERO] * rows.nrows()

    def _matrix(self, policy: list[Row]) -> fmpq_mat:
        size = len(self.states)
        entries = [ZERO] * size**2
        for s, (arrows, _) in enumerate(self._flows(policy)):
            for t, x in arrows:
                entries[s * size + t] = -self.gamma * x
            entries[s * size + s] += 1
        return fmpq_mat(size, size, entries)

    def _values(self, policy: list[Row], b: Row) -> Row:
        """`(I − γP_π)⁻¹ b`; episodic worlds by a recursion over time."""
        if self.horizon is None:
            return self._matrix(policy).solve(fmpq_mat(len(b), 1, b)).entries()
        v, flows = list(b), self._flows(policy)
        for s in reversed(self._by_time):
            for t, x in flows[s][0]:
                if v[t]:
                    v[s] += x * v[t]
        return v

    def _visits(self, policy: list[Row]) -> Row:
        """`ρᵀ(I − γP_π)⁻¹`."""
        if self.horizon is None:
            rho = fmpq_mat(len(self.states), 1, self.stage.initial)
            return self._matrix(policy).transpose().solve(rho).entries()
        m, flows = list(self.stage.initial), self._flows(policy)
        for s in self._by_time:
            if m[s]:
                for t, x in flows[s][0]:
                    m[t] += m[s] * x
        return m

    @cached_property
    def _by_time(self) -> list[int]:
        return sorted(self.states, key=lambda s: self.stage.time[s])

    # --- the hybrids ---

    @cached_property
    def m(self) -> list[Row]:
        """`m^{π̂ⁱ}`, i = 0 … n."""
        return [self._visits(policy) for policy in self.stage.policies]

    @cached_property
    def mass(self) -> Row:
        """`Σ_s m^{π̂ⁱ}(s)`."""
        return [sum(m, ZERO) for m in self.m]

    def v(self, i: int) -> Row:
        """`V^{π̂ⁱ}`."""
        if i not in self._v:
            policy = self.stage.policies[i]
            self._v[i] = self._values(policy, [r for _, r in self._flows(policy)])
        return self._v[i]

    def advantage(self, i: int, s: int) -> Row:
        """`A_i(s,·)`."""
        if (i, s) not in self._q:
            v, gamma = self.v(i), self.gamma
            follows = self._expected(s, v)
            self._q[i, s] = [r - v[s] + gamma * x for r, x in zip(self.stage.reward[s], follows, strict=True)]
        return self._q[i, s]

    def _step(self, s: int, before: list[Row], after: list[Row]) -> Row:
        return [q - p for p, q in zip(before[s], after[s], strict=True)]

    @cached_property
    def moving(self) -> list[list[int]]:
        """States at which the agent of an update acts and its row changes."""
        return [[s for s, pair in enumerate(row) if pair and pair[0] != pair[1]] for row in self.stage.moved]

    def _conditional(self, i: int, before: list[Row], after: list[Row], base: int) -> Row:
        """`Σ_a (after − before)(a|s) A_base(s,a)`."""
        g = [ZERO] * len(self.states)
        for s in self.moving[i]:
            g[s] = dot(self._step(s, before, after), self.advantage(base, s))
        return g

    @cached_property
    def g(self) -> list[Row]:
        """`g_i`."""
        return [self._conditional(i, *pair, i) for i, pair in enumerate(pairwise(self.stage.policies))]

    @cached_property
    def gain(self) -> Row:
        """`J(π̂ⁱ) − J(π̂ⁱ⁻¹)` from the values."""
        objective = [dot(self.stage.initial, self.v(i)) for i in range(self.agents + 1)]
        return [b - a for a, b in pairwise(objective)]

    @cached_property
    def gain_by_visits(self) -> Row:
        """`Σ m^{π̂ⁱ} g_i`: the same by T0."""
        return [dot(m, g) for m, g in zip(self.m[1:], self.g, strict=True)]

    @cached_property
    def seq(self) -> Row:
        return [dot(m, g) for m, g in zip(self.m, self.g, strict=False)]

    @cached_property
    def stale(self) -> Row:
        return [dot(self.m[0], g) for g in self.g]

    @cached_property
    def cached(self) -> Row:
        policies = pairwise(self.stage.policies)
        return [dot(self.m[0], self._conditional(i, *pair, 0)) for i, pair in enumerate(policies)]

    @cached_property
    def reused(self) -> Row:
        first = self.stage.policies[0]
        return [dot(self.m[0], self._conditional(i, first, solo, 0)) for i, solo in enumerate(self.stage.solo)]

    @cached_property
    def gap_fresh(self) -> Row:
        return [a - b for a, b in zip(self.gain_by_visits, self.seq, strict=True)]

    @cached_property
    def gap_stale(self) -> Row:
        return [a - b for a, b in zip(self.gain_by_visits, self.stale, strict=True)]

    @cached_property
    def gap_cached(self) -> Row:
        return [a - b for a, b in zip(self.gain_by_visits, self.cached, strict=True)]

    @cached_property
    def gap_reused(self) -> Row:
        return [a - b for a, b in zip(self.gain_by_visits, self.reused, strict=True)]

    @cached_property
    def gap_alone(self) -> Row:
        """Fresh gap of the step `π̂⁰ → π^{⟨i⟩}` in which nobody else moves."""
        first, out = self.stage.policies[0], []
        for i, solo in enumerate(self.stage.solo):
            g, m = self._conditional(i, first, solo, 0), self._visits(solo)
            out.append(dot(m, g) - dot(self.m[0], g))
        return out

    # --- sizes ---

    @cached_property
    def span_g(self) -> Row:
        return [spread(g) for g in self.g]

    @cached_property
    def span_ended(self) -> Row:
        """`span(g_i ∪ {0})`: the end of an episode counts as a state with `g = 0`."""
        return [spread([*g, ZERO]) for g in self.g]

    @cached_property
    def even(self) -> bool:
        """Whether no episode can end before its last step."""
        if self.horizon is None:
            return True
        last = self.horizon - 1
        return all(all(rows) for rows, t in zip(self.arrows, self.stage.time, strict=True) if t != last)

    @cached_property
    def advantage_max(self) -> Row:
        return [max(abs(x) for s in self.states for x in self.advantage(i, s)) for i in range(self.agents)]

    @cached_property
    def advantage_span(self) -> Row:
        return [max(spread(self.advantage(i, s)) for s in self.states) for i in range(self.agents)]

    @cached_property
    def later_turns(self) -> Row:
        """`N⁺`: most own later turns after a visited own state and an action whose probability moves."""
        out = []
        for i, (before, after) in enumerate(pairwise(self.stage.policies)):
            turns = self._values(after, [fmpq(int(pair is not None)) for pair in self.stage.moved[i]])
            later = [
                self.gamma * x
                for s in self.moving[i]
                if self.m[i][s]
                for x, moves in zip(self._expected(s, turns), self._step(s, before, after), strict=True)
                if moves
            ]
            out.append(max(later, default=ZERO))
        return out

    @cached_property
    def simultaneous(self) -> bool:
        """Whether several agents act at one state."""
        return any(sum(pair is not None for pair in column) > 1 for column in zip(*self.stage.moved, strict=True))

    @cached_property
    def return_bounds(self) -> tuple[Row, Row]:
        """Least and greatest return to go, over paths in the support; discounted `min r/(1−γ)`, `max r/(1−γ)`."""
        if self.horizon is None:
            rewards = [x for row in self.stage.reward for x in row]
            floor, ceiling = (x / (1 - self.gamma) for x in (min(rewards), max(rewards)))
            return [floor] * len(self.states), [ceiling] * len(self.states)

        def best(choose: Callable[..., fmpq]) -> Row:
            v = [ZERO] * len(self.states)
            for s in reversed(self._by_time):
                v[s] = choose(
                    r + choose((v[t] for t, _ in arrows), default=ZERO)
                    for r, arrows in zip(self.stage.reward[s], self.arrows[s], strict=True)
                )
            return v

        return best(min), best(max)

    @cached_property
    def return_range(self) -> fmpq:
        floor, ceiling = self.return_bounds
        start = [s for s in self.states if self.stage.initial[s]]
        return max(ceiling[s] for s in start) - min(floor[s] for s in start)

    # --- divergences ---

    def _mean(self, weight: Row, i: int, per_state: Sequence[Number]) -> Number:
        """`Σ_s m(s) x(s)` over the states where update i moves, with `0·∞ = 0`."""
        return total(times(weight[s], per_state[s]) for s in self.moving[i] if weight[s])

    def _layers(self, weight: Row, states: Iterable[int], per_state: Sequence[Number]) -> list[Number]:
        """The same for each layer."""
        assert self.horizon is not None
        out: list[Number] = [ZERO] * self.horizon
        for s in states:
            if weight[s]:
                t = self.stage.time[s]
                out[t] = total((out[t], times(weight[s], per_state[s])))
        return out

    @cached_property
    def kl_terms(self) -> list[list[list[Number]]]:
        """`k` of the updated agent's own actions, [n][S][own A]; empty where it does not act."""
        return [[row_kl_terms(pair) if pair else [] for pair in row] for row in self.stage.moved]

    @cached_property
    def state_kl(self) -> list[list[Number]]:
        return [[total(terms) for terms in row] for row in self.kl_terms]

    @cached_property
    def state_tv(self) -> list[Row]:
        return [
            [sum((abs(q - p) for p, q in zip(*pair, strict=True)), ZERO) / 2 if pair else ZERO for pair in row]
            for row in self.stage.moved
        ]

    def _scale(self, i: int) -> fmpq:
        return 1 / self.mass[i] if self.horizon is None else fmpq(1)

    @cached_property
    def kl(self) -> list[Number]:
        """`δ_i`."""
        return [times(self._scale(i), self._mean(self.m[i], i, kl)) for i, kl in enumerate(self.state_kl)]

    @cached_property
    def kl_stale(self) -> list[Number]:
        """`δ⁰_i`."""
        return [times(self._scale(0), self._mean(self.m[0], i, kl)) for i, kl in enumerate(self.state_kl)]

    @cached_property
    def kl_half(self) -> list[Number]:
        """`δ⁰_i` of half the step."""
        out = []
        for i, row in enumerate(self.stage.moved):
            half = [
                total(row_kl_terms((pair[0], [(p + q) / 2 for p, q in zip(*pair, strict=True)]))) if pair else ZERO
                for pair in row
            ]
            out.append(times(self._scale(0), self._mean(self.m[0], i, half)))
        return out

    @cached_property
    def mean_tv(self) -> Row:
        """`Σ m^{π̂ⁱ⁻¹} TV_i`."""
        return [dot(m, tv) for m, tv in zip(self.m, self.state_tv, strict=False)]

    @cached_property
    def tv(self) -> Row:
        """`E_{d^{π̂ⁱ⁻¹}} TV_i`."""
        return [tv / mass for tv, mass in zip(self.mean_tv, self.mass, strict=False)]

    @cached_property
    def _acts(self) -> list[Row]:
        return [[fmpq(int(pair is not None)) for pair in row] for row in self.stage.moved]

    @cached_property
    def share(self) -> Row:
        """`w_i`."""
        return [dot(m, acts) / mass for m, acts, mass in zip(self.m, self._acts, self.mass, strict=False)]

    @cached_property
    def occupancy_tv_fresh(self) -> Row:
        return [distance(a, b) for a, b in pairwise(self.m)]

    @cached_property
    def occupancy_tv_stale(self) -> Row:
        return [distance(self.m[i], self.m[0]) for i in range(self.agents)]

    # --- layers ---

    def _each_layer(self, per_state: Sequence[Sequence[Number]]) -> list[list[Number]]:
        return [self._layers(self.m[i], self.moving[i], x) for i, x in enumerate(per_state)]

    @cached_property
    def layer_kl(self) -> list[list[Number]]:
        return self._each_layer(self.state_kl)

    @cached_property
    def layer_kl_stale(self) -> list[list[Number]]:
        return [self._layers(self.m[0], self.moving[i], kl) for i, kl in enumerate(self.state_kl)]

    @cached_property
    def layer_tv(self) -> list[list[Number]]:
        return self._each_layer(self.state_tv)

    @cached_property
    def layer_tv_squared(self) -> list[list[Number]]:
        return self._each_layer([[x * x for x in row] for row in self.state_tv])

    @cached_property
    def layer_share(self) -> list[list[Number]]:
        return [self._layers(m, self.states, acts) for m, acts in zip(self.m, self._acts, strict=False)]

    @cached_property
    def layer_shift(self) -> list[list[Number]]:
        """`½ Σ |m^{π̂ⁱ} − m^{π̂ⁱ⁻¹}|` in each layer."""
        half = [fmpq(1, 2)] * len(self.states)
        apart = [[abs(p - q) for p, q in zip(a, b, strict=True)] for a, b in pairwise(self.m)]
        return [self._layers(half, self.states, x) for x in apart]

    def _layer_states(self) -> list[list[int]]:
        assert self.horizon is not None
        out: list[list[int]] = [[] for _ in range(self.horizon)]
        for s, t in enumerate(self.stage.time):
            out[t].append(s)
        return out

    @cached_property
    def layer_span(self) -> list[Row]:
        """`span(g_i)` over the states of each layer that some hybrid visits, with the end unless it cannot come early."""
        end = [] if self.even else [ZERO]
        met = [[s for s in layer if any(m[s] for m in self.m)] for layer in self._layer_states()]
        return [[spread([*(g[s] for s in layer), *end]) if layer or end else ZERO for layer in met] for g in self.g]

    @cached_property
    def layer_speaks(self) -> list[list[bool]]:
        """Whether the agent has a state in the layer, visited or not."""
        assert self.horizon is not None
        own = (
            {t for t, pair in zip(self.stage.time, row, strict=True) if pair is not None} for row in self.stage.moved
        )
        return [[t in times for t in range(self.horizon)] for times in own]

    @cached_property
    def layer_advantage_span(self) -> list[Row]:
        """`max span_a A_{i−1}(s,·)` over the updated agent's own states of each layer."""
        out = []
        for i, moved in enumerate(self.stage.moved):
            own = [[s for s in layer if moved[s]] for layer in self._layer_states()]
            out.append([max((spread(self.advantage(i, s)) for s in layer), default=ZERO) for layer in own])
        return out

    # --- S10 ---

    def return_variance(self, base: int) -> fmpq:
        """`E R² − (E R)²` of the episode's return under `π̂^base`, by the recursion of second moments."""
        policy, v = self.stage.policies[base], self.v(base)
        second = [ZERO] * len(self.states)
        for s in reversed(self._by_time):
            for p, r, arrows in zip(policy[s], self.stage.reward[s], self.arrows[s], strict=True):
                if p:
                    ahead = sum((x * v[t] for t, x in arrows), ZERO), sum((x * second[t] for t, x in arrows), ZERO)
                    second[s] += p * (r * r + 2 * r * ahead[0] + ahead[1])
        start = self.stage.initial
        return dot(start, second) - dot(start, v) ** 2

    def _along(self, base: int, per_state: Sequence[Number]) -> Number:
        """The greatest sum along an episode that has positive probability under `π̂^base`."""
        policy = self.stage.policies[base]
        best: list[Number] = [ZERO] * len(self.states)
        for s in reversed(self._by_time):
            following = {t for p, arrows in zip(policy[s], self.arrows[s], strict=True) if p for t, _ in arrows}
            ahead = [best[t] for t in following]
            best[s] = None if None in ahead else total((per_state[s], max(ahead, default=ZERO)))
        starts = [x for x, rho in zip(best, self.stage.initial, strict=True) if rho]
        return None if None in starts else max(starts)

    @staticmethod
    def _squared(weight: Row, step: Row) -> Number:
        """`Σ_a step²/weight`."""
        return total((x * x / p if p else None) for p, x in zip(weight, step, strict=True) if x)

    def _chi_squares(self, base: list[Row], pairs: Iterable[tuple[list[Row], list[Row]]]) -> list[list[Number]]:
        return [[self._squared(base[s], self._step(s, a, b)) for s in self.states] for a, b in pairs]

    @cached_property
    def path_chi_square(self) -> list[Number]:
        policies = self.stage.policies
        rows = [self._chi_squares(a, [(a, b)])[0] for a, b in pairwise(policies)]
        return [self._along(i, row) for i, row in enumerate(rows)]

    @cached_property
    def _cached_rows(self) -> list[list[Number]]:
        return self._chi_squares(self.stage.policies[0], pairwise(self.stage.policies))

    @cached_property
    def _reused_rows(self) -> list[list[Number]]:
        first = self.stage.policies[0]
        return self._chi_squares(first, [(first, solo) for solo in self.stage.solo])

    @cached_property
    def path_chi_square_cached(self) -> list[Number]:
        """Of `χ²(π̂ⁱ‖π̂⁰)`: from the two policies, not from the increments."""
        first = self.stage.policies[0]
        rows = self._chi_squares(first, [(first, policy) for policy in self.stage.policies[1:]])
        return [self._along(0, row) for row in rows]

    @cached_property
    def path_chi_square_cached_own(self) -> list[Number]:
        return [self._along(0, row) for row in self._cached_rows]

    @cached_property
    def path_chi_square_reused(self) -> list[Number]:
        return [self._along(0, running(self._reused_rows, i)) for i in range(self.agents)]

    @cached_property
    def path_chi_square_reused_own(self) -> list[Number]:
        return [self._along(0, row) for row in self._reused_rows]

    # --- S9 ---

    def _weigh(self, i: int, base: int, others: list[Row] | None, to_go: Callable[[int], Row]) -> Number:
        """`Σ_s m^{base}(s) Σ_a k_i(s,a) max(q(s,a), 0)`; a joint action's k is its own action's times the others' probability."""
        parts: list[Number] = []
        for s in self.moving[i]:
            if not self.m[base][s]:
                continue
            weight = [ZERO] * len(self.kl_terms[i][s])
            for a, q in enumerate(to_go(s)):
                if q > 0:
                    weight[self.stage.own[i][a]] += q if others is None else q * others[s][a]
            parts.append(times(self.m[base][s], total(map(times, weight, self.kl_terms[i][s]))))
        return total(parts)

    def _above(self, base: int) -> Callable[[int], Row]:
        """`Q − Φ`."""
        floor = self.return_bounds[0]
        return lambda s: [a + self.v(base)[s] - floor[s] for a in self.advantage(base, s)]

    def _below(self, base: int) -> Callable[[int], Row]:
        """`Ψ − Q`."""
        ceiling = self.return_bounds[1]
        return lambda s: [ceiling[s] - self.v(base)[s] - a for a in self.advantage(base, s)]

    @cached_property
    def weighted_floor(self) -> list[Number]:
        return [self._weigh(i, i, self.stage.others[i], self._above(i)) for i in range(self.agents)]

    @cached_property
    def weighted_ceiling(self) -> list[Number]:
        return [self._weigh(i, i, self.stage.others[i], self._below(i)) for i in range(self.agents)]

    @cached_property
    def weighted_reused(self) -> list[Number]:
        return [self._weigh(i, 0, self.stage.others_first[i], self._above(0)) for i in range(self.agents)]


def exact_numbers(e: ExactStage) -> dict[str, Any]:
    """Visits, values, surrogates and gaps of the stage in rationals, KLs in balls (`None` = ∞)."""
    with precisely():
        x = Solved(e)
        names = "m g gain seq stale cached reused gap_fresh gap_stale gap_cached gap_reused kl kl_stale".split()
        return {"v": [x.v(i) for i in range(x.agents + 1)]} | {name: getattr(x, name) for name in names}
