"""Rollouts and what is estimated from them: expectations by writing down every path with its probability, no sampling.

A list of all paths is fed to the estimators as if it were a batch, each path weighted with its probability. Two tests sample;
they say with which probability they would fail.
"""

import itertools
import math
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import builders
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from scipy.stats import binom

from teamtr_jax.finite_sample import finite_sample_certificate, two_sample_certificate
from teamtr_jax.rollouts import (
    Rollouts,
    broadcast_advantage,
    centred_advantage,
    default_horizon,
    estimate_tables,
    estimation_error,
    group_normalised_advantage,
    log_ratios,
    message_log_ratios,
    path_weight,
    prefix_weight,
    reward_to_go,
    rollouts_of_paths,
    sample_rollouts,
    surrogate_parts,
    truncation_bias,
    weight_diagnostics,
)
from teamtr_jax.teams import relay_stage
from teamtr_jax.trust_region import value_weighted_step
from teamtr_jax.types import Estimate, Team
from teamtr_jax.validation import InputError

DEPTH = 4
close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11)
"""Sums of some thousand rounded terms of order one."""


class Known(NamedTuple):
    """A small team and all its paths under a behaviour policy."""

    team: Team
    case: builders.Case
    depth: int
    probability: np.ndarray  #: [N]
    state: np.ndarray  #: [N, H]
    action: np.ndarray

    @property
    def gamma(self) -> float:
        return self.case.world.get("gamma", 1.0)

    def rollouts(self, policy: np.ndarray) -> Rollouts:
        return rollouts_of_paths(
            self.team, jnp.asarray(policy), jnp.asarray(self.state[:, None]), jnp.asarray(self.action[:, None])
        )

    def mean_one(self) -> jax.Array:
        """Weights that turn the mean over all paths into the expectation."""
        return jnp.asarray(self.probability * len(self.probability))[:, None]

    def joint(self, tables: np.ndarray) -> np.ndarray:
        factors = self.case.factors
        if factors is None:
            return tables
        return np.array(
            [oracle.product([tables[k, s, :f] for k, f in enumerate(factors)]) for s in range(len(tables[0]))]
        )

    def exact(self, visits_of: np.ndarray, values_of: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`(m, mQ, Q)`: visits of one joint policy, Q of another, both of `depth` steps: `mQ = Σ_t γ^t P(s_t=s) Q_{H−t}(s,a)`."""
        world, g = self.case.world, self.gamma
        q, Q = [], np.zeros_like(world["r"])
        for _ in range(self.depth):
            Q = world["r"] + g * world["P"] @ (values_of * Q).sum(-1)
            q.append(Q)
        at, m, mq = world["rho"].copy(), 0, 0
        for t in range(self.depth):
            m, mq = m + g**t * at, mq + g**t * at[:, None] * q[self.depth - 1 - t]
            at = np.einsum("s,sa,sat->t", at, visits_of, world["P"])
        return m, mq, q[-1]

    def own(self, agent: int, joint: np.ndarray, x: np.ndarray) -> np.ndarray:
        """`Σ` over the others' actions of `joint · x`, for each own action of the agent; the states of others are left out."""
        factors = self.case.factors
        if factors is None:
            return np.where((self.case.active == agent)[:, None], joint * x, 0.0)
        axes = tuple(k + 1 for k in range(len(factors)) if k != agent)
        out = (joint * x).reshape(-1, *factors).sum(axes)
        return np.pad(out, ((0, 0), (0, max(factors) - factors[agent])))

    def rows(self, agent: int) -> tuple[jax.Array, jax.Array]:
        if self.case.factors is not None:
            return jnp.zeros(0, int), jnp.zeros(0, bool)
        own = self.case.active == agent
        return jnp.argsort(~own, stable=True), jnp.arange(len(own)) < own.sum()

    def scatter(self, agent: int, estimate: Estimate) -> Estimate:
        """The tables of the estimate by state; nothing may be in the rows that pad."""
        if self.case.factors is not None:
            return Estimate(*map(np.asarray, estimate))
        rows, owned = map(np.asarray, self.rows(agent))
        out = []
        for x in map(np.asarray, estimate):
            assert (x[~owned] == 0).all()
            full = np.zeros_like(x)
            full[rows[owned]] = x[owned]
            out.append(full)
        return Estimate(*out)


def known(kind: str, seed: int = 0, zeros: float = 0.4) -> Known:
    """`turns`: three agents and chance, some episodes end early; `product`; `discounted`: cut off after `DEPTH` steps."""
    rng = np.random.default_rng(seed)
    if kind == "product":
        case, depth = builders.random_case(rng, "episodic", "product", zeros), 2
    elif kind == "discounted":
        case, depth = builders.turn_taking(rng, builders.discounted_world(rng, 3, 2, 0.7), zeros=0.0), DEPTH
        case = case._replace(active=np.array([0, 1, 0]))
    else:
        world = builders.episodic_world(rng, 2, 3, 3)
        world["P"][0, 1] = world["P"][2, 0] = world["P"][3, 2] = 0.0
        case, depth = builders.turn_taking(rng, world, zeros=zeros), 3
        active = np.array([0, 1, 2, -1, 0, 1])
        target = np.where((active < 0)[:, None], case.current, case.target)
        case = case._replace(active=active, target=target)
    return enumerated(case, depth)


def enumerated(case: builders.Case, depth: int) -> Known:
    """All paths of `case.current`."""
    team = builders.as_stage(case).team
    blank = Known(team, case, depth, *(np.zeros(0),) * 3)
    found = oracle.paths(case.world, blank.joint(case.current), depth=depth)
    probability = np.array([p for p, _, _ in found])
    state, action = (np.full((len(found), depth), -1) for _ in range(2))
    for k, (_, states, actions) in enumerate(found):
        state[k, : len(states)], action[k, : len(actions)] = states, actions
    assert probability.sum() == pytest.approx(1)
    return Known(team, case, depth, probability, state, action)


KINDS = ("turns", "product", "discounted")


@pytest.fixture(scope="module", params=KINDS)
def every(request):
    return known(request.param)


_jitted = jax.jit(estimate_tables)


def tables(
    k: Known, policy: np.ndarray, rollouts: Rollouts, agent: int, advantage, weights, **options: Any
) -> Estimate:
    """`estimate_tables` over all paths; discounted estimates without their factor `1−γ`, so that weights are visits."""
    estimate = _jitted(
        k.team, jnp.asarray(policy), rollouts, jnp.asarray(agent), advantage, *k.rows(agent), weights=weights, **options
    )
    scale = 1.0 if "T" in k.case.world else 1 - k.gamma
    found = k.scatter(agent, estimate)
    return found._replace(**{name: getattr(found, name) / scale for name in ("weight", "positive", "negative")})


def test_rollouts_of_paths_by_loops(every):
    """Every field of `Rollouts`, one step at a time."""
    case, world = every.case, every.case.world
    found = jax.tree.map(np.asarray, every.rollouts(case.current))
    for b in range(0, len(every.state), 7):
        total, over = 0.0, False
        for t in range(every.depth):
            s, a = every.state[b, t], every.action[b, t]
            over |= s < 0
            here = {name: x[b, 0, t] for name, x in found._asdict().items() if x is not None and name != "returns"}
            if over:
                assert here["state"] == -1
                assert not here["alive"]
                assert (here["weight"], here["reward"], here["action"]) == (0, 0, 0)
                assert (here["logp"] == 0).all()
                continue
            assert (here["state"], here["action"], here["alive"]) == (s, a, True)
            assert here["weight"] == pytest.approx(every.gamma**t)
            assert here["reward"] == world["r"][s, a]
            total += every.gamma**t * world["r"][s, a]
            if case.factors is None:
                assert here["agent"] == case.active[s]
                assert here["logp"] == pytest.approx(0 if case.active[s] < 0 else math.log(case.current[s, a]))
            else:
                own = list(itertools.product(*map(range, case.factors)))[a]
                close(here["logp"], [math.log(case.current[k, s, x]) for k, x in enumerate(own)])
        assert found.returns[b, 0] == pytest.approx(total)
    assert (found.state == -1).any() == (case.active is not None and "T" in world)


@pytest.mark.parametrize("agent", [0, 1])
def test_returns_to_go_are_unbiased(every, agent):
    """(1): `E ŵ = m` and `E[positive − negative] = m π Q`; without noise `Â = Q`, `q = Q − Φ`."""
    joint, rollouts = every.joint(every.case.current), every.rollouts(every.case.current)
    to_go = reward_to_go(rollouts, every.gamma)
    found = tables(every, every.case.current, rollouts, agent, to_go, every.mean_one(), shrink=0.0)
    m, mq, _ = every.exact(joint, joint)
    mine = True if every.case.factors else every.case.active == agent
    close(found.weight, np.where(mine, m, 0.0))
    expected = every.own(agent, joint, mq)
    close(found.positive - found.negative, expected)
    assert (found.positive >= 0).all()
    assert (found.negative >= 0).all()
    table = every.case.current[agent] if every.case.factors else every.case.current
    share = found.weight[:, None] * table
    close(found.advantage, np.divide(expected, share, out=np.zeros_like(expected), where=share > 0))
    assert (found.advantage != 0).any()

    floor, _ = oracle.bounds_to_go(every.case.world)
    cut_off = 0.0
    if "gamma" in every.case.world:  # what was cut off counts as the least return
        starts = [every.case.world["rho"]]
        for _ in range(every.depth - 1):
            starts.append(np.einsum("s,sa,sat->t", starts[-1], joint, every.case.world["P"]))
        cut_off = every.gamma**every.depth * floor[0] * np.sum(starts, 0)
    ones = np.ones_like(every.case.world["r"])
    top = expected + every.own(agent, joint, (cut_off - m * floor)[:, None] * ones)
    mean = top.sum(-1, keepdims=True) / np.where(m > 0, m, 1.0)[:, None]  # what an action without samples gets
    close(found.value, np.where(share > 0, top / np.where(share > 0, share, 1.0), mean))
    assert (found.value >= 0).all()


def test_positive_and_negative_parts_by_loops(every):
    """`Ê[1{s,a} Â⁺]` and `Ê[1{s,a} Â⁻]`, sample by sample."""
    rollouts = every.rollouts(every.case.current)
    to_go = reward_to_go(rollouts, every.gamma)
    found = tables(every, every.case.current, rollouts, 1, to_go, every.mean_one())
    up, down = np.zeros_like(found.positive), np.zeros_like(found.positive)
    for b, t in np.ndindex(*every.state.shape):
        s, a = every.state[b, t], every.action[b, t]
        if s < 0 or (every.case.factors is None and every.case.active[s] != 1):
            continue
        own = a if every.case.factors is None else list(itertools.product(*map(range, every.case.factors)))[a][1]
        x = every.probability[b] * every.gamma**t * float(to_go[b, 0, t])
        (up if x > 0 else down)[s, own] += abs(x)
    close(found.positive, up)
    close(found.negative, down)


def test_full_returns_are_unbiased_up_to_a_constant(every):
    """(2): with the return of the whole rollout at every step, `(positive − negative)/π − mQ` is the same for all actions."""
    joint, rollouts = every.joint(every.case.current), every.rollouts(every.case.current)
    found = tables(
        every, every.case.current, rollouts, 0, broadcast_advantage(rollouts, rollouts.returns), every.mean_one()
    )
    same_up_to_a_constant(every, 0, every.case.current, found, every.own(0, joint, every.exact(joint, joint)[1]))


def same_up_to_a_constant(k: Known, agent: int, tables_: np.ndarray, found: Estimate, expected: np.ndarray) -> None:
    table = tables_[agent] if k.case.factors else tables_
    used = (table > 0) & (found.weight > 0)[:, None]
    difference = np.divide(found.positive - found.negative - expected, table, out=np.zeros_like(table), where=used)
    assert (~used & (found.positive + found.negative + abs(expected) > 0)).sum() == 0
    high, low = (np.where(used, sign * difference, -np.inf).max(-1) for sign in (1, -1))
    close(np.where(used.any(-1), high + low, 0.0), 0.0)
    assert (used.sum(-1) > 1).any()


def paired(k: Known) -> tuple[Rollouts, jax.Array]:
    """All pairs of rollouts of one prompt, and the weights that make their mean an expectation."""
    first, chance = k.state[:, 0], k.probability
    i, j = np.nonzero(first[:, None] == first)
    rho = k.case.world["rho"][first[i]]
    state, action = (jnp.asarray(np.stack([x[i], x[j]], 1)) for x in (k.state, k.action))
    weight = jnp.asarray(chance[i] * chance[j] / rho * len(i))
    return rollouts_of_paths(k.team, jnp.asarray(k.case.current), state, action), weight[:, None] * jnp.ones(2)


@pytest.mark.parametrize("kind", ["turns", "discounted"])
@pytest.mark.parametrize("full", [True, False], ids=["return", "to-go"])
def test_leave_one_out_baselines_are_unbiased(kind, full):
    """(3): with the other rollout of the pair as baseline the surrogate of any table is still `Σ m Σ (π'−π) A`."""
    k = known(kind, seed=3, zeros=0.5)
    rollouts, weight = paired(k)
    if full:
        advantage = broadcast_advantage(rollouts, centred_advantage(rollouts.returns))
    else:
        advantage = centred_advantage(reward_to_go(rollouts, k.gamma), axis=-2)
    found = tables(k, k.case.current, rollouts, 0, advantage, weight)
    joint = k.joint(k.case.current)
    _, mq, _ = k.exact(joint, joint)
    same_up_to_a_constant(k, 0, k.case.current, found, k.own(0, joint, mq))


def covered(k: Known, seed: int) -> np.ndarray:
    """Other tables for all agents that use only actions of the behaviour, and drop some of them."""
    rng = np.random.default_rng(seed)
    other = k.case.current * rng.uniform(0.2, 1, k.case.current.shape) * (rng.random(k.case.current.shape) < 0.8)
    other = np.where(other.any(-1, keepdims=True), other, k.case.current)
    other /= other.sum(-1, keepdims=True).clip(1e-300)
    return other if k.case.factors else np.where((k.case.active < 0)[:, None], k.case.current, other)


@pytest.mark.parametrize("form", ["path", "per-decision", "prefix"])
def test_importance_weights_are_unbiased(every, form):
    """Weights of paths and per-decision ones turn the behaviour's tables into the current ones, prefix weights only `m`.

    The behaviour has zeros; the current team has more. (`discounted`: zeros only in the current team.)
    """
    behaviour, current = every.joint(every.case.current), covered(every, 5)
    now = every.joint(current)
    assert ((behaviour > 0) & (now == 0)).any()
    rollouts = every.rollouts(every.case.current)
    ratios = log_ratios(every.team, rollouts, jnp.asarray(current))
    path = path_weight(every.team, rollouts, jnp.asarray(current))
    prefix = prefix_weight(every.team, rollouts, jnp.asarray(current))
    assert float((every.mean_one() * path).mean()) == pytest.approx(1)
    close((every.mean_one()[..., None] * prefix).mean((0, 1)), 1.0)  # episodes that have ended count too
    close(prefix[..., -1], path)
    if form == "path":
        weight, to_go = every.mean_one() * path, reward_to_go(rollouts, every.gamma)
    else:
        weight = every.mean_one()[..., None] * prefix
        to_go = reward_to_go(rollouts, every.gamma, ratios if form == "per-decision" else None)
    for agent in (0, 1):
        found = tables(every, current, rollouts, agent, to_go, weight)
        m, mq, _ = every.exact(now, behaviour if form == "prefix" else now)
        mine = True if every.case.factors else every.case.active == agent
        close(found.weight, np.where(mine, m, 0.0))
        if form == "prefix" and every.case.factors:
            continue  # own and others' actions at one step: Q of the behaviour, averaged over the current others
        close(found.positive - found.negative, every.own(agent, now, mq))


def test_truncated_weights(every):
    """`min(∏ρ, c)`, at the end and at every step."""
    current, rollouts = jnp.asarray(covered(every, 5)), every.rollouts(every.case.current)
    for function in (path_weight, prefix_weight):
        whole, cut = (np.asarray(function(every.team, rollouts, current, c)) for c in (math.inf, 1.2))
        assert (whole > 1.2).any()
        assert (cut == np.minimum(whole, 1.2)).all()


def test_rows_that_moved_since_the_rollouts(every):
    """Without weights the agent's own ratio is put in: `E[positive − negative] = m^μ π Q^μ` for the π that is updated."""
    behaviour, rollouts = every.joint(every.case.current), every.rollouts(every.case.current)
    moved = covered(every, 6)
    to_go = (
        reward_to_go(rollouts, every.gamma) * every.mean_one()[..., None]
    )  # the probability of a path, in its advantage
    found = tables(every, moved, rollouts, 0, to_go, None)
    mixed = moved
    if every.case.factors is not None:
        mixed = every.joint(np.concatenate([moved[:1], every.case.current[1:]]))
    close(found.positive - found.negative, every.own(0, mixed, every.exact(behaviour, behaviour)[1]))


# ------------------------------------------------------------------------------------------------- advantages and weights


def test_advantages_by_hand():
    """Group normalisation, its clip and ε; the leave-one-out mean; both along either axis."""
    rng = np.random.default_rng(7)
    returns = rng.normal(size=(5, 4))
    mean, deviation = returns.mean(-1, keepdims=True), returns.std(-1, keepdims=True)
    close(group_normalised_advantage(jnp.asarray(returns), epsilon=0.0), (returns - mean) / deviation)
    expected = np.clip((returns - mean) / np.sqrt(deviation**2 + 0.5), -0.6, 0.6)
    assert (abs(expected) == 0.6).any()
    close(group_normalised_advantage(jnp.asarray(returns), clip=0.6, epsilon=0.5), expected)
    others = np.array([[np.delete(row, g).mean() for g in range(4)] for row in returns])
    close(centred_advantage(jnp.asarray(returns)), returns - others)
    assert (np.asarray(group_normalised_advantage(jnp.ones((2, 3)))) == 0).all()
    assert (np.asarray(centred_advantage(jnp.full((2, 1), 3.0))) == 3).all()
    long = rng.normal(size=(5, 4, 3))
    for function in (centred_advantage, partial(group_normalised_advantage, clip=1.0)):
        by_step = np.stack([np.asarray(function(jnp.asarray(long[..., t]))) for t in range(3)], -1)
        close(function(jnp.asarray(long), axis=-2), by_step)


def test_weight_diagnostics_by_numpy():
    """Table 10's columns, for a batch; degenerate and huge weights."""
    w = np.exp(np.random.default_rng(8).normal(0, 2, (3, 16, 8)))
    found = weight_diagnostics(jnp.asarray(w))
    for k in range(3):
        flat = w[k].ravel()
        close(found.ess_share[k], flat.sum() ** 2 / (flat**2).sum() / 128)
        close([found.p95[k], found.p99[k], found.largest[k]], [*np.percentile(flat, [95, 99]), flat.max()])
        close(found.above_ten[k], (flat > 10).mean())
    assert (found.above_ten > 0).all()
    assert float(weight_diagnostics(jnp.zeros((2, 2))).ess_share) == 0
    assert float(weight_diagnostics(jnp.array([[1e300, 0.0]])).ess_share) == 0.5


# ------------------------------------------------------------------------------------------------------------------- zeta


def test_surrogates_by_samples():
    """`L̂_raw`, `L̂_norm` and PPO's clipped objective, summed sample by sample; the parts of ζ telescope."""
    k = known("turns")
    rng, clip, rollouts = np.random.default_rng(9), 0.2, k.rollouts(k.case.current)
    raw = centred_advantage(reward_to_go(rollouts, 1.0), axis=-3)  # any numbers will do here
    normalised = group_normalised_advantage(raw, clip=1.0, axis=-3)
    new = np.where(k.case.current > 0, k.case.current * rng.uniform(0.5, 1.5, k.case.current.shape), 0.0)
    new /= new.sum(-1, keepdims=True)
    rows, owned = k.rows(0)
    found = [_jitted(k.team, jnp.asarray(k.case.current), rollouts, 0, x, rows, owned) for x in (raw, normalised)]
    old_rows, new_rows = (jnp.asarray(x)[rows] for x in (k.case.current, new))
    parts = surrogate_parts(old_rows, new_rows, *found, clip)
    expected = np.zeros(3)
    for b, t in np.ndindex(*k.state.shape):
        s, a = k.state[b, t], k.action[b, t]
        if s >= 0 and k.case.active[s] == 0:
            ratio = new[s, a] / k.case.current[s, a]
            x, y = float(raw[b, 0, t]), float(normalised[b, 0, t])
            bounded = min(max(ratio, 1 - clip), 1 + clip)
            expected += [(ratio - 1) * x, (ratio - 1) * y, min(ratio * y, bounded * y) - y]
    close(list(parts), expected / len(k.state))
    assert abs(expected[2] - expected[1]) > 1e-3
    assert surrogate_parts(old_rows, new_rows, *found).clipped == parts.normalised

    error = estimation_error(0.3, 0.4, parts)
    assert float(error.ratio) == pytest.approx(0.1)
    close(sum(error[:4]), float(parts.clipped) - 0.3)
    close(error.zeta, abs(float(parts.clipped) - 0.3))
    close([error.sampling, error.normalisation, error.clip], np.diff([0.4, *map(float, parts)]))


def test_the_surrogate_of_samples_has_the_mean_of_the_exact_one():
    """`E L̂_raw = L^seq` for a table fixed beforehand: the sampling part of ζ has mean zero."""
    for kind in ("turns", "product"):
        k = known(kind)
        joint, rollouts = k.joint(k.case.current), k.rollouts(k.case.current)
        advantage = broadcast_advantage(rollouts, rollouts.returns)
        rows, owned = k.rows(0)
        found = _jitted(k.team, jnp.asarray(k.case.current), rollouts, 0, advantage, rows, owned, weights=k.mean_one())
        new = covered(k, 10)
        old_rows, new_rows = (x[0] if k.case.factors else x[np.asarray(rows)] for x in (k.case.current, new))
        parts = surrogate_parts(jnp.asarray(old_rows), jnp.asarray(new_rows), found, found)
        only = k.joint(np.concatenate([new[:1], k.case.current[1:]])) if k.case.factors else new
        mine = np.ones(len(joint)) if k.case.factors else k.case.active == 0
        m = oracle.path_visits(k.case.world, joint)
        Q = oracle.path_action_values(k.case.world, joint)
        close(parts.raw, (m * mine * ((only - joint) * Q).sum(-1)).sum())


# ---------------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("kind", KINDS)
def test_paths_come_up_as_often_as_they_should(kind):
    """Each path's count among independent rollouts is inside its exact binomial range; fails by chance at most once in 1e6."""
    k = known(kind)
    size, alpha = 40_000, 1e-6
    found = sample_rollouts(
        k.team, jnp.asarray(k.case.current), jax.random.key(11), size, 1, None if "T" in k.case.world else k.depth
    )
    state, action = (np.asarray(x)[:, 0] for x in (found.state, found.action))
    index = {(*s, *a): i for i, (s, a) in enumerate(zip(k.state.tolist(), k.action.tolist(), strict=True))}
    action = np.where(state < 0, -1, action)
    count = np.zeros(len(k.state))
    for s, a in zip(state.tolist(), action.tolist(), strict=True):
        count[index[(*s, *a)]] += 1  # a KeyError: a path that cannot be
    tail = np.minimum(binom.cdf(count, size, k.probability), binom.sf(count - 1, size, k.probability))
    assert tail.min() > alpha / (2 * len(count))
    again = k.team and rollouts_of_paths(k.team, jnp.asarray(k.case.current), found.state, found.action)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-14), again, found)


