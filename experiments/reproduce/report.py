"""The report, from the data alone: Markdown, one HTML page with everything in it, and `reproduction.json`."""

from __future__ import annotations

import base64
import json
import math
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markdown_it import MarkdownIt

from experiments.reproduce.question import Finding, Question
from experiments.saved import read
from teamtr_jax.files import output_file, output_folder, reason, replacing
from teamtr_jax.records import dump

__all__ = ["build", "data_file", "places"]

INTRODUCTION = """
    Every question of arXiv:2605.15207 asked of teams of small transformers, one of tables: our own numbers, with intervals over
    seeds, exact where all transcripts of a team are enumerated; the paper's, of 8–32B models, stand beside them and
    are marked. Verdicts are computed from the intervals: *in sign*, the interval lies on the paper's side of zero or
    on the other; *in size*, it holds zero and leaves no room for half of the paper's effect; *in exponent*, it
    reaches what the paper quotes or what its own rows give; *in value*, it holds the paper's number and neither half
    nor twice of it; *open*, none of these. Many questions are asked at once and levels are not corrected for it: of
    thirty true zeros one or two look decided. What differs at toy scale comes first.
    """

TIED_ROWS = """
    Rows that are tied come first. A language model answers many contexts with one row, and its agents often share a
    network; all questions but two are asked of agents that have a network each and read the whole transcript. Those
    two (Tab 2a, tied; Tab 2b, tied) ask the paper's rows on resampling again where an agent sees less or all share one
    network, at the same radius, rates and rollouts. What agrees then, on exact tables: of eight volunteers who know
    nothing but their own turn, exactly one of whom is to speak, a stage on cached rollouts ends far below one on fresh
    ones, by more than it does for two; a third of its updates lose where no fresh one does; and all of it is due to the
    stale occupancy, the advantages being current, which is the paper's mechanism and the case in which U2's theorem
    fails (U4). At a radius ten times the paper's volunteers who see the last message lose as well; at its own radius
    that is open. With the whole transcript the same teams lose nothing at all. What does not agree: by rollouts, on
    tables and with networks, these differences are within noise, lower for the cached stage with sets of the same size
    and hardly at equal rollouts; powers of n are the paper's for cached rollouts where the last message is seen, but as
    large for fresh ones, and less where nothing is seen; and on the chain, where contexts of one row never want
    different things, ties cost a tenth of a point at most on exact tables, and networks that see the last message only,
    or share their parameters, show no loss that their seeds can tell from none, but for more updates that lose in the
    shared one. So a shared row is not enough: the ranking comes back where the contexts of a row want opposite things,
    and how often that is so in a language model these teams cannot say.
    """
"""Prose, what comes first; to be read again when the data change."""

READING = """
    Our reading of the other data, in prose: what the theory says of *gaps* is there (larger on cached rollouts,
    larger later in a stage; weights that degenerate with the KL of the path; a shock that alignment takes away;
    certificates that are never wrong, and of which the paper's is never positive). What is said of *performance* is
    not: at equal rollouts the larger sets of a stage without resampling are worth more than their staleness costs,
    and with equal sets staleness costs nothing that can be seen; exponents of Δ_stale are near one, for both ways
    alike; a single agent, which learns from every message, ends higher on average over the tasks, though not where
    roles differ most (carry). A trust region is an insurance: at rates that are right it is worth nothing, at rates
    that are too large everything.
    """
"""Prose, to be read again when the data change."""

GROUPS = {
    "disagrees": ("disagree", "What differs at toy scale"),
    "open": ("are open", "What stays open"),
    "agrees": ("agree", "What agrees"),
    "ours alone": ("are not in the paper", "What the paper does not say"),
}
"""First words of a verdict, as they are counted and in which part of the report they stand."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left; font-variant-numeric: tabular-nums; }
th { border-bottom: 2px solid #888; } img { max-width: 100%; } code { background: #f4f4f4; padding: 0 .2rem; }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>teamtr_jax: the paper's questions</title><style>{style}</style></head><body>
{body}</body></html>
"""


def data_file(folder: Path, question: Question) -> Path:
    """Where the data of a question are."""
    return folder / "data" / f"{question.slug}.json"


def _rank(*verdicts: str) -> int:
    """What differs at toy scale comes first, then what is open."""
    return min((i for i, word in enumerate(GROUPS) if any(x.startswith(word) for x in verdicts)), default=len(GROUPS))


def _table(heads: Sequence[object], lines: Sequence[Sequence[object]]) -> str:
    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(x).replace("|", "\\|") for x in cells) + " |"

    return "\n".join([line(heads), line(["---"] * len(heads)), *map(line, lines)])


def _flat(text: str) -> str:
    return " ".join(text.split())


def _command(question: Question, about: dict[str, Any]) -> str:
    quick = " --quick" if about["quick"] else ""
    return f"python -m experiments.reproduce run --only {shlex.quote(question.id)} --seeds {about['seeds']}{quick}"


