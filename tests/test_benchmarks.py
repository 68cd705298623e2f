"""Every group of every benchmark runs once at its smallest size, untimed; the reference of the command line is the product's."""

import importlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import command_line, device, reference, report
from benchmarks.programs import programs
from benchmarks.stage_files import KINDS, Shape, arrays, shapes
from teamtr_jax.records import dump, stage_record
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import read_stage

GROUPS = [(name, group) for name, module in programs().items() for group in getattr(module, "GROUPS", [None])]


@pytest.mark.parametrize(("name", "group"), GROUPS)
def test_every_group_runs_once(name, group, capsys):
    """What is compared is what the group compares when it is timed, checked by the program itself."""
    module = importlib.import_module(name)
    assert group is not None, f"{name}: GROUPS = {{group: what it compares}} and smallest(group)"
    assert "\n" not in module.GROUPS[group]
    module.smallest(group)


def test_programs_are_found_by_what_they_are():
    """Whatever takes `--json` measures and takes arguments; a new file needs no line anywhere."""
    root = Path(command_line.__file__).parent
    assert {Path(x.__file__) for x in programs().values()} == {
        x for x in root.rglob("*.py") if "def main(argv" in x.read_text()
    }
    assert len(GROUPS) > len(programs()) >= 5


def test_scripts_call_what_is_there():
    """`make bench` in twelve minutes at most; the script for an accelerator has every group."""
    root = Path(command_line.__file__).parent
    lines = re.findall(r"\brun (\d+) \w+ (\w+)", (root / "all.sh").read_text())
    assert {f"benchmarks.{name}" for _, name in lines} <= {name.removesuffix(".__main__") for name in programs()}
    assert 0 < sum(int(seconds) for seconds, _ in lines) <= 12 * 60
    groups = re.findall(r"^for group in (.*); do$", (root / "device.sh").read_text(), re.M)
    assert [sorted(words.split()) for words in groups] == [sorted(device.GROUPS)]


# --------------------------------------------------------------------------------------------------------- the reference

FORMS = {
    "dense": Shape(4, 3, 3),
    "product": Shape(3, 6, 2, factors=(2, 3)),
    "successors": Shape(4, 3, 2, successors=3),
    "episodic": Shape(2, 3, 3, horizon=3),
    "episodic product": Shape(2, 4, 2, factors=(2, 2), horizon=2),
    "episodic successors": Shape(2, 3, 2, successors=2, horizon=3),
}


def plain(rng, tables):
    return tables


def discount_zero(rng, tables):
    """γ = 0; an episode has none."""
    return tables | (dict(discount=0.0) if "discount" in tables else {})


def hidden(rng, tables):
    """The last agent drops an action only where nobody ever is: `0·∞ = 0`; the first one where everybody starts: infinite KL."""
    last = len(tables["initial"]) - 1
    tables["initial"] = np.eye(last + 1)[0]
    if "transition" in tables:
        rows = np.where(np.arange(last + 1) == last, 0.0, tables["transition"])
        tables["transition"] = rows / rows.sum(-1, keepdims=True)
    else:
        tables["successor_index"] %= last
    if "active" in tables:
        tables["active"][..., [0, last]] = 0, tables["agents"] - 1
    target = tables["target"]
    target[..., [0, last], 0] += target[..., [0, last], 1]
    target[..., [0, last], 1] = 0.0
    return tables


def idle(rng, tables):
    """Nobody moves in a third of the states; the others take up an action that was never played."""
    target, current = tables["target"], tables["current"].copy()
    current[..., 0] += current[..., 1]
    current[..., 1] = 0.0
    some = rng.random(current.shape[:-1]) < 0.3
    return tables | dict(current=current, target=np.where(some[..., None], current, target))


def without_time(rng, tables):
    """Tables without an axis of time serve every step; defaults for what may be left out."""
    if "horizon" in tables:
        for key in ("reward", "current", "target"):
            tables[key] = tables[key][0]
        tables["transition"] = (
            np.stack([tables["transition"]] * int(tables["horizon"])) if "transition" in tables else None
        )
    return {key: table for key, table in tables.items() if table is not None and key not in ("order", "agents")}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("form", FORMS)
def test_the_reference_prints_what_teamtr_stage_prints(form, tmp_path):
    """All keys, to 1e-9, infinities and all; what the variants of a form have in common is one shape, compiled once."""
    infinite = 0
    for index, variant in enumerate((plain, discount_zero, hidden, idle, without_time)):
        rng = np.random.default_rng([index, len(form)])
        path = tmp_path / f"{variant.__name__}.npz"
        np.savez(path, **variant(rng, arrays(FORMS[form], rng)))
        stage = read_stage(path)
        ours = json.loads(dump(stage_record(stage, evaluate_stage(stage), str(path))))
        theirs = {key: reference.plain(value) for key, value in reference.stage(str(path)).items()}
        apart = {key: command_line.disagreement(ours.get(key), value) for key, value in theirs.items()}
        assert set(ours) == set(theirs)
        assert {key: error for key, error in apart.items() if not error <= command_line.AGREEMENT} == {}, (
            variant.__name__
        )
        infinite += "inf" in theirs["kl"]
    assert infinite > 0


