"""Teams from Gymnasium's tables, Garnet, the relay."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.dynamics import SparseResolvent
from teamtr_jax.surrogates import evaluate_stage, stage_report
from teamtr_jax.tabular import improvement_stage
from teamtr_jax.teams import gymnasium_team, random_stages, relay_stage
from teamtr_jax.types import Stage
from teamtr_jax.validation import InputError
from teamtr_jax.values import objective, optimal_values

ENVIRONMENTS = ("FrozenLake", "FrozenLake8x8", "CliffWalking", "Taxi")


def value_iteration(environment, gamma):
    """Plain value iteration on the environment's own table, in NumPy."""
    made = gymnasium.make(environment).unwrapped
    n, actions = len(made.P), len(made.P[0])
    P, r = np.zeros((n, actions, n)), np.zeros((n, actions))
    for s in range(n):
        for a in range(actions):
            for p, t, reward, terminated in made.P[s][a]:
                P[s, a, t] += 0 if terminated else p
                r[s, a] += p * reward
    v = np.zeros(n)
    while True:
        new = (r + gamma * P @ v).max(-1)
        if abs(new - v).max() * gamma / (1 - gamma) < 1e-12 * max(1, abs(v).max()):
            return float(made.initial_state_distrib @ new)
        v = new


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(("agents", "router"), [(3, "round_robin"), (2, "random")])
def test_optimal_return_is_the_environments(environment, agents, router):
    """Item 4: the optimal return of the team equals value iteration on the environment to 1e-9."""
    team = gymnasium_team(environment, agents, router, discount=0.95)
    found = float(team.initial @ jax.jit(optimal_values)(team))
    assert abs(found - value_iteration(environment, 0.95)) < 1e-9
    np.testing.assert_allclose(np.asarray(team.dynamics.prob).sum(-1), 1, atol=1e-12)


def test_round_robin_goes_round_and_ends_without_reward():
    team = gymnasium_team("FrozenLake", 3)
    index, active = np.asarray(team.dynamics.index), np.asarray(team.active)
    reached = active[index]
    assert np.all((reached == (active[:, None, None] + 1) % 3) | (np.asarray(team.dynamics.prob) == 0))
    assert np.all(active[np.asarray(team.initial) > 0] == 0)
    end = slice(-3, None)  # the absorbing environment state, once for each speaker
    assert np.all(np.asarray(team.reward)[end] == 0)
    assert np.all(index[end][np.asarray(team.dynamics.prob)[end] > 0] >= len(active) - 3)


def test_random_router_is_uniform():
    team = gymnasium_team("CliffWalking", 4, "random")
    mass = np.zeros(4)
    index, prob = np.asarray(team.dynamics.index)[0, 0], np.asarray(team.dynamics.prob)[0, 0]
    np.add.at(mass, np.asarray(team.active)[index], prob)
    np.testing.assert_allclose(mass, 0.25)
    np.testing.assert_allclose(np.bincount(np.asarray(team.active), weights=np.asarray(team.initial)), 0.25)


