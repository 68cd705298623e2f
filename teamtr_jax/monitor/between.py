"""What one update says of another: the next rewards, which resampling could have been skipped, the interaction matrix."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from teamtr_jax.intervals import Interval, mean, two_means, upper_limit
from teamtr_jax.monitor.doubts import Doubts
from teamtr_jax.monitor.estimates import Floats, Ints
from teamtr_jax.monitor.interaction import Interaction, estimate_interaction
from teamtr_jax.monitor.log import TokenLog
from teamtr_jax.monitor.own import Own
from teamtr_jax.monitor.scored import per_prompt, score
from teamtr_jax.monitor.updates import Update
from teamtr_jax.monitor_settings import Settings
from teamtr_jax.path_shift import Since, path_shift, summed_shift

__all__ = ["Rewards", "rewards_of", "Following", "next_rewards", "Shift", "shifts", "matrices"]


class Rewards(NamedTuple):
    """What an update's rollouts earned, as far as its neighbours ask: kept when its rows are gone."""

    stage: int
    update: int
    fresh: bool
    again: bool  #: whether some of the rollouts may be those of the update before
    prompts: Ints  #: [B]
    means: Floats  #: [B] the mean reward of each


def rewards_of(log: TokenLog, u: Update) -> Rewards:
    """Of the rollouts that the update is judged by."""
    first = log.transcripts[u.chosen]
    prompts, cluster = np.unique(log.prompt[first], return_inverse=True)
    means = np.bincount(cluster, log.reward[first]) / np.bincount(cluster)
    again = not log.told and any(x.state != "whole" for x in u.again)
    return Rewards(u.stage, u.update, u.evidence == "fresh", again, prompts, means)


class Following(NamedTuple):
    """What the next update's new rollouts say of this one."""

    improvement: Interval | None = None
    paired: bool | None = None  #: the same prompts


def next_rewards(this: Rewards, following: Rewards, settings: Settings) -> Following:
    """S8: the next agent's rollouts, also of the next stage, estimate `J(π̂ⁱ)` for free."""
    stages, updates = following.stage - this.stage, following.update - this.update
    if not (this.fresh and following.fresh) or following.again or stages > 1 or (stages == 0 and updates > 1):
        return Following()  # or perhaps the same rollouts, or what came between is not in the log
    paired = this.stage == following.stage and np.array_equal(this.prompts, following.prompts)
    new, old = following.means, this.means
    return Following(mean(new - old, settings.alpha) if paired else two_means(new, old, settings.alpha), paired)


class Shift(NamedTuple):
    """How far the team has moved since the rollouts in use, total variation; nothing at the first update of a stage."""

    shift: float | None = None
    upper: float | None = None
    rung: str | None = None
    booked: float | None = None  #: `√(½ΣK)` of fresh K
    skippable: bool | None = None


def shifts(
    log: TokenLog, updates: Sequence[Update], found: Sequence[Own], doubts: Sequence[Doubts], settings: Settings
) -> list[Shift]:
    """Which resampling could have been skipped: the certified shift since the rollouts that would have been in use."""
    by_stage: dict[int, list[int]] = {}
    for i, u in enumerate(updates):
        by_stage.setdefault(u.stage, []).append(i)
    out = [Shift() for _ in updates]
    for members in by_stage.values():
        level = settings.alpha / len(members)
        base = members[0]
        for previous, i in itertools.pairwise(members):
            since = [j for j in members if base <= j < i]
            doubted = any(doubts[j].invalid for j in (*since, i))
            booked = float(path_shift(_booked([updates[j] for j in since], [found[j] for j in since]), None))
            left_out = _left_out([updates[j].update for j in (*since, i)])
            direct = _path(log, updates, base, i, previous, settings)
            if doubted:
                shift, upper, rung = 1.0, 1.0, "none: the rollouts are in doubt"
            elif direct is not None:
                shift, upper, rung = direct.value, upper_limit(direct, level), "S3, re-scored rollouts"
                shift, upper = float(path_shift(shift, None)), float(path_shift(upper, None))
            elif left_out:
                shift, upper, rung = 1.0, 1.0, f"none: {left_out}"
            elif all(updates[j].evidence == "fresh" for j in since):
                shift = summed_shift(found[j].episode.value for j in since)
                upper, rung = (
                    summed_shift(upper_limit(found[j].episode, level) for j in since),
                    "S2, summed over updates",
                )
            else:
                shift, upper, rung = 1.0, 1.0, "none: no re-scored rollouts"
            skippable = None
            if updates[i].resampled and updates[i].evidence == "fresh":
                skippable = None if doubted or (left_out and direct is None) else upper <= settings.tolerance
                if not skippable:
                    base = i
            out[i] = Shift(shift, upper, rung, None if left_out else booked, skippable)
    return out


def _left_out(updates: Sequence[int]) -> str:
    """Which updates between these are not in the log, in words; empty where all are."""
    gaps = [(a + 1, b - 1) for a, b in itertools.pairwise(updates) if b - a > 1]
    if not gaps:
        return ""
    a, b = gaps[0]
    return f"update {a} is not in the log" if a == b else f"updates {a} to {b} are not in the log"


def _booked(updates: Sequence[Update], found: Sequence[Own]) -> float:
    """`Σ K` of these updates, as the schedule `certificate_driven` books it; ∞ where an agent moved twice."""
    agents = np.arange(1 + max((agent for u in updates for agent in u.agents), default=0))
    since = Since(agents < 0, np.float64(0.0))
    for u, own in zip(updates, found, strict=True):
        since = since.moved_on(np.isin(agents, u.agents), own.episode.value)
    return float(since.path_kl)


def _path(
    log: TokenLog, updates: Sequence[Update], base: int, i: int, previous: int, settings: Settings
) -> Interval | None:
    """`KL(π̂^{base} ‖ π̂ⁱ⁻¹)` of the transcripts, k3 on rollouts of the base; `None` where they were not scored again.

    By the scores of current at i, or of new at the update before it, where that is in the log.
    """
    source = updates[base].update
    if updates[base].evidence != "fresh":
        return None
    scored = [(i, "k3_current"), (previous, "k3_new")]
    for j, name in scored[: 1 if _left_out([updates[previous].update, updates[i].update]) else 2]:
        if (chosen := updates[j].sets.get(source)) is not None:
            s = score(log, chosen, np.asarray(updates[j].agents, np.int64))
            return mean(per_prompt(s, s.sums(getattr(s, name))), settings.alpha)
    return None


def matrices(
    log: TokenLog, updates: Sequence[Update], doubts: Sequence[Doubts], settings: Settings
) -> list[Interaction]:
    """R5: one for each stage whose first rollouts were scored, all of them and none in doubt, at two of its updates or more."""
    doubted = {(u.stage, u.update) for u, doubt in zip(updates, doubts, strict=True) if doubt.invalid}
    by_stage: dict[int, list[Update]] = {}
    for u in updates:
        by_stage.setdefault(u.stage, []).append(u)
    out = []
    for stage, members in by_stage.items():
        source = members[0].update
        held = [u for u in members if source in u.sets]
        if members[0].evidence != "fresh" or len(held) < 2 or any((stage, u.update) in doubted for u in held):
            continue
        scored = {u.update: score(log, u.sets[source], np.asarray(u.agents, np.int64)) for u in held}
        out.append(estimate_interaction(stage, scored, {u.update: u.agents for u in members}, settings.alpha))
    return out
