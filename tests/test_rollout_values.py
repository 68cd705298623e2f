"""Estimates from rollouts, schedules and the sampled backend by value, one rollout and one step at a time in NumPy."""

import itertools
import math
import re
from dataclasses import replace
from functools import partial

import builders
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import truth
from builders import as_stage

from teamtr_jax import finite_sample as fs
from teamtr_jax.path_shift import summed_shift
from teamtr_jax.rollouts import (
    Rollouts,
    WeightDiagnostics,
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
    require_memory,
    reward_to_go,
    rollouts_of_paths,
    surrogate_parts,
    truncation_bias,
    weight_diagnostics,
)
from teamtr_jax.sampled import WEIGHTS, SampledData, Sampling, prompts_per_set, sampled_backend
from teamtr_jax.schedules import (
    Schedule,
    certificate_driven,
    every,
    fixed,
    fresh,
    greedy,
    importance_weighted,
    joint,
    lag,
    once,
    path_shift,
    reverse,
    single,
    stale_occupancy,
)
from teamtr_jax.stage import Backend, run_stage
from teamtr_jax.tabular import TeamState, agent_rows, team_state
from teamtr_jax.trust_region import kl_constrained
from teamtr_jax.types import Estimate, UpdateRecord
from teamtr_jax.validation import InputError

close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-13)
B, G, H = 3, 2, 4


class Paths:
    """Rollouts at random: any states and actions, some over early. The estimators do not ask whether they could be."""

    def __init__(self, form: str, protocol: str, index: int):
        case = truth.team(form, protocol, "plain", index)
        self.case, self.stage, self.team = case, as_stage(case), as_stage(case).team
        rng = np.random.default_rng(index)
        S, A = case.world["r"].shape
        self.gamma = case.world.get("gamma", 1.0)
        self.state, self.action = rng.integers(S, size=(B, G, H)), rng.integers(A, size=(B, G, H))
        if form == "episodic":
            for b, g in np.ndindex(B, G):
                self.state[b, g, 2 + (b + g) % 3 :] = -1
        self.behaviour = case.current
        self.policy = (case.current + case.target) / 2
        self.rollouts = rollouts_of_paths(
            self.team, *(jnp.asarray(x) for x in (self.behaviour, self.state, self.action))
        )

    def steps(self):
        """`(b, g, t, s, a)` of every step before the end."""
        for b, g, t in np.ndindex(B, G, H):
            if self.state[b, g, t] >= 0:
                yield b, g, t, self.state[b, g, t], self.action[b, g, t]

    def own(self, k: int, s: int, a: int):
        """The agent's own action, or `None` where it does not act."""
        if self.case.factors is None:
            return a if self.case.active[s] == k else None
        return list(itertools.product(*map(range, self.case.factors)))[a][k]

    def ratio(self, policy, k: int, s: int, a: int) -> float:
        """`π(a|s)/π_behaviour(a|s)` of agent k; 1 where it does not act."""
        x = self.own(k, s, a)
        if x is None:
            return 1.0
        old, new = ((p[s, x] if self.case.factors is None else p[k, s, x]) for p in (self.behaviour, policy))
        return new / old

    def step_ratio(self, policy, s: int, a: int) -> float:
        return math.prod(self.ratio(policy, k, s, a) for k in range(3))

    def to_go(self, b: int, g: int, t: int) -> float:
        rewards = [
            self.case.world["r"][self.state[b, g, u], self.action[b, g, u]] if self.state[b, g, u] >= 0 else 0.0
            for u in range(t, H)
        ]
        return sum(self.gamma**u * r for u, r in enumerate(rewards))


@pytest.fixture(
    scope="module", params=[("discounted", "turn-taking", 0), ("episodic", "product", 1)], ids=["turns", "product"]
)
def paths(request):
    return Paths(*request.param)


# ------------------------------------------------------------------------------------------------------------- rollouts


def test_returns_and_weights(paths):
    """Returns with γᵗ, weights `γᵗ`, log-probabilities, and nothing after the end."""
    found = jax.tree.map(np.asarray, paths.rollouts)
    alive = paths.state >= 0
    close(found.weight, np.where(alive, paths.gamma ** np.arange(H), 0.0))
    close(found.returns, [[paths.to_go(b, g, 0) for g in range(G)] for b in range(B)])
    assert (found.alive == alive).all()
    close(found.reward, [[[paths.to_go(b, g, t) - (paths.gamma * paths.to_go(b, g, t + 1) if t < H - 1 else 0)
                           for t in range(H)] for g in range(G)] for b in range(B)])  # fmt: skip
    expected = np.zeros((B, G, H, 3))
    for b, g, t, s, a in paths.steps():
        for k in range(3):
            if (x := paths.own(k, s, a)) is not None:
                expected[b, g, t, k] = math.log(
                    paths.behaviour[s, x] if paths.case.factors is None else paths.behaviour[k, s, x]
                )
    close(found.logp, expected.sum(-1) if paths.case.factors is None else expected)


