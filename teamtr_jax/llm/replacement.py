"""Replacing one agent of a team: by another network, from another seed or another checkpoint; what is certified of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray

from teamtr_jax import intervals
from teamtr_jax.chain_audit import OPTIONS, audit_chain
from teamtr_jax.checkpoint import describe, read_manifest, restore, same_leaves
from teamtr_jax.finite_sample import Certificate, finite_sample_certificate, mismatch_certificate
from teamtr_jax.intervals import Interval
from teamtr_jax.llm.alignment import check_newcomer, log_kl, own_log_probs, own_positions
from teamtr_jax.llm.description import described_team, models_of, sharing_of, vocabulary_difference, vocabulary_of
from teamtr_jax.llm.language_model import LanguageModel
from teamtr_jax.llm.layout import Layout, Transcripts, Vocabulary, by_turn, round_robin
from teamtr_jax.llm.model import (
    LanguageTeam,
    ModelConfig,
    Params,
    agent_params,
    init_team,
    with_agent_params,
)
from teamtr_jax.training import CHECKPOINTS
from teamtr_jax.types import Team
from teamtr_jax.validation import InputError, finite, real_number, shaped, whole_number

__all__ = ["Newcomer", "replace_agent", "agent_from_checkpoint", "swap_report", "SampledSwap", "sampled_swap", "SwapTokens",
           "checked_scores", "swap_of"]  # fmt: skip


class Newcomer(NamedTuple):
    """An agent from elsewhere: ``replace_agent(team, params, i, *newcomer)``."""

    config: ModelConfig | LanguageModel
    params: Params
    vocabulary: Vocabulary | None = None  #: the tokenizer that it was trained with, where known


def replace_agent(
    team: LanguageTeam,
    params: Params,
    agent: int,
    config: ModelConfig | LanguageModel,
    own_params: Params,
    vocabulary: Vocabulary | None = None,
) -> tuple[LanguageTeam, Params]:
    """The team with a newcomer in the place of `agent`; the parameters of the others keep every bit.

    Parameters are stacked if all networks of the new team are alike, and a tuple if not. What a trainer keeps for the agent
    (optimiser, β) belongs to the one who left: begin it anew.

    Args:
      config, own_params: the newcomer's network.
      vocabulary: its tokenizer, where known (`agent_from_checkpoint`).

    Raises:
      InputError: as `check_newcomer`, before anything is done.
    """
    check_newcomer(team, agent, config, own_params, vocabulary)
    new = LanguageTeam(team.layout, (*team.models[:agent], config, *team.models[agent + 1 :]), team.sharing)
    own_params = jax.tree.map(jnp.asarray, own_params)
    if team.alike and new.alike:
        return new, with_agent_params(new, params, agent, own_params)
    each = [own_params if k == agent else agent_params(team, params, k) for k in team.who.firsts]
    return new, jax.tree.map(lambda *x: jnp.stack(x), *each) if new.alike else tuple(each)


class _Node:
    """A tree with the names of a manifest and no structure of its own."""

    def __init__(self, names: tuple[str, ...], leaves: list[Any]):
        self.names, self.leaves = names, leaves


class _Key(NamedTuple):
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class _Shape:
    dtype: str
    shape: tuple[int, ...]


jax.tree_util.register_pytree_with_keys(
    _Node,
    lambda node: ([(_Key(n), x) for n, x in zip(node.names, node.leaves, strict=True)], node.names),
    lambda names, leaves: _Node(names, list(leaves)),
)


def agent_from_checkpoint(
    folder: str | Path, agent: int, vocabulary: Vocabulary | None = None, step: int | None = None
) -> Newcomer:
    """One agent of a saved team.

    The checkpoint holds the parameters of the team as its tree, or under `params` of it, and describes the team
    (`description.describe_team`) in its metadata under ``team``, or under ``team`` of a run's settings.

    Args:
      folder: a run of `training.train`, or a folder of checkpoints.
      agent: who, in the saved team.
      vocabulary: that of the team to join; another one is refused before any array is read.
      step: which checkpoint; the newest if not given.

    Raises:
      InputError: no checkpoint, a damaged one, one that does not describe its team; another tokenizer: names what differs.
    """
    home = Path(folder).resolve()
    home = home / CHECKPOINTS if (home / CHECKPOINTS).is_dir() else home
    manifest = read_manifest(home, step)
    about = described_team(manifest["metadata"], str(home))
    saved, models = vocabulary_of(about), models_of(about)
    if vocabulary is not None and (differs := vocabulary_difference(saved, vocabulary)):
        raise InputError(f"vocabulary of {home}", *differs)
    whole_number(f"agent of {home}", agent, 0, len(models) - 1)
    any_layout = Layout(saved, 1, 1, 1, round_robin(saved.agents))
    team = LanguageTeam(any_layout, models, sharing_of(about))
    shapes = jax.eval_shape(partial(init_team, team), jax.random.key(0))
    want = [(name.removeprefix("tree"), dtype, shape) for name, dtype, shape in describe(shapes)]
    leaves = {x["name"]: _Shape(x["dtype"], tuple(x["shape"])) for x in manifest["leaves"]}
    prefix = next((p for p in ("tree", "tree.params", "tree['params']") if p + want[0][0] in leaves), None)
    if prefix is None:
        raise InputError(str(home), f"no leaf {want[0][0]!r}", "parameters of a team, as the tree or under `params`")
    names = [prefix + name for name, *_ in want]
    here = [(name, leaves[name].dtype, leaves[name].shape) for name in names if name in leaves]
    expected = [(prefix + name, dtype, shape) for name, dtype, shape in want]
    same_leaves(here, expected, str(home))
    every = list(leaves)
    tree = restore(
        home, _Node(tuple(n.removeprefix("tree") for n in every), list(leaves.values())), manifest["step"]
    ).tree
    read = dict(zip(every, tree.leaves, strict=True))
    params = jax.tree.unflatten(jax.tree.structure(shapes), [read[name] for name in names])
    return Newcomer(models[agent], agent_params(team, params, agent), saved)


# ------------------------------------------------------------------------------------------------------------- certificates


@partial(jax.jit, compiler_options=OPTIONS)
def _swap(world: Team, states: Array, agent: Array) -> dict[str, Array]:
    found = audit_chain(world, states, agent[None], jnp.zeros(1, int))
    found.pop("in_use")
    return {name: x[0] for name, x in found.items()}


ROUNDING = 1e-4
"""Two programs may give the same network probabilities that differ by rounding in float32, by less than this."""


def swap_report(world: Team, before: Float[Array, "S A"], after: Float[Array, "S A"], agent: int) -> dict[str, float]:
    """P3.8: the swap booked as an update of `agent`, exactly, by the names of docs/records.md.

    Among them `objective_before`, `objective_after`, `shock` (what J loses), `kl` (`δ`: KL(outgoing‖newcomer), summed over the
    conversation), `penalty_paper` and `certificate_paper` (P3.8), `penalty_log_sum` and `certificate_estimable` (`L − ϱδ`, S7),
    every other rung, and `violations`, which is 0. `δ` and S7 are infinite if the newcomer drops a token that the outgoing agent
    uses (a softmax never does); the paper's terms then are at their maximum, since an episodic shift of visits is at most 1.

    Args:
      world: the enumerated team (`enumeration.enumerate_team`), `before` its policy.
      after: the policy of the team with the newcomer (`replace_agent`, then `enumerate_team` again). The rows of the others are
        those of `before`: the same networks, whatever the last bits.

    Raises:
      InputError: no such agent; if rows of the others differ by more than rounding.
    """
    whole_number("agent", agent, 0, world.agents - 1)
    if world.active is None:
        raise InputError("world", "a product team", "an enumerated team, in which agents take turns")
    own = (world.active == agent)[:, None]
    if (apart := float(jnp.where(own, 0.0, abs(after - before)).max())) > ROUNDING:
        raise InputError("after", f"rows of others that differ by {apart:.1g}", f"rows of agent {agent} only")
    states = jnp.stack([before, jnp.where(own, after, before)])
    found = {name: float(x) for name, x in _swap(world, states, jnp.asarray(agent)).items()}
    return {**found, "shock": -found["improvement"]}


class SampledSwap(NamedTuple):
    """What conversations of the team before the swap say about it: means over prompts; sums over a conversation, nats.

    `kl` and `kl_new_to_current` hold the exact KL of every context that was met, `kl_k1` and `kl_k3` its estimates from the
    tokens that were drawn, `−log r` and `r − 1 − log r`.
    """

    kl: Interval  #: `δ`: KL(outgoing‖newcomer)
    kl_k1: Interval
    kl_k3: Interval
    kl_new_to_current: Interval
    tokens: float  #: that the agent wrote, in a conversation
    surrogate: Interval | None  #: `L`
    certificate: Interval | None  #: `L − δ` (S7, rewards in [0, 1])
    limit: Certificate | None  #: S8, S12: of the change of J, if these conversations did not train the newcomer


def sampled_swap(
    team: LanguageTeam,
    params: Params,
    agent: int,
    config: ModelConfig | LanguageModel,
    own_params: Params,
    probes: Transcripts,
    reward: ArrayLike | None = None,
    *,
    alpha: float = 0.1,
) -> SampledSwap:
    """KL monitor and certificates of a swap, from conversations of the team with the outgoing agent.

    Args:
      config, own_params: the newcomer.
      probes: rows prompt by prompt, `G` of each.
      reward: ``[B, G]`` or ``[B]`` in [0, 1], of the same conversations, prompts independent; without it no certificates.
      alpha: probability of error of `limit` and of each interval.

    Raises:
      InputError: a newcomer that does not fit (`check_newcomer`), probes without the agent, or rewards of another shape or range.
    """
    layout = team.layout
    alpha = real_number("alpha", alpha, above=0.0, below=1.0)
    check_newcomer(team, agent, config, own_params)
    own = own_positions(layout, probes, agent)
    score = checked_scores(reward, len(own))
    out = own_log_probs(team.models[agent], layout, agent_params(team, params, agent), probes.tokens)
    new = own_log_probs(config, layout, own_params, probes.tokens)
    said = np.where(own, np.asarray(by_turn(layout, probes.tokens)), 0)[..., None]
    log_ratio = np.take_along_axis(new - out, said, -1)[..., 0]
    group = 1 if score is None else score.shape[1]
    return swap_of(SwapTokens(own, log_ratio, log_kl(out, new), log_kl(new, out)), score, group, alpha)


class SwapTokens(NamedTuple):
    """What two policies say of the ids that one agent wrote, in R conversations of M messages; anything where it wrote none."""

    own: Bool[np.ndarray, "R M L"]
    log_ratio: Float[np.ndarray, "R M L"]  #: `log π'/π` of the id
    kl: Float[np.ndarray, "R M L"]  #: KL(outgoing‖newcomer) of the context, nats
    kl_new_to_current: Float[np.ndarray, "R M L"]
    away: Float[np.ndarray, "R M L"] | None = None  #: `log π/μ` where a sampler μ wrote that may be another policy


def checked_scores(reward: ArrayLike | None, rows: int) -> NDArray[np.float64] | None:
    """Rewards ``[B, G]`` of so many conversations, prompt by prompt; `None` if there are none.

    Raises:
      InputError: another number, what is no number, fewer than two prompts.
    """
    if reward is None:
        return None
    score = np.asarray(reward, np.float64)
    score = score[:, None] if score.ndim == 1 else score
    finite("reward", score)
    if shaped("reward", score, ("B", "G")) and score.size != rows:
        raise InputError("reward", f"{score.size} rewards", f"{rows}, one for each conversation")
    if score.shape[0] < 2:
        raise InputError("reward", "one prompt", "at least 2")
    return score


def swap_of(tokens: SwapTokens, score: NDArray[np.float64] | None, group: int, alpha: float) -> SampledSwap:
    """The swap from its tokens. The limit is S8's, S12's where there is `away`.

    Args:
      score: as `checked_scores` gives it, ``[B, group]``.
      group: conversations of a prompt, one after the other; intervals are over prompts.
    """
    own = tokens.own
    log_ratio = np.where(own, tokens.log_ratio, 0.0)

    def total(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(own, x, 0.0).sum((1, 2)).reshape(-1, group)

    def mean(x: NDArray[np.float64]) -> Interval:
        return intervals.mean(x.mean(1), alpha)

    spent = total(tokens.kl)
    surrogate = certificate = limit = None
    if score is not None:
        others = score if group > 1 else score.T  # the other rollouts of the prompt, or the other prompts
        others = (others.sum(1, keepdims=True) - others) / (others.shape[1] - 1)
        gain = (score - (others if group > 1 else others.T)) * total(np.expm1(log_ratio))
        surrogate, certificate = mean(gain), mean(gain - spent)
        paths = log_ratio.reshape(*score.shape, -1)

        def cut(x: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.minimum(x, 700.0 / x.shape[-1])  # a ratio cut from above: still a lower limit

        if tokens.away is None:
            limit = finite_sample_certificate(score, cut(paths), alpha=alpha)
        else:
            away = np.where(own, tokens.away, 0.0).reshape(paths.shape)
            limit = mismatch_certificate(score, cut(away), cut(away + paths), alpha=alpha)
    return SampledSwap(
        kl=mean(spent),
        kl_k1=mean(total(-log_ratio)),
        kl_k3=mean(total(np.expm1(log_ratio) - log_ratio)),
        kl_new_to_current=mean(total(tokens.kl_new_to_current)),
        tokens=float(own.sum() / len(own)),
        surrogate=surrogate,
        certificate=certificate,
        limit=limit,
    )
