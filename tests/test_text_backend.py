"""Text teams in the driver: the same update as a team that writes a `Layout`, S12, floor, drift, token log, resume."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_teams import LLAMA, agent, rescored

from teamtr_jax.finite_sample import mismatch_certificate
from teamtr_jax.llm import networks, text_sizes
from teamtr_jax.llm.backend import LanguageRollouts, LanguageSampling, language_backend
from teamtr_jax.llm.conversations import own_messages, reading_of
from teamtr_jax.llm.language_model import Reading
from teamtr_jax.llm.layout import Layout, Vocabulary, round_robin
from teamtr_jax.llm.llama.adapters import adapted
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, Toy, Transformer, agent_params, init_team
from teamtr_jax.llm.tasks import Problem
from teamtr_jax.llm.text.drift import drift_between
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text.view import Told
from teamtr_jax.llm.text_backend import TextTalk, _TextKind, init_text_state, text_backend, whole_params
from teamtr_jax.llm.text_team import TextAgent, TextTeam
from teamtr_jax.llm.text_update import Learner, learner, update_reading
from teamtr_jax.llm.token_log import TokenLogger
from teamtr_jax.llm.update import Lesson, Outcome, init_train_state
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.llm.writing import bucket
from teamtr_jax.schedules import fresh, once
from teamtr_jax.sharing import Sharing
from teamtr_jax.stage import run_stage
from teamtr_jax.training import train
from teamtr_jax.validation import InputError

AGENTS, TURNS, CAP = 3, 4, 2
VOCABULARY = Vocabulary("01", AGENTS, prompt_only="abcd", ends=False)
LAYOUT = Layout(VOCABULARY, 2, CAP, TURNS, round_robin(AGENTS), temperature=0.8)
SMALL = ModelConfig(width=16, layers=2, heads=2)
SETTINGS = UpdateSettings(
    learning_rate=0.01, epochs=2, minibatch=8, micro_batch=4, delta=0.05, beta=0.5, early_stop=False, average="unit"
)
SAMPLING = LanguageSampling(prompts=4, group=4, held_out=2)


@dataclass(frozen=True)
class Characters:
    """A scribe whose ids are those of the layout's vocabulary: every agent reads a row of the layout up to its message."""

    agent: int
    stops: tuple[tuple[int, ...], ...] = ()

    def told_first(self, problem, heard):
        return Told([*VOCABULARY.encode(problem).tolist(), *self.told_next([], heard, 0).ids], 0)

    def told_next(self, own_ids, heard, used):
        said = [i for name, text in heard for i in [VOCABULARY.header(int(name)), *VOCABULARY.encode(text).tolist()]]
        return Told([*said, VOCABULARY.header(self.agent)], 0)

    def read(self, own_ids):
        return VOCABULARY.decode(own_ids)

    def drift(self, own_ids):
        return drift_between(own_ids, own_ids)


class Matches:
    """Messages that are like the letters asked for."""

    name, turns, characters, prompt_only = "matches", TURNS, "01", "abcd"
    prompt_length, message_length, caps, ends = 2, CAP, None, False
    roles = tuple(Role(str(k), cap=CAP) for k in range(AGENTS))

    def sample(self, rng):
        text = "".join(rng.choice(list("abcd"), 2))
        return Problem(text, text)

    def demonstrate(self, problem, rng):
        return ["11"] * TURNS

    def verify(self, problem, messages):
        ones = "".join(messages).count("1")
        return min(1.0, ones / 8 + 0.2 * (problem.answer[0] == "a"))


