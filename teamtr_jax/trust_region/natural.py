"""U1: the natural gradient of a softmax table, with a line search on the KL."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import jax.numpy as jnp
from jax import Array, lax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from teamtr_jax.divergences import expected, kl_current_to_new
from teamtr_jax.trust_region._info import error_of, gains, require_estimate, require_setting, step_info, support_of
from teamtr_jax.trust_region._solve import tilted
from teamtr_jax.types import Estimate, Step, StepInfo
from teamtr_jax.validation import whole_number

__all__ = ["natural_gradient"]


def natural_gradient(radius: float | Array, shrink: float = 0.8, backtracks: int = 60) -> Step:
    """`π' ∝ π e^{ηÂ}`, `η = √(2δ/gᵀF⁻¹g)` shrunk until `Σ ŵ KL(π‖π') ≤ δ` and the gain is not negative.

    With logits `θ`, `∂π_a/∂θ_b = π_a(1{a=b} − π_b)`: the gradient of `Σ ŵ Σ_a π Â` is `g = ŵ π(Â − Ā)`, `Ā = Σ_a πÂ`, and the
    Fisher matrix is a block `ŵ(diag π − ππᵀ)` for each row. `F Â = g`, so the natural gradient `F⁺g` is `Â` up to a constant in
    each row, which no softmax sees, and `gᵀF⁺g = Σ ŵ Var_π Â`. The curve `θ + ηÂ` is that of `kl_constrained` with
    `KL(new‖current)` at `λ = 1/η`; here its end is where a quadratic model puts it, and the KL that is checked is
    KL(current‖new). On this curve the gain increases with `η`.

    Args:
      radius: `δ` in nats.
      shrink: factor of the line search, in (0, 1).
      backtracks: how often it is applied at most; then nothing moves.

    Raises:
      InputError: if the radius is negative or not a number, or another setting out of its range.
    """
    require_setting("radius", radius)
    require_setting("shrink", shrink, above=0.0, below=1.0)
    whole_number("backtracks", backtracks, 0)
    return Partial(_natural_gradient(backtracks), radius, shrink)


@cache
def _natural_gradient(backtracks: int) -> Callable[..., tuple[Array, StepInfo]]:
    def step(
        radius: ArrayLike, shrink: ArrayLike, current: Array, estimate: Estimate, memory: Array
    ) -> tuple[Array, StepInfo]:
        require_estimate(current, estimate)
        weight, advantage = estimate.weight, estimate.advantage
        share = jnp.where(support_of(current, weight), current, 0.0)
        deficit = gains(current, advantage, weight, error_of(current, estimate))
        mean = (share * deficit).sum(-1, keepdims=True)
        spread = (weight * (share * (deficit - mean) ** 2).sum(-1)).sum()
        useful = (spread > 0) & (jnp.asarray(radius) > 0)
        size = jnp.sqrt(2 * radius / jnp.where(useful, spread, 1.0))

        def table(eta: Array) -> Array:
            ratio, _ = tilted(share, deficit, jnp.broadcast_to(1 / eta, weight.shape))
            return jnp.where((deficit.max(-1) > 0)[:, None], current * ratio, current)

        def accepted(new: Array) -> Array:
            gain = (weight * ((current - new) * deficit).sum(-1)).sum()
            return (expected(weight, kl_current_to_new(current, new)) <= radius) & (gain >= 0)

        def searching(state: tuple[Array, Array, Array]) -> Array:
            return ~state[2] & (state[1] < backtracks)

        def shorter(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            eta = state[0] * shrink
            return eta, state[1] + 1, accepted(table(eta))

        start = jnp.where(useful, size, 1.0)
        eta, _, found = lax.while_loop(searching, shorter, (start, jnp.asarray(0), accepted(table(start)) | ~useful))
        moved = useful & found
        new = jnp.where(moved, table(eta), current)
        return new, step_info(current, new, advantage, weight, jnp.where(moved, 1 / eta, 0.0), memory)

    return step
