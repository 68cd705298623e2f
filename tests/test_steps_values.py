"""What the steps report and where they stay, by values worked out apart: rounding noise, β, certificates, settings."""

import functools
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from teamtr_jax.bounds import penalty_log_sum
from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.llm import update as llm_update
from teamtr_jax.rollouts import (
    broadcast_advantage,
    centred_advantage,
    estimate_tables,
    group_scale,
    return_error,
    rollouts_of_paths,
)
from teamtr_jax.sampled import Sampling, _sampled_programs
from teamtr_jax.schedules import fresh, importance_weighted, stale_occupancy
from teamtr_jax.tabular import agent_rows, exact_backend, team_state
from teamtr_jax.trust_region import (
    align_to_ball,
    certificate_optimal,
    certificate_optimal_radius,
    certified_step,
    clipped,
    kl_constrained,
    kl_constrained_step,
    natural_gradient,
    ppo_clip,
    value_weighted,
    value_weighted_step,
)
from teamtr_jax.trust_region.adaptive import adapted
from teamtr_jax.types import Estimate, Team
from teamtr_jax.validation import InputError, unchecked
from teamtr_jax.values import advantage_error, advantages, evaluate_policy

R, A, RADIUS = 3, 3, 0.02
CASES = 24
U = 2.0**-53
zero = jnp.asarray(0.0)

STEPS = {
    "current_to_new": kl_constrained(RADIUS),
    "current_to_new_per_state": kl_constrained(RADIUS, per_state=True),
    "new_to_current": kl_constrained(RADIUS, "new_to_current"),
    "new_to_current_per_state": kl_constrained(RADIUS, "new_to_current", per_state=True),
    "natural": natural_gradient(RADIUS),
    "ppo": ppo_clip(np.inf, epochs=6, learning_rate=0.1, target=RADIUS),
    "certificate": certificate_optimal(1e-12),
    "value": value_weighted(),
}


@functools.cache
def every_step():
    """All steps on a batch of estimates of one shape, in one program."""

    def run(pi, estimate):
        return {name: step(pi, estimate, zero) for name, step in STEPS.items()}

    return jax.jit(jax.vmap(run))


def batched(cases):
    """The steps of a list of `(table, estimate)`; tables and books with a leading axis of cases. One program for all lists."""
    filled = [*cases, *[cases[-1]] * (CASES - len(cases))]
    tables = jnp.stack([jnp.asarray(pi) for pi, _ in filled])
    estimates = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *[facts for _, facts in filled])
    return jax.tree.map(lambda x: np.asarray(x)[: len(cases)], every_step()(tables, estimates))


# ------------------------------------------------------------------------------------------------------ nothing to gain

rng = np.random.default_rng(7)
S = 2 * R
DENSE = rng.dirichlet(np.ones(S), (S, A))
POLICY = rng.dirichlet(np.ones(A), S)
ROUNDED = DENSE.round(10)  # rows that sum to one within 1e-9
PROMPTS = np.array([0.1, 0.35, 0.7])
OWNERS = jnp.arange(S) // R
STAY = np.broadcast_to(np.eye(R)[:, None], (R, A, R))


def discounted(reward, gamma=0.9, P=DENSE):
    return Team(Dense(jnp.asarray(P), jnp.asarray(gamma)), jnp.asarray(reward), jnp.full(S, 1 / S), OWNERS, agents=2)


def prompted(reward, P=STAY):
    """Two layers of R prompts; each agent has one layer."""
    start = jnp.asarray(np.r_[np.full(R, 1 / R), np.zeros(R)])
    return Team(Layered(Dense(jnp.asarray(P), None), 2, stationary=True), jnp.asarray(reward), start, OWNERS, agents=2)


def product(reward, gamma=0.9):
    """Two agents of A actions each on R states."""
    P = np.random.default_rng(3).dirichlet(np.ones(R), (R, A * A))
    start = jnp.full(R, 1 / R)
    return Team(Dense(jnp.asarray(P), jnp.asarray(gamma)), jnp.asarray(reward), start, None, agents=2, factors=(A, A))


def exact(team, policy=POLICY, agent=0, schedule=fresh):
    """Table and estimate of an agent as the exact backend hands them to its step."""
    backend = exact_backend(team, STEPS["natural"], audit=False)
    state = team_state(team, jnp.asarray(policy))
    found = backend.estimate(state, backend.rollout(state, None), agent, schedule)
    return (policy[agent] if team.factors else policy[agent * R : (agent + 1) * R]), found.tables


def sampled(reward, advantage, schedule=fresh, policy=None):
    policy = np.full((S, A), 1 / A) if policy is None else policy
    programs, state = (
        _sampled_programs(False, Sampling(16, 3, advantage), 2),
        team_state(prompted(reward), jnp.asarray(policy)),
    )
    data = _sampled_programs(False, Sampling(16, 3, "centred"), 2).rollout(
        prompted(reward), state.policy, jax.random.key(1)
    )
    rows, owned = agent_rows(prompted(reward))
    options = {"reuse": schedule.reuse, "cut": schedule.truncation}
    found = programs.estimate(prompted(reward), state.policy, data, jnp.asarray(0), rows, owned, **options)
    return policy[:R], found.used.tables


def shaped(gamma, size=1.0):
    """Rewards of which every action is worth the same: `r = V − γPV`."""
    v = size * np.random.default_rng(5).normal(size=S)
    return v[:, None] - gamma * DENSE @ v


def pay(reward):
    """The prompt decides the reward at the end, whatever is done."""
    return np.r_[np.zeros((R, A)), np.broadcast_to(np.asarray(reward)[:, None], (R, A))]


