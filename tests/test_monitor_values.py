"""Every number of the monitor's records against plain loops over the definitions of docs/monitor.md, written apart.

The logs are small and made by hand: rewards in [−1, 3], prompts with one to four rollouts, messages of one to three tokens.
"""

import functools
import itertools
import json
import math
import sys
import warnings

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student

from teamtr_jax.cli import main
from teamtr_jax.llm.monitor import (
    INFORMATION,
    Settings,
    monitor,
    pool,
    run,
    token_log,
    write_token_log,
)
from teamtr_jax.llm.monitor import estimates as est
from teamtr_jax.llm.monitor.interaction import Interaction
from teamtr_jax.records import TOKEN_LOG_COLUMNS, dump
from teamtr_jax.validation import InputError

LOW, HIGH = -1.0, 3.0
REWARDS = (-1.0, -0.25, 0.5, 1.75, 3.0)
LETTERS, TURNS, LONGEST = 3, 5, 3

# ------------------------------------------------------------------------------------------------------ logs made by hand


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def stage(
    seed, order, scored, groups, number=0, step=0.4, agents=2, told=None, lengths=(1, 2, 3), lag=0, turns=TURNS
) -> dict[str, list]:
    """One stage: letters drawn from tables that do not look back, so that every log-probability is easy to name.

    Args:
      order: who moves at each update, several at a joint one.
      scored: by the update at which rollouts were written, the updates at which they stand in the log.
      groups: by prompt, its rollouts.
      told: the column `updated`.
      lag: moves that the rollouts are behind the team for which they were written; `order` then begins with these.
    """
    rng = np.random.default_rng(seed)
    shape = (len(groups), TURNS, LONGEST, LETTERS)
    tables = [[rng.normal(size=shape)] for _ in range(agents)]
    for moved in order:
        for a in range(agents):
            tables[a].append(tables[a][-1] + (step * rng.normal(size=shape) if a in moved else 0.0))
    tables = [[log_softmax(x) for x in versions] for versions in tables]
    out: dict[str, list] = {key: [] for key in (*TOKEN_LOG_COLUMNS, "source", *(["updated"] if told else []))}
    for source, updates in scored.items():
        for p, (prompt, group) in enumerate(groups.items()):
            for g in range(group):
                reward = float(rng.choice(REWARDS))
                tokens = []
                for turn in range(int(rng.integers(2, turns + 1))):
                    agent = 0 if turn == 0 else int(rng.integers(agents))
                    for t in range(int(rng.choice(lengths))):
                        row = np.exp(tables[agent][source][p, turn, t])
                        tokens.append((agent, turn, t, int(rng.choice(LETTERS, p=row / row.sum()))))
                for update in updates:
                    for agent, turn, t, letter in tokens:
                        b, c, n = (
                            tables[agent][v][p, turn, t, letter] for v in (source, update + lag, update + lag + 1)
                        )
                        values = (prompt, 10 * source + g, number, update, agent, turn, t, b, c, n, reward, source)
                        for key, value in zip((*TOKEN_LOG_COLUMNS, "source"), values, strict=True):
                            out[key].append(value)
                        if told:
                            out["updated"].append(told[update])
    return out


def columns(*stages, shuffle=0):
    """Stages joined, their rows in any order."""
    lists = {key: [x for part in stages for x in part[key]] for key in stages[0]}
    order = np.random.default_rng(shuffle).permutation(len(lists["t"]))
    return {key: np.array(value)[order] for key, value in lists.items()}


# ------------------------------------------------------------------------------------------------- the definitions again


class Rollout:
    """A transcript at one update: its messages as lists of (behaviour, current, new)."""

    def __init__(self, rows, agents):
        rows = sorted(rows, key=lambda r: (r["turn"], r["t"]))
        self.prompt, self.reward, self.source = rows[0]["prompt"], rows[0]["reward"], rows[0]["source"]
        self.changed = {r["agent"] for r in rows if r["logp_new"] != r["logp_current"]}
        self.off = max(abs(r["logp_current"] - r["logp_behaviour"]) for r in rows)
        self.messages = []
        for _, group in itertools.groupby(rows, key=lambda r: r["turn"]):
            group = list(group)
            agent = group[0]["agent"]
            mine = agent in agents
            new = [r["logp_new"] - r["logp_current"] if mine else 0.0 for r in group]
            current = [r["logp_current"] - r["logp_behaviour"] for r in group]
            self.messages.append((agent, mine, current, new))
        self.key = rows[0]["prompt"], rows[0]["rollout"]

        news, currents = ([m[place] for m in self.messages] for place in (3, 2))
        self.tokens = sum(map(len, news))
        self.own = sum(mine for _, mine, _, _ in self.messages)
        self.weight = math.exp(sum(map(sum, news)))
        self.behaviour = math.exp(sum(map(sum, currents)))
        self.steps = sum(math.exp(x) - 1 for new in news for x in new)
        self.message_steps = sum(math.exp(sum(new)) - 1 for new in news)
        both = list(zip(currents, news, strict=True))
        self.old_steps = sum(math.exp(sum(c) + sum(n)) - math.exp(sum(c)) for c, n in both)
        self.k3 = sum(k3(x) for new in news for x in new)
        self.k3_current = sum(k3(x) for c in currents for x in c)
        self.k3_new = sum(k3(x + y) for c, n in both for x, y in zip(c, n, strict=True))


@functools.cache
def quantile(level, freedom):
    return float(student.ppf(level, freedom))


def k3(x):
    return math.exp(x) - 1 - x


def groups_of(rollouts):
    """By prompt, in the order of their ids, the positions of its rollouts."""
    return {p: [i for i, r in enumerate(rollouts) if r.prompt == p] for p in sorted({r.prompt for r in rollouts})}


def by_prompt(rollouts, values):
    return [math.fsum(values[i] for i in group) / len(group) for group in groups_of(rollouts).values()]


def advantages(rollouts):
    out = [0.0] * len(rollouts)
    for group in groups_of(rollouts).values():
        for i in group:
            others = [rollouts[j].reward for j in group if j != i]
            out[i] = rollouts[i].reward - (sum(others) / len(others) if others else 0.0)
    return out


def normalised(rollouts):
    out = [0.0] * len(rollouts)
    for group in groups_of(rollouts).values():
        rewards = [rollouts[i].reward for i in group]
        middle = sum(rewards) / len(rewards)
        spread = math.sqrt(sum((r - middle) ** 2 for r in rewards) / len(rewards) + 1e-8)
        for i in group:
            out[i] = (rollouts[i].reward - middle) / spread
    return out


