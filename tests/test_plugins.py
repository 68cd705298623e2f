"""A reader's own rungs, claims and families in the suite; tiers; a run that was interrupted goes on where it was."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import theory.__main__ as command
from teamtr_jax import cli
from teamtr_jax.bounds import Rung
from teamtr_jax.claims import Check, Claim, rung_claim, s4, s7
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import read_stage
from teamtr_jax.validation import InputError
from theory import audit, ledger, plugins
from theory.families import FAMILIES, Family
from theory.run import run
from theory.tiers import TIERS, Tier

CORNERS = next(f for f in FAMILIES if f.name == "corners")
mine = Family("mine", "the corners again", 0.005, CORNERS.make)
quarter = Rung("S7/4", "penalty_quarter", "fresh", ("discounted",), "estimable", lambda r: r.return_range * r.kl / 4)


def same(stage, report):
    """Nothing is wrong with this one: J is J."""
    del stage
    return {"": Check(abs(report.objective - report.objective).max(), jnp.zeros(()), jnp.zeros(()))}


own = Claim("own", "J = J", "this test", same)
NONE = Tier(400, 0, (), (), True, 400)


def test_own_rung_family_and_claim_reach_the_ledger(tmp_path):
    """A false rung is found false, on the reader's family, beside the true ones; nothing in the package knows of it.

    The worst stage is kept: a stage file like any other, on which the rung is below the gap and every claim of the package holds.
    """
    added = plugins.Plugins((quarter,), (own,), (mine,))
    assert added.all_claims[-2:-1] == (own,)
    result = run(NONE, added, studies=(), claims=(s7.CLAIM, own, rung_claim(quarter)))
    rows = {row.id: row for row in result.rows}
    assert list(rows) == ["S7", "own", "penalty_quarter"]
    assert rows["penalty_quarter"].violations > 0
    assert rows["S7"].violations == rows["own"].violations == 0
    assert rows["S7"].instances == 400
    assert result.about["counts"] == {"mine": 400}
    text = ledger.markdown(result.rows, result.about)
    assert (
        "| The fresh gap of an update is at most penalty_quarter. | `\\|fresh gap_i\\| ≤ penalty_quarter` | 400 |"
        in text
    )
    assert "[s7](../../theory/derivations/s7.md)" in text
    assert (rows["penalty_quarter"].detects, rows["own"].detects) == (None, None)  # violated; 0 ≤ 0 catches nothing
    assert 0 < rows["S7"].detects < 1
    file = "counterexample-penalty_quarter.npz"
    assert rows["penalty_quarter"].note.endswith(f"counterexample of family mine: {file}")
    assert set(result.draws) == {"adversarial.md", file}
    result.draws[file](tmp_path / file)
    report = evaluate_stage(read_stage(tmp_path / file))
    ratio = float(np.nanmax(abs(report.gap_fresh) / quarter.fn(report)))  # 0/0 where an agent does nothing
    assert ratio == pytest.approx(rows["penalty_quarter"].tightest, rel=1e-9)
    assert ratio > 1
    assert cli.CheckCommand((tmp_path / file,)).run() == 0


def test_every_claim_of_the_package_and_of_the_reader_is_in_the_audit():
    added = plugins.Plugins((quarter,), (own,), ())
    ids = [claim.id for claim in added.all_claims]
    assert ids[-2:] == ["own", "penalty_quarter"]
    assert {"S1", "S2", "S3", "S4", "S5", "S6", "S7", "S7b", "S7c", "S9", "E1"} <= set(ids)


def test_tiers():
    """What the issue asks of them: a million stages, resumable, only in the full one."""
    assert TIERS["full"].instances == 10**6
    assert [name for name, tier in TIERS.items() if tier.keep] == ["full"]
    assert TIERS["default"].exact >= 1000
    assert TIERS["quick"].quick


@pytest.fixture
def journal(tmp_path):
    return audit.Journal(tmp_path / "kept", audit.fingerprint("test"))


def tallies(journal, stopped, instances=60, done=None):
    return audit.audit_family(
        CORNERS, instances, np.random.default_rng(5), (s4.CLAIM, s7.CLAIM), chunk=20, journal=journal, stopped=stopped,
        progress=(done.append if done is not None else lambda _: None),
    )  # fmt: skip


def test_an_interrupted_audit_goes_on_where_it_was(journal):
    """Interrupted after each chunk in turn, it ends with exactly the tallies of an uninterrupted run."""
    whole = tallies(None, lambda: False)
    for _ in range(3):
        asked = iter([False, True])
        part = tallies(journal, lambda asked=asked: next(asked))
    assert part == whole
    done: list[int] = []
    assert tallies(journal, lambda: False, done=done) == whole
    assert done == [60]  # nothing was left to do


def test_what_other_code_or_settings_wrote_is_not_read(journal):
    tallies(journal, lambda: False, instances=20)
    assert journal.read("corners") is not None
    other = journal._replace(fingerprint=audit.fingerprint("other settings"))
    assert other.fingerprint != journal.fingerprint
    assert other.read("corners") is None
    assert json.loads((journal.folder / "corners.json").read_text())["done"] == 20
    assert [path.name for path in journal.folder.iterdir()] == ["corners.json"]  # no half-written file


def test_plugin_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from teamtr_jax.bounds import Rung\n"
        "RUNGS = [Rung('x', 'penalty_x', 'stale', ('discounted',), 'oracle', lambda report: report.kl)]\n"
    )
    loaded = plugins.load(path)
    assert [rung.name for rung in loaded.rungs] == ["penalty_x"]
    assert loaded.all_claims[-1].statement == "|stale gap_i| ≤ penalty_x"


HEAD = (
    "import jax.numpy as jnp\nfrom teamtr_jax.bounds import Rung\nfrom teamtr_jax.claims import Check, Claim\n"
    "from theory.families import Family, FAMILIES as BUILT_IN\n"
    "def rung(name='mine', gap='fresh', forms=('discounted',), information='oracle', fn=lambda r: r.kl, id='x'):\n"
    "    return Rung(id, name, gap, forms, information, fn)\n"
    "def claim(check, id='own', **more):\n    return Claim(id, 'a statement', 'a test', check, **more)\n"
)

TREE = (
    "import jax\ndef changed(factor):\n"
    "    def make(rng, n):\n"
    "        return jax.tree.map(lambda x: x * factor if x.dtype == float else x, BUILT_IN[5].make(rng, n))\n"
    "    return make\n"
)
"""Stages that no constructor has seen."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "mine.py: found no such file, expected a Python file"),
        ("x = 1\n", "--plugin: found .* without RUNGS, CLAIMS, FAMILIES"),
        ("RUNGS = [1]\n", "RUNGS: found int, expected Rung"),
        ("from theory.families import FAMILIES\n", "family: found corners twice"),
        ("x = (\n", "--plugin: found .*mine.py, line 1: '\\(' was never closed, expected a Python file that runs"),
        ("import nothing_like_it\n", "--plugin: found .*ModuleNotFoundError: No module named"),
        ("raise SystemExit(0)\n", "--plugin: found .*which ends with SystemExit: 0"),
        ("1 / 0\n", "--plugin: found .*which ends with ZeroDivisionError: division by zero"),
        ("RUNGS = 7\n", "RUNGS: found int, expected a list of Rung"),
        ("RUNGS = []\n", "--plugin: found .* with nothing in RUNGS, CLAIMS, FAMILIES, expected at least one record"),
        (HEAD + "RUNGS = [rung(name='')]\n", "RUNGS: name: found '', expected a text"),
        (HEAD + "RUNGS = [rung(name='a\\x1b[2J')]\n", r"RUNGS: name: found '"),
        (HEAD + "RUNGS = [rung(gap='warm')]\n", "mine: gap: found 'warm', expected one of fresh, stale, cached, reused"),
        (HEAD + "RUNGS = [rung(forms='discounted')]\n", "mine: forms: found 'discounted', expected a tuple of"),
        (HEAD + "RUNGS = [rung(forms=('x',))]\n", "mine: forms: found 'x', expected one of"),
        (HEAD + "RUNGS = [rung(forms=())]\n", "mine: forms: found \\(\\), expected a tuple of"),
        (HEAD + "RUNGS = [rung(id='')]\n", "mine: id: found '', expected a text"),
        (HEAD + "CLAIMS = [Claim('own', 'x', 3, lambda s, r: {})]\n", "own: source: found 3, expected a text"),
        (HEAD + "FAMILIES = [Family('mine', '', True, print)]\n", "mine: share: found True, expected a positive number"),
        (HEAD + "FAMILIES = [Family('mine', '', 1.0, print, (), True)]\n", "mine: chunk: found True, expected None or"),
        (HEAD + "RUNGS = [rung(information='mine')]\n", "mine: information: found 'mine', expected one of oracle, prior"),
        (HEAD + "RUNGS = [rung(fn=3)]\n", "mine: fn: found int, expected a function"),
        (HEAD + "RUNGS = [rung(), rung()]\n", "id: found mine twice, expected one of its own"),
        (HEAD + "CLAIMS = [claim(None, id='S7')]\n", "S7: check: found NoneType, expected a function"),
        (HEAD + "CLAIMS = [claim(lambda s, r: {}, id='S7')]\n", "id: found S7 twice"),
        (HEAD + "CLAIMS = [Claim('own', 3, 'x', lambda s, r: {})]\n", "own: statement: found 3, expected a text"),
        (HEAD + "FAMILIES = [Family('mine', '', -1.0, print)]\n", "mine: share: found -1.0, expected a positive number"),
        (HEAD + "FAMILIES = [Family('mine', '', float('nan'), print)]\n", "mine: share: found nan, expected a positive number"),
        (HEAD + "FAMILIES = [Family('mine', '', 1.0, print, (), 0)]\n", "mine: chunk: found 0, expected None or an integer"),
        (HEAD + "FAMILIES = [Family('mine', '', 1.0, print, (3,))]\n", "mine: without: found .*, expected ids of claims"),
        (HEAD + "FAMILIES = [Family('mine', 3, 1.0, print)]\n", "mine: sizes: found 3, expected a text"),
        (HEAD + "FAMILIES = [Family('mine', '', 1e308, print)]\n", "mine: share: found 1e\\+308, expected a positive number"),
        (HEAD + "FAMILIES = [Family('mine', '', 1.0, BUILT_IN[5].make, ('S77',))]\n", "without: found 'S77', expected one of T0"),
        (HEAD + "FAMILIES = [Family('mine', '', 1.0, BUILT_IN[5].make, (), 10**12)]\n", "chunk: found 1000000000000: "),
        (HEAD + TREE + "FAMILIES = [Family('mine', '', 1.0, changed(.5))]\n", "mine: transition: found row .* sums to 0.5"),
        (HEAD + TREE + "FAMILIES = [Family('mine', '', 1.0, changed(float('nan')))]\n", "mine: transition: found nan"),
        (HEAD + "CLAIMS = [claim(lambda s, r: {}, id='x' * 301)]\n", "CLAIMS: id: found 'xx"),
        (HEAD + "CLAIMS = [claim(lambda s, r: {}, tight=3)]\n", "own: tight: found 3, expected a text"),
        (HEAD + "CLAIMS = [claim(lambda s, r: {}, words='a\\nb')]\n", "own: words: found '.*', expected a text"),
        ("class Own(BaseException): pass\nraise Own('x')\n", "--plugin: found .*which ends with Own: x"),
        ("class Own(Exception):\n    def __str__(self): 1 / 0\nraise Own\n", "--plugin: found .*which ends with Own: Own"),
        ("x = 1\0\n", "--plugin: found .*line 1: source code string cannot contain null bytes"),
        (HEAD + "FAMILIES = [Family('mine', '', 1.0, lambda rng, n: n)]\n", "mine: found int, expected a Stage"),
        (HEAD + "FAMILIES = [Family('mine', '', 1.0, lambda rng, n: 1 / 0)]\n", "mine: found ZeroDivisionError: "),
        (HEAD + "FAMILIES = [Family('mine', '', 1.0, lambda rng, n: BUILT_IN[5].make(rng, n + 1))]\n", "mine: found first axes"),
    ],
)  # fmt: skip
def test_bad_plugin_files(tmp_path, text, message):
    """Refused before anything is evaluated: the file, what is in it, what families make."""
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        plugins.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUNGS = [rung(fn=lambda r: r.kl * jnp.nan)]\n", "RUNGS: mine: found NaN, expected a bound, which may be infinite"),
        ("RUNGS = [rung(fn=lambda r: r.kl.sum())]\n", r"mine: found float64\[\], expected float64\[3\], a number for each of 3"),
        ("RUNGS = [rung(fn=lambda r: r.kl[:2])]\n", r"mine: found float64\[2\], expected float64\[3\]"),
        ("RUNGS = [rung(fn=lambda r: r.kl.astype('float32'))]\n", r"mine: found float32\[3\], expected float64\[3\]"),
        ("RUNGS = [rung(fn=lambda r: r.nothing)]\n", "mine: found AttributeError: .*nothing.*, expected a function of a report"),
        ("RUNGS = [rung(fn=lambda r: (r.kl, r.kl))]\n", "mine: found tuple, expected float64"),
        ("RUNGS = [rung(), rung('bad', fn=lambda r: r.kl + jnp.nan)]\n", "RUNGS: bad: found NaN"),
        ("CLAIMS = [claim(lambda s, r: r.kl)]\n", "CLAIMS: own: found .*, expected a dict of named checks"),
        ("CLAIMS = [claim(lambda s, r: {'a': Check(r.kl, r.kl, r.kl * jnp.nan)})]\n", "own: a budget: found NaN"),
        ("CLAIMS = [claim(lambda s, r: {'a': Check(r.kl * jnp.nan, r.kl, r.kl)})]\n", "own: a measured: found NaN"),
        ("CLAIMS = [claim(lambda s, r: {'a': Check(r.kl, r.kl.astype('float32'), r.kl)})]\n", "own: a bound: found dtype float"),
        ("CLAIMS = [claim(lambda s, r: {'a': Check(r.kl, r.kl * jnp.nan, r.kl)}, forms=('episodic',))]\n", "a bound: found N"),
        ("CLAIMS = [claim(lambda s, r: {'a': Check(r.kl[:2], r.kl, r.kl)})]\n", "own: a: found ValueError: .*, expected sides"),
        ("CLAIMS = [claim(lambda s, r: 1 / 0)]\n", "CLAIMS: own: found ZeroDivisionError"),
        ("CLAIMS = [claim(lambda s, r: exit(0))]\n", "CLAIMS: own: found SystemExit: 0"),
        ("CLAIMS = [claim(lambda s, r: {})]\n", "CLAIMS: own: found no checks, expected at least one"),
        ("CLAIMS = [claim(lambda s, r: {'a': Check(r.kl, r.kl, -r.kl)})]\n", "own: a budget: found -.*, expected a r"),
    ],
)  # fmt: skip
def test_functions_of_a_plugin_are_tried(tmp_path, text, message):
    """On a few stages, before the work: what fails or is not what it should be is refused by name."""
    path = tmp_path / "mine.py"
    path.write_text(HEAD + text)
    with pytest.raises(InputError, match=message):
        plugins.load(path)


