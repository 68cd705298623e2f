"""Token logs: what one is, and what is refused (docs/records.md, token log, schema 1)."""

from __future__ import annotations

import importlib
from bisect import bisect
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.files import reason
from teamtr_jax.formats import TOKEN_LOG_COLUMNS, TOKEN_LOG_OPTIONAL, TOKEN_LOG_SCHEMA
from teamtr_jax.monitor.dumps import missing_columns
from teamtr_jax.monitor.estimates import Floats, Ints
from teamtr_jax.monitor.frames import columns_of
from teamtr_jax.monitor.sources import Again, Rows, rows_of, sources
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError, real_number

__all__ = ["AGAIN", "MATCH", "TokenLog", "token_log", "Origin", "typed", "check_values", "checked_log", "log_of", "as_array",
           "optional_import"]  # fmt: skip

AGAIN = "logp_again"
"""The one column in which a value may be missing (NaN): a rollout that was not scored twice."""
LOG_PROBABILITIES = ("logp_behaviour", "logp_current", "logp_new", "logp_deployed", AGAIN)
NUMBERS = (*LOG_PROBABILITIES, "reward")
KEYS = ("stage", "update", "prompt", "rollout", "turn", "t")
MATCH = 1e-4
"""Log-probabilities within this, nats per token, are of the same policy, unless something else is declared."""
ROUNDING = 1e-5
"""A log-probability may exceed 0 by this much: float32 rounding of a log-softmax."""
COARSE = 0.1
"""What is above 0 by less than this may be the rounding of bfloat16."""
SMALLEST = -1e100
"""Below this a log-probability is a mask's filler."""
IMPOSSIBLE = (
    "a finite number; this is a token that the policy cannot write: cut off by top-k or top-p (score without the cut), or at the "
    "wrong place (a mask or a shift by one)"
)


class TokenLog(NamedTuple):
    """A checked log: rows in the order (stage, update, prompt, rollout, turn, t), and where transcripts and messages begin."""

    stage: Ints
    update: Ints
    prompt: Ints
    rollout: Ints
    agent: Ints
    turn: Ints
    t: Ints
    logp_behaviour: Floats
    logp_current: Floats
    logp_new: Floats
    reward: Floats
    updated: Ints | None  #: who is updated, −1 for the whole team; `None`: to be found from the log-probabilities
    token: Ints | None  #: token ids
    logp_deployed: Floats | None  #: under the sampler with the weights after the update (S12)
    logp_again: Floats | None  #: `logp_current` scored a second time; NaN in all rows of a rollout that was not
    transcripts: Ints  #: [N+1] first row of every scored transcript, and the number of rows
    messages: Ints  #: [M+1] first row of every message, and the number of rows
    source: Ints  #: [N] the update at which the transcript was sampled
    told: bool  #: whether the log says `source`; otherwise it was found
    usable: NDArray[np.bool_]  #: [N] not of a set of which only a part was scored again
    again: tuple[Again, ...]  #: for every update, what it has of sets that are older
    masked: NDArray[np.bool_]  #: [N] a rollout of which tokens are missing: it has none, or `t` has holes
    sampler: Sampler | None  #: how the tokens were drawn; `None` where the log does not say it

    @property
    def rows(self) -> int:
        """Number of tokens scored."""
        return int((self.t >= 0).sum())

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that a file of this log has, `source` only where the log says it."""
        out = {key: getattr(self, key) for key in (*TOKEN_LOG_COLUMNS, "updated", "token", "logp_deployed", AGAIN)}
        out["source"] = np.repeat(self.source, np.diff(self.transcripts)) if self.told else None
        return {key: column for key, column in out.items() if column is not None}


def optional_import(name: str) -> ModuleType:
    """Import a module of the extra ``monitor``.

    Raises:
      InputError: if it is not installed; names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise InputError(package, "no such package", "the extra: pip install 'teamtr-jax[monitor]'") from None


# ------------------------------------------------------------------------------------------------------------- checking


def token_log(
    columns: Any,
    name: str = "log",
    unit: str = "row",
    match: float = MATCH,
    sampler: Sampler | None = None,
) -> TokenLog:
    """Check the columns of a log and sort its rows.

    Args:
      columns: a mapping, or a table (pandas, polars, Arrow, Hugging Face). `formats.TOKEN_LOG_COLUMNS`; optional
        `formats.TOKEN_LOG_OPTIONAL`: `source` (the update at which the transcript was sampled), `token` (its id), `updated` (who
        is updated, −1 for all), `logp_deployed` (under the sampler with the weights after the update), `logp_again`
        (`logp_current` scored a second time, NaN where it was not), `schema`; others are ignored.
      name: what the messages call the log.
      unit: what they call a row.
      match: a transcript is the one of an earlier update if ids and tokens agree, and `logp_behaviour` within this per token.
      sampler: how the tokens were drawn.

    Raises:
      InputError: names column and row of the first thing that is wrong.
    """
    match = real_number("match", match, 0.0)
    return checked_log(columns_of(columns, name), Origin(name, unit), match, sampler)


