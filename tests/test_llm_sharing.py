"""Networks that several agents play with: policies, updates, KL over all sharers' messages, exact audits, by value."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.llm.settings import Train
from experiments.llm.setup import set_up
from teamtr_jax.llm import enumeration as en
from teamtr_jax.llm.ascend import _Chunk, _loss
from teamtr_jax.llm.backend import LanguageSampling, TokenLogger, language_backend
from teamtr_jax.llm.description import describe_team, team_from_description
from teamtr_jax.llm.given import Given, layout_policy
from teamtr_jax.llm.layout import Layout, Vocabulary, by_turn, random_router, round_robin
from teamtr_jax.llm.losses import own_tokens
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, agent_params, init_team, policy_logits, with_agent_params
from teamtr_jax.llm.replacement import replace_agent
from teamtr_jax.llm.sampler import sample
from teamtr_jax.llm.sizes import parameters_of, required
from teamtr_jax.llm.tasks import Problem
from teamtr_jax.llm.update import init_train_state, score
from teamtr_jax.llm.update_settings import UpdateSettings, parts
from teamtr_jax.llm.warm_start import _Batch, _each, _Learned, _optimiser, _steps, demonstration_loss
from teamtr_jax.records import update_lines
from teamtr_jax.schedules import fresh, once
from teamtr_jax.sharing import Sharing
from teamtr_jax.stage import run_stage
from teamtr_jax.validation import InputError

SMALL = ModelConfig(width=8, layers=1, heads=1)
OTHER = ModelConfig(width=16, layers=1, heads=1)
GROUPS = (0, 1, 0)
LAYOUT = Layout(Vocabulary("01", 3, "?", ends=False), 1, 1, 6, round_robin(3))


def team_of(updates="sequential", models=(SMALL,) * 3, layout=LAYOUT, groups=GROUPS):
    return LanguageTeam(layout, models, Sharing(groups, updates))


TEAM = team_of()
UNLIKE = team_of(models=(SMALL, OTHER, SMALL))
APART = LanguageTeam(LAYOUT, (SMALL,) * 3)


def params_of(team, seed=0, scale=1.0):
    return jax.tree.map(lambda x: jnp.asarray(scale * np.asarray(x)), init_team(team, jax.random.key(seed)))


def copied(team, params):
    """The parameters of a team in which each agent has a copy of its own."""
    return jax.tree.map(lambda *x: jnp.stack(x), *(agent_params(team, params, k) for k in range(3)))


def outcome(tokens):
    """The share of ones, and more if the first and the last message agree."""
    said = np.asarray(by_turn(LAYOUT, jnp.asarray(tokens)))[:, :, 0]
    return 0.5 * said.mean(1) + 0.5 * (said[:, 0] == said[:, -1])


@cache
def world_of(team) -> Any:
    return en.enumerate_world(team, ["?"], outcome)


def test_parameters():
    """One set for two agents: written once, replaced for both, and the other agent's are untouched."""
    params = init_team(TEAM, jax.random.key(0))
    assert {x.shape[0] for x in jax.tree.leaves(params)} == {2}
    one = parameters_of(SMALL, LAYOUT)[0]
    assert sum(x.size for x in jax.tree.leaves(params)) == 2 * one
    assert required(TEAM) == 2 * 4 * one
    assert required(APART) == 3 * 4 * one
    for team in (TEAM, UNLIKE):
        params = init_team(team, jax.random.key(0))
        new = jax.tree.map(lambda x: x + 1, agent_params(team, params, 2))
        changed = with_agent_params(team, params, 2, new)
        for agent, expected in ((0, new), (1, agent_params(team, params, 1)), (2, new)):
            jax.tree.map(np.testing.assert_array_equal, agent_params(team, changed, agent), expected)


