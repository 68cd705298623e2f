"""verl's own loops on a CPU write a log: its numbers are those of a float64 scoring of the engine's responses, apart from verl.

What is verl's here: the trainers and their `fit`, the configuration, `DataProto`, padding, balancing, advantages, rollout
correction, the code that puts responses into the store, TransferQueue in a local Ray. What is not: workers (a tiny Llama scores
and trains in their place), FSDP, Megatron, vLLM, SGLang. One environment has one version of verl.
"""

import inspect
import os
import re
import subprocess
import sys
from collections import defaultdict

import numpy as np
import oracle
import pytest
import torch
import verl
import verl_world as world

import teamtr_jax.integrations.verl as adapter
from teamtr_jax.integrations.verl import watch
from teamtr_jax.integrations.verl_settings import sampler_of_config
from teamtr_jax.monitor import read_token_log
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError

NEW = verl.__version__.startswith("0.9")
STORED = pytest.mark.skipif(not NEW, reason="keys into a store are of verl 0.9")
CLOSE = 2e-5
"""Nats a token: the float32 of verl's tensors."""


@pytest.fixture
def store():
    """TransferQueue without anything in it."""
    world.store()


def held(folder, *changes, seed=0, **engine):
    trainer = world.held_trainer(folder / "checkpoints", *changes, seed=seed, **engine)
    with_watch = watch(trainer, folder / "run")
    trainer.fit()
    with_watch.close()
    return trainer.actor_rollout_wg, trainer.async_rollout_manager.made


def stored(folder, *changes, kind="PPOTrainerSync", seed=0, **engine):
    trainer, loops = world.stored_trainer(folder / "checkpoints", *changes, kind=kind, seed=seed, **engine)
    with_watch = watch(trainer, folder / "run")
    trainer.fit(loops)
    with_watch.close()
    return trainer.actor_rollout_wg, loops.made


def true_scores(workers, made, update):
    """[T] of a response under the weights before an update, in float64, row by row."""
    model = world.network()
    states = [*workers.before, workers.model.state_dict()]
    model.load_state_dict(states[update])
    with torch.no_grad():
        return world.log_probs(model, torch.tensor(made.prompt + made.response), 0.7)[len(made.prompt) :].numpy()


def responses_of(log):
    """By update, the rollouts of the log: rows in the order of turn and t."""
    found = defaultdict(lambda: defaultdict(list))
    for i in range(log.stage.size):
        at = int(log.stage[i]) * adapter.UPDATES + int(log.update[i])
        found[at][int(log.prompt[i]), int(log.rollout[i])].append(i)
    return found


def check(workers, made, log, updates=3, per_update=16):
    """Every response that the engine made stands in the log once, at its update, with the numbers that are its own."""
    found = responses_of(log)
    assert sorted(found) == list(range(updates))
    twice = 0
    for at, rollouts in found.items():
        expected = {m.logp: m for m in made if m.update == at}
        assert len(rollouts) == per_update
        sizes = {prompt: [r for p, r in rollouts if p == prompt] for prompt, _ in rollouts}
        assert all(sorted(x) == list(range(world.GROUP)) for x in sizes.values())
        for rows in rollouts.values():
            behaviour = tuple(log.logp_behaviour[rows].tolist())
            match = [m for m in expected.values() if tuple(np.array(m.logp)[np.array(m.mask) == 1]) == behaviour]
            assert match, "a rollout that the engine did not make at this update"
            m = expected.pop(match[0].logp)
            own = np.array(m.mask) == 1
            assert log.token[rows].tolist() == np.array(m.response)[own].tolist()
            assert set(log.reward[rows]) == {m.reward}
            runs = np.cumsum(np.diff(np.r_[0, m.mask]) == 1) - 1
            assert log.turn[rows].tolist() == runs[own].tolist()
            np.testing.assert_allclose(log.logp_current[rows], true_scores(workers, m, at)[own], atol=CLOSE)
            np.testing.assert_allclose(log.logp_new[rows], true_scores(workers, m, at + 1)[own], atol=CLOSE)
            again = log.logp_again[rows]
            assert np.isnan(again).all() or not np.isnan(again).any()
            if not np.isnan(again).any():
                twice += 1
                np.testing.assert_allclose(again, log.logp_current[rows], atol=CLOSE)
        assert not expected
        moved = max(abs(log.logp_new[rows] - log.logp_current[rows]).max() for rows in rollouts.values())
        assert moved > 100 * CLOSE, "old and new would look alike"
    assert updates * min(4, per_update) <= twice <= updates * per_update / 2


