"""What the report says of each agent, in five answers: its radius, its certificate, whom it spoils, its rollouts, what to try.

Every answer follows from values of the records and of the interaction matrices (docs/monitor.md, verdict).
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

from teamtr_jax.intervals import Interval
from teamtr_jax.monitor.columns import ESTIMABLE, RANGE, Record, agents_text, interval_text, name, number
from teamtr_jax.monitor.interaction import pool
from teamtr_jax.monitor.own import MOVED_TWICE
from teamtr_jax.monitor.report import MonitorReport
from teamtr_jax.monitor_settings import Settings
from teamtr_jax.sharing import members_of

__all__ = ["FURTHEST", "Answer", "Verdict", "verdict_of", "verdicts"]

FURTHEST = 2.0
"""No step is proposed that is more than so many times the one that was made: what is known is of first order in it."""


BELOW = (
    "Roundings alone could do it: score in float32 (the heads at least), current and new in one shape, without dropout."
)
"""Of what is below the floor, and what to do."""
ALONE = (
    "Of one prompt alone it is not known how far a floor scatters: score rollouts of more prompts twice (`logp_again`)."
)
"""The same where the floor has no upper limit."""


class Answer(NamedTuple):
    """One question about an agent."""

    question: str
    answer: str
    because: str
    tone: str  #: good, bad or open
    value: Any = None  #: what was decided, for `advice`; `None` where nothing can be known
    information: str = ESTIMABLE  #: who can know it

    def __str__(self) -> str:
        return f"{self.question} {self.answer}. {self.because}"


class Verdict(NamedTuple):
    """What is said of an agent; of its last update where nothing else is said."""

    agent: int  #: of sharers the first
    answers: list[Answer]
    members: list[int]  #: who plays with its parameters

    @property
    def headline(self) -> str:
        return ", ".join(x.answer for x in self.answers)

    @property
    def whose(self) -> str:
        return agents_text(self.members).capitalize()


def _of(hits: int, tries: int, what: str) -> str:
    return f" {what} in {hits} of its {tries} updates." if tries > 1 else ""


def _beside(r: Record) -> str:
    """The floor beside a KL, and what is left without it."""
    if r["floor"] is None:
        return ""
    rest = "" if r["kl_k3_corrected"] is None else f", k3 without it {interval_text(r['kl_k3_corrected'])}"
    return f", floor {interval_text(r['floor'])}{rest}"


def _inside(records: list[Record]) -> Answer:
    """k1 against δ, as the column `outside` decides."""
    question, r = "Inside its radius?", records[-1]
    k1, outside = r["kl_k1"], r["outside"]
    known = [x["outside"] for x in records if x["outside"] is not None]
    count = _of(sum(known), len(known), "Outside")
    if k1 is None:
        return Answer(question, "not monitored", f"The log has no token of it at update {name(r)}.{count}", "open")
    found = f"k1 = {interval_text(k1)} nats a message at update {name(r)}, δ = {r['delta']:g}{_beside(r)}"
    if any(x["name"] == MOVED_TWICE for x in r["rungs"]):
        found += ", on tokens of an older policy of it, whose mean is not a KL"
    if outside is None:
        why = f"{found}, but the rollouts are in doubt ({r['invalid'][0]})."
        return Answer(question, "no word on its radius", why + count, "open")
    if "outside" in r["below_floor"]:
        return Answer(question, "below the floor", f"{found}. {_below(r)}{count}", "open")
    if not outside:
        more = "; the interval reaches beyond δ" if k1["high"] > r["delta"] else ""
        return Answer(question, "inside", f"{found}{more}.{count}", "good")
    if k1["value"] > r["delta"] and r["invalid"]:
        more = f", but the rollouts are in doubt ({r['invalid'][0]})"
    elif k1["value"] > r["delta"]:
        inside = f"{number(math.sqrt(r['delta'] / k1['value']))} times this step would be inside, to first order"
        more = f"{'; the interval holds δ' if k1['low'] <= r['delta'] else ''}. {inside}"
    else:
        why = "the log contradicts itself" if r["contradiction"] else "a KL is not below 0, and weights are too large"
        more = f", which is not to be believed: {why}"
    return Answer(question, "outside", f"{found}{more}.{count}", "bad")


def _limit(r: Record) -> float:
    """The greater of the two lower limits."""
    finite = r["certificate_finite_sample"]
    return max(r["certificate"]["lower"], -math.inf if finite is None else finite["lower"])


def _why_not(r: Record) -> str:
    """Why an update without doubt is not certified."""
    surrogate, bounds = r["surrogate"]["value"], [x["certificate"] for x in r["rungs"]]
    best = max(r["rungs"], key=lambda x: (math.isfinite(x["lower"]), x["certificate"]["value"]))
    value, lower, prompts = best["certificate"]["value"], best["lower"], best["certificate"]["n"]
    if value > 0:
        found = f"{best['id']} is {number(value)}, but its lower limit {number(lower)} is not above 0"
        if not math.isfinite(lower):
            return f"{found}: one prompt has no interval."
        wanted = math.ceil(prompts * ((value - lower) / value) ** 2)
        return f"{found}: too few prompts. With the same spread about {wanted} instead of {prompts} would do."
    if surrogate > 0:
        penalty = surrogate - bounds[0]["value"]
        eats = f"The penalty {number(penalty)} eats the surrogate L = {number(surrogate)}"
        if not r["surrogate"]["low"] > 0:
            return f"{eats}, which is not clearly above 0 either."
        return f"{eats}: the step is too large for what it promises."
    return f"The surrogate L = {number(surrogate)} promises no improvement on these rollouts."


def _below(r: Record) -> str:
    return BELOW if math.isfinite(r["floor"]["high"]) else ALONE


def _certified(records: list[Record]) -> Answer:
    """Whether a lower limit is above 0, and if not, why."""
    question, r = "Certified?", records[-1]
    c, finite = r["certificate"], r["certificate_finite_sample"]
    count = _of(sum(_limit(x) > 0 for x in records), len(records), "Certified")
    if c["label"].startswith("none: "):
        return Answer(question, "not certified", f"{c['label'].removeprefix('none: ').capitalize()}.{count}", "bad")
    if not _limit(r) > 0:
        return Answer(question, "not certified", _why_not(r) + count, "bad")
    if all(key in r["below_floor"] for key, x in (("certificate", c), ("certificate_finite_sample", finite))
           if x is not None and x["lower"] > 0):  # fmt: skip
        over = f"The limit {number(_limit(r))} is within ϱ times the floor, {interval_text(r['floor_episode'])} nats a rollout"
        return Answer(question, "certificate below the floor", f"{over}. {_below(r)}{count}", "open")
    said = []
    if c["lower"] > 0:
        said.append(f"{number(c['lower'])} by {c['rung']}, asymptotic")
    if finite is not None and finite["lower"] > 0:
        said.append(f"{number(finite['lower'])} by S8, no asymptotics")
    why = f"Update {name(r)} raises J by at least {'; '.join(said)} (level {1 - c['alpha']:g}, {c['label']}).{count}"
    if c["label"] == "held-out":
        return Answer(question, "certified", why, "good")
    return Answer(question, "certified in-sample", why, "open")


def _list(agents: list[int], me: int, sharers: tuple[int, ...] | None) -> str:
    found = ["its own" if i == me else f"{agents_text(members_of(sharers, i))}'s" for i in agents]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def _moved(agents: list[int], me: int, row: dict[int, Interval], sharers: tuple[int, ...] | None) -> str:
    whose = ((_list([i], me, sharers), row[i]) for i in agents)
    return ", ".join(f"the surrogate of {i} update by {interval_text(x._asdict())}" for i, x in whose)


def _follows(k: int, i: int, report: MonitorReport) -> bool:
    """Whether some stage has an update of agent i after one of agent k, or i is k."""
    after = (pair for m in report.interactions for pair in itertools.combinations(m.agents, 2))
    first, then = (members_of(report.settings.sharers, x) for x in (k, i))
    return k == i or (first, then) in after


def _spoils(agent: int, report: MonitorReport, alone: bool) -> Answer:
    """The row of the mean matrix, each entry at α over their number; spoilt is only what was updated after it."""
    question, alpha, sharers = "Whose contexts does it spoil?", report.settings.alpha, report.settings.sharers
    entries = sum(x is not None for row in pool(report.interactions, alpha, sharers).entries for x in row)
    found = pool(report.interactions, alpha / max(entries, 1), sharers)
    row = {}
    if agent in found.agents:
        cells = found.entries[found.agents.index(agent)]
        row = {i: x for i, x in zip(found.agents, cells, strict=True) if x is not None}
    if not row:
        why = (
            "No matrix has its updates: it takes two of a stage, the rollouts of its start scored again, and no doubt."
            if alone
            else "It was updated together with others only, and the mean matrix is of single updates."
        )
        return Answer(question, "contexts unknown", why, "open")
    clear = [i for i, x in row.items() if x.high < 0] + [i for i, x in row.items() if x.low > 0]
    met = [i for i in clear if _follows(agent, i, report)]
    spoiled, never = [i for i in met if row[i].high < 0], [i for i in clear if i not in met]
    rows = [
        [x for k, r in zip(m.agents, m.entries, strict=True) if k == members_of(sharers, agent) for x in r]
        for m in report.interactions
    ]
    stages = sum(any(x is not None for x in entries) for entries in rows)
    over = f"mean over {stages} stage{'s' * (stages != 1)}, α over {entries} entries"
    said = [f"Its update moves {_moved(met, agent, row, sharers)}"] if met else []
    if never:
        said.append(f"{'i' if said else 'I'}t would move {_moved(never, agent, row, sharers)}, had that come later")
    why = f"{'; '.join(said) or 'No entry of its row is clearly apart from 0'} ({over})."
    if not spoiled:
        return Answer(question, "spoils nobody visibly", why, "open", ())
    return Answer(question, f"spoils {_list(spoiled, agent, sharers)} contexts", why, "bad", tuple(spoiled))


def _rollouts(records: list[Record], settings: Settings) -> Answer:
    """The shift since the rollouts in use against the tolerance."""
    question = "New rollouts before it?"
    known = [r for r in records if r["shift_upper"] is not None]
    bounded = [r for r in known if not r["shift_rung"].startswith("none")]
    if not known:
        why = "Its updates are the first of their stages."
        return Answer(question, "resample as the stage begins", why, "open", False, "prior")
    r = known[-1]
    count = _of(sum(x["shift_upper"] <= settings.tolerance for x in bounded), len(bounded), "Old ones would do")
    if r not in bounded:
        why = r["shift_rung"].removeprefix("none: ")
        return Answer(
            question, "no word on resampling", f"Nothing bounds the shift at {name(r)}: {why}.{count}", "open"
        )
    keep = r["shift_upper"] <= settings.tolerance
    moved = f"{number(r['shift_upper'])} {'≤' if keep else '>'} tolerance {settings.tolerance:g}"
    why = f"Before update {name(r)} the team had moved by up to {moved}, in total variation ({r['shift_rung']}).{count}"
    return Answer(question, "keep the rollouts" if keep else "resample", why, "good" if keep else "open", keep)


def _radius(records: list[Record], settings: Settings) -> Answer:
    """The step t, in √(nats a message), at which `a·t − ϱ·b·t²` is greatest: `t = a/(2ϱb)`, `δ = t²`.

    To first order L is `a·t` and K is `b·t²` at every update: `a = ΣL/Σ√k3`, `b = ΣK/Σk3`. Steps need not be equal.
    """
    question, width = "What radius to try?", settings.reward_range[1] - settings.reward_range[0]
    fresh = [r for r in records if r["evidence"] == "fresh" and not r["invalid"] and not r["mean_weight_high"]]
    wrote = [r for r in fresh if r["kl_k3"] is not None]
    used = [r for r in wrote if "kl_k3" not in r["below_floor"]]
    if not used:
        why = f"Its steps are below the floor. {_below(wrote[-1])}" if wrote else (
            "It wrote nothing on fresh rollouts without doubt." if fresh else (
            "None of its updates has fresh rollouts without doubt."))  # fmt: skip
        return Answer(question, "no other radius", why, "open")
    m = len(used)
    surrogate, k, k3 = (sum(r[key]["value"] for r in used) / m for key in ("surrogate", "kl_episode", "kl_k3"))
    half = math.sqrt(sum((r["surrogate"]["high"] - r["surrogate"]["value"]) ** 2 for r in used)) / m
    over = f"Over {m} update{'s' * (m != 1)} the surrogate L is {number(surrogate)} ± {number(half)}"
    if not 0 < k < math.inf:
        return Answer(question, "no other radius", f"{over}, and K is {number(k)}.", "open")
    if surrogate + half <= 0:
        why = f"{over}, not above 0: at no radius does such a step promise anything."
        return Answer(question, "no other radius", why, "open")
    if not surrogate - half > 0:
        why = f"{over}, not clearly above 0: more prompts before another radius."
        return Answer(question, "no other radius", why, "open")
    made = sum(math.sqrt(r["kl_k3"]["value"]) for r in used) / m
    slope, bend = surrogate / made, width * k / k3
    size = slope / (2 * bend * made)
    step = min(size, FURTHEST) * made
    cut = f", tried only to {FURTHEST:g}" if size > FURTHEST else ""
    steps = "this step" if m == 1 else "the mean step"
    why = (
        f"{over}, ϱ·K is {number(width * k)}, k3 {number(k3)} nats a message. To first order in the step L − ϱ·K is greatest "
        f"at {number(size)} times {steps}{cut}: {number(slope * step - bend * step**2)} instead of "
        f"{number(surrogate - width * k)}. Now δ = {settings.delta:g}."
    )
    return Answer(question, f"try {step**2:.2g}", why, "open", step**2, RANGE)


def verdict_of(agent: int, report: MonitorReport) -> Verdict:
    """Of an agent that was updated, and who plays with its parameters."""
    members = members_of(report.settings.sharers, agent)
    records = [r for r in report.records if agent in r["agents"]]
    answers = [
        _inside(records),
        _certified(records),
        _spoils(members[0], report, any(r["agents"] == members for r in records)),
        _rollouts(records, report.settings),
        _radius(records, report.settings),
    ]
    return Verdict(members[0], answers, members)


def verdicts(report: MonitorReport) -> list[Verdict]:
    """One for each agent that was updated; of sharers one for all."""
    sharers = report.settings.sharers
    agents = sorted({members_of(sharers, agent)[0] for r in report.records for agent in r["agents"]})
    return [verdict_of(agent, report) for agent in agents]
