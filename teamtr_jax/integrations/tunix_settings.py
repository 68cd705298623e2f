"""Which learners of tunix are watched, and how their rollouts are drawn. tunix and jax are imported when these are called."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from teamtr_jax.integrations.checked_version import installed, require_version
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError

__all__ = ["KNOWN", "require_supported", "rollout_config", "sampler_settings", "scorable"]

KNOWN = ("0.1.7",)
"""Versions of tunix with which the adapter was tested."""


def rollout_config(cluster: Any) -> Any:
    """The settings of the rollouts that are trained on."""
    return cluster.get_rollout_config(import_module("tunix.rl.rl_cluster").Mode.TRAIN)


def sampler_settings(cluster: Any) -> Sampler:
    """How the rollouts are drawn, and in which precision the actor computes.

    Raises:
      InputError: for settings of which no scoring is the law: greedy rollouts, a cut that only the engine knows.
    """
    config, model = rollout_config(cluster), cluster.actor_trainer.model
    jnp, nnx = import_module("jax.numpy"), import_module("flax.nnx")
    if not config.temperature > 0:
        expected = "above 0: of a greedy rollout nothing is a log-probability"
        raise InputError("rollout_config.temperature", repr(config.temperature), expected)
    if config.top_p is None:
        expected = "in (0, 1]: with None tunix's own sampler is greedy, and vLLM takes the checkpoint's setting"
        raise InputError("rollout_config.top_p", None, expected)
    if not scorable(cluster):
        _own_engine(config)
    kind = getattr(getattr(model, "config", None), "dtype", None)
    if kind is None:
        kind = import_module("jax").tree.leaves(nnx.state(model, nnx.Param))[0].dtype
    top_k = max(config.top_k or 0, 0)
    return Sampler(
        temperature=float(config.temperature), top_k=top_k, top_p=float(config.top_p), precision=jnp.dtype(kind).name
    )


def scorable(cluster: Any) -> bool:
    """Whether the rollout worker's weights can be scored: it holds a model of tunix, as its own sampler does."""
    return isinstance(cluster.rollout.model(), import_module("flax.nnx").Module)


def _own_engine(config: Any) -> None:
    """An engine whose weights cannot be scored has to say all of its law."""
    if not config.return_logprobs:
        expected = "True: this engine's weights cannot be scored here, so its own log-probabilities are needed"
        raise InputError("rollout_config.return_logprobs", config.return_logprobs, expected)
    if config.top_k is None:
        expected = "a number, −1 for all tokens: with None the engine takes the checkpoint's setting"
        raise InputError("rollout_config.top_k", None, expected)
    if config.rollout_vllm_logprobs_mode != "processed_logprobs":
        expected = "'processed_logprobs': others are not those of the sampling temperature"
        raise InputError("rollout_config.rollout_vllm_logprobs_mode", config.rollout_vllm_logprobs_mode, expected)
    if more := sorted({*config.rollout_vllm_kwargs, *config.rollout_vllm_sampling_kwargs} & _LAW):
        raise InputError("rollout_config.rollout_vllm_sampling_kwargs", more[0], "no further change of the law")


_LAW = {"min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "bad_words",
        "allowed_token_ids", "min_tokens", "temperature", "top_k", "top_p", "generation_config",
        "override_generation_config"}  # fmt: skip
"""Settings of vLLM that make the rollouts another law than temperature, top_k and top_p say."""


def require_supported(learner: Any) -> None:
    """Refuse what would be scored wrongly or was never run, before anything is done.

    Raises:
      InputError: names what, and what is expected.
    """
    require_version("google-tunix", installed("google-tunix"), KNOWN)
    known = import_module("tunix").GRPOLearner
    if not isinstance(learner, known):
        expected = "tunix.GRPOLearner or a subclass of it; PPO and the agentic learner are not watched"
        raise InputError("learner", type(learner).__name__, expected)
    cluster = learner.rl_cluster
    if (count := import_module("jax").process_count()) > 1:
        raise InputError("jax.process_count()", count, "1: several processes were not tried")
    if cluster.cluster_config.offload_to_cpu:
        expected = "False: parameters that lie on the host between two uses were not tried"
        raise InputError("cluster_config.offload_to_cpu", True, expected)
    if not learner.should_sync_weights and learner.can_enable_async_rollout:
        found = "rollouts beside training, with the same weights"
        raise InputError("cluster_config.role_to_mesh", found, "one mesh, or weights of their own")
    sampler_settings(cluster)
