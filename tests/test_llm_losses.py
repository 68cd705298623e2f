"""Advantages, KL estimators, clipped ratios, masks: against NumPy in float64, by enumeration and by gradients."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.llm.layout import Layout, Vocabulary, by_turn, random_router
from teamtr_jax.llm.losses import (
    ESTIMATORS,
    PENALTIES,
    RATIOS,
    SPENDING,
    Divergence,
    clipped_surrogate,
    divergence,
    k1,
    k3,
    mixed_groups,
    own_tokens,
    per_message,
    ratio_of,
    rollout_advantage,
    unit_weights,
    within_budget,
)
from teamtr_jax.llm.token_statistics import statistics_of_logits
from teamtr_jax.validation import InputError


def compared(current, new):
    """Two policies at contexts, from log-probabilities ``[…, A]``; of the first action."""
    return statistics_of_logits(jnp.asarray(current), jnp.asarray(new), jnp.zeros(current.shape[:-1], int))


def exact_kl(current, new):
    return compared(current, new).kl


def test_what_is_spent_by_value(rng):
    """S10: `Σ q²/p − 1` over the vocabulary; its mean by samples of p is that of `(ρ−1)²`; every entry of `SPENDING`."""
    current, new = log_softmax(rng.normal(size=(2, 3, 4, 5))), log_softmax(rng.normal(size=(2, 3, 4, 5)))
    exact = (np.exp(2 * new - current)).sum(-1) - 1
    squares = (np.exp(new - current) - 1) ** 2
    np.testing.assert_allclose((np.exp(current) * squares).sum(-1), exact, rtol=1e-9)
    assert list(SPENDING) == ["none", "chi_square", "square"]
    assert SPENDING["none"] is None
    found = {name: spends(compared(current, new)) for name, spends in SPENDING.items() if spends}
    np.testing.assert_allclose(found["chi_square"], exact, rtol=1e-4)
    np.testing.assert_allclose(found["square"], squares[..., 0], rtol=1e-4)


def test_a_budget_is_spent_in_reading_order():
    """Tokens turn after turn; a unit that goes beyond the budget is out, and all after it, whatever they spend."""
    spent = jnp.array([[[0.5, 0.25], [0.0, 0.5], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]])
    kept = [[[True, True], [True, False], [False, False]], [[True, True], [True, True], [True, True]]]
    assert np.asarray(within_budget(spent, 1.0)).tolist() == kept
    assert np.asarray(within_budget(spent.sum(-1), 1.0)).tolist() == [[True, False, False], [True, True, True]]
    assert np.asarray(within_budget(spent, math.inf)).all()


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.logaddexp.reduce(x, -1, keepdims=True)


# -------------------------------------------------------------------------------------------------------------- advantages


def oracle_advantage(reward, kind, clip):
    reward = np.asarray(reward, np.float64)
    out = np.empty_like(reward)
    for b, g in np.ndindex(*reward.shape):
        group = reward if kind == "batch_normalised" else reward[b]
        if kind == "centred":
            others = [r for i, r in enumerate(reward[b]) if i != g]
            out[b, g] = reward[b, g] - sum(others) / len(others)
        else:
            out[b, g] = np.clip((reward[b, g] - group.mean()) / math.sqrt(group.var() + 1e-8), -clip, clip)
    return out


@pytest.mark.parametrize("kind", ["group_normalised", "centred", "batch_normalised"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_advantages(rng, kind, dtype):
    reward = rng.random((5, 8)).astype(dtype)
    reward[1] = 0.7  # nothing to learn
    reward[2] = [0, 0, 0, 0, 0, 0, 0, 1]
    found = rollout_advantage(jnp.asarray(reward), kind, 2.0)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, oracle_advantage(reward, kind, 2.0), atol=1e-5 if dtype == np.float32 else 1e-12)
    if kind != "batch_normalised":
        assert (np.asarray(found)[1] == 0).all()  # exactly: 0.7 has no exact mean
        np.testing.assert_allclose(np.asarray(found)[[0, 3, 4]].mean(-1), 0.0, atol=1e-6)
    if kind != "centred":
        assert np.abs(found).max() <= 2.0
    assert np.asarray(mixed_groups(jnp.asarray(reward))).tolist() == [True, False, True, True, True]


def test_batch_normalised_of_a_batch_without_variance_is_zero():
    assert (np.asarray(rollout_advantage(jnp.full((2, 3), 0.7), "batch_normalised", 5.0)) == 0).all()


def test_unknown_advantage():
    with pytest.raises(
        InputError, match="advantage: found 'gae', expected group_normalised or centred or batch_normalised"
    ):
        rollout_advantage(jnp.zeros((2, 2)), "gae", 1.0)


# ------------------------------------------------------------------------------------------------------------- divergences


def test_exact_kl_and_entropy_against_numpy(rng):
    p, q = (log_softmax(3 * rng.standard_normal((50, 7))) for _ in range(2))
    expected = (np.exp(p) * (p - q)).sum(-1)
    np.testing.assert_allclose(exact_kl(jnp.asarray(p), jnp.asarray(q)), expected, rtol=1e-12)
    np.testing.assert_allclose(exact_kl(jnp.float32(p), jnp.float32(q)), expected, rtol=2e-5)
    reverse = exact_kl(jnp.asarray(q), jnp.asarray(p))
    assert np.abs(np.asarray(reverse) / expected - 1).min() > 1e-3  # the direction matters everywhere here
    np.testing.assert_allclose(compared(q, p).entropy, -(np.exp(p) * p).sum(-1), rtol=1e-12)


def test_small_kl_survives_float32(rng):
    """Steps of 1e-3: the KL is some 1e-7, of the order of float32's resolution of the log-probabilities."""
    logits = rng.standard_normal((200, 8)).astype(np.float32)
    step = (1e-3 * rng.standard_normal((200, 8))).astype(np.float32)
    p, q = (np.asarray(jax.nn.log_softmax(jnp.asarray(x))) for x in (logits, logits + step))
    found = np.asarray(exact_kl(jnp.asarray(p), jnp.asarray(q)))
    wide = log_softmax(p), log_softmax(q)
    truth = (np.exp(wide[0]) * (wide[0] - wide[1])).sum(-1)
    assert found.dtype == np.float32
    assert (found > 0).all()
    np.testing.assert_allclose(found, truth, rtol=0.02)
    naive = (np.exp(p) * (p - q)).sum(-1)
    assert (naive <= 0).any()  # what the textbook formula does


