"""Figure 6 and Table 11: one agent of a trained team is replaced, directly, aligned first (Stage 0), or the team starts again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from experiments import paper
from experiments.figures import axes, save
from experiments.saved import write_json
from experiments.tables import show
from experiments.tabular.families import Family, family
from experiments.tabular.rows import Row, exact_step
from experiments.tabular.runs import ABOUT, Floats, Records, load, slug, train_row
from experiments.tabular.settings import TabularSettings, teams_of
from experiments.tabular.studies.scaling import paragraphs, short
from experiments.tabular.summary import bootstrap, objective, regressions
from teamtr_jax.chain_audit import audit_chain
from teamtr_jax.checkpoint import restore
from teamtr_jax.intervals import Interval
from teamtr_jax.tabular import agent_rows, evaluate, own_table, team_state, with_own_table
from teamtr_jax.training import CHECKPOINTS, train
from teamtr_jax.trust_region import align_to_ball
from teamtr_jax.types import Team

__all__ = ["RADIUS", "PROBES", "CONDITIONS", "Condition", "repeated", "newcomers", "swapped", "run", "draw"]

RADIUS = 0.05
PROBES = 500


class Condition(NamedTuple):
    """What is done with the newcomer before it joins."""

    name: str
    kind: str  #: ``keep``, ``direct``, ``align`` or ``scratch``
    direction: str = "current_to_new"
    probes: bool = False
    colour: str = "0.5"


CONDITIONS = (
    Condition("no replacement", "keep", colour="0.5"),
    Condition("direct", "direct", colour="#b2182b"),
    Condition("aligned, KL(out‖new)", "align", colour="#1b7837"),
    Condition(f"aligned, {PROBES} probes", "align", probes=True, colour="#a6dba0"),
    Condition("aligned, KL(new‖out)", "align", "new_to_current", colour="#2166ac"),
    Condition("from scratch", "scratch", colour="#8c510a"),
)


# ------------------------------------------------------------------------------------------------------------------ the swap


def repeated(teams: Family) -> tuple[Family, NDArray[np.int64]]:
    """Every team once for each agent that may be replaced, and who that is; in the order team, agent."""
    n = teams.team.agents
    team = jax.tree.map(lambda x: jnp.repeat(x, n, 0), teams.team)
    about = {**teams.about, "instances": n * teams.instances, "replaced": "each agent in turn"}
    policy = jnp.repeat(teams.policy, n, 0)
    return Family(teams.name, team, policy, np.repeat(teams.optimum, n), about), np.tile(np.arange(n), teams.instances)


def newcomers(policy: Array, seed: int) -> Array:
    """Tables drawn Dirichlet(1) on the actions that `policy` uses, independently for every team."""
    draws = np.random.default_rng([seed, 6]).exponential(size=policy.shape) * (np.asarray(policy) > 0)
    total = draws.sum(-1, keepdims=True)
    return jnp.asarray(np.divide(draws, total, out=np.zeros_like(draws), where=total > 0))


@partial(jax.jit, static_argnames="direction")
def _aligned(
    team: Team, policy: Array, other: Array, agent: Array, own: tuple[Array, Array], weight: Array, direction: str
):
    """The teams with the newcomer's table moved into the ball around the outgoing one; `own` as `agent_rows` gives it."""

    def one(team, policy, other, agent, own, weight):
        rows, owned = own
        outgoing, new = own_table(team, policy, agent, rows), own_table(team, other, agent, rows)
        table, info = align_to_ball(outgoing, new, weight, jnp.asarray(RADIUS), direction)
        return with_own_table(team, policy, table, agent, rows, owned), info.feasible.all()

    return jax.vmap(one)(team, policy, other, agent, own, weight)


_evaluated = jax.jit(jax.vmap(evaluate))


