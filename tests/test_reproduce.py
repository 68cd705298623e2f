"""The paper's questions: intervals, verdicts, tasks, runs that are made once, what is watched, a report from data alone."""

import json
import math
import multiprocessing
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ttest_rel

from experiments import networks, saved
from experiments.llm.measure import converse
from experiments.llm.settings import Train
from experiments.llm.setup import set_up
from experiments.reproduce import runs, training
from experiments.reproduce.__main__ import QUESTIONS, main
from experiments.reproduce.question import Finding, Question, ReproduceSettings
from experiments.reproduce.questions.replacement import Swap
from experiments.reproduce.report import build
from experiments.reproduce.runs import by_stage, made, regressions, tuned
from experiments.reproduce.statistics import (
    in_exponent,
    in_order,
    in_sign,
    in_size,
    in_value,
    mean,
    ours_alone,
    p_value,
    paired,
    share,
    slope,
    within,
)
from experiments.reproduce.tasks import Chain, Quota, task_named
from experiments.reproduce.training import Run, Way, ground, start_of, value_of
from experiments.reproduce.watch import DRAWS, MonitorWatch, rank_shifts
from teamtr_jax.intervals import Interval
from teamtr_jax.llm.tasks import Problem, check_task, draw
from teamtr_jax.teams.garnet import random_stages
from teamtr_jax.validation import InputError

ROOT = Path(__file__).parents[1]


def interval(low, high):
    return Interval((low + high) / 2, low, high, math.inf, 5)


def test_intervals():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 6))
    found = paired(x, y)
    theirs = ttest_rel(x, y)
    limits = theirs.confidence_interval()
    error = np.mean(x - y) / theirs.statistic
    assert found == pytest.approx((np.mean(x - y), limits.low, limits.high, error, 6))
    assert p_value(found) == pytest.approx(theirs.pvalue)
    assert mean([3.0]) == (3.0, -math.inf, math.inf, math.inf, 1)
    assert p_value(mean([3.0])) is None
    n = np.array([2, 3, 5, 8])
    exact = slope(n, np.outer([1.0, 7.0, 0.2], n**1.5))
    assert exact is not None
    assert exact[:3] == pytest.approx((1.5, 1.5, 1.5))
    assert slope(n, [[1, 2, 0, 3]]) is None
    assert share(0, 60) == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 60), math.inf, 60))


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (in_sign(interval(0.1, 0.2), 3.0), "agrees in sign"),
        (in_sign(interval(-0.2, -0.1), 3.0), "disagrees in sign"),
        (in_sign(interval(-0.2, -0.1), -3.0), "agrees in sign"),
        (in_sign(interval(0.1, 0.2), -3.0), "disagrees in sign"),
        (in_sign(interval(-0.1, 0.2), 3.0), "open: the interval holds 0"),
        (in_sign(interval(0.0, 0.2), 3.0), "open: the interval holds 0"),
        (in_sign(interval(-0.2, 0.0), 3.0), "open: the interval holds 0"),
        (in_size(interval(-0.1, 1.5), 3.0), "open: the interval holds 0"),
        (in_value(interval(0.075, 0.2), 0.15), "open: the interval holds the paper's number, its half or its double too"),
        (in_value(interval(0.1, 0.3), 0.15), "open: the interval holds the paper's number, its half or its double too"),
        (in_value(interval(0.15, 0.2), 0.15), "agrees in value"),
        (in_value(interval(0.1, 0.15), 0.15), "agrees in value"),
        (in_exponent(interval(1.0, 1.94), (1.94, 2.29)), "agrees in exponent"),
        (in_exponent(interval(2.29, 2.5), (1.94, 2.29)), "agrees in exponent"),
        (within(interval(-1.2, 1.2), 1.2), "agrees"),
        (within(interval(1.2, 3.0), 1.2), "open: the interval reaches 3"),
        (within(interval(-3.0, -1.2), 1.2), "open: the interval reaches 3"),
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


