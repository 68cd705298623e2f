"""What a run of checkpoints needs in memory, said and refused before the work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.llm.words.setup import TextSetup
from teamtr_jax.llm.language_model import Params, split_trained
from teamtr_jax.llm.mesh import parameter_parts, row_parts
from teamtr_jax.llm.tasks import draw, views_of
from teamtr_jax.llm.text_sizes import TextSizes, bytes_beside, needs_text, require_text_room
from teamtr_jax.llm.text_update import worth_sharing
from teamtr_jax.llm.writing import bucket

__all__ = ["sizes_of", "room_for"]

AROUND = 24
"""Ids that a template and a heading write around a message, about."""

TRIED = 64
"""Problems that are looked at."""


def _openings(setup: TextSetup, agent: int) -> list[int]:
    """How many ids an agent is told at its first turn at least, about some problems."""
    problems = draw(setup.task, np.random.default_rng(0), TRIED, held_out=False)
    views = {views_of(setup.task, problem)[agent] for problem in problems}
    return [len(setup.desks[agent].opening(view, ())) for view in views]


def longest_view(setup: TextSetup, agent: int) -> int:
    """Most ids that an agent reads and writes in a conversation, about: of some problems, every message at its cap."""
    n = len(setup.desks)
    return max(_openings(setup, agent)) + sum(
        setup.desks[turn % n].role.cap + AROUND for turn in range(setup.team.turns)
    )


def sizes_of(setup: TextSetup, which: int) -> TextSizes:
    """Of an update of one set of parameters."""
    members = [k for k, number in enumerate(setup.team.who.sharers) if number == which]
    turns = max(sum(setup.team.speaker(turn) in members for turn in range(setup.team.turns)), 1)
    return TextSizes(
        rows=max(setup.sampling.rows, setup.rows),
        length=bucket(max(longest_view(setup, k) for k in members)),
        written=turns * max(setup.desks[k].role.cap for k in members),
        micro_batch=setup.update.micro_batch,
        views=len(members),
        sets=setup.team.who.sets,
        row_devices=row_parts(setup.mesh),
        parameter_devices=parameter_parts(setup.mesh),
        beside=bytes_beside([_frozen(setup, k) for k in range(setup.team.who.sets)], which),
        shared=_read_once(setup, members),
        group=setup.sampling.group,
    )


def _read_once(setup: TextSetup, members: Sequence[int]) -> int:
    """Slots that updates read once for all rollouts of a prompt, about."""
    common = min(min(_openings(setup, k)) for k in members)
    return 0 if setup.mesh else worth_sharing(common, setup.sampling.prompts, setup.update.minibatch)


def _frozen(setup: TextSetup, which: int) -> Params:
    own = setup.params[which]
    return split_trained(own, setup.team.models[which].trained(own))[1]


def room_for(setup: TextSetup) -> str:
    """One line: what an update takes, of the set of parameters that takes most.

    Raises:
      InputError: more than a device has; says what would fit.
    """
    who = setup.team.who
    needs = [require_text_room(setup.team.models[which], sizes_of(setup, which)) for which in range(who.sets)]
    return needs_text(max(needs, key=lambda need: need.peak))
