"""Token logs and schedules in other people's trainers; each name brings the library that it needs, when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teamtr_jax.lazy_names import lazy_names

if TYPE_CHECKING:
    from teamtr_jax.integrations.log_writer import LogWriter
    from teamtr_jax.sampler_settings import Sampler

__all__ = ["LogWriter", "Sampler"]

_HOMES = {
    "LogWriter": "teamtr_jax.integrations.log_writer",
    "Sampler": "teamtr_jax.sampler_settings",
}

__getattr__, __dir__ = lazy_names(_HOMES, globals())
