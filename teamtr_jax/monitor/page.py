"""The report as one HTML page: tables, and figures as inline SVG. No scripts, nothing from the net."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from teamtr_jax.files import replacing
from teamtr_jax.monitor.interaction import pool
from teamtr_jax.monitor.log import optional_import
from teamtr_jax.monitor.report import INFORMATION, Report
from teamtr_jax.monitor.terminal import remarks, shortened, tables
from teamtr_jax.validation import shown

__all__ = ["write_page"]

STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:76em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.4em 0 .2em}td,th{padding:.15em .6em;border-bottom:1px solid #ddd;text-align:right}
td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}.wide{overflow-x:auto}caption,p.note{color:#555;font-size:.9em}
figure{margin:1.5em 0}svg{max-width:100%;height:auto}h2{margin:1.6em 0 .3em;font-size:1.15em}"""
COLOURS = ("#1b7837", "#b2182b", "#2166ac")
LARGEST = 1e30
"""What is larger, or infinite, is not drawn."""
LIMIT = 200
"""Rows of a table that are shown on the page; figures show every update."""


def _values(records: list[dict[str, Any]], *path: str) -> np.ndarray:
    """By update, NaN where there is nothing to draw."""

    def pick(record: dict[str, Any]) -> float:
        value: Any = record
        for key in path:
            value = None if value is None else value[key]
        return np.nan if value is None else float(value)

    out = np.array([pick(r) for r in records])
    return np.where(abs(out) <= LARGEST, out, np.nan)


def _band(ax: Any, x: np.ndarray, records: list[dict[str, Any]], key: str, colour: str, label: str) -> None:
    value, low, high = (_values(records, key, end) for end in ("value", "low", "high"))
    some = np.isfinite(value)
    wide = np.isfinite(low) & np.isfinite(high)
    ax.vlines(x[wide], low[wide], high[wide], color=colour, linewidth=1)
    ax.plot(x[some], value[some], "o", color=colour, markersize=3.5, label=label)


def _kl(ax: Any, report: Report) -> None:
    x = np.arange(len(report.records))
    _band(ax, x - 0.1, report.records, "kl_k1", COLOURS[0], "k1")
    _band(ax, x + 0.1, report.records, "kl_k3", COLOURS[2], "k3")
    ax.axhline(report.settings.delta, color=COLOURS[1], linewidth=1, label="δ")
    ax.set(title="Token KL(current‖new) per message", xlabel="update", ylabel="nats")
    ax.legend(frameon=False)


def _weights(ax: Any, report: Report) -> None:
    x = np.arange(len(report.records))
    for key, colour, label in (
        ("weights_update", COLOURS[0], "new/current"),
        ("weights_behaviour", COLOURS[1], "current/behaviour"),
    ):
        for end, mark in (("p95", "_"), ("p99", "x"), ("largest", "^")):
            y = _values(report.records, key, end)
            if np.isfinite(y).any():
                ax.plot(x, y, mark, color=colour, markersize=5, label=f"{label}, {end}")
    ax.axhline(10, color="0.6", linewidth=1)
    ax.set(title="Tails of the importance weights", xlabel="update", yscale="log")
    ax.legend(frameon=False, fontsize=8)


def _certificates(ax: Any, report: Report) -> None:
    records = report.records
    x = np.arange(len(records))
    _band(ax, x - 0.15, records, "surrogate", COLOURS[0], "surrogate L")
    _band(ax, x, records, "improvement_next", "0.5", "next rollouts say")
    lower = _values(records, "certificate", "lower")
    ax.plot(x + 0.15, lower, "v", color=COLOURS[1], markersize=4, label="lower limit")
    finite = _values(records, "certificate_finite_sample", "lower")
    ax.plot(
        x + 0.25,
        finite,
        "v",
        color=COLOURS[2],
        markersize=4,
        label="S8 lower limit",
    )
    ax.axhline(0, color="0.6", linewidth=1)
    ax.set(title="Certificate and surrogate", xlabel="update", ylabel="reward")
    ax.legend(frameon=False, fontsize=8)