def test_importance_weights(paths):
    """Products of ratios over all agents, whole and up to each step, cut at c; ratios of the agents one by one."""
    policy = jnp.asarray(paths.policy)
    prefix = np.ones((B, G, H))
    for b, g, t in np.ndindex(B, G, H):
        for u in range(t + 1):
            if paths.state[b, g, u] >= 0:
                prefix[b, g, t] *= paths.step_ratio(paths.policy, paths.state[b, g, u], paths.action[b, g, u])
    close(prefix_weight(paths.team, paths.rollouts, policy), prefix)
    close(path_weight(paths.team, paths.rollouts, policy), prefix[..., -1])
    cut = float(np.median(prefix[..., -1]))
    close(path_weight(paths.team, paths.rollouts, policy, cut), np.minimum(prefix[..., -1], cut))
    close(prefix_weight(paths.team, paths.rollouts, policy, cut), np.minimum(prefix, cut))
    ratios = np.asarray(log_ratios(paths.team, paths.rollouts, policy))
    expected = np.zeros((B, G, H, 3))
    for b, g, t, s, a in paths.steps():
        expected[b, g, t] = [math.log(paths.ratio(paths.policy, k, s, a)) for k in range(3)]
    close(ratios, expected.sum(-1) if paths.case.factors is None else expected)


def test_rewards_to_go(paths):
    """`G_t = r_t + γ ρ_{t+1} G_{t+1}`, with ρ = 1 and with the ratio of the whole team."""
    ratio = log_ratios(paths.team, paths.rollouts, jnp.asarray(paths.policy))
    plain = reward_to_go(paths.rollouts, paths.gamma)
    weighted = np.asarray(reward_to_go(paths.rollouts, paths.gamma, ratio))
    close(plain, [[[paths.to_go(b, g, t) for t in range(H)] for g in range(G)] for b in range(B)])
    for b, g in np.ndindex(B, G):
        later = 0.0
        for t in reversed(range(H)):
            s, a = paths.state[b, g, t], paths.action[b, g, t]
            now = paths.case.world["r"][s, a] + paths.gamma * later if s >= 0 else 0.0
            close(weighted[b, g, t], now)
            later = now * paths.step_ratio(paths.policy, s, a) if s >= 0 else 0.0


def tables_by_hand(paths, agent, advantage, weights, to_go, floor, shrink):
    """`ŵ`, `Â`, positive, negative and q by loops over the agent's steps (rollouts.estimate_tables)."""
    case = paths.case
    turns = case.factors is None
    S, width = paths.policy.shape[-2:]
    table = paths.policy if turns else paths.policy[agent]
    count, up, down, total = np.zeros((4, S, width))
    for b, g, t, s, a in paths.steps():
        if (x := paths.own(agent, s, a)) is None:
            continue
        w = 1.0 if weights is None else weights[b, g] if np.ndim(weights) == 2 else weights[b, g, t]
        rho = paths.ratio(paths.policy, agent, s, a) if weights is None else 1.0
        seen = paths.gamma**t * w
        count[s, x] += seen
        up[s, x] += seen * rho * max(advantage[b, g, t], 0.0)
        down[s, x] += seen * rho * max(-advantage[b, g, t], 0.0)
        cut_off = paths.gamma ** (H - t) * floor.min() if "gamma" in case.world else 0.0
        total[s, x] += seen * max(to_go[b, g, t] + cut_off - floor[s], 0.0)
    scale = (1 - paths.gamma if "gamma" in case.world else 1.0) / (B * G)
    weight = scale * count.sum(-1)
    share = weight[:, None] * table
    mean = [total[s].sum() / count[s].sum() if count[s].sum() else 0.0 for s in range(S)]
    value = [[(total[s, x] + shrink * mean[s]) / (count[s, x] + shrink) if count[s, x] + shrink else mean[s]
              for x in range(width)] for s in range(S)]  # fmt: skip
    quotient = np.divide(scale * (up - down), share, out=np.zeros_like(share), where=share > 0)
    return Estimate(weight, quotient, scale * up, scale * down, np.array(value))


estimated = jax.jit(estimate_tables)


@pytest.mark.parametrize("kind", ["own ratio", "of rollouts", "of steps"])
def test_tables(paths, kind):
    """Agent 1's statistics with a floor that is not 0, returns that were cut off, two weights and two shrinkages."""
    rng = np.random.default_rng(5)
    advantage = rng.normal(size=(B, G, H))
    weights = {"own ratio": None, "of rollouts": rng.uniform(0, 3, (B, G)), "of steps": rng.uniform(0, 3, (B, G, H))}[
        kind
    ]
    rows, owned = (x[1] for x in agent_rows(paths.team))
    low, _ = oracle.bounds_to_go(paths.case.world)
    assert abs(low).max() > 1
    given_to_go, given_floor = rng.normal(size=(B, G, H)), rng.normal(size=len(low))
    plain = np.array([[[paths.to_go(b, g, t) for t in range(H)] for g in range(G)] for b in range(B)])
    w = None if weights is None else jnp.asarray(weights)
    start = (
        paths.team,
        jnp.asarray(paths.policy),
        paths.rollouts,
        jnp.asarray(1),
        jnp.asarray(advantage),
        rows,
        owned,
    )
    options = {"to_go": jnp.asarray(given_to_go), "floor": jnp.asarray(given_floor), "shrink": 0.25}
    for found, expected in (
        (estimated(*start, weights=w), tables_by_hand(paths, 1, advantage, weights, plain, low, 1.0)),
        (
            estimated(*start, weights=w, **options),
            tables_by_hand(paths, 1, advantage, weights, given_to_go, given_floor, 0.25),
        ),
    ):
        for name, ours, value in zip(Estimate._fields, found, expected, strict=True):
            if value is None:  # how far rounding may be off: tests/test_steps_values.py
                continue
            if paths.case.factors is None:
                kept = np.asarray(rows)[np.asarray(owned)]
                close(np.asarray(ours)[np.asarray(owned)], value[kept], err_msg=name)
                assert (np.asarray(ours)[~np.asarray(owned)] == 0).all()
            else:
                close(ours, value, err_msg=name)


