"""The independent oracle: NumPy only, no jax, no package mathematics, nothing clever.

Two ways to know the truth of a small team, both different from the package's:

* episodic: **every trajectory** ``(s0, a0, s1, …)`` is written down with its probability under a policy, and J, visits, V, Q,
  surrogates, gaps and path divergences are sums over that list;
* discounted: the textbook ``np.linalg.inv`` formulas, and all trajectories up to a finite depth with an explicit tail bound.

`exact_stage` repeats the discounted or episodic stage in rational arithmetic (python-flint), for verdicts about rounding.
A world is a dict: ``P [S,A,S]``, ``r [S,A]``, ``rho [S]``, and ``gamma`` or ``T`` (then the states carry their own time).
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import flint
import numpy as np


def paths(world, policy, starts=None, depth=None):
    """All trajectories of positive probability, as a list of ``(probability, states, actions)``.

    ``starts``: list of ``(s, a or None, probability)``; default the initial distribution. `depth`: number of actions.
    """
    P, depth = world["P"], world["T"] if depth is None else depth
    if starts is None:
        starts = [(s, None, p) for s, p in enumerate(world["rho"]) if p > 0]
    live = [(p, (s,), ()) if a is None else (p, (s,), (a,)) for s, a, p in starts]
    done = []
    while live:
        grown = []
        for p, states, actions in live:
            s = states[-1]
            if len(actions) < len(states):
                grown += [(p * q, states, (*actions, a)) for a, q in enumerate(policy[s]) if q > 0]
            elif len(actions) == depth or not P[s, actions[-1]].any():
                done.append((p, states, actions))
            else:
                grown += [(p * q, (*states, t), actions) for t, q in enumerate(P[s, actions[-1]]) if q > 0]
        live = grown
    return done


def path_return(world, states, actions):
    """Sum of the rewards along one trajectory, discounted if the world is."""
    gamma = world.get("gamma", 1.0)
    return sum(gamma**t * world["r"][s, a] for t, (s, a) in enumerate(zip(states, actions, strict=True)))


def path_objective(world, policy, depth=None):
    """`J` as a sum over trajectories."""
    return math.fsum(p * path_return(world, s, a) for p, s, a in paths(world, policy, depth=depth))


def path_visits(world, policy, depth=None):
    """`m`: expected (discounted) number of times each state occurs on a trajectory."""
    m, gamma = np.zeros(len(world["rho"])), world.get("gamma", 1.0)
    for p, states, _ in paths(world, policy, depth=depth):
        for t, s in enumerate(states):
            m[s] += p * gamma**t
    return m


def path_action_values(world, policy, depth=None):
    """`Q(s,a)`: mean return of all trajectories that start with ``s, a``."""
    Q = np.zeros(world["r"].shape)
    for s, a in np.ndindex(*Q.shape):
        Q[s, a] = math.fsum(p * path_return(world, x, u) for p, x, u in paths(world, policy, [(s, a, 1.0)], depth))
    return Q


def path_log_ratio_sum(world, current, new):
    """`Σ_paths P_cur log(P_cur/P_new)`, the KL between the two laws of the whole trajectory (episodic)."""
    total = 0.0
    for p, states, actions in paths(world, current):
        ratio = 1.0
        for s, a in zip(states, actions, strict=True):
            ratio *= current[s, a] / new[s, a] if new[s, a] > 0 else math.inf
        total += p * math.log(ratio)
    return total


def textbook(world, policy):
    """``(m, V, Q, J)`` by inverting `I − γP_π` (discounted)."""
    S = len(world["rho"])
    induced = np.zeros((S, S))
    reward = np.zeros(S)
    for s in range(S):
        for a in range(policy.shape[1]):
            induced[s] += policy[s, a] * world["P"][s, a]
            reward[s] += policy[s, a] * world["r"][s, a]
    inverse = np.linalg.inv(np.eye(S) - world["gamma"] * induced)
    V = inverse @ reward
    return world["rho"] @ inverse, V, world["r"] + world["gamma"] * world["P"] @ V, world["rho"] @ V


def solved(world, policy):
    """``(m, V, Q, J)``: `textbook` when discounted, sums over all trajectories when episodic."""
    if "gamma" in world:
        return textbook(world, policy)
    Q = path_action_values(world, policy)
    return path_visits(world, policy), (policy * Q).sum(1), Q, path_objective(world, policy)


def kl(p, q):
    """`Σ p log(p/q)`, one term at a time, with `0 log 0 = 0` and infinity where `q` drops an action of `p`."""
    total = 0.0
    for x, y in zip(p, q, strict=True):
        if x > 0:
            total += x * math.log(x / y) if y > 0 else math.inf
    return total


def tv(p, q):
    """`½ Σ |p − q|`."""
    return 0.5 * sum(abs(x - y) for x, y in zip(p, q, strict=True))


def product(rows):
    """Probability of each joint action, the last agent's action running fastest."""
    return np.array([math.prod(choice) for choice in itertools.product(*rows)])


