"""The watch of tunix's learner, on what stands for tunix 0.1.7 here; tests/integrations has the library itself."""

import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from teamtr_jax.integrations import tunix, tunix_settings
from teamtr_jax.integrations.tunix_rollouts import completed, engine_numbers, twice_in_stream
from teamtr_jax.monitor import read_token_log
from teamtr_jax.validation import InputError

EOS, GROUP, LIMIT = 2, 2, 3
TOKENS = [[5], [5, 6, 7], [], [8, 0]]
"""Two groups: one that ended at once, one at the limit."""


def test_nothing_heavy_is_imported():
    code = "import sys, teamtr_jax.integrations.tunix; print([x for x in ('jax', 'flax', 'tunix') if x in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_without_tunix_it_is_named(tmp_path):
    with pytest.raises(InputError, match="google-tunix: found no such package"):
        tunix.watch(object(), tmp_path / "log")


def test_completions_keep_pads_and_get_their_end_back():
    ids, mask, ends = completed(TOKENS, LIMIT, [EOS, 9], pad=0, left_out=True)
    assert ids.tolist() == [[5, 2, 0], [5, 6, 7], [2, 0, 0], [8, 0, 2]]
    assert mask.sum(1).tolist() == [2, 3, 1, 3]
    assert ends.tolist() == [1, -1, 0, 2]
    ids, mask, ends = completed([[5, 9], [5], [5, 6, 9]], LIMIT, [EOS, 9], pad=9, left_out=False)
    assert ids.tolist() == [[5, 9, 9], [5, 9, 9], [5, 6, 9]]
    assert mask.sum(1).tolist() == [2, 1, 3]  # an engine that keeps the end: what has none was cut off
    assert ends.tolist() == [1, -1, 2]
    with pytest.raises(InputError, match="tokens, row 1: found 4 tokens, expected at most"):
        completed([[1], [1, 2, 3, 4]], LIMIT, [EOS], pad=0, left_out=True)