def test_the_absorbing_state_is_no_truncation():
    """Taxi pays −1 a step and +20 once: the value of a state is finite, and zero after drop-off."""
    team = gymnasium_team("Taxi", 2, discount=0.9)
    assert float(jnp.abs(optimal_values(team)[-2:]).max()) == 0.0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("FrozenLake", 0), "agents: found 0"),
        (("FrozenLake", 2, "auction"), "router: found 'auction', expected round_robin or random"),
        (("FrozenLake", 2, "random", 1.0), "discount: found 1.0"),
        (("Blackjack", 2), "ENV: found 'Blackjack' without a table"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bad_gymnasium_teams(args, message):
    with pytest.raises(InputError) as error:
        gymnasium_team(*args)
    assert message in str(error.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sixty_four_agents_on_taxi():
    """Item 2: 32,064 states and 64 agents fit in memory and run; dense tables would be 49 GB."""
    team = gymnasium_team("Taxi", 64)
    current = jnp.full(team.reward.shape, 1 / 6)
    stage = improvement_stage(team, current, 0.01, range(64))
    report = evaluate_stage(stage)
    residual = jnp.diff(report.objective) - report.surrogate_intermediate - report.gap_fresh
    assert float(abs(residual).max()) < 1e-9
    np.testing.assert_allclose(report.kl, 0.01, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_many_agents_on_taxi_without_tables():
    """The same path at a size for CI: 16 agents, 8,016 states, sparse factors; J by value iteration of the policy."""
    team = gymnasium_team("Taxi", 16)
    current = jnp.full(team.reward.shape, 1 / 6)
    assert isinstance(team.dynamics.resolvent(current), SparseResolvent)
    rng = np.random.default_rng(0)
    target = 0.9 * current + 0.1 * jnp.asarray(rng.dirichlet(np.ones(6), len(current)))
    report = evaluate_stage(Stage(team, current, target, jnp.asarray(rng.permutation(16))))
    v = jnp.zeros(len(current))
    sweep = jax.jit(lambda v: ((team.reward + 0.99 * team.dynamics.backward(v)) * current).sum(-1))
    for _ in range(2500):
        v = sweep(v)
    assert abs(float(team.initial @ v) - float(report.objective[0])) < 1e-6
    residual = jnp.diff(report.objective) - report.surrogate_intermediate - report.gap_fresh
    assert float(abs(residual).max()) < 1e-10 * abs(float(report.objective[0]))


def test_garnet_is_what_it_says():
    rng = np.random.default_rng(0)
    live = np.array([2, 5, 6])
    stages = random_stages(rng, 3, 6, 2, 4, discount=0.9, branching=2, live_states=live, live_agents=2, step=0.0)
    P = np.asarray(stages.team.dynamics.transition)
    assert np.all((P > 0).sum(-1) == 2)
    np.testing.assert_allclose(P.sum(-1), 1)
    for b, size in enumerate(live):
        assert np.all(P[b][..., size:] == 0)
        assert np.all(np.asarray(stages.team.initial)[b, size:] == 0)
    assert np.asarray(stages.team.active).max() == 1
    np.testing.assert_array_equal(stages.current, stages.target)
    again = random_stages(
        np.random.default_rng(0), 3, 6, 2, 4, discount=0.9, branching=2, live_states=live, live_agents=2, step=0.0
    )
    jax.tree.map(np.testing.assert_array_equal, stages, again)


@pytest.mark.parametrize(("discount", "horizon"), [(None, None), (0.9, 3)])
def test_garnet_wants_one_form(discount, horizon):
    with pytest.raises(InputError, match=r"discount, horizon: found .*, expected exactly one"):
        random_stages(np.random.default_rng(0), 1, 3, 2, 2, discount=discount, horizon=horizon)


def brute_relay(n, probabilities):
    """P(context 2 at the end) by enumerating which of the 2n turns step up."""
    turns, total = 2 * n, 0.0
    for pattern in range(2**turns):
        p, context = 1.0, 0
        for u in range(turns):
            up = pattern >> u & 1
            p *= probabilities[u % n] if up else 1 - probabilities[u % n]
            context = min(2, context + up)
        total += p * (context == 2)
    return total


def test_relay_by_enumeration():
    """R1's team: J of every hybrid of three agents, and slots beyond n change nothing."""
    n, p, step = 3, 0.2, 0.1
    report = evaluate_stage(relay_stage(n, p, step, slots=3))
    for i in range(n + 1):
        assert abs(float(report.objective[i]) - brute_relay(n, [p + step] * i + [p] * (n - i))) < 1e-14
    assert float(report.return_range) == 1.0
    padded = evaluate_stage(relay_stage(n, p, step, slots=5))
    np.testing.assert_allclose(padded.gap_stale[:3], report.gap_stale, rtol=1e-12, atol=1e-16)
    assert np.all(np.asarray(padded.gap_stale[3:]) == 0)


def test_improvement_stage_improves_product_teams_too():
    rng = np.random.default_rng(3)
    stages = random_stages(rng, 1, 4, (2, 3), 2, discount=0.9)
    stage = jax.tree.map(lambda x: x[0], stages)
    better = improvement_stage(stage.team, stage.current, 0.02, [1, 0])
    report = evaluate_stage(better)
    np.testing.assert_allclose(report.kl, 0.02, rtol=1e-8)
    assert np.all(np.diff(report.objective) > 0)


def test_objective_gradient_is_defined_on_batches():
    stages = random_stages(np.random.default_rng(0), 4, 5, 2, 2, discount=0.9)
    slope = jax.jit(jax.vmap(lambda stage: jax.grad(lambda pi: objective(stage.team, pi))(stage.current)))
    gradient = slope(stages)
    assert bool(jnp.isfinite(gradient).all())
    assert jax.jit(jax.vmap(stage_report))(stages).gap_fresh.shape == (4, 2)
