"""Stages against the oracle that writes down every trajectory, T0 for every order, gaps without cancellation, the edges."""

import itertools

import builders
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from builders import FIELDS, Case, as_stage, discounted_world, evaluated, random_case, turn_taking

from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.validation import InputError
from teamtr_jax.values import action_values, advantages, objective, optimal_values, return_range, values
from teamtr_jax.visits import hybrids, joint_policy, occupancy, solo_steps, visits

FORMS, PROTOCOLS = ("discounted", "episodic"), ("turn-taking", "product")
FAMILIES = list(itertools.product(FORMS, PROTOCOLS))


@pytest.fixture(scope="module", params=FAMILIES, ids="-".join)
def checked(request):
    """Random cases of one form and protocol, their reports, and what the oracle says of them."""
    form, protocol = request.param
    rng = np.random.default_rng([FORMS.index(form), PROTOCOLS.index(protocol)])
    cases = [random_case(rng, form, protocol, zeros=0.3 * (k % 2)) for k in range(8)]
    return cases, evaluated(cases), [oracle.stage(*case.oracle()) for case in cases]


def test_every_field_against_trajectories(checked):
    """Every field of the report as theory/derivations/notation.md has it, from trajectories (episodic) or inverses (discounted).

    Tolerance: the oracle's inverse has condition ≤ 2/(1−γ) and it subtracts objectives of size ≤ max|V|, so a field of
    units reward·steps² is known to about S·u/(1−γ)² · max(1, max|V|): `1e-13/(1−γ)²` of that scale.
    """
    seen = set()
    for case, report, truth in zip(*checked, strict=True):
        scale = max(1.0, *(abs(v).max() for v in truth["values"])) / (1 - case.world.get("gamma", 0.0)) ** 2
        for name, expected in truth.items():
            ours = getattr(report, name)
            np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-13 * scale, err_msg=name)
            seen.add(name)
    layers = {name for name in FIELDS if name.startswith("layer_")}
    assert set(FIELDS) - seen == {"rounding"} | (layers - seen)  # nothing in the report without a truth
    assert all((getattr(report, name) is None) == ("gamma" in case.world) for name in layers)


@pytest.mark.parametrize(("form", "protocol"), [("discounted", "product"), ("episodic", "turn-taking")])
def test_public_functions_against_trajectories(form, protocol):
    """V, Q, A, J, visits, occupancy, hybrids and solo steps one by one."""
    case = random_case(np.random.default_rng(2), form, protocol, zeros=0.3, gamma=0.9)
    stage = as_stage(case)
    chain, solo = oracle.stage_policies(*case.oracle()[1:])
    m, V, Q, J = oracle.solved(case.world, chain[1])

    def public(stage, policy, v):
        team, mass = stage.team, visits(stage.team, policy)
        return {
            "policies": hybrids(stage).policies,
            "steps": hybrids(stage).steps,
            "solo": solo_steps(stage),
            "visits": mass,
            "occupancy": occupancy(mass),
            "values": values(team, policy),
            "action_values": action_values(team, v),
            "advantages": advantages(team, v),
            "objective": objective(team, policy),
            "range": return_range(team),
        }

    truth = {
        "policies": chain,
        "steps": np.diff(chain, axis=0),
        "solo": np.array(solo) - chain[0],
        "visits": m,
        "occupancy": m / m.sum(),
        "values": V,
        "action_values": Q,
        "advantages": Q - V[:, None],
        "objective": J,
        "range": oracle.stage(*case.oracle())["return_range"],
    }
    ours = jax.jit(public)(stage, jnp.asarray(chain[1]), jnp.asarray(V))
    assert ours.keys() == truth.keys()
    for name, expected in truth.items():
        np.testing.assert_allclose(ours[name], expected, rtol=1e-12, atol=1e-13 * max(1, abs(V).max()), err_msg=name)


def test_joint_actions_run_in_c_order():
    """The last agent's action runs fastest; three factors of unequal sizes."""
    rng = np.random.default_rng(0)
    factors = [builders.rows(rng, 2, size) for size in builders.FACTORS]
    ours = np.asarray(joint_policy([jnp.asarray(f) for f in factors]))
    for s in range(2):
        np.testing.assert_allclose(ours[s], oracle.product([f[s] for f in factors]), rtol=1e-15)


