"""verl's own trainers on a CPU: its configuration and its loop, a tiny network where its workers and its engine would be."""

from __future__ import annotations

import asyncio
import sys
import types
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import verl
from tensordict import TensorDict
from transformers import LlamaConfig, LlamaForCausalLM
from verl.utils import tensordict_utils as tu

VOCABULARY, PROMPT, RESPONSE, GROUP, PROMPTS = 17, 4, 6, 4, 4
PAD, END = 0, 1


def without_flash_attention() -> None:
    """verl 0.7 and 0.8 take rows without padding from flash_attn, which a CPU has not: the four functions in its place."""
    with suppress(ImportError):
        import flash_attn.bert_padding  # noqa: F401

        return

    def unpad_input(hidden, mask):
        lengths = mask.sum(1, dtype=torch.int32)
        places = torch.nonzero(mask.flatten()).flatten()
        ends = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        return hidden.flatten(0, 1)[places], places, ends, int(lengths.max()), lengths

    made = types.ModuleType("flash_attn.bert_padding")
    made.__dict__.update(
        unpad_input=unpad_input, index_first_axis=lambda x, places: x[places], pad_input=None, rearrange=None
    )
    sys.modules["flash_attn"] = types.ModuleType("flash_attn")
    sys.modules["flash_attn.bert_padding"] = made


if verl.__version__ < "0.9":
    without_flash_attention()


def network(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, initializer_range=0.4, pad_token_id=PAD, eos_token_id=END, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def log_probs(model, ids: torch.Tensor, temperature: float) -> torch.Tensor:
    """[T] of every token given those before it; the first has none and gets 0. One row, no padding, float64 softmax."""
    logits = model(ids[None]).logits[0].double() / temperature
    found = torch.log_softmax(logits[:-1], -1).gather(1, ids[1:, None])[:, 0]
    return torch.cat([torch.zeros(1, dtype=torch.float64), found])


def configuration(folder: Path, *changes: str):
    """verl's own default configuration of `main_ppo`."""
    import verl.trainer
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(Path(verl.trainer.__file__).parent / "config"), version_base=None):
        config = compose("ppo_trainer", overrides=[
            "trainer.logger=[console]", "trainer.val_before_train=False", "trainer.test_freq=-1", "trainer.save_freq=-1",
            "trainer.resume_mode=disable", "trainer.total_epochs=1", "trainer.total_training_steps=3",
            f"trainer.default_local_dir={folder}", "algorithm.adv_estimator=grpo", f"actor_rollout_ref.rollout.n={GROUP}",
            "actor_rollout_ref.rollout.calculate_log_probs=True", "actor_rollout_ref.rollout.temperature=0.7",
            f"data.train_batch_size={PROMPTS}", f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS // 2}",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4", "actor_rollout_ref.actor.use_kl_loss=False", *changes,
        ])  # fmt: skip
    OmegaConf.set_struct(config, False)
    return config


def sampled(model, temperature: float, seed: int, turns: int = 1, noise: float = 0.0):
    """One response of the network: tokens, 1 for its own and 0 for a tool's, log-probabilities (0 for a tool's).

    With `noise` the engine is another one: of every third response its numbers lie below the trainer's by so much.
    """
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(2, VOCABULARY, (1 + seed % PROMPT,), generator=generator)
    ids, mask, logp = prompt, [], []
    for turn in range(turns):
        for _ in range(1 + (seed + turn) % 3):
            with torch.no_grad():
                law = torch.log_softmax(model(ids[None]).logits[0, -1].double() / temperature, -1)
            token = torch.multinomial(law.exp(), 1, generator=generator)
            ids, mask, logp = torch.cat([ids, token]), [*mask, 1], [*logp, law[token].item()]
        if turn + 1 < turns:
            ids, mask, logp = torch.cat([ids, torch.tensor([2])]), [*mask, 0], [*logp, 0.0]
    logp = [x - noise * m * (seed % 3 == 0) for x, m in zip(logp, mask, strict=True)]
    return prompt, ids[len(prompt) :][:RESPONSE], mask[:RESPONSE], logp[:RESPONSE]


class Made(NamedTuple):
    """A response as the engine made it."""

    update: int  #: optimiser's steps before it
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    mask: tuple[int, ...]
    logp: tuple[float, ...]  #: as float32
    reward: float
    key: str  #: 0.9: uid_session_index


