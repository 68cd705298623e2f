"""What a token log says about every update: estimates, rungs, certificates, resampling."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from teamtr_jax.finite_sample import Sample, betting_bound
from teamtr_jax.llm.monitor.estimates import (
    Floats,
    Interval,
    Ints,
    flips,
    grow,
    lower_limit,
    mean,
    normalised,
    ratio,
    two_means,
    upper_limit,
    weights,
)
from teamtr_jax.llm.monitor.interaction import Interaction, estimate_interaction, gap_values
from teamtr_jax.llm.monitor.log import TokenLog
from teamtr_jax.llm.monitor.scored import Scored, per_prompt, score
from teamtr_jax.schedules import path_shift
from teamtr_jax.validation import InputError

__all__ = ["MONITOR_SCHEMA", "INFORMATION", "Settings", "Report", "monitor"]

MONITOR_SCHEMA = 1

INFORMATION: Mapping[str, tuple[str, str]] = {
    "reward": ("estimable", "J of the team that wrote the rollouts"),
    "kl_k1": ("estimable", "mean over the updated agents' messages of Σ_u log π_current/π_new (the paper's monitor)"),
    "kl_k3": ("estimable", "the same with r − 1 − log r, r = π_new/π_current"),
    "kl_episode": ("estimable", "K: Σ KL(current‖new) over the episode, k3"),
    "surrogate": ("estimable", "L: message ratios, leave-one-out advantages"),
    "improvement": ("estimable", "J(π̂ⁱ) − J(π̂ⁱ⁻¹) by the importance weight of whole rollouts: L + gap"),
    "gap": ("estimable", "J(π̂ⁱ) − J(π̂ⁱ⁻¹) − L by importance ratios (exact mean, large variance)"),
    "certificate S7": ("estimable, with ϱ declared (prior)", "L − ϱ·K"),
    "certificate S7c": ("estimable, with ϱ declared (prior)", "L of reused rollouts − ϱ·ΣK"),
    "certificate S9": ("estimable, with the floor of the reward declared (prior)", "E (R − floor) log Λ"),
    "certificate S8": ("estimable, no asymptotics; reward range declared (prior)", "betting bound, E R(Λ − 1)"),
    "shift": ("estimable", "S3 √(K/2) on re-scored rollouts, else S2 summed over the updates"),
    "interaction": ("estimable", "R5 by importance ratios on re-scored rollouts of the stage's start"),
}
"""Who can print it: nothing here needs a supremum over states (oracle); ranges are declared (prior), means are estimated."""


@dataclass(frozen=True)
class Settings:
    """What the reader declares."""

    delta: float = 0.01
    """Threshold of the token-KL monitor, nats per message."""
    alpha: float = 0.1
    """Intervals and limits have level 1 − α."""
    tolerance: float = 0.1
    """Resample only above this certified shift (total variation) since the rollouts in use."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Declared least and largest reward; ϱ is the difference."""
    held_out: bool = False
    """No update was trained on the rollouts of this log."""
    match: float = 1e-4
    """Log-probabilities within this, nats per token, are of the same policy."""
    draws: int = 100
    """Sub-samples of the tokens, for threshold flips."""
    seed: int = 0
    """Of the sub-samples."""

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
          InputError: names the option.
        """
        low, high = self.reward_range
        for name, value, good, expected in (
            ("delta", self.delta, 0 < self.delta < np.inf, "a positive number"),
            ("alpha", self.alpha, 0 < self.alpha < 1, "a probability strictly between 0 and 1"),
            ("tolerance", self.tolerance, 0 <= self.tolerance <= 1, "a total variation, 0 … 1"),
            ("reward-range", self.reward_range, -np.inf < low < high < np.inf, "LOW < HIGH, both finite"),
            ("match", self.match, 0 <= self.match < np.inf, "a number ≥ 0"),
            ("draws", self.draws, self.draws >= 1, "at least 1"),
        ):
            if not good:
                raise InputError(f"--{name}", value, expected)


class Report(NamedTuple):
    """One record per update (plain numbers), one matrix per stage that shows one."""

    records: list[dict[str, Any]]
    interactions: list[Interaction]
    settings: Settings
    rows: int


class _Update(NamedTuple):
    """An update and its rollouts: those it is judged by, and those that were written by an earlier team."""

    stage: int
    update: int
    agents: list[int]
    changed: list[int]
    sets: dict[int, Ints]  #: by source, the transcripts
    off: dict[int, float]  #: by source, max |logp_current − logp_behaviour|
    evidence: str  #: fresh or reused
    chosen: Ints
    source: int


# --------------------------------------------------------------------------------------------------------- one update


def _updates(log: TokenLog, settings: Settings) -> list[_Update]:
    first = log.transcripts[:-1]
    stage, update = log.stage[first], log.update[first]
    bounds = np.r_[0, np.flatnonzero((np.diff(stage) != 0) | (np.diff(update) != 0)) + 1, first.size]
    distance = np.maximum.reduceat(abs(log.logp_current - log.logp_behaviour), first)
    stepped = log.logp_new != log.logp_current
    out = []
    for a, b in itertools.pairwise(bounds.tolist()):
        rows = slice(log.transcripts[a], log.transcripts[b])
        changed = np.unique(log.agent[rows][stepped[rows]]).tolist()
        told = None if log.updated is None else int(log.updated[rows.start])
        agents = changed if told is None else np.unique(log.agent[rows]).tolist() if told == -1 else [told]
        every = np.arange(a, b)
        sets = {int(s): every[log.source[a:b] == s] for s in np.unique(log.source[a:b])}
        off = {s: float(distance[chosen].max()) for s, chosen in sets.items()}
        fresh = [s for s in sets if off[s] <= settings.match]
        source = max(fresh or sets)
        chosen = np.sort(np.concatenate([sets[s] for s in fresh or [source]]))
        evidence = "fresh" if fresh else "reused"
        out.append(_Update(int(stage[a]), int(update[a]), agents, changed, sets, off, evidence, chosen, source))
    return out


def _plain(x: Interval | None) -> dict[str, Any] | None:
    if x is None:
        return None
    return {"value": x.value, "low": x.low, "high": x.high, "n": x.n}


def _by_prompt(s: Scored, values: Floats) -> Floats:
    """[M] → [B], summed over the messages of a prompt."""
    return np.asarray(np.bincount(s.cluster[s.rollout], values, s.prompts.size), np.float64)


def _rungs(s: Scored, evidence: str, settings: Settings) -> list[tuple[str, str, Interval]]:
    """`(id, name, certificate)`: lower bounds on `J(π̂ⁱ) − J(π̂ⁱ⁻¹)`, each the mean of one number per prompt."""
    low, high = settings.reward_range
    width, alpha = high - low, settings.alpha

    def rung(id: str, name: str, values: Floats) -> tuple[str, str, Interval]:
        return id, name, mean(per_prompt(s, values), alpha)

    if evidence == "fresh":
        penalty = width * s.sums(s.k3)
        step = s.sums(np.expm1(np.minimum(s.new, 700.0)))
        return [
            rung("S7", "message ratios", s.advantage * step - penalty),
            rung("S7", "token ratios", s.advantage * s.steps - penalty),
            rung("S9", "value-weighted", (s.reward - low) * s.sums(s.new)),
        ]
    moved = bool((s.mine & (abs(s.current) > settings.match * s.tokens)).any())
    surrogate = s.advantage * s.sums(
        grow(s.current + s.new) - grow(s.current) if moved else np.expm1(np.minimum(s.new, 700.0))
    )
    if moved:
        return [rung("S7c", "reused, agent moved twice", surrogate - width * s.sums(s.k3_new + s.k3_current))]
    return [rung("S7c", "reused rollouts", surrogate - width * s.sums(s.k3_new))]


def _finite_values(s: Scored, settings: Settings) -> Floats:
    """S8 (`path_sample`): [B] `Z = mean_g R_g(Λ_g − 1)`, R rescaled to [0, 1]."""
    low, high = settings.reward_range
    return per_prompt(s, (s.reward - low) / (high - low) * np.expm1(np.minimum(s.sums(s.new), 700.0)))


def _finite_samples(records: list[dict[str, Any]], values: list[Floats | None], settings: Settings) -> None:
    """S8 for every update with fresh rollouts, in units of the reward; updates with equally many prompts at once."""
    width = settings.reward_range[1] - settings.reward_range[0]
    by_size: dict[int, list[tuple[int, Floats]]] = {}
    for i, z in enumerate(values):
        records[i]["certificate_finite_sample"] = None
        if z is not None:
            by_size.setdefault(z.size, []).append((i, z))
    for size, members in by_size.items():
        z = np.stack([x for _, x in members])
        lower = betting_bound(Sample(z, -1.0, np.inf), settings.alpha) if size > 1 else np.full(len(members), -1.0)
        for (i, _), limit, mean_value in zip(members, lower, z.mean(-1), strict=True):
            records[i]["certificate_finite_sample"] = {
                "lower": max(float(limit), -1.0) * width,
                "estimate": float(mean_value) * width,
                "alpha": settings.alpha,
                "estimator": "path",
                "bound": "betting",
                "label": _label(settings),
            }


def _label(settings: Settings) -> str:
    return "held-out" if settings.held_out else "in-sample: not a guarantee"


def _record(
    log: TokenLog, u: _Update, settings: Settings, rng: np.random.Generator
) -> tuple[dict[str, Any], Floats | None]:
    """The record of an update, and the numbers per prompt of its S8 certificate."""
    alpha = settings.alpha
    s = score(log, u.chosen, np.asarray(u.agents, np.int64))
    agents = np.unique(s.agent)
    own = int(s.mine.sum())
    record: dict[str, Any] = {
        "schema": MONITOR_SCHEMA,
        "stage": u.stage,
        "update": u.update,
        "agents": u.agents,
        "kind": "nothing changed" if not u.changed else "joint" if len(u.agents) > 1 else "single",
        "changed_besides": sorted(set(u.changed) - set(u.agents)),
        "evidence": u.evidence,
        "resampled": u.update in u.sets,
        "source": u.source,
        "off_policy": max(u.off.values()),
        "prompts": s.prompts.size,
        "rollouts": s.reward.size,
        "tokens": int(s.tokens.sum()),
        "reward": _plain(mean(per_prompt(s, s.reward), alpha)),
        "share_tokens": {str(k): float(s.tokens[s.agent == k].sum() / s.tokens.sum()) for k in agents},
        "share_messages": {str(k): float((s.agent == k).mean()) for k in agents},
        "messages": own / s.reward.size,
        "messages_max": int(np.bincount(s.rollout[s.mine], minlength=s.reward.size).max()),
        "delta": settings.delta,
    }
    monitored: dict[str, Any] = dict.fromkeys(("kl_k1", "kl_k3", "outside", "flips_25", "flips_50"))
    if own:
        count = _by_prompt(s, s.mine.astype(float))
        for name, values in (("kl_k1", s.k1), ("kl_k3", s.k3)):
            monitored[name] = _plain(ratio(_by_prompt(s, values), count, alpha))
        monitored["outside"] = monitored["kl_k1"]["value"] > settings.delta
        turned = flips(s.token_k1, own, settings.delta, (0.25, 0.5), settings.draws, rng)
        monitored["flips_25"], monitored["flips_50"] = turned
    episode = mean(per_prompt(s, s.sums(s.k3)), alpha)
    rungs = _rungs(s, u.evidence, settings)
    union = alpha / len(rungs)
    limits = [lower_limit(x, union) for *_, x in rungs]
    best = int(np.argmax(limits))
    old = [(source, chosen) for source, chosen in u.sets.items() if u.off[source] > settings.match]
    weighed = score(log, old[0][1], np.asarray(u.agents, np.int64)) if old else None
    fresh = u.evidence == "fresh"
    if fresh:
        surrogate = s.advantage * s.sums(np.expm1(np.minimum(s.new, 700.0)))
    else:
        surrogate = s.advantage * s.sums(grow(s.current + s.new) - grow(s.current))
    scaled = normalised(s.reward, s.cluster, s.prompts.size)
    record |= monitored | {
        "kl_episode": _plain(episode),
        "kl_episode_upper": upper_limit(episode, alpha),
        "surrogate": _plain(mean(per_prompt(s, surrogate), alpha)),
        "surrogate_tokens": _plain(mean(per_prompt(s, s.advantage * s.steps), alpha)) if fresh else None,
        "surrogate_normalised": _plain(mean(per_prompt(s, scaled * s.sums(np.expm1(np.minimum(s.new, 700.0)))), alpha)),
        "gap": _plain(mean(gap_values(s), alpha)) if fresh else None,
        "improvement": _plain(mean(per_prompt(s, s.advantage * np.expm1(np.minimum(s.sums(s.new), 700.0))), alpha))
        if fresh
        else None,
        "rungs": [
            {"id": id, "name": name, "information": "estimable", "certificate": _plain(x), "lower": limit}
            for (id, name, x), limit in zip(rungs, limits, strict=True)
        ],
        "certificate": {
            "rung": f"{rungs[best][0]}, {rungs[best][1]}",
            "lower": limits[best],
            "alpha": alpha,
            "union": len(rungs),
            "label": _label(settings),
        },
        "weights_update": weights(s.sums(s.new))._asdict(),
        "weights_behaviour": None
        if weighed is None
        else weights(weighed.sums(weighed.current))._asdict() | {"source": old[0][0]},
    }
    return record, _finite_values(s, settings) if fresh else None


# ----------------------------------------------------------------------------------------------- between the updates


def _next_rewards(log: TokenLog, updates: list[_Update], records: list[dict[str, Any]], settings: Settings) -> None:
    """S8: the next agent's rollouts estimate `J(π̂ⁱ)` for free."""

    def rewards(u: _Update) -> tuple[Ints, Floats]:
        first = log.transcripts[u.chosen]
        prompts, cluster = np.unique(log.prompt[first], return_inverse=True)
        return prompts, np.bincount(cluster, log.reward[first]) / np.bincount(cluster)

    for i, (u, record) in enumerate(zip(updates, records, strict=True)):
        record["improvement_next"] = record["paired"] = None
        if i + 1 == len(updates) or u.evidence != "fresh":
            continue
        following = updates[i + 1]
        if following.evidence != "fresh" or following.update not in following.sets:
            continue
        (before, old), (after, new) = rewards(u), rewards(following)
        paired = u.stage == following.stage and np.array_equal(before, after)
        found = mean(new - old, settings.alpha) if paired else two_means(new, old, settings.alpha)
        record["improvement_next"], record["paired"] = _plain(found), paired


