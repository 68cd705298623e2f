"""What a claim's audit found, as a row of the ledger: JSON, Markdown, terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from teamtr_jax.files import replacing
from teamtr_jax.latex import preamble, table
from teamtr_jax.records import LEDGER_SCHEMA, dump

__all__ = ["Row", "merged", "as_json", "write_json", "terminal", "verdict", "markdown", "latex", "write_latex",
           "page_of"]  # fmt: skip

SHARED = {"R6": "rates", "R7": "regimes"}
"""Pages that are not named like the ids on them."""
DERIVATIONS = Path(__file__).parent / "derivations"


def page_of(id_: str) -> str:
    """`theory/derivations/….md` of a claim: the page of its id, of its number (`S7c` is on `s7.md`), or shared; empty if none."""
    full, family = id_.lower().replace(".", "_"), id_.partition(".")[0]
    for stem in (full, full.rstrip("abcdefghijklmnopqrstuvwxyz"), SHARED.get(family, "")):
        if stem and (DERIVATIONS / f"{stem}.md").exists():
            return f"theory/derivations/{stem}.md"
    return ""


@dataclass
class Row:
    """One claim.

    `detects`: the smallest relative error of the leading constant (of either side, for an identity) that this audit would
    have caught; none where it would have caught nothing, or where the claim is violated; `detects_exponents`: the same for
    the powers of γ and of 1/(1−γ).
    """

    id: str
    statement: str
    evidence: str  #: exact, enclosed, float; "float; k decided exactly" where float64 was not enough
    instances: int  #: stages (or messages, or team sizes) looked at
    violations: int
    inconclusive: int  #: left open after the exact decision
    tightest: float | None  #: largest measured/bound; None for identities
    detects: float | None
    exponent: float | None = None
    interval: tuple[float, float] | None = None
    seconds: float = 0.0
    checks: int = 0  #: inequalities or equations compared
    decided_exactly: int = 0
    trivial: int = 0  #: of the checks, those in which both sides are exactly zero
    detects_exponents: dict[str, float] = field(default_factory=dict)
    exact: int = 0  #: random stages on which the claim was decided without rounding, every comparison
    exact_kind: str = ""  #: exact (rationals), enclosed (balls)
    exact_violations: int = 0
    exact_undecided: int = 0
    searched: float | None = None  #: largest measured/bound of the saved instances of the adversarial search
    page: str = ""  #: derivation, from the root of the repository
    figure: str = ""  #: file name of the figure, beside the ledger
    proof: str = ""  #: files and theorems in `proofs/`; empty if Coq has not checked it
    unproved: str = ""  #: what of the statement these theorems do not cover
    note: str = ""  #: what was held fixed, over which range a slope was fitted, where the extreme was found
    words: str = ""  #: the statement as a sentence


def merged(rows: Sequence[Row]) -> list[Row]:
    """One row for each id: the words of the one that has a statement, everything counted, the extremes of all."""
    out: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: not row.statement):
        if (first := out.get(row.id)) is None:
            out[row.id] = row
            continue
        ratios, errors = (
            [x for x in (getattr(first, name), getattr(row, name)) if x is not None] for name in ("tightest", "detects")
        )
        counted = ("instances", "violations", "inconclusive", "checks", "decided_exactly", "trivial", "seconds")
        out[row.id] = replace(
            first, **{name: getattr(first, name) + getattr(row, name) for name in counted},
            tightest=max(ratios, default=None), detects=min(errors, default=None),
            note="; ".join(filter(None, (first.note, row.note))),
        )  # fmt: skip
    return list(out.values())


NUMBERS = ("tightest", "detects", "exponent", "searched")


def as_json(rows: Sequence[Row], settings: dict[str, Any]) -> str:
    """The ledger as one line of strict JSON. A number that is none is null, and the note says so: nothing else is lost by it."""

    def claim(row: Row) -> dict[str, Any]:
        lost = [name for name in NUMBERS if (x := getattr(row, name)) is not None and math.isnan(x)]
        lost += ["interval"] * (row.interval is not None and any(map(math.isnan, row.interval)))
        lost += ["detects_exponents"] * any(map(math.isnan, row.detects_exponents.values()))
        kept = {name: x for name, x in row.detects_exponents.items() if not math.isnan(x)}
        note = "; ".join(filter(None, (row.note, f"not a number: {', '.join(lost)}" if lost else "")))
        return asdict(row) | dict.fromkeys(lost) | {"detects_exponents": kept, "note": note}

    return dump({"schema": LEDGER_SCHEMA, "settings": settings, "claims": [claim(row) for row in rows]})


def write_json(rows: Sequence[Row], path: Path, settings: dict[str, Any]) -> None:
    """Write the ledger, whole or not at all.

    Raises:
      InputError: a place that cannot be written.
    """
    text = as_json(rows, settings)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n")


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.3g}"


def _slope(row: Row) -> str:
    slope = "–" if row.exponent is None else f"{row.exponent:.2f}"
    return slope + (f" [{row.interval[0]:.2f}, {row.interval[1]:.2f}]" if row.interval is not None else "")


COLUMNS: dict[str, Callable[[Row], str]] = {
    "instances": lambda row: f"{row.instances:,}",
    "violations": lambda row: str(row.violations + row.exact_violations),
    "inconclusive": lambda row: str(row.inconclusive),
    "tightest": lambda row: _number(row.tightest),
    "searched": lambda row: _number(row.searched),
    "detects": lambda row: _number(row.detects),
    "exponent": _slope,
    "also exactly": lambda row: f"{row.exact:,} {row.exact_kind}" if row.exact else "–",
    "evidence": lambda row: row.evidence,
    "proved": lambda row: ("in part" if row.unproved else "Coq") if row.proof else "–",
    "s": lambda row: f"{row.seconds:.0f}",
    "statement": lambda row: row.statement,
}
"""Heading → cell; the id stands before them on a terminal, and last on the page."""
NARROW = 7
"""Columns that a narrow terminal gets: the numbers."""


EXPLAINED = (
    "*Tightest*: largest measured/bound; *searched*: the same, by adversarial search; *detects*: smallest relative error of a "
    "constant that would have been caught; *also exactly*: random stages decided without rounding; *proved*: by Coq, in "
    "`proofs/`, as a whole or in part; *s*: seconds."
)


def terminal(rows: Sequence[Row], width: int) -> Table:
    """The ledger as a table for a terminal of `width` columns; a narrow one gets the numbers only."""
    shown = list(COLUMNS)[: None if width >= 160 else NARROW]
    caption = (
        "tightest: largest measured/bound; searched: the same, by adversarial search; detects: smallest error of a constant "
        "that it would catch; also exactly: random stages decided without rounding"
    )
    table = Table(title="claim ledger", caption=caption)
    for heading in ("id", *shown):
        left = heading in ("id", "statement", "evidence")
        table.add_column(heading, justify="left" if left else "right", no_wrap=width >= 160 and heading != "statement")
    for row in rows:
        style = "bold red" if row.violations + row.exact_violations else "yellow" if row.inconclusive else None
        cells = [row.id, *(COLUMNS[heading](row) for heading in shown)]
        table.add_row(*map(escape, cells), style=style)  # brackets are no markup
    return table


def _how(row: Row) -> str:
    if row.exact:
        return "floats, and on other stages without rounding"
    kind = next((kind for kind in ("exact", "simulated") if row.evidence.startswith(kind)), "")
    return {"exact": "arithmetic without rounding", "simulated": "simulation"}.get(kind, "floats alone")


def verdict(rows: Sequence[Row], settings: dict[str, Any]) -> list[str]:
    """What was found, in words, a line each: is something violated; what was looked at; how it was decided; what is derived."""
    broken = [row for row in rows if row.violations + row.exact_violations]
    kinds: dict[str, list[str]] = {}
    for row in rows:
        kinds.setdefault(_how(row), []).append(row.id)
    decided, left = (
        sum(map(of, rows)) for of in (lambda x: x.decided_exactly, lambda x: x.inconclusive + x.exact_undecided)
    )
    violated = (f"{row.id} in {row.violations + row.exact_violations:,} comparisons" for row in broken)
    stages = f"{settings['instances']:,} stages, {settings['exact']:,} more without rounding"
    lines = [
        "Violated: " + ", ".join(violated) + "." if broken else "Nothing is violated.",
        f"Looked at: {len(rows)} claims, {stages}; {sum(row.checks for row in rows):,} comparisons.",
        f"Left open by rounding: {decided + left:,} comparisons; {decided:,} of them decided exactly, {left:,} inconclusive.",
    ]
    lines += [f"Decided by {how} ({len(ids)}): {', '.join(ids)}." for how, ids in kinds.items()]
    whole, partly = ([row.id for row in rows if row.proof and bool(row.unproved) is part] for part in (False, True))
    proved = [(name, ids) for name, ids in (("Proved in Coq", whole), ("In part", partly)) if ids]
    if proved:
        lines.append(" ".join(f"{name} ({len(ids)}): {', '.join(ids)}." for name, ids in proved))
    return [
        *lines,
        f"With a derivation in theory/derivations: {sum(bool(row.page) for row in rows)} of {len(rows)} claims.",
    ]


def _code(text: str) -> str:
    """A text as it stands, between more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " * (text[:1] == "`" or text[-1:] == "`")
    return f"{fence}{space}{text}{space}{fence}" if text else ""


