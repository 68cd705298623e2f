"""Every study of the suite, in the order in which they are begun: the longest first; users of one program not at once."""

from theory.studies import bounds, p3_2, r2, r4, r5, r6, s8, s8_networks, scaling, stages, u1
from theory.studies.base import Study

__all__ = ["STUDIES"]

STUDIES: tuple[Study, ...] = tuple(
    module.STUDY for module in (s8, scaling, p3_2, u1, stages, r5, r4, r6, r2, bounds, s8_networks)
)
