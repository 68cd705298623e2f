"""Studies of families of teams: growth in n (R1 … R7), token trees (P3.2), finite samples (S8), certified shares (U1).

A claim about one stage is no study: it lives in the wheel (`teamtr_jax/claims`), so that `teamtr check` can run it.
"""
