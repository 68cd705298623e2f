"""The package's side: ``python -m benchmarks.llm.jax_side sample large``.

* `one`: `sampler.sample` of one agent with as many prompt and message tokens as PyTorch's side, every row reading its prompt;
  `one_shared`: the same rows, of which each group reads its prompt once, as rollouts do.
* `three`, `three_alone`: a team of three that writes as many tokens in three turns; and one agent that reads the same
  transcripts up to its turn and writes a third of them: what each member of the team would pay for its own message.
* `step`: rollouts, rewards, advantages and one update over all tokens by `update_agent`, whose KL is measured afterwards on a
  quarter of the rollouts, `step_all` on all of them: a pass that PyTorch's sides do without.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.llm.sizes import CHARACTERS, GROUP, LEARNING_RATE, Size, serve, size_of
from benchmarks.stage import cores
from teamtr_jax.llm.layout import Layout, Transcripts, Vocabulary, messages, round_robin
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, agent_params, init_team, parameter_count, policy_logits
from teamtr_jax.llm.sampler import sample

TOLERANCE = 1e-5


def team_of(size: Size, agents: int, prompt: int, message: int, turns: int) -> LanguageTeam:
    """A vocabulary of at least 32 ids; no message ends early."""
    letters = CHARACTERS[: 31 - agents]
    layout = Layout(Vocabulary(letters, agents, ends=False), prompt, message, turns, round_robin(agents))
    return LanguageTeam(layout, (ModelConfig(size.width, size.layers, size.heads),) * agents)


def prompts_of(size: Size, length: int) -> jax.Array:
    """Random prompts, for GROUP rows each."""
    return jnp.asarray(np.random.default_rng(1).integers(0, 28, (size.batch // GROUP, length)), jnp.int32)


def agree(team: LanguageTeam, params: Any, sampled: Transcripts) -> None:
    """Cached log-probabilities are the teacher-forced ones."""
    layout = team.layout
    for turn in range(layout.turns):
        agent = turn % team.agents
        own = agent_params(team, params, agent)
        log_probs = jax.nn.log_softmax(
            jax.jit(policy_logits, static_argnums=(0, 1))(team.models[agent], layout, own, sampled.tokens)
        )
        begin = layout.start(turn) + 1
        here = sampled.tokens[:, begin : begin + layout.message]
        forced = jnp.take_along_axis(log_probs[:, begin - 1 : begin - 1 + layout.message], here[..., None], -1)[..., 0]
        error = float(abs(forced - sampled.logp[:, begin : begin + layout.message]).max())
        if error > TOLERANCE:
            raise SystemExit(f"turn {turn}: cached and teacher-forced log-probabilities differ by {error:.1e}")


def sampler(team: LanguageTeam, size: Size, params: Any, shared: bool = False) -> Callable[[], Transcripts]:
    """`sample` with a new key at each call; every row reads its prompt, or its group does so once (`shared`)."""
    keys, group = iter(jax.random.split(jax.random.key(2), 10_000)), GROUP if shared else 1
    prompts = jnp.repeat(prompts_of(size, team.layout.prompt), GROUP // group, axis=0)

    def run() -> Transcripts:
        return jax.block_until_ready(sample(team, params, prompts, next(keys), group))

    agree(team, params, run())
    return run


def reward_of(text: str) -> float:
    """The share of letters before n."""
    return sum(c < "n" for c in text) / max(len(text), 1)


def step_of(team: LanguageTeam, size: Size, measured: float) -> Callable[[], None]:
    """A whole GRPO step, from prompts to new parameters, rewards on the host."""
    from teamtr_jax.llm.losses import rollout_advantage
    from teamtr_jax.llm.update import UpdateData, init_train_state, update_agent
    from teamtr_jax.llm.update_settings import UpdateSettings

    settings = UpdateSettings(
        learning_rate=LEARNING_RATE, epochs=1, minibatch=size.batch, micro_batch=8, ratio="token", average="unit",
        penalty="k1", beta=0.0, adaptive=False, monitor="k1", early_stop=False, step_rule="none",
        measured=measured,
    )  # fmt: skip
    prompts = prompts_of(size, team.layout.prompt)
    state = init_train_state(team, init_team(team, jax.random.key(0)), settings)
    keys = iter(jax.random.split(jax.random.key(3), 10_000))
    ones = jnp.ones(size.batch, jnp.float32)
    order = jnp.arange(size.batch, dtype=jnp.int32)[None]

    def run() -> None:
        nonlocal state
        tokens, _, speaker = sample(team, state.params, prompts, next(keys), GROUP)
        texts = messages(team.layout, tokens)
        reward = np.array([reward_of("".join(turns)) for turns in texts], np.float32).reshape(-1, GROUP)
        advantage = rollout_advantage(jnp.asarray(reward), "group_normalised", 5.0).reshape(-1)
        data = UpdateData(tokens, speaker, advantage, advantage, ones, ones)
        state, _ = jax.block_until_ready(update_agent(team, settings, state, 0, data, order))

    return run


def peak(size: int = 2048) -> Callable[[], jax.Array]:
    """One product of square matrices."""
    a, product = jax.random.normal(jax.random.key(0), (size, size)), jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(a, a))


def contenders(what: str, size: Size) -> dict[str, Callable[[], object]]:
    """What is measured, by name; a sampler has compared its log-probabilities with teacher-forced ones."""
    one = team_of(size, 1, size.prompt - 1, size.new, 1)  # the header is the last token of the prompt
    if what == "step":
        return {"step": step_of(one, size, 0.25), "step_all": step_of(one, size, 1.0), "jax_matmul": peak()}
    if what == "sample":
        params = init_team(one, jax.random.key(0))
        return {
            "one": sampler(one, size, params),
            "jax_matmul": peak(),
            "one_shared": sampler(one, size, params, shared=True),
        }
    # Three messages of a third each, and one agent that reads the two others' messages as its prompt.
    message = size.new // 3
    team = team_of(size, 3, size.prompt - 1, message, 3)
    out: dict[str, Callable[[], object]] = {"jax_matmul": peak()}
    out["three"] = sampler(team, size, init_team(team, jax.random.key(0)))
    for turn in range(3):
        alone = team_of(size, 1, size.prompt - 1 + turn * (1 + message), message, 1)
        out[f"alone_{turn}"] = sampler(alone, size, init_team(alone, jax.random.key(0)))
    return out


def main() -> None:
    """What, and at which size."""
    what, size = sys.argv[1], size_of(sys.argv[2])
    jax.config.update("jax_num_cpu_devices", len(cores()))
    jax.config.update("jax_default_matmul_precision", "float32")  # PyTorch's default; on a CPU it is so anyway
    versions = dict(
        python=platform.python_version(), jax=jax.__version__, flax=flax.__version__, optax=optax.__version__
    )
    one = team_of(size, 1, size.prompt - 1, size.new, 1)
    parameters = parameter_count(init_team(one, jax.random.key(0)))
    serve(contenders(what, size), dict(versions=versions, device=jax.devices()[0].device_kind, parameters=parameters))


if __name__ == "__main__":
    main()
