"""Limits of the monitor where scores carry noise of a measured size: coverage on enumerated teams.

`python -m theory.noise [repetitions]` prints the table of docs/monitor.md, limits under noise.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.monitor import Settings, TokenLog, monitor, token_log, token_rows

__all__ = ["KINDS", "Found", "Team", "enumerated", "sampled", "coverage"]

Floats = NDArray[np.float64]

KINDS = ("alike", "rare tokens", "with current", "in common", "drawn")
"""Noise of one law; of a size that grows with the surprise of a token; new with 0.7 of the noise of current, as in one shape;
half of its variance the same in all of a rollout; tokens drawn by `logp_current` itself, which then has no noise."""


class Team(NamedTuple):
    """Q kinds of prompts, every transcript of T tokens enumerated, N of them; an update of agent 0."""

    current: Floats  #: [Q, N, T] log-probabilities
    new: Floats
    reward: Floats  #: [Q, N]
    agent: NDArray[np.int64]  #: [T] who writes
    turn: NDArray[np.int64]  #: [T]

    @property
    def improvement(self) -> float:
        return float(((self.law(self.new) - self.law(self.current)) * self.reward).sum())

    @property
    def kl_message(self) -> float:
        """KL(current‖new) of a message of agent 0."""
        whole = (self.law(self.current) * (self.current - self.new).sum(-1)).sum()
        return float(whole / np.unique(self.turn[self.agent == 0]).size)

    def law(self, logp: Floats) -> Floats:
        """[Q, N] the probability of prompt and transcript."""
        return np.exp(logp.sum(-1)) / len(logp)


def enumerated(rng: np.random.Generator, turns: int = 4, length: int = 2, prompts: int = 3, step: float = 0.15) -> Team:
    """Random rows for every prefix of binary tokens, agents in turn.

    Agent 0 moves by `step` towards the reward of a token, in log-probabilities, and at random.
    """
    tokens = turns * length
    index = np.arange(2**tokens)
    turn = np.arange(tokens) // length
    agent = turn % 2
    reward = (rng.random((prompts, index.size)) < 0.5).astype(float)
    current, new = np.zeros((2, prompts, index.size, tokens))
    for t in range(tokens):
        prefix, letter = index >> (tokens - t), index >> (tokens - t - 1) & 1
        row = np.log(rng.dirichlet((3.0, 3.0), (prompts, 2**t)))
        worth = reward.reshape(prompts, 2 ** (t + 1), -1).mean(-1).reshape(row.shape)
        moved = row + (step * (rng.normal(size=row.shape) + 8 * worth) if agent[t] == 0 else 0.0)
        moved -= np.logaddexp.reduce(moved, -1, keepdims=True)
        current[:, :, t], new[:, :, t] = row[:, prefix, letter], moved[:, prefix, letter]
    return Team(current, new, reward, agent, turn)


def _noise(rng: np.random.Generator, surprise: Floats, size: float, kind: str) -> Floats:
    """[3, N, T] of current, new, and current scored again."""
    e = rng.normal(size=(3, *surprise.shape))
    if kind == "rare tokens":
        return size * e * (0.4 + 0.8 * surprise)
    if kind == "with current":
        e[1] = 0.7 * e[0] + 0.51**0.5 * e[1]
    if kind == "in common":
        return size * (0.5**0.5 * e + 0.5**0.5 * rng.normal(size=(3, len(surprise), 1)))
    if kind == "drawn":
        return (size * e - size**2 / 2) * np.array([0.0, 1.0, 1.0])[:, None, None]
    return size * e


def sampled(
    team: Team,
    rng: np.random.Generator,
    size: float,
    kind: str = "alike",
    prompts: int = 160,
    share: int = 4,
    group: int = 4,
) -> TokenLog:
    """The log of rollouts of the current team, scored with noise of this standard deviation a token.

    Args:
      share: every so many-th prompt is scored twice; 0: none.
    """
    question = rng.integers(0, len(team.reward), prompts)
    cumulative = np.cumsum(np.exp(team.current.sum(-1)), -1)
    drawn = [np.searchsorted(cumulative[q] / cumulative[q, -1], rng.random(group), "right") for q in question]
    which, question = np.concatenate(drawn), np.repeat(question, group)
    current, new = team.current[question, which], team.new[question, which]
    e = _noise(rng, -current, size, kind)
    mine = team.agent == 0
    prompt = np.repeat(np.arange(prompts), group)
    twice = (prompt % share == 0)[:, None] if share else np.zeros((prompt.size, 1), bool)
    before = current + e[0] - 1.0  # a token more that is always written: no noise lifts a log-probability above 0
    columns = {
        "logp_behaviour": before,
        "logp_current": before,
        "logp_new": np.where(mine, new + e[1] - 1.0, before),
        "logp_again": np.where(twice, current + e[2] - 1.0, np.nan),
    }
    rows = token_rows(
        np.ones(before.shape), stage=0, update=0, source=0, prompt=prompt, rollout=np.tile(np.arange(group), prompts),
        agent=np.broadcast_to(team.agent, before.shape), turn=np.broadcast_to(team.turn, before.shape),
        reward=team.reward[question, which], **columns,
    )  # fmt: skip
    return token_log(rows | {"updated": np.zeros(before.size, int)})


class Found(NamedTuple):
    """Shares of the repetitions."""

    floor: float  #: mean, nats a message
    covered: float  #: the interval of k3 less the floor has the KL in it
    bare: float  #: that of k3 has
    corrected: float  #: there is a corrected KL
    wrong: float  #: the certificate is above the improvement
    wrong_s8: float
    limits: float  #: S8 has a limit
    accused: float  #: a contradiction, or a mean weight above 1


HEADS = {"wrong_s8": "wrong, S8"}
"""Of the table, where it is not the field's name."""


