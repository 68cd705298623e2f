"""Which claims the Coq proofs in `proofs/` cover, read from their index and from what Coq printed; no Coq is needed for that.

`python -m theory.proved` writes the last section of every derivation page that speaks of a claim in the index.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from teamtr_jax.files import replacing
from theory.ledger import page_of

__all__ = ["FOLDER", "HEADING", "Proof", "proofs", "section", "with_section"]

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "proofs"
HEADING = "## Machine-checked"


class Proof(NamedTuple):
    """What is proved of one claim."""

    id: str
    theorems: dict[str, tuple[str, ...]]  #: by file, without `.v`
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
        theorems: dict[str, tuple[str, ...]] = {}
        said = [f"**{proof.id}**: {where}. Axioms, at most: {axioms}."]
    said.append(f"Covered: {proof.covers}. Not covered: {proof.not_covered or 'nothing'}.")
    if proof.differs:
        said.append(f"Beside the code: {proof.differs}.")
    return "* " + " ".join(said)


def section(page: str) -> str:
    """The section of one page (`theory/derivations/….md`), from its heading on; empty if nothing on it is proved."""
    lines = [_line(proof) for proof in proofs().values() if page_of(proof.id) == page]
    if not lines:
        return ""
    intro = "By Coq, from the definitions in [Episodic.v](../../proofs/Episodic.v) and [Discounted.v](../../proofs/Discounted.v);"
    intro += " the statements as Coq prints them are in [statements.txt](../../proofs/statements.txt)."
    return "\n".join([HEADING, "", intro, "", *lines, ""])


def with_section(text: str, page: str) -> str:
    """The text of a page with its section as it should be."""
    before = text.partition(f"\n{HEADING}\n")[0].rstrip("\n") + "\n"
    return before + (f"\n{found}" if (found := section(page)) else "")


def main() -> None:
    for path in sorted((ROOT / "theory/derivations").glob("*.md")):
        text = path.read_text()
        if (new := with_section(text, f"theory/derivations/{path.name}")) != text:
            with replacing(path) as temporary:
                temporary.write_text(new)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
