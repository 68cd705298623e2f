"""Advantages of rollouts, clipped ratios of tokens and messages, and estimators of the KL: pure functions.

Arrays over message positions are ``[R, turns, L]`` (`layout.by_turn`), R conversations; of a text team's `Reading` its messages
stand for the turns. `own` says which of them the updated
agent, or a sharer of its parameters, wrote; every function gives zero, and a zero gradient, elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from teamtr_jax.llm.layout import Layout, by_turn
from teamtr_jax.llm.token_statistics import TokenStatistics
from teamtr_jax.rollouts import centred_advantage, group_normalised_advantage
from teamtr_jax.validation import one_of

__all__ = ["Advantage", "Average", "LARGEST", "rollout_advantage", "mixed_groups", "own_tokens", "k1", "k3",
           "k3_float64", "Divergence", "divergence", "per_message", "Estimator", "ESTIMATORS", "PENALTIES", "Ratio",
           "RATIOS", "Spending", "SPENDING", "within_budget", "ratio_of", "clipped_surrogate",
           "unit_weights"]  # fmt: skip

Advantage = Literal["group_normalised", "centred", "batch_normalised"]
"""Of a rollout with reward R: ``group_normalised``: the paper's `clip((R−μ)/√(σ²+ε), ±A_clip)` over the rollouts of its prompt
(GRPO); ``centred``: `R − R̄_{−g}`, unbiased; ``batch_normalised``: as the first, over all rollouts (PPO without a critic)."""

Average = Literal["rollout", "sequence", "unit"]
"""``rollout``: sum over the agent's messages (tokens) of a rollout, mean over rollouts: the surrogate `L`, in units of the
advantage; ``sequence``: mean over them, then over rollouts (GRPO); ``unit``: one mean over all of them (DAPO, PPO)."""

LARGEST = 20.0
"""Log ratios are cut at this before they are exponentiated."""


# -------------------------------------------------------------------------------------------------------------- advantages


def rollout_advantage(reward: Float[Array, "B G"], kind: str, clip: float | Array) -> Float[Array, "B G"]:
    """One advantage of each rollout, `kind` as in `Advantage`; ``centred`` is not clipped. Exactly 0 where all earned the same.

    Raises:
      InputError: unknown kind.

    Example:
      >>> print(rollout_advantage(jnp.array([[0.0, 0.0], [0.0, 1.0]]), "batch_normalised", 1.5).round(3))
      [[-0.577 -0.577]
       [-0.577  1.5  ]]
    """
    one_of("advantage", kind, get_args(Advantage))
    if kind == "batch_normalised":  # one group
        return rollout_advantage(reward.reshape(1, -1), "group_normalised", clip).reshape(reward.shape)
    normalised = jnp.clip(group_normalised_advantage(reward), -clip, clip)
    advantage = centred_advantage(reward) if kind == "centred" else normalised
    return jnp.where(mixed_groups(reward)[:, None], advantage, 0.0)


def mixed_groups(reward: Float[Array, "B G"]) -> Bool[Array, " B"]:
    """Prompts whose rollouts did not all earn the same: the others teach nothing (DAPO drops them)."""
    return reward.max(-1) > reward.min(-1)


# ------------------------------------------------------------------------------------------------------- what agents wrote


def own_tokens(
    layout: Layout,
    tokens: Int[Array, "R N"],
    speaker: Int[Array, "R turns"],
    agent: Int[Array, ""] | Bool[Array, " n"] | int,
) -> Bool[Array, "R turns L"]:
    """The message positions that hold a token of `agent`: neither prompt, header, PAD nor another's message.

    Args:
      agent: its number, or of several whether each agent is one of them.
    """
    theirs = speaker == agent if jnp.ndim(agent) == 0 else jnp.asarray(agent)[speaker]
    return (by_turn(layout, tokens) != layout.vocabulary.pad) & theirs[:, :, None]


# ------------------------------------------------------------------------------------------------------------- divergences


def k1(log_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """`−log r`, `r = π'/π`: unbiased for `KL(current‖new)` under samples of the current policy, may be negative."""
    return -log_ratio


def k3(log_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """`r − 1 − log r ≥ 0`, `r = π'/π`: unbiased for `KL(current‖new)` under samples of the current policy."""
    return jnp.expm1(jnp.minimum(log_ratio, LARGEST)) - log_ratio


def k3_float64(log_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """`k3` on the host, in float64 whatever the setting: squares of rounding are small."""
    return np.expm1(np.minimum(log_ratio, LARGEST)) - log_ratio


class Divergence(NamedTuple):
    """How an agent moved, at each of its tokens; zero elsewhere."""

    log_ratio: Float[Array, "R turns L"]  #: `log π'/π` of the token written
    kl: Float[Array, "R turns L"]  #: `KL(current‖new)` over the vocabulary, given the text before


def divergence(found: TokenStatistics, own: Bool[Array, "R turns L"]) -> Divergence:
    """From what both policies say of the same tokens."""
    return Divergence(jnp.where(own, found.new - found.current, 0.0), jnp.where(own, found.kl, 0.0))


def per_message(x: Float[Array, "R turns L"]) -> Float[Array, "R turns"]:
    """Sum over the tokens of each message: of log ratios the log ratio of the message, of KLs its KL by P3.2."""
    return x.sum(-1)


Estimator = Callable[[Divergence], Float[Array, "R turns L"]]
"""The term of each token in an estimate of the KL of messages."""

ESTIMATORS: dict[str, Estimator] = {
    "k1": lambda moved: k1(moved.log_ratio),
    "k3": lambda moved: k3(moved.log_ratio),
    "exact": lambda moved: moved.kl,
}
"""Of `KL(current‖new)`: from the tokens written, and over the whole vocabulary given the text before each."""

PENALTIES: dict[str, Estimator] = ESTIMATORS | {"k3_new_to_current": lambda moved: k3(-moved.log_ratio)}
"""What may stand in the loss; the last is GRPO's, of `KL(new‖current)`."""


