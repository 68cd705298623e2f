"""``python benchmarks/reference.py FILE…``: the lines of `teamtr stage --json` in plain NumPy, as a user would write them.

A rival and nothing else: it reads stage files that are in order, imports neither the package nor jax, and knows dense arrays
only (successor lists are filled in). Written from docs/stage-files.md and theory/derivations, where each formula has its id.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Numbers = dict[str, Any]


class World(NamedTuple):
    """A team without its policies. Episodic arrays have a leading axis of time, states are then numbered `t·X + x`."""

    transition: Array  #: [S, A, S] or [T, X, A, X]
    reward: Array  #: [S, A]
    initial: Array  #: [S]
    gamma: float  #: 1 if episodic
    steps: int  #: T; 0 if discounted
    active: Array | None
    factors: list[int] | None
    agents: int

    def backward(self, v: Array) -> Array:
        """`E[v(s')|s,a]` of `v` [S], or of many at once."""
        if not self.steps:
            return np.tensordot(v, self.transition, (-1, -1))
        layers = v.reshape(*v.shape[:-1], self.steps, -1)
        later = np.concatenate([layers[..., 1:, :], 0 * layers[..., :1, :]], -2)
        out = (self.transition @ later[..., None, :, None])[..., 0]
        return out.reshape(*v.shape, -1)

    def forward(self, flow: Array) -> Array:
        """Mass that arrives, of a flow [S, A]."""
        if not self.steps:
            return np.tensordot(flow, self.transition, 2)
        out = np.einsum("txa,txay->ty", flow.reshape(*self.transition.shape[:3]), self.transition)
        return np.concatenate([0 * out[:1], out[:-1]]).ravel()

    def solver(self, policy: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """What maps rewards [S] to values and starts [S] to visits under a policy."""
        if not self.steps:
            induced = np.einsum("sa,sat->st", policy, self.transition)
            inverse = np.linalg.inv(np.eye(len(induced)) - self.gamma * induced)
            return lambda b: inverse @ b, lambda b: b @ inverse
        shape = self.transition.shape
        induced = np.einsum("txa,txay->txy", policy.reshape(shape[:3]), self.transition)

        def values(b: Array) -> Array:
            v = b.reshape(shape[:2]).copy()
            for t in reversed(range(self.steps - 1)):
                v[t] += induced[t] @ v[t + 1]
            return v.ravel()

        def visits(b: Array) -> Array:
            m = b.reshape(shape[:2]).copy()
            for t in range(self.steps - 1):
                m[t + 1] += m[t] @ induced[t]
            return m.ravel()

        return values, visits

    def reached(self, policy: Array) -> Array:
        """States that are visited: decided by zeros alone, for an inverse returns 1e-18 where the truth is 0."""
        known = self.initial > 0
        if self.gamma == 0:
            return known
        while True:
            larger = known | (self.forward(known[:, None] * (policy > 0)) > 0)
            if (larger == known).all():
                return known
            known = larger

    def extremes(self) -> tuple[Array, Array]:
        """Least and greatest return to go, of every state (S9)."""
        if not self.steps:
            ones = np.ones(len(self.reward)) / (1 - self.gamma)
            return ones * self.reward.min(), ones * self.reward.max()
        reward, possible = self.reward.reshape(self.transition.shape[:3]), self.transition > 0
        low, high = reward.min(-1), reward.max(-1)
        for t in reversed(range(self.steps - 1)):
            low[t] = (reward[t] + np.where(possible[t], low[t + 1], np.inf).min(-1)).min(-1)
            high[t] = (reward[t] + np.where(possible[t], high[t + 1], -np.inf).max(-1)).max(-1)
        return low.ravel(), high.ravel()

    def farthest(self, policy: Array, m: Array, x: Array) -> float:
        """Greatest sum of `x` [S] along an episode that the policy can have (S10)."""
        if (np.isinf(x) & (m > 0)).any():
            return np.inf
        steps = (self.transition > 0) & (policy.reshape(*self.transition.shape[:3], 1) > 0)
        follows: Array = np.asarray(steps.any(2))
        best = np.where(np.isinf(x), 0.0, x).reshape(self.steps, -1)
        for t in reversed(range(self.steps - 1)):
            best[t] += np.where(follows[t], best[t + 1], 0.0).max(-1)
        return best.ravel()[self.initial > 0].max()

    def deviation(self, policy: Array, m: Array, v: Array) -> float:
        """Standard deviation of an episode's return."""
        later = np.concatenate([v.reshape(self.steps, -1)[1:], np.zeros((1, self.transition.shape[1]))])
        mean = (self.transition @ later[:, None, :, None])[..., 0]
        spread = (self.transition * (later[:, None, None] - mean[..., None]) ** 2).sum(-1).reshape(policy.shape)
        chance = (policy * ((self.reward + mean.reshape(policy.shape) - v[:, None]) ** 2 + spread)).sum(-1)
        return np.sqrt(self.initial @ (v - self.initial @ v) ** 2 + m @ chance)


