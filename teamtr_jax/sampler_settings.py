"""How the tokens of a log were drawn: the law that its log-probabilities are of (docs/token-log.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from teamtr_jax.validation import InputError, one_of, real_number, whole_number

__all__ = ["PRECISIONS", "Sampler", "sampler_of"]

PRECISIONS = ("float64", "float32", "tfloat32", "bfloat16", "float16", "float8", "int8", "int4")
"""Of the forward pass that scores."""


@dataclass(frozen=True)
class Sampler:
    """Tokens are drawn from `softmax(logits/temperature)`, cut by `top_k`, `top_p`, `min_p`, after a repetition penalty.

    Raises:
      InputError: names the setting that makes no sense.

    Example:
      >>> Sampler(temperature=0.7, top_k=50).cuts, Sampler(temperature=1.0).plain
      (True, True)
    """

    temperature: float
    """Above 0: of greedy decoding nothing is a log-probability."""
    top_k: int = 0
    """So many of the most probable tokens; 0: no cut."""
    top_p: float = 1.0
    """The fewest tokens that have this probability together; 1: no cut."""
    min_p: float = 0.0
    """Tokens with this share of the largest probability, at least; 0: no cut."""
    repetition_penalty: float = 1.0
    """What divides positive, and multiplies negative, logits of tokens that are there already; 1: none."""
    precision: str = "float32"
    """Of the forward pass that scores: one of `PRECISIONS`, however the head or the softmax is computed."""

    def __post_init__(self) -> None:
        real_number("temperature", self.temperature, above=0.0)
        whole_number("top_k", self.top_k, 0, expected="an integer, at least 0 (0: no cut)")
        real_number("top_p", self.top_p, above=0.0, high=1.0)
        real_number("min_p", self.min_p, 0.0, below=1.0)
        real_number("repetition_penalty", self.repetition_penalty, above=0.0)
        one_of("precision", self.precision, PRECISIONS)

    @property
    def cuts(self) -> bool:
        """Whether there are tokens that the model writes and the sampler does not: `top_k`, `top_p` or `min_p`."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def plain(self) -> bool:
        """Whether the law is `softmax(logits/temperature)`: nothing is cut and nothing penalised."""
        return not self.cuts and self.repetition_penalty == 1

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {
            "temperature": float(self.temperature),
            "top_k": int(self.top_k),
            "top_p": float(self.top_p),
            "min_p": float(self.min_p),
            "repetition_penalty": float(self.repetition_penalty),
            "precision": self.precision,
        }


def sampler_of(settings: object, name: str = "sampler") -> Sampler:
    """The settings that `Sampler.to_json` wrote. A key that is not known is refused: it may change the law.

    Args:
      name: what the messages call them.

    Raises:
      InputError: no object, another key, no temperature, or a setting that makes no sense.

    Example:
      >>> sampler_of({"temperature": 0.7, "precision": "bfloat16"}).to_json()["top_p"]
      1.0
    """
    known = [field.name for field in fields(Sampler)]
    if not isinstance(settings, Mapping):
        raise InputError(name, repr(settings), f"an object with {', '.join(known)}")
    if other := [key for key in settings if key not in known]:
        raise InputError(
            name, f"{other[0]!r}", f"{', '.join(known)}: this version does not know what it does to the law"
        )
    if "temperature" not in settings:
        raise InputError(name, "no temperature", "the temperature at which the tokens were drawn")
    try:
        return Sampler(**settings)
    except InputError as error:
        raise InputError(f"{name}: {error.name}", error.found, error.expected) from None