Columns = dict[str, NDArray[Any]]


class Origin(NamedTuple):
    """Where rows come from, for messages."""

    name: str  #: of the log
    unit: str  #: what a row is called
    first: int = 0  #: rows of the log before these
    files: tuple[tuple[int, str], ...] = ()  #: of a log in several files, the first row of each and its name

    def column(self, key: str, row: int | None = None) -> str:
        """A column, or one value of it; `row` counts from 0 among these rows."""
        if row is None:
            return f"{self.name}: column {key}"
        name, number = self._place(row)
        return f"{name}: column {key}, {self.unit} {number}"

    def at(self, row: int) -> str:
        """A row, for a message that names the log already."""
        name, number = self._place(row)
        return f"{self.unit} {number}" + (f" of {name}" if self.files else "")

    def _place(self, row: int) -> tuple[str, int]:
        """The file of a row, and its number there, from 1."""
        if not self.files:
            return self.name, self.first + row + 1
        first, name = self.files[bisect(self.files, row, key=lambda file: file[0]) - 1]
        return name, row - first + 1


def checked_log(columns: Mapping[str, ArrayLike], origin: Origin, match: float, sampler: Sampler | None) -> TokenLog:
    """See `token_log`."""
    used = typed(columns, origin)
    check_values(used, origin)
    require_tokens(origin.name, used["t"].size, int((used["t"] >= 0).sum()))
    return log_of(used, origin, match, sampler)


def typed(columns: Mapping[str, ArrayLike], origin: Origin) -> Columns:
    """The columns that are used, all there, equally long, int64 or float64."""
    name = origin.name
    given = {str(key): value for key, value in columns.items() if value is not None}
    if any(key not in given for key in TOKEN_LOG_COLUMNS):
        raise missing_columns(name, given)
    known = [key for key in (*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL) if key in given]
    used = {key: as_array(origin.column(key), given[key]) for key in known}
    rows = used["stage"].size
    for key, array in used.items():
        where = origin.column(key)
        if array.ndim != 1 or array.size != rows:
            raise InputError(where, f"shape {list(array.shape)}", f"[{rows}], as column stage")
        if array.dtype.kind not in ("iuf" if key in NUMBERS else "iu"):
            raise InputError(where, f"dtype {array.dtype}", "numbers" if key in NUMBERS else "integers")
        if array.dtype == np.uint64 and key not in NUMBERS and (large := array > np.uint64(2**63 - 1)).any():
            raise InputError(origin.column(key, int(np.argmax(large))), array[large][0], "an integer below 2**63")
        used[key] = array.astype(np.float64 if key in NUMBERS else np.int64, copy=False)
    return used


def require_tokens(name: str, rows: int, tokens: int) -> None:
    """Refuse a log in which there is nothing."""
    if not tokens:
        raise InputError(name, "no token" if rows else "no rows", "at least one token")


