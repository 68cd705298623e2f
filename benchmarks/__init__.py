"""Side-by-side timings of the package against what a user would write instead.

* ``python -m benchmarks.stage``: run them, print ratios, write JSON,
* ``python -m benchmarks.report``: turn the JSON files of ``benchmarks/results/`` into ``benchmarks/README.md``.
"""
