"""The exact oracle: every claim decided without rounding, and the float core held against it."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import Case, as_stage, discounted_world, rows
from flint import arb, arb_mat, ctx, fmpq, fmpq_mat

from teamtr_jax import exact
from teamtr_jax.bounds import DEFAULT, ladder
from teamtr_jax.claims import STAGE_CLAIMS
from teamtr_jax.dynamics import Dense, Layered, after
from teamtr_jax.exact import checks, verdict
from teamtr_jax.exact.numbers import precisely, rational, root, smaller, times, total
from teamtr_jax.exact.stage import _rows
from teamtr_jax.surrogates import stage_report
from teamtr_jax.teams import relay_stage
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import InputError
from theory import exact_audit, families
from theory.constructions import chain, counts, doors, forks, parity

KEYS = {
    "T0": ("update", "stage"), "T1": ("",), "T2": ("",), "P3.1": ("TV",), "P3.3": ("",), "P3.4": ("",), "P3.6": ("",),
    "P3.7": ("update", "stage", "update, δ⁰"), "P3.8": ("",), "P3.9": ("",), "S0": ("fresh", "stale"),
    "S1": ("fresh", "stale", "shift"), "S2": ("shift", "gap"), "S3": ("gap", "shift"), "S4": ("S4", "S4R", "S4 stale"),
    "S5": ("surrogate", "P3.4", "S2"), "S6": ("fresh", "stale"), "S7": ("",), "S7b": ("fresh", "stale", "stale, ϱ"),
    "S7c": ("cached", "reused", "stage, cached", "stage, reused"), "S9": ("floor", "ceiling", "update", "stage"),
    "S11": ("cube", "order", "KL", "TV", "product"), "S12": ("", "floor", "ceiling"), "E1": ("",),
    "S10": ("fresh", "cached", "reused", "stage, cached", "stage, reused"),
}  # fmt: skip
RATIONAL = {"T0", "T1", "P3.1", "S0", "S4"}


def every_key():
    return {(claim, name) for claim, names in KEYS.items() for name in names}


# --- verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [180, pytest.param(1_080, marks=pytest.mark.slow)])
def test_random_stages_are_decided(stages):
    """Both protocols, both forms, early ends, dropped and opened actions: no violation, nothing left open."""
    found = exact_audit.run(stages, np.random.default_rng(0))
    assert set(found) == every_key()
    for key, evidence in found.items():
        assert (evidence.violated, evidence.undecided) == (0, 0), (key, evidence)
        assert evidence.instances >= stages // 3, key
        rational = key[0] in RATIONAL or key == ("S11", "product")
        assert evidence.kind == ("exact" if rational else "enclosed"), key
        assert evidence.checks > stages // 4
    assert max(evidence.instances for evidence in found.values()) == stages
    nothing = {key for key, evidence in found.items() if evidence.tightest < 0.01}
    assert nothing == {
        ("T0", "update"),
        ("T0", "stage"),
        ("S5", "P3.4"),
        ("S5", "S2"),
        ("S11", "product"),
    }  # identities, and bounds of zero


def discounted(moves, active, agents, reward, current, target, discount):
    """A stage of two actions; `moves[s]`: the states that they lead to. Starts in state 0."""
    states = len(moves)
    transition = np.zeros((states, 2, states))
    np.put_along_axis(transition, np.array(moves)[..., None], 1.0, -1)
    probability = [np.stack([1 - np.array(x), x], -1) for x in (current, target)]
    dynamics = Dense(jnp.asarray(transition), jnp.asarray(discount))
    team = Team(dynamics, jnp.asarray(np.array(reward, float)), jnp.eye(states)[0], jnp.asarray(active), agents)
    return Stage(team, jnp.asarray(probability[0]), jnp.asarray(probability[1]), jnp.arange(agents))


def weaker_is_false():
    """Stages on which statements a little stronger than ours fail."""
    half, e = 0.5, 2.0**-7
    # S3 with the fresh δ: both agents turn left, and the second is asked less often after the first has. The third is idle.
    yield discounted([[1, 2], [3, 2], [2, 2], [3, 3]], [0, 1, -1, -1], 3, np.zeros((4, 2)), [0.25, 1 / 3, 0, 0],
                     [0.25 + e, 1 / 3 + 16 / 9 * e, 0, 0], 1 - 2.0**-16)  # fmt: skip
    # S4R with the turns that were there before the update: the new policy stays where it speaks.
    yield discounted([[2, 1], [2, 1], [2, 2]], [0, 0, -1], 1, [[0, 0], [0, 1], [0, 0]], [0.0, 0, 0], [e, 1, 0], 0.75)
    # S7b, stale, without the agent's own δ at the time it speaks: a small step and then a large one, γ small.
    yield discounted([[2, 1], [2, 2], [2, 2]], [0, 0, -1], 1, [[0, 0], [0, 1], [0, 0]], [half, half, 0],
                     [half + 0.125, 0.875, 0], 2.0**-6)  # fmt: skip
    # S0 without the end of the episode as a state: the update makes the episode longer, and g is the same in both layers.
    go_on = np.zeros((1, 2, 1))
    go_on[0, 1] = 1.0
    old, new = (jnp.tile(jnp.array(row), (2, 1)) for row in ([1.0, 0.0], [0.75, 0.25]))
    world, reward = Layered(Dense(jnp.asarray(go_on), None), 2), jnp.tile(jnp.array([0.0, 1.0]), (2, 1))
    yield Stage(Team(world, reward, jnp.eye(2)[0], jnp.zeros(2, int), 1), old, new, jnp.arange(1))


def constructions(agents):
    for n in agents:
        yield relay_stage(n, 2.0**-10, 2.0**-10, n)
        for step in (2.0**-3, 2.0**-10):
            yield chain.chain_stage(n, 0.5, step)
            yield chain.chain_stage(n, 0.5, step, reverse=True)
            yield counts.running_count_stage(n, step)
            yield counts.product_count_stage(n, step, 0.75)
            for router in ("same", "last", "uniform"):
                yield doors.doors_stage(n, step, 0.75, router)
            yield doors.product_doors_stage(n, step, 0.75)
            yield doors.relay_doors_stage(n, step, 3)
            yield doors.rooms_stage(n, step, 0.75)
            yield forks.forks_stage([1 / n] * n, [step] * n, 0.75)
            for branches in (1, 2):
                yield parity.parity_stage(n, step, 0.5, branches)
                yield parity.parity_relay_stage(n, step, 3, branches)
    for discount in (None, 0.75):
        for gain in (True, False):
            yield doors.sampled_doors_stage(2.0**-10, discount, gain)
    yield from weaker_is_false()
    for corner in (families.sharp_discounted, families.sharp_episodic):
        yield from exact_audit.unstack(corner(np.random.default_rng(0), 30), 30)


@pytest.mark.parametrize("name", ["turn-taking", "episodic, early ends"])
def test_what_the_exact_audit_draws(name):
    """Steps from a new row to a part in 2²⁴, every discount, sparse rewards, chance nodes; early ends where a world has them."""
    world = next(world for world in exact_audit.WORLDS if world.name == name)
    stages = exact_audit.draw(world, np.random.default_rng(0), 400)
    team, old, new = stages.team, np.asarray(stages.current), np.asarray(stages.target)
    assert (((old > 0) & (new == 0)).any(-1).mean(), ((old == 0) & (new > 0)).any(-1).mean()) > (0.02, 0.02)
    step = abs(new - old).reshape(400, -1).max(-1)
    assert [(step <= x).mean() for x in (2.0**-24, 2.0**-16, 2.0**-8, 0.25, 0.5)] == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6], abs=0.1
    )
    reward = np.asarray(team.reward).reshape(400, -1)
    assert ((reward == 0) | (reward == 1)).all(-1).mean() == pytest.approx(0.3, abs=0.08)
    assert (reward.min(), reward.max()) == (-1, 1)
    assert set(np.asarray(team.active).ravel().tolist()) == {*range(-1, world.agents)}
    kernel = team.dynamics.kernel.transition if world.horizon else team.dynamics.transition
    ended = (np.asarray(kernel).sum(-1) == 0).mean()
    assert ended == pytest.approx(0.2 if world.early else 0, abs=0.02)
    if not world.horizon:
        assert set(np.asarray(team.dynamics.discount).tolist()) == {0, 1 / 4, 1 / 2, 5 / 8, 3 / 4, 15 / 16, 127 / 128}


def test_the_worlds_are_decided_in_turn(monkeypatch):
    """As many stages as were asked for, whatever the chunks; one decided by a ball makes the claim an enclosed one."""
    seen, said = [], []
    monkeypatch.setattr(exact_audit, "draw", lambda world, rng, batch: seen.append((world, batch)) or (world, batch))
    monkeypatch.setattr(exact_audit, "unstack", lambda stages, batch: [stages[0]] * batch)
    one = fmpq(1)
    sides = {"a": [(one, one), (one / 2, one)], "b": [(arb(1), arb(4)), (2 * one, one), *[(arb(1), arb(1, 0.5))] * 2]}
    monkeypatch.setattr(exact_audit, "exact_checks", lambda world: {("X", ""): sides[world]})
    found = exact_audit.run(150, None, said.append, ("a", "b"))["X", ""]
    assert seen == [("a", 60), ("b", 60), ("a", 30)]
    assert said == [60, 60, 30]
    assert found == (150, 60, 120, 2.0, 60, 90 * 2 + 60 * 4)
    assert (found.kind, exact_audit.Evidence().kind) == ("enclosed", "exact")
    seen.clear()
    exact_audit.run(5, None, worlds=("a", "b", "a"))
    assert [batch for _, batch in seen] == [2, 2, 1]


def test_corners_reach_what_is_said_of_them():
    """A branch opened by ε: S7's ratio `γε/−log(1−ε)`, episodic without the γ; a parting: S0's goes to γ as ε goes to 1."""
    stages = families.sharp_discounted(np.random.default_rng(0), 120)
    far = 0
    for b, one in enumerate(exact_audit.unstack(stages, 120)):
        step, gamma = float(one.target[0, 1] - one.current[0, 1]), float(one.team.dynamics.discount)
        if b % 3 == 1:
            (gap, bound), *_ = exact.exact_pairs(one, "penalty_log_sum")
            assert number(gap / bound) == pytest.approx(gamma * step / -np.log1p(-step), rel=1e-6)
        if b % 3 == 2 and step > 1 - 1e-3:
            (gap, bound), *_ = exact.exact_pairs(one, "penalty_trivial")
            assert number(gap / bound) == pytest.approx(gamma, rel=0.01)
            far += 1
    assert far > 5
    for one in exact_audit.unstack(families.sharp_episodic(np.random.default_rng(0), 10), 10):
        (gap, bound), *_ = exact.exact_pairs(one, "penalty_log_sum")
        step = float(one.target[0, 1] - one.current[0, 1])
        assert number(gap / bound) == pytest.approx(step / -np.log1p(-step), rel=1e-6)


ATTAINED = {
    ("T1", ""): 1, ("T2", ""): 0.999, ("P3.1", "TV"): 1, ("P3.9", ""): 0.999, ("S0", "fresh"): 0.78, ("S1", "shift"): 0.999,
    ("S2", "shift"): 0.999, ("S2", "gap"): 0.95, ("S3", "gap"): 0.999, ("S3", "shift"): 0.999, ("S4", "S4"): 1,
    ("S4", "S4R"): 1, ("S4", "S4 stale"): 1, ("S5", "surrogate"): 0.999, ("S6", "fresh"): 1, ("S7", ""): 0.999,
    ("S7b", "fresh"): 0.999, ("S7b", "stale"): 0.999, ("S7c", "cached"): 0.999, ("S7c", "stage, cached"): 0.999,
    ("S7c", "reused"): 0.999, ("S7c", "stage, reused"): 0.999, ("S9", "ceiling"): 0.999, ("S9", "update"): 0.999,
    ("S12", ""): 0.999, ("S12", "floor"): 0.999, ("S12", "ceiling"): 0.999, ("E1", ""): 1,
    ("S10", "stage, cached"): 0.9, ("S10", "stage, reused"): 0.9,
}  # fmt: skip
"""Least ratio measured/bound that some construction reaches: a bound that is smaller by as much more would be violated."""


@pytest.mark.parametrize("agents", [(2, 3), pytest.param((2, 3, 4), marks=pytest.mark.slow)], ids=len)
def test_constructions_are_decided_and_reach_the_bounds(agents):
    found = {}
    for stage in constructions(agents):
        for key, evidence in exact_audit.judge_exactly(exact.exact_checks(stage)).items():
            assert (evidence.violated, evidence.undecided) == (0, 0), (key, evidence)
            found[key] = max(found.get(key, 0.0), evidence.tightest)
    for key, ratio in ATTAINED.items():
        assert found[key] >= ratio, (key, found[key])


def test_verdict():
    ball = arb(1, 0.5)
    assert verdict(fmpq(1), fmpq(1)) == "exact"
    assert verdict(fmpq(1), None) == "exact"
    assert verdict(fmpq(1), ball + 1) == "enclosed"
    assert verdict(fmpq(1), ball) == "open"
    assert verdict(fmpq(2), ball) == "violated"
    assert verdict(arb("-inf"), fmpq(0)) == "enclosed"


def test_only_what_is_open_is_decided():
    """Place by place, in the order asked; what has no exact form stays open, and so does a team of more than 24 states."""
    stage = next(exact_audit.unstack(families.sharp_episodic(np.random.default_rng(1), 1), 1))
    found = [verdict(*pair) for pair in exact.exact_checks(stage, only="S7")["S7", ""]]
    assert exact.decide(stage, "S7", "", [1, 0]) == [found[1], found[0]]
    assert exact.decide(stage, "S7", "", []) == []
    assert exact.decide(stage, "P3.1", "KL", [0, 1]) == ["open", "open"]
    assert exact.decide(stage, "nobody's claim", "", [0]) == ["open"]
    large = relay_stage(2, 0.25, 0.25, 25)
    assert large.team.reward.shape[0] > exact.EXACT_STATES
    assert exact.decide(large, "T1", "", [0]) == ["open"]


def test_too_much_work_stays_open(monkeypatch):
    """18 states, two actions, three agents: 108 of `EXACT_WORK`."""
    stage = relay_stage(3, 0.2, 0.1, slots=3)
    monkeypatch.setattr(exact.checks, "EXACT_WORK", 108)
    assert exact.decide(stage, "S7", "", [0]) == ["enclosed"]
    monkeypatch.setattr(exact.checks, "EXACT_STATES", 18)
    assert exact.decide(stage, "S7", "", [0]) == ["enclosed"]
    monkeypatch.setattr(exact.checks, "EXACT_WORK", 107)
    assert exact.decide(stage, "S7", "", [0]) == ["open"]


def test_many_actions_cost_a_product_of_matrices():
    """`Σ_t P(t|s,a) v(t)` for every action: what sums of fractions, one at a time, give; seven times as fast for 200 actions."""
    rng = np.random.default_rng(3)
    case = Case(
        discounted_world(rng, 5, 4, 0.9), rows(rng, 5, 4), rows(rng, 5, 4), np.arange(2), np.array([0, 1, 0, 1, 0])
    )
    world = exact.exact_stage(as_stage(case))
    solved = exact.Solved(world)
    for i in (0, 1):
        v = solved.v(i)
        for s in range(5):
            expected = [
                r + world.gamma * sum((p * v[t] for t, p in enumerate(row)), start=0 * v[0]) - v[s]
                for r, row in zip(world.reward[s], world.transition[s], strict=True)
            ]
            assert solved.advantage(i, s) == expected


def test_a_row_is_closed_at_its_largest_entry():
    """What a float row lacks to one is put where it is least in proportion: nothing is opened, nothing below zero."""
    tenth, third = rational(0.1), rational(0.3)
    table = np.array([[0.1, 0.6, 0.3, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert _rows(table, True) == [[tenth, 1 - tenth - third, third, 0], [0, 0, 0, 0]]
    assert _rows(table, False) == [[tenth, rational(0.6), third, 0], [0, 0, 0, 0]]
    assert sum(_rows(table, False)[0]) != 1


def test_balls_have_256_bits_inside():
    """And what others compute with python-flint is left as it was."""
    before = ctx.prec
    with precisely():
        assert ctx.prec == 256
        assert root(fmpq(2)).rel_accuracy_bits() >= 250
    assert ctx.prec == before != 256


def test_infinity_and_zero():
    """`0·∞ = 0`; a rational minimum stays rational."""
    assert times(fmpq(0), None) == 0
    assert times(fmpq(2), None) is None
    assert total([fmpq(1), None]) is None
    assert smaller(None, fmpq(1), arb(2)) == 1
    assert isinstance(smaller(arb(2).sqrt(), fmpq(1)), fmpq)
    assert smaller(None, None) is None


def test_one_claim_costs_no_more_than_it_needs():
    """T1, S4 and E1 take no logarithm on the corner; a stage is read once for several claims; an unknown claim has no checks."""
    stage = next(exact_audit.unstack(families.sharp_episodic(np.random.default_rng(1), 1), 1))
    checks._solved.cache_clear()
    for claim in ("T1", "S4", "E1"):
        pairs = exact.exact_checks(stage, only=claim)
        assert {key[0] for key in pairs} == {claim}
        assert {verdict(*pair) for row in pairs.values() for pair in row} == {"exact"}
    assert checks._solved.cache_info().misses == 1
    assert exact.exact_checks(stage, only="nobody's claim") == {}
    x = exact.Solved(exact.exact_stage(stage))
    for claim in ("T1", "S4", "E1"):
        exact.CHECKS[claim](x)
    assert "kl_terms" not in vars(x)
    assert "advantage_max" not in vars(x)


def test_a_stage_with_other_numbers_is_another_stage():
    """The cache looks at contents."""
    stage = next(exact_audit.unstack(families.sharp_episodic(np.random.default_rng(1), 1), 1))
    before = exact.exact_checks(stage, only="T1")
    idle = Stage(stage.team, stage.current, stage.current, stage.order)
    assert exact.exact_checks(idle, only="T1") != before


def test_rows_that_were_closed_are_another_stage():
    """The floats .1 and .9 add up to a little more than one: closed, T0 is an identity, as they are it is not."""
    stage = relay_stage(2, 0.1, 0.1, 2)
    for close, apart in ((True, False), (False, True), (True, False)):
        pairs = exact.exact_checks(stage, close, only="T0")["T0", "update"]
        assert any(measured != 0 for measured, _ in pairs) == apart


# --- float core --------------------------------------------------------------------------------------------------------

BATCH = 20
SOURCES = {f.name: f.make for f in families.FAMILIES if f.name != "large"} | {
    world.name: lambda rng, batch, world=world: exact_audit.draw(world, rng, batch)
    for world in exact_audit.WORLDS
    if world.early or world.name == "turn-taking"
}


@jax.jit
@jax.vmap
def checks_and_rungs(stage):
    """The sides of every check by claim and name; every penalty; each rung's gap and its budget."""
    report = stage_report(stage)
    gaps = {rung.name: (getattr(report, f"gap_{rung.gap}"), getattr(report.rounding, rung.gap)) for rung in DEFAULT}
    form = "episodic" if report.episodic else "discounted"
    claims = [claim for claim in STAGE_CLAIMS if form in claim.forms]
    found = {claim.id + "|" + name: check for claim in claims for name, check in claim.check(stage, report).items()}
    return found, ladder(report), gaps


