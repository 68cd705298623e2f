"""Small token logs made by hand, and the monitor's records of them by plain loops over the definitions of docs/monitor.md.

Nothing of the package's mathematics is used: lists, `math`, quantiles and a root by scipy. Rewards are in [−1, 3], prompts
have one to four rollouts, messages one to three tokens.
"""

import functools
import itertools
import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t as student

from teamtr_jax.monitor import Settings, monitor, token_log
from teamtr_jax.records import TOKEN_LOG_COLUMNS

LOW, HIGH = -1.0, 3.0
NOT_SCORED_TWICE = (
    "floor",
    "kl_k3_corrected",
    "not_corrected",
    "floor_episode",
    "floor_token",
    "floor_shift",
    "floor_law",
)
REWARDS = (-1.0, -0.25, 0.5, 1.75, 3.0)
LETTERS, TURNS, LONGEST = 3, 5, 3

# ------------------------------------------------------------------------------------------------------ logs made by hand


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def stage(
    seed,
    order,
    scored,
    groups,
    number=0,
    step=0.4,
    agents=2,
    told=None,
    lengths=(1, 2, 3),
    lag=0,
    turns=TURNS,
    engine=None,
) -> dict[str, list]:
    """One stage: letters drawn from tables that do not look back, so that every log-probability is easy to name.

    Args:
      order: who moves at each update, several at a joint one.
      scored: by the update at which rollouts were written, the updates at which they stand in the log.
      groups: by prompt, its rollouts.
      told: the column `updated`.
      lag: moves that the rollouts are behind the team for which they were written; `order` then begins with these.
      engine: what writes the rollouts and plays after an update is this many logits (normal numbers) off: `logp_deployed`.
    """
    rng = np.random.default_rng(seed)
    shape = (len(groups), TURNS, LONGEST, LETTERS)
    tables = [[rng.normal(size=shape)] for _ in range(agents)]
    for moved in order:
        for a in range(agents):
            tables[a].append(tables[a][-1] + (step * rng.normal(size=shape) if a in moved else 0.0))
    written = tables
    if engine is not None:
        other = np.random.default_rng([seed, 12])
        written = [[log_softmax(x + engine * other.normal(size=shape)) for x in versions] for versions in tables]
    tables = [[log_softmax(x) for x in versions] for versions in tables]
    more = [*(["updated"] if told else []), *([] if engine is None else ["logp_deployed"])]
    out: dict[str, list] = {key: [] for key in (*TOKEN_LOG_COLUMNS, "source", *more)}
    written = tables if engine is None else written
    for source, updates in scored.items():
        for p, (prompt, group) in enumerate(groups.items()):
            for g in range(group):
                reward = float(rng.choice(REWARDS))
                tokens = []
                for turn in range(int(rng.integers(2, turns + 1))):
                    agent = 0 if turn == 0 else int(rng.integers(agents))
                    for t in range(int(rng.choice(lengths))):
                        row = np.exp(written[agent][source][p, turn, t])
                        tokens.append((agent, turn, t, int(rng.choice(LETTERS, p=row / row.sum()))))
                for update in updates:
                    for agent, turn, t, letter in tokens:
                        b = written[agent][source][p, turn, t, letter]
                        c, n = (tables[agent][v][p, turn, t, letter] for v in (update + lag, update + lag + 1))
                        values = (prompt, 10 * source + g, number, update, agent, turn, t, b, c, n, reward, source)
                        for key, value in zip((*TOKEN_LOG_COLUMNS, "source"), values, strict=True):
                            out[key].append(value)
                        if told:
                            out["updated"].append(told[update])
                        if engine is not None:
                            out["logp_deployed"].append(written[agent][update + lag + 1][p, turn, t, letter])
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
        self.messages, self.deployed = [], []
        for _, group in itertools.groupby(rows, key=lambda r: r["turn"]):
            group = list(group)
            agent = group[0]["agent"]
            mine = agent in agents
            new = [r["logp_new"] - r["logp_current"] if mine else 0.0 for r in group]
            current = [r["logp_current"] - r["logp_behaviour"] for r in group]
            self.deployed += [r["logp_deployed"] - r["logp_behaviour"] for r in group if "logp_deployed" in r]
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
    mismatch = [
        (r.reward - low) * math.log(r.weight * r.behaviour) + (low + width - r.reward) * math.log(r.behaviour)
        for r in rollouts
    ]
    if twice:
        name, old = (
            "reused, agent moved twice",
            [x * r.old_steps - width * (r.k3_new + r.k3_current) for r, x in pairs],
        )
    else:
        name, old = "reused rollouts", [x * r.message_steps - width * r.k3_new for r, x in pairs]
    return [("S7c", name, old), ("S9", "mismatch", mismatch)]


