"""Data frames in and out: pandas, polars, Arrow, Hugging Face datasets; none of them is needed (docs/frames.md)."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.formats import TOKEN_LOG_COLUMNS, TOKEN_LOG_OPTIONAL
from teamtr_jax.validation import InputError, one_of

__all__ = ["is_table", "columns_of", "without_nulls", "flat", "frame_of"]

NULLABLE = ("logp_again",)
"""Columns in which a value may be missing: it is NaN."""
KINDS = ("pandas", "polars")
OTHER_NAMES = {"mean_weight_low": "mean_weight_below_one", "mean_weight_high": "mean_weight_above_one"}
"""Of keys that have the names of the ends of an interval: the others are those of `mean_weight`."""


def is_table(log: object) -> bool:
    """Whether this is a data frame, an Arrow table or a Hugging Face dataset: what hands over its columns as Arrow does."""
    return hasattr(log, "__arrow_c_stream__") or _is_dataset(log)


def _is_dataset(log: object) -> bool:
    return hasattr(log, "with_format") and hasattr(log, "column_names") and hasattr(log, "features")


def columns_of(log: Any, name: str = "log") -> Mapping[str, ArrayLike]:
    """The columns of a mapping, as they are, or of a table (`is_table`), those that a token log knows.

    Raises:
      InputError: something else; a column twice; a value that is missing, elsewhere than in `logp_again`; no pyarrow.
    """
    if isinstance(log, Mapping):
        return log
    if not is_table(log):
        expected = "a mapping of columns, a DataFrame (pandas, polars), an Arrow table or a Hugging Face Dataset"
        raise InputError(name, type(log).__name__, expected)
    pa = _imported("pyarrow")
    if _is_dataset(log):
        if isinstance(getattr(log, "column_names", None), Mapping) or not hasattr(log, "__len__"):
            raise InputError(name, type(log).__name__, "one split that is loaded: dataset['train']")
        log = log.with_format("arrow")[:]  # rows that were chosen or shuffled are those, in that order
    table = pa.table(log)
    known = [key for key in table.column_names if key in (*TOKEN_LOG_COLUMNS, *TOKEN_LOG_OPTIONAL)]
    if twice := [key for key in known if known.count(key) > 1]:
        raise InputError(f"{name}: columns", f"{twice[0]} twice", "each column once")
    if not set(TOKEN_LOG_COLUMNS) <= set(known):
        known = table.column_names  # what there is, for the message
        return dict.fromkeys(known, np.zeros(0, np.int64))

    def numbers(key: str) -> NDArray[Any]:
        return without_nulls(table.column(key), lambda row: f"{name}: column {key}, row {row + 1}", key in NULLABLE)

    return {key: numbers(key) for key in known}


def without_nulls(column: Any, where: Callable[[int], str], nullable: bool) -> NDArray[Any]:
    """A column of Arrow's; a value that is missing is NaN where it may be, and refused elsewhere.

    Args:
      where: the name of a row, from 0, for the message.
    """
    if column.null_count:
        if not nullable:
            raise InputError(where(int(np.argmax(column.is_null().to_numpy(False)))), "no value", "a number")
        column = column.cast("float64")
    return column.to_numpy(zero_copy_only=False)


def _imported(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(package, "no such package", f"an installed {package}: pip install {package}") from None


# ------------------------------------------------------------------------------------------------------------------ out


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an update with one value in every key.

    An interval is three: `key` (its value), `key_low`, `key_high`. Of any other mapping every entry is one, `key_entry`. Agents
    are text, `0+1`; other lists are JSON. `OTHER_NAMES` are of what would have the name of an interval's end.

    Example:
      >>> flat({"update": 1, "agents": [0, 1], "kl": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 8}, "w": {"ess": 0.9}})
      {'update': 1, 'agents': '0+1', 'kl': 0.5, 'kl_low': 0.4, 'kl_high': 0.6, 'w_ess': 0.9}
    """
    out: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping) and "value" in value:
            out |= {key: value["value"], f"{key}_low": value["low"], f"{key}_high": value["high"]}
        elif isinstance(value, Mapping):
            out |= flat({f"{key}_{name}": entry for name, entry in value.items()})
        elif isinstance(value, Sequence) and not isinstance(value, str):
            whole = all(isinstance(entry, int) for entry in value)
            out[key] = "+".join(map(str, value)) if whole else json.dumps(list(value), default=str)
        else:
            out[OTHER_NAMES.get(key, key)] = value
    return out


def frame_of(records: Iterable[Mapping[str, Any]], kind: str = "pandas") -> Any:
    """A data frame with one row for every record (`flat`).

    An interval that some records lack keeps its three columns; what a record has not is missing (NaN, null).

    Args:
      kind: pandas or polars, whichever is installed.

    Raises:
      InputError: another kind; or it is not installed.
    """
    one_of("kind", kind, KINDS)
    library = _imported(kind)
    rows = [flat(record) for record in records]
    names = _names(rows)
    return library.DataFrame({name: _filled([row.get(name) for row in rows]) for name in names})


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """The columns of all rows: each behind the one that it follows where it is first seen."""
    names: list[str] = []
    for row in rows:
        before = -1
        for name in row:
            if name not in names:
                names.insert(before + 1, name)
            before = names.index(name)
    return names


def _filled(values: list[Any]) -> list[Any]:
    """One type for the numbers of a column: some whole and some not would be two."""
    if any(isinstance(value, float) for value in values):
        return [value if value is None else float(value) for value in values]
    return values
