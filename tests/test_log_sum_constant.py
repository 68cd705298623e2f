"""S13: the constant of the discounted S7 from both sides, its constructions by value and the recursion between them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flint import arb, fmpq

from teamtr_jax.exact import exact_pairs, precisely
from theory.constructions.discounted import (
    Decisions,
    coin_sizes,
    coins,
    coins_ratio,
    decision_stage,
    paid_door_ratio,
    paid_door_stage,
)
from theory.studies import s13
from theory.studies.s13_recursion import ELL, ZED, value_at_start
from theory.studies.s13_upper import _POINTS, _float_energy, certified, margin, upper_constant


def ratio(stage):
    ((gap, bound),) = exact_pairs(jax.tree.map(np.asarray, stage), "penalty_log_sum")
    with precisely():
        return float(arb(gap) / arb(bound))


@pytest.mark.parametrize(("gamma", "best"), [(0.5, 0.5228), (0.9, 0.9078)])
def test_paid_doors(gamma, best):
    """The closed form is the ratio of the stage; the largest over ε; above γ."""
    step = s13.door(gamma)
    found = ratio(paid_door_stage(step, gamma))
    assert found == pytest.approx(float(paid_door_ratio(step, gamma)), rel=1e-12)
    assert round(found, 4) == best
    assert found > gamma
    fine = [float(paid_door_ratio(step * x, gamma)) for x in (0.97, 1.0, 1.03)]
    assert max(fine) == fine[1]


def test_coins():
    """Four coins at γ = .01: .0803 in the limit of small steps, and a stage near it; two coins by hand: √γ/2·(1 …)."""
    sizes = coin_sizes(4, 0.01)
    limit = float(arb(coins_ratio(sizes, 0.01)))
    assert round(limit, 4) == 0.0803
    assert ratio(decision_stage(coins(sizes, 1e-6), 0.01)) == pytest.approx(limit, rel=1e-6)
    assert limit / 0.1 == pytest.approx(math.cos(math.pi / 5), rel=0.01)
    # D = 2, sizes 1 and b: γE(u₀u₁)⁺ = γb/2 over (1 + γb²)/2; exactly, in rationals
    assert coins_ratio([1.0, 2.0], fmpq(1, 4)) == fmpq(1, 4)
    assert coins_ratio([1.0, 1.0], fmpq(1, 4)) == fmpq(1, 5)


def test_a_tree_of_decisions_by_its_formula():
    """`E Z⁺` along the tree, and what the rooms add, is the gap of the stage; doors are trees without turns."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 15, 3))
    old = np.asarray(jax.nn.softmax(logits[0, :, :2]))
    new = np.asarray(jax.nn.softmax(logits[1]))
    found = float(s13.tree_ratio(jnp.asarray(logits), jnp.asarray(0.75), 4))
    assert ratio(decision_stage(Decisions(old, new[:, :2]), 0.75)) == pytest.approx(found, rel=1e-10)
    one = Decisions(np.array([[0.5, 0.5]]), np.array([[0.4, 0.4]]))  # opens with .2, once: γε over −log(1−ε)
    assert ratio(decision_stage(one, 0.5)) == pytest.approx(0.1 / -math.log(0.8), rel=1e-12)


def test_both_sides():
    """S13, γ = .01: .08 is attained, .1049 is decided; a constant that a stage exceeds is not."""
    upper = upper_constant(fmpq(1, 100))
    assert upper is not None
    assert 0.1005 < float(arb(upper.constant)) < 0.106
    assert certified(fmpq(1, 100), fmpq(8, 100), fmpq(7, 100)) is None
    assert upper_constant(fmpq(1, 2)) is None
    # what is decided, in floats: E ≥ 0 for some p, at every θ
    c, alpha = (float(arb(x)) for x in (upper.constant, upper.alpha))
    assert margin(0.01, c, alpha) > 0.04
    assert margin(0.01, 0.97 * 0.1005, 0.97 * 0.1005 * 0.99) < 0
    assert _float_energy(_POINTS, 0.5, 0.01, c, alpha).max() > 1


@pytest.mark.parametrize("seed", range(3))
def test_the_inequality_of_a_valid_pair(seed):
    """(4) of the page on random rows: c·KL − γΣ(π'−π)d + γαΣπd² ≥ αb²."""
    rng = np.random.default_rng(seed)
    c, alpha, gamma = 0.1049, 0.9 * 0.1049 * 0.99, 0.01
    old, new = rng.dirichlet([0.5] * 4, (2, 20_000))
    mix = 10.0 ** rng.uniform(-3, 0, (20_000, 1))
    new = old + mix * (new - old)
    d = rng.uniform(-1, 1, (20_000, 4)) * 10.0 ** rng.uniform(-2, 0, (20_000, 1))
    q = (new > old) * 1.0 if seed else rng.uniform(0, 1, (20_000, 4))
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(old > 0, old * np.log(old / new), 0.0).sum(-1)
    b = ((new - old) * q).sum(-1) + gamma * (old * d).sum(-1)
    left = c * kl - gamma * ((new - old) * d).sum(-1) + gamma * alpha * (old * d**2).sum(-1)
    assert (left >= alpha * b**2 - 1e-14).all()


def test_the_recursion():
    """Nothing to gain at c = 1, something below a ratio that a stage attains (.65 at γ = ½), and W ≥ z⁺."""
    start = jnp.broadcast_to(jnp.maximum(jnp.asarray(ZED), 0.0), (ELL.size, ZED.size))
    half, rounds = jnp.asarray(0.5), jnp.asarray(17)
    nothing, w = value_at_start(half, jnp.asarray(1.0), start, rounds)
    assert float(nothing) == 0
    assert (np.asarray(w) >= np.asarray(start) - 1e-12).all()
    something, _ = value_at_start(half, jnp.asarray(0.6), start, rounds)
    assert 1e-3 < float(something) < 1e-2


def test_the_row(tmp_path):
    row, found = s13.run(True, np.random.default_rng(0))
    assert (row.id, row.violations) == ("S13", 0)
    assert (found.lower > np.array(found.gammas)).all()
    assert found.lower[1] > 0.23
    assert s13.constant_figure(found, tmp_path / "constant.png").stat().st_size > 10_000