def stage_policies(current, target, order, active=None, factors=None):
    """`π̂⁰ … π̂ⁿ` by explicit loops, and the policies `π^{⟨i⟩}` where only the i-th agent of the order is updated."""

    def team_policy(updated):
        if factors is None:
            return np.array([(target if j in updated else current)[s] for s, j in enumerate(active)])
        return np.array(
            [
                product([(target if k in updated else current)[k, s, :size] for k, size in enumerate(factors)])
                for s in range(current.shape[1])
            ]
        )

    order = [int(k) for k in order]
    return [team_policy(set(order[:i])) for i in range(len(order) + 1)], [team_policy({k}) for k in order]


def mean(weight, x):
    """`Σ w x` with `0·∞ = 0`."""
    return sum(w * y for w, y in zip(weight, x, strict=True) if w > 0)


def bounds_to_go(world):
    """Least and greatest return to go of each state, over the support (episodic) or from the range of `r` (discounted)."""
    P, r, S = world["P"], world["r"], len(world["rho"])
    if "gamma" in world:
        return np.full(S, r.min() / (1 - world["gamma"])), np.full(S, r.max() / (1 - world["gamma"]))
    low, high = np.zeros(S), np.zeros(S)
    for s in sorted(range(S), key=lambda s: -world["clock"][s]):
        after = [np.flatnonzero(P[s, a]) for a in range(r.shape[1])]
        low[s] = min(r[s, a] + min(low[x], default=0.0) for a, x in enumerate(after))
        high[s] = max(r[s, a] + max(high[x], default=0.0) for a, x in enumerate(after))
    return low, high


def kl_weighted(mass, old, new, q):
    """`Σ_s m Σ_a k(s,a) q(s,a)`, `k = p·(u − log(1+u))`, `u = p'/p − 1`, and `p'` where `p = 0`; `0·∞ = 0`."""
    total = 0.0
    for s in np.flatnonzero(mass):
        for x, y, value in zip(old[s], new[s], q[s], strict=True):
            k = y if x == 0 else math.inf if y == 0 else y - x - x * math.log(y / x)
            if k > 0 and value > 0:
                total += mass[s] * k * value
    return total


def squared(old, step):
    """`Σ_a step²/old` of each state; `∞` where something moves that `old` never takes."""
    return [
        sum(d * d / p if p > 0 else math.inf for p, d in zip(row, moved, strict=True) if d != 0)
        for row, moved in zip(old, step, strict=True)
    ]


def along_paths(world, policy, x):
    """The greatest `Σ_t x(s_t)` of all trajectories."""
    return max(sum(x[s] for s in states) for _, states, _ in paths(world, policy))


def return_deviation(world, policy):
    """Standard deviation of the return over all trajectories, the mean subtracted first."""
    J = path_objective(world, policy)
    return math.sqrt(math.fsum(p * (path_return(world, s, a) - J) ** 2 for p, s, a in paths(world, policy)))


