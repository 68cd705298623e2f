"""Tasks from reasoning-gym in words: its prompts as it writes them, its verifiers of what stands after the marker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from teamtr_jax.llm.checked import flags, made
from teamtr_jax.llm.tasks.answers import READERS, parse_answer
from teamtr_jax.llm.tasks.base import Problem
from teamtr_jax.llm.tasks.reasoning import MOST_OPTION, Options, dataset_of
from teamtr_jax.llm.tasks.word_task import solving_roles
from teamtr_jax.llm.text.role import Role
from teamtr_jax.validation import InputError, whole_number

__all__ = ["Wording", "WORDINGS", "GymWords", "gym_words"]


class Wording(NamedTuple):
    """What a dataset of reasoning-gym needs to be a task in words."""

    options: Mapping[str, int]  #: its settings that may be chosen, and what they are otherwise
    read: str  #: of `READERS`: what stands after the marker
    form: str  #: what an answer is, as the last agent is told


WORDINGS: dict[str, Wording] = {
    "chain_sum": Wording(dict(min_terms=2, max_terms=3, min_digits=1, max_digits=1), "number", "the number"),
    "spell_backward": Wording(dict(min_word_len=3, max_word_len=4), "exact", "the word"),
    "family_relationships": Wording(dict(min_family_size=3, max_family_size=5), "exact", "the word"),
}
"""`chain_sum`: sums and differences. `spell_backward`: a word from its end. `family_relationships`: who is who to whom."""


@dataclass(frozen=True)
class GymWords:
    """A dataset of reasoning-gym for a team that talks. `gym_words` makes one.

    The generator draws an index below 2³¹ into the dataset of seed 0, so problems follow from the generator alone.
    """

    dataset: str
    options: Options
    wording: Wording
    agents: int = 3
    partial: bool = False
    cap: int = 48

    def __post_init__(self) -> None:
        made(self, str, "dataset")
        flags(self, "partial")
        solving_roles(self.agents, "", self.cap)
        dataset_of(self.dataset, self.options)

    @property
    def name(self) -> str:
        return self.dataset

    @property
    def roles(self) -> tuple[Role, ...]:
        return solving_roles(self.agents, self.wording.form, self.cap)

    @property
    def turns(self) -> int:
        return self.agents

    def sample(self, rng: np.random.Generator) -> Problem:
        entry = dataset_of(self.dataset, self.options)[int(rng.integers(2**31))]
        return Problem(entry["question"], entry["answer"])

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """The dataset's own `score_answer` of the answer of the last message; below 1 it counts as 0 unless `partial`."""
        answer = parse_answer(messages[-1], READERS[self.wording.read]) if len(messages) == self.turns else None
        if answer is None:
            return 0.0
        try:
            score = float(
                dataset_of(self.dataset, self.options).score_answer(answer, {"answer": problem.answer, "metadata": {}})
            )
        except Exception:  # an answer that the dataset cannot read
            return 0.0
        return min(max(score, 0.0), 1.0) if self.partial else float(score == 1)


def gym_words(dataset: str, agents: int = 3, partial: bool = False, cap: int = 48, **options: Any) -> GymWords:
    """A dataset of `WORDINGS` as a task.

    Args:
      agents: one who solves, those who check, one who answers.
      partial: scores between 0 and 1 as reasoning-gym gives them; otherwise all or nothing.
      cap: ids of a message.
      options: settings of the dataset, among those of its wording.

    Raises:
      InputError: reasoning-gym is not installed; unknown dataset or setting.
    """
    if dataset not in WORDINGS:
        raise InputError("dataset", repr(dataset), "one of " + ", ".join(sorted(WORDINGS)))
    wording = WORDINGS[dataset]
    if unknown := sorted(set(options) - set(wording.options)):
        known = "agents, partial, cap, " + ", ".join(wording.options)
        raise InputError(f"settings of {dataset!r}", repr(unknown[0]), known)
    for option, value in options.items():
        whole_number(option, value, 0, MOST_OPTION)
    return GymWords(dataset, tuple({**wording.options, **options}.items()), wording, agents, partial, cap)
