"""S12 on networks: the sampler is a rounded, sharper or truncated copy of the trainer's policy, all transcripts enumerated.

What a trainer certifies about its own policies, what it would certify if it took the sampler's rollouts for its own, and which
updates are accepted for deployment: by the gap proxy of arXiv:2606.29526 and by S9 on the sampler's own numbers.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from teamtr_jax import programs
from teamtr_jax.divergences import message_probabilities
from teamtr_jax.dynamics import Tree
from teamtr_jax.mismatch import Mismatch, mismatch
from teamtr_jax.values import objective
from theory import networks
from theory.ledger import Row
from theory.studies.base import Found, Study, write
from theory.tiers import Tier

__all__ = ["STUDY", "ENGINES", "Engine", "Laws", "laws", "judged", "run", "as_table"]

ENGINES = ("the trainer's", "bfloat16 weights", "float8 weights", "temperature 0.9", "top-p 0.9")
"""What writes the rollouts and is deployed; always a copy of the trainer's policy of the moment."""
TEMPERATURE, TOP_P = 0.9, 0.9
ROUNDED = ((8, 7), (4, 3))
"""Bits of exponent and mantissa: bfloat16, float8 (e4m3)."""
TOLERANCES = (0.0, 1e-3)
"""`c` of the gap proxy, in units of the reward."""
SMALL = 1e-12
"""What two sums over 16 transcripts may differ by."""


class Laws(NamedTuple):
    """Batch of updates by engine: probabilities of the transcripts and both sides of S12."""

    sampler: NDArray[np.float64]  #: [B, E, 2, leaves], `P_μ` before the update and after it
    trainer: NDArray[np.float64]  #: [B, 2, leaves], `P_π`, `P_π'`
    reward: NDArray[np.float64]  #: [B, leaves], in [0, 1]
    sides: Mismatch  #: [B, E]


def _nucleus(policy: Array) -> Array:
    """The smallest set of the likeliest symbols that has the probability `TOP_P`, renormalised."""
    order = jnp.argsort(-policy, -1)
    ranked = jnp.take_along_axis(policy, order, -1)
    kept = jnp.cumsum(ranked, -1) - ranked < TOP_P
    cut = jnp.where(jnp.take_along_axis(kept, jnp.argsort(order, -1), -1), policy, 0.0)
    return cut / cut.sum(-1, keepdims=True)


def _copies(world: Any, params: Any) -> Array:
    """`[E, S, V]`: the trainer's policy, then every engine's copy of it; chance is as it is."""
    from teamtr_jax.llm.enumeration import differentiable_policy

    def rounded(bits: tuple[int, int]) -> Array:
        return differentiable_policy(world, jax.tree.map(lambda x: lax.reduce_precision(x, *bits), params))

    own = differentiable_policy(world, params)
    sharp = jax.nn.softmax(jnp.log(own) / TEMPERATURE, -1)
    out = jnp.stack([own, *map(rounded, ROUNDED), sharp, _nucleus(own)])
    return jnp.where((world.team.active >= 0)[:, None], out, own)


def _update(worlds: Any, params: Any, which: Array, rates: Array, rewards: Array) -> tuple[Array, Array, Mismatch]:
    """One network team, updated along its policy gradient: laws before and after by engine `[E, 2, leaves]`, the reward, S12."""
    from teamtr_jax.llm.enumeration import differentiable_policy

    world = jax.tree.map(lambda x: x[which], worlds)
    table = rewards[world.team.reward.astype(int)]
    tree = Tree(2, networks.HORIZON)
    last = tree.level(networks.HORIZON - 1)
    world = replace(world, team=replace(world.team, reward=jnp.zeros_like(table).at[last].set(table[last])))
    grad = jax.grad(lambda x: objective(world.team, differentiable_policy(world, x)))(params)

    def moved(x: Array, g: Array) -> Array:
        return (x + g * rates.reshape(-1, *(1 for _ in x.shape[1:]))).astype(x.dtype)

    before, after = _copies(world, params), _copies(world, jax.tree.map(moved, params, grad))
    both = jnp.stack([before, after], 1)
    law = jax.vmap(jax.vmap(partial(message_probabilities, tree)))(both)
    sides = lax.map(lambda mu: mismatch(world.team, mu, before[0], after[0]), before)
    return law, world.team.reward[last].ravel(), sides