def test_numbers_of_an_engine():
    mask = np.array([[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(engine_numbers(None, mask), np.full((2, 3), np.nan))
    found = engine_numbers([[-1.0], [-2.0, -3.0]], mask)  # of what was not written none is kept
    np.testing.assert_array_equal(found, [[-1.0, np.nan, np.nan], [-2.0, np.nan, np.nan]])


def test_a_share_is_scored_twice_as_rollouts_come():
    """Of several prompts, which are the units of intervals; the same whatever comes together."""
    whole = twice_in_stream(0, 64, 4, 0.125)
    parts = [twice_in_stream(first, n, 4, 0.125) for first, n in ((0, 24), (24, 4), (28, 36))]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.flatnonzero(whole).tolist() == [0, 4, 8, 12, 16, 24, 32, 40, 48, 56]
    assert twice_in_stream(0, 8, 4, 0.01).tolist() == [True, False, False, False] * 2
    assert twice_in_stream(0, 12, 4, 1.0).all()


# -------------------------------------------------------------------------------------------- what stands for tunix


class Hooks:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *_: self.calls.append(name)


class Rollout(SimpleNamespace):
    """The engine; its weights are those of the actor, or of the last synchronisation."""

    def pad_id(self):
        return 0

    def eos_id(self):
        return EOS

    def model(self):
        return self.weights


class Trainer(SimpleNamespace):
    def with_training_hooks(self, hooks):
        self.training_hooks = hooks

    def train(self, moves=True):
        self.training_hooks.on_train_start(self)
        self.training_hooks.on_train_step_end(self, 0, 0.0)
        if moves:
            self.train_steps += 1
            self.model["w"] += 1.0


class Cluster:
    def __init__(self, apart=False, **rollout):
        settings = dict(temperature=0.5, top_p=1.0, top_k=None, eos_tokens=None, max_tokens_to_generate=LIMIT)
        self.config = SimpleNamespace(**{**settings, "return_logprobs": False, **rollout})
        weights = {"w": 0.0}
        self.told = []
        logger = SimpleNamespace(log=lambda *given: self.told.append(given))
        self.actor_trainer = Trainer(model=weights, train_steps=0, training_hooks=Hooks(), metrics_logger=logger)
        self.rollout = Rollout(weights=dict(weights) if apart else weights)
        training = SimpleNamespace(mini_batch_size=2, data_sharding_axis=(), compute_logps_micro_batch_size=None)
        training.train_micro_batch_size = None
        mesh = nullcontext()
        mesh.size = 1
        self.cluster_config = SimpleNamespace(
            offload_to_cpu=False, training_config=training, role_to_mesh={"actor": mesh, "rollout": mesh},
            role_to_logical_axis_rule=None,
        )  # fmt: skip
        self.global_steps, self.logprobs, self.closed = 0, None, False

    def get_rollout_config(self, mode):
        return self.config

    def generate(self, prompts, apply_chat_template=False, mode="train", micro_batch_size=None):
        prompts = np.tile([0, 3], (len(TOKENS), 1))
        return SimpleNamespace(tokens=TOKENS, logprobs=self.logprobs, left_padded_prompt_tokens=prompts)

    def sync_weights(self):
        self.rollout.weights.update(self.actor_trainer.model)
        self.global_steps += 1

    def close(self):
        self.closed = True


class Learner:
    def __init__(self, cluster, apart=False):
        self.rl_cluster, self.metric_fns, self.should_sync_weights = cluster, [], apart
        self.can_enable_async_rollout = apart
        self.algo_config = SimpleNamespace(num_generations=GROUP, num_iterations=1)

    def sample(self, mode="train"):
        self.rl_cluster.generate(["3"] * len(TOKENS), mode=mode)
        for metric in self.metric_fns:
            assert metric(prompts=[], completions=[], rewards=np.linspace(0, 1, len(TOKENS)), advantages=[]) == {}


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A watched learner; a log-probability is −1 − w/10 − token/100, and −3 where the sampler's places are asked for."""

    def score(graph, state, prompts, completions, stops, places_of_sampler):
        return np.float32(-3.0 if places_of_sampler else -1.0 - state / 10) - completions.astype(np.float32) / 100

    modules = {
        "flax.nnx": SimpleNamespace(split=lambda model: ("graph", model["w"]), Module=dict),
        "jax": SimpleNamespace(tree=SimpleNamespace(map=lambda f, x: f(x)), process_count=lambda: 1),
        "jax.numpy": SimpleNamespace(asarray=np.asarray, dtype=np.dtype),
        "tunix": SimpleNamespace(GRPOLearner=Learner),
        "tunix.rl.rl_cluster": SimpleNamespace(
            Mode=SimpleNamespace(TRAIN="train"), Role=SimpleNamespace(ACTOR="actor", ROLLOUT="rollout")
        ),
        "tunix.rl.rollout.vanilla_rollout": SimpleNamespace(VanillaRollout=Rollout),
        "tunix.sft.sharding_utils": SimpleNamespace(shard_input=lambda x, axis: x),
    }
    for module in (tunix, tunix_settings):
        monkeypatch.setattr(module, "import_module", modules.__getitem__)
    monkeypatch.setattr(tunix_settings, "installed", lambda _: "0.1.7")
    monkeypatch.setattr(tunix, "scorer", lambda *_: score)

    def make(apart=False, step=0, **rollout):
        cluster = Cluster(apart, **rollout)
        cluster.actor_trainer.model = Weights(w=float(step))
        cluster.rollout.weights = Weights(w=float(step)) if apart else cluster.actor_trainer.model
        cluster.global_steps, cluster.actor_trainer.train_steps = step, step * (1 if apart else 2)
        learner = Learner(cluster, apart)
        return learner, tunix.watch(learner, tmp_path / "log", again=1 / 3)

    return make


class Weights(dict):
    config = SimpleNamespace(dtype="float32")


def updates(path):
    """By stage and update: how many rollouts, and the weights that current and new are of."""
    log = read_token_log(path / "log")
    out = {}
    for at in sorted(set(zip(log.stage.tolist(), log.update.tolist(), strict=True))):
        rows = (log.stage == at[0]) & (log.update == at[1])
        current, new = (np.round((-1 - x - log.token / 100)[rows] * 10, 3) for x in (log.logp_current, log.logp_new))
        assert len(set(current)) == len(set(new)) == 1
        out[at] = len(set(zip(log.prompt[rows], log.rollout[rows], strict=True))), current[0], new[0]
    np.testing.assert_array_equal(log.source, log.update[log.transcripts[:-1]])
    return out, log


def test_one_set_of_weights_every_mini_batch_is_an_update(made, tmp_path, monkeypatch):
    monkeypatch.setattr(tunix, "UPDATES", 2)
    learner, _ = made()
    cluster, trainer = learner.rl_cluster, learner.rl_cluster.actor_trainer
    theirs = trainer.training_hooks._previous
    for _ in range(3):
        for _ in range(2):
            learner.sample()
            trainer.train(moves=False)  # gradients are accumulated
            learner.sample()
            learner.sample(mode="eval")
            trainer.train()
        cluster.global_steps += 1
    cluster.close()
    found, log = updates(tmp_path)
    assert cluster.closed
    assert trainer.training_hooks is theirs
    assert learner.metric_fns == []
    assert set(theirs.calls) == {"on_train_start", "on_train_step_end"}
    want = {(n // 4, n % 4): (2 * len(TOKENS), n, n + 1) for n in range(6)}
    assert found == want
    assert log.token[:6].tolist() == [5, 2, 5, 6, 7, 2]
    assert log.reward[[0, 2, 5]].tolist() == pytest.approx([0, 1 / 3, 2 / 3])
    assert [name for _, name, *_ in cluster.told[:4]] == ["kl_k1", "kl_k3", "floor_k3", "ess"]
    assert [given[-1] for given in cluster.told[::8]] == [0, 1, 2]
    number = log.prompt % 4 * GROUP + log.rollout
    twice = (number % 3 == 0) | (log.rollout == 0)  # one in three, and the first of each of four groups
    np.testing.assert_array_equal(np.isnan(log.logp_again), ~twice)
    np.testing.assert_array_equal(log.logp_again[twice], log.logp_current[twice])


def test_weights_of_its_own_a_global_step_is_an_update(made, tmp_path):
    learner, _ = made(apart=True)
    cluster, trainer = learner.rl_cluster, learner.rl_cluster.actor_trainer
    for _ in range(2):
        for _ in range(3):
            learner.sample()  # the later ones when the actor has moved
            trainer.train()
        cluster.sync_weights()
    cluster.close()
    found, log = updates(tmp_path)
    assert found == {(0, 0): (12, 0, 3), (0, 1): (12, 3, 6)}
    odd = np.isin(log.prompt % 2, 1) & (log.rollout == 1)  # the one with a pad: the sampler's own places
    np.testing.assert_allclose(log.logp_behaviour[odd], -3 - log.token[odd] / 100, atol=1e-6)
    np.testing.assert_array_equal(log.logp_behaviour[~odd], log.logp_current[~odd])


def test_it_goes_on_where_the_learner_does(made, tmp_path):
    for start in (0, 1):  # a checkpoint of step 1, training was at step 3
        learner, _ = made(step=start)
        for _ in range(3 - start):
            for _ in range(2):
                learner.sample()
                learner.rl_cluster.actor_trainer.train()
            learner.rl_cluster.global_steps += 1
        learner.rl_cluster.close()
    found, _ = updates(tmp_path)
    assert list(found) == [(0, n) for n in range(6)]
    assert len([path for path in (tmp_path / "log").glob("*.parquet*") if path.suffix != ".parquet"]) == 4


def test_without_a_step_nothing_is_written(made, tmp_path):
    learner, watch = made()
    learner.sample()
    learner.rl_cluster.actor_trainer.train(moves=False)
    watch.close()
    watch.close()
    assert not list((tmp_path / "log").glob("*.parquet"))
    learner.sample()  # and it no longer listens


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (dict(return_logprobs=False), "rollout_config.return_logprobs"),
        (dict(top_k=None), "rollout_config.top_k"),
        (dict(rollout_vllm_logprobs_mode="raw_logprobs"), "rollout_config.rollout_vllm_logprobs_mode"),
        (dict(rollout_vllm_sampling_kwargs={"min_p": 0.1}), "rollout_config.rollout_vllm_sampling_kwargs"),
    ],
)
def test_an_engine_that_cannot_be_scored_has_to_say_its_law(made, monkeypatch, change, name):
    monkeypatch.setattr(Rollout, "model", lambda _: None)
    settings = dict(
        return_logprobs=True, top_k=-1, rollout_vllm_logprobs_mode="processed_logprobs", rollout_vllm_kwargs={},
        rollout_vllm_sampling_kwargs={},
    )  # fmt: skip
    with pytest.raises(InputError) as error:
        made(**{**settings, **change})
    assert error.value.name == name
    learner, _ = made(**settings)
    learner.rl_cluster.logprobs = [[-1.0] * len(ids) for ids in TOKENS]
    learner.sample()
    with pytest.raises(InputError, match="logprobs, row 0: found 1 tokens without one"):
        learner.rl_cluster.actor_trainer.train()


def test_what_would_make_the_log_lie_is_refused(made, monkeypatch):
    learner, watch = made()
    learner.rl_cluster.config.temperature = 0.6
    with pytest.raises(InputError, match="rollout_config: found"):
        learner.sample()
    learner.rl_cluster.config.temperature = 0.5
    learner.rl_cluster.actor_trainer.with_training_hooks(None)
    with pytest.raises(InputError, match="theirs set first, then watch"):
        learner.sample()
    watch.close()
    learner, watch = made()
    monkeypatch.setattr(watch, "_score", lambda *_, **__: np.full((len(TOKENS), LIMIT), np.nan))
    learner.sample()
    with pytest.raises(InputError, match="log-probabilities: found 9 that are no finite number"):
        learner.rl_cluster.actor_trainer.train()
