"""The same team written redundantly must give the same numbers: relabelling, no-ops, copies, permutations, units of reward.

Tolerance: both sides are float computations of condition ≤ 2/(1−γ) = 200 of S = 5 states in up to three chained solves:
`200 · 5 · u · 3 ≈ 3e-13` of the scale of the field; 1e-11 is asked.
"""

import itertools
import math

import builders
import numpy as np
import pytest
from builders import ACTIONS, AGENTS, FACTORS, STATES, Case, evaluated, random_case

PER_STATE = {"visits", "values", "conditional", "shift"}
FIELDS = [name for name in builders.FIELDS if name != "rounding"] + ["improvement", "delta_stale", "d_occ"]
COUNT = 8


def same(before, after, **expected):
    """Every field of two lists of reports agrees; ``name=function(field, k)`` says how a field changes instead."""
    for k, (x, y) in enumerate(zip(before, after, strict=True)):
        for name in FIELDS:
            old, new = getattr(x, name), getattr(y, name)
            if old is None:
                assert new is None
                continue
            wanted = np.asarray(expected[name](old, k) if name in expected else old)
            scale = abs(wanted[np.isfinite(wanted)]).max(initial=1.0)
            np.testing.assert_allclose(new, wanted, rtol=1e-11, atol=1e-11 * scale, err_msg=f"{name} of case {k}")


def without(report, position):
    """Leave one update out of all lists of a report."""
    for name in FIELDS:
        x = getattr(report, name)
        if x is not None and x.ndim:
            setattr(report, name, np.delete(x, position, 0))


@pytest.fixture(scope="module")
def turns():
    rng = np.random.default_rng(0)
    cases = [
        random_case(rng, "discounted", "turn-taking", 0.3 * (k % 2), [0.3, 0.9, 0.99][k % 3]) for k in range(COUNT)
    ]
    return cases, evaluated(cases)


@pytest.fixture(scope="module")
def products():
    rng = np.random.default_rng(1)
    cases = [random_case(rng, "discounted", "product", 0.3 * (k % 2), [0.3, 0.9, 0.99][k % 3]) for k in range(COUNT)]
    return cases, evaluated(cases)


@pytest.mark.parametrize("relabelled", list(itertools.permutations(range(AGENTS)))[1:])
def test_relabelling_agents(turns, relabelled):
    """Who is called what moves nothing, if the order is told the new names."""
    cases, reports = turns
    new = np.array(relabelled)
    same(reports, evaluated([case._replace(active=new[case.active], order=new[case.order]) for case in cases]))


def test_relabelling_agents_of_a_product_team(products):
    """The same for factors: agents 0 and 2 change names, and joint actions are transposed with them."""
    cases, reports = products
    new = np.array([2, 1, 0])
    assert FACTORS[0] == FACTORS[2]
    joint = np.arange(math.prod(FACTORS)).reshape(FACTORS).transpose(new).ravel()
    renamed = [
        Case(
            case.world | {"P": case.world["P"][:, joint], "r": case.world["r"][:, joint]},
            case.current[new],
            case.target[new],
            new[case.order],
            None,
            FACTORS,
        )
        for case in cases
    ]
    same(reports, evaluated(renamed))


@pytest.mark.parametrize("position", range(AGENTS + 1))
def test_adding_an_agent_without_states(turns, position):
    """An agent that owns nothing, anywhere in the order: zeros for it, nothing for the others."""
    cases, reports = turns
    larger = evaluated([case._replace(order=np.insert(case.order, position, AGENTS)) for case in cases])
    for report in larger:
        assert report.share[position] == report.kl[position] == report.gap_cached[position] == 0
        report.d_occ -= report.occupancy_tv_stale[position]  # D_occ counts updates: a hybrid that repeats counts again
        without(report, position)
    same(reports, larger)