def test_a_prompt_is_shared_by_its_group():
    """All G rollouts start where their prompt does; the prompts follow ρ, the rollouts of one differ."""
    k, size, alpha = known("turns"), 20_000, 1e-6
    found = sample_rollouts(k.team, jnp.asarray(k.case.current), jax.random.key(12), size, 2)
    first = np.asarray(found.state[:, :, 0])
    assert (first == first[:, :1]).all()
    rho = k.case.world["rho"]
    for s in np.flatnonzero(rho):
        count = (first[:, 0] == s).sum()
        assert min(binom.cdf(count, size, rho[s]), binom.sf(count - 1, size, rho[s])) > alpha / (2 * len(rho))
    assert (np.asarray(found.action[:, 0]) != np.asarray(found.action[:, 1])).any()


def test_a_batch_of_teams_and_keys():
    """`vmap` over teams, policies and keys gives what each gives alone, up to the end of the estimate."""
    known_ones = [known("turns", seed) for seed in (0, 3)]
    team, policy = (
        builders.stack([k.team for k in known_ones]),
        jnp.stack([jnp.asarray(k.case.current) for k in known_ones]),
    )
    keys = jax.random.split(jax.random.key(13), 2)

    def run(team, policy, key):
        rollouts = sample_rollouts(team, policy, key, 4, 3)
        advantage = broadcast_advantage(rollouts, centred_advantage(rollouts.returns))
        return rollouts, estimate_tables(team, policy, rollouts, 0, advantage, jnp.arange(6), team.active == 0)

    batch = jax.jit(jax.vmap(run))(team, policy, keys)
    for i, k in enumerate(known_ones):
        alone = jax.jit(run)(k.team, policy[i], keys[i])
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-12, atol=1e-14), batch, alone)
    assert (np.asarray(batch[0].action[0]) != np.asarray(batch[0].action[1])).any()


