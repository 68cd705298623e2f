"""Bookkeeping of verdicts in theory/, by value: from one comparison to the ledger and the exit code. Reports are stubs."""

import dataclasses
import html
import itertools
import json
import pickle
import platform
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flint import arb, fmpq
from markdown_it import MarkdownIt
from rich.console import Console

import theory.__main__ as command
from teamtr_jax.claims import STAGE_CLAIMS, Check, Claim, judge
from teamtr_jax.dynamics import Dense
from teamtr_jax.files import unseal
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import InputError, unchecked
from theory import audit, evidence, exact_audit, ledger
from theory import run as suite
from theory.audit import Tally
from theory.exact_audit import Evidence
from theory.families import FAMILIES, Family
from theory.ledger import Row
from theory.plugins import Plugins
from theory.studies import (
    bounds,
    joint,
    p3_2,
    r1,
    r2,
    r3,
    r4,
    r5,
    r6,
    r7,
    s7d,
    s8,
    s8_anytime,
    s8_networks,
    s11,
    s12,
    s13,
    scaling,
    u1,
    u4,
)
from theory.studies.base import Found, Study
from theory.studies.every import STUDIES
from theory.tiers import TIERS, Tier

VERIFY = Path(__file__).parents[1] / "docs/verify"
U = 0.015625
"""A budget that is a power of two: sums with it are exact."""


# ------------------------------------------------------------------------------------------------------------- one comparison


@pytest.mark.parametrize(
    ("budgets", "violated", "inconclusive"),
    [(-9, 0, 0), (-1.0625, 0, 0), (-1, 0, 0), (-0.9375, 0, 1), (0, 0, 1), (0.9375, 0, 1), (1, 0, 1), (1.0625, 1, 0),
     (2, 1, 0), (9, 1, 0)],
)  # fmt: skip
def test_one_budget_on_either_side_of_the_bound(budgets, violated, inconclusive):
    """Within one budget of the bound nothing is said; beyond it a claim is violated, at two budgets as at nine."""
    one = judge(Check(jnp.asarray([1 + budgets * U]), jnp.ones(1), jnp.full(1, U)))
    assert (int(one.violated[0]), int(one.inconclusive[0])) == (violated, inconclusive)


@pytest.mark.parametrize(("budgets", "violated"), [(0, 0), (0.9375, 0), (1, 0), (1.0625, 1), (2, 1), (9, 1)])
def test_an_identity_is_off_by_at_most_one_budget(budgets, violated):
    one = judge(Check(jnp.asarray([budgets * U]), jnp.zeros(1), jnp.full(1, U), jnp.full(1, 4.0)))
    assert (int(one.violated[0]), int(one.inconclusive[0])) == (violated, 0)
    assert float(one.slack[0]) == (1 + budgets) * U / 4  # an error of either side by this share would be seen
    assert float(one.ratio[0]) == 0


def test_what_a_comparison_would_have_caught():
    """`measured = ½ + U`, bound 1: a bound smaller by more than ½ would be refuted, and not by less; the ratio has no budget."""
    one = judge(Check(jnp.asarray([0.5 + U]), jnp.ones(1), jnp.full(1, U)))
    assert (float(one.slack[0]), float(one.ratio[0])) == (0.5, 0.5 + U)
    lower = judge(Check(jnp.asarray([0.5 + U]), jnp.full(1, 0.5 - U), jnp.full(1, U)))
    assert bool(lower.violated[0])
    zero = judge(Check(jnp.zeros(3), jnp.asarray([0.0, 1.0, jnp.inf]), jnp.full(3, U)))
    assert zero.slack.tolist() == [1, 1, 1]
    assert zero.trivial.tolist() == [True, False, False]
    assert zero.ratio.tolist() == [0, 0, 0]


# ------------------------------------------------------------------------------------------------------- an audit of stub stages

GAMMA = 0.75


def stub_stages(values, actions=1):
    """Stages of one state whose reward is a number that claims read."""
    batch = len(values)
    with unchecked():
        world = Dense(jnp.ones((batch, 1, actions, 1)), jnp.full(batch, GAMMA))
        reward = jnp.repeat(jnp.asarray(values).reshape(batch, 1, 1), actions, -1)
        team = Team(world, reward, jnp.ones((batch, 1)), jnp.zeros((batch, 1), int), 1)
        policy = jnp.full((batch, 1, actions), 1 / actions)
        return Stage(team, policy, policy, jnp.zeros((batch, 1), int))


@pytest.fixture
def stub_reports(monkeypatch):
    """`stage_report` replaced: a discount and nothing else. What is decided exactly: `decided(value)` says."""
    found = SimpleNamespace(episodic=False, asked=[])
    monkeypatch.setattr(
        audit, "stage_report", lambda stage: SimpleNamespace(episodic=found.episodic, discount=jnp.asarray(GAMMA))
    )

    def exact_checks(stage, only):
        x = float(np.asarray(stage.team.reward).ravel()[0])
        found.asked.append((only, x))
        if only == "side":
            return {}
        second = (fmpq(1), fmpq(1)) if x < 1 else (arb(1), arb(1, 0.5))  # `arb(1, 0.5)`: 1 ± .5, which decides nothing
        return {("float", ""): [(fmpq(1001, 1000), fmpq(1)) if x > 1 else (fmpq(999, 1000), fmpq(1)), second]}

    monkeypatch.setattr(audit, "exact_checks", exact_checks)
    return found


def two_sided(stage, report):
    """Two instances: the reward against 1, with the budget U; the same plus ¼ against an infinite bound."""
    del report
    x = stage.team.reward.ravel()[0]
    return {"": Check(jnp.stack([x, x + 0.25]), jnp.asarray([1.0, jnp.inf]), jnp.full(2, U))}


def named(stage, report):
    """An identity that is off by (reward − 1) and a trivial inequality."""
    del report
    x = stage.team.reward.ravel()[0]
    return {
        "id": Check(abs(x - 1), jnp.zeros(()), jnp.asarray(10.0), jnp.asarray(4.0)),
        "zero": Check(jnp.zeros(3), jnp.zeros(3), jnp.full(3, U)),
    }


FLOAT = Claim("float", "x ≤ 1", "a test", two_sided, tight="at 1")
NAMED = Claim("named", "x = 1", "a test", named)
OPENED = 1 + 0.5 * U
VALUES = (0.25, OPENED, 0.5, 1.5, 1 - 0.5 * U, 0.75, OPENED)
"""Holds, open (exactly: violated), holds, violated, open (exactly: holds), holds, open (violated)."""


def family_of(values, name="stubs", **more):
    """A family that hands these out in order, as many as are asked for; the place in the row is kept in the generator."""

    def make(rng, batch):
        at = rng.bit_generator.state["state"]["state"] % 1000
        rng.bit_generator.state = {
            **rng.bit_generator.state,
            "state": {**rng.bit_generator.state["state"], "state": at + batch},
        }
        return stub_stages([values[k % len(values)] for k in range(at, at + batch)])

    return Family(name, "stubs", 1.0, make, **more)


def generator():
    rng = np.random.default_rng(0)
    rng.bit_generator.state = {**rng.bit_generator.state, "state": {**rng.bit_generator.state["state"], "state": 0}}
    return rng


def audited(chunk, claims=(FLOAT, NAMED), **more):
    return audit.audit_family(family_of(VALUES), len(VALUES), generator(), claims, chunk=chunk, **more)


@pytest.mark.parametrize("chunk", [7, 3, 2, 1, 50])
def test_an_audit_counts_by_value(stub_reports, chunk):
    """Whatever the chunk, and where the last one is a part of it: the tallies of all, counted here one by one."""
    found = audited(chunk)
    tally = found["float", ""]
    assert (tally.stages, tally.checks) == (7, 14)
    assert (tally.violated, tally.inconclusive, tally.decided, tally.trivial) == (1 + 2, 0, 3, 0)
    assert (tally.ratio, tally.where, tally.identity) == (1.5, "stubs", False)
    assert tally.slack == 1 - (
        1.5 - U
    )  # of the one that is violated: it would catch even a bound twice as large as it is
    tally = found["named", "id"]
    assert (tally.stages, tally.checks, tally.violated, tally.identity) == (7, 7, 0, True)
    assert tally.slack == (10 + 0.5 * U) / 4
    tally = found["named", "zero"]
    assert (tally.stages, tally.checks, tally.trivial, tally.ratio, tally.slack) == (7, 21, 21, 0, 1)


