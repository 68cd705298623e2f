"""``python -m benchmarks.device``: the package on an accelerator beside CuPy and PyTorch on one card, and its verdicts there.

`benchmarks/device.sh` prepares and runs it within eight minutes. A rival that is not installed is left out with a line;
beside the exact core then stands plain jax.numpy and lax. On a machine without an accelerator everything runs on its processor.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
from jax import Array, lax

from benchmarks import rivals
from benchmarks.cases import AGREEMENT, disagreement, instance, to_stage
from benchmarks.llm.sizes import SMALLEST, Size
from benchmarks.report import device_cells
from benchmarks.rivals import Tables
from benchmarks.stage import commit, machine
from benchmarks.timing import interleaved, quartiles, ratio
from benchmarks.words.shapes import CARD, Shape
from benchmarks.words.shapes import SMALLEST as LEAST_WORDS
from benchmarks.writer import writer
from teamtr_jax.claims import STAGE_CLAIMS, judge
from teamtr_jax.surrogates import hybrid_evaluations, stage_report
from teamtr_jax.types import Stage

__all__ = ["GROUPS", "main", "smallest", "verdicts_of"]

GROUPS = {
    "audit": "every number of many stages of 32 states, stages a second, beside the same in CuPy (or jax.numpy)",
    "hybrids": "all hybrids at S = 512 and 4096, hybrids a second, beside n+1 factorisations in CuPy (or jax.numpy)",
    "networks": "sampler and GRPO step at width 512, tokens a second and share of the peak, beside PyTorch on the same card",
    "words": "conversations and a step of adapters of SmolLM2's shape in bfloat16, tokens a second and share of the peak, beside "
    "`generate` and a step by hand in PyTorch",
    "verdicts": "float verdicts and rounding budgets of a few thousand stages, beside exact decisions",
}
LEFT_OUT = ("P3.8",)
"""Claims that double a program and say nothing about arithmetic that the others do not."""

Call = Callable[[], Any]


class Sizes(NamedTuple):
    """How much is computed."""

    audit: tuple[int, int, int, int]  #: instances, states, actions, agents
    hybrids: tuple[tuple[int, int, int], ...]  #: states, actions, agents
    network: Size
    words: Shape
    matmul: int
    worlds: tuple[str, ...]  #: of `theory.exact_audit`
    stages: int  #: of each world
    rounds: tuple[int, int]  #: least and greatest number


FULL = Sizes(
    (4096, 32, 4, 4), ((512, 4, 256), (4096, 4, 64)), Size(512, 8, 8, 256, 64), CARD, 8192,
    ("turn-taking", "product", "episodic, early ends"), 1000, (3, 9),
)  # fmt: skip
LITTLE = Sizes((2, 4, 2, 2), ((192, 2, 3),), SMALLEST, LEAST_WORDS, 32, ("turn-taking",), 3, (0, 0))
"""Nothing is timed."""


class Row(NamedTuple):
    """One comparison; `seconds` are quartiles of a call, which does `work` units of what a rate counts."""

    group: str
    label: str
    unit: str
    work: int
    seconds: dict[str, list[float]]
    ratios: dict[str, list[float]]  #: of a rival's time over the package's, formed within each round
    flops: float = 0.0  #: of a call, where a share of the peak is of interest
    peak: float = 0.0  #: FLOP/s of a large matrix product by the same library


def found(name: str) -> ModuleType | None:
    """A library, or a line that it is not there."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever keeps it from starting on this machine
        print(f"{name}: left out ({type(error).__name__}: {error})", flush=True)
        return None


def timed(sizes: Sizes, row: Row, calls: Mapping[str, Call]) -> Row:
    """The row with its times; nothing is timed at the smallest size."""
    if not sizes.rounds[1]:
        return row
    samples = interleaved(calls, 8.0, rounds=sizes.rounds)
    package = next(iter(calls))
    seconds = {name: quartiles(taken) for name, taken in samples.items()}
    return row._replace(
        seconds=seconds, ratios={name: ratio(samples, name, package) for name in samples if name != package}
    )


def agreeing(label: str, calls: Mapping[str, Call]) -> None:
    """Every contender gives the package's numbers.

    Raises:
      AssertionError: names the one that does not.
    """
    wanted = next(iter(calls.values()))()
    for name, call in calls.items():
        numbers = {key: value.get() if hasattr(value, "get") else value for key, value in call().items()}  # of CuPy
        error = disagreement(numbers, wanted)
        if not error <= AGREEMENT:
            raise AssertionError(f"{label}: {name} disagrees with the package by {error:.1e}")


def ready(function: Callable[[Any], Any], argument: Any) -> Call:
    def call() -> Mapping[str, Any]:
        out = jax.block_until_ready(function(argument))
        return out if isinstance(out, dict) else out._asdict()

    return call


