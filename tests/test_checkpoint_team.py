"""Teams out of checkpoints: what the short way sets."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from teamtr_jax.llm.checkpoint_team import team_of
from teamtr_jax.llm.llama.load import load_agent
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.text.role import Role
from teamtr_jax.sharing import Sharing
from teamtr_jax.validation import InputError

CHECKPOINTS = Path(__file__).parent / "fixtures/checkpoints"
ROLES = tuple(Role(name, cap=4) for name in ("a", "b", "c"))


@pytest.fixture(scope="module")
def base():
    return load_agent(CHECKPOINTS / "smollm2", lora=Lora(rank=2))


@pytest.fixture(scope="module")
def other():
    return load_agent(CHECKPOINTS / "qwen2")


def test_one_base_adapters_for_each(base):
    team, params = team_of(base, ROLES, 5, key=jax.random.key(3), temperature=0.7, truncation="oldest")
    assert (team.turns, team.temperature, team.names) == (5, 0.7, ("a", "b", "c"))
    assert [team.speaker(turn) for turn in range(5)] == [0, 1, 2, 0, 1]
    for agent, role in zip(team.agents, ROLES, strict=True):
        assert agent.role is agent.scribe.role is role
        assert (agent.scribe.context, agent.scribe.truncation) == (2048, "oldest")
    q = [own["layers"]["q"] for own in params]
    assert q[0]["kernel"] is q[1]["kernel"] is q[2]["kernel"] is base.params["layers"]["q"]["kernel"]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not jnp.array_equal(q[i]["lora_a"], q[j]["lora_a"])
    assert not any(own["lora_b"].any() for own in q)


def test_without_a_key_adapters_are_those_of_the_checkpoint(base):
    again = base._replace(params=jax.tree.map(jnp.array, base.params))  # as if it had been loaded twice
    _, params = team_of([base, again], ROLES[:2], 2)
    for own, agent in zip(params, (base, again), strict=True):
        assert own["layers"]["q"]["lora_a"] is agent.params["layers"]["q"]["lora_a"]
        assert own["layers"]["q"]["kernel"] is base.params["layers"]["q"]["kernel"]


def test_sharers_and_different_networks(base, other):
    team, params = team_of([base, other, base], ROLES, 3, sharing=Sharing((0, 1, 0)))
    assert len(params) == 2
    assert [agent.scribe.tokenizer for agent in team.agents] == [base.tokenizer, other.tokenizer, base.tokenizer]
    assert params[1]["embedding"] is other.params["embedding"]


def test_what_is_refused(base, other):
    with pytest.raises(InputError, match="agents: found 2 checkpoints, expected one for all, or 3, one for each role"):
        team_of([base, base], ROLES, 3)
    with pytest.raises(InputError, match=r"key: found one, but qwen2 has no adapters, expected load_agent"):
        team_of([base, other], ROLES[:2], 2, key=jax.random.key(0))
    stranger = base._replace(name="stranger", digest="0" * 64)  # of the same sizes
    with pytest.raises(InputError, match=r"agents\[1\]: found stranger, expected smollm2, that of agent 0, a sharer"):
        team_of([base, stranger], ROLES[:2], 2, sharing=Sharing((0, 0)))