def test_truncation():
    """`default_horizon` is the least one; the mean of the truncated return is in the stated interval."""
    for gamma, tolerance in itertools.product((0.3, 0.9, 0.999), (1e-1, 1e-3, 0.3**5)):
        H = default_horizon(gamma, tolerance)
        assert gamma**H <= tolerance
        assert H == 1 or gamma ** (H - 1) > tolerance
    assert default_horizon(0.0) == 1
    assert default_horizon(jnp.array([0.5, 0.9])) == 66

    k = known("discounted")
    J, r, H, gamma = oracle.solved(k.case.world, k.case.current)[3], k.case.world["r"], k.depth, k.gamma
    mean = float((k.mean_one() * k.rollouts(k.case.current).returns).mean())
    bias = float(truncation_bias(k.team, H))
    assert bias == pytest.approx(gamma**H * (r.max() - r.min()) / (1 - gamma))
    assert J - bias <= mean + gamma**H * r.min() / (1 - gamma) <= J
    assert abs(J - mean) > 1e-3
    assert float(truncation_bias(known("turns").team, 3)) == 0
    sampled = sample_rollouts(k.team, jnp.asarray(k.case.current), jax.random.key(0), 2, 2)
    assert sampled.state.shape == (2, 2, default_horizon(0.7))


