"""S8: what a finite sample of rollouts certifies about `J(π̂ⁱ) − J(π̂ⁱ⁻¹)`, outcome reward in [0, 1].

B prompts are drawn independently, G rollouts of `π̂ⁱ⁻¹` on each; `π̂ⁱ` was trained on other data. A rollout has its reward R and,
for the updated agent's messages m, the log ratios `log ρ_m = log π̂ⁱ/π̂ⁱ⁻¹`. Path weight `Λ = ∏_m ρ_m`, `X(x) = x − 1 − log x`.
An estimator makes one number per prompt whose mean is at most the improvement, a bound turns B such numbers into a lower
confidence limit for their mean. Everything here is NumPy on the host, in float64; leading axes are independent samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.validation import InputError, at_least, finite, one_of, pair, real_number, shaped, whole_number, within

__all__ = ["ESTIMATORS", "BOUNDS", "Sample", "Certificate", "finite_sample_certificate", "two_sample_certificate",
           "message_sample", "log_sample", "path_sample", "truncated_sample", "clipped_sample", "difference_sample",
           "bridge_sample", "tail_constants", "bernstein_bound", "betting_bound", "betting_log_capital",
           "group_normalised_weight", "log_evidence", "weight_evidence", "FALSE_ALARM"]  # fmt: skip

ESTIMATORS = ("message", "log", "truncated", "path", "clipped")
BOUNDS = ("bernstein", "betting")
STAKE = 0.9  # largest share of the capital that a prompt can lose

LARGEST = math.exp(300.0)
"""A bettor takes larger numbers for this one: from above, so that the limit holds, and their squares are finite."""

FALSE_ALARM = 1e-6
"""Rollouts that were drawn as they say are accused with at most this probability, whatever the tails of their weights."""

STAKES = (1.0, 0.3, 0.1, 0.03)


class Sample(NamedTuple):
    """One number per prompt, its mean at most the improvement, and the interval it cannot leave."""

    values: NDArray[np.float64]  #: [..., B]
    lower: float  #: no value can be smaller
    upper: float  #: no value can be larger; infinite for an unbounded weight


class Certificate(NamedTuple):
    """`P(J(π̂ⁱ) − J(π̂ⁱ⁻¹) ≥ lower) ≥ 1 − alpha` over the draw of the rollouts."""

    lower: float  #: certified improvement, positive or not
    estimate: float  #: mean of the per-prompt numbers
    deviation: float  #: their sample standard deviation
    alpha: float  #: probability of error
    estimator: str
    bound: str
    prompts: int  #: B
    rollouts: int  #: B·G
    interval: tuple[float, float]  #: what the per-prompt numbers cannot leave
    contradiction: str | None = None  #: why the rollouts cannot be what they are said to be; `lower` is then −∞
    cut: bool = False  #: whether the limit was above 1, more than rewards in [0, 1] can improve, and was cut there


def _numbers(name: str, array: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(name, f"a {type(array).__name__}", "an array of real numbers") from error


def _rollouts(
    reward: ArrayLike, log_ratio: ArrayLike, kl: ArrayLike | None = None, new: str = ""
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rewards [..., B, G], log ratios and divergences [..., B, G, τ] as arrays; refused where they are none."""
    r, x = _numbers(f"reward{new}", reward), _numbers(f"log_ratio{new}", log_ratio)
    if r.ndim < 2 or not r.shape[-1]:
        raise InputError(f"reward{new}", f"shape {list(r.shape)}", "[..., B, G], at least one rollout")
    shaped(f"log_ratio{new}", x, (*r.shape, "τ"))
    within(f"reward{new}", r, 0.0, 1.0, expected="outcome rewards in [0, 1]")
    with np.errstate(invalid="ignore"):  # −∞ and +∞ in one path
        paths = x.sum(-1)
    if np.isnan(paths).any():
        raise InputError(f"log_ratio{new}", "a path whose log ratios have no sum", "numbers")
    k = np.zeros(()) if kl is None else _numbers("kl", kl)
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


