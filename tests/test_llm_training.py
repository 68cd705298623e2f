"""Updates of networks: the program against a plain loop, what an update leaves alone, regions, certificates, learning."""

import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import ttest_ind

from teamtr_jax.finite_sample import finite_sample_certificate
from teamtr_jax.llm.ascend import optimiser_of
from teamtr_jax.llm.backend import (
    LanguageSampling,
    TokenLogger,
    collect,
    compiled_programs,
    language_backend,
    rewards_of,
)
from teamtr_jax.llm.layout import messages
from teamtr_jax.llm.methods import METHODS, lone_layout
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, agent_params, init_team, policy_logits
from teamtr_jax.llm.tasks import Problem, draw, layout_of
from teamtr_jax.llm.update import init_train_state, update_agent
from teamtr_jax.llm.update_settings import UpdateSettings, parts
from teamtr_jax.records import TOKEN_LOG_COLUMNS, dump, update_lines
from teamtr_jax.schedules import certificate_driven, fresh, greedy, importance_weighted, once, single, stale_occupancy
from teamtr_jax.stage import run_stage
from teamtr_jax.validation import InputError


@dataclass(frozen=True)
class Echo:
    """Two agents, two rounds: each is to begin its message with its character of the prompt. The share that do is the reward."""

    name = "echo"
    roles = ("first", "second")
    characters = "ab"
    prompt_only = "+"
    prompt_length = 5
    message_length = 2
    caps = None
    turns = 4

    def sample(self, rng):
        text = "".join("ab"[i] for i in rng.integers(2, size=2)) + "+" * int(rng.integers(4))
        return Problem(text, text[:2])

    def verify(self, problem, messages):
        right = [text.startswith(problem.answer[turn % 2]) for turn, text in enumerate(messages)]
        return sum(right) / self.turns

    def demonstrate(self, problem, rng):
        return [problem.answer[turn % 2] for turn in range(self.turns)]


ROOT = Path(__file__).parents[1]
TASK = Echo()
SMALL = ModelConfig(width=16, layers=1, heads=2)
TEAM = LanguageTeam(layout_of(TASK), (SMALL, SMALL))
LAYOUT = TEAM.layout
BASE = UpdateSettings(learning_rate=0.01, epochs=3, minibatch=16, micro_batch=8, delta=0.02, beta=0.5)
SAMPLING = LanguageSampling(prompts=6, group=4, held_out=2)
ROWS = SAMPLING.training


def start(team=TEAM, settings=BASE, seed=0):
    return init_train_state(team, init_team(team, jax.random.key(seed)), settings)


def backend(settings=BASE, sampling=SAMPLING, team=TEAM, task=TASK, **options):
    return language_backend(team, task, settings, sampling, **options)


def equal(x, y):
    """Whether two pytrees are the same, bit for bit."""
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def of(tree, agent, team=TEAM):
    return jax.tree.map(lambda x: x[agent], tree) if team.alike else tree[agent]


@pytest.fixture(scope="module")
def first():
    """A state, its rollouts, and an update of agent 1 from them."""
    state, the = start(), backend()
    rollouts = the.rollout(state, jax.random.key(3))
    found = the.estimate(state, rollouts, 1, fresh)
    after, info = the.update(state, found, 1)
    return state, rollouts, found, after, info


# ------------------------------------------------------------------------------------------------------------- plain loops


def plain_rows(rollouts, agent, team=TEAM):
    """For each rollout the list of the agent's messages, each a list of ``(position, token)``."""
    layout = team.layout
    tokens = np.asarray(rollouts.tokens).reshape(-1, layout.length)
    speaker = np.asarray(rollouts.speaker).reshape(len(tokens), -1)
    out = []
    for row, who in zip(tokens, speaker, strict=True):
        said = []
        for turn in range(layout.turns):
            if who[turn] == agent:
                at = range(layout.start(turn) + 1, layout.start(turn) + 1 + layout.message)
                said.append([(p, int(row[p])) for p in at if row[p] != layout.vocabulary.pad])
        out.append(said)
    return out


def tables(team, params, agent, rollouts):
    """Log-probabilities ``[R, N, A]`` of one agent, teacher-forced, entry p about position p + 1; float64 of float32 logits."""
    tokens = jnp.asarray(np.asarray(rollouts.tokens).reshape(-1, team.layout.length))
    logits = np.asarray(_logits(team.models[agent], team.layout, agent_params(team, params, agent), tokens), np.float64)
    return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


_logits = jax.jit(policy_logits, static_argnums=(0, 1))


def measured(team, before, after, agent, rollouts):
    """Messages' log ratios and KLs(current‖new), a list for each rollout."""
    old, new = (tables(team, params, agent, rollouts) for params in (before, after))
    ratios, kls = [], []
    for r, said in enumerate(plain_rows(rollouts, agent, team)):
        ratios.append([sum(new[r, p - 1, a] - old[r, p - 1, a] for p, a in m) for m in said])
        kls.append([sum((np.exp(old[r, p - 1]) * (old[r, p - 1] - new[r, p - 1])).sum() for p, _ in m) for m in said])
    return ratios, kls


def centred(reward):
    reward = np.asarray(reward, np.float64)
    return (reward - reward.mean(-1, keepdims=True)) * reward.shape[-1] / (reward.shape[-1] - 1)


