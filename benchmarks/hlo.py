"""What a compiled program does, loops included: XLA's own analysis counts the body of a loop once.

The text of the compiled module is read: every instruction counts as often as the loops around it run, by the trip counts that XLA
writes down. Sizes are of one device.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "Instruction",
    "Module",
    "Collective",
    "module_of",
    "executed",
    "collectives",
    "dot_flops",
    "loops_unknown",
    "size_of",
]

BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16, "s32": 32, "u32": 32,
    "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64,
}  # fmt: skip
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
SHAPE = re.compile(r"\b([a-z]+\d+[a-z0-9]*|pred)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|called_computations|branch_computations|true_computation|false_computation)"
    r"=(?:\{([^}]*)\}|(%?[\w.\-]+))"
)
TRIPS = re.compile(r'known_trip_count\\?"?:\{\\?"n\\?":\\?"(\d+)')


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    result: str  #: its type, as written
    kind: str
    rest: str  #: operands and attributes


class Module(NamedTuple):
    """The computations of a module."""

    entry: str
    computations: dict[str, list[Instruction]]


class Collective(NamedTuple):
    """What devices send each other at one place of the program."""

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  #: dtype and shape of each result
    size: int  #: bytes of the results
    times: int
    where: str  #: as jax names the operation


def _shapes(text: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((dtype, tuple(int(x) for x in dims.split(",") if x)) for dtype, dims in SHAPE.findall(text))


def size_of(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes.

    Example:
      >>> size_of("bf16", (2, 3))
      12
    """
    return math.prod(shape) * BITS.get(dtype, 8) // 8


def module_of(text: str) -> Module:
    """Read the text of a compiled module (``compiled.as_text()``)."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if line.rstrip().endswith("{") and (head := re.match(r"^(ENTRY )?%?([\w.\-]+) .*->", line)):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current and (found := INSTRUCTION.match(line)):
            computations[current].append(Instruction(*found.groups()))
    return Module(entry, computations)


def _called(instruction: Instruction) -> list[str]:
    """Computations that an instruction runs."""
    groups = (several or one for several, one in CALLED.findall(instruction.rest))
    return [name for group in groups for name in group.replace("%", "").split(", ")]


def _operands(instruction: Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", instruction.rest.split(")")[0])


def _integer(instruction: Instruction) -> int | None:
    value = re.match(r"(\d+)\)", instruction.rest) if instruction.kind == "constant" else None
    return int(value[1]) if value and instruction.result[:3] in ("s32", "u32") else None


def _step(module: Module, loop: Instruction, place: int) -> int:
    """What the body adds to entry `place` of what the loop carries."""
    own = {x.name: x for x in module.computations[_named(loop, "body")]}
    root = list(own.values())[-1]
    if root.kind == "tuple" and (changed := own.get(_operands(root)[place])) and changed.kind == "add":
        found = [_integer(own[name]) for name in _operands(changed) if name in own]
        return next((value for value in found if value), 1)
    return 1


def _named(loop: Instruction, name: str) -> str:
    found = re.search(rf"{name}=%?([\w.\-]+)", loop.rest)
    assert found, loop
    return found[1]


def _trips(module: Module, loop: Instruction) -> int | None:
    """As XLA writes it down, or from the constant below which the condition wants a counter; `None` if neither is there.

    Where the condition asks for more than that it is the most that the loop runs.
    """
    if found := TRIPS.search(loop.rest):
        return int(found[1])
    names = [_named(loop, "condition")]
    for name in names:  # grows: the comparison may be in a fusion, whose constant is outside
        names += [called for x in module.computations.get(name, []) for called in _called(x)]
    own = [x for name in names for x in module.computations.get(name, [])]
    if any(x.kind == "compare" and "direction=LT" in x.rest for x in own):
        limit = max((value for x in own if (value := _integer(x)) is not None), default=None)
        read = [x for x in module.computations[names[0]] if x.kind == "get-tuple-element"]
        counter = re.search(r"index=(\d+)", read[0].rest) if len(read) == 1 else None
        step = _step(module, loop, int(counter[1])) if counter else 1
        return None if limit is None else -(-limit // step)
    return None


def _counts(module: Module) -> tuple[dict[str, int], int]:
    """How often each computation runs, and the number of loops whose trip count is not known (they count once)."""
    counts: dict[str, int] = defaultdict(int)
    unknown = 0

    def visit(name: str, times: int) -> None:
        nonlocal unknown
        counts[name] += times
        for instruction in module.computations.get(name, []):
            trips = 1
            if instruction.kind == "while":
                found = _trips(module, instruction)
                unknown += found is None
                trips = 1 if found is None else found
            for called in _called(instruction):
                visit(called, times * trips)

    visit(module.entry, 1)
    return counts, unknown


def executed(module: Module) -> Iterator[tuple[Instruction, int, dict[str, Instruction]]]:
    """``(instruction, how often it runs, the others of its computation by name)``."""
    counts, _ = _counts(module)
    for name, times in counts.items():
        own = module.computations.get(name, [])
        by_name = {instruction.name: instruction for instruction in own}
        for instruction in own:
            yield instruction, times, by_name


def collectives(text: str) -> list[Collective]:
    """Every collective, largest traffic first. One that overlaps with other work is written several times and counts once."""
    found: dict[str, Collective] = {}
    for instruction, times, _ in executed(module_of(text)):
        kind = instruction.kind.removesuffix("-start")
        if kind not in KINDS:
            continue
        shapes = _shapes(instruction.result)
        if instruction.kind.endswith("-start") and len(shapes) > 1:
            shapes = shapes[len(shapes) // 2 :]  # operands come first
        where = re.search(r'op_name="([^"]*)"', instruction.rest)
        channel = re.search(r"channel_id=(\d+)", instruction.rest)
        new = Collective(kind, shapes, sum(size_of(*x) for x in shapes), times, where[1] if where else "")
        key = f"{kind} {channel[1]}" if channel else instruction.name
        if key not in found or found[key].times < times:
            found[key] = new
    return sorted(found.values(), key=lambda x: -x.size * x.times)


def dot_flops(text: str) -> int:
    """Floating-point operations of all products of matrices, 2 for each multiplication."""
    total = 0
    for instruction, times, others in executed(module_of(text)):
        if instruction.kind != "dot":
            continue
        (_, result), *_ = _shapes(instruction.result)
        first = re.match(r"(?:[a-z]+\d*\[[\d,]*\](?:\{[^}]*\})? )?%?([\w.\-]+)", instruction.rest)
        inline = _shapes(instruction.rest.split("%")[0])
        left = inline[0][1] if inline else _shapes(others[first[1] if first else ""].result)[0][1]
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        inner = math.prod(left[int(x)] for x in axes[1].split(",") if x) if axes else 1
        total += 2 * math.prod(result) * inner * times
    return total


def loops_unknown(text: str) -> int:
    """Loops whose trip count the text does not tell; all else here counts their bodies once."""
    return _counts(module_of(text))[1]
