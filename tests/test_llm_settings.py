"""What networks, layouts and teams refuse where they are made; memory computed from sizes, before anything is allocated."""

import math
import time
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.llm import sizes
from teamtr_jax.llm.alignment import PROBES, AlignmentSettings
from teamtr_jax.llm.backend import LanguageSampling, language_backend
from teamtr_jax.llm.description import describe_team, team_from_description
from teamtr_jax.llm.layout import Layout, Router, Vocabulary, random_router, round_robin
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, init_params, init_team, parameter_count
from teamtr_jax.llm.sampler import sample
from teamtr_jax.llm.sizes import parameters_of, require_room, required
from teamtr_jax.llm.tasks import Copy, layout_of
from teamtr_jax.llm.text_warm_start import TextWarmStart
from teamtr_jax.llm.update import score
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.llm.warm_start import WarmStart, warm_start
from teamtr_jax.sizes import bytes_text
from teamtr_jax.validation import InputError

SMALL = ModelConfig(16, 1, 2)
LAYOUT = layout_of(Copy(symbols=2, agents=2))
TEAM = LanguageTeam(LAYOUT, (SMALL, SMALL))


def layout(**changed):
    made = {"vocabulary": Vocabulary("ab", 2), "prompt": 1, "message": 2, "turns": 2, "router": round_robin(2)}
    return Layout(**{**made, **changed})


def router(probabilities, schedule=None):
    return Router("mine", probabilities, schedule)


