"""One stage as one HTML page: who acts where, gaps, rungs, certificates, interaction, and what the paper would have said.

Everything that depends on the number of agents or states has a largest size; beyond it the page says what it leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from teamtr_jax import certificates
from teamtr_jax.bounds import DEFAULT, Rung, ladder
from teamtr_jax.dynamics import Dense
from teamtr_jax.files import replacing
from teamtr_jax.html import escaped, number, page, table
from teamtr_jax.interaction import interaction_matrix, skippable
from teamtr_jax.types import Stage, StageReport, require_report

__all__ = ["stage_page", "write_stage_page", "RUNG_WORDS"]

UPDATES, CELLS, MATRIX, SENTENCES = 40, 600, 12, 12
"""Largest numbers of updates in full, states of the map, agents of the matrix, pairs in words."""

WORK = 3e11
"""Largest `n·S³` of a dense discounted team whose interaction matrix is computed: about a minute."""

SMALL = 0.01
"""What is less than this share is said to be small."""

UNSEEN = ", as far as can be seen beyond rounding"

DECADES = 12
"""Largest range of the axis of rungs; what is smaller stands at its left end."""

INFORMATION = {
    "oracle": "needs exact tables",
    "prior": "needs declared ranges",
    "estimable": "needs rollouts",
}
"""What a bound needs to know."""

RUNG_WORDS = {
    "penalty_trivial": "trivial: all visits × the range of the update's gain",
    "penalty_paper": "the paper's: largest advantage × √KL",
    "penalty_share": "the paper's, for the time in which the agent acts",
    "penalty_path": "Pinsker along the whole path",
    "penalty_second_order": "second order: total variation × the range of the gain",
    "penalty_later_turns": "second order, for the agent's own later turns",
    "penalty_layers": "step by step, total variation or Pinsker",
    "penalty_log_sum": "log-sum: range of the return × KL",
    "penalty_log_sum_advantage": "log-sum: range of the advantage × KL",
    "penalty_weighted": "log-sum, every KL weighted by the return to come",
    "penalty_chi_square": "standard deviation of the return × the largest χ² along an episode",
    "penalty_stale_trivial": "trivial: all visits × the range of the update's gain",
    "penalty_stale_paper": "the paper's: largest advantage × √KL of all updates so far",
    "penalty_stale_share": "the paper's, for the time in which each agent acts",
    "penalty_stale_path": "Pinsker along the whole path, all updates so far",
    "penalty_stale_second_order": "second order, all updates so far",
    "penalty_stale_log_sum": "log-sum: range of the advantage × KL of all updates so far",
    "penalty_stale_return_range": "log-sum: range of the return × KL of all updates so far",
    "penalty_cached_log_sum": "log-sum: range of the return × KL of all updates so far",
    "penalty_reused_log_sum": "log-sum, each agent on its own: range of the return × KL of all updates so far",
    "penalty_cached_chi_square": "standard deviation of the return × the largest χ² along an episode, all updates so far",
    "penalty_reused_chi_square": "standard deviation of the return × the largest χ² along an episode, each agent on its own",
}
"""Every rung in words, by the name under which it is printed."""

GAPS = {
    "fresh": ("new rollouts before this update", "surrogate_intermediate"),
    "stale": ("the stage's first rollouts, advantages of the present team", "surrogate_stale"),
    "cached": ("the stage's first rollouts and their advantages", "surrogate_cached"),
    "reused": ("as cached, each agent compared with the stage's first team", "surrogate_reused"),
}
"""What a trainer estimates from, by the gap that it leaves, and the key of its promise."""

STAGE_CERTIFICATES = {
    "certificate_estimable": ("fresh", "fresh rollouts: range of the return × KL", "S7"),
    "certificate_weighted": ("fresh", "fresh rollouts: weighted log-sum", "S9"),
    "stage_bound_cached": ("first", "first rollouts: range of the return × KL", "S7c"),
    "stage_bound_reused": ("first", "first rollouts, each agent on its own: range of the return × KL", "S7c"),
    "stage_bound_weighted": ("first", "first rollouts: weighted log-sum", "S9"),
    "stage_bound_chi_square": ("tables", "exact tables, first rollouts: standard deviation of the return × χ²", "S10"),
    "stage_bound_least": ("tables", "exact tables: the least of all rungs", "S6"),
    "stage_bound_paper": ("paper", "the paper's, fresh rollouts", "P3.6"),
    "stage_bound_stale_paper": ("paper", "the paper's, stale rollouts", "P3.7"),
}
"""Lower bounds on the improvement of a stage: whose they are, in words, id. Those of single updates add up."""

OF_CACHED = ("stage_bound_cached", "stage_bound_chi_square")
"""Those that take a penalty off the cached surrogates."""

UPDATE_CERTIFICATES = {
    "certificate_estimable": "range of the return × KL [S7]",
    "certificate_weighted": "weighted log-sum [S9]",
    "certificate": "exact tables [S6]",
    "lower_bound_paper": "the paper's [P3.4]",
}
"""Lower bounds on the improvement of an update, in words."""

CERTIFICATES = sorted({*STAGE_CERTIFICATES, *UPDATE_CERTIFICATES})

COLOURS = ("#56b4e9", "#e69f00", "#3db58c", "#f0e442", "#cc79a7", "#8ea6d8", "#d98a5c", "#bbbbbb")

STYLE = """
.axis{position:relative;height:1.1em;background:#eee;border-radius:3px}
.axis i{position:absolute;top:0;bottom:0;width:4px;margin-left:-2px}
.gap{background:#b2182b}.rung{background:#2166ac}.paper{background:#e08214}.lanes{height:2em}
.lanes i{margin:0;height:.4em;bottom:auto;min-width:1px}i.fresh{background:#1b7837;top:.1em}i.stale{background:#b2182b;top:.55em}
i.cached{background:#e08214;top:1em}
i.reused{background:#7b3294;top:1.45em}
.row+.wide{margin-top:1em}.lanes .zero{width:1px;height:100%;background:#888}
.row{margin:.45em 0}
.row p{margin:0;max-width:none;font-size:.9em;line-height:1.35}.tag{color:#555}
.key i{display:inline-block;width:.6em;height:.9em;margin-right:.3em}
#certificates td:first-child{white-space:normal;min-width:11em}
.map{display:grid;gap:2px;margin:.5em 0}
.map span{font-size:11px;text-align:center;height:1.6em;line-height:1.6em;min-width:1.6em;border-radius:2px}
.map .never{opacity:.35}.bad{color:#b2182b}.good{color:#1b7837}"""


class Numbers(NamedTuple):
    """What the page shows, as NumPy; `[n]` in the order of the updates."""

    stage: Stage
    report: StageReport
    order: list[int]  #: agent of each update
    rungs: list[tuple[Rung, NDArray[np.float64]]]
    matrix: NDArray[np.float64] | None  #: `M[k,i]` of `interaction_matrix`; `None` where that is too much work
    matrix_rounding: NDArray[np.float64]  #: what rounding may have done to it
    certificates: dict[str, NDArray[np.float64]]  #: of `teamtr_jax.certificates`, by name
    brings: NDArray[np.float64]  #: `J(π̂ⁱ) − J(π̂ⁱ⁻¹)`
    improvement: float  #: of the stage
    delta_stale: float  #: `Σ_i |L_i^seq − L_i^stale|`
    picked: list[int]  #: updates shown in full

    def gaps(self) -> dict[str, NDArray[np.float64]]:
        """The gaps that are not the same by definition: in turn-taking teams reused is cached."""
        names = GAPS if self.stage.team.factors is not None else list(GAPS)[:3]
        return {name: getattr(self.report, f"gap_{name}") for name in names}

    def rounding(self, gap: str) -> NDArray[np.float64]:
        """What rounding may have done to the gaps of this name."""
        return getattr(self.report.rounding, gap)

    def rounding_of_promise(self, gap: str) -> NDArray[np.float64]:
        """The same of the promises of this name. What is cached is what an update brings less its gap."""
        budget = self.report.rounding
        if gap in ("fresh", "stale"):
            return np.asarray(budget.surrogate)
        return self.rounding_of_brings + self.rounding(gap)

    @property
    def rounding_of_brings(self) -> NDArray[np.float64]:
        """The same of `brings`."""
        return np.asarray(self.report.rounding.surrogate + self.report.rounding.fresh)

    @property
    def unsure(self) -> float:
        """What rounding may have done to the improvement of the stage."""
        return float(self.rounding_of_brings.sum())

    def unsure_of(self, certificate: str) -> float:
        """The same to a certificate of the stage that is not far below 0: no penalty is larger than the promise then."""
        whose = STAGE_CERTIFICATES[certificate][0]
        fresh = "reused" if whose == "first" else "fresh"
        gap = "cached" if certificate in OF_CACHED else fresh
        promises = abs(getattr(self.report, GAPS[gap][1])).sum()
        return float(self.rounding_of_promise(gap).sum() + 8 * self.report.rounding.relative * promises)

    def total(self, certificate: str) -> float:
        """A certificate of the stage: the sum of those of its updates, where it has one for each."""
        return float(self.certificates[certificate].sum())

    def of_gap(self, gap: str) -> list[tuple[Rung, NDArray[np.float64]]]:
        """Rungs on a gap of `gaps`, least sum first."""
        also = "reused" if gap == "cached" and self.stage.team.factors is None else gap
        found = [pair for pair in self.rungs if pair[0].gap in (gap, also)]
        return sorted(found, key=lambda pair: pair[1].sum())


def _numbers(stage: Stage, report: StageReport, rungs: Sequence[Rung]) -> Numbers:
    require_report(report)

    @jax.jit
    def derived(report: StageReport) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        return ladder(report, rungs), {name: getattr(certificates, name)(report) for name in CERTIFICATES}

    penalties, bounds = jax.tree.map(np.asarray, derived(report))
    solves = (
        stage.team.agents * float(stage.team.initial.shape[0]) ** 3 if isinstance(stage.team.dynamics, Dense) else 0.0
    )
    matrix = np.asarray(interaction_matrix(stage, report)) if solves <= WORK else None
    if matrix is not None and np.isnan(matrix).any():
        raise ArithmeticError("the interaction matrix: not a number (the linear solve did not succeed)")
    length = 1.0 / (1.0 - float(report.discount)) if not report.episodic else float(stage.team.dynamics.horizon or 1)
    moved, g, budget = abs(report.shift).sum(-1), abs(report.conditional).max(-1), report.rounding
    unsure = np.asarray(moved[:, None] * budget.surrogate / length + g * budget.shift[:, None])
    known = [(rung, penalties[rung.name]) for rung in rungs if rung.name in penalties]
    sums = float(report.improvement), float(report.delta_stale)
    report = jax.tree.map(np.asarray, report)
    size = np.max([abs(getattr(report, f"gap_{gap}")) for gap in GAPS], axis=0)
    picked = sorted(np.argsort(-size, kind="stable")[:UPDATES].tolist())
    order = np.asarray(stage.order).tolist()
    brings = np.asarray(report.surrogate_intermediate + report.gap_fresh)
    return Numbers(stage, report, order, known, matrix, unsure, bounds, brings, *sums, picked)


# ------------------------------------------------------------------------------------------------------------ small parts


def _joined(*parts: str) -> str:
    return "".join(parts)


def _agent(agent: int) -> str:
    return f"agent {agent}"


def _bar(part: float, kind: str) -> str:
    """A bar from the middle of the axis to `part`, from −1 to 1."""
    left, width = 50 + 50 * min(part, 0.0), 50 * abs(part)
    return f'<i class={kind} style="left:{left:.1f}%;width:{width:.1f}%"></i>'


def _share(part: float, whole: float) -> str:
    """`part` as a percentage of `whole` in brackets; nothing where that means nothing."""
    if whole <= 0 or not math.isfinite(part):
        return ""
    return f" ({number(100 * part / whole)} %)"


def _left_out(all_of_them: int, what: str) -> str:
    left = all_of_them - UPDATES
    return (
        "" if left <= 0 else f"<p class=note>The {UPDATES} {what} with the largest gaps are shown; {left} are not.</p>"
    )


class Axis(NamedTuple):
    """A logarithmic axis from `low` to `high`, both positive."""

    low: float
    high: float

    def mark(self, value: float, kind: str) -> str:
        """A mark where `value` is; zero and what is too small at the left end, infinity at the right."""
        value = min(max(value, self.low), self.high)
        at = math.log(value / self.low) / math.log(self.high / self.low)
        return f'<i class={kind} style="left:{100 * at:.1f}%"></i>'

    def row(self, words: str, penalty: float, gap: float, kind: str) -> str:
        """One bound beside the gap that it bounds."""
        times = f", {number(penalty / gap)} × the gap" if gap > 0 and math.isfinite(penalty) else ""
        marks = self.mark(gap, "gap") + self.mark(penalty, kind)
        return f"<div class=row><p>{words}: {number(penalty)}{times}</p><div class=axis>{marks}</div></div>"


def _axis(numbers: Numbers) -> Axis:
    """One for the whole page: every gap and penalty of an update, and their sums."""
    gaps = [np.where(abs(gap) > numbers.rounding(name), abs(gap), 0.0) for name, gap in numbers.gaps().items()]
    arrays = gaps + [penalty for _, penalty in numbers.rungs]
    values = np.concatenate([*arrays, [array.sum() for array in arrays]])
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return Axis(0.1, 1.0)
    high = 10.0 ** math.ceil(math.log10(values.max()) + 1e-9)
    return Axis(max(10.0 ** math.floor(math.log10(values.min())), high * 10.0**-DECADES), high)


# --------------------------------------------------------------------------------------------------------------- sections


def _in_short(numbers: Numbers) -> str:
    report, true, floor = numbers.report, numbers.improvement, numbers.unsure
    before, after = number(report.objective[0]), number(report.objective[-1])
    verb = "improves" if true > floor else "does not improve"
    seen = f"The stage <b>{verb}</b> the team" if abs(true) > floor or true == 0 else (
        "It <b>cannot be seen</b> beyond rounding whether the stage improves the team")  # fmt: skip
    change = number(true, sign=True, floor=floor)
    lines = [f"{seen}: its expected return goes from {before} to {after} ({change})."]
    for knows, words in (
        (("first",), "A trainer with the stage's first rollouts only"),
        (("first", "fresh"), "A trainer with fresh rollouts before every update"),
        (("first", "fresh", "tables", "paper"), "Somebody who knows the exact tables"),
    ):
        name = max((name for name, row in STAGE_CERTIFICATES.items() if row[0] in knows), key=numbers.total)
        best, least = numbers.total(name), numbers.unsure_of(name)
        shown = number(best, sign=True, floor=least)
        if best > least:
            lines.append(f"{words} can <b class=good>certify</b> {shown}{_share(best, true)}.")
        elif best < -least or best == 0:
            lines.append(f"{words} can <b class=bad>certify nothing</b>: at least {shown} is known.")
        else:
            lines.append(f"{words} can <b class=bad>certify nothing</b> beyond rounding.")
    promised, sure = float(report.surrogate_intermediate.sum()), float(numbers.rounding_of_promise("fresh").sum())
    wrong = number(numbers.delta_stale, floor=float(report.rounding.drift.sum()))
    lines.append(f"Estimated on the stage's first rollouts, with advantages of the present team, the promises of the updates are "
                 f"wrong by {wrong} in all; the right ones add up to {number(promised, sign=True, floor=sure)}.")  # fmt: skip
    lines += _resampling(numbers)
    return "<h2>In short</h2><ul id=short>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def _resampling(numbers: Numbers) -> list[str]:
    n = len(numbers.order)
    if n < 2 or numbers.matrix is None:
        return []
    limit = SMALL * float(abs(numbers.report.surrogate_intermediate).sum())
    seen = np.where(abs(numbers.matrix) > numbers.matrix_rounding, numbers.matrix, 0.0)
    skip = np.asarray(skippable(jax.numpy.asarray(seen), limit))
    keep = [numbers.order[i] for i in range(1, n) if not skip[i]]
    unseen = (np.triu(abs(numbers.matrix - seen), 1) > limit).any()
    error = f"for an error of each promise of about {number(100 * SMALL)} % of all of them at most"
    error += UNSEEN if unseen else ""
    if not keep:
        return [f"With advantages of the present team, new rollouts within the stage are <b>not needed</b>, {error}."]
    shown = ", ".join(map(str, keep[:SENTENCES])) + (
        f" and {len(keep) - SENTENCES} more" if len(keep) > SENTENCES else ""
    )
    others = "; before the others old ones will do" if len(keep) < n - 1 else ""
    return [f"Collect <b>new rollouts before</b> the update of agent {shown}{others}, {error}."]


def _who_acts(numbers: Numbers) -> str:
    stage, report, n = numbers.stage, numbers.report, len(numbers.order)
    team, active = stage.team, None if stage.team.active is None else np.asarray(stage.team.active)
    occupancy = np.asarray(report.visits[0] / report.visits[0].sum())
    steps = 1 if team.dynamics.horizon is None else team.dynamics.horizon
    contexts = len(occupancy) // steps
    rows = []
    for i in numbers.picked:
        agent = numbers.order[i]
        own = np.ones(len(occupancy), bool) if active is None else active == agent
        policies = [
            np.asarray(table)[agent] if active is None else np.asarray(table)[own]
            for table in (stage.current, stage.target)
        ]
        moved = int((policies[0] != policies[1]).any(-1).sum())
        cells = [str(i + 1), _agent(agent), str(int(own.sum())), number(100 * occupancy[own].sum()), str(moved),
                 number(report.kl[i])]  # fmt: skip
        if steps > 1:
            turns = int(own.reshape(steps, contexts).any(-1).sum())
            cells.insert(3, str(turns))
        if team.factors is not None:
            cells.insert(2, str(team.factors[agent]))
        rows.append(cells)
    heads = ["update", "who", "states", "% of the time", "rows changed", "KL"]
    if steps > 1:
        heads.insert(3, "steps with a turn")
    if team.factors is not None:
        heads.insert(2, "actions")
    per = "summed over an episode" if report.episodic else "averaged over the time"
    note = (
        "Update: place in the order. States: in which the agent acts. % of the time: the share of it spent there before the "
        f"stage. Rows changed: states in which its policy moves. KL: how far it moves, KL(current‖new) in nats, {per}."
    )
    kind = "All agents act at once in every state" if active is None else "In every state one agent acts"
    return _joined(
        f"<h2>Who acts where</h2><p>{kind}.</p>", _map(active, occupancy, steps, contexts),
        table(heads, rows, "who"), f"<p class=note>{note}</p>", _left_out(n, "updates"),
    )  # fmt: skip


def _map(active: NDArray[Any] | None, occupancy: NDArray[Any], steps: int, contexts: int) -> str:
    """A cell for each state; episodic: a line for each step."""
    if active is None:
        return ""
    if len(active) > CELLS:
        return f"<p class=note>{len(active)} states are too many for a map ({CELLS} at most).</p>"
    columns = f"{contexts},minmax(1.8em,2.4em)" if steps > 1 else "auto-fill,minmax(1.8em,1fr)"
    cells = []
    for agent, share in zip(active.tolist(), occupancy, strict=True):
        never = "" if share > 0 else " class=never"
        cells.append(f'<span{never} style="background:{COLOURS[agent % len(COLOURS)]}">{agent}</span>')
    across = (
        "A line is a step of the episode, a column a context"
        if steps > 1
        else "A cell is a state, line by line from state 0"
    )
    grid = f'<div class=map style="grid-template-columns:repeat({columns})">'
    note = f"{across}; the number is the agent that acts there. Pale: never visited before the stage."
    return f"<div class=wide>{grid}{''.join(cells)}</div></div><p class=note>{note}</p>"


def _gaps(numbers: Numbers) -> str:
    gaps, n = numbers.gaps(), len(numbers.order)
    promises = {gap: getattr(numbers.report, GAPS[gap][1]) for gap in gaps}
    heads = ["update", "who", "brings", *(head for gap in gaps for head in (f"{gap}: promised", f"{gap} gap"))]
    rows = []
    columns = [(numbers.brings, numbers.rounding_of_brings)]
    for gap in gaps:
        columns += [(promises[gap], numbers.rounding_of_promise(gap)), (gaps[gap], numbers.rounding(gap))]
    for i in numbers.picked:
        cells = [number(x[i], sign=True, floor=budget[i]) for x, budget in columns]
        rows.append([str(i + 1), _agent(numbers.order[i]), *cells])
    sums = [number(x.sum(), sign=True, floor=budget.sum()) for x, budget in columns]
    rows.append(["all", f"{n} update{'s' * (n != 1)}", *sums])
    kinds = "".join(f"<li><b>{gap}</b>: {GAPS[gap][0]};</li>" for gap in gaps)
    sizes = {name: np.where(abs(gap) > numbers.rounding(name), gap, 0.0) for name, gap in gaps.items()}
    largest = max(float(abs(gap[numbers.picked]).max()) for gap in sizes.values())
    heading = (
        f"from {number(-largest)} (left) over zero to {number(largest, sign=True)}"
        if largest
        else "all of them about zero"
    )
    lines = [
        f"<div class=row><p>{i + 1}, {_agent(numbers.order[i])}</p><div class='axis lanes'><i class=zero style='left:50%'></i>"
        f"{''.join(_bar(gap[i] / (largest or 1.0), name) for name, gap in sizes.items())}</div></div>"
        for i in numbers.picked
    ]
    legend = "".join(f"<i class={gap}></i>{gap} " for gap in gaps)
    budget = float(max(numbers.rounding(gap).max() for gap in gaps))
    return _joined(
        "<h2>What each update promises and what it brings</h2><p>A trainer does not see what an update will bring. It sees "
        "a <i>surrogate</i>, an estimate from rollouts of an earlier team; the <i>gap</i> is what the update brings minus "
        f"what the surrogate promised. The ways to estimate:</p><ul>{kinds}</ul>",
        f"<h3>The gaps, {heading}</h3>",
        f"<p class='note key'>{legend}</p>", *lines, table(heads, rows, "gaps"),
        f"<p class=note>In units of the return. A negative gap: more was promised than came. Rounding may have moved a gap by "
        f"{number(budget)} at most; ≈ 0, here and below: it may be nothing but rounding.</p>", _left_out(n, "updates"),
    )  # fmt: skip


def _ladder(numbers: Numbers) -> str:
    axis, n = _axis(numbers), len(numbers.order)

    def rows(pick: Any) -> str:
        out = []
        for gap, values in numbers.gaps().items():
            size, budget = float(pick(abs(values))), float(pick(numbers.rounding(gap)))
            out.append(f"<h3>{gap} gap: {number(size, floor=budget)}</h3>")
            for rung, penalty in numbers.of_gap(gap):
                kind = "paper" if rung.id.startswith("P") else "rung"
                words = RUNG_WORDS.get(rung.name, escaped(rung.name))
                tag = f"<span class=tag>[{escaped(rung.id)}, {INFORMATION[rung.information]}]</span>"
                out.append(axis.row(f"{words} {tag}", float(pick(penalty)), size if size > budget else 0.0, kind))
        return "".join(out)

    parts = [
        f"<details open id=rungs-all><summary>The whole stage: sums over its updates</summary>{rows(np.sum)}</details>"
    ]
    for i in numbers.picked:
        name = f"Update {i + 1}, {_agent(numbers.order[i])}"
        parts.append(f"<details id=rungs-{i}><summary>{name}</summary>{rows(lambda x, i=i: x[i])}</details>")
    return _joined(
        "<h2>Every bound beside the gap</h2><p>A <i>rung</i> is an upper limit on the size of a gap that holds for every team. "
        "The closer to the gap, the more of a promise can be certified. Not everybody can work out every rung: some need exact "
        "tables (a maximum over all states), others rollouts and the range of the return, which is what a trainer has.</p>",
        f"<p class='note key' id=axis><i class=gap></i>the gap <i class=rung></i>a rung <i class=paper></i>the paper's. "
        f" One logarithmic axis for the whole page, from {number(axis.low)} to "
        f"{number(axis.high)}; what is smaller stands at the left end, what is infinite at the right.</p>",
        *parts, _left_out(n, "updates"),
    )  # fmt: skip


def _certificates(numbers: Numbers) -> str:
    true, n = numbers.improvement, len(numbers.order)
    whole = []
    for name, (whose, words, id) in STAGE_CERTIFICATES.items():
        if id == "S10" and not numbers.report.episodic:
            continue
        value = numbers.total(name)
        share = number(100 * value / true) if true > numbers.unsure and math.isfinite(value) else "–"
        needs = "rollouts" if whose in ("fresh", "first") else "exact tables"
        whole.append([f"{words} [{id}]", needs, number(value, sign=True, floor=numbers.unsure_of(name)), share])
    whole.append(["what the stage really brings", "exact tables", number(true, sign=True, floor=numbers.unsure), "–"])
    values = {name: numbers.certificates[name] for name in UPDATE_CERTIFICATES}
    rows = [
        [str(i + 1), _agent(numbers.order[i]),
         *(number(x[i], sign=True, floor=numbers.rounding_of_promise("fresh")[i]) for x in values.values()),
         number(numbers.brings[i], sign=True, floor=numbers.rounding_of_brings[i])]
        for i in numbers.picked
    ]  # fmt: skip
    return _joined(
        "<h2>Certificates</h2><p>A <i>certificate</i> is a promise minus a rung: the improvement is at least that. Below zero it "
        "says nothing, except how much could be lost at most. Here the rollouts are exact expectations; what is estimated from "
        "some of them has a sampling error on top [S8].</p>",
        table(["for the whole stage", "needs", "at least", "% of the truth"], whole, "certificates"),
        "<h3>Update by update, with fresh rollouts</h3>",
        table(["update", "who", *UPDATE_CERTIFICATES.values(), "brings"], rows, "update-certificates"),
        _left_out(n, "updates"),
    )  # fmt: skip


def _spoilt(whose: str, agent: int, drift: float, promise: float) -> str:
    """What `whose` updates did to an agent's contexts: `drift` is what fresh rollouts promise more than old ones."""
    verb, verdict = ("spoils", "better") if drift < 0 else ("improves", "worse")
    size = f"{number(abs(drift))}{_share(abs(drift), abs(promise))}"
    return (
        f"<li>{whose} {verb} agent {agent}'s contexts: on rollouts from before, agent {agent}'s update looks {size} {verdict} "
        "than it is.</li>"
    )


def _interaction(numbers: Numbers) -> str:
    order, n = numbers.order, len(numbers.order)
    promises = np.asarray(numbers.report.surrogate_intermediate)
    small = SMALL * abs(promises)
    if numbers.matrix is None:
        drift, unsure = np.asarray(numbers.report.seq_minus_stale), numbers.report.rounding.drift
        late = [i for i in np.argsort(-abs(drift)).tolist() if abs(drift[i]) > max(small[i], unsure[i])]
        lines = [
            _spoilt("What all earlier updates do together", order[i], float(drift[i]), float(promises[i]))
            for i in late[:SENTENCES]
        ]
        rest, who = len(late) - len(lines), "All earlier updates together do not change"
        of = "updates with other contexts matter less" if rest > 1 else "update with other contexts matters less"
    else:
        drift, unsure = np.triu(numbers.matrix, 1), numbers.matrix_rounding
        large = np.argwhere(abs(drift) > np.maximum(small, unsure))
        pairs = large[np.argsort(-abs(drift[*large.T]), kind="stable")][:SENTENCES].tolist()
        lines = [
            _spoilt(f"Agent {order[k]}'s update", order[i], float(drift[k, i]), float(promises[i])) for k, i in pairs
        ]
        rest, who = n * (n - 1) // 2 - len(lines), "No update changes"
        pair = "of an earlier and a later update"
        of = f"pairs {pair} matter less" if rest > 1 else f"pair {pair} matters less"
    if lines and rest:
        lines.append(f"<li>The other {f'{rest} ' if rest > 1 else ''}{of}.</li>")
    seen = "" if (abs(drift) <= small).all() else UNSEEN
    none = f"<p>{who} what a later one promises by more than {number(100 * SMALL)} % of its promise{seen}.</p>"
    return _joined(
        "<h2>Who spoils whose contexts</h2><p>An update changes which contexts the other agents meet, so that rollouts collected "
        "before it tell a later agent less. In brackets: the share of the later agent's own promise.</p>",
        f"<ul id=pairs>{''.join(lines)}</ul>" if lines else none,
        _matrix(numbers),
    )


def _matrix(numbers: Numbers) -> str:
    n, states = len(numbers.order), numbers.stage.team.initial.shape[0]
    if numbers.matrix is None:
        return f"<p class=note>Which of {n} agents it was takes too long to work out with {states} states.</p>"
    if n > MATRIX:
        return f"<p class=note>The table of all {n} agents would be too wide ({MATRIX} at most).</p>"
    names = [_agent(agent) for agent in numbers.order]
    cells = [
        [number(x, sign=True, floor=budget) for x, budget in zip(row, budgets, strict=True)]
        for row, budgets in zip(numbers.matrix, numbers.matrix_rounding, strict=True)
    ]
    rows = [[name, *row] for name, row in zip(names, cells, strict=True)]
    return _joined(
        table(["this update … on the promise of", *names], rows, "matrix"),
        "<p class=note>In units of the return, in the order of the stage: only what stands right of the diagonal happens in this "
        "order, what stands left of it would in the reverse one. The diagonal is, for small steps, the fresh gap. Minus: old "
        "rollouts promise too much. [R5]</p>",
    )


def _paper(numbers: Numbers) -> str:
    report, gaps = numbers.report, numbers.gaps()
    penalties = {rung.name: penalty for rung, penalty in numbers.rungs}
    true, lines = number(numbers.improvement, sign=True, floor=numbers.unsure), []
    for gap, name, bound, id in (
        ("fresh", "penalty_paper", "stage_bound_paper", "P3.6"),
        ("stale", "penalty_stale_paper", "stage_bound_stale_paper", "P3.7"),
    ):
        if name not in penalties:
            continue
        penalty, size = float(penalties[name].sum()), float(abs(gaps[gap]).sum())
        unsure = float(numbers.rounding(gap).sum())
        times = f", {number(penalty / size)} times as large" if size > unsure and math.isfinite(penalty) else ""
        lines.append(
            f"<li>With {gap} rollouts ({GAPS[gap][0]}): gaps of at most {number(penalty)} in all, where they are "
            f"{number(size, floor=unsure)}{times}; an improvement of at least {number(numbers.total(bound), sign=True)}, where "
            f"it is {true}. [{id}]</li>"
        )
    discounted = not report.episodic and float(report.discount) >= 0.5
    fate = (" With a discount of 1/2 or more the first of these is never above zero, whatever the update [S5]." if discounted
            else "")  # fmt: skip
    return _joined(
        "<h2>What the paper would have said</h2><p>TeamTR bounds every gap by the largest advantage anywhere and the root of the "
        f"KL.{fate} The paper itself calls its certificate a practical proxy: a number to compare updates by, not to bank "
        "on.</p>",
        f"<ul id=paper>{''.join(lines)}</ul>",
    )  # fmt: skip


def stage_page(stage: Stage, report: StageReport, name: str, rungs: Sequence[Rung] = DEFAULT) -> str:
    """The page of one stage as text; `name` is what its heading shows.

    Args:
      report: `evaluate_stage(stage)`.

    Raises:
      ArithmeticError: if the interaction matrix could not be computed.
      InputError: if the report holds a number that is none.
    """
    numbers = _numbers(stage, report, rungs)
    team, order, n = stage.team, numbers.order, len(numbers.order)
    discount = float(report.discount)  # in full: to three digits 0.9999 would be 1
    discount = f'<data value="{discount!r}">{discount:.12g}</data>'
    form = "an episodic team" if report.episodic else f"a discounted team (discount {discount})"
    steps = f", {team.dynamics.horizon} steps" if team.dynamics.horizon is not None else ""
    shown = ", ".join(map(str, order[:UPDATES])) + (", …" if len(order) > UPDATES else "")
    states, actions = team.reward.shape
    sections = (_in_short, _who_acts, _gaps, _ladder, _certificates, _interaction, _paper)
    return page(name, _joined(
        f"<h1>{escaped(name)}</h1><p>One stage of {form}: {n} agent{'s' * (n != 1)}, {states} states, {actions} actions{steps}. "
        f"The agents are updated one after the other, in the order {shown}.</p>",
        *(section(numbers) for section in sections),
        "<p class=note>Every number was computed from the tables of the file, in float64, none was sampled. Written by "
        "<code>teamtr stage FILE --html PAGE</code>; what the ids in brackets state is in the documentation of teamtr_jax.</p>",
    ), STYLE)  # fmt: skip


def write_stage_page(stage: Stage, report: StageReport, path: str | Path, name: str) -> None:
    """Write the page of one stage, whole or not at all.

    Raises:
      ArithmeticError, InputError: as `stage_page`, or the place cannot be written.
    """
    text = stage_page(stage, report, name)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
