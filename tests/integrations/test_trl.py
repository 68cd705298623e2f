"""The log that TRL's GRPOTrainer writes against an independent computation from what TRL itself shows (trl_runs, oracle)."""

import numpy as np
import pytest
import torch
from oracle import numbers
from trl_runs import PROMPTS, expected, flat, logged, network, read, share_of_even, trainer

from teamtr_jax.integrations.trl import watch
from teamtr_jax.integrations.trl_scoring import token_log_probs
from teamtr_jax.validation import InputError


def agree(log, plain, tolerance=2e-5):
    """The rollouts of an update in the log are those that were made, token by token."""
    assert [len(m.current) for r in log for m in r.messages] == [len(m.current) for r in plain for m in r.messages]
    for key in ("behaviour", "current", "new"):
        np.testing.assert_allclose(flat(log, key), flat(plain, key), atol=tolerance, err_msg=key)
    np.testing.assert_allclose([r.reward for r in log], [r.reward for r in plain], atol=1e-6)


def agree_with_monitor(record, plain, fresh, tolerance=1e-4):
    """Every number that is printed, and every limit that is not withheld."""
    want = numbers(plain, fresh)
    near = dict(rel=tolerance, abs=tolerance)
    for key in ("kl_k1", "kl_k3", "kl_episode", "surrogate", "reward"):
        assert record[key]["value"] == pytest.approx(want[key], **near), key
    assert record["weights_update"]["ess"] == pytest.approx(want["ess"], **near)
    assert record["weights_update"]["largest"] == pytest.approx(want["largest"], **near)
    rungs = {f"{r['id']}, {r['name']}": (r["certificate"]["value"], r["lower"]) for r in record["rungs"]}
    assert rungs.keys() == want["rungs"].keys()
    for name, (value, limit) in want["rungs"].items():
        assert rungs[name][0] == pytest.approx(value, **near), name
        assert rungs[name][1] == pytest.approx(limit, **near), name
    s8 = record["certificate_finite_sample"]
    assert s8["estimate"] == pytest.approx(want["S8 estimate"], **near)
    if not s8["label"].startswith("none"):
        assert s8["lower"] == pytest.approx(want["S8"], **near)
        best = max(limit for _, limit in want["rungs"].values())
        assert record["certificate"]["lower"] == pytest.approx(best, **near)
    return not s8["label"].startswith("none")


def test_three_scorings_and_what_the_monitor_says_of_them(tmp_path, monitored):
    plain = network()
    made, seen = trainer(tmp_path)
    watch(made, tmp_path / "log")
    made.train()
    made.teamtr_watch.close()
    table, records = read(tmp_path / "log"), monitored(tmp_path / "log")
    assert list(records) == [(0, 0), (0, 1), (0, 2)]
    limits = 0
    for step in range(3):
        want = expected(seen, plain, step)
        agree(logged(table, step), want)
        limits += agree_with_monitor(records[0, step], want, fresh=True)
        assert records[0, step]["evidence"] == "fresh"
        assert numbers(want, True)["kl_k3"] > 1e-4  # the step is not nothing
    assert limits  # at least one update's limits were compared