def check_monitor(made, log, records):
    """The monitor's numbers are those of the formulas, from the log's tensors as the engine's order has them."""
    for at, rollouts in responses_of(log).items():
        record = records[divmod(at, adapter.UPDATES)]
        given = []
        for (prompt, _), rows in sorted(rollouts.items()):
            turns = [[i for i in rows if log.turn[i] == turn] for turn in sorted(set(log.turn[rows]))]
            messages = [oracle.Message(log.logp_behaviour[t], log.logp_current[t], log.logp_new[t]) for t in turns]
            given.append(oracle.Rollout(prompt, float(log.reward[rows[0]]), messages))
        expected = oracle.numbers(given, fresh=True)
        for key in ("kl_k1", "kl_k3", "kl_episode", "reward", "surrogate"):
            assert record[key]["value"] == pytest.approx(expected[key], rel=1e-6, abs=1e-9), key
        assert record["weights_update"]["ess"] == pytest.approx(expected["ess"], rel=1e-6)
        for rung in record["rungs"]:
            value = expected["rungs"][f"{rung['id']}, {rung['name']}"][0]
            assert rung["certificate"]["value"] == pytest.approx(value, rel=1e-5, abs=1e-9)


# ------------------------------------------------------------------------------------------------------ a loop of verl's


@pytest.mark.parametrize("turns", [1, 3])
def test_held_batches(tmp_path, monitored, turns):
    """`RayPPOTrainer.fit`: single messages, and messages between a tool's answers, which are none of the policy's tokens."""
    workers, made = held(tmp_path, turns=turns)
    log = read_token_log(tmp_path / "run")
    assert log.sampler == Sampler(temperature=0.7, precision="bfloat16")
    check(workers, made, log)
    check_monitor(made, log, monitored(tmp_path / "run"))
    assert [call[1] for call in workers.calls] == 3 * [16, 4, 16]
    assert {call[2:] for call in workers.calls} == {(0.7, False)}


@STORED
@pytest.mark.parametrize("turns", [1, 3])
def test_stored_batches(tmp_path, monitored, store, turns):
    """`PPOTrainerSync.fit`, rows in TransferQueue."""
    workers, made = stored(tmp_path, turns=turns)
    log = read_token_log(tmp_path / "run")
    check(workers, made, log)
    check_monitor(made, log, monitored(tmp_path / "run"))
    assert [call[1] for call in workers.calls] == 3 * [16, 4, 16]


def test_watching_changes_nothing(tmp_path):
    """The weights after three updates are those of a run without, bit for bit."""
    workers, _ = held(tmp_path, turns=2)
    alone = world.held_trainer(tmp_path / "other", turns=2)
    alone.fit()
    for name, x in alone.actor_rollout_wg.model.state_dict().items():
        assert torch.equal(x, workers.model.state_dict()[name]), name


def test_closing_puts_back_what_was_there(tmp_path):
    """Wrappers of others too; twice is once; a second watch is not the first one's to close."""
    made = world.held_trainer(tmp_path, turns=1)
    theirs = made._update_actor = lambda *args, **settings: type(made)._update_actor(made, *args, **settings)
    first = watch(made, tmp_path / "log")
    first.close()
    assert made._update_actor is theirs
    second = watch(made, tmp_path / "log")
    first.close()
    assert made.teamtr_watch is second
    second.close()
    assert "_compute_old_log_prob" not in vars(made)


def test_bypass(tmp_path):
    """There `old_log_probs` is a copy of the engine's numbers: the current policy is scored apart, and differs."""
    workers, made = held(tmp_path, "algorithm.rollout_correction.bypass_mode=True", noise=0.5)
    log = read_token_log(tmp_path / "run")
    check(workers, made, log)
    assert abs(log.logp_behaviour - log.logp_current).max() > 0.4
    assert [call[1] for call in workers.calls] == 3 * [16, 4, 16]


REJECTING = (
    "algorithm.rollout_correction.rollout_rs=token_k1",
    "algorithm.rollout_correction.rollout_rs_threshold='0.8_1.25'",
)


