"""S12 on enumerated networks whose sampler is a copy in bfloat16, at another temperature, or without rare symbols."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.divergences import message_probabilities
from teamtr_jax.llm.enumeration import enumerate_world, enumerated_policy, policy_gradient
from teamtr_jax.llm.layout import Layout, Vocabulary, round_robin
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, agent_params, init_team, with_agent_params
from teamtr_jax.mismatch import mismatch
from theory.studies import s12


@pytest.fixture(scope="module")
def found():
    return s12.laws(np.random.default_rng(1), 40)


def test_both_sides_are_those_of_the_laws(found):
    """`J(π') − J(π)` and the KLs of whole transcripts by summing over them: the tabular core on the tree, engine by engine."""
    (pi, new), reward = np.moveaxis(found.trainer, 1, 0), found.reward
    truth = ((new - pi) * reward).sum(-1)
    np.testing.assert_allclose(found.trainer.sum(-1), 1, atol=1e-12)
    for e, name in enumerate(s12.ENGINES):
        mu = found.sampler[:, e, 0]
        sides = jax.tree.map(lambda x, e=e: x[:, e], found.sides)
        np.testing.assert_allclose(sides.surrogate + sides.gap, truth, atol=1e-12, err_msg=name)
        for kl, other in ((sides.kl_sampler_to_current, pi), (sides.kl_sampler_to_new, new)):
            used = mu > 0
            score = np.log(np.where(used, mu, 1.0) / np.where(used, other, 1.0))
            np.testing.assert_allclose(kl, (mu * score).sum(-1), atol=1e-11, err_msg=name)
        assert (abs(sides.gap) <= sides.penalty + sides.rounding).all()
        assert (sides.gap >= -sides.weighted_floor - sides.rounding).all()
        assert (sides.gap <= sides.weighted_ceiling + sides.rounding).all()
    assert (found.sides.kl_sampler_to_current[:, 0] == 0).all()
    assert (found.sides.kl_sampler_to_current[:, 1:4] > 0).all()


def test_copies_are_what_they_are_called(found):
    """The trainer's own; float8 is further off than bfloat16; top-p gives up to a tenth of a row, and never writes some of π."""
    np.testing.assert_array_equal(found.sampler[:, 0], found.trainer)
    mean = found.sides.kl_sampler_to_current.mean(0)
    assert 0 < 100 * mean[1] < mean[2]
    written = found.sampler[:, :, 0] > 0
    assert (written[:, :4] == (found.trainer[:, :1] > 0)).all()  # after END there is nothing to write
    assert (written[:, 4] < (found.trainer[:, 0] > 0)).any()
    rows = np.array([[0.92, 0.08], [0.9, 0.1], [0.89, 0.11], [0.5, 0.5]])
    kept = np.asarray(s12._nucleus(jnp.asarray(rows)))
    np.testing.assert_allclose(kept, [[1, 0], [1, 0], [0.89, 0.11], [0.5, 0.5]])
    four = jnp.asarray([[0.1, 0.6, 0.05, 0.25]])  # .6 + .25 is not .9 yet: the next one is in, the rest is out
    np.testing.assert_allclose(s12._nucleus(four), np.array([[0.1, 0.6, 0.0, 0.25]]) / 0.95)