def test_a_worker_computes_in_float64_on_a_core_of_its_own(monkeypatch):
    """Workers take the cores in turn."""
    told, settings = [], []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: told.append(cores), raising=False)
    monkeypatch.setattr(jax.config, "update", lambda *setting: settings.append(setting))
    counter = multiprocessing.Value("i")
    for _ in range(3):
        runs._begin(counter)
    assert told in ([{3}, {5}, {3}], [{5}, {3}, {5}])
    assert settings == [("jax_enable_x64", True)] * 3


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
    settings = ReproduceSettings(out=tmp_path)
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
    saved.write_json(path, {**first[0], "job": {**first[0]["job"], "stages": 9}})
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
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})  # one worker at a time: each takes seconds to begin
    stop = tmp_path / "stop"
    stop.touch()
    settings = ReproduceSettings(out=tmp_path)
    jobs = [Stub(seed, str(stop)) for seed in range(3)]
    with pytest.raises(ArithmeticError, match="number 2"):
        made(settings, jobs)
    stop.unlink()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}
    assert set(before) == {"0.json", "1.json"}
    found = made(settings, jobs)
    assert [x["values"] for x in found] == [[0], [1], [2]]
    assert all(x["cores"] == 1 and x["process"] != os.getpid() for x in found)
    assert all((tmp_path / "runs" / name).stat().st_mtime_ns == time for name, time in before.items())


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """One run that was made, and how many are made from now on."""
    count = []

    def all_of(settings, groups, folder):
        for group in groups:
            count.append(len(group))
            runs._work(group, folder)

    monkeypatch.setattr(runs, "_all", all_of)
    settings, job = ReproduceSettings(out=tmp_path), Stub(0, "")
    made(settings, [job])
    count.clear()
    return settings, job, tmp_path / "runs" / job.place, count


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other type", "seal", "folder", "unsealed"])
def test_a_damaged_run_is_refused_by_name(kept, damage):
    """And left as it is; nothing is made."""
    settings, job, path, count = kept
    data = path.read_bytes()
    bad = {
        "flip": data.replace(b'"values": [\n  0', b'"values": [\n  1'), "cut": data[:40], "empty": b"", "other type": b"[1]\n",
        "seal": data.replace(b"sha256", b"rha256"), "folder": None, "unsealed": data[: data.rindex(b', "sha256')] + b"}",
    }[damage]  # fmt: skip
    if bad is None:
        path.unlink()
        path.mkdir()
    else:
        assert bad != data
        path.write_bytes(bad)
    with pytest.raises(InputError, match=r"0\.json: found (a damaged file|a folder).*, expected the result of a run"):
        made(settings, [job])
    assert not count
    assert bad is None or path.read_bytes() == bad


@pytest.mark.parametrize("older", ["first schema", "another schema", "another job", "none"])
def test_runs_of_another_kind_are_made_again(kept, older):
    """Of the schema before, which had no digest; of another one; of another job at this place; and then no more."""
    settings, job, path, count = kept
    content = saved.read(path, "")
    assert content["schema"] == runs.SCHEMA == 2
    assert content["job"] == {"seed": 0, "stop": "", "task": "stub"}
    if older == "first schema":
        path.write_text(json.dumps({"job": content["job"], "seconds": 1.0, "values": [9]}))
    elif older == "another schema":
        saved.write_json(path, content | {"schema": 1, "values": [9]})
    elif older == "another job":
        saved.write_json(path, content | {"job": {"seed": 1}, "values": [9]})
    again = [made(settings, [job])[0]["values"] for _ in range(2)]
    assert again == [[0], [0]]
    assert count == ([] if older == "none" else [1])


def test_a_name_decides_nothing():
    """Two questions that call the same way differently share its runs; everything else is asked for."""
    other = replace(SHORT, way=replace(SHORT.way, name="full"))
    assert runs._asked(other) == runs._asked(SHORT)
    assert other.place == SHORT.place
    assert runs._asked(SHORT)["way"]["method"] == "teamtr"
    assert runs._asked(replace(SHORT, group=4)) != runs._asked(SHORT)
    assert runs._asked(Swap(SHORT, 2)) == {"run": runs._asked(SHORT), "after": 2, "radius": 0.05}


def test_jobs_are_grouped_by_task_and_seed(tmp_path, monkeypatch):
    """Runs of the single agent apart: another network."""
    asked = []
    monkeypatch.setattr(runs, "_all", lambda settings, groups, folder: asked.extend(groups))
    monkeypatch.setattr(runs, "_kept", lambda job, folder: {"seconds": 2.5} if asked else None)
    lone = replace(SHORT, way=Way("single", "lone"))
    jobs = [replace(SHORT, seed=1), lone, SHORT, replace(SHORT, stages=5), replace(SHORT, task="chain")]
    settings = ReproduceSettings(out=tmp_path)
    made(settings, jobs)
    assert asked == [[jobs[4]], [jobs[2], jobs[3]], [jobs[0]], [lone]]
    assert sum(settings.spent.values()) == 5 * 2.5