def _updates(*batch: Any) -> tuple[Array, Array, Mismatch]:
    return jax.vmap(_update, in_axes=(None, 0, 0, 0, 0))(*batch)


def laws(rng: np.random.Generator, batch: int = networks.BATCH) -> Laws:
    """Fresh teams of `theory.networks`, one agent or both updated by a rate log-uniform in [1e-2, 32]."""
    moves = rng.random((batch, networks.AGENTS)) < 0.5
    moves[np.arange(batch), rng.integers(networks.AGENTS, size=batch)] = True
    rates = moves * 10.0 ** rng.uniform(-2, 1.5, (batch, 1))
    rewards = rng.random((batch, 2**networks.HORIZON))
    rewards = np.where(rng.random((batch, 1)) < 0.5, rewards, rewards < 0.4).astype(float)
    which = rng.integers(len(networks.layouts()), size=batch)
    params = networks.noise(rng, batch, True)
    law, reward, sides = programs.run(_updates, networks.worlds(), params, which, rates, rewards, quick=True)
    law = np.asarray(law)
    return Laws(law, law[:, 0], np.asarray(reward), jax.tree.map(np.asarray, sides))


class Engine(NamedTuple):
    """What was found of one engine, numbers of updates if nothing else is said."""

    name: str
    kl: float  #: mean `K(μ,π)`
    missed: float  #: largest probability that π gives to transcripts which μ never writes
    bound: float  #: largest |gap|/bound of S12
    above: int  #: certificates of S12, of S9 as deployed, and gaps, that exceed the truth or the bound
    certified: int  #: S12 is positive
    naive: int  #: S9 of new over current, on rollouts that are μ's: above `J(π') − J(π)`
    misled: int  #: `J(π') > J(π)`, `J(μ') < J(μ)`
    worse: int  #: `J(μ') < J(μ)`
    proxy: list[int]  #: accepted by `J(μ') − J(π') ≥ −c`, for each c of `TOLERANCES`
    proxy_worse: list[int]  #: of these, `J(μ') < J(μ)`
    deployed: int  #: accepted by S9 on μ and μ'
    deployed_worse: int


def _weighted(base: Any, reward: Any, new: Any, over: Any) -> NDArray[np.float64]:
    """`E_base[R log(new/over)]`, `0·∞ = 0`."""
    paid = (base > 0) & (reward > 0)
    with np.errstate(divide="ignore"):
        score = np.log(np.where(paid, new, 1.0) / np.where(paid, over, 1.0))
    return (np.where(paid, base * reward, 1.0) * score).sum(-1)


def judged(found: Laws) -> list[Engine]:
    """Every engine, the trainer's own policy first."""
    (pi, new), reward = np.moveaxis(found.trainer, 1, 0), found.reward
    better = ((new - pi) * reward).sum(-1)
    out = []
    for e, name in enumerate(ENGINES):
        mu, after = np.moveaxis(found.sampler[:, e], 1, 0)
        gain = ((after - mu) * reward).sum(-1)
        s12 = _weighted(mu, reward, new, mu) + _weighted(mu, 1 - reward, pi, mu)
        s9 = _weighted(mu, reward, after, mu)
        naive = _weighted(mu, reward, new, pi)
        proxies = [((after - new) * reward).sum(-1) >= -c - SMALL for c in TOLERANCES]
        gap, penalty = abs(found.sides.gap[:, e]), found.sides.penalty[:, e]
        ratio = np.divide(gap, penalty, out=np.zeros_like(gap), where=(penalty > 0) & np.isfinite(penalty))
        wrong = [s12 > better + SMALL, s9 > gain + SMALL, gap > penalty + found.sides.rounding[:, e]]
        worse = gain < -SMALL
        out.append(
            Engine(
                name, float(np.mean(found.sides.kl_sampler_to_current[:, e])),
                float(np.where(mu > 0, 0.0, pi).sum(-1).max()), float(ratio.max()), int(sum(x.sum() for x in wrong)),
                int((s12 > SMALL).sum()), int((naive > better + SMALL).sum()), int(((better > SMALL) & worse).sum()),
                int(worse.sum()), [int(x.sum()) for x in proxies],
                [int((x & worse).sum()) for x in proxies], int((s9 > SMALL).sum()),
                int(((s9 > SMALL) & worse).sum()),
            )
        )  # fmt: skip
    return out