def made(workers, prompt, response, mask, logp, key="") -> Made:
    logp = tuple(torch.tensor(logp).float().tolist())
    return Made(
        workers.updates, tuple(prompt.tolist()), tuple(response.tolist()), tuple(mask), logp, reward_of(response), key
    )


def reward_of(response: torch.Tensor) -> float:
    return float((response % 2).double().mean() > 0.5)


class Workers:
    """In the place of the worker group: scores and trains as verl's engine does, rows without padding, one after the other."""

    world_size = 2

    def __init__(self, config, model):
        self.config, self.model, self.calls, self.updates = config, model, [], 0
        self._dispatch_info = {"actor": [0, 1]}
        self.optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        self.before: list[dict[str, torch.Tensor]] = []  # weights before each update
        self.saved: dict[int, dict[str, torch.Tensor]] = {}

    def __getattr__(self, name):
        if name == "async_calls_finalize_fn_exec" or name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None

    def rows(self, data: TensorDict):
        return data["input_ids"].unbind()

    def logp(self, data: TensorDict) -> torch.Tensor:
        """As the engine returns it: at the place of every token the log-probability of the next one, junk at the last."""
        temperature = tu.get_non_tensor_data(data, "temperature", None)
        out = []
        for ids in self.rows(data):
            found = log_probs(self.model, ids, temperature)
            out.append(torch.cat([found[1:], torch.full((1,), -99.0, dtype=torch.float64)]).float())
        return torch.nested.as_nested_tensor(out, layout=torch.jagged)

    def score(self, data: TensorDict) -> TensorDict:
        assert len(data) % self.world_size == 0, "verl shares rows equally"
        adapter = tu.get_non_tensor_data(data, "no_lora_adapter", False)
        self.calls.append((self.updates, len(data), tu.get_non_tensor_data(data, "temperature", None), adapter))
        with torch.no_grad():
            found = self.logp(data)
        return tu.get_tensordict({"log_probs": found, "entropy": found * 0}, {"metrics": {"mfu": 0.0}})

    def train(self, data: TensorDict) -> TensorDict:
        self.before.append({name: x.detach().clone() for name, x in self.model.state_dict().items()})
        self.optimiser.zero_grad()
        found, advantages, masks = self.logp(data).unbind(), data["advantages"], data["response_mask"]
        loss = 0.0
        for i, row in enumerate(found):
            if advantages.is_nested:
                advantage, mask = advantages[i], masks[i]
            else:
                length = int(data["attention_mask"][i, -RESPONSE:].sum())
                advantage, mask = advantages[i, :length], masks[i, :length]
            loss = loss - (row[-len(mask) - 1 : -1] * advantage * mask).sum()
        (loss / len(found)).backward()
        self.optimiser.step()
        self.updates += 1
        return tu.get_tensordict({}, {"metrics": {"loss": [loss.item()], "mfu": 0.0, "grad_norm": 1.0}})

    def save_model_to_cpu(self, key):
        self.saved[key] = {name: x.clone() for name, x in self.model.state_dict().items()}

    def restore_model_from_cpu(self, key):
        self.model.load_state_dict(self.saved[key])

    def compute_log_prob(self, data):
        return self.score(data)

    def update_actor(self, data):
        return self.train(data)


class Engine:
    """In the place of the agent loops: returns what they would for the prompts of the loader."""

    def __init__(self, workers: Workers, turns: int = 1, noise: float = 0.0):
        self.workers, self.turns, self.noise, self.count, self.made = workers, turns, noise, 0, []

    def generate_sequences(self, batch):
        from verl import DataProto

        rollout, rows = self.workers.config.actor_rollout_ref.rollout, []
        n = len(batch)
        prompts, responses = torch.full((n, PROMPT), PAD), torch.full((n, RESPONSE), PAD)
        attention, own = torch.zeros(n, PROMPT + RESPONSE, dtype=torch.long), torch.zeros(n, RESPONSE, dtype=torch.long)
        logps, scores = torch.zeros(n, RESPONSE), torch.zeros(n, RESPONSE)
        for i in range(n):
            self.count += 1
            prompt, response, mask, logp = sampled(
                self.workers.model, rollout.temperature, self.count, self.turns, self.noise
            )
            self.made.append(made(self.workers, prompt, response, mask, logp))
            t = len(response)
            prompts[i, PROMPT - len(prompt) :], responses[i, :t] = prompt, response
            attention[i, PROMPT - len(prompt) : PROMPT + t] = 1
            own[i, :t], logps[i, :t], scores[i, t - 1] = torch.tensor(mask), torch.tensor(logp), reward_of(response)
            rows.append({})
        ids = torch.cat([prompts, responses], 1)
        tensors = {
            "prompts": prompts, "responses": responses, "input_ids": ids, "attention_mask": attention, "response_mask": own,
            "position_ids": (attention.cumsum(1) - 1).clamp(min=0), "rollout_log_probs": logps, "rm_scores": scores,
        }  # fmt: skip
        extra = {"multi_modal_inputs": np.array(rows, object), "__num_turns__": np.full(n, 2, np.int32)}
        return DataProto.from_dict(tensors, extra, meta_info={"timing": {}, "reward_extra_keys": []})


