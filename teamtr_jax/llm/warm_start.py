"""A short supervised start: agents learn from demonstrations until the team solves a given share of the problems."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jaxtyping import Float, Int
from numpy.typing import NDArray

from teamtr_jax.llm.checked import FLOAT32, SEEDS, real, whole
from teamtr_jax.llm.layout import Layout, View, author, emitted, messages
from teamtr_jax.llm.model import LanguageTeam, Params, is_trained, policy_logits
from teamtr_jax.llm.sampler import sample
from teamtr_jax.llm.sizes import device_memory, require_room
from teamtr_jax.llm.tasks import Problem, Task, demonstrated, draw, earned
from teamtr_jax.sizes import bytes_text
from teamtr_jax.validation import InputError, whole_number

__all__ = [
    "WarmStart",
    "WarmStartRecord",
    "warm_start",
    "demonstrations",
    "demonstration_loss",
    "require_room_to_start",
]

LOWEST, HIGHEST = 0.1, 0.6
"""Between these a team has successes to learn from and room to improve."""

MOST = 10**6
"""Of steps, demonstrations and prompts."""


@dataclass(frozen=True)
class WarmStart:
    """How long, and how fast. A mean reward of `low` to `high` ends it."""

    low: float = 0.2
    high: float = 0.4
    batch: int = 64  #: demonstrations of a step
    learning_rate: float = 3e-3  #: of Adam
    smoothing: float = 0.0
    """s of label smoothing: the target is the demonstrated id with probability 1 − s, and with s any id, all alike. The team then
    knows more than it shows."""
    every: int = 25  #: steps between two measurements
    most: int = 4000  #: steps after which it gives up
    prompts: int = 1024  #: of a measurement

    def __post_init__(self) -> None:
        real(self, "low", "high")
        if not LOWEST <= self.low < self.high <= HIGHEST:
            raise InputError("low, high", f"{self.low}, {self.high}", f"{LOWEST} ≤ low < high ≤ {HIGHEST}")
        whole(self, 1, "batch", "every", "most", "prompts", high=MOST)
        real(self, "learning_rate", **FLOAT32)
        real(self, "smoothing", low=0.0, below=1.0)


def require_room_to_start(team: LanguageTeam, settings: WarmStart) -> None:
    """Refuse a warm start that needs more memory than there is.

    Raises:
      InputError: names the setting, with the estimate and what would fit.
    """
    require_room(team, "prompts of the warm start", rows=settings.prompts)
    demonstrations = settings.batch * max(settings.every, team.agents)
    require_room(team, "batch · every of the warm start", rows=0, micro_batch=settings.batch)
    if (size := 4 * demonstrations * team.layout.length) > device_memory():
        found = f"{settings.batch}, {settings.every}: {bytes_text(size)}"
        raise InputError(
            "batch, every of the warm start", found, f"at most {bytes_text(device_memory())} of demonstrations"
        )


class WarmStartRecord(NamedTuple):
    """How a warm start went."""

    steps: int  #: of the parameters that were returned
    accuracy: float  #: their mean reward on `prompts` training prompts, sampled
    loss: tuple[float, ...]  #: nats a token at the last step, of each agent on its own text
    measured: tuple[tuple[int, float], ...]  #: every measurement, in the order made: (steps, accuracy)


def warm_start(
    team: LanguageTeam, task: Task, params: Params, seed: int, settings: WarmStart = WarmStart()
) -> tuple[Params, WarmStartRecord]:
    """Train every agent on its own messages in demonstrations, until the mean reward of the sampled team is in the band.

    A stretch of steps that leaps over the band is taken back and halved. Prompts are training prompts, never held-out ones.
    Demonstrations of step k depend on the seed and on k only. Adapters stay as they are; everything else is trained. A team that
    is above the band untrained, but not above `HIGHEST`, has successes to learn from and room to improve: it needs no start.

    Returns:
      The parameters, and how it went. Parameters in the band from the first are returned as they are.

    Raises:
      InputError: the band was not reached in `settings.most` steps, or one step leaps over it; an untrained team above `HIGHEST`.
      ArithmeticError: a loss or a parameter that is not a number: names the agent and the step.
    """
    whole_number("seed", seed, 0, SEEDS)
    require_room_to_start(team, settings)
    rng = np.random.default_rng([seed, 0])
    problems = draw(task, rng, settings.prompts, held_out=False)
    prompts = jnp.asarray(team.layout.encode_prompts([problem.prompt for problem in problems]))
    key = jax.random.key(seed)
    memory = _each(team, _optimiser(settings.learning_rate).init, params)
    state = _Learned(params, memory, jnp.zeros(team.who.sets, jnp.float32))
    done, stride = 0, settings.every
    batches = _Batches(team, task, seed, settings)
    measured: list[tuple[int, float]] = []

    def accuracy(params: Params, steps: int) -> float:
        said = messages(team.layout, sample(team, params, prompts, key).tokens)
        found = float(np.mean([earned(task, p, texts) for p, texts in zip(problems, said, strict=True)]))
        measured.append((steps, found))
        return found

    band = f"{settings.low} to {settings.high}"
    found = accuracy(params, 0)
    if found > HIGHEST:
        expected = f"a harder task: at most {HIGHEST}"
        raise InputError("warm start", f"mean reward {found:.3f} of the untrained team", expected)
    while found < settings.low:
        if done >= settings.most:
            expected = f"{band}: an easier task, or more steps"
            raise InputError("warm start", f"mean reward {found:.3f} after {done} steps", expected)
        smoothing = jnp.float32(settings.smoothing)
        new = _steps(team, settings.learning_rate, state, batches(done, stride), jnp.asarray(stride), smoothing)
        _require_numbers(team, new.params, np.asarray(new.loss), done + stride)
        reached = accuracy(new.params, done + stride)
        if reached > settings.high:
            if stride == 1:
                shown = f"mean reward {found:.3f} after {done} steps and {reached:.3f} after {done + 1}"
                raise InputError("warm start", shown, f"{band}: a smaller learning rate")
            stride = stride // 2
            continue
        state, found, done = new, reached, done + stride
    loss = tuple(np.asarray(state.loss).tolist()) if done else ()
    return state.params, WarmStartRecord(done, found, loss, tuple(measured))


def _require_numbers(team: LanguageTeam, params: Params, loss: NDArray[np.float32], steps: int) -> None:
    finite = np.isfinite(loss)
    for leaf in jax.tree.leaves(params) if team.alike else ():
        finite &= np.isfinite(np.asarray(leaf)).reshape(team.who.sets, -1).all(-1)
    for place in range(team.who.sets) if not team.alike else ():
        finite[place] &= all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(params[place]))
    if not finite.all():
        agent = team.who.firsts[int(finite.argmin())]
        raise ArithmeticError(
            f"warm start: loss or parameters of agent {agent} are not numbers after step {steps}: a smaller learning rate"
        )


def demonstrations(
    layout: Layout, task: Task, rng: np.random.Generator, problems: list[Problem]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Ids ``[B, N]`` of demonstrated conversations and who speaks ``[B, turns]``, by the router.

    Raises:
      InputError: a demonstration that does not fit the layout.
    """
    prompts, said = [problem.prompt for problem in problems], [demonstrated(task, problem, rng) for problem in problems]
    speaker = np.empty((len(problems), layout.turns), np.int32)
    for turn in range(layout.turns):
        if layout.router.schedule is not None:
            speaker[:, turn] = layout.router.schedule(turn)
            continue
        known = np.where(np.arange(layout.turns) < turn, speaker, 0)
        tokens = layout.encode_transcripts(prompts, said, known.astype(np.int32))
        tokens[:, layout.start(turn) :] = layout.vocabulary.pad
        last = speaker[:, turn - 1] if turn else np.full(len(problems), -1, np.int32)
        chances = np.asarray(
            layout.router.probabilities(View(jnp.asarray(turn), jnp.asarray(last), jnp.asarray(tokens)))
        )
        drawn = rng.random((len(problems), 1)) > np.cumsum(chances, 1, dtype=float)
        speaker[:, turn] = np.minimum(drawn.sum(1), layout.agents - 1)
    return layout.encode_transcripts(prompts, said, speaker), speaker


