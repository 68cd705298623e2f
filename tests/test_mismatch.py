"""S12: two policies seen from rollouts of a third, against every trajectory, by value, and with actions that μ never plays."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from builders import Case, as_stage, random_case, rows

from teamtr_jax import finite_sample as fs
from teamtr_jax.bounds import penalty_log_sum
from teamtr_jax.claims.s12 import CLAIM, triples
from teamtr_jax.mismatch import Departure, compared, mismatch
from teamtr_jax.surrogates import evaluate_stage, stage_report
from teamtr_jax.validation import InputError
from theory.constructions.doors import sampled_doors_stage

FAMILIES = list(itertools.product(("discounted", "episodic"), ("turn-taking", "product")))


def three(form, protocol, seed, zeros=0.0):
    """A team and three tables of it, in all of which every agent plays otherwise."""
    rng = np.random.default_rng([seed, 12])
    case = random_case(rng, form, protocol, zeros=zeros)
    other = rows(rng, *case.current.shape, zeros=zeros)
    if case.factors is not None:
        other = np.zeros_like(case.current)
        for k, size in enumerate(case.factors):
            other[k, :, :size] = rows(rng, other.shape[1], size, zeros=zeros)
    if case.active is not None:
        other[case.active < 0] = case.current[case.active < 0]
    return case, case.current, other, case.target


def joint(case, table):
    everyone = case._replace(target=table)
    return oracle.stage_policies(*everyone.oracle()[1:])[0][-1]


def from_sampler(world, mu, pi):
    """`L, gap, K, Σm Σk(Q−Φ), Σm Σk(Ψ−Q)` of π from rollouts of μ, by the definitions."""
    m, _, Q, J = oracle.solved(world, mu)
    surrogate = sum(m[s] * ((pi[s] - mu[s]) @ Q[s]) for s in range(len(m)))
    kl = oracle.mean(m, [oracle.kl(mu[s], pi[s]) for s in range(len(m))])
    floor, ceiling = oracle.bounds_to_go(world)
    below, above = (oracle.kl_weighted(m, mu, pi, q) for q in (Q - floor[:, None], ceiling[:, None] - Q))
    return surrogate, oracle.solved(world, pi)[3] - J - surrogate, kl, below, above


@pytest.mark.parametrize(("form", "protocol"), FAMILIES)
@pytest.mark.parametrize("zeros", [0.0, 0.3])
def test_both_sides_against_trajectories(form, protocol, zeros):
    """Every field; with zeros an action may be opened or dropped. The bounds hold, the one-sided ones are smaller."""
    for seed in range(4):
        case, mu, pi, new = three(form, protocol, seed, zeros)
        team = as_stage(case).team
        found = mismatch(team, *(jnp.asarray(x) for x in (mu, pi, new)))
        old, now = (from_sampler(case.world, joint(case, mu), joint(case, x)) for x in (pi, new))
        floor, ceiling = oracle.bounds_to_go(case.world)
        start = case.world["rho"] > 0
        width = ceiling[start].max() - floor[start].min()
        total = old[2] + now[2]
        expected = {
            "surrogate": now[0] - old[0], "gap": now[1] - old[1], "kl_sampler_to_current": old[2], "kl_sampler_to_new": now[2],
            "penalty": width * total if total else 0.0, "weighted_floor": now[3] + old[4], "weighted_ceiling": now[4] + old[3],
        }  # fmt: skip
        scale = 1e-13 * max(1.0, width) / (1 - case.world.get("gamma", 0.0)) ** 2
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(found, name), value, rtol=1e-10, atol=scale, err_msg=name)
        truth = oracle.solved(case.world, joint(case, new))[3] - oracle.solved(case.world, joint(case, pi))[3]
        np.testing.assert_allclose(found.improvement, truth, rtol=1e-9, atol=scale)
        assert found.certificate <= truth + scale
        assert found.surrogate - found.penalty <= found.certificate + scale
        assert abs(found.gap) <= max(found.weighted_floor, found.weighted_ceiling) + scale


def test_two_departures_by_hand():
    """What is known of the new policy less, or with, what is known of the current one."""
    old = Departure(1.0, 0.25, 0.5, 0.125, 2.0, 4.0, 1e-3)
    new = Departure(3.0, 1.5, 0.75, 8.0, 0.5, 4.0, 1e-2)
    found = compared(*(Departure(*map(jnp.asarray, x)) for x in (old, new)))._asdict()
    assert {name: float(x) for name, x in found.items()} == {
        "surrogate": 2.0, "gap": 1.25, "kl_sampler_to_current": 0.5, "kl_sampler_to_new": 0.75, "penalty": 5.0,
        "weighted_floor": 10.0, "weighted_ceiling": 0.625, "rounding": 1e-3 + 1e-2,
    }  # fmt: skip


def test_where_nobody_acts_all_play_as_the_sampler():
    """Rows of chance: those of the sampler, whatever the other two tables hold there."""
    case, mu, pi, new = three("discounted", "turn-taking", 0)
    case = case._replace(active=np.where(np.arange(5) == 1, -1, case.active))
    team = as_stage(case).team
    assert min(abs(x - mu)[1].max() for x in (pi, new)) > 0.05
    found = mismatch(team, *(jnp.asarray(x) for x in (mu, pi, new)))
    pi, new = (np.where((case.active < 0)[:, None], mu, x) for x in (pi, new))
    gained = oracle.solved(case.world, new)[3] - oracle.solved(case.world, pi)[3]
    np.testing.assert_allclose(found.improvement, gained, rtol=1e-9, atol=1e-12)
    same = mismatch(team, *(jnp.asarray(x) for x in (mu, pi, new)))
    jax.tree.map(np.testing.assert_array_equal, found, same)


def test_a_certificate_is_a_mean_over_rollouts_of_the_sampler():
    """Outcome R in [0, 1]: `E_μ[R log(P_π'/P_μ) + (1−R) log(P_π/P_μ)]`, over every trajectory; nothing opened."""
    for seed in range(3):
        case, *tables = three("episodic", "turn-taking", seed)
        world = dict(case.world)
        last = world["clock"] == world["T"] - 1
        world["r"] = np.where(last[:, None], np.random.default_rng(seed).random(world["r"].shape), 0.0)
        world["r"][last, 0], world["r"][last, 1] = 0.0, 1.0  # so that the return can still become 0 or 1
        case = Case(world, *case[1:])
        found = mismatch(as_stage(case).team, *map(jnp.asarray, tables))
        mu, pi, new = (joint(case, x) for x in tables)
        mean, weighed = 0.0, 0.0
        for p, states, actions in oracle.paths(world, mu):
            reward = oracle.path_return(world, states, actions)
            old, now = (math.prod(x[s, a] / mu[s, a] for s, a in zip(states, actions, strict=True)) for x in (pi, new))
            mean += p * (reward * math.log(now) + (1 - reward) * math.log(old))
            weighed += p * (reward * now + (1 - reward) * old - 1)
        assert found.certificate == pytest.approx(mean, rel=1e-10, abs=1e-13)
        assert weighed == pytest.approx(
            float(found.improvement), rel=1e-9, abs=1e-13
        )  # the weights themselves: no loss


@pytest.mark.parametrize(
    ("form", "protocol"),
    [
        ("discounted", "product"),
        ("episodic", "turn-taking"),
        pytest.param("discounted", "turn-taking", marks=pytest.mark.slow),
        pytest.param("episodic", "product", marks=pytest.mark.slow),
    ],
)
def test_a_sampler_that_is_the_trainer_leaves_s7_and_s9(form, protocol):
    """`μ = π`: the gap, S7's penalty and S9's two numbers of the report."""
    case, mu, _, _ = three(form, protocol, 5)
    stage = as_stage(case)
    one = np.where(case.active[:, None] == case.order[0], case.target, mu) if case.factors is None else mu.copy()
    if case.factors is not None:
        one[case.order[0]] = case.target[case.order[0]]
    found, report = mismatch(stage.team, stage.current, stage.current, jnp.asarray(one)), evaluate_stage(stage)
    assert found.kl_sampler_to_current == 0
    for ours, theirs in (
        (found.gap, report.gap_fresh), (found.surrogate, report.surrogate_intermediate),
        (found.penalty, penalty_log_sum(report)), (found.weighted_floor, report.weighted_floor),
        (found.weighted_ceiling, report.weighted_ceiling),
    ):  # fmt: skip
        np.testing.assert_allclose(ours, theirs[0], rtol=1e-9, atol=1e-13)
    assert 0.5 < found.rounding / report.rounding.fresh[0] <= 1  # of one update instead of n


@jax.jit
def _checked(stage):
    return CLAIM.check(stage, stage_report(stage))


def checked(stage):
    return jax.tree.map(np.asarray, _checked(stage))


@pytest.mark.parametrize("discount", [None, 0.75])
def test_constants_by_value(discount):
    """S12, doors: gap ±2ε against `2·(−log(1−ε))`, discounted `γ/(1−γ)·ε` against `−log(1−ε)/(1−γ)`: ratio → 1, → γ."""
    step = 2.0**-10
    opened = -math.log1p(-step)
    worth = 1.0 if discount is None else discount / (1 - discount) / 2
    total = 2 * opened if discount is None else opened / (1 - discount)
    assert triples(2) == [(0, 0, 1), (1, 0, 2), (0, 1, 2), (2, 1, 2)]
    for gain in (True, False):
        found = checked(sampled_doors_stage(step, discount, gain))
        both, side = found[""], found["ceiling" if gain else "floor"]
        assert both.measured[0, 1] == pytest.approx(2 * worth * step, rel=1e-9)
        assert both.bound[0, 1] == pytest.approx(total, rel=1e-9)
        assert side.measured[0, 1] == pytest.approx(2 * worth * step, rel=1e-9)
        assert (
            0
            <= side.bound[0, 1] - side.measured[0, 1]
            <= (step**2 if discount is None else total - side.measured[0, 1])
        )
        assert side.bound[0, 1] < both.bound[0, 1]
        assert both.measured[0, 1] / both.bound[0, 1] > (0.999 if discount is None else 0.999 * discount)


def test_one_kl_is_not_enough():
    """`|gap| ≤ ϱK(μ,π')` alone, or with the larger of the two, is false by a factor of two."""
    found = checked(sampled_doors_stage(2.0**-10))[""]
    assert found.measured[0, 1] > 1.99 * found.bound[0, 1] / 2


def test_a_sampler_that_cuts_actions_off():
    """μ = π without a rare action (top-p): K = −log of what is left, and everything holds; π that cuts is seen at K = ∞."""
    case, _, pi, new = three("discounted", "turn-taking", 1)
    team = as_stage(case).team
    cut = np.where(pi < np.sort(pi, -1)[:, 1:2], 0.0, pi)
    mu = cut / cut.sum(-1, keepdims=True)
    found = mismatch(team, *map(jnp.asarray, (mu, pi, new)))
    m = oracle.solved(case.world, mu)[0]
    assert found.kl_sampler_to_current == pytest.approx(float(m @ -np.log(cut.sum(-1))), rel=1e-10)
    assert jnp.isfinite(found.kl_sampler_to_new)
    assert abs(found.gap) <= found.penalty
    assert found.certificate <= found.improvement
    other_way = mismatch(team, *map(jnp.asarray, (pi, mu, new)))
    assert jnp.isposinf(other_way.kl_sampler_to_current)
    assert jnp.isposinf(other_way.penalty)
    assert not jnp.isnan(other_way.gap)


def test_what_is_refused():
    case, mu, pi, new = three("discounted", "turn-taking", 1)
    team = as_stage(case).team
    with pytest.raises(InputError, match=r"^sampler: found dtype float32"):
        mismatch(team, jnp.asarray(mu, jnp.float32), jnp.asarray(pi), jnp.asarray(new))
    with pytest.raises(InputError, match=r"^sampler: found shape \[1, 2\]"):
        mismatch(team, *[jnp.asarray([[0.5, 0.5]])] * 3)
    with pytest.raises(InputError, match=r"^current: found "):
        mismatch(team, jnp.asarray(mu), jnp.asarray(2 * pi), jnp.asarray(new))


# ------------------------------------------------------------------------------------------------ finitely many rollouts


def law_of_three(rng, opens, drops):
    """One message of four: μ, π, π' and an outcome in [0, 1]. `opens`: μ never sends message 0; `drops`: π never message 1."""
    mu, pi, new = rng.dirichlet(np.ones(4), 3)
    if opens:
        mu[0] = 0.0
        mu /= mu.sum()
    if drops:
        pi[1] = 0.0
        pi /= pi.sum()
    return mu, pi, new, rng.choice([0.0, 0.3, 1.0], 4)