def read(path: str) -> tuple[World, Array, Array, Array]:
    """The world, the policies before and after, the order."""
    with np.load(path) as file:
        x = dict(file)
    steps = int(x["horizon"]) if "horizon" in x else 0
    if "transition" in x:
        transition = x["transition"]
    else:
        index, prob = x["successor_index"], x["successor_prob"]
        transition = np.zeros((*prob.shape[:-1], prob.shape[-3]))
        where = np.indices(prob.shape)[:-1]
        np.add.at(transition, (*where, index), prob)
    factors = x["factors"].tolist() if "factors" in x else None
    agents = len(factors) if factors else int(x["agents"]) if "agents" in x else int(x["active"].max()) + 1
    order = x.get("order", np.arange(agents))

    def timed(key: str, axes: int) -> Array:
        """Time and state merged; what serves every step is repeated."""
        table = x[key]
        if not steps:
            return table
        table = np.broadcast_to(table, (steps, *table.shape)) if table.ndim == axes else table
        if axes == 3:  # the policies of a product team: agents first
            table = np.moveaxis(table, 0, 1)
            return table.reshape(len(table), -1, table.shape[-1])
        return table.reshape(-1, *table.shape[2:])

    if steps and transition.ndim == 3:
        transition = np.broadcast_to(transition, (steps, *transition.shape))
    initial = x["initial"]
    if steps:
        initial = np.concatenate([initial, np.zeros((steps - 1) * len(initial))])
    active = None if factors else timed("active", 1)
    gamma = 1.0 if steps else float(x["discount"])
    world = World(transition, timed("reward", 2), initial, gamma, steps, active, factors, agents)
    axes = 3 if factors else 2
    return world, timed("current", axes), timed("target", axes), order


def joint(factors: list[Array]) -> Array:
    """The policy of all agents at once: the last one's action runs fastest."""
    return reduce(lambda p, q: (p[:, :, None] * q[:, None, :]).reshape(len(p), -1), factors)


def terms(p: Array, q: Array, step: Array) -> Array:
    """`k(a) ≥ 0` with `Σ_a k(a) = KL(p‖q)`; `q` where `p = 0`, infinite where `q = 0` alone."""
    used = p > 0
    safe = np.where(used, p, 1.0)
    u = step / safe
    near = abs(u) < 0.1  # there a logarithm of the ratio would cancel
    excess = u - np.where(near, np.log1p(np.where(near, u, 0.0)), np.log(np.where(near, 1.0, q / safe)))
    return np.where(used, p * excess, step)


def times(x: Any, y: Any) -> Array:
    """`x·y` with `0·∞ = 0`."""
    return np.where((x == 0) | (y == 0), 0.0, x * y)


