"""`python -m experiments.llm`: a tiny run from end to end, resumed, evaluated, shown; what is refused."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from rich.console import Console

from experiments.llm import figures, keeping, setup, transcripts
from experiments.llm import replacement as swaps
from experiments.llm import run as runs
from experiments.llm.__main__ import main
from experiments.llm.compare import report, spread
from experiments.llm.evaluation import by_agent, rate_of, sizes
from experiments.llm.measure import (
    Conversations,
    Mean,
    Probe,
    converse,
    mean_of,
    paired_gain,
    pass_at,
    regression,
)
from experiments.llm.plugins import task_of
from experiments.llm.settings import TEST_PROMPTS, Compare, Eval, Show, Train
from experiments.llm.setup import set_up
from experiments.llm.transcripts import show, standing, transcript, verdict
from experiments.llm.words.settings import TEXT_PROMPTS, Adapters, TextCompare, TextTrain
from experiments.reproduce.question import ReproduceSettings
from experiments.saved import places, write_json
from experiments.tables import show as table
from experiments.tabular.settings import TabularSettings
from teamtr_jax.checkpoint import read_manifest
from teamtr_jax.llm.methods import METHODS
from teamtr_jax.llm.model import ModelConfig
from teamtr_jax.llm.replacement import agent_from_checkpoint
from teamtr_jax.llm.tasks import TASKS, Copy, Problem, base, is_held_out
from teamtr_jax.llm.text_warm_start import TextWarmStart
from teamtr_jax.llm.warm_start import WarmStart
from teamtr_jax.monitor import read_token_log
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.training import CHECKPOINTS, JOURNAL, read_records
from teamtr_jax.validation import InputError

TINY = [
    "--task", "copy", "--difficulty", "length=2", "--model.width", "16", "--model.layers", "1", "--model.heads", "2",
    "--prompts", "64", "--group", "8", "--epochs", "6", "--warm.prompts", "512", "--warm.low", "0.1", "--test-prompts", "64",
    "--test-samples", "2", "--probe-prompts", "64", "--learning-rate", "0.01", "--delta", "1.0", "--no-progress",
]  # fmt: skip
"""Every character is rewarded, so that an untrained team is in the band: no warm start is compiled."""


def train(out: Path, *more: str) -> int:
    return main(["train", "--out", str(out), *TINY, *more])


def ended(command, *arguments) -> object:
    """The exit code, however the program ends: tyro raises."""
    try:
        return command(*arguments)
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("llm") / "run"
    assert train(out, "--stages", "4", "--tensorboard", "--log", "jsonl") == 0
    return out


def records_of(out: Path) -> list[dict]:
    return [{name: value for name, value in line.items() if name not in runs.TIMED} for line in read_records(out)]


def params_of(out: Path) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(runs.load_run(out).params)]


def test_summary(trained):
    summary = json.loads((trained / "summary.json").read_text())
    kinds = {"accuracy_start": float, "accuracy_end": float, "gain_low95": float, "tokens_per_second": float, "seconds": float,
             "updates": int, "regressions": int, "compilations": int, "seed": int}  # fmt: skip
    assert {name: type(summary[name]) for name in kinds} == kinds
    assert summary["updates"] == 12
    assert summary["test_prompts"] == 64
    assert summary["gain"] == pytest.approx(summary["accuracy_end"] - summary["accuracy_start"], abs=1e-12)
    assert summary["gain_low95"] < summary["gain"] < summary["gain_high95"]
    assert summary["tokens"] == 12 * 64 * 8 * 6
    assert summary["compilations_after_first_stage"] == 0
    assert 0 < summary["compilations"] < 200


def test_the_team_learns(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["gain_low95"] > 0.05


def test_the_records_agree_with_each_other(trained):
    lines = read_records(trained)
    assert [(x["stage"], x["update"], x["agent"]) for x in lines] == [(k, i, i) for k in range(4) for i in range(3)]
    for before, after in pairwise(lines):
        assert before["probe"]["after"] == after["probe"]["before"]
    for line in lines:
        assert line["probe"]["change"] == pytest.approx(line["probe"]["after"] - line["probe"]["before"])
    assert (
        sum(x["probe"]["regression"] for x in lines)
        == json.loads((trained / "summary.json").read_text())["regressions"]
    )


def test_files(trained):
    for name in ("accuracy.png", "kl.png", "certificate.png", "control.png"):
        assert (trained / name).stat().st_size > 5000
    assert list((trained / "tensorboard").iterdir())
    assert not [x for x in trained.rglob("*") if x.name.endswith((".tmp", ".partial"))]


def test_the_token_log_is_one_that_the_monitor_reads(trained):
    log = read_token_log(trained / "token_log.jsonl")
    fresh = 12 * 64 * 8 * 6
    assert log.rows == fresh + 4 * 2 * 64 * 8 * 6  # the first rollouts of a stage once more at its two other updates
    assert set(log.stage.tolist()) == {0, 1, 2, 3}
    assert log.sampler == Sampler(1.0, precision="float32")


def test_figures_are_drawn_from_what_is_saved(trained, capsys):
    written = (trained / "summary.json").read_bytes()
    (trained / "kl.png").unlink()
    assert train(trained, "--stages", "4", "--log", "jsonl") == 0
    assert (trained / "kl.png").exists()
    assert (trained / "summary.json").read_bytes() == written
    assert str(trained / "accuracy.png") in capsys.readouterr().out


def test_interrupted_and_resumed_is_the_same_run(trained, tmp_path, monkeypatch):
    out, whole = tmp_path / "run", runs.train_stage

    def interrupted(*arguments, **named):
        if arguments[4] == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    monkeypatch.setattr(runs, "train_stage", interrupted)
    assert train(out, "--stages", "4") == 130
    assert not (out / "summary.json").exists()
    with open(out / JOURNAL, "a") as file:
        file.write('{"stage": 2, "half')  # what a kill in the middle of a write leaves
    monkeypatch.setattr(runs, "train_stage", whole)
    assert train(out, "--stages", "4") == 0
    assert records_of(out) == records_of(trained)
    assert all(np.array_equal(x, y) for x, y in zip(params_of(out), params_of(trained), strict=True))
    first, second = (json.loads((x / "summary.json").read_text()) for x in (out, trained))
    same = ("accuracy_start", "accuracy_end", "gain_low95", "tokens", "regressions")
    assert {x: first[x] for x in same} == {x: second[x] for x in same}


@pytest.mark.slow
def test_kill_9(tmp_path):
    def start(out: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "experiments.llm", "train", "--out", str(out), *TINY, "--stages", "6"]
        return subprocess.Popen(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, stdout=subprocess.DEVNULL)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    process = start(killed)
    while process.poll() is None and not (killed / CHECKPOINTS / "00000002").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "summary.json").exists()
    assert start(killed).wait() == 0
    assert records_of(killed) == records_of(whole)
    leaves = [
        read_manifest(x / CHECKPOINTS)["leaves"] for x in (killed, whole)
    ]  # with the SHA-256 of each array's bytes
    assert leaves[0] == leaves[1]


def test_eval(trained, capsys):
    assert main(["eval", str(trained), "--prompts", "32", "--samples", "4"]) == 0
    report = json.loads((trained / "eval.json").read_text())
    found = report["difficulties"]["length=2"]
    rates = [found["pass"][k]["value"] for k in ("1", "2", "4")]
    assert rates == sorted(rates)
    assert set(found["agents"]) == {"copyist 1", "copyist 2", "copyist 3"}
    for row in found["agents"].values():
        assert (
            0 <= row["as_demonstrated"]["low"] <= row["as_demonstrated"]["value"] <= row["as_demonstrated"]["high"] <= 1
        )
    first = sum(row["first_wrong"]["value"] for row in found["agents"].values())
    assert first == pytest.approx(1 - found["pass"]["1"]["value"])  # whoever fails has a first to do so
    assert sum(row["updates"] for row in report["regressions"].values()) == 12
    assert "avg@4" in capsys.readouterr().out


def test_show(trained, capsys):
    console = Console(record=True, width=120, force_terminal=True, color_system="standard")
    show(Show(trained, count=3), console)
    text = console.export_text(styles=True)
    assert text.count("reward ") >= 3
    for role in ("copyist 1", "copyist 2", "copyist 3"):
        assert text.count(role) == 3
    assert "\x1b[36m" in text  # the first agent's colour
    assert "✓ right" in text or "✗ wrong" in text or "~ partly" in text
    capsys.readouterr()


def test_replacing_an_agent(trained, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    asked = [str(trained), "--out", str(out), "--agents", "1", "--stages", "1", "--probes", "64", "--no-progress"]
    assert swaps.main(asked) == 0
    assert (out / "replacement.png").stat().st_size > 5000
    assert str(out / "replacement.png") in capsys.readouterr().out
    found = json.loads((out / "replacement.json").read_text())
    reward = {name: found[name]["accuracy"] for name in ("no replacement", "direct", "aligned", "from scratch")}
    for name, own in reward.items():
        assert len(own) == 2
        assert found[name]["change"][0]["value"] == pytest.approx(own[0] - reward["no replacement"][0], abs=1e-12)
    start = json.loads((trained / "summary.json").read_text())["accuracy_start"]
    assert abs(reward["from scratch"][0] - start) < 0.15 < reward["no replacement"][0] - start
    assert reward["direct"][0] < reward["no replacement"][0]
    assert 0 < found["aligned"]["kl"] < 0.5 * found["direct"]["kl"]

    def train_stage(*arguments, **named):
        raise AssertionError("trained again")

    monkeypatch.setattr(swaps, "train_stage", train_stage)
    assert swaps.main(asked) == 0
    assert json.loads((out / "replacement.json").read_text()) == found


def test_what_cannot_be_replaced_is_refused(trained, tmp_path, capsys):
    assert swaps.main([str(trained), "--agents", "3"]) == 2
    assert "agents: found 3, expected an integer from 0 to 2" in capsys.readouterr().err
    for arguments, message in (
        (["--agents", "1", "1"], "agents: found (1, 1), expected each agent at most once"),
        (["--stages", "0"], "stages: found 0"),
        (["--probes", "9"], "probes: found 9, expected an integer from 10"),
        (["--seed", "-1"], "seed: found -1"),
        (["--width", "0"], "width: found 0"),
        (["--radius", "nan"], "radius: found nan"),
        (["--out", str(trained / "summary.json")], "out: found"),
    ):
        assert swaps.main([str(trained), *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert swaps.main([str(tmp_path)]) == 2
    assert "no settings.json" in capsys.readouterr().err


def test_agents_of_an_unfinished_run_are_replaced_in_the_team_that_was_saved_last(
    trained, tmp_path, monkeypatch, capsys
):
    home = shutil.copytree(trained, tmp_path / "run")
    about = json.loads((home / "settings.json").read_text())
    del about["sha256"]
    write_json(home / "settings.json", {**about, "stages": 5})
    seen = []

    def newcomers(settings, loaded):
        seen.append(loaded)
        raise InputError("far", "enough", "this")

    monkeypatch.setattr(swaps, "_newcomers", newcomers)
    assert swaps.main([str(home)]) == 2
    assert "the team after 4 of 5 stages" in capsys.readouterr().out
    assert seen[0].stages == 4
    assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(seen[0].params), params_of(trained), strict=True))


def test_an_agent_can_be_taken_out_of_a_run(trained):
    newcomer = agent_from_checkpoint(trained, 1)
    assert newcomer.config == ModelConfig(16, 1, 2)
    own = jax.tree.map(lambda x: x[1], runs.load_run(trained).params)
    assert all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(own), jax.tree.leaves(newcomer.params), strict=True)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "nothing"], "task: found 'nothing'"),
        (["--difficulty", "length=two"], "difficulty: length: found 'two'"),
        (["--difficulty", "length"], "difficulty: found 'length', expected name=value"),
        (["--difficulty", "depth=2"], "settings of 'copy'"),
        (["--method", "magic"], "method: found 'magic'"),
        (["--stages", "0"], "stages: found 0"),
        (["--group", "1"], "group: found 1"),
        (["--delta", "-1"], "delta: found -1"),
        (["--warm.low", "0.01"], "low, high: found 0.01"),
        (["--stages", "1.5"], "--stages"),
        (["--stagess", "1"], "--stagess"),
        (["--order", "up"], "'up'"),
        (["--difficulty", "length=²"], "difficulty: length: found '²'"),
        (["--difficulty", "length=2", "length=3"], "difficulty: length: found two values"),
        (["--difficulty", "length=1000000000"], "length: found 1000000000"),
        (["--temperature", "inf"], "temperature: found inf"),
        (["--temperature", "nan"], "temperature: found nan"),
        (["--learning-rate", "nan"], "learning_rate: found nan"),
        (["--learning-rate", "inf"], "learning_rate: found inf"),
        (["--epochs", "1000000000"], "epochs: found 1000000000"),
        (["--prompts", "1000000000000"], "prompts: found 1000000000000"),
        (["--prompts", "10000000"], "prompts, group: found 80,000,000 of 15 positions: at least"),
        (["--group", "1000000000"], "prompts, group: found 64, 1000000000: 64000000000 rollouts"),
        (["--seed", str(2**70)], f"seed: found {2**70}, expected an integer from 0 to 4294967295"),
        (["--seed", str(2**32)], f"seed: found {2**32}"),
        (["--test-prompts", "0"], "test_prompts: found 0"),
        (["--test-prompts", "1000000", "--test-samples", "1000"], "test_prompts, test_samples: found 1000000, 1000"),
        (["--probe-prompts", "1000000000000"], "probe_prompts: found 1000000000000"),
        (["--warm.prompts", "1000000000000"], "prompts: found 1000000000000"),
        (["--warm.batch", "1000000", "--warm.every", "1000000"], "of the warm start"),
        (["--warm.learning-rate", "nan"], "learning_rate: found nan"),
        (["--model.hidden", "-3"], "hidden: found -3, expected an integer, at least 1"),
        (["--model.hidden", "0"], "hidden: found 0"),
        (["--model.layers", "0"], "layers: found 0"),
        (["--model.width", "1000000"], "width: found 1000000, "),
        (["--model.layers", "1000000000"], "width: found 16, "),
        (["--model.rope-base", "0"], "rope_base: found 0.0, expected a finite number at least 1"),
        (["--model.dtype", "float16"], "dtype: found 'float16', expected float32 or bfloat16 or float64"),
        (["--model.width", "15"], "width, heads: found 15, 2"),
        (["--test-prompts", "100000"], "distinct held-out prompts"),
        (["--seed", "-1"], "seed: found -1, expected an integer from 0 to 4294967295"),
    ],
)
def test_bad_input_is_one_line_before_any_work(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(base, "MISSES", 1000)  # to give up sooner
    assert ended(train, tmp_path / "run", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_is_continued_under_its_own_settings_only(trained, capsys):
    for arguments, message in (
        (("--stages", "4", "--group", "4"), "group"),
        (("--stages", "3"), "stages: found 3, expected at least 4"),
        (("--stages", "4", "--seed", "1"), "settings: seed"),
    ):
        assert train(trained, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert json.loads((trained / "settings.json").read_text())["group"] == 8


def test_commands_on_no_run(tmp_path, capsys):
    for command in ("eval", "show"):
        assert main([command, str(tmp_path)]) == 2
        assert "no settings.json" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert train(tmp_path / "file") == 2
    assert "a file" in capsys.readouterr().err


def test_a_difficulty_that_does_not_fit_is_refused(trained, capsys):
    assert main(["eval", str(trained), "--difficulty", "length=3"]) == 2
    assert "prompts of 9" in capsys.readouterr().err
    assert main(["eval", str(trained), "--difficulty", "symbols=5"]) == 2
    assert "characters" in capsys.readouterr().err


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gets_the_same_rollouts(name, tmp_path):
    setup = set_up(Train(tmp_path / "run", method=name, prompts=64, group=8, test_prompts=8, probe_prompts=0))
    sets = setup.method.schedule.draws(setup.team.agents)
    assert sets * setup.sampling.prompts * setup.sampling.group == 3 * 64 * 8


def test_compare(tmp_path, capsys):
    out = tmp_path / "compare"
    arguments = ["compare", "--out", str(out), "--methods", "teamtr", "single", "--seeds", "1", *TINY, "--stages", "1"]
    assert main(arguments) == 0
    report = json.loads((out / "compare.json").read_text())
    assert report["methods"]["teamtr"]["tokens"] == report["methods"]["single"]["tokens"] == [3 * 64 * 8 * 6]
    assert report["methods"]["teamtr"]["accuracy_start"] == report["methods"]["single"]["accuracy_start"]
    assert report["methods"]["teamtr"]["accuracy_end"] != report["methods"]["single"]["accuracy_end"]
    times = {x: x.stat().st_mtime_ns for x in out.rglob("summary.json")}
    assert main(arguments) == 0
    assert times == {x: x.stat().st_mtime_ns for x in out.rglob("summary.json")}
    assert "n = 1 seeds" in capsys.readouterr().out.replace("\n", " ")
    assert main(["compare", "--out", str(out), "--methods", "magic", *TINY]) == 2


def test_pass_at_k_is_the_share_of_subsets_with_a_success():
    solved = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    assert pass_at(solved, 1).tolist() == [0.25, 0.5, 0.0, 1.0]
    assert pass_at(solved, 2) == pytest.approx([1 / 2, 5 / 6, 0, 1])
    assert pass_at(solved, 4).tolist() == [1, 1, 0, 1]


def test_the_interval_of_the_gain_pairs_prompts():
    before = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    found = paired_gain(before, before + 0.25)
    others = 1 - 0.05 ** (1 / 3)  # the largest share of prompts with another gain that three equal ones do not rule out
    assert found == pytest.approx((0.25, 0.25 - 1.25 * others, 0.25 + 0.75 * others))
    assert mean_of(np.ones(10)) == pytest.approx((1, 0.05**0.1, 1))
    after = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    found = paired_gain(before, after)
    assert found.value == pytest.approx(1 / 6)
    assert found.low == pytest.approx(1 / 6 - 1.96 * math.sqrt(1 / 12) / math.sqrt(3))


def test_a_regression_is_decided_by_the_sign_test():
    before, after = np.zeros((40, 1)), np.zeros((40, 1))
    before[:7] = 1
    assert regression(before, after).p_value == pytest.approx(2**-7)
    assert regression(before, after).significant
    before[6] = 0
    assert not regression(before, after).significant  # 2⁻⁶ > .01
    assert regression(after, after) == (0.0, 1.0, False)


# ----------------------------------------------------------------------------------------------------------- numbers by hand

TEXTS = [[["a", "b", "c"], ["a", "b", "x"]], [["y", "b", "c"], ["y", "y", "c"]]]
"""Two prompts, two conversations each; "a", "b", "c" are demonstrated."""
ABC = [Problem("abc", "abc"), Problem("abc", "abc")]


def test_the_mean_over_prompts_by_hand():
    """1, 2 and 6: mean 3, variance 7, half an interval of 1.96·√(7/3)."""
    half = 1.96 * math.sqrt(7 / 3)
    found = mean_of(np.array([1.0, 2.0, 6.0]))
    assert found == pytest.approx((3, 3 - half, 3 + half))
    assert found.error == pytest.approx(half)
    assert mean_of(np.array([0.25])) == (0.25, -math.inf, math.inf)
    assert rate_of(np.array([0.0, 1.0])) == (0.5, 0.0, 1.0)  # cut to [0, 1]
    assert str(Mean(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_the_ks_of_pass_at_k():
    assert [sizes(k) for k in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_who_was_wrong_first_by_hand():
    """Agent 0 errs in both conversations of the second prompt, agent 1 in one of them, agent 2 in one of the first."""
    found = by_agent(Copy(symbols=3), ABC, Conversations(np.zeros((2, 2)), TEXTS), [0, 1, 2], 3)
    assert [row["as_demonstrated"].value for row in found] == [0.5, 0.75, 0.75]
    assert [row["given_right"] for row in found] == [0.5, 1.0, 0.5]
    assert [row["first_wrong"].value for row in found] == [0.5, 0.0, 0.25]
    assert found[2]["first_wrong"] == rate_of(np.array([0.5, 0.0]))
    alone = by_agent(Copy(symbols=3), ABC, Conversations(np.zeros((2, 2)), TEXTS), [0, 0, 0], 1)
    assert alone[0]["as_demonstrated"].value == pytest.approx(8 / 12)
    assert alone[0]["given_right"] == 5 / 8
    never = by_agent(Copy(symbols=3), ABC, Conversations(np.zeros((2, 1)), [[["x"] * 3]] * 2), [0, 1, 2], 3)
    assert [row["given_right"] for row in never] == [0.0, None, None]


def test_a_probe_reports_what_an_update_did():
    """Before: 3 of 8 right, after: 6 of 8; five gained, two lost: the sign test has P(≤ 5 of 7) = 1 − 8/128."""
    before, after = np.array([1, 1, 1, 0, 0, 0, 0, 0.0]), np.array([0, 0, 1, 1, 1, 1, 1, 1.0])
    probe = Probe(lambda params: pytest.fail("measured again"))
    probe.measure = lambda params: params[:, None]
    found = probe.report(before, after)
    assert found["before"] == 0.375
    assert found["after"] == 0.75
    assert found["after_error"] == pytest.approx(1.96 * math.sqrt(6 * 2 / 8 / 7) / math.sqrt(8))
    assert found["change"] == 0.375
    difference = after - before
    assert found["change_error"] == pytest.approx(1.96 * difference.std(ddof=1) / math.sqrt(8))
    assert found["p_value"] == pytest.approx(1 - 8 / 128)
    assert found["regression"] is False
    assert probe.report(after, before)["p_value"] == pytest.approx(29 / 128)  # P(≤ 2 of 7) = (1 + 7 + 21)/128
    assert Probe(None).report(before, after) == {}


def test_spread_over_seeds_by_hand():
    """1, 2, 3: mean 2, standard error 1/√3, t with two degrees of freedom 4.302653."""
    half = 4.3026527 / math.sqrt(3)
    assert spread([1, 2, 3]) == pytest.approx((2, 2 - half, 2 + half), rel=1e-7)
    assert spread([4.0]) == (4.0, -math.inf, math.inf)


def test_no_regression_is_reported_where_nothing_was_probed(tmp_path, capsys):
    one = {"accuracy_start": 0.25, "accuracy_end": 0.5, "gain": 0.25, "tokens": 9, "updates": 6}
    report(tmp_path, {"teamtr": [{**one, "regressions": 0, "regressions_tested": 0}]})
    assert "0/6" not in capsys.readouterr().out
    assert json.loads((tmp_path / "compare.json").read_text())["methods"]["teamtr"]["regressions"] == [None]


def test_the_comparison_is_of_the_summaries(tmp_path, capsys):
    keys = ("accuracy_start", "accuracy_end", "gain", "regressions", "tokens", "updates")

    def summary(*numbers):
        return dict(zip(keys, numbers, strict=True))

    found = {
        "teamtr": [summary(0.25, 0.75, 0.5, 1, 100, 6), summary(0.25, 0.5, 0.25, 2, 300, 6)],
        "lone": [summary(0.5, 0.5, 0.0, 0, 100, 2), summary(0.5, 0.25, -0.25, 0, 100, 2)],
    }
    report(tmp_path, found)
    kept = json.loads((tmp_path / "compare.json").read_text())
    assert kept["seeds"] == 2
    assert kept["methods"]["teamtr"] == {"accuracy_start": [0.25, 0.25], "accuracy_end": [0.75, 0.5], "gain": [0.5, 0.25],
                                         "regressions": [1, 2], "tokens": [100, 300]}  # fmt: skip
    text = " ".join(capsys.readouterr().out.split())
    half = 12.7062047 * 0.125  # t with one degree of freedom
    assert f"0.375 [{0.375 - half:.3f}, {0.375 + half:.3f}]" in text
    assert f"-0.125 [{-0.125 - half:.3f}, {-0.125 + half:.3f}]" in text
    assert "3/12 │ 200 │" in text  # tokens: the mean over seeds
    assert "0/4 │ 100 │" in text


def test_conversations_belong_to_their_problems(trained):
    """Five problems of three samples in calls of four rows: rewards are the verifier's on what was said, repeats padded away."""
    loaded = runs.load_run(trained)
    task, problems = loaded.setup.task, loaded.setup.test[:5]
    rows = loaded.setup.rows  # one program, that of the run
    found = converse(loaded.setup.team, loaded.params, task, problems, 3, jax.random.key(0), rows)
    assert np.shape(found.reward) == (5, 3)
    for problem, group, rewards in zip(problems, found.said, found.reward.tolist(), strict=True):
        assert rewards == [task.verify(problem, said) for said in group]
        assert len({tuple(said) for said in group}) > 1  # samples of one problem have uniforms of their own


