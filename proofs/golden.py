"""Rational stages, and what the evaluator extracted from Eval.v says about them: golden.json.

A stage: `states` contexts, a stationary world, `horizon` steps; `agents` who take turns (`active`: who acts in which context) or
act all at once (`factors`: actions of each); `order`, `current` and `target` tables. Numbers are strings "numerator/denominator".
"""

from __future__ import annotations

import json
import random
import subprocess
from fractions import Fraction
from itertools import pairwise, product
from math import prod
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STAGES = 20

Table = list[list[Fraction]]


def _row(rng: random.Random, entries: int, zeros: bool = False) -> list[Fraction]:
    """Probabilities in sixteenths, which float64 holds as they are; some of them may be 0."""
    weights = [0 if zeros else 1] * entries
    for _ in range(16 - sum(weights)):
        weights[rng.randrange(entries)] += 1
    if zeros and entries > 1:
        last = weights.pop()
        weights[rng.randrange(entries - 1)] += last
        weights.append(0)
        rng.shuffle(weights)
    return [Fraction(weight, 16) for weight in weights]


SHAPES = [(3, 3, [2], 4), (2, 3, [2, 3], 3), (2, 2, [3], 5), (3, 2, [2, 2, 2], 4)]
"""Agents, states, actions (of each agent in a product team), steps: few, because a program is compiled for each."""


def _stage(number: int) -> dict[str, Any]:
    """Odd numbers: product teams; the second half opens actions that were never taken."""
    rng = random.Random(number)
    agents, states, factors, horizon = SHAPES[number % len(SHAPES)]
    together, opened = number % 2 == 1, number >= STAGES // 2
    rows = [(k, s) for k in range(agents) for s in range(states)] if together else [(0, s) for s in range(states)]
    actions = prod(factors)
    current = [_row(rng, factors[k], zeros=opened) for k, _ in rows]
    far = [_row(rng, factors[k]) for k, _ in rows]
    step = Fraction(1, rng.choice([1, 8, 64]))
    target = [
        [(1 - step) * x + step * y for x, y in zip(*both, strict=True)] for both in zip(current, far, strict=True)
    ]
    order = list(range(agents))
    rng.shuffle(order)
    return {
        "states": states, "agents": agents, "horizon": horizon, "factors": factors if together else None,
        "active": None if together else [rng.randrange(agents) for _ in range(states)], "order": order,
        "initial": _row(rng, states, zeros=True),
        "transition": [[_row(rng, states, zeros=True) for _ in range(actions)] for _ in range(states)],
        "reward": [[Fraction(rng.randint(-4, 4), 4) for _ in range(actions)] for _ in range(states)],
        "current": current, "target": target,
    }  # fmt: skip


def hybrids(stage: dict[str, Any]) -> list[Table]:
    """The team's tables after 0, 1, …, n updates, over joint actions."""
    out = []
    for i in range(stage["agents"] + 1):
        moved = stage["order"][:i]
        if stage["factors"] is None:
            tables = zip(stage["current"], stage["target"], stage["active"], strict=True)
            out.append([new if who in moved else old for old, new, who in tables])
            continue
        states = stage["states"]
        tables = [stage["target" if k in moved else "current"] for k in range(stage["agents"])]
        own = [table[k * states : (k + 1) * states] for k, table in enumerate(tables)]
        joint = list(product(*map(range, stage["factors"])))
        out.append(
            [
                [prod((own[k][s][a] for k, a in enumerate(one)), start=Fraction(1)) for one in joint]
                for s in range(states)
            ]
        )
    return out


def _flat(x: Any) -> list[Fraction]:
    return [y for z in x for y in _flat(z)] if isinstance(x, list) else [x]


def _evaluated(program: Path, stage: dict[str, Any], p: Table, q: Table) -> list[Fraction]:
    """J of p, L_p(q), J of q."""
    states, actions = stage["states"], len(p[0])
    rewards = [[[x] * states for x in row] for row in stage["reward"]]
    numbers = _flat([stage["transition"], rewards, p, q])
    text = f"{states} {actions} {stage['horizon']}\n" + "\n".join(f"{x.numerator} {x.denominator}" for x in numbers)
    out = subprocess.run([program], input=text, capture_output=True, text=True, check=True).stdout.splitlines()
    return [
        sum((Fraction(v) * w for v, w in zip(line.split(), stage["initial"], strict=True)), Fraction()) for line in out
    ]


def _written(x: Any) -> Any:
    if isinstance(x, Fraction):
        return f"{x.numerator}/{x.denominator}"
    return list(map(_written, x)) if isinstance(x, list) else x


def golden(program: Path) -> str:
    """The file: every stage with the returns of its hybrids, its surrogates, and the joint surrogate `L_{π⁰}(πⁿ)`."""
    lines = []
    for number in range(STAGES):
        stage = _stage(number)
        teams = hybrids(stage)
        steps = [_evaluated(program, stage, *pair) for pair in pairwise(teams)]
        found = {
            "J": [steps[0][0], *(new for *_, new in steps)],
            "L_seq": [surrogate for _, surrogate, _ in steps],
            "L_joint": _evaluated(program, stage, teams[0], teams[-1])[1],
        }
        written = {key: _written(x) for key, x in (stage | found).items()}
        lines.append(json.dumps(written, separators=(",", ":")))
    return "[\n" + ",\n".join(lines) + "\n]\n"


def build(folder: Path) -> Path:
    """Extract, compile with OCaml; the program."""
    for source in ("Extract.v", "main.ml"):
        (folder / source).write_bytes((HERE / "extract" / source).read_bytes())
    coq = ["coqc", "-q", "-w", "none", "-Q", str(HERE), "TeamTR", "Extract.v"]
    ocaml = "ocamlfind ocamlopt -package zarith -linkpkg teamtr_eval.mli teamtr_eval.ml main.ml -o teamtr_eval".split()
    for command in (coq, ocaml):
        subprocess.run(command, cwd=folder, check=True)
    return folder / "teamtr_eval"
