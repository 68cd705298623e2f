"""Token logs: reading, checking, writing (docs/records.md, token log, schema 1)."""

from __future__ import annotations

import importlib
import json
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.files import append_bytes, output_file, reason, regular_file, replacing
from teamtr_jax.monitor.estimates import Floats, Ints
from teamtr_jax.monitor.sources import Again, Rows, sources
from teamtr_jax.records import TOKEN_LOG_COLUMNS, TOKEN_LOG_OPTIONAL, TOKEN_LOG_SCHEMA
from teamtr_jax.sizes import bytes_text, memory
from teamtr_jax.validation import InputError, real_number

__all__ = ["TokenLog", "token_log", "read_token_log", "write_token_log", "append_token_log", "token_rows",
           "optional_import"]  # fmt: skip

LOG_PROBABILITIES = ("logp_behaviour", "logp_current", "logp_new")
NUMBERS = (*LOG_PROBABILITIES, "reward")
KEYS = ("stage", "update", "prompt", "rollout", "turn", "t")
ABSENT = {"t": -1, "token": -1, **dict.fromkeys(LOG_PROBABILITIES, 0.0)}
"""What stands in the one row of a rollout without token."""
METADATA = b"teamtr_token_log_schema"
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
ROUNDING = 1e-5
"""A log-probability may exceed 0 by this much: float32 rounding of a log-softmax."""
COARSE = 0.1
"""What is above 0 by less than this may be the rounding of bfloat16."""
SMALLEST = -1e100
"""Below this a log-probability is a mask's filler."""
BYTES_PER_ROW = 500
"""Memory that reading and reporting take for a row of a log; 320 to 420 were measured."""
HEAD = 2**20
"""Bytes of JSON lines from which their number is estimated."""
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
    transcripts: Ints  #: [N+1] first row of every scored transcript, and the number of rows
    messages: Ints  #: [M+1] first row of every message, and the number of rows
    source: Ints  #: [N] the update at which the transcript was sampled
    told: bool  #: whether the log says `source`; otherwise it was found
    usable: NDArray[np.bool_]  #: [N] not of a set of which only a part was scored again
    again: tuple[Again, ...]  #: for every update, what it has of sets that are older
    masked: NDArray[np.bool_]  #: [N] a rollout of which tokens are missing: it has none, or `t` has holes

    @property
    def rows(self) -> int:
        """Number of tokens scored."""
        return int((self.t >= 0).sum())

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that a file of this log has, `source` only where the log says it."""
        out = {key: getattr(self, key) for key in (*TOKEN_LOG_COLUMNS, "updated", "token")}
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


def token_log(columns: Mapping[str, ArrayLike], name: str = "log", unit: str = "row", match: float = 1e-4) -> TokenLog:
    """Check the columns of a log and sort its rows.

    Args:
      columns: `records.TOKEN_LOG_COLUMNS`; optional `records.TOKEN_LOG_OPTIONAL`: `source` (the update at which the transcript
        was sampled), `token` (its id), `updated` (who is updated, −1 for all), `schema`; others are ignored.
      name: what the messages call the log.
      unit: what they call a row.
      match: a transcript is the one of an earlier update if ids and tokens agree, and `logp_behaviour` within this per token.

    Raises:
      InputError: names column and row of the first thing that is wrong.
    """
    match = real_number("match", match, 0.0)
    used = _typed(columns, name, unit)
    _check_values(used, name, unit)
    order = _order([used[key] for key in KEYS])
    if order is not None:
        used = {key: array[order] for key, array in used.items()}
    rows = used["stage"].size

    def place(r: int) -> int:
        """The number, from 1, of row r of the sorted log."""
        return r + 1 if order is None else int(order[r]) + 1

    new = [used[key][1:] != used[key][:-1] for key in KEYS]
    change = np.logical_or.accumulate(new)  # of (stage), (stage, update), …
    _check_neighbours(used, change, name, unit, place)
    transcripts, messages = (np.r_[0, np.flatnonzero(change[level]) + 1, rows] for level in (3, 4))
    absent, length = used["t"] == -1, np.diff(transcripts)
    if (bad := absent & np.repeat(length > 1, length)).any():
        where = f"{name}: column t, {unit} {place(int(np.argmax(bad)))}"
        raise InputError(where, -1, "no other row: t = −1 is a rollout without token")
    holes = used["t"][messages[1:] - 1] != np.diff(messages) - 1  # t are distinct, ≥ 0 and sorted, or one −1
    masked = np.logical_or.reduceat(holes, np.searchsorted(messages, transcripts[:-1]))
    source, usable, again = sources(Rows(transcripts, used), match)
    fields: dict[str, Any] = {"updated": None, "token": None}
    fields |= {key: array for key, array in used.items() if key not in ("schema", "source")}
    return TokenLog(
        **fields, transcripts=transcripts, messages=messages, source=source, told="source" in used, usable=usable,
        again=again, masked=masked,
    )  # fmt: skip


Columns = dict[str, NDArray[Any]]


def _typed(columns: Mapping[str, ArrayLike], name: str, unit: str) -> Columns:
    """The columns that are used, all there, equally long, int64 or float64."""
    given = {str(key): _array(f"{name}: column {key}", value) for key, value in columns.items() if value is not None}
    if missing := [key for key in TOKEN_LOG_COLUMNS if key not in given]:
        raise InputError(f"{name}: columns", f"no {', '.join(missing)}", ", ".join(TOKEN_LOG_COLUMNS))
    used = {key: given[key] for key in (*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL) if key in given}
    rows = used["stage"].size
    for key, array in used.items():
        where = f"{name}: column {key}"
        if array.ndim != 1 or array.size != rows:
            raise InputError(where, f"shape {list(array.shape)}", f"[{rows}], as column stage")
        if array.dtype.kind not in ("iuf" if key in NUMBERS else "iu"):
            raise InputError(where, f"dtype {array.dtype}", "numbers" if key in NUMBERS else "integers")
        if array.dtype == np.uint64 and key not in NUMBERS and (large := array > np.uint64(2**63 - 1)).any():
            raise InputError(f"{where}, {unit} {int(np.argmax(large)) + 1}", array[large][0], "an integer below 2**63")
        used[key] = array.astype(np.float64 if key in NUMBERS else np.int64, copy=False)
    if rows == 0:
        raise InputError(name, "no rows", "at least one token")
    return used


def _check_values(used: Columns, name: str, unit: str) -> None:
    """Every value by itself."""

    def refuse(key: str, bad: NDArray[np.bool_], expected: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(f"{name}: column {key}, {unit} {row + 1}", used[key][row], expected)

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
    if absent.all():
        raise InputError(name, "no token", "at least one token")
    if "token" in used:
        refuse("token", ~absent & (used["token"] < 0), "a token id ≥ 0")
    for key in NUMBERS:
        if key != "reward":
            refuse(key, used[key] < SMALLEST, IMPOSSIBLE)
            refuse(key, (used[key] > COARSE) & (used[key] < np.inf), "a log-probability, at most 0")
            above = "a log-probability, at most 0; bfloat16 rounds it up by so much: take log_softmax in float32"
            refuse(key, (used[key] > ROUNDING) & (used[key] <= COARSE), above)
            refuse(key, absent & (used[key] != 0), "0: t = −1 is a rollout without token")
        refuse(key, ~np.isfinite(used[key]), "a finite number")


def _check_neighbours(
    used: Columns, change: NDArray[np.bool_], name: str, unit: str, place: Callable[[int], int]
) -> None:
    """What must be the same in neighbouring rows of the sorted log.

    Args:
      change: ``[level, rows − 1]``, whether (stage), (stage, update), … differs from the row before.
    """

    def clash(bad: NDArray[np.bool_], key: str, expected: str) -> None:
        """`bad[r]`: row r contradicts row r−1."""
        if bad.any():
            r = int(np.argmax(bad)) + 1
            what = f"{used[key][r]}, and {used[key][r - 1]} in {unit} {place(r - 1)}"
            raise InputError(f"{name}: column {key}, {unit} {place(r)}", what, expected)

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


def _array(name: str, value: ArrayLike) -> NDArray[Any]:
    if np.ma.is_masked(value):
        raise InputError(name, "a masked array with values masked", "an array without: its mask is lost")
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:  # rows of unequal length
        raise InputError(name, reason(error), "an array") from error


def _order(keys: list[Ints]) -> Ints | None:
    """The permutation that sorts by `keys`, first key first; `None` where the rows are sorted."""
    tie = np.ones(keys[0].size - 1, bool)
    for key in keys:
        step = np.diff(key)
        if (tie & (step < 0)).any():
            return np.lexsort(keys[::-1])
        tie &= step == 0
    return None


# -------------------------------------------------------------------------------------------------------------- reading


def read_token_log(path: Path | str, match: float = 1e-4) -> TokenLog:
    """Read and check a log: JSON lines (``.jsonl``) or Parquet (``.parquet``).

    Raises:
      InputError: names file, column and row of the first thing that is wrong, or the extra that is not installed.
    """
    path = Path(path)
    form = _form(path)
    regular_file(path, "a token log")
    if path.stat().st_size == 0:
        raise InputError(str(path), "an empty file", "at least one token")
    columns = (_read_jsonl if form == "jsonl" else _read_parquet)(path)
    return token_log(columns, str(path), "line" if form == "jsonl" else "row", match)


def _form(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise InputError(str(path), f"suffix {path.suffix!r}", " or ".join(SUFFIXES))
    return SUFFIXES[path.suffix]


def _fits(path: Path, rows: int) -> None:
    """Refuse a log of more rows than this machine's memory takes."""
    if rows * BYTES_PER_ROW > (limit := memory()):
        found = f"about {rows:.3g} rows, which take {bytes_text(rows * BYTES_PER_ROW)}"
        expected = (
            f"at most {limit // BYTES_PER_ROW:.3g} rows in {bytes_text(limit)} of memory: split the log by stages"
        )
        raise InputError(str(path), found, expected)


