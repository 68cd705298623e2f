"""JAX in tests and docstring examples, and the names that the examples take for granted. Fixtures are in tests/conftest.py.

Most of the time is compilation: programs, those that tests start too, are compiled with few optimisations, which changes
roundings only. ``JAX_DISABLE_MOST_OPTIMIZATIONS=0`` compiles them as users do. Both settings are read when jax is imported.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a run on an accelerator sets it
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace.update(jax=jax, jnp=jnp, np=np)
