"""Table 2a and Figure 2: what grows with the number of agents, on cached and on fresh rollouts."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from numpy.typing import ArrayLike

from experiments import paper
from experiments.figures import COLOURS, PAPER, axes, save
from experiments.tables import show
from experiments.tabular.families import Family, garnet
from experiments.tabular.rows import RADIUS, Row
from experiments.tabular.runs import Floats, Records, train_row
from experiments.tabular.settings import TabularSettings
from experiments.tabular.summary import bootstrap
from teamtr_jax.intervals import Interval
from teamtr_jax.schedules import once
from teamtr_jax.teams import relay_stage
from teamtr_jax.trust_region import kl_constrained
from teamtr_jax.types import Estimate, Step, StepInfo
from teamtr_jax.values import optimal_values
from theory.fits import Slope, bootstrap_slope, log_slope

__all__ = [
    "SIZES",
    "WIDE",
    "ScalingCase",
    "QUANTITIES",
    "garnets",
    "relays",
    "slope",
    "short",
    "paragraphs",
    "run",
    "draw",
    "draw_gaps",
]

SIZES = paper.SCALING_N
WIDE = (12, 16, 24, 32)
STATES = 32
PAPER_NAMES = {"fresh": "TeamTR", "once": "naive"}


# ------------------------------------------------------------------------------------------------------ teams of every size


def garnets(instances: int, seed: int, sizes: Sequence[int], states: int = STATES) -> Family:
    """Garnet worlds with start policies, each divided among n agents for every n: an equal number of states to each.

    Instance `i` of every n is the same world; teams stand in the order n, instance.
    """
    slots = max(sizes)
    base = garnet(instances, seed, agents=slots, states=states)
    rank = np.random.default_rng([seed, 1]).permuted(np.tile(np.arange(states), (instances, 1)), axis=1)
    active = np.concatenate([rank * n // states for n in sizes])

    def tiled(x: Array) -> Array:
        return jnp.tile(x, (len(sizes), *(1,) * (x.ndim - 1)))

    team = replace(jax.tree.map(tiled, base.team), active=jnp.asarray(active))
    about = {**base.about, "agents": list(sizes), "slots": slots, "owners": "equal numbers of states"}
    return Family("garnet", team, tiled(base.policy), np.tile(base.optimum, len(sizes)), about)


def relays(
    instances: int, seed: int, sizes: Sequence[int], low: float = 0.005, high: float = 0.02, name: str = "relay"
) -> Family:
    """Relays of 2 rounds (R1), T = 2n; at each turn and context the agent steps up with its own probability in [low, high]."""
    slots = max(sizes)
    agents = jnp.asarray(np.repeat(sizes, instances))
    stages = jax.vmap(lambda n: relay_stage(n, 0.25, 0.0, slots))(agents)
    draws = np.random.default_rng(seed).uniform(low, high, (instances, stages.current.shape[1]))
    up = np.where(np.asarray(stages.team.active) >= 0, np.tile(draws, (len(sizes), 1)), 0.0)
    optimum = np.asarray((jax.vmap(optimal_values)(stages.team) * stages.team.initial).sum(-1))
    about = {"family": name, "instances": len(optimum), "agents": list(sizes), "slots": slots, "rounds": 2, "seed": seed,
             "probability": [low, high]}  # fmt: skip
    return Family(name, stages.team, jnp.asarray(np.stack([1 - up, up], -1)), optimum, about)


# --------------------------------------------------------------------------------------------------------- what is held fixed


def _limited(
    per_agent: Array, per_message: Array, current: Array, estimate: Estimate, memory: Array
) -> tuple[Array, StepInfo]:
    return kl_constrained(per_agent + per_message * estimate.weight.sum())(current, estimate, memory)


def limited_step(per_agent: float = 0.0, per_message: float = 0.0) -> Callable[[Family], Step]:
    """U1 with `E_d KL(current‖new) ≤ per_agent + per_message·w_i`, `w_i` the agent's share (episodic: its turns)."""
    return lambda family: Partial(_limited, jnp.asarray(per_agent), jnp.asarray(per_message))