@pytest.mark.parametrize("gamma", [0.0, 0.2])
def test_discounted_by_trajectories_to_a_finite_depth(gamma):
    """J and m of a discounted team as sums over all trajectories of 6 steps, within the tail `γ⁶/(1−γ)` they leave out."""
    rng, depth = np.random.default_rng(1), 6
    world = discounted_world(rng, 2, 2, gamma, 0.0)
    case = turn_taking(rng, world, 2)
    stage, policy = as_stage(case), case.target
    tail = gamma**depth / (1 - gamma)
    m, J = oracle.path_visits(world, policy, depth), oracle.path_objective(world, policy, depth)
    ours = np.asarray(visits(stage.team, jnp.asarray(policy)))
    assert (ours >= m - 1e-14).all()  # what is left out is mass
    assert ours.sum() - m.sum() == pytest.approx(tail, abs=1e-13)
    assert abs(float(objective(stage.team, jnp.asarray(policy))) - J) <= tail * abs(world["r"]).max() + 1e-13
    assert oracle.textbook(world, policy)[3] == pytest.approx(J, abs=tail * abs(world["r"]).max() + 1e-13)


@pytest.mark.parametrize("checked", [("episodic", protocol) for protocol in PROTOCOLS], indirect=True, ids="-".join)
def test_episodic_kl_is_that_of_the_whole_trajectory(checked):
    """`δ_i^ep = KL(P_{π̂ⁱ⁻¹} ‖ P_{π̂ⁱ})`, the divergence between the laws of the whole trajectory (P3.1, chain rule)."""
    cases, reports, _ = checked
    for case, report in zip(cases[:4], reports, strict=False):
        chain, _ = oracle.stage_policies(*case.oracle()[1:])
        for i in range(case.agents):
            assert report.kl[i] == pytest.approx(
                oracle.path_log_ratio_sum(case.world, chain[i], chain[i + 1]), abs=1e-13
            )


# ------------------------------------------------------------------------------------------------------------ T0


@pytest.mark.parametrize(
    ("n", "agents", "form"),
    [
        (1, 4, "discounted"),
        (2, 4, "discounted"),
        (3, 4, "discounted"),
        (4, 4, "discounted"),
        (2, 3, "episodic"),
        (3, 3, "episodic"),
    ],
)
def test_t0_for_every_order(n, agents, form):
    """T0: `Σ_i Σ_s m^{π̂ⁱ} g_i = J(π̂ⁿ) − J(π̂⁰)` for all n! orders, update by update and telescoped.

    One batch of up to 24 = 4! stages; for smaller n the agents left over own nothing, and come last or first.
    """
    rng = np.random.default_rng([n, len(form)])
    case = random_case(rng, form, "turn-taking", gamma=0.9)
    S = len(case.world["rho"])
    owners = np.concatenate([np.arange(n), rng.integers(n, size=S)])[:S]
    idle = list(range(n, agents))
    orders = [[*order, *idle] if k % 2 else [*idle, *order] for k, order in enumerate(itertools.permutations(range(n)))]
    cases = [case._replace(active=owners, order=np.array(order)) for order in orders]
    ends = {
        np.round(oracle.solved(case.world, case.current)[3], 10),
        np.round(oracle.solved(case.world, case.target)[3], 10),
    }
    assert len(ends) == 2
    for case, report in zip(cases, evaluated(cases), strict=True):
        steps = (report.visits[1:] * report.conditional).sum(-1)
        np.testing.assert_allclose(steps, np.diff(report.objective), rtol=0, atol=report.rounding.identity.max())
        np.testing.assert_allclose(steps, report.surrogate_intermediate + report.gap_fresh, rtol=1e-12, atol=1e-13)
        chain, _ = oracle.stage_policies(*case.oracle()[1:])
        truth = [oracle.solved(case.world, policy)[3] for policy in (chain[0], chain[-1])]
        assert report.improvement == pytest.approx(truth[1] - truth[0], abs=1e-12)
        assert report.rounding.identity.max() < 1e-9


# ------------------------------------------------------------------------------------------ rounding and cancellation


@pytest.mark.parametrize(("form", "protocol"), [("discounted", "turn-taking"), ("discounted", "product"),
                                                ("episodic", "turn-taking")])  # fmt: skip
