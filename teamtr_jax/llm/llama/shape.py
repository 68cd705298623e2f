"""The sizes and settings of a network of the Llama family, all that its arrays and its forward pass depend on."""

from __future__ import annotations

from dataclasses import dataclass

from teamtr_jax.llm.checked import flags, made, real, texts, whole
from teamtr_jax.llm.llama.lora import LINEARS, Lora
from teamtr_jax.llm.llama.rope import Rope
from teamtr_jax.validation import InputError, one_of, whole_number

__all__ = ["LlamaShape"]


@dataclass(frozen=True)
class LlamaShape:
    """A decoder with grouped-query attention, RoPE, RMSNorm and SwiGLU, apart from its parameters.

    An id stands at the number of readable ids before it: rows may be padded anywhere and caches may have gaps.

    Parameters: ``{"embedding": [V, D], "layers": {…}, "norm": {"scale": [D]}, "head"?: {"kernel": [V, D]}}``; in ``layers`` the
    linear maps ``q, k, v, o, gate, up, down: {"kernel": [n, in, out], "bias"?: [n, out], "lora_a"?: [n, in, r], "lora_b"?:
    [n, r, out]}`` and the norms ``attention_norm, mlp_norm, q_norm?, k_norm?: {"scale": [n, size]}``, each stacked over n layers.

    Raises:
      InputError: names the entry.
    """

    vocabulary: int  #: V: rows of the tables; a tokenizer may have fewer ids
    width: int  #: D
    layers: int  #: n
    heads: int  #: H, of the queries
    kv_heads: int  #: of keys and values: a divisor of H
    head_dim: int  #: d, even
    hidden: int  #: of SwiGLU
    norm_eps: float = 1e-6
    rope: Rope = Rope()  # noqa: RUF009 - frozen
    biases: tuple[str, ...] = ()  #: linear maps that have one
    qk_norm: bool = False  #: RMSNorm of each head's query and key, before the rotation
    window: int | None = None  #: a position reads so many last ones, itself included; None: all before it
    full: tuple[int, ...] = ()  #: layers that read all in spite of the window
    tied: bool = False  #: the head is the table of embeddings
    longest: int = 2048  #: positions that the checkpoint was made for
    dtype: str = "float32"  #: of the computation. Trained leaves, norms, softmax and logits are float32 whatever it is
    lora: Lora | None = None  #: adapters; with them the rest is frozen and kept in `dtype`
    remat: bool = False  #: layers are computed again where they are differentiated, instead of kept
    unroll: bool = (
        False  #: layers with a cache one after the other, each with a cache of its own: a quarter faster on a CPU
    )

    def __post_init__(self) -> None:
        whole(self, 1, "vocabulary", "width", "layers", "heads", "kv_heads", "head_dim", "hidden", "longest")
        real(self, "norm_eps", above=0.0)
        flags(self, "qk_norm", "tied", "remat", "unroll")
        texts(self, "biases")
        made(self, Rope, "rope")
        one_of("dtype", self.dtype, ("float32", "bfloat16"))
        if self.heads % self.kv_heads:
            raise InputError("heads, kv_heads", f"{self.heads}, {self.kv_heads}", "a multiple of the second")
        if self.head_dim % 2:
            raise InputError("head_dim", self.head_dim, "an even number")
        if not set(self.biases) <= set(LINEARS):
            raise InputError("biases", repr(self.biases), "names out of " + ", ".join(LINEARS))
        if self.window is not None:
            object.__setattr__(self, "window", whole_number("window", self.window, 1))
        object.__setattr__(self, "full", tuple(whole_number("full", i, 0, self.layers - 1) for i in self.full))
        if self.lora is not None:
            made(self, Lora, "lora")
            for name in ("ranks", "alphas"):
                for _, layer, _ in getattr(self.lora, name):
                    if layer is not None and layer >= self.layers:
                        raise InputError(f"lora.{name}", f"layer {layer}", f"layers below {self.layers}")

    @property
    def kept(self) -> str:
        """The dtype in which kernels and tables are kept: trained ones in float32."""
        return "float32" if self.lora is None else self.dtype

    def sides(self, linear: str) -> tuple[int, int]:
        """`(in, out)` of a linear map."""
        attention, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q": (self.width, attention),
            "k": (self.width, keys),
            "v": (self.width, keys),
            "o": (attention, self.width),
            "gate": (self.width, self.hidden),
            "up": (self.width, self.hidden),
            "down": (self.hidden, self.width),
        }[linear]