def twins(sharing=None, rank=0, layers=1):
    """The same networks as a team that writes a layout and one that talks in text."""
    config = replace(SMALL, layers=layers, lora_rank=rank)
    team = LanguageTeam(LAYOUT, (config,) * AGENTS, sharing)
    model = Toy(Transformer(config, VOCABULARY.size, VOCABULARY.actions, 64, LAYOUT.prompt))
    agents = tuple(TextAgent(role, model, Characters(k)) for k, role in enumerate(Matches.roles))
    text = TextTeam(agents, TURNS, sharing=sharing, temperature=LAYOUT.temperature)
    params = jax.tree.map(lambda x: x + 0.1 * np.cos(np.arange(x.size, dtype=x.dtype)).reshape(x.shape),
                          jax.tree.map(np.asarray, init_team(team, jax.random.key(0))))  # fmt: skip
    own = [agent_params(team, params, k) for k in team.who.firsts]
    return team, text, *jax.tree.map(jnp.asarray, (params, own))


def as_layout(rollouts, params):
    """Conversations as rows of the layout."""
    said = rollouts.said
    rows = len(said.said)
    tokens, logp = np.zeros((rows, LAYOUT.length), np.int32), np.zeros((rows, LAYOUT.length), np.float32)
    tokens[:, : LAYOUT.prompt] = [VOCABULARY.encode(problem[0]) for problem in said.problems]
    for turn in range(TURNS):
        at = LAYOUT.start(turn)
        tokens[:, at] = VOCABULARY.header(0) + said.speaker[:, turn]
        tokens[:, at + 1 : at + 1 + CAP], logp[:, at + 1 : at + 1 + CAP] = said.ids[:, turn], said.logp[:, turn]
    grid = rollouts.reward.shape
    tokens, logp, speaker = (jnp.asarray(x).reshape(*grid, *x.shape[1:]) for x in (tokens, logp, said.speaker))
    return LanguageRollouts(tokens, logp, speaker, rollouts.reward, rollouts.key, params)


