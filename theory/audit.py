"""The audit: every stage claim on many stages, in batches; what float64 cannot decide is decided exactly."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from teamtr_jax import programs
from teamtr_jax.claims import STAGE_CLAIMS, Claim, checks, judge
from teamtr_jax.exact import EXACT_STATES, exact_checks, verdict
from teamtr_jax.files import output_folder, read_json, replacing, seal
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import Stage
from teamtr_jax.validation import unchecked
from theory.families import Family, take
from theory.ledger import Row

__all__ = ["Tally", "Tallies", "Counterexample", "Journal", "fingerprint", "audit_family", "audit_stage", "rows"]

EXACT_SECONDS = 30.0
"""Processor time for exact decisions in a family of up to 50,000 stages, more in proportion for larger ones; what is
inconclusive beyond it stays counted as such."""
FEW_INSTANCES = 100_000
"""Up to so many stages a program is compiled fast instead of well: 3 s instead of 11, and it runs half as fast."""


class Tally(NamedTuple):
    """Running totals of one named check of one claim."""

    stages: int = 0
    checks: int = 0
    violated: int = 0
    inconclusive: int = 0
    decided: int = 0
    trivial: int = 0
    ratio: float = 0.0
    where: str = ""  #: family in which `ratio` was found
    slack: float = np.inf  #: smallest relative error of the bound that would have been caught
    gamma_power: float = np.inf  #: smallest error in the power of γ
    length_power: float = np.inf  #: smallest error in the power of 1/(1−γ)
    identity: bool = False

    def plus(self, other: Tally) -> Tally:
        best = other if other.ratio > self.ratio else self
        return Tally(
            self.stages + other.stages, self.checks + other.checks, self.violated + other.violated,
            self.inconclusive + other.inconclusive, self.decided + other.decided, self.trivial + other.trivial,
            best.ratio, best.where or other.where,
            min(self.slack, other.slack), min(self.gamma_power, other.gamma_power),
            min(self.length_power, other.length_power), self.identity or other.identity,
        )  # fmt: skip


Tallies = dict[tuple[str, str], Tally]


class Counterexample(NamedTuple):
    """A stage on which a claim is violated."""

    id: str
    check: str
    family: str
    ratio: float  #: measured/bound; 0 for an identity
    stage: Stage


Broken = Callable[[Counterexample], None]
"""Called with the worst stage of every batch in which a check is violated."""


def _unheard(found: Counterexample) -> None:
    del found


class Journal(NamedTuple):
    """Where an interrupted audit stands: one JSON file a family, replaced whole after every chunk."""

    folder: Path
    fingerprint: str  #: of the settings and of the code; what was written under another one is not read

    def _path(self, family: str) -> Path:
        return self.folder / f"{quote(family, safe=' ')}.json"

    def read(self, family: str) -> tuple[int, Tallies, Any] | None:
        """Stages done, their tallies and the state of the generator after them; none if nothing was written.

        Raises:
          InputError: a file that was changed or cut since.
        """
        path = self._path(family)
        if not path.exists():
            return None
        kept = read_json(path, "what an interrupted run wrote (delete it to start again)", sealed=True)
        if kept["fingerprint"] != self.fingerprint:
            return None
        return kept["done"], {(id_, name): Tally(*tally) for id_, name, tally in kept["tallies"]}, kept["generator"]

    def write(self, family: str, done: int, tallies: Tallies, generator: Any) -> None:
        """Replace what was written.

        Raises:
          InputError: a place that cannot be written.
        """
        record = {
            "fingerprint": self.fingerprint, "done": done, "generator": generator,
            "tallies": [[*key, list(tally)] for key, tally in tallies.items()],
        }  # fmt: skip
        output_folder(str(self.folder), self.folder).mkdir(parents=True, exist_ok=True)
        with replacing(self._path(family)) as temporary:
            temporary.write_bytes(seal(json.dumps(record)))  # read only by this program: Infinity is kept as such


def fingerprint(*settings: object) -> str:
    """Of the settings, of the versions, and of every source file that a verdict depends on."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256(repr((settings, jax.__version__, np.__version__)).encode())
    for path in sorted([*root.glob("teamtr_jax/**/*.py"), *root.glob("theory/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _stage_verdicts(claims: Sequence[Claim]):
    """One stage → per check: counts, extreme ratio and slacks, the pattern of inconclusive instances, is it an identity."""

    def run(stage: Stage) -> dict[tuple[str, str], dict[str, Array]]:
        report = stage_report(stage)
        form = "episodic" if report.episodic else "discounted"
        gamma = report.discount
        out = {}
        for claim, found in checks(claims, stage, report).items():
            for name, check in found.items():
                v = judge(check)
                slack = jnp.where(jnp.isnan(v.slack), jnp.inf, v.slack).min()  # what is no number would catch nothing
                log_slack = -jnp.log1p(-jnp.minimum(slack, 1 - 1e-12))
                powers = {} if form == "episodic" else {
                    "gamma_power": jnp.where(gamma > 0, log_slack / jnp.where(gamma > 0, -jnp.log(gamma), 1.0), jnp.inf),
                    "length_power": jnp.where(gamma > 0, log_slack / jnp.where(gamma > 0, -jnp.log1p(-gamma), 1.0), jnp.inf),
                }  # fmt: skip
                out[claim.id, name] = {
                    "checks": jnp.asarray(v.violated.size), "violated": v.violated.sum(), "trivial": v.trivial.sum(),
                    "open": v.inconclusive.ravel(), "identity": jnp.asarray(check.scale is not None),
                    "ratio": jnp.where(jnp.isnan(v.ratio), jnp.inf, v.ratio).max(), "slack": slack, **powers,
                }  # fmt: skip
        return out

    return run


BUILT_IN = {claim.id: claim for claim in STAGE_CLAIMS}


def _batch_verdicts(ids: tuple[str, ...], stages: Stage) -> dict[tuple[str, str], dict[str, Array]]:
    return jax.vmap(_stage_verdicts([BUILT_IN[id_] for id_ in ids]))(stages)


def _single_verdicts(ids: tuple[str, ...], stage: Stage) -> dict[tuple[str, str], dict[str, Array]]:
    return _stage_verdicts([BUILT_IN[id_] for id_ in ids])(stage)


_own: dict[Any, Any] = {}


def _verdicts(claims: tuple[Claim, ...], stages: Stage, single: bool, few: bool) -> Any:
    """The verdicts on stages of one shape. The program of built-in claims is kept for other processes, a reader's in this one.

    No built-in claim asks what agents see: a team with tied rows is judged by the program of a free one with these rows (U4).
    """
    if all(BUILT_IN.get(claim.id) == claim for claim in claims):
        with unchecked():
            stages = replace(stages, team=replace(stages.team, observation=None))
        function, ids = _single_verdicts if single else _batch_verdicts, tuple(claim.id for claim in claims)
        return jax.block_until_ready(programs.run(function, stages, static=(ids,), quick=few))
    leaves, structure = jax.tree.flatten(stages)
    key = (claims, single, few, structure, tuple((x.shape, x.dtype) for x in leaves))
    if key not in _own:
        f = _stage_verdicts(claims)
        _own[key] = programs.compiled_program(jax.jit(f if single else jax.vmap(f)).lower(stages), few)
    return jax.block_until_ready(_own[key](stages))


def _decide(stage: Stage, key: tuple[str, str], open_: np.ndarray) -> tuple[int, int]:
    """Exact verdicts on the open instances of one stage: (violated, still open)."""
    pairs = exact_checks(stage, only=key[0]).get(key)
    if pairs is None:
        return 0, int(open_.sum())
    found = [verdict(*pairs[k]) for k in np.flatnonzero(open_)]
    return found.count("violated"), found.count("open")


def _collect(out: dict, family: str, stages: Any, deadline: float, broken: Broken) -> Tallies:
    """Tallies of a batch of verdicts, of stages with the same leading axis or a longer one."""
    stages, out = jax.tree.map(np.asarray, (stages, out))
    batch = len(next(iter(out.values()))["violated"]) if out else 0
    opened = {key: found["open"].reshape(batch, -1) for key, found in out.items()}
    violated = {key: found["violated"].reshape(batch).astype(int) for key, found in out.items()}
    left = {key: int(open_.sum()) for key, open_ in opened.items()}
    decided = dict.fromkeys(out, 0)
    undecided = np.logical_or.reduce([open_.any(-1) for open_ in opened.values()])
    for b in np.flatnonzero(undecided):  # stage by stage: what was solved for one check serves the next
        if time.thread_time() > deadline:
            break
        one = take(stages, b)
        for key, open_ in opened.items():
            if open_[b].any():
                wrong, still = _decide(one, key, open_[b])
                now = int(open_[b].sum())
                violated[key][b] += wrong
                decided[key] += now - still
                left[key] += still - now
    for (id_, name), wrong in violated.items():
        if wrong.any():
            ratio = np.where(wrong > 0, out[id_, name]["ratio"], -1.0)
            worst = int(ratio.argmax())
            broken(Counterexample(id_, name, family, float(ratio[worst]), take(stages, worst)))
    return {
        key: Tally(
            batch, int(found["checks"].sum()), int(violated[key].sum()), left[key], decided[key], int(found["trivial"].sum()),
            float(found["ratio"].max()), family,
            float(found["slack"].min()), float(np.min(found.get("gamma_power", np.inf))),
            float(np.min(found.get("length_power", np.inf))), bool(np.any(found["identity"])),
        )
        for key, found in out.items()
    }  # fmt: skip


def audit_family(
    family: Family,
    instances: int,
    rng: np.random.Generator,
    claims: Sequence[Claim] = STAGE_CLAIMS,
    *,
    chunk: int = 5_000,
    progress: Callable[[int], None] = lambda done: None,
    lock: AbstractContextManager[Any] | None = None,
    journal: Journal | None = None,
    stopped: Callable[[], bool] = lambda: False,
    broken: Broken = _unheard,
) -> Tallies:
    """Audit `instances` stages of one family.

    Args:
      progress: called with the number of stages done.
      lock: held while a program is compiled or runs.
      journal: where this family stood when it was interrupted; written after every chunk.
      stopped: asked before every chunk; the tallies so far are returned.
      broken: hears of violations, of those since an interruption only.

    Returns:
      Tallies per (claim id, check name).
    """
    chunk = family.chunk or chunk
    chosen = tuple(claim for claim in claims if claim.id not in family.without)
    total: Tallies = {}
    spent = done = 0
    allowed = EXACT_SECONDS * max(1.0, instances / 50_000)
    if journal is not None and (before := journal.read(family.name)) is not None:
        done, total, rng.bit_generator.state = before
        progress(done)
    while done < instances and not stopped():
        stages = family.make(rng, chunk)
        with lock or nullcontext():
            out = _verdicts(chosen, stages, single=False, few=instances <= FEW_INSTANCES)
        now = min(chunk, instances - done)
        if now < chunk:  # the last, partial batch: count only what was asked for
            out = take(out, slice(now))
        began = time.thread_time()
        small = stages.team.reward.shape[1] <= EXACT_STATES
        deadline = began + allowed - spent if small else began
        for key, tally in _collect(out, family.name, stages, deadline, broken).items():
            total[key] = total[key].plus(tally) if key in total else tally
        spent += time.thread_time() - began
        done += now
        progress(now)
        if journal is not None:
            journal.write(family.name, done, total, rng.bit_generator.state)
    return total


def audit_stage(
    name: str,
    stage: Stage,
    claims: Sequence[Claim] = STAGE_CLAIMS,
    lock: AbstractContextManager[Any] | None = None,
    broken: Broken = _unheard,
) -> Tallies:
    """Audit one stage that is its own family (a Gymnasium team)."""
    with lock or nullcontext():
        out = _verdicts(tuple(claims), stage, single=True, few=True)
    batched = jax.tree.map(lambda x: np.asarray(x)[None], (out, stage))
    return _collect(batched[0], name, batched[1], 0.0, broken)


def rows(tallies: Tallies, claims: Sequence[Claim], started: float) -> list[Row]:
    """One ledger row per claim, its named checks taken together."""
    out = []
    for claim in claims:
        own = {name: tally for (id_, name), tally in tallies.items() if id_ == claim.id}
        if not own:
            continue
        inequalities = {name: t for name, t in own.items() if not t.identity}
        total = Tally()
        for tally in own.values():
            total = total.plus(tally)
        best = max(inequalities.values(), key=lambda t: t.ratio, default=None)
        decided = total.decided
        slack = min(t.slack for t in own.values())
        powers = {} if total.violated else {
            "γ": min((t.gamma_power for t in inequalities.values()), default=np.inf),
            "1/(1−γ)": min((t.length_power for t in inequalities.values()), default=np.inf),
        }  # fmt: skip
        out.append(
            Row(
                claim.id, claim.statement, "float" if not decided else f"float; {decided} decided exactly",
                max(t.stages for t in own.values()), total.violated, total.inconclusive,
                best.ratio if best else None, slack if slack < 1 and not total.violated else None, checks=total.checks,
                decided_exactly=decided, trivial=total.trivial, seconds=time.perf_counter() - started,
                detects_exponents={name: x for name, x in powers.items() if np.isfinite(x)},
                words=claim.words, note=f"tight: {claim.tight}" + (f"; largest ratio in: {best.where}" if best else ""),
            )
        )  # fmt: skip
    return out