def test_extreme_logits_stay_finite():
    p, q = (jax.nn.log_softmax(jnp.float32([x, 0.0])) for x in (200.0, -200.0))
    kl_and_slope = jax.jit(jax.value_and_grad(lambda new, current: exact_kl(current, new)))
    for current, new in ((p, q), (q, p), (p, p)):
        value, slope = kl_and_slope(new, current)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
    np.testing.assert_allclose(exact_kl(p, q), 200.0, rtol=1e-6)
    value, slope = jax.value_and_grad(lambda d: clipped_surrogate(d, jnp.float32(-1.0), 0.2, 0.2))(jnp.float32(500.0))
    assert np.isfinite(value)
    assert np.isfinite(slope)


def test_gradient_of_exact_kl_is_q_minus_p(rng):
    """With respect to the logits of the new policy."""
    p = jnp.asarray(log_softmax(rng.standard_normal(6)))
    logits = jnp.asarray(rng.standard_normal(6)) * 2
    slope = jax.jit(jax.grad(lambda x: exact_kl(p, jax.nn.log_softmax(x))))(logits)
    np.testing.assert_allclose(slope, jax.nn.softmax(logits) - jnp.exp(p), atol=1e-12)


def test_estimators_by_name():
    """Of a token with π'/π = 3 at a context with an exact KL of .7: the paper's, Schulman's, the vocabulary's, GRPO's."""
    moved = Divergence(jnp.log(jnp.full((1, 1, 1), 3.0)), jnp.full((1, 1, 1), 0.7))
    by_hand = {"k1": -math.log(3), "k3": 2 - math.log(3), "exact": 0.7, "k3_new_to_current": 1 / 3 - 1 + math.log(3)}
    assert {name: float(f(moved)[0, 0, 0]) for name, f in PENALTIES.items()} == pytest.approx(by_hand, rel=1e-12)
    assert {name: PENALTIES[name] for name in by_hand if name != "k3_new_to_current"} == ESTIMATORS


