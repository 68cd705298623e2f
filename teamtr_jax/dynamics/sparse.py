"""`(I − γP_π)⁻¹` of a successor list, solved on the host by SciPy: sparse LU, or BiCGSTAB where its factors would not fit.

What is shared: the factors of a policy by all right sides, an ordering of the states that keeps the factors thin by all
policies with one pattern of transitions (the hybrids of a stage: only their numbers differ, unless a probability is zero).

No answer leaves without its residual having been looked at: `‖b − Mx‖ ≤ 8(S+2)u‖x‖`, the backward error that the rounding
budgets count with (docs/rounding.md), in the maximum norm for values and the 1-norm for visits.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from teamtr_jax.dynamics._linear import scatter

if TYPE_CHECKING:  # at use otherwise: it takes longer to import than a small stage to solve
    import scipy.sparse
    import scipy.sparse.linalg

__all__ = ["WORK_LIMIT", "SparseResolvent", "sparse_resolvent"]

WORK_LIMIT = 10**12
"""Most multiplications of an elimination in a band (reverse Cuthill–McKee) with which a discounted world is factored.

`S·w²` for a mean half-width `w`: 5·10¹¹ for a grid of 10⁶ cells, whose elimination in a better order is far cheaper. Random
successors have `w` of about `S/4` in any order, and pass up to some 25,000 states. Above, BiCGSTAB.
"""

KEPT_STATES = 10**6
"""Most states of the policies that are kept factored, two at most."""

KEPT_ORDERS = 4

STARTS, ITERATIONS = 10, 2000
"""How often BiCGSTAB starts again from what it has reached, and its most steps from one start."""

Floats = NDArray[np.float64]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SparseResolvent:
    """`I − γP_π` as a successor list. Works under `jit`, `vmap` (one matrix at a time) and reverse-mode differentiation.

    Raises:
      ArithmeticError: (when the program runs) a solve whose residual stays above the limit of the module's text; it says
        what was reached, `‖x̂ − x‖ ≤ ‖b − Mx̂‖/(1−γ)`.
    """

    index: Array  #: [S, K] successors under the policy
    weight: Array  #: [S, K] their probabilities
    discount: Array
    key: Array  #: what the three above contain, so that megabytes are read once a policy

    def values(self, reward: Float[Array, " S"]) -> Float[Array, " S"]:
        return self._solve(reward, False)

    def visits(self, initial: Float[Array, " S"]) -> Float[Array, " S"]:
        return self._solve(initial, True)

    def reached(self, initial: Float[Array, " S"], visits: Float[Array, " S"] | None = None) -> Bool[Array, " S"]:
        """The states that a breadth-first search on the host finds, whatever `visits` are."""
        del visits
        shape = jax.ShapeDtypeStruct(initial.shape, bool)
        return self._host(partial(_mapped, _Policy.reached), shape, initial)

    def _step(self, x: Array, transposed: bool) -> Array:
        if transposed:
            return self.discount * scatter(self.index, self.weight * x[:, None])
        return self.discount * (self.weight * x[self.index]).sum(-1)

    def _host(self, function: Any, shape: jax.ShapeDtypeStruct, b: Array) -> Array:
        frozen = lax.stop_gradient((self.index, self.weight, self.discount, self.key, b))
        return jax.pure_callback(function, shape, *frozen, vmap_method="expand_dims")

    def _solve(self, b: Array, transposed: bool) -> Array:
        def host(b: Array, transposed: bool) -> Array:
            function = partial(_mapped, partial(_Policy.solve, transposed=transposed))
            return self._host(function, jax.ShapeDtypeStruct(b.shape, b.dtype), b)

        return lax.custom_linear_solve(
            lambda x: x - self._step(x, transposed),
            b,
            solve=lambda _, rhs: host(rhs, transposed),
            transpose_solve=lambda _, rhs: host(rhs, not transposed),
        )


def sparse_resolvent(index: Array, weight: Array, discount: Array) -> SparseResolvent:
    """Nothing is factored before the first solve."""
    frozen = lax.stop_gradient((index, weight, discount))
    key = jax.pure_callback(_digests, jax.ShapeDtypeStruct((4,), jnp.int64), *frozen, vmap_method="expand_dims")
    return SparseResolvent(index, weight, discount, key)


def _digests(*tables: Any) -> NDArray[np.int64]:
    """SHA-256 of each of a batch of matrices."""
    index, weight, discount = map(np.asarray, tables)
    lead = np.broadcast_shapes(index.shape[:-2], weight.shape[:-2], discount.shape)
    out = np.empty((*lead, 4), np.int64)
    for at in np.ndindex(lead):
        digest = hashlib.sha256()
        for table, rank in ((index, 2), (weight, 2), (discount, 0)):
            digest.update(np.ascontiguousarray(_member(table, rank, at)).data)
        out[at] = np.frombuffer(digest.digest(), np.int64)
    return out


def _member(table: np.ndarray, rank: int, at: tuple[int, ...]) -> np.ndarray:
    """Member `at` of a batch whose leading axes may be of length 1, or fewer."""
    lead = table.shape[: table.ndim - rank]
    place = at[len(at) - len(lead) :]
    return np.asarray(table[tuple(0 if size == 1 else i for size, i in zip(lead, place, strict=True))])


def _mapped(function: Any, *arguments: Any) -> np.ndarray:
    """`function(policy, right)` for every matrix of a batch, `right` [r, S] all its right sides."""
    index, weight, discount, key, b = map(np.asarray, arguments)
    ranks = ((index, 2), (weight, 2), (discount, 0), (key, 1))
    lead = np.broadcast_shapes(*(table.shape[: table.ndim - rank] for table, rank in ranks))
    full = np.broadcast_shapes(lead, b.shape[:-1])
    lead = (1,) * (len(full) - len(lead)) + lead
    b, out = np.broadcast_to(b, (*full, b.shape[-1])), None
    for at in np.ndindex(lead):
        policy = _policy(*(_member(table, rank, at) for table, rank in ranks))
        rows = tuple(slice(None) if size == 1 else i for size, i in zip(lead, at, strict=True))
        solved = function(policy, b[rows].reshape(-1, b.shape[-1]))
        out = np.empty(b.shape, solved.dtype) if out is None else out
        out[rows] = solved.reshape(out[rows].shape)
    assert out is not None
    return out


class _Policy:
    """`I − γP_π` of one policy; factored when first asked."""

    def __init__(self, index: np.ndarray, weight: Floats, discount: float) -> None:
        import scipy.sparse

        states, width = index.shape
        self.states: int = states
        ends = np.arange(0, index.size + 1, width, dtype=np.int32)  # SuperLU knows no longer integers
        entries = weight.ravel() * discount, index.ravel().astype(np.int32), ends
        flow = scipy.sparse.csr_array(entries, shape=(states, states))
        flow.sum_duplicates()
        flow.eliminate_zeros()
        self.discount, self.flow = discount, flow
        self.matrix = scipy.sparse.csr_array(scipy.sparse.eye_array(states, format="csr") - flow)
        self.factors: scipy.sparse.linalg.SuperLU | None = None
        self.rows: slice | np.ndarray = slice(None)  #: the states in the order of the factors
        self.lock, self.prepared = threading.Lock(), False

    def reached(self, initial: Floats) -> np.ndarray:
        """Breadth-first search on the support, from one more state that leads to all those of the start."""
        return np.stack([_reached(self.flow, start > 0) for start in initial])

    def solve(self, b: Floats, transposed: bool) -> Floats:
        """`x` with `M x = b` (or `Mᵀ x = b`) for the rows of `b`; looks at the residual of each."""
        with self.lock:
            if not self.prepared:
                self._prepare()
        x = self._direct(b, transposed) if self.factors is not None else np.empty_like(b)
        for row, solved in zip(b, x, strict=True):
            if self.factors is None:
                solved[:] = self._iterated(row, transposed)
            residual, limit = self._residual(row, solved, transposed)
            if not residual <= limit:
                raise ArithmeticError(
                    f"{'visits' if transposed else 'values'} of {row.size} states, discount {self.discount}: found a residual "
                    f"of {residual:.1e}, expected at most {limit:.1e}; the error is at most the residual over 1 - discount"
                )
        return x

    def _prepare(self) -> None:
        """Factor in the order kept for this pattern; found by minimum degree on `M + Mᵀ` where there is none yet.

        An M-matrix needs no pivot: without one both factors have no positive entry off the diagonal, as in `DenseResolvent`.
        """
        import scipy.sparse.linalg

        matrix = self.matrix
        pattern = hashlib.sha256(np.asarray(matrix.indptr).data)
        pattern.update(np.asarray(matrix.indices).data)
        name = pattern.digest()
        with _LOCK:
            order = _ORDERS.get(name)
        self.prepared = True
        if order is None and self.discount < 1 and _work(matrix) > WORK_LIMIT:
            return
        factor = partial(scipy.sparse.linalg.splu, diag_pivot_thresh=0.0, options=dict(SymmetricMode=True))
        if order is None:
            self.factors = found = factor(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A")
            with _LOCK:
                _ORDERS[name] = found.perm_c.copy()
                if len(_ORDERS) > KEPT_ORDERS:
                    _ORDERS.popitem(last=False)
            return
        entries = matrix.tocoo()
        places = tuple(order[place] for place in entries.coords)
        self.factors = factor(scipy.sparse.csc_array((entries.data, places), matrix.shape), permc_spec="NATURAL")
        self.rows = np.argsort(order)

    def _direct(self, b: Floats, transposed: bool) -> Floats:
        assert self.factors is not None
        x = np.empty_like(b)
        x[:, self.rows] = self.factors.solve(np.asfortranarray(b[:, self.rows].T), "T" if transposed else "N").T
        return x

    def _iterated(self, b: Floats, transposed: bool) -> Floats:
        import scipy.sparse.linalg

        matrix = self.matrix.T if transposed else self.matrix
        x, share = np.zeros_like(b), b.size**-0.5 if transposed else 1.0  # of the 2-norm in the norm of the limit
        for _ in range(STARTS):
            residual, limit = self._residual(b, x, transposed)
            if residual <= limit:
                break
            goal = share * max(limit, self._backward * _norm(b, transposed)) / 4
            step, _ = scipy.sparse.linalg.bicgstab(matrix, b - matrix @ x, rtol=0.0, atol=goal, maxiter=ITERATIONS)
            x += step
        return x

    @property
    def _backward(self) -> float:
        return 8 * (self.states + 2) * float(np.finfo(np.float64).eps) / 2

    def _residual(self, b: Floats, x: Floats, transposed: bool) -> tuple[float, float]:
        """`‖b − Mx‖` and how much of it the rounding budgets have room for."""
        matrix = self.matrix.T if transposed else self.matrix
        return _norm(b - matrix @ x, transposed), self._backward * _norm(x, transposed)


def _norm(x: Floats, transposed: bool) -> float:
    return float(abs(x).sum() if transposed else abs(x).max())


def _work(matrix: scipy.sparse.csr_array) -> float:
    """`S·w²` of the band that reverse Cuthill–McKee finds, `w` its mean half-width; 0 where it cannot be above the limit."""
    import scipy.sparse.csgraph

    states = matrix.indptr.size - 1
    if states**3 / 4 <= WORK_LIMIT:
        return 0.0
    order = np.argsort(scipy.sparse.csgraph.reverse_cuthill_mckee(matrix))
    row, column = (order[place] for place in matrix.tocoo().coords)
    first = np.arange(states)
    np.minimum.at(first, np.maximum(row, column), np.minimum(row, column))
    return float((np.arange(states) - first).mean() ** 2 * states)


def _reached(flow: scipy.sparse.csr_array, start: NDArray[np.bool_]) -> NDArray[np.bool_]:
    import scipy.sparse.csgraph

    states, first = start.size, np.flatnonzero(start)
    indices = np.concatenate([flow.indices, first])
    ends = np.append(flow.indptr, indices.size)
    graph = scipy.sparse.csr_array((np.ones(indices.size), indices, ends), shape=(states + 1, states + 1))
    found = scipy.sparse.csgraph.breadth_first_order(graph, states, return_predecessors=False)
    out = np.zeros(states + 1, bool)
    out[found] = True
    return out[:states]


_ORDERS: OrderedDict[bytes, np.ndarray] = OrderedDict()  # by pattern; the last few
_POLICIES: OrderedDict[bytes, _Policy] = OrderedDict()  # by content
_LOCK = threading.Lock()


def _policy(index: np.ndarray, weight: Floats, discount: np.ndarray, key: np.ndarray) -> _Policy:
    """The policy of that key. Where it has to be made, others make room first: factors are large."""
    name, states = key.tobytes(), index.shape[0]
    with _LOCK:
        found = _POLICIES.pop(name, None)
        if found is None:
            while _POLICIES and (len(_POLICIES) > 1 or states + _states(_POLICIES) > KEPT_STATES):
                _POLICIES.popitem(last=False)
            found = _Policy(index, weight, float(discount))
        _POLICIES[name] = found
        return found


def _states(policies: OrderedDict[bytes, _Policy]) -> int:
    return sum(policy.states for policy in policies.values())
