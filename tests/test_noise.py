"""Limits under noise (theory/noise.py): team, noises, log and counts by value; the table is that of the documentation."""

import itertools
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from theory import noise
from theory.noise import KINDS, Found, coverage, enumerated, sampled

TEAM = enumerated(np.random.default_rng(5), turns=3, length=2, prompts=2)


def test_the_team_by_its_transcripts():
    """J and KL added up transcript by transcript; given the tokens before, two letters have all of the probability."""
    assert TEAM.current.shape == TEAM.new.shape == (2, 2**6, 6)
    assert TEAM.turn.tolist() == [0, 0, 1, 1, 2, 2]
    assert TEAM.agent.tolist() == [0, 0, 1, 1, 0, 0]
    objective, kl = np.zeros(2), 0.0
    for q, transcript in np.ndindex(2, 2**6):
        p, new = (math.prod(map(math.exp, x[q, transcript])) / 2 for x in (TEAM.current, TEAM.new))
        objective += TEAM.reward[q, transcript] * np.array([p, new])
        kl += p * math.log(p / new)
    assert TEAM.improvement == pytest.approx(objective[1] - objective[0], rel=1e-12)
    assert 0 < TEAM.improvement < 0.5
    assert TEAM.kl_message == pytest.approx(kl / 2, rel=1e-12)  # agent 0 writes two of the three messages
    letters = list(itertools.product((0, 1), repeat=6))
    for policy in (TEAM.current, TEAM.new):
        for transcript, t in itertools.product((0, 21, 63), range(6)):
            other = list(letters[transcript])
            other[t] = 1 - other[t]
            pair = policy[:, [transcript, letters.index(tuple(other))], t]
            np.testing.assert_allclose(np.exp(pair).sum(-1), 1.0, rtol=1e-12)
    moved = (abs(TEAM.current - TEAM.new) > 1e-9).any((0, 1))
    assert moved.tolist() == (TEAM.agent == 0).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_noises_have_the_moments_that_they_are_said_to_have(kind):
    """Means, and covariances of two tokens of one rollout in three scores; within five standard errors of 20,000 rollouts."""
    size, n = 0.3, 20_000
    surprise = np.broadcast_to([0.5, 2.0], (n, 2))
    found = noise._noise(np.random.default_rng(2), surprise, size, kind)
    assert found.shape == (3, n, 2)
    x = found.transpose(0, 2, 1).reshape(6, n)  # score by score, token by token
    scale = size * (0.4 + 0.8 * np.array([0.5, 2.0] * 3)) if kind == "rare tokens" else np.full(6, size)
    correlation, mean = np.eye(6), np.zeros(6)
    if kind == "with current":
        for token in (0, 1):
            correlation[token, 2 + token] = correlation[2 + token, token] = 0.7
    elif kind == "in common":
        for score in (0, 2, 4):
            correlation[score, score + 1] = correlation[score + 1, score] = 0.5
    elif kind == "drawn":
        scale, mean = size * np.array([0, 0, 1, 1, 1, 1]), -(size**2) / 2 * np.array([0, 0, 1, 1, 1, 1])
    expected = correlation * np.outer(scale, scale)
    assert (abs(x.mean(-1) - mean) <= 5 * scale / n**0.5).all()
    assert (abs(np.cov(x) - expected) <= 5 * (2 / n) ** 0.5 * np.outer(scale, scale)).all()


def test_the_log_has_the_rollouts_of_the_team():
    """Without noise: a rollout is one transcript with its reward and its scores; every third prompt is scored twice."""
    log = sampled(TEAM, np.random.default_rng(1), 0.0, prompts=7, share=3, group=2)
    assert log.t.size == 7 * 2 * 6
    rows = {tuple(row.round(9)): at for at, row in zip(np.ndindex(2, 2**6), TEAM.current.reshape(-1, 6), strict=True)}
    for prompt, rollout in np.ndindex(7, 2):
        mine = (log.prompt == prompt) & (log.rollout == rollout)
        order = np.argsort(log.turn[mine] * 2 + log.t[mine] % 2, kind="stable")
        current, new, again, reward = (
            x[mine][order] for x in (log.logp_current, log.logp_new, log.logp_again, log.reward)
        )
        at = rows[tuple((current + 1).round(9))]
        np.testing.assert_allclose(new + 1, TEAM.new[at], rtol=1e-12)
        assert (reward == TEAM.reward[at]).all()
        np.testing.assert_allclose(again, current if prompt % 3 == 0 else np.full(6, np.nan), rtol=1e-12)
    never = sampled(TEAM, np.random.default_rng(1), 0.0, prompts=3, share=0)
    assert never.logp_again is None or np.isnan(never.logp_again).all()


