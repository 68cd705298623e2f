"""How verl and TRL say that they draw their tokens, on what stands for their settings; tests/integrations has the libraries."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from teamtr_jax.integrations.trl_settings import OTHERS, dropout_of, sampler_of_trainer
from teamtr_jax.integrations.verl_settings import bypassed, sampler_of_config
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError


class Node(dict):
    """Entries by name and by key, as OmegaConf has them."""

    def __getattr__(self, name):
        return self[name]


def verl(rollout=(), actor=(), algorithm=()) -> Any:
    drawn = {"temperature": 0.7, "calculate_log_probs": True, "name": "vllm"}
    parts = Node(rollout=Node({**drawn, **dict(rollout)}), actor=Node(dict(actor)))
    return Node(actor_rollout_ref=parts, algorithm=Node(dict(algorithm)))


@pytest.mark.parametrize(
    ("rollout", "expected"),
    [
        ({}, {}),
        ({"top_k": -1, "top_p": 1.0}, {}),
        ({"top_k": None, "top_p": None}, {}),
        ({"top_k": 20, "top_p": 0.9}, {"top_k": 20, "top_p": 0.9}),
        ({"temperature": 1.0, "logprobs_mode": "raw_logprobs"}, {"temperature": 1.0}),  # the law itself
        ({"name": "sglang"}, {}),
    ],
)
def test_the_law_of_verls_engines(rollout, expected):
    """−1 and nothing are no cut."""
    assert sampler_of_config(verl(rollout)) == Sampler(**{"temperature": 0.7, "precision": "bfloat16"} | expected)


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ({"calculate_log_probs": False}, "rollout.calculate_log_probs: found False"),
        ({"do_sample": False}, "rollout.do_sample: found False"),
        ({"logprobs_mode": "raw_logprobs"}, "rollout.logprobs_mode: found raw_logprobs"),
        (
            {"logprobs_mode": "raw_logprobs", "temperature": 1.0, "top_k": 5},
            "rollout.logprobs_mode: found raw_logprobs",
        ),
        ({"name": "sglang", "top_p": 0.9}, r"rollout.top_k, top_p: found top_k = 0, top_p = 0.9 of sglang"),
        ({"temperature": 0.0}, "temperature: found 0"),
    ],
)
def test_engines_whose_numbers_are_of_another_law(rollout, message):
    with pytest.raises(InputError, match=message):
        sampler_of_config(verl(rollout))


@pytest.mark.parametrize(
    ("actor", "precision"),
    [
        ({}, "bfloat16"),
        ({"fsdp_config": Node(dtype="float32")}, "float32"),
        ({"strategy": "fsdp2", "fsdp_config": Node(mp_param_dtype="fp16")}, "float16"),
        (
            {"strategy": "megatron", "megatron": Node(dtype="torch.float32"), "fsdp_config": Node(dtype="fp16")},
            "float32",
        ),
        ({"strategy": "megatron", "fsdp_config": Node(dtype="fp32")}, "bfloat16"),
    ],
)
def test_the_precision_is_the_trainers(actor, precision):
    """Of the section that belongs to its strategy."""
    assert sampler_of_config(verl(actor=actor)).precision == precision


def test_copies_of_the_engines_numbers():
    assert bypassed(verl(algorithm={"rollout_correction": Node(bypass_mode=True)}))
    assert not bypassed(verl(algorithm={"rollout_correction": Node(bypass_mode=False)}))
    assert not bypassed(verl(algorithm={"rollout_correction": None}))
    assert not bypassed(verl())


# --------------------------------------------------------------------------------------------------------------------- TRL


class Generation(SimpleNamespace):
    """A generation config: what it says, `None` for the rest."""

    def update(self, *, defaults_only, **entries):
        assert defaults_only
        for key, value in entries.items():
            if getattr(self, key, None) is None:
                setattr(self, key, value)

    def to_dict(self):
        return dict(vars(self))


LAW = dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "repetition_penalty"))


@pytest.fixture
def trl(monkeypatch):
    """A trainer of these settings, on a checkpoint that says others, in bfloat16."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())

    def made(settings=(), checkpoint=(), asked=None, **trainer) -> Any:
        own = LAW | {"temperature": 0.8} | dict(settings)
        model = SimpleNamespace(generation_config=Generation(**LAW | dict(checkpoint)))
        about = {"args": SimpleNamespace(generation_kwargs=asked), "use_vllm": False, "rollout_func": None, "model": model,
                 "accelerator": SimpleNamespace(unwrap_model=lambda x: x, mixed_precision="bf16"),
                 "generation_config": Generation(**own | dict(asked or {}))}  # fmt: skip
        return SimpleNamespace(**about | {key: own[key] for key in LAW} | trainer)

    return made


def test_the_law_of_generate(trl):
    """What the trainer leaves open the checkpoint says; of top_k the library says 50."""
    of = sampler_of_trainer
    assert of(trl()) == Sampler(0.8, top_k=50, precision="bfloat16")
    assert of(trl({"top_k": 0})) == Sampler(0.8, precision="bfloat16")
    settings = {"top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2}
    assert of(trl(settings, {"top_k": 7, "top_p": 0.5})) == Sampler(0.8, **settings, precision="bfloat16")
    assert of(trl({}, {"top_k": 7, "min_p": 0.2})) == Sampler(0.8, top_k=7, min_p=0.2, precision="bfloat16")
    with pytest.raises(
        InputError, match=r"generation_kwargs: temperature: found 0.5, expected 0.8, at which TRL scores"
    ):
        of(trl(asked={"temperature": 0.5}))


def test_the_law_of_an_engine(trl):
    """It is given the trainer's settings, whatever the checkpoint says; −1 is no cut."""
    for engine in ({"use_vllm": True}, {"rollout_func": print}):
        assert sampler_of_trainer(trl({}, {"top_k": 7}, **engine)) == Sampler(0.8, precision="bfloat16")
        assert sampler_of_trainer(trl({"top_k": -1}, **engine)).top_k == 0
        assert sampler_of_trainer(trl({"top_k": 9}, asked={"top_p": 0.5}, **engine)) == Sampler(
            0.8, top_k=9, top_p=0.5, precision="bfloat16"
        )


@pytest.mark.parametrize("name", OTHERS)
def test_a_law_that_nothing_scores(trl, name):
    """Every other setting of `generate`: at its neutral value, or left open, it changes nothing."""
    sampler_of_trainer(trl({name: OTHERS[name]}))
    with pytest.raises(
        InputError, match=rf"generation_config.{name}: found 7, expected {OTHERS[name]}: with it tokens"
    ):
        sampler_of_trainer(trl({name: 7}))


def test_modules_that_are_random_in_train_mode():
    class Dropout:
        def __init__(self, p):
            self.p = p

    def model(**modules):
        return SimpleNamespace(named_modules=lambda: list(modules.items()))

    plain = SimpleNamespace(attention_dropout=0.0, use_dropout=True, width=3)
    assert dropout_of(model(a=plain, b=Dropout(0.0))) is None
    assert dropout_of(model(a=plain, b=Dropout(0.1))) == "0.1 in b.p"
    assert dropout_of(model(a=SimpleNamespace(attention_dropout=0.2))) == "0.2 in a.attention_dropout"
    assert dropout_of(model(a=SimpleNamespace(router_jitter_noise=0.01))) == "0.01 in a.router_jitter_noise"
