"""What the suite checks of every call into the package (tests/typechecker.py): arguments, result, sizes that both name."""

import importlib
import sys

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError, install_import_hook

MODULE = """
from jaxtyping import Array, Float

def sums(x: Float[Array, "n S"], y: Float[Array, " S"], k: int = 0) -> Float[Array, "n+1 S"]:
    return jnp.concatenate([x, y[None]])[k:]

def free(x: Float[Array, " n"]):
    return x

def count(names: list[str], most: int | None = None) -> int:
    return len(names) if most is None else names[0]

def each(x: Float[Array, " n"], do: "Callable[[Float[Array, ' n']], int]") -> int:
    return do(x)

class Held:
    def __init__(self, name: str):
        self.name = name

    @property
    def size(self) -> int:
        return len(self.name) if self.name else None

    @classmethod
    def of(cls, name: str) -> "Held":
        return cls(name)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that is checked as the package is."""
    (tmp_path / "checked_here.py").write_text(
        f"import jax.numpy as jnp\nfrom collections.abc import Callable\n{MODULE}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with install_import_hook("checked_here", "typechecker.check"):
        found = importlib.import_module("checked_here")
    yield found
    del sys.modules["checked_here"]


def test_arguments_and_results_are_checked(module):
    x, y = jnp.ones((2, 3)), jnp.ones(3)
    assert module.sums(x, y).shape == (3, 3)
    assert module.free(y) is y
    for arguments in ((x, x), (x, jnp.ones(4)), (x, y, "0"), (x, y.astype(int))):
        with pytest.raises(TypeCheckError, match="checking the parameters"):
            module.sums(*arguments)
    with pytest.raises(TypeCheckError, match="checking the parameters"):
        module.free(x)
    with pytest.raises(TypeCheckError, match="checking the return value"):
        module.sums(x, y, 1)  # two rows for n + 1 = 3


def test_functions_without_arrays_are_checked(module):
    assert module.count(["a", "b"]) == 2
    assert (module.Held.of("ab").size, module.each(jnp.ones(2), len)) == (2, 2)
    for call in (
        lambda: module.count("ab"),
        lambda: module.count([1]),
        lambda: module.count(["a"], 1.5),
        lambda: module.count(["a"], 1),  # returns a text
        lambda: module.Held("").size,
        lambda: module.Held.of(1),
        lambda: module.each(jnp.ones((2, 2)), len),
        lambda: module.each(jnp.ones(2), str),
    ):
        with pytest.raises(TypeCheckError):
            call()