def demonstration_loss(
    team: LanguageTeam,
    which: int,
    params: Params,
    agent: Array | int,
    tokens: Int[Array, "B N"],
    speaker: Int[Array, "B turns"],
    smoothing: float | Array = 0.0,
) -> Float[Array, ""]:
    """Cross-entropy of one agent on what it says itself, `−mean_t [(1−s) log π_i(a_t|·) + s/A Σ_a log π_i(a|·)]`, in nats.

    Of sharers an agent is a set of parameters, and `speaker` says which of them speaks.

    Args:
      which: whose network; `params` are its own.
      agent: whose text; may be traced.
    """
    logits = policy_logits(team.networks[which], team.layout, params, tokens)[:, :-1]
    own = (emitted(team.layout, tokens) & (author(team.layout, speaker) == agent))[:, 1:]
    target = jnp.where(own, tokens[:, 1:], 0)
    log_probs = jax.nn.log_softmax(logits)
    said = jnp.take_along_axis(log_probs, target[..., None], -1)[..., 0]
    value = (1 - smoothing) * said + smoothing * log_probs.mean(-1)
    return -jnp.where(own, value, 0).sum() / jnp.maximum(own.sum(), 1)


class _Batch(NamedTuple):
    """Demonstrations of several steps."""

    tokens: Array  #: [steps, B, N]
    speaker: Array  #: [steps, B, turns]


