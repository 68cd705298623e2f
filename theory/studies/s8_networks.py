"""S8 on networks: rollouts drawn from the enumerated law of small transformer teams."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import numpy as np
import scipy
from jax import Array

from teamtr_jax import finite_sample as fs
from teamtr_jax import programs
from teamtr_jax.divergences import message_probabilities
from teamtr_jax.dynamics import Tree
from theory import networks
from theory.ledger import Row
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = ["STUDY", "run"]


def _laws(policies: Array) -> Array:
    """Probabilities of the messages of each policy."""
    return jax.vmap(partial(message_probabilities, Tree(2, networks.HORIZON)))(policies)


def run(
    rng: np.random.Generator, teams: int = 4, repeats: int = 300, prompts: int = 100, group: int = 2, alpha: float = 0.1
) -> Row:
    """S8 on rollouts drawn from the enumerated law: how often a certificate exceeds the true improvement of a neural update.

    The first agent's update of a stage; a team is refuted where so many misses, or more, had probability 1e-6 at rate α.
    """
    started = time.perf_counter()
    stages = jax.tree.map(np.asarray, networks.make(rng))
    tree = Tree(2, networks.HORIZON)
    moves = stages.team.active[:teams] == stages.order[:teams, :1]
    new = np.where(moves[..., None], stages.target[:teams], stages.current[:teams])
    laws = (np.asarray(programs.run(_laws, x, quick=True)) for x in (stages.current[:teams], new))
    misses, worst, tightest, harmful = [], "", 0.0, 0
    limit = 1 + float(scipy.stats.binom.isf(1e-6, repeats, alpha))
    for b, (p, q) in enumerate(zip(*laws, strict=True)):
        reward = stages.team.reward[b][tree.level(networks.HORIZON - 1)].ravel()
        improvement = float((q - p) @ reward)
        harmful += improvement < 0
        chance = stages.team.active[b, 0] < 0  # a prompt, or the router's first choice: drawn once for each group
        ratio = np.where(p > 0, np.log(np.where(p > 0, q, 1.0) / np.where(p > 0, p, 1.0)), 0.0)
        halves = p.reshape(2, -1) if chance else p[None]
        first = rng.choice(len(halves), size=(repeats, prompts), p=halves.sum(1) / halves.sum())
        cumulative = np.cumsum(halves / halves.sum(1, keepdims=True), 1)
        uniform = rng.random((repeats, prompts, group))
        inside = np.minimum((uniform[..., None] >= cumulative[first][:, :, None]).sum(-1), halves.shape[1] - 1)
        leaf = first[..., None] * halves.shape[1] + inside
        sample = fs.log_sample(reward[leaf], ratio[leaf][..., None], high=2.0)
        for name, bound in (("bernstein", fs.bernstein_bound), ("betting", fs.betting_bound)):
            missed = int((bound(sample, alpha) > improvement).sum())
            misses.append(missed)
            if missed / (repeats * alpha) >= tightest:
                tightest, worst = missed / (repeats * alpha), name
    refuted = sum(m >= limit for m in misses)
    return Row(
        "S8", "", "simulated", repeats * teams, refuted, 0, tightest, limit / (repeats * alpha) - 1,
        seconds=time.perf_counter() - started, checks=len(misses),
        note=f"{teams} neural updates ({harmful} harmful), {repeats} repetitions of {prompts}·{group} transcripts drawn from "
        f"the enumerated law, estimator `log`, α = {alpha:g}: {max(misses)} misses at most ({worst}), {limit:.0f} would refute",
    )  # fmt: skip


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    del lock
    return Found((run(rng, *(() if tier.quick else (20, 1_000))),))


STUDY = Study("sampled networks", {"S8": ""}, _job)