def test_the_summary_by_hand(trained):
    """Accuracy, gain and limits from conversations sampled again; counts from the records."""
    loaded, summary = runs.load_run(trained), runs.read_summary(trained)
    start = runs.load_run(trained, start=True)
    key = jax.random.fold_in(jax.random.key(0), 1)
    before, after = (
        converse(x.setup.team, x.params, x.setup.task, x.setup.test, 2, key, x.setup.rows).reward
        for x in (start, loaded)
    )
    difference = (after - before).mean(1)
    half = 1.96 * difference.std(ddof=1) / 8  # 64 prompts
    assert summary["accuracy_start"] == pytest.approx(before.mean())
    assert summary["accuracy_end"] == pytest.approx(after.mean())
    assert (summary["gain_low95"], summary["gain_high95"]) == pytest.approx(
        (difference.mean() - half, difference.mean() + half)
    )
    lines = read_records(trained)
    assert summary["regressions_tested"] == 12
    assert summary["undone"] == sum(line["info"]["step_scale"] == 0 for line in lines)
    ratios = sorted(line["info"]["kl_k1"] / line["kl"] for line in lines if line["kl"] > 0)
    assert summary["k1_over_kl"][1] == pytest.approx((ratios[5] + ratios[6]) / 2)
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"] / summary["seconds_stages"])
    ids, width, hidden = 4 + 3 + 1, 16, 48  # letters, headers, PAD; 8/3 of the width, up to a multiple of 8
    kernels = width * (3 * width + width + 2 * hidden) + hidden * width
    assert summary["parameters"] == ids * width + kernels + 3 * width  # of one agent, with a layer and three norms


