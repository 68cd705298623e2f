"""Stage 0 with torch: a newcomer is taught to be near the agent that it replaces, on that agent's own messages (U3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from teamtr_jax.integrations.schedule import Alignment

__all__ = ["Probe", "align"]


class Probe(NamedTuple):
    """Rows of one shape."""

    ids: Any  #: ``[N, P + C]``
    attention: Any  #: ``[N, P + C]``
    own: Any  #: ``[N, C]``, where the outgoing agent wrote
    messages: int  #: that it wrote


def align(
    outgoing: Any,
    newcomer: Any,
    probes: Sequence[Probe],
    radius: float,
    *,
    rate: float,
    epochs: int,
    batch: int,
    temperature: float,
) -> Alignment:
    """Steps of AdamW on `Σ_u KL(outgoing‖newcomer)` over the whole vocabulary, until both parts of the probes are in the ball.

    Along the outgoing agent's messages that sum has the mean KL(outgoing‖newcomer) of a message (P3.2), the `δ` of the
    certificates. It stops at the first epoch at which both are at most the radius: what the newcomer brings is kept as far as
    gradient steps keep it; it is no projection. If there is none, the weights of the epoch are left at which the greater of both
    was least, the newcomer as it came among them: few probes are soon learned by heart, and the other part moves away.

    Args:
      outgoing, newcomer: models of one vocabulary, without dropout.
      probes: those that train, those that only measure.
      radius: nats a message.
      rate, epochs: learning rate; most passes.
      batch: rows of a step.
      temperature: at which the agent samples.
    """
    torch = import_module("torch")
    train, held = probes
    optimiser = torch.optim.AdamW([p for p in newcomer.parameters() if p.requires_grad], lr=rate)

    def kl(probe: Probe) -> float:
        with torch.no_grad():
            return sum(float(part) for part in _parts(outgoing, newcomer, probe, batch, temperature)) / probe.messages

    trained = [p for p in newcomer.parameters() if p.requires_grad]
    before = after = kl(train), kl(held)
    best, steps = (after, [p.detach().clone() for p in trained]), 0
    for _ in range(epochs):
        if max(after) <= radius:
            break
        for part in _parts(outgoing, newcomer, train, batch, temperature):
            optimiser.zero_grad()
            (part / train.messages).backward()
            optimiser.step()
            steps += 1
        after = kl(train), kl(held)
        if max(after) < max(best[0]):
            best = after, [p.detach().clone() for p in trained]
    after = best[0]
    with torch.no_grad():
        for p, kept in zip(trained, best[1], strict=True):
            p.copy_(kept)
    newcomer.zero_grad()
    return Alignment(before[0], after[0], before[1], after[1], steps, max(after) <= radius)


def _parts(outgoing: Any, newcomer: Any, probe: Probe, batch: int, temperature: float) -> Iterator[Any]:
    """`Σ KL(outgoing‖newcomer)` over the own tokens of each part of the rows."""
    torch = import_module("torch")
    keep = probe.own.shape[1]
    for start in range(0, probe.ids.shape[0], batch):
        ids, attention, own = (x[start : start + batch] for x in probe[:3])

        def log_probs(model: Any, ids: Any = ids, attention: Any = attention, own: Any = own) -> Any:
            logits = model(input_ids=ids, attention_mask=attention).logits[:, -keep - 1 : -1]
            return torch.log_softmax(logits[own].float() / temperature, -1)

        with torch.no_grad():
            old = log_probs(outgoing)
        yield (old.exp() * (old - log_probs(newcomer))).sum()