MIXED = rng.dirichlet(np.ones(R), (R, A))  # another prompt may follow: equal rewards, different rows
CYCLE = 0.1 * (np.add.outer(np.arange(A), np.arange(A)) % A).reshape(
    -1
)  # in a product team, every row and column a permutation
UNIFORM = np.full((2, R, A), 1 / A)

NOTHING = {
    "equal": lambda: exact(discounted(np.full((S, A), 0.35), 0.99)),
    "equal, hardly discounted": lambda: exact(discounted(np.full((S, A), 0.1), 0.999)),
    "equal, with a large offset": lambda: exact(discounted(np.full((S, A), 1e6 + 0.1))),
    "equal, tiny": lambda: exact(discounted(np.full((S, A), 3.5e-13), 0.99)),
    "rows that nearly sum to one": lambda: exact(discounted(np.full((S, A), 0.7), 0.99, ROUNDED)),
    "policies that nearly sum to one": lambda: exact(discounted(shaped(0.9)), POLICY.round(10)),
    "shaped": lambda: exact(discounted(shaped(0.99), 0.99)),
    "shaped, another agent's": lambda: exact(discounted(shaped(0.9, 1e6)), agent=1),
    "episodic": lambda: exact(prompted(np.full((S, A), 0.7), MIXED)),
    "episodic, by prompt": lambda: exact(prompted(pay(PROMPTS)), agent=1),
    "product, equal": lambda: exact(product(np.full((R, A * A), 0.35)), rng.dirichlet(np.ones(A), (2, R))),
    "product, equal on average": lambda: exact(product(np.broadcast_to(CYCLE, (R, A * A)), 0.0), UNIFORM, agent=1),
    "weights of states": lambda: exact(discounted(np.full((S, A), 0.35), 0.99), schedule=importance_weighted()),
    "stale occupancy": lambda: exact(discounted(np.full((S, A), 0.35), 0.99), schedule=stale_occupancy),
    **{
        f"sampled, {kind}": lambda kind=kind: sampled(pay(PROMPTS), kind)
        for kind in ("centred", "group_normalised", "to_go", "exact")
    },
    "sampled, large": lambda: sampled(pay(1e6 + PROMPTS), "group_normalised"),
    "sampled, path weights": lambda: sampled(pay(PROMPTS), "group_normalised", importance_weighted()),
    "sampled, skewed": lambda: sampled(pay(PROMPTS), "to_go", policy=POLICY),
}


@functools.cache
def nothing():
    cases = [make() for make in NOTHING.values()]
    return cases, batched(cases)


@pytest.mark.parametrize("name", STEPS)
def test_with_nothing_to_gain_nothing_moves(name):
    """Bit for bit, nothing of the radius, a gain of 0; β relaxes. The noise that is left is there in most of the cases."""
    cases, found = nothing()
    new, info = found[name]
    for k, case in enumerate(NOTHING):
        np.testing.assert_array_equal(new[k], cases[k][0], err_msg=case)
        books = {field: float(getattr(info, field)[k]) for field in ("kl", "kl_new_to_current", "gain", "objective")}
        assert books == dict.fromkeys(books, 0.0), case
    expected = {"certificate": 1e-12, "ppo": 1.0}.get(name, 0.0)
    np.testing.assert_array_equal(info.multiplier, expected)
    np.testing.assert_array_equal(info.memory, 0.5 if name == "ppo" else 0.0)
    noisy = sum(np.ptp(np.asarray(facts.advantage), axis=-1).max() > 0 for _, facts in cases)
    assert noisy > len(cases) // 2


REWARD = np.random.default_rng(11).uniform(size=(S, A))

SOMETHING = {
    "a billionth": lambda: exact(discounted(0.35 + 1e-9 * REWARD, 0.99)),
    "tiny": lambda: exact(discounted(1e-12 * REWARD)),
    "with a large offset": lambda: exact(discounted(1e6 + 0.1 * REWARD)),
    "episodic, a billionth": lambda: exact(prompted(0.35 + 1e-9 * REWARD)),
    "episodic, tiny": lambda: exact(prompted(1e-12 * REWARD), agent=1),
    "product": lambda: exact(product(1e-12 * REWARD.reshape(-1)[: A * A] * np.ones((R, 1))), UNIFORM),
    "sampled": lambda: sampled(0.35 + 1e-9 * REWARD, "centred"),
    "sampled, tiny": lambda: sampled(1e-12 * REWARD, "to_go"),
    "sampled, group-normalised": lambda: sampled(0.35 + 1e-4 * REWARD, "group_normalised"),
}


@functools.cache
def something():
    cases = [make() for make in SOMETHING.values()]
    return cases, batched(cases)


@pytest.mark.parametrize("name", STEPS)
def test_a_small_gain_is_taken(name):
    """A billionth of the rewards, or rewards of 1e-12: the same step as after scaling up, and every row moves."""
    cases, found = something()
    new, info = found[name]
    moved = abs(new - np.stack([pi for pi, _ in cases])).max(-1)
    assert name == "ppo" or (info.gain > 0).all()  # Adam may overshoot what the penalty allows
    if name in (
        "ppo",
        "certificate",
        "value",
    ):  # their steps have the size of the advantages, or Adam's, whose ε is 1e-8
        assert (moved.max(-1) > 0).all()
        return
    assert (moved > 1e-3).all()
    spent = info.kl_new_to_current if name.startswith("new") else info.kl
    if name.endswith("state"):
        assert (spent > 0).all()
    elif name == "natural":
        assert ((spent > 0.5 * RADIUS) & (spent <= RADIUS)).all()
    else:
        np.testing.assert_allclose(spent, RADIUS, rtol=1e-9)
    scaled = batched([(pi, scale(facts, 1e12)) for pi, facts in cases])[name][0]
    np.testing.assert_allclose(scaled, new, rtol=1e-9)


