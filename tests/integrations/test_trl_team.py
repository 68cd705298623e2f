"""TeamTRSchedule with real TRL: a writer and an editor of tiny random networks, three messages in one transcript."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOTrainer
from trl_runs import network, settings, tokenizer

from teamtr_jax.integrations import TeamTRSchedule, TrlTeam, TurnTaking, team_reward
from teamtr_jax.monitor import read_token_log
from teamtr_jax.validation import InputError

TURNS = ("writer", "editor", "writer")
TEMPERATURE, PROMPTS, GROUP = 0.8, 3, 4


def heard(agent, row, said):
    """At the second turn the writer reads the editor's message only."""
    return " ".join(
        [row["prompt"] if not said or said[0][0] == "writer" else "w4", *(text or "w3" for _, text in said)]
    )


def reward(row, said):
    """In [0, 1], of all three messages."""
    words = " ".join(text for _, text in said).split()
    return float(np.mean([int(word[1:]) % 2 == 0 for word in words if word[1:].isdigit()] or [0.0]))


GAME = TurnTaking(TURNS, heard, reward)


def trainer(folder, seed, **more):
    data = Dataset.from_list([{"prompt": f"w{3 + i} w{5 + i}"} for i in range(2 * PROMPTS)])
    paid = more.pop("reward_funcs", team_reward)
    asked = dict(per_device_train_batch_size=6, generation_batch_size=12, gradient_accumulation_steps=2, num_iterations=3,
                 learning_rate=2e-3, lr_scheduler_type="constant", max_steps=-1, max_completion_length=4)  # fmt: skip
    return GRPOTrainer(
        model=network(seed), args=settings(folder, **{**asked, **more}), train_dataset=data, processing_class=tokenizer(),
        reward_funcs=paid,
    )  # fmt: skip


def team(folder, seed=0, **more):
    torch.manual_seed(seed)
    trainers = {"writer": trainer(folder, 1, **more), "editor": trainer(folder, 2, **more)}
    return TrlTeam(trainers, GAME, align_rate=1e-4)


def alone(model, context, message):
    """`Σ`-free: log-probabilities of a message after a context, by one plain forward pass over one row."""
    ids = torch.tensor([context + message])
    head = model.lm_head(model.model(input_ids=ids).last_hidden_state)[0] / TEMPERATURE
    rows = torch.log_softmax(head.double(), -1)[len(context) - 1 : -1]
    return rows.gather(1, torch.tensor(message)[:, None])[:, 0].detach().numpy()


def oracle(made, rollouts):
    """``[N, T]`` from texts and ids alone: contexts are put together here, message by message."""
    words, out = tokenizer(), np.full(rollouts.mask.shape, np.nan)
    for n, row in enumerate(rollouts.data.rows):
        said, views, read = [], {}, {}
        for turn, name in enumerate(TURNS):
            text = heard(name, row, said[read.get(name, 0) :])
            views[name] = [*views.get(name, []), *words(text)["input_ids"]]
            here = rollouts.mask[n] & (rollouts.turn[n] == turn)
            message = rollouts.token[n, here].tolist()
            out[n, here] = alone(made.trainers[made.names.index(name)].model, views[name], message)
            views[name] += message
            said.append((name, words.decode(message, skip_special_tokens=True)))
            read[name] = len(said)
        assert rollouts.reward[n] == reward(row, said)
    return out


def state(made, agent):
    return {name: x.clone() for name, x in made.trainers[agent].model.state_dict().items()}


def same(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.items())


def test_scores_are_those_of_the_transcripts(tmp_path):
    """Every token under its writer, in what that agent had read; rows scored again in another shape agree."""
    made = team(tmp_path)
    rollouts = made.sample(made.prompts())
    assert rollouts.mask.shape[0] == PROMPTS * GROUP
    assert [row["prompt"] for row in rollouts.data.rows[::GROUP]] == [
        row["prompt"] for row in rollouts.data.rows[3::GROUP]
    ]
    expected = oracle(made, rollouts)
    for agent in (0, 1):
        own = rollouts.of(agent)
        scored = made.score(agent, rollouts)
        assert np.abs(scored - expected)[own].max() < 1e-5
        assert np.isnan(scored[~own]).all()
        some = np.array([0, 5, 6])
        assert np.abs(made.score(agent, rollouts, some) - scored[some])[own[some]].max() < 1e-5
    assert len(np.unique(rollouts.turn[rollouts.of(0)])) == 2


