"""Figures of the page: every update a mark, its colour the agent's, the same in each of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from teamtr_jax.monitor.columns import Record, agents_text, name
from teamtr_jax.monitor.interaction import pool
from teamtr_jax.monitor.log import optional_import
from teamtr_jax.monitor.report import MonitorReport
from teamtr_jax.sharing import members_of

__all__ = ["FIGURES", "MATRIX", "colour_of", "is_long", "svg", "whom"]

Draw = Callable[[Any, MonitorReport], None]

AGENTS = ("#0072b2", "#d55e00", "#009e73", "#b0307e", "#e69f00", "#56b4e9", "#6a3d9a", "#7a5230")
"""Of agents, by their number; they begin again after eight."""
SEVERAL, NOBODY, LEVEL = "#222222", "#999999", "#b2182b"
LARGEST = 1e30
"""What is larger, or infinite, is not drawn."""
TICKS = 10
"""Updates that are named, at most."""
SIZE = (4.0, 3.4)
"""Inches: as wide as a phone, so that letters keep their size there."""
LONG, LONG_SIZE = 40, (9.0, 3.6)
"""With more updates than this a figure is wider; a phone scrolls it."""


def colour_of(agents: Sequence[int]) -> str:
    """Of an update of these agents."""
    return NOBODY if not agents else SEVERAL if len(agents) > 1 else AGENTS[agents[0] % len(AGENTS)]


def whom(agents: list[int]) -> str:
    """The agents of an update, as the key of the colours has them."""
    return agents_text(agents) if agents else "nobody"


def _values(records: list[Record], *path: str) -> np.ndarray:
    """By update, NaN where there is nothing to draw."""

    def pick(record: Record) -> float:
        value: Any = record
        for key in path:
            value = None if value is None else value[key]
        return np.nan if value is None else float(value)

    out = np.array([pick(r) for r in records])
    return np.where(abs(out) <= LARGEST, out, np.nan)


def _by_agents(
    records: list[Record], pick: Callable[[Record], bool] = lambda r: True
) -> list[tuple[list[int], np.ndarray]]:
    """Whom the updates are of, and which updates these are."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i, r in enumerate(records):
        if pick(r):
            found.setdefault(tuple(r["agents"]), []).append(i)
    return [(list(agents), np.array(at)) for agents, at in sorted(found.items())]


def _marks(ax: Any, records: list[Record], y: np.ndarray, mark: str, label: str, at: float = 0.0, **style: Any) -> None:
    """`y` [updates] as marks, `at` beside the update."""
    pick = style.pop("pick", lambda r: True)
    for agents, i in _by_agents(records, pick):
        i = i[np.isfinite(y[i])]
        colour = colour_of(agents)
        face = {"markerfacecolor": "white"} if style.get("hollow") else {}
        ax.plot(
            i + at, y[i], mark, color=colour, markersize=style.get("size", 4), label=f"{label}, {whom(agents)}", **face
        )


def _spans(ax: Any, records: list[Record], low: np.ndarray, high: np.ndarray, at: float = 0.0) -> None:
    """Vertical lines, where both ends are finite."""
    for agents, i in _by_agents(records):
        i = i[np.isfinite(low[i]) & np.isfinite(high[i])]
        ax.vlines(i + at, low[i], high[i], color=colour_of(agents), linewidth=1)


def _band(ax: Any, records: list[Record], key: str, mark: str, label: str, at: float = 0.0) -> None:
    """An estimate with its interval."""
    value, low, high = (_values(records, key, end) for end in ("value", "low", "high"))
    _spans(ax, records, low, high, at)
    _marks(ax, records, value, mark, label, at)


def _level(ax: Any, y: float, label: str = "") -> None:
    ax.axhline(y, color=LEVEL if label else "0.6", linewidth=1, label=label or None)


