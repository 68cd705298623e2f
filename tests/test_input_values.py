"""What the Python API of the core refuses: every constructor and every public function by the value that is wrong."""

import copy
from dataclasses import replace
from functools import partial

import builders
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from builders import as_stage, random_case

from teamtr_jax import certificates
from teamtr_jax.bounds import ladder, least
from teamtr_jax.chain_audit import audit_chain
from teamtr_jax.divergences import kl_current_to_new, total_variation
from teamtr_jax.dynamics import Dense, Layered, Successors, Tree
from teamtr_jax.interaction import interaction_matrix, skippable
from teamtr_jax.rollouts import (
    broadcast_advantage,
    centred_advantage,
    estimate_tables,
    group_normalised_advantage,
    log_ratios,
    message_log_ratios,
    path_weight,
    prefix_weight,
    reward_to_go,
    rollouts_of_paths,
    sample_rollouts,
    surrogate_parts,
    truncation_bias,
    weight_diagnostics,
)
from teamtr_jax.sampled import Sampling, prompts_per_set, sampled_backend
from teamtr_jax.schedules import (
    certificate_driven,
    every,
    fixed,
    fresh,
    importance_weighted,
    path_shift,
    reverse,
    single,
)
from teamtr_jax.stage import Backend, run_stage
from teamtr_jax.surrogates import evaluate_stage, hybrid_evaluations, stage_report
from teamtr_jax.tabular import evaluate, exact_backend, improvement_stage, team_state
from teamtr_jax.trust_region import kl_constrained
from teamtr_jax.types import Estimate, Layers, Stage, StageReport, Team, require_report, verified, wrong_fields
from teamtr_jax.validation import ROW_TOLERANCE, InputError, unchecked
from teamtr_jax.values import action_values, advantages, evaluate_policy, objective, optimal_values, values
from teamtr_jax.visits import chain_hybrids, hybrids, marginal_advantage, occupancy, visits

TURNS = as_stage(random_case(np.random.default_rng(0), "discounted", "turn-taking", gamma=0.9))
PRODUCT = as_stage(random_case(np.random.default_rng(1), "discounted", "product", gamma=0.9))
EPISODE = as_stage(random_case(np.random.default_rng(2), "episodic", "turn-taking"))
TEAM, WORLD, POLICY = TURNS.team, TURNS.team.dynamics, TURNS.current
S, A = POLICY.shape
N = TEAM.agents
LISTED = Successors(jnp.array([[[0, 1]], [[1, 0]]]), jnp.array([[[0.5, 0.5]], [[1.0, 0.0]]]), jnp.asarray(0.5))
CLOCKED = builders.dense(builders.episodic_world(np.random.default_rng(3), 2, 2, 3))
KERNEL = Dense(WORLD.transition, None)


def put(array, index, value):
    return jnp.asarray(array).at[index].set(value)


def scaled(x, by=0.9):
    """Behind the back of the constructor: jax puts a bundle together without its checks."""
    return jax.tree.map(lambda leaf: leaf * by if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, x)


