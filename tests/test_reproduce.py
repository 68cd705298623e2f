"""The paper's questions: intervals, verdicts, tasks, runs that are made once, what is watched, a report from data alone."""

import json
import math
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ttest_rel

from experiments.llm.measure import converse
from experiments.reproduce import records, runs
from experiments.reproduce.__main__ import QUESTIONS, main
from experiments.reproduce.question import Finding, Question, Settings
from experiments.reproduce.questions.replacement import Swap
from experiments.reproduce.report import build
from experiments.reproduce.runs import by_stage, made, regressions, tuned
from experiments.reproduce.statistics import (
    Interval,
    in_exponent,
    in_order,
    in_sign,
    in_size,
    in_value,
    mean,
    ours_alone,
    paired,
    share,
    slope,
    within,
)
from experiments.reproduce.tasks import Chain, Quota, task_named
from experiments.reproduce.training import Run, Way, ground, start_of, value_of
from experiments.reproduce.watch import DRAWS, MonitorWatch, rank_shifts
from teamtr_jax.llm.tasks import Problem, check_task, draw
from teamtr_jax.teams.garnet import random_stages
from teamtr_jax.validation import InputError

ROOT = Path(__file__).parents[1]


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
        (in_size(interval(0.1, 0.2), 3.0), "agrees in sign"),
        (in_size(interval(0.1, 0.2), -3.0), "disagrees in sign"),
        (in_size(interval(-0.1, 1.4), 3.0), "disagrees in size: less than half of the paper's"),
        (in_size(interval(-0.1, 1.6), 3.0), "open: the interval holds 0"),
        (in_size(interval(-1.4, 9.0), -3.0), "disagrees in size: less than half of the paper's"),
        (in_size(interval(-1.6, 9.0), -3.0), "open: the interval holds 0"),
        (in_value(mean([]), 0.15), "open: too few seeds"),
        (in_value(mean([0.15]), 0.15), "open: too few seeds"),
        (in_value(interval(0.1, 0.2), 0.15), "agrees in value"),
        (in_value(interval(0.05, 0.2), 0.15), "open: the interval holds the paper's number, its half or its double too"),
        (in_value(interval(0.1, 0.4), 0.15), "open: the interval holds the paper's number, its half or its double too"),
        (in_value(interval(0.1, 0.2), 0.05), "disagrees: more than the paper's"),
        (in_value(interval(0.1, 0.2), 0.25), "disagrees: less than the paper's"),
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
        (ours_alone("agrees in sign"), "ours alone: holds"),
        (ours_alone("disagrees"), "ours alone: does not hold"),
        (ours_alone("open: so"), "ours alone: open: so"),
    ],
)  # fmt: skip
def test_verdicts(verdict, expected):
    assert verdict == expected


# --------------------------------------------------------------------------------------------------------------------- tasks


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


def test_chain_with_switches_and_more_symbols():
    """Prompt b moves on by one symbol, agent k looks at switch k mod `switches`; without switches agent k steps by k."""
    task = Chain(agents=3, rounds=1, symbols=4, switches=2)
    check_task(task)
    assert task.demonstrate(Problem("ba", ""), np.random.default_rng(0)) == ["b", "b", "c"]
    stepping = Chain(agents=3, rounds=2, symbols=4).demonstrate(Problem("?", ""), np.random.default_rng(0))
    assert stepping == ["a", "b", "d", "d", "a", "c"]  # 0, 1, 3, 3, 4, 6 modulo 4
    twice = Chain(agents=3, rounds=2, switches=2).demonstrate(Problem("ba", ""), np.random.default_rng(0))
    assert twice == ["b", "b", "a", "b", "b", "a"]  # the third agent looks at the first switch, in both rounds
    prompts = {task.sample(np.random.default_rng(seed)).prompt for seed in range(40)}
    assert prompts == {"aa", "ab", "ba", "bb"}