def two_sided(value, error, n, alpha, freedom=None):
    if n < 2:
        return {"value": value, "low": -math.inf, "high": math.inf, "n": n}
    half = quantile(1 - alpha / 2, n - 1 if freedom is None else freedom) * error
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def centre(values):
    """Mean and standard error."""
    n = len(values)
    m = math.fsum(values) / n
    return m, math.sqrt(math.fsum((x - m) ** 2 for x in values) / (n - 1) / n) if n > 1 else math.inf


def mean(values, alpha):
    return two_sided(*centre(values), len(values), alpha)


def one_sided(values, alpha, sign):
    m, error = centre(values)
    return m + sign * quantile(1 - alpha, len(values) - 1) * error if len(values) > 1 else sign * math.inf


def quotient(total, count, alpha):
    n, whole = len(total), sum(count)
    r = sum(total) / whole
    rest = [x - r * c for x, c in zip(total, count, strict=True)]
    error = math.sqrt(n / (n - 1) * sum(x * x for x in rest)) / whole if n > 1 else math.inf
    return two_sided(r, error, n, alpha)


def tail(weights):
    ordered = sorted(weights)

    def percentile(q):
        place = (len(ordered) - 1) * q
        below = math.floor(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return {
        "ess": sum(weights) ** 2 / len(weights) / sum(w * w for w in weights), "p95": percentile(0.95), "p99": percentile(0.99),
        "largest": ordered[-1], "above_ten": sum(w > 10 for w in weights) / len(weights), "n": len(weights),
    }  # fmt: skip


def betting(values, alpha):
    """The greatest mean that the bettor of `finite_sample.betting_log_capital` rejects, for values ≥ −1."""
    B = len(values)

    def capital(m):
        best, total, past = -math.inf, 0.0, 0.0
        for t, z in enumerate(values, 1):
            variance = (0.25 + past) / t
            bet = min(math.sqrt(2 * math.log(1 / alpha) / (B * variance)), 0.9 / (m + 1))
            total += math.log1p(bet * (z - m))
            best, past = max(best, total), past + z * z
        return best - math.log(1 / alpha)

    bottom, top = -1 + 1e-12, max(values)
    return -1.0 if B < 2 or capital(bottom) <= 0 else brentq(capital, bottom, top, xtol=1e-14)


def shift_of(kl):
    return min(math.sqrt(max(kl, 0.0) / 2), 1.0)


def entry(rollouts, log_ratio, alpha):
    """`E_b Σ_m (Λ(<m) − 1)·λ(m)(ρ(m) − 1)·Λ(>m)·A`; `log_ratio(r)` has the messages' log ratios for Λ(<m)."""
    values = []
    for r, a in zip(rollouts, advantages(rollouts), strict=True):
        before, current = log_ratio(r), [sum(c) for _, _, c, _ in r.messages]
        total = 0.0
        for m, (_, _, c, new) in enumerate(r.messages):
            weight = math.exp(sum(before[:m])) - 1
            total += weight * math.exp(sum(c)) * (math.exp(sum(new)) - 1) * math.exp(sum(current[m + 1 :])) * a
        values.append(total)
    return mean(by_prompt(rollouts, values), alpha)


def rungs_of(rollouts, fresh, twice, width, low):
    a = advantages(rollouts)
    pairs = list(zip(rollouts, a, strict=True))
    if fresh:
        return [
            ("S7", "message ratios", [x * r.message_steps - width * r.k3 for r, x in pairs]),
            ("S7", "token ratios", [x * r.steps - width * r.k3 for r, x in pairs]),
            ("S9", "value-weighted", [(r.reward - low) * math.log(r.weight) for r in rollouts]),
        ]
    if twice:
        return [
            (
                "S7c",
                "reused, agent moved twice",
                [x * r.old_steps - width * (r.k3_new + r.k3_current) for r, x in pairs],
            )
        ]
    return [("S7c", "reused rollouts", [x * r.message_steps - width * r.k3_new for r, x in pairs])]


def expected(table, settings):
    """The records, by loops; by update, the rollouts."""
    alpha, (low, high) = settings.alpha, settings.reward_range
    width = high - low
    by_update = {}
    for row in zip(*(x.tolist() for x in table.values()), strict=True):
        r = dict(zip(table, row, strict=True))
        by_update.setdefault((r["stage"], r["update"]), []).append(r)
    updates, records = [], []
    for (st, up), here in sorted(by_update.items()):
        changed = sorted({r["agent"] for r in here if r["logp_new"] != r["logp_current"]})
        told = here[0].get("updated")
        agents = changed if told is None else sorted({r["agent"] for r in here}) if told == -1 else [told]
        transcripts = {}
        for r in here:
            transcripts.setdefault((r["prompt"], r["rollout"]), []).append(r)
        every = [Rollout(rows, agents) for _, rows in sorted(transcripts.items())]
        sets = {s: [r for r in every if r.source == s] for s in sorted({r.source for r in every})}
        fresh = max(r.off for r in sets[up]) <= settings.match if up in sets else False
        source = up if fresh else max(sets)
        rs = sets[source]
        u = dict(stage=st, update=up, agents=agents, sets=sets, rollouts=rs, fresh=fresh, source=source)
        updates.append(u)
        a = advantages(rs)
        tokens, messages = sum(r.tokens for r in rs), sum(len(r.messages) for r in rs)
        spoken = sorted({m[0] for r in rs for m in r.messages})
        own = sum(r.own for r in rs)
        k1 = [[-sum(new) for _, mine, _, new in r.messages if mine] for r in rs]
        prompts = groups_of(rs)
        count = [sum(rs[i].own for i in g) for g in prompts.values()]
        twice = any(mine and abs(sum(c)) > settings.match * len(c) for r in rs for _, mine, c, _ in r.messages)
        rungs = rungs_of(rs, fresh, twice, width, low)
        limits = [one_sided(by_prompt(rs, x), alpha / len(rungs), -1) for *_, x in rungs]
        best = max(range(len(rungs)), key=lambda i: limits[i])
        old = [s for s in sets if max(r.off for r in sets[s]) > settings.match]
        label = "held-out" if settings.held_out else "in-sample: not a guarantee"

        def each(values, rs=rs):
            return mean(by_prompt(rs, values), alpha)

        z = by_prompt(rs, [(r.reward - low) / width * (r.weight - 1) for r in rs])
        kl = quotient([sum(sum(k1[i]) for i in g) for g in prompts.values()], count, alpha) if own else None
        record = {
            "schema": 1, "stage": st, "update": up, "agents": agents,
            "kind": "nothing changed" if not changed else "joint" if len(agents) > 1 else "single",
            "changed_besides": [x for x in changed if x not in agents],
            "evidence": "fresh" if fresh else "reused", "resampled": up in sets, "source": source,
            "off_policy": max(r.off for r in every), "prompts": len(prompts), "rollouts": len(rs), "tokens": tokens,
            "reward": each([r.reward for r in rs]),
            "share_tokens": {
                str(k): sum(len(c) for r in rs for agent, _, c, _ in r.messages if agent == k) / tokens for k in spoken
            },
            "share_messages": {
                str(k): sum(agent == k for r in rs for agent, *_ in r.messages) / messages for k in spoken
            },
            "messages": own / len(rs), "messages_max": max(r.own for r in rs), "delta": settings.delta,
            "kl_k1": kl,
            "kl_k3": quotient([sum(rs[i].k3 for i in g) for g in prompts.values()], count, alpha) if own else None,
            "outside": kl["value"] > settings.delta if own else None,
            "kl_episode": each([r.k3 for r in rs]),
            "kl_episode_upper": one_sided(by_prompt(rs, [r.k3 for r in rs]), alpha, 1),
            "surrogate": each([x * (r.message_steps if fresh else r.old_steps) for r, x in zip(rs, a, strict=True)]),
            "surrogate_tokens": each([x * r.steps for r, x in zip(rs, a, strict=True)]) if fresh else None,
            "surrogate_normalised": each([x * r.message_steps for r, x in zip(rs, normalised(rs), strict=True)]),
            "gap": entry(rs, lambda r: [sum(new) for *_, new in r.messages], alpha) if fresh else None,
            "improvement": each([x * (r.weight - 1) for r, x in zip(rs, a, strict=True)]) if fresh else None,
            "rungs": [
                {"id": i, "name": name, "information": "estimable", "certificate": each(x), "lower": limit}
                for (i, name, x), limit in zip(rungs, limits, strict=True)
            ],
            "certificate": {
                "rung": f"{rungs[best][0]}, {rungs[best][1]}", "lower": limits[best], "alpha": alpha, "union": len(rungs),
                "label": label,
            },
            "certificate_finite_sample": {
                "lower": width * betting(z, alpha), "estimate": width * sum(z) / len(z), "alpha": alpha, "estimator": "path",
                "bound": "betting", "label": label,
            } if fresh else None,
            "weights_update": tail([r.weight for r in rs]),
            "weights_behaviour": tail([r.behaviour for r in sets[old[0]]]) | {"source": old[0]} if old else None,
        }  # fmt: skip
        records.append(record)
    for (u, record), following in zip(zip(updates, records, strict=True), [*updates[1:], None], strict=True):
        record |= {"improvement_next": None, "paired": None}
        if following is None or not u["fresh"] or not following["fresh"]:
            continue
        pair = u["rollouts"], following["rollouts"]
        before, after = (by_prompt(rs, [r.reward for r in rs]) for rs in pair)
        record["paired"] = u["stage"] == following["stage"] and list(groups_of(pair[0])) == list(groups_of(pair[1]))
        if record["paired"]:
            record["improvement_next"] = mean([y - x for x, y in zip(before, after, strict=True)], alpha)
            continue
        (m, e), (m2, e2), sizes = centre(before), centre(after), (len(before), len(after))
        freedom = None
        if min(sizes) > 1:
            freedom = (e**2 + e2**2) ** 2 / (e**4 / (sizes[0] - 1) + e2**4 / (sizes[1] - 1))
        record["improvement_next"] = two_sided(m2 - m, math.hypot(e, e2), min(sizes), alpha, freedom)
    for st in sorted({u["stage"] for u in updates}):
        members = [i for i, u in enumerate(updates) if u["stage"] == st]
        level = alpha / len(members)
        base = members[0]
        for position, i in enumerate(members):
            record = records[i]
            record |= dict.fromkeys(("shift", "shift_upper", "shift_rung", "shift_booked", "skippable"))
            if position == 0:
                continue
            since = [j for j in members if base <= j < i]
            record["shift_booked"] = shift_of(sum(records[j]["kl_episode"]["value"] for j in since))
            source, last = updates[base]["update"], updates[members[position - 1]]
            path = None
            if updates[base]["fresh"]:
                if (rs := updates[i]["sets"].get(source)) is not None:
                    path = by_prompt(rs, [r.k3_current for r in rs])
                elif (rs := last["sets"].get(source)) is not None:
                    path = by_prompt(rs, [r.k3_new for r in rs])
            if path is not None:
                found = shift_of(sum(path) / len(path)), shift_of(one_sided(path, level, 1)), "S3, re-scored rollouts"
            elif all(updates[j]["fresh"] for j in since):
                fresh_k = [by_prompt(updates[j]["rollouts"], [r.k3 for r in updates[j]["rollouts"]]) for j in since]
                found = (
                    min(sum(shift_of(sum(k) / len(k)) for k in fresh_k), 1.0),
                    min(sum(shift_of(one_sided(k, level, 1)) for k in fresh_k), 1.0),
                    "S2, summed over updates",
                )
            else:
                found = 1.0, 1.0, "none: no re-scored rollouts"
            record["shift"], record["shift_upper"], record["shift_rung"] = found
            if record["resampled"] and updates[i]["fresh"]:
                record["skippable"] = found[1] <= settings.tolerance
                if not record["skippable"]:
                    base = i
        for i in members:
            records[i] |= {"interaction": None, "drift": None}
        start = updates[members[0]]
        held = [updates[i] for i in members if start["update"] in updates[i]["sets"]]
        if not start["fresh"] or len(held) < 2:
            continue
        names, who = (
            [updates[i]["update"] for i in members],
            {updates[i]["update"]: updates[i]["agents"] for i in members},
        )
        rows_at = {u["update"]: u["sets"][start["update"]] for u in held}
        solo = {}
        for k, u in itertools.product(names, rows_at):
            others = {a for j in names if j <= u and j != k for a in who[j]}
            if k in rows_at:
                new_at = {r.key: [sum(new) for *_, new in r.messages] for r in rows_at[k]}
                solo[k, u] = lambda r, new_at=new_at: new_at[r.key]
            elif k < u and who[k] and not others & set(who[k]):
                solo[k, u] = lambda r, mine=tuple(who[k]): [sum(c) if a in mine else 0.0 for a, _, c, _ in r.messages]
        for i in members:
            up = updates[i]["update"]
            if up not in rows_at:
                records[i]["interaction"] = [
                    {"update": k, "agents": who[k], "entry": None, "clear": False} for k in names
                ]
                continue
            rs = rows_at[up]
            records[i]["drift"] = entry(rs, lambda r: [sum(c) for _, _, c, _ in r.messages], alpha)
            records[i]["interaction"] = []
            for k in names:
                found, strict = (
                    entry(rs, solo[k, up], a) if (k, up) in solo else None for a in (alpha, alpha / len(solo))
                )
                clear = strict is not None and not strict["low"] <= 0 <= strict["high"]
                item = {"update": k, "agents": who[k], "entry": found, "clear": clear}
                records[i]["interaction"].append(item)
    return records


FLIPS = ("flips_25", "flips_50")  # drawn: tests of their own


def same(found, wanted, where=""):
    """Every key of `wanted`, every number within rounding; other keys of `found` are another test's."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), where
        for key, value in wanted.items():
            same(found[key], value, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert isinstance(found, list), where
        assert len(found) == len(wanted), where
        for i, (x, y) in enumerate(zip(found, wanted, strict=True)):
            same(x, y, f"{where}[{i}]")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-11), f"{where}: {found}, by hand {wanted}"
    else:
        assert type(found) is type(wanted), f"{where}: {found}, by hand {wanted}"
        assert found == wanted, f"{where}: {found}, by hand {wanted}"


def both(table, **options):
    settings = Settings(reward_range=(LOW, HIGH), draws=1, **options)
    return monitor(token_log(table), settings).records, expected(table, settings)


# ------------------------------------------------------------------------------------------------------- whole records

FOUR, THREE = {2: 3, 5: 2, 7: 4, 11: 1}, {1: 3, 4: 2, 6: 2}
FRESH = {0: [0], 1: [1], 2: [2], 3: [3]}
AGAIN = {0: [0, 1, 2, 3], 1: [1, 2, 3], 2: [2, 3], 3: [3]}
TURN_BY_TURN = [[0], [1], [0], [1]]


def without(table, drop):
    return {key: value[~drop] for key, value in table.items()}


def scored_again():
    return columns(
        stage(2301, [[0], [1], [0]], {0: [0, 1, 2], 1: [1], 2: [2]}, FOUR),
        stage(2302, [[1], [0]], {0: [0], 1: [1]}, THREE, number=1),
        stage(2303, [[0], [1]], {0: [0, 1], 1: [1]}, FOUR, number=4),
    )


def other_prompts():
    """At update 1 a prompt fewer, at update 2 as many as then but others, at update 3 those again."""
    table = columns(stage(1912, TURN_BY_TURN, FRESH, FOUR))
    table = without(table, (table["update"] > 0) & (table["prompt"] == 7))
    return table | {"prompt": np.where((table["update"] > 1) & (table["prompt"] == 5), 8, table["prompt"])}


LOGS = {
    "fresh, some scored again": scored_again,
    "reused, one agent moved twice": lambda: columns(stage(3204, [[0], [1], [0]], {0: [0, 1, 2]}, FOUR)),
    "several old sets": lambda: columns(stage(5, TURN_BY_TURN, {0: [0, 1, 2, 3], 1: [1, 2, 3], 2: [2]}, FOUR)),
    "who is updated is told": lambda: columns(
        stage(1706, [[0, 1], [0, 1], [1], [2]], AGAIN, FOUR, agents=3, told=[-1, 0, 1, 2])
    ),
    "an agent that never speaks": lambda: columns(stage(607, [[1]], {0: [0]}, FOUR, told=[2])),
    "joint, idle": lambda: columns(stage(1808, [[0, 2], [1], []], {0: [0, 1, 2], 1: [1], 2: [2]}, FOUR, agents=3)),
    "one prompt": lambda: columns(stage(9, [[0], [1]], {0: [0, 1], 1: [1]}, {4: 3})),
    "rollouts that lag": lambda: columns(stage(2010, [[0], [1], [0], [1]], {0: [0, 1], 1: [1], 2: [2]}, FOUR, lag=1)),
    "all sets scored at every later update": lambda: columns(stage(2311, TURN_BY_TURN, AGAIN, FOUR)),
    "other prompts": other_prompts,
    "nothing scored again": lambda: columns(stage(513, TURN_BY_TURN, FRESH, FOUR)),
    "start scored at the update before": lambda: columns(
        stage(1214, TURN_BY_TURN, {0: [0, 1, 3], 1: [1], 2: [2], 3: [3]}, FOUR)
    ),
    "start not scored at one update": lambda: columns(
        stage(215, TURN_BY_TURN, {0: [0, 2, 3], 1: [1], 2: [2], 3: [3]}, FOUR)
    ),
    "a joint update not scored": lambda: columns(
        stage(3716, [[0], [1, 2], [0], [1]], {0: [0, 2, 3], 1: [1], 2: [2], 3: [3]}, FOUR, agents=3)
    ),
    "large steps": lambda: columns(stage(617, TURN_BY_TURN, FRESH, FOUR, step=1.5)),
    "every message one token": lambda: columns(stage(3618, TURN_BY_TURN, AGAIN, FOUR, lengths=(1,))),
}
OPTIONS = (
    dict(alpha=0.2, delta=0.03, tolerance=0.0),
    dict(alpha=0.1, delta=0.08, tolerance=1.0, held_out=True),
    dict(alpha=0.2, delta=0.05, tolerance=0.45),
)


@pytest.fixture(scope="module")
def runs():
    """Every log under every setting: the records, and what they are by hand."""
    tables = {name: make() for name, make in LOGS.items()}
    return {(name, i): both(table, **options) for name, table in tables.items() for i, options in enumerate(OPTIONS)}


@pytest.mark.parametrize("name", LOGS)
def test_every_number_of_every_record(runs, name):
    for i, _ in enumerate(OPTIONS):
        found, wanted = runs[name, i]
        same(found, wanted, f"{name}, setting {i}")


def test_the_logs_show_every_case(runs):
    """What the comparison above is worth: every answer, rung and label occurs in it, and weights that are large."""
    records = [r for found, _ in runs.values() for r in found]

    def seen(pick):
        return {json.dumps(pick(r)) for r in records}

    for key in ("outside", "paired", "skippable"):
        assert seen(lambda r, key=key: r[key]) == {"null", "true", "false"}
    for key in (
        "gap",
        "improvement",
        "improvement_next",
        "interaction",
        "drift",
        "weights_behaviour",
        "shift",
        "kl_k1",
    ):
        assert {r[key] is None for r in records} == {True, False}
    assert seen(lambda r: r["kind"]) == {'"single"', '"joint"', '"nothing changed"'}
    assert seen(lambda r: r["evidence"]) == {'"fresh"', '"reused"'}
    assert {r["shift_rung"] for r in records} == {
        None, "S3, re-scored rollouts", "S2, summed over updates", "none: no re-scored rollouts"
    }  # fmt: skip
    assert {r["certificate"]["rung"] for r in records} == {
        "S7, message ratios", "S7, token ratios", "S9, value-weighted", "S7c, reused rollouts", "S7c, reused, agent moved twice"
    }  # fmt: skip
    assert any(r["changed_besides"] for r in records)
    assert any(r["weights_update"]["above_ten"] > 0 for r in records)
    assert any(r["certificate_finite_sample"]["lower"] > -4 for r in records if r["certificate_finite_sample"])
    assert any(r["shift"] is not None and 0 < r["shift"] < r["shift_upper"] < 1 for r in records)
    bases = {
        (r["update"], w["update"]) for found, _ in runs.values() for r, w in itertools.pairwise(found) if w["skippable"]
    }
    assert {(0, 1), (1, 2), (2, 3)} <= bases


def test_an_entry_is_clear_at_alpha_over_the_number_of_entries():
    """Nine entries: some exclude 0 at α only, some at α/9 too, from above and from below."""
    table = columns(stage(4, [[0], [1], [0]], {0: [0, 1, 2]}, dict.fromkeys((0, 1, 3, 4, 8, 9), 4), step=0.8, turns=4))
    found, wanted = both(table, alpha=0.6)
    same(found, wanted)
    entries = [entry for r in wanted for entry in r["interaction"]]
    clear = [e["entry"]["value"] > 0 for e in entries if e["clear"]]
    assert set(clear) == {True, False}
    assert len(clear) < sum(not e["entry"]["low"] <= 0 <= e["entry"]["high"] for e in entries)


def test_order_of_rows_and_the_column_source_change_nothing():
    """Where whole sets were scored again they are recognised without being told."""
    table = columns(stage(4, [[0], [1], [0]], {0: [0, 1, 2], 1: [1], 2: [2]}, FOUR))
    found, wanted = both(table, alpha=0.2)
    same(found, wanted)
    order = np.random.default_rng(9).permutation(table["t"].size)
    again = {key: value[order] for key, value in table.items() if key != "source"}
    same(monitor(token_log(again), Settings(alpha=0.2, reward_range=(LOW, HIGH), draws=1)).records, wanted)


# ----------------------------------------------------------------------------------------------------------- at equality


def by_hand(messages, reward=(0.0, 1.0, 0.0, 1.0), update=0):
    """One rollout for each prompt; messages: by prompt, (agent, [(behaviour, current, new), …]) of every message."""
    out = {key: [] for key in (*TOKEN_LOG_COLUMNS, "source")}
    for prompt, spoken in enumerate(messages):
        for turn, (agent, tokens) in enumerate(spoken):
            for t, (b, c, n) in enumerate(tokens):
                values = (prompt, 0, 0, update, agent, turn, t, b, c, n, reward[prompt], update)
                for key, value in zip(out, values, strict=True):
                    out[key].append(value)
    return {key: np.array(value) for key, value in out.items()}


def test_the_threshold_is_not_exceeded_at_equality():
    """k1 of the messages: ¾, −¼, ¾, −¼; their mean is ¼ exactly."""
    table = by_hand([[(0, [(-1.0, -1.0, new)])] for new in (-1.75, -0.75, -1.75, -0.75)])
    for delta, outside in ((0.25, False), (np.nextafter(0.25, 0), True), (np.nextafter(0.25, 1), False)):
        (record,) = monitor(token_log(table), Settings(delta=float(delta))).records
        assert record["kl_k1"]["value"] == 0.25
        assert record["outside"] is outside
        assert record["delta"] == delta


def test_the_same_policy_at_equality():
    """|current − behaviour| = ⅛ a token, of both signs: on-policy at `match` = ⅛, and not below it."""
    table = by_hand([[(0, [(-1.0, -1.0 + x, -1.5 + x), (-1.0, -1.0, -0.75)])] for x in (0.125, -0.125, 0.0, 0.125)])
    for match, evidence in ((0.125, "fresh"), (float(np.nextafter(0.125, 0)), "reused")):
        (record,) = monitor(token_log(table), Settings(match=match)).records
        assert (record["evidence"], record["off_policy"]) == (evidence, 0.125)
        assert (record["gap"] is None) == (evidence == "reused")
        assert (record["weights_behaviour"] is None) == (evidence == "fresh")


@pytest.mark.parametrize(
    ("own", "twice"),
    [
        ((0.125, 0.125), False),  # ¼ = match times two tokens
        ((0.125, 0.0625), False),  # more than match, less than twice that
        ((0.125, 0.1875), True),
        ((-0.125, -0.1875), True),
    ],
)
def test_an_agent_has_moved_by_more_than_match_a_token(own, twice):
    """On rollouts that are old because of agent 1, agent 0 is updated."""
    spoken = [(0, [(-1.0, -1.0 + x, -0.875 + x) for x in own]), (1, [(-1.0, -1.5, -1.5)])]
    other = [(0, [(-1.0, -1.0, -1.125)]), (1, [(-1.0, -0.75, -0.75)])]
    (record,) = monitor(token_log(by_hand([spoken, other, spoken, other])), Settings(match=0.125)).records
    assert record["evidence"] == "reused"
    assert [rung["name"] for rung in record["rungs"]] == ["reused, agent moved twice" if twice else "reused rollouts"]


def test_a_resampling_at_the_tolerance_could_be_skipped():
    table = columns(stage(513, TURN_BY_TURN, FRESH, FOUR))
    upper = monitor(token_log(table), Settings(reward_range=(LOW, HIGH), draws=1)).records[1]["shift_upper"]
    for tolerance, answer in ((upper, True), (float(np.nextafter(upper, 0)), False)):
        records = monitor(token_log(table), Settings(reward_range=(LOW, HIGH), draws=1, tolerance=tolerance)).records
        assert records[1]["skippable"] is answer
        assert records[2]["shift_rung"].startswith("S2" if answer else "S3")  # the base is update 0 or update 1


def test_rewards_at_the_ends_of_the_range_are_in_it():
    table = by_hand([[(0, [(-1.0, -1.0, -1.5)])]] * 4, reward=(-2.0, 5.0, 0.0, 1.0))
    assert monitor(token_log(table), Settings(reward_range=(-2.0, 5.0))).records[0]["reward"]["value"] == 1.0
    for low, high, bad in ((-1.5, 5.0, -2.0), (-2.0, 4.5, 5.0)):
        with pytest.raises(InputError, match="--reward-range") as error:
            monitor(token_log(table), Settings(reward_range=(low, high)))
        assert error.value.name == "column reward"
        assert error.value.found == str(bad)
        assert f"[{low:g}, {high:g}]" in error.value.expected


def test_a_report_says_what_it_is_of():
    table = columns(stage(9, [[0], [1]], {0: [0, 1], 1: [1]}, {4: 3}))
    settings = Settings(reward_range=(LOW, HIGH))
    report = monitor(token_log(table), settings)
    assert report.rows == table["t"].size
    assert report.settings is settings
    assert len(report.interactions) == 1
    unit = by_hand([[(0, [(-1.0, -1.0, -1.5)])]] * 4)
    assert monitor(token_log(unit)).settings == Settings()


# ---------------------------------------------------------------------------------------------------------------- flips


def flip_share(values, messages, threshold, share):
    """Over all sub-samples of that many tokens: how many decide otherwise."""
    n = len(values)
    whole = sum(values) / messages > threshold
    subsets = list(itertools.combinations(values, max(1, round(n * share))))
    return sum((sum(x) / len(x) * n / messages > threshold) != whole for x in subsets) / len(subsets)


SIGMAS = norm.isf(1e-6 / 2)
"""A false alarm of 1e-6 for each share of flips."""


@pytest.mark.parametrize(
    ("values", "messages", "threshold"),
    [
        ([0.0, 1.0] * 4, 8, 0.5),  # sub-samples at equality with the threshold
        ([0.0, 1.0] * 4, 8, 0.4),
        ([0.0, 1.0] * 4, 4, 0.9),
        ([0.0, 1.0, 2.0, 4.0, -1.0], 3, 1.75),
        ([0.0, 1.0, 2.0, 4.0, -1.0, 3.0, 0.5, 0.25, 0.0, -0.5], 5, 1.5),
        ([0.0, 1.0, 2.0], 2, 1.0),
        ([0.0, 3.0], 2, 1.0),
        ([2.0], 1, 1.0),
    ],
)
def test_flips_against_all_sub_samples(values, messages, threshold):
    draws = 4000
    found = est.flips(np.array(values), messages, threshold, (0.25, 0.5), draws, np.random.default_rng(3))
    for share, x in zip((0.25, 0.5), found, strict=True):
        p = flip_share(values, messages, threshold, share)
        assert abs(x - p) <= SIGMAS * math.sqrt(p * (1 - p) / draws)


def test_flips_of_many_tokens():
    """More tokens than blocks: a block's mean is over its own tokens, and tokens are dealt to blocks at random."""
    rng = np.random.default_rng(0)
    for threshold in (2 - 1e-6, 2 + 1e-6):  # of a constant, 1500 tokens in 750 messages
        assert est.flips(np.ones(1500), 750, threshold, (0.25, 0.5), 50, rng) == [0.0, 0.0]
    halves = np.repeat([0.0, 2.0], 1024)
    assert all(0.4 < x < 0.6 for x in est.flips(halves, 2048, 0.999, (0.25, 0.5), 2000, rng))  # near ½: Hypergeometric


def test_flips_in_the_record_are_of_its_tokens():
    draws, table = 4000, columns(stage(2, [[0]], {0: [0]}, {0: 1, 3: 2, 4: 1}, step=0.6, turns=3))
    own = table["agent"] == 0
    values = (table["logp_current"] - table["logp_new"])[own].tolist()
    messages = len(set(zip(*(table[key][own].tolist() for key in ("prompt", "rollout", "turn")), strict=True)))
    assert 2 < messages < len(values) < 16
    delta = 0.5 * sum(values) / messages
    (record,) = monitor(token_log(table), Settings(delta=delta, draws=draws, reward_range=(LOW, HIGH))).records
    for key, share in zip(FLIPS, (0.25, 0.5), strict=True):
        p = flip_share(values, messages, delta, share)
        assert 0.02 < p < 0.98
        assert abs(record[key] - p) <= SIGMAS * math.sqrt(p * (1 - p) / draws)
    assert abs(flip_share(values, messages, delta, 0.25) - flip_share(values, messages, delta, 0.5)) > 0.05

    def drawn(**options):
        (r,) = monitor(token_log(table), Settings(delta=delta, reward_range=(LOW, HIGH), **options)).records
        return [r[key] for key in FLIPS]

    assert drawn(draws=50, seed=1) == drawn(draws=50, seed=1)
    assert len({tuple(drawn(draws=50, seed=seed)) for seed in range(4)}) > 1
    assert all(8 * x == round(8 * x) for seed in range(4) for x in drawn(draws=8, seed=seed))
    assert all(x in (0.0, 1.0) for x in drawn(draws=1))


# ------------------------------------------------------------------------------------------------------ small estimates


def test_quantiles_of_intervals_and_limits():
    """Values 1, 2, 6: mean 3, s² = 7; t with 2 degrees of freedom, two-sided at α and one-sided at α (tables of Student's t)."""
    found = est.mean(np.array([1.0, 2.0, 6.0]), 0.1)
    error = math.sqrt(7 / 3)
    assert found.value == 3.0
    assert found.n == 3
    assert found.error == pytest.approx(error, rel=1e-12)
    assert found.low == pytest.approx(3 - 2.919985580 * error, rel=1e-8)
    assert found.high == pytest.approx(3 + 2.919985580 * error, rel=1e-8)
    assert est.lower_limit(found, 0.1) == pytest.approx(3 - 1.885618083 * error, rel=1e-8)
    assert est.upper_limit(found, 0.1) == pytest.approx(3 + 1.885618083 * error, rel=1e-8)
    assert est.plain(found) == {"value": found.value, "low": found.low, "high": found.high, "n": 3}
    assert est.plain(None) is None


def test_one_value_has_the_whole_line():
    one = np.array([2.0])
    for found, value in ((est.mean(one, 0.1), 2.0), (est.ratio(one, np.array([4.0]), 0.1), 0.5)):
        assert found == (value, -np.inf, np.inf, np.inf, 1)
        assert est.lower_limit(found, 0.1) == -np.inf
        assert est.upper_limit(found, 0.1) == np.inf
    assert est.two_means(np.array([1.0, 3.0]), one, 0.1) == (0.0, -np.inf, np.inf, np.inf, 1)
    assert est.two_means(one, np.array([1.0, 4.0]), 0.1) == (-0.5, -np.inf, np.inf, np.inf, 1)


def test_two_values_have_one_degree_of_freedom():
    """Values 0 and 2: mean 1, error 1, t₁ at 0.95 is 6.3138."""
    for found in (est.mean(np.array([0.0, 2.0]), 0.1), est.ratio(np.array([0.0, 2.0]), np.ones(2), 0.1)):
        assert found.high == pytest.approx(1 + 6.313751515, rel=1e-8)
        assert found.error == pytest.approx(1.0)
        assert est.lower_limit(found, 0.1) == pytest.approx(1 - 3.077683537, rel=1e-8)


def test_welch_by_hand():
    """Variances 2 and 8 over 2 and 4 values: 1 + 2; degrees of freedom 9/(1/1 + 4/3) = 27/7."""
    new, old = np.array([1.0, 3.0]), np.array([0.0, 8**0.5 * 1.5**0.5, 0.0, 8**0.5 * 1.5**0.5])
    found = est.two_means(new, old, 0.2)
    value = 2 - math.sqrt(12) / 2
    assert found.value == pytest.approx(value)
    assert found.error == pytest.approx(math.sqrt(1 + old.var(ddof=1) / 4))
    parts = 1.0, old.var(ddof=1) / 4
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 1 + parts[1] ** 2 / 3)
    assert found.high - value == pytest.approx(student.ppf(0.9, freedom) * found.error)
    assert found.n == 2
    assert est.two_means(np.ones(2), np.zeros(3), 0.2) == (1.0, 1.0, 1.0, 0.0, 2)


