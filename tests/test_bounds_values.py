"""Rungs, certificates, claims and the stage record by value, on reports that are made up.

No field equals another one, so a name swapped, a constant off or a sum one term short is a wrong number. `truth` has the
formulas in plain Python.
"""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import truth
from builders import as_stage
from truth import ERRORS

from teamtr_jax import certificates
from teamtr_jax.bounds import DEFAULT, Rung, ladder, least, paper_constant, penalty_drift_paper
from teamtr_jax.chain_audit import COPIED as AUDITED
from teamtr_jax.chain_audit import report_numbers
from teamtr_jax.claims import STAGE_CLAIMS, Check, judge, rung_claim
from teamtr_jax.records import dump, stage_record, update_lines
from teamtr_jax.types import UpdateRecord

SEEDS = range(6)
FORMS = ("discounted", "episodic")
ALONE = ("P3.1", "P3.8", "P3.9", "S11", "S12")
"""Claims that look at the stage itself and not at its report alone."""

RUNGS = {
    "penalty_trivial": ("S0", "fresh", "oracle"), "penalty_paper": ("P3.4", "fresh", "oracle"),
    "penalty_share": ("S1", "fresh", "oracle"), "penalty_path": ("S2", "fresh", "oracle"),
    "penalty_second_order": ("S4", "fresh", "oracle"), "penalty_later_turns": ("S4R", "fresh", "oracle"),
    "penalty_layers": ("E1", "fresh", "oracle"), "penalty_log_sum": ("S7", "fresh", "estimable"),
    "penalty_log_sum_advantage": ("S7b", "fresh", "oracle"), "penalty_weighted": ("S9", "fresh", "estimable"),
    "penalty_chi_square": ("S10", "fresh", "oracle"),
    "penalty_stale_trivial": ("S0", "stale", "oracle"), "penalty_stale_paper": ("P3.7", "stale", "oracle"),
    "penalty_stale_share": ("S1", "stale", "oracle"), "penalty_stale_path": ("S3", "stale", "oracle"),
    "penalty_stale_second_order": ("S4", "stale", "oracle"), "penalty_stale_log_sum": ("S7b", "stale", "oracle"),
    "penalty_stale_return_range": ("S7b", "stale", "estimable"), "penalty_cached_log_sum": ("S7c", "cached", "estimable"),
    "penalty_reused_log_sum": ("S7c", "reused", "estimable"),
    "penalty_cached_chi_square": ("S10", "cached", "oracle"), "penalty_reused_chi_square": ("S10", "reused", "oracle"),
}  # fmt: skip
"""Which gap a rung is about and who can print it. (Whether S7b with ϱ is estimable depends on its form.)"""


def close(ours, expected, name=""):
    """Sums and products of a few terms of one size."""
    np.testing.assert_allclose(np.asarray(ours), expected, rtol=1e-12, atol=1e-13, err_msg=name)


def stage_of(form):
    return as_stage(truth.team(form, "turn-taking", "plain", 0))


def derived(report):
    """Everything that is computed from a report alone, in one program."""
    form = "episodic" if report.episodic else "discounted"
    names = [name for name in certificates.__all__ if name != "certified_share"]
    return {
        "ladder": ladder(report),
        "drift": penalty_drift_paper(report),
        "constant": paper_constant(report),
        "certificates": {name: getattr(certificates, name)(report) for name in names},
        "corrected": certificates.lower_bound_paper(report, jnp.array([0.5, 0.25, 2.0])),
        "share": certificates.certified_share(report, report.surrogate_stale),
        "least": {gap: least(report, gap) for gap in ("fresh", "stale", "cached", "reused")},
        "estimable": {gap: least(report, gap, ("estimable",)) for gap in ("fresh", "cached")},
        "nobody": least(report, "fresh", ("prior",)),
        "claims": {
            claim.id: claim.check(stage_of(form), report)
            for claim in STAGE_CLAIMS
            if form in claim.forms and claim.id not in ALONE
        },
        "properties": (report.improvement, report.delta_stale, report.d_occ),
    }


program = jax.jit(derived)


@pytest.fixture(scope="module", params=itertools.product(FORMS, SEEDS), ids=lambda p: f"{p[0]}-{p[1]}")
def pair(request):
    """The fields of a report, and what the package makes of them."""
    x = truth.made_up(*request.param)
    return x, jax.tree.map(np.asarray, program(truth.as_report(x)))