def number(x):
    return np.inf if x is None else float(x.mid()) if isinstance(x, arb) else float(x)


def close(x, y, tolerance=1e-9):
    return x == y or abs(x - y) <= tolerance * abs(y)


@pytest.mark.parametrize(
    "source",
    [  # `make quick` decides stages of networks without rounding
        pytest.param(x, marks=pytest.mark.slow) if x in ("networks", "middle") else x for x in SOURCES
    ],
)
def test_float_core_against_exact_arithmetic(source):
    """Every measured side within its own rounding budget of the exact number, every bound to 1e-9 relative.

    Families of one shape share a program, tied ones too: a report does not look at labels (`middle` is `small`, larger).
    """
    batch = BATCH
    stages = SOURCES[source](np.random.default_rng(7), batch)
    stages = replace(stages, team=replace(stages.team, observation=None))
    found = {tuple(key.split("|")): check for key, check in jax.device_get(checks_and_rungs(stages)[0]).items()}
    compared = Counter()
    for b, one in enumerate(exact_audit.unstack(stages, batch)):
        exactly = exact.exact_checks(one, close=False)
        assert set(found) - set(exactly) == {("P3.1", "KL")}
        assert not set(exactly) - set(found)
        for key, pairs in exactly.items():
            if key == ("P3.1", "TV"):
                continue  # both sides are the same sum of floats; its budget is zero on purpose
            sides = [side[b] for side in found[key][:3]]
            floats = list(zip(*(side.ravel() for side in np.broadcast_arrays(*sides)), strict=True))
            assert len(floats) == len(pairs), key
            for (measured, bound, budget), (left, right) in zip(floats, pairs, strict=True):
                left, right = number(left), number(right)
                where = (b, key, measured, left, bound, right, budget)
                if key[0] == "P3.9":  # a KL, like most bounds; its budget is that of the comparison with another KL
                    off = 2**-50 * min(left, 1.0) ** 0.5  # Σ p·(expm1(d)−d): d = log q − log p is off by a few 2⁻⁵³
                    assert close(measured, left) or abs(measured - left) <= off, where
                elif key in {("S5", "P3.4"), ("S5", "S2")}:  # the budget of a certificate is that of one near zero
                    assert close(measured, left) or abs(measured - left) <= budget, where
                else:
                    assert measured == left or abs(measured - left) <= budget, where
                # distances of S11 are sums over rows that lack 2⁻⁵³, whatever their size
                assert close(bound, right) or (key[0] == "S11" and abs(bound - right) <= budget), where
                compared[key] += 1
    assert compared.total() > 500
    assert len(compared) > 30


