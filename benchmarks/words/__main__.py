"""``python -m benchmarks.words --torch PYTHON``: text conversations and GRPO steps beside transformers and TRL.

The network is SmolLM2-135M's, its weights random: time does not depend on them. The rest is as `benchmarks.llm` does it.
"""

from __future__ import annotations

from benchmarks.llm.__main__ import Compared
from benchmarks.llm.__main__ import main as measure
from benchmarks.words.shapes import SHAPES, SMALLEST, shape_of

__all__ = ["CHECKPOINTS", "GROUPS", "main", "smallest"]

GROUPS = {
    "sample": "conversations of one agent of SmolLM2's shape, beside transformers' `generate`",
    "step": "a GRPO step of its adapters from prompts to new ones, beside TRL with PEFT's LoRA",
    "team": "three agents on one base with an adapter each, beside one agent that reads and writes as much",
}
LEAST = {"sample": {"hf": 1.1, "hf_static": 1.1}, "step": {"trl": 1.5}}
CHECKPOINTS = Compared(
    "words", (__doc__ or "").split("\n\n")[0], GROUPS,
    {"sample": (("jax", "sample"), ("torch", "sample")), "step": (("jax", "step"), ("torch", "trl")), "team": (("jax", "team"),)},
    {"sample": "one", "step": "lora"}, {(group, size): LEAST.get(group, {}) for group in GROUPS for size in SHAPES},
    list(SHAPES), ", ".join(SHAPES), shape_of, 4,
)  # fmt: skip


def smallest(group: str) -> None:
    """Every contender once, at a shape of its own."""
    from benchmarks.words.jax_side import contenders

    CHECKPOINTS.smallest(group, contenders(group, SMALLEST))


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    measure(argv, CHECKPOINTS)


if __name__ == "__main__":
    main()