def _shifts(log: TokenLog, updates: list[_Update], records: list[dict[str, Any]], settings: Settings) -> None:
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
            booked = sum(r["kl_episode"]["value"] for r in since)
            record["shift_booked"] = float(path_shift(booked, None))
            direct = _path(log, updates, base, i, members[position - 1], settings)
            if direct is not None:
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
                record["skippable"] = upper <= settings.tolerance
                if not record["skippable"]:
                    base = i


def _upper(found: dict[str, Any], level: float, alpha: float) -> float:
    """The one-sided limit at `level` from a stored interval at `alpha`."""
    if found["n"] < 2:
        return np.inf
    error = (found["high"] - found["value"]) / float(stdtrit(found["n"] - 1, 1 - alpha / 2))
    return found["value"] + float(stdtrit(found["n"] - 1, 1 - level)) * error


def _path(
    log: TokenLog, updates: list[_Update], base: int, i: int, previous: int, settings: Settings
) -> Interval | None:
    """`KL(π̂^{base} ‖ π̂ⁱ⁻¹)` of the transcripts, k3 on rollouts of the base; `None` where they were not scored again."""
    source = updates[base].update
    if updates[base].off.get(source, np.inf) > settings.match:
        return None
    for j, name in ((i, "k3_current"), (previous, "k3_new")):
        if (chosen := updates[j].sets.get(source)) is not None:
            s = score(log, chosen, np.asarray(updates[j].agents, np.int64))
            return mean(per_prompt(s, s.sums(getattr(s, name))), settings.alpha)
    return None


