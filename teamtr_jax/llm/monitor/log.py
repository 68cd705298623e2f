"""Token logs: reading, checking, writing (docs/records.md, token log, schema 1)."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.llm.monitor.estimates import Floats, Ints
from teamtr_jax.records import TOKEN_LOG_COLUMNS, TOKEN_LOG_SCHEMA
from teamtr_jax.validation import InputError

__all__ = ["TokenLog", "token_log", "read_token_log", "write_token_log", "append_token_log", "token_rows",
           "optional_import", "replacing"]  # fmt: skip

NUMBERS = ("logp_behaviour", "logp_current", "logp_new", "reward")
KEYS = ("stage", "update", "prompt", "rollout", "turn", "t")
OPTIONAL = ("updated", "schema")
METADATA = b"teamtr_token_log_schema"
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
ROUNDING = 1e-5
"""A log-probability may exceed 0 by this much: float32 rounding of a log-softmax."""


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
    transcripts: Ints  #: [N+1] first row of every scored transcript, and the number of rows
    messages: Ints  #: [M+1] first row of every message, and the number of rows
    source: Ints  #: [N] the update at which the transcript appears first in its stage

    @property
    def rows(self) -> int:
        """Number of tokens scored."""
        return self.stage.size


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


def token_log(columns: Mapping[str, ArrayLike], name: str = "log", unit: str = "row", match: float = 1e-4) -> TokenLog:
    """Check the columns of a log and sort its rows.

    Args:
      columns: `records.TOKEN_LOG_COLUMNS`; optional `updated` (who is updated, −1 for all) and `schema`; others are ignored.
      name: what the messages call the log.
      unit: what they call a row.
      match: a transcript is the one of an earlier update if ids and tokens agree, and `logp_behaviour` within this per token.

    Raises:
      InputError: names column and row of the first thing that is wrong.
    """
    given: dict[str, NDArray[Any]] = {key: np.asarray(value) for key, value in columns.items() if value is not None}
    if missing := [key for key in TOKEN_LOG_COLUMNS if key not in given]:
        raise InputError(f"{name}: columns", f"no {', '.join(missing)}", ", ".join(TOKEN_LOG_COLUMNS))
    used = {key: given[key] for key in (*TOKEN_LOG_COLUMNS, *OPTIONAL) if key in given}
    rows = used["stage"].size
    for key, array in used.items():
        where = f"{name}: column {key}"
        if array.ndim != 1 or array.size != rows:
            raise InputError(where, f"shape {list(array.shape)}", f"[{rows}], as column stage")
        if array.dtype.kind not in ("iuf" if key in NUMBERS else "iu"):
            raise InputError(where, f"dtype {array.dtype}", "numbers" if key in NUMBERS else "integers")
        used[key] = array.astype(np.float64 if key in NUMBERS else np.int64, copy=False)
    if rows == 0:
        raise InputError(name, "no rows", "at least one token")

    def refuse(key: str, bad: NDArray[np.bool_], expected: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(f"{name}: column {key}, {unit} {row + 1}", used[key][row], expected)

    if "schema" in used:
        refuse("schema", used["schema"] != TOKEN_LOG_SCHEMA, f"{TOKEN_LOG_SCHEMA}, the schema that this version reads")
    for key in (*KEYS, "agent"):
        refuse(key, used[key] < 0, "an integer ≥ 0")
    if "updated" in used:
        refuse("updated", used["updated"] < -1, "an agent, or −1 for all of them")
    for key in NUMBERS:
        refuse(key, ~np.isfinite(used[key]), "a finite number")
        if key != "reward":
            refuse(key, used[key] > ROUNDING, "a log-probability, at most 0")

    order = _order([used[key] for key in KEYS])
    if order is not None:
        used = {key: array[order] for key, array in used.items()}

    def clash(bad: NDArray[np.bool_], key: str, expected: str) -> None:
        """`bad[r]`: row r contradicts row r−1 of the sorted log."""
        if bad.any():
            r = int(np.argmax(bad)) + 1
            here, there = (r, r - 1) if order is None else (int(order[r]), int(order[r - 1]))
            what = f"{used[key][r]}, and {used[key][r - 1]} in {unit} {there + 1}"
            raise InputError(f"{name}: column {key}, {unit} {here + 1}", what, expected)

    new = [used[key][1:] != used[key][:-1] for key in KEYS]
    change = np.logical_or.accumulate(new)  # of (stage), (stage, update), …
    clash(
        ~change[-1],
        "t",
        "one row for each (stage, update, prompt, rollout, turn, t); a transcript scored again beside new ones needs an own "
        "rollout id",
    )
    clash(~change[4] & (used["agent"][1:] != used["agent"][:-1]), "agent", "one agent for all tokens of a turn")
    clash(~change[3] & (used["reward"][1:] != used["reward"][:-1]), "reward", "one reward for all tokens of a rollout")
    if "updated" in used:
        clash(~change[1] & (used["updated"][1:] != used["updated"][:-1]), "updated", "one value for each update")

    transcripts, messages = (np.r_[0, np.flatnonzero(change[level]) + 1, rows] for level in (3, 4))
    source = _source(used, transcripts, match)
    fields: dict[str, Any] = {"updated": None} | {key: array for key, array in used.items() if key != "schema"}
    return TokenLog(**fields, transcripts=transcripts, messages=messages, source=source)


def _order(keys: list[Ints]) -> Ints | None:
    """The permutation that sorts by `keys`, first key first; `None` where the rows are sorted."""
    tie = np.ones(keys[0].size - 1, bool)
    for key in keys:
        step = np.diff(key)
        if (tie & (step < 0)).any():
            return np.lexsort(keys[::-1])
        tie &= step == 0
    return None


def _source(rows: Mapping[str, NDArray[Any]], transcripts: Ints, match: float) -> Ints:
    """The update at which each scored transcript appears first: same ids, tokens and behaviour as in the update before."""
    first = transcripts[:-1]
    length = np.diff(transcripts)
    place = (rows["turn"] * 1_000_003 + rows["t"] * 8_191 + rows["agent"] * 131 + 1) * 2_654_435_761 % 2**32 / 2**32
    places, mark = (np.add.reduceat(x, first) for x in (place, rows["logp_behaviour"] * (1 + place)))
    ids = [rows[key][first] for key in ("stage", "prompt", "rollout", "update")]
    order = np.lexsort(ids[::-1])
    same = np.ones(first.size - 1, bool)
    for exact in (*ids[:3], length, rows["reward"][first], places):
        same &= exact[order][1:] == exact[order][:-1]
    same &= abs(np.diff(mark[order])) <= match * 2 * length[order][1:]
    begins = np.r_[True, ~same]
    out = np.empty(first.size, np.int64)
    out[order] = ids[3][order][np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return out


# -------------------------------------------------------------------------------------------------------------- reading


def read_token_log(path: Path | str, match: float = 1e-4) -> TokenLog:
    """Read and check a log: JSON lines (``.jsonl``) or Parquet (``.parquet``).

    Raises:
      InputError: names file, column and row of the first thing that is wrong, or the extra that is not installed.
    """
    path = Path(path)
    form = _form(path)
    if not path.is_file():
        raise InputError(str(path), "no such file", "a token log")
    if path.stat().st_size == 0:
        raise InputError(str(path), "an empty file", "at least one token")
    columns = (_read_jsonl if form == "jsonl" else _read_parquet)(path)
    return token_log(columns, str(path), "line" if form == "jsonl" else "row", match)


def _form(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise InputError(str(path), f"suffix {path.suffix!r}", " or ".join(SUFFIXES))
    return SUFFIXES[path.suffix]


def _read_parquet(path: Path) -> dict[str, NDArray[Any]]:
    pa, parquet = optional_import("pyarrow"), optional_import("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(path)
        written = (file.schema_arrow.metadata or {}).get(METADATA, str(TOKEN_LOG_SCHEMA).encode())
        if written != str(TOKEN_LOG_SCHEMA).encode():
            raise InputError(f"{path}: schema", written.decode(errors="replace"), f"{TOKEN_LOG_SCHEMA}")
        names = set(file.schema_arrow.names)
        table = file.read([key for key in (*TOKEN_LOG_COLUMNS, *OPTIONAL) if key in names])
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(str(path), _one_line(error), "a Parquet file") from error
    return {key: _column(str(path), "row", key, table.column(key)) for key in table.column_names}


def _read_jsonl(path: Path) -> dict[str, NDArray[Any]]:
    pa, reader = optional_import("pyarrow"), optional_import("pyarrow.json")
    fields = [(key, pa.float64() if key in NUMBERS else pa.int64()) for key in (*TOKEN_LOG_COLUMNS, *OPTIONAL)]
    options = reader.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")
    try:
        table = reader.read_json(path, reader.ReadOptions(block_size=2**24), options)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise (_bad_line(path) or InputError(str(path), _one_line(error), "one JSON object per line")) from error
    present = [
        key for key in table.column_names if table.column(key).null_count < table.num_rows or table.num_rows == 0
    ]
    return {key: _column(str(path), "line", key, table.column(key)) for key in present}


def _column(name: str, unit: str, key: str, column: Any) -> NDArray[Any]:
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise InputError(f"{name}: column {key}, {unit} {row + 1}", "no value", "a number")
    return column.to_numpy()


def _bad_line(path: Path) -> InputError | None:
    """Names the first line that is not an object with numbers in the columns; slow, used after an error only."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                return InputError(f"{path}: line {number}", error.msg, "a JSON object")
            if not isinstance(record, dict):
                return InputError(f"{path}: line {number}", f"a {type(record).__name__}", "a JSON object")
            for key in (*TOKEN_LOG_COLUMNS, *OPTIONAL):
                value = record.get(key, 0)
                kinds = (int, float) if key in NUMBERS else (int,)
                if isinstance(value, bool) or not isinstance(value, kinds):
                    expected = "a number" if key in NUMBERS else "an integer"
                    return InputError(f"{path}: column {key}, line {number}", repr(value), expected)
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# -------------------------------------------------------------------------------------------------------------- writing


