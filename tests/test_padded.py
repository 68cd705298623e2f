"""Padding changes no number: reports, records and verdicts of padded stages against those of the stages themselves."""

import sys
from dataclasses import replace

import builders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_stage_file import episodic, product_tables, tables

from teamtr_jax import bounds, claims, cli, padded, programs, records
from teamtr_jax.dynamics import Dense, Tree
from teamtr_jax.padded import SIZES, evaluate_small, run
from teamtr_jax.records import ORDER, evaluated_record
from teamtr_jax.surrogates import at_once, evaluate_stage, stage_report
from teamtr_jax.teams import random_stages, relay_stage
from teamtr_jax.teams.stage_file import stage_from_tables
from teamtr_jax.types import Counts, Stage, Team
from teamtr_jax.visits import hybrids, team_policy


def drawn(seed, *shape, **settings):
    """One random stage."""
    return builders.first(random_stages(np.random.default_rng(seed), 1, *shape, **settings))


def successors(seed):
    """A successor list with repeated successors and slots of probability zero that point anywhere."""
    rng = np.random.default_rng(seed)
    plain = tables(rng)
    shape = (*plain["reward"].shape, 3)
    prob = rng.dirichlet(np.ones(3), shape[:2])
    prob[0, 0], prob[1, 1] = [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]
    index = rng.integers(0, shape[0], shape)
    index[1, 1] = 2
    del plain["transition"]
    return stage_from_tables(plain | {"successor_index": index, "successor_prob": prob})


def timed(seed):
    """An episode whose kernel differs from step to step, and that may end early."""
    rng = np.random.default_rng(seed)
    plain = episodic(tables(rng))
    steps = int(plain["horizon"])
    kernel = rng.dirichlet(np.ones(4), (steps, 4, plain["reward"].shape[-1]))
    return stage_from_tables(plain | {"transition": kernel})


FORMS = {
    "turn-taking": lambda: drawn(1, 5, 3, 3, 0.9),
    "as large as its sizes": lambda: drawn(2, 32, 10, 8, 0.99),
    "one agent": lambda: drawn(3, 4, 2, 1, 0.5),
    "successors": lambda: successors(4),
    "product": lambda: stage_from_tables(product_tables()),
    "episodic": lambda: drawn(5, 3, 2, 2, horizon=4),
    "timed": lambda: timed(6),
    "episodic product": lambda: stage_from_tables(episodic(product_tables())),
}
CORNERS = ["plain", "nothing moves", "an action is dropped", "an action is opened", "equal rewards", "no reward",
           "the other order", "begins in one state", "agents that own nothing", "discount 0", "discount 0.999",
           "nothing is reached"]  # fmt: skip


def corner(stage, name):
    """A variant of a stage of the same shapes, in which a number is zero, infinite or tied; `None` where there is none."""
    stage = jax.device_get(stage)
    team, world = stage.team, stage.team.dynamics
    first = np.zeros_like(stage.current)
    first[..., 0] = 1.0
    start = np.zeros_like(team.initial)
    start[0 if world.horizon else -1] = 1.0

    def of_team(**fields):
        return replace(stage, team=replace(team, **fields))

    if name == "agents that own nothing":
        return None if team.active is None else of_team(active=np.zeros_like(team.active))
    if name.startswith("discount"):
        gamma = np.array(float(name.split()[1]))
        return None if world.horizon else of_team(dynamics=replace(world, discount=gamma))
    if name == "nothing is reached":
        if not hasattr(world, "transition"):
            return None
        stays = np.broadcast_to(np.eye(len(start))[:, None], world.transition.shape)
        return of_team(dynamics=replace(world, transition=stays))
    return {
        "plain": lambda: stage,
        "nothing moves": lambda: replace(stage, target=stage.current),
        "an action is dropped": lambda: replace(stage, target=first),
        "an action is opened": lambda: replace(stage, current=first, target=(stage.current + first) / 2),
        "equal rewards": lambda: of_team(reward=np.ones_like(team.reward)),
        "no reward": lambda: of_team(reward=np.zeros_like(team.reward)),
        "the other order": lambda: replace(stage, order=stage.order[::-1]),
        "begins in one state": lambda: of_team(initial=start),
    }[name]()


DIMENSIONLESS = ("kl", "kl_stale", "tv", "share", "certified_share")
SHIFTS = ("occupancy_tv_fresh", "occupancy_tv_stale", "d_occ")


