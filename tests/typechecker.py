"""The type checker of the suite: beartype on every annotated function, but not on the fields of array bundles.

jax rebuilds its pytrees with things that are no arrays (`eval_shape` puts shapes in the fields, `vmap` its axes), so the
fields of a registered dataclass cannot be held to `Array`.
"""

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a float is a complex, as NumPy's ArrayLike takes it


def check(function):
    """Decorator that jaxtyping's import hook applies (tests/conftest.py)."""
    return function if getattr(function, "__name__", "") == "__init__" else _checked(function)
