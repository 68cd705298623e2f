"""Token logs that are still written: what is new, stage by stage, in the memory of the stages that are not finished."""

from __future__ import annotations

import functools
import io
import itertools
import json
import operator
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.files import is_folder, reason, regular_file
from teamtr_jax.formats import TOKEN_LOG_COLUMNS, TOKEN_LOG_OPTIONAL
from teamtr_jax.monitor.lines import HEAD, bad_line, decoded_lines, read_header
from teamtr_jax.monitor.log import AGAIN, Columns, Origin, TokenLog, check_values, log_of, optional_import, typed
from teamtr_jax.monitor.parts import Part, parts_of
from teamtr_jax.monitor.reading import PIECEWISE, form_of, read_parts
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.sizes import require_room
from teamtr_jax.validation import InputError, real_number

__all__ = ["Growing", "Lines", "Parts", "Place", "growing", "until"]

BLOCK = 2**24
"""Bytes of JSON lines that are decoded at once."""

RECENT = 3
"""A process that wrote nothing of so many updates, the newest ones, is not waited for."""
TAIL = 2**14
"""Bytes at the end of what was read, by which a file that was replaced is known. The footer of a part takes 4,000."""

Place = tuple[int, int]
"""Stage and update."""


def until(log: TokenLog, update: int, match: float) -> TokenLog:
    """A log of one stage as it was when this update was the last one."""
    if update >= int(log.update[-1]):
        return log
    columns = log.columns()
    kept = columns["update"] <= update
    return log_of({key: x[kept] for key, x in columns.items()}, Origin("log", "row"), match, log.sampler)


# ----------------------------------------------------------------------------------------------------------- JSON lines


class _Block(NamedTuple):
    """Checked rows of one stage, as they stand in the file."""

    stage: int
    first: int  #: lines of the file before them
    columns: Columns


class Lines:
    """JSON lines whose stages ascend. A line without its end waits; the rows of the newest stage are held."""

    def __init__(self, path: Path, match: float):
        self.name, self._path, self._match = str(path), path, match
        self._done = self._lines = 0  # bytes and lines that were read
        self._seen = 0  # bytes that were there when they were
        self._last = b""  # of those that were read, the last ones
        self._sampler: Sampler | None = None
        self._names: set[str] = set()
        self._blocks: list[_Block] = []  # of the newest stage
        self._frontier: Place | None = None
        self._ended = False

    @property
    def frontier(self) -> Place | None:
        """Updates before it are whole: later ones have begun."""
        return self._frontier

    @property
    def held(self) -> int:
        """Rows that are in memory between two looks."""
        return sum(block.columns["stage"].size for block in self._blocks)

    def grown(self) -> bool:
        """Whether there is more than at the last time; of a line without its end, whether that grew."""
        size, seen = regular_file(self._path, "a token log").stat().st_size, self._seen
        if size < self._done:
            raise self._replaced(f"{size} bytes, after {self._done} were read")
        self._seen = size
        return size > seen or (self._ended and size > self._done)

    def _replaced(self, found: str) -> InputError:
        return InputError(self.name, found, "a file that grows: it was cut or replaced, begin again")

    def end(self) -> None:
        """A last line without a line break is one if it is whole."""
        self._ended = True

    def finished(self) -> Iterator[TokenLog]:
        """Read what is new: each stage that is complete, once; nothing is kept of it."""
        while data := self._next():
            for block in self._decoded(data):
                if self._blocks and block.stage < self._blocks[-1].stage:
                    where = Origin(self.name, "line", block.first).column("stage", 0)
                    expected = f"at least {self._blocks[-1].stage}, as before: stages ascend in a log that is followed"
                    raise InputError(where, block.stage, expected)
                if self._blocks and block.stage > self._blocks[-1].stage:
                    log, self._blocks = self._log(), []
                    yield log
                    del log  # before the next one is made
                self._blocks.append(block)
                require_room(self._path, self.held, PIECEWISE, "a stage has to fit, see docs/monitor.md")
                place = block.stage, int(block.columns["update"].max())
                self._frontier = max(self._frontier or place, place)

    def current(self) -> list[TokenLog]:
        """The newest stage as far as it is written."""
        return [self._log()] if self._blocks else []

    def _next(self) -> bytes:
        """The next whole lines, some of them."""
        with self._path.open("rb") as file:
            if not self._done:
                self._done, self._sampler = self._header(file)
                self._lines = int(self._done > 0)
            file.seek(self._done - len(self._last))
            if file.read(len(self._last)) != self._last:
                raise self._replaced("other lines than were read")
            data = file.read(BLOCK)
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) >= HEAD:
            raise InputError(
                f"{self.name}: line {self._lines + 1}", f"no line break in {HEAD} bytes", "one JSON object per line"
            )
        if whole < len(data) < BLOCK and self._ended and _is_json(data[whole:]):
            whole = len(data)
        self._done += whole
        self._last = data[:whole][-TAIL:] or self._last
        return data[:whole]

    def _header(self, file: Any) -> tuple[int, Sampler | None]:
        """`read_header`, once the first line is there."""
        return read_header(self._path) if file.readline(HEAD).endswith(b"\n") else (0, None)

    def _decoded(self, data: bytes) -> Iterator[_Block]:
        """The rows of whole lines, split where the stage changes."""
        origin = Origin(self.name, "line", self._lines)
        pa = optional_import("pyarrow")
        self._lines += data.count(b"\n")
        if not data.strip():
            return
        try:
            found = decoded_lines(io.BytesIO(data), origin)
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
            wrong = bad_line(data.decode(errors="replace").split("\n"), self.name, origin.first)
            raise (wrong or InputError(self.name, reason(error), "one JSON object per line")) from error
        columns = typed(found, origin)
        check_values(columns, origin)
        self._same_columns(columns, origin)
        stage = columns["stage"]
        cuts = [0, *(np.flatnonzero(np.diff(stage)) + 1).tolist(), stage.size]
        for a, b in itertools.pairwise(cuts):
            yield _Block(int(stage[a]), origin.first + a, {key: x[a:b].copy() for key, x in columns.items()})

    def _same_columns(self, columns: Columns, origin: Origin) -> None:
        """Refuse lines that have other columns than those before."""
        names = {*columns} - {AGAIN}
        if not self._names:
            self._names = names
        for key in (*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL):
            if key in names ^ self._names:
                found, expected = ("no value", "a number") if key in self._names else ("values", "none")
                raise InputError(origin.column(key, 0), found, f"{expected}, as in the lines before")

    def _log(self) -> TokenLog:
        """The newest stage."""
        keys = dict.fromkeys(key for block in self._blocks for key in block.columns)
        used = {key: np.concatenate([_column(block.columns, key) for block in self._blocks]) for key in keys}
        return log_of(used, Origin(self.name, "line", self._blocks[0].first), self._match, self._sampler)


