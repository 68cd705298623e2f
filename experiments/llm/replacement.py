"""Figure 6 and Table 11 with networks: one agent of a trained team is replaced, directly, aligned first, or all start again.

`python -m experiments.llm.replacement RUN` with the folder of a finished `train`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from numpy.typing import NDArray

from experiments import paper
from experiments.commands import exit_code, parsed, use_all_cores
from experiments.figures import REPLACED, axes, save
from experiments.llm.measure import Mean, converse, paired_gain
from experiments.llm.run import START, Loaded, load_run
from experiments.llm.settings import MOST_PROMPTS, MOST_STAGES
from experiments.llm.setup import start_of
from experiments.networks import backend_of, train_stage
from experiments.saved import places, write_json
from experiments.tables import show
from teamtr_jax.llm import checked
from teamtr_jax.llm.alignment import PROBES, AlignmentSettings, align
from teamtr_jax.llm.backend import rewards_of
from teamtr_jax.llm.checked import FLOAT32, SEEDS, flags, real, whole
from teamtr_jax.llm.description import describe_team
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, Params, agent_params
from teamtr_jax.llm.replacement import replace_agent, sampled_swap
from teamtr_jax.llm.sampler import sample
from teamtr_jax.llm.sizes import require_room
from teamtr_jax.llm.tasks import draw
from teamtr_jax.llm.update import init_train_state
from teamtr_jax.records import dump, update_lines
from teamtr_jax.training import read_records, train
from teamtr_jax.validation import InputError, shown, whole_number

__all__ = ["Replace", "Course", "trained_courses", "report", "draw_courses"]

PROGRAM = "experiments.llm.replacement"

NEWCOMERS = 10_000
"""Added to the seed for the newcomers' start."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Replace:
    """Replace each agent of a trained team in turn, and train on."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run of `train`, finished or not: of the team as it was saved last."""
    out: Path | None = None
    """Where the results are kept; None: `replacement` in the folder of the run. The same call goes on where one ended."""
    width: int | None = None
    """Of the newcomer's network; None: as it was, from another seed."""
    agents: tuple[int, ...] | None = None
    """Who is replaced; None: each in turn."""
    stages: int = 5
    """Of training after the replacement."""
    radius: float = 0.05
    """Of the alignment, nats a conversation."""
    probes: int = PROBES
    """Conversations on which the newcomer is aligned; training prompts."""
    seed: int = 1
    """Of the newcomer, the probes and the training after it."""
    progress: bool = True

    def __post_init__(self):
        checked.places(self, "run", *["out"] * (self.out is not None))
        if self.agents is not None:
            if not isinstance(self.agents, tuple | list):
                raise InputError("agents", repr(self.agents), "a tuple of agents")
            object.__setattr__(self, "agents", tuple(whole_number("agents", agent, 0) for agent in self.agents))
        whole(self, 1, "stages", high=MOST_STAGES)
        whole(self, 10, "probes", high=MOST_PROMPTS)
        whole(self, 0, "seed", high=SEEDS - NEWCOMERS)
        if self.width is not None:
            whole(self, 1, "width")
        real(self, "radius", **FLOAT32)
        flags(self, "progress")

    @property
    def home(self) -> Path:
        """Where the results are kept."""
        return self.out or self.run / "replacement"


class Course(NamedTuple):
    """One way to replace, one agent."""

    condition: str
    agent: int | None
    reward: (
        Floats  #: [1 + stages, prompts] mean reward on held-out prompts: after the swap, after each stage of training
    )
    swap: dict[str, Any] | None  #: `SampledSwap` on the held-out prompts


def _newcomers(settings: Replace, loaded: Loaded) -> tuple[LanguageTeam, Params]:
    """A team of newcomers, warm-started like the team that was trained."""
    setup = loaded.setup
    config = cast(ModelConfig, setup.team.models[0])
    config = replace(config, width=settings.width or config.width)
    team = LanguageTeam(setup.team.layout, (config,) * setup.team.agents)
    asked = replace(loaded.settings, seed=settings.seed + NEWCOMERS)
    return team, start_of(asked, replace(setup, team=team), settings.home / START)[0]


