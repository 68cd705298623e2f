"""What a policy says of each token, and how far it is from another, over the whole vocabulary and never whole.

No array [rows, tokens, vocabulary] fits: 64 × 512 tokens of a vocabulary of 150,000 take 20 GB. Features [rows, tokens, D]
do, so these are kept, and logits are made of them block after block of token positions; a backward pass makes them again.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from teamtr_jax.llm.language_model import logits_of
from teamtr_jax.validation import InputError, concrete, positive, whole_number

__all__ = ["BLOCK", "TokenStatistics", "block_of", "token_statistics", "token_log_probs_of", "statistics_of_logits"]

BLOCK = 64 * 2**20
"""Bytes of the logits of one block of positions, at most."""


class TokenStatistics(NamedTuple):
    """One number for each token position. π is the current policy, π' the new one, given the text before."""

    current: Float[Array, "*batch"]  #: `log π(a)` of the token written
    new: Float[Array, "*batch"]  #: `log π'(a)`
    kl: Float[Array, "*batch"]  #: `KL(π‖π') = Σ_a π(a) log π(a)/π'(a)` in nats
    entropy: Float[Array, "*batch"]  #: `−Σ_a π'(a) log π'(a)` of the new policy, in nats
    chi_square: Float[Array, "*batch"]  #: `χ²(π'‖π) = Σ_a π(a) (π'(a)/π(a) − 1)²`


