"""What the figures of the suite draw: lines, texts and labels from numbers that are known; nothing is written."""

import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flint import fmpq
from matplotlib.figure import Figure
from scipy.stats import beta

from theory.fits import Slope
from theory.studies import bounds, r5, r6, r7, s8, s11, s13, scaling, u1

SLOPE = Slope(1.25, 1.0, 1.5)


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the figure that a study would write."""

    def axes(module, function, *found):
        kept = []
        monkeypatch.setattr(module, "save", lambda figure, path: kept.append(figure))
        function(*found, Path("nowhere"))
        return kept[0].axes

    return axes


def line(ax, label):
    (found,) = [x for x in ax.lines if x.get_label() == label]
    return np.asarray(found.get_data(), float)


def texts(ax):
    """What stands at which place."""
    return {tuple(int(x) for x in text.get_position()): text.get_text() for text in ax.texts}


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_bounds_and_gaps(drawn):
    """Infinite bounds are left out; the line is where both are equal; what is not shown is counted."""
    gap, penalty = np.array([0.1, 0.2, 0.4]), np.array([0.2, 0.8, np.inf])
    found = bounds.Cloud(gap, {name: penalty * 2.0**k for k, name in enumerate(bounds.SHOWN)}, 1234, 56)
    axes = drawn(bounds, bounds.bound_figure, found)
    for k, (ax, name) in enumerate(zip(axes, bounds.SHOWN, strict=True)):
        cloud, diagonal = (np.asarray(x.get_data()) for x in ax.lines)
        same(cloud, [penalty[:2] * 2.0**k, gap[:2]])
        same(*diagonal)
        assert ax.get_title() == f"{name}\nmedian of gap/bound {0.375 / 2**k:.2g}"  # of ½ and ¼
    said = axes[0].figure.get_suptitle()
    assert "3 updates" in said
    assert "1,234 gaps within their rounding budget, 56 that are 0" in said


# ------------------------------------------------------------------------------------------------------------------------ growth


def relay_curves():
    n, steps = np.array([2, 4, 16]), np.array([1e-5, 1e-3, 1e-2])
    at = np.arange(1.0, 4.0)[:, None]  # of a step
    gaps = {"fresh": at * n, "stale": at * n**1.5, "cached": 2 * at * n**1.5}
    known = {"signed": at * n, "S10": 2 * at**2 * n, "S7c": 3 * at * n**0.5}
    leading = [SimpleNamespace(squared_share=Fraction(k, 16)) for k in (1, 4, 9)]
    slopes = {name: Slope(k, k - 0.25, k + 0.25) for k, name in enumerate(gaps, 1)}
    return n, steps, gaps, known, leading, slopes


def test_growth_of_the_relay(drawn):
    """Sums over ε² with the slope of each, the paper's beside them; local slopes; two bounds and the share of the sharp one."""
    n, steps, gaps, known, leading, slopes = relay_curves()
    relay = scaling.RelayCurves(n, steps, gaps, known, leading, slopes, 0)
    random = {
        held: {name: np.outer(n, [1.0, 3.0]) * (1 + k) for k, name in enumerate(gaps)} for held in ("agent", "message")
    }
    random["message"] = {name: 4 * x for name, x in random["message"].items()}
    lines = {held: dict.fromkeys(gaps, SLOPE) for held in random}
    sums, local, two, share, teams, _ = drawn(
        scaling, scaling.scaling_figure, relay, scaling.RandomCurves(n, random, lines)
    )
    for name, x in slopes.items():
        same(line(sums, f"{name}: slope {x.slope:.2f} [{x.low:.2f}, {x.high:.2f}]"), [n, gaps[name][0] / 1e-10])
    for name, power in (("fresh", 1.07), ("stale", 1.94)):
        first = gaps[name][0, 0] / 1e-10
        same(line(sums, f"the paper's {power} ({name}, n ≤ 8)"), [[2, 4], [first, first * 2**power]])
    between = np.sqrt([8, 64])
    for step in ("1e-05", "0.001", "0.01"):
        same(line(local, f"stale, p = ε = {step}"), [between, [1.5, 1.5]])
    same(line(local, "fresh, p = ε = 1e-05"), [between, [1, 1]])
    labels = {"S7c: ϱ·ΣK, linear": "S7c", "S10: sd(R)·√(eˣ−1−X)": "S10", "Σ cached gap: 2n²−n": "signed"}
    for label, name in labels.items():
        same(line(two, label), [n, known[name][0] / 1e-10])
    for k, step in enumerate(("1e-05", "0.001", "0.01"), 1):
        same(line(share, f"p = ε = {step}"), [n, [1 / (2 * k)] * 3])
    same(line(share, "p = ε → 0, exact: √(1−1/(2n))"), [n, [0.25, 0.5, 0.75]])
    for held, style, scale in (("agent", "--", 1), ("message", "-", 4)):
        label = f"stale, fixed per {held}: 1.25 [1.00, 1.50]"
        same(line(teams, label), [n, 2 * n * 2 * scale])  # mean of 1 and 3, twice
        assert [x.get_linestyle() for x in teams.lines if x.get_label() == label] == [style]


