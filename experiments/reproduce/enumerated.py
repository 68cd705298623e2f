"""Training of teams whose transcripts are all enumerated: every statistic of an update is exact."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.llm.setup import write_json
from experiments.reproduce.chain import Chain
from teamtr_jax.llm.backend import LanguageSampling, language_backend
from teamtr_jax.llm.enumeration import Enumeration, enumerate_world, network_audit, verified
from teamtr_jax.llm.methods import METHODS, lone_layout
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, init_team
from teamtr_jax.llm.tasks import draw, layout_of
from teamtr_jax.llm.update import init_train_state
from teamtr_jax.sampled import prompts_per_set
from teamtr_jax.schedules import Order, fixed, random_order, reverse
from teamtr_jax.stage import run_stage

__all__ = ["MODEL", "Way", "Run", "train", "EXACT", "INFO"]

MODEL = ModelConfig(width=16, layers=1, heads=2)
ORDERS = {"fixed": fixed, "reverse": lambda agents: reverse(len(agents)), "random": lambda agents: random_order}

EXACT = ("objective_before", "objective_after", "improvement", "gap_fresh", "gap_stale", "gap_cached", "kl", "kl_stale", "share",
         "occupancy_tv_fresh", "occupancy_tv_stale", "shift_in_use", "seq_minus_stale", "surrogate_in_use",
         "surrogate_intermediate", "certificate_estimable", "certificate_paper", "certificate", "regression")  # fmt: skip
"""What is kept of the audit of each update: exact, float64."""

INFO = (
    "weight_ess",
    "weight_p95",
    "weight_p99",
    "weight_max",
    "weight_above_ten",
    "certificate_estimable",
    "monitor",
    "tokens",
)
"""What is kept of the trainer's own diagnostics: from its rollouts."""


@dataclass(frozen=True)
class Way:
    """One way to train: a row of a table."""

    name: str
    method: str  #: in `METHODS`
    learning_rate: float = 3e-3
    delta: float = 0.01
    order: str = "fixed"


@dataclass(frozen=True)
class Run:
    """One training run: a team of its own start, by one way."""

    way: Way
    task: Chain
    seed: int
    stages: int
    rollouts: int  #: of one update; a stage has n times as many, divided among the sets that the schedule collects
    group: int = 8


@cache
def _world(task: Chain, lone: bool) -> tuple[LanguageTeam, Enumeration]:
    layout = layout_of(task)
    layout = lone_layout(layout) if lone else layout
    team = LanguageTeam(layout, (MODEL,) * layout.agents)
    problem = draw(task, np.random.default_rng(0), 1, held_out=False)
    return team, enumerate_world(team, [problem[0].prompt], verified(layout, problem, task.verify))


def train(run: Run, path: Path) -> dict[str, Any]:
    """The columns of a run, one entry for each update, as JSON in `path`; a finished run is not repeated."""
    asked = json.loads(json.dumps(asdict(run)))
    if path.exists() and (found := json.loads(path.read_text()))["run"] == asked:
        return found
    method = METHODS[run.way.method]
    team, world = _world(run.task, method.lone)
    settings = replace(
        method.settings, learning_rate=run.way.learning_rate, delta=run.way.delta, minibatch=256, micro_batch=64
    )
    n = len(run.task.roles)
    sampling = LanguageSampling(prompts_per_set(run.rollouts * n, method.schedule, team.agents, run.group), run.group)
    backend = language_backend(team, run.task, settings, sampling, audit=network_audit(world))
    order: Order = method.order or ORDERS[run.way.order](range(team.agents))
    root = jax.random.key(run.seed)
    state = init_train_state(team, init_team(team, jax.random.fold_in(root, 0)), settings)
    columns: dict[str, list[float]] = {}
    began = time.perf_counter()
    for stage in range(run.stages):
        key = jax.random.fold_in(root, 1 + stage)
        state, records = run_stage(backend, state, order, method.schedule, key, stage, run.rollouts * n)
        for record in records:
            assert record.exact is not None
            known = {name: record.exact[name] for name in EXACT if name in record.exact}
            known |= {f"sampled.{name}": record.info[name] for name in INFO if name in record.info}
            known |= {
                "stage": stage,
                "update": record.update,
                "agent": record.agent,
                "resampled": record.resampled,
                "rollouts": record.rollouts,
            }
            for name, value in known.items():
                columns.setdefault(name, []).append(float(np.asarray(value)))
    found = {"run": asked, "seconds": time.perf_counter() - began, "columns": columns}
    write_json(path, found)
    return json.loads(path.read_text())