def test_a_trainer_trains_on_its_words_alone(tmp_path):
    """What TRL holds in an update: the transcript as the agent read it, the others' words masked, its reward's advantages."""
    made = team(tmp_path)
    rollouts = made.sample(made.prompts())
    held = []
    writer = made.trainers[0]
    kept = writer._compute_loss
    writer._compute_loss = lambda model, inputs: (
        held.append({k: v.clone() for k, v in inputs.items()}) or kept(model, inputs)
    )
    before, other = state(made, 0), state(made, 1)
    steps = made.train(0, rollouts, lambda: False)
    assert steps == 3  # num_iterations, one step each
    assert not same(before, state(made, 0))
    assert same(other, state(made, 1))
    first = held[:2]  # two micro-batches
    mask = torch.cat([(x["completion_mask"] * x["tool_mask"]).sum(1) for x in first])
    own = rollouts.of(0).sum(1)
    assert sorted(mask.tolist()) == sorted(own.tolist())
    wrote = [
        tuple(x["completion_ids"][i][(x["completion_mask"] * x["tool_mask"])[i] > 0].tolist())
        for x in first
        for i in range(6)
    ]
    assert sorted(wrote) == sorted(tuple(rollouts.token[n, rollouts.of(0)[n]].tolist()) for n in range(12))
    r = rollouts.reward.reshape(PROMPTS, GROUP)
    advantage = ((r - r.mean(1, keepdims=True)) / (r.std(1, ddof=1, keepdims=True) + 1e-4)).ravel()
    assert np.allclose(np.sort(torch.cat([x["advantages"] for x in first]).numpy()), np.sort(advantage), atol=1e-5)


def test_stages_in_regions_and_the_log(tmp_path, monitored):
    """The second agent's rollouts are of the first as updated; who leaves δ is back in it; the monitor reads the same numbers."""
    made = team(tmp_path)
    schedule = TeamTRSchedule(made, radius=0.02, log=tmp_path / "log", twice=0.3)
    taken, train = [], made.train

    def watched(agent, rollouts, stop):
        taken.append((agent, rollouts, oracle(made, rollouts)))
        return train(agent, rollouts, stop)

    made.train = watched
    updates = schedule.train(2)
    schedule.close()
    log = read_token_log(tmp_path / "log")
    found = monitored(tmp_path / "log", "--delta", "0.02")
    assert any(x.went_back for x in updates)
    for x, (agent, rollouts, scores) in zip(updates, taken, strict=True):
        assert x.agent == agent
        assert x.kl <= 0.02
        assert (x.kl_reached > 0.02) == x.went_back
        rows = (
            (log.stage == x.stage)
            & (log.update == x.update)
            & np.repeat(log.source == x.source, np.diff(log.transcripts))
        )
        # scored before this update, by hand, of the team with the updates before it
        booked = np.abs(log.logp_current[rows] - scores[rollouts.mask])
        assert booked.max() < 2e-5
        assert (log.token[rows] == rollouts.token[rollouts.mask]).all()
        record = found[x.stage, x.update]
        assert record["kl_k3"]["value"] == pytest.approx(x.kl, rel=1e-6)
        assert record["kl_k1"]["value"] == pytest.approx(x.kl_k1, rel=1e-6)
        assert record["kl_episode"]["value"] == pytest.approx(x.kl_episode, rel=1e-6)
        assert record["surrogate"]["value"] == pytest.approx(x.surrogate, rel=1e-6)
        assert record["evidence"] == "fresh"
        assert not record["invalid"]
    assert found[0, 1]["scored_again"][0]["state"] == "whole"
    twice = ~np.isnan(log.logp_again)
    assert twice.any()
    assert 0 < np.abs(log.logp_again - log.logp_current)[twice].max() < 1e-4
    told = [entry for entry in made.trainers[0].state.log_history if "teamtr/kl_k3" in entry]
    assert told[-1]["teamtr/kl_k3"] == pytest.approx(updates[2].kl, rel=1e-6)
    assert told[-1]["step"] == 1


def test_stopped_early_the_next_update_has_new_rollouts(tmp_path):
    """TRL keeps its buffer from one `train()` to the next; a schedule does not let it."""
    made = team(tmp_path)
    for _ in range(2):
        rollouts = made.sample(made.prompts())
        assert made.train(0, rollouts, lambda: True) == 1
        held = made.trainers[0]._buffered_inputs
        wrote = [
            tuple(x["completion_ids"][i][(x["completion_mask"] * x["tool_mask"])[i] > 0].tolist())
            for x in held
            for i in range(6)
        ]
        assert sorted(wrote) == sorted(tuple(rollouts.token[n, rollouts.of(0)[n]].tolist()) for n in range(12))


def test_once_and_certificate(tmp_path):
    stale = TeamTRSchedule(team(tmp_path), radius=0.05, resample="once").stage()
    assert [x.source for x in stale] == [0, 0]
    kept = TeamTRSchedule(team(tmp_path), radius=1e-4, resample="certificate", tolerance=0.3).stage()
    assert [x.source for x in kept] == [0, 0]
    renewed = TeamTRSchedule(team(tmp_path), radius=0.05, resample="certificate", tolerance=0.01).stage()
    assert [x.source for x in renewed] == [0, 1]


