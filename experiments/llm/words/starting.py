"""What training of checkpoints starts from: fresh adapters, or those of a short supervised start, which is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.llm.setup import kept_start
from experiments.llm.words.settings import TextTrain
from experiments.llm.words.setup import TextSetup, describe_text
from teamtr_jax.checkpoint import save
from teamtr_jax.hosts import as_spread, from_first, gathered, on_first
from teamtr_jax.llm.language_model import Params, joined, split_trained
from teamtr_jax.llm.text_warm_start import text_warm_start
from teamtr_jax.records import dump

__all__ = ["TextStart", "start_of_text"]

DECIDE = (
    *("task", "difficulty", "temperature", "seed", "warm", "bases", "lora"),
    *("full", "dtype", "roles", "turns", "context", "sharing"),
)
"""What of the settings decides where training starts."""


class TextStart(NamedTuple):
    """One pytree for each set of parameters, and how it was found."""

    params: tuple[Params, ...]
    record: dict[str, Any] | None
    """Of `TextWarmStartRecord`, and the seconds it took; none where there was no supervised start, or another process read it."""


def start_of_text(settings: TextTrain, setup: TextSetup, folder: Path) -> TextStart:
    """The warm-started team, from `folder` if it is there; as set up where no steps were asked for.

    Methods and schedules have no part in it: runs of one seed start alike.

    Raises:
      InputError: the folder holds a start made under other settings.
    """
    if not settings.warm.steps:
        return TextStart(setup.params, None)
    about = describe_text(settings, setup)
    want = {name: about[name] for name in DECIDE}
    began = time.perf_counter()
    each = [split_trained(own, model.trained(own)) for model, own in zip(setup.team.models, setup.params, strict=True)]
    trained, frozen = ([both[i] for both in each] for i in range(2))
    found = on_first(lambda: kept_start(folder, want, trained))
    if from_first(np.bool_(found is not None)):
        whole = gathered(trained)  # by all processes: of those that did not read
        kept = from_first(whole if found is None else found.tree)
        return TextStart(_whole(as_spread(kept, trained), frozen), found and found.metadata["record"])
    params, record = text_warm_start(
        setup.team, setup.task, setup.params, settings.seed, settings.warm, mesh=setup.mesh
    )
    kept = {**record._asdict(), **asdict(settings.warm), "seconds": time.perf_counter() - began}
    own = [split_trained(own, model.trained(own))[0] for model, own in zip(setup.team.models, params, strict=True)]
    learned = gathered(own)
    on_first(lambda: save(folder, record.steps, learned, {"settings": want, "record": kept}))
    return TextStart(params, json.loads(dump(kept)))


def _whole(trained: Sequence[Params], frozen: Sequence[Params]) -> tuple[Params, ...]:
    return tuple(joined(own, rest) for own, rest in zip(jax.tree.map(jax.numpy.asarray, trained), frozen, strict=True))
