"""Random teams for the tests: worlds as NumPy dicts for the oracle, the same teams as `Stage`s for the package.

Arrays of NumPy become jax's by `jax.device_put`: `jnp.asarray` and `jnp.stack` compile a program for every shape (jax 0.10).
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from teamtr_jax import certificates
from teamtr_jax.bounds import ladder, paper_constant, penalty_drift_paper
from teamtr_jax.dynamics import Dense, Layered, Successors, Tree
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import Layers, Stage, StageReport, Team
from theory.exact_audit import random_rows

BUDGET = {
    "surrogate_intermediate": "surrogate",
    "surrogate_stale": "surrogate",
    "gap_fresh": "fresh",
    "gap_stale": "stale",
    "gap_cached": "cached",
    "seq_minus_stale": "drift",
}
"""Which entry of `Rounding` speaks for which field of a report."""


CERTIFICATES = [name for name in certificates.__all__ if name != "certified_share"]


class Evaluated(SimpleNamespace):
    """The fields of a `StageReport` as NumPy, and with them what is derived from it: properties, rungs, certificates."""

    def budget(self, field: str) -> np.ndarray:
        """The rounding budget of a field."""
        return getattr(self.rounding, BUDGET[field])


FIELDS = (*(name for name in StageReport._fields if name != "layers"), *(f"layer_{name}" for name in Layers._fields))
"""The names of `flat`."""


def flat(report: StageReport) -> dict:
    """The fields of a report by name, those of its steps as ``layer_…``: `None` in a discounted one."""
    layers = {} if report.layers is None else report.layers._asdict()
    return {name: layers.get(name.removeprefix("layer_")) if name.startswith("layer_") else getattr(report, name)
            for name in FIELDS}  # fmt: skip


def everything(stage: Stage) -> dict:
    """A report and all that is computed from it, in one program."""
    report = stage_report(stage)
    return (
        flat(report)
        | {
            "improvement": report.improvement,
            "delta_stale": report.delta_stale,
            "d_occ": report.d_occ,
            "ladder": ladder(report),
            "drift_paper": penalty_drift_paper(report),
            "constant": paper_constant(report),
        }
        | {name: getattr(certificates, name)(report) for name in CERTIFICATES}
    )


evaluate = jax.jit(jax.vmap(everything))
"""A batch of stages in one program; compiled once for each shape and shared by the tests of a process."""

BATCH = 24
STATES, ACTIONS, AGENTS = 5, 3, 3
"""The standard turn-taking shape."""
FACTORS = (2, 3, 2)
"""The standard product shape: unequal numbers of actions, so that an axis mixed up is a wrong number."""


class Case(NamedTuple):
    """A stage in NumPy. `world`: keys ``P r rho`` and ``gamma``, or ``T clock`` (see `oracle`)."""

    world: dict
    current: np.ndarray
    target: np.ndarray
    order: np.ndarray
    active: np.ndarray | None = None
    factors: tuple[int, ...] | None = None

    @property
    def agents(self) -> int:
        return len(self.order)

    def oracle(self) -> tuple:
        """Arguments of `oracle.stage`."""
        return self.world, self.current, self.target, self.order, self.active, self.factors


def rows(rng: np.random.Generator, *shape: int, zeros: float = 0.0, bits: int = 20) -> np.ndarray:
    """Random probability rows with entries `k/2^bits`: they sum to one exactly. A share `zeros` of the entries is 0."""
    return random_rows(rng, *shape, zeros=zeros, bits=bits)


def near(rng: np.random.Generator, current: np.ndarray, size: float, bits: int = 44) -> np.ndarray:
    """`current` plus a step of about `size`, a multiple of `2^−bits`, summing to zero, at its positive entries."""
    step = np.round(rng.uniform(-size, size, current.shape) * 2**bits) / 2**bits
    step = np.where(current > 4 * size, step, 0.0)
    best = current.argmax(-1)[..., None]
    np.put_along_axis(step, best, 0.0, -1)
    np.put_along_axis(step, best, -step.sum(-1, keepdims=True), -1)
    return current + step


def discounted_world(rng: np.random.Generator, S: int, A: int, gamma: float, zeros: float = 0.3) -> dict:
    """A Garnet-like world."""
    return {"P": rows(rng, S, A, S, zeros=zeros), "r": rng.normal(size=(S, A)), "rho": rows(rng, S, zeros=zeros),
            "gamma": gamma}  # fmt: skip


def episodic_world(rng: np.random.Generator, X: int, A: int, T: int, zeros: float = 0.3) -> dict:
    """`T` layers of `X` contexts, flattened: state `t·X + x`; a new kernel and new rewards at every step."""
    kernel = rows(rng, T, X, A, X, zeros=zeros)
    P = np.zeros((T * X, A, T * X))
    for t in range(T - 1):
        P[t * X : (t + 1) * X, :, (t + 1) * X : (t + 2) * X] = kernel[t]
    rho = np.zeros(T * X)
    rho[:X] = rows(rng, X, zeros=zeros)
    return {"P": P, "r": rng.normal(size=(T * X, A)), "rho": rho, "T": T, "clock": np.repeat(np.arange(T), X),
            "kernel": kernel}  # fmt: skip


def turn_taking(
    rng: np.random.Generator, world: dict, agents: int = AGENTS, zeros: float = 0.0, bits: int = 20
) -> Case:
    """Random owners (any agent may own nothing), policies and order. The target may add actions, and drops none."""
    S, A = world["r"].shape
    current = rows(rng, S, A, zeros=zeros, bits=bits)
    moved = rng.random((S, 1)) < 0.9
    target = np.where(moved, 0.5 * current + 0.5 * rows(rng, S, A, bits=bits), current)
    return Case(world, current, target, rng.permutation(agents), rng.integers(agents, size=S))


def product_team(
    rng: np.random.Generator, world: dict, factors: tuple[int, ...] = FACTORS, zeros: float = 0.0, bits: int = 12
) -> Case:
    """Random factor policies, zero-padded; all agents act at once."""
    S, widest = world["r"].shape[0], max(factors)
    current, target = np.zeros((2, len(factors), S, widest))
    for k, size in enumerate(factors):
        current[k, :, :size] = rows(rng, S, size, zeros=zeros, bits=bits)
        target[k, :, :size] = 0.5 * current[k, :, :size] + 0.5 * rows(rng, S, size, bits=bits)
    return Case(world, current, target, rng.permutation(len(factors)), None, factors)


def random_case(
    rng: np.random.Generator, form: str, protocol: str, zeros: float = 0.0, gamma: float | None = None
) -> Case:
    """One case of the standard shapes: `form` discounted or episodic, `protocol` turn-taking or product."""
    A = ACTIONS if protocol == "turn-taking" else int(np.prod(FACTORS))
    if form == "discounted":
        S = STATES if protocol == "turn-taking" else 3
        world = discounted_world(rng, S, A, rng.choice([0.0, 0.3, 0.9, 0.99]) if gamma is None else gamma)
    else:
        world = episodic_world(rng, 2, A, 3 if protocol == "turn-taking" else 2)
    return (turn_taking if protocol == "turn-taking" else product_team)(rng, world, zeros=zeros)


def dense(world: dict, put: Callable = jax.device_put) -> Dense:
    """The world as a full tensor."""
    gamma = put(np.asarray(float(world.get("gamma", 1.0))))
    if "gamma" in world:
        return Dense(put(world["P"]), gamma)
    return Dense(put(world["P"]), gamma, put(world["clock"]), world["T"])


def successors(world: dict, slots: int | None = None, **options) -> Successors:
    """The world as successor lists: zeros left out, the first successor split over two slots, slots to spare at 0."""
    P = world["P"]
    K = int((P > 0).sum(-1).max()) + 1 if slots is None else slots
    index, prob = np.zeros((*P.shape[:2], K), int), np.zeros((*P.shape[:2], K))
    for s, a in np.ndindex(*P.shape[:2]):
        support = np.flatnonzero(P[s, a])
        index[s, a, : len(support)], prob[s, a, : len(support)] = support, P[s, a, support]
        if len(support):
            index[s, a, -1], prob[s, a, -1] = support[0], P[s, a, support[0]] / 2
            prob[s, a, 0] /= 2
    if "gamma" in world:
        return Successors(jax.device_put(index), jax.device_put(prob), jnp.asarray(float(world["gamma"])), **options)
    return Successors(
        jax.device_put(index),
        jax.device_put(prob),
        jnp.asarray(1.0),
        jax.device_put(world["clock"]),
        world["T"],
        **options,
    )


def as_stage(case: Case, dynamics=None, put: Callable = jax.device_put) -> Stage:
    """The case as the package sees it."""
    world = case.world
    team = Team(
        dense(world, put) if dynamics is None else dynamics,
        put(world["r"]),
        put(world["rho"]),
        None if case.active is None else put(case.active),
        case.agents,
        case.factors,
    )
    return Stage(team, put(case.current), put(case.target), put(case.order))


def stack(stages: list[Stage]) -> Stage:
    """A batch of stages of one shape."""
    return jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves)), *stages)


def first(stages: Stage) -> Stage:
    """The first stage of a batch; an index into an array of jax's would be a program for every shape."""
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[0]), stages)


