#!/usr/bin/env bash
# OpenSpiel 2.0.2 (Python 3.11): add_noise(game=tiny_hanabi(),epsilon=1.0,seed=1) declares Utility.IDENTICAL, which it takes over from the
# game inside, and pays its two players differently at every one of its 36 ends (10.99 and 9.01 at the first).
# Guess before the run: utility is right of whatever is loaded.
# For a user who imports games: compare the returns of all ends, whatever is declared.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check open_spiel==2.0.2 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import sys

import pyspiel


def ends(state):
    if state.is_terminal():
        yield state.returns()
        return
    for action in state.legal_actions():
        yield from ends(state.child(action))


game = pyspiel.load_game("add_noise(game=tiny_hanabi(),epsilon=1.0,seed=1)")
returns = list(ends(game.new_initial_state()))
apart = sum(one != other for one, other in returns)
print(f"{game.get_type().utility}: {apart} of {len(returns)} ends pay differently, the first one {returns[0]}")
identical = game.get_type().utility == pyspiel.GameType.Utility.IDENTICAL
as_described = identical and apart == len(returns) == 36
print("as described" if as_described else "the behaviour has changed")
sys.exit(not as_described)
PY
