"""Teams from OpenSpiel's cooperative games: against the library's own values, and what is refused."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax import sizes
from teamtr_jax.dynamics import Successors
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.tabular import improvement_stage
from teamtr_jax.teams import openspiel, openspiel_walk, read_stage, write_stage
from teamtr_jax.teams.openspiel import openspiel_game
from teamtr_jax.types import Stage
from teamtr_jax.validation import InputError
from teamtr_jax.values import optimal_values

pyspiel = pytest.importorskip("pyspiel")

SMALL_HANABI = "hanabi(players=2,colors=1,ranks=2,hand_size=1,max_information_tokens=1,max_life_tokens=1)"
GAMES = (
    "tiny_hanabi",
    "matrix_coordination",
    SMALL_HANABI,
    "coop_box_pushing(horizon=2)",
    "turn_based_simultaneous_game(game=coop_box_pushing(horizon=2))",
    "repeated_game(stage_game=matrix_coordination(),num_repetitions=3)",
)


walked = functools.cache(openspiel_game)
"""A game is walked in a process of its own, once for all tests that only look at its team."""


def random_policy(game, seed=0):
    """A random policy of the team that gives probability to legal actions alone."""
    drawn = game.tied(np.random.default_rng(seed).dirichlet(np.ones(game.offered.shape[-1]), game.offered.shape[:-1]))
    return drawn * game.offered / (drawn * game.offered).sum(-1, keepdims=True)


def rows_by_text(game, policy):
    """`{(player, what it sees): {action: probability}}`."""
    label, out = np.atleast_2d(game.label), {}
    for player, texts in enumerate(game.seen):
        table, own = (policy, label[0]) if game.team.factors is None else (policy[player], label[player])
        mine = np.ones(len(own), bool) if game.team.factors else np.asarray(game.team.active) == player
        for number, text in enumerate(texts):
            row = table[np.flatnonzero(mine & (own == number))[0]]
            out[player, text] = dict(zip(game.actions[player], row.tolist(), strict=False))
    return out


def walked_value(loaded, rows, view):
    """The expected return by OpenSpiel's states alone, what is seen put together here once more."""
    players = loaded.num_players()
    recall = view == "information" and not loaded.get_type().provides_information_state_string

    def row(state, player, lines):
        if view == "everything":
            text = state.history_str()
        elif recall:
            text = "\n".join(lines[player])
        else:
            text = state.observation_string(player) if view == "observation" else state.information_state_string(player)
        return rows[player, text]

    def value(state, lines, moved):
        if state.is_terminal():
            return state.returns()[0]
        if state.is_chance_node():
            return sum(p * value(state.child(a), lines, moved) for a, p in state.chance_outcomes())
        if recall:
            acted = [[f"action {moved[p]}"] if p in moved else [] for p in range(players)]
            lines = [
                [*old, *own, state.observation_string(p)] for p, (old, own) in enumerate(zip(lines, acted, strict=True))
            ]
        if not state.is_simultaneous_node():
            player = state.current_player()
            own = row(state, player, lines)
            return sum(own[a] * value(state.child(a), lines, {player: a}) for a in state.legal_actions())
        total, rows_now = 0.0, [row(state, p, lines) for p in range(players)]
        for move in itertools.product(*(state.legal_actions(p) for p in range(players))):
            after = state.clone()
            after.apply_actions(list(move))
            weight = np.prod([own[a] for own, a in zip(rows_now, move, strict=True)])
            total += weight * value(after, lines, dict(enumerate(move)))
        return total

    return value(loaded.new_initial_state(), [[] for _ in range(players)], {})


def team_value(team, policy):
    """`ρᵀV` of an episodic team in plain NumPy, from its tables."""
    if team.factors is not None:
        policy = np.einsum("sa,sb->sab", *policy).reshape(policy.shape[1], -1)
    kernel, steps = team.dynamics.kernel, team.dynamics.horizon
    v = np.zeros(kernel.index.shape[1])
    for t in reversed(range(steps)):
        follow = (np.asarray(kernel.prob[t]) * v[np.asarray(kernel.index[t])]).sum(-1)
        reward, rows = (np.asarray(x).reshape(steps, -1, x.shape[-1])[t] for x in (team.reward, policy))
        v = (rows * (reward + follow)).sum(-1)
    assert not np.asarray(team.initial)[len(v) :].any()
    return float(np.asarray(team.initial)[: len(v)] @ v)


