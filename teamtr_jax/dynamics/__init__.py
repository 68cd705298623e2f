"""Four ways to know a transition, one protocol (`teamtr_jax.types.Dynamics`)."""

from teamtr_jax.dynamics._linear import DenseResolvent, after
from teamtr_jax.dynamics.dense import Dense
from teamtr_jax.dynamics.layered import Layered
from teamtr_jax.dynamics.prefix import PrefixResolvent, prefix_resolvent
from teamtr_jax.dynamics.sparse import SparseResolvent
from teamtr_jax.dynamics.successors import Successors
from teamtr_jax.dynamics.tree import Tree

__all__ = [
    "Dense",
    "DenseResolvent",
    "Layered",
    "PrefixResolvent",
    "SparseResolvent",
    "Successors",
    "Tree",
    "after",
    "prefix_resolvent",
]
