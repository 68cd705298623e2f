"""One study, one file: `run(settings)` trains what is missing, prints its table and draws from the saved records."""

from collections.abc import Callable
from pathlib import Path

from experiments.tabular.settings import Settings
from experiments.tabular.studies import ablation

__all__ = ["STUDIES"]

STUDIES: dict[str, Callable[[Settings], list[Path]]] = {
    "ablation": ablation.run,
}
