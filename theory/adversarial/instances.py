"""The tightest stages of every rung: found, decided in exact arithmetic, written beside an index, read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jax
import jax.numpy as jnp
import numpy as np
from flint import arb

from teamtr_jax.bounds import DEFAULT, Rung
from teamtr_jax.exact import exact_pairs, precisely, verdict
from teamtr_jax.files import read_json, regular_file, replacing, seal
from teamtr_jax.records import dump
from teamtr_jax.teams import read_stage, write_stage
from teamtr_jax.types import Stage
from teamtr_jax.validation import InputError
from theory.adversarial.search import GAMMAS, STAGE_SIZES, StageSizes, alike, climb
from theory.families import take

__all__ = ["Exact", "INSTANCES", "Record", "load", "read_index", "recheck", "run", "tightest", "write"]

INSTANCES = Path(__file__).parents[1] / "instances"


class Exact(NamedTuple):
    """The ratio of one stage in rational and ball arithmetic."""

    ratio: float
    holds: bool | None  #: `None` where two balls overlap
    evidence: str  #: exact, enclosed, inconclusive


@dataclass(frozen=True)
class Record:
    """The tightest ratio found for one rung, shape, n and γ."""

    rung: str
    id: str
    gap: str
    form: str
    shape: str
    agents: int
    gamma: float | None  #: `None` when episodic
    ratio: float
    slack: float  #: rounding of `ratio`
    stage: Stage
    exact: Exact | None = None

    @property
    def sure(self) -> float:
        return self.ratio - self.slack

    @property
    def violated(self) -> bool:
        return self.ratio > 1 + self.slack or (self.exact is not None and self.exact.holds is False)


def recheck(stage: Stage, rung: str) -> Exact:
    """The largest `|gap_i|/penalty_i` of a rung of `DEFAULT` in exact arithmetic, and whether it is at most 1."""
    pairs = exact_pairs(jax.tree.map(np.asarray, stage), rung)
    verdicts = [verdict(*pair) for pair in pairs]
    holds = False if "violated" in verdicts else None if "open" in verdicts else True
    enclosed = any(isinstance(bound, arb) for _, bound in pairs)
    with precisely():
        ratios = [
            float((arb(measured) / arb(bound)).mid()) if bound > 0 else float("inf") if measured > 0 else 0.0
            for measured, bound in pairs
            if bound is not None
        ]
    return Exact(
        max(ratios, default=0.0), holds, "inconclusive" if holds is None else "enclosed" if enclosed else "exact"
    )


def tightest(records: Sequence[Record]) -> list[Record]:
    """The tightest record of each rung, form and γ, over shapes and n."""
    out: dict[tuple[str, str, float | None], Record] = {}
    for record in records:
        key = (record.rung, record.form, record.gamma)
        if key not in out or record.sure > out[key].sure:
            out[key] = record
    return list(out.values())


def run(
    quick: bool,
    rng: np.random.Generator,
    rungs: Sequence[Rung] = DEFAULT,
    stage_sizes: Sequence[StageSizes] | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    gammas: Sequence[float] = GAMMAS,
) -> list[Record]:
    """The tightest ratio found per rung, shape, n and γ; the tightest of each rung and γ decided exactly.

    Args:
      quick: one shape, one γ, fewer points and steps.
      progress: called with the shape, the steps done and the steps in all.
      gammas: discounts; quick takes the second.
    """
    out: list[Record] = []
    effort: Any = {"restarts": 6 if quick else 8, "steps": 400 if quick else 600, "rounds": 4}
    gammas = gammas[1:2] if quick else gammas
    for sizes in stage_sizes or (STAGE_SIZES[:1] if quick else STAGE_SIZES):
        chosen = tuple(rung for rung in rungs if sizes.form in rung.forms)
        if not chosen:
            continue
        agents = tuple(range(1, sizes.agents + 1))
        done = 0

        def advance(now: int, name: str = sizes.name) -> None:
            nonlocal done
            done += now
            progress(name, done, effort["steps"])

        pool, stopped = climb(chosen, sizes, rng, gammas=gammas, agents=agents, progress=advance, **effort)
        for (k, rung), gamma, live in product(enumerate(chosen), gammas if sizes.horizon is None else (1.0,), agents):
            here = alike(pool, gamma, live)
            top = here[np.argmax(pool.sure[here, k])]
            out.append(
                Record(
                    rung.name, rung.id, rung.gap, sizes.form, sizes.name, live, gamma if sizes.horizon is None else None,
                    float(pool.ratio[top, k]), float(pool.slack[top, k]), take(pool.stages, np.asarray(top)),
                )
            )  # fmt: skip
        if stopped:
            break
    decided = {
        id(record) for record in tightest(out) if any(rung in DEFAULT for rung in rungs if rung.name == record.rung)
    }
    return [replace(r, exact=recheck(r.stage, r.rung)) if id(r) in decided else r for r in out]


def read_index(folder: Path = INSTANCES) -> dict[str, Any]:
    """`index.json`: the saved instances, and the tightest ratio of every rung, shape, n and γ.

    Raises:
      InputError: no such file, or one that was changed or cut since.
    """
    return read_json(folder / "index.json", "an index that `python -m theory.adversarial --save` wrote", sealed=True)


def load(folder: Path = INSTANCES) -> list[dict[str, Any]]:
    """The index of the saved instances, each entry with its `stage` read back.

    Raises:
      InputError: names the file that is damaged.
    """

    def stage(file: str) -> Stage:
        try:
            return read_stage(regular_file(folder / file, "a stage of the index"))
        except InputError as error:
            if error.name == str(folder / file):
                raise
            raise InputError(f"{folder / file}: {error.name}", error.found, error.expected) from error

    return [entry | {"stage": stage(entry["file"])} for entry in read_index(folder)["instances"]]


def _ratio(record: Record) -> dict[str, Any]:
    names = ("rung", "id", "gap", "form", "shape", "agents", "gamma", "ratio", "slack")
    return {name: getattr(record, name) for name in names}


def _instance(record: Record, file: str) -> dict[str, Any]:
    exact = record.exact
    verdict = {} if exact is None else {"exact_ratio": exact.ratio, "holds": exact.holds, "evidence": exact.evidence}
    return _ratio(record) | {"evidence": "float", **verdict, "file": file}


def write(records: Sequence[Record], folder: Path = INSTANCES) -> list[Path]:
    """Save the tightest record of each rung, form and γ beside `index.json`, where it beats what is there.

    The index holds the saved instances, and the tightest ratio of every rung, shape, n and γ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.json"
    old = read_index(folder) if path.exists() else {"instances": [], "ratios": []}

    def beats(new: Record, known: dict[str, Any] | None) -> bool:
        return known is None or new.sure > known["ratio"] - known["slack"]

    def place(x: dict[str, Any]) -> tuple[Any, ...]:
        return x["rung"], x["shape"], x["agents"], x["gamma"] or 1.0

    ratios = {place(x): x for x in old["ratios"]}
    for record in records:
        x = _ratio(record)
        if beats(record, ratios.get(place(x))):
            ratios[place(x)] = x
    instances = {x["file"]: x for x in old["instances"]}
    written = []
    for record in tightest(records):
        where = "episodic" if record.gamma is None else f"{record.gamma:g}"
        file = f"{quote(record.rung.removeprefix('penalty_'), safe='')}_{where}.npz"
        if beats(record, instances.get(file)):
            write_stage(jax.tree.map(jnp.asarray, record.stage), folder / file)
            instances[file] = _instance(record, file)
            written.append(folder / file)

    def lines(rows: dict[Any, dict[str, Any]]) -> str:
        return ",\n".join(f"  {dump(rows[key])}" for key in sorted(rows))

    text = f'{{"schema": 1, "instances": [\n{lines(instances)}\n], "ratios": [\n{lines(ratios)}\n]}}'
    with replacing(path) as temporary:
        temporary.write_bytes(seal(text))
    return written