def _weights(team: Team, policy: Array, agent: Array, probes: int | None, seed: int) -> Array:
    """How often each row of the replaced agent is seen: exactly, or counted over sampled contexts of the agent."""
    weight = np.asarray(_evaluated(team, policy).weight)
    if team.factors is None:
        rows, owned = (
            np.take_along_axis(np.asarray(x), np.asarray(agent)[:, None, None], 1)[:, 0] for x in agent_rows(team)
        )
        weight = np.where(owned, np.take_along_axis(weight, rows, 1), 0.0)
    if probes is None:
        return jnp.asarray(weight)
    total = weight.sum(-1, keepdims=True)
    rng = np.random.default_rng([seed, 7])
    return jnp.asarray(total * rng.multinomial(probes, weight / total) / probes)


def swapped(condition: Condition, teams: Family, agent: NDArray[np.int64], trained: Array, seed: int) -> Array:
    """The tables of the teams after the replacement."""
    other = newcomers(teams.policy, seed)
    if condition.kind == "keep":
        return trained
    if condition.kind == "scratch":
        return (
            jnp.where(jnp.asarray(teams.team.active)[..., None] < 0, trained, other)
            if teams.team.factors is None
            else other
        )
    rows, owned = agent_rows(teams.team)
    who = jnp.asarray(agent)
    if condition.kind == "direct":
        place = jax.vmap(lambda t, p, q, k, r, o: with_own_table(t, p, own_table(t, q, k, r), k, r, o))
        return place(teams.team, trained, other, who, rows, owned)
    weight = _weights(teams.team, trained, who, PROBES if condition.probes else None, seed)
    policy, feasible = _aligned(teams.team, trained, other, who, (rows, owned), weight, condition.direction)
    assert bool(feasible.all())  # newcomers use every action
    return policy


@jax.jit
def _swap_audit(team: Team, before: Array, after: Array, agent: Array) -> dict[str, Array]:
    def one(team: Team, before: Array, after: Array, agent: Array) -> dict[str, Array]:
        found = audit_chain(team, jnp.stack([before, after]), agent[None], jnp.zeros(1, int))
        found.pop("in_use")
        return {name: x[0] for name, x in found.items()}

    return jax.vmap(one)(team, before, after, agent)


def _swap(
    condition: Condition, teams: Family, agent: NDArray[np.int64], trained: Array, after: Array, seed: int, home: Path
) -> Records:
    """The swap as a run of one stage and one update: its exact numbers, P3.8's bound and S7's among them.

    Of a whole new team only J before and after are kept.
    """

    def stage(state: Array, key: Array, k: int) -> tuple[Array, list[dict[str, Any]]]:
        del key
        found = {name: np.asarray(x) for name, x in _swap_audit(teams.team, state, after, jnp.asarray(agent)).items()}
        if condition.kind in ("keep", "scratch"):
            start, end = (np.asarray(_evaluated(teams.team, x).objective) for x in (state, after))
            found = {"objective_before": start, "objective_after": end, "improvement": end - start}
        lines = [{"stage": k, "update": 0, "instance": i, "agent": int(agent[i]), "info": {},
                  "exact": {name: x[i] for name, x in found.items()}} for i in range(len(agent))]  # fmt: skip
        return after, lines

    about = {**teams.about, "condition": condition.name, "radius": RADIUS, "probes": PROBES, "seed_run": seed,
             "optimum": teams.optimum.tolist()}  # fmt: skip
    train(stage, trained, 1, jax.random.key(seed), home, about, progress=False)
    write_json(home / ABOUT, about)
    return load(home)


# ----------------------------------------------------------------------------------------------------------------- the study


class Course(NamedTuple):
    """A condition's records: the swap, and the training after it."""

    swap: Records
    after: Records

    @property
    def objective(self) -> Floats:
        """``[stages + 2, N]``: J before the swap, after it, and after each stage of training; percent of `J*`."""
        j = np.concatenate([self.swap["exact.objective_before"][0], objective(self.after)])
        return 100 * j / np.asarray(self.swap.about["optimum"])


