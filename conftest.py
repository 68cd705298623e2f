"""JAX in tests and docstring examples, and the names that the examples take for granted. Fixtures are in tests/conftest.py.

Most of the time is compilation: programs, those that tests start too, are compiled with few optimisations and by XLA's older
code generator, which takes a third of the time; this changes roundings only. ``JAX_DISABLE_MOST_OPTIMIZATIONS=0`` compiles them
as users do. These settings are read when jax is imported.
"""

import gc
import importlib
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a run on an accelerator sets it
os.environ.setdefault(
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0"
)  # where each operation was written: nobody looks into programs
# Of one version, since XLA ends the process at a flag that it does not know.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0" and version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")
os.environ.setdefault("TEAMTR_CACHE", str(Path(__file__).parent / "build" / "programs"))  # not the user's own

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
# Every collection goes through what jax and four thousand tests keep: a sixth of the time of finding them, at the usual 700.
gc.set_threshold(20_000, 20, 10)


def put_arrays() -> None:
    """`jnp.asarray` of a NumPy array puts a copy of it there, instead of compiling a program for its shape (jax 0.10: 15 ms)."""
    lax, constant = (
        importlib.import_module("jax._src.lax.lax"),
        importlib.import_module("jax._src.literals").TypedNdArray,
    )

    def by(primitive, same):
        program = primitive.impl

        def put(x, **settings):
            if type(x) is constant and not x.weak_type and same(x, **settings):
                return jax.device_put(np.array(x))
            return program(x, **settings)

        primitive.def_impl(put)

    by(lax.stage_p, lambda x: True)
    by(
        lax.convert_element_type_p,
        lambda x, new_dtype, weak_type, sharding: x.dtype == new_dtype and not weak_type and sharding is None,
    )


if version("jax").startswith("0.10."):
    put_arrays()

MAPPED = Path("/proc/self/maps")
MOST = 20_000
"""Mapped regions of memory after which compiled programs are let go. Linux allows a process 65,530, every program takes some, and
XLA's compiler dies where there is none left."""


@pytest.fixture(autouse=True, scope="module")
def programs() -> Iterator[None]:
    yield
    if MAPPED.exists() and MAPPED.read_bytes().count(b"\n") > MOST:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace.update(jax=jax, jnp=jnp, np=np)
