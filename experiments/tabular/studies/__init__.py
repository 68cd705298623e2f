"""One study, one file: `run(settings)` trains what is missing, prints its table and draws from the saved records."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.tabular.settings import TabularSettings
from experiments.tabular.studies import (
    ablation,
    budget,
    cost,
    importance,
    order,
    regressions,
    replacement,
    scaling,
    tied,
    tracking,
)

__all__ = ["STUDIES", "LONGER"]

Study = Callable[[TabularSettings], list[Path]]

STUDIES: dict[str, Study] = {
    "scaling": scaling.run,
    "ablation": ablation.run,
    "regressions": regressions.run,
    "tracking": tracking.run,
    "importance": importance.run,
    "cost": cost.run,
    "order": order.run,
    "replacement": replacement.run,
    "tied": tied.run,
    "budget": budget.run,
}
"""In the order of the paper, then what it does not ask; `all` runs these."""

LONGER: dict[str, Study] = {"scaling-wide": partial(scaling.run, wide=True)}
"""By name only."""
