"""What the rollouts of an update say of it alone: token KL, surrogate, weights, and rungs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from teamtr_jax.intervals import Interval, lower_limit, mean, ratio, upper_limit
from teamtr_jax.monitor.doubts import FALSE_ALARM
from teamtr_jax.monitor.estimates import Floats, Weights, flips, gain, grow, growth, normalised, weights
from teamtr_jax.monitor.floor import LogFloor, rounding
from teamtr_jax.monitor.interaction import gap_values
from teamtr_jax.monitor.log import TokenLog
from teamtr_jax.monitor.scored import Scored, per_prompt, score
from teamtr_jax.monitor.updates import Update
from teamtr_jax.monitor_settings import Settings

__all__ = ["STEADY", "Collected", "TokenKL", "Surrogates", "Tails", "Rung", "SamplerGap", "Deployed", "Own", "own"]

CUT = 300.0
"""Log weights are cut at this for S8: from above, so the limit holds, and their squares are finite."""

MOVED_TWICE = "reused, agent moved twice"
"""Name of the rung where the updated agent's own tokens are those of an older policy of it."""

MISMATCH = "mismatch"
"""Name of the rung of rollouts of neither policy (S12): S9's floor for new and its ceiling for current."""

STEADY = ("token ratios", "value-weighted", MISMATCH)
"""Names of the rungs whose mean noise in the scores does not raise (docs/monitor.md, limits under noise)."""


class Collected(NamedTuple):
    """How many, of what, and what they earned."""

    prompts: int
    rollouts: int
    tokens: int
    reward: Interval
    share_tokens: dict[str, float]
    share_messages: dict[str, float]
    messages: float  #: of the updated agents, per rollout
    messages_max: int


class TokenKL(NamedTuple):
    """The monitor of the updated agents' messages; there is none where they wrote nothing."""

    k1: Interval
    k3: Interval
    flips: list[float]  #: of 25 and of 50 % of the tokens


class Surrogates(NamedTuple):
    """Estimates of `L`; those that need rollouts of the current team are `None` on others."""

    messages: Interval
    tokens: Interval | None
    normalised: Interval
    gap: Interval | None
    improvement: Interval | None


class Tails(NamedTuple):
    """Weights of whole rollouts."""

    mean: Interval  #: of new/current
    low: bool  #: the mean is below 1: its tail was not drawn
    update: Weights  #: new/current
    behaviour: Weights | None  #: current/behaviour, on the oldest rollouts that were scored here
    source: int | None  #: which rollouts these are


class SamplerGap(NamedTuple):
    """The policy that wrote the rollouts beside the trainer's two (S12)."""

    current: Interval  #: `K(sampler‖current)` by k3, of every agent's tokens
    new: Interval  #: `K(sampler‖new)`
    misses: Interval  #: `1 − E Λ`, Λ = current/behaviour: what current plays and the sampler never writes
    cuts: bool  #: whether that is above 0


class Deployed(NamedTuple):
    """The sampler with the weights after the update, against the sampler as it wrote the rollouts: two policies, no trainer."""

    kl: Interval  #: `K(sampler‖deployed)` by k3
    improvement: Interval  #: by the weights of whole rollouts
    bound: Interval  #: S9
    lower: float  #: its limit


class Rung(NamedTuple):
    """A lower bound on `J(π̂ⁱ) − J(π̂ⁱ⁻¹)`, and its one-sided limit at α over the number of rungs."""

    id: str
    name: str
    bound: Interval
    lower: float


class Own(NamedTuple):
    """What an update's rollouts say of it."""

    fresh: bool  #: whether they are of the current team
    rollouts: Collected
    kl: TokenKL | None
    episode: Interval  #: `K`
    episode_upper: float
    surrogate: Surrogates
    tails: Tails
    rungs: list[Rung]
    sampler: SamplerGap
    deployed: Deployed | None  #: where the log has its log-probabilities
    floor: LogFloor | None  #: where rollouts were scored twice
    noise: str  #: why S7 by message ratios, S7c and S8 have to reckon with noise; empty where they do not