@pytest.mark.parametrize("view", openspiel.VIEWS)
@pytest.mark.parametrize("name", GAMES)
def test_the_return_of_a_random_team_is_the_games(name, view):
    """Every view and protocol, chance, early ends, rewards on the way: the tree walked once more in plain Python."""
    game = walked(name, view=view)
    policy = random_policy(game)
    expected = walked_value(pyspiel.load_game(name), rows_by_text(game, policy), view)
    assert abs(team_value(game.team, policy) - expected) < 1e-12 * max(1, abs(expected))
    assert (game.team.observation is None) == (view == "everything")


THREE = ";".join(map(str, np.random.default_rng(3).integers(0, 10, 216)))
"""Payoffs of three players with two cards and three actions each."""


@pytest.mark.parametrize(
    "name",
    [
        "tiny_hanabi",
        f"tiny_hanabi(num_players=3,payoff={THREE})",
        "matrix_coordination",
        pytest.param("tiny_bridge_2p", marks=pytest.mark.slow),  # 420 deals, seconds
    ],
)
def test_the_return_is_that_of_the_library(name):
    """OpenSpiel's own `policy_value`, a table of information states given to it."""
    policy_module = pytest.importorskip("open_spiel.python.policy")
    from open_spiel.python.algorithms.expected_game_score import policy_value

    game, loaded = walked(name, view="information"), pyspiel.load_game(name)
    policy = random_policy(game, 1)
    rows = rows_by_text(game, policy)

    class Own(policy_module.Policy):
        def action_probabilities(self, state, player_id=None):
            player = state.current_player() if player_id is None else player_id
            row = rows[player, state.information_state_string(player)]
            return {a: row[a] for a in state.legal_actions(player)}

    own = Own(loaded, list(range(loaded.num_players())))
    turns = game.team.factors is None
    found = policy_value(loaded.new_initial_state(), [own] * loaded.num_players() if turns else own)
    np.testing.assert_allclose(found, team_value(game.team, policy), rtol=1e-13)


def test_the_best_team_of_tiny_hanabi():
    """All 3⁸ deterministic teams: the best one returns 10, none more, and so does full sight; counted by the payoffs too."""
    game = walked("tiny_hanabi", view="information")
    first, second = map(len, game.seen)
    assert (first, second) == (2, 6)
    teams = np.array(list(itertools.product(range(3), repeat=first + second)))
    columns = np.where(np.asarray(game.team.active) == 0, 0, first) + np.minimum(game.label, second - 1)
    policies = jnp.asarray(np.eye(3)[teams[:, columns]])
    team = game.team

    @jax.jit
    @jax.vmap
    def evaluate(policy):
        return team.initial @ team.dynamics.resolvent(policy).values((policy * team.reward).sum(-1))

    returns = np.asarray(evaluate(policies))
    assert returns.max() == 10.0
    assert float(team.initial @ optimal_values(team)) == 10.0
    payoff = np.array(
        [int(x) for x in pyspiel.load_game("tiny_hanabi").get_parameters().get("payoff", PAYOFF).split(";")]
    )
    payoff = payoff.reshape(2, 2, 3, 3)
    texts = {text: number for number, text in enumerate(game.seen[1])}
    by_hand = np.zeros(len(teams))
    for c, d in itertools.product(range(2), repeat=2):
        a = teams[:, game.seen[0].index(f"p0:d{c}")]
        replies = teams[:, [first + texts[f"p1:d{d} p0:a{x}"] for x in range(3)]]
        by_hand += payoff[c, d, a, replies[np.arange(len(teams)), a]] / 4
    np.testing.assert_array_equal(returns, by_hand)
    assert (returns == 10).sum() == (by_hand == 10).sum() > 0


