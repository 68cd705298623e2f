"""Teams from Gymnasium's tables, Garnet, the relay."""

import itertools

import builders
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from teamtr_jax import sizes
from teamtr_jax.dynamics import SparseResolvent
from teamtr_jax.surrogates import evaluate_stage, stage_report
from teamtr_jax.tabular import improvement_stage
from teamtr_jax.teams import gymnasium_team, handover_team, offered_actions, random_stages, relay_stage
from teamtr_jax.teams.gymnasium import read_table
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
    team = gymnasium_team("FrozenLake", 3, drop_time_limit=True)
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
    team = gymnasium_team("Taxi", 2, discount=0.9, drop_time_limit=True)
    assert float(jnp.abs(optimal_values(team)[-2:]).max()) == 0.0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("FrozenLake", 0), "agents: found 0, expected an integer, at least 1"),
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


class Toy(gymnasium.Env):
    """A table and a start, as an environment of one's own may have them."""

    def __init__(self, table, start, slippery=False, size=None):
        self.P, self.initial_state_distrib = table, start
        self.observation_space = gymnasium.spaces.Discrete(size if size is not None else len(table))


class Walking(Toy):
    """One that can be moved too; `off` is what it adds to the reward of its table."""

    off = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s = int(self.np_random.choice(len(self.P), p=self.initial_state_distrib))
        return self.s, {}

    def step(self, action):
        row = self.P[self.s][action]
        _, self.s, reward, over = row[self.np_random.choice(len(row), p=[entry[0] for entry in row])]
        return self.s, reward + self.off, over, False, {}


MADE = {}


def made(**options):
    return MADE["now"](**options)


gymnasium.register("TeamtrToy-v0", entry_point=made)


def toy(table, start=(1.0, 0, 0, 0), kind=Toy, **settings):
    """The name of an environment that is made of this table."""
    MADE["now"] = lambda **options: kind(table, start, **settings, **options)
    return "TeamtrToy-v0"


def base():
    """0 leads to 1 (pays 1) or to 2 (pays 0 or 2); both lead to the end, 3."""
    return {
        0: {0: [(1.0, 1, 0.0, False)], 1: [(1.0, 2, 0.0, False)]},
        1: {0: [(1.0, 3, 1.0, True)], 1: [(1.0, 3, 1.0, True)]},
        2: {0: [(1.0, 3, 0.0, True)], 1: [(1.0, 3, 2.0, True)]},
        3: {0: [(1.0, 3, 0.0, True)], 1: [(1.0, 3, 0.0, True)]},
    }


def changed(change):
    table = base()
    change(table)
    return table


def row(*entries):
    """The base table with another row of state 1 and action 1."""
    return changed(lambda t: t[1].update({1: list(entries)}))


def equal_tables(first, second):
    for x, y in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, y)


def uniform(environment, agents=2, **settings):
    """J of the uniform policy over what is offered, and the optimal J."""
    team = gymnasium_team(environment, agents, discount=0.9, **settings)
    offered = offered_actions(environment, agents)
    policy = jnp.asarray(offered / offered.sum(-1, keepdims=True))
    return float(objective(team, policy)), float(team.initial @ optimal_values(team))


