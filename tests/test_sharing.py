"""Who shares parameters with whom: what is refused, and what the driver books of an update that moves several agents."""

import math

import numpy as np
import pytest

from teamtr_jax.records import update_lines
from teamtr_jax.schedules import fresh, once, single
from teamtr_jax.sharing import Sharing, apart, sharers_of
from teamtr_jax.stage import Backend, run_stage
from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        ((), r"\(\)"),
        ((0, 2), r"\[0, 2\]"),
        ((1, 0), r"\[1, 0\]"),
        ((0, -1), "-1"),
        ((0, True), "True"),
        ((0, 0.5), "0.5"),
        ("001", "'001'"),
        (None, "None"),
    ],
)
def test_declarations_that_are_refused(declared, found):
    with pytest.raises(InputError, match=rf"^sharers: found {found}, expected for each agent the number of its param"):
        Sharing(declared)


def test_other_refusals():
    with pytest.raises(InputError, match=r"^updates: found 'both', expected sequential or joint"):
        Sharing((0, 0), "both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"^--sharers: found 2 numbers, expected 3, one for each agent"):
        sharers_of("--sharers", (0, 0), 3)
    backend = Backend(2, lambda state, key: None, lambda *_: None, lambda *_: (0, {}), sharing=Sharing((0, 0, 0)))
    with pytest.raises(InputError, match=r"^sharing: found 3 agents, expected 2, those of the backend"):
        run_stage(backend, 0, [0, 1])


def test_who_moves():
    """Agents 0 and 2 share, agent 1 is alone; by hand."""
    for updates, leaders, credits in (
        ("sequential", (0, 1, 2), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("joint", (0, 1), [[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
    ):
        sharing = Sharing((0, 1, 0), updates)
        assert sharing.leaders == leaders
        assert (sharing.agents, sharing.sets, sharing.firsts, sharing.apart) == (3, 2, (0, 1), False)
        assert sharing.moves.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
        assert sharing.credits.astype(int).tolist() == credits
        for agent in range(3):
            assert sharing.moved(agent) == tuple(np.flatnonzero(sharing.moves[agent]))
            assert sharing.credited(agent) == tuple(np.flatnonzero(credits[agent]))
    assert apart(3) == Sharing((0, 1, 2))
    assert apart(3).apart


def stage(sharing, order, schedule):
    """Every update moves by a KL of 1/4; the state counts updates."""
    backend = Backend(
        3, lambda state, key: state, lambda state, data, agent, schedule: agent,
        lambda state, found, agent: (state + 1, {"surrogate": 0.5, "kl": 0.25}), cost=4, sharing=sharing,
    )  # fmt: skip
    return run_stage(backend, 0, order, schedule, budget=12)[1]


def test_a_stage_of_sharers():
    """Sequential: an update for each agent, each moves both sharers, and on one set of rollouts the KL no longer adds up."""
    sharing = Sharing((0, 1, 0))
    lines = update_lines(stage(sharing, [2, 1, 0], once))
    assert [(x["agent"], x["moved"], x["credited"]) for x in lines] == [
        (2, [0, 2], [2]), (1, [1], [1]), (0, [0, 2], [0]),
    ]  # fmt: skip
    assert [x["path_kl"] for x in lines] == [0.25, 0.5, math.inf]
    assert [x["path_kl"] for x in update_lines(stage(sharing, [2, 1, 0], fresh))] == [0.25] * 3
    # with networks of their own the same stage adds up
    alone = update_lines(stage(None, [2, 1, 0], once))
    assert [(x["path_kl"], x["moved"], x["credited"]) for x in alone] == [
        (0.25, [2], [2]), (0.5, [1], [1]), (0.75, [0], [0]),
    ]  # fmt: skip


def test_joint_updates_of_a_stage():
    """One update for each set of parameters: of two sets two, and no rollouts are asked for a third."""
    records = stage(Sharing((0, 1, 0), "joint"), [1, 0], fresh)
    lines = update_lines(records)
    assert [(x["agent"], x["moved"], x["credited"], x["rollouts"]) for x in lines] == [
        (1, [1], [1], 4), (0, [0, 2], [0, 2], 4),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"^order: found \[0, 1, 2\], expected a permutation of 2 agents"):
        stage(Sharing((0, 1, 0), "joint"), [0, 1, 2], fresh)
    led = update_lines(stage(Sharing((0, 0, 1), "joint"), [1, 0], fresh))  # the second set is led by agent 2
    assert [(x["agent"], x["moved"]) for x in led] == [(2, [2]), (0, [0, 1])]
    both = update_lines(stage(Sharing((0, 0, 1), "joint"), [1, 0], once))
    assert [x["path_kl"] for x in both] == [0.25, 0.5]  # of different agents: it adds up
    again = update_lines(stage(Sharing((0, 1, 0), "joint"), single(0), once))
    assert [(x["agent"], x["path_kl"]) for x in again] == [(0, 0.25), (0, math.inf)]


def test_records_of_other_programs():
    """A record that does not say whom it moved moved its agent."""
    (line,) = update_lines([UpdateRecord(0, 0, agent=1, resampled=True, surrogate=0.5, kl=0.25)])
    assert (line["moved"], line["credited"]) == ([1], [1])
