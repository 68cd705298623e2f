"""The floor: how far a policy is from itself when it is scored twice, and the KL that is left when that is taken off.

A score is a log-probability plus the noise of its forward pass: roundings in another batch, dropout. With `c`, `a` two scores of
the current policy and `n` one of the new one, `d = a − c` is noise alone and `n − c` is noise and step
(docs/monitor.md, the floor, has the derivation).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.intervals import Interval, interval, mean, ratio
from teamtr_jax.monitor.estimates import Floats, Ints, grow, growth, k3
from teamtr_jax.monitor.log import TokenLog
from teamtr_jax.monitor.scored import Scored, per_prompt, score
from teamtr_jax.monitor.sources import rows_of
from teamtr_jax.monitor.updates import Update
from teamtr_jax.monitor_settings import Settings

__all__ = ["VISIBLE", "LogFloor", "floor_of", "left", "rounding", "twice"]

VISIBLE = 1e-6
"""Nats a rollout: a larger floor is noise that limits reckon with. float32 has some 1e-9."""
STRANGE = 1e-3
"""The mean of `d` is tested against 0 at this level: an honest log fails in so many of its updates."""
FINE = ("float32", "float64")
"""Precisions whose roundings no KL shows. All others have a floor, measured or not."""


class LogFloor(NamedTuple):
    """The noise of the scores of an update, from the rollouts whose current policy was scored twice.

    Of the updated agents' messages; `path` and `excess` are of all tokens.
    """

    kl: Interval  #: nats a message: the mean of `Σ_u e^d − 1 − d`
    episode: Interval  #: the same of a rollout
    shift: Interval  #: nats a message: the mean of `Σ_u d`; 0 where both scores have one law
    token: float  #: standard deviation of the noise of one score of a token, `std(d)/√2`
    kind: (
        str  #: alike, drawn (tokens were drawn by current as it is in the log), apart, or off (by more than the floor)
    )
    corrected: Interval | None  #: nats a message: k3 without noise
    unknown: str  #: why not, where it is `None`
    path: Interval  #: of a rollout: the mean of `Λ(e^D − 1 − D)`, D the sum of d over it: by how much weights are too large
    excess: Interval  #: the same of a token
    rollouts: int  #: that were scored twice

    @property
    def visible(self) -> bool:
        """Whether limits have to reckon with it."""
        return not self.episode.value <= VISIBLE


class Noise(NamedTuple):
    """T tokens of R rollouts that were scored twice, of all agents."""

    start: Ints  #: [R] first token of each rollout
    mine: NDArray[np.bool_]  #: [T] whether an updated agent wrote it
    d: Floats  #: [T] `log again − log current`
    step: Floats  #: [T] `log new` less the mean of both scores of current; 0 for other agents
    since: Floats  #: [T] that mean less `log behaviour`; 0 on fresh rollouts

    def sums(self, values: Floats) -> Floats:
        """[T] → [R]."""
        return np.add.reduceat(values, self.start)

    @property
    def product(self) -> Floats:
        """[T] `(r − r̄)·d²/2` of the updated agents, `r = e^step` with mean r̄: what the noise has in common with the step."""
        r = growth(self.step)
        return np.where(self.mine, (r - r[self.mine].mean()) * self.d**2 / 2, 0.0)

    @property
    def shared(self) -> Floats:
        """[T] k3 of new against the first score less that against the second: below 0 where new shares noise with the first."""
        return np.where(self.mine, k3(self.step + self.d / 2) - k3(self.step - self.d / 2), 0.0)

    def weight(self, whole: bool) -> Floats:
        """[T], or [R] of `whole` rollouts: the larger weight of new and current, times `e^d − 1 − d`."""
        step, since, d = (self.sums(x) if whole else x for x in (self.step, self.since, self.d))
        return grow(since + np.maximum(step, 0.0)) * k3(d)


class Sums(NamedTuple):
    """By prompt, over the updated agents' messages; of what was scored twice 0 where nothing of a prompt was."""

    k3: Floats
    messages: Floats
    floor: Floats  #: `Σ e^d − 1 − d`
    shift: Floats  #: `Σ d`
    more: Floats  #: product term and shared noise
    again: Floats  #: messages that were scored twice


def twice(log: TokenLog, chosen: Ints) -> Ints:
    """Of these transcripts those whose current policy was scored twice."""
    if log.logp_again is None:
        return chosen[:0]
    return chosen[~np.isnan(log.logp_again[log.transcripts[chosen]])]


def rounding(log: TokenLog) -> str:
    """The precision in which the log was scored, where it has a floor; otherwise nothing."""
    return "" if log.sampler is None or log.sampler.precision in FINE else log.sampler.precision


def _noise(log: TokenLog, u: Update, chosen: Ints) -> Noise:
    assert log.logp_again is not None
    rows, size = rows_of(log.transcripts, chosen), np.diff(log.transcripts)[chosen]
    again, current = log.logp_again[rows], log.logp_current[rows]
    mine, middle = np.isin(log.agent[rows], u.agents) & (log.t[rows] >= 0), (again + current) / 2
    step = np.where(mine, log.logp_new[rows] - middle, 0.0)
    since = np.zeros_like(step) if u.evidence == "fresh" else middle - log.logp_behaviour[rows]
    return Noise(np.cumsum(size) - size, mine, again - current, step, since)


