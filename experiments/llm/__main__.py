"""`python -m experiments.llm train|eval|show|compare`: teams of small transformers."""

from __future__ import annotations

import sys
from contextlib import redirect_stderr
from io import StringIO
from typing import Annotated

import tyro

from experiments.llm import run  # first: it counts compilations from here on
from experiments.llm.compare import compare
from experiments.llm.evaluation import evaluate
from experiments.llm.figures import draw_run
from experiments.llm.settings import Compare, Eval, Show, Train
from experiments.llm.transcripts import show
from teamtr_jax.validation import InputError


def train(settings: Train) -> None:
    summary = run.train_run(settings)
    figures = draw_run(settings.out)
    start, end, low = (summary[name] for name in ("accuracy_start", "accuracy_end", "gain_low95"))
    print(
        f"accuracy on {summary['test_prompts']} held-out prompts: {start:.3f} → {end:.3f}, gain at least {low:.3f} (95 %)"
    )
    print(
        f"{summary['updates']} updates, {summary['regressions']} regressions, {summary['tokens_per_second']:.0f} tokens/s, "
        f"{summary['seconds']:.0f} s, {summary['compilations']} programs compiled"
    )
    written = [settings.out / run.SUMMARY, *figures]
    print("\nrecords:", settings.out, "summary and figures:", *written, sep="\n  ")
    if settings.log:
        print(f"token log:\n  teamtr monitor {settings.out / run.TOKENS}.{settings.log}")


Command = (
    Annotated[Train, tyro.conf.subcommand("train", description="Train a team and measure what it gained.")]
    | Annotated[Eval, tyro.conf.subcommand("eval", description="avg@K and pass@K, by difficulty and by agent.")]
    | Annotated[Show, tyro.conf.subcommand("show", description="Print conversations: who said what, and the reward.")]
    | Annotated[Compare, tyro.conf.subcommand("compare", description="Methods side by side at matched rollouts.")]
)


def parsed(arguments: list[str] | None) -> Train | Eval | Show | Compare:
    """The command line as settings. tyro frames an `InputError` and exits; it is taken out of the frame again."""
    said = StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                Command,  # pyright: ignore[reportArgumentType]
                prog="python -m experiments.llm",
                description=__doc__,
                args=arguments,
            )
    except SystemExit as stop:
        error: BaseException | None = stop
        while error is not None and not isinstance(error, InputError):
            error = error.__context__
        if error is not None:
            raise error from None
        sys.stderr.write(said.getvalue())
        raise


def main(arguments: list[str] | None = None) -> int:
    """Bad input: one line on stderr, exit code 2. Ctrl-C: what is saved stays, exit code 130."""
    try:
        settings = parsed(arguments)
        if isinstance(settings, Compare):
            compare(settings)
        elif isinstance(settings, Train):
            train(settings)
        elif isinstance(settings, Eval):
            evaluate(settings)
        else:
            show(settings)
        return 0
    except InputError as error:
        print(f"experiments.llm: error: {error}", file=sys.stderr)
        return 2
    except (OSError, ArithmeticError) as error:
        print(f"experiments.llm: error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
