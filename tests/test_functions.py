"""A function can be read on one screen, called without counting commas, and names what it returns."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = ("teamtr_jax", "theory", "experiments", "benchmarks")
FILES = sorted(path.relative_to(ROOT) for tree in TREES for path in (ROOT / tree).rglob("*.py"))
LINES, POSITIONAL, RETURNED = 80, 7, 4


def functions(node):
    """Every function of a file, inner ones and methods too, and whether it is a method."""
    for child in ast.walk(node):
        for inner in ast.iter_child_nodes(child):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                yield inner, isinstance(child, ast.ClassDef)


def own_returns(function):
    """The `return` statements of a function, not those of functions inside it."""
    waiting = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Return):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(node))


def faults(source):
    """``(function, what is wrong)`` of a file's text."""
    for function, method in functions(ast.parse(source)):
        lines = function.end_lineno - function.lineno + 1
        positional = len(function.args.posonlyargs) + len(function.args.args) - method
        returned = max((len(x.value.elts) for x in own_returns(function) if isinstance(x.value, ast.Tuple)), default=0)
        if lines > LINES:
            yield function.name, f"{lines} lines"
        if positional > POSITIONAL:
            yield function.name, f"{positional} positional parameters"
        if returned > RETURNED:
            yield function.name, f"a tuple of {returned}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_are_small(path):
    """At most 80 lines, docstring included, seven positional parameters, and four things in a tuple that is returned."""
    found = [f"{name}: {what}" for name, what in faults((ROOT / path).read_text())]
    assert not found


def test_what_is_too_large_is_seen():
    """The limits themselves, inner functions and methods; keyword-only parameters and `self` do not count."""
    body = "    pass\n" * 79
    assert not list(faults(f"def f(a, b, c, d, e, f, g, *, h):\n{body}"))
    assert list(faults(f"def f():\n{body}    pass\n")) == [("f", "81 lines")]
    assert list(faults("def f(a, b, c, d, /, e, f, g, h): pass")) == [("f", "8 positional parameters")]
    method = "class A:\n  def f(self, a, b, c, d, e, f, g{}): pass"
    assert not list(faults(method.format("")))
    assert list(faults(method.format(", h"))) == [("f", "8 positional parameters")]
    inner = "def f():\n  def g():\n    return 1, 2, 3, 4, 5\n  return 1, 2, 3, 4"
    assert list(faults(inner)) == [("g", "a tuple of 5")]