def test_refusals():
    with pytest.raises(InputError, match=r"^models\[2\]: found ModelConfig\(width=8.*the network of agent 0, a sharer"):
        team_of(models=(OTHER, OTHER, SMALL))
    with pytest.raises(InputError, match=r"^sharing: found 2 agents, \[0, 0\], expected 3, those of the layout"):
        team_of(groups=(0, 0))
    with pytest.raises(InputError, match=r"^sharing: found \(0, 1, 0\), expected a Sharing"):
        LanguageTeam(LAYOUT, (SMALL,) * 3, (0, 1, 0))  # pyright: ignore[reportArgumentType]
    params = init_team(TEAM, jax.random.key(0))
    with pytest.raises(
        InputError, match=r"^agent: found 2, which shares its parameters with 0, expected an agent with"
    ):
        replace_agent(TEAM, params, 2, SMALL, agent_params(TEAM, params, 2))
    team, after = replace_agent(TEAM, params, 1, SMALL, agent_params(TEAM, params, 0))
    assert team == TEAM
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), after)


def test_sharers_talk_as_copies_do():
    """The team in which each has a copy says the same from the same draws, and is enumerated to the same policy."""
    params = params_of(TEAM)
    prompts = jnp.asarray(LAYOUT.encode_prompts(["?"] * 8))
    for layout in (LAYOUT, replace(LAYOUT, router=random_router(3))):
        shared, apart = team_of(layout=layout), LanguageTeam(layout, (SMALL,) * 3)
        found, expected = (
            sample(team, own, prompts, jax.random.key(1), 4)
            for team, own in ((shared, params), (apart, copied(TEAM, params)))
        )
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_array_equal(found.speaker, expected.speaker)
        np.testing.assert_allclose(found.logp, expected.logp, atol=1e-5)
        assert len(np.unique(np.asarray(found.tokens), axis=0)) > 8
    policies = [
        en.enumerated_policy(world_of(team), own) for team, own in ((TEAM, params), (APART, copied(TEAM, params)))
    ]
    np.testing.assert_allclose(*policies, atol=1e-6)
    mixed = params_of(UNLIKE)
    said = sample(UNLIKE, mixed, prompts, jax.random.key(1), 4)
    for agent in range(3):
        logp = np.asarray(by_turn(LAYOUT, said.logp))[:, agent::3]
        np.testing.assert_allclose(np.asarray(score(UNLIKE, mixed, agent, said.tokens))[:, agent::3], logp, atol=1e-5)


def test_a_role_header_tells_sharers_apart():
    """One network, two roles: their first messages have other laws, since the header before them differs."""
    law = np.asarray(en.enumerated_policy(world_of(TEAM), params_of(TEAM, scale=4.0)))
    tree = world_of(TEAM).team.dynamics
    first, third = law[tree.level(0)], law[tree.level(2)]
    assert abs(first - third).max() > 0.01


# ---------------------------------------------------------------------------------------------------------------- updates


class Ones:
    """Three agents, two rounds of one digit: the outcome above is the reward."""

    name, roles, turns = "ones", ("a", "b", "c"), 6
    characters, prompt_only = "01", "?"
    prompt_length, message_length, caps = 1, 1, None

    def sample(self, rng):
        return Problem("?", "")

    def verify(self, problem, messages):
        return 0.5 * sum(m == "1" for m in messages) / 6 + 0.5 * (messages[0] == messages[-1])

    def demonstrate(self, problem, rng):
        return ["1"] * 6


SETTINGS = UpdateSettings(
    learning_rate=0.05, epochs=2, minibatch=16, micro_batch=8, delta=0.05, beta=0.5, average="rollout"
)
SAMPLING = LanguageSampling(prompts=4, group=8, held_out=2)
LOGITS = jax.jit(policy_logits, static_argnums=(0, 1))
LOSS = jax.jit(demonstration_loss, static_argnums=(0, 1))


def log_probs(team, params, tokens):
    """``[R, turns, A]`` of what stands after each header, by its speaker, in float64."""
    out = np.empty((len(tokens), LAYOUT.turns, 2))
    for agent in range(3):
        logits = np.asarray(LOGITS(team.models[agent], LAYOUT, agent_params(team, params, agent), tokens), np.float64)
        logits = logits[:, [LAYOUT.start(turn) for turn in range(LAYOUT.turns)]]
        out[:, agent::3] = (logits - np.logaddexp.reduce(logits, -1, keepdims=True))[:, agent::3]
    return out