def test_the_tightest_and_the_caught_are_the_extremes_over_chunks(stub_reports):
    """.75 with budget U would catch an error of 1 − (.75 − U); powers: where γ^x and (1−γ)^x are that far off."""
    values = (0.25, 0.75, 0.5)
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        family = family_of([values[k] for k in order])
        tally = audit.audit_family(family, 3, generator(), (FLOAT,), chunk=1)["float", ""]
        slack = 1 - (0.75 - U)
        assert (tally.ratio, tally.slack) == (0.75, slack)
        assert tally.gamma_power == pytest.approx(np.log(1 / (1 - slack)) / np.log(1 / GAMMA), rel=1e-12)
        assert tally.length_power == pytest.approx(np.log(1 / (1 - slack)) / np.log(1 / (1 - GAMMA)), rel=1e-12)


def test_episodes_have_no_powers_and_claims_their_forms(stub_reports):
    stub_reports.episodic = True
    only = FLOAT._replace(id="only", forms=("discounted",))
    found = audited(7, (FLOAT._replace(id="episodic", forms=("episodic",)), only))
    assert {id_ for id_, _ in found} == {"episodic"}
    assert (found["episodic", ""].gamma_power, found["episodic", ""].length_power) == (np.inf, np.inf)


def test_without_a_discount_there_are_no_powers_of_it(stub_reports, monkeypatch):
    """γ = 0: no power of γ or of 1/(1−γ) makes a difference, so none would have been caught."""
    monkeypatch.setattr(audit, "stage_report", lambda stage: SimpleNamespace(episodic=False, discount=jnp.zeros(())))
    found = audit._stage_verdicts([FLOAT])(jax.tree.map(lambda x: x[0], stub_stages([0.5])))["float", ""]
    assert (float(found["gamma_power"]), float(found["length_power"])) == (np.inf, np.inf)
    assert float(found["slack"]) < 1


