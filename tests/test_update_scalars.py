"""What a trainer's logger is told, against loops over messages and rollouts."""

import math

import numpy as np
import pytest

from teamtr_jax.integrations.messages import message_numbers
from teamtr_jax.integrations.update_scalars import UpdateSums, update_scalars, update_sums
from teamtr_jax.monitor import token_rows


def rows_of(seed, lengths, again=True):
    """Rollouts of two prompts: by rollout, the lengths of its messages."""
    rng = np.random.default_rng(seed)
    N, T = len(lengths), max(map(sum, lengths))
    mask = np.array([[t < sum(x) for t in range(T)] for x in lengths])
    turn = np.array([np.r_[np.repeat(np.arange(len(x)), x), np.zeros(T - sum(x), int)] for x in lengths], int)
    current = -rng.exponential(size=(N, T))
    twice = current + 0.01 * rng.normal(size=(N, T))
    twice[1 if again else slice(None)] = np.nan
    return token_rows(
        mask, turn=turn, prompt=np.arange(N) // 2, rollout=np.arange(N) % 2, logp_current=current,
        logp_new=current + 0.3 * rng.normal(size=(N, T)), logp_again=twice,
    )  # fmt: skip


def by_loops(rows):
    messages, rollouts = {}, {}
    for prompt, rollout, turn, t, c, n, a in zip(
        *(rows[k].tolist() for k in ("prompt", "rollout", "turn", "t", "logp_current", "logp_new", "logp_again")), strict=True
    ):  # fmt: skip
        rollouts.setdefault((prompt, rollout), []).append(n - c)
        if t >= 0:
            messages.setdefault((prompt, rollout, turn), []).append((n - c, a - c))
    k1 = [-sum(d for d, _ in m) for m in messages.values()]
    k3 = [sum(math.exp(d) - 1 - d for d, _ in m) for m in messages.values()]
    floor = [sum(math.exp(d) - 1 - d for _, d in m) for m in messages.values() if not any(math.isnan(d) for _, d in m)]
    weight = [math.exp(sum(d)) for d in rollouts.values()]
    ess = sum(weight) ** 2 / len(weight) / sum(w * w for w in weight)
    mean = {"kl_k1": sum(k1) / len(k1), "kl_k3": sum(k3) / len(k3), "ess": ess}
    return {f"teamtr/{k}": v for k, v in (mean | ({"floor_k3": sum(floor) / len(floor)} if floor else {})).items()}


LENGTHS = [(2, 1), (3,), (), (1, 2, 2)]


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_scalars_are_those_of_the_messages(seed, again):
    """A rollout without token is no message, and has the weight 1; without a second scoring there is no floor, not one of 0."""
    rows = rows_of(seed, LENGTHS, again)
    assert -1 in rows["t"]
    assert update_scalars(update_sums(rows)) == pytest.approx(by_loops(rows), rel=1e-12)


def test_sums_of_processes_add_up():
    whole = rows_of(2, LENGTHS)
    parts = [{k: v[whole["prompt"] == p] for k, v in whole.items()} for p in (0, 1)]
    added = UpdateSums(*np.add(*map(update_sums, parts)))
    assert update_scalars(added) == pytest.approx(update_scalars(update_sums(whole)), rel=1e-12)


def test_nothing_and_what_overflows():
    empty = {key: value[:0] for key, value in rows_of(0, LENGTHS).items()}
    assert update_sums(empty) == UpdateSums(*(8 * [0.0]))
    assert update_scalars(update_sums(empty)) == {}
    rows = rows_of(0, LENGTHS)
    rows["logp_new"] = np.where(rows["prompt"] == 0, 0.0, rows["logp_new"])
    rows["logp_current"] = np.where(rows["prompt"] == 0, -900.0, rows["logp_current"])
    assert all(math.isfinite(x) for x in update_scalars(update_sums(rows)).values())


def test_what_is_written_after_a_tool_is_the_next_message():
    wrote = np.array([[1, 0, 1, 1, 0, 0, 1], [0, 0, 1, 1, 0, 0, 0], [0] * 7]) != 0
    number = message_numbers(wrote)
    assert [number[i][wrote[i]].tolist() for i in range(3)] == [[0, 1, 1, 2], [0, 0], []]