def rejected(monkeypatch):
    """Tokens that verl's rejection took out of the loss."""
    import verl.trainer.ppo.rollout_corr_helper as helper

    count, original = [0], helper.compute_rollout_correction_and_add_to_batch

    def counting(batch, *args, **kwargs):
        before = batch.batch["response_mask"].sum()
        out = original(batch, *args, **kwargs)
        count[0] += int(before - out[0].batch["response_mask"].sum())
        return out

    monkeypatch.setattr(helper, "compute_rollout_correction_and_add_to_batch", counting)
    if NEW:
        import verl.trainer.ppo.v1.trainer_base as base

        monkeypatch.setattr(base, "compute_rollout_correction_and_add_to_batch", counting)
    return count


def test_what_is_rejected_was_written(tmp_path, monkeypatch):
    """A mask of the loss is none of the policy: tokens that rollout correction rejects stand in the log."""
    count = rejected(monkeypatch)
    workers, made = held(tmp_path, *REJECTING, noise=0.5)
    assert count[0] >= 10
    check(workers, made, read_token_log(tmp_path / "run"))


@STORED
def test_what_is_rejected_was_written_in_the_store_too(tmp_path, monkeypatch, store):
    """The same of 0.9's trainer."""
    count = rejected(monkeypatch)
    workers, made = stored(tmp_path, *REJECTING, noise=0.5)
    assert count[0] >= 10
    check(workers, made, read_token_log(tmp_path / "run"))


