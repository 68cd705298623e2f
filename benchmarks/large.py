"""Stages of large worlds: all hybrids of 4096 dense states, and of grids of 10⁵ and 10⁶ cells known by successor lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

from benchmarks.cases import Case, every_hybrid
from teamtr_jax.dynamics import Successors
from teamtr_jax.surrogates import evaluation_errors, hybrid_evaluations
from teamtr_jax.types import Stage, Team

__all__ = ["cases", "grid", "splu"]

DISCOUNT = 0.95


class Grid(NamedTuple):
    """A turn-taking stage in a square of cells; every array of NumPy."""

    cells: NDArray[np.int64]  #: [S, 4], the neighbours (at a wall the cell itself)
    prob: NDArray[np.float64]  #: [4, 4], of the neighbours for each action: three times in four where it aims
    reward: NDArray[np.float64]  #: [S, 4]
    initial: NDArray[np.float64]  #: [S]
    active: NDArray[np.int64]  #: [S]
    current: NDArray[np.float64]  #: [S, 4]
    target: NDArray[np.float64]  #: [S, 4]
    agents: int


def grid(side: int, agents: int) -> Grid:
    """Random rewards and policies, a random speaker in each cell, a start in one corner."""
    rng, states = np.random.default_rng(6), side * side
    row, column = np.divmod(np.arange(states), side)
    moves = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    cells = [np.clip(row + i, 0, side - 1) * side + np.clip(column + j, 0, side - 1) for i, j in moves]
    current, towards = rng.dirichlet(np.ones(4), (2, states))
    return Grid(
        np.stack(cells, -1),
        (2 * np.eye(4) + 0.25) / 3,
        rng.random((states, 4)),
        np.eye(1, states)[0],
        rng.integers(agents, size=states),
        current,
        0.9 * current + 0.1 * towards,
        agents,
    )


def to_stage(tables: Grid) -> Stage:
    """The same for the package: successor lists [S, 4, 4]."""
    shape = (len(tables.cells), 4, 4)
    index = jnp.broadcast_to(tables.cells[:, None], shape)
    world = Successors(index, jnp.broadcast_to(tables.prob, shape), jnp.asarray(DISCOUNT), lu_states=0)
    reward, initial, active = map(jnp.asarray, (tables.reward, tables.initial, tables.active))
    team = Team(world, reward, initial, active, tables.agents)
    return Stage(team, jnp.asarray(tables.current), jnp.asarray(tables.target), jnp.arange(tables.agents))


def splu(tables: Grid) -> dict[str, object]:
    """Values and visits of every hybrid: SciPy's sparse LU as it comes and two solves each."""
    states, v, m = len(tables.cells), [], []
    ends = np.arange(0, 4 * states + 1, 4)
    for i in range(tables.agents + 1):
        policy = np.where((tables.active < i)[:, None], tables.target, tables.current)
        flow = scipy.sparse.csr_array(
            ((policy @ tables.prob).ravel(), tables.cells.ravel(), ends), shape=(states, states)
        )
        factors = scipy.sparse.linalg.splu((scipy.sparse.eye_array(states) - DISCOUNT * flow).tocsc())
        v.append(factors.solve((policy * tables.reward).sum(-1)))
        m.append(factors.solve(tables.initial, "T"))
    return dict(values=np.array(v), visits=np.array(m))


def every_hybrid_of_a_grid(side: int, agents: int, bounds: bool) -> Case:
    """`bounds`: with the error bounds that the residuals give."""
    tables = grid(side, agents)
    stage = to_stage(tables)
    checked = jax.jit(evaluation_errors)

    def evaluations() -> Mapping[str, object]:
        m, v = hybrid_evaluations(stage)
        if bounds:
            jax.block_until_ready(checked(stage, m, v))
        return jax.block_until_ready(dict(visits=m, values=v))

    name = f"package{', error bounds' if bounds else ''}"
    rival = "scipy, n+1 splu + 2 solves each"
    label = f"V, m of all hybrids: a grid of {side * side} cells, n={agents}"
    needs = 8000 * side * side  # 5.3 GB were held at 10⁶ cells when the machine had no more
    return Case("large", label, {name: evaluations}, {rival: partial(splu, tables)}, {rival: 1 / 1.5}, needs)


def every_hybrid_of_many_states(states: int, agents: int) -> Case:
    """Beside one policy alone: the n+1 factorisations of a rival would take minutes."""
    case = every_hybrid(states, 2, agents)
    rivals = case.rivals if states < 1024 else {}
    return Case("large", case.label, case.packages, rivals, dict.fromkeys(case.units, 1 / 6), case.needs, case.units)


SIZES = {
    "full": ((4096, 64), (317, 1000)),
    "quick": ((64, 8), (20, 30)),
    "smallest": ((24, 3), (6,)),
}
"""States and agents of the dense stage; sides of the grids."""


def cases(size: str) -> Iterator[tuple[str, partial[Case]]]:
    """The makers for `benchmarks.cases.cases`."""
    dense, sides = SIZES[size]
    yield "large", partial(every_hybrid_of_many_states, *dense)
    for side in sides:
        yield "large", partial(every_hybrid_of_a_grid, side, 4, bounds=side == sides[-1])