def _by_prompt(s: Scored, values: Floats) -> Floats:
    """[M] → [B], summed over the messages of a prompt."""
    return np.asarray(np.bincount(s.cluster[s.rollout], values, s.prompts.size), np.float64)


def _rungs(s: Scored, evidence: str, settings: Settings) -> list[tuple[str, str, Interval]]:
    """`(id, name, certificate)`: lower bounds on `J(π̂ⁱ) − J(π̂ⁱ⁻¹)`, each the mean of one number per prompt."""
    low, high = settings.reward_range
    width = high - low
    if evidence == "fresh":
        penalty = width * s.sums(s.k3)
        rungs = [
            ("S7", "message ratios", s.advantage * s.sums(growth(s.new)) - penalty),
            ("S7", "token ratios", s.advantage * s.steps - penalty),
            ("S9", "value-weighted", (s.reward - low) * s.sums(s.new)),
        ]
    else:
        if (s.mine & (abs(s.current) > settings.match * s.tokens)).any():
            surrogate = s.advantage * s.sums(gain(s.current, s.new))
            rungs = [("S7c", MOVED_TWICE, surrogate - width * s.sums(s.k3_new + s.k3_current))]
        else:
            surrogate = s.advantage * s.sums(growth(s.new))
            rungs = [("S7c", "reused rollouts", surrogate - width * s.sums(s.k3_new))]
        both = (s.reward - low) * s.sums(s.current + s.new) + (high - s.reward) * s.sums(s.current)
        rungs.append(("S9", MISMATCH, both))
    return [(id, name, mean(per_prompt(s, values), settings.alpha)) for id, name, values in rungs]


def _finite_values(s: Scored, fresh: bool, settings: Settings) -> Floats:
    """[2, B] S8 (`path_sample`) `Z = mean_g R_g(Λ_g − 1)`, R rescaled to [0, 1], and `mean_g Λ_g − 1`.

    On other rollouts S12 (`mismatch_sample`) `Z = mean_g R_g(Λ'_g − 1) + (1 − R_g)(Λ_g − 1)`, Λ' = new/behaviour, Λ =
    current/behaviour, and the mean of both weights less 1.
    """
    low, high = settings.reward_range
    reward = (s.reward - low) / (high - low)
    if fresh:
        gained = growth(np.minimum(s.sums(s.new), CUT))
        return np.stack([per_prompt(s, reward * gained), per_prompt(s, gained)])
    new, current = (growth(np.minimum(s.sums(x), CUT)) for x in (s.current + s.new, s.current))
    return np.stack([per_prompt(s, reward * new + (1 - reward) * current), per_prompt(s, (new + current) / 2)])


def _sampler(s: Scored, alpha: float) -> SamplerGap:
    misses = mean(per_prompt(s, -growth(s.sums(s.current))), alpha)
    return SamplerGap(
        current=mean(per_prompt(s, s.sums(s.k3_current)), alpha),
        new=mean(per_prompt(s, s.sums(s.k3_new)), alpha),
        misses=misses,
        cuts=lower_limit(misses, FALSE_ALARM) > 0,
    )


def _deployed(log: TokenLog, u: Update, settings: Settings) -> tuple[Deployed, Floats] | tuple[None, None]:
    """The sampler before and after, and the numbers per prompt of the S8 certificate."""
    if log.logp_deployed is None:
        return None, None
    engine = log._replace(logp_current=log.logp_behaviour, logp_new=log.logp_deployed)
    s, alpha = score(engine, u.chosen, np.unique(log.agent)), settings.alpha
    bound = mean(per_prompt(s, (s.reward - settings.reward_range[0]) * s.sums(s.new)), alpha)
    found = Deployed(
        kl=mean(per_prompt(s, s.sums(s.k3)), alpha),
        improvement=mean(per_prompt(s, s.advantage * growth(s.sums(s.new))), alpha),
        bound=bound,
        lower=lower_limit(bound, alpha),
    )
    return found, _finite_values(s, True, settings)


