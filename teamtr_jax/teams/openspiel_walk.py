"""The tree of an OpenSpiel game, as flat arrays. A program: `python -P openspiel_walk.py FOLDER`, asked by `openspiel.py`.

It runs in a process of its own, because a game may end the process that it is asked in (hanabi does so at parameters that it
does not take), and what it prints is not ours. FOLDER holds the request, `ask.json`; the answer is `tree.npz` there, or
`refused.json` with the name, what was found and what was expected. Nothing of this package is imported: it starts at once.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import resource
import sys
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PROBES = 8
"""Random paths of Knuth's estimate."""
SURELY = 1000
"""A game is refused by the estimate alone where it is so many times what is allowed: of games that are small enough, one in a
thousand has such an estimate (Markov's inequality)."""
SAME = 1e-9
"""Relative difference of payoffs that are identical; and how far from one the outcomes of a chance node may sum."""


class RefusedError(Exception):
    """Name, what was found, what was expected."""


class Node(NamedTuple):
    """A decision: the state of the game, and what each player has seen so far where that is put together here."""

    state: Any
    seen: tuple[int, ...]


def load(pyspiel: Any, asked: dict[str, Any]) -> Any:
    """The game, if its payoffs are identical and its chance nodes say their outcomes.

    Raises:
      RefusedError: unknown game or parameter, or a game of another kind.
    """
    text, names = asked["game"], asked["parameters"]
    kinds = {kind.short_name: kind for kind in pyspiel.registered_games()}
    identical = pyspiel.GameType.Utility.IDENTICAL
    name = text.partition("(")[0]
    if name not in kinds:
        known = ", ".join(sorted(k for k, kind in kinds.items() if kind.utility == identical))
        raise RefusedError("GAME", repr(name), f"a game of OpenSpiel; identical payoffs have {known}")
    for parameter in names:
        if parameter not in (takes := kinds[name].parameter_specification):
            expected = f"one of {', '.join(sorted(takes))}" if takes else "none: it takes no parameter"
            raise RefusedError(f"parameter {parameter}", f"no such parameter of {name}", expected)
    try:
        game = pyspiel.load_game(text)
        kind = game.get_type()
    except Exception as error:  # SpielError, and what a constructor in C++ or Python raises
        raise RefusedError(
            "GAME", f"{text!r} ({'; '.join(str(error).split(chr(10)))})", "a game that OpenSpiel loads"
        ) from None
    if kind.utility != identical:
        raise RefusedError("GAME", f"{text!r} with utility {kind.utility.name}", "identical payoffs: a team")
    dynamics = pyspiel.GameType.Dynamics
    if kind.dynamics not in (dynamics.SEQUENTIAL, dynamics.SIMULTANEOUS):
        raise RefusedError("GAME", f"{text!r} with dynamics {kind.dynamics.name}", "turns, or all players at once")
    if kind.chance_mode == pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC:
        raise RefusedError("GAME", f"{text!r}, whose chance nodes are sampled", "chance nodes with all outcomes")
    return game


def choices(state: Any, players: int) -> list[list[int]]:
    """The moves at a node that is neither chance nor terminal, each a list of actions: one, or one of each player.

    Raises:
      RefusedError: there is none.
    """
    if state.is_simultaneous_node():
        moves = [list(move) for move in itertools.product(*(state.legal_actions(p) for p in range(players)))]
    else:
        moves = [[action] for action in state.legal_actions()]
    if not moves:
        raise RefusedError("GAME", f"no legal action after {state.history_str()!r}", "an action at every decision")
    return moves


def moved(state: Any, move: list[int]) -> Any:
    """The state after a move; the given one stays."""
    if not state.is_simultaneous_node():
        return state.child(move[0])
    state = state.clone()
    state.apply_actions(move)
    return state


def outcomes(state: Any) -> list[tuple[int, float]]:
    """The outcomes of a chance node that can happen.

    Raises:
      RefusedError: they are no probabilities.
    """
    found = state.chance_outcomes()
    if not all(0 <= p <= 1 + SAME for _, p in found) or abs(math.fsum(p for _, p in found) - 1) > SAME:
        raise RefusedError(
            "chance node", f"probabilities {[p for _, p in found][:8]}", f"numbers ≥ 0 with sum 1 within {SAME}"
        )
    return [(action, p) for action, p in found if p > 0]


