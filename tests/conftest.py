"""Settings of the suite: x64 on, shapes and types of every public signature checked while it runs (jaxtyping, beartype).

Warnings are errors (pyproject.toml). Rank promotion is not: agents and hybrids are batched by broadcasting.
``TEAMTR_JAX_TYPECHECK=0`` leaves the checks of types out, for timing.
"""

import os

import jax
import typechecker

jax.config.update("jax_enable_x64", True)

if os.environ.get("TEAMTR_JAX_TYPECHECK", "1") != "0":
    typechecker.install()

collect_ignore = ["mutants"]  # a program of its own, in an environment of its own