class ScalingCase(NamedTuple):
    """One family with one thing held fixed, trained by both schedules."""

    name: str
    held: str  #: what is held fixed, in words
    step: Callable[[Family], Step]
    teams: Callable[[TabularSettings, Sequence[int]], Family]

    def rows(self) -> dict[str, Row]:
        tag = self.name.split(", ")[1]
        return {
            "fresh": Row(f"fresh {tag}", self.step),
            "once": Row(f"once {tag}", self.step, schedule=lambda family: once),
        }


def _garnets(settings: TabularSettings, sizes: Sequence[int]) -> Family:
    return garnets(settings.instances, settings.seed, sizes)


CASES = (
    ScalingCase("garnet, δ per agent", f"E_d KL ≤ {RADIUS} per agent, γ = .9", limited_step(RADIUS), _garnets),
    ScalingCase("garnet, δ per message", f"E_d KL ≤ {RADIUS}·wᵢ, KL per message {RADIUS}, γ = .9",
          limited_step(per_message=RADIUS), _garnets),
    ScalingCase("relay, δ per agent", f"KL summed over the episode ≤ {RADIUS} per agent, T = 2n, p = .005 … .02 at the start",
          limited_step(RADIUS), lambda settings, sizes: relays(settings.instances, settings.seed, sizes)),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- statistics


def _sizes(run: Records) -> Floats:
    """``[N]``: n of each team."""
    sizes = run.about["agents"]
    return np.repeat(np.asarray(sizes, float), run.columns["agent"].shape[-1] // len(sizes))


def _live(run: Records, x: Floats) -> Floats:
    """Zero at the updates of slots beyond n; agents move in the order of their numbers."""
    return np.where(run["agent"] < _sizes(run), x, 0.0)


def _summed(name: str) -> Callable[[Records], Floats]:
    return lambda run: _live(run, abs(run[name])).sum(1)


def _share(of: Callable[[Records], Floats]) -> Callable[[Records], Floats]:
    return lambda run: 100 * of(run) / np.asarray(run.about["optimum"])


def _in_use(run: Records) -> Floats:
    return _live(run, abs(run["exact.surrogate_in_use"] - run["exact.surrogate_intermediate"])).sum(1)


QUANTITIES: dict[str, Callable[[Records], Floats]] = {
    "delta_stale": _share(_summed("exact.seq_minus_stale")),
    "delta_in_use": _share(_in_use),
    "d_occ": _summed("exact.occupancy_tv_stale"),
    "d_occ_in_use": _summed("exact.shift_in_use"),
    "d_step": _summed("exact.occupancy_tv_fresh"),
    "gap_fresh": _share(_summed("exact.gap_fresh")),
    "gap_stale": _share(_summed("exact.gap_stale")),
    "objective": _share(lambda run: run["exact.objective_after"][:, -1]),
    "instability": _share(lambda run: _live(run, np.maximum(-run["exact.improvement"], 0)).sum(1) / _sizes(run)),
    "regressions": lambda run: 100 * _live(run, run["exact.regression"]).sum(1) / _sizes(run),
}
"""``[stages, N]`` of a run. Surrogates, gaps and losses in percent of `J*`, over the n updates of a team (`_live`).

Δ_stale is `Σ|L^seq − L^stale|` of the stage's updates, whatever rollouts they used; "in use" compares with the rollouts that the
update saw (their occupancy and their advantages). Instability is the mean loss `max(0, −ΔJ)` of an update."""


def by_size(run: Records, quantity: str, stage: int | None = None) -> Floats:
    """``[sizes, instances]``: the mean over stages, or one stage; objective: the last stage."""
    found = QUANTITIES[quantity](run)
    picked = found[-1 if quantity == "objective" else stage] if stage is not None or quantity == "objective" else None
    return (found.mean(0) if picked is None else picked).reshape(len(run.about["agents"]), -1)


def slope(n: ArrayLike, y: Floats, seed: int = 0) -> Slope | None:
    """`theory.fits.bootstrap_slope`, resampling instances, each with all its n; none where under half of them are positive."""
    if ((y > 1e-12).mean(-1) < 0.5).any():
        return None
    return bootstrap_slope(np.asarray(n, float), y, np.random.default_rng(seed))


def intervals(y: Floats) -> list[Interval]:
    return [bootstrap(row, np.mean) for row in y]


# ----------------------------------------------------------------------------------------------------------------- the study


def trained(settings: TabularSettings, case: ScalingCase, sizes: Sequence[int], folder: str) -> dict[str, Records]:
    """The records of both schedules; what is on disk is not computed again."""
    teams = case.teams(settings, sizes)
    home = settings.out / folder
    return {
        name: train_row(row, teams, settings.stages, 0, settings.seed, home, settings.progress)
        for name, row in case.rows().items()
    }


def run(settings: TabularSettings, wide: bool = False) -> list[Path]:
    """n = 2, 3, 4, 5, 6, 8 in one batch; with `wide` also 12, 16, 24, 32 in a second one of 32 slots, on the same worlds."""
    found: dict[str, list[dict[str, Records]]] = {}
    for case in CASES:
        found[case.name] = [trained(settings, case, SIZES, "scaling")]
        if wide:
            found[case.name].append(trained(settings, case, WIDE, "scaling-wide"))
    for case in CASES:
        _numbers(case, found[case.name], settings)
    _slopes(found)
    suffix = "-wide" if wide else ""
    return [
        draw(found, settings.out / f"scaling{suffix}.png"),
        draw_gaps(found[CASES[0].name][0], settings.out / "scaling-gaps.png"),
    ]


def joined(
    runs: Sequence[dict[str, Records]], schedule: str, quantity: str, stage: int | None = None
) -> tuple[list[int], Floats]:
    """n and ``[sizes, instances]`` over all batches."""
    sizes = [int(n) for batch in runs for n in batch[schedule].about["agents"]]
    return sizes, np.concatenate([by_size(batch[schedule], quantity, stage) for batch in runs])


def short(x: Interval) -> str:
    """The value and half the length of its interval."""
    half = float(f"{(x.high - x.low) / 2:.1g}")
    return f"{x.value:.3g} ±{half:g}"


def _plain(x: float) -> str:
    return "0" if abs(x) < 1e-12 else f"{x:.3g}"


def _numbers(case: ScalingCase, runs: list[dict[str, Records]], settings: TabularSettings) -> None:
    lines: list[list[object]] = []
    for schedule, theirs in PAPER_NAMES.items():
        columns = {name: joined(runs, schedule, name) for name in QUANTITIES}
        for i, n in enumerate(columns["d_occ"][0]):
            around = {name: short(bootstrap(y[i], np.mean)) for name, (_, y) in columns.items()}
            mean = {name: _plain(float(y[i].mean())) for name, (_, y) in columns.items()}
            beside = ["–", "–"]
            if n in paper.SCALING_N:
                at = paper.SCALING_N.index(n)
                beside = [f"{paper.SCALING[theirs][key][at]:.2f}" for key in ("delta_stale", "d_occ")]
            lines.append([f"{schedule} {n}", around["delta_stale"], mean["delta_in_use"], around["d_occ"], mean["d_occ_in_use"],
                          mean["d_step"], mean["objective"], mean["instability"], mean["regressions"], *beside])  # fmt: skip
    show(
        f"Team size, {case.name}: {case.held}; {settings.instances} instances of every n, {settings.stages} stages, U1",
        ["", "Δ_stale %", "in use %", "D_occ", "in use", "Σ TV step", "J/J* %", "instab. %", "regr. %", "paper Δ", "paper D"],
        lines,
        "Means over instances and stages (J: after the last stage) ± half the 95 % bootstrap interval over instances; Δ, J, "
        "instability in % of J*; Σ TV step = Σ TV(dⁱ, dⁱ⁻¹); exact rollouts, float64. 'fresh' is TeamTR, 'once' is naive. Last "
        "columns: the paper, Table 2a.",
    )  # fmt: skip


SLOPED = {"delta_stale": "Δ_stale", "d_occ": "D_occ", "d_step": "Σ TV(dⁱ,dⁱ⁻¹)", "gap_stale": "Σ|stale gap|",
          "gap_fresh": "Σ|fresh gap|", "instability": "instability"}  # fmt: skip


def _text(x: Slope | None) -> str:
    return "– (zeros)" if x is None else f"{x.slope:.2f} [{x.low:.2f}, {x.high:.2f}]"


def _slopes(found: dict[str, list[dict[str, Records]]]) -> None:
    lines: list[list[object]] = []
    off: list[str] = []
    for case in CASES:
        for schedule, theirs in PAPER_NAMES.items():
            for quantity, label in SLOPED.items():
                sizes, first = joined(found[case.name], schedule, quantity, 0)
                _, mean = joined(found[case.name], schedule, quantity)
                ours = slope(sizes, first), slope(sizes, mean)
                quoted = paper.SLOPES[theirs].get(quantity)
                rows = paper.SCALING[theirs].get(quantity)
                refit = None if rows is None else log_slope(paper.SCALING_N, rows)
                if case is CASES[0] and quoted is not None:
                    off.append(_verdict(f"{schedule}, {label}", ours, quoted))
                if ours != (None, None):
                    lines.append([f"{case.name}, {schedule}: {label}", *map(_text, ours),
                                  "" if quoted is None else f"{quoted:.2f}", "" if refit is None else _text(refit)])  # fmt: skip
    sizes, _ = joined(found[CASES[0].name], "fresh", "d_occ")
    show(
        f"Slopes in log n, n = {sizes[0]} … {sizes[-1]}: exponents on this range only, with what is named held fixed",
        ["quantity", "stage 1", "all stages", "paper quotes", "its rows, refitted"],
        lines,
        """
        Least squares of the log of the mean over instances; 95 % bootstrap interval over instances, an instance with all
        its n resampled together. Refit: least squares on the paper's own six rows, Student interval of the residuals. Not
        listed: where under half of the instances are positive at some n, there is no logarithm to fit.
        """,
    )
    paragraphs([*off, *_order(found[CASES[0].name][0]), *_reasons(sizes)])


def _order(runs: dict[str, Records]) -> list[str]:
    """Figure 2 in words."""
    found = []
    for schedule, gap in (("once", "stale"), ("fresh", "fresh")):
        second, third = (gaps(runs[schedule], gap, update) for update in (1, 2))
        share, first = (bootstrap(x, np.mean) for x in (100 * (third > second).mean(0), 100.0 * (third > second)[0]))
        found.append(f"{schedule}, |{gap} gap|: {share} % of the stages, {first} % of the first stages")
    return [
        f"Figure 2, n = 3, third update's gap above the second's: {'; '.join(found)}. The paper: third above second if cached."
    ]


def paragraphs(texts: Sequence[str]) -> None:
    """Print them, 130 characters a line. Line breaks in them count as blanks."""
    for text in texts:
        print(textwrap.fill(" ".join(text.split()), 130))


def _verdict(label: str, ours: tuple[Slope | None, Slope | None], quoted: float) -> str:
    start = f"garnet, δ per agent, {label}: the paper quotes {quoted:.2f}; ours"
    if ours[0] is None or ours[1] is None:
        return f"{start} is zero at some n."
    words = ["agrees" if x.low <= quoted <= x.high else "differs" for x in ours if x is not None]
    return f"{start} {_text(ours[0])} at stage 1 {words[0]}, {_text(ours[1])} over all stages {words[1]}."


def _reasons(sizes: Sequence[int]) -> list[str]:
    """Why ours and the paper's can differ; the exponents named are computed for this range of n."""
    n = np.asarray(sizes, float)
    coherent = log_slope(n, n * (n - 1)).slope
    random = log_slope(n, [np.sqrt(np.arange(k)).sum() for k in sizes]).slope
    relay = log_slope(n, (3 * n**2 - n) / 2).slope
    return [
        """
        Why. (1) Rollouts are exact, so on fresh ones the mismatch in use is zero at every n, and the mismatch that old ones
        would have had is the same under both schedules: Δ_stale and D_occ tell how far the team moves in a stage. The
        paper's rows are from samples; how much of them is sampling error is not tested here. Fresh rollouts leave Σ
        TV(dⁱ,dⁱ⁻¹) and Σ|fresh gap|.
        """,
        f"""
        (2) Δ_stale and D_occ are sums over pairs k < i, none at i = 1, so a fit over small n reads more than the exponent
        that lasts: on n = {sizes[0]} … {sizes[-1]} equal terms of one sign, n(n−1)/2, read {coherent:.2f}, equal terms of
        random sign, Σ√(i−1), read {random:.2f}. With δ per agent fixed, discounted and turn-taking, Σ|stale gap| ≤ max
        B·nδ/(1−γ)².
        """,
        """
        (3) In random teams signs cancel and the world forgets within 1/(1−γ) steps (R3). Later stages read less: larger
        teams move further in a stage and are done sooner. With KL per message fixed the team moves as far at every n.
        """,
        f"""
        (4) R1, all agents p → p+ε, T·p ≪ 1, reads {relay:.2f} for Σ|stale gap| and 1 for Σ|fresh gap| on these n. U1 does
        not take that step: the gain is largest where one more step ends the relay, a context that is rarely seen, so it
        moves p there by much more.
        """,
        """
        (5) In the paper accuracy on cached rollouts falls with n. Here no stage on them ends below its start, whatever n
        and δ: these teams take turns and their advantages are exact (U2 c).
        """,
    ]


# ------------------------------------------------------------------------------------------------------------------- figures

PANELS = {"delta_stale": "Δ_stale, % of J*", "d_occ": "D_occ", "objective": "J/J*, %"}


def draw(found: dict[str, list[dict[str, Records]]], path: Path) -> Path:
    """Each quantity against n for each thing held fixed; the paper's rows in grey."""
    figure, grid = axes(len(PANELS), len(CASES), (3.4 * len(CASES), 2.5 * len(PANELS)), sharex=True)
    for column, case in enumerate(CASES):
        for line, (quantity, label) in enumerate(PANELS.items()):
            ax = grid[line, column]
            for schedule, theirs in PAPER_NAMES.items():
                sizes, y = joined(found[case.name], schedule, quantity)
                ours = intervals(y)
                name = f"ours, {schedule} ({theirs})"
                ax.plot(sizes, [x.value for x in ours], "o-", color=COLOURS[schedule], markersize=3, label=name)
                low, high = [x.low for x in ours], [x.high for x in ours]
                ax.fill_between(sizes, low, high, color=COLOURS[schedule], alpha=0.2, linewidth=0)
                if quantity in paper.SCALING[theirs]:
                    style = {**PAPER, "label": f"the paper, {theirs}", "marker": "s" if schedule == "once" else "^"}
                    ax.plot(paper.SCALING_N, paper.SCALING[theirs][quantity], markersize=3, linewidth=0.8, **style)
            ax.set_xscale("log", base=2)
            if quantity != "objective":
                ax.set_yscale("log")
            sizes, _ = joined(found[case.name], "fresh", quantity)
            shown = [n for n in sizes if n in (2, 3, 4, 6, 8, 16, 32)]
            ax.set_xticks(shown, shown)
            ax.minorticks_off() if quantity == "objective" else None
            if column == 0:
                ax.set_ylabel(label)
            if line == 0:
                ax.set_title(case.name, fontsize=10)
            if line == len(PANELS) - 1:
                ax.set_xlabel("agents n")
    grid[0, 0].legend(fontsize=6, frameon=False)
    return save(figure, path)


def gaps(run: Records, gap: str, update: int, size: int = 3) -> Floats:
    """``[stages, instances]``: |gap| of one update of the teams of this size, % of `J*`."""
    at = run.about["agents"].index(size)
    found = 100 * abs(run[f"exact.gap_{gap}"][:, update]) / np.asarray(run.about["optimum"])
    return found.reshape(found.shape[0], len(run.about["agents"]), -1)[:, at]


def draw_gaps(runs: dict[str, Records], path: Path, size: int = 3) -> Path:
    """Figure 2: the gap of the second and third update over training, cached rollouts and fresh ones, n = 3."""
    figure, (left, right) = axes(1, 2, (7.5, 2.9), sharey=True)
    pairs = (
        (left, "once", "stale", "cached rollouts: |stale gap|"),
        (right, "fresh", "fresh", "fresh rollouts: |fresh gap|"),
    )
    for ax, schedule, gap, title in pairs:
        for update, style in ((1, "-"), (2, "--")):
            found = [bootstrap(x) for x in gaps(runs[schedule], gap, update, size)]
            x = np.arange(1, len(found) + 1)
            name = f"update {update + 1}"
            ax.plot(x, [y.value for y in found], style, color=COLOURS[schedule], label=name)
            low, high = [y.low for y in found], [y.high for y in found]
            ax.fill_between(x, low, high, color=COLOURS[schedule], alpha=0.15, linewidth=0)
        ax.set_yscale("log")
        ax.set_xlabel("stage")
        ax.set_title(title, fontsize=10)
        ax.legend(fontsize=7, frameon=False)
    left.set_ylabel("% of J* (medians, 95 %)")
    return save(figure, path)
