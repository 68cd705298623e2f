"""How an agent writes its message in some rows: with its own network and cache, or by an external sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.hosts import from_first, gathered, on_first
from teamtr_jax.llm import writing
from teamtr_jax.llm.external import ExternalSampler, Written, write_externally
from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.text_team import TextAgent
from teamtr_jax.llm.writing import Held, Message, bucket

__all__ = ["Memory", "Turn", "OwnPen", "ExternalPen"]

SHARED = 16
"""Ids that the rollouts of every problem must have in common before they are read once."""

SLOTS = 64
"""Fewest slots."""

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


@dataclass
class ExternalPen:
    """An external sampler writes; it reads whole views. Of several hosts the first asks it, and all have what it wrote."""

    sampler: ExternalSampler
    agent: TextAgent
    views: Sequence[Sequence[int]]  #: of the rows it writes in
    turn: Turn
    number: int  #: the agent's

    def write(self, again: NDArray[np.bool_], attempt: int) -> Written:
        """Messages, in those of the pen's rows that are asked for; an earlier one there is forgotten."""
        own = self.turn.key
        for number in (np.uint32(2**32 - 1 - self.number), self.turn.number, attempt):  # no row has this number
            own = jax.random.fold_in(own, number)
        asked, cap = np.flatnonzero(again).tolist(), self.agent.role.cap
        ask = partial(
            write_externally,
            self.sampler,
            [list(self.views[k]) for k in asked],
            cap=cap,
            stops=self.agent.scribe.stops,
            temperature=self.turn.temperature,
            seed=int(jax.random.bits(own, (), "uint32")),
            vocabulary=self.agent.model.vocabulary,
            name=f"external[{self.number}]",
        )
        found = from_first(on_first(ask) or Written.empty(len(asked), cap))
        out = Written.empty(len(again), cap)
        for whole, some in zip(out, found, strict=True):
            whole[asked] = some
        return out

    def lay_down(self) -> None:
        """It keeps nothing."""