def moves(world: World, current: Array, target: Array, order: Array) -> Numbers:
    """The policies after 0 … n updates, the steps between them and how far each agent moved at each state."""
    if world.factors is None:
        acts = world.active == order[:, None]
        policies = [current]
        for own in acts:
            policies.append(np.where(own[:, None], target, policies[-1]))
        steps = np.where(acts[..., None], target - current, 0.0)
        kl = np.where(acts, terms(current, target, target - current).sum(-1), 0.0)
        tv = np.where(acts, 0.5 * abs(target - current).sum(-1), 0.0)
        return dict(policies=np.stack(policies), steps=steps, solo=steps, apart_kl=kl, apart_tv=tv, acts=acts)
    old = [current[k, :, :size] for k, size in enumerate(world.factors)]
    new = [target[k, :, :size] for k, size in enumerate(world.factors)]
    start, tables = list(old), list(old)
    policies, steps, solo, kl, tv = [joint(tables)], [], [], [], []
    for k in order:
        step = new[k] - old[k]
        steps.append(joint([*tables[:k], step, *tables[k + 1 :]]))
        solo.append(joint([*start[:k], step, *start[k + 1 :]]))
        kl.append(terms(old[k], new[k], step).sum(-1))
        tv.append(0.5 * abs(step).sum(-1))
        tables[k] = new[k]
        policies.append(joint(tables))
    return dict(policies=np.stack(policies), steps=np.stack(steps), solo=np.stack(solo), apart_kl=np.stack(kl),
                apart_tv=np.stack(tv), acts=np.ones((len(order), len(world.reward)), bool))  # fmt: skip


def solve(world: World, x: Numbers) -> None:
    """Values, visits and advantages of every hybrid; conditionals and differences between two of them."""
    names = ("v", "m", "a", "g", "shift", "value_shift", "turns")
    out: dict[str, list[Array]] = {name: [] for name in names}
    for i, policy in enumerate(x["policies"]):
        values, visits = world.solver(policy)
        if i:
            step, m, a = x["steps"][i - 1], out["m"][-1], out["a"][-1]
            g = (step * a).sum(-1)
            out["g"].append(g)
            out["shift"].append(visits(world.gamma * world.forward(m[:, None] * step)))
            out["value_shift"].append(values(g))
            out["turns"].append(values(x["acts"][i - 1] * 1.0))
        v = values((policy * world.reward).sum(-1))
        out["v"].append(v)
        out["m"].append(np.where(world.reached(policy), visits(world.initial), 0.0))
        out["a"].append(world.reward + world.gamma * world.backward(v) - v[:, None])
    x |= {name: np.stack(rows) for name, rows in out.items()}


def quantities(world: World, x: Numbers) -> Numbers:
    """Everything of the report that penalties and certificates are made of."""
    m, a, g, v, steps, gamma = x["m"], x["a"], x["g"], x["v"], x["steps"], world.gamma
    before, start = m[:-1], m[0]
    drift, value_drift = (np.cumsum(x[key], 0) - x[key] for key in ("shift", "value_shift"))
    fresh, difference = (x["shift"] * g).sum(-1), (drift * g).sum(-1)
    advantage_drift = gamma * world.backward(value_drift) - value_drift[..., None]
    stale = fresh + difference
    cached = stale + (start * (steps * advantage_drift).sum(-1)).sum(-1)
    d, d0 = before / before.sum(-1, keepdims=True), start / start.sum()
    weight, weight0 = (before, start) if world.steps else (d, d0)
    low, high = world.extremes()
    policies, solo = x["policies"], x["solo"]
    moved, solo_moved = terms(policies[:-1], policies[1:], steps), terms(policies[0], policies[0] + solo, solo)
    to_go, left = np.maximum(a + (v - low)[..., None], 0.0), np.maximum((high - v)[..., None] - a, 0.0)

    def weighted(m: Array, k: Array, value: Array) -> Array:
        return times(m[..., None], times(k, value)).sum((-2, -1))

    own = (x["acts"] & (before > 0))[..., None] & (steps != 0)
    begin = world.initial > 0
    return x | dict(
        objective=v @ world.initial,
        surrogate_intermediate=(before * g).sum(-1),
        surrogate_stale=(start * g).sum(-1),
        surrogate_cached=(start * (steps * a[0]).sum(-1)).sum(-1),
        surrogate_reused=(start * (solo * a[0]).sum(-1)).sum(-1),
        gap_fresh=fresh,
        gap_stale=stale,
        gap_cached=cached,
        gap_reused=cached + (start * ((steps - solo) * a[0]).sum(-1)).sum(-1),
        delta_stale=abs(difference).sum(),
        kl=times(weight, x["apart_kl"]).sum(-1),
        kl_stale=times(weight0, x["apart_kl"]).sum(-1),
        tv=(d * x["apart_tv"]).sum(-1),
        share=(d * x["acts"]).sum(-1),
        span_g=g.max(-1) - g.min(-1),
        advantage_max=abs(a[:-1]).max((-2, -1)),
        advantage_span=(a[:-1].max(-1) - a[:-1].min(-1)).max(-1),
        occupancy_tv_fresh=apart(x["shift"], d, m[1:]),
        occupancy_tv_stale=apart(drift, d0, before),
        later_turns=np.where(own, gamma * world.backward(x["turns"]), 0.0).max((-2, -1)),
        mass=start.sum() if world.steps else 1 / (1 - gamma),
        return_range=high[begin].max() - low[begin].min() if world.steps else high[0] - low[0],
        return_floor=world.initial @ low,
        weighted_floor=weighted(before, moved, to_go[:-1]),
        weighted_ceiling=weighted(before, moved, left[:-1]),
        weighted_reused=weighted(start, solo_moved, to_go[0]),
    )


