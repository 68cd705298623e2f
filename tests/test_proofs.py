"""The Coq proofs, without Coq: their index against the pages and the ledger, their values against the two cores."""

import importlib.util
import json
import re
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.claims import STAGE_CLAIMS
from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.exact.solved import Solved
from teamtr_jax.exact.stage import exact_stage
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.types import Stage, Team
from theory import proved
from theory.ledger import page_of
from theory.proved import FOLDER, proofs, with_section

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
LEDGER = json.loads((ROOT / "docs/verify/ledger.json").read_text())["claims"]
AXIOMS = {"sig_forall_dec", "sig_not_dec", "functional_extensionality_dep", "classic"}


def floats(x) -> np.ndarray:
    """Numbers that float64 holds as they are."""
    out = np.vectorize(lambda text: float(Fraction(text)), otypes=[float])(x)
    assert np.vectorize(lambda text, value: Fraction(text) == Fraction(value), otypes=[bool])(x, out).all()
    return out


def built(golden) -> Stage:
    """A stage of golden.json: contexts at a time, T layers of the same world."""
    T, n, states, factors = (golden[key] for key in ("horizon", "agents", "states", "factors"))
    if factors is None:
        tables = [np.tile(floats(golden[name]), (T, 1)) for name in ("current", "target")]
    else:
        tables = []
        for name in ("current", "target"):
            rows = [row + ["0/1"] * (max(factors) - len(row)) for row in golden[name]]
            tables.append(np.tile(floats(rows).reshape(n, states, -1), (1, T, 1)))
    actions = None if factors is None else tuple(factors)
    team = Team(
        Layered(Dense(jnp.asarray(floats(golden["transition"])), None), T),
        jnp.asarray(np.tile(floats(golden["reward"]), (T, 1))),
        jnp.asarray(np.concatenate([floats(golden["initial"]), np.zeros((T - 1) * states)])),
        jnp.asarray(np.tile(golden["active"], T)) if factors is None else None, n, actions,
    )  # fmt: skip
    return Stage(team, *map(jnp.asarray, tables), jnp.asarray(golden["order"]))


def known(golden) -> tuple[list[Fraction], list[Fraction], Fraction]:
    return [Fraction(x) for x in golden["J"]], [Fraction(x) for x in golden["L_seq"]], Fraction(golden["L_joint"])


def fraction(x) -> Fraction:
    return Fraction(int(x.p), int(x.q))


@pytest.mark.parametrize("golden", GOLDEN, ids=map(str, range(len(GOLDEN))))
def test_the_evaluator_proved_in_coq_and_our_exact_one_agree(golden):
    """Returns of all hybrids, fresh surrogates, and the sum of the cached ones, which is the joint surrogate: equal rationals."""
    returns, surrogates, joint = known(golden)
    x = Solved(exact_stage(built(golden)))
    initial = [fraction(p) for p in x.stage.initial]
    values = ([fraction(v) for v in x.v(i)] for i in range(golden["agents"] + 1))
    assert [sum(p * v for p, v in zip(initial, row, strict=True)) for row in values] == returns
    assert [fraction(y) for y in x.seq] == surrogates
    assert sum(map(fraction, x.cached)) == joint


@pytest.mark.parametrize("golden", GOLDEN, ids=map(str, range(len(GOLDEN))))
def test_the_jax_core_reproduces_the_evaluator_within_its_budgets(golden):
    returns, surrogates, joint = known(golden)
    report = jax.device_get(evaluate_stage(built(golden)))
    n, size = golden["agents"], golden["horizon"] * max(abs(Fraction(x)) for row in golden["reward"] for x in row)

    def off(measured, exact):
        return float(abs(Fraction(float(measured)) - exact))

    for i in range(n):
        gap = returns[i + 1] - returns[i] - surrogates[i]
        assert off(report.surrogate_intermediate[i], surrogates[i]) <= report.rounding.surrogate[i]
        assert off(report.gap_fresh[i], gap) <= report.rounding.fresh[i]
    assert max(map(off, report.objective, returns)) <= report.rounding.relative * size
    gap = returns[-1] - returns[0] - joint
    assert off(report.gap_cached.sum(), gap) <= report.rounding.cached.sum() + 4 * n * np.finfo(float).eps * float(size)