def budgets(report):
    """By how much rounding may set two computations of a key apart, but for a part of the number itself; docs/rounding.md."""
    eta, rounding = report.rounding.relative, report.rounding
    scale = abs(report.values).max() + report.return_range
    out = dict.fromkeys(ORDER, 8 * eta * scale + 2 * rounding.surrogate.sum())
    out |= dict.fromkeys(DIMENSIONLESS, 0.0) | dict.fromkeys(SHIFTS, 2 * rounding.shift.sum() / report.mass)
    if report.layers is not None:  # a deviation that is rounding, times what the χ² makes of it
        error = np.full_like(report.layers.return_deviation, 8 * eta * scale * np.sqrt(report.mass))
        loose = jax.tree.map(jnp.asarray, report._replace(layers=report.layers._replace(return_deviation=error)))
        names = ("penalty_chi_square", "penalty_cached_chi_square", "penalty_reused_chi_square")
        of_deviation = {name: np.asarray(getattr(bounds, name)(loose)) for name in names}
        of_deviation["stage_bound_chi_square"] = np.asarray(bounds.stage_chi_square(loose))
        out |= {name: out[name] + np.where(np.isfinite(x), x, 0.0) for name, x in of_deviation.items()}
    return out | {f"gap_{gap}": 2 * getattr(rounding, gap) for gap in ("fresh", "stale", "cached", "reused")}


def compared(found, expected, budget, relative, about):
    """Infinities are the same; zeros and all other numbers within the budget, and a small part of the number."""
    found, expected = (np.array(x, float) for x in (found, expected))
    assert found.shape == expected.shape, about
    assert not np.isnan(found).any() | np.isnan(expected).any(), about
    infinite = np.isinf(expected)
    assert np.array_equal(np.where(infinite, expected, 0), np.where(np.isinf(found), found, 0)), (
        about,
        found,
        expected,
    )
    gap = abs(np.where(infinite, 0, found) - np.where(infinite, 0, expected))
    allowed = budget + relative * abs(np.where(infinite, 0, expected))
    assert (gap <= allowed).all(), (about, found, expected, allowed)


def report_and_numbers(stage):
    report = stage_report(stage)
    return report, records._numbers(stage, report), {}


def report_numbers_and_verdicts(stage):
    return *report_and_numbers(stage)[:2], claims.stage_verdicts(stage)


JUDGED = ["turn-taking", "episodic product"]


def of_the_stage_itself(judged, stage):
    """By one program for its shapes: its report, the numbers of its record, and if `judged` the verdicts."""
    function = report_numbers_and_verdicts if judged else report_and_numbers
    return jax.device_get(programs.run(function, stage, quick=True))


@pytest.mark.parametrize("form", FORMS)
def test_every_number_of_a_record_is_that_of_the_stage_itself(form):
    """A record of the shared program against one of a program for the shapes of the stage."""
    made = FORMS[form]()
    for name in CORNERS:
        stage = corner(made, name)
        if stage is None:
            continue
        report, numbers, _ = of_the_stage_itself(form in JUDGED, stage)
        expected = records._record(stage, numbers, "")
        found, allowed = evaluated_record(stage, ""), budgets(report)
        assert list(found) == list(expected)
        for key in found.keys() - allowed.keys():
            assert found[key] == expected[key], (form, name, key)
        for key in found.keys() & allowed.keys():
            if key != "certified_share":  # where the improvement is rounding, so is its sign
                compared(found[key], expected[key], allowed[key], 64 * report.rounding.relative, (form, name, key))
        still = [name for name in ORDER if name.startswith(("gap", "kl", "tv", "surrogate", "occupancy"))]
        if name == "nothing moves":
            assert not any(np.any(found.get(key, 0)) for key in still)


@pytest.mark.parametrize("form", [*JUDGED, pytest.param("successors", marks=pytest.mark.slow)])
def test_every_verdict_is_that_of_the_stage_itself(form):
    """The same checks of as many instances, violated, inconclusive and unknown at the same places.

    Padded, a list of successors is the matrix of a turn-taking team: the records above say whether it is the right one.

    With equal rewards both sides of most inequalities are zero but for rounding: only that none is violated can be compared.
    """
    made = FORMS[form]()
    for name in CORNERS:
        stage = corner(made, name)
        if stage is None:
            continue
        expected = of_the_stage_itself(True, stage)[2]
        found = run(claims.stage_verdicts, stage)
        assert found.keys() == expected.keys()
        for claim, checks in expected.items():
            assert found[claim].keys() == checks.keys()
            for check, one in checks.items():
                other, about = found[claim][check], (form, name, claim, check)
                assert (one.identity is None) == (other.identity is None)
                assert one.violated.shape == other.violated.shape, about
                assert not (one.violated | other.violated | one.unknown | other.unknown).any(), about
                if name != "equal rewards":
                    assert np.array_equal(one.inconclusive, other.inconclusive), about
                    np.testing.assert_allclose(other.ratio, one.ratio, rtol=1e-6, atol=1e-9, err_msg=str(about))