def by_hand(team, states, rollouts):
    """KL(current‖new) of every message met ``[R, turns]``, ratios of what was said, leave-one-out advantages ``[R]``."""
    tokens = jnp.asarray(np.asarray(rollouts.tokens).reshape(-1, LAYOUT.length))
    old, new = (log_probs(team, state.params, tokens) for state in states)
    said = np.asarray(by_turn(LAYOUT, tokens))
    log_ratio = np.take_along_axis(new - old, said, -1)[..., 0]
    reward = np.asarray(rollouts.reward, np.float64)
    group = reward.shape[1]
    advantage = (reward - (reward.sum(1, keepdims=True) - reward) / (group - 1)).ravel()
    return (np.exp(old) * (old - new)).sum(-1), np.exp(log_ratio), advantage


@pytest.mark.parametrize(
    ("unlike", "updates"),
    [(False, "sequential"), (False, "joint"), (True, "sequential"), pytest.param(True, "joint", marks=pytest.mark.slow)],
)  # fmt: skip
def test_an_update_moves_all_sharers(updates, unlike):
    """K, the gain and S7 are sums over the messages of both sharers; the surrogate is of the messages it is made from."""
    team = team_of(updates, (SMALL, OTHER, SMALL) if unlike else (SMALL,) * 3)
    backend = language_backend(team, Ones(), SETTINGS, SAMPLING)
    state = init_train_state(team, params_of(team), SETTINGS)
    rollouts = backend.rollout(state, jax.random.key(0))
    after, info = backend.update(state, backend.estimate(state, rollouts, 2, fresh), 2)

    jax.tree.map(np.testing.assert_array_equal, *(agent_params(team, s.params, 1) for s in (state, after)))
    assert np.asarray(after.beta)[1] == SETTINGS.beta
    kl, ratio, advantage = (x[: SAMPLING.training] for x in by_hand(team, (state, after), rollouts))
    assert kl[:, 0::3].mean() > 1e-4  # agent 0, of whose messages a sequential update of agent 2 saw nothing
    assert kl[:, 2::3].mean() > 1e-4
    assert (kl[:, 1::3] == 0).all()
    assert info["kl"] == pytest.approx(kl.sum(1).mean(), rel=1e-3)
    assert info["monitor"] == pytest.approx(kl[:, [0, 2, 3, 5]].mean(), rel=1e-3)
    gain = (ratio - 1) * advantage[:, None]
    assert info["surrogate_raw"] == pytest.approx(gain.sum(1).mean(), abs=1e-5)
    assert info["certificate_estimable"] == pytest.approx(gain.sum(1).mean() - kl.sum(1).mean(), abs=1e-5)
    with_mean = replace(SETTINGS, advantage="centred", clip_low=50.0, clip_high=50.0)  # nothing is clipped
    backend = language_backend(team, Ones(), with_mean, SAMPLING)
    after, info = backend.update(state, backend.estimate(state, rollouts, 2, fresh), 2)
    _, ratio, advantage = (x[: SAMPLING.training] for x in by_hand(team, (state, after), rollouts))
    credited = [2, 5] if updates == "sequential" else [0, 2, 3, 5]
    gain = (ratio - 1) * advantage[:, None]
    assert info["surrogate"] == pytest.approx(gain[:, credited].sum(1).mean(), abs=1e-5)
    assert abs(gain[:, credited].sum(1).mean() - gain.sum(1).mean()) > 1e-4 or updates == "joint"


