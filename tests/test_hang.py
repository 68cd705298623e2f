"""Regression: batched solves of one program must finish on a two-core CPU (constraints.txt says what jax 0.10 does).

Two LAPACK calls of one program that run at the same time wait for each other for ever: no error, no CPU, no end. So the
programs run in a process of their own with a time limit, and print where they are.
"""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import Array

from teamtr_jax.claims import STAGE_CLAIMS, stage_verdicts
from teamtr_jax.interaction import interaction_matrix
from teamtr_jax.surrogates import stage_report
from teamtr_jax.teams import random_stages
from teamtr_jax.types import Stage
from theory.audit import _stage_verdicts

ROOT = Path(__file__).parents[1]
LIMIT = 120  # seconds; it takes about 15

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from teamtr_jax.dynamics import Dense, Successors, after
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import Stage, Team
from teamtr_jax.values import objective

A, n = 4, 2
rng = np.random.default_rng(0)

def solves(world, r, rho, pi):
    resolvent = world.resolvent(pi)
    v = resolvent.values((pi * r).sum(-1))
    return v, resolvent.visits(after(rho, v))

def gradient(world, r, rho, pi):
    team = Team(world, r, rho, jnp.arange(rho.shape[0]) % n, n)
    return jax.value_and_grad(lambda p: objective(team, p))(pi)

def stage(world, r, rho, pi):
    team = Team(world, r, rho, jnp.arange(rho.shape[0]) % n, n)
    return stage_report(Stage(team, pi, pi[:, ::-1], jnp.arange(n))).gap_cached

def run(name, world, B, S, repeat):
    args = world, jnp.asarray(rng.random((B, S, A))), jnp.full((B, S), 1 / S), jnp.asarray(rng.dirichlet(np.ones(A), (B, S)))
    print(name, B, S, end=" ", flush=True)
    program = jax.jit(jax.vmap(globals()[name]))
    for _ in range(repeat):
        out = jax.block_until_ready(program(*args))
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(out))
    print("done", flush=True)

def dense(B, S):
    P = rng.random((B, S, A, S))
    return Dense(jnp.asarray(P / P.sum(-1, keepdims=True)), jnp.full(B, 0.9))

def sparse(B, S):
    return Successors(jnp.asarray(rng.integers(S, size=(B, S, A, 2))), jnp.full((B, S, A, 2), 0.5), jnp.full(B, 0.9), lu_states=0)
"""

ONE_OF_EACH = """
world = dense(1000, 32)
for name, repeat in (("solves", 10), ("gradient", 10), ("stage", 3)):
    run(name, world, 1000, 32, repeat)
world = dense(4096, 8)
for name in ("solves", "gradient"):
    run(name, world, 4096, 8, 10)
world = sparse(20, 20)
for name in ("solves", "gradient", "stage"):
    run(name, world, 20, 20, 2)
"""

OTHER_SIZES = """
run("stage", dense(4096, 8), 4096, 8, 3)
world = sparse(1, 400)
for name in ("solves", "gradient", "stage"):
    run(name, world, 1, 400, 2)
"""


@pytest.mark.parametrize(
    ("worlds", "programs"),
    [pytest.param(ONE_OF_EACH, 8, id="one of each"), pytest.param(OTHER_SIZES, 4, marks=pytest.mark.slow, id="other sizes")],
)  # fmt: skip
def test_batched_solves_finish(worlds, programs):
    """V and m, their gradients and whole stages: B = 1000, S = 32 and B = 4096, S = 8 by LU; host factorisations too."""
    as_users_compile = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
    env = os.environ | {"PYTHONPATH": str(ROOT)} | as_users_compile
    try:
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT + worlds], env=env, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired as hung:
        said = hung.stdout.decode() if isinstance(hung.stdout, bytes) else hung.stdout
        pytest.fail(f"hung for {LIMIT} s; the last line is where:\n{said}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("done") == programs, run.stdout


# The same without waiting: in a compiled program every two LAPACK calls must be ordered by what they compute from each other.
LAPACK = re.compile(r'custom_call_target="(lapack|blas)_| (?:triangular-solve|cholesky)\(')
CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|(?:true|false)_computation)={?([^,}]*(?:, %[^,}]*)*)"
)


def unordered(text: str) -> list[tuple[str, str]]:
    """Pairs of instructions of one computation of an HLO module that hold LAPACK calls, neither computed from the other."""
    computations: dict[str, list[str]] = {}
    for block in re.findall(r"^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S):
        computations[block[0]] = re.findall(r"^\s+(?:ROOT )?(%?[\w.-]+ = .*)$", block[1], re.M)
    found: list[tuple[str, str]] = []

    @cache
    def holds(computation: str) -> bool:
        before: dict[str, frozenset[str]] = {}
        calls: list[str] = []
        for line in computations[computation]:
            name, body = line.split(" = ", 1)
            operands = set(re.findall(r"%?[\w.-]+", body.partition("metadata=")[0])) & before.keys()
            before[name] = frozenset(operands).union(*(before[operand] for operand in operands))
            inner = [one.strip().lstrip("%") for names in CALLED.findall(body) for one in names.split(",")]
            if LAPACK.search(body) or any(holds(one) for one in inner):
                found.extend((other, name) for other in calls if other not in before[name])
                calls.append(name)
        return bool(calls)

    assert any(holds(name) for name in computations), "no LAPACK call in the program: nothing was tested"
    return found


def interaction(stage: Stage) -> Array:
    return interaction_matrix(stage, stage_report(stage))


audited = _stage_verdicts(STAGE_CLAIMS)
"""The same claims as those of `stage_verdicts`, otherwise summarised."""


@pytest.mark.parametrize(
    ("program", "several"),
    [
        *((program, several) for program in (stage_report, interaction) for several in (False, True)),
        (stage_verdicts, False),
        (audited, True),
        pytest.param(stage_verdicts, True, marks=pytest.mark.slow),
        pytest.param(audited, False, marks=pytest.mark.slow),
    ],
    ids=lambda x: x.__name__ if callable(x) else "product team" if x else "turn-taking",
)
def test_lapack_calls_form_one_chain(program, several):
    """A batch of discounted stages: reports, every claim at once, what agents do to each other."""
    actions = (3, 2) if several else 3
    stages = random_stages(np.random.default_rng(0), 6, states=4, actions=actions, agents=2, discount=0.9)
    assert unordered(jax.jit(jax.vmap(program)).lower(stages).compile().as_text()) == []