def test_what_an_update_reports(first):
    """KL, monitor, surrogates, shares and S7 from the parameters before and after, in plain loops and float64."""
    state, rollouts, found, after, info = first
    ratios, kls = measured(TEAM, state.params, after.params, 1, rollouts)
    ratios, kls = ratios[:ROWS], kls[:ROWS]
    advantage = centred(rollouts.reward).reshape(-1)[:ROWS]
    used = np.asarray(found.data.advantage)[:ROWS]
    flat_kl, flat_ratio = np.concatenate(kls), np.concatenate(ratios)
    linear = sum((math.exp(d) - 1) * a for ds, a in zip(ratios, advantage, strict=True) for d in ds) / ROWS
    gain = sum((math.exp(d) - 1) * a for ds, a in zip(ratios, used, strict=True) for d in ds) / ROWS
    clipped = sum(min(math.exp(d) * a, min(max(math.exp(d), 0.8), 1.2) * a) - a
                  for ds, a in zip(ratios, used, strict=True) for d in ds) / ROWS  # fmt: skip
    expected = {
        "kl": sum(map(sum, kls)) / ROWS, "message_kl": flat_kl.mean(), "monitor": flat_kl.mean(),
        "kl_k1": -sum(map(sum, ratios)) / ROWS, "message_kl_k1": -flat_ratio.mean(), "surrogate_raw": linear, "gain": gain,
        "surrogate": clipped, "certificate_estimable": linear - sum(map(sum, kls)) / ROWS,
        "outside": (flat_kl > BASE.delta).mean(), "reward": np.asarray(rollouts.reward).reshape(-1)[:ROWS].mean(),
        "multiplier": 0.5,
    }  # fmt: skip
    table = tables(TEAM, after.params, 1, rollouts)
    said = [(r, p - 1) for r, rows in enumerate(plain_rows(rollouts, 1)[:ROWS]) for m in rows for p, _ in m]
    expected["entropy"] = -np.mean([(np.exp(table[at]) * table[at]).sum() for at in said])
    moved = np.concatenate(tokens_moved(state.params, after.params, 1, rollouts))
    expected["kl_k3"] = (np.exp(moved) - 1 - moved).sum() / ROWS
    assert info["kl"] > 1e-4
    for name, value in expected.items():
        np.testing.assert_allclose(info[name], value, rtol=2e-3, atol=2e-6, err_msg=name)
    _, reverse = measured(TEAM, after.params, state.params, 1, rollouts)
    assert (
        abs(np.concatenate(reverse[:ROWS]).mean() / info["message_kl"] - 1) > 0.01
    )  # the other direction is another number


def test_finite_sample_certificate(first):
    """S8 on the held-out prompts, from plain loops; nothing where the rollouts are another team's."""
    state, rollouts, _, after, info = first
    ratios, _ = measured(TEAM, state.params, after.params, 1, rollouts)
    held_out = np.array(ratios[ROWS:]).reshape(2, 4, -1)
    expected = finite_sample_certificate(np.asarray(rollouts.reward)[-2:], held_out, alpha=0.1).lower
    assert info["certificate_finite_sample"] == pytest.approx(expected, abs=1e-5)
    sure = backend(sampling=replace(SAMPLING, alpha=0.01))
    _, at_most = sure.update(state, sure.estimate(state, rollouts, 1, fresh), 1)
    expected = finite_sample_certificate(np.asarray(rollouts.reward)[-2:], held_out, alpha=0.01).lower
    assert at_most["certificate_finite_sample"] == pytest.approx(expected, abs=1e-5)
    assert expected < info["certificate_finite_sample"]
    _, records = run_stage(backend(), state, [1, 0], once, jax.random.key(0))
    assert math.isfinite(records[0].info["certificate_finite_sample"])
    assert records[1].info["certificate_finite_sample"] == -math.inf


@pytest.mark.parametrize("kind", ["group_normalised", "batch_normalised", "centred"])
def test_updates_do_not_see_held_out_rewards(first, kind):
    """S8 asks for an agent that was trained on other data; the reward of the last two prompts changes nothing."""
    state, rollouts, *_ = first
    the = backend(replace(BASE, advantage=kind))
    seen = [the.estimate(state, rollouts._replace(reward=rollouts.reward.at[4:].set(value)), 1, fresh).data
            for value in (0.0, 1.0)]  # fmt: skip
    assert equal(*seen)
    assert (np.asarray(seen[0].advantage)[:ROWS] != 0).any()


NO_RADIUS = replace(BASE, early_stop=False, delta=1e9, adaptive=False)  # the program of `BASE`
OBJECTIVES = {
    "teamtr": replace(NO_RADIUS, beta=3.0, clip_low=0.02, clip_high=0.25),
    "grpo": replace(METHODS["grpo"].settings, learning_rate=0.01, epochs=3, minibatch=16, micro_batch=16, beta=3.0),
    "dapo": replace(METHODS["dapo"].settings, learning_rate=0.01, epochs=3, minibatch=20, micro_batch=5),
    "one_step": replace(NO_RADIUS, epochs=1, minibatch=16, beta=3.0),
    "gspo": replace(NO_RADIUS, ratio="geometric_mean", penalty="k1", monitor="k1", beta=3.0, clip_low=0.01, clip_high=0.01),
    "budget": replace(NO_RADIUS, spending="chi_square", budget=0.05, penalty="k3", monitor="k3", beta=3.0,
                      clip_low=math.inf, clip_high=math.inf),
}  # fmt: skip
PENALTIES = {  # of each token, from log-probabilities over the vocabulary and the log ratio of what was written
    "exact": lambda old, new, d: (jnp.exp(old) * (old - new)).sum(-1),
    "k1": lambda old, new, d: -d,
    "k3": lambda old, new, d: jnp.exp(d) - 1 - d,
    "k3_new_to_current": lambda old, new, d: jnp.exp(-d) - 1 + d,  # of KL(new‖current), as GRPO estimates it
}


@jax.jit
def _pulled(params, tokens, slope):
    """The gradient of `Σ slope · logits` with respect to the parameters."""
    return jax.vjp(lambda params: policy_logits(SMALL, LAYOUT, params, tokens), params)[1](slope)[0]