# ---------------------------------------------------------------------------------------------------------------- objective


class Ratio(NamedTuple):
    """What an objective clips: one ratio for each of its units, which are messages ``[R, turns]`` or tokens ``[R, turns, L]``."""

    units: Callable[[Bool[Array, "R turns L"]], Bool[Array, "R turns *L"]]  #: `own` → which units are there
    total: Callable[[Float[Array, "R turns L"]], Float[Array, "R turns *L"]]  #: the sum over the tokens of a unit
    log_ratio: Callable[[Float[Array, "R turns L"], Bool[Array, "R turns L"]], Float[Array, "R turns *L"]]
    """(log ratios of tokens, `own`) → `log ρ` of each unit."""


def _geometric_mean(log_ratio: Float[Array, "R turns L"], own: Bool[Array, "R turns L"]) -> Float[Array, "R turns"]:
    """`log (∏_u π'/π)^{1/|m|}`."""
    return per_message(log_ratio) / jnp.maximum(own.sum(-1), 1)


RATIOS: dict[str, Ratio] = {
    "message": Ratio(lambda own: own.any(-1), per_message, lambda log_ratio, own: per_message(log_ratio)),
    "token": Ratio(lambda own: own, lambda x: x, lambda log_ratio, own: log_ratio),
    "geometric_mean": Ratio(lambda own: own.any(-1), per_message, _geometric_mean),
}
"""What is clipped. ``message``: the ratio of a whole message `ρ = ∏_u π'/π`; ``token``: of each token; ``geometric_mean``: of a
message of |m| tokens `s = (∏_u π'/π)^{1/|m|}` (GSPO, Zheng et al. 2025, arXiv 2507.18071, whose response is a message here).
`s` is for clipping only: its mean is not 1, its slope at the current policy is 1/|m| of that of `ρ`, and no bound speaks of it.
The KL of a message is the sum over its tokens, whatever is clipped."""


Spending = Callable[[TokenStatistics], Float[Array, "R turns L"]]
"""What both policies say of each token → what it spends of a χ² budget."""


SPENDING: dict[str, Spending | None] = {
    "none": None,
    "chi_square": lambda found: found.chi_square,
    "square": lambda found: (ratio_of(found.new - found.current) - 1) ** 2,
}
"""What counts against `UpdateSettings.budget` (S10): χ² given the text before each token, or `(ρ−1)²` of what was written, whose
mean is χ². ``none``: nothing does."""


def within_budget(spent: Float[Array, "R turns *L"], budget: float | Array) -> Bool[Array, "R turns *L"]:
    """Which units come before a rollout has spent more than its budget: `Σ` over the units up to this one `≤ X`.

    What comes after counts no more in the objective: a sequence mask. Zheng et al. (2025, arXiv:2510.01161) mask by
    second moments over a batch.

    Example:
      >>> print(within_budget(jnp.array([[0.25, 0.5, 0.25, 0.0], [2.0, 0.0, 0.0, 0.0]]), 0.75))
      [[ True  True False False]
       [False False False False]]
    """
    return (jnp.cumsum(spent.reshape(len(spent), -1), 1) <= budget).reshape(spent.shape)


def ratio_of(log_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """`ρ = π'/π`, at most e²⁰."""
    return jnp.exp(jnp.minimum(log_ratio, LARGEST))


def clipped_surrogate(
    log_ratio: Float[Array, "..."],
    advantage: Float[Array, "..."],
    low: float | Array,
    high: float | Array,
) -> Float[Array, "..."]:
    """PPO: `min(ρA, clip(ρ, 1−low, 1+high)A) − A`, zero at `ρ = 1`.

    Example:
      >>> A = jnp.array([1.0, 1.0, -1.0]); d = jnp.log(jnp.array([1.5, 0.5, 1.5]))
      >>> print(clipped_surrogate(d, A, 0.2, 0.2).round(3))
      [ 0.2 -0.5 -0.5]
    """
    ratio = ratio_of(log_ratio)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - low, 1 + high) * advantage) - advantage


def unit_weights(units: Bool[Array, "R turns *L"], row: Float[Array, " R"], average: str) -> Float[Array, "R turns *L"]:
    """How much each message ``[R, turns]`` or token ``[R, turns, L]`` counts in the objective of a minibatch.

    Args:
      units: which are there (`Ratio.units`).
      row: 1 for a rollout that counts, 0 for one that does not: neither in sums nor in the numbers they are divided by.
      average: `Average`.
    """
    there = units.astype(row.dtype)
    here = row.reshape(-1, *(1,) * (there.ndim - 1))
    axes = tuple(range(1, there.ndim))
    rows = jnp.maximum(row.sum(), 1.0)
    if average == "rollout":
        return here * there / rows
    if average == "sequence":
        return here * there / (rows * jnp.maximum(there.sum(axes, keepdims=True), 1.0))
    return here * there / jnp.maximum((here * there).sum(), 1.0)
