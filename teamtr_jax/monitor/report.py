"""What a token log says about every update: estimates, rungs, certificates, resampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from teamtr_jax.finite_sample import Sample, betting_bound
from teamtr_jax.intervals import Interval, lower_limit, mean, ratio, upper_limit
from teamtr_jax.monitor import doubts
from teamtr_jax.monitor.between import matrices, next_rewards, shifts
from teamtr_jax.monitor.estimates import Floats, flips, gain, grow, growth, normalised, plain, weights
from teamtr_jax.monitor.interaction import Interaction, gap_values
from teamtr_jax.monitor.log import TokenLog
from teamtr_jax.monitor.scored import Scored, per_prompt, score
from teamtr_jax.monitor.updates import Settings, Update, updates_of
from teamtr_jax.validation import InputError

__all__ = ["MONITOR_SCHEMA", "INFORMATION", "Report", "monitor", "label"]

MONITOR_SCHEMA = 1

CUT = 300.0
"""Log weights are cut at this for S8: from above, so the limit holds, and their squares are finite."""

WITHHELD: Mapping[str, str] = {
    "mean_weight_high": "the mean weight new/current lies above 1",
    "limit_cut": "a limit exceeds high − mean reward",
}
"""By key of a record, what a limit does not stand against. An honest log does it too, rarely."""
RARELY = 0.1
"""Mean weights are tested at this share of α."""

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


class Report(NamedTuple):
    """One record per update (plain numbers), one matrix per stage that shows one."""

    records: list[dict[str, Any]]
    interactions: list[Interaction]
    settings: Settings
    rows: int


def _by_prompt(s: Scored, values: Floats) -> Floats:
    """[M] → [B], summed over the messages of a prompt."""
    return np.asarray(np.bincount(s.cluster[s.rollout], values, s.prompts.size), np.float64)


def _rungs(s: Scored, evidence: str, settings: Settings) -> list[tuple[str, str, Interval]]:
    """`(id, name, certificate)`: lower bounds on `J(π̂ⁱ) − J(π̂ⁱ⁻¹)`, each the mean of one number per prompt."""
    low, high = settings.reward_range
    width = high - low
    if evidence == "fresh":
        penalty = width * s.sums(s.k3)
        rungs = [
            ("S7", "message ratios", s.advantage * s.sums(growth(s.new)) - penalty),
            ("S7", "token ratios", s.advantage * s.steps - penalty),
            ("S9", "value-weighted", (s.reward - low) * s.sums(s.new)),
        ]
    elif (s.mine & (abs(s.current) > settings.match * s.tokens)).any():
        surrogate = s.advantage * s.sums(gain(s.current, s.new))
        rungs = [("S7c", "reused, agent moved twice", surrogate - width * s.sums(s.k3_new + s.k3_current))]
    else:
        surrogate = s.advantage * s.sums(growth(s.new))
        rungs = [("S7c", "reused rollouts", surrogate - width * s.sums(s.k3_new))]
    return [(id, name, mean(per_prompt(s, values), settings.alpha)) for id, name, values in rungs]


def _finite_values(s: Scored, settings: Settings) -> Floats:
    """[2, B] S8 (`path_sample`) `Z = mean_g R_g(Λ_g − 1)`, R rescaled to [0, 1], and `mean_g Λ_g − 1`."""
    low, high = settings.reward_range
    gained = growth(np.minimum(s.sums(s.new), CUT))
    return np.stack([per_prompt(s, (s.reward - low) / (high - low) * gained), per_prompt(s, gained)])


def _finite_samples(records: list[dict[str, Any]], values: list[Floats | None], settings: Settings) -> None:
    """S8 for every update with fresh rollouts, in units of the reward; updates with equally many prompts at once."""
    width = settings.reward_range[1] - settings.reward_range[0]
    by_size: dict[int, list[tuple[int, Floats]]] = {}
    for i, z in enumerate(values):
        records[i] |= {"certificate_finite_sample": None, "mean_weight_high": False}
        if z is not None:
            by_size.setdefault(z.shape[1], []).append((i, z))
    for size, members in by_size.items():
        z = np.stack([x for _, x in members])
        levels = (settings.alpha, settings.alpha * RARELY)
        lower, weight = (
            betting_bound(Sample(z[:, j], -1.0, np.inf), level) if size > 1 else np.full(len(members), -1.0)
            for j, level in enumerate(levels)
        )
        for (i, _), limit, above, mean_value in zip(members, lower, weight, z[:, 0].mean(-1), strict=True):
            invalid = records[i]["invalid"]
            records[i]["mean_weight_high"] = not invalid and bool(above > 0)
            records[i]["certificate_finite_sample"] = {
                "lower": -np.inf if invalid else max(float(limit), -1.0) * width,
                "estimate": float(mean_value) * width,
                "alpha": settings.alpha,
                "estimator": "path",
                "bound": "betting",
                "label": label(settings, invalid),
            }


def _withhold(records: list[dict[str, Any]], settings: Settings) -> None:
    """No limit where one exceeds `high − mean reward`, the largest improvement there can be, or weights are too large."""
    for record in records:
        limits = [x for key in ("certificate", "certificate_finite_sample") if (x := record[key]) is not None]
        room = settings.reward_range[1] - record["reward"]["value"]
        record["limit_cut"] = any(x["lower"] > room for x in limits)
        if reasons := [text for key, text in WITHHELD.items() if record[key]]:
            for x in limits:
                x |= {"lower": -np.inf, "label": label(settings, reasons)}
        if record["mean_weight_high"] and record["kl_k1"]["high"] < 0:
            record["outside"] = True


def label(settings: Settings, invalid: list[str]) -> str:
    """What a limit is worth: under `--held-out` what it says, otherwise no guarantee, and nothing where it is `invalid`."""
    return f"none: {invalid[0]}" if invalid else "held-out" if settings.held_out else "in-sample: not a guarantee"


def _doubts(log: TokenLog, u: Update, settings: Settings) -> dict[str, Any]:
    """Why the rollouts of an update carry no certificate, if they do not, and what else is odd about them."""
    agents = np.asarray(u.agents, np.int64)
    chosen = [*u.sets.values()] or [u.chosen]
    masked = int(log.masked[u.chosen].sum())
    drawn = [doubts.contradiction(log, x, agents, settings.match, settings.alpha) for x in chosen]
    contradiction = next((x for x in drawn if x is not None), None)
    mixed, unequal = doubts.one_sided_groups(log, u.chosen), doubts.unequal(log, u.chosen)
    missing = doubts.holes(log, u.chosen)
    invalid = [
        reason
        for reason, found in (
            ("rollouts scored again are not all there", u.evidence == "incomplete"),
            ("tokens are masked", any(log.masked[x].any() for x in chosen)),
            ("the log contradicts itself", contradiction is not None),
            ("prompts whose rollouts have equal rewards were left out", mixed > 0),
            ("groups of unequal size: rollouts may be missing", unequal is not None and not settings.complete),
            ("rollout ids are missing", missing > 0 and not settings.complete),
        )
        if found
    ]
    return {
        "invalid": invalid,
        "masked": masked,
        "contradiction": contradiction,
        "groups": None if unequal is None else list(unequal),
        "ids_missing": missing,
        "scored_again": [
            {key: value for key, value in x._asdict().items() if key not in ("stage", "update")} for x in u.again
        ],
    }


def _record(
    log: TokenLog, u: Update, settings: Settings, rng: np.random.Generator
) -> tuple[dict[str, Any], Floats | None]:
    """The record of an update, and the numbers per prompt of its S8 certificate."""
    alpha = settings.alpha
    found = _doubts(log, u, settings)
    s = score(log, u.chosen, np.asarray(u.agents, np.int64))
    spoken = s.agent >= 0
    agents, tokens = np.unique(s.agent[spoken]), int(s.tokens.sum())
    own = int(s.mine.sum())
    reward = mean(per_prompt(s, s.reward), alpha)
    record: dict[str, Any] = {
        "schema": MONITOR_SCHEMA,
        "stage": u.stage,
        "update": u.update,
        "agents": u.agents,
        "kind": "nothing changed" if not u.changed else "joint" if len(u.agents) > 1 else "single",
        "changed_besides": sorted(set(u.changed) - set(u.agents)),
        "evidence": u.evidence,
        "resampled": u.resampled,
        "source": u.source,
        "off_policy": max(u.off.values()),
        "prompts": s.prompts.size,
        "rollouts": s.reward.size,
        "tokens": tokens,
        "reward": plain(reward),
        "share_tokens": {str(k): float(s.tokens[s.agent == k].sum() / tokens) for k in agents},
        "share_messages": {str(k): float((s.agent == k).sum() / spoken.sum()) for k in agents},
        "messages": own / s.reward.size,
        "messages_max": int(np.bincount(s.rollout[s.mine], minlength=s.reward.size).max()),
        "delta": settings.delta,
    }
    monitored: dict[str, Any] = dict.fromkeys(("kl_k1", "kl_k3", "outside", "flips_25", "flips_50"))
    if own:
        count = _by_prompt(s, s.mine.astype(float))
        for name, values in (("kl_k1", s.k1), ("kl_k3", s.k3)):
            monitored[name] = plain(ratio(_by_prompt(s, values), count, alpha))
        above = monitored["kl_k1"]["value"] > settings.delta
        monitored["outside"] = above or bool(found["contradiction"]) or (None if found["invalid"] else False)
        turned = flips(s.token_k1, own, settings.delta, (0.25, 0.5), settings.draws, rng)
        monitored["flips_25"], monitored["flips_50"] = turned
    episode = mean(per_prompt(s, s.sums(s.k3)), alpha)
    rungs = _rungs(s, u.evidence, settings)
    union = alpha / len(rungs)
    limits = [lower_limit(x, union) for *_, x in rungs]
    invalid = found["invalid"]
    best = int(np.argmax(limits))
    old = [(source, chosen) for source, chosen in u.sets.items() if u.off[source] > settings.match]
    weighed = score(log, old[0][1], np.asarray(u.agents, np.int64)) if old else None
    fresh = u.evidence == "fresh"
    step = s.sums(growth(s.new) if fresh else gain(s.current, s.new))
    mean_weight = mean(per_prompt(s, grow(s.sums(s.new))), alpha)
    scaled = normalised(s.reward, s.cluster, s.prompts.size)
    record |= (
        found
        | monitored
        | {
            "kl_episode": plain(episode),
            "kl_episode_upper": np.inf if invalid else upper_limit(episode, alpha),
            "surrogate": plain(mean(per_prompt(s, s.advantage * step), alpha)),
            "surrogate_tokens": plain(mean(per_prompt(s, s.advantage * s.steps), alpha)) if fresh else None,
            "surrogate_normalised": plain(mean(per_prompt(s, scaled * step), alpha)),
            "gap": plain(mean(gap_values(s), alpha)) if fresh else None,
            "improvement": plain(mean(per_prompt(s, s.advantage * growth(s.sums(s.new))), alpha)) if fresh else None,
            "rungs": [
                {
                    "id": id,
                    "name": name,
                    "information": "estimable",
                    "certificate": plain(x),
                    "lower": -np.inf if invalid else limit,
                }
                for (id, name, x), limit in zip(rungs, limits, strict=True)
            ],
            "certificate": {
                "rung": f"{rungs[best][0]}, {rungs[best][1]}",
                "lower": -np.inf if invalid else limits[best],
                "alpha": alpha,
                "union": len(rungs),
                "label": label(settings, invalid),
            },
            "mean_weight": plain(mean_weight),
            "mean_weight_low": upper_limit(mean_weight, doubts.FALSE_ALARM) < 1,
            "weights_update": weights(s.sums(s.new))._asdict(),
            "weights_behaviour": None
            if weighed is None
            else weights(weighed.sums(weighed.current))._asdict() | {"source": old[0][0]},
        }
    )
    return record, _finite_values(s, settings) if fresh else None


@np.errstate(over="ignore", invalid="ignore")
def monitor(log: TokenLog, settings: Settings | None = None) -> Report:
    """Everything that the log says about every update.

    Raises:
      InputError: a setting, or a reward outside the declared range.
    """
    settings = Settings() if settings is None else settings
    if not isinstance(log, TokenLog) or not isinstance(settings, Settings):
        found = f"{type(log).__name__} and {type(settings).__name__}"
        raise InputError("log, settings", found, "a TokenLog (token_log, read_token_log) and Settings")
    settings.check()
    low, high = settings.reward_range
    if (bad := (log.reward < low) | (log.reward > high)).any():
        raise InputError(
            "column reward",
            float(log.reward[bad][0]),
            f"rewards in [{low:g}, {high:g}]: declare the range (--reward-range)",
        )
    rng = np.random.default_rng(settings.seed)
    updates = updates_of(log, settings)
    found = [_record(log, u, settings, rng) for u in updates]
    records = [record for record, _ in found]
    _finite_samples(records, [values for _, values in found], settings)
    _withhold(records, settings)
    next_rewards(log, updates, records, settings)
    shifts(log, updates, records, settings)
    interactions = matrices(log, updates, records, settings)
    for record in records:
        record["interaction"] = record["drift"] = None
    at = {(u.stage, u.update): record for u, record in zip(updates, records, strict=True)}
    for matrix in interactions:
        for i, update in enumerate(matrix.updates):
            record = at[matrix.stage, update]
            record["drift"] = plain(matrix.drift[i])
            record["interaction"] = [
                {"update": k, "agents": agents, "entry": plain(row[i]), "clear": clear[i]}
                for k, agents, row, clear in zip(
                    matrix.updates, matrix.agents, matrix.entries, matrix.clear, strict=True
                )
            ]
    return Report(records, interactions, settings, log.rows)