def _read_parquet(path: Path, every: bool = False) -> dict[str, NDArray[Any]]:
    """The columns that are known, or `every` one; pages with their checksums."""
    pa, parquet = optional_import("pyarrow"), optional_import("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _fits(path, file.metadata.num_rows)
            if _joined(path):
                raise InputError(str(path), "two files, one after the other", "a Parquet file: use append_token_log")
            written = (file.schema_arrow.metadata or {}).get(METADATA, str(TOKEN_LOG_SCHEMA).encode())
            if written != str(TOKEN_LOG_SCHEMA).encode():
                raise InputError(f"{path}: schema", written.decode(errors="replace"), f"{TOKEN_LOG_SCHEMA}")
            names = file.schema_arrow.names
            wanted = names if every else [key for key in (*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL) if key in names]
            if twice := [key for key in wanted if names.count(key) > 1]:
                raise InputError(f"{path}: columns", f"{twice[0]} twice", "each column once")
            table = file.read(wanted)
            if table.num_rows != file.metadata.num_rows:
                raise InputError(str(path), f"{table.num_rows} rows", f"{file.metadata.num_rows}, as its footer says")
        return {key: _column(str(path), "row", key, table.column(key)) for key in table.column_names}
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise InputError(str(path), f"a damaged file ({reason(error)})", "a Parquet file") from error


def _joined(path: Path) -> bool:
    """Whether one Parquet file ends where another begins: pages of the first would be read with the footer of the second."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"PAR1PAR1") >= 0


def _read_jsonl(path: Path) -> dict[str, NDArray[Any]]:
    pa, reader = optional_import("pyarrow"), optional_import("pyarrow.json")
    with path.open("rb") as file:
        head = file.read(HEAD)
    if b"\n" not in head and len(head) == HEAD:
        raise InputError(f"{path}: line 1", f"no line break in {HEAD} bytes", "one JSON object per line")
    _fits(path, path.stat().st_size * max(head.count(b"\n"), 1) // (head.rfind(b"\n") + 1 or len(head)))
    names = (*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL)
    fields = [(key, pa.float64() if key in NUMBERS else pa.int64()) for key in names]
    options = reader.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")
    try:
        table = reader.read_json(path, reader.ReadOptions(block_size=2**24), options)
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise (_bad_line(path) or InputError(str(path), reason(error), "one JSON object per line")) from error
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
            except (ValueError, RecursionError) as error:
                return InputError(f"{path}: line {number}", reason(error), "a JSON object")
            if not isinstance(record, dict):
                return InputError(f"{path}: line {number}", f"a {type(record).__name__}", "a JSON object")
            for key in (*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL):
                value = record.get(key, 0)
                kinds = (int, float) if key in NUMBERS else (int,)
                if isinstance(value, bool) or not isinstance(value, kinds):
                    expected = "a number" if key in NUMBERS else "an integer"
                    return InputError(f"{path}: column {key}, line {number}", repr(value), expected)
    return None


# -------------------------------------------------------------------------------------------------------------- writing


def token_rows(mask: ArrayLike, **columns: ArrayLike) -> dict[str, NDArray[Any]]:
    """The rows of a padded batch: what trainers hold as [N, T] arrays, one row of the log per token that `mask` keeps.

    A rollout of which the mask keeps nothing stays in the log, with its reward and one row without token: `t` is −1, `token` −1
    and the log-probabilities 0. `t`, if not given, counts the kept tokens of a message (one rollout, one `turn`).

    Args:
      mask: [N, T], true or 1 where an agent wrote a token.
      columns: by name, [N, T] per token, [N] per rollout, or one value for all.

    Raises:
      InputError: if a shape fits none of these, or a rollout without token has no single value in a column [N, T].

    Example:
      >>> rows = token_rows([[1, 1, 0], [0, 0, 0]], turn=[[0, 0, 0], [0, 1, 1]], reward=[0.0, 1.0], stage=3)
      >>> print(rows["t"], rows["reward"], rows["stage"], rows["turn"])
      [ 0  1 -1] [0. 0. 1.] [3 3 3] [0 0 0]
    """
    kept = _array("mask", mask)
    if kept.ndim != 2 or kept.dtype.kind not in "biuf":
        raise InputError("mask", f"shape {list(kept.shape)}, dtype {kept.dtype}", "[N, T], true or 1 where a token is")
    if not kept.shape[1]:
        raise InputError("mask", f"shape {list(kept.shape)}", "[N, T], T ≥ 1")
    kept = kept != 0
    none = ~kept.any(1)
    row = kept.copy()
    row[none, 0] = True
    absent = np.broadcast_to(none[:, None], kept.shape)[row]
    out: dict[str, NDArray[Any]] = {}
    for key, value in columns.items():
        array = _array(key, value)
        if array.shape not in ((), kept.shape[:1], kept.shape):
            raise InputError(key, f"shape {list(array.shape)}", f"{list(kept.shape)}, [{kept.shape[0]}] or one value")
        one = array.shape != kept.shape
        array = np.broadcast_to(array[:, None] if array.ndim == 1 else array, kept.shape)
        out[key] = array[row]
        if key in ABSENT:
            out[key] = np.where(absent, np.asarray(ABSENT[key], array.dtype), out[key])
        elif key in ("agent", "turn") and not one:
            out[key] = np.where(absent, np.zeros((), array.dtype), out[key])
        elif not one and (bad := none & (array != array[:, :1]).any(1)).any():
            raise InputError(
                f"{key}, row {int(np.argmax(bad))}", "several values and no token", "one value per rollout, [N]"
            )
    if "t" not in out:
        rollout = np.broadcast_to(np.arange(kept.shape[0])[:, None], kept.shape)[row]
        turn = out.get("turn", np.zeros_like(rollout))
        place = np.arange(rollout.size)
        begins = np.r_[True, (np.diff(rollout) != 0) | (np.diff(turn) != 0)][: rollout.size]
        out["t"] = np.where(absent, -1, place - np.maximum.accumulate(np.where(begins, place, 0)))
    return out


def write_token_log(path: Path | str, table: Mapping[str, ArrayLike], check: bool = True) -> Path:
    """Write columns as a log, whole or not at all: into a temporary file beside it that is then renamed.

    Parquet has a checksum in every page.

    Args:
      path: ``.jsonl`` or ``.parquet``; links are followed.
      table: `records.TOKEN_LOG_COLUMNS`, and any further columns of the same length.
      check: refuse what `read_token_log` would refuse.

    Raises:
      InputError: see `token_log`; or the place cannot be written.
    """
    path = Path(path)
    form = _form(path)
    output_file(str(path), path)
    if check:
        token_log(table, str(path))
    with replacing(path) as temporary:
        if form == "parquet":
            pa, parquet = optional_import("pyarrow"), optional_import("pyarrow.parquet")
            metadata = {METADATA: str(TOKEN_LOG_SCHEMA)}
            columns = pa.table({key: np.asarray(value) for key, value in table.items()})
            parquet.write_table(columns.replace_schema_metadata(metadata), temporary, write_page_checksum=True)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(_lines(table))
    return path


def append_token_log(path: Path | str, table: Mapping[str, ArrayLike], check: bool = True) -> Path:
    """Add rows to a log. JSON lines: at its end, all or none. Parquet: the file is written again, whole or not at all.

    Rows are checked among themselves; that they fit the rows before is checked by `read_token_log`.

    Raises:
      InputError: see `write_token_log`; other columns than the file has; its last line is cut off.
    """
    path = Path(path)
    form = _form(path)
    output_file(str(path), path)
    if not path.exists() or path.stat().st_size == 0:
        return write_token_log(path, table, check)
    regular_file(path, "a token log")
    if check:
        token_log(table, str(path))
    if form == "parquet":
        old = _read_parquet(path, every=True)
        _same_columns(path, table, old)
        return write_token_log(
            path, {key: np.concatenate([old[key], np.asarray(table[key])]) for key in table}, check=False
        )
    first, last, ended = _ends(path)
    known = {*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL}
    _same_columns(path, known & set(table), known & set(first))
    if last is None:
        raise InputError(f"{path}: last line", "cut off", "a JSON object; cut the file back to its last whole line")
    append_bytes(path, (("" if ended else "\n") + "".join(_lines(table))).encode())
    return path


def _same_columns(path: Path, here: Iterable[str], there: Iterable[str]) -> None:
    """Refuse rows of other columns than the file has."""
    if sorted(here) != sorted(there):
        raise InputError(f"{path}: columns", ", ".join(sorted(here)), ", ".join(sorted(there)) or "rows in the file")


def _ends(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None, bool]:
    """The first and the last line of JSON lines, `None` for a last one that is cut off; whether a line break follows it."""
    with path.open("rb") as file:
        first = _object(file.readline())
        size = file.seek(0, os.SEEK_END)
        tail, block = b"", 2**16
        while b"\n" not in tail.rstrip(b"\n") and len(tail) < size:
            block = min(2 * block, size)
            file.seek(size - block)
            tail = file.read(block)
    return first or {}, _object(tail.rstrip(b"\n").rpartition(b"\n")[2]), tail.endswith(b"\n")


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _lines(table: Mapping[str, ArrayLike]) -> list[str]:
    form = "{" + ", ".join(f"{json.dumps(key).replace('%', '%%')}: %s" for key in table) + "}\n"
    return [form % row for row in zip(*(_encoded(key, np.asarray(value)) for key, value in table.items()), strict=True)]


def _encoded(key: str, column: NDArray[Any]) -> list[str]:
    """The values of a column as JSON."""
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        raise InputError(f"column {key}", "NaN or infinity", "finite numbers: JSON has no others")
    return list(map(repr if column.dtype.kind in "iuf" else json.dumps, column.tolist()))