def token_rows(mask: ArrayLike, **columns: ArrayLike) -> dict[str, NDArray[Any]]:
    """The rows of a padded batch: what trainers hold as [N, T] arrays, one row of the log per token that `mask` keeps.

    `t`, if not given, counts the kept tokens of a message (one rollout, one `turn`).

    Args:
      mask: [N, T], true or 1 where an agent wrote a token.
      columns: by name, [N, T] per token, [N] per rollout, or one value for all.

    Raises:
      InputError: if a shape fits none of these.

    Example:
      >>> rows = token_rows([[1, 1, 0], [1, 1, 1]], turn=[[0, 0, 0], [0, 1, 1]], reward=[0.0, 1.0], stage=3)
      >>> print(rows["t"], rows["reward"], rows["stage"])
      [0 1 0 0 1] [0. 0. 1. 1. 1.] [3 3 3 3 3]
    """
    kept = np.asarray(mask) != 0
    if kept.ndim != 2:
        raise InputError("mask", f"shape {list(kept.shape)}", "[N, T]")
    out: dict[str, NDArray[Any]] = {}
    for key, value in columns.items():
        array = np.asarray(value)
        if array.shape not in ((), kept.shape[:1], kept.shape):
            raise InputError(key, f"shape {list(array.shape)}", f"{list(kept.shape)}, [{kept.shape[0]}] or one value")
        out[key] = np.broadcast_to(array[:, None] if array.ndim == 1 else array, kept.shape)[kept]
    if "t" not in out:
        rollout = np.broadcast_to(np.arange(kept.shape[0])[:, None], kept.shape)[kept]
        turn = out.get("turn", np.zeros_like(rollout))
        place = np.arange(rollout.size)
        begins = np.r_[True, (np.diff(rollout) != 0) | (np.diff(turn) != 0)][: rollout.size]
        out["t"] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return out