# ---------------------------------------------------------------------------------------------------------------- rungs


def test_rungs(pair):
    """Every penalty by its formula, and no other."""
    x, found = pair
    expected = truth.penalties(x)
    close(found["drift"], expected.pop("drift"), "drift")
    if "constant" in expected:
        close(found["constant"], expected.pop("constant"), "constant")
    for name, value in expected.items():
        close(found["ladder"][name], value, name)
    assert set(found["ladder"]) == set(expected)


def test_labels():
    """Which statement, which gap, which form, whose number."""
    assert [rung.name for rung in DEFAULT] == list(RUNGS)
    for rung in DEFAULT:
        id_, gap, information = RUNGS[rung.name]
        assert (rung.id, rung.gap) == (id_, gap)
        assert information in (None, rung.information), rung.name
        assert rung.forms == (("episodic",) if rung.id in ("E1", "S10") else FORMS)


def test_the_least_penalty(pair):
    """S6: the least of the rungs on that gap at those levels, `∞` where there is none."""
    _, found = pair
    for gap in ("fresh", "stale", "cached", "reused"):
        of_gap = [name for name in found["ladder"] if RUNGS[name][1] == gap]
        close(found["least"][gap], np.min([found["ladder"][name] for name in of_gap], 0), gap)
    s7, s9 = (found["ladder"][name] for name in ("penalty_log_sum", "penalty_weighted"))
    close(found["estimable"]["fresh"], np.minimum(s7, s9))
    close(found["estimable"]["cached"], found["ladder"]["penalty_cached_log_sum"])
    assert (found["nobody"] == math.inf).all()


def test_each_rung_can_win():
    """Whichever rung on the fresh gap is the least at an update is the one that counts; infinite ones are passed over."""
    report = truth.as_report(truth.made_up("discounted", 0))

    def rung(name, values, gap="fresh", information="oracle"):
        return Rung("X", name, gap, FORMS, information, lambda report: jnp.array(values))

    rungs = [rung("a", [1.0, 5.0, math.inf]), rung("b", [2.0, 3.0, math.inf]), rung("c", [9.0, 4.0, math.inf]),
             rung("d", [0.0, 0.0, 0.0], "stale"), rung("e", [0.5, 0.5, 7.0], information="prior")]  # fmt: skip
    assert least(report, "fresh", ("oracle",), rungs).tolist() == [1.0, 3.0, math.inf]
    assert least(report, "fresh", ("oracle", "prior"), rungs).tolist() == [0.5, 0.5, 7.0]
    assert least(report, rungs=rungs).tolist() == [0.5, 0.5, 7.0]
    assert least(report, "stale", rungs=rungs).tolist() == [0.0, 0.0, 0.0]
    seq = np.asarray(report.surrogate_intermediate)
    close(certificates.certificate(report, rungs), seq - [0.5, 0.5, 7.0])
    close(certificates.stage_bound_least(report, rungs), seq.sum() - 8.0)


# --------------------------------------------------------------------------------------------------------- certificates


def test_certificates(pair):
    """Surrogate less penalty; with a floor of the return that is not 0 and a range that is not 1."""
    x, found = pair
    expected = truth.certificates(x)
    assert set(found["certificates"]) == set(expected)
    for name, value in expected.items():
        close(found["certificates"][name], value, name)
    close(found["corrected"], expected["lower_bound_paper"] - [0.5, 0.25, 2.0])
    gain = x["surrogate_intermediate"] + x["gap_fresh"]
    share, better = found["share"]
    assert better.tolist() == [g > 0 for g in gain]
    close(share, [s / g if g > 0 else 0.0 for s, g in zip(x["surrogate_stale"], gain, strict=True)])
    improvement, delta_stale, d_occ = found["properties"]
    close(improvement, sum(gain))
    close(delta_stale, sum(abs(d) for d in x["seq_minus_stale"]))
    close(d_occ, sum(x["occupancy_tv_stale"]))