def _totals(of: Ints, values: Floats, prompts: int) -> Floats:
    return np.asarray(np.bincount(of, values, prompts), np.float64)


def _sums(s: Scored, again: Scored, noise: Noise) -> Sums:
    """Of all rollouts of an update, and of those that were scored twice, there with the second score for `new`."""
    of = np.searchsorted(s.prompts, again.prompts)[again.cluster]  # [R]
    every, some, prompts = s.cluster[s.rollout], of[again.rollout], s.prompts.size
    return Sums(
        k3=_totals(every, s.k3, prompts),
        messages=_totals(every, s.mine.astype(float), prompts),
        floor=_totals(some, again.k3, prompts),
        shift=_totals(some, -again.k1, prompts),
        more=_totals(of, noise.sums(noise.product + noise.shared), prompts),
        again=_totals(some, again.mine.astype(float), prompts),
    )


def floor_of(log: TokenLog, u: Update, settings: Settings) -> LogFloor | None:
    """The floor of an update's rollouts; `None` where none with a message of an updated agent was scored twice.

    Prompts are the units of every interval.
    """
    agents, alpha = np.asarray(u.agents, np.int64), settings.alpha
    if not (chosen := twice(log, u.chosen)).size:
        return None
    noise = _noise(log, u, chosen)
    if not noise.mine.any():
        return None
    again = score(log._replace(logp_new=log.logp_again), chosen, agents)  # new/current is again/current
    sums = _sums(score(log, u.chosen, agents), again, noise)
    there = sums.again > 0
    count, floor, shift = sums.again[there], sums.floor[there], sums.shift[there]
    kind = _kind(shift, floor, count)
    kl, unknown = _corrected(sums, kind, alpha)
    size, prompts = noise.sums(np.ones_like(noise.d)), again.prompts.size
    excess, tokens = (_totals(again.cluster, x, prompts) for x in (noise.sums(noise.weight(False)), size))
    return LogFloor(
        kl=ratio(floor, count, alpha),
        episode=mean(per_prompt(again, again.sums(again.k3)), alpha),
        shift=ratio(shift, count, alpha),
        token=float(noise.d[noise.mine].std()) / 2**0.5,
        kind=kind,
        corrected=kl,
        unknown=unknown,
        path=mean(per_prompt(again, noise.weight(True)), alpha),
        excess=ratio(excess, tokens, alpha),
        rollouts=chosen.size,
    )


def _kind(shift: Floats, floor: Floats, count: Floats) -> str:
    """Whether the two scores have one law, by tests at 1e-3.

    If not: whether they differ in the mean by more than the floor, and else whether `E e^d = 1`, as where tokens are drawn by the
    first of them.
    """
    found, most = ratio(shift, count, STRANGE), ratio(floor, count, STRANGE).high
    if found.low <= 0 <= found.high:
        return "alike"
    if max(found.low, -found.high) > most:
        return "off"
    weight = ratio(floor + shift, count, STRANGE)  # of Σ e^d − 1
    return "drawn" if found.high < 0 and weight.low <= 0 <= weight.high else "apart"


def _corrected(sums: Sums, kind: str, alpha: float) -> tuple[Interval | None, str]:
    """k3 less the floor, the product term and what new and current share; and why its bias is not known where it is not."""
    if kind != "alike":
        return None, "scored twice, the current policy is off itself in the mean"
    taken = sums.k3, sums.messages, sums.floor + sums.more, sums.again
    found = left(*taken, alpha)
    if not np.isfinite(found.error):
        return None, "one prompt was scored twice"
    if left(*taken, STRANGE).high < 0:
        return None, "k3 is too far below its noise: that has not one law"
    return found, ""


def left(total: Floats, count: Floats, taken: Floats, of: Floats, alpha: float) -> Interval:
    """`ΣX/ΣN − ΣY/ΣM` over prompts, some of which have M = 0. Prompts are the units: what X and Y have in common cancels.

    Student's t, Satterthwaite's degrees of freedom; the whole line where fewer than two prompts have M > 0.

    Args:
      total: [B] X, of `count` N messages; `taken`: [B] Y, of `of` M messages.

    Example:
      >>> x, n = np.array([1.0, 2.0, 3.0]), np.ones(3)
      >>> print(left(x, n, x, n, 0.1))
      0 [0, 0]
    """
    sizes = np.array([total.size, int((of > 0).sum())])
    first, second = float(total.sum() / count.sum()), float(taken.sum() / of.sum())
    if sizes.min() < 2 or not np.isfinite(first - second):
        return interval(first - second, np.inf, 1, alpha)
    x = (sizes[0] / (sizes[0] - 1)) ** 0.5 * (total - first * count) / count.sum()
    y = (sizes[1] / (sizes[1] - 1)) ** 0.5 * (taken - second * of) / of.sum()
    each = np.array([x @ x, y @ y])
    freedom = float(each.sum() ** 2 / (each**2 / (sizes - 1)).sum()) if each.any() else sizes[1] - 1.0
    return interval(first - second, float((x - y) @ (x - y)) ** 0.5, int(sizes[1]), alpha, freedom)
