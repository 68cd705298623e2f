"""Token logs of an engine with numbers of its own (S12): exact means over all transcripts, a cut sampler, what is deployed."""

import numpy as np
import pytest
from monitor_logs import World, every_transcript, log_probs, world

from teamtr_jax.monitor import (
    Settings,
    monitor,
    read_stages,
    read_token_log,
    token_log,
    token_rows,
    write_token_log,
)
from teamtr_jax.monitor.own import _rungs
from teamtr_jax.monitor.remarks import remarks
from teamtr_jax.monitor.scored import score
from teamtr_jax.validation import InputError


@np.errstate(divide="ignore")
def logs(w: World, tables):
    """`log_probs` of tables with zeros."""
    return log_probs(w, tables)


def copied(w: World, copy) -> World:
    """The engine's copies of the hybrids."""
    return w._replace(tables=[[copy(row) for row in tables] for tables in w.tables])


def sharper(p):
    q = p ** (1 / 0.8)
    return q / q.sum(-1, keepdims=True)


def nucleus(p):
    """Without the rarest letter."""
    q = np.where(p > p.min(-1, keepdims=True), p, 0.0)
    return q / q.sum(-1, keepdims=True)


def engine_log(w: World, engine: World, update, deployed=True):
    """Every transcript that the engine can write, scored by the trainer before and after `update`, and its probability."""
    table, _ = every_transcript(w, update, update)
    behaviour, after = (logs(engine, engine.tables[h]).ravel() for h in (update, update + 1))
    law = np.exp(logs(engine, engine.tables[update]).sum(-1)).ravel() / w.reward.shape[0]
    kept = np.repeat(law > 0, w.tokens)
    table["logp_behaviour"] = behaviour
    if deployed:
        table["logp_deployed"] = after
    return {key: value[kept] for key, value in table.items()}, law[law > 0]


def objective(w: World, tables):
    return float((np.exp(log_probs(w, tables).sum(-1)) * w.reward).sum() / w.reward.shape[0])


CASES = {"two letters": dict(), "three letters": dict(owners=(0, 1, 0), letters=3, order=(0, 1), length=1, step=0.8)}


@pytest.fixture(params=CASES)
def case(request):
    w = world(np.random.default_rng(5), **CASES[request.param])
    return w, copied(w, sharper)


def test_exact_means_of_an_engine_that_is_sharper(case):
    """K(μ,π), K(μ,π'), S9 mismatch and S8's mean against the laws; no rung is above `J(π') − J(π)`, nor above `J(μ') − J(μ)`."""
    w, engine = case
    laws = {k: [np.exp(log_probs(x, t).sum(-1)).ravel() / w.reward.shape[0] for t in x.tables]
            for k, x in (("trainer", w), ("engine", engine))}  # fmt: skip
    reward = w.reward.ravel()
    for i, agent in enumerate(w.order):
        table, weight = engine_log(w, engine, i)
        log = token_log(table)
        s = score(log, np.arange(weight.size), np.array([agent]))
        mu, pi, new, after = laws["engine"][i], laws["trainer"][i], laws["trainer"][i + 1], laws["engine"][i + 1]
        truth = float((new - pi) @ reward)
        np.testing.assert_allclose(weight @ s.sums(s.k3_current), mu @ np.log(mu / pi), atol=1e-13)
        np.testing.assert_allclose(weight @ s.sums(s.k3_new), mu @ np.log(mu / new), atol=1e-13)
        rungs = _rungs(s, "reused", Settings())
        assert [x[:2] for x in rungs] == [("S7c", "reused, agent moved twice"), ("S9", "mismatch")]
        twice = s.reward * s.sums(np.exp(s.current + s.new) - np.exp(s.current)) - s.sums(s.k3_new + s.k3_current)
        both = s.reward * s.sums(s.current + s.new) + (1 - s.reward) * s.sums(s.current)
        np.testing.assert_allclose([x[2].value for x in rungs], [twice.mean(), both.mean()])
        expected = mu @ (reward * np.log(new / mu) + (1 - reward) * np.log(pi / mu))
        np.testing.assert_allclose(weight @ both, expected, atol=1e-13)
        assert weight @ twice <= expected + 1e-13 <= truth + 2e-13
        weighed = s.reward * np.expm1(s.sums(s.current + s.new)) + (1 - s.reward) * np.expm1(s.sums(s.current))
        np.testing.assert_allclose(weight @ weighed, truth, atol=1e-13)

        own = log._replace(logp_current=log.logp_behaviour, logp_new=log.logp_deployed)
        d = score(own, np.arange(weight.size), np.unique(log.agent))
        gain = float((after - mu) @ reward)
        np.testing.assert_allclose(weight @ (d.reward * np.expm1(d.sums(d.new))), gain, atol=1e-13)
        assert weight @ (d.reward * d.sums(d.new)) <= gain
        assert abs(gain - truth) > 1e-4  # another number than the trainer's


