"""The adversarial search: saved stages keep their ratios and hold exactly, wrong rungs are broken, own rungs are welcome."""

import json
from collections import defaultdict
from dataclasses import replace

import builders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flint import arb, fmpq

from teamtr_jax.bounds import BOTH, DEFAULT, Rung, penalty_log_sum, penalty_second_order
from teamtr_jax.teams import read_stage, write_stage
from teamtr_jax.validation import InputError
from theory import adversarial
from theory.adversarial import Exact, StageSizes, judge_stages, load, recheck, search, search_all
from theory.adversarial import __main__ as main

SAVED = load()
SMALL = StageSizes("small", 4, 2, 2)


WRONG = (
    Rung("S7/4", "penalty_quarter", "fresh", BOTH, "oracle", lambda report: penalty_log_sum(report) / 4),
    Rung(
        "S4(1−γ)", "penalty_short", "fresh", BOTH, "oracle", lambda report: penalty_second_order(report) / report.mass
    ),
)
"""S7 with a quarter of its constant; S4 with one power of the horizon less."""
RIGHT = ("penalty_log_sum", "penalty_second_order")


def rungs_of(form):
    return tuple(rung for rung in DEFAULT if form in rung.forms)


@pytest.fixture(scope="module")
def judged():
    """Ratio and slack of every saved stage for its own rung, judged in one batch for each shape."""
    groups = defaultdict(list)
    for entry in SAVED:
        groups[entry["form"], entry["shape"]].append(entry)
    out = {}
    for (form, _), entries in groups.items():
        names = [rung.name for rung in rungs_of(form)]
        stages = builders.stack([entry["stage"] for entry in entries])
        ratio, slack = judge_stages(stages, rungs_of(form))
        for b, entry in enumerate(entries):
            k = names.index(entry["rung"])
            out[entry["file"]] = ratio[b, k], slack[b, k]
            assert (ratio[b] <= 1 + slack[b]).all(), entry["file"]
    return out


def test_there_is_a_stage_for_every_rung():
    saved = {(entry["rung"], entry["form"], entry["gamma"]) for entry in SAVED}
    assert saved == {
        (rung.name, form, gamma)
        for rung in DEFAULT
        for form in rung.forms
        for gamma in (adversarial.GAMMAS if form == "discounted" else (None,))
    } | {("penalty_log_sum", "discounted", gamma) for gamma in adversarial.LOW_GAMMAS}


def test_saved_ratios(judged):
    """The float ratio is what the index says, and no more than one."""
    for entry in SAVED:
        ratio, slack = judged[entry["file"]]
        assert ratio == pytest.approx(entry["ratio"], rel=1e-9), entry["file"]
        assert ratio <= 1 + slack, entry["file"]
        assert slack < 1e-3, entry["file"]


@pytest.mark.parametrize("entry", SAVED, ids=lambda entry: entry["file"].removesuffix(".npz"))
def test_saved_stages_hold_exactly(entry):
    """`|gap_i| ≤ penalty_i` in rational and ball arithmetic, with the ratio that float64 found."""
    exact = recheck(entry["stage"], entry["rung"])
    assert exact.holds is True
    assert exact.evidence == entry["evidence"]
    assert abs(exact.ratio - entry["ratio"]) <= max(entry["slack"], 1e-9)


def test_the_index_lists_every_size():
    """The saved stage is the tightest of the table's cells of its rung and γ."""
    index = json.loads((adversarial.INSTANCES / "index.json").read_text())
    for entry in index["instances"]:
        cells = [
            x["ratio"] - x["slack"]
            for x in index["ratios"]
            if (x["rung"], x["form"], x["gamma"]) == (entry["rung"], entry["form"], entry["gamma"])
        ]
        assert entry["ratio"] - entry["slack"] == max(cells)


@pytest.fixture(scope="module")
def climbs():
    """The two wrong rungs attacked with 0, 50 and 150 steps from the same points: one compiled program."""
    return [search_all(WRONG, SMALL, np.random.default_rng(0), 16, steps, rounds=1) for steps in (0, 50, 150)]


@pytest.mark.parametrize("k", range(len(WRONG)), ids=[rung.id for rung in WRONG])
def test_a_wrong_rung_is_broken(climbs, k):
    """A short search finds a stage beyond a bound with a wrong constant; the exact ratio to the right one agrees."""
    found = climbs[-1][k]
    assert found.ratios[0] > 1 + found.slack[0] + 0.1
    assert (np.diff(found.ratios - found.slack) <= 0).all()
    exact = recheck(builders.first(found.stages), RIGHT[k])
    assert exact.holds
    assert exact.ratio * (4, 10)[k] == pytest.approx(found.ratios[0], rel=1e-6)


@pytest.mark.parametrize("k", range(len(WRONG)), ids=[rung.id for rung in WRONG])
def test_the_objective_increases(climbs, k):
    """The best ratio, and the median of the best ones, with the number of steps."""
    top = [found[k].ratios[0] for found in climbs]
    middle = [np.median(found[k].ratios) for found in climbs]
    assert 1.5 * top[0] < min(top[1:])
    assert 2 * middle[0] < middle[1] < middle[2]


def test_a_search_of_the_wrong_form_is_refused():
    layers = next(rung for rung in DEFAULT if rung.name == "penalty_layers")
    with pytest.raises(InputError, match="one for discounted teams"):
        search(layers, SMALL, np.random.default_rng(0))
    with pytest.raises(InputError, match="--rung"):
        main.named("--rung", "penalty_unknown", DEFAULT)


