"""The type checker of the suite: beartype on every annotated function, but not on the fields of array bundles.

jax rebuilds its pytrees with things that are no arrays (`eval_shape` puts shapes in the fields, `vmap` its axes), so the
fields of a registered dataclass cannot be held to `Array`.
"""

import functools
import inspect
import typing
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_checked = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # a float is a complex, as NumPy's ArrayLike takes it
        violation_type=jaxtyping.TypeCheckError,
    )
)
_with_sizes = jaxtyping.jaxtyped


def check(function):
    """Decorator that jaxtyping's import hook applies (tests/conftest.py).

    jaxtyping checks a call twice: its arguments before it (as a function that returns `Any`), then arguments and result. The
    sizes that the first found are still bound in the second, which is therefore asked about the result alone.
    """
    if getattr(function, "__name__", "") == "__init__":
        return function
    result = getattr(function, "__annotations__", {}).get("return", Any)
    if result is not Any:
        function.__annotations__ = {"return": result}
    return _checked(function)


def jaxtyped(function=None, *, typechecker):
    """`jaxtyping.jaxtyped`, but what names no array is for beartype alone: that takes a twentieth of a call's time."""
    if function is None:
        return lambda function: jaxtyped(function, typechecker=typechecker)
    if inspect.isfunction(function) and function.__name__ != "__init__" and not _has_sizes(_hints(function)):
        return _switched(function, _checked(function))
    return _with_sizes(function, typechecker=typechecker)


def _switched(function, checked):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return (function if jaxtyping.config.jaxtyping_disable else checked)(*args, **kwargs)

    return call


def _hints(function):
    try:
        return list(typing.get_type_hints(function).values())
    except (NameError, TypeError, AttributeError):  # cannot be read yet
        return [jaxtyping.AbstractArray]


def _has_sizes(hint) -> bool:
    """Whether there is an array of jaxtyping in it, whose sizes are compared with others'."""
    if inspect.isclass(hint) and type(hint).__module__.startswith("jaxtyping"):
        return True
    return any(map(_has_sizes, hint if isinstance(hint, list) else typing.get_args(hint)))
