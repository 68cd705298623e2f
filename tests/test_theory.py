"""The suite of theory/: exact oracle against the float core, constructions, fits, audit, ledger."""

import json
import os
import pickle
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.bounds import penalty_log_sum
from teamtr_jax.claims import STAGE_CLAIMS, Check, Claim, judge
from teamtr_jax.files import unseal
from theory import audit, families, ledger, run
from theory.constructions.relay import leading_coefficients
from theory.fits import bootstrap_slope, local_slopes, log_slope, median_interval
from theory.proved import marked
from theory.studies import p3_2, r1, r3
from theory.studies.every import STUDIES
from theory.tiers import TIERS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("n", range(2, 17))
def test_relay_leading_coefficients(n):
    """R1: exactly n (fresh) and (3n²−n)/2 (stale); the cached one, 2n²−n, is not in the paper."""
    found = leading_coefficients(n)
    assert found.fresh == n
    assert 2 * found.stale == 3 * n * n - n
    assert found.cached == 2 * n * n - n


def test_relay_of_the_float_core_goes_to_the_coefficients():
    found = r1.curves(sizes=(2, 5), steps=(1e-6, 1e-5, 1e-4))
    n, p = np.array([2, 5]), found.steps[:, None]
    kl = p * np.log(0.5) + (1 - p) * np.log((1 - p) / (1 - 2 * p))  # of a message, p → 2p; two of each agent, ϱ = 1
    np.testing.assert_allclose(found.bounds["S7c"], 2 * n * kl, rtol=1e-6)
    np.testing.assert_allclose(found.bounds["signed"][0], (2 * n * n - n) * 1e-12, rtol=1e-4)
    for k, exact in enumerate(found.leading):
        for name in ("fresh", "stale", "cached"):
            scaled = found.gaps[name][:, k] / found.steps**2
            error = abs(scaled / getattr(exact, name) - 1)
            assert error[0] < 1e-4
            np.testing.assert_allclose(
                np.diff(np.log(error)), np.log(10), rtol=0.05
            )  # the next order is linear in the step


def test_median_interval():
    """Of 100 ordered numbers the 40th and the 61st, as in the tables; 95 % coverage of the median, never less."""
    assert median_interval(np.arange(1, 101)[::-1]) == (50.5, 40, 61)
    draws = np.random.default_rng(0).exponential(size=(4000, 21))
    kept = np.mean([low <= np.log(2) <= high for _, low, high in map(median_interval, draws)])
    assert 0.95 <= kept < 0.99


def test_slopes():
    n = np.array([2, 4, 8, 16])
    fit = log_slope(n, 3 * n**1.7)
    assert abs(fit.slope - 1.7) < 1e-12
    assert fit.high - fit.low < 1e-9
    np.testing.assert_allclose(local_slopes(n, n**2.5), 2.5)
    rng = np.random.default_rng(0)
    fit = bootstrap_slope(n, n[:, None] * rng.lognormal(size=(4, 400)), rng)
    assert fit.low < 1 < fit.high
    assert 0.02 < fit.high - fit.low < 0.5


def test_message_chain_rule_is_found_and_its_reversal_is_not():
    row = p3_2.run(500, np.random.default_rng(0))
    assert row.violations == 0
    assert row.detects is not None
    assert row.detects < 1e-3


def test_random_teams_are_not_quadratic():
    """R3."""
    row, curves = r3.run(20, np.random.default_rng(0), sizes=(2, 4, 8))
    assert row.violations == 0
    assert curves.slopes["message"]["stale"].high < 2


