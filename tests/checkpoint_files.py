"""The tiny checkpoints that tests read, and whether two sets of parameters are the same."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"
CHECKPOINTS = FIXTURES / "checkpoints"


def same(found: Any, expected: Any) -> None:
    """The same leaves, bit for bit and in the same dtypes."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype, jax.tree_util.keystr(path)
        assert np.array_equal(a, b), jax.tree_util.keystr(path)