def test_weights_by_hand():
    """Weights 1, 2, 3, 14: Σ = 20, Σ² = 210; percentiles between the third and the fourth."""
    found = est.weights(np.log([1.0, 2.0, 3.0, 14.0]))
    np.testing.assert_allclose(found, [400 / 840, 3 + 0.85 * 11, 3 + 0.97 * 11, 14.0, 0.25, 4], rtol=1e-12)
    assert est.weights(np.log([9.99, 10.01])).above_ten == 0.5
    assert est.weights(np.array([-800.0, -800.0])) == (0.0, 0.0, 0.0, 0.0, 0.0, 2)  # underflow: no weight, no NaN
    huge = est.weights(np.array([0.0, 5000.0]))
    assert huge.largest == math.exp(700.0)
    assert huge.ess == pytest.approx(0.5)


def test_exponentials_are_cut_at_700():
    x = np.array([-3.0, 0.0, 1.0, 699.0, 701.0, 1e6])
    cut = [math.exp(min(v, 700.0)) for v in x]
    np.testing.assert_allclose(est.grow(x), cut, rtol=1e-15)
    np.testing.assert_allclose(est.growth(x), [v - 1 for v in cut], rtol=1e-15)
    assert est.growth(np.array([1e-12]))[0] == pytest.approx(1e-12, rel=1e-9)
    np.testing.assert_allclose(est.k3(x[:3]), [math.exp(-3) + 2, 0.0, math.e - 2], rtol=1e-14)


