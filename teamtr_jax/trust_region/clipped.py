"""PPO on a softmax table: clipped ratios, a KL penalty that adapts, and an early stop on the monitor."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from teamtr_jax.divergences import expected, kl_current_to_new
from teamtr_jax.trust_region._info import error_of, gains, require_estimate, require_setting, step_info, support_of
from teamtr_jax.trust_region.adaptive import adapted
from teamtr_jax.types import Estimate, Step, StepInfo
from teamtr_jax.validation import at_least, positive, whole_number

__all__ = ["ppo_clip"]


def ppo_clip(
    radius: float,
    clip: float | None = 0.2,
    *,
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
    if adaptive:
        positive("target", aim, "a positive number (its default is half of the radius), or adaptive=False")
        positive("beta", beta, "a positive number, or adaptive=False")
    for name, value in (("clip", 0.0 if clip is None else clip), ("beta", beta)):
        require_setting(name, value, -math.inf)
        at_least(name, value, expected="at least 0")
    whole_number("epochs", epochs, 0, expected="at least 0")
    whole_number("backtracks", backtracks, 0, expected="at least 0")
    require_setting("learning_rate", learning_rate, above=0.0, below=math.inf)
    unclipped = math.inf if clip is None else clip
    settings = _Settings(radius, unclipped, learning_rate, beta, aim, adaptive)
    return Partial(_ppo_clip(epochs, backtracks, optimiser), settings)


class _Settings(NamedTuple):
    """What `ppo_clip` was given, traced."""

    radius: ArrayLike
    clip: ArrayLike
    learning_rate: ArrayLike
    beta: ArrayLike
    aim: ArrayLike
    adaptive: ArrayLike


class _Problem(NamedTuple):
    """What the logits of one agent's rows are for."""

    current: Array  #: [R, A]
    estimate: Estimate
    support: Array  #: [R, A], entries that may move
    share: Array  #: [R, A], `π` there, zero elsewhere
    total: Array  #: [R, 1], their sum; 1 in rows that stay
    clip: ArrayLike
    penalty: Array  #: `β`

    def log_ratios(self, logits: Array) -> Array:
        """`log π'/π` for logits `log π + logits`; exactly 0 at zero."""
        logits = jnp.where(self.support, logits, 0.0)
        logits -= lax.stop_gradient(logits.max(-1, keepdims=True))
        mean = (self.share * jnp.exp(logits)).sum(-1, keepdims=True) / self.total
        return jnp.where(self.support, logits - jnp.log(jnp.where(mean > 0, mean, 1.0)), 0.0)

    def surrogate(self, ratio: Array) -> Array:
        """`Σ [min(ρ, 1+ε) − 1] Â⁺ − [max(ρ, 1−ε) − 1] Â⁻`."""
        up, down = jnp.minimum(ratio, 1 + self.clip), jnp.maximum(ratio, 1 - self.clip)
        terms = (up - 1) * self.estimate.positive - (down - 1) * self.estimate.negative
        return jnp.where(self.support, terms, 0.0).sum()

    def loss(self, logits: Array) -> Array:
        """`β Σ ŵ KL(π‖π')` less the surrogate."""
        log_ratio = self.log_ratios(logits)
        divergence = -(self.share * log_ratio).sum(-1)
        return self.penalty * (self.estimate.weight * divergence).sum() - self.surrogate(jnp.exp(log_ratio))

    def table(self, logits: Array) -> Array:
        """`π'`."""
        return jnp.where(self.support, self.current * jnp.exp(self.log_ratios(logits)), self.current)

    def monitor(self, logits: Array) -> Array:
        """`Σ ŵ KL(π‖π')`."""
        return expected(self.estimate.weight, kl_current_to_new(self.current, self.table(logits)))


class _Climb(NamedTuple):
    """The loop of epochs."""

    before: Array  #: logits one epoch earlier
    last: Array
    moments: Any  #: of the optimiser
    reached: Array  #: the monitor at `last`
    epochs: Array
    inside: Array  #: whether that is in the region


@cache
def _ppo_clip(
    epochs: int, backtracks: int, optimiser: optax.GradientTransformation | None
) -> Callable[..., tuple[Array, StepInfo]]:
    def step(settings: _Settings, current: Array, estimate: Estimate, memory: Array) -> tuple[Array, StepInfo]:
        require_estimate(current, estimate)
        transform = optax.adam(jnp.asarray(settings.learning_rate)) if optimiser is None else optimiser
        error = error_of(current, estimate)
        useful = gains(current, estimate.advantage, estimate.weight, error).max(-1, keepdims=True) > 0
        support = support_of(current, estimate.weight) & useful
        share = jnp.where(support, current, 0.0)
        total = jnp.where(support.any(-1, keepdims=True), share.sum(-1, keepdims=True), 1.0)
        penalty = jnp.where(jnp.asarray(settings.adaptive) & (memory > 0), memory, settings.beta)
        problem = _Problem(current, estimate, support, share, total, settings.clip, penalty)

        def unfinished(climb: _Climb) -> Array:
            return climb.inside & (climb.epochs < epochs)

        def ascend(climb: _Climb) -> _Climb:
            logits = climb.last
            change: Any
            change, moments = transform.update(jax.grad(problem.loss)(logits), climb.moments, logits)
            following = logits + jnp.where(support, change, 0.0)
            reached = problem.monitor(following)
            return _Climb(logits, following, moments, reached, climb.epochs + 1, reached <= settings.radius)

        origin, none = jnp.zeros_like(current), jnp.zeros((), current.dtype)
        begin = _Climb(origin, origin, transform.init(origin), none, jnp.asarray(0), jnp.asarray(True))
        end = lax.while_loop(unfinished, ascend, begin)

        def shortened(scale: Array | float) -> Array:
            return end.before + scale * (end.last - end.before)

        scales = 0.5 ** jnp.arange(1, backtracks + 1, dtype=current.dtype)
        fits = jax.vmap(lambda scale: problem.monitor(shortened(scale)) <= settings.radius)
        scale = jnp.where(fits(scales), scales, 0.0).max(initial=0.0) if backtracks else 0.0
        logits = jnp.where(end.inside, end.last, shortened(scale))

        following = adapted(penalty, end.reached, settings.aim, end.epochs, settings.beta)
        new = problem.table(logits)
        return new, step_info(
            current,
            new,
            estimate.advantage,
            estimate.weight,
            multiplier=penalty,
            memory=jnp.where(settings.adaptive, following, memory),
            objective=problem.surrogate(jnp.exp(problem.log_ratios(logits))),
        )

    return step