def test_what_counts_as_agreement():
    """A number by its size, but 1e-3 at least; everything else as it is."""
    apart = command_line.disagreement
    assert apart(2.0, 2.0 + 4e-9) == pytest.approx(2e-9, rel=1e-6)
    assert apart([0.0, 1e-15], [1e-12, 0.0]) == pytest.approx(1e-9)
    assert apart({"a": [1.0, None, "inf"]}, {"a": [1.0, None, "inf"]}) == 0.0
    for pair in (("inf", 1.0), (None, 1.0), ("inf", "-inf"), ([1.0], [1.0, 2.0]), ({}, {"a": 1.0}), (1.0, math.nan)):
        assert not apart(*pair) <= command_line.AGREEMENT
        assert not apart(*pair[::-1]) <= command_line.AGREEMENT


def test_the_budget_of_a_verdict_is_tested_on_what_is_measured():
    """Three instances that are as float64 says, then one error at a time."""
    fmpq = pytest.importorskip("flint").fmpq
    pairs = [(fmpq(1, 2), fmpq(1)), (fmpq(0), None), (fmpq(2), fmpq(1))]
    floats = [
        np.array([0.5 + 1e-12, 0.0, 2.0]), np.array([1.0, np.inf, 1.0]), np.array([2e-12, 0.0, 1e-12]),
        np.array([False, False, True]), np.array([False, False, False]),
    ]  # fmt: skip
    found = device.verdicts_of(floats, pairs)
    assert found[:4] == (3, 0, 0, 0)
    assert found.used == pytest.approx(0.5, rel=1e-3)

    def changed(part, index, value):
        parts = [x.copy() for x in floats]
        parts[part][index] = value
        return device.verdicts_of(parts, pairs)

    assert changed(0, 0, 0.5 + 3e-12).beyond == 1  # more than its budget
    assert changed(0, 1, 1e-300).beyond == 1  # an exact zero stays an exact zero
    assert changed(1, 1, 1e300).beyond == 1  # a bound that is infinite
    assert changed(0, 2, np.inf).beyond == 1
    assert changed(3, 0, True).wrong == changed(3, 2, False).wrong == 1
    assert changed(4, 2, True)[1:3] == (1, 0)  # decided exactly: no verdict that could be wrong


def test_the_command_line_is_judged_beside_the_reference_of_its_round():
    """Medians of ratios within rounds; the second of two rounds was cut off in `check`; before, the machine was half as fast."""
    commands = {
        "reference": [[0.5, 1.0], [0.25, 0.5]],
        "stage, cold": [[8.0, 9.0], [4.0, 5.0]],
        "stage, again": [[2.5, 3.0], [1.25, 2.0]],
        "stage, twice the files": [[3.1, 4.0], [1.85, 3.0]],
        "check, cold": [[10.0, 9.0]],
        "help": [[0.2, 0.2], [0.6, 0.2]],
    }
    before = {"reference": [[1.0, 1.0]], "check, cold": [[401.0, 300.0]]}
    lines = report.command_line_table(dict(files=60, commands=commands, before=before))
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[3:] for line in lines}
    assert cells["`teamtr stage --json`, 60 files, nothing compiled before"][:2] == [
        "**16 [16, 16]** × NumPy", "MISSED (≤ 15 × NumPy)",
    ]  # fmt: skip
    further = next(line for line in lines if line.startswith("| each further file"))
    assert "| 0.01 [0.01, 0.01] |" in further
    assert "met (≤ 0.02 s)" in further
    check = next(line for line in lines if line.startswith("| `teamtr check`"))
    assert "**0.0499 [0.0499, 0.0499]** of before | met (≤ 0.1 of before) | 401 s, 401 × NumPy |" in check
    assert "MISSED (≤ 0.3 s)" in next(line for line in lines if line.startswith("| `teamtr --help`"))
    alone = report.command_line_table(dict(files=60, commands=commands, before=None))
    assert "before" not in next(line for line in alone if line.startswith("| `teamtr check`")).split(" | ", 1)[1]


def test_the_folder_has_every_kind_and_no_shape_twice():
    some = shapes(120)
    assert len(set(some)) == 120
    assert some[:60] == shapes(60)
    assert all(shape.states <= 32 and shape.agents <= 8 for shape in some)
    turns = [shape for shape in some[:60] if not (shape.factors or shape.successors or shape.horizon)]
    assert len(turns) == 60 * KINDS.count("dense") / len(KINDS)
    assert sum(bool(shape.factors) for shape in some) == sum(bool(shape.horizon) for shape in some) == 12