@pytest.mark.parametrize(
    ("change", "mean"),
    [
        (lambda t: None, 0.9),  # ½·γ·1 + ½·γ·1
        (lambda t: t[2].pop(1), 0.45),  # 2 pays nothing: ½·γ·1
        (lambda t: t[2].pop(0), 1.35),  # 2 pays 2: ½·γ·1 + ½·γ·2
        (lambda t: t[0].pop(1), 0.9),
        (lambda t: t[1].pop(0), 0.9),
        (lambda t: t.update({3: {}}), 0.9),
        (lambda t: t[1].update({1: [(1.0, 2, 1.0, True)]}), 0.9),  # over, although 2 would pay
        (lambda t: (t.update({3: {}}), t[2].update({1: [(1.0, 3, 2.0, False)]})), 0.9),  # ends where nothing is offered
        (lambda t: t[1].update({1: [(0.5, 3, 0.0, True), (0.25, 3, 2.0, True), (0.25, 3, 6.0, True)]}), 1.125),
        (lambda t: t[1].update({1: [(0.0, 77, np.nan, None), (1.0, np.int64(3), 1, np.True_)]}), 0.9),  # never happens
    ],
)
def test_what_is_not_offered_is_nobodys_choice(change, mean):
    """By hand; the best path is γ·2 as long as 2 offers it, the one through 1 otherwise."""
    table = changed(change)
    found, best = uniform(toy(table))
    assert abs(found - mean) < 1e-14
    pays = {s: max(sum(p * r for p, _, r, _ in row if p) for row in table[s].values()) for s in (1, 2)}
    assert abs(best - 0.9 * max(pays[s] for row in table[0].values() for _, s, _, _ in row)) < 1e-12


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_action_is_a_copy_of_one_that_is_offered(missing):
    table = read_table(toy(changed(lambda t: t[2].pop(missing))))
    assert table.offered.tolist() == [[True, True], [True, True], [missing == 1, missing == 0], *[[True, True]] * 2]
    assert table.reward[2].tolist() == [2.0 * (missing == 0)] * 2
    equal_tables(table[:3], read_table(toy(changed(lambda t: t[2].update({missing: t[2][1 - missing]}))))[:3])
    end = read_table(toy(changed(lambda t: t.update({3: {}}))))
    assert (end.successors[3, :, 0].tolist(), end.prob[3].tolist(), end.reward[3].tolist()) == (
        [4, 4],
        [[1.0]] * 2,
        [0, 0],
    )


def test_no_step_moves_to_what_is_not_offered():
    """From the uniform policy over what is offered a step gives the missing action nothing, exactly; J goes to 2's reward."""
    environment = toy(changed(lambda t: t[2].pop(0)))
    team, offered = gymnasium_team(environment, 2, discount=0.9), offered_actions(environment, 2)
    current = jnp.asarray(offered / offered.sum(-1, keepdims=True))
    stage = improvement_stage(team, current, 0.05, range(2))
    assert np.all(np.asarray(stage.target)[~offered] == 0)
    assert float(objective(team, stage.target)) > float(objective(team, current)) + 0.01


def renamed(names):
    """The base table under other keys of the states."""
    return {
        names[s]: {a: [(p, names[t], r, over) for p, t, r, over in row] for a, row in rows.items()}
        for s, rows in base().items()
    }


def test_keys_of_states_and_actions():
    """Another order, numbers with a start of their own, names, lists: the same table; never by position where keys have names."""
    plain = read_table(toy(base()))
    equal_tables(plain, read_table(toy(dict(reversed(base().items())))))
    equal_tables(plain, read_table(toy({s: dict(reversed(rows.items())) for s, rows in base().items()})))
    equal_tables(plain, read_table(toy([list(rows.values()) for rows in base().values()])))

    class FromOne(Toy):
        def __init__(self, table, start):
            super().__init__(table, start)
            self.observation_space = gymnasium.spaces.Discrete(4, start=1)

    equal_tables(plain, read_table(toy(renamed([1, 2, 3, 4]), (0, 1.0, 0, 0, 0), FromOne)))
    equal_tables(plain, read_table(toy(renamed("wxyz"), {"w": 1.0})))
    named = {s: {"lr"[a]: row for a, row in rows.items()} for s, rows in base().items()}
    equal_tables(plain, read_table(toy(named)))
    assert read_table(toy(base(), [0.25, 0.75, 0, 0])).initial.tolist() == [0.25, 0.75, 0, 0, 0]


