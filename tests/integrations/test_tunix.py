"""The log of tunix's GRPO learner against an independent computation from what the learner shows (tunix_runs, oracle)."""

import dataclasses

import numpy as np
import pytest
import tunix_runs as runs
from oracle import numbers
from tunix_runs import EOS, GROUP, LIMIT, alone, expected, jax, jnp, learner, logged, train

from teamtr_jax.integrations import tunix_settings
from teamtr_jax.integrations.tunix import watch
from teamtr_jax.monitor import read_token_log
from teamtr_jax.validation import InputError


def same(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def agree(log, want, tolerance=3e-5):
    """Token by token, in the order in which they were sampled."""
    assert len(log) == len(want)
    for here, there in zip(log, want, strict=True):
        assert here.reward == pytest.approx(there.reward, abs=1e-12)
        for key in ("behaviour", "current", "new"):
            mine, its = (getattr(r.messages[0], key) for r in (here, there))
            np.testing.assert_allclose(mine, its, atol=tolerance, err_msg=key)
    groups = [r.prompt for r in log]
    assert len(set(groups)) == len(log) // GROUP
    assert groups == sorted(groups)


def agree_with_monitor(record, want, fresh, tolerance=2e-4):
    near = dict(rel=tolerance, abs=tolerance)
    for key in ("kl_k1", "kl_k3", "kl_episode", "surrogate", "reward"):
        assert record[key]["value"] == pytest.approx(want[key], **near), key
    assert record["weights_update"]["ess"] == pytest.approx(want["ess"], **near)
    rungs = {f"{r['id']}, {r['name']}": (r["certificate"]["value"], r["lower"]) for r in record["rungs"]}
    assert rungs.keys() == want["rungs"].keys()
    for name, pair in want["rungs"].items():
        assert rungs[name] == pytest.approx(pair, **near), name
    s8 = record["certificate_finite_sample"]
    assert s8["estimate"] == pytest.approx(want["S8 estimate"], **near)
    if s8["label"].startswith("none"):
        return False
    assert s8["lower"] == pytest.approx(want["S8"], **near)
    assert record["certificate"]["lower"] == pytest.approx(max(low for _, low in want["rungs"].values()), **near)
    return True


def test_one_mesh_two_iterations_pad_is_eos(tmp_path, monitored):
    """The whole of it: what is written, what the monitor says of it, what tunix's logger is told; training is as without."""
    made, seen = learner()
    watch(made, tmp_path / "log", agent=3, turn=1)
    weights = train(made, 2)
    assert same(weights, train(learner(record=False)[0], 2))
    assert made.metric_fns == []
    assert made.rl_cluster.actor_trainer.training_hooks is None
    log, records = read_token_log(tmp_path / "log"), monitored(tmp_path / "log")
    assert list(records) == [(0, 0), (0, 1)]
    assert set(log.agent) == {3}
    assert set(log.turn) == {1}
    limits = 0
    for update in range(2):
        want = expected(made, seen, 2 * update, 2 * update + 2)
        here, tokens, again = logged(log, 0, update)
        agree(here, want)
        sampled = [[*map(int, ids), EOS][:LIMIT] for at, *_, batch, _ in seen.batches if at == update for ids in batch]
        assert tokens == sampled
        assert {EOS} < {ids[-1] for ids in tokens}  # some ended, some did not
        twice = [bool(np.isfinite(x).all()) for x in again]
        assert twice == [row % GROUP == 0 for row in range(len(twice))]  # 4 groups: the first of each
        assert all(np.isnan(x).all() for x, is_twice in zip(again, twice, strict=True) if not is_twice)
        current = np.concatenate([r.messages[0].current for r in here[::GROUP]])
        np.testing.assert_allclose(np.concatenate(again[::GROUP]), current, atol=1e-5)
        known = numbers(want, True)
        assert records[0, update]["evidence"] == "fresh"
        assert known["kl_k3"] > 1e-3
        limits += agree_with_monitor(records[0, update], known, True)
        for name in ("kl_k1", "kl_k3", "ess"):
            told = made.rl_cluster.actor_trainer.metrics_logger.get_metric_history("teamtr", name, "train")
            assert told[update] == pytest.approx(known[name], rel=2e-4, abs=2e-4)
    assert limits
    assert log.sampler.to_json() == {
        "temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "precision": "float32",
    }  # fmt: skip


def test_two_meshes_mini_and_micro_batches_lora(tmp_path, monitored):
    """Rollouts beside training: every rollout of a global step is of the weights it began with, whatever was trained meanwhile.

    The pad is a word that the model writes: it stays in the log, and the behaviour is the sampler's own law of it.
    """
    settings = dict(pad=0, apart=True, lora=True, mini=2, micro=1)
    made, seen = learner(**settings)
    assert made.should_sync_weights
    assert made.can_enable_async_rollout
    watch(made, tmp_path / "log", again=0.5)
    weights = train(made, 1)
    assert same(weights, train(learner(record=False, **settings)[0], 1))
    log, records = read_token_log(tmp_path / "log"), monitored(tmp_path / "log")
    assert list(records) == [(0, 0)]
    here, tokens, again = logged(log, 0, 0)
    assert len(here) == 4 * GROUP
    assert seen.batches[-1][1] > 0
    assert [np.isfinite(x).all() for x in again] == [row % 2 == 0 for row in range(16)]
    want = expected(made, seen, 0, 4, pad=0)
    padded = [0 in ids for ids in tokens]
    assert 0 < sum(padded) < 16
    for row, ids in enumerate(tokens):
        assert here[row].reward == pytest.approx(runs.reward(ids))
        if not padded[row]:
            agree([here[row]] * GROUP, [want[row]] * GROUP)
    assert max(abs(r.messages[0].new - r.messages[0].current).max() for r in here) > 0.01
    # the behaviour: what the engine says itself
    fresh, other = learner(**settings, return_logprobs=True)
    train(fresh, 1)
    for row, (mine, given) in enumerate(zip(here, [x for *_, batch in other.batches for x in batch], strict=True)):
        np.testing.assert_allclose(mine.messages[0].behaviour[: len(given)], given, atol=3e-5, err_msg=str(row))
    off = [float(abs(r.messages[0].behaviour - r.messages[0].current).max()) for r in here]
    assert max(x for x, odd in zip(off, padded, strict=True) if not odd) < 1e-5 < 1e-3 < max(off)
    agree_with_monitor(records[0, 0], numbers(here, False), False)


def test_bfloat16_cut_sampler_several_stops(tmp_path):
    """One mesh and two mini-batches: the second was sampled by the weights that the first made, and is an update of its own."""
    stops = (EOS, 5)
    made, seen = learner(
        dtype=jnp.bfloat16,
        mini=2,
        micro=2,
        iterations=1,
        top_k=8,
        top_p=0.9,
        eos_tokens=list(stops),
        return_logprobs=True,
    )
    watch(made, tmp_path / "log", again=1.0)
    train(made, 1)
    log = read_token_log(tmp_path / "log")
    assert log.sampler.precision == "bfloat16"
    assert (log.sampler.top_k, log.sampler.top_p) == (8, 0.9)
    assert sorted(set(zip(log.stage.tolist(), log.update.tolist(), strict=True))) == [(0, 0), (0, 1)]
    more = []
    for update, (_, at, padded, batch, engine) in enumerate(seen.batches):
        here, tokens, again = logged(log, 0, update)
        assert at == update
        assert len(here) == 2 * GROUP
        assert np.isfinite(np.concatenate(again)).all()
        before, _ = seen.states(update, update + 1)
        prompts = [[int(i) for i in row if i != EOS] for row in padded]
        ended = [ids[-1] == EOS for ids in tokens]
        assert any(ended)
        both = [alone(made, before, prompts, [[*ids[:-1], stop] for ids in tokens]) for stop in stops]
        for row, given in enumerate(engine):
            mine = here[row].messages[0]
            np.testing.assert_array_equal(mine.behaviour[: len(given)], np.float32(given))
            assert tokens[row][: len(given)] == list(map(int, batch[row]))
            if ended[row]:
                stop = np.logaddexp(both[0][row][-1], both[1][row][-1])
                assert mine.current[-1] == pytest.approx(stop, abs=0.04)
                more.append(stop - max(x[row][-1] for x in both))
    assert max(more) > 0.06  # the sum is another number than either
    assert max(abs(log.logp_again - log.logp_current)) < 0.5


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (dict(temperature=0.0), "rollout_config.temperature"),
        (dict(top_p=None), "rollout_config.top_p"),
        (dict(offload=True), "cluster_config.offload_to_cpu"),
        (dict(version="0.1.8"), "google-tunix"),
        (dict(agent=-1), "agent"),
        (dict(again=0.0), "again"),
        (dict(learner=object()), "learner"),
    ],
)
def test_refused_before_anything_is_done(tmp_path, monkeypatch, plain, change, name):
    cluster, options = plain.rl_cluster, {k: v for k, v in change.items() if k in ("agent", "again")}
    if "version" in change:
        monkeypatch.setattr(tunix_settings, "installed", lambda _: change["version"])
    if "offload" in change:
        monkeypatch.setattr(cluster, "cluster_config", dataclasses.replace(cluster.cluster_config, offload_to_cpu=True))
    for key in ("temperature", "top_p"):
        if key in change:
            monkeypatch.setattr(cluster.cluster_config.rollout_config, key, change[key])
    with pytest.raises(InputError) as error:
        watch(change.get("learner", plain), tmp_path / "log", **options)
    assert error.value.name == name
    assert not (tmp_path / "log").exists()
    assert plain.metric_fns == []


def test_training_goes_on_from_a_checkpoint(tmp_path, plain):
    """What the log has of the global step to be made again, and of later ones, is set aside; what was before stays."""
    cluster = plain.rl_cluster
    one = {name: np.zeros(1, int) for name in ("prompt", "rollout", "stage", "agent", "turn", "t")}
    one |= {name: np.full(1, -1.0) for name in ("logp_behaviour", "logp_current", "logp_new")} | {"reward": np.ones(1)}
    with tunix_writer(plain, tmp_path / "log") as writer:
        for update in range(4):
            writer.add(one | {"update": np.array([update])})
    cluster.global_steps = 2
    try:
        watch(plain, tmp_path / "log").close()
    finally:
        cluster.global_steps = 0
    assert set(read_token_log(tmp_path / "log").update) == {0, 1}
    aside = [path for path in (tmp_path / "log").glob("*.parquet*") if path.suffix != ".parquet"]
    assert len(aside) == 2


def tunix_writer(made, path):
    from teamtr_jax.integrations import LogWriter

    return LogWriter(path, sampler=tunix_settings.sampler_settings(made.rl_cluster))


@pytest.fixture(scope="module")
def plain():
    return learner(record=False)[0]
