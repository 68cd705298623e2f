"""S8: one number per prompt, whose mean is at most the improvement; the table is in theory/derivations/s8.md."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.finite_sample._inputs import numbers, path_range
from teamtr_jax.validation import InputError, at_least, finite, one_of, real_number, shaped, within

__all__ = ["Sample", "message_sample", "log_sample", "path_sample", "truncated_sample", "clipped_sample", "difference_sample",
           "bridge_sample", "tail_constants", "baseline_of", "rollouts_of", "path_weight"]  # fmt: skip


class Sample(NamedTuple):
    """One number per prompt, its mean at most the improvement, and the interval it cannot leave."""

    values: NDArray[np.float64]  #: [..., B]
    lower: float  #: no value can be smaller
    upper: float  #: no value can be larger; infinite for an unbounded weight


def rollouts_of(
    reward: ArrayLike, log_ratio: ArrayLike, kl: ArrayLike | None = None, new: str = ""
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rewards [..., B, G], log ratios and divergences [..., B, G, τ] as arrays; refused where they are none."""
    r, x = numbers(f"reward{new}", reward), numbers(f"log_ratio{new}", log_ratio)
    if r.ndim < 2 or not r.shape[-1]:
        raise InputError(f"reward{new}", f"shape {list(r.shape)}", "[..., B, G], at least one rollout")
    shaped(f"log_ratio{new}", x, (*r.shape, "τ"))
    within(f"reward{new}", r, 0.0, 1.0, expected="outcome rewards in [0, 1]")
    with np.errstate(invalid="ignore"):  # −∞ and +∞ in one path
        paths = x.sum(-1)
    if np.isnan(paths).any():
        raise InputError(f"log_ratio{new}", "a path whose log ratios have no sum", "numbers")
    k = np.zeros(()) if kl is None else numbers("kl", kl)
    if kl is not None:
        shaped("kl", k, x.shape)
        at_least("kl", finite("kl", k), expected="divergences ≥ 0")
    return r, x, k


def _leave_one_out(reward: NDArray[np.float64]) -> NDArray[np.float64]:
    """`R̄_{−g}`, the mean reward of the prompt's other rollouts; 0 for a lone one."""
    rollouts = reward.shape[-1]
    if rollouts == 1:
        return np.zeros_like(reward)
    return (reward.sum(-1, keepdims=True) - reward) / (rollouts - 1)


def baseline_of(
    baseline: ArrayLike | Literal["others"], reward: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, float]:
    """The baseline per rollout and the least and largest value that it could take."""
    if isinstance(baseline, str):
        one_of("baseline", baseline, ("others",))
        return _leave_one_out(reward), 0.0, 1.0
    b = numbers("baseline", baseline)
    within("baseline", b, 0.0, 1.0, expected="numbers in [0, 1]")
    if b.ndim == 0:
        return b, float(b), float(b)
    shaped("baseline", b, reward.shape, (*reward.shape[:-1], 1))
    return b, 0.0, 1.0


