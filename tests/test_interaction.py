"""R4 and R5: the interaction matrix against exact arithmetic, its order relations, and the families of R4."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import (
    as_stage,
    discounted_ways,
    discounted_world,
    first,
    four_ways,
    near,
    random_case,
    stack,
    tree_case,
    turn_taking,
)

from teamtr_jax.interaction import interaction_matrix, skippable
from teamtr_jax.surrogates import stage_report
from teamtr_jax.teams import relay_stage
from teamtr_jax.types import Stage
from teamtr_jax.validation import InputError, unchecked
from theory.studies import r4, r5


def both(stage):
    report = stage_report(stage)
    return report, interaction_matrix(stage, report)


evaluate = jax.jit(jax.vmap(both))


def one(stage):
    """A single stage through the compiled batch of four."""
    return first(evaluate(stack([stage] * 4)))


def gaps(report):
    return {name: np.asarray(getattr(report, f"gap_{name}")) for name in ("fresh", "stale", "cached")}


@pytest.mark.parametrize(
    ("form", "protocol"),
    [
        ("discounted", "turn-taking"),
        ("discounted", "product"),
        ("episodic", "turn-taking"),
        pytest.param("episodic", "product", marks=pytest.mark.slow),
    ],
)
def test_matrix_against_rationals(form, protocol):
    """Both protocols, both forms: `M` and the gaps of the float core are those of exact arithmetic, at large steps."""
    rng = np.random.default_rng(3)
    cases = [random_case(rng, form, protocol, zeros=0.2, gamma=0.9) for _ in range(4)]
    stages = [as_stage(case) for case in cases]
    report, found = evaluate(stack(stages))
    for b, stage in enumerate(stages):
        exact = r5.expand(stage, terms=1)
        scale = abs(exact.matrix[..., 0].astype(float)).max()
        np.testing.assert_allclose(found[b], exact.matrix[..., 0].astype(float), rtol=1e-11, atol=1e-13 * scale)
        for name, gap in gaps(report).items():
            np.testing.assert_allclose(gap[b], getattr(exact, name)[:, 0].astype(float), rtol=1e-10, atol=1e-13 * scale)


@pytest.mark.parametrize("protocol", ["turn-taking", "product"])
def test_entries_that_are_equalities(protocol):
    """The first update's gap is `M[0,0]` and the second's drift `M[0,1]` at every step size: nothing else has moved yet."""
    rng = np.random.default_rng(4)
    cases = [random_case(rng, "discounted", protocol, gamma=0.9) for _ in range(4)]
    report, found = evaluate(stack([as_stage(case) for case in cases]))
    np.testing.assert_allclose(found[:, 0, 0], report.gap_fresh[:, 0], rtol=1e-10, atol=1e-16)
    np.testing.assert_allclose(found[:, 0, 1], report.seq_minus_stale[:, 1], rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize(
    ("ways", "name"),
    [
        ("discounted", "sparse"),
        ("tree", "tree"),
        pytest.param("discounted", "successors", marks=pytest.mark.slow),
        pytest.param("tree", "layered-successors", marks=pytest.mark.slow),
    ],
)
def test_worlds_agree(ways, name):
    """LU and sparse LU, layers and tree: one matrix, that of rational arithmetic."""
    rng = np.random.default_rng(5)
    if ways == "discounted":
        found = discounted_ways(turn_taking(rng, discounted_world(rng, 5, 3, 0.9)))
        reference = found["dense"]
    else:
        found = {name: stage for name, (stage, _) in four_ways(tree_case(rng, 2, 3)).items()}
        reference = found["layered-dense"]
    expected = r5.expand(reference, terms=1).matrix[..., 0].astype(float)
    assert abs(expected).max() > 1e-4
    np.testing.assert_allclose(jax.jit(both)(found[name])[1], expected, rtol=1e-10, atol=1e-13)


def test_small_steps_are_solved_for():
    """At steps of 1e-9 the entries, about 1e-18, still have ten digits: nothing is subtracted."""
    rng = np.random.default_rng(6)
    case = turn_taking(rng, discounted_world(rng, 5, 3, 0.9))
    case = case._replace(target=near(rng, case.current, 2.0**-30))
    found = np.asarray(one(as_stage(case))[1])
    exact = r5.expand(as_stage(case), terms=1).matrix[..., 0].astype(float)
    assert 0 < abs(exact).max() < 1e-15
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-10 * abs(exact).max())


def test_scan_and_batch_agree(monkeypatch):
    """Positions one by one (large teams) or all at once: the same numbers."""
    case = random_case(np.random.default_rng(7), "discounted", "turn-taking", gamma=0.9)
    stage = as_stage(case)
    from teamtr_jax import interaction, surrogates

    report, together = one(stage)
    monkeypatch.setattr(surrogates, "BATCH_LIMIT", 0)
    np.testing.assert_allclose(jax.jit(interaction._interaction)(stage, report), together, rtol=1e-12)


def test_relay_matrix_and_float32():
    """R1: three of four pairs of turns go forwards, one backwards, one stays with the agent."""
    expected = np.where(np.arange(5)[:, None] < np.arange(5), 3.0, 1.0)
    np.testing.assert_array_equal(r5.relay_matrix(5), expected)
    stage = relay_stage(5, 1e-6, 1e-6, 5)
    report, found = jax.jit(both)(stage)
    np.testing.assert_allclose(found / 1e-12, expected, rtol=1e-4)
    single = Stage(stage.team, stage.current, stage.target.astype(jnp.float32), stage.order)
    with pytest.raises(InputError, match="target"):
        interaction_matrix(single, report)


@pytest.mark.parametrize("form", ["discounted", "episodic"])
@pytest.mark.parametrize("protocol", ["turn-taking", "product"])
def test_remainders_are_of_third_order_exactly(form, protocol):
    """R5: the coefficients of 1, t, t² are the rational number 0; those of t³ are not, so the order is three and no more."""
    case = random_case(np.random.default_rng(8), form, protocol, gamma=0.3)
    expansion = r5.expand(as_stage(case))
    found = r5.remainders(expansion)
    for rest in found.values():
        assert all(c == 0 for c in rest[:, :3].ravel())
    assert any(c != 0 for rest in found.values() for c in rest[:, 3])
    assert any(c != 0 for c in expansion.matrix[..., 2].ravel())
    wrong = r5.remainders(expansion._replace(matrix=np.swapaxes(expansion.matrix, 0, 1)))
    assert any(c != 0 for c in wrong["drift"][:, 2]), "transposed, M must not pass"


def test_expansion_is_the_function():
    """The series summed at a small rational t is the exact value there, up to the next power."""
    case = random_case(np.random.default_rng(9), "discounted", "product", gamma=0.3)
    series = r5.expand(as_stage(case))
    errors = []
    for bits in (8, 9):
        small = case._replace(target=case.current + (case.target - case.current) / 2.0**bits)
        at = r5.expand(as_stage(small), terms=1)
        t = 2.0**-bits
        value = sum(series.stale[:, k].astype(float) * t**k for k in range(4))
        errors.append(abs(value - at.stale[:, 0].astype(float)).max())
    assert 12 < errors[0] / errors[1] < 20  # t⁴


def test_r5_row():
    row, data = r5.run(True, np.random.default_rng(0))
    assert row.violations == 0
    # three stages of three families, three agents each: three identities, and three coefficients of three remainders
    assert (row.checks, row.instances) == (9 * (3 * 3 + 3 * 3 * 3), 9)
    assert (row.exponent, *row.interval) == data.slopes["product"]["drift"]
    assert all(count > 0 for count in data.exact_third.values())
    for slope in data.slopes["product"].values():
        assert abs(slope.slope - 3) < 0.02
    least, largest = data.windows["product"]["drift"]
    assert least < largest


def test_skippable():
    """By hand on the relay's matrix: drift 3 per update since the rollouts were collected."""
    matrix = jnp.asarray(r5.relay_matrix(5))
    assert skippable(matrix, 2.9).tolist() == [False] * 5
    assert skippable(matrix, 3.0).tolist() == [False, True, False, True, False]
    assert skippable(matrix, 6.0).tolist() == [False, True, True, False, True]
    assert skippable(matrix, 100.0).tolist() == [False, True, True, True, True]


