#!/usr/bin/env bash
# jax 0.10.2, two processes on a CPU (gloo): multihost_utils.broadcast_one_to_all(−0.0) gives +0.0, also on the process that sent it,
# because it is a sum with zeros. What is restored from a checkpoint by one process and sent so has other bytes than what was saved.
# Guess before the run: a broadcast is a copy.
# For a user who compares digests: send the bytes, as uint8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat >"$folder/two.py" <<'PY'
import sys

import jax
import numpy as np

process, port = map(int, sys.argv[1:])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
from jax.experimental.multihost_utils import broadcast_one_to_all

sent = np.array([-0.0, 1.0], np.float32)
found = np.asarray(broadcast_one_to_all(sent))
whole = np.asarray(broadcast_one_to_all(np.frombuffer(sent.tobytes(), np.uint8))).tobytes() == sent.tobytes()
print(f"process {process}: {sent} came as {found}; as bytes it is {'the same' if whole else 'another'}", flush=True)
sys.exit(bool(np.signbit(found[0])) or not whole)
PY
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/two.py" 1 "$port" 2>/dev/null &
other=$!
JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/two.py" 0 "$port" 2>/dev/null && wait "$other" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
