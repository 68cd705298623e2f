"""Networks that are not the toy's in a team that writes a layout: sampled, enumerated, updated, certified."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from teamtr_jax.llm import enumeration as en
from teamtr_jax.llm.alignment import check_newcomer
from teamtr_jax.llm.backend import LanguageSampling, language_backend
from teamtr_jax.llm.description import describe_team
from teamtr_jax.llm.language_model import joined, split_trained
from teamtr_jax.llm.layout import Layout, Vocabulary, by_turn, emitted, random_router
from teamtr_jax.llm.llama.adapters import adapted
from teamtr_jax.llm.llama.config import LlamaConfig
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, agent_params, init_team, parameter_count
from teamtr_jax.llm.sampler import sample
from teamtr_jax.llm.sizes import parameters_of, required
from teamtr_jax.llm.tasks import Problem
from teamtr_jax.llm.update import init_train_state
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.schedules import fresh
from teamtr_jax.stage import run_stage
from teamtr_jax.validation import InputError

LAYOUT = Layout(Vocabulary("01", 2, "?"), 2, 2, 3, random_router(2))
LLAMA = LlamaConfig(vocabulary=9, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, hidden=24, tied=False)
TOY = ModelConfig(width=8, layers=1, heads=1)
TEAMS = {"alike": LanguageTeam(LAYOUT, (LLAMA, LLAMA)), "unlike": LanguageTeam(LAYOUT, (TOY, LLAMA))}


def params_of(team, seed=0):
    """Far from uniform."""
    return jax.tree.map(lambda x: 3.0 * x if x.ndim > 2 else x, init_team(team, jax.random.key(seed)))


class Ones:
    """Messages that hold a 1; the prompt is always the same."""

    name, roles, turns, caps, characters, prompt_only = "ones", ("a", "b"), 3, None, "01", "?"
    prompt_length, message_length = 2, 2

    def sample(self, rng):
        return Problem("?", "")

    def demonstrate(self, problem, rng):
        return ["1"] * 3

    def verify(self, problem, messages):
        return sum("1" in said for said in messages) / 3


def outcome(tokens):
    said = np.asarray(by_turn(LAYOUT, jnp.asarray(tokens)))
    return (said == LAYOUT.vocabulary.encode("1")[0]).any(-1).mean(-1)


def test_the_parts_of_parameters():
    """Trained and frozen leaves under their paths, the same arrays; together again the whole."""
    config = replace(LLAMA, lora=Lora(2, 4.0, ("q", "down")))
    params = adapted(config, LLAMA.init(jax.random.key(0)), jax.random.key(1))
    trained, frozen = split_trained(params, config.trained(params))
    assert {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained)} == {
        f"['layers']['{name}']['{leaf}']" for name in ("q", "down") for leaf in ("lora_a", "lora_b")
    }
    again = joined(trained, frozen)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert all(x is y for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True))
    assert split_trained(LLAMA.init(jax.random.key(0)), config.trained(LLAMA.init(jax.random.key(0))))[1] == {}


@pytest.mark.parametrize("name", TEAMS)
def test_sampled_as_enumerated(name):
    """The law of whole transcripts, PAD in prompts and messages, speakers by chance; and the log-probability of each."""
    team = TEAMS[name]
    params, rows = params_of(team), 6000
    world = en.enumerate_world(team, ["?"], outcome)
    law = np.asarray(en.transcript_law(world, en.enumerated_policy(world, params)))
    known = dict(zip(map(tuple, np.asarray(world.tokens).tolist()), law, strict=True))
    assert sum(known.values()) == pytest.approx(1.0)
    prompts = jnp.asarray(LAYOUT.encode_prompts(["?"]))
    found = sample(team, params, prompts, jax.random.key(1), rows)
    tokens, logp = np.asarray(found.tokens), np.asarray(found.logp, np.float64)
    expected = np.array([known[tuple(row)] for row in tokens.tolist()])
    np.testing.assert_allclose(logp.sum(1) - 3 * np.log(2), np.log(expected), atol=1e-4)  # float32
    assert ((logp != 0) <= np.asarray(emitted(LAYOUT, found.tokens))).all()
    counts = dict.fromkeys(known, 0)
    for row in map(tuple, tokens.tolist()):
        counts[row] += 1
    common = [row for row, p in known.items() if p * rows > 20]
    assert len(common) > 20
    rest = rows - sum(counts[row] for row in common)
    seen = np.array([*(counts[row] for row in common), rest])
    mean = rows * np.array([*(known[row] for row in common), 1 - sum(known[row] for row in common)])
    assert chisquare(seen, mean * rows / mean.sum()).pvalue > 1e-3


@pytest.mark.parametrize("name", [pytest.param("alike", marks=pytest.mark.slow), "unlike"])
def test_certificates_of_updates_are_exact(name):
    """Actual updates of both agents: every claim holds in the enumeration, and the KL of the record is about the exact one."""
    team = TEAMS[name]
    world = en.enumerate_world(team, ["?"], outcome)
    settings = UpdateSettings(learning_rate=0.004, epochs=1, minibatch=96, micro_batch=48, delta=0.05)
    backend = language_backend(team, Ones(), settings, LanguageSampling(1, 96), audit=en.network_audit(world))
    state = init_train_state(team, params_of(team), settings)
    end, records = run_stage(backend, state, [1, 0], fresh, jax.random.key(0))
    for record in records:
        exact = record.exact
        assert exact is not None
        assert exact["violations"] == 0
        assert exact["certificate_estimable"] <= exact["improvement"]
        assert float(record.kl) > 1e-4
        assert float(record.kl) == pytest.approx(float(exact["kl"]), rel=0.5)
    for agent in range(2):
        before, after = (agent_params(team, s.params, agent) for s in (state, end))
        assert all(
            (x != y).any() for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True) if x.ndim > 2
        )


def test_sizes_are_counted():
    params = LLAMA.init(jax.random.key(0))
    assert parameters_of(LLAMA, LAYOUT) == (parameter_count(params),) * 2
    config = replace(LLAMA, lora=Lora(2, 4.0, ("q",)))
    assert parameters_of(config, LAYOUT)[1] == 2 * 2 * (16 + 16)
    team, length = TEAMS["alike"], LAYOUT.length
    cache = 2 * 2 * (2 * 2 * 4) * length * 4  # two agents, two layers, keys and values of two heads of four, float32
    assert required(team, rows=5) - required(team) == 5 * (8 * length + cache)


def test_refusals():
    with pytest.raises(InputError, match=r"models\[1\]: found 5 ids, expected at least 7"):
        LanguageTeam(LAYOUT, (TOY, replace(LLAMA, vocabulary=5)))
    with pytest.raises(InputError, match=r"models\[0\]: found 3, expected a ModelConfig or a LanguageModel"):
        LanguageTeam(LAYOUT, (3, LLAMA))  # pyright: ignore[reportArgumentType]

    class Listed(LlamaConfig):
        __hash__ = None  # pyright: ignore[reportAssignmentType]

    with pytest.raises(InputError, match=r"models\[0\]: .* that can be hashed"):
        LanguageTeam(LAYOUT, (Listed(**{f: getattr(LLAMA, f) for f in LLAMA.__dataclass_fields__}), LLAMA))
    with pytest.raises(InputError, match=r"models\[1\]: found LlamaConfig.* expected a ModelConfig"):
        describe_team(TEAMS["unlike"])
    with pytest.raises(InputError, match="parameters of the newcomer"):
        check_newcomer(TEAMS["unlike"], 0, LLAMA, replace(LLAMA, hidden=8).init(jax.random.key(0)))
    check_newcomer(TEAMS["unlike"], 0, LLAMA, LLAMA.init(jax.random.key(0)))
