"""Teams from OpenSpiel's cooperative games: the tree of a game with identical payoffs, decision by decision."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from teamtr_jax.dynamics import Layered, Successors
from teamtr_jax.sizes import HISTORIES, fitting, memory
from teamtr_jax.teams.stage_file import report_bytes
from teamtr_jax.types import Team
from teamtr_jax.validation import InputError, one_of, whole_number

__all__ = ["openspiel_game", "OpenSpielGame", "View", "VIEWS"]

View = Literal["information", "observation", "everything"]
VIEWS: tuple[View, ...] = ("information", "observation", "everything")

WALK = Path(__file__).with_name("openspiel_walk.py")
SECONDS = 120
"""Of the processor, for one walk."""
BUILD = r"/project/\S*/"
"""Where OpenSpiel was built, in front of the files that its messages name."""


@dataclass(frozen=True)
class OpenSpielGame:
    """A cooperative game as an episodic team, and what its states, labels and actions are in the game."""

    team: Team
    offered: NDArray[np.bool_]  #: [S, A], product team [n, S, max A_k]: the actions that there are
    label: NDArray[np.int64]  #: [S], product team [n, S]: what is seen, whatever the view
    seen: tuple[tuple[str, ...], ...]  #: what label `o` of agent `k` stands for; `()` without texts
    actions: tuple[tuple[int, ...], ...]  #: OpenSpiel's number of each action of agent `k`

    def tied(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """`table`, of the shape of `offered`, with the row of the first state at which the agent sees the same."""
        label = self.label
        if self.team.active is not None:
            label = np.asarray(self.team.active) * label.size + label
        first = [np.unique(own, return_index=True, return_inverse=True)[1:] for own in np.atleast_2d(label)]
        states = np.stack([place[number] for place, number in first]).reshape(label.shape)
        return np.take_along_axis(table, states[..., None], -2)


def openspiel_game(
    game: str,
    parameters: Mapping[str, Any] | None = None,
    view: str = "information",
    most: int = HISTORIES,
    texts: bool = True,
) -> OpenSpielGame:
    """An OpenSpiel game with identical payoffs as an episodic team: a state is a history at which somebody decides.

    Step t holds the histories with t decisions before them; a history that ends early goes on in a state that never pays, where
    one action is offered.
    Turns make a turn-taking team, simultaneous moves a product team. Chance is folded into the transitions and the start:
    nobody decides there, and a maximum over actions is one over decisions. Rewards are expected over the chance that follows.

    What an agent cannot tell apart has one row (`Team.observation`, U4):

    * `information`: OpenSpiel's information state; of a game that has none, the observations at all decisions so far
      and the agent's own actions;
    * `observation`: OpenSpiel's observation at this decision alone, at whatever step;
    * `everything`: all histories are told apart.

    An action that a state does not offer has the row of the first action that it does offer, as in `gymnasium_team`.

    Args:
      game: a name of OpenSpiel, or with parameters: ``"hanabi(players=2,colors=1)"``.
      parameters: of the game, such as ``{"horizon": 2}``.
      most: histories of the game that are allowed, chance nodes and ends among them.
      texts: whether to keep what labels stand for.

    Raises:
      InputError: unknown game, parameter or view; payoffs that are not identical, whatever the game declares; chance
        without its outcomes; too many histories; a view in which an agent does not see its actions; more memory needed than
        there is; a game that ends its process; OpenSpiel missing.
    """
    if not isinstance(parameters, Mapping | None):
        raise InputError("parameters", repr(parameters), "a mapping from names to values")
    one_of("view", view, VIEWS)
    ask = {"game": _named(game, parameters or {}), "parameters": list(parameters or {}), "view": view,
           "most": whole_number("most", most, 1), "texts": bool(texts)}  # fmt: skip
    return _Tables(_walked(ask)).game(view)


def _named(game: object, parameters: Mapping[str, Any]) -> str:
    """The game with its parameters, as OpenSpiel reads it."""
    if not isinstance(game, str):
        raise InputError("GAME", repr(game), "the name of a game of OpenSpiel")
    given = []
    for name, value in parameters.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise InputError(f"parameter {name}", "no name of a parameter", "a name")
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"parameter {name}", repr(value), "a text, a number, True or False")
        if re.search(rf"[(,]\s*{name}\s*=", game):
            raise InputError(f"parameter {name}", "the parameter twice", "every parameter once")
        given.append(f"{name}={value}")
    if not given:
        return game
    name, _, within = game.removesuffix(")").partition("(") if game.endswith(")") else (game, "", "")
    return f"{name}({','.join([*filter(None, [within]), *given])})"


def _walked(ask: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The answer of `openspiel_walk.py`, asked in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="teamtr.") as name:
        folder = Path(name)
        limits = {"seconds": SECONDS, "memory": memory() + 2**32}
        (folder / "ask.json").write_text(json.dumps({**ask, **limits}))
        command = [sys.executable, "-P", str(WALK), name]
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if (folder / "refused.json").exists():
            name, found, expected = json.loads((folder / "refused.json").read_text())
            raise InputError(name, re.sub(BUILD, "", found), expected)
        if run.returncode == 0:
            with np.load(folder / "tree.npz") as file:
                return dict(file)
    lines = re.sub(BUILD, "", run.stderr).strip().splitlines() or [""]
    if run.returncode == -signal.SIGXCPU:
        why = f"more than {SECONDS} s of the processor"
    elif run.returncode < 0:
        why = f"it ends the process, {signal.Signals(-run.returncode).name}: {lines[0]}".removesuffix(": ")
    else:
        why = lines[-1]
    raise InputError("GAME", f"{ask['game']!r} ({why})", "a game that can be walked to its ends")


class _Tables:
    """The tables of a team from the flat arrays of a walk (`Tree.arrays`)."""

    def __init__(self, tree: Mapping[str, NDArray[Any]]):
        self.tree = tree
        self.agents, self.simultaneous = int(tree["players"]), bool(tree["active"][0] < 0)
        legal, acts = tree["legal"], self.agents if self.simultaneous else 1
        own = [np.unique(legal[legal[:, 1] == k, 2]) for k in range(acts)]
        self.actions = tuple(tuple(a.tolist()) for a in own)
        self.factors = tuple(map(len, own))

        steps, over = tree["steps"], tree["entry_next"] < 0
        step = np.repeat(np.arange(len(steps)), steps)  # of each decision
        ended = np.zeros(len(steps) + 1, bool)
        ended[step[tree["move_state"][tree["entry_move"][over]]] + 1] = True
        self.contexts = int((steps + np.logical_or.accumulate(ended)[:-1]).max())
        self.states = len(steps) * self.contexts
        starts = np.cumsum(steps) - steps
        self.place = step * self.contexts + np.arange(len(step)) - starts[step]
        self.joint = math.prod(self.factors)

        self.slot = np.arange(len(over)) - np.searchsorted(tree["entry_move"], tree["entry_move"])
        slots = int(self.slot.max()) + 1

        def needed(states: int) -> int:
            """Indices and probabilities, on the host and on the device, twice; rewards, policies, the report."""
            return 8 * states * self.joint * (8 * slots + 8) + report_bytes(states * self.joint, self.agents)

        fitting("GAME", self.states, needed, "tables and the report of so many states")
        self.slots = slots

    def game(self, view: str) -> OpenSpielGame:
        tree, steps = self.tree, len(self.tree["steps"])
        shape = (steps, self.contexts, self.joint)
        offered, as_if = self.offered()
        index, prob, reward = (np.take_along_axis(x, as_if.reshape(as_if.shape + (1,) * (x.ndim - 2)), 1)
                               for x in self.rows())  # fmt: skip
        initial = np.zeros(self.states)
        initial[: len(tree["initial"])] = tree["initial"]
        label = self.spread(tree["label"], len(self.place))
        active = None if self.simultaneous else self.speakers()
        team = Team(
            Layered(
                Successors(jnp.asarray(index.reshape(*shape, -1)), jnp.asarray(prob.reshape(*shape, -1)), None),
                steps,
                stationary=False,
            ),
            jnp.asarray(reward),
            jnp.asarray(initial),
            None if active is None else jnp.asarray(active),
            self.agents,
            self.factors if self.simultaneous else None,
            None if view == "everything" else jnp.asarray(label),
        )
        seen = tuple(map(tuple, json.loads(tree["seen"].tobytes())))
        actions = self.actions if self.simultaneous else self.actions * self.agents
        return OpenSpielGame(team, offered, label, seen, actions)

    def spread(self, table: NDArray[Any], fill: int) -> NDArray[Any]:
        """[D, k] at its states: [S], in a product team [k, S]; `fill` where there is no decision."""
        out = np.full((table.shape[1], self.states), fill)
        out[:, self.place] = table.T
        return out if self.simultaneous else out[0]

    def speakers(self) -> NDArray[np.int64]:
        """Who acts at each state; where nobody decides, who does at the first state of the step."""
        active = self.spread(self.tree["active"][:, None], -1).reshape(-1, self.contexts)
        return np.where(active < 0, active[:, :1], active).ravel()

    def offered(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which actions there are, and which (joint) action each one is instead, [S, A]."""
        decision, who, action = self.tree["legal"].T
        offered = np.zeros((len(self.factors), self.states, max(self.factors)), bool)
        position = np.zeros_like(action)
        for k, own in enumerate(self.actions):
            position[who == k] = np.searchsorted(own, action[who == k])
        offered[who, self.place[decision], position] = True
        offered[:, ~offered.any((0, 2)), 0] = True
        parts = np.asarray(np.unravel_index(np.arange(self.joint), self.factors))  # [k, A]
        there = np.take_along_axis(offered, parts[:, None], 2)
        instead = np.where(there, parts[:, None], offered.argmax(-1)[..., None])
        joint = np.asarray(np.ravel_multi_index(tuple(instead), self.factors))
        return offered if self.simultaneous else offered[0], joint

    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Successors and probabilities [S, A, K] and rewards [S, A] of the moves that there are; all else goes to the last."""
        tree, size = self.tree, self.states * self.joint
        index, prob, reward = (
            np.full((size, self.slots), self.contexts - 1),
            np.zeros((size, self.slots)),
            np.zeros(size),
        )
        prob[:, 0] = 1.0
        parts = [np.searchsorted(own, column) for own, column in zip(self.actions, tree["move"].T, strict=True)]
        row = self.place[tree["move_state"]] * self.joint + np.ravel_multi_index(tuple(parts), self.factors)
        reward[row] = tree["reward"]
        prob[row] = 0.0
        at = row[tree["entry_move"]], self.slot
        prob[at] = tree["entry_prob"]
        index[at] = np.where(tree["entry_next"] < 0, self.contexts - 1, tree["entry_next"])
        shape = (self.states, self.joint)
        return index.reshape(*shape, -1), prob.reshape(*shape, -1), reward.reshape(shape)
