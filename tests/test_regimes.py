"""R7: the leaky relay, the closed form of its leading order, the error budget, the map."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.surrogates import stage_report
from teamtr_jax.validation import unchecked
from theory.studies import r7
from theory.studies.r5 import expand

GAPS = r7.GAPS


def sums(report):
    return jnp.stack([abs(getattr(report, f"gap_{gap}")).sum() for gap in GAPS])


evaluate = jax.jit(lambda *args: sums(stage_report(r7.leaky_relay(*args))))


def round_robin(n, rounds=2):
    return np.arange(rounds * n) % n


@pytest.mark.parametrize("n", [2, 5, 9])
def test_leading_sums_of_the_coherent_relay(n):
    """No leak: n, (3n²−n)/2 and 2n²−n (R1); last speaker first: n, (n²+n)/2 and 2n²−n."""
    owner, ones, forward = round_robin(n), np.ones(n), np.arange(n)
    found, scale = r7.leading_sums(owner, ones, 0.0, forward)
    np.testing.assert_allclose(found, [n, (3 * n * n - n) / 2, 2 * n * n - n])
    np.testing.assert_allclose(scale, 2 * n * n - n)
    np.testing.assert_allclose(r7.leading_sums(owner, ones, 0.0, forward[::-1])[0], [n, (n * n + n) / 2, 2 * n * n - n])


def test_random_order_is_n_squared_on_average():
    """Coherent, no leak, T = 2n: the mean of Σ|stale| over update orders is exactly n²."""
    rng, n = np.random.default_rng(0), 6
    orders = [rng.permutation(n) for _ in range(2000)]
    stale = [r7.leading_sums(round_robin(n), np.ones(n), 0.0, order)[0][1] for order in orders]
    assert abs(np.mean(stale) - n * n) < 4 * np.std(stale) / np.sqrt(len(stale))


def test_leak_by_hand():
    """Two agents, turns 0 1 0 1, memory λ = 1 − leak: M = [[λ², λ + λ³ + λ], [λ, λ²]] by distances 2; 1, 3, 1; 1; 2."""
    leak, memory = 0.3, 0.7
    found, _ = r7.leading_sums(round_robin(2), np.ones(2), leak, np.arange(2))
    above, below = 2 * memory + memory**3, memory
    np.testing.assert_allclose(found, [2 * memory**2, 2 * memory**2 + above, 2 * memory**2 + above + below])


@pytest.mark.parametrize("leak", [0.0, 0.4])
def test_core_goes_to_the_closed_form(leak):
    """Signs, any order, idle turns: the deviation of the exact sums is linear in p, and small."""
    owner = np.array([0, 2, 1, 2, 0, 1, 1, 0, -1, -1])
    sign, order = np.array([1.0, -1.0, 1.0]), np.array([2, 0, 1])
    errors = []
    for p in (1e-5, 1e-6):
        steps = sign * 1e-3 * p
        expected, _ = r7.leading_sums(owner, steps, leak, order)
        found = evaluate(jnp.asarray(owner), p, jnp.asarray(steps), leak, jnp.asarray(order))
        errors.append(abs(np.asarray(found) / expected - 1).max())
    assert errors[0] < 5e-4
    assert 7 < errors[0] / errors[1] < 13


def test_leaky_relay_without_leak_is_exactly_r1():
    """The exact t² coefficients of the coherent relay, from the tables of `leaky_relay` at p = ε = 1."""
    n = 3
    with unchecked():  # a formal stage: the direction of a step, whose rows are no probabilities
        stage = r7.leaky_relay(jnp.asarray(round_robin(n)), 1.0, jnp.ones(n), 0.0, jnp.arange(n))
    found = expand(stage, 3, np.tile([1.0, 0.0], (stage.current.shape[0], 1)))
    assert [int(sum(abs(c) for c in getattr(found, gap)[:, 2])) for gap in GAPS] == [3, 12, 15]


def test_equal_kl():
    """Every step has the asked KL, whichever way it goes."""
    p, kl = r7.PROBABILITY, 3e-7
    sign = np.array([1.0, -1.0])
    x = r7._steps_of(np.full(2, kl), sign, p)
    assert (np.sign(x) == sign).all()
    assert abs(x[0]) != abs(x[1])
    found = p * np.log(p / (p + x)) + (1 - p) * np.log((1 - p) / (1 - p - x))
    np.testing.assert_allclose(found, kl, rtol=1e-8)


@pytest.fixture(scope="module")
def quick():
    return r7.run(True, np.random.default_rng(0))


def test_quick_map(quick):
    """R7: where quadratic is real and where it is not."""
    row, found = quick
    assert row.violations == 0
    assert row.checks > 1000
    near = {s: found.slopes(s, "stale")[-1, 0] for s in found.cells}  # coherent, no leak
    forward, shuffled, backward, message, agent = r7.SHOWN
    assert near[forward] > 2
    assert near[shuffled] > 1.5
    assert 1.5 < near[backward] < near[forward]
    assert abs(near[message]) < 0.05
    assert abs(near[agent] - near[message] - 1) < 0.05
    coherence = found.slopes(forward, "stale")[:, 0]
    assert (np.diff(coherence) > 0).all(), "random signs cancel"
    assert (np.diff(found.slopes(forward, "stale")[-1]) < 0).all(), "a leak forgets"
    assert (row.exponent, *row.interval) == found.cells[forward]["stale"][-1][0].slope
    assert row.exponent == near[forward]
    for cell in (cell for of in found.cells.values() for line in of["stale"] for cell in line if cell.slope):
        between = np.log(cell.means[-1] / cell.means[-2]) / np.log(found.sizes[-1] / found.sizes[-2])
        assert cell.last == pytest.approx(between, rel=1e-12)
    fresh = found.cells[forward]["fresh"]
    assert fresh[-1][-1].slope is None
    assert fresh[-1][-1].reason == "rounding"


def test_a_wrong_closed_form_is_seen(monkeypatch):
    """With the memory off by one turn the same run reports violations."""
    right = r7.leading_sums
    monkeypatch.setattr(
        r7, "leading_sums", lambda owner, steps, leak, order: right(owner, steps * (1 - leak) ** 0.5, leak, order)
    )
    assert r7.run(True, np.random.default_rng(0))[0].violations > 50


def test_sums_are_wrong_beyond_the_next_order():
    """`4·(2np)` of `Σ|M|` = 6ε² (two agents, no leak), the square of the next order, and rounding: by a hundredth more."""
    step, unsure = 1e-6, 1e-13
    point = r7._Point(round_robin(2), np.full(2, step), 0.0, np.arange(2))
    small = 2 * 8 * 1e-4
    room = 4 * small * 6 * step**2 + (small * step * 4) ** 2 + unsure
    for off, wrong in ((0.99, 0), (1.01, 3), (-0.99, 0), (-1.01, 3)):
        sums = np.array([2, 5, 6]) * step**2 + off * room
        assert r7._wrong(r7._Evaluated([], [point], sums[None], np.full((1, 3), unsure), {}), 8) == wrong


@pytest.mark.parametrize(
    ("bends", "chosen"), [((0.2, 0.1, 0.06, 0.04, 0.02, 0.01), 0.08), ((0.9, 0.3, 0.2, 0.4, 0.5, 0.6), 0.16)]
)
def test_the_largest_step_within_the_error_budget_is_taken(monkeypatch, bends, chosen):
    """Of the stale gap, on all corners; where none is, the one with the least error."""
    asked = []

    def evaluate(points, slots, quick):
        asked.extend(points)
        half = np.ones((6, 2, 8, 3))
        half[:, 0] = 4 * (1 + 9 * np.array(bends)[:, None, None])
        half[:, 0, :, 1] = 4  # the stale gap
        half[:, 0, 5, 1] = 4 * (1 + np.array(bends))  # on one corner
        return half.reshape(-1, 3), np.zeros((96, 3))

    monkeypatch.setattr(r7, "_evaluate", evaluate)
    draws = r7._Draws(np.zeros((1, 4)), np.zeros((1, 4)), np.zeros((1, 8)))
    assert r7._window(draws, (2, 4), (4,), True) == chosen
    first, half = (abs(asked[k].steps[0]) for k in (0, 8))
    assert first == pytest.approx(0.64 * r7.PROBABILITY)
    p = r7.PROBABILITY

    def kl(x):
        return p * np.log(p / (p + x)) + (1 - p) * np.log((1 - p) / (1 - p - x))

    assert kl(half) == pytest.approx(kl(first) / 4, rel=1e-6)


def test_a_point_of_the_map():
    """Who speaks when, who is updated when; the same KL of a message, or the same δ⁰ = 2·KL of an agent, however long it is."""
    draws = r7._Draws(np.array([[0.1, 0.9, 0.5, 0.5]]), np.array([[0.5, 0.2, 0.0, 0.0]]), np.full((1, 8), 0.75))
    forward, shuffled, backward, message, agent = r7.SHOWN
    kl, p = 1e-7, r7.PROBABILITY

    def spent(point):
        x = point.steps[:2]
        return p * np.log(p / (p + x)) + (1 - p) * np.log((1 - p) / (1 - p - x))

    short = r7._point(forward, 2, 1.0, 0.1, kl, draws, 0)
    assert short.owner.tolist() == [0, 1, 0, 1, -1, -1, -1, -1]
    assert (short.order[:2].tolist(), short.leak) == ([0, 1], 0.1)
    assert r7._point(backward, 2, 1.0, 0.1, kl, draws, 0).order[:2].tolist() == [1, 0]
    assert r7._point(shuffled, 2, 1.0, 0.1, kl, draws, 0).order[:2].tolist() == [1, 0]  # by rank
    long, fixed = (r7._point(setting, 2, 1.0, 0.1, kl, draws, 0) for setting in (message, agent))
    assert long.owner.tolist() == [0, 1] * 4
    np.testing.assert_allclose(spent(short), kl, rtol=1e-6)
    np.testing.assert_allclose(spent(long), kl, rtol=1e-6)
    np.testing.assert_allclose(4 * spent(fixed), 2 * kl, rtol=1e-6)  # four messages each
    assert (fixed.steps[2:] == 0).all()
    routed = r7._point(r7.SETTINGS[3], 2, 1.0, 0.0, kl, draws, 0)
    assert routed.owner.tolist() == [1] * 4 + [-1] * 4
    signs = np.sign(r7._point(forward, 2, 0.0, 0.0, kl, draws, 0).steps[:2])
    assert signs.tolist() == [1, -1]  # below and above ½


def test_map_is_strict_json_and_a_figure(quick, tmp_path):
    found = quick[1]
    data = json.loads(json.dumps(r7.as_dict(found), allow_nan=False))
    assert len(data["cells"]) == len(found.cells) * 3 * len(found.coherence) * len(found.leaks)
    assert any(cell["slope"] is None for cell in data["cells"])
    assert r7.regime_figure(found, tmp_path / "x" / "map.png").stat().st_size > 20_000
