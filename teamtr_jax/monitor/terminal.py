"""The report on the terminal: a verdict for each agent, tables, remarks."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from teamtr_jax.intervals import Interval
from teamtr_jax.monitor.columns import GROUPS, HEAD, INFORMATION, WEIGHTS, agents_text, interval_text, name, number, who
from teamtr_jax.monitor.interaction import Interaction, pool
from teamtr_jax.monitor.limits import label
from teamtr_jax.monitor.remarks import remarks
from teamtr_jax.monitor.report import MonitorReport
from teamtr_jax.monitor.verdict import verdicts
from teamtr_jax.sharing import members_of
from teamtr_jax.validation import shown

__all__ = ["show", "tables", "shortened"]

WIDTH = 160
"""Columns, where the output is not a terminal."""
ROWS = 60
"""Rows of a table that are shown."""
MATRICES = 3
"""Stages whose interaction matrix is shown, the last ones."""

Grid = tuple[str, list[str], list[list[str]], str]
"""Title, headings, rows, caption."""

SPOILED = "negative: k spoiled the context of i"


def _entry(x: Interval | None) -> str:
    return interval_text(None if x is None else x._asdict())


def _grid(report: MonitorReport, group: str, suffix: str, caption: str) -> Grid:
    """The columns of a group that have a heading, a row per update."""
    cells = {h: cell for column in (*HEAD, *GROUPS[group]) for h, cell in column.cells().items()}
    heads = [h.format_map(vars(report.settings)) for h in cells]
    return f"{group} ({suffix})", heads, [[cell(r) for cell in cells.values()] for r in report.records], caption


def _weights(report: MonitorReport) -> Grid:
    """A row per update and kind of weight."""
    rows = [
        [name(r), who(r["agents"]), kind, str(w["n"]), *(number(w[x]) for x in WEIGHTS.values() if x != "n")]
        for r in report.records
        for kind, key in (("new/current", "weights_update"), ("current/behaviour", "weights_behaviour"))
        if (w := r[key]) is not None
    ]
    return "Importance weights of whole rollouts (estimable)", ["update", "agent", "ratio", *WEIGHTS], rows, ""


def _pooled(report: MonitorReport, level: str) -> Grid:
    sharers = report.settings.sharers
    found = pool(report.interactions, report.settings.alpha, sharers)
    whose = [agents_text(members_of(sharers, k)) for k in found.agents]
    rows = [[f"after {k}", *map(_entry, row)] for k, row in zip(whose, found.entries, strict=True)]
    title = f"Interaction M[k,i], mean over {found.stages} stages (R5, estimable)"
    return title, ["", *whose], rows, f"{level}; {SPOILED}"


def _matrix(matrix: Interaction, level: str) -> Grid:
    rows = [
        [
            f"after update {k} of agent {who(agents)}",
            *(_entry(x) + " *" * mark for x, mark in zip(row, clear, strict=True)),
        ]
        for k, agents, row, clear in zip(matrix.updates, matrix.agents, matrix.entries, matrix.clear, strict=True)
    ]
    rows.append(["L^seq − L^stale", *map(_entry, matrix.drift)])
    heads = [f"{i} (agent {who(agents)})" for i, agents in zip(matrix.updates, matrix.agents, strict=True)]
    title = f"Interaction M[k,i], stage {matrix.stage} (R5, estimable): by how much update k moves the surrogate of update i"
    return title, ["", *heads], rows, f"{level}; * excludes 0 at α over the number of entries; {SPOILED}"


def tables(report: MonitorReport) -> list[Grid]:
    """What is printed, as text: the same tables on the terminal and on the page."""
    settings = report.settings
    level = f"{100 * (1 - settings.alpha):g} % intervals, clusters are prompts"
    several = [_pooled(report, level)] if len(report.interactions) > 1 else []
    return [
        _grid(report, "Rollouts", "estimable", level),
        _grid(
            report, "Token-KL monitor", "estimable",
            f"KL(current‖new), nats; {level}; flips: share of {settings.draws} sub-samples of 25 or 50 % of the tokens that "
            "decide otherwise",
        ),
        _weights(report),
        _grid(
            report, "Certificates", "estimable; ranges declared: prior",
            f"lower limits of level {1 - settings.alpha:g}: S6, best of the rungs, each at α over their number, asymptotic; S8, "
            f"no asymptotics; {label(settings, [])}",
        ),
        _grid(
            report, "Resampling", "estimable",
            "total variation between the team that wrote the rollouts and the team now; booked: √(½ΣK) of fresh K",
        ),
        _grid(
            report, "Trainer and sampler", "estimable; ranges declared: prior",
            "nats a rollout, all agents, under the policy that wrote the rollouts (S12); deployed: the sampler with the weights "
            f"after the update; {label(settings, [])}",
        ),
        *several,
        *(_matrix(matrix, level) for matrix in report.interactions[-MATRICES:]),
    ]  # fmt: skip


def shortened(rows: list[list[str]], limit: int) -> tuple[list[list[str]], str]:
    """The last rows, and what to say of the others."""
    if len(rows) <= limit:
        return rows, ""
    return rows[-limit:], f" The last {limit} of {len(rows)} rows; --json has all."


def show(report: MonitorReport, name: str) -> None:
    """Print the report."""
    console = Console() if Console().is_terminal else Console(width=WIDTH)

    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    line(f"{shown(name)}: {report.rows} tokens, {len(report.records)} updates")
    for verdict in verdicts(report):
        line(f"{verdict.whose}: {verdict.headline}")
        for answer in verdict.answers:
            line(f"  {answer}")
    for title, heads, rows, caption in tables(report):
        rows, left = shortened(rows, ROWS)
        table = Table(title=escape(title), caption=escape(caption + left), title_justify="left", caption_justify="left")
        for i, head in enumerate(heads):
            table.add_column(escape(head), justify="left" if i < 2 else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    for remark in remarks(report):
        line(f"• {remark}")
    line("Information levels:")
    for key, (level, meaning) in INFORMATION.items():
        line(f"  {key}: {level}. {meaning}")