def check_values(used: Columns, origin: Origin) -> None:
    """Every value by itself."""

    def refuse(key: str, bad: NDArray[np.bool_], expected: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(origin.column(key, row), used[key][row], expected)

    if "schema" in used:
        refuse("schema", used["schema"] != TOKEN_LOG_SCHEMA, f"{TOKEN_LOG_SCHEMA}, the schema that this version reads")
    for key in (*KEYS[:-1], "agent"):
        refuse(key, used[key] < 0, "an integer ≥ 0")
    refuse("t", used["t"] < -1, "an integer ≥ 0, or −1 for a rollout without token")
    if "updated" in used:
        refuse("updated", used["updated"] < -1, "an agent, or −1 for all of them")
    if "source" in used:
        wrong = (used["source"] < 0) | (used["source"] > used["update"])
        refuse("source", wrong, "the update at which the rollout was sampled: from 0 to the update of this row")
    absent = used["t"] == -1
    if "token" in used:
        refuse("token", ~absent & (used["token"] < 0), "a token id ≥ 0")
    for key in (key for key in NUMBERS if key in used):
        if key != "reward":
            refuse(key, used[key] < SMALLEST, IMPOSSIBLE)
            refuse(key, (used[key] > COARSE) & (used[key] < np.inf), "a log-probability, at most 0")
            above = "a log-probability, at most 0; bfloat16 rounds it up by so much: take log_softmax in float32"
            refuse(key, (used[key] > ROUNDING) & (used[key] <= COARSE), above)
            zero = used[key] == 0 if key != AGAIN else (used[key] == 0) | np.isnan(used[key])
            refuse(key, absent & ~zero, "0: t = −1 is a rollout without token")
        refuse(key, np.isinf(used[key]) if key == AGAIN else ~np.isfinite(used[key]), "a finite number")


def log_of(used: Columns, origin: Origin, match: float, sampler: Sampler | None = None) -> TokenLog:
    """The log of checked columns: its rows sorted, checked against their neighbours, and the sources found.

    Columns are sorted one by one in `used`, so that the log is never held twice.
    """
    order = _order([used[key] for key in KEYS])
    if order is not None:
        for key in used:
            used[key] = used[key][order]
    rows = used["stage"].size
    new = [used[key][1:] != used[key][:-1] for key in KEYS]
    change = np.logical_or.accumulate(new)  # of (stage), (stage, update), …
    _check_neighbours(used, change, origin, order)
    transcripts, messages = (np.r_[0, np.flatnonzero(change[level]) + 1, rows] for level in (3, 4))
    absent, length = used["t"] == -1, np.diff(transcripts)
    if (bad := absent & np.repeat(length > 1, length)).any():
        row = int(np.argmax(bad))
        where = origin.column("t", row if order is None else int(order[row]))
        raise InputError(where, -1, "no other row: t = −1 is a rollout without token")
    holes = used["t"][messages[1:] - 1] != np.diff(messages) - 1  # t are distinct, ≥ 0 and sorted, or one −1
    masked = np.logical_or.reduceat(holes, np.searchsorted(messages, transcripts[:-1]))
    source, usable, again = sources(Rows(transcripts, used), match)
    fields: dict[str, Any] = {"updated": None, "token": None, "logp_deployed": None, AGAIN: None}
    fields |= {key: array for key, array in used.items() if key not in ("schema", "source")}
    return TokenLog(
        **fields, transcripts=transcripts, messages=messages, source=source, told="source" in used, usable=usable,
        again=again, masked=masked, sampler=sampler,
    )  # fmt: skip


def _check_neighbours(used: Columns, change: NDArray[np.bool_], origin: Origin, order: Ints | None) -> None:
    """What must be the same in neighbouring rows of the sorted log.

    Args:
      change: ``[level, rows − 1]``, whether (stage), (stage, update), … differs from the row before.
      order: by row of the sorted log, the row of the log as it was.
    """

    def clash(bad: NDArray[np.bool_], key: str, expected: str) -> None:
        """`bad[r]`: row r contradicts row r−1."""
        if bad.any():
            r = int(np.argmax(bad)) + 1
            before, row = (r - 1, r) if order is None else order[r - 1 : r + 1].tolist()
            what = f"{used[key][r]}, and {used[key][r - 1]} in {origin.at(before)}"
            raise InputError(origin.column(key, row), what, expected)

    def differs(key: str) -> NDArray[np.bool_]:
        return used[key][1:] != used[key][:-1]

    own = "a transcript scored again beside new ones needs an own rollout id"
    clash(~change[-1], "t", f"one row for each (stage, update, prompt, rollout, turn, t); {own}")
    if "source" in used:
        clash(~change[3] & differs("source"), "source", f"one for all rows of a rollout; {own}")
    clash(~change[4] & differs("agent"), "agent", "one agent for all tokens of a turn")
    clash(~change[3] & differs("reward"), "reward", "one reward for all tokens of a rollout")
    if "updated" in used:
        clash(~change[1] & differs("updated"), "updated", "one value for each update")
    if AGAIN in used:
        missing = np.isnan(used[AGAIN])
        clash(
            ~change[3] & (missing[1:] != missing[:-1]),
            AGAIN,
            "a number in all rows of a rollout at an update, or in none",
        )


def as_array(name: str, value: ArrayLike) -> NDArray[Any]:
    """An array without a mask."""
    if np.ma.is_masked(value):
        raise InputError(name, "a masked array with values masked", "an array without: its mask is lost")
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of unequal length, a tensor that needs its gradient
        raise InputError(name, reason(error), "an array") from error


def _order(keys: list[Ints]) -> Ints | None:
    """The stable permutation that sorts by `keys`, first key first; `None` where the rows are sorted.

    Most writers keep the rows of a transcript together and in order: then whole transcripts are sorted, not rows.
    """
    *names, turn, t = keys
    new = np.logical_or.reduce([key[1:] != key[:-1] for key in names])
    if (~new & ((turn[1:] < turn[:-1]) | ((turn[1:] == turn[:-1]) & (t[1:] < t[:-1])))).any():
        return np.lexsort(keys[::-1])
    runs = np.r_[0, np.flatnonzero(new) + 1, turn.size]
    heads = [name[runs[:-1]] for name in names]
    order = np.lexsort(heads[::-1])
    if (order[1:] > order[:-1]).all():
        return None
    if np.logical_and.reduce([np.diff(head[order]) == 0 for head in heads]).any():  # a transcript in two places
        return np.lexsort(keys[::-1])
    return rows_of(runs, order)
