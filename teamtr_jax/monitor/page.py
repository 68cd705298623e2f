"""The report as one HTML page: verdicts, figures as inline SVG, remarks, tables. No scripts, nothing from the net."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from teamtr_jax.files import replacing
from teamtr_jax.html import page, table
from teamtr_jax.monitor.columns import GROUPS, HEAD, RUNGS, Column
from teamtr_jax.monitor.figures import FIGURES, MATRIX, colour_of, is_long, svg, whom
from teamtr_jax.monitor.interaction import pool
from teamtr_jax.monitor.remarks import remarks
from teamtr_jax.monitor.report import MonitorReport
from teamtr_jax.monitor.terminal import shortened, tables
from teamtr_jax.monitor.verdict import Verdict, verdicts
from teamtr_jax.validation import shown

__all__ = ["write_page"]

STYLE = """body{max-width:76em}h3{margin:0}p,li{max-width:none}
.cards,.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22em),1fr));gap:1em}
.card{border:1px solid #ddd;border-left:.4em solid;border-radius:.3em;padding:.7em 1em}.card *{color:#222}
dl{margin:.4em 0}dt{margin-top:.5em}dd{margin:0;color:#444;font-size:.92em}.card dd{color:#444}
dt b{border-radius:.3em;padding:0 .35em}b.good{background:#d9f0dd}b.bad{background:#fbdcd7}b.open{background:#ececec}
.key span{white-space:nowrap;margin-right:1em}
.key i{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.3em}
figure{margin:0;min-width:0}figure svg{width:100%;height:auto;max-width:30em}
.long{grid-column:1/-1}.long svg{min-width:44em;max-width:60em}figcaption,summary{color:#444;font-size:.92em}
td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}td:first-child,th:first-child{position:sticky;left:0;background:#fff}
details{margin:.3em 0}code{font-size:.95em}"""
_LIVE = ", and still written: the last update may lack rows"
LIMIT = 200
"""Rows of a table that are shown on the page; figures show every update."""
TERMS = {
    "M[k,i]": "by how much update k, alone, moves the surrogate of update i (R5)",
    "L^seq − L^stale": "by how much all earlier updates together moved it",
}
"""Of the tables of the interaction."""


VERDICT_TERMS = (
    "J: mean reward of the team. k1: an estimate of KL(current‖new) of a message, in nats, which trainers monitor; δ: its "
    "declared threshold. L: what an update promises. ϱ·K: what it may cost, width of the rewards × KL(current‖new) of a "
    "rollout; so L − ϱ·K is a lower bound of what it brings (S7). Contexts: what others have written before an agent speaks. "
    "Total variation: the share of rollouts that have to be others."
)


def _prose(text: str) -> str:
    """Escaped; what stands between backticks is code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _card(verdict: Verdict) -> str:
    answers = "".join(
        f"<dt>{escape(x.question)} <b class={x.tone}>{escape(x.answer)}</b></dt><dd>{escape(x.because)}</dd>"
        for x in verdict.answers
    )
    colour = colour_of(verdict.members)
    return (
        f'<section class=card style="border-left-color:{colour}"><h3>{verdict.whose}</h3><dl>{answers}</dl></section>'
    )


def _verdicts(report: MonitorReport) -> str:
    cards = "".join(map(_card, verdicts(report))) or "<p>No update of any agent.</p>"
    return (
        "<h2>Verdict</h2><p class=note>Of each agent's last update, if nothing else is said; update 3.1 is update 1 of stage 3. "
        f"<a href=#remarks>{len(remarks(report))} remarks</a> on this log.</p><div class=cards>{cards}</div>"
        f"<p class=note>{VERDICT_TERMS}</p>"
    )


def _figures(report: MonitorReport) -> str:
    kinds = sorted({tuple(r["agents"]) for r in report.records})
    key = "".join(
        f'<span><i style="background:{colour_of(agents)}"></i>{escape(whom(list(agents)))}</span>' for agents in kinds
    )
    figures = [
        *FIGURES,
        *([MATRIX] if pool(report.interactions, report.settings.alpha, report.settings.sharers).agents else []),
    ]
    drawn = "".join(
        f"<figure{' class=long' * is_long(draw, report)}><div class=wide>{svg(draw, report)}</div>"
        f"<figcaption>{_prose(caption)}</figcaption></figure>"
        for draw, caption in figures
    )
    return f"<h2>Figures</h2><p class=key>Whom an update is of: {key}</p><div class=figures>{drawn}</div>"


def _terms(group: str) -> str:
    """What the headings of a table mean, and who can know it."""
    found = [(" / ".join(x.cells()), x) for x in (*HEAD, *GROUPS.get(group, ())) if x.cells()]
    lines = [(heading, _meaning(column)) for heading, column in found]
    if group == "Certificates":
        lines += [(f"certificate {id}", f"{meaning}. {level}") for id, (level, meaning) in RUNGS.items()]
    elif group == "Importance weights of whole rollouts":
        lines += [(x.key, _meaning(x)) for x in GROUPS[group] if x.key.startswith("weights")]
    elif group.startswith("Interaction"):
        lines = list(TERMS.items())
    terms = "".join(f"<dt>{_prose(a)}</dt><dd>{_prose(b)}</dd>" for a, b in lines)
    return f"<details><summary>What the headings mean</summary><dl>{terms}</dl></details>"


def _meaning(column: Column) -> str:
    return f"{column.meaning}. {column.information}" if column.information else column.meaning


def _tables(report: MonitorReport) -> str:
    parts = []
    for title, heads, rows, caption in tables(report):
        rows, left = shortened(rows, LIMIT)
        parts.append(
            f"<h2>{escape(title)}</h2>{table([*map(escape, heads)], [[*map(escape, row)] for row in rows])}"
            f"<p class=note>{escape(caption + left)}</p>{_terms(title.split(' (')[0])}"
        )
    return "\n".join(parts)


def write_page(report: MonitorReport, path: Path, name: str, refresh: float | None = None) -> Path:
    """Write the page, whole or not at all.

    Args:
      refresh: seconds after which a browser loads it again: the log is still written.

    Raises:
      InputError: if matplotlib is not installed, or the place cannot be written.
    """
    name = shown(name)
    body = [
        f"<h1>{escape(name)}</h1><p>{report.rows} tokens, {len(report.records)} updates{_LIVE * (refresh is not None)}.</p>",
        _verdicts(report),
        _figures(report),
        f"<h2 id=remarks>Before using a number</h2><ul>{''.join(f'<li>{_prose(x)}</li>' for x in remarks(report))}</ul>",
        _tables(report),
    ]
    with replacing(path) as temporary:
        temporary.write_text(page(name, "\n".join(body), STYLE, refresh), encoding="utf-8")
    return path
