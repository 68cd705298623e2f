"""A swap between teams that talk in text: KL and certificates by hand, from logits that are whole; refusals."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax
from text_teams import LLAMA, Pieces, agent, logits_whole, params_of

from teamtr_jax.finite_sample import finite_sample_certificate, mismatch_certificate
from teamtr_jax.llm.conversations import reading_of
from teamtr_jax.llm.text_replacement import sampled_text_swap
from teamtr_jax.llm.text_sampler import converse, read_again
from teamtr_jax.llm.text_team import TextTeam
from teamtr_jax.sharing import Sharing
from teamtr_jax.validation import InputError

WIDER = replace(LLAMA, width=24, heads=3, kv_heads=3, head_dim=8, tied=False)
TEAM = TextTeam((agent("x"), agent("y", cap=3), agent("z")), 5, temperature=1.7)
SWAPPED = replace(TEAM, agents=(TEAM.agents[0], agent("y", WIDER, cap=3), TEAM.agents[2]))
PROBLEMS = ["ab", "ba", "c", "dd", "a?", "cab"]
GROUP = 4


@cache
def params():
    return params_of(TEAM, scale=1.0)


@cache
def new_params():
    """Those of the team, but for agent 1: a wider network."""
    return params()[0], params_of(SWAPPED, seed=5, scale=1.0)[1], params()[2]


@cache
def said():
    return converse(TEAM, params(), PROBLEMS, jax.random.key(0), GROUP)


@cache
def reward():
    return np.random.default_rng(1).uniform(size=(len(PROBLEMS), GROUP))


@cache
def swap():
    return sampled_text_swap(TEAM, params(), SWAPPED, new_params(), 1, said(), reward(), alpha=0.2, micro_batch=5)


def whole(team, own, reading):
    """``[R, M, L, V]``: log-probabilities at each message position of agent 1, of logits that are whole, in float64."""
    return log_softmax(np.asarray(logits_whole(team, own, 1, reading), np.float64), axis=-1)


@cache
def by_hand():
    """Sums over each conversation, and the log ratios of the ids."""
    reading = reading_of(TEAM, said(), 1)
    p, q = whole(TEAM, params()[1], reading), whole(SWAPPED, new_params()[1], reading)
    own, written = np.asarray(reading.own), np.asarray(reading.written)[..., None]
    drawn, ratio = (np.take_along_axis(x, written, -1)[..., 0] for x in (p, q - p))

    def total(x):
        return np.where(own, x, 0.0).sum((1, 2)).reshape(len(PROBLEMS), GROUP)

    booked = np.zeros(own.shape)
    for row, turn in np.argwhere(said().speaker == 1):
        length = said().length[row, turn]
        booked[row, list(np.flatnonzero(said().speaker[row] == 1)).index(turn), :length] = said().logp[
            row, turn, :length
        ]
    away = np.where(own, drawn - booked, 0.0)
    return {
        "kl": total((np.exp(p) * (p - q)).sum(-1)),
        "kl_new_to_current": total((np.exp(q) * (q - p)).sum(-1)),
        "kl_k1": total(-ratio),
        "kl_k3": total(np.expm1(ratio) - ratio),
        "weight": total(np.expm1(ratio)),
        "log_ratio": total(ratio),
        "away": total(away),
        "mismatch": total(np.expm1(away) - away),
        "ids": own.sum() / len(own),
    }


def close(found, each, alpha=0.2):
    """An interval of the mean of prompts."""
    mean, error = each.mean(1).mean(), each.mean(1).std(ddof=1) / len(each) ** 0.5
    half = stats.t.ppf(1 - alpha / 2, len(each) - 1) * error
    np.testing.assert_allclose(found[:4], (mean, mean - half, mean + half, error), rtol=1e-3, atol=1e-6)
    assert found.n == len(each)


@pytest.mark.parametrize("name", ["kl", "kl_new_to_current", "kl_k1", "kl_k3"])
def test_distances_by_hand(name):
    """The whole vocabulary at every context that was met, summed over a conversation."""
    assert by_hand()[name].mean() > 0.05  # they differ, by far more than rounding
    close(getattr(swap().swap, name), by_hand()[name])


def test_certificates_by_hand():
    """`L` with the other rollouts of the prompt as baseline, `L − δ`, and a limit of independent prompts."""
    hand, score, got = by_hand(), reward(), swap().swap
    baseline = (score.sum(1, keepdims=True) - score) / (GROUP - 1)
    gain = (score - baseline) * hand["weight"]
    close(got.surrogate, gain)
    close(got.certificate, gain - hand["kl"])
    limit = finite_sample_certificate(score, hand["log_ratio"][..., None], alpha=0.2)
    assert got.limit is not None
    assert got.limit.lower == pytest.approx(limit.lower, abs=1e-4)
    assert (got.limit.prompts, got.limit.rollouts, got.limit.alpha) == (len(PROBLEMS), len(PROBLEMS) * GROUP, 0.2)
    assert got.tokens == hand["ids"]


def test_without_rewards():
    got = sampled_text_swap(TEAM, params(), SWAPPED, new_params(), 1, said(), micro_batch=5).swap
    assert got.kl.value == pytest.approx(swap().swap.kl.value, rel=1e-6)
    assert got.surrogate is got.certificate is got.limit is None
    assert (
        got.kl == sampled_text_swap(TEAM, params(), SWAPPED, new_params(), 1, said(), reward(), micro_batch=5).swap.kl
    )
    assert got.kl.n == len(PROBLEMS)  # conversations about one problem are not independent


def test_where_a_router_says_who_speaks():
    """It is one function; the newcomer is measured on the messages that it was given to write."""

    def router(said):
        return (0.5, 0.5, 0.0) if len(said) % 2 else (0.0, 0.5, 0.5)

    routed, after = (replace(team, router=router) for team in (TEAM, SWAPPED))
    there = converse(routed, params(), PROBLEMS, jax.random.key(3), 2)
    got = sampled_text_swap(routed, params(), after, new_params(), 1, there, np.zeros((len(PROBLEMS), 2))).swap
    assert got.tokens == there.length[there.speaker == 1].sum() / len(there.said)
    assert got.kl.value > 0


def test_a_swap_for_itself():
    got = sampled_text_swap(TEAM, params(), TEAM, params(), 1, said(), reward())
    assert got.swap.surrogate is not None
    assert got.swap.limit is not None
    assert got.swap.kl.value == got.swap.kl_new_to_current.value == got.swap.surrogate.value == 0
    assert 0 <= got.mismatch.value < 1e-8  # rounding
    assert got.swap.limit.lower <= 1e-6


def test_conversations_of_other_parameters():
    """The mismatch is that of what was drawn, and the limit weighs it."""
    others = (params()[0], params_of(TEAM, seed=9, scale=1.0)[1], params()[2])
    got = sampled_text_swap(TEAM, others, SWAPPED, new_params(), 1, said(), reward(), alpha=0.2)
    reading = reading_of(TEAM, said(), 1)
    own, written = np.asarray(reading.own), np.asarray(reading.written)[..., None]
    p, mine, q = (whole(t, x, reading) for t, x in ((TEAM, params()[1]), (TEAM, others[1]), (SWAPPED, new_params()[1])))
    away, moved = (np.where(own, np.take_along_axis(x, written, -1)[..., 0], 0.0) for x in (mine - p, q - p))
    close(got.mismatch, (np.expm1(away) - away).sum((1, 2)).reshape(-1, GROUP))
    assert got.mismatch.low > 0.02
    away, moved = (x.sum((1, 2)).reshape(-1, GROUP, 1) for x in (away, moved))
    limit = mismatch_certificate(reward(), away, moved, alpha=0.2)
    assert got.swap.limit is not None
    assert got.swap.limit.lower == pytest.approx(limit.lower, abs=1e-4)


def test_what_is_read_again_is_what_was_read():
    for k in range(3):
        for one, other in zip(read_again(TEAM, said(), k), said().views[k], strict=True):
            np.testing.assert_array_equal(one, other)


def with_agent(k, newcomer):
    return replace(TEAM, agents=(*TEAM.agents[:k], newcomer, *TEAM.agents[k + 1 :]))


def scribed(**changes):
    return with_agent(1, TEAM.agents[1]._replace(scribe=replace(Pieces(), **changes)))


@dataclass(frozen=True)
class Loud(Pieces):
    """Reads as others do, and is heard otherwise."""

    def read(self, ids):
        return super().read(ids) + "a"


SHARED = replace(TEAM, sharing=Sharing((0, 1, 1)))
SWAPS: dict[str, dict[str, Any]] = {
    "agent": dict(agent=3),
    "names of swapped": dict(swapped=with_agent(0, agent("w"))),
    "turns of swapped": dict(swapped=replace(TEAM, turns=4)),
    "temperature of swapped": dict(swapped=replace(TEAM, temperature=1.0)),
    "router of swapped": dict(swapped=replace(TEAM, router=lambda said: (1.0, 0.0, 0.0))),
    "schedule of swapped": dict(swapped=replace(TEAM, schedule=lambda turn: 2 - turn % 3)),
    "params": dict(params=0),
    "new_params": dict(new_params=0),
    r"agents\[0\] of swapped.*other parameters": dict(agent=1, new_params=(1, 1, 2)),
    r"agents\[2\] of swapped.*another network": dict(swapped=with_agent(2, agent("z", WIDER))),
    "ids to write": dict(swapped=with_agent(1, agent("y", replace(LLAMA, vocabulary=10), cap=3))),
    "other stops": dict(swapped=scribed(stops=((4,),))),
    "messages of 4 ids": dict(swapped=with_agent(1, agent("y"))),
    "other ids for what was said": dict(swapped=scribed(system="b")),
    "another text of the ids": dict(swapped=with_agent(1, TEAM.agents[1]._replace(scribe=Loud(Pieces.pieces)))),
    "shares its parameters": dict(team=SHARED, swapped=SHARED),
    "micro_batch": dict(micro_batch=0),
    "alpha": dict(alpha=1.0),
    "reward: found 23 rewards": dict(reward=np.zeros(23)),
    "reward: found 1 for each problem, expected 4": dict(reward=np.zeros(24)),
    "reward: found 3 for each problem, expected 4": dict(reward=np.zeros((8, 3))),
    "reward": dict(reward=np.full((6, 4), 1.5)),
}  # fmt: skip


@pytest.mark.parametrize("says", SWAPS)
def test_what_is_no_swap_is_refused(says):
    """Before anything is scored, by name."""
    change = dict(SWAPS[says])
    team = change.pop("team", TEAM)
    swapped = change.pop("swapped", TEAM)
    own = params() if team is TEAM else params()[:2]
    after = params_of(swapped, scale=1.0) if swapped is not team else own
    after = tuple(x if k == 1 or swapped.models[k] != TEAM.models[k] else params()[k] for k, x in enumerate(after))
    own = own[: change.pop("params", len(own))]
    which = change.pop("new_params", None)
    after = after if which is None else () if which == 0 else tuple(params()[k] for k in which)
    given: dict[str, Any] = {"agent": 1, "reward": None, **change}
    with pytest.raises(InputError, match=says):
        sampled_text_swap(team, own, swapped, after, given.pop("agent"), said(), given.pop("reward"), **given)


def test_conversations_that_do_not_fit_are_refused():
    there = said()
    outside = there._replace(settings=there.settings._replace(sampler=("own", "vllm", "own")))
    silent = converse(replace(TEAM, schedule=lambda turn: 0), params(), PROBLEMS[:1], jax.random.key(0))
    never = replace(TEAM, schedule=lambda turn: 0)
    again = there._replace(redrawn=there.redrawn + (there.speaker == 1))
    with pytest.raises(InputError, match=r"redrawn: found \d+ messages of y"):
        sampled_text_swap(TEAM, params(), SWAPPED, new_params(), 1, again)
    with pytest.raises(InputError, match="messages by vllm"):
        sampled_text_swap(TEAM, params(), SWAPPED, new_params(), 1, outside)
    with pytest.raises(InputError, match="no message of y"):
        sampled_text_swap(never, params(), replace(SWAPPED, schedule=never.schedule), new_params(), 1, silent)
    with pytest.raises(InputError, match="said: found conversations of 5 turns"):
        sampled_text_swap(replace(TEAM, turns=4), params(), replace(SWAPPED, turns=4), new_params(), 1, there)
    broken = jax.tree.map(lambda x: x * jnp.nan, new_params()[1])
    with pytest.raises(InputError, match="new_params: found scores of y that are not numbers"):
        sampled_text_swap(TEAM, params(), SWAPPED, (params()[0], broken, params()[2]), 1, said())


def test_scribes_that_read_alike_are_taken():
    """The refusals above come of what was changed."""
    assert sampled_text_swap(TEAM, params(), scribed(), params(), 1, said()).swap.kl.value == 0
