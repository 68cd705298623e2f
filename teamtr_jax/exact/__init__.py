"""Every statement once more in exact arithmetic: rationals for what is linear, balls of 256 bits for logarithms and roots.

An oracle that shares names with the float core and no formula. It lies here, beside the claims and not in `theory/`, because
`teamtr check` decides small teams by it. One way down: numbers ← stage ← solved ← mismatch, rungs ← cube ←
checks.
"""

from teamtr_jax.exact.checks import CHECKS, EXACT_STATES, EXACT_WORK, Pairs, decide, exact_checks, exact_pairs
from teamtr_jax.exact.numbers import PRECISION, precisely, rational, verdict
from teamtr_jax.exact.rungs import RUNGS
from teamtr_jax.exact.solved import Solved, exact_numbers
from teamtr_jax.exact.stage import ExactStage, exact_stage

__all__ = [
    "CHECKS",
    "EXACT_STATES",
    "EXACT_WORK",
    "ExactStage",
    "PRECISION",
    "Pairs",
    "RUNGS",
    "Solved",
    "decide",
    "exact_checks",
    "exact_numbers",
    "exact_pairs",
    "exact_stage",
    "precisely",
    "rational",
    "verdict",
]