@pytest.mark.parametrize(
    "name", ["small", "middle", "large", "product", "episodic", "tied", "tied product", "tied episodic"]
)
def test_random_stages_are_drawn_as_the_ledger_says(monkeypatch, name):
    """Ranges as printed, ends included; 1−γ and steps log-uniform, but for one in fifty; rewards sparse in three of ten."""
    asked = {}

    def drawn(rng, batch, states, actions, agents, **more):
        asked.update(more, states=states, agents=agents)

    monkeypatch.setattr(families, "random_stages", drawn)
    family = next(f for f in families.FAMILIES if f.name == name)
    family.make(np.random.default_rng(0), 20_000)
    untied = next(f for f in families.FAMILIES if f.name == {"tied": "small"}.get(name, name.removeprefix("tied ")))
    said = dict(re.findall(r"\b(S|contexts|n) (?:uniform \d…|= )(\d+)", untied.sizes))
    states, live = int(said.get("S", said.get("contexts"))), asked["live_states"]
    assert (asked["states"], asked["agents"]) == (states, int(said["n"]))
    assert set(live) == {*range(2, states + 1)}
    assert set(asked["live_agents"]) == {*range(1, asked["agents"] + 1)}
    assert ((asked["branching"] >= 1) & (asked["branching"] <= live)).all()
    assert asked["branching"].mean() == pytest.approx((live.mean() + 1) / 2, rel=0.05)
    episodic = "episodic" in name
    assert (asked["discount"] is None, asked["horizon"]) == (episodic, 6 if episodic else None)
    for numbers, decades in ((asked["step"], 6), *(() if episodic else ((1 - asked["discount"], 3),))):
        none = numbers == 0 if decades == 6 else asked["discount"] == 0
        assert none.mean() == pytest.approx(0.02, abs=0.005)
        share = -np.log10(numbers[~none]) / decades
        assert np.quantile(share, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.02)
    assert np.log10(asked["concentration"]).min() == pytest.approx(-1, abs=0.01)
    assert np.log10(asked["concentration"]).max() == pytest.approx(1, abs=0.01)
    assert asked["sparse_reward"].mean() == pytest.approx(0.3, abs=0.02)
    labels = asked["observations"]
    if name.startswith("tied"):
        assert set(labels) == {*range(1, int(re.search(r"one of 1…(\d) labels", family.sizes)[1]) + 1)}
    else:
        assert labels is None


def half_of_s7(stage, report):
    del stage
    return {"": Check(abs(report.gap_fresh), penalty_log_sum(report) / 2, report.rounding.fresh)}


def test_the_audit_catches_a_wrong_constant():
    """S7 with half its constant is refuted by the corner family; with the right one it holds and says what it would catch."""
    wrong = Claim("S7/2", "half of S7", "a mistake", half_of_s7)
    corners = next(f for f in families.FAMILIES if f.name == "corners")
    s7 = next(c for c in STAGE_CLAIMS if c.id == "S7")
    found = audit.audit_family(corners, 300, np.random.default_rng(0), (wrong, s7), chunk=300)
    assert found["S7/2", ""].violated > 20
    assert found["S7", ""].violated == 0
    assert found["S7", ""].ratio > 0.95
    row = audit.rows(found, (s7,), 0.0)[0]
    assert row.detects is not None
    assert row.detects < 0.05
    assert row.violations == 0


def test_attained_bounds_are_decided_exactly():
    """T1 is an equality on the fork: float64 cannot say which side is larger, rationals can."""
    corners = next(f for f in families.FAMILIES if f.name == "corners")
    t1 = next(c for c in STAGE_CLAIMS if c.id == "T1")
    found = audit.audit_family(corners, 60, np.random.default_rng(0), (t1,), chunk=30)["T1", ""]
    assert found.stages == 60
    assert found.decided >= 20
    assert (found.violated, found.inconclusive) == (0, 0)


def test_judge():
    """Violated, inconclusive, trivial, holds, infinite bound, NaN."""
    measured = jnp.array([2.0, 1.0, 0.0, 0.5, 9.0, jnp.nan])
    bound = jnp.array([1.0, 1.0, 0.0, 1.0, jnp.inf, 1.0])
    v = judge(Check(measured, bound, jnp.full(6, 0.1)))
    assert v.violated.tolist() == [True, False, False, False, False, True]
    assert v.inconclusive.tolist() == [False, True, False, False, False, False]
    assert v.trivial.tolist() == [False, False, True, False, False, False]
    np.testing.assert_allclose(v.ratio[:5], [2, 1, 0, 0.5, 0])
    identity = judge(Check(jnp.array([1e-3, 0.0]), jnp.zeros(2), jnp.full(2, 1e-4), jnp.ones(2)))
    assert identity.violated.tolist() == [True, False]
    assert float(identity.slack[1]) == pytest.approx(1e-4)


