"""Figures of the paper (arXiv:2605.15207), collected from secondary sources: for comparison only, printed beside ours and marked.

Its experiments are about teams of 8–32B language models; ours ask the same question of teams small enough to be exact.
"""

from __future__ import annotations

__all__ = [
    "SCALING_N",
    "SCALING",
    "SCALING_ENDS",
    "SLOPES",
    "IMPORTANCE",
    "COST",
    "OUTSIDE",
    "CERTIFICATE",
    "REPLACEMENT",
    "ORDER",
    "ORDER_SPREAD",
    "ABLATION",
    "MONITOR_FLIPS",
    "TEAM_GAIN",
]

SCALING_N = (2, 3, 4, 5, 6, 8)
SCALING: dict[str, dict[str, tuple[float, ...]]] = {
    "naive": {
        "delta_stale": (0.08, 0.21, 0.41, 0.68, 1.02, 1.89),
        "d_occ": (0.05, 0.14, 0.28, 0.47, 0.71, 1.31),
    },
    "TeamTR": {
        "delta_stale": (0.03, 0.05, 0.07, 0.09, 0.11, 0.15),
        "d_occ": (0.02, 0.04, 0.05, 0.07, 0.08, 0.11),
    },
}
"""Table 2a."""

SCALING_ENDS = {
    "naive": {"accuracy": (82.1, 58.7), "instability": (1.8, 15.8)},
    "TeamTR": {"accuracy": (83.5, 87.9), "instability": (1.1, 2.5)},
}
"""Table 2a at n = 2 and n = 8: of accuracy and instability we have the ends only."""

SLOPES = {
    "naive": {"delta_stale": 1.94, "d_occ": 1.91, "instability": 1.89},
    "TeamTR": {"delta_stale": 1.07, "d_occ": 1.05, "instability": 0.93},
}
"""As the paper quotes them. Least squares on its own rows give others: `theory.fits.log_slope(SCALING_N, SCALING[…][…])`."""

IMPORTANCE = {"ess_share": {2: 0.42, 5: 0.04}, "largest": 4582.0}
"""Table 10: ESS/B by update, and the largest weight."""

COST = {"tokens": 0.111, "wall": 1.12, "monitor": 0.032}
"""Table 6: more tokens, wall time as a ratio, share of the KL monitor."""

OUTSIDE = {"TeamTR": 0.02, "DAPO": 0.21, "GRPO": 0.44, "PPO": 0.60}
"""Figure 4: share of the updates outside the trust region."""

CERTIFICATE = {"correlation": 0.73, "violations": 0.0}
"""Figure 4: certificate against measured improvement."""

REPLACEMENT = {"direct": -0.18, "aligned": 0.27, "shock": (18.3, 2.9)}
"""Figure 6, Table 11: after a direct swap; after training with Stage-0 alignment; the shock, direct and aligned, in points."""

ORDER = {"fixed": 87.2, "reverse": 86.9, "random": 87.5}
"""Table 9: accuracy on AIME24."""

ORDER_SPREAD = 1.2
"""Table 9: fixed, reverse and random order are within this many points."""

ABLATION = {
    "full": 88.1, "adaptive KL only": 84.9, "fixed KL only": 80.7, "resample every 2nd": 79.3, "importance weights": 74.5,
    "no resampling": 71.1, "no trust region": 68.3, "δ = .001": 82.5, "δ = .1": 75.1, "order reverse": 86.9, "order random": 87.5,
    "no group norm": 83.1, "no clip": 84.5,
}  # fmt: skip
"""Tables 2b and 9: accuracy on AIME24."""

MONITOR_FLIPS = {0.25: 5.7, 0.5: 2.4, 1.0: 0.0}
"""Tables 7 and 8: decisions near the threshold that a KL monitor on a share of the tokens gets wrong, %."""

TEAM_GAIN = 7.1
"""Table 1: team against single agent at a matched budget, average over tasks, %."""
