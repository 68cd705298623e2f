"""What a policy says of each token, and how far it is from another, over the whole vocabulary and never whole.

No array [rows, tokens, vocabulary] fits: 64 × 512 tokens of a vocabulary of 150,000 take 20 GB. Features [rows, tokens, D]
do, so these are kept, and logits are made of them block after block of token positions; a backward pass makes them again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
    current: Float[Array, "*batch V"], new: Float[Array, "*batch V"], written: Int[Array, "*batch"]
) -> TokenStatistics:
    """`TokenStatistics` from logits. `new` and `kl` are differentiated, in the new logits alone.

    No term of the KL is negative, so that a small one is not lost in float32: `p (r − 1 − log r)` with `r = q/p`, which is
    `q − p − p log r`, the form that does not overflow, where r is large. An id that neither policy ever writes (logit −∞) counts
    nothing; one that the new policy alone never writes makes the KL infinite, one that it alone writes the χ².
    """
    return _forward(current, new, written)[0]


def _forward(current: Array, new: Array, written: Array) -> tuple[TokenStatistics, tuple[Array, Array, Array]]:
    log_p, log_q = jax.nn.log_softmax(current), jax.nn.log_softmax(new)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    here, there = p > 0, q > 0
    d = jnp.where(here, log_q - jnp.where(here, log_p, 0.0), 0.0)
    near = d < 1.0
    small = jnp.where(near, d, 0.0)
    kl = jnp.where(here, jnp.where(near, p * (jnp.expm1(small) - small), q - p - p * d), q).sum(-1)
    far = jnp.exp(2 * log_q - jnp.where(there, log_p, 0.0)) - 2 * q + p
    chi_square = jnp.where(here & near | ~there, p * jnp.expm1(small) ** 2, far).sum(-1)
    entropy = -(q * jnp.where(there, log_q, 0.0)).sum(-1)
    found = TokenStatistics(_written(log_p, written), _written(log_q, written), kl, entropy, chi_square)
    return found, (p, q, written)


def _backward(kept: tuple[Array, Array, Array], slope: TokenStatistics) -> tuple[None, Array, None]:
    """`∂ log q(a)/∂ logits = 1_a − q`, `∂ KL/∂ logits = q − p`."""
    p, q, written = kept
    of_new, of_kl = slope.new[..., None], slope.kl[..., None]
    one = jnp.arange(q.shape[-1]) == written[..., None]
    return None, of_new * (one - q) + of_kl * (q - p), None


statistics_of_logits.defvjp(_forward, _backward)


def _written(log_probs: Float[Array, "*batch V"], written: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    return jnp.take_along_axis(log_probs, written[..., None], -1)[..., 0]


# --------------------------------------------------------------------------------------------------------- of all positions


def token_statistics(
    current: Float[Array, "*batch D"],
    current_head: Float[Array, "V D"],
    new: Float[Array, "*batch D"],
    new_head: Float[Array, "V D"],
    written: Int[Array, "*batch"],
    *,
    temperature: float | Array,
    chunk: int | None = None,
) -> TokenStatistics:
    """`TokenStatistics` of the policies `softmax(features · headᵀ / temperature)`, in float32 at least.

    Memory is that of a few blocks ``[chunk, V]``, also of the gradient. Gradients go to `new` and `new_head`; to neither through
    `entropy` and `chi_square`.

    Args:
      current: features of the current policy where each token was written; not differentiated.
      new: those of the new policy.
      written: ids; what is beyond the vocabulary (a pad) counts as its last id, to be masked by the caller.
      chunk: positions of a block; those of a block are far apart, so that rows on several devices are worked on at once.
        Default: `block_of`, for one device.

    Raises:
      InputError: shapes that do not belong together, a vocabulary of fewer than two ids, a bad temperature or chunk.
    """
    same = {"current": current.shape, "new": new.shape, "current_head": current_head.shape}
    _fit("new", new, new_head, written, temperature)
    if same["current"] != new.shape:
        raise InputError("current", f"shape {list(current.shape)}", f"shape {list(new.shape)}, that of `new`")
    if current_head.shape != new_head.shape:
        raise InputError("current_head", f"shape {list(current_head.shape)}", f"shape {list(new_head.shape)}")
    current, current_head = lax.stop_gradient((current, current_head))

    def block(current: Array, new: Array, written: Array) -> TokenStatistics:
        return statistics_of_logits(
            _logits(current, current_head, temperature), _logits(new, new_head, temperature), written
        )

    return _by_blocks(block, (current, new, written), new_head, chunk)


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
    _fit("features", features, head, written, temperature)

    def block(features: Array, written: Array) -> Array:
        logits = _logits(features, head, temperature)
        return _written(logits, written) - jax.nn.logsumexp(logits, -1)

    return _by_blocks(block, (features, written), head, chunk)


def _logits(features: Array, head: Array, temperature: float | Array) -> Array:
    wide = jnp.promote_types(features.dtype, jnp.float32)
    return logits_of(features.astype(wide) / jnp.asarray(temperature, wide), head)


def _fit(name: str, features: Array, head: Array, written: Array, temperature: float | Array) -> None:
    if head.ndim != 2 or head.shape[0] < 2:
        raise InputError(f"head of {name}", f"shape {list(head.shape)}", "[V, D] with a vocabulary of at least two ids")
    if features.shape[-1:] != head.shape[1:]:
        raise InputError(name, f"shape {list(features.shape)}", f"[…, {head.shape[1]}], the width of its head")
    if written.shape != features.shape[:-1]:
        raise InputError("written", f"shape {list(written.shape)}", f"shape {list(features.shape[:-1])}, one id each")
    if isinstance(temperature, float | int) or concrete(temperature) is not None:
        positive("temperature", temperature)


def _by_blocks(block: Callable[..., Any], inputs: tuple[Array, ...], head: Array, chunk: int | None) -> Any:
    """`block` of so many positions after another; the last input is ids."""
    *features, written = inputs
    shape, count = written.shape, written.size
    vocabulary = head.shape[0]
    itemsize = jnp.promote_types(features[-1].dtype, jnp.float32).itemsize
    size = block_of(vocabulary, count, itemsize) if chunk is None else whole_number("chunk", chunk, 1)
    flat = [x.reshape(count, x.shape[-1]) for x in features] + [jnp.clip(written.reshape(count), 0, vocabulary - 1)]
    if count <= size:
        return jax.tree.map(lambda x: x.reshape(shape), block(*flat))
    blocks = -(-count // size)
    padded = [jnp.pad(x, ((0, size * blocks - count),) + ((0, 0),) * (x.ndim - 1)) for x in flat]
    # Entry i of block b is position i·blocks + b: a block has positions of all rows, on all devices.
    each = [x.reshape(size, blocks, *x.shape[1:]).swapaxes(0, 1) for x in padded]
    found = lax.map(jax.checkpoint(lambda x: block(*x)), each)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(size * blocks)[:count].reshape(shape), found)