def _interactions(log: TokenLog, updates: list[_Update], settings: Settings) -> list[Interaction]:
    by_stage: dict[int, list[_Update]] = {}
    for u in updates:
        by_stage.setdefault(u.stage, []).append(u)
    out = []
    for stage, members in by_stage.items():
        source = members[0].update
        if members[0].off.get(source, np.inf) > settings.match:
            continue
        held = [u for u in members if source in u.sets]
        if len(held) < 2:
            continue
        first = log.transcripts[:-1]
        names = [np.stack([log.prompt[first[u.sets[source]]], log.rollout[first[u.sets[source]]]], 1) for u in held]
        found, count = np.unique(np.concatenate(names), axis=0, return_counts=True)
        common = {tuple(x) for x in found[count == len(held)].tolist()}
        if not common:
            continue
        chosen = found[count == len(held)]
        scored = {}
        for u, ids in zip(held, names, strict=True):
            keep = u.sets[source]
            if len(chosen) < len(ids):
                both, where = np.unique(np.concatenate([chosen, ids]), axis=0, return_inverse=True)
                seen = np.zeros(len(both), bool)
                seen[where[: len(chosen)]] = True
                keep = keep[seen[where[len(chosen) :]]]
            scored[u.update] = score(log, keep, np.asarray(u.agents, np.int64))
        out.append(estimate_interaction(stage, scored, {u.update: u.agents for u in members}, settings.alpha))
    return out


