"""Teams from arrays as pymdptoolbox and quantecon keep them, against loops in NumPy."""

import numpy as np
import pytest
from scipy import sparse

from teamtr_jax.teams import team_from_arrays
from teamtr_jax.validation import InputError

S, A = 4, 3


def process(seed=0, states=S, actions=A):
    """`P[s, a, s']` with zeros, `r[s, a, s']`, and the expected reward."""
    rng = np.random.default_rng(seed)
    weight = rng.random((states, actions, states)) * (rng.random((states, actions, states)) < 0.6)
    weight[..., 0] += 0.1
    transition, reward = weight / weight.sum(-1, keepdims=True), rng.normal(size=(states, actions, states))
    expected = np.zeros((states, actions))
    for s in range(states):
        for a in range(actions):
            for t in range(states):
                expected[s, a] += transition[s, a, t] * reward[s, a, t]
    return transition, reward, expected


def table(team):
    """`P[s, a, s']` of a team, summed over its slots in a loop."""
    index, prob = np.asarray(team.dynamics.index), np.asarray(team.dynamics.prob)
    out = np.zeros((*index.shape[:2], len(index)))
    for s, a, k in np.ndindex(index.shape):
        out[s, a, index[s, a, k]] += prob[s, a, k]
    return out


def by_action(array):
    return np.moveaxis(array, 1, 0)


TRANSITION, REWARD, EXPECTED = process()
LISTS = [sparse.csr_matrix(TRANSITION[:, a]) for a in range(A)]
PAID = [sparse.coo_array(REWARD[:, a]) for a in range(A)]
OBJECTS = np.empty(A, object)
OBJECTS[:] = LISTS
OBJECTS_DENSE = np.empty(A, object)
OBJECTS_DENSE[:] = list(by_action(TRANSITION))


@pytest.mark.parametrize(
    ("transition", "reward"),
    [
        (TRANSITION, EXPECTED),
        (TRANSITION, REWARD),
        (by_action(TRANSITION), EXPECTED),
        (by_action(TRANSITION), by_action(REWARD)),
        (list(by_action(TRANSITION)), EXPECTED.tolist()),
        (LISTS, EXPECTED),
        (LISTS, PAID),
        (tuple(LISTS), by_action(REWARD)),
        (OBJECTS, PAID),
        (OBJECTS_DENSE, list(by_action(REWARD))),
        ([TRANSITION[:, 0], *LISTS[1:]], PAID),
    ],
    ids="SAS-SA SAS-SAS ASS-SA ASS-ASS list-SA sparse-SA sparse-sparse sparse-ASS objects-sparse objects-list mixed".split(),
)
def test_every_form_is_the_same_team(transition, reward):
    team = team_from_arrays(transition, reward, 0.9)
    np.testing.assert_allclose(table(team), TRANSITION, rtol=1e-15)
    np.testing.assert_allclose(team.reward, EXPECTED, rtol=1e-14)
    assert (team.agents, float(team.dynamics.discount), team.factors) == (1, 0.9, None)
    np.testing.assert_array_equal(team.initial, np.full(S, 0.25))


def test_a_reward_of_the_state_is_paid_whatever_is_done():
    team = team_from_arrays(TRANSITION, np.arange(S), 0.5)  # integers are taken for numbers
    np.testing.assert_array_equal(team.reward, np.repeat(np.arange(S, dtype=float)[:, None], A, 1))


def test_as_many_actions_as_states():
    """Nothing tells the axes apart, so that the order is said; each is right then, and they differ."""
    transition, reward, expected = process(1, 3, 3)
    with pytest.raises(
        InputError, match=r"order: found none, for transition of shape \[3, 3, 3\], expected ASS or SAS: the shape"
    ):
        team_from_arrays(transition, reward, 0.9)
    for order, arrays in (("SAS", (transition, reward)), ("ASS", map(by_action, (transition, reward)))):
        team = team_from_arrays(*arrays, 0.9, order=order)
        np.testing.assert_allclose(table(team), transition, rtol=1e-15)
        np.testing.assert_allclose(team.reward, expected, rtol=1e-14)
    np.testing.assert_allclose(table(team_from_arrays(transition, reward, 0.9, order="ASS")), by_action(transition))
    lists = [sparse.csr_array(transition[:, a]) for a in range(3)]
    np.testing.assert_allclose(table(team_from_arrays(lists, expected, 0.9)), transition)  # a list is by action


def test_an_action_of_reward_minus_infinity_is_not_offered():
    """quantecon's sign for an action that there is not: it does what the first one does that there is."""
    reward = EXPECTED.copy()
    reward[1, 0] = reward[2, 1] = reward[2, 2] = -np.inf
    team = team_from_arrays(TRANSITION, reward, 0.9)
    found, transition = np.asarray(team.reward), table(team)
    for s, a, instead in ((1, 0, 1), (2, 1, 0), (2, 2, 0)):
        assert found[s, a] == EXPECTED[s, instead]
        np.testing.assert_allclose(transition[s, a], TRANSITION[s, instead])
    np.testing.assert_array_equal(found[reward > -np.inf], EXPECTED[reward > -np.inf])