def test_an_agent_that_does_not_move_may_come_at_any_time(products):
    """In a product team an agent whose target is its current policy does nothing, first or last."""
    cases, _ = products
    still = [case._replace(target=np.concatenate([case.target[:2], case.current[2:]])) for case in cases]
    first = evaluated([case._replace(order=np.array([2, 0, 1])) for case in still])
    last = evaluated([case._replace(order=np.array([0, 1, 2])) for case in still])
    for report, place in itertools.chain(zip(first, itertools.repeat(0)), zip(last, itertools.repeat(2))):
        assert report.gap_fresh[place] == report.kl[place] == report.surrogate_intermediate[place] == 0
        report.d_occ -= report.occupancy_tv_stale[place]
        without(report, place)
    same(first, last)


@pytest.mark.parametrize("arbitrary", [False, True])
def test_splitting_a_state_into_two_bisimilar_copies(turns, arbitrary):
    """A state written twice: only its visits are shared out.

    When one fraction of every way in goes to the copy, nothing else moves. When each way in chooses as it likes, a change of
    policy also moves mass between the copies, and the TV between occupancies, on a finer partition, can only grow.
    """
    rng, (cases, reports) = np.random.default_rng(2), turns
    twin, S, doubled = 1, STATES, []
    for case in cases:
        world = case.world
        share = rng.random((S + 1, ACTIONS)) if arbitrary else np.full((S + 1, ACTIONS), 0.375)
        copied = np.append(np.arange(S), twin)
        P = np.zeros((S + 1, ACTIONS, S + 1))
        P[:, :, :S] = world["P"][copied]
        P[:, :, S] = P[:, :, twin] * share
        P[:, :, twin] *= 1 - share
        rho = np.append(world["rho"], world["rho"][twin] * 0.375)
        rho[twin] *= 0.625
        larger_world = {"P": P, "r": world["r"][copied], "rho": rho, "gamma": world["gamma"]}
        doubled.append(Case(larger_world, case.current[copied], case.target[copied], case.order, case.active[copied]))
    larger = evaluated(doubled)
    for report, small in zip(larger, reports, strict=True):
        for name in PER_STATE:
            x = getattr(report, name)
            if name in ("visits", "shift"):
                x[:, twin] += x[:, S]
            else:
                np.testing.assert_allclose(x[:, twin], x[:, S], rtol=1e-11, atol=1e-12)
            setattr(report, name, x[:, :S])
        for name in ("occupancy_tv_fresh", "occupancy_tv_stale", "d_occ") if arbitrary else ():
            assert (getattr(report, name) >= getattr(small, name) - 1e-12).all()
            setattr(report, name, getattr(small, name))
    same(reports, larger)


def test_permuting_actions(turns):
    """Every state names its actions as it likes."""
    rng, (cases, reports) = np.random.default_rng(3), turns
    renamed = []
    for case in cases:
        names = rng.permuted(np.tile(np.arange(ACTIONS), (STATES, 1)), axis=1)
        rows = np.arange(STATES)[:, None]
        world = case.world | {"P": case.world["P"][rows, names], "r": case.world["r"][rows, names]}
        renamed.append(case._replace(world=world, current=case.current[rows, names], target=case.target[rows, names]))
    same(reports, evaluated(renamed))


def test_permuting_the_actions_of_one_factor(products):
    """Agent 1 of a product team names its three actions as it likes."""
    cases, reports = products
    names = np.array([2, 0, 1])
    joint = np.arange(math.prod(FACTORS)).reshape(FACTORS)[:, names].ravel()
    renamed = []
    for case in cases:
        world = case.world | {"P": case.world["P"][:, joint], "r": case.world["r"][:, joint]}
        current, target = case.current.copy(), case.target.copy()
        current[1], target[1] = current[1][:, names], target[1][:, names]
        renamed.append(case._replace(world=world, current=current, target=target))
    same(reports, evaluated(renamed))


def test_permuting_states(turns):
    """States in another order: per-state fields follow, the rest stays."""
    rng, (cases, reports) = np.random.default_rng(4), turns
    places = [rng.permutation(STATES) for _ in cases]
    moved = []
    for case, place in zip(cases, places, strict=True):
        world = case.world | {
            "P": case.world["P"][place][:, :, place],
            "r": case.world["r"][place],
            "rho": case.world["rho"][place],
        }
        moved.append(Case(world, case.current[place], case.target[place], case.order, case.active[place]))
    same(reports, evaluated(moved), **dict.fromkeys(PER_STATE, lambda x, k: x[:, places[k]]))