def test_an_action_that_was_not_seen_stays_about_where_it_is():
    """Its q is the row's mean: the value-weighted step scales it by `v̂/Σ_b π q`. Nothing is dropped for one bad return."""
    team = Team(
        builders.Dense(jnp.zeros((2, 3, 2)), jnp.asarray(1.0), jnp.zeros(2, int), 1),
        jnp.zeros((2, 3)).at[0].set(jnp.array([0.0, 1.0, 1.0])),
        jnp.array([1.0, 0.0]),
        jnp.zeros(2, int),
        1,
    )
    policy = jnp.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    action = jnp.array([0, 1, 0, 1]).reshape(4, 1, 1)  # the third action and the second state are never seen
    rollouts = rollouts_of_paths(team, policy, jnp.zeros_like(action), action)
    found = {}
    for shrink in (0.0, 1.0):
        to_go, rows = reward_to_go(rollouts, 1.0), (jnp.arange(2), jnp.ones(2, bool))
        estimate = _jitted(team, policy, rollouts, 0, to_go, *rows, shrink=shrink)
        found[shrink] = estimate.value
    close(found[0.0], [[0, 1, 0.5], [0, 0, 0]])
    close(found[1.0], [[0.5 / 3, 2.5 / 3, 0.5], [0, 0, 0]])
    new = np.asarray(value_weighted_step(policy, found[1.0]))
    q = np.asarray(found[1.0][0])
    close(new[0, 2] / 0.2, 0.5 / (np.array([0.5, 0.3, 0.2]) @ q))
    assert (new[0] > 0).all()
    close(new[1], policy[1])


