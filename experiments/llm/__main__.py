"""`python -m experiments.llm train|eval|show|compare`: teams of small transformers, or with `--base` of language models."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.commands import exit_code, parsed, use_all_cores
from experiments.llm import run  # first: it counts compilations from here on
from experiments.llm.compare import compare
from experiments.llm.evaluation import evaluate
from experiments.llm.figures import draw_run
from experiments.llm.settings import Compare, Eval, Learn, Show, Train
from experiments.llm.transcripts import show
from experiments.llm.words.compare import compare_text
from experiments.llm.words.hosts import join
from experiments.llm.words.run import is_text_run, train_text
from experiments.llm.words.settings import TextCompare, TextTrain
from experiments.llm.words.talking import evaluate_text, show_text
from teamtr_jax.hosts import is_first
from teamtr_jax.validation import InputError, shown

PROGRAM = "experiments.llm"


def train(settings: Train) -> None:
    summary = run.train_run(settings)
    figures = draw_run(settings.out)
    start, end, low = (float(summary[name]) for name in ("accuracy_start", "accuracy_end", "gain_low95"))
    print(
        f"accuracy on {summary['test_prompts']} held-out prompts: {start:.3f} → {end:.3f}, gain at least {low:.3f} (95 %)"
    )
    print(
        f"{summary['updates']} updates, {summary['undone']} undone, {summary['regressions']} regressions, "
        f"{summary['tokens_per_second']:.0f} tokens/s, "
        f"{summary['seconds']:.0f} s, {summary['compilations']} programs compiled"
    )
    _tell_written(settings, figures)


def _tell_written(settings: Learn, figures: Sequence[Path]) -> None:
    written = [settings.out / run.SUMMARY, *figures]
    print("\nrecords:", shown(settings.out), "summary and figures:", *map(shown, written), sep="\n  ")
    if settings.log:
        print(f"token log:\n  teamtr monitor {shown(settings.out / run.TOKENS)}.{settings.log}")


def train_words(settings: TextTrain) -> None:
    summary = train_text(settings)
    if not is_first():
        return
    figures = draw_run(settings.out)
    start, end, low = (float(summary[name]) for name in ("accuracy_start", "accuracy_end", "gain_low95"))
    print(
        f"accuracy on {summary['test_prompts']} held-out prompts: {start:.3f} → {end:.3f}, gain at least {low:.3f} (95 %)"
    )
    if summary["warm_start"] is not None:
        print(f"the start is after {summary['warm_start']['demonstrations']} demonstrations; "
              f"before them: {summary['accuracy_untrained']:.3f}")  # fmt: skip
    print(f"{summary['updates']} updates, {summary['undone']} undone, {summary['tokens_per_second']:.0f} tokens/s, "
          f"{summary['seconds']:.0f} s, {summary['compilations']} programs compiled")  # fmt: skip
    _tell_written(settings, figures)


Kept = (
    Annotated[Eval, tyro.conf.subcommand("eval", description="avg@K and pass@K, by difficulty and by agent.")]
    | Annotated[Show, tyro.conf.subcommand("show", description="Print conversations: who said what, and the reward.")]
)
Command = (
    Annotated[Train, tyro.conf.subcommand("train", description="Train a team and measure what it gained. With --base CHECKPOINT: "
                                          "a team of language models (train --base X --help).")]
    | Annotated[Compare, tyro.conf.subcommand("compare", description="Methods side by side at matched rollouts.")]
    | Kept
)  # fmt: skip
WordsCommand = (
    Annotated[
        TextTrain, tyro.conf.subcommand("train", description="Train a team of checkpoints and measure what it gained.")
    ]
    | Annotated[TextCompare, tyro.conf.subcommand("compare", description="Methods side by side at matched rollouts.")]
    | Kept
)


def form_of(arguments: list[str]) -> Any:
    """What the command line says: of checkpoints where there is a `--base`.

    Raises:
      InputError: several devices or hosts without one.
    """

    def given(name: str) -> bool:
        return any(word == name or word.startswith(f"{name}=") for word in arguments)

    if given("--base"):
        return WordsCommand
    if arguments[:1] in (["train"], ["compare"]):
        for name in ("mesh", "hosts"):
            if given(f"--{name}"):
                raise InputError(
                    name, "no --base", "a team of checkpoints: small networks divide rows among devices by themselves"
                )
    return Command


def main(arguments: list[str] | None = None) -> int:
    """What was asked for. Exit codes: `exit_code`."""

    def command() -> None:
        form = form_of(sys.argv[1:] if arguments is None else arguments)
        settings = parsed(form, arguments, PROGRAM, __doc__)
        if isinstance(settings, Compare):
            compare(settings)
        elif isinstance(settings, TextCompare):
            compare_text(settings)
        elif isinstance(settings, Train):
            train(settings)
        elif isinstance(settings, TextTrain):
            join(settings.hosts)
            train_words(settings)
        elif settings.mesh is not None and not is_text_run(settings.run):
            raise InputError("mesh", repr(settings.mesh), "a run of checkpoints, which train --base made")
        elif isinstance(settings, Eval):
            (evaluate_text if is_text_run(settings.run) else evaluate)(settings)
        else:
            (show_text if is_text_run(settings.run) else show)(settings)

    return exit_code(PROGRAM, command)


if __name__ == "__main__":
    use_all_cores()
    sys.exit(main())
