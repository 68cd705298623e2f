"""`teamtr import-gym` and `teamtr import-openspiel`: stage files of other libraries' worlds."""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from teamtr_jax.files import output_file
from teamtr_jax.sizes import HISTORIES
from teamtr_jax.validation import InputError, discount_factor, real_number, shown, whole_number

__all__ = ["ImportGymCommand", "ImportOpenSpielCommand"]


@dataclass(frozen=True)
class ImportGymCommand:
    """Write a Gymnasium toy-text environment as a stage file: a turn-taking team of N agents and a target policy.

    The current policy is uniform over the actions that a state offers.
    """

    env: Annotated[str, tyro.conf.Positional]
    """Name, with or without a version, for instance FrozenLake, FrozenLake8x8, CliffWalking, Taxi, module:Name-v0."""
    agents: int
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Where to write the .npz file."""
    router: Literal["round_robin", "random"] = "round_robin"
    """Who speaks next."""
    discount: float = 0.99
    seed: int = 0
    """Of the random target."""
    target: str = "improve:0.01"
    """improve:δ, one exact improvement step of each agent with E_d KL(current‖new) ≤ δ; or random:ε, ε of the way to a
    random policy."""
    env_arg: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """An option of the environment, such as is_slippery=False; may be given several times. True, False, None, numbers and
    lists are read as in Python, anything else is a text."""

    def run(self) -> int:
        import jax.numpy as jnp
        import numpy as np

        from teamtr_jax.sizes import fitting
        from teamtr_jax.tabular import improvement_stage
        from teamtr_jax.teams.gymnasium import read_table, team_of_table, warn_of_time_limit
        from teamtr_jax.teams.stage_file import report_bytes, write_stage
        from teamtr_jax.types import Stage

        kind, size = _target(self.target)
        whole_number("agents", self.agents, 1)
        whole_number("--seed", self.seed, 0)
        discount = discount_factor("discount", real_number("discount", self.discount))
        options = _options("--env-arg", self.env_arg)
        output_file("--output", self.output)
        table = read_table(self.env, options)
        entries = table.offered.size
        fitting("agents", self.agents, lambda n: report_bytes(entries * n, n), "the report of so many updates")
        team = team_of_table(table, self.agents, self.router, discount)
        offered = np.repeat(table.offered, self.agents, 0)
        current = jnp.asarray(offered / offered.sum(-1, keepdims=True))
        if kind == "improve":
            stage = improvement_stage(team, current, size, range(self.agents))
        else:
            drawn = np.random.default_rng(self.seed).dirichlet(np.ones(offered.shape[1]), len(offered)) * offered
            drawn = jnp.asarray(drawn / drawn.sum(-1, keepdims=True))
            stage = Stage(team, current, (1 - size) * current + size * drawn, jnp.arange(self.agents))
        if table.time_limit is not None:
            warn_of_time_limit(self.env, table.time_limit)
        write_stage(stage, self.output)
        print(shown(self.output))
        return 0


@dataclass(frozen=True)
class ImportOpenSpielCommand:
    """Write a cooperative game of OpenSpiel as a stage file: an episodic team with its players' views, and a target policy.

    The current policy is uniform over the actions that are legal.
    """

    game: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GAME")]
    """Name of a game with identical payoffs, for instance tiny_hanabi, matrix_coordination, tiny_bridge_2p."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Where to write the .npz file."""
    param: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """A parameter of the game, such as horizon=2; may be given several times."""
    view: Literal["information", "observation", "everything"] = "information"
    """What an agent tells apart: information states; what it observes now; all histories."""
    target: str = "improve:0.01"
    """improve:δ, one exact improvement step of each agent with KL(current‖new) ≤ δ over the episode; or random:ε, ε of the
    way to a random policy."""
    seed: int = 0
    """Of the random target."""
    most: int = HISTORIES
    """Histories of the game that are walked, chance and ends among them."""

    def run(self) -> int:
        import jax.numpy as jnp
        import numpy as np

        from teamtr_jax.tabular import improvement_stage
        from teamtr_jax.teams.openspiel import openspiel_game
        from teamtr_jax.teams.stage_file import write_stage
        from teamtr_jax.types import Stage

        kind, size = _target(self.target)
        whole_number("--seed", self.seed, 0)
        whole_number("--most", self.most, 1)
        parameters = _options("--param", self.param, read=str)
        output_file("--output", self.output)
        game = openspiel_game(self.game, parameters, self.view, self.most, texts=False)
        current = game.offered / game.offered.sum(-1, keepdims=True)
        order = jnp.arange(game.team.agents)
        if kind == "improve":
            stage = improvement_stage(game.team, jnp.asarray(current), size, order.tolist())
            if np.array_equal(stage.target, current):
                nothing = "no agent gains alone on the uniform team, so that the target is the current one"
                warnings.warn(f"{shown(self.game)}: {nothing}; --target random:ε moves", stacklevel=2)
        else:
            drawn = game.tied(
                np.random.default_rng(self.seed).dirichlet(np.ones(current.shape[-1]), current.shape[:-1])
            )
            drawn = drawn * game.offered / (drawn * game.offered).sum(-1, keepdims=True)
            stage = Stage(game.team, jnp.asarray(current), jnp.asarray((1 - size) * current + size * drawn), order)
        write_stage(stage, self.output)
        print(shown(self.output))
        return 0


def _target(text: str) -> tuple[str, float]:
    """The kind of target, and its size."""
    kind, _, number = text.partition(":")
    expected = "improve:δ with δ > 0, or random:ε with 0 ≤ ε ≤ 1"
    try:
        size = float(number)
    except ValueError:
        raise InputError("--target", repr(text), expected) from None
    if not (kind == "improve" and 0 < size < math.inf) and not (kind == "random" and 0 <= size <= 1):
        raise InputError("--target", repr(text), expected)
    return kind, size


def _constant(text: str) -> Any:
    """One of Python's constants; anything else is a text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _options(option: str, arguments: tuple[str, ...], read: Callable[[str], Any] = _constant) -> dict[str, Any]:
    """`NAME=VALUE`, every name once."""
    options: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(option, repr(argument), "NAME=VALUE")
        if name in options:
            raise InputError(option, f"{name} twice", "every option once")
        options[name] = read(text)
    return options
