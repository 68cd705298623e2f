"""What came of an update, on the rows that trained it. Means over rollouts, or over the messages of the agents that moved."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from teamtr_jax.llm.given import Given, Rows
from teamtr_jax.llm.losses import Divergence, clipped_surrogate, k1, k3, per_message, ratio_of, unit_weights

__all__ = ["monitor", "linear", "certificate", "diagnose"]


def _mean(x: Array, weight: Array) -> Array:
    return (weight * x).sum() / jnp.maximum(weight.sum(), jnp.finfo(weight.dtype).tiny)


def _per_rollout(rows: Rows, x: Float[Array, "R turns"]) -> Float[Array, ""]:
    """`Ê[w Σ_m x]`: the sum over the messages of the agents that moved, mean over rollouts."""
    return (rows.messages * x).sum() / len(x)


def monitor(given: Given, rows: Rows, moved: Divergence) -> Float[Array, ""]:
    """What is compared with `delta`: a KL(current‖new), mean over the messages of the agents that moved."""
    return _mean(per_message(given.compiled.monitor(moved)), rows.messages)


def linear(rows: Rows, moved: Divergence, advantage: Float[Array, " R"]) -> Float[Array, ""]:
    """`Ê[w Σ_m (ρ_m − 1)] A`, ρ of whole messages."""
    return _per_rollout(rows, (ratio_of(per_message(moved.log_ratio)) - 1) * advantage[:, None])


def certificate(given: Given, rows: Rows, moved: Divergence) -> Float[Array, ""]:
    """S7: `L̂ − ϱK̂`."""
    kl = _per_rollout(rows, per_message(moved.kl))
    return linear(rows, moved, rows.centred) - given.traced.reward_range * kl


def diagnose(
    given: Given, rows: Rows, moved: Divergence, entropy: Float[Array, "R turns L"]
) -> dict[str, Float[Array, ""]]:
    """The numbers of a record that only the rows and the step can tell (`language_backend` says what each is).

    Args:
      rows: those that trained, and were measured.
      moved: from the agent before the update to the one after it.
      entropy: of the agent after it, at its tokens.
    """
    compiled, traced = given.compiled, given.traced
    spoke = rows.own.any(-1)
    kl, log_ratio = per_message(moved.kl), per_message(moved.log_ratio)
    third = per_message(k3(moved.log_ratio))
    units = compiled.ratio.units(rows.credited)
    unit = unit_weights(units, rows.counts, compiled.average)
    lift = (-1,) + (1,) * (unit.ndim - 1)
    clipped_log_ratio, advantage = compiled.ratio.log_ratio(moved.log_ratio, rows.own), rows.advantage.reshape(lift)
    gain = clipped_surrogate(clipped_log_ratio, advantage, traced.clip_low, traced.clip_high)
    ratio = ratio_of(clipped_log_ratio)
    cut = jnp.where(advantage > 0, ratio > 1 + traced.clip_high, ratio < 1 - traced.clip_low) & (advantage != 0)
    return {
        "surrogate": (unit * rows.weight.reshape(lift) * gain).sum(),
        "kl": _per_rollout(rows, kl),
        "gain": linear(rows, moved, rows.advantage),
        "surrogate_raw": linear(rows, moved, rows.centred),
        "certificate_estimable": certificate(given, rows, moved),
        "kl_k1": _per_rollout(rows, k1(log_ratio)),
        "kl_k3": _per_rollout(rows, third),
        "message_kl": _mean(kl, rows.messages),
        "message_kl_k1": _mean(k1(log_ratio), rows.messages),
        "message_kl_k3": _mean(third, rows.messages),
        "monitor": monitor(given, rows, moved),
        "outside": _mean((kl > traced.delta).astype(kl.dtype), spoke.astype(kl.dtype)),
        "clipped": _mean(cut.astype(kl.dtype), units.astype(kl.dtype)),
        "entropy": _mean(entropy, rows.own.astype(entropy.dtype)),
    }