def scale(facts, by):
    """The same estimate in other units of the reward."""
    return Estimate(facts.weight, *(None if x is None else by * x for x in facts[1:]))


def test_rows_of_noise_take_nothing_of_the_radius():
    """One row with noise beside rows with gains: it stays, and the others move as if it had no weight."""
    reward = pay(PROMPTS)
    reward[R + 1 :] += REWARD[R + 1 :]
    pi, facts = exact(prompted(reward), agent=1)
    noise = np.asarray(facts.advantage).copy()
    noise[0] = [0.0, 3e-17, -2e-17]
    value = np.asarray(facts.value).copy()
    value[0] = 0.35 + np.array([0.0, 5.6e-17, 0.0])
    facts = facts._replace(advantage=jnp.asarray(noise), value=jnp.asarray(value))
    alone = facts._replace(weight=facts.weight.at[0].set(0.0))
    found = batched([(pi, facts), (pi, alone)])
    for name, (new, info) in found.items():
        np.testing.assert_array_equal(new[0, 0], pi[0], err_msg=name)
        if name != "ppo":  # its gradient knows `positive` and `negative`, which are sums over the rows
            np.testing.assert_array_equal(new[0], new[1], err_msg=name)
            np.testing.assert_allclose(info.multiplier[0], info.multiplier[1], rtol=1e-12)
        assert abs(new[0, 1:] - pi[1:]).max() > 0


def test_a_batch_of_which_one_team_has_something_to_gain():
    teams = [discounted(0.35 * np.ones((S, A))), discounted(REWARD)]
    team = jax.tree.map(lambda *x: jnp.stack(x), *teams)
    policy = jnp.asarray(np.stack([POLICY, POLICY]))
    backend = exact_backend(team, kl_constrained(RADIUS), audit=False)
    state = team_state(team, policy)
    facts = backend.estimate(state, backend.rollout(state, None), np.array([0, 0]), fresh)
    after, info = backend.update(state, facts, np.array([0, 0]))
    np.testing.assert_array_equal(after.policy[0], POLICY)
    np.testing.assert_allclose(info["kl"], [0.0, RADIUS], rtol=1e-9)
    assert info["surrogate"][0] == 0 < info["surrogate"][1]


def test_the_budget_decides():
    """Ties up to `e(s,a) + e(s,b)`, b the best action; tables without an error are off by eight units of their largest entry."""
    pi, w = np.full((R, A), 1 / A), np.full(R, 1 / R)
    error = np.array([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0], [8.0, 8.0, 8.0]])
    adv = np.array([[0.0, -2.9, -4.9], [0.0, -2.1, -1.9], [16.0, 0.0, 0.1]])
    run = jax.jit(functools.partial(kl_constrained_step, per_state=True))
    new = np.asarray(run(pi, adv, w, jnp.asarray(0.1), error=jnp.asarray(error))[0])
    np.testing.assert_array_equal(new[[0, 2]], pi[[0, 2]])
    low, high = float(new[1, 1]), float(new[1, 0])
    assert low < 1 / A < high == float(new[1, 2])  # the third is a tie with the first: 1.9 ≤ 2
    np.testing.assert_allclose(np.log(pi[1] / np.asarray(new[1])).sum() / A, 0.1, rtol=1e-12)
    size = 8 * U
    for factor, stays in ((1.99, True), (2.01, False)):
        close = np.tile([1.0, 1.0 - 0.5 * factor * size, 1.0 - factor * size], (R, 1))
        close = 1.0 - np.round((1.0 - close) / U) * U  # exactly representable
        stays = (1.0 - close).max() <= 2 * size
        new, _ = run(pi, close, w, jnp.asarray(0.1), error=None)
        assert bool((np.asarray(new) == pi).all()) == stays, factor
        q = value_weighted_step(jnp.asarray(pi), jnp.asarray(close))
        assert bool((np.asarray(q) == pi).all()) == stays
    facts = Estimate(*map(jnp.asarray, (w, 1e-16 * adv, 0 * adv, 0 * adv, 0 * adv + 16.0)))
    moved = batched([(pi, facts), (pi, facts._replace(value=1e-16 * facts.value))])["natural"][0]
    np.testing.assert_array_equal(moved[0], pi)  # beside values of 16
    moved = moved[1]
    assert abs(np.asarray(moved) - pi).min() > 0


def error_of(team, policy):
    resolvent, v, _ = evaluate_policy(team, policy)
    return advantage_error(team, policy, resolvent, v)


def test_the_budget_of_exact_tables_by_its_formula():
    """docs/rounding.md with NumPy's inverse; and the error of V that it stands for is within it."""
    gamma, P = 0.9, ROUNDED
    team = discounted(REWARD, gamma, P)
    policy = POLICY.round(10)
    found = np.asarray(jax.jit(error_of)(team, jnp.asarray(policy)))
    inverse = np.linalg.inv(np.eye(S) - gamma * np.einsum("sa,sat->st", policy, P))
    v = inverse @ (policy * REWARD).sum(-1)
    ahead = gamma * P @ abs(v)
    local = (4 + np.sqrt(S + A)) * U * (REWARD + ahead + abs(v)[:, None]) + abs(P.sum(-1) - 1) * ahead
    solved = inverse @ ((policy * local).sum(-1) + abs(policy.sum(-1) - 1) * abs(v))
    np.testing.assert_allclose(found, local + gamma * P @ solved, rtol=1e-5)
    true = P / P.sum(-1, keepdims=True)
    pi = policy / policy.sum(-1, keepdims=True)
    better = np.linalg.solve(np.eye(S) - gamma * np.einsum("sa,sat->st", pi, true), (pi * REWARD).sum(-1))
    off = gamma * (P @ v - true @ better)
    assert (np.ptp(off, axis=-1) <= 2 * found.max(-1)).all()
    assert abs(off).max() > 1e-11


