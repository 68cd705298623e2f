"""PE.10: group-normalised advantages reweight prompts; every outcome of a group enumerated."""

from itertools import product

import numpy as np
import pytest

from teamtr_jax.finite_sample import group_normalised_weight
from teamtr_jax.validation import InputError


def mean_surrogate(p, new, group):
    """`E[(1/G) Σ_g Â_g (ratio_g − 1)]` for one prompt: a success has probability p, then `new`."""
    total = 0.0
    for outcome in product((0, 1), repeat=group):
        r = np.array(outcome)
        chance = np.prod(np.where(r, p, 1 - p))
        advantage = (r - r.mean()) / r.std() if r.std() > 0 else np.zeros(group)
        ratio = np.where(r, new / p, (1 - new) / (1 - p))
        total += chance * (advantage * (ratio - 1)).mean()
    return total


@pytest.mark.parametrize("group", [2, 3, 4, 7])
@pytest.mark.parametrize("p", [0.02, 0.3, 0.5])
def test_weight_by_enumeration(group, p):
    """PE.10: the mean is `w_G(p)·L`, `L = p' − p` (a prompt with one message has no gap)."""
    weight = float(group_normalised_weight(p, group))
    assert mean_surrogate(p, p + 0.01, group) == pytest.approx(weight * 0.01, rel=1e-12)


def test_closed_forms():
    p = np.array([0.01, 0.2, 0.5, 0.9])
    np.testing.assert_allclose(group_normalised_weight(p, 2), 1, rtol=1e-14)
    np.testing.assert_allclose(group_normalised_weight(p, 3), np.sqrt(2), rtol=1e-14)
    np.testing.assert_allclose(
        group_normalised_weight(p, 4), np.sqrt(3) + (3 - 2 * np.sqrt(3)) * p * (1 - p), rtol=1e-14
    )
    np.testing.assert_allclose(group_normalised_weight(1e-9, 9), np.sqrt(8), rtol=1e-6)
    np.testing.assert_allclose(group_normalised_weight(p[1:], 4000), 1 / np.sqrt(p[1:] * (1 - p[1:])), rtol=2e-3)


@pytest.mark.parametrize("group", [4, 8, 16])
def test_two_prompts_on_which_the_sign_is_wrong(group):
    """One prompt loses more than the other gains, so J falls; the normalised surrogate rises. Not so for G = 2 and 3."""
    p = np.array([0.5, 1e-6])
    weight = group_normalised_weight(p, group)
    change = np.array([-(1 + weight[1] / weight[0]) / 2, 1.0])
    assert change.sum() < 0 < (weight * change).sum()
    assert np.ptp(group_normalised_weight(p, 3)) < 1e-12


@pytest.mark.parametrize(("p", "group", "name"), [(0.0, 4, "success"), (0.5, 1, "group"), (np.nan, 4, "success")])
def test_bad_input(p, group, name):
    with pytest.raises(InputError, match=name):
        group_normalised_weight(p, group)
