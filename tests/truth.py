"""What follows from the numbers of a stage, in plain Python and NumPy: penalties, certificates, stage bounds, rounding budgets.

Written from theory/derivations (notation, statements) and docs/rounding.md, one update and one layer at a time. `x` is a dict
with the fields of a `StageReport`, from `oracle.stage` or made up.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import oracle
from builders import Case, episodic_world, rows

from teamtr_jax.types import Layers, Rounding, StageReport

# --------------------------------------------------------------------------------------------------------------- teams


RANGES = ((2.0, 5.0), (-3.0, -1.0), (-0.5, 1.5), (0.0, 1.0))
ORDERS = ((2, 0, 1), (1, 2, 0), (0, 2, 1))
GAMMAS = (0.9, 0.5, 0.0)
KINDS = ("plain", "idle", "drops", "opens", "no share", "chance")


def reward(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Rewards in [low, high], both ends taken."""
    out = rng.uniform(low, high, shape)
    out.flat[rng.permutation(out.size)[:2]] = low, high
    return out


def team(form: str, protocol: str, kind: str, index: int) -> Case:
    """A stage of the standard shapes of `builders`; episodes end early unless `index` is even and the kind plain.

    `idle`: one agent does not move. `drops`, `opens`: one agent gives up an action, or takes up a new one. `no share`: one agent
    owns only a state that nothing leads to, and drops an action there (product: does not move). `chance`: a state of nobody.
    """
    rng = np.random.default_rng([index, KINDS.index(kind), form == "episodic", protocol == "product"])
    turns = protocol == "turn-taking"
    factors = None if turns else (2, 3, 2)
    A, gamma = (3 if turns else 12), GAMMAS[index % 3]
    if form == "discounted":
        S = 5 if turns else 3
        world = {"P": rows(rng, S, A, S, zeros=0.3), "rho": rows(rng, S, zeros=0.3), "gamma": gamma}
        lost = S - 1
    else:
        T = 3 if turns else 2
        world = episodic_world(rng, 2, A, T, zeros=0.2)
        S, lost = 2 * T, 3
        if kind != "plain" or index % 2:
            world["P"][0, A - 1] = world["P"][1, 0] = 0.0
            if turns:
                world["P"][2, 1] = 0.0
    if turns and kind == "no share":
        world["P"][..., 0 if form == "discounted" else 2] += world["P"][..., lost]
        world["P"][..., lost] = 0.0
        world["rho"] = world["rho"] + world["rho"][lost] * (np.arange(S) == 0)
        world["rho"][lost] = 0.0
    world["r"] = reward(rng, (S, A), *RANGES[index % 4])
    order = np.array(ORDERS[index % 3])
    who = int(order[1])  # to whom the special thing happens
    if turns:
        active = np.array([0, 1, 2, 0, 1, 2])[:S] if form == "episodic" else np.array([0, 1, 2, who, who])
        current, own = rows(rng, S, A), lambda k: active == k
        target = 0.5 * current + 0.5 * rows(rng, S, A)
        if kind == "no share":
            active = np.where(np.arange(S) == lost, who, np.where(active == who, int(order[0]), active))
        if kind == "chance":
            active = np.where(np.arange(S) == 1, -1, active)
            target[1] = current[1]
        mine = own(who)
        if kind == "idle":
            target[mine] = current[mine]
        if kind == "drops":
            target[mine] = [0.25, 0.75, 0.0]
        if kind == "opens":
            current[mine] = [0.25, 0.75, 0.0]
            target[mine] = [0.25, 0.5, 0.25]
        if kind == "no share":
            target[lost] = [0.25, 0.75, 0.0]
        return Case(world, current, target, order, active)
    current, target = np.zeros((2, 3, S, 3))
    for k, size in enumerate(factors):
        current[k, :, :size] = rows(rng, S, size, bits=12)
        target[k, :, :size] = 0.5 * current[k, :, :size] + 0.5 * rows(rng, S, size, bits=12)
    if kind in ("idle", "no share"):
        target[who] = current[who]
    if kind == "drops":
        target[who, :, :2] = [0.0, 1.0]
        target[who, :, 2] = 0.0
    if kind == "opens":
        current[who, :, :2] = [0.0, 1.0]
        current[who, :, 2] = 0.0
        target[who, :, :2] = [0.25, 0.75]
    return Case(world, current, target, order, None, factors)


