"""The networks that both sides measure. Imports neither JAX nor PyTorch."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["AGENTS", "CARD", "LINEARS", "RANK", "SHAPES", "SMALLEST", "Shape", "shape_of"]

RANK = 8
"""Of the adapters, beside every linear map."""

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The linear maps of a layer as transformers names them."""

AGENTS = 3


class Shape(NamedTuple):
    """A network of the Llama family and one batch; nothing that is written ends early."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    batch: int
    prompt: int
    new: int
    dtype: str = "float32"
    micro: int = 8  #: rows of one gradient accumulation

    @property
    def tokens(self) -> int:
        """New tokens of one batch."""
        return self.batch * self.new

    def flops(self, passes: float = 1.0) -> float:
        """Multiplications and additions of the matrix products for the new tokens: one pass forward, three with gradients."""
        length, each = self.prompt + (self.new + 1) / 2, self.width // self.heads
        maps = 2 * self.width * each * (self.heads + self.kv_heads) + 3 * self.width * self.hidden
        token = self.layers * (2 * maps + 4 * length * self.width) + 2 * self.vocabulary * self.width
        return passes * self.tokens * token


_SMOLLM2 = Shape(49152, 576, 30, 9, 3, 1536, 32, 64, 64)
SHAPES = {"smollm2": _SMOLLM2, "smollm2-bfloat16": _SMOLLM2._replace(dtype="bfloat16")}
CARD = _SMOLLM2._replace(batch=256, prompt=128, new=128, dtype="bfloat16", micro=32)
"""For an accelerator."""

SMALLEST = Shape(64, 16, 1, 2, 1, 24, 8, 5, 3, micro=4)
"""Where nothing is timed."""


def shape_of(name: str) -> Shape:
    """A shape by its name, or ``smallest``.

    Raises:
      ValueError: neither.
    """
    if name not in SHAPES and name != "smallest":
        raise ValueError(f"{name!r}: {', '.join(SHAPES)}")
    return SMALLEST if name == "smallest" else SHAPES[name]