END = (1.0, 3, 1.0, True)
SHAPE = "initial_state_distrib: found shape "
BAD_TABLES = [
    (row((0.5, 3, 1.0, True), (0.4, 0, 0.0, False)), "P, state 1, action 1: found probabilities that sum to 0.9, expected a sum"),
    (row((0.5, 3, 1.0, True), (0.5 + 2e-9, 0, 0.0, False)), "P, state 1, action 1: found probabilities that sum to 1.000000002"),
    (row((-0.5, 3, 1.0, True), (1.5, 0, 0.0, False)), "P, state 1, action 1, entry 0, probability: found -0.5"),
    (row((1.5, 3, 1.0, True)), "P, state 1, action 1, entry 0, probability: found 1.5"),
    (row((np.nan, 3, 1.0, True)), "P, state 1, action 1, entry 0, probability: found nan"),
    (row((True, 3, 1.0, True)), "entry 0, probability: found True"),
    (row(("1", 3, 1.0, True)), "entry 0, probability: found '1', expected a finite number"),
    (row((0.5, 3, 0.0, True), (0.5, 7, 1.0, False)), "P, state 1, action 1, entry 1, next state: found 7, expected a state of P"),
    (row((1.0, -1, 1.0, False)), "next state: found -1"),
    (row((1.0, 3.0, 1.0, False)), "next state: found 3.0"),
    (row((1.0, [3], 1.0, False)), "next state: found [3]"),
    (row((1.0, 7, 1.0, True)), "next state: found 7"),
    (row((1.0, 3, -np.inf, True)), "P, state 1, action 1, entry 0, reward: found -inf, expected a finite number"),
    (row((1.0, 3, np.nan, True)), "entry 0, reward: found nan"),
    (row((0.5, 3, 1.7e308, True), (0.5, 3, 1.7e308, True), (0.0, 3, 0.0, True)), None),
    (row((1.0, 3, 1.0, "False")), "P, state 1, action 1, entry 0, terminated: found 'False', expected True or False"),
    (row((1.0, 3, 1.0, 1)), "terminated: found 1, expected True or False"),
    (row((1.0, 3, 1.0)), "P, state 1, action 1, entry 0: found (1.0, 3, 1.0), expected (probability, next state"),
    (row((1.0, 3, 1.0, True, {})), "entry 0: found (1.0, 3, 1.0, True, {})"),
    (row(((1.0, 3), 1.0, True)), "entry 0: found ((1.0, 3), 1.0, True)"),
    (row(*END), "entry 0: found 1.0, expected (probability"),
    (row(), "P, state 1, action 1: found probabilities that sum to 0.0, expected a sum of 1 within 1e-09 (an action"),
    (row(*((np.float32(p), 3, 1.0, True) for p in (0.1, 0.7, 0.2))), "of float64 numbers"),
    (changed(lambda t: t[1].update({1: {3: 1.0}})), "P, state 1, action 1: found {3: 1.0}, expected a list of"),
    (changed(lambda t: t.update({1: None})), "P, state 1: found None, expected its actions"),
    (changed(lambda t: [t.pop(s) for s in (0, 1, 2, 3)] and t.update({0: {}})), "P: found 1 states without actions"),
    (renamed([1, 2, 3, 4]), "P, state 4: found in the table, expected numbers from 0 to 3"),
    (renamed("wxyz"), "initial_state_distrib: found an array, for states with names"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "message"), BAD_TABLES, ids=[str(k) for k in range(len(BAD_TABLES))])
def test_tables_are_refused_by_name(table, message):
    """State, action, entry; in Python as from the command line. Rewards near the largest float stay what they are."""
    if message is None:
        assert read_table(toy(table)).reward[1, 1] == 1.7e308
        return
    with pytest.raises(InputError) as error:
        gymnasium_team(toy(table), 2)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ([1.0], SHAPE + "[1], expected shape [4]"),
        ([1.0, 0, 0, 0, 0], SHAPE + "[5]"),
        ([[1.0, 0, 0, 0]], SHAPE + "[1, 4]"),
        ([1.5, -0.5, 0, 0], "initial_state_distrib, state 0: found 1.5"),
        ([0.5, -0.5, 1.0, 0], "initial_state_distrib, state 1: found -0.5"),
        ([np.nan, 0, 0, 0], "initial_state_distrib, state 0: found nan"),
        ([0.5, 0.4, 0, 0], "initial_state_distrib: found a sum of 0.9, expected 1 within 1e-09"),
        (["a"] * 4, "initial_state_distrib: found ['a', 'a', 'a', 'a']"),
        (np.array([1.0 + 1.0j, 0, 0, 0]), "initial_state_distrib: found array([1.+1.j"),
        ({7: 1.0}, "initial_state_distrib, state 7: found 1.0, for a state that is not in P"),
        ({3: 1.0}, "initial_state_distrib, state 3: found 1.0, for a state without actions"),
    ],
)
def test_starts_are_refused_by_name(start, message):
    with pytest.raises(InputError) as error:
        gymnasium_team(toy(changed(lambda t: t.update({3: {}})), start), 2)
    assert message in str(error.value)


def test_an_environment_that_exits():
    def leave():
        raise SystemExit(0)

    gymnasium.register("Leaving-v0", entry_point=leave)
    with pytest.raises(InputError, match=r"^ENV: found 'Leaving-v0' \(0\)"):
        read_table("Leaving-v0")


