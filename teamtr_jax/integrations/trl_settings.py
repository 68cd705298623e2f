"""How TRL's GRPOTrainer draws its tokens, and what of it no log-probability would be of."""

from __future__ import annotations

import copy
from typing import Any

from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError

__all__ = ["sampler_of_trainer", "require_known_law", "dropout_of"]

LAW = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
TOP_K = 50
"""What `generate` does where neither the trainer nor the checkpoint says `top_k`."""
OTHERS = {
    "do_sample": True, "num_beams": 1, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None,
    "no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "bad_words_ids": None, "suppress_tokens": None,
    "begin_suppress_tokens": None, "sequence_bias": None, "guidance_scale": 1.0, "watermarking_config": None,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "exponential_decay_length_penalty": None,
    "encoder_repetition_penalty": 1.0,
}  # fmt: skip
"""Settings of `generate` that change the law of the tokens besides `LAW`, each with the value at which it does not."""


def sampler_of_trainer(trainer: Any) -> Sampler:
    """The sampler settings of a GRPOTrainer, and the precision of its scoring pass.

    transformers' `generate` takes what the trainer leaves `None` from the checkpoint's own `generation_config`, and `top_k` = 50
    where neither has one. An engine (vLLM, a rollout function) is given the trainer's settings.

    Raises:
      InputError: TRL scores at another temperature than it samples at; a setting that no log-probability of TRL's is of.
    """
    asked = trainer.args.generation_kwargs or {}
    if trainer.use_vllm or trainer.rollout_func is not None:
        law = {key: asked.get(key, getattr(trainer, key)) for key in LAW}
    else:
        config = _effective(trainer)
        _refuse_others(config)
        law = {key: getattr(config, key) for key in LAW}
        law["top_k"] = TOP_K if law["top_k"] is None else law["top_k"]
    law["temperature"] = trainer.temperature if law["temperature"] is None else law["temperature"]
    if law["temperature"] != trainer.temperature:
        expected = f"{trainer.temperature}, at which TRL scores: set GRPOConfig(temperature=…)"
        raise InputError("generation_kwargs: temperature", law["temperature"], expected)
    given = {key: value for key, value in law.items() if value is not None}
    given["top_k"] = max(int(given.get("top_k", 0)), 0)  # vLLM writes −1 for no cut
    return Sampler(**given, precision=_precision(trainer))


def require_known_law(trainer: Any) -> None:
    """Refuse a trainer whose rollouts no policy has written that can be scored.

    Raises:
      InputError: names the setting and the remedy.
    """
    if not isinstance(trainer.processing_class, _tokenizers()):
        found = type(trainer.processing_class).__name__
        raise InputError("processing_class", found, "a tokenizer: models that see images were not tried")
    if trainer.use_transformers_continuous_batching:
        raise InputError("use_transformers_continuous_batching", True, "False: it was not tried")
    engine = trainer.use_vllm or trainer.rollout_func is not None
    if not engine and (found := dropout_of(trainer.model)):
        raise InputError(
            "dropout", found, "none: TRL samples in train mode, so that no one policy writes the rollouts. Set "
            "GRPOConfig(disable_dropout=True), and attention_dropout=0 in the model's config"
        )  # fmt: skip


def dropout_of(model: Any) -> str | None:
    """A module that is random in train mode and its rate, `None` if there is none.

    Seen are modules named Dropout and numbers above 0 that a module keeps under a name with "drop" or "jitter".
    """
    for name, module in model.named_modules():
        kept = {key: value for key, value in vars(module).items() if "drop" in key.lower() or "jitter" in key.lower()}
        if "Dropout" in type(module).__name__:
            kept["p"] = getattr(module, "p", 0.0)
        for key, value in kept.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
                return f"{value} in {name or type(module).__name__}.{key}"
    return None


def _tokenizers() -> type:
    from transformers import PreTrainedTokenizerBase  # pyright: ignore[reportMissingImports]

    return PreTrainedTokenizerBase


def _effective(trainer: Any) -> Any:
    """The generation config that `generate` uses: the trainer's, completed by the checkpoint's."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = copy.deepcopy(trainer.generation_config)
    config.update(**model.generation_config.to_dict(), defaults_only=True)
    return config


def _refuse_others(config: Any) -> None:
    for key, neutral in OTHERS.items():
        value = getattr(config, key, None)
        if value is not None and value != neutral:
            expected = f"{neutral}: with it tokens are drawn from a law that nothing scores; it may stand in the "
            raise InputError(f"generation_config.{key}", value, f"{expected}checkpoint's generation_config.json")


def _precision(trainer: Any) -> str:
    """Of the scoring pass: of autocast, or of the weights."""
    import torch  # pyright: ignore[reportMissingImports]

    if (mixed := str(trainer.accelerator.mixed_precision)) != "no":
        return {"bf16": "bfloat16", "fp16": "float16", "fp8": "float8"}.get(mixed, mixed)
    dtype = str(next(x for x in trainer.model.parameters() if x.is_floating_point()).dtype).removeprefix("torch.")
    coarse = trainer.accelerator.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return "tfloat32" if dtype == "float32" and coarse else dtype
