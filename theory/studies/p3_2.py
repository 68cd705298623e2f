"""P3.2, the token chain rule: message KL = expected sum of token KLs along the current policy's message."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import numpy as np

from teamtr_jax import programs
from teamtr_jax.divergences import message_kl_current_to_new, token_kl_current_to_new
from teamtr_jax.dynamics import Tree
from theory import networks
from theory.ledger import Row
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = ["STUDY", "run"]

TREE = Tree(3, 4)


def _divergences(current: jax.Array, new: jax.Array) -> tuple[jax.Array, ...]:
    """Of each pair: KL of the messages, expected KL of the tokens, and this in the other direction."""
    message, tokens = (jax.vmap(partial(f, TREE)) for f in (message_kl_current_to_new, token_kl_current_to_new))
    return message(current, new), tokens(current, new), tokens(new, current)


def run(instances: int, rng: np.random.Generator) -> Row:
    """Random pairs of token policies on messages of 4 tokens over 3 symbols, steps log-uniform on [1e-4, 1].

    Budget: a message probability is a product of T rounded numbers, relative error `2Tu` (u = eps/2). The message KL is
    `Σ p f(r)` with `f = r − log(1+r)`, `r = q/p − 1`, `|f'(r)| δr ≤ 2Tu·2|q−p|/p`, hence an error of `8Tu·TV + 2Tu·KL`; and float
    rows sum to one only within a few u, which each of the T levels turns into an absolute error. Doubled for the other side.
    """
    started = time.perf_counter()
    shape = (instances, TREE.states, TREE.branching)
    current = rng.dirichlet(np.ones(TREE.branching), shape[:2])
    step = 10.0 ** rng.uniform(-4, 0, (instances, 1, 1))
    new = (1 - step) * current + step * rng.dirichlet(np.ones(TREE.branching), shape[:2])

    message, tokens, swapped = (np.asarray(x) for x in programs.run(_divergences, current, new, quick=True))
    unit = np.finfo(float).eps
    other = np.max(abs(swapped / message - 1))
    few = max(1, instances // 10)
    by_networks = networks.message_chain_rule(rng, few)
    message, tokens = (np.concatenate(pair) for pair in zip((message, tokens), by_networks, strict=True))
    tv = np.minimum(1.0, np.sqrt(message / 2))
    budget = 2 * TREE.horizon * unit * (8 * tv + 2 * message + 1)
    residual = abs(message - tokens)
    with np.errstate(divide="ignore"):  # a network that was not updated has no KL
        relative = (budget + residual) / message
    return Row(
        "P3.2", "message KL(current‖new) = E_{message~current} Σ_u token KL_u", "float", len(message),
        int((~(residual <= budget)).sum()), 0, None, float(np.min(relative)),
        seconds=time.perf_counter() - started, checks=len(message),
        note=f"identity on V = 3, T = 4, and on {few:,} updates of transformer teams with V = 2, T = 4; on the former the other "
        f"direction differs by up to {other:.2g} relative",
    )  # fmt: skip


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    del lock
    return Found((run(2_000 if tier.quick else 20_000, rng),))


WORDS = "The KL of two messages is the sum of the KLs of their tokens, averaged along the current policy's messages."
STUDY = Study("messages", {"P3.2": WORDS}, _job)