@jax.jit
def _adam(gradient, memory, params):
    change, memory = ADAM.update(gradient, memory, params)
    return optax.apply_updates(params, change), memory


ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.01, 0.9, 0.99, weight_decay=0.0))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_program_against_a_plain_loop(first, name):
    """Epochs of the whole batch: optax on a loss written token by token, without masks, chunks or padding.

    Against micro-batches of 8, of all 16, and of 5 with rows of filling; three epochs, and one whose forward pass serves twice.
    """
    settings = OBJECTIVES[name]
    state, rollouts, *_ = first
    the = backend(settings)
    state = state._replace(beta=jnp.full(2, settings.beta, jnp.float32))
    rollouts = rollouts._replace(reward=rollouts.reward.at[1].set(0.5))  # a prompt that teaches nothing
    found = the.estimate(state, rollouts, 1, fresh)
    after, info = the.update(state, found, 1)
    ratios, kls = (x[:ROWS] for x in measured(TEAM, state.params, after.params, 1, rollouts))
    np.testing.assert_allclose(info["kl"], sum(map(sum, kls)) / ROWS, rtol=2e-3)

    rows = plain_rows(rollouts, 1)[:ROWS]
    advantage = np.asarray(found.data.advantage)[:ROWS]
    reward = np.asarray(rollouts.reward).reshape(-1, 4)
    mixed = np.repeat(reward.max(-1) > reward.min(-1), 4)[:ROWS]
    counts = mixed if settings.drop_uniform else np.ones(ROWS, bool)
    entries = []  # row, position, token, unit, weight of the unit
    unit = -1
    for r in range(ROWS):
        units = [[t] for m in rows[r] for t in m] if settings.ratio == "token" else rows[r]
        for said in units:
            unit += 1
            weight = {"rollout": 1 / counts.sum(), "sequence": 1 / (counts.sum() * len(units)), "unit": 1.0}[
                settings.average
            ]
            entries += [(r, p, a, unit, counts[r] * weight) for p, a in said]
    r, p, a, u, w = (np.array(x) for x in zip(*entries, strict=True))
    units = np.array([np.flatnonzero(u == k)[0] for k in range(unit + 1)])
    if settings.average == "unit":
        w = w / w[units].sum()
    tokens = jnp.asarray(np.asarray(rollouts.tokens).reshape(-1, LAYOUT.length))
    begin = of(state.params, 1)

    def log_probs(logits):
        return jax.nn.log_softmax(logits)[r, p - 1]

    old = log_probs(_logits(SMALL, LAYOUT, begin, tokens))

    def loss(logits):
        new = log_probs(logits)
        d = new[np.arange(len(a)), a] - old[np.arange(len(a)), a]
        kl = PENALTIES[settings.penalty](old, new, d)
        d, kl = (jax.ops.segment_sum(x, u, unit + 1) for x in (d, kl))
        d = d / np.bincount(u) if settings.ratio == "geometric_mean" else d
        A = advantage[r[units]]
        ratio = jnp.exp(d)
        gain = jnp.minimum(ratio * A, jnp.clip(ratio, 1 - settings.clip_low, 1 + settings.clip_high) * A)
        if settings.spending == "chi_square":
            token = jax.lax.stop_gradient(jnp.exp(2 * new - old).sum(-1) - 1)
            each = jax.ops.segment_sum(token, u, unit + 1)
            upto = jnp.stack([jnp.where(r[units] == r[units][k], each, 0.0)[: k + 1].sum() for k in range(unit + 1)])
            gain = jnp.where(upto <= settings.budget, gain, 0.0)
        return (w[units] * (settings.beta * kl - gain)).sum()

    params, memory, slope, gradients = begin, ADAM.init(begin), jax.jit(jax.grad(loss)), []
    for _ in range(settings.epochs):
        gradient = _pulled(params, tokens, slope(_logits(SMALL, LAYOUT, params, tokens)))
        params, memory = _adam(gradient, memory, params)
        gradients.append(np.concatenate([np.ravel(np.asarray(x, float)) for x in jax.tree.leaves(gradient)]))
    assert info["grad_norm"] == pytest.approx(np.linalg.norm(gradients, axis=1).mean(), rel=5e-3)
    assert info["uniform_groups"] == 1 - mixed.mean() > 0
    if settings.ratio == "message":
        ratio, A = np.exp(np.concatenate(ratios)), np.repeat(advantage, [len(x) for x in ratios])
        cut = np.where(A > 0, ratio > 1 + settings.clip_high, (ratio < 1 - settings.clip_low) & (A < 0))
        assert info["clipped"] == pytest.approx(cut.mean())
        assert cut.any() or name != "teamtr"
    wanted, got, origin = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
                           for tree in (params, of(after.params, 1), begin))  # fmt: skip
    step = np.linalg.norm(wanted - origin)
    assert step > 0.03 * settings.epochs
    assert np.linalg.norm(got - wanted) < 2e-3 * step
    # A gradient below the rounding of the largest is noise, and Adam makes a step of it as of any other.
    size = np.abs(gradients)
    seen = (size >= np.finfo(np.float32).eps * size.max(1, keepdims=True)).all(0)
    assert seen.mean() > 0.99
    np.testing.assert_allclose(got[seen], wanted[seen], rtol=0, atol=2e-3 * np.abs(wanted - origin).max())


def tokens_moved(before, after, agent, rollouts):
    """Of each training message of `agent`, the log ratios of its tokens."""
    old, new = (tables(TEAM, params, agent, rollouts) for params in (before, after))
    rows = plain_rows(rollouts, agent)[:ROWS]
    return [[new[r, p - 1, a] - old[r, p - 1, a] for p, a in m] for r, said in enumerate(rows) for m in said]


MONITORS = {"k1": lambda d: -d, "k3": lambda d: math.exp(d) - 1 - d}


@pytest.mark.parametrize("name", ["gspo", "budget"])
def test_monitors_by_samples(first, name):
    """What `k1` and `k3` report, what stops an update early and what the step goes back to: by plain loops over tokens."""
    state, rollouts, *_ = first
    settings = replace(OBJECTIVES[name], learning_rate=0.02)
    kind = settings.monitor

    def done(**changed):
        the = backend(replace(settings, **changed))
        return the.update(state, the.estimate(state, rollouts, 1, fresh), 1)

    def monitor(params):
        terms = tokens_moved(state.params, params, 1, rollouts)
        return np.mean([sum(map(MONITORS[kind], m)) for m in terms])

    after, info = done()
    reached = monitor(after.params)
    assert info["monitor"] == pytest.approx(reached, rel=2e-3)
    assert info["monitor_reached"] == pytest.approx(reached, rel=2e-3)
    for name, term in MONITORS.items():
        by_hand = np.mean([sum(map(term, m)) for m in tokens_moved(state.params, after.params, 1, rollouts)])
        assert info[f"message_kl_{name}"] == pytest.approx(by_hand, rel=2e-3), name
    assert abs(info["message_kl_k1"] / info["message_kl_k3"] - 1) > 0.05  # one in the place of the other is seen
    assert abs(reached / info["message_kl"] - 1) > 0.02  # and so is the exact one
    assert reached > 0
    # A radius a hair above what is reached keeps the whole step; a hair below it, the step is halved until it is inside.
    kept, info = done(delta=1.01 * reached)
    assert equal(kept.params, after.params)
    assert info["step_scale"] == 1
    back, info = done(delta=0.99 * reached)
    scales = [2.0**-k for k in range(7)]
    inside = [
        monitor(jax.tree.map(lambda x, y, c=c: x + c * (y - x), state.params, after.params)) <= 0.99 * reached
        for c in scales
    ]
    assert info["step_scale"] == scales[inside.index(True)] < 1
    assert info["monitor"] == pytest.approx(monitor(back.params), rel=2e-3)
    # The first step's monitor, by the same rule: no further step once it exceeds the radius.
    _, info = done(delta=1e-6, early_stop=True, step_rule=settings.step_rule)
    assert info["steps"] == 1
    assert info["stopped_early"]
    assert info["monitor_reached"] > 1e-6


