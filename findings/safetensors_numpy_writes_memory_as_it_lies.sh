#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.6: safetensors.numpy.save_file writes the memory of an array as if it were in row-major order.
# A transposed array comes back scrambled, of every second entry of a vector the file holds the first half of the memory, and
# nothing is said. (The torch side refuses both.) And a file in bfloat16 can be read only after somebody imported ml_dtypes:
# "data type 'bfloat16' not understood" otherwise; jax imports it. The file is its owner's alone (0600), whatever the umask.
# Guess before, of the strides: it writes what the array holds, as numpy.save does, or refuses like the torch side. The import and
# the mode of the file were met on the way, without a guess.
# For a user: numpy.ascontiguousarray first, and a round trip in the test.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/env/bin/python" - "$folder/file" <<'PY'
import os
import stat
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

os.umask(0o022)
path = sys.argv[1]
turned = np.arange(6.0).reshape(3, 2).T
strided = np.arange(6.0)[::2]
save_file({"turned": turned, "strided": strided}, path)
back = load_file(path)
print("saved ", turned.tolist(), strided.tolist())
mode = stat.S_IMODE(os.stat(path).st_mode)
print(f"mode {mode:o} under the umask 022")
print("loaded", back["turned"].tolist(), back["strided"].tolist())

header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
with open(path, "wb") as file:
    file.write(len(header).to_bytes(8, "little") + header + bytes(4))
said = []
for _ in range(2):
    try:
        said.append(str(load_file(path)["x"].dtype))
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
    import ml_dtypes  # noqa: F401
print("bfloat16 before and after ml_dtypes is imported:", said)
same = (
    mode == 0o600
    and back["turned"].tolist() == [[0, 1, 2], [3, 4, 5]]
    and back["strided"].tolist() == [0, 1, 2]
    and "not understood" in said[0]
    and said[1] == "bfloat16"
)
print("as described" if same else "the behaviour has changed")
sys.exit(not same)
PY