def test_horizon_at_equality_and_bias():
    """The least H with `γ^H ≤ tolerance`, at equality too; `β = γ^H span(r)/(1−γ)` with r from 2 to 5."""
    assert [default_horizon(0.5, tolerance) for tolerance in (0.125, 0.126, 0.124, 0.9)] == [3, 3, 4, 1]
    assert default_horizon(0.9) == math.ceil(math.log(1e-3) / math.log(0.9)) == 66
    paths = Paths("discounted", "turn-taking", 0)
    assert float(truncation_bias(paths.team, 3)) == pytest.approx(0.9**3 * 3.0 / 0.1, rel=1e-12)


def test_advantages_on_numbers():
    """μ = 2, σ² = 3.5 over the group; `ε` under the root; the clip on both sides; the others' mean."""
    returns = np.array([[0.0, 1.0, 2.0, 5.0], [3.0, 3.0, 3.0, 3.0]])
    found = np.asarray(group_normalised_advantage(jnp.asarray(returns), epsilon=0.5))
    close(found, [[-1.0, -0.5, 0.0, 1.5], [0, 0, 0, 0]])
    clipped = group_normalised_advantage(jnp.asarray(returns), clip=0.75, epsilon=0.5)
    close(clipped, [[-0.75, -0.5, 0.0, 0.75], [0, 0, 0, 0]])
    tiny = np.asarray(group_normalised_advantage(jnp.array([[0.0, 2e-4]])))
    close(tiny, [[-1e-4 / math.sqrt(1e-8 + 1e-8), 1e-4 / math.sqrt(2e-8)]])
    close(centred_advantage(jnp.asarray(returns[:1])), [[-8 / 3, -4 / 3, 0.0, 4.0]])


def test_one_advantage_at_every_step(paths):
    """Over `γᵗ`, so that `γᵗ Â_t` is the advantage itself; 0 after the end."""
    advantage = np.arange(1.0, 1.0 + B * G).reshape(B, G)
    found = np.asarray(broadcast_advantage(paths.rollouts, jnp.asarray(advantage)))
    close(found, np.where(paths.state >= 0, advantage[..., None] / paths.gamma ** np.arange(H), 0.0))


def test_diagnostics_of_weights_on_numbers():
    """`(Σw)²/(N Σw²)`; quantiles of 1 … 21 by linear interpolation; a weight of exactly 10 is not above 10."""
    w = np.arange(1.0, 22.0)
    found = weight_diagnostics(jnp.asarray(w.reshape(3, 7)))
    close(found, [231**2 / (21 * 3311), 20.0, 20.8, 21.0, 11 / 21])


def test_surrogates_of_tables_on_numbers():
    """`Σ u (positive − negative)`, u = 1, −½, 0, and the clipped `min(u, ε)·positive − max(u, −ε)·negative`, ε = 0.2."""
    current, new = jnp.array([[0.25, 0.5, 0.25, 0.0]]), jnp.array([[0.5, 0.25, 0.25, 0.0]])
    filler = jnp.zeros((1, 4))
    normalised = Estimate(
        jnp.ones(1), filler, jnp.array([[2.0, 3.0, 5.0, 7.0]]), jnp.array([[11.0, 13.0, 17.0, 19.0]]), filler
    )
    raw = normalised._replace(positive=jnp.array([[1.0, 4.0, 6.0, 0.0]]), negative=jnp.array([[0.0, 2.0, 0.0, 0.0]]))
    parts = surrogate_parts(current, new, raw, normalised, 0.2)
    assert [float(x) for x in parts] == pytest.approx(
        [1 - 0.5 * 2, (2 - 11) - 0.5 * (3 - 13), (0.2 * 2 - 11) + (-0.5 * 3 + 0.2 * 13)], rel=1e-14
    )
    assert [float(x) for x in surrogate_parts(current, new, raw, normalised)] == [0.0, -4.0, -4.0]
    error = estimation_error(1.0, 3.0, parts)
    assert [float(x) for x in error] == pytest.approx([2.0, -3.0, -4.0, -9.5 + 4, 9.5 + 1], rel=1e-14)


