"""`(I − γP_π)⁻¹`: one LU factorisation for both sides.

Hazard: jax 0.10 on a two-core CPU can hang for ever when two batched LAPACK calls of one program run at the same time,
because each blocks a worker of the pool that the other one waits for. No optimisation barrier helps (it is removed before
the program is scheduled); only a data dependency does. So every program here has one chain of LAPACK calls, `after`; whoever
puts two stages into one batched program chains them in the same way, or maps over them with ``jax.lax.map``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

__all__ = ["DenseResolvent", "after", "dense_resolvent", "reachable", "scatter", "HIGHEST"]

HIGHEST = lax.Precision.HIGHEST
"""Exact code asks for full precision in every product: accelerators default to less."""


def after(x: Float[Array, "*s"], y: Float[Array, "..."]) -> Float[Array, "*s"]:
    """`x`, scheduled after `y` has been computed (a true data dependency; see the module's text)."""
    return x + 0.0 * lax.stop_gradient(y).ravel()[0]


def reachable(
    forward: Callable[[Float[Array, "S A"]], Float[Array, " S"]],
    policy: Float[Array, "S A"],
    initial: Float[Array, " S"],
) -> Bool[Array, " S"]:
    """States with visits: the closure of the support of `initial` under actions of positive probability.

    Decided on zero patterns alone. An LU solve returns ±1e-18 where the truth is zero, and 0·∞ = 0 needs the truth.
    """
    support = lax.stop_gradient(jnp.where(policy > 0, 1.0, 0.0))
    start = lax.stop_gradient(initial > 0)

    def grow(state: tuple[Array, Array]) -> tuple[Array, Array]:
        known, _ = state
        larger = known | (forward(jnp.where(known, 1.0, 0.0)[:, None] * support) > 0)
        return larger, (larger != known).any()

    return lax.while_loop(lambda state: state[1], grow, (start, jnp.asarray(True)))[0]


def _apply(lu: Array, permutation: Array, b: Array, transposed: bool) -> Array:
    triangular = partial(lax.linalg.triangular_solve, lu, left_side=True)
    if transposed:
        y = triangular(b[permutation][:, None], lower=True, unit_diagonal=True)
        return triangular(y, lower=False)[:, 0]
    y = triangular(b[:, None], lower=False, transpose_a=True)
    z = triangular(y, lower=True, transpose_a=True, unit_diagonal=True)
    return jnp.zeros_like(b).at[permutation].set(z[:, 0], unique_indices=True)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def solve(matrix: Array, lu: Array, permutation: Array, b: Array, transposed: bool) -> Array:
    """`M x = b` (or `Mᵀ x = b`) from the factors of `Mᵀ`; the gradient reuses them: `λ = M⁻ᵀ x̄`, `M̄ = −λ xᵀ`, `b̄ = λ`."""
    del matrix
    return _apply(lu, permutation, b, transposed)


def _solve_forward(matrix: Array, lu: Array, permutation: Array, b: Array, transposed: bool):
    x = _apply(lu, permutation, b, transposed)
    return x, (matrix, lu, permutation, x)


def _solve_backward(transposed: bool, residual: tuple[Array, Array, Array, Array], cotangent: Array):
    matrix, lu, permutation, x = residual
    adjoint: Any = solve(matrix, lu, permutation, after(cotangent, x), not transposed)
    outer = jnp.outer(x, adjoint) if transposed else jnp.outer(adjoint, x)
    return -outer, jnp.zeros_like(lu), None, adjoint


solve.defvjp(_solve_forward, _solve_backward)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenseResolvent:
    """LU factors of `(I − γP_π)ᵀ`.

    Of the transpose, because its columns are diagonally dominant: partial pivoting then exchanges no rows, both factors have
    no positive entry off the diagonal, and visits are sums of terms of one sign: exactly zero where no path leads, positive
    (but for underflow) where one does.
    """

    matrix: Array  #: [S, S], `I − γP_π`
    lu: Array  #: [S, S]
    permutation: Array  #: [S]

    def values(self, reward: Float[Array, " S"]) -> Float[Array, " S"]:
        return solve(self.matrix, self.lu, self.permutation, reward, False)

    def visits(self, initial: Float[Array, " S"]) -> Float[Array, " S"]:
        return solve(self.matrix, self.lu, self.permutation, initial, True)

    def reached(self, initial: Float[Array, " S"], visits: Float[Array, " S"] | None = None) -> Bool[Array, " S"]:
        matrix, start = lax.stop_gradient(self.matrix), lax.stop_gradient(initial > 0)
        if visits is not None:  # then one sweep is left to do, which finds what underflowed to zero
            kept = (self.permutation == jnp.arange(self.permutation.size)).all()
            start = start | (kept & (lax.stop_gradient(visits) > 0))

        def grow(state: tuple[Array, Array]) -> tuple[Array, Array]:
            known, _ = state
            # Off the diagonal the matrix is −γP_π ≤ 0; its diagonal speaks only for states already known.
            larger = known | (jnp.matmul(jnp.where(known, 1.0, 0.0), matrix, precision=HIGHEST) < 0)
            return larger, (larger != known).any()

        # γ = 0 has no edges left in the matrix: nothing is visited after the start, m = ρ.
        return lax.while_loop(lambda state: state[1], grow, (start, jnp.asarray(True)))[0]


def dense_resolvent(induced: Float[Array, "S S"], discount: Array | float) -> DenseResolvent:
    """Factor `I − γP_π` once."""
    matrix = jnp.eye(induced.shape[-1]) - discount * induced
    lu, exchanges, _ = lax.linalg.lu(lax.stop_gradient(matrix).T)
    return DenseResolvent(matrix, lu, _permutation(exchanges))


def _permutation(exchanges: Int[Array, " S"]) -> Int[Array, " S"]:
    """The order of rows after LAPACK's exchanges, in as many steps as the last one that moves something: mostly none."""
    rows = jnp.arange(exchanges.size, dtype=exchanges.dtype)
    last = jnp.where(exchanges != rows, rows + 1, 0).max()

    def exchange(state: tuple[Array, Array]) -> tuple[Array, Array]:
        i, order = state
        j = exchanges[i]
        return i + 1, order.at[i].set(order[j]).at[j].set(order[i])

    return lax.while_loop(lambda state: state[0] < last, exchange, (jnp.zeros_like(last), rows))[1]


def scatter(index: Array, flow: Array) -> Float[Array, " S"]:
    """`out[index[s,…]] += flow[s,…]`."""
    return jnp.zeros(index.shape[0], flow.dtype).at[index.ravel()].add(flow.ravel())