def block_of(vocabulary: int, positions: int, itemsize: int = 4) -> int:
    """Positions of a block: the greatest power of two whose logits take at most `BLOCK` bytes, or all of them.

    Example:
      >>> block_of(64, 4_096), block_of(49_152, 4_096), block_of(150_000, 32_768)
      (4096, 256, 64)
    """
    fitting = max(BLOCK // (vocabulary * itemsize), 1)
    return min(2 ** (fitting.bit_length() - 1), max(positions, 1))


# ------------------------------------------------------------------------------------------------------------ of one block


@jax.custom_vjp
def statistics_of_logits(
    current: Float[Array, "*batch V"] | None, new: Float[Array, "*batch V"], written: Int[Array, "*batch"]
) -> TokenStatistics:
    """`TokenStatistics` from logits. `new` and `kl` are differentiated, in the new logits alone.

    No term of the KL is negative, so that a small one is not lost in float32: `p (r − 1 − log r)` with `r = q/p`, which is
    `q − p − p log r`, the form that does not overflow, where r is large. An id that neither policy ever writes (logit −∞) counts
    nothing; one that the new policy alone never writes makes the KL infinite, one that it alone writes the χ².

    Args:
      current: of the current policy; `None` where that is the new one, as it is.
    """
    return _forward(current, new, written)[0]


class _Moved(NamedTuple):
    """How probabilities of a block answer to the logits."""

    new: Array  #: [..., V] `q`: `∂ log q(a)/∂ logits = 1_a − q`
    away: Array | None  #: [..., V] `q − p = ∂ KL/∂ logits`; `None`: zero


def _forward(current: Array | None, new: Array, written: Array) -> tuple[TokenStatistics, tuple[_Moved, Array]]:
    log_q = jax.nn.log_softmax(new)
    q = jnp.exp(log_q)
    there = q > 0
    entropy, log_new = -(q * jnp.where(there, log_q, 0.0)).sum(-1), _of(log_q, written)
    if current is None:
        zero = jnp.zeros_like(entropy)
        return TokenStatistics(log_new, log_new, zero, entropy, zero), (_Moved(q, None), written)
    log_p = jax.nn.log_softmax(current)
    p = jnp.exp(log_p)
    here = p > 0
    d = log_q - log_p
    near = here & (d < 1.0)
    small = jnp.where(near, d, 0.0)
    gain = jnp.expm1(small)  # q/p − 1
    far_kl = q - p - p * jnp.where(here & ~near, d, 0.0)
    far_square = jnp.exp(2 * log_q - jnp.where(there, log_p, 0.0)) - 2 * q + p
    kl = jnp.where(near, p * (gain - small), far_kl).sum(-1)
    chi_square = jnp.where(near, p * gain**2, far_square).sum(-1)
    away = jnp.where(near, p * gain, q - p)
    found = TokenStatistics(_of(log_p, written), log_new, kl, entropy, chi_square)
    return found, (_Moved(q, away), written)


def _backward(kept: tuple[_Moved, Array], slope: TokenStatistics) -> tuple[None, Array, None]:
    (q, away), written = kept
    one = jnp.arange(q.shape[-1]) == written[..., None]
    out = slope.new[..., None] * (one - q)
    return None, out if away is None else out + slope.kl[..., None] * away, None


statistics_of_logits.defvjp(_forward, _backward)


def _of(log_probs: Float[Array, "*batch V"], written: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    return jnp.take_along_axis(log_probs, written[..., None], -1)[..., 0]


# ------------------------------------------------------------------------------------------------------------ block by block


class _Inputs(NamedTuple):
    """Of one block ``[c, …]``, or of all ``[blocks, c, …]``; heads apart."""

    current: Array | None  #: [c, D] features, divided by the temperature
    new: Array
    written: Array  #: [c]


Heads = tuple[Array | None, Array]
"""Of the current and of the new policy."""


def _logits(inputs: _Inputs, heads: Heads) -> tuple[Array | None, Array]:
    (features, new, _), (current_head, head) = inputs, heads
    current = None if features is None or current_head is None else logits_of(features, current_head)
    return current, logits_of(new, head)


def _of_block(inputs: _Inputs, heads: Heads) -> TokenStatistics:
    return statistics_of_logits(*_logits(inputs, heads), inputs.written)


@jax.custom_vjp
def _of_blocks(inputs: _Inputs, heads: Heads) -> TokenStatistics:
    """`_of_block` of each block in turn."""
    return lax.map(lambda block: _of_block(block, heads), inputs)


class _Slopes(NamedTuple):
    """Of each position in its features, ``[…, D]``, found on the way forward: one product with the head each."""

    new: Array  #: `∂ log π'(a)/∂ features = head_a − Σ_b q_b head_b`
    away: Array | None  #: `∂ KL/∂ features = Σ_b (q_b − p_b) head_b`


def _blocks_forward(inputs: _Inputs, heads: Heads) -> tuple[TokenStatistics, tuple[_Inputs, Heads, _Slopes]]:
    """With the slopes in the features, so that a backward pass makes no logits again if the head is frozen.

    That is a fifth less work than `jax.checkpoint`, a third less without a KL in the loss; with a head that is trained as much.
    """

    def one(block: _Inputs) -> tuple[TokenStatistics, _Slopes]:
        found, ((q, away), written) = _forward(*_logits(block, heads), block.written)
        head = heads[1].astype(q.dtype)
        return found, _Slopes(head[written] - q @ head, None if away is None else away @ head)

    found, slopes = lax.map(one, inputs)
    return found, (inputs, heads, slopes)


def _blocks_backward(kept: tuple[_Inputs, Heads, _Slopes], slope: TokenStatistics) -> tuple[_Inputs, Heads]:
    inputs, (current, head), slopes = kept
    features = slope.new[..., None] * slopes.new
    if slopes.away is not None:
        features += slope.kl[..., None] * slopes.away

    def one(total: Array, block: tuple[_Inputs, TokenStatistics]) -> tuple[Array, None]:
        _, back = jax.vjp(lambda head: _of_block(block[0], (current, head)), head)
        return total + back(block[1])[0], None

    of_head, _ = lax.scan(one, jnp.zeros_like(head), (inputs, slope))  # nobody asks for a frozen one: compiled away
    return inputs._replace(current=None, new=features, written=None), (None, of_head)


_of_blocks.defvjp(_blocks_forward, _blocks_backward)


# --------------------------------------------------------------------------------------------------------- of all positions


def token_statistics(
    current: Float[Array, "*batch E"] | None,
    current_head: Float[Array, "V E"] | None,
    new: Float[Array, "*batch D"],
    new_head: Float[Array, "V D"],
    written: Int[Array, "*batch"],
    *,
    temperature: float | Array,
    chunk: int | None = None,
) -> TokenStatistics:
    """`TokenStatistics` of the policies `softmax(features · headᵀ / temperature)`, in float32 at least.

    Memory is that of a few blocks ``[chunk, V]``, also of the gradient. Gradients go to `new` and `new_head`, through the fields
    `new` and `kl` alone.

    Args:
      current: features of the current policy, whose network may be of another width, where each token was written; not
        differentiated. `None`: the new policy is the current one as it is, its KL zero: half of the work.
      new: those of the new policy.
      written: ids; what is beyond the vocabulary (a pad) counts as its last id, to be masked by the caller.
      chunk: positions of a block; those of a block are far apart, so that rows on several devices are worked on at once.
        Default: `block_of`, for one device.

    Raises:
      InputError: shapes that do not belong together, a vocabulary of fewer than two ids, a bad temperature or chunk.

    Example:
      >>> head, features = jnp.eye(3), jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]))
      >>> found = token_statistics(features[:1], head, features[1:], head, jnp.array([2]), temperature=1.0)
      >>> print(jnp.exp(jnp.stack(found[:2])).round(3).T, jnp.stack(found[2:]).round(4).T)
      [[0.25 0.5 ]] [[0.1733 1.0397 0.375 ]]
    """
    count, vocabulary = written.size, new_head.shape[0]
    _fit("new", new, new_head, written, temperature)
    if (current is None) != (current_head is None):
        raise InputError("current, current_head", "one of them", "both or neither")
    if current is not None and current_head is not None:
        if current.shape[:-1] != new.shape[:-1]:
            raise InputError("current", f"shape {list(current.shape)}", f"{list(new.shape[:-1])} and D, as `new`")
        if current_head.shape[:1] != new_head.shape[:1]:
            raise InputError("current_head", f"shape {list(current_head.shape)}", f"{vocabulary} rows, as `new_head`")
        _fit("current", current, current_head, written, temperature)
    wide = jnp.promote_types(jnp.promote_types(new.dtype, new_head.dtype), jnp.float32)
    size = block_of(vocabulary, count, wide.itemsize) if chunk is None else whole_number("chunk", chunk, 1)
    size = max(min(size, count), 1)
    blocks = -(-count // size)

    def split(x: Array) -> Array:
        """Entry i of block b is position i·blocks + b: a block has positions of all rows, on all devices."""
        x = x.reshape(count, *x.shape[written.ndim :])
        x = jnp.pad(x, ((0, size * blocks - count),) + ((0, 0),) * (x.ndim - 1))
        return x.reshape(size, blocks, *x.shape[1:]).swapaxes(0, 1)

    def of(features: Array) -> Array:
        return split(features.astype(wide) / jnp.asarray(temperature, wide))

    inputs = _Inputs(
        None if current is None else of(current),
        of(new),
        split(jnp.clip(written, 0, vocabulary - 1)),
    )
    heads = current_head, new_head
    if blocks == 1:
        found = jax.tree.map(lambda x: x[None], _of_block(jax.tree.map(lambda x: x[0], inputs), heads))
    else:
        found = _of_blocks(inputs, heads)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(size * blocks)[:count].reshape(written.shape), found)


def token_log_probs_of(
    features: Float[Array, "*batch D"],
    head: Float[Array, "V D"],
    written: Int[Array, "*batch"],
    *,
    temperature: float | Array,
    chunk: int | None = None,
) -> Float[Array, "*batch"]:
    """`log π(a)` of what was written, alone; arguments as of `token_statistics`.

    Example:
      >>> features, head = jnp.zeros((2, 3, 4)), jnp.ones((8, 4))
      >>> print(token_log_probs_of(features, head, jnp.zeros((2, 3), int), temperature=1.0).round(4))
      [[-2.0794 -2.0794 -2.0794]
       [-2.0794 -2.0794 -2.0794]]
    """
    return token_statistics(None, None, features, head, written, temperature=temperature, chunk=chunk).new


def _fit(name: str, features: Array, head: Array, written: Array, temperature: float | Array) -> None:
    if head.ndim != 2 or head.shape[0] < 2:
        raise InputError(f"head of {name}", f"shape {list(head.shape)}", "[V, D] with a vocabulary of at least two ids")
    if features.shape[-1:] != head.shape[1:]:
        raise InputError(name, f"shape {list(features.shape)}", f"[…, {head.shape[1]}], the width of its head")
    if written.shape != features.shape[:-1]:
        raise InputError("written", f"shape {list(written.shape)}", f"shape {list(features.shape[:-1])}, one id each")
    if isinstance(temperature, float | int) or concrete(temperature) is not None:
        positive("temperature", temperature)