ON_TWO = """
import sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from tests.test_llm_training import backend, compiled_programs, importance_weighted, run_stage, start
from teamtr_jax.schedules import fresh

assert not jax.config.jax_enable_x64
state, the = start(), backend()
leaves, form = jax.tree.flatten((state, the.rollout(state, jax.random.key(3))))  # without x64 others than the given ones
types = [x.dtype for x in jax.tree.leaves(state)]
given = np.load(sys.argv[1])
state, rollouts = form.unflatten([jax.numpy.asarray(given[f"arr_{k}"], x.dtype) for k, x in enumerate(leaves)])
rollouts = rollouts._replace(source=state.params)
after, info = the.update(state, the.estimate(state, rollouts, 1, fresh), 1)
assert len(jax.devices()) == 2 and all(len(x.devices()) == 1 for x in jax.tree.leaves(after))
lower = info["certificate_finite_sample"]
np.savez(sys.argv[2], *jax.tree.leaves(after.params), kl=info["kl"], lower=lower)

for stage in range(2):
    state, records = run_stage(the, state, [0, 1], importance_weighted(), jax.random.key(stage))
assert [x.dtype for x in jax.tree.leaves(state)] == types
assert all(r.kl > 0 for r in records), records
assert compiled_programs() == {"sample": 1, "update": 1, "score": 1, "prepare": 1}, compiled_programs()
assert not jax.config.jax_enable_x64
"""


@pytest.fixture(scope="module")
def on_two(first, tmp_path_factory):
    """The same update and two stages in a process of their own: two devices, no x64, a warning is an error."""
    given, path = (tmp_path_factory.mktemp("two") / name for name in ("given.npz", "two.npz"))
    np.savez(given, *jax.tree.leaves(first[:2]))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}
    run = [sys.executable, "-W", "error", "-c", ON_TWO, str(given), str(path)]
    return subprocess.run(run, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300), path


def test_without_x64(on_two):
    """No warning, the same types of state before and after, one program of each kind."""
    done, _ = on_two
    assert done.returncode == 0, done.stderr[-2000:]


def test_rows_over_devices(first, on_two):
    """Two devices take half of every micro-batch each: the same update but for rounding. Of rollouts: test_llm_sampler.py."""
    state, _, _, after, info = first
    found = np.load(on_two[1])
    np.testing.assert_allclose(found["kl"], info["kl"], rtol=2e-3)
    np.testing.assert_allclose(found["lower"], info["certificate_finite_sample"], atol=1e-4)
    for k, (old, new) in enumerate(zip(*map(jax.tree.leaves, (state.params, after.params)), strict=True)):
        scale = np.abs(np.asarray(new - old)).max()
        np.testing.assert_allclose(found[f"arr_{k}"], new, rtol=0, atol=2e-3 * scale)


# ------------------------------------------------------------------------------------------------------ what stays the same


def test_one_update_leaves_the_others_alone(first):
    state, _, _, after, _ = first
    assert equal(of(state, 0), of(after, 0))
    assert not equal(of(state.params, 1), of(after.params, 1))
    assert not equal(of(state.optimiser, 1), of(after.optimiser, 1))


@pytest.mark.slow
def test_team_of_unlike_agents():
    """Networks of two sizes: a program each; the other agent stays, bit for bit."""
    team = LanguageTeam(LAYOUT, (SMALL, ModelConfig(width=8, layers=1, heads=2)))
    state = start(team)
    after, records = run_stage(backend(team=team), state, [1, 0], fresh, jax.random.key(0))
    middle, _ = run_stage(backend(team=team), state, single(1), fresh, jax.random.key(0))
    assert equal(middle.params[0], state.params[0])
    assert equal(middle.optimiser[0], state.optimiser[0])
    assert all(not equal(after.params[k], state.params[k]) for k in (0, 1))
    assert all(record.kl > 0 for record in records)
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.slow
def test_adapters_only():
    config = replace(SMALL, lora_rank=2)
    team = LanguageTeam(LAYOUT, (config, config))
    state = start(team)
    after, _ = run_stage(backend(team=team), state, [0, 1], fresh, jax.random.key(0))
    moved = 0
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(after.params), strict=True
    ):
        if "lora_" in jax.tree_util.keystr(path):
            moved += not equal(old, new)
        else:
            assert equal(old, new), path
    assert moved
    size = sum(
        x.size for path, x in jax.tree_util.tree_leaves_with_path(state.params) if "lora_" in jax.tree_util.keystr(path)
    )
    assert max(x.size for x in jax.tree.leaves(state.optimiser)) == size  # no moments of what is not trained


def test_same_seed_same_run(first):
    state, *_ = first
    runs = [run_stage(backend(), state, [0, 1], fresh, jax.random.key(seed)) for seed in (1, 1, 2)]
    assert equal(runs[0][0], runs[1][0])
    assert [r.info for r in runs[0][1]] == [r.info for r in runs[1][1]]
    assert not equal(runs[0][0], runs[2][0])


# ----------------------------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize("rate", [0.06, 0.0015])
def test_backtracking_ends_in_the_region(first, rate):
    """A rate that leaves the region in one step: halved until the monitor on all training rollouts is within δ."""
    state, rollouts, *_ = first
    the = backend(replace(BASE, learning_rate=rate))
    after, info = the.update(state, the.estimate(state, rollouts, 1, fresh), 1)
    assert info["monitor_reached"] > BASE.delta >= info["monitor"] > 0
    assert info["stopped_early"]
    assert info["steps"] < BASE.epochs
    halvings = -math.log2(info["step_scale"])
    assert halvings == int(halvings)
    assert 1 <= halvings <= BASE.backtrack
    assert info["steps"] == (1 if rate == 0.06 else 2)
    assert info["memory"] == info["steps"] * info["multiplier"]  # a first step is not the penalty's doing
    _, kls = measured(TEAM, state.params, after.params, 1, rollouts)
    assert np.concatenate(kls[:ROWS]).mean() <= BASE.delta * 1.001
    # the scale before the last halving was outside
    wider = jax.tree.map(lambda x, y: x + 2 * (y - x), state.params, after.params)
    _, kls = measured(TEAM, state.params, wider, 1, rollouts)
    assert np.concatenate(kls[:ROWS]).mean() > BASE.delta


