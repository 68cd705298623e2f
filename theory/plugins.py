"""What a reader adds: claims, families of teams and rungs of their own, from one file or passed in."""

from __future__ import annotations

import hashlib
import runpy
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from teamtr_jax.bounds import BOTH, Form, Gap, Information, Rung
from teamtr_jax.claims import STAGE_CLAIMS, Check, Claim
from teamtr_jax.claims.base import rung_claim
from teamtr_jax.files import reason, regular_file
from teamtr_jax.sizes import bytes_text, memory
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import Stage, StageReport, verified
from teamtr_jax.validation import InputError
from theory.families import FAMILIES, Family

__all__ = ["Plugins", "load"]

KINDS = {"RUNGS": Rung, "CLAIMS": Claim, "FAMILIES": Family}


class Plugins(NamedTuple):
    """Everything goes through the audit and the ledger beside what is built in."""

    rungs: tuple[Rung, ...] = ()  #: bounds; each is audited as the claim that it bounds its gap
    claims: tuple[Claim, ...] = ()  #: statements about one stage
    families: tuple[Family, ...] = ()  #: teams on which every claim is audited; `share` as in `theory.families`
    source: str = ""  #: SHA-256 of the file they come from: what is resumed was made by the same one

    @property
    def all_claims(self) -> tuple[Claim, ...]:
        """Built-in claims, then the reader's own."""
        return (*STAGE_CLAIMS, *self.claims, *map(rung_claim, self.rungs))

    @property
    def all_families(self) -> tuple[Family, ...]:
        """Built-in families, then the reader's own."""
        return (*FAMILIES, *self.families)


TRIED = 20
"""Stages of each form on which rungs and claims are tried before the work."""

TRIED_STAGES = 2
"""Stages of a reader's family that are made and looked at before the work."""

FORMS: dict[str, str] = {"discounted": "small", "episodic": "episodic"}


