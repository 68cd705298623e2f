"""What a set of rollouts contradicts: that its tokens were drawn from the behaviour, and that no rollout was left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from teamtr_jax.finite_sample import FALSE_ALARM, log_evidence
from teamtr_jax.intervals import lower_limit, mean, ratio, upper_limit
from teamtr_jax.monitor.estimates import Floats, Ints, growth, plain
from teamtr_jax.monitor.floor import VISIBLE, LogFloor
from teamtr_jax.monitor.log import TokenLog
from teamtr_jax.monitor.scored import per_prompt, score
from teamtr_jax.monitor.sources import rows_of
from teamtr_jax.monitor.updates import Update
from teamtr_jax.monitor_settings import Settings

__all__ = [
    "FALSE_ALARM",
    "Doubts",
    "doubts_of",
    "contradiction",
    "beyond_softmax",
    "hidden_law",
    "one_sided_groups",
    "unequal",
    "holes",
    "log_evidence",
]

TOKEN_STAKES = (1.0, 0.3, 0.1, 0.03, 0.01)
ROLLOUT_STAKES = (0.3, 0.1, 0.03)
THRICE = 3.0
"""Noise that raises weights by more than so many times its estimate is no excuse for a certificate."""
KL, TOKEN, ROLLOUT = "KL of a rollout, k1", "mean weight of a token", "mean weight of a rollout"


class Doubts(NamedTuple):
    """What is odd about the rollouts of an update."""

    invalid: list[str]  #: why they carry no certificate; empty where they do
    masked: int  #: rollouts that lack tokens
    contradiction: dict[str, Any] | None
    groups: list[int] | None  #: least and greatest number of rollouts of a prompt, where they differ
    ids_missing: int
    scored_again: list[dict[str, Any]]  #: of each older set, what is here of it


def doubts_of(log: TokenLog, u: Update, settings: Settings, floor: LogFloor | None = None) -> Doubts:
    """Why the rollouts of an update carry no certificate, if they do not, and what else is odd about them."""
    agents = np.asarray(u.agents, np.int64)
    chosen = [*u.sets.values()] or [u.chosen]
    drawn = [contradiction(log, x, agents, settings.match, settings.alpha, floor) for x in chosen]
    contradicted = next((x for x in drawn if x is not None), None)
    excused = contradicted is None and _widened(floor) != _widened(floor, THRICE) and any(
        contradiction(log, x, agents, settings.match, settings.alpha, floor, THRICE) for x in chosen
    )  # fmt: skip
    groups, missing, law = unequal(log, u.chosen), holes(log, u.chosen), hidden_law(log, u, settings)
    invalid = [
        reason
        for reason, found in (
            ("rollouts scored again are not all there", u.evidence == "incomplete"),
            ("tokens are masked", any(log.masked[x].any() for x in chosen)),
            ("messages of sharers were not scored", bool(u.unscored)),
            ("the log contradicts itself", contradicted is not None),
            ("weights are too large for noise as it was measured, and little was scored twice", excused),
            (f"the sampler has {law}, and the scores do not show it", bool(law)),
            (
                "scored twice, the current policy is off itself by more than its floor",
                floor is not None and floor.kind == "off",
            ),
            ("prompts whose rollouts have equal rewards were left out", one_sided_groups(log, u.chosen) > 0),
            ("groups of unequal size: rollouts may be missing", groups is not None and not settings.complete),
            ("rollout ids are missing", missing > 0 and not settings.complete),
        )
        if found
    ]
    return Doubts(
        invalid,
        int(log.masked[u.chosen].sum()),
        contradicted,
        None if groups is None else list(groups),
        missing,
        [{key: value for key, value in x._asdict().items() if key not in ("stage", "update")} for x in u.again],
    )


def beyond_softmax(sampler: Mapping[str, Any]) -> str:
    """The settings of a sampler that are more than a temperature.

    Example:
      >>> beyond_softmax({"temperature": 0.7, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0})
      'top_k = 50'
    """
    none = {"top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1}
    return ", ".join(f"{key} = {sampler[key]:g}" for key, value in none.items() if sampler[key] != value)


def hidden_law(log: TokenLog, u: Update, settings: Settings) -> str:
    """What the settings say that the sampler does beside `softmax(logits/temperature)`, where no score shows it; or nothing.

    A cut is shown by a mean weight current/behaviour below 1 (at 1e-6), a penalty by any distance of the two.
    """
    if (sampler := log.sampler) is None or sampler.plain:
        return ""
    if u.evidence != "fresh":
        s = score(log, u.chosen, np.asarray(u.agents, np.int64))
        misses = mean(per_prompt(s, -growth(s.sums(s.current))), settings.alpha)
        if not sampler.cuts or lower_limit(misses, FALSE_ALARM) > 0:
            return ""
    return beyond_softmax(sampler.to_json())


def _widened(floor: LogFloor | None, times: float = np.inf) -> tuple[float, float]:
    """By how much noise raises the log of the mean weight of a token and of a rollout, at most (1e-6 each).

    Args:
      times: and at most so many times its estimate.
    """
    if floor is None or not (floor.visible or floor.path.value > VISIBLE):
        return 0.0, 0.0
    token, rollout = (
        max(upper_limit(x, FALSE_ALARM) if np.isinf(times) else min(upper_limit(x, FALSE_ALARM), times * x.value), 0.0)
        for x in (floor.excess, floor.path)
    )
    return float(np.log1p(token)), float(np.log1p(rollout))


def contradiction(
    log: TokenLog,
    chosen: Ints,
    updated: Ints,
    match: float,
    alpha: float,
    floor: LogFloor | None = None,
    times: float = np.inf,
) -> dict[str, Any] | None:
    """The statistic that shows that the tokens were not drawn from the behaviour; `None` where none does.

    Given what was before, a token of the behaviour b has `E_b π(u)/b(u) ≤ 1` for every policy π that did not see it, here current
    and new: so has a rollout, and `E_b log(b/π) ≥ 0`. Eight bets for each of the two policies have the mean capital
    that is compared with `1/FALSE_ALARM`. Where current and behaviour are within `match`, the larger of both is b. Scores with
    noise have `E w ≤ 1 + E w(e^d − 1 − d)`: with a `floor` every weight is divided by the upper limit of that.

    Args:
      updated: agents whose `logp_new` counts.
      alpha: level of the interval that is shown.
      times: noise raises weights at most by so many times the estimate of that.
    """
    rows = rows_of(log.transcripts, chosen)
    length = np.diff(log.transcripts)[chosen]
    start = np.cumsum(length) - length
    behaviour, current = log.logp_behaviour[rows], log.logp_current[rows]
    close = abs(current - behaviour) <= match
    drawn = np.where(close, np.maximum(behaviour, current), behaviour)
    ratios = {
        "new/current" if close.all() else "new/behaviour":
            np.where(np.isin(log.agent[rows], updated), log.logp_new[rows], current) - drawn,
        "current/behaviour": current - drawn,
    }  # fmt: skip
    found: list[tuple[float, str, str]] = []
    token, rollout = _widened(floor, times)
    for name, x in ratios.items():
        if not x.any():  # as where all of the rollouts are on-policy: nothing is won or lost
            found += [(0.0, name, KL)] * (len(TOKEN_STAKES) + len(ROLLOUT_STAKES))
            continue
        whole = np.add.reduceat(x, start)
        found += [(log_evidence(x - token, stake), name, KL if stake == 1 else TOKEN) for stake in TOKEN_STAKES]
        found += [(log_evidence(whole - rollout, stake), name, ROLLOUT) for stake in ROLLOUT_STAKES]
    evidence = float(np.logaddexp.reduce([x for x, *_ in found]) - np.log(len(found)))
    if evidence < -np.log(FALSE_ALARM):
        return None
    _, name, statistic = max(found)
    x = ratios[name]
    cluster = np.unique(log.prompt[log.transcripts[chosen]], return_inverse=True)[1]
    size = np.bincount(cluster)

    def prompts(values: Floats) -> Floats:
        return np.asarray(np.bincount(cluster, values, size.size), np.float64)

    if statistic == TOKEN:
        interval = ratio(prompts(np.add.reduceat(np.exp(x), start)), prompts(length.astype(float)), alpha)
    else:
        whole = np.add.reduceat(x, start)
        interval = mean(prompts(-whole if statistic == KL else np.exp(whole)) / size, alpha)
    return {
        "ratio": name, "statistic": statistic, **(plain(interval) or {}),
        "allowed": "at least 0" if statistic == KL else "at most 1", "log_evidence": evidence,
    }  # fmt: skip


def one_sided_groups(log: TokenLog, chosen: Ints) -> int:
    """How many prompts have both rewards, where that is every one and cannot be by chance; otherwise 0.

    Of G rollouts with two possible rewards all have the same with probability `pᴳ + (1−p)ᴳ ≥ 2¹⁻ᴳ`: that no prompt of many is
    such has at most the probability `Π_b (1 − 2^{1−G_b})`. Trainers drop such prompts, for they have no advantage.
    """
    first = log.transcripts[chosen]
    reward, cluster = log.reward[first], np.unique(log.prompt[first], return_inverse=True)[1]
    low, high = reward.min(), reward.max()
    if not np.isin(reward, (low, high)).all():
        return 0
    size, ones = np.bincount(cluster), np.bincount(cluster, reward == high)
    several = size > 1
    mixed = (ones > 0) & (ones < size)
    chance = float(np.log1p(-(2.0 ** (1 - size[several]))).sum())
    return int(several.sum()) if mixed[several].all() and chance < np.log(FALSE_ALARM) else 0


def unequal(log: TokenLog, chosen: Ints) -> tuple[int, int] | None:
    """The smallest and the largest group, where they differ."""
    size = np.unique(log.prompt[log.transcripts[chosen]], return_counts=True)[1]
    return None if size.min() == size.max() else (int(size.min()), int(size.max()))


def holes(log: TokenLog, chosen: Ints) -> int:
    """How many rollout ids are not there, where ids are numbers: 0 … G−1 for every prompt, or 0 … N−1 for all rollouts.

    Ids of another kind (more than 16 times as many as rollouts) say nothing.
    """
    first = log.transcripts[chosen]
    rollout, prompt = log.rollout[first], log.prompt[first]
    names, prompts = np.unique(rollout), np.unique(prompt).size
    span = int(names[-1] - names[0]) + 1
    missing = (span if names.size == rollout.size else prompts * span) - rollout.size
    return missing if 0 < missing <= 15 * rollout.size else 0
