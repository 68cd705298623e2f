"""Speed of `teamtr_jax.llm` beside PyTorch: ``python -m benchmarks.llm``."""

import os

if core := os.environ.get("TEAMTR_BENCH_CORE"):  # set for the sides; before a library starts its threads
    os.sched_setaffinity(0, {int(core)})