def test_normalised_advantages_by_hand():
    """Rewards 0, 2 and 1, 1, 4: μ = 1, σ² = 1 and μ = 2, σ² = 2."""
    reward, cluster = np.array([0.0, 2.0, 1.0, 1.0, 4.0]), np.array([0, 0, 1, 1, 1])
    wanted = [-1.0, 1.0, -(0.5**0.5), -(0.5**0.5), 2**0.5]
    np.testing.assert_allclose(est.normalised(reward, cluster, 2, epsilon=0.0), wanted, rtol=1e-12)
    np.testing.assert_allclose(est.normalised(reward, cluster, 2, clip=0.75, epsilon=0.0), np.clip(wanted, -0.75, 0.75))
    np.testing.assert_allclose(est.normalised(reward, cluster, 2, epsilon=3.0)[:2], [-0.5, 0.5])
    assert est.normalised(np.array([1e-4, 0.0]), np.zeros(2, int), 1)[0] == pytest.approx(0.5e-4 / math.sqrt(1.25e-8))


# ------------------------------------------------------------------------------------------------- the mean over stages


def test_the_pooled_matrix_by_hand():
    """Two stages of agents 3 and 5 in either order, and one with a joint update, whose pairs are left out."""

    def x(value, error, n):
        return est.interval(value, error, n, 0.3)

    first = Interaction(0, [0, 1], [[3], [5]], [[x(1.0, 0.3, 9), x(2.0, 0.4, 9)], [None, x(-4.0, 0.5, 9)]],
                        [None, None], [[False] * 2] * 2)  # fmt: skip
    second = Interaction(1, [0, 1], [[5], [3]], [[x(6.0, 1.2, 4), x(8.0, 1.0, 4)], [x(5.0, 0.3, 4), x(3.0, 0.4, 4)]],
                         [None, None], [[False] * 2] * 2)  # fmt: skip
    joint = Interaction(2, [0, 1], [[3, 5], [3]], [[x(50.0, 1.0, 2)] * 2, [x(60.0, 1.0, 2), x(11.0, 0.0, 12)]],
                        [None, None], [[False] * 2] * 2)  # fmt: skip
    pooled = pool([first, second, joint], 0.1)
    assert pooled.agents == [3, 5]
    assert pooled.stages == 3
    wanted = [
        [(15 / 3, 0.5 / 3, 4), ((2 + 5) / 2, 0.5 / 2, 4)],
        [(8.0, 1.0, 4), ((-4 + 6) / 2, 1.3 / 2, 4)],
    ]
    for row, wanted_row in zip(pooled.entries, wanted, strict=True):
        for found, (value, error, n) in zip(row, wanted_row, strict=True):
            assert found.value == pytest.approx(value)
            assert found.error == pytest.approx(error)
            assert found.n == n
            assert found.high - value == pytest.approx(student.ppf(0.95, n - 1) * error)
    alone = pool([first], 0.1)
    assert alone.entries[1][0] is None
    assert alone.stages == 1
    assert pool([], 0.1) == ([], 0, [])