def test_the_length_of_an_axis_says_which_it_is():
    """All lengths of one padding differ."""
    for sizes in SIZES:
        lengths = [*sizes, sizes.agents + 1]
        assert len(set(lengths)) == len(lengths), sizes


@pytest.mark.parametrize(("states", "agents"), sorted({(sizes.states, sizes.agents) for sizes in SIZES}))
def test_no_padding_changes_the_method(states, agents):
    """All hybrids of a padded stage are factored side by side, as those of the stage itself are."""
    world = Dense(jnp.full((states, 2, states), 1 / states), jnp.asarray(0.9))
    team = Team(world, jnp.zeros((states, 2)), jnp.full(states, 1 / states), jnp.zeros(states, int), agents)
    assert at_once(team, jnp.full((agents + 1, states, 2), 0.5))


@pytest.mark.parametrize(("most", "choices"), [(10, 11), (11, 67)])
def test_an_action_is_left_that_nobody_takes(most, choices):
    """In a product team the joint actions that are added lead through it, and have probability zero."""
    stage = drawn(1, 2, (most, 2), 2, 0.9)
    larger, joint = padded.padded(stage), jax.jit(team_policy)
    assert set(larger.team.factors) == {choices}
    for old, new in ((stage.current, larger.current), (stage.target, larger.target)):
        rows = np.asarray(joint(larger.team, new))[:2]
        np.testing.assert_allclose(rows[:, : 2 * most], joint(stage.team, old), rtol=1e-15)
        assert (rows[:, 2 * most :] == 0).all()
    acts = np.asarray(jax.jit(lambda stage: hybrids(stage).acts)(larger))
    assert acts.sum(1).tolist() == [0] * 6 + [32] * 2  # of eight agents the two that there are, at all states


def test_what_is_too_large_has_a_program_of_its_own():
    small, large = drawn(1, 5, 3, 3, 0.9), drawn(1, 5, 3, 25, 0.9)
    assert padded.padded(small).team.counts == Counts(5, 3, 3, 0)
    assert padded.padded(large) is None
    assert padded.padded(jax.tree.map(lambda x: x[None], small)) is None
    tree = stage_of_a_tree()
    assert padded.padded(tree) is None


def stage_of_a_tree():
    world = Tree(2, 2)
    policy = np.full((world.states, 2), 0.5)
    start = np.eye(world.states)[0]
    team = Team(world, np.zeros(policy.shape), start, np.zeros(world.states, int), 1)
    return Stage(team, policy, policy, np.arange(1))


def test_a_report_in_python():
    """`evaluate_small` is `evaluate_stage`, field by field, of the same shapes."""
    stage = relay_stage(3, 0.2, 0.1, slots=3)
    found, expected = evaluate_small(stage), evaluate_stage(stage)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-14)
    whole = programs.run(stage_report, padded.padded(stage), quick=True)  # what is summed over updates sums no padding
    for x, y in zip(whole.rounding[1:], expected.rounding[1:], strict=True):
        np.testing.assert_allclose(x.sum(), y.sum(), rtol=1e-9, err_msg="rounding")


def test_files_of_many_shapes_compile_one_program(tmp_path, monkeypatch, capsys):
    """Five shapes, read and reported: one program; five more: none."""
    counted = []
    monkeypatch.setenv(programs.CACHE, "off")
    monkeypatch.setattr(programs, "_made", {})
    monkeypatch.setattr(jax._src.compiler, "compile_or_get_cached", counting(counted))
    for k, (states, actions, agents) in enumerate([(7, 3, 4), (9, 2, 3), (11, 4, 2), (13, 5, 5), (17, 6, 7)] * 2):
        if k == 5:
            assert len(counted) == 1
        np.savez(tmp_path / f"{k}.npz", **tables(S=states + k, A=actions, n=agents))
        monkeypatch.setattr(sys, "argv", ["teamtr", "stage", str(tmp_path / f"{k}.npz"), "--json"])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
    assert len(counted) == 1
    assert capsys.readouterr().out.count("\n") == 10


def counting(counted):
    compile_ = jax._src.compiler.compile_or_get_cached

    def count(*arguments, **settings):
        counted.append(1)
        return compile_(*arguments, **settings)

    return count