def written_with(xp: ModuleType, rel_entr: Any) -> ModuleType:
    """A second copy of `benchmarks/rivals.py` that computes with another library of NumPy's interface."""
    spec = importlib.util.spec_from_file_location(f"rivals_{xp.__name__}", rivals.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(np=xp, rel_entr=rel_entr)
    return module


def on_card(cupy: ModuleType, function: Callable[[Tables], Mapping[str, Any]], tables: Tables) -> Call:
    """A function of tables that lie on the card, ended when it is done there."""
    here = tables._replace(**{name: cupy.asarray(x) for name, x in tables._asdict().items() if name != "discount"})

    def call() -> Mapping[str, Any]:
        out = function(here)
        cupy.cuda.get_current_stream().synchronize()
        return out

    return call


def audit(sizes: Sizes) -> Iterator[Row]:
    """Batched stages, every number."""
    batch, states, actions, agents = sizes.audit
    tables = instance(4, (batch,), states, actions, agents)
    calls = {"package": ready(jax.jit(jax.vmap(stage_report)), to_stage(tables))}
    plain = written_with(jnp, jax.scipy.special.rel_entr).stage_numpy
    given = jax.tree.map(jnp.asarray, tables._replace(discount=0.0))
    discount = tables.discount
    calls["plain jax.numpy"] = ready(jax.jit(lambda t: plain(t._replace(discount=discount))), given)
    if cupy := found("cupy"):
        special = importlib.import_module("cupyx.scipy.special")
        calls["CuPy"] = on_card(cupy, written_with(cupy, special.rel_entr).stage_numpy, tables)
    label = f"B={batch}, S={states}, A={actions}, n={agents}"
    agreeing(label, calls)
    yield timed(sizes, Row("audit", label, "stages", batch, {}, {}), calls)


def each_hybrid(tables: Tables, updated: Any, xp: Any, factor: Any, solve: Any, loop: Any) -> Mapping[str, Any]:
    """Values and visits of every hybrid by a factorisation of its own; the matrices of both policies are formed once."""
    eye, pair = xp.eye(tables.initial.size), (tables.current, tables.target)
    old, new = (eye - tables.discount * xp.einsum("sa,sat->st", p, tables.transition) for p in pair)
    rewards = [(p * tables.reward).sum(-1) for p in pair]

    def one(rows: Any) -> tuple[Any, Any]:
        factors = factor(xp.where(rows[:, None], new, old))
        v = solve(factors, xp.where(rows, rewards[1], rewards[0]), 0)
        return solve(factors, tables.initial + 0.0 * v[0], 1), v  # one after the other: see `after`

    m, v = loop(one, updated)
    return dict(visits=m, values=v)


def hybrids(sizes: Sizes) -> Iterator[Row]:
    """All hybrids of a stage."""

    def ours(stage: Stage) -> Mapping[str, Array]:
        m, v = hybrid_evaluations(stage)
        return dict(visits=m, values=v)

    for states, actions, agents in sizes.hybrids:
        tables = instance(5, (), states, actions, agents)
        updated = rivals.has_moved(tables)
        calls = {"package": ready(ours, to_stage(tables))}
        linear = jax.scipy.linalg
        by_jax = partial(
            each_hybrid, updated=updated, xp=jnp, factor=linear.lu_factor, solve=linear.lu_solve, loop=lax.map
        )
        calls["n+1 LU, jax.scipy"] = ready(jax.jit(by_jax), jax.tree.map(jnp.asarray, tables))
        if cupy := found("cupy"):
            card = importlib.import_module("cupyx.scipy.linalg")

            def loop(one: Any, rows: Any, cupy: Any = cupy) -> list[Any]:
                return [cupy.stack(part) for part in zip(*(one(row) for row in rows), strict=True)]

            by_card = partial(
                each_hybrid,
                updated=cupy.asarray(updated),
                xp=cupy,
                factor=card.lu_factor,
                solve=card.lu_solve,
                loop=loop,
            )
            calls["n+1 LU, CuPy"] = on_card(cupy, by_card, tables)
        label = f"S={states}, A={actions}, n={agents}"
        agreeing(label, calls)
        yield timed(sizes, Row("hybrids", label, "hybrids", agents + 1, {}, {}), calls)


def by_torch(size: Size, matmul: int) -> dict[str, Call]:
    """PyTorch's sampler, step and matrix product on the card, each ended when it is done there."""
    torch, device = torch_there()
    if torch is None:
        return {}
    side: Any = importlib.import_module("benchmarks.llm.torch_side")
    torch.set_default_device(device)
    prompts = side.prompts_of

    def here(size: Size) -> Any:
        torch.set_default_device("cpu")  # where the generator of the prompts is
        out = prompts(size).to(device)
        torch.set_default_device(device)
        return out

    side.prompts_of = here
    hand = side.by_hand(side.model_of(size), size)
    step = side.step_by_hand(side.model_of(size).train(), size)
    return {name: done(torch, call) for name, call in dict(sample=hand, step=step, matmul=side.peak(matmul)).items()}


def torch_there() -> tuple[Any, str]:
    """PyTorch, beside transformers, and the device that it has; nothing, and a line, where one of them is not there."""
    torch, transformers = found("torch"), found("transformers")
    if torch is None or transformers is None:
        return None, "cpu"
    return torch, "cuda" if torch.cuda.is_available() else "cpu"


def done(torch: Any, call: Call) -> Call:
    """A call that ends when it is done on the card."""

    def run() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def networks(sizes: Sizes) -> Iterator[Row]:
    """A sampler and a GRPO step; float32 products in full on both sides."""
    from benchmarks.llm import jax_side
    from teamtr_jax.llm.model import init_team

    size = sizes.network
    with jax.default_matmul_precision("highest"):
        team = jax_side.team_of(size, 1, size.prompt - 1, size.new, 1)
        ours = dict(
            sample=jax_side.sampler(team, size, init_team(team, jax.random.key(0))),
            step=jax_side.step_of(team, size, 1.0),
            matmul=jax_side.peak(sizes.matmul),
        )
        torch = by_torch(size, sizes.matmul)
        products = {"package": ours.pop("matmul")} | ({"PyTorch": torch.pop("matmul")} if torch else {})
        flops = 2.0 * sizes.matmul**3
        yield (first := timed(sizes, Row("networks", f"product, {sizes.matmul}²", "", 1, {}, {}, flops), products))
        fastest = max((flops / seconds[1] for seconds in first.seconds.values()), default=0.0)
        for name, passes in (("sample", 1.0), ("step", 4.0)):
            calls = {"package": ours[name]} | ({"PyTorch, by hand": torch[name]} if torch else {})
            for call in calls.values():
                call()
            label = f"{name}, width {size.width}, {size.layers} layers, {size.batch} × {size.new} tokens"
            row = Row("networks", label, "tokens", size.tokens, {}, {}, size.flops(passes), fastest)
            yield timed(sizes, row, calls)


def words(sizes: Sizes) -> Iterator[Row]:
    """Conversations of one agent, an update on them, and a whole step of its adapters."""
    from benchmarks.words import jax_side

    shape, ones = sizes.words, jnp.ones((sizes.matmul, sizes.matmul), sizes.words.dtype)
    product = jax.jit(jnp.matmul)
    flops = 2.0 * sizes.matmul**3
    label = f"product in {shape.dtype}, {sizes.matmul}²"
    calls: dict[str, Call] = {"package": lambda: jax.block_until_ready(product(ones, ones))}
    yield (first := timed(sizes, Row("words", label, "", 1, {}, {}, flops), calls))
    peak = max((flops / seconds[1] for seconds in first.seconds.values()), default=0.0)
    (torch, device), rivals_of = torch_there(), {}
    if torch is not None:
        hand = importlib.import_module("benchmarks.words.torch_hand").by_torch(shape, device)
        rivals_of = {name: done(torch, call) for name, call in hand.items()}
    sample, update = jax_side.parts_of_a_step(shape)
    said = sample()
    ours: dict[str, Call] = {"sample": sample, "update": lambda: update(said), "step": lambda: update(sample())}
    for name, passes in (("sample", 1.0), ("update", 3.0), ("step", 4.0)):
        calls = {"package": ours[name]} | ({"PyTorch": rivals_of[name]} if name in rivals_of else {})
        for call in calls.values():
            call()
        label = f"{name}, {shape.layers} layers of {shape.width}, {shape.batch} × ({shape.prompt} + {shape.new}) tokens"
        yield timed(sizes, Row("words", label, "tokens", shape.tokens, {}, {}, shape.flops(passes), peak), calls)


def float_checks(stage: Stage) -> dict[tuple[str, str], tuple[Array, ...]]:
    """Measured, bound, budget and what is said of them, of every instance of every check of a stage."""
    report = stage_report(stage)
    form = "episodic" if report.episodic else "discounted"
    out = {}
    for claim in STAGE_CLAIMS:
        if form not in claim.forms or claim.id in LEFT_OUT:
            continue
        for name, check in claim.check(stage, report).items():
            said = judge(check)
            parts = jnp.broadcast_arrays(check.measured, check.bound, check.budget, said.violated, said.inconclusive)
            out[claim.id, name] = tuple(part.ravel() for part in parts)
    return out


class Verdicts(NamedTuple):
    """What float64 said beside what is so."""

    instances: int = 0  #: comparisons `measured ≤ bound`
    inconclusive: int = 0  #: closer than the budget: decided exactly
    wrong: int = 0  #: said to hold or to be violated, and exactly it is the other way
    beyond: int = 0  #: what is measured is off by more than its budget, or infinite and ought not to be
    used: float = 0.0  #: largest error in units of its budget

    def plus(self, other: Verdicts) -> Verdicts:
        """Of both."""
        return Verdicts(
            self.instances + other.instances, self.inconclusive + other.inconclusive, self.wrong + other.wrong,
            self.beyond + other.beyond, max(self.used, other.used),
        )  # fmt: skip


def verdicts_of(floats: Sequence[Any], pairs: Sequence[Any]) -> Verdicts:
    """One check of one stage: the floats of `float_checks`, and exact `(measured, bound)` of the same instances."""
    from teamtr_jax.exact.numbers import rational, verdict

    out = Verdicts()
    for measured, bound, budget, violated, inconclusive, pair in zip(*floats, pairs, strict=True):
        exact = verdict(*pair)
        wrong = not inconclusive and exact != "open" and bool(violated) != (exact == "violated")
        beyond, used = np.isposinf(bound) != (pair[1] is None), 0.0
        if pair[0] is None or not np.isfinite(measured):
            beyond |= measured != (np.inf if pair[0] is None else float(pair[0]))
        elif np.isfinite(budget):
            error = abs(rational(measured) - pair[0])
            beyond |= bool(error > rational(budget))
            used = float(error) / float(budget) if budget > 0 else 0.0
        out = out.plus(Verdicts(1, int(inconclusive), int(wrong), int(beyond), used))
    return out


def verdicts(sizes: Sizes) -> Iterator[tuple[str, int, Verdicts]]:
    """By kind of stage: how many, and what float64 said on this device.

    Raises:
      AssertionError: a wrong verdict, or an error beyond its budget.
    """
    from teamtr_jax.exact import exact_checks
    from theory.exact_audit import WORLDS, draw, unstack

    program = jax.jit(jax.vmap(float_checks))
    for world in (world for world in WORLDS if world.name in sizes.worlds):
        stages = draw(world, np.random.default_rng(16), sizes.stages)
        said = jax.device_get(program(jax.tree.map(jnp.asarray, stages)))
        total = Verdicts()
        for b, stage in enumerate(unstack(stages, sizes.stages)):
            exact = exact_checks(stage)
            for key, floats in said.items():
                if key in exact:
                    total = total.plus(verdicts_of([part[b] for part in floats], exact[key]))
        if total.wrong or total.beyond or not total.instances:
            raise AssertionError(f"{world.name}, on {jax.devices()[0].device_kind}: {total}")
        yield world.name, sizes.stages, total


TIMED: dict[str, Callable[[Sizes], Iterator[Row]]] = dict(audit=audit, hybrids=hybrids, networks=networks, words=words)


def smallest(group: str) -> None:
    """Every contender that is installed once, at the smallest size, checked and not timed.

    Raises:
      AssertionError: names what disagrees.
    """
    assert list(verdicts(LITTLE) if group == "verdicts" else TIMED[group](LITTLE))


def main(argv: list[str] | None = None) -> None:
    """One group after the other, a line for each comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="which comparisons")
    parser.add_argument("--smallest", action="store_true", help="once, at the smallest size, untimed")
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    args = parser.parse_args(argv)
    write = writer(args.json)
    device, sizes = jax.devices()[0], LITTLE if args.smallest else FULL
    versions = {"python": platform.python_version()}
    for name in ("jax", "numpy", "cupy-cuda12x", "cupy-cuda13x", "torch", "transformers"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    result: dict[str, Any] = dict(
        schema=1,
        machine=machine(),
        commit=commit(),
        versions=versions,
        load=os.getloadavg()[0],
        device=device.device_kind,
        smallest=args.smallest,
        comparisons_on_device=[],
        verdicts=[],
    )
    for group in args.groups:
        jax.config.update("jax_enable_x64", group not in ("networks", "words"))
        if group == "verdicts":
            for name, stages, total in verdicts(sizes):
                result["verdicts"].append(dict(world=name, stages=stages, **total._asdict()))
                print(result["verdicts"][-1], flush=True)
                write(result)
        else:
            for row in TIMED[group](sizes):
                result["comparisons_on_device"].append(row._asdict())
                print("\n".join(" | ".join(cells) for cells in device_cells(row._asdict())), flush=True)
                write(result)


if __name__ == "__main__":
    main()