# -------------------------------------------------------------------------------------------- settings, levels, command


def test_defaults_are_those_of_the_documentation():
    s = Settings()
    assert (s.delta, s.alpha, s.tolerance, s.reward_range) == (0.01, 0.1, 0.1, (0.0, 1.0))
    assert (s.held_out, s.match, s.draws, s.seed) == (False, 1e-4, 100, 0)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("delta", (1e-9, 5.0), (0.0, -1.0, INF, NAN)),
        ("alpha", (1e-9, 0.999), (0.0, 1.0, -0.1, 1.1, NAN)),
        ("tolerance", (0.0, 1.0), (-1e-9, 1.001, NAN)),
        ("reward_range", ((-1.0, -0.5), (0.0, 9.0)), ((0.0, 0.0), (1.0, 0.0), (-INF, 0.0), (0.0, INF), (NAN, 1.0))),
        ("match", (0.0, 2.0), (-1e-9, INF, NAN)),
        ("draws", (1, 1000), (0, -1)),
    ],
)
def test_limits_of_the_settings(name, good, bad):
    for value in good:
        Settings(**{name: value}).check()
    for value in bad:
        with pytest.raises(InputError) as error:
            Settings(**{name: value}).check()
        assert error.value.name == f"--{name.replace('_', '-')}"
        with pytest.raises(InputError):
            monitor(token_log(by_hand([[(0, [(-1.0, -1.0, -1.5)])]] * 4)), Settings(**{name: value}))