def about(game: Any, most: int) -> float:
    """Knuth's estimate (1975) of the number of histories: the mean, over random paths, of `1 + b₀ + b₀b₁ + …`."""
    rng, total, enough = random.Random(0), 0.0, float(PROBES * SURELY * most)
    for _ in range(PROBES):
        state, width, size = game.new_initial_state(), 1.0, 1.0
        while not state.is_terminal() and size < enough:
            chance = state.is_chance_node()
            moves = [[action] for action, _ in outcomes(state)] if chance else choices(state, game.num_players())
            width *= len(moves)
            size += width
            state = moved(state, rng.choice(moves))
        total += size
    return total / PROBES


def count(game: Any, most: int) -> None:
    """Walk the tree without looking at it.

    Raises:
      RefusedError: more histories than allowed.
    """
    waiting, histories = [game.new_initial_state()], 0
    while waiting:
        state, histories = waiting.pop(), histories + 1
        if histories > most:
            raise RefusedError("GAME", f"more than {most:,} histories", f"a game of at most {most:,}")
        if state.is_chance_node():
            waiting += [state.child(action) for action, _ in outcomes(state)]
        elif not state.is_terminal():
            waiting += [moved(state, move) for move in choices(state, game.num_players())]


def after(state: Any, probability: float = 1.0) -> Iterator[tuple[Any, float]]:
    """Chance nodes folded: the decisions and ends that follow, with their probabilities."""
    if not state.is_chance_node():
        yield state, probability
        return
    for action, p in outcomes(state):
        yield from after(state.child(action), probability * p)


class Decision(NamedTuple):
    """A state of the team."""

    active: int  #: -1: all players
    label: list[int]  #: what each who acts sees
    legal: list[list[int]]  #: the actions of each who acts
    moves: list[tuple[list[int], float, list[tuple[int, float]]]]
    """Actions, expected reward, and the places in the next step (-1: over) with their probabilities."""


