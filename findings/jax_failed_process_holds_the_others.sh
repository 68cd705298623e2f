#!/usr/bin/env bash
# jax 0.10.2, two processes on a CPU (gloo): the second raises an error while the first waits for it in a collective. Both go on for
# `shutdown_timeout_seconds` (default 300), though each would see a killed process within `heartbeat_timeout_seconds`: the failed one
# waits in jax's own shutdown for the other, and sends heartbeats meanwhile.
# Guess before the run: the heartbeat decides, as it does for a process that is killed.
# For a user of several hosts: give `jax.distributed.initialize` a shutdown_timeout_seconds as short as the heartbeat.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat >"$folder/two.py" <<'PY'
import sys

import jax

process, port, wait = map(int, sys.argv[1:])
settings = {"heartbeat_timeout_seconds": 4, "shutdown_timeout_seconds": wait}
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process, **settings)
from jax.experimental import multihost_utils

if process == 1:
    raise ValueError("of its own")
multihost_utils.sync_global_devices("never")
PY
for wait in 4 30; do
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
    SECONDS=0
    JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/two.py" 0 "$port" "$wait" >/dev/null 2>&1 &
    JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/two.py" 1 "$port" "$wait" >/dev/null 2>&1 &
    wait || true
    echo "heartbeat 4 s, shutdown $wait s: both ended after $SECONDS s"
    took=$SECONDS
done
if [ "$took" -ge 30 ]; then echo "as described"; else echo "the behaviour has changed"; exit 1; fi