def test_nothing_above_the_floor():
    """`J̃ = 0`: all that the team has is its floor, and the certificate is `b` itself; `J̃ > 0`: never below `−J̃`."""
    x = truth.made_up("discounted", 1)
    x["return_floor"] = x["objective"][1]
    x["objective"][0] = x["objective"][1] + 1e-3
    x["surrogate_intermediate"][0] = -40.0
    found = np.asarray(certificates.certificate_weighted(truth.as_report(x)))
    assert found[0] == pytest.approx(-1e-3, rel=1e-12)
    assert found[1] == x["surrogate_intermediate"][1] - x["weighted_floor"][1]


# --------------------------------------------------------------------------------------------------------------- claims


def finite_times(factor, x):
    """`factor·x` where x is finite: rounding of an infinite bound is no matter."""
    return np.where(np.isfinite(x), factor * np.where(np.isfinite(x), x, 0.0), 0.0)


def before(x):
    """`Σ_{u<t}` along the last axis."""
    return np.array([[sum(row[:t]) for t in range(len(row))] for row in np.atleast_2d(x)]).reshape(np.shape(x))


def checks(x):
    """`{(claim, name): (measured, bound, budget)}` as the statements and docs/rounding.md have it; `None`: not compared."""
    p, e, eta = truth.penalties(x), ERRORS, float(ERRORS["relative"])
    fresh, stale, cached, reused = (abs(x[f"gap_{name}"]) for name in ("fresh", "stale", "cached", "reused"))
    left = np.diff(x["objective"])
    right = (x["visits"][1:] * x["conditional"]).sum(-1)
    total = abs(x["objective"][-1] - x["objective"][0] - right.sum())
    s7c = p["penalty_reused_log_sum"]
    g_max = abs(x["conditional"]).max(-1)
    out = {
        ("T0", "update"): (abs(left - right), 0.0, e["identity"]),
        ("T0", "stage"): (total, 0.0, e["identity"].sum()),
        ("P3.3", ""): (abs(x["seq_minus_stale"]), p["drift"], e["drift"]),
        ("P3.4", ""): (fresh, p["penalty_paper"], e["fresh"]),
        ("P3.6", ""): (abs(x["gap_fresh"].sum()), p["penalty_paper"].sum(), e["fresh"].sum()),
        ("P3.7", "update"): (stale, p["penalty_stale_paper"], e["stale"]),
        ("P3.7", "stage"): (abs(x["gap_stale"].sum()), p["penalty_stale_paper"].sum(), e["stale"].sum()),
        ("S0", "fresh"): (fresh, p["penalty_trivial"], g_max * e["shift"]),
        ("S0", "stale"): (stale, p["penalty_trivial"], g_max * [sum(e["shift"][: i + 1]) for i in range(3)]),
        ("S1", "fresh"): (fresh, p["penalty_share"], e["fresh"]),
        ("S1", "stale"): (stale, p["penalty_stale_share"], e["stale"]),
        ("S2", "gap"): (fresh, p["penalty_path"], e["fresh"]),
        ("S3", "gap"): (stale, p["penalty_stale_path"], e["stale"]),
        ("S6", "fresh"): (fresh, np.min([p[k] for k in p if k in RUNGS and RUNGS[k][1] == "fresh"], 0), e["fresh"]),
        ("S6", "stale"): (stale, None, e["stale"]),
        ("S7", ""): (fresh, p["penalty_log_sum"], e["fresh"]),
        ("S7b", "fresh"): (fresh, p["penalty_log_sum_advantage"], e["fresh"]),
        ("S7b", "stale"): (stale, p["penalty_stale_log_sum"], e["stale"]),
        ("S7b", "stale, ϱ"): (stale, p.get("penalty_stale_return_range"), e["stale"]),
        ("S7c", "cached"): (cached, p["penalty_cached_log_sum"], e["cached"]),
        ("S7c", "reused"): (reused, s7c, e["reused"]),
        ("S7c", "stage, cached"): (abs(x["gap_cached"].sum()), s7c[-1], e["cached"].sum()),
        ("S7c", "stage, reused"): (abs(x["gap_reused"].sum()), s7c[-1], e["reused"].sum()),
        ("S9", "floor"): (-x["gap_fresh"], x["weighted_floor"], e["fresh"]),
        ("S9", "ceiling"): (x["gap_fresh"], x["weighted_ceiling"], e["fresh"]),
        ("S9", "update"): (fresh, p["penalty_weighted"], e["fresh"]),
        ("S9", "stage"): (-x["gap_reused"].sum(), x["weighted_reused"].sum(), e["reused"].sum()),
    }
    for name, penalty, gap, own in (("S4", "second_order", fresh, "fresh"), ("S4R", "later_turns", fresh, "fresh"),
                                    ("S4 stale", "stale_second_order", stale, "stale")):  # fmt: skip
        bound = p[f"penalty_{penalty}"]
        out["S4", name] = (gap, bound, e[own] + 8 * eta * bound)
    if "layer_kl" in x:
        shift = x["layer_shift"]
        for claim, bound in (
            ("T1", before(x["layer_tv"])),
            ("T2", before(np.sqrt(x["layer_kl"] / 2))),
            ("S2", np.sqrt(before(x["layer_kl"]) / 2)),
        ):
            budget = 4 * eta * (shift + finite_times(1.0, bound)) + 2 * e["closure"][:, None]
            out[claim, "shift" if claim == "S2" else ""] = (shift, bound, budget)
        first = x["layer_return_deviation"][0]
        last = {
            gap: truth.deviating(first, truth.budget(x[f"layer_chi_square_{gap}"][-1])) for gap in ("cached", "reused")
        }
        for name, gap, bound, own in (
            ("fresh", fresh, p["penalty_chi_square"], e["fresh"]),
            ("cached", cached, p["penalty_cached_chi_square"], e["cached"]),
            ("reused", reused, p["penalty_reused_chi_square"], e["reused"]),
            ("stage, cached", abs(x["gap_cached"].sum()), last["cached"], e["cached"].sum()),
            ("stage, reused", abs(x["gap_reused"].sum()), last["reused"], e["reused"].sum()),
        ):
            scale = abs(x["values"]).max() + abs(stage_of("episodic").team.reward).max()
            error = 3 * eta * float(scale) * math.sqrt(x["mass"])
            loose = truth.penalties(x | {"layer_return_deviation": np.full(3, error)})
            roots = {"fresh": loose["penalty_chi_square"]} | {n: loose[f"penalty_{n}_chi_square"] for n in last}
            roots |= {f"stage, {n}": last[n] / first * error for n in last}
            out["S10", name] = (
                gap,
                bound,
                own + finite_times(8 * eta, bound) + np.where(np.isinf(bound), 0.0, roots[name]),
            )
        out["E1", ""] = (fresh, p["penalty_layers"], e["fresh"] + 8 * eta * p["penalty_layers"])
        return out
    g, h = x["discount"], 1 - x["discount"]
    tv, root2 = x["occupancy_tv_fresh"], math.sqrt(2)
    kl, share = x["kl"], [truth.times(w, k) for w, k in zip(x["share"], x["kl"], strict=True)]
    own = e["shift"] / x["mass"]
    t1 = 2 * g / h * x["tv"]
    t2 = np.array([truth.times(root2 * g / h, math.sqrt(k)) for k in kl])
    s1 = np.array([truth.times(root2 * g / h, math.sqrt(k)) for k in share])
    s2 = np.array([truth.times(g, math.sqrt(k / (2 * h))) for k in kl])
    s3 = np.array([truth.times(g, math.sqrt(sum(x["kl_stale"][:i]) / (2 * h))) for i in range(3)])
    seq, amax = x["surrogate_intermediate"], x["advantage_max"]
    s5 = np.array([truth.times(root2 * a / h, math.sqrt(k)) for a, k in zip(amax, kl, strict=True)])
    path = np.array([truth.times(root2 * g * a / h**1.5, math.sqrt(k)) for a, k in zip(amax, kl, strict=True)])
    cached_root = [sum(math.sqrt(k) for k in x["kl_stale"][: i + 1]) for i in range(3)]
    s5_budget = finite_times(8 * eta, s5) + 4 * eta * abs(seq)
    never = math.inf
    return out | {
        ("T1", ""): (2 * tv, t1, 2 * own + 2 * eta * t1),
        ("T2", ""): (2 * tv, t2, 2 * own + finite_times(2 * eta, t2)),
        ("S1", "shift"): (2 * tv, s1, 2 * own + finite_times(2 * eta, s1)),
        ("S2", "shift"): (tv, s2, own + finite_times(2 * eta, s2)),
        ("S3", "shift"): (x["occupancy_tv_stale"], s3, before(e["shift"]) / x["mass"] + finite_times(2 * eta, s3)),
        ("S5", "surrogate"): (abs(seq), s5, s5_budget),
        ("S5", "P3.4"): (
            seq - p["penalty_paper"],
            0.0 if g >= 0.5 else never,
            s5_budget + finite_times(8 * eta, p["penalty_paper"]),
        ),
        ("S5", "S2"): (
            seq - path,
            0.0 if g >= (math.sqrt(5) - 1) / 2 else never,
            s5_budget + finite_times(8 * eta, path),
        ),
        ("P3.7", "update, δ⁰"): (
            stale, [truth.times(p["constant"][i], cached_root[i]) for i in range(3)], e["stale"],
        ),
    }  # fmt: skip