def samples_of(mu, pi, new, reward):
    """Every pair of rollouts of μ: probability, reward, the two log ratios."""
    pairs = np.array(list(itertools.product(np.flatnonzero(mu), repeat=2)))
    with np.errstate(divide="ignore"):
        ratios = [np.log(x[pairs] / mu[pairs])[..., None] for x in (pi, new)]
    return mu[pairs].prod(-1), reward[pairs], *ratios


@pytest.mark.parametrize(("opens", "drops"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_mean_of_a_sample_is_at_most_the_improvement(opens, drops):
    """S12 with S8's limits, by enumeration: equal where μ sends all that π and π' send, below where it does not."""
    rng = np.random.default_rng(2)
    lost = []
    for _ in range(40):
        mu, pi, new, reward = law_of_three(rng, opens, drops)
        truth = float((new - pi) @ reward)
        weight, r, current, moved = samples_of(mu, pi, new, reward)
        path, log = (fs.mismatch_sample(r, current, moved, name) for name in ("path", "log"))
        assert path.lower == log.lower == -1.0
        assert min(path.values.min(), log.values.min()) >= -1 - 1e-12
        assert weight @ log.values <= weight @ path.values + 1e-12
        missed = new[mu == 0] @ reward[mu == 0] + pi[mu == 0] @ (1 - reward[mu == 0])  # nothing for what μ never writes
        assert weight @ path.values == pytest.approx(truth - missed, abs=1e-12)
        lost.append(missed)
    assert bool(max(lost) > 0.1) is opens


def test_a_sampler_that_is_the_trainer_leaves_the_path_weight():
    rng = np.random.default_rng(4)
    reward, log_ratio = rng.random((30, 2)), rng.normal(size=(30, 2, 3))
    for name, ours in (("path", fs.path_sample(reward, log_ratio)), ("log", fs.log_sample(reward, log_ratio))):
        np.testing.assert_allclose(
            fs.mismatch_sample(reward, np.zeros_like(log_ratio), log_ratio, name).values, ours.values, atol=1e-15
        )


def test_values_by_hand():
    """R = ¼, Λ = ½, Λ' = 2: `¼(2−1) + ¾(½−1) = −⅛`; in logarithms `¼ ln 2 − ¾ ln 2`, and no less than −1."""
    half = math.log(0.5)
    r, current, new = np.array([[0.25]]), np.array([[[half]]]), np.array([[[-2 * half, half]]])
    assert fs.mismatch_sample(r, current, new).values[0] == pytest.approx(-0.125)
    assert fs.mismatch_sample(r, current, new, "log").values[0] == pytest.approx(-0.5 * math.log(2))
    far = np.array([[[-50.0]]])
    assert fs.mismatch_sample(r, far, far, "log").values[0] == -1.0
    huge = np.array([[[900.0]]])
    assert fs.mismatch_sample(np.zeros((1, 1)), current, huge).values[0] == pytest.approx(-0.5)  # not 0·∞


def draws(rng, prompts, mu, pi, new, reward):
    sent = rng.choice(4, (prompts, 2), p=mu)
    return reward[sent], *(np.log(x[sent] / mu[sent])[..., None] for x in (pi, new))


def test_a_certificate_of_a_third_policys_rollouts():
    """Positive with enough rollouts, its limit the betting bound of the values, below the truth; a wrong sampler is found out."""
    rng = np.random.default_rng(8)
    mu, pi, new = np.array([0.3, 0.3, 0.2, 0.2]), np.array([0.25, 0.25, 0.25, 0.25]), np.array([0.15, 0.15, 0.3, 0.4])
    reward = np.array([0.0, 0.0, 1.0, 1.0])
    r, current, moved = draws(rng, 2_000, mu, pi, new, reward)
    found = fs.mismatch_certificate(r, current, moved, alpha=0.1)
    assert (found.estimator, found.bound, found.rollouts, found.prompts) == ("mismatch, path", "betting", 4_000, 2_000)
    assert found.lower == fs.betting_bound(fs.mismatch_sample(r, current, moved), 0.1)
    assert 0 < found.lower < 0.2 < found.estimate + 0.05  # the truth is 0.2
    log = fs.mismatch_certificate(r, current, moved, alpha=0.1, estimator="log")
    assert log.lower < found.lower
    assert (log.estimator, log.bound) == ("mismatch, log", "betting")
    sent = rng.choice(4, (2_000, 2), p=new)  # the trainer's own rollouts, said to be μ's
    wrong = fs.mismatch_certificate(
        reward[sent], *(np.log(x[sent] / mu[sent])[..., None] for x in (pi, new)), alpha=0.1
    )
    assert wrong.lower == -math.inf
    assert "the mean weight of a rollout is above 1" in wrong.contradiction


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"reward": np.full((4, 2), 2.0)}, "reward"), ({"alpha": 1.0}, "alpha"), ({"estimator": "clipped"}, "estimator"),
        ({"log_ratio_current": np.zeros((4, 3, 1))}, "log_ratio_current"),
        ({"log_ratio_new": np.full((4, 2, 1), -np.inf)}, "log_ratio_new"),
        ({"log_ratio_current": np.full((4, 2, 1), np.nan)}, "log_ratio_current"),
    ],
)  # fmt: skip
def test_what_a_certificate_refuses(change, name):
    given = {
        "reward": np.ones((4, 2)),
        "log_ratio_current": np.zeros((4, 2, 1)),
        "log_ratio_new": np.zeros((4, 2, 1)),
        "alpha": 0.1,
    }
    with pytest.raises(InputError) as error:
        fs.mismatch_certificate(**given | change)
    assert error.value.name == name
    assert (
        fs.mismatch_certificate(**given | {"log_ratio_new": np.full((4, 2, 1), -np.inf)}, zeros=True).estimate == -1.0
    )
