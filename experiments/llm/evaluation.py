"""avg@K and pass@K on held-out prompts, by difficulty and by agent; which updates were regressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.llm.measure import Conversations, Mean, converse, mean_of, pass_at
from experiments.llm.run import load_run
from experiments.llm.settings import Eval, task_of
from experiments.llm.setup import Setup, held_out_problems
from experiments.llm.transcripts import speakers_of, standing
from experiments.saved import places, write_json
from experiments.tables import show as table
from teamtr_jax.llm.tasks import Problem, Task, demonstrated
from teamtr_jax.validation import InputError, shown

__all__ = ["evaluate", "regressions", "by_agent", "rate_of", "sizes"]


def rate_of(x: NDArray[np.float64]) -> Mean:
    """`mean_of`, limits within [0, 1]."""
    value, low, high = mean_of(x)
    return Mean(value, max(0.0, low), min(1.0, high))


def sizes(samples: int) -> list[int]:
    """The k of pass@k: powers of two and K."""
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})


def by_agent(
    task: Task, problems: Sequence[Problem], found: Conversations, speakers: Sequence[int], agents: int
) -> list[dict[str, Any]]:
    """How often each agent says what was demonstrated; `first_wrong`: share of conversations in which it is the first not to.

    `given_right` counts only messages before which everybody said what was demonstrated: an agent's own errors. Where several
    messages are as good, all three are pessimistic.
    """
    rng = np.random.default_rng(0)
    wanted = [demonstrated(task, problem, rng) for problem in problems]
    right = np.array([[[a == b for a, b in zip(said, want, strict=True)] for said in group]
                      for group, want in zip(found.said, wanted, strict=True)])  # fmt: skip
    before = np.cumprod(np.concatenate([np.ones_like(right[..., :1]), right[..., :-1]], -1), -1).astype(bool)
    who = np.asarray(speakers)
    out = []
    for agent in range(agents):
        mine = who == agent
        own, clean = right[..., mine], before[..., mine]
        given = float(own[clean].mean()) if clean.any() else None
        first = (clean & ~own).any(-1).mean(-1)
        out.append(
            {"as_demonstrated": rate_of(own.mean((-2, -1))), "given_right": given, "first_wrong": rate_of(first)}
        )
    return out


def tasks_of(settings: Eval, setup: Setup, name: str, own: tuple[str, ...]) -> dict[str, Task]:
    """The team's own difficulty, and those asked for, each refused if it does not fit the layout."""
    tasks = {" ".join(own) or "as trained": setup.task}
    layout = setup.team.layout
    for text in settings.difficulty:
        task = task_of(name, tuple(text.split(",")))
        fits = {
            "characters": (task.characters, setup.task.characters),
            "prompt_only": (task.prompt_only, setup.task.prompt_only),
            "turns": (task.turns, layout.turns),
            "roles": (len(task.roles), len(setup.task.roles)),
        }
        for key, (found, expected) in fits.items():
            if found != expected:
                raise InputError(f"difficulty {text}: {key}", found, f"{expected}, as the team was made for")
        if task.prompt_length > layout.prompt:
            raise InputError(
                f"difficulty {text}", f"prompts of {task.prompt_length}", f"at most {layout.prompt} characters"
            )
        tasks[text] = task
    return tasks


def evaluate(settings: Eval) -> dict[str, Any]:
    """Print the tables and write them to ``eval.json``.

    Raises:
      InputError: no such run, or a difficulty that does not fit.
    """
    loaded = load_run(settings.run, settings.start)
    name = "eval-start.json" if settings.start else "eval.json"
    places(settings.run, files=[name])
    setup = loaded.setup
    tasks = tasks_of(settings, setup, loaded.settings.task, loaded.settings.difficulty or ())
    drawn = {
        difficulty: held_out_problems(task, np.random.default_rng([settings.seed, 5]), settings.prompts, name="prompts")
        for difficulty, task in tasks.items()
    }
    lone = setup.team.agents == 1
    roles = ("alone",) if lone else setup.task.roles
    counts = sorted({len(problems) for problems in drawn.values()})
    report: dict[str, Any] = {"run": str(settings.run), "stages": loaded.stages, "prompts": counts[-1],
                              "samples": settings.samples, "seed": settings.seed, "difficulties": {}}  # fmt: skip
    passes, agents = [], []
    for difficulty, task in tasks.items():
        key, problems = jax.random.key(settings.seed), drawn[difficulty]
        found = converse(setup.team, loaded.params, task, problems, settings.samples, key, setup.rows)
        average = rate_of(found.reward.mean(-1))
        rates = {k: rate_of(pass_at(found.reward == 1, k)) for k in sizes(settings.samples)}
        each = by_agent(task, problems, found, speakers_of(setup), setup.team.agents)
        passes.append([difficulty, average, *rates.values()])
        for role, row in zip(roles, each, strict=True):
            given = "–" if row["given_right"] is None else f"{row['given_right']:.3f}"
            agents.append([f"{difficulty}: {role}", row["as_demonstrated"], given, row["first_wrong"]])
        report["difficulties"][difficulty] = {
            "prompts": len(problems),
            "avg": average._asdict(),
            "pass": {str(k): rate._asdict() for k, rate in rates.items()},
            "agents": {
                role: {k: v._asdict() if isinstance(v, Mean) else v for k, v in row.items()}
                for role, row in zip(roles, each, strict=True)
            },
        }
    after = standing(loaded.stages)
    title = f"{setup.task.name}, {loaded.settings.method}, {after}: {' and '.join(map(str, counts))} held-out prompts"
    note = "K conversations a prompt; avg: mean reward; pass@k: one of k is right; 95 % intervals over prompts"
    table(
        title, ["difficulty", f"avg@{settings.samples}", *(f"pass@{k}" for k in sizes(settings.samples))], passes, note
    )
    note = "against the demonstration; given right: where everybody before said what was demonstrated"
    table("By agent", ["agent", "as demonstrated", "given right", "first wrong"], agents, note)
    report["regressions"] = regressions(roles, loaded.records)
    path = write_json(settings.run / name, report)
    print("\nwritten:", shown(path), sep="\n  ")
    return report


def regressions(roles: Sequence[str], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Print which agent's updates made the team worse on the probes; by role, of those that were measured."""
    lines = [(line["agent"], line["probe"]) for line in records if line["probe"]]
    rows, found = [], {}
    for agent, role in enumerate(roles):
        probes = [probe for who, probe in lines if who == agent]
        if not probes:
            continue
        count, worst = sum(p["regression"] for p in probes), min(p["change"] for p in probes)
        found[role] = {"updates": len(probes), "regressions": count, "worst": worst}
        rows.append([role, len(probes), count, f"{worst:+.3f}", f"{np.mean([p['change'] for p in probes]):+.4f}"])
    if rows:
        note = "updates after which fewer probes are solved, sign test at level 0.01 each; change of the mean reward on probes"
        table(
            "Coordination regressions", ["updated agent", "updates", "regressions", "worst", "mean change"], rows, note
        )
    return found
