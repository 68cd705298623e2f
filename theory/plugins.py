"""What a reader adds: claims, families of teams and rungs of their own, from one file or passed in."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any, NamedTuple

from teamtr_jax.bounds import Rung
from teamtr_jax.claims import STAGE_CLAIMS, Claim
from teamtr_jax.claims.base import rung_claim
from teamtr_jax.validation import InputError
from theory.families import FAMILIES, Family

__all__ = ["Plugins", "load"]

KINDS = {"RUNGS": Rung, "CLAIMS": Claim, "FAMILIES": Family}


class Plugins(NamedTuple):
    """Everything goes through the audit and the ledger beside what is built in."""

    rungs: tuple[Rung, ...] = ()  #: bounds; each is audited as the claim that it bounds its gap
    claims: tuple[Claim, ...] = ()  #: statements about one stage
    families: tuple[Family, ...] = ()  #: teams on which every claim is audited; `share` as in `theory.families`

    @property
    def all_claims(self) -> tuple[Claim, ...]:
        """Built-in claims, then the reader's own."""
        return (*STAGE_CLAIMS, *self.claims, *map(rung_claim, self.rungs))

    @property
    def all_families(self) -> tuple[Family, ...]:
        """Built-in families, then the reader's own."""
        return (*FAMILIES, *self.families)


def load(path: Path) -> Plugins:
    """Run a Python file and take its `RUNGS`, `CLAIMS` and `FAMILIES` (each optional, at least one).

    Raises:
      InputError: no such file, none of the three names, something else in them, or an id or name that is taken.
    """
    if not path.is_file():
        raise InputError("--plugin", f"no file {path}", "a Python file")
    names: dict[str, Any] = runpy.run_path(str(path))
    if not KINDS.keys() & names.keys():
        raise InputError("--plugin", f"{path} without {', '.join(KINDS)}", "at least one of them")
    found: dict[str, tuple[Any, ...]] = {}
    for name, kind in KINDS.items():
        found[name] = tuple(names.get(name, ()))
        for x in found[name]:
            if not isinstance(x, kind):
                raise InputError(f"{path}: {name}", type(x).__name__, kind.__name__)
    plugins = Plugins(found["RUNGS"], found["CLAIMS"], found["FAMILIES"])
    for what, taken in (("id", [c.id for c in plugins.all_claims]), ("family", [f.name for f in plugins.all_families])):
        double = sorted({x for x in taken if taken.count(x) > 1})
        if double:
            raise InputError(f"{path}: {what}", f"{double[0]} twice", "one of its own")
    return plugins