ORDER = jnp.tile(jnp.arange(ROWS, dtype=jnp.int32), (BASE.epochs, 1))


def test_measured_share(first):
    """So many of the training rollouts are measured, at least, and all held out: the same step, figures of these rows."""
    state, rollouts, found, *_ = first
    settings = replace(NO_RADIUS, step_rule="none", measured=0.36)  # of 16: six
    whole, everything = backend(NO_RADIUS).update(state, found, 1)
    assert everything["step_scale"] == 1
    new, info = backend(settings).update(state, found, 1)
    assert equal(whole.params, new.params)
    looked_at = [0, 2, 5, 8, 10, 13]
    ratios, kls = measured(TEAM, state.params, new.params, 1, rollouts)
    advantage = centred(rollouts.reward).reshape(-1)
    expected = {
        "kl": sum(sum(kls[r]) for r in looked_at) / 6,
        "kl_k1": -sum(sum(ratios[r]) for r in looked_at) / 6,
        "surrogate_raw": sum((math.exp(d) - 1) * advantage[r] for r in looked_at for d in ratios[r]) / 6,
        "monitor": np.mean([x for r in looked_at for x in kls[r]]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(info[name], value, rtol=2e-3, atol=2e-6, err_msg=name)
    _, outcome = update_agent(TEAM, settings, state, 1, found.data, ORDER)
    rows = np.flatnonzero(np.asarray(outcome.own).any((1, 2)))
    assert rows.tolist() == [*looked_at, *range(ROWS, SAMPLING.rows)]
    with pytest.raises(InputError, match=r"settings.measured: found 0.36, expected 1 with a log"):
        backend(settings, log=TokenLogger(lambda rows: None))


def test_a_step_that_cannot_be_saved_is_undone(first):
    """Too large for six halvings, or not a number: parameters stay, bit for bit."""
    state, rollouts, *_ = first
    for rate in (1e4, 1e38):
        the = backend(replace(BASE, learning_rate=rate))
        after, info = the.update(state, the.estimate(state, rollouts, 1, fresh), 1)
        assert equal(after.params, state.params), rate
        assert info["step_scale"] == 0
        assert info["kl"] == 0
        assert info["memory"] == info["multiplier"]


def test_small_steps_relax_the_penalty_and_never_stop(first):
    state, rollouts, *_ = first
    the = backend(replace(BASE, learning_rate=1e-4))
    _, info = the.update(state, the.estimate(state, rollouts, 1, fresh), 1)
    assert not info["stopped_early"]
    assert info["steps"] == BASE.epochs
    assert info["step_scale"] == 1
    assert info["memory"] == info["multiplier"] / 2
    eager = backend(replace(BASE, learning_rate=1e-4, target=info["monitor_reached"] / 2))
    _, info = eager.update(state, eager.estimate(state, rollouts, 1, fresh), 1)
    assert info["memory"] == 2 * info["multiplier"]  # twice the target
    assert (UpdateSettings(delta=0.3).aim, UpdateSettings(delta=0.3, target=0.2).aim) == (0.15, 0.2)
    fixed = backend(replace(BASE, learning_rate=1e-4, adaptive=False))
    _, info = fixed.update(state, fixed.estimate(state, rollouts, 1, fresh), 1)
    assert info["memory"] == info["multiplier"] == 0.5


@pytest.mark.parametrize("reward_range", [1.0, 3.0])
def test_certificate_rule_takes_the_best_of_the_grid(first, reward_range):
    """`L̂ − ϱK̂` along the step, by plain loops, for a span ϱ of the reward that is not 1 too; the scale 0 is allowed."""
    state, rollouts, *_ = first
    free = replace(NO_RADIUS, learning_rate=0.1, beta=0.0, advantage="centred", reward_range=reward_range)
    ends = []
    for settings in (free, replace(free, step_rule="certificate", backtrack=4)):
        the = backend(settings)
        ends.append(the.update(state, the.estimate(state, rollouts, 1, fresh), 1))
    (whole, all_), (_, info) = ends
    assert all_["step_scale"] == 1
    advantage = centred(rollouts.reward).reshape(-1)[:ROWS]
    values = []
    for k in range(5):
        part = jax.tree.map(lambda x, y, k=k: x + k / 4 * (y - x), state.params, whole.params)
        ratios, kls = measured(TEAM, state.params, part, 1, rollouts)
        linear = sum((math.exp(d) - 1) * a for ds, a in zip(ratios[:ROWS], advantage, strict=True) for d in ds) / ROWS
        values.append(linear - reward_range * sum(map(sum, kls[:ROWS])) / ROWS)
    assert values[4] < max(values)  # otherwise the rule has nothing to choose
    assert info["step_scale"] == np.argmax(values) / 4
    assert info["certificate_estimable"] == pytest.approx(max(values), rel=1e-3, abs=1e-5)
    assert all_["certificate_estimable"] == pytest.approx(values[4], rel=1e-3, abs=1e-5)


def test_rewards_of_a_wider_span_than_was_declared_are_refused(first):
    """S7 with a ϱ that is too small would certify too much."""
    state, rollouts, *_ = first
    the = backend(replace(BASE, reward_range=0.4))
    with pytest.raises(
        InputError, match=r"reward_range: found 0.4, expected at least 0\.\d+, the span of rewards earned"
    ):
        the.update(state, the.estimate(state, rollouts, 1, fresh), 1)
    halves = rollouts._replace(reward=0.4 * rollouts.reward)
    the.update(state, the.estimate(state, halves, 1, fresh), 1)


# ------------------------------------------------------------------------------------------------------------ not a number


def test_what_is_not_a_number_ends_the_stage(first):
    """A gradient that is no number is no early stop; the message names stage, update and agent, and no state comes back."""
    state, rollouts, *_ = first
    own = state.params["embedding"]
    broken = state._replace(params={**state.params, "embedding": own.at[1].set(jnp.nan)})
    with pytest.raises(
        ArithmeticError, match="stage 7, update 1: update of agent 1: the gradient of its loss is not a number"
    ):
        run_stage(backend(), broken, [0, 1], fresh, jax.random.key(0), stage=7)
    the = backend()
    found = the.estimate(state, rollouts, 1, fresh)
    poisoned = found._replace(data=found.data._replace(advantage=found.data.advantage.at[0].set(jnp.nan)))
    with pytest.raises(ArithmeticError, match="update of agent 1: the gradient"):
        the.update(state, poisoned, 1)
    unseen = found._replace(data=found.data._replace(centred=found.data.centred.at[0].set(jnp.nan)))
    with pytest.raises(ArithmeticError, match="update of agent 1: certificate_estimable, surrogate_raw not a number"):
        the.update(state, unseen, 1)


# ------------------------------------------------------------------------------------------------------------------- reuse


def test_importance_weights_of_whole_transcripts(first):
    """`∏ π_now/π_behaviour` over both agents' tokens, by plain loops; used where the schedule asks, always reported."""
    state, rollouts, _, after, _ = first
    log_weight = np.zeros(24)
    for agent in (0, 1):
        ratios, _ = measured(TEAM, state.params, after.params, agent, rollouts)
        log_weight += [sum(x) for x in ratios]
    expected = np.exp(log_weight)
    assert expected.std() > 0.01
    the = backend()
    cut = float(np.median(expected))
    for schedule, used in ((importance_weighted(), expected), (importance_weighted(cut), np.minimum(expected, cut)),
                           (once, np.ones(24))):  # fmt: skip
        found = the.estimate(after, rollouts, 0, schedule)
        np.testing.assert_allclose(found.data.weight, used, rtol=1e-4)
        weights = expected[:ROWS]
        np.testing.assert_allclose(found.weights[0], weights.sum() ** 2 / (ROWS * (weights**2).sum()), rtol=1e-4)
        np.testing.assert_allclose(found.weights[3], weights.max(), rtol=1e-4)
    silent = backend(sampling=replace(SAMPLING, weight_diagnostics=False)).estimate(after, rollouts, 0, once)
    assert silent.current is None  # nothing was scored
    assert list(silent.weights[:5]) == [1, 1, 1, 1, 0]
    again, info = the.update(after, the.estimate(after, rollouts, 0, importance_weighted()), 0)
    ratios, kls = measured(TEAM, after.params, again.params, 0, rollouts)
    terms = expected[:ROWS] * [sum(x) for x in kls[:ROWS]]
    assert info["kl"] == pytest.approx(terms.mean(), rel=1e-3)
    advantage = centred(rollouts.reward).reshape(-1)
    linear = [w * a * sum(math.exp(d) - 1 for d in ds) for w, a, ds in zip(expected, advantage, ratios, strict=True)]
    assert info["surrogate_raw"] == pytest.approx(np.mean(linear[:ROWS]), rel=2e-3, abs=1e-6)


def test_old_rollouts_are_scored_by_the_agent_before_its_own_update(first):
    """Not by the policy that wrote them: the second update of one agent on one set starts from ratio 1."""
    _, rollouts, _, after, _ = first
    the = backend(replace(BASE, learning_rate=1e-6))
    _, info = the.update(after, the.estimate(after, rollouts, 1, once), 1)
    assert info["kl"] < 1e-6
    assert info["clipped"] == 0


def test_schedules_through_the_driver(first):
    state, *_ = first
    for schedule, sets in (
        (fresh, 2),
        (once, 1),
        (certificate_driven(10.0, None), 1),
        (certificate_driven(0.0, None), 2),
    ):
        _, records = run_stage(
            backend(), state, [0, 1], schedule, jax.random.key(0), budget=sets * 24 if sets == 2 else 48
        )
        assert sum(record.rollouts for record in records) == sets * 24
        for line in update_lines(records):
            dump(line)
    with pytest.raises(InputError, match="the current team's advantages"):
        run_stage(backend(), state, [0, 1], stale_occupancy, jax.random.key(0))
    with pytest.raises(InputError, match="PRNG key"):
        run_stage(backend(), state, [0, 1], fresh)


def test_greedy_order_asks_for_predicted_gains(first):
    state, rollouts, *_ = first
    the = backend()
    gains = the.predict(state, rollouts)
    done = [the.update(state, the.estimate(state, rollouts, k, fresh), k)[1]["gain"] for k in (0, 1)]
    np.testing.assert_allclose(gains, done, rtol=1e-5)
    _, records = run_stage(the, state, greedy, once, jax.random.key(0))
    assert sorted(record.agent for record in records) == [0, 1]


# -------------------------------------------------------------------------------------------------------------- rollouts


def test_rollouts(first):
    _, rollouts, *_ = first
    texts = messages(LAYOUT, np.asarray(rollouts.tokens).reshape(24, -1))
    v = LAYOUT.vocabulary
    prompts = [v.decode([t for t in row if t != v.pad]) for row in np.asarray(rollouts.tokens)[:, 0, : LAYOUT.prompt]]
    assert (np.asarray(rollouts.tokens)[:, :, :5] == np.asarray(rollouts.tokens)[:, :1, :5]).all()
    for b, prompt in enumerate(prompts):
        for g in range(4):
            assert np.asarray(rollouts.reward)[b, g] == TASK.verify(Problem(prompt, prompt[:2]), texts[4 * b + g])
    assert set(prompts) <= {problem.prompt for problem in draw(TASK, np.random.default_rng(0), 500, held_out=False)}
    with pytest.raises(InputError, match=r"verify: found 2.0 for .*, expected a reward in \[0, 1\]"):
        rewards_of(_Twice(), LAYOUT, [Problem("aa", "aa"), Problem("bb", "bb")], np.asarray(rollouts.tokens)[:2, 0])


class _Twice(Echo):
    def verify(self, problem, messages):
        return 2.0 * (problem.answer == "aa")


# --------------------------------------------------------------------------------------------------------------- token log


def test_token_log(first):
    """Two updates on new rollouts, the stage's first ones scored again: rows against the tables of the four hybrids."""
    state, *_ = first
    written = []
    log = TokenLogger(written.append, rescore=True)
    log.begin(7)
    states = []
    the = backend(log=log)
    kept = the._replace(
        update=lambda state, found, agent: (states.append((state, found.rollouts)), the.update(state, found, agent))[1]
    )
    end, _ = run_stage(kept, state, [0, 1], fresh, jax.random.key(0), stage=7)
    (one, first_set), (two, second_set) = states
    assert [tuple(columns) for columns in written] == [(*TOKEN_LOG_COLUMNS, "source")] * 3
    assert [set(columns["source"]) for columns in written] == [{0}, {1}, {0}]
    for columns, rollouts, (before, after), update, agent, offset in (
        (written[0], first_set, (one, two), 0, 0, 0),
        (written[1], second_set, (two, end), 1, 1, 6),
        (written[2], first_set, (two, end), 1, 1, 0),
    ):
        assert {len(x) for x in columns.values()} == {len(columns["t"])}
        assert set(columns["stage"]) == {7}
        assert set(columns["update"]) == {update}
        assert sorted(set(columns["prompt"])) == list(range(offset, offset + 6))
        assert sorted(set(columns["rollout"])) == list(range(4 * offset, 4 * offset + 24))
        assert (columns["rollout"] // 4 == columns["prompt"]).all()
        row = columns["rollout"] - 4 * offset
        np.testing.assert_array_equal(columns["reward"], np.asarray(rollouts.reward).reshape(-1)[row])
        rows = {k: plain_rows(rollouts, k) for k in (0, 1)}
        assert len(row) == sum(len(m) for k in rows for said in rows[k] for m in said)
        logp = {"logp_behaviour": rollouts.source, "logp_current": before.params, "logp_new": after.params}
        for name, params in logp.items():
            found = [tables(TEAM, params, k, rollouts) for k in (0, 1)]
            position = np.array([LAYOUT.start(turn) + 1 for turn in columns["turn"].tolist()]) + columns["t"]
            tokens = np.asarray(rollouts.tokens).reshape(24, -1)[row, position]
            expected = [
                found[k][r, p - 1, a] for k, r, p, a in zip(columns["agent"], row, position, tokens, strict=True)
            ]
            np.testing.assert_allclose(columns[name], expected, atol=2e-5, err_msg=name)
        others = columns["agent"] != agent
        assert (columns["logp_new"][others] == columns["logp_current"][others]).all()
        if rollouts.source is before.params:
            assert (columns["logp_current"] == columns["logp_behaviour"]).all()
    moved = written[2]["logp_current"] != written[2]["logp_behaviour"]
    assert (moved == (written[2]["agent"] == 0)).mean() > 0.9  # the re-scored rows show what the first update did


# ---------------------------------------------------------------------------------------------------- programs, settings


def test_a_run_compiles_a_bounded_number_of_programs(first):
    """Stages, prompts, agents, rates and radii are arguments: nothing is compiled after the first stage of a kind."""
    state, *_ = first
    for schedule in (fresh, importance_weighted()):
        run_stage(backend(), state, [0, 1], schedule, jax.random.key(0))
    before, compiled = compiled_programs(), []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for stage in range(3):
            for schedule in (fresh, once, importance_weighted()):
                the = backend(replace(BASE, learning_rate=0.01 / (stage + 1), delta=0.1, beta=float(stage + 1)))
                state, _ = run_stage(the, state, [1, 0], schedule, jax.random.key(stage), stage)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []
    assert compiled_programs() == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ratio": "sequence"}, "ratio: found 'sequence', expected message or token"),
        ({"average": "mean"}, "average: found 'mean', expected rollout or sequence or unit"),
        ({"penalty": "k2"}, "penalty: found 'k2', expected k1 or k3 or exact or k3_new_to_current"),
        ({"monitor": "k3_new_to_current"}, "monitor: found 'k3_new_to_current', expected k1 or k3 or exact"),
        ({"step_rule": "line"}, "step_rule: found 'line', expected trust_region or certificate or none"),
        ({"advantage": "gae"}, "advantage: found 'gae'"),
        ({"minibatch": 20}, "minibatch, micro_batch: found 20, 8, expected the first a multiple of the second"),
        ({"minibatch": 16.0}, "minibatch: found 16.0, expected an integer from 1 to 2147483647"),
        ({"micro_batch": 0}, "micro_batch: found 0, expected an integer from 1"),
        ({"delta": 0.0}, "delta: found 0.0, expected a number at least 1.17549e-38"),
        ({"delta": math.nan}, "delta: found nan"),
        ({"delta": "0.1"}, "delta: found 0.1, expected a number"),
        ({"epochs": 0}, "epochs: found 0, expected an integer from 1 to 10000"),
        ({"epochs": True}, "epochs: found True"),
        ({"epochs": 10**9}, "epochs: found 1000000000"),
        ({"backtrack": -1}, "backtrack: found -1, expected an integer from 0 to 64"),
        ({"step_rule": "certificate", "backtrack": 0}, "backtrack: found 0, expected an integer from 1 to 64"),
        ({"beta": 0.0}, "beta: found 0.0, expected a finite number at least 1.17549e-38"),
        ({"beta": math.nan, "adaptive": False}, "beta: found nan, expected a finite number at least 0"),
        ({"beta": -1.0, "adaptive": False}, "beta: found -1.0, expected a finite number at least 0"),
        ({"delta": math.inf}, "target, delta / 2: found inf, expected a finite number"),
        ({"target": 0.0}, "target: found 0.0"),
        ({"target": math.inf}, "target: found inf, expected a finite number"),
        ({"clip_low": -1.0}, "clip_low: found -1.0, expected a number at least 0"),
        ({"clip_high": math.nan}, "clip_high: found nan, expected a number at least 0"),
        ({"measured": 0.0}, "measured: found 0.0, expected a finite number greater than 0 and at most 1"),
        ({"measured": 1.5}, "measured: found 1.5"),
        ({"learning_rate": math.nan}, "learning_rate: found nan, expected a finite number"),
        ({"learning_rate": math.inf}, "learning_rate: found inf, expected a finite number"),
        ({"learning_rate": 1e-60}, "learning_rate: found 1e-60, expected a finite number at least 1.17549e-38"),
        ({"max_grad_norm": 0.0}, "max_grad_norm: found 0.0"),
        ({"weight_decay": -0.1}, "weight_decay: found -0.1"),
        ({"advantage_clip": math.nan}, "advantage_clip: found nan"),
        ({"reward_range": math.inf}, "reward_range: found inf, expected a finite number"),
        ({"moments": (0.9, 1.0)}, "moments: found 1.0, expected a finite number at least 0 and less than 1"),
        ({"moments": 0.9}, "moments: found 0.9, expected two numbers"),
        ({"early_stop": 1}, "early_stop: found 1, expected True or False"),
        ({"drop_uniform": None}, "drop_uniform: found None, expected True or False"),
    ],
)
def test_settings_that_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        replace(BASE, **changed)


def test_every_setting_of_the_optimiser_is_followed():
    """Two steps by hand: the norm over all leaves is cut, moments decay as asked, weights decay by rate times decay."""
    b1, b2, rate, decay, most = 0.5, 0.75, 0.25, 0.125, 2.0
    settings = UpdateSettings(learning_rate=rate, moments=(b1, b2), weight_decay=decay, max_grad_norm=most)
    optimiser = optimiser_of(parts(settings)[1])
    optimiser = optimiser._replace(update=jax.jit(optimiser.update))
    params = {"a": np.array([1.0, -2.0]), "b": np.array([0.5])}
    memory = optimiser.init(params)
    x, m, v = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    for step, g in enumerate((np.array([3.0, 0.0, -4.0]), np.array([0.5, 1.0, 0.25])), 1):  # of norms 5 and below 2
        change, memory = optimiser.update({"a": g[:2], "b": g[2:]}, memory, params)
        params = optax.apply_updates(params, change)
        g = g * min(1.0, most / np.linalg.norm(g))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = x - rate * (m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + 1e-8) + decay * x)
        np.testing.assert_allclose(np.concatenate([params["a"], params["b"]]), x, rtol=1e-6)