@STORED
def test_old_of_the_separate_trainer_is_not_current(tmp_path, store):
    """Its second update between synchronisations has the first one's policy as `old`; the log has the policy as it is."""
    changes = (
        "data.train_batch_size=4",
        "trainer.v1.sampler.max_off_policy_threshold=100",
        "trainer.total_training_steps=2",
    )
    workers, made = stored(tmp_path, *changes, kind="PPOTrainerSeparateAsync")
    log = read_token_log(tmp_path / "run")
    found = responses_of(log)
    assert sorted(found) == [0, 1, 2, 3]
    for at, rollouts in found.items():
        assert len(rollouts) == 8
        for rows in rollouts.values():
            (m,) = [m for m in made if m.logp == tuple(log.logp_behaviour[rows].tolist())]
            np.testing.assert_allclose(log.logp_current[rows], true_scores(workers, m, at), atol=CLOSE)
            np.testing.assert_allclose(log.logp_new[rows], true_scores(workers, m, at + 1), atol=CLOSE)
            assert m.update == 2 * (at // 2)  # the engine has the weights of the last synchronisation


@STORED
def test_a_session_that_failed(tmp_path, monitored, store):
    """verl fills the batch up with a row of nobody's; it is not in the log, and the gap in the ids is."""
    workers, made = stored(tmp_path, "trainer.total_training_steps=1", fails=(6,))
    assert workers.calls[0][1] == 16
    assert len(made) == 15
    log = read_token_log(tmp_path / "run")
    (rollouts,) = responses_of(log).values()
    assert len(rollouts) == 15
    assert sizes_of(rollouts) == [3, 4, 4, 4]
    (record,) = monitored(tmp_path / "run").values()
    assert record["groups"] or record["ids_missing"]
    assert record["invalid"]


def sizes_of(rollouts):
    sizes = defaultdict(int)
    for prompt, _ in rollouts:
        sizes[prompt] += 1
    return sorted(sizes.values())


@STORED
def test_several_responses_of_a_rollout(tmp_path, store):
    """They are one rollout, whose messages are numbered on, with the reward of the last response."""
    _, made = stored(tmp_path, "trainer.total_training_steps=1", outputs=2, turns=2)
    log = read_token_log(tmp_path / "run")
    (rollouts,) = responses_of(log).values()
    assert len(rollouts) == 16
    sessions = defaultdict(dict)
    for m in made:
        key, _, index = m.key.rpartition("_")
        sessions[key][int(index)] = m
    expected = {}
    for parts in sessions.values():
        logp = np.concatenate([np.array(parts[i].logp)[np.array(parts[i].mask) == 1] for i in (0, 1)])
        expected[tuple(logp.tolist())] = (
            parts[1].reward,
            [
                *(np.cumsum(np.diff(np.r_[0, parts[0].mask]) == 1) - 1)[np.array(parts[0].mask) == 1].tolist(),
                *(np.cumsum(np.diff(np.r_[0, parts[1].mask]) == 1) + 1)[np.array(parts[1].mask) == 1].tolist(),
            ],
        )
    for rows in rollouts.values():
        reward, turn = expected.pop(tuple(log.logp_behaviour[rows].tolist()))
        assert set(log.reward[rows]) == {reward}
        assert log.turn[rows].tolist() == turn
    assert not expected


# -------------------------------------------------------------------------------------------------------------- refusals


def test_what_is_refused(tmp_path, monkeypatch):
    """Before anything is trained, by name."""
    cases = {
        "calculate_log_probs": "actor_rollout_ref.rollout.calculate_log_probs=False",
        "temperature": "actor_rollout_ref.rollout.temperature=0",
        "logprobs_mode": "actor_rollout_ref.rollout.logprobs_mode=raw_logprobs",
        "do_sample": "actor_rollout_ref.rollout.do_sample=False",
    }
    for name, change in cases.items():
        with pytest.raises(InputError, match=name):
            watch(world.held_trainer(tmp_path, change), tmp_path / "run")
    other = ("actor_rollout_ref.rollout.name=sglang", "actor_rollout_ref.rollout.top_p=0.9")
    with pytest.raises(InputError, match=r"top_p = 0.9 of sglang"):
        watch(world.held_trainer(tmp_path, *other), tmp_path / "run")
    with pytest.raises(InputError, match=r"trainer: found .*expected a verl.trainer.ppo.ray_trainer.RayPPOTrainer or "):
        watch(object(), tmp_path / "run")
    monkeypatch.setattr(adapter, "installed", lambda _: "0.10.0")
    with pytest.raises(InputError, match=r"verl: found version 0.10.0, expected 0.7.1, 0.8.0 or 0.9.1"):
        watch(world.held_trainer(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sampler_settings(tmp_path):
    """−1 is no cut; the precision is the engine's."""
    rollout = "actor_rollout_ref.rollout"
    config = world.configuration(tmp_path, f"{rollout}.top_k=20", f"{rollout}.top_p=0.9", f"{rollout}.name=vllm")
    assert sampler_of_config(config) == Sampler(temperature=0.7, top_k=20, top_p=0.9, precision="bfloat16")
    config = world.configuration(tmp_path, "actor_rollout_ref.actor.fsdp_config.dtype=float32")
    assert sampler_of_config(config) == Sampler(temperature=0.7, precision="float32")


def test_a_missing_log_probability_is_refused(tmp_path):
    """verl fills up with 0; where the trainer is not certain of the token, that was none of the engine's."""
    trainer = world.held_trainer(tmp_path)
    watch(trainer, tmp_path / "run")
    generate = trainer.async_rollout_manager.generate_sequences

    def without(batch):
        out = generate(batch)
        out.batch["rollout_log_probs"][3] = 0
        return out

    trainer.async_rollout_manager.generate_sequences = without
    with pytest.raises(InputError, match=r"rollout_log_probs: found 0.0 in row \d+, token 0"):
        trainer.fit()
    assert trainer.actor_rollout_wg.updates == 0


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    """What was logged after it is set aside; another run in the same folder is refused before it trains."""
    held(tmp_path)
    again = world.held_trainer(tmp_path)
    with watch_of(again, tmp_path / "run"), pytest.raises(InputError, match="the log of another run"):
        again.fit()
    assert again.actor_rollout_wg.updates == 0
    resumed = world.held_trainer(tmp_path, seed=1)
    resumed._load_checkpoint = lambda: setattr(resumed, "global_steps", 1)
    with watch_of(resumed, tmp_path / "run"):
        resumed.fit()
    log = read_token_log(tmp_path / "run")
    assert sorted(responses_of(log)) == [0, 1, 2]
    assert len(list((tmp_path / "run").glob("*.parquet.*"))) == 2


class watch_of:
    def __init__(self, trainer, path):
        self.watch = watch(trainer, path)

    def __enter__(self):
        return self.watch

    def __exit__(self, *_):
        self.watch.close()


# --------------------------------------------------------------------------------- what of verl's sources is relied on


def code(thing):
    return re.sub(r"\s+", " ", inspect.getsource(thing))


def test_the_source_of_the_trainer():
    """`RayPPOTrainer`: the names, arguments and fields that the adapter reads."""
    from verl import DataProto
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    assert list(inspect.signature(RayPPOTrainer._compute_old_log_prob).parameters) == ["self", "batch"]
    assert list(inspect.signature(RayPPOTrainer._update_actor).parameters) == ["self", "batch"]
    assert list(inspect.signature(DataProto.select_idxs).parameters) == ["self", "idxs"]
    fit = code(RayPPOTrainer.fit)
    order = [
        'batch.non_tensor_batch["uid"]', "self._balance_batch(batch", "self._compute_old_log_prob(batch)",
        'batch.batch["token_level_scores"] = reward_tensor', "compute_rollout_correction_and_add_to_batch(batch",
        "self._update_actor(batch)", "self.checkpoint_manager.update_weights(self.global_steps) actor_output_metrics",
        'reduce_metrics(actor_output.meta_info["metrics"])',
    ]  # fmt: skip
    places = [fit.find(text) for text in order]
    assert -1 not in places
    assert places == sorted(places)
    assert '"bypass_mode", False)' in fit


@STORED
def test_the_source_of_the_stored_trainer():
    """`PPOTrainer`: the same, and what the store has."""
    from transfer_queue import KVBatchMeta
    from verl.trainer.ppo.v1 import AgentLoopWorkerTQ, PPOTrainerSeparateAsync
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    for name in ("_compute_old_log_prob", "_update_actor"):
        assert list(inspect.signature(getattr(PPOTrainer, name)).parameters) == ["self", "batch", "metrics"]
    assert "self.actor_rollout_wg.compute_log_prob(batch)" in code(PPOTrainer._compute_old_log_prob)
    assert 'fields = ["advantages", "returns"]' in code(PPOTrainer._compute_advantage)
    assert 'fields.append("response_mask")' in code(PPOTrainer._compute_advantage)  # not loss_mask
    put = code(AgentLoopWorkerTQ.__ray_metadata__.modified_class._agent_loop_postprocess)
    assert 'field["loss_mask"] = field["response_mask"]' in put
    assert 'keys.append(f"{uid}_{session_id}_{i}")' in put
    assert "restore_model_from_cpu(0)" in code(PPOTrainerSeparateAsync._compute_old_log_prob)
    assert PPOTrainerSeparateAsync.__name__ == adapter.SEPARATE
    assert hasattr(KVBatchMeta, "select_keys")


def test_the_source_of_the_rollouts():
    """The settings with which the agent loops sample are those that are written."""
    import verl.experimental.agent_loop.agent_loop as loops

    text = code(loops)
    for part in (
        "temperature=config.temperature",
        "top_p=config.top_p",
        "top_k=config.top_k",
        "repetition_penalty=1.0",
    ):
        assert part in text
    assert "logprobs=config.calculate_log_probs" in text


# ------------------------------------------------------------------------------------------------------------------ dumps


def test_its_own_dump_is_refused(tmp_path):
    """`trainer.rollout_data_dir`, written by verl's loop: recognised, file and folder."""
    trainer = world.held_trainer(
        tmp_path, f"trainer.rollout_data_dir={tmp_path / 'dump'}", "trainer.total_training_steps=1"
    )
    trainer.tokenizer = world.Words()
    trainer.fit()
    (path,) = (tmp_path / "dump").glob("*.jsonl")
    for given in (path, path.parent):
        with pytest.raises(
            InputError, match=r"a dump of verl's .*no prompt, rollout, stage, update, agent, turn, t, logp_b"
        ):
            read_token_log(given)


# --------------------------------------------------------------------------------------------------- without a line of Python

PLUGIN = """
import sys
from pathlib import Path
import verl_world as world
import verl
trainers = {"verl.trainer.ppo.ray_trainer", "verl.trainer.ppo.v1.trainer_base"} & set(sys.modules)
assert not trainers, f"{trainers}: a worker would pay for it"
from teamtr_jax.monitor import read_token_log
folder = Path(sys.argv[1])
trainer = world.held_trainer(folder, "trainer.total_training_steps=1")
trainer.fit()
assert trainer.__dict__.get("teamtr_watch") is None
print("rows", read_token_log(folder / "run").rows)
"""


def test_an_environment_variable_is_enough(tmp_path):
    """verl's own variable for external modules: `fit` writes a log, and nothing is imported before a trainer is."""
    set_here = {"VERL_USE_EXTERNAL_MODULES": "teamtr_jax.integrations.verl_plugin", "TEAMTR_LOG": str(tmp_path / "run")}
    paths = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", PLUGIN, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **set_here, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"rows \d\d", done.stdout)
    set_here["TEAMTR_LOG"] = ""
    program = PLUGIN.replace('print("rows"', 'print("none", (folder / "run").exists()) or exit(0); print("rows"')
    command[2:] = [program.replace("from teamtr_jax.monitor import read_token_log", ""), str(tmp_path / "second")]
    done = subprocess.run(command, env={**os.environ, **set_here, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert "none False" in done.stdout, done.stderr[-2000:]