def test_every_rung_is_there_once_more():
    """`RUNGS` has the names of `DEFAULT`, each on the same gap."""
    floats, exactly = {rung.name: rung.gap for rung in DEFAULT}, {name: gap for name, (gap, _) in exact.RUNGS.items()}
    missing = {name: gap for name, gap in floats.items() if exactly.get(name) != gap}
    assert not missing, f"teamtr_jax/exact/rungs.py: RUNGS lacks, or has on another gap: {missing}"
    assert exactly.keys() == floats.keys(), f"nobody's rungs: {exactly.keys() - floats.keys()}"


def test_what_is_not_known_is_refused():
    with pytest.raises(InputError, match=r"^rung: found 'penalty_of_nobody', expected penalty_trivial or .*"):
        exact.exact_pairs(relay_stage(2, 0.25, 0.25, 2), "penalty_of_nobody")
    with pytest.raises(InputError, match="dynamics: found str, expected a Dense, Successors, Layered or Tree world"):
        exact.stage._tables("a world")
    with pytest.raises(InputError, match="dynamics: found SimpleNamespace, expected a Dense"):
        exact.stage._transition(SimpleNamespace(horizon=None), 2, True)  # a world of one's own, without our fields


RUNG_WORLDS = (exact_audit.WORLDS[0], exact_audit.World("product", 4, (2, 3, 2), 3), exact_audit.WORLDS[4])
"""The shapes of `small`, `product` and `episodic`."""