def test_the_budget_of_samples_by_its_formula():
    """`2(G+H)u·M/γᵗ` of each return, what the group's spread divides it by, and the sums of the estimate."""
    team = discounted(REWARD - 0.5, 0.5)
    state = jnp.asarray([[[0, 3, 1], [0, 4, 4]], [[2, 0, 0], [2, 2, 5]]])
    action = jnp.asarray([[[0, 1, 2], [1, 1, 0]], [[2, 0, 1], [1, 0, 2]]])
    paths = rollouts_of_paths(team, jnp.asarray(POLICY), state, action)
    in_one = jax.jit(
        lambda paths: (return_error(paths), group_scale(paths.returns), return_error(paths, 1 / group_scale(paths.returns)),
                       broadcast_advantage(paths, centred_advantage(paths.returns)))
    )  # fmt: skip
    error_of_returns, scale_of_groups, error_scaled, used = in_one(paths)
    r = (REWARD - 0.5)[np.asarray(state), np.asarray(action)]
    discount = 0.5 ** np.arange(3)
    most = (discount * abs(r)).sum(-1).max(-1)
    expected = 2 * (2 + 3) * U * most[:, None, None] / discount * np.ones((2, 2, 1))
    np.testing.assert_allclose(error_of_returns, expected, rtol=1e-13)
    returns = (discount * r).sum(-1)
    spread = np.sqrt(returns.var(-1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(scale_of_groups, spread, rtol=1e-12)
    np.testing.assert_allclose(error_scaled, expected / spread[..., None], rtol=1e-12)
    rows, owned = jnp.arange(R), jnp.ones(R, bool)
    estimate = jax.jit(
        lambda paths, used, error: tuple(
            estimate_tables(team, jnp.asarray(POLICY), paths, 0, used, rows, owned, **more)
            for more in ({}, {"error": error})
        )
    )
    facts, given = estimate(paths, used, 3 * error_of_returns)
    weight, off, sums = np.zeros(R), np.zeros((R, A)), np.zeros((R, A))
    for b, g, t in np.ndindex(2, 2, 3):
        s, a = int(state[b, g, t]), int(action[b, g, t])
        if s < R:
            weight[s] += 0.5 * discount[t] / 4
            off[s, a] += 0.5 * discount[t] * expected[b, g, t] / 4
            sums[s, a] += 0.5 * discount[t] * abs(float(used[b, g, t])) / 4
    with np.errstate(invalid="ignore"):
        error = np.nan_to_num((off + 2 * 4 * U * sums) / (weight[:, None] * POLICY[:R]))
    np.testing.assert_allclose(facts.advantage_error, error, rtol=1e-12)
    floor = (REWARD - 0.5).min() / 0.5
    largest = abs(r).max() * discount.sum() + abs(floor)
    of_value = np.where(weight[:, None] > 0, 8 * U * np.asarray(facts.value) + 6 * U * largest, 0.0)
    np.testing.assert_allclose(facts.value_error, of_value, rtol=1e-12)
    tripled = np.nan_to_num((3 * off + 8 * U * sums) / np.where(weight > 0, weight, 1)[:, None] / POLICY[:R])
    np.testing.assert_allclose(given.advantage_error, tripled, rtol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------- β


@pytest.mark.parametrize(
    ("reached", "steps", "factor"),
    [
        (0.0, 1, 0.5), (0.0, 9, 0.5), (0.0066, 4, 0.5), (0.0067, 4, 1.0), (0.01, 4, 1.0), (0.0149, 2, 1.0), (0.0151, 2, 2.0),
        (0.0151, 1, 1.0), (np.inf, 2, 2.0), (np.inf, 1, 1.0), (np.nan, 2, 2.0), (np.nan, 1, 1.0), (0.0066, 1, 0.5),
    ],
)  # fmt: skip
def test_the_rule_of_beta(reached, steps, factor):
    """Halved below the target over 1.5, doubled above 1.5 targets where more than one step led there."""
    assert float(adapted(3.0, reached, 0.01, steps, 3.0)) == 3.0 * factor


def test_beta_rests_at_both_ends_of_its_band():
    """Doubled above 1.5 targets and halved below the target over 1.5: at these numbers it stays."""
    for reached, target, beyond in ((1.5, 1.0, 2.0), (1.0, 1.5, 0.5)):
        away = np.nextafter(reached, reached * beyond)
        assert [float(adapted(3.0, x, target, 4, 3.0)) for x in (reached, away)] == [3.0, 3.0 * beyond]


def test_beta_stays_within_twenty_doublings():
    up = down = 0.25
    for _ in range(30):
        up, down = float(adapted(up, 1.0, 0.01, 5, 0.25)), float(adapted(down, 0.0, 0.01, 5, 0.25))
    assert (up, down) == (0.25 * 2.0**20, 0.25 / 2.0**20)


def test_tables_and_networks_have_one_rule():
    assert llm_update.adapted is clipped.adapted is adapted


@pytest.mark.parametrize(
    ("radius", "target", "rate", "epochs", "memories"),
    [
        (0.001, None, 0.05, 40, [1.0, 1.0, 1.0]),  # every first epoch leaves the region and is undone
        (0.005, 0.001, 0.05, 40, [2.0, 4.0, 8.0]),  # pressed against the radius
        (np.inf, 0.5, 0.05, 2, [0.5, 0.25, 0.125]),
    ],
)
def test_the_sequence_of_betas_of_tables(radius, target, rate, epochs, memories):
    pi = np.full((1, 2), 0.5)
    facts = two_actions()
    rule = jax.jit(ppo_clip(radius, target=target, learning_rate=rate, epochs=epochs))
    memory, found = zero, []
    for before in [1.0, *memories[:-1]]:
        new, info = rule(pi, facts, memory)
        assert float(info.multiplier) == before
        memory = info.memory
        found.append(float(memory))
        assert (radius == 0.001) == bool((np.asarray(new) == pi).all())
        assert float(info.kl) <= radius
    assert found == memories


def two_actions(size=1.0):
    """One row of two actions that are ±size better."""
    half = jnp.asarray([[0.5 * size, 0.0]])
    return Estimate(jnp.ones(1), jnp.asarray([[size, -size]]), half, half[:, ::-1], jnp.asarray([[2.0 * size, 0.0]]))


def test_a_step_that_leaves_the_region_is_halved_so_many_times():
    """Adam's first step is its rate on every logit: `π' = σ(2r·2⁻ᵏ)` after k halvings, whose KL is `log cosh(r·2⁻ᵏ)`."""
    pi, facts, rate = np.full((1, 2), 0.5), two_actions(), 0.8
    fits = 1.5 * math.log(math.cosh(rate / 4))  # two halvings
    for backtracks, halved in ((1, None), (2, 2)):
        new, info = jax.jit(ppo_clip(fits, learning_rate=rate, backtracks=backtracks))(pi, facts, zero)
        expected = 0.5 if halved is None else 1 / (1 + math.exp(-2 * rate / 2**halved))
        np.testing.assert_allclose(new, [[expected, 1 - expected]], rtol=1e-6)
        assert float(info.kl) == pytest.approx(0.0 if halved is None else math.log(math.cosh(rate / 4)), rel=1e-6)


# ------------------------------------------------------------------------------------------------------- certified steps


def other_team():
    """A discounted team of three agents on six states, with NumPy tables."""
    draw = np.random.default_rng(2)
    P, r, pi = draw.dirichlet(np.ones(S), (S, A)), draw.uniform(-1, 2, size=(S, A)), draw.dirichlet(np.ones(A), S)
    start, owner = draw.dirichlet(np.ones(S)), np.array([0, 1, 2, 2, 1, 0])
    team = Team(
        Dense(jnp.asarray(P), jnp.asarray(0.8)), jnp.asarray(r), jnp.asarray(start), jnp.asarray(owner), agents=3
    )
    return team, jnp.asarray(pi), (P, r, pi, start, owner, 0.8)


def by_numpy(P, r, pi, start, gamma):
    inverse = np.linalg.inv(np.eye(len(P)) - gamma * np.einsum("sa,sat->st", pi, P))
    v = inverse @ (pi * r).sum(-1)
    return start @ v, start @ inverse, r + gamma * P @ v - v[:, None]


def constrained_by_scipy(pi, adv, weight, delta):
    """`π' = λπ/(ν−A)` with both roots by bisection; and λ."""

    def rows(price):
        new = []
        for p, a in zip(pi, adv, strict=True):

            def total(nu, p=p, a=a):
                return (price * p / (nu - a)).sum() - 1

            low, high = a.max() + price * p[a.argmax()] * (1 - 1e-15), a.max() + price
            new.append(price * p / (brentq(total, low, high, xtol=1e-16, rtol=1e-15) - a))
        return np.array(new)

    def spent(log_price):
        new = rows(np.exp(log_price))
        return (weight * (pi * np.log(pi / new)).sum(-1)).sum() - delta

    price = np.exp(brentq(spent, -12, 12, xtol=1e-14))
    return rows(price), price


@pytest.mark.parametrize("agent", [0, 1, 2])
def test_a_certified_step_of_every_agent(agent):
    """Each field from NumPy's inverse and bisection: the certificate is `L − span(r)δ/(1−γ)²`, and no other agent moves."""
    team, policy, (P, r, pi, start, owner, gamma) = other_team()
    objective, m, adv = by_numpy(P, r, pi, start, gamma)
    mine, weight = owner == agent, m / m.sum()
    for delta in (1e-3, 0.05):
        step = certified_step(team, policy, jnp.asarray(agent), jnp.asarray(delta))
        rows, price = constrained_by_scipy(pi[mine], adv[mine], weight[mine], delta)
        target = pi.copy()
        target[mine] = rows
        np.testing.assert_allclose(step.target, target, rtol=1e-7)
        np.testing.assert_array_equal(np.asarray(step.target)[~mine], pi[~mine])
        surrogate = (m[:, None] * (target - pi) * adv).sum()
        certificate = surrogate - np.ptp(r) * delta / (1 - gamma) ** 2
        after = by_numpy(P, r, target, start, gamma)[0]
        assert float(step.radius) == delta
        np.testing.assert_allclose(step.multiplier, price, rtol=1e-6)
        np.testing.assert_allclose(step.certificate, certificate, rtol=1e-7)
        np.testing.assert_allclose(step.improvement, after - objective, rtol=1e-7)
        np.testing.assert_allclose(step.report.kl, [delta], rtol=1e-9)
        np.testing.assert_allclose(step.report.surrogate_intermediate, [surrogate], rtol=1e-7)


@pytest.mark.parametrize("agent", [0, 1])
def test_a_certified_step_of_a_product_team(agent):
    """The factor of the agent that moves, its advantage averaged over the other's actions, and the certificate."""
    draw = np.random.default_rng(4)
    r, both = draw.uniform(size=(R, A * A)), draw.dirichlet(np.ones(A), (2, R))
    team = product(r, 0.7)
    P = np.asarray(team.dynamics.transition)

    def joint(x):
        return np.einsum("sa,sb->sab", *x).reshape(R, -1)

    objective, m, adv = by_numpy(P, r, joint(both), np.full(R, 1 / R), 0.7)
    own = np.einsum("sab,sb->sa" if agent == 0 else "sab,sa->sb", adv.reshape(R, A, A), both[1 - agent])
    rows, price = constrained_by_scipy(both[agent], own, m / m.sum(), 0.02)
    step = certified_step(team, jnp.asarray(both), jnp.asarray(agent), jnp.asarray(0.02))
    target = both.copy()
    target[agent] = rows
    np.testing.assert_allclose(step.target, target, rtol=1e-7)
    np.testing.assert_allclose(step.multiplier, price, rtol=1e-6)
    after = by_numpy(P, r, joint(target), np.full(R, 1 / R), 0.7)[0]
    np.testing.assert_allclose(step.improvement, after - objective, rtol=1e-6)
    surrogate = (m[:, None] * (joint(target) - joint(both)) * adv).sum()
    np.testing.assert_allclose(step.certificate, surrogate - np.ptp(r) * 0.02 / 0.3**2, rtol=1e-6)


def test_a_certified_step_of_an_episode():
    """Episodic: δ is summed over the episode, `ϱ` the range of its return, and the second agent's rows are those that move."""
    team = prompted(REWARD * np.arange(1, S + 1)[:, None])
    r = np.asarray(team.reward)
    step = certified_step(team, jnp.asarray(POLICY), jnp.asarray(1), jnp.asarray(0.05))
    weight, mine = np.full(R, 1 / R), slice(R, S)
    rows, price = constrained_by_scipy(POLICY[mine], r[mine], weight, 0.05)
    np.testing.assert_allclose(step.target, np.r_[POLICY[:R], rows], rtol=1e-7)
    surrogate = (weight[:, None] * (rows - POLICY[mine]) * r[mine]).sum()
    returns = r[:R].max(-1) + r[mine].max(-1), r[:R].min(-1) + r[mine].min(-1)
    np.testing.assert_allclose(step.improvement, surrogate, rtol=1e-7)  # the last to act: nothing changes after it
    np.testing.assert_allclose(step.certificate, surrogate - 0.05 * (returns[0].max() - returns[1].min()), rtol=1e-7)
    np.testing.assert_allclose(step.multiplier, price, rtol=1e-6)


@pytest.mark.parametrize("agent", [1, 2])
def test_the_best_radius_of_other_agents(agent):
    """Against a search of scipy's over NumPy's certificates; the bracket is kept to."""
    team, policy, (P, r, pi, start, owner, gamma) = other_team()
    _, m, adv = by_numpy(P, r, pi, start, gamma)
    mine, weight = owner == agent, m / m.sum()

    def certificate(log_radius):
        delta = np.exp(log_radius)
        rows, _ = constrained_by_scipy(pi[mine], adv[mine], weight[mine], delta)
        return (m[mine, None] * (rows - pi[mine]) * adv[mine]).sum() - np.ptp(r) * delta / (1 - gamma) ** 2

    best = minimize_scalar(lambda x: -certificate(x), bounds=(-12, 0), method="bounded", options={"xatol": 1e-7})
    found = certificate_optimal_radius(team, policy, agent)
    np.testing.assert_allclose(found.certificate, -best.fun, rtol=1e-7)
    np.testing.assert_allclose(found.radius, np.exp(best.x), rtol=1e-3)
    np.testing.assert_allclose(found.multiplier, np.ptp(r) / (1 - gamma), rtol=1e-3)
    low, high = np.exp(best.x) / 9, np.exp(best.x) / 3
    inside = certificate_optimal_radius(team, policy, agent, penalty_log_sum, (low, high))
    np.testing.assert_allclose(inside.radius, high, rtol=1e-9)
    inside = certificate_optimal_radius(team, policy, agent, penalty_log_sum, (9 * high, 81 * high))
    np.testing.assert_allclose(inside.radius, 9 * high, rtol=1e-9)


@pytest.mark.parametrize("form", ["turn-taking", "product"])
def test_a_certified_step_does_not_follow_rounding(form):
    """`r = V − γPV` for a random V of size 10: every advantage is 0, and what is left of it noise that is no tie of its own.

    An advantage alone does not say so (eight units of its own largest entry are far less): the error of the values does.
    """
    draw = np.random.default_rng(5)
    if form == "turn-taking":
        team, policy, (P, _, pi, _, _, gamma) = other_team()
    else:
        pi, gamma = draw.dirichlet(np.ones(A), (2, R)), 0.7
        team, policy = product(draw.uniform(size=(R, A * A)), gamma), jnp.asarray(pi)
        P = np.asarray(team.dynamics.transition)
    v = draw.uniform(-10, 10, len(P))
    team = replace(team, reward=jnp.asarray(v[:, None] - gamma * P @ v))
    joint = jnp.asarray(pi if form == "turn-taking" else np.einsum("sa,sb->sab", *pi).reshape(R, -1))
    noise = abs(np.asarray(advantages_of(team, joint)))
    assert 0 < noise.max() < 1e-13
    for agent in range(team.agents):
        step = certified_step(team, policy, jnp.asarray(agent), jnp.asarray(0.02))
        np.testing.assert_array_equal(step.target, policy)
        assert (float(step.certificate), float(step.improvement)) == (0.0, 0.0)


@jax.jit
def advantages_of(team, policy):
    return advantages(team, evaluate_policy(team, policy)[1])


def test_no_radius_helps_where_there_is_nothing_to_gain():
    team, policy, _ = other_team()
    step = certificate_optimal_radius(replace(team, reward=jnp.asarray(np.full((S, A), 0.35))), policy, 1)
    np.testing.assert_array_equal(step.target, policy)
    assert (float(step.certificate), float(step.improvement), float(step.multiplier)) == (0.0, 0.0, 0.0)
    nothing = certificate_optimal(0.0)(jnp.asarray(POLICY[:R]), exact(discounted(REWARD))[1], zero)
    np.testing.assert_array_equal(nothing[0], POLICY[:R])
    assert not np.isnan(np.asarray(jax.tree.leaves(nothing[1]))).any()


# ------------------------------------------------------------------------------------------------------------- alignment


@pytest.mark.parametrize("direction", ["current_to_new", "new_to_current"])
@pytest.mark.parametrize("per_state", [False, True])
def test_what_an_alignment_reports(direction, per_state):
    """Both KLs, the distance and the weights from plain sums over the rows that come back."""
    draw = np.random.default_rng(8)
    out, new = draw.dirichlet(np.ones(A), (2, R))
    w = np.array([0.5, 2.0, 0.0])
    radius = jnp.asarray([0.01, 0.03, 0.02]) if per_state else jnp.asarray(0.05)
    aligned, info = aligner(direction, per_state)(out, new, w, radius)
    got = np.asarray(aligned)

    def kl(p, q):
        return (p * np.log(p / q)).sum(-1)

    np.testing.assert_allclose(info.kl, (w * kl(out, got)).sum(), rtol=1e-10)
    np.testing.assert_allclose(info.kl_new_to_current, (w * kl(got, out)).sum(), rtol=1e-10)
    forward = direction == "current_to_new"
    np.testing.assert_allclose(info.distance, (w * (kl(new, got) if forward else kl(got, new))).sum(), rtol=1e-10)
    t = np.asarray(info.mixture)[:, None]
    mixed = (1 - t) * new + t * out if forward else new ** (1 - t) * out**t
    np.testing.assert_allclose(got, mixed / mixed.sum(-1, keepdims=True), rtol=1e-10)
    spent = kl(out, got) if forward else kl(got, out)
    np.testing.assert_allclose(spent if per_state else (w * spent).sum(), radius, rtol=1e-9)
    assert np.asarray(info.feasible).tolist() == [True] * R


@functools.cache
def aligner(direction, per_state):
    return jax.jit(functools.partial(align_to_ball, direction=direction, per_state=per_state))


def test_alignment_to_a_newcomer_that_differs_by_rounding():
    """The difference is not scaled up: the newcomer is inside every ball."""
    out = np.full((R, A), 1 / A)
    new = np.nextafter(out, [[1.0, 0.0, 1.0]])
    for direction in ("current_to_new", "new_to_current"):
        aligned, info = aligner(direction, False)(out, new, np.ones(R), jnp.asarray(0.05))
        assert abs(np.asarray(aligned) - out).max() < 1e-15
        assert float(info.kl) < 1e-30


# -------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kl_constrained(-1.0), "radius: found -1.0, expected a number at least 0"),
        (lambda: kl_constrained(math.nan), "radius: found nan, expected a number at least 0"),
        (lambda: kl_constrained(jnp.array([0.1, -2.0])), "radius: found -2.0, expected a number at least 0"),
        (lambda: natural_gradient(-1e-3), "radius: found -0.001, expected a number at least 0"),
        (lambda: natural_gradient(0.1, 1.0), "shrink: found 1.0, expected a number at least 0 and greater than 0 and less"),
        (lambda: natural_gradient(0.1, 0.0), "shrink: found 0.0"),
        (lambda: natural_gradient(0.1, 0.8, -1), "backtracks: found -1, expected an integer, at least 0"),
        (lambda: ppo_clip(-0.1), "radius: found -0.1, expected a number at least 0"),
        (lambda: ppo_clip(math.nan), "radius: found nan, expected a number at least 0"),
        (lambda: ppo_clip(0.1, clip=math.nan), "clip: found nan, expected a number"),
        (lambda: ppo_clip(0.1, backtracks=-2), "backtracks: found -2, expected at least 0"),
        (lambda: ppo_clip(0.1, learning_rate=0.0), "learning_rate: found 0.0"),
        (lambda: ppo_clip(0.1, learning_rate=math.inf), "learning_rate: found inf"),
        (lambda: ppo_clip(0.1, target=-0.1), "target: found -0.1, expected a positive number"),
        (lambda: ppo_clip(0.1, target=0.0), "target: found 0.0, expected a positive number"),
        (lambda: ppo_clip(0.1, beta=math.inf), "beta: found inf, expected a positive number"),
        (lambda: ppo_clip(0.1, beta=-1.0, adaptive=False), "beta: found -1.0, expected at least 0"),
        (lambda: certificate_optimal(-1.0), "penalty_range: found -1.0, expected a number at least 0"),
        (lambda: certificate_optimal(math.nan), "penalty_range: found nan"),
        (lambda: certificate_optimal(math.inf), "penalty_range: found inf"),
    ],
)  # fmt: skip
def test_settings_out_of_range(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_settings_at_the_end_of_their_range():
    """Zero and infinity where they mean something, arrays of radii, and what is traced."""
    kl_constrained(0.0), kl_constrained(math.inf), kl_constrained(jnp.array([0.1, 0.2]), per_state=True)
    natural_gradient(0.1, 0.5, 0), certificate_optimal(0.0)
    ppo_clip(math.inf, None, epochs=0, beta=0.0, adaptive=False), ppo_clip(0.1, 0.0), ppo_clip(0.1, math.inf)
    jax.jit(lambda radius: kl_constrained(radius).args[0])(-1.0)
    with unchecked():
        kl_constrained(jnp.array([-1.0]))


TABLES = {
    "current": np.full((2, 2), 0.5),
    "advantage": np.array([[1.0, 0.0], [0.0, 1.0]]),
    "weight": np.array([1.0, 0.0]),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"current": [[0.5, 0.6], [0.5, 0.5]]}, r"current: found row \[0\] that sums to 1.1"),
        ({"current": [[1.5, -0.5], [0.5, 0.5]]}, r"current: found -0.5 at \[0, 1\], expected probabilities ≥ 0"),
        ({"weight": [1.0, -1.0]}, "weight: found -1.0, expected weights ≥ 0"),
        ({"weight": [math.nan, 1.0]}, r"weight: found nan at \[0\], expected finite numbers"),
        ({"advantage": [[math.nan, 0.0], [0.0, 1.0]]}, r"advantage: found nan at \[0, 0\], expected finite numbers"),
        ({"error": [[math.inf, 0.0], [0.0, 0.0]]}, r"error: found inf at \[0, 0\]"),
        ({"radius": -1.0}, "radius: found -1.0, expected a number at least 0"),
    ],
)  # fmt: skip
def test_tables_that_are_none(changes, message):
    given = {"radius": 0.1, **TABLES, **changes}
    arrays = {name: jnp.asarray(x, jnp.float64) for name, x in given.items()}
    with pytest.raises(InputError, match=message):
        kl_constrained_step(**arrays)


