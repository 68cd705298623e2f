"""Divergences by value, in both directions, at the edges and to full precision; the token chain rule P3.2."""

import itertools
import math

import builders
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import oracle
import pytest

from teamtr_jax.divergences import (
    expected,
    kl_current_to_new,
    kl_new_to_current,
    message_kl_current_to_new,
    message_probabilities,
    token_kl_current_to_new,
    total_variation,
)
from teamtr_jax.dynamics import Tree
from teamtr_jax.validation import InputError

HALF, QUARTER = jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75])
EPS = np.finfo(float).eps


def test_by_hand_and_in_the_right_direction():
    """KL(½,½ ‖ ¼,¾) = ½log2 + ½log⅔, KL(¼,¾ ‖ ½,½) = ¼log½ + ¾log(3/2), TV = ¼: red if current and new are swapped."""
    forward = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    reverse = 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)
    assert abs(forward - reverse) > 0.01
    assert float(kl_current_to_new(HALF, QUARTER)) == pytest.approx(forward, rel=4 * EPS)
    assert float(kl_new_to_current(HALF, QUARTER)) == pytest.approx(reverse, rel=4 * EPS)
    assert float(total_variation(HALF, QUARTER)) == 0.25
    assert float(total_variation(QUARTER, HALF)) == 0.25


def test_batches():
    """Leading axes are batch axes: same numbers as the loop of the oracle."""
    rng = np.random.default_rng(0)
    p, q = builders.rows(rng, 3, 4, 5, zeros=0.3), builders.rows(rng, 3, 4, 5)
    for ours, theirs in ((kl_current_to_new, oracle.kl), (total_variation, oracle.tv)):
        ours = np.asarray(ours(jnp.asarray(p), jnp.asarray(q)))
        assert ours.shape == (3, 4)
        for i, j in np.ndindex(3, 4):
            assert ours[i, j] == pytest.approx(theirs(p[i, j], q[i, j]), rel=1e-13)


@pytest.mark.parametrize(
    ("current", "new", "forward", "reverse", "tv"),
    [
        ([1.0, 0.0], [1.0, 0.0], 0.0, 0.0, 0.0),  # 0 log 0 = 0
        ([1.0, 0.0], [0.5, 0.5], math.log(2), math.inf, 0.5),  # an action added: finite forward, infinite reverse
        ([0.5, 0.5], [1.0, 0.0], math.inf, math.log(2), 0.5),  # an action dropped
        ([1.0, 0.0], [0.0, 1.0], math.inf, math.inf, 1.0),
        ([0.5, 0.5, 0.0], [0.0, 0.5, 0.5], math.inf, math.inf, 0.5),
    ],
)
def test_zero_probabilities(current, new, forward, reverse, tv):
    """`0·log 0 = 0`, infinity where the second argument drops an action of the first; never NaN."""
    p, q = jnp.array(current), jnp.array(new)
    assert float(kl_current_to_new(p, q)) == pytest.approx(forward, rel=4 * EPS)
    assert float(kl_new_to_current(p, q)) == pytest.approx(reverse, rel=4 * EPS)
    assert float(total_variation(p, q)) == tv


@pytest.mark.parametrize("size", [0.5, 0.06, 0.045, 1e-2, 1e-4, 1e-7, 1e-11])
def test_small_steps_keep_their_digits(size):
    """`KL(p ‖ p+δ)` agrees with 300-bit arithmetic to 1e-13 relative where `Σ p log(p/q)` in float loses all digits.

    Derived: each term has a handful of roundings of a nonnegative number, except `r − log(1+r)` just above the switch to
    the series, where it loses a factor `2/|r| ≤ 40`: 40 · 5 · u ≈ 2e-14 and the sum of nonnegative terms loses nothing.
    """
    rng, naive = np.random.default_rng(1), 0.0
    for _ in range(20):
        p = builders.rows(rng, 4)
        k = np.ceil(size * p[:2].min() * 2**52)  # in units of 2^−52: q is exact and sums to one
        q = p + 2.0**-52 * k * np.array([1.0, -1.0, 0.0, 0.0])
        truth = oracle.exact_kl(p, q)
        assert float(kl_current_to_new(jnp.asarray(p), jnp.asarray(q))) == pytest.approx(truth, rel=1e-13)
        assert float(kl_new_to_current(jnp.asarray(p), jnp.asarray(q))) == pytest.approx(
            oracle.exact_kl(q, p), rel=1e-13
        )
        naive = max(naive, abs(oracle.kl(p, q) / truth - 1))
    assert naive > 1e-3 or size > 1e-6  # where it matters, the naive sum does not keep them


@pytest.mark.parametrize("tiny", [1e-3, 1e-10, 1e-17, 1e-30, 1e-300])
def test_tiny_probabilities(tiny):
    """A probability that all but vanishes, or appears, keeps its digits: `q/p` may be far below a unit of rounding.

    Rows that sum to one only within rounding have KL + Σ(q−p) here, which is what a sum of nonnegative terms can be.
    """
    p, q = np.array([0.5, 0.5]), np.array([tiny, 1.0])
    forward, reverse = oracle.exact_kl(p, q) + tiny, oracle.exact_kl(q, p) - tiny
    assert float(kl_current_to_new(jnp.asarray(p), jnp.asarray(q))) == pytest.approx(forward, rel=1e-13)
    assert float(kl_new_to_current(jnp.asarray(p), jnp.asarray(q))) == pytest.approx(reverse, rel=1e-13)


