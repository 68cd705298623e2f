"""Token logs from files: whole, or a part of the stages after the other (docs/records.md, token log, schema 1)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.files import reason, regular_file
from teamtr_jax.formats import TOKEN_LOG_COLUMNS, TOKEN_LOG_OPTIONAL, TOKEN_LOG_SCHEMA
from teamtr_jax.monitor.log import (
    NUMBERS,
    Columns,
    Origin,
    TokenLog,
    check_values,
    log_of,
    optional_import,
    require_tokens,
    token_log,
    typed,
)
from teamtr_jax.sizes import bytes_text, memory
from teamtr_jax.validation import InputError, real_number

__all__ = ["read_token_log", "read_stages", "read_columns", "form_of"]

METADATA = b"teamtr_token_log_schema"
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
PIECEWISE, AT_ONCE = 250, 500
"""Memory that reading and reporting take for a row: of Parquet, read in pieces (180 were measured), and of JSON lines (390)."""
HEAD = 2**20
"""Bytes of JSON lines from which their number is estimated."""
PART = 2**20
"""Rows of a part that has several stages, at most."""
BLOCK = 2**16
"""Rows that are decoded and checked at once."""
BUFFER = 2**20
"""Bytes that are read at once."""

Progress = Callable[[int, int], None]
"""Is told how many rows are done, and how many there are."""


def read_token_log(path: Path | str, match: float = 1e-4) -> TokenLog:
    """Read and check a log: JSON lines (``.jsonl``) or Parquet (``.parquet``).

    Raises:
      InputError: names file, column and row of the first thing that is wrong, or the extra that is not installed.
    """
    path, form = _tried(path)
    if form == "jsonl":
        return token_log(_read_jsonl(path), str(path), "line", match)
    (log,) = _parquet_parts(path, real_number("match", match, 0.0), _whole)
    return log


def read_stages(path: Path | str, match: float = 1e-4, progress: Progress | None = None) -> Iterator[TokenLog]:
    """Read and check a log in parts of whole stages, for `monitor`: so much memory as a part takes.

    A part has one stage, or several that together have `PART` rows at most. JSON lines, and Parquet whose rows are not sorted by
    stage, are one part.

    Args:
      progress: called after every part but the last.

    Raises:
      InputError: see `read_token_log`; what is wrong in a part is found when it is read.
    """
    path, form = _tried(path)
    if form == "jsonl":
        return iter([read_token_log(path, match)])
    return _parquet_parts(path, real_number("match", match, 0.0), _stages, progress)


def _tried(path: Path | str) -> tuple[Path, str]:
    """The path and the form of a file that may be a log."""
    path = Path(path)
    form = form_of(path)
    regular_file(path, "a token log")
    if path.stat().st_size == 0:
        raise InputError(str(path), "an empty file", "at least one token")
    return path, form


def form_of(path: Path) -> str:
    """Which of the two forms its suffix says."""
    if path.suffix not in SUFFIXES:
        raise InputError(str(path), f"suffix {path.suffix!r}", " or ".join(SUFFIXES))
    return SUFFIXES[path.suffix]


def _fits(path: Path, rows: int, each: int, remedy: str) -> None:
    """Refuse rows, of a log or of one stage, that are more than this machine's memory takes together, with `each` in bytes."""
    if rows * each > (limit := memory()):
        found = f"about {rows:.3g} rows, which take {bytes_text(rows * each)}"
        raise InputError(
            str(path), found, f"at most {limit // each:.3g} rows in {bytes_text(limit)} of memory: {remedy}"
        )


# -------------------------------------------------------------------------------------------------------------- Parquet


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What pyarrow says of a damaged file as an `InputError`."""
    pa = optional_import("pyarrow")
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise InputError(str(path), f"a damaged file ({reason(error)})", "a Parquet file") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Parquet file whose footer is that of a token log; its pages are read with their checksums, a few at a time."""
    parquet = optional_import("pyarrow.parquet")
    options = dict(page_checksum_verification=True, pre_buffer=False, buffer_size=BUFFER)
    with _named(path):
        file = parquet.ParquetFile(path, **options)
    with file:
        if _joined(path):
            raise InputError(str(path), "two files, one after the other", "a Parquet file: use append_token_log")
        written = (file.schema_arrow.metadata or {}).get(METADATA, str(TOKEN_LOG_SCHEMA).encode())
        if written != str(TOKEN_LOG_SCHEMA).encode():
            raise InputError(f"{path}: schema", written.decode(errors="replace"), f"{TOKEN_LOG_SCHEMA}")
        yield file


def _joined(path: Path) -> bool:
    """Whether one Parquet file ends where another begins: pages of the first would be read with the footer of the second."""
    mark, end = b"PAR1PAR1", b""
    with path.open("rb") as file:
        while block := file.read(BUFFER):
            if mark in end + block:
                return True
            end = block[1 - len(mark) :]
    return False


def _names(path: Path, file: Any, wanted: list[str]) -> list[str]:
    """Columns of a file, each there once."""
    names = file.schema_arrow.names
    if twice := [key for key in wanted if names.count(key) > 1]:
        raise InputError(f"{path}: columns", f"{twice[0]} twice", "each column once")
    return [key for key in wanted if key in names]