def half(view):
    return jnp.full((*view.last.shape, 2), 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(width=0), "width: found 0, expected an integer, at least 1"),
        (lambda: ModelConfig(width=64.0), "width: found 64.0"),
        (lambda: ModelConfig(width=True), "width: found True"),
        (lambda: ModelConfig(layers=-1), "layers: found -1"),
        (lambda: ModelConfig(heads=3), "width, heads: found 64, 3, expected a width that is a multiple of twice the heads"),
        (lambda: ModelConfig(hidden=-3), "hidden: found -3"),
        (lambda: ModelConfig(hidden=0), "hidden: found 0"),
        (lambda: ModelConfig(lora_rank=-1), "lora_rank: found -1, expected an integer, at least 0"),
        (lambda: ModelConfig(window=-1), "window: found -1, expected an integer, at least 0"),
        (lambda: ModelConfig(rope_base=0.5), "rope_base: found 0.5, expected a finite number at least 1"),
        (lambda: ModelConfig(rope_base=math.inf), "rope_base: found inf"),
        (lambda: ModelConfig(dtype="int8"), "dtype: found 'int8'"),
        (lambda: Vocabulary("aa", 1), "characters, prompt_only: found 'aa', expected every character once"),
        (lambda: Vocabulary(7, 1), "characters: found 7"),
        (lambda: Vocabulary("ab", 0), "agents: found 0"),
        (lambda: Vocabulary("ab", 10**9), "agents: found 1000000000, expected an integer from 1 to 1024"),
        (lambda: Vocabulary("ab", 1, ends=2), "ends: found 2, expected True or False"),
        (lambda: layout(turns=0), "turns: found 0"),
        (lambda: layout(message=1.5), "message: found 1.5"),
        (lambda: layout(turns=10**9), "prompt, message, turns: found 1, 2, 1000000000: 3000000001 positions, expected at most"),
        (lambda: layout(temperature=math.inf), "temperature: found inf"),
        (lambda: layout(temperature=math.nan), "temperature: found nan"),
        (lambda: layout(temperature=-1.0), "temperature: found -1.0"),
        (lambda: layout(caps=(1,)), r"caps: found \(1,\), expected one for each of 2 agents"),
        (lambda: layout(caps=(1, 3)), "caps: found 3, expected an integer from 1 to 2"),
        (lambda: layout(caps=5), "caps: found 5"),
        (lambda: layout(vocabulary="ab"), "vocabulary: found 'ab', expected a Vocabulary"),
        (lambda: layout(router=half), "router: found <function half"),
        (lambda: layout(router=router(lambda view: half(view) * 0.9)), "router mine: found .* probabilities that sum to 1"),
        (lambda: layout(router=router(lambda view: half(view) * math.nan)), "router mine: found .*nan"),
        (lambda: layout(router=router(lambda view: half(view)[:, :1])), r"router mine: found probabilities of shape \[2, 1\]"),
        (lambda: layout(router=router(lambda view: 1 / 0)), "router mine: found ZeroDivisionError"),
        (lambda: layout(router=router(half, lambda turn: 2)), "router mine: found 2, expected an integer from 0 to 1"),
        (lambda: layout(router=router(half, lambda turn: 0.5)), "router mine: found 0.5"),
        (lambda: round_robin(0), "agents: found 0"),
        (lambda: random_router(10**9), "agents: found 1000000000"),
        (lambda: LanguageTeam(LAYOUT, (SMALL,)), "models: found 1 networks, expected 2"),
        (lambda: LanguageTeam(LAYOUT, (SMALL, 16)), r"models\[1\]: found 16, expected a ModelConfig"),
        (lambda: score(TEAM, None, 2, jnp.zeros((1, 6), jnp.int32)), "agent: found 2, expected an integer from 0 to 1"),
        (lambda: sample(TEAM, None, jnp.full((1, 2), 99), jax.random.key(0)), "prompts: found 99 at"),
        (lambda: sample(TEAM, None, jnp.full((1, 2), -1), jax.random.key(0)), "prompts: found -1 at"),
    ],
)  # fmt: skip
def test_out_of_range(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_numbers_of_numpy_are_settings():
    config = ModelConfig(np.int64(16), np.int32(1), 2, rope_base=np.float32(100))
    assert config == ModelConfig(16, 1, 2, rope_base=100.0)
    assert type(config.width) is int
    assert UpdateSettings(delta=np.float64(0.5), epochs=np.int64(2)) == UpdateSettings(delta=0.5, epochs=2)


def test_what_is_done_if_nothing_is_asked_for():
    """Defaults decide results: whoever changes one means it."""
    assert UpdateSettings() == UpdateSettings(
        learning_rate=3e-4, epochs=4, minibatch=128, micro_batch=16, max_grad_norm=1.0, weight_decay=0.0, moments=(0.9, 0.99),
        advantage="group_normalised", advantage_clip=5.0, drop_uniform=False, ratio="message", average="rollout", clip_low=0.2,
        clip_high=0.2, spending="none", budget=0.1, penalty="exact", beta=1.0, adaptive=True, target=None, delta=0.01,
        monitor="exact", early_stop=True, step_rule="trust_region", backtrack=6, reward_range=1.0, measured=1.0,
    )  # fmt: skip
    assert ModelConfig() == ModelConfig(64, 2, 4, None, 0, 10_000.0, "float32", 0)
    assert LanguageSampling(4) == LanguageSampling(4, 8, 0, 0.1, True)
    assert WarmStart() == WarmStart(0.2, 0.4, 64, 3e-3, 0.0, 25, 4000, 1024)
    assert TextWarmStart() == TextWarmStart(0, 8, 1e-3)
    assert AlignmentSettings() == AlignmentSettings(0.05, "current_to_new", 0.5, 100, 50, 3e-3, 0.2)
    assert PROBES == 500  # the paper's
    assert Lora() == Lora(8, 16.0, ("q", "k", "v", "o", "gate", "up", "down"), False)


def test_float64_needs_the_setting():
    with jax.enable_x64(False), pytest.raises(InputError, match="dtype: found float64 with jax_enable_x64 off"):
        ModelConfig(dtype="float64")
    assert ModelConfig(dtype="float64").dtype == "float64"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": 3}, "description of a team: models: found 3"),
        ({"models": [3]}, "description of a team: models: found 3"),
        ({"layout": []}, r"description of a team: layout: found \[\]"),
        ({"vocabulary": {"agents": 2}}, "description of a team: vocabulary: found .*characters"),
    ],
)
def test_descriptions_of_other_types(change, message):
    with pytest.raises(InputError, match=message):
        team_from_description({**describe_team(TEAM), **change})


