"""One command for the paper's questions at toy scale: ``python -m experiments.reproduce``."""
