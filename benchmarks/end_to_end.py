"""``python -m benchmarks.end_to_end``: seconds from nothing to 95 % of the optimal return, every update certified.

Random turn-taking teams (Garnet): 3 agents, 32 states, 5 actions, γ = 0.9, everybody uniform at the start. An update moves one
agent's rows and prints a lower bound on `J(π̂ⁱ) − J(π̂ⁱ⁻¹)` *before* the new team is evaluated. Two ways:

* `weighted`: `π'(a|s) ∝ π(a|s) (Q−Φ)(s,a)`, the step of S9 (d). Certificate: `J̃(e^{b/J̃} − 1)`, `b = Σ_s m Ṽ KL(π'‖π)`, S9 (g).
  `Φ` is the least value that this agent can force while the others keep their policies, S9 (f), or that of the worst team.
* `greedy`: `π'` the greedy rows (policy iteration by blocks). `g ≥ 0` at every state and `m' ≥ ρ`, so
  `J' − J = Σ m' g ≥ Σ ρ g`. The baseline: what an exact solver does.

Seconds count from the call of a freshly compiled program (compilation included) to the records on the host.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import Array, lax
from jaxtyping import Bool, Float

from benchmarks.stage import commit, machine
from benchmarks.timing import quartiles
from benchmarks.writer import writer
from teamtr_jax.chain_audit import OPTIONS
from teamtr_jax.divergences import kl_new_to_current
from teamtr_jax.dynamics import after
from teamtr_jax.teams import random_stages
from teamtr_jax.trust_region import value_weighted_step
from teamtr_jax.types import Team
from teamtr_jax.values import action_values, optimal_values

__all__ = ["FLOORS", "GROUPS", "Run", "floor", "main", "run", "smallest", "team_of"]

SHARE = 0.95
FLOORS = ("worst team", "own influence")
"""Floors of the return for `weighted`: the values of the worst team, or of the worst that the updated agent can do alone."""

GROUPS = {
    "weighted, own influence": "seconds to 95 % of the optimum by certified steps of S9, floor of the agent's own influence",
    "weighted, worst team": "the same with the floor of the worst team",
    "greedy": "the same by policy iteration in blocks, what an exact solver does",
}
WAYS = dict(zip(GROUPS, (("weighted", FLOORS[1]), ("weighted", FLOORS[0]), ("greedy", "")), strict=True))
AGREEMENT = 1e-9
"""What the changes of the objective may differ from the improvements by, in units of the optimum."""


class Run(NamedTuple):
    """What happened; entry `i` of a list is update `i+1`, of `objective` the team before it; first `updates` count."""

    optimum: Float[Array, ""]  #: `J*`
    objective: Float[Array, " k"]  #: `J(π̂ⁱ)`
    certificate: Float[Array, " k"]  #: lower bound on the improvement, known before the update is evaluated
    improvement: Float[Array, " k"]  #: `Σ m^{π̂ⁱ} g_i = J(π̂ⁱ) − J(π̂ⁱ⁻¹)`, without subtraction of objectives
    slack: Float[Array, " k"]  #: least `r + γE[Φ'] − Φ` over the actions that the floor has to hold for
    updates: Array  #: how many updates it took


def team_of(seed: int, states: int = 32, actions: int = 5, agents: int = 3, discount: float = 0.9) -> Team:
    """A random turn-taking team: dense simplex-uniform transitions, rewards uniform in [0,1]."""
    stages = random_stages(np.random.default_rng(seed), 1, states, actions, agents, discount)
    return jax.tree.map(lambda leaf: leaf[0], stages.team)


def floor(
    team: Team, policy: Float[Array, "S A"], free: Bool[Array, " S"]
) -> tuple[Float[Array, " S"], Float[Array, ""]]:
    """The least values when the rows of `free` are chosen at will and the others follow `policy`; and the least slack of (F).

    Value iteration from below with `Φ ← min_{free} (r + γEΦ')`: from a floor it rises, and every iterate is a floor. What
    rounding takes from (F) is given back by lowering the whole of `Φ` by it over `1−γ`.
    """
    gamma = team.dynamics.discount

    def least(q: Array) -> Array:
        return jnp.where(free, q.min(-1), (policy * q).sum(-1))

    def sweep(state: tuple[Array, Array]) -> tuple[Array, Array]:
        phi, _ = state
        better = least(action_values(team, phi))
        return better, abs(better - phi).max()

    start = jnp.full(team.reward.shape[0], team.reward.min() / (1 - gamma))
    phi, _ = lax.while_loop(
        lambda state: state[1] > 1e-9 * (1 + abs(state[0]).max()), sweep, (start, jnp.asarray(jnp.inf))
    )
    slack = (least(action_values(team, phi)) - phi).min()
    phi = phi - (jnp.maximum(-slack, 0.0) + 8 * jnp.finfo(phi.dtype).eps * (1 + abs(phi).max())) / (1 - gamma)
    return phi, (least(action_values(team, phi)) - phi).min()


def _step(
    team: Team, policy: Array, known: tuple[Array, Array, Array], own: Array, way: str, sharp: str
) -> tuple[Array, Array, Array]:
    """The next policy, its certificate and the slack of the floor; `known`: action values, values and visits of `policy`."""
    q, v, m = known
    if way == "greedy":
        rows = jax.nn.one_hot(q.argmax(-1), q.shape[-1], dtype=q.dtype)
        new = jnp.where(own[:, None], rows, policy)
        return new, team.initial @ ((new - policy) * q).sum(-1), jnp.asarray(0.0)
    phi, slack = floor(team, policy, own if sharp == FLOORS[1] else jnp.ones_like(own))
    left = jnp.maximum(q - phi[:, None], 0.0)
    new = jnp.where(own[:, None], value_weighted_step(policy, left), policy)
    b = (m * (policy * left).sum(-1) * jnp.where(own, kl_new_to_current(policy, new), 0.0)).sum()
    above = team.initial @ (v - phi)
    return new, above * jnp.expm1(b / above), slack


class _State(NamedTuple):
    """A policy on its way."""

    updates: Any
    policy: Array
    gain: Array  #: of the update that led to `policy`
    log: tuple[Array, ...]
    there: Array  #: whether `SHARE` of the optimum is reached


@partial(jax.jit, static_argnames=("way", "sharp", "limit"), compiler_options=OPTIONS)
def run(team: Team, start: Float[Array, "S A"], way: str, sharp: str = FLOORS[1], limit: int = 600) -> Run:
    """Update one agent after the other until `SHARE` of the optimum is reached, or `limit - 1` updates are done."""
    optimum = team.initial @ optimal_values(team, 1e-9)

    def update(state: _State) -> _State:
        i, policy, g, log, _ = state
        resolvent = team.dynamics.resolvent(policy)
        v = resolvent.values((policy * team.reward).sum(-1))
        m = jnp.maximum(resolvent.visits(after(team.initial, v)), 0.0)
        q = action_values(team, v)
        new, certificate, slack = _step(team, policy, (q, v, m), team.active == i % team.agents, way, sharp)
        objective = team.initial @ v
        entry = (objective, m @ g, certificate, slack)
        log = tuple(column.at[i].set(x) for column, x in zip(log, entry, strict=True))
        return _State(i + 1, new, ((new - policy) * (q - v[:, None])).sum(-1), log, objective >= SHARE * optimum)

    def short(state: _State) -> Array:
        return (state.updates < limit) & ~state.there

    zero = jnp.zeros(start.shape[0])
    first = _State(0, after(start, optimum), zero, (jnp.zeros(limit),) * 4, jnp.asarray(False))
    i, _, _, (objective, improvement, certificate, slack), _ = lax.while_loop(short, update, first)
    return Run(optimum, objective, certificate, improvement[1:], slack, jnp.asarray(i - 1))


def _once(team: Team, way: str, sharp: str) -> tuple[float, float, Run]:
    """Seconds of a call, on the wall and of all threads of this process, and the records on the host."""
    begin, busy = time.perf_counter(), time.process_time()
    actions = team.reward.shape[1]
    out = jax.device_get(run(team, jnp.full(team.reward.shape, 1 / actions), way, sharp))
    return time.perf_counter() - begin, time.process_time() - busy, out


def measure(seed: int, way: str, sharp: str, cold: bool = True) -> dict[str, Any]:
    """One seed, compiled afresh, and once more."""
    team = jax.block_until_ready(team_of(seed))
    if cold:
        jax.clear_caches()
    seconds, busy, out = _once(team, way, sharp)
    warm, _, _ = _once(team, way, sharp)
    k = int(out.updates)
    tolerance = 1e-12 * float(out.optimum)  # of objectives that are sums of the order of J*
    change = np.diff(out.objective[: k + 1])
    return dict(
        seed=seed,
        way=way,
        floor=sharp if way == "weighted" else "",
        seconds=seconds,
        seconds_cpu=busy,
        seconds_compiled=warm,
        updates=k,
        optimum=float(out.optimum),
        share_start=float(out.objective[0] / out.optimum),
        share=float(out.objective[k] / out.optimum),
        reached=bool(out.objective[k] >= SHARE * out.optimum),
        least_certificate=float(out.certificate[:k].min()),
        certified_part=float(out.certificate[:k].sum() / out.improvement[:k].sum()),
        negative=int((out.certificate[:k] < 0).sum()),
        violations=int((out.certificate[:k] > out.improvement[:k] + tolerance).sum()),
        disagreement=float(abs(change - out.improvement[:k]).max()),
        floor_violations=int((out.slack[:k] < 0).sum()),
    )


def smallest(group: str) -> None:
    """One seed without a clock: the optimum is reached, no certificate is negative or above the improvement.

    Raises:
      AssertionError: says what is wrong.
    """
    row = measure(0, *WAYS[group], cold=False)
    wrong = {name: row[name] for name in ("negative", "violations", "floor_violations") if row[name]}
    if wrong or not row["reached"] or not row["disagreement"] <= AGREEMENT * (1 + row["optimum"]):
        raise AssertionError(f"{group}: {wrong}, reached {row['reached']}, disagreement {row['disagreement']:.1e}")


def versions() -> dict[str, str]:
    """What was measured with."""
    return dict(python=platform.python_version(), jax=jax.__version__, numpy=np.__version__, scipy=scipy.__version__)


def main(argv: list[str] | None = None) -> None:
    """Every way on every seed; one line each, then quartiles. The file also says on what machine and with which versions."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.end_to_end", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="which ways")
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    args = parser.parse_args(argv)
    write = writer(args.json)
    jax.config.update("jax_enable_x64", True)
    load = os.getloadavg()[0]
    rows = []
    for way, sharp in (WAYS[group] for group in args.groups):
        some = []
        for seed in range(args.seeds):
            some.append(measure(seed, way, sharp))
            print(json.dumps(some[-1]), flush=True)
        rows += some
        for name in ("seconds", "seconds_cpu", "seconds_compiled", "updates", "least_certificate", "certified_part"):
            lower, middle, upper = quartiles([row[name] for row in some])
            print(
                f"{way} {sharp}: {name} {middle:.3g} [{lower:.3g}, {upper:.3g}], most {max(row[name] for row in some):.3g}"
            )
        counts = {
            name: sum(map(int, (row[name] for row in some)))
            for name in ("reached", "negative", "violations", "floor_violations")
        }
        print(
            f"{way} {sharp}: {counts} of {len(some)} seeds, {sum(row['updates'] for row in some)} updates", flush=True
        )
    write(
        dict(
            schema=1,
            machine=machine(),
            commit=commit(),
            versions=versions(),
            load=load,
            device=jax.default_backend(),
            rows=rows,
        )
    )


if __name__ == "__main__":
    main()