def test_samplings_that_are_refused():
    for options, message in (
        ({"prompts": 0}, "prompts: found 0, expected an integer from 1"),
        ({"prompts": 10**12}, "prompts: found 1000000000000, expected an integer from 1 to 2147483647"),
        ({"prompts": 2.0}, "prompts: found 2.0"),
        ({"prompts": 4, "group": 1}, "group: found 1, expected an integer from 2"),
        ({"prompts": 10**6, "group": 10**9}, "prompts, group: found 1000000, 1000000000: 1000000000000000 rollouts"),
        ({"prompts": 4, "held_out": 4}, "held_out: found 4, expected an integer from 0 to 3"),
        ({"prompts": 4, "held_out": -1}, "held_out: found -1"),
        ({"prompts": 4, "held_out": 1}, "held_out: found 1, expected 0, or at least 2 prompts"),
        ({"prompts": 4, "alpha": 1.0}, "alpha: found 1.0, expected a finite number greater than 0 and less than 1"),
        ({"prompts": 4, "alpha": math.nan}, "alpha: found nan"),
        ({"prompts": 4, "weight_diagnostics": "yes"}, "weight_diagnostics: found 'yes', expected True or False"),
    ):
        with pytest.raises(InputError, match=message):
            LanguageSampling(**options)


