"""The type checker of the suite: beartype on every annotated function, but not on the fields of array bundles.

jax rebuilds its pytrees with things that are no arrays (`eval_shape` puts shapes in the fields, `vmap` its axes), so the
fields of a registered dataclass cannot be held to `Array`.
"""

import functools
import inspect
import types
import typing

import jaxtyping
from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a float is a complex, as NumPy's ArrayLike takes it
_with_shapes = jaxtyping.jaxtyped


def check(function):
    """Decorator that jaxtyping's import hook applies (tests/conftest.py)."""
    return function if getattr(function, "__name__", "") == "__init__" else _checked(function)


def install():
    """Check every function of the package from its import on: `jaxtyped` is the decorator that the hook writes into modules."""
    jaxtyping.jaxtyped = _jaxtyped
    jaxtyping.install_import_hook("teamtr_jax", "typechecker.check")


def _jaxtyped(function=None, *, typechecker):
    """`jaxtyping.jaxtyped`, without its record of shapes (tens of microseconds at every call) where a signature has none."""
    if function is None:
        return functools.partial(_jaxtyped, typechecker=typechecker)
    # Of a generator beartype would keep what was yielded last, of a function inside another one what that one holds.
    kept = inspect.isgeneratorfunction(function) or "<locals>" in getattr(function, "__qualname__", "")
    if inspect.isfunction(function) and function.__name__ != "__init__" and not kept:
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except Exception:  # a name that is not there yet: jaxtyping lets that one annotation be
            hints = None
        if hints is not None and not any(map(_shaped, hints.values())):
            return _switched(function, _checked(function))
    return _with_shapes(function, typechecker=typechecker)


def _switched(function, checked):
    """A test may turn the checks off to meet what a user meets (`jaxtyping_disable`), as it can where there are shapes."""

    @functools.wraps(function)
    def call(*arguments, **named):
        return (function if jaxtyping.config.jaxtyping_disable else checked)(*arguments, **named)

    return call


def _shaped(hint):
    """Whether jaxtyping has a say in an annotation."""
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return type(hint).__module__.startswith("jaxtyping") or hint.__module__.startswith("jaxtyping")
    if isinstance(hint, list | tuple):  # the arguments of a Callable
        return any(map(_shaped, hint))
    return any(map(_shaped, typing.get_args(hint)))
