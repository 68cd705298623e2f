"""`(I − γP_i)⁻¹` of n+1 policies that differ in nested sets of rows, for the price of a few factorisations.

Sort the rows by the update that changes them: matrix i has its first `c_i` rows from `new`, the others from `old`. Split the
states in two halves. If `c_i` lies in the left half, the right half is old and can be eliminated without knowing i, and if it
lies in the right half, the left half is new:

    left:   X = O_RR⁻¹ O_RL,   O' = O_LL − O_LR X,   N' = N_LL − N_LR X
    right:  Y = N_LL⁻¹ N_LR,   O' = O_RR − O_RL Y,   N' = N_RR − N_RL Y

Both children are the same problem of half the size. At the leaves a matrix is a mixture of few rows. The eliminations cost
`O(S³)` for any n, and each right side `O(S²)`.

`I − γP` is a row diagonally dominant M-matrix and so are its Schur complements: nothing needs a pivot, and everything that is
multiplied or added has one sign. Visits are exactly zero where no path leads, positive (but for underflow) where one does.
There is no LAPACK here, only matrix products and small Gauss–Jordan loops, so nothing to chain (`teamtr_jax.dynamics.after`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from teamtr_jax.dynamics._linear import HIGHEST
from teamtr_jax.types import static_field

__all__ = ["PrefixResolvent", "prefix_resolvent"]

LEAF = 8
"""Halving stops at this many states or fewer."""

FAN = 8
"""An inverse is made in so many steps, in each of which as many rows and columns change sides."""

_product = partial(jnp.matmul, precision=HIGHEST)


class _Level(NamedTuple):
    """One halving. `e`: the child that is kept (0 left, 1 right); the other half is eliminated, old for 0 and new for 1."""

    inverse: Float[Array, "nodes 2 h h"]  #: of the eliminated block
    cross: Float[Array, "nodes 2 k h"]  #: kept rows, eliminated columns: the old rows above the new ones
    back: Float[Array, "nodes 2 h h"]  #: `X` and `Y`


class _Factors(NamedTuple):
    order: Int[Array, " S"]  #: the place of each state among those sorted by the update that changes them
    counts: Int[Array, " m"]  #: `c_i`
    distinct: Int[Array, " d"]  #: the numbers that occur in `counts`, ascending; more entries than numbers: `S`
    kind: Int[Array, " m"]  #: `counts` as indices into `distinct`
    levels: tuple[_Level, ...]  #: from the root
    inverse: Float[Array, "leaves slots b b"]  #: of what is left of the matrices at their leaves (`_first`)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefixResolvent:
    """Inverses of `M_0 … M_n`; row `s` of `M_i` is that of `new` if `position[s] < i`, that of `old` otherwise."""

    old: Array  #: [S, S], `I − γP` before all updates
    new: Array  #: [S, S], after them
    position: Array  #: [S], the update that changes the row; n or more: none
    factors: _Factors
    updates: int = static_field()

    def values(self, rewards: Float[Array, "m S"]) -> Float[Array, "m S"]:
        """`x_i` with `M_i x_i = b_i`."""
        return _applied(_solve, self, rewards, False)

    def visits(self, initial: Float[Array, "m S"]) -> Float[Array, "m S"]:
        """`x_i` with `x_iᵀ M_i = b_iᵀ`."""
        return _applied(_solve, self, initial, True)

    def hybrid_values(self, old: Float[Array, " S"], new: Float[Array, " S"]) -> Float[Array, "m S"]:
        """`values` of rewards that are mixed as the rows of the matrices are, with less work."""
        return _applied(_solve_shared, self, jnp.stack([old, new]), False)

    def hybrid_visits(self, initial: Float[Array, " S"]) -> Float[Array, "m S"]:
        """`visits` of one start for all, with less work."""
        return _applied(_solve_shared, self, initial[None], True)

    def reached(self, initial: Float[Array, " S"], visits: Float[Array, "m S"] | None = None) -> Bool[Array, "m S"]:
        """Which states have visits, decided on the support alone (`DenseResolvent.reached`), all matrices in one sweep."""
        updated = _updated(self.position, self.updates)
        known = jnp.broadcast_to(lax.stop_gradient(initial > 0), updated.shape)
        if visits is not None:
            known = known | (lax.stop_gradient(visits) > 0)

        def search(known: Array) -> Array:
            both = (lax.stop_gradient(matrix) < 0 for matrix in (self.old, self.new))
            edges = jnp.concatenate(list(both)).astype(jnp.float32)  # sums of zeros and ones: any precision will do

            def grow(state: tuple[Array, Array]) -> tuple[Array, Array]:
                known, _ = state
                flow = jnp.concatenate([known & ~updated, known & updated], -1).astype(jnp.float32)
                larger = known | (jnp.matmul(flow, edges) > 0)
                return larger, (larger != known).any()

            return lax.while_loop(lambda state: state[1], grow, (known, jnp.asarray(True)))[0]

        return lax.cond(known.all(), lambda known: known, search, known)


def prefix_resolvent(
    old: Float[Array, "S S"], new: Float[Array, "S S"], position: Int[Array, " S"], updates: int
) -> PrefixResolvent:
    """Factor the n+1 = `updates`+1 matrices `I − γP` that take the rows `position[s] < i` from `new` and the others from `old`.

    Args:
      position: for each state the update that changes its row, from 0; `updates` or more where none does.
    """
    factors = _factor(lax.stop_gradient(old), lax.stop_gradient(new), position, updates)
    return PrefixResolvent(old, new, position, factors, updates)


def _applied(solve: Any, resolvent: PrefixResolvent, b: Array, transposed: bool) -> Array:
    return solve(resolvent.old, resolvent.new, resolvent.position, resolvent.factors, b, transposed)


def _updated(position: Array, updates: int) -> Bool[Array, "m S"]:
    return position < jnp.arange(updates + 1)[:, None]


def _halvings(states: int) -> tuple[int, int]:
    """How often to halve, and the size of a leaf: `states ≤ leaf·2^halvings`."""
    halvings = 0
    while -(-states // 2**halvings) > LEAF:
        halvings += 1
    return halvings, -(-states // 2**halvings)


def _inverse(matrix: Float[Array, "*batch k k"]) -> Float[Array, "*batch k k"]:
    """Inverse of an M-matrix without pivots: by blocks, those by smaller ones, down to single states."""
    k = matrix.shape[-1]
    return _gauss_jordan(matrix, k // FAN if k % FAN == 0 else 1)


def _gauss_jordan(matrix: Float[Array, "*batch k k"], block: int) -> Float[Array, "*batch k k"]:
    """Inverse in place: `block` rows and columns change sides at a time."""
    size = matrix.shape[-1]
    states = jnp.arange(size)

    def pivot(i: Array, a: Array) -> Array:
        first = i * block
        here = states // block == i
        row, column = (lax.dynamic_slice_in_dim(a, first, block, axis) for axis in (-2, -1))
        corner = lax.dynamic_slice_in_dim(row, first, block, -1)
        start = jnp.where(here, jnp.where(states - first == jnp.arange(block)[:, None], 1.0, 0.0), row)
        row = start / corner if block == 1 else _product(_inverse(corner), start)
        column = jnp.where(here[:, None], 0.0, column)
        update = column * row if block == 1 else _product(column, row)
        return lax.dynamic_update_slice_in_dim(jnp.where(here, 0.0, a) - update, row, first, -2)

    return lax.fori_loop(0, size // block, pivot, matrix)


def _factor(old: Array, new: Array, position: Array, updates: int) -> _Factors:
    states = old.shape[0]
    halvings, leaf = _halvings(states)
    pad = leaf * 2**halvings - states
    order, counts = _sorted(position, updates), _updated(position, updates).sum(-1)
    rows = jnp.zeros_like(order).at[order].set(jnp.arange(states))
    distinct, kind = _distinct(counts, states)

    def sort(matrix: Array) -> Array:
        filled = jnp.pad(matrix[rows[:, None], rows], ((0, pad), (0, pad)))
        return filled + jnp.diag((jnp.arange(states + pad) >= states).astype(matrix.dtype)) if pad else filled

    both = jnp.stack([sort(old), sort(new)])[None]  # [nodes, old or new, k, k]
    levels = []
    for _ in range(halvings):
        nodes, _, k, _ = both.shape
        h = k // 2
        parts = both.reshape(nodes, 2, 2, h, 2, h)
        eliminated = jnp.stack([parts[:, e, 1 - e, :, 1 - e] for e in (0, 1)], 1)
        inverse = _inverse(eliminated)
        back = _product(inverse, jnp.stack([parts[:, e, 1 - e, :, e] for e in (0, 1)], 1))
        cross = jnp.stack([parts[:, :, e, :, 1 - e].reshape(nodes, 2 * h, h) for e in (0, 1)], 1)
        kept = jnp.stack([parts[:, :, e, :, e].reshape(nodes, 2 * h, h) for e in (0, 1)], 1)
        both = (kept - _product(cross, back)).reshape(2 * nodes, 2, h, h)
        levels.append(_Level(inverse, cross, back))
    updated = _leaf_rows(distinct, leaf, 2**halvings)[..., None]
    inverse = _inverse(jnp.where(updated, both[:, None, 1], both[:, None, 0]))
    return _Factors(order, counts, distinct, kind, tuple(levels), inverse)


def _sorted(position: Array, updates: int) -> Int[Array, " S"]:
    """The place of each state in a stable sort, by counting (jax cannot keep programs with a sort in its cache on disk)."""
    key = jnp.minimum(position, updates) * position.size + jnp.arange(position.size)
    return (key < key[:, None]).sum(-1)


def _distinct(counts: Array, states: int) -> tuple[Array, Array]:
    kind = jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), counts[1:] != counts[:-1]]))
    return jnp.full(min(counts.size, states + 1), states, counts.dtype).at[kind].set(counts), kind


def _first(distinct: Array, size: int, nodes: int) -> Int[Array, " nodes"]:
    """The first of the `distinct` matrices whose leaf is below each node of `size` states; the others follow it.

    There are at most `size + 1`, and as many slots has a node.
    """
    start = jnp.arange(nodes) * size
    return (distinct < start[:, None]).sum(-1)


def _slots(distinct: Array, size: int) -> int:
    return min(distinct.size, size + 1)


def _leaf_rows(distinct: Array, leaf: int, leaves: int) -> Bool[Array, "leaves slots b"]:
    """Which rows of a leaf are new, matrix by matrix."""
    index = _first(distinct, leaf, leaves)[:, None] + jnp.arange(_slots(distinct, leaf))
    here = distinct[jnp.minimum(index, distinct.size - 1)] - leaf * jnp.arange(leaves)[:, None]
    return jnp.arange(leaf) < here[..., None]


def _enter(factors: _Factors, b: Array) -> Array:
    """Right sides in the order of the rows, padded, one node."""
    size = factors.inverse.shape[0] * factors.inverse.shape[-1]
    return jnp.zeros((1, b.shape[0], size), b.dtype).at[0, :, factors.order].set(b.T, unique_indices=True)


def _leave(factors: _Factors, x: Array) -> Array:
    """`_enter` undone."""
    return x[0][:, factors.order]


def _swap(x: Array) -> Array:
    """Halves of a node by the child that is kept: `[nodes, e, m, h]`, the half that is eliminated."""
    return x[:, ::-1]


def _halves(x: Array) -> Array:
    """`[nodes, m, 2h]` as `[nodes, 2, m, h]`."""
    nodes, m, k = x.shape
    return x.reshape(nodes, m, 2, k // 2).transpose(0, 2, 1, 3)


def _whole(x: Array) -> Array:
    """`_halves` undone."""
    nodes, _, m, h = x.shape
    return x.transpose(0, 2, 1, 3).reshape(nodes, m, 2 * h)


class _Paths(NamedTuple):
    """Where the matrices are at one level of the tree."""

    here: Array  #: 1 in the child on the way to the leaf of matrix i
    new: Array  #: 1 where the row is new


def _paths(factors: _Factors) -> list[_Paths]:
    leaf, halvings, counts = factors.inverse.shape[-1], len(factors.levels), factors.counts
    place, out = _place(factors), []
    for level in range(halvings):
        children, h = 2 ** (level + 1), leaf * 2 ** (halvings - level - 1)
        here = (place // (h // leaf)) == jnp.arange(children)[:, None]
        new = jnp.arange(children * h).reshape(children, 1, h) < counts[:, None]
        shape = (children // 2, 2, counts.shape[0], -1)
        out.append(_Paths(here[..., None].astype(float).reshape(shape), new.astype(float).reshape(shape)))
    return out


def _place(factors: _Factors) -> Int[Array, " m"]:
    """The leaf of each matrix."""
    leaves, _, leaf, _ = factors.inverse.shape
    return jnp.minimum(factors.counts // leaf, leaves - 1)


def _at_leaf(factors: _Factors, down: Array, transposed: bool) -> Array:
    """Right sides [leaves, n+1, b] of each matrix at its leaf, solved for, zero at the other leaves."""
    leaves, _, leaf, _ = factors.inverse.shape
    place = _place(factors)
    inverse = factors.inverse[place, factors.kind - _first(factors.distinct, leaf, leaves)[place]]
    b = down[place, jnp.arange(place.size)]
    x = _product(b[:, None], inverse if transposed else inverse.mT)[:, 0]
    return jnp.where((place == jnp.arange(leaves)[:, None])[..., None], x, 0.0)


def _values(factors: _Factors, b: Array) -> Array:
    """`x_i` with `M_i x_i = b_i`; `b`: [n+1, S]."""
    down, paths, left = _enter(factors, b), _paths(factors), []
    for level, path in zip(factors.levels, paths, strict=True):
        halves = _halves(down)
        part = _product(_swap(halves), level.inverse.mT)
        both = _product(part, level.cross.mT)
        h = part.shape[-1]
        down = jnp.where(path.new > 0, halves - both[..., h:], halves - both[..., :h])
        down = down.reshape(-1, *down.shape[2:])
        left.append(path.here * part)
    x = _at_leaf(factors, down, False)
    for level, part in zip(reversed(factors.levels), reversed(left), strict=True):
        inner = x.reshape(-1, 2, *x.shape[1:])
        outer = part - _product(inner, level.back.mT)
        x = _whole(inner + _swap(outer))
    return _leave(factors, x)


def _visits(factors: _Factors, b: Array) -> Array:
    """`x_i` with `x_iᵀ M_i = b_iᵀ`; `b`: [n+1, S]."""
    down, paths, left = _enter(factors, b), _paths(factors), []
    for level, path in zip(factors.levels, paths, strict=True):
        halves = _halves(down)
        other = _swap(halves)
        down = halves - _product(other, level.back)
        down = down.reshape(-1, *down.shape[2:])
        left.append(path.here * other)
    x = _at_leaf(factors, down, True)
    for level, path, other in zip(reversed(factors.levels), reversed(paths), reversed(left), strict=True):
        inner = x.reshape(-1, 2, *x.shape[1:])
        moved = inner * path.new
        inflow = _product(jnp.concatenate([inner - moved, moved], -1), level.cross)
        outer = _product(other - inflow, level.inverse)
        x = _whole(inner + _swap(outer))
    return _leave(factors, x)


def _values_shared(factors: _Factors, b: Array) -> Array:
    """`_values` of rows mixed from `b`: [old or new, S]: two right sides a node on the way down, distinct matrices up."""
    down, left = _enter(factors, b), []
    for level in factors.levels:
        halves = _halves(down)  # [nodes, e, old or new, h]
        other = jnp.stack([halves[:, 1, 0], halves[:, 0, 1]], 1)
        part = _product(level.inverse, other[..., None])
        down = halves - _product(level.cross, part).reshape(halves.shape)
        down = down.reshape(-1, *down.shape[2:])
        left.append(part.mT)
    leaves, _, leaf, _ = factors.inverse.shape
    mixed = jnp.where(_leaf_rows(factors.distinct, leaf, leaves), down[:, 1:], down[:, :1])
    x = _product(factors.inverse, mixed[..., None])[..., 0]
    for level, part in zip(reversed(factors.levels), reversed(left), strict=True):
        inner = x.reshape(-1, 2, *x.shape[1:])
        x = _joined(factors.distinct, inner, part - _product(inner, level.back.mT))
    return _leave(factors, x)[factors.kind]


def _visits_shared(factors: _Factors, b: Array) -> Array:
    """`_visits` of the one start `b`: [1, S]: one right side a node on the way down, distinct matrices up."""
    down, left = _enter(factors, b), []
    for level in factors.levels:
        halves = _halves(down)
        other = _swap(halves)
        down = halves - _product(other, level.back)
        down = down.reshape(-1, *down.shape[2:])
        left.append(other)
    x = _product(down[:, None], factors.inverse)[:, :, 0]
    for level, other in zip(reversed(factors.levels), reversed(left), strict=True):
        inner = x.reshape(-1, 2, *x.shape[1:])
        nodes, _, _, h = inner.shape
        moved = jnp.where(_leaf_rows(factors.distinct, h, 2 * nodes).reshape(inner.shape), inner, 0.0)
        inflow = _product(jnp.concatenate([inner - moved, moved], -1), level.cross)
        x = _joined(factors.distinct, inner, _product(other - inflow, level.inverse))
    return _leave(factors, x)[factors.kind]


def _joined(distinct: Array, inner: Array, outer: Array) -> Array:
    """Kept and eliminated halves [nodes, 2, slots, h] of both children as the matrices of each node [nodes, slots', 2h]."""
    nodes, _, slots, h = inner.shape
    left, right = (jnp.concatenate(pair, -1) for pair in ((inner[:, 0], outer[:, 0]), (outer[:, 1], inner[:, 1])))
    first = _first(distinct, h, 2 * nodes).reshape(nodes, 2)
    many = (first[:, 1] - first[:, 0])[:, None]  # of the matrices in the left child
    slot = jnp.arange(_slots(distinct, 2 * h))
    index = jnp.minimum(jnp.where(slot < many, slot, slots + slot - many), 2 * slots - 1)
    return jnp.take_along_axis(jnp.concatenate([left, right], 1), index[..., None], 1)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _solve(old: Array, new: Array, position: Array, factors: _Factors, b: Array, transposed: bool) -> Array:
    """`M_i x_i = b_i` (or `M_iᵀ x_i = b_i`).

    Gradient: `λ_i = M_i⁻ᵀ x̄_i`, `M̄_i = −λ_i x_iᵀ`, whose rows go to `old` and `new`, `b̄ = λ`.
    """
    del old, new, position
    return (_visits if transposed else _values)(factors, b)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _solve_shared(old: Array, new: Array, position: Array, factors: _Factors, b: Array, transposed: bool) -> Array:
    """`_solve` for `b_i` mixed of the rows `b[0]` (old) and `b[1]` (new), or transposed for one `b[0]`."""
    del old, new, position
    return (_visits_shared if transposed else _values_shared)(factors, b)


def _forward(solve, old: Array, new: Array, position: Array, factors: _Factors, b: Array, transposed: bool):
    x: Any = solve(old, new, position, factors, b, transposed)
    return x, (old, new, position, factors, x)


def _adjoint(transposed: bool, residual, cotangent: Array):
    old, new, position, factors, x = residual
    adjoint: Any = _solve(old, new, position, factors, cotangent, not transposed)
    rows, columns = (x, adjoint) if transposed else (adjoint, x)
    updated = _updated(position, x.shape[0] - 1)
    parts = [-_product(jnp.where(mask, rows, 0.0).T, columns) for mask in (~updated, updated)]
    return parts, updated, adjoint


def _backward(transposed: bool, residual, cotangent: Array):
    parts, _, adjoint = _adjoint(transposed, residual, cotangent)
    return *parts, None, None, adjoint


def _backward_shared(transposed: bool, residual, cotangent: Array):
    parts, updated, adjoint = _adjoint(transposed, residual, cotangent)
    masks = (jnp.ones_like(updated),) if transposed else (~updated, updated)
    return *parts, None, None, jnp.stack([jnp.where(mask, adjoint, 0.0).sum(0) for mask in masks])


_solve.defvjp(partial(_forward, _solve), _backward)
_solve_shared.defvjp(partial(_forward, _solve_shared), _backward_shared)
