"""PPO on a softmax table: clipped ratios, a KL penalty that adapts, and an early stop on the monitor."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from teamtr_jax.divergences import expected, kl_current_to_new
from teamtr_jax.trust_region._info import (
    error_of,
    gains,
    require_estimate,
    require_setting,
    step_info,
    support_of,
)
from teamtr_jax.trust_region.adaptive import adapted
from teamtr_jax.types import Estimate, Step, StepInfo
from teamtr_jax.validation import InputError, whole_number

__all__ = ["ppo_clip"]


def ppo_clip(
    radius: float,
    clip: float | None = 0.2,
    epochs: int = 40,
    learning_rate: float = 0.05,
    beta: float = 1.0,
    target: float | None = None,
    adaptive: bool = True,
    backtracks: int = 0,
    optimiser: optax.GradientTransformation | None = None,
) -> Step:
    """PPO-clip with a KL penalty (Schulman et al. 2017) on the logits of one agent's rows, the whole batch in each epoch.

    It ascends `Σ_{s,a} [min(ρ, 1+ε) Â⁺ − max(ρ, 1−ε) Â⁻] − β Σ_s ŵ KL(π‖π')`, `ρ = π'/π`, with `Â⁺`, `Â⁻` the `positive` and
    `negative` parts of the estimate: the clipped ratio of PPO, since `min(ρÂ, clip(ρ)Â)` is `min(ρ, 1+ε)Â` for `Â ≥ 0` and
    `max(ρ, 1−ε)Â` for `Â < 0`. The result is the last iterate whose monitor `Σ ŵ KL(π‖π')` is at most the radius.

    `β` is the step's memory and follows the rule of `adapted` on the KL that the last epoch reached, kept or not. A memory of 0
    stands for `beta`. Rows in which rounding can have made the differences of `Â` stay: Adam scales what it is given.

    Args:
      radius: `δ` in nats; infinite: no early stop.
      clip: `ε`; `None`: the ratios are not clipped.
      epochs: gradient steps at most.
      learning_rate: of Adam.
      beta: first or fixed coefficient of the KL penalty.
      target: KL at which `β` rests; default half of the radius.
      adaptive: whether `β` adapts; otherwise it is `beta`, and the memory is returned as it came.
      backtracks: how often the step that left the region is halved to get back into it; 0: it is undone.
      optimiser: an optax transformation instead of Adam.

    Raises:
      InputError: if `β` adapts to a target that is not positive and finite, or another setting is out of its range.
    """
    require_setting("radius", radius)
    aim = radius / 2 if target is None else target
    require_setting("target", aim, -math.inf)
    if adaptive and not 0 < aim < math.inf:
        raise InputError("target", aim, "a positive number (its default is half of the radius), or adaptive=False")
    at_least_0 = {"clip": 0.0 if clip is None else clip, "beta": beta, "epochs": epochs, "backtracks": backtracks}
    for name, value in at_least_0.items():
        require_setting(name, value, -math.inf)
        if name == "beta" and adaptive and not 0 < beta < math.inf:
            raise InputError(name, value, "a positive number, or adaptive=False")
        if value < 0:
            raise InputError(name, value, "at least 0")
    whole_number("epochs", epochs, 0)
    whole_number("backtracks", backtracks, 0)
    require_setting("learning_rate", learning_rate, above=0.0, below=math.inf)
    unclipped = math.inf if clip is None else clip
    return Partial(_ppo_clip(epochs, backtracks, optimiser), radius, unclipped, learning_rate, beta, aim, adaptive)


@cache
def _ppo_clip(
    epochs: int, backtracks: int, optimiser: optax.GradientTransformation | None
) -> Callable[..., tuple[Array, StepInfo]]:
    def step(
        radius: ArrayLike,
        clip: ArrayLike,
        learning_rate: ArrayLike,
        beta: ArrayLike,
        aim: ArrayLike,
        adaptive: ArrayLike,
        current: Array,
        estimate: Estimate,
        memory: Array,
    ) -> tuple[Array, StepInfo]:
        require_estimate(current, estimate)
        transform = optax.adam(jnp.asarray(learning_rate)) if optimiser is None else optimiser
        error = error_of(current, estimate)
        useful = gains(current, estimate.advantage, estimate.weight, error).max(-1, keepdims=True) > 0
        support = support_of(current, estimate.weight) & useful
        share = jnp.where(support, current, 0.0)
        total = jnp.where(support.any(-1, keepdims=True), share.sum(-1, keepdims=True), 1.0)
        penalty = jnp.where(jnp.asarray(adaptive) & (memory > 0), memory, beta)

        def log_ratios(logits: Array) -> Array:
            """`log π'/π` for logits `log π + logits`; exactly 0 at zero."""
            logits = jnp.where(support, logits, 0.0)
            logits -= lax.stop_gradient(logits.max(-1, keepdims=True))
            mean = (share * jnp.exp(logits)).sum(-1, keepdims=True) / total
            return jnp.where(support, logits - jnp.log(jnp.where(mean > 0, mean, 1.0)), 0.0)

        def surrogate(ratio: Array) -> Array:
            up, down = jnp.minimum(ratio, 1 + clip), jnp.maximum(ratio, 1 - clip)
            terms = (up - 1) * estimate.positive - (down - 1) * estimate.negative
            return jnp.where(support, terms, 0.0).sum()

        def loss(logits: Array) -> Array:
            log_ratio = log_ratios(logits)
            divergence = -(share * log_ratio).sum(-1)
            return penalty * (estimate.weight * divergence).sum() - surrogate(jnp.exp(log_ratio))

        def table(logits: Array) -> Array:
            return jnp.where(support, current * jnp.exp(log_ratios(logits)), current)

        def monitor(logits: Array) -> Array:
            return expected(estimate.weight, kl_current_to_new(current, table(logits)))

        def unfinished(state: tuple[Any, ...]) -> Array:
            *_, epoch, inside = state
            return inside & (epoch < epochs)

        def ascend(state: tuple[Any, ...]) -> tuple[Any, ...]:
            _, logits, moments, _, epoch, _ = state
            change: Any
            change, moments = transform.update(jax.grad(loss)(logits), moments, logits)
            following = logits + jnp.where(support, change, 0.0)
            reached = monitor(following)
            return logits, following, moments, reached, epoch + 1, reached <= radius

        origin = jnp.zeros_like(current)
        begin = (
            origin,
            origin,
            transform.init(origin),
            jnp.zeros((), current.dtype),
            jnp.asarray(0),
            jnp.asarray(True),
        )
        before, last, _, reached, steps, inside = lax.while_loop(unfinished, ascend, begin)

        def halved(scale: Array) -> Array:
            return monitor(before + scale * (last - before)) <= radius

        scales = 0.5 ** jnp.arange(1, backtracks + 1, dtype=current.dtype)
        scale = jnp.where(jax.vmap(halved)(scales), scales, 0.0).max(initial=0.0) if backtracks else 0.0
        logits = jnp.where(inside, last, before + scale * (last - before))
        new = table(logits)

        following = adapted(penalty, reached, aim, steps, beta)
        return new, step_info(
            current,
            new,
            estimate.advantage,
            estimate.weight,
            multiplier=penalty,
            memory=jnp.where(adaptive, following, memory),
            objective=surrogate(jnp.exp(log_ratios(logits))),
        )

    return step