def read_columns(path: Path) -> Columns:
    """Every column of a Parquet file, as it is."""
    with _opened(path) as file:
        _fits(path, file.metadata.num_rows, AT_ONCE, "write another file")
        names = _names(path, file, file.schema_arrow.names)
        with _named(path):
            table = file.read(names)
            return {key: _column(Origin(str(path), "row"), key, table.column(key)) for key in names}


def _whole(path: Path, file: Any) -> list[int]:
    """All rows as one part."""
    rows = file.metadata.num_rows
    _fits(path, rows, PIECEWISE, "sorted by stage it can be read in parts (read_stages)")
    return [rows]


def _stages(path: Path, file: Any) -> list[int]:
    """The rows of parts of whole stages, where the file is sorted by stage; otherwise one part."""
    rows = file.metadata.num_rows
    if rows <= PART or "stage" not in file.schema_arrow.names:
        return _whole(path, file)
    begins, first, last = [], 0, np.iinfo(np.int64).min
    with _named(path):
        for batch in file.iter_batches(BLOCK, columns=["stage"]):
            stage = np.r_[last, _column(Origin(str(path), "row", first), "stage", batch.column(0))]
            if stage.dtype.kind != "i" or (stage[1:] < stage[:-1]).any():
                _fits(path, rows, PIECEWISE, "sort its rows by stage, and it is read stage by stage")
                return [rows]
            begins.append(first + np.flatnonzero(stage[1:] != stage[:-1]))
            first, last = first + batch.num_rows, stage[-1]
    ends = np.r_[np.concatenate(begins)[1:], rows]  # of every stage
    cuts = [0]
    while cuts[-1] < rows:
        here, fit = np.searchsorted(ends, [cuts[-1], cuts[-1] + PART], "right").tolist()
        cuts.append(int(ends[max(here, fit - 1)]))
    sizes = np.diff(cuts).tolist()
    _fits(path, max(sizes), PIECEWISE, "a stage has to fit, see docs/monitor.md")
    return sizes


def _parquet_parts(
    path: Path, match: float, cut: Callable[[Path, Any], list[int]], progress: Progress | None = None
) -> Iterator[TokenLog]:
    """The parts of a file, whose sizes `cut` says."""
    tokens = first = 0
    with _opened(path) as file:
        names = _names(path, file, [*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL])
        require_tokens(str(path), rows := file.metadata.num_rows, rows)
        sizes = cut(path, file)
        pieces = _pieces(path, file.iter_batches(BLOCK, columns=names), sizes)
        for size in sizes:
            origin = Origin(str(path), "row", first)
            log = log_of(_filled(pieces, size, origin), origin, match)
            tokens, first = tokens + log.rows, first + size
            yield log
            del log  # before the next one is made
            if progress is not None and first < rows:
                progress(first, rows)
        require_tokens(str(path), rows, tokens)


def _pieces(path: Path, batches: Iterator[Any], sizes: list[int]) -> Iterator[Any]:
    """Batches, cut where parts end."""
    ends, first = np.cumsum(sizes), 0
    while True:
        with _named(path):
            batch = next(batches, None)
        rows = 0 if batch is None else batch.num_rows
        if (first + rows > ends[-1]) if rows else first < ends[-1]:
            raise InputError(str(path), f"{first + rows} rows", f"{ends[-1]}, as its footer says")
        if batch is None:
            return
        cuts = ends[(ends > first) & (ends < first + rows)] - first
        for a, b in itertools.pairwise([0, *cuts.tolist(), rows]):
            yield batch.slice(a, b - a)
        first += rows


def _filled(pieces: Iterator[Any], size: int, origin: Origin) -> Columns:
    """The columns of the next rows, checked piece by piece: never more of the file at once than a piece."""
    used: Columns = {}
    filled = 0
    while filled < size:
        piece = next(pieces)
        here = origin._replace(first=origin.first + filled)
        columns = typed({key: _column(here, key, piece.column(key)) for key in piece.schema.names}, here)
        check_values(columns, here)
        if not used:
            used = {key: np.empty(size, column.dtype) for key, column in columns.items()}
        for key, column in columns.items():
            used[key][filled : filled + column.size] = column
        filled += piece.num_rows
    return used


# ----------------------------------------------------------------------------------------------------------- JSON lines


def _read_jsonl(path: Path) -> dict[str, NDArray[Any]]:
    pa, reader = optional_import("pyarrow"), optional_import("pyarrow.json")
    with path.open("rb") as file:
        head = file.read(HEAD)
    if b"\n" not in head and len(head) == HEAD:
        raise InputError(f"{path}: line 1", f"no line break in {HEAD} bytes", "one JSON object per line")
    estimated = path.stat().st_size * max(head.count(b"\n"), 1) // (head.rfind(b"\n") + 1 or len(head))
    _fits(path, estimated, AT_ONCE, "write Parquet sorted by stage, which is read stage by stage")
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
    return {key: _column(Origin(str(path), "line"), key, table.column(key)) for key in present}


def _column(origin: Origin, key: str, column: Any) -> NDArray[Any]:
    if column.null_count:
        raise InputError(origin.column(key, int(np.argmax(column.is_null().to_numpy(False)))), "no value", "a number")
    return column.to_numpy(zero_copy_only=False)


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
