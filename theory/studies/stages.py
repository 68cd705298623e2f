"""Every claim about one stage, decided without rounding on random stages of small integers (`theory.exact_audit`)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from teamtr_jax.claims import STAGE_CLAIMS
from theory import exact_audit
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = ["STUDY"]


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    del lock
    return Found(evidence=exact_audit.run(tier.exact, rng))


STUDY = Study("decided without rounding", {claim.id: claim.words for claim in STAGE_CLAIMS}, _job, apart=True)