def test_rates_of_eval_by_hand(trained, capsys):
    """avg@2 is the mean reward, pass@2 the share of prompts with a right conversation; regressions are those of the records."""
    assert main(["eval", str(trained), "--prompts", "16", "--samples", "2"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    report, loaded = json.loads((trained / "eval.json").read_text()), runs.load_run(trained)
    assert report["prompts"] == 16
    problems = setup.held_out_problems(loaded.setup.task, np.random.default_rng([1, 5]), 16)
    found = converse(
        loaded.setup.team, loaded.params, loaded.setup.task, problems, 2, jax.random.key(1), loaded.setup.rows
    )
    row = report["difficulties"]["length=2"]
    assert row["avg"]["value"] == pytest.approx(found.reward.mean())
    assert row["pass"]["2"]["value"] == (found.reward == 1).any(1).mean()
    assert row["pass"]["1"]["value"] == (found.reward == 1).mean()
    lines = read_records(trained)
    for agent in range(3):
        own = [line["probe"] for line in lines if line["agent"] == agent]
        kept = report["regressions"][f"copyist {agent + 1}"]
        assert kept["updates"] == len(own) == 4
        assert kept["regressions"] == sum(x["regression"] for x in own)
        assert kept["worst"] == min(x["change"] for x in own)
        mean = np.mean([x["change"] for x in own])
        counted = f"copyist {agent + 1} │ 4 │ {kept['regressions']} │ {kept['worst']:+.3f} │ {mean:+.4f} │"
        assert counted in text
        said = row["agents"][f"copyist {agent + 1}"]
        as_told, first = (Mean(**said[name]) for name in ("as_demonstrated", "first_wrong"))
        given = "–" if said["given_right"] is None else f"{said['given_right']:.3f}"
        assert f"length=2: copyist {agent + 1} │ {as_told} │ {given} │ {first} │" in text


# ------------------------------------------------------------------------------------------------------ tasks at defaults


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_set_up_at_its_defaults(name, tmp_path, monkeypatch):
    """512 distinct held-out prompts, or as many as the task has, which `train` says; no other side of the split."""
    if name in ("chain_sum", "gcd", "spell_backward"):
        pytest.importorskip("reasoning_gym")
    monkeypatch.setattr(base, "MISSES", 3000)  # to give up sooner: gcd has fewer
    setup = set_up(Train(tmp_path / "run", task=name))
    prompts = {problem.prompt for problem in setup.test}
    assert len(prompts) == len(setup.test)
    assert all(map(is_held_out, prompts))
    assert len(setup.probes) == 1024
    assert setup.probes[:16] != setup.test[:16]  # further ones
    if name != "gcd":
        assert len(prompts) == 512
        return
    every = {f"{a},{b}" for a in range(1, 61) for b in range(1, 61)}
    assert prompts <= every
    assert 0.95 < len(prompts) / sum(map(is_held_out, every)) <= 1


def test_a_task_with_few_prompts_uses_them_all(tmp_path, monkeypatch):
    """Copy of three letters of four has 64 prompts, 6 of them held out; a number that is asked for is not cut."""
    monkeypatch.setattr(base, "MISSES", 1000)
    few = {"task": "copy", "difficulty": ("length=1",), "probe_prompts": 0}
    setup = set_up(Train(tmp_path / "run", **few))
    every = {a + b + c for a in "abcd" for b in "abcd" for c in "abcd"}
    assert {problem.prompt for problem in setup.test} == {prompt for prompt in every if is_held_out(prompt)}
    assert len(setup.test) == 6
    with pytest.raises(InputError, match="test_prompts: found 7, expected at most 6: no more distinct held-out"):
        set_up(Train(tmp_path / "run", **few, test_prompts=7))


SHORT = ["--stages", "1", "--prompts", "16", "--model.width", "16", "--model.layers", "1", "--model.heads", "2",
         "--probe-prompts", "32", "--test-samples", "1", "--no-progress"]  # fmt: skip
"""Other sizes only: task, difficulty, held-out prompts, band of the warm start are the defaults."""


@pytest.mark.slow  # what they start from: test_every_task_is_set_up_at_its_defaults and tests/test_llm_warm_start.py
@pytest.mark.parametrize("name", ["parity", "copy", "gcd"])
def test_tasks_that_failed_run_at_their_defaults(name, tmp_path, capsys):
    if name == "gcd":
        pytest.importorskip("reasoning_gym")
    assert main(["train", "--out", str(tmp_path / "run"), "--task", name, *SHORT]) == 0
    out = capsys.readouterr().out
    summary = runs.read_summary(tmp_path / "run")
    assert summary["updates"] == 3
    assert summary["test_prompts"] == (512 if name != "gcd" else pytest.approx(433, abs=20))
    assert f"accuracy on {summary['test_prompts']} held-out prompts" in out
    assert ("are all that were found" in out) == (name == "gcd")
    if name == "parity":  # a guess is right half of the time: above the band, and nothing to start from
        assert summary["warm_start"]["steps"] == 0
        assert 0.4 < summary["warm_start"]["accuracy"] < 0.6


# ------------------------------------------------------------------------------------------------------ tasks of one's own

MINE = """
from __future__ import annotations

from dataclasses import dataclass

from teamtr_jax.llm.tasks import Copy

{above}

@dataclass(frozen=True)
class Mine(Copy):
    length: int = 2
    name = "mine [red]\\x1b[31m"
{below}

ready = Mine()


def made(length=2):
    return Mine(length=length)
"""


def mine(folder: Path, above: str = "", below: str = "", name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(MINE.format(above=above, below=below))
    return path


def test_a_short_run_with_a_task_of_ones_own(trained, tmp_path, capsys):
    """Sizes of `trained`, whose programs it uses. The same numbers; shown where it was moved, without the file."""
    path, out = mine(tmp_path), tmp_path / "run"
    assert main(["train", *TINY, "--task", f"{path}:Mine", "--stages", "1", "--out", str(out)]) == 0
    assert runs.read_summary(out)["task"] == "mine.py:Mine"
    assert records_of(out) == [x for x in records_of(trained) if x["stage"] < 1]  # the same task but for its name
    path.unlink()
    moved = out.rename(tmp_path / "moved")
    capsys.readouterr()
    assert main(["show", str(moved), "--count", "2"]) == 0
    text = capsys.readouterr().out
    assert "mine [red]\\x1b[31m, teamtr, after 1 stage, seed" in text
    assert "\x1b" not in text
    assert main(["train", *TINY, "--task", f"{path}:Mine", "--stages", "1", "--out", str(moved)]) == 2
    assert "mine.py: found no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_with_a_task_of_ones_own(trained, tmp_path, monkeypatch, capsys):
    """Interrupted after a stage. File gone, folder moved: shown, measured, replaced. Continued with the file only."""
    path, out, whole = mine(tmp_path), tmp_path / "run", runs.train_stage
    own = ["train", *TINY, "--task", f"{path}:Mine", "--difficulty", "length=2", "--stages", "2", "--out"]

    def interrupted(*arguments, **named):
        if arguments[4] == 1:
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    monkeypatch.setattr(runs, "train_stage", interrupted)
    assert main([*own, str(out)]) == 130
    monkeypatch.setattr(runs, "train_stage", whole)
    moved = shutil.copytree(out, tmp_path / "elsewhere" / "moved")
    hidden = path.rename(tmp_path / "gone.py")
    capsys.readouterr()

    assert main(["show", str(moved), "--count", "2"]) == 0
    text = capsys.readouterr().out
    assert "mine [red]\\x1b[31m, teamtr, after 1 stage, seed" in text
    assert "\x1b" not in text
    assert main(["eval", str(moved), "--prompts", "64", "--samples", "2"]) == 0
    report = json.loads((moved / "eval.json").read_text())
    assert (report["stages"], report["prompts"]) == (1, 64)
    assert "mine [red]\\x1b[31m, teamtr, after 1 stage: 64 held-out prompts" in capsys.readouterr().out
    asked = [str(moved), "--agents", "1", "--stages", "1", "--probes", "64", "--no-progress"]
    assert swaps.main(asked) == 0
    assert "the team after 1 of 2 stages" in capsys.readouterr().out
    found = json.loads((moved / "replacement" / "replacement.json").read_text())
    assert found["no replacement"]["change"][0]["value"] == 0

    assert main([*own, str(out)]) == 2
    assert "mine.py: found no such file" in capsys.readouterr().err
    hidden.rename(path)
    assert main([*own, str(out)]) == 0
    assert runs.read_summary(out)["task"] == "mine.py:Mine"
    assert records_of(out) == [x for x in records_of(trained) if x["stage"] < 2]  # the same task but for its name
    mine(tmp_path, below="    # another task")
    assert main([*own, str(out)]) == 2
    error = capsys.readouterr().err
    assert "settings: task: found Mine of a file with SHA-256" in error
    assert error.count("\n") == 1
    (moved / "task.py").write_text((moved / "task.py").read_text() + "\n")
    assert main(["show", str(moved)]) == 2
    assert "task.py: found another file" in capsys.readouterr().err


def test_settings_of_another_type_are_refused_by_name(tmp_path):
    """In Python too, where no command line looked at them; every field that is no number."""
    here = tmp_path / "run"
    for value in (-3, 2.0, float("nan"), b"x", None, {}, object):
        for name in ("out", "task", "model", "warm"):
            with pytest.raises(InputError, match=rf"^{name}: found "):
                Train(**{"out": here, name: value})
        for kind in (Eval, Show, swaps.Replace):
            with pytest.raises(InputError, match=r"^run: found "):
                kind(run=value)
    for value in (-3, 2.0, "digits=2", (1,), True, object):
        for kind, name in ((Train, "difficulty"), (Compare, "methods"), (Compare, "difficulty")):
            with pytest.raises(InputError, match=rf"^{name}: found "):
                kind(**{"out": here, name: value})
        with pytest.raises(InputError, match=r"^difficulty: found "):
            Eval(run=here, difficulty=value)
        with pytest.raises(InputError, match=r"^families: found "):
            TabularSettings(families=value)
        with pytest.raises(InputError, match=r"^only: found "):
            ReproduceSettings(out=here, only=value)
    for value in (-3, 0, 1.0, "x", None):
        for kind, name in ((Eval, "start"), (Show, "start"), (Show, "failures")):
            with pytest.raises(InputError, match=rf"^{name}: found .*, expected True or False"):
                kind(run=here, **{name: value})
        with pytest.raises(InputError, match=r"^quick: found "):
            ReproduceSettings(out=here, quick=value)
        with pytest.raises(InputError, match=r"^seeds: found "):
            ReproduceSettings(out=here, seeds=value)
    for value in ((), ("teamtr", "teamtr")):
        with pytest.raises(
            InputError, match=r"^methods: found .*, expected each method at most once, and at least one"
        ):
            Compare(out=here, methods=value)
    for value in ((), ("garnet", "garnet")):
        with pytest.raises(
            InputError, match=r"^families: found .*, expected each family at most once, and at least one"
        ):
            TabularSettings(families=value)
    for value in (3, "01", (-1,), (0.0,)):
        with pytest.raises(InputError, match=r"^agents: found "):
            swaps.Replace(run=here, agents=value)
    assert Train(out=str(here)).out == here


def test_what_may_stand_behind_the_colon(tmp_path):
    path = mine(tmp_path)
    assert task_of(f"{path}:Mine", ()).length == task_of(f"{path}:ready", ()).length == 2
    assert task_of(f"{path}:Mine", ("length=3",)).length == task_of(f"{path}:made", ("length=3",)).length == 3


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("none.py:Mine", {}, "none.py: found no such file"),
        (":Mine", {}, "expected a Python file with a task"),
        ("mine.py:", {}, "task mine.py: found no '', expected the name of a task in it: Copy, Mine, ready"),
        ("mine.py:Yours", {}, "task mine.py: found no 'Yours', expected the name of a task in it: Copy, Mine, ready"),
        ("mine.py:dataclass", {}, "task mine.py:dataclass: found TypeError: dataclass() got an unexpected keyword"),
        ("mine.py:annotations", {}, "difficulty: found length=2, expected none: annotations is a task already"),
        ("mine.py:Mine", {"above": "1 / 0"}, "task mine.py: found ZeroDivisionError: division by zero"),
        ("mine.py:Mine", {"above": "raise SystemExit(0)"}, "task mine.py: found SystemExit: 0"),
        ("mine.py:Mine", {"above": "class E(BaseException): pass\nraise E('x')"}, "task mine.py: found E: x, expected a file"),
        ("mine.py:Mine", {"above": "class E(Exception):\n    def __str__(self): 1 / 0\nraise E"}, "mine.py: found E,"),
        ("mine.py:Mine", {"above": "def"}, "task mine.py: found SyntaxError: invalid syntax, line 8"),
        ("mine.py:Mine", {"above": "import nothing_of_this_name"}, "task mine.py: found ModuleNotFoundError"),
        ("mine.py:Mine", {"above": "raise ValueError('a\\nb\\x1b')"}, "task mine.py: found ValueError: a b\\x1b"),
        ("mine.py:Mine", {"below": "    def verify(self, problem, messages): return 2"}, "verify: found 2 for"),
        ("mine.py:Mine", {"below": "    def verify(self, problem, messages): return float('nan')"}, "verify: found nan for"),
        ("mine.py:Mine", {"below": "    def verify(self, problem, messages): return 'x'"}, "verify: found x for"),
        ("mine.py:Mine", {"below": "    def verify(self, problem, messages): return None"}, "verify: found None for"),
        ("mine.py:Mine", {"below": "    def verify(self, problem, messages): return 1j"}, "verify: found 1j for"),
        ("mine.py:Mine", {"below": "    def verify(self, problem, messages): return [1.0]"}, "verify: found [1.0] for"),
        ("mine.py:Mine", {"below": "    def verify(self, problem, messages): exit(0)"}, "verify: found SystemExit(0) for"),
        ("mine.py:Mine", {"below": "    def verify(self, problem, messages): return messages[7]"}, "verify: found IndexError"),
        ("mine.py:Mine", {"below": "    def sample(self, rng): return 'abcdef'"}, "sample: found 'abcdef', expected a Problem"),
        ("mine.py:Mine", {"below": "    def sample(self, rng): raise KeyError(3)"}, "sample: found KeyError(3)"),
        ("mine.py:Mine", {"below": "    def demonstrate(self, p, rng): return 'abcdef'"}, "demonstrate: found 'abcdef'"),
        ("mine.py:Mine", {"below": "    verify = None"}, "task: verify: found None, expected a method"),
        ("mine.py:Mine", {"below": "    roles = ()"}, "task: roles: found (), expected names of the agents"),
        ("mine.py:Mine", {"below": "    turns = 2.5"}, "task: turns: found 2.5, expected an integer"),
        ("mine.py:Mine", {"below": "    turns = 10**12"}, "prompt, message, turns: found 6, 2, 1000000000000"),
        ("mine.py:Mine", {"below": "    characters = 7"}, "task: characters: found 7, expected a text"),
        ("mine.py:Mine", {"below": "    characters = property(lambda s: 1 / 0)"}, "task: characters: found ZeroDivisionError"),
        ("mine.py:broken", {"above": "def broken(length): 1 / 0"}, "task mine.py:broken: found ZeroDivisionError"),
    ],
)  # fmt: skip
def test_a_broken_task_is_one_line(name, more, message, tmp_path, capsys):
    mine(tmp_path, **more)
    task = str(tmp_path / name) if name[0] != ":" else name
    assert train(tmp_path / "run", "--task", task) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "\x1b" not in error
    assert not (tmp_path / "run").exists()


def test_a_task_is_a_file(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.py").write_bytes(b"#" * (2**22 + 1))
    for place, message in (("/dev/null", "a device"), (tmp_path, "a folder"), (tmp_path / "pipe", "a pipe"),
                           (tmp_path / "large.py", "4194305 bytes")):  # fmt: skip
        assert train(tmp_path / "run", "--task", f"{place}:Mine") == 2
        assert f"found {message}, expected" in capsys.readouterr().err
    assert train(tmp_path / "run", "--task", f"{mine(tmp_path)}:ready") == 2  # `TINY` sets length=2
    assert "difficulty: found length=2, expected none: ready is a task already" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- any run folder


@pytest.mark.slow
def test_a_run_of_one_agent(tmp_path, capsys):
    out = tmp_path / "run"
    assert train(out, "--stages", "1", "--method", "lone") == 0
    assert (
        main(["show", str(out), "--count", "2"]) == main(["eval", str(out), "--samples", "2", "--prompts", "32"]) == 0
    )
    assert "alone" in capsys.readouterr().out
    assert swaps.main([str(out), "--stages", "1", "--probes", "64", "--no-progress"]) == 0


def test_every_flipped_byte_of_the_settings_is_seen(trained, tmp_path):
    home = tmp_path / "run"
    home.mkdir()
    whole = (trained / "settings.json").read_bytes()
    (home / "settings.json").write_bytes(whole)
    assert runs._read_settings(home)[0].prompts == 64
    for at in range(0, len(whole), 3):
        for bit in (0, 5):
            (home / "settings.json").write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with pytest.raises(InputError, match=r"settings.json: found a damaged file"):
                runs._read_settings(home)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[: len(data) // 2], "a damaged file"),
        (lambda data: b"", "a damaged file"),
        (lambda data: b"[]", "a damaged file"),
        (lambda data: b"[" * 100_000, "a damaged file"),
        (lambda data: b"\xff\xfe", "a damaged file"),
    ],
)
def test_damaged_files_of_a_run_are_one_line(trained, tmp_path, capsys, change, message):
    home = shutil.copytree(trained, tmp_path / "run")
    whole = (home / "settings.json").read_bytes()
    (home / "settings.json").write_bytes(change(whole))
    for command in (["eval", str(home)], ["show", str(home)]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"settings.json: found {message}" in error
        assert error.count("\n") == 1
    assert swaps.main([str(home)]) == 2
    assert message in capsys.readouterr().err
    (home / "settings.json").write_bytes(whole)
    (home / "summary.json").write_bytes(change((home / "summary.json").read_bytes()))
    assert train(home, "--stages", "4", "--log", "jsonl") == 2
    error = capsys.readouterr().err
    assert f"summary.json: found {message}" in error
    assert error.count("\n") == 1


def test_settings_of_another_program_are_named(trained, tmp_path):
    about = json.loads((trained / "settings.json").read_text())
    del about["sha256"]
    for changed in ({"model": 3}, {"depth": 3}, {"start": None}, {"warm": {"low": 0.2, "lower": 3}}, {"difficulty": 7}):
        write_json(tmp_path / "settings.json", {**about, **changed})
        with pytest.raises(InputError, match=r"settings.json: found settings of another program"):
            runs._read_settings(tmp_path)
    for name in ("task", "start", "model"):
        write_json(tmp_path / "settings.json", {key: value for key, value in about.items() if key != name})
        with pytest.raises(InputError, match=rf"settings.json: found settings of another program .*{name}"):
            runs._read_settings(tmp_path)


def test_a_folder_whose_start_is_gone(trained, tmp_path, capsys):
    home = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(home / "start")
    assert main(["show", str(home), "--start"]) == 2
    assert "start: found no checkpoint, expected the team that the run in" in capsys.readouterr().err
    assert not (home / "start").exists()
    assert main(["show", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: found no such folder, expected the folder of a run" in capsys.readouterr().err
    assert main(["show", str(home / "settings.json")]) == 2
    assert "settings.json: found no folder, expected the folder of a run" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------- places


def test_places_are_tried_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "set_up", lambda settings: pytest.fail("worked"))
    for name in ("summary.json", "accuracy.png", "records.jsonl", "settings.json"):
        out = tmp_path / name.replace(".", "-")
        (out / name).mkdir(parents=True)
        assert train(out) == 2
        error = capsys.readouterr().err
        assert f"{out / name}, a folder, expected a file" in error
        assert error.count("\n") == 1
    for name in ("checkpoints", "start"):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text("")
        assert train(out) == 2
        assert f"{out / name}, a file, expected a folder" in capsys.readouterr().err
    for out in (Path("/dev/null"), Path("/proc/run"), tmp_path / "start" / "start" / "run"):
        assert train(out) == 2
        assert "out: found" in capsys.readouterr().err
    compared = tmp_path / "compare"
    (compared / "compare.json").mkdir(parents=True)
    assert main(["compare", "--out", str(compared), *TINY]) == 2
    assert "compare.json, a folder" in capsys.readouterr().err


def test_a_link_is_followed_and_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_json(tmp_path / "link.json", {"x": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["x"] == 1
    places(tmp_path, files=["link.json"])

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"link\.json: found No space left on device"):
        write_json(tmp_path / "link.json", {"x": 2})
    assert json.loads((tmp_path / "real.json").read_text())["x"] == 1
    assert sorted(x.name for x in tmp_path.iterdir()) == ["link.json", "real.json"]


# ----------------------------------------------------------------------------------------------------- text from outside


def test_what_is_said_is_printed_without_control_characters_or_markup(capsys):
    problem = Problem("a\x1b[2J[bold]b", "\r\n")
    text = transcript(["x\x07", "[red]"], [0, 1], problem, ["m" * 1000, "\x9b1m"], ["[/]", "\u202e"], 0.5).plain
    assert "a\\x1b[2J[bold]b" in text
    assert "answer \\r\\n\n" in text
    assert "x\\x07" in text
    assert "\\x9b1m   demonstrated: \\u202e" in text
    assert "…" in text
    assert max(map(len, text.splitlines())) < 700
    assert text.count("\n") == 4
    table("[red]title\x1b", ["[a", "b]"], [["[/x]\x07", 1]], "[i]caption\x9b")
    out = capsys.readouterr().out
    for shown in ("[red]title\\x1b", "[a", "b]", "[/x]\\x07", "[i]caption\\x9b"):
        assert shown in out
    assert out.isprintable() or not set(out) & set("\x1b\x07\x9b")


def test_a_step_that_was_undone_is_drawn_too(trained, tmp_path, monkeypatch):
    """Its monitor is infinite, which no axis can hold."""
    home = shutil.copytree(trained, tmp_path / "run")
    lines = read_records(home)
    lines[3]["info"] |= {"monitor_reached": "inf", "step_scale": 0.0}
    monkeypatch.setattr(figures, "read_records", lambda folder: lines)
    (home / "kl.png").unlink()
    assert [path.name for path in figures.draw_run(home)] == [
        "accuracy.png",
        "kl.png",
        "certificate.png",
        "control.png",
    ]
    assert (home / "kl.png").stat().st_size > 5000


def test_what_is_drawn_is_what_the_records_hold(trained, monkeypatch):
    """Every estimate under its name, the radius, the limit of the gain, intervals below a certificate, β."""
    drawn = {}

    def kept(figure, path):
        drawn[path.name] = figure
        return path

    lines, summary = read_records(trained), runs.read_summary(trained)
    for k, line in enumerate(lines):  # the first is below its certificate, with its interval the second is not
        line["info"]["certificate_estimable"] = 0.5 if k < 2 else -1.0
        line["probe"] |= {"change": 0.1 + 0.3 * k, "change_error": 0.2}
        line["info"]["multiplier"] = 2.0**k
    monkeypatch.setattr(figures, "read_records", lambda folder: lines)
    monkeypatch.setattr(figures, "save", kept)
    figures.draw_run(trained)

    def points(ax):
        return {line.get_label(): np.asarray(line.get_ydata(), float).tolist() for line in ax.lines}

    def of(*names):
        return {label: [float(line["info"][name]) for line in lines] for label, name in names}

    (ax,) = drawn["kl.png"].axes
    shown = points(ax)
    assert shown == shown | of(("k1 (the paper's)", "message_kl_k1"), ("k3", "message_kl_k3"), ("full vocabulary", "message_kl"),
                               ("monitor before going back", "monitor_reached"))  # fmt: skip
    assert shown["δ = 1"] == [1.0, 1.0]
    (ax,) = drawn["accuracy.png"].axes
    assert f"gain ≥ {summary['gain_low95']:.3f} (95 %)" in ax.get_title()
    assert [summary["accuracy_start"], summary["accuracy_end"]] in [list(line.get_ydata()) for line in ax.lines]
    left, right = drawn["certificate.png"].axes
    assert left.get_title() == "interval wholly below the certificate: 1 of 12 updates"
    shown = points(right)
    assert shown == shown | of(("surrogate", "surrogate_raw"), ("surrogate − KL", "certificate_estimable"))
    assert shown["KL an episode"] == [line["kl"] for line in lines]
    above, below = drawn["control.png"].axes
    assert above.collections[0].get_offsets()[:, 1].tolist() == [2.0**k for k in range(12)]
    steps = np.concatenate([x.get_offsets()[:, 1] for x in below.collections[:2]])
    assert sorted(steps.tolist()) == sorted(line["info"]["steps"] for line in lines)
    plt.close("all")


# --------------------------------------------------------------------------------------------------- what a command says


@pytest.mark.parametrize("words", [False, True])
def test_what_train_prints(words, tmp_path, monkeypatch, capsys):
    """Accuracy, the lower limit of the gain and the counts of the summary; where everything is."""
    summary = {
        "accuracy_start": 0.25, "accuracy_end": 0.625, "gain": 0.375, "gain_low95": 0.125, "gain_high95": 0.5,
        "test_prompts": 64, "updates": 12, "undone": 2, "regressions": 3, "tokens_per_second": 1234.4, "seconds": 56.7,
        "compilations": 8, "warm_start": {"demonstrations": 16}, "accuracy_untrained": 0.0625,
    }  # fmt: skip
    monkeypatch.setattr(runs, "train_run", lambda settings: summary)
    monkeypatch.setattr("experiments.llm.__main__.train_text", lambda settings: summary)
    monkeypatch.setattr("experiments.llm.__main__.draw_run", lambda out: [out / "accuracy.png"])
    out = tmp_path / "run"
    assert main(["train", *["--base", "x"] * words, "--out", str(out), "--log", "parquet"]) == 0
    text = capsys.readouterr().out
    assert "accuracy on 64 held-out prompts: 0.250 → 0.625, gain at least 0.125 (95 %)" in text
    assert f"12 updates, 2 undone,{'' if words else ' 3 regressions,'} 1234 tokens/s, 57 s, 8 programs compiled" in text
    assert ("the start is after 16 demonstrations; before them: 0.062" in text) == words
    for path in (out, out / "summary.json", out / "accuracy.png"):
        assert f"  {path}\n" in text
    assert f"teamtr monitor {out / 'token_log'}.parquet" in text


def test_what_the_records_say_together():
    """Tokens of each set of rollouts once, a stage's time once; steps undone; quartiles of k1/KL and k3/KL where one is."""

    def line(stage, seconds, tokens, numbers, scale=1.0, probe=None):
        kl, k1, k3 = numbers
        info = {"tokens": tokens, "kl_k1": k1, "kl_k3": k3, "step_scale": scale}
        return {
            "stage": stage,
            "time_stage": seconds,
            "resampled": tokens < 1000,
            "kl": kl,
            "info": info,
            "probe": probe or {},
        }

    records = [
        line(0, 2.0, 100, (0.02, 0.01, 0.03)),
        line(0, 2.5, 1000, (0.04, 0.04, 0.04), 0.5, {"regression": True}),
        line(0, 3.0, 1000, (0.0, 0.0, 0.0), 0.0, {"regression": False}),
        line(1, 5.0, 60, (0.01, 0.02, 0.005), 1.0, {"regression": True}),
    ]
    found = keeping.done_of(records)
    assert found == {
        "tokens": 160, "tokens_per_second": 20.0, "seconds_stages": 8.0, "updates": 4, "regressions": 2, "regressions_tested": 3,
        "undone": 1, "k1_over_kl": pytest.approx([0.75, 1.0, 1.5]), "k3_over_kl": pytest.approx([0.75, 1.0, 1.25]),
    }  # fmt: skip
    assert keeping.done_of(records[2:3])["k1_over_kl"] is None


def test_what_a_command_does_if_nothing_is_asked_for(tmp_path):
    """Defaults decide results: whoever changes one means it."""
    told = {"method": "teamtr", "order": "fixed", "updates": "sequential", "group": 8, "temperature": 1.0, "delta": 0.02,
            "seed": 0, "sharers": None, "test_prompts": None, "tensorboard": False, "log": None}  # fmt: skip
    warm = WarmStart(low=0.25, high=0.4, smoothing=0.15, every=50)
    toy = told | {"prompts": 128, "learning_rate": 2e-4, "epochs": 2, "test_samples": 4, "task": "carry", "warm": warm,
                  "probe_prompts": 1024, "difficulty": ("digits=2",), "model": ModelConfig()}  # fmt: skip
    words = told | {"prompts": 16, "learning_rate": 3e-4, "epochs": 1, "test_samples": 1, "task": "arithmetic", "steps": 4,
                    "micro_batch": 8, "warm": TextWarmStart(), "dtype": "float32", "drift": "keep", "full": False, "remat": False,
                    "unroll": True, "verifier": "number", "lora": Adapters(8, 16.0)}  # fmt: skip
    for settings, stages, expected in (
        (Train(tmp_path), 12, toy), (Compare(tmp_path), 10, toy | {"methods": None, "seeds": 3}),
        (TextTrain(tmp_path, base=("x",)), 6, words),
        (TextCompare(tmp_path, base=("x",)), 6,
         words | {"methods": ("teamtr", "no_resampling", "importance_weights", "grpo"), "seeds": 3}),
    ):  # fmt: skip
        assert {name: getattr(settings, name) for name in expected} == expected
        assert settings.stages == stages
    assert Eval(tmp_path) == Eval(tmp_path, None, 8, (), False, 1)
    assert Show(tmp_path) == Show(tmp_path, 8, False, False, 2)
    assert (TEST_PROMPTS, TEXT_PROMPTS) == (512, 200)
    swap = swaps.Replace(tmp_path)
    assert (swap.stages, swap.radius, swap.probes, swap.seed, swap.home) == (5, 0.05, 500, 1, tmp_path / "replacement")


def test_events_of_tensorboard(tmp_path, monkeypatch):
    """A step for each update, over all stages; where a run goes on, events of later stages are dropped. Only if asked for."""
    written, begun = {}, []

    class Writer:
        def __init__(self, folder, purge_step):
            begun.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written[name, step] = value

        def flush(self):
            pass

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(keeping, "latest", lambda folder: 2)
    record = {"stage": 2, "update": 1, "surrogate": 0.5, "kl": 0.25, "info": {"steps": 4}, "probe": {"after": 0.75}}
    keeping.tensorboard(Train(tmp_path / "run"), 3)(record)
    assert not written
    keeping.tensorboard(Train(tmp_path / "run", tensorboard=True), 3)(record)
    assert begun == [(str(tmp_path / "run" / "tensorboard"), 6)]
    assert written == {("surrogate", 7): 0.5, ("kl", 7): 0.25, ("steps", 7): 4.0, ("probe/after", 7): 0.75}


def test_what_a_conversation_earned():
    assert [verdict(x).plain for x in (1.0, 0.0, 0.5)] == [
        "  ✓ right   reward 1\n", "  ✗ wrong   reward 0\n", "  ~ partly   reward 0.5\n"
    ]  # fmt: skip
    assert [standing(k) for k in range(3)] == ["before training", "after 1 stage", "after 2 stages"]


def test_only_failures_are_shown(trained, monkeypatch):
    """Out of eight times as many, those that did not earn everything; the mean is that of all."""
    reward = np.ones((16, 1))
    reward[[3, 5, 9]] = [[0.5], [0.0], [0.25]]
    said = [[["aa", "bb", "cc"]]] * 16
    monkeypatch.setattr(transcripts, "converse", lambda *arguments: Conversations(reward, said))
    console = Console(record=True, width=120)
    show(Show(trained, count=2, failures=True), console)
    text = console.export_text()
    assert [text.count(mark) for mark in ("✓ right", "~ partly", "✗ wrong")] == [0, 1, 1]
    assert f"mean reward {13.75 / 16:.3f} of 16 conversations, 2 shown" in text


def test_a_replacement_is_reported_by_hand(tmp_path, capsys):
    """Means over the replaced agents, against the team as it was before; the end against what it became by then."""
    keep = np.array([[0.5, 0.5, 1.0], [0.75, 0.5, 1.0]])
    direct = np.array([[[0.25, 0.5, 0.0], [0.5, 0.0, 0.5]], [[0.0, 0.25, 1.0], [0.5, 1.0, 1.0]]])
    swap = [{"kl": [kl, -9.0, 9.0], "certificate": [low, -9.0, 9.0]} for kl, low in ((0.4, -0.5), (0.2, 0.25))]
    courses = [swaps.Course("no replacement", None, keep, None), swaps.Course("from scratch", None, keep - 0.5, None)]
    for name, gain in (("direct", 0.0), ("aligned", 0.125)):
        courses += [swaps.Course(name, k, direct[k] + gain, swap[k]) for k in (0, 1)]
    settings = swaps.Replace(tmp_path, out=tmp_path / "out", stages=1)
    (tmp_path / "out").mkdir()
    numbers = swaps.report(settings, courses)
    own = direct.mean(0)
    text = " ".join(capsys.readouterr().out.split())
    shown = []
    for found, difference in (
        (numbers["direct"]["change"][0], own[0] - keep[0]),
        (numbers["direct"]["change"][1], own[1] - keep[0]),
        (numbers["direct"]["end_against_no_replacement"], own[1] - keep[1]),
    ):
        half = 1.96 * difference.std(ddof=1) / math.sqrt(3)
        mean = difference.mean()
        assert found == pytest.approx({"value": mean, "low": mean - half, "high": mean + half})
        shown.append(f"{100 * mean:+.1f} ± {100 * half:.1f}")
    assert f"direct │ 0.3 │ {' │ '.join(shown)} │ -12.5 │" in text
    assert (numbers["direct"]["kl"], numbers["direct"]["certificate"]) == pytest.approx((0.3, -0.125))
    assert numbers["aligned"]["accuracy"] == pytest.approx((own.mean(-1) + 0.125).tolist())
    assert numbers["from scratch"]["kl"] is numbers["no replacement"]["certificate"] is None
    assert json.loads((tmp_path / "out" / "replacement.json").read_text())["direct"] == numbers["direct"]
    assert f"accuracy before {100 * keep[0].mean():.1f} %" in text