def _x(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """`X(x) = x − 1 − log x ≥ 0`, infinite at 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(ratio - 1 - np.log(ratio))


def path_weight(log_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """`Λ`, infinite beyond the numbers."""
    with np.errstate(over="ignore"):
        return np.exp(log_ratio.sum(-1))


def _path_kl(kl: NDArray[np.float64], kl_path_max: float) -> None:
    most = kl.sum(-1).max(initial=0.0)
    if real_number("kl_path_max", kl_path_max, 0.0, infinite=True) < most or math.isinf(kl_path_max):
        raise InputError("kl_path_max", kl_path_max, f"a finite bound on Σ KL of a rollout, here up to {most:g}")


def tail_constants(low: float, high: float) -> tuple[float, float]:
    """`k_low = sup_{x<low} (low − x)/X(x)`, `k_high = sup_{x>high} (x − high)/X(x)` (S8c), for `0 ≤ low < 1 < high`.

    With W₀ and W₋₁ the branches of Lambert's function the suprema are at `x = −c/W(−c·e^{−c})` and equal `x/|x − 1|`.

    Raises:
      InputError: if the two do not lie on either side of 1.

    Example:
      >>> print([round(k, 3) for k in tail_constants(0.5, 2.0)])
      [0.398, 1.255]
    """
    from scipy.special import lambertw

    if not 0 <= real_number("low", low) < 1 < real_number("high", high):
        raise InputError("low, high", f"{low}, {high}", "0 ≤ low < 1 < high")

    def place(c: float, branch: int) -> float:
        return float(-c / lambertw(-c * math.exp(-c), branch).real)

    x = place(high, 0)
    k_high = x / (x - 1)
    if low == 0:
        return 0.0, k_high
    x = place(low, -1)
    return x / (1 - x), k_high


def message_sample(
    reward: NDArray[np.float64],
    log_ratio: NDArray[np.float64],
    kl: NDArray[np.float64],
    clip: float,
    kl_path_max: float,
) -> Sample:
    """S8 in the form of S7, message by message (the first line of the table in theory/derivations/s8.md).

    `Y = G⁻¹Σ_g[(R_g−R̄_{−g})Σ_m(ρ^clip_m−1) − Σ_m{1−min(ρ_m,1+ε)+(1−ε−ρ_m)⁺} − Σ_m KL_m]`.

    Args:
      reward: [..., B, G] in [0, 1].
      log_ratio: [..., B, G, τ], zero where there is no message.
      kl: [..., B, G, τ], KL(current‖new) at the message's context, zero where there is no message.
      clip: `ε` in (0, 1].
      kl_path_max: no rollout can have a larger `Σ_m KL_m`; `τκ_max` where KL ≤ κ_max at every context.
    """
    reward, log_ratio, kl = rollouts_of(reward, log_ratio, kl)
    real_number("clip", clip, above=0.0, high=1.0)
    _path_kl(kl, kl_path_max)
    with np.errstate(over="ignore"):  # clipped from above
        ratio = np.exp(log_ratio)
    step = (np.clip(ratio, 1 - clip, 1 + clip) - 1).sum(-1)
    lost = (1 - np.minimum(ratio, 1 + clip) + np.maximum(1 - clip - ratio, 0)).sum(-1)
    values = ((reward - _leave_one_out(reward)) * step - lost - kl.sum(-1)).mean(-1)
    messages = log_ratio.shape[-1]
    return Sample(values, -messages * (clip + 2 - clip) - kl_path_max, 2 * messages * clip)


def log_sample(reward: NDArray[np.float64], log_ratio: NDArray[np.float64], high: float = math.inf) -> Sample:
    """`Z = G⁻¹Σ_g R_g·max(−1, min(log Λ_g, log high))` (S9: `max(−1, log x) ≤ x − 1`)."""
    reward, log_ratio, _ = rollouts_of(reward, log_ratio)
    top = math.log(real_number("high", high, above=1.0, infinite=True))
    return Sample((reward * np.clip(log_ratio.sum(-1), -1, top)).mean(-1), -1.0, top)


def truncated_sample(reward: NDArray[np.float64], log_ratio: NDArray[np.float64], high: float) -> Sample:
    """`Z = G⁻¹Σ_g R_g(min(Λ_g, high) − 1)`."""
    reward, log_ratio, _ = rollouts_of(reward, log_ratio)
    real_number("high", high, above=1.0, infinite=True)
    return Sample((reward * (np.minimum(path_weight(log_ratio), high) - 1)).mean(-1), -1.0, high - 1)


def path_sample(
    reward: NDArray[np.float64],
    log_ratio: NDArray[np.float64],
    baseline: ArrayLike | Literal["others"] = 0.0,
    ratio_range: tuple[float, float] = (0.0, math.inf),
) -> Sample:
    """`Z = G⁻¹Σ_g (R_g − b)(Λ_g − 1)`; its mean *is* the improvement where the new agent opens nothing.

    Args:
      baseline: `b` in [0, 1]: a number, `"others"` for `R̄_{−g}`, or an array that does not depend on the rollout it is
        subtracted from, given the prompt. Anything but 0 needs a finite `ratio_range`.
      ratio_range: `(low, high)`, `low ≤ ρ ≤ high` for every message at every context, by construction of the new agent.
    """
    reward, log_ratio, _ = rollouts_of(reward, log_ratio)
    b, least, most = baseline_of(baseline, reward)
    low, high = path_range(ratio_range, log_ratio.shape[-1])
    if most and math.isinf(high):
        raise InputError("ratio_range", ratio_range, "a finite upper end: a baseline needs a bounded ratio (S8b)")
    values = ((reward - b) * (path_weight(log_ratio) - 1)).mean(-1)
    below, above = 1 - least, most  # of R − b and b − R
    lower = -max(below * (1 - low), above * (high - 1) if most else 0.0)
    upper = max(below * (high - 1), above * (1 - low))
    return Sample(values, lower, upper)


def clipped_sample(
    reward: NDArray[np.float64],
    log_ratio: NDArray[np.float64],
    kl: NDArray[np.float64],
    kl_path_max: float,
    baseline: ArrayLike | Literal["others"] = "others",
    path_clip: tuple[float, float] = (0.5, 2.0),
) -> Sample:
    """S8c: `Z = G⁻¹Σ_g [(R_g−b)(clip(Λ_g, l, h)−1) − k(Σ_m KL_m − X(Λ_g)·1{l ≤ Λ_g ≤ h})]`, `k = max(b·k_high, (1−b)·k_low)`.

    Clipping loses at most k times `E[X(Λ); Λ ∉ [l, h]]`, and that is at most the path's KL less what was seen of X inside. For
    `l = 0` nothing is lost below, and X is not bounded: the upper end of the range is infinite unless `b = 0`, where `k = 0`.
    """
    low, high = path_clip
    reward, log_ratio, kl = rollouts_of(reward, log_ratio, kl)
    _path_kl(kl, kl_path_max)
    k_low, k_high = tail_constants(low, high)
    b, least, most = baseline_of(baseline, reward)
    weight = path_weight(log_ratio)
    inside = (low <= weight) & (weight <= high) & (weight > 0)
    tail = kl.sum(-1) - _x(np.where(inside, weight, 1.0))
    values = ((reward - b) * (np.clip(weight, low, high) - 1) - np.maximum(b * k_high, (1 - b) * k_low) * tail).mean(-1)
    below, above = 1 - least, most
    k = max(most * k_high, below * k_low)
    seen = float(_x(np.array([low, high])).max())
    lower = -max(below * (1 - low), above * (high - 1)) - k * kl_path_max
    return Sample(values, lower, max(below * (high - 1), above * (1 - low)) + (k * seen if k else 0.0))


def difference_sample(reward_old: NDArray[np.float64], reward_new: NDArray[np.float64]) -> Sample:
    """`Z = R̄' − R̄`: rollouts of `π̂ⁱ` and of `π̂ⁱ⁻¹` on the same prompt, or on two independent ones."""
    old, new = (rollouts_of(r, np.zeros((*np.shape(r), 0)), new=name)[0]
                for r, name in ((reward_old, "_old"), (reward_new, "_new")))  # fmt: skip
    if old.shape[:-1] != new.shape[:-1]:
        raise InputError("reward_new", f"shape {list(new.shape)}", f"as many prompts as reward_old {list(old.shape)}")
    return Sample(new.mean(-1) - old.mean(-1), -1.0, 1.0)


def bridge_sample(
    reward_old: NDArray[np.float64],
    log_ratio_old: NDArray[np.float64],
    reward_new: NDArray[np.float64],
    log_ratio_new: NDArray[np.float64],
    baseline: float = 0.5,
) -> Sample:
    """S8d: `Z` = mean over both policies' rollouts of `(R − b)·tanh(½log Λ)`, old and new mean added.

    `E_{(P+P')/2}[(R−b)·2(Λ−1)/(Λ+1)] = J(π̂ⁱ) − J(π̂ⁱ⁻¹)` exactly, and the weight is bounded by 2 whatever Λ is.
    """
    real_number("baseline", baseline, 0.0, 1.0)
    old, new = rollouts_of(reward_old, log_ratio_old, new="_old"), rollouts_of(reward_new, log_ratio_new, new="_new")
    parts = [((r - baseline) * np.tanh(x.sum(-1) / 2)).mean(-1) for r, x, _ in (old, new)]
    if parts[0].shape != parts[1].shape:
        raise InputError("reward_new", f"{list(parts[1].shape)} prompts", f"{list(parts[0].shape)}, as in reward_old")
    edge = 2 * max(baseline, 1 - baseline)
    return Sample(parts[0] + parts[1], -edge, edge)