@dataclass
class OwnPen:
    """The agent's network writes. One that says `unroll` has its parameters `prepared` for that, a copy as long as it writes.

    Messages stand in the same slots of all rows. What is drawn again stands in later ones, and the slots of what was drawn before
    are read no more.
    """

    agent: TextAgent
    params: Params
    memory: Memory
    rows: NDArray[np.int64]  #: where it writes
    turn: Turn
    batch: NDArray[np.int64] = field(init=False)  #: rows at work, idle ones too; beyond the last there is nobody
    place: NDArray[np.int64] = field(init=False)  #: of each of `rows` in the batch
    held: Held = field(init=False)
    features: Array = field(init=False)
    first: int = field(init=False)  #: slot where messages begin
    unread: NDArray[np.bool_] = field(init=False)  #: whether a message's last id was not read
    wrote: Written = field(init=False)

    def __post_init__(self) -> None:
        if getattr(self.agent.model, "unroll", False):
            self.params = self.agent.model.prepared(self.params)  # pyright: ignore[reportAttributeAccessIssue]

    def read(self, new: Sequence[Sequence[int]]) -> None:
        """Take in the new ids of each of the rows, at least one."""
        total, memory = len(self.memory.unread), self.memory
        size = smaller(total, len(self.rows)) if self.turn.halve else total
        whole = size == total
        self.batch = np.arange(total) if whole else filled(self.rows, size, total)
        self.place = self.rows if whole else np.arange(len(self.rows))
        self.unread, self.wrote = np.zeros(size, bool), Written.empty(size, self.agent.role.cap)
        chunk: list[list[int]] = [[] for _ in self.batch]
        for place, row, ids in zip(self.place, self.rows, new, strict=True):
            chunk[place] = [*memory.unread[row], *ids]
        if memory.held is None:
            common = shared(chunk, self.turn.group) if whole and len(self.rows) == total else []
            if common:
                chunk = self._read_shared(chunk, common)
            else:
                memory.held = writing.empty(self.agent.model, total, self._slots(chunk))
        self._make_room(chunk)
        assert memory.held is not None
        self.held = memory.held if whole else writing.gather(memory.held, self.batch.clip(max=total - 1))
        if any(chunk):
            self.features, self.held = self._take_in(self.held, chunk)
        self.first = memory.used

    def _slots(self, chunk: Sequence[Sequence[int]], used: int = 0) -> int:
        """How many there must be for these ids and a message."""
        new = max(map(len, chunk))
        return bucket(used + (bucket(new) if new else 0) + self.agent.role.cap, SLOTS)

    def _make_room(self, chunk: Sequence[Sequence[int]]) -> None:
        """Gaps are closed where fewer slots do then."""
        memory = self.memory
        assert memory.held is not None
        most = int(memory.held.readable.sum(1).max())
        slots, fewer = self._slots(chunk, memory.used), self._slots(chunk, most)
        if self.turn.halve and fewer < slots:
            memory.held, memory.used = writing.pack(memory.held, fewer), most
        else:
            memory.held = with_room(memory.held, slots)

    def _take_in(self, held: Held, chunk: Sequence[Sequence[int]]) -> tuple[Array, Held]:
        ids, real = right(chunk, bucket(max(map(len, chunk))))
        start = self.memory.used
        self.memory.used += ids.shape[1]
        return writing.read(self.agent.model, self.params, held, ids, real, np.int32(start))

    def _read_shared(self, chunk: Sequence[Sequence[int]], common: Sequence[int]) -> list[list[int]]:
        """What the rollouts of each problem have in common is read once; the rest comes back."""
        group = self.turn.group
        held = writing.empty(self.agent.model, len(common), self._slots(chunk))
        features, held = self._take_in(held, [chunk[k * group][:count] for k, count in enumerate(common)])
        self.features, self.memory.held = jnp.repeat(features, group, axis=0), writing.repeat(held, group)
        return [list(row[common[k // group] :]) for k, row in enumerate(chunk)]

    def write(self, again: NDArray[np.bool_], attempt: int) -> Written:
        """As `ExternalPen.write`."""
        turn, cap, memory = self.turn, self.agent.role.cap, self.memory
        asked = np.zeros(len(self.batch), bool)
        asked[self.place[again]] = True
        self.held = with_room(self.held, memory.used + cap)
        if attempt:
            slots = np.arange(self.held.readable.shape[1])
            forgotten = asked[:, None] & (slots >= self.first) & (slots < memory.used)
            self.held = self.held._replace(readable=self.held.readable & ~forgotten)
        uniform = writing.uniforms(turn.key, self.batch, turn.number, attempt, length=cap)
        stops, heat = writing.stop_table(self.agent.scribe.stops), np.float32(turn.temperature)
        head = self.agent.model.head(self.params)
        message = writing.begin(self.features, head, uniform, stops, heat, ~asked)
        drawn = self._write_on(message, uniform, stops, asked)
        memory.used += max(drawn - 1, 0)
        written = Written(*(x[self.place] for x in self.wrote))
        if not np.isfinite(written.logp).all():
            raise ArithmeticError(f"message of {self.agent.role.name}: the logits of its network are not numbers")
        return written

    def _write_on(self, message: Message, uniform: Array, stops: NDArray[np.int32], asked: NDArray[np.bool_]) -> int:
        """Until all have ended; with half of the rows where half have, and so on. Returns how many ids the longest has."""
        cap, heat, start = self.agent.role.cap, np.float32(self.turn.temperature), self.memory.used
        held, whole, places = self.held, None, np.arange(len(asked))  # of the rows at work in the batch
        while True:
            few = -(-len(places) // 2) if self.turn.halve and len(places) >= HALVED else 0
            more = {"start": np.int32(start), "few": np.int32(few)}
            message, held = writing.write(self.agent.model, self.params, held, message, uniform, stops, heat, **more)
            now = jax.device_get(gathered(message))
            mine = (places < len(asked)) & asked[places.clip(max=len(asked) - 1)]
            for all_, some in zip(
                self.wrote, (now.ids, now.logp, now.length, now.done & (now.length > 0)), strict=True
            ):
                all_[places[mine]] = some[mine]
            self.unread[places[mine]] = (now.length == now.drawn)[mine]
            writes = np.flatnonzero(~now.done)
            if not len(writes) or now.drawn >= cap:
                break
            size, there = smaller(len(places), len(writes)), len(places)
            if whole is None:
                whole = held
            elif not self.turn.last:
                whole = writing.scatter(whole, places, held)
            part = filled(writes, size, there)
            message, uniform = writing.take(message, uniform, part.clip(max=there - 1), part == there)
            held = writing.gather(held, part.clip(max=there - 1))
            places = np.where(part < there, places[part.clip(max=there - 1)], len(asked))
        self.held = held if whole is None else whole if self.turn.last else writing.scatter(whole, places, held)
        return int(now.drawn)

    def lay_down(self) -> None:
        """The messages stay as they are."""
        memory = self.memory
        if self.turn.last:
            memory.held = None
            return
        if len(self.batch) == len(memory.unread):
            memory.held = self.held
        else:
            assert memory.held is not None
            memory.held = writing.scatter(with_room(memory.held, self.held.readable.shape[1]), self.batch, self.held)
        for place, row in zip(self.place, self.rows, strict=True):
            end = int(self.wrote.length[place])
            memory.unread[row] = [int(self.wrote.ids[place, end - 1])] if self.unread[place] else []


def smaller(batch: int, needed: int) -> int:
    """The batch halved while it has room for what is needed and is not below `HALVED`.

    Example:
      >>> smaller(64, 10), smaller(64, 40), smaller(6, 1)
      (16, 64, 6)
    """
    while batch >= HALVED and -(-batch // 2) >= needed:
        batch = -(-batch // 2)
    return batch


def filled(rows: NDArray[np.int64], size: int, nobody: int) -> NDArray[np.int64]:
    """So many numbers of rows, `nobody` where there are fewer."""
    return np.concatenate([rows, np.full(size - len(rows), nobody, rows.dtype)])


def right(chunk: Sequence[Sequence[int]], width: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Ids on the right of each row, and where there are some."""
    ids, real = np.zeros((len(chunk), width), np.int32), np.zeros((len(chunk), width), bool)
    for row, own in enumerate(chunk):
        if own:
            ids[row, -len(own) :], real[row, -len(own) :] = own, True
    return ids, real


def with_room(held: Held, slots: int) -> Held:
    """The same with a bucket of at least so many slots."""
    return held if held.readable.shape[1] >= slots else writing.grow(held, bucket(slots, SLOTS))


def shared(chunk: Sequence[Sequence[int]], group: int) -> list[int]:
    """How many first ids the rollouts of each problem have in common, if it pays to read them once; otherwise none.

    Either something is left to read in every row or in none.

    Example:
      >>> shared([[1] * 20 + [2], [1] * 20 + [3, 4]], 2), shared([[1, 2], [1, 2]], 2), shared([[1, 2], [1, 3]], 2)
      ([20], [2], [])
    """
    if group == 1:
        return []
    blocks = [chunk[k : k + group] for k in range(0, len(chunk), group)]
    if all(row == block[0] for block in blocks for row in block):
        return [len(block[0]) for block in blocks]
    common = [min(common_length(block), *(len(row) - 1 for row in block)) for block in blocks]
    return common if min(common) >= SHARED else []


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """How many first ids all have in common."""
    count = 0
    for ids in zip(*rows):  # noqa: B905
        if len(set(ids)) > 1:
            break
        count += 1
    return count
