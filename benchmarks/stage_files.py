"""A folder of stage files as a user has it: every file of another size, most of them dense, discounted and turn-taking."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Shape", "arrays", "shapes", "write_files"]

KINDS = ("dense",) * 7 + ("product", "successors", "episodic")
"""Of ten files in a row."""
TEAMS = ((2, 2), (2, 3), (3, 2), (2, 2, 2), (3, 3), (2, 4), (4, 2), (2, 2, 3))


class Shape(NamedTuple):
    """What a compiler would see of a file."""

    states: int  #: of one step
    actions: int
    agents: int
    factors: tuple[int, ...] = ()  #: of a product team
    successors: int = 0  #: K; 0 if dense
    horizon: int = 0  #: T; 0 if discounted


def shapes(count: int, seed: int = 0) -> list[Shape]:
    """So many different shapes, S ≤ 32, n ≤ 8: the first ones of a longer list are those of a shorter one."""
    rng = np.random.default_rng(seed)
    found: dict[Shape, None] = {}
    while len(found) < count:
        kind = KINDS[len(found) % len(KINDS)]
        states, actions, agents = (int(rng.integers(*ends)) for ends in ((3, 33), (2, 6), (1, 9)))
        shape = Shape(states, actions, agents)
        if kind == "product":
            factors = TEAMS[rng.integers(len(TEAMS))]
            shape = Shape(states, math.prod(factors), len(factors), factors)
        elif kind == "successors":
            shape = shape._replace(successors=int(rng.integers(2, 5)))
        elif kind == "episodic":
            shape = shape._replace(states=int(rng.integers(2, 9)), horizon=int(rng.integers(2, 5)))
        found.setdefault(shape)
    return list(found)


def arrays(shape: Shape, rng: np.random.Generator) -> dict[str, Any]:
    """The tables of one file: random rows, a moderate step, a random order."""
    S, A, n = shape.states, shape.actions, shape.agents
    time = (shape.horizon,) if shape.horizon else ()
    out: dict[str, Any] = dict(
        reward=rng.random((*time, S, A)), initial=rng.dirichlet(np.ones(S)), order=rng.permutation(n), agents=n
    )
    out |= dict(horizon=shape.horizon) if shape.horizon else dict(discount=float(rng.choice([0.9, 0.95, 0.99])))
    if shape.successors:
        out["successor_index"] = rng.integers(S, size=(S, A, shape.successors))
        out["successor_prob"] = rng.dirichlet(np.ones(shape.successors), (S, A))
    else:
        out["transition"] = rng.dirichlet(np.ones(S), (S, A))
    pairs = []
    for size in shape.factors or (A,):
        current, towards = rng.dirichlet(np.ones(size), (2, *time, S))
        pairs.append([current, 0.9 * current + 0.1 * towards])
    if not shape.factors:
        out["active"] = rng.integers(n, size=(*time, S))
        out["current"], out["target"] = pairs[0]
        return out
    out["factors"] = np.array(shape.factors)
    for k, key in enumerate(("current", "target")):
        tables = [np.pad(p[k], [*[(0, 0)] * (p[k].ndim - 1), (0, max(shape.factors) - p[k].shape[-1])]) for p in pairs]
        out[key] = np.stack(tables, len(time))
    return out


def write_files(folder: Path, count: int, seed: int = 0) -> list[str]:
    """So many stage files; their paths."""
    paths = []
    for index, shape in enumerate(shapes(count, seed)):
        path = folder / f"team-{index:03d}.npz"
        np.savez(path, **arrays(shape, np.random.default_rng([seed, index])))
        paths.append(str(path))
    return paths
