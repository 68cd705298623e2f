"""The exact comparison of own and shared parameters: one start, the KL of every step, what is counted, the page's table."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.llm import sharers
from experiments.saved import read
from teamtr_jax.llm import enumeration as en
from teamtr_jax.llm.model import agent_params, is_trained
from teamtr_jax.schedules import fresh, once
from teamtr_jax.stage import run_stage
from teamtr_jax.validation import InputError

ROOT = Path(__file__).parents[1]
SETTINGS = sharers.Compare(seeds=2, updates=3, progress=False)


def test_outcomes_by_hand():
    """One transcript for each: messages of agents 0, 1, 2, 0, 1, 2."""
    layout = sharers.LAYOUT
    said = [list("111111"), list("110111"), list("110011"), list("101101"), list("001001"), list("110001")]
    tokens = layout.encode_transcripts(["?"] * 6, said, np.tile(np.arange(6) % 3, (6, 1)).astype(np.int32))
    outcome = {name: task(tokens).tolist() for name, (task, _) in sharers.TASKS.items()}
    assert outcome["alike"] == [1, 1, 0, 0, 0, 0]
    assert outcome["unlike"] == [0, 0, 0, 1, 0, 0]
    # right is 11 0 00 1: in 001001 the step from 1 to 0 is wrong, in the others two are or more
    assert outcome["relay"] == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("name", sharers.ALTERNATIVES)
def test_one_start_and_steps_of_one_size(name):
    """Every alternative starts from the policy of one network; each update has the K that it should, over all who move."""
    world = sharers._world(name, "unlike")
    params = sharers.start_of(world.language, 3)
    policy = en.enumerated_policy(world, params)
    own = sharers._world("networks of their own", "unlike")
    np.testing.assert_allclose(policy, en.enumerated_policy(own, sharers.start_of(own.language, 3)), atol=1e-6)
    states = [sharers.State(params, policy, 1.0)]
    sharing = world.language.who
    backend = sharers.exact_backend(world, 0.01, states)
    end, records = run_stage(backend, states[0], range(len(sharing.leaders)), fresh)
    assert len(records) == len(states) - 1 == len(sharing.leaders)
    for before, after, record in zip(states, states[1:], records, strict=False):
        m = np.asarray(sharers._visits(world, before.policy))
        p, q = np.asarray(before.policy), np.asarray(after.policy)
        kl = np.where((p != q).any(-1), (p * np.log(p / q)).sum(-1), 0.0)
        assert (m * kl).sum() == pytest.approx(0.01, rel=2e-3)
        assert record.kl == pytest.approx(0.01, rel=2e-3)
        for agent in range(3):
            there = (np.asarray(world.team.active) == agent) & (kl > 0)
            assert there.any() == (agent in sharing.moved(record.agent))
    trained = jax.tree.leaves(is_trained(agent_params(world.language, params, 0)))
    for x, y, may in zip(jax.tree.leaves(params), jax.tree.leaves(end.params), trained, strict=True):
        assert bool((x != y).any()) <= may
    assert sum(trained) == (8 if "adapter" in name else len(trained))


def test_what_is_counted(monkeypatch):
    """Every number of a run from the chain of its policies; S7 with the KL of all sharers is never violated."""
    found = {name: sharers.run(SETTINGS, name, sharers._world(name, "relay"), 0) for name in (
        "networks of their own", "one adapter, in turn", "one adapter, jointly")}  # fmt: skip
    for name, x in found.items():
        assert x["kl"] == pytest.approx(0.03, rel=2e-3)
        assert (x["violations"], x["updates"]) == (0, 3)
        assert x["start"] == pytest.approx(found["networks of their own"]["start"], abs=1e-6)
        assert x["batch_cached"] <= x["batch_joint"] * (1 + 1e-9)  # S7d
        assert x["batch_bound"] == pytest.approx(x["batch_cached"] / x["batch_joint"])
        assert x["certified"] <= x["improvement"]
        assert (x["batch_joint"] == pytest.approx(1, rel=1e-5)) == ("in turn" not in name)
    world = sharers._world("one adapter, in turn", "relay")
    states: list = [
        sharers.State(params := sharers.start_of(world.language, 0), en.enumerated_policy(world, params), 1.0)
    ]
    run_stage(sharers.exact_backend(world, 0.01, states), states[0], [0, 1, 2], once)
    m, tables = np.asarray(sharers._visits(world, states[0].policy)), [np.asarray(x.policy) for x in states]
    pairs = [(tables[0], tables[-1]), *itertools.pairwise(tables)]
    kls = [(m * (p * np.log(p / q)).sum(-1)).sum() for p, q in pairs]
    assert found["one adapter, in turn"]["batch_joint"] == pytest.approx(kls[0] / sum(kls[1:]), rel=1e-6)


def test_the_table_of_the_page():
    """docs/llm.md has the table of docs/llm/sharers.json; where this fails, what is printed is what has to stand there."""
    found = read(ROOT / "docs" / "llm" / "sharers.json", "the comparison of `python -m experiments.llm.sharers`")
    shown = sharers.markdown(found["found"])
    assert shown in (ROOT / "docs" / "llm.md").read_text(encoding="utf-8"), shown
    assert sum(sum(x["violations"]) for rows in found["found"].values() for x in rows.values()) == 0


def test_the_program(tmp_path, monkeypatch, capsys):
    """It writes what it found, prints a table for each task, and refuses what makes no sense."""
    monkeypatch.setattr(sharers, "run", lambda settings, name, world, seed: dict.fromkeys(
        ("start", "improvement", "kl", "gap", "certified", "worse", "violations", "updates", "batch_improvement", "batch_joint",
         "batch_cached", "batch_bound"), 1.0 + seed))  # fmt: skip
    monkeypatch.setattr(sharers, "_world", lambda name, task: None)
    assert sharers.main(["--out", str(tmp_path / "new"), "--seeds", "3", "--no-progress"]) == 0
    found = read(tmp_path / "new" / "sharers.json", "")["found"]
    assert list(found) == list(sharers.TASKS)
    assert found["relay"]["one network, jointly"]["improvement"] == [1.0, 2.0, 3.0]
    text = capsys.readouterr().out
    assert "unlike: agent 1 says zero, the others one; one may be wrong; J = 2.000 at the start" in text
    assert sharers.table("alike", found["alike"])[1] == [
        "adapters of their own", "2.000 ± 2.484", "0.000 ± 0.000", "100 %", "200 %", "2.00", "2.00", "2.00"
    ]  # fmt: skip
    assert sharers.main(["--seeds", "1"]) == 2
    assert "seeds: found 1" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"^radius: found 0"):
        sharers.Compare(radius=0.0)


def test_a_step_that_cannot_be_found(monkeypatch):
    """A gradient that is zero moves nothing: named, not looked for forever."""
    world = sharers._world("networks of their own", "alike")
    params = sharers.start_of(world.language, 0)
    start = sharers.State(params, en.enumerated_policy(world, params), 1.0)
    still = jax.tree.map(jnp.zeros_like, agent_params(world.language, params, 0))
    monkeypatch.setattr(en, "policy_gradient", lambda *_: (0.0, still))
    with pytest.raises(
        ArithmeticError, match=r"^stage 0, update 0: agent 0: no step with a KL of 0.01, the last had 0$"
    ):
        run_stage(sharers.exact_backend(world, 0.01, [start]), start, [0, 1, 2], fresh)