def test_messages_on_numbers(paths):
    """Ratio and KL of agent 1's messages, where they are and packed to the front."""
    if "T" not in paths.case.world:
        paths = Paths("episodic", "turn-taking", 1)
    case = paths.case
    ratio, kl = np.zeros((2, B, G, H))
    for b, g, t, s, a in paths.steps():
        if (x := paths.own(1, s, a)) is not None:
            old, new = ((p[s] if case.factors is None else p[1, s]) for p in (case.current, case.target))
            ratio[b, g, t], kl[b, g, t] = math.log(new[x] / old[x]), oracle.kl(old, new)
    both = jnp.asarray(case.current), jnp.asarray(case.target)
    found = message_log_ratios(paths.team, paths.rollouts, 1, *both)
    close(found.log_ratio, ratio)
    close(found.kl, kl, rtol=1e-9)
    most = int((kl != 0).sum(-1).max())
    packed = message_log_ratios(paths.team, paths.rollouts, 1, *both, messages=most)
    assert packed.log_ratio.shape[-1] == most
    for b, g in np.ndindex(B, G):
        sent = ratio[b, g][kl[b, g] != 0]
        close(packed.log_ratio[b, g], [*sent, *[0.0] * (most - len(sent))])
    with pytest.raises(InputError, match=f"^messages: found {most - 1}, expected at least {most}"):
        message_log_ratios(paths.team, paths.rollouts, 1, *both, messages=most - 1)


# ------------------------------------------------------------------------------------------------------------ schedules


def record(path_kl):
    return UpdateRecord(0, 0, agent=0, resampled=True, surrogate=0.0, kl=0.0, path_kl=path_kl)


def test_schedules_by_value():
    """When, how old rollouts are used, and for how many sets the budget lasts, n = 5."""
    table = [
        (fresh, "fresh", [1, 1, 1, 1, 1], 5, "rollouts", math.inf),
        (once, "once", [0, 0, 0, 0, 0], 1, "rollouts", math.inf),
        (stale_occupancy, "stale_occupancy", [0] * 5, 1, "occupancy", math.inf),
        (joint, "joint", [0] * 5, 1, "start", math.inf),
        (importance_weighted(2.5), "importance weights", [0] * 5, 1, "weights", 2.5),
        (importance_weighted(), "importance weights", [0] * 5, 1, "weights", math.inf),
        (every(1), "every 1", [1] * 5, 5, "rollouts", math.inf),
        (every(2), "every 2", [1, 0, 1, 0, 1], 3, "rollouts", math.inf),
        (every(3), "every 3", [1, 0, 0, 1, 0], 2, "rollouts", math.inf),
        (every(5), "every 5", [1, 0, 0, 0, 0], 1, "rollouts", math.inf),
        (every(9), "every 9", [1, 0, 0, 0, 0], 1, "rollouts", math.inf),
        (lag(0), "lag 0", [1] * 5, 5, "rollouts", math.inf),
        (lag(2), "lag 2", [1, 0, 0, 1, 1], 3, "rollouts", math.inf),
        (lag(7), "lag 7", [1, 0, 0, 0, 0], 1, "rollouts", math.inf),
    ]
    for schedule, name, when, draws, reuse, cut in table:
        assert [int(schedule.resample(i, [record(9.0)])) for i in range(1, 5)] == when[1:], name
        assert (schedule.name, schedule.draws(5), schedule.reuse, schedule.truncation) == (name, draws, reuse, cut)


def test_the_certified_shift():
    """`γ√(K/(2(1−γ)))`, episodic `√(K/2)`, at most 1 and at least 0."""
    close(path_shift([0.08, 0.5, 3.0, -1e-18], None), [0.2, 0.5, 1.0, 0.0])
    close(path_shift([0.08, 0.5, 9.0], 0.5), [0.5 * math.sqrt(0.08), 0.5 * math.sqrt(0.5), 1.0])
    close(path_shift([0.08, 0.8], 0.75), [0.75 * 0.4, 0.75 * math.sqrt(1.6)])
    assert float(path_shift(7.0, 0.0)) == 0.0


def test_shifts_that_add_up():
    """`Σ_k √(K_k/2)`, at most 1."""
    assert summed_shift([]) == 0.0
    assert summed_shift([0.02, 0.5]) == pytest.approx(0.1 + 0.5, rel=1e-14)
    assert summed_shift([0.5, 0.72]) == 1.0  # of .5 and .6


def test_the_certified_schedule_at_equality():
    """√(½/2) = ½: not beyond a tolerance of ½, but beyond anything less; of several records the last one counts."""
    schedule = certificate_driven(0.5, None)
    assert not schedule.resample(1, [record(9.0), record(0.5)])
    assert schedule.resample(1, [record(0.0), record(np.nextafter(0.5, 1) + 1e-12)])
    assert (schedule.name, schedule.draws(5), schedule.reuse) == ("certificate 0.5", 5, "rollouts")
    assert np.asarray(schedule.resample(1, [record(np.array([0.4, 0.5, 0.6]))])).tolist() == [False, False, True]
    discounted = certificate_driven(0.25, 0.5)  # γ√K at γ = ½
    assert np.asarray(discounted.resample(1, [record(np.array([0.25, 0.26]))])).tolist() == [False, True]
    assert not certificate_driven(0.0, 0.0).resample(1, [record(9.0)])


