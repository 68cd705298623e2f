"""`teamtr monitor`: what a token log says about every update, for anybody's trainer (docs/monitor.md)."""

from teamtr_jax.monitor.columns import INFORMATION, MONITOR_SCHEMA
from teamtr_jax.monitor.command import run
from teamtr_jax.monitor.interaction import Interaction, Pooled, pool
from teamtr_jax.monitor.log import TokenLog, token_log
from teamtr_jax.monitor.page import write_page
from teamtr_jax.monitor.reading import read_stages, read_token_log
from teamtr_jax.monitor.report import MonitorReport, monitor
from teamtr_jax.monitor.terminal import show
from teamtr_jax.monitor.verdict import Verdict, verdicts
from teamtr_jax.monitor.writing import append_token_log, token_rows, write_token_log
from teamtr_jax.monitor_settings import Settings

__all__ = ["run", "TokenLog", "token_log", "read_token_log", "read_stages", "write_token_log", "append_token_log", "token_rows",
           "Settings", "MonitorReport", "monitor", "Interaction", "Pooled", "pool", "Verdict", "verdicts",
           "show", "write_page", "MONITOR_SCHEMA", "INFORMATION"]  # fmt: skip