def test_k1_and_k3_are_unbiased_over_all_messages(rng):
    """Every message of at most three tokens over END and two characters, weighted by the current policy (P3.2)."""
    actions, length = 3, 3
    policies = {}

    def row(which, prefix):
        return policies.setdefault((which, prefix), log_softmax(rng.standard_normal(actions)))

    prefixes = [p for n in range(length) for p in itertools.product(range(1, actions), repeat=n)]
    complete = [(*p, 0) for p in prefixes] + list(itertools.product(range(1, actions), repeat=length))
    rows = [[row(which, message[:u]) for u in range(len(message))] for message in complete for which in "pq"]
    tables = np.zeros((len(complete), 2, length, actions)) - math.log(actions)  # after END: no difference
    for i, found in enumerate(rows):
        tables[i // 2, i % 2, : len(found)] = found
    written = np.array([(*m, *(0,) * (length - len(m))) for m in complete])
    said = np.take_along_axis(tables, written[:, None, :, None], -1)[..., 0]
    lengths = np.array([len(m) for m in complete])
    there = np.arange(length) < lengths[:, None]
    mass = np.exp(np.where(there, said[:, 0], 0).sum(-1))
    ratio = jnp.asarray(said[:, 1] - said[:, 0])
    assert (np.asarray(k3(ratio)) >= 0).all()
    terms = {"k1": k1(ratio), "k3": k3(ratio), "exact": exact_kl(*(jnp.asarray(tables[:, i]) for i in (0, 1))),
             "reverse": k3(-ratio)}  # fmt: skip
    truth = {name: (mass * np.asarray(x).sum(-1)).sum() for name, x in terms.items()}
    truth["message"] = -(mass * np.asarray(ratio).sum(-1)).sum()
    truth["mass"] = mass.sum()
    assert truth["mass"] == pytest.approx(1.0, abs=1e-12)
    for name in ("k1", "k3", "exact"):
        assert truth[name] == pytest.approx(truth["message"], rel=1e-10)
    assert truth["reverse"] != pytest.approx(truth["message"], rel=0.05)


# ------------------------------------------------------------------------------------------------------------------- ratios


SLOPES = jax.jit(jax.vmap(jax.grad(clipped_surrogate), (0, 0, None, None)))


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (math.inf, math.inf), (0.0, 0.0)])
def test_clipped_surrogate(rng, low, high):
    d, advantage = rng.standard_normal(100), rng.standard_normal(100)
    ratio = np.exp(d)
    expected = np.minimum(ratio * advantage, np.clip(ratio, 1 - low, 1 + high) * advantage) - advantage
    np.testing.assert_allclose(
        clipped_surrogate(jnp.asarray(d), jnp.asarray(advantage), low, high), expected, rtol=1e-9
    )
    slope = SLOPES(jnp.asarray(d), jnp.asarray(advantage), low, high)
    gone = np.where(advantage > 0, ratio > 1 + high, ratio < 1 - low)
    np.testing.assert_allclose(slope, np.where(gone, 0.0, ratio * advantage), rtol=1e-9)


def test_ratio_is_cut_at_e20():
    np.testing.assert_allclose(ratio_of(jnp.array([-1.0, 0.0, 20.0, 300.0])), np.exp([-1.0, 0.0, 20.0, 20.0]))


# -------------------------------------------------------------------------------------------------------------------- masks


@pytest.fixture(scope="module")
def layout():
    return Layout(Vocabulary("ab", 2, "+"), prompt=2, message=3, turns=3, router=random_router(2), caps=(3, 2))