def _finish(ax: Any, report: MonitorReport, marks: Sequence[tuple[str, str, bool]], **axes: Any) -> None:
    """Names of updates as in the tables; a legend of the marks, whose colours the page explains; the title."""
    records = report.records
    ticks = TICKS * (2 if len(records) > LONG else 1)
    places = range(0, len(records), -(-len(records) // ticks))
    line = optional_import("matplotlib.lines").Line2D
    handles = [
        line([], [], color="0.3", linestyle="", marker=mark, markerfacecolor="white" if hollow else "0.3", label=label)
        for mark, label, hollow in marks
    ]
    handles += [x for x in ax.lines if x.get_color() == LEVEL]
    ax.set(
        xlabel="update (stage.update)", xticks=places, xticklabels=[name(records[i]) for i in places],
        xlim=(-0.6, len(records) - 0.4), **axes,
    )  # fmt: skip
    if len(handles) > 1:
        ax.legend(
            handles=handles,
            frameon=False,
            fontsize=9,
            ncols=2,
            columnspacing=1.0,
            handletextpad=0.3,
            loc="upper left",
            bbox_to_anchor=(-0.2, -0.2),
        )


def _reward(ax: Any, report: MonitorReport) -> None:
    _band(ax, report.records, "reward", "o", "reward")
    _finish(ax, report, [("o", "reward", False)], title="Reward of the rollouts", ylabel="mean reward")


def _kl(ax: Any, report: MonitorReport) -> None:
    _band(ax, report.records, "kl_k1", "o", "k1 per message", -0.1)
    _band(ax, report.records, "kl_k3", "s", "k3 per message", 0.1)
    _level(ax, report.settings.delta, f"δ = {report.settings.delta:g}")
    marks = [("o", "k1 per message", False), ("s", "k3 per message", False)]
    if any(r["floor"] is not None for r in report.records):
        _band(ax, report.records, "floor", "_", "floor", 0.2)
        _band(ax, report.records, "kl_k3_corrected", "D", "k3 − floor", 0.3)
        marks += [("_", "floor", False), ("D", "k3 − floor", False)]
    _finish(ax, report, marks, title="Token KL(current‖new) per message", ylabel="nats")


def _weights(ax: Any, report: MonitorReport) -> None:
    ends = (("p95", "_", "P95"), ("p99", "x", "P99"), ("largest", "^", "max"))
    marks = []
    for key, kind, at, hollow in (
        ("weights_update", "new/current", -0.1, False),
        ("weights_behaviour", "current/behaviour", 0.1, True),
    ):
        for end, mark, heading in ends:
            y = _values(report.records, key, end)
            if np.isfinite(y).any():
                _marks(ax, report.records, y, mark, f"{kind}, {heading}", at, size=5, hollow=hollow)
                marks.append((mark, f"{kind}, {heading}", hollow))
    _level(ax, 10)
    _finish(ax, report, marks, title="Tails of the importance weights", ylabel="weight of a rollout", yscale="log")


def _certificates(ax: Any, report: MonitorReport) -> None:
    records = report.records
    _band(ax, records, "surrogate", "o", "surrogate L", -0.2)
    _band(ax, records, "improvement_next", "D", "next rollouts say", -0.05)
    marks = [("o", "surrogate L", False), ("D", "next rollouts say", False)]
    for key, mark, label, at in (
        ("certificate", "v", "lower", 0.1),
        ("certificate_finite_sample", "1", "S8 lower", 0.2),
    ):
        _marks(ax, records, _values(records, key, "lower"), mark, label, at, size=5)
        marks.append((mark, label, False))
    _level(ax, 0)
    _finish(ax, report, marks, title="Surrogate and certificate", ylabel="reward")


def _shift(ax: Any, report: MonitorReport) -> None:
    records = report.records
    shift, upper = (_values(records, key) for key in ("shift", "shift_upper"))
    _spans(ax, records, shift, upper)
    marks = []
    for skip, label in ((True, "could be skipped"), (False, "needed, or none")):
        _marks(ax, records, shift, "o", label, pick=lambda r, skip=skip: bool(r["skippable"]) == skip, hollow=not skip)
        marks.append(("o", label, not skip))
    _level(ax, report.settings.tolerance, f"tolerance {report.settings.tolerance:g}")
    _finish(ax, report, marks, title="Shift since the rollouts in use", ylabel="total variation, at most")


def _matrix(ax: Any, report: MonitorReport) -> None:
    pooled = pool(report.interactions, report.settings.alpha, report.settings.sharers)
    agents = [members_of(report.settings.sharers, k) for k in pooled.agents]
    means = np.array([[np.nan if x is None else x.value for x in row] for row in pooled.entries])
    seen = np.isfinite(means)
    size = max(float(np.nanmax(abs(means))) if seen.any() else 0.0, 1e-300)
    image = ax.imshow(means, cmap="RdBu", vmin=-size, vmax=size)
    for k, i in np.argwhere(seen):
        ax.text(i, k, f"{means[k, i]:.2g}", ha="center", va="center", fontsize=9,
                color="white" if abs(means[k, i]) > 0.6 * size else "black")  # fmt: skip
    places = range(len(agents))
    ax.set(title="Interaction M[k,i], mean over stages", xlabel="i: whose surrogate", ylabel="k: whose update",
           xticks=places, xticklabels=[whom(i) for i in agents],
           yticks=places, yticklabels=[f"after {whom(k)}" for k in agents])  # fmt: skip
    for axis in (ax.get_xticklabels(), ax.get_yticklabels()):
        for members, label in zip(agents, axis, strict=True):
            label.set_color(colour_of(members))
    ax.figure.colorbar(image, ax=ax, location="bottom", shrink=0.8, ticks=(-size, 0, size), format="%.2g")


FIGURES: Sequence[tuple[Draw, str]] = (
    (
        _reward,
        "Mean reward of the rollouts that stand at an update, with its interval: J of the team before that update.",
    ),
    (
        _kl,
        (
            "How far an update moved its agents, in nats a message. k1 averages log π_current/π_new and k3 r − 1 − log r, where "
            "r = π_new/π_current: two estimates of the same KL; k3 is never negative. k1 above δ: outside the radius. floor: "
            "k3 of the current policy with itself, scored twice; what is not above it decides nothing."
        ),
    ),
    (
        _certificates,
        (
            "Surrogate L: what the update promises. lower: what is certified of it, at the level of the tables (S8 lower: "
            "without asymptotics). Above 0, the update raises J. next rollouts say: what then happened."
        ),
    ),
    (
        _shift,
        (
            "How far the team had moved since the rollouts in use; the line ends at its upper limit. Where that is within the "
            "tolerance, new rollouts could have been skipped."
        ),
    ),
    (
        _weights,
        (
            "By which factor the probability of a whole rollout changed: the largest, and what 1 and 5 % of rollouts exceed. "
            "Beyond the line, 10, few rollouts carry the estimates. new/current: by the update; current/behaviour: since the "
            "rollouts were sampled."
        ),
    ),
)
"""How they are drawn, and what they say."""

MATRIX: tuple[Draw, str] = (
    _matrix,
    (
        "By how much the update of the row's agent moves what the update of the column's agent is worth. Negative, red: it "
        "brings the team into contexts where that update is worth less, it spoils them."
    ),
)
"""Only where there is a matrix."""


def is_long(draw: Draw, report: MonitorReport) -> bool:
    """Whether a figure has more updates than a phone is wide."""
    return draw is not _matrix and len(report.records) > LONG


def svg(draw: Draw, report: MonitorReport) -> str:
    """A figure as it stands in a page."""
    matplotlib, figures = optional_import("matplotlib"), optional_import("matplotlib.figure")
    style = {"svg.fonttype": "none", "svg.hashsalt": draw.__name__, "font.size": 10, "axes.titlesize": 11}
    with matplotlib.rc_context(style | {"axes.titlelocation": "center" if draw is _matrix else "left"}):
        figure = figures.Figure(figsize=LONG_SIZE if is_long(draw, report) else SIZE, layout="constrained")
        ax = figure.subplots()
        ax.spines[["top", "right"]].set_visible(False)
        draw(ax, report)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
