"""From runs to data to what is said: every question of `experiments/reproduce` on small made-up runs, its numbers by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import t as student

from experiments.reproduce import runs
from experiments.reproduce.question import ReproduceSettings
from experiments.reproduce.questions import (
    ablation,
    cost,
    dynamics,
    monitor,
    replacement,
    scaling,
    shared,
    shifts,
    teams,
    tied,
    tied_tables,
    weights,
)
from experiments.reproduce.statistics import mean, p_value, paired
from experiments.reproduce.training import Run, Way
from teamtr_jax.intervals import Interval

SEEDS = range(5)


def a_run(values=(0.5, 0.6), stages=1, seconds=(), **columns):
    """A run of two updates a stage; columns are given update by update."""
    updates = len(next(iter(columns.values()))) if columns else 2 * stages
    kept = {"stage": [k * stages // updates for k in range(updates)], **{name: list(x) for name, x in columns.items()}}
    return {"values": list(values), "stage_seconds": list(seconds), "columns": kept}


@pytest.fixture
def settings(tmp_path):
    return ReproduceSettings(out=tmp_path, seeds=5)


def answering(monkeypatch, module, of, rate=None):
    """`trained` and `tuned` of a question replaced: runs are `of(run, seed)`, tuned ones of this rate; what was asked."""
    asked = SimpleNamespace(trained=[], tuned=[])

    def trained(settings, jobs, seeds=None):
        seeds = settings.own_seeds if seeds is None else seeds
        asked.trained.append((list(jobs), list(seeds)))
        found = {}
        for job in jobs:
            found.setdefault(job.way.name, []).extend(of(job, seed) for seed in seeds)
        return found

    def tuned(settings, jobs, *more):
        asked.tuned.append((list(jobs), *more))
        record = [
            {"way": job.way.name, "rates": [0.1, rate], "ends": [[0.1, 0.2], [0.3, 0.4]], "chosen": rate, "seeds": [7]}
            for job in jobs
        ]
        return [runs.replace(job, way=runs.replace(job.way, learning_rate=rate)) for job in jobs], record

    monkeypatch.setattr(module, "trained", trained)
    if hasattr(module, "tuned"):
        monkeypatch.setattr(module, "tuned", tuned)
    return asked


def by(findings):
    return {x.question: x for x in findings}


def t_interval(x):
    """Mean and 95 % interval of Student's t, written apart."""
    x = np.asarray(x, float)
    half = student.ppf(0.975, len(x) - 1) * np.sqrt(((x - x.mean()) ** 2).sum() / (len(x) - 1) / len(x))
    return pytest.approx((x.mean(), x.mean() - half, x.mean() + half))


# ---------------------------------------------------------------------------------------------------------- what they share


def test_what_runs_are_reduced_to():
    one = a_run((0.25, 0.5), 2, **{
        "regression": [1, 0, 0, 0], "improvement": [-0.3, 0.1, 0.2, -0.1], "sampled.tokens": [10, 11, 12, 13],
        "resampled": [1, 0, 1, 1], "rollouts": [5, 0, 6, 7],
    })  # fmt: skip
    assert runs.by_stage(one, "improvement").tolist() == [[-0.3, 0.1], [0.2, -0.1]]
    assert runs.regressions(one) == 25.0
    assert runs.loss_of(one) == pytest.approx(100 * (0.3 + 0.1) / 4)
    assert shared.tokens_of(one) == 10 + 12 + 13
    assert shared.rollouts_of(one) == 18
    assert shared.ends([one, a_run((0.1, 0.75))]) == [50.0, 75.0]
    assert shared.thousands([1000, 2500]) == "1.8k"
    assert shared.thousands([1000, 2498]) == "1.7k"


