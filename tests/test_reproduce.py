"""The paper's questions: intervals, verdicts, the task, runs that are not repeated, a report that needs no training."""

import json
import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from experiments.reproduce.__main__ import QUESTIONS, main
from experiments.reproduce.chain import Chain
from experiments.reproduce.enumerated import Run, Way, train
from experiments.reproduce.question import Finding, Question, Settings
from experiments.reproduce.report import build
from experiments.reproduce.runs import by_stage, objective
from experiments.reproduce.statistics import (
    Interval,
    in_exponent,
    in_order,
    in_sign,
    mean,
    paired,
    share,
    slope,
    within,
)
from teamtr_jax.llm.tasks import Problem, check_task, draw


def interval(low, high):
    return Interval((low + high) / 2, low, high, 5)


def test_intervals():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 6))
    found = paired(x, y)
    theirs = ttest_rel(x, y)
    limits = theirs.confidence_interval()
    assert found == pytest.approx((np.mean(x - y), limits.low, limits.high, 6, theirs.pvalue))
    assert mean([3.0]) == (3.0, -math.inf, math.inf, 1, None)
    n = np.array([2, 3, 5, 8])
    exact = slope(n, np.outer([1.0, 7.0, 0.2], n**1.5))
    assert exact is not None
    assert exact[:3] == pytest.approx((1.5, 1.5, 1.5))
    assert slope(n, [[1, 2, 0, 3]]) is None
    assert share(0, 60) == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 60), 60, None))


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (in_sign(interval(0.1, 0.2), 3.0), "agrees in sign"),
        (in_sign(interval(-0.2, -0.1), 3.0), "disagrees in sign"),
        (in_sign(interval(-0.2, -0.1), -3.0), "agrees in sign"),
        (in_sign(interval(0.1, 0.2), -3.0), "disagrees in sign"),
        (in_sign(interval(-0.1, 0.2), 3.0), "open: the interval holds 0"),
        (in_order([interval(1, 2), interval(0.1, 2)]), "agrees in order"),
        (in_order([interval(1, 2), interval(-2, -1)]), "disagrees in order: 1 of 2 as in the paper, 1 the other way"),
        (in_order([interval(1, 2), interval(-2, 1)]), "open: 1 of 2 as in the paper, 0 the other way"),
        (in_exponent(interval(1.9, 2.0), (1.94, 2.29)), "agrees in exponent"),
        (in_exponent(interval(2.0, 2.1), (1.94, 2.29)), "agrees in exponent"),
        (in_exponent(interval(1.0, 1.9), (1.94, 2.29)), "disagrees in exponent"),
        (in_exponent(interval(2.3, 2.9), (2.29, 1.94)), "disagrees in exponent"),
        (in_exponent(None, (1.0,)), "disagrees: not a power, some are 0"),
        (within(interval(-1.0, 1.1), 1.2), "agrees"),
        (within(interval(-2.0, 1.1), 1.2), "open: the interval reaches 2"),
        (within(interval(-3.0, -1.3), 1.2), "disagrees"),
    ],
)  # fmt: skip
def test_verdicts(verdict, expected):
    assert verdict == expected


def test_chain():
    task = Chain(agents=3, rounds=2, message_length=2)
    check_task(task)
    (problem,) = draw(task, np.random.default_rng(0), 1, held_out=False)
    said = task.demonstrate(problem, np.random.default_rng(0))
    assert said == ["aa", "ba", "aa", "aa", "ba", "aa"]
    assert task.verify(problem, said) == 1.0
    for turn in range(6):
        wrong = [*said[:turn], "bb", *said[turn + 1 :]]
        assert task.verify(problem, wrong) == turn / 6
    assert Chain(2).verify(Problem("?", "abba"), ["a", "b", "a", "a"]) == 0.5


def test_a_run_is_exact_and_made_once(tmp_path):
    """J after an update is J before the next; the improvement is their difference; another seed is another file's content."""
    path = tmp_path / "run.json"
    run = Run(Way("TeamTR", "teamtr", delta=0.02), Chain(2), 0, 2, 64)
    columns = train(run, path)["columns"]
    assert columns["agent"] == [0, 1, 0, 1]
    np.testing.assert_allclose(columns["objective_before"][1:], columns["objective_after"][:-1], rtol=1e-12)
    after, before = np.array(columns["objective_after"]), np.array(columns["objective_before"])
    np.testing.assert_allclose(columns["improvement"], after - before, atol=1e-12)
    assert (np.array(columns["certificate_estimable"]) <= np.array(columns["improvement"]) + 1e-12).all()
    assert objective(columns).shape == (3,)
    assert by_stage(columns, "kl").shape == (2, 2)
    changed = path.stat().st_mtime_ns
    assert train(run, path)["columns"] == columns
    assert path.stat().st_mtime_ns == changed


def question(name, verdict, paper="9.75"):
    def draw(data, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG not a figure")
        return path

    return Question(
        id=name, title=f"{name}?", protocol="One way.", limits="None.", collect=lambda settings: {},
        findings=lambda data: [Finding("Is it so?", "1.25", interval(1.0, 1.5), paper, verdict)],
        table=lambda data: (["a", "b"], [["x|y", data["x"]]]), draw=draw,
    )  # fmt: skip


def test_report_is_built_from_data_alone(tmp_path):
    """What disagrees comes first; rows have the promised keys; the page needs no other file."""
    questions = [question("Tab 1", "agrees"), question("Fig 9", "disagrees in sign"), question("Fig 8", "open: so")]
    about = {
        "seeds": 5,
        "quick": False,
        "seconds": 61.4,
        "versions": {"jax": "9"},
        "machine": "m",
        "date": "2026-01-01",
    }
    (tmp_path / "data").mkdir()
    for q in questions:
        (tmp_path / "data" / f"{q.slug}.json").write_text(
            json.dumps({"about": about, "data": {"x": 7.5, "seeds": [0, 1]}})
        )
    markdown, page, rows, *_ = build(tmp_path, [*questions, question("Fig 7", "agrees")])
    text = markdown.read_text()
    order = [text.index(f"## {name}") for name in ("Fig 9", "Fig 8", "Tab 1")]
    assert order == sorted(order)
    assert "3 comparisons: 1 disagree, 1 are open, 1 agree." in text
    assert "Without data so far: Fig 7." in text
    assert "x\\|y" in text
    found = json.loads(rows.read_text())["rows"]
    assert [set(row) for row in found] == [
        {"id", "question", "ours", "interval", "paper", "verdict", "command", "seeds"}
    ] * 3
    assert found[0] | {"question": ""} == {
        "id": "Fig 9", "question": "", "ours": "1.25", "interval": [1.0, 1.5], "paper": "9.75", "verdict": "disagrees in sign",
        "command": "python -m experiments.reproduce run --only 'Fig 9' --seeds 5", "seeds": [0, 1],
    }  # fmt: skip
    html = page.read_text()
    assert html.count("data:image/png;base64,") == 3
    assert "figures/" not in html
    assert "<table>" in html


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--only", "Tab 99"], "only: found 'Tab 99', expected Fig 2"),
        (["run", "--seeds", "4"], "seeds: found 4, expected at least 5, or --quick"),
        (["report", "nowhere"], "out: found no nowhere/data, expected a folder that `run` wrote"),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_questions_have_names_of_their_own():
    assert len({q.slug for q in QUESTIONS}) == len(QUESTIONS)
    assert Settings(quick=True, seeds=2).spent == {}
