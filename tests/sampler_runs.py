"""What tests/test_llm_sampler.py draws on one device and, in a process of its own, on two."""

import jax
import jax.numpy as jnp
import numpy as np

from teamtr_jax.llm.layout import Layout, Vocabulary, random_router
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, init_team
from teamtr_jax.llm.sampler import sample


def talked(devices):
    """Conversations on all devices of the process, without x64."""
    team = LanguageTeam(Layout(Vocabulary("abcd", 2), 3, 4, 5, random_router(2)), (ModelConfig(16, 1, 2),) * 2)
    prompts = jnp.asarray(team.layout.encode_prompts(["ab", "c"] * 3))
    params = init_team(team, jax.random.key(0))
    out = sample(team, params, prompts, jax.random.key(1), 11)
    # Prompts that two devices cannot divide, rows that they can.
    odd = sample(team, params, prompts[:3], jax.random.key(2), 4)
    assert len(jax.devices()) == devices
    assert len(out.tokens.devices()) == 1
    return {"odd": np.asarray(odd.tokens)} | {name: np.asarray(x) for name, x in out._asdict().items()}