def test_the_heat_map_of_interactions(drawn):
    """Row k is who was updated, column i whose surrogate is judged."""
    matrix = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 4.0], [0.25, 0.0, 8.0]])
    ax, _ = drawn(r5, r5.interaction_figure, matrix)
    assert texts(ax) == {(i, k): f"{matrix[k, i]:.2g}" for k in range(3) for i in range(3)}
    assert (ax.get_xlabel()[-4:], ax.get_ylabel()[-4:]) == ("σ(i)", "σ(k)")


def test_rates_in_units_of_the_radius(drawn):
    """Shifts over √δ⁰, gaps over δ⁰; the bound of each; cells beside the main one are not drawn."""
    values, ends = np.array([0.5, 0.75]), np.ones(2)
    cells = [
        r6.Cell(row, column, "teams", "held", fmpq(3, 2), "1", 1.0, np.array([2, 4]), values, 2 * values, SLOPE, 1.0, ends, 0, 0,
                0, extra)
        for row in r6.ROWS for column in r6.COLUMNS for extra in (False, True)
    ]  # fmt: skip
    axes = drawn(r6, r6.rates_figure, r6.RateCurves(cells, 1e-4, 0, 0))
    for ax, column in zip(axes, r6.COLUMNS, strict=True):
        assert ax.get_title().startswith(f"{column}; ")
        assert len(ax.lines) == 2 * len(r6.ROWS)
        for k, (row, name) in enumerate(r6.ROWS.items()):
            unit = 1e-2 if row in ("R6.1", "R6.2") else 1e-4
            same(line(ax, f"{name}, teams:\n1.25 [1.00, 1.50], predicted n^3/2"), [[2, 4], values / unit])
            same(ax.lines[2 * k + 1].get_data(), [[2, 4], 2 * values / unit])


def regimes():
    """Two numbers of agents, three degrees of coherence, two leaks; exponents by gap, and one cell without one."""

    def cell(slope, last, reason=""):
        return r7.Cell(slope, last, np.array([1.0, 2.0]), 0.01, reason)

    forward = r7.SHOWN[0]
    cells = {
        gap: [
            [cell(Slope(0.3 + k, 0.1 + k, 0.6 + k), 1.2 + k), cell(Slope(0.8, 0.6, 1.0), 1.8)],
            [cell(Slope(1.3, 1.2, 1.4), 0.5), cell(Slope(-0.04, -0.1, 0.0), 0.0)],
            [cell(Slope(2.2, 2.0, 2.4), 2.2), cell(None, math.nan, "rounding")],
        ]
        for k, gap in enumerate(r7.GAPS)
    }
    return forward, r7.RegimeMap((2, 4), (0.0, 0.5, 1.0), (0.0, 0.1), 8, 0.5, 1e-6, 3, {forward: cells}, None)