def held_trainer(folder: Path, *changes: str, seed: int = 0, **engine):
    """A `RayPPOTrainer` without Ray: verl's class and its `fit`; what Ray would start is put in its place."""
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    config = configuration(folder, *changes)
    trainer = object.__new__(RayPPOTrainer)
    workers = Workers(config, network(seed))
    manager = types.SimpleNamespace(
        update_weights=lambda *_: None, sleep_replicas=lambda *_: None, get_n_gpus=lambda: 1
    )
    trainer.config, trainer.actor_rollout_wg = config, workers
    trainer.async_rollout_manager = Engine(workers, **engine)
    trainer.checkpoint_manager = trainer.resource_pool_manager = trainer.llm_server_manager = manager
    trainer.use_critic = trainer.use_reference_policy = trainer.use_rm = trainer.ref_in_actor = False
    trainer.use_prefix_grouper, trainer.use_legacy_worker_impl = False, "disable"
    trainer.reward_loop_manager = trainer.train_dataset = types.SimpleNamespace()
    trainer.train_dataloader = Loader(config.trainer.total_training_steps)
    trainer.total_training_steps = config.trainer.total_training_steps
    if hasattr(trainer, "_init_dump_executor"):
        trainer._init_dump_executor()
    return trainer


class Words:
    """A tokenizer: numbers as words."""

    eos_token_id, pad_token_id = END, PAD

    def decode(self, ids, **_) -> str:
        return " ".join(map(str, ids.tolist()))

    def batch_decode(self, rows, **_) -> list[str]:
        return [self.decode(row) for row in rows]


class Loader:
    """Batches of prompts; what is in them does not matter here."""

    sampler = None

    def __init__(self, steps: int):
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self):
        for _ in range(self.steps):
            yield {
                "dummy_tensor": torch.zeros(PROMPTS, 1, dtype=torch.uint8),
                "raw_prompt": np.array([[{"role": "user", "content": "x"}]] * PROMPTS + [None], object)[:-1],
                "reward_model": np.array([{"ground_truth": "1"}] * PROMPTS, object),
                "data_source": np.array(["x"] * PROMPTS, object),
                "index": np.arange(PROMPTS),
            }


# ------------------------------------------------------------------------------------------------- 0.9: keys into a store


class StoredWorkers(Workers):
    """The same behind verl's own bridge: a `KVBatchMeta` becomes rows of the store, and what is returned is put there."""

    def compute_log_prob(self, data):
        from verl.utils.transferqueue_utils import tqbridge

        return tqbridge()(self.score)(data)

    def update_actor(self, data):
        from verl.utils.transferqueue_utils import tqbridge

        return tqbridge()(self.train)(data)


