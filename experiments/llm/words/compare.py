"""Methods side by side on checkpoints: the same tasks, seeds, starts and number of rollouts."""

from __future__ import annotations

from pathlib import Path

from experiments.llm.compare import report
from experiments.llm.words.run import train_text
from experiments.llm.words.settings import TextCompare
from experiments.saved import places

__all__ = ["compare_text"]


def compare_text(settings: TextCompare) -> list[Path]:
    """Train what is missing, print the table, draw the figure from the summaries.

    Runs of one seed start from the same adapters, after the same supervised start if there is one.

    Raises:
      InputError: settings that do not fit one of the methods.
    """
    places(settings.out, ("starts", *settings.methods), ("compare.json", "compare.png"))
    found: dict[str, list[dict[str, object]]] = {name: [] for name in settings.methods}
    for run in [settings.run(name, seed) for seed in range(settings.seeds) for name in settings.methods]:
        print(f"{run.method}, seed {run.seed}", flush=True)
        found[run.method].append(train_text(run, settings.out / "starts" / f"team-{run.seed}"))
    return report(settings.out, found)