def test_a_cut_sampler_misleads_what_is_estimated_by_k3():
    """The example of s12.md: `J(π') − J(π) = −q`, S7c by k3 about −q², S9 (mismatch) log(1 − q), S8 −q exactly."""
    q = 0.2
    table = {
        "prompt": np.arange(4), "rollout": np.zeros(4, int), "stage": np.zeros(4, int), "update": np.zeros(4, int),
        "agent": np.zeros(4, int), "turn": np.zeros(4, int), "t": np.zeros(4, int), "logp_behaviour": np.zeros(4),
        "logp_current": np.full(4, np.log(1 - q)), "logp_new": np.full(4, np.log(1 - q)), "reward": np.full(4, 0.5),
        "updated": np.zeros(4, int), "source": np.zeros(4, int),
    }  # fmt: skip
    (record,) = monitor(token_log(table)).records
    by_name = {x["name"]: x["certificate"]["value"] for x in record["rungs"]}
    assert by_name["reused, agent moved twice"] == pytest.approx(-2 * (-q - np.log(1 - q)))
    assert by_name["reused, agent moved twice"] > -q + 0.1  # above the truth
    assert by_name["mismatch"] == pytest.approx(np.log(1 - q))
    assert record["certificate_finite_sample"]["estimate"] == pytest.approx(-q)
    assert record["sampler_misses"]["value"] == pytest.approx(q)
    assert record["sampler_cuts"]
    assert [x["lower"] == -np.inf for x in record["rungs"]] == [True, False]
    assert record["certificate"]["rung"] == "S9, mismatch"


def test_end_to_end_with_a_cut_and_without():
    """Rollouts of a nucleus: S7c has no limit, and a remark says how much is missed; without a cut it has one."""
    w = world(np.random.default_rng(11), owners=(0, 1), letters=3, order=(0, 1), length=1, prompts=2, step=0.3)
    rng = np.random.default_rng(4)
    for copy, cuts in ((nucleus, True), (sharper, False)):
        engine = copied(w, copy)
        table, law = engine_log(w, engine, 0, deployed=False)
        tokens = w.tokens
        drawn = rng.choice(law.size, 600, p=law / law.sum())
        rows = (drawn[:, None] * tokens + np.arange(tokens)).ravel()
        log = {key: value[rows] for key, value in table.items()}
        log["prompt"], log["rollout"] = np.repeat(np.arange(300), 2 * tokens), np.tile(np.repeat([0, 1], tokens), 300)
        report = monitor(token_log(log), Settings(held_out=True))
        (record,) = report.records
        missed = 1 - np.exp(log_probs(w, w.tables[0]).sum(-1)).ravel() / 2 @ (
            np.exp(logs(engine, engine.tables[0]).sum(-1)).ravel() > 0
        )
        assert record["evidence"] == "reused"
        assert record["invalid"] == []
        assert record["sampler_cuts"] is cuts
        assert (record["sampler_misses"]["low"] < missed < record["sampler_misses"]["high"]) or not cuts
        assert (record["rungs"][0]["lower"] == -np.inf) is cuts
        said = [
            x for x in remarks(report) if x.startswith("The sampler never writes some of what the current policy plays")
        ]
        assert len(said) == cuts
        truth = objective(w, w.tables[1]) - objective(w, w.tables[0])
        assert record["certificate"]["lower"] <= truth
        assert record["certificate_finite_sample"]["lower"] <= truth
        assert record["certificate_deployed"] is record["kl_deployed"] is None


def test_deployed_weights_above_one_carry_no_limit():
    """`logp_deployed` of another law than the rollouts': too little for an accusation, and no limit."""
    prompts = 60
    log = {
        "prompt": np.arange(prompts), "rollout": np.zeros(prompts, int), "stage": np.zeros(prompts, int),
        "update": np.zeros(prompts, int), "agent": np.zeros(prompts, int), "turn": np.zeros(prompts, int),
        "t": np.zeros(prompts, int), "logp_behaviour": np.full(prompts, -2.0), "logp_current": np.full(prompts, -2.0),
        "logp_new": np.full(prompts, -2.0), "logp_deployed": -2.0 + np.log(np.tile([0.86, 1.46], prompts // 2)),
        "reward": np.arange(prompts) % 2 * 1.0, "updated": np.zeros(prompts, int),
    }  # fmt: skip
    (record,) = monitor(token_log(log), Settings(held_out=True)).records
    assert record["certificate"]["label"] == "held-out"
    for key in ("certificate_deployed", "certificate_deployed_finite_sample"):
        assert record[key]["lower"] == -np.inf
        assert record[key]["label"] == "none: the mean weight deployed/behaviour lies above 1"


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, "a log-probability, at most 0"), (-np.inf, "a finite number; this is a token that")]
)
def test_what_is_refused_of_the_column(value, expected):
    log = {
        "prompt": [0, 1], "rollout": [0, 0], "stage": [0, 0], "update": [0, 0], "agent": [0, 0], "turn": [0, 0], "t": [0, 0],
        "logp_behaviour": [-1.0, -1.0], "logp_current": [-1.0, -1.0], "logp_new": [-1.0, -1.0], "reward": [0.0, 1.0],
        "logp_deployed": [-1.0, value],
    }  # fmt: skip
    with pytest.raises(InputError, match="column logp_deployed, row 2") as error:
        token_log(log)
    assert expected in error.value.expected


def test_the_column_is_written_and_read(tmp_path):
    """Both formats, and stage by stage; a rollout without token has 0 there."""
    pytest.importorskip("pyarrow")
    rows = token_rows(
        [[1, 1], [0, 0]], stage=0, update=0, prompt=[0, 1], rollout=0, agent=0, turn=0, logp_behaviour=-1.0, logp_current=-1.5,
        logp_new=-1.25, logp_deployed=[[-0.5, -0.75], [-9.0, -9.0]], reward=[1.0, 0.0],
    )  # fmt: skip
    assert rows["logp_deployed"].tolist() == [-0.5, -0.75, 0.0]
    for name in ("log.jsonl", "log.parquet"):
        path = write_token_log(tmp_path / name, rows)
        (part,) = read_stages(path)
        for log in (read_token_log(path), part):
            assert log.logp_deployed.tolist() == [-0.5, -0.75, 0.0]
            assert "logp_deployed" in log.columns()
    del rows["logp_deployed"]
    assert token_log(rows).logp_deployed is None