def test_methods_are_what_their_names_say():
    for name, method in METHODS.items():
        assert method.schedule.draws(3) == {"every 2": 2, "fresh": 3}.get(
            method.schedule.name, 3 if name == "certificate_driven" else 1
        )
    assert METHODS["importance_weights"].schedule.reuse == "weights"
    assert [METHODS[name].schedule.truncation for name in ("importance_weights", "importance_weights_5")] == [
        math.inf,
        5,
    ]
    full, free = UpdateSettings(), {"early_stop": False, "step_rule": "none"}
    naive = {**free, "adaptive": False, "beta": 0.0}
    differ = {
        "certificate_step": {"step_rule": "certificate"},
        "adaptive_kl": free,
        "fixed_kl": {**free, "adaptive": False},
        "no_trust_region": naive,
        "chi_square_budget": {**naive, "clip_low": math.inf, "clip_high": math.inf, "spending": "chi_square"},
        "no_clip": {"clip_low": math.inf, "clip_high": math.inf},
        "no_group_norm": {"advantage": "centred"},
        "token_ratio": {"ratio": "token"},
        "ppo": {**naive, "ratio": "token", "advantage": "batch_normalised", "average": "unit"},
        "grpo": {**naive, "ratio": "token", "average": "sequence", "penalty": "k3_new_to_current", "beta": 0.04},
        "dapo": {**naive, "ratio": "token", "average": "unit", "clip_high": 0.28, "drop_uniform": True},
    }
    for name, method in METHODS.items():
        found = {key: value for key, value in vars(method.settings).items() if value != getattr(full, key)}
        assert found == differ.get(name, {}), name
        assert method.lone == (name == "lone")
    order = METHODS["single"].order
    assert order is not None
    assert [int(order(np.ones(2, bool), list, None)) for _ in range(2)] == [0, 0]
    capped = lone_layout(replace(LAYOUT, caps=(1, 2)))
    assert (capped.caps, capped.agents, capped.turns) == (None, 1, LAYOUT.turns)
    for name in ("ppo", "grpo", "dapo", "no_trust_region", "fixed_kl"):
        settings = METHODS[name].settings
        assert not settings.early_stop
        assert settings.step_rule == "none"
        assert not settings.adaptive
    assert METHODS["dapo"].settings.clip_high > METHODS["dapo"].settings.clip_low


