"""Which scales of a step are tried and which is kept, by hand."""

import math
from pathlib import Path

import jax.numpy as jnp
import pytest

from teamtr_jax.llm.step_rules import STEP_RULES, Search, Trial


def followed(name, monitor=lambda c: c, certificate=lambda c: -c, delta=0.3, most=6):
    """The scales that a rule asks for, one after the other; the last is kept."""
    zero, scales = jnp.float32(0), []
    search = Search(jnp.float32(1), jnp.asarray(False), jnp.int32(0), zero, zero)
    while not search.done:
        c = float(search.scale)
        scales.append(c)
        trial = Trial(jnp.float32(monitor(c)), lambda c=c: jnp.float32(certificate(c)), jnp.asarray(delta), most)
        found = STEP_RULES[name](search._replace(tried=search.tried + 1), trial)
        search = found._replace(scale=search.scale if found.done else found.scale)
    return scales


HALVED = [
    ({}, [1, 0.5, 0.25]),
    ({"delta": 0.25}, [1, 0.5, 0.25]),  # the radius itself is inside
    ({"delta": 2.0}, [1]),
    ({"delta": 1e-9, "most": 2}, [1, 0.5, 0.25, 0]),
    ({"delta": 1e-9, "most": 0}, [1, 0]),
    ({"monitor": lambda c: math.nan if c > 0.5 else c}, [1, 0.5, 0.25]),
    ({"monitor": lambda c: math.nan, "most": 1}, [1, 0.5, 0]),  # nothing is kept, whatever is found there
]


@pytest.mark.parametrize(("given", "scales"), HALVED)
def test_trust_region(given, scales):
    assert followed("trust_region", **given) == scales


GRID = [
    (lambda c: c * (0.9 - c), [1, 0.75, 0.5, 0.25, 0.5]),  # the grid, and once more its best
    (lambda c: c * (0.4 - c), [1, 0.75, 0.5, 0.25]),  # the best is where it stands
    (lambda c: c, [1, 0.75, 0.5, 0.25, 1]),
    (lambda c: -c, [1, 0.75, 0.5, 0.25, 0]),  # no step is worth 0
    (lambda c: math.nan if c > 0.3 else c, [1, 0.75, 0.5, 0.25]),
]


@pytest.mark.parametrize(("certificate", "scales"), GRID)
def test_certificate(certificate, scales):
    assert followed("certificate", certificate=certificate, most=4) == scales


def test_certificate_is_asked_for_by_its_rule_only():
    def refused(c):
        raise AssertionError

    for name in ("trust_region", "none"):
        followed(name, certificate=refused)


def test_none_keeps_every_step_that_leads_somewhere():
    assert followed("none", delta=1e-9) == [1]
    assert followed("none", monitor=lambda c: math.inf if c else 0.0) == [1, 0]
    assert followed("none", monitor=lambda c: math.nan) == [1, 0]


def test_every_rule_is_followed():
    """A rule that is added to the table has its scales here too."""
    told = Path(__file__).read_text()
    assert [name for name in STEP_RULES if f'followed("{name}"' not in told] == []
