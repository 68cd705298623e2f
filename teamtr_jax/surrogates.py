"""One evaluation of a whole stage: surrogates, gaps, divergences, shifts.

Gaps are never differences of objectives. With `x_i = m^{π̂ⁱ} − m^{π̂ⁱ⁻¹}` solved from `(I−γP_iᵀ)x = γ(P_i−P_{i−1})ᵀm^{π̂ⁱ⁻¹}`:

    fresh_i  = Σ_s x_i g_i
    stale_i  = fresh_i + (L_i^seq − L_i^stale),      L_i^seq − L_i^stale = Σ_s (x_1 + … + x_{i−1}) g_i
    cached_i = stale_i + Σ_s m^{π̂⁰} Σ_a (π̂ⁱ−π̂ⁱ⁻¹)(A_{i−1} − A_0)

and `V_{i} − V_{i−1}` is solved from `(I−γP_i) y = g_i` in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from teamtr_jax.chi_square import path_sums
from teamtr_jax.divergences import exclusive_sum, expected, kl_terms
from teamtr_jax.dynamics import DenseResolvent, PrefixResolvent, SparseResolvent, after, prefix_resolvent
from teamtr_jax.types import (
    Hybrids,
    Layers,
    Resolvent,
    Rounding,
    Stage,
    StageReport,
    Team,
    ints,
    require_one,
    require_table,
)
from teamtr_jax.validation import require_float64
from teamtr_jax.values import advantages, evaluate_policy, return_bounds, return_range, rounding_unit
from teamtr_jax.visits import exact_support, hybrids, solo_steps

__all__ = ["evaluate_stage", "stage_report", "swap_report", "hybrids_report", "hybrid_evaluations", "evaluation_errors",
           "occupancy_tv"]  # fmt: skip


class _Solved(NamedTuple):
    """What linear solves say of a chain of hybrids. Index `i` of an ``[n]`` list is update `i+1`."""

    values: Float[Array, "n+1 S"]  #: `V^{π̂ⁱ}`
    visits: Float[Array, "n+1 S"]  #: `m^{π̂ⁱ}`
    advantages: Float[Array, "n+1 S A"]  #: `A^{π̂ⁱ}`
    conditional: Float[Array, "n S"]  #: `g_i`
    shift: Float[Array, "n S"]  #: `m^{π̂ⁱ} − m^{π̂ⁱ⁻¹}`
    value_shift: Float[Array, "n S"]  #: `V^{π̂ⁱ} − V^{π̂ⁱ⁻¹}`
    turns: Float[Array, "n S"]  #: the updated agent's expected discounted turns from s on, under `π̂ⁱ`


def evaluate_stage(stage: Stage) -> StageReport:
    """Everything known exactly about a stage (theory/derivations/notation.md), in one jitted program.

    Batch over stages with ``jax.vmap(stage_report)`` or by giving every array a leading axis and mapping this function.

    Raises:
      InputError: if an array of the stage is not float64, or the stage is a batch.
    """
    require_float64(reward=stage.team.reward, initial=stage.team.initial)
    require_one(stage, "stage")
    return _jitted(stage)


def stage_report(stage: Stage) -> StageReport:
    """`evaluate_stage` without the `jit`: for use inside a larger program."""
    require_float64(reward=stage.team.reward, initial=stage.team.initial)
    require_one(stage, "stage")
    return hybrids_report(stage.team, hybrids(stage), solo_steps(stage), once=True)


def hybrid_evaluations(stage: Stage) -> tuple[Float[Array, "m S"], Float[Array, "m S"]]:
    """`m^{π̂ⁱ}` and `V^{π̂ⁱ}` of every hybrid, each [n+1, S].

    In a turn-taking team with dense matrices the work is that of a few evaluations of one policy, for any number of agents
    (`teamtr_jax.dynamics.prefix`); otherwise one factorisation a hybrid. `evaluation_errors` says how good they are.

    Raises:
      InputError: if an array is not float64, or the stage is a batch.
    """
    require_float64(reward=stage.team.reward, initial=stage.team.initial)
    require_one(stage, "stage")
    return _evaluations(stage)


@jax.jit
def _evaluations(stage: Stage) -> tuple[Array, Array]:
    team, h = stage.team, hybrids(stage)
    if _nested(team, h):
        return _prefix_evaluations(team, h)[1:]

    def evaluate(policy: Array) -> tuple[Array, Array]:
        _, v, m = evaluate_policy(team, policy)
        return m, v

    return mapped(team, evaluate, h.policies)


def evaluation_errors(
    stage: Stage, m: Float[Array, "m S"], v: Float[Array, "m S"]
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """By how much the visits (in the 1-norm) and the values (in the maximum norm) of hybrids can be off, from their residuals.

    `‖m − m*‖₁ ≤ T_eff ‖ρ + γP_πᵀm − m‖₁` and `‖v − v*‖_∞ ≤ T_eff ‖r_π + γP_πv − v‖_∞`, whoever solved for them. Each residual is
    increased by what rounding can have done to it (`rounding_unit`). Units: steps and rewards.

    Raises:
      InputError: if an array is not float64, the stage is a batch, or `m`, `v` are not a number for each hybrid and state.
    """
    require_float64(reward=stage.team.reward, initial=stage.team.initial, m=m, v=v)
    require_one(stage, "stage")
    team, policies = stage.team, hybrids(stage).policies
    require_table(policies.shape[:2], m=m, v=v)
    dynamics, unit = team.dynamics, rounding_unit(team)
    gamma = jnp.asarray(dynamics.discount, v.dtype)
    length = 1 / (1 - gamma) if dynamics.horizon is None else jnp.asarray(float(dynamics.horizon))

    def errors(policy: Array, m: Array, v: Array) -> tuple[Array, Array]:
        def visits(m: Array, initial: Array) -> Array:
            return initial + gamma * dynamics.forward(m[:, None] * policy)

        def values(v: Array, reward: Array) -> Array:
            return (policy * (reward + gamma * dynamics.backward(v))).sum(-1)

        visited = abs(visits(m, team.initial) - m) + unit * (visits(abs(m), team.initial) + abs(m))
        valued = abs(values(v, team.reward) - v) + unit * (values(abs(v), abs(team.reward)) + abs(v))
        return length * visited.sum(), length * valued.max()

    return lax.map(lambda xs: errors(*xs), (policies, m, v))


def swap_report(team: Team, h: Hybrids, solo: Float[Array, "n S A"], position: Array) -> StageReport:
    """The one-update stage `π̂⁰ → π^{⟨i⟩}` in which only the agent at `position` of the order moves (P3.8, R5).

    Args:
      solo: `solo_steps(stage)`.

    Raises:
      InputError: if `position` is none of the order.
    """
    ints("position", position, 0, solo.shape[0])
    step = solo[position]
    one = Hybrids(
        jnp.stack([h.policies[0], h.policies[0] + step]), step[None], *(part[position][None] for part in h[2:])
    )
    return hybrids_report(team, one, step[None], once=True)


def hybrids_report(team: Team, h: Hybrids, reused: Float[Array, "n S A"], once: bool = False) -> StageReport:
    """The report of any chain of policies; `reused` are the steps that a trainer on the stage's first rollouts sees.

    Args:
      once: no agent moves twice, as in a stage. Then a large turn-taking team is solved by `teamtr_jax.dynamics.prefix`.
    """
    dynamics = team.dynamics
    gamma = jnp.asarray(dynamics.discount, team.reward.dtype)
    solved = _solve_hybrids(team, h, once)
    v, m, a, g, x = solved.values, solved.visits, solved.advantages, solved.conditional, solved.shift

    zero = jnp.zeros_like(x[:1])
    drift = jnp.concatenate([zero, jnp.cumsum(x, 0)[:-1]])  # m^{i−1} − m^0
    value_drift = jnp.concatenate([zero, jnp.cumsum(solved.value_shift, 0)[:-1]])  # V_{i−1} − V_0
    fresh = (x * g).sum(-1)
    seq_minus_stale = (drift * g).sum(-1)
    stale = fresh + seq_minus_stale
    advantage_drift = gamma * jax.vmap(dynamics.backward)(value_drift) - value_drift[..., None]  # A_{i−1} − A_0
    cached = stale + (m[0] * (h.steps * advantage_drift).sum(-1)).sum(-1)
    reused_gap = cached + (m[0] * ((h.steps - reused) * a[0]).sum(-1)).sum(-1)

    d, d_stale = m[:-1] / m[:-1].sum(-1, keepdims=True), m[0] / m[0].sum()
    per_episode = m if dynamics.horizon is not None else m / m.sum(-1, keepdims=True)
    floor, ceiling = return_bounds(team)
    terms = kl_terms(h.policies[:-1], h.policies[1:], h.steps)
    to_go = jnp.maximum(a + (v - floor)[..., None], 0.0)  # Q − Φ
    left = jnp.maximum((ceiling - v)[..., None] - a, 0.0)  # Ψ − Q
    solo_terms = kl_terms(jnp.broadcast_to(h.policies[0], reused.shape), h.policies[0] + reused, reused)
    follows = dynamics.backward(jnp.ones_like(team.initial))
    even = jnp.asarray(True) if dynamics.horizon is None else _lasting(follows, dynamics.time(), dynamics.horizon)

    return StageReport(
        visits=m,
        values=v,
        objective=v @ team.initial,
        conditional=g,
        shift=x,
        surrogate_intermediate=(m[:-1] * g).sum(-1),
        surrogate_stale=(m[0] * g).sum(-1),
        surrogate_cached=(m[0] * (h.steps * a[0]).sum(-1)).sum(-1),
        surrogate_reused=(m[0] * (reused * a[0]).sum(-1)).sum(-1),
        gap_fresh=fresh,
        gap_stale=stale,
        gap_cached=cached,
        gap_reused=reused_gap,
        seq_minus_stale=seq_minus_stale,
        kl=expected(per_episode[:-1], h.kl_current_to_new),
        kl_stale=expected(jnp.broadcast_to(per_episode[0], d.shape), h.kl_current_to_new),
        kl_reverse=expected(per_episode[:-1], h.kl_new_to_current),
        tv=(d * h.tv).sum(-1),
        tv_stale=(d_stale * h.tv).sum(-1),
        share=(d * h.acts).sum(-1),
        span_g=g.max(-1) - g.min(-1),
        advantage_max=abs(a[:-1]).max((-2, -1)),
        advantage_span=(a[:-1].max(-1) - a[:-1].min(-1)).max(-1),
        occupancy_tv_fresh=occupancy_tv(x, d, m[1:]),
        occupancy_tv_stale=occupancy_tv(drift, d_stale, m[:-1]),
        mass=m[0].sum() if dynamics.horizon is not None else 1 / (1 - gamma),
        discount=gamma,
        reward_span=team.reward.max() - team.reward.min(),
        return_range=return_range(team),
        simultaneous=(h.acts.sum(0) > 1).any(),
        even=even,
        later_turns=_later_turns(team, h, m, solved.turns),
        return_floor=team.initial @ floor,
        weighted_floor=_weighted(m[:-1], terms, to_go[:-1]),
        weighted_ceiling=_weighted(m[:-1], terms, left[:-1]),
        weighted_reused=_weighted(m[0], solo_terms, to_go[0]),
        layers=None if dynamics.horizon is None else _layers(team, h, solved, even, reused),
        rounding=_rounding(team, h, solved, reused),
    )


def _layers(team: Team, h: Hybrids, solved: _Solved, even: Array, reused: Array) -> Layers:
    """The steps of an episodic stage."""
    horizon = team.dynamics.horizon
    assert horizon is not None
    time, shape = team.dynamics.time(), (h.steps.shape[0], horizon)
    m, a, g = solved.visits, solved.advantages, solved.conditional

    def at_steps(mass: Float[Array, "n S"]) -> Float[Array, "n T"]:
        return jnp.zeros(shape, mass.dtype).at[:, time].add(mass)

    def largest(per_state: Float[Array, "n S"]) -> Float[Array, "n T"]:
        return jnp.full(shape, -jnp.inf).at[:, time].max(per_state)

    def weighted_kl(mass: Float[Array, "n S"]) -> Float[Array, "n S"]:
        return jnp.where(mass > 0, mass * jnp.where(mass > 0, h.kl_current_to_new, 0.0), 0.0)

    end = jnp.where(even, -jnp.inf, 0.0)  # the end of an episode counts as a state with g = 0
    own_span = jnp.where(h.acts, a[:-1].max(-1) - a[:-1].min(-1), 0.0)
    met = (m > 0).any(0)
    greatest, least = (jnp.maximum(largest(jnp.where(met, x, -jnp.inf)), end) for x in (g, -g))
    return Layers(
        kl=at_steps(weighted_kl(m[:-1])),
        kl_stale=at_steps(weighted_kl(jnp.broadcast_to(m[0], g.shape))),
        tv=at_steps(m[:-1] * h.tv),
        shift=0.5 * at_steps(abs(solved.shift)),
        share=at_steps(m[:-1] * h.acts),
        span=jnp.where(jnp.isfinite(greatest), greatest + least, 0.0),
        advantage_span=jnp.maximum(largest(own_span), 0.0),  # of a padded step without states, too
        speaks=jnp.zeros(shape, bool).at[:, time].max(h.acts),
        **path_sums(team, h, m, solved.values, reused),
    )


_jitted = jax.jit(stage_report)


BATCH_LIMIT = 2**18
"""Largest number of factor entries (2 MiB) held at once: what a cache keeps."""

PREFIX_UPDATES = 3
"""Least number of updates for which the shared elimination of `teamtr_jax.dynamics.prefix` is less work than one LU a hybrid."""


def _weighted(m: Array, terms: Array, value: Array) -> Array:
    """`Σ_s m Σ_a k(s,a) q(s,a)` with `0·∞ = 0`."""
    used = (m[..., None] > 0) & (value > 0) & (terms > 0)
    return jnp.where(used, m[..., None] * jnp.where(used, terms, 0.0) * value, 0.0).sum((-2, -1))


def _lasting(follows: Array, time: Array, horizon: int) -> Array:
    """Whether every state before the last step has a successor for every action."""
    return ((follows > 0.5) | (time == horizon - 1)[:, None]).all()


def _later_turns(team: Team, h: Hybrids, m: Array, turns: Array) -> Array:
    """`max γE[N(s')|s,a]` over visited own states and the actions whose probability moves; `N` counts own turns under `π̂ⁱ`."""
    later = team.dynamics.discount * jax.vmap(team.dynamics.backward)(turns)
    own = (h.acts & (m[:-1] > 0))[..., None] & (h.steps != 0)
    return jnp.where(own, later, 0.0).max((-2, -1))


def _entries(team: Team, policies: Array) -> tuple[Resolvent, int]:
    """The shape of a factorisation, and the number of entries of those of all policies."""
    kind = jax.eval_shape(team.dynamics.resolvent, policies[0])
    return kind, policies.shape[0] * sum(leaf.size for leaf in jax.tree.leaves(kind))


def at_once(team: Team, policies: Array) -> bool:
    """Whether the factorisations of so many policies [m, S, A] are held side by side."""
    kind, entries = _entries(team, policies)
    return not isinstance(kind, SparseResolvent) and entries <= BATCH_LIMIT


def mapped(team: Team, f: Callable[[Array], Any], policies: Array) -> Any:
    """`f`, which factorises once, of each of the policies (or steps between policies) [m, S, A], side by side if they fit."""
    return jax.vmap(f)(policies) if at_once(team, policies) else lax.map(f, policies)


def inflow(team: Team, m: Float[Array, " S"], step: Float[Array, "S A"]) -> Float[Array, " S"]:
    """`γ(P'−P)ᵀm` of the step `π' − π`: `m' − m` is solved from it."""
    return team.dynamics.discount * team.dynamics.forward(m[:, None] * step)


def _nested(team: Team, h: Hybrids) -> bool:
    """Whether the hybrids of a stage share their elimination: turn-taking, dense, large, and enough of them."""
    kind, entries = _entries(team, h.policies)
    dense = team.factors is None and isinstance(kind, DenseResolvent)
    return dense and entries > BATCH_LIMIT and h.steps.shape[0] >= PREFIX_UPDATES


def _prefix_evaluations(team: Team, h: Hybrids) -> tuple[PrefixResolvent, Array, Array]:
    """The inverses of a stage's hybrids, and their visits and values."""
    updates = h.steps.shape[0]
    position = jnp.where(h.acts.any(0), h.acts.argmax(0), updates)
    ends = [h.policies[0], h.policies[-1]]
    old, new = (team.dynamics.resolvent(policy).matrix for policy in ends)  # pyright: ignore[reportAttributeAccessIssue]
    resolvent = prefix_resolvent(old, new, position, updates)
    v = resolvent.hybrid_values(*((policy * team.reward).sum(-1) for policy in ends))
    m = resolvent.hybrid_visits(team.initial)
    return resolvent, exact_support(resolvent, team.initial, m), v


