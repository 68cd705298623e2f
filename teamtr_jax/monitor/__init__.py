"""`teamtr monitor`: what a token log says about every update, for anybody's trainer (docs/monitor.md).

Each name is imported when it is first used: who only writes a log needs NumPy and pyarrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from teamtr_jax.lazy_names import lazy_names

if TYPE_CHECKING:
    from teamtr_jax.monitor.advice import Advice, advices
    from teamtr_jax.monitor.columns import INFORMATION, MONITOR_SCHEMA
    from teamtr_jax.monitor.command import run
    from teamtr_jax.monitor.follow import Followed, Follower
    from teamtr_jax.monitor.interaction import Interaction, Pooled, pool
    from teamtr_jax.monitor.log import TokenLog, token_log
    from teamtr_jax.monitor.page import write_page
    from teamtr_jax.monitor.reading import read_stages, read_token_log
    from teamtr_jax.monitor.report import MonitorReport, monitor
    from teamtr_jax.monitor.scalars import SCALARS
    from teamtr_jax.monitor.terminal import show
    from teamtr_jax.monitor.verdict import Verdict, verdicts
    from teamtr_jax.monitor.writing import append_token_log, token_rows, write_token_log
    from teamtr_jax.monitor_settings import Settings

__all__ = ["run", "TokenLog", "token_log", "read_token_log", "read_stages", "write_token_log", "append_token_log", "token_rows",
           "Settings", "MonitorReport", "monitor", "Interaction", "Pooled", "pool", "Verdict", "verdicts",
           "show", "write_page", "Advice", "advices", "Followed", "Follower", "SCALARS", "MONITOR_SCHEMA",
           "INFORMATION"]  # fmt: skip

_HOMES = {
    "advice": ("Advice", "advices"),
    "columns": ("INFORMATION", "MONITOR_SCHEMA"),
    "command": ("run",),
    "follow": ("Followed", "Follower"),
    "interaction": ("Interaction", "Pooled", "pool"),
    "log": ("TokenLog", "token_log"),
    "page": ("write_page",),
    "reading": ("read_stages", "read_token_log"),
    "report": ("MonitorReport", "monitor"),
    "scalars": ("SCALARS",),
    "terminal": ("show",),
    "verdict": ("Verdict", "verdicts"),
    "writing": ("append_token_log", "token_rows", "write_token_log"),
}
_HOMES = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}
_HOMES["Settings"] = "teamtr_jax.monitor_settings"

__getattr__, __dir__ = lazy_names(_HOMES, globals())
