"""Figure 6 and Table 11: one agent of a trained team is replaced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments import paper
from experiments.figures import REPLACED, axes, save
from experiments.reproduce.question import Finding, Question, ReproduceSettings, Table
from experiments.reproduce.questions.shared import band
from experiments.reproduce.runs import made
from experiments.reproduce.statistics import in_sign, in_size, mean, paired
from experiments.reproduce.training import Run, Way, ground, settings_of, stages_of, start_of, value_of
from teamtr_jax.intervals import Interval
from teamtr_jax.llm.alignment import PROBES, AlignmentSettings, align
from teamtr_jax.llm.enumeration import enumerated_policy
from teamtr_jax.llm.model import agent_params
from teamtr_jax.llm.replacement import replace_agent, swap_report
from teamtr_jax.llm.sampler import sample
from teamtr_jax.llm.update import init_train_state

__all__ = ["REPLACEMENT", "Swap"]


@dataclass(frozen=True)
class Swap:
    """A team is trained, each of its agents is replaced in turn, in each way, and the team trained on. `Job` of `runs`."""

    run: Run
    after: int  #: stages of training after the replacement
    radius: float = 0.05  #: of the alignment, nats a conversation

    @property
    def task(self) -> str:
        return self.run.task

    @property
    def seed(self) -> int:
        return self.run.seed

    @property
    def place(self) -> str:
        return str(Path(self.run.place).with_suffix("")) + f"-swap-{self.after}-{self.radius:g}.json"

    def work(self) -> dict[str, Any]:
        """Exact J after the replacement and after each stage that follows, by way and agent; exact KL of each swap."""
        run, settings = self.run, settings_of(self.run)
        team, world, _ = ground(run.task, False)
        assert world is not None
        state = init_train_state(team, start_of(run.task, False, run.seed, run.start), settings)
        for _, new, _ in stages_of(run, state):
            state = new
        params, following = state.params, replace(run, stages=self.after, seed=run.seed + 500)
        before = enumerated_policy(world, params)
        newcomers = start_of(run.task, False, run.seed, run.start, 1)
        prompts = np.repeat(team.layout.encode_prompts(["?"]), PROBES, 0)
        probes = sample(team, params, jnp.asarray(prompts), jax.random.fold_in(jax.random.key(run.seed), 14))

        def course(begin: Any) -> list[float]:
            values = [value_of(run.task, False, begin, run.seed)]
            for _, new, _ in stages_of(following, init_train_state(team, begin, settings)):
                values.append(value_of(run.task, False, new.params, run.seed))
            return values

        courses: dict[str, list[list[float]]] = {
            "no replacement": [course(params)],
            "from scratch": [course(newcomers)],
        }
        kl: dict[str, list[float]] = {"direct": [], "aligned": []}
        inside = []
        for agent in range(team.agents):
            config, own = team.models[agent], agent_params(team, newcomers, agent)
            aligned, info = align(
                team, params, agent, config, own, probes, AlignmentSettings(radius=self.radius), seed=run.seed
            )
            inside.append(info.inside)
            for name, its in (("direct", own), ("aligned", aligned)):
                _, swapped = replace_agent(team, params, agent, config, its)
                kl[name].append(swap_report(world.team, before, enumerated_policy(world, swapped), agent)["kl"])
                courses.setdefault(name, []).append(course(swapped))
        return {"courses": courses, "kl": kl, "inside": inside}


def collect(settings: ReproduceSettings) -> dict[str, Any]:
    stages, after = settings.at(20, 2), settings.at(8, 2)
    swaps = [Swap(Run(Way("TeamTR", "teamtr"), "chain", seed, stages, 256, 0.45), after) for seed in settings.own_seeds]
    found = made(settings, swaps)
    return {
        "seeds": list(settings.own_seeds), "after": after, "radius": swaps[0].radius,
        "courses": {name: [(100 * np.mean(x["courses"][name], 0)).tolist() for x in found] for name in REPLACED},
        "kl": {name: [float(np.mean(x["kl"][name])) for x in found] for name in ("direct", "aligned")},
        "inside": [float(np.mean(x["inside"])) for x in found],
    }  # fmt: skip


def _course(data: dict[str, Any], name: str) -> NDArray[np.float64]:
    """``[seeds, 1 + stages]``, mean over the agents."""
    return np.asarray(data["courses"][name])


def _shock(data: dict[str, Any], name: str) -> Interval:
    """What J loses by the swap, in points."""
    return paired(_course(data, "no replacement")[:, 0], _course(data, name)[:, 0])


def findings(data: dict[str, Any]) -> list[Finding]:
    first, second = paper.REPLACEMENT["shock"]
    out = []
    for name, theirs in (("direct", first), ("aligned", second)):
        ours = _shock(data, name)
        out.append(
            Finding(
                f"Does a team lose at a swap, {name}?",
                f"{ours} points",
                ours,
                f"{theirs} points",
                in_size(ours, theirs),
            )
        )
    less = paired(_course(data, "direct")[:, 0], _course(data, "aligned")[:, 0])
    out.append(Finding("Is the shock smaller with alignment?", f"{less} points", less, "yes", in_sign(less, -1.0)))
    keep = _course(data, "no replacement")[:, 0]
    for name, theirs in (("direct", paper.REPLACEMENT["direct"]), ("aligned", paper.REPLACEMENT["aligned"])):
        ours = mean(100 * (_course(data, name)[:, -1] / keep - 1))
        question = f"Where is the team after training, against before the swap, {name}?"
        out.append(Finding(question, f"{ours} %", ours, f"{100 * theirs:+.0f} %", in_size(ours, 100 * theirs)))
    ahead = paired(_course(data, "aligned")[:, -1], _course(data, "direct")[:, -1])
    out.append(
        Finding(
            "Does an aligned newcomer end above a direct one?", f"{ahead} points", ahead, "yes", in_sign(ahead, 1.0)
        )
    )
    return out


def table(data: dict[str, Any]) -> Table:
    lines = []
    first, second = paper.REPLACEMENT["shock"]
    for name in REPLACED:
        course = _course(data, name)
        kl = mean(data["kl"][name]) if name in data["kl"] else ""
        shock = _shock(data, name) if name != "no replacement" else ""
        lines.append(
            [
                name,
                kl,
                mean(course[:, 0]),
                shock,
                mean(course[:, 1]),
                mean(course[:, -1]),
                {"direct": first, "aligned": second}.get(name, ""),
            ]
        )
    return ["", "KL(outgoing‖newcomer), nats a conversation", "J after the swap, %", "shock, points", "after one stage",
            f"after {data['after']} stages", "paper: shock"], lines  # fmt: skip


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, ax = axes(1, 1, (5.5, 3.2))
    for name, colour in REPLACED.items():
        rows = _course(data, name).T
        band(ax, np.arange(len(rows)), rows, colour, name, "o-")
    ax.set(xlabel="stages after the replacement", ylabel="J, %, exact")
    ax.legend(fontsize=8, frameon=False)
    return save(figure, path)


REPLACEMENT = Question(
    id="Fig 6, Tab 11",
    title="What does replacing an agent cost, and does alignment help?",
    protocol=f"""
    Three agents, two rounds, the task `Chain` without switches (64 transcripts), started at .45 to .55 and trained by
    TeamTR for 20 stages. Then each agent in turn is replaced by the same role of another team that has only had its
    supervised start: directly, or aligned first on {PROBES} conversations of the old team (KL(outgoing‖aligned) at
    most .05 nats a conversation). Eight stages of TeamTR follow. J and KL are exact; mean over the three agents, n =
    seeds.
    """,
    limits="""
    The newcomer of the paper is another language model, with abilities of its own that alignment keeps; ours knows
    less of the same task.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    paper="The paper, after training: direct {direct:+.0%}, aligned {aligned:+.0%}.".format(**paper.REPLACEMENT),
    why="""
    By S7 a swap loses at most the range of the return times its KL beyond what the surrogate on the old team's
    conversations shows, and the radius bounds that KL. What an aligned team keeps at the swap a direct one has to
    learn again; given stages enough both get there.
    """,
)