def _shift(ax: Any, report: Report) -> None:
    records = report.records
    shift, upper = (_values(records, key) for key in ("shift", "shift_upper"))
    x = np.arange(len(records))
    skip = np.array([bool(r["skippable"]) for r in records])
    ax.vlines(x, shift, upper, color="0.6", linewidth=1)
    for which, colour, label in ((skip, COLOURS[0], "could be skipped"), (~skip, COLOURS[1], "needed, or none")):
        ax.plot(x[which], shift[which], "o", color=colour, markersize=4, label=label)
    ax.axhline(report.settings.tolerance, color=COLOURS[1], linewidth=1, label="tolerance")
    ax.set(title="Shift since the rollouts in use", xlabel="update", ylabel="total variation, at most")
    ax.legend(frameon=False, fontsize=8)


def _matrix(ax: Any, report: Report) -> None:
    pooled = pool(report.interactions, report.settings.alpha)
    agents = pooled.agents
    means = np.array([[np.nan if x is None else x.value for x in row] for row in pooled.entries])
    seen = np.isfinite(means)
    size = max(float(np.nanmax(abs(means))) if seen.any() else 0.0, 1e-300)
    image = ax.imshow(means, cmap="RdBu", vmin=-size, vmax=size)
    for k, i in np.argwhere(seen):
        ax.text(i, k, f"{means[k, i]:.2g}", ha="center", va="center", fontsize=8,
                color="white" if abs(means[k, i]) > 0.6 * size else "black")  # fmt: skip
    ax.set(title="Interaction M[k,i], mean over stages", xlabel="i: whose surrogate", ylabel="k: whose update",
           xticks=range(len(agents)), xticklabels=agents, yticks=range(len(agents)), yticklabels=agents)  # fmt: skip
    ax.figure.colorbar(image, ax=ax)


def _svg(draw: Callable[[Any, Report], None], report: Report, size: tuple[float, float]) -> str:
    matplotlib, figures = optional_import("matplotlib"), optional_import("matplotlib.figure")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": draw.__name__}):
        figure = figures.Figure(figsize=size, layout="constrained")
        ax = figure.subplots()
        ax.spines[["top", "right"]].set_visible(False)
        draw(ax, report)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def write_page(report: Report, path: Path, name: str) -> Path:
    """Write the page, whole or not at all.

    Raises:
      InputError: if matplotlib is not installed, or the place cannot be written.
    """
    name = shown(name)
    figures: list[tuple[Callable[[Any, Report], None], tuple[float, float]]] = [
        (_kl, (9.0, 3.2)), (_weights, (9.0, 3.2)), (_certificates, (9.0, 3.2)), (_shift, (9.0, 3.2)),
    ]  # fmt: skip
    if pool(report.interactions, report.settings.alpha).agents:
        figures.append((_matrix, (5.0, 4.2)))
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(name)}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(name)}</h1><p>{report.rows} tokens, {len(report.records)} updates.</p><ul>",
        *(f"<li>{html.escape(line)}</li>" for line in remarks(report)),
        "</ul>",
        *(f"<figure>{_svg(draw, report, size)}</figure>" for draw, size in figures),
    ]
    for title, heads, rows, caption in tables(report):
        rows, left = shortened(rows, LIMIT)
        cells = "".join(f"<tr>{''.join(f'<td>{html.escape(x)}</td>' for x in row)}</tr>" for row in rows)
        parts.append(
            f"<h2>{html.escape(title)}</h2><div class=wide><table><tr>"
            f"{''.join(f'<th>{html.escape(x)}</th>' for x in heads)}</tr>{cells}</table></div>"
            f"<p class=note>{html.escape(caption + left)}</p>"
        )
    levels = "".join(
        f"<li>{html.escape(key)}: {html.escape(a)}. {html.escape(b)}</li>" for key, (a, b) in INFORMATION.items()
    )
    parts.append(f"<h2>Information levels</h2><ul>{levels}</ul></html>")
    with replacing(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")
    return path
