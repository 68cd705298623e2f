#!/usr/bin/env bash
# jax 0.10.2, CPU: jnp.asarray, and jnp.array, of a NumPy array compile a program for every new shape (20 shapes: 20 programs, 10 to 15
# ms each, here); jax.device_put of the same arrays compiles none. A loop that turns arrays of many shapes into jax's spends its time
# in the compiler, and `JAX_LOG_COMPILES=1` names the program `stage`.
# Guess before the run: both copy, and nothing is compiled.
# For a user: jax.device_put(np.asarray(x, dtype)) where shapes differ.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat >"$folder/count.py" <<'PY'
import sys

import jax
import jax.numpy as jnp
import numpy as np

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: compiled.append(name) if name.endswith("backend_compile_duration") else None
)


def programs(put, sizes):
    before = len(compiled)
    for size in sizes:
        put(np.ones(size, np.float32)).block_until_ready()
    return len(compiled) - before


found = {
    "jnp.asarray": programs(jnp.asarray, range(10, 30)),
    "jnp.asarray, the same shapes again": programs(jnp.asarray, range(10, 30)),
    "jnp.array": programs(jnp.array, range(30, 50)),
    "jax.device_put": programs(jax.device_put, range(50, 70)),
}
for name, count in found.items():
    print(f"{name}: {count} programs for 20 shapes")
sys.exit(list(found.values()) != [20, 0, 20, 0])
PY
JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/count.py" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