def monitor(log: TokenLog, settings: Settings = Settings()) -> Report:
    """Everything that the log says about every update.

    Raises:
      InputError: a setting, or a reward outside the declared range.
    """
    settings.check()
    low, high = settings.reward_range
    if (bad := (log.reward < low) | (log.reward > high)).any():
        raise InputError(
            "column reward",
            float(log.reward[bad][0]),
            f"rewards in [{low:g}, {high:g}]: declare the range (--reward-range)",
        )
    rng = np.random.default_rng(settings.seed)
    updates = _updates(log, settings)
    found = [_record(log, u, settings, rng) for u in updates]
    records = [record for record, _ in found]
    _finite_samples(records, [values for _, values in found], settings)
    _next_rewards(log, updates, records, settings)
    _shifts(log, updates, records, settings)
    interactions = _interactions(log, updates, settings)
    for record in records:
        record["interaction"] = record["drift"] = None
    at = {(u.stage, u.update): record for u, record in zip(updates, records, strict=True)}
    for matrix in interactions:
        for i, update in enumerate(matrix.updates):
            record = at[matrix.stage, update]
            record["drift"] = _plain(matrix.drift[i])
            record["interaction"] = [
                {"update": k, "agents": agents, "entry": _plain(row[i]), "clear": clear[i]}
                for k, agents, row, clear in zip(
                    matrix.updates, matrix.agents, matrix.entries, matrix.clear, strict=True
                )
            ]
    return Report(records, interactions, settings, log.rows)
