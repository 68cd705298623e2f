"""The type checker of the suite: beartype on every annotated function, but not on the fields of array bundles.

jax rebuilds its pytrees with things that are no arrays (`eval_shape` puts shapes in the fields, `vmap` its axes), so the
fields of a registered dataclass cannot be held to `Array`.

Before it checks a call jaxtyping asks the signature which argument is which; `inspect` takes a quarter of the time for that,
a function with the same parameters next to none. What a protocol asks for is looked up once, as by Python 3.12.
"""

import functools
import inspect
import sys
import typing
from types import SimpleNamespace

import jaxtyping._decorator as decorator
from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a float is a complex, as NumPy's ArrayLike takes it


def check(function):
    """Decorator that jaxtyping's import hook applies (tests/conftest.py)."""
    return function if getattr(function, "__name__", "") == "__init__" else _checked(function)


class _Default:
    """Stands in the source for the default of a parameter."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"defaults[{self.name!r}]"


class Signature(inspect.Signature):
    """One that binds arguments by calling a function that has its parameters."""

    __slots__ = ("_named",)

    def bind(self, /, *args, **kwargs):
        try:
            named = self._named
        except AttributeError:
            named = self._named = self._function()
        return SimpleNamespace(arguments=named(*args, **kwargs), apply_defaults=lambda: None)

    def _function(self):
        """Returns what it is called with, by the name of each parameter, defaults too."""
        given = {k: x.default for k, x in self.parameters.items() if x.default is not x.empty}
        bare = [
            x.replace(annotation=x.empty, default=_Default(k) if k in given else x.empty)
            for k, x in self.parameters.items()
        ]
        named = ", ".join(f"{name!r}: {name}" for name in self.parameters)
        return eval(f"lambda {str(inspect.Signature(bare))[1:-1]}: {{{named}}}", {"defaults": given})  # noqa: S307 — names


def _signature(function):
    found = inspect.signature(function)
    return Signature(list(found.parameters.values()), return_annotation=found.return_annotation)


if sys.version_info < (3, 12):
    typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)
decorator.inspect = SimpleNamespace(**vars(inspect) | {"signature": _signature})