class _Batches:
    """Demonstrations of the steps from `start`, ``[every, B, N]``; made once, however often a stretch is run again."""

    def __init__(self, team: LanguageTeam, task: Task, seed: int, settings: WarmStart):
        self.team, self.task, self.seed, self.settings = team, task, seed, settings
        self.made: dict[int, tuple[NDArray[np.int32], NDArray[np.int32]]] = {}

    def __call__(self, start: int, steps: int) -> _Batch:
        settings = self.settings
        self.made = {step: batch for step, batch in self.made.items() if step >= start}
        for step in range(start, start + steps):
            if step not in self.made:
                rng = np.random.default_rng([self.seed, 1, step])
                problems = draw(self.task, rng, settings.batch, held_out=False)
                self.made[step] = demonstrations(self.team.layout, self.task, rng, problems)
        rows = [self.made[min(start + i, start + steps - 1)] for i in range(settings.every)]
        tokens, speaker = zip(*rows, strict=True)
        return _Batch(jnp.asarray(np.stack(tokens)), jnp.asarray(np.stack(speaker)))


def _optimiser(learning_rate: float) -> optax.GradientTransformation:
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate, b2=0.99))

    def frozen(params: Params) -> Any:
        lora = is_trained(params)
        return jax.tree.map(lambda x: x and not all(jax.tree.leaves(lora)), lora)

    def trained(params: Params) -> Any:
        return jax.tree.map(lambda x: not x, frozen(params))

    return optax.chain(optax.masked(adam, trained), optax.masked(optax.set_to_zero(), frozen))


def _each(team: LanguageTeam, function: Any, *trees: Any) -> Any:
    """`function` of the part of each set of parameters: at once where they are stacked."""
    return jax.vmap(function)(*trees) if team.alike else tuple(function(*own) for own in zip(*trees, strict=True))


class _Learned(NamedTuple):
    """Where the steps have led."""

    params: Params
    memory: Any  #: of the optimiser
    loss: Array  #: [sets] at the last step


@partial(jax.jit, static_argnums=(0, 1))
def _steps(
    team: LanguageTeam, learning_rate: float, state: _Learned, batch: _Batch, steps: Array, smoothing: Array
) -> _Learned:
    """The first `steps` of the given ones."""
    optimiser, tokens, speaker = _optimiser(learning_rate), batch.tokens, team.place(batch.speaker)

    def one(which: int, own: Params, memory: Any, agent: Array | int, tokens: Array, speaker: Array) -> _Learned:
        def loss(own: Params) -> Array:
            return demonstration_loss(team, which, own, agent, tokens, speaker, smoothing)

        value, gradient = jax.value_and_grad(loss)(own)
        change, memory = optimiser.update(gradient, memory, own)
        return _Learned(optax.apply_updates(own, change), memory, value.astype(jnp.float32))

    def step(k: Array, state: _Learned) -> _Learned:
        params, memory, _ = state
        if team.alike:
            agents = jnp.arange(team.who.sets)
            return jax.vmap(partial(one, 0), (0, 0, 0, None, None))(params, memory, agents, tokens[k], speaker[k])
        each = [one(i, params[i], memory[i], i, tokens[k], speaker[k]) for i in range(team.who.sets)]
        params, memory, values = zip(*each, strict=True)
        return _Learned(params, memory, jnp.stack(values))

    return lax.fori_loop(0, steps, step, state)
