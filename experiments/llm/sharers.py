"""Parameters of one's own or shared, updated one after another or jointly: compared exactly on enumerated networks.

`python -m experiments.llm.sharers`: every transcript of a small team is written down, so that nothing is sampled. All
alternatives start from one policy and have the same number of sets of rollouts, and for each the same KL, over the messages of
all who move.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from experiments.commands import exit_code, parsed
from experiments.saved import write_json
from experiments.tables import show
from teamtr_jax import intervals
from teamtr_jax.divergences import kl_current_to_new
from teamtr_jax.llm import checked
from teamtr_jax.llm import enumeration as en
from teamtr_jax.llm.checked import flags, real, whole
from teamtr_jax.llm.layout import Layout, Vocabulary, by_turn, round_robin
from teamtr_jax.llm.model import (
    LanguageTeam,
    ModelConfig,
    Params,
    agent_params,
    init_params,
    is_trained,
    with_agent_params,
)
from teamtr_jax.schedules import Schedule, fresh, once
from teamtr_jax.sharing import Sharing
from teamtr_jax.stage import Backend, run_stage
from teamtr_jax.visits import visits

__all__ = ["Compare", "ALTERNATIVES", "TASKS", "exact_backend", "compared", "table", "markdown"]

PROGRAM = "experiments.llm.sharers"

AGENTS, TURNS = 3, 6
LAYOUT = Layout(Vocabulary("01", AGENTS, "?", ends=False), 1, 1, TURNS, round_robin(AGENTS))
NETWORK = ModelConfig(width=16, layers=1, heads=2)
ADAPTED = replace(NETWORK, lora_rank=2)
CLOSE, TRIES = 1e-3, 40
"""The KL of a step is found to this relative error, in so many trials."""
LONGEST = 1e9
"""Times the gradient: no step is longer."""

ALTERNATIVES: Mapping[str, tuple[ModelConfig, Sharing | None]] = {
    "networks of their own": (NETWORK, None),
    "adapters of their own": (ADAPTED, None),
    "one network, in turn": (NETWORK, Sharing((0,) * AGENTS)),
    "one network, jointly": (NETWORK, Sharing((0,) * AGENTS, "joint")),
    "one adapter, in turn": (ADAPTED, Sharing((0,) * AGENTS)),
    "one adapter, jointly": (ADAPTED, Sharing((0,) * AGENTS, "joint")),
}

Floats = NDArray[np.float64]


def _said(tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
    """``[R, turns]`` whether a message is a one."""
    return np.asarray(by_turn(LAYOUT, jnp.asarray(tokens)))[:, :, 0] == 1


def _alike(tokens: NDArray[np.int32]) -> Floats:
    return (_said(tokens).sum(1) >= TURNS - 1).astype(float)


def _unlike(tokens: NDArray[np.int32]) -> Floats:
    wanted = np.arange(TURNS) % AGENTS != 1
    return ((_said(tokens) == wanted).sum(1) >= TURNS - 1).astype(float)


def _relay(tokens: NDArray[np.int32]) -> Floats:
    said, flips = _said(tokens), np.arange(1, TURNS) % AGENTS == 2
    return (((said[:, 1:] ^ said[:, :-1]) == flips).sum(1) >= TURNS - 2).astype(float)


TASKS: Mapping[str, tuple[Callable[[NDArray[np.int32]], Floats], str]] = {
    "alike": (_alike, "all say one; one message may be wrong"),
    "unlike": (_unlike, "agent 1 says zero, the others one; one may be wrong"),
    "relay": (_relay, "everybody repeats the message before, agent 2 says the opposite; one may be wrong"),
}
"""By name: the outcome of whole transcripts, and in words."""


@dataclass(frozen=True)
class Compare:
    """Compare parameters of one's own with shared ones."""

    out: Path = Path("results/llm/sharers")
    """Where `sharers.json` is written."""
    seeds: int = 10
    updates: int = 12
    """Sets of rollouts of a run, a multiple of the number of agents."""
    radius: float = 0.01
    """K of every update: Σ KL(current‖new) over the messages of all who move, nats an episode."""
    progress: bool = True

    def __post_init__(self) -> None:
        checked.places(self, "out")
        whole(self, 2, "seeds", high=1000)
        whole(self, AGENTS, "updates", high=600)
        object.__setattr__(self, "updates", self.updates // AGENTS * AGENTS)
        real(self, "radius", above=0.0, high=1.0)
        flags(self, "progress")


# ------------------------------------------------------------------------------------------------------------- the backend


class State(NamedTuple):
    """What an update changes."""

    params: Params
    policy: Array  #: of these parameters, enumerated
    scale: float  #: of the last step: where the search for the next one begins


@jax.jit
def _kl(world: en.Enumeration, m: Array, current: Array, new: Array) -> Array:
    """`Σ_s m(s) KL(current‖new)(s)`: over the messages of all who moved, since elsewhere nothing did."""
    return jnp.where(m > 0, m * kl_current_to_new(current, new), 0.0).sum()


_visits = jax.jit(lambda world, policy: visits(world.team, policy))


def exact_backend(world: en.Enumeration, radius: float, states: list[State]) -> Backend:
    """Enumerated networks for `run_stage`: rollouts without sampling error, and the gradient step whose KL is `radius`.

    The step follows the gradient of `Σ m Σ_a π(a|s) A(s,a)`, m and A those of the rollouts in use, over the messages that the
    update is credited with. Its KL is that of everybody who moves, under m.

    Args:
      states: gets every state that is reached.
    """
    language = world.language

    def update(state: State, start: State, agent: int) -> tuple[State, dict[str, Any]]:
        _, gradient = en.policy_gradient(world, state.params, agent, start.policy)
        own, m = agent_params(language, state.params, agent), _visits(world, start.policy)
        gradient = jax.tree.map(lambda g, trained: g if trained else 0.0 * g, gradient, is_trained(own))

        def at(scale: float) -> tuple[State, float]:
            params = with_agent_params(
                language, state.params, agent, jax.tree.map(lambda x, g: x + scale * g, own, gradient)
            )
            policy = en.updated_policy(world, params, state.policy, agent)
            return State(params, policy, scale), float(_kl(world, m, state.policy, policy))

        low, high, scale, kl = 0.0, LONGEST, state.scale, 0.0
        for _ in range(TRIES):
            new, kl = at(scale)
            if abs(kl / radius - 1) < CLOSE:
                states.append(new)
                return new, {"surrogate": 0.0, "kl": kl}
            low, high = (scale, high) if kl < radius else (low, scale)
            if low >= LONGEST / 2:
                break
            guess = scale * float(np.clip(np.sqrt(radius / max(kl, 1e-12)), 0.1, 10.0))
            scale = guess if low < guess < high else (low + high) / 2
        raise ArithmeticError(f"agent {agent}: no step with a KL of {radius:g}, the last had {kl:g}")

    return Backend(
        agents=language.agents,
        rollout=lambda state, key: state,
        estimate=lambda state, data, agent, schedule: data,
        update=update,
        cost=1,
        sharing=language.sharing,
    )


# ------------------------------------------------------------------------------------------------------------------- runs


def start_of(team: LanguageTeam, seed: int) -> Params:
    """The same policy for every alternative: one network, with adapters that do nothing yet where there are any."""
    base = init_params(NETWORK, LAYOUT, jax.random.key(seed))
    known = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_flatten_with_path(base)[0]}
    each = [
        jax.tree_util.tree_map_with_path(
            lambda path, x: known.get(jax.tree_util.keystr(path), x), init_params(config, LAYOUT, jax.random.key(k))
        )
        for k, config in enumerate(team.networks, start=1000 * (seed + 1))
    ]
    return jax.tree.map(lambda *x: jnp.stack(x), *each)


