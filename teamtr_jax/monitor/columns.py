"""What is reported of an update: one table of columns, from which records, tables, the page and the documentation follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from teamtr_jax.monitor.below import below_floor
from teamtr_jax.monitor.between import Following, Shift
from teamtr_jax.monitor.doubts import Doubts
from teamtr_jax.monitor.estimates import plain
from teamtr_jax.monitor.floor import LogFloor
from teamtr_jax.monitor.interaction import Interaction
from teamtr_jax.monitor.limits import DeployedLimits, Limits
from teamtr_jax.monitor.own import Own
from teamtr_jax.monitor.updates import Update
from teamtr_jax.monitor_settings import Settings
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.sharing import set_of

__all__ = ["MONITOR_SCHEMA", "INFORMATION", "RUNGS", "WEIGHTS", "Record", "JudgedUpdate", "Column", "GROUPS", "COLUMNS",
           "record_of", "number", "interval_text", "text", "who", "agents_text", "name", "below"]  # fmt: skip

MONITOR_SCHEMA = 1

Record = dict[str, Any]
"""Of one update: plain numbers by the key of the column."""


class JudgedUpdate(NamedTuple):
    """Everything that the log says of one update."""

    update: Update
    doubts: Doubts
    own: Own
    limits: Limits
    following: Following
    shift: Shift
    matrix: Interaction | None  #: of its stage
    settings: Settings
    sampler: Sampler | None  #: how tokens were drawn, where the log says it


# ---------------------------------------------------------------------------------------------------------------- as text


def number(x: float | None) -> str:
    """Three figures."""
    if x is None:
        return "–"
    return f"{x:.3g}" if abs(x) < 1e4 else f"{x:.1e}"


def interval_text(x: Mapping[str, Any] | None) -> str:
    """`value [low, high]`."""
    return "–" if x is None else f"{number(x['value'])} [{number(x['low'])}, {number(x['high'])}]"


def text(x: Any) -> str:
    """A value of a record as the cell of a table."""
    if isinstance(x, bool):
        return "yes" if x else "no"
    if x is None or isinstance(x, Mapping):
        return interval_text(x)
    return str(x) if isinstance(x, str | int) else number(x)


def who(agents: list[int]) -> str:
    """The agents of an update."""
    return "+".join(map(str, agents)) or "nobody"


def agents_text(agents: list[int]) -> str:
    """The same in a sentence."""
    return f"agent{'s' * (len(agents) > 1)} {who(agents)}"


def name(record: Record) -> str:
    """The update of a record: stage.update."""
    return f"{record['stage']}.{record['update']}"


def below(record: Record, key: str) -> str:
    """What stands behind a number that rounding could have made."""
    return ", below the floor" if key in record["below_floor"] else ""


# ---------------------------------------------------------------------------------------------------------------- columns


class Column(NamedTuple):
    """A key of the records."""

    key: str
    heading: str | Mapping[str, Callable[[Record], str]]
    """In a table, "" where it stands in none; or several headings, and the cell under each. Settings stand in braces."""
    information: str
    """Who can know it; "" of what is counted, declared or decided."""
    meaning: str
    value: Callable[[JudgedUpdate], Any]

    def cells(self) -> dict[str, Callable[[Record], str]]:
        """By heading, the cell of a record."""
        if isinstance(self.heading, Mapping):
            return dict(self.heading)
        return {self.heading: lambda record: text(record[self.key])} if self.heading else {}


ESTIMABLE = "estimable"
"""It needs rollouts and carries a confidence. Nothing here needs a supremum over states (oracle); ranges are declared (prior)."""
RANGE = "estimable, with ϱ declared (prior)"
FINITE = "estimable, no asymptotics; reward range declared (prior)"

RUNGS: Mapping[str, tuple[str, str]] = {
    "S7": (RANGE, "L − ϱ·K, by messages and by tokens; ϱ: width of the declared range"),
    "S7c": (RANGE, "L of reused rollouts − ϱ·ΣK"),
    "S9": (
        "estimable, with the range of the reward declared (prior)",
        "E (R − floor) log Λ; mismatch (S12): E (R − floor) log Λ' + (ceiling − R) log Λ, over the behaviour",
    ),
}
"""By id: who can know it, and its mean."""

WEIGHTS: Mapping[str, str] = {
    "rollouts": "n", "ESS/B": "ess", "P95": "p95", "P99": "p99", "max": "largest", "Pr[w > 10]": "above_ten",
}  # fmt: skip
"""Headings of the table of weights, and the field of each."""


def _kind(j: JudgedUpdate) -> str:
    agents = j.update.agents
    if not j.update.changed:
        return "nothing changed"
    return "single" if len(agents) < 2 else "joint" if set_of(j.settings.sharers, agents) is None else "sharers"


def _outside(j: JudgedUpdate) -> bool | None:
    if j.own.kl is None:
        return None
    weighty = j.limits.mean_weight_high and j.own.kl.k1.high < 0
    if j.own.kl.k1.value > j.settings.delta or j.doubts.contradiction or weighty:
        return True
    return None if j.doubts.invalid else False


def _flips(record: Record) -> str:
    return "–" if record["flips_25"] is None else f"{100 * record['flips_25']:.0f} / {100 * record['flips_50']:.0f}"


def _decision(record: Record) -> str:
    found = "> δ" if record["outside"] else "≤ δ"
    return "–" if record["outside"] is None else found + below(record, "outside")


def _skippable(record: Record) -> str:
    return "–" if record["skippable"] is None else "could be skipped" if record["skippable"] else "needed"


def _best(record: Record) -> str:
    return interval_text(max(record["rungs"], key=lambda x: x["lower"])["certificate"])


def _rung(record: Record) -> str:
    found = record["certificate"]
    return "none" if found["label"].startswith("none") else found["rung"]


def _lower(key: str) -> Callable[[Record], str]:
    """The limit of a certificate."""
    return lambda record: "–" if record[key] is None else number(record[key]["lower"]) + below(record, key)


def _rungs(j: JudgedUpdate) -> list[dict[str, Any]]:
    return [
        {"id": x.id, "name": x.name, "information": ESTIMABLE, "certificate": plain(x.bound),
         "lower": -np.inf if j.doubts.invalid else x.lower}
        for x in j.own.rungs
    ]  # fmt: skip


def _certificate(j: JudgedUpdate) -> dict[str, Any]:
    found = j.limits
    return {
        "rung": found.rung,
        "lower": found.lower,
        "alpha": j.settings.alpha,
        "union": found.union,
        "label": found.label,
    }


def _s8(j: JudgedUpdate, found: Limits | DeployedLimits, estimator: str) -> dict[str, Any]:
    noisy = found is j.limits and j.own.floor is not None and j.own.floor.visible
    return {
        "lower": found.finite, "estimate": found.finite_value, "alpha": j.settings.alpha, "estimator": estimator,
        "bound": "betting, less what noise adds (asymptotic)" if noisy else "betting", "label": found.finite_label,
    }  # fmt: skip


def _deployed(j: JudgedUpdate) -> dict[str, Any] | None:
    if (own := j.own.deployed) is None or (found := j.limits.deployed) is None:
        return None
    return {
        "rung": "S9, value-weighted", "certificate": plain(own.bound), "lower": found.lower, "alpha": j.settings.alpha,
        "label": found.label,
    }  # fmt: skip


def _behaviour(j: JudgedUpdate) -> dict[str, Any] | None:
    found = j.own.tails.behaviour
    return None if found is None else found._asdict() | {"source": j.own.tails.source}


def _interaction(j: JudgedUpdate) -> list[dict[str, Any]] | None:
    if (m := j.matrix) is None:
        return None
    i = m.updates.index(j.update.update)
    return [
        {"update": k, "agents": agents, "entry": plain(row[i]), "clear": clear[i]}
        for k, agents, row, clear in zip(m.updates, m.agents, m.entries, m.clear, strict=True)
    ]


def _drift(j: JudgedUpdate) -> dict[str, Any] | None:
    return None if j.matrix is None else plain(j.matrix.drift[j.matrix.updates.index(j.update.update)])


def _of(found: Any, pick: Callable[[Any], Any]) -> Any:
    """A number of what there is, or none."""
    return None if found is None else pick(found)


def _floor(pick: Callable[[LogFloor], Any]) -> Callable[[JudgedUpdate], Any]:
    """Of the floor, where rollouts were scored twice."""
    return lambda j: _of(j.own.floor, pick)


def _kl(j: JudgedUpdate, pick: Callable[[Any], Any]) -> Any:
    """Of the monitor, where there is one."""
    return _of(j.own.kl, pick)


HEAD = (
    Column("stage", "", "", "the stage", lambda j: j.update.stage),
    Column("update", {"update": name}, "", "the update within it; tables show stage.update", lambda j: j.update.update),
    Column(
        "agents",
        {"agent": lambda r: who(r["agents"])},
        "",
        "whom it moves: of sharers all who play with the parameters",
        lambda j: j.update.agents,
    ),
)
"""What every table begins with."""

ROLLOUTS = (
    Column("kind", "kind", "", "single, sharers (of one set of parameters), joint (several agents at once) or nothing changed",
           _kind),
    Column("changed_besides", "", "", "other agents whose scores changed",
           lambda j: sorted(set(j.update.changed) - set(j.update.agents))),
    Column("evidence", "evidence", "", "the rollouts it is judged by: fresh (of the current team), reused (older) or incomplete",
           lambda j: j.update.evidence),
    Column("off_policy", "", "", "largest distance of current and behaviour, nats a token", lambda j: max(j.update.off.values())),
    Column("prompts", "prompts", "", "number of prompts", lambda j: j.own.rollouts.prompts),
    Column("rollouts", "rollouts", "", "number of rollouts", lambda j: j.own.rollouts.rollouts),
    Column("tokens", "tokens", "", "number of tokens", lambda j: j.own.rollouts.tokens),
    Column("reward", "reward", ESTIMABLE, "J of the team that wrote the rollouts: their mean reward",
           lambda j: plain(j.own.rollouts.reward)),
    Column("share_tokens", {"share of tokens": lambda r: " ".join(f"{k}:{x:.2f}" for k, x in r["share_tokens"].items())},
           ESTIMABLE, "who speaks how much (`w`)", lambda j: j.own.rollouts.share_tokens),
    Column("share_messages", "", ESTIMABLE, "the same of messages", lambda j: j.own.rollouts.share_messages),
    Column("messages", {"messages (max)": lambda r: f"{r['messages']:.2f} ({r['messages_max']})"}, ESTIMABLE,
           "messages of the updated agents per rollout (`τ`), and the most in one", lambda j: j.own.rollouts.messages),
    Column("messages_max", "", "", "the most messages of the updated agents in a rollout", lambda j: j.own.rollouts.messages_max),
)  # fmt: skip

TOKEN_KL = (
    Column("delta", "", "", "the threshold δ, nats a message (declared)", lambda j: j.settings.delta),
    Column("kl_k1", "k1 per message", ESTIMABLE,
           "mean over the updated agents' messages of Σ_u log π_current/π_new (P3.2, the paper's monitor)",
           lambda j: _kl(j, lambda x: plain(x.k1))),
    Column("kl_k3", "k3 per message", ESTIMABLE, "the same with r − 1 − log r, r = π_new/π_current; never negative (P3.2)",
           lambda j: _kl(j, lambda x: plain(x.k3))),
    Column("floor", "floor, k3", ESTIMABLE,
           "k3 of the current policy with itself, scored twice: what noise of the scores makes of a KL of 0, nats a message",
           _floor(lambda x: plain(x.kl))),
    Column("kl_k3_corrected", "k3 − floor", ESTIMABLE,
           "KL(current‖new) by k3 without what noise of the scores adds to it, where that is known",
           _floor(lambda x: plain(x.corrected))),
    Column("not_corrected", "", "", "why there is none, where rollouts were scored twice", _floor(lambda x: x.unknown)),
    Column("outside", {"δ = {delta:g}": _decision}, ESTIMABLE,
           "whether k1 exceeds δ; also where the log contradicts itself; unknown where the rollouts are in doubt", _outside),
    Column("flips_25", {"flips %, 25 / 50": _flips}, ESTIMABLE,
           "share of sub-samples of 25 % of the tokens that decide otherwise than all tokens (the paper's Table 8)",
           lambda j: _kl(j, lambda x: x.flips[0])),
    Column("flips_50", "", ESTIMABLE, "the same of 50 % of the tokens", lambda j: _kl(j, lambda x: x.flips[1])),
    Column("kl_episode", "K per episode", ESTIMABLE, "K: Σ KL(current‖new) over the whole rollout, by k3 (`δ^ep`)",
           lambda j: plain(j.own.episode)),
    Column("kl_episode_upper", "", ESTIMABLE, "the one-sided upper limit of K",
           lambda j: np.inf if j.doubts.invalid else j.own.episode_upper),
    Column("floor_episode", "floor of K", ESTIMABLE, "the floor of a whole rollout", _floor(lambda x: plain(x.episode))),
    Column("floor_token", "noise per token", ESTIMABLE, "standard deviation of the noise of one score of a token, nats",
           _floor(lambda x: x.token)),
    Column("floor_shift", "", ESTIMABLE, "mean of log again − log current, nats a message: 0 where both scores have one law",
           _floor(lambda x: plain(x.shift))),
    Column("floor_law", "", "",
           "alike (that mean is 0, at 1e-3), drawn (tokens were drawn by current as it stands in the log), apart or off (by more "
           "than the floor)",
           _floor(lambda x: x.kind)),
    Column("scored_twice", "", "", "rollouts whose current policy was scored a second time",
           lambda j: 0 if j.own.floor is None else j.own.floor.rollouts),
    Column("below_floor", "", "",
           "keys and rungs that the floor hides: KLs within its interval, the decision by k1, lower limits within ϱ times it; "
           "they decide nothing", lambda j: below_floor(j.own, j.limits, j.doubts, j.settings)),
)  # fmt: skip

TAILS = (
    Column("mean_weight", "", ESTIMABLE, "mean of Λ, the weight new/current of a rollout: 1 where tokens are drawn from current",
           lambda j: plain(j.own.tails.mean)),
    Column("mean_weight_low", "", "", "whether it is below 1 at 1e-6: its tail was not drawn", lambda j: j.own.tails.low),
    Column("mean_weight_high", "", "", "whether it is above 1, by the bound of S8: then no limit is printed",
           lambda j: j.limits.mean_weight_high),
    Column("weights_update", "", ESTIMABLE, "of Λ: effective sample size over B, P95, P99, largest, share above 10 (Table 10)",
           lambda j: j.own.tails.update._asdict()),
    Column("weights_behaviour", "", ESTIMABLE, "the same of current/behaviour, on the oldest rollouts scored here", _behaviour),
)  # fmt: skip

CERTIFICATES = (
    Column("surrogate", "surrogate L", ESTIMABLE,
           "L = A Σ_m (ρ_m − 1): its promise; message ratios, leave-one-out advantages (`L^seq`, reused: `L^cached`)",
           lambda j: plain(j.own.surrogate.messages)),
    Column("surrogate_tokens", "", ESTIMABLE, "the same with token ratios, Σ_u (r − 1)",
           lambda j: plain(j.own.surrogate.tokens)),
    Column("surrogate_normalised", "", ESTIMABLE,
           "the same with group-normalised advantages: no estimate of anything in units of the reward (PE.10)",
           lambda j: plain(j.own.surrogate.normalised)),
    Column("improvement", "", ESTIMABLE, "J(π̂ⁱ) − J(π̂ⁱ⁻¹) by the importance weight of whole rollouts, A (Λ − 1): L + gap",
           lambda j: plain(j.own.surrogate.improvement)),
    Column("gap", "gap", ESTIMABLE,
           "J(π̂ⁱ) − J(π̂ⁱ⁻¹) − L by importance ratios, Σ_m (Λ(<m) − 1)(ρ_m − 1) A (exact mean, large variance)",
           lambda j: plain(j.own.surrogate.gap)),
    Column("rungs", {"certificate": _best}, "", "lower bounds on the improvement (S6); the table has the best of them", _rungs),
    Column("certificate", {"rung": _rung, "lower": _lower("certificate")}, RANGE,
           "the rung with the greatest lower limit, and this limit: above 0 the update is certified (S6); asymptotic",
           _certificate),
    Column("certificate_finite_sample", {"S8 lower": _lower("certificate_finite_sample")}, FINITE,
           "the same by the betting bound on E R(Λ − 1) (S8); reused: on E [R(Λ' − 1) + (1 − R)(Λ − 1)], Λ' new/behaviour, Λ "
           "current/behaviour (S12)", lambda j: _s8(j, j.limits, "path" if j.own.fresh else "mismatch")),
    Column("limit_cut", "", "", "whether a limit exceeded high − mean reward: then none is printed",
           lambda j: j.limits.limit_cut),
    Column("improvement_next", "next rollouts say", ESTIMABLE,
           "mean reward of the next update's new rollouts less that of these (S8)", lambda j: plain(j.following.improvement)),
    Column("paired", "", "", "whether by prompt, where the prompts are the same", lambda j: j.following.paired),
)  # fmt: skip

RESAMPLING = (
    Column("resampled", "new rollouts", "", "whether new rollouts stand here", lambda j: j.update.resampled),
    Column("source", "source", "", "the update at which the rollouts it is judged by were sampled", lambda j: j.update.source),
    Column("shift", "shift", ESTIMABLE,
           "how far the team has moved since the rollouts in use, total variation: S3 √(K/2) on re-scored rollouts, else S2 "
           "summed over the updates", lambda j: j.shift.shift),
    Column("shift_upper", "upper", ESTIMABLE, "its one-sided limit", lambda j: j.shift.upper),
    Column("shift_rung", "rung", "", "by which statement (S2, S3, U2)", lambda j: j.shift.rung),
    Column("shift_booked", "as booked", ESTIMABLE, "√(½ΣK) of fresh K, as `certificate_driven` would book",
           lambda j: j.shift.booked),
    Column("skippable", {"tolerance {tolerance:g}": _skippable}, ESTIMABLE,
           "whether new rollouts could have been skipped: the upper limit is within the tolerance", lambda j: j.shift.skippable),
)  # fmt: skip

SAMPLER = (
    Column("kl_sampler_current", "K(sampler‖current)", ESTIMABLE,
           "K(μ,π): Σ KL(behaviour‖current) over the whole rollout, all agents, by k3 (S12)",
           lambda j: plain(j.own.sampler.current)),
    Column("kl_sampler_new", "K(sampler‖new)", ESTIMABLE, "K(μ,π'): the same of behaviour and new",
           lambda j: plain(j.own.sampler.new)),
    Column("sampler_misses", "sampler misses", ESTIMABLE,
           "1 − E Λ, Λ = current/behaviour of a rollout: what current plays and the sampler never writes (a top-p or top-k cut)",
           lambda j: plain(j.own.sampler.misses)),
    Column("sampler_cuts", "", "", "whether that is above 0 at 1e-6: then S7c, whose k3 misses it too, has no limit",
           lambda j: j.own.sampler.cuts),
    Column("kl_deployed", "K(sampler‖deployed)", ESTIMABLE,
           "the same of behaviour and `logp_deployed`, the sampler after the update",
           lambda j: _of(j.own.deployed, lambda x: plain(x.kl))),
    Column("improvement_deployed", "deployed gains", ESTIMABLE,
           "J(μ') − J(μ) of the sampler after and as it wrote the rollouts, by the importance weight of whole rollouts",
           lambda j: _of(j.own.deployed, lambda x: plain(x.improvement))),
    Column("certificate_deployed", {"S9 lower": _lower("certificate_deployed")}, RUNGS["S9"][0],
           "a lower bound on it, E (R − floor) log Λ with Λ = deployed/behaviour (S9), and its limit; asymptotic", _deployed),
    Column("certificate_deployed_finite_sample", {"S8 lower": _lower("certificate_deployed_finite_sample")}, FINITE,
           "the same by the betting bound on E R(Λ − 1) (S8)", lambda j: _of(j.limits.deployed, lambda x: _s8(j, x, "path"))),
)  # fmt: skip

INTERACTION = (
    Column("interaction", "", ESTIMABLE,
           "M[k,i]: by how much update k moves the surrogate of update i; R5 by importance ratios on re-scored rollouts of the "
           "stage's start", _interaction),
    Column("drift", "", ESTIMABLE, "L^seq − L^stale, without R5's remainder", _drift),
)  # fmt: skip

DOUBTS = (
    Column("schema", "", "", "1", lambda j: MONITOR_SCHEMA),
    Column("sampler", "", "", "how tokens were drawn and scored, where the log says it",
           lambda j: _of(j.sampler, Sampler.to_json)),
    Column("invalid", "", "", "why there is no certificate, empty where there is one", lambda j: j.doubts.invalid),
    Column("masked", "", "", "rollouts that lack tokens", lambda j: j.doubts.masked),
    Column("contradiction", "", "", "what shows that tokens were not drawn from the behaviour", lambda j: j.doubts.contradiction),
    Column("groups", "", "", "least and greatest number of rollouts of a prompt, where they differ", lambda j: j.doubts.groups),
    Column("ids_missing", "", "", "rollout ids that are left out", lambda j: j.doubts.ids_missing),
    Column("scored_again", "", "",
           "of each older set: `size`, `same`, `missing`, `changed`, `extra`, and `state`: whole, part or unclear",
           lambda j: j.doubts.scored_again),
)  # fmt: skip

GROUPS: Mapping[str, tuple[Column, ...]] = {
    "Which update": HEAD,
    "Rollouts": ROLLOUTS,
    "Token-KL monitor": TOKEN_KL,
    "Importance weights of whole rollouts": TAILS,
    "Certificates": CERTIFICATES,
    "Resampling": RESAMPLING,
    "Trainer and sampler": SAMPLER,
    "Interaction": INTERACTION,
    "Doubts": DOUBTS,
}
"""By what they are about; a group with headings is a table."""

COLUMNS = tuple(column for group in GROUPS.values() for column in group)

INFORMATION: Mapping[str, tuple[str, str]] = {
    **{c.key: (c.information, c.meaning) for c in COLUMNS if c.information},
    **{f"certificate {id}": found for id, found in RUNGS.items()},
}
"""Who can know it, and what it is."""


def record_of(judged: JudgedUpdate) -> dict[str, Any]:
    """What is written of an update."""
    return {column.key: column.value(judged) for column in COLUMNS}
