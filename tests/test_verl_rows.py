"""Rows of a log from what verl's batches hold: a stand-in for `LogWriter.ids`, numbers that can be followed by hand."""

import numpy as np
import pytest

from teamtr_jax.integrations.messages import message_numbers
from teamtr_jax.integrations.verl_rows import Responses, places, require_behaviour, rows_scored_twice, written
from teamtr_jax.monitor import token_log
from teamtr_jax.validation import InputError

UID = ["b", "a", "b", "a", "b", "b", "pad"]
"""Balanced: groups are apart; the last row fills the batch up."""


def responses(**changes) -> Responses:
    """Seven rows of at most four tokens; row 3 has a tool's answer, row 5 nothing of its own."""
    n, t = len(UID), 4
    wrote = (
        np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
        == 1
    )
    given = dict(
        uid=UID, rollout=places(UID), output=np.zeros(n, int), real=np.arange(n) < 6, wrote=wrote,
        token=np.arange(n * t).reshape(n, t), behaviour=np.where(wrote, -1.0, 0.0), reward=np.arange(n) / 10, old=None,
    )  # fmt: skip
    return Responses(**{**given, **changes})


def ids(prompts, group):
    """As `LogWriter.ids`, from 7 on."""
    return np.repeat(np.arange(7, 7 + prompts), group), np.tile(np.arange(group), prompts)


def rows_of(given: Responses, again=None, agent=0):
    shape = given.wrote.shape
    current = given.behaviour - 0.5
    again = np.full(shape, np.nan) if again is None else again
    return written(given, current, given.behaviour - 0.25, again, ids, agent)


def test_every_token_of_the_policy_once():
    """Rows, ids, messages; no token of a tool's, none of a row that fills up; a rollout without token keeps its row."""
    rows = rows_of(responses())
    assert rows["token"].tolist() == [0, 1, 4, 8, 9, 10, 12, 14, 15, 16, 17, -1]
    assert rows["prompt"].tolist() == [7, 7, 8, 7, 7, 7, 8, 8, 8, 7, 7, 7]
    assert rows["rollout"].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 3]
    assert rows["turn"].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert rows["t"].tolist() == [0, 1, 0, 0, 1, 2, 0, 0, 1, 0, 1, -1]
    assert rows["reward"].tolist() == [0.0, 0.0, 0.1, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3, 0.4, 0.4, 0.5]
    zero = np.zeros(12, int)
    log = token_log({**rows, "stage": zero, "update": zero})
    assert log.rows == 11
    np.testing.assert_array_equal(rows["logp_new"][:11] - rows["logp_current"][:11], 0.25)


def test_a_rollout_of_several_responses():
    """Messages are numbered on in the order of its responses, whatever their order in the batch; the reward is the last one's."""
    output = np.array([1, 0, 0, 0, 0, 0, 0])
    uid, rollout = ["b", "a", "b", "a", "c", "c", "pad"], np.array([0, 0, 0, 1, 0, 1, 0])
    rows = rows_of(responses(uid=uid, rollout=rollout, output=output))
    assert rows["turn"].tolist() == [1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]
    both = rows["prompt"] == 7
    assert set(rows["reward"][both]) == {0.0}  # row 0 is the last response; row 2 has .2
    empty = responses(
        uid=["b"] * 6 + ["pad"], rollout=np.array([0, 1, 2, 3, 4, 4, 0]), output=np.array([0, 0, 0, 0, 0, 1, 0])
    )
    rows = rows_of(empty)
    assert -1 not in rows["t"]  # its other response has tokens
    assert set(rows["reward"][rows["rollout"] == 4]) == {0.5}


