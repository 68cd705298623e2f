"""The type checker of the suite: beartype on every annotated function, but not on the fields of array bundles.

jax rebuilds its pytrees with things that are no arrays (`eval_shape` puts shapes in the fields, `vmap` its axes), so the
fields of a registered dataclass cannot be held to `Array`.
"""

from beartype import beartype


def check(function):
    """Decorator that jaxtyping's import hook applies (tests/conftest.py)."""
    return function if getattr(function, "__name__", "") == "__init__" else beartype(function)