def record(floor, corrected, k3, lower, s8, contradiction=None, high=False):
    limits = [None if pair is None else {"low": pair[0], "high": pair[1]} for pair in (corrected, k3)]
    return {"floor": None if floor is None else {"value": floor}, "kl_k3_corrected": limits[0], "kl_k3": limits[1],
            "certificate": {"lower": lower}, "certificate_finite_sample": {"lower": s8}, "contradiction": contradiction,
            "mean_weight_high": high}  # fmt: skip


@pytest.mark.parametrize("kind", ["alike", "drawn"])
def test_what_is_counted(kind, monkeypatch):
    """Four repetitions by hand: shares of all, of corrected KLs those that cover; `drawn` adds `size²/2` a token to the KL."""
    J, K = TEAM.improvement, TEAM.kl_message + (0.2**2 / 2 * 4 / 2 if kind == "drawn" else 0.0)
    near, above, below = (K - 1e-9, K + 1e-9), (K + 1e-9, 9.0), (-9.0, K - 1e-9)
    records = [
        record(0.25, near, near, J - 1e-9, J + 1e-9),
        record(0.5, above, above, J + 1e-9, J - 1e-9, contradiction="it cannot be"),
        record(0.75, below, near, J - 1e-9, -math.inf, high=True),
        record(None, None, below, -math.inf, J + 1),
    ]
    asked = []

    def judged(log, settings):
        asked.append((log, settings.alpha, settings.draws, settings.held_out))
        return SimpleNamespace(records=[records[len(asked) - 1]])

    monkeypatch.setattr(noise, "monitor", judged)
    monkeypatch.setattr(noise, "sampled", lambda team, rng, size, kind, **options: (size, kind, options))
    found = coverage(TEAM, np.random.default_rng(0), 4, 0.2, kind, share=2)
    assert asked == [((0.2, kind, {"share": 2}), 0.1, 1, True)] * 4
    assert found == Found(0.375, pytest.approx(1 / 3), 0.5, 0.75, 0.25, 0.5, 0.75, 0.5)
    asked.clear()
    records[0] = records[3]
    assert math.isnan(coverage(TEAM, np.random.default_rng(0), 1, 0.2, kind).covered)


@pytest.mark.parametrize("argument", [None, "7"])
def test_the_table_is_that_of_the_page(argument, monkeypatch, capsys):
    """Heads and rows of docs/monitor.md; every row has numbers of its own; 1,000 repetitions if nothing else is asked for."""
    asked = []

    def counted(team, rng, repetitions, size, kind, share):
        asked.append((repetitions, rng.random()))
        return Found(0.5, float("nan"), *[0.5] * 5, float(len(asked)))

    monkeypatch.setattr(noise, "coverage", counted)
    monkeypatch.setattr(sys, "argv", ["noise"] if argument is None else ["noise", argument])
    noise.main()
    lines = capsys.readouterr().out.splitlines()
    page = (Path(__file__).parents[1] / "docs/monitor.md").read_text().splitlines()
    start = page.index(lines[2])
    table = list(itertools.takewhile(lambda line: line.startswith("|"), page[start:]))
    assert [line.split("|")[1:4] for line in lines[4:]] == [line.split("|")[1:4] for line in table[2:]]
    assert lines[3] == table[1]
    assert [line.split("|")[4:] for line in lines[4:]] == [
        [" 0.5 ", " – ", *[" 0.5 "] * 5, f" {i + 1} ", ""] for i in range(12)
    ]
    assert {repetitions for repetitions, _ in asked} == {1000 if argument is None else 7}
    assert len({draw for _, draw in asked}) == 12
    team = enumerated(np.random.default_rng(3))
    said = f"KL {team.kl_message:.4f} nats a message"
    assert lines[0].startswith(f"improvement {team.improvement:.4f}, {said}, ")
    assert said.replace(" 0.", " .") in "\n".join(page)
