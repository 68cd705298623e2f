"""Token logs as JSON lines (docs/records.md, token log, schema 1)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from teamtr_jax.files import reason
from teamtr_jax.formats import TOKEN_LOG_COLUMNS, TOKEN_LOG_OPTIONAL, TOKEN_LOG_SCHEMA
from teamtr_jax.monitor.frames import without_nulls
from teamtr_jax.monitor.log import (
    AGAIN,
    NUMBERS,
    Columns,
    Origin,
    TokenLog,
    checked_log,
    optional_import,
    require_tokens,
)
from teamtr_jax.sampler_settings import Sampler, sampler_of
from teamtr_jax.sizes import require_room
from teamtr_jax.validation import InputError

__all__ = ["HEADER", "AT_ONCE", "read_header", "read_lines", "decoded_lines", "bad_line", "numbers_of"]

HEADER = "teamtr_token_log"
"""The key that a first line has if it is no row: ``{"teamtr_token_log": 1, "sampler": {…}}``."""
AT_ONCE = 500
"""Bytes of memory that reading and reporting take for a row (390 were measured)."""
HEAD = 2**20
"""Bytes from which the number of lines is estimated."""


def read_header(path: Path) -> tuple[int, Sampler | None]:
    """Of JSON lines the bytes of a first line that is no row, 0 without one, and the sampler settings in it.

    Raises:
      InputError: settings that make no sense, or those of another schema.
    """
    with path.open("rb") as file:
        line = file.readline(HEAD)
    if HEADER.encode() not in line:
        return 0, None
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        return 0, None  # no JSON: the reader of rows says what is wrong
    if not isinstance(header, dict) or HEADER not in header:
        return 0, None
    if header[HEADER] != TOKEN_LOG_SCHEMA or isinstance(header[HEADER], bool):
        raise InputError(f"{path}: line 1, {HEADER}", repr(header[HEADER]), f"{TOKEN_LOG_SCHEMA}")
    settings = header.get("sampler")
    return len(line), None if settings is None else sampler_of(settings, f"{path}: line 1, sampler")


def read_lines(path: Path, match: float) -> TokenLog:
    """Read and check a log, see `reading.read_token_log`."""
    pa = optional_import("pyarrow")
    skip, sampler = read_header(path)
    with path.open("rb") as file:
        file.seek(skip)
        head = file.read(HEAD)
    if b"\n" not in head and len(head) == HEAD:
        raise InputError(f"{path}: line {1 + (skip > 0)}", f"no line break in {HEAD} bytes", "one JSON object per line")
    rest = path.stat().st_size - skip
    require_tokens(str(path), rest, rest)
    estimated = rest * max(head.count(b"\n"), 1) // (head.rfind(b"\n") + 1 or len(head))
    require_room(path, estimated, AT_ONCE, "write Parquet sorted by stage, which is read stage by stage")
    origin = Origin(str(path), "line", int(skip > 0))
    try:
        with pa.OSFile(str(path)) as file:
            file.seek(skip)
            columns = decoded_lines(file, origin)
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        with path.open(encoding="utf-8", errors="replace") as lines:
            wrong = bad_line(lines, str(path))
        raise (wrong or InputError(str(path), reason(error), "one JSON object per line")) from error
    return checked_log(columns, origin, match, sampler)


def decoded_lines(file: Any, origin: Origin) -> Columns:
    """The columns of JSON lines that have a value somewhere; `file` is what pyarrow reads from.

    Raises:
      InputError: a value that is missing.
      pyarrow.ArrowException: a line that is no row (`bad_line` names it).
    """
    pa, reader = optional_import("pyarrow"), optional_import("pyarrow.json")
    names = (*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL)
    fields = [(key, pa.float64() if key in NUMBERS else pa.int64()) for key in names]
    options = reader.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")
    table = reader.read_json(file, reader.ReadOptions(block_size=2**24), options)
    present = [
        key for key in table.column_names if table.column(key).null_count < table.num_rows or table.num_rows == 0
    ]
    return {key: numbers_of(origin, key, table.column(key)) for key in present}


def numbers_of(origin: Origin, key: str, column: Any) -> NDArray[Any]:
    """A column of pyarrow; a value that is missing is NaN where it may be, and refused elsewhere."""
    return without_nulls(column, lambda row: origin.column(key, row), key == AGAIN)


def bad_line(lines: Iterable[str], name: str, first: int = 0) -> InputError | None:
    """Names the first line that is not an object with numbers in the columns; slow, used after an error only.

    Args:
      first: lines of the file before these.
    """
    for number, line in enumerate(lines, first + 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            return InputError(f"{name}: line {number}", reason(error), "a JSON object")
        if number == 1 and isinstance(record, dict) and HEADER in record:
            continue
        if not isinstance(record, dict):
            return InputError(f"{name}: line {number}", f"a {type(record).__name__}", "a JSON object")
        for key in (*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL):
            value = record.get(key, 0)
            if key == AGAIN and value is None:
                continue
            kinds = (int, float) if key in NUMBERS else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds):
                expected = "a number" if key in NUMBERS else "an integer"
                return InputError(f"{name}: column {key}, line {number}", repr(value), expected)
            if isinstance(value, int) and key not in NUMBERS and not -(2**63) <= value < 2**63:
                return InputError(f"{name}: column {key}, line {number}", value, "an integer below 2**63")
    return None