def test_intervals_by_hand():
    """Three numbers with mean 2 and standard deviation 1: ± 4.3027/√3."""
    found = mean([1.0, 2.0, 3.0])
    assert (found.value, found.n) == (2.0, 3)
    assert found.high - 2 == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert 2 - found.low == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert str(found) == "2 [-0.484, 4.48]"
    pair = paired([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    assert pair[:4] == found[:4]
    assert p_value(pair) == pytest.approx(2 * student.sf(2 * math.sqrt(3), 2))
    assert paired([1.0, 2.0], [0.0, 1.0]) == Interval(1.0, 1.0, 1.0, 0.0, 2)
    assert [p_value(paired(*x)) for x in (([1.0, 2.0], [0.0, 1.0]), ([1.0], [0.0]))] == [None, None]
    assert mean([]) == Interval(0.0, -math.inf, math.inf, math.inf, 0)


# ------------------------------------------------------------------------------------------------------------------ Tab 2b, 9


def test_ablation(monkeypatch, settings):
    level = {way.name: k for k, way in enumerate(ablation.WAYS)}

    def of(job, seed):
        extra = 0.0 if job.way.learning_rate == 0.02 else 0.1 if job.way.learning_rate == ablation.LARGE else 0.2
        end = 0.5 - 0.01 * level[job.way.name] * (1 + 0.1 * seed) - extra
        return a_run((0.4 + 0.01 * seed, end), **{
            "regression": [1, 0, 0, 0], "sampled.tokens": [10, 10, 10, 10 + seed], "resampled": [1, 0, 0, 1],
            "rollouts": [3, 0, 0, 4],
        })  # fmt: skip

    asked = answering(monkeypatch, ablation, of, 0.02)
    data = ablation.collect(settings)
    assert [len(jobs) for jobs, _ in asked.trained] == [15, 15, 5]
    assert [{job.way.learning_rate for job in jobs} for jobs, _ in asked.trained] == [{0.02}, {0.02}, {ablation.LARGE}]
    assert {job.way.name for job in asked.trained[2][0]} == {"full", *ablation.FRAIL}
    assert all(seeds == list(SEEDS) for _, seeds in asked.trained)
    assert {(job.task, job.stages, job.rollouts, job.start) for job in asked.tuned[0][0]} == {
        ("chain switches=3", 30, 128, 0.5)
    }
    assert data["seeds"] == list(SEEDS)
    assert data["start"] == pytest.approx([40, 41, 42, 43, 44])
    assert data["end"]["no clip"] == pytest.approx([50 - 14 * (1 + 0.1 * s) for s in SEEDS])
    assert data["end_at_large_rate"]["full"] == pytest.approx([40] * 5)
    assert data["regressions"]["full"] == [25.0] * 5
    assert data["rollouts"]["no clip"] == [7.0] * 5
    assert data["tokens"]["full"] == [20, 21, 22, 23, 24]
    said = by(ablation.findings(data))
    assert len(said) == 14 + 4
    x = said["Does 'no clip' end below the full method, each at its best rate?"]
    assert x.interval[:3] == t_interval([-14 * (1 + 0.1 * s) for s in SEEDS])
    assert (x.ours, x.paper, x.verdict) == (f"{x.interval} points", "-3.6 points", "agrees in sign")
    x = said["Is it within 1.2 points of the full method with 'order reverse'?"]
    assert (x.paper, x.verdict) == ("-1.2 points", "disagrees")
    assert (
        said["Does 'no resampling, same sets' end below the full method, each at its best rate?"].paper
        == "-17.0 points"
    )
    x = said[f"Does 'δ = .1' end below the full method at a large rate, {ablation.LARGE:g}?"]
    assert x.interval[:3] == t_interval([-10 * (1 + 0.1 * s) for s in SEEDS])
    data["end_at_one_rate"]["no clip"] = [x + 3 for x in data["end"]["no clip"]]  # another number than at its best rate
    heads, lines = ablation.table(data)
    full, last = lines[0], lines[-1]
    assert len(heads) == len(full) == 11
    assert full[:5] == ["full", mean([50] * 5), "", "", "0.02"]
    assert full[5:7] == ["", "15 to 35"]
    assert (full[7], *full[8:]) == (mean([25] * 5), "0.0k", "0.0k", 88.1)
    assert last[0] == "no clip"
    assert last[2][:3] == t_interval([-14 * (1 + 0.1 * s) for s in SEEDS])
    assert last[3] == f"{p_value(last[2]):.2g}"
    assert last[5][:3] == t_interval([3 - 14 * (1 + 0.1 * s) for s in SEEDS])


# --------------------------------------------------------------------------------------------------------------------- Tab 6


def test_cost(monkeypatch, settings):
    """Seconds of the stages from the third on; ratios are paired by seed, in %, the monitor's share is of the whole."""

    def of(job, seed):
        slow = {cost.FULL: 1.5, cost.BLIND: 1.2 + 0.05 * seed}.get(job.way.name, 1.0)
        tokens = 1100 if job.way.name == cost.FULL else 1000 + 10 * seed if job.way.name in cost.DRIVEN else 1000
        last = 100.0 if job.way.name == cost.SAME else slow
        return a_run((0.2, 0.3 + 0.01 * seed), 2, (99.0, 98.0, slow, slow + 0.1 * seed, last),
                     **{"sampled.tokens": [tokens, 0], "resampled": [1, 1], "rollouts": [6, 0]})  # fmt: skip

    asked = answering(monkeypatch, cost, of)
    data = cost.collect(settings)
    (jobs, seeds), = asked.trained  # fmt: skip
    assert seeds == list(SEEDS)
    assert {(job.task, job.stages, job.rollouts, job.start) for job in jobs} == {("carry digits=2", 12, 256, 0.25)}
    assert [job.way for job in jobs] == list(cost.WAYS)
    assert data["seconds"][cost.FULL][2] == [1.5, 1.7, 1.5]
    assert data["start"][cost.FULL] == [20.0] * 5
    assert data["end"][cost.FULL] == pytest.approx([30, 31, 32, 33, 34])
    assert data["rollouts"][cost.FULL] == [6.0] * 5
    said = cost.findings(data)
    tokens, wall, same_tokens, same_wall, watch, *driven = said
    assert tokens.question == "How much more tokens does a stage of TeamTR take than a naive one, at equal rollouts?"
    assert tokens.interval[:3] == t_interval([10.0] * 5)
    assert (tokens.paper, tokens.verdict) == ("+11.1 %", "disagrees: less than the paper's")
    assert wall.interval.value == pytest.approx(50)
    assert wall.paper == "+12 %"
    assert same_tokens.interval.value == pytest.approx(10)
    assert same_wall.interval[:3] == t_interval([100 * (1.5 / (1 + 0.1 * s) - 1) for s in SEEDS])
    assert watch.question == "Which share of a stage's time is the KL monitor?"
    assert watch.interval[:3] == t_interval([100 * (1 - (1.2 + 0.05 * s) / 1.5) for s in SEEDS])
    assert (watch.ours, watch.paper) == (f"{watch.interval} %", "3.2 %")
    assert [x.verdict for x in driven] == ["ours alone: holds"] * 3
    fewer = mean([100 * ((1000 + 10 * s) / 1100 - 1) for s in SEEDS])
    assert driven[0].ours == f"0 [0, 0] points, tokens {fewer} %"
    _, lines = cost.table(data)
    named = {line[0]: line for line in lines}
    assert named[cost.NAIVE][3] == named[cost.NAIVE][5] == ""
    assert named[cost.FULL][1:4] == ["0.0k", "1.1k", f"{mean([100 * (1100 / 1000 - 1)] * 5)} %"]
    assert named[cost.FULL][4] == "1.50 [1.50, 1.55]"  # fifteen stages: ten of 1.5, and 1.5, 1.6, …, 1.9
    assert named[cost.FULL][6] == mean([20.0] * 5)
    assert named[cost.FULL][7] == mean(data["end"][cost.FULL])


# ---------------------------------------------------------------------------------------------------------------- Fig 3 and 4


def test_regressions(monkeypatch, settings):
    level = {"TeamTR": 0, "DAPO": 1, "GRPO": 2, "PPO": 3}

    def of(job, seed):
        k = level[job.way.name]
        drop = 0.2 if job.way.learning_rate == dynamics.LARGE else 0.0
        return a_run((0.5, 0.9 - 0.1 * k + 0.01 * seed - drop), 2, **{
            "regression": [1] * k + [0] * (4 - k), "improvement": [-0.01 * k * (1 + seed), 0.5, 0.5, 0.5],
            "sampled.tokens": [1000] * 4, "resampled": [1, 1, 0, 0], "rollouts": [500, 0, 0, 0],
        })  # fmt: skip

    asked = answering(monkeypatch, dynamics, of, 0.02)
    data = dynamics.collect_regressions(settings)
    assert [{job.way.learning_rate for job in jobs} for jobs, _ in asked.trained] == [{0.02}, {dynamics.LARGE}]
    assert [job.way.name for job in asked.tuned[0][0]] == list(level)
    assert data["rate"] == dynamics.LARGE
    assert data["regressions"] == {name: [25.0 * k] * 5 for name, k in level.items()}
    assert data["loss"]["PPO"] == pytest.approx([100 * 0.03 * (1 + s) / 4 for s in SEEDS])
    assert data["curve"]["DAPO"][1] == pytest.approx([50, 81])
    assert data["curve_at_one_rate"]["DAPO"][1] == pytest.approx([50, 61])
    said = by(dynamics.regression_findings(data))
    assert len(said) == 12
    assert said["Do more updates of sequential PPO make J smaller than of TeamTR?"].interval[:3] == (75, 75, 75)
    x = said["Does an update of sequential GRPO lose more than one of TeamTR, on average?"]
    assert x.interval[:3] == t_interval([0.5 * (1 + s) for s in SEEDS])
    assert (x.paper, x.verdict) == ("yes", "agrees in sign")
    x = said["Does sequential DAPO end lower than TeamTR, each at its best rate?"]
    assert x.interval[:3] == pytest.approx((-10, -10, -10))
    assert x.verdict == "agrees in sign"
    assert (
        said[f"Does sequential DAPO end lower than TeamTR, all at rate {dynamics.LARGE:g}?"].verdict == "agrees in sign"
    )
    heads, lines = dynamics.regression_table(data)
    assert len(heads) == 8
    assert lines[3][0] == "PPO"
    assert lines[3][1] == mean([60, 61, 62, 63, 64])
    assert lines[3][2:5] == [mean([75] * 5), mean(data["loss"]["PPO"]), "0.02"]
    assert lines[3][5].value == pytest.approx(42)
    assert lines[3][6:] == ["0.5k", "2.0k"]


def test_tracking(monkeypatch, settings):
    """Outside: KL over two rounds above 1.01 δ; a violation is a certificate above the improvement, counted over updates."""
    share = {"TeamTR": 0, "DAPO": 1, "GRPO": 2, "PPO": 3}
    gain = np.array([0.1, 0.2, 0.3, 0.4])

    def of(job, seed):
        outside = share[job.way.name]
        kl = [0.0203] * outside + [0.0201] * (4 - outside)  # of two rounds: .01015 and .01005 against .0101
        wrong = np.array([0.1001, 0.2 + 1e-12, 0.05, 0.4]) if seed == 2 else gain / 2
        return a_run(
            (0.5, 0.6),
            2,
            kl=kl,
            improvement=gain,
            certificate_estimable=wrong,
            certificate=np.where(gain > 0.1, -gain, 0.0),
            certificate_paper=[-1.0] * 4,
        )

    answering(monkeypatch, dynamics, of, 0.02)
    data = dynamics.collect_tracking(settings)
    assert data["delta"] == 0.01
    assert data["outside"] == {name: [25.0 * k] * 5 for name, k in share.items()}
    assert data["violations"] == {
        "certificate_estimable": [0, 0, 1, 0, 0],
        "certificate": [0] * 5,
        "certificate_paper": [0] * 5,
    }
    assert data["certificates"][0]["improvement"] == gain.tolist()
    order, *rest = dynamics.tracking_findings(data)
    assert (order.ours, order.paper) == (
        "TeamTR 0 %, DAPO 25 %, GRPO 50 %, PPO 75 %",
        "TeamTR 2 %, DAPO 21 %, GRPO 44 %, PPO 60 %",
    )
    assert order.verdict == "agrees in order"
    said = by(rest)
    rho = said["Does S7 (estimable) track the exact improvement (Spearman ρ)?"]
    ranks = 1 - 6 * (1 + 1 + 4) / (4 * 15)  # seed 2: the ranks 2, 3, 1, 4 for 1, 2, 3, 4
    assert rho.interval[:3] == t_interval([1, 1, ranks, 1, 1])
    assert said["Does the least penalty (oracle) track the exact improvement (Spearman ρ)?"].interval[:3] == (
        -1,
        -1,
        -1,
    )
    assert said["Does P3.4 (the paper's) track the exact improvement (Spearman ρ)?"].interval[:3] == (0, 0, 0)
    wrong = said["How often is S7 (estimable) above the exact improvement?"]
    assert (wrong.ours, wrong.paper, wrong.verdict) == ("1 of 20", "0 %", "disagrees")
    assert wrong.interval.value == 0.05
    right = said["How often is P3.4 (the paper's) above the exact improvement?"]
    assert (right.ours, right.verdict) == ("0 of 20", "agrees")
    _, lines = dynamics.tracking_table(data)
    assert lines[1] == ["DAPO", mean([25.0] * 5), "", "", "", "21"]
    assert lines[4][0] == "TeamTR, certificate S7 (estimable)"
    assert lines[4][3:] == [mean([100.0] * 5), "1 of 20", 0.73]
    assert lines[5][3] == lines[6][3] == mean([0.0] * 5)  # a certificate of 0 is not positive


# -------------------------------------------------------------------------------------------------------------------- Tab 7, 8


def test_monitor(monkeypatch, settings):
    """Decisions near δ (within a quarter of it) are pooled over the ways, by seed; 1024 rollouts are of TeamTR alone."""
    delta = monitor.WAYS[0].delta

    def of(job, seed):
        big = job.rollouts == monitor.SIZES[1]
        k1 = np.array([1.2, 0.8, 1.3, 0.7]) * delta  # the first two are near
        kl = np.array([1.2, 1.1, 0.1, 0.1]) * delta  # the second is above, its monitor is not
        columns = {"kl": kl, "watch_k1": k1, "watch_k3": kl}
        for kind in monitor.MONITORS:
            columns |= {
                f"watch_{kind}_flips_0.25": [0.4, 0.2 + 0.01 * seed, 9, 9],
                f"watch_{kind}_flips_0.5": [0.1 + 0.2 * big, 0.0, 9, 9],
            }
        columns |= {name: [-0.02, 0.04, 0, 0] for name in monitor.ZETA} | {
            "surrogate_intermediate": [0.1, -0.02, 0, 0.04 + 0.04 * big]
        }
        return a_run((0.5, 0.6), 2, **columns)

    asked = answering(monkeypatch, monitor, of)
    data = monitor.collect(settings)
    shapes = [{(job.task, job.stages, job.rollouts, job.start, job.watch) for job in jobs} for jobs, _ in asked.trained]
    task = "chain switches=2 rounds=1 message_length=3"
    assert shapes == [{(task, 30, 128, 0.5, ("monitor",))}, {(task, 15, 1024, 0.5, ("monitor",))}]
    assert [job.way.name for job in asked.trained[1][0]] == ["TeamTR"]
    assert data["zeta"]["naive"] == {key: pytest.approx([1.5] * 5) for key in monitor.ZETA}
    assert data["gain"]["naive"] == pytest.approx([3.0] * 5)
    assert data["updates"] == {"128": 4 * 3 * 5, "1024": 4 * 5}
    assert data["flips"]["k1, 128"]["0.25"][2] == pytest.approx([0.4, 0.22] * 3)
    assert data["flips"]["k1, 128"]["1"] == [[0.0, 1.0] * 3] * 5
    assert data["flips"]["k1, 1024"]["1"] == [[0.0, 1.0]] * 5
    assert data["flips"]["k3, 1024"]["0.5"] == [[pytest.approx(0.3), 0.0]] * 5
    assert data["flips"]["k3, 1024"]["1"] == [[0.0, 0.0]] * 5
    said = by(monitor.findings(data))
    x = said["How many decisions near δ does k1 on 25 % of the tokens of 128 rollouts flip?"]
    assert x.interval[:3] == t_interval([30 + 0.5 * s for s in SEEDS])
    assert (x.paper, x.verdict) == ("5.7 %", "disagrees: more than the paper's")
    x = said["Does k3 on a quarter of the tokens of 1024 rollouts flip more decisions than on half of them?"]
    assert x.interval[:3] == t_interval([15 + 0.5 * s for s in SEEDS])
    x = said["Is ζ smaller than the surrogate that it is an error of, naive, mean over updates?"]
    assert x.interval[:3] == pytest.approx((1.5, 1.5, 1.5))
    assert x.verdict == "ours alone: holds"
    heads, lines = monitor.table(data)
    assert all(len(line) == len(heads) for line in lines)
    assert lines[0][:2] == ["ζ, TeamTR", mean(data["gain"]["TeamTR"])]
    named = {line[0]: line for line in lines}
    line = named["k1 on 100 % of the tokens, 128 rollouts"]
    assert line[-4:] == [mean([50.0] * 5), "the exact KL", "30 of 60", 0.0]
    assert named["k1 on 25 % of the tokens, 1024 rollouts"][-3:] == ["that on all tokens", "10 of 20", 5.7]


def test_seeds_without_updates_near_the_threshold_say_nothing():
    data = {"flips": {"k1, 128": {"0.25": [[0.5, 0.25], [], [1.0]]}}}
    assert monitor._flips(data, "k1, 128", 0.25).tolist() == [37.5, 100.0]


# --------------------------------------------------------------------------------------------------------------- Fig 6, Tab 11


def test_replacement(monkeypatch, settings):
    """Courses are means over the replaced agents, in %; the shock is what is lost at once, against no replacement."""
    asked = []

    def made(settings, jobs):
        asked.extend(jobs)
        return [
            {"courses": {
                "no replacement": [[0.8, 0.8, 0.8]], "from scratch": [[0.4, 0.5, 0.6]],
                "direct": [[0.6, 0.7, 0.8], [0.4 + 0.02 * s, 0.5, 0.8]], "aligned": [[0.7, 0.8, 0.9], [0.7, 0.8, 0.9]],
            }, "kl": {"direct": [1.0, 2.0], "aligned": [0.02, 0.04]}, "inside": [1.0, 0.0]}
            for s in range(len(jobs))
        ]  # fmt: skip

    monkeypatch.setattr(replacement, "made", made)
    data = replacement.collect(settings)
    assert [(job.seed, job.after, job.radius, job.run.stages, job.run.rollouts, job.run.start) for job in asked] == [
        (s, 8, 0.05, 20, 256, 0.45) for s in SEEDS
    ]
    assert {job.run.way for job in asked} == {Way("TeamTR", "teamtr")}
    assert (data["after"], data["radius"], data["inside"]) == (8, 0.05, [0.5] * 5)
    assert data["courses"]["direct"][1] == pytest.approx([51, 60, 80])
    assert data["kl"] == {"direct": [1.5] * 5, "aligned": pytest.approx([0.03] * 5)}
    said = by(replacement.findings(data))
    direct = said["Does a team lose at a swap, direct?"]
    assert direct.interval[:3] == t_interval([30 - s for s in SEEDS])
    assert (direct.paper, direct.verdict) == ("18.3 points", "agrees in sign")
    assert said["Does a team lose at a swap, aligned?"].interval[:3] == pytest.approx((10, 10, 10))
    less = said["Is the shock smaller with alignment?"]
    assert less.interval[:3] == t_interval([-20 + s for s in SEEDS])
    assert less.verdict == "agrees in sign"
    x = said["Where is the team after training, against before the swap, aligned?"]
    assert x.interval[:3] == pytest.approx((12.5, 12.5, 12.5))
    assert (x.paper, x.verdict) == ("+27 %", "agrees in sign")
    assert said["Where is the team after training, against before the swap, direct?"].paper == "-18 %"
    assert said["Does an aligned newcomer end above a direct one?"].interval[:3] == pytest.approx((10, 10, 10))
    heads, lines = replacement.table(data)
    assert heads[5] == "after 8 stages"
    assert lines[0][:4] == ["no replacement", "", mean([80.0] * 5), ""]
    assert lines[1][0] == "direct"
    assert lines[1][1] == mean([1.5] * 5)
    assert lines[1][3][:3] == t_interval([30 - s for s in SEEDS])
    assert lines[1][4].value == pytest.approx(60)
    assert lines[1][5:] == [mean([80.0] * 5), 18.3]
    assert lines[2][6] == 2.9


# ------------------------------------------------------------------------------------------------------------- Tab 2a and Fig 2


def test_scaling(monkeypatch, settings):
    """Sums over the three updates of a stage, means over two stages, in %; TeamTR's gaps are half, everything grows as n²."""

    def of(job, seed):
        n = int(job.task.split("=")[1])
        half = 0.5 if job.way.name == "TeamTR" else 1.0
        size = 1e-3 * n**2 * (1 + 0.1 * seed) * half
        return a_run(
            (0.5, 0.4 + 0.2 * (1 - half)),
            2,
            seq_minus_stale=[-size, size, 0, size, -2 * size, 0],
            occupancy_tv_stale=[0, size, 0, 0, 3 * size, 0],
            improvement=[size, -size, 0, 3 * size, 0, 0],
            surrogate_in_use=[0, size, 0, size, size, 0],
        )

    asked = answering(monkeypatch, scaling, of)
    data = scaling.collect(settings)
    assert data["sizes"] == [2, 3, 4, 5, 6, 8]
    assert [jobs[0].task for jobs, _ in asked.trained] == [
        f"{t} agents={n}" for t in ("chain", "quota") for n in data["sizes"]
    ]
    assert {(job.stages, job.rollouts, job.start) for jobs, _ in asked.trained for job in jobs} == {(10, 256, 0.45)}
    found = {key: x[0][0] for key, x in data["values"]["chain"]["naive"].items()}
    size = 4e-3  # n = 2, seed 0
    assert found == pytest.approx({
        "delta_stale": 100 * (2 * size + 3 * size) / 2, "d_occ": (size + 3 * size) / 2,
        "gap_in_use": 100 * (3 * size + 3 * size) / 2, "signed": 100 * (size + size) / 2, "accuracy": 40.0,
        "instability": 100 * size / 6,
    })  # fmt: skip
    said = by(scaling.findings(data))
    assert len(said) == 2 * (5 + 5)
    power = said["Complements: with which power of n does Δ_stale grow, naive?"]
    assert power.interval[:3] == pytest.approx((2, 2, 2))
    assert (power.paper, power.verdict) == (
        "Δ_stale: 1.94 quoted, 2.29 by least squares on its rows",
        "agrees in exponent",
    )
    assert said["Substitutes: with which power of n does D_occ grow, TeamTR?"].verdict == "disagrees in exponent"
    size = 64e-3
    for question, full in {
        "is Δ_stale larger": 250, "is D_occ larger": 2, "is Σ|gap in use| larger": 300, "is instability larger": 100 / 6,
    }.items():  # fmt: skip
        x = said[f"Complements: at n = 8, {question} on cached rollouts than on fresh ones?"]
        assert x.interval[:3] == t_interval([full * size * (1 + 0.1 * s) / 2 for s in SEEDS])
        assert x.verdict == "agrees in sign"
        unit = {"is D_occ larger": "", "is instability larger": " points"}.get(question, " %")
        assert x.ours == f"{x.interval}{unit}"
    x = said["Complements: at n = 8, is J at the end lower on cached rollouts than on fresh ones?"]
    assert (x.interval.value, x.verdict) == (pytest.approx(-10), "agrees in sign")
    heads, lines = scaling.table(data)
    assert all(len(line) == len(heads) for line in lines)
    first, last = lines[6], lines[11]
    assert first[:2] == ["complements, naive", 2]
    assert first[2] == str(mean([1.0 * (1 + 0.1 * s) for s in SEEDS]))
    assert first[-4:] == [0.08, 0.05, 82.1, 1.8]
    assert last[1] == 8
    assert last[-4:] == [1.89, 1.31, 58.7, 15.8]
    assert lines[7][-2:] == ["", ""]


def test_gaps(monkeypatch, settings):
    """Three updates a stage; the first has no gap. Mean over the stages, by seed."""

    def of(job, seed):
        half = 0.5 if job.way.name == "TeamTR" else 1.0
        gap = np.array([9.0, 0.01, -0.02 * (1 + seed), 9.0, -0.03, 0.04]) * half
        return a_run((0.5, 0.6), 2, improvement=gap + 1, surrogate_in_use=[1.0] * 6)

    asked = answering(monkeypatch, scaling, of)
    data = scaling.collect_gaps(settings)
    assert [jobs[0].task for jobs, _ in asked.trained] == ["chain agents=3", "quota agents=3"]
    assert data["gaps"]["chain"]["naive"][1] == [pytest.approx([0.01, 0.04]), pytest.approx([0.03, 0.04])]
    second, third = 2.0, [1 * (1 + s) + 2 for s in SEEDS]
    later, fresh, *_ = scaling.gap_findings(data)
    assert (
        later.question
        == "Complements: on cached rollouts, is the gap of the third update larger than that of the second?"
    )
    assert later.interval[:3] == t_interval([x - second for x in third])
    assert fresh.interval[:3] == t_interval([(second + x) / 2 for x in third])
    assert (fresh.ours, fresh.paper, fresh.verdict) == (f"{fresh.interval} %", "yes", "agrees in sign")
    _, lines = scaling.gap_table(data)
    assert lines[1] == ["complements, naive", str(mean([second] * 5)), str(mean(third))]
    assert lines[0][0] == "complements, TeamTR"


# --------------------------------------------------------------------------------------------------------------------- Fig 5


def test_shifts(monkeypatch, settings):
    """Updates on both sides are pooled over the methods, by seed; seeds without one of them are left out of the intervals."""

    def of(job, seed):
        high = job.way.name == "PPO" and seed != 4
        kl = [0.0201, 0.0203 if high else 0.0201]
        return a_run(
            (0.5, 0.6), 1, kl=kl, **{f"watch_rank_{r + 1}": [r + 0.1 * seed, 10.0 * r + seed] for r in range(4)}
        )

    asked = answering(monkeypatch, shifts, of)
    data = shifts.collect(settings)
    (jobs, _), = asked.trained  # fmt: skip
    assert {(job.task, job.stages, job.rollouts, job.start, job.watch) for job in jobs} == {
        ("chain symbols=4 switches=2", 12, 128, 0.4, ("ranks",))
    }
    assert {job.way.learning_rate for job in jobs} == {3e-3}
    assert data["counts"] == {"TeamTR": [10, 0], "DAPO": [10, 0], "GRPO": [10, 0], "PPO": [6, 4]}
    assert data["shift"]["outside"][4] is None
    assert data["shift"]["outside"][1] == [1.0, 11.0, 21.0, 31.0]
    inside = [(4 * (r + 0.1 * 1) + 3 * (10 * r + 1)) / 7 for r in range(4)]
    assert data["shift"]["inside"][1] == pytest.approx(inside)
    x = shifts.findings(data)[2]
    assert x.question == "Do logits of rank 3 move further in updates outside the region than inside?"
    assert x.interval[:3] == t_interval([20 + s - (4 * (2 + 0.1 * s) + 3 * (20 + s)) / 7 for s in range(4)])
    assert x.interval.n == 4
    heads, lines = shifts.table(data)
    assert heads == ["E|Δz|", "rank 1", "rank 2", "rank 3", "rank 4", "updates"]
    assert lines[1][0] == "outside"
    assert lines[1][1] == mean([0.0, 1.0, 2.0, 3.0])
    assert lines[0][-1] == "TeamTR 10, DAPO 10, GRPO 10, PPO 6"
    assert lines[1][-1] == "TeamTR 0, DAPO 0, GRPO 0, PPO 4"


# --------------------------------------------------------------------------------------------------------------------- Tab 1


def test_teams(monkeypatch, settings):
    """Means over the tasks, then intervals over seeds; the gain is the end less the start."""
    level = {"TeamTR": 0.5, "stale": 0.4, "importance weights": 0.5, "single agent": 0.6}

    def of(job, seed):
        easy = 0.1 * job.task.startswith("chain ")
        start = 0.45 if job.way.name == "single agent" else 0.2
        return a_run((start, level[job.way.name] + easy + 0.01 * seed * (job.way.name == "stale")), **{
            "sampled.tokens": [100, 100], "resampled": [1, 0], "rollouts": [2000, 0],
        })  # fmt: skip

    asked = answering(monkeypatch, teams, of, 0.003)
    data = teams.collect(settings)
    assert list(data["tasks"]) == list(teams.TASKS)
    assert [(jobs[0].task, jobs[0].start) for jobs, *_ in asked.tuned] == list(teams.TASKS.values())
    exact = ["chain", "quota", "copy", "parity"]
    for name, (jobs, rates, seeds), (_, used) in zip(teams.TASKS, asked.tuned, asked.trained, strict=True):
        sizes = (20, 128, (1e-3, 3e-3, 1e-2)) if name in exact else (10, 256, (1e-3, 3e-3))
        assert {(job.stages, job.rollouts) for job in jobs} == {sizes[:2]}
        assert (rates, seeds, used) == (sizes[2], (1000,), list(SEEDS))
        assert data["tasks"][name]["exact"] == (name in exact)
    assert data["tasks"]["chain"]["end"]["TeamTR"] == pytest.approx([60.0] * 5)
    assert data["tasks"]["chain"]["start"]["single agent"] == pytest.approx([45.0] * 5)
    assert data["tasks"]["quota"]["tokens"]["stale"] == [100.0] * 5
    assert data["tuning"][1]["way"] == "chain, stale"
    ends, gains, stale, importance = teams.findings(data)
    assert ends.question == "Does the team end above the single agent, mean over 9 tasks?"
    assert ends.interval[:3] == pytest.approx((-10, -10, -10))
    assert (ends.paper, ends.verdict) == ("+7.1 %", "disagrees in sign")
    assert gains.interval[:3] == pytest.approx((15, 15, 15))
    assert gains.verdict == "agrees in sign"
    assert stale.question == "Does TeamTR end above the team trained with stale rollouts, mean over 9 tasks?"
    assert stale.interval[:3] == t_interval([10 - s for s in SEEDS])
    assert importance.question == "Does TeamTR end above the team trained with importance weights, mean over 9 tasks?"
    assert importance.verdict == "open: the interval holds 0"
    _, lines = teams.table(data)
    assert len(lines) == 9 * 4 + 4
    assert lines[0][:3] == ["chain", "exact J", "TeamTR"]
    assert lines[0][3].value == pytest.approx(20)
    assert lines[0][5:] == ["", "2.0k", "0.1k", "0.003"]
    assert lines[3][5].value == pytest.approx(-10)
    assert lines[16][1] == "held-out"
    assert lines[-4][:4] == ["**mean over tasks**", "", "TeamTR", ""]
    assert lines[-4][4].value == pytest.approx(50 + 10 / 9)
    assert lines[-1][5].value == pytest.approx(-10)


def test_a_quick_run_has_three_tasks(monkeypatch, tmp_path):
    asked = answering(
        monkeypatch,
        teams,
        lambda job, seed: a_run(**{"sampled.tokens": [1, 1], "resampled": [1, 0], "rollouts": [1, 0]}),
        0.003,
    )
    data = teams.collect(ReproduceSettings(out=tmp_path, quick=True))
    assert list(data["tasks"]) == ["chain", "quota", "copy"]
    assert {job.stages for jobs, _ in asked.trained for job in jobs} == {2}
    assert data["seeds"] == [0, 1]


# -------------------------------------------------------------------------------------------------------------------- Tab 10


def test_weights(monkeypatch, settings):
    """Statistics before each of five updates, means over the stages; the KL of the path is that of the updates before."""

    def of(job, seed):
        last = 0.21 - job.way.delta + 0.01 * seed  # .2 with the paper's radius
        ess = [1.0, 0.8, 0.6, 0.4, last, 1.0, 0.6, 0.4, 0.2, 0.0]
        columns = {f"sampled.{name}": [2.0 * x for x in ess] for name in weights.STATISTICS}
        return a_run((0.5, 0.6), 2, **columns | {"sampled.weight_ess": ess, "kl_stale": [1, 2, 3, 4, 5, 3, 4, 5, 6, 7]})

    asked = answering(monkeypatch, weights, of)
    data = weights.collect(settings)
    (jobs, _), = asked.trained  # fmt: skip
    assert [(job.way.name, job.way.delta, job.way.method, job.way.learning_rate) for job in jobs] == [
        (f"δ = {d:g}", d, "importance_weights", 1e-2) for d in (0.01, 0.1, 0.3)
    ]
    assert {(job.task, job.stages, job.rollouts, job.start) for job in jobs} == {
        ("chain agents=5 switches=3", 6, 256, 0.4)
    }
    one = data["values"]["δ = 0.1"]
    assert one["weight_ess"][2] == pytest.approx([1.0, 0.7, 0.5, 0.3, 0.065])
    assert one["weight_max"][0] == pytest.approx([2.0, 1.4, 1.0, 0.6, 0.11])
    assert one["path_kl"][0] == pytest.approx([0, 2, 5, 9, 14])
    *falls, end = weights.findings(data)
    assert falls[0].question == "Does ESS/B fall from update 2 to update 5, δ = 0.01?"
    assert falls[0].interval[:3] == t_interval([0.1 + 0.005 * s - 0.7 for s in SEEDS])
    assert (falls[0].paper, falls[0].verdict) == ("0.42 → 0.04", "agrees in sign")
    assert falls[0].ours == f"{mean([0.7] * 5)} → {mean([0.1 + 0.005 * s for s in SEEDS])}"
    assert end.question == "What is ESS/B at update 5 with the paper's radius, δ = 0.01?"
    assert end.interval[:3] == t_interval([0.1 + 0.005 * s for s in SEEDS])
    assert (end.paper, end.verdict) == ("0.04", "disagrees: more than the paper's")
    heads, lines = weights.table(data)
    assert len(heads) == len(lines[0]) == 9
    assert lines[1][:2] == ["δ = 0.01", 2]
    assert lines[1][2].value == pytest.approx(0.7)
    assert lines[1][7].value == pytest.approx(2)
    assert lines[1][8] == 0.42
    assert lines[0][8] == ""


# ---------------------------------------------------------------------------------------------------------------------- runs


def test_the_rate_with_the_best_mean_is_chosen(monkeypatch, tmp_path):
    """Not the one that a single seed likes best, nor the one that starts highest."""
    ends = {3e-4: [9, 0, 0], 1e-3: [4, 4, 4], 3e-3: [3, 5, 3], 1e-2: [0, 0, 0], 3e-2: [-5, 1, 8]}

    def made(settings, jobs):
        return [{"values": [-job.way.learning_rate, ends[job.way.learning_rate][job.seed - 1000]]} for job in jobs]

    monkeypatch.setattr(runs, "made", made)
    (chosen,), (record,) = runs.tuned(
        ReproduceSettings(out=tmp_path), [Run(Way("TeamTR", "teamtr"), "chain", 0, 2, 64)]
    )
    assert chosen.way.learning_rate == record["chosen"] == 1e-3
    assert record["ends"] == list(ends.values())


def test_rates_and_seeds_that_are_tried(monkeypatch, tmp_path):
    """Five rates and three seeds that no team is drawn from; a quick run tries the second and third, on one seed."""
    asked = []

    def made(settings, jobs):
        asked.append([(job.way.learning_rate, job.seed) for job in jobs])
        return [{"values": [0.0, job.way.learning_rate]} for job in jobs]

    monkeypatch.setattr(runs, "made", made)
    run = Run(Way("TeamTR", "teamtr"), "chain", 0, 2, 64)
    (chosen,), (record,) = runs.tuned(ReproduceSettings(out=tmp_path), [run])
    rates = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
    assert asked[0] == [(rate, seed) for rate in rates for seed in (1000, 1001, 1002)]
    assert chosen.way == Way("TeamTR", "teamtr", 3e-2)
    assert record == {
        "way": "TeamTR",
        "rates": rates,
        "ends": [[r] * 3 for r in rates],
        "chosen": 3e-2,
        "seeds": [1000, 1001, 1002],
    }
    runs.tuned(ReproduceSettings(out=tmp_path, quick=True), [run])
    assert asked[1] == [(1e-3, 1000), (3e-3, 1000)]
    found = runs.trained(ReproduceSettings(out=tmp_path), [run, runs.replace(run, way=Way("other", "ppo", 0.5))])
    assert {name: [x["values"][1] for x in each] for name, each in found.items()} == {
        "TeamTR": [3e-3] * 10,
        "other": [0.5] * 10,
    }
    assert asked[2] == [(rate, seed) for rate in (3e-3, 0.5) for seed in range(10)]
    assert len(runs.trained(ReproduceSettings(out=tmp_path), [run], [3, 4])["TeamTR"]) == 2


# ------------------------------------------------------------------------------------------------------------- what is trained


def ways(module):
    """Name → what differs from the defaults of a way."""
    plain = Way("", "")
    names = ("learning_rate", "delta", "order", "same_sets", "monitor", "measured")
    return {
        way.name: (way.method, {x: getattr(way, x) for x in names if getattr(way, x) != getattr(plain, x)})
        for way in module.WAYS
    }


def test_the_ways_to_train():
    """What each row of a table is, as its name says; δ = .01, rate .003, fixed order, exact monitor otherwise."""
    assert (Way("", "").delta, Way("", "").learning_rate, Way("", "").order, Way("", "").monitor) == (
        0.01,
        3e-3,
        "fixed",
        "exact",
    )
    assert ways(ablation) == {
        "full": ("teamtr", {}), "adaptive KL only": ("adaptive_kl", {}), "fixed KL only": ("fixed_kl", {}),
        "resample every 2nd": ("every_2", {}), "importance weights": ("importance_weights", {}),
        "no resampling": ("no_resampling", {}), "importance weights, same sets": ("importance_weights", {"same_sets": True}),
        "no resampling, same sets": ("no_resampling", {"same_sets": True}), "no trust region": ("no_trust_region", {}),
        "δ = .001": ("teamtr", {"delta": 0.001}), "δ = .1": ("teamtr", {"delta": 0.1}),
        "order reverse": ("teamtr", {"order": "reverse"}), "order random": ("teamtr", {"order": "random"}),
        "no group norm": ("no_group_norm", {}), "no clip": ("no_clip", {}),
    }  # fmt: skip
    assert ablation.LARGE == 0.03
    assert ways(dynamics) == {"TeamTR": ("teamtr", {}), "DAPO": ("dapo", {}), "GRPO": ("grpo", {}), "PPO": ("ppo", {})}
    slow = {"learning_rate": 1e-3}
    assert ways(cost) == {
        "TeamTR": ("teamtr", slow), "certificate-driven, shift ≤ 0.05": ("teamtr@0.05", slow),
        "certificate-driven, shift ≤ 0.07": ("teamtr@0.07", slow), "certificate-driven, shift ≤ 0.1": ("teamtr@0.1", slow),
        "naive, same sets": ("no_resampling", slow | {"same_sets": True}), "naive, same rollouts": ("no_resampling", slow),
        "TeamTR, monitor on 1/32": ("teamtr", slow | {"measured": 1 / 32}),
    }  # fmt: skip
    paper = {"monitor": "k1"}
    assert ways(monitor) == {
        "TeamTR": ("teamtr", paper), "naive": ("no_resampling", paper), "adaptive KL only": ("adaptive_kl", paper)
    }  # fmt: skip
    assert list(monitor.ZETA) == ["zeta", "zeta_ratio", "zeta_sampling", "zeta_normalisation", "zeta_clip"]
    assert ways(scaling) == {"TeamTR": ("teamtr", {}), "naive": ("no_resampling", {})}
    assert ways(teams) == {
        "TeamTR": ("teamtr", {}), "stale": ("no_resampling", {}), "importance weights": ("importance_weights", {}),
        "single agent": ("lone", {}),
    }  # fmt: skip


def test_tasks_of_the_teams():
    assert teams.TASKS == {
        "chain": ("chain switches=3", 0.5), "quota": ("quota agents=4", 0.45), "copy": ("copy", 0.4),
        "parity": ("parity shares=True", 0.5), "carry": ("carry digits=2", 0.15), "relay": ("relay keys=5", 0.3),
        "chain_sum": ("chain_sum", 0.1), "gcd": ("gcd max_value=30", 0.2),
        "spell_backward": ("spell_backward min_word_len=3 max_word_len=3", 0.15),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("module", "collect", "stages"),
    [(ablation, "collect", [3]), (cost, "collect", [4]), (dynamics, "collect_regressions", [3]), (monitor, "collect", [2, 3]),
     (scaling, "collect", [2]), (scaling, "collect_gaps", [2]), (tied, "collect", [3]),
     (shifts, "collect", [2]), (weights, "collect", [2])],
)  # fmt: skip
def test_a_quick_run_is_short(monkeypatch, tmp_path, module, collect, stages):
    class Enough(Exception):
        pass

    seen = []

    def trained(settings, jobs, seeds=None):
        seen.extend(jobs)
        if len({job.stages for job in seen}) == len(stages):
            raise Enough
        return {job.way.name: [] for job in jobs}

    answering(monkeypatch, module, None, 0.01)
    monkeypatch.setattr(module, "trained", trained)
    with pytest.raises(Enough):
        getattr(module, collect)(ReproduceSettings(out=tmp_path, quick=True))
    assert sorted({job.stages for job in seen}) == stages
    if collect == "collect" and module is scaling:
        assert scaling.paper.SCALING_N[: ReproduceSettings(out=tmp_path, quick=True).at(6, 3)] == (2, 3, 4)


def test_seeds_are_part_of_the_data(monkeypatch, settings):
    for module, collect in ((dynamics, "collect_regressions"), (scaling, "collect_gaps")):
        columns = {
            name: [0.0] * 6
            for name in ("regression", "improvement", "sampled.tokens", "resampled", "rollouts", "surrogate_in_use")
        }
        answering(monkeypatch, module, lambda job, seed, columns=columns: a_run((0.5, 0.6), 2, **columns), 0.01)
        data = getattr(module, collect)(settings)
        assert data["seeds"] == [0, 1, 2, 3, 4]


def test_a_swap(monkeypatch):
    """What a swap trains, in which order: the team; from there each way of replacing each agent, stage by stage."""
    run = Run(Way("TeamTR", "teamtr"), "chain", 7, 3, 64, 0.45)
    team = SimpleNamespace(
        agents=2, models=("A", "B"), layout=SimpleNamespace(encode_prompts=lambda x: np.array([[len(x[0])]]))
    )
    world = SimpleNamespace(team="world")
    probed = []

    def stages_of(run, state):
        params = state.params
        for k in range(run.stages):
            params += f"+{run.seed}.{k}"
            yield [], SimpleNamespace(params=params), 0.0

    def value_of(task, lone, params, seed):
        assert (task, lone, seed) == ("chain", False, 7)
        return float(len(params))

    def sample(team, params, prompts, key):
        probed.append((params, prompts.shape, int(prompts[0, 0])))
        return "probes"

    stubs = {
        "ground": lambda task, lone: (team, world, []), "settings_of": lambda run: "settings", "stages_of": stages_of,
        "start_of": lambda task, lone, seed, low, member=0: f"s{member}",
        "init_train_state": lambda team, params, settings: SimpleNamespace(params=params), "value_of": value_of, "sample": sample,
        "enumerated_policy": lambda world, params: params, "agent_params": lambda team, params, agent: f"{params}[{agent}]",
        "align": lambda team, params, agent, config, own, probes, how, seed: (f"~{own}", SimpleNamespace(inside=how.radius)),
        "replace_agent": lambda team, params, agent, config, its: (team, f"{agent}{config}{its}"),
        "swap_report": lambda team, before, after, agent: {"kl": len(after) + 100 * (before == "s0+7.0+7.1+7.2")},
    }  # fmt: skip
    for name, stub in stubs.items():
        monkeypatch.setattr(replacement, name, stub)
    swap = replacement.Swap(run, 2)
    assert swap.place == run.place.removesuffix(".json") + "-swap-2-0.05.json"
    assert (swap.task, swap.seed) == ("chain", 7)
    found = swap.work()
    grown = [0, len("+507.0"), len("+507.0+507.1")]

    def course(start):
        return [len(start) + more for more in grown]

    assert found == {
        "courses": {
            "no replacement": [course("s0+7.0+7.1+7.2")], "from scratch": [course("s1")],
            "direct": [course("0As1[0]"), course("1Bs1[1]")], "aligned": [course("0A~s1[0]"), course("1B~s1[1]")],
        },
        "kl": {"direct": [107, 107], "aligned": [108, 108]}, "inside": [0.05, 0.05],
    }  # fmt: skip
    assert probed == [("s0+7.0+7.1+7.2", (replacement.PROBES, 1), 1)]


# ---------------------------------------------------------------------------------------------------------------- tied rows


def test_tied_networks(monkeypatch, settings):
    """Every kind of team by three ways; differences to the full method, and by how much more it is worth than with free rows."""
    lost = {"chain": {(0, False): 1.0, (2, False): 3.0, (0, True): -20.0}, "quota": {(0, False): 0.0, (1, False): 30.0}}

    def of(job, seed):
        way, task = job.way, job.task.split()[0]
        below = lost[task][way.window, way.shared] * (1 + 0.1 * seed)
        end = 0.9 - {"full": 0, "no resampling": 0.02, "no resampling, same sets": 0.01}[way.name] * below
        return a_run((0.5 + 0.01 * seed, end), 2, regression=[1, 0, way.same_sets, 0], rollouts=[3000, 0, 0, 4000])

    asked = answering(monkeypatch, tied, of)
    data = tied.collect(settings)
    jobs = [job for each, _ in asked.trained for job in each]
    assert len(jobs) == 5 * 3
    assert all(seeds == list(SEEDS) for _, seeds in asked.trained)
    assert {(x.task, x.stages, x.rollouts, x.start, x.way.learning_rate, x.way.window, x.way.shared) for x in jobs} == {
        ("chain switches=3", 30, 128, 0.5, 1e-3, 0, False), ("chain switches=3", 30, 128, 0.5, 1e-3, 2, False),
        ("chain switches=3", 30, 128, 0.5, 1e-3, 0, True), ("quota agents=8", 10, 256, 0.3, 3e-3, 0, False),
        ("quota agents=8", 10, 256, 0.3, 3e-3, 1, False),
    }  # fmt: skip
    assert ways(tied) == {
        "full": ("teamtr", {}), "no resampling": ("no_resampling", {}),
        "no resampling, same sets": ("no_resampling", {"same_sets": True}),
    }  # fmt: skip
    said = by(tied.findings(data))
    assert len(said) == 5 * 3 + 3
    blind = "Quota of 8, own networks, prompt and own turn"
    x = said[f"{blind}: does 'no resampling' end below the full method?"]
    assert x.interval[:3] == t_interval([-60 * (1 + 0.1 * s) for s in SEEDS])
    assert (x.ours, x.paper, x.verdict) == (f"{x.interval} points", "-17.0 points", "agrees in sign")
    x = said["Chain, one network for all roles: does 'no resampling, same sets' end below the full method?"]
    assert x.interval[:3] == t_interval([20 * (1 + 0.1 * s) for s in SEEDS])
    assert x.verdict == "disagrees in sign"
    x = said["Chain, own networks, prompt and last message: is resampling worth more than with free rows, same sets?"]
    assert x.interval[:3] == t_interval([2 * (1 + 0.1 * s) for s in SEEDS])
    assert (x.paper, x.verdict) == ("–", "ours alone: holds")
    x = said["Chain, one network for all roles: is resampling worth more than with free rows, same sets?"]
    assert x.verdict == "ours alone: does not hold"
    x = said[f"{blind}: do more updates make J smaller without resampling, same sets?"]
    assert (x.interval[:3], x.verdict) == (pytest.approx((25, 25, 25)), "agrees in sign")
    heads, lines = tied.table(data)
    assert len(lines) == 15
    assert all(len(line) == len(heads) for line in lines)
    assert lines[-2][:4] == [
        blind,
        "no resampling",
        mean([50, 51, 52, 53, 54]),
        mean(data["kinds"][blind]["no resampling"]["end"]),
    ]
    assert lines[-2][4][:3] == t_interval([-60 * (1 + 0.1 * s) for s in SEEDS])
    assert lines[-2][5:] == [mean([25] * 5), "0.003", "7.0k", 71.1]
    assert lines[-3][4] == ""


def test_tied_tables(monkeypatch, settings):
    """J at the end, in points, by view and number of agents; exponents; what rollouts show; the task without conflicts."""
    jobs = []
    worth = {0: 0.0, 2: 0.01, 1: 0.04}

    def made(settings, asked):
        jobs.extend(asked)
        return [of(job) for job in asked]

    def of(job):
        n = int(job.task.split("=")[1]) if job.task.startswith("quota") else 0
        n *= 1 + (job.radius == 0.1)
        stale = job.schedule != "fresh"
        ends = [0.9 - stale * worth[job.window] * n * (1 + 0.1 * s) * (0.5 if job.rollouts else 1) for s in SEEDS]
        size = [1e-3 * n ** (2 if stale else 1) * (1 + 0.1 * s) for s in SEEDS]
        return {"values": [[0.3, 0.5, end] for end in ends], "delta_stale": size, "d_occ": [2 * x for x in size],
                "instability": [1e-3 * stale * n] * 5, "regressions": [0.1 * stale] * 5, "seconds": 1.0}  # fmt: skip

    monkeypatch.setattr(tied_tables, "made", made)
    data = tied_tables.collect(settings)
    exact = [job for job in jobs if not job.rollouts and job.task != tied_tables.CHAIN and job.radius == 0.01]
    assert {(job.task, job.window, job.schedule, job.mean) for job in exact} == {
        (f"quota agents={n}", window, schedule, 1 / n)
        for n in (2, 3, 4, 5, 6, 8)
        for window in (0, 1, 2)
        for schedule in ("fresh", "once", "stale occupancy")
    }
    assert {(job.task, job.window, job.schedule, job.rollouts, job.radius) for job in jobs if job.rollouts} == {
        ("quota agents=8", window, schedule, 256, radius)
        for window in (0, 1, 2)
        for schedule in ("fresh", "once", "once, same sets")
        for radius in (0.01, 0.1)
    }
    assert {(job.task, job.window, job.schedule) for job in jobs if not job.rollouts and job.radius == 0.1} == {
        ("quota agents=8", window, schedule) for window in (0, 1, 2) for schedule in ("fresh", "once")
    }
    assert {(job.task, job.window, job.schedule, job.mean) for job in jobs if job.task == tied_tables.CHAIN} == {
        ("chain switches=3", window, schedule, 0.5) for window in (0, 1, 2) for schedule in ("fresh", "once")
    }
    assert {(job.stages, job.seeds) for job in jobs} == {(10, 5)}
    assert len(jobs) == len({job.place for job in jobs}) == 54 + 9 + 6 + 9 + 6
    said = by(tied_tables.findings(data))
    assert len(said) == 3 * (1 + 2 + 1 + 2) + 2 * (1 + 2 + 4 + 1) + 3
    x = said["Agents see own turn: at n = 8, does the stage without resampling end lower, exact tables?"]
    assert x.interval[:3] == t_interval([-32 * (1 + 0.1 * s) for s in SEEDS])
    assert (x.paper, x.verdict) == ("-29.2 points at n = 8", "agrees in sign")
    x = said["Agents see whole transcript: at n = 8, does the stage without resampling end lower, exact tables?"]
    assert x.verdict == "disagrees in size: less than half of the paper's"
    x = said["Agents see last message: does it end lower by more at n = 8 than at n = 2, exact tables?"]
    assert x.interval[:3] == t_interval([6 * (1 + 0.1 * s) for s in SEEDS])
    x = said["Agents see own turn: at n = 8, does 'naive, same sets' end lower, by rollouts?"]
    assert x.interval[:3] == t_interval([-16 * (1 + 0.1 * s) for s in SEEDS])
    x = said["Agents see own turn: at n = 8, does 'naive' end lower, exact tables, δ = .1?"]
    assert x.interval[:3] == t_interval([-64 * (1 + 0.1 * s) for s in SEEDS])
    x = said["Agents see own turn: at n = 8, is instability larger without resampling, exact tables?"]
    assert (x.interval.value, x.verdict) == (pytest.approx(0.8), "agrees in sign")
    x = said["Agents see own turn: with which power of n does Δ_stale grow, naive, exact tables?"]
    assert (x.interval.value, x.verdict) == (pytest.approx(2), "agrees in exponent")
    x = said["Agents see own turn: with which power of n does D_occ grow, TeamTR, exact tables?"]
    assert (x.interval.value, x.verdict) == (pytest.approx(1), "disagrees in exponent")
    alone = "Agents see own turn: is it the stale occupancy alone that loses (U4), the advantages being current?"
    assert said[alone].verdict == "ours alone: holds"
    data["exact"]["own turn"]["stale occupancy"][2]["end"][1] += 0.1
    assert by(tied_tables.findings(data))[alone].verdict == "ours alone: does not hold"
    x = said["Chain, agents see own turn: does the stage without resampling end lower, exact tables?"]
    assert x.interval.value == 0
    heads, lines = tied_tables.table(data)
    assert len(lines) == 3 * 2 * 6 + 9 + 6 + 9 + 6
    assert all(len(line) == len(heads) for line in lines)
    first = next(line for line in lines if line[:3] == ["own turn, exact tables", "naive", 8])
    assert first[3] == mean([30.0] * 5)
    assert first[5][:3] == t_interval([-32 * (1 + 0.1 * s) for s in SEEDS])
    assert first[6][:3] == t_interval([6.4 * (1 + 0.1 * s) for s in SEEDS])
    assert first[7][:3] == t_interval([0.128 * (1 + 0.1 * s) for s in SEEDS])
    assert [x.value for x in first[8:]] == pytest.approx([0.8, 10])
