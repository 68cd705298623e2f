"""Token logs from files: whole, or a part of the stages after the other (docs/records.md, token log, schema 1)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.files import is_folder, reason, regular_file
from teamtr_jax.formats import TOKEN_LOG_COLUMNS, TOKEN_LOG_OPTIONAL, TOKEN_LOG_SCHEMA
from teamtr_jax.monitor.log import (
    AGAIN,
    NUMBERS,
    Columns,
    Origin,
    TokenLog,
    check_values,
    checked_log,
    log_of,
    optional_import,
    require_tokens,
    typed,
)
from teamtr_jax.monitor.parts import SUFFIXES, parts_of
from teamtr_jax.sampler_settings import Sampler, sampler_of
from teamtr_jax.sizes import bytes_text, memory
from teamtr_jax.validation import InputError, real_number

__all__ = [
    "METADATA",
    "SAMPLER",
    "HEADER",
    "read_token_log",
    "read_stages",
    "read_parts",
    "read_columns",
    "read_header",
    "form_of",
]

METADATA, SAMPLER = b"teamtr_token_log_schema", b"teamtr_sampler"
"""Keys of the metadata of a Parquet file: the schema, and how its tokens were drawn, as JSON."""
HEADER = "teamtr_token_log"
"""The key that a first line of JSON lines has if it is no row: ``{"teamtr_token_log": 1, "sampler": {…}}``."""
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
    """Read and check a log: JSON lines (``.jsonl``), Parquet (``.parquet``), or a folder of parts.

    Raises:
      InputError: names file, column and row of the first thing that is wrong, or the extra that is not installed.
    """
    path, form = _tried(path)
    match = real_number("match", match, 0.0)
    if form == "jsonl":
        return _read_jsonl(path, match)
    if form == "folder":
        return _joined_log(path, _heads(path, [part.name for part in parts_of(path)]), match)
    (log,) = _parquet_parts(path, match, _whole)
    return log


def read_parts(folder: Path | str, names: Iterable[str], match: float = 1e-4) -> TokenLog:
    """Read and check some files of a folder of parts as one log, for instance those of a stage (`parts.parts_of`).

    Raises:
      InputError: see `read_token_log`; or they differ in their columns or in their sampler settings.
    """
    return _joined_log(Path(folder), _heads(Path(folder), list(names)), real_number("match", match, 0.0))


def read_stages(path: Path | str, match: float = 1e-4, progress: Progress | None = None) -> Iterator[TokenLog]:
    """Read and check a log in parts of whole stages, for `monitor`: so much memory as a part takes.

    A part has one stage, or several that together have `PART` rows at most. JSON lines, and Parquet whose rows are not sorted by
    stage, are one part. Of a folder every stage is one.

    Args:
      progress: called after every part but the last.

    Raises:
      InputError: see `read_token_log`; what is wrong in a part is found when it is read.
    """
    path, form = _tried(path)
    if form == "jsonl":
        return iter([read_token_log(path, match)])
    read = _folder_stages if form == "folder" else partial(_parquet_parts, cut=_stages)
    return read(path, real_number("match", match, 0.0), progress=progress)


def _tried(path: Path | str) -> tuple[Path, str]:
    """The path and the form of a file or folder that may be a log."""
    path = Path(path)
    if is_folder(path):
        return path, "folder"
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


class Head(NamedTuple):
    """What the footer of a Parquet file says."""

    path: Path
    names: list[str]  #: of the columns that are read
    sampler: Sampler | None
    rows: int


def _head(path: Path, file: Any) -> Head:
    """The footer of an open file."""
    names = _names(path, file, [*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL])
    return Head(path, names, _sampler(path, file), file.metadata.num_rows)


def _sampler(path: Path, file: Any) -> Sampler | None:
    """The sampler settings in the metadata of an open file."""
    written = (file.schema_arrow.metadata or {}).get(SAMPLER)
    if written is None:
        return None
    try:
        settings = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: metadata {SAMPLER.decode()}", reason(error), "a JSON object") from error
    return sampler_of(settings, f"{path}: metadata {SAMPLER.decode()}")


@contextmanager
def _opened(path: Path, footer: bool = False) -> Iterator[Any]:
    """A Parquet file whose footer is that of a token log; its pages are read with their checksums, a few at a time.

    Args:
      footer: nothing else will be read.
    """
    parquet = optional_import("pyarrow.parquet")
    options = dict(page_checksum_verification=True, pre_buffer=False, buffer_size=BUFFER)
    with _named(path):
        file = parquet.ParquetFile(path, **options)
    with file:
        if not footer and _joined(path):
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


def part_metadata(path: Path) -> dict[bytes, bytes]:
    """What the footer of a Parquet file says of it."""
    regular_file(path, "a part of a token log")
    with _opened(path, footer=True) as file:
        return dict(file.schema_arrow.metadata or {})


def read_columns(path: Path) -> tuple[Columns, Sampler | None]:
    """Every column of a Parquet file, as it is, and its sampler settings."""
    with _opened(path) as file:
        _fits(path, file.metadata.num_rows, AT_ONCE, "write another file")
        names = _names(path, file, file.schema_arrow.names)
        with _named(path):
            table = file.read(names)
            columns = {key: _column(Origin(str(path), "row"), key, table.column(key)) for key in names}
        return columns, _sampler(path, file)


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
        _, names, sampler, rows = _head(path, file)
        require_tokens(str(path), rows, rows)
        sizes = cut(path, file)
        pieces = _pieces(path, file.iter_batches(BLOCK, columns=names), sizes)
        for size in sizes:
            origin, used = Origin(str(path), "row", first), {}
            _fill(used, size, 0, pieces, size, origin)
            log = log_of(used, origin, match, sampler)
            del used
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


def _fill(used: Columns, size: int, at: int, pieces: Iterator[Any], rows: int, origin: Origin) -> None:
    """Fill the next `rows` of columns of `size` rows from row `at` on, checked piece by piece: never more of a file at once.

    Args:
      used: the columns, made here where they are not there yet.
    """
    filled = 0
    while filled < rows:
        piece = next(pieces)
        here = origin._replace(first=origin.first + filled)
        columns = typed({key: _column(here, key, piece.column(key)) for key in piece.schema.names}, here)
        check_values(columns, here)
        for key, column in columns.items():
            if key not in used:
                used[key] = np.full(size, np.nan) if key == AGAIN else np.empty(size, column.dtype)
            used[key][at + filled : at + filled + column.size] = column
        filled += piece.num_rows


# ------------------------------------------------------------------------------------------------------ folders of parts


def _heads(folder: Path, names: Sequence[str]) -> list[Head]:
    """The footers of files in a folder."""
    if not names:
        raise InputError(str(folder), "a folder without parts", "a token log: a file, or a folder that LogWriter wrote")
    heads = []
    for name in names:
        path = regular_file(folder / name, "a part of a token log")
        with _opened(path, footer=True) as file:
            heads.append(head := _head(path, file))
        require_tokens(str(path), head.rows, head.rows)
    return heads


def _folder_stages(folder: Path, match: float, progress: Progress | None = None) -> Iterator[TokenLog]:
    """The stages of a folder, one after the other; all footers are read first."""
    parts = parts_of(folder)
    heads = dict(zip(parts, _heads(folder, [part.name for part in parts]), strict=True))
    done, rows = 0, sum(head.rows for head in heads.values())
    for _, group in itertools.groupby(heads, lambda part: part.stage):
        here = [heads[part] for part in group]
        yield _joined_log(folder, here, match)
        done += sum(head.rows for head in here)
        if progress is not None and done < rows:
            progress(done, rows)


def _joined_log(folder: Path, heads: Sequence[Head], match: float) -> TokenLog:
    """Some parts as one log."""
    first = heads[0]
    for head in heads:
        if head.sampler != first.sampler:
            expected = f"{_said(first.sampler)}, as {first.path.name} has: one sampler for each stage"
            raise InputError(f"{head.path}: sampler settings", _said(head.sampler), expected)
        if ({*head.names} ^ {*first.names}) - {AGAIN}:
            found = ", ".join(head.names)
            raise InputError(f"{head.path}: columns", found, f"{', '.join(first.names)}, as {first.path.name} has")
    starts = np.r_[0, np.cumsum([head.rows for head in heads])].tolist()
    _fits(folder, starts[-1], PIECEWISE, "a stage has to fit, see docs/monitor.md")
    used: Columns = {}
    for at, (path, names, _, rows) in zip(starts, heads, strict=False):
        origin = Origin(str(path), "row")
        with _opened(path) as file:
            pieces = _pieces(path, file.iter_batches(BLOCK, columns=names), [rows])
            _fill(used, starts[-1], at, pieces, rows, origin)
        _as_named(path, used, slice(at, at + rows), origin)
    files = tuple((at, str(head.path)) for at, head in zip(starts, heads, strict=False))
    log = log_of(used, Origin(str(folder), "row", 0, files), match, first.sampler)
    require_tokens(str(folder), starts[-1], log.rows)
    return log


def _said(sampler: Sampler | None) -> str:
    return "none" if sampler is None else json.dumps(sampler.to_json())


def _as_named(path: Path, used: Columns, rows: slice, origin: Origin) -> None:
    """Refuse rows of another stage or update than the name of their file says."""
    stage, update, *_ = map(int, path.stem.split("-"))
    for key, number in (("stage", stage), ("update", update)):
        if (bad := used[key][rows] != number).any():
            row = int(np.argmax(bad))
            raise InputError(origin.column(key, row), used[key][rows][row], f"{number}, as the name of the file says")


# ----------------------------------------------------------------------------------------------------------- JSON lines


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


def _read_jsonl(path: Path, match: float) -> TokenLog:
    pa, reader = optional_import("pyarrow"), optional_import("pyarrow.json")
    skip, sampler = read_header(path)
    with path.open("rb") as file:
        file.seek(skip)
        head = file.read(HEAD)
    if b"\n" not in head and len(head) == HEAD:
        raise InputError(f"{path}: line {1 + (skip > 0)}", f"no line break in {HEAD} bytes", "one JSON object per line")
    rest = path.stat().st_size - skip
    require_tokens(str(path), rest, rest)
    estimated = rest * max(head.count(b"\n"), 1) // (head.rfind(b"\n") + 1 or len(head))
    _fits(path, estimated, AT_ONCE, "write Parquet sorted by stage, which is read stage by stage")
    names = (*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL)
    fields = [(key, pa.float64() if key in NUMBERS else pa.int64()) for key in names]
    options = reader.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")
    try:
        with pa.OSFile(str(path)) as file:
            file.seek(skip)
            table = reader.read_json(file, reader.ReadOptions(block_size=2**24), options)
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise (_bad_line(path) or InputError(str(path), reason(error), "one JSON object per line")) from error
    present = [
        key for key in table.column_names if table.column(key).null_count < table.num_rows or table.num_rows == 0
    ]
    origin = Origin(str(path), "line", int(skip > 0))
    return checked_log({key: _column(origin, key, table.column(key)) for key in present}, origin, match, sampler)


def _column(origin: Origin, key: str, column: Any) -> NDArray[Any]:
    if column.null_count:
        if key != AGAIN:
            row = int(np.argmax(column.is_null().to_numpy(False)))
            raise InputError(origin.column(key, row), "no value", "a number")
        column = column.cast("float64")
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
            if number == 1 and isinstance(record, dict) and HEADER in record:
                continue
            if not isinstance(record, dict):
                return InputError(f"{path}: line {number}", f"a {type(record).__name__}", "a JSON object")
            for key in (*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL):
                value = record.get(key, 0)
                if key == AGAIN and value is None:
                    continue
                kinds = (int, float) if key in NUMBERS else (int,)
                if isinstance(value, bool) or not isinstance(value, kinds):
                    expected = "a number" if key in NUMBERS else "an integer"
                    return InputError(f"{path}: column {key}, line {number}", repr(value), expected)
    return None