@pytest.mark.parametrize(("chunk", "instances", "decided"), [(2, 20, 5), (6, 20, 5), (20, 20, 5), (20, 100_000, 9)])
def test_exact_decisions_of_a_family_have_half_a_minute(stub_reports, monkeypatch, chunk, instances, decided):
    """Seven seconds each, begun up to second 30, whatever the chunks; up to second 60 in a family of 100,000 stages."""
    clock, right = [100.0], audit.exact_checks

    def slow(stage, only):
        clock[0] += 7
        return right(stage, only)

    monkeypatch.setattr(audit, "exact_checks", slow)
    monkeypatch.setattr(audit.time, "thread_time", lambda: clock[0])
    asked = iter([False] * (20 // chunk) + [True])
    found = audit.audit_family(
        family_of([OPENED]), instances, generator(), (FLOAT,), chunk=chunk, stopped=lambda: next(asked)
    )["float", ""]
    done = found.stages
    assert (found.decided, found.inconclusive) == (decided, done - decided)


def test_what_cannot_be_decided_stays_inconclusive(stub_reports, monkeypatch):
    """Without an exact form; beyond the time; on a team that is too large; of balls that overlap."""
    side = FLOAT._replace(id="side")
    found = audited(7, (side,))["side", ""]
    assert (found.violated, found.inconclusive, found.decided) == (1, 3, 0)
    monkeypatch.setattr(audit, "EXACT_SECONDS", -1.0)
    late = audited(7, (FLOAT,))["float", ""]
    assert (late.violated, late.inconclusive, late.decided) == (1, 3, 0)
    monkeypatch.undo()


def test_teams_of_up_to_24_states_are_decided(stub_reports, monkeypatch):
    monkeypatch.setattr(audit, "EXACT_STATES", 0)
    large = audited(7, (FLOAT,))["float", ""]
    assert (large.violated, large.inconclusive, large.decided) == (1, 3, 0)
    monkeypatch.setattr(audit, "EXACT_STATES", 1)
    assert audited(7, (FLOAT,))["float", ""].decided == 3
    wide = stub_stages([OPENED] * 3, actions=2)  # it is states that count
    family = Family("own", "stubs", 1.0, lambda rng, batch: wide)
    assert audit.audit_family(family, 3, generator(), (FLOAT,), chunk=3)["float", ""].decided == 3


def test_only_what_is_open_is_decided(stub_reports):
    """`exact_checks` is asked for the claim and the stages that were open; of its instances those that were."""
    audited(7)
    assert stub_reports.asked == [("float", OPENED), ("float", 1 - 0.5 * U), ("float", OPENED)]
    stage = jax.tree.map(lambda x: x[0], stub_stages([OPENED]))
    assert audit._decide(stage, ("float", ""), np.array([True, True])) == (1, 1)
    assert audit._decide(stage, ("float", ""), np.array([False, True])) == (0, 1)
    assert audit._decide(stage, ("side", ""), np.array([True, True])) == (0, 2)


def test_no_number_is_a_violation_and_breaks_no_ledger(stub_reports, tmp_path):
    """NaN on either side: counted, the ratio is infinite, it would have caught nothing, and the ledger can be written."""
    family = family_of([0.5, np.nan])
    found = audit.audit_family(family, 2, generator(), (FLOAT,), chunk=2)
    tally = found["float", ""]
    assert (tally.violated, tally.inconclusive, tally.ratio) == (2, 0, np.inf)
    assert tally.slack == 1 - (0.5 - U)
    ledger.write_json(audit.rows(found, (FLOAT,), 0.0), tmp_path / "x.json", {})
    assert json.loads((tmp_path / "x.json").read_text())["claims"][0]["violations"] == 2


def test_one_stage_is_its_own_family(stub_reports):
    """A Gymnasium team: nothing is decided exactly, what is open is counted as such."""
    for x, counts in ((OPENED, (0, 1)), (1.5, (1, 0)), (0.5, (0, 0))):
        heard = []
        one = jax.tree.map(lambda leaf: leaf[0], stub_stages([x]))
        tally = audit.audit_stage("a team", one, (FLOAT,), broken=heard.append)["float", ""]
        assert [(y.family, y.ratio, np.shape(y.stage.team.reward)) for y in heard] == [
            ("a team", x, np.shape(one.team.reward))
        ] * counts[0]
        assert (tally.stages, tally.checks, tally.decided, tally.where, tally.ratio) == (1, 2, 0, "a team", x)
        assert (tally.violated, tally.inconclusive) == counts


def test_families_leave_out_claims_and_have_chunks_of_their_own(stub_reports):
    sizes = []
    stubs = family_of(VALUES, without=("named",), chunk=2)
    family = stubs._replace(make=lambda rng, batch: (sizes.append(batch), stubs.make(rng, batch))[1])
    done = []
    found = audit.audit_family(family, 5, generator(), (FLOAT, NAMED), chunk=7, progress=done.append)
    assert {id_ for id_, _ in found} == {"float"}
    assert set(sizes) == {2}
    assert done == [2, 2, 1]
    assert found["float", ""].stages == 5


# --------------------------------------------------------------------------------------------------------------- what was kept


def test_a_resumed_audit_is_that_of_one_go(stub_reports, tmp_path):
    """Stopped after each chunk in turn: the same tallies, and every stage once."""
    journal = audit.Journal(tmp_path / "deep" / "kept", "print")
    whole = audited(2)
    for _ in range(2):
        asked = iter([False, True])
        done = []
        part = audited(2, journal=journal, stopped=lambda asked=asked: next(asked), progress=done.append)
    assert done == [2, 2]  # what was there, and one more chunk
    assert part["float", ""].stages == 4
    assert audited(2, journal=journal) == whole
    path = journal.folder / "stubs.json"
    assert unseal(path.read_bytes())["done"] == 7


def test_progress_stays_whole_on_a_full_disk(stub_reports, tmp_path, monkeypatch):
    """What was written before can still be read."""
    journal = audit.Journal(tmp_path, "print")
    journal.write("stubs", 2, {}, {"a": 1})

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        journal.write("stubs", 4, {}, {"a": 2})
    assert journal.read("stubs") == (2, {}, {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["stubs.json"]


@pytest.mark.parametrize("damage", ["flip", "cut", "other", "missing", "empty"])
def test_damaged_progress_is_refused_by_name(stub_reports, tmp_path, damage):
    journal = audit.Journal(tmp_path, "print")
    audited(7, journal=journal)
    path = tmp_path / "stubs.json"
    data = path.read_bytes()
    bad = {
        "flip": data.replace(b'"done": 7', b'"done": 6'), "cut": data[: len(data) // 2], "other": b"[1, 2]\n",
        "missing": json.dumps({"fingerprint": "print"}).encode(), "empty": b"",
    }[damage]  # fmt: skip
    path.write_bytes(bad)
    with pytest.raises(InputError, match=r"stubs\.json: found a damaged file .*expected what an interrupted run wrote"):
        audited(7, journal=journal)
    assert path.read_bytes() == bad


def test_progress_of_other_settings_or_of_another_plug_in_is_not_read(stub_reports, tmp_path):
    audited(7, journal=audit.Journal(tmp_path, "one"))
    assert audit.Journal(tmp_path, "one").read("stubs") is not None
    assert audit.Journal(tmp_path, "two").read("stubs") is None
    assert audit.Journal(tmp_path, "one").read("others") is None
    assert audit.fingerprint(1, "a") == audit.fingerprint(1, "a") != audit.fingerprint(1, "b")
    journal = audit.Journal(tmp_path, "one")
    journal.write("a/b: ü", 3, {}, {})
    assert journal.read("a/b: ü") == (3, {}, {})


def test_progress_of_other_code_is_not_read(tmp_path, monkeypatch):
    """Every source file of the package, and those of theory/ itself; what is no code does not matter."""
    files = [tmp_path / name for name in ("teamtr_jax/a.py", "teamtr_jax/deep/b.py", "theory/c.py", "theory/d.md")]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    monkeypatch.setattr(audit, "__file__", str(tmp_path / "theory" / "audit.py"))
    seen = [audit.fingerprint(0)]
    for path in files:
        path.write_text("x = 2\n")
        seen.append(audit.fingerprint(0))
    assert [x != y for x, y in itertools.pairwise(seen)] == [True, True, True, False]


def test_a_tier_that_keeps_reads_everything_first(stub_reports, tmp_path, monkeypatch):
    """A damaged file stops the suite before any family is made; another plug-in file, and nothing is read."""
    made = []
    family = Family("mine", "stubs", 1.0, lambda rng, batch: made.append(batch))
    tier = Tier(200, 0, (), (), True, 100, keep=True)
    tmp_path.joinpath("mine.json").write_bytes(b"{")
    with pytest.raises(InputError, match=r"mine\.json: found a damaged file"):
        suite.run(tier, Plugins(families=(family,)), journal=tmp_path, studies=(), claims=(FLOAT,))
    assert made == []
    prints = []
    monkeypatch.setattr(audit, "fingerprint", lambda *settings: prints.append(settings) or "x")
    monkeypatch.setattr(audit, "audit_family", lambda *_, **__: {})
    for source in ("one", "two"):
        tmp_path.joinpath("mine.json").unlink(missing_ok=True)
        suite.run(tier, Plugins(families=(family,), source=source), journal=tmp_path, studies=(), claims=(FLOAT,))
    assert prints[0] != prints[1]
    assert prints[0] == (0, {"mine": 200}, 100, ["float"], "one")


# ------------------------------------------------------------------------------------------------------------------------ rows


def test_tallies_add_up():
    a = Tally(1, 2, 3, 4, 5, 6, 0.5, "a", 0.3, 0.2, 0.9)
    b = Tally(10, 20, 30, 40, 50, 60, 0.75, "b", 0.4, 0.1, 0.8)
    both = (11, 22, 33, 44, 55, 66, 0.75, "b", 0.3, 0.1, 0.8, False)
    assert a.plus(b) == b.plus(a) == both
    assert Tally().plus(a) == a
    assert a.plus(a._replace(identity=True)).identity
    assert a.plus(a._replace(where="later")).where == "a"


def test_rows_of_a_claim():
    """Named checks together: most stages, all comparisons, extremes over inequalities (ratio) or all (error)."""
    tallies = {
        ("float", "one"): Tally(10, 20, 0, 2, 3, 4, 0.5, "here", 0.3, 0.5, 0.6),
        ("float", "two"): Tally(8, 30, 0, 1, 4, 0, 0.9, "there", 0.4, 0.7, 0.2),
        ("float", "is"): Tally(9, 9, 0, 0, 0, 1, 0.0, "", 0.05, 0.01, 0.01, True),
        ("named", "is"): Tally(5, 5, 0, 0, 0, 0, 0.0, "", 0.25, np.inf, np.inf, True),
    }
    first, second = audit.rows(tallies, (FLOAT, NAMED, NAMED._replace(id="none")), 0.0)
    assert (first.id, first.statement, first.evidence) == ("float", "x ≤ 1", "float; 7 decided exactly")
    assert (first.instances, first.checks, first.violations, first.inconclusive) == (10, 59, 0, 3)
    assert (first.decided_exactly, first.trivial, first.tightest, first.detects) == (7, 5, 0.9, 0.05)
    assert first.detects_exponents == {"γ": 0.5, "1/(1−γ)": 0.2}
    assert first.note == "tight: at 1; largest ratio in: there"
    assert first.seconds > 0
    assert (second.evidence, second.tightest, second.detects, second.detects_exponents) == ("float", None, 0.25, {})
    assert second.note == "tight: "
    broken = audit.rows(
        tallies | {("float", "three"): Tally(1, 5, 3, 0, 0, 0, 4.0, "worst", -3.0, -1.0, -1.0)}, (FLOAT,), 0.0
    )[0]
    assert (broken.violations, broken.tightest, broken.detects, broken.detects_exponents) == (3, 4.0, None, {})


@pytest.mark.parametrize(("slack", "detects"), [(0.999, 0.999), (1.0, None), (np.inf, None)])
def test_an_audit_that_would_catch_nothing_says_so(slack, detects):
    """Bounds that are infinite, or both sides 0: an error of 100 % would not be seen either."""
    (one,) = audit.rows({("float", ""): Tally(3, 3, slack=slack)}, (FLOAT,), 0.0)
    assert one.detects == detects


@pytest.mark.parametrize("chunk", [7, 3, 1])
def test_the_worst_stage_of_a_violated_claim_is_kept(stub_reports, chunk):
    """By floats or exactly; only of checks that are violated."""
    heard = []
    audited(chunk, broken=heard.append)
    assert {(x.id, x.check, x.family) for x in heard} == {("float", "", "stubs")}
    worst = max(heard, key=lambda x: x.ratio)
    assert (worst.ratio, float(np.asarray(worst.stage.team.reward).ravel()[0])) == (1.5, 1.5)
    rewards = {float(np.asarray(x.stage.team.reward).ravel()[0]) for x in heard}
    assert rewards == ({1.5} if chunk == 7 else {OPENED, 1.5})
    heard.clear()
    audit.audit_family(family_of([OPENED, 0.5]), 2, generator(), (FLOAT,), chunk=2, broken=heard.append)
    assert [x.ratio for x in heard] == [OPENED]


def test_a_stage_on_which_a_claim_holds_exactly_is_no_counterexample(stub_reports, monkeypatch):
    """Even where its ratio is the larger one in floats."""
    near = 1 + 0.75 * U

    def exact_checks(stage, only):
        x = float(np.asarray(stage.team.reward).ravel()[0])
        return {(only, ""): [(fmpq(3 if x == OPENED else 1, 2), fmpq(1))] * 2}

    monkeypatch.setattr(audit, "exact_checks", exact_checks)
    heard = []
    family = family_of([near, OPENED, near])
    tally = audit.audit_family(family, 3, generator(), (FLOAT,), chunk=3, broken=heard.append)["float", ""]
    assert (tally.violated, tally.decided) == (1, 3)
    assert [(x.ratio, float(np.asarray(x.stage.team.reward).ravel()[0])) for x in heard] == [(OPENED, OPENED)]


def row(id_="S7", **values):
    start = {
        "statement": "s",
        "evidence": "float",
        "instances": 10,
        "violations": 0,
        "inconclusive": 0,
        "tightest": 0.5,
        "detects": 0.25,
    }
    return Row(id_, **start | values)


def test_names_of_counterexamples():
    """No two alike, none too long; family and check are said."""
    one = audit.Counterexample("", "a check", "a family", 2.0, None)
    rows = [row("a/b", note="first"), row("a_b"), row("x" * 90), row("fine")]
    broken = {"a/b": one, "a_b": one._replace(check=""), "x" * 90: one}
    files = ["counterexample-a_b.npz", "counterexample-a_b_.npz", f"counterexample-{'x' * 60}.npz"]
    assert list(evidence.counterexamples(rows, broken)) == files
    assert [x.note for x in rows] == [
        f"first; counterexample of family a family, check a check: {files[0]}",
        f"counterexample of family a family: {files[1]}",
        f"counterexample of family a family, check a check: {files[2]}",
        "",
    ]


def test_a_row_counts_nothing_by_itself():
    one = dataclasses.asdict(row())
    zeros = ("seconds", "checks", "decided_exactly", "trivial", "exact", "exact_violations", "exact_undecided")
    assert [one[name] for name in zeros] == [0] * 7
    assert [one[name] for name in ("exponent", "interval", "searched")] == [None] * 3
    assert [one[name] for name in ("exact_kind", "page", "figure", "note", "words", "detects_exponents")] == [
        *[""] * 5,
        {},
    ]


def test_rows_of_one_id_are_one():
    a = row(statement="", tightest=0.9, detects=None, checks=1, seconds=2.0, note="from a", violations=1, inconclusive=3,
            decided_exactly=2, trivial=5)  # fmt: skip
    b = row(checks=10, seconds=3.0, note="from b", violations=4, inconclusive=2, decided_exactly=1, trivial=1)
    (both,) = ledger.merged([a, b])
    assert both.statement == "s"
    assert (both.instances, both.checks, both.seconds) == (20, 11, 5.0)
    assert (both.violations, both.inconclusive, both.decided_exactly, both.trivial) == (5, 5, 3, 6)
    assert (both.tightest, both.detects) == (0.9, 0.25)
    assert both.note == "from b; from a"
    (none,) = ledger.merged([row(tightest=None, detects=None), row(tightest=None, detects=None)])
    assert (none.tightest, none.detects, none.note) == (None, None, "")
    assert [x.id for x in ledger.merged([row("S1"), row("S2"), row("S1")])] == ["S1", "S2"]


FULL = row(
    instances=12345, violations=2, exact_violations=3, inconclusive=4, tightest=0.98765, searched=0.12345, detects=0.0123456,
    exponent=1.987, interval=(1.876, 2.134), exact=6789, exact_kind="enclosed", seconds=12.6, page="theory/derivations/s7.md",
    figure="bounds.png", note="a note", words="as a sentence", proof="proofs/Episodic.v: S7", unproved="the rest",
)  # fmt: skip
CELLS = [
    "S7",
    "12,345",
    "5",
    "4",
    "0.988",
    "0.123",
    "0.0123",
    "1.99 [1.88, 2.13]",
    "6,789 enclosed",
    "float",
    "in part",
    "13",
    "s",
]
ABOUT = {
    "instances": 1234, "seed": 5, "seconds": 61.4, "machine": "m", "python": "3", "jax": "0", "device": "cpu", "date": "today",
    "counts": {"small": 1000}, "families": {"small": "S = 2"}, "gymnasium": ["Taxi × 2"], "exact": 60,
}  # fmt: skip


def test_columns_of_the_page():
    """Words first, the id last; violations found exactly are added; each column by value, under its heading."""
    text = ledger.markdown([FULL, row("S8", tightest=None, detects=None)], ABOUT, "up/")
    head, line, plain = (next(x for x in text.splitlines() if x.endswith(f" {id_} |")) for id_ in ("id", "S7", "S8"))
    heads = "in-words statement instances violations inconclusive tightest searched detects exponent also-exactly"
    assert head == "| " + " | ".join(f"{heads} evidence proved s page figure id".split()).replace("-", " ") + " |"
    links = ["[s7](up/theory/derivations/s7.md)", "[bounds.png](bounds.png)"]
    assert line == "| " + " | ".join(["as a sentence", f"`{CELLS[-1]}`", *CELLS[1:-1], *links, "S7"]) + " |"
    assert plain == "|  | `s` | 10 | 0 | 0 | – | – | – | – | – | float | – | 0 |  |  | S8 |"
    assert "1,234 stages, seed 5, 61 s on m (Python 3, jax 0, cpu), today." in text
    assert "* 1,000 × small: S = 2\n* Gymnasium: Taxi × 2\n" in text
    assert "\n* Violated: S7 in 5 comparisons.\n* Looked at: 2 claims, 1,234 stages, 60 more without rounding; " in text
    assert "Transformer" not in text
    bare = ledger.markdown([], ABOUT | {"presets": ["a", "b"], "gymnasium": []})
    assert "* Transformer teams of 65,536 transcripts: a; b" in bare
    assert "Gymnasium" not in bare
    assert text.endswith("\n* **S7**: a note\n")


def _rendered(text: str) -> list[list[str]]:
    """The cells of the table as HTML shows them, line by line, without the heading."""
    page = MarkdownIt("commonmark").enable("table").render(text)
    lines = re.findall(r"<tr>(.*?)</tr>", page, re.S)[1:]
    return [[html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", line, re.S)] for line in lines]


@pytest.mark.parametrize(
    "statement", ["TV(d'_t,d_t) ≤ Σ_t *x*", "|a| ≤ |b_i| ≤ *", "a `tick`", "``two`` and `", "a < b & [c](d)", "\\sum_t"]
)
def test_a_statement_is_shown_as_it_stands(statement):
    """No character of a statement is Markdown; bars do not end the cell."""
    ((_, shown, instances, *_),) = _rendered(ledger.markdown([row("S1", statement=statement)], ABOUT))
    assert (shown, instances) == (f"<code>{statement}</code>", "10")


def test_the_committed_ledger_is_that_of_its_numbers():
    """The page beside `ledger.json` is written from it, and every statement stands on it as it is."""
    found = json.loads((VERIFY / "ledger.json").read_text())
    text = (VERIFY / "ledger.md").read_text()
    assert text == ledger.markdown([ledger.Row(**claim) for claim in found["claims"]], found["settings"])
    shown = {cells[-1]: cells[1] for cells in _rendered(text)}
    assert shown == {claim["id"]: f"<code>{claim['statement']}</code>" for claim in found["claims"]}


def test_what_is_proved_is_a_column_and_a_line_of_the_verdict():
    rows = [row("S1", proof="a"), row("S2", proof="b", unproved="x"), row("S3")]
    assert [ledger.COLUMNS["proved"](one) for one in rows] == ["Coq", "in part", "–"]
    assert "Proved in Coq (1): S1. In part (1): S2." in ledger.verdict(rows, ABOUT)
    assert "Proved in Coq (1): S1." in ledger.verdict(rows[::2], ABOUT)
    assert not any("Proved" in line for line in ledger.verdict(rows[2:], ABOUT))


def test_the_verdict_in_words():
    """Violations of both kinds, what rounding left open, and each claim once under the way in which it was decided."""
    rows = [
        row("T0", checks=1000, decided_exactly=3, inconclusive=2, exact=5, exact_undecided=1, page="x"),
        row("R1", evidence="exact; bounds enclosed", checks=20),
        row("S8", evidence="simulated", checks=4), row("R3", checks=1), row("R7", checks=1, page="x"),
    ]  # fmt: skip
    assert ledger.verdict(rows, ABOUT) == [
        "Nothing is violated.",
        "Looked at: 5 claims, 1,234 stages, 60 more without rounding; 1,026 comparisons.",
        "Left open by rounding: 6 comparisons; 3 of them decided exactly, 3 inconclusive.",
        "Decided by floats, and on other stages without rounding (1): T0.",
        "Decided by arithmetic without rounding (1): R1.",
        "Decided by simulation (1): S8.",
        "Decided by floats alone (2): R3, R7.",
        "With a derivation in theory/derivations: 2 of 5 claims.",
    ]
    broken = [row("S1", exact_violations=1200), row("S2"), row("mine", violations=2, exact_violations=1)]
    assert ledger.verdict(broken, ABOUT)[0] == "Violated: S1 in 1,200 comparisons, mine in 3 comparisons."


def test_columns_of_the_terminal():
    """The same cells; red where violated, also where only exactly; yellow where inconclusive; numbers only where it is narrow."""
    rows = [
        FULL,
        row("S1", exact_violations=1),
        row("S2", inconclusive=1),
        row("S3"),
        row("S4", violations=1, inconclusive=1),
    ]
    table = ledger.terminal(rows, 200)
    assert [next(iter(column.cells)) for column in table.columns] == CELLS
    assert [x.style for x in table.rows] == ["bold red", "bold red", "yellow", None, "bold red"]
    heads = ["id", *ledger.COLUMNS]
    assert [column.header for column in table.columns] == heads
    assert [column.header for column in ledger.terminal(rows, 159).columns] == heads[:8]
    assert len(ledger.terminal(rows, 160).columns) == 13
    assert [x.header for x in table.columns if x.justify == "left"] == ["id", "evidence", "statement"]
    assert all(x.justify in ("left", "right") for x in table.columns)


@pytest.mark.parametrize("width", [160, 240])
def test_a_long_statement_is_wrapped_and_numbers_are_not(width):
    """Nothing of it is cut off; a number stands in one line, however long the statement."""
    words = [f"word{k}" for k in range(60)]
    printed = Console(width=width, file=StringIO())
    printed.print(ledger.terminal([row("S1", instances=123_456_789, statement=" ".join(words))], width))
    said = printed.file.getvalue()
    assert all(word in said.split() for word in words)
    assert "123,456,789" in said


def test_columns_of_the_json(tmp_path):
    """Every field by value; no number is null and named."""
    ledger.write_json(
        [FULL, row("S1", exponent=np.nan, interval=(0.0, np.nan), detects_exponents={"γ": np.nan, "x": 1.0}, note="n")],
        tmp_path / "x.json",
        {"seed": 5},
    )
    found = json.loads((tmp_path / "x.json").read_text())
    assert (found["schema"], found["settings"]) == (1, {"seed": 5})
    first, second = found["claims"]
    assert first == dataclasses.asdict(FULL) | {"interval": [1.876, 2.134]}
    assert (second["exponent"], second["interval"], second["detects_exponents"]) == (None, None, {"x": 1.0})
    assert second["note"] == "n; not a number: exponent, interval, detects_exponents"


def test_pages_of_claims():
    pages = {"S7": "s7", "S7c": "s7", "R6.3": "rates", "P3.4": "p3_4", "R7": "regimes", "penalty_mine": ""}
    for id_, stem in pages.items():
        assert ledger.page_of(id_) == (f"theory/derivations/{stem}.md" if stem else "")


# ----------------------------------------------------------------------------------------------------------------- the suite


@pytest.fixture
def stub_suite(monkeypatch):
    """The suite with everything that computes replaced."""
    asked = {}

    def kept(name, value):
        def stub(*arguments, **more):
            asked[name] = arguments, more
            return value

        return stub

    class Pool:
        def submit(self, job, *arguments):
            return pool.submit(job, *arguments)

    pool = ThreadPoolExecutor(1)
    monkeypatch.setattr(suite.processes, "workers", lambda *_: nullcontext(Pool()))
    monkeypatch.setattr(suite.adversarial, "read_index", kept("index", {
        "instances": [{"id": "S4", "ratio": 0.25}, {"id": "S4R", "ratio": 0.75}, {"id": "float", "ratio": 0.5}],
        "ratios": [
            {"id": "S4", "rung": "r", "shape": "t", "agents": 2, "gamma": 0.9, "ratio": 0.123456},
            {"id": "S4", "rung": "r", "shape": "t", "agents": 2, "gamma": None, "ratio": 0.5},
            {"id": "S4", "rung": "r", "shape": "t", "agents": 2, "gamma": 0.5, "ratio": 1.0},
        ],
    }))  # fmt: skip
    monkeypatch.setattr(
        suite,
        "gymnasium_team",
        lambda name, n, drop_time_limit: SimpleNamespace(
            reward=np.zeros((2, 3)), name=name + " without its limit" * drop_time_limit, agents=n
        ),
    )
    monkeypatch.setattr(
        suite,
        "improvement_stage",
        lambda team, policy, step, order: (team.name, team.agents, policy.tolist(), step, list(order)),
    )
    monkeypatch.setattr(suite.networks, "preset_stage", lambda name: name)
    seen = []

    def audit_stage(name, stage, claims, lock, broken):
        seen.append((name, stage, [claim.id for claim in claims]))
        return {("float", ""): Tally(1, 1, 0, 0, 0, 0, 0.125, name, 0.9)}

    monkeypatch.setattr(audit, "audit_stage", audit_stage)
    asked["seen"] = seen
    yield asked
    pool.shutdown()


def mine(name, values):
    return family_of(values, name)


def studied(tier, rng, lock):
    return Found([row("S3", instances=7), row("R7")], {"scaling.png": lambda path: path.write_text("drawn")})


def found_apart(tier, rng, lock):
    """As the exact audit and the rates: evidence, a row that adds to another one, one that has nothing to add to."""
    with lock:
        pass
    added = [row("S3", statement="", instances=5), row("S9", statement=""), row("S8", tightest=None), row("R6.1")]
    return Found(added, {"rates.png": print, "finite.png": print}, {
        ("float", "a"): Evidence(7, 2, 1, 0.5, 0, 9), ("float", "b"): Evidence(33, 1, 2, 0.5, 3, 9),
        ("S4", ""): Evidence(5, 0, 0, 0.5, 0, 5),
    })  # fmt: skip


NEAR = Study("near", {"S3": "in words", "R7": ""}, studied, figures={"scaling.png": ("S3",), "absent.png": ("S4",)})
FAR = Study(
    "far", {"R6": "", "R7": "seven"}, found_apart, apart=True, figures={"rates.png": ("R6",), "finite.png": ("S8",)}
)


def test_a_run_puts_everything_together(stub_reports, stub_suite):
    """Families, teams, studies, exact decisions and saved instances: one ledger in order, each number from its source."""
    tier = Tier(1000, 33, ("small",), (("Taxi", 2),), True, 500, presets=("a preset",))
    first, second = mine("one", (0.25,)), mine("two", (0.5, 1.5))._replace(share=3.0)
    plugins = Plugins(claims=(FLOAT,), families=(first, second))
    t1, p38 = FLOAT._replace(id="T1", words="of a claim"), FLOAT._replace(id="P3.8")
    claims = (FLOAT, t1, p38, FLOAT._replace(id="S4"))
    result = suite.run(dataclasses.replace(tier, families=()), plugins, 4, None, studies=(NEAR, FAR), claims=claims)
    assert [x.id for x in result.rows] == ["T1", "P3.8", "S3", "S4", "S8", "R6.1", "R7", "float"]
    rows = {x.id: x for x in result.rows}
    assert result.about["counts"] == {"one": 250, "two": 750}
    assert (result.about["instances"], result.about["exact"], result.about["seed"]) == (1002, 33, 4)
    assert (result.about["gymnasium"], result.about["presets"], result.about["quick"]) == (
        ["Taxi × 2"],
        ["a preset"],
        True,
    )
    assert rows["float"].instances == 1002
    assert rows["float"].violations == 375
    assert rows["S4"].violations == 375
    assert (rows["float"].exact, rows["float"].exact_kind) == (33, "enclosed")
    assert (rows["float"].exact_violations, rows["float"].exact_undecided) == (3, 3)
    assert (rows["S4"].exact, rows["S4"].exact_kind, rows["S4"].exact_violations) == (5, "exact", 0)
    assert (rows["S4"].searched, rows["float"].searched, rows["S8"].searched) == (0.75, 0.5, None)
    assert (rows["S3"].instances, rows["S3"].statement) == (12, "s")
    assert rows["S4"].page == "theory/derivations/s4.md"
    figures = {id_: rows[id_].figure for id_ in ("R7", "S8", "R6.1", "S3", "S4")}
    assert figures == {"R7": "", "S8": "finite.png", "R6.1": "rates.png", "S3": "scaling.png", "S4": ""}
    assert [rows[id_].words for id_ in ("T1", "S3", "R7", "S8")] == ["of a claim", "in words", "seven", ""]
    seen = {name: (stage, ids) for name, stage, ids in stub_suite["seen"]}
    assert seen["Taxi × 2"] == (("Taxi without its limit", 2, [[1 / 3] * 3] * 2, 0.01, [0, 1]), ["float", "T1", "S4"])
    assert seen["a preset"] == ("a preset", ["float", "S4"])
    counterexample = {
        "counterexample-float.npz",
        "counterexample-P3.8.npz",
        "counterexample-T1.npz",
        "counterexample-S4.npz",
    }
    assert set(result.draws) == {"scaling.png", "finite.png", "rates.png", "adversarial.md"} | counterexample
    assert "; counterexample of family two: counterexample-S4.npz" in rows["S4"].note


def test_the_page_of_the_tightest_instances(stub_suite, tmp_path):
    evidence.page(suite.adversarial.read_index()["ratios"], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| id | rung | shape | n | γ = 0.5 | γ = 0.9 | episodic |" in page
    assert "| S4 | r | t | 2 | 1.00000 | 0.12346 | 0.50000 |" in page


def test_figures_of_claims():
    assert {name: set(ids) for study in STUDIES for name, ids in study.figures.items()} == {
        "scaling.png": {"R1", "R3"}, "regimes.png": {"R7"}, "interaction.png": {"R4", "R5"}, "rates.png": {"R6", "S3", "S7c"},
        "certified.png": {"U1", "S4", "S5", "S6", "S9"}, "finite_sample.png": {"S8"},
        "stopping.png": {"S8"}, "bounds.png": {"S0", "P3.4", "S7"},
        "tied.png": {"U4"}, "orders.png": {"S11"}, "constant.png": {"S13", "S7"},
    }  # fmt: skip


def test_a_page_of_the_tightest_instances_is_drawn_and_how_it_was_made_is_kept(stub_reports, stub_suite, tmp_path):
    found = suite.run(
        Tier(200, 0, (), (), False, 200, presets=()),
        Plugins(families=(mine("f", (0.5,)),)),
        studies=(),
        claims=(FLOAT,),
    )
    found.draws["adversarial.md"](tmp_path / "a.md")
    text = (tmp_path / "a.md").read_text()
    assert text.startswith("# Tightest instances\n\nLargest `|gap|/penalty` found by")
    assert text.endswith("| S4 | r | t | 2 | 1.00000 | 0.12346 | 0.50000 |\n")
    assert (found.about["jax"], found.about["python"]) == (jax.__version__, platform.python_version())
    assert (found.about["exact"], found.about["quick"], found.about["families"]) == (0, False, {"f": "stubs"})
    assert found.about["seconds"] > 0


def test_studies_by_tier(monkeypatch, tmp_path):
    """Sizes of a quick run and of the others, and which rows and files a study gives."""
    asked = {}

    def kept(name, value):
        return lambda *arguments, **more: asked.__setitem__(name, (arguments, more)) or value

    for module, value in (
        (p3_2, row("P3.2")), (r1, (row("R1"), "relay")), (r3, (row("R3"), "random")), (r7, (row("R7"), "map")),
        (r5, (row("R5"), SimpleNamespace(relay=[1, 2]))), (u1, (row("U1"), "curves")), (s8_networks, row("S8")),
        (s12, (row("S12"), [], 200)),
        (s8, (row("S8"), "data")), (s8_anytime, (row("S8"), "stopped")), (joint, (row("U1"), "choice")),
        (r6, ([row("R6.1"), row("S3")], "rates")), (r2, (row("R2"), None)), (r4, (row("R4"), None)),
        (s7d, (row("S7d"), None)), (s11, (row("S11"), "orders")), (s13, (row("S13"), "constants")),
        (exact_audit, {"evidence": 1}), (u4, (row("U4"), "tied")),
    ):  # fmt: skip
        monkeypatch.setattr(module, "run", kept(module.__name__.rpartition(".")[2], value))
    monkeypatch.setattr(bounds, "cloud", kept("bounds", "cloud"))
    drawn = []
    for module, name in (
        (scaling, "scaling_figure"), (r7, "regime_figure"), (r5, "interaction_figure"), (s8, "finite_sample_figure"),
        (s8_anytime, "stopping_figure"),
        (u1, "certified_figure"), (r6, "rates_figure"), (bounds, "bound_figure"),
        (u4, "tied_figure"), (s11, "order_figure"), (s13, "constant_figure"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *arguments: drawn.append(arguments))
    for module in (r7, u4):
        monkeypatch.setattr(module, "as_dict", lambda found: {"is": found})
    jobs = {study.name: study.job for study in STUDIES}
    found = {}
    for name, tier in TIERS.items():
        asked.clear()
        found[name] = {study: job(tier, "rng", "lock") for study, job in jobs.items()}
        small = tier.quick
        assert asked["p3_2"][0] == (2_000 if small else 20_000, "rng")
        assert asked["r1"][0] == ((2, 3, 4, 6, 8, 16) if small else r1.SIZES,)
        assert asked["r3"][0] == (100, "rng", r3.SIZES[:3] if small else r3.SIZES, "lock")
        assert asked["r7"][0] == (small, "rng", "lock", None if small else "random", name == "full")
        assert asked["r5"][0] == asked["s11"][0] == asked["s13"][0] == (small, "rng", "lock")
        assert asked["s8_networks"][0] == (("rng",) if small else ("rng", 20, 1_000))
        assert asked["s12"][0] == ("rng", 1 if small else 10, "lock")
        assert asked["s8"][0] == (small, "rng", name == "full")
        assert asked["s8_anytime"][0] == (small, "rng")
        assert asked["r6"][0] == (small,)
        assert asked["r2"][0] == (r2.SIZES[:6] if small else r2.SIZES,)
        assert asked["s7d"][0] == (s7d.SIZES[:4] if small else s7d.SIZES,)
        assert asked["r4"][0] == (((2, 3, 4), "rng", 4) if small else (r4.SIZES, "rng", 20))
        assert asked[exact_audit.__name__.rpartition(".")[2]][0] == (tier.exact, "rng")
        assert asked["bounds"][0] == ("rng", "lock")
        assert asked["u4"][0] == ("rng", "lock", {"quick": 0, "default": 60, "full": 200}[name])
        if not small:
            assert asked["joint"][0] == (False, "rng", "lock")
            assert asked["u1"] == ((100, "rng", u1.GYM if name == "full" else u1.GYM[:1]), {"lock": "lock"})
    assert found["quick"]["certified shares"] == found["quick"]["steps chosen together"] == Found()
    rows = {study: [x.id for x in got.rows] for study, got in found["full"].items() if got.rows}
    assert rows == {
        "growth in n": ["R1", "R3", "R7"], "certified shares": ["U1"], "interactions": ["R5"], "messages": ["P3.2"],
        "sampled networks": ["S8"], "finite samples": ["S8"], "optional stopping": ["S8"],
        "steps chosen together": ["U1"], "rates": ["R6.1", "S3"], "crossover": ["R2"],
        "one more power of n": ["R4"], "tied rows": ["U4"], "trainer and sampler": ["S12"], "shared parameters": ["S7d"],
        "one order alone": ["S11"], "constant of S7": ["S13"],
    }  # fmt: skip
    assert found["full"]["decided without rounding"].evidence == {"evidence": 1}
    for got in found["full"].values():
        for file, draw in got.draws.items():
            draw(tmp_path / file)
    assert {arguments[-1].name: arguments[:-1] for arguments in drawn} == {
        "scaling.png": ("relay", "random"), "regimes.png": ("map",), "certified.png": ("curves",),
        "interaction.png": ([1, 2],), "finite_sample.png": ("data",),
        "stopping.png": ("stopped",), "rates.png": ("rates",), "bounds.png": ("cloud",),
        "tied.png": ("tied",), "orders.png": ("orders",), "constant.png": ("constants",),
    }  # fmt: skip
    assert (tmp_path / "tied.json").read_text() == '{"is": "tied"}\n'
    assert (tmp_path / "regimes.json").read_text() == '{"is": "map"}\n'


def test_what_a_study_says_and_shows():
    """Each id once with words, every figure of a study is of ids that some row has; what runs apart can be sent there."""
    ids = {claim.id for claim in STAGE_CLAIMS} | {id_ for study in STUDIES for id_ in study.says}
    worded = [id_ for study in STUDIES for id_, words in study.says.items() if words]
    assert len(worded) == len(set(worded))
    assert {
        "P3.2",
        "S8",
        "R1",
        "R2",
        "R3",
        "R4",
        "R5",
        "R6.6",
        "R7",
        "S7d",
        "S13",
        "U1",
        "U4",
        *(claim.id for claim in STAGE_CLAIMS),
    } <= set(worded)
    for study in STUDIES:
        assert {id_ for shown in study.figures.values() for id_ in shown} <= ids
        if study.apart:
            assert pickle.loads(pickle.dumps(study)).job is study.job  # noqa: S301 — our own


def test_only():
    """Claims and studies about the ids that are named; nothing is everything; an unknown one is refused by name."""
    claims = (FLOAT, FLOAT._replace(id="S4"))
    assert suite.selected((), claims, (NEAR, FAR)) == (claims, (NEAR, FAR))
    assert suite.selected(("S4", "R6"), claims, (NEAR, FAR)) == (claims[1:], (FAR,))
    assert suite.selected(("float",), claims, (NEAR, FAR)) == (claims[:1], ())
    with pytest.raises(InputError, match=r"^--only: found 'S44', expected ids among float, S4, S3, R7, R6$"):
        suite.selected(("float", "S44"), claims, (NEAR, FAR))


def test_a_run_of_studies_alone(stub_suite):
    """Without claims no stage is audited."""
    found = suite.run(Tier(1000, 33, ("small",), (("Taxi", 2),), True, 500), studies=(NEAR,), claims=())
    assert [x.id for x in found.rows] == ["S3", "R7"]
    assert (found.about["instances"], found.about["counts"], stub_suite["seen"]) == (0, {}, [])


def test_seeds_are_independent_and_reproducible(stub_reports, stub_suite):
    """Of each other, and of whatever else is asked for: with `--only` a family has the stages of a whole run."""

    def draws(seed, studies=True):
        found = {}

        def make(rng, batch):
            found.setdefault("family", rng.random())
            return stub_stages([0.5] * batch)

        def job(name):
            return lambda tier, rng, lock: found.__setitem__(name, rng.random()) or Found()

        families = (Family("f", "", 1.0, make),)
        jobs = tuple(Study(name, {}, job(name), name == "far") for name in ("near", "far") if studies)
        suite.run(Tier(200, 0, (), (), True, 200), Plugins(families=families), seed, studies=jobs, claims=(FLOAT,))
        return found

    one = draws(0)
    assert draws(0) == one
    assert draws(0, False) == {"family": one["family"]}
    assert len(set(one.values())) == 3
    assert not set(draws(1).values()) & set(one.values())


def test_a_failing_study_stops_the_others(stub_reports, stub_suite, monkeypatch):
    """Those that wait are not begun, the workers are ended, and what failed is said."""

    def fails(tier, rng, lock):
        raise ArithmeticError("no number")

    def slow(tier, rng, lock):
        started.append(time.sleep(0.05))
        return Found()

    started, ended = [], []
    monkeypatch.setattr(suite.processes, "end", ended.append)
    studies = (
        Study("bad", {}, fails),
        Study("far", {}, found_apart, True),
        *(Study(f"late {k}", {}, slow) for k in range(40)),
    )
    with pytest.raises(ArithmeticError, match="no number"):
        suite.run(
            Tier(200, 0, (), (), True, 200), Plugins(families=(mine("f", (0.5,)),)), studies=studies, claims=(FLOAT,)
        )
    assert len(ended) == 1
    assert len(started) < 40


@pytest.mark.parametrize(
    ("more", "message"),
    [({"seed": -1}, "seed: found -1"), ({"instances": 0}, "instances: found 0"), ({"instances": 10**15}, "instances: found 10"),
     ({"seed": 1.5}, "seed: found 1.5")],
)  # fmt: skip
def test_settings_of_a_run(more, message):
    with pytest.raises(InputError, match=re.escape(message)):
        suite.run(Tier(200, 0, (), (), True), studies=(), claims=(FLOAT,), **more)


def test_tiers():
    """What the help and the README say of them."""
    quick, default, full = (TIERS[name] for name in ("quick", "default", "full"))
    assert [x.instances for x in (quick, default, full)] == [5_000, 100_000, 1_000_000]
    assert [x.exact for x in (quick, default, full)] == [60, 1_000, 5_000]
    assert [x.quick for x in (quick, default, full)] == [True, False, False]
    assert [x.thorough for x in (quick, default, full)] == [False, False, True]
    assert [x.keep for x in (quick, default, full)] == [False, False, True]
    assert [x.chunk for x in (quick, default, full)] == [1_000, 5_000, 5_000]
    assert [len(x.gym) for x in (quick, default, full)] == [0, 2, 4]
    assert [len(x.tied) for x in (quick, default, full)] == [0, 1, 1]
    assert [len(x.presets) for x in (quick, default, full)] == [0, 1, len(suite.networks.PRESETS)]
    assert default.families == full.families == tuple(f.name for f in FAMILIES)
    assert " ".join(sorted(quick.families)) == "corners episodic episodic corners networks small tied tied episodic"


def test_a_family_has_two_hundred_stages_at_least(tmp_path):
    """The others share what was asked for, or the tier's number; it is said before the work."""
    tier = TIERS["quick"]
    plan = suite._plan(tier, Plugins(), 0, None, (NEAR,), STAGE_CLAIMS)
    shares = {
        "small": 0.4,
        "episodic": 0.05,
        "tied": 0.05,
        "tied episodic": 0.05,
        "corners": 0,
        "episodic corners": 0,
        "networks": 0,
    }
    assert plan.counts == {name: max(200, round(5_000 * share / 0.567)) for name, share in shares.items()}
    assert suite._plan(tier, Plugins(), 0, 50_000, (), STAGE_CLAIMS).counts["small"] == round(50_000 * 0.4 / 0.567)
    single = suite.Single("a team", print)
    said = Console(file=StringIO(), width=300)
    suite._announce(plan._replace(singles=(single, single)), said)
    lines = said.file.getvalue().splitlines()
    assert lines[0] == "stages audited:"
    assert lines[1] == f"    3,527  small: {FAMILIES[0].sizes}"
    assert lines[-2:] == ["        2  of their own: a team, a team", "studies: near"]


def test_where_no_bar_is_seen_a_line_a_minute_says_how_far(monkeypatch):
    """Stages done and to do, seconds since it began, and what is left at that rate."""
    clock, said = [100.0], Console(file=StringIO(), width=200)
    monkeypatch.setattr(suite.time, "perf_counter", lambda: clock[0])
    plan = SimpleNamespace(counts={"a": 400, "b": 600}, singles=(), studies=())
    with suite.Progress(console=said, disable=True) as progress:
        work = suite._Work(plan, None, progress)
        for clock[0], stages in ((130, 150), (160, 50), (161, 100), (200, 100), (222, 100)):
            work.advance(stages)
    assert said.file.getvalue().splitlines() == [
        "300 of 1,000 stages in 61 s; about 142 s to go", "500 of 1,000 stages in 122 s; about 122 s to go"
    ]  # fmt: skip


def test_an_agent_of_a_tied_world_sees_its_column(monkeypatch):
    """FrozenLake, four rows of four: states are field and turn, and what is seen is the column of the field."""
    monkeypatch.setattr(suite, "improvement_stage", lambda team, policy, step, order: (team, policy, step, list(order)))
    team, policy, step, order = suite._tied_stage("FrozenLake", 4, 4)
    active, seen = (np.asarray(x)[:64].reshape(4, 4, 4) for x in (team.active, team.observation))  # the end comes after
    assert (active == np.arange(4)).all()
    assert (seen == np.arange(4)[:, None]).all()
    assert (np.asarray(policy) == 0.25).all()
    assert (step, order) == (0.01, [0, 1, 2, 3])


def test_the_worst_counterexample_of_a_claim_is_kept():
    """Of equals the first."""
    kept = {}
    for id_, family, ratio in (("a", "1", 1.5), ("b", "2", 9.0), ("a", "3", 2.0), ("a", "4", 1.75), ("a", "5", 2.0)):
        suite._keep(kept, audit.Counterexample(id_, "", family, ratio, None))
    assert {id_: (x.family, x.ratio) for id_, x in kept.items()} == {"a": ("3", 2.0), "b": ("2", 9.0)}


def test_what_was_stopped_is_not_begun():
    place = suite._Place(print, stopped=lambda: True)
    study = Study("late", {}, lambda tier, rng, lock: pytest.fail("begun"))
    assert suite._study(study, TIERS["quick"], None, place) == Found()
    assert suite._single(suite.Single("late", lambda: pytest.fail("begun")), (), place) == suite.Audited({}, {})


def test_a_worker_sends_files_that_are_made(tmp_path):
    """What fails there is left as it is, and fails where that is said."""

    def fails(path):
        path.write_text("half")
        raise ArithmeticError("no number")

    found = suite._drawn(Found(draws={"a.txt": lambda path: path.write_text("drawn"), "b.txt": fails}))
    pickle.loads(pickle.dumps(found.draws["a.txt"]))(tmp_path / "a.txt")  # noqa: S301 — our own
    assert (tmp_path / "a.txt").read_text() == "drawn"
    with pytest.raises(ArithmeticError, match="no number"):
        found.draws["b.txt"](tmp_path / "b.txt")


def test_families_have_these_names_and_shares():
    shares = {f.name: f.share for f in FAMILIES}
    assert shares == {
        "small": 0.40, "middle": 0.25, "large": 0.05, "product": 0.093, "episodic": 0.05, "tied": 0.05, "tied product": 0.05,
        "tied episodic": 0.05, "corners": 0.005, "episodic corners": 0.002, "networks": 0.01,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ids", "ordered"),
    [("S10 S9 S7c S7 S7b", "S7 S7b S7c S9 S10"), ("U1 R1 S1 E1 PE.2 P3.10 P3.9 T0 mine", "T0 PE.2 P3.9 P3.10 E1 S1 R1 U1 mine"),
     ("Tool S1", "S1 Tool")],
)  # fmt: skip
def test_order_of_the_ledger(ids, ordered):
    rows = sorted((row(id_) for id_ in ids.split()), key=suite._place)
    assert [x.id for x in rows] == ordered.split()


# ------------------------------------------------------------------------------------------------------------- what is written


def result(draws=None, **values):
    return suite.Result([row(**values)], dict(ABOUT), draws or {})


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({}, 0),
        ({"inconclusive": 3}, 0),
        ({"violations": 1}, 1),
        ({"exact_violations": 1}, 1),
        ({"exact_undecided": 2}, 0),
    ],
)
def test_exit_codes(tmp_path, monkeypatch, capsys, values, code):
    """1 if a claim is violated, exactly or by floats, and only then."""
    monkeypatch.setattr(suite, "run", lambda *_, **__: result(**values))
    assert command.run(command.VerifySettings(quick=True, out=tmp_path)) == code
    assert json.loads((tmp_path / "ledger.json").read_text())["claims"][0]["id"] == "S7"
    assert "claim ledger" in capsys.readouterr().out


def test_settings_reach_the_suite(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(suite, "run", lambda *arguments, **more: seen.append((*arguments, more)) or result())
    for flags, tier in (({"quick": True}, "quick"), ({"full": True}, "full"), ({}, "default")):
        command.run(command.VerifySettings(out=tmp_path, instances=1, seed=3, **flags))
        assert seen[-1][0] is TIERS[tier]
        assert seen[-1][2:4] == (3, 1)
        more = seen[-1][4]
        assert (more["journal"], more["claims"], more["studies"]) == (tmp_path / ".progress", STAGE_CLAIMS, STUDIES)
    command.run(command.VerifySettings(out=tmp_path, only=("S4", "R6.2")))
    asked = seen.pop()[4]
    assert [x.id for x in asked["claims"]] == ["S4"]
    assert [x.name for x in asked["studies"]] == ["decided without rounding", "rates"]
    for wrong, message in (
        ({"instances": 0}, "--instances: found 0"), ({"instances": 10**15}, "--instances: found 1000"),
        ({"seed": -1}, "--seed: found -1"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            command.run(command.VerifySettings(out=tmp_path, **wrong))
    assert len(seen) == 3


def test_a_figure_that_fails_loses_nothing_else(tmp_path, monkeypatch, capsys):
    """The ledger is there before a figure is drawn; what fails is said, others are drawn, the old one stays; exit code 3."""

    def fails(path):
        assert (tmp_path / "ledger.json").exists()
        assert (tmp_path / "ledger.md").exists()
        path.write_text("half")
        raise ValueError("no ticks\nat all")

    (tmp_path / "a.png").write_text("old")
    draws = {"a.png": fails, "b.png": lambda path: path.write_text("drawn")}
    monkeypatch.setattr(suite, "run", lambda *_, **__: result(draws))
    assert command.run(command.VerifySettings(quick=True, out=tmp_path, json=tmp_path / "copy.json")) == 3
    said = capsys.readouterr()
    assert said.err == "theory: error: a.png: ValueError: no ticks at all\n"
    assert (tmp_path / "a.png").read_text() == "old"
    assert (tmp_path / "b.png").read_text() == "drawn"
    assert (tmp_path / "copy.json").read_text() == (tmp_path / "ledger.json").read_text()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a.png", "b.png", "copy.json", "ledger.json", "ledger.md"]
    assert [line.strip() for line in said.out.splitlines()[-4:]] == [
        str(tmp_path / name) for name in ("ledger.json", "copy.json", "ledger.md", "b.png")
    ]
    assert f"{tmp_path}/a.png" not in said.out
    assert "1,234 stages, 60 more without rounding, in 61 s on cpu" in said.out
    assert "verdict:\n  Nothing is violated.\n  Looked at: 1 claims, 1,234 stages" in said.out
    monkeypatch.setattr(suite, "run", lambda *_, **__: result(draws, violations=1))
    assert command.run(command.VerifySettings(quick=True, out=tmp_path)) == 1


def test_the_table_is_written_as_latex_too(tmp_path, monkeypatch, capsys):
    found = result()
    monkeypatch.setattr(suite, "run", lambda *_, **__: found)
    assert command.run(command.VerifySettings(quick=True, out=tmp_path, latex=tmp_path / "table.tex")) == 0
    assert (tmp_path / "table.tex").read_text() == ledger.latex(found.rows, found.about)
    assert str(tmp_path / "table.tex") in capsys.readouterr().out.split()
    text = ledger.latex([FULL], ABOUT)
    assert "1,234 stages, seed 5, today." in text
    cells = next(line for line in text.splitlines() if line.startswith("S7 & ")).removesuffix(r" \\").split(" & ")
    assert [cell.replace("\\", "") for cell in cells] == [cell.replace("–", "--") for cell in CELLS]


def test_a_folder_that_is_gone_is_made_again_and_links_are_followed(tmp_path):
    out = tmp_path / "out"
    console = Console(quiet=True)
    assert command.write(result(), out, None, console) == []
    (tmp_path / "else.json").write_text("old")
    (out / "ledger.json").unlink()
    (out / "ledger.json").symlink_to(tmp_path / "else.json")
    assert command.write(result(), out, None, console) == []
    assert json.loads((tmp_path / "else.json").read_text())["schema"] == 1
    assert (out / "ledger.json").is_symlink()


def test_where_nothing_can_be_written_the_ledger_is_printed(tmp_path, monkeypatch, capsys):
    """A full disk at the last line: old files stay whole, the table and the JSON are on the terminal."""
    names = ("ledger.json", "ledger.md", "table.tex")
    for name in names:
        (tmp_path / name).write_text("old")

    def full(self, *_, **__):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_text", full)
    failed = command.write(result(violations=2), tmp_path, None, Console(width=200), tmp_path / "table.tex")
    monkeypatch.undo()
    out = capsys.readouterr().out
    assert len(failed) == 3
    assert all("No space left on device" in line for line in failed)
    assert "claim ledger" in out
    (line,) = [x for x in out.splitlines() if x.startswith("{")]
    assert json.loads(line)["claims"][0]["violations"] == 2
    assert {x.name: x.read_text() for x in tmp_path.iterdir()} == dict.fromkeys(names, "old")


@pytest.mark.parametrize(
    "place",
    ["a file", "a device", "json a folder", "ledger a folder", "page a folder", "json nowhere", "latex a folder",
     "latex nowhere", "progress a file"],
)  # fmt: skip
def test_places_are_tried_before_the_work(tmp_path, monkeypatch, place, capsys):
    monkeypatch.setattr(suite, "run", lambda *_, **__: pytest.fail("worked"))
    out, more = tmp_path / "out", {}
    if place == "a file":
        out.write_text("x")
    elif place == "a device":
        out.symlink_to("/dev/null")
    elif place in ("json a folder", "latex a folder"):
        (tmp_path / "f").mkdir()
        more = {place.partition(" ")[0]: tmp_path / "f"}
    elif place in ("json nowhere", "latex nowhere"):
        more = {place.partition(" ")[0]: tmp_path / "f" / "g"}
    elif place == "ledger a folder":
        (out / "ledger.json").mkdir(parents=True)
    elif place == "page a folder":
        (out / "ledger.md").mkdir(parents=True)
    else:
        out.mkdir()
        (out / ".progress").write_text("x")
        more = {"full": True}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        command.run(command.VerifySettings(out=out, **more))
    named = place.partition(" ")[0]
    assert caught.value.name == (f"--{named}" if named in ("json", "latex") else "--out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("tier", "error", "code", "said"),
    [("--quick", InputError("x", 1, "2"), 2, "theory: error: x: found 1, expected 2\n"),
     ("--quick", KeyboardInterrupt(), 130, "theory: interrupted; nothing was written\n"),
     ("--full", KeyboardInterrupt(), 130, "theory: interrupted; the same command goes on where it was\n"),
     ("--quick", RuntimeError("bug"), 3, "RuntimeError: bug\n"), ("--quick", None, 0, "")],
)  # fmt: skip
def test_how_the_command_ends(monkeypatch, tmp_path, capsys, tier, error, code, said):
    """A program that breaks off is not a claim that is violated."""

    def run(settings):
        if error is not None:
            raise error
        return 0

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr("sys.argv", ["theory", tier, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == code
    assert capsys.readouterr().err.endswith(said)


def test_two_tiers_at_once_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["theory", "--quick", "--full"])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "theory: error: --quick, --full: found both, expected at most one of them\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--instances", "x"],
            "Error parsing --instances: no type matching {None}|INT could be instantiated from ['x'].",
        ),
        (["--nope"], "Unrecognized options: --nope"),
        (["--only", "S7", "--only", "S9"], "--only: found given 2 times, expected once, with all its values\n"),
        (["--seed", "-1"], "--seed: found -1, expected an integer, at least 0\n"),
        (["--instances", "1000000001"], "--instances: found 1000000001, expected an integer from 1 to 1000000000\n"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(command, "run", lambda settings: 0)
    monkeypatch.setattr("sys.argv", ["theory", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("theory: error: " + said)
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["quick", "full", "json", "out", "instances", "seed", "plugin"])
@pytest.mark.parametrize("value", [-3, 2.0, float("nan"), (), b"x"])
def test_settings_are_refused_where_they_are_made(name, value):
    with pytest.raises(InputError, match=f"^(--)?{name}: found "):
        command.VerifySettings(**{name: value})


@pytest.mark.parametrize("value", ["S7", 3, ("S7", 3)])
def test_only_is_a_list_of_texts(value):
    with pytest.raises(InputError, match=r"^only: found "):
        command.VerifySettings(only=value)


def test_brackets_of_a_claim_are_no_markup():
    printed = Console(width=400, file=StringIO())
    printed.print(ledger.terminal([row("[red]own[/b]", statement="x[/bold] [i]y")], 400))
    assert "[red]own[/b]" in printed.file.getvalue()
    assert "x[/bold] [i]y" in printed.file.getvalue()


@pytest.mark.parametrize("scale", [None, 1.0])
def test_a_budget_that_is_not_a_number_never_holds(scale):
    """NaN compares as False with everything; only an open bound needs no budget."""
    one, nan = jnp.ones(1), jnp.full(1, jnp.nan)
    check = Check(0 * one, one, nan, None if scale is None else scale * one)
    assert bool(judge(check).violated[0])
    assert not bool(judge(check._replace(budget=one / 4)).violated[0])
    if scale is None:
        assert not bool(judge(check._replace(bound=jnp.inf * one)).violated[0])
