"""Every inequality on random stages (hypothesis draws the seed, the zeros, γ and the size of the steps).

The float budget of each verdict is the report's own `rounding`, which `test_stage_identities` holds against rational
arithmetic; a bound itself is a product of a few numbers, each known to a relative 1e-9 (γ ≤ 0.999).
"""

import builders
import numpy as np
import pytest
from builders import evaluated, near, random_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SETTINGS = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
EXAMPLES = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.3, 0.6]),  # share of actions the current policy never takes
    st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999]),
    st.sampled_from([None, 1e-1, 1e-3, 1e-6]),  # size of the step; None: an unrelated target that may drop actions
)
FAMILIES = [
    ("discounted", "turn-taking"),
    ("discounted", "product"),
    ("episodic", "turn-taking"),
    ("episodic", "product"),
]


def stages(example, form, protocol):
    """A batch of random stages, and their reports."""
    seed, zeros, gamma, size = example
    rng = np.random.default_rng(seed)
    cases = []
    for k in range(builders.BATCH):
        case = random_case(rng, form, protocol, zeros, gamma)
        target = case.target
        if protocol == "product" and size is not None:
            share = min(1.0, size)
            target = (1 - share) * case.current + share * case.target
        elif size is not None:
            target = near(rng, case.current, size)
        elif protocol == "turn-taking" and k % 2:
            target = builders.rows(rng, *case.current.shape, zeros=zeros)
        cases.append(case._replace(target=target))
    return zip(cases, evaluated(cases), strict=True)


def at_most(measured, bound, budget, what):
    """`measured ≤ bound` up to the budget and a relative 1e-9; bounds may be infinite, nothing may be NaN."""
    assert not np.isnan(bound).any(), what
    assert (measured <= bound + 1e-9 * abs(bound) + budget).all(), (what, measured, bound, budget)


@pytest.mark.parametrize(("form", "protocol"), FAMILIES)
@SETTINGS
@given(example=EXAMPLES)
def test_gaps(form, protocol, example):
    """P3.3, P3.4, P3.6, P3.7, S0 and S7 in both forms, both protocols."""
    for _, report in stages(example, form, protocol):
        budget, rungs = report.rounding, report.ladder
        at_most(abs(report.seq_minus_stale), report.drift_paper, budget.drift, "P3.3")
        for name in ("penalty_trivial", "penalty_paper", "penalty_log_sum"):
            at_most(abs(report.gap_fresh), rungs[name], budget.fresh, name)
        for name in ("penalty_stale_trivial", "penalty_stale_paper"):
            at_most(abs(report.gap_stale), rungs[name], budget.stale, name)
        gain = np.diff(report.objective)
        at_most(report.lower_bound_paper, gain, budget.identity + budget.fresh, "P3.4")
        total = (budget.identity + budget.stale).sum()
        at_most(report.stage_bound_paper, gain.sum(), total, "P3.6")
        at_most(report.stage_bound_stale_paper, gain.sum(), total, "P3.7")
        if form == "discounted":
            roots, constant = np.sqrt(report.kl_stale), report.constant
            with np.errstate(invalid="ignore"):
                penalty = np.where(constant > 0, constant * np.cumsum(roots), 0.0)
            at_most(abs(report.gap_stale), penalty, budget.stale, "P3.7 with δ⁰")


@pytest.mark.parametrize("protocol", ["turn-taking", "product"])
@SETTINGS
@given(example=EXAMPLES)
def test_occupancies(protocol, example):
    """T1 and T2 for every update, and what P3.3 makes of T2: `TV(d^{π̂ⁱ⁻¹}, d^{π̂⁰}) ≤ γ/(√2(1−γ)) Σ_{k<i} √δ_k`."""
    for case, report in stages(example, "discounted", protocol):
        gamma = case.world["gamma"]
        l1 = 2 * report.occupancy_tv_fresh
        budget = 2 * (1 - gamma) * report.rounding.shift
        at_most(l1, 2 * gamma / (1 - gamma) * report.tv, budget, "T1")
        with np.errstate(invalid="ignore"):
            first_order = np.where(gamma > 0, np.sqrt(2) * gamma / (1 - gamma) * np.sqrt(report.kl), 0.0)
        at_most(l1, first_order, budget, "T2")
        before = np.concatenate([[0.0], np.cumsum(first_order)[:-1]])
        at_most(2 * report.occupancy_tv_stale, before, np.cumsum(budget), "T2 summed")


@pytest.mark.parametrize("protocol", ["turn-taking", "product"])
@SETTINGS
@given(example=EXAMPLES)
def test_layers_of_an_episode(protocol, example):
    """E1's ingredient: `TV(d'_t, d_t) ≤ min(1, Σ_{u<t} E TV_u)`, and Pinsker with Jensen in each layer."""
    for _, report in stages(example, "episodic", protocol):
        earlier = np.cumsum(report.layer_tv, -1) - report.layer_tv
        at_most(report.layer_shift, np.minimum(1.0, earlier), report.rounding.shift[:, None], "E1")
        at_most(report.layer_tv, np.sqrt(report.layer_kl / 2), 1e-15, "Pinsker")


@SETTINGS
@given(example=EXAMPLES)
def test_ranges(example):
    """Probabilities and shares lie in [0, 1], divergences and sizes are nonnegative, shares of turns add up to one."""
    for case, report in stages(example, "discounted", "turn-taking"):
        for name in ("kl", "kl_stale", "kl_reverse", "span_g", "advantage_max", "advantage_span"):
            assert (getattr(report, name) >= 0).all(), name
        for name in ("tv", "tv_stale", "share", "occupancy_tv_fresh", "occupancy_tv_stale"):
            x = getattr(report, name)
            assert ((x >= 0) & (x <= 1 + 1e-12)).all(), name
        occupied = report.visits / report.visits.sum(-1, keepdims=True)
        shares = [occupied[0][case.active == k].sum() for k in range(case.agents)]
        assert sum(shares) == pytest.approx(1.0, abs=1e-12)
        assert report.share[0] == pytest.approx(shares[case.order[0]], abs=1e-12)
