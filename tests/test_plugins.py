"""A reader's own rungs, claims and families in the suite; tiers; a run that was interrupted goes on where it was."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.bounds import Rung
from teamtr_jax.claims import Check, Claim, rung_claim, s4, s7
from teamtr_jax.validation import InputError
from theory import audit, ledger, plugins
from theory.families import FAMILIES, Family
from theory.run import TIERS, Tier, run

CORNERS = next(f for f in FAMILIES if f.name == "corners")
mine = Family("mine", "the corners again", 0.005, CORNERS.make)
quarter = Rung("S7/4", "penalty_quarter", "fresh", ("discounted",), "estimable", lambda r: r.return_range * r.kl / 4)


def same(stage, report):
    """Nothing is wrong with this one: J is J."""
    del stage
    return {"": Check(abs(report.objective - report.objective).max(), jnp.zeros(()), jnp.zeros(()))}


own = Claim("own", "J = J", "this test", same)
NONE = Tier(400, 0, (), (), True, 400)


def test_own_rung_family_and_claim_reach_the_ledger():
    """A false rung is found false, on the reader's family, beside the true ones; nothing in the package knows of it."""
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
    assert "| penalty_quarter | 400 |" in text
    assert "[s7](../../theory/derivations/s7.md)" in text


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "mine.py: found no such file"),
        ("x = 1\n", "--plugin: found .* without RUNGS, CLAIMS, FAMILIES"),
        ("RUNGS = [1]\n", "RUNGS: found int, expected Rung"),
        ("from theory.families import FAMILIES\n", "family: found corners twice"),
    ],
)
def test_bad_plugin_files(tmp_path, text, message):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        plugins.load(path)