def test_golden_stages_differ_in_what_matters():
    """Both protocols, opened actions, gaps far above rounding."""
    assert {stage["factors"] is None for stage in GOLDEN} == {True, False}
    assert any(
        "0/1" in row and "0/1" not in new for x in GOLDEN for row, new in zip(x["current"], x["target"], strict=True)
    )
    gaps = [
        x for stage in GOLDEN for x in np.diff([float(Fraction(x)) for x in stage["J"]]) - floats_of(stage["L_seq"])
    ]
    assert sum(abs(gap) > 1e-6 for gap in gaps) >= len(GOLDEN)


def floats_of(xs) -> np.ndarray:
    return np.array([float(Fraction(x)) for x in xs])


def test_every_claim_is_in_the_index():
    """Proved, or said not to be and why."""
    ids = {claim.id for claim in STAGE_CLAIMS} | {row["id"] for row in LEDGER}
    assert ids - proofs().keys() == set()
    for proof in proofs().values():
        assert proof.theorems or proof.not_covered, proof.id


@pytest.mark.parametrize("id_", proofs())
def test_theorems_are_printed_and_assume_what_coq_assumes(id_):
    """statements.txt is what `make proofs` compares with Coq's own words; here it must hold every theorem that is cited."""
    part = (FOLDER / "statements.txt").read_text().partition(f"######## {id_}\n")[2].partition("########")[0]
    cited = [f"{file}.{theorem}" for file, theorems in proofs()[id_].theorems.items() for theorem in theorems]
    assert sorted(re.findall(r"^(\w+\.[\w.]+)$", part, re.M)) == sorted(cited)
    for file, theorems in proofs()[id_].theorems.items():
        source = (FOLDER / f"{file}.v").read_text()
        for theorem in theorems:
            assert re.search(
                rf"^\s*(Theorem|Corollary|Lemma|Fact|Example) {theorem.rpartition('.')[2]}\b", source, re.M
            ), f"{theorem} in {file}.v"
    assert set(proofs()[id_].axioms) <= AXIOMS


@pytest.mark.parametrize("path", sorted((ROOT / "theory/derivations").glob("*.md")), ids=lambda path: path.stem)
def test_pages_say_what_is_machine_checked(path):
    """`python -m theory.proved` writes this section; whoever changes the index runs it."""
    assert with_section(path.read_text(), f"theory/derivations/{path.name}") == path.read_text()


def squeezed(text: str) -> str:
    return re.sub(r"\s+|\\[,;!]", "", text)


@pytest.mark.parametrize("id_", [id_ for id_, proof in proofs().items() if proof.theorems])
def test_the_formula_of_a_theorem_stands_on_its_page(id_):
    """The index holds the formula beside the theorem: a constant that is changed on the page alone is found here."""
    assert proofs()[id_].tex, id_
    page = squeezed((ROOT / page_of(id_)).read_text())
    for formula in proofs()[id_].tex:
        assert squeezed(formula) in page, formula


def test_the_ledger_says_what_is_proved():
    for row in LEDGER:
        proof = proofs()[row["id"]]
        assert (row["proof"], row["unproved"]) == ((proof.where, proof.not_covered) if proof.theorems else ("", "")), (
            row["id"]
        )


def test_a_theorem_that_coq_did_not_print_is_refused(tmp_path):
    """Axioms are those of the files of a claim, all together."""
    entry = (
        '[S1]\ntheorems = ["One.a", "One.b", "Two.c"]\ntex = ["x"]\ncovers = "all"\nnot_covered = ""\ndiffers = "d"\n'
    )
    (tmp_path / "index.toml").write_text(entry)
    text = "Axioms:\n\n  One.v: classic, sig\n  Two.v: none\n\n######## S1\n\nOne.a\n  : True\n\nOne.b\n  : True\n"
    (tmp_path / "statements.txt").write_text(text)
    with pytest.raises(KeyError, match=r"Two\.c not in statements\.txt: make proofs WRITE=1"):
        proofs(tmp_path)
    (tmp_path / "statements.txt").write_text(f"{text}\nTwo.c\n  : True\n")
    proofs.cache_clear()
    (found,) = proofs(tmp_path).values()
    assert (found.theorems, found.axioms) == ({"One": ("a", "b"), "Two": ("c",)}, ("classic", "sig"))
    assert found.where == "proofs/One.v: a, b; proofs/Two.v: c"


