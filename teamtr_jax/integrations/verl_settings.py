"""How verl's engines draw their tokens and what scores them, from its configuration (docs/verl.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError

__all__ = ["sampler_of_config", "bypassed"]

ROLLOUT = "actor_rollout_ref.rollout"
PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "float": "float32", "half": "float16"}
SECTIONS = {"megatron": "megatron", "veomni": "veomni", "torchtitan": "torchtitan", "automodel": "automodel"}
"""By strategy, the section of the actor's configuration that says its precision; `fsdp_config` of all others."""


def sampler_of_config(config: Any) -> Sampler:
    """The sampler settings of a trainer's configuration, and the precision of its scoring pass.

    Raises:
      InputError: the engine returns no log-probabilities, or those of another law than it draws from; greedy decoding.
    """
    rollout = config.actor_rollout_ref.rollout
    if not rollout.get("calculate_log_probs", False):
        expected = "True: without the engine's log-probabilities nobody knows what the tokens were drawn from"
        raise InputError(f"{ROLLOUT}.calculate_log_probs", False, expected)
    if not rollout.get("do_sample", True):
        raise InputError(f"{ROLLOUT}.do_sample", False, "True: of greedy decoding nothing is a log-probability")
    top_k, top_p = rollout.get("top_k", -1), rollout.get("top_p", 1.0)
    sampler = Sampler(
        temperature=float(rollout.temperature),
        top_k=max(int(-1 if top_k is None else top_k), 0),  # −1: no cut
        top_p=float(1.0 if top_p is None else top_p),
        precision=_precision(config.actor_rollout_ref.actor),
    )
    _require_law(rollout, sampler)
    return sampler


def bypassed(config: Any) -> bool:
    """Whether `old_log_probs` is a copy of the engine's numbers, and no scoring of the trainer's."""
    correction = config.algorithm.get("rollout_correction", None)
    return bool(correction and correction.get("bypass_mode", False))


def _require_law(rollout: Any, sampler: Sampler) -> None:
    """Refuse an engine whose log-probabilities are not of the law that it draws from."""
    engine = rollout.get("name", "vllm")
    if engine == "vllm":
        mode = rollout.get("logprobs_mode", "processed_logprobs")
        if mode != "processed_logprobs" and (sampler.cuts or sampler.temperature != 1):
            expected = "processed_logprobs: of the law that the tokens are drawn from, temperature and cuts included"
            raise InputError(f"{ROLLOUT}.logprobs_mode", mode, expected)
    elif sampler.cuts:
        found = f"top_k = {sampler.top_k}, top_p = {sampler.top_p:g} of {engine}"
        raise InputError(
            f"{ROLLOUT}.top_k, top_p", found, "top_k = -1, top_p = 1: it returns the log-probabilities before the cut"
        )


def _precision(actor: Any) -> str:
    """Of the forward pass that scores. verl's engines cast to bfloat16 where nothing else is said."""
    section = actor.get(SECTIONS.get(str(actor.get("strategy", "fsdp")), "fsdp_config"), None)
    section = section if isinstance(section, Mapping) or hasattr(section, "get") else {}
    name = str(section.get("dtype", None) or section.get("mp_param_dtype", None) or "bfloat16").removeprefix("torch.")
    return PRECISIONS.get(name, name)