def _world(name: str, task: str) -> en.Enumeration:
    config, sharing = ALTERNATIVES[name]
    return en.enumerate_world(LanguageTeam(LAYOUT, (config,) * AGENTS, sharing), ["?"], TASKS[task][0])


def _chain(
    world: en.Enumeration, settings: Compare, start: State, schedule: Schedule, stages: int
) -> dict[str, Floats]:
    """What is known exactly of the updates of some stages."""
    states, agents, state = [start], [], start
    backend = exact_backend(world, settings.radius, states)
    for stage in range(stages):
        state, records = run_stage(backend, state, range(len(world.language.who.leaders)), schedule, stage=stage)
        agents += [int(record.agent) for record in records]
    chain = jnp.stack([x.policy for x in states])
    report = en.chain_report(world.team, chain, jnp.asarray(world.language.who.moves[agents]))
    joint = _kl(world, report.visits[0], chain[0], chain[-1])
    found = {"objective": report.objective, "surrogate": report.surrogate_intermediate, "gap": report.gap_fresh, "kl": report.kl,
             "gap_cached": report.gap_cached, "kl_stale": report.kl_stale, "kl_joint": joint}  # fmt: skip
    return {key: np.asarray(x) for key, x in found.items()}


def run(settings: Compare, name: str, world: en.Enumeration, seed: int) -> dict[str, float]:
    """The numbers of one alternative on one task from one seed: of a whole run on fresh rollouts, and of a stage on one batch."""
    params = start_of(world.language, seed)
    start = State(params, en.enumerated_policy(world, params), 1.0)
    per_stage = len(world.language.who.leaders)
    whole = _chain(world, settings, start, fresh, settings.updates // per_stage)
    stage = _chain(world, settings, start, once, 1)
    gains = np.diff(whole["objective"])
    cached, increments = abs(stage["gap_cached"].sum()), stage["kl_stale"].sum()
    return {
        "start": float(whole["objective"][0]),
        "improvement": float(gains.sum()),
        "kl": float(whole["kl"].sum()),
        "gap": float(abs(whole["gap"]).mean()),
        "certified": float((whole["surrogate"] - whole["kl"]).sum()),
        "updates": float(gains.size),
        "worse": float((gains < 0).sum()),
        "violations": float((abs(whole["gap"]) > whole["kl"] * (1 + 1e-9)).sum()),
        "batch_improvement": float(np.diff(stage["objective"]).sum()),
        "batch_joint": float(stage["kl_joint"] / increments),
        "batch_cached": float(cached / increments),
        "batch_bound": float(cached / stage["kl_joint"]),
    }


def compared(settings: Compare) -> dict[str, Any]:
    """Every alternative on every task from every seed: ``found[task][alternative][key]``, a list over seeds."""
    found: dict[str, Any] = {}
    for task in TASKS:
        for name in ALTERNATIVES:
            world = _world(name, task)
            runs = [run(settings, name, world, seed) for seed in range(settings.seeds)]
            found.setdefault(task, {})[name] = {key: [x[key] for x in runs] for key in runs[0]}
            if settings.progress:
                print(f"{task}, {name}", file=sys.stderr)
    return found


# ------------------------------------------------------------------------------------------------------------------ table

HEADINGS = (
    "",
    "ΔJ",
    "less that of own networks",
    "S7 certifies",
    "updates that lower J",
    "K(0→n)/ΣK",
    "cached/ΣK",
    "cached/K(0→n)",
)


def _text(values: list[float]) -> str:
    x = intervals.mean(np.array(values), 0.05)
    return f"{x.value:.3f} ± {x.high - x.value:.3f}"


def table(task: str, found: Mapping[str, Mapping[str, list[float]]]) -> list[list[str]]:
    """The rows of a task."""
    first = np.array(next(iter(found.values()))["improvement"])
    out = []
    for name, x in found.items():
        gain = np.array(x["improvement"])
        out.append([
            name, _text(x["improvement"]), "" if name in list(found)[:1] else _text((gain - first).tolist()),
            f"{100 * sum(x['certified']) / gain.sum():.0f} %", f"{100 * sum(x['worse']) / x['updates'][0] / len(gain):.0f} %",
            *(f"{np.mean(x[key]):.2f}" for key in ("batch_joint", "batch_cached", "batch_bound")),
        ])  # fmt: skip
    return out


def markdown(found: Mapping[str, Mapping[str, Mapping[str, list[float]]]]) -> str:
    """The tables of all tasks as they stand in docs/llm.md."""
    lines = [f"| {' | '.join(('task', *HEADINGS[:1], *HEADINGS[1:]))} |", "|---|---|" + "---:|" * (len(HEADINGS) - 1)]
    for task, rows in found.items():
        lines += [f"| {' | '.join((task if i == 0 else '', *row))} |" for i, row in enumerate(table(task, rows))]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run, print, save. Exit codes: `exit_code`."""

    def command() -> None:
        settings = parsed(Compare, arguments, PROGRAM, __doc__)
        found = compared(settings)
        settings.out.mkdir(parents=True, exist_ok=True)
        write_json(settings.out / "sharers.json", {"settings": asdict(settings) | {"out": ""}, "found": found})
        for task, rows in found.items():
            start = np.mean(next(iter(rows.values()))["start"])
            show(f"{task}: {TASKS[task][1]}; J = {start:.3f} at the start", HEADINGS, table(task, rows))

    return exit_code(PROGRAM, command)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    sys.exit(main())
