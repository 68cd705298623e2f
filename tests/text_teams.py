"""Tiny text teams: networks of several families, and scribes whose tokenizers are lists of pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from teamtr_jax.llm.language_model import logits_of
from teamtr_jax.llm.llama.config import LlamaConfig
from teamtr_jax.llm.llama.rope import Rope
from teamtr_jax.llm.text.drift import Drift, drift_between
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text.view import Told
from teamtr_jax.llm.text_team import TextAgent, TextTeam

LLAMA = LlamaConfig(vocabulary=12, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, hidden=24, tied=True)
QWEN = replace(  # what Qwen 2 and 3 add: biases; norms of queries and keys
    LLAMA,
    vocabulary=10,
    biases=("q", "k", "v"),
    qk_norm=True,
    tied=False,
    heads=2,
    kv_heads=1,
    head_dim=6,
    rope=Rope(theta=1e5),
)
MISTRAL = replace(LLAMA, window=5, tied=False)


@dataclass(frozen=True)
class Pieces:
    """A scribe: the longest piece first; id 0 opens what is said, id 1 opens its own message, unknown characters are id 2."""

    pieces: tuple[str, ...] = ("<", ">", "?", ".", "a", "b", "c", "d", "ab", "ba", "aa", "cd")
    stops: tuple[tuple[int, ...], ...] = ((3,),)
    system: str = "a"

    def encode(self, text: str) -> list[int]:
        out = []
        while text:
            fits = [p for p in self.pieces if text.startswith(p)]
            piece = max(fits, key=len) if fits else "?"
            out.append(self.pieces.index(piece))
            text = text[len(piece) if fits else 1 :]
        return out

    def _heard(self, heard: Sequence[tuple[str, str]]) -> list[int]:
        return [i for name, text in heard for i in [0, *self.encode(name + text)]] + [1]

    def told_first(self, problem: str, heard: Sequence[tuple[str, str]]) -> Told:
        return Told(self.encode(self.system + problem) + self._heard(heard), 0)

    def told_next(self, own_ids: Sequence[int], heard: Sequence[tuple[str, str]], used: int = 0) -> Told:
        return Told(self._heard(heard), 0)

    def body(self, ids: Sequence[int]) -> list[int]:
        own = list(ids)
        return next((own[: -len(stop)] for stop in self.stops if own[-len(stop) :] == list(stop)), own)

    def read(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] for i in self.body(ids))

    def drift(self, ids: Sequence[int]) -> Drift:
        return drift_between(self.body(ids), self.encode(self.read(ids)))


def agent(name: str, model: LlamaConfig = LLAMA, cap: int = 4, **scribe) -> TextAgent:
    """An agent whose tokenizer has as many pieces as its network writes."""
    pieces = Pieces.pieces[: model.vocabulary] if "pieces" not in scribe else scribe.pop("pieces")
    return TextAgent(Role(name, cap=cap), model, Pieces(pieces, **scribe))


def params_of(team: TextTeam, seed: int = 0, scale: float = 3.0):
    """Random parameters of each set, far from uniform: what is read matters. Drawn by NumPy, whatever `init` draws."""
    rng = np.random.default_rng(seed)

    def drawn(path, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if "scale" in jax.tree_util.keystr(path):
            return jnp.ones(leaf.shape, leaf.dtype)
        wide = scale * leaf.shape[-2] ** -0.5 if len(leaf.shape) == 3 else leaf.shape[-1] ** -0.5
        return jnp.asarray(rng.normal(size=leaf.shape) * wide, leaf.dtype)

    shapes = [jax.eval_shape(model.init, jax.random.key(0)) for model in team.models]
    return tuple(jax.tree_util.tree_map_with_path(drawn, own) for own in shapes)


def rescored(team, params, which, reading):
    """Log-probabilities of what was written, by the network without a cache: the oracle of everything booked."""
    logp = jax.nn.log_softmax(logits_whole(team, params, which, reading), -1)
    found = np.take_along_axis(np.asarray(logp), np.asarray(reading.written)[..., None], -1)[..., 0]
    return np.where(reading.own, found, 0)


def logits_whole(team, params, which, reading):
    """``[R, M, L, V]``: at each message position, temperature and all."""
    said = (np.asarray(x) for x in (reading.ids, reading.readable, reading.at))
    return _logits(team.models[which], params, *said, team.temperature)


@partial(jax.jit, static_argnums=0)
def _logits(model, params, ids, readable, at, temperature):
    rows, views, length = ids.shape
    features, _ = model.features(params, ids.reshape(-1, length), readable.reshape(-1, length))
    features = features.reshape(rows, views * length, -1)
    chosen = jnp.take_along_axis(features, at.reshape(rows, -1, 1), 1)
    return (logits_of(chosen, model.head(params)) / temperature).reshape(*at.shape, -1)
