"""Every error message of `teamtr_jax.validation`: it names the argument, what was found and what was expected, on one line."""

import copy
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.validation import (
    ROW_TOLERANCE,
    InputError,
    at_least,
    concrete,
    discount_factor,
    finite,
    integers,
    one_of,
    pair,
    permutation,
    positive,
    probability_rows,
    real_number,
    real_table,
    require_float64,
    shaped,
    shown,
    unchecked,
    whole_number,
    within,
)

TABLE = np.array([[0.5, 0.5], [0.25, 0.75]])


def with_entry(value):
    """`TABLE` with one entry replaced."""
    out = TABLE.copy()
    out[1, 0] = value
    return out


ERRORS = {
    "float32": (
        lambda: require_float64(a=TABLE, b=TABLE.astype(np.float32)),
        "b: found dtype float32, expected float64 (call jax.config.update('jax_enable_x64', True) before making arrays,",
    ),
    "a list": (lambda: require_float64(rows=[0.5]), "rows: found dtype None, expected float64 (call jax.config.update"),
    "integers for floats": (lambda: require_float64(r=np.arange(3)), "r: found dtype int64, expected float64 ("),
    "rank": (
        lambda: shaped("policy", TABLE, ("S", "A", "S")),
        "policy: found shape [2, 2], expected shape [S, A, S]",
    ),
    "unequal letters": (
        lambda: shaped("square", np.zeros((2, 3)), ("S", "S")),
        "square: found shape [2, 3], expected shape [S, S]",
    ),
    "a number": (lambda: shaped("row", np.zeros(3), (4,)), "row: found shape [3], expected shape [4]"),
    "alternatives": (
        lambda: shaped("P", np.zeros(3), ("S", "A", "S"), ("T", "S", "A", "S")),
        "P: found shape [3], expected shape [S, A, S] or [T, S, A, S]",
    ),
    "a scalar": (lambda: shaped("x", np.zeros(3), ()), "x: found shape [3], expected shape []"),
    "real dtype": (
        lambda: real_table("reward", TABLE.astype(np.float32)),
        "reward: found dtype float32, expected dtype float64",
    ),
    "objects": (
        lambda: real_table("reward", np.array([None])),
        "reward: found dtype object, expected dtype float64",
    ),
    "nan": (lambda: finite("reward", with_entry(np.nan)), "reward: found nan at [1, 0], expected finite numbers"),
    "infinite": (
        lambda: finite("reward", with_entry(-np.inf)),
        "reward: found -inf at [1, 0], expected finite numbers",
    ),
    "nan probability": (
        lambda: probability_rows("current", with_entry(np.nan)),
        "current: found nan at [1, 0], expected finite probabilities",
    ),
    "infinite probability": (
        lambda: probability_rows("current", with_entry(np.inf), sums=False),
        "current: found inf at [1, 0], expected finite probabilities",
    ),
    "negative probability": (
        lambda: probability_rows("current", with_entry(-0.25)),
        "current: found -0.25 at [1, 0], expected probabilities ≥ 0",
    ),
    "row sum": (
        lambda: probability_rows("current", with_entry(0.5)),
        "current: found row [1] that sums to 1.25, expected rows that sum to 1 within 1e-09",
    ),
    "one row": (
        lambda: probability_rows("initial", np.array([0.5, 0.25])),
        "initial: found row [] that sums to 0.75, expected rows that sum to 1 within 1e-09",
    ),
    "float index": (lambda: integers("active", TABLE, 0, 3), "active: found dtype float64, expected an integer dtype"),
    "low index": (lambda: integers("active", [0, -1], 0, 3), "active: found -1 at [1], expected integers from 0 to 2"),
    "high index": (
        lambda: integers("active", [[0, 3]], 0, 3),
        "active: found 3 at [0, 1], expected integers from 0 to 2",
    ),
    "repeated": (lambda: permutation("order", [0, 0, 1], 3), "order: found [0, 0, 1], expected a permutation of 0 … 2"),
    "too short": (lambda: permutation("order", [0, 1], 3), "order: found [0, 1], expected a permutation of 0 … 2"),
    "not integers": (
        lambda: permutation("order", [0.0, 1.0], 2),
        "order: found [0.0, 1.0], expected a permutation of 0 … 1",
    ),
    "a list of discounts": (
        lambda: discount_factor("discount", np.array([0.5])),
        "discount: found shape [1], dtype float64, expected one float64 in [0, 1)",
    ),
    "a float32 discount": (
        lambda: discount_factor("discount", np.float32(0.5)),
        "discount: found shape [], dtype float32, expected one float64 in [0, 1)",
    ),
    "discount one": (lambda: discount_factor("discount", 1.0), "discount: found 1.0, expected a discount in [0, 1)"),
    "negative discount": (
        lambda: discount_factor("discount", -0.5),
        "discount: found -0.5, expected a discount in [0, 1)",
    ),
    "nan discount": (lambda: discount_factor("discount", np.nan), "discount: found nan, expected a discount in [0, 1)"),
}