def markdown(rows: Sequence[Row], settings: dict[str, Any], root: str = "../../") -> str:
    """The ledger as a Markdown page: how it was made, the table, the notes. `root`: the repository, seen from the page."""
    made = (
        f"{settings['instances']:,} stages, seed {settings['seed']}, {settings['seconds']:.0f} s on {settings['machine']} "
        f"(Python {settings['python']}, jax {settings['jax']}, {settings['device']}), {settings['date']}."
    )
    lines = ["# Claim ledger", "", "Written by `python -m theory`. " + made, ""]
    lines += [f"* {line}" for line in verdict(rows, settings)]
    lines += ["", "Looked at:", ""]
    lines += [f"* {count:,} × {name}: {settings['families'][name]}" for name, count in settings["counts"].items()]
    if settings["gymnasium"]:
        lines += ["* Gymnasium: " + ", ".join(settings["gymnasium"])]
    if settings.get("presets"):
        lines.append("* Transformer teams of 65,536 transcripts: " + "; ".join(settings["presets"]))
    shown = [heading for heading in COLUMNS if heading != "statement"]
    lines += ["", EXPLAINED, ""]
    lines += ["| " + " | ".join(["in words", "statement", *shown, "page", "figure", "id"]) + " |"]
    lines += ["|" + "---|" * (len(shown) + 5)]
    for row in rows:
        cells = [row.words, _code(row.statement), *(COLUMNS[heading](row) for heading in shown)]
        page = f"[{Path(row.page).stem}]({root}{row.page})" if row.page else ""
        figure = f"[{row.figure}]({row.figure})" if row.figure else ""
        lines.append("| " + " | ".join([*(cell.replace("|", "\\|") for cell in cells), page, figure, row.id]) + " |")
    notes = [f"* **{row.id}**: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, "", *notes, ""])


def latex(rows: Sequence[Row], settings: dict[str, Any]) -> str:
    """The ledger's table for a paper: LaTeX with booktabs, the preamble that it needs on its first line."""
    shown = [heading for heading in COLUMNS if heading != "statement"]
    caption = (
        f"{settings['instances']:,} stages, seed {settings['seed']}, {settings['date']}. {EXPLAINED.replace('*', '')}"
    )
    cells = [[row.id, *(COLUMNS[heading](row) for heading in shown), row.statement] for row in rows]
    return f"% python -m theory. Preamble: {preamble()}\n" + table(
        "Claim ledger", ["id", *shown, "statement"], cells, caption, wide=("statement",)
    )


def write_latex(rows: Sequence[Row], path: Path, settings: dict[str, Any]) -> None:
    """Write it, whole or not at all.

    Raises:
      InputError: a place that cannot be written.
    """
    text = latex(rows, settings)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