def test_pages_and_ledger_are_written_again(tmp_path, monkeypatch, capsys):
    """What the index says of them, and nothing else: a page that lost its section, a ledger that lost what is proved."""
    pages, home = tmp_path / "theory/derivations", tmp_path / "docs/verify"
    pages.mkdir(parents=True)
    home.mkdir(parents=True)
    for stem in ("s7", "statements"):
        text = (ROOT / f"theory/derivations/{stem}.md").read_text()
        (pages / f"{stem}.md").write_text(text.partition("\n## Machine-checked\n")[0].rstrip("\n") + "\n")
    saved = json.loads((ROOT / "docs/verify/ledger.json").read_text())
    forgotten = [row | {"proof": "", "unproved": ""} for row in saved["claims"]]
    (home / "ledger.json").write_text(json.dumps(saved | {"claims": forgotten}))
    monkeypatch.setattr(proved, "ROOT", tmp_path)
    monkeypatch.setattr(proved, "LEDGER", home / "ledger.json")
    proved.main()
    assert capsys.readouterr().out == "theory/derivations/s7.md\n"
    for stem in ("s7", "statements"):
        assert (pages / f"{stem}.md").read_text() == (ROOT / f"theory/derivations/{stem}.md").read_text()
    for name in ("ledger.json", "ledger.md"):
        assert (home / name).read_text() == (ROOT / "docs/verify" / name).read_text()


def check_module():
    spec = importlib.util.spec_from_file_location(
        "proofs_check", FOLDER / "check.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_assumed_is_found(tmp_path, monkeypatch):
    """In code, not in comments, nested or not; and in none of our files."""
    monkeypatch.syspath_prepend(FOLDER)
    check = check_module()
    (tmp_path / "good.v").write_text("(* Admitted (* nested *) Axiom *)\nLemma x : True. Proof. by []. Qed.\n")
    assert check.assumed(tmp_path) == []
    (tmp_path / "bad.v").write_text("(* fine *) Lemma x : False. Proof. Admitted.\nAxiom y : False.\n")
    assert check.assumed(tmp_path) == ["bad.v: Admitted", "bad.v: Axiom"]
    assert check.assumed() == []


def test_without_coq_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    check = check_module()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["check.py"])
    assert check.main() == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("proofs: not found: coqc")
    assert "apt-get install" in said


def test_an_axiom_of_ours_is_not_coqs_own_by_its_name(monkeypatch):
    """`Hypothesis classic : False` outside a section is an axiom that nobody forbids by words."""
    monkeypatch.syspath_prepend(FOLDER)
    check = check_module()
    printed = "=== mine\nmine\n     : True\n=== axioms\nAxioms:\nMine.classic : False\nClassical_Prop.classic\n  : forall P, P\n"
    monkeypatch.setattr(
        check.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=printed, stderr="")
    )
    monkeypatch.setattr(check, "index", lambda: {"M": {"theorems": ["Mine.mine"]}})
    text, foreign = check.statements(1)
    assert foreign == ["Mine.v assumes Mine.classic"]
    assert "\nMine.mine\n     : True\n" in text


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """`make proofs` with every program replaced by what it says; the two files are those of a folder of its own."""
    monkeypatch.syspath_prepend(FOLDER)
    check = check_module()
    said = SimpleNamespace(
        made=0, statements="theorems\n", foreign=[], golden="stages\n", alike=True, ocaml=True, assumed=[]
    )
    monkeypatch.setattr(check, "HERE", tmp_path)
    monkeypatch.setattr(check, "missing", str)
    monkeypatch.setattr(check, "assumed", lambda: said.assumed)
    monkeypatch.setattr(check.subprocess, "run", lambda command, **_: SimpleNamespace(returncode=said.made))
    monkeypatch.setattr(check, "statements", lambda workers: (said.statements, said.foreign))
    monkeypatch.setattr(check, "prints_alike", lambda: said.alike)
    monkeypatch.setattr(check, "extracts", lambda: said.ocaml)
    monkeypatch.setattr(
        check, "golden", SimpleNamespace(build=lambda folder: folder, golden=lambda program: said.golden)
    )
    monkeypatch.setattr(check, "index", lambda: {"A": {"theorems": ["F.a", "F.b"]}, "B": {"theorems": ["F.c"]}})
    for name in ("statements", "golden"):
        (tmp_path / ("statements.txt" if name == "statements" else "golden.json")).write_text(getattr(said, name))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["check.py", *arguments])
        return check.main()

    said.run, said.folder = run, tmp_path
    return said