def test_places_differ():
    """Whatever decides a result decides where it is kept."""
    other = (
        replace(SHORT, seed=1), replace(SHORT, stages=3), replace(SHORT, rollouts=32), replace(SHORT, start=0.3),
        replace(SHORT, watch=()), replace(SHORT, task="chain agents=3"),
        *(replace(SHORT, way=replace(SHORT.way, **x)) for x in (
            dict(method="ppo"), dict(learning_rate=0.1), dict(delta=0.1), dict(order="reverse"), dict(same_sets=True),
            dict(monitor="k1"), dict(measured=0.5), dict(window=2), dict(shared=True))),
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
        saved.write_json(tmp_path / "data" / f"{q.slug}.json", {"about": about, "data": {"x": 7.5, "seeds": [0, 1]}})
    markdown, page, rows, *_ = build(tmp_path, [*questions, question("Fig 7", "agrees")])
    text = markdown.read_text()
    heads = ("What differs at toy scale", "What stays open", "What agrees", "Fig 9", "Fig 8", "Tab 1")
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
    page = (tmp_path / "report.html").read_text()  # built only: of the same text, every figure inside
    assert page.count("data:image/png;base64,") == len(QUESTIONS)
    assert page.count("<h2>") == (home / "report.md").read_text().count("\n## ")
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "501"], "seeds: found 501, expected at least 5, or --quick, and at most 500"),
        (["--seeds", "-1"], "seeds: found -1, expected at least 5"),
        (["--quick", "--seeds", "20"], "seeds: found 20, expected none beside --quick, which has two"),
    ],
)
def test_settings_out_of_range(tmp_path, arguments, message, capsys):
    assert main(["run", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"experiments.reproduce: error: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "place", ["out", "out/data", "out/figures", "out/runs", "out/report.md", "out/reproduction.json", "device"]
)
def test_places_are_tried_before_the_work(tmp_path, monkeypatch, place, capsys):
    monkeypatch.setattr("experiments.reproduce.__main__.QUESTIONS", [question("Tab 1", "agrees")])
    out = tmp_path / "out"
    if place == "device":
        out.symlink_to("/dev/null")
    elif "." in place:
        (tmp_path / place).mkdir(parents=True)
    else:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("x")
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith("experiments.reproduce: error: out: found ")
    assert sorted(tmp_path.rglob("*")) == before


def one_question(folder, name="Tab 1", **about):
    """A question with its data."""
    about = {
        "seeds": 5,
        "quick": False,
        "seconds": 7200.0,
        "versions": {"jax": "9"},
        "machine": "m",
        "date": "d",
    } | about
    q = question(name, "agrees")
    tuning = [{"way": "w", "rates": [0.1, 0.2], "ends": [[0.5, 0.25], [0.75, 0.5]], "chosen": 0.2, "seeds": [7, 8]},
              {"way": "v", "rates": [0.1], "ends": [[0.125, 0.125]], "chosen": 0.1, "seeds": [7, 8]}]  # fmt: skip
    saved.write_json(
        folder / "data" / f"{q.slug}.json", {"about": about, "data": {"x": 7.5, "seeds": [0, 1], "tuning": tuning}}
    )
    return q


def test_a_section_of_the_report(tmp_path):
    """Protocol, table, verdict, what was tried for the rates, and how it was made."""
    q = replace(one_question(tmp_path), paper="The paper: 3.", why="Because.")
    build(tmp_path, [q])
    text = (tmp_path / "report.md").read_text()
    section = text[text.index("## Tab 1: Tab 1?") :]
    made = (
        "Mean and 95 % t interval over seeds 0, 1, paired where a difference is shown. `python -m experiments.reproduce run "
        "--only 'Tab 1' --seeds 5`; 7200 s of runs, each on one core of m; jax 9; d."
    )
    parts = [
        "## Tab 1: Tab 1?", "One way.", "![Tab 1: ours in colour, the paper's in grey where it gives numbers](figures/tab-1.png)",
        "| a | b |\n| --- | --- |\n| x\\|y | 7.5 |", "The paper: 3.",
        "| question | ours | the paper's | verdict |\n| --- | --- | --- | --- |\n| Is it so? | 1.25 | 9.75 | **agrees** |",
        "Because.", "*Where the toy cannot speak:* None.",
        "Tuning: value at the end, %, mean over seeds 7, 8, for each learning rate.",
        "|  |  |  | chosen |\n| --- | --- | --- | --- |\n| w | 0.1: 37.5 | 0.2: 62.5 | 0.2 |\n| v | 0.1: 12.5 |  | 0.1 |",
        made,
    ]  # fmt: skip
    assert section == "\n\n".join(parts) + "\n"
    assert (
        "1 comparisons: 0 disagree, 0 are open, 1 agree, 0 are not in the paper. The runs of all questions take 2.0 hours"
        in text
    )
    assert "A quick run" not in text
    build(tmp_path, [one_question(tmp_path, quick=True, seeds=2)])
    text = (tmp_path / "report.md").read_text()
    assert "**A quick run: smaller teams" in text
    assert "--only 'Tab 1' --seeds 2 --quick`" in text
    build(tmp_path, [one_question(tmp_path, quick=True, seeds=2), one_question(tmp_path, "Tab 2")])
    assert "**A quick run: smaller teams" in (tmp_path / "report.md").read_text()  # one of them is


@pytest.mark.parametrize("damage", ["flip", "cut", "list", "unsealed"])
def test_damaged_data_are_refused_by_name(tmp_path, damage, capsys):
    """Before anything is written."""
    one_question(tmp_path, "Fig 2")
    path = tmp_path / "data" / "fig-2.json"
    data = path.read_bytes()
    bad = {
        "flip": data.replace(b"7.5", b"7.6"),
        "cut": data[:-20],
        "list": b"[]",
        "unsealed": data[: data.rindex(b', "sha')] + b"}",
    }
    path.write_bytes(bad[damage])
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"experiments.reproduce: error: {path}: found a damaged file (")
    assert said.endswith("), expected data that `run` wrote\n")
    assert [x.name for x in tmp_path.iterdir()] == ["data"]