@pytest.mark.slow
def test_a_team_of_one():
    layout = lone_layout(LAYOUT)
    assert (layout.agents, layout.turns, layout.message) == (1, 4, 2)
    team = LanguageTeam(layout, (SMALL,))
    state = start(team)
    after, (record,) = run_stage(backend(team=team), state, [0], fresh, jax.random.key(0))
    assert record.kl > 0
    assert not equal(after.params, state.params)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs(name):
    method = METHODS[name]
    team = LanguageTeam(lone_layout(LAYOUT), (SMALL,)) if method.lone else TEAM
    settings = replace(method.settings, minibatch=16, micro_batch=8)
    order = method.order or range(team.agents)
    state, records = run_stage(
        backend(settings, team=team), start(team, settings), order, method.schedule, jax.random.key(0)
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    assert all(math.isfinite(record.kl) and record.kl >= 0 for record in records)


# ---------------------------------------------------------------------------------------------------------------- learning


def test_learning_from_scratch():
    """20 stages of 6 prompts × 4. Rewards on 48 prompts × 4 of the last team against the first: Welch's t, p < 1e-6."""
    the = backend(replace(BASE, delta=0.05))
    state = begin = start(seed=1)
    for stage in range(20):
        state, records = run_stage(the, state, [0, 1], fresh, jax.random.key(100 + stage), stage)
        assert all(record.info["monitor"] <= 0.05 for record in records)
    problems = draw(TASK, np.random.default_rng(9), 48, held_out=False)

    def rewards(params):
        some = [problems[k : k + SAMPLING.prompts] for k in range(0, 48, SAMPLING.prompts)]  # as many as a stage has
        drawn = [collect(TEAM, params, each, TASK, 4, jax.random.key(k))[1] for k, each in enumerate(some)]
        return np.concatenate(drawn).mean(-1)

    before, after = rewards(begin.params), rewards(state.params)
    test = ttest_ind(after, before, equal_var=False, alternative="greater")
    assert test.pvalue < 1e-6
    assert after.mean() - before.mean() > 0.2