PROXY = ("gap proxy accepts", "of these μ loses")
HEADINGS = (
    "sampler μ", "K(μ,π), mean", "π where μ never is", "gap / bound of S12", "S12 > 0", "taken for π: too large",
    "π gains, μ loses", "μ loses", *(f"{what}, c = {c:g}" for c in TOLERANCES for what in PROXY), "S9 of μ' over μ > 0",
    "of these μ loses",
)  # fmt: skip


def as_table(engines: list[Engine], updates: int) -> str:
    """The table of a page: numbers of updates after the first three columns."""
    lines = [HEADINGS, ["---"] * len(HEADINGS)]
    for x in engines:
        proxies = [n for pair in zip(x.proxy, x.proxy_worse, strict=True) for n in pair]
        counts = (x.certified, x.naive, x.misled, x.worse, *proxies, x.deployed, x.deployed_worse)
        lines.append([x.name, f"{x.kl:.2g}", f"{x.missed:.2g}", f"{x.bound:.3f}", *map(str, counts)])
    half = 0.98 * math.sqrt(updates)  # 1.96·√(n/4)
    about = (
        f"{updates:,} updates of small transformer teams, drawn at random, by their policy gradient; of each every transcript is "
        f"enumerated. Counts are of these updates: another draw of as many differs by at most {half:.0f} from the mean in 95 of "
        "100 cases. What the columns are: [S12](../../theory/derivations/s12.md)."
    )
    return f"# Trainer and sampler\n\n{about}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run(
    rng: np.random.Generator, batches: int = 1, lock: AbstractContextManager[Any] | None = None
) -> tuple[Row, list[Engine], int]:
    """All engines on `batches` × 200 updates; `lock` as in the audit."""
    started = time.perf_counter()
    with lock or nullcontext():
        parts = [laws(rng) for _ in range(batches)]
    found = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    engines, updates = judged(found), len(found.reward)
    tightest = max(x.bound for x in engines)
    text = "; ".join(
        f"{x.name}: K(μ,π) {x.kl:.2g}, {x.naive} too large if taken for the trainer's own, {x.worse} worse as deployed, of which "
        f"the gap proxy (c = 0) accepts {x.proxy_worse[0]} (of {x.proxy[0]}), S9 on the sampler's numbers {x.deployed_worse} "
        f"(of {x.deployed})"
        for x in engines[1:]
    )
    row = Row(
        "S12", "", "float", updates * len(engines), sum(x.above for x in engines), 0, tightest, 1 - tightest,
        seconds=time.perf_counter() - started, checks=3 * updates * len(engines),
        note=f"{updates:,} updates of enumerated networks whose sampler is a copy. {text}",
    )  # fmt: skip
    return row, engines, updates


def _page(engines: list[Engine], updates: int, path: Path) -> Path:
    return write(as_table(engines, updates), path)


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    row, engines, updates = run(rng, 1 if tier.quick else 10, lock)
    return Found((row,), {"sampler.md": partial(_page, engines, updates)})


STUDY = Study("trainer and sampler", {"S12": ""}, _job)