def test_proofs_that_say_what_is_committed(checked, capsys):
    assert checked.run() == 0
    line = "proofs: 3 theorems of 2 ids, nothing admitted, no axiom but Coq's own; the evaluator agrees too\n"
    assert capsys.readouterr().out == line
    checked.ocaml, checked.golden = False, "other stages\n"
    assert checked.run() == 0
    assert "the evaluator was NOT run: apt-get install" in capsys.readouterr().out
    checked.alike, checked.statements = False, "as mathcomp 2 prints them\n"
    assert checked.run() == 0
    assert "statements.txt was not compared: mathcomp 1 printed it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"assumed": ["F.v: Admitted"]}, "proofs: something is assumed:\n  F.v: Admitted\n"),
        ({"made": 2}, "proofs: the build failed, see above\n"),
        ({"foreign": ["F.v assumes x"]}, "proofs: axioms that are not Coq's own:\n  F.v assumes x\n"),
        ({"statements": "other theorems\n"}, "proofs: statements.txt differs from what Coq says now."),
        ({"golden": "other stages\n"}, "proofs: golden.json differs from what Coq says now."),
    ],
)
def test_proofs_that_say_something_else_are_an_error(checked, capsys, change, said):
    """Exit code 1, whatever else is fine; nothing is written."""
    vars(checked).update(change)
    assert checked.run() == 1
    found = capsys.readouterr()
    assert said in found.out + found.err
    assert "nothing admitted" not in found.out
    assert (checked.folder / "statements.txt").read_text() == "theorems\n"
    assert (checked.folder / "golden.json").read_text() == "stages\n"


def test_what_coq_says_is_written_where_it_is_asked_for(checked, capsys):
    """And a file that is as it should be is left alone."""
    checked.golden = "other stages\n"
    assert checked.run("--write") == 0
    assert (checked.folder / "golden.json").read_text() == "other stages\n"
    out = capsys.readouterr().out
    assert "proofs: golden.json written" in out
    assert "statements.txt written" not in out
    (checked.folder / "statements.txt").unlink()
    assert checked.run() == 1
    assert "+theorems" in capsys.readouterr().out


@pytest.mark.parametrize(
    "word",
    ["Admitted", "admit", "give_up", "Axiom", "Axioms", "Parameter", "Parameters", "Conjecture", "Unset Guard Checking",
     "bypass_check"],
)  # fmt: skip
def test_every_way_to_assume_is_found(tmp_path, monkeypatch, word):
    monkeypatch.syspath_prepend(FOLDER)
    check = check_module()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.v").write_text(f"Lemma x : True. {word}. Unadmitted Parameterise.\n")
    assert check.assumed(tmp_path) == [f"x.v: {word}"]


def test_statements_and_axioms_by_file(monkeypatch):
    """Each theorem under every id that cites it, asked for once; axioms without their modules; a file that has none says so."""
    monkeypatch.syspath_prepend(FOLDER)
    check, asked = check_module(), []

    def said(file, theorems):
        asked.append((file, theorems))
        axioms = (
            ["Classical_Prop.classic", "FunctionalExtensionality.functional_extensionality_dep"]
            if file == "One"
            else []
        )
        return {name: f"  : {file} {name}" for name in theorems}, axioms

    monkeypatch.setattr(check, "_asked", said)
    monkeypatch.setattr(
        check, "index", lambda: {"A": {"theorems": ["Two.c", "One.a"]}, "B": {"theorems": ["One.b", "One.a"]}}
    )
    text, foreign = check.statements(1)
    assert asked == [("One", ["a", "b"]), ("Two", ["c"])]
    assert foreign == []
    assert text == (
        "Axioms, at most, of the theorems that are cited from a file:\n\n"
        "  One.v: classic, functional_extensionality_dep\n  Two.v: none\n"
        "\n######## A\n\nTwo.c\n  : Two c\n\nOne.a\n  : One a\n"
        "\n######## B\n\nOne.b\n  : One b\n\nOne.a\n  : One a\n"
    )


def test_which_mathcomp_and_whether_the_evaluator_can_be_compiled(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    check, code = check_module(), 0
    monkeypatch.setattr(
        check.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code, stdout=f"{tmp_path}\n")
    )
    assert check.prints_alike()
    (tmp_path / "user-contrib" / "HB").mkdir(parents=True)
    assert not check.prints_alike()
    monkeypatch.setattr(check.shutil, "which", lambda tool: tool)
    assert (check.missing(), check.extracts()) == ("", True)
    code = 1
    assert (check.missing(), check.extracts()) == ("not found: the Coq library mathcomp", False)
    monkeypatch.setattr(check.shutil, "which", lambda tool: None)
    assert (check.missing(), check.extracts()) == ("not found: coqc, coqdep, make", False)
