"""A short supervised start of a team that talks in text: each agent learns its own messages in demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from teamtr_jax.hosts import gathered
from teamtr_jax.llm.checked import FLOAT32, SEEDS, real, whole
from teamtr_jax.llm.conversations import Conversations, reading_of
from teamtr_jax.llm.external import ExternalSampler
from teamtr_jax.llm.given import reading_policy, text_of
from teamtr_jax.llm.language_model import LanguageModel, Params, Reading, joined, split_trained
from teamtr_jax.llm.mesh import by_rows, parameter_parts, placed, require_parts, row_parts, within
from teamtr_jax.llm.tasks import Demonstrates, Problem, WordTask, demonstrated, draw, views_of
from teamtr_jax.llm.text.view import Scribe
from teamtr_jax.llm.text_sampler import converse
from teamtr_jax.llm.text_sizes import TextSizes, require_text_room
from teamtr_jax.llm.text_team import TextTeam
from teamtr_jax.llm.token_statistics import token_log_probs_of
from teamtr_jax.validation import InputError, whole_number

__all__ = ["TextWarmStart", "TextWarmStartRecord", "text_warm_start", "demonstrated_conversations", "message_loss"]

MOST = 10**5
"""Of steps, and of demonstrations of a step."""


@dataclass(frozen=True)
class TextWarmStart:
    """How long, and how fast. A team that cannot write an answer in the form that is asked for earns nothing to learn from."""

    steps: int = 0  #: of Adam; 0: no start
    batch: int = 8  #: demonstrations of a step
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        whole(self, 0, "steps", high=MOST)
        whole(self, 1, "batch", high=MOST)
        real(self, "learning_rate", **FLOAT32)

    @property
    def demonstrations(self) -> int:
        """That are seen, each once."""
        return self.steps * self.batch


class TextWarmStartRecord(NamedTuple):
    """How it went."""

    steps: int
    demonstrations: int
    loss: tuple[
        tuple[float, ...], ...
    ]  #: ``[steps][sets]`` nats a token, of the demonstrations of a step before that step


def text_warm_start(
    team: TextTeam,
    task: WordTask,
    params: Sequence[Params],
    seed: int,
    settings: TextWarmStart,
    *,
    mesh: Mesh | None = None,
) -> tuple[tuple[Params, ...], TextWarmStartRecord]:
    """Every set of parameters learns the messages of its agents in `steps · batch` demonstrations on training problems.

    Ascended is the mean log-probability of an id by the policy as it is sampled, at the team's temperature, by Adam (norm of the
    gradient at most 1). Trained leaves move, frozen ones are the same arrays. Demonstrations of step k depend on the seed and on
    k only, and none is on a held-out problem.

    Args:
      params: one pytree for each set of parameters.
      mesh: where they lie (`teamtr_jax.llm.mesh`).

    Raises:
      InputError: a task without demonstrations, a team with a router, a demonstration that does not fit, too little memory, a
        `batch` that the mesh does not divide.
      ArithmeticError: a loss that is not a number: names the agent and the step.
    """
    whole_number("seed", seed, 0, SEEDS)
    if not settings.steps:
        return tuple(params), TextWarmStartRecord(0, 0, ())
    if not isinstance(task, Demonstrates):
        raise InputError("warm.steps", settings.steps, f"0: {task.name!r} has no `demonstrate`")
    require_parts(mesh, "warm.batch", settings.batch)
    models, optimiser = team.models, _optimiser(settings.learning_rate)
    parts = [split_trained(own, model.trained(own)) for model, own in zip(models, params, strict=True)]
    trained = [jax.tree.map(_wide, own) for own, _ in parts]
    moments = [placed(optimiser.init(own), model.partition(), mesh) for model, own in zip(models, trained, strict=True)]
    heat, losses = jnp.asarray(team.temperature, jnp.float32), []
    for step in range(settings.steps):
        rng = np.random.default_rng([seed, 1, step])
        problems = draw(task, rng, settings.batch, held_out=False)
        said = demonstrated_conversations(team, task, problems, rng)
        found = []
        for which, model in enumerate(models):
            reading = reading_of(team, said, which)
            _require_room(team, which, reading, mesh)
            own = trained[which], moments[which], parts[which][1]
            with within(mesh):
                trained[which], moments[which], loss = _step(
                    model, settings.learning_rate, *own, heat, by_rows(mesh, reading)
                )
            found.append(gathered(loss))
        losses.append(_numbers(team, found, step))
    out = tuple(joined(own, frozen) for own, (_, frozen) in zip(trained, parts, strict=True))
    return out, TextWarmStartRecord(settings.steps, settings.demonstrations, tuple(losses))


def _wide(x: Array) -> Array:
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def _numbers(team: TextTeam, found: Sequence[Array], step: int) -> tuple[float, ...]:
    losses = tuple(float(loss) for loss in found)
    for which, loss in enumerate(losses):
        if not np.isfinite(loss):
            name = team.names[team.who.firsts[which]]
            raise ArithmeticError(f"warm start: the loss of {name} at step {step} is {loss}: a smaller learning rate")
    return losses


def _require_room(team: TextTeam, which: int, reading: Reading, mesh: Mesh | None) -> None:
    (rows, views, length), (_, messages, cap) = reading.ids.shape, reading.written.shape
    sizes = TextSizes(rows, length, messages * cap, rows, views, team.who.sets, row_parts(mesh), parameter_parts(mesh))
    require_text_room(team.models[which], sizes)


def demonstrated_conversations(
    team: TextTeam, task: WordTask, problems: Sequence[Problem], rng: np.random.Generator
) -> Conversations:
    """Conversations in which everybody says what the task demonstrates, read by each agent as any other.

    Log-probabilities in it are 0: nobody drew these messages.

    Raises:
      InputError: a team with a router; a message longer than its cap, one that holds a stop, or that no ids spell.
    """
    if team.router is not None:
        raise InputError("team", "a router", "a schedule: demonstrations say who speaks when")
    texts = [demonstrated(cast(Demonstrates, task), problem, rng) for problem in problems]
    dictated = {
        k: _dictated(cast(Scribe, agent.scribe), [t for t in range(team.turns) if team.speaker(t) == k], texts)
        for k, agent in enumerate(team.agents)
    }
    views = [views_of(task, problem) for problem in problems]
    said = converse(team, [None] * team.who.sets, views, jax.random.key(0), external=dictated)
    for row, (meant, found) in enumerate(zip(texts, said.said, strict=True)):
        if tuple(meant) != found:
            raise InputError("demonstrate", f"{found} for {problems[row]}", f"{tuple(meant)}, as ids spell it")
    return said


def _dictated(scribe: Scribe, turns: Sequence[int], texts: Sequence[Sequence[str]]) -> ExternalSampler:
    """Writes the texts of an agent's turns, one turn at each call."""
    following = iter(turns)

    def write(
        prompts: list[list[int]], cap: int, stops: Any, temperature: float, seed: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        del prompts, cap, stops, temperature, seed
        turn = next(following)
        ids = [scribe.message(said[turn]) for said in texts]
        return ids, [[0.0] * len(own) for own in ids]

    return write


def message_loss(
    model: LanguageModel, trained: Params, frozen: Params, temperature: float | Array, reading: Reading
) -> Float[Array, ""]:
    """`−mean_u log π(a_u|·)` over the ids that the agents of these parameters wrote, in nats."""
    policy = reading_policy(model, trained, frozen, temperature)
    leaves = policy.leaves(trained)
    features = policy.features(leaves, text_of(reading))
    logp = token_log_probs_of(features, policy.head(leaves), reading.written, temperature=temperature)
    return -jnp.where(reading.own, logp, 0.0).sum() / jnp.maximum(reading.own.sum(), 1)


def _optimiser(learning_rate: float) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate, b2=0.99))


@partial(jax.jit, static_argnums=(0, 1))
def _step(
    model: LanguageModel,
    learning_rate: float,
    trained: Params,
    moments: Any,
    frozen: Params,
    temperature: Array,
    reading: Reading,
) -> tuple[Params, Any, Array]:
    """One step of Adam, and the loss before it."""
    loss, slope = jax.value_and_grad(partial(message_loss, model))(trained, frozen, temperature, reading)
    change, moments = _optimiser(learning_rate).update(slope, moments, trained)
    return cast(Params, optax.apply_updates(trained, change)), moments, loss