def test_never_negative():
    """KL is a sum of nonnegative terms: ≥ 0 even for steps of single units of rounding, and 0 only for equal rows."""
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.ones(4), 20000)
    ulps = np.round(rng.normal(scale=2, size=p.shape))
    q = p + ulps * np.spacing(p)
    kl = np.asarray(kl_current_to_new(jnp.asarray(p), jnp.asarray(q)))
    assert (kl >= 0).all()
    assert ((kl == 0) == (p == q).all(-1)).all()
    with np.errstate(all="ignore"):
        assert ((p * np.log(p / q)).sum(-1) < 0).any()  # the textbook sum is negative on some of these


def test_gradient_of_kl():
    """`∂KL(p‖q)/∂q = 1 − p/q` with the constraint's constant (Σ q − p is kept where p = 0); finite at zeros of both."""
    p, q = jnp.array([0.25, 0.75, 0.0]), jnp.array([0.3, 0.65, 0.05])
    gradient = np.asarray(jax.grad(kl_current_to_new, 1)(p, q))
    np.testing.assert_allclose(gradient, 1 - np.asarray(p) / np.asarray(q), rtol=1e-14)


def test_expectation_conventions():
    """`0·∞ = 0` in an expectation; a positive weight keeps the infinity."""
    weight = jnp.array([0.0, 0.5, 0.25])
    assert float(expected(weight, jnp.array([jnp.inf, 2.0, 4.0]))) == 2.0
    assert float(expected(weight, jnp.array([1.0, jnp.inf, 4.0]))) == math.inf


def test_p3_1_product_team_kl_is_the_sum():
    """P3.1: the KL of joint policies is the sum of the agents' KLs; the TV is at most the sum of TVs."""
    rng = np.random.default_rng(3)
    pairs = [(builders.rows(rng, size), builders.rows(rng, size)) for size in builders.FACTORS]
    old, new = (jnp.asarray(oracle.product(rows)) for rows in zip(*pairs, strict=True))
    parts = [float(kl_current_to_new(*map(jnp.asarray, pair))) for pair in pairs]
    assert float(kl_current_to_new(old, new)) == pytest.approx(sum(parts), rel=1e-13)
    assert float(total_variation(old, new)) <= sum(oracle.tv(*pair) for pair in pairs) + 1e-15


# ------------------------------------------------------------------------------------------------------------ P3.2


V, T = 3, 3
TREE = Tree(V, T)


def tokens(seed):
    return np.random.default_rng(seed).dirichlet(np.ones(V), TREE.states)


def messages(policy):
    """``(probability, prefixes)`` of each message in lexicographic order, walked from the root."""
    for message in itertools.product(range(V), repeat=T):
        node, prefixes, probability = 0, [], 1.0
        for symbol in message:
            prefixes.append(node)
            probability *= policy[node, symbol]
            node = node * V + 1 + symbol
        yield probability, prefixes


def test_message_probabilities():
    """The law of the message, in lexicographic order."""
    policy = tokens(0)
    ours = np.asarray(message_probabilities(TREE, jnp.asarray(policy)))
    np.testing.assert_allclose(ours, [p for p, _ in messages(policy)], rtol=1e-14)


def test_p3_2_token_chain_rule():
    """P3.2: message KL = expected sum of token KLs along the *current* policy's message; along the new one it is not."""
    current, new = tokens(1), tokens(2)
    at = [oracle.kl(p, q) for p, q in zip(current, new, strict=True)]
    truth = sum(p * math.log(p / q) for (p, _), (q, _) in zip(messages(current), messages(new), strict=True))
    under_new = sum(p * sum(at[node] for node in prefixes) for p, prefixes in messages(new))
    args = jnp.asarray(current), jnp.asarray(new)
    assert float(token_kl_current_to_new(TREE, *args)) == pytest.approx(truth, rel=1e-13)
    assert float(message_kl_current_to_new(TREE, *args)) == pytest.approx(truth, rel=1e-13)
    assert abs(under_new / truth - 1) > 0.1


def test_p3_2_only_the_last_token_moves():
    """A step at one prefix only counts as often as the current policy writes that prefix."""
    current = tokens(3)
    new, node = current.copy(), TREE.states - 1
    new[node] = tokens(4)[node]
    reach = sum(p for p, prefixes in messages(current) if node in prefixes)
    args = jnp.asarray(current), jnp.asarray(new)
    assert float(token_kl_current_to_new(TREE, *args)) == pytest.approx(
        reach * oracle.kl(current[node], new[node]), rel=1e-13
    )


def test_p3_2_infinite_only_where_written():
    """Dropping a token the current policy writes is infinite; at a prefix it never writes, nothing."""
    current = tokens(5)
    current[0] = [0.5, 0.5, 0.0]
    new = current.copy()
    new[3] = [1.0, 0.0, 0.0]  # child 2 of the root: never written
    assert float(token_kl_current_to_new(TREE, jnp.asarray(current), jnp.asarray(new))) == 0.0
    assert float(message_kl_current_to_new(TREE, jnp.asarray(current), jnp.asarray(new))) == 0.0
    new[1] = [1.0, 0.0, 0.0]
    assert float(token_kl_current_to_new(TREE, jnp.asarray(current), jnp.asarray(new))) == math.inf
    assert float(message_kl_current_to_new(TREE, jnp.asarray(current), jnp.asarray(new))) == math.inf


def test_token_policies_fit_the_tree(monkeypatch):
    """A policy of another tree is refused, without the suite's type checker too; one row is no policy of all nodes."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=r"^token_policy: found shape \[4, 3\], expected shape \[13, 3\]$"):
        message_probabilities(TREE, jnp.full((4, 3), 1 / 3))
    with pytest.raises(InputError, match=r"^token_policy: found shape \[1, 3\], expected shape \[13, 3\]$"):
        token_kl_current_to_new(TREE, jnp.full((13, 3), 1 / 3), jnp.full((1, 3), 1 / 3))