def test_ledger_is_strict_json_and_a_table(tmp_path):
    row = ledger.Row(
        "S0", "a | b", "float", 10, 0, 0, None, 0.5, exponent=2.0, interval=(1.9, float("inf")), note="fixed"
    )
    ledger.write_json([row], tmp_path / "ledger.json", {"seed": 0})
    claim = json.loads((tmp_path / "ledger.json").read_text())["claims"][0]
    assert claim["interval"] == [1.9, "inf"]
    assert claim["tightest"] is None
    about = {
        "instances": 10,
        "exact": 3,
        "seed": 0,
        "seconds": 1.0,
        "machine": "m",
        "python": "3",
        "jax": "0",
        "device": "cpu",
        "date": "today",
    }
    text = ledger.markdown([row], about | {"counts": {"small": 10}, "families": {"small": "S"}, "gymnasium": []})
    assert "a \\| b" in text
    assert "* **S0**: fixed" in text


def test_workers_are_told_of_everything_built_in():
    """What cannot be sent is done in the process that was started, on one core; a claim that came through is the built-in one."""
    jobs = (*families.FAMILIES, *STAGE_CLAIMS, *STUDIES, *run._singles(TIERS["full"]))
    assert all(map(run._sendable, jobs))
    assert pickle.loads(pickle.dumps(STAGE_CLAIMS)) == STAGE_CLAIMS  # noqa: S301 — of this line
    assert not run._sendable(Claim("x", "", "", lambda stage, report: {}))


KEPT = """
import sys
from dataclasses import replace
from pathlib import Path
import jax
from teamtr_jax.claims import STAGE_CLAIMS
from theory import ledger, run
from theory.tiers import Tier
if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    tier = Tier(1_000, 0, ("corners",), (), True, chunk=10, keep=True)
    claims = [claim for claim in STAGE_CLAIMS if claim.id == "T1"]
    result = run.run(tier, journal=Path(sys.argv[1]), studies=(), claims=claims)
    print(ledger.as_json([replace(row, seconds=0.0, page="") for row in result.rows], {}))
"""


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path):
    """Killed (-9) between two chunks, begun again: the ledger of an audit that nobody killed."""
    path, kept = tmp_path / "kept.py", tmp_path / "progress" / "corners.json"
    path.write_text(KEPT)
    environment = {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "cwd": ROOT, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(path), str(kept.parent)], **environment) as process:
        while not kept.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    killed = unseal(kept.read_bytes())["done"]
    assert 0 < killed < 1_000
    again = subprocess.run([sys.executable, str(path), str(kept.parent)], **environment, check=True).stdout
    assert unseal(kept.read_bytes())["done"] == 1_000
    corners = next(family for family in families.FAMILIES if family.name == "corners")
    claims = [claim for claim in STAGE_CLAIMS if claim.id == "T1"]
    whole = audit.audit_family(corners, 1_000, np.random.default_rng([0, *b"corners"]), claims, chunk=10)
    (row,) = audit.rows(whole, claims, 0.0)
    assert json.loads(again) == json.loads(ledger.as_json([marked(replace(row, seconds=0.0))], {}))


@pytest.mark.slow  # .ci/run runs the same command; here its JSON is read too
def test_command_line(tmp_path):
    """`python -m theory` on a handful of stages: exit code, JSON of the contract, figures on disk."""
    target = tmp_path / "claims.json"
    done = subprocess.run(
        [sys.executable, "-m", "theory", "--quick", "--instances", "1000", "--json", str(target), "--out", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(target.read_text())
    claims = {claim["id"]: claim for claim in data["claims"]}
    assert {"T0", "T1", "T2", "P3.1", "P3.2", "P3.3", "P3.4", "P3.6", "P3.7", "P3.8", "S0", "S7", "R1", "R3"} <= set(
        claims
    )
    keys = "id statement evidence instances violations inconclusive tightest detects exponent interval seconds".split()
    for claim in claims.values():
        assert not set(keys) - set(claim)
        assert claim["violations"] == 0, claim
    assert claims["R1"]["exponent"] > 1.8
    assert {"scaling.png", "bounds.png", "ledger.json", "ledger.md"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert str(tmp_path / "out" / "scaling.png") in done.stdout


def test_command_line_refuses(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "theory", "--instances", "0", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr == "theory: error: --instances: found 0, expected an integer from 1 to 1000000000\n"
    assert not list(tmp_path.iterdir())