def _rollouts(s: Scored, alpha: float) -> Collected:
    spoken = s.agent >= 0
    agents, tokens = np.unique(s.agent[spoken]), int(s.tokens.sum())
    return Collected(
        prompts=s.prompts.size,
        rollouts=s.reward.size,
        tokens=tokens,
        reward=mean(per_prompt(s, s.reward), alpha),
        share_tokens={str(k): float(s.tokens[s.agent == k].sum() / tokens) for k in agents},
        share_messages={str(k): float((s.agent == k).sum() / spoken.sum()) for k in agents},
        messages=int(s.mine.sum()) / s.reward.size,
        messages_max=int(np.bincount(s.rollout[s.mine], minlength=s.reward.size).max()),
    )


def _token_kl(s: Scored, settings: Settings, rng: np.random.Generator) -> TokenKL | None:
    if not (messages := int(s.mine.sum())):
        return None
    count = _by_prompt(s, s.mine.astype(float))
    k1, k3 = (ratio(_by_prompt(s, values), count, settings.alpha) for values in (s.k1, s.k3))
    return TokenKL(k1, k3, flips(s.token_k1, messages, settings.delta, (0.25, 0.5), settings.draws, rng))


def _surrogates(s: Scored, fresh: bool, alpha: float) -> Surrogates:
    step = s.sums(growth(s.new) if fresh else gain(s.current, s.new))
    scaled = normalised(s.reward, s.cluster, s.prompts.size)

    def of(values: Floats) -> Interval:
        return mean(per_prompt(s, values), alpha)

    return Surrogates(
        messages=of(s.advantage * step),
        tokens=of(s.advantage * s.steps) if fresh else None,
        normalised=of(scaled * step),
        gap=mean(gap_values(s), alpha) if fresh else None,
        improvement=of(s.advantage * growth(s.sums(s.new))) if fresh else None,
    )


def _noise(log: TokenLog, floor: LogFloor | None) -> str:
    """What noise of the scores limits have to reckon with."""
    if floor is not None:
        return f"noise of {floor.episode.value:.2g} nats a rollout" if floor.visible else ""
    return f"rounding of {rounding(log)}, and nothing was scored twice" if rounding(log) else ""


def own(
    log: TokenLog, u: Update, settings: Settings, rng: np.random.Generator, floor: LogFloor | None
) -> tuple[Own, Floats, Floats | None]:
    """What an update's rollouts say of it, and the numbers per prompt of the S8 certificates, of the update and as deployed."""
    agents, alpha, fresh = np.asarray(u.agents, np.int64), settings.alpha, u.evidence == "fresh"
    s = score(log, u.chosen, agents)
    old = [(source, chosen) for source, chosen in u.sets.items() if u.off[source] > settings.match]
    weighed = score(log, old[0][1], agents) if old else None
    mean_weight = mean(per_prompt(s, grow(s.sums(s.new))), alpha)
    episode = mean(per_prompt(s, s.sums(s.k3)), alpha)
    rungs, sampler = _rungs(s, u.evidence, settings), _sampler(s, alpha)
    deployed, values = _deployed(log, u, settings)
    noise = _noise(log, floor)
    left_out = [name for _, name, _ in rungs if noise and name not in STEADY]
    left_out += [name for id, name, _ in rungs if sampler.cuts and id == "S7c"]
    found = Own(
        fresh=fresh,
        rollouts=_rollouts(s, alpha),
        kl=_token_kl(s, settings, rng),
        episode=episode,
        episode_upper=upper_limit(episode, alpha),
        surrogate=_surrogates(s, fresh, alpha),
        tails=Tails(
            mean=mean_weight,
            low=upper_limit(mean_weight, FALSE_ALARM) < 1,
            update=weights(s.sums(s.new)),
            behaviour=None if weighed is None else weights(weighed.sums(weighed.current)),
            source=old[0][0] if old else None,
        ),
        rungs=[
            Rung(id, name, x, -np.inf if name in left_out else lower_limit(x, alpha / len(rungs)))
            for id, name, x in rungs
        ],
        sampler=sampler,
        deployed=deployed,
        floor=floor,
        noise=noise,
    )
    return found, _finite_values(s, fresh, settings), values