# --------------------------------------------------------------------------------------------------------------------- S8


def relay() -> tuple[Team, jax.Array, np.ndarray, dict]:
    """Two agents, four steps; agent 0 is updated. The team, its tables before and after, and its world."""
    stage = relay_stage(2, 0.4, 0.2, slots=2)
    team, own = stage.team, np.asarray(stage.team.active == 0)[:, None]
    world = {"P": builders.table(team.dynamics), "r": np.asarray(team.reward), "rho": np.asarray(team.initial), "T": 4,
             "clock": np.asarray(team.dynamics.time())}  # fmt: skip
    return team, stage.current, np.where(own, stage.target, stage.current), world


def test_messages_of_all_paths_give_the_improvement():
    """On every path of a relay with its probability: `Σ p R(Λ−1)` is `J' − J`, and `Σ p Σ KL_m` the KL of the path."""
    team, current, new, world = relay()
    case = builders.Case(world, np.asarray(current), new, np.arange(2), np.asarray(team.active))
    k = enumerated(case, 4)._replace(team=team)
    rollouts = k.rollouts(case.current)
    whole = message_log_ratios(team, rollouts, 0, current, jnp.asarray(new))
    short = message_log_ratios(team, rollouts, 0, current, jnp.asarray(new), messages=2)
    assert whole.log_ratio.shape[-1] == 4
    assert short.log_ratio.shape[-1] == 2
    improvement = oracle.path_objective(world, new) - oracle.path_objective(world, case.current)
    assert improvement > 0.01
    for found in (whole, short):
        weight = np.exp(found.log_ratio.sum(-1)[:, 0])
        close(k.probability @ (np.asarray(rollouts.returns)[:, 0] * (weight - 1)), improvement)
        close(k.probability @ found.kl.sum(-1)[:, 0], oracle.path_log_ratio_sum(world, case.current, new))
    assert (short.log_ratio != 0).all()  # packed: no gap between an agent's messages


