"""Which numbers of an update lie below its floor: rounding alone could have made them, and they decide nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from teamtr_jax.monitor.doubts import Doubts
from teamtr_jax.monitor.floor import VISIBLE
from teamtr_jax.monitor.limits import Limits
from teamtr_jax.monitor.own import Own
from teamtr_jax.monitor_settings import Settings

__all__ = ["below_floor"]


def below_floor(own: Own, found: Limits, doubts: Doubts, settings: Settings) -> list[str]:
    """Keys of the record, and rungs by id and name, that the floor hides; none where it was not measured.

    A KL of a message by the upper end of the floor's interval, `outside` with the k1 that decides it, the KL of an episode by
    that of the floor of an episode, and a lower limit, of either sign, by ϱ times that: what S7 charges for it. Of one prompt
    there is no upper end: all is below a floor that is visible, and nothing above `VISIBLE` below one that is not.
    """
    if (floor := own.floor) is None:
        return []
    width = settings.reward_range[1] - settings.reward_range[0]
    message, episode = (x.high if np.isfinite(x.high) or floor.visible else VISIBLE for x in (floor.kl, floor.episode))

    def hidden() -> Iterator[tuple[str, float, float]]:
        if own.kl is not None:
            yield "kl_k1", own.kl.k1.value, message
            yield "kl_k3", own.kl.k3.value, message
            if not doubts.contradiction:
                yield "outside", own.kl.k1.value, message
        yield "kl_episode", own.episode.value, episode
        lower = [(f"{x.id}, {x.name}", x.lower) for x in own.rungs if not doubts.invalid]
        lower += [("certificate", found.lower), ("certificate_finite_sample", found.finite)]
        yield from ((name, limit, width * episode) for name, limit in lower if np.isfinite(limit))

    return [name for name, value, most in hidden() if abs(value) <= most]
