"""Text teams in the driver: the same update as a team that writes a `Layout`, S12, floor, drift, token log, resume."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.llm.backend import LanguageRollouts, LanguageSampling, language_backend
from teamtr_jax.llm.layout import Layout, Vocabulary, round_robin
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, Toy, Transformer, agent_params, init_team
from teamtr_jax.llm.tasks import Problem
from teamtr_jax.llm.text.drift import drift_between
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text.view import Told
from teamtr_jax.llm.text_backend import init_text_state, text_backend
from teamtr_jax.llm.text_team import TextAgent, TextTeam
from teamtr_jax.llm.update import init_train_state
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.schedules import fresh
from teamtr_jax.sharing import Sharing

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


def twins(sharing=None, rank=0):
    """The same networks as a team that writes a layout and one that talks in text."""
    config = replace(SMALL, lora_rank=rank)
    team = LanguageTeam(LAYOUT, (config,) * AGENTS, sharing)
    model = Toy(Transformer(config, VOCABULARY.size, VOCABULARY.actions, 64, LAYOUT.prompt))
    agents = tuple(TextAgent(role, model, Characters(k)) for k, role in enumerate(Matches.roles))
    text = TextTeam(agents, TURNS, sharing=sharing, temperature=LAYOUT.temperature)
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape),
                          init_team(team, jax.random.key(0)))  # fmt: skip
    return team, text, params, [agent_params(team, params, k) for k in team.who.firsts]


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
    team, text, params, own = twins(sharing, rank)
    state, frozen = init_text_state(text, own, settings)
    ours = text_backend(text, frozen, Matches(), settings, SAMPLING)
    rollouts = ours.rollout(state, jax.random.key(1))
    new, info = ours.update(state, ours.estimate(state, rollouts, agent, fresh), agent)

    theirs, begin = language_backend(team, Matches(), settings, SAMPLING), init_train_state(team, params, settings)
    rows = as_layout(rollouts, begin.params)
    expected, known = theirs.update(begin, theirs.estimate(begin, rows, agent, fresh), agent)

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