def test_what_no_step_reads_may_be_anything():
    """Rows without weight, and entries without probability."""
    current = jnp.array([[0.5, 0.5, 0.0], [0.3, 0.3, 0.3]])
    table = jnp.array([[1.0, 3.0, math.nan], [math.inf, 0.0, 0.0]])
    new, _ = value_weighted()(current, Estimate(jnp.array([1.0, 0.0]), *[table] * 4), zero)
    np.testing.assert_array_equal(new, [[0.25, 0.75, 0.0], [0.3, 0.3, 0.3]])


def test_other_tables_that_are_none(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    half, ones = jnp.full((2, 2), 0.5), jnp.ones(2)
    for call, message in (
        (lambda: value_weighted_step(half, jnp.array([[-1.0, 2.0], [1.0, 1.0]])), "value: found -1.0, expected q ≥ 0"),
        (lambda: value_weighted_step(0.9 * half, half), r"current: found row \[0\] that sums to 0.9"),
        (lambda: align_to_ball(half, half[:1], ones, zero), r"newcomer: found shape \[1, 2\]"),
        (lambda: align_to_ball(half, half, ones[:1], zero), r"weight: found shape \[1\]"),
        (lambda: kl_constrained_step(half, half[:1], ones, 0.1), r"advantage: found shape \[1, 2\]"),
        (lambda: kl_constrained_step(half, half, ones[:1], 0.1), r"weight: found shape \[1\]"),
        (lambda: kl_constrained_step(half, half, ones, 0.1, error=half[:, :1]), r"error: found shape \[2, 1\]"),
        (lambda: align_to_ball(half, 0.9 * half, ones, zero), r"newcomer: found row \[0\] that sums to 0.9"),
        (lambda: align_to_ball(0.9 * half, half, ones, zero), "outgoing: found row"),
        (lambda: align_to_ball(half, half, -ones, zero), "weight: found -1.0"),
        (lambda: align_to_ball(half, half, ones, zero - 1), "radius: found -1.0"),
        (lambda: natural_gradient(0.1)(0.9 * half, Estimate(ones, half, half, half, half), zero), "current: found row"),
        (
            lambda: natural_gradient(0.1)(half, Estimate(ones, half, half, half, half * math.nan), zero),
            "value: found nan",
        ),
        (lambda: certified_step(discounted(REWARD), jnp.asarray(POLICY), jnp.asarray(2), zero), "agent: found 2"),
        (lambda: certified_step(discounted(REWARD), jnp.asarray(POLICY), jnp.asarray(-1), zero), "agent: found -1"),
        (
            lambda: certified_step(discounted(REWARD), jnp.asarray(POLICY), jnp.asarray(0), zero - 1),
            "radius: found -1.0",
        ),
        (lambda: certificate_optimal_radius(discounted(REWARD), jnp.asarray(POLICY), 2), "agent: found 2"),
        *(
            (partial(certificate_optimal_radius, discounted(REWARD), jnp.asarray(policy), 1), f"policy: found {found}")
            for policy, found in (
                (0.9 * POLICY, "row"),
                (POLICY * math.nan, "nan"),
                (-POLICY, "-"),
                (POLICY[None], "shape"),
                (POLICY.astype(np.float32), "dtype float32"),
            )
        ),
        *(
            (
                partial(certificate_optimal_radius, discounted(REWARD), jnp.asarray(POLICY), 1, bracket=edges),
                "bracket: found",
            )
            for edges in ((1.0, 0.1), (0.0, 1.0), (math.nan, 1.0), (1.0, math.inf), (0.1,), 1.0, "ab", None)
        ),
        (
            lambda: certified_step(discounted(REWARD), jnp.asarray(POLICY), jnp.asarray(0), zero + jnp.ones(1)),
            "radius: found shape",
        ),
        (lambda: certified_step(discounted(REWARD), jnp.asarray(POLICY[:, :1]), jnp.asarray(0), zero), "policy: found"),
        (lambda: certified_step(discounted(REWARD), jnp.asarray(POLICY), "0", zero), "agent: found '0'"),
        (lambda: kl_constrained(jnp.zeros(0)), "radius: found an empty array"),
        (lambda: ppo_clip(jnp.zeros(0)), "radius: found an empty array"),
        (lambda: value_weighted_step([[0.5, 0.5]], half), "current: found dtype None"),
        (lambda: value_weighted_step(half, None), "value: found dtype None"),
        (lambda: kl_constrained_step(half, None, ones, 0.1), "advantage: found dtype None"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    almost = value_weighted_step(half, jnp.array([[-1e-17, 1.0], [1.0, 3.0]]))
    np.testing.assert_array_equal(almost, [[0.0, 1.0], [0.25, 0.75]])
