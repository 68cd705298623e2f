"""`make proofs`: build the proofs, and compare what they say with what is committed.

statements.txt: every theorem that index.toml cites as `Check` prints it, and by file what `Print Assumptions` says of them all.
golden.json: what the evaluator that is extracted from Eval.v says about rational stages. Standard library only.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import golden

HERE = Path(__file__).parent
sys.dont_write_bytecode = True


AXIOMS = {
    "ClassicalDedekindReals.sig_forall_dec",
    "ClassicalDedekindReals.sig_not_dec",
    "FunctionalExtensionality.functional_extensionality_dep",
    "Classical_Prop.classic",
}
"""What Coq's own real numbers and Coquelicot assume, and nothing else may be; with modules, as anybody can name an axiom so."""
FORBIDDEN = re.compile(r"\b(Admitted|admit|give_up|Axioms?|Parameters?|Conjecture|Unset Guard Checking|bypass_check)\b")
PACKAGES = "coq libcoq-mathcomp-ssreflect libcoq-coquelicot libzarith-ocaml-dev ocaml-findlib"
COQC = ["coqc", "-q", "-w", "none", "-Q", str(HERE), "TeamTR"]


def missing() -> str:
    """What has to be installed first, in one line; empty if nothing."""
    if absent := [tool for tool in ("coqc", "coqdep", "make") if shutil.which(tool) is None]:
        return f"not found: {', '.join(absent)}"
    with tempfile.TemporaryDirectory() as folder:
        for library in ("mathcomp.ssreflect.all_ssreflect", "Coquelicot.Coquelicot"):
            source = Path(folder) / "probe.v"
            source.write_text(f"Require {library}.\n")
            if subprocess.run(["coqc", "-q", "-w", "none", source], capture_output=True, cwd=folder).returncode:
                return f"not found: the Coq library {library.split('.')[0]}"
    return ""


def extracts() -> bool:
    """Whether the evaluator can be compiled: OCaml and its library zarith are here."""
    found = shutil.which("ocamlfind") is not None
    return found and not subprocess.run(["ocamlfind", "query", "zarith"], capture_output=True).returncode


def prints_alike() -> bool:
    """Whether this is mathcomp 1, which printed statements.txt; 2 calls the type of joint actions by another name."""
    where = subprocess.run(["coqc", "-where"], capture_output=True, text=True, check=True).stdout.strip()
    return not (Path(where) / "user-contrib/HB").exists()


def code(text: str) -> str:
    """A Coq source without its comments."""
    out, depth, last = [], 0, 0
    for match in re.finditer(r"\(\*|\*\)", text):
        if not depth:
            out.append(text[last : match.start()])
        depth += 1 if match.group() == "(*" else -1
        last = match.end()
    return "".join([*out, text[last:]])


def assumed(folder: Path = HERE) -> list[str]:
    """Places that assume what should be proved."""
    sources = {path.name: code(path.read_text()) for path in sorted(folder.glob("**/*.v"))}
    return [f"{name}: {match.group()}" for name, text in sources.items() for match in FORBIDDEN.finditer(text)]


def index() -> dict[str, dict]:
    """index.toml, by id."""
    try:
        return tomllib.loads((HERE / "index.toml").read_text())
    except tomllib.TOMLDecodeError as error:
        raise SystemExit(f"proofs: index.toml is no TOML: {error}") from error


def _asked(file: str, theorems: list[str]) -> tuple[dict[str, str], list[str]]:
    """The statements of theorems of one file as Coq prints them, and the axioms that they rest on, all together.

    One question about all of them, because each costs a walk through every proof behind it.
    """
    others = [path.stem for path in sorted(HERE.glob("*.v")) if path.stem != file]
    lines = ["From mathcomp Require Import all_ssreflect.", "Require Import Reals."]
    lines += [f"From TeamTR Require Import {' '.join([*others, file])}."]
    lines += ["Local Open Scope R_scope.", "Set Printing Width 120.", "Unset Printing Implicit Defensive."]
    for name in theorems:
        lines += [f'Goal True. idtac "=== {name}". Abort.', f"Check {file}.{name}."]
    lines += [f"Definition cited := ({', '.join(f'@{file}.{name}' for name in theorems)})."]
    lines += ['Goal True. idtac "=== axioms". Abort.', "Print Assumptions cited."]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "asked.v"
        source.write_text("\n".join(lines) + "\n")
        run = subprocess.run([*COQC, source], capture_output=True, text=True, cwd=folder)
    if run.returncode:
        raise SystemExit(f"proofs: {file}.v: {run.stderr.strip()}")
    parts = {part.partition("\n")[0]: part.partition("\n")[2] for part in run.stdout.split("=== ")[1:]}
    found = re.findall(r"^([\w.']+)(?= :|$)", parts.pop("axioms"), re.M)
    return {name: text.strip().partition("\n")[2] for name, text in parts.items()}, sorted(found)