class Tree:
    """The walk, a step of the episode at a time. What `arrays` returns is described there."""

    def __init__(self, game: Any, view: str, texts: bool):
        self.game, self.view, self.texts = game, view, texts
        self.players = game.num_players()
        kind = game.get_type()
        self.simultaneous = kind.dynamics.name == "SIMULTANEOUS"
        self.recalled = view == "information" and not kind.provides_information_state_string
        if not kind.provides_observation_string and (view == "observation" or self.recalled):
            raise RefusedError("view", f"{view}, of a game without observations", "another view")
        self.initial: list[float] = []  # law of the decisions of the first step
        self.steps: list[list[Decision]] = []
        self.numbers: list[dict[Hashable, int]] = [{} for _ in range(self.players)]  # what a player saw → its number
        self.links: dict[tuple[int, Hashable, str], int] = {(-1, None, ""): 0}
        self.first: dict[tuple[int, int], list[int]] = {}  # (player, label) → legal actions

    def paid(self, state: Any) -> float:
        """What every player has been paid so far.

        Raises:
          RefusedError: the payoffs are not finite, or differ.
        """
        returns = state.returns()
        if not all(map(math.isfinite, returns)):
            raise RefusedError("GAME", f"payoffs {returns[:8]}", "finite payoffs")
        if max(returns) - min(returns) > SAME * max(1.0, abs(returns[0])):
            found = f"payoffs {returns[:8]} after {state.history_str()!r}, though it declares identical ones"
            raise RefusedError("GAME", found, "identical payoffs: a team")
        return returns[0]

    def seeing(self, state: Any, before: tuple[int, ...], move: dict[int, int]) -> Node:
        """A decision with what each player has seen: what it saw before, its own move, and what it observes now."""
        if not self.recalled:
            return Node(state, before)
        seen = []
        for player, last in enumerate(before):
            key = (last, move.get(player), state.observation_string(player))
            seen.append(self.links.setdefault(key, len(self.links)))
        return Node(state, tuple(seen))

    def number(self, node: Node, player: int) -> int:
        """The number of what a player sees at a decision; where it sees the same, it has the same actions."""
        state = node.state
        if self.view == "everything":
            key: Hashable = state.history_str()
        elif self.recalled:
            key = node.seen[player]
        elif self.view == "information":
            key = state.information_state_string(player)
        else:
            key = state.observation_string(player)
        number = self.numbers[player].setdefault(key, len(self.numbers[player]))
        legal = state.legal_actions(player)
        if self.first.setdefault((player, number), legal) != legal:
            found = f"{self.view}, where player {player} has different actions though it sees the same"
            raise RefusedError("view", found, "one with which it sees its actions")
        return number

    def decide(self, node: Node, start: bool, following: list[Node]) -> Decision:
        """One decision: who acts, what is seen and offered, and where each move leads; `following` grows."""
        state = node.state
        if state.is_simultaneous_node() != self.simultaneous:
            raise RefusedError("GAME", "turns and simultaneous moves", "a game with one of the two")
        acting = range(self.players) if self.simultaneous else [state.current_player()]
        before = 0.0 if start else self.paid(state)
        moves = []
        for move in choices(state, self.players):
            reward, over, entries = 0.0, 0.0, []
            for child, p in after(moved(state, move)):
                reward += p * (self.paid(child) - before)
                if child.is_terminal():
                    over += p
                    continue
                entries.append((len(following), p))
                following.append(self.seeing(child, node.seen, dict(zip(acting, move, strict=True))))
            moves.append((move, reward, entries + [(-1, over)] * (over > 0)))
        legal = [state.legal_actions(p) for p in acting]
        return Decision(-1 if self.simultaneous else acting[0], [self.number(node, p) for p in acting], legal, moves)

    def walk(self) -> None:
        """All of the tree, by its steps.

        Raises:
          RefusedError: payoffs that differ, an episode without a decision.
        """
        nothing, now = (0,) * self.players, []
        for state, p in after(self.game.new_initial_state()):
            if state.is_terminal():
                raise RefusedError("GAME", "an episode without a decision", "a decision before the end")
            self.initial.append(p)
            now.append(self.seeing(state, nothing, {}))
        while now:
            following: list[Node] = []
            self.steps.append([self.decide(node, not self.steps, following) for node in now])
            now = following

    def arrays(self) -> dict[str, np.ndarray]:
        """`D` decisions in the order of their steps, `M` moves, `E` entries, `k` who act at once (one, or all players)."""
        back = {own: link for link, own in self.links.items()}
        texts = [[self.text(key, back) for key in own] for own in self.numbers] if self.texts else []
        decisions = [d for step in self.steps for d in step]
        moves = [(number, *move) for number, d in enumerate(decisions) for move in d.moves]
        entries = [(number, *entry) for number, move in enumerate(moves) for entry in move[3]]
        legal = [(d, k, a) for d, x in enumerate(decisions) for k, own in enumerate(x.legal) for a in own]
        return {
            "players": np.asarray(self.players),
            "steps": np.asarray([len(step) for step in self.steps]),  # [T] decisions of each step
            "initial": np.asarray(self.initial),
            "active": np.asarray([d.active for d in decisions]),  # [D]
            "label": np.asarray([d.label for d in decisions]),  # [D, k]
            "legal": np.asarray(legal),  # [., 3] decision, who, action
            "move_state": np.asarray([m[0] for m in moves]),  # [M]
            "move": np.asarray([m[1] for m in moves]),  # [M, k]
            "reward": np.asarray([m[2] for m in moves]),  # [M], expected
            "entry_move": np.asarray([e[0] for e in entries]),  # [E]
            "entry_next": np.asarray([e[1] for e in entries]),  # [E] place in the next step, -1: over
            "entry_prob": np.asarray([e[2] for e in entries]),  # [E]
            "seen": np.frombuffer(json.dumps(texts).encode(), np.uint8),  # JSON: for each player a text for each label
        }

    def text(self, key: Any, back: dict[int, tuple[int, Hashable, str]]) -> str:
        """What a label stands for; what is put together here has a line for each own action and each observation."""
        if not self.recalled:
            return key
        lines = []
        while key > 0:
            key, action, observation = back[key]
            lines += [observation] if action is None else [observation, f"action {action}"]
        return "\n".join(reversed(lines))


def main() -> None:
    """Read the request, write the answer."""
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "ask.json").read_text())
    resource.setrlimit(resource.RLIMIT_CPU, (asked["seconds"], asked["seconds"] + 9))  # SIGXCPU, then SIGKILL
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
    try:
        try:
            import pyspiel

            if "python_" in asked["game"]:
                import open_spiel.python.games  # noqa: F401  # registers them
        except ImportError:
            raise RefusedError("open_spiel", "not installed", "pip install 'teamtr-jax[games]'") from None
        game, most = load(pyspiel, asked), asked["most"]
        if (size := about(game, most)) > SURELY * most:
            found = f"{asked['game']!r} with some {size:.0e} histories or more (Knuth's estimate)"
            raise RefusedError("GAME", found, f"a game of at most {most:,}")
        count(game, most)
        tree = Tree(game, asked["view"], asked["texts"])
        tree.walk()
    except RefusedError as error:
        (folder / "refused.json").write_text(json.dumps(error.args))
        return
    np.savez(folder / "tree.npz", allow_pickle=False, **tree.arrays())


if __name__ == "__main__":
    main()
