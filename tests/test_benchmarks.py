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
from teamtr_jax.records import dump, evaluated_record
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
    """All keys, to 1e-9, infinities and all; by the programs of the command, which all forms of a kind share."""
    infinite = 0
    for index, variant in enumerate((plain, discount_zero, hidden, idle, without_time)):
        rng = np.random.default_rng([index, len(form)])
        path = tmp_path / f"{variant.__name__}.npz"
        np.savez(path, **variant(rng, arrays(FORMS[form], rng)))
        ours = json.loads(dump(evaluated_record(read_stage(path), str(path))))
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
    """Medians of ratios within rounds; the second of two was cut off in `check`; before, the machine was a quarter as fast."""
    commands = {
        "reference": [[0.5, 1.0], [0.25, 0.5]],
        "stage, cold": [[8.0, 9.0], [4.0, 5.0]],
        "stage, again": [[2.5, 3.0], [1.25, 2.0]],
        "stage, twice the files": [[3.1, 4.0], [1.85, 3.0]],
        "check, cold": [[10.0, 9.0]],
        "help": [[0.2, 0.2], [0.6, 0.2]],
    }
    before = {"reference": [[2.0, 1.0]], "check, cold": [[802.0, 300.0]]}
    lines = report.command_line_table(dict(files=60, commands=commands, before=before))
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[3:] for line in lines}
    assert cells["`teamtr stage --json`, 60 files, nothing compiled before"][:2] == [
        "**16 [16, 16]** × NumPy", "MISSED (≤ 15 × NumPy)",
    ]  # fmt: skip
    further = next(line for line in lines if line.startswith("| each further file"))
    assert "| 0.01 [0.01, 0.01] |" in further
    assert "met (≤ 0.02 s)" in further
    check = next(line for line in lines if line.startswith("| `teamtr check`"))
    assert "**0.0499 [0.0499, 0.0499]** of before | met (≤ 0.1 of before) | 802 s, 401 × NumPy |" in check
    assert "MISSED (≤ 0.3 s)" in next(line for line in lines if line.startswith("| `teamtr --help`"))
    alone = report.command_line_table(dict(files=60, commands=commands, before=None))
    assert "before" not in next(line for line in alone if line.startswith("| `teamtr check`")).split(" | ", 1)[1]


# ------------------------------------------------------------------------------------------------------------ the report


@pytest.mark.parametrize(
    ("seconds", "said"), [(12.345, "12.3 s"), (1.0, "1 s"), (0.9994, "999 ms"), (0.00123, "1.23 ms"), (9.9e-4, "990 µs"),
                          (4.5e-7, "0.45 µs")]
)  # fmt: skip
def test_a_duration_has_three_digits_and_a_unit(seconds, said):
    assert report.duration(seconds) == said


def case(group, label, ratio, target, **more):
    """One case of `benchmarks.stage`, written by hand."""
    entry = dict(package="ours", rival="theirs", ratio=ratio, target=target)
    seconds = {"ours": [0.001, 0.002, 0.004], "theirs": [0.5, 1.0, 2.0]}
    compiled = {"ours": 3.0}
    return dict(group=group, label=label, rounds=7, disagreement=1e-12, seconds=seconds, compile_seconds=compiled,
                ratios=[entry], **more)  # fmt: skip


def test_a_case_is_judged_on_the_median():
    for ratio, target, said in (
        ([1.0, 1.3, 2.0], 1.3, "met"), ([1.0, 1.29, 2.0], 1.3, "MISSED"), ([0.1, 0.2, 0.3], None, "")
    ):  # fmt: skip
        assert report.verdict(dict(ratio=ratio, target=target)) == said
        line = report.show_row(case("single", "S = 64", ratio, target)).splitlines()[-1]
        assert line == f"    theirs / ours: {ratio[1]:.2f} [{ratio[0]:.2f}, {ratio[2]:.2f}] {said}"
    head, ours, theirs, _ = report.show_row(case("single", "S = 64", [1.0, 1.3, 2.0], 1.3)).splitlines()
    assert head == "single   S = 64  (7 rounds, disagreement 1e-12)"
    assert ours.split() == ["ours", "2", "ms", "[1", "ms,", "4", "ms]", "compile", "3", "s"]
    assert theirs.split() == ["theirs", "1", "s", "[500", "ms,", "2", "s]"]
    skipped = dict(group="single", label="S = 64", skipped="too large")
    assert report.show_row(skipped) == "single   S = 64: skipped, too large"


