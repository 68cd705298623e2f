"""Conversations in text: a loop over turns on the host; in each, agents read what is new to them and write.

Each agent keeps what it read over turns. Only text goes from one agent to another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.llm.conversations import Conversations, SamplerSettings, View
from teamtr_jax.llm.external import ExternalSampler, Written
from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.pens import ExternalPen, Memory, OwnPen, Turn
from teamtr_jax.llm.text.drift import NO_DRIFTS, Drift, DriftCount, DriftPolicy
from teamtr_jax.llm.text.view import Told
from teamtr_jax.llm.text_team import TextAgent, TextTeam
from teamtr_jax.validation import InputError, shown, whole_number

__all__ = ["Problem", "converse", "read_again"]

Problem = str | tuple[str, ...]
"""One text that every agent reads, or one for each agent, of which the others know nothing."""


KEEP = DriftPolicy()


@dataclass
class _Reader:
    """What one agent has read and written, row by row."""

    views: list[list[int]]
    begin: NDArray[np.int32]  #: [R, turns] where in its view its message of a turn begins; −1 where another spoke
    known: list[int]  #: turns that the agent knows; −1 before it has read anything
    last: list[list[int]]  #: its last message
    memory: Memory

    @classmethod
    def of(cls, rows: int, turns: int) -> _Reader:
        """Nothing."""
        begin = np.full((rows, turns), -1, np.int32)
        return cls([[] for _ in range(rows)], begin, [-1] * rows, [[] for _ in range(rows)], Memory.of(rows))


def converse(
    team: TextTeam,
    params: Sequence[Params],
    problems: Sequence[Problem],
    key: Array,
    group: int = 1,
    *,
    drift: DriftPolicy = KEEP,
    external: Mapping[int, ExternalSampler] | None = None,
    halve: bool = True,
) -> Conversations:
    """`group` conversations about each problem, rows `b·group` to `(b+1)·group`, by the team as it stands.

    Every id is drawn from `softmax(logits/temperature)`, logits in float32, nothing cut, with uniforms of its row's own: what
    a row says depends on no other row but by rounding.

    Args:
      params: one pytree for each set of parameters.
      key: a PRNG key.
      drift: what happens to a message whose text, encoded again, gives other ids.
      external: agent → a sampler that writes in its place (`external.write_externally`).
      halve: go on with half of the rows where half of them have ended.

    Raises:
      InputError: another number of sets than the team has, no problem, a problem without a text for each agent, a view that would
        be too long, an external sampler that breaks its word, or a message that drifts where none may.
      ArithmeticError: logits that are not numbers.
    """
    plugged = dict(external or {})
    if not isinstance(drift, DriftPolicy):
        raise InputError("drift", repr(drift), "a DriftPolicy")
    rows = _rows(team, params, problems, whole_number("group", group, 1), plugged)
    route, write = jax.random.split(key)
    chance = np.asarray(jax.random.uniform(route, (len(rows), team.turns), np.float32), np.float64)
    readers = [_Reader.of(len(rows), team.turns) for _ in team.agents]
    out, said, drifts = _empty(team, rows, group, plugged, drift), [[] for _ in rows], NO_DRIFTS
    for number in range(team.turns):
        out.speaker[:, number], out.chance[:, number] = _speakers(team, number, out.speaker, said, chance[:, number])
        messages = [""] * len(rows)
        for k in np.unique(out.speaker[:, number]).tolist():
            who, agent, reader = np.flatnonzero(out.speaker[:, number] == k), team.agents[k], readers[k]
            told = [_told(team, k, reader, rows[row], out.speaker[row], said[row], row) for row in who.tolist()]
            out.dropped[who, number] = [dropped for _, dropped in told]
            last = team.router is None and all(team.speaker(later) != k for later in range(number + 1, team.turns))
            turn = Turn(number, write, group, team.temperature, halve, last)
            if k in plugged:
                views = [reader.views[row] for row in who.tolist()]
                pen = ExternalPen(plugged[k], agent, views, turn, k)
            else:
                pen = OwnPen(agent, params[team.who.sharers[k]], reader.memory, who, turn)
                pen.read([ids for ids, _ in told])
            written, draws = _message(pen, agent, who, number, drift)
            pen.lay_down()
            drifts = reduce(DriftCount.plus, map(DriftCount.of, draws), drifts)
            cap = written.ids.shape[1]
            out.ids[who, number, :cap], out.logp[who, number, :cap] = written.ids, written.logp
            out.length[who, number], out.stopped[who, number] = written.length, written.stopped
            out.drifted[who, number] = [found[-1].first >= 0 for found in draws]
            out.redrawn[who, number] = [len(found) - 1 for found in draws]
            for row, ids, length in zip(who.tolist(), written.ids, written.length, strict=True):
                reader.begin[row, number], reader.last[row] = len(reader.views[row]), ids[:length].tolist()
                reader.views[row] += reader.last[row]
                messages[row] = agent.scribe.read(reader.last[row])
        for row, text in zip(said, messages, strict=True):
            row.append(text)
    return out._replace(said=tuple(map(tuple, said)), views=tuple(map(_view, readers)), drift=drifts)


def read_again(team: TextTeam, said: Conversations, k: int) -> View:
    """What agent `k` of `team` reads in these conversations, its own messages being the ids that were written.

    Raises:
      InputError: a view that would be too long.
    """
    rows, turns = said.speaker.shape
    reader = _Reader.of(rows, turns)
    for row, turn in np.argwhere(said.speaker == k).tolist():
        _told(team, k, reader, said.problems[row], said.speaker[row], list(said.said[row][:turn]), row)
        own = said.ids[row, turn, : said.length[row, turn]].tolist()
        reader.begin[row, turn], reader.last[row] = len(reader.views[row]), own
        reader.views[row] += own
    return _view(reader)


def _rows(
    team: TextTeam,
    params: Sequence[Params],
    problems: Sequence[Problem],
    group: int,
    external: Mapping[int, ExternalSampler],
) -> tuple[Problem, ...]:
    """The problem of each row."""
    if len(params) != team.who.sets:
        raise InputError("params", f"{len(params)} pytrees", f"{team.who.sets}, one for each set of parameters")
    for k in external:
        whole_number("external", k, 0, len(team.agents) - 1)
    if isinstance(problems, str) or not isinstance(problems, Sequence | np.ndarray) or not len(problems):
        raise InputError("problems", shown(repr(problems)), "a list of problems, at least one")
    for k, problem in enumerate(problems):
        texts = (problem,) * len(team.agents) if isinstance(problem, str) else problem
        expected = f"a text, or {len(team.agents)} of them, one for each agent"
        if not isinstance(texts, list | tuple) or len(texts) != len(team.agents):
            raise InputError(f"problems[{k}]", shown(repr(problem)), expected)
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"problems[{k}]", shown(repr(problem)), expected)
    return tuple(problem if isinstance(problem, str) else tuple(problem) for problem in problems for _ in range(group))


def _empty(
    team: TextTeam, rows: tuple[Problem, ...], group: int, external: Mapping[int, ExternalSampler], drift: DriftPolicy
) -> Conversations:
    shape, cap = (len(rows), team.turns), max(agent.role.cap for agent in team.agents)
    samplers = (
        getattr(external[k], "__name__", "external") if k in external else "own" for k in range(len(team.agents))
    )
    dtypes = (str(jax.tree.leaves(jax.eval_shape(lambda m=a.model: m.init_cache(1, 1)))[0].dtype) for a in team.agents)
    return Conversations(
        problems=rows,
        group=group,
        said=(),
        speaker=np.zeros(shape, np.int32),
        chance=np.ones(shape),
        ids=np.zeros((*shape, cap), np.int32),
        logp=np.zeros((*shape, cap), np.float32),
        length=np.zeros(shape, np.int32),
        stopped=np.zeros(shape, bool),
        views=(),
        drifted=np.zeros(shape, bool),
        redrawn=np.zeros(shape, np.int32),
        dropped=np.zeros(shape, np.int32),
        drift=NO_DRIFTS,
        settings=SamplerSettings(team.temperature, None, None, tuple(dtypes), tuple(samplers), drift),
    )


def _speakers(
    team: TextTeam, number: int, speaker: NDArray[np.int32], said: list[list[str]], uniform: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Who speaks in each row, and with which probability; `uniform` is what they are drawn with."""
    if team.router is None:
        return np.full(len(said), team.speaker(number), np.int32), np.ones(len(said))
    who, chances = np.zeros(len(said), np.int32), np.zeros(len(said))
    for row, texts in enumerate(said):
        p = team.chances([(team.names[k], text) for k, text in zip(speaker[row, :number], texts, strict=True)])
        below = np.cumsum(p)
        who[row] = np.flatnonzero((below > uniform[row] * below[-1]) & (p > 0))[0]
        chances[row] = p[who[row]]
    return who, chances