def courses(settings: TabularSettings, name: str) -> dict[str, Course]:
    """Train the teams, replace every agent of each in every way, train on; what is on disk is not computed again."""
    base = family(name, settings.instances, settings.seed)
    row = Row("before", exact_step())
    home = settings.out / "replacement" / f"after-{settings.stages}"
    common = (settings.stages, 0, settings.seed)
    train_row(row, base, *common, home, settings.progress)
    saved = restore(home / base.name / slug(row.name) / CHECKPOINTS, team_state(base.team, base.policy))
    teams, agent = repeated(base)
    trained = jnp.repeat(saved.tree.policy, base.team.agents, 0)
    out = {}
    for condition in CONDITIONS:
        tag = slug(condition.name.replace("‖", " "))
        start = swapped(condition, teams, agent, trained, settings.seed)
        swap = _swap(condition, teams, agent, trained, start, settings.seed, home / base.name / f"swap-{tag}")
        after = train_row(
            Row(f"after {tag}", exact_step()), teams._replace(policy=start), *common, home, settings.progress
        )
        out[condition.name] = Course(swap, after)
    return out


def per_team(x: Floats, instances: int) -> Floats:
    """``[..., instances]``: the mean over the agents that were replaced."""
    return x.reshape(*x.shape[:-1], instances, -1).mean(-1)


def certified(swap: Records, name: str) -> Floats:
    """``[N]``: the lower limit of the change of J by a swap that a certificate gives, percent of `J*`."""
    return 100 * swap[f"exact.{name}"][0, 0] / np.asarray(swap.about["optimum"])


def stages_back(j: Floats, before: Floats) -> Floats:
    """``[N]``: stages of training until J is what it was before the swap; ∞ if it never is. `j` begins right after the swap."""
    there = j >= before - 1e-9
    return np.where(there.any(0), there.argmax(0), np.inf)


def run(settings: TabularSettings) -> list[Path]:
    """One table and one figure for each family."""
    figures = []
    for name in teams_of(settings, ("garnet",)):
        found = courses(settings, name)
        lines: list[list[object]] = []
        shown = sorted({min(k, settings.stages) for k in (1, 3, settings.stages)})
        for condition in CONDITIONS:
            course = found[condition.name]
            j = course.objective
            shock = np.where(abs(j[0] - j[1]) < 1e-9, 0.0, j[0] - j[1])
            cells = [short(_over(x, settings)) for x in (shock, *(j[1 + k] for k in shown))]
            bounds: list[object] = ["", "", ""]
            if condition.kind in ("direct", "align"):
                limits = [-certified(course.swap, rung) for rung in ("certificate_paper", "certificate_estimable")]
                bounds = [short(_over(x, settings)) for x in (course.swap["exact.kl"][0, 0], *limits)]
            lost = bootstrap(100 * per_team(regressions(course.after), settings.instances), np.mean)
            lines.append([condition.name, bounds[0], *cells, *bounds[1:], lost.value])
        show(
            f"Replacing an agent, {name}: {settings.instances} teams × each of their agents, trained for {settings.stages} "
            f"stages before and after (U1, δ = .01, fresh), alignment to {RADIUS}",
            ["", "KL of swap", "shock", *(f"J after {k}" for k in shown), "P3.8 loss ≤", "S7 loss ≤", "regr. %"],
            lines,
            f"""
            J, shock (loss of J at the swap) and certified losses in % of J*; means over teams of the mean over the replaced
            agents, ± half the 95 % bootstrap interval over teams; exact, float64. KL = E_d KL(outgoing‖newcomer). The
            paper: direct {100 * paper.REPLACEMENT["direct"]:+.0f} %, aligned {100 * paper.REPLACEMENT["aligned"]:+.0f} %
            after training, shock {" → ".join(f"{x:.1f}" for x in paper.REPLACEMENT["shock"])}.
            """,
        )
        paragraphs(_reasons(found, settings))
        figures.append(draw(found, name, settings, settings.out / f"replacement-{name}.png"))
    return figures