def as_deployed(rollouts, known, advantage, each, alpha, settings, label):
    """The sampler with the weights after the update against the sampler that wrote the rollouts."""
    keys = "kl_deployed", "improvement_deployed", "certificate_deployed", "certificate_deployed_finite_sample"
    if not known:
        return dict.fromkeys(keys)
    low, high = settings.reward_range
    weight = [math.exp(sum(r.deployed)) for r in rollouts]
    weighed = [(r.reward - low) * sum(r.deployed) for r in rollouts]
    z = by_prompt(rollouts, [(r.reward - low) / (high - low) * (w - 1) for r, w in zip(rollouts, weight, strict=True)])
    limits = [one_sided(by_prompt(rollouts, weighed), alpha, -1), (high - low) * betting(z, alpha)]
    room = high - each([r.reward for r in rollouts])["value"]
    heavy = betting([w - 1 for w in by_prompt(rollouts, weight)], alpha / 10) > 0
    if heavy or max(limits) > room:
        limits = [-math.inf, -math.inf]
        label = "none: " + (
            "the mean weight deployed/behaviour lies above 1" if heavy else "a limit exceeds high − mean reward"
        )
    values = (
        each([sum(k3(x) for x in r.deployed) for r in rollouts]),
        each([x * (w - 1) for x, w in zip(advantage, weight, strict=True)]),
        {"rung": "S9, value-weighted", "certificate": each(weighed), "lower": limits[0], "alpha": alpha, "label": label},
        {
            "lower": limits[1], "estimate": (high - low) * sum(z) / len(z), "alpha": alpha, "estimator": "path",
            "bound": "betting", "label": label,
        },
    )  # fmt: skip
    return dict(zip(keys, values, strict=True))


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
        numbers = settings.sharers
        if numbers is not None:  # all who play with these parameters
            agents = [k for k in range(len(numbers)) if numbers[k] in [numbers[a] for a in agents]]
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
        misses = by_prompt(rs, [1 - r.behaviour for r in rs])
        cuts = len(misses) > 1 and one_sided(misses, 1e-6, -1) > 0
        limits = [
            -math.inf if cuts and ident == "S7c" else one_sided(by_prompt(rs, x), alpha / len(rungs), -1)
            for ident, _, x in rungs
        ]
        best = max(range(len(rungs)), key=lambda i: limits[i])
        old = [s for s in sets if max(r.off for r in sets[s]) > settings.match]
        label = "held-out" if settings.held_out else "in-sample: not a guarantee"

        def each(values, rs=rs):
            return mean(by_prompt(rs, values), alpha)

        share = [(r.reward - low) / width for r in rs]
        if fresh:
            z = by_prompt(rs, [x * (r.weight - 1) for r, x in zip(rs, share, strict=True)])
            weights = by_prompt(rs, [r.weight for r in rs])
        else:
            z = by_prompt(
                rs,
                [x * r.weight * r.behaviour + (1 - x) * r.behaviour - 1 for r, x in zip(rs, share, strict=True)],
            )
            weights = by_prompt(rs, [(r.weight + 1) * r.behaviour / 2 for r in rs])
        kl = quotient([sum(sum(k1[i]) for i in g) for g in prompts.values()], count, alpha) if own else None
        record = {
            "schema": 1, "stage": st, "update": up, "agents": agents,
            "kind": "nothing changed" if not changed else "single" if len(agents) < 2 else
                    "sharers" if numbers is not None and len({numbers[a] for a in agents}) == 1 else "joint",
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
            "surrogate_normalised": each(
                [x * (r.message_steps if fresh else r.old_steps) for r, x in zip(rs, normalised(rs), strict=True)]
            ),
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
                "lower": width * betting(z, alpha), "estimate": width * sum(z) / len(z), "alpha": alpha,
                "estimator": "path" if fresh else "mismatch", "bound": "betting", "label": label,
            },
            "kl_sampler_current": each([r.k3_current for r in rs]), "kl_sampler_new": each([r.k3_new for r in rs]),
            "sampler_misses": mean(misses, alpha), "sampler_cuts": cuts,
            **as_deployed(rs, "logp_deployed" in here[0], a, each, alpha, settings, label),
            "weights_update": tail([r.weight for r in rs]),
            "weights_behaviour": tail([r.behaviour for r in sets[old[0]]]) | {"source": old[0]} if old else None,
        }  # fmt: skip
        room = high - record["reward"]["value"]
        new, sizes = by_prompt(rs, [r.weight for r in rs]), [len(g) for g in prompts.values()]
        record |= {
            "invalid": [], "masked": 0, "contradiction": None, "mean_weight": each([r.weight for r in rs]),
            "mean_weight_low": len(new) > 1 and one_sided(new, 1e-6, 1) < 1,
            "mean_weight_high": betting([x - 1 for x in weights], alpha / 10) > 0,
            "groups": None if len(set(sizes)) == 1 else [min(sizes), max(sizes)],
            **dict.fromkeys(NOT_SCORED_TWICE), "scored_twice": 0, "below_floor": [], "sampler": None,
        }  # fmt: skip
        shown = [record["certificate"], record["certificate_finite_sample"]]
        record["limit_cut"] = any(x["lower"] > room for x in shown)
        which = "new/current" if fresh else "of new and current over behaviour"
        for key, why in (("limit_cut", "a limit exceeds high − mean reward"),
                         ("mean_weight_high", f"the mean weight {which} lies above 1")):  # fmt: skip
            if record[key]:
                for x in shown:
                    x |= {"lower": -math.inf, "label": f"none: {why}"}
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
            moved = [a for j in since for a in updates[j]["agents"]]
            known = sum(records[j]["kl_episode"]["value"] for j in since)
            record["shift_booked"] = shift_of(known) if len(set(moved)) == len(moved) else 1.0  # moved twice: no sum
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
    settings = Settings(reward_range=(LOW, HIGH), draws=1, complete=True, **options)
    return monitor(token_log(table), settings).records, expected(table, settings)
