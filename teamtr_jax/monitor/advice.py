"""What to do next, for a program that asks: the answers of the verdict as values, each with its reason and who can know it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from teamtr_jax.intervals import Interval, quantile
from teamtr_jax.monitor.columns import MONITOR_SCHEMA, Record, name
from teamtr_jax.monitor.interaction import Interaction
from teamtr_jax.monitor.report import MonitorReport
from teamtr_jax.monitor.verdict import Verdict, verdict_of, verdicts
from teamtr_jax.monitor_settings import Settings
from teamtr_jax.validation import InputError

__all__ = ["Advice", "Reason", "advice", "advices", "advice_json", "checked_record"]


class Reason(NamedTuple):
    """Why, in words, and who can know it."""

    why: str
    information: str  #: estimable, prior, or both


class Advice(NamedTuple):
    """What to do with an agent, after its last update; `None` where nothing can be known, and `reasons` says why."""

    agents: tuple[int, ...]  #: whom it is about: of sharers all
    update: str  #: the last one of theirs, stage.update
    keep_rollouts: bool | None  #: before their next update, as before their last one; False: resample
    radius: float | None  #: to try, nats a message
    hold: tuple[int, ...] | None  #: these agents, or nobody: whoever clearly spoils the contexts of others
    reasons: dict[str, Reason]  #: by field


def _advice(verdict: Verdict, last: Record) -> Advice:
    """The three answers that are decisions."""
    _, _, spoils, rollouts, radius = verdict.answers
    agents = tuple(verdict.members)
    others = None if spoils.value is None else any(i not in agents for i in spoils.value)
    asked = {"keep_rollouts": rollouts, "radius": radius, "hold": spoils}
    reasons = {key: Reason(f"{x.answer}. {x.because}", x.information) for key, x in asked.items()}
    hold = None if others is None else agents if others else ()
    return Advice(agents, name(last), rollouts.value, radius.value, hold, reasons)


def advices(report: MonitorReport) -> list[Advice]:
    """One for each agent that was updated; of sharers one for all."""
    found = verdicts(report)
    lasts = ([r for r in report.records if x.agent in r["agents"]][-1] for x in found)
    return [_advice(verdict, last) for verdict, last in zip(found, lasts, strict=True)]


def advice(records: Mapping[str, Any] | Sequence[Mapping[str, Any]], settings: Settings | None = None) -> Advice:
    """What to do with the agents of the last update, by the rules of the verdict (docs/monitor.md).

    Keep the rollouts: `shift_upper ≤ tolerance`. Radius: `t²`, where `a·t − ϱ·b·t²` is greatest. Hold: the agent's row of the
    mean interaction matrix has an entry of another agent, updated after it, clearly below 0 (R5).

    Args:
      records: of one update or of several, in order, as `monitor` makes them or `teamtr monitor --json` prints them. The more
        updates, the more is known: the radius is of all updates of the agents, the matrix of all stages.
      settings: those of the records.

    Raises:
      InputError: no record, a key that is not there or of another kind, by name; other settings than the records have.
    """
    settings = Settings() if settings is None else settings
    settings.check()
    given = [records] if isinstance(records, Mapping) else list(records)
    if not given:
        raise InputError("records", "none", "the record of one update at least")
    checked = [checked_record(r, f"record {i + 1}" if len(given) > 1 else "record") for i, r in enumerate(given)]
    _same_settings(checked, settings)
    last = checked[-1]
    if not last["agents"]:
        why = Reason(f"Update {name(last)} moved nobody.", "estimable")
        return Advice((), name(last), None, None, None, dict.fromkeys(("keep_rollouts", "radius", "hold"), why))
    report = MonitorReport(checked, _interactions(checked, settings.alpha), settings, 0)
    return _advice(verdict_of(last["agents"][0], report), last)


def advice_json(found: Advice) -> dict[str, Any]:
    """As it is printed: plain values, `formats.dump` makes a line of them."""
    reasons = {key: reason._asdict() for key, reason in found.reasons.items()}
    return {"schema": MONITOR_SCHEMA, **found._asdict(), "reasons": reasons}


# ------------------------------------------------------------------------------------------------------------- checking


def _integer(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _real(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and not math.isnan(x)


def _agents(x: Any) -> bool:
    return isinstance(x, list | tuple) and all(_integer(k) and k >= 0 for k in x)


def _interval(x: Any) -> bool:
    return isinstance(x, Mapping) and all(_real(x.get(key)) for key in ("value", "low", "high", "n"))


def _lower(x: Any) -> bool:
    return isinstance(x, Mapping) and _real(x.get("lower")) and isinstance(x.get("label"), str)


def _certificate(x: Any) -> bool:
    return _lower(x) and isinstance(x.get("rung"), str) and _real(x.get("alpha"))


def _rung(x: Any) -> bool:
    return (
        isinstance(x, Mapping)
        and isinstance(x.get("id"), str)
        and isinstance(x.get("name"), str)
        and _interval(x.get("certificate"))
        and x["certificate"]["value"] < math.inf
        and _real(x.get("lower"))
    )


def _entries(x: Any) -> bool:
    return isinstance(x, list) and all(
        isinstance(e, Mapping) and _integer(e.get("update")) and _agents(e.get("agents"))
        and "entry" in e and _or_none(_interval)(e["entry"])
        for e in x
    )  # fmt: skip


def _or_none(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda x: x is None or kind(x)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, kinds)


KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "stage": (_integer, "an integer"),
    "update": (_integer, "an integer"),
    "agents": (_agents, "a list of agents"),
    "evidence": (_is(str), "a text"),
    "delta": (_real, "a number"),
    "outside": (_or_none(_is(bool)), "true, false or null"),
    "kl_k1": (_or_none(_interval), "value, low, high, n or null"),
    "kl_k3": (_or_none(_interval), "value, low, high, n or null"),
    "kl_episode": (_interval, "value, low, high, n"),
    "surrogate": (_interval, "value, low, high, n"),
    "mean_weight_high": (_is(bool), "true or false"),
    "rungs": (lambda x: isinstance(x, list) and bool(x) and all(map(_rung, x)), "a list of rungs"),
    "certificate": (_certificate, "an object with lower, label, rung and alpha"),
    "certificate_finite_sample": (_or_none(_lower), "an object with lower and label, or null"),
    "shift_upper": (_or_none(_real), "a number or null"),
    "shift_rung": (_or_none(_is(str)), "a text or null"),
    "interaction": (_or_none(_entries), "a list of entries or null"),
    "invalid": (_is(list), "a list"),
    "floor": (_or_none(_interval), "value, low, high, n or null"),
    "kl_k3_corrected": (_or_none(_interval), "value, low, high, n or null"),
    "floor_episode": (_or_none(_interval), "value, low, high, n or null"),
    "below_floor": (_is(list), "a list"),
    "contradiction": (_or_none(_is(Mapping)), "an object or null"),
    "schema": (_integer, f"{MONITOR_SCHEMA}"),
}
"""What the verdict reads of a record, and of what kind it is."""

INFINITE = {"inf": math.inf, "-inf": -math.inf}
"""Numbers that strict JSON does not have."""


def _numbers(x: Any) -> Any:
    """What JSON made of infinities as numbers again."""
    if isinstance(x, Mapping):
        return {key: _numbers(item) for key, item in x.items()}
    if isinstance(x, list | tuple):
        return [_numbers(item) for item in x]
    return INFINITE.get(x, x) if isinstance(x, str) else x


def checked_record(record: Any, where: str = "record") -> Record:
    """The record of an update, as it was made or read from JSON.

    Raises:
      InputError: names the first key that is not there or of another kind.
    """
    if not isinstance(record, Mapping):
        raise InputError(where, type(record).__name__, "a record of the monitor: an object")
    found = _numbers(record)
    for key, (kind, expected) in KINDS.items():
        if key not in found:
            raise InputError(f"{where}: key {key}", "nothing", expected)
        if not kind(found[key]):
            raise InputError(f"{where}: key {key}", repr(found[key]), expected)
    if (found["shift_upper"] is None) != (found["shift_rung"] is None):
        raise InputError(
            f"{where}: key shift_rung", repr(found["shift_rung"]), "a text with shift_upper, and null without"
        )
    if found["outside"] is None and found["kl_k1"] is not None and not found["invalid"]:
        raise InputError(f"{where}: key outside", "null", "true or false where kl_k1 is there and invalid is empty")
    if found["schema"] != MONITOR_SCHEMA:
        raise InputError(
            f"{where}: key schema", found["schema"], f"{MONITOR_SCHEMA}, the schema that this version reads"
        )
    return found


def _same_settings(records: Sequence[Record], settings: Settings) -> None:
    """Refuse records of another δ or α, updates that are not in order, and agents without parameters."""
    place = (-1, -1)
    for r in records:
        for key, value in (("delta", r["delta"]), ("alpha", r["certificate"].get("alpha"))):
            if value != (declared := getattr(settings, key)):
                raise InputError("settings", f"{key} = {declared}", f"{value}, as record {name(r)} has it")
        if (r["stage"], r["update"]) <= place:
            raise InputError("records", f"update {name(r)} after {place[0]}.{place[1]}", "each update once, ascending")
        place = r["stage"], r["update"]
        if settings.sharers is not None and (last := max(r["agents"], default=-1)) >= len(settings.sharers):
            found = f"{len(settings.sharers)} agents"
            raise InputError("sharers", found, f"{last + 1} at least: agent {last} is in record {name(r)}")


# ------------------------------------------------------------------------------------------------------------- matrices


def _estimate(x: Mapping[str, Any] | None, alpha: float) -> Interval | None:
    """An interval as it was before its standard error was left out."""
    if x is None:
        return None
    value, low, high, n = x["value"], x["low"], x["high"], x["n"]
    error = (high - value) / quantile(1 - alpha / 2, n - 1) if n > 1 and math.isfinite(high) else math.inf
    return Interval(value, low, high, error, n)


def _interactions(records: Sequence[Record], alpha: float) -> list[Interaction]:
    """The matrices of the stages, from the columns that stand in the records."""
    out = []
    for stage in sorted({r["stage"] for r in records}):
        columns = [r for r in records if r["stage"] == stage and r["interaction"] is not None]
        moved = {r["update"]: list(r["agents"]) for r in columns}
        moved |= {e["update"]: list(e["agents"]) for r in columns for e in r["interaction"]}
        if not columns:
            continue
        updates = sorted(moved)
        cells = {(e["update"], r["update"]): _estimate(e["entry"], alpha) for r in columns for e in r["interaction"]}
        entries = [[cells.get((k, i)) for i in updates] for k in updates]
        clear = [[False] * len(updates) for _ in updates]
        out.append(Interaction(stage, updates, [moved[k] for k in updates], entries, [None] * len(updates), clear))
    return out