def test_orders_by_value():
    """Who is next of those waiting: a batch of two, three agents."""
    waiting = np.array([[True, True, True], [True, False, True]])
    gains = [[1.0, 5.0, 3.0], [1.0, 5.0, 3.0]]
    assert np.asarray(fixed([2, 0, 1])(waiting, lambda: gains, None)).tolist() == [2, 0]
    assert np.asarray(fixed([2, 0, 1])(np.array([False, True, False]), lambda: gains, None)).tolist() == 1
    assert np.asarray(reverse(3)(waiting, lambda: gains, None)).tolist() == [2, 1]
    assert np.asarray(greedy(waiting, lambda: gains, None)).tolist() == [1, 2]
    assert np.asarray(greedy(waiting, lambda: -np.array(gains), None)).tolist() == [0, 0]
    assert np.asarray(single(2)(waiting, lambda: gains, None)).tolist() == [2, 2]


def batched_backend(kl):
    """Two instances; the state counts the updates of each, rollouts show it, `kl[update]` is added to the path."""
    return Backend(
        agents=3,
        rollout=lambda state, key: {"seen": state * 1.0, "table": jnp.stack([state, state], -1) * 10.0},
        estimate=lambda state, data, agent, schedule: data,
        update=lambda state, data, agent: (
            state + 1,
            {
                "surrogate": np.asarray(data["table"][:, 1]),
                "kl": kl[int(state[0])],
                "objective_before": np.asarray(data["seen"]),
            },
        ),
        cost=4,
        batch=(2,),
    )


def test_a_batch_in_which_some_keep_their_rollouts():
    """Rollouts, their source, their number and the path KL of each instance, where only some of them resample."""
    kl = np.array([[0.5, 0.25], [0.125, 1.0], [2.0, 4.0]])
    again = {1: np.array([False, True]), 2: np.array([True, False])}
    schedule = Schedule("some", lambda i, records: again[i], lambda n: 2)
    state, records = run_stage(batched_backend(kl), jnp.zeros(2), [2, 0, 1], schedule, budget=8)
    assert np.asarray(state).tolist() == [3, 3]
    rows = [(r.agent, r.resampled, r.rollouts, r.source, r.objective_before, r.surrogate, r.path_kl) for r in records]
    expected = [
        ([2, 2], [True, True], [4, 4], [0, 0], [0, 0], [0, 0], [0.5, 0.25]),
        ([0, 0], [False, True], [0, 4], [0, 1], [0, 1], [0, 10], [0.625, 1.0]),
        ([1, 1], [True, False], [4, 0], [2, 1], [2, 1], [20, 10], [2.0, 5.0]),
    ]
    for row, wanted in zip(rows, expected, strict=True):
        assert [np.asarray(x).tolist() for x in row] == [list(x) for x in wanted]
    with pytest.raises(InputError, match="schedule some: found 8 rollouts, expected at most the budget, 7"):
        run_stage(batched_backend(kl), jnp.zeros(2), [2, 0, 1], schedule._replace(draws=lambda n: 1), budget=7)


def test_an_agent_that_moves_twice_in_one_instance():
    """The KL of two updates of one agent on the same rollouts is no sum; with new ones in between it is that of one update."""
    kl = np.array([[0.5, 0.25], [0.125, 1.0], [2.0, 4.0]])
    again = {1: np.array([False, True]), 2: np.array([False, False])}
    schedule = Schedule("some", lambda i, records: again[i], lambda n: 2)
    _, records = run_stage(batched_backend(kl), jnp.zeros(2), single(0), schedule)
    assert [r.path_kl.tolist() for r in records] == [[0.5, 0.25], [math.inf, 1.0], [math.inf, math.inf]]


def test_the_budget_is_split_by_draws():
    """`B = budget // (draws·G)`."""
    found = [
        prompts_per_set(192, s, 3, 8)
        for s in (fresh, every(2), once, certificate_driven(0.1, None), importance_weighted())
    ]
    assert found == [8, 12, 24, 8, 24]
    assert prompts_per_set(199, fresh, 3, 8) == 8
    assert prompts_per_set(24, fresh, 3, 8) == 1
    with pytest.raises(InputError, match="budget: found 23, expected at least 24 rollouts a stage"):
        prompts_per_set(23, fresh, 3, 8)


# ------------------------------------------------------------------------------------------------------ sampled backend


def test_settings_of_the_paper():
    found = Sampling(7)
    assert (found.prompts, found.group, found.advantage, found.advantage_clip, found.held_out, found.alpha, found.horizon) == (
        7, 8, "group_normalised", 5.0, 0, 0.1, None,
    )  # fmt: skip


def test_settings_at_their_ends():
    """One prompt; a lone rollout with exact advantages; all prompts but one held out. Beyond that each is refused by itself."""
    assert Sampling(1, 2).prompts == 1
    assert Sampling(1, 1, "exact").group == 1
    assert Sampling(2, held_out=1).held_out == 1
    for prompts, group, held_out in ((0, 2, 0), (4, 0, 0), (4, 2, 4), (4, 2, -1)):
        with pytest.raises(InputError):
            Sampling(prompts, group, "exact", held_out=held_out)
    with pytest.raises(InputError):
        Sampling(4, 1)


