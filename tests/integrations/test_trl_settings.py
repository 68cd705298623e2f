"""How TRL draws tokens: what `generate` really does is what the log says, or it is refused."""

import pyarrow.parquet
import pytest
from transformers import GenerationConfig
from transformers.generation import logits_process
from trl_runs import network, trainer

from teamtr_jax.integrations import trl as module
from teamtr_jax.integrations.trl import watch
from teamtr_jax.integrations.trl_settings import OTHERS, sampler_of_trainer
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError


def processors(made):
    """What changes the logits when this trainer samples, as transformers makes them."""
    config, _ = made.model._prepare_generation_config(made.generation_config)
    made.model._prepare_special_tokens(config, device="cpu")
    return made.model._get_logits_processor(config, input_ids_seq_length=1)


NAMES = {"TopKLogitsWarper": "top_k", "TopPLogitsWarper": "top_p", "MinPLogitsWarper": "min_p",
         "TemperatureLogitsWarper": "temperature", "RepetitionPenaltyLogitsProcessor": "penalty"}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "checkpoint"),
    [
        ({}, {}),
        (dict(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, repetition_penalty=1.2), {}),
        (dict(generation_kwargs={"top_k": None}), {}),
        (
            {},
            dict(min_p=0.2, top_k=7, top_p=0.5, repetition_penalty=1.3, temperature=0.3),
        ),  # min_p is taken, the others not
        (dict(generation_kwargs={"top_p": 0.8}), dict(top_p=0.5)),
    ],
)
def test_the_log_says_what_generate_does(tmp_path, settings, checkpoint):
    model = network()
    model.generation_config = GenerationConfig(eos_token_id=1, **checkpoint)
    made, _ = trainer(tmp_path, model, **{"temperature": 1.0, **settings})
    really = {}
    for processor in processors(made):
        name = type(processor).__name__
        value = getattr(processor, {"TopKLogitsWarper": "top_k", "TopPLogitsWarper": "top_p", "MinPLogitsWarper": "min_p",
                                    "TemperatureLogitsWarper": "temperature"}.get(name, "penalty"))  # fmt: skip
        really[NAMES[name]] = value
    want = Sampler(
        temperature=really.pop("temperature", 1.0), top_k=really.pop("top_k", 0), top_p=really.pop("top_p", 1.0),
        min_p=really.pop("min_p", 0.0), repetition_penalty=really.pop("penalty", 1.0),
    )  # fmt: skip
    assert not really
    assert sampler_of_trainer(made) == want
    assert want.top_k == (
        50 if settings.get("generation_kwargs", {}).get("top_k", 0) is None else settings.get("top_k", 0)
    )
    assert hasattr(logits_process, "TopHLogitsWarper")


def test_precision_and_the_file(tmp_path):
    for bf16, dtype, found in (
        (True, "float32", "bfloat16"),
        (False, "bfloat16", "bfloat16"),
        (False, "float64", "float64"),
    ):
        model = network().to(getattr(__import__("torch"), dtype))
        assert sampler_of_trainer(trainer(tmp_path, model, bf16=bf16)[0]).precision == found
    made, _ = trainer(tmp_path, max_steps=1, top_p=0.9)
    watch(made, tmp_path / "log")
    made.train()
    made.teamtr_watch.close()
    (part,) = (tmp_path / "log").glob("*.parquet")
    metadata = pyarrow.parquet.read_schema(part).metadata
    assert b'"top_p": 0.9' in metadata[b"teamtr_sampler"]
    assert b'"temperature": 0.8' in metadata[b"teamtr_sampler"]