def teams(form: str, protocol: str) -> list[Case]:
    """Every kind with two of the ranges of reward, orders and discounts."""
    return [team(form, protocol, kind, 2 * i + i // 2 + j) for i, kind in enumerate(KINDS) for j in (0, 1)]


# ----------------------------------------------------------------------------------------------------------- penalties


def times(x: float, y: float) -> float:
    """`x·y` with `0·∞ = 0`."""
    return 0.0 if x == 0 or y == 0 else x * y


def share_root(w: float, kl: float) -> float:
    return math.sqrt(times(w, kl))


def span_with_end(x: dict, i: int) -> float:
    """`span(g_i)`; where episodes may end early the end is a state with `g = 0`."""
    g = list(x["conditional"][i]) + ([] if x["even"] else [0.0])
    return max(g) - min(g)


def shared(x: dict, penalties: dict[str, list[float]], path_kl: list[float]) -> dict[str, np.ndarray]:
    """The rungs whose form is that of both worlds. `path_kl[i]`: `K_i` of the stale rollouts."""
    n = len(x["kl"])
    through = [sum(path_kl[: i + 1]) for i in range(n)]
    before = [sum(path_kl[:i]) for i in range(n)]
    rho = float(x["return_range"])
    penalties["penalty_reused_log_sum"] = [times(rho, d) for d in through]
    penalties["penalty_cached_log_sum"] = [
        times(rho, d + e if x["simultaneous"] else d) for d, e in zip(through, before, strict=True)
    ]
    penalties["penalty_weighted"] = [max(a, b) for a, b in zip(x["weighted_floor"], x["weighted_ceiling"], strict=True)]
    penalties["penalty_later_turns"] = [
        x["visits"][i].sum() * x["tv"][i] * x["later_turns"][i] * span_with_end(x, i) for i in range(n)
    ]
    longest = x["mass"] if x["even"] else max(v.sum() for v in x["visits"])
    penalties["penalty_trivial"] = [longest * span_with_end(x, i) for i in range(n)]
    penalties["penalty_stale_trivial"] = penalties["penalty_trivial"]
    return {name: np.array(value, float) for name, value in penalties.items()}


def discounted_penalties(x: dict) -> dict[str, np.ndarray]:
    """S0–S9 and the paper's, `√2·γ·A_max/(1−γ)²` and so on."""
    g, n = float(x["discount"]), len(x["kl"])
    h = 1 - g
    c = [math.sqrt(2) * g * a / h**2 for a in x["advantage_max"]]
    kl, kl0, tv = x["kl"], x["kl_stale"], x["tv"]
    root, shared_root = [math.sqrt(k) for k in kl], [share_root(w, k) for w, k in zip(x["share"], kl, strict=True)]
    out: dict[str, list[float]] = {
        "penalty_paper": [times(c[i], root[i]) for i in range(n)],
        "penalty_stale_paper": [times(c[i], sum(root[: i + 1])) for i in range(n)],
        "penalty_share": [times(c[i], shared_root[i]) for i in range(n)],
        "penalty_stale_share": [times(c[i], sum(shared_root[: i + 1])) for i in range(n)],
        "drift": [times(c[i], sum(root[:i])) for i in range(n)],
        "constant": c,
        "penalty_path": [times(times(g, math.sqrt(kl[i] / (2 * h))), x["span_g"][i] / h) for i in range(n)],
        "penalty_stale_path": [
            times(times(g, math.sqrt(sum(kl0[: i + 1]) / (2 * h))), x["span_g"][i] / h) for i in range(n)
        ],
        "penalty_second_order": [g / h**2 * tv[i] * x["span_g"][i] for i in range(n)],
        "penalty_stale_second_order": [g / h**2 * sum(tv[: i + 1]) * x["span_g"][i] for i in range(n)],
        "penalty_log_sum": [times(float(x["return_range"]), kl[i] / h) for i in range(n)],
        "penalty_log_sum_advantage": [times(x["advantage_span"][i], kl[i]) / h**2 for i in range(n)],
    }
    later = [kl0[i] + times(g / h, sum(kl0[: i + 1])) for i in range(n)]
    out["penalty_stale_log_sum"] = [times(x["advantage_span"][i], later[i]) / h for i in range(n)]
    out["penalty_stale_return_range"] = [times(float(x["return_range"]), later[i]) / h for i in range(n)]
    return shared(x, out, [k / h for k in kl0])


def episodic_penalties(x: dict) -> dict[str, np.ndarray]:
    """The episodic forms, layer by layer."""
    k, k0, tv = x["layer_kl"], x["layer_kl_stale"], x["layer_tv"]
    n, T = k.shape
    span, advantage = x["layer_span"], x["layer_advantage_span"]
    paper = [[sum(math.sqrt(k[i, u] / 2) for u in range(t)) for t in range(T)] for i in range(n)]
    spoken = [
        [sum(share_root(x["layer_share"][i, u], k[i, u]) / math.sqrt(2) for u in range(t)) for t in range(T)]
        for i in range(n)
    ]
    pinsker = [[math.sqrt(sum(k[i, :t]) / 2) for t in range(T)] for i in range(n)]
    stale = [[math.sqrt(sum(k0[: i + 1, :t].ravel()) / 2) for t in range(T)] for i in range(n)]
    moved = [[sum(tv[i, :t]) for t in range(T)] for i in range(n)]
    moved_stale = [[sum(tv[: i + 1, :t].ravel()) for t in range(T)] for i in range(n)]

    def capped(i: int, *shifts) -> float:
        return 2 * x["advantage_max"][i] * sum(min(1.0, sum(s[t] for s in shifts)) for t in range(T))

    def spanned(i: int, *shifts) -> float:
        return sum(times(min(1.0, *(s[i][t] for s in shifts)), span[i, t]) for t in range(T))

    out: dict[str, list[float]] = {
        "penalty_paper": [capped(i, paper[i]) for i in range(n)],
        "penalty_stale_paper": [capped(i, *paper[: i + 1]) for i in range(n)],
        "penalty_share": [capped(i, spoken[i]) for i in range(n)],
        "penalty_stale_share": [capped(i, *spoken[: i + 1]) for i in range(n)],
        "drift": [capped(i, *paper[:i]) if i else 0.0 for i in range(n)],
        "penalty_path": [spanned(i, pinsker) for i in range(n)],
        "penalty_stale_path": [spanned(i, stale) for i in range(n)],
        "penalty_second_order": [spanned(i, moved) for i in range(n)],
        "penalty_stale_second_order": [spanned(i, moved_stale) for i in range(n)],
        "penalty_layers": [spanned(i, moved, pinsker) for i in range(n)],
        "penalty_stale_return_range": [
            times(
                float(x["return_range"]),
                sum(k0[i, t] + sum(k0[: i + 1, :t].ravel()) for t in range(T) if x["layer_speaks"][i, t]),
            )
            for i in range(n)
        ],
        "penalty_log_sum": [times(float(x["return_range"]), x["kl"][i]) for i in range(n)],
        "penalty_log_sum_advantage": [
            sum(times(advantage[i, t], sum(k[i, : t + 1])) for t in range(T)) for i in range(n)
        ],
        "penalty_stale_log_sum": [
            sum(times(advantage[i, t], k0[i, t] + sum(k0[: i + 1, :t].ravel())) for t in range(T)) for i in range(n)
        ],
    }
    out["penalty_chi_square"] = [
        deviating(x["layer_return_deviation"][i], budget(x["layer_chi_square"][i])) for i in range(n)
    ]
    first = x["layer_return_deviation"][0]
    for gap in ("cached", "reused"):
        through = [0.0, *x[f"layer_chi_square_{gap}"]]
        out[f"penalty_{gap}_chi_square"] = [
            deviating(first, budget(through[i] + own) - budget(through[i]) if through[i] < math.inf else math.inf)
            for i, own in enumerate(x[f"layer_chi_square_{gap}_own"])
        ]
    return shared(x, out, list(x["kl_stale"]))


def budget(x: float) -> float:
    """S10: `e^x − 1 − x`."""
    return math.exp(x) - 1 - x if x < math.inf else math.inf


def deviating(deviation: float, square: float) -> float:
    """`sd·√square`, infinite where the square is."""
    return math.inf if square == math.inf else deviation * math.sqrt(square)


def penalties(x: dict) -> dict[str, np.ndarray]:
    """Every rung by its name; `drift` is P3.3's and `constant` the paper's `c_i`."""
    return episodic_penalties(x) if "layer_kl" in x else discounted_penalties(x)


# -------------------------------------------------------------------------------------------------------- certificates


def jensen(b: float, level: float) -> float:
    """S9 (g): `J̃(e^{b/J̃} − 1)`."""
    return level * (math.exp(b / level) - 1) if level > 0 else b


FRESH = (
    "trivial",
    "paper",
    "share",
    "path",
    "second_order",
    "later_turns",
    "layers",
    "log_sum",
    "log_sum_advantage",
    "weighted",
    "chi_square",
)


def certificates(x: dict) -> dict[str, np.ndarray | float]:
    """Surrogate less penalty, and the stage bounds."""
    p, n = penalties(x), len(x["kl"])
    seq, J, floor = x["surrogate_intermediate"], x["objective"], float(x["return_floor"])
    best = np.min([p[f"penalty_{name}"] for name in FRESH if f"penalty_{name}" in p], 0)
    last = p["penalty_reused_log_sum"][-1]
    out = {
        "lower_bound_paper": seq - p["penalty_paper"],
        "certificate_estimable": seq - p["penalty_log_sum"],
        "certificate_weighted": np.array([jensen(seq[i] - x["weighted_floor"][i], J[i] - floor) for i in range(n)]),
        "certificate": seq - best,
        "stage_bound_cached": sum(x["surrogate_cached"]) - last,
        "stage_bound_reused": sum(x["surrogate_reused"]) - last,
        "stage_bound_chi_square": sum(x["surrogate_cached"])
        - (
            deviating(x["layer_return_deviation"][0], budget(x["layer_chi_square_cached"][-1]))
            if "layer_kl" in x
            else math.inf
        ),
        "stage_bound_weighted": jensen(sum(x["surrogate_reused"]) - sum(x["weighted_reused"]), J[0] - floor),
        "stage_bound_stale_paper": sum(x["surrogate_stale"] - p["penalty_stale_paper"]),
    }
    return out | {
        "stage_bound_paper": sum(out["lower_bound_paper"]),
        "stage_bound_least": sum(out["certificate"]),
    }


# -------------------------------------------------------------------------------------------------------------- rounding


def rounding(case: Case, x: dict) -> dict[str, np.ndarray]:
    """docs/rounding.md, line by line."""
    world, u = case.world, 2.0**-53
    chain, solo = oracle.stage_policies(*case.oracle()[1:])
    P, r, rho = world["P"], world["r"], world["rho"]
    (S, A), n, episodic = r.shape, len(solo), "T" in world
    gamma = world.get("gamma", 1.0)
    length = float(world["T"]) if episodic else 1 / (1 - gamma)
    m, V, g, moved = x["visits"], x["values"], x["conditional"], x["shift"]
    lack = np.array([abs(policy.sum(-1) - 1) + A * u for policy in chain])
    follows = P.sum(-1)
    outside = max(0.0 if f == 0 else abs(f - 1) for f in follows.ravel()) + abs(rho.sum() - 1)
    eta = length * (8 * (S + A + n) * u + lack.max() + outside)
    scale = [abs(v).max() + abs(r).max() for v in V]
    advantage = [r + gamma * P @ v - v[:, None] for v in V]
    g_error, shift, closure, fresh, largest, step, loose = [], [], [], [], [], [], []
    for i in range(n):
        d = abs(chain[i + 1] - chain[i])
        step.append(d.sum(-1))
        loose.append(np.where(step[i] > 0, lack[i] + lack[i + 1], 0.0))
        largest.append(step[i].max())
        g_error.append(3 * eta * largest[i] * max(scale[i], scale[i + 1]) + loose[i].max() * abs(advantage[i]).max())
        closure.append(gamma * m[i] @ loose[i])
        inflow = gamma * np.einsum("s,sa,sat->", m[i], d, P)
        inflow_error = 2 * gamma * eta * length * largest[i] + closure[i] + S * A * u * inflow
        shift.append(eta * abs(moved[i]).sum() + length * inflow_error)
        fresh.append(abs(moved[i]).sum() * g_error[i] + abs(g[i]).max() * shift[i])
    drift = [
        sum(abs(moved[k]).sum() for k in range(i)) * g_error[i] + abs(g[i]).max() * sum(shift[:i]) for i in range(n)
    ]
    stale = [a + b for a, b in zip(fresh, drift, strict=True)]
    cached, reused = [], []
    for i in range(n):
        Y = length * sum(abs(g[k]).max() for k in range(i + 1))
        cached.append(
            stale[i]
            + m[0] @ step[i] * (2 * eta * Y + length * sum(g_error[: i + 1]))
            + (eta * length * largest[i] + m[0] @ loose[i]) * Y
        )
        inside, alone = chain[i + 1] - chain[i], solo[i] - chain[0]
        apart, formed = abs(inside - alone), A * u * (abs(inside) + abs(alone))
        top = max(max(scale[k], scale[k + 1]) for k in range(n))
        reused.append(
            cached[i]
            + m[0] @ (4 * eta * top * apart + formed * abs(advantage[0])).sum(-1)
            + eta * length * (apart * abs(advantage[0])).sum(-1).max()
        )
    identity = [
        2 * eta * (scale[i + 1] + scale[i]) + m[i + 1].sum() * g_error[i] + eta * length * abs(g[i]).max()
        for i in range(n)
    ]
    found = {"fresh": fresh, "drift": drift, "stale": stale, "cached": cached, "reused": reused, "shift": shift,
             "closure": closure, "identity": identity, "relative": eta}  # fmt: skip
    return {name: np.array(value) for name, value in found.items()}


# ------------------------------------------------------------------------------------------------------- made-up reports


def made_up(form: str, seed: int, n: int = 3) -> dict:
    """The fields of a report at random, no two alike: what is made of them is arithmetic, whatever team they could come from."""
    rng = np.random.default_rng([seed, form == "episodic"])
    S, T = (6, 3) if form == "episodic" else (5, 1)

    def some(*shape: int, low: float = 0.05, high: float = 1.0) -> np.ndarray:
        return rng.uniform(low, high, shape)

    gamma = 1.0 if form == "episodic" else GAMMAS[seed % 3]
    x: dict = {name: some(n + 1, S) for name in ("visits", "values")} | {"objective": some(n + 1, low=3.0, high=4.0)}
    x |= {name: rng.normal(size=(n, S)) for name in ("conditional", "shift")}
    for name in ("surrogate_intermediate", "surrogate_stale", "surrogate_cached", "surrogate_reused", "gap_fresh",
                 "gap_stale", "gap_cached", "gap_reused", "seq_minus_stale"):  # fmt: skip
        x[name] = rng.normal(size=n)
    for name in ("kl", "kl_stale", "kl_reverse", "tv", "tv_stale", "share", "advantage_max", "advantage_span",
                 "occupancy_tv_fresh", "occupancy_tv_stale", "later_turns", "weighted_floor", "weighted_ceiling",
                 "weighted_reused"):  # fmt: skip
        x[name] = some(n)
    x["conditional"][0], x["conditional"][1] = abs(x["conditional"][0]) + 0.1, -abs(x["conditional"][1]) - 0.1
    x["span_g"] = np.ptp(x["conditional"], -1)  # that of a g of one sign is smaller than with 0 among its values
    mass = 1 / (1 - gamma) if form == "discounted" else 2.75
    x |= {"mass": mass, "discount": gamma, "reward_span": 3.0, "return_range": 2.5 + seed, "return_floor": -1.25 + seed}
    x |= {"simultaneous": bool(seed % 2), "even": form == "discounted" or seed % 4 < 2}
    if form == "episodic":
        for name in ("layer_kl", "layer_kl_stale", "layer_tv", "layer_shift", "layer_share", "layer_span"):
            x[name] = some(n, T)
        x["layer_advantage_span"] = some(n, T)
        for name in ("return_deviation", "chi_square", "chi_square_reused", "chi_square_reused_own", "chi_square_cached",
                     "chi_square_cached_own"):  # fmt: skip
            x[f"layer_{name}"] = some(n, high=1.0 + seed % 3)
        x["layer_speaks"] = np.array([[True, False, True], [False, True, True], [True, True, False]])[:n, :T]
        if seed % 2:
            x["layer_kl"] = x["layer_kl"] * 4
            x["layer_tv"] = x["layer_tv"] * 2  # so that shifts saturate at one
    if seed == 2:  # an agent that drops an action, one that does not move, one that never speaks
        x["kl"][1] = x["kl_stale"][2] = math.inf
        x["kl"][0] = x["kl_stale"][0] = x["share"][1] = 0.0
        if form == "episodic":
            x["layer_kl"][1, 1] = x["layer_kl_stale"][2, 0] = math.inf
            x["layer_chi_square"][1] = x["layer_chi_square_cached"][1] = x["layer_chi_square_reused_own"][2] = math.inf
            x["layer_chi_square"][2] = x["layer_return_deviation"][1] = 0.0
            x["layer_kl"][0] = x["layer_kl_stale"][0] = x["layer_share"][1, 1] = x["layer_span"][1, 2] = 0.0
    return x


ERRORS = {name: np.array(value) for name, value in (
    ("relative", 0.003), ("surrogate", [0.109, 0.113, 0.127]), ("fresh", [0.011, 0.013, 0.017]), ("stale", [0.019, 0.023, 0.029]),
    ("cached", [0.031, 0.037, 0.041]), ("reused", [0.043, 0.047, 0.053]), ("drift", [0.059, 0.061, 0.067]),
    ("shift", [0.071, 0.073, 0.079]), ("closure", [0.083, 0.089, 0.097]), ("identity", [0.101, 0.103, 0.107]))}  # fmt: skip
"""Budgets far apart from one another: which one a check takes shows."""


def as_report(x: dict, budgets: dict | None = None) -> StageReport:
    """The fields as a `StageReport`."""
    arrays = {name: jnp.asarray(np.array(value)) for name, value in x.items()}
    layers = Layers(**{name: arrays[f"layer_{name}"] for name in Layers._fields}) if "layer_kl" in x else None
    fields = {name: arrays[name] for name in StageReport._fields if name not in ("layers", "rounding")}
    known = Rounding(**{name: jnp.asarray(value) for name, value in (budgets or ERRORS).items()})
    return StageReport(**fields, layers=layers, rounding=known)
