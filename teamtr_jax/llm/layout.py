"""What a transcript looks like: vocabulary, turns, router, and which position holds what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.llm.checked import FLOAT32, flags, real, whole
from teamtr_jax.validation import InputError, shaped, whole_number

__all__ = ["Vocabulary", "View", "Router", "round_robin", "random_router", "Layout", "Transcripts", "by_turn", "emitted",
           "author", "messages"]  # fmt: skip


MOST_AGENTS = 1024
LONGEST = 2**20
"""Most positions of a transcript."""


@dataclass(frozen=True)
class Vocabulary:
    """A character-level tokenizer. What agents may write comes first: END (if `ends`), then `characters`.

    After that the characters that only prompts hold, one role header for each agent, and PAD, which is never read.

    Example:
      >>> v = Vocabulary("01", agents=2, prompt_only="+")
      >>> v.encode("1+0").tolist(), v.actions, v.header(1), v.pad, v.size
      ([2, 3, 1], 3, 5, 6, 7)
      >>> v.decode([2, 1, 0, 6])
      '10'
    """

    characters: str
    agents: int
    prompt_only: str = ""
    ends: bool = True  #: whether END is among the actions; otherwise every message is as long as it may be

    def __post_init__(self) -> None:
        for name in ("characters", "prompt_only"):
            if not isinstance(value := getattr(self, name), str):
                raise InputError(name, repr(value), "a string of characters")
        text = self.characters + self.prompt_only
        if len(set(text)) != len(text):
            raise InputError("characters, prompt_only", repr(text), "every character once")
        flags(self, "ends")
        if self.actions < 2:
            raise InputError("characters", repr(self.characters), "at least two things to write, END included")
        whole(self, 1, "agents", high=MOST_AGENTS)

    @property
    def actions(self) -> int:
        """`A`: the number of ids that an agent may write."""
        return len(self.characters) + self.ends

    @property
    def size(self) -> int:
        """All ids, PAD included."""
        return self.pad + 1

    @property
    def pad(self) -> int:
        return self.header(self.agents)

    def header(self, agent: int) -> int:
        """The role header that opens a message of this agent."""
        return self.actions + len(self.prompt_only) + agent

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {c: i + self.ends for i, c in enumerate(self.characters + self.prompt_only)}

    def encode(self, text: str) -> NDArray[np.int32]:
        """Ids of a text.

        Raises:
          InputError: names a character that the vocabulary does not have.
        """
        if unknown := sorted(set(text) - set(self._ids)):
            raise InputError("text", repr(unknown[0]), f"characters among {self.characters + self.prompt_only!r}")
        return np.array([self._ids[c] for c in text], np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """The text up to END, PAD or a header."""
        text = self.characters + self.prompt_only
        out = []
        for i in np.asarray(ids).tolist():
            if not self.ends <= i < len(text) + self.ends:
                break
            out.append(text[i - self.ends])
        return "".join(out)


class View(NamedTuple):
    """What a router sees when a turn begins."""

    turn: Int[Array, ""]
    last: Int[Array, " B"]  #: who spoke before, −1 at first
    tokens: Int[Array, "B N"]  #: the transcript so far, PAD from here on


class Router(NamedTuple):
    """Who speaks next: `probabilities(view) → [B, n]`. A router never samples; enumeration needs the chance node.

    `schedule(turn) → agent` where neither chance nor the text decides (then a batch costs one agent a step without sorting).
    """

    name: str
    probabilities: Callable[[View], Float[Array, "B n"]]
    schedule: Callable[[int], int] | None = None


@cache
def round_robin(agents: int) -> Router:
    """Agent `turn mod n`."""
    whole_number("agents", agents, 1, MOST_AGENTS)

    def probabilities(view: View) -> Array:
        chosen = jnp.broadcast_to(view.turn % agents, view.last.shape)
        return (chosen[:, None] == jnp.arange(agents)).astype(jnp.float32)

    return Router(f"round robin of {agents}", probabilities, lambda turn: turn % agents)


@cache
def random_router(agents: int) -> Router:
    """Every agent with the same probability at every turn."""
    whole_number("agents", agents, 1, MOST_AGENTS)
    return Router(f"random of {agents}", lambda view: jnp.full((*view.last.shape, agents), 1 / agents))


@dataclass(frozen=True)
class Layout:
    """A transcript is a row of `N = P + turns·(1+L)` ids, each position of a fixed kind.

    The prompt, padded on the left to `P`; then for each turn the header of the speaker and `L` positions of its message, PAD
    after END and after the speaker's cap. The position of an id is its index in the row. Hashable: a static argument of `jit`.
    """

    vocabulary: Vocabulary
    prompt: int  #: P ≥ 1
    message: int  #: L, most ids of one message, END included
    turns: int
    router: Router
    caps: tuple[int, ...] | None = None  #: most ids of a message of each agent; L for all if not given
    temperature: float = 1.0  #: every policy is `softmax(logits/temperature)`: sampled, trained and certified alike
    agents: int = field(init=False)

    def __post_init__(self) -> None:
        for name, kind in (("vocabulary", Vocabulary), ("router", Router)):
            if not isinstance(value := getattr(self, name), kind):
                raise InputError(name, repr(value), f"a {kind.__name__}")
        object.__setattr__(self, "agents", self.vocabulary.agents)
        whole(self, 1, "prompt", "message", "turns")
        if self.length > LONGEST:
            found = f"{self.prompt}, {self.message}, {self.turns}: {self.length} positions"
            raise InputError("prompt, message, turns", found, f"at most {LONGEST} positions")
        if self.caps is not None:
            if not isinstance(self.caps, tuple | list) or len(self.caps) != self.agents:
                raise InputError("caps", self.caps, f"one for each of {self.agents} agents, from 1 to {self.message}")
            object.__setattr__(self, "caps", tuple(whole_number("caps", c, 1, self.message) for c in self.caps))
        real(self, "temperature", **FLOAT32)
        self._check_router()

    def _check_router(self) -> None:
        """What the router says of an empty transcript, and whom it schedules."""
        name, empty = f"router {self.router.name}", jnp.full((2, self.length), self.vocabulary.pad, jnp.int32)
        view = View(jnp.zeros((), jnp.int32), jnp.full(2, -1, jnp.int32), empty)
        try:
            found = np.asarray(self.router.probabilities(view), np.float64)
            planned = [] if self.router.schedule is None else [self.router.schedule(turn) for turn in range(self.turns)]
        except Exception as error:
            raise InputError(
                name, repr(error), "probabilities [B, n], and a schedule of agents if there is one"
            ) from error
        if found.shape != (2, self.agents):
            raise InputError(name, f"probabilities of shape {list(found.shape)}", f"[B, {self.agents}]")
        if not ((found >= 0).all() and np.allclose(found.sum(-1), 1, atol=1e-5)):
            raise InputError(name, found[0].tolist(), "probabilities that sum to 1")
        for agent in planned:
            whole_number(name, agent, 0, self.agents - 1)

    @property
    def length(self) -> int:
        """`N`."""
        return self.prompt + self.turns * (1 + self.message)

    def start(self, turn: int) -> int:
        """The position of the header of this turn."""
        return self.prompt + turn * (1 + self.message)

    def cap(self, agent: int) -> int:
        """Most ids of one message of this agent."""
        return self.message if self.caps is None else self.caps[agent]

    def encode_prompts(self, prompts: list[str]) -> NDArray[np.int32]:
        """``[B, P]`` ids, padded on the left.

        Raises:
          InputError: a prompt that is too long, or has a character that the vocabulary does not have.
        """
        out = np.full((len(prompts), self.prompt), self.vocabulary.pad, np.int32)
        for row, text in zip(out, prompts, strict=True):
            if len(text) > self.prompt:
                raise InputError("prompts", f"{text!r}, {len(text)} characters", f"at most {self.prompt}")
            if text:
                row[-len(text) :] = self.vocabulary.encode(text)
        return out

    def encode_transcripts(
        self, prompts: list[str], said: list[list[str]], speaker: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """``[B, N]`` ids of given messages, one for each turn; END where there is room and the vocabulary has it.

        Raises:
          InputError: a message that is longer than its speaker may write, or too short where messages do not end.
        """
        v = self.vocabulary
        shaped("speaker", speaker, (len(prompts), self.turns))
        out = np.full((len(prompts), self.length), v.pad, np.int32)
        out[:, : self.prompt] = self.encode_prompts(prompts)
        for row, texts, who in zip(out, said, speaker.tolist(), strict=True):
            for turn, (text, agent) in enumerate(zip(texts, who, strict=True)):
                ids, cap, at = v.encode(text), self.cap(agent), self.start(turn)
                if len(ids) > cap or (len(ids) < cap and not v.ends):
                    found = f"{text!r}, {len(ids)} characters"
                    raise InputError("message", found, f"{'at most' if v.ends else 'exactly'} {cap}")
                row[at] = v.header(agent)
                row[at + 1 : at + 1 + len(ids)] = ids
                if len(ids) < cap:
                    row[at + 1 + len(ids)] = 0
        return out


class Transcripts(NamedTuple):
    """Finished conversations, and with which probability they were written."""

    tokens: Int[Array, "B N"]
    logp: Float[Array, "B N"]  #: behaviour log-probability of what agents wrote; 0 elsewhere
    speaker: Int[Array, "B turns"]


def by_turn(layout: Layout, x: Array | NDArray[np.generic]) -> Array:
    """The message positions ``[B, turns, L]`` of a ``[B, N, …]`` array, headers left out."""
    rows = jnp.asarray(x)[:, layout.prompt :]
    return rows.reshape(rows.shape[0], layout.turns, 1 + layout.message, *rows.shape[2:])[:, :, 1:]


def emitted(layout: Layout, tokens: Int[Array, "B N"]) -> Bool[Array, "B N"]:
    """Which positions an agent wrote: message positions that are not PAD."""
    at = np.arange(layout.length) - layout.prompt
    return jnp.asarray((at >= 0) & (at % (1 + layout.message) > 0)) & (tokens != layout.vocabulary.pad)


def author(layout: Layout, speaker: Int[Array, "B turns"]) -> Int[Array, "B N"]:
    """The speaker of the turn at each of its positions, header included; −1 in the prompt."""
    prompt = jnp.full((speaker.shape[0], layout.prompt), -1, speaker.dtype)
    return jnp.concatenate([prompt, jnp.repeat(speaker, 1 + layout.message, axis=1)], 1)


def messages(layout: Layout, tokens: ArrayLike) -> list[list[str]]:
    """What was said in each transcript of ``[B, N]`` ids, one text for each turn."""
    turns = np.asarray(tokens)[:, layout.prompt :].reshape(-1, layout.turns, 1 + layout.message)
    return [[layout.vocabulary.decode(turn[1:]) for turn in row] for row in turns]
