"""Conversations on the terminal: who said what, and what it earned."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from rich.console import Console
from rich.text import Text

from experiments.llm.measure import converse
from experiments.llm.run import load_run
from experiments.llm.settings import Show
from experiments.llm.setup import Setup
from teamtr_jax.llm.tasks import Problem, demonstrated, draw
from teamtr_jax.validation import shown

__all__ = ["COLOURS", "show", "speakers_of", "standing", "transcript", "verdict"]

COLOURS = ("cyan", "magenta", "yellow", "blue", "bright_green", "bright_red", "bright_cyan", "bright_magenta")
"""One for each agent, in turn."""


def transcript(
    roles: Sequence[str],
    speakers: Sequence[int],
    problem: Problem,
    said: Sequence[str],
    demonstration: Sequence[str],
    reward: float,
) -> Text:
    """One conversation. A message that is not the demonstrated one has the latter beside it. Texts as `shown`."""
    head = (shown(problem.prompt), "bold"), ("   answer ", "dim"), shown(problem.answer)
    text = Text.assemble(("prompt ", "dim"), *head, "\n")
    for agent, message, right in zip(speakers, said, demonstration, strict=True):
        colour = COLOURS[agent % len(COLOURS)]
        text.append(f"  {shown(roles[agent]):>10}  ", colour).append(shown(message) or "(nothing)", f"bold {colour}")
        if message != right:
            text.append(f"   demonstrated: {shown(right)}", "dim")
        text.append("\n")
    return text.append_text(verdict(reward))


def verdict(reward: float, more: str = "") -> Text:
    """What a conversation earned, on a line of its own."""
    mark, style = (
        ("✓ right", "bold green") if reward == 1 else ("✗ wrong", "bold red") if reward == 0 else ("~ partly", "yellow")
    )
    return Text.assemble((f"  {mark}", style), (f"   reward {reward:g}{more}\n", "dim"))


def standing(stages: int) -> str:
    """How long a team was trained."""
    return f"after {stages} stage{'s' * (stages > 1)}" if stages else "before training"


def speakers_of(setup: Setup) -> list[int]:
    """Who speaks at each turn; the tasks of the package have a round robin."""
    return [turn % setup.team.agents for turn in range(setup.team.layout.turns)]


def show(settings: Show, console: Console | None = None) -> None:
    """Print conversations on held-out prompts.

    Raises:
      InputError: no such run.
    """
    loaded = load_run(settings.run, settings.start)
    setup = loaded.setup
    console = Console() if console is None else console
    rng = np.random.default_rng([settings.seed, 4])
    wanted = settings.count * (8 if settings.failures else 1)
    problems = draw(setup.task, rng, wanted, held_out=True)
    found = converse(setup.team, loaded.params, setup.task, problems, 1, jax.random.key(settings.seed), setup.rows)
    roles = setup.task.roles if setup.team.agents == len(setup.task.roles) else ("alone",)
    after, seed = standing(loaded.stages), loaded.settings.seed
    title = f"{shown(setup.task.name)}, {loaded.settings.method}, {after}, seed {seed}\n"
    console.print(Text(title), highlight=False)
    chosen = [b for b in range(wanted) if not settings.failures or found.reward[b, 0] < 1][: settings.count]
    for b in chosen:
        right = demonstrated(setup.task, problems[b], rng)
        text = transcript(roles, speakers_of(setup), problems[b], found.said[b][0], right, float(found.reward[b, 0]))
        console.print(text, highlight=False)
    mean = found.reward.mean()
    console.print(
        f"mean reward {mean:.3f} of {wanted} conversations, {len(chosen)} shown", style="dim", highlight=False
    )