def test_the_map_of_regimes(drawn):
    """Exponents in their places; a star where the last slope is further off than half and the interval; – where there is none."""
    forward, found = regimes()
    axes = drawn(r7, r7.regime_figure, found)[:3]
    assert [ax.get_title() for ax in axes] == ["Σ|stale gap|", "Σ|fresh gap|", "Σ|cached gap|"]
    assert [x.get_text() for x in axes[0].get_xticklabels()] == ["∞", "10"]
    assert [x.get_text() for x in axes[0].get_yticklabels()] == ["0", "0.5", "1"]
    first = {"stale": "1.3", "fresh": "0.3", "cached": "2.3"}  # .9 off, and half and the interval are one
    for ax, gap in zip(axes, first, strict=True):
        assert texts(ax) == {
            (0, 0): first[gap],
            (1, 0): "0.8*",
            (0, 1): "1.3*",
            (1, 1): "0.0",
            (0, 2): "2.2",
            (1, 2): "–",
        }
    cells = {(x["gap"], x["coherence"], x["leak"]): x for x in r7.as_dict(found)["cells"]}
    assert len(cells) == 18
    assert [cells["stale", c, 0.0]["slope"] for c in (0.0, 0.5, 1.0)] == [1.3, 1.3, 2.2]
    assert [cells["fresh", 0.0, q]["interval"] for q in (0.0, 0.1)] == [[0.1, 0.6], [0.6, 1.0]]
    none = cells["cached", 1.0, 0.1]
    assert (none["slope"], none["interval"], none["last_local_slope"], none["reason"]) == (None, None, None, "rounding")
    assert (none["horizon"], none["held"], none["means"]) == (forward.horizon, forward.held, [1.0, 2.0])


# ------------------------------------------------------------------------------------------------------------------------- limits


def test_ratios_along_one_order(drawn):
    """Trees of 2^{m+1} − 1 agents, what is proved below them, what an ascent found, and n."""
    found = s11.OrderRatios((2, 3), np.array([1.8, 2.2]), [], np.array([1.0, 1.7, 2.3, 2.9]), 0)
    (ax,) = drawn(s11, s11.order_figure, found)
    n = np.array([1, 3, 7, 15])
    same(line(ax, "trees read in order, exact: 1/D$_m$"), [n, found.trees])
    same(line(ax, "(log₂(n+1)+1)/2, proved below it"), [n, (np.arange(4) + 2) / 2])
    same(line(ax, "found by ascent, enclosed"), [[2, 3], found.ratios])
    same(line(ax, "n, above which nothing can be"), [n, n])


def test_constants_over_the_discount(drawn):
    """As they are, and over √γ; what is decided, the recursion and the curves beside them."""
    g = (0.01, 0.25)
    upper = {0.01: s13.Upper(fmpq(1, 100), fmpq(1, 8), fmpq(1, 10), 1)}
    found = s13.Constants(
        g, np.array([0.1, 0.3]), np.array([0.2, 0.4]), np.array([0.3, 0.5]), {0.25: 0.45}, upper, [], 0
    )
    for ax, by in zip(drawn(s13, s13.constant_figure, found), ((1, 1), (0.1, 0.5)), strict=True):
        same(line(ax, "paid doors (lower, enclosed)"), [g, np.array([0.1, 0.3]) / by])
        same(line(ax, "coins, small steps (lower, exact limit)"), [g, np.array([0.2, 0.4]) / by])
        same(line(ax, "trees of decisions (lower, enclosed)"), [g, np.array([0.3, 0.5]) / by])
        same(line(ax, "recursion (float)"), [[0.25], [0.45 / by[1]]])
        same(line(ax, "upper, decided in balls"), [[0.01], [0.125 / by[0]]])
        x, one = line(ax, "1, S7")
        scale = np.ones_like(x) if by[0] == 1 else np.sqrt(x)
        assert (x[0], x[-1]) == pytest.approx((0.005, 0.99))
        same(one, 1 / scale)
        same(line(ax, "√(γ/(1−γ)), small steps")[1], np.sqrt(x / (1 - x)) / scale)
        same(line(ax, "γ")[1], x / scale)