@pytest.mark.parametrize("world", RUNG_WORLDS, ids=lambda world: world.name)
def test_every_rung_against_the_float_ladder(world):
    """Name by name, the penalty to 1e-9 relative and the gap within its rounding."""
    batch = 12
    stages = exact_audit.draw(world, np.random.default_rng(5), BATCH)
    _, penalties, gaps = jax.device_get(checks_and_rungs(stages))
    form = "episodic" if world.horizon else "discounted"
    assert set(penalties) == {rung.name for rung in DEFAULT if form in rung.forms}
    for b, one in enumerate(exact_audit.unstack(stages, batch)):
        for name, penalty in penalties.items():
            gap, budget = (side[b] for side in gaps[name])
            found = exact.exact_pairs(one, name)
            assert len(found) == world.agents
            for i, (left, right) in enumerate(found):
                where = (b, name, i, penalty[b, i], number(right))
                assert abs(abs(gap[i]) - number(left)) <= budget[i], where
                assert close(penalty[b, i], number(right)), where
    assert [exact.exact_pairs(one, "penalty_layers")[0][1] is None] == [not world.horizon]


@jax.jit
@jax.vmap
def solved(transition, discount, policy, b, c):
    resolvent = Dense(transition, discount).resolvent(policy)
    x = resolvent.values(b)
    return x, resolvent.visits(after(c, x))