def test_a_table_shorter_than_its_space():
    with pytest.raises(InputError, match="P: found no state 4, expected the 6 states of the observation space"):
        read_table(toy(base(), size=6))


def test_what_the_table_does_not_hold_is_refused():
    """A step that pays something else, a start elsewhere, a wrapper, another table each time; not one that does what P says."""
    half = row((0.25, 3, 1.0, True), (0.75, 0, 0.0, False))
    start = [0.5, 0.5, 0, 0]
    equal_tables(read_table(toy(half, start, Walking)), read_table(toy(half, start)))

    class Generous(Walking):
        off = 0.125

    class Elsewhere(Walking):
        def reset(self, *, seed=None, options=None):
            self.s = 2
            return 2, super().reset(seed=seed)[1]

    class Endless(Walking):
        def step(self, action):
            state, reward, _, truncated, about = super().step(action)
            return state, reward, False, truncated, about

    for kind, message in [
        (Generous, r"whose step\(\) from state [01] by action"),
        (Endless, r"whose step\(\) from state [12] by action [01] gives 3, [\d.]+, False"),
        (Elsewhere, r"whose reset\(\) begins in state 2"),
    ]:
        with pytest.raises(InputError, match=message):
            read_table(toy(half, start, kind))
    MADE["now"] = lambda: gymnasium.wrappers.TransformReward(Toy(base(), [1.0, 0, 0, 0]), lambda r: 10 * r)
    with pytest.raises(InputError, match="wrapped in TransformReward, expected no wrapper but TimeLimit"):
        read_table("TeamtrToy-v0")
    rewards = iter([1.0, 2.0])
    MADE["now"] = lambda: Toy(row((1.0, 3, next(rewards), True)), [1.0, 0, 0, 0])
    with pytest.raises(InputError, match="with another table each time it is made"):
        read_table("TeamtrToy-v0")