def test_files_round_trip(tmp_path):
    """Every form that is saved comes back bit by bit; `write` keeps the tighter of two."""
    seen = {}
    for entry in SAVED:
        seen.setdefault(entry["shape"], entry)
    records = []
    for k, entry in enumerate(seen.values()):
        write_stage(jax.tree.map(jnp.asarray, entry["stage"]), tmp_path / "stage.npz")
        again = read_stage(tmp_path / "stage.npz")
        for left, right in zip(jax.tree.leaves(entry["stage"]), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(left, right)
        names = ("rung", "id", "gap", "form", "shape", "agents", "gamma", "ratio", "slack")
        records.append(adversarial.Record(**{name: entry[name] for name in names}, stage=entry["stage"]))
        assert len(adversarial.write(records[k:], tmp_path)) == 1
    for record in records:
        assert adversarial.write([replace(record, ratio=record.ratio - 0.1)], tmp_path) == []
        assert len(adversarial.write([replace(record, ratio=record.ratio + 0.1)], tmp_path)) == 1
    assert {entry["ratio"] for entry in load(tmp_path)} == {record.ratio + 0.1 for record in records}


@pytest.mark.parametrize(
    ("pairs", "exact"),
    [
        ([(fmpq(1, 2), fmpq(1)), (fmpq(3, 4), fmpq(1))], Exact(0.75, True, "exact")),
        ([(fmpq(1, 2), fmpq(1)), (fmpq(2), fmpq(1))], Exact(2.0, False, "exact")),
        ([(fmpq(0), fmpq(0)), (fmpq(5), None)], Exact(0.0, True, "exact")),
        ([(fmpq(1), fmpq(0))], Exact(float("inf"), False, "exact")),
        ([(arb(1), arb(2))], Exact(0.5, True, "enclosed")),
        ([(arb(1), arb(2)), (arb(1), arb(1, 0.5))], Exact(4 / 3, None, "inconclusive")),
        ([(arb(1), arb(1, 0.5)), (arb(3), arb(2))], Exact(1.5, False, "enclosed")),
    ],
)
def test_an_exact_ratio(monkeypatch, pairs, exact):
    """The largest of all updates; one violation decides, one overlap of balls leaves it open."""
    monkeypatch.setattr(adversarial.instances, "exact_pairs", lambda stage, rung: pairs)
    found = recheck(SAVED[0]["stage"], "penalty_path")
    assert found._replace(ratio=0.0) == exact._replace(ratio=0.0)
    assert found.ratio == pytest.approx(exact.ratio, rel=1e-8)


OWN = """
from teamtr_jax.bounds import BOTH, Rung, penalty_log_sum

RUNGS = [Rung("S7/4", "penalty a/b", "fresh", BOTH, "oracle", lambda report: penalty_log_sum(report) / 4)]
"""


def test_a_counterexample_to_an_own_rung_is_kept(tmp_path, monkeypatch, capsys):
    """`--plugin FILE --save --out FOLDER`: its rungs alone are attacked; a stage file that reads back, and exit code 1."""
    (tmp_path / "own.py").write_text(OWN)
    entry, asked = SAVED[0], []

    def found(quick, rng, rungs, stage_sizes, progress, gammas):
        asked.extend(rung.name for rung in rungs)
        return [
            adversarial.Record(
                "penalty a/b", "S7/4", "fresh", "discounted", "turn-taking", 3, 0.9, 1.5, 1e-9, entry["stage"]
            )
        ]

    monkeypatch.setattr(main, "run", found)
    out = tmp_path / "kept"
    assert main._run(main.SearchSettings(plugin=tmp_path / "own.py", save=True, out=out)) == 1
    assert asked == ["penalty a/b"]
    text = capsys.readouterr().out
    assert "VIOLATED: penalty a/b, turn-taking, n = 3" in text
    assert str(out / "penalty%20a%2Fb_0.9.npz").split("/")[-1] in text
    (kept,) = load(out)
    assert (kept["ratio"], kept["evidence"]) == (1.5, "float")
    for left, right in zip(jax.tree.leaves(entry["stage"]), jax.tree.leaves(kept["stage"]), strict=True):
        np.testing.assert_array_equal(left, right)


def test_own_rungs_stay_out_of_the_instances(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    settings = main.SearchSettings(plugin=tmp_path / "own.py")
    with pytest.raises(InputError, match=r"--out: found .*instances, expected a folder of your own"):
        main._run(replace(settings, save=True))
    with pytest.raises(InputError, match="--rung: found penalty_path, expected one of penalty a/b"):
        main._run(replace(settings, rung="penalty_path"))
    (tmp_path / "none.py").write_text(
        "from theory.families import FAMILIES as F\nFAMILIES = [F[0]._replace(name='mine')]\n"
    )
    with pytest.raises(InputError, match="without RUNGS, expected at least one bound"):
        main._run(main.SearchSettings(plugin=tmp_path / "none.py"))


def test_a_violation_is_seen():
    """Above one by more than rounding, or refuted exactly."""
    entry = SAVED[0]
    names = ("rung", "id", "gap", "form", "shape", "agents", "gamma")
    record = adversarial.Record(**{name: entry[name] for name in names}, ratio=1.0, slack=1e-9, stage=entry["stage"])
    assert not record.violated
    assert replace(record, ratio=1 + 1e-8).violated
    assert replace(record, exact=Exact(1.0, False, "exact")).violated