MACHINE = dict(
    machine=dict(cpu="a processor", cores=2, memory_gib=7.5, system="a system"),
    versions=dict(jax="9", numpy="8"),
    commit=None,
)


def test_tables_of_a_results_file():
    """A column for each set-up, times and ratio in it; a case that one did not get to says so; compilation apart."""
    setup = dict(name="one-core", blas_threads=1, cores=1, clock="cpu", load=0.25, device="cpu")
    dispatch = case("dispatch", "nothing", [1, 1, 1], None) | dict(ratios=[])
    rows = [dispatch, case("single", "S = 64", [1.0, 1.3, 2.0], 1.3), case("hybrids", "S = 512", [0.1, 0.15, 0.3], 0.2)]
    other = setup | dict(
        name="blas-all", load=1.5, rows=[*rows[:2], dict(group="large", label="S = 4096", skipped="no time")]
    )
    lines = report.tables("here", MACHINE | dict(setups=[setup | dict(rows=rows), other], quick=False))
    assert lines[0] == "## here"
    assert lines[2:4] == [
        "a processor, 2 cores, 7.5 GiB, a system; jax 9, numpy 8.", "The package runs on the same processor; its commit: unknown."
    ]  # fmt: skip
    heads = "`one-core` (1 BLAS, 1 cores, load 0.2) | `blas-all` (1 BLAS, 1 cores, load 1.5)"
    assert f"| case | call | {heads} |" in lines
    assert "| nothing | theirs | 1 s | 1 s |" in lines
    met = "2 ms / 1 s: **1.30 [1.00, 2.00]** met"
    assert f"| S = 64 | ours | theirs | {met} | {met} |" in lines
    assert "| S = 512 | ours | theirs | 2 ms / 1 s: **0.15 [0.10, 0.30]** MISSED | not reached in time |" in lines
    assert "| S = 4096 |  |  | not reached in time | no time |" in lines
    assert "| S = 64 | ours | 3 s | 3 s |" in lines
    assert "| S = 512 | ours | 3 s |  |" in lines
    titles = [line for line in lines if line.startswith("### ")]
    assert titles == [f"### {title}" for title in (
        "Dispatch: the cost of a call with nothing to compute", "One policy", "All hybrids of a stage", "Large worlds",
        "Compilation, once per shape",
    )]  # fmt: skip
    assert not any("quick run" in line for line in lines)
    quick = report.tables("here", MACHINE | dict(setups=[setup | dict(rows=rows)], quick=True))
    assert "**A quick run: small sizes, few rounds.**" in quick


def test_seeds_of_a_way_together():
    """How many reached the optimum; every certificate that is negative or above the truth, one way by one."""
    numbers = ("seconds", "seconds_compiled", "updates", "least_certificate", "certified_part")

    def seed(k, way, reached, negative, violations):
        return dict(
            way=way,
            floor="",
            reached=reached,
            negative=negative,
            violations=violations,
            **dict.fromkeys(numbers, float(k)),
        )

    rows = [
        seed(1, "weighted", True, 1, 2),
        seed(2, "weighted", False, 0, 4),
        seed(5, "greedy", True, 0, 0),
        seed(6, "greedy", True, 0, 0),
    ]
    lines = report.end_to_end("here", dict(rows=rows))
    assert lines[0] == "## here: 95 % of the optimal return, every update certified"
    assert report.UNKNOWN in lines
    weighted, greedy = (line for line in lines if line.startswith(("| weighted", "| greedy")))
    assert weighted == "| weighted | 1 | " + " | ".join(["1.5 [1.25, 1.75], most 2"] * 5) + " | 7 |"
    assert greedy == "| greedy | 2 | " + " | ".join(["5.5 [5.25, 5.75], most 6"] * 5) + " | 0 |"
    assert any("reached 95 % (of 2 seeds)" in line for line in lines)


def log_of(**more):
    """One log of `benchmarks.monitor`: pairs of seconds, on the wall and of the processor."""
    samples = {name: [[1.0, 8.0], [3.0, 9.0], [2.0, 10.0]] for name in report.MONITOR_STEPS}
    return dict(kind="a kind", form="parquet", rows=12_345, bytes=2_600_000, samples=samples, target=9.0) | more