def _over(x: Floats, settings: TabularSettings) -> Interval:
    return bootstrap(per_team(x, settings.instances), np.mean)


def _reasons(found: dict[str, Course], settings: TabularSettings) -> list[str]:
    j = {name: course.objective for name, course in found.items()}
    direct, aligned = "direct", "aligned, KL(out‖new)"
    shock = [_over(j[name][0] - j[name][1], settings) for name in (direct, aligned)]
    end = _over(j[aligned][-1] - j[direct][-1], settings)
    sooner = {name: stages_back(j[name][1:], j[name][0]) for name in (direct, aligned)}
    back = ", ".join(
        f"{name} {np.median(x):.0f} stages (median; {100 * np.isfinite(x).mean():.0f} % within {settings.stages})"
        for name, x in sooner.items()
    )
    there = "still differs" if end.low > 0 or end.high < 0 else "no longer differs"
    first, second = paper.REPLACEMENT["shock"]
    final = [100 * paper.REPLACEMENT[name] for name in ("aligned", "direct")]
    return [
        (
            f"The shock is {shock[0]} direct and {shock[1]} aligned, factor {shock[0].value / shock[1].value:.1f}; the paper's "
            f"{first} → {second} is a factor of {first / second:.1f}. J is back at what it was after: {back}."
        ),
        (
            f"After {settings.stages} stages of training J {there} between the two: aligned − direct {end} points. Paper: "
            f"{final[0]:+.0f} % aligned and trained, {final[1]:+.0f} % swapped directly."
        ),
        *WHY.split("\n\n"),
    ]


WHY = """
    Why. A table is its behaviour: aligned to a ball around the outgoing agent it is nearly that agent, so a small shock is by
    construction, and what alignment saves is the stages that a random newcomer needs to catch up. Exact steps climb from any
    start with full support, so training recovers either way; language models with few rollouts may not. A random table brings no
    ability of its own, so there is nothing that a replaced team could gain over the old one.

    P3.8's limit says nothing where it is above 100 % of J* (S5). S7's is linear in the KL and falls with the radius.
"""


# -------------------------------------------------------------------------------------------------------------------- figure


def draw(found: dict[str, Course], name: str, settings: TabularSettings, path: Path) -> Path:
    """J through the replacement; the shock of each way."""
    figure, (left, right) = axes(1, 2, (8.5, 3.0), width_ratios=(2, 1))
    for condition in CONDITIONS:
        j = [_over(x, settings) for x in found[condition.name].objective]
        x = np.arange(-1, len(j) - 1)
        left.plot(x, [y.value for y in j], color=condition.colour, label=condition.name, linewidth=1.2)
        left.fill_between(x, [y.low for y in j], [y.high for y in j], color=condition.colour, alpha=0.15, linewidth=0)
    left.axvline(-0.5, color="0.8", linewidth=0.8)
    left.set_xlabel("stages after the replacement (−1: before it)")
    left.set_ylabel("J/J*, %")
    left.set_title(name, fontsize=10)
    left.legend(fontsize=6, frameon=False)
    bars = [condition for condition in CONDITIONS if condition.kind in ("direct", "align")]
    for i, condition in enumerate(bars):
        j = found[condition.name].objective
        y = _over(j[0] - j[1], settings)
        right.plot([y.low, y.high], [i, i], color=condition.colour, linewidth=1.5)
        right.plot(y.value, i, "o", color=condition.colour, markersize=5, label="ours" if i == 0 else None)
    theirs = paper.REPLACEMENT["shock"]
    right.plot(theirs, [0, 1], "s", color="0.6", markersize=5, label="the paper (8–32B models)")
    right.set_yticks(range(len(bars)), [condition.name for condition in bars], fontsize=7)
    right.invert_yaxis()
    right.set_xlabel("shock at the swap, % of J*")
    right.legend(fontsize=6, frameon=False, loc="lower right")
    return save(figure, path)
