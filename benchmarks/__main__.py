"""``python -m benchmarks`` is ``python -m benchmarks.stage``."""

from benchmarks.stage import main

if __name__ == "__main__":
    main()