def test_stages_of_networks():
    """Sequential: three updates, of which the last meets rollouts that its sharer has moved; joint: two."""
    for updates, agents, path in (("sequential", [2, 1, 0], [False, False, True]), ("joint", [0, 1], [False, False])):
        team = team_of(updates)
        world = world_of(team)
        backend = language_backend(team, Ones(), SETTINGS, SAMPLING, audit=en.network_audit(world))
        state = init_train_state(team, params_of(team), SETTINGS)
        order = agents if updates == "sequential" else [0, 1]
        for schedule in (fresh, once):
            _, records = run_stage(backend, state, order, schedule, jax.random.key(0))
            lines = update_lines(records)
            assert [x["agent"] for x in lines] == agents
            assert [x["moved"] for x in lines] == [list(team.who.moved(k)) for k in agents]
            assert [np.isinf(x["path_kl"]) for x in lines] == [schedule is once and again for again in path]
            assert [x["exact"]["violations"] for x in lines] == [0] * len(lines)
            twice = updates == "sequential"
            assert all(np.isinf(x["exact"]["penalty_cached_log_sum"]) == twice for x in lines)
            assert all(x["exact"]["certificate_estimable"] <= x["exact"]["improvement"] + 1e-12 for x in lines)


def test_the_log_of_sharers():
    """With `rescore` the stage's first rollouts carry the new log-probabilities of both sharers."""
    team, written = team_of(), []
    log = TokenLogger(written.append, rescore=True)
    log.begin(0)
    backend = language_backend(team, Ones(), SETTINGS, SAMPLING, log=log)
    state = init_train_state(team, params_of(team), SETTINGS)
    end, _ = run_stage(backend, state, [0, 2, 1], fresh, jax.random.key(0))
    rows = written[-1]  # of the start, scored at the last update
    assert set(rows["source"]) == {0}
    assert rows["update"][0] == 2
    tokens = np.full((SAMPLING.rows, LAYOUT.length), LAYOUT.vocabulary.pad)
    fresh_rollouts = backend.rollout(state, jax.random.split(jax.random.key(0), 3)[1])
    tokens = jnp.asarray(np.asarray(fresh_rollouts.tokens).reshape(-1, LAYOUT.length))
    said = np.asarray(by_turn(LAYOUT, tokens))
    final = np.take_along_axis(log_probs(team, end.params, tokens), said, -1)[..., 0]
    np.testing.assert_allclose(rows["logp_new"].reshape(final.shape), final, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------------ exact


def test_gradients_of_sharers_add_up():
    """The gradient of a joint update is that of J in the shared parameters, and the sum of those of the sequential ones."""
    params = params_of(TEAM)
    whole = jax.jit(jax.grad(lambda p: en.exact_objective(world_of(TEAM), p)))(params)
    (_, first), (_, third) = (en.policy_gradient(world_of(TEAM), params, k) for k in (0, 2))
    _, joint = en.policy_gradient(world_of(team_of("joint")), params, 2)
    expected = jax.tree.map(lambda x: x[0], whole)
    added = jax.tree.map(jnp.add, first, third)
    for x, y, z, w in zip(*map(jax.tree.leaves, (joint, expected, added, first)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(z, y, rtol=1e-3, atol=1e-7)
        assert abs(w - y).max() > 1e-4


def test_the_report_of_a_chain_of_sharers():
    """It is that of the same tree with the two sharers as one agent; S7 holds with K over the messages of both."""
    world = world_of(TEAM)
    states = [params_of(TEAM)]
    agents = [2, 1, 0]
    for k, agent in enumerate(agents):
        noise = init_team(TEAM, jax.random.key(10 + k))
        moved = jax.tree.map(lambda x, z: x + 0.3 * z, *(agent_params(TEAM, p, agent) for p in (states[-1], noise)))
        states.append(with_agent_params(TEAM, states[-1], agent, moved))
    chain = en.chain_policies(world, states, agents)
    np.testing.assert_allclose(chain[-1], en.enumerated_policy(world, states[-1]), atol=1e-6)
    found = en.chain_report(world.team, chain, jnp.asarray(TEAM.who.moves[agents]))
    one = replace(world.team, active=jnp.asarray(GROUPS)[world.team.active], agents=2)
    expected = en.chain_report(one, chain, jnp.asarray(GROUPS)[jnp.asarray(agents)])
    for name in ("gap_fresh", "gap_cached", "kl", "kl_stale", "share", "tv", "surrogate_intermediate", "later_turns"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-14, err_msg=name)
    assert found.share[0] == pytest.approx(2 / 3)
    # by hand: K of the first update, over every state of both sharers
    before, after, m = np.asarray(chain[0]), np.asarray(chain[1]), np.asarray(found.visits[0])
    theirs = np.isin(np.asarray(world.team.active), (0, 2))
    kl = (before * np.log(before / after)).sum(-1)
    assert found.kl[0] == pytest.approx((m * kl)[theirs].sum(), rel=1e-9)
    assert found.kl[0] > (m * kl)[np.asarray(world.team.active) == 2].sum() * 1.1
    assert (abs(found.gap_fresh) <= found.return_range * found.kl).all()
    with pytest.raises(
        InputError, match=r"^agents: found shape \[3, 2\], bool, expected \[n\], or in a turn-taking team"
    ):
        en.chain_report(world.team, chain, jnp.ones((3, 2), bool))
    backend = language_backend(APART, Ones(), SETTINGS, SAMPLING, audit=en.network_audit(world))
    start = init_train_state(APART, params_of(APART), SETTINGS)
    wrong = r"^sharing of the backend: found an update of agent 2 that moves \[2\], expected \[0, 2\]"
    with pytest.raises(InputError, match=wrong):
        run_stage(backend, start, [2, 1, 0], once, jax.random.key(0))


def test_warm_start_loss_of_sharers():
    """One loss for each set of parameters: the mean over the text of all who play with it."""
    params = params_of(TEAM)
    tokens, speaker = np.full((1, LAYOUT.length), 0, np.int32), np.arange(6)[None] % 3
    for turn in range(6):
        tokens[0, LAYOUT.start(turn)] = LAYOUT.vocabulary.header(turn % 3)
        tokens[0, LAYOUT.start(turn) + 1] = turn % 2
    said = np.take_along_axis(log_probs(TEAM, params, jnp.asarray(tokens)), tokens[:, 2::2, None], -1)[0, :, 0]
    for place, turns in ((0, [0, 2, 3, 5]), (1, [1, 4])):
        own = jax.tree.map(lambda x, place=place: x[place], params)
        found = LOSS(TEAM, place, own, place, jnp.asarray(tokens), TEAM.place(jnp.asarray(speaker)))
        assert float(found) == pytest.approx(-said[turns].mean(), rel=1e-5)


def test_settings_of_training(tmp_path):
    """`train --sharers`: one set of rollouts for each update, the stage's budget divided among them; described, or refused."""
    joint, apart = (
        set_up(Train(tmp_path, prompts=64, group=8, test_prompts=8, probe_prompts=0, **more))
        for more in ({"sharers": (0, 0, 1), "updates": "joint"}, {})
    )
    assert joint.team.who == Sharing((0, 0, 1), "joint")
    assert (joint.budget, joint.sampling.rows) == (apart.budget, apart.sampling.rows * 3 // 2) == (3 * 512, 768)
    assert team_from_description(describe_team(joint.team)) == joint.team
    assert "sharing" not in describe_team(apart.team)
    for wrong, expected in (
        ({"sharers": (0, 2, 1)}, r"^sharers: found \[0, 2, 1\]"),
        ({"updates": "all"}, "^updates: found 'all', expected sequential or joint"),
        ({"sharers": (0, 0)}, r"^sharing: found 2 agents, \[0, 0\], expected 3"),
        ({"sharers": (0, 0, 0), "method": "lone"}, "^sharing: found 3 agents"),
    ):
        with pytest.raises(InputError, match=expected):
            set_up(Train(tmp_path, **wrong))


def test_the_loss_of_sharers():
    """`β Σ KL` over the messages of both, `Σ (ρ − 1) A` over those of the agent alone, each a sum over a rollout."""
    compiled, traced = parts(replace(SETTINGS, clip_low=50.0, clip_high=50.0))
    old, new = (agent_params(TEAM, params_of(TEAM, seed), 0) for seed in (0, 1))
    tokens, speaker = demonstrated()
    rows = len(tokens)
    own, credited = (
        own_tokens(LAYOUT, tokens, speaker, jnp.asarray(some)) for some in ([True, False, True], [False, False, True])
    )
    policy, target = layout_policy(SMALL, LAYOUT, old), layout_policy(SMALL, LAYOUT, new)
    leaves = policy.leaves(policy.start)
    current, head = jax.jit(policy.features)(leaves, tokens), policy.head(leaves)
    advantage, weight = jnp.linspace(-1.0, 2.0, rows), jnp.linspace(0.5, 1.5, rows)
    chunk = _Chunk(
        tokens, by_turn(LAYOUT, tokens), own, current, advantage, weight, own.any(-1) / rows, credited.any(-1) / rows
    )
    given = Given(policy, compiled, traced, jnp.float32(0.7), None)
    found, seen = jax.jit(lambda *x: _loss(given, *x))(head, policy.leaves(target.start), chunk)
    both = [jnp.stack([x, x]) for x in jax.tree.leaves(old)], [jnp.stack([x, x]) for x in jax.tree.leaves(new)]
    p, q = (log_probs(TEAM, jax.tree.unflatten(jax.tree.structure(old), x), tokens) for x in both)
    kl = (np.exp(p) * (p - q)).sum(-1)
    ratio = np.exp(np.take_along_axis(q - p, np.asarray(by_turn(LAYOUT, tokens)), -1)[..., 0])
    gain = (ratio - 1) * np.asarray(advantage)[:, None]
    shared, w = [0, 2, 3, 5], np.asarray(weight)
    expected = 0.7 * (w * kl[:, shared].sum(1)).mean() - (w * gain[:, [2, 5]].sum(1)).mean()
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert float(seen.monitor) == pytest.approx((w[:, None] * kl[:, shared]).sum(), rel=1e-4)
    assert float(seen.messages) == pytest.approx(4 * w.sum(), rel=1e-6)


def demonstrated():
    """Four conversations that differ, and who speaks."""
    tokens, speaker = np.full((4, LAYOUT.length), 0, np.int32), np.arange(6)[None].repeat(4, 0) % 3
    tokens[:, 0] = LAYOUT.encode_prompts(["?"])[0]
    for turn in range(6):
        tokens[:, LAYOUT.start(turn)] = LAYOUT.vocabulary.header(turn % 3)
        tokens[:, LAYOUT.start(turn) + 1] = (np.arange(4) + turn) % 2
    return jnp.asarray(tokens), jnp.asarray(speaker.astype(np.int32))


@pytest.mark.parametrize("team", [TEAM, UNLIKE], ids=["alike", "unlike"])
def test_steps_of_the_warm_start(team):
    """Both sharers learn from the text of both: the loss of a set before its step, and an update of all sets."""
    tokens, speaker = demonstrated()
    params = params_of(team)
    memory = _each(team, _optimiser(0.01).init, params)
    begin = _Learned(params, memory, jnp.zeros(2, jnp.float32))
    end = _steps(team, 0.01, begin, _Batch(tokens[None], speaker[None]), jnp.asarray(1), jnp.float32(0.0))
    said = np.take_along_axis(log_probs(team, params, tokens), np.asarray(by_turn(LAYOUT, tokens)), -1)[..., 0]
    for place, turns in ((0, [0, 2, 3, 5]), (1, [1, 4])):
        assert float(end.loss[place]) == pytest.approx(-said[:, turns].mean(), rel=1e-5)
    for agent in range(3):
        pairs = zip(*(jax.tree.leaves(agent_params(team, p, agent)) for p in (params, end.params)), strict=True)
        assert any((x != y).any() for x, y in pairs)


def test_old_rollouts_are_scored_by_all_sharers():
    """`current` of rollouts that another team wrote: log π now of both sharers, whose parameters have moved."""
    backend = language_backend(TEAM, Ones(), SETTINGS, SAMPLING)
    state = init_train_state(TEAM, params_of(TEAM), SETTINGS)
    rollouts = backend.rollout(state, jax.random.key(0))
    moved = state._replace(params=params_of(TEAM, 5))
    found = backend.estimate(moved, rollouts, 0, once).current
    tokens = jnp.asarray(np.asarray(rollouts.tokens).reshape(-1, LAYOUT.length))
    said = np.asarray(by_turn(LAYOUT, tokens))
    expected = np.take_along_axis(log_probs(TEAM, moved.params, tokens), said, -1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
