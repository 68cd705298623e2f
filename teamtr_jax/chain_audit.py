"""What is known exactly of a chain of updates of tables, update by update: the audit of the backends' records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from teamtr_jax.bounds import DEFAULT, ladder
from teamtr_jax.certificates import certificate, certificate_estimable, certificate_weighted, lower_bound_paper
from teamtr_jax.rollouts import SurrogateParts, estimation_error
from teamtr_jax.schedules import Schedule
from teamtr_jax.surrogates import hybrids_report, occupancy_tv
from teamtr_jax.types import Hybrids, StageReport, Team, UpdateRecord
from teamtr_jax.validation import InputError, concrete, integers
from teamtr_jax.values import advantages
from teamtr_jax.visits import chain_hybrids, chain_solo_steps, occupancy

__all__ = ["audit_chain", "audit_records", "report_numbers", "OPTIONS"]


def audit_records(team: Team, states: Sequence[Any], records: list[UpdateRecord], schedule: Schedule) -> dict[str, Any]:
    """The audit of a stage: `audit_chain`, and the parts of `ζ` of the surrogates that the records hold (P3.4).

    Args:
      states: of the team after 0, 1, …, n updates; of each its tables, `policy`.
    """
    axis = len(team.initial.shape) - 1
    chain = jnp.stack([state.policy for state in states], axis)
    agents, sources = (
        jnp.asarray(np.stack([np.asarray(x) for x in xs], axis))
        for xs in ([r.agent for r in records], [r.source for r in records])
    )
    moved = [r.moved for r in records]
    several = any(x is not None and (np.asarray(x).sum(-1) > 1).any() for x in moved)
    if several:  # sharers of parameters
        agents = jnp.asarray(np.stack(moved, axis))
    once = not bool(np.asarray(_again(agents, team.agents)).any())
    exact = (_audit_batch if axis else _audit_one)(team, chain, agents, sources, once=once)
    exact["surrogate_in_use"] = exact.pop("in_use")[schedule.reuse]
    exact = {name: np.moveaxis(np.asarray(x), axis, 0) for name, x in exact.items()}
    clipped = np.stack([np.asarray(r.surrogate) for r in records])
    gain = np.stack([np.asarray(r.info["gain"]) for r in records])
    raw = np.stack([np.asarray(r.info.get("surrogate_raw", r.info["gain"])) for r in records])
    scale = 1.0 if team.dynamics.horizon is not None else 1 - np.asarray(team.dynamics.discount)
    parts = SurrogateParts(jnp.asarray(scale * raw), jnp.asarray(scale * gain), jnp.asarray(scale * clipped))
    intermediate, data = (jnp.asarray(scale * exact[f"surrogate_{name}"]) for name in ("intermediate", "in_use"))
    zeta = estimation_error(intermediate, data, parts)._asdict()
    return exact | {name if name == "zeta" else f"zeta_{name}": np.asarray(x) for name, x in zeta.items()}


def audit_chain(team: Team, states: Array, agents: Array, sources: Array, once: bool = False) -> dict[str, Any]:
    """Everything that is known exactly of a chain of updates, by name (docs/records.md). For `jit` and `vmap`.

    Args:
      states: the team's tables after 0, 1, …, n updates.
      agents: who moves: ``[n]``, or of sharers ``[n, agents]`` whether each agent does (`visits.chain_hybrids`).
      sources: the number of updates after which the rollouts in use were collected.
      once: no agent moves twice; then a large stage is solved by one elimination.

    Returns:
      ``[n]`` arrays; `in_use` holds one for each way to use old rollouts.

    Raises:
      InputError: an agent that is none of the team, or rollouts that were not there yet.
    """
    if len(agents.shape) == 1 and (movers := concrete(agents)) is not None:
        integers("agents", movers, 0, team.agents)
    if (found := concrete(sources)) is not None:
        integers("sources", found, 0, states.shape[0] - 1)
        if (late := found > np.arange(found.size)).any():
            i = int(late.argmax())
            raise InputError("sources", f"{int(found[i])} at update {i}", f"at most {i}, the updates before it")
    h = chain_hybrids(team, states, agents)
    report = hybrids_report(team, h, chain_solo_steps(team, states, agents, states[0]), once)
    solo = chain_solo_steps(team, states, agents, states[sources])
    return report_numbers(report, _again(agents, team.agents)) | _in_use(team, h, solo, report, sources)


def _again(agents: Array, number: int) -> Array:
    """Whether some agent moves twice: `agents` ``[..., n]``, or ``[..., n, agents]`` of sharers."""
    moves = agents if agents.dtype == bool else agents[..., None] == jnp.arange(number)
    return (moves.sum(-2) > 1).any(-1)


OPTIONS = {"xla_backend_optimization_level": 0}  # most of the time is compilation
_audit_one = jax.jit(audit_chain, static_argnames="once", compiler_options=OPTIONS)
_audit_batch = jax.jit(
    lambda *arguments, once: jax.vmap(partial(audit_chain, once=once))(*arguments),
    static_argnames="once",
    compiler_options=OPTIONS,
)


COPIED = ("surrogate_intermediate", "surrogate_stale", "surrogate_cached", "surrogate_reused", "gap_fresh", "gap_stale",
          "gap_cached", "gap_reused", "seq_minus_stale", "kl", "kl_stale", "kl_reverse", "tv", "share", "occupancy_tv_fresh",
          "occupancy_tv_stale")  # fmt: skip


def report_numbers(report: StageReport, again: Array) -> dict[str, Float[Array, " n"]]:
    """The `[n]` quantities of a report that an update record carries: surrogates, gaps, rungs, certificates, violations.

    Args:
      again: whether some agent is updated twice; then only the rungs on the fresh gap hold, the others are infinite.
    """
    penalties = ladder(report)
    for rung in DEFAULT:
        if rung.gap != "fresh" and rung.name in penalties:
            penalties[rung.name] = jnp.where(again, jnp.inf, penalties[rung.name])
    improvement = report.surrogate_intermediate + report.gap_fresh
    excess = [
        abs(getattr(report, f"gap_{rung.gap}")) - getattr(report.rounding, rung.gap) > penalties[rung.name]
        for rung in DEFAULT
        if rung.name in penalties
    ]
    return {
        **{name: getattr(report, name) for name in COPIED},
        "objective_before": report.objective[:-1],
        "objective_after": report.objective[1:],
        "improvement": improvement,
        "regression": improvement + report.rounding.fresh < 0,
        **penalties,
        "certificate_paper": lower_bound_paper(report),
        "certificate_estimable": certificate_estimable(report),
        "certificate_weighted": certificate_weighted(report),
        "certificate": certificate(report),
        "violations": jnp.stack(excess).sum(0),
    }


def _in_use(team: Team, h: Hybrids, solo: Array, report: StageReport, sources: Array) -> dict[str, Any]:
    """What the rollouts in use show in expectation: their surrogate, and how far their occupancy is off."""
    a = jax.vmap(partial(advantages, team))(report.values)[sources]
    m = report.visits
    since = jnp.concatenate([jnp.zeros_like(report.shift[:1]), jnp.cumsum(report.shift, 0)[:-1]])  # m^{π̂ⁱ⁻¹} − m^{π̂⁰}

    def surrogate(g: Array) -> Array:
        return (m[sources] * g).sum(-1)

    return {
        "shift_in_use": occupancy_tv(since - since[sources], occupancy(m[sources]), m[:-1]),
        "in_use": {
            "rollouts": surrogate((h.steps * a).sum(-1)),
            "occupancy": surrogate(report.conditional),
            "start": surrogate((solo * a).sum(-1)),  # the others as in the team that wrote the rollouts
            "weights": report.surrogate_intermediate,  # weights that are not cut are unbiased
        },
    }
