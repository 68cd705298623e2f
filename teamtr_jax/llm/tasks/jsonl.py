"""A data set of one's own: JSON Lines with prompt and answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from teamtr_jax.files import reason, regular_file
from teamtr_jax.llm.tasks.answers import READERS, verified
from teamtr_jax.llm.tasks.base import Problem, is_held_out
from teamtr_jax.llm.tasks.word_task import solving_roles
from teamtr_jax.llm.text.role import Role
from teamtr_jax.validation import InputError, one_of, shown

__all__ = ["Row", "Rows", "read_rows", "JsonLines", "jsonl_task", "Verify"]

Verify = Callable[[Problem, Sequence[str]], float]

TRAINING, HELD = ("train", "training"), ("test", "validation", "valid", "dev", "eval", "held_out")
"""What a split may be called."""

LARGEST = 2**30
"""Most bytes of a file."""

FORMS = {"number": "the number", "choice": "one letter"}
LINE = 'one JSON object a line, such as {"prompt": "2 + 3?", "answer": "5"}'


class Row(NamedTuple):
    """One line."""

    problem: Problem
    held_out: bool
    line: int


class Rows(NamedTuple):
    """A file, read."""

    rows: tuple[Row, ...]
    digest: str  #: SHA-256 of its bytes


def read_rows(path: str | Path) -> Rows:
    """A file of JSON Lines: ``prompt`` and ``answer`` (texts; an answer may be a whole number), ``split`` in all lines or none.

    Without splits a prompt is held out by its hash (`is_held_out`), or as the first of those that differ in case and blanks
    alone. Other keys are left alone; so are empty lines.

    Raises:
      InputError: names file and line: no JSON object, a key missing or of another type, a prompt twice, or but for
        case and blanks in two splits, bytes that are not UTF-8; or a file without problems for training or without held-out ones.
    """
    path = regular_file(path, "a file of JSON Lines with prompt and answer")
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(str(path), f"{path.stat().st_size} bytes", f"at most {LARGEST}")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), reason(error), "a file of JSON Lines") from error
    rows: list[Row] = []
    first: dict[str, int] = {}
    kin: dict[str, Row] = {}
    splits: int | None = None
    for line, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        where = f"{path}, line {line}"
        if not raw.strip():
            continue
        content = _object(where, raw)
        problem = Problem(_text(where, content, "prompt"), _text(where, content, "answer", whole_too=True))
        if (before := first.setdefault(problem.prompt, line)) != line:
            raise InputError(where, f"the prompt of line {before} again", "each prompt once")
        if rows and ("split" in content) != (splits is not None):
            raise InputError(f"{where}: split", "one" if "split" in content else "none", "one in all lines or in none")
        splits = line if "split" in content else None
        held = _held(where, content["split"]) if "split" in content else is_held_out(problem.prompt)
        alike = kin.setdefault(" ".join(problem.prompt.casefold().split()), Row(problem, held, line))
        if splits and held != alike.held_out:
            found = f"{content['split']}, for the prompt of line {alike.line} but for case and blanks"
            raise InputError(f"{where}: split", found, "one split for both")
        rows.append(Row(problem, alike.held_out, line))
    if not rows:
        raise InputError(str(path), "no lines", LINE)
    for held, kind in ((False, "training"), (True, "held out")):
        if not any(row.held_out == held for row in rows):
            how = "by their splits" if splits else "by the hashes of their prompts"
            raise InputError(str(path), f"{len(rows)} prompts, none {kind} {how}", "both, or a split in every line")
    return Rows(tuple(rows), hashlib.sha256(data).hexdigest())


def _object(where: str, raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise InputError(where, f"byte {raw[error.start]:#04x} at {error.start}, which is not UTF-8", LINE) from error
    except (ValueError, RecursionError) as error:
        raise InputError(where, reason(error), LINE) from error
    if not isinstance(content, dict):
        raise InputError(where, shown(raw.decode(), 60), LINE)
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _text(where: str, content: dict[str, Any], key: str, whole_too: bool = False) -> str:
    if key not in content:
        raise InputError(f"{where}: {key}", f"none among {', '.join(content) or 'no keys'}", LINE)
    value = content[key]
    if whole_too and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{where}: {key}", shown(repr(value), 60), "a text that is not empty" + " or a whole number" * whole_too
        )
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise InputError(f"{where}: {key}", shown(repr(value), 60), "characters: half of a surrogate pair is none")
    return value


def _held(where: str, split: Any) -> bool:
    if not isinstance(split, str) or split not in TRAINING + HELD:
        raise InputError(f"{where}: split", repr(split), " or ".join(TRAINING + HELD))
    return split in HELD


@dataclass(frozen=True)
class JsonLines:
    """Problems of a file. `jsonl_task` makes one. Two are equal where their file, verifier and roles are."""

    name: str
    digest: str
    verifier: str
    roles: tuple[Role, ...]
    rows: tuple[Row, ...] = field(repr=False, compare=False)
    own: Verify | None = field(default=None, repr=False, compare=False)

    @property
    def turns(self) -> int:
        return len(self.roles)

    @cached_property
    def split(self) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
        """Problems for training, problems that are held out."""
        both = ([row.problem for row in self.rows if row.held_out == held] for held in (False, True))
        train, held = map(tuple, both)
        return train, held

    def listed(self, held_out: bool) -> tuple[Problem, ...]:
        return self.split[held_out]

    def sample(self, rng: np.random.Generator) -> Problem:
        return self.rows[int(rng.integers(len(self.rows)))].problem

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """1 if the answer of the last message is the problem's as `verifier` reads both, else 0; or the function of one's own."""
        if self.own is not None:
            return self.own(problem, messages)
        return verified(problem, messages, self.turns, READERS[self.verifier])


def jsonl_task(
    path: str | Path,
    verifier: str = "number",
    agents: int = 3,
    cap: int = 64,
    roles: Sequence[Role] | None = None,
    own: Verify | None = None,
) -> JsonLines:
    """A data set of one's own as a task; see `read_rows` for the file.

    Args:
      verifier: of `READERS`; with `own` what tells it apart from others, such as the SHA-256 of its file.
      roles: instead of those of `solving_roles`.
      own: the reward of a conversation, instead of a reader.

    Raises:
      InputError: a file that cannot be used, an unknown verifier, an answer that it cannot read.
    """
    if own is None:
        one_of("verifier", verifier, tuple(READERS))
    found = read_rows(path)
    if own is None:
        for row in found.rows:
            if READERS[verifier](row.problem.answer) is None:
                where = f"{path}, line {row.line}: answer"
                raise InputError(where, row.problem.answer, f"what the verifier {verifier!r} can read")
    speaking = solving_roles(agents, FORMS.get(verifier, "the answer"), cap) if roles is None else tuple(roles)
    return JsonLines(Path(path).name, found.digest, verifier, speaking, found.rows, own)
