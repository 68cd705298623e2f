"""Every statement once more in exact arithmetic: rationals for what is linear, balls of 256 bits for logarithms and roots.

One way down: numbers ← stage ← solved ← rungs ← checks ← audit.
"""

from theory.exact.checks import CHECKS, exact_checks, exact_pairs
from theory.exact.numbers import PRECISION, precisely, rational, verdict
from theory.exact.rungs import RUNGS
from theory.exact.solved import Solved, exact_numbers
from theory.exact.stage import ExactStage, exact_stage

__all__ = [
    "CHECKS",
    "ExactStage",
    "PRECISION",
    "RUNGS",
    "Solved",
    "exact_checks",
    "exact_numbers",
    "exact_pairs",
    "exact_stage",
    "precisely",
    "rational",
    "verdict",
]
