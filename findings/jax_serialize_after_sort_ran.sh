#!/usr/bin/env bash
# jax 0.10.2 (Python 3.11) and 0.12.0.1 (Python >= 3.12), CPU: a compiled program that sorts can be serialised by
# jax.experimental.serialize_executable.serialize until it has run once; then the same call raises
# "UNIMPLEMENTED: `LessThan` is not serializable". A program without a sort stays serialisable. The persistent compilation cache
# is not concerned: it writes when it compiles.
# Guess before: running a program does not change whether it can be written down. An earlier guess, that programs which sort can
# never be serialised, came from a measurement after a run and was wrong.
# For a user who keeps programs of their own: serialise before the first call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
jax=$("$folder/env/bin/python" -c 'import sys; print("0.12.0.1" if sys.version_info >= (3, 12) else "0.10.2")')
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check "jax==$jax" "jaxlib==$jax" numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'PY'
import sys

import jax
import jax.numpy as jnp
from jax.experimental.serialize_executable import serialize


def said(program):
    try:
        serialize(program)
        return "serialised"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


seen = []
for function in (jnp.argsort, jnp.sort, jnp.sin):
    x = jnp.array([3.0, 1.0, 2.0])
    program = jax.jit(function).lower(x).compile()
    before = said(program)
    program(x)
    after = said(program)
    print(f"jax {jax.__version__}, {function.__name__}: before a run {before}; after it {after}")
    seen.append((before == "serialised", "`LessThan` is not serializable" in after, after == "serialised"))
same = seen == [(True, True, False), (True, True, False), (True, False, True)]
print("as described" if same else "the behaviour has changed")
sys.exit(not same)
PY