def test_what_the_driver_is_told(monkeypatch):
    """`B·G` rollouts a set; the default horizon, `0.5¹⁰ ≤ 1e-3`; an audit of reused rollouts is of the reused surrogate."""
    case = truth.team("discounted", "turn-taking", "plain", 1)
    team, current = as_stage(case).team, jnp.asarray(case.current)
    monkeypatch.setattr("teamtr_jax.sampled.audit_records", lambda team, states, records, schedule: schedule)
    for horizon, steps in ((None, 10), (7, 7)):
        backend = sampled_backend(team, kl_constrained(0.05), Sampling(B, G, horizon=horizon))
        shape = jax.eval_shape(lambda key, b=backend: b.rollout(team_state(team, current), key), jax.random.key(0))
        assert shape.rollouts.state.shape == (B, G, steps)
        assert (backend.cost, backend.agents, backend.batch, backend.certify) == (B * G, 3, (), None)
        assert [backend.audit([], [], s).reuse for s in (once, stale_occupancy, importance_weighted())] == [
            "start", "occupancy", "weights",
        ]  # fmt: skip
    pair = builders.stack([team, replace(team, dynamics=replace(team.dynamics, discount=jnp.asarray(0.25)))])
    both = sampled_backend(pair, kl_constrained(0.05), Sampling(B, G), audit=False)  # the larger discount decides
    start = team_state(pair, jnp.stack([current] * 2))
    shape = jax.eval_shape(lambda key: both.rollout(start, key), jax.random.key(0))
    assert shape.rollouts.state.shape == (2, B, G, 10)


