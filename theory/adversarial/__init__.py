"""Stages that attain, or break, a bound: gradient ascent, exact decisions, saved instances.

`python -m theory.adversarial` prints the tightest ratio found for each rung, shape, number of agents and γ, decides the tightest
of each rung and γ again in exact arithmetic and, with `--save`, writes these stages to `theory/instances/`. A reader's own
`Rung` is attacked by `search(rung, sizes, rng)`, or by `--plugin FILE --save --out FOLDER`, which keeps the counterexample as a
stage file.
"""

from theory.adversarial.instances import INSTANCES, Exact, Record, load, read_index, recheck, run, tightest, write
from theory.adversarial.search import (
    GAMMAS,
    LOW_GAMMAS,
    STAGE_SIZES,
    Found,
    StageSizes,
    judge_stages,
    search,
    search_all,
)

__all__ = [
    "Exact",
    "Found",
    "GAMMAS",
    "INSTANCES",
    "LOW_GAMMAS",
    "Record",
    "STAGE_SIZES",
    "StageSizes",
    "judge_stages",
    "load",
    "read_index",
    "recheck",
    "run",
    "search",
    "search_all",
    "tightest",
    "write",
]
