#!/usr/bin/env bash
# quantecon 0.11.4 (numpy 2.4.6, Python 3.11): DiscreteDP.solve(method="value_iteration", epsilon=1e-3) gives up after 250 rounds
# without a warning. At discount .99 the value of a state that pays 1 for ever comes back as 91.975 (exact: 100), at .999 as 222.08
# (exact: 1000), and the result still names epsilon 0.001. Only `num_iter == max_iter` tells. Modified policy iteration from the same
# call is right at .99 (99.99955) and off at .999 (994.77), as silently.
# Guess before the run: it goes on until epsilon is met, or warns.
# For a user who compares a team's optimal return with quantecon's: pass max_iter, or use method="policy_iteration".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check quantecon==0.11.4 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import sys
import warnings

import numpy as np
from quantecon.markov import DiscreteDP

transition = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])  # [state, action, next state]: both states stay
reward = np.array([[1.0], [0.0]])
silent = True
for discount in (0.9, 0.99, 0.999):
    for method in ("value_iteration", "modified_policy_iteration"):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = DiscreteDP(reward, transition, discount).solve(method=method, epsilon=1e-3)
        error = 1 / (1 - discount) - found.v[0]
        print(f"discount {discount}, {method}: {found.v[0]:.4f}, too low by {error:.4f}, rounds {found.num_iter} of "
              f"{found.max_iter}, epsilon in the result {found.epsilon}, warnings {len(said)}")
        silent &= not said
        if method == "value_iteration" and discount == 0.99:
            early = found.num_iter == 250 and 8.0 < error < 8.1
print("as described" if silent and early else "the behaviour has changed")
sys.exit(not (silent and early))
PY