def test_claims(pair):
    """Which number is measured, against which bound, with which budget; nothing is checked that is not listed."""
    x, found = pair
    ours = {(claim, name): check for claim, named in found["claims"].items() for name, check in named.items()}
    expected = checks(x)
    assert set(ours) == set(expected)
    for key, (measured, bound, budget) in expected.items():
        check = ours[key]
        close(check.measured, measured, f"{key} measured")
        if bound is not None:
            close(check.bound, np.broadcast_to(bound, check.bound.shape), f"{key} bound")
        if budget is not None:
            close(check.budget, budget, f"{key} budget")
        assert (check.scale is not None) == (key[0] == "T0")
    right = (x["visits"][1:] * x["conditional"]).sum(-1)
    close(ours["T0", "update"].scale, abs(right))
    close(ours["T0", "stage"].scale, abs(right.sum()))


def test_budgets_of_shifts_that_are_zero():
    """T1, T2, S2, episodic: where nothing moved before a layer both sides are 0 and there is nothing to round."""
    x = truth.made_up("episodic", 0)
    x["layer_shift"][:, 0] = 0.0
    found = program(truth.as_report(x))["claims"]
    for check in (found["T1"][""], found["T2"][""], found["S2"]["shift"]):
        assert (np.asarray(check.budget)[:, 0] == 0).all()
        assert (np.asarray(check.budget)[:, 1:] > 0).all()


