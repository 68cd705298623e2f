"""Token logs: what a trainer writes (docs/records.md, token log, schema 1)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.files import append_bytes, output_file, regular_file, replacing
from teamtr_jax.formats import TOKEN_LOG_COLUMNS, TOKEN_LOG_OPTIONAL, TOKEN_LOG_SCHEMA
from teamtr_jax.monitor.lines import HEADER, read_header
from teamtr_jax.monitor.log import AGAIN, LOG_PROBABILITIES, as_array, optional_import, token_log
from teamtr_jax.monitor.reading import METADATA, SAMPLER, form_of, read_columns
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError

__all__ = ["token_rows", "write_token_log", "append_token_log", "write_parquet"]

ABSENT = {"t": -1, "token": -1, **dict.fromkeys(LOG_PROBABILITIES, 0.0)}
"""What stands in the one row of a rollout without token."""


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
    kept = as_array("mask", mask)
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
        array = as_array(key, value)
        if array.shape not in ((), kept.shape[:1], kept.shape):
            raise InputError(key, f"shape {list(array.shape)}", f"{list(kept.shape)}, [{kept.shape[0]}] or one value")
        one = array.shape != kept.shape
        array = np.broadcast_to(array[:, None] if array.ndim == 1 else array, kept.shape)
        out[key] = array[row]
        if key == AGAIN:  # scored twice or not, whatever the mask keeps
            absent_here = absent & ~np.isnan(out[key])
            out[key] = np.where(absent_here, np.zeros((), array.dtype), out[key])
        elif key in ABSENT:
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


def write_token_log(
    path: Path | str, table: Mapping[str, ArrayLike], check: bool = True, sampler: Sampler | None = None
) -> Path:
    """Write columns as a log, whole or not at all: into a temporary file beside it that is then renamed.

    Parquet has a checksum in every page.

    Args:
      path: ``.jsonl`` or ``.parquet``; links are followed.
      table: `formats.TOKEN_LOG_COLUMNS`, and any further columns of the same length.
      check: refuse what `read_token_log` would refuse.
      sampler: how the tokens were drawn.

    Raises:
      InputError: see `token_log`; or the place cannot be written.
    """
    path = Path(path)
    form = form_of(path)
    output_file(str(path), path)
    if check:
        token_log(table, str(path))
    with replacing(path) as temporary:
        if form == "parquet":
            write_parquet(temporary, table, sampler)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                if sampler is not None:
                    header = {HEADER: TOKEN_LOG_SCHEMA, "sampler": sampler.to_json()}
                    file.write(json.dumps(header) + "\n")
                file.writelines(_lines(table))
    return path


def write_parquet(
    path: Path, table: Mapping[str, ArrayLike], sampler: Sampler | None, about: Mapping[str, str] | None = None
) -> None:
    """Columns as Parquet, with a checksum in every page.

    Args:
      about: further metadata of the file.
    """
    pa, parquet = optional_import("pyarrow"), optional_import("pyarrow.parquet")
    metadata = {METADATA: str(TOKEN_LOG_SCHEMA), **(about or {})}
    if sampler is not None:
        metadata[SAMPLER] = json.dumps(sampler.to_json())
    columns = pa.table({key: np.asarray(value) for key, value in table.items()})
    parquet.write_table(columns.replace_schema_metadata(metadata), path, write_page_checksum=True)


def append_token_log(
    path: Path | str, table: Mapping[str, ArrayLike], check: bool = True, sampler: Sampler | None = None
) -> Path:
    """Add rows to a log. JSON lines: at its end, all or none. Parquet: the file is written again, whole or not at all.

    Rows are checked among themselves; that they fit the rows before is checked by `read_token_log`.

    Args:
      sampler: how the tokens were drawn; `None`: as those that are there.

    Raises:
      InputError: see `write_token_log`; other columns or sampler settings than the file has; its last line is cut off.
    """
    path = Path(path)
    form = form_of(path)
    output_file(str(path), path)
    if not path.exists() or path.stat().st_size == 0:
        return write_token_log(path, table, check, sampler)
    regular_file(path, "a token log")
    if check:
        token_log(table, str(path))
    if form == "parquet":
        old, there = read_columns(path)
        _same_columns(path, table, old)
        _same_sampler(path, sampler, there)
        joined = {key: np.concatenate([old[key], np.asarray(table[key])]) for key in table}
        return write_token_log(path, joined, check=False, sampler=there)
    skip, there = read_header(path)
    _same_sampler(path, sampler, there)
    if skip == path.stat().st_size:  # no rows yet
        end = "" if path.read_bytes().endswith(b"\n") else "\n"
        append_bytes(path, (end + "".join(_lines(table))).encode())
        return path
    first, last, ended = _ends(path, skip)
    known = {*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL}
    _same_columns(path, known & set(table), known & set(first))
    if last is None:
        raise InputError(f"{path}: last line", "cut off", "a JSON object; cut the file back to its last whole line")
    append_bytes(path, (("" if ended else "\n") + "".join(_lines(table))).encode())
    return path


def _same_sampler(path: Path, here: Sampler | None, there: Sampler | None) -> None:
    """Refuse rows that were drawn in another way than those of the file."""
    if here is not None and here != there:
        found, expected = ("none" if x is None else json.dumps(x.to_json()) for x in (here, there))
        raise InputError(f"{path}: sampler settings", found, f"{expected}, as in the file")


def _same_columns(path: Path, here: Iterable[str], there: Iterable[str]) -> None:
    """Refuse rows of other columns than the file has."""
    if sorted(here) != sorted(there):
        raise InputError(f"{path}: columns", ", ".join(sorted(here)), ", ".join(sorted(there)) or "rows in the file")


def _ends(path: Path, skip: int) -> tuple[dict[str, Any], dict[str, Any] | None, bool]:
    """The first and the last line of JSON lines, `None` for a last one that is cut off; whether a line break follows it.

    Args:
      skip: bytes of a header.
    """
    with path.open("rb") as file:
        file.seek(skip)
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
    missing = np.isnan(column) if key == AGAIN else np.zeros(column.shape, bool)
    if column.dtype.kind == "f" and not (np.isfinite(column) | missing).all():
        raise InputError(f"column {key}", "NaN or infinity", "finite numbers: JSON has no others")
    if missing.any():
        return ["null" if none else repr(x) for x, none in zip(column.tolist(), missing, strict=True)]
    return list(map(repr if column.dtype.kind in "iuf" else json.dumps, column.tolist()))