def test_scored_twice():
    """An eighth of the rollouts and four at least, of several prompts; of a rollout all rows or none; last first."""
    given = responses()  # b: rows 0, 2, 4, 5; a: 1, 3
    assert rows_scored_twice(given, 1).tolist() == [1, 5, 2, 0]
    assert rows_scored_twice(given, 5).tolist() == [3, 1, 5, 2, 0]
    assert rows_scored_twice(given, 100).size == 7
    many = responses(uid=[str(i // 4) for i in range(96)], rollout=np.arange(96) % 4, real=np.ones(96, bool))
    assert rows_scored_twice(many, 1).tolist() == list(range(0, 96, 8))[::-1]
    several = responses(uid=["b"] * 7, rollout=np.array([0, 0, 1, 2, 3, 4, 0]))
    assert rows_scored_twice(several, 1).tolist() == [4, 3, 2, 1, 0]
    assert rows_scored_twice(responses(real=np.zeros(7, bool)), 1).size == 0
    again = np.where(np.isin(np.arange(7), [0, 2, 3])[:, None], -1.5, np.nan) * np.ones((7, 4))
    rows = rows_of(given, again)
    twice = ~np.isnan(rows["logp_again"])
    assert set(zip(rows["prompt"][twice].tolist(), rows["rollout"][twice].tolist(), strict=True)) == {
        (7, 0),
        (7, 1),
        (8, 1),
    }
    joined = given._replace(
        uid=["b", "b", *UID[2:]], rollout=np.array([0, 0, 1, 0, 2, 3, 0]), output=np.array([0, 1, 0, 0, 0, 0, 0])
    )
    rows = rows_of(joined, again)  # of rollout (b, 0) one response was scored again, the other was not
    assert np.isnan(rows["logp_again"][(rows["prompt"] == 7) & (rows["rollout"] == 0)]).all()


def test_who_writes():
    """One agent, or one for every message; then every update is of all."""
    assert set(rows_of(responses(), agent=3)["agent"]) == {3}
    assert set(rows_of(responses(), agent=3)["updated"]) == {3}
    rows = rows_of(responses(), agent=lambda turn: turn % 2)
    assert rows["agent"].tolist() == rows["turn"].tolist()
    assert set(rows["updated"]) == {-1}
    for wrong in (lambda turn: turn[0], lambda turn: turn - 1, lambda turn: turn * 0.5):
        with pytest.raises(InputError, match="agent: found dtype"):
            rows_of(responses(), agent=wrong)


def test_a_missing_log_probability():
    """0 where the trainer is not certain, NaN, −∞: refused by row and token; certain tokens and what nobody wrote pass."""
    good = responses()
    require_behaviour(good, good.behaviour)
    last = np.arange(7)[:, None] == 6  # fills the batch up: nobody needs its numbers
    require_behaviour(
        good._replace(wrote=good.wrote | last, behaviour=np.where(last, np.nan, good.behaviour)), good.behaviour
    )
    certain = good._replace(behaviour=np.zeros((7, 4)))
    require_behaviour(certain, np.where(good.wrote, -0.1, -3.0))
    one = np.where(np.arange(28).reshape(7, 4) == 9, -1.5, -0.1)
    here = good._replace(behaviour=np.where(one < -1, 0.0, good.behaviour))
    with pytest.raises(InputError, match=r"found 0.0 in row 2, token 1, where the trainer has -1.5"):
        require_behaviour(here, one)
    require_behaviour(here, one + 0.6)
    with pytest.raises(InputError, match=r"found 0.0 in row 2, token 0, where the trainer has -0.4"):  # three of them
        require_behaviour(certain, np.full((7, 4), -0.4))
    require_behaviour(here, one, cuts=True)
    for bad in (np.nan, -np.inf):
        holes = good.behaviour.copy()
        holes[3, 2] = bad
        with pytest.raises(InputError, match=r"in row 3, token 2"):
            require_behaviour(good._replace(behaviour=holes), good.behaviour)


def test_messages():
    """A message ends where somebody else writes."""
    wrote = np.array([[0, 1, 1, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0]]) == 1
    assert message_numbers(wrote)[0][wrote[0]].tolist() == [0, 0, 1, 2]
