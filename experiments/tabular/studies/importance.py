"""Table 10: importance weights on one set of rollouts: how they degenerate, what truncation costs, what training shows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments import paper
from experiments.figures import COLOURS, PAPER, axes, save
from experiments.saved import write_json
from experiments.tables import show
from experiments.tabular.families import Family, garnet
from experiments.tabular.rows import ABLATION, Row, exact_step
from experiments.tabular.runs import ABOUT, Floats, Records, load, slug, train_row
from experiments.tabular.settings import TabularSettings
from experiments.tabular.studies.scaling import paragraphs, relays, short
from experiments.tabular.summary import bootstrap, closed, regressions
from teamtr_jax.chain_audit import audit_chain
from teamtr_jax.intervals import Interval
from teamtr_jax.rollouts import (
    broadcast_advantage,
    centred_advantage,
    default_horizon,
    estimate_tables,
    path_weight,
    sample_rollouts,
    surrogate_parts,
)
from teamtr_jax.schedules import Schedule, fresh, importance_weighted, once
from teamtr_jax.tabular import agent_rows, exact_backend, own_table, team_state
from teamtr_jax.training import train
from teamtr_jax.types import Team

__all__ = ["AGENTS", "RADII", "CUT", "ESTIMATORS", "families", "rows", "estimates", "relative_error", "run", "draw"]

AGENTS = 6
RADII = (0.01, 0.1)
CUT = 5.0
GROUP = 8
SAMPLING: dict[str, Any] = {"group": GROUP, "advantage": "centred"}
ESTIMATORS = ("fresh", "weights", "weights ≤ 5", "cached")
COLUMNS = {"fresh": "fresh", "weights": "weights", "weights ≤ 5": "weights_cut", "cached": "cached"}


def families(settings: TabularSettings) -> tuple[Family, ...]:
    """Six agents: garnet teams, and relays of 2 rounds whose agents step up with probabilities in [.1, .4]."""
    return (
        garnet(settings.instances, settings.seed, agents=AGENTS),
        relays(settings.instances, settings.seed, (AGENTS,), 0.1, 0.4),
    )


def rows(radius: float) -> dict[str, Row]:
    """One way to use the same number of rollouts each; the step is U1 on unbiased advantages, `R_g` less the others' mean."""
    schedules: dict[str, Schedule] = {
        "fresh": fresh,
        "weights": importance_weighted(),
        "weights ≤ 5": importance_weighted(CUT),
        "cached": once,
    }
    return {
        name: Row(f"{name} {radius:g}", exact_step(radius), schedule=lambda family, s=schedule: s, sampling=SAMPLING)
        for name, schedule in schedules.items()
    }


# ------------------------------------------------------------------------- bias and spread of an estimate, the step being given