def evaluated(cases: list[Case]) -> list[Evaluated]:
    """Reports of many cases of one shape as NumPy, `BATCH` at a time (padded with the last case: one compiled shape)."""
    out: list[Evaluated] = []
    for first in range(0, len(cases), BATCH):
        part = cases[first : first + BATCH]
        stages = [as_stage(case, put=np.asarray) for case in part]
        batch = jax.tree.map(np.array, evaluate(stack(stages + [stages[-1]] * (BATCH - len(part)))))
        out += [Evaluated(**jax.tree.map(lambda leaf, b=b: leaf[b], batch)) for b in range(len(part))]
    return out


# ------------------------------------------------------------------------------------------- one team written many ways


def table(world: Dense | Successors | Layered | Tree) -> np.ndarray:
    """`P[s,a,s']` of a world, filled in entry by entry from what its fields say."""
    if isinstance(world, Dense):
        return np.asarray(world.transition)
    if isinstance(world, Successors):
        index, prob = np.asarray(world.index), np.asarray(world.prob)
        out = np.zeros((*index.shape[:2], index.shape[0]))
        for s, a, k in np.ndindex(*index.shape):
            out[s, a, index[s, a, k]] += prob[s, a, k]
        return out
    if isinstance(world, Tree):
        S, V = sum(world.branching**t for t in range(world.horizon)), world.branching
        out = np.zeros((S, V, S))
        for k, a in np.ndindex(S, V):
            if k * V + 1 + a < S:
                out[k, a, k * V + 1 + a] = 1.0
        return out
    T = world.horizon
    kernels = [table(jax.tree.map(lambda x, t=t: x if world.stationary else x[t], world.kernel)) for t in range(T)]
    X, A, _ = kernels[0].shape
    out = np.zeros((T * X, A, T * X))
    for t in range(T - 1):
        out[t * X : (t + 1) * X, :, (t + 1) * X : (t + 2) * X] = kernels[t]
    return out