def test_gaps_of_tiny_steps_keep_their_digits(form, protocol):
    """At steps of 1e-7 every gap agrees with rational arithmetic to 1e-6 of its size; `J' − J − L` does not.

    A gap is second order, about 1e-14; the objectives, about 1, are known to 1e-16.
    """
    rng = np.random.default_rng([7, len(form)])
    cases = []
    for _ in range(8):
        case = random_case(rng, form, protocol, gamma=0.9)
        if protocol == "product":  # joint probabilities of 3 factors must be exact: 3 · 17 bits
            current = case.current
            coarse = [builders.rows(rng, 3, size, bits=8) for size in case.factors]
            target = np.zeros_like(current)
            for k, size in enumerate(case.factors):
                current[k, :, :size] = coarse[k]
                target[k, :, :size] = builders.near(rng, coarse[k], 2e-5, bits=17)
            cases.append(case._replace(target=target))
        else:
            cases.append(case._replace(target=builders.near(rng, case.current, 1e-7)))
    lost = 0
    for case, report in zip(cases, evaluated(cases), strict=True):
        exact = oracle.exact_stage(*case.oracle())
        naive = np.diff(report.objective) - report.surrogate_intermediate
        for name in ("gap_fresh", "gap_stale", "gap_cached", "seq_minus_stale"):
            truth = np.array([oracle.to_float(x) for x in exact[name]])
            scale = abs(truth).max()
            np.testing.assert_allclose(getattr(report, name), truth, rtol=1e-6, atol=1e-9 * scale, err_msg=name)
        fresh = np.array([oracle.to_float(x) for x in exact["gap_fresh"]])
        lost += (abs(naive - fresh) > 1e-6 * abs(fresh)).sum()
    assert lost > len(cases)


@pytest.mark.parametrize("size", [0.3, 1e-3, 1e-7])
@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.999])
def test_rounding_budget_covers_the_error(gamma, size):
    """`rounding` bounds |float − rational| of every gap, drift, shift and identity on random small teams (S = 5).

    Half of the teams have tables that sum to one exactly, half are rounded like any user's.
    """
    rng, used = np.random.default_rng([int(1000 * gamma), int(-np.log10(size))]), {}
    cases = []
    for k in range(builders.BATCH):
        case = random_case(rng, "discounted", "turn-taking", zeros=0.3, gamma=gamma)
        case = case if size > 0.1 else case._replace(target=builders.near(rng, case.current, size))
        cases.append(rounded(rng, case) if k % 2 else case)
    _covered(cases, used)
    assert max(used.values()) > 0  # some error there is, or the comparison is of a number with itself


@pytest.mark.parametrize(("form", "protocol"), FAMILIES[1:])
def test_rounding_budget_covers_the_error_of_other_teams(form, protocol):
    """The same for episodes and for product teams."""
    rng, used = np.random.default_rng(3), {}
    cases = [random_case(rng, form, protocol, zeros=0.3, gamma=0.99) for _ in range(12)]
    _covered([rounded(rng, case) if k % 2 else case for k, case in enumerate(cases)], used)
    assert max(used.values()) > 0


def rounded(rng, case):
    """The case with every row of probabilities multiplied and divided by random numbers: no longer exact binary fractions."""

    def shake(table):
        out = table * rng.uniform(0.5, 1.5, table.shape)
        total = out.sum(-1, keepdims=True)
        return np.divide(out, total, where=total > 0, out=np.zeros_like(out))

    world = case.world | {"P": shake(case.world["P"]), "rho": shake(case.world["rho"])}
    current = shake(case.current)
    factor = np.divide(case.target, case.current, where=case.current > 0, out=np.ones_like(case.current))
    target = current * factor
    target = np.divide(target, total := target.sum(-1, keepdims=True), where=total > 0, out=np.zeros_like(target))
    return case._replace(world=world, current=current, target=target)


def _covered(cases, used):
    """Check all budgets, and note in `used` the largest share of each that was needed."""
    for case, report in zip(cases, evaluated(cases), strict=True):
        exact = oracle.exact_stage(*case.oracle())
        for i in range(case.agents):
            errors = {}
            for name in builders.BUDGET:
                error = oracle.rational(getattr(report, name)[i]) - exact[name][i]
                errors[name] = error, report.budget(name)[i]
            shift = [abs(oracle.rational(x) - y) for x, y in zip(report.shift[i], exact["shift"][i], strict=True)]
            errors["shift"] = sum(shift, oracle.rational(0)), report.rounding.shift[i]
            naive = np.diff(report.objective)[i] - report.visits[i + 1] @ report.conditional[i]
            errors["identity"] = oracle.rational(naive), report.rounding.identity[i]
            for name, (error, limit) in errors.items():
                error = abs(oracle.to_float(error))
                assert error <= limit, (name, i, error, limit)
                if limit > 0:
                    used[name] = max(used.get(name, 0.0), error / limit)


# ---------------------------------------------------------------------------------------------------------------- edges