def test_forms_of_the_claims():
    """S5 is about discounted teams, S10 and E1 about episodic ones, all others about both; ids once each."""
    forms = {claim.id: claim.forms for claim in STAGE_CLAIMS}
    assert list(forms) == ["T0", "T1", "T2", "P3.1", "P3.3", "P3.4", "P3.6", "P3.7", "P3.8", "P3.9", "S0", "S1", "S2", "S3",
                           "S4", "S5", "S6", "S7", "S7b", "S7c", "S9", "S10", "S11", "S12", "E1"]  # fmt: skip
    assert forms.pop("S5") == ("discounted",)
    assert forms.pop("E1") == forms.pop("S10") == ("episodic",)
    assert set(forms.values()) == {FORMS}


def test_sources_of_the_claims():
    """A number of the paper's is that of its own statement; sharper ones are ours."""
    for claim in STAGE_CLAIMS:
        if claim.id.startswith("P"):
            assert claim.source in (f"paper, Proposition {claim.id[1:]}", f"paper, Theorem {claim.id[1:]}")
        else:
            assert claim.source.startswith("ours") == (claim.id not in ("T0", "T1", "T2"))


@pytest.mark.parametrize(("form", "protocol"), [("discounted", "product"), ("episodic", "turn-taking")])
def test_claims_about_the_policies(form, protocol):
    """P3.1: joint KL and TV by state against the agents'; P3.9: half the swap; P3.8: each agent swapped in alone."""
    case = truth.team(form, protocol, "drops", 0 if form == "discounted" else 1)
    x, stage = oracle.stage(*case.oracle()), as_stage(case)
    chain, solo = oracle.stage_policies(*case.oracle()[1:])
    claims = {claim.id: claim.check for claim in STAGE_CLAIMS}
    report = truth.as_report(x)
    names = ALONE[:3] if form == "discounted" else ("P3.1", "P3.9")  # S12: tests/test_mismatch.py
    found = jax.tree.map(np.asarray, jax.jit(lambda r: {name: claims[name](stage, r) for name in names})(report))
    S = len(chain[0])

    def parts(divergence, state, target):
        if case.factors is None:
            own = case.active[state]
            return [divergence(case.current[state], target[state]) if k == own else 0.0 for k in range(3)]
        return [divergence(case.current[k, state, :f], target[k, state, :f]) for k, f in enumerate(case.factors)]

    kl_parts = np.array([sum(parts(oracle.kl, s, case.target)) for s in range(S)])
    tv_parts = np.array([sum(parts(oracle.tv, s, case.target)) for s in range(S)])
    assert not np.isfinite(kl_parts).all()
    kl, tv = found["P3.1"]["KL"], found["P3.1"]["TV"]
    close(kl.measured, 0.0)
    close(kl.scale, np.where(np.isfinite(kl_parts), kl_parts, 0.0))
    close(tv.measured, [oracle.tv(chain[0][s], chain[-1][s]) for s in range(S)])
    close(tv.bound, tv_parts)
    unit = 2.0**-52 * 8 * (3 + chain[0].shape[1])
    np.testing.assert_allclose(kl.budget, unit * (kl.scale + tv_parts + unit), rtol=1e-9)
    np.testing.assert_allclose(tv.budget, 0.0 if case.factors is None else unit * tv_parts, rtol=1e-9)

    weight = x["visits"][0] / (1 if form == "episodic" else x["visits"][0].sum())
    half = (case.current + case.target) / 2
    order = [int(k) for k in case.order]
    kl_half = [oracle.mean(weight, [parts(oracle.kl, s, half)[k] for s in range(S)]) for k in order]
    p3_9 = found["P3.9"][""]
    close(p3_9.measured, kl_half)
    close(p3_9.bound, x["kl_stale"] / 2)
    total = x["mass"] if form == "episodic" else 1.0
    unit = 64 * 2.0**-52
    np.testing.assert_allclose(p3_9.budget, unit * (x["kl_stale"] / 2 + x["tv_stale"] * total), rtol=1e-9)

    if "P3.8" not in names:
        return
    m, _, Q, J = oracle.solved(case.world, chain[0])
    advantage = Q - (chain[0] * Q).sum(-1, keepdims=True)
    for i, alone in enumerate(solo):
        gap = oracle.solved(case.world, alone)[3] - J - m @ (alone * advantage).sum(-1)
        assert found["P3.8"][""].measured[i] == pytest.approx(abs(gap), rel=1e-8, abs=1e-12)
    y = x | {"advantage_max": np.full(3, abs(advantage).max()), "kl": x["kl_stale"]}
    np.testing.assert_allclose(found["P3.8"][""].bound, truth.penalties(y)["penalty_paper"], rtol=1e-9, atol=1e-12)
    assert (found["P3.8"][""].budget > 0).any()
    assert (found["P3.8"][""].budget < 1e-9).all()


