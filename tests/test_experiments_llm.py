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

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments.llm import replacement as swaps
from experiments.llm import run as runs
from experiments.llm.__main__ import main
from experiments.llm.measure import paired_gain, pass_at, regression
from experiments.llm.settings import Show, Train
from experiments.llm.setup import set_up
from experiments.llm.transcripts import show
from teamtr_jax.checkpoint import read_manifest
from teamtr_jax.llm.methods import METHODS
from teamtr_jax.llm.model import ModelConfig
from teamtr_jax.llm.monitor import read_token_log
from teamtr_jax.llm.replacement import agent_from_checkpoint
from teamtr_jax.training import CHECKPOINTS, JOURNAL, read_records

TINY = [
    "--task", "copy", "--difficulty", "length=2", "--model.width", "16", "--model.layers", "1", "--model.heads", "2",
    "--prompts", "64", "--group", "8", "--epochs", "6", "--warm.prompts", "512", "--warm.low", "0.1", "--test-prompts", "64",
    "--test-samples", "2", "--probe-prompts", "64", "--learning-rate", "0.01", "--delta", "1.0", "--no-progress",
]  # fmt: skip
"""Every character is rewarded, so that an untrained team is in the band: no warm start is compiled."""


def train(out: Path, *more: str) -> int:
    return main(["train", "--out", str(out), *TINY, *more])


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


def test_figures_are_drawn_from_what_is_saved(trained, capsys):
    written = (trained / "summary.json").read_bytes()
    (trained / "kl.png").unlink()
    assert train(trained, "--stages", "4", "--log", "jsonl") == 0
    assert (trained / "kl.png").exists()
    assert (trained / "summary.json").read_bytes() == written
    assert str(trained / "accuracy.png") in capsys.readouterr().out


def test_interrupted_and_resumed_is_the_same_run(trained, tmp_path, monkeypatch):
    out, whole = tmp_path / "run", runs.run_stage

    def interrupted(*arguments, **named):
        if arguments[5] == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    monkeypatch.setattr(runs, "run_stage", interrupted)
    assert train(out, "--stages", "4") == 130
    assert not (out / "summary.json").exists()
    with open(out / JOURNAL, "a") as file:
        file.write('{"stage": 2, "half')  # what a kill in the middle of a write leaves
    monkeypatch.setattr(runs, "run_stage", whole)
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

    def run_stage(*arguments, **named):
        raise AssertionError("trained again")

    monkeypatch.setattr(swaps, "run_stage", run_stage)
    assert swaps.main(asked) == 0
    assert json.loads((out / "replacement.json").read_text()) == found


def test_what_cannot_be_replaced_is_refused(trained, tmp_path, capsys):
    assert swaps.main([str(trained), "--agents", "3"]) == 2
    assert "agents: found 3, expected an integer from 0 to 2" in capsys.readouterr().err
    home = shutil.copytree(trained, tmp_path / "run")
    about = json.loads((home / "settings.json").read_text())
    (home / "settings.json").write_text(json.dumps({**about, "stages": 5}))
    assert swaps.main([str(home)]) == 2
    error = capsys.readouterr().err
    assert "4 of 5 stages" in error
    assert error.count("\n") == 1
    assert not (home / "replacement").exists()


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
        (["--model.width", "15"], "width, heads: found 15, 2"),
        (["--test-prompts", "100000"], "distinct held-out prompts"),
        (["--seed", "-1"], "seed: found -1, expected an integer from 0 to 4294967295"),
    ],
)
def test_bad_input_is_one_line_before_any_work(tmp_path, capsys, arguments, message):
    assert train(tmp_path / "run", *arguments) == 2
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
    assert found == pytest.approx((0.25, 0.25, 0.25))
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