def apart(shift: Array, d: Array, new: Array) -> Array:
    """`TV(d', d)` from `m' − m`."""
    return 0.5 * abs(shift - d * shift.sum(-1, keepdims=True)).sum(-1) / new.sum(-1)


def earlier(x: Array) -> Array:
    """`Σ_{u<t} x_u` along the last axis (not `cumsum − x`: infinities)."""
    return np.concatenate([np.zeros_like(x[..., :1]), np.cumsum(x, -1)[..., :-1]], -1)


def discounted(world: World, x: Numbers) -> Numbers:
    """The penalties of a discounted stage."""
    gamma, long = world.gamma, 1 / (1 - world.gamma)
    kl, kl0, tv, span, wide = x["kl"], x["kl_stale"], x["tv"], x["span_g"], x["advantage_span"]
    c = np.sqrt(2) * gamma * x["advantage_max"] * long**2
    sum0, shared = np.cumsum(kl0), np.sqrt(times(x["share"], kl))
    later = kl0 + times(gamma * long, sum0)
    return dict(
        penalty_paper=times(c, np.sqrt(kl)),
        penalty_share=times(c, shared),
        penalty_path=times(times(gamma, np.sqrt(kl * long / 2)), span) * long,
        penalty_second_order=gamma * long**2 * tv * span,
        penalty_log_sum_advantage=times(wide, kl) * long**2,
        penalty_stale_paper=times(c, np.cumsum(np.sqrt(kl))),
        penalty_stale_share=times(c, np.cumsum(shared)),
        penalty_stale_path=times(times(gamma, np.sqrt(sum0 * long / 2)), span) * long,
        penalty_stale_second_order=gamma * long**2 * np.cumsum(tv) * span,
        penalty_stale_log_sum=times(wide, later) * long,
        penalty_stale_return_range=times(x["return_range"], later) * long,
    )


def chi_square(policy: Array, step: Array) -> Array:
    """`Σ_a step²/π`, infinite where something moves that is never taken."""
    used = policy > 0
    return np.where(used, step**2 / np.where(used, policy, 1.0), np.where(step == 0, 0.0, np.inf)).sum(-1)