def statements(workers: int) -> tuple[str, list[str]]:
    """The text of statements.txt, and axioms in it that are not Coq's own."""
    entries = index()
    wanted: dict[str, list[str]] = {}
    for entry in entries.values():
        for theorem in entry["theorems"]:
            file, _, name = theorem.partition(".")
            names = wanted.setdefault(file, [])
            if name not in names:
                names.append(name)
    order = sorted(wanted, key=lambda file: -len(wanted[file]))  # the longest first
    with ThreadPoolExecutor(workers) as pool:
        said = dict(zip(order, pool.map(_asked, order, [wanted[file] for file in order]), strict=True))
    foreign = [f"{file}.v assumes {axiom}" for file in wanted for axiom in said[file][1] if axiom not in AXIOMS]
    parts = ["Axioms, at most, of the theorems that are cited from a file:\n"]
    short = {file: [axiom.rpartition(".")[2] for axiom in said[file][1]] for file in sorted(wanted)}
    parts += [f"  {file}.v: {', '.join(sorted(axioms)) or 'none'}" for file, axioms in short.items()]
    for id_, entry in entries.items():
        parts.append(f"\n######## {id_}")
        for theorem in entry["theorems"]:
            file, _, name = theorem.partition(".")
            parts.append(f"\n{theorem}\n{said[file][0][name]}")
    return "\n".join(parts) + "\n", foreign


def compared(name: str, text: str, write: bool) -> bool:
    """Whether a file holds this text; the differences are shown, or written."""
    path = HERE / name
    before = path.read_text() if path.exists() else ""
    if before != text and write:
        path.write_text(text)
        print(f"proofs: {name} written")
    elif before != text:
        lines = difflib.unified_diff(
            before.splitlines(), text.splitlines(), f"committed {name}", f"{name} now", lineterm="", n=1
        )
        print(*(line if len(line) < 400 else f"{line[:400]} …" for line in list(lines)[:60]), sep="\n")
        print(f"proofs: {name} differs from what Coq says now. If that is meant: make proofs WRITE=1")
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Build the proofs; compare statements.txt and golden.json with what they say."
    )
    parser.add_argument("--write", action="store_true", help="write both files instead of comparing")
    write = parser.parse_args().write
    if said := missing():
        print(f"proofs: {said}. On Debian: apt-get install --no-install-recommends {PACKAGES}", file=sys.stderr)
        return 3
    if found := assumed():
        print("proofs: something is assumed:", *found, sep="\n  ", file=sys.stderr)
        return 1
    workers = os.cpu_count() or 1
    if subprocess.run(["make", "--silent", "-C", HERE, f"-j{workers}"]).returncode:
        print("proofs: the build failed, see above", file=sys.stderr)
        return 1
    text, foreign = statements(workers)
    if foreign:
        print("proofs: axioms that are not Coq's own:", *foreign, sep="\n  ", file=sys.stderr)
        return 1
    alike, said = prints_alike(), "the evaluator agrees too"
    same = [compared("statements.txt", text, write)] if alike else []
    if extracts():
        with tempfile.TemporaryDirectory() as folder:
            same.append(compared("golden.json", golden.golden(golden.build(Path(folder))), write))
    else:
        said = "the evaluator was NOT run: apt-get install libzarith-ocaml-dev ocaml-findlib"
    if not all(same):
        return 1
    count = sum(len(entry["theorems"]) for entry in index().values())
    print(f"proofs: {count} theorems of {len(index())} ids, nothing admitted, no axiom but Coq's own; {said}")
    if not alike:
        print("proofs: statements.txt was not compared: mathcomp 1 printed it, and this is mathcomp 2")
    return 0


if __name__ == "__main__":
    sys.exit(main())