def _solve_hybrids(team: Team, h: Hybrids, once: bool) -> _Solved:
    """Every hybrid and every step between two of them.

    Small: all hybrids at once by an array axis, one LU a hybrid. Large: turn-taking dense stages by one shared elimination;
    others (sparse worlds, product teams, agents that move twice) one by one in a scan, where what a step needs of the hybrid
    before is known in time to solve both right sides together. In each there is one chain of LAPACK calls at most
    (`teamtr_jax.dynamics.after`).
    """
    dynamics = team.dynamics

    def sources(m: Array, a: Array, step: Array) -> tuple[Array, Array]:
        return (step * a).sum(-1), inflow(team, m, step)

    def evaluate(policy: Array) -> tuple[Resolvent, Array, Array, Array]:
        resolvent, v, m = evaluate_policy(team, policy)
        return resolvent, v, m, advantages(team, v)

    def compare(resolvent: Resolvent, m: Array, a: Array, m_new: Array, step: Array, acts: Array):
        g, moved = sources(m, a, step)
        y, turns = jax.vmap(resolvent.values)(after(jnp.stack([g, jnp.where(acts, 1.0, 0.0)]), m_new))
        return g, resolvent.visits(after(moved, y)), y, turns

    if once and _nested(team, h):
        resolvent, m, v = _prefix_evaluations(team, h)
        a = jax.vmap(lambda v: advantages(team, v))(v)
        g, moved = jax.vmap(sources)(m[:-1], a[:-1], h.steps)
        none = jnp.zeros_like(g[:1])
        rewards, inflows = jnp.stack([g, jnp.where(h.acts, 1.0, 0.0)]), jnp.concatenate([none, moved])
        y, turns = jax.vmap(resolvent.values)(jnp.concatenate([jnp.stack([none, none]), rewards], 1))[:, 1:]
        return _Solved(v, m, a, g, resolvent.visits(inflows)[1:], y, turns)

    if at_once(team, h.policies):
        resolvents, v, m, a = jax.vmap(evaluate)(h.policies)
        later = jax.tree.map(lambda leaf: leaf[1:], resolvents)
        return _Solved(v, m, a, *jax.vmap(compare)(later, m[:-1], a[:-1], m[1:], h.steps, h.acts))

    def advance(before: tuple[Array, Array], xs: tuple[Array, Array, Array]):
        policy, step, acts = xs
        g, moved = sources(*before, step)
        resolvent = dynamics.resolvent(policy)
        rewards = jnp.stack([(policy * team.reward).sum(-1), g, jnp.where(acts, 1.0, 0.0)])
        v, y, turns = jax.vmap(resolvent.values)(rewards)
        solved, x = jax.vmap(resolvent.visits)(after(jnp.stack([team.initial, moved]), v))
        m, a = exact_support(resolvent, team.initial, solved), advantages(team, v)
        return (m, a), (v, m, a, g, x, y, turns)

    start = (jnp.zeros_like(team.initial), jnp.zeros_like(team.reward))
    first = (jnp.zeros_like(h.steps[:1]), jnp.zeros_like(h.acts[:1]))  # hybrid 0 follows no step
    steps, acts = (jnp.concatenate(pair) for pair in zip(first, (h.steps, h.acts), strict=True))
    _, (v, m, a, g, x, y, turns) = lax.scan(advance, start, (h.policies, steps, acts))
    return _Solved(v, m, a, g[1:], x[1:], y[1:], turns[1:])


