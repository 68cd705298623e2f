"""How a team of networks is trained: one set-up for `experiments.llm` and `experiments.reproduce`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jax import Array

from teamtr_jax.llm.backend import LanguageSampling, language_backend
from teamtr_jax.llm.methods import Method, lone_layout
from teamtr_jax.llm.model import LanguageTeam, ModelConfig
from teamtr_jax.llm.tasks import Task, layout_of
from teamtr_jax.llm.update import TrainState
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.sampled import prompts_per_set
from teamtr_jax.schedules import Order, fixed, random_order, reverse
from teamtr_jax.sharing import Sharing
from teamtr_jax.stage import Backend, run_stage
from teamtr_jax.types import UpdateRecord

__all__ = ["ORDERS", "Training", "team_for", "training_of", "backend_of", "train_stage"]

ORDERS: dict[str, Callable[[int], Order]] = {
    "fixed": lambda n: fixed(range(n)),
    "reverse": reverse,
    "random": lambda n: random_order,
}
"""Who is updated first, by name, of n agents."""


@dataclass(frozen=True)
class Training:
    """A team of networks and how it is trained; nothing is computed yet."""

    task: Task
    team: LanguageTeam
    method: Method
    update: UpdateSettings
    sampling: LanguageSampling  #: of one set of rollouts
    order: Order
    budget: int  #: rollouts of a stage, divided among the sets that the schedule collects


def team_for(
    task: Task, model: ModelConfig, lone: bool, temperature: float = 1.0, sharing: Sharing | None = None
) -> LanguageTeam:
    """A network for each role, one for those that share it, or one that takes every turn."""
    layout = layout_of(task, temperature=temperature)
    layout = lone_layout(layout) if lone else layout
    return LanguageTeam(layout, (model,) * layout.agents, sharing)


def training_of(
    task: Task, team: LanguageTeam, method: Method, update: UpdateSettings, rollouts: int, group: int, order: str
) -> Training:
    """Fit the sets of rollouts to the schedule of the method.

    Args:
      rollouts: of one update. A stage has as many for each role of the task, whoever takes it and whatever the method.
      order: in `ORDERS`; a method may have one of its own.

    Raises:
      InputError: rollouts too few for the sets that the schedule collects.
    """
    budget, updates = rollouts * len(task.roles), len(team.who.leaders)
    sampling = LanguageSampling(prompts_per_set(budget, method.schedule, updates, group), group)
    return Training(task, team, method, update, sampling, method.order or ORDERS[order](updates), budget)


def backend_of(training: Training, **more: Any) -> Backend:
    """The backend; `more` is for `language_backend`: an audit, a log."""
    return language_backend(training.team, training.task, training.update, training.sampling, **more)


def train_stage(
    training: Training, backend: Backend, state: TrainState, key: Array, stage: int
) -> tuple[TrainState, list[UpdateRecord]]:
    """One stage: every agent is updated once."""
    return run_stage(backend, state, training.order, training.method.schedule, key, stage, training.budget)