@pytest.fixture(scope="module")
def transcripts(layout):
    """Two conversations, the second with one speaker twice in a row; messages of every length."""
    speaker = np.array([[0, 1, 0], [1, 1, 0]], np.int32)
    tokens = layout.encode_transcripts(["+", "a+"], [["ab", "a", "aba"], ["", "bb", "b"]], speaker)
    return jnp.asarray(tokens), jnp.asarray(speaker)


def positions(layout, tokens, speaker, agent):
    """``(row, position)`` of every token that `agent` wrote, from the definition of a transcript."""
    out = []
    for row, turn in itertools.product(range(len(tokens)), range(layout.turns)):
        if speaker[row, turn] == agent:
            first = layout.start(turn) + 1
            out += [(row, p) for p in range(first, first + layout.message) if tokens[row, p] != layout.vocabulary.pad]
    return out


@pytest.mark.parametrize("agent", [0, 1])
def test_gradient_reaches_the_agents_own_tokens_only(layout, transcripts, agent, rng):
    tokens, speaker = transcripts
    shape = (*tokens.shape, layout.vocabulary.actions)
    old, logits = (jnp.asarray(rng.standard_normal(shape)) for _ in range(2))
    own = own_tokens(layout, tokens, speaker, agent)
    written = tokens[:, layout.prompt :].reshape(2, layout.turns, -1)[:, :, 1:]

    def at_messages(x):  # entry p is about position p + 1
        return by_turn(layout, jnp.roll(x, 1, axis=1))

    def loss(logits):
        moved = divergence(statistics_of_logits(at_messages(old), at_messages(logits), jnp.minimum(written, 2)), own)
        gain = clipped_surrogate(per_message(moved.log_ratio), jnp.ones((2, layout.turns)), 0.2, 9.0)
        return (moved.kl - 0.1 * k3(moved.log_ratio)).sum() - gain.sum()

    reached = (np.asarray(jax.jit(jax.grad(loss))(logits)) != 0).any(-1)
    expected = np.zeros(tokens.shape, bool)
    wanted = positions(layout, np.asarray(tokens), np.asarray(speaker), agent)
    for row, p in wanted:
        expected[row, p - 1] = True
    assert int(np.asarray(own).sum()) == len(wanted)
    assert (reached == expected).all()
    log_probs = statistics_of_logits(at_messages(old), at_messages(logits), jnp.minimum(written, 2)).new
    table = log_softmax(logits)
    found = sorted(np.asarray(log_probs)[np.asarray(own)].tolist())
    np.testing.assert_allclose(found, sorted(table[r, p - 1, int(tokens[r, p])] for r, p in wanted), rtol=1e-12)


UNITS = {  # of a message, from the ratios of its tokens
    "message": lambda said: [math.prod(said)],
    "token": list,
    "geometric_mean": lambda said: [math.prod(said) ** (1 / len(said))],
}


@pytest.mark.parametrize("agent", [0, 1])
@pytest.mark.parametrize("name", RATIOS)
def test_ratios_against_products_over_tokens(layout, transcripts, name, agent, rng):
    """What is clipped, unit by unit, and the sum of a term over each; where the agent wrote nothing the ratio is 1."""
    tokens, speaker = map(np.asarray, transcripts)
    own = own_tokens(layout, *transcripts, agent)
    ratios, term = rng.uniform(0.4, 2.0, own.shape), rng.uniform(size=own.shape)
    kind = RATIOS[name]
    found = np.exp(np.asarray(kind.log_ratio(jnp.where(own, jnp.log(ratios), 0.0), own)))
    there = np.asarray(kind.units(own))
    said = {}
    for row, p in positions(layout, tokens, speaker, agent):
        turn, t = divmod(p - layout.prompt, 1 + layout.message)
        said.setdefault((row, turn), []).append((row, turn, t - 1))
    wanted = [x for at in said.values() for x in UNITS[name]([ratios[i] for i in at])]
    assert len({len(at) for at in said.values()}) > 1  # messages of several lengths
    np.testing.assert_allclose(found[there], wanted, rtol=1e-12)
    assert (found[~there] == 1).all()
    sums = [
        x for at in said.values() for x in ([sum(term[i] for i in at)] if name != "token" else [term[i] for i in at])
    ]
    np.testing.assert_allclose(np.asarray(kind.total(jnp.where(own, term, 0.0)))[there], sums, rtol=1e-12)