class StoredEngine:
    """In the place of the agent loop workers: verl's own code puts what the network says into the store.

    With `outputs` 2 a rollout has two responses, as of an agent loop that cuts its context.
    """

    def __init__(
        self, workers: Workers, turns: int = 1, outputs: int = 1, fails: tuple[int, ...] = (), noise: float = 0.0
    ):
        from verl.trainer.ppo.v1 import AgentLoopWorkerTQ

        self.worker = object.__new__(AgentLoopWorkerTQ.__ray_metadata__.modified_class)
        self.worker.processor, self.worker.reward_loop_worker_handles = None, None
        self.worker._compute_teacher_logprobs = _nothing
        self.workers, self.turns, self.outputs, self.fails, self.noise = workers, turns, outputs, fails, noise
        self.count, self.made = 0, []

    def generate_sequences(self, batch) -> None:
        import transfer_queue as tq

        step = tu.get_non_tensor_data(batch, "global_steps", None)
        for uid in list(batch["uid"]):
            for session in range(GROUP):
                self.count += 1
                if self.count in self.fails:
                    continue
                asyncio.run(self.worker._agent_loop_postprocess(
                    self.said(step, f"{uid}_{session}"), False, uid=uid, session_id=session, global_steps=step, data_source="x",
                    reward_model={"ground_truth": "1"},
                ))  # fmt: skip
            tq.kv_put(key=uid, partition_id="train", tag={"status": "finished"})

    def said(self, step: int, key: str):
        from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

        temperature = self.workers.config.actor_rollout_ref.rollout.temperature
        out = []
        for i in range(self.outputs):
            prompt, response, mask, logp = sampled(
                self.workers.model, temperature, 1000 * i + self.count, self.turns, self.noise
            )
            self.made.append(made(self.workers, prompt, response, mask, logp, f"{key}_{i}"))
            out.append(AgentLoopOutput(
                prompt_ids=prompt.tolist(), response_ids=response.tolist(), response_mask=mask, response_logprobs=logp,
                reward_score=reward_of(response), num_turns=2, metrics=AgentLoopMetrics(),
                extra_fields={"min_global_steps": step - 1, "max_global_steps": step - 1, "reward_extra_info": {}},
            ))  # fmt: skip
        return out


async def _nothing(*_, **__):
    return None


def stored_trainer(folder: Path, *changes: str, kind: str = "PPOTrainerSync", seed: int = 0, **engine):
    """A `PPOTrainer` of 0.9 and its engine; the store is TransferQueue's, in a local Ray."""
    from verl.trainer.ppo import v1
    from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback
    from verl.trainer.ppo.metric_utils import RolloutMoELoadBalanceMetricsAccumulator

    config = configuration(folder, *changes)
    trainer = object.__new__(getattr(v1, kind))
    workers = StoredWorkers(config, network(seed))
    manager = types.SimpleNamespace(
        update_weights=lambda *_, **__: None, sleep_replicas=lambda *_: None, get_n_gpus=lambda: 1,
        start_profile=lambda: None, stop_profile=lambda: None, abort_replicas=lambda *_: None,
    )  # fmt: skip
    trainer.config, trainer.actor_rollout_wg, trainer.global_steps = config, workers, 0
    trainer.checkpoint_callback = build_checkpoint_callback(config)
    trainer.checkpoint_manager = trainer.resource_pool_manager = trainer.llm_server_manager = manager
    trainer.standalone_checkpoint_manager = manager
    trainer.use_critic = trainer.use_reference_policy = trainer.use_teacher_policy = trainer.ref_in_actor = False
    trainer.trainer_mode, trainer.parameter_sync_step, trainer.local_trigger_step = "sync", 1, 0
    trainer.replay_buffer = trainer._build_replay_buffer()
    trainer._rollout_moe_lb_metrics_accumulator = RolloutMoELoadBalanceMetricsAccumulator()
    trainer._restored_tq_prompt_count, trainer.timing_raw = 0, {}
    trainer.tokenizer = Words()
    trainer.reward_loop_manager = types.SimpleNamespace(reward_loop_worker_handles=[])
    trainer.train_dataloader, trainer.train_dataloader_it = Loader(1000), None
    trainer.total_training_steps = trainer.steps_per_epoch = config.trainer.total_training_steps
    trainer._init_dump_executor()
    if kind == "PPOTrainerSeparateAsync":  # two updates with the weights of the first as `old`
        from verl.trainer.ppo.v1.trainer_separate_async import HybridEngineMode

        trainer.parameter_sync_step, trainer.current_mode = 2, HybridEngineMode.TRAINER
        trainer._enable_hybrid_replicas = False
        trainer.hybrid_rollout_config = types.SimpleNamespace(enable_switch=False)
        trainer.on_train_begin = lambda: None
    return trainer, StoredEngine(workers, **engine)


def store():
    """A local Ray and an empty store; gone when the process ends."""
    import ray
    import transfer_queue as tq
    from omegaconf import OmegaConf

    if not ray.is_initialized():
        ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
        tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    for partition, items in (tq.kv_list() or {}).items():
        if items:
            tq.kv_clear(keys=list(items), partition_id=partition)
