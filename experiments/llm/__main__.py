"""`python -m experiments.llm train|eval|show|compare`: teams of small transformers."""

from __future__ import annotations

import sys
from typing import Annotated

import tyro

from experiments.commands import exit_code, parsed, use_all_cores
from experiments.llm import run  # first: it counts compilations from here on
from experiments.llm.compare import compare
from experiments.llm.evaluation import evaluate
from experiments.llm.figures import draw_run
from experiments.llm.settings import Compare, Eval, Show, Train
from experiments.llm.transcripts import show
from teamtr_jax.validation import shown

PROGRAM = "experiments.llm"


def train(settings: Train) -> None:
    summary = run.train_run(settings)
    figures = draw_run(settings.out)
    start, end, low = (summary[name] for name in ("accuracy_start", "accuracy_end", "gain_low95"))
    print(
        f"accuracy on {summary['test_prompts']} held-out prompts: {start:.3f} → {end:.3f}, gain at least {low:.3f} (95 %)"
    )
    print(
        f"{summary['updates']} updates, {summary['undone']} undone, {summary['regressions']} regressions, "
        f"{summary['tokens_per_second']:.0f} tokens/s, "
        f"{summary['seconds']:.0f} s, {summary['compilations']} programs compiled"
    )
    written = [settings.out / run.SUMMARY, *figures]
    print("\nrecords:", shown(settings.out), "summary and figures:", *map(shown, written), sep="\n  ")
    if settings.log:
        print(f"token log:\n  teamtr monitor {shown(settings.out / run.TOKENS)}.{settings.log}")


Command = (
    Annotated[Train, tyro.conf.subcommand("train", description="Train a team and measure what it gained.")]
    | Annotated[Eval, tyro.conf.subcommand("eval", description="avg@K and pass@K, by difficulty and by agent.")]
    | Annotated[Show, tyro.conf.subcommand("show", description="Print conversations: who said what, and the reward.")]
    | Annotated[Compare, tyro.conf.subcommand("compare", description="Methods side by side at matched rollouts.")]
)


def main(arguments: list[str] | None = None) -> int:
    """What was asked for. Exit codes: `exit_code`."""

    def command() -> None:
        settings = parsed(Command, arguments, PROGRAM, __doc__)
        if isinstance(settings, Compare):
            compare(settings)
        elif isinstance(settings, Train):
            train(settings)
        elif isinstance(settings, Eval):
            evaluate(settings)
        else:
            show(settings)

    return exit_code(PROGRAM, command)


if __name__ == "__main__":
    use_all_cores()
    sys.exit(main())
