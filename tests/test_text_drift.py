"""Drift: measured by place and share, kept, refused or drawn again; and what law that is."""

import math
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teamtr_jax.llm.text.drift import NO_DRIFTS, Drift, DriftCount, DriftPolicy, drift_between
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text.tokenizer import load_tokenizer
from teamtr_jax.llm.text.view import Scribe
from teamtr_jax.validation import InputError

CHECKPOINTS = Path(__file__).parent / "fixtures" / "checkpoints"


@cache
def scribe_named(checkpoint):
    return Scribe(load_tokenizer(CHECKPOINTS / checkpoint), Role("me", "s"))


@pytest.mark.parametrize(
    ("written", "again", "expected"),
    [
        ([], [], Drift(0, 0, -1, 0.0)),
        ([1, 2], [1, 2], Drift(2, 0, -1, 0.0)),
        ([1, 2, 3], [1, 9, 3], Drift(3, 1, 1, 1 / 3)),
        ([1, 2, 3, 4], [1, 9, 4], Drift(4, 2, 1, 0.5)),
        ([1, 9, 4], [1, 2, 3, 4], Drift(3, 2, 1, 0.5)),
        ([1], [1, 1], Drift(1, 1, 1, 0.5)),
        ([3, 2], [3, 2, 2], Drift(2, 1, 2, 1 / 3)),
        ([7, 7, 7], [7], Drift(3, 2, 1, 2 / 3)),
        ([1], [], Drift(1, 1, 0, 1.0)),
        ([], [1], Drift(0, 1, 0, 1.0)),
    ],
)
def test_drift_by_value(written, again, expected):
    assert drift_between(written, again) == expected


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_what_is_left_out_of_drift_is_common(written, again):
    """Before the first place and behind the changed ids both agree, and no drift means equal."""
    drift = drift_between(written, again)
    assert (drift.first < 0) == (written == again)
    if drift.first >= 0:
        behind = max(len(written), len(again)) - drift.first - drift.changed
        assert written[: drift.first] == again[: drift.first]
        assert behind == 0 or written[-behind:] == again[-behind:]
        assert 1 <= drift.changed <= max(len(written), len(again))
        assert 0 < drift.share <= 1


@pytest.mark.parametrize("checkpoint", ["smollm2", "llama2"])
def test_messages_that_drift(checkpoint):
    """A word in other pieces, a control as content, half a character, an id without a token; a stop is no part of it."""
    scribe = scribe_named(checkpoint)
    tokenizer = scribe.tokenizer
    word = tokenizer.encode("the answer")
    assert scribe.drift([*word, *scribe.end]) == Drift(len(word), 0, -1, 0.0)
    pieces = [i for letter in "the answer" for i in tokenizer.encode(letter)]
    assert len(pieces) > len(word)
    assert scribe.read([*pieces, *scribe.end]) == "the answer"
    assert scribe.drifts([*pieces, *scribe.end])
    control = next(i for i in tokenizer.controls.values() if (i,) not in scribe.stops)
    assert scribe.drift([*word, control]).first == len(word)
    half = tokenizer.encode("\N{GRINNING FACE}")[:-1]
    assert "\ufffd" in scribe.read([*word, *half])
    assert scribe.drift([*word, *half]).first == len(word)
    assert scribe.drift([*word, tokenizer.size + 1]).first == len(word)
    whole = tokenizer.encode("\N{GRINNING FACE}\ufffd")
    assert not scribe.drifts(whole)  # somebody may write U+FFFD itself


STABLE, DRIFTING = Drift(3, 0, -1, 0.0), Drift(3, 1, 2, 1 / 3)


def test_policies():
    """Keep draws never again, refuse names the place, resample draws at most so many times again."""
    for policy in (DriftPolicy(), DriftPolicy("refuse"), DriftPolicy("resample")):
        assert not policy.again(STABLE, 1, 0, 0)
    assert not DriftPolicy().again(DRIFTING, 1, 0, 0)
    assert [DriftPolicy("resample", tries=2).again(DRIFTING, n, 0, 0) for n in (1, 2, 3)] == [True, True, False]
    words = "message of turn 5 in conversation 3: encoding its text changes 1 of 3 ids, from place 2 on"
    with pytest.raises(InputError, match=words):
        DriftPolicy("refuse").again(DRIFTING, 1, 3, 5)
    for wrong in ({"kind": "ignore"}, {"tries": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            DriftPolicy(**wrong)


def test_counts():
    """Of a kept message, of one drawn three times, and their sum."""
    kept, again = DriftCount.of([DRIFTING]), DriftCount.of([DRIFTING, DRIFTING, STABLE])
    assert kept == DriftCount(messages=1, drifted=1, changed=1, ids=3, first_drifted=1, redrawn=0)
    assert again == DriftCount(messages=1, drifted=0, changed=0, ids=3, first_drifted=1, redrawn=2)
    assert DriftCount.of([STABLE]) == DriftCount(1, 0, 0, 3, 0, 0)
    assert NO_DRIFTS.plus(kept).plus(again) == DriftCount(2, 1, 1, 6, 2, 2)


def test_the_law_of_drawing_again():
    """Enumerated over all draws: with k tries `π(y)(1+q+…+q^k)` where y is stable, `π(y) q^k` where it drifts, `q = 1 − Z`.

    So the law tends to `π(y)/Z` on stable messages, and the ratio of two policies to that of their `π` times `Z/Z'`.
    """
    drifts = {"a": STABLE, "b": STABLE, "c": DRIFTING}

    def law(policy, pi):
        out = dict.fromkeys(pi, 0.0)
        for draws in product(pi, repeat=policy.tries + 1):
            n = 1
            while policy.again(drifts[draws[n - 1]], n, 0, 0):
                n += 1
            if draws[n:] == ("a",) * (len(draws) - n):  # one representative of what is never looked at
                out[draws[n - 1]] += math.prod(pi[y] for y in draws[:n])
        return out

    pi = {"a": 0.5, "b": 0.2, "c": 0.3}
    found = law(DriftPolicy("resample", tries=3), pi)
    assert sum(found.values()) == pytest.approx(1)
    assert found["c"] == pytest.approx(0.3**4)
    assert found["a"] == pytest.approx(0.5 * (1 + 0.3 + 0.3**2 + 0.3**3))
    assert law(DriftPolicy("keep", tries=3), pi) == pytest.approx(pi)
    new = {"a": 0.3, "b": 0.3, "c": 0.4}
    many = DriftPolicy("resample", tries=7)
    ratio = law(many, new)["a"] / law(many, pi)["a"]
    assert ratio == pytest.approx(0.3 / 0.5 * (0.7 / 0.6), rel=1e-3)