def test_certified_shares_of_a_kind(drawn):
    """Medians by radius, and by how much a curve is below its panel."""
    shares = {name: np.outer(np.linspace(0, 1, len(u1.RADII)), [0.1, 0.5, 0.7]) for name in u1.STYLE}
    shares["penalty_paper"] = np.full((len(u1.RADII), 3), -12.0)
    ax, *_ = drawn(u1, u1.certified_figure, u1.CertifiedCurves(u1.RADII, {"a kind": shares}, {}, 0, 0))
    same(line(ax, "S9 value-weighted (estimable)"), [u1.RADII, 0.5 * np.linspace(0, 1, len(u1.RADII))])
    assert [x.get_text() for x in ax.texts] == ["below the panel: P3.4 (at most -12)"]


def finite_samples():
    """Two teams of 200 repetitions; the second has no bounded ratio."""
    alphas, names = s8.ALPHAS, [m.name for m in s8.LIMITS]
    covered = {
        team: {name: {a: 200 - k * (1 + (a < 0.1)) for a in alphas} for name in names}
        for k, team in ((4, "one"), (8, "two"))
    }
    del covered["two"]["bounded ratio, betting"]
    needed = {team: dict.fromkeys(names, 2_500) for team in ("one, fast", "two, slow")}
    needed["two, slow"][names[0]] = None
    positive = {"one, fast": {name: [0.125, 0.75] for name in names}}
    sizes = {"one, fast": (100, 5_000), "two, slow": (100, 20_000)}
    about = {"one, fast": {"improvement": 0.03125}}
    return s8.S8Data(alphas, 200, 100, 2, 4, covered, 0.1, sizes, positive, needed, about, {}, {})


def test_misses_of_the_worst_team():
    """In units of α, with their intervals; a team that a limit is not for is not looked at."""
    ax = Figure().subplots()
    s8._misses(ax, finite_samples())
    bars, dots = ax.lines[:-1:2], ax.lines[1:-1:2]
    assert len(bars) == len(s8.LIMITS) * len(s8.ALPHAS)
    places = [(k, limit, a) for k, limit in enumerate(s8.LIMITS) for a in s8.ALPHAS]
    for (k, limit, a), bar, dot in zip(places, bars, dots, strict=True):
        missed = (4 if limit.name == "bounded ratio, betting" else 8) * (1 + (a < 0.1))
        same(dot.get_xdata(), [missed / 200 / a])
        ends = beta.ppf(0.025, missed, 201 - missed), beta.ppf(0.975, missed + 1, 200 - missed)
        same(bar.get_xdata(), np.array(ends) / a)
        assert abs(dot.get_ydata()[0] - k) < 0.5
    assert ax.get_legend_handles_labels()[1] == [f"α = {a:g}" for a in s8.ALPHAS]


def test_rollouts_that_are_needed():
    """By team and limit; more than what was tried where it was not enough."""
    data, (left, right) = finite_samples(), Figure().subplots(1, 2)
    s8._needed(left, data)
    found = texts(left)
    assert (found[0, 0], found[1, 0], found[1, 1]) == ("2.5k", "> 20k", "2.5k")
    assert [x.get_text() for x in left.get_xticklabels()] == ["one,\nfast", "two,\nslow"]
    assert left.get_title() == "rollouts until 90% of the certificates are positive, α = 0.1, G = 4"
    s8._shares(right, data)
    assert set(texts(right).values()) == {"12", "75"}
    assert [x.get_text() for x in right.get_xticklabels()] == ["100", "5k"]
    assert right.get_title() == "positive certificates, %: one, fast\ntrue improvement 0.0312, α = 0.1"