def test_skipping_keeps_the_surrogate_within_tolerance():
    """What is predicted is what happens: the drift since the last collection, from the report, at small steps."""
    rng = np.random.default_rng(11)
    case = turn_taking(rng, discounted_world(rng, 5, 3, 0.9))
    case = case._replace(target=near(rng, case.current, 2.0**-16))
    report, matrix = one(as_stage(case))
    drifts = np.sort(abs(np.triu(matrix, 1)[np.triu_indices(3, 1)]))
    seen = set()
    for tolerance in (0.0, *(drifts * 1.5), 1.0):
        skips = np.asarray(skippable(matrix, tolerance))
        seen |= set(skips[1:].tolist())
        collected = 0
        for i in range(1, 3):
            collected = collected if skips[i - 1] else i - 1
            drift = float((report.shift[collected:i].sum(0) * report.conditional[i]).sum())
            assert (abs(drift) <= tolerance) == bool(skips[i])
    assert seen == {True, False}


# ---------------------------------------------------------------------------------------------------------------- R4


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("reach", [1, 3])
def test_windowed_relay(n, reach):
    """`M/t²` is 1 on the diagonal and on `reach` diagonals above it, 0 elsewhere."""
    with unchecked():  # a formal stage: the direction of a step, whose rows are no probabilities
        stage = r4.windowed_relay(n, reach, 1.0, 1.0)
    lag = np.arange(n) - np.arange(n)[:, None]
    found = r5.expand(stage, 3, np.tile([1.0, 0.0], (stage.current.shape[0], 1))).matrix[..., 2].astype(int)
    np.testing.assert_array_equal(found, (lag >= 0) & (lag <= reach))


