"""Runnable studies: what the paper asked of language models, asked of teams small enough to be exact."""