@pytest.mark.parametrize(
    ("sharing", "agent", "rank", "changes"),
    [
        (None, 0, 0, {}),
        (Sharing((0, 1, 0)), 2, 2, {"ratio": "token", "spending": "chi_square", "step_rule": "certificate"}),
        (Sharing((0, 1, 0), "joint"), 0, 0, {"epochs": 1, "minibatch": 16, "average": "rollout"}),
    ],
    ids=["apart", "sharers, adapters", "joint, one step"],
)
def test_a_text_team_is_updated_as_a_layouts(sharing, agent, rank, changes):
    """Conversations written as rows of a layout: the same parameters, moments and records, to rounding."""
    settings = replace(SETTINGS, **changes)
    team, text, params, own = twins(sharing, rank, layers=2 if settings.epochs == 1 else 1)
    state, frozen = init_text_state(text, own, settings)
    ours = text_backend(text, frozen, Matches(), settings, SAMPLING)
    rollouts = ours.rollout(state, jax.random.key(1))
    new, info = ours.update(state, ours.estimate(state, rollouts, agent, fresh), agent)

    task: Any = Matches()  # of both kinds
    theirs, begin = language_backend(team, task, settings, SAMPLING), init_train_state(team, params, settings)
    rows = as_layout(rollouts, begin.params)
    expected, known = theirs.update(begin, theirs.estimate(begin, rows, agent, fresh), agent)

    expected = expected._replace(params=jax.tree.map(np.asarray, expected.params))
    which = team.who.sharers[agent]
    for place in range(team.who.sets):
        whole = jax.tree_util.tree_leaves_with_path(agent_params(team, expected.params, team.who.firsts[place]))
        before = dict(jax.tree_util.tree_leaves_with_path(own[place]))
        moved = dict(jax.tree_util.tree_leaves_with_path(new.params[place]))
        assert len(moved) == (
            len(whole) if not rank else sum("lora" in jax.tree_util.keystr(path) for path, _ in whole)
        )
        for path, leaf in whole:
            np.testing.assert_allclose(moved.get(path, before[path]), leaf, atol=2e-5, err_msg=str(path))
            if path in moved:
                assert (np.asarray(leaf) != np.asarray(before[path])).any() == (place == which), path
    assert float(known["kl"]) > 1e-4
    for name, value in known.items():
        assert info[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    assert float(new.beta[which]) == pytest.approx(float(expected.beta[which]))


# ------------------------------------------------------------------------------------------------- networks on one base


class Letters:
    """Talk about a; the more of it the better."""

    name, turns = "letters", 3
    roles = (Role("a", cap=4), Role("b", cap=4))

    def sample(self, rng):
        return Problem("".join(rng.choice(list("abcd"), 3)), "")

    def views(self, problem):
        return (problem.prompt, "")

    def verify(self, problem, messages):
        return min(1.0, "".join(messages).count("a") / 6)


BASE = replace(LLAMA, lora=Lora(2, 4.0, ("q", "down")))
TALK = TextTalk(length=64)
TEAM = TextTeam(tuple(agent(role.name, BASE) for role in Letters.roles), Letters.turns)
LORA = UpdateSettings(learning_rate=0.02, epochs=2, minibatch=8, micro_batch=4, delta=0.05)
PLAN = LanguageSampling(prompts=4, group=4, held_out=2)


@pytest.fixture(scope="module")
def start():
    """Two agents, adapters of their own on one base; the state, and the base."""
    base = jax.tree.map(lambda x: 3.0 * x if x.ndim == 3 else x, LLAMA.init(jax.random.key(0)))
    own = [adapted(BASE, base, jax.random.key(k)) for k in (1, 2)]
    return init_text_state(TEAM, own, LORA)


@pytest.fixture(scope="module")
def stage(start):
    """A stage of two updates from the same rollouts, with its token log."""
    written = []
    log = TokenLogger(written.append)
    log.begin(0)
    state, frozen = start
    the = text_backend(TEAM, frozen, Letters(), LORA, PLAN, TALK, log=log)
    rollouts = the.rollout(state, jax.random.key(3))
    states, infos = [state], []
    for k in (1, 0):
        new, info = the.update(states[-1], the.estimate(states[-1], rollouts, k, once), k)
        states.append(new)
        infos.append(info)
    return the, rollouts, states, infos, written


def test_state_and_base(start):
    """The state has adapters alone, in float32, with moments of the same structure; the base is there once."""
    state, frozen = start
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    assert len(paths) == 2 * 4
    assert all("lora_" in path for path in paths)
    for one, other in zip(jax.tree.leaves(frozen[0]), jax.tree.leaves(frozen[1]), strict=True):
        assert one is other
    whole = whole_params(state, frozen)
    assert jax.tree.structure(whole[0]) == jax.tree.structure(
        adapted(BASE, LLAMA.init(jax.random.key(0)), jax.random.key(1))
    )
    narrow = replace(LLAMA, dtype="bfloat16")
    half, _ = learner(narrow, jax.tree.map(lambda x: x.astype(jnp.bfloat16), LLAMA.init(jax.random.key(0))), LORA)
    assert {x.dtype for x in jax.tree.leaves((half.trained, half.moments)) if x.ndim} == {jnp.dtype("float32")}


def test_what_an_update_of_text_reports(stage):
    """KL, mismatch, drift and truncation from the networks without a cache, message by message."""
    _, rollouts, states, infos, _ = stage
    said, training = rollouts.said, PLAN.training
    for number, k in enumerate((1, 0)):
        info, rows = infos[number], slice(0, training)
        spoke = said.speaker[rows] == k
        assert info["drift"] == pytest.approx(said.drifted[rows][spoke].mean())
        assert info["truncated"] == pytest.approx(1 - said.stopped[rows][spoke].mean())
        assert 0 < info["truncated"] < 1
        assert info["mismatch_max"] < 1e-4
        assert 0 <= info["mismatch_mean"] <= info["mismatch_max"]
        assert 0 <= info["floor"] < 1e-6
        assert abs(info["certificate_estimable"]) > 1e-5
        assert not info["below_floor"]
        assert info["tokens"] == said.length.sum()
        assert info["message_kl"] > 1e-4
    for place in (0, 1):  # each update moves its own set alone
        moved = [a.params[place] is not b.params[place] for a, b in pairwise(states)]
        assert moved == [place == 1, place == 0]


def test_the_token_log(stage, start):
    """A row for each id: the sampler's and the trainer's log-probability, and the new one, by the networks without a cache."""
    _, rollouts, states, _, written = stage
    said, frozen = rollouts.said, start[1]
    there = np.arange(said.ids.shape[2]) < said.length[:, :, None]
    log = []
    for state in states:
        params, found = whole_params(state, frozen), np.zeros(said.ids.shape)
        for k in (0, 1):
            reading, own = reading_of(TEAM, said, k), own_messages(TEAM, said, k)
            logp = rescored(TEAM, params[k], k, reading)
            for row, message in zip(*np.nonzero(own.turn >= 0), strict=True):
                found[row, own.turn[row, message]] = logp[row, message]
        log.append(found[there])
    for number, rows in enumerate(written):
        row, turn, t = np.nonzero(there)
        np.testing.assert_array_equal(rows["rollout"], row)
        np.testing.assert_array_equal(rows["turn"], turn)
        np.testing.assert_array_equal(rows["t"], t)
        np.testing.assert_array_equal(rows["agent"], said.speaker[row, turn])
        np.testing.assert_allclose(rows["logp_behaviour"], said.logp[there])
        np.testing.assert_allclose(rows["logp_current"], log[number], atol=1e-4)
        np.testing.assert_allclose(rows["logp_new"], log[number + 1], atol=1e-4)
        assert abs(log[number + 1] - log[number]).max() > 1e-2


def test_messages_are_scored_at_the_teams_temperature(stage, start):
    _, rollouts, states, *_ = stage
    hot, said = replace(TEAM, temperature=0.5), rollouts.said
    the = text_backend(hot, start[1], Letters(), LORA, PLAN, TALK)
    found = the.estimate(states[0], rollouts._replace(scored={}), 0, once).current
    reading, own = reading_of(TEAM, said, 0), own_messages(TEAM, said, 0)
    expected = rescored(hot, whole_params(states[0], start[1])[0], 0, reading)
    row, message = np.nonzero(own.turn >= 0)
    np.testing.assert_allclose(found[row, own.turn[row, message]], expected[row, message], atol=1e-4)


def test_a_sampler_that_books_other_numbers(stage):
    """S12: the sampler's log-probabilities are .25 too high at each id."""
    the, rollouts, states, *_ = stage
    said = rollouts.said
    there = np.arange(said.ids.shape[2]) < said.length[:, :, None]
    wrong = rollouts._replace(said=said._replace(logp=said.logp + np.float32(0.25) * there), scored={})
    _, info = the.update(states[0], the.estimate(states[0], wrong, 0, once), 0)
    length = said.length[: PLAN.training][said.speaker[: PLAN.training] == 0]
    assert info["mismatch_mean"] == pytest.approx(0.25 * length.mean(), abs=1e-4)
    assert info["mismatch_max"] == pytest.approx(0.25 * length.max(), abs=1e-4)
    assert info["mismatch_k3"] == pytest.approx((np.exp(-0.25 * length) - 1 + 0.25 * length).mean(), abs=1e-4)
    assert info["floor"] < 1e-6  # the trainer's own


def test_a_step_below_the_floor_is_flagged(start, stage):
    state, frozen = start
    settings = replace(LORA, learning_rate=1e-12)
    the = text_backend(TEAM, frozen, Letters(), settings, PLAN, TALK)
    _, info = the.update(state, the.estimate(state, stage[1], 0, once), 0)
    assert info["message_kl"] < 1e-12
    assert info["below_floor"]


def test_an_agent_that_says_nothing_stays(start, stage):
    """No step of it can be seen, and momentum is no reason for one."""
    before = stage[2][1]  # it has been updated: its moments are not 0
    team = replace(TEAM, router=lambda said: (1.0, 0.0))
    the = text_backend(team, start[1], Letters(), LORA, PLAN, TALK)
    rollouts = the.rollout(before, jax.random.key(4))
    new, info = the.update(before, the.estimate(before, rollouts, 1, fresh), 1)
    for x, y in zip(jax.tree.leaves(before.params), jax.tree.leaves(new.params), strict=True):
        np.testing.assert_array_equal(x, y)
    assert info["step_scale"] == info["message_kl"] == info["floor"] == info["mismatch_max"] == 0
    assert float(new.beta[1]) == float(before.beta[1])  # a KL of nothing says nothing of it
    assert info["below_floor"]


def test_what_the_floor_costs_is_of_the_rollouts_that_were_measured(start, stage):
    """Two of eight rollouts, two messages each: the floor counts twice."""
    the, rollouts, states, *_ = stage
    found, said = the.estimate(states[0], rollouts, 0, once), rollouts.said
    own = (np.arange(said.ids.shape[2]) < said.length[:, :, None]) & (said.speaker == 0)[:, :, None]
    own[np.arange(len(own)) % 4 > 0] = False
    outcome = Outcome({}, own, own, own, found.current + 0.01 * own, np.zeros(()))
    kind = _TextKind(TEAM, start[1], Letters(), replace(LORA, measured=0.2), PLAN, TALK, None)  # two of eight, at least

    def more(certificate, kl=1.0):
        return kind.more(states[0], found, outcome, 0, {"message_kl": kl, "certificate_estimable": certificate})

    floor = more(0.0)["floor"]
    assert floor > 1e-5
    assert [more(x * floor)["below_floor"] for x in (1.99, -1.99, 2.01, -2.01)] == [True, True, False, False]
    assert [more(9.0, x * floor)["below_floor"] for x in (1.0, 1.01)] == [
        True,
        False,
    ]  # the floor itself decides nothing
    kind = kind._replace(settings=replace(kind.settings, reward_range=3.0))
    assert [more(x * floor)["below_floor"] for x in (5.99, 6.01)] == [True, False]
    outcome = outcome._replace(start=np.array(-0.5))  # what the program that updates saw before its first step
    assert more(0.0)["floor"] == 0.5


def test_what_is_counted_of_messages(start, stage):
    """Means over the messages of who moved, of the rollouts that train: drawn again, not told, drifted, cut off."""
    the, rollouts, states, *_ = stage
    said, rng = rollouts.said, np.random.default_rng(0)
    counts = {name: rng.integers(5, size=said.speaker.shape).astype(np.int32) for name in ("redrawn", "dropped")}
    counts |= {name: rng.random(said.speaker.shape) < 0.5 for name in ("drifted", "stopped")}
    found = the.estimate(states[0], rollouts._replace(said=said._replace(**counts)), 0, once)
    assert found.data.reading.ids.shape[2] == TALK.length != bucket(int(max(view.length.max() for view in said.views)))
    own = (np.arange(said.ids.shape[2]) < said.length[:, :, None]) & (said.speaker == 0)[:, :, None]
    outcome = Outcome({}, own, 0.0 * own, 0.0 * own, found.current * own, np.zeros(()))
    kind = _TextKind(TEAM, start[1], Letters(), LORA, PLAN, TALK, None)
    info = kind.more(states[0], found, outcome, 0, {"message_kl": 1.0, "certificate_estimable": 1.0})
    theirs = said.speaker[: PLAN.training] == 0
    hand = {name: x[: PLAN.training][theirs].mean() for name, x in counts.items()}
    expected = (hand["redrawn"], hand["dropped"], hand["drifted"], 1 - hand["stopped"])
    assert [info[name] for name in ("redrawn", "dropped", "drift", "truncated")] == pytest.approx(expected)


def test_what_somebody_else_wrote_is_certified_as_such(start, monkeypatch):
    """S12 in the place of S8: an engine wrote for one agent, and both policies are weighed against what it booked."""
    (state, frozen), asked = start, []
    monkeypatch.setattr(
        networks, "mismatch_certificate", lambda *x, alpha: asked.append(x) or mismatch_certificate(*x, alpha=alpha)
    )

    def engine(prompts, cap, stops, temperature, seed):
        ids = np.random.default_rng(seed).choice([4, 5], (len(prompts), cap)).tolist()
        return ids, [[-np.log(2)] * cap] * len(ids)

    the = text_backend(TEAM, frozen, Letters(), LORA, PLAN, TALK._replace(external={0: engine}))
    rollouts = the.rollout(state, jax.random.key(6))
    new, info = the.update(state, the.estimate(state, rollouts, 1, fresh), 1)
    said, away = rollouts.said, []
    for params in (whole_params(x, frozen) for x in (state, new)):
        found = np.zeros(said.speaker.shape)
        for k in (0, 1):
            reading, own = reading_of(TEAM, said, k), own_messages(TEAM, said, k)
            found[:, own.turn[0]] = (rescored(TEAM, params[k], k, reading) - own.logp).sum(-1)
        away.append(found[PLAN.training :].reshape(PLAN.held_out, PLAN.group, -1))
    reward = np.asarray(rollouts.reward, np.float64)[-PLAN.held_out :]
    for one, other in zip(asked[0], (reward, *away), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    assert info["certificate_finite_sample"] == mismatch_certificate(*asked[0], alpha=PLAN.alpha).lower


def test_resume_gives_the_same_bits(start, tmp_path):
    state, frozen = start
    the = text_backend(TEAM, frozen, Letters(), LORA, PLAN, TALK)

    def one(state, key, k):
        return run_stage(the, state, [0, 1], fresh, key, k)

    at_once, _ = train(one, state, 2, jax.random.key(5), tmp_path / "at once", progress=False)
    train(one, state, 1, jax.random.key(5), tmp_path / "twice", progress=False)
    again, path = train(one, state, 2, jax.random.key(5), tmp_path / "twice", progress=False)
    for x, y in zip(jax.tree.leaves(at_once), jax.tree.leaves(again), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
    assert any(
        (x != y).any() for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(again.params), strict=True)
    )
    assert path is not None
    assert len(path.read_text().splitlines()) == 4


def test_refusals(start):
    state, frozen = start
    with pytest.raises(InputError, match="team: found 2 agents, expected 3, the roles of matches"):
        text_backend(TEAM, frozen, Matches(), LORA, PLAN)
    short = TextTeam(TEAM.agents, 2)
    with pytest.raises(InputError, match="team: found 2 turns, expected 3, those of letters"):
        text_backend(short, frozen, Letters(), LORA, PLAN)
    with pytest.raises(InputError, match="params: found 1 pytrees, expected 2"):
        init_text_state(TEAM, whole_params(state, frozen)[:1], LORA)
    with pytest.raises(InputError, match=r"settings.measured: found 0.5"):
        text_backend(TEAM, frozen, Letters(), replace(LORA, measured=0.5), PLAN, log=TokenLogger(print))
    with pytest.raises(InputError, match="order"):
        update_reading(
            BASE, LORA, Learner(state.params[0], state.optimiser[0], state.beta[0]), frozen[0],
            Reading(*(jnp.zeros((2, 1, 4), dtype) for dtype in (int, bool, int, int, bool, bool))),
            Lesson(*(jnp.ones(2),) * 4), jnp.array([[0, 2]]),
        )  # fmt: skip


def test_what_does_not_fit_is_refused_before_it_is_compiled(stage, start, monkeypatch):
    monkeypatch.setattr(text_sizes, "device_memory", lambda: 10_000)
    the, rollouts = stage[:2]
    with pytest.raises(InputError, match=r"base: found .* for 10 kB of memory"):
        the.estimate(start[0], rollouts, 0, once)