CONSTRUCTED = {
    "rows of P": (
        lambda: Dense(WORLD.transition * 0.9, WORLD.discount),
        r"transition: found row \[0, 0\] that sums to 0\.9",
    ),
    "negative P": (
        lambda: Dense(put(WORLD.transition, (1, 2, 0), -0.5), WORLD.discount),
        r"transition: found -0\.5 at \[1, 2, 0\]",
    ),
    "NaN in P": (
        lambda: Dense(put(WORLD.transition, (1, 2, 0), jnp.nan), WORLD.discount),
        r"transition: found nan at \[1, 2, 0\]",
    ),
    "kernel": (lambda: Dense(WORLD.transition * 0.9, None), r"transition: found row \[0, 0\]"),
    "P of another shape": (lambda: Dense(WORLD.transition[:, :, :-1], WORLD.discount), "transition: found axes"),
    "P of two axes": (lambda: Dense(WORLD.transition[0], WORLD.discount), "transition: found shape"),
    "a list": (lambda: Dense([[[1.0]]], 0.5), "transition: found a list, expected an array"),
    "discount 1.": (lambda: Dense(WORLD.transition, 1.0), r"discount: found 1\.0, expected a discount in \[0, 1\)"),
    "discount 1": (lambda: Dense(WORLD.transition, jnp.asarray(1)), r"discount: found 1\.0"),
    "discount −0.1": (lambda: Dense(WORLD.transition, jnp.asarray(-0.1)), r"discount: found -0\.1"),
    "discount NaN": (lambda: Dense(WORLD.transition, jnp.asarray(jnp.nan)), "discount: found nan"),
    "discounts": (lambda: Dense(jnp.stack([WORLD.transition] * 2), jnp.array([0.5, 1.5])), r"discount: found 1\.5"),
    "batches": (
        lambda: Dense(jnp.stack([WORLD.transition] * 2), jnp.full(3, 0.5)),
        r"transition and discount: found leading axes",
    ),
    "clock": (lambda: replace(CLOCKED, clock=None), "clock: found None, expected the time step"),
    "clock alone": (lambda: Dense(WORLD.transition, 0.5, jnp.arange(S)), "clock: found an array, expected none"),
    "clock outside": (lambda: replace(CLOCKED, clock=CLOCKED.clock + 1), r"clock: found 3 at"),
    "episodic discount": (lambda: replace(CLOCKED, discount=jnp.asarray(0.9)), r"discount: found 0\.9, expected 1\.0"),
    "horizon 0": (lambda: replace(CLOCKED, horizon=0), "horizon: found 0, expected an integer, at least 1"),
    "successor outside": (
        lambda: replace(LISTED, index=LISTED.index + 1),
        r"index: found 2 at \[0, 0, 1\], expected integers from 0 to 1",
    ),
    "successor −1": (lambda: replace(LISTED, index=LISTED.index - 1), r"index: found -1 at \[0, 0, 0\]"),
    "successor 0.0": (
        lambda: replace(LISTED, index=LISTED.index * 1.0),
        "index: found dtype float64, expected an integer dtype",
    ),
    "rows of prob": (lambda: replace(LISTED, prob=LISTED.prob * 0.9), r"prob: found row \[0, 0\] that sums to 0\.9"),
    "slots": (lambda: replace(LISTED, prob=LISTED.prob[..., :1]), r"prob: found axes \[2, 1, 1\]"),
    "list of discount 1": (lambda: replace(LISTED, discount=1.0), r"discount: found 1\.0"),
    "no layer": (lambda: Layered(KERNEL, 0), "horizon: found 0"),
    "half a layer": (lambda: Layered(KERNEL, 1.5), r"horizon: found 1\.5"),
    "layers": (
        lambda: Layered(Dense(jnp.stack([WORLD.transition] * 2), None), 3, stationary=False),
        "kernel: found 2 layers, expected 3",
    ),
    "no layers": (lambda: Layered(KERNEL, 3, stationary=False), "kernel: found no axis of layers"),
    "tall tree": (lambda: Tree(2, 10**9), "horizon: found 1000000000 steps of 2 symbols, expected at most 31 steps"),
    "wide tree": (lambda: Tree(10**6, 2), "horizon: found 2 steps of 1000000 symbols, expected at most 1 steps"),
    "half a tree": (lambda: Tree(2.5, 2), r"branching: found 2\.5"),
    "reward NaN": (lambda: replace(TEAM, reward=put(TEAM.reward, (0, 1), jnp.nan)), r"reward: found nan at \[0, 1\]"),
    "reward inf": (lambda: replace(TEAM, reward=put(TEAM.reward, (0, 1), jnp.inf)), r"reward: found inf at \[0, 1\]"),
    "reward shape": (lambda: replace(TEAM, reward=TEAM.reward[:, :-1]), "reward: found axes"),
    "initial": (lambda: replace(TEAM, initial=jnp.ones(S)), rf"initial: found row \[\] that sums to {S}\.0"),
    "initial shape": (lambda: replace(TEAM, initial=jnp.ones(1)), r"initial: found axes \[1\]"),
    "initial negative": (lambda: replace(TEAM, initial=put(jnp.zeros(S), 0, -1.0)), r"initial: found -1\.0 at \[0\]"),
    "active": (
        lambda: replace(TEAM, active=put(TEAM.active, 1, 7)),
        r"active: found 7 at \[1\], expected integers from -1 to 2",
    ),
    "active −2": (lambda: replace(TEAM, active=put(TEAM.active, 1, -2)), r"active: found -2 at \[1\]"),
    "active float": (lambda: replace(TEAM, active=TEAM.active * 1.0), "active: found dtype float64"),
    "active shape": (lambda: replace(TEAM, active=TEAM.active[:-1]), "active: found axes"),
    "no agents": (lambda: replace(TEAM, agents=0), "agents: found 0"),
    "both": (lambda: replace(TEAM, factors=(A, 1, 1)), "active, factors: found both"),
    "neither": (lambda: replace(TEAM, active=None), "active, factors: found neither"),
    "factors": (
        lambda: replace(PRODUCT.team, factors=(2, 3, 3)),
        r"factors: found \[2, 3, 3\] with product 18, expected a product of 12",
    ),
    "two factors": (
        lambda: replace(PRODUCT.team, factors=(4, 3)),
        "factors: found 2 numbers, expected one for each of the 3 agents",
    ),
    "list of factors": (lambda: replace(PRODUCT.team, factors=[2, 3, 2]), "factors: found a list, expected a tuple"),
    "kernel's discount": (
        lambda: replace(TEAM, dynamics=Layered(WORLD, 1)),
        r"kernel\.discount: found a value, expected None",
    ),
    "clock that stands": (
        lambda: Team(
            replace(CLOCKED, clock=jnp.zeros(6, int)),
            jnp.zeros((6, 2)),
            put(jnp.zeros(6), 0, 1.0),
            jnp.zeros(6, int),
            1,
        ),
        r"clock: found step 0 after step 0 \(state 0, action 0\), expected successors one step later",
    ),
    "current": (lambda: replace(TURNS, current=POLICY * 0.9), r"current: found row \[0\] that sums to 0\.9"),
    "target": (lambda: replace(TURNS, target=put(POLICY, (2, 0), -1e-3)), r"target: found -0\.001 at \[2, 0\]"),
    "target NaN": (lambda: replace(TURNS, target=POLICY * jnp.nan), r"target: found nan at \[0, 0\]"),
    "target shape": (lambda: replace(TURNS, target=POLICY[:-1]), "target: found shape"),
    "padding": (
        lambda: replace(PRODUCT, target=put(PRODUCT.target, (0, 0), jnp.array([0.5, 0.0, 0.5]))),
        r"target: found 0\.5 beyond",
    ),
    "padding moved": (
        lambda: replace(PRODUCT, current=PRODUCT.current[:, :, ::-1]),
        r"current: found .* beyond the 2 actions of agent 0, expected zeros there",
    ),
    "order": (
        lambda: replace(TURNS, order=jnp.array([0, 0, 1])),
        r"order: found \[0, 0, 1\], expected a permutation of 0 … 2",
    ),
    "order outside": (lambda: replace(TURNS, order=jnp.array([0, 1, 3])), r"order: found \[0, 1, 3\]"),
    "short order": (lambda: replace(TURNS, order=jnp.array([0, 1])), "order: found 2 agents"),
    "float order": (lambda: replace(TURNS, order=jnp.array([0.0, 1.0, 2.0])), "order: found dtype float64"),
    "orders": (
        lambda: replace(builders.stack([TURNS] * 2), order=jnp.array([[0, 1, 2], [2, 2, 1]])),
        r"order: found \[2, 2, 1\]",
    ),
    "batch of policies": (
        lambda: replace(builders.stack([TURNS] * 2), current=jnp.stack([POLICY] * 3)),
        r"team and current and target and order: found leading",
    ),
}


