"""Distances between policies, with the direction of every KL in its name, and the token chain rule (P3.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from teamtr_jax.dynamics import Tree
from teamtr_jax.types import floats
from teamtr_jax.validation import InputError, probability_rows, require_float64

__all__ = ["total_variation", "kl_current_to_new", "kl_new_to_current", "kl_terms", "chi_square_new_to_current",
           "chi_square_terms", "expected", "exclusive_sum",
           "message_probabilities", "message_kl_current_to_new", "token_kl_current_to_new"]  # fmt: skip

_TERMS = 12
_SMALL = 0.3


def _excess(r: Float[Array, "..."], ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """`r − log(1+r) ≥ 0`, `ratio = 1+r`, to a relative error of some dozen units.

    Where `|r|` is small, `z = r/(2+r)` and `log(1+r) = 2·artanh z` give `z·(r − 2z²(1/3 + z²/5 + z⁴/7 + …))`: nothing cancels.
    Elsewhere the logarithm of the ratio itself, because `1 + r` has lost the digits of a small ratio.
    """
    small = abs(r) < _SMALL
    x = jnp.where(small, r, 0.0)
    z = x / (2 + x)
    series = jnp.zeros_like(x)
    for k in reversed(range(_TERMS)):
        series = series * (z * z) + 1 / (2 * k + 3)
    return jnp.where(small, z * (x - 2 * (z * z) * series), r - jnp.log(jnp.where(small, 1.0, ratio)))


def _rows(**tables: Array) -> None:
    """Two tables over the same outcomes, of finite numbers ≥ 0."""
    require_float64(**tables)
    (first, p), (second, q) = tables.items()
    rows = [*zip(p.shape[-2::-1], q.shape[-2::-1], strict=False)]
    if p.shape[-1:] != q.shape[-1:] or not p.shape or any(x != y and 1 not in (x, y) for x, y in rows):
        raise InputError(second, f"shape {list(q.shape)}", f"rows over the same outcomes as {first}, {list(p.shape)}")
    for name, table in tables.items():
        if (values := floats(table)) is not None:
            probability_rows(name, values, sums=False)


def total_variation(p: Float[Array, "*batch A"], q: Float[Array, "*batch A"]) -> Float[Array, "*batch"]:
    """`TV(p, q) = ½ Σ_a |p_a − q_a|` in [0, 1].

    Example:
      >>> print(float(total_variation(jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0]))))
      0.5

    Raises:
      InputError: if the arrays are not float64, or hold what is no probability.
    """
    _rows(p=p, q=q)
    return 0.5 * abs(p - q).sum(-1)


def kl_current_to_new(current: Float[Array, "*batch A"], new: Float[Array, "*batch A"]) -> Float[Array, "*batch"]:
    """`KL(current ‖ new) = Σ_a p_a log(p_a/q_a)` in nats, `[0, ∞]`; current first, as a trainer on its own rollouts has it.

    Computed as `Σ p·(r − log(q/p))`, `r = (q−p)/p` (a series for small `r`), plus `Σ q` where `p = 0`: equal for normalised
    rows, every term ≥ 0, no cancellation for small steps. `0·log 0 = 0`; infinite where `new` drops an action of `current`.
    Rows that do not sum to one are taken as they are: `Σ p log(p/q) + q − p`.

    Raises:
      InputError: if the arrays are not float64, or hold what is no probability.

    Example:
      >>> p = jnp.array([0.5, 0.5]); q = jnp.array([0.25, 0.75])
      >>> print(round(float(kl_current_to_new(p, q)), 6), round(float(kl_new_to_current(p, q)), 6))
      0.143841 0.130812
      >>> print(float(kl_current_to_new(p, jnp.array([1.0, 0.0]))))
      inf
    """
    _rows(current=current, new=new)
    return kl_terms(current, new, new - current).sum(-1)


@jax.jit
def kl_terms(
    current: Float[Array, "*batch A"], new: Float[Array, "*batch A"], step: Float[Array, "*batch A"]
) -> Float[Array, "*batch A"]:
    """`k(a) ≥ 0` with `Σ_a k(a) = KL(current ‖ new)`: `p·(u − log(1+u))`, `u = step/p`, and `q` where `p = 0`.

    Args:
      step: `new − current`, formed without cancellation.
    """
    used = current > 0
    p = jnp.where(used, current, 1.0)
    return jnp.where(used, p * _excess(step / p, new / p), step)


def kl_new_to_current(current: Float[Array, "*batch A"], new: Float[Array, "*batch A"]) -> Float[Array, "*batch"]:
    """`KL(new ‖ current)`: the other direction, arguments in the same order."""
    return kl_current_to_new(new, current)


def chi_square_terms(current: Float[Array, "*batch A"], step: Float[Array, "*batch A"]) -> Float[Array, "*batch A"]:
    """`step²/current`, `0` where nothing moves, `∞` where something moves that `current` never takes.

    Of `step = new − current` the sum is `χ²(new ‖ current) = Σ_a (new − current)²/current`.
    """
    used = current > 0
    return jnp.where(used, step * (step / jnp.where(used, current, 1.0)), jnp.where(step == 0, 0.0, jnp.inf))


def chi_square_new_to_current(
    current: Float[Array, "*batch A"], new: Float[Array, "*batch A"]
) -> Float[Array, "*batch"]:
    """`χ²(new ‖ current) = Σ_a (new − current)²/current` in `[0, ∞]`: the variance of the ratio `new/current` under `current`.

    Raises:
      InputError: if the arrays are not float64, or hold what is no probability.

    Example:
      >>> print(float(chi_square_new_to_current(jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75]))))
      0.25
    """
    _rows(current=current, new=new)
    return chi_square_terms(current, new - current).sum(-1)


def expected(weight: Float[Array, "*batch S"], x: Float[Array, "*batch S"]) -> Float[Array, "*batch"]:
    """`Σ_s m(s) x(s)` with `0·∞ = 0`: a state without visits contributes nothing."""
    return jnp.where(weight > 0, weight * jnp.where(weight > 0, x, 0.0), 0.0).sum(-1)


def exclusive_sum(x: Float[Array, "*batch T"]) -> Float[Array, "*batch T"]:
    """`Σ_{u<t} x_u` for each `t` of the last axis."""
    return jnp.concatenate([jnp.zeros_like(x[..., :1]), jnp.cumsum(x, -1)[..., :-1]], -1)


def message_probabilities(tree: Tree, token_policy: Float[Array, "S V"]) -> Float[Array, " leaves"]:
    """Probability of each of the `V^T` messages of `T` tokens, in lexicographic order.

    Raises:
      InputError: if the policy is not float64, or none of the tree.
    """
    require_float64(token_policy=token_policy)
    if token_policy.shape != (tree.states, tree.branching):
        raise InputError(
            "token_policy", f"shape {list(token_policy.shape)}", f"shape [{tree.states}, {tree.branching}]"
        )
    root = jnp.zeros(tree.states).at[0].set(1.0)
    last = tree.level(tree.horizon - 1)
    return (tree.resolvent(token_policy).visits(root)[last, None] * token_policy[last]).ravel()


def message_kl_current_to_new(tree: Tree, current: Float[Array, "S V"], new: Float[Array, "S V"]) -> Float[Array, ""]:
    """KL between two laws of the whole message, by summing over all messages: the left side of P3.2.

    Raises:
      InputError: as `message_probabilities`.
    """
    return kl_current_to_new(message_probabilities(tree, current), message_probabilities(tree, new))


def token_kl_current_to_new(tree: Tree, current: Float[Array, "S V"], new: Float[Array, "S V"]) -> Float[Array, ""]:
    """`E_{message ~ current} Σ_u KL(current(·|prefix_u) ‖ new(·|prefix_u))`: the right side of P3.2.

    The prefixes are weighted by the *current* policy; weighting by the new one is another number.
    """
    message_probabilities(tree, new)  # shape and dtype of the second argument
    resolvent = tree.resolvent(current)
    root = jnp.zeros(tree.states).at[0].set(1.0)
    return expected(resolvent.visits(root), kl_current_to_new(current, new))