def test_a_rung_as_a_claim():
    """Its gap, its penalty, the budget of that gap."""
    x = truth.made_up("discounted", 1)
    report, penalties = truth.as_report(x), truth.penalties(x)
    for rung in DEFAULT:
        if "discounted" not in rung.forms:
            continue
        claim = rung_claim(rung)
        check = claim.check(stage_of("discounted"), report)[""]
        close(check.measured, abs(x[f"gap_{rung.gap}"]), rung.name)
        close(check.bound, penalties[rung.name], rung.name)
        close(check.budget, ERRORS[rung.gap], rung.name)
        assert (claim.id, claim.source, claim.forms) == (rung.name, rung.id, rung.forms)
        assert claim.statement == f"|{rung.gap} gap_i| ≤ {rung.name}"


# ------------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("measured", "bound", "budget", "violated", "inconclusive", "trivial", "ratio", "slack"),
    [
        (1.0, 2.0, 0.5, False, False, False, 0.5, 0.75),  # (1 − ½)/2 = ¼ is sure
        (1.0, 2.0, 1.0, False, False, False, 0.5, 1.0),  # measured + budget = bound: holds
        (1.0, 2.0, 1.25, False, True, False, 0.5, 1.0),
        (2.25, 2.0, 0.25, False, True, False, 1.125, 0.0),  # measured − budget = bound: not violated
        (2.5, 2.0, 0.25, True, False, False, 1.25, -0.125),
        (0.0, 0.0, 0.5, False, False, True, 0.0, 1.0),
        (0.5, 0.0, 0.25, True, False, False, math.inf, 1.0),
        (0.125, 0.0, 0.25, False, True, False, 0.0, 1.0),
        (5.0, math.inf, 1.0, False, False, False, 0.0, 1.0),
        (math.nan, 1.0, 1.0, True, False, False, math.nan, math.nan),
        (1.0, math.nan, 1.0, True, False, False, 0.0, 1.0),
        (-1.0, 0.5, 0.25, False, False, False, -2.0, 1.0),
    ],
)
def test_verdicts_by_hand(measured, bound, budget, violated, inconclusive, trivial, ratio, slack):
    """Violated beyond the budget, inconclusive within it, trivial at 0 ≤ 0."""
    found = judge(Check(*(jnp.array([value]) for value in (measured, bound, budget))))
    assert [bool(found.violated[0]), bool(found.inconclusive[0]), bool(found.trivial[0])] == [
        violated, inconclusive, trivial,
    ]  # fmt: skip
    np.testing.assert_equal(float(found.ratio[0]), ratio)
    np.testing.assert_equal(float(found.slack[0]), slack)


