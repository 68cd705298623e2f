"""Which part of a step is kept: rules that say, of each scale that was tried, whether it stays and what is tried next."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

__all__ = ["Search", "Trial", "StepRule", "STEP_RULES"]


class Search(NamedTuple):
    """How far along the step. The point of scale c is `θ + c(θ'−θ)`."""

    scale: Float[Array, ""]  #: to be tried, or kept
    done: Bool[Array, ""]
    tried: Int[Array, ""]  #: how many scales
    best: Float[Array, ""]  #: greatest certificate so far, at least 0, which is that of no step
    chosen: Float[Array, ""]  #: its scale


class Trial(NamedTuple):
    """What was found at one scale, and what a rule may ask."""

    monitor: Float[Array, ""]
    certificate: Callable[[], Float[Array, ""]]  #: `L̂ − ϱK̂` (S7)
    delta: Array  #: radius of the region
    most: int  #: `UpdateSettings.backtrack`


StepRule = Callable[[Search, Trial], Search]
"""The search after a trial of `search.scale`, counted already in `search.tried`."""


def _halved(search: Search, trial: Trial) -> Search:
    """Half of it, `most` times at most, until the monitor is within `delta`; then nothing."""
    done = (trial.monitor <= trial.delta) | (search.scale == 0)
    return search._replace(done=done, scale=jnp.where(search.tried <= trial.most, search.scale / 2, 0.0))


def _best_certified(search: Search, trial: Trial) -> Search:
    """From 1 down a grid of `most` intervals, then once more the best of it; 0 is worth 0."""
    scale, tried, most = search.scale, search.tried, trial.most
    value = trial.certificate().astype(search.best.dtype)
    better = (value > search.best) & (tried <= most)
    best, chosen = jnp.where(better, value, search.best), jnp.where(better, scale, search.chosen)
    done = (tried > most) | ((tried == most) & (chosen == scale))
    return Search(jnp.where(tried < most, (most - tried) / most, chosen), done, tried, best, chosen)


def _whole(search: Search, trial: Trial) -> Search:
    """All of it, unless that leads to where the monitor is not a number."""
    done = jnp.isfinite(trial.monitor) | (search.scale == 0)
    return search._replace(done=done, scale=jnp.zeros_like(search.scale))


STEP_RULES: dict[str, StepRule] = {"trust_region": _halved, "certificate": _best_certified, "none": _whole}
"""How far along a step to go, by the name that `UpdateSettings` is given."""
