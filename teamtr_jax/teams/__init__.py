"""Where teams come from: random, constructed, Gymnasium tables, OpenSpiel games, arrays of other libraries, stage files."""

from teamtr_jax.teams.arrays import team_from_arrays
from teamtr_jax.teams.garnet import random_stages
from teamtr_jax.teams.gymnasium import gymnasium_team, offered_actions
from teamtr_jax.teams.handover import handover_team
from teamtr_jax.teams.openspiel import openspiel_game
from teamtr_jax.teams.relay import relay_stage
from teamtr_jax.teams.stage_file import read_stage, write_stage

__all__ = ["gymnasium_team", "handover_team", "offered_actions", "openspiel_game", "random_stages", "read_stage",
           "relay_stage", "team_from_arrays", "write_stage"]  # fmt: skip
