"""Batches in which some instances keep their rollouts while others get new ones: the driver's books, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.schedules import Schedule, certificate_driven, path_shift, random_order
from teamtr_jax.stage import Backend, run_stage
from teamtr_jax.validation import InputError

N, AGENTS, COST = 4, 3, 5
KL = np.array([[0.0, 0.02, 0.08, 0.5], [0.01, 0.03, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
"""Of update i in instance j."""


def backend(used: list) -> Backend:
    """Instances that count updates; rollouts say which update they were drawn before, and carry the state that drew them."""
    drawn = []

    def rollout(state, key):
        drawn.append(key)
        return {"set": jnp.full(N, len(used)), "state": state, "key": jax.random.key(0)}

    def estimate(state, rollouts, agent, schedule):
        used.append((np.asarray(rollouts["set"]), np.asarray(rollouts["state"]), np.asarray(agent)))
        return rollouts

    def update(state, found, agent):
        number = len(used) - 1
        return state + 1, {"surrogate": np.zeros(N), "kl": KL[number], "seen": np.asarray(found["set"])}

    return Backend(AGENTS, rollout, estimate, update, cost=COST, batch=(N,))


def test_each_instance_keeps_or_gets_its_own_rollouts():
    """A tolerance of .12 is a path KL of 2·.12² = .0288: instances 2 and 3 exceed it at once, instance 1 after .02 + .03."""
    used: list = []
    _, records = run_stage(backend(used), jnp.zeros(N), [2, 0, 1], certificate_driven(0.12, None), jax.random.key(0))
    again = np.array([record.resampled for record in records])
    assert again.tolist() == [[True] * 4, [False, False, True, True], [False, True, False, True]]
    source = np.array([record.source for record in records])
    assert source.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 2, 1, 2]]
    assert [x[0].tolist() for x in used] == source.tolist()  # what every update was computed from
    assert [x[1].tolist() for x in used] == source.tolist()  # the state that drew it: as many updates old
    assert np.array([record.rollouts for record in records]).tolist() == (COST * again).tolist()
    np.testing.assert_allclose(
        [record.path_kl for record in records],
        [[0, 0.02, 0.08, 0.5], [0.01, 0.05, 0, 0.5], [0.01, 0, 0, 0]],
        atol=1e-15,
    )
    assert [x[2].tolist() for x in used] == [[2] * N, [0] * N, [1] * N]


def test_the_path_of_an_agent_that_moves_twice_is_unknown():
    """Its KLs do not add up: infinite until new rollouts are drawn, instance by instance."""
    turn = iter(([0, 0, 0, 0], [0, 1, 0, 1], [0, 2, 1, 0]))

    def order(waiting, gains, key):
        return np.array(next(turn))

    schedule = Schedule("some", lambda i, records: np.array([False, False, i == 1, False]), lambda n: n)
    _, records = run_stage(backend([]), jnp.zeros(N), order, schedule, jax.random.key(0))
    paths = np.array([record.path_kl for record in records])
    np.testing.assert_allclose(paths, [[0, 0.02, 0.08, 0.5], [np.inf, 0.05, 0, 1], [np.inf, 0.05, 0, np.inf]])


def test_the_budget_is_that_of_each_instance():
    """Five rollouts a set: an instance that wants a second set has 10, and the message names the most."""
    schedule = Schedule("greedy", lambda i, records: np.array([False, True, False, False]), lambda n: 1)
    with pytest.raises(InputError, match="schedule greedy: found 10 rollouts, expected at most the budget, 5"):
        run_stage(backend([]), jnp.zeros(N), [0, 1, 2], schedule, jax.random.key(0), budget=5)
    _, records = run_stage(backend([]), jnp.zeros(N), [0, 1, 2], schedule, jax.random.key(0), budget=15)
    assert np.sum([record.rollouts for record in records], 0).tolist() == [5, 15, 5, 5]


def test_orders_of_instances_differ():
    used: list = []
    schedule = Schedule("none", lambda i, records: False, lambda n: 1)
    _, records = run_stage(backend(used), jnp.zeros(N), random_order, schedule, jax.random.key(1))
    who = np.array([record.agent for record in records])
    assert np.sort(who, 0).tolist() == [[k] * N for k in range(AGENTS)]
    assert len({tuple(x) for x in who.T}) > 1
    assert (np.array([x[2] for x in used]) == who).all()


def test_certified_shifts_by_hand():
    """Episodic √(K/2), discounted γ√(K/(2(1−γ))), at most 1; of a KL below 0 (an estimate) none."""
    np.testing.assert_allclose(path_shift([0.0288, 8.0, -1.0], None), [0.12, 1, 0])
    np.testing.assert_allclose(path_shift([0.0288, 8.0, 0.0], 0.5), [0.5 * 0.12 * 2**0.5, 1, 0])
