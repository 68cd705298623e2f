"""95 % of the optimal return with every update certified (`benchmarks/end_to_end.py`), checked from the outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.end_to_end import FLOORS, SHARE, floor, run, team_of


def exact(team, policy):
    """`V` and `J` by LAPACK."""
    P, r, gamma = np.asarray(team.dynamics.transition), np.asarray(team.reward), float(team.dynamics.discount)
    v = np.linalg.solve(np.eye(len(r)) - gamma * np.einsum("sa,sat->st", policy, P), (policy * r).sum(-1))
    return v, float(np.asarray(team.initial) @ v)


def extreme(team, policy, free, best):
    """Least or greatest values over the rows of `free`, by policy iteration."""
    P, r, gamma = np.asarray(team.dynamics.transition), np.asarray(team.reward), float(team.dynamics.discount)
    policy = policy.copy()
    for _ in range(100):
        v, j = exact(team, policy)
        q = r + gamma * P @ v
        chosen = np.eye(r.shape[1])[q.argmax(-1) if best else q.argmin(-1)]
        better = np.where(free[:, None], chosen, policy)
        if (better == policy).all():
            return v, j
        policy = better
    raise AssertionError("policy iteration did not end")


@pytest.mark.parametrize(("way", "sharp"), [("weighted", FLOORS[1]), ("greedy", "")])
def test_every_update_is_certified(way, sharp):
    """No certificate is negative or above the improvement; the end is at `SHARE` of the optimum."""
    for seed in (0, 1):
        team = team_of(seed)
        S, A = team.reward.shape
        start = np.full((S, A), 1 / A)
        out = jax.device_get(run(team, jnp.asarray(start), way, sharp))
        k = int(out.updates)
        j = out.objective[: k + 1]
        _, optimum = extreme(team, start, np.ones(S, bool), True)
        assert float(out.optimum) == pytest.approx(optimum, rel=1e-9)
        assert j[0] == pytest.approx(exact(team, start)[1], rel=1e-12)
        assert j[k] >= SHARE * optimum > j[k - 1]
        gained = np.diff(j)
        np.testing.assert_allclose(out.improvement[:k], gained, rtol=0, atol=1e-12 * optimum)
        assert (out.certificate[:k] > 0).all()
        assert (out.certificate[:k] <= gained + 1e-12 * optimum).all()
        assert (out.slack[:k] >= 0).all()
        if way == "weighted":
            assert out.certificate[:k].sum() > 0.4 * gained.sum()  # and they are worth something


def test_floor():
    """(F) holds with rounding; the floor is the worst that the free rows can do, to the accuracy of the iteration."""
    team = team_of(2)
    rng = np.random.default_rng(0)
    S, A = team.reward.shape
    policy = rng.dirichlet(np.ones(A), S)
    own = np.asarray(team.active) == 1
    for free in (own, np.ones(S, bool)):
        phi, slack = jax.jit(floor)(team, jnp.asarray(policy), jnp.asarray(free))
        worst, _ = extreme(team, policy, free, False)
        assert float(slack) >= 0
        assert (np.asarray(phi) <= worst).all()
        np.testing.assert_allclose(phi, worst, atol=1e-6)
        others = np.where(free[:, None], rng.dirichlet(np.ones(A), S), policy)
        assert (np.asarray(phi) <= exact(team, others)[0]).all()
