"""Every study of the suite, in the order in which they are begun."""

from theory.studies import bounds, p3_2, r2, r4, r5, r6, s8, s8_networks, scaling, stages, u1
from theory.studies.base import Study

__all__ = ["STUDIES"]

STUDIES: tuple[Study, ...] = tuple(
    module.STUDY for module in (stages, s8, r6, r2, r4, scaling, u1, r5, p3_2, s8_networks, bounds)
)