def test_rollouts_that_are_used_again(tmp_path, monitored):
    """Two passes over batches that two steps share: every step has the whole of them, scored anew, under their own ids."""
    plain = network()
    made, seen = trainer(tmp_path, num_iterations=2, steps_per_generation=4, gradient_accumulation_steps=2, max_steps=5)
    watch(made, tmp_path / "log")
    made.train()
    made.teamtr_watch.close()
    table, records = read(tmp_path / "log"), monitored(tmp_path / "log")
    assert [at for at, *_ in seen.sampled] == [0, 4]
    for step in range(5):
        source = 4 * (step // 4)
        want = expected(seen, plain, step, source)
        assert len(want) == 16
        here = table[table["update"] == step]
        assert set(here["source"]) == {source}
        agree(logged(table, step), want)
        fresh = step == source
        agree_with_monitor(records[0, step], want, fresh)
        assert records[0, step]["evidence"] == ("fresh" if fresh else "reused")
        if not fresh:
            assert [x["state"] for x in records[0, step]["scored_again"]] == ["whole"]
    ids = [set(zip(x["prompt"], x["rollout"], strict=True)) for _, x in table.groupby("update")]
    assert ids[0] == ids[1] == ids[2] == ids[3]
    assert not ids[0] & ids[4]


@pytest.mark.parametrize("accumulate", [3, 4])
def test_several_batches_for_one_step(tmp_path, accumulate):
    """Every batch that was sampled for a step is its update; a rest of an earlier one is not."""
    plain = network()
    made, seen = trainer(tmp_path, steps_per_generation=2, gradient_accumulation_steps=accumulate, max_steps=3)
    watch(made, tmp_path / "log")
    made.train()
    made.teamtr_watch.close()
    table = read(tmp_path / "log")
    for step in range(3):
        want = expected(seen, plain, step)
        assert len(want) == 8 * sum(at == step for at, *_ in seen.sampled)
        agree(logged(table, step), want)
    assert accumulate == 4 or sum(at == 0 for at, *_ in seen.sampled) == 2


def ending(prompts, engine=None, tool=None, lengths=(1, 6, 3, 4)):
    """A rollout function: fixed completions, some of which end; log-probabilities of an engine of ours; a mask of tools."""

    def rollout(asked, trainer):
        completions = [[3 + (7 * i + j) % 20 for j in range(lengths[i % 4] - 1)] for i in range(len(asked))]
        completions = [ids + ([1] if lengths[i % 4] < 6 else [5]) for i, ids in enumerate(completions)]
        ids = [trainer.processing_class(prompt)["input_ids"] for prompt in asked]
        out = {"prompt_ids": ids, "completion_ids": completions}
        out["logprobs"] = [[-1.0 - 0.01 * j for j in range(len(c))] for c in completions]
        if engine is not None:
            engine(out["logprobs"])
        if tool is not None:
            out["env_mask"] = [tool(len(c)) for c in completions]
        return out

    return rollout


def test_what_the_loss_masks_is_scored_all_the_same(tmp_path):
    """`mask_truncated_completions`, and a pad that is the end of sequence: no token that was written is missing."""
    plain = network()
    made, seen = trainer(tmp_path, pad="<eos>", mask_truncated_completions=True, steps_per_generation=4, max_steps=2)
    watch(made, tmp_path / "log")
    made.train()
    made.teamtr_watch.close()
    lengths = [len(ids) for _, _, completions, _ in seen.sampled for ids in completions]
    ends = [ids[-1] == 1 for _, _, completions, _ in seen.sampled for ids in completions]
    assert 0 < sum(ends) < len(ends)  # some were masked and some were not
    assert min(lengths) < max(lengths)
    table = read(tmp_path / "log")
    agree(logged(table, 0), expected(seen, plain, 0))
    agree(logged(table, 1), expected(seen, plain, 1, 0))


def test_tools_engines_and_what_is_missing(tmp_path, monitored):
    """What a tool wrote is nobody's token; what is written after it is the next message.

    The engine's numbers are the behaviour, and where it has none the rollout is left out, and counts nowhere.
    """
    plain = network()

    def engine(logprobs):
        logprobs[1][3] = None

    made, seen = trainer(
        tmp_path, mask_truncated_completions=True, max_steps=1,
        rollout_func=ending(PROMPTS, engine, lambda n: [int(j not in (1, 2)) for j in range(n)]),
    )  # fmt: skip
    watch(made, tmp_path / "log", turn=3)
    made.train()
    made.teamtr_watch.close()
    table = read(tmp_path / "log")
    want = expected(seen, plain, 0)
    log = logged(table, 0)
    assert (len(want), len(log)) == (8, 7)
    for r, w in zip(log, want[:1] + want[2:], strict=True):
        (all_of_it,) = w.messages
        n = len(all_of_it.current)
        assert [len(m.current) for m in r.messages] == ([n] if n == 1 else [1] if n <= 3 else [1, n - 3])
        kept = [j for j in range(n) if j not in (1, 2)]
        np.testing.assert_allclose(flat([r], "current"), all_of_it.current[kept], atol=2e-5)
        np.testing.assert_allclose(flat([r], "new"), all_of_it.new[kept], atol=2e-5)
        np.testing.assert_allclose(flat([r], "behaviour"), [-1.0 - 0.01 * j for j in kept], atol=1e-6)
    assert set(table["turn"]) == {3, 4}
    assert table[table["turn"] == 4]["t"].min() == 0
    record = monitored(tmp_path / "log")[0, 0]
    assert record["ids_missing"] == 1
    assert record["certificate"]["label"].startswith("none")


def test_a_missing_engine_number_is_not_one(tmp_path):
    """Where it is a tool's token nothing is missing."""

    def engine(logprobs):
        logprobs[1][2] = None

    made, _ = trainer(
        tmp_path, max_steps=1, rollout_func=ending(PROMPTS, engine, lambda n: [int(j != 2) for j in range(n)])
    )
    watch(made, tmp_path / "log")
    made.train()
    made.teamtr_watch.close()
    assert read(tmp_path / "log").groupby(["prompt", "rollout"]).ngroups == 8


def test_an_engine_that_tells_less(tmp_path):
    """A number that is not there is no 0, which is what TRL pads with; and without any nothing is written."""

    def engine(logprobs):
        logprobs[2].pop()

    made, _ = trainer(tmp_path, max_steps=1, rollout_func=ending(PROMPTS, engine))
    watch(made, tmp_path / "log")
    made.train()
    made.teamtr_watch.close()
    table = read(tmp_path / "log")
    assert table.groupby(["prompt", "rollout"]).ngroups == 7
    assert (table["logp_behaviour"] < 0).all()

    def silent(asked, trainer):
        return ending(PROMPTS)(asked, trainer) | {"logprobs": None}

    made, _ = trainer(tmp_path, max_steps=1, rollout_func=silent)
    watch(made, tmp_path / "none")
    with pytest.raises(InputError, match="logprobs: found None"):
        made.train()
    made.teamtr_watch.close()
    assert not list((tmp_path / "none").glob("*.parquet"))


def test_rewards_of_several_functions(tmp_path):
    """Weighed as TRL does; a function that gives none is left out of the sum, a rollout without any out of the log."""
    plain = network()

    def rare(completion_ids, **_):
        return [None if i % 3 == 0 else 0.5 for i in range(len(completion_ids))]

    def shared(completion_ids, **_):
        return [None if i in (0, 4) else float(len(ids)) / 8 for i, ids in enumerate(completion_ids)]

    made, seen = trainer(tmp_path, rewards=(rare, shared), reward_weights=[0.25, 0.5], max_steps=1)
    watch(made, tmp_path / "log")
    made.train()
    made.teamtr_watch.close()
    want = expected(seen, plain, 0, weights=(0.25, 0.5))
    assert [len(r.messages[0].current) / 16 for r in want][3] == want[3].reward  # only the second function
    assert want[4].reward == 0.125  # only the first
    agree(logged(read(tmp_path / "log"), 0), want[1:])  # none at all for the first rollout
    mean = made.state.log_history[0]["reward"]
    assert mean == pytest.approx(np.mean([r.reward for r in want[1:]]), abs=1e-6)


def test_adapters(tmp_path, monitored):
    """LoRA: the policy is the network with its adapter, and only the adapter moves."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(3)
    made, seen = trainer(tmp_path, peft=config, learning_rate=3e-2, max_steps=2)
    watch(made, tmp_path / "log")
    made.train()
    made.teamtr_watch.close()
    plain = get_peft_model(network(), config)
    table, records = read(tmp_path / "log"), monitored(tmp_path / "log")
    for step in range(2):
        want = expected(seen, plain, step)
        agree(logged(table, step), want)
        agree_with_monitor(records[0, step], want, fresh=True)
        assert numbers(want, True)["kl_k3"] > 1e-5
    assert torch.equal(
        seen.before[0]["base_model.model.lm_head.weight"], seen.after[1]["base_model.model.lm_head.weight"]
    )


RUNS = {
    "plain": dict(),
    "used again": dict(num_iterations=2, steps_per_generation=4),
    "reference, bfloat16": dict(beta=0.1, bf16=True),
    "masked": dict(mask_truncated_completions=True, gradient_accumulation_steps=1),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_training_is_the_same(tmp_path, name):
    """Weights, what is logged, modes and random numbers, bit by bit, with the watch and without."""
    ends = []
    for watched in (False, True):
        model = network()
        model.model.layers[0].self_attn.eval()  # a part that a user keeps in another mode, until TRL's step sets it
        model.save_pretrained(tmp_path / "base")
        model.config._name_or_path = str(tmp_path / "base")
        made, seen = trainer(tmp_path, model, max_steps=4, **RUNS[name])
        if watched:
            watch(made, tmp_path / "log")
        torch.manual_seed(11)
        made.train()
        modes = [module.training for module in made.model.modules()]
        history = [
            {k: v for k, v in x.items() if "time" not in k and "per_second" not in k} for x in made.state.log_history
        ]
        ends.append((seen.after, torch.get_rng_state(), modes, history))
    plain, observed = ends
    for a, b in zip(plain[0], observed[0], strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert torch.equal(plain[1], observed[1])
    assert plain[2] == observed[2]
    ours = [{k: v for k, v in x.items() if k.startswith("teamtr/")} for x in observed[3]]
    assert [len(x) for x in ours] == [4, 4, 4, 4, 0]
    assert plain[3] == [{k: v for k, v in x.items() if not k.startswith("teamtr/")} for x in observed[3]]


def test_scoring_leaves_every_module_as_it_was(tmp_path):
    made, _ = trainer(tmp_path, max_steps=1)
    made.model.train()
    made.model.model.layers[1].mlp.eval()
    before = [module.training for module in made.model.modules()]
    ids = torch.full((4, 6), 5)
    gradients = torch.is_grad_enabled()
    token_log_probs(made, ids, torch.ones_like(ids), 3, 2)
    assert [module.training for module in made.model.modules()] == before
    assert torch.is_grad_enabled() == gradients


def test_scalars_reach_the_trainers_logger(tmp_path):
    """In the mean over the updates since it last logged, as TRL's own; from the rollouts of the update."""
    plain = network()
    made, seen = trainer(tmp_path, max_steps=4, logging_steps=2)
    told = []
    watch(made, tmp_path / "log")
    made.add_callback(_Logs(told))
    made.train()
    made.teamtr_watch.close()
    for at, steps in enumerate([(0, 1), (2, 3)]):
        want = [numbers(expected(seen, plain, step), True) for step in steps]
        for ours, theirs in (("kl_k1", "kl_k1"), ("kl_k3", "kl_k3"), ("ess", "ess")):
            assert told[at][f"teamtr/{ours}"] == pytest.approx(np.mean([x[theirs] for x in want]), abs=2e-5)
        assert 0 <= told[at]["teamtr/floor_k3"] < 1e-9  # float32
    assert not any(key.startswith("teamtr") for key in told[2])


def _Logs(told):
    from transformers import TrainerCallback

    class Logs(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            told.append(dict(logs))

    return Logs()


def test_a_share_is_scored_twice(tmp_path):
    """Whole rollouts, four at least, at the same weights: in bfloat16 the two differ, and by no more than rounding."""
    for bf16, per_device in ((False, 4), (True, 4), (True, 1)):
        folder = tmp_path / f"{bf16}{per_device}"
        made, _ = trainer(
            folder, network(hidden_size=64), bf16=bf16, num_iterations=2, max_steps=2, per_device_train_batch_size=per_device,
            gradient_accumulation_steps=16 // per_device,
        )  # fmt: skip
        watch(made, folder / "log")
        made.train()
        made.teamtr_watch.close()
        for _, table in read(folder / "log").groupby("update"):
            twice = table.groupby(["prompt", "rollout"])["logp_again"].agg(["count", "size"])
            assert ((twice["count"] == 0) | (twice["count"] == twice["size"])).all()
            assert (twice["count"] > 0).sum() == 4
            assert twice[twice["count"] > 0].reset_index()["prompt"].nunique() == 4  # intervals are over prompts
            apart = (table["logp_again"] - table["logp_current"]).abs().max()
            assert 1e-4 < apart < 1 if bf16 else apart < 1e-4


def test_groups_stages_and_ids(tmp_path):
    """A prompt has its own rollouts; stages follow each other, and those of a second run those of the first."""
    from teamtr_jax.integrations import trl as module

    folder = tmp_path / "log"
    keep, module.UPDATES = module.UPDATES, 2
    try:
        for run in range(2):
            made, seen = trainer(tmp_path, max_steps=3, shuffle_dataset=True)
            watch(made, folder)
            made.train()
            made.teamtr_watch.close()
            table = read(folder)
            assert sorted(map(tuple, table[["stage", "update"]].drop_duplicates().to_numpy())) == [
                (s, u) for s in range(2 * run + 2) for u in ((0, 1) if s % 2 == 0 else (0,))
            ]
    finally:
        module.UPDATES = keep
    ids = table[["stage", "update", "prompt", "rollout"]].drop_duplicates()
    assert len(ids) == 6 * 8
    assert ids.groupby("prompt").size().eq(4).all()
    here = table[(table["stage"] == 2) & (table["update"] == 1)].sort_values(["prompt", "rollout", "t"])
    _, prompts, completions, _ = seen.sampled[1]
    assert [list(x["token"]) for _, x in here.groupby(["prompt", "rollout"])] == completions
    assert prompts[:4] == [prompts[0]] * 4 != prompts[4:]


def test_training_that_goes_on(tmp_path):
    """A second `train()` of one trainer counts its steps from 0 again: its rollouts are new ones."""
    plain = network()
    made, seen = trainer(tmp_path, max_steps=1)
    watch(made, tmp_path / "log")
    made.train()
    made.args.max_steps = 2
    made.train()
    made.teamtr_watch.close()
    table = read(tmp_path / "log")
    assert table.groupby("update")["source"].agg(["min", "max"]).to_numpy().tolist() == [[0, 0], [1, 1], [2, 2]]
    assert len(seen.sampled) == 3
    seen.sampled = [(i, *sampled[1:]) for i, sampled in enumerate(seen.sampled)]
    for i in range(3):
        agree(logged(table, i), expected(seen, plain, i))


def test_stages_and_agents_of_a_user(tmp_path):
    """Two trainers write one log; a network that plays two agents."""
    from teamtr_jax.integrations.log_writer import LogWriter
    from teamtr_jax.integrations.trl_settings import sampler_of_trainer

    first, _ = trainer(tmp_path / "a", max_steps=2)
    second, _ = trainer(tmp_path / "b", max_steps=2)
    with LogWriter(tmp_path / "log", sampler=sampler_of_trainer(first)) as log:
        a = watch(first, log, agent=0, turn=0, stage=4)
        b = watch(
            second, log, agent=lambda rows: [1 + row["role"] for row in rows], turn=1, stage=lambda step: 4 + step
        )
        first.train()
        second.train()
        assert (a.writer, b.writer) == (log, log)
    table = read(tmp_path / "log")
    places = table.groupby(["stage", "update"]).agg({"updated": ["min", "max"], "turn": "max"})
    assert places.to_numpy().tolist() == [[0, 0, 0], [0, 0, 0], [-1, -1, 1], [-1, -1, 1]]
    assert list(places.index) == [(4, 0), (4, 1), (4, 2), (5, 0)]
    assert table[table["updated"] == -1].groupby("prompt")["agent"].nunique().eq(1).all()
    assert set(table[table["updated"] == -1]["agent"]) == {1, 2}


def test_a_checkpoint_in_the_same_process(tmp_path):
    """Rollouts of weights that are gone, which TRL still trains on, are not written as if the weights were theirs."""
    plain = network()
    made, seen = trainer(tmp_path, num_iterations=2, max_steps=3, save_strategy="steps", save_steps=1)
    watch(made, tmp_path / "log")
    made.train()
    made.args.max_steps = 6
    made.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    made.teamtr_watch.close()
    table = read(tmp_path / "log")
    at = list(map(tuple, table[["stage", "update", "source"]].drop_duplicates().to_numpy().tolist()))
    assert at == [(0, 0, 0), (0, 1, 0), (0, 2, 2), (1, 0, 0), (1, 1, 0), (1, 2, 2)]
    # the first step after the checkpoint was on rollouts of the third step before it
    seen.sampled = [(i, *sampled[1:]) for i, sampled in zip((0, 2, 4, 6), seen.sampled, strict=True)]
    for stage, update, source in at:
        first = 4 * stage
        agree(logged(table, update, stage), expected(seen, plain, first + update, first + source))


def test_closing_puts_back_what_was_there(tmp_path):
    """Wrappers of others too; twice is once; a second watch is not the first one's to close."""
    made, _ = trainer(tmp_path, max_steps=1)
    theirs = made.log = lambda *args, **settings: type(made).log(made, *args, **settings)
    first = watch(made, tmp_path / "log")
    first.close()
    first.close()
    assert made.log is theirs
    second = watch(made, tmp_path / "log")
    first.close()
    assert made.teamtr_watch is second
    made.train()
    second.close()
    assert (
        not {"_generate", "_calculate_rewards", "_generate_and_score_completions", "teamtr_watch"} & vars(made).keys()
    )
    assert len(read(tmp_path / "log")) > 0


def test_a_stage_that_goes_back(tmp_path):
    """Is refused when rollouts are sampled: no step is made for it."""
    made, seen = trainer(tmp_path)
    watch(made, tmp_path / "log", stage=lambda step: 3 - step)
    with pytest.raises(InputError, match="stage: found 2, expected 3 or more"):
        made.train()
    made.teamtr_watch.close()
    assert len(seen.after) == 1


def test_a_reward_that_raises(tmp_path):
    """What was written stays whole, and training may go on."""
    plain, asked = network(), []

    def reward(completion_ids, **_):
        asked.append(0)
        if len(asked) == 2:
            raise RuntimeError("no connection")
        return share_of_even(completion_ids)

    made, seen = trainer(tmp_path, rewards=[reward], max_steps=2)
    watch(made, tmp_path / "log")
    with pytest.raises(RuntimeError, match="no connection"):
        made.train()
    agree(logged(read(tmp_path / "log"), 0), expected(seen, plain, 0))
    seen.before = seen.before[:1]  # the second step began, and was not made
    made.train()
    made.teamtr_watch.close()
    seen.sampled = [(i, *sampled[1:]) for i, sampled in enumerate(seen.sampled)]
    for i in range(3):
        agree(logged(read(tmp_path / "log"), i), expected(seen, plain, i))


def test_evaluation_in_between(tmp_path):
    """Its rollouts are not the training's; neither run is changed by the watch."""
    ends = []
    for watched in (False, True):
        made, seen = trainer(
            tmp_path, max_steps=3, num_iterations=2, eval_strategy="steps", eval_steps=1, eval_on_start=True,
            per_device_eval_batch_size=4, num_generations_eval=2, evaluate_on=PROMPTS[:4],
        )  # fmt: skip
        if watched:
            watch(made, tmp_path / "log")
        torch.manual_seed(5)
        made.train()
        ends.append((seen.after, torch.get_rng_state()))
        assert not any(k.startswith("teamtr") for x in made.state.log_history if "eval_loss" in x for k in x)
    for a, b in zip(ends[0][0], ends[1][0], strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert torch.equal(ends[0][1], ends[1][1])
    made.teamtr_watch.close()
    seen.sampled = [sampled for sampled in seen.sampled if len(sampled[1]) == 8]  # batches of the evaluation are of 4
    for step in range(3):
        agree(logged(read(tmp_path / "log"), step), expected(seen, network(), step, 2 * (step // 2)))
