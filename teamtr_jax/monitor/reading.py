"""Token logs from files: whole, or a part of the stages after the other (docs/records.md, token log, schema 1)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from teamtr_jax.files import is_folder, reason, regular_file
from teamtr_jax.formats import TOKEN_LOG_COLUMNS, TOKEN_LOG_OPTIONAL, TOKEN_LOG_SCHEMA
from teamtr_jax.monitor.dumps import refuse_dump
from teamtr_jax.monitor.frames import is_table
from teamtr_jax.monitor.lines import AT_ONCE, numbers_of, read_lines
from teamtr_jax.monitor.log import (
    AGAIN,
    MATCH,
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
from teamtr_jax.monitor.parts import SUFFIXES, parts_of
from teamtr_jax.sampler_settings import Sampler, sampler_of
from teamtr_jax.sizes import require_room
from teamtr_jax.validation import InputError, real_number

__all__ = ["METADATA", "SAMPLER", "Head", "read_token_log", "read_stages", "read_parts", "read_head", "read_columns",
           "form_of"]  # fmt: skip

METADATA, SAMPLER = b"teamtr_token_log_schema", b"teamtr_sampler"
"""Keys of the metadata of a Parquet file: the schema, and how its tokens were drawn, as JSON."""
PIECEWISE = 250
"""Bytes of memory that reading in pieces and reporting take for a row (180 were measured)."""
PART = 2**20
"""Rows of a part that has several stages, at most."""
BLOCK = 2**16
"""Rows that are decoded and checked at once."""
BUFFER = 2**20
"""Bytes that are read at once."""

Progress = Callable[[int, int], None]
"""Is told how many rows are done, and how many there are."""


def read_token_log(path: Any, match: float = MATCH) -> TokenLog:
    """Read and check a log: JSON lines (``.jsonl``), Parquet (``.parquet``), or a folder of parts; or what is in memory already.

    Args:
      path: or a mapping of columns, a data frame, an Arrow table, a Hugging Face dataset (`token_log`).
      match: see `token_log`.

    Raises:
      InputError: names file, column and row of the first thing that is wrong, or the extra that is not installed.
    """
    if isinstance(path, Mapping) or is_table(path):
        return token_log(path, match=match)
    path, form = _tried(path)
    match = real_number("match", match, 0.0)
    if form == "jsonl":
        return read_lines(path, match)
    if form == "folder":
        return read_parts(path, [part.name for part in parts_of(path)], match)
    (log,) = _parquet_parts(path, match, _whole)
    return log


def read_parts(folder: Path | str, names: Iterable[str], match: float = MATCH) -> TokenLog:
    """Read and check some files of a folder of parts as one log, for instance those of a stage (`parts.parts_of`).

    Raises:
      InputError: see `read_token_log`; or they differ in their columns or in their sampler settings.
    """
    heads = _heads(folder := Path(folder), list(names))
    log = _joined_log(folder, heads, real_number("match", match, 0.0))
    require_tokens(str(folder), log.stage.size, log.rows)
    return log


def read_stages(path: Path | str, match: float = MATCH, progress: Progress | None = None) -> Iterator[TokenLog]:
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
    refuse_dump(path)
    if is_folder(path):
        return path, "folder"
    regular_file(path, "a token log")
    form = form_of(path)
    if path.stat().st_size == 0:
        raise InputError(str(path), "an empty file", "at least one token")
    return path, form


def form_of(path: Path) -> str:
    """Which of the two forms its suffix says."""
    if path.suffix not in SUFFIXES:
        raise InputError(str(path), f"suffix {path.suffix!r}", " or ".join(SUFFIXES))
    return SUFFIXES[path.suffix]


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
    about: dict[bytes, bytes]  #: the metadata


def _head(path: Path, file: Any) -> Head:
    """The footer of an open file."""
    names = _names(path, file, [*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL])
    about = dict(file.schema_arrow.metadata or {})
    return Head(path, names, _sampler(path, about), file.metadata.num_rows, about)


def _sampler(path: Path, about: Mapping[bytes, bytes]) -> Sampler | None:
    """The sampler settings in the metadata of a file."""
    written = about.get(SAMPLER)
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


def read_head(path: Path, expected: str = "a part of a token log") -> Head:
    """The footer of a file.

    Raises:
      InputError: no such file, a damaged one, or one with sampler settings that make no sense.
    """
    regular_file(path, expected)
    with _opened(path, footer=True) as file:
        return _head(path, file)


def read_columns(path: Path) -> tuple[Columns, Sampler | None]:
    """Every column of a Parquet file, as it is, and its sampler settings."""
    with _opened(path) as file:
        require_room(path, file.metadata.num_rows, AT_ONCE, "write another file")
        names = _names(path, file, file.schema_arrow.names)
        with _named(path):
            table = file.read(names)
            columns = {key: numbers_of(Origin(str(path), "row"), key, table.column(key)) for key in names}
        return columns, _head(path, file).sampler


def _whole(path: Path, file: Any) -> list[int]:
    """All rows as one part."""
    rows = file.metadata.num_rows
    require_room(path, rows, PIECEWISE, "sorted by stage it can be read in parts (read_stages)")
    return [rows]


def _stages(path: Path, file: Any) -> list[int]:
    """The rows of parts of whole stages, where the file is sorted by stage; otherwise one part."""
    rows = file.metadata.num_rows
    if rows <= PART or "stage" not in file.schema_arrow.names:
        return _whole(path, file)
    begins, first, last = [], 0, np.iinfo(np.int64).min
    with _named(path):
        for batch in file.iter_batches(BLOCK, columns=["stage"]):
            stage = np.r_[last, numbers_of(Origin(str(path), "row", first), "stage", batch.column(0))]
            if stage.dtype.kind != "i" or (stage[1:] < stage[:-1]).any():
                require_room(path, rows, PIECEWISE, "sort its rows by stage, and it is read stage by stage")
                return [rows]
            begins.append(first + np.flatnonzero(stage[1:] != stage[:-1]))
            first, last = first + batch.num_rows, stage[-1]
    ends = np.r_[np.concatenate(begins)[1:], rows]  # of every stage
    cuts = [0]
    while cuts[-1] < rows:
        here, fit = np.searchsorted(ends, [cuts[-1], cuts[-1] + PART], "right").tolist()
        cuts.append(int(ends[max(here, fit - 1)]))
    sizes = np.diff(cuts).tolist()
    require_room(path, max(sizes), PIECEWISE, "a stage has to fit, see docs/monitor.md")
    return sizes


def _parquet_parts(
    path: Path, match: float, cut: Callable[[Path, Any], list[int]], progress: Progress | None = None
) -> Iterator[TokenLog]:
    """The parts of a file, whose sizes `cut` says."""
    tokens = first = 0
    with _opened(path) as file:
        _, names, sampler, rows, _ = _head(path, file)
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
        columns = typed({key: numbers_of(here, key, piece.column(key)) for key in piece.schema.names}, here)
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
        heads.append(head := read_head(folder / name))
        require_tokens(str(head.path), head.rows, head.rows)
    return heads


def _folder_stages(folder: Path, match: float, progress: Progress | None = None) -> Iterator[TokenLog]:
    """The stages of a folder, one after the other; all footers are read first."""
    parts = parts_of(folder)
    heads = dict(zip(parts, _heads(folder, [part.name for part in parts]), strict=True))
    done = tokens = 0
    rows = sum(head.rows for head in heads.values())
    for _, group in itertools.groupby(heads, lambda part: part.stage):
        log = _joined_log(folder, [heads[part] for part in group], match)
        done, tokens = done + log.stage.size, tokens + log.rows
        yield log
        del log  # before the next one is made
        if progress is not None and done < rows:
            progress(done, rows)
    require_tokens(str(folder), rows, tokens)


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
    require_room(folder, starts[-1], PIECEWISE, "a stage has to fit, see docs/monitor.md")
    used: Columns = {}
    for at, (path, names, _, rows, _) in zip(starts, heads, strict=False):
        origin = Origin(str(path), "row")
        with _opened(path) as file:
            pieces = _pieces(path, file.iter_batches(BLOCK, columns=names), [rows])
            _fill(used, starts[-1], at, pieces, rows, origin)
        _as_named(path, used, slice(at, at + rows), origin)
    files = tuple((at, str(head.path)) for at, head in zip(starts, heads, strict=False))
    return log_of(used, Origin(str(folder), "row", 0, files), match, first.sampler)


def _said(sampler: Sampler | None) -> str:
    return "none" if sampler is None else json.dumps(sampler.to_json())


def _as_named(path: Path, used: Columns, rows: slice, origin: Origin) -> None:
    """Refuse rows of another stage or update than the name of their file says."""
    stage, update, *_ = map(int, path.stem.split("-"))
    for key, number in (("stage", stage), ("update", update)):
        if (bad := used[key][rows] != number).any():
            row = int(np.argmax(bad))
            raise InputError(origin.column(key, row), used[key][rows][row], f"{number}, as the name of the file says")
