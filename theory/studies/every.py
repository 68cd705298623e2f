"""Every study of the suite, in the order in which they are begun: the longest first; users of one program not at once."""

from theory.studies import (
    bounds,
    joint,
    p3_2,
    r2,
    r4,
    r5,
    r6,
    s7d,
    s8,
    s8_anytime,
    s8_networks,
    s11,
    s12,
    s13,
    scaling,
    stages,
    u1,
    u4,
)
from theory.studies.base import Study

__all__ = ["STUDIES"]

STUDIES: tuple[Study, ...] = tuple(
    module.STUDY
    for module in (
        s8,
        s13,
        scaling,
        s11,
        u4,
        p3_2,
        u1,
        stages,
        r5,
        r4,
        r6,
        r2,
        bounds,
        s7d,
        s8_networks,
        s12,
        s8_anytime,
        joint,
    )
)
