"""One agent of a transformer team replaced: directly, aligned (U3), from a checkpoint; booked exactly and by samples."""

import functools
import json
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from teamtr_jax.chain_audit import OPTIONS
from teamtr_jax.checkpoint import save
from teamtr_jax.finite_sample import finite_sample_certificate
from teamtr_jax.llm.alignment import AlignmentSettings, align, targets
from teamtr_jax.llm.description import describe_team, team_from_description
from teamtr_jax.llm.enumeration import enumerate_team
from teamtr_jax.llm.layout import Layout, Router, Vocabulary, messages, round_robin
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, agent_params, init_params, init_team, policy_logits
from teamtr_jax.llm.replacement import agent_from_checkpoint, replace_agent, sampled_swap, swap_report
from teamtr_jax.llm.sampler import sample
from teamtr_jax.llm.warm_start import demonstration_loss
from teamtr_jax.training import train
from teamtr_jax.validation import InputError

VOCABULARY = Vocabulary("ab", agents=2)
LAYOUT = Layout(VOCABULARY, prompt=1, message=2, turns=3, router=round_robin(2))  # agent 0 speaks first and last
SMALL, OTHER = ModelConfig(16, 1, 2), ModelConfig(24, 1, 2)
TEAM = LanguageTeam(LAYOUT, (SMALL, SMALL))
PROMPTS = ["a", "b"]
RADIUS = 0.05
SETTINGS = AlignmentSettings(radius=RADIUS)
SHORT = AlignmentSettings(radius=RADIUS, epochs=1, batch=20, held_out=0.5)
ROWS = 256


class State(NamedTuple):
    """What a trainer saves."""

    params: Any
    optimiser: Any
    key: Any


def reward(tokens):
    """The share of messages that repeat the prompt."""
    said = messages(LAYOUT, tokens)
    prompts = [VOCABULARY.decode(row[:1]) for row in np.asarray(tokens)]
    return np.array([np.mean([text == prompt for text in texts]) for prompt, texts in zip(prompts, said, strict=True)])


@functools.cache
def trained():
    """A team that repeats the prompt more often than not."""
    demo = PROMPTS * 4
    speaker = np.tile(np.array([0, 1, 0], np.int32), (len(demo), 1))
    tokens = jnp.asarray(LAYOUT.encode_transcripts(demo, [[text] * 3 for text in demo], speaker))
    adam = optax.adam(1e-2)

    def loss(params):
        one = jax.vmap(lambda own, i: demonstration_loss(TEAM, 0, own, i, tokens, jnp.asarray(speaker)))
        return one(params, jnp.arange(2)).sum()

    def step(state, _):
        params, memory = state
        change, memory = adam.update(jax.grad(loss)(params), memory)
        return (optax.apply_updates(params, change), memory), None

    params = init_team(TEAM, jax.random.key(0))
    run = jax.jit(lambda p: jax.lax.scan(step, (p, adam.init(p)), None, length=20)[0][0], compiler_options=OPTIONS)
    return run(params)


@functools.cache
def newcomer(lora=0):
    config = OTHER if not lora else ModelConfig(24, 1, 2, lora_rank=lora)
    return config, init_params(config, LAYOUT, jax.random.key(5))


