"""Small stages of every shape in a few sizes, so that they share programs: compiling one takes a hundred times its arithmetic.

`padded` adds, on the host, what changes no number:

* states that are copies of state 0, which nothing enters and where nothing begins;
* actions that are copies of action 0, of probability zero, so that every maximum over actions is what it was;
* agents that own no state (in a product team: have one action), first in the order: their updates move nothing, and what is
  summed from the beginning of the stage starts with zeros;
* steps before the first one, in which no state lies.

The world is written as one matrix for each action, the time of an episode in the state. What a size says as a number is that of
the team itself (`Team.counts`), so rounding budgets are too. `cut` leaves out of a result what was added: the length of an axis
says which one it is, therefore all sizes are different.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from teamtr_jax import programs
from teamtr_jax.dynamics import Dense, Layered, Successors
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import PaddedTeam, Stage, StageReport
from teamtr_jax.validation import unchecked

__all__ = ["Sizes", "SIZES", "padded", "cut", "run", "evaluate_small"]


class Sizes(NamedTuple):
    """Lengths of axes; of `agents` there are also `agents + 1` hybrids."""

    states: int
    actions: int
    agents: int
    steps: int
    choices: int  #: actions of one agent of a product team, and one more that nobody takes


SIZES = tuple(
    Sizes(states, actions, agents, steps, choices)
    for states, agents in ((32, 8), (32, 24), (64, 8), (64, 24), (112, 8))
    for actions in (10, 66)
    for steps in (12, 40, 120)
    for choices in (11, 67)
)
"""From small to large; of each the hybrids of a stage are factored side by side (`teamtr_jax.surrogates.BATCH_LIMIT`)."""

QUICK = 2**20
"""Numbers in the policies of all hybrids up to which the compiler takes longer than what it could save."""


def _sizes(stage: Stage) -> Sizes | None:
    """The first sizes in which a stage fits; `None` for one that is too large, a batch, or another world than of stage files."""
    team, world = stage.team, stage.team.dynamics
    kernel = world.kernel if isinstance(world, Layered) else world
    if not isinstance(kernel, Dense | Successors) or kernel.horizon is not None or stage.batch:
        return None
    states, actions, agents, steps = team.counts
    needed = Sizes(states, actions, agents, steps, 1 + max(team.factors or (0,)))
    return next((sizes for sizes in SIZES if all(x <= y for x, y in zip(needed, sizes, strict=True))), None)


def _table(world: Any) -> NDArray[np.float64]:
    """`P[s,a,s']` of a world, [S, A, S]; zero after the last step of an episode."""
    if isinstance(world, Layered):
        steps, (contexts, actions) = world.horizon, world.kernel.sizes
        kernel = _kernel(world.kernel)
        out = np.zeros((steps, contexts, actions, steps, contexts))
        at = np.arange(steps - 1)
        out[at, :, :, at + 1] = kernel if world.stationary else kernel[:-1]
        return out.reshape(steps * contexts, actions, -1)
    return _kernel(world)


def _kernel(kernel: Dense | Successors) -> NDArray[np.float64]:
    if isinstance(kernel, Dense):
        return np.asarray(kernel.transition)
    index, prob = np.asarray(kernel.index), np.asarray(kernel.prob)
    out = np.zeros((*index.shape[:-1], index.shape[-3]))
    np.add.at(out, (*np.indices(index.shape)[:-1], index), prob)
    return out


def _copies(array: Any, length: int, axis: int) -> Any:
    """What stands first along an axis, again at its end, up to a length."""
    array = np.asarray(array)
    index = np.arange(length)
    return array.take(np.where(index < array.shape[axis], index, 0), axis)


def _zeros(array: Any, *lengths: int) -> Any:
    """Zeros at the end of the last axes, up to their lengths."""
    array = np.asarray(array)
    lead = array.ndim - len(lengths)
    out = np.zeros((*array.shape[:lead], *lengths), array.dtype)
    out[tuple(slice(size) for size in array.shape)] = array
    return out


def padded(stage: Stage) -> Stage | None:
    """The stage in the first sizes of `SIZES` that hold it; `None` where none does, or for another world than of stage files."""
    sizes = _sizes(stage)
    if sizes is None:
        return None
    team, world = stage.team, stage.team.dynamics
    states, actions, agents, steps = counts = team.counts
    table = _copies(_copies(_table(world), sizes.states, 0), sizes.actions, 1)
    clock = horizon = None
    if steps:
        horizon = sizes.steps
        clock = _copies(np.repeat(np.arange(horizon - steps, horizon), states // steps), sizes.states, 0)
    policies = [_copies(x, sizes.states, -2) for x in (stage.current, stage.target)]
    which: Any = None
    active = None
    if team.factors is None:
        active = _copies(team.active, sizes.states, 0)
        policies = [_zeros(x, sizes.actions) for x in policies]
    else:
        which = np.zeros((sizes.agents, sizes.actions), int)
        which[0, actions:] = sizes.choices - 1
        which[:agents, :actions] = np.indices(team.factors).reshape(agents, -1)
        policies = [_zeros(x, sizes.agents, sizes.states, sizes.choices) for x in policies]
        for policy in policies:
            policy[agents:, :, 0] = 1.0
    order: Any = np.concatenate([np.arange(agents, sizes.agents), np.asarray(stage.order)])
    real: Any = np.array(counts)
    with unchecked():
        dynamics = Dense(_zeros(table, sizes.states), np.asarray(world.discount, float), clock, horizon)
        larger = PaddedTeam(
            dynamics, _copies(_copies(team.reward, sizes.states, 0), sizes.actions, 1), _zeros(team.initial, sizes.states),
            active, sizes.agents, None if which is None else (sizes.choices,) * sizes.agents, real=real,
            which=which,
        )  # fmt: skip
        return Stage(larger, policies[0], policies[1], order)


def cut(results: Any, stage: Stage) -> Any:
    """Results of the padded stage, a pytree of arrays, without what padding added to them."""
    sizes = _sizes(stage)
    assert sizes is not None
    states, actions, agents, steps = stage.team.counts
    kept = {
        sizes.states: slice(states), sizes.actions: slice(actions), sizes.agents: slice(sizes.agents - agents, None),
        sizes.agents + 1: slice(sizes.agents - agents, None),
    }  # fmt: skip
    if steps:
        kept[sizes.steps] = slice(sizes.steps - steps, None)
    return jax.tree.map(lambda x: np.asarray(x)[tuple(kept.get(size, slice(None)) for size in np.shape(x))], results)


def run(function: Callable[[Stage], Any], stage: Stage) -> Any:
    """`function(stage)`, a pytree of arrays on the host, by a kept program; small stages share theirs.

    Args:
      function: of a module, pure, of which each result has axes of states, actions, agents, hybrids or steps.
    """
    larger = padded(stage)
    if larger is not None:
        return cut(jax.device_get(programs.run(function, larger, quick=True)), stage)
    quick = (stage.team.agents + 1) * stage.team.reward.size <= QUICK
    return jax.device_get(programs.run(function, stage, quick=quick))


def evaluate_small(stage: Stage) -> StageReport:
    """`teamtr_jax.evaluate_stage` by a program that stages of other shapes share: for a loop over small teams of many shapes.

    The numbers are the same within rounding, and exact zeros are zeros. A stage of more than 112 states, 66 actions or 24 agents
    has a program of its own.

    Example:
      >>> from teamtr_jax.teams import relay_stage
      >>> print([round(float(evaluate_small(relay_stage(n, 0.2, 0.1, slots=n)).improvement), 3) for n in (2, 3, 4)])
      [0.168, 0.235, 0.248]
    """
    return jax.device_put(run(stage_report, stage))
