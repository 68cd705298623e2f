"""The paper's ablations on tables (`python -m experiments.tabular --help`)."""