def test_quota():
    task = Quota(agents=4)
    check_task(task)
    for count in range(5):
        assert task.verify(Problem("?", ""), ["b"] * count + ["a"] * (4 - count)) == (count == 1)
    assert task.verify(Problem("?", ""), ["b", "a", "a"]) == 0.0


def test_task_named():
    assert task_named("chain agents=4 switches=2") == Chain(agents=4, switches=2)
    assert task_named("parity shares=True").shares
    for text, message in (
        ("carry digits", "difficulty"),
        ("tennis", "task"),
        ("quota agents=1", "agents"),
        ("quota colour=1", "quota"),
    ):
        with pytest.raises(InputError, match=message):
            task_named(text)


# ---------------------------------------------------------------------------------------------------------------------- runs

SHORT = Run(Way("TeamTR", "teamtr", delta=0.02), "chain agents=2", 0, 2, 64, watch=("ranks", "monitor"))


@pytest.fixture(scope="module")
def short():
    return SHORT.work()


def test_a_run_is_exact(short):
    """J after an update is J before the next; the improvement is their difference; values are those between stages."""
    columns = {name: np.array(x) for name, x in short["columns"].items()}
    assert columns["agent"].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(columns["objective_before"][1:], columns["objective_after"][:-1], rtol=1e-12)
    np.testing.assert_allclose(
        columns["improvement"], columns["objective_after"] - columns["objective_before"], atol=1e-12
    )
    assert (columns["certificate_estimable"] <= columns["improvement"] + 1e-12).all()
    np.testing.assert_allclose(
        short["values"], [columns["objective_before"][0], *columns["objective_after"][1::2]], rtol=1e-12
    )
    assert short["values"][0] == pytest.approx(
        value_of(SHORT.task, False, start_of(SHORT.task, False, 0, None), 0), rel=1e-12
    )
    assert by_stage(short, "kl").shape == (2, 2)
    assert regressions(short) == 100 * np.mean(columns["improvement"] < 0)
    assert len(short["stage_seconds"]) == 2
    assert columns["watch_k1"].shape == columns["watch_rank_2"].shape == (4,)
    np.testing.assert_allclose(
        columns["watch_rank_1"], columns["watch_rank_2"]
    )  # two symbols: logits less their mean are ±z


def test_sampled_values_are_near_exact_ones():
    """What is said of teams that are not enumerated, on one that is."""
    team, _, _ = ground(SHORT.task, False)
    params = start_of(SHORT.task, False, 3, None)
    problems = draw(task_named(SHORT.task), np.random.default_rng(0), 1000, held_out=False)
    reward = converse(team, params, task_named(SHORT.task), problems, 1, jax.random.key(0), 1000).reward
    error = reward.std(ddof=1) / math.sqrt(reward.size)
    assert reward.mean() == pytest.approx(value_of(SHORT.task, False, params, 3), abs=4 * error)


def test_runs_are_made_once(tmp_path, monkeypatch, short):
    """What is there is read; another job at the same place is made again; the rest goes to the workers in groups."""
    settings = Settings(out=tmp_path)
    asked = []

    def all_of(settings, groups, folder):
        asked.append([[job.seed for job in group] for group in groups])
        monkeypatch.setattr(Run, "work", lambda self: {**short, "values": [0.0, self.way.learning_rate + self.seed]})
        for group in groups:
            runs._work(group, folder)

    monkeypatch.setattr(runs, "_all", all_of)
    jobs = [replace(SHORT, seed=seed) for seed in (0, 1)]
    first = made(settings, jobs)
    assert [x["values"][1] for x in first] == [0.003, 1.003]
    assert made(settings, jobs) == first
    assert asked == [[[0], [1]]]
    path = tmp_path / "runs" / jobs[0].place
    records.write(path, {**first[0], "job": {**first[0]["job"], "stages": 9}})
    made(settings, jobs)
    assert asked == [[[0], [1]], [[0]]]
    assert sum(settings.spent.values()) == pytest.approx(sum(x["seconds"] for x in made(settings, jobs)))
    chosen, record = tuned(settings, [SHORT], (0.1, 0.3, 0.2), (7, 8))
    assert chosen[0].way == replace(SHORT.way, learning_rate=0.3)
    assert record[0]["ends"] == [[7.1, 8.1], [7.3, 8.3], [7.2, 8.2]]
    assert record[0]["chosen"] == 0.3