def tree_case(rng: np.random.Generator, V: int, T: int, agents: int = AGENTS) -> Case:
    """A team that writes a message of `T` symbols: the state is the prefix. Some nodes belong to chance (owner −1)."""
    tree = Tree(V, T)
    S = tree.states
    P, clock = np.zeros((S, V, S)), np.zeros(S, int)
    for k, a in np.ndindex(S, V):
        child = k * V + 1 + a
        if child < S:
            P[k, a, child], clock[child] = 1.0, clock[k] + 1
    rho = np.zeros(S)
    rho[0] = 1.0
    world = {"P": P, "r": rng.normal(size=(S, V)), "rho": rho, "T": T, "clock": clock, "branching": V}
    case = turn_taking(rng, world, agents, zeros=0.2)
    return case._replace(active=rng.integers(-1, agents, size=S))


def four_ways(case: Case) -> dict[str, tuple[Stage, np.ndarray]]:
    """A `tree_case` as Tree, Dense, Successors and Layered (twice), each with the place of every node in its states.

    The layers are as wide as the last one and one more context, where everything that is no prefix waits: it is never
    reached, all its actions are equal, and it must change nothing.
    """
    world, V, T = case.world, case.world["branching"], case.world["T"]
    S, X = len(world["rho"]), case.world["branching"] ** (case.world["T"] - 1) + 1
    here = np.arange(S)
    first = np.array([(V**t - 1) // (V - 1) for t in range(T)])
    place = world["clock"] * X + here - first[world["clock"]]
    index = np.full((T, X, V, 1), X - 1)
    for t in range(T - 1):
        index[t, : V**t, :, 0] = np.arange(V ** (t + 1)).reshape(-1, V)
    prob = np.ones((T, X, V, 1))

    def padded(x: np.ndarray, fill) -> np.ndarray:
        out = np.empty((T * X, *x.shape[1:]), x.dtype)
        out[:] = fill
        out[place] = x
        return out

    wide_world = {
        "r": padded(world["r"], world["r"][0, 0]),
        "rho": padded(world["rho"], 0.0),
    }
    wide = Case(
        wide_world,
        padded(case.current, 1 / V),
        padded(case.target, 1 / V),
        case.order,
        padded(case.active, -1),
    )
    one_hot = jax.device_put(np.eye(X)[index[..., 0]])
    kernels = {
        "layered-dense": Dense(one_hot, None),
        "layered-successors": Successors(jax.device_put(index), jax.device_put(prob), None),
    }
    out = {
        "tree": (as_stage(case, Tree(V, T)), here),
        "dense": (as_stage(case), here),
        "successors": (as_stage(case, successors(world)), here),
    }
    out |= {name: (as_stage(wide, Layered(kernel, T, stationary=False)), place) for name, kernel in kernels.items()}
    return out


def stationary_ways(rng: np.random.Generator, X: int = 2, A: int = 3, T: int = 3) -> dict[str, Stage]:
    """One kernel for all steps: Layered stationary over both kernels, and the same unrolled."""
    world = episodic_world(rng, X, A, T)
    kernel = world["kernel"][0]
    for t in range(T - 1):
        world["P"][t * X : (t + 1) * X, :, (t + 1) * X : (t + 2) * X] = kernel
    case = turn_taking(rng, world, zeros=0.2)
    listed = successors({"P": kernel, "gamma": 0.0})
    return {
        "dense": as_stage(case),
        "layered-dense": as_stage(case, Layered(Dense(jax.device_put(kernel), None), T)),
        "layered-successors": as_stage(case, Layered(Successors(listed.index, listed.prob, None), T)),
    }


def discounted_ways(case: Case) -> dict[str, Stage]:
    """A discounted case as Dense, Successors by LU, Successors by sparse LU."""
    return {
        "dense": as_stage(case),
        "successors": as_stage(case, successors(case.world)),
        "sparse": as_stage(case, successors(case.world, lu_states=0)),
    }