def kl_by_hand(outgoing, newcomer, view):
    """KL(outgoing‖newcomer) along each message, the vocabulary summed, one row at a time."""
    out = []
    for prompt, completion in zip(view.prompt, view.completion, strict=True):
        ids = torch.tensor([prompt + completion])
        heads = (
            m.lm_head(m.model(input_ids=ids).last_hidden_state)[0, len(prompt) - 1 : -1] for m in (outgoing, newcomer)
        )
        old, new = (torch.log_softmax(x.double() / TEMPERATURE, -1) for x in heads)
        out.append(float((old.exp() * (old - new)).sum()))
    return np.array(out)


@pytest.mark.parametrize(("seed", "scale", "radius", "inside"), [(2, 0.8, 0.12, True), (7, 1.0, 0.01, False)])
def test_a_newcomer_is_aligned(tmp_path, seed, scale, radius, inside):
    """What is reported is the KL along the messages of the outgoing agent; who cannot come near is left no farther away."""
    made = team(tmp_path)
    schedule = TeamTRSchedule(made, log=tmp_path / "log")
    outgoing, newcomer = made.trainers[1].model, trainer(tmp_path, seed)
    with torch.no_grad():
        newcomer.model.lm_head.weight.mul_(scale)
    old, probes, align = state(made, 1), [], made.align
    made.align_epochs = 20
    made.align = lambda agent, new, rollouts, radius: probes.append(rollouts) or align(agent, new, rollouts, radius)
    info = schedule.replace("editor", newcomer, radius=radius)
    schedule.close()
    assert made.trainers[1] is newcomer
    assert all(torch.equal(x, old[name]) for name, x in outgoing.state_dict().items())
    assert info.inside == inside == (max(info.after, info.held_out_after) <= radius)
    assert radius < max(info.before, info.held_out_before)
    assert max(info.after, info.held_out_after) <= max(info.before, info.held_out_before)
    assert info.steps > 0
    found = kl_by_hand(outgoing, newcomer.model, probes[0].data.views[1])
    assert found[:8].mean() == pytest.approx(info.after, rel=1e-3)
    assert found[8:].mean() == pytest.approx(info.held_out_after, rel=1e-3)
    log = read_token_log(tmp_path / "log")
    assert ((log.logp_new != log.logp_current) == (log.agent == 1)).all()


def test_what_is_refused(tmp_path):
    """Before any work, by name."""
    one, two = trainer(tmp_path, 1), trainer(tmp_path, 2)
    bad = [
        (
            {"writer": one, "editor": trainer(tmp_path, 3, reward_funcs=lambda **_: [0.0])},
            GAME,
            "reward_funcs of editor",
        ),
        ({"writer": one, "editor": trainer(tmp_path, 3, temperature=1.0)}, GAME, "sampler of editor"),
        ({"writer": one, "editor": trainer(tmp_path, 3, num_generations=2)}, GAME, "num_generations of editor"),
        (
            {"writer": one, "editor": trainer(tmp_path, 3, mask_truncated_completions=True)},
            GAME,
            "mask_truncated_completions",
        ),
        ({"writer": one, "editor": one}, GAME, "writer and editor share parameters"),
        (
            {"writer": one, "editor": two},
            TurnTaking(("writer", "critic"), heard, reward),
            "turns: found 'critic'|turns: found critic",
        ),
        ({"writer": one, "editor": two}, TurnTaking(("writer",), heard, reward), "none of editor"),
    ]
    for trainers, game, message in bad:
        with pytest.raises(InputError, match=message):
            TrlTeam(trainers, game)
    silent = TrlTeam({"writer": one, "editor": two}, TurnTaking(TURNS, lambda *_: "", reward))
    with pytest.raises(InputError, match="heard by writer: found nothing"):
        silent.sample(silent.prompts())
    for wrong in (None, [3, 10**6], [-1], [0.5], [[3]], 3):
        odd = TrlTeam({"writer": one, "editor": two}, TurnTaking(TURNS, lambda *_, wrong=wrong: wrong, reward))
        with pytest.raises(InputError, match=r"heard by writer: found .* expected text, or ids of its tokenizer below"):
            odd.sample(odd.prompts())
    for wrong in (float("nan"), None, "much"):
        unpaid = TrlTeam({"writer": one, "editor": two}, TurnTaking(TURNS, heard, lambda *_, wrong=wrong: wrong))
        with pytest.raises(InputError, match=f"reward: found '?{wrong}"):
            unpaid.sample(unpaid.prompts())
    with pytest.raises(InputError, match="data: found 2 rows"):
        TrlTeam({"writer": one, "editor": two}, GAME, [{"prompt": "w3"}] * 2)