class Swap(NamedTuple):
    """A team as it goes on: who was replaced in it, and how."""

    condition: str
    agent: int | None
    team: LanguageTeam
    params: Params
    report: dict[str, Any] | None = None  #: `SampledSwap` on the held-out prompts


def _course(settings: Replace, loaded: Loaded, swap: Swap, home: Path) -> Course:
    """Train on, and measure after every stage; what is on disk is not computed again."""
    team, setup, asked = swap.team, replace(loaded.setup, team=swap.team), loaded.settings
    backend = backend_of(setup)
    test_key = jax.random.fold_in(jax.random.key(settings.seed), 11)

    def measured(params: Params) -> list[float]:
        found = converse(team, params, setup.task, setup.test, asked.test_samples, test_key, setup.rows)
        return found.reward.mean(-1).tolist()

    def stage(state: Any, key: Any, k: int) -> tuple[Any, list[dict[str, Any]]]:
        final, records = train_stage(setup, backend, state, key, k)
        lines = update_lines(records)
        lines[-1]["held_out"] = measured(final.params)
        return final, lines

    about = json.loads(dump({
        "condition": swap.condition, "agent": swap.agent, "team": describe_team(team), "seed": settings.seed,
        "swap": swap.report, "update": asdict(setup.update), "sampling": asdict(setup.sampling),
    }))  # fmt: skip
    state = init_train_state(team, swap.params, setup.update)
    key = jax.random.fold_in(jax.random.key(settings.seed), 12)
    train(stage, state, settings.stages, key, home, about, settings.progress)
    after = [line["held_out"] for line in read_records(home) if "held_out" in line]
    return Course(swap.condition, swap.agent, np.array([measured(swap.params), *after]), swap.report)


def trained_courses(settings: Replace) -> list[Course]:
    """Every condition, every agent; the first course is the one without a replacement.

    Raises:
      InputError: no run, an agent that it does not have, or held-out prompts too few for a limit; before any work.
    """
    loaded = load_run(settings.run)
    setup, params = loaded.setup, loaded.params
    team, out = setup.team, settings.home
    agents = range(team.agents) if settings.agents is None else settings.agents
    for agent in agents:
        whole_number("agents", agent, 0, team.agents - 1)
    if len(set(agents)) < len(agents) or not len(agents):
        raise InputError("agents", settings.agents, "each agent at most once, and at least one")
    if len(setup.test) < 2:
        raise InputError("test_prompts", f"{len(setup.test)} in {settings.run}", "at least 2 held-out prompts")
    places(out, ("keep", "scratch", START), ("replacement.json", "replacement.png"))
    require_room(team, "probes", rows=max(settings.probes, len(setup.test)))
    if loaded.stages < loaded.settings.stages:
        print(f"the team after {loaded.stages} of {loaded.settings.stages} stages")
    other, newcomers = _newcomers(settings, loaded)
    rng = np.random.default_rng([settings.seed, 13])
    probe_key, test_key = (jax.random.fold_in(jax.random.key(settings.seed), i) for i in (14, 15))
    problems = draw(setup.task, rng, settings.probes, held_out=False)
    probes = sample(team, params, jnp.asarray(team.layout.encode_prompts([p.prompt for p in problems])), probe_key)
    fresh = sample(team, params, jnp.asarray(team.layout.encode_prompts([p.prompt for p in setup.test])), test_key)
    reward = rewards_of(setup.task, team.layout, setup.test, np.asarray(fresh.tokens))

    courses = [_course(settings, loaded, Swap("no replacement", None, team, params), out / "keep")]
    courses.append(_course(settings, loaded, Swap("from scratch", None, other, newcomers), out / "scratch"))
    for agent in agents:
        config, own = other.models[agent], agent_params(other, newcomers, agent)
        aligned, info = align(
            team, params, agent, config, own, probes, AlignmentSettings(radius=settings.radius), seed=settings.seed
        )
        for name, its in (("direct", own), ("aligned", aligned)):
            found = sampled_swap(team, params, agent, config, its, fresh, reward)
            about = json.loads(json.dumps({**found._asdict(), "limit": found.limit and found.limit.lower}))
            about |= {"alignment": info._asdict()} if name == "aligned" else {}
            new = replace_agent(team, params, agent, config, its)
            swap = Swap(name, agent, *new, json.loads(dump(about)))
            courses.append(_course(settings, loaded, swap, out / f"{name}-{agent}"))
    return courses