@pytest.mark.parametrize(
    ("measured", "budget", "scale", "violated", "trivial", "slack"),
    [
        (0.25, 0.5, 2.0, False, False, 0.375),
        (0.5, 0.5, 2.0, False, False, 0.5),  # at the budget: holds
        (0.75, 0.5, 2.0, True, False, 0.625),
        (0.0, 0.5, 0.0, False, True, math.inf),
        (0.25, 0.5, 0.0, False, False, math.inf),
        (math.nan, 0.5, 1.0, True, False, math.nan),
    ],
)
def test_verdicts_on_identities_by_hand(measured, budget, scale, violated, trivial, slack):
    """`|left − right|` against the budget; the slack is relative to either side."""
    found = judge(Check(*(jnp.array([value]) for value in (measured, 0.0, budget, scale))))
    assert (bool(found.violated[0]), bool(found.inconclusive[0]), bool(found.trivial[0])) == (violated, False, trivial)
    assert float(found.ratio[0]) == 0
    np.testing.assert_equal(float(found.slack[0]), slack)


# -------------------------------------------------------------------------------------------------------------- records


COPIED = ("objective", "surrogate_intermediate", "surrogate_stale", "surrogate_cached", "gap_fresh", "gap_stale", "gap_cached",
          "kl", "kl_stale", "tv", "share", "span_g", "advantage_max", "occupancy_tv_fresh", "occupancy_tv_stale")  # fmt: skip


@pytest.mark.parametrize(("form", "protocol"), [("discounted", "turn-taking"), ("episodic", "product")])
def test_the_stage_record(form, protocol):
    """Every key is the number that it names (docs/stage-files.md), and there are no others."""
    case = truth.team(form, protocol, "plain", 0)
    x = truth.made_up(form, 1 if form == "episodic" else 0)
    x["gap_fresh"][1] = -abs(x["surrogate_intermediate"][1]) - 1  # an update that makes the team worse
    x["gap_fresh"][2] = 3.0 - x["surrogate_intermediate"][2]
    record = stage_record(as_stage(case), truth.as_report(x), "some.npz")
    penalties, bounds = truth.penalties(x), truth.certificates(x)
    expected = {name: x[name] for name in COPIED} | {name: value for name, value in penalties.items() if name in RUNGS}
    expected |= bounds | {"certificate_paper": bounds["lower_bound_paper"]}
    if form == "discounted":
        del expected["stage_bound_chi_square"]
    if protocol == "product":
        expected |= {name: x[name] for name in ("surrogate_reused", "gap_reused")}
    gain = x["surrogate_intermediate"] + x["gap_fresh"]
    of = {
        gap: np.min([record[k] for k in RUNGS if k in record and RUNGS[k][1] == gap], 0) for gap in ("fresh", "stale")
    }
    expected |= {"penalty_least": of["fresh"], "penalty_stale_least": of["stale"], "improvement": sum(gain),
                 "delta_stale": sum(abs(x["seq_minus_stale"])), "d_occ": sum(x["occupancy_tv_stale"])}  # fmt: skip
    for name, value in expected.items():
        close(record[name], value, name)
    assert record["certified_share"][1] is None
    close(record["certified_share"][2], bounds["certificate"][2] / gain[2])
    labels = {
        "schema": 1,
        "file": "some.npz",
        "form": form,
        "protocol": protocol,
        "agents": 3,
        "order": case.order.tolist(),
    }
    assert {name: record[name] for name in labels} == labels
    assert set(record) == set(expected) | set(labels) | {"certified_share"}
    assert json.loads(dump(record))["certified_share"][1] is None


