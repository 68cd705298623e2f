"""What the reader of a token log declares, apart from `teamtr_jax.monitor`: the command line shows it without the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from teamtr_jax.sharing import sharers_of
from teamtr_jax.validation import InputError, real_number, whole_number

__all__ = ["Settings", "Watching"]

MOST_DRAWS = 10_000


@dataclass(frozen=True)
class Settings:
    """What the reader declares."""

    delta: float = 0.01
    """Threshold of the token-KL monitor, nats per message."""
    alpha: float = 0.1
    """Intervals and limits have level 1 − α."""
    tolerance: float = 0.1
    """Resample only above this certified shift (total variation) since the rollouts in use."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Declared least and largest reward; ϱ is the difference."""
    held_out: bool = False
    """No update was trained on the rollouts of this log."""
    match: float = 1e-4
    """Log-probabilities within this, nats per token, are of the same policy."""
    draws: int = 100
    """Sub-samples of the tokens, for threshold flips."""
    seed: int = 0
    """Of the sub-samples."""
    complete: bool = False
    """No rollout was left out: groups of unequal size and gaps in the rollout ids are as they were drawn."""
    sharers: tuple[int, ...] | None = None
    """For each agent the number of its parameters (0 0 1: agents 0 and 1 share): an update of a sharer moves all of them."""

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
          InputError: names the option.
        """
        real_number("--delta", self.delta, above=0.0)
        real_number("--alpha", self.alpha, above=0.0, below=1.0)
        real_number("--tolerance", self.tolerance, 0.0, 1.0)
        try:
            low, high = (real_number("--reward-range", end) for end in self.reward_range)
        except (TypeError, ValueError):
            low, high = 0.0, 0.0
        if not low < high:
            raise InputError("--reward-range", self.reward_range, "LOW < HIGH, both finite")
        for name, value in (("--held-out", self.held_out), ("--complete", self.complete)):
            if not isinstance(value, bool | np.bool_):
                raise InputError(name, repr(value), "True or False")
        real_number("--match", self.match, 0.0)
        whole_number("--draws", self.draws, 1, MOST_DRAWS)
        whole_number("--seed", self.seed, 0)
        if self.sharers is not None:
            sharers_of("--sharers", self.sharers)


@dataclass(frozen=True)
class Watching:
    """Of a log that is still written, and what ends the command with another exit code."""

    follow: bool = False
    """The log is still written (JSON lines or a folder of parts): report on it as it grows, until Ctrl-C."""
    refresh: float = 2.0
    """Seconds between two looks, at least."""
    until_idle: float | None = None
    """Also end after so many seconds without a new row."""
    settle: float = 30.0
    """The last update counts as whole after so many seconds without a new row; any other once a later one has begun."""
    fail_above: tuple[str, ...] = ()
    """KEY=VALUE, as kl_k1=0.05: exit code 4 if an update has a number above it, and --follow ends at once."""
    fail_below: tuple[str, ...] = ()
    """The same of a number below it."""

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
          InputError: names the option.
        """
        real_number("--refresh", self.refresh, above=0.0)
        real_number("--settle", self.settle, 0.0)
        if self.until_idle is not None:
            real_number("--until-idle", self.until_idle, 0.0)
            if not self.follow:
                raise InputError("--until-idle", "no --follow", "--follow too: otherwise the log is read once")