def budgets(world: World, x: Numbers) -> Numbers:
    """The penalties of S10, and its bound on the stage."""
    m, v, policies = x["m"], x["v"], x["policies"]

    def excess(y: Array) -> Array:
        """`e^y − 1 − y`."""
        y = np.asarray(y, float)
        series = y * y * (1 / 2 + y * (1 / 6 + y * (1 / 24 + y * (1 / 120 + y / 720))))
        return np.where(y < 0.01, series, np.where(np.isinf(y), np.inf, np.expm1(y) - y))

    sd = np.array([world.deviation(*row) for row in zip(policies[:-1], m, v, strict=False)])
    rows = chi_square(policies[:-1], x["steps"])
    fresh = [world.farthest(*row) for row in zip(policies[:-1], m, rows, strict=False)]
    out: Numbers = dict(penalty_chi_square=np.where(np.isinf(fresh), np.inf, sd * np.sqrt(excess(np.array(fresh)))))
    for gap, steps in (("cached", x["steps"]), ("reused", x["solo"])):
        own = chi_square(policies[0], steps)
        through = np.array([world.farthest(policies[0], m[0], y) for y in np.cumsum(own, 0)])
        b = np.array([world.farthest(policies[0], m[0], y) for y in own])
        a = np.concatenate([[0.0], through[:-1]])
        grown = excess(b) + np.where(b == 0, 0.0, np.expm1(a) * np.expm1(b))
        out[f"penalty_{gap}_chi_square"] = np.where(np.isinf(a) | np.isinf(b), np.inf, sd[0] * np.sqrt(grown))
        if gap == "cached":
            last = through[-1]
            x["stage_chi_square"] = np.inf if np.isinf(last) else sd[0] * np.sqrt(excess(last))
    return out


def episodic(world: World, x: Numbers) -> Numbers:
    """The penalties of an episodic stage, from its layers [n, T]."""
    before, acts = x["m"][:-1], x["acts"]

    def split(y: Array) -> Array:
        return y.reshape(len(y), world.steps, -1)

    kl, kl0 = (split(times(m, x["apart_kl"])).sum(-1) for m in (before, x["m"][0]))
    tv, share = split(before * x["apart_tv"]).sum(-1), split(before * acts).sum(-1)
    met = (x["m"] > 0).any(0)
    top, bottom = split(np.where(met, x["g"], -np.inf)).max(-1), split(np.where(met, x["g"], np.inf)).min(-1)
    span = np.where(np.isfinite(top), top, 0.0) - np.where(np.isfinite(bottom), bottom, 0.0)
    wide = split(np.where(acts, x["a"][:-1].max(-1) - x["a"][:-1].min(-1), 0.0)).max(-1)
    speaks = split(acts).any(-1)
    worst = 2 * x["advantage_max"]
    root, shared = earlier(np.sqrt(kl / 2)), earlier(np.sqrt(times(share, kl) / 2))
    path, moved = np.sqrt(earlier(kl) / 2), earlier(tv)
    stale = kl0 + earlier(np.cumsum(kl0, 0))

    def spanned(shift: Array) -> Array:
        return times(np.minimum(1.0, shift), span).sum(-1)

    return dict(
        penalty_paper=worst * np.minimum(1.0, root).sum(-1),
        penalty_share=worst * np.minimum(1.0, shared).sum(-1),
        penalty_path=spanned(path),
        penalty_second_order=spanned(moved),
        penalty_layers=spanned(np.minimum(path, moved)),
        penalty_log_sum_advantage=times(wide, np.cumsum(kl, -1)).sum(-1),
        penalty_stale_paper=worst * np.minimum(1.0, np.cumsum(root, 0)).sum(-1),
        penalty_stale_share=worst * np.minimum(1.0, np.cumsum(shared, 0)).sum(-1),
        penalty_stale_path=spanned(np.sqrt(earlier(np.cumsum(kl0, 0)) / 2)),
        penalty_stale_second_order=spanned(earlier(np.cumsum(tv, 0))),
        penalty_stale_log_sum=times(wide, stale).sum(-1),
        penalty_stale_return_range=times(x["return_range"], np.where(speaks, stale, 0.0).sum(-1)),
        **budgets(world, x),
    )


def penalties(world: World, x: Numbers) -> Numbers:
    """Every penalty by its key."""
    out = episodic(world, x) if world.steps else discounted(world, x)
    long = 1.0 if world.steps else 1 / (1 - world.gamma)
    through = np.cumsum(x["kl_stale"]) * long
    both = through + earlier(x["kl_stale"] * long) if world.factors and world.agents > 1 else through
    return out | dict(
        penalty_trivial=x["mass"] * x["span_g"],
        penalty_later_turns=x["m"][:-1].sum(-1) * x["tv"] * x["later_turns"] * x["span_g"],
        penalty_log_sum=times(x["return_range"], x["kl"] * long),
        penalty_weighted=np.maximum(x["weighted_floor"], x["weighted_ceiling"]),
        penalty_stale_trivial=x["mass"] * x["span_g"],
        penalty_cached_log_sum=times(x["return_range"], both),
        penalty_reused_log_sum=times(x["return_range"], through),
    )