def test_a_dropped_action_is_infinite_where_visited():
    """`KL = ∞` where the target drops an action at a visited state, 0 where nobody comes, and nothing is ever NaN."""
    rng = np.random.default_rng(12)
    world = discounted_world(rng, 5, 3, 0.9)
    world["P"][:3] = builders.rows(rng, 3, 3, 3) @ np.eye(3, 5)  # from 0, 1, 2 nothing leads to 3 and 4
    world["rho"] = np.eye(5)[0]
    current = builders.rows(rng, 5, 3)
    target = current.copy()
    target[[0, 3]] = [0.5, 0.5, 0.0]
    report = evaluated([Case(world, current, target, np.arange(3), np.array([0, 2, 2, 1, 1]))])[0]
    assert report.kl.tolist() == report.kl_stale.tolist() == [np.inf, 0.0, 0.0]
    assert np.isfinite(report.kl_reverse).all()
    assert report.kl_reverse[0] > 0
    assert (report.tv > 0).tolist() == [True, False, False]
    assert report.share[1] == 0
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(vars(report)))


def test_an_episode_with_a_dropped_action():
    """The same per layer: infinite at the time it happens, finite before and after."""
    rng = np.random.default_rng(4)
    case = random_case(rng, "episodic", "turn-taking")
    target = case.current.copy()
    target[2] = target[3] = [0.0, 0.5, 0.5]
    report = evaluated([case._replace(target=target, active=np.zeros(6, int), order=np.arange(3))])[0]
    assert report.layer_kl[0].tolist() == [0.0, np.inf, 0.0]
    assert report.kl[0] == np.inf
    assert (report.kl[1:] == 0).all()
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(vars(report)))


EXACT_ZEROS = ("surrogate_intermediate", "surrogate_stale", "surrogate_cached", "surrogate_reused", "gap_fresh", "gap_stale",
               "gap_cached", "seq_minus_stale", "kl", "kl_stale", "kl_reverse", "tv", "tv_stale", "span_g",
               "occupancy_tv_fresh", "occupancy_tv_stale", "shift", "conditional")  # fmt: skip


@pytest.mark.parametrize(("form", "protocol"), FAMILIES)
def test_a_target_equal_to_the_current_policy_gives_exact_zeros(form, protocol):
    """Nothing moved: not small numbers but zeros."""
    rng = np.random.default_rng(5)
    cases = [random_case(rng, form, protocol, zeros=0.3) for _ in range(6)]
    for report in evaluated([case._replace(target=case.current) for case in cases]):
        for name in EXACT_ZEROS:
            assert (getattr(report, name) == 0).all(), name
        assert report.improvement == report.delta_stale == report.d_occ == 0


def test_agents_that_own_no_state():
    """An agent without states: exact zeros for its update, and the others as if it were not there."""
    rng = np.random.default_rng(6)
    case = random_case(rng, "discounted", "turn-taking", gamma=0.9)
    case = case._replace(active=np.array([0, 2, 2, 0, 2]), order=np.array([1, 2, 0]))
    report = evaluated([case])[0]
    for name in EXACT_ZEROS:
        assert (getattr(report, name)[0] == 0).all(), name
    assert report.share[0] == 0


def test_without_a_future():
    """γ = 0: every visit is a start, nothing shifts, all gaps are exactly zero."""
    rng = np.random.default_rng(7)
    case = random_case(rng, "discounted", "turn-taking", gamma=0.0)
    report = evaluated([case])[0]
    for name in ("gap_fresh", "gap_stale", "gap_cached", "shift", "occupancy_tv_fresh", "occupancy_tv_stale"):
        assert (getattr(report, name) == 0).all(), name
    assert (report.visits == case.world["rho"]).all()
    assert report.improvement == pytest.approx(np.diff(report.objective).sum(), rel=1e-13)


def test_one_agent_and_chance():
    """n = 1: fresh, stale and cached are one number; states of chance (owner −1) never move, whatever the target says."""
    rng = np.random.default_rng(8)
    case = turn_taking(rng, discounted_world(rng, 5, 3, 0.9), 1)
    case = case._replace(active=np.array([0, -1, 0, -1, 0]))
    stage = as_stage(case)
    report = jax.tree.map(np.asarray, evaluate_stage(stage))
    truth = oracle.stage(*case.oracle())
    assert report.gap_fresh == report.gap_stale == report.gap_cached
    assert report.gap_fresh == pytest.approx(truth["gap_fresh"], rel=1e-10)
    policies = np.asarray(hybrids(stage).policies)
    assert (policies[:, [1, 3]] == case.current[[1, 3]]).all()
    assert abs(case.target - case.current)[[1, 3]].max() > 0.1