def stage(world, current, target, order, active=None, factors=None):
    """Every field of a `StageReport` that is defined in theory/derivations/notation.md, as plainly as it is written there."""
    hybrid, solo = stage_policies(current, target, order, active, factors)
    n, S, episodic = len(order), len(world["rho"]), "T" in world
    m, V, Q, J = zip(*(solved(world, policy) for policy in hybrid), strict=True)
    A = [q - v[:, None] for q, v in zip(Q, V, strict=True)]
    d = [x / x.sum() for x in m]
    gamma, floor, ceiling = world.get("gamma", 1.0), *bounds_to_go(world)
    last = world["clock"] == world["T"] - 1 if episodic else np.zeros(S, bool)
    even = bool((world["P"].sum(-1) > 0.5)[~last].all())
    out = {"visits": m, "values": V, "objective": J, "mass": m[0].sum(), "even": even,
           "simultaneous": factors is not None and n > 1, "return_floor": world["rho"] @ floor}  # fmt: skip
    lists: dict[str, list] = {}

    def put(**fields):
        for key, value in fields.items():
            lists.setdefault(key, []).append(value)

    for i in range(n):
        k = int(order[i])
        before, after = hybrid[i], hybrid[i + 1]
        mine = [factors is not None or active[s] == k for s in range(S)]
        if factors is None:
            rows = [(current[s], target[s]) if mine[s] else (current[s], current[s]) for s in range(S)]
        else:
            rows = [(current[k, s, : factors[k]], target[k, s, : factors[k]]) for s in range(S)]
        forward = [kl(old, new) for old, new in rows]
        reverse = [kl(new, old) for old, new in rows]
        distance = [tv(old, new) for old, new in rows]
        g = (after * A[i]).sum(1)
        gain = J[i + 1] - J[i]
        seq, stale = m[i] @ g, m[0] @ g
        cached = m[0] @ ((after - before) * A[0]).sum(1)
        reused = m[0] @ ((solo[i] - hybrid[0]) * A[0]).sum(1)
        induced = np.einsum("sa,sat->st", after, world["P"])
        turns = np.linalg.solve(np.eye(S) - gamma * induced, np.array(mine, float))
        later = [
            gamma * world["P"][s, a] @ turns
            for s in range(S)
            for a in range(after.shape[1])
            if mine[s] and m[i][s] > 0 and after[s, a] != before[s, a]
        ]
        weight, weight_stale = (m[i], m[0]) if episodic else (d[i], d[0])
        put(
            conditional=g,
            shift=m[i + 1] - m[i],
            surrogate_intermediate=seq,
            surrogate_stale=stale,
            surrogate_cached=cached,
            surrogate_reused=reused,
            later_turns=max(later, default=0.0),
            weighted_floor=kl_weighted(m[i], before, after, Q[i] - floor[:, None]),
            weighted_ceiling=kl_weighted(m[i], before, after, ceiling[:, None] - Q[i]),
            weighted_reused=kl_weighted(m[0], hybrid[0], solo[i], Q[0] - floor[:, None]),
            gap_fresh=gain - seq,
            gap_stale=gain - stale,
            gap_cached=gain - cached,
            gap_reused=gain - reused,
            seq_minus_stale=seq - stale,
            kl=mean(weight, forward),
            kl_stale=mean(weight_stale, forward),
            kl_reverse=mean(weight, reverse),
            tv=mean(d[i], distance),
            tv_stale=mean(d[0], distance),
            share=sum(d[i][s] for s in range(S) if mine[s]),
            span_g=g.max() - g.min(),
            advantage_max=abs(A[i]).max(),
            advantage_span=max(row.max() - row.min() for row in A[i]),
            occupancy_tv_fresh=tv(d[i + 1], d[i]),
            occupancy_tv_stale=tv(d[i], d[0]),
        )
        if episodic:
            clock, T = world["clock"], world["T"]
            at = [[s for s in range(S) if clock[s] == t] for t in range(T)]
            met = [[s for s in layer if any(x[s] > 0 for x in m)] for layer in at]
            end = [] if even else [0.0]
            put(
                layer_kl_stale=[mean(m[0][s], np.array(forward)[s]) for s in at],
                layer_share=[sum(m[i][x] for x in s if mine[x]) for s in at],
                layer_span=[max([*g[s], *end], default=0.0) - min([*g[s], *end], default=0.0) for s in met],
                layer_advantage_span=[max((np.ptp(A[i][x]) for x in s if mine[x]), default=0.0) for s in at],
                layer_kl=[mean(m[i][s], np.array(forward)[s]) for s in at],
                layer_tv=[mean(m[i][s], np.array(distance)[s]) for s in at],
                layer_shift=[tv(m[i + 1][s], m[i][s]) for s in at],
                layer_speaks=[any(mine[x] for x in s) for s in at],
                layer_return_deviation=return_deviation(world, before),
                layer_chi_square=along_paths(world, before, squared(before, after - before)),
                layer_chi_square_reused=along_paths(
                    world, hybrid[0], np.sum([squared(hybrid[0], x - hybrid[0]) for x in solo[: i + 1]], 0)
                ),
                layer_chi_square_reused_own=along_paths(world, hybrid[0], squared(hybrid[0], solo[i] - hybrid[0])),
                layer_chi_square_cached=along_paths(world, hybrid[0], squared(hybrid[0], after - hybrid[0])),
                layer_chi_square_cached_own=along_paths(world, hybrid[0], squared(hybrid[0], after - before)),
            )
    out |= {key: np.array(value) for key, value in lists.items()}
    out["reward_span"] = world["r"].max() - world["r"].min()
    out["discount"] = world.get("gamma", 1.0)
    out["improvement"] = J[-1] - J[0]
    out["delta_stale"] = abs(out["seq_minus_stale"]).sum()
    out["d_occ"] = out["occupancy_tv_stale"].sum()
    if episodic:
        everything = np.ones_like(hybrid[0])
        returns = [path_return(world, s, a) for _, s, a in paths(world, everything)]
        out["return_range"] = max(returns) - min(returns)
    else:
        out["return_range"] = out["reward_span"] / (1 - world["gamma"])
    return out