PAYOFF = "10;0;0;4;8;4;10;0;0;0;0;10;4;8;4;0;0;10;0;0;10;4;8;4;0;0;0;10;0;0;4;8;4;10;0;0"


def test_the_tables_of_tiny_hanabi():
    """55 histories: 3 of chance, 36 ends, 4 + 12 decisions. Chance is the start; nothing is paid before the second action."""
    game = openspiel_game("tiny_hanabi", most=55)
    team = game.team
    assert (team.agents, team.factors, team.dynamics.horizon, team.reward.shape) == (2, None, 2, (24, 3))
    np.testing.assert_array_equal(team.initial, np.repeat([0.25, 0], [4, 20]))
    np.testing.assert_array_equal(team.active, np.repeat([0, 1], 12))
    assert not np.asarray(team.reward)[:12].any()
    np.testing.assert_array_equal(np.asarray(team.reward)[12:].ravel(), np.array(PAYOFF.split(";"), float))
    assert game.seen[0] == ("p0:d0", "p0:d1")
    assert [game.seen[1][o] for o in game.label[12:15]] == ["p1:d0 p0:a0", "p1:d0 p0:a1", "p1:d0 p0:a2"]
    first = game.tied(np.repeat(np.arange(24.0)[:, None], 3, 1))[
        :, 0
    ]  # the first state at which its agent sees the same
    np.testing.assert_array_equal(first[:12], [0, 0, 2, 2, *[4] * 8])
    np.testing.assert_array_equal(first[12:], [*range(12, 18), *range(12, 18)])
    with pytest.raises(InputError, match="GAME: found more than 54 histories, expected a game of at most 54"):
        openspiel_game("tiny_hanabi", most=54)


def unpadded(stage):
    """The same stage without the states that nothing enters, each with its clock."""
    team, world = stage.team, stage.team.dynamics
    steps, contexts = world.horizon, world.kernel.index.shape[1]
    index, prob = (
        np.asarray(x).reshape(steps * contexts, *x.shape[2:]) for x in (world.kernel.index, world.kernel.prob)
    )
    clock = np.repeat(np.arange(steps), contexts)
    last = clock == steps - 1
    after = np.where(last[:, None, None], 0, index + (clock[:, None, None] + 1) * contexts)
    prob = np.where(last[:, None, None], 0.0, prob)
    there = np.asarray(team.initial) > 0
    while True:
        more = there.copy()
        more[after[there][prob[there] > 0]] = True
        if (more == there).all():
            break
        there = more
    number = np.cumsum(there) - 1
    dynamics = Successors(
        jnp.asarray(number[after[there]]),
        jnp.asarray(prob[there]),
        jnp.asarray(1.0),
        clock=jnp.asarray(clock[there]),
        horizon=steps,
    )
    seen = np.unique(np.asarray(team.observation)[there], return_inverse=True)[1]
    small = dataclasses.replace(
        team,
        dynamics=dynamics,
        reward=team.reward[there],
        initial=team.initial[there],
        active=team.active[there],
        observation=jnp.asarray(seen),
    )
    return Stage(small, stage.current[there], stage.target[there], stage.order), there


def test_what_fills_the_steps_changes_no_number():
    """A file holds as many states for every step: numbers are those of the histories alone."""
    game = walked("tiny_hanabi", view="information")
    current, target = random_policy(game, 1), random_policy(game, 2)
    stage = Stage(game.team, *map(jnp.asarray, (current, target)), jnp.arange(2))
    small, there = unpadded(stage)
    assert there.sum() < len(there)
    whole, part = evaluate_stage(stage), evaluate_stage(small)
    for field in part._fields:
        if field in ("layers", "rounding"):
            continue
        found, expected = np.asarray(getattr(whole, field)), np.asarray(getattr(part, field))
        if found.shape != expected.shape:
            found = found[..., there]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13, err_msg=field)


# ----------------------------------------------------------------------------------------------------------------- the walk