def _of(courses: list[Course], condition: str) -> Floats:
    """``[1 + stages, prompts]``: the mean over the agents that were replaced."""
    return np.mean([c.reward for c in courses if c.condition == condition], 0)


def _shown(gain: Mean) -> str:
    return f"{100 * gain.value:+.1f} ± {100 * gain.error:.1f}"


def report(settings: Replace, courses: list[Course]) -> dict[str, Any]:
    """The table on the terminal, and its numbers as ``replacement.json``."""
    keep = _of(courses, "no replacement")
    lines, numbers = [], {}
    for name in REPLACED:
        own = _of(courses, name)
        change = [paired_gain(keep[0][:, None], x[:, None]) for x in own]
        end = paired_gain(keep[-1][:, None], own[-1][:, None])
        swaps = [c.swap for c in courses if c.condition == name and c.swap is not None]
        kl, certificate = (
            float(np.mean([x[key][0] for x in swaps])) if swaps else None for key in ("kl", "certificate")
        )
        lines.append([name, "" if kl is None else f"{kl:.3g}", _shown(change[0]), *(_shown(x) for x in change[1:]),
                      _shown(end), "" if certificate is None else f"{100 * certificate:.3g}"])  # fmt: skip
        numbers[name] = {"accuracy": own.mean(-1).tolist(), "change": [x._asdict() for x in change],
                         "end_against_no_replacement": end._asdict(), "kl": kl, "certificate": certificate}  # fmt: skip
    stages = range(1, settings.stages + 1)
    first, second = paper.REPLACEMENT["shock"]
    show(
        f"Replacing an agent: accuracy before {100 * keep[0].mean():.1f} %, change against it in points",
        ["", "KL of swap", "at the swap", *(f"after {k}" for k in stages), "end − no replacement", "L − δ (S7)"],
        lines,
        f"""± half the 95 % normal interval over {keep.shape[1]} held-out prompts, paired; mean over the replaced agents. KL =
        KL(outgoing‖newcomer), nats a conversation, on held-out prompts. The paper: shock {first} direct, {second} aligned; after
        training {100 * paper.REPLACEMENT["direct"]:+.0f} % and {100 * paper.REPLACEMENT["aligned"]:+.0f} %.""",
    )
    write_json(
        settings.home / "replacement.json",
        {"settings": json.loads(json.dumps(asdict(settings), default=str)), **numbers},
    )
    return numbers


def draw_courses(courses: list[Course], path: Path) -> Path:
    """Accuracy through the replacement; one thin line for each agent."""
    figure, ax = axes(1, 1, (5.0, 3.0))
    before = courses[0].reward[0].mean()
    for name, colour in REPLACED.items():
        for course in courses:
            if course.condition == name and course.agent is not None:
                ax.plot(100 * course.reward.mean(-1), color=colour, linewidth=0.6, alpha=0.5)
        ax.plot(100 * _of(courses, name).mean(-1), color=colour, label=name)
    ax.axhline(100 * before, color="0.8", linewidth=0.8)
    ax.set_xticks(range(len(courses[0].reward)))
    ax.set_xlabel("stages after the replacement")
    ax.set_ylabel("held-out accuracy, %")
    ax.legend(fontsize=7, frameon=False)
    return save(figure, path)


def main(arguments: list[str] | None = None) -> int:
    """Run, print, draw. Exit codes: `exit_code`."""

    def command() -> None:
        settings = parsed(Replace, arguments, PROGRAM, __doc__)
        courses = trained_courses(settings)
        report(settings, courses)
        print(shown(draw_courses(courses, settings.home / "replacement.png")))

    return exit_code(PROGRAM, command)


if __name__ == "__main__":
    use_all_cores()
    sys.exit(main())
