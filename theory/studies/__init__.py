"""Claims about families rather than about one stage: token trees (P3.2), the relay (R1), random teams (R3)."""