def _told(
    team: TextTeam, k: int, reader: _Reader, problem: Problem, speaker: NDArray[np.int32], said: list[str], row: int
) -> Told:
    """What is new to an agent at its turn, in its own ids; its view holds them from here on.

    Raises:
      InputError: a view that would be too long.
    """
    agent, view, known = team.agents[k], reader.views[row], reader.known[row]
    heard = [(team.names[speaker[t]], said[t]) for t in range(max(known, 0), len(said)) if speaker[t] != k]
    if known < 0:
        told = agent.scribe.told_first(problem if isinstance(problem, str) else problem[k], heard)
    else:
        told = agent.scribe.told_next(reader.last[row], heard, len(view))
    if not told.ids:
        raise InputError(f"scribe of {agent.role.name}", "no id before a message", "at least one")
    view += told.ids
    longest = getattr(agent.model, "longest", None)
    if longest is not None and len(view) + agent.role.cap > longest:
        found = f"{len(view)} ids read and a message of {agent.role.cap}"
        raise InputError(f"view of {agent.role.name}", found, f"at most {longest}, which its network was made for")
    reader.known[row] = len(said)
    return told


def _message(
    pen: OwnPen | ExternalPen, agent: TextAgent, who: NDArray[np.int64], number: int, policy: DriftPolicy
) -> tuple[Written, list[list[Drift]]]:
    """A message in each row, and the drift of each of its draws; the last one stands."""
    written = pen.write(np.ones(len(who), bool), 0)
    draws = [[agent.scribe.drift(ids)] for ids in _own(written)]
    while True:
        again = [
            policy.again(found[-1], len(found), row, number) for found, row in zip(draws, who.tolist(), strict=True)
        ]
        if not any(again):
            return written, draws
        rows = np.array(again)
        for old, new in zip(written, pen.write(rows, max(map(len, draws))), strict=True):
            old[rows] = new[rows]
        for found, ids in zip([draws[k] for k in np.flatnonzero(rows)], _own(written, rows), strict=True):
            found.append(agent.scribe.drift(ids))


def _own(written: Written, rows: NDArray[np.bool_] | slice = slice(None)) -> list[list[int]]:
    """The ids of each message."""
    return [ids[:length].tolist() for ids, length in zip(written.ids[rows], written.length[rows], strict=True)]


def _view(reader: _Reader) -> View:
    """Ragged rows as an array."""
    length = np.array([len(row) for row in reader.views], np.int32)
    ids = np.zeros((len(length), length.max()), np.int32)
    for row, own in zip(ids, reader.views, strict=True):
        row[: len(own)] = own
    return View(ids, length, reader.begin)
