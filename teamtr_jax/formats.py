"""Versioned schemas of everything written (docs/records.md). Strict JSON: infinities are strings, NaN is an error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["REPORT_SCHEMA", "LEDGER_SCHEMA", "UPDATE_SCHEMA", "TOKEN_LOG_SCHEMA", "TOKEN_LOG_COLUMNS", "TOKEN_LOG_OPTIONAL",
           "dump"]  # fmt: skip

REPORT_SCHEMA = 1
LEDGER_SCHEMA = 1
UPDATE_SCHEMA = 1
TOKEN_LOG_SCHEMA = 1
TOKEN_LOG_COLUMNS = (
    "prompt", "rollout", "stage", "update", "agent", "turn", "t", "logp_behaviour", "logp_current", "logp_new", "reward",
)  # fmt: skip
TOKEN_LOG_OPTIONAL = ("source", "token", "updated", "logp_deployed", "logp_again", "schema")


def dump(record: Mapping[str, Any]) -> str:
    """One line of strict JSON: `∞` as ``"inf"``, `−∞` as ``"-inf"``.

    Raises:
      ArithmeticError: if a number is NaN, with its key.

    Example:
      >>> dump({"kl": [0.5, float("inf")]})
      '{"kl": [0.5, "inf"]}'
    """

    def plain(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: plain(name, item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(key, item) for item in value]
        if isinstance(value, float) and math.isnan(value):
            raise ArithmeticError(f"{key}: not a number (the linear solve did not succeed)")
        if isinstance(value, float) and math.isinf(value):
            return "inf" if value > 0 else "-inf"
        return value

    return json.dumps(plain("", dict(record)), allow_nan=False)