def test_what_is_accepted_is_counted(found):
    """By plain loops over updates and transcripts; a certificate is never above the truth, a proxy accepts what does harm."""
    engines = s12.judged(found)
    assert [x.name for x in engines] == list(s12.ENGINES)
    for e, x in enumerate(engines):
        counts = dict.fromkeys(("certified", "naive", "worse", "misled", "proxy", "proxy_worse", "deployed"), 0)
        for b in range(len(found.reward)):
            mu, after = found.sampler[b, e]
            (pi, new), R = found.trainer[b], found.reward[b]
            better, gain = (new - pi) @ R, (after - mu) @ R
            s = [
                sum(p * r * np.log(q / o) for p, r, q, o in zip(*four, strict=True) if p * r > 0)
                for four in ((mu, R, new, mu), (mu, 1 - R, pi, mu), (mu, R, new, pi))
            ]
            own = sum(
                p * r * (np.log(q / p) if q > 0 else -np.inf) for p, r, q in zip(mu, R, after, strict=True) if p * r > 0
            )
            assert s[0] + s[1] <= better + 1e-12
            assert own <= gain + 1e-12
            proxy = (after - new) @ R >= -1e-12
            counts["certified"] += s[0] + s[1] > 1e-12
            counts["naive"] += s[2] > better + 1e-12
            counts["worse"] += gain < -1e-12
            counts["misled"] += bool(better > 1e-12 and gain < -1e-12)
            counts["proxy"] += proxy
            counts["proxy_worse"] += bool(proxy and gain < -1e-12)
            counts["deployed"] += own > 1e-12
        assert counts == {
            "certified": x.certified, "naive": x.naive, "worse": x.worse, "misled": x.misled, "proxy": x.proxy[0],
            "proxy_worse": x.proxy_worse[0], "deployed": x.deployed,
        }  # fmt: skip
        assert (x.above, x.deployed_worse) == (0, 0)
        assert x.proxy_worse[1] >= x.proxy_worse[0]
    assert engines[0].naive == 0  # the rollouts are its own
    assert sum(x.naive for x in engines) > 0
    assert sum(x.proxy_worse[1] for x in engines[1:]) > 0


def test_the_row_and_the_page(found, monkeypatch):
    monkeypatch.setattr(s12, "laws", lambda rng: found)
    row, engines, updates = s12.run(np.random.default_rng(0), 2)
    assert (row.id, row.violations, updates, row.instances, row.checks) == ("S12", 0, 80, 400, 1200)
    assert row.tightest == max(x.bound for x in engines) == pytest.approx(1 - row.detects)
    page = s12.as_table(engines, updates)
    assert page.startswith("# Trainer and sampler\n\n80 updates")
    lines = page.splitlines()[4:]
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in s12.ENGINES]
    assert len({line.count("|") for line in lines}) == 1


def test_a_network_that_computes_in_bfloat16():
    """The same weights in bfloat16 arithmetic write the rollouts: S12, and what is deployed from its numbers alone."""
    layout = Layout(Vocabulary("01", 2, "?"), 1, 1, 4, round_robin(2))
    worlds = {
        dtype: enumerate_world(
            LanguageTeam(layout, (ModelConfig(width=8, layers=1, heads=1, dtype=dtype),) * 2),
            ["?"],
            lambda tokens: (tokens[:, layout.start(0) + 1] == tokens[:, layout.start(3) + 1]).astype(float),
        )
        for dtype in ("float32", "bfloat16")
    }
    trainer, engine = worlds["float32"], worlds["bfloat16"]
    team = trainer.language
    before = init_team(team, jax.random.key(3))
    own = agent_params(team, before, 0)
    _, grad = policy_gradient(trainer, before, 0)
    after = with_agent_params(team, before, 0, jax.tree.map(lambda x, g: x + 0.2 * g, own, grad))
    pi, new = (enumerated_policy(trainer, x) for x in (before, after))
    mu, deployed = (enumerated_policy(engine, x) for x in (before, after))
    found = mismatch(trainer.team, mu, pi, new)
    assert 0 < found.kl_sampler_to_current < 1e-2
    reward = trainer.team.reward[trainer.team.dynamics.level(3)].ravel()
    law = {
        k: message_probabilities(trainer.team.dynamics, x) for k, x in zip("mpnd", (mu, pi, new, deployed), strict=True)
    }
    truth, gain = float((law["n"] - law["p"]) @ reward), float((law["d"] - law["m"]) @ reward)
    assert float(found.improvement) == pytest.approx(truth, abs=1e-13)
    assert 0 < found.certificate <= truth
    assert truth != gain
    alone = mismatch(trainer.team, mu, mu, deployed)
    assert alone.kl_sampler_to_current == 0
    assert 0 < alone.certificate <= gain
    assert float(alone.improvement) == pytest.approx(gain, abs=1e-13)