@pytest.mark.parametrize(("least", "size"), [(2, 2), (3, 4), (5, 8)])
def test_random_linear_systems(least, size):
    """`(I−γP_π)x = b` and its transpose: rational, ball and float64 solutions of 335 systems, three sizes of arrays.

    As FLINT tests arb: the ball solution contains the exact one. The float solution lies within its stated relative error.
    """
    rng, batch, actions = np.random.default_rng(size), 335, 2
    sizes = rng.integers(least, size + 1, batch)
    transition = np.zeros((batch, size, actions, size))
    transition[:, np.arange(size), :, np.arange(size)] = 1.0  # states beyond the system are absorbing and apart
    for system, k in zip(transition, sizes, strict=True):
        system[:k, :, :k] = exact_audit.random_rows(rng, k, actions, k, zeros=0.4, bits=20)
    policy = exact_audit.random_rows(rng, batch, size, actions, zeros=0.2, bits=20)
    discount = 1 - 2.0 ** -rng.integers(0, 11, batch)
    inside = np.arange(size) < sizes[:, None]
    b, c = np.where(inside, rng.integers(-(2**20), 2**20, (2, batch, size)) / 2**10, 0.0)
    floats = [np.asarray(x) for x in solved(*map(jnp.asarray, (transition, discount, policy, b, c)))]
    unit = np.finfo(float).eps / 2
    worst = 0.0
    for j, k in enumerate(sizes.tolist()):
        gamma = exact.rational(discount[j])
        rows = [[sum((exact.rational(p) * exact.rational(x) for p, x in zip(policy[j, s], column, strict=True)), fmpq(0))
                 for column in transition[j, s, :, :k].T] for s in range(k)]  # fmt: skip
        matrix = fmpq_mat([[int(s == t) - gamma * rows[s][t] for t in range(k)] for s in range(k)])
        eta = (8 * (size + actions + 1) + actions) * unit / (1 - discount[j])
        for system, right, found, norm in (
            (matrix, b, floats[0], np.inf), (matrix.transpose(), c, floats[1], 1),
        ):  # fmt: skip
            vector = fmpq_mat(k, 1, [exact.rational(x) for x in right[j, :k]])
            x = system.solve(vector).entries()
            with ctx.workprec(128):
                balls = arb_mat(system).solve(arb_mat(vector)).entries()
            with ctx.workprec(4096):  # a rational enters as a ball, much smaller than those
                assert all(ball.contains(arb(y)) for ball, y in zip(balls, x, strict=True))
            assert all(ball.rad() < 1e-20 for ball in balls)
            error = [float(exact.rational(y) - z) for y, z in zip(found[j, :k], x, strict=True)]
            scale = np.linalg.norm([float(y) for y in x], norm)
            assert np.linalg.norm(error, norm) <= eta * scale
            assert not found[j, k:].any()
            worst = max(worst, np.linalg.norm(error, norm) / (unit * scale) if scale else 0.0)
    assert worst > 0.1  # the floats were rounded: the comparison is not of a number with itself