class Play:
    """A state of a game of one's own: nodes by history, as OpenSpiel's states answer."""

    def __init__(self, nodes, history=()):
        self.nodes, self.history = nodes, history
        self.kind, *self.about = nodes[history]

    def is_terminal(self):
        return self.kind == "end"

    def is_chance_node(self):
        return self.kind == "chance"

    def is_simultaneous_node(self):
        return self.kind == "both"

    def returns(self):
        return list(self.about[-1]) if isinstance(self.about[-1], tuple) else [float(self.about[-1])] * 2

    def chance_outcomes(self):
        return self.about[0]

    def current_player(self):
        return self.kind

    def legal_actions(self, player=None):
        return self.about[0]

    def child(self, action):
        return Play(self.nodes, (*self.history, action))

    def history_str(self):
        return str(self.history)

    def information_state_string(self, player):
        return self.about[1]


class Rules:
    """The game of such states, with information states."""

    provides_information_state_string, provides_observation_string = True, False

    class dynamics:
        name = "SEQUENTIAL"

    def __init__(self, nodes):
        self.nodes = nodes

    def get_type(self):
        return self

    def num_players(self):
        return 2

    def new_initial_state(self):
        return Play(self.nodes)


def own_game(nodes, view="information"):
    tree = openspiel_walk.Tree(Rules(nodes), view, True)
    tree.walk()
    return openspiel._Tables(tree.arrays()).game(view)


END = ("end", 0.0)


def test_rewards_at_every_place():
    """Paid before the first decision (2), after it (to 5), by chance that follows (to 7 or 1), at the end: all of it counts."""
    nodes = {
        (): ("chance", [(0, 0.25), (1, 0.75), (2, 0.0)], 0.0),
        (0,): (0, [0, 4], "a", 2.0),
        (0, 0): ("end", 3.0),
        (0, 4): ("chance", [(0, 0.5), (1, 0.5)], 5.0),
        (0, 4, 0): ("end", 7.0),
        (0, 4, 1): (1, [9], "c", 1.0),
        (0, 4, 1, 9): ("end", 11.0),
        (1,): (0, [4], "b", 0.0),
        (1, 4): ("end", -1.0),
    }
    game = own_game(nodes)
    team = game.team
    assert game.actions == ((0, 4, 9), (0, 4, 9))
    assert game.seen == (("a", "b"), ("c",))
    np.testing.assert_array_equal(game.offered[:2], [[True, True, False], [False, True, False]])
    np.testing.assert_array_equal(game.offered[2:], [[False, False, True], [True, False, False]])  # at the end: one
    np.testing.assert_array_equal(game.label, [0, 1, 0, 3])  # what is no decision shares no row with one
    np.testing.assert_array_equal(team.reward, [[3, 4, 3], [-1, -1, -1], [10, 10, 10], [0, 0, 0]])
    np.testing.assert_array_equal(team.active, [0, 0, 1, 1])
    kernel = jax.tree.map(np.asarray, team.dynamics.kernel)
    np.testing.assert_array_equal(kernel.prob[0], [[[1, 0], [0.5, 0.5], [1, 0]], [[1, 0]] * 3])
    np.testing.assert_array_equal(kernel.index[0, 0, 1], [0, 1])  # to the decision of agent 1, or over
    assert kernel.index[0, 0, 0, 0] == kernel.index[0, 1, 0, 0] == 1
    policy = np.array([[0.25, 0.75, 0.0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 0]])
    expected = 0.25 * (0.25 * 3 + 0.75 * (0.5 * 7 + 0.5 * 11)) + 0.75 * -1
    assert abs(team_value(team, policy) - expected) < 1e-15


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({(): ("chance", [(0, 0.5), (1, 0.4)], 0.0)}, "chance node, probabilities [0.5, 0.4]"),
        ({(): ("chance", [(0, 1.5), (1, -0.5)], 0.0)}, "chance node, probabilities [1.5, -0.5]"),
        ({(): ("chance", [(0, 1.0)], 0.0), (0,): END}, "GAME, an episode without a decision"),
        ({(): (0, [], "a", 0.0)}, "GAME, no legal action after '()'"),
        ({(): (0, [0], "a", 0.0), (0,): ("end", float("nan"))}, "GAME, payoffs [nan, nan]"),
        (
            {(): (0, [0], "a", 0.0), (0,): ("end", (1.0, 1.5))},
            "GAME, payoffs [1.0, 1.5] after '(0,)', though it declares",
        ),
        ({(): ("both", [0], "a", 0.0), (0,): END}, "GAME, turns and simultaneous moves"),
        (
            {
                (): ("chance", [(0, 0.5), (1, 0.5)], 0.0),
                (0,): (0, [0, 1], "a", 0.0),
                (1,): (0, [0], "a", 0.0),
                **{(i, a): END for i in range(2) for a in range(2)},
            },
            "view, information, where player 0 has different actions though it sees the same",
        ),
    ],
)
def test_what_is_no_team_is_refused(nodes, message):
    with pytest.raises(openspiel_walk.RefusedError) as error:
        own_game(nodes)
    assert ", ".join(error.value.args).startswith(message)


