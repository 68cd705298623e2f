"""Messages of an external sampler: what it booked is kept as it is, and whatever is wrong with it is refused."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from text_teams import LLAMA, agent, params_of, rescored

from teamtr_jax.llm import pens
from teamtr_jax.llm.conversations import own_messages, reading_of
from teamtr_jax.llm.external import Written, ends, write_externally
from teamtr_jax.llm.pens import ExternalPen, Turn
from teamtr_jax.llm.text.drift import DriftPolicy
from teamtr_jax.llm.text_sampler import converse
from teamtr_jax.llm.text_team import TextTeam
from teamtr_jax.validation import InputError

ASKED = dict(cap=3, stops=((3,), (4, 5)), temperature=1.0, seed=0, vocabulary=12)
HALF = math.log(0.5)


def says(ids, logps):
    return write_externally(lambda *asked: (ids, logps), [[1]] * 2, **ASKED)


def test_messages_are_kept():
    found = says([[3], [4, 4, 5]], [[-1.0], [-2.0, 0.0, 1e-6]])
    assert found.ids.tolist() == [[3, 0, 0], [4, 4, 5]]
    assert found.logp.tolist() == [[-1, 0, 0], [-2, 0, 0]]
    assert found.stopped.all()
    capped = says([[1, 1, 1], [5, 5, 4]], [[HALF] * 3] * 2)
    assert not capped.stopped.any()
    assert capped.length.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("ids", "logps", "match"),
    [
        ([[3]], [[-1.0]], "ids: found 1 lists, expected 2"),
        ([[3], [3]], [[-1.0]], "log-probabilities: found 1 lists"),
        ([[3], [3]], None, "log-probabilities: found none, expected 2"),
        ([[3], [3]], [[-1.0], None], "row 1: log-probabilities: found none, expected 1"),
        ([[3], [1, 3]], [[-1.0], [-1.0]], "row 1: log-probabilities: found 1, expected 2"),
        ([[3], [1, 3]], [[-1.0], [-1.0, None]], "one that is missing is not 0"),
        ([[3], [1, 3]], [[-1.0], [-1.0, math.nan]], "found nan"),
        ([[3], [1, 3]], [[-1.0], [-1.0, -math.inf]], "found -inf"),
        ([[3], [1, 3]], [[-1.0], [-1.0, 0.01]], r"found 0\.01, expected finite numbers, at most 0"),
        ([[3], [1, 3]], [[-1.0], [-1.0, 1e-4]], r"found 0\.0001, expected finite numbers, at most 0"),
        ([[3], [12, 3]], [[-1.0], [-1.0] * 2], "row 1: ids: found 12, expected ids from 0 to 11"),
        ([[3], [-1, 3]], [[-1.0], [-1.0] * 2], "row 1: ids: found -1"),
        ([[3], [1.0, 3.0]], [[-1.0], [-1.0] * 2], "a list of integers"),
        ([[3], []], [[-1.0], []], "row 1: ids"),
        ([[3], [1, 1]], [[-1.0], [-1.0] * 2], "row 1: found 2 ids, the first stop after None"),
        ([[3], [3, 1]], [[-1.0], [-1.0] * 2], "row 1: found 2 ids, the first stop after 1"),
        ([[3], [1, 1, 1, 3]], [[-1.0], [-1.0] * 4], "row 1: found 4 ids"),
        ([[3], [4, 5, 3]], [[-1.0], [-1.0] * 3], "the first stop after 2"),
    ],
)
def test_what_is_wrong_is_refused(ids, logps, match):
    with pytest.raises(InputError, match=match):
        says(ids, logps)


def test_not_a_pair():
    with pytest.raises(InputError, match="found list, expected a pair"):
        write_externally(lambda *asked: [[3]], [[1]], **ASKED)


def test_it_writes_in_an_agents_place():
    """It is asked with the agent's own views; its numbers are booked; the others hear the text; every question has its seed."""
    asked = []

    def engine(prompts, cap, stops, temperature, seed):
        asked.append((prompts, cap, stops, temperature, seed))
        rng = np.random.default_rng(seed)
        ids = []
        for _ in prompts:
            message = rng.choice([4, 5, 6, 3], cap).tolist()
            ids.append(message[: ends(message, stops)])
        return ids, [[math.log(0.25)] * len(row) for row in ids]

    team = TextTeam((agent("a", cap=3), agent("b", replace(LLAMA, layers=1), cap=5)), turns=4, temperature=1.5)
    params = params_of(team)
    found = converse(team, params, ["abc", "c"], jax.random.key(0), 2, external={1: engine})
    assert found.settings.sampler == ("own", "engine")
    assert [x[1:4] for x in asked] == [(5, ((3,),), 1.5)] * 2
    assert len({x[4] for x in asked}) == 2
    view = found.views[1]
    for (prompts, *_), turn in zip(asked, (1, 3), strict=True):
        for row in range(4):
            assert prompts[row] == view.ids[row, : view.begin[row, turn]].tolist()
    for which in (0, 1):
        own, again = (
            own_messages(team, found, which),
            rescored(team, params[which], which, reading_of(team, found, which)),
        )
        assert (np.allclose(again, own.logp, atol=1e-4)) == (which == 0)  # trainer and sampler are two policies
    written = own.logp[reading_of(team, found, 1).own]
    np.testing.assert_allclose(written, math.log(0.25), rtol=1e-6)
    scribe = team.agents[1].scribe
    assert found.said[0][1] == scribe.read(found.ids[0, 1, : found.length[0, 1]])
    again = converse(
        team, params, ["abc", "c"], jax.random.key(0), 2, external={1: engine}, drift=DriftPolicy("resample", 1)
    )
    np.testing.assert_array_equal(again.ids[~found.drifted[:, 0], 0], found.ids[~found.drifted[:, 0], 0])
    assert again.redrawn[:, [1, 3]].any()
    assert [len({x[4] for x in asked[k:]}) for k in (0, 2)] == [4, 4]  # of a turn and an attempt


def test_of_several_hosts_the_first_asks(monkeypatch):
    """Another one asks nobody, and has what the first one heard."""
    heard = Written(
        np.array([[4, 3]], np.int32), np.array([[-1, -2]], np.float32), np.array([2], np.int32), np.array([True])
    )
    monkeypatch.setattr(pens, "on_first", lambda does: None)
    monkeypatch.setattr(pens, "from_first", lambda tree: jax.tree.map(lambda mine, first: first, tree, heard))
    turn = Turn(0, jax.random.key(0), 1, 1.0, halve=True, last=False)
    asked = []
    pen = ExternalPen(lambda *question: asked.append(question), agent("a", cap=2), [[5]], turn, 0)
    for x, y in zip(pen.write(np.ones(1, bool), 0), heard, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not asked