def test_the_numbers_of_an_update_record():
    """A regression and a violation are ones beyond rounding; of an agent that moves twice the fresh gap alone is bounded."""
    x = truth.made_up("episodic", 1)
    penalties, off = truth.penalties(x), np.array([0.5, 2.0, -1.0])
    x["gap_fresh"] = (
        off[[2, 1, 0]] * -ERRORS["fresh"] - x["surrogate_intermediate"]
    )  # gains by the budget, loses twice, half
    x["gap_cached"] = penalties["penalty_cached_log_sum"] + off * ERRORS["cached"]
    x["gap_reused"] = -penalties["penalty_reused_log_sum"] - off * ERRORS["reused"]
    numbers = jax.jit(report_numbers)
    for again in (False, True):
        found = jax.device_get(numbers(truth.as_report(x), jnp.asarray(again)))
        assert found["regression"].tolist() == [False, True, False]
        close(found["improvement"], [ERRORS["fresh"][0], -2 * ERRORS["fresh"][1], -0.5 * ERRORS["fresh"][2]])
        close([found["objective_before"], found["objective_after"]], [x["objective"][:-1], x["objective"][1:]])
        violations = np.zeros(3, int)
        for name, (_, gap, _) in RUNGS.items():
            expected = np.full(3, math.inf) if again and gap != "fresh" else penalties[name]
            close(found[name], expected, name)
            violations += abs(x[f"gap_{gap}"]) - ERRORS[gap] > expected
        assert found["violations"].tolist() == violations.tolist()
        for name in AUDITED:
            close(found[name], x[name], name)
        for name in ("certificate_estimable", "certificate_weighted", "certificate"):
            close(found[name], truth.certificates(x)[name], name)
        close(found["certificate_paper"], truth.certificates(x)["lower_bound_paper"])
    assert set(found) == {*RUNGS, *AUDITED, "regression", "improvement", "objective_before", "objective_after", "violations",
                          "certificate_paper", "certificate_estimable", "certificate_weighted", "certificate"}  # fmt: skip


def test_strict_json():
    """Infinities as strings, nested too; NaN names its key."""
    assert (
        dump({"a": [math.inf, {"b": -math.inf}], "c": (1, None, True)})
        == '{"a": ["inf", {"b": "-inf"}], "c": [1, null, true]}'
    )
    with pytest.raises(ArithmeticError, match=r"^gap: not a number"):
        dump({"x": [{"gap": [0.0, math.nan]}]})


def test_lines_of_a_batch():
    """Instance i of every column, nested ones too; a number stands for all instances."""
    record = UpdateRecord(
        stage=3, update=1, agent=np.array([2, 0]), resampled=np.array([True, False]), surrogate=np.array([0.5, 0.25]),
        kl=np.array([0.125, math.inf]), objective_before=None, rollouts=np.array([8, 0]), source=np.array([1, 0]),
        path_kl=np.array([0.125, 0.75]), info={"gain": np.array([1.0, 2.0]), "one": 7.0}, exact={"gap": np.array([3.0, 4.0])},
        moved=np.array([[False, False, True], [True, True, False]]), credited=np.eye(3, dtype=bool)[[2, 0]],
    )  # fmt: skip
    first, second = update_lines([record], [{"seed": 10}, {"seed": 11}])
    assert second == {"schema": 1, "seed": 11, "stage": 3, "update": 1, "agent": 0, "resampled": False, "surrogate": 0.25,
                      "kl": math.inf, "objective_before": None, "rollouts": 0, "source": 0, "path_kl": 0.75,
                      "moved": [0, 1], "credited": [0], "info": {"gain": 2.0, "one": 7.0},
                      "exact": {"gap": 4.0}}  # fmt: skip
    assert (first["seed"], first["agent"], first["rollouts"], first["info"]["gain"]) == (10, 2, 8, 1.0)
    alone = UpdateRecord(0, 0, agent=1, resampled=True, surrogate=0.5, kl=0.25)
    line = update_lines([alone])[0]
    assert (line["agent"], line["exact"], line["info"], line["path_kl"], line["source"]) == (1, None, {}, 0.0, 0)