@pytest.mark.parametrize(
    "key", [k for k in OTHERS if k in ("typical_p", "no_repeat_ngram_size", "min_new_tokens", "epsilon_cutoff")]
)
def test_a_law_that_nothing_scores_is_refused(tmp_path, key):
    """Even where it stands in the checkpoint only."""
    value = {"typical_p": 0.9, "no_repeat_ngram_size": 2, "min_new_tokens": 3, "epsilon_cutoff": 0.01}[key]
    model = network()
    model.generation_config = GenerationConfig(eos_token_id=1, **{key: value})
    made, _ = trainer(tmp_path, model)
    with pytest.raises(InputError, match=f"generation_config.{key}: found {value}"):
        watch(made, tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_every_processor_is_known(tmp_path):
    """Whatever transformers can put between logits and tokens is a setting of the log or one that is refused."""
    made, _ = trainer(tmp_path)
    assert {type(x).__name__ for x in processors(made)} == {"TemperatureLogitsWarper"}
    fields = set(GenerationConfig().to_dict())
    known = {*OTHERS, "temperature", "top_k", "top_p", "min_p", "repetition_penalty"}
    source = __import__("inspect").getsource(type(made.model)._get_logits_processor)
    used = {name for name in fields if f"generation_config.{name}" in source}
    # of beams and encoders, of how a processor is run, of numbers that are none: none changes the law of a decoder's samples
    harmless = {"encoder_no_repeat_ngram_size", "remove_invalid_values", "renormalize_logits", "use_cache", "max_length",
                "return_dict_in_generate", "output_scores", "max_new_tokens", "eos_token_id"}  # fmt: skip
    assert used - harmless <= known, used - harmless - known


def test_another_temperature_than_trl_scores_at(tmp_path):
    made, _ = trainer(tmp_path, generation_kwargs={"temperature": 0.5})
    with pytest.raises(InputError, match=r"temperature: found 0\.5, expected 0\.8"):
        watch(made, tmp_path / "log")


def test_dropout_is_refused_unless_an_engine_samples(tmp_path):
    made, _ = trainer(tmp_path, network(attention_dropout=0.1))
    with pytest.raises(InputError, match=r"dropout: found 0\.1 in model\.layers\.0\.self_attn\.attention_dropout"):
        watch(made, tmp_path / "log")
    from peft import LoraConfig

    lora = LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.2)
    with pytest.raises(InputError, match=r"0\.2 in .*lora_dropout.*disable_dropout=True"):
        watch(trainer(tmp_path, peft=lora)[0], tmp_path / "log")
    watch(trainer(tmp_path, peft=lora, disable_dropout=True)[0], tmp_path / "log").close()
    made, _ = trainer(tmp_path, network(attention_dropout=0.1), rollout_func=lambda prompts, trainer: {})
    watch(made, tmp_path / "log").close()


def test_what_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    made, _ = trainer(tmp_path)
    monkeypatch.setattr(module, "KNOWN", ("0.1.0",))
    with pytest.raises(InputError, match=r"trl: found version 1\.1.*, expected 0\.1\.0: with these"):
        watch(made, tmp_path / "log")
    monkeypatch.undo()
    for wrong, message in (
        (dict(agent=-1), "agent: found -1"), (dict(turn=1.5), "turn: found 1.5"), (dict(stage="0"), "stage: found '0'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            watch(made, tmp_path / "log", **wrong)
    with pytest.raises(InputError, match=r"trainer: found object, expected a trl\.GRPOTrainer"):
        watch(object(), tmp_path / "log")
    assert not (tmp_path / "log").exists()
    first = watch(made, tmp_path / "log")
    with pytest.raises(InputError, match="one that is watched"):
        watch(made, tmp_path / "other")
    kept = dict(vars(made))
    first.close()
    assert set(kept) - set(vars(made)) == {*module.WRAPPED, "teamtr_watch"}
    watch(made, tmp_path / "log").close()


def test_agents_that_a_user_counts_wrongly(tmp_path):
    made, _ = trainer(tmp_path, max_steps=1)
    watch(made, tmp_path / "log", agent=lambda rows: [0])
    with pytest.raises(InputError, match=r"agent: found .*, expected \[8\] integers"):
        made.train()
