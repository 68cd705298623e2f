"""Runs of teams that talk in text: checkpoints of the Llama family with adapters, tasks in words."""