@pytest.mark.parametrize("case", CONSTRUCTED)
def test_constructors(case):
    """One line with the field, what was found and what was expected."""
    call, message = CONSTRUCTED[case]
    with pytest.raises(InputError, match="^" + message) as caught:
        call()
    assert "\n" not in str(caught.value)


BACKEND = exact_backend(TEAM, kl_constrained(1e-3), audit=False)
START = team_state(TEAM, POLICY)
KEY = jax.random.key(0)
PATHS = rollouts_of_paths(EPISODE.team, EPISODE.current, jnp.array([[[0, 2, 4]]]), jnp.zeros((1, 1, 3), int))
REPORT = StageReport(**dict.fromkeys(StageReport._fields, jnp.ones(2)))._replace(rounding=None, layers=None)  # pyright: ignore[reportArgumentType]
STEPS = Layers(*(jnp.ones((2, 1)) for _ in Layers._fields))


PARTS = Estimate(jnp.ones(1), *(jnp.ones((1, A)) for _ in range(4)))


def learn(agent=0, weights=None, shrink=1.0, **changes):
    rows, owned = jnp.arange(1), jnp.ones(1, bool)
    options = {"weights": weights, "shrink": shrink}
    return estimate_tables(
        EPISODE.team, EPISODE.current, PATHS._replace(**changes), agent, jnp.ones((1, 1, 3)), rows, owned, **options
    )


def asks(agent):
    return lambda: run_stage(BACKEND, START, lambda waiting, gains, key: np.asarray(agent))


def worse(current, estimate, memory):
    """A step that loses a tenth of every row."""
    new, info = kl_constrained(1e-3)(current, estimate, memory)
    return 0.9 * new, info


