"""The report, from the data alone: Markdown, one HTML page with everything in it, and `reproduction.json`."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from experiments.llm.setup import write_json
from experiments.reproduce.question import Finding, Question

__all__ = ["build", "data_file"]

INTRODUCTION = """
    Every question of arXiv:2605.15207 asked of teams small enough to be exact: our own numbers, with intervals over seeds; the
    paper's, of 8–32B models, stand beside them and are marked. Verdicts are computed from the intervals. What does not reproduce
    comes first.
    """

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
    """What does not reproduce comes first, then what is open."""
    return (
        0
        if any(x.startswith("disagrees") for x in verdicts)
        else 1
        if any(x.startswith("open") for x in verdicts)
        else 2
    )


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
        _table(["question", "ours", "the paper's", "verdict"], said),
        _flat(question.why),
        f"*Where the toy cannot speak:* {_flat(question.limits)}",
    ]
    if "tuning" in data:
        tried = []
        for x in data["tuning"]:
            ends = (f"{rate:g}: {100 * end:.1f}" for rate, end in zip(x["rates"], x["ends"], strict=True))
            tried.append([x["way"], *ends, f"{x['chosen']:g}"])
        width = len(tried[0]) - 2
        seeds = ", ".join(map(str, data["tuning"][0]["seeds"]))
        note = f"Tuning: J at the end, %, mean over seeds {seeds}, for each learning rate."
        parts += [note, _table(["", *[""] * width, "chosen"], tried)]
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    parts.append(
        f"Mean and 95 % t interval over seeds {', '.join(map(str, question.seeds(data)))}, paired where a difference is shown. "
        f"`{_command(question, about)}`; {about['seconds']:.0f} s on {about['machine']}; {versions}; {about['date']}."
    )
    return "\n\n".join(part for part in parts if part)


def build(folder: Path, questions: Sequence[Question]) -> list[Path]:
    """Write `report.md`, `report.html`, `reproduction.json` and the figures of all questions whose data are in `folder`."""
    known = [q for q in questions if data_file(folder, q).exists()]
    saved = {q.id: json.loads(data_file(folder, q).read_text()) for q in known}
    findings = {q.id: q.findings(saved[q.id]["data"]) for q in known}
    known.sort(key=lambda q: _rank(*(x.verdict for x in findings[q.id])))
    figures = {q.id: q.draw(saved[q.id]["data"], folder / "figures" / f"{q.slug}.png") for q in known}
    rows = [
        {
            "id": q.id, "question": x.question, "ours": x.ours,
            "interval": x.interval and [x.interval.low, x.interval.high], "paper": x.paper, "verdict": x.verdict,
            "command": _command(q, saved[q.id]["about"]), "seeds": q.seeds(saved[q.id]["data"]),
        }
        for q in known for x in findings[q.id]
    ]  # fmt: skip
    ordered = sorted(rows, key=lambda row: _rank(row["verdict"]))
    counts = {word: sum(row["verdict"].startswith(word) for row in rows) for word in ("disagrees", "open", "agrees")}
    quick = any(saved[q.id]["about"]["quick"] for q in known)
    head = [
        "# The paper's questions, at toy scale",
        _flat(INTRODUCTION),
        "**A quick run: smaller teams, fewer stages; its intervals say little.**" if quick else "",
        f"{len(rows)} comparisons: {counts['disagrees']} disagree, {counts['open']} are open, {counts['agrees']} agree.",
        _table(["", "question", "ours", "the paper's", "verdict"],
               [[row["id"], row["question"], row["ours"], row["paper"], row["verdict"]] for row in ordered]),
    ]  # fmt: skip
    missing = [q.id for q in questions if q not in known]
    if missing:
        head.append(f"Without data so far: {', '.join(missing)}.")
    sections = [_section(q, saved[q.id], findings[q.id], f"figures/{figures[q.id].name}") for q in known]
    text = "\n\n".join([*(x for x in head if x), *sections]) + "\n"
    markdown, page = folder / "report.md", folder / "report.html"
    markdown.write_text(text)
    page.write_text(_page(text, folder))
    return [markdown, page, write_json(folder / "reproduction.json", {"rows": rows}), *figures.values()]


def _page(text: str, folder: Path) -> str:
    body = MarkdownIt("commonmark").enable("table").render(text)

    def inline(match: re.Match[str]) -> str:
        content = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = re.sub(r'src="([^"]+\.png)"', inline, body)
    return PAGE.format(style=STYLE, body=body)