@dataclass(frozen=True)
class Stub:
    """A job that takes no time; number 2 fails as long as there is a file."""

    seed: int
    stop: str
    task: str = "stub"

    @property
    def place(self):
        return f"{self.seed}.json"

    def work(self):
        if self.seed == 2 and Path(self.stop).exists():
            raise ArithmeticError("number 2")
        return {"values": [self.seed], "process": os.getpid(), "cores": len(os.sched_getaffinity(0))}


def test_workers_keep_what_is_done(tmp_path, monkeypatch):
    """Jobs run in other processes, on one core each; after a failure the finished ones are not made again."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    stop = tmp_path / "stop"
    stop.touch()
    settings = Settings(out=tmp_path)
    jobs = [Stub(seed, str(stop)) for seed in range(3)]
    with pytest.raises(ArithmeticError, match="number 2"):
        made(settings, jobs)
    stop.unlink()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}
    assert "2.json" not in before
    found = made(settings, jobs)
    assert [x["values"] for x in found] == [[0], [1], [2]]
    assert all(x["cores"] == 1 and x["process"] != os.getpid() for x in found)
    assert all((tmp_path / "runs" / name).stat().st_mtime_ns == time for name, time in before.items())


def test_places_differ():
    """Whatever decides a result decides where it is kept."""
    other = (
        replace(SHORT, seed=1), replace(SHORT, stages=3), replace(SHORT, rollouts=32), replace(SHORT, start=0.3),
        replace(SHORT, watch=()), replace(SHORT, task="chain agents=3"),
        *(replace(SHORT, way=replace(SHORT.way, **x)) for x in (
            dict(method="ppo"), dict(learning_rate=0.1), dict(delta=0.1), dict(order="reverse"), dict(same_sets=True),
            dict(monitor="k1"), dict(measured=0.5))),
    )  # fmt: skip
    places = [SHORT.place, *(run.place for run in other), Swap(SHORT, 2).place]
    assert len({*places}) == len(places)


# --------------------------------------------------------------------------------------------------------------------- watch


def log_of(agent, k1, messages):
    """Rows of an update of `agent`, and as many of another who stays as it is."""
    own = np.arange(2 * len(k1)) % 2 == 0
    current = np.full(2 * len(k1), -1.0)
    moved = current.copy()
    moved[own] -= k1
    who = np.where(own, agent, agent + 1)
    turn = np.repeat(np.arange(len(k1)) % messages, 2)
    return {
        "agent": who,
        "logp_current": current,
        "logp_new": moved,
        "rollout": np.zeros(2 * len(k1), int),
        "turn": turn,
    }


def test_monitor_on_a_part_of_the_tokens():
    k1 = np.array([0.3, -0.1, 0.2, 0.0, 0.1, 0.1, 0.2, -0.2])
    watch = MonitorWatch(0.29, 0)
    watch(log_of(2, k1, 2))
    watch(log_of(0, np.zeros(3), 2))
    found = watch.collected()
    assert found["k1"] == pytest.approx([0.3, 0.0])  # Σ k1 / messages
    assert found["k3"] == pytest.approx([np.sum(np.exp(-k1) - 1 + k1) / 2, 0.0])
    assert found["k3_flips_0.5"][1] == found["k3_flips_0.5"][0] == 0.0  # no part of it is near δ
    # All pairs of two of eight tokens, scaled up by four: how many are not above .29?
    pairs = [4 * (k1[i] + k1[j]) / 2 for i in range(8) for j in range(i)]
    share = np.mean([x <= 0.29 for x in pairs])
    assert found["k1_flips_0.25"][0] == pytest.approx(share, abs=4 * math.sqrt(0.25 / DRAWS))


def test_rank_shifts_by_hand():
    """The occupancy-weighted mean of the shifts of centred logits, in the order of the old probabilities."""
    stage = jax.tree.map(
        lambda x: x[0], random_stages(np.random.default_rng(0), 1, states=6, actions=3, agents=2, discount=0.9)
    )
    chain = jnp.stack([stage.current, jnp.where((stage.team.active == 1)[:, None], stage.target, stage.current)])
    found = rank_shifts(stage.team, chain, [1])
    old, new = np.asarray(chain)
    transition = np.asarray(stage.team.dynamics.transition)
    p = np.einsum("sa,sat->st", old, transition)
    m = np.linalg.solve(np.eye(6) - 0.9 * p.T, np.asarray(stage.team.initial))
    own = np.flatnonzero(np.asarray(stage.team.active) == 1)
    expected = np.zeros(3)
    for s in own:
        change = np.log(new[s]) - np.log(old[s])
        expected += m[s] * abs(change - change.mean())[np.argsort(-old[s])]
    expected /= m[own].sum()
    np.testing.assert_allclose([found[f"rank_{r}"][0] for r in (1, 2, 3)], expected, rtol=1e-9)


# -------------------------------------------------------------------------------------------------------------------- report


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
        records.write(tmp_path / "data" / f"{q.slug}.json", {"about": about, "data": {"x": 7.5, "seeds": [0, 1]}})
    markdown, page, rows, *_ = build(tmp_path, [*questions, question("Fig 7", "agrees")])
    text = markdown.read_text()
    heads = ("What does not reproduce", "What stays open", "What agrees", "Fig 9", "Fig 8", "Tab 1")
    order = [text.index(f"## {name}") for name in heads]
    assert order == sorted(order)
    assert "3 comparisons: 1 disagree, 1 are open, 1 agree, 0 are not in the paper." in text
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


def test_the_committed_report_is_that_of_its_data(tmp_path):
    """Every question of the paper has data, and no line of the report was typed."""
    home = ROOT / "docs/reproduction"
    shutil.copytree(home / "data", tmp_path / "data")
    assert {path.stem for path in (home / "data").iterdir()} == {q.slug for q in QUESTIONS}
    build(tmp_path, QUESTIONS)
    assert (tmp_path / "report.md").read_text() == (home / "report.md").read_text()
    found, kept = (json.loads((place / "reproduction.json").read_text())["rows"] for place in (tmp_path, home))
    for one, same in zip(found, kept, strict=True):  # the last digits of a fit are those of a machine
        low_high, theirs = one.pop("interval"), same.pop("interval")
        assert one == same
        assert low_high is theirs is None or low_high == pytest.approx(theirs, rel=1e-12, abs=1e-12)
    assert {path.name for path in (home / "figures").iterdir()} == {
        path.name for path in (tmp_path / "figures").iterdir()
    }
    rows = json.loads((home / "reproduction.json").read_text())["rows"]
    assert {row["id"] for row in rows} == {q.id for q in QUESTIONS}
    assert all(len(row["seeds"]) >= 5 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--only", "Tab 99"], "only: found 'Tab 99', expected Fig 2"),
        (["run", "--seeds", "4"], "seeds: found 4, expected at least 5, or --quick, and at most 500"),
        (["report", "nowhere"], "out: found no nowhere/data, expected a folder that `run` wrote"),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_questions_have_names_of_their_own():
    assert len({q.slug for q in QUESTIONS}) == len(QUESTIONS)
    quick = Settings(quick=True)
    assert (quick.seeds, quick.at(9, 3), quick.rates((1, 2, 3)), quick.tuning((7, 8))) == (2, 3, (2, 3), (7,))


@pytest.mark.slow
def test_quick_run(tmp_path, capsys):
    """All questions, small: a report with every one of them."""
    assert main(["run", "--quick", "--out", str(tmp_path)]) == 0
    assert "A quick run" in (tmp_path / "report.md").read_text()
    rows = json.loads((tmp_path / "reproduction.json").read_text())["rows"]
    assert {row["id"] for row in rows} == {q.id for q in QUESTIONS}