def test_gspo_by_hand():
    """Messages of 2 and 4 tokens whose ratios multiply to 4 and 16: both have the geometric mean 2, and a slope of A·2/|m|."""
    own = jnp.array([[[1, 1, 0, 0], [1, 1, 1, 1]]], bool)
    log_ratio = jnp.log(jnp.array([[[1.0, 4.0, 1.0, 1.0], [1.0, 2.0, 4.0, 2.0]]]))
    gspo = RATIOS["geometric_mean"]

    def gain(log_ratio, advantage, high):
        moved = jnp.where(own, log_ratio, 0.0)
        return clipped_surrogate(gspo.log_ratio(moved, own), jnp.full((1, 1), advantage), 0.2, high)

    np.testing.assert_allclose(gain(log_ratio, 3.0, 9.0), [[3.0, 3.0]])
    np.testing.assert_allclose(gain(log_ratio, 3.0, 0.5), [[1.5, 1.5]])
    np.testing.assert_allclose(gain(log_ratio, -3.0, 0.5), [[-3.0, -3.0]])
    slope = jax.grad(lambda x: gain(x, 3.0, 9.0).sum())(log_ratio)
    np.testing.assert_allclose(slope, [[[3.0, 3.0, 0.0, 0.0], [1.5] * 4]])


@pytest.mark.parametrize("ratio", ["message", "token"])
def test_weights_of_units(layout, transcripts, ratio):
    tokens, speaker = transcripts
    own = own_tokens(layout, tokens, speaker, 0)
    row = jnp.array([1.0, 1.0])
    units = [[3, 3], [2]] if ratio == "token" else [[1, 1], [1]]  # agent 0, END included: "ab", "aba"; "b"
    total, per_row = sum(map(sum, units)), [sum(x) for x in units]

    def sums(average, row=row):
        found = np.asarray(unit_weights(RATIOS[ratio].units(own), row, average))
        return found.reshape(2, -1).sum(-1)

    np.testing.assert_allclose(sums("rollout"), np.array(per_row) / 2)
    np.testing.assert_allclose(sums("sequence"), [0.5, 0.5])
    np.testing.assert_allclose(sums("unit"), np.array(per_row) / total)
    dropped = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(sums("rollout", dropped), [0, per_row[1]])
    np.testing.assert_allclose(sums("sequence", dropped), [0, 1])
    np.testing.assert_allclose(sums("unit", dropped), [0, 1])
    for average in ("rollout", "sequence", "unit"):
        assert (sums(average, jnp.zeros(2)) == 0).all()  # a minibatch without anything to learn from


def test_against_rlax():
    """Where rlax has the same: the clipped loss with its gradient, and the KL of categorical distributions.

    rlax brings a nightly build of TensorFlow Probability along and is no dependency: install it by hand to run this.
    """
    rlax = pytest.importorskip("rlax")
    d = 0.3 * jax.random.normal(jax.random.key(0), (500,), jnp.float64)
    advantage = jax.random.normal(jax.random.key(1), (500,), jnp.float64)
    ours = jax.value_and_grad(lambda d: -(clipped_surrogate(d, advantage, 0.2, 0.2) + advantage).mean())(d)
    theirs = jax.value_and_grad(lambda d: rlax.clipped_surrogate_pg_loss(jnp.exp(d), advantage, 0.2))(d)
    assert float(ours[0]) == pytest.approx(float(theirs[0]), abs=1e-14)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-16)
    current, new = jax.nn.log_softmax(jax.random.normal(jax.random.key(2), (2, 50, 7), jnp.float64))
    kl = jax.vmap(rlax.categorical_kl_divergence)(current, new)
    np.testing.assert_allclose(exact_kl(current, new), kl, rtol=0, atol=1e-12)
