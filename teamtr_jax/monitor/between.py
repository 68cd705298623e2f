"""What one update says of another: the next rewards, which resampling could have been skipped, the interaction matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from teamtr_jax.intervals import Interval, mean, quantile, two_means, upper_limit
from teamtr_jax.monitor.estimates import Floats, Ints, plain
from teamtr_jax.monitor.interaction import Interaction, estimate_interaction
from teamtr_jax.monitor.log import TokenLog
from teamtr_jax.monitor.scored import per_prompt, score
from teamtr_jax.monitor.updates import Settings, Update
from teamtr_jax.schedules import path_shift

__all__ = ["next_rewards", "shifts", "matrices"]


def _rewards(log: TokenLog, u: Update) -> tuple[Ints, Floats]:
    """[B] the prompts of an update, and the mean reward of each."""
    first = log.transcripts[u.chosen]
    prompts, cluster = np.unique(log.prompt[first], return_inverse=True)
    return prompts, np.bincount(cluster, log.reward[first]) / np.bincount(cluster)


def next_rewards(log: TokenLog, updates: list[Update], records: list[dict[str, Any]], settings: Settings) -> None:
    """S8: the next agent's rollouts estimate `J(π̂ⁱ)` for free."""
    for i, (u, record) in enumerate(zip(updates, records, strict=True)):
        record["improvement_next"] = record["paired"] = None
        if i + 1 == len(updates) or u.evidence != "fresh":
            continue
        following = updates[i + 1]
        if following.evidence != "fresh" or (any(x.state != "whole" for x in following.again) and not log.told):
            continue  # perhaps the same rollouts
        (before, old), (after, new) = _rewards(log, u), _rewards(log, following)
        paired = u.stage == following.stage and np.array_equal(before, after)
        found = mean(new - old, settings.alpha) if paired else two_means(new, old, settings.alpha)
        record["improvement_next"], record["paired"] = plain(found), paired


def shifts(log: TokenLog, updates: list[Update], records: list[dict[str, Any]], settings: Settings) -> None:
    """Which resampling could have been skipped: the certified shift since the rollouts that would have been in use."""
    by_stage: dict[int, list[int]] = {}
    for i, u in enumerate(updates):
        by_stage.setdefault(u.stage, []).append(i)
    for members in by_stage.values():
        level = settings.alpha / len(members)
        base = members[0]
        for position, i in enumerate(members):
            u, record = updates[i], records[i]
            record |= dict.fromkeys(("shift", "shift_upper", "shift_rung", "shift_booked", "skippable"))
            if position == 0:
                continue
            since = [records[j] for j in members if base <= j < i]
            doubted = any(r["invalid"] for r in (*since, record))
            booked = sum(r["kl_episode"]["value"] for r in since)
            record["shift_booked"] = float(path_shift(booked, None))
            direct = _path(log, updates, base, i, members[position - 1], settings)
            if doubted:
                shift, upper, rung = 1.0, 1.0, "none: the rollouts are in doubt"
            elif direct is not None:
                shift, upper, rung = direct.value, upper_limit(direct, level), "S3, re-scored rollouts"
                shift, upper = float(path_shift(shift, None)), float(path_shift(upper, None))
            elif all(r["evidence"] == "fresh" for r in since):
                shift = float(sum(path_shift(r["kl_episode"]["value"], None) for r in since))
                upper = float(sum(path_shift(_upper(r["kl_episode"], level, settings.alpha), None) for r in since))
                shift, upper, rung = min(shift, 1.0), min(upper, 1.0), "S2, summed over updates"
            else:
                shift, upper, rung = 1.0, 1.0, "none: no re-scored rollouts"
            record |= {"shift": shift, "shift_upper": upper, "shift_rung": rung}
            if record["resampled"] and u.evidence == "fresh":
                record["skippable"] = None if doubted else upper <= settings.tolerance
                if not record["skippable"]:
                    base = i


def _upper(found: dict[str, Any], level: float, alpha: float) -> float:
    """The one-sided limit at `level` from a stored interval at `alpha`."""
    if found["n"] < 2 or not np.isfinite(found["high"]):
        return np.inf
    error = (found["high"] - found["value"]) / quantile(1 - alpha / 2, found["n"] - 1)
    return found["value"] + quantile(1 - level, found["n"] - 1) * error


def _path(
    log: TokenLog, updates: list[Update], base: int, i: int, previous: int, settings: Settings
) -> Interval | None:
    """`KL(π̂^{base} ‖ π̂ⁱ⁻¹)` of the transcripts, k3 on rollouts of the base; `None` where they were not scored again."""
    source = updates[base].update
    if updates[base].evidence != "fresh":
        return None
    for j, name in ((i, "k3_current"), (previous, "k3_new")):
        if (chosen := updates[j].sets.get(source)) is not None:
            s = score(log, chosen, np.asarray(updates[j].agents, np.int64))
            return mean(per_prompt(s, s.sums(getattr(s, name))), settings.alpha)
    return None


def matrices(
    log: TokenLog, updates: list[Update], records: list[dict[str, Any]], settings: Settings
) -> list[Interaction]:
    """R5: one for each stage whose first rollouts were scored, all of them and none in doubt, at two of its updates or more."""
    doubted = {(r["stage"], r["update"]) for r in records if r["invalid"]}
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