def test_the_estimate():
    """Knuth's estimate is exact where every path branches alike, and right on average: 55 of tiny_hanabi, 31 of a comb."""
    assert openspiel_walk.about(pyspiel.load_game("tiny_hanabi"), 1000) == 55
    comb = {(0,) * d: (0, [0, 1], "a", 0.0) for d in range(15)} | {(0,) * 15: END}
    comb |= {(*(0,) * d, 1): END for d in range(15)}
    openspiel_walk.count(Rules(comb), 31)
    with pytest.raises(openspiel_walk.RefusedError, match="more than 30 histories"):
        openspiel_walk.count(Rules(comb), 30)
    mean = [0.0]
    for depth in range(15, 0, -1):  # one path: 1 at an end, 1 + 2 × (an end or the rest)
        mean.append(1 + 2 * (0.5 + 0.5 * (mean[-1] if depth < 15 else 1)))
    assert mean[-1] == 31
    assert 3 <= openspiel_walk.about(Rules(comb), 1000) < 2**16


# ------------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nogame", {}, "GAME: found 'nogame', expected a game of OpenSpiel; identical payoffs have bridge_uncon"),
        ("kuhn_poker", {}, "GAME: found 'kuhn_poker' with utility ZERO_SUM, expected identical payoffs: a team"),
        ("add_noise(game=tiny_hanabi(),epsilon=1.0,seed=1)", {}, "though it declares identical ones, expected identical payoffs"),
        ("bridge_uncontested_bidding", {}, "whose chance nodes are sampled, expected chance nodes with all outcomes"),
        ("hanabi", {}, "or more (Knuth's estimate), expected a game of at most 250,000"),
        ("coop_box_pushing", {}, "or more (Knuth's estimate), expected a game of at most 250,000"),
        ("python_ant_foraging", {}, "or more (Knuth's estimate), expected a game of at most 250,000"),
        ("tiny_hanabi(", {}, "GAME: found 'tiny_hanabi(' (Missing closing bracket ')'.), expected a game that OpenSpiel loads"),
        ("tiny_hanabi", {"parameters": {"foo": 3}},
         "parameter foo: found no such parameter of tiny_hanabi, expected one of num_actions, num_chance, num_players, payoff"),
        ("matrix_coordination", {"parameters": {"a": 1}}, "expected none: it takes no parameter"),
        ("tiny_hanabi", {"parameters": {"num_players": 3}}, "(tiny_hanabi.h:65 payoff_.size() == expected_payoff_size; payoff"),
        ("coop_box_pushing", {"parameters": {"horizon": "x"}}, "(Wrong type for parameter horizon. Expected type: kInt"),
        ("coop_box_pushing", {"parameters": {"horizon": 0}}, "GAME: found an episode without a decision"),
        ("coop_box_pushing(horizon=2)", {"parameters": {"horizon": 2}}, "parameter horizon: found the parameter twice"),
        ("hanabi(players=2, colors=1)", {"parameters": {"colors": 2}}, "parameter colors: found the parameter twice"),
        ("tiny_hanabi", {"parameters": {"a b": 3}}, "parameter a b: found no name of a parameter"),
        ("tiny_hanabi", {"parameters": {"payoff": [1]}}, "parameter payoff: found [1], expected a text, a number, True or False"),
        ("tiny_hanabi", {"parameters": {"payoff": np.inf}}, "parameter payoff: found inf"),
        ("tiny_hanabi", {"view": "all"}, "view: found 'all', expected information or observation or everything"),
        ("tiny_hanabi", {"most": 0}, "most: found 0, expected an integer, at least 1"),
        ("repeated_game(stage_game=matrix_coordination(),num_repetitions=-3)", {}, "(ValueError: vector::reserve), expected"),
    ],
)  # fmt: skip
def test_bad_games(name, settings, message):
    with pytest.raises(InputError) as error:
        openspiel_game(name, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_parameters_reach_the_game():
    by_name, by_text = openspiel_game("coop_box_pushing", {"horizon": 1}), openspiel_game("coop_box_pushing(horizon=1)")
    assert by_name.team.dynamics.horizon == by_text.team.dynamics.horizon == 1
    for text, parameters in (
        ("hanabi(players=2,colors=1)", {"ranks": 2, "hand_size": 2, "max_information_tokens": 1, "max_life_tokens": 1}),
        (
            "hanabi()",
            {"players": 2, "colors": 1, "ranks": 2, "hand_size": 2, "max_information_tokens": 1, "max_life_tokens": 1},
        ),
    ):
        assert openspiel_game(text, parameters).team.dynamics.horizon == 2
    assert openspiel_game("coop_box_pushing", {"horizon": 1, "fully_observable": True}).team.agents == 2


def test_more_than_the_memory_is_refused(monkeypatch):
    """With the estimate, before the tables are made."""
    monkeypatch.setattr(sizes, "memory", lambda: 10**5)
    with pytest.raises(
        InputError, match=r"GAME: found 256, which takes .* \(tables and the report of so many states\), expected at"
    ):
        openspiel_game("coop_box_pushing", {"horizon": 2})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("raise ImportError", r"open_spiel: found not installed, expected pip install 'teamtr-jax\[games\]'"),
        ("while True: pass", r"GAME: found 'tiny_hanabi' \(more than 1 s of the processor\)"),
        ("raise OSError('no\\nthing')", r"GAME: found 'tiny_hanabi' \(thing\)"),
        (
            "import os; os.kill(os.getpid(), 15)",
            r"'tiny_hanabi' \(it ends the process, SIGTERM\), expected a game that can be",
        ),
        (
            "import os, sys; sys.stderr.write('as told\\n'); sys.stderr.flush(); os.kill(os.getpid(), 15)",
            r"\(it ends the process, SIGTERM: as told\), expected a game that can be walked to its ends",
        ),
    ],
)
def test_without_openspiel(monkeypatch, tmp_path, module, message):
    (tmp_path / "pyspiel.py").write_text(module + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(openspiel, "SECONDS", 1)
    with pytest.raises(InputError, match=message):
        openspiel_game("tiny_hanabi")


# ------------------------------------------------------------------------------------------------------------------- stages


@pytest.mark.parametrize("name", ["tiny_hanabi", "coop_box_pushing(horizon=2)"])
def test_a_game_is_a_stage_file(tmp_path, name):
    """Written and read: the same arrays, ties included, with a random target."""
    game = walked(name, view="information")
    stage = Stage(game.team, *(jnp.asarray(random_policy(game, k)) for k in (1, 2)), jnp.arange(2))
    write_stage(stage, tmp_path / "game.npz")
    again = read_stage(tmp_path / "game.npz")
    for found, expected in zip(jax.tree.leaves(again), jax.tree.leaves(stage), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_step_of_improvement_climbs_tiny_hanabi():
    """From the uniform team, which has the mean of the payoffs, both exact steps gain and keep ties."""
    game = walked("tiny_hanabi", view="information")
    stage = improvement_stage(game.team, jnp.asarray(game.offered / game.offered.sum(-1, keepdims=True)), 0.1, range(2))
    returns = np.asarray(evaluate_stage(stage).objective)
    assert abs(returns[0] - np.mean([float(x) for x in PAYOFF.split(";")])) < 1e-14
    assert all(np.diff(returns) > 0.1)
    np.testing.assert_array_equal(game.tied(np.asarray(stage.target)), stage.target)