def test_from_rollouts_to_a_certificate():
    """Sampled end to end: `P(lower > improvement) ≤ α = 1e-6` for both certificates, and both are positive here."""
    team, current, new, world = relay()
    policies = [current, jnp.asarray(new)]
    old, fresh = (sample_rollouts(team, policy, jax.random.key(seed), 4000, 1) for seed, policy in enumerate(policies))
    gains = [oracle.path_objective(world, np.asarray(policy)) for policy in policies]
    sent, received = (message_log_ratios(team, r, 0, *policies, messages=2) for r in (old, fresh))
    one = finite_sample_certificate(old.returns, sent.log_ratio, sent.kl, alpha=1e-6)
    two = two_sample_certificate(old.returns, fresh.returns, sent.log_ratio, received.log_ratio, alpha=1e-6)
    for found in (one, two):
        assert 0 < found.lower < gains[1] - gains[0]


def test_messages_of_a_product_team():
    """The agent's own action at every step, whatever the others do; dropped actions −∞, opened ones +∞."""
    k = known("product")
    new = covered(k, 14)
    found = message_log_ratios(k.team, k.rollouts(k.case.current), 1, jnp.asarray(k.case.current), jnp.asarray(new))
    back = message_log_ratios(k.team, k.rollouts(k.case.current), 1, jnp.asarray(new), jnp.asarray(k.case.current))
    ratio = np.asarray(log_ratios(k.team, k.rollouts(k.case.current), jnp.asarray(new)))[..., 1]
    np.testing.assert_allclose(found.log_ratio, ratio, rtol=1e-12, atol=1e-12)
    assert (found.log_ratio == -np.inf).any()
    assert (back.log_ratio == np.inf).any()