@partial(jax.jit, static_argnames=("prompts", "horizon"))
def _scored(
    teams: Team, chains: Array, agents: Array, keys: Array, owners: tuple[Array, Array], prompts: int, horizon: int
) -> dict[str, Array]:
    """``{estimator: [instances, n]}``: `L̂` of each step of the chains, from rollouts that had no part in choosing it."""

    def one(team: Team, states: Array, key: Array, owners: tuple[Array, Array]) -> dict[str, Array]:
        rows, owned = owners  # as `agent_rows` gives them
        gamma, n = jnp.asarray(team.dynamics.discount), agents.shape[0]
        mass = 1 / (1 - gamma) if team.dynamics.horizon is None else 1.0
        first, rest = jax.random.split(key)
        old = sample_rollouts(team, states[0], first, prompts, GROUP, horizon)

        def score(rollouts: Any, i: Array, weights: Array | None) -> Array:
            before, after, agent = states[i], states[i + 1], agents[i]
            advantage = broadcast_advantage(rollouts, centred_advantage(rollouts.returns))
            own = rows[agent], owned[agent]
            found = estimate_tables(
                team, before, rollouts, agent, advantage, *own, weights=weights, to_go=rollouts.reward
            )
            tables = own_table(team, before, agent, rows), own_table(team, after, agent, rows)
            return surrogate_parts(*tables, found, found).raw * mass

        def update(i: Array) -> dict[str, Array]:
            weight = path_weight(team, old, states[i])
            new = sample_rollouts(team, states[i], jax.random.fold_in(rest, i), max(prompts // n, 1), GROUP, horizon)
            return {
                "fresh": score(new, i, None),
                "weights": score(old, i, weight),
                "weights_cut": score(old, i, jnp.minimum(weight, CUT)),
                "cached": score(old, i, None),
            }

        return jax.lax.map(update, jnp.arange(n))

    return jax.vmap(one)(teams, chains, keys, owners)


@jax.jit
def _exact_surrogates(teams: Team, chains: Array, agents: Array) -> tuple[Array, Array]:
    """`L^seq` and `L^cached` of each step, ``[instances, n]``."""

    def one(team: Team, chain: Array) -> tuple[Array, Array]:
        found = audit_chain(team, chain, agents, jnp.arange(agents.shape[0]))
        return found["surrogate_intermediate"], found["surrogate_cached"]

    return jax.vmap(one)(teams, chains)


def estimates(family: Family, radius: float, settings: TabularSettings, repeats: int, home: Path) -> Records:
    """Score one exact stage again and again: each "stage" of the records is a new set of rollouts of its first team.

    The step is fixed, so the mean over sets less `L^seq` is the bias of the estimate and their spread its standard deviation.
    """
    team, n = family.team, family.team.agents
    backend = exact_backend(team, exact_step(radius)(family), audit=False)
    states = [team_state(team, family.policy)]
    for i in range(n):
        states.append(_updated(backend, states[-1], i))
    chain, order = jnp.stack([state.policy for state in states], 1), jnp.arange(n)
    target, stale = map(np.asarray, _exact_surrogates(team, chain, order))
    horizon = team.dynamics.horizon or default_horizon(np.asarray(team.dynamics.discount).max())
    table, prompts = agent_rows(team), settings.budget // GROUP

    def stage(state: Array, key: Array, k: int) -> tuple[Array, list[dict[str, Any]]]:
        keys = jax.random.split(key, family.instances)
        scores = _scored(team, chain, order, keys, table, prompts=prompts, horizon=horizon)
        found = {name: np.asarray(x) for name, x in scores.items()}
        lines = [
            {"stage": k, "update": i, "instance": j, "surrogate_intermediate": target[j, i], "surrogate_cached": stale[j, i],
             "info": {f"estimate_{name}": x[j, i] for name, x in found.items()}, "exact": {}}
            for i in range(n) for j in range(family.instances)
        ]  # fmt: skip
        return state, lines

    about = {
        **family.about,
        "radius": radius,
        "budget": settings.budget,
        "group": GROUP,
        "cut": CUT,
        "optimum": family.optimum.tolist(),
    }
    train(stage, jnp.zeros(()), repeats, jax.random.key(settings.seed), home, about, settings.progress)
    write_json(home / ABOUT, about)
    return load(home)


def _updated(backend: Any, state: Any, agent: int) -> Any:
    data = backend.rollout(state, None)
    who = np.full(backend.batch, agent)
    return backend.update(state, backend.estimate(state, data, who, fresh), who)[0]


def relative_error(run: Records, name: str, part: str) -> Floats:
    """``[n, instances]``: bias or standard deviation of an estimate in percent of the mean `|L^seq|` of the stage's updates.

    The bias of the cached estimate is exact, `L^cached − L^seq`; that of the others is a mean over the sets that were drawn.
    """
    target = run["surrogate_intermediate"][0]
    unit = abs(target).mean(0)
    found = run[f"info.estimate_{COLUMNS[name]}"]
    if part == "deviation":
        return 100 * found.std(0, ddof=1) / unit
    if name == "cached":
        return 100 * (run["surrogate_cached"][0] - target) / unit
    return 100 * (found.mean(0) - target) / unit


# ----------------------------------------------------------------------------------------------------------------- the study

HEADS = ("ESS/B", "P95", "P99", "largest", "Pr[w>10] %")
INFO = ("weight_ess", "weight_p95", "weight_p99", "weight_max", "weight_above_ten")


def weights(run: Records, update: int) -> list[Interval]:
    """ESS/B, P95, P99, largest, Pr[w>10] of one update: means over stages, of the largest its maximum; medians over instances."""
    found = [run[f"info.{name}"][:, update] for name in INFO]
    per_instance = [x.max(0) if name == "weight_max" else x.mean(0) for name, x in zip(INFO, found, strict=True)]
    per_instance[-1] = 100 * per_instance[-1]
    statistics = (np.median, np.median, np.median, np.median, np.mean)
    return [bootstrap(x, statistic) for x, statistic in zip(per_instance, statistics, strict=True)]


def run(settings: TabularSettings, repeats: int = 20) -> list[Path]:
    """Train, score, print the table of the weights and what they are good for, draw both."""
    home = settings.out / "importance"
    figures, lines, uses, largest = [], [], [], []
    every: dict[tuple[str, float], dict[str, Records]] = {}
    for teams in families(settings):
        runs: dict[float, dict[str, Records]] = {}
        scores: dict[float, Records] = {}
        for radius in RADII:
            common = (teams, settings.stages, settings.budget, settings.seed, home, settings.progress)
            runs[radius] = {name: train_row(row, *common) for name, row in rows(radius).items()}
            if radius == RADII[-1]:
                place = home / teams.name / slug(f"estimates {radius:g}")
                scores[radius] = estimates(teams, radius, settings, repeats, place)
            every[teams.name, radius] = runs[radius]
            for update in range(AGENTS):
                theirs = paper.IMPORTANCE["ess_share"].get(update + 1)
                found = weights(runs[radius]["weights"], update)
                lines.append(
                    [
                        f"{teams.name}, δ = {radius:g}, i = {update + 1}",
                        *map(short, found),
                        "–" if theirs is None else f"{theirs:.2f}",
                    ]
                )
            largest.append((teams.name, radius, float(runs[radius]["weights"]["info.weight_max"].max())))
            uses += _uses(teams.name, radius, runs[radius], scores.get(radius))
        figures.append(draw(runs, scores, teams.name, settings.out / f"importance-{teams.name}.png"))
    held = (
        f"{settings.instances} teams of {AGENTS} agents, {settings.stages} stages, B = {settings.budget} rollouts, U1"
    )
    show(f"Importance weights of whole paths by update: {held}", ["", *HEADS, "paper ESS/B"], lines,
         "Medians over teams (Pr: mean) of means over stages (largest: maximum) ± half the 95 % bootstrap interval; sampled. "
         f"The paper's largest weight: {paper.IMPORTANCE['largest']:,.0f}; ours: "
         + ", ".join(f"{x:,.3g} ({name}, δ = {radius:g})" for name, radius, x in largest))  # fmt: skip
    show(f"What the weights are good for, at equal rollouts: {held}",
         ["", "bias, i = 2", f"i = {AGENTS}", "sd, i = 2", f"i = {AGENTS}", "gap closed %", "regr. %"], uses,
         f"Bias and standard deviation of L̂ in % of the mean |L^seq| of the stage, the step given, {repeats} sets of "
         "rollouts (cached: exact bias); medians over teams. Gap closed: median; regressions: mean; J exact. ± half the 95 % "
         "bootstrap interval over teams. 'fresh' splits the same rollouts among the updates. The paper's AIME24: "
         f"{_accuracy()}.")  # fmt: skip
    paragraphs(_reasons(every))
    return figures


def _uses(name: str, radius: float, runs: dict[str, Records], scores: Records | None) -> list[list[object]]:
    out: list[list[object]] = []
    for use in ESTIMATORS:
        errors: list[object] = [""] * 4
        if scores is not None:
            bias, spread = relative_error(scores, use, "bias"), relative_error(scores, use, "deviation")
            errors = [short(bootstrap(x)) for x in (bias[1], bias[-1], spread[1], spread[-1])]
        trained = bootstrap(100 * closed(runs[use])), bootstrap(100 * regressions(runs[use]), np.mean)
        out.append([f"{name}, δ = {radius:g}, {use}", *errors, *map(short, trained)])
    return out


def _accuracy() -> str:
    shown = ("full", "importance weights", "no resampling")
    return ", ".join(f"{row.name} {row.paper}" for row in ABLATION if row.name in shown)


def _reasons(runs: dict[tuple[str, float], dict[str, Records]]) -> list[str]:
    """Where ours and the paper's differ, from the numbers."""
    out = []
    for (name, radius), found in runs.items():
        ess = [weights(found["weights"], i)[0] for i in range(AGENTS)]
        theirs = paper.IMPORTANCE["ess_share"]
        inside = [i for i, x in theirs.items() if ess[i - 1].low <= x <= ess[i - 1].high]
        beside = ", ".join(f"i = {i}: {ess[i - 1]} against {x:.2f}" for i, x in theirs.items())
        verdict = "agrees at " + ", ".join(f"i = {i}" for i in inside) if inside else "differs at both"
        score = {use: bootstrap(100 * closed(found[use])) for use in ESTIMATORS}
        best = max(score, key=lambda use: score[use].value)
        out.append(
            f"{name}, δ = {radius:g}: ESS/B {beside}: {verdict}. The largest gap closed is that of '{best}', {score[best]} %; "
            f"that of 'weights' is {score['weights']} %."
        )
    return [
        *out,
        """
        Why. For many rollouts ESS/B is 1/E w² ≤ exp(−KL(now‖then)) with the KL of whole paths, a sum over messages:
        γ-discounted teams with a fixed horizon have many, relays two for each agent. So the numbers move with δ and the
        horizon, and the paper's belong to its own. No set shows less than 1/B. Once the KL is large, nearly every weight is
        near 0 on nearly every set: the estimate is then about 0 (bias −100 % of its own L^seq) with a small spread, and its
        unbiased mean rests on sets that are hardly ever drawn. Truncation then changes little.
        """,
        f"""
        The paper ranks fresh > weights > cached. At equal rollouts ours need not: an update on fresh rollouts sees 1/n of
        them, and where the bias of cached ones is small beside that sampling error, reusing all of them is the better use
        (n = {AGENTS}).
        """,
    ]


# ------------------------------------------------------------------------------------------------------------------- figures

LOOKS = {
    "fresh": COLOURS["fresh"],
    "weights": COLOURS["certificate"],
    "weights ≤ 5": COLOURS["joint"],
    "cached": COLOURS["once"],
}


def _band(ax: Any, x: Sequence[float], found: Sequence[Interval], **style: Any) -> None:
    (line,) = ax.plot(x, [y.value for y in found], markersize=3, **style)
    ax.fill_between(x, [y.low for y in found], [y.high for y in found], color=line.get_color(), alpha=0.2, linewidth=0)


def draw(runs: dict[float, dict[str, Records]], scores: dict[float, Records], name: str, path: Path) -> Path:
    """ESS by update beside the paper's; bias and spread of the estimate by update, for the larger radius."""
    figure, (left, middle, right) = axes(1, 3, (10, 2.9))
    updates = np.arange(1, AGENTS + 1)
    for radius, style in zip(runs, ("o-", "^--"), strict=False):
        found = [weights(runs[radius]["weights"], i)[0] for i in range(AGENTS)]
        _band(
            left,
            updates.tolist(),
            found,
            color=LOOKS["weights"],
            marker=style[0],
            linestyle=style[1:],
            label=f"ours, δ = {radius:g}",
        )
    theirs = paper.IMPORTANCE["ess_share"]
    left.plot(list(theirs), list(theirs.values()), markersize=4, linewidth=0.8, **PAPER)
    left.set_yscale("log")
    left.set_ylabel("ESS/B")
    left.set_title(name, fontsize=10)
    left.legend(fontsize=7, frameon=False)
    radius = max(scores)
    for ax, part, label in (
        (middle, "bias", "bias of L̂, % of mean |L^seq|"),
        (right, "deviation", "sd of L̂, % of mean |L^seq|"),
    ):
        for use in ESTIMATORS:
            found = [bootstrap(x) for x in relative_error(scores[radius], use, part)]
            _band(ax, updates.tolist(), found, color=LOOKS[use], marker="o", label=use)
        ax.set_ylabel(label)
        ax.set_title(f"δ = {radius:g}", fontsize=10)
    right.set_yscale("log")
    middle.legend(fontsize=7, frameon=False)
    for ax in (left, middle, right):
        ax.set_xlabel("update i")
        ax.set_xticks(updates)
    return save(figure, path)