def _column(columns: Columns, key: str) -> NDArray[Any]:
    """A column of a block; NaN where the block has none, which `logp_again` alone may lack."""
    return columns[key] if key in columns else np.full(columns["t"].size, np.nan)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# ------------------------------------------------------------------------------------------------------ folders of parts


class Parts:
    """A folder of parts. The newest stages are read again when a part of them is new; no rows are held.

    A stage is complete when every process that writes has begun a later one. A process that wrote nothing in the two newest
    stages writes no more; an update does not wait for one that wrote nothing in the three newest either, as where training goes
    on with fewer.
    """

    def __init__(self, folder: Path, match: float):
        self.name, self._folder, self._match = str(folder), folder, match
        self._known: dict[Part, int] = {}  # of the stages that are not complete, and a digest of each
        self._done = -1, 0  # of those that are: the last stage, and a digest of their parts

    @property
    def frontier(self) -> Place | None:
        """Updates before it are whole: every process has begun a later one."""
        return self._begun(lambda part: part[:2], RECENT)

    def _begun(self, of: Callable[[Part], Any], recent: int) -> Any:
        """What every process has begun that wrote something of the newest `recent`; `None` where nothing is there."""
        newest = {part.process: of(part) for part in self._known}
        last = sorted({of(part) for part in self._known})[-recent:]
        return min((x for x in newest.values() if x in last), default=None)

    @property
    def held(self) -> int:
        """Rows that are in memory between two looks."""
        return 0

    def grown(self) -> bool:
        """Whether there are other parts of the newest stages than were read, by name or by content."""
        found = {part: _content(self._folder / part.name) for part in parts_of(self._folder)}
        last, digest = self._done
        if _digest(item for item in found.items() if item[0].stage <= last) != digest:
            raise InputError(
                self.name, f"other parts of stages up to {last} than were read", "finished stages: begin again"
            )
        known, self._known = self._known, {part: x for part, x in found.items() if part.stage > last}
        return self._known != known

    def finished(self) -> Iterator[TokenLog]:
        """Read what is new: each stage that is complete, once."""
        self.grown()
        while self._known and (stage := next(iter(self._known)).stage) < self._begun(lambda part: part.stage, 2):
            here = {part: x for part, x in self._known.items() if part.stage == stage}
            yield read_parts(self._folder, [part.name for part in here], self._match)
            self._done = stage, self._done[1] ^ _digest(here.items())
            self._known = {part: x for part, x in self._known.items() if part not in here}

    def current(self) -> list[TokenLog]:
        """The stages that are not complete, as far as they are written."""
        stages = itertools.groupby(self._known, lambda part: part.stage)
        return [read_parts(self._folder, [part.name for part in here], self._match) for _, here in stages]

    def end(self) -> None:
        """Nothing more will be written."""


def _digest(parts: Iterable[tuple[Part, int]]) -> int:
    """Another number where other parts are there; that of two lists is `^` of theirs."""
    return functools.reduce(operator.xor, map(hash, parts), 0)


def _content(path: Path) -> int:
    """Of a part another number where it was written anew: its end has the least and the greatest value of each column."""
    with suppress(OSError):  # set aside this moment: the next look finds it gone
        found = path.stat()
        return _end(path, found.st_ino, found.st_mtime_ns, found.st_size)
    return 0


@functools.lru_cache(2**17)
def _end(path: Path, inode: int, changed: int, size: int) -> int:
    with path.open("rb") as file:
        file.seek(max(size - TAIL, 0))
        return zlib.crc32(file.read(), size)


# ---------------------------------------------------------------------------------------------------------------- either

Growing = Lines | Parts
"""What is followed. Both have: `grown`, whether there is more than was read; `finished`, which reads it and gives each stage that
is complete, once; `current`, the stages that are not; `frontier`, before which updates are whole; `held`, rows in memory."""


def growing(path: Path | str, match: float = 1e-4) -> Growing:
    """A file of JSON lines, or a folder that `LogWriter` writes, to be followed; empty is allowed.

    Raises:
      InputError: nothing there, or a single Parquet file, which is written anew each time.
    """
    path = Path(path)
    match = real_number("match", match, 0.0)
    if is_folder(path):
        return Parts(path, match)
    regular_file(path, "a token log")
    if form_of(path) != "jsonl":
        raise InputError(str(path), "one Parquet file", "JSON lines or a folder of parts: such a file does not grow")
    return Lines(path, match)