def test_an_infinite_bound_is_one(tmp_path):
    """And a file is known by its bytes: progress made with another one is not read."""
    path = tmp_path / "mine.py"
    path.write_text(
        HEAD
        + "RUNGS = [rung(fn=lambda r: r.kl + jnp.inf)]\nCLAIMS = (claim(lambda s, r: {'': Check(r.kl, r.kl, 0 * r.tv)}),)\n"
    )
    loaded = plugins.load(path)
    assert [claim.id for claim in loaded.all_claims[-2:]] == ["own", "mine"]
    path.write_text(path.read_text() + "\n")
    again = plugins.load(path)
    assert len(loaded.source) == 64
    assert again.source != loaded.source


def test_a_false_rung_on_the_command_line(tmp_path, monkeypatch, capsys):
    """`--plugin` with `--only`: nothing else is audited, the verdict names it, its worst stage is a file beside the ledger."""
    path, out = tmp_path / "mine.py", tmp_path / "out"
    path.write_text(HEAD + "RUNGS = [rung(fn=lambda r: r.kl / 1e3), rung('other')]\n")
    monkeypatch.setitem(TIERS, "quick", Tier(200, 0, ("corners",), (), True, 200))
    assert command.run(command.VerifySettings(quick=True, plugin=path, only=("mine",), out=out)) == 1
    data = json.loads((out / "ledger.json").read_text())
    assert [claim["id"] for claim in data["claims"]] == ["mine"]
    assert data["claims"][0]["detects"] is None
    assert f"Violated: mine in {data['claims'][0]['violations']} comparisons." in capsys.readouterr().out
    assert {x.name for x in out.iterdir()} == {"ledger.json", "ledger.md", "adversarial.md", "counterexample-mine.npz"}
    assert cli.CheckCommand((out / "counterexample-mine.npz",)).run() == 0
    with pytest.raises(InputError, match=r"--only: found 'S44', expected ids among .*, mine, other"):
        command.run(command.VerifySettings(quick=True, plugin=path, only=("mine", "S44"), out=out))