def test_information_levels():
    """Nothing is an oracle's; what uses a declared range says that it is declared."""
    assert INFORMATION.keys() >= {
        "reward", "kl_k1", "kl_k3", "kl_episode", "surrogate", "improvement", "gap", "shift", "interaction"
    }  # fmt: skip
    for key, (level, meaning) in INFORMATION.items():
        assert level.split(",")[0].split(" (")[0].split(";")[0] == "estimable"
        assert ("declared (prior)" in level) == key.startswith("certificate")
        assert meaning


@pytest.fixture
def teamtr(monkeypatch, capsys):
    """The command line: exit code, stdout, stderr."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # `main` sets its own

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["teamtr", "monitor", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return call


def test_every_option_of_the_command_is_used(tmp_path, teamtr):
    """Under settings that each change a number: the lines are the records of Python, and they are right."""
    table = columns(stage(4, [[0], [1], [0]], {0: [0, 1, 2], 1: [1], 2: [2]}, FOUR))
    path = write_token_log(tmp_path / "log.jsonl", table)
    settings = Settings(0.07, 0.25, 0.5, (-2.0, 4.0), True, 1e-6, 30, 5)
    code, out, err = teamtr(path, "--delta", 0.07, "--alpha", 0.25, "--tolerance", 0.5, "--reward-range", -2, 4, "--held-out",
                            "--match", 1e-6, "--draws", 30, "--seed", 5, "--json")  # fmt: skip
    assert (code, err) == (0, "")
    records = monitor(token_log(table), settings).records
    assert out.splitlines() == [dump(r) for r in records]
    same(records, expected(table, settings))
    code, out, err = teamtr(path, "--reward-range", -1, 3)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: {table['t'].size} tokens, 3 updates")


def test_exit_code_of_bad_input(tmp_path, teamtr):
    """2, one line on stderr that names it, nothing printed, no page: of a setting, a folder, a file and a reward."""
    table = columns(stage(4, [[0]], {0: [0]}, FOUR))
    path = write_token_log(tmp_path / "log.jsonl", table)
    page = tmp_path / "page.html"
    for args, name in (
        ((path, "--alpha", 1.5, "--html", page), "--alpha"),
        ((tmp_path / "none.jsonl", "--html", page), "none.jsonl"),
        ((path, "--html", page), "column reward"),  # the range is [0, 1] by default
        ((path, "--reward-range", -1, 3, "--html", tmp_path / "no" / "page.html"), "--html"),
    ):
        code, out, err = teamtr(*args)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert err.startswith("teamtr: error: ")
        assert name in err
        assert not page.exists()


def test_settings_are_checked_before_the_file_is_read(tmp_path):
    with pytest.raises(InputError, match="--alpha"):
        run(tmp_path / "none.jsonl", Settings(alpha=2.0))
    with pytest.raises(InputError, match="--html"):
        run(tmp_path / "none.jsonl", Settings(), html=tmp_path / "no" / "page.html")


def test_match_is_used_in_reading(tmp_path, capsys):
    """Rollouts of update 0 scored again with `logp_behaviour` off by 0.01 a token are those only if `--match` says so."""
    table = columns(stage(4, [[0], [1]], {0: [0, 1]}, FOUR))
    noisy = table | {"logp_behaviour": table["logp_behaviour"] - 0.01 * (table["update"] == 1)}
    noisy = {key: value for key, value in noisy.items() if key != "source"}
    path = write_token_log(tmp_path / "log.parquet", noisy)
    for match, resampled in ((1e-4, True), (0.1, False)):
        assert run(path, Settings(match=match, reward_range=(LOW, HIGH)), json=True) == 0
        records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [r["resampled"] for r in records] == [True, resampled]


def test_the_command_writes_tables_or_lines_and_a_page(tmp_path, capsys):
    table = columns(stage(4, [[0], [1]], {0: [0], 1: [1]}, FOUR))
    path = write_token_log(tmp_path / "log.parquet", table)
    settings = Settings(reward_range=(LOW, HIGH))
    assert run(path, settings) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{path}: {table['t'].size} tokens, 2 updates")
    assert '"schema"' not in text
    page = tmp_path / "page.html"
    assert run(path, settings, json=True, html=page) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    same(records, json.loads(json.dumps(expected(table, settings))))
    assert str(path) in page.read_text()
