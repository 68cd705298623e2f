"""teamtr_jax: the exact theory of trust-region fine-tuning for teams that share one context (arXiv:2605.15207).

Importing the library changes no global setting. The exact core needs float64: call
``jax.config.update("jax_enable_x64", True)`` first, or every public function says so.
"""