def test_one_turn_each_at_any_step():
    """Forward order: no fresh gap at all; reverse order: no stale gap either, and a cached one. Not only to leading order."""
    forward = relay_stage(4, 0.25, 0.5, 4, 1)
    backward = r4.reversed_order(forward)
    there, back = r5.expand(forward, terms=1), r5.expand(backward, terms=1)
    assert all(x == 0 for x in there.fresh.ravel())
    assert all(x != 0 for x in there.stale[1:].ravel())
    assert all(x == 0 for x in (*back.fresh.ravel(), *back.stale.ravel()))
    assert all(x != 0 for x in back.cached[1:-1].ravel())


def test_signs_matter():
    """A team in which the ratio of absolute sums has another limit than the signed one."""
    rng = np.random.default_rng(12)
    cases = [random_case(rng, "discounted", "turn-taking", gamma=0.9) for _ in range(3)]
    found = [r4.leading_sums(as_stage(case)) for case in cases]
    assert all(x["signed stale"] == x["trace"] + x["above"] and x["signed fresh"] == x["trace"] for x in found)
    assert any(x["stale"] * abs(x["signed fresh"]) != abs(x["signed stale"]) * x["fresh"] for x in found)


def test_r4_row():
    row, data = r4.run((2, 3, 4), np.random.default_rng(0), teams=5)
    assert row.violations == 0
    assert data.sums["coherent relay"] == [(n, n, (3 * n * n - n) // 2, 2 * n * n - n) for n in (2, 3, 4)]
    assert data.sums["range 1"][-1] == (4, 4, 7, 7)
    assert row.exponent == pytest.approx(np.log(7 / 5) / np.log(4 / 3))  # 2n − 1, range 1, without the smallest n
    assert row.detects == 1 / (2 * 16 - 4)  # an integer more or less in the largest of them, 2n² − n


def test_the_heat_map_is_written(tmp_path):
    path = r5.interaction_figure(r5.relay_matrix(3), tmp_path / "x" / "interaction.png")
    assert path.stat().st_size > 5_000