def _baseline(
    baseline: ArrayLike | Literal["others"], reward: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, float]:
    """The baseline per rollout and the least and largest value that it could take."""
    if isinstance(baseline, str):
        one_of("baseline", baseline, ("others",))
        return _leave_one_out(reward), 0.0, 1.0
    b = _numbers("baseline", baseline)
    within("baseline", b, 0.0, 1.0, expected="numbers in [0, 1]")
    if b.ndim == 0:
        return b, float(b), float(b)
    shaped("baseline", b, reward.shape, (*reward.shape[:-1], 1))
    return b, 0.0, 1.0


def _x(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """`X(x) = x − 1 − log x ≥ 0`, infinite at 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(ratio - 1 - np.log(ratio))


def _path_weight(log_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """`Λ`, infinite beyond the numbers."""
    with np.errstate(over="ignore"):
        return np.exp(log_ratio.sum(-1))


def _path_range(ratio_range: tuple[float, float], messages: int) -> tuple[float, float]:
    """The least and the largest weight of a path of so many messages."""
    expected = "(low, high) with 0 ≤ low ≤ 1 ≤ high"
    low, high = pair("ratio_range", ratio_range, expected)
    if not 0 <= low <= 1 <= high:
        raise InputError("ratio_range", ratio_range, expected)
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float64(low) ** messages), float(np.float64(high) ** messages)


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
    reward, log_ratio, kl = _rollouts(reward, log_ratio, kl)
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
    reward, log_ratio, _ = _rollouts(reward, log_ratio)
    top = math.log(real_number("high", high, above=1.0, infinite=True))
    return Sample((reward * np.clip(log_ratio.sum(-1), -1, top)).mean(-1), -1.0, top)


def truncated_sample(reward: NDArray[np.float64], log_ratio: NDArray[np.float64], high: float) -> Sample:
    """`Z = G⁻¹Σ_g R_g(min(Λ_g, high) − 1)`."""
    reward, log_ratio, _ = _rollouts(reward, log_ratio)
    real_number("high", high, above=1.0, infinite=True)
    return Sample((reward * (np.minimum(_path_weight(log_ratio), high) - 1)).mean(-1), -1.0, high - 1)


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
    reward, log_ratio, _ = _rollouts(reward, log_ratio)
    b, least, most = _baseline(baseline, reward)
    low, high = _path_range(ratio_range, log_ratio.shape[-1])
    if most and math.isinf(high):
        raise InputError("ratio_range", ratio_range, "a finite upper end: a baseline needs a bounded ratio (S8b)")
    values = ((reward - b) * (_path_weight(log_ratio) - 1)).mean(-1)
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
    reward, log_ratio, kl = _rollouts(reward, log_ratio, kl)
    _path_kl(kl, kl_path_max)
    k_low, k_high = tail_constants(low, high)
    b, least, most = _baseline(baseline, reward)
    weight = _path_weight(log_ratio)
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
    old, new = (_rollouts(r, np.zeros((*np.shape(r), 0)), new=name)[0]
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
    old, new = _rollouts(reward_old, log_ratio_old, new="_old"), _rollouts(reward_new, log_ratio_new, new="_new")
    parts = [((r - baseline) * np.tanh(x.sum(-1) / 2)).mean(-1) for r, x, _ in (old, new)]
    if parts[0].shape != parts[1].shape:
        raise InputError("reward_new", f"{list(parts[1].shape)} prompts", f"{list(parts[0].shape)}, as in reward_old")
    edge = 2 * max(baseline, 1 - baseline)
    return Sample(parts[0] + parts[1], -edge, edge)


EDGE = 1e-9
"""Rounding by which a value may leave its range, relative to the range's end."""


def _require_sample(sample: Sample, alpha: float, betting: bool = True) -> None:
    _level(alpha)
    values = np.asarray(sample.values)
    if values.dtype != np.float64:
        raise InputError("sample.values", f"dtype {values.dtype}", "dtype float64")
    real_number("sample.lower", sample.lower, infinite=not betting)
    real_number("sample.upper", sample.upper, sample.lower, infinite=True)
    if not values.shape or values.shape[-1] < 1:
        raise InputError("sample.values", f"shape {list(values.shape)}", "one number or more for each sample, [..., B]")
    low, high = (edge + sign * EDGE * max(1.0, abs(edge)) if math.isfinite(edge) else edge
                 for edge, sign in ((sample.lower, -1), (sample.upper, 1)))  # fmt: skip
    within("sample.values", values, low, high, expected=f"numbers in [{sample.lower:g}, {sample.upper:g}]")


def bernstein_bound(sample: Sample, alpha: float) -> NDArray[np.float64]:
    """Maurer and Pontil (2009): `Z̄ − √(2V ln(2/α)/B) − 7b ln(2/α)/(3(B−1))`, b the width of the range, V the sample variance.

    −∞ where the range is infinite or B = 1.

    Raises:
      InputError: a value outside the range or NaN, or `alpha` outside (0, 1).
    """
    _require_sample(sample, alpha, betting=False)
    prompts, width = sample.values.shape[-1], sample.upper - sample.lower
    mean = np.asarray(sample.values.mean(-1))
    if prompts == 1 or math.isinf(width):
        return np.full_like(mean, -np.inf)
    scale = math.log(2 / alpha)
    spread = np.sqrt(2 * sample.values.var(-1, ddof=1) * scale / prompts)
    return np.asarray(mean - spread - 7 * width * scale / (3 * (prompts - 1)))


def _log_capital(sample: Sample, mean: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """`Σ_{s≤t} log(1 + λ_s(Z_s − mean))` for every t; [..., B]."""
    z = np.minimum(sample.values, LARGEST)
    prompts = z.shape[-1]
    room = np.asarray(mean, np.float64)[..., None] - sample.lower
    past = np.concatenate([np.zeros_like(z[..., :1]), np.cumsum(z**2, -1)[..., :-1]], -1)
    variance = (max(sample.lower**2 / 4, 1 / LARGEST) + past) / np.arange(1, prompts + 1)
    with np.errstate(divide="ignore"):  # against the lower end itself there is nothing to lose
        cap = STAKE / room
    bet = np.minimum(np.sqrt(2 * math.log(1 / alpha) / (prompts * variance)), cap)
    return np.cumsum(np.log1p(bet * (z - sample.lower - room)), -1)


def betting_log_capital(sample: Sample, mean: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """`max_t Σ_{s≤t} log(1 + λ_s(Z_s − mean))`, the log capital of a bettor against `E Z ≤ mean`, `mean ≥ lower`; [...].

    Bets `λ_t = min(√(2 ln(1/α)/(B·V_{t−1})), 0.9/(mean − lower))`, V the running mean square started at `lower²/4` (after
    Waudby-Smith and Ramdas 2024). Of the range only the lower end is used. Every factor decreases in `mean`; where
    `E[Z_t | past] ≤ mean` the capital is a nonnegative supermartingale and reaches 1/α with probability at most α (Ville).

    Raises:
      InputError: a value outside the range or NaN, `alpha` outside (0, 1), or a mean that is NaN or below the range.
    """
    _require_sample(sample, alpha)
    means = np.asarray(mean, np.float64)
    expected = f"a finite number, at least the lower end {sample.lower:g}"
    within("mean", means, sample.lower, below=np.inf, expected=expected)
    return np.asarray(_log_capital(sample, mean, alpha).max(-1))


def betting_bound(sample: Sample, alpha: float, iterations: int = 60) -> NDArray[np.float64]:
    """The largest mean that `betting_log_capital` rejects at `ln(1/α)`, by bisection from below; [...].

    Raises:
      InputError: a value outside the range or NaN, `alpha` outside (0, 1), or no iteration.
    """
    _require_sample(sample, alpha)
    whole_number("iterations", iterations, 1)
    low = np.full(sample.values.shape[:-1], sample.lower)
    high = np.minimum(sample.values.max(-1), LARGEST)
    for _ in range(iterations):
        middle = (low + high) / 2
        rejected = _log_capital(sample, middle, alpha).max(-1) >= math.log(1 / alpha)
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low


def log_evidence(log_weight: NDArray[np.float64], stake: float) -> float:
    """`Σ log(1 + stake·(w − 1))`: the log capital of one who bets that weights are above 1 in the mean.

    Weights `w ≥ 0` whose mean given all before is at most 1 leave a capital whose mean is at most 1, so that it exceeds c with
    probability at most 1/c (Ville). No assumption on tails.
    """
    if stake == 1.0:
        return float(log_weight.sum())
    return float(np.logaddexp(np.log1p(-stake), np.log(stake) + log_weight).sum())


def weight_evidence(log_weight: NDArray[np.float64]) -> float:
    """The log capital of four bettors together against `E Λ ≤ 1` for rollouts of one prompt, prompts independent.

    Rollouts of the policy in the denominator have it, whatever the other policy is, if that one has not seen them.

    Args:
      log_weight: [B, G], `log Λ` of whole rollouts.
    """
    prompts = np.logaddexp.reduce(log_weight, -1) - math.log(log_weight.shape[-1])
    capital = [log_evidence(prompts, stake) for stake in STAKES]
    return float(np.logaddexp.reduce(capital) - math.log(len(STAKES)))


def _certificate(
    sample: Sample, alpha: float, estimator: str, bound: str, rollouts: int, log_weights: Sequence[NDArray[np.float64]]
) -> Certificate:
    limit = bernstein_bound(sample, alpha) if bound == "bernstein" else betting_bound(sample, alpha)
    found, values = max(float(limit), sample.lower), sample.values
    evidence = max((weight_evidence(x) for x in log_weights), default=-math.inf)
    against = evidence > math.log(max(len(log_weights), 1) / FALSE_ALARM)
    contradiction = (
        f"the mean weight of a rollout is above 1 (log evidence {evidence:.3g}): the rollouts are not of the policy "
        "that they are said to be of, or the other policy was trained on them"
    )
    with np.errstate(over="ignore"):
        deviation = float(values.std(ddof=1))
    return Certificate(
        -math.inf if against else min(found, 1.0), float(values.mean()), deviation, alpha, estimator, bound,
        values.shape[-1], rollouts, (sample.lower, sample.upper), contradiction if against else None, found > 1,
    )  # fmt: skip


def _level(alpha: float) -> float:
    expected = "a probability of error strictly between 0 and 1"
    return real_number("alpha", alpha, above=0.0, below=1.0, expected=expected)


def _rewards(name: str, reward: ArrayLike) -> NDArray[np.float64]:
    out = _numbers(name, reward)
    shaped(name, out, ("B", "G"))
    if out.shape[0] < 2 or out.shape[1] < 1:
        raise InputError(name, f"shape {list(out.shape)}", "at least 2 prompts and 1 rollout")
    finite(name, out)
    within(name, out, 0.0, 1.0, expected="outcome rewards in [0, 1]; rescale by the declared range first")
    return out


def _log_ratios(
    name: str, log_ratio: ArrayLike, reward: NDArray[np.float64], infinity: float | None, limit: float = 700.0
) -> NDArray[np.float64]:
    """Log ratios of messages: finite, as the log-probabilities of a token log are, or else the `infinity` that is declared."""
    out = _numbers(name, log_ratio)
    shaped(name, out, (*reward.shape, "τ"))
    if (bad := ~np.isfinite(out) & ~(out == infinity)).any():
        expected = (
            "finite log ratios (a probability of 0 is a mask or an overflow in a network; for tables: zeros=True)"
        )
        raise InputError(name, out[bad][0], expected if infinity is None else f"log ratios: numbers or {infinity:+}")
    if (most := out.sum(-1).max()) > limit:
        raise InputError(name, f"a path whose log ratios sum to {most:g}", f"at most {limit:g}")
    return out


def finite_sample_certificate(
    reward: ArrayLike,
    log_ratio: ArrayLike,
    kl: ArrayLike | None = None,
    *,
    alpha: float,
    estimator: str = "path",
    bound: str = "betting",
    baseline: ArrayLike | Literal["others"] | None = None,
    ratio_range: tuple[float, float] = (0.0, math.inf),
    kl_path_max: float | None = None,
    clip: float = 0.2,
    path_clip: tuple[float, float] = (0.5, 2.0),
    zeros: bool = False,
) -> Certificate:
    """S8: a lower confidence limit for `J(π̂ⁱ) − J(π̂ⁱ⁻¹)` from rollouts of `π̂ⁱ⁻¹`, `π̂ⁱ` trained on other data.

    No limit exceeds 1, the largest improvement (`cut`). `E Λ ≤ 1` for rollouts of `π̂ⁱ⁻¹` that `π̂ⁱ` did not see; where
    the weights contradict it (`weight_evidence`, false alarms below 1e-6) nothing is certified: `lower` is −∞ (`contradiction`).

    The settings belong to the experiment's plan, or may be chosen on the training rollouts; chosen on these rollouts they cost a
    union bound.

    Args:
      reward: [B, G] outcome rewards in [0, 1], B independent prompts, G rollouts each.
      log_ratio: [B, G, τ], `log π̂ⁱ/π̂ⁱ⁻¹` of the updated agent's messages, zero where there is none; finite, see `zeros`.
      kl: [B, G, τ], KL(current‖new) at the messages' contexts, zero where there is none; `"message"` and `"clipped"` need it.
      alpha: probability of error.
      estimator: `"path"` (`path_sample`), `"truncated"`, `"log"`, `"clipped"`, `"message"` (`message_sample`).
      bound: `"betting"`, or `"bernstein"` for estimators whose range is finite on both sides.
      baseline: see `path_sample`; default 0 for `"path"`, `"others"` for `"clipped"`; the other estimators take none.
      ratio_range: bounds on a message's ratio that hold by construction, for `"path"`.
      kl_path_max: declared bound on `Σ_m KL_m` of any rollout, for `"message"` and `"clipped"`.
      clip: `ε` of `"message"`.
      path_clip: interval for Λ of `"clipped"`; its upper end is that of `"truncated"` and `"log"`.
      zeros: whether `π̂ⁱ` may give a message of `π̂ⁱ⁻¹` the probability zero, as tables do: its log ratio is then −inf and its
        path has weight 0. A network cannot; there −inf is a fault of the log, and refused as the monitor refuses it.

    Raises:
      InputError: a shape, a range, a NaN, a missing argument, or data that contradict a declared bound.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> up = rng.random((500, 1, 1)) < 0.5  # one message: up or not, ½ → 0.6; the reward is 1 after up
      >>> found = finite_sample_certificate(up[..., 0] * 1.0, np.log(np.where(up, 1.2, 0.8)), alpha=0.1)
      >>> 0 < found.lower < 0.1 < found.interval[1]
      True
    """
    alpha = _level(alpha)
    one_of("estimator", estimator, ESTIMATORS)
    one_of("bound", bound, BOUNDS)
    r = _rewards("reward", reward)
    x = _log_ratios("log_ratio", log_ratio, r, -np.inf if zeros else None)
    b = _baseline_of(estimator, baseline, r)
    _path_range(ratio_range, x.shape[-1])
    low, high = ratio_range
    if ((np.exp(x) < low) | (np.exp(x) > high)).any():
        raise InputError(
            "log_ratio", f"a ratio in [{np.exp(x.min()):g}, {np.exp(x.max()):g}]", f"ratios in {ratio_range}"
        )
    real_number("clip", clip, above=0.0, high=1.0)
    _require_path_clip(path_clip)

    if estimator in ("message", "clipped"):
        if kl is None or kl_path_max is None:
            raise InputError("kl, kl_path_max", "none", f"both for estimator {estimator!r}")
        if estimator == "message":
            sample = message_sample(r, x, _numbers("kl", kl), clip, kl_path_max)
        else:
            sample = clipped_sample(r, x, _numbers("kl", kl), kl_path_max, b, path_clip)
    elif estimator == "path":
        sample = path_sample(r, x, b, ratio_range)
    else:
        sample = (truncated_sample if estimator == "truncated" else log_sample)(r, x, path_clip[1])
    if bound == "bernstein" and math.isinf(sample.upper):
        raise InputError(
            "bound", "'bernstein'", f"'betting': the numbers of estimator {estimator!r} have no upper bound here"
        )
    return _certificate(sample, alpha, estimator, bound, r.size, [x.sum(-1)])


def _baseline_of(
    estimator: str, baseline: ArrayLike | Literal["others"] | None, reward: NDArray[np.float64]
) -> ArrayLike | Literal["others"]:
    """The baseline that an estimator takes; refused where it takes none."""
    if baseline is None:
        return "others" if estimator == "clipped" else 0.0
    if estimator not in ("path", "clipped"):
        raise InputError("baseline", "a baseline", f"none for estimator {estimator!r}")
    values, *_ = _baseline(baseline, reward)
    return "others" if isinstance(baseline, str) else values


def _require_path_clip(path_clip: tuple[float, float]) -> None:
    expected = "(low, high) with 0 ≤ low < 1 < high < ∞"
    low, high = pair("path_clip", path_clip, expected)
    if not 0 <= low < 1 < high < math.inf:
        raise InputError("path_clip", path_clip, expected)


def two_sample_certificate(
    reward_old: ArrayLike,
    reward_new: ArrayLike,
    log_ratio_old: ArrayLike | None = None,
    log_ratio_new: ArrayLike | None = None,
    *,
    alpha: float,
    bound: str = "betting",
    baseline: float = 0.5,
    zeros: bool = False,
) -> Certificate:
    """The same limit once the next agent's rollouts, which come from `π̂ⁱ`, are there: S8d with log ratios, without them `R̄' − R̄`.

    Args:
      reward_old: [B, G] from `π̂ⁱ⁻¹`; `reward_new`: [B, G'] from `π̂ⁱ`; row t of both on one prompt or on two independent ones.
      log_ratio_old: [B, G, τ], `log_ratio_new`: [B, G', τ'], always `log π̂ⁱ/π̂ⁱ⁻¹`; both or neither.
      baseline: a number in [0, 1] fixed beforehand.
      zeros: whether a policy may give messages of the other one the probability zero, as tables do: −inf in `log_ratio_old`,
        +inf in `log_ratio_new`; else refused as in `finite_sample_certificate`.

    Raises:
      InputError: as `finite_sample_certificate`.
    """
    alpha = _level(alpha)
    one_of("bound", bound, BOUNDS)
    old, new = _rewards("reward_old", reward_old), _rewards("reward_new", reward_new)
    if len(old) != len(new):
        raise InputError("reward_new", f"{len(new)} prompts", f"{len(old)}, as in reward_old")
    real_number("baseline", baseline, 0.0, 1.0, expected="a number in [0, 1]")
    if (log_ratio_old is None) != (log_ratio_new is None):
        raise InputError("log_ratio_old, log_ratio_new", "one of the two", "both or neither")
    if log_ratio_old is None or log_ratio_new is None:
        return _certificate(difference_sample(old, new), alpha, "difference", bound, old.size + new.size, [])
    x_old = _log_ratios("log_ratio_old", log_ratio_old, old, -np.inf if zeros else None)
    x_new = _log_ratios("log_ratio_new", log_ratio_new, new, np.inf if zeros else None, limit=np.inf)
    sample = bridge_sample(old, x_old, new, x_new, baseline)
    return _certificate(sample, alpha, "bridge", bound, old.size + new.size, [x_old.sum(-1), -x_new.sum(-1)])


def group_normalised_weight(success: ArrayLike, group: int) -> NDArray[np.float64]:
    """PE.10: `w_G(p) = E√(K(G−K)) / (G p(1−p))`, `K ~ Bin(G, p)`: by how much normalising a group reweights a prompt.

    The surrogate formed with `(R−R̄)/s` has the mean `w_G(p)·L` on a prompt whose binary outcome succeeds with probability `p`.
    Its sign says nothing about `J` once the weights of prompts differ: `G ≥ 4`.

    Args:
      success: `p` in (0,1), any shape.
      group: `G ≥ 2` rollouts of one prompt.

    Raises:
      InputError: if `success` or `group` is out of range.

    Example:
      >>> print(group_normalised_weight([0.5, 0.1], 2), group_normalised_weight([0.5, 0.1], 8).round(3))
      [1. 1.] [1.856 2.328]
    """
    from scipy.stats import binom  # here: it takes longer to import than a log to monitor

    p = _numbers("success", success)
    within("success", p, above=0.0, below=1.0, expected="numbers in (0, 1)")
    whole_number("group", group, 2, expected="at least 2")
    k = np.arange(group + 1)
    chance = binom.pmf(k, group, p[..., None])
    return np.asarray((chance * np.sqrt(k * (group - k))).sum(-1) / (group * p * (1 - p)))
