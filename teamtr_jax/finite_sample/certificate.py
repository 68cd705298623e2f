"""S8: certificates from rewards and log ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.finite_sample._inputs import level, numbers, path_range
from teamtr_jax.finite_sample.limits import BOUNDS, bernstein_bound, betting_bound
from teamtr_jax.finite_sample.samples import (
    Sample,
    baseline_of,
    bridge_sample,
    clipped_sample,
    difference_sample,
    log_sample,
    message_sample,
    path_sample,
    truncated_sample,
)
from teamtr_jax.validation import InputError, finite, one_of, pair, real_number, shaped, within

__all__ = ["ESTIMATORS", "FALSE_ALARM", "Certificate", "finite_sample_certificate", "two_sample_certificate", "log_evidence",
           "weight_evidence", "weight_capital", "rewards", "log_ratios", "certificate_of"]  # fmt: skip

ESTIMATORS = ("message", "log", "truncated", "path", "clipped")

FALSE_ALARM = 1e-6
"""Rollouts that were drawn as they say are accused with at most this probability, whatever the tails of their weights."""

STAKES = (1.0, 0.3, 0.1, 0.03)


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


def _log_factor(log_weight: NDArray[np.float64], stake: float) -> NDArray[np.float64]:
    return log_weight if stake == 1.0 else np.logaddexp(np.log1p(-stake), np.log(stake) + log_weight)


def log_evidence(log_weight: NDArray[np.float64], stake: float) -> float:
    """`Σ log(1 + stake·(w − 1))`: the log capital of one who bets that weights are above 1 in the mean.

    Weights `w ≥ 0` whose mean given all before is at most 1 leave a capital whose mean is at most 1, so that it exceeds c with
    probability at most 1/c (Ville). No assumption on tails.
    """
    return float(_log_factor(log_weight, stake).sum())


def weight_capital(log_weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log capitals of four bettors against `E Λ ≤ 1`, `log Λ` [..., B, G] → [..., 4]; those of more prompts are added."""
    prompts = np.logaddexp.reduce(log_weight, -1) - math.log(log_weight.shape[-1])
    return np.stack([_log_factor(prompts, stake).sum(-1) for stake in STAKES], -1)


def weight_evidence(log_weight: NDArray[np.float64]) -> float:
    """The log capital of four bettors together against `E Λ ≤ 1` for rollouts of one prompt, prompts independent.

    Rollouts of the policy in the denominator have it, whatever the other policy is, if that one has not seen them.

    Args:
      log_weight: [B, G], `log Λ` of whole rollouts.
    """
    return float(np.logaddexp.reduce(weight_capital(log_weight)) - math.log(len(STAKES)))


def certificate_of(
    sample: Sample, alpha: float, estimator: str, bound: str, rollouts: int, log_weights: Sequence[NDArray[np.float64]]
) -> Certificate:
    """The certificate of a sample; −∞ where the weights of its rollouts contradict it."""
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


def rewards(name: str, reward: ArrayLike, least: int = 2) -> NDArray[np.float64]:
    """Outcome rewards [B, G] of at least so many prompts; refused where they are none."""
    out = numbers(name, reward)
    shaped(name, out, ("B", "G"))
    if out.shape[0] < least or out.shape[1] < 1:
        many = f"{least} prompt{'s' * (least > 1)}"
        raise InputError(name, f"shape {list(out.shape)}", f"at least {many} and 1 rollout")
    finite(name, out)
    within(name, out, 0.0, 1.0, expected="outcome rewards in [0, 1]; rescale by the declared range first")
    return out


def log_ratios(
    name: str, log_ratio: ArrayLike, reward: NDArray[np.float64], infinity: float | None, limit: float = 700.0
) -> NDArray[np.float64]:
    """Log ratios of messages: finite, as the log-probabilities of a token log are, or else the `infinity` that is declared."""
    out = numbers(name, log_ratio)
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
    alpha = level(alpha)
    one_of("estimator", estimator, ESTIMATORS)
    one_of("bound", bound, BOUNDS)
    r = rewards("reward", reward)
    x = log_ratios("log_ratio", log_ratio, r, -np.inf if zeros else None)
    b = _baseline_for(estimator, baseline, r)
    path_range(ratio_range, x.shape[-1])
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
            sample = message_sample(r, x, numbers("kl", kl), clip, kl_path_max)
        else:
            sample = clipped_sample(r, x, numbers("kl", kl), kl_path_max, b, path_clip)
    elif estimator == "path":
        sample = path_sample(r, x, b, ratio_range)
    else:
        sample = (truncated_sample if estimator == "truncated" else log_sample)(r, x, path_clip[1])
    if bound == "bernstein" and math.isinf(sample.upper):
        raise InputError(
            "bound", "'bernstein'", f"'betting': the numbers of estimator {estimator!r} have no upper bound here"
        )
    return certificate_of(sample, alpha, estimator, bound, r.size, [x.sum(-1)])


def _baseline_for(
    estimator: str, baseline: ArrayLike | Literal["others"] | None, reward: NDArray[np.float64]
) -> ArrayLike | Literal["others"]:
    """The baseline that an estimator takes; refused where it takes none."""
    if baseline is None:
        return "others" if estimator == "clipped" else 0.0
    if estimator not in ("path", "clipped"):
        raise InputError("baseline", "a baseline", f"none for estimator {estimator!r}")
    values, *_ = baseline_of(baseline, reward)
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
    alpha = level(alpha)
    one_of("bound", bound, BOUNDS)
    old, new = rewards("reward_old", reward_old), rewards("reward_new", reward_new)
    if len(old) != len(new):
        raise InputError("reward_new", f"{len(new)} prompts", f"{len(old)}, as in reward_old")
    real_number("baseline", baseline, 0.0, 1.0, expected="a number in [0, 1]")
    if (log_ratio_old is None) != (log_ratio_new is None):
        raise InputError("log_ratio_old, log_ratio_new", "one of the two", "both or neither")
    if log_ratio_old is None or log_ratio_new is None:
        return certificate_of(difference_sample(old, new), alpha, "difference", bound, old.size + new.size, [])
    x_old = log_ratios("log_ratio_old", log_ratio_old, old, -np.inf if zeros else None)
    x_new = log_ratios("log_ratio_new", log_ratio_new, new, np.inf if zeros else None, limit=np.inf)
    sample = bridge_sample(old, x_old, new, x_new, baseline)
    return certificate_of(sample, alpha, "bridge", bound, old.size + new.size, [x_old.sum(-1), -x_new.sum(-1)])
