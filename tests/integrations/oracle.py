"""What `teamtr monitor` should say of an update, from the formulas of docs/monitor.md and theory/derivations/s8.md, in NumPy.

None of the package's mathematics: means over prompts, Student's t from scipy, the betting limit by bisection.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import t as student


class Message(NamedTuple):
    """Log-probabilities of its tokens."""

    behaviour: np.ndarray
    current: np.ndarray
    new: np.ndarray


class Rollout(NamedTuple):
    prompt: object
    reward: float
    messages: list[Message]

    def sum_of(self, f):
        """Σ over messages of `f(log current/behaviour, log new/current)`."""
        return sum(f(m.current - m.behaviour, m.new - m.current) for m in self.messages)


def k3(d):
    return np.sum(np.exp(d) - 1 - d)


def by_prompt(rollouts, values):
    groups = {}
    for rollout, value in zip(rollouts, values, strict=True):
        groups.setdefault(rollout.prompt, []).append(value)
    return np.array([np.mean(group) for group in groups.values()])


def advantages(rollouts):
    """R − mean reward of the prompt's other rollouts."""
    groups = {}
    for r in rollouts:
        groups.setdefault(r.prompt, []).append(r.reward)
    return [r.reward - (sum(groups[r.prompt]) - r.reward) / (len(groups[r.prompt]) - 1) for r in rollouts]


def lower(z, alpha):
    """One-sided, Student's t."""
    return z.mean() - student.ppf(1 - alpha, z.size - 1) * z.std(ddof=1) / np.sqrt(z.size)


def betting(z, alpha):
    """(3) of S8 with ℓ = −1: the largest mean that the bettor rejects."""

    def rejected(m):
        capital, best, past = 0.0, 0.0, 0.0
        for s, x in enumerate(z, 1):
            v = (0.25 + past) / s
            stake = min(np.sqrt(2 * np.log(1 / alpha) / (z.size * v)), 0.9 / (m + 1))
            capital += np.log1p(stake * (x - m))
            best, past = max(best, capital), past + x * x
        return best >= np.log(1 / alpha)

    low, high = -1 + 1e-12, z.max()
    if not rejected(low):
        return -1.0
    for _ in range(200):
        low, high = ((low + high) / 2, high) if rejected((low + high) / 2) else (low, (low + high) / 2)
    return low


def numbers(rollouts, fresh, alpha=0.1):
    """The numbers of an update of one agent that wrote every message; rewards in [0, 1]. `fresh`: behaviour is current.

    Limits are as they are before the monitor withholds any.
    """
    a = advantages(rollouts)
    messages = sum(len(r.messages) for r in rollouts)
    reward = np.array([r.reward for r in rollouts])
    weight = np.exp([r.sum_of(lambda _, d: d.sum()) for r in rollouts])  # Λ, new/current
    old = np.exp([r.sum_of(lambda c, _: c.sum()) for r in rollouts])  # current/behaviour
    kl = np.array([r.sum_of(lambda _, d: k3(d)) for r in rollouts])
    out = {
        "kl_k1": sum(r.sum_of(lambda _, d: -d.sum()) for r in rollouts) / messages,
        "kl_k3": kl.sum() / messages,
        "kl_episode": by_prompt(rollouts, kl).mean(),
        "ess": weight.sum() ** 2 / weight.size / (weight**2).sum(),
        "largest": weight.max(),
        "reward": by_prompt(rollouts, reward).mean(),
    }
    if fresh:
        steps = np.array([r.sum_of(lambda _, d: np.exp(d.sum()) - 1) for r in rollouts])
        tokens = np.array([r.sum_of(lambda _, d: (np.exp(d) - 1).sum()) for r in rollouts])
        rungs = {
            "S7, message ratios": a * steps - kl,
            "S7, token ratios": a * tokens - kl,
            "S9, value-weighted": reward * np.log(weight),
        }
        z = reward * (weight - 1)
    else:  # an agent that has moved twice since the rollouts
        steps = np.array([r.sum_of(lambda c, d: np.exp((c + d).sum()) - np.exp(c.sum())) for r in rollouts])
        both = np.array([r.sum_of(lambda c, d: k3(c + d) + k3(c)) for r in rollouts])
        rungs = {
            "S7c, reused, agent moved twice": a * steps - both,
            "S9, mismatch": reward * np.log(weight * old) + (1 - reward) * np.log(old),
        }
        z = reward * weight * old + (1 - reward) * old - 1
    rungs = {name: by_prompt(rollouts, x) for name, x in rungs.items()}
    out["surrogate"] = by_prompt(rollouts, a * steps).mean()
    out["rungs"] = {name: (x.mean(), lower(x, alpha / len(rungs))) for name, x in rungs.items()}
    z = by_prompt(rollouts, z)
    out["S8"], out["S8 estimate"] = betting(z, alpha), z.mean()
    return out
