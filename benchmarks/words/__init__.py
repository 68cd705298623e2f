"""Checkpoints that talk in text, beside transformers and TRL on the same network."""