def _section(question: Question, saved: dict[str, Any], findings: Sequence[Finding], figure: str) -> str:
    about, data = saved["about"], saved["data"]
    heads, lines = question.table(data)
    said = [[x.question, x.ours, x.paper, f"**{x.verdict}**"] for x in findings]
    parts = [
        f"## {question.id}: {question.title}",
        _flat(question.protocol),
        f"![{question.id}: ours in colour, the paper's in grey where it gives numbers]({figure})",
        _table(heads, lines),
        _flat(question.paper),
        _table(["question", "ours", "the paper's", "verdict"], said),
        _flat(question.why),
        f"*Where the toy cannot speak:* {_flat(question.limits)}",
    ]
    if "tuning" in data:
        tried = []
        for x in data["tuning"]:
            ends = (f"{rate:g}: {100 * np.mean(end):.1f}" for rate, end in zip(x["rates"], x["ends"], strict=True))
            tried.append([x["way"], *ends])
        width = max(map(len, tried)) - 1
        tried = [
            [*line, *[""] * (1 + width - len(line)), f"{x['chosen']:g}"]
            for line, x in zip(tried, data["tuning"], strict=True)
        ]
        tuning = ", ".join(map(str, data["tuning"][0]["seeds"]))
        note = f"Tuning: value at the end, %, mean over seeds {tuning}, for each learning rate."
        parts += [note, _table(["", *[""] * width, "chosen"], tried)]
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    seeds = ", ".join(map(str, data["seeds"]))
    parts.append(
        f"Mean and 95 % t interval over seeds {seeds}, paired where a difference is shown. "
        f"`{_command(question, about)}`; {about['seconds']:.0f} s of runs, each on one core of {about['machine']}; "
        f"{versions}; {about['date']}."
    )
    return "\n\n".join(part for part in parts if part)


def _limits(finding: Finding) -> list[float] | None:
    x = finding.interval
    return [x.low, x.high] if x is not None and math.isfinite(x.low) and math.isfinite(x.high) else None


def places(folder: Path) -> None:
    """Try all places of a report in `folder`, before the work.

    Raises:
      InputError: one that cannot be written.
    """
    for below in (folder, folder / "data", folder / "figures"):
        output_folder("out", below)
    for name in NAMES:
        if folder.is_dir():
            output_file("out", folder / name)


NAMES = ("report.md", "report.html", "reproduction.json")


def build(folder: Path, questions: Sequence[Question]) -> list[Path]:
    """Write `report.md`, `report.html`, `reproduction.json` and the figures of all questions whose data are in `folder`.

    A figure that cannot be drawn takes nothing else with it: what there was before stays, and the rest is written.

    Raises:
      InputError: damaged data, before anything is written; a place that cannot be written.
      ArithmeticError: a figure could not be drawn; after everything else was written.
    """
    places(folder)
    known = [q for q in questions if data_file(folder, q).exists()]
    saved = {q.id: read(data_file(folder, q), "data that `run` wrote") for q in known}
    findings = {q.id: q.findings(saved[q.id]["data"]) for q in known}
    known.sort(key=lambda q: _rank(*(x.verdict for x in findings[q.id])))
    figures = {q.id: folder / "figures" / f"{q.slug}.png" for q in known}
    rows = [
        {
            "id": q.id, "question": x.question, "ours": x.ours,
            "interval": _limits(x), "paper": x.paper, "verdict": x.verdict,
            "command": _command(q, saved[q.id]["about"]), "seeds": saved[q.id]["data"]["seeds"],
        }
        for q in known for x in findings[q.id]
    ]  # fmt: skip
    ordered = sorted(rows, key=lambda row: _rank(row["verdict"]))
    quick = any(saved[q.id]["about"]["quick"] for q in known)
    hours = sum(saved[q.id]["about"]["seconds"] for q in known) / 3600
    counts = {word: [row for row in ordered if row["verdict"].startswith(word)] for word in GROUPS}
    total = ", ".join(f"{len(counts[word])} {text}" for word, (text, _) in GROUPS.items())
    head = [
        "# The paper's questions, at toy scale",
        _flat(TIED_ROWS),
        _flat(INTRODUCTION),
        _flat(READING),
        "**A quick run: smaller teams, fewer stages, two seeds; its intervals say little.**" if quick else "",
        f"{len(rows)} comparisons: {total}. The runs of all questions take {hours:.1f} hours of one core; some serve several.",
    ]  # fmt: skip
    for word, (_, title) in GROUPS.items():
        lines = [[row["id"], row["question"], row["ours"], row["paper"], row["verdict"]] for row in counts[word]]
        if lines:
            head += [f"## {title}", _table(["", "question", "ours", "the paper's", "verdict"], lines)]
    missing = [q.id for q in questions if q not in known]
    if missing:
        head.append(f"Without data so far: {', '.join(missing)}.")
    sections = [_section(q, saved[q.id], findings[q.id], f"figures/{figures[q.id].name}") for q in known]
    text = "\n\n".join([*(x for x in head if x), *sections]) + "\n"
    markdown, page, numbers = (folder / name for name in NAMES)
    _write(numbers, json.dumps(json.loads(dump({"rows": rows})), indent=1) + "\n")
    _write(markdown, text)
    failed = {q.id: why for q in known if (why := _drawn(q, saved[q.id]["data"], figures[q.id]))}
    _write(page, _page(text, folder))
    if failed:
        raise ArithmeticError("; ".join(f"the figure of {name}: {why}" for name, why in failed.items()))
    return [markdown, page, numbers, *figures.values()]


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def _drawn(question: Question, data: dict[str, Any], path: Path) -> str | None:
    """Draw a figure, whole or not at all; why it could not be drawn, if so."""
    try:
        path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as apart:
            drawn = question.draw(data, Path(apart) / path.name)
            with replacing(path) as temporary:
                shutil.copyfile(drawn, temporary)
    except Exception as error:
        return f"{type(error).__name__}: {reason(error)}"
    return None


def _page(text: str, folder: Path) -> str:
    body = MarkdownIt("commonmark").enable("table").render(text)

    def inline(match: re.Match[str]) -> str:
        figure = folder / match[1]
        content = base64.b64encode(figure.read_bytes()).decode() if figure.exists() else ""
        return f'src="data:image/png;base64,{content}"'

    body = re.sub(r'src="([^"]+\.png)"', inline, body)
    return PAGE.format(style=STYLE, body=body)
