"""What a team needs in memory, computed from its settings before anything is allocated."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import jax

from teamtr_jax import sizes
from teamtr_jax.llm.language_model import LanguageModel
from teamtr_jax.sizes import bytes_text, most
from teamtr_jax.validation import InputError

__all__ = ["device_memory", "parameters_of", "required", "require_room"]

LanguageTeam = ModelConfig = Layout = Any
"""Those of `model` and `layout`, which are built on this module: only sizes are read."""

FLOAT = 4
"""Bytes of a parameter, a moment, a log-probability; of an id too."""


def device_memory() -> int:
    """Bytes of the first device of this process; on a CPU those of `sizes.memory`."""
    device = jax.local_devices()[0]
    with suppress(Exception):  # a CPU has no statistics
        if limit := (device.memory_stats() or {}).get("bytes_limit"):
            return int(limit)
    return sizes.memory()


def parameters_of(config: ModelConfig | LanguageModel, layout: Layout) -> tuple[int, int]:
    """How many numbers a network has, and how many of them an update trains."""
    if isinstance(config, LanguageModel):
        shapes = jax.eval_shape(config.init, jax.random.key(0))
        each = [
            (x.size, trained)
            for x, trained in zip(*map(jax.tree.leaves, (shapes, config.trained(shapes))), strict=True)
        ]
        return sum(size for size, _ in each), sum(size for size, trained in each if trained)
    width, inner = config.width, config.inner
    maps = ((width, 3 * width), (width, width), (width, 2 * inner), (inner, width))
    adapters = config.layers * sum(config.lora_rank * (a + b) for a, b in maps)
    kernels = config.layers * (sum(a * b for a, b in maps) + 2 * width)
    total = layout.vocabulary.size * width + kernels + width + adapters
    return total, adapters or total


def required(team: LanguageTeam, rows: int = 0, micro_batch: int = 0, epochs: int = 0) -> int:
    """Bytes that are alive at once, at the least.

    Args:
      rows: conversations that are sampled, and kept for an update; 0: parameters alone.
      micro_batch: conversations whose gradient is taken at once; 0: nothing is trained.
      epochs: passes over the rows.
    """
    layout, updates = team.layout, len(team.who.leaders)
    length, written = layout.length, layout.turns * layout.message
    each = [parameters_of(config, layout) for config in team.networks]
    out = FLOAT * sum(total for total, _ in each)
    if (
        micro_batch
    ):  # a stage keeps the state before each of its updates; the state has two moments beside what is trained
        out += FLOAT * sum(total * updates + 2 * trained * (updates + 1) for total, trained in each)
        inside = max(_inside(config, length) for config in team.models)
        out += FLOAT * min(micro_batch, max(rows, 1)) * length * inside
        features = max(config.width * _itemsize(config) for config in team.models)
        out += rows * (written * features + FLOAT * epochs)
    return out + rows * (length * 2 * FLOAT + sum(_cache(config, length) for config in team.networks))


def _itemsize(config: ModelConfig | LanguageModel) -> int:
    """Bytes of a number of a network's computation."""
    return 2 if getattr(config, "dtype", "bfloat16") == "bfloat16" else FLOAT


def _cache(config: ModelConfig | LanguageModel, length: int) -> int:
    """Bytes of the keys and values of one conversation."""
    if isinstance(config, LanguageModel):
        shapes = jax.eval_shape(lambda: config.init_cache(1, length))
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    return 2 * config.layers * config.width * _itemsize(config) * length


def _inside(config: ModelConfig | LanguageModel, length: int) -> int:
    """Numbers that a gradient keeps of each position; of a network that is only known by its interface the features alone."""
    if isinstance(config, LanguageModel):
        return config.width
    return config.layers * (4 * config.width + 3 * config.inner + config.heads * length)


def require_room(
    team: LanguageTeam, name: str = "rollouts", rows: int = 0, micro_batch: int = 0, epochs: int = 0
) -> None:
    """Refuse what needs more memory than there is (`required`), with the estimate and what would fit.

    Args:
      name: of the setting that says how many rows.

    Raises:
      InputError: names the width of the networks where they alone do not fit, otherwise `name`.
    """
    limit = device_memory()
    if (needed := required(team, rows, micro_batch, epochs)) <= limit:
        return
    alone = required(team, 0, 1 if micro_batch else 0)
    least = required(team, 1, 1 if micro_batch else 0)
    have = f"{bytes_text(limit)} of memory"
    if alone > limit:
        total = sum(parameters_of(config, team.layout)[0] for config in team.networks)
        widest = max(config.width for config in team.models)
        found = f"{widest}, {total:,} parameters of {team.agents} agents: at least {bytes_text(alone)}"
        raise InputError("width", found, f"{_width_that_fits(team, limit, micro_batch > 0)}, for {have}")
    if least > limit:
        found = f"{team.layout.length} positions: at least {bytes_text(least)} for one conversation"
        raise InputError("prompt, message, turns", found, f"shorter conversations or smaller networks, for {have}")
    fits = most(lambda count: required(team, min(rows, count), min(micro_batch, count), epochs), limit)
    found = f"{max(rows, micro_batch):,} of {team.layout.length} positions: at least {bytes_text(needed)}"
    raise InputError(name, found, f"at most {fits:,}, for {have}")


def _width_that_fits(team: LanguageTeam, limit: int, trained: bool) -> str:
    """Of networks like the first of the team, with the usual hidden width."""
    first = team.models[0]
    if isinstance(first, LanguageModel):
        return "smaller networks"
    step = 2 * first.heads

    def needed(count: int) -> int:
        config = replace(first, width=count * step, hidden=None)
        return required(replace(team, models=(config,) * team.agents), 0, 1 if trained else 0)

    steps = most(needed, limit)
    return f"a width of at most {steps * step}" if steps else "fewer agents, layers or heads"