REWARD = {"surrogate_intermediate", "surrogate_stale", "surrogate_cached", "surrogate_reused", "gap_fresh", "gap_stale",
          "gap_cached", "gap_reused", "seq_minus_stale", "conditional", "improvement"}  # fmt: skip
SIZES = {"span_g", "advantage_max", "advantage_span", "reward_span", "return_range", "delta_stale", "layer_span",
         "layer_return_deviation", "layer_advantage_span", "weighted_floor", "weighted_ceiling", "weighted_reused"}  # fmt: skip


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (1.0, 5.0), (-0.5, 2.0), (0.0, 1.0)])
@pytest.mark.parametrize("form", ["discounted", "episodic"])
def test_units_of_reward(form, scale, shift):
    """`r → c·r + b`: surrogates and gaps scale by c, sizes by |c|, values move by `b` times the time left, nothing else."""
    rng = np.random.default_rng(5)
    cases = [random_case(rng, form, "turn-taking", gamma=0.9) for _ in range(COUNT)]
    after = evaluated([case._replace(world=case.world | {"r": scale * case.world["r"] + shift}) for case in cases])
    time_left = 10.0 if form == "discounted" else cases[0].world["T"] - cases[0].world["clock"]
    changes = dict.fromkeys(REWARD, lambda x, _: scale * x) | dict.fromkeys(SIZES, lambda x, _: abs(scale) * x)
    changes["values"] = lambda x, _: scale * x + shift * time_left
    changes["objective"] = lambda x, _: scale * x + shift * np.max(time_left)
    before = evaluated(cases)
    changes["return_floor"] = lambda x, _: scale * x + shift * np.max(time_left)
    if scale < 0:  # the floor of the return becomes its ceiling
        changes["weighted_floor"] = lambda _, k: abs(scale) * before[k].weighted_ceiling
        changes["weighted_ceiling"] = lambda _, k: abs(scale) * before[k].weighted_floor
        for name in ("weighted_reused", "return_floor"):  # whose other side is not reported
            changes[name] = lambda _, k, name=name: getattr(after[k], name)
    same(before, after, **changes)


def test_potential_shaping(turns):
    """`r → r + γE[φ(s')] − φ(s)` moves V by −φ and no advantage: all surrogates, gaps and divergences stay."""
    rng, (cases, reports) = np.random.default_rng(6), turns
    potentials = [rng.normal(size=STATES) for _ in cases]
    shaped = []
    for case, potential in zip(cases, potentials, strict=True):
        world = case.world
        bonus = world["gamma"] * world["P"] @ potential - potential[:, None]
        shaped.append(case._replace(world=world | {"r": world["r"] + bonus}))
    after = evaluated(shaped)
    assert all(
        x.reward_span != y.reward_span for x, y in zip(reports, after, strict=True)
    )  # what is only declared does move
    same(
        reports,
        after,
        values=lambda x, k: x - potentials[k],
        objective=lambda x, k: x - cases[k].world["rho"] @ potentials[k],
        reward_span=lambda _, k: after[k].reward_span,
        return_range=lambda _, k: after[k].return_range,
        **{
            name: lambda _, k, name=name: getattr(after[k], name)
            for name in ("return_floor", "weighted_floor", "weighted_ceiling", "weighted_reused")
        },
    )


def test_what_must_not_be_invariant(turns):
    """The checks above can fail: the order matters, and so does which agent a state belongs to."""
    cases, reports = turns
    reversed_order = evaluated([case._replace(order=case.order[::-1]) for case in cases])
    moved = [not np.allclose(x.gap_stale, y.gap_stale[::-1]) for x, y in zip(reports, reversed_order, strict=True)]
    assert sum(moved) > COUNT / 2