FUNCTIONS = {
    "stage of another making": (lambda: evaluate_stage(scaled(TURNS)), "transition: found row"),
    "team of another making": (lambda: values(scaled(TEAM), POLICY), "transition: found row"),
    "a batch": (
        lambda: evaluate_stage(builders.stack([TURNS] * 2)),
        r"stage: found arrays with leading axes \[2\], expected one stage; jax\.vmap",
    ),
    "a batch, eager": (lambda: stage_report(builders.stack([TURNS] * 2)), "stage: found arrays"),
    "hybrid_evaluations": (lambda: hybrid_evaluations(scaled(TURNS)), "transition: found row"),
    "hybrids": (lambda: hybrids(scaled(TURNS)), "transition: found row"),
    "values": (lambda: values(TEAM, POLICY * 0.9), r"policy: found row \[0\] that sums to 0\.9"),
    "values shape": (lambda: values(TEAM, POLICY[:, :-1]), "policy: found shape"),
    "objective": (lambda: objective(TEAM, POLICY * jnp.nan), "policy: found nan"),
    "visits": (lambda: visits(TEAM, -POLICY), "policy: found -"),
    "evaluate_policy": (lambda: evaluate_policy(TEAM, 2 * POLICY), "policy: found row"),
    "resolvent": (lambda: WORLD.resolvent(2 * POLICY), "policy: found row"),
    "backward": (lambda: LISTED.backward(jnp.zeros(3)), r"v: found axes \[3\], expected \[2\]"),
    "forward": (lambda: LISTED.forward(jnp.zeros((2, 2))), r"m: found axes \[2, 2\], expected \[2, 1\]"),
    "draw": (lambda: LISTED.draw(jnp.array(2), jnp.array(0), jnp.array(0.5)), "state: found 2"),
    "draw action": (lambda: LISTED.draw(jnp.array(1), jnp.array(1), jnp.array(0.5)), "action: found 1"),
    "draw uniform": (lambda: LISTED.draw(jnp.array(1), jnp.array(0), jnp.array(1.0)), r"uniform: found 1\.0"),
    "action_values": (lambda: action_values(TEAM, jnp.full(S, jnp.nan)), "v: found nan"),
    "advantages": (lambda: advantages(TEAM, jnp.zeros(S + 1)), "v: found shape"),
    "optimal_values": (lambda: optimal_values(TEAM, jnp.nan), "tolerance: found nan"),
    "occupancy": (lambda: occupancy(jnp.zeros(3)), r"m: found visits that add up to 0\.0"),
    "occupancy negative": (lambda: occupancy(jnp.array([2.0, -1.0])), r"m: found visits that add up to 1\.0"),
    "total_variation": (lambda: total_variation(POLICY, -POLICY), "q: found -"),
    "kl": (lambda: kl_current_to_new(POLICY * jnp.nan, POLICY), "current: found nan"),
    "kl states": (lambda: kl_current_to_new(POLICY, POLICY[:-1]), "new: found shape"),
    "tv states": (lambda: total_variation(jnp.stack([POLICY] * 2), jnp.stack([POLICY] * 3)), "q: found shape"),
    "occupancy float32": (lambda: occupancy(jnp.ones(3, jnp.float32)), "m: found dtype float32"),
    "occupancy list": (lambda: occupancy([1.0]), "m: found dtype None"),
    "kl shapes": (lambda: kl_current_to_new(POLICY, jnp.ones((S, 1))), "new: found shape"),
    "chain": (lambda: chain_hybrids(TEAM, jnp.stack([POLICY, POLICY]), jnp.array([3])), "agents: found 3"),
    "chain length": (
        lambda: chain_hybrids(TEAM, jnp.stack([POLICY, POLICY]), jnp.array([0, 1])),
        "states: found shape",
    ),
    "chain rows": (
        lambda: chain_hybrids(TEAM, jnp.stack([POLICY, 2 * POLICY]), jnp.array([0])),
        r"states: found row \[1, 0\]",
    ),
    "marginal": (lambda: marginal_advantage(TEAM, POLICY, TEAM.reward, jnp.array(0)), "team: found a turn-taking team"),
    "marginal agent": (
        lambda: marginal_advantage(PRODUCT.team, PRODUCT.current, PRODUCT.team.reward, jnp.array(3)),
        "agent: found 3",
    ),
    "skippable": (lambda: skippable(jnp.zeros((2, 2)), -1.0), r"tolerance: found -1\.0"),
    "skippable NaN": (lambda: skippable(jnp.full((2, 2), jnp.nan), 1.0), "matrix: found nan"),
    "skippable square": (lambda: skippable(jnp.zeros((2, 3)), 1.0), "matrix: found shape"),
    "interaction": (
        lambda: interaction_matrix(TURNS, REPORT._replace(conditional=jnp.ones((N, S)), visits=jnp.ones((N, S)))),
        rf"report\.visits: found shape \[{N}, {S}\], expected shape \[{N + 1}, {S}\]",
    ),
    "ladder": (lambda: ladder(REPORT._replace(kl=jnp.array([0.1, jnp.nan]))), r"report\.kl: found nan at \[1\]"),
    "ladder negative": (
        lambda: ladder(REPORT._replace(kl_stale=jnp.array([-0.1, 0.1]))),
        r"report\.kl_stale: found -0\.1 at \[0\]",
    ),
    "ladder, a step": (
        lambda: ladder(REPORT._replace(layers=STEPS._replace(shift=jnp.array([[0.0], [jnp.nan]])))),
        r"report\.layers\.shift: found nan at \[1, 0\], expected numbers ≥ 0 \(",
    ),
    "ladder, below zero at a step": (
        lambda: ladder(REPORT._replace(layers=STEPS._replace(kl_stale=jnp.array([[0.1], [-0.1]])))),
        r"report\.layers\.kl_stale: found -0\.1 at \[1, 0\], expected numbers ≥ 0",
    ),
    "least gap": (lambda: least(REPORT, "new"), "gap: found 'new', expected fresh or stale or cached or reused"),
    "least level": (lambda: least(REPORT, "fresh", ("mine",)), "information: found 'mine'"),
    "estimation error": (lambda: certificates.lower_bound_paper(REPORT, -1.0), r"estimation_error: found -1\.0"),
    **{
        name: (
            partial(getattr(certificates, name), REPORT._replace(kl=jnp.array([jnp.nan, 0.1]))),
            r"report\.kl: found nan",
        )
        for name in certificates.__all__
        if name != "certified_share"
    },
    "share": (
        lambda: certificates.certified_share(REPORT._replace(gap_fresh=jnp.full(2, jnp.nan)), jnp.ones(2)),
        r"report\.gap_fresh",
    ),
    "team_state": (lambda: team_state(TEAM, POLICY * 0.9), "policy: found row"),
    "team_state batch": (
        lambda: team_state(TEAM, jnp.stack([POLICY] * 2)),
        r"policy: found leading axes \[2\], expected \[\]",
    ),
    "memory": (lambda: team_state(TEAM, POLICY, jnp.nan), "memory: found nan"),
    "evaluate": (lambda: evaluate(TEAM, POLICY * 0.9), "policy: found row"),
    "exact_backend": (lambda: exact_backend(scaled(TEAM, jnp.nan), kl_constrained(1e-3)), "transition: found nan"),
    "improvement_stage": (lambda: improvement_stage(TEAM, POLICY, -1.0, [0, 1, 2]), r"radius: found -1\.0"),
    "order twice": (lambda: run_stage(BACKEND, START, [0, 0, 1]), r"order: found \[0, 0, 1\]"),
    "order of floats": (lambda: run_stage(BACKEND, START, [0.0, 1.0, 2.0]), r"order: found \[0\.0, 1\.0, 2\.0\]"),
    "asks 7": (asks(7), r"order: found 7 \(int64\), expected an agent, 0 … 2"),
    "asks −1": (asks(-1), "order: found -1"),
    "asks 0.5": (asks(0.5), r"order: found 0\.5"),
    "asks two": (asks([0, 1]), r"order: found \[0, 1\]"),
    "stage": (lambda: run_stage(BACKEND, START, [0, 1, 2], stage=-1), "stage: found -1"),
    "budget": (lambda: run_stage(BACKEND, START, [0, 1, 2], budget=2.5), r"budget: found 2\.5"),
    "a step": (
        lambda: run_stage(exact_backend(TEAM, worse, audit=False), START, [0, 1, 2]),
        r"policy after the step: found row .* sums to 0\.(9|89999)",
    ),
    "every": (lambda: every(2.5), r"k: found 2\.5"),
    "every NaN": (lambda: every(float("nan")), "k: found nan"),
    "truncation": (lambda: importance_weighted(float("nan")), "truncation: found nan"),
    "tolerance": (lambda: certificate_driven(float("nan"), 0.9), "tolerance: found nan"),
    "schedule's discount": (lambda: certificate_driven(0.1, float("nan")), "discount: found nan"),
    "path_shift": (lambda: path_shift(float("nan"), 0.9), "path_kl: found nan"),
    "path_shift discount": (lambda: path_shift(0.1, 1.5), r"discount: found 1\.5"),
    "fixed": (lambda: fixed([1, 1]), r"order: found \[1, 1\]"),
    "reverse": (lambda: reverse(0), "agents: found 0"),
    "single": (lambda: single(-1), "agent: found -1"),
    "single half": (lambda: single(0.5), r"agent: found 0\.5"),
    "prompts": (lambda: Sampling(2.5), r"prompts: found 2\.5"),
    "group": (lambda: Sampling(2, True), "group: found True"),
    "advantage_clip": (lambda: Sampling(2, advantage_clip=-1.0), r"advantage_clip: found -1\.0"),
    "alpha": (lambda: Sampling(2, alpha=1.0), r"alpha: found 1\.0"),
    "sampling horizon": (lambda: Sampling(2, horizon=0), "horizon: found 0"),
    "another horizon": (
        lambda: sampled_backend(EPISODE.team, kl_constrained(1e-3), Sampling(2, horizon=7)),
        "horizon: found 7, expected none, or 3",
    ),
    "memory of rollouts": (
        lambda: sampled_backend(TEAM, kl_constrained(1e-3), Sampling(10**12)),
        r"prompts, group, horizon: found 1000000000000 prompts of 8",
    ),
    "prompts_per_set": (lambda: prompts_per_set(192, fresh, 0, 8), "agents: found 0"),
    "prompts of rollouts": (
        lambda: sample_rollouts(TEAM, POLICY, KEY, 10**12, 8),
        "prompts, group, horizon: found 1000000000000 prompts",
    ),
    "policy of rollouts": (lambda: sample_rollouts(TEAM, POLICY * 0.9, KEY, 1, 1), "policy: found row"),
    "paths": (
        lambda: rollouts_of_paths(TEAM, POLICY, jnp.full((1, 1, 1), S), jnp.zeros((1, 1, 1), int)),
        f"state: found {S}",
    ),
    "paths below": (
        lambda: rollouts_of_paths(TEAM, POLICY, jnp.full((1, 1, 1), -2), jnp.zeros((1, 1, 1), int)),
        "state: found -2",
    ),
    "path actions below": (
        lambda: rollouts_of_paths(TEAM, POLICY, jnp.zeros((1, 1, 1), int), jnp.full((1, 1, 1), -1)),
        "action: found -1",
    ),
    "path actions": (
        lambda: rollouts_of_paths(TEAM, POLICY, jnp.zeros((1, 1, 1), int), jnp.full((1, 1, 1), A)),
        f"action: found {A}",
    ),
    "truncation_bias": (lambda: truncation_bias(TEAM, 0), "horizon: found 0"),
    "log_ratios": (lambda: log_ratios(EPISODE.team, PATHS, EPISODE.current * 0.9), "policy: found row"),
    "logp": (
        lambda: log_ratios(EPISODE.team, PATHS._replace(logp=PATHS.logp + 9.0), EPISODE.current),
        r"rollouts\.logp: found",
    ),
    "logp −inf": (
        lambda: log_ratios(EPISODE.team, PATHS._replace(logp=PATHS.logp - jnp.inf), EPISODE.current),
        r"rollouts\.logp: found -inf",
    ),
    "path_weight": (lambda: path_weight(EPISODE.team, PATHS, EPISODE.current, 0.0), r"truncation: found 0\.0"),
    "prefix_weight": (
        lambda: prefix_weight(EPISODE.team, PATHS, EPISODE.current, float("nan")),
        "truncation: found nan",
    ),
    "reward_to_go": (lambda: reward_to_go(PATHS, 1.5), r"discount: found 1\.5"),
    "message agent": (
        lambda: message_log_ratios(EPISODE.team, PATHS, 3, EPISODE.current, EPISODE.current),
        "agent: found 3",
    ),
    "messages": (
        lambda: message_log_ratios(EPISODE.team, PATHS, 0, EPISODE.current, EPISODE.current, 0),
        "messages: found 0",
    ),
    "returns": (lambda: group_normalised_advantage(jnp.array([[0.0, jnp.nan]])), "returns: found nan"),
    "centred": (lambda: centred_advantage(jnp.array([[0.0, jnp.inf]])), "returns: found inf"),
    "clip of advantages": (lambda: group_normalised_advantage(jnp.ones((1, 2)), clip=-1.0), r"clip: found -1\.0"),
    "epsilon": (lambda: group_normalised_advantage(jnp.ones((1, 2)), epsilon=-1e-9), r"epsilon: found -1e-09"),
    "one advantage": (lambda: broadcast_advantage(PATHS, jnp.ones((1, 2))), r"advantage: found shape \[1, 2\]"),
    "one advantage inf": (lambda: broadcast_advantage(PATHS, jnp.full((1, 1), jnp.inf)), "advantage: found inf"),
    "weights of rollouts": (lambda: learn(weights=-jnp.ones((1, 1))), r"weights: found -1\.0"),
    "weights of steps": (lambda: learn(weights=jnp.full((1, 1, 3), jnp.inf)), "weights: found inf"),
    "pseudo-samples": (lambda: learn(shrink=-0.5), r"shrink: found -0\.5"),
    "pseudo-samples nan": (lambda: learn(shrink=jnp.asarray(jnp.nan)), "shrink: found nan"),
    "agent of an estimate": (lambda: learn(agent=N), f"agent: found {N}"),
    "rewards of rollouts": (lambda: learn(reward=jnp.full((1, 1, 3), jnp.nan)), r"rollouts\.reward: found nan"),
    "returns of rollouts": (lambda: learn(returns=jnp.full((1, 1), jnp.inf)), r"rollouts\.returns: found inf"),
    "discounts of rollouts": (lambda: learn(weight=jnp.full((1, 1, 3), jnp.nan)), r"rollouts\.weight: found nan"),
    "clip of ratios": (lambda: surrogate_parts(POLICY[:1], POLICY[:1], PARTS, PARTS, -0.1), r"clip: found -0\.1"),
    "tables of a surrogate": (lambda: surrogate_parts(POLICY[:1], 0.9 * POLICY[:1], PARTS, PARTS), "new: found row"),
    "weights": (lambda: weight_diagnostics(jnp.array([[1.0, -1.0]])), r"weight: found -1\.0"),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions(case, monkeypatch):
    """Every public function that takes arrays or settings, without the suite's type checker, which sees some of it first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    call, message = FUNCTIONS[case]
    with pytest.raises(InputError, match="^" + message) as caught:
        call()
    assert "\n" not in str(caught.value)


SIGNED = ("values", "objective", "conditional", "shift", "surrogate_intermediate", "surrogate_stale", "surrogate_cached",
          "surrogate_reused", "gap_fresh", "gap_stale", "gap_cached", "gap_reused", "seq_minus_stale",
          "return_floor")  # fmt: skip
"""What may be negative in a report: rewards, and differences."""


def test_what_a_report_cannot_hold():
    """Distances, divergences, shares, spans, masses and penalties below zero, each by its name; those of the steps all."""
    others = ("rounding", "layers", "even", "simultaneous")
    for name in StageReport._fields:
        report = REPORT._replace(**{name: jnp.array([0.5, -0.5])})
        if name in SIGNED:
            require_report(report)
        elif name not in others:
            with pytest.raises(InputError, match=rf"^report\.{name}: found -0\.5 at \[1\], expected numbers ≥ 0 \("):
                require_report(report)
            wrong = wrong_fields(report)
            assert [key for key in wrong if wrong[key]] == [name]
    for name in Layers._fields:
        steps = STEPS._replace(**{name: jnp.array([[0.5], [-0.5]])})
        with pytest.raises(
            InputError, match=rf"^report\.layers\.{name}: found -0\.5 at \[1, 0\], expected numbers ≥ 0 \("
        ):
            require_report(REPORT._replace(layers=steps))


def test_what_is_accepted():
    """Chance, actions that the target opens, slots that point anywhere, ends of episodes, rows within the tolerance."""
    chance = replace(TEAM, active=put(TEAM.active, 0, -1))
    assert chance.active[0] == -1
    opened = replace(TURNS, current=put(POLICY, 0, jnp.eye(A)[0]), target=put(POLICY, 0, jnp.full(A, 1 / A)))
    assert opened.target[0, 1] > 0 == opened.current[0, 1]
    assert replace(LISTED, index=put(LISTED.index, (1, 0, 1), 1)).index[1, 0, 1] == 1
    ends = Layered(Dense(put(WORLD.transition, (0, 0), 0.0), None), 2)
    assert not ends.kernel.transition[0, 0].any()
    off = put(POLICY, (0, 0), POLICY[0, 0] + 0.9 * ROW_TOLERANCE)
    assert float(abs(replace(TURNS, target=off).target[0].sum() - 1)) > 0.8 * ROW_TOLERANCE
    assert Dense(WORLD.transition, 0.5).discount == 0.5
    later = replace(
        EPISODE.team, initial=put(jnp.zeros_like(EPISODE.team.initial), 2, 1.0)
    )  # a start at the second step
    assert visits(later, EPISODE.current)[0] == 0


def test_jax_puts_bundles_together_without_checks():
    """Differences, gradients, batches, shapes, tracers and place-holders are no teams, and nobody asks them to be."""
    zero = jax.tree.map(lambda x: x - x, TURNS)
    assert isinstance(zero, Stage)
    assert not zero.current.any()
    doubled = jax.jit(lambda stage: jax.tree.map(lambda x: 2 * x, stage))(TURNS)
    assert doubled.team.initial.sum() == 2
    gradient = jax.grad(lambda stage: (stage.current * stage.target).sum(), allow_int=True)(TURNS)
    assert (gradient.current == TURNS.target).all()
    assert jax.vmap(lambda stage: stage.team.initial.sum())(builders.stack([doubled] * 3)).tolist() == [2.0] * 3
    assert jax.eval_shape(lambda stage: stage, TURNS).current.shape == (S, A)
    holders = jax.tree.unflatten(jax.tree.structure(TURNS), [object()] * len(jax.tree.leaves(TURNS)))
    assert isinstance(holders.team.dynamics, Dense)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(TURNS)[0]]
    assert paths[:2] == [".team.dynamics.transition", ".team.dynamics.discount"]
    assert hash(jax.tree.structure(TURNS)) == hash(jax.tree.structure(zero))
    more = replace(TURNS, team=replace(TEAM, agents=N + 1), order=jnp.arange(N + 1))
    assert jax.tree.structure(TURNS) != jax.tree.structure(more)
    for same in (copy.copy(TURNS), copy.deepcopy(TURNS)):
        assert (same.current == POLICY).all()


def test_traced_values_are_left_alone():
    """Under `jit` there is nothing to read: the arithmetic is done as written."""
    scale = jax.jit(lambda c: replace(TURNS, current=c * POLICY).current.sum())
    assert float(scale(0.9)) == pytest.approx(0.9 * S)
    with pytest.raises(InputError, match="target: found shape"):  # shapes are known
        jax.jit(lambda c: replace(TURNS, target=c * POLICY[:-1]).target)(1.0)


def test_checks_are_switched_off_and_on_again():
    """Inside `unchecked` values are not read, shapes are; outside the bundle that was made there is checked when it is used."""
    with unchecked():
        wrong = replace(TURNS, current=0.9 * POLICY)
        assert values(TEAM, 0.0 * POLICY).tolist() == [0.0] * S
        with pytest.raises(InputError, match="target: found shape"):
            replace(TURNS, target=POLICY[:-1])
    with pytest.raises(InputError, match=r"current: found row \[0\]"):
        evaluate_stage(wrong)
    with pytest.raises(InputError, match=r"policy: found row \[0\]"):
        values(TEAM, 0.0 * POLICY)


def test_a_bundle_of_jax_arrays_is_read_once(monkeypatch):
    """jax arrays cannot change. NumPy arrays can, and are read again."""
    made = replace(TURNS)
    monkeypatch.setattr("teamtr_jax.types.probability_rows", lambda *_: pytest.fail("read again"))
    assert verified(made) is made
    monkeypatch.undo()
    policy = np.array(POLICY)
    stage = replace(TURNS, current=policy)  # pyright: ignore[reportArgumentType]
    policy[0] = 2.0
    with pytest.raises(InputError, match="current: found row"):
        verified(stage)


def test_steps_of_many_agents_stay_probabilities():
    """64 agents, a small step and one that nearly drops actions: rows are off by roundings, a million times less than refused."""
    n = 64
    rng = np.random.default_rng(4)
    world = Dense(jnp.asarray(builders.rows(rng, n, 2, n, zeros=0.9)), jnp.asarray(0.9))
    team = Team(world, jnp.asarray(rng.random((n, 2))), jnp.full(n, 1 / n), jnp.asarray(rng.permutation(n)), n)
    policy = jnp.full((n, 2), 0.5)
    for radius in (1e-6, 10.0):
        policy = improvement_stage(team, policy, radius, range(n)).target
        assert abs(np.asarray(policy).sum(-1) - 1).max() < 1e-6 * ROW_TOLERANCE
    assert float(policy.min()) < 1e-3


def test_orders_may_repeat_where_that_is_meant():
    """`single` gives every update to one agent; a plain order may not."""
    state, records = run_stage(BACKEND, START, single(1))
    assert [record.agent for record in records] == [1] * N
    moved = np.asarray(state.policy != POLICY).any(-1)
    assert not moved[np.asarray(TEAM.active) != 1].any()


def test_a_driver_of_ones_own_is_checked_too():
    """The driver looks at what an order answers for every instance of a batch."""
    backend = Backend(
        2, lambda s, key: s, lambda s, *_: s, lambda s, *_: (s, {"surrogate": 0.0, "kl": 0.0}), batch=(3,)
    )
    with pytest.raises(
        InputError, match=r"order: found \[0, 1, 2\] \(int64\), expected an agent, 0 … 1, for each of the 3"
    ):
        run_stage(backend, np.zeros(3), lambda waiting, gains, key: np.array([0, 1, 2]))


@pytest.mark.parametrize(
    ("agents", "sources", "expected"),
    [
        ([0, N], [0, 0], f"^agents: found {N} at .1., expected integers from 0 to {N - 1}"),
        ([0, 1], [0, -1], "^sources: found -1 at .1., expected integers from 0 to 1"),
        ([0, 1], [0, 2], "^sources: found 2 at .1., expected integers from 0 to 1"),
        ([0, 1], [1, 1], "^sources: found 1 at update 0, expected at most 0"),
        ([0, 1], [False, True], "^sources: found dtype bool, expected an integer dtype"),
    ],
)
def test_a_chain_of_updates(agents, sources, expected):
    with pytest.raises(InputError, match=expected):
        audit_chain(TEAM, jnp.stack([POLICY] * 3), jnp.array(agents), jnp.array(sources))