def _one_of(name: str, value: object, known: tuple[Any, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        raise InputError(name, repr(value), "one of " + ", ".join(known))


LONGEST = 300
"""Characters of a name or statement."""

MOST_SHARE = 1e6


def _named(name: str, value: object, empty: bool = False) -> None:
    if not isinstance(value, str) or not (value or empty) or not value.isprintable() or len(value) > LONGEST:
        raise InputError(name, repr(value), f"a text of at most {LONGEST} characters, in one line")


def _fields(name: str, x: Rung | Claim | Family) -> None:
    """Refuse fields of another type or range than their record says."""
    call = {Rung: "fn", Claim: "check", Family: "make"}[type(x)]
    if not callable(getattr(x, call)):
        raise InputError(f"{name}: {call}", type(getattr(x, call)).__name__, "a function")
    if isinstance(x, Family):
        _named(f"{name}: sizes", x.sizes, empty=True)
        share = x.share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= MOST_SHARE:
            raise InputError(f"{name}: share", repr(share), f"a positive number, at most {MOST_SHARE:g}")
        if x.chunk is not None and (isinstance(x.chunk, bool) or not isinstance(x.chunk, int) or x.chunk < 1):
            raise InputError(f"{name}: chunk", repr(x.chunk), "None or an integer, at least 1")
        if not isinstance(x.without, tuple | list) or not all(isinstance(id_, str) for id_ in x.without):
            raise InputError(f"{name}: without", repr(x.without), "ids of claims")
        return
    if not isinstance(x.forms, tuple) or not x.forms:
        raise InputError(f"{name}: forms", repr(x.forms), "a tuple of " + ", ".join(get_args(Form)))
    for form in x.forms:
        _one_of(f"{name}: forms", form, get_args(Form))
    if isinstance(x, Rung):
        _named(f"{name}: id", x.id)
        _one_of(f"{name}: gap", x.gap, get_args(Gap))
        _one_of(f"{name}: information", x.information, get_args(Information))
    else:
        for field in ("statement", "source"):
            _named(f"{name}: {field}", getattr(x, field))
        for field in ("tight", "words"):
            _named(f"{name}: {field}", getattr(x, field), empty=True)


def _ran(name: str, expected: str, f: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return f(*arguments)
    except InputError as error:
        raise InputError(f"{name}: {error.name}", error.found, error.expected) from error
    except (Exception, SystemExit) as error:
        raise InputError(name, f"{type(error).__name__}: {reason(error)}", expected) from error


def _try_rung(name: str, rung: Rung, stages: Stage, reports: StageReport) -> None:
    del stages
    agents = reports.gap_fresh.shape[1]
    out = _ran(name, "a function of a report", jax.vmap(rung.fn), reports)
    if not isinstance(out, jax.Array) or out.shape[1:] != (agents,) or out.dtype != jnp.float64:
        found = f"{out.dtype}{list(out.shape[1:])}" if isinstance(out, jax.Array) else type(out).__name__
        raise InputError(name, found, f"float64[{agents}], a number for each of {agents} updates")
    if np.isnan(out).any():
        raise InputError(name, "NaN", "a bound, which may be infinite")


def _try_claim(name: str, claim: Claim, stages: Stage, reports: StageReport) -> None:
    out = _ran(name, "a function of a stage and its report", jax.vmap(claim.check), stages, reports)
    if not isinstance(out, dict) or not all(isinstance(k, str) and isinstance(x, Check) for k, x in out.items()):
        raise InputError(name, type(out).__name__, "a dict of named checks")
    if not out:
        raise InputError(name, "no checks", "at least one for every form that it names")
    for key, check in out.items():
        for field, x in check._asdict().items():
            if x is not None and getattr(x, "dtype", None) != jnp.float64:
                raise InputError(f"{name}: {key} {field}", f"dtype {getattr(x, 'dtype', type(x).__name__)}", "float64")
            if x is not None and np.isnan(x).any():
                raise InputError(f"{name}: {key} {field}", "NaN", "numbers, which may be infinite")
        if (np.asarray(check.budget) < 0).any():
            raise InputError(f"{name}: {key} budget", f"{np.min(check.budget)}", "a rounding budget, at least 0")
        _ran(f"{name}: {key}", "sides of one shape", jnp.broadcast_shapes, *(x.shape for x in check if x is not None))


def _made(name: str, make: Callable[[np.random.Generator, int], Stage], rng: np.random.Generator, count: int) -> Stage:
    """What `make` makes, looked at: however its stages were put together, they are stages.

    Raises:
      InputError: names the family, and the field that is wrong.
    """
    made = _ran(name, "a function of a generator and a number", make, rng, count)
    if not isinstance(made, Stage):
        raise InputError(name, type(made).__name__, "a Stage, a batch of them along the first axis")
    shapes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(made)}
    if shapes != {(count,)}:
        raise InputError(name, f"first axes of {sorted(shapes)}", f"{count}, as many stages as asked for")
    return _ran(name, "stages", verified, made)


def _try_family(name: str, family: Family) -> None:
    made = family.make(np.random.default_rng(0), TRIED_STAGES)
    one = sum(leaf.nbytes for leaf in jax.tree.leaves(made)) // TRIED_STAGES
    if one * (family.chunk or 1) > (room := memory()):
        found = f"{family.chunk}: {bytes_text(one * (family.chunk or 1))}"
        raise InputError(f"{name}: chunk", found, f"at most {room // one}, for {bytes_text(room)} of memory")
    _ran(name, "stages", partial(jax.eval_shape, jax.vmap(stage_report)), made)


@cache
def _trial(form: Form) -> tuple[Stage, StageReport]:
    make = next(family.make for family in FAMILIES if family.name == FORMS[form])
    stages = make(np.random.default_rng(0), TRIED)
    return stages, jax.jit(jax.vmap(stage_report), compiler_options={"xla_backend_optimization_level": 0})(stages)


def _tried(where: str, plugins: Plugins) -> None:
    """Run every function once.

    Raises:
      InputError: names the one that fails, or returns something else.
    """
    for family in plugins.families:
        _try_family(f"{where}: FAMILIES: {family.name}", family)
    for form in BOTH:
        rungs = [rung for rung in plugins.rungs if form in rung.forms]
        claims = [claim for claim in plugins.claims if form in claim.forms]
        if not rungs and not claims:
            continue
        stages, reports = _trial(form)
        for rung in rungs:
            _try_rung(f"{where}: RUNGS: {rung.name}", rung, stages, reports)
        for claim in claims:
            _try_claim(f"{where}: CLAIMS: {claim.id}", claim, stages, reports)


def load(path: Path) -> Plugins:
    """Run a Python file and take its `RUNGS`, `CLAIMS` and `FAMILIES` (each optional, at least one); try every function once.

    Raises:
      InputError: no such file, one that does not run, none of the three names, something else in them, an id or name that is
        taken, a function that fails or returns something else than it should.
    """
    path = regular_file(path, "a Python file")
    expected = "a Python file that runs"
    try:
        names: dict[str, Any] = runpy.run_path(str(path))
    except SyntaxError as error:
        raise InputError("--plugin", f"{path}, line {error.lineno or 1}: {error.msg}", expected) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # code of somebody else: SystemExit and exceptions of its own too
        raise InputError(
            "--plugin", f"{path}, which ends with {type(error).__name__}: {reason(error)}", expected
        ) from error
    if not KINDS.keys() & names.keys():
        raise InputError("--plugin", f"{path} without {', '.join(KINDS)}", "at least one of them")
    found: dict[str, tuple[Any, ...]] = {}
    for name, kind in KINDS.items():
        given = names.get(name, ())
        if not isinstance(given, tuple | list):
            raise InputError(f"{path}: {name}", type(given).__name__, f"a list of {kind.__name__}")
        found[name] = tuple(given)
        for x in found[name]:
            if not isinstance(x, kind):
                raise InputError(f"{path}: {name}", type(x).__name__, kind.__name__)
            key = "id" if kind is Claim else "name"
            _named(f"{path}: {name}: {key}", getattr(x, key))
            _fields(f"{path}: {name}: {getattr(x, key)}", x)
    if not any(found.values()):
        raise InputError("--plugin", f"{path} with nothing in {', '.join(KINDS)}", "at least one record")
    source = hashlib.sha256(path.read_bytes()).hexdigest()
    families = tuple(
        family._replace(make=partial(_made, f"{path}: FAMILIES: {family.name}", family.make))
        for family in found["FAMILIES"]
    )
    plugins = Plugins(found["RUNGS"], found["CLAIMS"], families, source)
    for what, taken in (("id", [c.id for c in plugins.all_claims]), ("family", [f.name for f in plugins.all_families])):
        double = sorted({x for x in taken if taken.count(x) > 1})
        if double:
            raise InputError(f"{path}: {what}", f"{double[0]} twice", "one of its own")
    ids = [claim.id for claim in plugins.all_claims]
    for family in plugins.families:
        for id_ in family.without:
            _one_of(f"{path}: FAMILIES: {family.name}: without", id_, tuple(ids))
    _tried(str(path), plugins)
    return plugins