def test_options_of_the_environment():
    """Slippery ice sends one third each way; without it every row is certain."""
    wet = read_table("FrozenLake").prob
    dry = read_table("FrozenLake", {"is_slippery": False}).prob
    np.testing.assert_allclose(sorted(set(wet.ravel().round(15))), [0, 1 / 3, 1], atol=1e-15)
    assert set(dry.ravel()) == {1.0}
    assert dry.shape == (17, 4, 1)
    assert read_table("FrozenLake", {"map_name": "8x8"}).prob.shape == (65, 4, 3)
    assert read_table("FrozenLake", {"desc": ["SG"], "is_slippery": False}).reward.max(-1).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ("FrozenLake", {"is_slippery": "Flase"}, "option is_slippery: found 'Flase', expected True or False"),
        ("FrozenLake", {"is_slippery": 0}, "option is_slippery: found 0, expected True or False"),
        (
            "FrozenLake",
            {"slippery": False},
            "option slippery: found no such option of FrozenLake, expected one of desc, map_name",
        ),
        ("FrozenLake", {"success_rate": "high"}, "option success_rate: found 'high'"),
        ("FrozenLake", {"success_rate": 1.5}, "P, state 0, action 0, entry 0, probability: found -0.25"),
        ("FrozenLake", {"map_name": 8}, "option map_name: found 8, expected a text such as '4x4'"),
        ("FrozenLake", {"map_name": "3x3"}, "ENV: found 'FrozenLake' with {'map_name': '3x3'}"),
        ("FrozenLake", {"map_name": None}, "ENV: found 'FrozenLake' with another table each time it is made"),
        ("FrozenLake", {"reward_schedule": 3}, "option reward_schedule: found 3, expected a list such as (1, 0, 0)"),
        ("FrozenLake", {"render_mode": "human"}, "option render_mode: found no option of the environment's table"),
        ("FrozenLake", {"max_episode_steps": 3}, "option max_episode_steps"),
        ("Taxi", {"fickle_passenger": True}, "fickle_passenger: found True: step() moves the destination"),
    ],
)
def test_options_are_refused_by_name(environment, options, message):
    with pytest.raises(InputError) as error:
        gymnasium_team(environment, 2, options=options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_time_limit_is_dropped_aloud():
    with pytest.warns(
        UserWarning, match="FrozenLake: its TimeLimit of 100 steps is no part of its table and is dropped"
    ):
        gymnasium_team("FrozenLake", 2)
    for inner, outer in ((7, 9), (9, 7)):  # the first of several ends the episode
        MADE["now"] = lambda inner=inner, outer=outer: TimeLimit(TimeLimit(Toy(base(), [1.0, 0, 0, 0]), inner), outer)
        assert read_table("TeamtrToy-v0").time_limit == 7
    gymnasium_team("FrozenLake", 2, drop_time_limit=True)  # warnings are errors here
    gymnasium_team("CliffWalking", 2)


@pytest.mark.parametrize("router", ["round_robin", "random"])
def test_sizes_are_known_before(monkeypatch, router):
    """At most as many agents as fit: that number is taken, one more is refused, and 10¹² at once."""
    with pytest.raises(
        InputError, match=r"agents: found 1000000000000, which takes \d\S* [TPE]B .tables of successors., expected at"
    ):
        gymnasium_team("CliffWalking", 10**12, router)
    monkeypatch.setattr(sizes, "memory", lambda: 400_000)
    with pytest.raises(InputError) as error:
        gymnasium_team("CliffWalking", 10**6, router)
    fits = int(error.value.expected.split()[2].rstrip(","))
    # by hand: 49 states, 4 actions, one successor (for each speaker), two arrays of it twice and three of [S, A]
    by_hand = [n for n in range(1, 200) if 8 * 49 * n * 4 * (4 * (n if router == "random" else 1) + 3) <= 400_000]
    assert fits == max(by_hand)
    assert gymnasium_team("CliffWalking", fits, router).agents == fits
    with pytest.raises(InputError, match=f"agents: found {fits + 1}, which"):
        gymnasium_team("CliffWalking", fits + 1, router)


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


def test_garnet_in_numbers():
    """Rows of two: a Dirichlet(α) entry has variance ¼/(2α+1), a target lies part of the way to one with α = 1; rewards."""
    second = np.arange(40) >= 20  # twenty teams of one kind, and twenty of another
    size, alpha = np.where(second, 0.5, 0.1), np.where(second, 50.0, 1.0)
    stages = random_stages(
        np.random.default_rng(0), 40, 50, 2, 2, discount=0.9, branching=1, step=size, concentration=alpha,
        sparse_reward=second,
    )  # fmt: skip
    old, new = (np.asarray(x) for x in (stages.current, stages.target))
    drawn = (new - (1 - size)[:, None, None] * old) / size[:, None, None]
    assert drawn.min() > -1e-12
    for kind, scale in ((~second, 1.0), (second, 50.0)):
        assert old[kind][..., 0].std() == pytest.approx(0.5 / np.sqrt(2 * scale + 1), rel=0.1)  # 1,000 rows: ± 2 %
        assert drawn[kind][..., 0].std() == pytest.approx(0.5 / np.sqrt(3), rel=0.1)
    dense, sparse = (np.asarray(stages.team.reward)[kind] for kind in (~second, second))
    assert abs(dense.mean() - 0.5) < 0.03  # ± 0.0065
    assert abs(dense.std() - 12**-0.5) < 0.03
    assert set(sparse.ravel()) == {0.0, 1.0}
    assert abs(sparse.mean() - 1 / 8) < 0.03  # ± 0.0074


def test_handover_by_hand():
    """One taker moves the item on, nobody leaves it, several drop it at the beginning; the last station delivers."""
    team = handover_team(3, 3, 0.5)
    P, r = np.asarray(team.dynamics.transition), np.asarray(team.reward)
    for station in range(3):
        for joint, choice in enumerate(itertools.product((0, 1), repeat=3)):
            takers = sum(choice)
            following = {0: station, 1: (station + 1) % 3}.get(takers, 0)
            assert P[station, joint].tolist() == np.eye(3)[following].tolist()
            assert r[station, joint] == (takers == 1 and station == 2)
    assert (float(team.dynamics.discount), team.factors, team.initial.tolist()) == (0.5, (2, 2, 2), [1.0, 0.0, 0.0])
    assert handover_team(2, 1).reward.tolist() == [[0.0, 1.0, 1.0, 0.0]]
    for agents, stations, message in (
        (1, 1, "agents: found 1, expected 2"),
        (11, 1, "agents: found 11"),
        (2, 0, "stations: found 0"),
    ):
        with pytest.raises(InputError, match=f"^{message}"):
            handover_team(agents, stations)


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
    stage = builders.first(stages)
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