@functools.cache
def conversations(seed):
    return sample(TEAM, trained(), jnp.asarray(LAYOUT.encode_prompts(PROMPTS * (ROWS // 2))), jax.random.key(seed))


@functools.cache
def aligned():
    return align(TEAM, trained(), 0, *newcomer(), conversations(1), SETTINGS)


@functools.cache
def enumerated():
    return enumerate_team(TEAM, trained(), PROMPTS, reward)


@functools.cache
def swapped():
    """Exact reports: directly, aligned, halfway to the newcomer."""
    world, before = enumerated()
    out = SimpleNamespace()
    for name, own in (("direct", newcomer()[1]), ("aligned", aligned()[0])):
        after = enumerate_team(*replace_agent(TEAM, trained(), 0, OTHER, own), PROMPTS, reward)[1]
        setattr(out, name, swap_report(world, before, after, 0))
        if name == "direct":
            out.half = swap_report(world, before, (before + after) / 2, 0)
    return out


def bits(tree):
    return [(x.dtype, x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


# -------------------------------------------------------------------------------------------------------------- replacement


def test_stacked_to_tuple_to_stacked():
    """Another size makes a tuple, the old size a stack again; the other agent keeps every bit, and so does the newcomer."""
    params, (config, own) = trained(), newcomer()
    mixed, each = replace_agent(TEAM, params, 0, config, own)
    assert isinstance(each, tuple)
    assert mixed.models == (OTHER, SMALL)
    assert bits(each[0]) == bits(own)
    assert bits(each[1]) == bits(agent_params(TEAM, params, 1))
    back, stacked = replace_agent(mixed, each, 0, SMALL, agent_params(TEAM, params, 0))
    assert back == TEAM
    assert bits(stacked) == bits(params)
    same = init_params(SMALL, LAYOUT, jax.random.key(7))
    team, params_same = replace_agent(TEAM, params, 1, SMALL, same)
    assert team == TEAM
    assert bits(agent_params(team, params_same, 1)) == bits(same)
    assert bits(agent_params(team, params_same, 0)) == bits(agent_params(TEAM, params, 0))
    third = replace_agent(mixed, each, 1, *newcomer(lora=8))
    assert isinstance(third[1], tuple)
    assert bits(third[1][0]) == bits(own)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (Vocabulary("ba", 2), "characters 'ba', expected 'ab'"),
        (Vocabulary("ab", 2, ends=False), "no END, expected END as id 0"),
        (Vocabulary("ab", 2, prompt_only="+"), r"prompt_only '\+', expected ''"),
        (Vocabulary("ab", 3), "header ids 3–5 of 3 agents, expected 3–4 of 2"),
    ],
)
def test_another_tokenizer_is_refused(vocabulary, message):
    config, own = newcomer()
    with pytest.raises(InputError, match=f"vocabulary of the newcomer: found {message}"):
        replace_agent(TEAM, trained(), 0, config, own, vocabulary)


def test_other_parameters_are_refused():
    config, own = newcomer()
    params = trained()
    big = {**own, "embedding": jnp.zeros((9, 24), jnp.float32)}
    with pytest.raises(
        InputError, match="embedding of the newcomer: found 9 ids, expected 6, the size of the team's vocabulary"
    ):
        replace_agent(TEAM, params, 0, config, big)
    with pytest.raises(InputError, match="parameters of the newcomer: tree"):
        replace_agent(TEAM, params, 0, SMALL, own)
    with pytest.raises(InputError, match="agent: found 2, expected an integer from 0 to 1"):
        replace_agent(TEAM, params, 2, config, own)
    with pytest.raises(InputError, match="embedding of the newcomer: found 9 ids"):
        align(TEAM, params, 0, config, big, conversations(1), SETTINGS)


@pytest.mark.parametrize("alike", [True, False])
def test_an_agent_from_a_checkpoint(tmp_path, alike):
    """Of the parameters alone, and of a run whose state holds more than them; another tokenizer is refused from the manifest."""
    team, params = (TEAM, trained()) if alike else replace_agent(TEAM, trained(), 0, *newcomer())
    about = {"team": describe_team(team)}
    save(tmp_path / "plain", 3, params, about)
    state = State(params, optax.adam(1.0).init(params), jax.random.key(1))
    train(lambda s, key, k: (s, []), state, 1, jax.random.key(0), tmp_path / "run", about, progress=False)
    for folder in ("plain", "run"):
        for agent in range(2):
            found = agent_from_checkpoint(tmp_path / folder, agent, VOCABULARY)
            assert found.config == team.models[agent]
            assert found.vocabulary == VOCABULARY
            assert bits(found.params) == bits(agent_params(team, params, agent))
    new, moved = replace_agent(TEAM, trained(), 1, *found)
    assert new == TEAM
    assert bits(moved) == bits(trained())
    with pytest.raises(InputError, match=r"vocabulary of .*plain: found characters 'ab', expected 'abc'"):
        agent_from_checkpoint(tmp_path / "plain", 0, Vocabulary("abc", 2))
    with pytest.raises(InputError, match=r"agent of .*plain: found 5, expected an integer from 0 to 1"):
        agent_from_checkpoint(tmp_path / "plain", 5)
    save(tmp_path / "none", 0, params)
    with pytest.raises(InputError, match="no description of a team"):
        agent_from_checkpoint(tmp_path / "none", 0)
    wrong = describe_team(LanguageTeam(LAYOUT, (ModelConfig(8, 1, 1), ModelConfig(8, 1, 1))))
    save(tmp_path / "wrong", 0, params, {"team": wrong})
    with pytest.raises(InputError, match="wrong: "):
        agent_from_checkpoint(tmp_path / "wrong", 0)
    save(tmp_path / "other", 0, {"x": jnp.ones(2)}, about)
    with pytest.raises(InputError, match="expected parameters of a team"):
        agent_from_checkpoint(tmp_path / "other", 0)


def test_description():
    """JSON and back; routers by name, one's own by argument."""
    layout = Layout(Vocabulary("01", 2, "+", False), 3, 2, 4, round_robin(2), (1, 2), 0.5)
    team = LanguageTeam(layout, (SMALL, ModelConfig(8, 1, 1, lora_rank=2)))
    about = json.loads(json.dumps(describe_team(team)))
    assert team_from_description(about) == team
    mine = Router("mine", lambda view: jnp.full((*view.last.shape, 2), 0.5))
    about["layout"]["router"] = "mine"
    with pytest.raises(InputError, match="router: found 'mine'"):
        team_from_description(about)
    assert team_from_description(about, mine).layout.router is mine
    with pytest.raises(InputError, match="router: found 'round robin of 2', expected 'mine'"):
        team_from_description(about, round_robin(2))
    with pytest.raises(InputError, match="models: rank: found an unknown key"):
        team_from_description({**about, "models": [{"rank": 1}]}, mine)
    with pytest.raises(InputError, match="layout: caps: found missing"):
        team_from_description(
            {**about, "layout": {"router": "mine"} | dict.fromkeys(("prompt", "message", "turns"), 1)}, mine
        )


# ---------------------------------------------------------------------------------------------------------------- alignment


@pytest.mark.parametrize("direction", ["current_to_new", "new_to_current"])
def test_targets(direction):
    """One `t` for all contexts, the mixture of U3 for this direction, its KL the radius; unweighted contexts get the same `t`."""
    rng = np.random.default_rng(0)
    shape = (ROWS, LAYOUT.turns, LAYOUT.message)
    out, new = (np.log(rng.dirichlet(np.ones(VOCABULARY.actions), shape)) for _ in range(2))
    weight = rng.random(shape) * (rng.random(shape) < 0.6) / 50
    got, t = targets(out, new, weight, 0.3, direction)
    if direction == "current_to_new":
        expected, first, second = (1 - t) * np.exp(new) + t * np.exp(out), out, got
    else:
        expected, first, second = np.exp((1 - t) * new + t * out), got, out
        expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(np.exp(got), expected, rtol=1e-12)
    assert 0 < t < 1
    np.testing.assert_allclose((weight * (np.exp(first) * (first - second)).sum(-1)).sum(), 0.3, rtol=1e-10)
    whole, none = targets(out, new, weight, 1e3, direction)
    assert none == 0
    np.testing.assert_allclose(whole, new, atol=1e-12)


def test_alignment_ends_inside_the_ball():
    own, info = aligned()
    np.testing.assert_allclose(info.target.kl, SETTINGS.margin * RADIUS, rtol=1e-9)
    assert info.inside
    worst = max(info.after.kl, info.after.held_out_kl)
    assert worst <= RADIUS < min(info.before.kl, info.before.held_out_kl)
    assert 0 < info.epochs == len(info.history) < SETTINGS.epochs
    assert info.history[-1] == pytest.approx(worst, rel=1e-3)
    assert all(kl > RADIUS for kl in info.history[:-1])  # no closer than it has to be
    assert info.conversations == (205, 51)
    assert info.steps == info.epochs * 4
    assert jax.tree.structure(own) == jax.tree.structure(newcomer()[1])


def test_a_newcomer_that_is_close_enough_is_left_alone():
    wide = AlignmentSettings(radius=1e3)
    own, info = align(TEAM, trained(), 0, *newcomer(), conversations(1), wide)
    assert bits(own) == bits(newcomer()[1])
    assert (info.steps, info.mixture, info.inside) == (0, 0.0, True)
    assert info.before == info.after


def test_out_of_reach():
    """A radius that the network does not reach: the best parameters met, and `inside` says so."""
    _, info = align(TEAM, trained(), 0, *newcomer(), conversations(1), AlignmentSettings(radius=1e-7))
    assert not info.inside
    assert info.epochs == SETTINGS.epochs
    assert max(info.after.kl, info.after.held_out_kl) == pytest.approx(min(info.history), rel=1e-2)
    assert info.after.held_out_kl < 0.01 * info.before.held_out_kl


def test_the_other_direction_and_adapters():
    """Geometric targets bound KL(aligned‖outgoing); of a newcomer with adapters only those move."""
    config, own = newcomer(lora=8)
    settings = AlignmentSettings(radius=0.5, direction="new_to_current", epochs=200, learning_rate=1e-2)
    got, info = align(TEAM, trained(), 1, config, own, conversations(1), settings)
    np.testing.assert_allclose(info.target.kl_new_to_current, settings.margin * settings.radius, rtol=1e-9)
    assert info.inside
    worst = max(info.after.kl_new_to_current, info.after.held_out_kl_new_to_current)
    assert info.history[-1] == pytest.approx(worst, rel=1e-3)
    assert worst <= settings.radius < info.before.held_out_kl_new_to_current
    (old_leaves, _), (new_leaves, _) = (jax.tree_util.tree_flatten_with_path(x) for x in (own, got))
    for (path, old), (_, new) in zip(old_leaves, new_leaves, strict=True):
        if "lora_" not in jax.tree_util.keystr(path):
            assert bits(old) == bits(new)
    assert bits(own) != bits(got)


def test_settings_and_probes_are_checked():
    for bad in (
        {"radius": 0.0},
        {"radius": np.inf},
        {"radius": np.nan},
        {"margin": 0.0},
        {"margin": np.nan},
        {"epochs": -1},
        {"epochs": 10**9},
        {"batch": 0},
        {"batch": 2.5},
        {"learning_rate": np.nan},
        {"held_out": 1.0},
        {"direction": "both"},
    ):
        with pytest.raises(InputError, match=f"{next(iter(bad))}: found"):
            AlignmentSettings(**bad)
    for seed in (-1, 2**70):
        with pytest.raises(InputError, match="seed: found"):
            align(TEAM, trained(), 0, *newcomer(), conversations(1), SETTINGS, seed=seed)
    probes = conversations(1)
    silent = probes._replace(speaker=jnp.ones_like(probes.speaker))
    with pytest.raises(InputError, match="probes: found no message of agent 0"):
        align(TEAM, trained(), 0, *newcomer(), silent, SETTINGS)
    one = jax.tree.map(lambda x: x[:1], probes)
    with pytest.raises(InputError, match="probes: found 1 conversations"):
        align(TEAM, trained(), 0, *newcomer(), one, SETTINGS)


# ------------------------------------------------------------------------------------------------------------- certificates


def test_the_swap_booked_exactly():
    """P3.8 for both newcomers, and every other rung; alignment makes `δ` and the shock smaller; J is that of the new team."""
    found = swapped()
    for one in (found.direct, found.aligned):
        assert one["violations"] == 0
        assert abs(one["gap_fresh"]) <= one["penalty_paper"]
        assert one["certificate_paper"] <= one["improvement"]
        assert one["certificate_estimable"] <= one["certificate"] <= one["improvement"]
        assert one["improvement"] == pytest.approx(one["objective_after"] - one["objective_before"], abs=1e-12)
        assert np.isfinite(one["kl"])
    assert found.direct["objective_before"] > 0.5
    assert found.aligned["kl"] < 0.1 * found.direct["kl"]
    assert 0 < abs(found.aligned["shock"]) < 0.1 * found.direct["shock"]
    assert found.aligned["certificate_estimable"] > found.direct["certificate_estimable"]


def test_halfway_to_the_newcomer():
    """P3.9: at most half the KL and half of S7's penalty, half the surrogate."""
    found = swapped()
    assert found.half["kl"] <= found.direct["kl"] / 2
    assert found.half["penalty_log_sum"] <= found.direct["penalty_log_sum"] / 2
    assert found.half["surrogate_intermediate"] == pytest.approx(found.direct["surrogate_intermediate"] / 2, rel=1e-12)


def test_a_newcomer_that_drops_a_token():
    """No softmax does; a table does. `δ` and S7 are infinite, what is capped stays finite, nothing is violated."""
    world, before = enumerated()
    own = np.asarray(world.active) == 0
    dropped = np.asarray(before).copy()
    dropped[own] = [0.0, 0.5, 0.5]
    found = swap_report(world, before, jnp.asarray(dropped), 0)
    assert found["kl"] == found["penalty_log_sum"] == np.inf
    assert found["certificate_estimable"] == -np.inf
    assert np.isfinite([found["penalty_paper"], found["penalty_trivial"], found["certificate"]]).all()
    assert found["violations"] == 0


def test_rows_of_others_are_refused():
    world, before = enumerated()
    mine = np.flatnonzero(np.asarray(world.active) == 1)[0]
    with pytest.raises(InputError, match="rows of others that differ"):
        swap_report(world, before, before.at[mine].set(before[mine, ::-1] + 0.01), 0)
    with pytest.raises(InputError, match="agent: found 2"):
        swap_report(world, before, before, 2)


def test_the_swap_booked_by_samples():
    """Fresh conversations: means within 5 standard errors of the exact numbers (one false alarm in 10⁶), limits below them."""
    fresh = conversations(2)
    score = reward(fresh.tokens)
    exact = swapped().aligned
    got = sampled_swap(TEAM, trained(), 0, OTHER, aligned()[0], fresh, score)
    pairs = [(got.kl, "kl"), (got.kl_k1, "kl"), (got.kl_k3, "kl"), (got.kl_new_to_current, "kl_reverse"),
             (got.surrogate, "surrogate_intermediate"), (got.certificate, "certificate_estimable")]  # fmt: skip
    for mean, name in pairs:
        assert abs(mean.value - exact[name]) < 5 * mean.error, name
    assert got.kl.error < got.kl_k1.error
    assert got.limit.lower <= exact["improvement"]
    alone = sampled_swap(TEAM, trained(), 0, OTHER, aligned()[0], fresh)
    assert alone.kl == got.kl
    assert alone.surrogate is alone.certificate is alone.limit is None
    with pytest.raises(InputError, match="reward"):
        sampled_swap(TEAM, trained(), 0, OTHER, aligned()[0], fresh, score[:-1])
    grouped = sampled_swap(TEAM, trained(), 0, OTHER, aligned()[0], fresh, score.reshape(-1, 2))
    assert grouped.kl.value == pytest.approx(got.kl.value)


# ------------------------------------------------------------------------------------------------------------------ by hand


def spoken(agent, probes):
    """``(row, position)`` of each token of `agent`, from the definition of a transcript."""
    tokens, speaker = np.asarray(probes.tokens), np.asarray(probes.speaker)
    turns = [(row, turn) for row in range(len(tokens)) for turn in range(LAYOUT.turns) if speaker[row, turn] == agent]
    first = {turn: LAYOUT.prompt + turn * (1 + LAYOUT.message) + 1 for turn in range(LAYOUT.turns)}
    return [(row, p) for row, turn in turns for p in range(first[turn], first[turn] + LAYOUT.message)
            if tokens[row, p] != VOCABULARY.pad]  # fmt: skip


_tables = jax.jit(policy_logits, static_argnums=(0, 1))


def both(agent, probes, own):
    """log π of the outgoing agent and of the newcomer at each of its tokens, in float64, and the tokens."""
    at, tokens = spoken(agent, probes), np.asarray(probes.tokens)
    rows, positions = map(np.array, zip(*at, strict=True))
    out = []
    for config, params in ((SMALL, agent_params(TEAM, trained(), agent)), (OTHER, own)):
        logits = np.asarray(_tables(config, LAYOUT, params, jnp.asarray(tokens)), np.float64)[rows, positions - 1]
        out.append(logits - np.logaddexp.reduce(logits, -1, keepdims=True))
    return rows, tokens[rows, positions], *out


def test_what_alignment_sees():
    """Contexts of the agent in the probes that train; distances by plain sums over its tokens, both parts, both directions."""
    own, info = aligned()
    probes = conversations(1)
    at = spoken(0, probes)
    train = [(row, p) for row, p in at if row < 205]
    assert info.contexts == len(train)
    assert 205 * 2 <= len(train) < 205 * 4  # it speaks twice; some messages end early
    for which, found in ((newcomer()[1], info.before), (own, info.after)):
        rows, _, p, q = both(0, probes, which)
        forward, backward = (np.exp(p) * (p - q)).sum(-1), (np.exp(q) * (q - p)).sum(-1)
        hand = [x[part].sum() / n for part, n in ((rows < 205, 205), (rows >= 205, 51)) for x in (forward, backward)]
        np.testing.assert_allclose(found, hand, rtol=1e-4)


def test_held_out_probes_only_measure():
    """Other conversations in their place change what is reported of them, and no parameter."""
    first, second = conversations(1), conversations(2)
    mixed = jax.tree.map(lambda x, y: jnp.concatenate([x[:128], y[128:]]), first, second)
    (one, a), (two, b) = (align(TEAM, trained(), 0, *newcomer(), probes, SHORT) for probes in (first, mixed))
    assert (a.conversations, a.steps) == ((128, 128), 128 // 20)
    assert bits(one) == bits(two)
    assert bits(one) != bits(newcomer()[1])
    assert a.after.kl == b.after.kl
    assert a.after.held_out_kl != b.after.held_out_kl
    assert a.contexts == b.contexts


def test_the_seed_is_that_of_the_order_of_probes():
    """Two seeds visit the probes in two orders; one seed, one result."""
    one, again, other = (
        align(TEAM, trained(), 0, *newcomer(), conversations(1), SHORT, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert bits(one) == bits(again) != bits(other)


def test_an_alignment_that_is_not_a_number_ends():
    config, own = newcomer()
    broken = {**own, "embedding": own["embedding"].at[0].set(jnp.nan)}
    with pytest.raises(ArithmeticError, match="alignment of agent 0: the KL to the newcomer is not a number"):
        align(TEAM, trained(), 0, config, broken, conversations(1), SETTINGS)


@pytest.mark.parametrize("group", [1, 4])
def test_the_certificates_of_a_swap_by_hand(group):
    """KL, k1, k3, surrogate, `L − δ` and the S8 limit, by plain sums over tokens; G = 1: the other prompts are the baseline."""
    probes, own = conversations(2), newcomer()[1]
    score = reward(probes.tokens).reshape(-1, group)
    got = sampled_swap(TEAM, trained(), 0, OTHER, own, probes, score if group > 1 else score[:, 0], alpha=0.2)
    rows, said, p, q = both(0, probes, own)
    d = np.take_along_axis(q - p, said[:, None], 1)[:, 0]

    def total(x):
        return np.bincount(rows, x, ROWS)

    spent = total((np.exp(p) * (p - q)).sum(-1))
    ratio = total(np.expm1(d))
    flat = score.ravel()
    if group == 1:
        baseline = np.array([np.delete(flat, i).mean() for i in range(ROWS)])
    else:
        baseline = np.array([np.delete(score[i // group], i % group).mean() for i in range(ROWS)])
    gain = (flat - baseline) * ratio
    hand = {
        "kl": spent, "kl_k1": total(-d), "kl_k3": total(np.expm1(d) - d),
        "kl_new_to_current": total((np.exp(q) * (q - p)).sum(-1)), "surrogate": gain, "certificate": gain - spent,
    }  # fmt: skip
    for name, x in hand.items():
        each = x.reshape(-1, group).mean(1)
        found = getattr(got, name)
        error = each.std(ddof=1) / len(each) ** 0.5
        half = stats.t.ppf(0.9, len(each) - 1) * error
        np.testing.assert_allclose(
            found[:4], (each.mean(), each.mean() - half, each.mean() + half, error), rtol=2e-3, atol=2e-4, err_msg=name
        )
        assert found.n == len(each)
    assert got.tokens == len(rows) / ROWS
    limit = finite_sample_certificate(score, total(d).reshape(*score.shape, 1), alpha=0.2)
    assert got.limit is not None
    assert got.limit.lower == pytest.approx(limit.lower, abs=1e-4)
    assert (got.limit.prompts, got.limit.rollouts, got.limit.alpha) == (ROWS // group, ROWS, 0.2)


def test_rewards_of_a_swap_are_checked():
    probes, own = conversations(2), newcomer()[1]
    score = reward(probes.tokens)
    for bad in (score * 2, score - 1, np.full(ROWS, np.nan)):
        with pytest.raises(InputError, match="reward"):
            sampled_swap(TEAM, trained(), 0, OTHER, own, probes, bad)
    for alpha in (0.0, 1.0, np.nan):
        with pytest.raises(InputError, match="alpha"):
            sampled_swap(TEAM, trained(), 0, OTHER, own, probes, score, alpha=alpha)


@pytest.mark.parametrize(("scale", "shift", "span"), [(2.0, 0.0, 2.0), (2.0, -1.0, 2.0), (0.5, 3.0, 0.5)])
def test_exact_certificates_scale_with_the_range_of_the_reward(scale, shift, span):
    """Rewards in [0, 2], [−1, 1], [3, 3.5]: surrogate, S7's penalty and the certificate scale; the KL does not."""
    _, before = enumerated()
    after = enumerate_team(*replace_agent(TEAM, trained(), 0, *newcomer()), PROMPTS, reward)[1]
    other, _ = enumerate_team(TEAM, trained(), PROMPTS, lambda tokens: scale * reward(tokens) + shift)
    found, unit = swap_report(other, before, after, 0), swapped().direct
    assert found["kl"] == pytest.approx(unit["kl"], rel=1e-12)
    for name in ("surrogate_intermediate", "improvement", "penalty_log_sum", "certificate_estimable", "certificate"):
        assert found[name] == pytest.approx(scale * unit[name], rel=1e-9), name
    assert found["certificate_estimable"] == pytest.approx(
        found["surrogate_intermediate"] - span * found["kl"], rel=1e-9
    )
    assert found["violations"] == 0