def coverage(team: Team, rng: np.random.Generator, repetitions: int, size: float, kind: str, **options: int) -> Found:
    """How often the monitor's intervals cover, and its limits err, at α = 0.1."""
    settings = Settings(alpha=0.1, draws=1, held_out=True)
    true, kl = team.improvement, team.kl_message
    if kind == "drawn":  # new as it is computed has noise, and current has none: E −e₂ a token
        kl += size**2 / 2 * (team.agent == 0).sum() / np.unique(team.turn[team.agent == 0]).size
    rows = []
    for _ in range(repetitions):
        (r,) = monitor(sampled(team, rng, size, kind, **options), settings).records
        left, s8 = r["kl_k3_corrected"], r["certificate_finite_sample"]["lower"]
        rows.append((
            0.0 if r["floor"] is None else r["floor"]["value"],
            np.nan if left is None else left["low"] <= kl <= left["high"],
            r["kl_k3"]["low"] <= kl <= r["kl_k3"]["high"],
            left is not None, r["certificate"]["lower"] > true, s8 > true, np.isfinite(s8),
            r["contradiction"] is not None or r["mean_weight_high"],
        ))  # fmt: skip
    found = np.array(rows, float)
    with np.errstate(invalid="ignore"):
        covered = np.nanmean(found[:, 1]) if found[:, 3].any() else np.nan
    return Found(*found.mean(0).tolist())._replace(covered=float(covered))


def main() -> None:
    """The table."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    team = enumerated(np.random.default_rng(3))
    print(f"improvement {team.improvement:.4f}, KL {team.kl_message:.4f} nats a message, {repetitions} repetitions\n")
    print("| noise | nats a token | scored twice |", *(f" {HEADS.get(name, name)} |" for name in Found._fields), sep="")
    print("|---|---|---|", "---|" * len(Found._fields), sep="")
    cases = [("alike", 0.0, 0), *((kind, size, 4) for size in (0.03, 0.17) for kind in KINDS), ("alike", 0.17, 0)]
    for number, (kind, size, share) in enumerate(cases):
        found = coverage(team, np.random.default_rng([7, number]), repetitions, size, kind, share=share)
        cells = (
            kind,
            f"{size:g}",
            f"1 of {share}" if share else "none",
            *("–" if np.isnan(x) else f"{x:.3g}" for x in found),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