@pytest.mark.parametrize("case", sorted(ERRORS))
def test_error_message(case):
    """The message word for word, its three parts as attributes, and no line break."""
    call, message = ERRORS[case]
    with pytest.raises(InputError, match="^" + re.escape(message)) as caught:
        call()
    error = caught.value
    assert str(error) == f"{error.name}: found {error.found}, expected {error.expected}"
    assert "\n" not in str(error)
    assert isinstance(error, ValueError)


def test_what_is_accepted():
    """Good input comes back as it was; rows are never renormalised."""
    assert probability_rows("p", TABLE) is TABLE
    almost = np.array([0.5, 0.5 + 0.9 * ROW_TOLERANCE])
    assert probability_rows("p", almost).sum() != 1
    assert probability_rows("p", np.array([0.5, 0.25]), sums=False).sum() == 0.75
    assert finite("r", TABLE) is TABLE
    assert real_table("r", TABLE) is TABLE
    assert shaped("P", np.zeros((2, 3, 2)), ("S", "S"), ("S", "A", "S")) == {"S": 2, "A": 3}
    assert integers("a", np.array([0, 2], np.int8), 0, 3).dtype == np.int64
    assert permutation("order", np.array([2, 0, 1]), 3).tolist() == [2, 0, 1]
    assert [discount_factor("γ", x) for x in (0.0, 0.999, np.float64(0.5))] == [0.0, 0.999, 0.5]
    require_float64(a=TABLE)


@pytest.mark.parametrize("beyond", [1.1, -1.1])
def test_rows_must_sum_to_one_within_the_tolerance(beyond):
    """Just outside on either side is refused."""
    with pytest.raises(InputError, match="rows that sum to 1 within 1e-09"):
        probability_rows("p", np.array([0.5, 0.5 + beyond * ROW_TOLERANCE]))


def test_an_error_passes_between_processes():
    error = copy.copy(InputError("n", 3, "at most 2"))  # by the same protocol as pickle
    assert (type(error), str(error)) == (InputError, "n: found 3, expected at most 2")


SETTINGS = {
    "a float": (lambda: whole_number("k", 2.0, 1), "k: found 2.0, expected an integer, at least 1"),
    "a truth value": (lambda: whole_number("k", True, 0), "k: found True, expected an integer, at least 0"),
    "text": (lambda: whole_number("k", "3", 1), "k: found '3', expected an integer, at least 1"),
    "nothing": (lambda: whole_number("k", None, 1), "k: found None, expected an integer, at least 1"),
    "below": (lambda: whole_number("k", 0, 1), "k: found 0, expected an integer, at least 1"),
    "above": (lambda: whole_number("k", 4, 1, 3), "k: found 4, expected an integer from 1 to 3"),
    "nan": (lambda: real_number("x", np.nan), "x: found nan, expected a finite number"),
    "inf": (lambda: real_number("x", np.inf, 0.0), "x: found inf, expected a finite number at least 0"),
    "minus inf": (lambda: real_number("x", -np.inf, 0.0, infinite=True), "x: found -inf, expected a number at least 0"),
    "x below": (lambda: real_number("x", -1.0, 0.0), "x: found -1.0, expected a finite number at least 0"),
    "x not above": (lambda: real_number("x", 0.0, above=0.0), "x: found 0.0, expected a finite number greater than 0"),
    "x above": (lambda: real_number("x", 3, 0.0, 2.0), "x: found 3, expected a finite number at least 0 and at most 2"),
    "x not below": (lambda: real_number("x", 1, below=1.0), "x: found 1, expected a finite number less than 1"),
    "x text": (lambda: real_number("x", "1"), "x: found 1, expected a finite number"),
    "x truth value": (lambda: real_number("x", True), "x: found True, expected a finite number"),
    "x array": (lambda: real_number("x", np.zeros(2)), "x: found array([0., 0.]), expected a finite number"),
    "own words": (lambda: whole_number("k", 1.5, 2, expected="two or more"), "k: found 1.5, expected two or more"),
    "x own words": (lambda: real_number("x", -1, 0.0, expected="a size"), "x: found -1, expected a size"),
    "zero": (lambda: positive("x", 0.0), "x: found 0.0, expected a positive number"),
    "infinite": (lambda: positive("x", np.inf, "a radius"), "x: found inf, expected a radius"),
    "nan for all that": (lambda: positive("x", np.nan, infinite=True), "x: found nan, expected a positive number"),
    "below zero": (lambda: at_least("x", np.array([0.0, -0.5, -2.0])), "x: found -0.5, expected numbers ≥ 0"),
    "nan among them": (lambda: at_least("x", np.array([[1.0], [np.nan]])), "x: found nan, expected numbers ≥ 0"),
    "below two": (lambda: at_least("x", 1.5, 2.0, "much"), "x: found 1.5, expected much"),
    "beyond": (lambda: within("x", np.array(2.0), 0.0, 1.0, expected="a share"), "x: found 2.0, expected a share"),
    "at the upper end": (lambda: within("x", 1.0, below=1.0, expected="less"), "x: found 1.0, expected less"),
    "at the lower end": (lambda: within("x", 0, above=0, expected="more"), "x: found 0, expected more"),
    "three": (lambda: pair("x", (1, 2, 3), "(low, high)"), "x: found (1, 2, 3), expected (low, high)"),
    "one": (lambda: pair("x", 1.0, "(low, high)"), "x: found 1.0, expected (low, high)"),
    "two texts": (lambda: pair("x", "ab", "(low, high)"), "x: found 'a', expected a number"),
    "a choice": (lambda: one_of("way", "c", ("a", "b")), "way: found 'c', expected a or b"),
}