def test_a_figure_that_fails_loses_nothing_else(tmp_path, monkeypatch, capsys):
    """The others are drawn, the old one stays, the text and the numbers are there; exit code 3."""
    bad, good = one_question(tmp_path), one_question(tmp_path, "Tab 2")

    def fails(data, path):
        assert (tmp_path / "reproduction.json").exists()
        assert (tmp_path / "report.md").exists()
        path.write_text("half")
        raise ValueError("no ticks")

    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "tab-1.png").write_bytes(b"old")
    monkeypatch.setattr("experiments.reproduce.__main__.QUESTIONS", [replace(bad, draw=fails), good])
    assert main(["report", str(tmp_path)]) == 3
    assert capsys.readouterr().err == "experiments.reproduce: error: the figure of Tab 1: ValueError: no ticks\n"
    assert (tmp_path / "figures" / "tab-1.png").read_bytes() == b"old"
    assert (tmp_path / "figures" / "tab-2.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(x.name for x in (tmp_path / "figures").iterdir()) == ["tab-1.png", "tab-2.png"]
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 2


def test_a_run_writes_the_data_of_each_question_at_once(tmp_path, monkeypatch):
    """One that fails does not take the data of those before it, whose seconds are those of their own runs."""

    def collect(settings):
        settings.spent[Path("a")] = 2.0
        settings.spent[Path("b")] = 3.5
        return {"x": 1, "seeds": [0]}

    def fails(settings):
        assert not settings.spent
        raise ArithmeticError("no number")

    first, second = (replace(question(name, "agrees"), collect=f) for name, f in (("Tab 1", collect), ("Tab 2", fails)))
    monkeypatch.setattr("experiments.reproduce.__main__.QUESTIONS", [first, second])
    assert main(["run", "--out", str(tmp_path), "--seeds", "6"]) == 3
    (path,) = (tmp_path / "data").iterdir()
    kept = saved.read(path, "")
    assert (kept["data"], kept["about"]["seconds"], kept["about"]["seeds"]) == ({"x": 1, "seeds": [0]}, 5.5, 6)
    assert main(["run", "--out", str(tmp_path), "--only", "Tab 1"]) == 0
    assert "Without data so far: Tab 2." in (tmp_path / "report.md").read_text()


def test_numbers_that_are_none_are_not_written(tmp_path):
    with pytest.raises(ArithmeticError, match="x: not a number"):
        saved.write_json(tmp_path / "a.json", {"x": math.nan})
    assert not list(tmp_path.iterdir())


def test_questions_have_names_of_their_own():
    assert len({q.slug for q in QUESTIONS}) == len(QUESTIONS)
    quick = ReproduceSettings(quick=True)
    assert (quick.seeds, quick.at(9, 3), quick.rates((1, 2, 3)), quick.tuning((7, 8))) == (2, 3, (2, 3), (7,))
    assert (quick.out, ReproduceSettings(quick=True, out=Path("x")).out) == (Path("results/reproduce-quick"), Path("x"))
    full = ReproduceSettings(seeds=6)
    assert (full.at(9, 3), full.rates((1, 2, 3)), full.tuning((7, 8))) == (9, (1, 2, 3), (7, 8))
    assert (full.own_seeds, full.few_seeds, full.out) == (range(6), range(5), Path("results/reproduce"))
    assert (ReproduceSettings(seeds=5).seeds, ReproduceSettings(seeds=500).seeds, ReproduceSettings().seeds) == (
        5,
        500,
        10,
    )
    assert [q.slug for q in QUESTIONS[2:4]] == ["tab-2b-9", "fig-3"]


@pytest.mark.slow
def test_quick_run(tmp_path, capsys):
    """All questions, small: a report with every one of them."""
    assert main(["run", "--quick", "--out", str(tmp_path)]) == 0
    assert "A quick run" in (tmp_path / "report.md").read_text()
    rows = json.loads((tmp_path / "reproduction.json").read_text())["rows"]
    assert {row["id"] for row in rows} == {q.id for q in QUESTIONS}


LARGER_TASK = "carry digits=2"


def test_a_start_ends_in_its_band(monkeypatch):
    asked = []

    def warm_start(team, task, params, seed, how):
        asked.append((seed, how))
        return params, None

    monkeypatch.setattr(training, "warm_start", warm_start)
    start_of.__wrapped__(LARGER_TASK, False, 3, 0.25, 2)
    ((seed, how),) = asked
    assert (seed, how.low, how.high) == (2003, 0.25, 0.35)
    assert (how.prompts, how.learning_rate, how.smoothing, how.every, how.batch) == (512, 3e-3, 0.15, 50, 32)


@pytest.mark.parametrize(("same", "prompts"), [(True, 64 // 8), (False, 3 * 64 // 8)])
def test_sets_of_rollouts_are_those_of_a_schedule(monkeypatch, same, prompts):
    """A stage of three agents has 3 · 64 rollouts: in one set, or as large as each of three."""
    asked = []

    def backend(team, task, settings, sampling, **more):
        asked.append(sampling)

    def run_stage(backend, state, order, schedule, key, stage, budget):
        asked.append((stage, budget))
        return state, []

    monkeypatch.setattr(networks, "language_backend", backend)
    monkeypatch.setattr(networks, "run_stage", run_stage)
    way = Way("weights", "importance_weights", same_sets=same)
    run = Run(way, LARGER_TASK, seed=0, stages=2, rollouts=64)
    list(training.stages_of(run, SimpleNamespace(params=())))
    sampling, *stages = asked
    assert (sampling.prompts, sampling.group) == (prompts, 8)
    assert stages == [(0, 192), (1, 192)]


@pytest.mark.parametrize(("method", "sets"), [("teamtr", 3), ("no_resampling", 1)])
def test_one_network_is_updated_as_often_as_there_are_roles(monkeypatch, method, sets):
    """Three updates of a stage, all of the one network, and the rollouts that three networks have."""
    found = training.set_up(Run(Way("", method, shared=True), LARGER_TASK, seed=0, stages=1, rollouts=64))
    assert (found.team.agents, found.budget, found.sampling.prompts) == (1, 3 * 64, 3 * 64 // sets // 8)
    asked = []

    def run_stage(backend, state, order, schedule, key, stage, budget):
        asked.append((backend.agents, [int(order(np.ones(3, bool), lambda: None, None)) for _ in range(3)]))
        return state, []

    monkeypatch.setattr(networks, "run_stage", run_stage)
    run = Run(Way("", method, shared=True), LARGER_TASK, seed=0, stages=1, rollouts=64)
    list(training.stages_of(run, SimpleNamespace(params=())))
    assert asked == [(3, [0, 0, 0])]


@pytest.mark.parametrize(
    ("method", "order", "first", "agents"),
    [("teamtr", "fixed", 0, 3), ("teamtr", "reverse", 2, 3), ("single", "reverse", 0, 3), ("lone", "reverse", 0, 1)],
)
def test_both_programs_set_a_training_up_alike(tmp_path, method, order, first, agents):
    """Who is first, unless the method says it; a stage has the rollouts of an update for each role, whoever takes it."""
    ours = training.set_up(Run(Way("", method, order=order), LARGER_TASK, seed=0, stages=1, rollouts=64))
    theirs = set_up(
        Train(tmp_path, "carry", ("digits=2",), method, order, prompts=8, group=8, test_prompts=2, probe_prompts=0)
    )
    for found in (ours, theirs):
        assert int(found.order(np.ones(agents, bool), lambda: None, None)) == first
        assert (found.team.agents, found.budget, found.method.lone) == (agents, 3 * 64, method == "lone")
        assert found.sampling.prompts * found.sampling.group * found.method.schedule.draws(agents) == 3 * 64