# --------------------------------------------------------------------------------------------------- rational arithmetic


def rational(x) -> flint.fmpq:
    """The float `x` as the fraction it is."""
    fraction = Fraction(float(x))
    return flint.fmpq(fraction.numerator, fraction.denominator)


def exact_row(row) -> list[flint.fmpq]:
    """A row of probabilities as fractions that sum to one exactly: each divided by the sum (rows of zeros stay)."""
    fractions = [rational(x) for x in row]
    total = sum(fractions, flint.fmpq(0))
    return [x / total for x in fractions] if total else fractions


def exact_policies(current, target, order, active=None, factors=None):
    """`π̂⁰ … π̂ⁿ` in fractions, from rows made to sum to one exactly."""
    S = current.shape[-2]

    def row(s, updated):
        if factors is None:
            return exact_row((target if active[s] in updated else current)[s])
        parts = [exact_row((target if k in updated else current)[k, s, :size]) for k, size in enumerate(factors)]
        return [math.prod(choice, start=flint.fmpq(1)) for choice in itertools.product(*parts)]

    order = [int(k) for k in order]
    return [[row(s, set(order[:i])) for s in range(S)] for i in range(len(order) + 1)]


def exact_stage(world, current, target, order, active=None, factors=None):
    """Gaps, drift and shifts of a stage in rational arithmetic, all rows of probabilities normalised exactly.

    A gap is `J' − J − L` here, nothing being lost: the definition, not the package's formula.
    """
    S, A = world["r"].shape
    gamma = rational(world.get("gamma", 1.0))
    P = [[exact_row(row) for row in block] for block in world["P"]]
    r = [[rational(x) for x in row] for row in world["r"]]
    rho = exact_row(world["rho"])
    pi = exact_policies(current, target, order, active, factors)
    zero = flint.fmpq(0)

    def solve(policy):
        entries = [
            [(1 if s == t else 0) - gamma * sum((policy[s][a] * P[s][a][t] for a in range(A)), zero) for t in range(S)]
            for s in range(S)
        ]
        matrix = flint.fmpq_mat(entries)
        reward = flint.fmpq_mat([[sum((policy[s][a] * r[s][a] for a in range(A)), zero)] for s in range(S)])
        v = matrix.solve(reward)
        m = matrix.transpose().solve(flint.fmpq_mat([[x] for x in rho]))
        v, m = [v[s, 0] for s in range(S)], [m[s, 0] for s in range(S)]
        adv = [
            [r[s][a] + gamma * sum((P[s][a][t] * v[t] for t in range(S)), zero) - v[s] for a in range(A)]
            for s in range(S)
        ]
        return m, adv, sum((x * y for x, y in zip(rho, v, strict=True)), zero)

    m, adv, J = zip(*(solve(policy) for policy in pi), strict=True)

    def surrogate(i, mass, advantage):
        return sum(
            (mass[s] * (pi[i + 1][s][a] - pi[i][s][a]) * advantage[s][a] for s in range(S) for a in range(A)), zero
        )

    out = {
        "surrogate_intermediate": [],
        "surrogate_stale": [],
        "gap_fresh": [],
        "gap_stale": [],
        "gap_cached": [],
        "seq_minus_stale": [],
        "shift": [],
    }
    for i in range(len(pi) - 1):
        gain, seq, stale = J[i + 1] - J[i], surrogate(i, m[i], adv[i]), surrogate(i, m[0], adv[i])
        out["surrogate_intermediate"].append(seq)
        out["surrogate_stale"].append(stale)
        out["gap_fresh"].append(gain - seq)
        out["gap_stale"].append(gain - stale)
        out["gap_cached"].append(gain - surrogate(i, m[0], adv[0]))
        out["seq_minus_stale"].append(seq - stale)
        out["shift"].append([x - y for x, y in zip(m[i + 1], m[i], strict=True)])
    return out


def to_float(q: flint.fmpq) -> float:
    """The nearest float of a fraction."""
    return float(Fraction(int(q.p), int(q.q)))


def exact_kl(p, q, bits: int = 300) -> float:
    """`Σ p log(p/q)` of two rows of floats in ball arithmetic of `bits` bits."""
    with flint.ctx.workprec(bits):
        total = flint.arb(0)
        for x, y in zip(p, q, strict=True):
            if x > 0:
                total += flint.arb(rational(x)) * flint.arb(rational(x) / rational(y)).log()
        assert total.rad() < 1e-60
        return float(total.mid())