def test_rollouts_that_do_not_fit(paths, monkeypatch):
    """Refused where the arrays that are made would not fit, not where four times as large ones would; what fits is said."""
    made = [
        *jax.tree.leaves(paths.rollouts),
        np.zeros((B, G, H, 2 if paths.case.factors is None else 4)),
    ]  # and uniform numbers
    held = sum(np.asarray(x).nbytes for x in made)
    for limit in (held // 2, held - 1):
        monkeypatch.setattr("teamtr_jax.rollouts.memory", lambda limit=limit: limit)
        with pytest.raises(
            InputError, match=rf"^prompts, group, horizon: found {B} prompts of {G} rollouts of {H} steps"
        ) as caught:
            require_memory(B, G, H, paths.team)
        most = int(re.search(r"at most (\d+) prompts", str(caught.value))[1])
        require_memory(most, G, H, paths.team)
        with pytest.raises(InputError):
            require_memory(most + 1, G, H, paths.team)
    monkeypatch.setattr("teamtr_jax.rollouts.memory", lambda: 4 * held)
    require_memory(B, G, H, paths.team)


def test_the_memory_of_a_batch_is_that_of_all_its_instances(monkeypatch):
    team = as_stage(truth.team("episodic", "turn-taking", "plain", 0)).team
    asked = []
    monkeypatch.setattr("teamtr_jax.sampled.require_memory", lambda *given: asked.append(given[:3]))
    for one in (team, builders.stack([team] * 3)):
        sampled_backend(one, kl_constrained(0.05), Sampling(B, G), audit=False)
    assert asked == [(B, G, 3), (3 * B, G, 3)]


def test_instances_of_a_batch_have_keys_of_their_own():
    """One team twice: other rollouts, each those of its own key."""
    case = truth.team("episodic", "turn-taking", "plain", 0)
    stage = as_stage(case)
    pair = builders.stack([stage, stage])
    backend = sampled_backend(pair.team, kl_constrained(0.05), Sampling(8, G), audit=False)
    found = backend.rollout(team_state(pair.team, pair.current), jax.random.key(3))
    assert found.rollouts.state.shape == (2, 8, G, 3)
    assert (found.rollouts.state[0] != found.rollouts.state[1]).any()


def sampled(advantage, form, held_out=1, **options):
    """A backend on the standard team, its start, and data written by hand: B prompts of G rollouts."""
    paths = Paths(form, "turn-taking", 0)
    setting = Sampling(
        B,
        G,
        advantage,
        held_out=held_out if form == "episodic" else 0,
        advantage_clip=0.75,
        horizon=None if form == "episodic" else H,
        **options,
    )
    backend = sampled_backend(paths.team, kl_constrained(0.05), setting, audit=False)
    start = team_state(paths.team, paths.stage.current)
    rollouts = paths.rollouts
    if form == "episodic":  # the backend plays to the end, three steps
        cut = {"state": paths.state[..., :3], "action": paths.action[..., :3]}
        rollouts = rollouts_of_paths(paths.team, paths.stage.current, *(jnp.asarray(x) for x in cut.values()))
    return paths, backend, start, SampledData(rollouts, paths.stage.current)


def errors_by_hand(paths, spread, tables):
    """docs/rounding.md: how far agent 1's advantages may be off, of returns of which each group was divided by `spread`."""
    unit, discount = 2.0**-53, paths.gamma ** np.arange(H)
    paid = paths.case.world["r"][paths.state, paths.action]
    most = (discount * abs(paid)).sum(-1).max(-1) / spread
    off, out = np.zeros(paths.case.current.shape), np.zeros(paths.case.current.shape)
    for b, _, t, s, a in paths.steps():
        off[s, a] += (1 - paths.gamma) / (B * G) * discount[t] * 2 * (G + H) * unit * most[b] / discount[t]
    for row, s in enumerate(np.flatnonzero(paths.case.active == 1)):
        if tables.weight[row] > 0:
            sums = np.asarray(tables.positive[row] + tables.negative[row])
            out[s] = (off[s] + 2 * B * G * unit * sums) / (float(tables.weight[row]) * paths.case.current[s])
    return out


@pytest.mark.parametrize("advantage", ["group_normalised", "centred", "to_go", "exact"])
def test_what_an_update_learns(advantage):
    """The four advantages on discounted rollouts, sample by sample, and the unbiased ones beside the paper's."""
    paths, backend, start, data = sampled(advantage, "discounted")
    found = backend.estimate(start, data, 1, fresh)
    R = np.asarray(data.rollouts.returns)
    go = np.array([[[paths.to_go(b, g, t) for t in range(H)] for g in range(G)] for b in range(B)])
    discount = paths.gamma ** np.arange(H)
    _, V, Q, _ = oracle.textbook(paths.case.world, paths.case.current)
    others = R - R[:, ::-1]
    normalised = np.clip((R - R.mean(-1, keepdims=True)) / np.sqrt(R.var(-1, keepdims=True) + 1e-8), -0.75, 0.75)
    used = {
        "group_normalised": normalised[..., None] / discount, "centred": others[..., None] / discount,
        "to_go": go - go[:, ::-1], "exact": (Q - V[:, None])[paths.state, paths.action],
    }[advantage]  # fmt: skip
    raw = others[..., None] / discount if advantage == "group_normalised" else used
    paths.policy = paths.case.current
    floor = np.full(5, paths.case.world["r"].min() / (1 - paths.gamma))
    rows, owned = (np.asarray(x[1]) for x in agent_rows(paths.team))
    for ours, table in ((found.used.tables, used), (found.raw, raw)):
        expected = tables_by_hand(paths, 1, table, None, go, floor, 1.0)
        for name, x, y in zip(Estimate._fields, ours, expected, strict=True):
            if y is not None:
                close(np.asarray(x)[owned], y[rows[owned]], rtol=1e-9, atol=1e-11, err_msg=name)
    if advantage in ("group_normalised", "centred"):
        spread = np.sqrt(R.var(-1) + 1e-8) if advantage == "group_normalised" else np.ones(B)
        expected = errors_by_hand(paths, spread, found.used.tables)
        close(np.asarray(found.used.tables.advantage_error)[owned], expected[rows[owned]], rtol=1e-9, atol=0)
    close(found.used.mass, 1 / (1 - paths.gamma))
    close(found.used.objective, R.mean())
    if advantage != "group_normalised":  # the rest is the same program
        return
    new, info = backend.update(start, found, 1)
    current, target = (np.asarray(x)[rows[owned]] for x in (start.policy, new.policy))
    ratio = target / current - 1
    gain = [(ratio * (np.asarray(x.positive) - np.asarray(x.negative))[owned]).sum() / (1 - paths.gamma)
            for x in (found.used.tables, found.raw)]  # fmt: skip
    close(info["surrogate"], gain[0], rtol=1e-7)
    close(info["surrogate_raw"], gain[1], rtol=1e-7)
    assert "objective_before" not in info
    assert [
        info[name] for name in ("weight_ess", "weight_p95", "weight_p99", "weight_max", "weight_above_ten")
    ] == pytest.approx([1, 1, 1, 1, 0], abs=1e-12)
    predicted = np.asarray(backend.predict(start, data))
    close(predicted[1], info["gain"] * (1 - paths.gamma), rtol=1e-7)


def test_exact_advantages_of_old_rollouts():
    """Reused as they are, those of the team that wrote them; on the old occupancy alone, those of the team as it stands."""
    paths, backend, start, data = sampled("exact", "discounted")
    moved = TeamState(jnp.asarray(paths.policy), start.memory)
    rows, owned = (np.asarray(x[1]) for x in agent_rows(paths.team))
    for schedule, policy in ((once, paths.case.current), (stale_occupancy, paths.policy)):
        _, V, Q, _ = oracle.textbook(paths.case.world, policy)
        advantage = (Q - V[:, None])[paths.state, paths.action]
        expected = tables_by_hand(paths, 1, advantage, None, np.zeros((B, G, H)), np.zeros(5), 1.0)
        found = backend.estimate(moved, data, 1, schedule).used.tables
        for name in ("weight", "advantage", "positive", "negative"):
            close(
                np.asarray(getattr(found, name))[owned],
                getattr(expected, name)[rows[owned]],
                rtol=1e-9,
                atol=1e-11,
                err_msg=name,
            )


def test_cut_weights_of_old_rollouts():
    """Weights of whole paths, cut at c for the tables, shown as they are; a fresh schedule uses none."""
    paths, backend, start, data = sampled("centred", "discounted")
    moved = TeamState(jnp.asarray(paths.policy), start.memory)
    weight = np.asarray(path_weight(paths.team, data.rollouts, moved.policy))
    cut = float(np.sort(weight.ravel())[2])
    found = backend.estimate(moved, data, 1, importance_weighted(cut))
    R = np.asarray(data.rollouts.returns)
    go = np.array([[[paths.to_go(b, g, t) for t in range(H)] for g in range(G)] for b in range(B)])
    advantage = (R - R[:, ::-1])[..., None] / paths.gamma ** np.arange(H)
    floor = np.full(5, paths.case.world["r"].min() / (1 - paths.gamma))
    rows, owned = (np.asarray(x[1]) for x in agent_rows(paths.team))
    for schedule, weights in ((importance_weighted(cut), np.minimum(weight, cut)), (once, None)):
        found = backend.estimate(moved, data, 1, schedule)
        expected = tables_by_hand(paths, 1, advantage, weights, go, floor, 1.0)
        for name, x, y in zip(Estimate._fields, found.used.tables, expected, strict=True):
            if y is not None:
                close(np.asarray(x)[owned], y[rows[owned]], rtol=1e-9, atol=1e-11, err_msg=name)
        w = weight.ravel()
        close(found.weights, [w.sum() ** 2 / (6 * (w**2).sum()), *np.percentile(w, [95, 99]), w.max(), (w > 10).mean()])


def test_the_limit_of_held_out_rollouts():
    """S8 on the last prompts, rewards from 2 to 5 scaled by the least return and the range, and scaled back; agent 1.

    −∞ where the rollouts were written by another team; nothing to gain where all returns are equal.
    """
    paths, backend, start, data = sampled("centred", "episodic", held_out=2, alpha=0.3)
    after = TeamState(jnp.asarray(paths.case.target), start.memory)
    low, high = oracle.bounds_to_go(paths.case.world)
    begin = paths.case.world["rho"] > 0
    floor, span = low[begin].min(), high[begin].max() - low[begin].min()
    ratio = np.zeros((B, G, 3))
    for b, g, t in np.ndindex(B, G, 3):
        s, a = np.asarray(data.rollouts.state)[b, g, t], np.asarray(data.rollouts.action)[b, g, t]
        if s >= 0 and paths.case.active[s] == 1:
            ratio[b, g, t] = math.log(paths.case.target[s, a] / paths.case.current[s, a])
    reward = np.clip((np.asarray(data.rollouts.returns) - floor) / span, 0, 1)
    sample = fs.path_sample(reward[1:], ratio[1:], 0.0)
    found = backend.certify(start, after, data, 1)["certificate_finite_sample"]
    assert found == pytest.approx(span * max(float(fs.betting_bound(sample, 0.3)), -1.0), rel=1e-9)
    assert found > -span
    assert backend.certify(after, start, data, 1)["certificate_finite_sample"] == -math.inf
    flat = sampled_backend(
        paths.team.__class__(
            paths.team.dynamics, jnp.zeros_like(paths.team.reward), paths.team.initial, paths.team.active, 3
        ),
        kl_constrained(0.05),
        Sampling(B, G, "centred", held_out=2),
        audit=False,
    )
    assert flat.certify(start, after, data, 1)["certificate_finite_sample"] == 0.0


def test_the_limits_of_a_batch():
    """Each instance by its own agent, rollouts and tables; −∞ for the one that kept older rollouts."""
    paths, backend, start, data = sampled("centred", "episodic", held_out=2)
    after = TeamState(jnp.asarray(paths.case.target), start.memory)
    pair = builders.stack([paths.team] * 2)
    both = sampled_backend(pair, kl_constrained(0.05), Sampling(B, G, "centred", held_out=2), audit=False)
    moved, batch = builders.stack([start, after]), builders.stack([data, data])
    found = both.certify(moved, builders.stack([after, after]), batch, np.array([1, 0]))["certificate_finite_sample"]
    one = backend.certify(start, after, data, 1)["certificate_finite_sample"]
    assert found.tolist() == [one, -math.inf]


@pytest.mark.parametrize("protocol", ["turn-taking", "product"])
def test_rollouts_that_fit_into_memory(monkeypatch, protocol):
    """Eight bytes for each number of a step and each drawn one, that of every agent: where they do not fit, they are refused."""
    team = truth.team("episodic", protocol, "plain", 0)
    team, agents = as_stage(team).team, 1 if protocol == "turn-taking" else 3
    numbers = (
        100 * 8 * 5 * (6 + agents + 1 + agents)
    )  # `Rollouts` but for the returns; actions and the next state are drawn
    monkeypatch.setattr("teamtr_jax.rollouts.memory", lambda: 8 * numbers - 1)
    with pytest.raises(
        InputError, match=r"^prompts, group, horizon: found 100 prompts of 8 rollouts of 5 steps, \d+ kB, expected"
    ):
        require_memory(100, 8, 5, team)
    monkeypatch.setattr("teamtr_jax.rollouts.memory", lambda: 12 * numbers)
    require_memory(100, 8, 5, team)


def test_fields_of_rollouts():
    """The order in which a record of rollouts is read, and in which its weights are described."""
    assert dict(zip(WeightDiagnostics._fields, WEIGHTS, strict=True)) == {
        "ess_share": "weight_ess", "p95": "weight_p95", "p99": "weight_p99", "largest": "weight_max",
        "above_ten": "weight_above_ten",
    }  # fmt: skip
    assert Rollouts._fields == ("state", "action", "agent", "alive", "weight", "logp", "reward", "returns")
