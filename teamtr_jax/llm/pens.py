"""How an agent writes its message in some rows: with its own network and cache, or by an external sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.llm import writing
from teamtr_jax.llm.external import ExternalSampler, Written, write_externally
from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.text_team import TextAgent
from teamtr_jax.llm.writing import Held, Message, bucket

__all__ = ["Memory", "Turn", "Pen", "OwnPen", "ExternalPen"]

SHARED = 16
"""Ids that the rollouts of every problem must have in common before they are read once."""

HALVED = 8
"""A batch of fewer rows is not halved: a step of half of them costs as much."""


@dataclass
class Memory:
    """What an agent keeps between its turns."""

    unread: list[list[int]]  #: of each row ids at the end of its view that the cache does not hold
    held: Held | None = None
    used: int = 0  #: slots, the same in all rows

    @classmethod
    def of(cls, rows: int) -> Memory:
        """Nothing."""
        return cls([[] for _ in range(rows)])


class Turn(NamedTuple):
    """What does not depend on who writes."""

    number: int
    key: Array
    group: int  #: rollouts of a problem, one after the other
    temperature: float
    halve: bool  #: go on with half of the rows where half have ended
    last: bool  #: whether the agent writes no more


class Pen(Protocol):
    """One message in each of some rows."""

    def write(self, again: NDArray[np.bool_], attempt: int) -> Written:
        """Messages, in those of the pen's rows that are asked for; an earlier one there is forgotten."""
        ...

    def lay_down(self) -> None:
        """All messages stay as they are."""
        ...


@dataclass
class ExternalPen:
    """An external sampler writes; it reads whole views."""

    sampler: ExternalSampler
    agent: TextAgent
    views: Sequence[Sequence[int]]  #: of the rows it writes in
    turn: Turn
    name: str

    def write(self, again: NDArray[np.bool_], attempt: int) -> Written:
        """As `Pen.write`."""
        seed = jax.random.bits(jax.random.fold_in(jax.random.fold_in(self.turn.key, self.turn.number), attempt), (), "uint32")
        asked, cap = np.flatnonzero(again), self.agent.role.cap
        found = write_externally(
            self.sampler, [list(self.views[k]) for k in asked], cap=cap, stops=self.agent.scribe.stops,
            temperature=self.turn.temperature, seed=int(seed), vocabulary=self.agent.model.vocabulary, name=self.name,
        )  # fmt: skip
        out = Written.empty(len(again), cap)
        for whole, some in zip(out, found, strict=True):
            whole[asked] = some
        return out

    def lay_down(self) -> None:
        """It keeps nothing."""


@dataclass
class OwnPen:
    """The agent's network writes.

    Messages stand in the same slots of all rows. What is drawn again stands in later ones, and the slots of what was drawn before
    are read no more.
    """

    agent: TextAgent
    params: Params
    memory: Memory
    rows: NDArray[np.int64]  #: where it writes
    turn: Turn
    batch: NDArray[np.int64] = field(init=False)  #: rows at work: those and idle ones, or beyond the last one nobody
    place: NDArray[np.int64] = field(init=False)  #: of each of `rows` in the batch
    held: Held = field(init=False)
    features: Array = field(init=False)
    unread: NDArray[np.bool_] = field(init=False)  #: whether a message's last id was not read
    wrote: Written = field(init=False)

    def read(self, new: Sequence[Sequence[int]]) -> None:
        """Take in the new ids of each of the rows, at least one."""
        total, memory = len(self.memory.unread), self.memory
        size = smaller(total, len(self.rows)) if self.turn.halve else total
        self.batch = np.arange(total) if size == total else filled(self.rows, size, total)
        self.place = self.rows if size == total else np.arange(len(self.rows))
        chunk: list[list[int]] = [[] for _ in self.batch]
        for place, row, ids in zip(self.place, self.rows, new, strict=True):
            chunk[place] = [*memory.unread[row], *ids]
        self.unread, self.wrote = np.zeros(size, bool), Written.empty(size, self.agent.role.cap)
        if memory.held is None and size == total and len(self.rows) == total and self.turn.group > 1:
            chunk = self._read_shared(chunk)
            if not any(chunk):
                return
        elif memory.held is None:
            memory.held = writing.empty(self.agent.model, total, self._slots(chunk))
        assert memory.held is not None
        self._room(self._slots(chunk))
        self.held = memory.held if size == total else writing.gather(memory.held, self.batch.clip(max=total - 1))
        self.features, self.held = self._take_in(self.held, chunk)

    def _slots(self, chunk: Sequence[Sequence[int]]) -> int:
        return bucket(self.memory.used + bucket(max(map(len, chunk))) + self.agent.role.cap)

    def _room(self, slots: int) -> None:
        held = self.memory.held
        if held is not None and held.readable.shape[1] < slots:
            self.memory.held = writing.grow(held, slots)

    def _take_in(self, held: Held, chunk: Sequence[Sequence[int]]) -> tuple[Array, Held]:
        ids, real = right(chunk, bucket(max(map(len, chunk))))
        start = self.memory.used
        self.memory.used += ids.shape[1]
        return writing.read(self.agent.model, self.params, held, ids, real, start)

    def _read_shared(self, chunk: list[list[int]]) -> list[list[int]]:
        """What the rollouts of each problem have in common is read once; the rest comes back."""
        group = self.turn.group
        blocks = [chunk[k : k + group] for k in range(0, len(chunk), group)]
        common = [common_length(block) for block in blocks]
        same = all(count == len(row) for count, block in zip(common, blocks, strict=True) for row in block)
        if not same:  # something must be left for every row to read
            common = [min(count, *(len(row) - 1 for row in block)) for count, block in zip(common, blocks, strict=True)]
        slots = self._slots(chunk)
        if min(common) < SHARED and not same:
            self.memory.held = writing.empty(self.agent.model, len(chunk), slots)
            return chunk
        held = writing.empty(self.agent.model, len(blocks), slots)
        first = [block[0][:count] for count, block in zip(common, blocks, strict=True)]
        features, held = self._take_in(held, first)
        self.features = jnp.repeat(features, group, axis=0)
        self.held = self.memory.held = writing.repeat(held, group)
        return [row[count:] for count, block in zip(common, blocks, strict=True) for row in block]

    def write(self, again: NDArray[np.bool_], attempt: int) -> Written:
        """As `Pen.write`."""
        turn, cap, memory = self.turn, self.agent.role.cap, self.memory
        if self.held.readable.shape[1] < (slots := memory.used + cap):
            self.held = writing.grow(self.held, bucket(slots))
        asked = np.zeros(len(self.batch), bool)
        asked[self.place[again]] = True
        if attempt:
            self.held = self.held._replace(readable=self.held.readable & ~jnp.asarray(self._forgotten(asked)))
        uniform = writing.uniforms(turn.key, self.batch, turn.number, attempt, length=cap)
        stops, heat = writing.stop_table(self.agent.scribe.stops), np.float32(turn.temperature)
        message = writing.begin(
            self.features, self.agent.model.head(self.params), uniform, stops, heat, jnp.asarray(~asked)
        )
        self._write_on(message, uniform, (stops, heat), asked)
        return Written(*(x[self.place] for x in self.wrote))
