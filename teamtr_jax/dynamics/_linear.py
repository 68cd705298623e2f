"""`(I − γP_π)⁻¹`: one LU factorisation for both sides, and a Krylov solver where a matrix would not fit.

Hazard: jax 0.10 on a two-core CPU can hang for ever when two batched LAPACK calls of one program run at the same time,
because each blocks a worker of the pool that the other one waits for. No optimisation barrier helps (it is removed before
the program is scheduled); only a data dependency does. So every program here has one chain of LAPACK calls: `after`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from teamtr_jax.types import static_field

__all__ = ["DenseResolvent", "KrylovResolvent", "after", "dense_resolvent", "reachable", "ROUNDS", "HIGHEST"]

HIGHEST = lax.Precision.HIGHEST
"""Exact code asks for full precision in every product: accelerators default to less."""

ROUNDS = 40
"""Krylov restarts; each reduces the residual at least as much as a thousand Bellman sweeps or is followed by them."""


def after(x: Float[Array, " S"], y: Float[Array, "..."]) -> Float[Array, " S"]:
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
        y = triangular(b[:, None], lower=False, transpose_a=True)
        z = triangular(y, lower=True, transpose_a=True, unit_diagonal=True)
        return jnp.zeros_like(b).at[permutation].set(z[:, 0], unique_indices=True)
    y = triangular(b[permutation][:, None], lower=True, unit_diagonal=True)
    return triangular(y, lower=False)[:, 0]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def solve(matrix: Array, lu: Array, permutation: Array, b: Array, transposed: bool) -> Array:
    """`M x = b` (or `Mᵀ x = b`) from the factors of `M`; the gradient reuses them: `λ = M⁻ᵀ x̄`, `M̄ = −λ xᵀ`, `b̄ = λ`."""
    del matrix
    return _apply(lu, permutation, b, transposed)


def _solve_forward(matrix: Array, lu: Array, permutation: Array, b: Array, transposed: bool):
    x = _apply(lu, permutation, b, transposed)
    return x, (matrix, lu, permutation, x)


def _solve_backward(transposed: bool, residual: tuple[Array, Array, Array, Array], cotangent: Array):
    matrix, lu, permutation, x = residual
    adjoint = solve(matrix, lu, permutation, after(cotangent, x), not transposed)
    outer = jnp.outer(x, adjoint) if transposed else jnp.outer(adjoint, x)
    return -outer, jnp.zeros_like(lu), None, adjoint


solve.defvjp(_solve_forward, _solve_backward)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenseResolvent:
    """LU factors of `I − γP_π`."""

    matrix: Array  #: [S, S]
    lu: Array  #: [S, S]
    permutation: Array  #: [S]

    def values(self, reward: Float[Array, " S"]) -> Float[Array, " S"]:
        return solve(self.matrix, self.lu, self.permutation, reward, False)

    def visits(self, initial: Float[Array, " S"]) -> Float[Array, " S"]:
        return solve(self.matrix, self.lu, self.permutation, initial, True)

    def reached(self, initial: Float[Array, " S"]) -> Bool[Array, " S"]:
        size = initial.shape[-1]
        edges = lax.stop_gradient(jnp.where(self.matrix - jnp.eye(size) != 0, 1.0, 0.0))

        def push(flow: Array) -> Array:
            return jnp.matmul(flow[:, 0], edges, precision=HIGHEST)

        # γ = 0 has no edges left in the matrix: nothing is visited after the start, m = ρ.
        return reachable(push, jnp.ones((size, 1)), initial)


def dense_resolvent(induced: Float[Array, "S S"], discount: Array | float) -> DenseResolvent:
    """Factor `I − γP_π` once."""
    matrix = jnp.eye(induced.shape[-1]) - discount * induced
    lu, _, permutation = lax.linalg.lu(lax.stop_gradient(matrix))
    return DenseResolvent(matrix, lu, permutation)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KrylovResolvent:
    """Matrix-free solves by restarted BiCGSTAB, each restart checked by its residual and backed by Bellman sweeps.

    `I − γP_π` is an M-matrix, so a residual `ρ` in the maximum norm (values) or the 1-norm (visits) means an error of at
    most `ρ/(1−γ)`; iteration stops when that is a few units of rounding of the solution.
    """

    index: Array  #: [S, K] successors under the policy
    weight: Array  #: [S, K] their probabilities
    discount: Array
    sweeps: int = static_field(default=1000)

    def _values_step(self, v: Array) -> Array:
        return self.discount * (self.weight * v[self.index]).sum(-1)

    def _visits_step(self, m: Array) -> Array:
        flow = (self.weight * m[:, None]).ravel()
        return self.discount * jnp.zeros_like(m).at[self.index.ravel()].add(flow)

    def values(self, reward: Float[Array, " S"]) -> Float[Array, " S"]:
        return _krylov(self._values_step, self._visits_step, reward, _greatest, _total, self.sweeps)

    def visits(self, initial: Float[Array, " S"]) -> Float[Array, " S"]:
        return _krylov(self._visits_step, self._values_step, initial, _total, _greatest, self.sweeps)

    def reached(self, initial: Float[Array, " S"]) -> Bool[Array, " S"]:
        edges = lax.stop_gradient(jnp.where(self.weight * self.discount != 0, 1.0, 0.0))

        def push(flow: Array) -> Array:
            return jnp.zeros_like(initial).at[self.index.ravel()].add((flow * edges).ravel())

        return reachable(push, jnp.ones((initial.shape[-1], 1)), initial)


def _greatest(x: Array) -> Array:
    return abs(x).max()


def _total(x: Array) -> Array:
    return abs(x).sum()


def _iterate(advance: Callable[[Array], Array], size: Callable[[Array], Array], sweeps: int, rhs: Array) -> Array:
    """Solve `x − advance(x) = rhs` for an `advance` that contracts by `γ` in the norm `size`."""

    def residual(x: Array) -> Array:
        return rhs - (x - advance(x))

    def improve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, r, count = state
        update, _ = jax.scipy.sparse.linalg.bicgstab(lambda y: y - advance(y), r, tol=1e-8, atol=0.0, maxiter=500)
        proposal = x + jnp.where(jnp.isfinite(update).all(), update, 0.0)
        better = size(residual(proposal)) < 0.5 * size(r)
        # Richardson, x ← x + r, contracts by γ a sweep and never breaks down. The trip count, not a branch, decides:
        # under vmap a branch would pay for both sides.
        start = jnp.where(better, proposal, x)
        x = lax.fori_loop(0, jnp.where(better, 0, sweeps), lambda _, y: y + residual(y), start)
        return x, residual(x), count + 1

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        x, r, count = state
        return (size(r) > 16 * jnp.finfo(rhs.dtype).eps * (size(x) + size(rhs))) & (count < ROUNDS)

    x, r, _ = lax.while_loop(unfinished, improve, (jnp.zeros_like(rhs), rhs, jnp.asarray(0)))
    # Not converged: NaN, which the finite check of whoever reads the result turns into an error; never a wrong number.
    return jnp.where(size(r) <= 1e-13 * (size(x) + size(rhs)), x, jnp.nan)


def _krylov(
    step: Callable[[Array], Array],
    adjoint: Callable[[Array], Array],
    b: Array,
    norm: Callable[[Array], Array],
    dual_norm: Callable[[Array], Array],
    sweeps: int,
) -> Array:
    """`(1 − step)⁻¹ b`, differentiable: the gradient is the same solve with the adjoint step."""
    return lax.custom_linear_solve(
        lambda x: x - step(x),
        b,
        solve=lambda _, rhs: _iterate(step, norm, sweeps, rhs),
        transpose_solve=lambda _, rhs: _iterate(adjoint, dual_norm, sweeps, rhs),
    )
