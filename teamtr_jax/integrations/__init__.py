"""Token logs and schedules in other people's trainers; each name brings the library that it needs, when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teamtr_jax.lazy_names import lazy_names

if TYPE_CHECKING:
    from teamtr_jax.integrations.log_writer import LogWriter
    from teamtr_jax.integrations.reuse import Reuse
    from teamtr_jax.integrations.schedule import TeamTRSchedule
    from teamtr_jax.integrations.trl_team import TrlTeam, TurnTaking, team_reward
    from teamtr_jax.sampler_settings import Sampler

__all__ = ["LogWriter", "Reuse", "Sampler", "TeamTRSchedule", "TrlTeam", "TurnTaking", "team_reward"]

_HOMES = {
    "LogWriter": "teamtr_jax.integrations.log_writer",
    "Reuse": "teamtr_jax.integrations.reuse",
    "Sampler": "teamtr_jax.sampler_settings",
    "TeamTRSchedule": "teamtr_jax.integrations.schedule",
    "TrlTeam": "teamtr_jax.integrations.trl_team",
    "TurnTaking": "teamtr_jax.integrations.trl_team",
    "team_reward": "teamtr_jax.integrations.trl_team",
}

__getattr__, __dir__ = lazy_names(_HOMES, globals())