# ---------------------------------------------------------------------------------------------------------------- refused


def test_what_is_refused():
    """Each message names the argument."""
    k, d = known("turns"), known("discounted")
    policy, key = jnp.asarray(k.case.current), jax.random.key(0)
    rollouts = k.rollouts(k.case.current)
    agent_rows = jnp.arange(6), jnp.ones(6, bool)

    def traced(gamma):
        return sample_rollouts(
            replace(d.team, dynamics=replace(d.team.dynamics, discount=gamma)), jnp.asarray(d.case.current), key, 1, 1
        )

    refused = {
        "policy": lambda: sample_rollouts(k.team, policy.astype("float32"), key, 1, 1),
        "prompts": lambda: sample_rollouts(k.team, policy, key, 0, 1),
        "group": lambda: sample_rollouts(k.team, policy, key, 1, 0),
        "horizon: found 2": lambda: sample_rollouts(k.team, policy, key, 1, 1, 2),
        "horizon: found 0": lambda: sample_rollouts(d.team, jnp.asarray(d.case.current), key, 1, 1, 0),
        "horizon: found none": lambda: jax.jit(traced)(jnp.asarray(0.5)),
        "discount": lambda: default_horizon(1.0),
        "tolerance": lambda: default_horizon(0.5, 0.0),
        "advantage": lambda: estimate_tables(
            k.team, policy, rollouts, 0, jnp.zeros(rollouts.state.shape, "float32"), *agent_rows
        ),
        "messages": lambda: message_log_ratios(k.team, rollouts, 0, policy, policy, messages=1),
        "team": lambda: message_log_ratios(d.team, d.rollouts(d.case.current), 0, *[jnp.asarray(d.case.current)] * 2),
    }
    for name, call in refused.items():
        with pytest.raises(InputError, match=f"^{name}"):
            call()
