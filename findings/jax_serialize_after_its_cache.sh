#!/usr/bin/env bash
# jax 0.10.2 (Python 3.11) and 0.12.0.1 (Python >= 3.12), CPU: a program that jax took from its persistent compilation cache runs,
# and jax.experimental.serialize_executable.serialize writes it down without a word; what deserialize_and_load makes of that raises
# "NOT_FOUND: Function ... not found" when it is called. The same program, compiled in this process, can be read back.
# Guess before: where the cache is on or off makes no difference to what serialize writes.
# For a user who keeps programs of their own: switch jax's cache off while compiling what will be written down.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
jax=$("$folder/env/bin/python" -c 'import sys; print("0.12.0.1" if sys.version_info >= (3, 12) else "0.10.2")')
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check "jax==$jax" "jaxlib==$jax" numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/env/bin/python" - "$folder/cache" <<'PY'
import sys

import jax
import jax.numpy as jnp
from jax.experimental.serialize_executable import deserialize_and_load, serialize

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
x = jnp.arange(3.0)


def line(x):
    return 2 * x + 1


seen = []
for where in ("compiled here", "taken from jax's cache"):
    jax.clear_caches()
    program = jax.jit(line).lower(x).compile()
    itself = program(x).tolist()
    kept = serialize(program)
    try:
        back = str(deserialize_and_load(*kept)(x).tolist())
    except Exception as error:
        back = f"{type(error).__name__}: {error}"
    print(f"jax {jax.__version__}, {where}: runs to {itself}; written down and read back: {back}")
    seen.append((itself == [1.0, 3.0, 5.0], back == str(itself), "NOT_FOUND" in back))
same = seen == [(True, True, False), (True, False, True)]
print("as described" if same else "the behaviour has changed")
sys.exit(not same)
PY