def test_the_command_is_judged_on_the_processor_and_memory_on_the_worst_round():
    cells = dict(zip(report.MONITOR_HEAD, report.monitor_cells(log_of(memory=[3e8, 5e8, 4e8])), strict=True))
    assert (cells["log"], cells["rows"], cells["MB"], cells["memory, MB"]) == ("a kind, parquet", "12,345", "3", "500")
    assert [cells[name] for name in report.MONITOR_STEPS] == ["2.00 [1.50, 2.50]"] * 5
    assert (cells["command, processor"], cells["target"]) == ("9.00 [8.50, 9.50]", "met (≤ 9 s)")
    assert report.monitor_cells(log_of(target=8.9))[-2:] == ["MISSED (≤ 8.9 s)", "–"]
    large = dict(rows=10**6, bytes=5e7, seconds=[[1.0, 2.0]] * 3, memory=[1e9, 3e9, 2e9])
    assert (
        "50 MB), stage by stage: 1.00 [1.00, 1.00] s, 2.00 [2.00, 2.00] s of the processor, 3000 MB"
        in report.large_line(large | dict(target=3e9))
    )
    assert report.large_line(large | dict(target=3e9)).endswith("at most: met (≤ 3000 MB).")
    assert report.large_line(large | dict(target=2.9e9)).endswith("at most: MISSED (≤ 2900 MB).")


def test_the_peak_is_that_of_the_fastest_product():
    rows = [dict(name="jax_matmul", gflops=50.0), dict(name="torch_matmul", gflops=70.0), dict(name="one", gflops=90.0)]
    assert report.peak_of(rows) == ("torch", 70.0)
    assert report.peak_of(rows[2:]) == ("", math.inf)


def test_what_ran_on_a_device():
    """Work a second or TFLOP, the share of the peak where one is known, ratios beside the contender; verdicts by column."""
    seconds = {"ours": [0.1, 0.2, 0.4], "theirs": [1.0, 2.0, 4.0]}
    row = dict(
        label="a case",
        seconds=seconds,
        ratios={"theirs": [5.0, 10.0, 20.0]},
        flops=3e12,
        peak=6e13,
        work=500,
        unit="tokens/s",
    )
    assert report.device_cells(row) == [
        ["a case", "ours", "200 ms [100 ms, 400 ms]", "2,500 tokens/s", "25.0%", ""],
        ["a case", "theirs", "2 s [1 s, 4 s]", "250 tokens/s", "2.5%", "10.00 [5.00, 20.00]"],
    ]
    bare = report.device_cells(row | dict(unit="", peak=None))[0]
    assert bare[3:5] == ["15 TFLOP", ""]
    assert report.device_cells(row | dict(seconds={})) == [["a case", "ran once, not timed", "", "", "", ""]]
    found = dict(world="a world", stages=20, instances=12_345, inconclusive=6, wrong=7, beyond=8, used=0.12345)
    lines = report.on_device("here", MACHINE | dict(device="a device", comparisons_on_device=[row], verdicts=[found]))
    assert lines[0] == "## here: on a device"
    assert "The package runs on a device; its commit: unknown." in lines
    head = next(line for line in lines if line.startswith("| stages |"))
    cells = "a world", "20", "12,345", "6", "7", "8", "0.123"
    names = head.strip("| ").split(" | ")
    assert [x.strip() for x in names[2:]] == [
        "comparisons", "inconclusive in float64", "wrong verdicts", "errors beyond their budget", "largest error, in budgets"
    ]  # fmt: skip
    assert "| " + " | ".join(cells) + " |" in lines


def test_the_folder_has_every_kind_and_no_shape_twice():
    some = shapes(120)
    assert len(set(some)) == 120
    assert some[:60] == shapes(60)
    assert all(shape.states <= 32 and shape.agents <= 8 for shape in some)
    turns = [shape for shape in some[:60] if not (shape.factors or shape.successors or shape.horizon)]
    assert len(turns) == 60 * KINDS.count("dense") / len(KINDS)
    assert sum(bool(shape.factors) for shape in some) == sum(bool(shape.horizon) for shape in some) == 12