def test_what_stands_twice_or_is_zero_in_a_sparse_matrix():
    """Entries of one place add up, stored zeros change nothing, and a reward where nothing leads is never paid."""
    matrix = sparse.coo_array(([0.5, 0.25, 0.25, 0.0, 1.0], ([0, 0, 0, 1, 1], [1, 0, 0, 0, 1])), (2, 2))
    pays = sparse.coo_array(([2.0, 1e6], ([0, 1], [0, 0])), (2, 2))
    team = team_from_arrays([matrix], [pays], 0.5)
    np.testing.assert_array_equal(table(team)[:, 0], [[0.5, 0.5], [0, 1]])
    np.testing.assert_array_equal(team.reward, [[1.0], [0.0]])
    assert team.dynamics.index.shape == (2, 1, 2)
    nothing = sparse.coo_array(([], ([], [])), (2, 2))
    np.testing.assert_array_equal(team_from_arrays([matrix], [nothing], 0.5).reward, [[0.0], [0.0]])


def test_speakers_and_start():
    """Two agents, as in `gymnasium_team`: state s·2 + speaker, the turn going round, the first one starts."""
    start = np.array([0.0, 1.0, 0.0, 0.0])
    team = team_from_arrays(TRANSITION, EXPECTED, 0.9, agents=2, initial=start)
    np.testing.assert_array_equal(team.initial, np.eye(8)[2])
    np.testing.assert_array_equal(team.active, np.tile([0, 1], 4))
    np.testing.assert_allclose(table(team)[0::2, :, 1::2], TRANSITION)
    np.testing.assert_allclose(table(team)[1::2, :, 0::2], TRANSITION)
    np.testing.assert_array_equal(team.reward, np.repeat(EXPECTED, 2, 0))
    drawn = team_from_arrays(TRANSITION, EXPECTED, 0.9, agents=2, router="random")
    np.testing.assert_allclose(table(drawn)[0::2, :, 0::2], TRANSITION / 2)


def changed(array, place, value):
    out = array.copy()
    out[place] = value
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"transition": np.ones((2, 3, 4)) / 4},
            "transition: found shape [2, 3, 4], expected shape [A, S, S] or [S, A, S]",
        ),
        ({"transition": np.ones((3, 3))}, "transition: found shape [3, 3], expected shape [A, S, S] or [S, A, S]"),
        ({"transition": np.ones((0, 3, 3))}, "transition: found shape [0, 3, 3]"),
        ({"order": "ASS"}, "transition: found shape [4, 3, 4], expected shape [A, S, S]"),
        ({"order": "SSA"}, "order: found 'SSA', expected ASS or SAS"),
        ({"transition": LISTS, "order": "SAS"}, "order: found SAS, expected ASS: the list is by action"),
        (
            {"transition": LISTS[0]},
            "transition: found one csr_matrix, expected a list of sparse matrices, one for each action",
        ),
        ({"transition": [LISTS[0], LISTS[1][:3]]}, "transition, action 1: found shape (3, 4), expected shape (4, 4)"),
        ({"transition": [[1.0], [0.5, 0.5]]}, "transition: found arrays of different shapes"),
        ({"transition": TRANSITION.astype(np.float32)}, "transition: found dtype float32, expected dtype float64"),
        (
            {"transition": [x.astype(np.float32) for x in LISTS]},
            "transition: found dtype float32, expected dtype float64",
        ),
        ({"transition": TRANSITION * 0.999}, "transition, state 0, action 0: found a sum of 0.999"),
        ({"transition": changed(TRANSITION, (1, 2), 0.0)}, "transition, state 1, action 2: found a sum of "),
        ({"transition": changed(TRANSITION, (1, 2, 0), np.nan)}, "transition: found nan at"),
        ({"transition": changed(TRANSITION, (1, 2, 0), -0.5)}, "transition: found -0.5 at"),
        ({"reward": EXPECTED.T}, "reward: found shape [3, 4], expected shape [4], [4, 3], or that of transition"),
        ({"reward": by_action(REWARD)}, "reward: found shape [3, 4, 4], expected shape [S, A, S]"),
        ({"reward": REWARD[:, :2]}, "reward: found 4 states and 2 actions, expected 4 and 3"),
        ({"reward": changed(EXPECTED, (0, 1), np.nan)}, "reward: found nan"),
        ({"reward": changed(EXPECTED, (0, 1), np.inf)}, "reward: found inf"),
        ({"reward": changed(REWARD, (0, 1, 0), -np.inf)}, "reward: found -inf"),
        ({"reward": changed(EXPECTED, 2, -np.inf)}, "reward: found -inf for every action of state 2"),
        ({"discount": 1.0}, "discount: found 1.0"),
        ({"agents": 0}, "agents: found 0, expected an integer, at least 1"),
        ({"router": "auction"}, "router: found 'auction', expected round_robin or random"),
        ({"initial": np.full(3, 1 / 3)}, "initial: found shape [3], expected shape [4]"),
        ({"initial": np.full(4, 0.3)}, "initial: found row [] that sums to 1.2"),
    ],
)
def test_bad_arrays(change, message):
    with pytest.raises(InputError) as error:
        team_from_arrays(**{"transition": TRANSITION, "reward": EXPECTED, "discount": 0.9} | change)
    assert str(error.value).startswith(message)
