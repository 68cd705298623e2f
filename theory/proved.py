"""Which claims the Coq proofs in `proofs/` cover, read from their index and from what Coq printed; no Coq is needed for that.

`python -m theory.proved` writes what the index says into the derivation pages (their last section) and the ledger (its column).
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from teamtr_jax.files import replacing
from theory import ledger

__all__ = ["FOLDER", "HEADING", "Proof", "proofs", "section", "with_section"]

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "proofs"
LEDGER = ROOT / "docs/verify/ledger.json"
HEADING = "## Machine-checked"


class Proof(NamedTuple):
    """What is proved of one claim."""

    id: str
    theorems: dict[str, tuple[str, ...]]  #: by file, without `.v`; none if it is not proved
    axioms: tuple[str, ...]  #: those of Coq's own library that the cited theorems of these files rest on, at most
    tex: tuple[str, ...]  #: the statement, as formulas that stand on the claim's page
    covers: str
    not_covered: str  #: what of the statement is not proved; empty if nothing
    differs: str  #: hypotheses that the theorems and the code's checks do not share

    @property
    def where(self) -> str:
        """Files and theorems, as text."""
        return "; ".join(f"proofs/{file}.v: {', '.join(theorems)}" for file, theorems in self.theorems.items())


@cache
def proofs(folder: Path = FOLDER) -> dict[str, Proof]:
    """By id, in the order of `index.toml`.

    Raises:
      KeyError: a theorem that is not in `statements.txt`.
    """
    text = (folder / "statements.txt").read_text()
    axioms_of = {file: axioms.split(", ") for file, axioms in re.findall(r"^  (\w+)\.v: (.*)$", text, re.M)}
    printed = set(re.findall(r"^(\w+\.[\w.]+)$", text, re.M))
    out = {}
    for id_, entry in tomllib.loads((folder / "index.toml").read_text()).items():
        if lacking := set(entry["theorems"]) - printed:
            raise KeyError(f"{', '.join(sorted(lacking))} not in statements.txt: make proofs WRITE=1")
        theorems: dict[str, tuple[str, ...]] = {}
        for name in entry["theorems"]:
            file, _, theorem = name.partition(".")
            theorems[file] = (*theorems.get(file, ()), theorem)
        axioms = sorted({axiom for file in theorems for axiom in axioms_of[file]} - {"none"})
        said = [entry[key] for key in ("covers", "not_covered", "differs")]
        out[id_] = Proof(id_, theorems, tuple(axioms), tuple(entry["tex"]), *said)
    return out


def _line(proof: Proof) -> str:
    if not proof.theorems:
        return f"* **{proof.id}**: not proved in Coq. {proof.not_covered}."
    where = "; ".join(
        ", ".join(f"`{theorem}`" for theorem in theorems) + f" in [{file}.v](../../proofs/{file}.v)"
        for file, theorems in proof.theorems.items()
    )
    axioms = ", ".join(f"`{axiom}`" for axiom in proof.axioms) or "none"
    said = [f"**{proof.id}**: {where}. Axioms, at most: {axioms}."]
    said.append(f"Covered: {proof.covers}. Not covered: {proof.not_covered or 'nothing'}.")
    if proof.differs:
        said.append(f"Beside the code: {proof.differs}.")
    return "* " + " ".join(said)


def section(page: str) -> str:
    """The section of one page (`theory/derivations/….md`), from its heading on; empty if the index has nothing of it."""
    lines = [_line(proof) for proof in proofs().values() if ledger.page_of(proof.id) == page]
    if not lines:
        return ""
    intro = "By Coq; the statements as it prints them are in [statements.txt](../../proofs/statements.txt), what the words mean"
    intro += " in [the proofs' README](../../proofs/README.md)."
    return "\n".join([HEADING, "", intro, "", *lines, ""])


def with_section(text: str, page: str) -> str:
    """The text of a page with its section as it should be."""
    before = text.partition(f"\n{HEADING}\n")[0].rstrip("\n") + "\n"
    return before + (f"\n{found}" if (found := section(page)) else "")


def marked(row: ledger.Row) -> ledger.Row:
    """A row of the ledger with what is proved of its claim."""
    proof = proofs().get(row.id)
    if proof is None or not proof.theorems:
        return replace(row, proof="", unproved="")
    return replace(row, proof=proof.where, unproved=proof.not_covered)


def main() -> None:
    for path in sorted((ROOT / "theory/derivations").glob("*.md")):
        text = path.read_text()
        if (new := with_section(text, f"theory/derivations/{path.name}")) != text:
            with replacing(path) as temporary:
                temporary.write_text(new)
            print(path.relative_to(ROOT))
    found = json.loads(LEDGER.read_text())
    rows = [marked(ledger.Row(**claim)) for claim in found["claims"]]
    ledger.write_json(rows, LEDGER, found["settings"])
    with replacing(LEDGER.with_suffix(".md")) as temporary:
        temporary.write_text(ledger.markdown(rows, found["settings"]))


if __name__ == "__main__":
    main()