def jensen(b: Array, above: Array) -> Array:
    """`J̃(e^{b/J̃} − 1)`, S9 (g)."""
    some = above > 0
    return np.where(some, above * np.expm1(b / np.where(some, above, 1.0)), b)


def certificates(x: Numbers, penalty: Numbers) -> Numbers:
    """What is left of the improvement when a penalty is taken off the surrogate; per update and per stage."""
    surrogate, objective = x["surrogate_intermediate"], x["objective"]
    stale = ("penalty_cached_", "penalty_reused_", "penalty_stale_")
    fresh = [y for key, y in penalty.items() if not key.startswith(stale)]
    least = np.min(fresh, 0)
    paper, best, gained = surrogate - penalty["penalty_paper"], surrogate - least, surrogate + x["gap_fresh"]
    reused = penalty["penalty_reused_log_sum"][-1]
    chi_square = {}
    if "stage_chi_square" in x:
        chi_square["stage_bound_chi_square"] = x["surrogate_cached"].sum() - x["stage_chi_square"]
    return chi_square | dict(
        penalty_least=least,
        penalty_stale_least=np.min([y for key, y in penalty.items() if key.startswith("penalty_stale_")], 0),
        lower_bound_paper=paper,
        certificate_paper=paper,
        certificate_estimable=surrogate - penalty["penalty_log_sum"],
        certificate_weighted=jensen(surrogate - x["weighted_floor"], objective[:-1] - x["return_floor"]),
        certificate=best,
        certified_share=[float(y / z) if z > 0 else None for y, z in zip(best, gained, strict=True)],
        delta_stale=x["delta_stale"],
        d_occ=x["occupancy_tv_stale"].sum(),
        stage_bound_paper=paper.sum(),
        stage_bound_stale_paper=(x["surrogate_stale"] - penalty["penalty_stale_paper"]).sum(),
        stage_bound_cached=x["surrogate_cached"].sum() - reused,
        stage_bound_reused=x["surrogate_reused"].sum() - reused,
        stage_bound_weighted=jensen(
            (x["surrogate_reused"] - x["weighted_reused"]).sum(), objective[0] - x["return_floor"]
        ),
        stage_bound_least=best.sum(),
        improvement=gained.sum(),
    )


LISTS = (
    "objective surrogate_intermediate surrogate_stale surrogate_cached gap_fresh gap_stale gap_cached kl kl_stale tv share "
    "span_g advantage_max occupancy_tv_fresh occupancy_tv_stale"
).split()


def stage(path: str) -> Numbers:
    """One line of the output."""
    world, current, target, order = read(path)
    x = moves(world, current, target, order)
    solve(world, x)
    x = quantities(world, x)
    penalty = penalties(world, x)
    out: Numbers = dict(
        schema=1,
        file=path,
        form="episodic" if world.steps else "discounted",
        protocol="product" if world.factors else "turn-taking",
        order=order.tolist(),
        agents=world.agents,
        **{name: x[name] for name in LISTS},
    )
    if world.factors:
        out |= dict(surrogate_reused=x["surrogate_reused"], gap_reused=x["gap_reused"])
    return out | penalty | certificates(x, penalty)


def plain(x: Any) -> Any:
    """Lists and numbers, infinities as words."""
    if isinstance(x, np.ndarray | np.generic):
        return plain(x.tolist())
    if isinstance(x, list):
        return [plain(y) for y in x]
    return ("inf" if x > 0 else "-inf") if isinstance(x, float) and abs(x) == np.inf else x


def main() -> None:
    """One line for each file."""
    with np.errstate(all="ignore"):
        for path in sys.argv[1:]:
            print(json.dumps({key: plain(x) for key, x in stage(path).items()}, allow_nan=False))


if __name__ == "__main__":
    main()
