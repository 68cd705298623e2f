"""Conversations of checkpoints on the terminal, and how well they do on held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.text import Text

from experiments.llm.evaluation import rate_of, regressions, sizes
from experiments.llm.measure import Mean, pass_at
from experiments.llm.settings import Eval, Show
from experiments.llm.setup import held_out_problems
from experiments.llm.transcripts import COLOURS, standing, verdict
from experiments.llm.words.run import TextLoaded, load_text_run, talk
from experiments.llm.words.setup import roles_of, text_task_of
from experiments.saved import places, write_json
from experiments.tables import show as table
from teamtr_jax.llm.tasks import Problem, WordTask, draw, views_of
from teamtr_jax.validation import InputError, shown

__all__ = ["show_text", "evaluate_text", "conversation"]


def conversation(
    names: Sequence[str], views: Sequence[str], problem: Problem, said: Sequence[str], reward: float
) -> Text:
    """One conversation: what was asked, who said what, what it earned. Line by line, each as `shown`."""
    text = Text()
    for name, view in dict(zip(names, views, strict=True)).items() if len(set(views)) > 1 else [("problem", views[0])]:
        _lines(text, name + " sees" * (name != "problem"), view or "(nothing)", "dim", "bold")
    for turn, message in enumerate(said):
        agent = turn % len(names)
        colour = COLOURS[agent % len(COLOURS)]
        _lines(text, names[agent], message or "(nothing)", colour, colour)
    return text.append_text(verdict(reward, f"   answer {shown(problem.answer)}"))


def _lines(text: Text, head: str, content: str, head_style: str, style: str) -> None:
    for number, line in enumerate(content.splitlines() or [""]):
        text.append(f"  {shown(head) if not number else '':>14}  ", head_style).append(shown(line, 400) + "\n", style)


def show_text(settings: Show, console: Console | None = None) -> None:
    """Print conversations on held-out prompts.

    Raises:
      InputError: no such run.
    """
    loaded = load_text_run(settings.run, settings.start, settings.mesh)
    setup, console = loaded.setup, Console() if console is None else console
    wanted = settings.count * (8 if settings.failures else 1)
    problems = draw(setup.task, np.random.default_rng([settings.seed, 4]), wanted, held_out=True)
    found = talk(setup, loaded.params, problems, 1, jax.random.key(settings.seed))
    bases = ", ".join(dict.fromkeys(base["name"] for base in setup.bases))
    after = standing(loaded.stages)
    title = (
        f"{shown(setup.task.name)}, {shown(bases)}, {loaded.settings.method}, {after}, seed {loaded.settings.seed}\n"
    )
    console.print(Text(title), highlight=False)
    chosen = [b for b in range(wanted) if not settings.failures or found.reward[b, 0] < 1][: settings.count]
    for b in chosen:
        views = views_of(setup.task, problems[b])
        text = conversation(setup.team.names, views, problems[b], found.said[b][0], float(found.reward[b, 0]))
        console.print(text, highlight=False)
    line = f"mean reward {found.reward.mean():.3f} of {wanted} conversations, {len(chosen)} shown"
    console.print(line, style="dim", highlight=False)


def evaluate_text(settings: Eval) -> dict[str, Any]:
    """Print avg@K and pass@K, of further difficulties too, and write them to ``eval.json``.

    Raises:
      InputError: no such run, or a difficulty with other roles.
    """
    loaded = load_text_run(settings.run, settings.start, settings.mesh)
    name = "eval-start.json" if settings.start else "eval.json"
    places(settings.run, files=[name])
    setup, own = loaded.setup, " ".join(loaded.settings.difficulty or ()) or "as trained"
    tasks = {own: setup.task}
    for text in settings.difficulty:
        tasks[text] = _fitting(loaded, text)
    rng = [settings.seed, 5]
    drawn = {
        text: held_out_problems(task, np.random.default_rng(rng), settings.prompts, name="prompts")
        for text, task in tasks.items()
    }
    report: dict[str, Any] = {"run": str(settings.run), "stages": loaded.stages, "samples": settings.samples,
                              "seed": settings.seed, "difficulties": {}}  # fmt: skip
    rows = []
    for text, task in tasks.items():
        found = talk(
            replace(setup, task=task), loaded.params, drawn[text], settings.samples, jax.random.key(settings.seed)
        )
        average = rate_of(found.reward.mean(-1))
        rates = {k: rate_of(pass_at(found.reward == 1, k)) for k in sizes(settings.samples)}
        rows.append([text, average, *rates.values()])
        report["difficulties"][text] = {"prompts": len(drawn[text]), "avg": _plain(average),
                                        "pass": {str(k): _plain(rate) for k, rate in rates.items()}}  # fmt: skip
    title = f"{shown(setup.task.name)}, {loaded.settings.method}, {standing(loaded.stages)}"
    note = "K conversations a prompt; avg: mean reward; pass@k: one of k is right; 95 % intervals over prompts"
    table(title, ["difficulty", f"avg@{settings.samples}", *(f"pass@{k}" for k in sizes(settings.samples))], rows, note)
    report["regressions"] = regressions(setup.team.names, loaded.records)
    path = write_json(settings.run / name, report)
    print("\nwritten:", shown(path), sep="\n  ")
    return report


def _fitting(loaded: TextLoaded, text: str) -> WordTask:
    """The task at another difficulty, which the team plays in the roles in which it was trained.

    Raises:
      InputError: other roles, or a role with another cap, prompt or view.
    """
    task, team = text_task_of(replace(loaded.settings, difficulty=tuple(text.split(",")))), loaded.setup.team
    names = [role.name for role in task.roles]
    if names != list(team.names):
        raise InputError(f"difficulty {text}: roles", ", ".join(names), ", ".join(team.names))
    if task.turns != team.turns:
        raise InputError(f"difficulty {text}: turns", task.turns, f"{team.turns}, as the team was trained")
    for role, agent in zip(roles_of(loaded.settings, task), team.agents, strict=True):
        for name, trained in asdict(agent.role).items():
            if (found := getattr(role, name)) != trained:
                where = f"difficulty {text}: {name} of {role.name}"
                raise InputError(where, found, f"{trained}, as the team was trained")
    return task


def _plain(mean: Mean) -> Mapping[str, float]:
    return mean._asdict()