def write_token_log(path: Path | str, table: Mapping[str, ArrayLike], check: bool = True) -> Path:
    """Write columns as a log, whole or not at all: into a temporary file beside it that is then renamed.

    Args:
      path: ``.jsonl`` or ``.parquet``.
      table: `records.TOKEN_LOG_COLUMNS`, and any further columns of the same length.
      check: refuse what `read_token_log` would refuse.

    Raises:
      InputError: see `token_log`; or the folder does not exist.
    """
    path = Path(path)
    form = _form(path)
    if not path.parent.is_dir():
        raise InputError(str(path), f"no folder {path.parent}", "a file in an existing folder")
    if check:
        token_log(table, str(path))
    with replacing(path) as temporary:
        if form == "parquet":
            pa, parquet = optional_import("pyarrow"), optional_import("pyarrow.parquet")
            metadata = {METADATA: str(TOKEN_LOG_SCHEMA)}
            columns = {key: np.asarray(value) for key, value in table.items()}
            parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), temporary)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(_lines(table))
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place where nothing went wrong, and is removed where something did."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def append_token_log(path: Path | str, table: Mapping[str, ArrayLike], check: bool = True) -> Path:
    """Add rows to a log. JSON lines: all in one write at its end. Parquet: the file is written again, whole or not at all.

    Rows are checked among themselves; that they fit the rows before is checked by `read_token_log`.

    Raises:
      InputError: see `write_token_log`; Parquet: other columns than the file has.
    """
    path = Path(path)
    if _form(path) == "parquet" and path.exists():
        parquet = optional_import("pyarrow.parquet")
        before = parquet.read_table(path)
        names = sorted(before.column_names)
        if sorted(table) != names:
            raise InputError(f"{path}: columns", ", ".join(sorted(table)), ", ".join(names))
        if check:
            token_log(table, str(path))
        joined = {key: np.concatenate([before.column(key).to_numpy(), np.asarray(table[key])]) for key in table}
        return write_token_log(path, joined, check=False)
    if not path.exists():
        return write_token_log(path, table, check)
    if check:
        token_log(table, str(path))
    with path.open("ab") as file:
        file.write("".join(_lines(table)).encode())
    return path


def _lines(table: Mapping[str, ArrayLike]) -> list[str]:
    form = "{" + ", ".join(f"{json.dumps(key).replace('%', '%%')}: %s" for key in table) + "}\n"
    return [form % row for row in zip(*(_encoded(key, np.asarray(value)) for key, value in table.items()), strict=True)]


def _encoded(key: str, column: NDArray[Any]) -> list[str]:
    """The values of a column as JSON."""
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        raise InputError(f"column {key}", "NaN or infinity", "finite numbers: JSON has no others")
    return list(map(repr if column.dtype.kind in "iuf" else json.dumps, column.tolist()))