def occupancy_tv(shift: Array, d: Array, m_new: Array) -> Array:
    """`½‖d' − d‖₁` from `m' − m`: `d' − d = (m'−m − d·Σ(m'−m)) / Σm'`, so nothing cancels for small steps."""
    total = shift.sum(-1, keepdims=True)
    return 0.5 * abs(shift - d * total).sum(-1) / m_new.sum(-1)


def _rounding(team: Team, h: Hybrids, solved: _Solved, reused: Array) -> Rounding:
    """Rounding budgets; every line is derived in docs/rounding.md.

    `η = T_eff·(8(S+A+n)u + lack)` bounds the relative error of one solve: `T_eff = 1/(1−γ)` or `T` is the norm of the
    inverse, `lack` how far rows of probabilities are from summing to one.
    """
    dynamics = team.dynamics
    v, m, a, g, x = solved.values, solved.visits, solved.advantages, solved.conditional, solved.shift
    unit = jnp.finfo(v.dtype).eps / 2
    gamma = jnp.asarray(dynamics.discount, v.dtype)
    states, actions, agents, steps = team.counts
    length = 1 / (1 - gamma) if dynamics.horizon is None else jnp.asarray(steps, v.dtype)
    updates = agents if h.steps.shape[0] == team.agents else h.steps.shape[0]
    lack = abs(h.policies.sum(-1) - 1) + actions * unit
    follows = dynamics.backward(jnp.ones_like(team.initial))  # zero where the episode ends
    world = jnp.where(follows == 0, 0.0, abs(follows - 1)).max() + abs(team.initial.sum() - 1)
    eta = length * (8 * (states + actions + updates) * unit + lack.max() + world)
    step, scale = abs(h.steps).sum(-1), abs(v).max(-1) + abs(team.reward).max()
    loose = jnp.where(step > 0, lack[:-1] + lack[1:], 0.0)

    largest, v_scale, g_scale = step.max(-1), jnp.maximum(scale[:-1], scale[1:]), abs(g).max(-1)
    g_error = 3 * eta * largest * v_scale + loose.max(-1) * abs(a[:-1]).max((-2, -1))
    closure = gamma * (m[:-1] * loose).sum(-1)
    let_in = jax.vmap(lambda m, step: inflow(team, m, step))(m[:-1], abs(h.steps)).sum(-1)
    inflow_error = 2 * gamma * eta * length * largest + closure + states * actions * unit * let_in
    moved = abs(x).sum(-1)
    shift = eta * moved + length * inflow_error
    fresh = moved * g_error + g_scale * shift
    drift = exclusive_sum(moved) * g_error + g_scale * exclusive_sum(shift)
    stale = fresh + drift

    y_scale = length * jnp.cumsum(g_scale)
    y_error = 2 * eta * y_scale + length * jnp.cumsum(g_error)
    start = eta * length * largest + (m[0] * loose).sum(-1)
    cached = stale + (m[0] * step).sum(-1) * y_error + start * y_scale
    apart, formed = abs(h.steps - reused), unit * (abs(h.steps) + abs(reused)) * actions
    apart_error = (4 * eta * apart * v_scale.max() + formed * abs(a[0])).sum(-1)
    reused_error = cached + (m[0] * apart_error).sum(-1) + eta * length * (apart * abs(a[0])).sum(-1).max(-1)
    identity = 2 * eta * (scale[1:] + scale[:-1]) + m.sum(-1)[1:] * g_error + eta * length * g_scale
    identity = jnp.where(
        jnp.arange(h.steps.shape[0]) < h.steps.shape[0] - updates, 0.0, identity
    )  # padding is no update
    return Rounding(
        relative=eta,
        surrogate=length * (g_error + eta * g_scale),
        fresh=fresh,
        stale=stale,
        cached=cached,
        reused=reused_error,
        drift=drift,
        shift=shift,
        closure=closure,
        identity=identity,
    )