def test_sixty_four_agents():
    """n = 64, each with one state: all fields against the textbook."""
    rng = np.random.default_rng(9)
    world = discounted_world(rng, 64, 2, 0.95, 0.8)
    case = turn_taking(rng, world, 64)._replace(active=rng.permutation(64), order=rng.permutation(64))
    report, truth = evaluate_stage(as_stage(case)), oracle.stage(*case.oracle())
    for name, expected in truth.items():
        scale = max(1.0, np.abs(np.asarray(expected)).max())
        np.testing.assert_allclose(getattr(report, name), expected, rtol=1e-9, atol=1e-11 * scale, err_msg=name)


# ------------------------------------------------------------------------------------------------------------- optimum


@pytest.mark.parametrize("form", FORMS)
def test_optimal_values_against_all_deterministic_policies(form):
    """`V*` is the state-wise maximum of `V^π` over all deterministic joint policies."""
    rng = np.random.default_rng(10)
    world = discounted_world(rng, 4, 2, 0.9) if form == "discounted" else builders.episodic_world(rng, 2, 2, 2)
    ours = np.asarray(optimal_values(as_stage(turn_taking(rng, world, 2)).team))
    best = np.full(4, -np.inf)
    for choice in itertools.product(range(2), repeat=4):
        best = np.maximum(best, oracle.solved(world, np.eye(2)[list(choice)])[1])
    np.testing.assert_allclose(ours, best, atol=1e-10)


@pytest.mark.parametrize("tolerance", [3.0, 0.5, 0.02])
def test_value_iteration_stops_when_it_says(tolerance):
    """The first sweep whose bound `γ/(1−γ)·‖v_{k+1} − v_k‖_∞` is at most the tolerance, and within it of `V*`."""
    rng = np.random.default_rng(12)
    world = discounted_world(rng, 6, 2, 0.9)
    P, r, gamma = world["P"], world["r"], world["gamma"]
    best = np.zeros(6)
    for _ in range(400):
        best = (r + gamma * P @ best).max(-1)
    v, bounds = np.zeros(6), []
    while not bounds or bounds[-1] > tolerance:
        new = (r + gamma * P @ v).max(-1)
        bounds.append(gamma / (1 - gamma) * abs(new - v).max())
        v = new
    assert len(bounds) > 2
    assert min(bounds[:-1]) > tolerance
    ours = np.asarray(optimal_values(as_stage(turn_taking(rng, world, 2)).team, tolerance))
    np.testing.assert_allclose(ours, v, rtol=1e-13, atol=1e-13)
    assert 1e-4 * tolerance < abs(ours - best).max() <= tolerance


def test_optimal_values_need_a_tolerance():
    """A tolerance that is not positive is refused by name."""
    team = as_stage(random_case(np.random.default_rng(11), "discounted", "turn-taking", gamma=0.9)).team
    with pytest.raises(InputError, match=r"^tolerance: found 0.0, expected a positive number$"):
        optimal_values(team, 0.0)


def test_one_row_for_two_contexts_can_lose():
    """U2, tied rows: exact current advantages on a stale occupancy promise 2ηε, and the update loses 2ηε."""
    lean, step = 0.1, 1e-3
    P = np.zeros((4, 2, 4))
    P[0, 0, 1] = P[0, 1, 2] = P[1, :, 3] = P[2, :, 3] = P[3, :, 3] = 1.0  # 0 → x or y, then the end
    current = np.array([[0.5 + lean, 0.5 - lean], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])
    target = np.array([[0.5 - lean, 0.5 + lean], [0.5 - step, 0.5 + step], [0.5 - step, 0.5 + step], [1.0, 0.0]])
    world = {"P": P, "r": np.array([[0.0, 0], [0, 1], [1, 0], [0, 0]]), "rho": np.array([1.0, 0, 0, 0]), "gamma": 0.5}
    report = evaluated([Case(world, current, target, np.array([0, 1]), np.array([0, 1, 1, 0]))])[0]
    promised = 0.5 * 2 * lean * step  # one discount
    assert report.surrogate_stale[1] == pytest.approx(promised, rel=1e-9)
    assert report.surrogate_intermediate[1] == pytest.approx(-promised, rel=1e-9)
    assert np.diff(report.objective)[1] == pytest.approx(-promised, rel=1e-9)
    assert report.gap_fresh[1] == pytest.approx(0.0, abs=1e-15)