@pytest.mark.parametrize("case", sorted(SETTINGS))
def test_settings(case):
    """Integers, numbers and words out of their range; the whole message."""
    call, message = SETTINGS[case]
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


def test_settings_that_will_do():
    """Ends of ranges, NumPy's numbers; what comes back is a plain number."""
    assert [whole_number("k", x, 1, 3) for x in (1, 3, np.int64(2))] == [1, 3, 2]
    assert type(whole_number("k", np.int64(2), 1)) is int
    assert [real_number("x", x, 0.0, 2.0) for x in (0, 2.0, np.float32(0.5))] == [0.0, 2.0, 0.5]
    assert real_number("x", np.inf, above=0.0, infinite=True) == np.inf
    one_of("way", None, (None, "a"))
    assert positive("x", np.inf, infinite=True) == np.inf
    assert type(positive("x", 2)) is float
    assert pair("x", [0, np.inf], "(low, high)") == (0.0, np.inf)
    at_least("x", np.array([0.0, np.inf]))
    within("x", np.array([0.0, 1.0]), 0.0, 1.0, expected="shares")
    within("x", np.array([0.25]), above=0.0, below=1.0, expected="shares")
    within("x", np.zeros((0, 2)), 1.0, expected="shares")
    within("x", None, 1.0, expected="nothing to read")


def test_what_is_concrete():
    """Values of arrays and NumPy's numbers; `None` for tracers, shapes, place-holders, deleted arrays and inside `unchecked`."""
    array, found = jnp.arange(3.0), []
    assert concrete(array).tolist() == [0.0, 1.0, 2.0]
    assert concrete(TABLE) is TABLE
    assert concrete(np.float64(2.0)) == 2.0
    assert concrete(object()) is concrete(None) is concrete(jax.ShapeDtypeStruct((3,), np.float64)) is None
    jax.jit(lambda x: found.append(concrete(x)) or x)(array)
    jax.vmap(lambda x: found.append(concrete(x)) or x)(array)
    jax.grad(lambda x: found.append(concrete(x)) or x.sum())(array)
    assert found == [None, None, None]
    with unchecked():
        assert concrete(array) is concrete(TABLE) is None
        with unchecked():
            pass
        assert concrete(array) is None
    with pytest.raises(KeyError), unchecked():
        raise KeyError
    assert concrete(array) is not None
    gone = jnp.arange(2.0)
    gone.delete()
    assert concrete(gone) is None


def test_unchecked_is_for_one_thread():
    """Another thread goes on checking."""
    seen = []
    with unchecked():
        thread = threading.Thread(target=lambda: seen.append(concrete(TABLE) is None))
        thread.start()
        thread.join()
    assert seen == [False]


def test_text_from_outside_is_made_fit_to_be_shown():
    """No control character, no direction mark, no line break; long ones lose their middle; plain text stays."""
    assert shown("a\x1b[31m\n\r\x00\u202e\u2028é") == "a\\x1b[31m\\n\\r\\x00\\u202e\\u2028é"
    assert shown("x" * 300) == "x" * 300
    assert shown("a" * 200 + "b" * 200) == "a" * 150 + "…" + "b" * 149
    error = InputError("n\n", "f\x07" * 400, "e\t")
    assert "\n" not in str(error)
    assert error.name == "n\\n"
    assert error.expected == "e\\t"
    assert len(error.found) == 300