# ------------------------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    "config", [SMALL, ModelConfig(24, 2, 3, hidden=20, lora_rank=3), ModelConfig(8, 3, 1, hidden=1)]
)
def test_parameters_are_counted(config):
    shapes = jax.eval_shape(partial(init_params, config, LAYOUT), jax.random.key(0))
    total, trained = parameters_of(config, LAYOUT)
    assert total == parameter_count(shapes)
    adapters = [
        x.size for path, x in jax.tree_util.tree_leaves_with_path(shapes) if "lora_" in jax.tree_util.keystr(path)
    ]
    assert trained == (sum(adapters) if adapters else total)


def test_memory_by_hand():
    """N = 6 positions, 2 written, 16 features at each; P parameters of two agents in float32."""
    one, _ = parameters_of(SMALL, LAYOUT)
    assert required(TEAM) == 4 * 2 * one
    cache = 2 * (2 * 16 * 4)  # keys and values of one layer, two agents
    assert required(TEAM, rows=10) == 8 * one + 10 * 6 * (8 + cache)
    states = 4 * 2 * (2 * one + 2 * 3 * one)  # of two earlier states the parameters, of three the two moments
    inside = 4 * 5 * 6 * (4 * 16 + 3 * 48 + 2 * 6)  # five conversations, hidden width 48
    assert required(TEAM, 10, 5, 3) == required(TEAM, rows=10) + states + inside + 4 * 10 * (2 * 16 + 3)
    assert bytes_text(required(TEAM)) == f"{8 * one / 1000:.3g} kB"


def test_memory_is_what_a_device_may_use(monkeypatch):
    """What is in use now is no limit; a CPU says nothing, and has that of the machine."""
    device = SimpleNamespace(memory_stats=lambda: {"bytes_in_use": 7, "bytes_limit": 1000})
    monkeypatch.setattr(sizes.jax, "local_devices", lambda: [device])
    assert sizes.device_memory() == 1000
    device.memory_stats = lambda: None
    monkeypatch.setattr(sizes.sizes, "memory", lambda: 5)
    assert sizes.device_memory() == 5


def test_what_would_fit_fits(monkeypatch):
    monkeypatch.setattr(sizes, "device_memory", lambda: 10**6)
    with pytest.raises(
        InputError, match=r"rollouts: found 100,000 of 6 positions: .* MB, expected at most ([\d,]+)"
    ) as error:
        require_room(TEAM, rows=100_000)
    most = int(error.value.expected.split()[2].rstrip(",").replace(",", ""))
    assert required(TEAM, most) <= 10**6 < required(TEAM, most + 1)
    require_room(TEAM, rows=most)
    wide = LanguageTeam(LAYOUT, (ModelConfig(400, 1, 2),) * 2)
    with pytest.raises(InputError, match=r"width: found 400, .* expected a width of at most (\d+)") as error:
        init_team(wide, jax.random.key(0))
    width = int(error.value.expected.split()[5].rstrip(","))
    for size, fits in ((width, True), (width + 4, False)):
        assert (required(LanguageTeam(LAYOUT, (ModelConfig(size, 1, 2),) * 2)) <= 10**6) == fits
    monkeypatch.setattr(sizes, "device_memory", lambda: required(TEAM) + 100)
    with pytest.raises(
        InputError, match=r"prompt, message, turns: found 6 positions: at least .* for one conversation"
    ):
        require_room(TEAM, rows=1)


def test_what_cannot_fit_is_refused_at_once():
    task, began = Copy(symbols=2, agents=2), time.perf_counter()
    huge = LanguageTeam(LAYOUT, (ModelConfig(10**6, 100, 2),) * 2)
    for make, message in (
        (lambda: init_team(huge, jax.random.key(0)), "width: found 1000000, .* PB, expected a width of at most"),
        (lambda: warm_start(huge, task, None, 0, WarmStart()), "width: found 1000000"),
        (lambda: warm_start(TEAM, task, None, 0, WarmStart(batch=10**6, every=10**6)), "batch, every of the warm start"),
        (lambda: language_backend(TEAM, task, UpdateSettings(), LanguageSampling(2**28, 7)), "prompts, group: found 1,879"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            make()
    assert time.perf_counter() - began < 20  # nothing of the size was made
