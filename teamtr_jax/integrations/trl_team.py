"""A team of TRL's GRPO trainers that share one environment (`TeamTRSchedule`).

Each trainer keeps its model, optimiser, loss and settings. It samples its agent's messages, and it trains on the rollouts that it
is handed: the transcript as this agent read it, the others' words masked out of the loss (TRL's `env_mask`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.integrations.checked_version import installed, require_version
from teamtr_jax.integrations.schedule import Alignment
from teamtr_jax.integrations.team_rollouts import TeamRollouts
from teamtr_jax.integrations.trl import KNOWN
from teamtr_jax.integrations.trl_alignment import Probe, align
from teamtr_jax.integrations.trl_scoring import evaluated, token_log_probs
from teamtr_jax.integrations.trl_settings import require_known_law, sampler_of_trainer
from teamtr_jax.validation import InputError, positive, whole_number

__all__ = ["TurnTaking", "TrlTeam", "team_reward"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Said = Sequence[tuple[str, str]]
"""Messages: who, and what."""


@dataclass(frozen=True)
class TurnTaking:
    """An environment in which agents take turns and all write into one transcript."""

    turns: Sequence[str]
    """Who writes at each turn, by name; an agent may have several."""
    heard: Callable[[str, Mapping[str, Any], Said], str | Sequence[int]]
    """`(agent, row, messages since it last wrote) → what it reads now, before it writes`: text, or ids of its tokenizer.

    At its first turn the whole prompt. Later it is added to what the agent has read and written: nothing is encoded again."""
    reward: Callable[[Mapping[str, Any], Said], float]
    """`(row of the data set, all messages) → the reward of the transcript`."""


def team_reward(
    prompts: Sequence[Any], completions: Sequence[Any], team_reward: Sequence[float], **_: Any
) -> list[float]:
    """The reward of the transcript, as `TurnTaking.reward` gave it: the reward function of every trainer of a `TrlTeam`."""
    del prompts, completions
    return list(team_reward)


class _View(NamedTuple):
    """What one agent reads and writes, in its own ids: of each rollout the first prompt, the rest, and which of it is its own."""

    prompt: list[list[int]]
    completion: list[list[int]]
    own: list[list[int]]  #: 1 where the agent wrote

    def rows(self, rows: Sequence[int]) -> _View:
        return _View(*([part[i] for i in rows] for part in self))


class _Told(NamedTuple):
    """What a `TrlTeam` keeps of its rollouts."""

    views: list[_View]
    rows: list[Mapping[str, Any]]
    messages: list[list[tuple[str, str]]]


class TrlTeam:
    """Trainers by the names of their agents, 0 first.

    Args:
      trainers: `trl.GRPOTrainer`s with `reward_funcs=team_reward`, each with a model of its own, the same number of prompts and
        of rollouts of a prompt, and the same sampler.
      environment: who writes when, what it reads, what it is paid.
      data: rows with what the environment needs; by default the data set of the first trainer.
      seed: of the order in which rows are drawn.
      align_rate, align_epochs: learning rate and most passes over the probes in Stage-0 alignment.

    Raises:
      InputError: names the trainer and the setting.
    """

    def __init__(
        self,
        trainers: Mapping[str, Any],
        environment: TurnTaking,
        data: Sequence[Mapping[str, Any]] | None = None,
        *,
        seed: int = 0,
        align_rate: float = 1e-4,
        align_epochs: int = 50,
    ) -> None:
        require_version("trl", installed("trl"), KNOWN)
        self.names = list(trainers)
        self.trainers = list(trainers.values())
        self.environment = environment
        _require_turns(environment, self.names)
        for name, trainer in trainers.items():
            _require_trainer(name, trainer, self.trainers[0])
        _require_apart(self.names, self.trainers)
        self.sampler = sampler_of_trainer(self.trainers[0])
        self.group = int(self.trainers[0].num_generations)
        self.batch = int(self.trainers[0].args.generation_batch_size) // self.group
        rows = self.trainers[0].train_dataset if data is None else data
        self.data = [dict(row) for row in rows]
        if len(self.data) < self.batch:
            raise InputError("data", f"{len(self.data)} rows", f"at least {self.batch}, the prompts of an update")
        self.align_rate = positive("align_rate", align_rate)
        self.align_epochs = whole_number("align_epochs", align_epochs, 0)
        self._rng = np.random.default_rng(whole_number("seed", seed, 0))
        self._waiting: list[int] = []

    # -------------------------------------------------------------------------------------------------------- sampling

    def prompts(self) -> list[Mapping[str, Any]]:
        """B rows, every row once before any comes again."""
        if len(self._waiting) < self.batch:
            self._waiting = self._rng.permutation(len(self.data)).tolist()
        drawn, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
        return [self.data[i] for i in drawn]

    def sample(self, prompts: Sequence[Mapping[str, Any]]) -> TeamRollouts:
        """G transcripts of each row. Each message is sampled by its trainer, with its weights and settings as they are."""
        rows = [row for row in prompts for _ in range(self.group)]
        views = [_View([], [], []) for _ in self.names]
        messages: list[list[tuple[str, str]]] = [[] for _ in rows]
        written: list[tuple[int, list[list[int]], list[list[float]] | None]] = []
        heard = [0] * len(self.names)
        for name in self.environment.turns:
            agent = self.names.index(name)
            _listen(self, agent, rows, [said[heard[agent] :] for said in messages], views[agent])
            ids, logps = self._speak(agent, views[agent])
            written.append((agent, ids, logps))
            texts = self.trainers[agent].processing_class.batch_decode(ids, skip_special_tokens=True)
            for said, text in zip(messages, texts, strict=True):
                said.append((name, text))
            heard[agent] = len(messages[0])
        reward = [_reward(self.environment, row, said) for row, said in zip(rows, messages, strict=True)]
        return _laid_out(written, np.array(reward), self.group, _Told(views, rows, messages))

    def _speak(self, agent: int, view: _View) -> tuple[list[list[int]], list[list[float]] | None]:
        """One message in every rollout; added to what the agent has read and written."""
        trainer = self.trainers[agent]
        contexts = [p + c for p, c in zip(view.prompt, view.completion, strict=True)]
        trainer._last_loaded_step = -1  # an engine may hold weights from before the schedule went back
        with evaluated(trainer.model):
            ids, logps = trainer._generate_single_turn(contexts, None, {}, 1)
        for i, message in enumerate(ids):
            view.completion[i].extend(message)
            view.own[i].extend([1] * len(message))
        return ids, logps

    # --------------------------------------------------------------------------------------------------------- scoring

    def score(self, agent: int, rollouts: TeamRollouts, rows: Ints | None = None) -> Floats:
        """``[N, T]``: log-probabilities of the agent's tokens at the sampling temperature, NaN elsewhere.

        Some `rows` are scored in batches of half the size, with more padding.
        """
        where = rollouts.of(agent) if rows is None else rollouts.of(agent)[rows]
        view = rollouts.data.views[agent]
        trainer = self.trainers[agent]
        ids, attention, own, keep = _padded(trainer, view if rows is None else view.rows(rows.tolist()))
        batch = trainer.args.per_device_train_batch_size
        if rows is not None:  # in one shape the numbers of a row are the same, whoever else is in the batch
            ids, attention, batch = (*(_wider(x) for x in (ids, attention)), max(1, batch // 2))
        logps = token_log_probs(trainer, ids, attention, keep, batch)
        out = np.full(where.shape, np.nan)
        out[where] = logps[own].double().cpu().numpy()
        return out

    # -------------------------------------------------------------------------------------------------------- training

    def train(self, agent: int, rollouts: TeamRollouts, stop: Callable[[], bool]) -> int:
        """One update: the trainer's own steps on these rollouts."""
        datasets, callbacks = import_module("datasets"), import_module("transformers")
        trainer = self.trainers[agent]
        steps = 0

        class AskAfterStep(callbacks.TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                nonlocal steps
                steps += 1
                control.should_training_stop = stop() or control.should_training_stop

        kept = (trainer.train_dataset, trainer.rollout_func, trainer.args.max_steps)
        told: _Told = rollouts.data
        heads = [{"prompt": f"{i} {row.get('prompt', '')}"} for i, row in enumerate(told.rows[:: self.group])]
        callback = AskAfterStep()
        try:
            trainer.train_dataset = datasets.Dataset.from_list(heads)
            trainer.rollout_func = _handed_over(told.views[agent], rollouts.reward, self.group)
            trainer.args.max_steps = _steps(trainer)
            trainer._step, trainer._buffered_inputs = 0, None  # or the rollouts of its last update are trained on again
            trainer.add_callback(callback)
            trainer.train()
        finally:
            trainer.remove_callback(callback)
            trainer.train_dataset, trainer.rollout_func, trainer.args.max_steps = kept
        return steps

    def weights(self, agent: int) -> dict[str, Any]:
        """A copy of what is trained."""
        named = self.trainers[agent].model.named_parameters()
        return {name: p.detach().clone() for name, p in named if p.requires_grad}

    def load(self, agent: int, weights: Mapping[str, Any]) -> None:
        """Put a copy back; the moments of the optimiser stay."""
        torch = import_module("torch")
        with torch.no_grad():
            for name, p in self.trainers[agent].model.named_parameters():
                if name in weights:
                    p.copy_(weights[name])

    def between(self, inside: Mapping[str, Any], outside: Mapping[str, Any], share: float) -> dict[str, Any]:
        """`inside + share·(outside − inside)`, leaf by leaf."""
        return {name: x + share * (outside[name] - x) for name, x in inside.items()}

    def tell(self, agent: int, step: int, scalars: Mapping[str, float]) -> None:
        """The trainer's own logger has them at this step; TRL counts its steps from 0 again with every update."""
        trainer = self.trainers[agent]
        trainer.state.global_step = step
        trainer.log(dict(scalars))

    def align(self, agent: int, newcomer: Any, probes: TeamRollouts, radius: float) -> Alignment:
        """Stage 0: `newcomer` is a trainer; it takes the agent's place, near it or not: look at `inside`.

        Four fifths of the probes' prompts train, the others only measure.

        Raises:
          InputError: another vocabulary, settings that differ from the other trainers', parameters that it shares.
        """
        name, outgoing = self.names[agent], self.trainers[agent]
        _require_trainer(name, newcomer, outgoing)
        _require_apart([*self.names, f"the new {name}"], [*self.trainers, newcomer])
        if newcomer.processing_class.get_vocab() != outgoing.processing_class.get_vocab():
            raise InputError(f"processing_class of the new {name}", "another vocabulary", f"that of the old {name}")
        if probes.prompts < 2:
            raise InputError("probes", "one prompt", "two at least: one only measures")
        cut = min(max(1, probes.prompts * 4 // 5), probes.prompts - 1) * self.group
        parts = []
        for rows in (range(cut), range(cut, probes.reward.size)):
            ids, attention, own, _ = _padded(newcomer, probes.data.views[agent].rows(rows))
            parts.append(Probe(ids, attention, own, len(rows) * list(self.environment.turns).count(name)))
        with evaluated(outgoing.model), evaluated(newcomer.model):
            info = align(
                outgoing.model, newcomer.model, parts, radius, rate=self.align_rate, epochs=self.align_epochs,
                batch=newcomer.args.per_device_train_batch_size, temperature=newcomer.temperature,
            )  # fmt: skip
        self.trainers[agent] = newcomer
        return info


def _listen(team: TrlTeam, agent: int, rows: Sequence[Mapping[str, Any]], since: Sequence[Said], view: _View) -> None:
    """What the agent reads now, encoded apart and added to its view."""
    name, tokenizer = team.names[agent], team.trainers[agent].processing_class
    words = team.trainers[agent].model.get_input_embeddings().num_embeddings
    first = not view.prompt
    for i, (row, said) in enumerate(zip(rows, since, strict=True)):
        text = team.environment.heard(name, row, said)
        ids = (
            tokenizer(text, add_special_tokens=False)["input_ids"] if isinstance(text, str) else _ids(name, text, words)
        )
        if first:
            if not ids:
                raise InputError(f"heard by {name}", "nothing at its first turn", "at least one token")
            view.prompt.append(ids)
            view.completion.append([])
            view.own.append([])
        else:
            view.completion[i].extend(ids)
            view.own[i].extend([0] * len(ids))


def _ids(name: str, found: Any, words: int) -> list[int]:
    """Ids that a user gave instead of text."""
    try:
        ids = np.asarray(found if len(found) else np.zeros(0, int))
    except (TypeError, ValueError):
        ids = np.zeros(1)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or ((ids < 0) | (ids >= words)).any():
        raise InputError(f"heard by {name}", repr(found)[:80], f"text, or ids of its tokenizer below {words}")
    return [int(x) for x in ids]


def _reward(environment: TurnTaking, row: Mapping[str, Any], messages: Said) -> float:
    found = environment.reward(row, messages)
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise InputError("reward", repr(found)[:80], "a finite number") from None
    if not np.isfinite(value):
        raise InputError("reward", value, "a finite number")
    return value


def _laid_out(
    written: Sequence[tuple[int, list[list[int]], list[list[float]] | None]], reward: Floats, group: int, told: _Told
) -> TeamRollouts:
    """Messages beside each other, ``[N, T]``: each turn has as many columns as its longest message."""
    n = reward.size
    parts: dict[str, list[NDArray[Any]]] = {"mask": [], "agent": [], "turn": [], "token": [], "behaviour": []}
    for turn, (agent, ids, logps) in enumerate(written):
        shape = (n, max(map(len, ids)))
        mask = np.arange(shape[1]) < np.array([len(x) for x in ids])[:, None]
        token, behaviour = np.full(shape, -1), np.full(shape, np.nan)
        token[mask] = np.concatenate([np.asarray(x, int) for x in ids])
        if logps is not None:
            behaviour[mask] = np.concatenate([np.array([np.nan if y is None else y for y in x], float) for x in logps])
        values = (mask, np.full(shape, agent), np.full(shape, turn), token, behaviour)
        for part, value in zip(parts.values(), values, strict=True):
            part.append(value)
    fields = {name: np.concatenate(part, axis=1) for name, part in parts.items()}
    booked = fields.pop("behaviour") if all(logps is not None for *_, logps in written) else None
    fields.pop("behaviour", None)
    return TeamRollouts(**fields, reward=reward, group=group, behaviour=booked, data=told)


def _padded(trainer: Any, view: _View) -> tuple[Any, Any, Any, int]:
    """Ids and attention ``[N, P + C]``, prompts to the left, what follows to the right; own tokens ``[N, C]``; C."""
    torch = import_module("torch")
    pad, device = trainer.processing_class.pad_token_id, trainer.accelerator.device
    left, right = max(map(len, view.prompt)), max(map(len, view.completion))
    rows = zip(view.prompt, view.completion, strict=True)
    ids, attention = [], []
    for p, c in rows:
        before, after = left - len(p), right - len(c)
        ids.append([pad] * before + p + c + [pad] * after)
        attention.append([0] * before + [1] * (len(p) + len(c)) + [0] * after)
    own = [x + [0] * (right - len(x)) for x in view.own]
    return *(torch.tensor(x, device=device) for x in (ids, attention)), torch.tensor(own, device=device).bool(), right


def _wider(x: Any) -> Any:
    """Eight more columns of padding to the left."""
    return import_module("torch").nn.functional.pad(x, (8, 0), value=0)


def _handed_over(view: _View, reward: Floats, group: int) -> Callable[[list[Any], Any], dict[str, Any]]:
    """TRL's `rollout_func`: the rollouts as they are, in the order in which TRL asks for their prompts."""

    def rollout_func(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        del trainer
        seen: dict[int, int] = {}
        chosen = []
        for prompt in prompts:
            head = int(str(prompt).partition(" ")[0])
            seen[head] = seen.get(head, -1) + 1
            chosen.append(head * group + seen[head])
        part = view.rows(chosen)
        return {
            "prompt_ids": part.prompt,
            "completion_ids": part.completion,
            "logprobs": None,
            "env_mask": part.own,
            "team_reward": [float(reward[i]) for i in chosen],
        }

    return rollout_func


def _steps(trainer: Any) -> int:
    """Steps of the optimiser in one update: all that TRL makes of one set of rollouts."""
    return trainer.args.steps_per_generation * trainer.num_iterations // trainer.args.gradient_accumulation_steps


def _require_turns(environment: TurnTaking, names: Sequence[str]) -> None:
    if not names:
        raise InputError("trainers", "none", "at least one")
    if strangers := [x for x in environment.turns if x not in names]:
        raise InputError("turns", strangers[0], f"one of {', '.join(names)}")
    if silent := [x for x in names if x not in environment.turns]:
        raise InputError("turns", f"none of {silent[0]}", "a turn of every agent")


def _require_trainer(name: str, trainer: Any, first: Any) -> None:
    """Refuse what a schedule would get wrong."""
    if trainer.accelerator.num_processes != 1:
        raise InputError(f"trainer {name}", f"{trainer.accelerator.num_processes} processes", "one process")
    require_known_law(trainer)
    if sampler_of_trainer(trainer) != sampler_of_trainer(first):
        expected = f"{sampler_of_trainer(first)}, as of the first trainer"
        raise InputError(f"sampler of {name}", sampler_of_trainer(trainer), expected)
    if list(trainer.reward_funcs) != [team_reward]:
        found = ", ".join(trainer.reward_func_names)
        raise InputError(
            f"reward_funcs of {name}", found, "team_reward: the environment pays, and the log says what trained"
        )
    if trainer.mask_truncated_completions:
        raise InputError(
            f"mask_truncated_completions of {name}", True, "False: what is masked changes its probability too"
        )
    if (
        _steps(trainer) * trainer.args.gradient_accumulation_steps
        != trainer.args.steps_per_generation * trainer.num_iterations
    ):
        raise InputError(
            f"gradient_accumulation_steps of {name}", trainer.args.gradient_accumulation_steps,
            "a divisor of steps_per_generation · num_iterations: an update is a whole number of steps",
        )  # fmt: skip
    for setting in ("num_generations", "generation_batch_size"):
        if (found := getattr(trainer.args, setting)) != (expected := getattr(first.args, setting)):
            raise InputError(f"{setting} of {name}", found, f"{expected}, as of the first trainer")


def _require_apart(names: Sequence[str], trainers: Sequence[Any]) -> None:
    """Refuse agents that are moved by each other's updates."""
    owner: dict[int, str] = {}
    for name, trainer in zip(names, trainers, strict=True):
        for p in trainer.model.parameters():
            if p.requires_grad and owner.setdefault(p.data_ptr(), name) != name:
                raise InputError(
                    "trainers", f"{owner[p.data_ptr()]} and {name} share parameters", "a model for each agent"
                )
